//! No slow joiners: a subscriber that was there when a publisher began gets everything, from its first
//! message on.
//!
//! ```text
//!                    Offer, begins                    the last one is attached, declines or goes
//!   publisher: (none) ───────────▶ begins ────────────────────────────────────────────────────▶ (nothing to be done)
//!                                    │ Lend: they take too long                                    ▲           ▲
//!                                    ▼               the last one is attached, declines or goes   │           │
//!                                  begins, its ring is kept ──────────────────────────────────────┘           │
//!                                    │ Withdraw, or its socket closes                                         │
//!                                    ▼                                                                        │
//!                                  orphaned: left ──▶ over: whoever asks gets the ring ───────────────────────┘
//!                                        its process is dead, or it has withdrawn itself
//! ```
//!
//! The *joiners* of a publisher are the subscribers that match when it is offered. They are introduced like
//! all others; what is added:
//!
//! - `Accepted` says that they are under way, `Joined` that nobody is awaited any more. Between the two the
//!   publisher's node waits, for at most `hivemind_runtime::session::JOINERS_PATIENCE` after the last sign of
//!   progress. `Joined` leaves after the `Attached` of the last joiner, so whatever dies then (the publisher,
//!   the root, both), the ring is with the subscriber.
//! - `Attach` says that the reader begins at the first message, also if it comes late. What was overwritten
//!   until then counts as lost.
//! - When the wait is over, `Lend` gives the root a descriptor of the ring. The root never maps it. It hands
//!   it to the joiners that are left when the publisher is gone, and closes it when none is left. Nobody
//!   writes this ring any more, so no pin has to count: the publisher has withdrawn it, or the kernel says
//!   that its process is dead. A socket that closed proves neither; until the proof comes, a joiner that asks
//!   gets no answer.
//! - A node that did not answer its `Match` while a publisher waited is not awaited until it answers one; a
//!   node of a user who does not own the hive, never again. It gets everything nevertheless. A publisher may
//!   say so of nodes of its own user alone, unless it is the owner's.
//! - Rings that are lent are bounded, for all and for each guest. One too many is not kept: if its publisher
//!   ends before its joiners answer, they get nothing of it.
//!
//! If the root's process dies, lent rings are lost with it. A publisher that has sent nothing yet begins anew
//! at the next root.
use std::collections::{BTreeMap, BTreeSet};

use super::Registry;
use super::event::{Action, Actions, Attachment, ClientId, send};
use super::pairs::{Pair, PairState};
use crate::end::EndId;
use crate::name::ServiceName;
use crate::protocol::{Carrier, Joining, PUBLISHER_GONE, Right, ToNode, not_allowed};

/// Users other than the owner that are remembered for not having answered; beyond this, no such user is
/// awaited.
const GUESTS_MAX: usize = 1024;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Joiners {
    beginnings: BTreeMap<EndId, Beginning>,
    /// Those of them whose publisher is gone.
    orphans: BTreeSet<EndId>,
    /// Nodes that do not answer at the moment.
    unanswering: BTreeSet<ClientId>,
    /// Users who do not own the hive, and of whom a node did not answer once.
    unanswering_guests: BTreeSet<u32>,
}

/// A publisher, and who was there before it and is not attached yet.
#[derive(Debug)]
struct Beginning {
    client: ClientId,
    user: u32,
    service: ServiceName,
    /// Never empty.
    joiners: BTreeMap<EndId, Joiner>,
    /// How many of them somebody waits for.
    awaited: usize,
    /// The publisher's node waits for `Joined`.
    waits: bool,
    /// The root has the ring.
    is_lent: bool,
    life: Life,
}

#[derive(Debug)]
struct Joiner {
    is_awaited: bool,
    /// It has asked for the ring of a publisher that is gone.
    asks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// As far as the root knows.
    Lives,
    /// The root has lost it, and it may still write.
    Left,
    /// Nothing is written any more.
    Over,
}

