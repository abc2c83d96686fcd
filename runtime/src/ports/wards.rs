//! The book of those who are waited for at one place: which of them may have something, and what to listen to
//! beside the place.
//!
//! A *ward* is somebody who is waited for: a receiving end, or a waiter that a thread waits for on behalf of
//! a descriptor. It is either *armed*, or *ready*: then it may have something, and is told of until its owner
//! has looked, found nothing and armed it again. Rings at the place make armed wards ready, and nothing else
//! costs time: not the wards that are silent, and not their number.
//!
//! ```text
//! owner of a ward                         who waits at the place
//! clear: it is not ready                  w = wake
//! arm: publishers know the place          gather: marks and ears that rang make wards ready
//! nothing new ? settle                    none is ready ? sleep while wake == w and no ear rings
//! something new ? trip: it is ready       the bound of a ward is over ? it is ready
//! ```
//!
//! Both may be on different threads; the book is locked for a few instructions, never while somebody sleeps.
//! A change of what the sleeper waits for rings the place.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hivemind_ring::bell::{self, MARKS, STRANGERS_HEARD_MAX, WordsUpTo};
use hivemind_ring::fork::Home;
use hivemind_ring::mapped::{Mapped, MappedBell, MappedSeats};
use hivemind_ring::memory::{BellMemory as _, SeatMemory as _};
use hivemind_ring::place::Place;
use hivemind_ring::pollable::Event;
use hivemind_ring::reader::{Armed, Heard};
use hivemind_ring::sync::AtomicU32;

use crate::lock;

/// All words that are waited on at a place: its own, and those of strangers.
pub(crate) type PlaceWords<'a> = WordsUpTo<'a, { STRANGERS_HEARD_MAX + 1 }>;

/// A ward, as long as it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    number: u32,
    /// Numbers are used again; this is not.
    life: u32,
}

/// A word beside the place that a ward is told by.
#[derive(Debug, Clone)]
pub(crate) enum Ear {
    /// Of a publisher of another user.
    Stranger(Heard<Mapped>),
    /// Another place, and its count when it was armed.
    Place(MappedBell, u32),
}

impl Ear {
    pub(crate) fn word(&self) -> (&AtomicU32, u32) {
        match self {
            Ear::Stranger(heard) => heard.word(),
            Ear::Place(bell, seen) => (&bell.bell().wake, *seen),
        }
    }

    fn has_rung(&self) -> bool {
        let (word, seen) = self.word();
        // Relaxed: it says where to look.
        word.load(Ordering::Relaxed) != seen
    }
}

/// A place and its wards.
pub(crate) struct Wards {
    bell: MappedBell,
    home: Home,
    /// Nobody waits here any more.
    is_over: AtomicBool,
    book: Mutex<Book>,
}

struct Book {
    wards: Vec<Option<Ward>>,
    free: Vec<u32>,
    lives: u32,
    by_mark: Vec<Vec<u32>>,
    /// Those that are ready, and some that were.
    ready: VecDeque<u32>,
    /// Those with ears or a bound.
    watched: Vec<u32>,
    /// Somebody sleeps here, or the kernel does for a descriptor: whoever changes something rings.
    is_waited_at: bool,
}

struct Ward {
    life: u32,
    mark: u32,
    is_ready: bool,
    is_queued: bool,
    /// Of a receiving end.
    seats: Option<Arc<MappedSeats>>,
    ears: Vec<Ear>,
    look_by: Option<Instant>,
    /// Is raised when it becomes ready.
    tell: Option<Arc<Event>>,
}

impl Wards {
    pub(crate) fn new(bell: MappedBell) -> Arc<Wards> {
        let book = Book {
            wards: Vec::new(),
            free: Vec::new(),
            lives: 0,
            by_mark: vec![Vec::new(); MARKS],
            ready: VecDeque::new(),
            watched: Vec::new(),
            is_waited_at: false,
        };
        Arc::new(Wards { bell, home: Home::here(), is_over: AtomicBool::new(false), book: Mutex::new(book) })
    }

    pub(crate) fn bell(&self) -> &MappedBell {
        &self.bell
    }

    /// One ward more, which is ready. `tell` is raised whenever it becomes ready.
    pub(crate) fn add(
        self: &Arc<Self>,
        seats: Option<Arc<MappedSeats>>,
        tell: Option<Arc<Event>>,
    ) -> WardHandle {
        let mut book = lock(&self.book);
        let number = book.free.pop().unwrap_or(book.wards.len() as u32);
        if number as usize == book.wards.len() {
            book.wards.push(None);
        }
        book.lives = book.lives.wrapping_add(1);
        let (life, mark) = (book.lives, number % MARKS as u32);
        let ward = Ward {
            life,
            mark,
            is_ready: true,
            is_queued: true,
            seats,
            ears: Vec::new(),
            look_by: None,
            tell,
        };
        book.wards[number as usize] = Some(ward);
        book.by_mark[mark as usize].push(number);
        book.ready.push_back(number);
        self.ring_if_waited_at(&book);
        let place = Place { line: self.bell.line(), mark };
        WardHandle { wards: Arc::clone(self), ticket: Ticket { number, life }, place }
    }

