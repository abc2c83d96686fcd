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
//! If the publisher dies before the commit, the message never existed (and the one that it would have
//! overwritten is gone, as overwritten messages are). If it dies right after, every reader finds the message
//! by its stamp; `head` may stay one behind and is never trusted to be the newest.
//!
//! A chunk whose slot was overwritten is *retired*. When memory is needed the publisher looks once at the
//! pins of all readers for the whole batch of retired chunks, and frees those that nobody pins (edges pin,
//! unpin). All book-keeping of memory is private to the publisher, so a crash leaves nothing to repair.
//!
//! A chunk that is filled in across calls (`draft`) may begin on paper: its place is fixed, and the system
//! gives its memory only as far as it is filled (`Writer::back`). Memory without pages lies at the end of the
//! chunk area and belongs to that one draft:
//!
//! ```text
//! chunk area   | handed out or free ...        | draft: filled | ahead | on paper |
//!              0                                                       backed     allocator's committed
//! ```
//!
//! What becomes of it without a commit is given up by the allocator again, so the next chunk never finds a
//! place without pages.
//!
//! When memory runs out, a lossy publisher *withdraws* its oldest messages early; readers count these as
//! lost. A reliable one withdraws only what all readers have read, and otherwise says so and lets the caller
//! wait.

mod memory;
mod wake;

