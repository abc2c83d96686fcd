//! The lines of the three tables, from what the root says and what stands in the segments.
use std::collections::BTreeMap;
use std::time::Duration;

use hivemind::{EndId, Filter, Listing};
use hivemind_ring::view::SeatView;
use hivemind_runtime::session::{ConnectionInfo, NodeInfo, PublisherInfo, ServiceInfo, SubscriberInfo};
use serde::Serialize;
use serde_json::json;

use super::views::{Reading, Views};
use crate::Place;

/// A line of the first table.
#[derive(Debug, Serialize)]
pub(super) struct NodeRow {
    pub(super) node: String,
    pub(super) pid: i32,
    pub(super) hosts_root: bool,
    pub(super) publishers: usize,
    pub(super) subscriptions: usize,
}

/// A line of the second table: one publisher of a service.
#[derive(Debug, Serialize)]
pub(super) struct ServiceRow {
    pub(super) service: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) node: String,
    pub(super) publisher: String,
    pub(super) reliable: bool,
    /// Messages that stay readable when it is gone, and nodes that keep them.
    pub(super) retained: u32,
    pub(super) keepers: u32,
    /// It is gone; `node` keeps what it retained for whoever comes.
    pub(super) former_node: Option<String>,
    pub(super) capacity: u64,
    pub(super) subscribers: usize,
    pub(super) published: u64,
    pub(super) per_second: Option<f64>,
    /// Shared memory beyond the slots, backed by pages.
    pub(super) memory_bytes: u64,
    pub(super) blocked: bool,
}

impl ServiceRow {
    pub(super) fn kind(&self) -> String {
        if let Some(former) = &self.former_node {
            return format!("kept of {former}, which is gone");
        }
        let kind = match (self.reliable, self.blocked) {
            (true, true) => "reliable, waits",
            (true, false) => "reliable",
            (false, _) => "lossy",
        };
        match self.retained {
            0 => kind.to_owned(),
            messages => format!("{kind}, retains {messages} ({} keepers)", self.keepers),
        }
    }
}

/// A line of the third table: one subscription and one publisher that it is attached to.
#[derive(Debug, Serialize)]
pub(super) struct SubscriptionRow {
    pub(super) filter: String,
    pub(super) node: String,
    pub(super) subscriber: String,
    /// `None`: nobody publishes what it asks for.
    #[serde(flatten)]
    pub(super) connection: Option<ConnectionFigures>,
    /// What it asks for carries another type; then this line is about that, and there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) does_not_fit: Option<DoesNotFit>,
}

/// A service that a subscription means, but that carries another type than it expects.
#[derive(Debug, Serialize)]
pub(super) struct DoesNotFit {
    pub(super) service: String,
    pub(super) publisher_node: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) expected: String,
    /// "Here" is the subscription.
    pub(super) difference: String,
    /// How many more such services there are.
    pub(super) more: usize,
}

impl DoesNotFit {
    /// In the words of a table.
    pub(super) fn text(&self) -> String {
        let DoesNotFit { type_name, expected, difference, more, .. } = self;
        let what = format!("does not fit: {type_name}, not {expected} ({difference})");
        if *more > 0 { format!("{what}, and {more} more") } else { what }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ConnectionFigures {
    pub(super) service: String,
    pub(super) publisher_node: String,
    pub(super) publisher: String,
    pub(super) received: u64,
    pub(super) per_second: Option<f64>,
    pub(super) lag: u64,
    pub(super) lost: u64,
    pub(super) lost_per_second: Option<f64>,
    /// Samples in shared memory that it holds.
    pub(super) held: usize,
    pub(super) sleeping: bool,
}

/// The three tables.
pub(super) struct Report {
    pub(super) nodes: Vec<NodeRow>,
    pub(super) services: Vec<ServiceRow>,
    pub(super) subscriptions: Vec<SubscriptionRow>,
}

/// What the lines are made of.
struct Sources<'look> {
    listing: &'look Listing,
    views: &'look Views,
    first: &'look Reading,
    latest: &'look Reading,
}

impl Report {
    pub(super) fn new(listing: &Listing, views: &Views, first: &Reading, second: Option<&Reading>) -> Report {
        let sources = Sources { listing, views, first, latest: second.unwrap_or(first) };
        let nodes = listing.nodes.iter().filter(|info| !info.observer).map(|info| sources.node(info));
        let services = listing.publishers.iter().filter_map(|publisher| sources.service(publisher));
        let publishing = sources.services_with_nodes();
        let subscriptions =
            listing.subscribers.iter().flat_map(|subscriber| sources.subscriptions(subscriber, &publishing));
        let mut report = Report {
            nodes: nodes.collect(),
            services: services.collect(),
            subscriptions: subscriptions.collect(),
        };
        report.nodes.sort_by(|left, right| left.node.cmp(&right.node));
        report
            .services
            .sort_by(|left, right| (&left.service, &left.node).cmp(&(&right.service, &right.node)));
        report
            .subscriptions
            .sort_by(|left, right| (&left.node, &left.filter).cmp(&(&right.node, &right.filter)));
        report
    }

