//! One story for each bug that was found in the ring and fixed.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::desk::{Begin, Start};
use hivemind_ring::heap::Heap;
use hivemind_ring::loan::Loan;
use hivemind_ring::memory::{RingMemory as _, SeatMemory as _};
use hivemind_ring::reader::{Reader, SeatError, Seats, TakenSeat};
use hivemind_ring::writer::{AllocateError, RingConfig, Writer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CONFIG: RingConfig = RingConfig {
    node: 7,
    index: 1,
    fingerprint: 0,
    capacity: 4,
    message_max: 4096,
    chunk_memory: 64 * 64,
    reliable: false,
    history: 0,
    retained: 0,
    bell: 0,
};

struct Publisher {
    writer: Writer<Heap>,
    bell: Arc<Bell>,
}

impl Publisher {
    fn new(config: &RingConfig) -> Self {
        let bell = Arc::new(Bell::silent());
        Publisher { writer: Writer::on_heap(config, Arc::clone(&bell)), bell }
    }

    fn send(&mut self, length: usize) -> Result<(), AllocateError> {
        self.writer.admit().expect("there is space");
        let value = self.writer.published() as u8;
        let mut loan = Loan::take(&mut self.writer, length)?;
        loan.fill(value);
        loan.send();
        Ok(())
    }

    fn attach(&self, seats: &Seats<Heap>, seat: &TakenSeat<Heap>, index: u32) -> Start {
        let bell = Arc::new(Bell::silent());
        self.writer
            .desk()
            .attach(Arc::clone(seats.memory()), seat.index(), bell, (9, index))
            .expect("there is room")
    }

    fn read(&self, seat: TakenSeat<Heap>, first: Start) -> Reader<Heap> {
        Reader::new(Arc::clone(self.writer.ring()), Arc::clone(&self.bell), seat, first)
            .expect("it is possible")
    }
}

fn seats(count: usize) -> Seats<Heap> {
    Seats::on_heap(count, Arc::new(Bell::silent()))
}

fn poll(reader: &mut Reader<Heap>) -> Option<Message<Heap>> {
    reader
        .poll()
        .expect("an honest publisher")
        .map(|taken| Message::try_from(taken).expect("its chunks are mapped"))
}

/// A publisher was admitted, looked for memory, saw on that occasion that a reader had attached, and forgot
/// that it was admitted: an assertion failed although the reader begins late enough to be in nobody's way.
#[test]
fn an_admitted_message_stays_admitted_when_a_reader_attaches() {
    let mut publisher = Publisher::new(&RingConfig { reliable: true, chunk_memory: 64 * 4, ..CONFIG });
    for _ in 0..4 {
        publisher.send(64).expect("there is memory");
    }
    publisher.writer.admit().expect("nobody reads");
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let first = publisher.attach(&seats, &seat, 1);
    // There is no free memory, so the publisher looks who needs what.
    let loan = Loan::take(&mut publisher.writer, 64).expect("nobody needs the old messages");
    loan.send();
    let mut reader = publisher.read(seat, first);
    assert_eq!(poll(&mut reader).map(|message| message.sequence()), Some(4));
}

/// A reliable ring kept the memory of a message until its slot was overwritten. With large messages the
/// memory was full before the slots were, and the publisher waited for ever for readers that had read
/// everything.
#[test]
fn a_reliable_ring_reuses_the_memory_of_what_everybody_has_read() {
    let mut publisher = Publisher::new(&RingConfig { reliable: true, chunk_memory: 64 * 2, ..CONFIG });
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let first = publisher.attach(&seats, &seat, 1);
    let mut reader = publisher.read(seat, first);
    for sequence in 0..20 {
        publisher.send(128).expect("everything was read");
        assert!(matches!(publisher.send(128), Err(AllocateError::MemoryOut { .. })), "but not this one");
        assert_eq!(poll(&mut reader).map(|message| message.sequence()), Some(sequence));
    }
    assert_eq!(reader.lost(), 0);
}

/// The same memory must not take from a reliable ring what a late reader is promised.
#[test]
fn a_reliable_ring_keeps_its_history_when_memory_is_short() {
    let config = RingConfig { reliable: true, history: 2, chunk_memory: 64 * 3, ..CONFIG };
    let mut publisher = Publisher::new(&config);
    for _ in 0..10 {
        publisher.send(64).expect("two are kept, one is free");
    }
    assert!(matches!(publisher.send(128), Err(AllocateError::MemoryOut { .. })), "but not two");
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let first = publisher.attach(&seats, &seat, 1);
    let mut reader = publisher.read(seat, first);
    for sequence in 8..10 {
        assert_eq!(poll(&mut reader).map(|message| message.sequence()), Some(sequence));
    }
    assert_eq!(reader.lost(), 0);
}

/// A subscriber was introduced twice, because the root changed before it had heard the answer. The second
/// answer named a later first message, but the subscriber heard the first answer and lost what lay between,
/// on a reliable ring.
#[test]
fn a_second_introduction_gets_the_first_answer() {
    let mut publisher = Publisher::new(&RingConfig { reliable: true, ..CONFIG });
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let first = publisher.attach(&seats, &seat, 1);
    publisher.send(64).expect("there is memory");
    assert_eq!(publisher.attach(&seats, &seat, 1), first);
    assert_eq!(publisher.writer.desk().subscribers(), [(9, 1)]);
    for _ in 0..3 {
        publisher.send(64).expect("there is memory");
    }
    assert!(publisher.writer.admit().is_err(), "the first message was not read");
    let mut reader = publisher.read(seat, first);
    assert_eq!(poll(&mut reader).map(|message| message.sequence()), Some(0));
}

/// Subscribers that ended while they held a sample stayed on the list of a publisher that sent nothing to
/// sleepers.
#[test]
fn subscribers_that_ended_do_not_pile_up_at_the_desk() {
    let mut publisher = Publisher::new(&CONFIG);
    for index in 0..5 {
        let seats = seats(1);
        let seat = seats.take((7, 1)).expect("it is free");
        let first = publisher.attach(&seats, &seat, index);
        assert_eq!(publisher.writer.desk().subscribers(), [(9, index)], "the former ones are forgotten");
        let mut reader = publisher.read(seat, first);
        publisher.send(64).expect("there is memory");
        let sample = poll(&mut reader);
        seats.close([reader]);
        publisher.send(64).expect("there is memory");
        assert_eq!(publisher.writer.readers(), 0);
        drop(sample);
    }
}

/// A seat that was left while a sample of it was held was never found again, unless a lower one was left
/// later: a subscriber that outlives many publishers ran out of seats.
#[test]
fn a_seat_is_found_again_when_its_last_sample_is_dropped() {
    let seats = seats(3);
    let longest = seats.take((1, 1)).expect("it is free");
    let mut former: Option<Message<Heap>> = None;
    for _ in 0..10 {
        let mut publisher = Publisher::new(&CONFIG);
        let seat = seats.take((7, 1)).expect("at most one seat is kept by a sample");
        assert_ne!(seat.index(), longest.index());
        let first = publisher.attach(&seats, &seat, 1);
        let mut reader = publisher.read(seat, first);
        publisher.send(64).expect("there is memory");
        former = poll(&mut reader).or(former);
    }
    drop(former);
}

/// A message that is larger than all memory of its ring made a lossy ring give up every message before it was
/// refused.
#[test]
fn a_message_beyond_all_memory_costs_no_other() {
    let mut publisher = Publisher::new(&RingConfig { chunk_memory: 1024, ..CONFIG });
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let first = publisher.attach(&seats, &seat, 1);
    let mut reader = publisher.read(seat, first);
    publisher.send(64).expect("there is memory");
    assert_eq!(publisher.send(1025), Err(AllocateError::MemoryOut { bytes: 1025, limit: 1024 }));
    assert_eq!(poll(&mut reader).map(|message| message.bytes().to_vec()), Some(vec![0; 64]));
}

/// A reader whose publisher has registered another seat would pin where nobody looks, and memory would be
/// reused under a sample.
#[test]
#[should_panic(expected = "the desk answered for this seat")]
fn a_reader_needs_the_answer_for_its_own_seat() {
    let publisher = Publisher::new(&CONFIG);
    let seats = seats(2);
    let (seat, other) = (seats.take((7, 1)).expect("it is free"), seats.take((7, 1)).expect("it is free"));
    let first = publisher.attach(&seats, &seat, 1);
    let _reader = publisher.read(other, first);
}

/// A subscriber said that it had ended while one of its readers went on: its publisher forgot the reader, and
/// reused what it pinned.
#[test]
fn a_subscriber_has_ended_when_its_last_reader_has() {
    let mut publisher = Publisher::new(&CONFIG);
    let seats = seats(2);
    let (seat, other) = (seats.take((7, 1)).expect("it is free"), seats.take((7, 1)).expect("it is free"));
    let (first, second) = (publisher.attach(&seats, &seat, 1), publisher.attach(&seats, &other, 2));
    let (reader, mut late) = (publisher.read(seat, first), publisher.read(other, second));
    seats.close([reader]);
    assert!(matches!(seats.take((7, 1)), Err(SeatError::Ended)));
    assert_eq!(publisher.writer.desk().count(), 1, "one still reads");
    publisher.writer.desk().prune();
    publisher.send(64).expect("there is memory");
    let sample = poll(&mut late).expect("it was sent");
    for _ in 0..20 {
        publisher.send(64).expect("one chunk is held, the others are free");
    }
    assert_eq!(sample.bytes(), [0; 64]);
    drop(late);
    assert_eq!(publisher.writer.desk().count(), 0);
    assert_eq!(seats.memory().header().closed.load(Ordering::Relaxed), 1);
}

/// Until a reader has heard where it begins, its cursor says 0. That is no reason to hold up a publisher that
/// has come further.
#[test]
fn a_reader_that_has_not_begun_counts_from_its_first_message_on() {
    let mut publisher = Publisher::new(&RingConfig { reliable: true, ..CONFIG });
    for _ in 0..10 {
        publisher.send(64).expect("nobody reads");
    }
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let first = publisher.attach(&seats, &seat, 1);
    for _ in 0..4 {
        publisher.send(64).expect("it begins here");
    }
    assert!(publisher.writer.admit().is_err(), "it has to read them");
    let mut reader = publisher.read(seat, first);
    assert_eq!(poll(&mut reader).map(|message| message.sequence()), Some(10));
}

// Once a late reader of a reliable ring that was overtaken while it caught up left out messages that its
// publisher kept for it.
#[test]
fn who_comes_late_to_a_reliable_ring_gets_all_that_is_kept_for_it() {
    let mut publisher = Publisher::new(&RingConfig { reliable: true, capacity: 16, ..CONFIG });
    for _ in 0..40 {
        publisher.send(8).expect("nobody reads");
    }
    let seats = seats(1);
    let seat = seats.take((7, 1)).expect("it is free");
    let (memory, bell) = (Arc::clone(seats.memory()), Arc::new(Bell::silent()));
    let told = publisher
        .writer
        .desk()
        .attach_from(Begin::AtFirst, memory, seat.index(), bell, (9, 1))
        .expect("there is room");
    assert_eq!(told.sequence(), 0);
    publisher.send(8).expect("one message more has room");
    assert!(publisher.writer.admit().is_err(), "the other slots are kept for the reader");
    // As the reader sees it that looks at the head before that message, and at the slot after it.
    publisher.writer.ring().header().head.store(40, Ordering::Relaxed);
    let mut reader = publisher.read(seat, told);
    let received: Vec<u64> =
        std::iter::from_fn(|| poll(&mut reader)).map(|message| message.sequence()).collect();
    assert_eq!((received, reader.lost()), ((25..41).collect(), 25));
}
