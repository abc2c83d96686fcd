//! Messages that are filled in part by part, and numbers that are used up for messages that were lost.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::draft::Drafter;
use hivemind_ring::heap::Heap;
use hivemind_ring::reader::{Reader, Seats};
use hivemind_ring::writer::{AdmitError, RingConfig, Writer};
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
    let start = writer
        .desk()
        .attach(Arc::clone(seats.memory()), seat.index(), Arc::new(Bell::silent()), (9, 1))
        .unwrap();
    let reader = Reader::new(Arc::clone(writer.ring()), Arc::new(Bell::silent()), seat, start).unwrap();
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

/// Whatever number a stranger claims: as many steps as there are slots, and each reader counts exactly.
#[test]
fn a_gap_of_any_length_takes_no_more_steps_than_there_are_slots_and_is_counted_exactly() {
    for gap in [0, 1, 7, 8, 9, 100, 1 << 20, (1 << 40) + 3] {
        for behind in 0..6 {
            let Pair { mut drafter, mut reader, .. } = pair(false);
            let first = drafter.writer().published();
            // Messages in chunks: those that are held stay as they are.
            for byte in 1..=20 {
                drafter.admit().unwrap();
                drafter.begin(100).unwrap();
                fill(&mut drafter, byte);
                drafter.commit();
                if byte <= 15 {
                    assert!(reader.poll().unwrap().is_some());
                }
            }
            for _ in 0..5 - behind {
                assert!(reader.poll().unwrap().is_some());
            }
            let held = (behind > 0).then(|| Message::try_from(reader.poll().unwrap().unwrap()).unwrap());
            let mut left = gap;
            drafter.skip_many(&mut left).unwrap();
            assert_eq!(left, 0);
            let mut heard = 20 - behind + u64::from(behind > 0);
            for byte in 30..60 {
                drafter.admit().unwrap();
                drafter.begin(100).unwrap();
                fill(&mut drafter, byte);
                drafter.commit();
                while let Some(taken) = reader.poll().unwrap() {
                    let message = Message::try_from(taken).unwrap();
                    assert_eq!(message.bytes(), vec![message.bytes()[0]; 100]);
                    heard += 1;
                }
            }
            assert_eq!(reader.cursor() - first, 20 + gap + 30);
            assert_eq!(heard + reader.lost(), 20 + gap + 30);
            if let Some(held) = held {
                assert_eq!(held.bytes(), vec![21 - behind as u8; 100], "what is held is not written again");
            }
        }
    }
}

#[test]
fn a_reliable_ring_passes_over_a_gap_when_everything_before_it_is_read() {
    let Pair { mut drafter, mut reader, .. } = pair(true);
    for _ in 0..3 {
        drafter.admit().unwrap();
        drafter.begin(1).unwrap();
        drafter.commit();
    }
    let mut left = 1 << 50;
    assert!(matches!(drafter.skip_many(&mut left), Err(AdmitError::Full { capacity: 8 })));
    assert_eq!(left, 1 << 50);
    for _ in 0..3 {
        assert!(reader.poll().unwrap().is_some());
    }
    drafter.skip_many(&mut left).unwrap();
    assert_eq!((left, drafter.room()), (0, 0));
    assert!(reader.poll().unwrap().is_none());
    assert_eq!(reader.lost(), 1 << 50);
    assert_eq!(drafter.room(), 8);
    let mut left = 1 << 55;
    assert!(matches!(drafter.skip_many(&mut left), Err(AdmitError::SequencesOut)));
}

/// Announcing a long message takes no memory; what came is taken, and about as much again.
#[test]
fn memory_for_a_long_message_comes_with_its_bytes() {
    const LONG: usize = 64 << 20;
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 8,
        message_max: LONG as u64,
        chunk_memory: 2 * LONG as u64,
        reliable: false,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let mut drafter = Drafter::new(Writer::<Heap>::on_heap(&config, Arc::new(Bell::silent())));
    let taken = |drafter: &Drafter<Heap>| drafter.writer().memory().1;
    drafter.begin(LONG).unwrap();
    assert_eq!((taken(&drafter), drafter.memory().len()), (0, 0));
    for came in [1, 1000, 1 << 16, 1 << 20, 9 << 20] {
        drafter.reach(came).unwrap();
        assert!(drafter.memory().len() >= came);
        assert!(taken(&drafter) <= 2 * came as u64 + (128 << 10), "{came}: {}", taken(&drafter));
    }
    // What it did not fill was never there; what it did is used again.
    let before = taken(&drafter);
    drafter.abandon();
    for there in [before as usize, 0, 0] {
        drafter.begin(LONG / 2).unwrap();
        assert_eq!(drafter.memory().len(), there);
        drafter.reach(LONG / 2).unwrap();
        fill(&mut drafter, 3);
        drafter.admit().unwrap();
        drafter.commit();
    }
    assert_eq!((taken(&drafter), drafter.writer().memory().0), (3 * LONG as u64 / 2, 3 * LONG as u64 / 2));
    // No more than it may; the oldest is given up for it.
    drafter.limit_growth(0);
    drafter.begin(LONG / 2).unwrap();
    assert_eq!((taken(&drafter), drafter.memory().len()), (3 * LONG as u64 / 2, LONG / 2));
}
