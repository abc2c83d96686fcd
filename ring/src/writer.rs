//! The publisher's end of a ring.
//!
//! A message is committed by one store, the stamp of its slot:
//!
//! ```text
//! slot.stamp = busy(n)     from here on the message n - capacity is gone
//! fence(Release)           edge rewrite: no word of n is seen under the old stamp
//! slot.words = …           the message, or where its chunk lies
//! slot.stamp = n, kind     edge commit: the message exists
//! head = n + 1
//! light barrier            edge sleep, edge attach: see `barrier`
//! sleepers != 0 ?          ring the bell
//! ```
//!
//! If the publisher dies before the commit, the message never existed (and the one that it would have overwritten is
//! gone, as overwritten messages are). If it dies right after, every reader finds the message by its stamp; `head` may stay
//! one behind and is never trusted to be the newest.
//!
//! A chunk whose slot was overwritten is *retired*. When memory is needed the publisher looks once at the pins of all
//! readers for the whole batch of retired chunks, and frees those that nobody pins (edges pin, unpin). All
//! book-keeping of memory is private to the publisher, so a crash leaves nothing to repair.
//!
//! A chunk that is filled in across calls (`draft`) may begin on paper: its place is fixed, and the system gives its memory only as far as
//! it is filled (`Writer::back`). Memory without pages lies at the end of the chunk area and belongs to that one draft:
//!
//! ```text
//! chunk area   | handed out or free ...        | draft: filled | ahead | on paper |
//!              0                                                       backed     allocator's committed
//! ```
//!
//! What becomes of it without a commit is given up by the allocator again, so the next chunk never finds a place without pages.
//!
//! When memory runs out, a lossy publisher *withdraws* its oldest messages early; readers count these as lost. A reliable
//! one withdraws only what all readers have read, and otherwise says so and lets the caller wait.

use crate::allocator::{Chunk, ChunkAllocator};
use crate::barrier::CommitOrder;
use crate::bell::{self, Bell, LISTENS, SLEEPS, STRANGERS, Words};
use crate::desk::{Call, Desk, Peer};
use crate::fork::Counter;
use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, INLINE_BYTES, INLINE_WORDS, KIND_BUSY, KIND_CHUNK, KIND_WITHDRAWN,
    LINE_BYTES, PINS, RingConstants, SEQUENCE_MAX, stamp,
};
use crate::line::Line;
use crate::memory::{BellMemory, Memory, ReserveError, RingMemory, SeatMemory};
use crate::sync::{Arc, Ordering, fence, strong};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// Retired chunks reclaimed per batch, at the cost of one fence and one look at all pins …
const RECLAIM_BATCH: usize = 16;
/// … plus one chunk for every this many readers, whose pins have to be looked at. A larger batch would let
/// the chunks that come back leave the cache first.
const READERS_PER_RECLAIM: usize = 2;
/// Most chunks that are kept at hand, once they came back, for messages of the same size.
const RECYCLED_MAX: usize = 64;
/// Chunk memory grows by at least this many bytes at a time …
const GROWTH_MIN: u64 = 64 << 10;
/// … and by at most this many more than are needed at once.
const GROWTH_MAX: u64 = 16 << 20;
/// A blocked publisher looks by itself this often: readers do not pay a fence per message to make their wake-up certain,
/// and a reader that pauses between two messages rings no bell.
const BLOCKED_RECHECK: Duration = Duration::from_millis(1);
/// Looks at the readers before a blocked publisher sleeps: about as long as a wake-up takes, since each look pauses (see [`FULL_PAUSES`]).
const BLOCKED_SPINS: u32 = if cfg!(loom) { 0 } else { 30 };
/// A publisher that finds no room pauses so often and looks once more before it says so: each look takes the line of a cursor
/// away from its reader, and looking less often lets that one read more than one message in between.
const FULL_PAUSES: u32 = if cfg!(loom) { 0 } else { 10 };

/// A chunk of up to this many bytes may carry a message of `length` bytes: a quarter more, and at least the whole line.
fn tolerated(length: u64) -> u64 {
    (length + length / 4).next_multiple_of(LINE_BYTES)
}

