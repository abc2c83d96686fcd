//! What nodes announce: publishers, subscriptions, and connections that are there already.
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.

use rkyv::{Archive, Deserialize, Serialize};

use super::MAX_SEGMENT_NAME;
use crate::contract::{Asks, Author, Contract, Kind};
use crate::end::EndId;
use crate::filter::Filter;
use crate::name::NodeName;

/// How a segment reaches a peer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The next descriptor beside the packet.
    Descriptor,
    /// A segment with this name.
    Named(String),
}

impl Carrier {
    pub(super) fn descriptors(&self) -> usize {
        usize::from(matches!(self, Carrier::Descriptor))
    }

    pub(super) fn is_bounded(&self) -> bool {
        match self {
            Carrier::Descriptor => true,
            Carrier::Named(name) => name.len() <= MAX_SEGMENT_NAME,
        }
    }
}

/// A publisher, as its node announces it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Which end of the node.
    pub index: u32,
    /// The name of the service.
    pub service: String,
    /// Its type.
    pub kind: Kind,
    /// What it promises.
    pub contract: Contract,
    /// When the ring was made, in nanoseconds since the machine was started: tells which of two that retain
    /// messages is the later.
    pub born: u64,
    /// Whose messages: its own, those of a publisher that is gone and whose ring this node keeps, or those
    /// of another host.
    pub author: Author,
    /// It has sent nothing yet: the subscribers that are there get everything, from its first message on.
    pub begins: bool,
}

impl Offer {
    /// A publisher with messages of its own, that has begun before.
    #[must_use]
    pub fn new(index: u32, service: &str, kind: Kind, contract: Contract) -> Offer {
        Offer {
            index,
            service: service.to_owned(),
            kind,
            contract,
            born: 0,
            author: Author::Own,
            begins: false,
        }
    }
}

/// How far a publisher that begins is with the subscribers that were there before it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// None of them is on its way.
    Done,
    /// Some are being introduced. `Joined` follows.
    UnderWay,
    /// Those that are left do not answer at the moment: nobody waits for them. `Lend` the ring for them.
    Unanswered,
}

/// A subscription that means a service and asks for another type, or another pattern, than it has.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The name of its node.
    pub node_name: NodeName,
    /// Its filter.
    pub filter: Filter,
    /// What it asks for.
    pub asks: Asks,
}

/// An established connection, as the subscriber's node tells a new root.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The publisher.
    pub publisher: EndId,
    /// The seat of the connection in the reader segment.
    pub seat: u32,
}

/// A subscription, as its node announces it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which end of the node.
    pub index: u32,
    /// Which services.
    pub filter: String,
    /// What it asks for.
    pub asks: Asks,
    /// Publishers that are attached already: no match for these. (On the wire they travel ahead, see
    /// [`ToRoot::Connected`](super::ToRoot::Connected).)
    pub connected: Vec<Connected>,
}

impl Demand {
    /// A subscription without connections.
    #[must_use]
    pub fn new(index: u32, filter: &str, asks: Asks) -> Demand {
        Demand { index, filter: filter.to_owned(), asks, connected: Vec::new() }
    }
}
