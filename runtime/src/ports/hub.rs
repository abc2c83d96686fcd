//! What a node has: its publishers, its subscribers, and whom they are attached to.
//!
//! Two kinds of threads meet here. The threads of the user create, use and drop ends; the node's control thread (see
//! `crate::session`) calls [`NodeSide`] when the root introduces somebody or the kernel reports a death. No message
//! passes through here: a publisher owns its ring, a subscriber its readers, and what the control thread has for them lies in a
//! subscriber's *inbox* or at a publisher's desk until they look.
//!
//! Locks are held for a few instructions and taken in the order `ends`, then one `inbox`; none is held while a callback of
//! another layer runs.

use super::names;
use super::origin::Origin;
use super::trust::Trust;
use super::wards::{Herald, Wards};
use super::watch::WatchError;
use crate::lock;
use crate::session::{
    AnnounceError, Announcement, AttachReply, AttachRequest, AttachedTo, Handle, Keeping, Matched, Mismatch,
    NodeSide, PUBLISHER_GONE, Seating, Skipped,
};
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::{Connected, Demand, EndId, Offer, Remote};
use hivemind_ring::desk::{Begin, Desk, Start};
use hivemind_ring::fork::{Counter, Home};
use hivemind_ring::mapped::{Announced, Bells, Mapped, MappedRing, MappedSeats};
use hivemind_ring::memory::{RingMemory as _, SeatMemory as _};
use hivemind_ring::reader::{Reader, Seats, TakenSeat};
use hivemind_ring::segment::{Backend, SegmentError};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

mod kept;

/// Reports (skipped services, failed attachments) that a subscriber keeps until somebody asks.
const REPORTS_MAX: usize = 256;
/// A subscriber warns of services of another type at most so often: each time it had none before. The rest is in its reports.
const WARNINGS_MAX: u32 = 8;
/// Publishers at fault that a subscriber remembers, so as not to attach to them again under the next root.
const BARRED_MAX: usize = 1024;
/// Other users whose subscribers this node lets in: it makes doorbells for each, which take a descriptor and a page.
const DOORS_MAX: usize = 64;
/// Publishers that retain messages of which a subscriber remembers that it was attached to them, the latest: so that it does not get
/// their messages twice when they are gone.
const KNOWN_MAX: usize = 4096;

/// All ends of a node.
pub(crate) struct Hub {
    node: u64,
    home: Home,
    backend: Box<dyn Backend>,
    bells: Arc<Bells>,
    next_index: AtomicU32,
    leaving: AtomicBool,
    /// Services that run themselves end; the rest of the node goes on for the moment.
    services_end: AtomicBool,
    ends: Mutex<Ends>,
    /// The publisher that lets a subscriber in which does not know it yet, plus 1; 0: none. The control thread lets in one at a time.
    introducing: AtomicU64,
    /// Counts what the root said about other ends, and roots.
    changes: AtomicU64,
    /// Notified, under `ends`, when somebody attached, went away, or the node is leaving.
    changed: Condvar,
    /// Doorbells of peers that are mapped already, by the life of their node; true: it is of another user, and made them for ours.
    peers: Mutex<HashMap<(u64, bool), Weak<Bells>>>,
    /// Doorbells made for other users, who never get those of this node; at most [`DOORS_MAX`]. They stay until there are so many, also
    /// when nobody uses them: who leaves and comes back may have them mapped still.
    doors: Mutex<HashMap<u32, Arc<Bells>>>,
    /// Reader segments of subscribers that are mapped already: one that reads a thousand publishers of this node is mapped
    /// once.
    seats: Mutex<HashMap<EndId, Weak<MappedSeats>>>,
    /// The thread that waits for descriptors where the kernel does not; started for the first of them.
    herald: Mutex<Option<Herald>>,
}