/// The publisher's end. `Send`, not `Sync`: one thread at a time.
pub struct Writer<M: Memory> {
    ring: Arc<M::Ring>,
    desk: Arc<Desk<M>>,
    /// That of the desk.
    version: Counter,
    bell: M::Bell,
    /// Sequence of the next message; equals `head`, which only this writer stores.
    next: u64,
    /// Oldest message that was not withdrawn; equals `tail`.
    tail: u64,
    /// The first sequence that must not be written before the readers were asked again (cached, may be too low).
    limit: u64,
    reliable: bool,
    message_max: u64,
    readers: Vec<Arc<Peer<M>>>,
    readers_version: u64,
    /// Our line at the door of each other user that has a reader here.
    doors: Vec<M::Bell>,
    /// The version of the list when `admit` last looked; `readers` may be newer.
    admitted_version: u64,
    /// How many of `readers` have not ended.
    attached: usize,
    /// Which chunk each slot holds; empty until the first chunk is sent.
    occupants: Vec<Option<Chunk>>,
    retired: VecDeque<(u64, Chunk)>,
    /// Number of retired chunks that is worth a look at the pins.
    reclaim_at: usize,
    /// What `blocked` in the header says.
    blocked: u64,
    /// Looks before the next sleep, at most [`BLOCKED_SPINS`].
    spins: u32,
    order: CommitOrder,
    allocator: ChunkAllocator,
    /// The longest message that can be, by the bounds of messages and of memory.
    longest: u64,
    /// Bytes of the chunk memory that the system has given; more is committed only for a draft that begins on
    /// paper.
    backed: u64,
    /// It takes no more than this from the system, whatever the ring's bound says.
    growth_limit: u64,
    /// Chunks that came back and wait for a message of their size; the last came back last.
    recycled: Vec<Chunk>,
    /// The pins of all readers, collected anew for each reclaim.
    pinned: Vec<u64>,
    /// Whether `closed` in the header says so.
    is_closed: bool,
    /// Not `Sync`, though all its parts are: two threads must not commit at once.
    one_thread: std::marker::PhantomData<std::cell::Cell<()>>,
}

/// The ring has no room, because a reader of a reliable ring has not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// A reader is `capacity` messages behind.
    #[error(
        "a subscriber is {capacity} messages behind; wait for it, or create the publisher with more `capacity`"
    )]
    Full {
        /// Slots of the ring.
        capacity: u64,
    },
    /// The ring has carried all the messages that it can number. Create the publisher anew.
    #[error("the publisher has sent 2^55 messages, all that it can number; create it anew")]
    SequencesOut,
    /// The ring belongs to another process, from which this one was forked. Join after the fork.
    #[cfg(not(loom))]
    #[error(transparent)]
    Forked(#[from] crate::fork::Forked),
}

/// Why there is no chunk for a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// The message is larger than this ring allows.
    #[error("{bytes} bytes are more than the {limit} that a message may have; raise `max_message`")]
    TooLarge {
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes that a message may have.
        limit: u64,
    },
    /// All memory up to the bound is in messages that may not be given up: pinned by subscribers or, on a reliable ring, not
    /// yet read or kept as history. Or the message is larger than all that memory.
    #[error(
        "no room for {bytes} bytes: all {limit} bytes are in messages that subscribers hold or have yet to read, or \
         that are kept as history; wait until they let go, or raise `max_memory`"
    )]
    MemoryOut {
        /// Bytes that were asked for.
        bytes: u64,
        /// Bound of the chunk memory.
        limit: u64,
    },
    /// The operating system refused more memory. Free some, or raise the limit of the container.
    #[error("no room for {bytes} bytes: {source}; free memory, or raise the limit of this container")]
    System {
        /// Bytes that were asked for.
        bytes: u64,
        /// What the system said.
        source: ReserveError,
    },
}

/// What a ring is made to do. See the fields' meaning in [`RingConstants`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingConfig {
    /// The life of the publisher's node.
    pub node: u64,
    /// Which end of that node.
    pub index: u32,
    /// Fingerprint of the type.
    pub fingerprint: u128,
    /// Number of slots; rounded up to a power of two within the bounds of [`crate::layout`].
    pub capacity: u64,
    /// Largest message in bytes.
    pub message_max: u64,
    /// Bound of the chunk memory in bytes.
    pub chunk_memory: u64,
    /// Wait for readers instead of overwriting.
    pub reliable: bool,
    /// Past messages that a late reader gets; at most `capacity - 1` are kept.
    pub history: u64,
    /// Past messages that are kept for readers that come when the publisher is gone; at most `capacity - 1`.
    pub retained: u64,
    /// Line in the node's doorbell segment.
    pub bell: u32,
}

impl RingConfig {
    /// Slots that the ring will have.
    pub fn slots(&self) -> u64 {
        self.capacity.clamp(CAPACITY_MIN, CAPACITY_MAX).next_power_of_two()
    }

    /// What the ring is. `chunks_offset` and `chunks_length` say where the memory has its chunks.
    pub(crate) fn constants(&self, chunks_offset: u64, chunks_length: u64) -> RingConstants {
        RingConstants {
            node: self.node,
            index: self.index,
            fingerprint: self.fingerprint,
            capacity: self.slots(),
            chunks_offset,
            chunks_length,
            message_max: self.message_max,
            reliable: self.reliable,
            history: self.history.min(self.slots() - 1),
            bell: self.bell,
            retained: self.retained.min(self.slots() - 1),
        }
    }
}

impl<M: Memory> std::fmt::Debug for Writer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("next", &self.next)
            .field("readers", &self.readers.len())
            .field("allocator", &self.allocator)
            .finish_non_exhaustive()
    }
}

