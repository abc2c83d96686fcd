//! The lines of a listing, and where it goes on.
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.

use rkyv::{Archive, Deserialize, Serialize};

use crate::contract::{Asks, Contract, Kind, Pattern, Route};
use crate::end::EndId;
use crate::name::{NodeName, ServiceName};

/// Where a listing goes on.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// After this node; 0 is before the first.
    Nodes(u64),
    /// After this service; the empty name is before the first.
    Services(String),
    /// After this publisher.
    Publishers(EndId),
    /// After this subscriber.
    Subscribers(EndId),
    /// After the connection of this publisher with this subscriber.
    Connections(EndId, EndId),
}

/// One line of a listing.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A node.
    Node {
        /// Its name.
        name: NodeName,
        /// Its epoch.
        node: u64,
        /// Its process, as the root's process sees it.
        pid: i32,
        /// True: it only looks.
        observer: bool,
        /// True: the root lives in it.
        hosts_root: bool,
    },
    /// A service with at least one publisher.
    Service {
        /// Its name.
        service: ServiceName,
        /// What it is for.
        pattern: Pattern,
        /// Its type.
        kind: Kind,
    },
    /// A publisher.
    Publisher {
        /// Which end, and whose messages it has.
        route: Route,
        /// Its service.
        service: ServiceName,
        /// What it promises.
        contract: Contract,
        /// Nodes that keep its ring for when it is gone.
        keepers: u32,
    },
    /// A subscription.
    Subscriber {
        /// The end.
        end: EndId,
        /// Its filter.
        filter: String,
        /// What it asks for.
        asks: Asks,
    },
    /// An established connection.
    Connection {
        /// Who writes.
        publisher: EndId,
        /// Who reads.
        subscriber: EndId,
        /// The seat in the subscriber's reader segment.
        seat: u32,
    },
}
