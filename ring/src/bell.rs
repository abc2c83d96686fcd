//! Doorbells: the only memory that two processes write. What is written here decides when somebody wakes, never what
//! somebody reads; a peer that scribbles over it can delay a wake-up or cause a needless one.
//!
//! A node has one doorbell segment; each of its ends has a line in it with three words:
//!
//! | word       | of a         | who writes                                  | meaning                                        |
//! | ---------- | ------------ | ------------------------------------------- | ---------------------------------------------- |
//! | `sleepers` | publisher    | its subscribers set it, it clears it        | somebody may sleep: look before going on       |
//! | `space`    | publisher    | its subscribers count it up                 | futex of a publisher that waits for space      |
//! | `wake`     | subscriber   | its publishers and its own node count it up | futex of a subscriber that waits for a message |
//!
//! A futex word is always changed before the wake-up, so a waiter that read the old value and has not slept yet does not
//! sleep at all. If the waker dies between the two, the waiter sleeps on until the next ring, or until its node learns of
//! the death and rings.

use crate::sync::{AtomicU32, strong};
use std::time::Duration;

/// The three words of one end; see the head of this module.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Bell {
    /// Not 0: a subscriber of this publisher may be asleep.
    pub sleepers: AtomicU32,
    /// Counted up by subscribers when they made space for a blocked publisher.
    pub space: AtomicU32,
    /// Counted up by whoever has news for this subscriber.
    pub wake: AtomicU32,
    padding: [AtomicU32; if cfg!(loom) { 0 } else { 13 }],
}

impl Bell {
    /// A silent bell on the heap.
    pub fn silent() -> Self {
        let word = || AtomicU32::new(0);
        Bell { sleepers: word(), space: word(), wake: word(), padding: std::array::from_fn(|_| word()) }
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The word changed, a wake-up came, or a signal: look again.
    LookAgain,
    /// The time is over.
    TimedOut,
}

/// Sleeps while `word` is `expected`, until a wake-up, a signal, or `timeout`. The word may be in shared memory, also
/// in a mapping that this process may only read.
#[cfg(not(loom))]
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
    use nix::libc;
    let limit = timeout.map(|duration| libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        // Below one thousand million, so it fits.
        tv_nsec: duration.subsec_nanos() as libc::c_long,
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: FUTEX_WAIT reads the aligned word that `word` borrows (alive and in bounds for the whole call) and the
    // time that `limit` points to, a local that outlives the call, or null, which means for ever. It writes nothing.
    let outcome = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, limit) };
    if outcome == -1 && nix::errno::Errno::last_raw() == libc::ETIMEDOUT {
        Woken::TimedOut
    } else {
        Woken::LookAgain
    }
}

/// Counts `word` up and wakes everyone who waits on it. One system call; never blocks.
pub fn ring(word: &AtomicU32) {
    // Release: whoever sees the new count also sees what was written before it; the futex itself orders nothing.
    word.fetch_add(1, strong!("wake: bell", Release));
    wake_all(word);
}

#[cfg(not(loom))]
fn wake_all(word: &AtomicU32) {
    use nix::libc;
    // SAFETY: FUTEX_WAKE only uses the address as a key; `word` borrows an aligned word that is alive for the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(loom)]
fn wake_all(_word: &AtomicU32) {}

/// Under loom a wait is a loop until the word changes: a lost wake-up shows as a model that never ends.
#[cfg(loom)]
pub fn wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Woken {
    // Relaxed: the caller looks at the ring again with its own orderings.
    while word.load(crate::sync::Ordering::Relaxed) == expected {
        crate::sync::spin_loop();
    }
    Woken::LookAgain
}
