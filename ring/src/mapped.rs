//! Rings, seats and doorbells in mapped segments: what turns checked bytes into typed views.
//!
//! All unsafe code that looks into a mapping stands here. It rests on three facts:
//!
//! * *alive, in bounds*: a [`Segment`] maps at least `len()` bytes at `base()` for as long as it lives, and a peer cannot
//!   shrink it (the backend refuses segments without the seal). Every view is computed from offsets checked against `len()`.
//! * *aligned*: a mapping starts at a page, and every offset used is a multiple of 64.
//! * *initialised, any bytes are valid*: pages start as zeros, and every type that is viewed consists of atomics only, so
//!   no byte pattern is invalid and no concurrent store is a data race.
//!
//! Opening a peer's segment reads the constants of its header once, as bytes and with a system call, checks them, and keeps the checked copy
//! ([`RingConstants`], [`ReaderConstants`]): there is no other way to look at them. See the head of [`crate::layout`].
//!
//! **Holes.** A page of a peer's segment that has no memory would get some when it is touched here, at this process's cost. So none is touched:
//!
//! | what                               | who looks at it | why there is memory                                                          |
//! | ---------------------------------- | --------------- | ---------------------------------------------------------------------------- |
//! | header and slots of a ring         | subscribers     | its publisher wrote to each page (`MappedRing::create`); looked at when opened |
//! | chunk memory, publisher trusted    | subscribers     | its publisher reserved it; it is trusted in more than that                    |
//! | chunk memory, publisher not trusted| subscribers     | it is not mapped: see [`crate::unmapped`]                                     |
//! | header and seats of a reader       | publishers      | its subscriber wrote to each before it named it; looked at when opened, and when a seat further on is named |
//! | a line of doorbells                | both            | perhaps none: it is a page for each end that one is attached to, and no more   |
//!
//! What has been written stays, by the seals ([`crate::segment::Found`]).

use crate::bell::Bell;
use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, CHUNK_MEMORY_MAX, LAYOUT_VERSION, LINE_BYTES, MESSAGE_BYTES_MAX,
    MODE_RELIABLE, READER_CONSTANTS, READER_MAGIC, RING_CONSTANTS, RING_MAGIC, ReaderConstants, ReaderHeader,
    RingConstants, RingHeader, SEATS_MAX, SEATS_OFFSET, SLOTS_OFFSET, Seat, Slot,
};
use crate::memory::{BellMemory, Memory, ReserveError, RingMemory, SeatMemory, UnmappedMemory};
use crate::reader::Seats;
pub use crate::refusal::OpenError;
use crate::segment::{
    Backend, Found, Handle, HugePages, LengthBounds, Object, Prefaulted, Segment, SegmentError, Sharing,
};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, lock};
use crate::unmapped::Unmapped;
use crate::writer::{RingConfig, Writer};
use std::ops::Range;
use std::ptr::NonNull;

/// Chunk memory starts at a multiple of this, and segments are multiples of it.
const PAGE_BYTES: u64 = 4096;
/// Lines of a doorbell segment: publishers and subscribers that a node may have at a time.
pub const BELLS_MAX: u32 = 65_536;

/// Memory in mapped segments.
#[derive(Debug)]
pub enum Mapped {}

impl Memory for Mapped {
    type Ring = MappedRing;
    type Seats = MappedSeats;
    type Bell = MappedBell;
}

/// Why a ring, a reader segment or a doorbell segment was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The system did not give the memory or the descriptor; its remedy is in the source.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A bound was exceeded. Ask for less.
    #[error("{what} is {value}, but at most {limit} is possible; ask for less")]
    Bound {
        /// Which figure.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// What is possible.
        limit: u64,
    },
    /// The node has as many publishers and subscribers as it may. Drop some, or split the node.
    #[error("the node has {limit} publishers and subscribers, all that it may; drop some or split the node")]
    BellsOut {
        /// [`BELLS_MAX`].
        limit: u32,
    },
}

