//! What there is in a hive, put together from pages.
use std::collections::BTreeMap;

use hivemind_core::contract::{Author, Contract, Former, Kind, Remote};
use hivemind_core::protocol::{ConnectionInfo, EndId, Entry, NodeInfo};

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
    /// Its type.
    pub kind: Kind,
    /// The name of its type.
    pub type_name: String,
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
    /// That type.
    pub kind: Option<Kind>,
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
            Entry::Service { service, kind, .. } => {
                let type_name = kind.type_name();
                self.type_names.insert(service.clone(), type_name.clone());
                listing.services.push(ServiceInfo { service, kind, type_name });
            }
            Entry::Publisher { route, service, contract, keepers } => {
                let type_name = self.type_names.get(&service).cloned().unwrap_or_default();
                let reliable = contract.is_reliable();
                let Contract { history, capacity, retained, .. } = contract;
                let (stands_for, via) = match route.author {
                    Author::Own => (None, None),
                    Author::Former(former) => (Some(former), None),
                    Author::Remote(remote) => (None, Some(remote)),
                };
                listing.publishers.push(PublisherInfo {
                    end: route.end,
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
            Entry::Subscriber { end, filter, asks } => {
                let link = asks.is_link();
                let type_name = asks.kind.as_ref().map(Kind::type_name);
                let kind = asks.kind;
                listing.subscribers.push(SubscriberInfo { end, filter, type_name, kind, link });
            }
            Entry::Connection(connection) => listing.connections.push(connection),
        }
    }

    pub(super) fn finish(self, root_epoch: u64, root_pid: i32, dedicated_root: bool) -> Listing {
        Listing { root_epoch, root_pid, dedicated_root, ..self.listing }
    }
}
