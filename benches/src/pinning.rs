//! Which cores this process may use, and how to stay on one of them.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Why the harness cannot place its two processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Fewer than two cores. Run where this process may use two, or widen its cpuset.
    #[error(
        "two cores are needed and this process may use {usable}; widen its cpuset or use another machine"
    )]
    TooFewCores {
        /// The cores this process may use.
        usable: usize,
    },
    /// The kernel refused to pin. Allow `sched_setaffinity`, or name permitted cores with `--cores`.
    #[error("the kernel refused to pin to core {core} ({errno}); name permitted cores with `--cores A,B`")]
    Refused {
        /// The core asked for.
        core: usize,
        /// What the kernel said.
        errno: Errno,
    },
    /// The affinity of this process cannot be read. Allow `sched_getaffinity` in the sandbox.
    #[error("the kernel does not tell which cores may be used ({0}); allow sched_getaffinity in the sandbox")]
    Unreadable(Errno),
}

/// The cores this process may run on, ascending.
pub fn usable_cores() -> Result<Vec<usize>, PinError> {
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(PinError::Unreadable)?;
    Ok((0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect())
}

/// Two different usable cores: the first two, or the two asked for.
pub fn choose(asked: Option<(usize, usize)>) -> Result<(usize, usize), PinError> {
    if let Some(pair) = asked {
        return Ok(pair);
    }
    match usable_cores()?.as_slice() {
        [first, second, ..] => Ok((*first, *second)),
        fewer => Err(PinError::TooFewCores { usable: fewer.len() }),
    }
}

/// Keeps the calling thread, and every thread it starts from now on, on `core`.
pub fn pin(core: usize) -> Result<(), PinError> {
    pin_to(&[core])
}

/// Keeps this thread, and those it starts, on these cores.
pub fn pin_to(cores: &[usize]) -> Result<(), PinError> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core).map_err(|errno| PinError::Refused { core, errno })?;
    }
    let core = cores.first().copied().unwrap_or(0);
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|errno| PinError::Refused { core, errno })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_that_core_alone() {
        let core = usable_cores().unwrap()[0];
        std::thread::spawn(move || {
            pin(core).unwrap();
            assert_eq!(usable_cores().unwrap(), [core]);
            assert!(matches!(choose(None), Err(PinError::TooFewCores { usable: 1 })));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused_with_its_number() {
        let error = pin(CpuSet::count() - 1).unwrap_err();
        assert!(error.to_string().contains(&(CpuSet::count() - 1).to_string()), "{error}");
    }
}
