//! What the machine itself costs: the round trip of one cache line, and of one futex, between two processes.
//!
//! ```text
//!   line 0   written by the parent, read by the peer     one cache line each
//!   line 1   written by the peer, read by the parent; counts what the peer is through with in cases that ask for it
//!   line 2   written by the parent: "stop" (cases in which the peer runs until told)
//! ```
//!
//! Each side writes the number of the round to its own line and polls the other line, without a pause
//! instruction (it would only make the floor look higher). No message can be faster than this on the same two
//! cores.
//!
//! The mapping is the only one in hivemind that two processes write: a doorbell segment.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use hivemind_ring::mapped::Bells;
use hivemind_ring::segment::{Anonymous, Handle};
use rustix::thread::futex;

use crate::error::HarnessError;
use crate::readings::{BATCH, Readings, Summary};

/// Two floors around one run may differ by this fraction of the smaller; beyond it the run is measured again.
pub const DISAGREEMENT: f64 = 0.15;

/// How often one run is measured before it is reported as unsteady.
pub const ATTEMPTS: usize = 6;

/// Between two readings of a case in which both sides sleep: long enough for the peer to fall asleep again.
pub const REST: Duration = Duration::from_micros(50);

/// How long one side polls for the other before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Failed polls between two looks at the clock.
const POLLS: u32 = 1 << 16;

const PING: usize = 0;
const PONG: usize = 1;
const STOP: usize = 2;

/// The lines shared by the parent and its peer.
#[derive(Debug)]
pub struct Floor {
    bells: Arc<Bells>,
}

impl Floor {
    /// Makes the shared page. The parent does this once.
    pub fn create() -> Result<Floor, HarnessError> {
        Ok(Floor { bells: Bells::create(&Anonymous).map_err(HarnessError::floor)? })
    }

    /// Maps the page of the parent. The peer does this once.
    pub fn open(handle: Handle) -> Result<Floor, HarnessError> {
        Ok(Floor { bells: Bells::open(&Anonymous, handle).map_err(HarnessError::floor)? })
    }

    /// What the peer opens.
    pub fn handle(&self) -> Result<Handle, HarnessError> {
        self.bells.handle().map_err(HarnessError::floor)
    }

    /// One word on a cache line of its own.
    fn line(&self, index: usize) -> &AtomicU32 {
        &self.bells.lines()[index].wake
    }

    /// Sets the lines back to what they are before a measurement. The peer must not be measuring.
    pub fn reset(&self) {
        for index in [PING, PONG, STOP] {
            // Relaxed: the order that starts the peer travels over a pipe, which orders everything before it.
            self.line(index).store(0, Relaxed);
        }
    }

    /// The parent's half: `batches` readings of [`BATCH`] round trips each.
    pub fn ask(&self, batches: u64) -> Result<Summary, HarnessError> {
        let (ping, pong) = (self.line(PING), self.line(PONG));
        let mut readings = Readings::with_capacity(batches);
        let mut round = 0;
        for _ in 0..batches {
            let start = Instant::now();
            for _ in 0..BATCH {
                round += 1;
                // Release and Acquire: what a message that carries bytes would need at least.
                ping.store(round, Release);
                poll(|| pong.load(Acquire) == round, "the floor")?;
            }
            readings.record(start.elapsed(), BATCH);
        }
        Ok(readings.summary())
    }

    /// The peer's half of [`ask`](Floor::ask).
    pub fn answer(&self, batches: u64) -> Result<(), HarnessError> {
        let (ping, pong) = (self.line(PING), self.line(PONG));
        for round in 1..=last_round(batches * BATCH) {
            poll(|| ping.load(Acquire) == round, "the floor")?;
            pong.store(round, Release);
        }
        Ok(())
    }

    /// The parent's half of the floor of sleepers: `rounds` readings of one futex round trip each, with a
    /// [rest] before each, so that the peer is asleep when it is rung.
    pub fn ask_asleep(&self, rounds: u64, clock_ns: u64) -> Result<Summary, HarnessError> {
        let (ping, pong) = (self.line(PING), self.line(PONG));
        let mut readings = Readings::with_capacity(rounds);
        for round in 1..=last_round(rounds) {
            rest();
            let start = Instant::now();
            ring(ping, round);
            sleep_until(pong, round)?;
            readings.record_single(start.elapsed(), clock_ns);
        }
        Ok(readings.summary())
    }

