//! Rings on the heap: for loom, Miri and property tests, where nothing can be mapped.

use crate::bell::Bell;
use crate::layout::{ReaderConstants, ReaderHeader, RingConstants, RingHeader, SEATS_MAX, Seat, Slot};
use crate::memory::sealed::Sealed;
use crate::memory::{BellMemory, Memory, ReserveError, RingMemory, SeatBook, SeatMemory};
use crate::reader::Seats;
use crate::sync::{Arc, Mutex};
use crate::writer::{RingConfig, Writer};
use std::ops::Range;
use std::ptr::NonNull;

/// Memory of this process: for loom, Miri and property tests.
#[derive(Debug)]
pub enum Heap {}

impl Sealed for Heap {}
impl Sealed for HeapRing {}
impl Sealed for HeapSeats {}
impl Sealed for Arc<Bell> {}

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
    #[cfg(loom)]
    grave: Arc<Grave>,
}

/// What loom watches in place of the memory of a ring that is freed: a model that still reads that memory
/// reads this as well.
#[cfg(loom)]
#[derive(Debug)]
pub struct Grave(loom::cell::UnsafeCell<bool>);

// SAFETY: written once, when the ring is freed; loom checks that nobody reads at the same time, which is the
// purpose of the model.
#[cfg(loom)]
unsafe impl Send for Grave {}
// SAFETY: as for Send.
#[cfg(loom)]
unsafe impl Sync for Grave {}

#[cfg(loom)]
impl Grave {
    /// Whether the ring is freed. Fails the model if it may be freed at this moment.
    pub fn is_filled(&self) -> bool {
        // SAFETY: loom checks that nobody writes at the same time.
        self.0.with(|filled| unsafe { *filled })
    }
}

// SAFETY: `chunks` is owned by this value alone and only handed out as an address; who may touch which bytes
// is what the algorithms of `writer` and `reader` decide, as they do for mapped memory.
unsafe impl Send for HeapRing {}
// SAFETY: as for Send; all other fields are atomics or never change.
unsafe impl Sync for HeapRing {}

impl Writer<Heap> {
    /// The publisher's end of a ring on the heap, for tests and models. All that `config` says holds as it
    /// does for a mapped ring; `config.chunk_memory` is allocated at once.
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
        HeapRing {
            constants,
            header: RingHeader::zeroed(),
            slots,
            chunks,
            chunks_layout,
            #[cfg(loom)]
            grave: Arc::new(Grave(loom::cell::UnsafeCell::new(false))),
        }
    }

    /// Where it says that it is freed.
    #[cfg(loom)]
    pub fn grave(&self) -> Arc<Grave> {
        Arc::clone(&self.grave)
    }
}

impl Drop for HeapRing {
    fn drop(&mut self) {
        // SAFETY: loom checks that nobody reads at the same time.
        #[cfg(loom)]
        self.grave.0.with_mut(|filled| unsafe { *filled = true });
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
    book: Mutex<SeatBook>,
}

impl HeapSeats {
    /// `seats` free seats.
    pub fn new(seats: usize) -> Self {
        let constants = ReaderConstants { node: 0, index: 0, seats: (seats as u64).min(SEATS_MAX), bell: 0 };
        let seats = (0..seats).map(|_| Seat::zeroed()).collect();
        let book = Mutex::new(SeatBook::default());
        HeapSeats { constants, header: ReaderHeader::zeroed(), seats, book }
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
    fn book(&self) -> &Mutex<SeatBook> {
        &self.book
    }
    fn reserve(&self, _seats: Range<usize>) -> Result<(), ReserveError> {
        Ok(())
    }
}
