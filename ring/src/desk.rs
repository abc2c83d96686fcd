//! The list of a publisher's readers: the node's control thread changes it, the publisher reads it.
//!
//! The publisher keeps a copy of its own and refreshes it when `version` has moved, so a send costs one load of a word
//! that hardly ever changes, however many readers there are.
//!
//! Attaching must not miss a message, and no chunk may be reused under a pin that the publisher has not heard of:
//!
//! ```text
//! control thread                          publisher
//! list += reader; version += 1            commit message m-1
//! fence(SeqCst), heavy barrier  (edge     light barrier
//! first = head - history        attach)   version? ── old: message m is sent without the new reader
//! ```
//!
//! Either the publisher sees the new version, or the control thread sees a head of at least m: a message that was
//! sent without the reader lies before or at `first + history`, and overwrites nothing that the reader was promised, since
//! a history is shorter than the ring. (See `barrier` for the two kinds.) For pins a pair of fences stands in `Writer::reclaim` and `Reader::hold`.

use crate::bell::{self, LISTENS, SLEEPS};
use crate::layout::{SEAT_FREE, seat_life, seat_phase};
use crate::memory::{BellMemory, Memory, RingMemory, SeatMemory};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence, lock, strong};

/// Most readers of one publisher.
pub const READERS_MAX: usize = 4096;

/// Where the readers of one publisher register. Shared between the publisher and its node's control thread.
pub struct Desk<M: Memory> {
    ring: Arc<M::Ring>,
    version: AtomicU64,
    readers: Mutex<Vec<Arc<Peer<M>>>>,
}

/// One attached reader, as its publisher sees it.
pub struct Peer<M: Memory> {
    pub(crate) seats: Arc<M::Seats>,
    pub(crate) seat: usize,
    /// Which taking of the seat.
    life: u64,
    pub(crate) bell: M::Bell,
    /// Where it began: a lower bound until `Desk::attach` returned.
    pub(crate) first: AtomicU64,
    /// Which subscriber: the life of its node and its index there.
    pub subscriber: (u64, u32),
}

/// Why a reader was not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachReaderError {
    /// This publisher has as many readers as it may. Detach one, or publish the service twice.
    #[error("the publisher has {limit} readers already; detach one first")]
    ReadersOut {
        /// [`READERS_MAX`].
        limit: usize,
    },
    /// The kernel refused the barrier that attaching needs, though it granted it when this process began. Free memory, then
    /// subscribe again.
    #[error(
        "the kernel refused a memory barrier (membarrier) that it allowed before; free memory and subscribe again"
    )]
    NoBarrier,
    /// The reader segment has no such seat, or the seat is not taken: the subscriber is at fault, and is not attached.
    #[error("the subscriber names seat {seat}, which its segment does not have or has not taken")]
    NoSuchSeat {
        /// What the subscriber said.
        seat: u32,
    },
}

impl<M: Memory> std::fmt::Debug for Desk<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("readers", &self.count()).finish_non_exhaustive()
    }
}

impl<M: Memory> Desk<M> {
    pub(crate) fn new(ring: Arc<M::Ring>) -> Self {
        Desk { ring, version: AtomicU64::new(0), readers: Mutex::new(Vec::new()) }
    }

    /// Registers a reader and returns the sequence of its first message. From the return on, its pins and, on a reliable
    /// ring, its cursor count.
    ///
    /// Attaching the same subscriber again with a seat that it has not given back meanwhile (it was introduced anew before it
    /// heard our answer, because the root changed) replaces its registration: it begins where it began, whichever answer
    /// it hears first. A seat that it gave back is forgotten when the last sample of it is dropped.
    pub fn attach(
        &self,
        seats: Arc<M::Seats>,
        seat: u32,
        bell: M::Bell,
        subscriber: (u64, u32),
    ) -> Result<u64, AttachReaderError> {
        // Relaxed: written once, before the desk existed.
        let history = self.ring.header().history.load(Ordering::Relaxed);
        self.register(seats, seat, bell, subscriber, history)
    }

