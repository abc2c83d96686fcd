//! Edges *consume* and *attach* on reliable rings: nothing is overwritten or withdrawn that somebody has yet
//! to read, and nobody holds up a publisher who has read everything or ended. Each of these was broken once,
//! and seen to fail:
//!
//! | broken on purpose                                                                      | seen          |
//! | -------------------------------------------------------------------------------------- | ------------- |
//! | consume: one message too many; the fastest reader decides; cursors not bounded below   | a loss        |
//! | attach: the fence of `attach` or of a commit left out; the version moved too late      | a loss        |
//! | attach: `admit` does not look at the version, or keeps its limit when it moved         | a loss        |
//! | attach: `keep_from` does not look for new readers                                      | a loss        |
//! | close: a reader that ended counts; a detached one does                                 | no end        |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::heap::Heap;
use hivemind_ring::reader::Seats;
use hivemind_ring::sync::{Ordering, fence};
use loom_support::{RELIABLE, Subscriber, Subscription, Words, explore, explore_deeper};
use std::time::Duration;

/// Four messages through two slots.
#[test]
fn a_reliable_ring_overwrites_nothing_unread() {
    const MESSAGES: u64 = 4;
    explore(|| {
        let mut publisher = RELIABLE.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            for _ in 0..MESSAGES {
                publisher.send_when_admitted();
            }
            publisher
        });
        while subscriber.reader.cursor() < MESSAGES {
            if !subscriber.look(&chunks) {
                loom::thread::yield_now();
            }
        }
        assert_eq!((subscriber.received, subscriber.reader.lost()), (MESSAGES, 0));
        drop(sending.join().unwrap());
    });
}

/// The slower of two readers decides.
#[test]
fn a_reliable_ring_waits_for_the_slowest_reader() {
    const MESSAGES: u64 = 3;
    explore(|| {
        let mut publisher = RELIABLE.publisher();
        let chunks = publisher.chunks.clone();
        let mut fast = publisher.attach_as(0);
        let mut slow = publisher.attach_as(1);
        let reading = {
            let chunks = chunks.clone();
            loom::thread::spawn(move || {
                fast.look(&chunks);
                fast.look(&chunks);
                fast
            })
        };
        let sending = loom::thread::spawn(move || {
            let mut refused = 0;
            while publisher.writer.published() < MESSAGES && refused < 2 {
                if publisher.writer.admit().is_ok() {
                    publisher.send();
                } else {
                    refused += 1;
                }
            }
            publisher
        });
        slow.look(&chunks);
        let mut fast = reading.join().unwrap();
        let publisher = sending.join().unwrap();
        let published = publisher.writer.published();
        for subscriber in [&mut fast, &mut slow] {
            subscriber.finish(&chunks, published);
            assert_eq!(subscriber.reader.lost(), 0);
        }
    });
}

/// A reader attaches with history to a publisher that is busy: it gets one past message and all that follow,
/// none is lost, and the count from its first message on is exact.
#[test]
fn a_late_reader_loses_nothing_from_its_first_message_on() {
    const MESSAGES: u64 = 4;
    explore_deeper(1, || {
        let mut publisher = RELIABLE.with_history(1).publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door();
        let sending = loom::thread::spawn(move || {
            let mut refused = 0;
            while publisher.writer.published() < MESSAGES && refused < 2 {
                if publisher.writer.admit().is_ok() {
                    publisher.send();
                } else {
                    refused += 1;
                }
            }
            publisher
        });
        let mut subscriber = Subscription::new().attach(&door);
        let first = subscriber.reader.first();
        subscriber.look(&chunks);
        let publisher = sending.join().unwrap();
        let published = publisher.writer.published();
        subscriber.finish(&chunks, published);
        assert_eq!(subscriber.reader.lost(), 0, "from {first} on, of {published}");
    });
}

