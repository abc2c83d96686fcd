//! Messages that are filled in part by part, and numbers that are used up for messages that were lost.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::draft::Drafter;
use hivemind_ring::memory::Heap;
use hivemind_ring::reader::{Reader, Seats};
use hivemind_ring::writer::{RingConfig, Writer};
use std::sync::Arc;

struct Pair {
    drafter: Drafter<Heap>,
    reader: Reader<Heap>,
    _seats: Seats<Heap>,
}

fn pair(reliable: bool) -> Pair {
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 8,
        message_max: 1 << 16,
        chunk_memory: 1 << 16,
        reliable,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let writer = Writer::on_heap(&config, Arc::new(Bell::silent()));
    let seats = Seats::<Heap>::on_heap(1, Arc::new(Bell::silent()));
    let seat = seats.take((7, 1)).unwrap();
    let start =
        writer.desk().attach(Arc::clone(seats.memory()), seat, Arc::new(Bell::silent()), (9, 1)).unwrap();
    let reader =
        Reader::new(Arc::clone(writer.ring()), Arc::new(Bell::silent()), &seats, seat, start).unwrap();
    Pair { drafter: Drafter::new(writer), reader, _seats: seats }
}

fn fill(drafter: &mut Drafter<Heap>, byte: u8) {
    for part in drafter.memory().chunks_mut(100) {
        part.fill(byte);
    }
}

#[test]
fn a_message_is_there_when_its_last_part_is_committed_and_not_before() {
    for length in [0, 8, 56, 57, 1000] {
        let Pair { mut drafter, mut reader, .. } = pair(false);
        for byte in 1..100 {
            drafter.admit().unwrap();
            drafter.begin(length).unwrap();
            fill(&mut drafter, byte);
            assert!(reader.poll().unwrap().is_none());
            drafter.commit();
            let message = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
            assert_eq!(message.bytes(), vec![byte; length]);
        }
        assert_eq!(reader.lost(), 0);
    }
}

/// What is begun anew or given up leaves no trace, and no memory taken.
#[test]
fn a_draft_that_is_given_up_is_as_if_it_had_never_been() {
    let Pair { mut drafter, mut reader, .. } = pair(true);
    for _ in 0..1000 {
        drafter.begin(5000).unwrap();
        fill(&mut drafter, 1);
        drafter.begin(3000).unwrap();
        drafter.abandon();
        assert!(drafter.memory().is_empty());
        drafter.commit();
    }
    assert!(reader.poll().unwrap().is_none(), "nothing was committed");
    assert_eq!(drafter.writer().memory().0, 0);
    drafter.admit().unwrap();
    drafter.begin(60).unwrap();
    fill(&mut drafter, 9);
    drafter.commit();
    let message = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
    assert_eq!((message.bytes(), message.sequence()), (&[9; 60][..], 0));
}

#[test]
fn what_was_lost_on_the_way_is_counted_by_every_reader() {
    for reliable in [false, true] {
        let Pair { mut drafter, mut reader, .. } = pair(reliable);
        for round in 1..=50u64 {
            for _ in 0..3 {
                drafter.admit().unwrap();
                drafter.skip();
            }
            drafter.admit().unwrap();
            drafter.begin(round as usize * 4).unwrap();
            drafter.commit();
            let message = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
            assert_eq!((message.sequence(), reader.lost()), (round * 4 - 1, round * 3));
        }
    }
}

#[test]
fn a_reliable_ring_has_room_for_what_its_readers_have_read() {
    let Pair { mut drafter, mut reader, .. } = pair(true);
    assert_eq!(drafter.room(), 8);
    for _ in 0..5 {
        drafter.admit().unwrap();
        drafter.skip();
    }
    assert_eq!(drafter.room(), 3);
    for _ in 0..3 {
        drafter.admit().unwrap();
        drafter.begin(1).unwrap();
        drafter.commit();
    }
    assert_eq!(drafter.room(), 0);
    drafter.admit().unwrap_err();
    assert!(reader.poll().unwrap().is_some());
    assert_eq!(drafter.room(), 6, "the lost ones before it have gone, too");
    assert_eq!(pair(false).drafter.room(), 8);
}