fn field(field: &'static str, value: u64, valid: bool, reason: &'static str) -> Result<u64, OpenError> {
    if valid { Ok(value) } else { Err(OpenError::Field { field, value, reason }) }
}

/// The first words of a peer's segment, read once.
fn first_words<const N: usize>(found: &Found) -> Result<[u64; N], SegmentError> {
    let mut bytes = [[0; 8]; N];
    found.read_at(0, bytes.as_flattened_mut())?;
    Ok(bytes.map(u64::from_le_bytes))
}

/// A field that has less than 64 bits.
fn small(name: &'static str, value: u64, reason: &'static str) -> Result<u32, OpenError> {
    u32::try_from(value).map_err(|_| OpenError::Field { field: name, value, reason })
}

fn check_kind(kind: &'static str, found: [u64; 2], magic: u64) -> Result<(), OpenError> {
    if found[0] != magic {
        return Err(OpenError::Magic { expected: kind, found: found[0] });
    }
    if found[1] != LAYOUT_VERSION {
        return Err(OpenError::Version { ours: LAYOUT_VERSION, theirs: found[1] });
    }
    Ok(())
}

impl RingConstants {
    /// Checks what a peer says of a ring in a segment of `length` bytes; see [`RingConstants::words`] for the order.
    pub(crate) fn check(words: [u64; RING_CONSTANTS], length: u64) -> Result<Self, OpenError> {
        let [magic, version, node, index, low, high, words @ ..] = words;
        let [capacity, slots_offset, chunks_offset, chunks_length, message_max, words @ ..] = words;
        let [mode, history, bell, retained, _] = words;
        check_kind("ring", [magic, version], RING_MAGIC)?;
        let index = small("index", index, "a node has no such end")?;
        let sane = capacity.is_power_of_two() && (CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity);
        field("capacity", capacity, sane, "it must be a power of two within bounds")?;
        field("slots_offset", slots_offset, slots_offset == SLOTS_OFFSET, "slots follow the header")?;
        let expected = (SLOTS_OFFSET + capacity * LINE_BYTES).next_multiple_of(PAGE_BYTES);
        field("chunks_offset", chunks_offset, chunks_offset == expected, "chunks follow the slots")?;
        let fits = chunks_offset.checked_add(chunks_length).is_some_and(|end| end <= length);
        field("chunks_length", chunks_length, fits, "chunks end within the segment")?;
        let possible = message_max <= MESSAGE_BYTES_MAX;
        field("message_max", message_max, possible, "no message is larger than 256 MiB")?;
        field("mode", mode, mode & !MODE_RELIABLE == 0, "it has unknown flags")?;
        field("history", history, history < capacity, "it is shorter than the ring")?;
        field("retained", retained, retained < capacity, "it is less than the ring has")?;
        field("bell", bell, bell < u64::from(BELLS_MAX), "a node has no such line")?;
        Ok(RingConstants {
            node,
            index,
            fingerprint: u128::from(high) << 64 | u128::from(low),
            capacity,
            chunks_offset,
            chunks_length,
            message_max,
            reliable: mode & MODE_RELIABLE != 0,
            history,
            bell: bell as u32,
            retained,
        })
    }

    /// Finds a publisher's ring, and reads and checks what it says of itself.
    fn find(backend: &dyn Backend, handle: Handle) -> Result<(Found, Self), OpenError> {
        let largest = SLOTS_OFFSET + CAPACITY_MAX * LINE_BYTES + CHUNK_MEMORY_MAX + 2 * PAGE_BYTES;
        let found =
            backend.find(handle, Sharing::SingleWriter, LengthBounds { min: PAGE_BYTES, max: largest })?;
        let constants = Self::check(first_words(&found)?, found.len())?;
        Ok((found, constants))
    }
}