    /// Nobody waits here any more.
    pub(crate) fn end(&self) {
        if self.home.is_here() {
            // Relaxed: the ring, which follows, carries it.
            self.is_over.store(true, Ordering::Relaxed);
            bell::ring(&self.bell.bell().wake);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        // Relaxed: see `end`.
        self.is_over.load(Ordering::Relaxed)
    }

    /// Appends those that are ready, and says so. If there are none, notes that somebody sleeps here from now
    /// on: with the words that were noted before, with the ears, and for no longer than the time in
    /// `Err`.
    pub(crate) fn gather(&self, ready: &mut Vec<Ticket>) -> Result<(), (Vec<Ear>, Option<Duration>)> {
        let mut book = lock(&self.book);
        book.hear(&self.bell);
        let before = ready.len();
        for _ in 0..book.ready.len() {
            let Some(number) = book.ready.pop_front() else { break };
            let Some(ward) = book.wards[number as usize].as_mut() else { continue };
            ward.is_queued = ward.is_ready;
            if ward.is_ready {
                ready.push(Ticket { number, life: ward.life });
                book.ready.push_back(number);
            }
        }
        book.is_waited_at = ready.len() == before;
        if ready.len() > before { Ok(()) } else { Err(book.sleep_on()) }
    }

    /// As [`Wards::gather`] for who tells others: raises the events of those that have become ready.
    fn tell_all(&self) -> (Vec<Ear>, Option<Duration>) {
        let mut book = lock(&self.book);
        book.hear(&self.bell);
        while let Some(number) = book.ready.pop_front() {
            let Some(ward) = book.wards[number as usize].as_mut() else { continue };
            ward.is_queued = false;
            if ward.is_ready
                && let Some(event) = &ward.tell
            {
                event.raise();
            }
        }
        book.is_waited_at = true;
        book.sleep_on()
    }

    /// The sleep is over.
    pub(crate) fn awake(&self) {
        lock(&self.book).is_waited_at = false;
    }

    fn ring_if_waited_at(&self, book: &Book) {
        if book.is_waited_at {
            bell::ring(&self.bell.bell().wake);
        }
    }
}

/// The words to wait on at a place, noted before its wards were gathered, and those of the ears.
pub(crate) fn with_ears<'a>(words: &PlaceWords<'a>, ears: &'a [Ear], bound: Option<Duration>) -> Armed<'a> {
    let mut words = words.clone();
    if !ears.is_empty() && !bell::can_wait_for_any() {
        // The kernel waits for one word only: `Book::hear` looks at the others.
        let bound = bound.into_iter().chain([bell::UNHEARD_SLEEP_MAX]).min();
        return Armed { words, bound };
    }
    // One that has no room is looked at when the bound is over.
    for (word, seen) in ears.iter().map(Ear::word).take(STRANGERS_HEARD_MAX) {
        words.add_seen(word, seen);
    }
    Armed { words, bound }
}

impl Book {
    /// Makes those ready that were rung, or are to be looked at.
    fn hear(&mut self, place: &MappedBell) {
        for mark in place.bell().take_marks() {
            for at in 0..self.by_mark[mark as usize].len() {
                self.make_ready(self.by_mark[mark as usize][at]);
            }
        }
        if self.watched.is_empty() {
            return;
        }
        let now = Instant::now();
        let is_due =
            |ward: &Ward| ward.look_by.is_some_and(|by| by <= now) || ward.ears.iter().any(Ear::has_rung);
        for number in self.watched.clone() {
            if self.wards[number as usize].as_ref().is_some_and(is_due) {
                self.make_ready(number);
            }
        }
    }

    fn make_ready(&mut self, number: u32) {
        let Some(ward) = self.wards[number as usize].as_mut() else { return };
        if !ward.is_ready {
            ward.is_ready = true;
            if let Some(seats) = &ward.seats {
                // Its publishers need not ring before it is armed again. Relaxed: one that still sees the
                // place rings in vain.
                seats.header().sleeping.store(0, Ordering::Relaxed);
            }
            self.forget_watch(number);
        }
        let ward = self.wards[number as usize].as_mut().expect("it was there just now");
        if !std::mem::replace(&mut ward.is_queued, true) {
            self.ready.push_back(number);
        }
    }