#[derive(Default)]
pub(crate) struct Ends {
    publishers: HashMap<u32, PublisherEnd>,
    subscribers: HashMap<u32, Arc<SubscriberEnd>>,
    kept: kept::Kept,
    /// Threads in [`Hub::wait_until`]. The system is not asked to wake them when there are none.
    waiters: usize,
}

/// What the control thread needs of a publisher.
pub(crate) struct PublisherEnd {
    pub(crate) offer: Offer,
    pub(crate) desk: Arc<Desk<Mapped>>,
    pub(crate) ring: Arc<MappedRing>,
    /// Gets the reason when a root refuses it, if nobody waits for the answer.
    pub(crate) refused: Option<Arc<OnceLock<String>>>,
}

/// What the control thread needs of a subscriber.
pub(crate) struct SubscriberEnd {
    pub(crate) demand: Demand,
    pub(crate) seats: Seats<Mapped>,
    trust: Trust,
    gate: Option<Arc<dyn Gate>>,
    inbox: Mutex<Inbox>,
    /// Counts what was put into the inbox; the subscriber compares it before each look at its readers. Moves in a forked child, too.
    news: Counter,
}

/// What the control thread has for a subscriber.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) arrivals: Vec<Arrival>,
    /// Lives of nodes that are gone.
    pub(crate) gone: Vec<u64>,
    /// Publishers that this subscriber may not read any more, and why.
    pub(crate) revoked: Vec<(EndId, String)>,
    /// Attachments that failed.
    pub(crate) problems: Vec<(Origin, String)>,
    /// Services that carry another type, as far as is known: the holder of one may be gone meanwhile.
    pub(crate) skipped: Vec<Skipped>,
    /// Warnings about them so far.
    warned: u32,
    pending: HashMap<EndId, Pending>,
    live: HashMap<EndId, u32>,
    /// Publishers that this subscriber detached from because they were at fault.
    barred: HashSet<EndId>,
    known: Known,
}

/// Publishers that retain messages and that a subscriber was attached to.
#[derive(Default)]
struct Known {
    publishers: HashSet<EndId>,
    in_order: VecDeque<EndId>,
}

impl Known {
    /// False: it was known.
    fn insert(&mut self, publisher: EndId) -> bool {
        let is_new = self.publishers.insert(publisher);
        if is_new {
            self.in_order.push_back(publisher);
            if self.in_order.len() > KNOWN_MAX
                && let Some(oldest) = self.in_order.pop_front()
            {
                self.publishers.remove(&oldest);
            }
        }
        is_new
    }
}

/// A publisher that this subscriber is attached to from now on.
pub(crate) struct Arrival {
    pub(crate) reader: Reader<Mapped>,
    pub(crate) origin: Origin,
    /// The end that let us in: the publisher, or one that stands for it now that it is gone, or because it is on another host.
    pub(crate) route: EndId,
    /// The user of that end's node, as the kernel told the root.
    pub(crate) user: u32,
    /// It is gone.
    pub(crate) gone: bool,
    pub(crate) schema: Vec<u8>,
    /// Its publisher is not trusted.
    pub(crate) copies: bool,
    /// It stands for a publisher of another host, where message 0 of its ring has this number.
    pub(crate) remote_first: Option<u64>,
}

/// A publisher that was asked to attach this subscriber.
struct Pending {
    /// Given back when this is dropped, unless a reader has it then.
    seat: TakenSeat<Mapped>,
    suitor: Suitor,
    /// The kernel says that its process is gone. The root, which knows that too, has yet to answer: perhaps with the ring.
    is_widowed: bool,
}

/// A publisher that a subscription means.
struct Suitor {
    /// The end that lets us in.
    route: EndId,
    /// Whose messages.
    origin: Origin,
    /// Who made the ring.
    writer: EndId,
    retains: bool,
    /// Its maker is gone, and `route` stands for it.
    is_gone: bool,
    fingerprint: u128,
    schema: Vec<u8>,
    /// See [`Arrival::remote_first`].
    remote_first: Option<u64>,
}

