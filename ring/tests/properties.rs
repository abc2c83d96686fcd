//! Random lives of a publisher and its subscribers, in one thread and step by step, against a model of ten
//! lines: which messages a reader must get, which it lost, and what every sample says for as long as it is
//! held.
//!
//! The model knows the ring by its promises alone: the newest `capacity` messages are there unless they were
//! withdrawn, a late reader begins `history` messages back, a reliable ring refuses instead of losing. A
//! failure prints the shortest list of steps that still fails, and the seed.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::heap::{Heap, HeapSeats};
use hivemind_ring::layout::{INLINE_BYTES, PINS};
use hivemind_ring::line::Line;
use hivemind_ring::loan::Loan;
use hivemind_ring::memory::RingMemory;
use hivemind_ring::reader::{PollError, Reader, Seats};
use hivemind_ring::writer::{AdmitError, AllocateError, RingConfig, Writer};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

#[derive(Debug, Clone)]
struct Setup {
    capacity: u64,
    history: u64,
    reliable: bool,
    chunk_memory: u64,
}

#[derive(Debug, Clone)]
enum Step {
    /// Sends a message of so many bytes; short ones travel in the slot.
    Send { length: usize },
    /// Takes memory for `length` bytes and sends the first `sent` of them.
    SendPrefix { length: usize, sent: usize },
    /// Takes memory and gives it back.
    Forgo { length: usize },
    /// A new subscriber attaches.
    Attach,
    /// A subscriber polls, and keeps what it gets (`keep`) or drops it at once.
    Poll { who: Index, keep: bool },
    /// A subscriber drops one of its samples.
    Drop { who: Index, sample: Index },
    /// A subscriber ends in order. Its samples stay.
    End { who: Index },
    /// The kernel says that a subscriber is gone, with all its samples.
    Die { who: Index },
}

fn setups() -> impl Strategy<Value = Setup> {
    (1_u64..5, 0_u64..20, any::<bool>(), prop_oneof![512_u64..8192, 64_u64 << 10..80 << 10]).prop_map(
        |(capacity, history, reliable, chunk_memory)| Setup {
            capacity: 1 << capacity,
            history,
            reliable,
            chunk_memory,
        },
    )
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..=INLINE_BYTES, 4 => INLINE_BYTES + 1..600, 1 => 600_usize..9000]
}

fn steps() -> impl Strategy<Value = Step> {
    let who = any::<Index>;
    prop_oneof![
        12 => lengths().prop_map(|length| Step::Send { length }),
        2 => (lengths(), lengths()).prop_map(|(length, sent)| Step::SendPrefix { length, sent }),
        1 => lengths().prop_map(|length| Step::Forgo { length }),
        2 => Just(Step::Attach),
        16 => (who(), any::<bool>()).prop_map(|(who, keep)| Step::Poll { who, keep }),
        4 => (who(), any::<Index>()).prop_map(|(who, sample)| Step::Drop { who, sample }),
        1 => who().prop_map(|who| Step::End { who }),
        1 => who().prop_map(|who| Step::Die { who }),
    ]
}

/// What message `sequence` says.
fn content(sequence: u64, length: usize) -> Vec<u8> {
    let seed = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..length).map(|index| (seed >> (8 * (index % 8))) as u8 ^ (index / 8) as u8).collect()
}

struct Subscriber {
    /// Each is a node of its own.
    node: u64,
    seats: Seats<Heap>,
    /// `None` once it ended; its samples may outlive it.
    reader: Option<Reader<Heap>>,
    samples: Vec<Message<Heap>>,
    cursor: u64,
    received: u64,
    lost: u64,
}

struct World {
    setup: Setup,
    writer: Writer<Heap>,
    bell: Arc<Bell>,
    /// Length of each message, and whether it lies in a chunk.
    published: Vec<(usize, bool)>,
    subscribers: Vec<Subscriber>,
    next_node: u64,
    seats: Vec<Weak<HeapSeats>>,
}

impl World {
    fn new(setup: Setup) -> Self {
        let config = RingConfig {
            node: 7,
            index: 1,
            fingerprint: 0,
            capacity: setup.capacity,
            message_max: 8192,
            chunk_memory: setup.chunk_memory,
            reliable: setup.reliable,
            history: setup.history,
            retained: 0,
            bell: 0,
        };
        let bell = Arc::new(Bell::silent());
        let writer = Writer::on_heap(&config, Arc::clone(&bell));
        World {
            setup,
            writer,
            bell,
            published: Vec::new(),
            subscribers: Vec::new(),
            next_node: 0,
            seats: Vec::new(),
        }
    }

