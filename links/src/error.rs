//! Why there are no links.

use std::io;

use hivemind_runtime::ports::SubscriberError;

use crate::transport::Address;

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// The name of a host has 1 to 255 visible ASCII characters. Choose another.
    #[error("{name:?} cannot be the name of a host; use 1 to 255 visible ASCII characters")]
    Name {
        /// The name.
        name: String,
    },
    /// It cannot listen there. See what else does, and whether the address is one of this machine.
    #[error(
        "cannot listen on {address}: {error}; see who else does, and whether it is an address of this machine"
    )]
    Listen {
        /// Where.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
    /// The system gives no descriptor or no thread. Raise the limits.
    #[error("cannot start a link: {0}; raise the limits of descriptors and threads")]
    System(#[from] io::Error),
    /// The hive does not let the link subscribe; the source says why.
    #[error(transparent)]
    Subscriber(#[from] SubscriberError),
    /// The node belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] hivemind_ring::fork::Forked),
}