    pub(super) fn json(&self, place: &Place, listing: &Listing, interval: Duration) -> serde_json::Value {
        json!({
            "hive": place.hive.as_str(),
            "root": { "pid": listing.root_pid, "epoch": listing.root_epoch },
            "interval_seconds": interval.as_secs_f64(),
            "nodes": self.nodes,
            "services": self.services,
            "subscriptions": self.subscriptions,
        })
    }
}

impl Sources<'_> {
    /// How fast a counter moves; `None`: there was no second reading, or it was not there at the first.
    fn rate(&self, before: Option<u64>, after: u64) -> Option<f64> {
        let seconds = self.latest.at.duration_since(self.first.at).as_secs_f64();
        let before = before.filter(|_| seconds > 0.0)?;
        Some(after.saturating_sub(before) as f64 / seconds)
    }

    fn name(&self, node: u64) -> String {
        let info = self.listing.nodes.iter().find(|info| info.node == node);
        info.map_or_else(|| format!("{node:016x}"), |info| info.name.to_string())
    }

    fn node(&self, info: &NodeInfo) -> NodeRow {
        let Listing { publishers, subscribers, .. } = self.listing;
        NodeRow {
            node: info.name.to_string(),
            pid: info.pid,
            hosts_root: info.hosts_root,
            publishers: publishers.iter().filter(|publisher| publisher.end.node == info.node).count(),
            subscriptions: subscribers.iter().filter(|subscriber| subscriber.end.node == info.node).count(),
        }
    }

    fn service(&self, publisher: &PublisherInfo) -> Option<ServiceRow> {
        let end = publisher.end;
        let (view, published) = (self.views.rings.get(&end)?, *self.latest.published.get(&end)?);
        let reads_it = |connection: &&ConnectionInfo| connection.publisher == end;
        Some(ServiceRow {
            service: publisher.service.to_string(),
            type_name: publisher.type_name.clone(),
            node: match &publisher.via {
                Some(via) => format!("{}@{}", via.node_name, via.host),
                None => self.name(end.node),
            },
            publisher: end.to_string(),
            reliable: view.reliable(),
            retained: publisher.retained,
            keepers: publisher.keepers,
            former_node: publisher.stands_for.as_ref().map(|former| former.node_name.clone()),
            capacity: view.capacity(),
            subscribers: self.listing.connections.iter().filter(reads_it).count(),
            published,
            per_second: self.rate(self.first.published.get(&end).copied(), published),
            memory_bytes: view.committed_bytes(),
            blocked: view.blocked(),
        })
    }

    /// Each service, and the node of a publisher of it.
    fn services_with_nodes(&self) -> Vec<(&ServiceInfo, String)> {
        let publishers = self.listing.publishers.iter().rev();
        let published: BTreeMap<&str, &PublisherInfo> =
            publishers.map(|publisher| (&publisher.service[..], publisher)).collect();
        let services = self.listing.services.iter().filter_map(|service| {
            let publisher = published.get(&service.service[..])?;
            let node = match (&publisher.stands_for, &publisher.via) {
                (Some(former), _) => former.node_name.clone(),
                (None, Some(via)) => format!("{}@{}", via.node_name, via.host),
                (None, None) => self.name(publisher.end.node),
            };
            Some((service, node))
        });
        services.collect()
    }

