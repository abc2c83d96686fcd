//! A publisher that left its fence out fences again, and leaves it out once more (`ring/src/barrier.rs`): the steps of the protocol by themselves, since the
//! kernel's barrier cannot be modelled. A sleeper that reads `unfenced` as 0 makes no barrier, and must not miss a commit.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

#[derive(Default)]
struct Words {
    head: AtomicU64,
    sleepers: AtomicU64,
    unfenced: AtomicU64,
}

impl Words {
    /// A commit; whether the publisher sees the sleeper after it.
    fn commit(&self, message: u64, is_fenced: bool) -> bool {
        self.head.store(message, Ordering::Release);
        if is_fenced {
            fence(Ordering::SeqCst);
        }
        self.sleepers.load(Ordering::Relaxed) != 0
    }
}

/// So many commits follow the change back to fences, and so many the change forth.
fn a_sleeper_without_a_barrier_misses_no_commit(fenced: u64, unfenced: u64) {
    loom::model(move || {
        let words = Arc::new(Words::default());
        words.unfenced.store(1, Ordering::Relaxed);
        let publisher = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let mut message = 1;
                let mut is_seen = words.commit(message, false);
                words.unfenced.store(0, Ordering::Release);
                for _ in 0..fenced {
                    message += 1;
                    is_seen |= words.commit(message, true);
                }
                if unfenced > 0 {
                    words.unfenced.store(1, Ordering::Relaxed);
                    fence(Ordering::SeqCst);
                }
                for _ in 0..unfenced {
                    message += 1;
                    is_seen |= words.commit(message, false);
                }
                (message, is_seen)
            })
        };
        words.sleepers.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let makes_barrier = words.unfenced.load(Ordering::Acquire) != 0;
        let found = words.head.load(Ordering::Relaxed);
        let (last, is_seen) = publisher.join().unwrap();
        assert!(makes_barrier || is_seen || found == last, "it sleeps through {found} to {last}");
    });
}

#[test]
fn a_sleeper_sees_what_was_committed_without_a_fence_before_the_change() {
    a_sleeper_without_a_barrier_misses_no_commit(0, 0);
}

#[test]
fn a_sleeper_is_seen_by_commits_that_fence_again() {
    a_sleeper_without_a_barrier_misses_no_commit(2, 0);
}

#[test]
fn a_sleeper_is_seen_by_commits_after_the_change_forth() {
    a_sleeper_without_a_barrier_misses_no_commit(0, 2);
    a_sleeper_without_a_barrier_misses_no_commit(1, 1);
}
