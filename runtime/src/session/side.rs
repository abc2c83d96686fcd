//! What the session asks of its node, and what passes between the two.

use std::collections::HashSet;

use hivemind_core::contract::{Carried, Kind, Match, Pattern, SubscriberRole};
use hivemind_core::name::NodeName;
use hivemind_core::protocol::{Demand, EndId, Misfit, Offer};
use hivemind_ring::segment::Handle;

use super::error::AnnounceError;

/// An end of this node.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// A publisher.
    Offer(Offer),
    /// A subscription.
    Demand(Demand),
}

impl Announcement {
    pub(super) fn index(&self) -> u32 {
        match self {
            Announcement::Offer(offer) => offer.index,
            Announcement::Demand(demand) => demand.index,
        }
    }

    /// Which pattern it has, or asks for.
    pub(super) fn pattern(&self) -> Pattern {
        match self {
            Announcement::Offer(offer) => offer.contract.pattern,
            Announcement::Demand(demand) => demand.asks.pattern,
        }
    }

    /// Its type; `None`: it takes any.
    pub(super) fn kind(&self) -> Option<&Kind> {
        match self {
            Announcement::Offer(offer) => Some(&offer.kind),
            Announcement::Demand(demand) => demand.asks.kind.as_ref(),
        }
    }

    /// The name of the service, or the filter.
    pub(super) fn what(&self) -> &str {
        match self {
            Announcement::Offer(offer) => &offer.service,
            Announcement::Demand(demand) => &demand.filter,
        }
    }
}

/// A seat of a reader segment for a match.
#[derive(Debug)]
pub struct Seating {
    /// Which seat.
    pub seat: u32,
    /// The reader segment.
    pub reader: Handle,
}

/// The subscriptions that mean the service of a publisher, but ask for something else.
#[derive(Debug, Clone)]
pub struct Misfits {
    /// How many there are; at least one.
    pub count: u32,
    /// One of them.
    pub first: Misfit,
}

/// Where a kept ring stands.
#[derive(Debug)]
pub enum Keeping {
    /// It is kept for now.
    Kept,
    /// Its publisher is gone, and this is to be offered for it.
    Offered(Box<Offer>),
    /// Nothing is in it, and it is not kept any more.
    Nothing,
}

/// A subscriber of another node (or of this one) wants to read a publisher of this node.
#[derive(Debug)]
pub struct AttachRequest {
    /// The publisher.
    pub publisher: u32,
    /// The subscriber.
    pub subscriber: EndId,
    /// The subscriber's node.
    pub node_name: NodeName,
    /// What it is to the publisher.
    pub role: SubscriberRole,
    /// Its seat in the reader segment.
    pub seat: u32,
    /// Its user, as the kernel told the root.
    pub user: u32,
    /// The reader segment.
    pub reader: Handle,
    /// The doorbells of its node. `None`: it is of another user; answer with doorbells made for that one.
    pub bells: Option<Handle>,
    /// It was there when the publisher began: it gets everything, from the first message on, or counts it as
    /// lost.
    pub from_first: bool,
}

/// The seat counts from now on.
#[derive(Debug)]
pub struct AttachReply {
    /// The first sequence number that the subscriber gets.
    pub start: u64,
    /// The ring segment.
    pub ring: Handle,
    /// The doorbells made for the subscriber's user, if that is another one.
    pub bells: Option<Handle>,
}

/// A publisher let a subscriber of this node in.
#[derive(Debug)]
pub struct AttachedTo {
    /// The subscription.
    pub subscriber: u32,
    /// The publisher.
    pub publisher: EndId,
    /// Its user, as the kernel told the root.
    pub user: u32,
    /// Whether that is another user than this node's, by the same account.
    pub is_stranger: bool,
    /// The first sequence number to read.
    pub start: u64,
    /// The ring segment.
    pub ring: Handle,
    /// The doorbells of the publisher's node: its own, or those that it made for this user.
    pub bells: Handle,
    /// The publisher is gone; the ring was kept by the root, and nothing more will come.
    pub gone: bool,
}

