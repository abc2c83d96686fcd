//! Which system calls can fail for want of something, and how; and which are let through, and why.
//!
//! A call that is in neither list fails the run by name: somebody has to say what it is.

use nix::errno::Errno;
use nix::libc;

/// A system call that a thread of the victim is about to make.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// What its first argument leads to, if that is a descriptor.
    pub target: &'a str,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not made, and this is its result.
    Errno(Errno),
    /// It is made, but the kernel finds no numbers for the descriptors that come with the packet, as with
    /// `EMFILE`: they are gone, and the flag `MSG_CTRUNC` says so.
    DescriptorsLost,
}

/// Whether a fault is one that lasts in life: no descriptors, no threads, a call that a sandbox forbids, a
/// full store.
pub fn lasts(fault: Fault) -> bool {
    use Errno::{EINVAL, EMFILE, ENFILE, ENOSPC, ENOSYS, EPERM};
    matches!(fault, Fault::Errno(EMFILE | ENFILE | EPERM | ENOSYS | ENOSPC | EINVAL) | Fault::DescriptorsLost)
}

/// What is to be done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It can fail in these ways. The first list is what one would expect of a machine that runs out of
    /// something.
    Fails(&'static str, &'static [Fault]),
    /// It is let through.
    Through(&'static str, &'static str),
}

macro_rules! faults {
    ($($name:ident),+ $(,)?) => { &[$(Fault::Errno(Errno::$name)),+] };
}

const DESCRIPTOR: &[Fault] = faults!(EMFILE, ENFILE, ENOMEM);
const FUTEX_COMMANDS: u64 = 0x7f;

/// Judges a call. `None`: nobody has said what this call is.
pub fn judge(call: &Call<'_>) -> Option<Kind> {
    fails(call).or_else(|| through(call))
}

