//! The control protocol: what nodes and the root say to each other.
//!
//! One message is one packet of a SEQPACKET socket, at most [`MAX_PACKET`] bytes:
//!
//! ```text
//! +--------------+-----------+------+---------------------------------------------+
//! | magic "HMcp" | version   | zero | rkyv archive of `ToRoot` or `ToNode`        |
//! | 4 bytes      | 4 bytes   | 8    | (its root is at the end; aligned to 16)     |
//! +--------------+-----------+------+---------------------------------------------+
//! ```
//!
//! The head never changes its form, so peers of different versions can tell each other so. Descriptors travel beside
//! the packet, in the order in which its [`Carrier`]s stand; to a node, `Attach`, `Attached` and `Keep` end with one more: the
//! pidfd of the peer. Every packet is a stranger's input: it is validated before it is read, a packet whose number
//! of descriptors is not what it says is malformed, and texts and tables are bounded by the constants below.
//!
//! | step       | subscriber's node        | root                             | publisher's node              |
//! | ---------- | ------------------------ | -------------------------------- | ----------------------------- |
//! | admit      | `Hello` (+ bells)        | `Welcome`                        | `Hello` (+ bells)             |
//! | announce   | `Demand`                 | `Accepted` or `Refused`, `Match` | `Offer`                       |
//! | seat       | `Attach` (+ reader)      | `Attach` (+ bells, pidfd)        | maps reader, registers pins   |
//! | attach     | maps ring, reads         | `Attached` (+ bells, pidfd)      | `Attached` (+ ring)           |
//! | let go     | `Detached`               | forgets that it is connected     | sees it in the reader segment |
//! | once more  | `Rematch`                | `Match`, and so on               |                               |
//!
//! A publisher that retains messages is accepted when a *keeper* has its ring (`docs/decisions/0010-retained-services.md`). What
//! it retained is offered by its keepers when it is gone, like publishers of their own:
//!
//! | step       | publisher's node         | root                             | keeper's node                           |
//! | ---------- | ------------------------ | -------------------------------- | --------------------------------------- |
//! | keep       | `Offer`, retained        | `Keep` (+ pidfd)                 | `Inspect`                               |
//! | kept       | `Inspected` (+ ring)     | `Inspected` (+ ring), `Accepted` | `Kept`, or `NotKept`                    |
//! | stand in   | is gone                  | `Gone`, if the root sees it first | `Offer`, stands for it                 |
//! | let go     |                          | `Release`                        | closes it                               |
//!
//! A subscriber of another type than its service carries is accepted, told (`Skipped`), and matched when the type fits; a publisher may
//! ask who waits so (`Misfits`).
//!
//! Doorbells are writable, so those of a node go to peers of its own user alone. If the kernel says that the two nodes are of different
//! users, the root passes none on: the publisher's node makes doorbells for that user and answers with them, and the subscriber's
//! gives none (`docs/decisions/0015-doorbells-for-other-users.md`).
//!
//! | step       | subscriber's node        | root                             | publisher's node of another user |
//! | ---------- | ------------------------ | -------------------------------- | -------------------------------- |
//! | seat       | `Attach` (+ reader)      | `Attach` (+ pidfd)               | maps reader, registers pins      |
//! | attach     | maps ring, reads         | `Attached` (+ bells, pidfd)      | `Attached` (+ ring, bells)       |
//!
//! A publisher that begins is told when the subscribers that were there before it are attached; until then what becomes of its ring is
//! the root's business as well (`core/src/registry/joiners.rs`):
//!
//! | step       | subscriber's node        | root                             | publisher's node                        |
//! | ---------- | ------------------------ | -------------------------------- | --------------------------------------- |
//! | begin      |                          | `Accepted`, under way            | `Offer`, begins                         |
//! | introduce  |                          | (as above, from the first message on) |                                    |
//! | all here   |                          | `Joined`                         | `create` returns                        |
//! | or: lend   |                          | keeps the ring                   | `Lend` (+ ring), `create` returns       |
//! | is gone    | maps the ring, reads     | `Attached` (+ ring, bells, pidfd) |                                        |
//!
//! If a node dies between two steps the root forgets the pair; if the root dies, nodes tell its successor what they
//! have (`Connected`, `Offer`, `Demand`), and pairs that were not attached yet are matched anew.
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.
use std::fmt;

