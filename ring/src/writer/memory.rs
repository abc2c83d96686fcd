//! Where the memory of messages comes from, and how it comes back.

use super::{AllocateError, Writer};
use crate::allocator::Chunk;
use crate::layout::{KIND_WITHDRAWN, LINE_BYTES, PINS, stamp};
use crate::memory::{Memory, ReserveError, RingMemory, SeatMemory};
use crate::sync::{Ordering, fence, strong};
use std::ptr::NonNull;

/// Retired chunks reclaimed per batch, at the cost of one fence and one look at all pins …
pub(super) const RECLAIM_BATCH: usize = 16;
/// … plus one chunk for every this many readers, whose pins have to be looked at. A larger batch would let
/// the chunks that come back leave the cache first.
const READERS_PER_RECLAIM: usize = 2;
/// Most chunks that are kept at hand, once they came back, for messages of the same size.
const RECYCLED_MAX: usize = 64;
/// Chunk memory grows by at least this many bytes at a time …
const GROWTH_MIN: u64 = 64 << 10;
/// … and by at most this many more than are needed at once.
const GROWTH_MAX: u64 = 16 << 20;

/// A chunk of up to this many bytes may carry a message of `length` bytes: a quarter more, and at least the
/// whole line.
fn tolerated(length: u64) -> u64 {
    (length + length / 4).next_multiple_of(LINE_BYTES)
}

impl<M: Memory> Writer<M> {
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

    /// From now on chunk memory grows to no more than `bytes`, where the bound of the ring does not say less;
    /// what was taken stays.
    pub fn limit_growth(&mut self, bytes: u64) {
        self.growth_limit = bytes;
    }

    /// Finds memory for a message of `length` bytes: free memory, then what nobody pins any more, then more
    /// from the system, then (lossy rings) that of the oldest messages. Never blocks.
    pub(crate) fn allocate(&mut self, length: u64) -> Result<Chunk, AllocateError> {
        match self.at_hand(length) {
            Some(chunk) => Ok(chunk),
            None => self.allocate_by(length, Writer::grow),
        }
    }

    /// Memory that needs nothing of the system, and no message given up. `None` also where the length is
    /// refused.
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

    /// As [`Writer::allocate`], for a chunk that is filled in piece by piece: of a long one only the place is
    /// taken, and its memory by [`Writer::back`]. It is sent or released before anything else is allocated.
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

    /// Sees to it that the first `length` bytes of `chunk`, from [`Writer::allocate_ahead`], have memory. It
    /// takes up to as much again ahead.
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

    /// The chunk that came back last, if it has about the size asked for: it is still in the cache, and
    /// messages of one service mostly have one size.
    fn recycle(&mut self, length: u64) -> Option<Chunk> {
        self.recycled.pop_if(|chunk| chunk.length() >= length && chunk.length() <= tolerated(length))
    }

    /// Gives the chunks that were kept at hand to the allocator, which joins them.
    fn flush(&mut self) {
        for chunk in self.recycled.drain(..) {
            self.allocator.free(chunk);
        }
    }

    /// Gives back what a message did not need at the end of its chunk, unless it is little: then the chunk
    /// fits the next message as well.
    pub(crate) fn shrink(&mut self, chunk: &mut Chunk, length: u64) {
        if chunk.length() > tolerated(length) {
            self.allocator.shrink(chunk, length.max(1));
        }
    }

    /// Gives back a chunk that was never sent.
    pub(crate) fn release(&mut self, chunk: Chunk) {
        self.allocator.free(chunk);
        // One that began on paper takes what it did not fill along.
        self.allocator.retract(self.backed);
    }

    /// The memory of a chunk that was not sent yet; `chunk` proves that nobody else has it.
    pub(crate) fn chunk_memory(&self, chunk: &Chunk) -> NonNull<[u8]> {
        let (base, bytes) = self.ring.chunks();
        let end = chunk.offset().checked_add(chunk.length());
        assert!(end.is_some_and(|end| end <= bytes), "the allocator stays within the chunk memory");
        // SAFETY: in bounds: the line above; the result stays within the one mapping (or heap block) of the
        // chunks.
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

    /// The first message that may not be given up early: on a lossy ring, the next one; on a reliable ring,
    /// the first that a reader has yet to read, or that belongs to the history which a late reader was
    /// promised. What is retained stays on either.
    fn keep_from(&mut self) -> u64 {
        let keep_from = self.next.saturating_sub(self.ring.constants().retained);
        if !self.reliable {
            return keep_from;
        }
        // edge attach: the last commit's barrier comes before this look. A reader that is not on the list yet
        // sees a head of at least `next`, and begins at `next - history` or later.
        self.refresh();
        let history = self.ring.constants().history;
        self.slowest().min(self.next.saturating_sub(history)).min(keep_from)
    }

    /// Gives up the oldest messages, more and more of them, until there is memory or nothing is left to give
    /// up.
    #[cold]
    pub(super) fn allocate_by_withdrawing(&mut self, length: u64) -> Option<Chunk> {
        let capacity = self.ring.slots().len() as u64;
        self.tail = self.tail.max(self.next.saturating_sub(capacity));
        let keep_from = self.keep_from();
        let mut batch = 1;
        // At most `capacity` messages lie between tail and next, and the batches double: a few dozen rounds
        // at the most.
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
    pub(super) fn withdraw(&mut self, sequence: u64) {
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
        // edge pin: the stamps of the retired messages were overwritten before; a reader whose pin is not
        // seen below sees that when it looks at the stamp again.
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

    /// Makes room for what the first message in a chunk needs; a publisher of short messages never does.
    #[cold]
    pub(super) fn prepare_tables(&mut self) {
        self.occupants.resize_with(self.ring.slots().len(), || None);
        self.recycled.reserve(RECYCLED_MAX);
        self.make_room_in_tables();
    }

    /// Lets the private tables have room for all chunks that there can be with these readers, so that sending
    /// does not allocate on the heap: one chunk for each slot, one for each pin, those at hand, and a batch
    /// on the way.
    pub(super) fn make_room_in_tables(&mut self) {
        let pins = self.readers.len() * PINS;
        let retired = pins + 2 * self.reclaim_batch();
        self.pinned.reserve(pins.saturating_sub(self.pinned.len()));
        self.retired.reserve(retired.saturating_sub(self.retired.len()));
        self.allocator.expect_chunks(self.ring.slots().len() + retired + RECYCLED_MAX + 1);
    }
}
