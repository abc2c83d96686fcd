//! The subscriber's end of a ring, its seats, and how it sleeps.
//!
//! A reader polls the slot of the message that comes next, and touches no other line of the publisher's memory until
//! that message is there:
//!
//! ```text
//! message in the slot                      message in a chunk
//! stamp (Acquire, edge commit)             stamp (Acquire, edge commit)
//! copy the words                           copy offset and length
//! fence(Acquire) (edge rewrite)            pin = sequence + 1; fence(SeqCst) (edge pin)
//! stamp unchanged ? it is whole            stamp unchanged ? the chunk stays until the pin is dropped
//! ```
//!
//! A stamp from the future says that the reader was overtaken: it goes on at the oldest message that is still there, and counts what
//! it missed, exactly. If the publisher dies, what it committed stays readable for as long as the reader lives. If the
//! reader dies, its seat vanishes from the publisher's list as soon as the publisher's node hears it from the kernel.
//!
//! Chunk memory of a publisher that is not trusted is not mapped ([`crate::unmapped`]): a message there is pinned in the same way, and then copied
//! through the descriptor.
//!
//! A segment of a publisher is a stranger's memory: each word is read once into a local, checked, then used. A lie can
//! cost messages of that publisher; it cannot make the reader leave the mapping, loop, or panic.

use crate::bell::{self, SLEEPS};
use crate::layout::{
    INLINE_BYTES, KIND_BUSY, KIND_CHUNK, KIND_WITHDRAWN, LINE_BYTES, PINS, SEAT_FREE, SEAT_READ, SEAT_TAKEN,
    SEQUENCE_MAX, seat_life, seat_phase, seat_state, stamp,
};
use crate::line::Line;
use crate::memory::{BellMemory, Memory, RingMemory, SeatMemory};
use crate::place::Place;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, fence, lock, strong};
use std::marker::PhantomData;
use std::ptr::NonNull;

mod sleep;

pub use self::sleep::{Armed, Heard, SomethingNew};

/// Seats in the first page, backed together.
const FIRST_SEATS: usize = 7;
/// Jumps ahead within one poll when a reader is overtaken again while it catches up; the last one goes to the
/// newest message.
const CATCH_UP_ATTEMPTS: u64 = 8;
/// Withdrawn messages that one poll steps over before it gives control back.
const WITHDRAWN_STEPS: usize = 1024;

/// The seats of one subscriber: who takes a place with which publisher. Written by this process alone.
pub struct Seats<M: Memory> {
    memory: Arc<M::Seats>,
    bell: M::Bell,
    book: Mutex<SeatBook>,
}

#[derive(Debug, Default)]
struct SeatBook {
    /// Where to look first: low seats are taken again first, after the first round, so few pages are touched.
    next: usize,
    /// How many seats are backed by pages.
    backed: usize,
}

impl<M: Memory> std::fmt::Debug for Seats<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seats").field("seats", &self.memory.seats().len()).finish_non_exhaustive()
    }
}

/// Why a subscriber has no seat for one more publisher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeatError {
    /// It is attached to as many publishers as it may. Use a narrower filter.
    #[error("the subscriber is attached to {limit} publishers, all that it may; use a narrower filter")]
    SeatsOut {
        /// Number of seats.
        limit: usize,
    },
    /// The system has no memory for it. Free some, or raise the limit of the container.
    #[error("{0}; free memory, or raise the limit of this container")]
    System(#[from] crate::memory::ReserveError),
}

impl<M: Memory> Seats<M> {
    pub(crate) fn new(memory: Arc<M::Seats>, bell: M::Bell) -> Self {
        Seats { memory, bell, book: Mutex::default() }
    }

    /// The segment.
    pub fn memory(&self) -> &Arc<M::Seats> {
        &self.memory
    }

