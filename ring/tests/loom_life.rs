//! What a process makes once, and a forked child anew (`ring/src/fork.rs`): two threads that ask for the
//! first time get the same, complete.
#![cfg(loom)]
#![allow(unsafe_code)]

use hivemind_ring::fork::PerLife;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A value whose making is a write that loom watches.
struct Made(UnsafeCell<u32>);

// SAFETY: written by whoever makes it alone, and only read afterwards; loom checks that.
unsafe impl Send for Made {}
// SAFETY: as for Send.
unsafe impl Sync for Made {}

impl Default for Made {
    fn default() -> Self {
        let cell = UnsafeCell::new(0);
        // SAFETY: nobody else has the cell.
        cell.with_mut(|value| unsafe { *value = 7 });
        Made(cell)
    }
}

impl Made {
    fn read(&self) -> u32 {
        // SAFETY: nobody writes any more, which loom checks.
        self.0.with(|value| unsafe { *value })
    }
}

fn the_first_of_two_threads_makes_it_for_both(asked_before: bool) {
    loom::model(move || {
        let once: Arc<PerLife<Made>> = Arc::new(PerLife::new());
        if asked_before {
            // In the process that this one was forked from.
            once.of(1);
        }
        let other = {
            let once = Arc::clone(&once);
            thread::spawn(move || {
                let made = once.of(2);
                (made.read(), std::ptr::from_ref(made).addr())
            })
        };
        let made = once.of(2);
        let here = (made.read(), std::ptr::from_ref(made).addr());
        assert_eq!(other.join().unwrap(), here);
        assert_eq!(here.0, 7);
    });
}

#[test]
fn the_first_to_ask_makes_it_for_all() {
    the_first_of_two_threads_makes_it_for_both(false);
}

#[test]
fn what_a_parent_made_is_not_the_childs() {
    the_first_of_two_threads_makes_it_for_both(true);
}
