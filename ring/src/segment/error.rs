//! Why there is no segment, and what to do about it.

use super::LONGEST;
use crate::fork::Forked;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::io;

/// Why a segment could not be made, opened, handed on or given memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// This process has as many descriptors as it may. Raise its limit (`ulimit -n`, systemd's
    /// `LimitNOFILE=`), or keep fewer publishers, subscribers and files open in one process.
    #[error(
        "this process has all {limit} file descriptors open that it may: raise `ulimit -n` (systemd: LimitNOFILE=), \
         or keep fewer publishers and subscribers in one process"
    )]
    OutOfDescriptors {
        /// The soft limit `RLIMIT_NOFILE`.
        limit: u64,
    },
    /// All descriptors of the machine are in use. Close programs, or let the administrator raise
    /// `fs.file-max`.
    #[error("no program on this machine can open another file: close some, or raise `sysctl fs.file-max`")]
    OutOfDescriptorsEverywhere,
    /// There is no memory. Free some on the machine, or lower what is asked for (`max_memory`, `capacity`).
    #[error(
        "no memory for {needed} bytes{}: free some on this machine, or lower `max_memory` or `capacity`",
        .available.map_or_else(String::new, |bytes| format!(" ({bytes} are available)"))
    )]
    OutOfMemory {
        /// The bytes asked for.
        needed: u64,
        /// What the machine said it has, if it was asked and said.
        available: Option<u64>,
    },
    /// The file system of named segments is full. Remove files there, or remount it larger.
    #[error(
        "/dev/shm has no room for {needed} bytes: remove files there, or `mount -o remount,size=... /dev/shm`"
    )]
    StoreFull {
        /// The bytes asked for.
        needed: u64,
    },
    /// This process may have no further mapping of this length. Raise `vm.max_map_count` or `ulimit -v`, or
    /// lower the length.
    #[error(
        "this process may not map {length} more bytes: raise `sysctl vm.max_map_count` or `ulimit -v`, \
         or lower `max_memory`"
    )]
    OutOfMappings {
        /// The length of the mapping, in bytes.
        length: u64,
    },
    /// Files of this process may not be that long, and memory counts as a file. Raise `ulimit -f`, or lower
    /// the length.
    #[error(
        "{length} bytes pass this process's file size limit of {limit}: raise `ulimit -f`, or lower `max_memory`"
    )]
    FileSizeLimit {
        /// The length of the segment, in bytes.
        length: u64,
        /// The soft limit `RLIMIT_FSIZE`, in bytes.
        limit: u64,
    },
    /// A segment must have at least one byte and at most [`LONGEST`]. Lower `capacity` or `max_memory`.
    #[error("a segment has 1 to {LONGEST} bytes, not {length}: lower `capacity` or `max_memory`")]
    BadLength {
        /// The bytes asked for.
        length: u64,
    },
    /// A peer's segment is too short or too long to be what it says it is. Cut the peer off; it may be
    /// another version.
    #[error(
        "the peer's segment has {length} bytes where {min} to {max} are right: the peer is of another version or corrupt"
    )]
    WrongLength {
        /// The bytes it has.
        length: u64,
        /// The least it may have.
        min: u64,
        /// The most it may have.
        max: u64,
    },
    /// A peer's descriptor is no memory object at all. Cut the peer off.
    #[error("the peer's descriptor is no memfd: do not use this peer")]
    NotMemory,
    /// A peer's memory could still be cut short under us or be written by others (or, for a doorbell, not be
    /// written by us). Cut the peer off.
    #[error("the peer's memory lacks the seal {missing} (it has {found}): do not use this peer")]
    WrongSeals {
        /// What is missing.
        missing: &'static str,
        /// The seals it has.
        found: String,
    },
    /// A peer's descriptor was opened without the rights that are needed. Cut the peer off.
    #[error("the peer's descriptor may not be mapped {wanted}: do not use this peer")]
    WrongAccess {
        /// What was wanted: "to read", "to read and write".
        wanted: &'static str,
    },
    /// A handle of the other backend. Run all nodes of a hive with the same backend.
    #[error(
        "a segment came as a {found} where a {expected} is used: run all nodes of a hive with the same segments"
    )]
    WrongHandle {
        /// The kind of handle this backend opens.
        expected: &'static str,
        /// The kind that came.
        found: &'static str,
    },
    /// There is no segment of that name any more: its owner is gone. Wait for the owner to be announced anew.
    #[error("the segment {name} is gone, and its owner with it: wait until it is announced anew")]
    Vanished {
        /// The name.
        name: String,
    },
    /// A name that this hive does not give. For a peer's name: cut the peer off. For a prefix: use letters,
    /// digits, `.`, `_`, `-`, 64 at most.
    #[error(
        "{name:?} is no name of a segment of this hive: names begin with {prefix:?}, letters, digits and .-_ only"
    )]
    BadName {
        /// The name or prefix.
        name: String,
        /// What it should begin with.
        prefix: String,
    },
    /// An object of that name is somebody else's, or others may touch it. Do not use it; find out who put it
    /// there.
    #[error(
        "{name} is not a private memory object of this user (owner {owner}, mode {mode:o}): find out who put it there"
    )]
    NotPrivate {
        /// The name.
        name: String,
        /// The user id of its owner.
        owner: u32,
        /// Its type and permissions, as `stat` has them.
        mode: u32,
    },
    /// Every name that was tried was taken or removed at once. Try again; if it persists, something removes
    /// files in `/dev/shm`.
    #[error(
        "no free segment name after {attempts} attempts: try again; if it persists, something removes files in /dev/shm"
    )]
    NoFreeName {
        /// How many names were tried.
        attempts: u32,
    },
    /// Only the process that made the segment, and still has its descriptor, can do this. Ask it.
    #[error("only the owner of a segment can {operation} it: ask the process that created it")]
    NotOwner {
        /// What was asked for.
        operation: &'static str,
    },
    /// A range that ends beyond the segment, or before it begins. Ask for less; the length is fixed.
    #[error(
        "bytes {start}..{end} are no range within the segment's {length}: the length is fixed, ask for less"
    )]
    OutOfBounds {
        /// First byte.
        start: u64,
        /// First byte after the range.
        end: u64,
        /// What the segment has.
        length: u64,
    },
    /// Signals kept interrupting the kernel while it found memory. Try again, or let the signals (a profiler,
    /// a timer) come less often.
    #[error(
        "{attempts} signals in a row interrupted the reservation of memory: try again, or signal this process less often"
    )]
    Interrupted {
        /// How many interruptions there were without any progress.
        attempts: u32,
    },
    /// The segment belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The kernel, or the sandbox this process runs in, refuses a call. Allow it; kernel 5.10 or newer is
    /// needed.
    #[error("{call} was refused: allow it in this sandbox, and use Linux 5.10 or newer")]
    Refused {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl SegmentError {
    /// The error for a system call that has no meaning of its own here.
    pub(super) fn of(call: &'static str, errno: Errno, bytes: u64) -> Self {
        match errno {
            Errno::EMFILE => Self::OutOfDescriptors { limit: soft_limit(Resource::RLIMIT_NOFILE) },
            Errno::ENFILE => Self::OutOfDescriptorsEverywhere,
            Errno::ENOMEM if call == "mmap" => Self::OutOfMappings { length: bytes },
            Errno::ENOMEM | Errno::ENOSPC => Self::OutOfMemory { needed: bytes, available: None },
            Errno::EFBIG => Self::FileSizeLimit { length: bytes, limit: soft_limit(Resource::RLIMIT_FSIZE) },
            _ => Self::Refused { call, source: errno.into() },
        }
    }
}

pub(super) fn soft_limit(resource: Resource) -> u64 {
    getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft)
}