    /// Takes a seat for the reader of `publisher` (life of its node, index). Do this before the segment's descriptor
    /// goes to that publisher.
    pub fn take(&self, publisher: (u64, u32)) -> Result<u32, SeatError> {
        let mut book = lock(&self.book);
        let seats = self.memory.seats();
        if book.backed == 0 {
            let first = FIRST_SEATS.min(seats.len());
            if first == 0 {
                return Err(SeatError::SeatsOut { limit: 0 });
            }
            self.memory.reserve(0..first)?;
            book.backed = first;
            // Publishers look at the seats of all their readers in turn. Each is at the same place in a page of its own, and would be on
            // the same few lines of a cache: so subscribers begin at different ones.
            let index = self.memory.constants().index;
            book.next = index as usize % first;
        }
        // Before the first seat that was never used come those that were passed over because of samples that outlived their reader.
        let used = book.next..book.backed;
        let passed_over = 0..book.next;
        let fresh = book.backed..seats.len();
        for index in used.chain(passed_over).chain(fresh) {
            if index >= book.backed {
                self.memory.reserve(index..index + 1)?;
                book.backed = index + 1;
            }
            let seat = &seats[index];
            // Relaxed: this process alone writes it; the lock, which `leave` takes as well, puts the former reader's last store
            // to this seat before ours.
            let state = seat.state.load(Ordering::Relaxed);
            let free = seat_phase(state) == SEAT_FREE
                // edge unpin. Acquire: a sample of the former reader may be dropped on another thread.
                && seat.pins.iter().all(|pin| pin.load(strong!("unpin: seat taken again", Acquire)) == 0);
            if free {
                book.next = index + 1;
                let words = [
                    (&seat.cursor, 0),
                    (&seat.lost, 0),
                    (&seat.first, 0),
                    (&seat.publisher_node, publisher.0),
                    (&seat.publisher_index, u64::from(publisher.1)),
                ];
                for (word, value) in words {
                    // Relaxed: the socket that carries the seat's number to the publisher orders these stores.
                    word.store(value, Ordering::Relaxed);
                }
                let life = seat_life(state).wrapping_add(1);
                // edge close: a former publisher that sees the new life may reuse what the former pins held.
                seat.state.store(seat_state(life, SEAT_TAKEN), strong!("close: new life", Release));
                return Ok(index as u32);
            }
        }
        Err(SeatError::SeatsOut { limit: seats.len() })
    }

    /// Gives a seat back, whether or not its publisher registered it: it no longer waits for this reader. Samples that are still
    /// held stay, and keep the seat from being taken again. No reader of the seat may poll again.
    pub fn leave(&self, seat: u32) {
        if self.memory.is_forked() {
            return;
        }
        let mut book = lock(&self.book);
        book.next = book.next.min(seat as usize);
        if let Some(seat) = self.memory.seats().get(seat as usize) {
            // Relaxed: only this process writes it.
            let life = seat_life(seat.state.load(Ordering::Relaxed));
            // edge close: after the last read of any slot. Also see `take`.
            seat.state.store(seat_state(life, SEAT_FREE), strong!("close: seat left", Release));
        }
    }

    /// Says in shared memory that this subscriber ended: no cursor of it counts any more. To be called when no reader of it
    /// polls again; `readers` are told so that their publishers look.
    pub fn close<'a>(&self, readers: impl Iterator<Item = &'a Reader<M>>)
    where
        M: 'a,
    {
        if self.memory.is_forked() {
            return;
        }
        // edge close: after the last read of any slot.
        self.memory.header().closed.store(1, strong!("close: reader ends", Release));
        for reader in readers {
            // Release (edge sleep): the publisher that sees this also sees `closed`.
            reader.bell.bell().sleepers.fetch_or(SLEEPS, strong!("close: reader sets sleepers", Release));
            if reader.reliable {
                reader.tell_of_space();
            }
        }
    }

    /// Wakes the subscriber if it sleeps or is about to, and who waits for it with others: something other than a message is new.
    pub fn wake(&self) {
        bell::ring(&self.bell.bell().wake);
        // edge sleep: either this sees the place, or who arms the subscriber there sees what is new.
        fence(strong!("sleep: news fence", SeqCst));
        // Relaxed: the fence.
        if let Some(place) = Place::of(self.memory.header().sleeping.load(Ordering::Relaxed)) {
            place.ring(&self.bell);
        }
    }
}

