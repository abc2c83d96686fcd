//! What the subscribers of both hosts want.
//!
//! The whole set is said whenever it changes, in as many frames as it takes. A set of the other host counts
//! once it is complete.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::say;
use super::violation::Violation;
use crate::filter::Filter;
use crate::link::candidate::Candidate;
use crate::link::frame::FrameKind;
use crate::name::ServiceName;
use crate::protocol::EndId;

/// The most filters that one host may want of another.
pub const WANTED_MAX: usize = 4096;

/// Services that the subscribers of a host want.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Which services.
    pub filter: Filter,
    /// Of which type; `None`: any.
    pub fingerprint: Option<u128>,
}

impl Wanted {
    fn is_for(&self, service: &ServiceName, fingerprint: u128) -> bool {
        self.fingerprint.is_none_or(|wanted| wanted == fingerprint) && self.filter.matches(service.as_str())
    }
}

/// What the other host wants now.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    wanted: Vec<Wanted>,
    refused: BTreeSet<EndId>,
}

impl Interest {
    /// Whether to attach to this publisher.
    #[must_use]
    pub fn wants(&self, candidate: &Candidate) -> bool {
        !self.refused.contains(&candidate.publisher)
            && self.wanted.iter().any(|wanted| wanted.is_for(&candidate.service, candidate.kind.fingerprint))
    }

    /// The filters.
    #[must_use]
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }
}

/// What is wanted here and there.
#[derive(Debug, Default)]
pub(super) struct Wants {
    ours: Vec<Wanted>,
    /// Index of the first of `ours` that is still to be said.
    unsaid: Option<usize>,
    theirs: Arc<Interest>,
    /// A set of the other host that is not complete yet.
    coming: Vec<Wanted>,
}

impl Wants {
    /// Another set is wanted here. Drops what exceeds [`WANTED_MAX`], and returns how many those were.
    pub(super) fn set_ours(&mut self, mut wanted: Vec<Wanted>) -> usize {
        let surplus = wanted.len().saturating_sub(WANTED_MAX);
        wanted.truncate(WANTED_MAX);
        self.ours = wanted;
        surplus
    }

    pub(super) fn is_wanted_here(&self, service: &ServiceName, fingerprint: u128) -> bool {
        self.ours.iter().any(|wanted| wanted.is_for(service, fingerprint))
    }

    /// The whole set is to be said, from its beginning.
    pub(super) fn say_anew(&mut self) {
        self.unsaid = Some(0);
    }

    pub(super) fn disconnect(&mut self) {
        self.coming.clear();
        self.unsaid = None;
    }

    pub(super) fn is_unsaid(&self) -> bool {
        self.unsaid.is_some()
    }

    /// Appends the next frame of our set. False: all of it is said.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.unsaid else { return false };
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        for next in &self.ours[from..] {
            bytes += next.filter.as_str().len() + say::WANTED_EACH;
            if bytes > say::WANTED_BYTES {
                break;
            }
            wanted.push((next.filter.as_str().to_owned(), next.fingerprint));
        }
        let to = from + wanted.len();
        let last = to == self.ours.len();
        self.unsaid = (!last).then_some(to);
        say::append(FrameKind::Interest, 0, 0, &say::Interest { first: from == 0, last, wanted }, out);
        true
    }

    /// A frame of their set. Returns the set once it is complete.
    pub(super) fn hear(&mut self, interest: say::Interest) -> Result<Option<Arc<Interest>>, Violation> {
        if interest.first {
            self.coming.clear();
        }
        if self.coming.len() + interest.wanted.len() > WANTED_MAX {
            return Err(Violation::Limit { what: "filters of subscribers", limit: WANTED_MAX });
        }
        for (filter, fingerprint) in interest.wanted {
            let damaged = Violation::Damaged { kind: FrameKind::Interest };
            let filter = Filter::parse(&filter).map_err(|_| damaged)?;
            self.coming.push(Wanted { filter, fingerprint });
        }
        Ok(interest.last.then(|| {
            let wanted = std::mem::take(&mut self.coming);
            self.set_theirs(wanted)
        }))
    }

    pub(super) fn theirs(&self) -> &Arc<Interest> {
        &self.theirs
    }

    pub(super) fn set_theirs(&mut self, wanted: Vec<Wanted>) -> Arc<Interest> {
        self.theirs = Arc::new(Interest { wanted, refused: BTreeSet::new() });
        Arc::clone(&self.theirs)
    }

    /// The other host refuses this publisher, so nothing of it is sent on this connection any more.
    pub(super) fn refuse(&mut self, publisher: EndId) -> Arc<Interest> {
        Arc::make_mut(&mut self.theirs).refused.insert(publisher);
        Arc::clone(&self.theirs)
    }

    /// On a new connection a publisher that was refused may be asked for again. `None`: none was refused.
    pub(super) fn forgive(&mut self) -> Option<Arc<Interest>> {
        if self.theirs.refused.is_empty() {
            return None;
        }
        let wanted = self.theirs.wanted.clone();
        Some(self.set_theirs(wanted))
    }
}
