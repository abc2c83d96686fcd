//! A ring that a node keeps for others: a descriptor, of which a few words are read with a system call.

use crate::fork::Descriptor;
use crate::layout::{LINE_BYTES, RING_CONSTANTS, RingConstants, RingHeader, SLOTS_OFFSET, Slot};
use crate::retained::{closed_by, range};
use crate::segment::{SegmentError, Sharing, check_seals, duplicate};
use nix::sys::uio::pread;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::OwnedFd;

/// A ring that is kept for others: a descriptor, sealed against everybody who would write. It is not mapped,
/// and its messages are not looked at.
#[derive(Debug)]
pub struct KeptRing {
    descriptor: Descriptor,
}

impl KeptRing {
    /// Keeps what a stranger sent, if it is shared memory that only its publisher writes.
    ///
    /// # Errors
    /// [`SegmentError`]: what it is instead.
    pub fn new(descriptor: OwnedFd) -> Result<Self, SegmentError> {
        check_seals(&descriptor, Sharing::SingleWriter)?;
        Ok(KeptRing { descriptor: Descriptor::new(descriptor) })
    }

    /// Another descriptor of it, to be handed on.
    ///
    /// # Errors
    /// [`SegmentError`]: this process is out of descriptors, mostly; or it was forked from the one that keeps
    /// the ring.
    pub fn descriptor(&self) -> Result<OwnedFd, SegmentError> {
        duplicate(self.descriptor.get()?)
    }

    /// Whether its publisher has ended in order, as [`crate::retained::closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        closed_by(|| self.word(offset_of!(RingHeader, closed) as u64))
    }

    /// The messages that are readable, as [`crate::retained::first`] finds them; to be asked when nobody
    /// writes any more. None in memory that cannot be read or is no ring.
    #[must_use]
    pub fn messages(&self) -> Range<u64> {
        // Its length says nothing here: no chunk is looked at.
        let words: [u64; RING_CONSTANTS] = std::array::from_fn(|word| self.word(word as u64 * 8));
        let Ok(constants) = RingConstants::check(words, u64::MAX) else { return 0..0 };
        let [head, tail] =
            [offset_of!(RingHeader, head), offset_of!(RingHeader, tail)].map(|word| self.word(word as u64));
        let stamp = |slot: u64| self.word(SLOTS_OFFSET + slot * LINE_BYTES + offset_of!(Slot, stamp) as u64);
        range([head, tail, constants.retained], constants.capacity, stamp)
    }

    fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        // Fits: an offset within the header or the first slot. Short or failed: zeros.
        let _read = self.descriptor.get().map(|descriptor| pread(descriptor, &mut bytes, offset as i64));
        u64::from_le_bytes(bytes)
    }
}