/// What a node does when it is called. The calls come one at a time, from the thread `hm-<node>` or from one
/// that waits in [`Session::offer`](super::Session::offer) or [`Session::demand`](super::Session::demand);
/// they must not block, and must not call [`Session::offer`](super::Session::offer),
/// [`Session::demand`](super::Session::demand), [`Session::list`](super::Session::list) or
/// [`Session::inspect`](super::Session::inspect).
pub trait NodeSide: Send + Sync + 'static {
    /// Everything that lives now, told to every new root. [`Demand::connected`] lists the connections for
    /// which [`NodeSide::attached`] was called and that are open; all other pairs are matched anew.
    fn roll_call(&self) -> Vec<Announcement>;

    /// A match: give it a seat. `None`: not wanted, or attached to this publisher already. A second call for
    /// one pair replaces the first, whose handshake a dead root has left unfinished.
    fn matched(&self, subscriber: u32, matched: Box<Match>) -> Option<Seating>;

    /// A subscriber wants in: map its segment, register its pins, and only then answer. A second call for one
    /// pair replaces the first.
    ///
    /// # Errors
    /// Why not, in words; they reach [`NodeSide::attach_refused`] at the other side.
    fn attach(&self, request: AttachRequest) -> Result<AttachReply, String>;

    /// The answer to the last [`NodeSide::attach`] is on its way, so the subscriber gets to know it even if
    /// this process dies now. Not before may anybody be told that it is attached: what is published then
    /// is promised to arrive.
    fn attach_answered(&self) {}

    /// A publisher let us in: map its ring and read. If that fails, [`NodeSide::has_to_do_with`] says no
    /// after it.
    fn attached(&self, attached: AttachedTo);

    /// Whether this subscription is attached to this publisher, or has taken a seat for it
    /// ([`NodeSide::matched`]).
    fn has_to_do_with(&self, subscriber: u32, publisher: EndId) -> bool;

    /// A publisher did not let us in, or has just gone ([`PUBLISHER_GONE`](super::PUBLISHER_GONE)). Close the
    /// seat: the publisher may have registered it.
    fn attach_refused(&self, subscriber: u32, publisher: EndId, reason: &str);

    /// A service is what a subscription means, but has another type or another pattern. Once they fit there
    /// is a match.
    fn skipped(&self, subscriber: u32, carried: Carried);

    /// An observer wants to look at the segment of an end. `None`: there is no such end.
    fn inspect(&self, index: u32) -> Option<Handle>;

    /// The kernel says that the process of this node is gone.
    fn peer_gone(&self, node: u64);

    /// Keep this ring, whose publisher `offer.author` tells, for those who come when that is gone; if it is
    /// gone already, offer it now.
    ///
    /// # Errors
    /// Why not, in words.
    fn keep(&self, offer: Offer, ring: Handle, is_gone: bool) -> Result<Keeping, String> {
        let _ = (offer, ring, is_gone);
        Err("this node keeps nothing".to_owned())
    }

    /// What the rings of this node's life are that is gone now: [`NodeSide::keep`] was called for them.
    fn succeed(&self, node: u64) -> Vec<(EndId, Keeping)> {
        let _ = node;
        Vec::new()
    }

    /// The root does not know this publisher any more. Whether it is gone, its ring tells.
    fn ended(&self, publisher: EndId) -> Keeping {
        let _ = publisher;
        Keeping::Kept
    }

    /// What a publisher retained is not wanted any more. The number under which it was offered, if it was.
    fn released(&self, publisher: EndId) -> Option<u32> {
        let _ = publisher;
        None
    }

    /// There are other publishers or subscriptions than when [`Session::watch`](super::Session::watch) asked;
    /// or another root.
    fn changed(&self) {}

    /// The rings that are kept for publishers that still live.
    fn kept(&self) -> Vec<EndId> {
        Vec::new()
    }

    /// The nodes with which this node has connections, or is about to. The processes of all others need not
    /// be watched. Asked at [`Session::forget`](super::Session::forget), which another thread may have called
    /// just before the latest attachment, and when there are many peers. `None`: not known; then what
    /// `forget` says is done, and nobody else is forgotten.
    fn acquaintances(&self) -> Option<HashSet<u64>> {
        None
    }

    /// A root refused an end for which no [`Session::offer`](super::Session::offer) or
    /// [`Session::demand`](super::Session::demand) waits: after the death of a root, somebody else was
    /// faster with the name of a service. Connections that are attached stay.
    fn refused(&self, index: u32, error: &AnnounceError) {
        let _ = (index, error);
    }
}
