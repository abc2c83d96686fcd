//! Ends that come and go: what an `Offer`, a `Demand` and a `Withdraw` do, and what an end hears that does
//! not fit.
use std::collections::BTreeSet;

use super::ends::{Fit, Publisher, Stream, Subscriber};
use super::event::{Actions, ClientId, check_limit, malformed, refuse, send};
use super::pairs::{Lane, Pair, PairState};
use super::{Registry, Right};
use crate::contract::{Carried, Kind, MAX_SCHEMA, Remote, Route};
use crate::end::EndId;
use crate::filter::Filter;
use crate::name::{ServiceName, is_host_name};
use crate::protocol::{
    CONNECTED_PER_PACKET, Connected, Demand, Joining, Misfit, Offer, PUBLISHER_GONE, Refusal, Table, ToNode,
};

impl Registry {
    // ---- publishers

    pub(super) fn offer(&mut self, client: ClientId, request: u64, offer: Offer, actions: &mut Actions) {
        let service = match self.check_offer(client, &offer) {
            Ok(service) => service,
            Err(refusal) => return actions.push(refuse(client, Some(request), refusal)),
        };
        if !self.may_stand_for(client, &service, &offer, actions) {
            return;
        }
        let stream = Stream::of(&offer);
        self.make_way(&service, &stream, actions);
        let end = self.clients.end(client, offer.index);
        let (wanting, skipping) = self.subscribers_of(&service, &stream);
        let barred = self.barred_from(&service, end);
        if let Err(refusal) = self.room_for_pairs(wanting.len()) {
            return actions.push(refuse(client, Some(request), refusal));
        }
        let Offer { contract, born, author, begins, .. } = offer;
        let publisher = Publisher { client, service: service.clone(), contract, born, author };
        let former = publisher.former();
        let is_first = self.ends.add_publisher(end, publisher, stream);
        self.clients.holdings(client).add_end(end.index);
        self.has_changed(actions);
        self.discard_orphan(end, actions);
        if begins && former.is_none() {
            self.expect(client, end, &service, &wanting);
        }
        match former {
            None if contract.retained > 0 => self.begin_to_retain(client, end, request, actions),
            _ => self.accept(client, end, request, actions),
        }
        if former.is_some_and(|former| !self.stands_for(client, end, former, actions)) {
            return;
        }
        for subscriber in wanting {
            self.pair_up(Pair { publisher: end, subscriber }, actions);
        }
        for subscriber in skipping.into_iter().filter(|_| is_first) {
            self.skip(&service, subscriber, actions);
        }
        for subscriber in barred {
            self.bar(Pair { publisher: end, subscriber }, &service, actions);
        }
    }

    fn check_offer(&self, client: ClientId, offer: &Offer) -> Result<ServiceName, Refusal> {
        let service =
            ServiceName::parse(&offer.service).map_err(|error| Refusal::Name { why: error.to_string() })?;
        self.check_right(client, Right::Publish, &offer.service, self.rights(client).publish(&service))?;
        check_kind(&offer.kind)?;
        self.check_index(client, offer.index)?;
        if !self.gives_way(&service, offer) {
            self.check_stream(&service, offer)?;
        }
        if let Some(Remote { host, .. }) = offer.author.remote() {
            if !is_host_name(host) || offer.contract.retained > 0 {
                return Err(malformed("a publisher of another host that no link announces"));
            }
            // Subscribers are told that name and that host, and of the node that says so nothing.
            if !self.rights(client).are_everything() {
                return Err(malformed("only the owner of the hive links it with other hosts"));
            }
        }
        self.check_retained(client, offer)?;
        Ok(service)
    }

    fn check_stream(&self, service: &ServiceName, offer: &Offer) -> Result<(), Refusal> {
        match self.carried(service) {
            Some(carried) if carried.pattern != offer.contract.pattern => {
                Err(Refusal::OtherPattern(Box::new(carried)))
            }
            Some(carried) if carried.kind.fingerprint != offer.kind.fingerprint => {
                Err(Refusal::OtherType(Box::new(carried)))
            }
            _ => Ok(()),
        }
    }