#[cfg(test)]
impl Joiners {
    pub(super) fn is_empty(&self) -> bool {
        self.beginnings.is_empty() && self.orphans.is_empty() && self.unanswering.is_empty()
    }

    /// Publishers that have begun and are not done with it.
    pub(super) fn beginnings(&self) -> usize {
        self.beginnings.len()
    }

    /// Rings that publishers have lent.
    pub(super) fn lent(&self) -> usize {
        self.beginnings.values().filter(|beginning| beginning.is_lent).count()
    }

    /// What holds between any two events.
    pub(super) fn assert_sound(&self, registry: &Registry) {
        for (end, beginning) in &self.beginnings {
            assert!(!beginning.joiners.is_empty(), "{end} waits for nobody");
            let awaited = beginning.joiners.values().filter(|joiner| joiner.is_awaited).count();
            assert_eq!(beginning.awaited, awaited);
            let is_orphan = self.orphans.contains(end);
            assert!(!is_orphan || beginning.is_lent, "nobody has the ring of {end}");
            assert!(is_orphan || registry.ends.publisher(*end).is_some(), "{end} is gone and forgotten");
            for subscriber in beginning.joiners.keys() {
                assert!(registry.ends.subscriber(*subscriber).is_some(), "{subscriber} has gone");
                let state = registry.pairs.state(Pair { publisher: *end, subscriber: *subscriber });
                assert!(is_orphan || state.is_some_and(|state| !state.has_arrived()), "{state:?}");
            }
        }
        assert!(self.orphans.iter().all(|end| self.beginnings.contains_key(end)));
        assert!(self.unanswering.iter().all(|client| registry.clients.contains(*client)));
    }
}

impl Registry {
    // ---- a publisher begins

    /// A publisher is offered, and `wanting` match. To be called before they are paired.
    pub(super) fn expect(&mut self, client: ClientId, end: EndId, service: &ServiceName, wanting: &[EndId]) {
        let joiner = |end_of_joiner: &EndId| {
            let subscriber = self.ends.subscriber(*end_of_joiner)?;
            let is_awaited = !self.is_unanswering(subscriber.client);
            let is_new = !subscriber.announced.contains_key(&end);
            is_new.then_some((*end_of_joiner, Joiner { is_awaited, asks: false }))
        };
        let joiners: BTreeMap<EndId, Joiner> = wanting.iter().filter_map(joiner).collect();
        if joiners.is_empty() {
            return;
        }
        let awaited = joiners.values().filter(|joiner| joiner.is_awaited).count();
        let user = self.clients.user(client);
        let (service, life) = (service.clone(), Life::Lives);
        let beginning =
            Beginning { client, user, service, joiners, awaited, waits: false, is_lent: false, life };
        self.joiners.beginnings.insert(end, beginning);
    }

    /// Tells a publisher that it stands, and whether others are on their way to it.
    pub(super) fn accept(&mut self, client: ClientId, end: EndId, request: u64, actions: &mut Actions) {
        let joining = match self.joiners.beginnings.get_mut(&end) {
            None => Joining::Done,
            Some(beginning) if beginning.awaited == 0 => Joining::Unanswered,
            Some(beginning) => {
                beginning.waits = true;
                Joining::UnderWay
            }
        };
        actions.push(send(client, ToNode::Accepted { request, joining }));
    }

    /// Whether this subscriber was there before the publisher, and is not attached yet.
    pub(super) fn is_expected(&self, pair: Pair) -> bool {
        let beginning = self.joiners.beginnings.get(&pair.publisher);
        beginning.is_some_and(|beginning| beginning.joiners.contains_key(&pair.subscriber))
    }

    /// A pair is attached, has failed, or is forgotten because its subscriber goes.
    pub(super) fn has_joined(&mut self, pair: Pair, actions: &mut Actions) {
        let end = pair.publisher;
        let Some(beginning) = self.joiners.beginnings.get_mut(&end) else { return };
        let Some(joiner) = beginning.joiners.remove(&pair.subscriber) else { return };
        beginning.awaited -= usize::from(joiner.is_awaited);
        beginning.tell_if_joined(end, actions);
        self.end_if_empty(end, actions);
    }

