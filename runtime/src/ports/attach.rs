//! The memory of peers: mapped once, recognised by device and inode, and let go of with the peer.
//!
//! | from a peer                         | is mapped                     | a second one of the same name            |
//! | ----------------------------------- | ----------------------------- | ---------------------------------------- |
//! | doorbells of a node of our user     | once for the node             | must be the same object, or it is refused |
//! | doors that a node made for our user | once for the node             | the same                                 |
//! | reader segments of subscribers      | once for the subscriber       | the same                                 |
//! | rings of publishers                 | once for each reader          | -                                        |
//!
//! A node has one segment of doorbells in its life, a subscriber one reader segment: another one under the
//! same epoch is another process's, and its pins would count as those of the first.

use hivemind_core::contract::Match;
use hivemind_core::protocol::EndId;
use hivemind_ring::desk::Start;
use hivemind_ring::mapped::{Announced, Bells, Mapped, MappedRing, MappedSeats};
use hivemind_ring::memory::RingMemory as _;
use hivemind_ring::reader::{Reader, TakenSeat};
use hivemind_ring::segment::{Backend, SegmentError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use super::trust::Trust;
use crate::lock;
use crate::session::{AttachedTo, Handle};

/// Other users whose subscribers this node lets in: it makes doorbells for each, which take a descriptor and
/// a page.
const DOORS_MAX: usize = 64;
/// See the head of the module.
pub(super) struct PeerMemory {
    node: u64,
    backend: Box<dyn Backend>,
    /// Those of this node.
    bells: Arc<Bells>,
    /// Doorbells of peers that are mapped already, by the life of their node; true: it is of another user,
    /// and made them for ours.
    peers: Mutex<HashMap<(u64, bool), Weak<Bells>>>,
    /// Doorbells made for other users, who never get those of this node; at most [`DOORS_MAX`]. They stay
    /// until there are so many, also when nobody uses them: who leaves and comes back may have them
    /// mapped still.
    doors: Mutex<HashMap<u32, Arc<Bells>>>,
    /// Reader segments of subscribers that are mapped already: one that reads a thousand publishers of this
    /// node is mapped once.
    seats: Mutex<HashMap<EndId, Weak<MappedSeats>>>,
}

/// Why the memory of a peer is not mapped: it gave other memory before, and what was made of that stands.
#[derive(Debug, thiserror::Error)]
pub(super) enum StrangeMemory {
    /// A node has one segment of doorbells in its life.
    #[error(
        "node {node:016x} sends other doorbells than it did before; another process uses its epoch, or it is \
         damaged: end that process"
    )]
    OtherBells { node: u64 },
    /// A subscriber has one reader segment in its life.
    #[error(
        "subscriber {subscriber} sends another reader segment than it did before; another process uses its epoch, or it \
         is damaged: end that process"
    )]
    OtherSeats { subscriber: EndId },
    #[error("its doorbells: {0}")]
    Bells(hivemind_ring::mapped::OpenError),
    #[error(transparent)]
    Seats(hivemind_ring::mapped::OpenError),
    #[error("cannot compare its memory: {0}")]
    Compare(#[from] SegmentError),
}

