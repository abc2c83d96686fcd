//! How far publishers got whose stream is gone, so that nothing is published twice if it comes back.

use std::collections::{BTreeMap, VecDeque};

use crate::link::candidate::Candidate;
use crate::link::peering::wants::Wants;
use crate::name::ServiceName;
use crate::protocol::EndId;

/// The most publishers that are remembered, the latest.
pub const REMEMBERED_MAX: usize = 4096;

#[derive(Debug)]
struct Former {
    /// The number after the last message that was published here, or counted as lost.
    next: u64,
    /// Service and type, if somebody here has wanted it ever since: then what it publishes meanwhile is
    /// lost.
    missed_by: Option<(ServiceName, u128)>,
}

#[derive(Debug, Default)]
pub(super) struct Remembered {
    publishers: BTreeMap<EndId, Former>,
    in_order: VecDeque<EndId>,
}

impl Remembered {
    pub(super) fn add(&mut self, candidate: &Candidate, next: u64, wants: &Wants) {
        let publisher = candidate.publisher;
        let is_missed = wants.is_wanted_here(&candidate.service, candidate.kind.fingerprint);
        let missed_by = is_missed.then(|| (candidate.service.clone(), candidate.kind.fingerprint));
        if self.publishers.insert(publisher, Former { next, missed_by }).is_none() {
            self.in_order.push_back(publisher);
            if self.in_order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.in_order.pop_front()
            {
                self.publishers.remove(&oldest);
            }
        }
    }

    /// The number after the last message that is not needed again.
    pub(super) fn next_of(&self, publisher: EndId) -> Option<u64> {
        self.publishers.get(&publisher).map(|former| former.next)
    }

    /// It begins again at this number. True: what was left out is missed here. Counted once, however its
    /// stream ends.
    pub(super) fn begins_at(&mut self, publisher: EndId, first: u64) -> bool {
        self.publishers.get_mut(&publisher).is_some_and(|former| {
            former.next = former.next.max(first);
            former.missed_by.is_some()
        })
    }

    /// What nobody here wants any more is missed by nobody.
    pub(super) fn forget_unwanted(&mut self, wants: &Wants) {
        for former in self.publishers.values_mut() {
            former.missed_by.take_if(|(service, fingerprint)| !wants.is_wanted_here(service, *fingerprint));
        }
    }
}