use rkyv::rancor;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::contract::{Asks, Author, Carried, Contract, Kind, Match, Pattern, Route, SubscriberRole};
use crate::filter::Filter;
use crate::name::NodeName;

pub use crate::contract::MAX_SCHEMA;
pub use crate::end::EndId;

/// The version of this protocol. Nodes and roots of different versions refuse each other in words.
pub const VERSION: u32 = 6;
/// The longest packet, in bytes.
pub const MAX_PACKET: usize = 64 * 1024;
/// The longest explanation, in bytes; longer ones are cut.
pub const MAX_REASON: usize = 1024;
/// The reason of an `AttachRefused` that is nobody's fault: the publisher ended while it was introduced.
pub const PUBLISHER_GONE: &str = "the publisher has just gone";
/// The longest name of a shared-memory segment, in bytes.
pub const MAX_SEGMENT_NAME: usize = 255;
/// The most established connections that one packet lists.
pub const CONNECTED_PER_PACKET: usize = 1024;
/// A page of a listing ends before it grows beyond this many bytes.
pub const PAGE_BYTES: usize = 48 * 1024;
/// The highest epoch a root may have. Above it is no epoch but a mistake.
pub const MAX_EPOCH: u64 = 1 << 48;

const MAGIC: [u8; 4] = *b"HMcp";
/// Bytes before the archive.
const HEAD: usize = 16;

/// How a segment reaches a peer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The next descriptor beside the packet.
    Descriptor,
    /// A segment with this name.
    Named(String),
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
    /// When the ring was made, in nanoseconds since the machine was started: tells which of two that retain messages is the later.
    pub born: u64,
    /// Whose messages: its own, those of a publisher that is gone and whose ring this node keeps, or those of another host.
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
    /// Publishers that are attached already: no match for these. (On the wire they travel ahead, see [`ToRoot::Connected`].)
    pub connected: Vec<Connected>,
}

impl Demand {
    /// A subscription without connections.
    #[must_use]
    pub fn new(index: u32, filter: &str, asks: Asks) -> Demand {
        Demand { index, filter: filter.to_owned(), asks, connected: Vec::new() }
    }
}

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
    Node(NodeInfo),
    /// A service with at least one publisher.
    Service {
        /// Its name.
        service: String,
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
        service: String,
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
    Connection(ConnectionInfo),
}

/// A node, as a listing shows it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
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

/// An established connection, as a listing shows it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Who writes.
    pub publisher: EndId,
    /// Who reads.
    pub subscriber: EndId,
    /// The seat in the subscriber's reader segment.
    pub seat: u32,
}