    /// As [`Desk::attach`], for a reader that is to get everything, from message 0 on. What the ring holds no more it counts as lost, as
    /// one does that was overtaken. On a reliable ring nothing is overwritten from the return on.
    pub fn attach_from_first(
        &self,
        seats: Arc<M::Seats>,
        seat: u32,
        bell: M::Bell,
        subscriber: (u64, u32),
    ) -> Result<u64, AttachReaderError> {
        // The longest history that there can be: see the head of this module for why it is not longer.
        let history = self.ring.slots().len() as u64 - 1;
        self.register(seats, seat, bell, subscriber, history).map(|_counts_from| 0)
    }

    fn register(
        &self,
        seats: Arc<M::Seats>,
        seat: u32,
        bell: M::Bell,
        subscriber: (u64, u32),
        history: u64,
    ) -> Result<u64, AttachReaderError> {
        let seat_index = seat as usize;
        // Relaxed: a first look; the subscriber took the seat before it sent the descriptor, and a lie harms only itself.
        let state = seats.seats().get(seat_index).map(|seat| seat.state.load(Ordering::Relaxed));
        let Some(state) = state.filter(|state| seat_phase(*state) != SEAT_FREE) else {
            return Err(AttachReaderError::NoSuchSeat { seat });
        };
        let life = seat_life(state);
        let mut readers = lock(&self.readers);
        let same =
            |peer: &Peer<M>| peer.subscriber == subscriber && peer.seat == seat_index && peer.life == life;
        // Relaxed: stored by the same thread, or before it had the lock that one had: a node attaches one after the other.
        let former = readers.iter().find(|peer| same(peer)).map(|peer| peer.first.load(Ordering::Relaxed));
        // Also forget those that ended, or a publisher that rarely sends collects them.
        readers.retain(|peer| !same(peer) && !peer.over());
        if readers.len() >= READERS_MAX {
            return Err(AttachReaderError::ReadersOut { limit: READERS_MAX });
        }
        let header = self.ring.header();
        // The reader counts before anybody can know where it begins; until then it begins at the oldest message that it
        // could be promised. Relaxed: a lower bound will do.
        let provisional = former.unwrap_or(header.head.load(Ordering::Relaxed).saturating_sub(history));
        let peer =
            Arc::new(Peer { seats, seat: seat_index, life, bell, first: provisional.into(), subscriber });
        readers.push(Arc::clone(&peer));
        // Relaxed: whoever sees that the version moved fetches the list under the lock, which is held until the list is
        // complete.
        self.version.fetch_add(1, Ordering::Relaxed);
        // The publisher may ask for the list at once; it shall not wait for the barrier.
        drop(readers);
        // edge attach: pairs with the fence after each commit; see the head of this module.
        fence(strong!("attach: desk fence", SeqCst));
        // Acquire: of one that fences again, the commits without a fence are seen; see the change-over in `barrier`. Who was
        // registered before stays so, without a gap, and does not begin at `head`: no order is needed then.
        #[cfg(not(loom))]
        if former.is_none() && header.unfenced.load(Ordering::Acquire) != 0 && !crate::barrier::heavy() {
            self.forget(|other| std::ptr::eq(other, &*peer));
            return Err(AttachReaderError::NoBarrier);
        }
        // Acquire: the messages before `head` are complete.
        let head = header.head.load(strong!("attach: desk looks at head", Acquire));
        // Relaxed: a newer tail only starts the reader later, an older one costs it messages that count as lost.
        let tail = header.tail.load(Ordering::Relaxed);
        let first = former.unwrap_or(head.saturating_sub(history).max(tail).min(head));
        // Relaxed: a publisher that still sees the provisional start keeps more than it must.
        peer.first.store(first, Ordering::Relaxed);
        Ok(first)
    }

    /// Forgets a reader; its pins and its cursor no longer count. Returns whether it was there.
    pub fn detach(&self, subscriber: (u64, u32)) -> bool {
        self.forget(|peer| peer.subscriber == subscriber) > 0
    }

