//! What the kernel's barrier promises, told to loom.
//!
//! `membarrier(2)` makes every thread that runs execute a full fence at some moment of the call. For a thread
//! at a [`light`] barrier that moment is before it or after it, so of a light and a heavy barrier one comes
//! first, and what was done before the first is seen behind the second. Two light barriers order nothing
//! between them, nor does a light one with a SeqCst fence: those are what the change-over is about.
//!
//! ```text
//! light()                            heavy()
//! OFTEN  += 0   Release              SELDOM += 0   Release
//! SELDOM += 0   Acquire              OFTEN  += 0   Acquire
//! ```
//!
//! Loom runs one step after the other and a read-modify-write finds the last value, so if neither acquired
//! what the other released, each second line came before the other's first: impossible.

use crate::sync::{AtomicU64, strong};
// Not loom's: the same in all executions of a model.
use std::sync::atomic::{AtomicBool, Ordering as Plain};

loom::lazy_static! {
    static ref OFTEN: AtomicU64 = AtomicU64::new(0);
    static ref SELDOM: AtomicU64 = AtomicU64::new(0);
}

static ENABLED: AtomicBool = AtomicBool::new(false);

/// From now on this model has the barrier, and all others of this process; without it the kernel refuses.
pub fn enable() {
    ENABLED.store(true, Plain::Relaxed);
    // A static of loom's is made at its first use, and that user passes on all that it has seen to the next:
    // so both are made here, at the beginning of a model, and not by one of the two barriers.
    let _made = (&*OFTEN, &*SELDOM);
}

pub(crate) fn is_ready() -> bool {
    ENABLED.load(Plain::Relaxed)
}

/// The half of the side that runs often.
pub(crate) fn light() {
    if is_ready() {
        OFTEN.fetch_add(0, strong!("barrier: light before", Release));
        SELDOM.fetch_add(0, strong!("barrier: light behind", Acquire));
    }
}

/// The half of the side that runs seldom. False: there is none in this model.
#[must_use]
pub(crate) fn heavy() -> bool {
    if is_ready() {
        SELDOM.fetch_add(0, strong!("barrier: heavy before", Release));
        OFTEN.fetch_add(0, strong!("barrier: heavy behind", Acquire));
    }
    is_ready()
}
