//! The few system calls of the control path that no safe crate offers without losing descriptors.
//!
//! *Receiving*: a packet and the descriptors that came with it. Every descriptor the kernel installed is
//! owned before anything can fail, also when the kernel says that it had to drop some: a peer cannot make us
//! leak one. *Who is it*: the supplementary groups of the process at the other end of a socket; the user of
//! this process. *Liveness*: a pidfd for a process id, on kernels whose sockets cannot give one. *Forks*:
//! descriptors that a forked child must not keep open, because open they would claim that this process lives.
//!
//! If a process dies in here, the kernel closes what it held; nothing is shared.
use crate::fork::Home;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;

/// The most descriptors one packet can bring. A peer that sends more loses the surplus in the kernel.
pub const MAX_DESCRIPTORS: usize = 8;

/// The most descriptors of this process that [`keep_from_children`] looks after.
pub const MAX_KEPT: usize = 128;

/// Bytes of the control buffer: one header (16 bytes) and [`MAX_DESCRIPTORS`] numbers, in words of 8 bytes.
const CONTROL_WORDS: usize = 2 + MAX_DESCRIPTORS.div_ceil(2);

/// The (effective) user of this process, who owns the memory that it makes.
#[must_use]
pub fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// What [`receive`] found besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Bytes written to the start of the buffer. 0: the peer has closed (nobody sends empty packets).
    pub length: usize,
    /// The packet was longer than the buffer; the rest is gone.
    pub truncated: bool,
    /// The kernel dropped descriptors: this process is out of them, or the peer sent more than
    /// [`MAX_DESCRIPTORS`].
    pub descriptors_lost: bool,
}

