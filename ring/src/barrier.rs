//! An asymmetric memory barrier: the side that runs often pays nothing, the side that runs seldom pays for
//! both.
//!
//! Two edges need a store, a full fence and a load on both sides: *sleep* (commit, then look at `sleepers`;
//! set `sleepers`, then look for messages) and *attach* (commit, then look at the list of readers; change the
//! list, then look at `head`). One side of both is a commit, where the fence would cost more than all the
//! rest. So the kernel puts it there when it is needed:
//!
//! ```text
//! often: Writer::commit                     seldom: Seats::sleep, Desk::attach
//! commit                                    sleepers = 1 (or the list changes)
//! light(): the compiler keeps the order     fence(SeqCst)
//! sleepers ?                                unfenced ? heavy(): membarrier(2), a full fence on every core that runs
//!                                                               a thread of a registered process
//!                                           messages ?
//! ```
//!
//! At the moment of the membarrier the publisher is before, between or after its two steps. Before: it sees
//! `sleepers`. After: the sleeper sees the commit. Between: the commit is made visible by the fence, so the
//! sleeper sees it, too.
//!
//! A process must have registered before it may leave the fence out. That takes no time while it has one
//! thread, and milliseconds when it has more, so then a thread of its own sees to it, and rings fence until
//! it is done. Each ring says in its header whether it does (`unfenced`: 0 or 1), and changes over with a
//! fence between that store and the first commit without one: a sleeper whose own fence comes first is seen
//! by all later looks at `sleepers`, one whose fence comes later sees `unfenced` as 1, or a later value.
//!
//! A publisher that wakes somebody after every few commits pays for a system call each time, and its sleepers
//! for a barrier each time, which interrupts every other core (10 us where those are busy). A fence in each
//! commit is the smaller price then, so such a publisher changes back, and again when it wakes nobody for a
//! while. Backwards it stores 0 with Release, after its last commit without a fence: a sleeper that reads
//! this 0 (Acquire) sees all of those commits, and those that follow have fences. If it reads the 0 from
//! before the ring left fences out, or from between two such times, its own fence came before the one of the
//! change-over that followed, and is seen as above.
//!
//! `unfenced` is the publisher's alone. If it dies right after setting it, nobody commits any more. If it
//! lies, its own subscribers wake late or make a barrier in vain; nothing else is decided by it.
//!
//! Where the kernel refuses (before 4.16, or a sandbox forbids the call), publishers fence for ever. A
//! subscriber that may not call it, though its publisher leaves the fence out, sleeps in short pieces
//! instead.
//!
//! Loom knows no such call, but it can be told what the kernel promises (`promise`): so the models run the
//! change-over below, the sleepers and the control thread as they are.

use crate::layout::RingHeader;
use crate::memory::RingMemory;
use crate::sync::{Ordering, fence, strong};

#[cfg(not(loom))]
mod kernel;
#[cfg(loom)]
mod promise;
#[cfg(test)]
mod tests;

#[cfg(not(loom))]
use self::kernel as system;
#[cfg(loom)]
use self::promise as system;

pub use self::system::enable;
pub(crate) use self::system::{heavy, is_ready, light};

/// Somebody is woken after fewer commits than this …
const SPARSE: u64 = if cfg!(loom) { 4 } else { 32 };
/// … this many times in a row: from then on commits fence …
const SPARSE_RINGS: u32 = if cfg!(loom) { 1 } else { 4 };
/// … until this many have woken nobody.
const DENSE: u64 = if cfg!(loom) { 1 } else { 64 };

/// What keeps the commits of one publisher before its looks at `sleepers` and at the list of readers.
#[derive(Debug, Default)]
pub(crate) struct CommitOrder {
    /// What `unfenced` in the header says.
    unfenced: bool,
    /// The next sequence when somebody was last woken.
    rung_at: u64,
    /// How many times in a row somebody was woken after few commits.
    sparse_rings: u32,
}

impl CommitOrder {
    /// A barrier between a commit and the loads that follow it. `next` is the sequence of the next message.
    #[inline(always)]
    pub(crate) fn after_commit(&mut self, ring: &impl RingMemory, next: u64) {
        if self.unfenced {
            light();
        } else {
            self.fence_commit(ring.header(), next);
        }
    }

    /// The same, as a fence; and the change to the cheap kind when that may be used and is worth it.
    #[cold]
    fn fence_commit(&mut self, header: &RingHeader, next: u64) {
        // edge sleep, edge attach.
        fence(strong!("sleep, attach: commit fence", SeqCst));
        if next - self.rung_at >= DENSE && is_ready() {
            // Relaxed: the fence below comes before the first commit that needs this to be known.
            header.unfenced.store(1, Ordering::Relaxed);
            // edge sleep, edge attach: a sleeper whose fence comes later than this one sees the store above.
            fence(strong!("sleep, attach: change-over fence", SeqCst));
            self.unfenced = true;
        }
    }

    /// Somebody is woken. Where that is so after every few commits, each with its system call, a fence in
    /// each of them costs less than the barriers of those who go to sleep.
    pub(crate) fn note_ring(&mut self, header: &RingHeader, next: u64) {
        let is_sparse = next - self.rung_at < SPARSE;
        self.rung_at = next;
        self.sparse_rings = if is_sparse { self.sparse_rings + 1 } else { 0 };
        if self.unfenced && self.sparse_rings >= SPARSE_RINGS {
            // Release: a sleeper that reads this 0 sees the commits that were made without a fence.
            header.unfenced.store(0, strong!("sleep, attach: fences again", Release));
            self.unfenced = false;
        }
    }
}

/// Whether the publisher of this ring leaves the fence after a commit out, so that the caller has to make a
/// [`heavy`] barrier. To be asked behind a SeqCst fence.
pub(crate) fn is_unfenced(header: &RingHeader) -> bool {
    // edge sleep, edge attach. Acquire: of a publisher that fences again, the commits without a fence are
    // seen.
    header.unfenced.load(strong!("sleep, attach: look at unfenced", Acquire)) != 0
}
