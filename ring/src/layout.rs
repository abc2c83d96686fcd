//! What lies where in the segments. Every field is an atomic, because another process may look at any time.
//!
//! The constants of a segment are written once, before its descriptor leaves the process. A peer reads them
//! once as well, as bytes into a copy of its own that it checks ([`RingConstants`], [`ReaderConstants`]).
//! Nothing can read them a second time: they have no public field and no method that loads them, so a peer
//! that changes them later changes nothing.
//!
//! Header and slots, or header and taken seats, have been *written* before a peer learns of them, not only
//! reserved: the kernel tells a page that was written from a hole, and a page that is only reserved it does
//! not. See [`crate::mapped`].
//!
//! ```text
//! ring segment                                     reader segment
//! ┌──────────────────────────────┐ 0               ┌──────────────────────────────┐ 0
//! │ constants (RingHeader)       │                 │ constants (ReaderHeader)     │
//! ├──────────────────────────────┤ 128             ├──────────────────────────────┤ 64
//! │ head, on a line of its own   │                 │ sleeping, closed             │
//! ├──────────────────────────────┤ 192             ├──────────────────────────────┤ 128
//! │ tail, blocked, closed, calls │                 │ (to the start of the seats)  │
//! ├──────────────────────────────┤ 256             ├──────────────────────────────┤ 512
//! │ slot 0 … capacity, 64 B each │                 │ seat 0 … seats, 512 B each:  │
//! ├──────────────────────────────┤ page            │  cursor, lost, first, whose  │
//! │ chunk memory, up to a bound  │                 │  pins, 56 words              │
//! └──────────────────────────────┘                 └──────────────────────────────┘
//! ```
//!
//! A slot is one cache line: 56 bytes and a stamp. The stamp says which message lies there and how:
//!
//! ```text
//!  63                                    8 7        0
//! ┌───────────────────────────────────────┬──────────┐
//! │ sequence + 1                          │ kind     │   0 … 56  message of this many bytes, in the slot
//! └───────────────────────────────────────┴──────────┘   KIND_CHUNK      words 0, 1 = offset and length of a chunk
//!   0 = never written                                    KIND_WITHDRAWN  was given up before it was overwritten
//!                                                        KIND_BUSY       is being written now
//! ```

use crate::sync::{AtomicU32, AtomicU64};

/// First word of a ring segment: `HIVERING`.
pub const RING_MAGIC: u64 = u64::from_le_bytes(*b"HIVERING");
/// First word of a reader segment: `HIVEREAD`.
pub const READER_MAGIC: u64 = u64::from_le_bytes(*b"HIVEREAD");
/// Version of both layouts; a peer of another version is refused.
pub const LAYOUT_VERSION: u64 = 4;

/// Bytes of a cache line, of a slot, and the granularity of chunks.
pub const LINE_BYTES: u64 = 64;
/// Messages up to this many bytes travel inside the slot.
pub const INLINE_BYTES: usize = if cfg!(loom) { 16 } else { 56 };
/// The same, in words.
pub const INLINE_WORDS: usize = INLINE_BYTES / 8;
/// Fewest slots of a ring.
pub const CAPACITY_MIN: u64 = 2;
/// Most slots of a ring.
pub const CAPACITY_MAX: u64 = 1 << 20;
/// Largest message of any ring, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 256 << 20;
/// Largest chunk memory of one ring, in bytes.
pub const CHUNK_MEMORY_MAX: u64 = 64 << 30;
const _: () = assert!(CHUNK_MEMORY_MAX <= crate::allocator::LIMIT_MAX);
/// Samples in chunks that one subscriber may hold of one publisher at a time.
pub const PINS: usize = if cfg!(loom) { 2 } else { 56 };
/// Most publishers that one subscriber may be attached to at a time.
pub const SEATS_MAX: u64 = 16_384;
/// Largest sequence number: 2^55, which a publisher of 100 million messages a second reaches after eleven
/// years.
pub const SEQUENCE_MAX: u64 = 1 << 55;

/// Kind of a slot whose message lies in a chunk.
pub const KIND_CHUNK: u64 = 0xF0;
/// Kind of a slot whose message was given up early, because its memory was needed.
pub const KIND_WITHDRAWN: u64 = 0xFE;
/// Kind of a slot that is being written.
pub const KIND_BUSY: u64 = 0xFF;

/// Flag of a ring: the publisher waits for its subscribers instead of overwriting.
pub const MODE_RELIABLE: u64 = 1;

/// Words that only fill a cache line; under loom, where every atomic costs states, there are none.
const fn fill(words: usize) -> usize {
    if cfg!(loom) { 0 } else { words }
}

/// The stamp of message `sequence` with this kind.
#[inline]
pub(crate) const fn stamp(sequence: u64, kind: u64) -> u64 {
    (sequence + 1) << 8 | kind
}

