//! Looking at a hive from outside: who is there, and the segments of anybody, read-only.

pub mod figures;

use hivemind::{EndId, Listing, Node, NodeError, SessionError};
use hivemind_ring::mapped::OpenError;
use hivemind_ring::segment::Anonymous;
use hivemind_ring::view::{ReaderView, RingView};

/// Why there was nothing to be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// The hive could not be joined; the source says what to do.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The root did not answer; the source says what to do.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A segment is not what it must be. Look at the node that owns it.
    #[error("the segment of {end} is not what it must be: {source}; look at the node that owns it")]
    Segment {
        /// Whose segment.
        end: EndId,
        /// What is wrong with it.
        source: OpenError,
    },
}

/// Who is there.
///
/// # Errors
/// See [`LookError`].
pub fn listing(node: &Node) -> Result<Listing, LookError> {
    Ok(node.observe()?)
}

/// The ring of a publisher.
///
/// # Errors
/// See [`LookError`].
pub fn ring(node: &Node, end: EndId) -> Result<RingView, LookError> {
    let handle = node.inspect(end)?;
    RingView::open(&Anonymous, handle).map_err(|source| LookError::Segment { end, source })
}

/// The reader segment of a subscriber.
///
/// # Errors
/// See [`LookError`].
pub fn reader(node: &Node, end: EndId) -> Result<ReaderView, LookError> {
    let handle = node.inspect(end)?;
    ReaderView::open(&Anonymous, handle).map_err(|source| LookError::Segment { end, source })
}
