//! Edges *pin* and *unpin*: no chunk is written while somebody may read it.
//!
//! The content of each chunk is a cell that loom watches: a write that could meet a read fails the model,
//! whatever the values are. Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                                             | seen                       |
//! | ----------------------------------------------------------------------------- | -------------------------- |
//! | pin: a fence left out in `hold` or `reclaim`, or AcqRel instead of SeqCst     | a write meets a read       |
//! | pin: no second look at the stamp; `pins_used` not stored                      | a later message; the same  |
//! | pin: a withdrawn message keeps its stamp                                      | a later message; the same  |
//! | unpin: Relaxed in `Held::drop`, in `reclaim`, at the pin's next use in `hold` | a write meets a read       |
//! | attach: `reclaim` does not look for new readers                               | a write meets a read       |
//! | close: pruning, or `reclaim`, forgets the pins of a reader that ended         | a write meets a read       |
//! | close: `take` stores the new life Relaxed                                     | a write meets a read       |
//! | commit: the stamp stored Relaxed                                              | content of before          |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::heap::Heap;
use hivemind_ring::reader::{Seats, Taken, TakenSeat};
use loom_support::{LOSSY, Subscription, explore};

/// Two slots, three units of chunk memory: from the fourth message on, memory comes from overwritten messages
/// alone.
#[test]
fn an_overwritten_message_keeps_its_chunk_while_it_is_pinned() {
    const MESSAGES: u64 = 4;
    explore(|| {
        let mut publisher = LOSSY.with_units(3).publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            for _ in 0..MESSAGES {
                assert!(publisher.send_chunk(), "one chunk is pinned at the most, so there is memory");
            }
            publisher
        });
        if let Some(Taken::Held(held)) = subscriber.poll() {
            chunks.check(&held);
            chunks.check(&held);
        }
        subscriber.look(&chunks);
        drop(sending.join().unwrap());
        subscriber.finish(&chunks, MESSAGES);
    });
}

/// Two units for two slots: every message from the third on takes the memory of one that was withdrawn for
/// it.
#[test]
fn a_withdrawn_message_keeps_its_chunk_while_it_is_pinned() {
    explore(|| {
        let mut publisher = LOSSY.with_units(2).publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        assert!(publisher.send_chunk());
        let sending = loom::thread::spawn(move || {
            for _ in 0..3 {
                assert!(publisher.send_chunk(), "one chunk is pinned at the most, so there is memory");
            }
            publisher
        });
        if let Some(Taken::Held(held)) = subscriber.poll() {
            chunks.check(&held);
            chunks.check(&held);
        }
        subscriber.look(&chunks);
        drop(sending.join().unwrap());
        subscriber.finish(&chunks, 4);
    });
}

/// A sample is read and dropped on another thread, while its reader takes the same pin again and the
/// publisher looks at nothing but that second pin.
#[test]
fn a_sample_dropped_on_another_thread_was_read_before_its_chunk_is_reused() {
    explore(|| {
        let mut publisher = LOSSY.with_units(3).publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        assert!(publisher.send_chunk());
        assert!(publisher.send_chunk());
        let Some(Taken::Held(first)) = subscriber.poll() else { panic!("it was sent") };
        let dropping = {
            let chunks = chunks.clone();
            loom::thread::spawn(move || {
                chunks.check(&first);
                drop(first);
            })
        };
        let reading = {
            let chunks = chunks.clone();
            loom::thread::spawn(move || {
                subscriber.look(&chunks);
                subscriber
            })
        };
        // The third overwrites the first; the fourth takes the memory of the first, if that is not pinned.
        assert!(publisher.send_chunk());
        assert!(publisher.send_chunk() || publisher.writer.published() == 3);
        dropping.join().unwrap();
        reading.join().unwrap();
    });
}

/// A reader that attaches while the publisher already looks for memory: its pins count before it reads its
/// first slot.
#[test]
fn the_pins_of_a_reader_count_from_its_attachment_on() {
    explore(|| {
        let mut publisher = LOSSY.with_units(2).with_history(1).publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door();
        assert!(publisher.send_chunk());
        let sending = loom::thread::spawn(move || {
            publisher.send_chunk();
            publisher.send_chunk();
            publisher
        });
        let mut subscriber = Subscription::new().attach(&door);
        if let Some(Taken::Held(held)) = subscriber.poll() {
            chunks.check(&held);
            chunks.check(&held);
        }
        let publisher = sending.join().unwrap();
        subscriber.finish(&chunks, publisher.writer.published());
    });
}

/// A subscriber that ended still holds a sample: its pin counts until that is dropped, though the publisher
/// prunes it.
#[test]
fn a_sample_outlives_its_subscriber() {
    explore(|| {
        let mut publisher = LOSSY.with_units(2).publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        assert!(publisher.send_chunk());
        let sending = loom::thread::spawn(move || {
            for _ in 0..3 {
                assert!(publisher.send_chunk(), "one chunk is pinned at the most, so there is memory");
            }
        });
        let taken = subscriber.poll();
        drop(subscriber.close());
        if let Some(Taken::Held(held)) = taken {
            chunks.check(&held);
        }
        sending.join().unwrap();
    });
}

/// A subscriber gives its seat back while a sample of it is read on another thread, and takes it for another
/// publisher as soon as it may. The publisher, which hears nothing of either, reuses the chunk only after the
/// sample.
#[test]
fn a_seat_passes_on_after_its_last_sample() {
    explore(|| {
        let mut publisher = LOSSY.with_units(2).publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        assert!(publisher.send_chunk());
        let Some(Taken::Held(held)) = subscriber.poll() else { panic!("it was sent") };
        let sending = loom::thread::spawn(move || {
            publisher.writer.desk().prune();
            publisher.send_chunk();
            publisher.send_chunk();
        });
        let dropping = loom::thread::spawn(move || {
            chunks.check(&held);
            drop(held);
        });
        let seats = subscriber.leave();
        let _next = seats.take((3, 3));
        sending.join().unwrap();
        dropping.join().unwrap();
    });
}

/// A control thread prunes a reader that left while a sample of it is dropped elsewhere, and the publisher is
/// already about to reuse memory: it hears of both through the list of readers alone.
#[test]
fn a_reader_is_pruned_after_its_last_sample() {
    a_pruned_reader_holds_nothing(|_| None);
}

/// The same when the seat was taken again meanwhile: then the new life of the seat alone says that the sample
/// is gone.
#[test]
fn a_seat_that_passed_on_is_pruned_after_its_last_sample() {
    a_pruned_reader_holds_nothing(|seats| seats.take((3, 3)).ok());
}

fn a_pruned_reader_holds_nothing(after_leaving: fn(&Seats<Heap>) -> Option<TakenSeat<Heap>>) {
    explore(move || {
        let mut publisher = LOSSY.with_units(2).publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door();
        let mut subscriber = publisher.attach();
        assert!(publisher.send_chunk());
        let Some(Taken::Held(held)) = subscriber.poll() else { panic!("it was sent") };
        assert!(publisher.send_chunk());
        let sending = loom::thread::spawn(move || {
            publisher.send_chunk();
        });
        let dropping = loom::thread::spawn(move || {
            chunks.check(&held);
            drop(held);
        });
        let seats = subscriber.leave();
        let _next = after_leaving(&seats);
        door.desk.prune();
        sending.join().unwrap();
        dropping.join().unwrap();
    });
}
