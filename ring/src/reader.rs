//! The subscriber's end of a ring, its seats, and how it sleeps.
//!
//! A reader polls the slot of the message that comes next, and touches no other line of the publisher's
//! memory until that message is there:
//!
//! ```text
//! message in the slot                      message in a chunk
//! stamp (Acquire, edge commit)             stamp (Acquire, edge commit)
//! copy the words                           copy offset and length
//! fence(Acquire) (edge rewrite)            pin = sequence + 1; fence(SeqCst) (edge pin)
//! stamp unchanged ? it is whole            stamp unchanged ? the chunk stays until the pin is dropped
//! ```
//!
//! A stamp from the future says that the reader was overtaken: it goes on at the oldest message that is still
//! there, and counts what it missed, exactly. If the publisher dies, what it committed stays readable for as
//! long as the reader lives. If the reader dies, its seat vanishes from the publisher's list as soon as the
//! publisher's node hears it from the kernel.
//!
//! Chunk memory of a publisher that is not trusted is not mapped ([`crate::unmapped`]): a message there is
//! pinned in the same way, and then copied through the descriptor.
//!
//! A segment of a publisher is a stranger's memory: each word is read once into a local, checked, then used.
//! A lie can cost messages of that publisher; it cannot make the reader leave the mapping, loop, or panic.

mod held;
mod seats;
mod sleep;

pub(crate) use self::held::Pin;
pub use self::held::{Held, Taken, Unread};
pub use self::seats::{SeatError, Seats, TakenSeat};
pub use self::sleep::{Armed, Heard, SomethingNew};

use crate::bell::{self, SLEEPS};
use crate::desk::Start;
use crate::layout::{
    INLINE_BYTES, KIND_BUSY, KIND_CHUNK, KIND_WITHDRAWN, LINE_BYTES, PINS, SEQUENCE_MAX, stamp,
};
use crate::line::Line;
use crate::memory::{BellMemory, Memory, RingMemory, SeatMemory};
use crate::sync::{Arc, AtomicU32, Ordering, fence, strong};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Jumps ahead within one poll when a reader is overtaken again while it catches up; the last one goes to the
/// newest message.
const CATCH_UP_ATTEMPTS: u64 = 8;
/// Withdrawn messages that one poll steps over before it gives control back.
const WITHDRAWN_STEPS: usize = 1024;

/// The end of one subscriber at one publisher.
pub struct Reader<M: Memory> {
    ring: Arc<M::Ring>,
    seat: TakenSeat<M>,
    /// The publisher's line: in the doorbells of its node or, if it is of another user, at the door that it
    /// made for ours.
    bell: M::Bell,
    is_stranger: bool,
    cursor: u64,
    lost: u64,
    first: u64,
    mask: u64,
    message_max: u64,
    reliable: bool,
    /// The pin to try first.
    pin_hint: usize,
    /// The publisher's `blocked` that was answered last.
    answered: u64,
    /// Not `Sync`, though all its parts are: two threads must not poll at once.
    one_thread: PhantomData<std::cell::Cell<()>>,
}

