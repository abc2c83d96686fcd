//! What the control thread leaves for a subscriber, until it looks.
//!
//! ```text
//! match ──▶ pending (a seat is taken) ──▶ live ──▶ revoked, gone, or let go of by the subscriber
//!              │ refused, or the root is another      ▲ arrivals: the reader, for the subscriber to take
//!              ▼                                      │
//!           problems                        one publisher, one attachment at a time
//! ```
//!
//! The lock of an inbox is held for a few instructions, and no callback of another layer runs under it.
//! Whatever is put in moves `news`, which the subscriber compares before each look at its readers, and rings
//! the subscriber's bell after the change.

use hivemind_core::contract::{Carried, Match};
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::Demand;
use hivemind_core::protocol::EndId;
use hivemind_ring::fork::Counter;
use hivemind_ring::mapped::Mapped;
use hivemind_ring::reader::{Reader, Seats, TakenSeat};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use super::origin::Origin;
use super::trust::Trust;
use crate::lock;
use crate::session::{Mismatch, Seating};

/// Reports (skipped services, failed attachments) that a subscriber keeps until somebody asks.
const REPORTS_MAX: usize = 256;
/// A subscriber warns of services of another type at most so often: each time it had none before. The rest is
/// in its reports.
const WARNINGS_MAX: u32 = 8;
/// Publishers at fault that a subscriber remembers, so as not to attach to them again under the next root.
const BARRED_MAX: usize = 1024;
/// Publishers that retain messages of which a subscriber remembers that it was attached to them, the latest:
/// so that it does not get their messages twice when they are gone.
const KNOWN_MAX: usize = 4096;

/// What the control thread needs of a subscriber.
pub(super) struct SubscriberEnd {
    pub(super) demand: Demand,
    pub(super) seats: Seats<Mapped>,
    trust: Trust,
    gate: Option<Arc<dyn Gate>>,
    inbox: Mutex<Inbox>,
    /// Counts what was put into the inbox; the subscriber compares it before each look at its readers. Moves
    /// in a forked child, too.
    news: Counter,
}

/// What the control thread has for a subscriber.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) arrivals: Vec<Arrival>,
    /// Lives of nodes that are gone.
    pub(super) gone: Vec<u64>,
    /// Publishers that this subscriber may not read any more, and why.
    pub(super) revoked: Vec<(EndId, String)>,
    /// Attachments that failed.
    pub(super) problems: Vec<(Origin, String)>,
    /// Services that carry something else, as far as is known: the holder of one may be gone meanwhile.
    pub(super) skipped: Vec<Carried>,
    /// Warnings about them so far.
    pub(super) warned: u32,
    pub(super) pending: HashMap<EndId, Pending>,
    pub(super) live: HashMap<EndId, u32>,
    /// Publishers that this subscriber detached from because they were at fault.
    pub(super) barred: HashSet<EndId>,
    pub(super) known: Known,
}

/// Publishers that retain messages and that a subscriber was attached to.
#[derive(Default)]
pub(super) struct Known {
    publishers: HashSet<EndId>,
    in_order: VecDeque<EndId>,
}

impl Known {
    /// False: it was known.
    pub(super) fn insert(&mut self, publisher: EndId) -> bool {
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
pub(super) struct Arrival {
    pub(super) reader: Reader<Mapped>,
    pub(super) origin: Origin,
    /// Who let us in, whose messages these are, of which type, and what they promise.
    pub(super) matched: Arc<Match>,
    /// The user of that end's node, as the kernel told the root.
    pub(super) user: u32,
    /// It is gone.
    pub(super) gone: bool,
    /// Its publisher is not trusted.
    pub(super) copies: bool,
}

/// A publisher that was asked to attach this subscriber.
pub(super) struct Pending {
    /// Given back when this is dropped, unless a reader has it then.
    pub(super) seat: TakenSeat<Mapped>,
    pub(super) suitor: Suitor,
    /// The kernel says that its process is gone. The root, which knows that too, has yet to answer: perhaps
    /// with the ring.
    pub(super) is_widowed: bool,
}

/// A publisher that a subscription means.
pub(super) struct Suitor {
    pub(super) matched: Arc<Match>,
    /// The names of it that live as long as the process.
    pub(super) origin: Origin,
    /// The maker of the ring is gone, and another end stands for it.
    pub(super) is_gone: bool,
}

/// Chooses among the publishers that a subscription means.
pub trait Gate: Send + Sync {
    /// Called by the control thread; must not block.
    fn admits(&self, matched: &Match) -> bool;
}

impl SubscriberEnd {
    pub(super) fn new(
        demand: Demand,
        seats: Seats<Mapped>,
        trust: Trust,
        gate: Option<Arc<dyn Gate>>,
    ) -> Self {
        SubscriberEnd { demand, seats, trust, gate, inbox: Mutex::default(), news: Counter::default() }
    }

    /// Whether the subscription wants this publisher, beside its filter and type.
    pub(super) fn admits(&self, matched: &Match) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.admits(matched))
    }

