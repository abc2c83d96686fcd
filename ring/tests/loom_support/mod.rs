//! What the models share: rings of two slots on the heap, and chunk memory that loom watches.
//!
//! Every model runs the algorithms of the crate themselves, not a copy. Run them with
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off cargo test --release -p hivemind-ring --test 'loom_*'
//! ```
//!
//! Threads are preempted at most twice where no environment says otherwise, which takes seconds;
//! `LOOM_MAX_PREEMPTIONS=3` looks deeper and takes minutes. What loom cannot see: a load that returns a value
//! which is stored later (load buffering), so that the reads of a slot come before the cursor is shown on
//! cells beside the slots ([`Words`]).
//!
//! `ring/mutants` weakens every ordering of the crate in turn and sees one of the models fail.
#![allow(unsafe_code)]
#![allow(dead_code, unreachable_pub, reason = "no model needs all of it")]

use hivemind_ring::bell::Bell;
use hivemind_ring::desk::Start;
use hivemind_ring::heap::Heap;
use hivemind_ring::layout::{INLINE_BYTES, INLINE_WORDS};
use hivemind_ring::loan::Loan;
use hivemind_ring::reader::{Held, Reader, Seats, Taken};
use hivemind_ring::retained;
use hivemind_ring::sync::{Arc, Ordering, fence};
use hivemind_ring::writer::{RingConfig, Writer};
use loom::cell::UnsafeCell;

/// Bytes of a unit of chunk memory.
const UNIT: u64 = 64;

/// Preemptions of a model, where the environment says nothing else.
const PREEMPTIONS: usize = 2;

/// Explores `body`.
pub fn explore(body: impl Fn() + Sync + Send + 'static) {
    explore_deeper(0, body);
}

/// Explores `body` with so many preemptions more than usual: for small models that need them, or (less than
/// 0) for those of three threads that wait in loops.
pub fn explore_deeper(more: isize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = builder.preemption_bound.unwrap_or(PREEMPTIONS);
    builder.preemption_bound = Some(bound.saturating_add_signed(more));
    builder.max_branches = 20_000;
    builder.check(body);
}

/// A ring of two slots.
#[derive(Clone, Copy)]
pub struct Ring {
    pub reliable: bool,
    pub history: u64,
    pub retained: u64,
    /// Units of chunk memory.
    pub units: u64,
}

pub const LOSSY: Ring = Ring { reliable: false, history: 0, retained: 0, units: 1 };
pub const RELIABLE: Ring = Ring { reliable: true, history: 0, retained: 0, units: 1 };

impl Ring {
    pub fn with_history(self, history: u64) -> Self {
        Ring { history, ..self }
    }

    pub fn retaining(self, retained: u64) -> Self {
        Ring { retained, ..self }
    }

    pub fn with_units(self, units: u64) -> Self {
        Ring { units, ..self }
    }

    pub fn publisher(self) -> Publisher {
        let config = RingConfig {
            node: 1,
            index: 1,
            fingerprint: 0,
            capacity: 2,
            message_max: UNIT,
            chunk_memory: self.units * UNIT,
            reliable: self.reliable,
            history: self.history,
            retained: self.retained,
            bell: 0,
        };
        let bell = Arc::new(Bell::silent());
        let chunks = Chunks(Arc::new((0..self.units).map(|_| UnsafeCell::new(0)).collect()));
        Publisher { writer: Writer::on_heap(&config, Arc::clone(&bell)), bell, chunks }
    }
}

/// What loom watches in place of the bytes in chunks: one cell for each unit. Touching one that another
/// thread may touch at the same time fails the model.
#[derive(Clone)]
pub struct Chunks(Arc<Vec<UnsafeCell<u64>>>);

impl Chunks {
    fn write(&self, offset: u64, value: u64) {
        // SAFETY: loom checks that this access is exclusive, which is the purpose of the model.
        self.0[(offset / UNIT) as usize].with_mut(|cell| unsafe { *cell = value });
    }

    /// The content of the held chunk, which must be what its publisher wrote.
    pub fn check(&self, held: &Held<Heap>) {
        let (offset, length) = held.location();
        assert_eq!(length, UNIT);
        // SAFETY: loom checks that nobody writes at the same time, which is the purpose of the model.
        let found = self.0[(offset / UNIT) as usize].with(|cell| unsafe { *cell });
        assert_eq!(found, content(held.sequence()));
    }
}

/// A cell for each slot, in place of its words, which are atomics and so never race: written after a message
/// was admitted and before it is committed, read after its stamp was seen and before the cursor moves on.
/// Shows what cannot be shown on the words, since loom gives no load a value that is stored later: that the
/// reads of a slot come before the cursor.
#[derive(Clone)]
pub struct Words(Arc<Vec<UnsafeCell<u64>>>);