/// What a node says.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ToRoot {
    /// The first message: who is here. One carrier.
    Hello {
        /// The node's name.
        name: String,
        /// The node's epoch.
        node: u64,
        /// True: it only looks; it claims no name and has no ends.
        observer: bool,
        /// True: it wants a dedicated root only.
        external: bool,
        /// True: an earlier root had admitted it in this life.
        rejoin: bool,
        /// True: it hosts this root.
        hosts_root: bool,
        /// The highest epoch of a root it has seen.
        seen_epoch: u64,
        /// Its doorbells.
        bells: Carrier,
    },
    /// A publisher begins. Answered by `Accepted` or `Refused`.
    Offer {
        /// Comes back in the answer.
        request: u64,
        /// The publisher.
        offer: Offer,
    },
    /// Connections that the coming `Demand` of this subscriber already has.
    Connected {
        /// The end that the `Demand` will name.
        subscriber: u32,
        /// At most [`CONNECTED_PER_PACKET`].
        connections: Vec<Connected>,
    },
    /// A subscription begins. Answered by `Accepted` or `Refused`.
    Demand {
        /// Comes back in the answer.
        request: u64,
        /// The subscription; its `connected` is empty on the wire.
        demand: Demand,
    },
    /// An end of this node is gone.
    Withdraw {
        /// Which.
        index: u32,
    },
    /// Answer to `Match`: here is my seat. One carrier.
    Attach {
        /// The end of this node.
        subscriber: u32,
        /// With whom.
        publisher: EndId,
        /// Which seat of the reader segment.
        seat: u32,
        /// The reader segment.
        reader: Carrier,
    },
    /// Answer to `Match`: not wanted any more.
    Declined {
        /// The end of this node.
        subscriber: u32,
        /// With whom.
        publisher: EndId,
    },
    /// Answer to `Attach`: the seat counts; here is my ring. One carrier or two.
    Attached {
        /// The end of this node.
        publisher: u32,
        /// With whom.
        subscriber: EndId,
        /// The first sequence number that the subscriber gets.
        start: u64,
        /// The ring segment.
        ring: Carrier,
        /// The doorbells made for the subscriber's user, if that is another one.
        bells: Option<Carrier>,
    },
    /// Answer to `Attach`: no.
    AttachRefused {
        /// The end of this node.
        publisher: u32,
        /// With whom.
        subscriber: EndId,
        /// Why, in words.
        reason: String,
    },
    /// Subscribers that were there when this publisher began are not attached yet: keep its ring for them, in case that it ends
    /// before. One carrier. Not answered.
    Lend {
        /// The end of this node.
        publisher: u32,
        /// The ring segment.
        ring: Carrier,
    },
    /// What is there? Answered by `Page`.
    List {
        /// Comes back in the answer.
        request: u64,
        /// Where to go on.
        after: Cursor,
    },
    /// Let me look at a segment. Answered by `Inspected` or `Refused`.
    Inspect {
        /// Comes back in the answer.
        request: u64,
        /// Whose segment.
        end: EndId,
    },
    /// Answer to `Inspect`: one carrier, or none when the end is gone.
    Inspected {
        /// From the question.
        inquiry: u64,
        /// The segment.
        segment: Option<Carrier>,
    },
    /// Answer to `Keep`, and said to a new root: this node has the ring.
    Kept {
        /// Whose.
        publisher: EndId,
    },
    /// Answer to `Keep` or `Gone`: this node does not have the ring, or nothing is in it.
    NotKept {
        /// Whose.
        publisher: EndId,
    },
    /// This subscription has let go of a publisher that lives, or could not take what the publisher gave it: the pair is not connected
    /// any more.
    Detached {
        /// The end of this node.
        subscriber: u32,
        /// From whom.
        publisher: EndId,
    },
    /// Which subscribers mean the service of this publisher, but expect another type? Answered by `Misfits`.
    Misfits {
        /// Comes back in the answer.
        request: u64,
        /// The end of this node.
        publisher: u32,
    },
    /// What this subscription declined or has let go of it may want now: match it anew.
    Rematch {
        /// The end of this node.
        subscriber: u32,
    },
    /// Tell me by `Changed`, once, when there are other publishers or subscriptions than now.
    Watch,
    /// Give a sign of life. Answered by `Alive`.
    AreYouThere,
    /// A dedicated root is ready to take over: give up the lock and the socket. Answered by `HandedOver` or `Refused`.
    HandOver,
    /// This node is leaving.
    Leave,
}