impl ReaderConstants {
    /// Checks what a peer says of a reader segment of `length` bytes; see [`ReaderConstants::words`] for the order.
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

/// Typed reference into a mapping.
///
/// # Safety
/// `offset + size_of::<T>() * count` is at most `segment.len()`, `offset` is a multiple of `align_of::<T>()` (at most a
/// page), `T` consists of atomics only, and the result is not used after `segment` is dropped.
unsafe fn view<T>(segment: &Segment, offset: u64, count: usize) -> NonNull<[T]> {
    // SAFETY: in bounds by this function's contract.
    let start = unsafe { segment.base().add(offset as usize) };
    NonNull::slice_from_raw_parts(start.cast::<T>(), count)
}

/// A ring segment: the publisher's own, or a peer's, mapped read-only.
#[derive(Debug)]
pub struct MappedRing {
    slots: NonNull<[Slot]>,
    header: NonNull<RingHeader>,
    chunks: NonNull<u8>,
    /// Bytes of chunk memory that are mapped here.
    chunks_length: u64,
    constants: RingConstants,
    unmapped: Option<Unmapped>,
    /// The owner's chunk memory up to here has its pages: asking for each again would cost as much as half of a first touch.
    ahead: AtomicU64,
    segment: Segment,
}

// SAFETY: the pointers lead into `segment`, which moves along and is itself Send and Sync; headers and slots are atomics,
// and who touches which chunk is decided by the algorithms of `writer` and `reader`.
unsafe impl Send for MappedRing {}
// SAFETY: as for Send.
unsafe impl Sync for MappedRing {}

/// What a subscriber was told about the ring that it is to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The life of the publisher's node.
    pub node: u64,
    /// Which end of that node.
    pub index: u32,
    /// Fingerprint of the type.
    pub fingerprint: u128,
}

impl MappedRing {
    /// Makes a ring and its writer. `bell` is the publisher's line; `config.bell` is set from it.
    pub fn create(
        backend: &dyn Backend,
        config: RingConfig,
        bell: MappedBell,
    ) -> Result<Writer<Mapped>, CreateError> {
        MappedRing::create_by(config, bell, |length| backend.create("ring", length, Sharing::SingleWriter))
    }

    /// As [`create`](Self::create), for [`huge_pages`](Self::huge_pages).
    pub fn create_aligned(
        backend: &dyn Backend,
        config: RingConfig,
        bell: MappedBell,
    ) -> Result<Writer<Mapped>, CreateError> {
        let create = |length| backend.create_aligned("ring", length, Sharing::SingleWriter);
        MappedRing::create_by(config, bell, create)
    }

    fn create_by(
        mut config: RingConfig,
        bell: MappedBell,
        create: impl FnOnce(u64) -> Result<Segment, SegmentError>,
    ) -> Result<Writer<Mapped>, CreateError> {
        let bound = |what, value, limit| {
            if value <= limit { Ok(()) } else { Err(CreateError::Bound { what, value, limit }) }
        };
        bound("capacity", config.capacity, CAPACITY_MAX)?;
        bound("message_max", config.message_max, MESSAGE_BYTES_MAX)?;
        bound("chunk_memory", config.chunk_memory, CHUNK_MEMORY_MAX)?;
        config.bell = bell.line;
        let slots = config.slots();
        let chunks_offset = (SLOTS_OFFSET + slots * LINE_BYTES).next_multiple_of(PAGE_BYTES);
        let chunks_length = config.chunk_memory.next_multiple_of(PAGE_BYTES);
        let segment = create(chunks_offset + chunks_length)?;
        segment.reserve(0..chunks_offset)?;
        let ring = MappedRing::over(segment, config.constants(chunks_offset, chunks_length), None);
        ring.header().write(&ring.constants);
        // To each page, so that subscribers can tell it from a hole.
        for page in (PAGE_BYTES..chunks_offset).step_by(PAGE_BYTES as usize) {
            let slot = &ring.slots()[((page - SLOTS_OFFSET) / LINE_BYTES) as usize];
            // Relaxed: nobody else has the segment yet.
            slot.stamp.store(0, Ordering::Relaxed);
        }
        Ok(Writer::new(Arc::new(ring), bell, &config))
    }

