//! What is left of a publisher that has gone: which of its messages are readable, and how its ring is kept for those who come later.
//!
//! ```text
//!   sequence    … end - capacity   …   end - n  …  end - 1 │ end
//!   its slot       busy, if the          whole, in slot    │ never committed: busy, or still end - capacity
//!                  publisher died        or chunk          │
//!                  while it wrote `end`                    │
//! ```
//!
//! A publisher that retains n messages (`retained` in the header, at most `capacity - 1`) can die at any instruction, and the last n that it
//! committed are whole:
//!
//! - What was committed is told by the stamps. `head` is stored after the stamp of a message, so `end` is `head`, or one more
//!   when the slot at `head` holds that very message.
//! - While it writes message `end`, the slot of `end - capacity` is busy, which is before the last n.
//! - It gives up none of the last n for want of memory (`Writer::allocate`). A chunk whose slot was overwritten is written again
//!   only behind the fence of `Writer::reclaim`, so nothing that is written there is older than the stamp that tells of it.
//!
//! A reader that has no seat at the publisher's desk may read only when nobody writes any more: [`closed`] (edge *close*), or the kernel's
//! word that the process has gone, which comes after its last instruction. Then there is nothing to pin against: memory of a ring is never
//! used for anything else.
//!
//! Every word is a stranger's: a lie about `head` or `tail` moves where a reader begins, within bounds, and its own checks do the rest.
use crate::layout::{KIND_BUSY, SEQUENCE_MAX};
use crate::memory::RingMemory;
use crate::sync::{Ordering, strong};

/// Whether the publisher has ended in order: it has committed its last message, and writes nothing any more.
pub fn closed(ring: &impl RingMemory) -> bool {
    // edge close. Acquire: the last commit comes before it.
    ring.header().closed.load(strong!("close: late reader looks", Acquire)) != 0
}

/// Where a reader begins that comes when the publisher has gone: so many before the end as the publisher retains, fewer if it
/// committed fewer. To be asked when nobody writes the ring any more.
pub fn first(ring: &impl RingMemory) -> u64 {
    let header = ring.header();
    let slots = ring.slots();
    // Relaxed, all: nobody writes any more, and the caller has learned so by the edge close, or from the kernel.
    let head = header.head.load(Ordering::Relaxed).min(SEQUENCE_MAX);
    let stamp = slots[(head & (slots.len() as u64 - 1)) as usize].stamp.load(Ordering::Relaxed);
    let end = head + u64::from(is_committed(stamp, head));
    let retained = header.retained.load(Ordering::Relaxed).min(slots.len() as u64 - 1);
    // What was withdrawn for want of memory comes before the last `retained`.
    let tail = header.tail.load(Ordering::Relaxed).min(end);
    end.saturating_sub(retained).max(tail).min(SEQUENCE_MAX)
}

/// Whether the stamp is that of message `sequence`, committed.
fn is_committed(stamp: u64, sequence: u64) -> bool {
    stamp >> 8 == sequence + 1 && stamp & 0xFF != KIND_BUSY
}

#[cfg(not(loom))]
pub use kept::KeptRing;

#[cfg(not(loom))]
mod kept {
    use super::is_committed;
    use crate::layout::{RingHeader, SLOTS_OFFSET, Slot};
    use crate::segment::{SegmentError, Sharing, check_seals, duplicate};
    use nix::sys::uio::pread;
    use std::mem::offset_of;
    use std::os::fd::OwnedFd;

    /// A ring that is kept for others: a descriptor, sealed against everybody who would write. It is not mapped, and its messages are
    /// not looked at.
    #[derive(Debug)]
    pub struct KeptRing {
        descriptor: OwnedFd,
    }

    impl KeptRing {
        /// Keeps what a stranger sent, if it is shared memory that only its publisher writes.
        ///
        /// # Errors
        /// [`SegmentError`]: what it is instead.
        pub fn new(descriptor: OwnedFd) -> Result<Self, SegmentError> {
            check_seals(&descriptor, Sharing::SingleWriter)?;
            Ok(KeptRing { descriptor })
        }

        /// Another descriptor of it, to be handed on.
        ///
        /// # Errors
        /// [`SegmentError`]: this process is out of descriptors, mostly.
        pub fn descriptor(&self) -> Result<OwnedFd, SegmentError> {
            duplicate(&self.descriptor)
        }

        /// Whether its publisher has committed nothing, as far as its memory says. Memory that cannot be read holds nothing.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.word(offset_of!(RingHeader, head) as u64) == 0
                && !is_committed(self.word(SLOTS_OFFSET + offset_of!(Slot, stamp) as u64), 0)
        }

        fn word(&self, offset: u64) -> u64 {
            let mut bytes = [0; 8];
            // Fits: an offset within the header or the first slot. Short or failed: zeros.
            let _read = pread(&self.descriptor, &mut bytes, offset as i64);
            u64::from_le_bytes(bytes)
        }
    }
}
