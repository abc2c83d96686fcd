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

/// Asks the processor to bring the cache line at `address` near. A hint: it reads nothing and cannot fault.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: the instruction accesses no memory as far as the program is concerned and ignores invalid addresses; every
    // x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(loom)))]
    // SAFETY: as above; `prfm` is a hint of the base instruction set.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(loom)]
    let _ = address;
}