/// What the root says.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ToNode {
    /// Admitted.
    Welcome {
        /// The epoch of this root.
        epoch: u64,
        /// Its process, as it sees itself.
        pid: i32,
        /// True: it serves in a process of its own.
        dedicated: bool,
    },
    /// An `Offer` or `Demand` stands.
    Accepted {
        /// Of the question.
        request: u64,
        /// Of a publisher that begins: whether others are on their way to it.
        joining: Joining,
    },
    /// Nobody is awaited any more of those that were under way when this publisher was accepted; what they were sent is with them.
    Joined {
        /// The end of this node.
        publisher: u32,
        /// Some of them do not answer at the moment: `Lend` the ring for them.
        unanswered: bool,
    },
    /// A request was refused, or (without a number) the node itself is, and is cut off. With the number of an end that stood:
    /// the policy does not allow it any more, and it is withdrawn.
    Refused {
        /// Of the question.
        request: Option<u64>,
        /// Why.
        refusal: Refusal,
    },
    /// There is a publisher for a subscription. Answered by `Attach` or `Declined`.
    Match {
        /// The end of this node.
        subscriber: u32,
        /// The publisher.
        matched: Box<Match>,
    },
    /// A service is what a subscription means, but has another type or another pattern. The subscription stands, and is matched when
    /// they fit.
    Skipped {
        /// The end of this node.
        subscriber: u32,
        /// What the service carries.
        carried: Box<Carried>,
    },
    /// A subscriber wants in. One carrier or two, then the pidfd of the subscriber's process. Answered by `Attached` or `AttachRefused`.
    Attach {
        /// The end of this node.
        publisher: u32,
        /// Who reads.
        subscriber: EndId,
        /// The subscriber's node.
        node_name: NodeName,
        /// What it is to the publisher.
        role: SubscriberRole,
        /// Which seat of the reader segment.
        seat: u32,
        /// The subscriber's user, as the kernel told the root.
        user: u32,
        /// The reader segment.
        reader: Carrier,
        /// The doorbells of the subscriber's node; `None` if that is of another user.
        bells: Option<Carrier>,
        /// It was there when the publisher began, and gets everything.
        from_first: bool,
    },
    /// The publisher let us in. Two carriers, then the pidfd of the publisher's process.
    Attached {
        /// The end of this node.
        subscriber: u32,
        /// Who writes.
        publisher: EndId,
        /// The publisher's user, as the kernel told the root: never as the publisher says.
        user: u32,
        /// Whether it is another user than that of this node, by the same account.
        is_stranger: bool,
        /// The first sequence number to read.
        start: u64,
        /// The ring segment.
        ring: Carrier,
        /// The doorbells of the publisher's node: its own, or those that it made for this user.
        bells: Carrier,
        /// The publisher is gone, and the root had its ring: nothing more will come.
        gone: bool,
    },
    /// The pair does not come about, or (when it has) is dissolved because the policy does not allow it any more: let go.
    AttachRefused {
        /// The end of this node.
        subscriber: u32,
        /// With whom.
        publisher: EndId,
        /// Why, in words.
        reason: String,
    },
    /// Keep the ring of `source`, until it is released or the publisher is gone and had sent nothing. The pidfd of the source's process.
    /// Answered by `Kept`, `NotKept`, or `Offer` if the publisher is gone already.
    Keep {
        /// Who has the ring: the publisher, or another keeper.
        source: EndId,
        /// The publisher. Its `author` says which; to be offered when it is gone, under a number of this node.
        offer: Box<Offer>,
    },
    /// A publisher whose ring this node keeps has ended, or has left this root.
    Gone {
        /// Which.
        publisher: EndId,
    },
    /// A ring need not be kept any more, and what it was offered as is forgotten.
    Release {
        /// Whose.
        publisher: EndId,
    },
    /// A part of a listing.
    Page {
        /// Of the question.
        request: u64,
        /// Lines, in order.
        entries: Vec<Entry>,
        /// Where to go on; `None`: this was the last page.
        next: Option<Cursor>,
    },
    /// Answer to `Misfits`.
    Misfits {
        /// Of the question.
        request: u64,
        /// How many subscriptions there are that ask for something else.
        count: u32,
        /// One of them; `None`: there are none.
        first: Option<Box<Misfit>>,
    },
    /// Somebody wants to look at a segment. Answered by `Inspected`.
    Inspect {
        /// Comes back in the answer.
        inquiry: u64,
        /// The end of this node.
        index: u32,
    },
    /// The segment asked for. One carrier.
    Inspected {
        /// Of the question.
        request: u64,
        /// The segment.
        segment: Carrier,
    },
    /// This root closes in order. `successor` is the process that takes over; 0: whoever is first.
    Leaving {
        /// A process, or 0.
        successor: i32,
    },
    /// Something has changed since `Watch`.
    Changed,
    /// Answer to `AreYouThere`.
    Alive,
    /// The lock is free, the socket closed: take over.
    HandedOver,
}

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