    /// Whose messages are read in place.
    pub(super) fn trust(&self) -> Trust {
        self.trust
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    /// Moves whenever something was put into the inbox, which is read under its lock; a sleeper is woken
    /// after the change.
    pub(super) fn news(&self) -> &Counter {
        &self.news
    }

    /// How many publishers this subscriber is attached to.
    pub(super) fn publishers(&self) -> usize {
        self.inbox().live.len()
    }

    /// Forgets an attachment, whose reader is about to be dropped, or has been.
    pub(super) fn detached(&self, publisher: EndId, seat: u32) {
        let mut inbox = self.inbox();
        // Attached anew meanwhile: then another seat is the live one.
        if inbox.live.get(&publisher) == Some(&seat) {
            inbox.live.remove(&publisher);
        }
    }

    /// Leaves word that this subscriber has to let go of a publisher. False: it is not attached to it.
    pub(super) fn revoke(&self, publisher: EndId, reason: &str) -> bool {
        let was_live = self.inbox().live.remove(&publisher).is_some();
        if was_live {
            tracing::warn!(filter = %self.demand.filter, %publisher, reason, "detaches");
            self.put(|inbox| inbox.revoked.push((publisher, reason.to_owned())));
        }
        was_live
    }

    /// Never attaches to this publisher again.
    pub(super) fn bar(&self, publisher: EndId) {
        let mut inbox = self.inbox();
        if inbox.barred.len() < BARRED_MAX {
            inbox.barred.insert(publisher);
        }
    }

    /// Takes a seat for a match; `None` when it is not wanted. The error says why there is no seat.
    pub(super) fn seat(&self, suitor: Suitor) -> Result<Option<Seating>, String> {
        let publisher = suitor.matched.route.end;
        let mut inbox = self.inbox();
        if inbox.live.contains_key(&publisher) || inbox.barred.contains(&publisher) {
            return Ok(None);
        }
        // A subscriber that got its messages while it lived, or from another keeper, has them all.
        if suitor.is_gone && inbox.known.publishers.contains(&suitor.matched.route.writer()) {
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

    /// Gives back the seats for publishers that are gone, for which the root has not answered and will not:
    /// there is another root.
    pub(super) fn give_up_widowed(&self) {
        self.inbox().pending.retain(|_, pending| !pending.is_widowed);
    }

    /// Leaves word that the messages of this publisher do not arrive, and why.
    pub(super) fn not_attached(&self, origin: Origin, reason: String) {
        tracing::warn!(service = %origin.service, publisher = %origin.publisher, reason, "not attached");
        self.put(|inbox| {
            if inbox.problems.len() < REPORTS_MAX {
                inbox.problems.push((origin, reason));
            }
        });
    }

    /// Leaves word of a service that this subscription means and that carries something else.
    pub(super) fn does_not_fit(&self, skipped: &Carried) {
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
        let Carried { service, holder, .. } = skipped;
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
    pub(super) fn fits(&self, service: &ServiceName) {
        self.inbox().skipped.retain(|skipped| skipped.service != *service);
    }

    /// What differs.
    pub(super) fn mismatch(&self, skipped: &Carried) -> Mismatch {
        let asks = &self.demand.asks;
        if asks.pattern == skipped.pattern {
            return Mismatch::between(asks.kind.as_ref(), &skipped.kind);
        }
        let (ours, theirs) = (asks.pattern.to_string(), skipped.pattern.to_string());
        let difference = format!("it is used for {theirs}, not for {ours}");
        Mismatch { ours, theirs, difference }
    }

    /// Ends its sleep, or the next one.
    pub(super) fn wake(&self) {
        self.seats.wake();
    }

    /// Changes the inbox and wakes the subscriber.
    pub(super) fn put(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox());
        // The bell below comes after it.
        self.news.step();
        self.seats.wake();
    }
}
