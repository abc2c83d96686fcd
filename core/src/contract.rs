//! What the two sides of a service agree on, each fact as one value: the type that it carries, what a
//! publisher promises, what a subscription asks for, and where its messages come from.
//!
//! Each value is made once, where an end is created, and embedded everywhere else, on the wire too. A new
//! property of a service is a new field here; nothing on the way between a builder, the registry and the
//! other side changes.
//!
//! | value        | who makes it           | who reads it                                                      |
//! | ------------ | ---------------------- | ----------------------------------------------------------------- |
//! | [`Kind`]     | each end, of its type  | the registry compares fingerprints; tools read the schema          |
//! | [`Contract`] | the publisher          | subscribers, keepers, links                                       |
//! | [`Asks`]     | the subscription       | the registry matches by it                                        |
//! | [`Author`]   | the publisher's node   | subscribers: whose messages these are                             |
//! | [`Route`]    | the registry           | subscribers: which end lets them in                               |
//! | [`Match`]    | the registry           | subscribers: all of the above, of one publisher                   |
//! | [`Carried`]  | the registry           | ends that do not fit: what the service carries, and who holds it  |
//!
//! All of these come from other processes. Names are checked when a packet is decoded; numbers are the peer's
//! word.
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::end::EndId;
use crate::name::{GroupName, NodeName, ServiceName};
use crate::schema::Schema;

/// The longest description of a type, in bytes.
pub const MAX_SCHEMA: usize = 32 * 1024;

/// The type that a service carries.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The fingerprint of the type; equal for equal types.
    pub fingerprint: u128,
    /// The description of the type: the bytes of a [`Schema`], at most [`MAX_SCHEMA`].
    pub schema: Vec<u8>,
}

impl Kind {
    /// The kind of a type that is described.
    #[must_use]
    pub fn of(schema: &Schema) -> Kind {
        Kind { fingerprint: schema.fingerprint(), schema: schema.to_bytes() }
    }

    /// The name of the type; its fingerprint if the description cannot be read.
    #[must_use]
    pub fn type_name(&self) -> String {
        match Schema::from_bytes(&self.schema) {
            Ok(schema) => schema.type_name().to_owned(),
            Err(_) => format!("#{:032x}", self.fingerprint),
        }
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.schema.len() <= MAX_SCHEMA
    }
}

/// What a service is for. Ends of one name have one pattern.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Messages, each to every subscriber.
    #[default]
    Messages,
    /// What clients ask of servers.
    Calls,
    /// What servers answer.
    Replies,
    /// A value, of which the latest counts.
    Latest,
    /// Events without a content.
    Events,
    /// Jobs, each to one member of a group.
    Jobs,
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Pattern::Messages => "messages",
            Pattern::Calls => "calls",
            Pattern::Replies => "replies",
            Pattern::Latest => "the latest value",
            Pattern::Events => "events",
            Pattern::Jobs => "jobs",
        })
    }
}

/// What becomes of messages that a subscriber does not read in time.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// The oldest are overwritten, and counted as lost. The publisher never waits.
    #[default]
    Lossy,
    /// Nothing is lost; a publisher waits, or is refused, when a subscriber is a whole ring behind.
    Reliable,
}

impl Delivery {
    /// [`Delivery::Reliable`] if that is asked for.
    #[must_use]
    pub fn reliable_if(is_reliable: bool) -> Delivery {
        if is_reliable { Delivery::Reliable } else { Delivery::Lossy }
    }
}

/// What a publisher promises.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    /// What the service is for.
    pub pattern: Pattern,
    /// What becomes of messages that are not read in time.
    pub delivery: Delivery,
    /// Past messages that a subscriber gets which attaches later; less than the capacity.
    pub history: u32,
    /// Messages that the ring holds: a power of two.
    pub capacity: u32,
    /// Of its last messages, how many stay readable when the publisher is gone; less than the capacity.
    pub retained: u32,
    /// The longest time between two messages, in microseconds; `None`: any.
    pub deadline_us: Option<u64>,
}

impl Contract {
    /// Whether nothing is lost.
    #[must_use]
    pub fn is_reliable(&self) -> bool {
        self.delivery == Delivery::Reliable
    }

    /// What stays promised when the publisher is gone and others have its ring.
    #[must_use]
    pub fn of_former(self) -> Contract {
        Contract { history: self.history.max(self.retained), retained: 0, deadline_us: None, ..self }
    }
}

