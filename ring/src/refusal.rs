//! Why the segment of another process is refused.

use crate::segment::SegmentError;

/// Why a peer's segment was refused. The peer is at fault, or of another version; do not use it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The segment itself could not be mapped or lacks its seals; see the source.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Not such a segment at all.
    #[error(
        "this is no {expected} segment: its first word is {found:#018x}; the peer sent a wrong descriptor"
    )]
    Magic {
        /// Which kind was expected.
        expected: &'static str,
        /// What was found.
        found: u64,
    },
    /// The peer was built with another layout. Build both with the same release of hivemind.
    #[error(
        "the peer uses layout version {theirs}, this process {ours}; build both with the same release of hivemind"
    )]
    Version {
        /// Our version.
        ours: u64,
        /// The peer's version.
        theirs: u64,
    },
    /// A field of the header is impossible. The peer is broken or hostile: detach from it.
    #[error("the header says {field} = {value}, which cannot be ({reason}); detach from this peer")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// A ring of another publisher, or of another life of it, than was announced.
    #[error(
        "the ring belongs to end {index} of node {node:#x}, not to the publisher that was announced; attach anew"
    )]
    WrongPublisher {
        /// Life of the node that the header names.
        node: u64,
        /// End that the header names.
        index: u64,
    },
    /// The ring carries another type than was announced. Attach anew; if it stays so, the publisher is
    /// broken.
    #[error("the ring carries type {found:#034x}, announced was {expected:#034x}; attach anew")]
    WrongType {
        /// Fingerprint in the header.
        found: u128,
        /// Fingerprint announced.
        expected: u128,
    },
    /// A part of the segment that its owner has written to, if it is honest, has no memory: reading it would
    /// take ours. Detach from this peer.
    #[error(
        "the peer's {what} should reach to byte {end}, but have no memory from byte {at} on: its segment is hollow; detach from this peer"
    )]
    Hollow {
        /// Which part.
        what: &'static str,
        /// Where memory ends.
        at: u64,
        /// Where it should end.
        end: u64,
    },
    /// This process already reads as many rings of publishers that it does not trust as it may; each takes a
    /// descriptor. Raise `ulimit -n`, use a narrower filter, or let fewer of them in by the policy.
    #[error(
        "this process already reads {limit} rings of publishers that it does not trust, which is the most it may (a \
         quarter of its descriptors); raise `ulimit -n`, use a narrower filter, or let fewer in by the policy"
    )]
    UntrustedOut {
        /// How many such rings this process may read.
        limit: u64,
    },
}
