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
//! Opening a peer's segment reads each header field once, checks it, and keeps the checked copy.

use crate::bell::Bell;
use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, CHUNK_MEMORY_MAX, LAYOUT_VERSION, LINE_BYTES, MESSAGE_BYTES_MAX,
    MODE_RELIABLE, READER_MAGIC, RING_MAGIC, ReaderHeader, RingHeader, SEATS_MAX, SEATS_OFFSET, SLOTS_OFFSET,
    Seat, Slot,
};
use crate::memory::{BellMemory, Memory, ReserveError, RingMemory, SeatMemory};
use crate::reader::Seats;
use crate::segment::{Backend, Handle, HugePages, LengthBounds, Prefaulted, Segment, SegmentError, Sharing};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock};
use crate::writer::{RingConfig, Writer};
use std::ops::Range;
use std::ptr::NonNull;

/// Chunk memory starts at a multiple of this, and segments are multiples of it.
const PAGE_BYTES: u64 = 4096;
/// Lines of a doorbell segment: so many publishers and subscribers a node may have at a time.
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
    /// The ring carries another type than was announced. Attach anew; if it stays so, the publisher is broken.
    #[error("the ring carries type {found:#034x}, announced was {expected:#034x}; attach anew")]
    WrongType {
        /// Fingerprint in the header.
        found: u128,
        /// Fingerprint announced.
        expected: u128,
    },
}

fn field(field: &'static str, value: u64, valid: bool, reason: &'static str) -> Result<u64, OpenError> {
    if valid { Ok(value) } else { Err(OpenError::Field { field, value, reason }) }
}

