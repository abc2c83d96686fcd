//! What happens to the root, what it does then, and its bounds.
use crate::end::EndId;
use crate::identity::Process;
use crate::policy::{Credentials, Policy};
use crate::protocol::{DecodeError, Refusal, Table, ToNode, ToRoot};

/// A connection of a node to the root; never reused within the life of a root.
pub type ClientId = u64;

/// The bounds of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of nodes, admitted or not.
    pub clients: usize,
    /// Those of them that one user may have who does not own the hive.
    pub clients_of_a_guest: usize,
    /// Publishers and subscribers of one node.
    pub ends_per_node: usize,
    /// Publishers and subscribers of the hive.
    pub ends: usize,
    /// Pairs of a publisher with a subscriber that match.
    pub pairs: usize,
    /// Connections that one node announces ahead of its subscriptions; it may have all pairs.
    pub announced: usize,
    /// Questions about segments under way.
    pub inquiries: usize,
    /// Pairs between two nodes that are on their way: matched or attaching.
    pub lane: usize,
    /// Publishers of one node that retain messages.
    pub retained_of_node: usize,
    /// Publishers of the hive that retain messages, living and gone.
    pub retained: usize,
    /// Rings that one node keeps for others.
    pub kept_of_node: usize,
    /// Rings that publishers have lent this root, which keeps two descriptors for each.
    pub lent: usize,
    /// Those of them of one user who does not own the hive.
    pub lent_of_a_guest: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 4096,
            clients_of_a_guest: 256,
            ends_per_node: 16_384,
            ends: 65_536,
            pairs: 262_144,
            announced: 262_144,
            inquiries: 1024,
            lane: 8,
            retained_of_node: 64,
            retained: 1024,
            kept_of_node: 128,
            lent: 64,
            lent_of_a_guest: 4,
        }
    }
}

/// What happens to the root.
#[derive(Clone, Debug)]
pub enum Event {
    /// A process connected.
    Connected {
        /// The new connection.
        client: ClientId,
        /// Its process.
        pid: i32,
        /// Its user and groups, as the kernel says.
        credentials: Credentials,
        /// Which process that is, as the kernel says: its nodes can have the epochs of this one only.
        process: Process,
    },
    /// The owner of the hive has another policy now.
    PolicyChanged {
        /// The policy.
        policy: Policy,
    },
    /// It said something.
    Said {
        /// Who.
        client: ClientId,
        /// What; its descriptors are [`Attachment::FromMessage`] in the actions that follow.
        message: ToRoot,
    },
    /// It said something, but this process had no descriptors left to take those that came along.
    DescriptorsLost {
        /// Who.
        client: ClientId,
        /// What.
        message: ToRoot,
    },
    /// It sent something that is no message.
    Garbled {
        /// Who.
        client: ClientId,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// Its socket closed or its process is gone.
    Gone {
        /// Who.
        client: ClientId,
    },
    /// The kernel says that the process of this client, of which the root has heard [`Event::Gone`] or a
    /// `Leave` before, is dead.
    Died {
        /// Who.
        client: ClientId,
    },
}

/// What the root does next, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a message with its descriptors.
    Send {
        /// To whom.
        to: ClientId,
        /// What.
        message: ToNode,
        /// The descriptors, in order.
        attachments: Vec<Attachment>,
    },
    /// Keep the descriptor that came with this message: the doorbells of this client.
    KeepBells {
        /// Whose.
        client: ClientId,
    },
    /// Keep the descriptor that came with this message: the ring of this publisher. With it the pidfd of its
    /// client, and tell when that process is dead ([`Event::Died`]).
    KeepRing {
        /// Who sent it.
        client: ClientId,
        /// Whose.
        publisher: EndId,
    },
    /// Nobody needs the ring of this publisher any more.
    DropRing {
        /// Whose.
        publisher: EndId,
    },
    /// The root has a higher epoch from now on; write it down.
    RaiseEpoch {
        /// The epoch.
        epoch: u64,
    },
    /// Close the connection. The registry has forgotten it already.
    CutOff {
        /// Which.
        client: ClientId,
    },
    /// Close in order and let the process behind this connection take over.
    HandOver {
        /// Which.
        to: ClientId,
    },
}

/// Which descriptor goes with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The descriptor of this position beside the message that is being handled.
    FromMessage(usize),
    /// The doorbells that this client gave.
    BellsOf(ClientId),
    /// The pidfd of this client's process.
    PidfdOf(ClientId),
    /// The ring that this publisher has lent.
    LentRing(EndId),
    /// The pidfd of its process.
    LentPidfd(EndId),
}

/// What this root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootIdentity {
    /// Which life of the root.
    pub epoch: u64,
    /// Its process.
    pub pid: i32,
    /// True: it serves in a process of its own.
    pub dedicated: bool,
}

/// What is to be done, in order.
pub(super) type Actions = Vec<Action>;

pub(super) fn check_limit(what: Table, now: usize, limit: usize) -> Result<(), Refusal> {
    if now >= limit { Err(Refusal::Limit { what, limit: limit as u64 }) } else { Ok(()) }
}

pub(super) fn send(to: ClientId, message: ToNode) -> Action {
    Action::Send { to, message, attachments: Vec::new() }
}

pub(super) fn refuse(to: ClientId, request: Option<u64>, refusal: Refusal) -> Action {
    send(to, ToNode::Refused { request, refusal })
}

pub(super) fn malformed(why: &str) -> Refusal {
    Refusal::Malformed { why: why.to_owned() }
}
