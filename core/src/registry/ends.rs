//! Publishers and subscriptions, and the services that they make.
//!
//! What holds after every call:
//!
//! - A service is there as long as a publisher or an exact subscriber of it is, and carries something as long
//!   as it has a publisher.
//! - All its publishers send the same ([`Stream`]); who offers something else asks [`Ends::stream`] first.
//! - A subscription is with its service if its filter is a name, and among the patterns otherwise.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::event::ClientId;
use super::pairs::Pair;
use crate::contract::{Asks, Author, Contract, Kind, Pattern};
use crate::end::EndId;
use crate::filter::Filter;
use crate::name::ServiceName;
use crate::protocol::Offer;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Ends {
    services: BTreeMap<ServiceName, Service>,
    publishers: BTreeMap<EndId, Publisher>,
    subscribers: BTreeMap<EndId, Subscriber>,
    /// Subscribers whose filter is a pattern.
    patterns: BTreeSet<EndId>,
}

/// A service lives as long as a publisher or an exact subscriber of it.
#[derive(Debug, Default)]
struct Service {
    /// What all its publishers send; `None`: it has none.
    stream: Option<Stream>,
    publishers: BTreeSet<EndId>,
    /// Subscribers by exactly this name, whatever they ask for.
    subscribers: BTreeSet<EndId>,
}

/// What a service carries.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) pattern: Pattern,
    pub(super) kind: Kind,
}

impl Stream {
    pub(super) fn of(offer: &Offer) -> Stream {
        Stream { pattern: offer.contract.pattern, kind: offer.kind.clone() }
    }

    pub(super) fn is_same(&self, other: &Stream) -> bool {
        self.pattern == other.pattern && self.kind.fingerprint == other.kind.fingerprint
    }
}

#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) client: ClientId,
    pub(super) service: ServiceName,
    pub(super) contract: Contract,
    pub(super) born: u64,
    pub(super) author: Author,
}

impl Publisher {
    pub(super) fn former(&self) -> Option<EndId> {
        self.author.former().map(|former| former.publisher)
    }
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) client: ClientId,
    pub(super) filter: Filter,
    pub(super) asks: Asks,
    /// Connections that it brought along, until their publisher announces itself too.
    pub(super) announced: BTreeMap<EndId, u32>,
    /// How many those were; they count against the bound of the node until this subscriber is gone.
    pub(super) brought: usize,
}

/// Whether a service is what a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// It is named, or matches, and has another type or pattern.
    Misfit,
    /// It matches a filter that means services of another pattern.
    NotMeant,
}

impl Subscriber {
    pub(super) fn fit(&self, stream: &Stream) -> Fit {
        if self.asks.pattern != stream.pattern {
            return if self.filter.is_exact().is_some() { Fit::Misfit } else { Fit::NotMeant };
        }
        if self.asks.accepts(&stream.kind) { Fit::Fits } else { Fit::Misfit }
    }
}

impl Ends {
    // ---- publishers

    /// True: it is the only one of its service.
    pub(super) fn add_publisher(&mut self, end: EndId, publisher: Publisher, stream: Stream) -> bool {
        let service = self.services.entry(publisher.service.clone()).or_default();
        let is_first = service.publishers.is_empty();
        service.publishers.insert(end);
        service.stream.get_or_insert(stream);
        self.publishers.insert(end, publisher);
        is_first
    }

    pub(super) fn remove_publisher(&mut self, end: EndId) -> Option<Publisher> {
        let publisher = self.publishers.remove(&end)?;
        self.leave_service(&publisher.service, |service| service.publishers.remove(&end));
        Some(publisher)
    }

    pub(super) fn publisher(&self, end: EndId) -> Option<&Publisher> {
        self.publishers.get(&end)
    }

    pub(super) fn publishers(&self) -> impl Iterator<Item = (EndId, &Publisher)> {
        self.publishers.iter().map(|(end, publisher)| (*end, publisher))
    }

    pub(super) fn publishers_after(&self, end: EndId) -> impl Iterator<Item = (EndId, &Publisher)> {
        self.publishers.range((Excluded(end), Unbounded)).map(|(end, publisher)| (*end, publisher))
    }

    // ---- subscribers

    pub(super) fn add_subscriber(&mut self, end: EndId, subscriber: Subscriber) {
        if let Some(service) = subscriber.filter.is_exact() {
            self.services.entry(service).or_default().subscribers.insert(end);
        } else {
            self.patterns.insert(end);
        }
        self.subscribers.insert(end, subscriber);
    }

    pub(super) fn remove_subscriber(&mut self, end: EndId) -> Option<Subscriber> {
        let subscriber = self.subscribers.remove(&end)?;
        self.patterns.remove(&end);
        if let Some(service) = subscriber.filter.is_exact() {
            self.leave_service(&service, |service| service.subscribers.remove(&end));
        }
        Some(subscriber)
    }

    pub(super) fn subscriber(&self, end: EndId) -> Option<&Subscriber> {
        self.subscribers.get(&end)
    }

    pub(super) fn subscribers(&self) -> impl Iterator<Item = (EndId, &Subscriber)> {
        self.subscribers.iter().map(|(end, subscriber)| (*end, subscriber))
    }

