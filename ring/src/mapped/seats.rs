//! The seats of a subscriber in mapped memory.

use super::{
    BELLS_MAX, CreateError, Mapped, MappedBell, PAGE_BYTES, check_kind, field, first_words, small, view,
};
use crate::fork::{Home, PerLife};
use crate::layout::{
    READER_CONSTANTS, READER_MAGIC, ReaderConstants, ReaderHeader, SEATS_MAX, SEATS_OFFSET, Seat,
};
use crate::memory::{ReserveError, SeatBook, SeatMemory};
use crate::reader::Seats;
use crate::refusal::OpenError;
use crate::segment::{Backend, Found, Handle, LengthBounds, Object, Segment, SegmentError, Sharing};
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering, lock};
use std::collections::HashMap;
use std::ops::Range;
use std::ptr::NonNull;

impl ReaderConstants {
    /// Checks what a peer says of a reader segment of `length` bytes; see [`ReaderConstants::words`] for the
    /// order.
    fn check(words: [u64; READER_CONSTANTS], length: u64) -> Result<Self, OpenError> {
        let [magic, version, node, index, seats, bell, ..] = words;
        check_kind("reader", [magic, version], READER_MAGIC)?;
        let index = small("index", index, "a node has no such end")?;
        let fits = (1..=SEATS_MAX).contains(&seats) && seats_end(seats) <= length;
        field("seats", seats, fits, "seats end within the segment")?;
        field("bell", bell, bell < u64::from(BELLS_MAX), "a node has no such line")?;
        Ok(ReaderConstants { node, index, seats, bell: bell as u32 })
    }
}

/// Where this many seats end, in bytes from the start of their segment.
const fn seats_end(seats: u64) -> u64 {
    SEATS_OFFSET + seats * size_of::<Seat>() as u64
}

/// A reader segment: the subscriber's own, or a peer's, mapped read-only.
#[derive(Debug)]
pub struct MappedSeats {
    header: NonNull<ReaderHeader>,
    seats: NonNull<Seat>,
    constants: ReaderConstants,
    /// How many of them may be touched: of a peer's, those that are known to have memory; of our own, all
    /// (they are reserved before they are touched).
    known: AtomicUsize,
    /// A peer's object.
    object: Option<Object>,
    /// Of our own. Samples keep the segment, and so this, until the last is dropped.
    _own: Option<OwnNode>,
    book: Mutex<SeatBook>,
    segment: Segment,
}

/// The nodes of this process that have reader segments, each as often as it has some.
static OWN_NODES: PerLife<Mutex<HashMap<u64, usize>>> = PerLife::new();

/// Counts a reader segment of this process as long as it lives.
#[derive(Debug)]
struct OwnNode {
    node: u64,
    home: Home,
}

impl OwnNode {
    fn new(node: u64) -> Self {
        *lock(OWN_NODES.get()).entry(node).or_default() += 1;
        OwnNode { node, home: Home::here() }
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        // In a child the table is another, in which it never was.
        if !self.home.is_here() {
            return;
        }
        let mut nodes = lock(OWN_NODES.get());
        let count = nodes.get_mut(&self.node).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if count == 0 {
            nodes.remove(&self.node);
        }
    }
}

// SAFETY: the pointers lead into `segment`, which moves along and is itself Send and Sync; all that they
// reach is atomics.
unsafe impl Send for MappedSeats {}
// SAFETY: as for Send.
unsafe impl Sync for MappedSeats {}

impl MappedSeats {
    /// Makes a reader segment for end `index` of `node`, with room for `seats` publishers (address space;
    /// pages come with use).
    pub fn create(
        backend: &dyn Backend,
        node: u64,
        index: u32,
        seats: u64,
        bell: MappedBell,
    ) -> Result<Seats<Mapped>, CreateError> {
        if seats == 0 || seats > SEATS_MAX {
            return Err(CreateError::Bound { what: "seats", value: seats, limit: SEATS_MAX });
        }
        let length = seats_end(seats).next_multiple_of(PAGE_BYTES);
        let segment = backend.create("reader", length, Sharing::SingleWriter)?;
        segment.reserve(0..PAGE_BYTES)?;
        let constants = ReaderConstants { node, index, seats, bell: bell.line };
        let own = OwnNode::new(node);
        let memory = MappedSeats::over(segment, constants, seats as usize, None, Some(own));
        memory.header().write(&memory.constants);
        Ok(Seats::new(Arc::new(memory), bell))
    }

