//! What the policy of a hive means for those who are in it.
//!
//! What a node may do follows from its credentials when it connects, and again when the policy changes. A new
//! policy is applied at once and to everything:
//!
//! | it no longer may | what happens                                                                                   |
//! | ---------------- | ---------------------------------------------------------------------------------------------- |
//! | join             | its connections are dissolved, it hears why, and is cut off                                     |
//! | publish          | the end is withdrawn and refused, its subscribers are told to let go                            |
//! | subscribe        | the same; a pattern that still means something loses those services only                        |
//!
//! Pairs that a new policy allows are matched as if both ends had just come. What is attached stays mapped:
//! the kernel cannot take that back. An obedient subscriber lets go when it is told (`AttachRefused` for a
//! pair that is connected); one that does not keeps what it had until its process ends, and nobody introduces
//! it any more.
use std::collections::BTreeSet;

use super::ends::Subscriber;
use super::event::{Actions, ClientId, check_limit, refuse};
use super::pairs::{Pair, PairState};
use super::{Registry, Right};
use crate::end::EndId;
use crate::name::ServiceName;
use crate::policy::{Credentials, Policy, Rights};
use crate::protocol::{Refusal, Table, not_allowed};

impl Registry {
    /// Whether a process may connect at all.
    pub(super) fn check_entry(&self, credentials: &Credentials, rights: &Rights) -> Result<(), Refusal> {
        let (owner, user) = (self.policy.owner(), credentials.user);
        if !rights.join() {
            return Err(Refusal::NotAllowed { owner, user, right: Right::Join, what: String::new() });
        }
        check_limit(Table::Nodes, self.clients.len(), self.limits.clients)?;
        if !rights.are_everything() {
            let theirs = self.clients.iter().filter(|(_, client)| client.credentials.user == user).count();
            check_limit(Table::NodesOfGuest, theirs, self.limits.clients_of_a_guest)?;
        }
        Ok(())
    }

    pub(super) fn rights(&self, client: ClientId) -> &Rights {
        &self.clients[client].rights
    }

    pub(super) fn not_allowed(&self, client: ClientId, right: Right, what: &str) -> Refusal {
        let (owner, user) = (self.policy.owner(), self.clients.user(client));
        Refusal::NotAllowed { owner, user, right, what: what.to_owned() }
    }

    pub(super) fn check_right(
        &self,
        client: ClientId,
        right: Right,
        what: &str,
        is_allowed: bool,
    ) -> Result<(), Refusal> {
        if is_allowed { Ok(()) } else { Err(self.not_allowed(client, right, what)) }
    }

    /// Looking at the ring of a publisher is reading its messages. A reader segment says what its node reads,
    /// and how far.
    pub(super) fn check_look(&self, asker: ClientId, asked: ClientId, end: EndId) -> Result<(), Refusal> {
        let rights = self.rights(asker);
        let is_own = !self.clients.are_strangers(asker, asked);
        let (what, is_allowed) = match (self.ends.publisher(end), self.ends.subscriber(end)) {
            (Some(publisher), _) => (publisher.service.as_str(), rights.read(&publisher.service)),
            (None, Some(subscriber)) => (subscriber.filter.as_str(), rights.subscribe(&subscriber.filter)),
            (None, None) => return Err(Refusal::UnknownEnd { end }),
        };
        self.check_right(asker, Right::Look, what, is_own || is_allowed)
    }

    /// The subscribers that came connected to this new publisher, and may not be.
    pub(super) fn barred_from(&self, service: &ServiceName, publisher: EndId) -> Vec<EndId> {
        if !self.policy.admits_others() {
            return Vec::new();
        }
        let wanted = self.ends.possible_subscribers_of(service).filter(|(_, subscriber)| {
            subscriber.announced.contains_key(&publisher) && !self.rights(subscriber.client).read(service)
        });
        wanted.map(|(end, _)| end).collect()
    }

    /// The publishers that a new subscriber came connected to, and may not read.
    pub(super) fn barred_of(&self, subscriber: &Subscriber) -> Vec<(EndId, ServiceName)> {
        let rights = self.rights(subscriber.client);
        let known = subscriber.announced.keys().filter_map(|end| Some((*end, self.ends.publisher(*end)?)));
        let barred = known.filter(|(_, publisher)| !rights.read(&publisher.service));
        barred.map(|(end, publisher)| (end, publisher.service.clone())).collect()
    }