/// Chooses among the publishers that a subscription means.
pub trait Gate: Send + Sync {
    /// Called by the control thread; must not block.
    fn admits(&self, matched: &Matched) -> bool;
}

/// Why the memory of a peer is not mapped: it gave other memory before, and what was made of that stands.
#[derive(Debug, thiserror::Error)]
enum StrangeMemory {
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

impl SubscriberEnd {
    pub(crate) fn new(
        demand: Demand,
        seats: Seats<Mapped>,
        trust: Trust,
        gate: Option<Arc<dyn Gate>>,
    ) -> Self {
        SubscriberEnd { demand, seats, trust, gate, inbox: Mutex::default(), news: Counter::default() }
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    /// Moves whenever something was put into the inbox, which is read under its lock; a sleeper is woken after the change.
    pub(crate) fn news(&self) -> &Counter {
        &self.news
    }

    /// How many publishers this subscriber is attached to.
    pub(crate) fn publishers(&self) -> usize {
        self.inbox().live.len()
    }

    /// Forgets an attachment, whose reader is about to be dropped, or has been.
    pub(crate) fn detached(&self, publisher: EndId, seat: u32) {
        let mut inbox = self.inbox();
        // Attached anew meanwhile: then another seat is the live one.
        if inbox.live.get(&publisher) == Some(&seat) {
            inbox.live.remove(&publisher);
        }
    }

    /// Leaves word that this subscriber has to let go of a publisher. False: it is not attached to it.
    fn revoke(&self, publisher: EndId, reason: &str) -> bool {
        let was_live = self.inbox().live.remove(&publisher).is_some();
        if was_live {
            tracing::warn!(filter = %self.demand.filter, %publisher, reason, "detaches");
            self.put(|inbox| inbox.revoked.push((publisher, reason.to_owned())));
        }
        was_live
    }

    /// Never attaches to this publisher again.
    pub(crate) fn bar(&self, publisher: EndId) {
        let mut inbox = self.inbox();
        if inbox.barred.len() < BARRED_MAX {
            inbox.barred.insert(publisher);
        }
    }

    /// Takes a seat for a match; `None` when it is not wanted. The error says why there is no seat.
    fn seat(&self, suitor: Suitor) -> Result<Option<Seating>, String> {
        let publisher = suitor.route;
        let mut inbox = self.inbox();
        if inbox.live.contains_key(&publisher) || inbox.barred.contains(&publisher) {
            return Ok(None);
        }
        // Who got its messages while it lived, or from another keeper, has them all.
        if suitor.is_gone && inbox.known.publishers.contains(&suitor.writer) {
            return Ok(None);
        }
        let reader = match self.seats.memory().segment().handle() {
            Ok(reader) => reader,
            Err(error) => {
                inbox.pending.remove(&publisher);
                return Err(error.to_string());
            }
        };
        // A second match of an unfinished pair (the root changed in between) uses the seat of the first.
        let seat = match inbox.pending.remove(&publisher) {
            Some(pending) => pending.seat,
            None => {
                let owner = (publisher.node, publisher.index);
                self.seats.take(owner).map_err(|error| error.to_string())?
            }
        };
        let seating = Seating { seat: seat.index(), reader };
        inbox.pending.insert(publisher, Pending { seat, suitor, is_widowed: false });
        Ok(Some(seating))
    }

    /// Gives back the seats for publishers that are gone, for which the root has not answered and will not: there is another root.
    fn give_up_widowed(&self) {
        self.inbox().pending.retain(|_, pending| !pending.is_widowed);
    }

    /// Leaves word that the messages of this publisher do not arrive, and why.
    fn not_attached(&self, origin: Origin, reason: String) {
        tracing::warn!(service = %origin.service, publisher = %origin.publisher, reason, "not attached");
        self.put(|inbox| {
            if inbox.problems.len() < REPORTS_MAX {
                inbox.problems.push((origin, reason));
            }
        });
    }

    /// Leaves word of a service that this subscription means and that carries another type.
    fn does_not_fit(&self, skipped: &Skipped) {
        let mut inbox = self.inbox();
        let is_first = inbox.skipped.is_empty();
        let warns = is_first && inbox.warned < WARNINGS_MAX;
        inbox.warned += u32::from(warns);
        // The latest type is the one that it carries.
        inbox.skipped.retain(|known| known.service != skipped.service);
        if inbox.skipped.len() < REPORTS_MAX {
            inbox.skipped.push(skipped.clone());
        }
        drop(inbox);
        let Skipped { service, holder, .. } = skipped;
        let filter = &self.demand.filter;
        if warns {
            let Mismatch { ours, theirs, difference } = self.mismatch(skipped);
            tracing::warn!(
                filter, %service, %holder, ours, theirs, difference,
                "the service carries another type; its messages are not received until a publisher of this type has it"
            );
        } else {
            tracing::debug!(filter, %service, %holder, "the service carries another type");
        }
    }

    /// A service has the type of this subscription.
    fn fits(&self, service: &ServiceName) {
        self.inbox().skipped.retain(|skipped| skipped.service != *service);
    }

    /// What differs.
    pub(crate) fn mismatch(&self, skipped: &Skipped) -> Mismatch {
        let ours = self.demand.expected.as_ref().map(|expected| &expected.schema[..]);
        Mismatch::between(ours, &skipped.schema, skipped.fingerprint)
    }

    /// Ends its sleep, or the next one.
    pub(crate) fn wake(&self) {
        self.seats.wake();
    }

    /// Changes the inbox and wakes the subscriber.
    fn put(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox());
        // The bell below comes after it.
        self.news.step();
        self.seats.wake();
    }
}

impl Hub {
    pub(crate) fn new(node: u64, backend: Box<dyn Backend>, bells: Arc<Bells>) -> Self {
        Hub {
            node,
            home: Home::here(),
            backend,
            bells,
            next_index: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            services_end: AtomicBool::new(false),
            ends: Mutex::default(),
            introducing: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            changed: Condvar::new(),
            peers: Mutex::default(),
            doors: Mutex::default(),
            seats: Mutex::default(),
            herald: Mutex::default(),
        }
    }

