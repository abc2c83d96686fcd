//! What a node has: its publishers, its subscribers, and whom they are attached to.
//!
//! Two kinds of threads meet here. The threads of the user create, use and drop ends; the node's control
//! thread (see `crate::session`) calls [`NodeSide`] when the root introduces somebody or the kernel reports a
//! death. No message passes through here: a publisher owns its ring, a subscriber its readers, and what the
//! control thread has for them lies in a subscriber's *inbox* or at a publisher's desk until they look.
//!
//! Locks are held for a few instructions and taken in the order `ends`, then one `inbox`; none is held while
//! a callback of another layer runs.

use super::attach::PeerMemory;
use super::inbox::{Arrival, Pending, SubscriberEnd, Suitor};
use super::names;
use super::origin::Origin;
use super::wards::{Herald, Wards};
use super::watch::WatchError;
use crate::lock;
use crate::session::{
    AnnounceError, Announcement, AttachReply, AttachRequest, AttachedTo, Handle, Keeping, NodeSide,
    PUBLISHER_GONE, Seating,
};
use hivemind_core::contract::{Author, Carried, Kind, Match, SubscriberRole};
use hivemind_core::protocol::{Connected, EndId, Offer};
use hivemind_ring::desk::{Begin, Desk};
use hivemind_ring::fork::Home;
use hivemind_ring::mapped::{Bells, Mapped, MappedRing};
use hivemind_ring::memory::{RingMemory as _, SeatMemory as _};
use hivemind_ring::segment::Backend;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

mod kept;

/// All ends of a node.
pub(crate) struct Hub {
    node: u64,
    home: Home,
    memory: PeerMemory,
    next_index: AtomicU32,
    leaving: AtomicBool,
    /// Services that run themselves end; the rest of the node goes on for the moment.
    services_end: AtomicBool,
    ends: Mutex<Ends>,
    /// The publisher that lets a subscriber in which does not know it yet, plus 1; 0: none. The control
    /// thread lets in one at a time.
    introducing: AtomicU64,
    /// Counts what the root said about other ends, and roots.
    changes: AtomicU64,
    /// Notified, under `ends`, when somebody attached, went away, or the node is leaving.
    changed: Condvar,
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

impl Hub {
    pub(crate) fn new(node: u64, backend: Box<dyn Backend>, bells: Arc<Bells>) -> Self {
        Hub {
            node,
            home: Home::here(),
            memory: PeerMemory::new(node, backend, bells),
            next_index: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            services_end: AtomicBool::new(false),
            ends: Mutex::default(),
            introducing: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            changed: Condvar::new(),
            herald: Mutex::default(),
        }
    }

    /// Where the node's herald waits.
    pub(crate) fn herald(&self) -> Result<Arc<Wards>, WatchError> {
        self.home.check()?;
        let mut herald = lock(&self.herald);
        if herald.is_none() {
            *herald = Some(Herald::start(self.memory.bells().take()?)?);
        }
        let started = herald.as_ref().expect("it was started just now");
        Ok(Arc::clone(started.wards()))
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// The process that joined. In a child of it no lock of this node may be taken: its holder may not be
    /// there.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.memory.backend()
    }