/// The end of one subscriber at one publisher.
pub struct Reader<M: Memory> {
    ring: Arc<M::Ring>,
    seats: Arc<M::Seats>,
    seat: usize,
    /// The publisher's line: in the doorbells of its node or, if it is of another user, at the door that it made for ours.
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

/// A message that a poll found.
pub enum Taken<M: Memory> {
    /// A copy of a message that travelled in its slot.
    Inline(Line),
    /// A message in a chunk, pinned until this is dropped.
    Held(Held<M>),
    /// A message in a chunk that is not mapped, pinned until this is dropped.
    Unread(Unread<M>),
}

impl<M: Memory> std::fmt::Debug for Taken<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Taken::Inline(line) => line.fmt(f),
            Taken::Held(held) => held.fmt(f),
            Taken::Unread(unread) => unread.fmt(f),
        }
    }
}

/// A pinned chunk: its publisher does not touch it before this is dropped. May be dropped on any thread.
pub struct Held<M: Memory> {
    /// Where the message lies in our mapping; checked against the chunk memory.
    pub(crate) start: NonNull<u8>,
    pub(crate) length: u64,
    pub(crate) sequence: u64,
    offset: u64,
    #[cfg_attr(loom, expect(dead_code, reason = "its drop is what the models look at"))]
    pub(crate) pin: Pin,
    memory: PhantomData<fn() -> M>,
}

/// A pinned chunk of a publisher that is not trusted, in memory that is not mapped: it can be copied, and nothing else. May be dropped
/// on any thread.
pub struct Unread<M: Memory> {
    pub(crate) ring: Arc<M::Ring>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) sequence: u64,
    _pin: Pin,
}

// SAFETY: the addresses stay valid on every thread while the pin is not dropped (see `orphans`); the bytes are only read, and the pin is
// an atomic.
unsafe impl<M: Memory> Send for Held<M> {}
// SAFETY: as for Send.
unsafe impl<M: Memory> Sync for Held<M> {}

/// The pin alone: its drop lets the chunk go. It points into the reader segment, which stays mapped while a pin there is
/// not 0 (see `orphans`).
pub(crate) struct Pin(NonNull<AtomicU64>);

// SAFETY: see `Held`.
unsafe impl Send for Pin {}
// SAFETY: see `Held`.
unsafe impl Sync for Pin {}