fn read(word: &AtomicU64) -> u64 {
    // Relaxed: a constant of its owner, ordered by the socket that brought the descriptor; a stranger's word in any case.
    word.load(Ordering::Relaxed)
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
    chunks_offset: u64,
    chunks_length: u64,
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
        let ring = MappedRing::over(segment, slots, chunks_offset, chunks_length);
        config.write(&ring, chunks_offset, chunks_length);
        Ok(Writer::new(Arc::new(ring), bell, &config))
    }

    /// Opens a publisher's ring, read-only, and checks every field of its header.
    pub fn open(
        backend: &dyn Backend,
        handle: Handle,
        announced: Option<Announced>,
    ) -> Result<MappedRing, OpenError> {
        let largest = SLOTS_OFFSET + CAPACITY_MAX * LINE_BYTES + CHUNK_MEMORY_MAX + 2 * PAGE_BYTES;
        let segment =
            backend.open(handle, Sharing::SingleWriter, LengthBounds { min: PAGE_BYTES, max: largest })?;
        // SAFETY: in bounds: the segment has at least a page, the header is smaller; aligned: offset 0; atomics only;
        // not used beyond this function, in which `segment` lives.
        let header = unsafe { view::<RingHeader>(&segment, 0, 1) };
        // SAFETY: one initialised header, as just shown.
        let header = unsafe { header.cast::<RingHeader>().as_ref() };
        let magic = read(&header.magic);
        if magic != RING_MAGIC {
            return Err(OpenError::Magic { expected: "ring", found: magic });
        }
        let version = read(&header.version);
        if version != LAYOUT_VERSION {
            return Err(OpenError::Version { ours: LAYOUT_VERSION, theirs: version });
        }
        let (node, index) = (read(&header.node), read(&header.index));
        let fingerprint =
            u128::from(read(&header.fingerprint_high)) << 64 | u128::from(read(&header.fingerprint_low));
        if let Some(announced) = announced {
            if node != announced.node || index != u64::from(announced.index) {
                return Err(OpenError::WrongPublisher { node, index });
            }
            if fingerprint != announced.fingerprint {
                return Err(OpenError::WrongType { found: fingerprint, expected: announced.fingerprint });
            }
        }
        let capacity = read(&header.capacity);
        let sane = capacity.is_power_of_two() && (CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity);
        field("capacity", capacity, sane, "it must be a power of two within bounds")?;
        let slots_offset = read(&header.slots_offset);
        field("slots_offset", slots_offset, slots_offset == SLOTS_OFFSET, "slots follow the header")?;
        let chunks_offset = read(&header.chunks_offset);
        let expected = (SLOTS_OFFSET + capacity * LINE_BYTES).next_multiple_of(PAGE_BYTES);
        field("chunks_offset", chunks_offset, chunks_offset == expected, "chunks follow the slots")?;
        let chunks_length = read(&header.chunks_length);
        let fits = chunks_offset.checked_add(chunks_length).is_some_and(|end| end <= segment.len());
        field("chunks_length", chunks_length, fits, "chunks end within the segment")?;
        let message_max = read(&header.message_max);
        field(
            "message_max",
            message_max,
            message_max <= MESSAGE_BYTES_MAX,
            "no message is larger than 256 MiB",
        )?;
        let mode = read(&header.mode);
        field("mode", mode, mode & !MODE_RELIABLE == 0, "it has unknown flags")?;
        let history = read(&header.history);
        field("history", history, history < capacity, "it is shorter than the ring")?;
        let bell = read(&header.bell);
        field("bell", bell, bell < u64::from(BELLS_MAX), "a node has no such line")?;
        Ok(MappedRing::over(segment, capacity, chunks_offset, chunks_length))
    }

    /// Keeps checked offsets as pointers. All of them lie within the segment: `chunks_offset` is at least
    /// `SLOTS_OFFSET + slots * 64`, and `chunks_offset + chunks_length` at most `segment.len()`.
    fn over(segment: Segment, slots: u64, chunks_offset: u64, chunks_length: u64) -> Self {
        assert!(SLOTS_OFFSET + slots * LINE_BYTES <= chunks_offset, "slots end before the chunks");
        assert!(chunks_offset + chunks_length <= segment.len(), "chunks end within the segment");
        // SAFETY: in bounds: SLOTS_OFFSET is the size of the header, see the assertions; aligned: offset 0; atomics only;
        // the pointer lives in a struct beside its segment.
        let header = unsafe { view::<RingHeader>(&segment, 0, 1) }.cast();
        // SAFETY: in bounds: first assertion; aligned: SLOTS_OFFSET is a multiple of 64; atomics only; as above.
        let slots = unsafe { view::<Slot>(&segment, SLOTS_OFFSET, slots as usize) };
        // SAFETY: in bounds: second assertion; bytes need no alignment and are only handed out as an address.
        let chunks = unsafe { segment.base().add(chunks_offset as usize) };
        MappedRing { slots, header, chunks, chunks_offset, chunks_length, ahead: AtomicU64::new(0), segment }
    }

    /// Maps the header, the slots and the first `bytes` of chunk memory ahead, so that the first messages take no page faults: for
    /// the publisher right after `create`, which also takes the memory from the system; for a subscriber right after `open`. Chunks are
    /// given out from the beginning of that memory.
    pub fn prefault(&self, bytes: u64) -> Result<Prefaulted, SegmentError> {
        let chunks = bytes.min(self.chunks_length);
        let prefaulted = self.segment.prefault(0..self.chunks_offset + chunks)?;
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
        let huge = self.segment.huge_pages(self.chunks_offset + bytes.min(self.chunks_length))?;
        // Whether huge or not, the pages are there, if it could be tried at all.
        if huge.prefaulted.is_some() {
            self.is_ahead(huge.asked.saturating_sub(self.chunks_offset).min(self.chunks_length));
        }
        Ok(huge)
    }

    /// The publisher and the line of its bell, as the checked header says.
    pub fn publisher(&self) -> (u64, u64, u32) {
        let header = self.header();
        // The bell is checked again where it is used: a stranger may have changed it since.
        (read(&header.node), read(&header.index), u32::try_from(read(&header.bell)).unwrap_or(u32::MAX))
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl RingMemory for MappedRing {
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
    fn reserve(&self, range: Range<u64>) -> Result<(), ReserveError> {
        // Relaxed: see `is_ahead`.
        let start = range.start.max(self.ahead.load(Ordering::Relaxed));
        if start >= range.end {
            return Ok(());
        }
        let bytes = range.end - start;
        self.segment
            .reserve(self.chunks_offset + start..self.chunks_offset + range.end)
            .map_err(|error| ReserveError { bytes, reason: error.to_string() })
    }
}

/// A reader segment: the subscriber's own, or a peer's, mapped read-only.
#[derive(Debug)]
pub struct MappedSeats {
    header: NonNull<ReaderHeader>,
    seats: NonNull<[Seat]>,
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
        let length = (SEATS_OFFSET + seats * size_of::<Seat>() as u64).next_multiple_of(PAGE_BYTES);
        let segment = backend.create("reader", length, Sharing::SingleWriter)?;
        segment.reserve(0..PAGE_BYTES)?;
        let memory = MappedSeats::over(segment, seats);
        let header = memory.header();
        let constants = [
            (&header.version, LAYOUT_VERSION),
            (&header.node, node),
            (&header.index, u64::from(index)),
            (&header.seats, seats),
            (&header.bell, u64::from(bell.line)),
            (&header.magic, READER_MAGIC),
        ];
        for (word, value) in constants {
            // Relaxed: nobody else has the segment yet; the socket that hands it over orders these stores.
            word.store(value, Ordering::Relaxed);
        }
        Ok(Seats::new(Arc::new(memory), bell))
    }

    /// Opens a subscriber's segment, read-only, and checks every field of its header. `subscriber`: whose it must be.
    pub fn open(
        backend: &dyn Backend,
        handle: Handle,
        subscriber: Option<(u64, u32)>,
    ) -> Result<MappedSeats, OpenError> {
        let largest = (SEATS_OFFSET + SEATS_MAX * size_of::<Seat>() as u64).next_multiple_of(PAGE_BYTES);
        let segment =
            backend.open(handle, Sharing::SingleWriter, LengthBounds { min: PAGE_BYTES, max: largest })?;
        // SAFETY: in bounds: the segment has at least a page, the header is smaller; aligned: offset 0; atomics only;
        // not used beyond this function, in which `segment` lives.
        let header = unsafe { view::<ReaderHeader>(&segment, 0, 1) };
        // SAFETY: one initialised header, as just shown.
        let header = unsafe { header.cast::<ReaderHeader>().as_ref() };
        let magic = read(&header.magic);
        if magic != READER_MAGIC {
            return Err(OpenError::Magic { expected: "reader", found: magic });
        }
        let version = read(&header.version);
        if version != LAYOUT_VERSION {
            return Err(OpenError::Version { ours: LAYOUT_VERSION, theirs: version });
        }
        let (node, index) = (read(&header.node), read(&header.index));
        if let Some(subscriber) = subscriber {
            field("node", node, node == subscriber.0, "it is another node than was announced")?;
            field("index", index, index == u64::from(subscriber.1), "it is another end than was announced")?;
        }
        let seats = read(&header.seats);
        let fits = (1..=SEATS_MAX).contains(&seats)
            && SEATS_OFFSET + seats * size_of::<Seat>() as u64 <= segment.len();
        field("seats", seats, fits, "seats end within the segment")?;
        let bell = read(&header.bell);
        field("bell", bell, bell < u64::from(BELLS_MAX), "a node has no such line")?;
        Ok(MappedSeats::over(segment, seats))
    }

    fn over(segment: Segment, seats: u64) -> Self {
        assert!(
            SEATS_OFFSET + seats * size_of::<Seat>() as u64 <= segment.len(),
            "seats end within the segment"
        );
        // SAFETY: in bounds: SEATS_OFFSET is the size of the header, see the assertion; aligned: offset 0; atomics only;
        // the pointer lives in a struct beside its segment.
        let header = unsafe { view::<ReaderHeader>(&segment, 0, 1) }.cast();
        // SAFETY: in bounds: the assertion; aligned: SEATS_OFFSET is a multiple of 64; atomics only; as above.
        let seats = unsafe { view::<Seat>(&segment, SEATS_OFFSET, seats as usize) };
        MappedSeats { header, seats, segment }
    }

    /// Line of the subscriber's bell, as the header says; to be checked where it is used.
    pub fn bell_line(&self) -> u32 {
        u32::try_from(read(&self.header().bell)).unwrap_or(u32::MAX)
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl SeatMemory for MappedSeats {
    #[inline]
    fn header(&self) -> &ReaderHeader {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of self.
        unsafe { self.header.as_ref() }
    }
    #[inline]
    fn seats(&self) -> &[Seat] {
        // SAFETY: as for the header.
        unsafe { self.seats.as_ref() }
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
}
