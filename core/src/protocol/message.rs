//! What nodes and the root say to each other. The order of the steps stands at the head of [`super`].
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.

use rkyv::{Archive, Deserialize, Serialize};

use super::entity::{Carrier, Connected, Demand, Joining, Misfit, Offer};
use super::listing::{Cursor, Entry};
use super::refusal::Refusal;
use crate::contract::{Carried, Match, SubscriberRole};
use crate::end::EndId;
use crate::name::NodeName;

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
        /// At most [`CONNECTED_PER_PACKET`](super::CONNECTED_PER_PACKET).
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
    /// Subscribers that were there when this publisher began are not attached yet: keep its ring for them, in
    /// case that it ends before. One carrier. Not answered.
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
    /// This subscription has let go of a publisher that lives, or could not take what the publisher gave it:
    /// the pair is not connected any more.
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
    /// A dedicated root is ready to take over: give up the lock and the socket. Answered by `HandedOver` or
    /// `Refused`.
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
    /// Nobody is awaited any more of those that were under way when this publisher was accepted; what they
    /// were sent is with them.
    Joined {
        /// The end of this node.
        publisher: u32,
        /// Some of them do not answer at the moment: `Lend` the ring for them.
        unanswered: bool,
    },
    /// A request was refused, or (without a number) the node itself is, and is cut off. With the number of an
    /// end that stood: the policy does not allow it any more, and it is withdrawn.
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
    /// A service is what a subscription means, but has another type or another pattern. The subscription
    /// stands, and is matched when they fit.
    Skipped {
        /// The end of this node.
        subscriber: u32,
        /// What the service carries.
        carried: Box<Carried>,
    },
    /// A subscriber wants in. One carrier or two, then the pidfd of the subscriber's process. Answered by
    /// `Attached` or `AttachRefused`.
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
    /// The pair does not come about, or (when it has) is dissolved because the policy does not allow it any
    /// more: let go.
    AttachRefused {
        /// The end of this node.
        subscriber: u32,
        /// With whom.
        publisher: EndId,
        /// Why, in words.
        reason: String,
    },
    /// Keep the ring of `source`, until it is released or the publisher is gone and had sent nothing. The
    /// pidfd of the source's process. Answered by `Kept`, `NotKept`, or `Offer` if the publisher is gone
    /// already.
    Keep {
        /// Who has the ring: the publisher, or another keeper.
        source: EndId,
        /// The publisher. Its `author` says which; to be offered when it is gone, under a number of this
        /// node.
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