impl Words {
    pub fn new() -> Self {
        Words(Arc::new((0..2).map(|_| UnsafeCell::new(0)).collect()))
    }

    /// Sends the next message, as soon as it is admitted.
    pub fn send_when_admitted(&self, publisher: &mut Publisher) {
        publisher.wait_until_admitted();
        let sequence = publisher.writer.published();
        // SAFETY: loom checks that this access is exclusive, which is the purpose of the model.
        self.0[(sequence & 1) as usize].with_mut(|cell| unsafe { *cell = content(sequence) });
        publisher.send();
    }

    /// Reads the words of the next message, if it is there; the cursor stays.
    pub fn peek(&self, subscriber: &Subscriber) -> bool {
        let ready = subscriber.reader.ready();
        if ready {
            // As the Acquire with which a poll looks at the stamp.
            fence(Ordering::Acquire);
            let sequence = subscriber.reader.cursor();
            // SAFETY: loom checks that nobody writes at the same time, which is the purpose of the model.
            let found = self.0[(sequence & 1) as usize].with(|cell| unsafe { *cell });
            assert_eq!(found, content(sequence));
        }
        ready
    }
}

/// What message `sequence` says.
fn content(sequence: u64) -> u64 {
    1000 + sequence
}

pub struct Publisher {
    pub writer: Writer<Heap>,
    pub bell: Arc<Bell>,
    pub chunks: Chunks,
}

impl Publisher {
    /// Sends a message in its slot.
    pub fn send(&mut self) {
        let words = [content(self.writer.published()); INLINE_WORDS];
        self.writer.send_inline(&words, INLINE_BYTES);
    }

    /// As `send`, but waits for space.
    pub fn send_when_admitted(&mut self) {
        self.wait_until_admitted();
        self.send();
    }

    fn wait_until_admitted(&mut self) {
        while self.writer.admit().is_err() {
            loom::thread::yield_now();
        }
    }

    /// Sends a message in a chunk, unless readers hold all memory.
    pub fn send_chunk(&mut self) -> bool {
        let sequence = self.writer.published();
        let Ok(mut loan) = Loan::take(&mut self.writer, UNIT as usize) else { return false };
        self.chunks.write(loan.offset(), content(sequence));
        loan.admit().expect("no reader is that far behind");
        loan.send();
        true
    }

    /// As `send_chunk`, but nothing is sent either when a reader is too far behind.
    pub fn send_chunk_if_admitted(&mut self) -> bool {
        let sequence = self.writer.published();
        let Ok(mut loan) = Loan::take(&mut self.writer, UNIT as usize) else { return false };
        self.chunks.write(loan.offset(), content(sequence));
        if loan.admit().is_err() {
            return false;
        }
        loan.send();
        true
    }

    /// Attaches a new subscriber.
    pub fn attach(&self) -> Subscriber {
        self.attach_as(0)
    }

    /// Attaches one of several subscribers.
    pub fn attach_as(&self, index: u32) -> Subscriber {
        Subscription { index, ..Subscription::new() }.attach(&self.door())
    }

    /// What a control thread needs to attach somebody.
    pub fn door(&self) -> Door {
        Door {
            desk: Arc::clone(self.writer.desk()),
            ring: Arc::clone(self.writer.ring()),
            bell: Arc::clone(&self.bell),
            strange: None,
        }
    }

    /// What a control thread needs to attach somebody of another user, for whom `door` was made.
    pub fn door_for_strangers(&self, door: &Arc<Bell>) -> Door {
        Door { strange: Some(Arc::clone(door)), ..self.door() }
    }
}

/// A publisher, as a control thread sees it.
pub struct Door {
    pub desk: Arc<hivemind_ring::desk::Desk<Heap>>,
    ring: Arc<hivemind_ring::heap::HeapRing>,
    bell: Arc<Bell>,
    /// The doorbells made for another user, who attaches through this door.
    strange: Option<Arc<Bell>>,
}

/// A subscriber that is not attached yet.
pub struct Subscription {
    pub seats: Seats<Heap>,
    bell: Arc<Bell>,
    index: u32,
}

impl Subscription {
    pub fn new() -> Self {
        Subscription::with_seats(1)
    }

    pub fn with_seats(seats: usize) -> Self {
        let bell = Arc::new(Bell::silent());
        Subscription { seats: Seats::on_heap(seats, Arc::clone(&bell)), bell, index: 0 }
    }

    /// One of several that are waited for at one line, which is that of each of them.
    pub fn at(line: &Arc<Bell>, index: u32) -> Self {
        Subscription { seats: Seats::on_heap(1, Arc::clone(line)), bell: Arc::clone(line), index }
    }