    /// Where the node's herald waits.
    pub(crate) fn herald(&self) -> Result<Arc<Wards>, WatchError> {
        self.home.check()?;
        let mut herald = lock(&self.herald);
        if herald.is_none() {
            *herald = Some(Herald::start(self.bells.take()?)?);
        }
        let started = herald.as_ref().expect("it was started just now");
        Ok(Arc::clone(started.wards()))
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// The process that joined. In a child of it no lock of this node may be taken: its holder may not be there.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(crate) fn bells(&self) -> &Arc<Bells> {
        &self.bells
    }

    /// A number for a new end, never used before in this life of the node.
    pub(crate) fn new_index(&self) -> u32 {
        // Relaxed: only uniqueness counts.
        self.next_index.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the node is about to leave or has left.
    #[inline]
    pub(crate) fn leaving(&self) -> bool {
        // Acquire: what was done before leaving was decided is seen.
        self.leaving.load(Ordering::Acquire)
    }

    /// Whether services that run themselves are to end.
    pub(crate) fn services_ending(&self) -> bool {
        // Acquire: as in `leaving`.
        self.services_end.load(Ordering::Acquire) || self.leaving()
    }

    /// Makes services that run themselves end.
    pub(crate) fn end_services(&self) {
        // Release: see `leaving`.
        self.services_end.store(true, Ordering::Release);
        self.notify();
    }

    /// Makes every wait of this node end.
    pub(crate) fn leave(&self) {
        // Release: see `leaving`.
        self.leaving.store(true, Ordering::Release);
        let subscribers: Vec<_> = lock(&self.ends).subscribers.values().cloned().collect();
        for subscriber in subscribers {
            // That it leaves is news: a blocking receive then counts what is left to be read.
            subscriber.put(|_| {});
        }
        self.notify();
    }

    pub(crate) fn add_publisher(&self, index: u32, end: PublisherEnd) {
        lock(&self.ends).publishers.insert(index, end);
    }

    /// The description of the type that this publisher sends.
    pub(crate) fn schema_of(&self, publisher: u32) -> Option<Vec<u8>> {
        lock(&self.ends).publishers.get(&publisher).map(|end| end.offer.schema.clone())
    }

    pub(crate) fn remove_publisher(&self, index: u32) {
        lock(&self.ends).publishers.remove(&index);
    }

    pub(crate) fn add_subscriber(&self, index: u32, end: Arc<SubscriberEnd>) {
        lock(&self.ends).subscribers.insert(index, end);
    }

    pub(crate) fn remove_subscriber(&self, index: u32) {
        lock(&self.ends).subscribers.remove(&index);
    }

    /// Whether this publisher has let somebody in who does not know it yet. To be asked after its desk has counted.
    pub(crate) fn is_introducing(&self, publisher: u32) -> bool {
        // Relaxed: see `attach`.
        self.introducing.load(Ordering::Relaxed) == u64::from(publisher) + 1
    }

    /// Waits until the root says that there are other ends than when it counted `seen`, or the node leaves; returns the present count.
    pub(crate) fn wait_for_changes(&self, seen: u64, timeout: Duration) -> u64 {
        // Relaxed: see `changed`.
        let count = || self.changes.load(Ordering::Relaxed);
        let _ = self.wait_until(timeout, |_| if count() == seen { Err(()) } else { Ok(()) });
        count()
    }

    /// Ends [`Hub::wait_for_changes`].
    pub(crate) fn look_again(&self) {
        // Relaxed: as in `changed`.
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.notify();
    }

    fn notify(&self) {
        // Under the lock, so that a waiter is either before its check or asleep.
        let ends = lock(&self.ends);
        if ends.waiters > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until `check` says yes, at most for `timeout`; otherwise returns its last refusal. Ends early, with a
    /// refusal, when the node is leaving.
    pub(crate) fn wait_until<E>(
        &self,
        timeout: Duration,
        mut check: impl FnMut(&Ends) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = Instant::now();
        let mut ends = lock(&self.ends);
        loop {
            let refusal = match check(&ends) {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() || self.services_ending() {
                return Err(refusal);
            }
            ends.waiters += 1;
            ends = self.changed.wait_timeout(ends, left).unwrap_or_else(PoisonError::into_inner).0;
            ends.waiters -= 1;
        }
    }

    fn subscriber(&self, index: u32) -> Option<Arc<SubscriberEnd>> {
        lock(&self.ends).subscribers.get(&index).cloned()
    }

    /// The doorbells of a peer, mapped once. A node has them once, and its publishers have one door for our user if that is another
    /// one: a sender of others under its epoch is refused.
    fn peer_bells(&self, node: u64, is_stranger: bool, handle: Handle) -> Result<Arc<Bells>, StrangeMemory> {
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
    fn door_for(&self, user: u32) -> Result<Arc<Bells>, String> {
        let mut doors = lock(&self.doors);
        if let Some(bells) = doors.get(&user) {
            return Ok(Arc::clone(bells));
        }
        if doors.len() >= DOORS_MAX {
            // A desk holds the door of everybody who is attached to it. Who still reads something that is kept, of a user without any
            // door by now, is refused until it has read that to its end: see `peer_bells`.
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
    fn seats_of(
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
        // Now and then, so that the table stays below twice what is mapped, and a thousand attachments are not a million steps.
        if known.len() == known.capacity() {
            known.retain(|_, seats| seats.strong_count() > 0);
        }
        known.insert(subscriber, Arc::downgrade(&seats));
        Ok(seats)
    }

    /// Opens what the publisher's node sent, and says whether its messages are to be copied.
    fn open_ring(
        &self,
        end: &SubscriberEnd,
        suitor: &Suitor,
        seat: TakenSeat<Mapped>,
        to: AttachedTo,
    ) -> Result<(Reader<Mapped>, bool), String> {
        let announced = Announced {
            node: suitor.writer.node,
            index: suitor.writer.index,
            fingerprint: suitor.fingerprint,
        };
        let trusts = |maker| end.trust.covers(to.user, Some(maker));
        let ring = MappedRing::open_if(self.backend(), to.ring, Some(announced), trusts)
            .map_err(|error| error.to_string())?;
        let copies = ring.unmapped().is_some();
        // One that is gone rings no more, and nothing of its doorbells is passed on: a line of ours stands in for them.
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

impl NodeSide for Hub {
    fn roll_call(&self) -> Vec<Announcement> {
        let mut ends = lock(&self.ends);
        ends.kept.look_for_ended(|| self.new_index());
        ends.subscribers.values().for_each(|end| end.give_up_widowed());
        let offers = ends.publishers.values().map(|end| {
            // One that has sent nothing yet begins, whatever an earlier root knew.
            let begins = end.desk.published() == 0;
            Announcement::Offer(Offer { begins, ..end.offer.clone() })
        });
        let demands = ends.subscribers.values().map(|end| {
            let mut demand = end.demand.clone();
            demand.connected = end
                .inbox()
                .live
                .iter()
                .map(|(publisher, seat)| Connected { publisher: *publisher, seat: *seat })
                .collect();
            Announcement::Demand(demand)
        });
        let stand_for = ends.kept.offers().cloned().map(Announcement::Offer);
        offers.chain(stand_for).chain(demands).collect()
    }

    fn matched(&self, m: Matched) -> Option<Seating> {
        let end = self.subscriber(m.subscriber)?;
        if let Some(expected) = &end.demand.expected
            && expected.fingerprint != m.fingerprint
        {
            tracing::warn!(service = %m.service, "matched with a service of another type; ignored");
            return None;
        }
        end.fits(&m.service);
        if end.gate.as_ref().is_some_and(|gate| !gate.admits(&m)) {
            return None;
        }
        let writer = m.writer.unwrap_or(m.publisher);
        let remote_first = m.via.as_ref().map(|remote| remote.first);
        let names = names::keep_service(m.service).and_then(|service| {
            Ok(match m.via.map(|remote| *remote) {
                Some(Remote { host, publisher, .. }) => {
                    Origin { service, node: names::keep_remote_node(host, m.node_name)?, publisher }
                }
                None => Origin { service, node: names::keep_node(m.node_name)?, publisher: writer },
            })
        });
        let origin = match names {
            Ok(origin) => origin,
            Err(error) => {
                tracing::warn!(filter = %end.demand.filter, %error, "not attached");
                return None;
            }
        };
        let (route, retains, is_gone) = (m.publisher, m.writer.is_some(), writer != m.publisher);
        let Matched { fingerprint, schema, .. } = m;
        let suitor = Suitor { route, origin, writer, retains, is_gone, fingerprint, schema, remote_first };
        match end.seat(suitor) {
            Ok(seating) => seating,
            Err(reason) => {
                end.not_attached(origin, reason);
                None
            }
        }
    }

    fn attach(&self, a: AttachRequest) -> Result<AttachReply, String> {
        let (desk, ring) = {
            let ends = lock(&self.ends);
            if let Some(reply) = ends.kept.attach(a.publisher) {
                drop(ends);
                let mut reply = reply?;
                if a.bells.is_none() {
                    // Nobody rings there any more, but a reader has a place for its word.
                    reply.bells = Some(self.door_for(a.user)?.handle().map_err(|error| error.to_string())?);
                }
                return Ok(reply);
            }
            let end = ends.publishers.get(&a.publisher).ok_or(PUBLISHER_GONE)?;
            (Arc::clone(&end.desk), Arc::clone(&end.ring))
        };
        let subscriber = (a.subscriber.node, a.subscriber.index);
        // The descriptor first: once attached, the reader holds up a reliable ring.
        let handle = ring.segment().handle().map_err(|error| error.to_string())?;
        let seats = self.seats_of(a.subscriber, a.reader, a.seat).map_err(|error| error.to_string())?;
        // Relaxed: the lock of the desk orders it; who counts the reader there sees this, too.
        let introduce = || self.introducing.store(u64::from(a.publisher) + 1, Ordering::Relaxed);
        let begin = if a.from_first { Begin::AtFirst } else { Begin::AsHistory };
        let (start, bells) = if let Some(bells) = a.bells {
            let bells =
                self.peer_bells(a.subscriber.node, false, bells).map_err(|error| error.to_string())?;
            let line = seats.constants().bell;
            let bell = bells.line(line).ok_or_else(|| format!("it names bell {line}, which no node has"))?;
            introduce();
            (desk.attach_from(begin, seats, a.seat, bell, subscriber), None)
        } else {
            let made = self.door_for(a.user)?;
            let bells = made.handle().map_err(|error| error.to_string())?;
            let line = ring.constants().bell;
            let door = made.door(line).map_err(|error| error.to_string())?;
            introduce();
            (desk.attach_stranger_from(begin, seats, a.seat, door, subscriber), Some(bells))
        };
        Ok(AttachReply { start: start.map_err(|error| error.to_string())?.sequence(), ring: handle, bells })
    }

    fn attach_answered(&self) {
        // Relaxed: whoever still sees the old value waits for the notification, which comes under a lock.
        self.introducing.store(0, Ordering::Relaxed);
        self.notify();
    }

    fn attached(&self, a: AttachedTo) {
        let Some(end) = self.subscriber(a.subscriber) else { return };
        let Some(pending) = end.inbox().pending.remove(&a.publisher) else { return };
        let Pending { seat, mut suitor, .. } = pending;
        let (route, user, is_orphan) = (a.publisher, a.user, a.gone);
        match self.open_ring(&end, &suitor, seat, a) {
            Ok((reader, copies)) => {
                suitor.is_gone |= is_orphan;
                let is_new = !suitor.retains || end.inbox().known.insert(suitor.writer);
                if !is_new && suitor.is_gone {
                    // Another keeper was faster.
                    return;
                }
                end.put(|inbox| {
                    inbox.live.insert(route, reader.seat());
                    let Suitor { origin, is_gone: gone, schema, remote_first, .. } = suitor;
                    let arrival = Arrival { reader, origin, route, user, gone, schema, copies, remote_first };
                    inbox.arrivals.push(arrival);
                });
            }
            Err(reason) => {
                end.not_attached(suitor.origin, reason);
            }
        }
        self.notify();
    }

    fn has_to_do_with(&self, subscriber: u32, publisher: EndId) -> bool {
        self.subscriber(subscriber).is_some_and(|end| {
            let inbox = end.inbox();
            inbox.live.contains_key(&publisher) || inbox.pending.contains_key(&publisher)
        })
    }

    fn attach_refused(&self, subscriber: u32, publisher: EndId, reason: &str) {
        let Some(end) = self.subscriber(subscriber) else { return };
        let Some(pending) = end.inbox().pending.remove(&publisher) else {
            // It stands, and is not allowed any more.
            if end.revoke(publisher, reason) {
                self.notify();
            }
            return;
        };
        // The publisher may have registered the seat all the same; it will see that nobody has it.
        let Pending { suitor, .. } = pending;
        // One that ended before it heard of us has nothing for us.
        if reason == PUBLISHER_GONE {
            tracing::debug!(service = %suitor.origin.service, %publisher, reason, "not attached");
        } else {
            end.not_attached(suitor.origin, reason.to_owned());
        }
    }

    fn skipped(&self, subscriber: u32, skipped: Skipped) {
        if let Some(end) = self.subscriber(subscriber) {
            end.does_not_fit(&skipped);
        }
    }

    fn inspect(&self, index: u32) -> Option<Handle> {
        let ends = lock(&self.ends);
        if ends.kept.has_offered(index) {
            return ends.kept.inspect(index);
        }
        let publisher = ends.publishers.get(&index).map(|end| end.ring.segment().handle());
        let subscriber = ends.subscribers.get(&index).map(|end| end.seats.memory().segment().handle());
        publisher.or(subscriber)?.ok()
    }

    fn changed(&self) {
        // Relaxed: it is read under no lock and only compared; who waits is notified after it.
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.notify();
    }

    fn peer_gone(&self, node: u64) {
        let subscribers: Vec<_> = {
            let ends = lock(&self.ends);
            for publisher in ends.publishers.values() {
                publisher.desk.detach_node(node);
            }
            ends.subscribers.values().cloned().collect()
        };
        lock(&self.peers).retain(|(peer, _), _| *peer != node);
        lock(&self.seats).retain(|subscriber, _| subscriber.node != node);
        for end in subscribers {
            let concerned = {
                let mut inbox = end.inbox();
                inbox.barred.retain(|publisher| publisher.node != node);
                for (_, pending) in inbox.pending.iter_mut().filter(|(publisher, _)| publisher.node == node) {
                    pending.is_widowed = true;
                }
                inbox.live.keys().any(|publisher| publisher.node == node)
            };
            if concerned {
                end.put(|inbox| inbox.gone.push(node));
            }
        }
        self.notify();
    }

    fn acquaintances(&self) -> Option<HashSet<u64>> {
        let ends = lock(&self.ends);
        let mut nodes = HashSet::new();
        for end in ends.publishers.values() {
            // Who has ended but holds samples stays: its death lets go of them.
            end.desk.prune();
            nodes.extend(end.desk.subscribers().into_iter().map(|(node, _)| node));
        }
        for end in ends.subscribers.values() {
            let inbox = end.inbox();
            nodes.extend(inbox.live.keys().chain(inbox.pending.keys()).map(|publisher| publisher.node));
        }
        nodes.extend(ends.kept.writers().map(|writer| writer.node));
        Some(nodes)
    }

    fn keep(&self, offer: Offer, ring: Handle, is_gone: bool) -> Result<Keeping, String> {
        self.keep_ring(offer, ring, is_gone)
    }

    fn succeed(&self, node: u64) -> Vec<(EndId, Keeping)> {
        self.succeed_to(node)
    }

    fn ended(&self, publisher: EndId) -> Keeping {
        self.has_ended(publisher)
    }

    fn released(&self, publisher: EndId) -> Option<u32> {
        self.let_go(publisher)
    }

    fn kept(&self) -> Vec<EndId> {
        lock(&self.ends).kept.writers().collect()
    }

    fn refused(&self, index: u32, error: &AnnounceError) {
        if let Some(service) = lock(&self.ends).kept.refused(index) {
            tracing::debug!(service, %error, "what a publisher retained is not wanted any more");
            return;
        }
        let tell = lock(&self.ends).publishers.get(&index).and_then(|end| end.refused.clone());
        if let Some(tell) = tell {
            // A second reason changes nothing.
            let _ = tell.set(error.to_string());
            return;
        }
        let name = {
            let ends = lock(&self.ends);
            let service = ends.publishers.get(&index).map(|end| end.offer.service.clone());
            service.or_else(|| Some(ends.subscribers.get(&index)?.demand.filter.clone()))
        };
        let Some(name) = name else { return };
        if !matches!(error, AnnounceError::NotAllowed { .. }) {
            tracing::error!(name, %error, "refused by a new root; those attached go on, nobody else attaches");
            return;
        }
        tracing::error!(name, %error, "withdrawn");
        if let Some(end) = self.subscriber(index) {
            let live: Vec<EndId> = end.inbox().live.keys().copied().collect();
            for publisher in live {
                end.revoke(publisher, &error.to_string());
            }
            self.notify();
        }
    }
}