/// Why a packet is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than its head, longer than any packet, or of another protocol. Something else uses this socket.
    #[error("a packet of {length} bytes is not of this protocol")]
    Foreign {
        /// Its bytes.
        length: usize,
    },
    /// Of another version. Use programs of one version in a hive.
    #[error("a packet of protocol version {theirs}, here is {VERSION}")]
    Version {
        /// What the peer speaks.
        theirs: u32,
    },
    /// The archive is damaged, or a text in it is longer than allowed. The peer is damaged or hostile.
    #[error("a damaged packet of {length} bytes")]
    Damaged {
        /// Its bytes.
        length: usize,
    },
    /// Surplus or missing descriptors. The peer is damaged or hostile, or this process has none left.
    #[error("a packet that says {expected} descriptors came with {found}")]
    Descriptors {
        /// What the packet says.
        expected: usize,
        /// What came.
        found: usize,
    },
}

/// A message longer than a packet; shorten its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a control message of {length} bytes; {MAX_PACKET} are possible, so describe a smaller type")]
pub struct TooLong {
    /// Its bytes.
    pub length: usize,
}

/// Writes `message` over `packet`, head and all.
///
/// # Errors
/// [`TooLong`]; `packet` then holds nothing of use.
pub fn encode<M: Message>(message: &M, packet: &mut AlignedVec) -> Result<(), TooLong> {
    packet.clear();
    packet.extend_from_slice(&MAGIC);
    packet.extend_from_slice(&VERSION.to_le_bytes());
    packet.extend_from_slice(&[0; 8]);
    message.append(packet);
    if packet.len() > MAX_PACKET {
        return Err(TooLong { length: packet.len() });
    }
    Ok(())
}

/// Reads a message out of a packet and checks everything that can be checked without knowing the state of a hive.
/// `packet` must be aligned to 16, as an [`AlignedVec`] is.
///
/// # Errors
/// [`DecodeError`].
pub fn decode<M: Message>(packet: &[u8], descriptors: usize) -> Result<M, DecodeError> {
    let message: M = decode_unaccompanied(packet)?;
    let expected = message.descriptors();
    if expected != descriptors {
        return Err(DecodeError::Descriptors { expected, found: descriptors });
    }
    Ok(message)
}

/// As [`decode`], for a packet whose descriptors this process could not take.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_unaccompanied<M: Message>(packet: &[u8]) -> Result<M, DecodeError> {
    let length = packet.len();
    if !(HEAD..=MAX_PACKET).contains(&length) || packet[..4] != MAGIC {
        return Err(DecodeError::Foreign { length });
    }
    let theirs = u32::from_le_bytes([packet[4], packet[5], packet[6], packet[7]]);
    if theirs != VERSION {
        return Err(DecodeError::Version { theirs });
    }
    let message = M::read(&packet[HEAD..]).ok_or(DecodeError::Damaged { length })?;
    if !message.is_bounded() {
        return Err(DecodeError::Damaged { length });
    }
    Ok(message)
}

/// [`ToRoot`] or [`ToNode`].
pub trait Message: sealed::Sealed + Sized {
    /// How many descriptors travel beside the packet.
    fn descriptors(&self) -> usize;
    #[doc(hidden)]
    fn append(&self, packet: &mut AlignedVec);
    #[doc(hidden)]
    fn read(archive: &[u8]) -> Option<Self>;
    #[doc(hidden)]
    fn is_bounded(&self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ToRoot {}
    impl Sealed for super::ToNode {}
}

macro_rules! archive_by_rkyv {
    () => {
        fn append(&self, packet: &mut AlignedVec) {
            let taken = std::mem::take(packet);
            // Writing to memory that grows cannot fail: there are no shared pointers and no fixed bounds.
            *packet = rkyv::api::high::to_bytes_in::<_, rancor::Panic>(self, taken).always_ok();
        }

        fn read(archive: &[u8]) -> Option<Self> {
            rkyv::from_bytes::<Self, rancor::Failure>(archive).ok()
        }
    };
}

use rancor::ResultExt as _;

impl Carrier {
    fn descriptors(&self) -> usize {
        usize::from(matches!(self, Carrier::Descriptor))
    }

    fn is_bounded(&self) -> bool {
        match self {
            Carrier::Descriptor => true,
            Carrier::Named(name) => name.len() <= MAX_SEGMENT_NAME,
        }
    }
}

impl Message for ToRoot {
    archive_by_rkyv!();

