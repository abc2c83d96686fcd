//! What gives the rules of a hive sockets, threads and time.
//!
//! A *hive* is a folder with a socket and a lock file ([`runtime_dir`]). Whoever holds the lock is its *root*
//! ([`mod@root`]): a thread of a node, or a process of its own. Nodes join through a [`session`]; what they
//! say to the root stands in `hivemind_core::protocol`, and what the root makes of it in
//! `hivemind_core::registry`, which does no input or output. What is introduced are the ends of services:
//! *ports* without a type of the user ([`ports`]).
//!
//! ```text
//!   node                                   root                                    node
//! ┌───────────────────┐            ┌──────────────────────┐            ┌───────────────────┐
//! │ ports ◀────── hub │            │ server ─▶ registry   │            │                   │
//! │ session::Control ─┼─ packets ──┼▶ (epoll)  (pure)     ┼─ packets ──┼▶                  │
//! └───────────────────┘            └──────────────────────┘            └───────────────────┘
//!          ▲ pidfds of peers: the kernel tells deaths, the root is not needed for that
//! ```
//!
//! No message passes through the root: publishers and subscribers exchange descriptors of shared memory once,
//! and are on their own. If the root dies another node takes over, and the nodes tell it what they have.
pub mod accounts;
pub mod clock;
pub mod identity;
pub mod policy_file;
pub mod ports;
pub mod random;
mod remedy;
pub mod root;
pub mod rounded;
pub mod runtime_dir;
pub mod session;
mod socket;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic of another holder does not matter, since all critical sections leave their data whole at
/// each step.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
