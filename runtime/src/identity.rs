//! What the kernel says about which process is which: the readings under `hivemind_core::identity`.
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use hivemind_core::identity::{Process, bound_epoch, unbound_epoch};
use hivemind_ring::os;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerPidfd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

use crate::random::random_number;

/// What the kernel calls the file system of pidfds, "PIDF".
const PIDFS: u64 = 0x5049_4446;
/// More than the kernel says of a pidfd.
const INFO_BYTES_MAX: usize = 4096;

/// Whose pidfd this is.
///
/// # Errors
/// Those of `fstat`; and when there is no descriptor left to ask an older kernel.
pub fn process_of(pidfd: &impl AsFd) -> io::Result<Process> {
    let kind = fstatfs(pidfd)?.filesystem_type();
    if u64::try_from(kind.0) == Ok(PIDFS) {
        let status = fstat(pidfd)?;
        return Ok(Process::Inode { device: status.st_dev, inode: status.st_ino });
    }
    process_by_number(pidfd)
}

/// As kernels before 6.9 tell it.
pub(crate) fn process_by_number(pidfd: &impl AsFd) -> io::Result<Process> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    match std::fs::File::open(path).and_then(read_info) {
        Ok(info) => Ok(said_in(&info)),
        Err(error) if is_lack(&error) => Err(error),
        // There is no `/proc`, or not for us.
        Err(_) => Ok(Process::Unknown),
    }
}

/// What `/proc/self/fdinfo` says: 0 of a process in a namespace that is not seen from here, -1 of one
/// that is gone.
fn said_in(info: &str) -> Process {
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    number.filter(|number| *number > 0).map_or(Process::Unknown, Process::Number)
}

/// This process.
#[must_use]
pub fn current_process() -> Process {
    own_pidfd().and_then(|pidfd| process_of(&pidfd)).unwrap_or(Process::Unknown)
}

/// A number for a new life of a node in this process, never 0. Where the kernel can tell processes apart for
/// good it names this one.
#[must_use]
pub fn new_node_epoch() -> u64 {
    match current_process() {
        Process::Inode { inode, .. } => bound_epoch(inode, next_within()),
        Process::Number(_) | Process::Unknown => unbound_epoch(random_number()),
    }
}

/// Counts the nodes of this process, from a random number on.
fn next_within() -> u64 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Only the low bits are used.
    let next = NEXT.get_or_init(|| AtomicU32::new(random_number() as u32));
    // Relaxed: only the number has to be new.
    next.fetch_add(1, Ordering::Relaxed).into()
}

/// A sandbox may refuse one way and allow the other.
fn own_pidfd() -> io::Result<OwnedFd> {
    os::open_pidfd(std::process::id().cast_signed()).or_else(|_| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (here, _there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok(getsockopt(&here, PeerPidfd)?)
    })
}

fn read_info(file: std::fs::File) -> io::Result<String> {
    use io::Read as _;
    let mut info = String::new();
    file.take(INFO_BYTES_MAX as u64).read_to_string(&mut info)?;
    Ok(info)
}

fn is_lack(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Other(Child);

    impl Other {
        fn start() -> Other {
            Other(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        }

        fn pidfd(&self) -> OwnedFd {
            os::open_pidfd(self.0.id().cast_signed()).unwrap()
        }
    }

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn has_inodes() -> bool {
        matches!(current_process(), Process::Inode { .. })
    }

    #[test]
    fn all_pidfds_of_a_process_are_of_one_process_and_of_no_other() {
        let other = Other::start();
        let (one, two) = (other.pidfd(), other.pidfd());
        let own = own_pidfd().unwrap();
        for of in [|pidfd: &OwnedFd| process_of(pidfd), |pidfd: &OwnedFd| process_by_number(pidfd)] {
            assert_eq!(of(&one).unwrap().is(of(&two).unwrap()), Some(true));
            assert_eq!(of(&one).unwrap().is(of(&own).unwrap()), Some(false));
        }
        assert_eq!(process_by_number(&own).unwrap(), Process::Number(std::process::id().cast_signed()));
    }

    #[test]
    fn an_epoch_can_be_had_by_the_process_that_made_it_alone() {
        let other = Other::start();
        let theirs = process_of(&other.pidfd()).unwrap();
        let epochs: HashSet<u64> = (0..1000).map(|_| new_node_epoch()).collect();
        assert_eq!(epochs.len(), 1000);
        for epoch in epochs {
            assert!(epoch != 0 && current_process().may_have(epoch));
            assert_eq!(theirs.may_have(epoch), !has_inodes());
            // A kernel that cannot tell does not confirm it either.
            assert_eq!(Process::Unknown.may_have(epoch), !has_inodes());
        }
        assert!((0..1000).all(|_| theirs.may_have(unbound_epoch(random_number()))));
    }

    #[test]
    fn a_process_that_is_not_seen_or_is_gone_is_told_from_nobody() {
        for info in ["pos:\t0\nPid:\t0\nNSpid:\t0\n", "Pid:\t-1\n", "pos:\t0\n", "Pid:\tx\n", ""] {
            assert_eq!(said_in(info), Process::Unknown);
            assert_eq!(said_in(info).is(Process::Number(5)), None);
        }
        assert_eq!(said_in("flags:\t02\nPid:\t5\nNSpid:\t5\t1\n"), Process::Number(5));
    }
}
