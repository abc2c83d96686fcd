//! A publisher and its readers on real threads, on the heap: every message carries a checksum, every count
//! must come out, every sleeper must be woken. Bounded by counts, not by time.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::{Bell, Woken};
use hivemind_ring::desk::Desk;
use hivemind_ring::heap::{Heap, HeapRing};
use hivemind_ring::layout::INLINE_BYTES;
use hivemind_ring::line::Line;
use hivemind_ring::loan::Loan;
use hivemind_ring::reader::{PollError, Reader, Seats};
use hivemind_ring::writer::{AdmitError, RingConfig, Writer};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Longer than any of this takes: a sleeper that nobody wakes fails the test instead of hanging it.
const MUCH_TOO_LONG: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 40_000;

/// A stream of numbers that looks random: xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

/// How long message `sequence` is: mostly short, sometimes a few pages, and by the sequence alone.
fn length_of(sequence: u64) -> usize {
    let mut dice = Dice::new(sequence + 1);
    match dice.roll(20) {
        0..10 => dice.roll(INLINE_BYTES as u64 + 1) as usize,
        10..19 => dice.roll(500) as usize,
        _ => dice.roll(9000) as usize,
    }
}

fn fill(sequence: u64, bytes: &mut [u8]) {
    let mut dice = Dice::new(sequence ^ 0x5555);
    let step = dice.roll(255) as u8 | 1;
    let mut value = dice.roll(256) as u8;
    for byte in bytes {
        *byte = value;
        value = value.wrapping_add(step);
    }
}

fn check(message: &Message<Heap>) {
    let sequence = message.sequence();
    let mut expected = vec![0; length_of(sequence)];
    fill(sequence, &mut expected);
    assert!(message.bytes() == expected, "message {sequence} is torn");
}

struct Publisher {
    writer: Writer<Heap>,
    bell: Arc<Bell>,
}

impl Publisher {
    fn new(reliable: bool, capacity: u64, chunk_memory: u64) -> Self {
        let config = RingConfig {
            node: 7,
            index: 1,
            fingerprint: 0,
            capacity,
            message_max: 9000,
            chunk_memory,
            reliable,
            history: capacity / 2,
            retained: 0,
            bell: 0,
        };
        let bell = Arc::new(Bell::silent());
        Publisher { writer: Writer::on_heap(&config, Arc::clone(&bell)), bell }
    }

    fn door(&self) -> Door {
        Door {
            desk: Arc::clone(self.writer.desk()),
            ring: Arc::clone(self.writer.ring()),
            bell: Arc::clone(&self.bell),
        }
    }

    /// Sends the next message; readers may hold all memory for a while.
    fn send(&mut self) {
        let length = length_of(self.writer.published());
        let sequence = self.writer.published();
        loop {
            match self.writer.admit_within(MUCH_TOO_LONG) {
                Ok(()) => {}
                Err(AdmitError::Full { .. }) => panic!("a reader stands still at message {sequence}"),
                Err(error) => panic!("{error}"),
            }
            if length <= INLINE_BYTES {
                let mut buffer = Line::default();
                fill(sequence, &mut buffer.bytes_mut()[..length]);
                self.writer.send_inline(buffer.words(), length);
                return;
            }
            if let Ok(mut loan) = Loan::take(&mut self.writer, length) {
                fill(sequence, &mut loan);
                loan.send();
                return;
            }
            thread::yield_now();
        }
    }
}

#[derive(Clone)]
struct Door {
    desk: Arc<Desk<Heap>>,
    ring: Arc<HeapRing>,
    bell: Arc<Bell>,
}

struct Subscriber {
    reader: Reader<Heap>,
    seats: Seats<Heap>,
    door: Door,
    samples: Vec<Message<Heap>>,
    received: u64,
    newest: Option<u64>,
    dice: Dice,
}

impl Subscriber {
    fn attach(door: &Door, index: u32) -> Self {
        let bell = Arc::new(Bell::silent());
        let seats = Seats::on_heap(2, Arc::clone(&bell));
        let seat = seats.take((7, 1)).expect("it is free");
        let first = door
            .desk
            .attach(Arc::clone(seats.memory()), seat.index(), bell, (9, index))
            .expect("there is room");
        let reader =
            Reader::new(Arc::clone(&door.ring), Arc::clone(&door.bell), seat, first).expect("it is possible");
        Subscriber {
            reader,
            seats,
            door: door.clone(),
            samples: Vec::new(),
            received: 0,
            newest: None,
            dice: Dice::new(u64::from(index) + 77),
        }
    }