    fn next(&self) -> u64 {
        self.published.len() as u64
    }

    /// Messages below this were withdrawn, if they lay in chunks.
    fn tail(&self) -> u64 {
        self.writer.ring().header().tail.load(Ordering::Relaxed)
    }

    fn history(&self) -> u64 {
        self.setup.history.min(self.setup.capacity - 1)
    }

    fn samples(&self) -> usize {
        let held =
            |subscriber: &Subscriber| subscriber.samples.iter().filter(|sample| sample.is_held()).count();
        self.subscribers.iter().map(held).sum()
    }

    /// Whom the publisher of a reliable ring waits for.
    fn slowest(&self) -> u64 {
        let open = self.subscribers.iter().filter(|subscriber| subscriber.reader.is_some());
        open.map(|subscriber| subscriber.cursor).min().unwrap_or(self.next())
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send { length } => self.send(length, length),
            Step::SendPrefix { length, sent } => self.send(length.max(1), sent),
            Step::Forgo { length } => {
                if let Some(loan) = self.loan(length) {
                    drop(loan);
                }
            }
            Step::Attach => self.attach(),
            Step::Poll { ref who, keep } => {
                if let Some(who) = self.pick(who) {
                    self.poll(who, keep);
                }
            }
            Step::Drop { ref who, ref sample } => {
                if let Some(who) = self.pick(who) {
                    let samples = &mut self.subscribers[who].samples;
                    if !samples.is_empty() {
                        samples.swap_remove(sample.index(samples.len()));
                    }
                }
            }
            Step::End { ref who } => {
                if let Some(who) = self.pick(who) {
                    let subscriber = &mut self.subscribers[who];
                    if let Some(reader) = subscriber.reader.take() {
                        subscriber.seats.close([reader]);
                    }
                }
            }
            Step::Die { ref who } => {
                if let Some(who) = self.pick(who) {
                    let subscriber = self.subscribers.swap_remove(who);
                    self.writer.desk().detach_node(subscriber.node);
                }
            }
        }
    }

    fn pick(&self, who: &Index) -> Option<usize> {
        (!self.subscribers.is_empty()).then(|| who.index(self.subscribers.len()))
    }

    fn loan(&mut self, length: usize) -> Option<Loan<'_, Heap>> {
        let nothing_in_the_way = self.samples() == 0
            && (!self.setup.reliable || self.slowest() == self.next() && self.history() == 0);
        let (limit, next) = (self.setup.chunk_memory / 64 * 64, self.next());
        match Loan::take(&mut self.writer, length) {
            Ok(loan) => Some(loan),
            Err(AllocateError::TooLarge { bytes, limit }) => {
                assert!(bytes > limit);
                None
            }
            Err(error) => {
                let fits = (length as u64).next_multiple_of(64) <= limit;
                assert!(
                    !fits || !nothing_in_the_way,
                    "{error}, though all memory is free, at message {next}"
                );
                None
            }
        }
    }

    fn send(&mut self, length: usize, sent: usize) {
        let full = self.setup.reliable && self.next() - self.slowest() >= self.setup.capacity;
        match self.writer.admit() {
            Ok(()) => assert!(!full, "admitted, though a reader is that far behind"),
            Err(AdmitError::Full { capacity }) => {
                assert!(full && capacity == self.setup.capacity);
                return;
            }
            Err(error) => panic!("{error}"),
        }
        let sent = sent.min(length);
        let bytes = content(self.next(), sent);
        let attached = self.subscribers.iter().filter(|subscriber| subscriber.reader.is_some()).count();
        let reached = if length <= INLINE_BYTES {
            let mut buffer = Line::default();
            buffer.bytes_mut()[..sent].copy_from_slice(&bytes);
            self.writer.send_inline(buffer.words(), sent)
        } else {
            let Some(mut loan) = self.loan(length) else { return };
            loan[..sent].copy_from_slice(&bytes);
            loan.send_prefix(sent)
        };
        assert_eq!(reached, attached);
        self.published.push((sent, sent > INLINE_BYTES));
        assert_eq!(self.writer.published(), self.next());
    }

    fn attach(&mut self) {
        if self.subscribers.len() == 4 {
            return;
        }
        let bell = Arc::new(Bell::silent());
        let seats = Seats::on_heap(1, Arc::clone(&bell));
        let seat = seats.take((7, 1)).expect("it is free");
        let node = self.next_node;
        self.next_node += 1;
        let memory = Arc::clone(seats.memory());
        self.seats.push(Arc::downgrade(&memory));
        let start = self.writer.desk().attach(memory, seat.index(), bell, (node, 1)).expect("there is room");
        let first = start.sequence();
        assert_eq!(first, self.next().saturating_sub(self.history()).max(self.tail()).min(self.next()));
        assert!(
            !self.setup.reliable || first == self.next().saturating_sub(self.history()),
            "all its history is there"
        );
        let ring = Arc::clone(self.writer.ring());
        let reader = Reader::new(ring, Arc::clone(&self.bell), seat, start).expect("it is possible");
        self.subscribers.push(Subscriber {
            node,
            seats,
            reader: Some(reader),
            samples: Vec::new(),
            cursor: first,
            received: 0,
            lost: 0,
        });
    }

    fn poll(&mut self, who: usize, keep: bool) {
        let (next, tail, capacity) = (self.next(), self.tail(), self.setup.capacity);
        let reliable = self.setup.reliable;
        let subscriber = &mut self.subscribers[who];
        let Some(reader) = &mut subscriber.reader else { return };
        // What must happen: skip what was overwritten, skip what was withdrawn, get the next one.
        let oldest = subscriber.cursor.max(next.saturating_sub(capacity));
        let withdrawn = |&sequence: &u64| sequence < tail && self.published[sequence as usize].1;
        let expected = (oldest..next).find(|sequence| !withdrawn(sequence));
        let ready = reader.ready();
        assert_eq!(ready, subscriber.cursor < next);
        let held = subscriber.samples.iter().filter(|sample| sample.is_held()).count();
        let polled = reader.poll();
        let position = expected.unwrap_or(next);
        subscriber.lost += position - subscriber.cursor;
        subscriber.cursor = position;
        match (polled, expected) {
            (Ok(None), None) => {}
            (Ok(Some(taken)), Some(sequence)) => {
                let sample = Message::try_from(taken).expect("its chunks are mapped");
                let (length, in_chunk) = self.published[sequence as usize];
                assert_eq!((sample.sequence(), sample.is_held()), (sequence, in_chunk));
                assert_eq!(sample.bytes(), content(sequence, length));
                subscriber.received += 1;
                subscriber.cursor += 1;
                if keep {
                    subscriber.samples.push(sample);
                }
            }
            (Err(PollError::HeldOut { limit }), Some(sequence)) => {
                assert!(self.published[sequence as usize].1 && held == PINS && limit == PINS);
            }
            (polled, expected) => panic!("polled {polled:?}, expected {expected:?}"),
        }
        assert_eq!((reader.cursor(), reader.lost()), (subscriber.cursor, subscriber.lost));
        assert_eq!(subscriber.received + subscriber.lost, subscriber.cursor - reader.first());
        assert!(!reliable || subscriber.lost == 0, "a reliable ring loses nothing");
    }

    /// What holds after each step.
    fn check(&self) {
        for sample in self.subscribers.iter().flat_map(|subscriber| &subscriber.samples) {
            let (length, _) = self.published[sample.sequence() as usize];
            assert_eq!(sample.bytes(), content(sample.sequence(), length), "a held sample does not change");
        }
        let (in_use, committed, limit) = self.writer.memory();
        assert!(in_use <= committed && committed <= limit, "{in_use} of {committed} of {limit}");
        // No two live messages share memory: each sample and each message in the ring has its own chunk.
        let mut held = HashMap::new();
        for sample in self.subscribers.iter().flat_map(|subscriber| &subscriber.samples) {
            if sample.is_held() {
                held.insert(sample.sequence(), sample.bytes().len() as u64);
            }
        }
        assert!(held.values().sum::<u64>() <= in_use, "what is held is in use");
    }

    /// All subscribers end; then all memory must be free again.
    fn end(mut self) {
        while let Some(subscriber) = self.subscribers.pop() {
            self.writer.desk().detach_node(subscriber.node);
        }
        if !self.setup.reliable || self.history() == 0 {
            let limit = self.writer.memory().2.min(8192);
            assert!(Loan::take(&mut self.writer, limit as usize).is_ok(), "everything can be given up");
        }
        let ring = Arc::downgrade(self.writer.ring());
        drop(self.writer);
        assert!(ring.upgrade().is_none(), "nobody keeps the ring");
        assert!(self.seats.iter().all(|seats| seats.upgrade().is_none()), "nobody keeps a seat");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_gets_what_the_ring_promises(
        setup in setups(),
        steps in proptest::collection::vec(steps(), 1..250),
    ) {
        let mut world = World::new(setup);
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.end();
    }
}
