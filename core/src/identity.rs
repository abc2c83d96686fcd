//! Which process a node lives in, by the kernel's word.
//!
//! A node is known by its *epoch*. Peers keep what counts for a life of a node (pins, cursors, doorbells, the
//! pidfd that will tell its death) under that number, across the death of roots. So a process that could say
//! the epoch of another could, by dying, have the other taken for dead, and pins would stop counting under a
//! node that still reads.
//!
//! Epochs are no secret: every peer sees those of its peers, and so does every listing. They are bound
//! instead. Since Linux 6.9 all pidfds of a process have one inode on a file system of their own, which no
//! other process gets until the machine starts anew, and which is the same in every namespace. An epoch
//! carries it:
//!
//! ```text
//!  63       62                         24 23                    0
//! +-------+------------------------------+-----------------------+
//! | bound | inode of the process's pidfd | which node of it      |  1: Linux 6.9 or newer
//! | bit   | (its low 39 bits)            | (begins at random)    |
//! +-------+------------------------------+-----------------------+
//! | 0     | random                                               |  0: older, or no pidfd to be had
//! +-------+------------------------------------------------------+
//! ```
//!
//! | who            | asks                                                             | when               |
//! | -------------- | ---------------------------------------------------------------- | ------------------ |
//! | a joining node | for a pidfd of itself; writes its inode into its epoch            | once               |
//! | the root       | is that the inode of the process that connected? If not: refused | at every `Hello`   |
//! | every peer     | is that the inode of the pidfd that the root sends? Or no pair    | for every pair     |
//!
//! No memory is needed for that, so a new root, or a peer that has never heard of a node, is as sure as one
//! that knows it.
//!
//! An epoch that is not bound is *remembered*: a peer that knows it compares the pidfds, by inode or (before
//! 6.9) by the number of the process, and refuses another process under it for as long as it knows it. A root
//! that knows nobody believes the first that comes, but a process of the owner of the hive wins against one
//! of another user. Where not even the number can be had (the peer lives in a process namespace that this one
//! does not see, or there is no `/proc`), a peer cannot tell; it then keeps every pidfd that it is given for
//! an epoch, and takes the node for gone when all of them say so. That errs on the safe side: pins count too
//! long, never too short.
//!
//! The last 24 bits keep apart nodes of one process, and nodes of one inode on two hosts or before and after
//! a start of the machine: a link remembers publishers of another host by epoch.
//!
//! A process that becomes another program keeps its inode; a forked child has one of its own, and cannot go
//! on as its parent.
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use hivemind_ring::os;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerPidfd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

use crate::random::random_number;

/// Set in epochs that name their process.
const BOUND: u64 = 1 << 63;
/// Bits that tell nodes of one process apart.
const WITHIN_BITS: u32 = 24;
/// Bits of an inode that fit. They repeat only after 2^39 more threads have been started.
const INODE_BITS: u32 = 39;
/// What the kernel calls the file system of pidfds, "PIDF".
const PIDFS: u64 = 0x5049_4446;
/// More than the kernel says of a pidfd.
const INFO_BYTES_MAX: usize = 4096;

/// A process, as this process can tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// By the inode of its pidfds: since Linux 6.9. Nobody else ever gets it while the machine runs.
    Inode {
        /// The file system of pidfds.
        device: u64,
        /// The inode.
        inode: u64,
    },
    /// By its number, as this process sees it. As long as a pidfd of it tells that it lives, nobody else gets
    /// it.
    Number(i32),
    /// It cannot be told from others.
    Unknown,
}

impl Process {
    /// Whose pidfd this is.
    ///
    /// # Errors
    /// Those of `fstat`; and when there is no descriptor left to ask an older kernel.
    pub fn of(pidfd: &impl AsFd) -> io::Result<Process> {
        let kind = fstatfs(pidfd)?.filesystem_type();
        if u64::try_from(kind.0) == Ok(PIDFS) {
            let status = fstat(pidfd)?;
            return Ok(Process::Inode { device: status.st_dev, inode: status.st_ino });
        }
        Process::by_number(pidfd)
    }

