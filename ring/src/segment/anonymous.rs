//! Segments without a name: memfds, sealed so that the kernel enforces who writes.
//!
//! The order is what makes it safe: the owner maps its object to write, *then* seals it. From there on
//! nobody, the owner included, gets another writable mapping, changes its length or takes the seals off.
//!
//! | seal           | on            | without it a stranger could                                    |
//! | -------------- | ------------- | -------------------------------------------------------------- |
//! | `SHRINK`       | all           | cut the memory off under a reader: SIGBUS                      |
//! | `GROW`         | all           | fill the machine's memory through our object                   |
//! | `FUTURE_WRITE` | single writer | map it to write, `write` to it, punch holes into it            |
//! | `SEAL`         | all           | add a seal under the owner                                     |
//! | `EXEC`         | all, from 6.3 | make it executable (comes with `MFD_NOEXEC_SEAL`)              |
//!
//! `find` looks for the seals *it* relies on, `SHRINK` and `FUTURE_WRITE` (or the stronger `WRITE`); seals
//! are never taken off, so looking once is enough. Nothing has a name: when the last descriptor and the last
//! mapping are gone, however their holders died, the kernel frees the memory.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc::MFD_NOEXEC_SEAL;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use super::huge::Aligned;
use super::{Backend, Found, Handle, Hold, LengthBounds, Segment, SegmentError, Sharing, map, whole_pages};

/// Memory without a name, passed on as a descriptor: the backend to use wherever descriptors can be passed.
///
/// ```
/// use hivemind_ring::segment::{Anonymous, Backend, LengthBounds, Sharing};
///
/// let segment = Anonymous.create("example", 5000, Sharing::SingleWriter)?;
/// let handle = segment.handle()?; // to be sent to a peer, which does:
/// let bounds = LengthBounds { min: 5000, max: 5000 };
/// let mapped = Anonymous.open(handle, Sharing::SingleWriter, bounds)?;
/// assert!(segment.writable() && !mapped.writable());
/// assert_eq!(mapped.len(), segment.len());
/// # Ok::<(), hivemind_ring::segment::SegmentError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl super::Sealed for Anonymous {}

impl Backend for Anonymous {
    fn create(&self, label: &str, length: u64, sharing: Sharing) -> Result<Segment, SegmentError> {
        let (descriptor, length) = new_object(label, length)?;
        let map = map(descriptor.as_fd(), length, true)?;
        seal(&descriptor, sharing)?;
        Ok(Segment::new(Hold::Owner { map, descriptor: Some(descriptor) }))
    }

    fn create_aligned(&self, label: &str, length: u64, sharing: Sharing) -> Result<Segment, SegmentError> {
        let (descriptor, length) = new_object(label, length)?;
        let map = Aligned::map(descriptor.as_fd(), length)?;
        seal(&descriptor, sharing)?;
        Ok(Segment::new(Hold::AlignedOwner { map, descriptor: Some(descriptor) }))
    }

    fn find(&self, handle: Handle, sharing: Sharing, bounds: LengthBounds) -> Result<Found, SegmentError> {
        let Handle::Descriptor(descriptor) = handle else {
            return Err(SegmentError::WrongHandle { expected: "descriptor", found: "name" });
        };
        check_seals(&descriptor, sharing)?;
        Found::new(descriptor, sharing, bounds)
    }
}

/// A memory object of this length in whole pages, not sealed yet.
fn new_object(label: &str, length: u64) -> Result<(OwnedFd, u64), SegmentError> {
    let length = whole_pages(length)?;
    let descriptor = new_memfd(label, length)?;
    // The cast fits: whole_pages bounds the length.
    ftruncate(&descriptor, length as i64).map_err(|e| SegmentError::of("ftruncate", e, length))?;
    Ok((descriptor, length))
}

/// After this nobody gets another mapping to write that `sharing` does not allow.
fn seal(descriptor: &OwnedFd, sharing: Sharing) -> Result<(), SegmentError> {
    fcntl(descriptor, FcntlArg::F_ADD_SEALS(seals_for(sharing)))
        .map(drop)
        .map_err(|errno| SegmentError::of("fcntl(F_ADD_SEALS)", errno, 0))
}

/// An empty memory object. `length` is for the error only.
fn new_memfd(label: &str, length: u64) -> Result<OwnedFd, SegmentError> {
    /// The kernel allows 249 bytes.
    const LONGEST_LABEL: usize = 200;
    let readable = label.chars().filter(char::is_ascii_graphic);
    let label: String = readable.take(LONGEST_LABEL).collect();

    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(label.as_str(), flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        // Kernels before 6.3 do not know the flag; there is nothing to lose then.
        Err(Errno::EINVAL) => memfd_create(label.as_str(), flags),
        result => result,
    }
    .map_err(|errno| SegmentError::of("memfd_create", errno, length))
}

fn seals_for(sharing: Sharing) -> SealFlag {
    let all = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    match sharing {
        Sharing::SingleWriter => all | SealFlag::F_SEAL_FUTURE_WRITE,
        Sharing::Doorbell => all,
    }
}

/// Whether a stranger's descriptor is ordinary shared memory with the seals that `sharing` needs.
pub(crate) fn check_seals(descriptor: &OwnedFd, sharing: Sharing) -> Result<(), SegmentError> {
    let seals = match fcntl(descriptor, FcntlArg::F_GET_SEALS) {
        Ok(bits) => SealFlag::from_bits_retain(bits),
        // EINVAL: no object that can have seals. EBADF: opened as a mere path.
        Err(Errno::EINVAL | Errno::EBADF) => return Err(SegmentError::NotMemory),
        Err(errno) => return Err(SegmentError::of("fcntl(F_GET_SEALS)", errno, 0)),
    };
    // A memfd of huge pages has seals, too, but even reading a hole in one can end in a SIGBUS.
    let store = fstatfs(descriptor).map_err(|errno| SegmentError::of("fstatfs", errno, 0))?;
    if store.filesystem_type() != TMPFS_MAGIC {
        return Err(SegmentError::NotMemory);
    }
    let frozen = seals.intersects(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_FUTURE_WRITE);
    let missing = if !seals.contains(SealFlag::F_SEAL_SHRINK) {
        "SHRINK"
    } else if sharing == Sharing::SingleWriter && !frozen {
        "FUTURE_WRITE"
    } else if sharing == Sharing::Doorbell && frozen {
        return Err(SegmentError::WrongAccess { wanted: "to read and write" });
    } else {
        return Ok(());
    };
    Err(SegmentError::WrongSeals { missing, found: format!("{seals:?}") })
}

#[cfg(test)]
mod tests {
    use super::super::map_peers;
    use super::*;
    use std::os::fd::AsRawFd;

    /// A sandbox that forbids mmap made the owner hear "the peer's descriptor may not be mapped: do not use
    /// this peer", though no peer was near. What cannot be mapped to write here is a descriptor that was
    /// opened to read.
    #[test]
    fn an_owner_who_may_not_map_its_own_memory_is_not_told_of_a_peer() {
        let (descriptor, length) = new_object("refused", 4096).unwrap();
        let to_read = std::fs::File::open(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap();
        let ours = map(to_read.as_fd(), length, true).unwrap_err();
        assert!(matches!(ours, SegmentError::Refused { call: "mmap", .. }), "{ours:?}");
        let theirs = map_peers(to_read.as_fd(), length, true).unwrap_err();
        assert!(matches!(theirs, SegmentError::WrongAccess { .. }), "{theirs:?}");
    }
}