    /// Opens the ring of a publisher that is trusted, read-only, and checks every field of its header.
    pub fn open(
        backend: &dyn Backend,
        handle: Handle,
        announced: Option<Announced>,
    ) -> Result<MappedRing, OpenError> {
        MappedRing::open_if(backend, handle, announced, |_| true)
    }

    /// As [`open`](Self::open). `trusts` says whether the user who made the memory object is trusted; if not, chunk memory is not mapped,
    /// and messages there are copied out of it. See [`crate::unmapped`].
    pub fn open_if(
        backend: &dyn Backend,
        handle: Handle,
        announced: Option<Announced>,
        trusts: impl FnOnce(u32) -> bool,
    ) -> Result<MappedRing, OpenError> {
        let (found, constants) = RingConstants::find(backend, handle)?;
        if let Some(announced) = announced {
            let RingConstants { node, index, fingerprint, .. } = constants;
            if node != announced.node || index != announced.index {
                return Err(OpenError::WrongPublisher { node, index: u64::from(index) });
            }
            if fingerprint != announced.fingerprint {
                return Err(OpenError::WrongType { found: fingerprint, expected: announced.fingerprint });
            }
        }
        let end = constants.chunks_offset;
        let at = found.written(0, end)?;
        if at < end {
            return Err(OpenError::Hollow { what: "header and slots", at, end });
        }
        if trusts(found.maker()) {
            return Ok(MappedRing::over(found.map(found.len())?, constants, None));
        }
        let front = found.map(end)?;
        let unmapped = Unmapped::new(found, &constants)?;
        Ok(MappedRing::over(front, constants, Some(unmapped)))
    }

    /// Keeps checked offsets as pointers. All of them lie within what is mapped: `chunks_offset` is at least
    /// `SLOTS_OFFSET + slots * 64`, and `chunks_offset`, with the chunks if they are mapped, at most `segment.len()`.
    fn over(segment: Segment, constants: RingConstants, unmapped: Option<Unmapped>) -> Self {
        let RingConstants { capacity, chunks_offset, .. } = constants;
        let chunks_length = if unmapped.is_some() { 0 } else { constants.chunks_length };
        assert!(SLOTS_OFFSET + capacity * LINE_BYTES <= chunks_offset, "slots end before the chunks");
        assert!(chunks_offset + chunks_length <= segment.len(), "chunks end within the segment");
        // SAFETY: in bounds: SLOTS_OFFSET is the size of the header, see the assertions; aligned: offset 0; atomics only;
        // the pointer lives in a struct beside its segment.
        let header = unsafe { view::<RingHeader>(&segment, 0, 1) }.cast();
        // SAFETY: in bounds: first assertion; aligned: SLOTS_OFFSET is a multiple of 64; atomics only; as above.
        let slots = unsafe { view::<Slot>(&segment, SLOTS_OFFSET, capacity as usize) };
        // SAFETY: in bounds: second assertion; bytes need no alignment and are only handed out as an address.
        let chunks = unsafe { segment.base().add(chunks_offset as usize) };
        let ahead = AtomicU64::new(0);
        MappedRing { slots, header, chunks, chunks_length, constants, unmapped, ahead, segment }
    }

    /// Maps the header, the slots and the first `bytes` of chunk memory ahead, so that the first messages take no page faults: for
    /// the publisher right after `create`, which also takes the memory from the system; for a subscriber right after `open`. Chunks are
    /// given out from the beginning of that memory.
    pub fn prefault(&self, bytes: u64) -> Result<Prefaulted, SegmentError> {
        let chunks = bytes.min(self.chunks_length);
        let prefaulted = self.segment.prefault(0..self.constants.chunks_offset + chunks)?;
        self.is_ahead(chunks);
        Ok(prefaulted)
    }

    fn is_ahead(&self, chunks: u64) {
        if self.segment.writable() {
            // Relaxed: this process's own note of what the kernel has done for good; an older one only asks again.
            self.ahead.fetch_max(chunks, Ordering::Relaxed);
        }
    }