    /// The subscriptions that want a service with this content, and those that name it although it does not
    /// fit.
    fn subscribers_of(&self, service: &ServiceName, stream: &Stream) -> (Vec<EndId>, Vec<EndId>) {
        let (mut wanting, mut skipping) = (Vec::new(), Vec::new());
        for (end, subscriber) in self.ends.subscribers_of(service) {
            match subscriber.fit(stream) {
                _ if !self.rights(subscriber.client).read(service) => {}
                Fit::Fits => wanting.push(end),
                Fit::Misfit => skipping.push(end),
                Fit::NotMeant => {}
            }
        }
        (wanting, skipping)
    }

    // ---- subscriptions

    /// Connections of a subscriber that its `Demand`, still to come, brings along.
    pub(super) fn announced(
        &mut self,
        client: ClientId,
        subscriber: u32,
        connections: Vec<Connected>,
        actions: &mut Actions,
    ) {
        debug_assert!(connections.len() <= CONNECTED_PER_PACKET, "checked when it was decoded");
        let limit = self.limits.announced;
        if !self.clients.holdings(client).announce(subscriber, connections, limit) {
            let refusal = Refusal::Limit { what: Table::Announced, limit: limit as u64 };
            self.expel(client, refusal, actions);
        }
    }

    pub(super) fn demand(&mut self, client: ClientId, request: u64, demand: Demand, actions: &mut Actions) {
        let brought = self.clients.holdings(client).take_announced(demand.index);
        let count = brought.len();
        if let Err(refusal) = self.subscribe(client, request, demand, &brought, actions) {
            self.clients.holdings(client).forget_announced(count);
            actions.push(refuse(client, Some(request), refusal));
        }
    }

    fn subscribe(
        &mut self,
        client: ClientId,
        request: u64,
        demand: Demand,
        brought: &[Connected],
        actions: &mut Actions,
    ) -> Result<(), Refusal> {
        let filter = self.check_demand(client, &demand)?;
        let end = self.clients.end(client, demand.index);
        let announced = brought.iter().map(|connected| (connected.publisher, connected.seat)).collect();
        let brought = brought.len();
        let subscriber = Subscriber { client, filter, asks: demand.asks, announced, brought };
        let (wanted, skipped) = self.publishers_for(&subscriber);
        let barred = self.barred_of(&subscriber);
        self.room_for_pairs(wanted.len())?;
        self.ends.add_subscriber(end, subscriber);
        self.clients.holdings(client).add_end(end.index);
        self.has_changed(actions);
        actions.push(send(client, ToNode::Accepted { request, joining: Joining::Done }));
        for publisher in wanted {
            self.pair_up(Pair { publisher, subscriber: end }, actions);
        }
        for service in skipped {
            self.skip(&service, end, actions);
        }
        for (publisher, service) in barred {
            self.bar(Pair { publisher, subscriber: end }, &service, actions);
        }
        Ok(())
    }

    fn check_demand(&self, client: ClientId, demand: &Demand) -> Result<Filter, Refusal> {
        let filter =
            Filter::parse(&demand.filter).map_err(|error| Refusal::Name { why: error.to_string() })?;
        self.check_right(client, Right::Subscribe, &demand.filter, self.rights(client).subscribe(&filter))?;
        self.check_index(client, demand.index)?;
        demand.asks.kind.as_ref().map_or(Ok(()), check_kind)?;
        Ok(filter)
    }

    /// The publishers that a subscription means, and the services that it means although they do not fit.
    pub(super) fn publishers_for(&self, subscriber: &Subscriber) -> (Vec<EndId>, Vec<ServiceName>) {
        let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
        let rights = self.rights(subscriber.client);
        for (name, stream, publishers) in self.ends.services_of(&subscriber.filter) {
            match subscriber.fit(stream) {
                _ if !rights.read(name) => {}
                Fit::Fits => wanted.extend(publishers),
                Fit::Misfit => skipped.push(name.clone()),
                Fit::NotMeant => {}
            }
        }
        (wanted, skipped)
    }

    // ---- ends that go

    pub(super) fn withdraw(&mut self, client: ClientId, index: u32, actions: &mut Actions) {
        let end = self.clients.end(client, index);
        let holdings = self.clients.holdings(client);
        let unused = holdings.take_announced(index).len();
        holdings.forget_announced(unused);
        if holdings.remove_end(index) {
            let mut relieved = BTreeSet::new();
            self.remove_end(end, &mut relieved, actions);
            for lane in relieved {
                self.release(lane, actions);
            }
        }
    }