use crate::allocator::{Chunk, ChunkAllocator};
use crate::barrier::CommitOrder;
use crate::bell::{self, Words};
use crate::desk::{Call, Desk, Peer};
use crate::fork::Counter;
use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, INLINE_BYTES, INLINE_WORDS, KIND_BUSY, KIND_CHUNK, KIND_WITHDRAWN,
    RingConstants, SEQUENCE_MAX, stamp,
};
use crate::line::Line;
use crate::memory::{BellMemory, Memory, ReserveError, RingMemory, SeatMemory};
use crate::sync::{Arc, Ordering, fence, strong};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A blocked publisher looks by itself this often: readers do not pay a fence per message to make their
/// wake-up certain, and a reader that pauses between two messages rings no bell.
const BLOCKED_RECHECK: Duration = Duration::from_millis(1);
/// Looks at the readers before a blocked publisher sleeps: about as long as a wake-up takes, since each look
/// pauses (see [`FULL_PAUSES`]).
const BLOCKED_SPINS: u32 = if cfg!(loom) { 0 } else { 30 };
/// Pauses of a publisher that finds no room, before it looks once more and says so: each look takes the line
/// of a cursor away from its reader, and looking less often lets that one read more than one message in
/// between.
const FULL_PAUSES: u32 = if cfg!(loom) { 0 } else { 10 };

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
    /// The first sequence that must not be written before the readers were asked again (cached, may be too
    /// low).
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
    /// Bytes of the chunk memory that the system has given; more is committed only for a draft that begins
    /// on paper.
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
    /// All memory up to the bound is in messages that may not be given up: pinned by subscribers or, on a
    /// reliable ring, not yet read or kept as history. Or the message is larger than all that memory.
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
    /// Takes over a fresh ring, whose constants `config` wrote. The only writer of that ring: the caller sees
    /// to it.
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
            reclaim_at: memory::RECLAIM_BATCH,
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

    /// Makes sure that one message may be committed. Never blocks. Once this said yes, it stays yes until
    /// that commit: a reader that attaches meanwhile begins late enough.
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
                // Where looking was in vain, the readers share this processor or are slow: the less is looked
                // next time.
                self.spins = (self.spins / 2).max(BLOCKED_SPINS / 16);
                outcome = self.sleep_for_space(left.min(BLOCKED_RECHECK));
            }
        }
        outcome
    }

    /// Says that it is blocked, looks once more, sleeps until a reader made space or `timeout` is over.
    fn sleep_for_space(&mut self, timeout: Duration) -> Result<(), AdmitError> {
        // Relaxed: the fence below makes it an Acquire, which pairs with the reader's count, after it moved
        // its cursor.
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

    /// Waits for space, also for a call of readers of other users. They change no word, so one call in a
    /// great many is missed: BLOCKED_RECHECK bounds that, as it bounds what readers may spoil.
    #[cold]
    fn wait_among_strangers(&self, seen: u32, timeout: Duration) {
        let mut words = Words::of(&self.bell.bell().space);
        words.add(&self.ring.header().space);
        // Relaxed: as in `Words::of`; a reader that counted since the look has made space since.
        if self.bell.bell().space.load(Ordering::Relaxed) == seen {
            bell::wait_for_any(&words, Some(timeout));
        }
    }

    /// Commits a message of up to 56 bytes, which travels in the slot. Call [`Writer::admit`] first. Never
    /// blocks; one system call for each reader that sleeps, otherwise none. Returns how many readers are
    /// attached.
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

    /// Commits a message of `length` bytes that lies at the start of `chunk`. Otherwise as
    /// [`Writer::send_inline`].
    #[inline]
    pub(crate) fn send_chunk(&mut self, chunk: Chunk, length: u64) -> usize {
        self.send_chunk_quietly(chunk, length);
        self.announce();
        self.attached
    }

    /// As [`Writer::send_chunk`], but wakes nobody: [`Writer::announce`] has to follow.
    #[inline]
    pub(crate) fn send_chunk_quietly(&mut self, chunk: Chunk, length: u64) {
        assert!(length <= chunk.length(), "the message lies in its chunk");
        // A reader takes no more than these two words.
        self.commit(&[chunk.offset(), length], KIND_CHUNK, Some(chunk));
    }

    /// Wakes the readers that sleep, after commits.
    #[inline(always)]
    pub fn announce(&mut self) {
        // edge sleep. Relaxed: the barrier of the last commit orders it; a stale 0 means that the sleeper's
        // own look comes after that commit.
        if self.bell.bell().sleepers.load(Ordering::Relaxed) != 0 {
            self.ring_bell();
        }
    }

    /// Uses up a sequence number for a message that does not exist, so that every reader counts one as lost:
    /// what was lost before it came here. Call [`Writer::admit`] first. Never blocks.
    pub fn skip(&mut self) {
        self.commit(&[], KIND_WITHDRAWN, None);
        self.announce();
    }

    /// As [`Writer::skip`] for `left` numbers, at the cost of at most as many commits as the ring has slots,
    /// however many there are: those before them are passed over, since no slot would show them in the end.
    /// `left` says how many are still to be used up.
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

    /// Goes on `numbers` further, without a word in the ring. A round of commits has to follow: until then
    /// the slots show messages that are more than a round older, and a reader that jumps ahead waits at such
    /// a slot.
    fn pass_over(&mut self, numbers: u64) {
        if !self.occupants.is_empty() {
            // Whose chunks the slots hold is told by their distance to `next`, so they are retired before it
            // leaps.
            let capacity = self.ring.slots().len() as u64;
            (self.next.saturating_sub(capacity)..self.next).for_each(|sequence| self.withdraw(sequence));
        }
        self.next += numbers;
    }

    /// How many messages can be committed before a reader has read on. On a lossy ring nobody waits: the
    /// number of slots.
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
        // edge commit: all bytes of the message, also those in its chunk, are written before its stamp can be
        // seen.
        slot.stamp.store(stamp(sequence, kind), strong!("commit: stamp", Release));
        self.next = sequence + 1;
        // Release: a reader that starts from `head` finds the messages before it complete.
        self.ring.header().head.store(self.next, strong!("commit: head", Release));
        if chunk.is_some() || !self.occupants.is_empty() {
            self.occupy(sequence, index, chunk);
        }
        // edge sleep, edge attach: the commit comes before the look at `sleepers` and before the next look at
        // the desk.
        self.order.after_commit(&*self.ring, self.next);
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

    /// Takes notice of readers that came or went, or of a fork: on a reliable ring all are asked anew where
    /// they are. This belongs to `admit` alone, so that what was admitted stays admitted when the list is
    /// fetched before the commit, for other reasons.
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

    /// Asks all readers where they are. On a reliable ring nothing is overwritten that one of them has yet to
    /// read.
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
            // edge consume. Acquire: the reader's last read of the slots before its cursor is done. It is a
            // stranger's word, so it is brought into bounds: a reader can hold up this ring, which is its
            // right, and no more.
            let cursor =
                reader.seats.seats()[reader.seat].cursor.load(strong!("consume: writer looks", Acquire));
            slowest = slowest.min(cursor.clamp(first.min(self.next), self.next));
        }
        slowest
    }
}

impl<M: Memory> Drop for Writer<M> {
    fn drop(&mut self) {
        self.close();
    }
}