    /// Gives the same bytes as [`prefault`](Self::prefault), rounded up, huge pages as far as the kernel can; for the publisher of a
    /// ring from [`create_aligned`](Self::create_aligned), before it is announced. The result says what was obtained.
    pub fn huge_pages(&self, bytes: u64) -> Result<HugePages, SegmentError> {
        let start = self.constants.chunks_offset;
        let huge = self.segment.huge_pages(start + bytes.min(self.chunks_length))?;
        // Whether huge or not, the pages are there, if it could be tried at all.
        if huge.prefaulted.is_some() {
            self.is_ahead(huge.asked.saturating_sub(start).min(self.chunks_length));
        }
        Ok(huge)
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl RingMemory for MappedRing {
    #[inline]
    fn constants(&self) -> &RingConstants {
        &self.constants
    }
    #[inline]
    fn header(&self) -> &RingHeader {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of self.
        unsafe { self.header.as_ref() }
    }
    #[inline]
    fn slots(&self) -> &[Slot] {
        // SAFETY: as for the header.
        unsafe { self.slots.as_ref() }
    }
    #[inline]
    fn chunks(&self) -> (NonNull<u8>, u64) {
        (self.chunks, self.chunks_length)
    }
    fn unmapped(&self) -> Option<&dyn UnmappedMemory> {
        self.unmapped.as_ref().map(|unmapped| unmapped as &dyn UnmappedMemory)
    }
    fn reserve(&self, range: Range<u64>) -> Result<(), ReserveError> {
        // Relaxed: see `is_ahead`.
        let start = range.start.max(self.ahead.load(Ordering::Relaxed));
        if start >= range.end {
            return Ok(());
        }
        let bytes = range.end - start;
        self.segment
            .reserve(self.constants.chunks_offset + start..self.constants.chunks_offset + range.end)
            .map_err(|error| ReserveError { bytes, reason: error.to_string() })
    }
}

/// The header of a publisher's ring and nothing else of it, mapped read-only: for those who only look.
#[derive(Debug)]
pub struct MappedHeader {
    header: NonNull<RingHeader>,
    constants: RingConstants,
    /// Keeps it mapped.
    _segment: Segment,
}

// SAFETY: as for `MappedRing`.
unsafe impl Send for MappedHeader {}
// SAFETY: as for Send.
unsafe impl Sync for MappedHeader {}

impl MappedHeader {
    /// Opens the header of a ring, and checks every field of it.
    pub fn open(backend: &dyn Backend, handle: Handle) -> Result<MappedHeader, OpenError> {
        let (found, constants) = RingConstants::find(backend, handle)?;
        let at = found.written(0, SLOTS_OFFSET)?;
        if at < SLOTS_OFFSET {
            return Err(OpenError::Hollow { what: "header", at, end: SLOTS_OFFSET });
        }
        let segment = found.map(PAGE_BYTES)?;
        assert!(SLOTS_OFFSET <= segment.len(), "the header lies within the segment");
        // SAFETY: in bounds: the assertion; aligned: offset 0; atomics only; the pointer lives in a struct beside its segment.
        let header = unsafe { view::<RingHeader>(&segment, 0, 1) }.cast();
        Ok(MappedHeader { header, constants, _segment: segment })
    }

    /// What the ring is.
    pub fn constants(&self) -> &RingConstants {
        &self.constants
    }

    /// The words that its publisher changes.
    pub fn header(&self) -> &RingHeader {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `open`; alive: the segment is a field of self.
        unsafe { self.header.as_ref() }
    }
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
    segment: Segment,
}

// SAFETY: the pointers lead into `segment`, which moves along and is itself Send and Sync; all that they reach is atomics.
unsafe impl Send for MappedSeats {}
// SAFETY: as for Send.
unsafe impl Sync for MappedSeats {}

impl MappedSeats {
    /// Makes a reader segment for end `index` of `node`, with room for `seats` publishers (address space; pages come with use).
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
        let memory = MappedSeats::over(segment, constants, seats as usize, None);
        memory.header().write(&memory.constants);
        Ok(Seats::new(Arc::new(memory), bell))
    }

    /// Opens a subscriber's segment, read-only, and checks every field of its header. `subscriber`: whose it must be.
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
        Ok(MappedSeats::over(found.map(found.len())?, constants, seats_before(at), object))
    }

