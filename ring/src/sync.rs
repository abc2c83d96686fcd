//! The one place where atomics, locks and spin hints come from, so that loom can step in.
//!
//! Under `--cfg loom` these are loom's types: rings then live on the heap (see [`crate::heap::Heap`]) and
//! waiting on a bell is a loop that loom can explore, since it knows no futex.
//!
//! Every ordering stronger than `Relaxed` is written `strong!("edge: site", Release)`. That is the plain
//! constant, except in models: there `HIVEMIND_MUTANT="edge: site"` weakens this one to see whether a model
//! notices (`ring/mutants` runs them all).

#[cfg(loom)]
pub use self::mutants::fence;
#[cfg(loom)]
pub(crate) use self::mutants::ordering;
#[cfg(loom)]
pub use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

/// An ordering stronger than `Relaxed`, and the name of its site: the edge that it belongs to, a colon, and
/// what is unique.
#[cfg(not(loom))]
macro_rules! strong {
    ($site:literal, $ordering:ident) => {
        $crate::sync::Ordering::$ordering
    };
}
/// The same, unless this site is the mutant of this run.
#[cfg(loom)]
macro_rules! strong {
    ($site:literal, $ordering:ident) => {
        $crate::sync::ordering($site, $crate::sync::Ordering::$ordering)
    };
}
pub(crate) use strong;

/// Locks `mutex`; a panic of another holder does not matter, since every critical section of this crate
/// leaves its data whole at each step.
#[cfg(not(hivemind_tsan))]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The same for ThreadSanitizer, which does not see into the part of the standard library that waits for a
/// lock.
#[cfg(hivemind_tsan)]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    use std::sync::TryLockError;
    // Bounded by the critical sections of the others.
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
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
    // SAFETY: the instruction accesses no memory as far as the program is concerned and ignores invalid
    // addresses; every x86-64 processor has it.
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

/// Orderings that are weaker than they should be, for `ring/mutants`.
#[cfg(loom)]
mod mutants {
    use super::Ordering;
    use std::io::Write;
    // Not loom's: what is kept here is the same in all executions of all models of a process.
    use std::sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering as Plain},
    };

    /// One weakened site.
    struct Mutant {
        site: String,
        instead: Ordering,
        reached: AtomicBool,
    }

    /// What `HIVEMIND_MUTANT` says: sites, separated by semicolons, each with ` -> Ordering` where it is not
    /// weakened to `Relaxed`.
    fn mutants() -> &'static [Mutant] {
        static MUTANTS: OnceLock<Vec<Mutant>> = OnceLock::new();
        MUTANTS.get_or_init(|| {
            let wanted = std::env::var("HIVEMIND_MUTANT").unwrap_or_default();
            let sites = wanted.split(';').map(str::trim).filter(|site| !site.is_empty());
            sites
                .map(|wanted| {
                    let (site, instead) = wanted.split_once(" -> ").unwrap_or((wanted, "Relaxed"));
                    let instead = match instead {
                        "Relaxed" => Ordering::Relaxed,
                        "Acquire" => Ordering::Acquire,
                        "Release" => Ordering::Release,
                        "AcqRel" => Ordering::AcqRel,
                        other => panic!("HIVEMIND_MUTANT asks for the ordering {other:?}, which is none"),
                    };
                    Mutant { site: site.to_owned(), instead, reached: AtomicBool::new(false) }
                })
                .collect()
        })
    }

    /// The ordering of `site`, which is `intended` unless it is to be weakened.
    pub(crate) fn ordering(site: &str, intended: Ordering) -> Ordering {
        let Some(mutant) = mutants().iter().find(|mutant| mutant.site == site) else { return intended };
        if !mutant.reached.swap(true, Plain::Relaxed) {
            // Not `eprintln`, which the test harness keeps to itself. If it cannot be written, the script
            // says "never reached".
            let _ = writeln!(std::io::stderr(), "mutant reached: {site}");
        }
        mutant.instead
    }

    /// As loom's; one that was weakened to `Relaxed` is none.
    pub fn fence(ordering: Ordering) {
        if ordering != Ordering::Relaxed {
            loom::sync::atomic::fence(ordering);
        }
    }
}
