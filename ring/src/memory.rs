//! Where rings live: the algorithms see typed views and never learn whether these are mapped segments or the
//! heap.

use crate::bell::Bell;
use crate::layout::{ReaderConstants, ReaderHeader, RingConstants, RingHeader, Seat, Slot};
use crate::sync::Mutex;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;

/// Only this crate says what memory is: that these views stay valid, and keep their length, is what the
/// proofs of all that reads them rest on.
pub(crate) mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// One kind of memory: mapped segments ([`crate::mapped::Mapped`]) or the heap ([`crate::heap::Heap`]).
pub trait Memory: Sealed + 'static {
    /// The publisher's segment.
    type Ring: RingMemory;
    /// The subscriber's segment.
    type Seats: SeatMemory;
    /// One line of a doorbell segment.
    type Bell: BellMemory;
}

/// A ring segment. The slices never change their length, and the number of slots is a power of two.
pub trait RingMemory: Sealed + Send + Sync {
    /// What the ring is: our own checked copy.
    fn constants(&self) -> &RingConstants;
    /// The words that the publisher changes.
    fn header(&self) -> &RingHeader;
    /// All slots.
    fn slots(&self) -> &[Slot];
    /// Start and length in bytes of the chunk memory that is mapped here, all of it or none; aligned to a
    /// cache line.
    fn chunks(&self) -> (NonNull<u8>, u64);
    /// The chunk memory, if it is not mapped here: of a publisher that is not trusted. See
    /// [`crate::unmapped`].
    fn unmapped(&self) -> Option<&dyn UnmappedMemory> {
        None
    }
    /// Backs this range of the chunk memory (in bytes from its start) with pages, so that touching them
    /// cannot fail later.
    fn reserve(&self, range: Range<u64>) -> Result<(), ReserveError>;
}

/// Chunk memory that is read without being mapped: reading it never takes memory from the system.
pub trait UnmappedMemory: Sealed + Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Whether its publisher has taken at least as much memory from the system as a ring needs whose first
    /// `end` bytes are in use.
    fn is_backed(&self, end: u64) -> bool;
    /// Reads all of `into` from `offset` on; what was never written reads as zeros. After `Ok` all of it is
    /// initialised.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(&self, offset: u64, into: &mut [MaybeUninit<u8>]) -> std::io::Result<()>;
}

/// A reader segment.
pub trait SeatMemory: Sealed + Send + Sync {
    /// What the segment is: our own checked copy.
    fn constants(&self) -> &ReaderConstants;
    /// The words that the subscriber changes.
    fn header(&self) -> &ReaderHeader;
    /// All seats; of a peer's segment, those that are known to have memory. Never becomes shorter.
    fn seats(&self) -> &[Seat];
    /// Whether this is a child of the process that made it: then nobody looks at it.
    fn is_forked(&self) -> bool {
        false
    }
    /// What the subscriber notes about its own seats; of a peer's segment, nothing. It lies here so that a
    /// reader needs no more than this.
    #[doc(hidden)]
    fn book(&self) -> &Mutex<SeatBook>;
    /// Whether a node of this process has such segments, so that it lives.
    fn has_node_here(_node: u64) -> bool
    where
        Self: Sized,
    {
        false
    }
    /// Backs these seats with pages, so that touching them cannot fail later.
    fn reserve(&self, seats: Range<usize>) -> Result<(), ReserveError>;
}

/// What a subscriber notes about its seats, in memory of its own process.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct SeatBook {
    /// Where to look first: low seats are taken again first, after the first round, so few pages are
    /// touched.
    pub(crate) next: usize,
    /// How many seats are backed by pages.
    pub(crate) backed: usize,
    /// How many seats are taken or read.
    pub(crate) taken: usize,
    /// The subscriber ends: no seat is taken any more.
    pub(crate) is_closing: bool,
}

/// One line of a doorbell segment.
pub trait BellMemory: Sealed + Clone + Send + Sync {
    /// The line.
    fn bell(&self) -> &Bell;
    /// Its number.
    fn line(&self) -> u32 {
        0
    }
    /// Another line of the same doorbells; `None`: there is none.
    fn beside(&self, line: u32) -> Option<&Bell> {
        (line == self.line()).then(|| self.bell())
    }
}

/// The operating system had no memory for a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("the system refused {bytes} bytes of shared memory ({reason})")]
pub struct ReserveError {
    /// Bytes that were asked for.
    pub bytes: u64,
    /// What the system said.
    pub reason: String,
}