    pub(crate) fn bells(&self) -> &Arc<Bells> {
        self.memory.bells()
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

    /// The type that this publisher sends.
    pub(crate) fn kind_of(&self, publisher: u32) -> Option<Kind> {
        lock(&self.ends).publishers.get(&publisher).map(|end| end.offer.kind.clone())
    }

    pub(crate) fn remove_publisher(&self, index: u32) {
        lock(&self.ends).publishers.remove(&index);
    }

    pub(super) fn add_subscriber(&self, index: u32, end: Arc<SubscriberEnd>) {
        lock(&self.ends).subscribers.insert(index, end);
    }

    pub(crate) fn remove_subscriber(&self, index: u32) {
        lock(&self.ends).subscribers.remove(&index);
    }

    /// Whether this publisher has let somebody in who does not know it yet. To be asked after its desk has
    /// counted.
    pub(crate) fn is_introducing(&self, publisher: u32) -> bool {
        // Relaxed: see `attach`.
        self.introducing.load(Ordering::Relaxed) == u64::from(publisher) + 1
    }

    /// Waits until the root says that there are other ends than when it counted `seen`, or the node leaves;
    /// returns the present count.
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

    /// Waits until `check` says yes, at most for `timeout`; otherwise returns its last refusal. Ends early,
    /// with a refusal, when the node is leaving.
    pub(super) fn wait_until<E>(
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

    fn matched(&self, subscriber: u32, matched: Box<Match>) -> Option<Seating> {
        let end = self.subscriber(subscriber)?;
        if !end.demand.asks.accepts(&matched.kind) {
            tracing::warn!(service = %matched.service, "matched with a service of another type; ignored");
            return None;
        }
        end.fits(&matched.service);
        if !end.admits(&matched) {
            return None;
        }
        let Match { service, route, .. } = &*matched;
        let (publisher, name) = (route.publisher(), route.publisher_node().clone());
        let names = names::keep_service(service.clone()).and_then(|service| {
            let node = match &route.author {
                Author::Remote(remote) => names::keep_remote_node(remote.host.clone(), name)?,
                Author::Own | Author::Former(_) => names::keep_node(name)?,
            };
            Ok(Origin { service, node, publisher })
        });
        let origin = match names {
            Ok(origin) => origin,
            Err(error) => {
                tracing::warn!(filter = %end.demand.filter, %error, "not attached");
                return None;
            }
        };
        let is_gone = route.author.former().is_some();
        match end.seat(Suitor { matched: matched.into(), origin, is_gone }) {
            Ok(seating) => seating,
            Err(reason) => {
                end.not_attached(origin, reason);
                None
            }
        }
    }

    fn attach(&self, a: AttachRequest) -> Result<AttachReply, String> {
        if !matches!(a.role, SubscriberRole::Counted | SubscriberRole::Link) {
            return Err(
                "this publisher's program knows subscribers that count, and no others; update it".to_owned()
            );
        }
        let (desk, ring) = {
            let ends = lock(&self.ends);
            if let Some(reply) = ends.kept.attach(a.publisher) {
                drop(ends);
                let mut reply = reply?;
                if a.bells.is_none() {
                    // Nobody rings there any more, but a reader has a place for its word.
                    reply.bells =
                        Some(self.memory.door_for(a.user)?.handle().map_err(|error| error.to_string())?);
                }
                return Ok(reply);
            }
            let end = ends.publishers.get(&a.publisher).ok_or(PUBLISHER_GONE)?;
            (Arc::clone(&end.desk), Arc::clone(&end.ring))
        };
        let subscriber = (a.subscriber.node, a.subscriber.index);
        // The descriptor first: once attached, the reader holds up a reliable ring.
        let handle = ring.segment().handle().map_err(|error| error.to_string())?;
        let seats =
            self.memory.seats_of(a.subscriber, a.reader, a.seat).map_err(|error| error.to_string())?;
        // Relaxed: the lock of the desk orders it; who counts the reader there sees this, too.
        let introduce = || self.introducing.store(u64::from(a.publisher) + 1, Ordering::Relaxed);
        let begin = if a.from_first { Begin::AtFirst } else { Begin::AsHistory };
        let (start, bells) = if let Some(bells) = a.bells {
            let bells =
                self.memory.peer_bells(a.subscriber.node, false, bells).map_err(|error| error.to_string())?;
            let line = seats.constants().bell;
            let bell = bells.line(line).ok_or_else(|| format!("it names bell {line}, which no node has"))?;
            introduce();
            (desk.attach_from(begin, seats, a.seat, bell, subscriber), None)
        } else {
            let made = self.memory.door_for(a.user)?;
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
        let (user, is_orphan) = (a.user, a.gone);
        match self.memory.open_ring(end.trust(), &suitor.matched, seat, a) {
            Ok((reader, copies)) => {
                suitor.is_gone |= is_orphan;
                let Match { route, .. } = &*suitor.matched;
                let is_new = !suitor.matched.is_retained() || end.inbox().known.insert(route.writer());
                if !is_new && suitor.is_gone {
                    // Another keeper was faster.
                    return;
                }
                end.put(|inbox| {
                    inbox.live.insert(suitor.matched.route.end, reader.seat());
                    let Suitor { matched, origin, is_gone: gone } = suitor;
                    inbox.arrivals.push(Arrival { reader, origin, matched, user, gone, copies });
                });
            }
            Err(reason) => end.not_attached(suitor.origin, reason),
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

    fn skipped(&self, subscriber: u32, carried: Carried) {
        if let Some(end) = self.subscriber(subscriber) {
            end.does_not_fit(&carried);
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
        self.memory.forget(node);
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
            // A subscriber that has ended but holds samples stays: its death lets go of them.
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
