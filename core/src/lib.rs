//! The rules of hivemind, pure: no input or output, no clock, no thread.
//!
//! What is introduced are ends of services, by [`name`] and [`filter`], of types that are described by a
//! [`schema`]; what two ends agree on is a [`contract`]. What nodes and the root say to each other stands in
//! [`protocol`], and what the root makes of it in the [`registry`]: event in, actions out. A [`policy`] says
//! who may do what, an [`identity`] which process a node lives in. The rules of links to other hosts are in
//! `link` (feature `links`).
//!
//! Time, descriptors and randomness are given from outside; `hivemind_runtime` gives them. Shared memory is
//! `hivemind_ring`'s matter, typed ends are `hivemind`'s.
pub mod contract;
pub mod end;
pub mod filter;
pub mod identity;
#[cfg(feature = "links")]
pub mod link;
pub mod name;
pub mod policy;
pub mod protocol;
pub mod registry;
pub mod schema;
mod text;