    /// Forgets all readers of a node, because the kernel says that it is gone. Returns how many there were.
    pub fn detach_node(&self, node: u64) -> usize {
        self.forget(|peer| peer.subscriber.0 == node)
    }

    fn forget(&self, which: impl Fn(&Peer<M>) -> bool) -> usize {
        let mut readers = lock(&self.readers);
        let before = readers.len();
        readers.retain(|peer| !which(peer));
        let forgotten = before - readers.len();
        if forgotten > 0 {
            // Relaxed: the lock carries the list.
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        forgotten
    }

    /// Forgets the readers that ended in order and hold nothing any more.
    pub fn prune(&self) {
        self.forget(Peer::over);
    }

    /// How many readers are attached and have not ended.
    pub fn count(&self) -> usize {
        lock(&self.readers).iter().filter(|peer| !peer.closed()).count()
    }

    /// Messages committed so far, as another thread than the publisher's sees it.
    pub fn published(&self) -> u64 {
        // Relaxed: a figure; the latest message may be missing in it.
        self.ring.header().head.load(Ordering::Relaxed)
    }

    /// The subscribers that are attached.
    pub fn subscribers(&self) -> Vec<(u64, u32)> {
        lock(&self.readers).iter().map(|peer| peer.subscriber).collect()
    }

    /// Moves whenever a reader came or went.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        // Relaxed: the list itself is read under its lock; how soon a change is seen is explained at the head.
        self.version.load(Ordering::Relaxed)
    }

    /// The present list and its version.
    pub(crate) fn readers(&self) -> (u64, Vec<Arc<Peer<M>>>) {
        let readers = lock(&self.readers);
        // Relaxed: it moves under this lock only.
        (self.version.load(Ordering::Relaxed), readers.clone())
    }

    /// Wakes every reader that sleeps alone, and says whether one listens; for the end of a publisher.
    pub(crate) fn wake_sleepers(&self) -> bool {
        let readers = lock(&self.readers);
        readers.iter().for_each(|peer| peer.wake_if_alone());
        // Relaxed: behind the caller's fence. A reader that begins to listen later sees that the publisher ended.
        readers.iter().any(|peer| peer.sleeping() == u64::from(LISTENS))
    }
}

impl<M: Memory> Peer<M> {
    /// Whether the reader ended in order, or gave its seat back. It makes no new pins then, but may still hold some.
    pub(crate) fn closed(&self) -> bool {
        // edge close. Acquire: its last reads of slots are done.
        if self.seats.header().closed.load(strong!("close: writer looks", Acquire)) != 0 {
            return true;
        }
        let state = self.state();
        seat_phase(state) == SEAT_FREE || seat_life(state) != self.life
    }

    fn state(&self) -> u64 {
        // edge close. Acquire: as above; and when the seat was taken again, the last pin of this reader is gone.
        self.seats.seats()[self.seat].state.load(strong!("close: writer looks at the seat", Acquire))
    }

    /// Whether the reader ended and holds nothing any more.
    fn over(&self) -> bool {
        // In this order: it makes no new pins once it is closed.
        self.closed() && !self.pins()
    }

    /// Whether the reader still holds a chunk of this ring.
    fn pins(&self) -> bool {
        seat_life(self.state()) == self.life
            // edge unpin. Acquire: the last read of a chunk is done when its pin is gone.
            && self.seats.seats()[self.seat].pins.iter().any(|pin| pin.load(strong!("unpin: reader over", Acquire)) != 0)
    }

    /// Rings the reader's bell when it said that it sleeps alone. At most one system call.
    pub(crate) fn wake_if_alone(&self) {
        if self.sleeping() == u64::from(SLEEPS) {
            bell::ring(&self.bell.bell().wake);
        }
    }

    /// How the reader says that it sleeps.
    fn sleeping(&self) -> u64 {
        // Relaxed (edge sleep): whoever calls this took the reader's `sleepers` (Acquire), which comes after its `sleeping`, or
        // made a fence. Nothing else is read that the reader wrote.
        self.seats.header().sleeping.load(Ordering::Relaxed)
    }
}