    fn end_if_empty(&mut self, end: EndId, actions: &mut Actions) {
        let beginnings = &mut self.joiners.beginnings;
        if beginnings.get(&end).is_some_and(|beginning| beginning.joiners.is_empty()) {
            self.end_beginning(end, actions);
        }
    }

    fn end_beginning(&mut self, end: EndId, actions: &mut Actions) {
        self.joiners.orphans.remove(&end);
        let was_lent = self.joiners.beginnings.remove(&end).is_some_and(|beginning| beginning.is_lent);
        if was_lent {
            actions.push(Action::DropRing { publisher: end });
        }
    }

    // ---- who takes too long

    /// The node of a publisher waits no longer, and lends its ring to those who are left.
    pub(super) fn lent(&mut self, client: ClientId, end: EndId, ring: &Carrier, actions: &mut Actions) {
        let carried = *ring == Carrier::Descriptor;
        let has_room = self.has_room_for_ring(client);
        let is_guest = !self.rights(client).are_everything();
        // All have joined meanwhile; or it has been withdrawn.
        if self.ends.publisher(end).is_none() {
            return;
        }
        let Some(beginning) = self.joiners.beginnings.get_mut(&end) else { return };
        beginning.waits = false;
        if carried && has_room && !beginning.is_lent {
            beginning.is_lent = true;
            actions.push(Action::KeepRing { client, publisher: end });
        } else if !beginning.is_lent {
            let (service, publisher) = (&beginning.service, end);
            let what = "no room to keep one more ring for those who do not answer";
            // A guest can say it without end, and is not to fill the log of others with it.
            if is_guest {
                tracing::debug!(%service, %publisher, "{what}");
            } else {
                tracing::warn!(%service, %publisher, "{what}");
            }
        }
        // It is not the turn of those that wait for room in their lane, or for the publisher.
        let is_to_blame = |subscriber: &EndId| {
            let pair = Pair { publisher: end, subscriber: *subscriber };
            self.pairs.state(pair) == Some(PairState::Matched)
        };
        let awaited = beginning.joiners.iter().filter(|(_, joiner)| joiner.is_awaited).map(|(end, _)| end);
        let silent: BTreeSet<ClientId> =
            awaited.filter(|end| is_to_blame(end)).filter_map(|end| self.ends.client_of(*end)).collect();
        let may_blame = |other: &ClientId| {
            self.rights(client).are_everything() || self.clients.user(*other) == self.clients.user(client)
        };
        let blamed: Vec<ClientId> = silent.into_iter().filter(may_blame).collect();
        if blamed.is_empty() {
            // To look through all that begin takes long, and who says `Lend` again and again blames nobody
            // but once.
            return;
        }
        for other in blamed {
            self.does_not_answer(other);
        }
        self.await_nobody_silent(actions);
    }

    fn has_room_for_ring(&self, client: ClientId) -> bool {
        let user = self.clients.user(client);
        let lent = || self.joiners.beginnings.values().filter(|beginning| beginning.is_lent);
        let is_guest = !self.rights(client).are_everything();
        let of_user = || lent().filter(|beginning| beginning.user == user).count();
        lent().count() < self.limits.lent && (!is_guest || of_user() < self.limits.lent_of_a_guest)
    }

    fn is_unanswering(&self, client: ClientId) -> bool {
        let Joiners { unanswering, unanswering_guests: guests, .. } = &self.joiners;
        let user = self.clients.user(client);
        let is_guest = || !self.rights(client).are_everything();
        unanswering.contains(&client)
            || (!guests.is_empty() && is_guest() && (guests.contains(&user) || guests.len() >= GUESTS_MAX))
    }

