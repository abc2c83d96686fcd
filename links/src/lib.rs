//! Links to other hosts (feature `links`): their services here, and the services of this host there, under
//! the same names.
//!
//! ```no_run
//! use hivemind_links::{LinkOptions, Links, Security};
//! # use hivemind_runtime::ports::{Member, MemberOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let node = Member::join(&MemberOptions::new("link"))?;
//! // Users of the SDK write `hivemind::links`; `node` is their `hivemind::Node`.
//! let options = LinkOptions::new(Security::key("keys/robot.pem")?)
//!     .listen("0.0.0.0:7700".parse()?)
//!     .peer("station:7700".parse()?);
//! let links = Links::start(&node, options)?;
//! # Ok(())
//! # }
//! ```
//!
//! What the subscribers of one host want is read on the other as by any subscriber, sent once, and published
//! here by a publisher that stands for the remote one; a sample says so
//! ([`hivemind_runtime::ports::Origin::host`]). What nobody wants is not sent. Sequence numbers, and so the
//! count of what was lost, hold from end to end. See `docs/decisions/0012-links-between-hosts.md`.
//!
//! | room | what it is for |
//! | --- | --- |
//! | `links`, `options`, `security`, `error` | the face: what a host is told, and what it tells |
//! | `connect`, `greet`, `admission`, `backoff` | connections: accepted, dialled, greeted, refused |
//! | `hosts` | which hosts are linked; one engine for each life of a host |
//! | `wants`, `permits` | what is wanted here, and what the policy lets cross |
//! | `engine` | the two threads of one link |
//! | `exports`, `imports`, `purse` | the ends of a link in this hive, and what one link may take (`local` is the seam) |
//! | `transport`, `keys` | streams of bytes, plain or encrypted |
//! | `leaf` | a node without shared memory |
//!
//! Threads: one accepts connections, one for each peer dials, one follows what subscribers want, and each
//! link has two. If the process dies the other hosts keep what stands for its publishers for
//! [`LinkOptions::hold`], and go on with it when it comes back.

#![deny(missing_debug_implementations)]

mod admission;
mod backoff;
mod connect;
mod engine;
mod error;
mod exports;
mod greet;
mod hosts;
mod imports;
pub mod keys;
#[doc(hidden)]
pub mod leaf;
mod links;
mod local;
mod options;
mod permits;
mod purse;
mod security;
mod stop;
#[doc(hidden)]
pub mod transport;
mod wants;

pub use crate::error::LinksError;
pub use crate::hosts::LinkStatus;
pub use crate::keys::KeyError;
pub use crate::links::Links;
pub use crate::options::LinkOptions;
pub use crate::security::Security;
pub use crate::transport::{Address, AddressError};
pub use hivemind_core::link::greeting::Role;