impl<M: Memory> Writer<M> {
    /// Takes over a fresh ring, whose constants `config` wrote. The only writer of that ring: the caller sees to it.
    pub(crate) fn new(ring: Arc<M::Ring>, bell: M::Bell, config: &RingConfig) -> Self {
        let (_, chunk_memory) = ring.chunks();
        let desk = Arc::new(Desk::new(Arc::clone(&ring), bell.clone()));
        let allocator = ChunkAllocator::new(chunk_memory);
        Writer {
            ring,
            version: desk.version().clone(),
            desk,
            bell,
            next: 0,
            tail: 0,
            limit: if config.reliable { 0 } else { SEQUENCE_MAX },
            reliable: config.reliable,
            message_max: config.message_max,
            readers: Vec::new(),
            readers_version: 0,
            doors: Vec::new(),
            admitted_version: 0,
            attached: 0,
            occupants: Vec::new(),
            retired: VecDeque::new(),
            reclaim_at: RECLAIM_BATCH,
            blocked: 0,
            spins: BLOCKED_SPINS,
            order: CommitOrder::default(),
            longest: config.message_max.min(allocator.limit()),
            allocator,
            backed: 0,
            growth_limit: u64::MAX,
            recycled: Vec::new(),
            pinned: Vec::new(),
            is_closed: false,
            one_thread: std::marker::PhantomData,
        }
    }

    /// Where this publisher's readers register.
    pub fn desk(&self) -> &Arc<Desk<M>> {
        &self.desk
    }

    /// The segment.
    pub fn ring(&self) -> &Arc<M::Ring> {
        &self.ring
    }

    /// Whether this is a child of the publisher's process: what it commits reaches nobody.
    #[inline]
    pub fn is_forked(&self) -> bool {
        Counter::is_forked(self.version.get())
    }

    /// Messages committed so far; also the sequence of the next one.
    #[inline]
    pub fn published(&self) -> u64 {
        self.next
    }

    /// Readers that were attached when this publisher last sent.
    #[inline]
    pub fn readers(&self) -> usize {
        self.attached
    }

    /// Largest message in bytes.
    #[inline]
    pub fn message_max(&self) -> u64 {
        self.message_max
    }

    /// Bytes of chunk memory in use, committed by the system, and allowed.
    pub fn memory(&self) -> (u64, u64, u64) {
        let at_hand: u64 = self.recycled.iter().map(Chunk::length).sum();
        (self.allocator.in_use() - at_hand, self.backed, self.allocator.limit())
    }

    /// Bytes of chunk memory that were taken from the system.
    #[inline]
    pub fn taken(&self) -> u64 {
        self.backed
    }

    /// From now on chunk memory grows to no more than `bytes`, where the bound of the ring does not say less; what was taken stays.
    pub fn limit_growth(&mut self, bytes: u64) {
        self.growth_limit = bytes;
    }

    /// Makes sure that one message may be committed. Never blocks. Once this said yes, it stays yes until that commit:
    /// a reader that attaches meanwhile begins late enough.
    #[inline]
    pub fn admit(&mut self) -> Result<(), AdmitError> {
        if self.version.get() != self.admitted_version {
            self.admit_readers()?;
        }
        if self.next >= self.limit { self.rescan() } else { Ok(()) }
    }

