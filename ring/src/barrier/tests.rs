//! The barrier on real cores, and what happens where the kernel refuses it.

use super::kernel::{REFUSED, REGISTER_GLOBAL_EXPEDITED, REGISTERED, membarrier};
use super::*;
use crate::bell::{Bell, Woken};
use crate::desk::{AttachReaderError, Start};
use crate::heap::Heap;
use crate::memory::{Memory, RingMemory};
use crate::reader::{Reader, Seats, TakenSeat};
use crate::writer::{RingConfig, Writer};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

fn publisher() -> Writer<Heap> {
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 4,
        message_max: 64,
        chunk_memory: 4096,
        reliable: false,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let writer = Writer::on_heap(&config, Arc::new(Bell::silent()));
    // As a publisher whose process has registered.
    writer.ring().header().unfenced.store(1, Ordering::Relaxed);
    writer
}

fn attach(
    writer: &Writer<Heap>,
    seats: &Seats<Heap>,
    seat: &TakenSeat<Heap>,
) -> Result<Start, AttachReaderError> {
    let memory: Arc<<Heap as Memory>::Seats> = Arc::clone(seats.memory());
    writer.desk().attach(memory, seat.index(), Arc::new(Bell::silent()), (9, 1))
}

#[test]
fn a_subscriber_that_is_refused_the_barrier_sleeps_in_pieces_and_its_time_is_not_over() {
    let writer = publisher();
    let seats = Seats::on_heap(4, Arc::new(Bell::silent()));
    let seat = seats.take((7, 1)).unwrap();
    REFUSED.set(true);
    let ring = Arc::clone(writer.ring());
    let reader: Reader<Heap> = Reader::new(ring, Arc::new(Bell::silent()), seat, Start::told(0)).unwrap();
    // For ever, and for longer than a piece.
    for timeout in [None, Some(std::time::Duration::from_secs(3600))] {
        let woken = seats.sleep(std::iter::once(&reader), || false, timeout);
        assert_eq!(woken, Woken::LookAgain);
    }
    // A time shorter than a piece is over when it is over.
    let shorter = Some(std::time::Duration::from_micros(1));
    assert_eq!(seats.sleep(std::iter::once(&reader), || false, shorter), Woken::TimedOut);
}

#[test]
fn who_is_refused_the_barrier_attaches_nobody_new_and_forgets_nobody() {
    let writer = publisher();
    let seats = Seats::on_heap(4, Arc::new(Bell::silent()));
    let seat = seats.take((7, 1)).unwrap();
    REFUSED.set(true);
    assert_eq!(attach(&writer, &seats, &seat), Err(AttachReaderError::NoBarrier));
    assert_eq!(writer.desk().count(), 0);
    REFUSED.set(false);
    if heavy() {
        let first = attach(&writer, &seats, &seat).unwrap();
        REFUSED.set(true);
        assert_eq!(attach(&writer, &seats, &seat), Ok(first), "it was registered before");
        assert_eq!(writer.desk().count(), 1);
    }
}

/// The pair on real cores: in any order, at least one of the two sides sees the other's store.
#[test]
fn of_two_stores_one_is_seen_by_the_other_side() {
    if !membarrier(REGISTER_GLOBAL_EXPEDITED) || !heavy() {
        println!("skipped: this kernel or sandbox has no membarrier; publishers fence then");
        return;
    }
    const ROUNDS: u32 = 5_000;
    let (often, seldom, go) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let seen_by_often: Vec<u32> = std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            (1..=ROUNDS)
                .map(|round| {
                    while go.load(Ordering::Acquire) != round {
                        std::thread::yield_now();
                    }
                    often.store(round, Ordering::Relaxed);
                    light();
                    seldom.load(Ordering::Relaxed)
                })
                .collect()
        });
        let seen_by_seldom: Vec<u32> = (1..=ROUNDS)
            .map(|round| {
                go.store(round, Ordering::Release);
                seldom.store(round, Ordering::Relaxed);
                assert!(heavy(), "it worked before");
                let seen = often.load(Ordering::Relaxed);
                // The other side is through with this round before the next begins.
                while often.load(Ordering::Acquire) != round {
                    std::thread::yield_now();
                }
                seen
            })
            .collect();
        let seen_by_often: Vec<u32> = runner.join().unwrap();
        for (round, (left, right)) in (1..).zip(seen_by_often.iter().zip(&seen_by_seldom)) {
            assert!(*left >= round || *right >= round, "round {round}: {left} and {right}");
        }
        seen_by_often
    });
    assert_eq!(seen_by_often.len(), ROUNDS as usize);
}

/// Long enough that a sleeper who is not woken fails the test.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// Long, since it is one story of two threads. Where each message wakes somebody a publisher fences, where
/// none does it does not; and no sleeper misses a change-over.
#[test]
fn a_publisher_changes_over_and_back_and_no_sleeper_misses_it() {
    if !membarrier(REGISTER_GLOBAL_EXPEDITED) || !heavy() {
        println!("skipped: this kernel or sandbox has no membarrier; publishers fence then");
        return;
    }
    REGISTERED.store(crate::fork::life(), Ordering::Relaxed);
    const ROUNDS: u64 = 200;
    const ALONE: u64 = 8;
    const RUN: u64 = 200;
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 1024,
        message_max: 64,
        chunk_memory: 4096,
        reliable: true,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let bell = Arc::new(Bell::silent());
    let mut writer: Writer<Heap> = Writer::on_heap(&config, Arc::clone(&bell));
    let seats = Seats::on_heap(1, Arc::new(Bell::silent()));
    let seat = seats.take((7, 1)).unwrap();
    let memory: Arc<<Heap as Memory>::Seats> = Arc::clone(seats.memory());
    let start = writer.desk().attach(memory, seat.index(), Arc::new(Bell::silent()), (9, 1)).unwrap();
    let reader: Reader<Heap> =
        Reader::new(Arc::clone(writer.ring()), Arc::clone(&bell), seat, start).unwrap();
    let may_sleep = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let (may_sleep, mut reader) = (&may_sleep, reader);
        scope.spawn(move || {
            let mut read = 0;
            while read < ROUNDS * (ALONE + RUN) {
                while reader.poll().unwrap().is_some() {
                    read += 1;
                }
                if may_sleep.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                } else if read < ROUNDS * (ALONE + RUN) {
                    let woken = seats.sleep(std::iter::once(&reader), || reader.ready(), Some(LONG));
                    assert_ne!(woken, Woken::TimedOut, "after {read} messages");
                }
            }
        });
        for _ in 0..ROUNDS {
            may_sleep.store(1, Ordering::Relaxed);
            for _ in 0..ALONE {
                while bell.sleepers.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                writer.admit_within(LONG).unwrap();
                writer.send_inline(&[0; 7], 8);
            }
            assert_eq!(writer.ring().header().unfenced.load(Ordering::Relaxed), 0, "each woke somebody");
            // The reader may sleep once more; then it stays awake.
            may_sleep.store(0, Ordering::Relaxed);
            for _ in 0..RUN {
                writer.admit_within(LONG).unwrap();
                writer.send_inline(&[0; 7], 8);
            }
            assert_eq!(writer.ring().header().unfenced.load(Ordering::Relaxed), 1, "none woke anybody");
        }
    });
}

#[test]
fn a_process_that_enabled_it_is_ready_soon() {
    enable();
    if !membarrier(0) {
        return;
    }
    for _ in 0..1_000_000 {
        if is_ready() {
            enable();
            assert!(is_ready(), "once is enough");
            return;
        }
        std::thread::yield_now();
    }
    panic!("it was never registered");
}
