//! Where rings live: the algorithms see typed views and never learn whether these are mapped segments or the heap.

use crate::bell::Bell;
use crate::layout::{ReaderConstants, ReaderHeader, RingConstants, RingHeader, SEATS_MAX, Seat, Slot};
use crate::reader::Seats;
use crate::sync::Arc;
use crate::writer::{RingConfig, Writer};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;

/// One kind of memory: mapped segments ([`crate::mapped::Mapped`]) or the heap ([`Heap`]).
pub trait Memory: 'static {
    /// The publisher's segment.
    type Ring: RingMemory;
    /// The subscriber's segment.
    type Seats: SeatMemory;
    /// One line of a doorbell segment.
    type Bell: BellMemory;
}

/// A ring segment. The slices never change their length, and the number of slots is a power of two.
pub trait RingMemory: Send + Sync {
    /// What the ring is: our own checked copy.
    fn constants(&self) -> &RingConstants;
    /// The words that the publisher changes.
    fn header(&self) -> &RingHeader;
    /// All slots.
    fn slots(&self) -> &[Slot];
    /// Start and length in bytes of the chunk memory that is mapped here, all of it or none; aligned to a cache line.
    fn chunks(&self) -> (NonNull<u8>, u64);
    /// The chunk memory, if it is not mapped here: of a publisher that is not trusted. See [`crate::unmapped`].
    fn unmapped(&self) -> Option<&dyn UnmappedMemory> {
        None
    }
    /// Backs this range of the chunk memory (in bytes from its start) with pages, so that touching them cannot fail later.
    fn reserve(&self, range: Range<u64>) -> Result<(), ReserveError>;
}

/// Chunk memory that is read without being mapped: reading it never takes memory from the system.
pub trait UnmappedMemory: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Whether its publisher has taken at least as much memory from the system as a ring needs whose first
    /// `end` bytes are in use.
    fn is_backed(&self, end: u64) -> bool;
    /// Reads all of `into` from `offset` on; what was never written reads as zeros. After `Ok` all of it is initialised.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(&self, offset: u64, into: &mut [MaybeUninit<u8>]) -> std::io::Result<()>;
}

/// A reader segment.
pub trait SeatMemory: Send + Sync {
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
    /// Backs these seats with pages, so that touching them cannot fail later.
    fn reserve(&self, seats: Range<usize>) -> Result<(), ReserveError>;
}

/// One line of a doorbell segment.
pub trait BellMemory: Clone + Send + Sync {
    /// The line.
    fn bell(&self) -> &Bell;
}

/// The operating system had no memory for a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system refused {bytes} bytes of shared memory ({reason})")]
pub struct ReserveError {
    /// Bytes that were asked for.
    pub bytes: u64,
    /// What the system said.
    pub reason: String,
}

/// Memory of this process: for loom, Miri and property tests.
#[derive(Debug)]
pub enum Heap {}

impl Memory for Heap {
    type Ring = HeapRing;
    type Seats = HeapSeats;
    type Bell = Arc<Bell>;
}

impl BellMemory for Arc<Bell> {
    fn bell(&self) -> &Bell {
        self
    }
}

/// A ring on the heap.
#[derive(Debug)]
pub struct HeapRing {
    constants: RingConstants,
    header: RingHeader,
    slots: Box<[Slot]>,
    chunks: NonNull<u8>,
    chunks_layout: std::alloc::Layout,
}

// SAFETY: `chunks` is owned by this value alone and only handed out as an address; who may touch which bytes is what
// the algorithms of `writer` and `reader` decide, as they do for mapped memory.
unsafe impl Send for HeapRing {}
// SAFETY: as for Send; all other fields are atomics or never change.
unsafe impl Sync for HeapRing {}

impl Writer<Heap> {
    /// The publisher's end of a ring on the heap, for tests and models. All that `config` says holds as it does for a mapped ring;
    /// `config.chunk_memory` is allocated at once.
    pub fn on_heap(config: &RingConfig, bell: Arc<Bell>) -> Self {
        Writer::new(Arc::new(HeapRing::new(config)), bell, config)
    }
}

impl Seats<Heap> {
    /// The seats of a subscriber on the heap, for tests and models.
    pub fn on_heap(seats: usize, bell: Arc<Bell>) -> Self {
        Seats::new(Arc::new(HeapSeats::new(seats)), bell)
    }
}

impl HeapRing {
    /// An empty ring with at least one line of chunk memory.
    pub fn new(config: &RingConfig) -> Self {
        let size = (config.chunk_memory as usize).max(64).next_multiple_of(64);
        let chunks_layout = std::alloc::Layout::from_size_align(size, 64).expect("a sane amount of memory");
        // SAFETY: the layout has a size of at least 64 bytes, so it is not zero.
        let chunks = unsafe { std::alloc::alloc_zeroed(chunks_layout) };
        let chunks = NonNull::new(chunks).unwrap_or_else(|| std::alloc::handle_alloc_error(chunks_layout));
        let slots = (0..config.slots()).map(|_| Slot::zeroed()).collect();
        let constants = config.constants(0, size as u64);
        HeapRing { constants, header: RingHeader::zeroed(), slots, chunks, chunks_layout }
    }
}

impl Drop for HeapRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, freed only here.
        unsafe { std::alloc::dealloc(self.chunks.as_ptr(), self.chunks_layout) };
    }
}

impl RingMemory for HeapRing {
    fn constants(&self) -> &RingConstants {
        &self.constants
    }
    fn header(&self) -> &RingHeader {
        &self.header
    }
    fn slots(&self) -> &[Slot] {
        &self.slots
    }
    fn chunks(&self) -> (NonNull<u8>, u64) {
        (self.chunks, self.chunks_layout.size() as u64)
    }
    fn reserve(&self, range: Range<u64>) -> Result<(), ReserveError> {
        if range.end <= self.chunks_layout.size() as u64 {
            Ok(())
        } else {
            Err(ReserveError { bytes: range.end - range.start, reason: "beyond the heap ring".to_owned() })
        }
    }
}

/// A reader segment on the heap.
#[derive(Debug)]
pub struct HeapSeats {
    constants: ReaderConstants,
    header: ReaderHeader,
    seats: Box<[Seat]>,
}

impl HeapSeats {
    /// `seats` free seats.
    pub fn new(seats: usize) -> Self {
        let constants = ReaderConstants { node: 0, index: 0, seats: (seats as u64).min(SEATS_MAX), bell: 0 };
        let seats = (0..seats).map(|_| Seat::zeroed()).collect();
        HeapSeats { constants, header: ReaderHeader::zeroed(), seats }
    }
}

impl SeatMemory for HeapSeats {
    fn constants(&self) -> &ReaderConstants {
        &self.constants
    }
    fn header(&self) -> &ReaderHeader {
        &self.header
    }
    fn seats(&self) -> &[Seat] {
        &self.seats
    }
    fn reserve(&self, _seats: Range<usize>) -> Result<(), ReserveError> {
        Ok(())
    }
}
