//! The list of a publisher's readers: the node's control thread changes it, the publisher reads it.
//!
//! The publisher keeps a copy of its own and refreshes it when `version` has moved, so a send costs one load
//! of a word that hardly ever changes, however many readers there are.
//!
//! Attaching must not miss a message, and no chunk may be reused under a pin that the publisher has not heard
//! of:
//!
//! ```text
//! control thread                          publisher
//! list += reader; version += 1            commit message m-1
//! fence(SeqCst), heavy barrier  (edge     light barrier
//! first = head - history        attach)   version? ── old: message m is sent without the new reader
//! ```
//!
//! Either the publisher sees the new version, or the control thread sees a head of at least m: a message that
//! was sent without the reader lies before or at `first + history`, and overwrites nothing that the reader
//! was promised, since a history is shorter than the ring. (See `barrier` for the two kinds.) For pins a pair
//! of fences stands in `Writer::reclaim` and `Reader::hold`.
//!
//! The control thread also sets [`STRANGERS`] in the publisher's `sleepers` for a reader of another user,
//! before that reader can know that it is attached. It does so under the lock of the list, after the change
//! of the list: a publisher that takes the bit out and then fetches the list under the lock finds the
//! stranger there, and puts the bit back.

use crate::barrier;
use crate::bell::{self, LISTENS, SLEEPS, STRANGERS};
use crate::fork::Counter;
use crate::layout::{SEAT_FREE, seat_life, seat_phase};
use crate::memory::{BellMemory, Memory, RingMemory, SeatMemory};
use crate::place::Place;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence, lock, strong};

/// Most readers of one publisher.
pub const READERS_MAX: usize = 4096;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// As many messages back as the history of the publisher has.
    AsHistory,
    /// At message 0: it was there before the publisher. What the ring holds no more it counts as lost, as one
    /// does that was overtaken. On a reliable ring nothing is overwritten once it is attached.
    AtFirst,
}

/// What the desk of a publisher answers to a reader that it registered: where the reader begins. From then on
/// the publisher respects the reader's pins, so its holder may read the ring's memory in place.
///
/// It is made by [`Desk::attach`] and its like. In another process, which the publisher's node tells the
/// number, it is made from that: [`Start::told`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the reader is registered, and its publisher waits for it"]
pub struct Start {
    pub(crate) sequence: u64,
    /// Which seat, and which taking of it, where that is known.
    pub(crate) of: Option<(u32, u64)>,
}

impl Start {
    /// The publisher's node has told this number in answer to the request to attach, or the publisher is gone
    /// and this is where its ring begins ([`crate::retained::first`]).
    ///
    /// This is the one thing that the ring cannot check: a publisher that says it has registered a reader and
    /// has not will reuse chunks that are being read. So is one that rewrites them on purpose; a process that
    /// maps the chunks of a publisher trusts it in both.
    pub fn told(sequence: u64) -> Start {
        Start { sequence, of: None }
    }

