//! Pairs of a publisher with a subscriber, and the lanes on which they are introduced.
//!
//! What holds after every call:
//!
//! - A pair is found by its publisher and by its subscriber, or not at all.
//! - A lane counts its pairs that are matched or attaching, at most [`Limits::lane`](super::Limits::lane),
//!   and knows those that wait; a lane without either is not kept.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::event::{Action, ClientId, send};
use crate::end::EndId;
use crate::protocol::{ToNode, bounded_reason};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) publisher: EndId,
    pub(super) subscriber: EndId,
}

impl Pair {
    /// Tells the node of the subscriber that this pair does not come about, or is over.
    pub(super) fn refused(self, to: ClientId, reason: String) -> Action {
        let Pair { publisher, subscriber } = self;
        let reason = bounded_reason(reason);
        send(to, ToNode::AttachRefused { subscriber: subscriber.index, publisher, reason })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairState {
    /// Too many pairs of these two nodes are on their way.
    Waiting,
    /// It is the subscriber's node's turn.
    Matched,
    /// It is the publisher's node's turn.
    Attaching { seat: u32 },
    /// Done.
    Connected { seat: u32 },
    /// One of them does not want to, or has let go; tried again at a `Rematch`.
    Failed,
}

impl PairState {
    pub(super) fn has_arrived(self) -> bool {
        matches!(self, PairState::Connected { .. } | PairState::Failed)
    }
}

/// From the node of a subscriber to the node of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) subscriber: ClientId,
    pub(super) publisher: ClientId,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Pairs {
    /// The most pairs of a lane that are matched or attaching.
    lane_limit: usize,
    pairs: BTreeMap<Pair, (PairState, Lane)>,
    /// The same pairs, subscriber first.
    of_subscribers: BTreeSet<(EndId, EndId)>,
    lanes: BTreeMap<Lane, Traffic>,
}

/// The pairs of a lane that are not settled.
#[derive(Debug, Default)]
struct Traffic {
    /// Matched or attaching.
    under_way: usize,
    waiting: BTreeSet<Pair>,
}

impl Pairs {
    pub(super) fn new(lane_limit: usize) -> Pairs {
        Pairs { lane_limit, pairs: BTreeMap::new(), of_subscribers: BTreeSet::new(), lanes: BTreeMap::new() }
    }

    pub(super) fn state(&self, pair: Pair) -> Option<PairState> {
        self.pairs.get(&pair).map(|(state, _)| *state)
    }

    pub(super) fn lane(&self, pair: Pair) -> Option<Lane> {
        self.pairs.get(&pair).map(|(_, lane)| *lane)
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Pair, PairState)> {
        self.pairs.iter().map(|(pair, (state, _))| (*pair, *state))
    }

    /// Those that come after this one, in order.
    pub(super) fn after(&self, pair: Pair) -> impl Iterator<Item = (Pair, PairState)> {
        self.pairs.range((Excluded(pair), Unbounded)).map(|(pair, (state, _))| (*pair, *state))
    }

    pub(super) fn of_publisher(&self, publisher: EndId) -> Vec<Pair> {
        let least = Pair { publisher, subscriber: EndId::FIRST };
        let most = Pair { publisher, subscriber: EndId::LAST };
        self.pairs.range(least..=most).map(|(pair, _)| *pair).collect()
    }

    pub(super) fn of_subscriber(&self, subscriber: EndId) -> Vec<Pair> {
        let range = (subscriber, EndId::FIRST)..=(subscriber, EndId::LAST);
        let found = self.of_subscribers.range(range);
        found.map(|(subscriber, publisher)| Pair { publisher: *publisher, subscriber: *subscriber }).collect()
    }

    /// A pair that was connected before this root began.
    pub(super) fn add_connected(&mut self, pair: Pair, lane: Lane, seat: u32) {
        self.add(pair, lane, PairState::Connected { seat });
    }

    /// A pair that waits for room on its lane: see [`Pairs::next_due`].
    pub(super) fn add_waiting(&mut self, pair: Pair, lane: Lane) {
        self.add(pair, lane, PairState::Waiting);
        self.lanes.entry(lane).or_default().waiting.insert(pair);
    }

    fn add(&mut self, pair: Pair, lane: Lane, state: PairState) {
        self.pairs.insert(pair, (state, lane));
        self.of_subscribers.insert((pair.subscriber, pair.publisher));
    }

    /// The pair whose turn it is on a lane, if that has room. It is matched from now on.
    pub(super) fn next_due(&mut self, lane: Lane) -> Option<Pair> {
        let traffic = self.lanes.get_mut(&lane)?;
        if traffic.under_way >= self.lane_limit {
            return None;
        }
        let pair = traffic.waiting.pop_first()?;
        traffic.under_way += 1;
        self.pairs.insert(pair, (PairState::Matched, lane));
        Some(pair)
    }

    /// Moves a pair that was matched. What has arrived makes room on its lane, which is given back.
    pub(super) fn advance(&mut self, pair: Pair, state: PairState) -> Option<Lane> {
        let lane = self.lane(pair)?;
        if state.has_arrived() {
            self.settle(lane, pair);
        }
        self.pairs.insert(pair, (state, lane));
        Some(lane)
    }

    /// Forgets a pair. There may be room on its lane, which is given back.
    pub(super) fn forget(&mut self, pair: Pair) -> Option<Lane> {
        let lane = self.lane(pair)?;
        self.settle(lane, pair);
        self.pairs.remove(&pair);
        self.of_subscribers.remove(&(pair.subscriber, pair.publisher));
        Some(lane)
    }

    /// Takes a pair out of its lane.
    fn settle(&mut self, lane: Lane, pair: Pair) {
        let Some(traffic) = self.lanes.get_mut(&lane) else { return };
        match self.pairs.get(&pair) {
            Some((PairState::Matched | PairState::Attaching { .. }, _)) => traffic.under_way -= 1,
            Some((PairState::Waiting, _)) => drop(traffic.waiting.remove(&pair)),
            _ => {}
        }
        if traffic.under_way == 0 && traffic.waiting.is_empty() {
            self.lanes.remove(&lane);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.of_subscribers.is_empty() && self.lanes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn assert_sound(&self) {
        let turned = self.of_subscribers.iter().map(|(s, p)| Pair { publisher: *p, subscriber: *s });
        assert_eq!(turned.collect::<BTreeSet<_>>(), self.pairs.keys().copied().collect());
        let mut counts: BTreeMap<Lane, (usize, usize)> = BTreeMap::new();
        for (state, lane) in self.pairs.values() {
            let (under_way, waiting) = counts.entry(*lane).or_default();
            match state {
                PairState::Matched | PairState::Attaching { .. } => *under_way += 1,
                PairState::Waiting => *waiting += 1,
                _ => {}
            }
        }
        counts.retain(|_, count| *count != (0, 0));
        for (lane, (under_way, waiting)) in &counts {
            assert!(*under_way <= self.lane_limit, "{lane:?}");
            assert!(*waiting == 0 || *under_way == self.lane_limit, "{lane:?} has room and somebody waits");
        }
        let counted = self.lanes.iter().map(|(lane, t)| (*lane, (t.under_way, t.waiting.len())));
        assert_eq!(counted.collect::<BTreeMap<_, _>>(), counts);
    }
}