    /// Tells a subscriber to let go of a publisher.
    pub(super) fn bar(&mut self, pair: Pair, service: &ServiceName, actions: &mut Actions) {
        let Some(client) = self.ends.subscriber(pair.subscriber).map(|subscriber| subscriber.client) else {
            return;
        };
        self.ends.take_brought(pair);
        let user = self.clients.user(client);
        let reason = not_allowed(self.policy.owner(), user, Right::Subscribe, service.as_str());
        actions.push(pair.refused(client, reason));
    }

    // ---- another policy

    pub(super) fn judge_anew(&mut self, policy: Policy, actions: &mut Actions) {
        debug_assert_eq!(policy.owner(), self.policy.owner(), "a hive does not change hands");
        self.policy = policy;
        self.clients.judge(&self.policy);
        self.dissolve_what_is_not_allowed(actions);
        let expelled: Vec<ClientId> =
            self.clients.iter().filter(|(_, client)| !client.rights.join()).map(|(id, _)| id).collect();
        for client in expelled {
            self.expel(client, self.not_allowed(client, Right::Join, ""), actions);
        }
        for (end, client, right, what) in self.ends_without_a_right() {
            let refusal = self.not_allowed(client, right, &what);
            actions.push(refuse(client, Some(end.index.into()), refusal));
            self.withdraw(client, end.index, actions);
        }
        self.match_what_is_allowed(actions);
    }

    /// Every pair whose publisher may not publish or whose subscriber may not read: the subscriber hears it.
    fn dissolve_what_is_not_allowed(&mut self, actions: &mut Actions) {
        let is_allowed = |pair: Pair| {
            let ends = (self.ends.publisher(pair.publisher), self.ends.subscriber(pair.subscriber));
            let (Some(publisher), Some(subscriber)) = ends else { return false };
            self.rights(publisher.client).publish(&publisher.service)
                && self.rights(subscriber.client).read(&publisher.service)
        };
        let dissolved: Vec<(Pair, PairState)> =
            self.pairs.iter().filter(|(pair, _)| !is_allowed(*pair)).collect();
        let mut relieved = BTreeSet::new();
        for (pair, state) in dissolved {
            let Some(lane) = self.pairs.lane(pair) else { continue };
            if matches!(state, PairState::Attaching { .. } | PairState::Connected { .. })
                && let Some(publisher) = self.ends.publisher(pair.publisher)
            {
                let (right, whose) = if self.rights(lane.publisher).publish(&publisher.service) {
                    (Right::Subscribe, lane.subscriber)
                } else {
                    (Right::Publish, lane.publisher)
                };
                let (owner, user) = (self.policy.owner(), self.clients.user(whose));
                let reason = not_allowed(owner, user, right, publisher.service.as_str());
                actions.push(pair.refused(lane.subscriber, reason));
            }
            self.pairs.forget(pair);
            self.has_joined(pair, actions);
            relieved.insert(lane);
        }
        for lane in relieved {
            self.release(lane, actions);
        }
    }

    fn ends_without_a_right(&self) -> Vec<(EndId, ClientId, Right, String)> {
        let publishers = self.ends.publishers().filter_map(|(end, publisher)| {
            let is_allowed = self.rights(publisher.client).publish(&publisher.service);
            let what = || publisher.service.as_str().to_owned();
            (!is_allowed).then(|| (end, publisher.client, Right::Publish, what()))
        });
        let subscribers = self.ends.subscribers().filter_map(|(end, subscriber)| {
            let is_allowed = self.rights(subscriber.client).subscribe(&subscriber.filter);
            let what = || subscriber.filter.as_str().to_owned();
            (!is_allowed).then(|| (end, subscriber.client, Right::Subscribe, what()))
        });
        publishers.chain(subscribers).collect()
    }

    /// Pairs up what the new policy allows and the old one did not, as far as there is room.
    fn match_what_is_allowed(&mut self, actions: &mut Actions) {
        let subscribers: Vec<EndId> = self.ends.subscribers().map(|(end, _)| end).collect();
        for end in subscribers {
            let Some(subscriber) = self.ends.subscriber(end) else { continue };
            if self.rights(subscriber.client).are_everything() {
                // Nothing that it may read has changed.
                continue;
            }
            let (wanted, skipped) = self.publishers_for(subscriber);
            for service in skipped {
                // It may have been told before; the old policy may have hidden it.
                self.skip(&service, end, actions);
            }
            for publisher in wanted {
                let pair = Pair { publisher, subscriber: end };
                if self.pairs.state(pair).is_some() {
                    continue;
                }
                if self.room_for_pairs(1).is_err() {
                    tracing::warn!(
                        limit = self.limits.pairs,
                        "no room for all pairs that the new policy allows"
                    );
                    return;
                }
                self.pair_up(pair, actions);
            }
        }
    }
}
