//! What is left of a publisher that has gone: which of its messages are readable, and how its ring is kept
//! for those who come later.
//!
//! ```text
//!   sequence    … end - capacity   …   end - n  …  end - 1 │ end
//!   its slot       busy, if the          whole, in slot    │ never committed: busy, or still end - capacity
//!                  publisher died        or chunk          │
//!                  while it wrote `end`                    │
//! ```
//!
//! A publisher that retains n messages (`retained` in the header, at most `capacity - 1`) can die at any
//! instruction, and the last n that it committed are whole:
//!
//! - What was committed is told by the stamps. `head` is stored after the stamp of a message, so `end` is
//!   `head`, or one more when the slot at `head` holds that very message.
//! - While it writes message `end`, the slot of `end - capacity` is busy, which is before the last n.
//! - It gives up none of the last n for want of memory (`Writer::allocate`). A chunk whose slot was
//!   overwritten is written again only behind the fence of `Writer::reclaim`, so nothing that is written
//!   there is older than the stamp that tells of it.
//!
//! A reader that has no seat at the publisher's desk may read only when nobody writes any more: [`closed`]
//! (edge *close*), or the kernel's word that the process has gone, which comes after its last instruction.
//! Then there is nothing to pin against: memory of a ring is never used for anything else.
//!
//! Every word is a stranger's: a lie about `head` or `tail` moves where a reader begins, within bounds, and
//! its own checks do the rest.
use crate::layout::{KIND_BUSY, SEQUENCE_MAX};
use crate::memory::RingMemory;
use crate::sync::{Ordering, fence, strong};
use std::ops::Range;

/// Whether the publisher has ended in order: it has committed its last message, and writes nothing any more.
pub fn closed(ring: &impl RingMemory) -> bool {
    // edge close. Acquire: the last commit comes before it.
    ring.header().closed.load(strong!("close: late reader looks", Acquire)) != 0
}

/// As [`closed`], where the kernel reads the word, in no order that could be named.
#[doc(hidden)]
pub fn closed_by(read: impl FnOnce() -> u64) -> bool {
    let closed = read() != 0;
    // edge close. Acquire: the last commit comes before the word.
    fence(strong!("close: kept ring looks", Acquire));
    closed
}

/// Where a reader begins that comes when the publisher has gone: as many messages before the end as the
/// publisher retains, fewer if it committed fewer. To be asked when nobody writes the ring any more.
pub fn first(ring: &impl RingMemory) -> u64 {
    let header = ring.header();
    let slots = ring.slots();
    // Relaxed, all: nobody writes any more, and the caller has learned so by the edge close, or from the
    // kernel.
    let (head, tail) = (header.head.load(Ordering::Relaxed), header.tail.load(Ordering::Relaxed));
    let stamp = |slot: u64| slots[slot as usize].stamp.load(Ordering::Relaxed);
    range([head, tail, ring.constants().retained], slots.len() as u64, stamp).start
}

/// What is readable, from `head`, `tail` and `retained` of the header, and the stamps of all slots (a power
/// of two).
pub(crate) fn range([head, tail, retained]: [u64; 3], slots: u64, stamp: impl Fn(u64) -> u64) -> Range<u64> {
    let head = head.min(SEQUENCE_MAX - 1);
    let end = head + u64::from(is_committed(stamp(head & (slots - 1)), head));
    // What was withdrawn for want of memory comes before the last `retained`.
    let first = end.saturating_sub(retained.min(slots - 1)).max(tail.min(end));
    first..end
}

/// Whether the stamp is that of message `sequence`, committed.
fn is_committed(stamp: u64, sequence: u64) -> bool {
    stamp >> 8 == sequence + 1 && stamp & 0xFF != KIND_BUSY
}
