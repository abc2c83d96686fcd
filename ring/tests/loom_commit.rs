//! Edges *commit* and *rewrite*: a publisher overwrites the slots that a reader is copying.
//!
//! Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                              | seen                     |
//! | -------------------------------------------------------------- | ------------------------ |
//! | commit: the stamp stored Relaxed, or the first look Relaxed    | a message of zeros       |
//! | rewrite: the writer's or the reader's fence left out           | half of each of two      |
//! | rewrite: no busy stamp, or no second look                      | half of each of two      |
//! | close: `finished`, `retained::closed` or `closed_by` looks Relaxed | the last message missing |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::memory::RingMemory as _;
use hivemind_ring::retained;
use hivemind_ring::sync::{Arc, Ordering};
use loom_support::{LOSSY, Subscription, explore};

/// The publisher laps the reader; the reader copies no torn message, and received + lost = published exactly.
#[test]
fn an_overtaken_reader_gets_whole_messages_and_an_exact_count() {
    const MESSAGES: u64 = 4;
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            for _ in 0..MESSAGES {
                publisher.send();
            }
            publisher
        });
        for _ in 0..3 {
            subscriber.poll();
        }
        let publisher = sending.join().unwrap();
        assert_eq!(publisher.writer.published(), MESSAGES);
        subscriber.finish(&chunks, MESSAGES);
    });
}

/// A reader that sees the end of a publisher has seen all its messages.
#[test]
fn the_end_of_a_publisher_comes_after_its_last_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
        });
        subscriber.poll();
        if subscriber.reader.finished() {
            assert_eq!(subscriber.reader.cursor(), 2);
        }
        sending.join().unwrap();
    });
}

/// The short way to a message in its slot, which the models above take only after the long one has looked.
#[test]
fn the_short_way_to_a_line_gives_whole_messages_as_well() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            for _ in 0..3 {
                publisher.send();
            }
        });
        subscriber.poll_line();
        sending.join().unwrap();
    });
}

/// A reader that begins at a head finds the messages before it at once: a late subscriber that asks once has
/// its history.
#[test]
fn a_late_reader_finds_its_history_at_once() {
    explore(|| {
        let mut publisher = LOSSY.with_history(1).publisher();
        let door = publisher.door();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
        });
        let mut subscriber = Subscription::new().attach(&door);
        // It begins one before the head, so the head was 2.
        if subscriber.reader.first() == 1 {
            assert!(subscriber.poll().is_some(), "the history is there");
        }
        sending.join().unwrap();
    });
}

/// The bytes of a message that lies in a chunk are written before its stamp.
#[test]
fn a_message_in_a_chunk_is_whole() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || publisher.send_chunk());
        subscriber.look(&chunks);
        assert!(sending.join().unwrap());
    });
}

/// A reader that comes when a publisher has ended, and has no place at its desk, finds the last messages that
/// it retained, whole.
#[test]
fn what_a_publisher_retained_is_there_for_who_sees_its_end() {
    explore(|| {
        let mut publisher = LOSSY.retaining(1).with_units(2).publisher();
        let (door, chunks) = (publisher.door(), publisher.chunks.clone());
        let sending = loom::thread::spawn(move || {
            publisher.send();
            assert!(publisher.send_chunk());
        });
        if let Some(mut late) = Subscription::new().read_what_is_left(&door) {
            assert_eq!(late.reader.first(), 1);
            assert!(late.look(&chunks) && !late.reader.ready(), "the last message, and no other");
        }
        sending.join().unwrap();
    });
}

/// The same for a node that keeps the ring for others and has the kernel read its words.
#[test]
fn what_a_publisher_retained_is_there_for_a_node_that_keeps_its_ring() {
    explore(|| {
        let mut publisher = LOSSY.retaining(1).publisher();
        let ring = Arc::clone(publisher.writer.ring());
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
        });
        // Relaxed: the kernel copies bytes in no order that could be named.
        if retained::closed_by(|| ring.header().closed.load(Ordering::Relaxed)) {
            assert_eq!(retained::first(&*ring), 1, "the last message is there");
        }
        sending.join().unwrap();
    });
}