    /// As kernels before 6.9 tell it.
    pub(crate) fn by_number(pidfd: &impl AsFd) -> io::Result<Process> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
        match std::fs::File::open(path).and_then(read_info) {
            Ok(info) => Ok(Process::said_in(&info)),
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
    pub fn current() -> Process {
        own_pidfd().and_then(|pidfd| Process::of(&pidfd)).unwrap_or(Process::Unknown)
    }

    /// Whether this process can have that epoch. One that is not bound anybody can have.
    #[must_use]
    pub fn may_have(self, epoch: u64) -> bool {
        match self {
            _ if epoch & BOUND == 0 => true,
            Process::Inode { inode, .. } => epoch | within(u64::MAX) == bound_to(inode) | within(u64::MAX),
            // It says that the kernel can tell processes apart, and the kernel cannot.
            Process::Number(_) | Process::Unknown => false,
        }
    }

    /// Whether both are one process; `None`: nobody can tell.
    #[must_use]
    pub fn is(self, other: Process) -> Option<bool> {
        match (self, other) {
            (Process::Unknown, _) | (_, Process::Unknown) => None,
            _ => Some(self == other),
        }
    }
}

/// See the head of the module.
pub(crate) fn new_epoch() -> u64 {
    match Process::current() {
        Process::Inode { inode, .. } => bound_to(inode) | within(next_within()),
        Process::Number(_) | Process::Unknown => unbound_epoch(),
    }
}

fn unbound_epoch() -> u64 {
    // Never 0: of the numbers that are left out one is 0, and the other comes up once in 2^63.
    (random_number() & !BOUND).max(1)
}

fn bound_to(inode: u64) -> u64 {
    BOUND | (inode & ((1 << INODE_BITS) - 1)) << WITHIN_BITS
}

fn within(number: u64) -> u64 {
    number & ((1 << WITHIN_BITS) - 1)
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
        matches!(Process::current(), Process::Inode { .. })
    }

    #[test]
    fn all_pidfds_of_a_process_are_of_one_process_and_of_no_other() {
        let other = Other::start();
        let (one, two) = (other.pidfd(), other.pidfd());
        let own = own_pidfd().unwrap();
        for of in [|pidfd: &OwnedFd| Process::of(pidfd), |pidfd: &OwnedFd| Process::by_number(pidfd)] {
            assert_eq!(of(&one).unwrap().is(of(&two).unwrap()), Some(true));
            assert_eq!(of(&one).unwrap().is(of(&own).unwrap()), Some(false));
        }
        assert_eq!(Process::by_number(&own).unwrap(), Process::Number(std::process::id().cast_signed()));
    }

    #[test]
    fn an_epoch_can_be_had_by_the_process_that_made_it_alone() {
        let other = Other::start();
        let theirs = Process::of(&other.pidfd()).unwrap();
        let epochs: HashSet<u64> = (0..1000).map(|_| new_epoch()).collect();
        assert_eq!(epochs.len(), 1000);
        for epoch in epochs {
            assert!(epoch != 0 && Process::current().may_have(epoch));
            assert_eq!(theirs.may_have(epoch), !has_inodes());
            // A kernel that cannot tell does not confirm it either.
            assert_eq!(Process::Unknown.may_have(epoch), !has_inodes());
        }
        assert!((0..1000).all(|_| theirs.may_have(unbound_epoch()) && unbound_epoch() != 0));
    }

    #[test]
    fn a_process_that_is_not_seen_or_is_gone_is_told_from_nobody() {
        for info in ["pos:\t0\nPid:\t0\nNSpid:\t0\n", "Pid:\t-1\n", "pos:\t0\n", "Pid:\tx\n", ""] {
            assert_eq!(Process::said_in(info), Process::Unknown);
            assert_eq!(Process::said_in(info).is(Process::Number(5)), None);
        }
        assert_eq!(Process::said_in("flags:\t02\nPid:\t5\nNSpid:\t5\t1\n"), Process::Number(5));
    }

    #[test]
    fn other_inodes_and_other_nodes_have_other_epochs() {
        let all = |inode: u64, node: u64| bound_to(inode) | within(node);
        let process = |inode| Process::Inode { device: 5, inode };
        for inode in [1, 2, 33_396, (1 << 39) - 1] {
            for node in [0, 1, u64::MAX] {
                assert!(process(inode).may_have(all(inode, node)));
                assert!(!process(inode ^ 1).may_have(all(inode, node)));
                assert!(!process(inode ^ 1 << 38).may_have(all(inode, node)));
            }
        }
    }
}