    /// Forgets an end and its pairs; `relieved` gets the lanes that may have room now.
    pub(super) fn remove_end(&mut self, end: EndId, relieved: &mut BTreeSet<Lane>, actions: &mut Actions) {
        self.has_changed(actions);
        let is_orphaned = self.orphan(end, actions);
        for pair in self.pairs.of_publisher(end) {
            let is_served = is_orphaned && self.is_expected(pair);
            let state = self.pairs.state(pair);
            let Some(lane) = self.pairs.forget(pair) else { continue };
            if matches!(state, Some(PairState::Attaching { .. })) && !is_served {
                actions.push(pair.refused(lane.subscriber, PUBLISHER_GONE.into()));
            }
            relieved.insert(lane);
        }
        if let Some(publisher) = self.ends.remove_publisher(end) {
            match publisher.former() {
                Some(former) => self.stands_no_more(publisher.client, former, actions),
                None if publisher.contract.retained > 0 => self.has_ended(end, actions),
                None => {}
            }
            self.serve_orphan(end, actions);
        }
        for pair in self.pairs.of_subscriber(end) {
            relieved.extend(self.pairs.forget(pair));
            self.has_joined(pair, actions);
        }
        if let Some(subscriber) = self.ends.remove_subscriber(end) {
            self.leaves_orphans(end, actions);
            self.clients.holdings(subscriber.client).forget_announced(subscriber.brought);
        }
    }

    // ---- what does not fit

    /// Tells a subscriber that a service which it means carries something else.
    pub(super) fn skip(&self, service: &ServiceName, subscriber: EndId, actions: &mut Actions) {
        let (Some(carried), Some(to)) = (self.carried(service), self.ends.subscriber(subscriber)) else {
            return;
        };
        let message = ToNode::Skipped { subscriber: subscriber.index, carried: Box::new(carried) };
        actions.push(send(to.client, message));
    }

    /// Answers which subscriptions wait in vain for the service of this publisher, because they ask for
    /// something else.
    pub(super) fn misfits(&self, client: ClientId, request: u64, index: u32, actions: &mut Actions) {
        let publisher = self.ends.publisher(self.clients.end(client, index));
        let found = publisher
            .map(|publisher| self.subscribers_of(&publisher.service, self.ends.stream_of(publisher)).1);
        let found = found.unwrap_or_default();
        let first = found.first().and_then(|end| {
            let Subscriber { client, filter, asks, .. } = self.ends.subscriber(*end)?;
            let node_name = self.clients.node(*client).name.clone();
            Some(Box::new(Misfit { node_name, filter: filter.clone(), asks: asks.clone() }))
        });
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        actions.push(send(client, ToNode::Misfits { request, count, first }));
    }

    /// What a service carries, and who fixes it; `None`: nobody publishes it.
    fn carried(&self, service: &ServiceName) -> Option<Carried> {
        let (end, publisher) = self.ends.publishers_of(service).next()?;
        let Stream { pattern, kind } = self.ends.stream_of(publisher).clone();
        let holder = self.route_to(end, publisher).publisher_node().clone();
        Some(Carried { service: service.clone(), pattern, kind, holder })
    }

    pub(super) fn route_to(&self, end: EndId, publisher: &Publisher) -> Route {
        let node_name = self.clients.node(publisher.client).name.clone();
        Route { end, node_name, author: publisher.author.clone() }
    }

    // ---- checks

    fn check_index(&self, client: ClientId, index: u32) -> Result<(), Refusal> {
        let ends = self.clients.node(client).holdings.ends();
        if ends.contains(&index) {
            return Err(Refusal::IndexTaken { index });
        }
        check_limit(Table::EndsOfNode, ends.len(), self.limits.ends_per_node)?;
        check_limit(Table::Ends, self.ends.len(), self.limits.ends)
    }

    pub(super) fn room_for_pairs(&self, more: usize) -> Result<(), Refusal> {
        // One more than there would be is one too many.
        check_limit(Table::Pairs, (self.pairs.len() + more).saturating_sub(1), self.limits.pairs)
    }
}

fn check_kind(kind: &Kind) -> Result<(), Refusal> {
    if kind.schema.len() > MAX_SCHEMA {
        return Err(Refusal::Limit { what: Table::SchemaBytes, limit: MAX_SCHEMA as u64 });
    }
    Ok(())
}