/// Why a poll gave no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// As many samples of this publisher are held as can be. Nothing was lost: drop one (or copy it out),
    /// then read on.
    #[error("{limit} samples of this publisher are held, all that can be; drop some, or copy them out")]
    HeldOut {
        /// [`PINS`].
        limit: usize,
    },
    /// The publisher's memory contradicts itself. Detach from it: nothing that it says can be relied upon.
    #[error("the publisher's ring is corrupt at message {sequence}: {what}; detach from it")]
    Corrupt {
        /// The message that was to be read.
        sequence: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl<M: Memory> std::fmt::Debug for Reader<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("cursor", &self.cursor)
            .field("lost", &self.lost)
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

impl<M: Memory> Reader<M> {
    /// Begins to read `ring`, through a seat that the desk of its publisher has registered: `start` is what
    /// it answered. `bell` is the publisher's.
    ///
    /// # Errors
    /// [`PollError::Corrupt`] if it begins beyond all bounds; the seat is given back.
    ///
    /// # Panics
    /// If `start` is a desk's answer for another seat: pins in this one would not count.
    pub fn new(
        ring: Arc<M::Ring>,
        bell: M::Bell,
        seat: TakenSeat<M>,
        start: Start,
    ) -> Result<Self, PollError> {
        Reader::begin(ring, bell, false, seat, start)
    }

    /// As [`Reader::new`], where the publisher is of another user. `door` is its line in the doorbells that
    /// it made for ours.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn of_stranger(
        ring: Arc<M::Ring>,
        door: M::Bell,
        seat: TakenSeat<M>,
        start: Start,
    ) -> Result<Self, PollError> {
        Reader::begin(ring, door, true, seat, start)
    }

    #[expect(clippy::needless_pass_by_value, reason = "an answer is for one reader")]
    fn begin(
        ring: Arc<M::Ring>,
        bell: M::Bell,
        is_stranger: bool,
        seat: TakenSeat<M>,
        start: Start,
    ) -> Result<Self, PollError> {
        let Start { sequence: first, of } = start;
        if first > SEQUENCE_MAX {
            return Err(PollError::Corrupt {
                sequence: first,
                what: "the first sequence is beyond all bounds",
            });
        }
        assert!(of.is_none_or(|of| of == (seat.index(), seat.life())), "the desk answered for this seat");
        seat.begin(first);
        let (reliable, message_max) = (ring.constants().reliable, ring.constants().message_max);
        let mask = ring.slots().len() as u64 - 1;
        Ok(Reader {
            ring,
            seat,
            bell,
            is_stranger,
            cursor: first,
            lost: 0,
            first,
            mask,
            message_max,
            reliable,
            pin_hint: 0,
            answered: 0,
            one_thread: PhantomData,
        })
    }

    /// Gives the seat back and says so to the publisher.
    fn end(mut self) {
        self.seat.give_back();
        // Release (edge sleep): the publisher that sees this also sees that nobody has the seat.
        self.bell.bell().sleepers.fetch_or(SLEEPS, strong!("close: reader sets sleepers", Release));
        if self.reliable {
            self.tell_of_space();
        }
    }

    /// The seat of this reader.
    pub fn seat(&self) -> u32 {
        self.seat.index()
    }

    /// Sequence of the message that is read next. `cursor - first = received + lost`.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Messages that were missed for good.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Where this reader began.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Whether the publisher waits for this reader instead of overwriting.
    pub fn reliable(&self) -> bool {
        self.reliable
    }

    /// Messages committed but not read yet; a look that disturbs nobody.
    pub fn lag(&self) -> u64 {
        // Relaxed: a figure.
        self.ring.header().head.load(Ordering::Relaxed).saturating_sub(self.cursor)
    }

    /// Whether a poll would find something (a message, or news about lost ones).
    #[inline]
    pub fn ready(&self) -> bool {
        let slot = &self.ring.slots()[(self.cursor & self.mask) as usize];
        // Relaxed: only a hint; the poll that follows acquires.
        let found = slot.stamp.load(Ordering::Relaxed);
        let next = self.cursor + 1;
        found >> 8 > next || (found >> 8 == next && found & 0xFF != KIND_BUSY)
    }

    /// Whether the publisher ended in order and everything was read.
    pub fn finished(&self) -> bool {
        // edge close. Acquire: the last commit comes before it.
        self.ring.header().closed.load(strong!("close: reader looks", Acquire)) != 0 && !self.ready()
    }

    /// The next message, if it is there and travels in its slot: the short way through [`Reader::poll`],
    /// which finds everything else.
    #[inline(always)]
    pub fn poll_line(&mut self) -> Option<Line> {
        let sequence = self.cursor;
        let slot = &self.ring.slots()[(sequence & self.mask) as usize];
        // edge commit. Acquire: the bytes of the message come before its stamp.
        let found = slot.stamp.load(strong!("commit: reader looks for a line", Acquire));
        // One look for both: another sequence is further away than any length.
        if found.wrapping_sub(stamp(sequence, 0)) > INLINE_BYTES as u64 {
            return None;
        }
        let line = Line::copy(slot, found)?;
        // edge rewrite: if one of the words was of a later message, the stamp below is busy or later too.
        fence(strong!("rewrite: reader fence", Acquire));
        if slot.stamp.load(Ordering::Relaxed) != found {
            return None;
        }
        self.advance();
        Some(line)
    }

    /// Where the next message lies, if it is there and lies in a chunk. A stranger's words, of this message
    /// only if its stamp is unchanged when it is pinned ([`Reader::hold`]).
    #[inline(always)]
    fn chunk(&self) -> Option<(u64, u64)> {
        let slot = &self.ring.slots()[(self.cursor & self.mask) as usize];
        // edge commit. Acquire: the bytes of the message come before its stamp.
        let found = slot.stamp.load(strong!("commit: reader looks for a chunk", Acquire));
        (found == stamp(self.cursor, KIND_CHUNK)).then(|| {
            // Relaxed: the second look at the stamp, in `hold`, says whether both are of this message (edge
            // rewrite).
            (slot.words[0].load(Ordering::Relaxed), slot.words[1].load(Ordering::Relaxed))
        })
    }

    /// Whether a message may lie there, in `bytes` of chunk memory.
    #[inline(always)]
    fn is_possible(&self, offset: u64, length: u64, bytes: u64) -> bool {
        let within = offset.checked_add(length).is_some_and(|end| end <= bytes);
        within && offset.is_multiple_of(LINE_BYTES) && length <= self.message_max
    }

    /// The next message, if it is there and lies in a chunk that is mapped: as [`Reader::poll_line`], for
    /// those.
    #[inline(always)]
    pub fn poll_held(&mut self) -> Result<Option<Held<M>>, PollError> {
        let sequence = self.cursor;
        let Some((offset, length)) = self.chunk() else { return Ok(None) };
        let (base, bytes) = self.ring.chunks();
        if !self.is_possible(offset, length, bytes) {
            // An error alone, and not what a poll gives: that stays in registers then.
            return self.not_in_place().map_or(Ok(None), Err);
        }
        // Starts the way of the first and last line to this core, while the pin is being announced. A hint:
        // it reads nothing.
        let last = (offset + length).saturating_sub(1).max(offset);
        crate::sync::prefetch(base.as_ptr().wrapping_add(offset as usize));
        crate::sync::prefetch(base.as_ptr().wrapping_add(last as usize));
        let Some(pin) = self.hold(sequence)? else { return Ok(None) };
        // SAFETY: in bounds: offset + length was checked against the length of this very chunk memory.
        let start = unsafe { base.add(offset as usize) };
        self.advance();
        Ok(Some(Held { start, length, sequence, offset, pin, memory: PhantomData }))
    }

    /// The next message does not lie in the chunk memory that is mapped here: none is mapped, or the words
    /// are not of this message, or they lie.
    #[cold]
    fn not_in_place(&mut self) -> Option<PollError> {
        let sequence = self.cursor;
        if self.ring.unmapped().is_some() {
            return None;
        }
        match self.hold(sequence) {
            Ok(pin) => pin.map(|_| PollError::Corrupt { sequence, what: "its chunk is out of bounds" }),
            Err(error) => Some(error),
        }
    }

    /// The next message, if it is there and lies in a chunk that is not mapped.
    #[cold]
    fn poll_unread(&mut self) -> Result<Option<Unread<M>>, PollError> {
        let sequence = self.cursor;
        let Some((offset, length)) = self.chunk() else { return Ok(None) };
        let Some(pin) = self.hold(sequence)? else { return Ok(None) };
        // The words are now known to belong to this message; they are a stranger's nevertheless.
        let Some(chunks) = self.ring.unmapped() else { return Ok(None) };
        if !self.is_possible(offset, length, chunks.length()) {
            return Err(PollError::Corrupt { sequence, what: "its chunk is out of bounds" });
        }
        if !chunks.is_backed(offset + length) {
            let what = "its chunk lies in a hole, in memory that its publisher never took from the system";
            return Err(PollError::Corrupt { sequence, what });
        }
        self.advance();
        Ok(Some(Unread { ring: Arc::clone(&self.ring), offset, length, sequence, _pin: pin }))
    }

    /// The next message, if there is one. Never blocks, allocates nothing, makes no system call (but one,
    /// when a publisher of a reliable ring waits for this reader).
    pub fn poll(&mut self) -> Result<Option<Taken<M>>, PollError> {
        let mut attempt = 0;
        for _ in 0..WITHDRAWN_STEPS {
            let sequence = self.cursor;
            let slot = &self.ring.slots()[(sequence & self.mask) as usize];
            // Relaxed: it says where to look on; the two short ways look again (edge commit) before they read
            // a word.
            let found = slot.stamp.load(Ordering::Relaxed);
            let kind = found & 0xFF;
            if found >> 8 != sequence + 1 {
                if found >> 8 < sequence + 1 {
                    // The message of an earlier round, or none: the next one is not there yet.
                    self.drained();
                    return Ok(None);
                }
                self.overtaken(found >> 8, &mut attempt)?;
                if attempt > CATCH_UP_ATTEMPTS {
                    return Ok(None);
                }
                continue;
            }
            if kind <= INLINE_BYTES as u64 {
                match self.poll_line() {
                    Some(line) => return Ok(Some(Taken::Inline(line))),
                    // Rewritten meanwhile: the stamp says so now.
                    None => continue,
                }
            }
            match kind {
                KIND_CHUNK => {
                    if let Some(held) = self.poll_held()? {
                        return Ok(Some(Taken::Held(held)));
                    }
                    if self.ring.unmapped().is_some()
                        && let Some(unread) = self.poll_unread()?
                    {
                        return Ok(Some(Taken::Unread(unread)));
                    }
                    // Overwritten meanwhile: the stamp says so now.
                }
                KIND_WITHDRAWN => {
                    self.lost += 1;
                    self.store_lost();
                    self.advance();
                }
                KIND_BUSY => {
                    self.drained();
                    return Ok(None);
                }
                _ => return Err(PollError::Corrupt { sequence, what: "its kind is unknown" }),
            }
        }
        Ok(None)
    }

    /// Pins message `sequence`; `None` if it was overwritten meanwhile.
    #[inline]
    fn hold(&mut self, sequence: u64) -> Result<Option<Pin>, PollError> {
        let seat = self.seat.words();
        let mut pin = self.pin_hint;
        let mut looked = 0;
        // edge unpin. Acquire: another thread may have dropped the sample; its reads come before our next pin
        // here.
        while seat.pins[pin].load(strong!("unpin: pin used again", Acquire)) != 0 {
            looked += 1;
            if looked == PINS {
                return Err(PollError::HeldOut { limit: PINS });
            }
            pin = (pin + 1) % PINS;
        }
        // Prefer low pins: the publisher looks no further than the highest that was ever used.
        self.pin_hint = if looked == 0 { pin } else { 0 };
        // Relaxed: only this process writes it.
        if seat.pins_used.load(Ordering::Relaxed) <= pin as u64 {
            // Relaxed: the fence below comes before the pin counts.
            seat.pins_used.store(pin as u64 + 1, Ordering::Relaxed);
        }
        // Release: carries the edge unpin of the pin's former use on to the publisher that sees this one.
        seat.pins[pin].store(sequence + 1, strong!("unpin: next pin", Release));
        // edge pin: either the publisher sees the pin when it reclaims, or we see below that the slot was
        // overwritten.
        fence(strong!("pin: reader fence", SeqCst));
        let slot = &self.ring.slots()[(sequence & self.mask) as usize];
        // Relaxed: ordered by the fence; also the second look of the edge rewrite for offset and length.
        if slot.stamp.load(Ordering::Relaxed) == stamp(sequence, KIND_CHUNK) {
            return Ok(Some(Pin(NonNull::from(&seat.pins[pin]))));
        }
        // Relaxed: nothing was read; the edge unpin of the pin's former use is carried on by the fence above.
        seat.pins[pin].store(0, Ordering::Relaxed);
        Ok(None)
    }

    /// Goes on at the oldest message that is still there; `newer` is the stamp (sequence + 1) that was found
    /// instead of the one expected. At each further attempt it leaves the publisher more of a lead.
    #[cold]
    fn overtaken(&mut self, newer: u64, attempt: &mut u64) -> Result<(), PollError> {
        let capacity = self.mask + 1;
        // Relaxed: it says how far to jump and no more; the message found there is judged by its own stamp
        // (edge commit), and one that cannot be seen yet is found by a later poll.
        let head = self.ring.header().head.load(Ordering::Relaxed);
        // The slot holds message newer - 1, or it is being written: all of newer - 1 - capacity and before is
        // gone.
        let end = newer.max(head);
        // The publisher of a reliable ring overwrites nothing from where this reader was attached on, so
        // there is no need to run from it.
        let attempts = if self.reliable { 0 } else { (*attempt).min(CATCH_UP_ATTEMPTS) };
        let lead = capacity * attempts / CATCH_UP_ATTEMPTS;
        let oldest = end.saturating_sub(capacity) + lead.min(capacity - 1);
        *attempt += 1;
        if oldest <= self.cursor || oldest > SEQUENCE_MAX {
            return Err(PollError::Corrupt {
                sequence: self.cursor,
                what: "its stamp is of an impossible message",
            });
        }
        self.lost += oldest - self.cursor;
        self.cursor = oldest;
        self.store_lost();
        self.store_cursor();
        Ok(())
    }

    fn store_lost(&self) {
        // Relaxed: a figure for observers.
        self.seat.words().lost.store(self.lost, Ordering::Relaxed);
    }

    fn store_cursor(&self) {
        // edge consume: the last read of the slots before the cursor is done.
        self.seat.words().cursor.store(self.cursor, strong!("consume: cursor", Release));
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.cursor += 1;
        self.store_cursor();
        // Four times a round is often enough to keep a blocked publisher going, and seldom enough to let it
        // do much at once.
        if self.reliable && self.cursor & (self.mask >> 2) == 0 {
            self.answer_blocked();
        }
    }

    /// Whether there is nothing to read, as a poll would find; the quick answer for who polls in a loop.
    #[inline]
    pub fn idle(&mut self) -> bool {
        if self.ready() {
            return false;
        }
        self.drained();
        true
    }

    /// Nothing is left to read.
    #[inline]
    fn drained(&mut self) {
        if self.reliable {
            self.answer_blocked();
        }
    }

    /// Rings for a publisher that waits for space, once for each time that it waits.
    #[inline]
    fn answer_blocked(&mut self) {
        // Relaxed: a hint; the publisher looks by itself when it is missed (see `BLOCKED_RECHECK`).
        let blocked = self.ring.header().blocked.load(Ordering::Relaxed);
        if blocked & 1 != 0 && blocked != self.answered {
            self.answered = blocked;
            self.tell_of_space();
        }
    }

    /// Wakes a publisher that waits for space.
    #[cold]
    #[inline(never)]
    fn tell_of_space(&self) {
        if self.is_stranger {
            bell::call(&self.ring.header().space);
        } else {
            bell::ring(&self.bell.bell().space);
        }
    }

    /// Says that this subscriber is about to sleep in this way.
    fn tell_of_sleep(&self, way: u32) {
        // edge sleep: `sleeping` comes first. A read-modify-write, so that the chain of setters reaches the
        // publisher's swap.
        self.bell.bell().sleepers.fetch_or(way, strong!("sleep: reader sets sleepers", Release));
    }

    /// What the publisher counts up for those that listen.
    fn commits(&self) -> &AtomicU32 {
        if self.is_stranger { &self.ring.header().commits } else { &self.bell.bell().commits }
    }
}

impl<M: Memory> Drop for Reader<M> {
    fn drop(&mut self) {
        if self.seat.memory().is_forked() {
            // Nothing is unmapped in a child, and nobody reuses the pins.
            return;
        }
        let seats = Arc::clone(self.seat.memory());
        let segments = crate::orphans::Segments::<M> { _ring: Arc::clone(&self.ring), seats };
        crate::orphans::adopt(segments, self.seat.index() as usize);
    }
}