    /// The number of the first message.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Where the readers of one publisher register. Shared between the publisher and its node's control thread.
pub struct Desk<M: Memory> {
    ring: Arc<M::Ring>,
    /// The publisher's own.
    bell: M::Bell,
    /// Moves whenever a reader came or went, and in a forked child.
    version: Counter,
    #[cfg(not(loom))]
    home: crate::fork::Home,
    readers: Mutex<Vec<Arc<Peer<M>>>>,
}

/// How the publisher and one reader wake each other.
#[derive(Clone)]
pub(crate) enum Call<B> {
    /// A reader of our user: its own line, in the doorbells of its node.
    Bell(B),
    /// A reader of another user: our line at the door for that user.
    Door(B),
}

/// One attached reader, as its publisher sees it.
pub(crate) struct Peer<M: Memory> {
    pub(crate) seats: Arc<M::Seats>,
    pub(crate) seat: usize,
    /// Which taking of the seat.
    life: u64,
    pub(crate) call: Call<M::Bell>,
    /// Where it began: a lower bound until `Desk::attach` returned.
    pub(crate) first: AtomicU64,
    /// It was there before the publisher: it is told 0.
    at_first: bool,
    /// Which subscriber: the life of its node and its index there.
    pub(crate) subscriber: (u64, u32),
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
    /// The kernel refused the barrier that attaching needs, though it granted it when this process began.
    /// Free memory, then subscribe again.
    #[error(
        "the kernel refused a memory barrier (membarrier) that it allowed before; free memory and subscribe again"
    )]
    NoBarrier,
    /// The reader segment has no such seat, or the seat is not taken: the subscriber is at fault, and is not
    /// attached.
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
    pub(crate) fn new(ring: Arc<M::Ring>, bell: M::Bell) -> Self {
        Desk {
            ring,
            bell,
            version: Counter::default(),
            #[cfg(not(loom))]
            home: crate::fork::Home::here(),
            readers: Mutex::new(Vec::new()),
        }
    }

    /// Registers a reader and says where it begins. From the return on, its pins and, on a reliable
    /// ring, its cursor count.
    ///
    /// Attaching the same subscriber again with a seat that it has not given back meanwhile (it was
    /// introduced anew before it heard our answer, because the root changed) replaces its registration: it
    /// begins where it began, whichever answer it hears first. A seat that it gave back is forgotten when the
    /// last sample of it is dropped.
    pub fn attach(
        &self,
        seats: Arc<M::Seats>,
        seat: u32,
        bell: M::Bell,
        subscriber: (u64, u32),
    ) -> Result<Start, AttachReaderError> {
        self.attach_from(Begin::AsHistory, seats, seat, bell, subscriber)
    }

    /// As [`Desk::attach`], for a reader that begins where `begin` says.
    pub fn attach_from(
        &self,
        begin: Begin,
        seats: Arc<M::Seats>,
        seat: u32,
        bell: M::Bell,
        subscriber: (u64, u32),
    ) -> Result<Start, AttachReaderError> {
        self.register(begin, seats, seat, Call::Bell(bell), subscriber)
    }

    /// As [`Desk::attach`], for a reader of another user. `door` is this publisher's line in the doorbells
    /// made for that user.
    pub fn attach_stranger(
        &self,
        seats: Arc<M::Seats>,
        seat: u32,
        door: M::Bell,
        subscriber: (u64, u32),
    ) -> Result<Start, AttachReaderError> {
        self.attach_stranger_from(Begin::AsHistory, seats, seat, door, subscriber)
    }

    /// As [`Desk::attach_stranger`], for a reader that begins where `begin` says.
    pub fn attach_stranger_from(
        &self,
        begin: Begin,
        seats: Arc<M::Seats>,
        seat: u32,
        door: M::Bell,
        subscriber: (u64, u32),
    ) -> Result<Start, AttachReaderError> {
        self.register(begin, seats, seat, Call::Door(door), subscriber)
    }

    /// Longer than a screen: it is one critical section, whose order the head of this module proves.
    fn register(
        &self,
        begin: Begin,
        seats: Arc<M::Seats>,
        seat: u32,
        call: Call<M::Bell>,
        subscriber: (u64, u32),
    ) -> Result<Start, AttachReaderError> {
        let seat_index = seat as usize;
        // Relaxed: a first look; the subscriber took the seat before it sent the descriptor, and a lie harms
        // only itself.
        let state = seats.seats().get(seat_index).map(|seat| seat.state.load(Ordering::Relaxed));
        let Some(state) = state.filter(|state| seat_phase(*state) != SEAT_FREE) else {
            return Err(AttachReaderError::NoSuchSeat { seat });
        };
        let life = seat_life(state);
        let mut readers = lock(&self.readers);
        let same =
            |peer: &Peer<M>| peer.subscriber == subscriber && peer.seat == seat_index && peer.life == life;
        // Relaxed: stored by the same thread, or before it had the lock that one had: a node attaches one
        // after the other.
        let (former, former_at_first) = readers
            .iter()
            .find(|peer| same(peer))
            .map(|peer| (peer.first.load(Ordering::Relaxed), peer.at_first))
            .unzip();
        // Also forget those that ended, or a publisher that rarely sends collects them.
        readers.retain(|peer| !same(peer) && !peer.over());
        if readers.len() >= READERS_MAX {
            return Err(AttachReaderError::ReadersOut { limit: READERS_MAX });
        }
        // The root that introduces it again may not know that it was there before, as the publisher has sent
        // something by now.
        let at_first = former_at_first.unwrap_or(begin == Begin::AtFirst);
        let header = self.ring.header();
        let history = match begin {
            Begin::AsHistory => self.ring.constants().history,
            // The longest history that there can be: see the head of this module for why it is not longer.
            Begin::AtFirst => self.ring.slots().len() as u64 - 1,
        };
        // The reader counts before anybody can know where it begins; until then it begins at the oldest
        // message that it could be promised. Relaxed: a lower bound will do.
        let provisional = former.unwrap_or(header.head.load(Ordering::Relaxed).saturating_sub(history));
        let is_stranger = matches!(call, Call::Door(_));
        let peer = Arc::new(Peer {
            seats,
            seat: seat_index,
            life,
            call,
            first: provisional.into(),
            at_first,
            subscriber,
        });
        readers.push(Arc::clone(&peer));
        // A publisher that sees that the version moved fetches the list under the lock, which is held until
        // the list is complete.
        self.version.step();
        if is_stranger {
            // Relaxed: the stranger sleeps after it was told that it is attached, with a fence (edge sleep)
            // that pairs with the commit's: a publisher that misses the sleeper's message sees this. For the
            // publisher that takes it out see the head.
            self.bell.bell().sleepers.fetch_or(STRANGERS, Ordering::Relaxed);
        }
        // The publisher may ask for the list at once; it shall not wait for the barrier.
        drop(readers);
        let first = self.first_of(&peer, former, history)?;
        Ok(Start { sequence: if at_first { 0 } else { first }, of: Some((seat, life)) })
    }

    /// Where a reader begins that is on the list: where it began, if it was `former`ly registered, else
    /// `history` before the head.
    fn first_of(&self, peer: &Peer<M>, former: Option<u64>, history: u64) -> Result<u64, AttachReaderError> {
        let header = self.ring.header();
        // edge attach: pairs with the fence after each commit; see the head of this module.
        fence(strong!("attach: desk fence", SeqCst));
        // One that was registered before stays so, without a gap, and does not begin at `head`: no order is
        // needed then.
        if former.is_none() && barrier::is_unfenced(header) && !barrier::heavy() {
            self.forget(|other| std::ptr::eq(other, peer));
            return Err(AttachReaderError::NoBarrier);
        }
        // Acquire: the messages before `head` are complete.
        let head = header.head.load(strong!("attach: desk looks at head", Acquire));
        // Relaxed: a newer tail only starts the reader later, an older one costs it messages that count as
        // lost.
        let tail = header.tail.load(Ordering::Relaxed);
        let first = former.unwrap_or(head.saturating_sub(history).max(tail).min(head));
        // Relaxed: a publisher that still sees the provisional start keeps more than it must.
        peer.first.store(first, Ordering::Relaxed);
        Ok(first)
    }

    /// Forgets all readers of a node, because the kernel says that its process is gone; their pins and
    /// cursors no longer count. Returns how many there were. A node of this very process lives, whatever
    /// anybody says: none of its readers is forgotten.
    pub fn detach_node(&self, node: u64) -> usize {
        if <M::Seats as SeatMemory>::has_node_here(node) {
            return 0;
        }
        self.forget(|peer| peer.subscriber.0 == node)
    }

    fn forget(&self, which: impl Fn(&Peer<M>) -> bool) -> usize {
        let mut readers = lock(&self.readers);
        let before = readers.len();
        readers.retain(|peer| !which(peer));
        let forgotten = before - readers.len();
        if forgotten > 0 {
            // The lock carries the list.
            self.version.step();
        }
        forgotten
    }

    /// Forgets the readers that ended in order and hold nothing any more.
    pub fn prune(&self) {
        self.forget(Peer::over);
    }

    /// How many readers are attached and have not ended; in a forked child none.
    pub fn count(&self) -> usize {
        if self.is_forked() {
            return 0;
        }
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

    /// Moves whenever a reader came or went, and in a forked child. The list itself is read under its lock;
    /// how soon a change is seen is explained at the head.
    pub(crate) fn version(&self) -> &Counter {
        &self.version
    }

    /// Whether this is a child of the publisher's process. Its list may be locked for ever then.
    pub(crate) fn is_forked(&self) -> bool {
        #[cfg(not(loom))]
        return !self.home.is_here();
        #[cfg(loom)]
        false
    }

    /// Says whose the publisher is.
    #[cfg(not(loom))]
    pub(crate) fn home(&self) -> &crate::fork::Home {
        &self.home
    }

    /// The present list and its version.
    pub(crate) fn readers(&self) -> (u64, Vec<Arc<Peer<M>>>) {
        let readers = lock(&self.readers);
        // It moves under this lock only.
        (self.version.get(), readers.clone())
    }

    /// Wakes every reader that sleeps alone, and says whether one of our user listens, and whether one of
    /// another user sleeps; for the end of a publisher.
    pub(crate) fn wake_sleepers(&self) -> (bool, bool) {
        let readers = lock(&self.readers);
        readers.iter().for_each(|peer| peer.wake_if_alone());
        // Behind the caller's fence: a reader that begins to listen later sees that the publisher ended.
        let listens = |peer: &Arc<Peer<M>>| !peer.is_stranger() && peer.sleeping() == u64::from(LISTENS);
        let is_strange = |peer: &Arc<Peer<M>>| peer.is_stranger() && peer.sleeping() != 0;
        (readers.iter().any(listens), readers.iter().any(is_strange))
    }
}