/// The memory of messages that were read is used again; a reader that attaches at this moment keeps the
/// history that it was promised. The publisher takes its memory before it asks whether it may send, which is
/// the harder order.
#[test]
fn a_message_promised_to_a_late_reader_is_not_withdrawn() {
    explore_deeper(1, || {
        let mut publisher = RELIABLE.with_history(1).with_units(2).publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door();
        assert!(publisher.send_chunk());
        let sending = loom::thread::spawn(move || {
            let second = publisher.send_chunk();
            // With the second message the first is no history any more: it gives its memory to the third,
            // unless somebody was promised it.
            let _third = second && publisher.send_chunk_if_admitted();
            publisher
        });
        let mut subscriber = Subscription::new().attach(&door);
        let first = subscriber.reader.first();
        let publisher = sending.join().unwrap();
        let published = publisher.writer.published();
        subscriber.finish(&chunks, published);
        assert_eq!(subscriber.reader.lost(), 0, "from {first} on, of {published}");
    });
}

/// A reader that ends lets the publisher go on, whatever it left unread.
#[test]
fn a_reader_that_ends_holds_nobody_up() {
    explore(|| {
        let mut publisher = RELIABLE.publisher();
        let subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            for _ in 0..3 {
                publisher.send_when_admitted();
            }
        });
        let _seats = subscriber.close();
        sending.join().unwrap();
    });
}

/// The same for one that was detached, as happens when the kernel says that it is dead.
#[test]
fn a_dead_reader_holds_nobody_up() {
    explore(|| {
        let mut publisher = RELIABLE.publisher();
        let door = publisher.door();
        let subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            for _ in 0..3 {
                publisher.send_when_admitted();
            }
        });
        assert_eq!(door.desk.detach_node(2), 1);
        sending.join().unwrap();
        drop(subscriber);
    });
}

/// The last read of a slot comes before the cursor that gives it to the publisher.
#[test]
fn a_slot_is_rewritten_only_after_its_last_read() {
    const MESSAGES: u64 = 3;
    explore(|| {
        let mut publisher = RELIABLE.publisher();
        let words = Words::new();
        let mut subscriber = publisher.attach();
        let sending = {
            let words = words.clone();
            loom::thread::spawn(move || {
                for _ in 0..MESSAGES {
                    words.send_when_admitted(&mut publisher);
                }
            })
        };
        while subscriber.reader.cursor() < MESSAGES {
            if words.peek(&subscriber) {
                assert!(subscriber.poll().is_some(), "it was there");
            } else {
                loom::thread::yield_now();
            }
        }
        sending.join().unwrap();
    });
}

/// The last read of a slot comes before the end of a subscriber, which gives all slots to the publisher.
#[test]
fn a_reader_that_ends_has_read_its_last_slot() {
    a_reader_that_goes_has_read_its_last_slot(Subscriber::close);
}

/// The same for a seat that is given back.
#[test]
fn a_reader_that_leaves_its_seat_has_read_its_last_slot() {
    a_reader_that_goes_has_read_its_last_slot(Subscriber::leave);
}

fn a_reader_that_goes_has_read_its_last_slot(go: fn(Subscriber) -> Seats<Heap>) {
    explore(move || {
        let mut publisher = RELIABLE.publisher();
        let words = Words::new();
        let subscriber = publisher.attach();
        words.send_when_admitted(&mut publisher);
        words.send_when_admitted(&mut publisher);
        let sending = {
            let words = words.clone();
            loom::thread::spawn(move || words.send_when_admitted(&mut publisher))
        };
        assert!(words.peek(&subscriber));
        let _seats = go(subscriber);
        sending.join().unwrap();
    });
}

/// A publisher that sleeps until there is space. Readers make no fence between their cursor and the look at
/// `blocked`, so a wake-up may be missed; the publisher then looks by itself after a while, which it does not
/// do under loom. With that fence none is missed.
#[test]
fn a_blocked_publisher_is_woken_by_a_reader_that_looks_after_a_fence() {
    explore(|| {
        let mut publisher = RELIABLE.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        publisher.send_when_admitted();
        publisher.send_when_admitted();
        let sending = loom::thread::spawn(move || {
            publisher.writer.admit_within(Duration::MAX).expect("there will be space");
            publisher.send();
        });
        assert!(subscriber.look(&chunks));
        fence(Ordering::SeqCst);
        assert!(subscriber.look(&chunks));
        fence(Ordering::SeqCst);
        subscriber.look(&chunks);
        sending.join().unwrap();
    });
}