    fn does_not_answer(&mut self, client: ClientId) {
        let (pid, user) = (self.clients[client].pid, self.clients.user(client));
        let is_guest = !self.rights(client).are_everything();
        let is_news = self.joiners.unanswering.insert(client);
        if is_guest && self.joiners.unanswering_guests.len() < GUESTS_MAX {
            self.joiners.unanswering_guests.insert(user);
        }
        if is_news {
            let node = self.clients.node(client).name.as_str();
            tracing::warn!(
                node,
                pid,
                user,
                is_guest,
                "does not answer; publishers that begin do not wait for it any more"
            );
        }
    }

    /// Nodes that did not answer are no longer awaited by any publisher.
    fn await_nobody_silent(&mut self, actions: &mut Actions) {
        let mut silent = Vec::new();
        for (publisher, beginning) in &self.joiners.beginnings {
            let awaited = beginning.joiners.iter().filter(|(_, joiner)| joiner.is_awaited);
            let is_silent = |client| self.is_unanswering(client);
            let of_silent = awaited.filter(|(end, _)| self.ends.client_of(**end).is_some_and(is_silent));
            silent.extend(of_silent.map(|(subscriber, _)| (*publisher, *subscriber)));
        }
        for (publisher, subscriber) in silent {
            let Some(beginning) = self.joiners.beginnings.get_mut(&publisher) else { continue };
            if let Some(joiner) = beginning.joiners.get_mut(&subscriber) {
                joiner.is_awaited = false;
                beginning.awaited -= 1;
                beginning.tell_if_joined(publisher, actions);
            }
        }
    }

    /// A node answers a `Match`.
    pub(super) fn has_answered(&mut self, client: ClientId) {
        self.joiners.unanswering.remove(&client);
    }

    // ---- publishers that go

    /// A node withdraws its own publisher.
    pub(super) fn ends_in_order(&mut self, end: EndId) {
        if let Some(beginning) = self.joiners.beginnings.get_mut(&end)
            && self.ends.publisher(end).is_some()
        {
            beginning.life = Life::Over;
        }
    }

    /// An end is about to be forgotten. True: it is a publisher whose ring is kept for its joiners, all of
    /// whom are told of it.
    pub(super) fn orphan(&mut self, end: EndId, actions: &mut Actions) -> bool {
        if self.ends.publisher(end).is_none() {
            return false;
        }
        let Some(beginning) = self.joiners.beginnings.get(&end) else { return false };
        if !beginning.is_lent {
            self.joiners.beginnings.remove(&end);
            return false;
        }
        let joiners: Vec<EndId> = beginning.joiners.keys().copied().collect();
        for subscriber in joiners {
            let pair = Pair { publisher: end, subscriber };
            let state = self.pairs.state(pair);
            if state == Some(PairState::Waiting) {
                // Its lane ends with the publisher.
                actions.extend(self.match_of(pair));
            }
            let beginning = self.joiners.beginnings.get_mut(&end);
            if let Some(joiner) = beginning.and_then(|beginning| beginning.joiners.get_mut(&subscriber)) {
                joiner.asks = matches!(state, Some(PairState::Attaching { .. }));
            }
        }
        if let Some(beginning) = self.joiners.beginnings.get_mut(&end)
            && beginning.life == Life::Lives
        {
            beginning.life = Life::Left;
        }
        self.joiners.orphans.insert(end);
        true
    }

    /// The process of a client that is gone is dead: what it lent is not written any more.
    pub(super) fn died(&mut self, client: ClientId, actions: &mut Actions) {
        for end in self.joiners.orphans.clone() {
            if let Some(beginning) = self.joiners.beginnings.get_mut(&end)
                && beginning.client == client
            {
                beginning.life = Life::Over;
                self.serve_orphan(end, actions);
            }
        }
    }

