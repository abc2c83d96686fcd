//! Huge pages for a segment: one entry of the page tables, and of the processor's cache of them, for 2 MiB.
//!
//! ```text
//!   address space    |.....|<- 2 MiB ->|<- 2 MiB ->|...      the mapping begins at a multiple of 2 MiB (`Aligned`),
//!   memory object          |0          |2 MiB      |         so that both sides of an entry have the same place
//! ```
//!
//! The pages of a memfd can become huge in two ways: the administrator lets all shared memory have them
//! (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`), or the owner asks for this range, once, when its
//! small pages are there (`MADV_COLLAPSE`, kernel 6.1, whatever that setting says unless it is `deny`). The
//! second is done here. It may fail for want of memory in one piece, and then those pages stay small: the
//! result says how much was obtained.
//!
//! Memfds of `MFD_HUGETLB` are not used: a hole in one may end in a SIGBUS for its readers, and the pool they
//! come from is empty unless an administrator filled it. `check_seals` refuses them.

use super::Prefaulted;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::SegmentError;

/// Bytes of a huge page where ordinary pages have 4 KiB (x86-64, and aarch64 with such pages).
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What came of asking for huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugePages {
    /// Bytes asked for, in whole huge pages.
    pub asked: u64,
    /// How many of them this process has mapped as huge pages now, as the kernel says (`ShmemPmdMapped`).
    pub obtained: u64,
    /// How the memory was mapped ahead for that, whatever the size of its pages; `None` for a segment that
    /// can have none.
    pub prefaulted: Option<Prefaulted>,
}

/// A mapping to read and write that begins at a multiple of [`HUGE_PAGE_BYTES`]; unmapped when dropped, not
/// inherited by a forked child.
pub(super) struct Aligned {
    base: NonNull<u8>,
    length: usize,
}

impl Aligned {
    /// Maps `length` bytes of an object.
    pub(super) fn map(descriptor: BorrowedFd<'_>, length: u64) -> Result<Aligned, SegmentError> {
        let failed = |errno| SegmentError::of("mmap", errno, length);
        let too_long = |_| SegmentError::OutOfMappings { length };
        let length = usize::try_from(length).map_err(too_long)?;
        let align = HUGE_PAGE_BYTES as usize;
        let room = length.checked_add(align).and_then(|room| room.try_into().ok());
        let (Some(room), Ok(exactly)) = (room, length.try_into()) else {
            return Err(SegmentError::BadLength { length: length as u64 });
        };
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at a place that the kernel chooses; nothing refers to it yet.
        let reserved = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, flags) }.map_err(failed)?;
        let before = reserved.addr().get().next_multiple_of(align) - reserved.addr().get();
        // SAFETY: in bounds: `before` is less than `align`, and `align + length` bytes were reserved.
        let base = unsafe { reserved.byte_add(before) };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
        // SAFETY: exclusive, in bounds: it replaces a part of the reservation just made, which nobody else
        // knows.
        let mapped = unsafe { mmap(Some(base.addr()), exactly, protection, flags, descriptor, 0) };
        let base = match mapped {
            Ok(mapped) => mapped,
            Err(errno) => {
                // SAFETY: the reservation, whole and unused.
                let _ = unsafe { munmap(reserved, room.get()) };
                return Err(failed(errno));
            }
        };
        let aligned = Aligned { base: base.cast(), length };
        // What is left of the reservation: `before + length + after` is `room`. If it cannot be given back,
        // it stays, unused.
        let after = align - before;
        if before > 0 {
            // SAFETY: exclusive, in bounds: the unused pages before what was mapped.
            let _ = unsafe { munmap(reserved, before) };
        }
        // The mapping itself ends at the end of a page.
        let end = length.next_multiple_of(super::page_size() as usize);
        if after > end - length {
            // SAFETY: in bounds of the reservation: `end - length` is less than a page, and `after` is more.
            let rest = unsafe { aligned.base.byte_add(end) };
            // SAFETY: exclusive, in bounds: the unused pages behind what was mapped.
            let _ = unsafe { munmap(rest.cast(), after - (end - length)) };
        }
        aligned.advise(0, length, libc::MADV_DONTFORK).map_err(|e| SegmentError::of("madvise", e, 0))?;
        Ok(aligned)
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Advises the kernel on a part of the mapping; none of the advices used here changes what is read.
    pub(super) fn advise(&self, start: usize, bytes: usize, advice: i32) -> Result<(), Errno> {
        assert!(start.checked_add(bytes).is_some_and(|end| end <= self.length), "within the mapping");
        // SAFETY: in bounds: the assertion.
        let start = unsafe { self.base.byte_add(start) };
        // SAFETY: alive and in bounds: the mapping belongs to self. DONTFORK, POPULATE_WRITE, HUGEPAGE and
        // COLLAPSE keep the content.
        let result = unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
        Errno::result(result).map(drop)
    }

    /// Makes the first `bytes`, whose pages are there, huge pages as far as the kernel can. Returns how many
    /// bytes are in some.
    pub(super) fn collapse(&self, bytes: u64) -> u64 {
        let asked = bytes
            .next_multiple_of(HUGE_PAGE_BYTES)
            .min(self.length as u64 / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
        // Each is a wish: what came of it is seen below. The first lets the kernel do it later, too.
        let _ = self.advise(0, asked as usize, libc::MADV_HUGEPAGE);
        for start in (0..asked).step_by(HUGE_PAGE_BYTES as usize) {
            let _ = self.advise(start as usize, HUGE_PAGE_BYTES as usize, libc::MADV_COLLAPSE);
        }
        self.huge().unwrap_or(0).min(asked)
    }

    /// Bytes of this mapping that are mapped as huge pages, if the kernel says.
    fn huge(&self) -> Option<u64> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let begin = format!("{:x}-", self.base.addr());
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begin)).skip(1);
        // The first such line belongs to this mapping: each has one.
        let line = lines.find_map(|line| line.strip_prefix("ShmemPmdMapped:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length and unmapped only here; every address was computed by a
        // holder of the segment that owns it.
        let _ = unsafe { munmap(self.base.cast(), self.length) };
    }
}