    /// As [`Writer::admit`], but waits for space, at most for `timeout`. Spins briefly, then sleeps.
    pub fn admit_within(&mut self, timeout: Duration) -> Result<(), AdmitError> {
        let mut outcome = self.admit();
        let start = Instant::now();
        let mut looks = 0;
        while let Err(AdmitError::Full { .. }) = outcome {
            let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return outcome;
            };
            looks += 1;
            if looks < self.spins {
                crate::sync::spin_loop();
                outcome = self.admit();
                if outcome.is_ok() {
                    self.spins = BLOCKED_SPINS;
                }
            } else {
                // Where looking was in vain, the readers share this processor or are slow: the less is looked next time.
                self.spins = (self.spins / 2).max(BLOCKED_SPINS / 16);
                outcome = self.sleep_for_space(left.min(BLOCKED_RECHECK));
            }
        }
        outcome
    }

    /// Says that it is blocked, looks once more, sleeps until a reader made space or `timeout` is over.
    fn sleep_for_space(&mut self, timeout: Duration) -> Result<(), AdmitError> {
        // Relaxed: the fence below makes it an Acquire, which pairs with the reader's count, after it moved its cursor.
        let seen = self.bell.bell().space.load(Ordering::Relaxed);
        self.blocked += 1;
        // Relaxed: readers use it as a hint (see BLOCKED_RECHECK).
        self.ring.header().blocked.store(self.blocked, Ordering::Relaxed);
        // Pairs with nothing that must not be missed, but makes the hint visible before the last look.
        fence(strong!("space: writer fence", SeqCst));
        if self.admit().is_err() {
            if self.doors.is_empty() || !bell::can_wait_for_any() {
                bell::wait(&self.bell.bell().space, seen, Some(timeout));
            } else {
                self.wait_among_strangers(seen, timeout);
            }
        }
        self.blocked += 1;
        // Relaxed: as above.
        self.ring.header().blocked.store(self.blocked, Ordering::Relaxed);
        self.admit()
    }

    /// Waits for space, also for a call of readers of other users. They change no word, so one call in a great many is missed:
    /// BLOCKED_RECHECK bounds that, as it bounds what readers may spoil.
    #[cold]
    fn wait_among_strangers(&self, seen: u32, timeout: Duration) {
        let mut words = Words::of(&self.bell.bell().space);
        words.add(&self.ring.header().space);
        // Relaxed: as in `Words::of`; a reader that counted since the look has made space since.
        if self.bell.bell().space.load(Ordering::Relaxed) == seen {
            bell::wait_for_any(&words, Some(timeout));
        }
    }

    /// Commits a message of up to 56 bytes, which travels in the slot. Call [`Writer::admit`] first. Never blocks;
    /// one system call for each reader that sleeps, otherwise none. Returns how many readers are attached.
    #[inline(always)]
    pub fn send_inline(&mut self, words: &[u64; INLINE_WORDS], length: usize) -> usize {
        self.send_inline_quietly(words, length);
        self.announce();
        self.attached
    }

    /// As [`Writer::send_inline`], but wakes nobody: [`Writer::announce`] has to follow.
    #[inline(always)]
    pub fn send_inline_quietly(&mut self, words: &[u64; INLINE_WORDS], length: usize) {
        assert!(length <= INLINE_BYTES, "a message in the slot has at most 56 bytes");
        self.commit(words, length as u64, None);
    }

    /// Commits a message of `length` bytes that lies at the start of `chunk`. Otherwise as [`Writer::send_inline`].
    #[inline]
    pub fn send_chunk(&mut self, chunk: Chunk, length: u64) -> usize {
        self.send_chunk_quietly(chunk, length);
        self.announce();
        self.attached
    }

    /// As [`Writer::send_chunk`], but wakes nobody: [`Writer::announce`] has to follow.
    #[inline]
    pub fn send_chunk_quietly(&mut self, chunk: Chunk, length: u64) {
        assert!(length <= chunk.length(), "the message lies in its chunk");
        // A reader takes no more than these two words.
        self.commit(&[chunk.offset(), length], KIND_CHUNK, Some(chunk));
    }

    /// Wakes the readers that sleep, after commits.
    #[inline(always)]
    pub fn announce(&mut self) {
        // edge sleep. Relaxed: the barrier of the last commit orders it; a stale 0 means that the sleeper's own look comes after that commit.
        if self.bell.bell().sleepers.load(Ordering::Relaxed) != 0 {
            self.ring_bell();
        }
    }

    /// Uses up a sequence number for a message that does not exist, so that every reader counts one as lost: what was lost before it came
    /// here. Call [`Writer::admit`] first. Never blocks.
    pub fn skip(&mut self) {
        self.commit(&[], KIND_WITHDRAWN, None);
        self.announce();
    }

    /// As [`Writer::skip`] for `left` numbers, at the cost of at most as many commits as the ring has slots, however many there are: those before
    /// them are passed over, since no slot would show them in the end. `left` says how many are still to be used up.
    ///
    /// # Errors
    /// [`AdmitError`]. A reliable ring passes over numbers when its readers have read everything before them.
    pub fn skip_many(&mut self, left: &mut u64) -> Result<(), AdmitError> {
        let capacity = self.ring.slots().len() as u64;
        if *left > SEQUENCE_MAX.saturating_sub(self.next) {
            return Err(AdmitError::SequencesOut);
        }
        if *left > capacity {
            self.admit()?;
            self.refresh();
            if self.reliable && self.slowest() < self.next {
                return Err(AdmitError::Full { capacity });
            }
            self.pass_over(*left - capacity);
            // Nothing unread is overwritten: on a reliable ring there is nothing unread.
            self.limit = SEQUENCE_MAX;
            (0..capacity).for_each(|_| self.commit(&[], KIND_WITHDRAWN, None));
            *left = 0;
            if self.reliable {
                self.limit = self.next;
            }
            self.announce();
            return Ok(());
        }
        let before = *left;
        let mut outcome = Ok(());
        while *left > 0 {
            outcome = self.admit();
            if outcome.is_err() {
                break;
            }
            self.commit(&[], KIND_WITHDRAWN, None);
            *left -= 1;
        }
        if *left < before {
            self.announce();
        }
        outcome
    }

    /// Goes on `numbers` further, without a word in the ring. A round of commits has to follow: until then the slots show messages that are more
    /// than a round older, and a reader that jumps ahead waits at such a slot.
    fn pass_over(&mut self, numbers: u64) {
        if !self.occupants.is_empty() {
            // Whose chunks the slots hold is told by their distance to `next`, so they are retired before it leaps.
            let capacity = self.ring.slots().len() as u64;
            (self.next.saturating_sub(capacity)..self.next).for_each(|sequence| self.withdraw(sequence));
        }
        self.next += numbers;
    }

    /// How many messages can be committed before a reader has read on. On a lossy ring nobody waits: the number of slots.
    pub fn room(&mut self) -> u64 {
        if !self.reliable {
            return self.ring.slots().len() as u64;
        }
        // A look at all cursors once in half a ring, as when sending.
        if self.limit.saturating_sub(self.next) < self.ring.slots().len() as u64 / 2 && self.rescan().is_err()
        {
            return 0;
        }
        if self.admit().is_ok() { self.limit - self.next } else { 0 }
    }

    #[inline(always)]
    fn commit(&mut self, words: &[u64], kind: u64, chunk: Option<Chunk>) {
        debug_assert!(self.next < self.limit, "a message is admitted before it is committed");
        debug_assert!(!self.is_closed, "a publisher that has ended commits nothing");
        let sequence = self.next;
        let slots = self.ring.slots();
        let index = (sequence as usize) & (slots.len() - 1);
        let slot = &slots[index];
        // Relaxed: the fence below orders it before the words.
        slot.stamp.store(stamp(sequence, KIND_BUSY), Ordering::Relaxed);
        // edge rewrite: a reader that sees one of the new words also sees the busy stamp.
        fence(strong!("rewrite: writer fence", Release));
        Line::store(words, slot);
        // edge commit: all bytes of the message, also those in its chunk, are written before its stamp can be seen.
        slot.stamp.store(stamp(sequence, kind), strong!("commit: stamp", Release));
        self.next = sequence + 1;
        // Release: whoever starts from `head` finds the messages before it complete.
        self.ring.header().head.store(self.next, strong!("commit: head", Release));
        if chunk.is_some() || !self.occupants.is_empty() {
            self.occupy(sequence, index, chunk);
        }
        // edge sleep, edge attach: the commit comes before the look at `sleepers` and before the next look at the desk.
        self.order.after_commit(self.ring.header(), self.next);
    }

    /// Records which chunk the slot holds now, and retires the one that it held.
    #[inline]
    fn occupy(&mut self, sequence: u64, index: usize, chunk: Option<Chunk>) {
        if self.occupants.is_empty() {
            self.prepare_tables();
        }
        if let Some(former) = std::mem::replace(&mut self.occupants[index], chunk) {
            // A former message lay here, so the sequence is at least the number of slots.
            self.retired.push_back((sequence - self.ring.slots().len() as u64, former));
        }
    }

    /// Makes room for what the first message in a chunk needs; a publisher of short messages never does.
    #[cold]
    fn prepare_tables(&mut self) {
        self.occupants.resize_with(self.ring.slots().len(), || None);
        self.recycled.reserve(RECYCLED_MAX);
        self.make_room_in_tables();
    }

    /// Wakes all readers that sleep: one system call for all that listen, and one for each that sleeps alone.
    #[cold]
    fn ring_bell(&mut self) {
        // Relaxed: as in `announce`.
        let seen = self.bell.bell().sleepers.load(Ordering::Relaxed);
        let wakes_strangers = seen & STRANGERS != 0 && self.look_at_doors();
        if seen == STRANGERS && !wakes_strangers && !self.doors.is_empty() {
            return;
        }
        self.order.note_ring(self.ring.header(), self.next);
        if seen == STRANGERS && !self.doors.is_empty() {
            return;
        }
        let sleepers = take_sleepers(self.bell.bell());
        if sleepers & STRANGERS != 0 {
            self.keep_strangers();
        }
        if sleepers & LISTENS != 0 {
            bell::ring(&self.bell.bell().commits);
        }
        if sleepers & SLEEPS != 0 {
            self.look_at_readers();
        }
    }

    /// Wakes the readers that sleep alone, and notices those that have ended.
    fn look_at_readers(&mut self) {
        self.refresh();
        self.attached = 0;
        for reader in &self.readers {
            self.attached += usize::from(!reader.closed());
            reader.wake_if_alone();
        }
        // A reader that ends sets this bit too, so that its end is noticed here without a root.
        if self.attached < self.readers.len() {
            self.desk.prune();
        }
    }

    /// Wakes the readers of other users that sleep: at most one system call for all of them. Whether there are any.
    #[cold]
    fn look_at_doors(&mut self) -> bool {
        // The list is as new as the bit: a sleeper behind a door was on it before, and the commit's barrier
        // comes before this look.
        self.refresh();
        let mut sleepers = 0;
        for door in &self.doors {
            // edge sleep. Relaxed: as in `announce`.
            if door.bell().sleepers.load(Ordering::Relaxed) != 0 {
                sleepers |= take_sleepers(door.bell());
            }
        }
        if sleepers & LISTENS != 0 {
            bell::ring(&self.ring.header().commits);
        }
        // One that has ended.
        if sleepers & SLEEPS != 0 {
            self.look_at_readers();
        }
        sleepers & LISTENS != 0
    }

    /// Puts [`STRANGERS`] back, which was taken out with the sleepers of our user, unless the last stranger has gone.
    #[cold]
    fn keep_strangers(&mut self) {
        if self.doors.is_empty() {
            // Under the lock, whatever the version says: the thread that set the bit taken out had changed
            // the list before, under this lock.
            self.fetch_readers();
        }
        if !self.doors.is_empty() {
            // Relaxed: only this publisher reads the bit.
            self.bell.bell().sleepers.fetch_or(STRANGERS, Ordering::Relaxed);
        }
    }

    /// Takes notice of readers that came or went, or of a fork: on a reliable ring all are asked anew where they are. This belongs to
    /// `admit` alone, so that what was admitted stays admitted when the list is fetched before the commit, for other reasons.
    #[cold]
    fn admit_readers(&mut self) -> Result<(), AdmitError> {
        #[cfg(not(loom))]
        self.desk.home().check()?;
        self.refresh();
        self.admitted_version = self.readers_version;
        if self.reliable {
            self.limit = self.next.min(self.limit);
        }
        Ok(())
    }

    /// Fetches the list of readers, if it changed.
    #[cold]
    fn refresh(&mut self) {
        if self.version.get() != self.readers_version && !self.desk.is_forked() {
            self.fetch_readers();
        }
    }

    fn fetch_readers(&mut self) {
        (self.readers_version, self.readers) = self.desk.readers();
        self.attached = self.readers.iter().filter(|reader| !reader.closed()).count();
        self.doors.clear();
        for reader in &self.readers {
            if let Call::Door(door) = &reader.call
                && !self.doors.iter().any(|known| std::ptr::eq(known.bell(), door.bell()))
            {
                self.doors.push(door.clone());
            }
        }
        if !self.occupants.is_empty() {
            self.make_room_in_tables();
        }
    }

    /// Lets the private tables have room for all chunks that there can be with these readers, so that sending does not
    /// allocate on the heap: one chunk for each slot, one for each pin, those at hand, and a batch on the way.
    fn make_room_in_tables(&mut self) {
        let pins = self.readers.len() * PINS;
        let retired = pins + 2 * self.reclaim_batch();
        self.pinned.reserve(pins.saturating_sub(self.pinned.len()));
        self.retired.reserve(retired.saturating_sub(self.retired.len()));
        self.allocator.expect_chunks(self.ring.slots().len() + retired + RECYCLED_MAX + 1);
    }

    /// Asks all readers where they are. On a reliable ring nothing is overwritten that one of them has yet to read.
    #[cold]
    fn rescan(&mut self) -> Result<(), AdmitError> {
        if self.next >= SEQUENCE_MAX {
            return Err(AdmitError::SequencesOut);
        }
        let capacity = self.ring.slots().len() as u64;
        self.limit = (self.slowest() + capacity).min(SEQUENCE_MAX);
        if self.next >= self.limit && FULL_PAUSES > 0 {
            (0..FULL_PAUSES).for_each(|_| crate::sync::spin_loop());
            self.limit = (self.slowest() + capacity).min(SEQUENCE_MAX);
        }
        if self.next >= self.limit && FULL_PAUSES > 0 {
            (0..FULL_PAUSES).for_each(|_| crate::sync::spin_loop());
            self.limit = (self.slowest() + capacity).min(SEQUENCE_MAX);
        }
        if self.next < self.limit { Ok(()) } else { Err(AdmitError::Full { capacity }) }
    }

    /// The first message that a reader has yet to read.
    fn slowest(&self) -> u64 {
        let mut slowest = self.next;
        for reader in &self.readers {
            if reader.closed() {
                continue;
            }
            // Relaxed: a lower bound from the moment at which the reader is on the list.
            let first = reader.first.load(Ordering::Relaxed);
            // edge consume. Acquire: the reader's last read of the slots before its cursor is done. It is a stranger's
            // word, so it is brought into bounds: a reader can hold up this ring, which is its right, and no more.
            let cursor =
                reader.seats.seats()[reader.seat].cursor.load(strong!("consume: writer looks", Acquire));
            slowest = slowest.min(cursor.clamp(first.min(self.next), self.next));
        }
        slowest
    }

    /// Finds memory for a message of `length` bytes: free memory, then what nobody pins any more, then more from the system, then
    /// (lossy rings) that of the oldest messages. Never blocks.
    pub fn allocate(&mut self, length: u64) -> Result<Chunk, AllocateError> {
        match self.at_hand(length) {
            Some(chunk) => Ok(chunk),
            None => self.allocate_by(length, Writer::grow),
        }
    }

    /// Memory that needs nothing of the system, and no message given up. `None` also where the length is refused.
    #[inline(always)]
    fn at_hand(&mut self, length: u64) -> Option<Chunk> {
        if length > self.longest {
            return None;
        }
        if self.retired.len() >= self.reclaim_at {
            self.reclaim();
        }
        self.recycle(length).or_else(|| self.allocator.allocate(length))
    }

    /// As [`Writer::allocate`], for a chunk that is filled in piece by piece: of a long one only the place is taken, and its memory by
    /// [`Writer::back`]. It is sent or released before anything else is allocated.
    pub(crate) fn allocate_ahead(&mut self, length: u64) -> Result<Chunk, AllocateError> {
        debug_assert_eq!(self.backed, self.allocator.committed(), "one chunk at a time begins on paper");
        if length <= GROWTH_MIN {
            return self.allocate(length);
        }
        let outcome = match self.at_hand(length) {
            Some(chunk) => Ok(chunk),
            None => self.allocate_by(length, Writer::grow_on_paper),
        };
        let end = outcome.as_ref().map_or(0, |chunk| chunk.offset() + chunk.length());
        self.allocator.retract(end.max(self.backed));
        outcome
    }

    /// How much of `chunk`, from [`Writer::allocate_ahead`], has memory, in bytes.
    pub(crate) fn backed(&self, chunk: &Chunk) -> u64 {
        self.backed.saturating_sub(chunk.offset()).min(chunk.length())
    }

    /// Sees to it that the first `length` bytes of `chunk`, from [`Writer::allocate_ahead`], have memory. It takes up to as much again ahead.
    pub(crate) fn back(&mut self, chunk: &Chunk, length: u64) -> Result<(), ReserveError> {
        let length = length.min(chunk.length());
        let end = chunk.offset() + length;
        if end <= self.backed {
            return Ok(());
        }
        let ahead = length.clamp(GROWTH_MIN, GROWTH_MAX);
        let end = (end + ahead).next_multiple_of(GROWTH_MIN).min(chunk.offset() + chunk.length());
        self.ring.reserve(self.backed..end)?;
        self.backed = end;
        // Relaxed: a figure for observers.
        self.ring.header().committed.store(end, Ordering::Relaxed);
        Ok(())
    }

    /// The long way, when nothing is at hand.
    #[cold]
    #[inline(never)]
    fn allocate_by(
        &mut self,
        length: u64,
        grow: fn(&mut Self, u64) -> Result<(), ReserveError>,
    ) -> Result<Chunk, AllocateError> {
        if length > self.message_max {
            return Err(AllocateError::TooLarge { bytes: length, limit: self.message_max });
        }
        if length > self.allocator.limit() {
            // No use to give up messages for it.
            return Err(AllocateError::MemoryOut { bytes: length, limit: self.allocator.limit() });
        }
        self.reclaim();
        if let Some(chunk) = self.recycle(length) {
            return Ok(chunk);
        }
        self.flush();
        if let Some(chunk) = self.allocator.allocate(length) {
            return Ok(chunk);
        }
        let refused = grow(self, length).err();
        if let Some(chunk) = self.allocator.allocate(length) {
            return Ok(chunk);
        }
        if let Some(chunk) = self.allocate_by_withdrawing(length) {
            return Ok(chunk);
        }
        Err(match refused {
            Some(source) => AllocateError::System { bytes: length, source },
            None => AllocateError::MemoryOut {
                bytes: length,
                limit: self.allocator.limit().min(self.growth_limit),
            },
        })
    }

    /// The chunk that came back last, if it has about the size asked for: it is still in the cache, and messages of one
    /// service mostly have one size.
    fn recycle(&mut self, length: u64) -> Option<Chunk> {
        self.recycled.pop_if(|chunk| chunk.length() >= length && chunk.length() <= tolerated(length))
    }

    /// Gives the chunks that were kept at hand to the allocator, which joins them.
    fn flush(&mut self) {
        for chunk in self.recycled.drain(..) {
            self.allocator.free(chunk);
        }
    }

    /// Gives back what a message did not need at the end of its chunk, unless it is little: then the chunk fits the next
    /// message as well.
    pub fn shrink(&mut self, chunk: &mut Chunk, length: u64) {
        if chunk.length() > tolerated(length) {
            self.allocator.shrink(chunk, length.max(1));
        }
    }

    /// Gives back a chunk that was never sent.
    pub fn release(&mut self, chunk: Chunk) {
        self.allocator.free(chunk);
        // One that began on paper takes what it did not fill along.
        self.allocator.retract(self.backed);
    }

    /// The memory of a chunk that was not sent yet; `chunk` proves that nobody else has it.
    pub fn chunk_memory(&self, chunk: &Chunk) -> NonNull<[u8]> {
        let (base, bytes) = self.ring.chunks();
        let end = chunk.offset().checked_add(chunk.length());
        assert!(end.is_some_and(|end| end <= bytes), "the allocator stays within the chunk memory");
        // SAFETY: in bounds: the line above; the result stays within the one mapping (or heap block) of the chunks.
        let start = unsafe { base.add(chunk.offset() as usize) };
        NonNull::slice_from_raw_parts(start, chunk.length() as usize)
    }

    /// Takes more memory from the system, up to the bound; enough for `length` where the bound allows it.
    fn grow(&mut self, length: u64) -> Result<(), ReserveError> {
        let committed = self.allocator.committed();
        let room = self.room_to_grow();
        let generous = committed.clamp(GROWTH_MIN, GROWTH_MAX);
        let step = length.next_multiple_of(GROWTH_MIN).max(generous).min(room) & !63;
        if step == 0 {
            return Ok(());
        }
        self.ring.reserve(committed..committed + step)?;
        self.allocator.extend(step);
        self.backed = committed + step;
        // Relaxed: a figure for observers.
        self.ring.header().committed.store(committed + step, Ordering::Relaxed);
        Ok(())
    }

    /// Takes as many bytes more, up to the bound, without asking the system for them.
    #[expect(clippy::unnecessary_wraps, reason = "it stands beside `grow`")]
    fn grow_on_paper(&mut self, length: u64) -> Result<(), ReserveError> {
        self.allocator.extend(length.min(self.room_to_grow()).next_multiple_of(LINE_BYTES));
        Ok(())
    }

    /// A whole number of lines.
    fn room_to_grow(&self) -> u64 {
        self.allocator.limit().min(self.growth_limit).saturating_sub(self.allocator.committed())
            & !(LINE_BYTES - 1)
    }

    /// The first message that may not be given up early: on a lossy ring, the next one; on a reliable ring, the first that
    /// a reader has yet to read, or that belongs to the history which a late reader was promised. What is retained stays on
    /// either.
    fn keep_from(&mut self) -> u64 {
        let keep_from = self.next.saturating_sub(self.ring.constants().retained);
        if !self.reliable {
            return keep_from;
        }
        // edge attach: the last commit's barrier comes before this look. Who is not on the list yet sees a head of at least
        // `next`, and begins at `next - history` or later.
        self.refresh();
        let history = self.ring.constants().history;
        self.slowest().min(self.next.saturating_sub(history)).min(keep_from)
    }

    /// Gives up the oldest messages, more and more of them, until there is memory or nothing is left to give up.
    #[cold]
    fn allocate_by_withdrawing(&mut self, length: u64) -> Option<Chunk> {
        let capacity = self.ring.slots().len() as u64;
        self.tail = self.tail.max(self.next.saturating_sub(capacity));
        let keep_from = self.keep_from();
        let mut batch = 1;
        // At most `capacity` messages lie between tail and next, and the batches double: a few dozen rounds at the most.
        while self.tail < keep_from {
            let end = keep_from.min(self.tail + batch);
            while self.tail < end {
                self.withdraw(self.tail);
                self.tail += 1;
            }
            // Relaxed: where late readers begin; an older value costs them messages that count as lost.
            self.ring.header().tail.store(self.tail, Ordering::Relaxed);
            batch *= 2;
            self.reclaim();
            self.flush();
            if let Some(chunk) = self.allocator.allocate(length) {
                return Some(chunk);
            }
        }
        None
    }

    /// Marks a message as given up and retires its chunk. Messages in the slot stay readable.
    fn withdraw(&mut self, sequence: u64) {
        let index = (sequence as usize) & (self.ring.slots().len() - 1);
        if let Some(chunk) = self.occupants.get_mut(index).and_then(Option::take) {
            // Relaxed: ordered before the look at the pins by the fence in `reclaim`, as a busy stamp is.
            self.ring.slots()[index].stamp.store(stamp(sequence, KIND_WITHDRAWN), Ordering::Relaxed);
            self.retired.push_back((sequence, chunk));
        }
    }

    /// Frees the retired chunks that no reader pins. One fence and one look at all pins for the whole batch.
    pub fn reclaim(&mut self) {
        if self.retired.is_empty() {
            return;
        }
        // edge pin: the stamps of the retired messages were overwritten before; a reader whose pin is not seen below
        // sees that when it looks at the stamp again.
        fence(strong!("pin: writer fence", SeqCst));
        self.refresh();
        self.pinned.clear();
        for reader in &self.readers {
            // A reader that ended may still hold samples: its pins count until the last is dropped.
            let seat = &reader.seats.seats()[reader.seat];
            // Relaxed: stored before the pin that it counts; the fences of the edge pin cover both.
            let used = seat.pins_used.load(Ordering::Relaxed).min(PINS as u64);
            for pin in &seat.pins[..used as usize] {
                // edge unpin. Acquire: the reader's last read of the chunk is done when its pin is gone.
                let pinned = pin.load(strong!("unpin: writer looks", Acquire));
                if pinned != 0 {
                    self.pinned.push(pinned);
                }
            }
        }
        self.pinned.sort_unstable();
        let mut looks = self.retired.len();
        while looks > 0 {
            looks -= 1;
            let Some((sequence, chunk)) = self.retired.pop_front() else { break };
            if self.pinned.binary_search(&(sequence + 1)).is_ok() {
                self.retired.push_back((sequence, chunk));
            } else if self.recycled.len() < RECYCLED_MAX {
                self.recycled.push(chunk);
            } else {
                self.allocator.free(chunk);
            }
        }
        // What stayed is pinned; many held samples shall not make every message pay for a look at all pins.
        self.reclaim_at = self.retired.len() + self.reclaim_batch();
    }

    fn reclaim_batch(&self) -> usize {
        RECLAIM_BATCH + self.readers.len() / READERS_PER_RECLAIM
    }
}

impl<M: Memory> Writer<M> {
    /// Says that this publisher has ended. It is only to be dropped then: who reads from here on relies on it that nothing is
    /// written any more.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.is_closed, true) || self.desk.is_forked() {
            return;
        }
        // edge close: after the last message.
        self.ring.header().closed.store(1, strong!("close: writer ends", Release));
        // Pairs with the fence before a sleeper's last look.
        fence(strong!("close: writer fence", SeqCst));
        let (listens, is_strange) = self.desk.wake_sleepers();
        if listens {
            bell::ring(&self.bell.bell().commits);
        }
        if is_strange {
            bell::ring(&self.ring.header().commits);
        }
    }
}

/// Which subscribers say that they sleep.
fn take_sleepers(bell: &Bell) -> u32 {
    // edge sleep. Acquire: whoever set this also set its `sleeping` before. Who sets it afterwards looks for messages
    // behind its fence, and ours came before this.
    bell.sleepers.swap(0, strong!("sleep: writer swaps sleepers", Acquire))
}

impl<M: Memory> Drop for Writer<M> {
    fn drop(&mut self) {
        self.close();
    }
}