    fn connection(&self, publisher: EndId, subscriber: EndId) -> Option<ConnectionFigures> {
        let pair = (publisher, subscriber);
        let (seat, before) = (self.latest.seats.get(&pair)?, self.first.seats.get(&pair));
        let service = &self.listing.publishers.iter().find(|info| info.end == publisher)?.service;
        let published = self.latest.published.get(&publisher);
        Some(ConnectionFigures {
            service: service.to_string(),
            publisher_node: self.name(publisher.node),
            publisher: publisher.to_string(),
            received: received(seat),
            per_second: self.rate(before.map(received), received(seat)),
            lag: published.map_or(0, |published| published.saturating_sub(seat.cursor)),
            lost: seat.lost,
            lost_per_second: self.rate(before.map(|seat| seat.lost), seat.lost),
            held: seat.held,
            sleeping: seat.sleeping,
        })
    }

    /// One line for each publisher that a subscription is attached to, and one for what it does not get.
    fn subscriptions(
        &self,
        subscriber: &SubscriberInfo,
        services: &[(&ServiceInfo, String)],
    ) -> Vec<SubscriptionRow> {
        let end = subscriber.end;
        let of_end = self.listing.connections.iter().filter(|connection| connection.subscriber == end);
        let mut connections: Vec<ConnectionFigures> =
            of_end.filter_map(|connection| self.connection(connection.publisher, end)).collect();
        connections.sort_by(|left, right| left.service.cmp(&right.service));
        // A subscriber that is served is not told of services of other types, except those of its own
        // type's name.
        let does_not_fit = does_not_fit(subscriber, services)
            .filter(|other| connections.is_empty() || other.type_name == other.expected);
        let lines = connections.into_iter().map(|connection| (Some(connection), None));
        let mut lines: Vec<_> = lines.chain(does_not_fit.map(|other| (None, Some(other)))).collect();
        if lines.is_empty() {
            lines.push((None, None));
        }
        let rows = lines.into_iter().map(|(connection, does_not_fit)| SubscriptionRow {
            filter: subscriber.filter.to_string(),
            node: self.name(end.node),
            subscriber: end.to_string(),
            connection,
            does_not_fit,
        });
        rows.collect()
    }
}

/// What a subscription means and does not get, for want of its type. Of several services one is told, rather
/// one whose type has the name that is expected: of two builds of a program.
fn does_not_fit(subscriber: &SubscriberInfo, services: &[(&ServiceInfo, String)]) -> Option<DoesNotFit> {
    let kind = subscriber.kind.as_ref()?;
    let filter = Filter::parse(&subscriber.filter).ok()?;
    let others = || {
        let is_other = |(service, _): &&(&ServiceInfo, String)| {
            service.kind.fingerprint != kind.fingerprint && filter.matches(&service.service)
        };
        services.iter().filter(is_other)
    };
    let (service, node) =
        others().find(|(service, _)| service.kind.type_name == kind.type_name).or_else(|| others().next())?;
    let mismatch = kind.mismatch(&service.kind);
    Some(DoesNotFit {
        service: service.service.clone(),
        publisher_node: node.clone(),
        type_name: mismatch.theirs,
        expected: mismatch.ours,
        difference: mismatch.difference,
        more: others().count() - 1,
    })
}

fn received(seat: &SeatView) -> u64 {
    seat.cursor.saturating_sub(seat.first).saturating_sub(seat.lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_is_what_was_neither_lost_nor_before_the_first() {
        let seat = SeatView {
            publisher_node: 1,
            publisher_index: 0,
            first: 10,
            cursor: 100,
            lost: 5,
            held: 0,
            sleeping: false,
        };
        assert_eq!(received(&seat), 85);
    }
}