fn fails(call: &Call<'_>) -> Option<Kind> {
    let shared = call.arguments[3] & libc::MAP_SHARED as u64 != 0;
    let name_and_faults: (&'static str, &'static [Fault]) = match call.number {
        libc::SYS_memfd_create => ("memfd_create", faults!(ENOMEM, EMFILE, ENFILE, EINVAL, ENOSYS, EPERM)),
        libc::SYS_ftruncate => ("ftruncate", faults!(ENOSPC, ENOMEM)),
        libc::SYS_fallocate => ("fallocate", faults!(ENOSPC, ENOMEM, EINTR, EOPNOTSUPP)),
        libc::SYS_mmap if shared => ("mmap shared", faults!(ENOMEM, EPERM)),
        libc::SYS_mmap => ("mmap private", faults!(ENOMEM)),
        libc::SYS_mremap => ("mremap", faults!(ENOMEM)),
        libc::SYS_mprotect => ("mprotect", faults!(ENOMEM)),
        libc::SYS_madvise => ("madvise", faults!(ENOMEM, EINVAL, EAGAIN)),
        libc::SYS_clone | libc::SYS_clone3 => ("clone", faults!(EAGAIN, ENOMEM)),
        libc::SYS_membarrier => ("membarrier", faults!(ENOMEM, EPERM, ENOSYS)),
        libc::SYS_socket => ("socket", faults!(EMFILE, ENFILE, ENOMEM, ENOBUFS)),
        libc::SYS_socketpair => ("socketpair", DESCRIPTOR),
        libc::SYS_connect => ("connect", faults!(EAGAIN, ENOMEM, EINTR)),
        libc::SYS_bind => ("bind", faults!(ENOSPC, ENOMEM)),
        libc::SYS_listen => ("listen", faults!(ENOMEM)),
        libc::SYS_accept4 => ("accept4", faults!(EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED)),
        libc::SYS_epoll_create1 => ("epoll_create1", DESCRIPTOR),
        libc::SYS_eventfd2 => ("eventfd2", DESCRIPTOR),
        libc::SYS_timerfd_create => ("timerfd_create", DESCRIPTOR),
        libc::SYS_inotify_init1 => ("inotify_init1", DESCRIPTOR),
        libc::SYS_inotify_add_watch => ("inotify_add_watch", faults!(ENOSPC, ENOMEM)),
        libc::SYS_pidfd_open => ("pidfd_open", DESCRIPTOR),
        libc::SYS_openat => ("openat", faults!(EMFILE, ENFILE, ENOMEM, ENOSPC)),
        libc::SYS_epoll_ctl if call.arguments[1] != libc::EPOLL_CTL_DEL as u64 => {
            ("epoll_ctl", faults!(ENOMEM, ENOSPC))
        }
        libc::SYS_getsockopt if call.arguments[2] == SO_PEERPIDFD => ("getsockopt(PEERPIDFD)", DESCRIPTOR),
        libc::SYS_getsockopt if call.arguments[2] == SO_PEERGROUPS => {
            ("getsockopt(PEERGROUPS)", faults!(ENOMEM))
        }
        libc::SYS_sendmsg => ("sendmsg", faults!(ENOBUFS, ENOMEM, EAGAIN, EINTR, ETOOMANYREFS)),
        libc::SYS_sendto => ("sendto", faults!(ENOBUFS, ENOMEM, EAGAIN, EINTR)),
        libc::SYS_recvmsg => {
            ("recvmsg", &[Fault::DescriptorsLost, Fault::Errno(Errno::ENOMEM), Fault::Errno(Errno::EINTR)])
        }
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => ("epoll_wait", faults!(EINTR)),
        libc::SYS_poll | libc::SYS_ppoll => ("poll", faults!(EINTR, ENOMEM)),
        libc::SYS_futex if waits(call.arguments[1]) => ("futex wait", faults!(EINTR)),
        libc::SYS_futex_waitv => ("futex_waitv", faults!(ENOSYS, EPERM, EINTR, ENOMEM)),
        libc::SYS_fcntl => match call.arguments[1] as i32 {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => ("fcntl(DUPFD)", faults!(EMFILE)),
            libc::F_ADD_SEALS => ("fcntl(ADD_SEALS)", faults!(EPERM)),
            libc::F_OFD_SETLK | libc::F_OFD_SETLKW | libc::F_SETLK => {
                ("fcntl(SETLK)", faults!(ENOLCK, ENOMEM))
            }
            _ => return None,
        },
        libc::SYS_flock => ("flock", faults!(ENOLCK, EINTR)),
        libc::SYS_mkdir | libc::SYS_mkdirat => ("mkdir", faults!(ENOSPC, ENOMEM)),
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => ("rename", faults!(ENOSPC, ENOMEM)),
        libc::SYS_unlink | libc::SYS_unlinkat => ("unlink", faults!(ENOMEM)),
        libc::SYS_chmod | libc::SYS_fchmod | libc::SYS_fchmodat => ("chmod", faults!(ENOMEM)),
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev
            if call.target.starts_with('/') && !is_ours(call) =>
        {
            ("write to a file", faults!(ENOSPC, EINTR))
        }
        libc::SYS_read | libc::SYS_pread64 if call.target.starts_with('/') => {
            ("read of a file", faults!(ENOMEM, EINTR))
        }
        libc::SYS_process_vm_readv => ("process_vm_readv", faults!(EPERM, ENOSYS, ENOMEM)),
        libc::SYS_getdents64 => ("getdents64", faults!(ENOMEM)),
        libc::SYS_statx | libc::SYS_stat | libc::SYS_lstat | libc::SYS_newfstatat if !is_fstat(call) => {
            ("stat of a path", faults!(ENOMEM))
        }
        libc::SYS_readlink | libc::SYS_readlinkat => ("readlink", faults!(ENOMEM)),
        _ => return None,
    };
    Some(Kind::Fails(name_and_faults.0, name_and_faults.1))
}

