//! Samples that outlive their reader (`ring/src/orphans.rs`): the last of them frees the memory, after its
//! last read.
//!
//! Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                                          | seen                      |
//! | -------------------------------------------------------------------------- | ------------------------- |
//! | unpin: an orphan looks at its pins, or at its seat, Relaxed                 | memory is freed in a read |
//! | the light barrier of a dropped sample, or the heavy one of an ended reader  | memory is never freed     |
//! | the list is looked through before its length is stored                      | the same                  |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::barrier;
use hivemind_ring::heap::{Grave, Heap};
use hivemind_ring::reader::{Held, Reader, Seats, Taken};
use hivemind_ring::sync::Arc;
use loom_support::{LOSSY, Subscriber, Subscription, explore};

/// A reader with one sample of a publisher that has gone, its seats, and what shows that its ring is freed.
fn reader_with_a_sample() -> (Reader<Heap>, Held<Heap>, Seats<Heap>, Arc<Grave>) {
    barrier::enable();
    let mut publisher = LOSSY.publisher();
    let grave = publisher.writer.ring().grave();
    let mut subscriber = Subscription::new().attach(&publisher.door());
    assert!(publisher.send_chunk());
    let Some(Taken::Held(held)) = subscriber.poll() else { panic!("it was sent") };
    let Subscriber { reader, seats, .. } = subscriber;
    (reader, held, seats, grave)
}

/// Reads the sample, as long as it is there, and drops it.
fn read_and_drop(held: Held<Heap>, grave: &Grave) {
    assert!(!grave.is_filled(), "its memory is there as long as the sample is");
    drop(held);
}

/// A sample is dropped while its reader ends: one of the two frees the memory, after the last read.
#[test]
fn the_last_of_a_sample_and_its_reader_frees_the_memory() {
    explore(|| {
        let (reader, held, seats, grave) = reader_with_a_sample();
        drop(seats);
        let dropping = {
            let grave = Arc::clone(&grave);
            loom::thread::spawn(move || read_and_drop(held, &grave))
        };
        drop(reader);
        dropping.join().unwrap();
        assert!(grave.is_filled(), "nobody is left who would free it");
    });
}

/// The seat is taken again as soon as the sample is gone, and the list is looked through for another reader:
/// that finds the new life of the seat alone.
#[test]
fn an_orphan_whose_seat_passed_on_is_freed_after_its_last_sample() {
    explore(|| {
        let (reader, held, seats, grave) = reader_with_a_sample();
        let (other, sample, _seats, _grave) = reader_with_a_sample();
        drop(reader);
        let dropping = {
            let grave = Arc::clone(&grave);
            loom::thread::spawn(move || read_and_drop(held, &grave))
        };
        let looking = loom::thread::spawn(move || {
            // With a sample still held, it comes to the list as well.
            drop(other);
            drop(sample);
        });
        let _next = seats.take((3, 3));
        looking.join().unwrap();
        dropping.join().unwrap();
        assert!(grave.is_filled(), "nobody is left who would free it");
    });
}