/// Takes one packet from a non-blocking socket; its descriptors are appended to `descriptors`, close-on-exec.
///
/// # Errors
/// Those of `recvmsg`; `WouldBlock` when no packet waits.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is plain C data for which all zeroes is a valid value (null pointers, zero lengths).
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: `header` points to `slice` and `control`, both alive, exclusive to this call and of the lengths
    // given; `slice` points to `buffer`, exclusively borrowed and in bounds by its own length.
    let result = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT)
    };
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    take_descriptors(&header, descriptors);
    Ok(Received {
        length,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        descriptors_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Owns every descriptor in the control data of a `recvmsg` that has just succeeded.
fn take_descriptors(header: &libc::msghdr, descriptors: &mut Vec<OwnedFd>) {
    // SAFETY: `header` comes from a successful `recvmsg`, so its control fields are initialised and in
    // bounds.
    let mut entry = unsafe { libc::CMSG_FIRSTHDR(header) };
    // Bounded: the control buffer has room for at most CONTROL_WORDS / 2 headers of 16 bytes.
    for _ in 0..CONTROL_WORDS / 2 {
        if entry.is_null() {
            return;
        }
        // SAFETY: a non-null entry lies in bounds of the control buffer, whose words the kernel initialised,
        // and is aligned to 8 as the buffer and every step are.
        let found: libc::cmsghdr = unsafe { ptr::read(entry) };
        // SAFETY: CMSG_LEN only computes.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
            let count = found.cmsg_len.saturating_sub(head) / size_of::<RawFd>();
            // SAFETY: computes the address of the data behind the header, in bounds for `cmsg_len` bytes.
            let data = unsafe { libc::CMSG_DATA(entry) }.cast::<RawFd>();
            for index in 0..count.min(MAX_DESCRIPTORS) {
                // SAFETY: `index` < `count`, so the address is in bounds of this entry's data.
                let place = unsafe { data.add(index) };
                // SAFETY: in bounds (above), initialised by the kernel; read unaligned, so alignment does not
                // matter.
                let descriptor = unsafe { ptr::read_unaligned(place) };
                // SAFETY: the kernel has just installed this descriptor for us; nobody else knows its number,
                // so we are its exclusive owner. Each entry is visited once.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
        // SAFETY: `header` and `entry` are those of the successful `recvmsg`; the result is null or in
        // bounds.
        entry = unsafe { libc::CMSG_NXTHDR(header, entry) };
    }
}

/// The most groups a process can have (the kernel's `NGROUPS_MAX`).
pub const MAX_GROUPS: usize = 65_536;

/// The supplementary groups of the process at the other end, as they were when it connected (or listened).
///
/// # Errors
/// Those of `getsockopt`.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // Enough for nearly every user; for one with more groups the call is repeated, with as much room as can
    // be needed.
    for room in [64, MAX_GROUPS] {
        let mut groups: Vec<libc::gid_t> = vec![0; room];
        let mut bytes = size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: `groups` and `bytes` are alive, exclusive to this call and aligned; the kernel writes at
        // most `bytes` bytes, the length of `groups`, so it stays in bounds.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if result == 0 {
            groups.truncate(bytes as usize / size_of::<libc::gid_t>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ERANGE))
}

/// A descriptor that becomes readable when process `pid` is gone. The number may have been reused before the
/// call: prefer the pidfd that the kernel gives for a connected socket.
///
/// # Errors
/// Those of `pidfd_open`; `ESRCH` when there is no such process.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0 as libc::c_long) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us; we are its exclusive owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether two descriptors of this process lead to one open file, as copies of a descriptor do, also those
/// that came over a socket. `None`: the kernel does not say (it has no `kcmp`, or a sandbox refuses it).
#[must_use]
pub fn is_same_open_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Option<bool> {
    const KCMP_FILE: libc::c_long = 0;
    let process = libc::c_long::from(std::process::id().cast_signed());
    let number = |descriptor: BorrowedFd<'_>| libc::c_long::from(descriptor.as_raw_fd());
    // SAFETY: the call takes integers, compares, and touches no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_kcmp, process, process, KCMP_FILE, number(one), number(other)) };
    match result {
        0 => Some(true),
        1.. => Some(false),
        _ => None,
    }
}

/// A descriptor that children forked from now on close at once. Dropping this ends the arrangement (and
/// closes it here).
///
/// A lock or a listening socket that a forked child inherits outlives the process that used it, and makes the
/// dead look alive. (Close-on-exec does not help a child that never calls `exec`.)
#[derive(Debug)]
pub struct Kept<T> {
    place: Option<usize>,
    home: Home,
    owner: ManuallyDrop<T>,
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.owner
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !self.home.is_here() {
            // In a child the descriptor is closed, and its number and the place may be of another.
            return;
        }
        if let Some(place) = self.place {
            // Relaxed: the entry is a number on its own; `fork` copies whatever it is at that moment.
            KEPT[place].store(-1, Ordering::Relaxed);
        }
        // SAFETY: once, here; not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.owner) }
    }
}

static KEPT: [AtomicI32; MAX_KEPT] = [const { AtomicI32::new(-1) }; MAX_KEPT];
static REGISTER: Once = Once::new();

/// Makes children that this process forks close the descriptor of `owner` at once. When [`MAX_KEPT`] are
/// looked after already, it is handed back unprotected inside [`Kept`]; nothing else changes.
#[must_use]
pub fn keep_from_children<T: AsRawFd>(owner: T) -> Kept<T> {
    REGISTER.call_once(|| {
        // SAFETY: `close_kept` is a function of the required type that lives as long as the program. A
        // failure (out of memory) only means that children keep the descriptors.
        unsafe { libc::pthread_atfork(None, None, Some(close_kept)) };
    });
    let number = owner.as_raw_fd();
    // Relaxed: nothing else is published through the entry.
    let place = KEPT
        .iter()
        .position(|entry| entry.compare_exchange(-1, number, Ordering::Relaxed, Ordering::Relaxed).is_ok());
    Kept { place, home: Home::here(), owner: ManuallyDrop::new(owner) }
}

/// Runs in a forked child before `fork` returns there: only calls that are safe after a fork of a threaded
/// process.
extern "C" fn close_kept() {
    for entry in &KEPT {
        // Relaxed: the child has one thread, and its memory is a copy made at the fork.
        let number = entry.swap(-1, Ordering::Relaxed);
        if number >= 0 {
            // SAFETY: the number was open in the parent at the fork (its `Kept` removes the entry before it
            // closes), so this closes the child's copy. The child never uses it: the threads that would are
            // not in the child.
            unsafe { libc::close(number) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn pair() -> (OwnedFd, OwnedFd) {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two numbers the call writes.
        let result = unsafe {
            libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
        };
        assert_eq!(result, 0);
        // SAFETY: just made, exclusively ours.
        let first = unsafe { OwnedFd::from_raw_fd(ends[0]) };
        // SAFETY: just made, exclusively ours.
        (first, unsafe { OwnedFd::from_raw_fd(ends[1]) })
    }

    fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[RawFd]) {
        let mut control = vec![0u64; 2 + descriptors.len().div_ceil(2)];
        let slice = IoSlice::new(bytes);
        // SAFETY: all zeroes is valid for this plain C data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = (&raw const slice).cast_mut().cast();
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            header.msg_control = control.as_mut_ptr().cast();
            // SAFETY: only computes.
            header.msg_controllen = unsafe { libc::CMSG_LEN(size_of_val(descriptors) as u32) } as usize;
            control[0] = header.msg_controllen as u64;
            control[1] = (libc::SOL_SOCKET as u64) | ((libc::SCM_RIGHTS as u64) << 32);
            for (index, number) in descriptors.iter().enumerate() {
                control[2 + index / 2] |= u64::from(*number as u32) << (32 * (index % 2));
            }
        }
        // SAFETY: `header` points to `slice` and `control`, both alive.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) };
        assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn descriptors_arrive_owned_and_in_order() {
        let (here, there) = pair();
        let first = memfd_create(c"first", MFdFlags::empty()).unwrap();
        let second = memfd_create(c"second", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&second, 77).unwrap();
        send(&here, b"hello", &[first.as_raw_fd(), second.as_raw_fd()]);
        let (mut buffer, mut descriptors) = ([0u8; 16], Vec::new());
        let received = receive(there.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!(received, Received { length: 5, truncated: false, descriptors_lost: false });
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(descriptors.len(), 2);
        assert_eq!(std::fs::File::from(descriptors.remove(1)).metadata().unwrap().len(), 77);
    }

    #[test]
    fn a_peer_that_sends_too_many_descriptors_leaks_none() {
        let (here, there) = pair();
        let one = memfd_create(c"one", MFdFlags::empty()).unwrap();
        for _ in 0..200 {
            send(&here, b"x", &[one.as_raw_fd(); 40]);
            let (mut buffer, mut descriptors) = ([0u8; 16], Vec::new());
            let received = receive(there.as_fd(), &mut buffer, &mut descriptors).unwrap();
            assert!(received.descriptors_lost);
            assert_eq!(descriptors.len(), MAX_DESCRIPTORS);
        }
        // Other tests of this binary open a few of their own meanwhile; a leak would be 200 * 8 and more.
        assert!(open_descriptors() < 500);
    }

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (here, _there) = pair();
        let mut ours: Vec<u32> =
            nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        let mut theirs = peer_groups(here.as_fd()).unwrap();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        let file = memfd_create(c"no socket", MFdFlags::empty()).unwrap();
        assert_eq!(peer_groups(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn a_long_packet_is_marked_truncated() {
        let (here, there) = pair();
        send(&here, &[7; 100], &[]);
        let (mut buffer, mut descriptors) = ([0u8; 16], Vec::new());
        assert!(receive(there.as_fd(), &mut buffer, &mut descriptors).unwrap().truncated);
        assert!(buffer == [7; 16] && descriptors.is_empty());
    }

    #[test]
    fn a_pidfd_of_this_process_opens_and_one_of_nobody_does_not() {
        open_pidfd(std::process::id() as i32).unwrap();
        assert_eq!(open_pidfd(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    /// The child of the fork holds the pipe's writing end only if the arrangement failed: then the read would
    /// not end while the child lives. The child lives until the test closes the second pipe.
    #[test]
    fn a_forked_child_does_not_hold_a_kept_descriptor() {
        let (reading, writing) = nix::unistd::pipe().unwrap();
        let (stay, leave) = nix::unistd::pipe().unwrap();
        let kept = keep_from_children(writing);
        // SAFETY: the child only calls functions that are safe after a fork: close, read, _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the child's own copy; it does not use it.
            unsafe { libc::close(leave.as_raw_fd()) };
            let mut byte = 0u8;
            // SAFETY: `byte` has room for the one byte.
            unsafe { libc::read(stay.as_raw_fd(), (&raw mut byte).cast(), 1) };
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        drop(kept);
        let mut byte = [0u8];
        assert_eq!(nix::unistd::read(&reading, &mut byte).unwrap(), 0, "end of file while the child lives");
        drop(leave);
        let mut status = 0;
        // SAFETY: `status` is ours to write.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    }
}