    /// Takes one message, keeps some, checks them all when they come and again when they go.
    fn take(&mut self) -> bool {
        let message: Message<Heap> = match self.reader.poll() {
            Ok(Some(taken)) => taken.try_into().expect("its chunks are mapped"),
            Ok(None) => return false,
            Err(PollError::HeldOut { .. }) => {
                self.drop_samples(0);
                return true;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(self.newest < Some(message.sequence()), "out of order");
        self.newest = Some(message.sequence());
        self.received += 1;
        check(&message);
        if self.dice.roll(4) == 0 {
            self.samples.push(message);
        }
        if self.samples.len() > 20 {
            self.drop_samples(self.dice.0 as usize % 20);
        }
        true
    }

    fn drop_samples(&mut self, keep: usize) {
        for sample in self.samples.drain(keep..) {
            check(&sample);
        }
    }

    /// Reads to the end of the publisher; sleeps whenever there is nothing.
    fn run(mut self, slow: u64) -> Self {
        while !self.reader.finished() {
            if !self.take() {
                // The publisher may wait for their memory.
                self.drop_samples(0);
                let news = || self.reader.ready() || self.reader.finished();
                let woken = self.seats.sleep(std::iter::once(&self.reader), news, Some(MUCH_TOO_LONG));
                assert_eq!(
                    woken,
                    Woken::LookAgain,
                    "nobody woke the reader at message {}",
                    self.reader.cursor()
                );
            } else if slow > 0 && self.dice.roll(slow) == 0 {
                thread::yield_now();
            }
        }
        self
    }

    /// Ends in the order in which a node ends a subscriber.
    fn end(mut self) {
        self.drop_samples(0);
        assert_eq!(self.received + self.reader.lost(), self.reader.cursor() - self.reader.first());
        self.seats.close([self.reader]);
        self.door.desk.prune();
    }
}

/// Sends everything from a thread of its own while others read, and one after the other comes late and leaves
/// early.
fn stress(reliable: bool, capacity: u64, chunk_memory: u64) {
    let mut publisher = Publisher::new(reliable, capacity, chunk_memory);
    let door = publisher.door();
    let readers: Vec<_> = (0..3)
        .map(|index| {
            let subscriber = Subscriber::attach(&door, index);
            assert_eq!(subscriber.reader.first(), 0);
            thread::spawn(move || subscriber.run(u64::from(index) * 5))
        })
        .collect();
    let visitors = {
        let door = door.clone();
        thread::spawn(move || {
            let mut index = 100;
            // A visitor that finds the publisher at its end is the last.
            loop {
                let mut visitor = Subscriber::attach(&door, index);
                index += 1;
                for _ in 0..200 {
                    if !visitor.take() {
                        thread::yield_now();
                    }
                }
                let finished = visitor.reader.finished();
                assert!(!reliable || visitor.reader.lost() == 0, "a reliable ring loses nothing");
                visitor.end();
                if finished {
                    break;
                }
            }
        })
    };
    let sending = thread::spawn(move || {
        for _ in 0..MESSAGES {
            publisher.send();
        }
    });
    sending.join().expect("the publisher");
    for reader in readers {
        let subscriber = reader.join().expect("a reader");
        assert_eq!(subscriber.received + subscriber.reader.lost(), MESSAGES, "every message counts once");
        assert!(!reliable || subscriber.reader.lost() == 0, "a reliable ring loses nothing");
        subscriber.end();
    }
    visitors.join().expect("the visitors");
    assert_eq!(door.desk.count(), 0);
}

#[test]
fn a_lossy_ring_under_stress_loses_only_what_it_counts() {
    stress(false, 64, 4 << 20);
}

/// So little memory that messages are withdrawn all the time.
#[test]
fn a_lossy_ring_short_of_memory_loses_only_what_it_counts() {
    stress(false, 16, 64 << 10);
}

/// The smallest ring there is: readers are overtaken in the middle of most of their polls.
#[test]
fn a_lossy_ring_of_two_slots_loses_only_what_it_counts() {
    stress(false, 2, 64 << 10);
}

#[test]
fn a_reliable_ring_under_stress_loses_nothing() {
    stress(true, 64, 4 << 20);
}

/// The smallest ring there is.
#[test]
fn a_reliable_ring_of_two_slots_loses_nothing() {
    stress(true, 2, 1 << 20);
}