    pub(super) fn subscribers_after(&self, end: EndId) -> impl Iterator<Item = (EndId, &Subscriber)> {
        self.subscribers.range((Excluded(end), Unbounded)).map(|(end, subscriber)| (*end, subscriber))
    }

    /// The seat of a connection that the subscriber brought along, once.
    pub(super) fn take_brought(&mut self, pair: Pair) -> Option<u32> {
        self.subscribers.get_mut(&pair.subscriber)?.announced.remove(&pair.publisher)
    }

    // ---- both

    /// Whose end this is.
    pub(super) fn client_of(&self, end: EndId) -> Option<ClientId> {
        let publisher = self.publishers.get(&end).map(|publisher| publisher.client);
        publisher.or_else(|| self.subscribers.get(&end).map(|subscriber| subscriber.client))
    }

    pub(super) fn len(&self) -> usize {
        self.publishers.len() + self.subscribers.len()
    }

    // ---- services

    /// What a service carries; `None`: nobody publishes it.
    pub(super) fn stream(&self, service: &ServiceName) -> Option<&Stream> {
        self.services.get(service)?.stream.as_ref()
    }

    /// What the service of a publisher carries.
    pub(super) fn stream_of(&self, publisher: &Publisher) -> &Stream {
        self.stream(&publisher.service).expect("a service with a publisher carries something")
    }

    pub(super) fn publishers_of(&self, service: &ServiceName) -> impl Iterator<Item = (EndId, &Publisher)> {
        let ends = self.services.get(service).into_iter().flat_map(|service| &service.publishers);
        ends.map(|end| (*end, &self.publishers[end]))
    }

    /// The services with a publisher after this name, in order.
    pub(super) fn services_after(&self, name: &str) -> impl Iterator<Item = (&ServiceName, &Stream)> {
        let later = self.services.range::<str, _>((Excluded(name), Unbounded));
        later.filter_map(|(name, service)| Some((name, service.stream.as_ref()?)))
    }

    /// The subscriptions whose filter matches this name, whatever they ask for.
    pub(super) fn subscribers_of(&self, service: &ServiceName) -> impl Iterator<Item = (EndId, &Subscriber)> {
        let exact = self.services.get(service).into_iter().flat_map(|service| &service.subscribers);
        let exact = exact.map(|end| (*end, &self.subscribers[end]));
        let patterns = self.patterns.iter().map(|end| (*end, &self.subscribers[end]));
        exact.chain(patterns.filter(|(_, subscriber)| subscriber.filter.matches(service.as_str())))
    }

    /// The subscriptions that may have brought along a connection with a publisher of this service, those
    /// whose filter it does not match as well.
    pub(super) fn possible_subscribers_of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (EndId, &Subscriber)> {
        let exact = self.services.get(service).into_iter().flat_map(|service| &service.subscribers);
        exact.chain(&self.patterns).map(|end| (*end, &self.subscribers[end]))
    }

    /// The services with a publisher whose name this filter matches, and their publishers.
    pub(super) fn services_of(
        &self,
        filter: &Filter,
    ) -> impl Iterator<Item = (&ServiceName, &Stream, &BTreeSet<EndId>)> {
        let exact = filter.is_exact();
        let named = exact.as_ref().and_then(|name| self.services.get_key_value(name));
        let all = exact.is_none().then_some(&self.services).into_iter().flatten();
        let matching = all.filter(|(name, _)| filter.matches(name.as_str()));
        let carrying = named.into_iter().chain(matching);
        carrying.filter_map(|(name, service)| Some((name, service.stream.as_ref()?, &service.publishers)))
    }

    /// Takes an end out of its service; what it carries is free again when nobody publishes, and the name
    /// when nobody is left.
    fn leave_service(&mut self, name: &ServiceName, leave: impl FnOnce(&mut Service) -> bool) {
        let Some(service) = self.services.get_mut(name) else { return };
        leave(service);
        if service.publishers.is_empty() {
            service.stream = None;
        }
        if service.publishers.is_empty() && service.subscribers.is_empty() {
            self.services.remove(name);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.len() == 0 && self.patterns.is_empty()
    }

    /// How many names are used.
    #[cfg(test)]
    pub(super) fn services(&self) -> usize {
        self.services.len()
    }

    #[cfg(test)]
    pub(super) fn assert_sound(&self) {
        let mut listed = BTreeSet::new();
        for (name, service) in &self.services {
            assert!(!service.publishers.is_empty() || !service.subscribers.is_empty(), "{name} is left over");
            assert_eq!(service.stream.is_some(), !service.publishers.is_empty(), "publishers fix the type");
            for end in &service.publishers {
                assert_eq!(self.publishers[end].service, *name);
                listed.insert(*end);
            }
            for end in &service.subscribers {
                assert_eq!(self.subscribers[end].filter.is_exact().as_ref(), Some(name));
                listed.insert(*end);
            }
        }
        for end in &self.patterns {
            assert!(self.subscribers[end].filter.is_exact().is_none());
            listed.insert(*end);
        }
        let all = self.publishers.keys().chain(self.subscribers.keys()).copied();
        assert_eq!(listed, all.collect());
    }
}
