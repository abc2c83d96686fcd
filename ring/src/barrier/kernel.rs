//! The barrier as the kernel makes it: `membarrier(2)`.

use crate::sync::Ordering;
use nix::libc;
use std::sync::atomic::{AtomicU64, compiler_fence};

/// The process that registered (its number in [`crate::fork`]), or none: 0. A child after a fork is another
/// one.
pub(super) static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Values of `enum membarrier_cmd` in linux/membarrier.h.
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
pub(super) const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

#[cfg(test)]
thread_local! {
    /// Whether the kernel refuses this thread the barrier, as a sandbox would.
    pub(super) static REFUSED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The half of the side that runs often: its store stays before its load, as far as the compiler is
/// concerned.
#[inline]
pub(crate) fn light() {
    compiler_fence(Ordering::SeqCst);
}

/// The half of the side that runs seldom. False: the kernel refused, and nothing is ordered.
#[must_use]
pub(crate) fn heavy() -> bool {
    #[cfg(test)]
    if REFUSED.get() {
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

/// Registers this process, so that its publishers need no fence. Called when a node joins; calling it again
/// costs nothing. Does not block: a process with more than one thread is registered by a thread of its own, a
/// little later.
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

pub(super) fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes a command, flags (none) and a processor (ignored without the flag that names
    // it); it reads and writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
