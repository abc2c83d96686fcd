//! A subscriber gives a seat back while its publisher lives: it could not map the ring, heard of a refusal
//! that the publisher does not know of, or cut the publisher off. The publisher hears nothing of that; it
//! sees it at the seat.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::desk::{Begin, Start};
use hivemind_ring::heap::Heap;
use hivemind_ring::line::Line;
use hivemind_ring::loan::Loan;
use hivemind_ring::reader::{Reader, Seats, TakenSeat};
use hivemind_ring::writer::{AdmitError, RingConfig, Writer};
use std::sync::Arc;

const SUBSCRIBER: (u64, u32) = (9, 1);

struct Publisher {
    writer: Writer<Heap>,
    bell: Arc<Bell>,
}

impl Publisher {
    fn new(reliable: bool, history: u64) -> Self {
        let config = RingConfig {
            node: 7,
            index: 1,
            fingerprint: 0,
            capacity: 4,
            message_max: 8192,
            chunk_memory: 8 << 10,
            reliable,
            history,
            retained: 0,
            bell: 0,
        };
        let bell = Arc::new(Bell::silent());
        Publisher { writer: Writer::on_heap(&config, Arc::clone(&bell)), bell }
    }

    fn send(&mut self) -> Result<usize, AdmitError> {
        self.writer.admit()?;
        Ok(self.writer.send_inline(Line::default().words(), 8))
    }

    fn send_chunk(&mut self, byte: u8) {
        self.writer.admit().unwrap();
        let mut loan = Loan::take(&mut self.writer, 1000).unwrap();
        loan.fill(byte);
        loan.send();
    }

    fn attach(&self, seats: &Seats<Heap>, seat: &TakenSeat<Heap>) -> Start {
        let memory = Arc::clone(seats.memory());
        self.writer.desk().attach(memory, seat.index(), Arc::new(Bell::silent()), SUBSCRIBER).unwrap()
    }

    fn read(&self, seat: TakenSeat<Heap>, start: Start) -> Reader<Heap> {
        Reader::new(Arc::clone(self.writer.ring()), Arc::clone(&self.bell), seat, start).unwrap()
    }
}

fn seats() -> Seats<Heap> {
    Seats::on_heap(4, Arc::new(Bell::silent()))
}

// Once a subscriber that was out of descriptors when the publisher's answer came held up a reliable publisher
// for as long as it lived.
#[test]
fn a_seat_that_was_given_back_holds_up_nobody() {
    let mut publisher = Publisher::new(true, 0);
    let seats = seats();
    let seat = seats.take((7, 1)).unwrap();
    let _start = publisher.attach(&seats, &seat);
    for _ in 0..4 {
        publisher.send().unwrap();
    }
    assert_eq!(publisher.send(), Err(AdmitError::Full { capacity: 4 }), "it counts as long as it is taken");
    drop(seat);
    publisher.send().unwrap();
    assert_eq!(publisher.writer.desk().count(), 0);
}

#[test]
fn the_next_owner_of_a_seat_means_nothing_to_the_former_publisher() {
    let (mut former, mut next) = (Publisher::new(true, 0), Publisher::new(true, 0));
    let seats = seats();
    let seat = seats.take((7, 1)).unwrap();
    let first = former.attach(&seats, &seat);
    let index = seat.index();
    let mut reader = former.read(seat, first);
    former.send().unwrap();
    assert!(reader.poll().unwrap().is_some());
    drop(reader);

    let seat = seats.take((8, 1)).unwrap();
    assert_eq!(seat.index(), index, "the lowest free seat is taken first");
    let first = next.attach(&seats, &seat);
    let _reader = next.read(seat, first);
    for _ in 0..20 {
        former.send().unwrap();
    }
    assert_eq!(former.writer.desk().count(), 0);
    for _ in 0..4 {
        next.send().unwrap();
    }
    assert!(next.send().is_err(), "its own reader counts");
}

// Once the second reader began where the first one had, and counted everything since as lost, again.
#[test]
fn who_takes_the_same_seat_anew_begins_anew() {
    let mut publisher = Publisher::new(false, 0);
    let seats = seats();
    let seat = seats.take((7, 1)).unwrap();
    assert_eq!(publisher.attach(&seats, &seat).sequence(), 0);
    // The handshake was left unfinished by a root that died: it begins where it began.
    publisher.send().unwrap();
    let first = publisher.attach(&seats, &seat);
    assert_eq!(first.sequence(), 0);
    let index = seat.index();
    let reader = publisher.read(seat, first);
    for _ in 0..10 {
        publisher.send().unwrap();
    }
    drop(reader);
    let seat = seats.take((7, 1)).unwrap();
    assert_eq!(seat.index(), index);
    assert_eq!(publisher.attach(&seats, &seat).sequence(), 11);
    assert_eq!(publisher.writer.desk().count(), 1);
}

// Once a subscriber that was there before its publisher did not count as lost what it had missed, if the root
// died between.
#[test]
fn who_was_there_before_the_publisher_counts_from_the_first_message_also_when_it_is_introduced_again() {
    let mut publisher = Publisher::new(false, 0);
    let seats = seats();
    let seat = seats.take((7, 1)).unwrap();
    for _ in 0..100 {
        publisher.send().unwrap();
    }
    let bell = Arc::new(Bell::silent());
    let memory = Arc::clone(seats.memory());
    let told =
        publisher.writer.desk().attach_from(Begin::AtFirst, memory, seat.index(), bell, (9, 1)).unwrap();
    assert_eq!(told.sequence(), 0);
    // By a root that knows only that the publisher has sent something.
    let again = publisher.attach(&seats, &seat);
    assert_eq!(again, told);
    assert_eq!(publisher.writer.desk().count(), 1);
    let mut reader = publisher.read(seat, again);
    let mut received = 0;
    while reader.poll().unwrap().is_some() {
        received += 1;
    }
    assert_eq!(received + reader.lost(), 100);
}

// Once the second attachment of a subscriber made the publisher forget the pins of the first, and reuse what
// they held.
#[test]
fn samples_of_a_seat_that_was_given_back_stay_while_the_subscriber_attaches_anew() {
    let mut publisher = Publisher::new(false, 0);
    let seats = seats();
    let seat = seats.take((7, 1)).unwrap();
    let first = publisher.attach(&seats, &seat);
    let index = seat.index();
    let mut reader = publisher.read(seat, first);
    publisher.send_chunk(1);
    let sample = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
    assert!(sample.is_held());
    drop(reader);

    let second = seats.take((7, 1)).unwrap();
    assert_ne!(second.index(), index, "its sample keeps the first seat");
    let _start = publisher.attach(&seats, &second);
    for _ in 0..100 {
        publisher.send_chunk(2);
    }
    assert_eq!(sample.bytes(), [1; 1000]);
    assert_eq!(publisher.writer.desk().count(), 1);

    // Without the sample nothing of the first seat is left.
    drop(sample);
    publisher.writer.desk().prune();
    assert_eq!(publisher.writer.desk().subscribers(), [SUBSCRIBER]);
}
