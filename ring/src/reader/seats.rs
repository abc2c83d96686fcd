//! The seats of a subscriber: one for each publisher that it is attached to, in memory that it alone writes.
//!
//! ```text
//! free ── Seats::take ──▶ taken (a TakenSeat) ── Reader::new ──▶ read (the Reader has the TakenSeat)
//!   ▲                        │ dropped                              │ dropped, by itself or in Seats::close
//!   └────────────────────────┴──────────────────────────────────────┘
//! ```
//!
//! A publisher relies on it that a seat which is free has no reader that polls: nothing is pinned there any
//! more but what is held already, and no slot is read. So a seat is given back by dropping what has it, and
//! in no other way; and the subscriber says that it has ended when the last of its seats was given back,
//! however early that was asked for.
//!
//! If the process dies, its seats stay as they are: publishers forget them when the kernel says that the
//! process is gone.

use super::Reader;
use crate::bell;
use crate::layout::{SEAT_FREE, SEAT_READ, SEAT_TAKEN, Seat, seat_life, seat_phase, seat_state};
use crate::memory::{BellMemory, Memory, SeatBook, SeatMemory};
use crate::place::Place;
use crate::sync::{Arc, Ordering, fence, lock, strong};

/// Seats in the first page, backed together.
const FIRST_SEATS: usize = 7;

/// The seats of one subscriber, one for each publisher that it reads. Written by this process alone.
pub struct Seats<M: Memory> {
    memory: Arc<M::Seats>,
    pub(super) bell: M::Bell,
}

/// Says in shared memory that the subscriber has ended, if it wants to and nothing reads any more.
fn close_if_idle(book: &SeatBook, memory: &impl SeatMemory) {
    if book.is_closing && book.taken == 0 {
        // edge close: after the last read of any slot.
        memory.header().closed.store(1, strong!("close: reader ends", Release));
    }
}

/// A seat that was taken for one publisher. It is given back when this, or the reader that it was made into,
/// is dropped: then its publisher no longer waits for it, whether or not it had registered it. Samples that
/// are still held stay, and keep the seat from being taken again.
pub struct TakenSeat<M: Memory> {
    memory: Arc<M::Seats>,
    index: u32,
    is_given_back: bool,
}

impl<M: Memory> std::fmt::Debug for TakenSeat<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TakenSeat").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<M: Memory> TakenSeat<M> {
    /// Its number, by which the publisher's desk knows it.
    pub fn index(&self) -> u32 {
        self.index
    }

    #[inline(always)]
    pub(super) fn memory(&self) -> &Arc<M::Seats> {
        &self.memory
    }

    #[inline(always)]
    pub(super) fn words(&self) -> &Seat {
        &self.memory.seats()[self.index as usize]
    }

    /// Which taking of the seat.
    pub(super) fn life(&self) -> u64 {
        // Relaxed: only this process writes it, and while it is taken only its owner.
        seat_life(self.words().state.load(Ordering::Relaxed))
    }

    /// A reader begins.
    pub(super) fn begin(&self, first: u64) {
        let words = self.words();
        // Relaxed, all: observers read these; the publisher takes the larger of `cursor` and its own `first`.
        words.state.store(seat_state(self.life(), SEAT_READ), Ordering::Relaxed);
        words.first.store(first, Ordering::Relaxed);
        words.cursor.store(first, Ordering::Relaxed);
    }

    /// Nothing polls here any more.
    pub(super) fn give_back(&mut self) {
        if std::mem::replace(&mut self.is_given_back, true) || self.memory.is_forked() {
            return;
        }
        let mut book = lock(self.memory.book());
        book.next = book.next.min(self.index as usize);
        book.taken -= 1;
        // edge close: after the last read of any slot. Also see `Seats::take`.
        self.words().state.store(seat_state(self.life(), SEAT_FREE), strong!("close: seat left", Release));
        close_if_idle(&book, &*self.memory);
    }
}

impl<M: Memory> Drop for TakenSeat<M> {
    fn drop(&mut self) {
        self.give_back();
    }
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
    /// The subscriber ends. Create another one.
    #[error("the subscriber ends; create another one")]
    Ended,
    /// The system has no memory for it. Free some, or raise the limit of the container.
    #[error("{0}; free memory, or raise the limit of this container")]
    System(#[from] crate::memory::ReserveError),
}

impl<M: Memory> Seats<M> {
    pub(crate) fn new(memory: Arc<M::Seats>, bell: M::Bell) -> Self {
        Seats { memory, bell }
    }

    /// The segment.
    pub fn memory(&self) -> &Arc<M::Seats> {
        &self.memory
    }

    /// Takes a seat for the reader of `publisher` (life of its node, index). Do this before the segment's
    /// descriptor goes to that publisher.
    pub fn take(&self, publisher: (u64, u32)) -> Result<TakenSeat<M>, SeatError> {
        let mut book = lock(self.memory.book());
        if book.is_closing {
            return Err(SeatError::Ended);
        }
        let seats = self.memory.seats();
        if book.backed == 0 {
            let first = FIRST_SEATS.min(seats.len());
            if first == 0 {
                return Err(SeatError::SeatsOut { limit: 0 });
            }
            self.memory.reserve(0..first)?;
            book.backed = first;
            // Publishers look at the seats of all their readers in turn. Each is at the same place in a page
            // of its own, and would be on the same few lines of a cache: so subscribers begin at different
            // ones.
            let index = self.memory.constants().index;
            book.next = index as usize % first;
        }
        // Before the first seat that was never used come those that were passed over because of samples that
        // outlived their reader.
        let used = book.next..book.backed;
        let passed_over = 0..book.next;
        let fresh = book.backed..seats.len();
        for index in used.chain(passed_over).chain(fresh) {
            if index >= book.backed {
                self.memory.reserve(index..index + 1)?;
                book.backed = index + 1;
            }
            let seat = &seats[index];
            // Relaxed: this process alone writes it; the lock, which `TakenSeat::give_back` takes as well,
            // puts the former reader's last store to this seat before ours.
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
                    // Relaxed: the socket that carries the seat's number to the publisher orders these
                    // stores.
                    word.store(value, Ordering::Relaxed);
                }
                let life = seat_life(state).wrapping_add(1);
                // edge close: a former publisher that sees the new life may reuse what the former pins held.
                seat.state.store(seat_state(life, SEAT_TAKEN), strong!("close: new life", Release));
                book.taken += 1;
                let memory = Arc::clone(&self.memory);
                // Fits: there are at most SEATS_MAX.
                return Ok(TakenSeat { memory, index: index as u32, is_given_back: false });
            }
        }
        Err(SeatError::SeatsOut { limit: seats.len() })
    }

    /// Says in shared memory that this subscriber ends: no cursor of it counts any more. Ends these readers,
    /// and tells their publishers so that they look. Where seats are left that are not among them, it has
    /// ended when the last of those is dropped.
    pub fn close(&self, readers: impl IntoIterator<Item = Reader<M>>) {
        if self.memory.is_forked() {
            return;
        }
        let mut book = lock(self.memory.book());
        book.is_closing = true;
        close_if_idle(&book, &*self.memory);
        drop(book);
        readers.into_iter().for_each(Reader::end);
    }

    /// Wakes the subscriber if it sleeps or is about to, and who waits for it with others: something other
    /// than a message is new.
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
