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

/// Set in epochs that name their process.
const BOUND: u64 = 1 << 63;
/// Bits that tell nodes of one process apart.
const WITHIN_BITS: u32 = 24;
/// Bits of an inode that fit. They repeat only after 2^39 more threads have been started.
const INODE_BITS: u32 = 39;

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

/// The epoch of node `number` of the process whose pidfds have this inode.
#[must_use]
pub fn bound_epoch(inode: u64, number: u64) -> u64 {
    bound_to(inode) | within(number)
}

/// An epoch that names no process, of a random number. Never 0.
#[must_use]
pub fn unbound_epoch(random: u64) -> u64 {
    // Of the numbers that are left out one is 0, and the other comes up once in 2^63.
    (random & !BOUND).max(1)
}

fn bound_to(inode: u64) -> u64 {
    BOUND | (inode & ((1 << INODE_BITS) - 1)) << WITHIN_BITS
}

fn within(number: u64) -> u64 {
    number & ((1 << WITHIN_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_inodes_and_other_nodes_have_other_epochs() {
        let all = bound_epoch;
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
