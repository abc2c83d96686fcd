//! `hm ls`: nodes, services and subscriptions of a hive, with rates, lag and loss.
//!
//! The root says who is there. Everything that moves is read from the segments themselves, mapped read-only: from each
//! ring how much was published, from each reader segment how far its subscriber is. The segments are read twice, and
//! the differences over the time between are the rates. No message is read and no counter is written.
//!
//! A figure is as good as two reads of a moving thing can be: rates are exact over the interval, the lag is that of one
//! instant, give or take a message.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use hivemind::{EndId, Filter, Listing, Node};
use hivemind_ring::view::{ReaderView, RingView, SeatView};
use hivemind_runtime::session::{PublisherInfo, ServiceInfo, SubscriberInfo};
use serde::Serialize;
use serde_json::json;

use crate::{Place, policy, stop};
use hivemind_look::figures::{Bytes, Count};
use hivemind_look::{self as look, LookError};

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LsError {
    /// The hive could not be looked at; the source says what to do.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The signal handlers could not be installed. Raise the limit of descriptors.
    #[error("cannot listen for Ctrl-C: {0}; raise the limit of descriptors")]
    Signals(io::Error),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// A line of the first table.
#[derive(Debug, Serialize)]
struct NodeRow {
    node: String,
    pid: i32,
    hosts_root: bool,
    publishers: usize,
    subscriptions: usize,
}

/// A line of the second table: one publisher of a service.
#[derive(Debug, Serialize)]
struct ServiceRow {
    service: String,
    #[serde(rename = "type")]
    type_name: String,
    node: String,
    publisher: String,
    reliable: bool,
    /// Messages that stay readable when it is gone, and nodes that keep them.
    retained: u32,
    keepers: u32,
    /// It is gone; `node` keeps what it retained for whoever comes.
    former_node: Option<String>,
    capacity: u64,
    subscribers: usize,
    published: u64,
    per_second: Option<f64>,
    /// Shared memory beyond the slots, backed by pages.
    memory_bytes: u64,
    blocked: bool,
}

impl ServiceRow {
    fn kind(&self) -> String {
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
struct SubscriptionRow {
    filter: String,
    node: String,
    subscriber: String,
    /// `None`: nobody publishes what it asks for.
    #[serde(flatten)]
    connection: Option<ConnectionFigures>,
    /// What it asks for carries another type; then this line is about that, and there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    does_not_fit: Option<DoesNotFit>,
}

/// A service that a subscription means, but that carries another type than it expects.
#[derive(Debug, Serialize)]
struct DoesNotFit {
    service: String,
    publisher_node: String,
    #[serde(rename = "type")]
    type_name: String,
    expected: String,
    /// "Here" is the subscription.
    difference: String,
    /// How many more such services there are.
    more: usize,
}

impl DoesNotFit {
    /// In the words of a table.
    fn text(&self) -> String {
        let DoesNotFit { type_name, expected, difference, more, .. } = self;
        let what = format!("does not fit: {type_name}, not {expected} ({difference})");
        if *more > 0 { format!("{what}, and {more} more") } else { what }
    }
}

#[derive(Debug, Serialize)]
struct ConnectionFigures {
    service: String,
    publisher_node: String,
    publisher: String,
    received: u64,
    per_second: Option<f64>,
    lag: u64,
    lost: u64,
    lost_per_second: Option<f64>,
    /// Samples in shared memory that it holds.
    held: usize,
    sleeping: bool,
}

/// All views that could be opened.
struct Views {
    rings: BTreeMap<EndId, RingView>,
    readers: BTreeMap<EndId, ReaderView>,
}

/// What stood in the segments at one instant.
struct Reading {
    at: Instant,
    published: BTreeMap<EndId, u64>,
    /// By publisher and subscriber.
    seats: BTreeMap<(EndId, EndId), SeatView>,
}

/// Shows the hive once.
pub(crate) fn run(place: &Place, interval: Duration, json: bool) -> Result<(), LsError> {
    // A look takes a moment; Ctrl-C ends it without a word.
    stop::on_signal(|| std::process::exit(130)).map_err(LsError::Signals)?;
    if let Some(trouble) = place.runtime_dir().ok().and_then(|dir| policy::trouble(&dir)) {
        eprintln!("hm: {trouble}; the root refuses this policy, and what was in force before stays so");
    }
    let node =
        place.node(&format!("hm-ls-{}", std::process::id())).observer().join().map_err(LookError::from)?;
    let listing = look::listing(&node)?;
    let views = Views::open(&node, &listing);
    let first = views.read(&listing);
    let second = if interval.is_zero() {
        None
    } else {
        std::thread::sleep(interval);
        Some(views.read(&listing))
    };
    let report = Report::new(&listing, &views, &first, second.as_ref());
    node.leave();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", report.json(place, &listing, interval))?;
    } else {
        report.print(&mut out, place, &listing)?;
    }
    out.flush()?;
    Ok(())
}

impl Views {
    /// Maps what can be mapped. Whoever left since it was listed has nothing to be mapped, and no line.
    fn open(node: &Node, listing: &Listing) -> Views {
        let ring = |end: EndId| look::ring(node, end).inspect_err(|error| skip(end, error)).ok();
        let reader = |end: EndId| look::reader(node, end).inspect_err(|error| skip(end, error)).ok();
        let publishers = listing.publishers.iter().map(|publisher| publisher.end);
        let subscribers = listing.subscribers.iter().map(|subscriber| subscriber.end);
        Views {
            rings: publishers.filter_map(|end| Some((end, ring(end)?))).collect(),
            readers: subscribers.filter_map(|end| Some((end, reader(end)?))).collect(),
        }
    }

    fn read(&self, listing: &Listing) -> Reading {
        let mut seats = BTreeMap::new();
        for connection in &listing.connections {
            let seat =
                self.readers.get(&connection.subscriber).and_then(|reader| reader.seat(connection.seat));
            // A seat may have been given to another publisher since.
            let EndId { node, index } = connection.publisher;
            if let Some(seat) =
                seat.filter(|seat| seat.publisher_node == node && seat.publisher_index == index)
            {
                seats.insert((connection.publisher, connection.subscriber), seat);
            }
        }
        // Rings are read after the seats: a message that was received was published, so no lag is below zero.
        let published = self.rings.iter().map(|(&end, ring)| (end, ring.published())).collect();
        Reading { at: Instant::now(), published, seats }
    }
}

fn skip(end: EndId, error: &LookError) {
    tracing::info!(%end, %error, "left out");
}

/// The three tables.
struct Report {
    nodes: Vec<NodeRow>,
    services: Vec<ServiceRow>,
    subscriptions: Vec<SubscriptionRow>,
}

impl Report {
    fn new(listing: &Listing, views: &Views, first: &Reading, second: Option<&Reading>) -> Report {
        let latest = second.unwrap_or(first);
        let seconds = latest.at.duration_since(first.at).as_secs_f64();
        let rate = |before: Option<u64>, after: u64| {
            let before = before.filter(|_| seconds > 0.0)?;
            Some(after.saturating_sub(before) as f64 / seconds)
        };
        let name = |node: u64| {
            let info = listing.nodes.iter().find(|info| info.node == node);
            info.map_or_else(|| format!("{node:016x}"), |info| info.name.to_string())
        };

        let nodes = listing.nodes.iter().filter(|info| !info.observer).map(|info| NodeRow {
            node: info.name.to_string(),
            pid: info.pid,
            hosts_root: info.hosts_root,
            publishers: listing.publishers.iter().filter(|publisher| publisher.end.node == info.node).count(),
            subscriptions: listing
                .subscribers
                .iter()
                .filter(|subscriber| subscriber.end.node == info.node)
                .count(),
        });

        let services = listing.publishers.iter().filter_map(|publisher| {
            let end = publisher.end;
            let (view, published) = (views.rings.get(&end)?, *latest.published.get(&end)?);
            Some(ServiceRow {
                service: publisher.service.to_string(),
                type_name: publisher.type_name.clone(),
                node: match &publisher.via {
                    Some(via) => format!("{}@{}", via.node_name, via.host),
                    None => name(end.node),
                },
                publisher: end.to_string(),
                reliable: view.reliable(),
                retained: publisher.retained,
                keepers: publisher.keepers,
                former_node: publisher.stands_for.as_ref().map(|former| former.node_name.clone()),
                capacity: view.capacity(),
                subscribers: listing
                    .connections
                    .iter()
                    .filter(|connection| connection.publisher == end)
                    .count(),
                published,
                per_second: rate(first.published.get(&end).copied(), published),
                memory_bytes: view.committed_bytes(),
                blocked: view.blocked(),
            })
        });

        let figures = |publisher: EndId, subscriber: EndId| {
            let pair = (publisher, subscriber);
            let seat = latest.seats.get(&pair)?;
            let before = first.seats.get(&pair);
            let service = listing.publishers.iter().find(|info| info.end == publisher)?.service.to_string();
            Some(ConnectionFigures {
                service,
                publisher_node: name(publisher.node),
                publisher: publisher.to_string(),
                received: received(seat),
                per_second: rate(before.map(received), received(seat)),
                lag: latest
                    .published
                    .get(&publisher)
                    .map_or(0, |published| published.saturating_sub(seat.cursor)),
                lost: seat.lost,
                lost_per_second: rate(before.map(|seat| seat.lost), seat.lost),
                held: seat.held,
                sleeping: seat.sleeping,
            })
        };
        let published: BTreeMap<&str, &PublisherInfo> =
            listing.publishers.iter().rev().map(|publisher| (&publisher.service[..], publisher)).collect();
        let services_with_nodes: Vec<(&ServiceInfo, String)> = listing
            .services
            .iter()
            .filter_map(|service| {
                let publisher = published.get(&service.service[..])?;
                let node = match (&publisher.stands_for, &publisher.via) {
                    (Some(former), _) => former.node_name.clone(),
                    (None, Some(via)) => format!("{}@{}", via.node_name, via.host),
                    (None, None) => name(publisher.end.node),
                };
                Some((service, node))
            })
            .collect();
        let subscriptions = listing.subscribers.iter().flat_map(|subscriber| {
            let end = subscriber.end;
            let does_not_fit = does_not_fit(subscriber, &services_with_nodes);
            let of_end = listing.connections.iter().filter(|connection| connection.subscriber == end);
            let mut connections: Vec<Option<ConnectionFigures>> =
                of_end.filter_map(|connection| figures(connection.publisher, end)).map(Some).collect();
            connections.sort_by(|left, right| {
                let key = |figures: &Option<ConnectionFigures>| {
                    figures.as_ref().map(|figures| figures.service.clone())
                };
                key(left).cmp(&key(right))
            });
            // A subscriber that is served is not told of services of other types, except those of its own
            // type's name.
            let does_not_fit =
                does_not_fit.filter(|other| connections.is_empty() || other.type_name == other.expected);
            let lines = connections.into_iter().map(|connection| (connection, None));
            let mut lines: Vec<_> = lines.chain(does_not_fit.map(|other| (None, Some(other)))).collect();
            if lines.is_empty() {
                lines.push((None, None));
            }
            let (filter, node, subscriber) = (subscriber.filter.to_string(), name(end.node), end.to_string());
            lines.into_iter().map(move |(connection, does_not_fit)| SubscriptionRow {
                filter: filter.clone(),
                node: node.clone(),
                subscriber: subscriber.clone(),
                connection,
                does_not_fit,
            })
        });

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

    fn json(&self, place: &Place, listing: &Listing, interval: Duration) -> serde_json::Value {
        json!({
            "hive": place.hive.as_str(),
            "root": { "pid": listing.root_pid, "epoch": listing.root_epoch },
            "interval_seconds": interval.as_secs_f64(),
            "nodes": self.nodes,
            "services": self.services,
            "subscriptions": self.subscriptions,
        })
    }

    fn print(&self, out: &mut impl Write, place: &Place, listing: &Listing) -> io::Result<()> {
        writeln!(out, "hive {}, root {} (epoch {})\n", place.hive, listing.root_pid, listing.root_epoch)?;

        let mut nodes = table(&["NODE", "PID", "PUBLISHERS", "SUBSCRIPTIONS", ""], &[1, 2, 3]);
        for row in &self.nodes {
            nodes.add_row([
                row.node.clone(),
                row.pid.to_string(),
                row.publishers.to_string(),
                row.subscriptions.to_string(),
                if row.hosts_root { "hosts the root" } else { "" }.to_owned(),
            ]);
        }
        show(out, &nodes)?;

        let heads = [
            "SERVICE",
            "TYPE",
            "NODE",
            "KIND",
            "CAPACITY",
            "PUBLISHED",
            "PER SECOND",
            "MEMORY",
            "SUBSCRIBERS",
        ];
        let mut services = table(&heads, &[4, 5, 6, 7, 8]);
        for row in &self.services {
            services.add_row([
                row.service.clone(),
                row.type_name.clone(),
                row.node.clone(),
                row.kind(),
                Count(row.capacity).to_string(),
                Count(row.published).to_string(),
                per_second(row.per_second),
                Bytes(row.memory_bytes as f64).to_string(),
                row.subscribers.to_string(),
            ]);
        }
        show(out, &services)?;

        let heads =
            ["FILTER", "SUBSCRIBER", "SERVICE", "FROM", "RECEIVED", "PER SECOND", "LAG", "LOST", "HELD", ""];
        let mut subscriptions = table(&heads, &[4, 5, 6, 7, 8]);
        for row in &self.subscriptions {
            let mut cells = vec![row.filter.clone(), row.node.clone()];
            match (&row.connection, &row.does_not_fit) {
                (Some(connection), _) => cells.extend([
                    connection.service.clone(),
                    connection.publisher_node.clone(),
                    Count(connection.received).to_string(),
                    per_second(connection.per_second),
                    Count(connection.lag).to_string(),
                    Count(connection.lost).to_string(),
                    connection.held.to_string(),
                    if connection.sleeping { "sleeps" } else { "" }.to_owned(),
                ]),
                (None, Some(other)) => {
                    cells.extend([other.service.clone(), other.publisher_node.clone()]);
                    cells.extend(std::iter::repeat_n(String::new(), 5));
                    cells.push(other.text());
                }
                (None, None) => cells.push("(nobody publishes)".to_owned()),
            }
            subscriptions.add_row(cells);
        }
        show(out, &subscriptions)
    }
}

/// What a subscription means and does not get, for want of its type. Of several services one is told, rather one whose type has the
/// name that is expected: of two builds of a program.
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

fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        // Slow services are as interesting as fast ones.
        Some(rate) if rate > 0.0 && rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => Count(rate.round() as u64).to_string(),
    }
}

/// An empty table; the columns in `right` hold figures.
fn table(heads: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // A line that is longer than the terminal is wide is for the terminal to wrap: a program may read this.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.iter().map(Cell::new));
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn show(out: &mut impl Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short_and_slow_ones_keep_a_digit() {
        let rates = [None, Some(0.0), Some(0.25), Some(29.97), Some(20_000.4)];
        assert_eq!(rates.map(per_second), ["-", "0", "0.2", "30.0", "20,000"]);
    }

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