    /// Opens a subscriber's segment, read-only, and checks every field of its header. `subscriber`: whose it
    /// must be.
    pub fn open(
        backend: &dyn Backend,
        handle: Handle,
        subscriber: Option<(u64, u32)>,
    ) -> Result<MappedSeats, OpenError> {
        let found = MappedSeats::find(backend, handle)?;
        let constants = ReaderConstants::check(first_words(&found)?, found.len())?;
        if let Some((node, index)) = subscriber {
            let is_it = constants.node == node;
            field("node", constants.node, is_it, "it is another node than was announced")?;
            let is_it = constants.index == index;
            field("index", u64::from(constants.index), is_it, "it is another end than was announced")?;
        }
        let at = found.written(0, seats_end(constants.seats))?;
        if at < SEATS_OFFSET {
            return Err(OpenError::Hollow { what: "header", at, end: SEATS_OFFSET });
        }
        let object = Some(found.object());
        Ok(MappedSeats::over(found.map(found.len())?, constants, seats_before(at), object, None))
    }

    fn find(backend: &dyn Backend, handle: Handle) -> Result<Found, SegmentError> {
        let bounds = LengthBounds { min: PAGE_BYTES, max: seats_end(SEATS_MAX).next_multiple_of(PAGE_BYTES) };
        backend.find(handle, Sharing::SingleWriter, bounds)
    }

    /// Looks whether `seat`, which a peer names, has memory now, if that was not known: its segment grows
    /// with the publishers that it attaches to. `handle` is to be of the same segment; another one tells
    /// nothing. A seat that has none is no seat of [`SeatMemory::seats`].
    pub fn look_for(&self, backend: &dyn Backend, handle: Handle, seat: u32) -> Result<(), OpenError> {
        // Relaxed: see `seats`.
        let known = self.known.load(Ordering::Relaxed);
        if (seat as usize) < known || u64::from(seat) >= self.constants.seats {
            return Ok(());
        }
        let found = MappedSeats::find(backend, handle)?;
        if Some(found.object()) != self.object {
            return Ok(());
        }
        let at = found.written(seats_end(known as u64), seats_end(self.constants.seats))?;
        // Relaxed: see `seats`.
        self.known.fetch_max(seats_before(at), Ordering::Relaxed);
        Ok(())
    }

    fn over(
        segment: Segment,
        constants: ReaderConstants,
        known: usize,
        object: Option<Object>,
        own: Option<OwnNode>,
    ) -> Self {
        let seats = constants.seats;
        assert!(seats_end(seats) <= segment.len(), "seats end within the segment");
        assert!(known as u64 <= seats, "they are known among all");
        // SAFETY: in bounds: SEATS_OFFSET is the size of the header, see the assertion; aligned: offset 0;
        // atomics only; the pointer lives in a struct beside its segment.
        let header = unsafe { view::<ReaderHeader>(&segment, 0, 1) }.cast();
        // SAFETY: in bounds: the assertion; aligned: SEATS_OFFSET is a multiple of 64; atomics only; as
        // above.
        let seats = unsafe { view::<Seat>(&segment, SEATS_OFFSET, seats as usize) }.cast();
        MappedSeats {
            header,
            seats,
            constants,
            known: AtomicUsize::new(known),
            object,
            _own: own,
            book: Mutex::new(SeatBook::default()),
            segment,
        }
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

/// How many whole seats end before byte `at` of their segment.
fn seats_before(at: u64) -> usize {
    // Fits: a segment of seats is short.
    (at.saturating_sub(SEATS_OFFSET) / size_of::<Seat>() as u64) as usize
}

impl SeatMemory for MappedSeats {
    #[inline]
    fn constants(&self) -> &ReaderConstants {
        &self.constants
    }
    #[inline]
    fn header(&self) -> &ReaderHeader {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of
        // self.
        unsafe { self.header.as_ref() }
    }
    #[inline]
    fn seats(&self) -> &[Seat] {
        // Relaxed: it only grows, and what it counts was there before this process looked; nothing that it
        // wrote is read by it.
        let known = self.known.load(Ordering::Relaxed);
        let seats = NonNull::slice_from_raw_parts(self.seats, known);
        // SAFETY: as for the header; `known` is at most the number of seats: by `over`, and `look_for` counts
        // no further.
        unsafe { seats.as_ref() }
    }
    fn is_forked(&self) -> bool {
        self.segment.is_forked()
    }
    fn book(&self) -> &Mutex<SeatBook> {
        &self.book
    }
    fn has_node_here(node: u64) -> bool {
        lock(OWN_NODES.get()).contains_key(&node)
    }
    fn reserve(&self, seats: Range<usize>) -> Result<(), ReserveError> {
        let start = SEATS_OFFSET + (seats.start * size_of::<Seat>()) as u64;
        let end = SEATS_OFFSET + (seats.end * size_of::<Seat>()) as u64;
        self.segment
            .reserve(start..end)
            .map_err(|error| ReserveError { bytes: end - start, reason: error.to_string() })
    }
}
