//! Publishers that stand, and wait for the subscribers that were there before them.
//!
//! ```text
//!           Accepted, under way             Joined: all are attached, or do not want to
//!   (open) ─────────────────────▶ settling ─────────────────────────────────────────────▶ (settled)
//!      │                            │ too long: the ring is lent to the root                 ▲
//!      │                            └─────────────────────────────────────────────────────────┤
//!      └──────────────────── Accepted: nobody is on its way; or some do not answer: Lend ─────┘
//! ```
//!
//! Creating a publisher waits until it is settled. Too long is [`JOINERS_PATIENCE`] without a subscriber that
//! attaches to any publisher of this node (publishers that are created together are settled one after the
//! other), and [`JOINERS_BOUND`] in all. So a stopped subscriber delays the first publisher that meets it;
//! then the root knows, and nobody waits for it until it goes on.
//!
//! If the root dies, everything begins anew with the next one: a publisher that has sent nothing yet begins
//! there.
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use hivemind_core::protocol::ToRoot;

use super::Control;
use crate::session::link::carry;
use crate::session::{AnnounceError, Announcement, Handle, JOINERS_BOUND, JOINERS_PATIENCE, Reply};

/// An end, and the thread that waits for the answer.
pub(super) struct Pending {
    pub(super) announcement: Announcement,
    pub(super) reply: Reply<(), AnnounceError>,
}

/// See the head of the module.
pub(super) struct Settling {
    publishers: HashMap<u32, Unsettled>,
    /// The same in the order in which they came, and some that are settled.
    order: VecDeque<(Instant, u32)>,
    /// When a subscriber was attached to a publisher of this node.
    pub(super) progress: Instant,
}

struct Unsettled {
    since: Instant,
    /// The thread that waits, if any: none after the roll call.
    pending: Option<Pending>,
}

impl Settling {
    pub(super) fn new(now: Instant) -> Settling {
        Settling { publishers: HashMap::new(), order: VecDeque::new(), progress: now }
    }

    /// `None`: it was not settling.
    pub(super) fn remove(&mut self, index: u32) -> Option<Option<Pending>> {
        self.publishers.remove(&index).map(|unsettled| unsettled.pending)
    }

    /// Forgets all; threads that wait go on waiting.
    pub(super) fn clear(&mut self) -> Vec<(u32, Pending)> {
        self.order.clear();
        self.publishers.drain().filter_map(|(index, unsettled)| Some((index, unsettled.pending?))).collect()
    }

    /// The first of those that are not settled, and when it has waited too long.
    fn first(&mut self) -> Option<(Instant, u32)> {
        // Bounded: each that has come is passed over once.
        while let Some((since, index)) = self.order.front().copied() {
            if self.publishers.get(&index).is_some_and(|unsettled| unsettled.since == since) {
                let due = (self.progress.max(since) + JOINERS_PATIENCE).min(since + JOINERS_BOUND);
                return Some((due, index));
            }
            self.order.pop_front();
        }
        None
    }

    pub(super) fn alarm(&mut self) -> Option<Instant> {
        self.first().map(|(due, _)| due)
    }
}

impl Control {
    /// This publisher stands, and others are on their way to it.
    pub(super) fn settle(&mut self, index: u32, pending: Option<Pending>) {
        let since = Instant::now();
        self.announced.settling.publishers.insert(index, Unsettled { since, pending });
        self.announced.settling.order.push_back((since, index));
    }

    /// A roll call was faster than the one who waits.
    pub(super) fn is_accepted_already(&mut self, pending: Pending) {
        match self.announced.settling.publishers.get_mut(&pending.announcement.index()) {
            Some(unsettled) => unsettled.pending = Some(pending),
            None => drop(pending.reply.send(Ok(()))),
        }
    }

    /// Nobody is awaited any more.
    pub(super) fn joined(&mut self, index: u32, unanswered: bool) {
        self.announced.settling.progress = Instant::now();
        // It has waited for too long, or is withdrawn.
        let Some(pending) = self.announced.settling.remove(index) else { return };
        if unanswered {
            self.lend(index);
        }
        if let Some(pending) = pending {
            let _ = pending.reply.send(Ok(()));
        }
    }

    /// Ends the waits that are too long.
    pub(super) fn lend_when_due(&mut self) {
        let now = Instant::now();
        // Bounded: each round settles one.
        while let Some((due, index)) = self.announced.settling.first()
            && due <= now
        {
            let pending = self.announced.settling.remove(index).flatten();
            tracing::debug!(publisher = index, "subscribers that were there before it do not answer");
            self.lend(index);
            if let Some(pending) = pending {
                let _ = pending.reply.send(Ok(()));
            }
        }
    }

    /// Lends the ring of a publisher to the root, for subscribers that do not answer.
    pub(super) fn lend(&mut self, index: u32) {
        if let Some(ring) = self.side.inspect(index) {
            self.lend_ring(index, ring);
        }
    }

    pub(super) fn lend_ring(&mut self, publisher: u32, ring: Handle) {
        let (ring, descriptors) = carry(ring);
        self.say(&ToRoot::Lend { publisher, ring }, descriptors);
    }
}

const _: () = assert!(JOINERS_PATIENCE.as_millis() < JOINERS_BOUND.as_millis());
