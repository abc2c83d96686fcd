//! Why the root says no, and what to do about it, in words.
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::VERSION;
use crate::contract::Carried;
use crate::end::EndId;

/// Why the root says no.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer speaks another version. Use programs of one version in a hive.
    Version {
        /// What the root speaks.
        root: u32,
    },
    /// A live node has this name.
    NameTaken {
        /// Its process.
        pid: i32,
    },
    /// A live node has this epoch.
    EpochTaken,
    /// The epoch is of another process, as the kernel says: of one that joined itself, or of the parent of a
    /// fork.
    EpochOfAnother {
        /// The epoch that was said.
        node: u64,
        /// Who said it.
        pid: i32,
    },
    /// The root is embedded in a node, and a dedicated one is wanted.
    NotDedicated {
        /// The process that hosts it.
        pid: i32,
    },
    /// A dedicated root hands over to nobody.
    Dedicated {
        /// Its process.
        pid: i32,
    },
    /// The service has another type.
    OtherType(Box<Carried>),
    /// The service is for something else.
    OtherPattern(Box<Carried>),
    /// A table is full.
    Limit {
        /// Of what there are too many.
        what: Table,
        /// How many there may be.
        limit: u64,
    },
    /// A name or filter that does not parse.
    Name {
        /// Why, in words.
        why: String,
    },
    /// There is no such end.
    UnknownEnd {
        /// Which.
        end: EndId,
    },
    /// An end of this number lives already.
    IndexTaken {
        /// Which.
        index: u32,
    },
    /// The root's process has no descriptors left.
    OutOfDescriptors {
        /// Its process.
        pid: i32,
    },
    /// The message breaks the protocol.
    Malformed {
        /// How, in words.
        why: String,
    },
    /// The policy of the hive does not let this user do that.
    NotAllowed {
        /// Whose hive this is.
        owner: u32,
        /// Who asked.
        user: u32,
        /// What it wanted to do,
        right: Right,
        /// and to which service or filter; empty where there is none.
        what: String,
    },
}

/// Something that a policy may allow, or that the owner of a hive alone may do.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Be in the hive.
    Join,
    /// Publish a service.
    Publish,
    /// Subscribe to services.
    Subscribe,
    /// Look at the memory of another node's end.
    Look,
    /// Take the root over; the owner alone.
    TakeOver,
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Right::Join => "join",
            Right::Publish => "publish",
            Right::Subscribe => "subscribe",
            Right::Look => "look",
            Right::TakeOver => "take over",
        })
    }
}

/// Why a user may not do something in a hive, and who can change that.
pub fn not_allowed(owner: u32, user: u32, right: Right, what: &str) -> String {
    let change = |line: String| format!("user {owner} can add to its policy: allow user:{user} {line}");
    match right {
        Right::Join => {
            format!("user {user} may not join this hive of user {owner}; {}", change("join".into()))
        }
        Right::Publish | Right::Subscribe => {
            format!(
                "user {user} may not {right} {what:?} in this hive of user {owner}; {}",
                change(format!("{right} {what}"))
            )
        }
        Right::Look => format!(
            "user {user} may not look at the memory of {what:?} in this hive of user {owner}; {}",
            change(format!("subscribe {what}"))
        ),
        Right::TakeOver => {
            format!(
                "user {user} may not take over the root of this hive; run `hm root` as its owner, user {owner}"
            )
        }
    }
}

/// A bounded table of the root.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Nodes of the hive.
    Nodes,
    /// Nodes of one user who does not own the hive.
    NodesOfGuest,
    /// Ends of one node.
    EndsOfNode,
    /// Ends of the hive.
    Ends,
    /// Pairs of a publisher with a subscriber.
    Pairs,
    /// Connections that a node announces ahead of a `Demand`.
    Announced,
    /// Questions under way.
    Inquiries,
    /// Publishers of one node that retain messages.
    RetainedOfNode,
    /// Publishers that retain messages, living and gone.
    Retained,
    /// Bytes of a type description.
    SchemaBytes,
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Table::Nodes => "nodes in the hive",
            Table::NodesOfGuest => "nodes of one user that does not own the hive",
            Table::EndsOfNode => "publishers and subscribers in one node",
            Table::Ends => "publishers and subscribers in the hive",
            Table::Pairs => "pairs of a publisher with a subscriber in the hive",
            Table::Announced => "connections announced ahead of a subscription",
            Table::Inquiries => "questions under way",
            Table::RetainedOfNode => "publishers in one node that retain messages",
            Table::Retained => "publishers that retain messages, living and gone,",
            Table::SchemaBytes => "bytes in a type description",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version { root } => write!(
                formatter,
                "the root speaks protocol version {root}, this program {VERSION}; use programs of one version"
            ),
            Refusal::NameTaken { pid } => {
                write!(formatter, "process {pid} is a live node of this name; choose another name or stop it")
            }
            Refusal::EpochTaken => formatter.write_str("a live node has the same epoch; join again"),
            Refusal::EpochOfAnother { node, pid } => write!(
                formatter,
                "process {pid} says the epoch {node:016x}, which belongs to another process; let it join by itself, after a \
                 fork or a restore too"
            ),
            Refusal::NotDedicated { pid } => {
                write!(
                    formatter,
                    "the root is embedded in process {pid}; start a dedicated one with `hm root`"
                )
            }
            Refusal::Dedicated { pid } => {
                write!(formatter, "process {pid} is a dedicated root of this hive; stop it first")
            }
            Refusal::OtherType(carried) => {
                let Carried { service, holder, .. } = &**carried;
                write!(
                    formatter,
                    "{service} has another type in node {holder}; use that type or another name"
                )
            }
            Refusal::OtherPattern(carried) => {
                let Carried { service, pattern, holder, .. } = &**carried;
                write!(formatter, "{service} is used for {pattern} in node {holder}; use another name")
            }
            Refusal::Limit { what, limit } => {
                write!(formatter, "there are too many {what}: {limit} are possible; use fewer")
            }
            Refusal::Name { why } => formatter.write_str(why),
            Refusal::UnknownEnd { end } => write!(formatter, "there is no end {end}; it may have just gone"),
            Refusal::IndexTaken { index } => {
                write!(formatter, "this node has an end {index} already; give every end its own number")
            }
            Refusal::OutOfDescriptors { pid } => write!(
                formatter,
                "process {pid}, which hosts the root, has no file descriptors left; raise its `ulimit -n`"
            ),
            Refusal::Malformed { why } => {
                write!(formatter, "{why}; this breaks the protocol, so look for a damaged or foreign program")
            }
            Refusal::NotAllowed { owner, user, right, what } => {
                formatter.write_str(&not_allowed(*owner, *user, *right, what))
            }
        }
    }
}