    pub fn read(&self, door: &Door) -> Reader<Heap> {
        let seat = self.seats.take((1, 1)).expect("there is a seat");
        let seats = Arc::clone(self.seats.memory());
        let (ring, subscriber) = (Arc::clone(&door.ring), (2, self.index));
        let reader = if let Some(bell) = &door.strange {
            let bell = Arc::clone(bell);
            let first = door.desk.attach_stranger(seats, seat.index(), Arc::clone(&bell), subscriber);
            Reader::of_stranger(ring, bell, seat, first.expect("there is room"))
        } else {
            let first = door.desk.attach(seats, seat.index(), Arc::clone(&self.bell), subscriber);
            Reader::new(ring, Arc::clone(&door.bell), seat, first.expect("there is room"))
        };
        reader.expect("the first message is possible")
    }

    /// One of several.
    pub fn numbered(index: u32) -> Self {
        Subscription { index, ..Subscription::new() }
    }

    /// Reads what the publisher behind the door left, without a place at its desk, if it has ended.
    pub fn read_what_is_left(self, door: &Door) -> Option<Subscriber> {
        if !retained::closed(&*door.ring) {
            return None;
        }
        let seat = self.seats.take((1, 1)).expect("there is a seat");
        let first = Start::told(retained::first(&*door.ring));
        let (ring, bell) = (Arc::clone(&door.ring), Arc::clone(&door.bell));
        let reader = Reader::new(ring, bell, seat, first).expect("the first message is possible");
        Some(Subscriber { reader, seats: self.seats, received: 0, newest: None })
    }

    pub fn attach(self, door: &Door) -> Subscriber {
        let reader = self.read(door);
        Subscriber { reader, seats: self.seats, received: 0, newest: None }
    }
}

pub struct Subscriber {
    pub reader: Reader<Heap>,
    pub seats: Seats<Heap>,
    pub received: u64,
    newest: Option<u64>,
}

impl Subscriber {
    /// Polls once; whatever comes must be in order, and whole where it travelled in the slot.
    pub fn poll(&mut self) -> Option<Taken<Heap>> {
        let taken = self.reader.poll().expect("an honest publisher")?;
        self.note(&taken);
        Some(taken)
    }

    /// As `poll`, but only the short way to a message that travelled in its slot.
    pub fn poll_line(&mut self) {
        if let Some(line) = self.reader.poll_line() {
            self.note(&Taken::Inline(line));
        }
    }

    fn note(&mut self, taken: &Taken<Heap>) {
        let sequence = match taken {
            Taken::Inline(line) => {
                let sequence = line.sequence();
                assert_eq!(line.message().len(), INLINE_BYTES);
                assert_eq!(*line.words(), [content(sequence); INLINE_WORDS], "message {sequence} is torn");
                sequence
            }
            Taken::Held(held) => held.sequence(),
            Taken::Unread(_) => panic!("chunks on the heap are mapped"),
        };
        assert!(self.newest < Some(sequence), "{sequence} comes after {:?}", self.newest);
        self.newest = Some(sequence);
        self.received += 1;
    }

    /// Polls and looks into what comes. Whether there was anything.
    pub fn look(&mut self, chunks: &Chunks) -> bool {
        match self.poll() {
            Some(Taken::Held(held)) => {
                chunks.check(&held);
                true
            }
            Some(Taken::Unread(_)) => panic!("chunks on the heap are mapped"),
            Some(Taken::Inline(_)) => true,
            None => false,
        }
    }

    /// Sleeps until there is something to poll, and listens; may return for no reason.
    pub fn sleep(&self) {
        let news = || self.reader.ready() || self.reader.finished();
        self.seats.sleep(std::iter::once(&self.reader), news, None);
    }

    /// As `sleep`, but alone.
    pub fn sleep_alone(&self) {
        let news = || self.reader.ready() || self.reader.finished();
        self.seats.sleep_alone(std::iter::once(&self.reader), news);
    }

    /// Ends, in the order in which a node ends a subscriber; what is left.
    pub fn close(self) -> Seats<Heap> {
        self.seats.close([self.reader]);
        self.seats
    }

    /// Gives its seat back; what is left.
    pub fn leave(self) -> Seats<Heap> {
        drop(self.reader);
        self.seats
    }

    /// Reads what is left of a publisher that sent `published` messages and sends no more.
    pub fn finish(&mut self, chunks: &Chunks, published: u64) {
        while self.reader.cursor() < published {
            assert!(self.reader.ready(), "a committed message is there to be read");
            self.look(chunks);
        }
        assert!(!self.reader.ready());
        assert_eq!(
            self.received + self.reader.lost(),
            published - self.reader.first(),
            "every message counts once"
        );
    }
}
