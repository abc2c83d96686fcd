//! Memory that both processes map and write.
//!
//! The peer opens the parent's descriptor through `/proc`, so nothing has to be inherited or passed.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rivals_course::failure::{Result, rival};

/// A mapping of both processes, zero at first, every page touched.
#[derive(Debug)]
pub(crate) struct Mapping {
    memory: MmapRaw,
    file: File,
}

impl Mapping {
    /// New memory. The parent does this.
    pub(crate) fn create(length: usize) -> Result<Mapping> {
        let file = File::from(memfd_create(c"rivals", MFdFlags::MFD_CLOEXEC).map_err(rival)?);
        file.set_len(length as u64)?;
        Mapping::map(file)
    }

    /// The parent's memory. The peer does this.
    pub(crate) fn open(offer: &str) -> Result<Mapping> {
        Mapping::map(OpenOptions::new().read(true).write(true).open(offer)?)
    }

    fn map(file: File) -> Result<Mapping> {
        let memory = MmapOptions::new().populate().map_raw(&file)?;
        Ok(Mapping { memory, file })
    }

    /// What the peer opens.
    pub(crate) fn offer(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The word at `offset`, which both processes treat as an atomic.
    #[inline(always)]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: in bounds and aligned by the assertion in `at` (mappings begin at a page); alive as long as
        // `self`, whose lifetime the reference has; every access to an offset used as a word is
        // atomic, in both processes.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// The low half of the word at `offset`: what a futex can wait for.
    #[inline(always)]
    pub(crate) fn half(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `word`; the processors that hivemind runs on allow atomics of both sizes in one
        // place.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    /// Where the word at `offset` lies.
    #[inline(always)]
    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.memory.len());
        // SAFETY: in bounds by the assertion.
        unsafe { self.memory.as_mut_ptr().add(offset) }
    }

    /// The bytes from `offset`, to be written.
    ///
    /// # Safety
    /// Until the slice is gone, nobody else touches these bytes: the index by which they are handed over says
    /// so.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn bytes_mut(&self, offset: usize, length: usize) -> &mut [u8] {
        assert!(offset + length <= self.memory.len());
        // SAFETY: in bounds by the assertion.
        let start = unsafe { self.memory.as_mut_ptr().add(offset) };
        // SAFETY: in bounds by the assertion; initialised, since the kernel gives zeroed memory; exclusive by
        // the caller's promise; alive as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    /// The bytes from `offset`, to be read.
    ///
    /// # Safety
    /// Until the slice is gone, nobody writes these bytes.
    #[inline(always)]
    pub(crate) unsafe fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        // SAFETY: the caller promises more than is asked for: nobody writes, and this function hands out
        // shared.
        unsafe { self.bytes_mut(offset, length) }
    }
}