/// Why a poll gave no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// As many samples of this publisher are held as can be. Nothing was lost: drop one (or copy it out), then read on.
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
    /// Begins to read `ring` at message `first`, as the publisher said when it registered `seat` of `seats`. `bell` is the
    /// publisher's.
    ///
    /// # Panics
    /// If the seat was not taken, or has a reader already: two would overwrite each other's pins.
    pub fn new(
        ring: Arc<M::Ring>,
        bell: M::Bell,
        seats: &Seats<M>,
        seat: u32,
        first: u64,
    ) -> Result<Self, PollError> {
        Reader::begin(ring, bell, false, seats, seat, first)
    }

    /// As [`Reader::new`], where the publisher is of another user. `door` is its line in the doorbells that it made for ours.
    ///
    /// # Panics
    /// As there.
    pub fn of_stranger(
        ring: Arc<M::Ring>,
        door: M::Bell,
        seats: &Seats<M>,
        seat: u32,
        first: u64,
    ) -> Result<Self, PollError> {
        Reader::begin(ring, door, true, seats, seat, first)
    }

    fn begin(
        ring: Arc<M::Ring>,
        bell: M::Bell,
        is_stranger: bool,
        seats: &Seats<M>,
        seat: u32,
        first: u64,
    ) -> Result<Self, PollError> {
        if first > SEQUENCE_MAX {
            return Err(PollError::Corrupt {
                sequence: first,
                what: "the first sequence is beyond all bounds",
            });
        }
        let memory = Arc::clone(seats.memory());
        let own = &memory.seats()[seat as usize];
        // Relaxed, both: it guards against our own mistakes only; the lock of `Seats::take` orders the former reader before us.
        let taken = own.state.load(Ordering::Relaxed);
        let read = seat_state(seat_life(taken), SEAT_READ);
        let state = own.state.compare_exchange(taken, read, Ordering::Relaxed, Ordering::Relaxed);
        assert!(
            seat_phase(taken) == SEAT_TAKEN && state.is_ok(),
            "a seat has one reader each time that it is taken"
        );
        // Relaxed: observers read these; the publisher takes the larger of `cursor` and its own `first`.
        own.first.store(first, Ordering::Relaxed);
        own.cursor.store(first, Ordering::Relaxed);
        let (reliable, message_max) = (ring.constants().reliable, ring.constants().message_max);
        let mask = ring.slots().len() as u64 - 1;
        Ok(Reader {
            ring,
            seats: memory,
            seat: seat as usize,
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

    /// The seat of this reader.
    pub fn seat(&self) -> u32 {
        self.seat as u32
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

    /// The next message, if it is there and travels in its slot: the short way through [`Reader::poll`], which finds
    /// everything else.
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

    /// Where the next message lies, if it is there and lies in a chunk. A stranger's words, of this message only if its stamp is unchanged
    /// when it is pinned ([`Reader::hold`]).
    #[inline(always)]
    fn chunk(&self) -> Option<(u64, u64)> {
        let slot = &self.ring.slots()[(self.cursor & self.mask) as usize];
        // edge commit. Acquire: the bytes of the message come before its stamp.
        let found = slot.stamp.load(strong!("commit: reader looks for a chunk", Acquire));
        (found == stamp(self.cursor, KIND_CHUNK)).then(|| {
            // Relaxed: the second look at the stamp, in `hold`, says whether both are of this message (edge rewrite).
            (slot.words[0].load(Ordering::Relaxed), slot.words[1].load(Ordering::Relaxed))
        })
    }

    /// Whether a message may lie there, in chunk memory of so many bytes.
    #[inline(always)]
    fn is_possible(&self, offset: u64, length: u64, bytes: u64) -> bool {
        let within = offset.checked_add(length).is_some_and(|end| end <= bytes);
        within && offset.is_multiple_of(LINE_BYTES) && length <= self.message_max
    }

    /// The next message, if it is there and lies in a chunk that is mapped: as [`Reader::poll_line`], for those.
    #[inline(always)]
    pub fn poll_held(&mut self) -> Result<Option<Held<M>>, PollError> {
        let sequence = self.cursor;
        let Some((offset, length)) = self.chunk() else { return Ok(None) };
        let (base, bytes) = self.ring.chunks();
        if !self.is_possible(offset, length, bytes) {
            // An error alone, and not what a poll gives: that stays in registers then.
            return self.not_in_place().map_or(Ok(None), Err);
        }
        // Starts the way of the first and last line to this core, while the pin is being announced. A hint: it reads nothing.
        let last = (offset + length).saturating_sub(1).max(offset);
        crate::sync::prefetch(base.as_ptr().wrapping_add(offset as usize));
        crate::sync::prefetch(base.as_ptr().wrapping_add(last as usize));
        let Some(pin) = self.hold(sequence)? else { return Ok(None) };
        // SAFETY: in bounds: offset + length was checked against the length of this very chunk memory.
        let start = unsafe { base.add(offset as usize) };
        self.advance();
        Ok(Some(Held { start, length, sequence, offset, pin, memory: PhantomData }))
    }

    /// The next message does not lie in the chunk memory that is mapped here: none is mapped, or the words are not of this message, or they lie.
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

    /// The next message, if there is one. Never blocks, allocates nothing, makes no system call (but one, when a publisher
    /// of a reliable ring waits for this reader).
    pub fn poll(&mut self) -> Result<Option<Taken<M>>, PollError> {
        let mut attempt = 0;
        for _ in 0..WITHDRAWN_STEPS {
            let sequence = self.cursor;
            let slot = &self.ring.slots()[(sequence & self.mask) as usize];
            // Relaxed: it says where to look on; the two short ways look again (edge commit) before they read a word.
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
        let seat = &self.seats.seats()[self.seat];
        let mut pin = self.pin_hint;
        let mut looked = 0;
        // edge unpin. Acquire: another thread may have dropped the sample; its reads come before our next pin here.
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
        // Release: carries the edge unpin of the pin's former use on to whoever sees this one.
        seat.pins[pin].store(sequence + 1, strong!("unpin: next pin", Release));
        // edge pin: either the publisher sees the pin when it reclaims, or we see below that the slot was overwritten.
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

    /// Goes on at the oldest message that is still there; `newer` is the stamp (sequence + 1) that was found instead of the
    /// one expected. At each further attempt it leaves the publisher more of a lead.
    #[cold]
    fn overtaken(&mut self, newer: u64, attempt: &mut u64) -> Result<(), PollError> {
        let capacity = self.mask + 1;
        // Relaxed: it says how far to jump and no more; the message found there is judged by its own stamp (edge commit), and
        // one that cannot be seen yet is found by a later poll.
        let head = self.ring.header().head.load(Ordering::Relaxed);
        // The slot holds message newer - 1, or it is being written: all of newer - 1 - capacity and before is gone.
        let end = newer.max(head);
        // The publisher of a reliable ring overwrites nothing from where this reader was attached on, so there is no need to run from it.
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
        self.seats.seats()[self.seat].lost.store(self.lost, Ordering::Relaxed);
    }

    fn store_cursor(&self) {
        // edge consume: the last read of the slots before the cursor is done.
        self.seats.seats()[self.seat].cursor.store(self.cursor, strong!("consume: cursor", Release));
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.cursor += 1;
        self.store_cursor();
        // Four times a round is often enough to keep a blocked publisher going, and seldom enough to let it do much at once.
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
        // edge sleep: `sleeping` comes first. A read-modify-write, so that the chain of setters reaches the publisher's swap.
        self.bell.bell().sleepers.fetch_or(way, strong!("sleep: reader sets sleepers", Release));
    }

    /// What the publisher counts up for those that listen.
    fn commits(&self) -> &AtomicU32 {
        if self.is_stranger { &self.ring.header().commits } else { &self.bell.bell().commits }
    }
}

impl<M: Memory> Drop for Reader<M> {
    fn drop(&mut self) {
        if self.seats.is_forked() {
            // Nothing is unmapped in a child, and nobody reuses the pins.
            return;
        }
        let segments =
            crate::orphans::Segments::<M> { _ring: Arc::clone(&self.ring), seats: Arc::clone(&self.seats) };
        crate::orphans::adopt(segments, self.seat);
    }
}

impl<M: Memory> Held<M> {
    /// Number of the message.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Byte offset within the chunk memory, and length in bytes; within the bounds of the segment.
    #[inline]
    pub fn location(&self) -> (u64, u64) {
        (self.offset, self.length)
    }

    /// Address and length of the message.
    #[inline]
    pub fn memory(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start, self.length as usize)
    }
}

impl<M: Memory> Unread<M> {
    /// Number of the message.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl<M: Memory> std::fmt::Debug for Unread<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unread")
            .field("sequence", &self.sequence)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<M: Memory> std::fmt::Debug for Held<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("sequence", &self.sequence())
            .field("length", &self.location().1)
            .finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
impl Pin {
    /// Whether it says that the chunk is read; not in a child that was forked with it, which finds zeros.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // SAFETY: as in drop.
        let pin = unsafe { self.0.as_ref() };
        // Relaxed: this process's own word, which changes when this is dropped.
        pin.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: aligned and in bounds: made from a reference; alive: the segment stays mapped while this pin is not 0, which it is
        // until the store below: by its reader, and afterwards by the list of orphans. A forked child has pages in its place, for ever.
        let pin = unsafe { self.0.as_ref() };
        // edge unpin: the last read of the chunk is done.
        pin.store(0, strong!("unpin: sample dropped", Release));
        // From here on nothing of the segment may be touched.
        crate::orphans::look();
    }
}