    /// Gives the ring of a publisher that is gone to those who have asked for it.
    pub(super) fn serve_orphan(&mut self, end: EndId, actions: &mut Actions) {
        let Some(beginning) = self.joiners.beginnings.get_mut(&end) else { return };
        if beginning.life != Life::Over || !self.joiners.orphans.contains(&end) {
            return;
        }
        let asking = beginning.joiners.iter().filter(|(_, joiner)| joiner.asks).map(|(end, _)| *end);
        let asking: Vec<EndId> = asking.collect();
        beginning.joiners.retain(|_, joiner| !joiner.asks);
        beginning.awaited = beginning.joiners.values().filter(|joiner| joiner.is_awaited).count();
        let (user, service) = (beginning.user, beginning.service.clone());
        for subscriber in asking {
            let Some(to) = self.ends.client_of(subscriber) else { continue };
            if !self.rights(to).read(&service) {
                let reader = self.clients.user(to);
                let reason = not_allowed(self.policy.owner(), reader, Right::Subscribe, service.as_str());
                actions.push(Pair { publisher: end, subscriber }.refused(to, reason));
                continue;
            }
            let bells = self.clients.node(to).bells.clone();
            let mut attachments = vec![Attachment::LentRing(end)];
            attachments.extend((bells == Carrier::Descriptor).then_some(Attachment::BellsOf(to)));
            attachments.push(Attachment::LentPidfd(end));
            let message = ToNode::Attached {
                subscriber: subscriber.index,
                publisher: end,
                user,
                start: 0,
                ring: Carrier::Descriptor,
                // Nobody rings any more, and no doorbells go to another user: those that it has itself stand
                // in.
                bells,
                is_stranger: self.clients.user(to) != user,
                gone: true,
            };
            actions.push(Action::Send { to, message, attachments });
        }
        self.end_if_empty(end, actions);
    }

    /// A subscriber answers the `Match` of a publisher. True: that is gone, its ring is kept for this
    /// subscriber, and it gets it.
    pub(super) fn asks_for_orphan(&mut self, pair: Pair, actions: &mut Actions) -> bool {
        if !self.joiners.orphans.contains(&pair.publisher) {
            return false;
        }
        let beginning = self.joiners.beginnings.get_mut(&pair.publisher);
        let Some(joiner) = beginning.and_then(|beginning| beginning.joiners.get_mut(&pair.subscriber)) else {
            return false;
        };
        joiner.asks = true;
        self.serve_orphan(pair.publisher, actions);
        true
    }

    /// A subscriber does not want the ring of a publisher that is gone.
    pub(super) fn leaves_orphan(&mut self, pair: Pair, actions: &mut Actions) {
        if self.joiners.orphans.contains(&pair.publisher) {
            if let Some(beginning) = self.joiners.beginnings.get_mut(&pair.publisher)
                && let Some(joiner) = beginning.joiners.remove(&pair.subscriber)
            {
                beginning.awaited -= usize::from(joiner.is_awaited);
            }
            self.end_if_empty(pair.publisher, actions);
        }
    }

    /// A subscriber goes.
    pub(super) fn leaves_orphans(&mut self, subscriber: EndId, actions: &mut Actions) {
        for publisher in self.joiners.orphans.clone() {
            self.leaves_orphan(Pair { publisher, subscriber }, actions);
        }
    }

    /// A publisher of this number comes: the process of the one before has only lost its connection, or
    /// somebody else claims its number.
    pub(super) fn discard_orphan(&mut self, end: EndId, actions: &mut Actions) {
        if !self.joiners.orphans.contains(&end) {
            return;
        }
        let joiners = self.joiners.beginnings.get(&end).into_iter().flat_map(|beginning| &beginning.joiners);
        for (subscriber, _) in joiners.filter(|(_, joiner)| joiner.asks) {
            let pair = Pair { publisher: end, subscriber: *subscriber };
            let to = self.ends.client_of(*subscriber);
            actions.extend(to.map(|to| pair.refused(to, PUBLISHER_GONE.into())));
        }
        self.end_beginning(end, actions);
    }
}

impl Beginning {
    fn tell_if_joined(&mut self, end: EndId, actions: &mut Actions) {
        if self.waits && self.awaited == 0 {
            self.waits = false;
            let unanswered = !self.joiners.is_empty();
            actions.push(send(self.client, ToNode::Joined { publisher: end.index, unanswered }));
        }
    }
}