/// What a subscription is to its publishers.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub enum SubscriberRole {
    /// It counts: a reliable publisher waits for it.
    #[default]
    Counted,
    /// It only looks: nobody waits for it, and it may lose messages of a reliable publisher.
    Onlooker,
    /// It counts, and reads for another host, whose wishes are not this host's.
    Link,
    /// One of a group, of which each job reaches one member.
    Member {
        /// The name of the group.
        group: GroupName,
        /// A job whose member is gone before it is done goes to another one.
        at_least_once: bool,
    },
}

/// What a subscription asks for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Of which type; `None`: any.
    pub kind: Option<Kind>,
    /// Of which pattern.
    pub pattern: Pattern,
    /// What it is to the publishers.
    pub role: SubscriberRole,
}

impl Asks {
    /// Whether this is the type that is asked for.
    #[must_use]
    pub fn accepts(&self, kind: &Kind) -> bool {
        self.kind.as_ref().is_none_or(|asked| asked.fingerprint == kind.fingerprint)
    }

    /// Whether it reads for another host.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.role == SubscriberRole::Link
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.kind.as_ref().is_none_or(Kind::is_bounded)
    }
}

/// A publisher that is gone, and whose ring others keep.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// Which end of which life of a node.
    pub publisher: EndId,
    /// The name of that node.
    pub node_name: NodeName,
}

/// A publisher of another host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The host, as its link knows it.
    pub host: String,
    /// True: that host is a node without shared memory, which counts as part of this host.
    pub leaf: bool,
    /// The publisher, at that host.
    pub publisher: EndId,
    /// The name of its node.
    pub node_name: NodeName,
    /// The number that message 0 of the ring here has there. A subscriber that was attached to an earlier
    /// ring for this publisher sees by it what it has missed in between.
    pub first: u64,
}

/// The author of an end's messages.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub enum Author {
    /// Its own.
    #[default]
    Own,
    /// Those of a publisher that is gone, whose ring its node keeps.
    Former(Former),
    /// Those of a publisher of another host, as they come over a link.
    Remote(Remote),
}

impl Author {
    /// The publisher that is gone.
    #[must_use]
    pub fn former(&self) -> Option<&Former> {
        match self {
            Author::Former(former) => Some(former),
            Author::Own | Author::Remote(_) => None,
        }
    }

    /// The publisher of another host.
    #[must_use]
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            Author::Remote(remote) => Some(remote),
            Author::Own | Author::Former(_) => None,
        }
    }
}

/// The end that lets a subscriber in, and the author of its messages.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The end that lets a subscriber in.
    pub end: EndId,
    /// The name of that end's node.
    pub node_name: NodeName,
    /// The author of its messages.
    pub author: Author,
}

impl Route {
    /// The publisher whose messages these are.
    #[must_use]
    pub fn publisher(&self) -> EndId {
        match &self.author {
            Author::Own => self.end,
            Author::Former(former) => former.publisher,
            Author::Remote(remote) => remote.publisher,
        }
    }

    /// The name of that publisher's node.
    #[must_use]
    pub fn publisher_node(&self) -> &NodeName {
        match &self.author {
            Author::Own => &self.node_name,
            Author::Former(former) => &former.node_name,
            Author::Remote(remote) => &remote.node_name,
        }
    }

    /// The end that wrote the ring, and stands in its header.
    #[must_use]
    pub fn writer(&self) -> EndId {
        self.author.former().map_or(self.end, |former| former.publisher)
    }
}

/// A publisher that a subscription means.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The service.
    pub service: ServiceName,
    /// The end that lets the subscriber in, and the author of its messages.
    pub route: Route,
    /// The type.
    pub kind: Kind,
    /// What the publisher promises.
    pub contract: Contract,
}

impl Match {
    /// Whether the messages outlive, or have outlived, their publisher: then several ends may have them.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        self.contract.retained > 0 || self.route.author.former().is_some()
    }
}

/// What a service carries, as an end hears that does not fit.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The service.
    pub service: ServiceName,
    /// What it is for.
    pub pattern: Pattern,
    /// Its type.
    pub kind: Kind,
    /// The node of a publisher that fixes both.
    pub holder: NodeName,
}