/// One place of the ring; exactly one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Slot {
    /// The message itself, or offset and length of its chunk.
    pub words: [AtomicU64; INLINE_WORDS],
    /// Which message and of which kind; see the head of this module. Its store is the commit.
    pub stamp: AtomicU64,
}

/// Words of constants at the start of a ring segment.
pub(crate) const RING_CONSTANTS: usize = 16;
/// Words of constants at the start of a reader segment.
pub(crate) const READER_CONSTANTS: usize = 8;

/// What a ring is, as its publisher said when it made it. Each field was read once, and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingConstants {
    /// The life of the publisher's node; never reused.
    pub node: u64,
    /// Which end of that node.
    pub index: u32,
    /// Fingerprint of the type.
    pub fingerprint: u128,
    /// Number of slots, a power of two.
    pub capacity: u64,
    /// Byte offset of the chunk memory.
    pub chunks_offset: u64,
    /// Bytes of chunk memory, reserved as address space; backed by pages up to `committed`.
    pub chunks_length: u64,
    /// Largest message in bytes.
    pub message_max: u64,
    /// The publisher waits for its subscribers instead of overwriting.
    pub reliable: bool,
    /// How many past messages a late subscriber gets.
    pub history: u64,
    /// Line of this publisher in its node's doorbell segment.
    pub bell: u32,
    /// How many of the last messages are never given up, so that they are readable when the publisher is
    /// gone.
    pub retained: u64,
}

impl RingConstants {
    /// As they stand in the segment: magic, version, node, index, fingerprint (lower half, upper half),
    /// capacity, offset of the slots, offset of the chunks, their length, message_max, flags
    /// ([`MODE_RELIABLE`]), history, bell, retained, 0.
    #[cfg(not(loom))]
    pub(crate) fn words(&self) -> [u64; RING_CONSTANTS] {
        [
            RING_MAGIC,
            LAYOUT_VERSION,
            self.node,
            u64::from(self.index),
            self.fingerprint as u64,
            (self.fingerprint >> 64) as u64,
            self.capacity,
            SLOTS_OFFSET,
            self.chunks_offset,
            self.chunks_length,
            self.message_max,
            if self.reliable { MODE_RELIABLE } else { 0 },
            self.history,
            u64::from(self.bell),
            self.retained,
            0,
        ]
    }
}

/// What a reader segment is, as its subscriber said when it made it. Each field was read once, and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderConstants {
    /// The life of the subscriber's node.
    pub node: u64,
    /// Which end of that node.
    pub index: u32,
    /// Number of seats.
    pub seats: u64,
    /// Line of this subscriber in its node's doorbell segment.
    pub bell: u32,
}

impl ReaderConstants {
    /// As they stand in the segment: magic, version, node, index, seats, bell, 0, 0.
    #[cfg(not(loom))]
    pub(crate) fn words(&self) -> [u64; READER_CONSTANTS] {
        let (index, bell) = (u64::from(self.index), u64::from(self.bell));
        [READER_MAGIC, LAYOUT_VERSION, self.node, index, self.seats, bell, 0, 0]
    }
}

/// The start of a ring segment: its constants, and the words that its publisher changes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct RingHeader {
    /// See [`RingConstants`]. Private, and nothing here loads them: users have a checked copy.
    constants: [AtomicU64; fill(RING_CONSTANTS)],
    /// Number of messages committed so far: stored after the stamp, so a stamp may be one ahead of it.
    pub head: AtomicU64,
    head_padding: [AtomicU64; fill(7)],
    /// Oldest message that was not withdrawn.
    pub tail: AtomicU64,
    /// Odd while the publisher waits for space; grows by one at each change.
    pub blocked: AtomicU64,
    /// 1 once the publisher ended in order.
    pub closed: AtomicU64,
    /// Bytes of chunk memory that are backed by pages.
    pub committed: AtomicU64,
    /// 1 once the publisher leaves the fence after a commit to those who need it: see [`crate::barrier`].
    pub unfenced: AtomicU64,
    /// Counted up when there is news for the subscribers of other users that listen; their futex. See
    /// [`crate::bell`].
    pub commits: AtomicU32,
    /// Where subscribers of other users call a publisher that waits for space. Nobody changes it.
    pub space: AtomicU32,
    state_padding: [AtomicU64; fill(2)],
}

/// The start of a reader segment: its constants, and the words that its subscriber changes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ReaderHeader {
    /// See [`ReaderConstants`]. Private, and nothing here loads them: users have a checked copy.
    constants: [AtomicU64; fill(READER_CONSTANTS)],
    /// Not 0 while the subscriber is about to sleep or sleeps, or is waited for with others:
    /// [`crate::bell::SLEEPS`], [`crate::bell::LISTENS`], or a [`crate::place::Place`].
    pub sleeping: AtomicU64,
    /// 1 once the subscriber ended in order: its cursors no longer count; its pins do until they are
    /// dropped.
    pub closed: AtomicU64,
    state_padding: [AtomicU64; fill(6)],
    seats_padding: [AtomicU64; fill(48)],
}