    fn find(backend: &dyn Backend, handle: Handle) -> Result<Found, SegmentError> {
        let bounds = LengthBounds { min: PAGE_BYTES, max: seats_end(SEATS_MAX).next_multiple_of(PAGE_BYTES) };
        backend.find(handle, Sharing::SingleWriter, bounds)
    }

    /// Looks whether `seat`, which a peer names, has memory now, if that was not known: its segment grows with the publishers that
    /// it attaches to. `handle` is to be of the same segment; another one tells nothing. A seat that has none is no seat of
    /// [`SeatMemory::seats`].
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

    fn over(segment: Segment, constants: ReaderConstants, known: usize, object: Option<Object>) -> Self {
        let seats = constants.seats;
        assert!(seats_end(seats) <= segment.len(), "seats end within the segment");
        assert!(known as u64 <= seats, "they are known among all");
        // SAFETY: in bounds: SEATS_OFFSET is the size of the header, see the assertion; aligned: offset 0; atomics only;
        // the pointer lives in a struct beside its segment.
        let header = unsafe { view::<ReaderHeader>(&segment, 0, 1) }.cast();
        // SAFETY: in bounds: the assertion; aligned: SEATS_OFFSET is a multiple of 64; atomics only; as above.
        let seats = unsafe { view::<Seat>(&segment, SEATS_OFFSET, seats as usize) }.cast();
        MappedSeats { header, seats, constants, known: AtomicUsize::new(known), object, segment }
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
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of self.
        unsafe { self.header.as_ref() }
    }
    #[inline]
    fn seats(&self) -> &[Seat] {
        // Relaxed: it only grows, and what it counts was there before this process looked; nothing that it wrote is read by it.
        let known = self.known.load(Ordering::Relaxed);
        let seats = NonNull::slice_from_raw_parts(self.seats, known);
        // SAFETY: as for the header; `known` is at most the number of seats: by `over`, and `look_for` counts no further.
        unsafe { seats.as_ref() }
    }
    fn is_forked(&self) -> bool {
        self.segment.is_forked()
    }
    fn reserve(&self, seats: Range<usize>) -> Result<(), ReserveError> {
        let start = SEATS_OFFSET + (seats.start * size_of::<Seat>()) as u64;
        let end = SEATS_OFFSET + (seats.end * size_of::<Seat>()) as u64;
        self.segment
            .reserve(start..end)
            .map_err(|error| ReserveError { bytes: end - start, reason: error.to_string() })
    }
}

/// The doorbell segment of a node: [`BELLS_MAX`] lines of address space, backed by pages with use.
#[derive(Debug)]
pub struct Bells {
    lines: NonNull<[Bell]>,
    /// Which lines of an own segment are free; a peer's lines are given out by the peer.
    book: Mutex<BellBook>,
    segment: Segment,
}

#[derive(Debug, Default)]
struct BellBook {
    free: Vec<u32>,
    used: u32,
}

// SAFETY: `lines` leads into `segment`, which moves along and is itself Send and Sync; all that it reaches is atomics.
unsafe impl Send for Bells {}
// SAFETY: as for Send.
unsafe impl Sync for Bells {}

impl Bells {
    /// Makes the doorbell segment of a node.
    pub fn create(backend: &dyn Backend) -> Result<Arc<Bells>, CreateError> {
        let segment = backend.create("bells", u64::from(BELLS_MAX) * LINE_BYTES, Sharing::Doorbell)?;
        segment.reserve(0..PAGE_BYTES)?;
        Ok(Bells::over(segment))
    }

    /// Opens the doorbell segment of a peer, writable.
    pub fn open(backend: &dyn Backend, handle: Handle) -> Result<Arc<Bells>, OpenError> {
        let length = u64::from(BELLS_MAX) * LINE_BYTES;
        let bounds = LengthBounds { min: length, max: length };
        Ok(Bells::over(backend.open(handle, Sharing::Doorbell, bounds)?))
    }