    fn descriptors(&self) -> usize {
        match self {
            ToRoot::Hello { bells: carrier, .. }
            | ToRoot::Attach { reader: carrier, .. }
            | ToRoot::Lend { ring: carrier, .. }
            | ToRoot::Inspected { segment: Some(carrier), .. } => carrier.descriptors(),
            ToRoot::Attached { ring, bells, .. } => {
                ring.descriptors() + bells.as_ref().map_or(0, Carrier::descriptors)
            }
            _ => 0,
        }
    }

    fn is_bounded(&self) -> bool {
        match self {
            ToRoot::Hello { bells: carrier, .. }
            | ToRoot::Attach { reader: carrier, .. }
            | ToRoot::Lend { ring: carrier, .. }
            | ToRoot::Inspected { segment: Some(carrier), .. } => carrier.is_bounded(),
            ToRoot::Attached { ring, bells, .. } => {
                ring.is_bounded() && bells.as_ref().is_none_or(Carrier::is_bounded)
            }
            ToRoot::Connected { connections, .. } => connections.len() <= CONNECTED_PER_PACKET,
            ToRoot::AttachRefused { reason, .. } => reason.len() <= MAX_REASON,
            // Names, filters and schemas are checked by the registry, which answers with the reason.
            _ => true,
        }
    }
}

impl Message for ToNode {
    archive_by_rkyv!();

    fn descriptors(&self) -> usize {
        match self {
            ToNode::Attach { reader, bells, .. } => {
                reader.descriptors() + bells.as_ref().map_or(0, Carrier::descriptors) + 1
            }
            ToNode::Attached { ring, bells, .. } => ring.descriptors() + bells.descriptors() + 1,
            ToNode::Inspected { segment, .. } => segment.descriptors(),
            ToNode::Keep { .. } => 1,
            _ => 0,
        }
    }