/// Calls that do not fail for want of anything. The reasons are printed with `--through`.
fn through(call: &Call<'_>) -> Option<Kind> {
    let (name, why) = match call.number {
        libc::SYS_exit | libc::SYS_exit_group => ("exit", "it does not return"),
        libc::SYS_close => ("close", "it closes also when it reports an error; it needs nothing"),
        libc::SYS_munmap => ("munmap", "it needs nothing for the whole mappings that we undo"),
        libc::SYS_brk => {
            ("brk", "malloc falls back on mmap, which is injected; a wrong answer would corrupt it")
        }
        libc::SYS_futex => ("futex wake", "it needs nothing"),
        libc::SYS_rt_sigprocmask
        | libc::SYS_rt_sigaction
        | libc::SYS_sigaltstack
        | libc::SYS_rt_sigreturn => ("signals", "they only change this process's own tables"),
        libc::SYS_restart_syscall => ("restart_syscall", "the kernel goes on with an interrupted wait"),
        libc::SYS_sched_yield | libc::SYS_nanosleep | libc::SYS_clock_nanosleep => {
            ("pauses", "they need nothing; who is woken early looks again")
        }
        libc::SYS_getpid
        | libc::SYS_gettid
        | libc::SYS_getppid
        | libc::SYS_geteuid
        | libc::SYS_getuid
        | libc::SYS_getgid
        | libc::SYS_getegid => ("who am I", "it needs nothing"),
        libc::SYS_clock_gettime
        | libc::SYS_sched_getaffinity
        | libc::SYS_getrlimit
        | libc::SYS_prlimit64
        | libc::SYS_sysinfo
        | libc::SYS_uname
        | libc::SYS_getgroups => ("what is", "it only copies out what the kernel has"),
        libc::SYS_prctl => ("prctl", "names of threads; its failure is looked at by nobody"),
        libc::SYS_set_robust_list | libc::SYS_rseq | libc::SYS_arch_prctl | libc::SYS_set_tid_address => {
            ("threads", "they register an address of a new thread")
        }
        libc::SYS_getrandom => ("getrandom", "it needs nothing once the machine has booted"),
        libc::SYS_getsockname | libc::SYS_getpeername | libc::SYS_getsockopt | libc::SYS_setsockopt => {
            ("about sockets", "they only copy; the options that make descriptors are injected")
        }
        libc::SYS_shutdown => ("shutdown", "it needs nothing"),
        libc::SYS_epoll_ctl => ("epoll_ctl(DEL)", "it only gives back"),
        libc::SYS_timerfd_settime | libc::SYS_timerfd_gettime => {
            ("timerfd_settime", "the timer is there; it needs nothing")
        }
        libc::SYS_inotify_rm_watch => ("inotify_rm_watch", "it only gives back"),
        libc::SYS_fcntl => ("fcntl", "flags and seals are only looked at"),
        libc::SYS_fstat
        | libc::SYS_fstatfs
        | libc::SYS_statx
        | libc::SYS_newfstatat
        | libc::SYS_lseek
        | libc::SYS_ioctl
        | libc::SYS_fsync
        | libc::SYS_umask => ("about descriptors", "they look at what is open already"),
        libc::SYS_read | libc::SYS_pread64 => {
            ("read", "an eventfd, a timer or an inotify only copies out; orders come by a pipe")
        }
        libc::SYS_write | libc::SYS_writev => ("write", "an eventfd only counts; answers go by a pipe"),
        libc::SYS_pidfd_send_signal | libc::SYS_kill | libc::SYS_tgkill => {
            ("signals sent", "not on these paths but to abort")
        }
        _ => return None,
    };
    Some(Kind::Through(name, why))
}

/// Not in `libc` for all targets.
const SO_PEERPIDFD: u64 = 77;
const SO_PEERGROUPS: u64 = 59;

fn waits(command: u64) -> bool {
    matches!((command & FUTEX_COMMANDS) as i32, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET)
}

/// Of the test itself: what the victim answers, and what it says of itself.
fn is_ours(call: &Call<'_>) -> bool {
    call.arguments[0] == 1 || call.arguments[0] == 2
}

/// `fstat` in the form of the newer calls: the path is empty.
fn is_fstat(call: &Call<'_>) -> bool {
    let flags = match call.number {
        libc::SYS_newfstatat => call.arguments[3],
        libc::SYS_statx => call.arguments[2],
        _ => 0,
    };
    flags & libc::AT_EMPTY_PATH as u64 != 0
}
