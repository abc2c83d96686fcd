//! Pages of what the registry knows.
//!
//! A page ends before it outgrows a packet, and says with a cursor where to go on. The tables are ordered by
//! key, so whatever lives during the whole listing appears exactly once, however the rest changes between two
//! pages.
use super::Registry;
use super::ends::Stream;
use super::pairs::{Pair, PairState};
use crate::contract::{Author, Kind, SubscriberRole};
use crate::end::EndId;
use crate::protocol::{ArchivedEntry, Cursor, Entry, PAGE_BYTES};

/// What an entry takes in a packet besides its texts.
const ENTRY_BYTES: usize = size_of::<ArchivedEntry>();

struct Page {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Page {
    /// False: the page is full, the entry does not belong to it.
    fn add(&mut self, entry: Entry) -> bool {
        let texts = match &entry {
            Entry::Node { name, .. } => name.as_str().len(),
            Entry::Service { service, kind, .. } => service.as_str().len() + kind.schema.len(),
            Entry::Publisher { route, service, .. } => {
                let author = match &route.author {
                    Author::Own => 0,
                    Author::Former(former) => former.node_name.as_str().len(),
                    Author::Remote(remote) => remote.host.len() + remote.node_name.as_str().len(),
                };
                service.as_str().len() + route.node_name.as_str().len() + author
            }
            Entry::Subscriber { filter, asks, .. } => {
                let schema = |kind: &Kind| kind.schema.len();
                let group = match &asks.role {
                    SubscriberRole::Member { group, .. } => group.as_str().len(),
                    _ => 0,
                };
                filter.len() + asks.kind.as_ref().map_or(0, schema) + group
            }
            Entry::Connection { .. } => 0,
        };
        let bytes = ENTRY_BYTES + texts;
        // The first one always fits: a schema is shorter than a page.
        if self.bytes + bytes > PAGE_BYTES && !self.entries.is_empty() {
            return false;
        }
        self.bytes += bytes;
        self.entries.push(entry);
        true
    }
}

impl Registry {
    /// The page after `after`, and where the next one begins.
    pub(super) fn page(&self, after: Cursor) -> (Vec<Entry>, Option<Cursor>) {
        let mut page = Page { entries: Vec::new(), bytes: 0 };
        let mut next = Some(after);
        // Bounded: every table is either finished, or it filled the page.
        while let Some(cursor) = next {
            match self.fill(&mut page, cursor) {
                Filled::Full(cursor) => return (page.entries, Some(cursor)),
                Filled::Finished(following) => next = following,
            }
        }
        (page.entries, None)
    }

    fn fill(&self, page: &mut Page, cursor: Cursor) -> Filled {
        match cursor {
            Cursor::Nodes(after) => self.fill_nodes(page, after),
            Cursor::Services(after) => self.fill_services(page, &after),
            Cursor::Publishers(after) => self.fill_publishers(page, after),
            Cursor::Subscribers(after) => self.fill_subscribers(page, after),
            Cursor::Connections(publisher, subscriber) => self.fill_connections(page, publisher, subscriber),
        }
    }

    fn fill_nodes(&self, page: &mut Page, mut after: u64) -> Filled {
        for (client, node) in self.clients.after(after) {
            let entry = Entry::Node {
                name: node.name.clone(),
                node: node.epoch,
                pid: client.pid,
                observer: node.observer,
                hosts_root: node.hosts_root,
            };
            if !page.add(entry) {
                return Filled::Full(Cursor::Nodes(after));
            }
            after = node.epoch;
        }
        Filled::Finished(Some(Cursor::Services(String::new())))
    }

    fn fill_services(&self, page: &mut Page, after: &str) -> Filled {
        let mut last = after;
        for (name, stream) in self.ends.services_after(after) {
            let Stream { pattern, kind } = stream.clone();
            let entry = Entry::Service { service: name.clone(), pattern, kind };
            if !page.add(entry) {
                return Filled::Full(Cursor::Services(last.to_owned()));
            }
            last = name.as_str();
        }
        Filled::Finished(Some(Cursor::Publishers(EndId::FIRST)))
    }

    fn fill_publishers(&self, page: &mut Page, mut after: EndId) -> Filled {
        for (end, publisher) in self.ends.publishers_after(after) {
            let writer = publisher.former().unwrap_or(end);
            let entry = Entry::Publisher {
                route: self.route_to(end, publisher),
                service: publisher.service.clone(),
                contract: publisher.contract,
                keepers: self.keepers_of(writer),
            };
            if !page.add(entry) {
                return Filled::Full(Cursor::Publishers(after));
            }
            after = end;
        }
        Filled::Finished(Some(Cursor::Subscribers(EndId::FIRST)))
    }

    fn fill_subscribers(&self, page: &mut Page, mut after: EndId) -> Filled {
        for (end, subscriber) in self.ends.subscribers_after(after) {
            let entry = Entry::Subscriber {
                end,
                filter: subscriber.filter.as_str().to_owned(),
                asks: subscriber.asks.clone(),
            };
            if !page.add(entry) {
                return Filled::Full(Cursor::Subscribers(after));
            }
            after = end;
        }
        Filled::Finished(Some(Cursor::Connections(EndId::FIRST, EndId::FIRST)))
    }

    fn fill_connections(&self, page: &mut Page, publisher: EndId, subscriber: EndId) -> Filled {
        let mut after = Pair { publisher, subscriber };
        for (pair, state) in self.pairs.after(after) {
            let PairState::Connected { seat } = state else { continue };
            let Pair { publisher, subscriber } = pair;
            if !page.add(Entry::Connection { publisher, subscriber, seat }) {
                return Filled::Full(Cursor::Connections(after.publisher, after.subscriber));
            }
            after = pair;
        }
        Filled::Finished(None)
    }
}

enum Filled {
    /// The page is full; go on here.
    Full(Cursor),
    /// The table is finished; go on with this one.
    Finished(Option<Cursor>),
}
