//! The control path of hivemind: who is in a hive, and who is introduced to whom.
//!
//! A *hive* is a folder with a socket and a lock file ([`runtime_dir`]). Whoever holds the lock is its *root* ([`mod@root`]):
//! a thread of a node, or a process of its own. Nodes join through a [`session`]; what they say to the root stands in
//! [`protocol`], and what the root makes of it in the [`registry`], which does no input or output. What is introduced are ends
//! of services, by [`name`] and [`filter`], of types that are described by a [`schema`].
//!
//! ```text
//!   node                                   root                                    node
//! ┌───────────────────┐            ┌──────────────────────┐            ┌───────────────────┐
//! │ NodeSide ◀── calls│            │ server ─▶ registry   │            │                   │
//! │ session::Control ─┼─ packets ──┼▶ (epoll)  (pure)     ┼─ packets ──┼▶                  │
//! └───────────────────┘            └──────────────────────┘            └───────────────────┘
//!          ▲ pidfds of peers: the kernel tells deaths, the root is not needed for that
//! ```
//!
//! No message passes through here: publishers and subscribers exchange descriptors of shared memory once, and are on their
//! own. If the root dies another node takes over, and the nodes tell it what they have.
//!
//! Not offered: memory that is shared (see `hivemind_ring`), typed publishers and subscribers (see `hivemind`).
pub mod filter;
pub mod identity;
#[cfg(feature = "links")]
pub mod link;
pub mod name;
pub mod policy;
pub mod protocol;
pub mod random;
pub mod registry;
mod remedy;
pub mod root;
pub mod runtime_dir;
pub mod schema;
pub mod session;
mod socket;