    fn is_bounded(&self) -> bool {
        match self {
            ToNode::Attach { reader, bells, .. } => {
                reader.is_bounded() && bells.as_ref().is_none_or(Carrier::is_bounded)
            }
            ToNode::Attached { ring, bells, .. } => ring.is_bounded() && bells.is_bounded(),
            ToNode::Inspected { segment, .. } => segment.is_bounded(),
            ToNode::Match { matched, .. } => matched.kind.is_bounded(),
            ToNode::Skipped { carried, .. } => carried.kind.is_bounded(),
            ToNode::AttachRefused { reason, .. } => reason.len() <= MAX_REASON,
            ToNode::Misfits { first, .. } => first.as_ref().is_none_or(|misfit| misfit.asks.is_bounded()),
            ToNode::Keep { offer, .. } => offer.kind.is_bounded() && offer.author.former().is_some(),
            _ => true,
        }
    }
}

/// Cuts an explanation to [`MAX_REASON`] bytes.
#[must_use]
pub fn bounded_reason(mut reason: String) -> String {
    if reason.len() > MAX_REASON {
        let mut end = MAX_REASON;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demand() -> ToRoot {
        let kind = Some(Kind { fingerprint: u128::MAX - 5, schema: vec![1, 2, 3] });
        let role = SubscriberRole::Member { group: "workers".parse().unwrap(), at_least_once: true };
        let asks = Asks { kind, pattern: Pattern::Jobs, role };
        ToRoot::Demand {
            request: 7,
            demand: Demand {
                connected: vec![Connected { publisher: EndId { node: 9, index: 1 }, seat: 4 }],
                ..Demand::new(3, "sensors/*", asks)
            },
        }
    }

    /// With names as long as there are.
    fn carried(schema: usize) -> Carried {
        Carried {
            service: "x".repeat(200).parse().unwrap(),
            pattern: Pattern::Messages,
            kind: Kind { fingerprint: 1, schema: vec![0; schema] },
            holder: "y".repeat(64).parse().unwrap(),
        }
    }

    /// As a peer would write it that checks no names.
    #[derive(Archive, Serialize)]
    struct Unchecked {
        name: String,
    }

    #[derive(Archive, Deserialize, Debug, PartialEq)]
    struct Checked {
        name: NodeName,
    }

    #[test]
    fn a_name_on_the_wire_that_is_none_is_damage() {
        for (name, is_one) in [("camera", true), ("", false), ("a/b", false), ("a b", false)] {
            let bytes = rkyv::to_bytes::<rancor::Error>(&Unchecked { name: name.to_owned() }).unwrap();
            assert_eq!(rkyv::from_bytes::<Checked, rancor::Failure>(&bytes).is_ok(), is_one, "{name:?}");
        }
    }

    fn packet<M: Message>(message: &M) -> AlignedVec {
        let mut packet = AlignedVec::new();
        encode(message, &mut packet).unwrap();
        packet
    }

    #[test]
    fn a_message_survives_the_way() {
        let message = demand();
        assert_eq!(decode::<ToRoot>(&packet(&message), 0), Ok(message));
        let message = ToNode::Attached {
            subscriber: 1,
            publisher: EndId { node: 2, index: 3 },
            user: 1000,
            is_stranger: true,
            start: 4,
            ring: Carrier::Descriptor,
            bells: Carrier::Named("bells".into()),
            gone: true,
        };
        assert_eq!(decode::<ToNode>(&packet(&message), 2), Ok(message));
    }

    #[test]
    fn surplus_and_missing_descriptors_are_malformed() {
        let message = ToRoot::Attached {
            publisher: 0,
            subscriber: EndId { node: 1, index: 1 },
            start: 0,
            ring: Carrier::Descriptor,
            bells: Some(Carrier::Descriptor),
        };
        for found in [0, 1, 3] {
            assert_eq!(
                decode::<ToRoot>(&packet(&message), found),
                Err(DecodeError::Descriptors { expected: 2, found })
            );
        }
        assert!(decode::<ToRoot>(&packet(&ToRoot::Leave), 1).is_err());
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut packet = packet(&ToRoot::Leave);
        packet[4] = 9;
        assert_eq!(decode::<ToRoot>(&packet, 0), Err(DecodeError::Version { theirs: 9 }));
        packet[0] = 0;
        assert!(matches!(decode::<ToRoot>(&packet, 0), Err(DecodeError::Foreign { .. })));
        assert!(matches!(decode::<ToRoot>(&packet[..3], 0), Err(DecodeError::Foreign { length: 3 })));
    }

    #[test]
    fn the_longest_tables_fit_into_a_packet() {
        let connections =
            vec![Connected { publisher: EndId { node: 1, index: 1 }, seat: 1 }; CONNECTED_PER_PACKET];
        let length = packet(&ToRoot::Connected { subscriber: 1, connections }).len();
        assert!(length <= MAX_PACKET, "{length}");
        let carried = carried(MAX_SCHEMA);
        let refusal = Refusal::OtherType(Box::new(carried.clone()));
        packet(&ToNode::Refused { request: Some(1), refusal });
        packet(&ToNode::Skipped { subscriber: 1, carried: Box::new(carried) });
    }

    #[test]
    fn a_message_longer_than_a_packet_is_refused() {
        let mut packet = AlignedVec::new();
        let message = ToNode::Skipped { subscriber: 0, carried: Box::new(carried(MAX_PACKET)) };
        assert!(encode(&message, &mut packet).is_err());
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(bounded_reason("ä".repeat(1000)).len(), MAX_REASON);
        assert_eq!(bounded_reason(format!("x{}", "ä".repeat(1000))).len(), MAX_REASON - 1);
    }

    proptest! {
        /// Damaged packets are refused or mean something else; they never panic, and what they mean is no larger than
        /// they are.
        #[test]
        fn a_damaged_packet_harms_nobody(place in 8usize..200, byte: u8, cut in 0usize..200, descriptors in 0usize..4) {
            let mut packet = packet(&demand());
            let place = place % packet.len();
            packet[place] = byte;
            let cut = packet.len() - cut.min(packet.len());
            let _ = decode::<ToRoot>(&packet[..cut], descriptors);
            let _ = decode::<ToNode>(&packet, descriptors);
        }

        #[test]
        fn noise_behind_a_good_head_harms_nobody(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut packet = packet(&ToRoot::Leave);
            packet.resize(HEAD, 0);
            packet.extend_from_slice(&noise);
            let _ = decode::<ToRoot>(&packet, 0);
            let _ = decode::<ToNode>(&packet, 0);
        }
    }
}