impl PeerMemory {
    pub(super) fn new(node: u64, backend: Box<dyn Backend>, bells: Arc<Bells>) -> PeerMemory {
        PeerMemory {
            node,
            backend,
            bells,
            peers: Mutex::default(),
            doors: Mutex::default(),
            seats: Mutex::default(),
        }
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(super) fn bells(&self) -> &Arc<Bells> {
        &self.bells
    }

    /// The process of this node is gone.
    pub(super) fn forget(&self, node: u64) {
        lock(&self.peers).retain(|(peer, _), _| *peer != node);
        lock(&self.seats).retain(|subscriber, _| subscriber.node != node);
    }

    /// The doorbells of a peer, mapped once. A node has them once, and its publishers have one door for our
    /// user if that is another one: a sender of others under its epoch is refused.
    pub(super) fn peer_bells(
        &self,
        node: u64,
        is_stranger: bool,
        handle: Handle,
    ) -> Result<Arc<Bells>, StrangeMemory> {
        let mut peers = lock(&self.peers);
        let known = if node == self.node && !is_stranger {
            Some(Arc::clone(&self.bells))
        } else {
            peers.get(&(node, is_stranger)).and_then(Weak::upgrade)
        };
        if let Some(bells) = known {
            let is_same = bells.are_of(&handle)?;
            return if is_same { Ok(bells) } else { Err(StrangeMemory::OtherBells { node }) };
        }
        let bells = Bells::open(self.backend(), handle).map_err(StrangeMemory::Bells)?;
        peers.retain(|_, bells| bells.strong_count() > 0);
        peers.insert((node, is_stranger), Arc::downgrade(&bells));
        Ok(bells)
    }

    /// The doorbells for the subscribers of another user, made when the first of them comes.
    pub(super) fn door_for(&self, user: u32) -> Result<Arc<Bells>, String> {
        let mut doors = lock(&self.doors);
        if let Some(bells) = doors.get(&user) {
            return Ok(Arc::clone(bells));
        }
        if doors.len() >= DOORS_MAX {
            // A desk holds the door of everybody who is attached to it. Who still reads something that is
            // kept, of a user without any door by now, is refused until it has read that to its
            // end: see `peer_bells`.
            doors.retain(|_, bells| Arc::strong_count(bells) > 1);
        }
        if doors.len() >= DOORS_MAX {
            return Err(format!(
                "its node has doorbells for {DOORS_MAX} other users, all that it makes; subscribe as one of these, or from \
                 a node of its own user"
            ));
        }
        let bells =
            Bells::create(self.backend()).map_err(|error| format!("doorbells for user {user}: {error}"))?;
        doors.insert(user, Arc::clone(&bells));
        Ok(bells)
    }

    /// The reader segment of a subscriber, mapped once. A subscriber has one: a sender of another one for the
    /// same end is refused. If that were somebody else, the pins of one would count as those of the other.
    pub(super) fn seats_of(
        &self,
        subscriber: EndId,
        reader: Handle,
        seat: u32,
    ) -> Result<Arc<MappedSeats>, StrangeMemory> {
        let mut known = lock(&self.seats);
        if let Some(seats) = known.get(&subscriber).and_then(Weak::upgrade) {
            if !seats.segment().is_of(&reader)? {
                return Err(StrangeMemory::OtherSeats { subscriber });
            }
            seats.look_for(self.backend(), reader, seat).map_err(StrangeMemory::Seats)?;
            return Ok(seats);
        }
        let whose = (subscriber.node, subscriber.index);
        let seats = MappedSeats::open(self.backend(), reader, Some(whose)).map_err(StrangeMemory::Seats)?;
        let seats = Arc::new(seats);
        // Now and then, so that the table stays below twice what is mapped, and a thousand attachments are
        // not a million steps.
        if known.len() == known.capacity() {
            known.retain(|_, seats| seats.strong_count() > 0);
        }
        known.insert(subscriber, Arc::downgrade(&seats));
        Ok(seats)
    }

    /// Opens what the publisher's node sent, and says whether its messages are to be copied.
    pub(super) fn open_ring(
        &self,
        trust: Trust,
        matched: &Match,
        seat: TakenSeat<Mapped>,
        to: AttachedTo,
    ) -> Result<(Reader<Mapped>, bool), String> {
        let Match { route, kind, .. } = matched;
        let EndId { node, index } = route.writer();
        let announced = Announced { node, index, fingerprint: kind.fingerprint };
        let trusts = |maker| trust.covers(to.user, Some(maker));
        let ring = MappedRing::open_if(self.backend(), to.ring, Some(announced), trusts)
            .map_err(|error| error.to_string())?;
        let copies = ring.unmapped().is_some();
        // One that is gone rings no more, and nothing of its doorbells is passed on: a line of ours stands in
        // for them.
        let (bells, line) = if to.gone {
            (Arc::clone(&self.bells), 0)
        } else {
            let bells = self.peer_bells(to.publisher.node, to.is_stranger, to.bells);
            (bells.map_err(|error| error.to_string())?, ring.constants().bell)
        };
        let bell = bells.line(line).ok_or_else(|| format!("it names bell {line}, which no node has"))?;
        let begin = if to.is_stranger { Reader::of_stranger } else { Reader::new };
        let reader =
            begin(Arc::new(ring), bell, seat, Start::told(to.start)).map_err(|error| error.to_string())?;
        Ok((reader, copies))
    }
}