    fn over(segment: Segment) -> Arc<Bells> {
        assert!(segment.len() >= u64::from(BELLS_MAX) * LINE_BYTES, "all lines lie within the segment");
        // SAFETY: in bounds: the assertion; aligned: offset 0; atomics only; the pointer lives beside its segment.
        let lines = unsafe { view::<Bell>(&segment, 0, BELLS_MAX as usize) };
        Arc::new(Bells { lines, book: Mutex::new(BellBook::default()), segment })
    }

    /// Backs a line with memory, of doorbells that are made for the peers of another user: each end of the node has the same line there
    /// as in the node's own.
    pub fn door(self: &Arc<Self>, line: u32) -> Result<MappedBell, CreateError> {
        if line >= BELLS_MAX {
            return Err(CreateError::BellsOut { limit: BELLS_MAX });
        }
        let start = u64::from(line) * LINE_BYTES / PAGE_BYTES * PAGE_BYTES;
        self.segment.reserve(start..start + PAGE_BYTES)?;
        Ok(MappedBell::at(Arc::clone(self), line, false))
    }

    /// A line for a new end of this node; it is given back when the last clone is dropped.
    pub fn take(self: &Arc<Self>) -> Result<MappedBell, CreateError> {
        self.segment.check_home()?;
        let mut book = lock(&self.book);
        let line = match book.free.pop() {
            Some(line) => line,
            None if book.used == BELLS_MAX => return Err(CreateError::BellsOut { limit: BELLS_MAX }),
            None => {
                let start = u64::from(book.used) * LINE_BYTES;
                // A page at a time: every line within it has memory then.
                if start.is_multiple_of(PAGE_BYTES) {
                    self.segment.reserve(start..start + PAGE_BYTES)?;
                }
                book.used += 1;
                book.used - 1
            }
        };
        drop(book);
        Ok(MappedBell::at(Arc::clone(self), line, true))
    }

    /// The line that a peer's header names; `None` if there is no such line.
    pub fn line(self: &Arc<Self>, line: u32) -> Option<MappedBell> {
        (line < BELLS_MAX).then(|| MappedBell::at(Arc::clone(self), line, false))
    }

    /// Whether this handle leads to the same doorbells, as the kernel says.
    pub fn are_of(&self, handle: &Handle) -> Result<bool, SegmentError> {
        self.segment.is_of(handle)
    }

    /// The segment's handle, to be sent to peers.
    pub fn handle(&self) -> Result<Handle, SegmentError> {
        self.segment.handle()
    }

    /// All lines.
    pub fn lines(&self) -> &[Bell] {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of self.
        unsafe { self.lines.as_ref() }
    }
}

/// One line of a doorbell segment.
#[derive(Debug, Clone)]
pub struct MappedBell {
    line: u32,
    bells: Arc<Bells>,
    _ours: Option<Arc<OwnLine>>,
}

/// Gives a line back.
#[derive(Debug)]
struct OwnLine {
    bells: Arc<Bells>,
    line: u32,
}

impl Drop for OwnLine {
    fn drop(&mut self) {
        // In a child the book may be locked for ever.
        if !self.bells.segment.is_forked() {
            lock(&self.bells.book).free.push(self.line);
        }
    }
}

impl MappedBell {
    fn at(bells: Arc<Bells>, line: u32, ours: bool) -> Self {
        let ours = ours.then(|| Arc::new(OwnLine { bells: Arc::clone(&bells), line }));
        MappedBell { line, bells, _ours: ours }
    }
}

impl BellMemory for MappedBell {
    #[inline]
    fn bell(&self) -> &Bell {
        &self.bells.lines()[self.line as usize]
    }
    fn line(&self) -> u32 {
        self.line
    }
    fn beside(&self, line: u32) -> Option<&Bell> {
        self.bells.lines().get(line as usize)
    }
}
