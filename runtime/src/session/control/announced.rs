//! What the present root was told of the ends of this node, and which threads wait for its answers.
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::settling::{Pending, Settling};
use crate::session::{AnnounceError, Announcement};

/// See the head of the module.
pub(super) struct Announced {
    /// Ends whose announcement a thread waits for, across roots.
    pub(super) pending: BTreeMap<u32, Pending>,
    /// What this root was told, or is to be told, and what it answered.
    pub(super) told: BTreeMap<u32, Told>,
    /// What is still to be sent to this root.
    pub(super) backlog: VecDeque<Announcement>,
    /// Publishers that stand, and whose subscribers that were there before are being introduced.
    pub(super) settling: Settling,
}

/// An announcement, as the present root sees it.
pub(super) enum Told {
    /// Not answered. The announcement is kept until it is, so that an error can name its type.
    /// Both in boxes: nearly all ends of a node are accepted, and take no room for the others.
    Open(Box<Announcement>),
    Accepted,
    Refused(Box<AnnounceError>),
}

impl Announced {
    pub(super) fn new() -> Announced {
        let settling = Settling::new(Instant::now());
        Announced { pending: BTreeMap::new(), told: BTreeMap::new(), backlog: VecDeque::new(), settling }
    }

    /// Whether the root was told, or is to be told, of this end.
    pub(super) fn contains(&self, index: u32) -> bool {
        self.told.contains_key(&index)
    }

    /// Queues an announcement for this root, or for the next one.
    pub(super) fn tell(&mut self, announcement: Announcement) {
        self.told.insert(announcement.index(), Told::Open(Box::new(announcement.clone())));
        self.backlog.push_back(announcement);
    }

    /// The next one that is to be sent.
    pub(super) fn next(&mut self) -> Option<Announcement> {
        // Bounded: each is passed over once, if it was withdrawn while it waited.
        while let Some(announcement) = self.backlog.pop_front() {
            if self.contains(announcement.index()) {
                return Some(announcement);
            }
        }
        None
    }

    /// This root is gone: the next one is told everything. Threads that wait go on waiting.
    pub(super) fn begin_anew(&mut self) {
        self.told.clear();
        self.backlog.clear();
        self.pending.extend(self.settling.clear());
    }

    /// Queues the ends that are being announced and were not in the roll call.
    pub(super) fn tell_the_rest(&mut self) {
        let unlisted = self.pending.values().filter(|pending| !self.contains(pending.announcement.index()));
        let unlisted: Vec<Announcement> = unlisted.map(|pending| pending.announcement.clone()).collect();
        for announcement in unlisted {
            self.tell(announcement);
        }
    }
}
