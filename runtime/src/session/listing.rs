//! What there is in a hive, put together from pages. These are plain values, whatever travels on the wire.
use std::collections::BTreeMap;

use hivemind_core::contract::{Author, Contract, Kind};
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::{EndId, Entry};

use super::Mismatch;

/// More lines than any registry holds; a root that sends more is no root.
const MAX_LINES: usize = 1 << 20;

/// What there is in a hive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub node: u64,
    /// Its process, as the root's process sees it.
    pub pid: i32,
    /// True: it only looks.
    pub observer: bool,
    /// True: the root lives in it.
    pub hosts_root: bool,
}

/// The type that a service carries, or that a subscription insists on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindInfo {
    /// Its name.
    pub type_name: String,
    /// Its fingerprint.
    pub fingerprint: u128,
    /// Its description.
    pub schema: Vec<u8>,
}

impl KindInfo {
    fn of(kind: Kind) -> KindInfo {
        KindInfo { type_name: kind.type_name(), fingerprint: kind.fingerprint, schema: kind.schema }
    }

    /// What differs between this type, "here", and another one.
    #[must_use]
    pub fn mismatch(&self, theirs: &KindInfo) -> Mismatch {
        let kind = |info: &KindInfo| Kind { fingerprint: info.fingerprint, schema: info.schema.clone() };
        Mismatch::between(Some(&kind(self)), &kind(theirs))
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceInfo {
    /// Its name.
    pub service: String,
    /// Its type.
    pub kind: KindInfo,
}

/// A publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    pub stands_for: Option<FormerInfo>,
    /// It is on another host, and `end` publishes here what it does.
    pub via: Option<RemoteInfo>,
}

/// A publisher that is gone, and of which something is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormerInfo {
    /// Which end of which life of a node.
    pub publisher: EndId,
    /// The name of that node.
    pub node_name: String,
}

/// A publisher of another host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteInfo {
    /// The host, as its link knows it.
    pub host: String,
    /// True: that host is a node without shared memory, which counts as part of this host.
    pub leaf: bool,
    /// The publisher, at that host.
    pub publisher: EndId,
    /// The name of its node.
    pub node_name: String,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriberInfo {
    /// Which end of which node.
    pub end: EndId,
    /// Its filter.
    pub filter: String,
    /// The type it insists on; `None`: it takes any.
    pub kind: Option<KindInfo>,
    /// It reads for another host.
    pub link: bool,
}

/// An established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Who writes.
    pub publisher: EndId,
    /// Who reads.
    pub subscriber: EndId,
    /// The seat in the subscriber's reader segment.
    pub seat: u32,
}

/// A listing that is being put together.
#[derive(Default)]
pub(super) struct Collector {
    listing: Listing,
    type_names: BTreeMap<ServiceName, String>,
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
            Entry::Node { name, node, pid, observer, hosts_root } => {
                let name = name.as_str().to_owned();
                listing.nodes.push(NodeInfo { name, node, pid, observer, hosts_root });
            }
            Entry::Service { service, kind, .. } => {
                let kind = KindInfo::of(kind);
                let name = service.as_str().to_owned();
                self.type_names.insert(service, kind.type_name.clone());
                listing.services.push(ServiceInfo { service: name, kind });
            }
            Entry::Publisher { route, service, contract, keepers } => {
                let type_name = self.type_names.get(&service).cloned().unwrap_or_default();
                let reliable = contract.is_reliable();
                let Contract { history, capacity, retained, .. } = contract;
                let (stands_for, via) = match route.author {
                    Author::Own => (None, None),
                    Author::Former(former) => {
                        let node_name = former.node_name.as_str().to_owned();
                        (Some(FormerInfo { publisher: former.publisher, node_name }), None)
                    }
                    Author::Remote(remote) => {
                        let node_name = remote.node_name.as_str().to_owned();
                        let (host, leaf, publisher) = (remote.host, remote.leaf, remote.publisher);
                        (None, Some(RemoteInfo { host, leaf, publisher, node_name }))
                    }
                };
                listing.publishers.push(PublisherInfo {
                    end: route.end,
                    service: service.as_str().to_owned(),
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
                let kind = asks.kind.map(KindInfo::of);
                listing.subscribers.push(SubscriberInfo { end, filter, kind, link });
            }
            Entry::Connection { publisher, subscriber, seat } => {
                listing.connections.push(ConnectionInfo { publisher, subscriber, seat });
            }
        }
    }

    pub(super) fn finish(self, root_epoch: u64, root_pid: i32, dedicated_root: bool) -> Listing {
        Listing { root_epoch, root_pid, dedicated_root, ..self.listing }
    }
}
