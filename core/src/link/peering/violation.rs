//! Why a connection ends.

use std::time::Duration;

use crate::link::frame::FrameKind;

/// How a peer broke the rules, or why else a connection ends. It is logged, and said to the peer
/// ([`Peering::farewell`](super::Peering::farewell)).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The payload is not an archive of its kind, or exceeds its bounds. The peer is damaged or hostile.
    #[error("a damaged {kind} frame; the peer is damaged or hostile")]
    Damaged {
        /// What the frame is for.
        kind: FrameKind,
    },
    /// A frame that must not come here. The peer is damaged or hostile.
    #[error("a {kind} frame where there must be none; the peer is damaged or hostile")]
    Unexpected {
        /// What the frame is for.
        kind: FrameKind,
    },
    /// A stream that never was or is over, or a number that was used before. The peer is damaged or hostile.
    #[error("a {kind} frame for stream {stream}, which there is not; the peer is damaged or hostile")]
    Stream {
        /// What the frame is for.
        kind: FrameKind,
        /// Which stream.
        stream: u32,
    },
    /// A number that goes back, or beyond what was sent: a frame was replayed or left out.
    #[error(
        "a {kind} frame for message {sequence} of stream {stream}, {expected} is the next; a frame was replayed or lost"
    )]
    Sequence {
        /// What the frame is for.
        kind: FrameKind,
        /// Which stream.
        stream: u32,
        /// What it says.
        sequence: u64,
        /// What is next.
        expected: u64,
    },
    /// A part of a message that does not follow the one before.
    #[error(
        "bytes {offset} and on of message {sequence}, {expected} is the next; a frame was replayed or lost"
    )]
    Offset {
        /// Which message.
        sequence: u64,
        /// Where the part begins.
        offset: u32,
        /// Where it should begin.
        expected: u32,
    },
    /// The peer sends or grants against the rules of credit. It is damaged or hostile.
    #[error("stream {stream} sends more than it was granted; the peer is damaged or hostile")]
    Credit {
        /// Which stream.
        stream: u32,
    },
    /// The peer leaves out more messages than can have been published meanwhile. It is damaged or hostile.
    #[error(
        "stream {stream} leaves out {lost} messages, and at most {possible} can have been published meanwhile; the peer is damaged or hostile"
    )]
    Gap {
        /// Which stream.
        stream: u32,
        /// How many it leaves out.
        lost: u64,
        /// The most that can have been published.
        possible: u64,
    },
    /// A table is full. Use fewer, or narrower filters.
    #[error("there are too many {what}: {limit} are possible; use fewer, or narrower filters")]
    Limit {
        /// Of what there are too many.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Nothing was heard for too long. The other host or the network is gone.
    #[error("nothing was heard for {silent:?}; the other host or the network is gone")]
    Silent {
        /// For how long.
        silent: Duration,
    },
    /// The peer closed the link. Follow its reason.
    #[error("the other host closed the link: {reason}")]
    Bye {
        /// Why.
        reason: String,
    },
}
