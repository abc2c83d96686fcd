//! What there is in a hive, put together from pages.
use std::collections::BTreeMap;

use hivemind_core::protocol::{ConnectionInfo, EndId, Entry, Former, NodeInfo, Remote};
use hivemind_core::schema::Schema;

/// More lines than any registry holds; a root that sends more is no root.
const MAX_LINES: usize = 1 << 20;

/// What there is in a hive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The epoch of the root that answered.
    pub root_epoch: u64,
    /// Its process, as this process sees it.
    pub root_pid: i32,
    /// True: it serves in a process of its own.
    pub dedicated_root: bool,
    /// Nodes, by epoch.
    pub nodes: Vec<NodeInfo>,
    /// Services, by name.
    pub services: Vec<ServiceInfo>,
    /// Publishers, by end.
    pub publishers: Vec<PublisherInfo>,
    /// Subscriptions, by end.
    pub subscribers: Vec<SubscriberInfo>,
    /// Established connections, by publisher.
    pub connections: Vec<ConnectionInfo>,
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceInfo {
    /// Its name.
    pub service: String,
    /// The fingerprint of its type.
    pub fingerprint: u128,
    /// The name of its type.
    pub type_name: String,
    /// The description of its type.
    pub schema: Vec<u8>,
}

/// A publisher.
#[derive(Clone, Debug, PartialEq)]
pub struct PublisherInfo {
    /// Which end of which node.
    pub end: EndId,
    /// Its service.
    pub service: String,
    /// The name of its type.
    pub type_name: String,
    /// True: it loses nothing.
    pub reliable: bool,
    /// Messages that a late subscriber gets.
    pub history: u32,
    /// Slots of its ring.
    pub capacity: u32,
    /// Messages that stay readable when it is gone.
    pub retained: u32,
    /// Nodes that keep its ring for then.
    pub keepers: u32,
    /// It is gone, and this is what it retained, kept by the node of `end`; who it was.
    pub stands_for: Option<Former>,
    /// It is on another host, and `end` publishes here what it does.
    pub via: Option<Remote>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriberInfo {
    /// Which end of which node.
    pub end: EndId,
    /// Its filter.
    pub filter: String,
    /// The name of the type it insists on; `None`: it takes any.
    pub type_name: Option<String>,
    /// The fingerprint of that type.
    pub fingerprint: Option<u128>,
    /// The description of that type; empty: it takes any.
    pub schema: Vec<u8>,
    /// It reads for another host.
    pub link: bool,
}

/// A listing that is being put together.
#[derive(Default)]
pub(super) struct Collector {
    listing: Listing,
    type_names: BTreeMap<String, String>,
    lines: usize,
}

impl Collector {
    /// False: more than there can be.
    pub(super) fn add(&mut self, entries: Vec<Entry>) -> bool {
        self.lines += entries.len();
        for entry in entries {
            self.add_one(entry);
        }
        self.lines <= MAX_LINES
    }

    fn add_one(&mut self, entry: Entry) {
        let listing = &mut self.listing;
        match entry {
            Entry::Node(node) => listing.nodes.push(node),
            Entry::Service { service, fingerprint, schema } => {
                let type_name = type_name(&schema, fingerprint);
                self.type_names.insert(service.clone(), type_name.clone());
                listing.services.push(ServiceInfo { service, fingerprint, type_name, schema });
            }
            Entry::Publisher {
                end,
                service,
                reliable,
                history,
                capacity,
                retained,
                keepers,
                stands_for,
                via,
            } => {
                let type_name = self.type_names.get(&service).cloned().unwrap_or_default();
                listing.publishers.push(PublisherInfo {
                    end,
                    service,
                    type_name,
                    reliable,
                    history,
                    capacity,
                    retained,
                    keepers,
                    stands_for,
                    via,
                });
            }
            Entry::Subscriber { end, filter, expected, link } => {
                let fingerprint = expected.as_ref().map(|expected| expected.fingerprint);
                let schema = expected.map(|expected| expected.schema).unwrap_or_default();
                let type_name = fingerprint.map(|fingerprint| type_name(&schema, fingerprint));
                listing.subscribers.push(SubscriberInfo {
                    end,
                    filter,
                    type_name,
                    fingerprint,
                    schema,
                    link,
                });
            }
            Entry::Connection(connection) => listing.connections.push(connection),
        }
    }

    pub(super) fn finish(self, root_epoch: u64, root_pid: i32, dedicated_root: bool) -> Listing {
        Listing { root_epoch, root_pid, dedicated_root, ..self.listing }
    }
}

fn type_name(schema: &[u8], fingerprint: u128) -> String {
    Schema::from_bytes(schema)
        .map_or_else(|_| format!("#{fingerprint:032x}"), |schema| schema.type_name().to_owned())
}