impl<M: Memory> Peer<M> {
    /// Whether the reader ended in order, or gave its seat back. It makes no new pins then, but may still
    /// hold some.
    pub(crate) fn closed(&self) -> bool {
        // edge close. Acquire: its last reads of slots are done.
        if self.seats.header().closed.load(strong!("close: writer looks", Acquire)) != 0 {
            return true;
        }
        let state = self.state();
        seat_phase(state) == SEAT_FREE || seat_life(state) != self.life
    }

    fn state(&self) -> u64 {
        // edge close. Acquire: as above; and when the seat was taken again, the last pin of this reader is
        // gone.
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

    /// Rings the reader's bell when it said that it sleeps alone, or the one where it is waited for with
    /// others. At most one system call. A stranger never does.
    pub(crate) fn wake_if_alone(&self) {
        let Call::Bell(bell) = &self.call else { return };
        let sleeping = self.sleeping();
        if sleeping == u64::from(SLEEPS) {
            bell::ring(&bell.bell().wake);
        } else if let Some(place) = Place::of(sleeping) {
            place.ring(bell);
        }
    }

    /// Whether it is of another user.
    pub(crate) fn is_stranger(&self) -> bool {
        matches!(self.call, Call::Door(_))
    }

    /// How the reader says that it sleeps.
    fn sleeping(&self) -> u64 {
        // Relaxed (edge sleep): the caller took the reader's `sleepers` (Acquire), which comes after its
        // `sleeping`, or made a fence. Nothing else is read that the reader wrote.
        self.seats.header().sleeping.load(Ordering::Relaxed)
    }
}
