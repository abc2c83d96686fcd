//! Errors of nodes; each says what to do next. Those of ends are in `hivemind_runtime::ports`.

use hivemind_core::name::NameError;
use hivemind_ring::fork::Forked;
use hivemind_ring::mapped::CreateError;
use hivemind_ring::segment::SegmentError;
use hivemind_runtime::ports::MemberError;
#[cfg(feature = "links")]
use hivemind_runtime::rounded::rounded;
use hivemind_runtime::session::{AnnounceError, JoinError, RefusedEnd};
#[cfg(feature = "links")]
use std::time::Duration;

/// Why a node could not join. Example: [`Node`](crate::Node).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The name of the node or of the hive does not parse; the source says where.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No root was found, or it refused; the source says what was waited for and what to do.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The doorbells could not be made, for want of memory or descriptors.
    #[error(transparent)]
    Memory(#[from] CreateError),
    /// The doorbells could not be handed over, for want of descriptors.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The links of a remote node could not be started; the source says why.
    #[cfg(feature = "links")]
    #[error(transparent)]
    Links(Box<hivemind_links::LinksError>),
    /// The key of a remote node is not fit; the source says why.
    #[cfg(feature = "links")]
    #[error(transparent)]
    Key(#[from] hivemind_links::KeyError),
    /// No address of a host, or no folder for a node without one; see the message.
    #[cfg(feature = "links")]
    #[error("{0}")]
    Address(String),
    /// The host was not reached, or refused. Look at it, at its key, and at the network between.
    #[cfg(feature = "links")]
    #[error(
        "not linked with {address} within {}: {reason}; see whether `hm root --listen` runs there, with a key of the same hive",
        rounded(*waited)
    )]
    Remote {
        /// Where the host was sought.
        address: String,
        /// For how long.
        waited: Duration,
        /// What it said last, or the system.
        reason: String,
    },
}

#[doc(hidden)] // `MemberError` is no part of this crate's surface.
impl From<MemberError> for NodeError {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::Name(error) => NodeError::Name(error),
            MemberError::Memory(error) => NodeError::Memory(error),
            MemberError::Segment(error) => NodeError::Segment(error),
            MemberError::Join(error) => NodeError::Join(error),
        }
    }
}

#[cfg(feature = "links")]
#[doc(hidden)] // As above.
impl From<hivemind_links::leaf::LeafError> for NodeError {
    fn from(error: hivemind_links::leaf::LeafError) -> Self {
        use hivemind_links::leaf::LeafError;
        match error {
            LeafError::Join(error) => error.into(),
            LeafError::Links(error) => NodeError::Links(error),
            LeafError::NotLinked { address, waited, reason } => NodeError::Remote { address, waited, reason },
        }
    }
}

/// Some of the ends of a [`Batch`](crate::Batch) were refused, and are in no hive. Drop them, or put right
/// what each error names.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("robot").dir(folder.path()).join()?;
/// let battery = node.publisher::<f32>("battery")?;
/// let batch = node.batch();
/// let another = batch.publisher::<u32>("battery")?; // Not refused yet ...
/// let error = batch.finish().unwrap_err(); // ... but here.
/// for (service, reason) in error.refused() {
///     println!("{service}: {reason}");
/// }
/// assert_eq!(error.refused()[0].0, "battery");
/// # drop((battery, another));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct BatchError {
    refused: Vec<(String, AnnounceError)>,
}

impl BatchError {
    pub(crate) fn new(refused: Vec<RefusedEnd>) -> Self {
        assert!(!refused.is_empty(), "there is an error because something was refused");
        BatchError { refused: refused.into_iter().map(|end| (end.what, end.error)).collect() }
    }

    fn text(&self) -> String {
        let (what, error) = &self.refused[0];
        match self.refused.len() {
            1 => format!("an end of a batch was refused, of {what:?}: {error}"),
            refused => format!("{refused} ends of a batch were refused, the first of {what:?}: {error}"),
        }
    }

    /// The service or the filter of each end that was refused, and why; at least one. Example:
    /// [`BatchError`].
    pub fn refused(&self) -> &[(String, AnnounceError)] {
        &self.refused
    }
}

/// Why [`crate::Node::run`] ended other than in order. Example:
/// [`ServiceError::own`](crate::ServiceError::own).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The signal handlers could not be installed. Raise the limit of descriptors.
    #[error("cannot listen for Ctrl-C: {0}; raise the limit of descriptors")]
    Signals(std::io::Error),
    /// It belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// A service or a handler ended with an error, or panicked; the rest was shut down in order. Put right
    /// what it says.
    #[error("{name} ended: {reason}")]
    Ended {
        /// The service, or the filter of the handler.
        name: String,
        /// Its error.
        reason: String,
    },
}