    fn forget_watch(&mut self, number: u32) {
        let Some(ward) = self.wards[number as usize].as_mut() else { return };
        ward.ears.clear();
        if ward.look_by.take().is_some() {
            self.watched.retain(|other| *other != number);
        }
    }

    /// What to listen to beside the place, and for how long at most.
    fn sleep_on(&self) -> (Vec<Ear>, Option<Duration>) {
        if self.watched.is_empty() {
            return (Vec::new(), None);
        }
        let now = Instant::now();
        let watched = || self.watched.iter().filter_map(|number| self.wards[*number as usize].as_ref());
        let ears = watched().flat_map(|ward| &ward.ears).cloned().collect();
        let by = watched().filter_map(|ward| ward.look_by).min();
        (ears, by.map(|by| by.saturating_duration_since(now)))
    }
}

/// The owner's hold on a ward. Dropped, nobody waits for it any more.
pub(crate) struct WardHandle {
    wards: Arc<Wards>,
    ticket: Ticket,
    /// Where its publishers ring.
    pub(crate) place: Place,
}

impl WardHandle {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether it is looked at when there is something, and not before. So it is for ever where nobody waits
    /// any more.
    pub(crate) fn is_armed(&self) -> bool {
        let number = self.ticket.number as usize;
        self.wards.is_over()
            || lock(&self.wards.book).wards[number].as_ref().is_some_and(|ward| !ward.is_ready)
    }

    /// It is not ready any more; it is about to be armed.
    pub(crate) fn clear(&self) {
        let mut book = lock(&self.wards.book);
        book.forget_watch(self.ticket.number);
        if let Some(ward) = book.wards[self.ticket.number as usize].as_mut() {
            ward.is_ready = false;
            // Under the lock, under which it is raised: what is told from here on is for the wait that
            // follows.
            if let Some(event) = &ward.tell {
                event.clear();
            }
        }
    }

    /// It is armed. `ears`: what it is told by beside the place; `bound`: to be looked at again after this
    /// time.
    pub(crate) fn settle(&self, ears: Vec<Ear>, bound: Option<Duration>) {
        if ears.is_empty() && bound.is_none() {
            return;
        }
        let mut book = lock(&self.wards.book);
        let Some(ward) = book.wards[self.ticket.number as usize].as_mut().filter(|ward| !ward.is_ready)
        else {
            return;
        };
        ward.ears = ears;
        // A ward with ears has a bound, as others can spoil what rings there.
        ward.look_by = Some(Instant::now() + bound.unwrap_or(bell::STRANGERS_SLEEP_MAX));
        book.watched.push(self.ticket.number);
        // Also if nobody is known to wait: the kernel may, for a descriptor that was armed before.
        drop(book);
        bell::ring(&self.wards.bell.bell().wake);
    }

    /// It is ready.
    pub(crate) fn trip(&self) {
        let mut book = lock(&self.wards.book);
        book.make_ready(self.ticket.number);
        self.wards.ring_if_waited_at(&book);
    }
}

impl Drop for WardHandle {
    fn drop(&mut self) {
        // In a child the book may be locked for ever.
        if !self.wards.home.is_here() {
            return;
        }
        let mut book = lock(&self.wards.book);
        let number = self.ticket.number;
        book.forget_watch(number);
        book.ready.retain(|other| *other != number);
        if let Some(Ward { mark, seats, .. }) = book.wards[number as usize].take() {
            book.by_mark[mark as usize].retain(|other| *other != number);
            if let Some(seats) = seats {
                // Relaxed: as in `make_ready`.
                seats.header().sleeping.store(0, Ordering::Relaxed);
            }
        }
        book.free.push(number);
    }
}

/// A thread that waits at a place and raises the events of its wards: for descriptors where the kernel does
/// not wait for them.
pub(crate) struct Herald {
    wards: Arc<Wards>,
}

impl Herald {
    /// Starts it.
    ///
    /// # Errors
    /// What the system says: there can be no thread.
    pub(crate) fn start(bell: MappedBell) -> std::io::Result<Herald> {
        let wards = Wards::new(bell);
        let place = Arc::clone(&wards);
        let name = "hivemind-herald".to_owned();
        std::thread::Builder::new().name(name).spawn(move || {
            while !place.is_over() {
                let words = PlaceWords::at(place.bell().bell());
                let (ears, bound) = place.tell_all();
                let Armed { words, bound } = with_ears(&words, &ears, bound);
                bell::wait_for_any(&words, bound);
                place.awake();
            }
        })?;
        Ok(Herald { wards })
    }

    pub(crate) fn wards(&self) -> &Arc<Wards> {
        &self.wards
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.wards.end();
    }
}
