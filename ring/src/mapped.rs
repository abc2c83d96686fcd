//! Rings, seats and doorbells in mapped segments: what turns checked bytes into typed views.
//!
//! All unsafe code that looks into a mapping stands here. It rests on three facts:
//!
//! * *alive, in bounds*: a [`Segment`] maps at least `len()` bytes at `base()` for as long as it lives, and a
//!   peer cannot shrink it (the backend refuses segments without the seal). Every view is computed from
//!   offsets checked against `len()`.
//! * *aligned*: a mapping starts at a page, and every offset used is a multiple of 64.
//! * *initialised, any bytes are valid*: pages start as zeros, and every type that is viewed consists of
//!   atomics only, so no byte pattern is invalid and no concurrent store is a data race.
//!
//! Opening a peer's segment reads the constants of its header once, as bytes and with a system call, checks
//! them, and keeps the checked copy ([`RingConstants`],
//! [`ReaderConstants`](crate::layout::ReaderConstants)): there is no other way to look at them. See the head
//! of [`crate::layout`].
//!
//! **Holes.** A page of a peer's segment that has no memory would get some when it is touched here, at this
//! process's cost. So none is touched:
//!
//! | what                               | who looks at it | why there is memory                                                          |
//! | ---------------------------------- | --------------- | ---------------------------------------------------------------------------- |
//! | header and slots of a ring         | subscribers     | its publisher wrote to each page (`MappedRing::create`); looked at when opened |
//! | chunk memory, publisher trusted    | subscribers     | its publisher reserved it; it is trusted in more than that                    |
//! | chunk memory, publisher not trusted| subscribers     | it is not mapped: see [`crate::unmapped`]                                     |
//! | header and seats of a reader       | publishers      | its subscriber wrote to each before it named it; looked at when opened, and when a seat further on is named |
//! | a line of doorbells                | both            | perhaps none: at most the 4 MiB of each peer node's doorbells, as a peer may name any of its lines |
//!
//! What has been written stays, by the seals ([`crate::segment::Found`]).

mod bells;
mod seats;

pub use self::bells::{BELLS_MAX, Bells, MappedBell};
pub use self::seats::MappedSeats;

use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, CHUNK_MEMORY_MAX, LAYOUT_VERSION, LINE_BYTES, MESSAGE_BYTES_MAX,
    MODE_RELIABLE, RING_CONSTANTS, RING_MAGIC, RingConstants, RingHeader, SLOTS_OFFSET, Slot,
};
use crate::memory::sealed::Sealed;
use crate::memory::{Memory, ReserveError, RingMemory, UnmappedMemory};
pub use crate::refusal::OpenError;
use crate::segment::{
    Backend, Found, Handle, HugePages, LengthBounds, Prefaulted, Segment, SegmentError, Sharing,
};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::unmapped::Unmapped;
use crate::writer::{RingConfig, Writer};
use std::ops::Range;
use std::ptr::NonNull;

/// Chunk memory starts at a multiple of this, and segments are multiples of it.
const PAGE_BYTES: u64 = 4096;
/// Memory in mapped segments.
#[derive(Debug)]
pub enum Mapped {}

impl Sealed for Mapped {}
impl Sealed for MappedRing {}
impl Sealed for MappedSeats {}
impl Sealed for MappedBell {}

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
    /// Checks what a peer says of a ring in a segment of `length` bytes; see [`RingConstants::words`] for the
    /// order.
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

/// Typed reference into a mapping.
///
/// # Safety
/// `offset + size_of::<T>() * count` is at most `segment.len()`, `offset` is a multiple of `align_of::<T>()`
/// (at most a page), `T` consists of atomics only, and the result is not used after `segment` is dropped.
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
    /// The owner's chunk memory up to here has its pages: asking for each again would cost as much as half
    /// of a first touch.
    ahead: AtomicU64,
    segment: Segment,
}

// SAFETY: the pointers lead into `segment`, which moves along and is itself Send and Sync; headers and slots
// are atomics, and who touches which chunk is decided by the algorithms of `writer` and `reader`.
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
        bound("max_message", config.message_max, MESSAGE_BYTES_MAX)?;
        bound("max_memory", config.chunk_memory, CHUNK_MEMORY_MAX)?;
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

    /// As [`open`](Self::open). `trusts` says whether the user who made the memory object is trusted; if not,
    /// chunk memory is not mapped, and messages there are copied out of it. See [`crate::unmapped`].
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
    /// `SLOTS_OFFSET + slots * 64`, and `chunks_offset`, with the chunks if they are mapped, at most
    /// `segment.len()`.
    fn over(segment: Segment, constants: RingConstants, unmapped: Option<Unmapped>) -> Self {
        let RingConstants { capacity, chunks_offset, .. } = constants;
        let chunks_length = if unmapped.is_some() { 0 } else { constants.chunks_length };
        assert!(SLOTS_OFFSET + capacity * LINE_BYTES <= chunks_offset, "slots end before the chunks");
        assert!(chunks_offset + chunks_length <= segment.len(), "chunks end within the segment");
        // SAFETY: in bounds: SLOTS_OFFSET is the size of the header, see the assertions; aligned: offset 0;
        // atomics only; the pointer lives in a struct beside its segment.
        let header = unsafe { view::<RingHeader>(&segment, 0, 1) }.cast();
        // SAFETY: in bounds: first assertion; aligned: SLOTS_OFFSET is a multiple of 64; atomics only; as
        // above.
        let slots = unsafe { view::<Slot>(&segment, SLOTS_OFFSET, capacity as usize) };
        // SAFETY: in bounds: second assertion; bytes need no alignment and are only handed out as an address.
        let chunks = unsafe { segment.base().add(chunks_offset as usize) };
        let ahead = AtomicU64::new(0);
        MappedRing { slots, header, chunks, chunks_length, constants, unmapped, ahead, segment }
    }

    /// Maps the header, the slots and the first `bytes` of chunk memory ahead, so that the first messages
    /// take no page faults: for the publisher right after `create`, which also takes the memory from the
    /// system; for a subscriber right after `open`. Chunks are given out from the beginning of that memory.
    pub fn prefault(&self, bytes: u64) -> Result<Prefaulted, SegmentError> {
        let chunks = bytes.min(self.chunks_length);
        let prefaulted = self.segment.prefault(0..self.constants.chunks_offset + chunks)?;
        self.is_ahead(chunks);
        Ok(prefaulted)
    }

    fn is_ahead(&self, chunks: u64) {
        if self.segment.writable() {
            // Relaxed: this process's own note of what the kernel has done for good; an older one only asks
            // again.
            self.ahead.fetch_max(chunks, Ordering::Relaxed);
        }
    }

    /// Gives the same bytes as [`prefault`](Self::prefault), rounded up, huge pages as far as the kernel can;
    /// for the publisher of a ring from [`create_aligned`](Self::create_aligned), before it is announced. The
    /// result says what was obtained.
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
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of
        // self.
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
        // SAFETY: in bounds: the assertion; aligned: offset 0; atomics only; the pointer lives in a struct
        // beside its segment.
        let header = unsafe { view::<RingHeader>(&segment, 0, 1) }.cast();
        Ok(MappedHeader { header, constants, _segment: segment })
    }

    /// What the ring is.
    pub fn constants(&self) -> &RingConstants {
        &self.constants
    }

    /// The words that its publisher changes.
    pub fn header(&self) -> &RingHeader {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `open`; alive: the segment is a field of
        // self.
        unsafe { self.header.as_ref() }
    }
}
