//! A peer's memory object before it is mapped, or instead.
//!
//! ```text
//!   pages of a stranger's object     | written | written | reserved | hole ............. | written |
//!   a touch through a mapping          reads     reads     reads      takes memory, here    reads
//!   `read_at` (pread)                  reads     reads     zeros      zeros                 reads
//!   `written`: up to here              ───────────────────▶
//!   `backed` (st_blocks)               four pages
//! ```
//!
//! Touching a hole through a mapping creates a page, at the toucher's cost: the owner of a long sparse object
//! could fill the memory of every process that maps it, and where the system promises no more memory than it
//! has, the touch is a SIGBUS. Reading with a system call takes nothing.
//!
//! What is told here stays true for a [`Sharing::SingleWriter`], as its seals keep everybody, its owner
//! included, from punching holes (`fallocate`, `MADV_REMOVE`) and from cutting it off. A doorbell may be
//! punched at any time; nothing here is asked about one. An object with a name has no seals, but belongs to
//! this user.
//!
//! The kernel looks for data and holes at the place where the descriptor stands, which it moves. The peer has
//! the same descriptor; nobody reads or writes at that place.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek};

use super::{Hold, LengthBounds, Object, Segment, SegmentError, Sharing, map_peers, page_size};

/// Bytes of a block in which the kernel counts the memory of an object, whatever the size of its pages.
const BLOCK_BYTES: u64 = 512;

/// A peer's memory object that was checked, and is not mapped.
#[derive(Debug)]
pub struct Found {
    descriptor: OwnedFd,
    length: u64,
    maker: u32,
    object: Object,
    sharing: Sharing,
}

impl Found {
    /// Checks the length. The seals were looked at before: from then on it cannot fall.
    pub(super) fn new(
        descriptor: OwnedFd,
        sharing: Sharing,
        bounds: LengthBounds,
    ) -> Result<Self, SegmentError> {
        let status = status_of(&descriptor)?;
        let length = u64::try_from(status.st_size).unwrap_or(0);
        bounds.check(length)?;
        let object = Object::of(&status);
        Ok(Self { descriptor, length, maker: status.st_uid, object, sharing })
    }

    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// The user who made it, as the kernel says.
    #[must_use]
    pub fn maker(&self) -> u32 {
        self.maker
    }

    /// Which object it is: two descriptors of the same one say the same, for as long as one of them is open
    /// or it is mapped.
    pub(crate) fn object(&self) -> Object {
        self.object
    }

    /// Fills `bytes` with what lies at `offset`, without giving memory to holes.
    ///
    /// # Errors
    ///
    /// [`SegmentError::WrongAccess`] when it may not be read, [`SegmentError::WrongLength`] when it ends
    /// before, [`SegmentError::Refused`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), SegmentError> {
        let mut done = 0;
        while done < bytes.len() {
            // Fits: an offset beyond all lengths is refused by the kernel.
            match pread(&self.descriptor, &mut bytes[done..], (offset + done as u64) as i64) {
                Ok(0) => {
                    let min = offset + bytes.len() as u64;
                    return Err(SegmentError::WrongLength { length: self.length, min, max: u64::MAX });
                }
                Ok(more) => done += more,
                Err(Errno::EINTR) => {}
                Err(Errno::EBADF) => return Err(SegmentError::WrongAccess { wanted: "to read" }),
                Err(errno) => return Err(SegmentError::of("pread", errno, bytes.len() as u64)),
            }
        }
        Ok(())
    }

    /// Up to which byte every page has been written, from the page of `from` on and no further than `limit`:
    /// touching those takes no memory, now and later. Some 0.3 us for each page.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Refused`].
    pub fn written(&self, from: u64, limit: u64) -> Result<u64, SegmentError> {
        let page = page_size();
        let limit = limit.min(self.length);
        let mut end = from / page * page;
        while end < limit {
            // To look for the next hole instead would be one call, which goes on to the end of all that was
            // written. Fits: see `len`.
            match lseek(&self.descriptor, end as i64, Whence::SeekData) {
                Ok(found) if found as u64 == end => end += page,
                Ok(_) | Err(Errno::ENXIO) => break,
                Err(errno) => return Err(SegmentError::of("lseek(SEEK_DATA)", errno, 0)),
            }
        }
        Ok(end.min(limit))
    }

    /// Maps the first `bytes`, at most its length: to read, or to read and write if it is a doorbell.
    ///
    /// # Errors
    ///
    /// [`SegmentError::WrongAccess`], [`SegmentError::OutOfMappings`], [`SegmentError::Refused`].
    pub fn map(&self, bytes: u64) -> Result<Segment, SegmentError> {
        let writable = self.sharing == Sharing::Doorbell;
        let map = map_peers(self.descriptor.as_fd(), bytes.min(self.length), writable)?;
        Ok(Segment::new(Hold::Peer { map, writable, maker: self.maker, object: self.object }))
    }

    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }
}

fn status_of(descriptor: &OwnedFd) -> Result<FileStat, SegmentError> {
    fstat(descriptor).map_err(|errno| SegmentError::of("fstat", errno, 0))
}

/// How many bytes of an object have memory, written or only reserved, wherever in it. One of a
/// [`Sharing::SingleWriter`] never has less.
pub(crate) fn backed(descriptor: &OwnedFd) -> Result<u64, SegmentError> {
    Ok(u64::try_from(status_of(descriptor)?.st_blocks).unwrap_or(0) * BLOCK_BYTES)
}
