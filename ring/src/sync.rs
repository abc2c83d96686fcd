//! The one place where atomics, locks and spin hints come from, so that loom can step in.
//!
//! Under `--cfg loom` these are loom's types: rings then live on the heap (see [`crate::memory::Heap`]) and waiting on a
//! bell is a loop that loom can explore, since it knows no futex.

#[cfg(loom)]
pub use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

/// Locks `mutex`; a panic of another holder does not matter, since every critical section of this crate leaves its
/// data whole at each step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells the processor that this is a spin loop (and loom that nothing happens here without another thread).
#[inline]
pub fn spin_loop() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}