/// Writes constants into a header of our own.
#[cfg(not(loom))]
fn write_constants(words: &[AtomicU64], values: &[u64]) {
    for (word, value) in words.iter().zip(values) {
        // Relaxed: nobody else has the segment yet; the socket that hands it over orders these stores.
        word.store(*value, crate::sync::Ordering::Relaxed);
    }
}

/// Where a subscriber stands with one publisher.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Seat {
    /// Sequence of the message that is read next.
    pub cursor: AtomicU64,
    /// Messages of this publisher that were missed for good.
    pub lost: AtomicU64,
    /// Where this subscriber began.
    pub first: AtomicU64,
    /// The publisher: the life of its node …
    pub publisher_node: AtomicU64,
    /// … and which end of that node.
    pub publisher_index: AtomicU64,
    /// Pins beyond this index were never used.
    pub pins_used: AtomicU64,
    /// In the two lowest bits [`SEAT_FREE`], [`SEAT_TAKEN`] or [`SEAT_READ`]; above them how often the seat
    /// was taken, so that a publisher sees when it has passed on to another.
    pub state: AtomicU64,
    padding: [AtomicU64; fill(1)],
    /// Sequence + 1 of each message whose chunk is being read, or 0.
    pub pins: [AtomicU64; PINS],
}

/// [`Seat::state`] of a seat that nobody has. Its pins count until the samples are dropped; its cursor does
/// not.
pub const SEAT_FREE: u64 = 0;
/// [`Seat::state`] of a seat that waits for its publisher's answer.
pub const SEAT_TAKEN: u64 = 1;
/// [`Seat::state`] of a seat whose reader began to read.
pub const SEAT_READ: u64 = 2;
/// The bits of [`Seat::state`] for these.
const SEAT_PHASE_BITS: u32 = 2;

/// What is done with a seat: free, taken or read.
#[inline]
pub(crate) const fn seat_phase(state: u64) -> u64 {
    state & ((1 << SEAT_PHASE_BITS) - 1)
}

/// How often a seat was taken.
#[inline]
pub(crate) const fn seat_life(state: u64) -> u64 {
    state >> SEAT_PHASE_BITS
}

/// The state of a seat that was taken `life` times; wraps after 2^62 lives.
#[inline]
pub(crate) const fn seat_state(life: u64, phase: u64) -> u64 {
    life << SEAT_PHASE_BITS | phase
}

/// Byte offset of the slots in a ring segment.
pub const SLOTS_OFFSET: u64 = size_of::<RingHeader>() as u64;
/// Byte offset of the seats in a reader segment.
pub const SEATS_OFFSET: u64 = size_of::<ReaderHeader>() as u64;

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Slot>() == LINE_BYTES as usize);
    assert!(size_of::<RingHeader>() == 256);
    assert!(std::mem::offset_of!(RingHeader, head) == 128);
    assert!(std::mem::offset_of!(RingHeader, tail) == 192);
    assert!(size_of::<ReaderHeader>() == 512);
    assert!(std::mem::offset_of!(ReaderHeader, sleeping) == 64);
    assert!(size_of::<Seat>() == 512);
    assert!(std::mem::offset_of!(Seat, pins) == 64);
};

/// Words of zeros, as fresh pages are.
fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Slot {
    pub(crate) fn zeroed() -> Self {
        Slot { words: zeros(), stamp: AtomicU64::new(0) }
    }
}

impl RingHeader {
    pub(crate) fn zeroed() -> Self {
        let word = || AtomicU64::new(0);
        RingHeader {
            constants: zeros(),
            head: word(),
            head_padding: zeros(),
            tail: word(),
            blocked: word(),
            closed: word(),
            committed: word(),
            unfenced: word(),
            commits: AtomicU32::new(0),
            space: AtomicU32::new(0),
            state_padding: zeros(),
        }
    }

    /// Says what this ring is: for its owner, before anybody else has it.
    #[cfg(not(loom))]
    pub(crate) fn write(&self, constants: &RingConstants) {
        write_constants(&self.constants, &constants.words());
    }
}

impl ReaderHeader {
    pub(crate) fn zeroed() -> Self {
        let word = || AtomicU64::new(0);
        ReaderHeader {
            constants: zeros(),
            sleeping: word(),
            closed: word(),
            state_padding: zeros(),
            seats_padding: zeros(),
        }
    }

    /// Says what this reader segment is: for its owner, before anybody else has it.
    #[cfg(not(loom))]
    pub(crate) fn write(&self, constants: &ReaderConstants) {
        write_constants(&self.constants, &constants.words());
    }
}

impl Seat {
    pub(crate) fn zeroed() -> Self {
        let word = || AtomicU64::new(0);
        Seat {
            cursor: word(),
            lost: word(),
            first: word(),
            publisher_node: word(),
            publisher_index: word(),
            pins_used: word(),
            state: word(),
            padding: zeros(),
            pins: zeros(),
        }
    }
}