    /// The peer's half of [`ask_asleep`](Floor::ask_asleep).
    pub fn answer_asleep(&self, rounds: u64) -> Result<(), HarnessError> {
        let (ping, pong) = (self.line(PING), self.line(PONG));
        for round in 1..=last_round(rounds) {
            sleep_until(ping, round)?;
            ring(pong, round);
        }
        Ok(())
    }

    /// The peer says that one more thing is done; counted from the last [`reset`](Floor::reset).
    pub fn tell(&self) {
        // Release: pairs with `told`.
        self.line(PONG).fetch_add(1, Release);
    }

    /// How often the peer has said so.
    pub fn told(&self) -> u32 {
        self.line(PONG).load(Acquire)
    }

    /// The parent tells a peer that runs until told.
    pub fn stop(&self) {
        // Release: pairs with `stopped`; nothing is published by it, but the peer reports after having seen
        // it.
        self.line(STOP).store(1, Release);
    }

    /// Whether the parent said stop.
    pub fn stopped(&self) -> bool {
        self.line(STOP).load(Acquire) != 0
    }
}

/// Two floors around a run agree.
pub fn agree(before: f64, after: f64) -> bool {
    (before - after).abs() <= DISAGREEMENT * before.min(after)
}

/// Polls until `ready`, at most [`PATIENCE`].
pub fn poll(mut ready: impl FnMut() -> bool, during: &'static str) -> Result<(), HarnessError> {
    poll_for(|| Ok(ready().then_some(())), during)
}

/// Polls until `look` finds something or fails, at most [`PATIENCE`]. The clock is read every `POLLS`
/// failures.
#[inline]
pub fn poll_for<T>(
    mut look: impl FnMut() -> Result<Option<T>, HarnessError>,
    during: &'static str,
) -> Result<T, HarnessError> {
    let mut deadline = None;
    loop {
        for _ in 0..POLLS {
            if let Some(found) = look()? {
                return Ok(found);
            }
        }
        if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
            return Err(HarnessError::Silent { during, waited_s: PATIENCE.as_secs() });
        }
    }
}

/// Spins for [`REST`], so that this core stays awake while the peer's falls asleep.
pub fn rest() {
    let start = Instant::now();
    while start.elapsed() < REST {
        std::hint::spin_loop();
    }
}

/// Rounds are numbered in 32 bits, since a futex is 32 bits wide.
fn last_round(rounds: u64) -> u32 {
    u32::try_from(rounds).expect("the harness asks for fewer than 2^32 rounds")
}

fn ring(bell: &AtomicU32, round: u32) {
    bell.store(round, Release);
    // A wake can only fail for an address that is no longer mapped; this one is borrowed.
    futex::wake(bell, futex::Flags::empty(), 1).expect("a mapped futex can be woken");
}

fn sleep_until(bell: &AtomicU32, round: u32) -> Result<(), HarnessError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = bell.load(Acquire);
        if seen == round {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(HarnessError::Silent { during: "the futex floor", waited_s: PATIENCE.as_secs() });
        }
        let patience = futex::Timespec { tv_sec: 1, tv_nsec: 0 };
        // Every way of waking up (the value changed before, a signal, a spurious wake, the timeout) ends in a
        // new look.
        let _woken = futex::wait(bell, futex::Flags::empty(), seen, Some(&patience));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_that_differ_by_more_than_the_bound_disagree() {
        assert!(agree(100.0, 114.0));
        assert!(agree(114.0, 100.0));
        assert!(!agree(100.0, 116.0));
        assert!(!agree(490.0, 100.0));
    }

    // Two threads stand for the two processes: the same page, the same halves.
    #[test]
    fn both_halves_count_the_same_rounds() {
        let floor = Floor::create().unwrap();
        std::thread::scope(|scope| {
            let peer = scope.spawn(|| floor.answer(4));
            assert_eq!(floor.ask(4).unwrap().operations, 4 * BATCH);
            peer.join().unwrap().unwrap();
            floor.reset();
            let peer = scope.spawn(|| floor.answer_asleep(8));
            assert_eq!(floor.ask_asleep(8, 0).unwrap().operations, 8);
            peer.join().unwrap().unwrap();
        });
    }
}
