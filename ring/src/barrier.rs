//! An asymmetric memory barrier: the side that runs often pays nothing, the side that runs seldom pays for both.
//!
//! Two edges need a store, a full fence and a load on both sides: *sleep* (commit, then look at `sleepers`; set `sleepers`,
//! then look for messages) and *attach* (commit, then look at the list of readers; change the list, then look at `head`). One side of both is a
//! commit, where the fence would cost more than all the rest. So the kernel puts it there when it is needed:
//!
//! ```text
//! often: Writer::commit                     seldom: Seats::sleep, Desk::attach
//! commit                                    sleepers = 1 (or the list changes)
//! light(): the compiler keeps the order     fence(SeqCst)
//! sleepers ?                                unfenced ? heavy(): membarrier(2), a full fence on every core that runs
//!                                                               a thread of a registered process
//!                                           messages ?
//! ```
//!
//! At the moment of the membarrier the publisher is before, between or after its two steps. Before: it sees `sleepers`.
//! After: the sleeper sees the commit. Between: the commit is made visible by the fence, so the sleeper sees it, too.
//!
//! A process must have registered before it may leave the fence out. That takes no time while it has one thread, and
//! milliseconds when it has more, so then a thread of its own sees to it, and rings fence until it is done. Each ring
//! says in its header whether it does (`unfenced`: 0 or 1), and changes over with a fence between that store and the first commit
//! without one: a sleeper whose own fence comes first is seen by all later looks at `sleepers`, one whose fence comes later sees `unfenced`
//! as 1, or a later value.
//!
//! A publisher that wakes somebody after every few commits pays for a system call each time, and its sleepers for a barrier each time, which
//! interrupts every other core (10 us where those are busy). A fence in each commit is the smaller price then, so such a publisher changes
//! back, and again when it wakes nobody for a while. Backwards it stores 0 with Release, after its last commit without a fence: a
//! sleeper that reads this 0 (Acquire) sees all of those commits, and those that follow have fences. If it reads the 0 from before the ring
//! left fences out, or from between two such times, its own fence came before the one of the change-over that followed, and is seen as above.
//!
//! `unfenced` is the publisher's alone. If it dies right after setting it, nobody commits any more. If it lies, its own
//! subscribers wake late or make a barrier in vain; nothing else is decided by it.
//!
//! Where the kernel refuses (before 4.16, or a sandbox forbids the call), publishers fence for ever. A subscriber that
//! may not call it, though its publisher leaves the fence out, sleeps in short pieces instead.
//!
//! Loom knows no such call: under it rings fence for ever, and a pair of fences is what the kernel promises in their place. The change back and
//! forth is modelled by its steps alone (`tests/loom_change_over.rs`).

use crate::sync::Ordering;
use nix::libc;
use std::sync::atomic::{AtomicU64, compiler_fence};

/// The process that registered (its number in [`crate::fork`]), or none: 0. A child after a fork is another one.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Values of `enum membarrier_cmd` in linux/membarrier.h.
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

/// The half of the side that runs often: its store stays before its load, as far as the compiler is concerned.
#[inline]
pub(crate) fn light() {
    compiler_fence(Ordering::SeqCst);
}

/// The half of the side that runs seldom. False: the kernel refused, and nothing is ordered.
#[must_use]
pub(crate) fn heavy() -> bool {
    #[cfg(test)]
    if tests::REFUSED.get() {
        return false;
    }
    membarrier(GLOBAL_EXPEDITED)
}

/// Whether publishers of this process may use [`light`].
#[inline]
pub(crate) fn is_ready() -> bool {
    // Relaxed: the number says that a system call was made before; nothing else is read by it.
    REGISTERED.load(Ordering::Relaxed) != 0
}

/// Registers this process, so that its publishers need no fence. Called when a node joins; calling it again costs
/// nothing. Does not block: a process with more than one thread is registered by a thread of its own, a little later.
pub fn enable() {
    let process = crate::fork::life();
    // Relaxed, here and below: see `is_ready`.
    if REGISTERED.load(Ordering::Relaxed) == process {
        return;
    }
    // The kernel registers this process, not its children.
    crate::fork::clear_in_children(&REGISTERED);
    REGISTERED.store(0, Ordering::Relaxed);
    let register = move || {
        if membarrier(REGISTER_GLOBAL_EXPEDITED) {
            REGISTERED.store(process, Ordering::Relaxed);
        }
    };
    let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads == 1 {
        register();
    } else {
        // If there can be no thread, rings go on with fences.
        let _thread = std::thread::Builder::new().name("hivemind-barrier".to_owned()).spawn(register);
    }
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes a command, flags (none) and a processor (ignored without the flag that names it); it reads and
    // writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bell::{Bell, Woken};
    use crate::desk::AttachReaderError;
    use crate::heap::Heap;
    use crate::memory::{Memory, RingMemory};
    use crate::reader::{Reader, Seats};
    use crate::writer::{RingConfig, Writer};
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    thread_local! {
        /// Whether the kernel refuses this thread the barrier, as a sandbox would.
        pub(super) static REFUSED: Cell<bool> = const { Cell::new(false) };
    }

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

    fn attach(writer: &Writer<Heap>, seats: &Seats<Heap>, seat: u32) -> Result<u64, AttachReaderError> {
        let memory: Arc<<Heap as Memory>::Seats> = Arc::clone(seats.memory());
        writer.desk().attach(memory, seat, Arc::new(Bell::silent()), (9, 1))
    }

    #[test]
    fn a_subscriber_that_is_refused_the_barrier_sleeps_in_pieces_and_its_time_is_not_over() {
        let writer = publisher();
        let seats = Seats::on_heap(4, Arc::new(Bell::silent()));
        let seat = seats.take((7, 1)).unwrap();
        REFUSED.set(true);
        let ring = Arc::clone(writer.ring());
        let reader: Reader<Heap> = Reader::new(ring, Arc::new(Bell::silent()), &seats, seat, 0).unwrap();
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
        assert_eq!(attach(&writer, &seats, seat), Err(AttachReaderError::NoBarrier));
        assert_eq!(writer.desk().count(), 0);
        REFUSED.set(false);
        if heavy() {
            let first = attach(&writer, &seats, seat).unwrap();
            REFUSED.set(true);
            assert_eq!(attach(&writer, &seats, seat), Ok(first), "it was registered before");
            assert_eq!(writer.desk().count(), 1);
        }
    }

    /// The pair on real cores: whoever comes first, at least one of both sides sees the other's store.
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

    /// Where each message wakes somebody a publisher fences, where none does it does not; and no sleeper misses a change-over.
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
        let start = writer.desk().attach(memory, seat, Arc::new(Bell::silent()), (9, 1)).unwrap();
        let reader: Reader<Heap> =
            Reader::new(Arc::clone(writer.ring()), Arc::clone(&bell), &seats, seat, start).unwrap();
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
}
