//! The registry: who is here, what they offer and want, and which pairs are under way.
//!
//! A pure state machine: [`Registry::handle`] takes an event and answers with actions. It does no input or output, reads
//! no clock, and the same events give the same actions, so the code that runs in production also runs in property tests
//! and in a fuzzer. Descriptors are opaque here: an action only says which one goes where ([`Attachment`]).
//!
//! ```text
//!              Offer, Demand          Attach              Attached
//!   (no pair) ───────────────▶ Matched ──────▶ Attaching ─────────▶ Connected
//!                  │  ▲           │                │
//!   lane is full   ▼  │ room      │ Declined       │ AttachRefused │ Detached
//!               Waiting           └────▶ Failed ◀──┴───────────────┘  a Withdraw or a death of either end: (no pair)
//!                  ▲     Rematch           │
//!                  └───────────────────────┘
//! ```
//!
//! - Every live pair that matches gets exactly one `Match`. Pairs that a node brings along (`Connected`, after the death
//!   of an earlier root) get none. A `Rematch` of a subscription gives one more to each pair of it that has failed.
//! - An epoch belongs to one process ([`crate::identity`]). A node that says another's is refused; where the
//!   kernel cannot tell, the first holds it, but one of the owner's processes wins against one of another
//!   user.
//! - `Connected` means that the subscriber is attached, or that an `Attached` is on its way to its node. A
//!   subscriber's node that lets go of a living publisher, for whatever reason, or cannot take what
//!   `Attached` brings, says `Detached`. It names no seat, because it cannot be about a later attachment: a
//!   node says it only if it is neither attached nor has answered a `Match` of the pair, at the moment it
//!   says it, and what it says arrives in order. So the answer to a `Match` that crosses a `Detached` comes
//!   after it, and a pair that is `Matched` or `Attaching` when a `Detached` arrives is one of a later
//!   `Match`, or loses its publisher: nothing changes. What was announced as connected to a root that does
//!   not know the publisher yet is not connected any more, either.
//! - A `Match` that a node gets twice, because the policy took the pair away and gave it back in between, may be answered twice. The
//!   first answer counts.
//! - Publishers fix the type (*kind*) of a service, subscribers never do:
//!
//!   | who                                      | what happens                                                              |
//!   | ---------------------------------------- | ------------------------------------------------------------------------- |
//!   | the first publisher of a service         | its type is the type of the service, until the last publisher goes        |
//!   | a later one of another type              | refused, with both types and the node that holds the service              |
//!   | ... while all others are gone (retained) | accepted; what those retained is released                                 |
//!   | a subscriber of another type             | accepted and told (`Skipped`), by exact name and by pattern alike; waits  |
//!   | a waiting subscriber                     | matched, as anybody, with the first publisher of its own type             |
//!
//!   The same holds for the *pattern* of a service, but that who subscribes by pattern (`**`) means services of its own pattern only,
//!   and is not told of others.
//!
//!   So neither a guest who may only subscribe nor a forgotten viewer keeps a publisher out, and nodes start in any order. A
//!   subscriber of a service without a publisher has no line in a listing of services. After the death of a root the
//!   publishers that live fix the types anew, and subscribers are told anew.
//! - Between two nodes at most [`Limits::lane`] pairs are on their way at a time. So a node with thousands of pairs needs
//!   neither thousands of queued packets nor thousands of descriptors, and one that does not answer delays its own
//!   pairs only.
//! - A client that is gone is nowhere any more. What a peer says about it later gets an answer, not a mistake: both may
//!   be right, only late.
//! - Nobody is told of what the policy of the hive does not let it read, and a request that the policy does not allow is refused
//!   in words; see `registry/rights.rs` for what a new policy does.
//! - Every table has a bound ([`Limits`]); a request that would exceed it is refused in words.
//!
//! If the process of the root dies, all this is lost, and nothing of it was needed: nodes tell the next root.
use std::collections::{BTreeMap, BTreeSet};

use crate::contract::{Asks, Author, Carried, Contract, Kind, Match, Pattern, Remote, Route};
use crate::filter::Filter;
use crate::identity::Process;
use crate::name::{NodeName, ServiceName, is_host_name};
use crate::policy::{Credentials, Policy, Rights};
use crate::protocol::{
    CONNECTED_PER_PACKET, Carrier, Connected, ConnectionInfo, Cursor, DecodeError, Demand, EndId, Joining,
    MAX_EPOCH, MAX_SCHEMA, Misfit, Offer, PUBLISHER_GONE, Refusal, Right, Table, ToNode, ToRoot, VERSION,
    bounded_reason,
};

mod joiners;
mod listing;
mod retained;
mod rights;
#[cfg(test)]
mod tests;

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
    /// The kernel says that the process of this client, of which the root has heard [`Event::Gone`] or a `Leave` before, is dead.
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
    /// Keep the descriptor that came with this message: the ring of this publisher. With it the pidfd of its client,
    /// and tell when that process is dead ([`Event::Died`]).
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

/// See the head of the module.
#[derive(Debug)]
pub struct Registry {
    root: RootIdentity,
    limits: Limits,
    policy: Policy,
    clients: BTreeMap<ClientId, Client>,
    names: BTreeMap<NodeName, BTreeSet<ClientId>>,
    nodes: BTreeMap<u64, ClientId>,
    services: BTreeMap<ServiceName, Service>,
    publishers: BTreeMap<EndId, Publisher>,
    subscribers: BTreeMap<EndId, Subscriber>,
    /// Subscribers whose filter is a pattern.
    patterns: BTreeSet<EndId>,
    pairs: BTreeMap<Pair, PairState>,
    /// The same pairs, subscriber first.
    pairs_of_subscribers: BTreeSet<(EndId, EndId)>,
    lanes: BTreeMap<Lane, Traffic>,
    inquiries: BTreeMap<u64, Inquiry>,
    next_inquiry: u64,
    /// Publishers that retain messages, living and gone.
    retained: BTreeMap<EndId, retained::Retained>,
    /// Who wants to be told of the next change.
    watchers: BTreeSet<ClientId>,
    /// Publishers that have begun, and the subscribers that were there before and are not attached yet.
    joiners: joiners::Joiners,
}

#[derive(Debug)]
struct Client {
    pid: i32,
    credentials: Credentials,
    process: Process,
    rights: Rights,
    admitted: Option<Admitted>,
}

#[derive(Debug)]
struct Admitted {
    name: NodeName,
    node: u64,
    observer: bool,
    hosts_root: bool,
    bells: Carrier,
    ends: BTreeSet<u32>,
    /// Connections announced for subscribers that are still to be announced themselves.
    announced: BTreeMap<u32, Vec<Connected>>,
    announced_count: usize,
    /// Publishers whose rings it keeps, or was asked to.
    keeps: BTreeSet<EndId>,
    /// It lacked something when it was asked to keep a ring.
    keeps_no_more: bool,
}

/// A service lives as long as a publisher or an exact subscriber of it.
#[derive(Debug, Default)]
struct Service {
    /// What all its publishers send; `None`: it has none.
    stream: Option<Stream>,
    publishers: BTreeSet<EndId>,
    /// Subscribers by exactly this name, whatever type they expect.
    subscribers: BTreeSet<EndId>,
}

/// What a service carries.
#[derive(Clone, Debug)]
struct Stream {
    pattern: Pattern,
    kind: Kind,
}

impl Stream {
    fn of(offer: &Offer) -> Stream {
        Stream { pattern: offer.contract.pattern, kind: offer.kind.clone() }
    }

    fn is_same(&self, pattern: Pattern, fingerprint: u128) -> bool {
        self.pattern == pattern && self.kind.fingerprint == fingerprint
    }
}

#[derive(Debug)]
struct Publisher {
    client: ClientId,
    service: ServiceName,
    contract: Contract,
    born: u64,
    author: Author,
}

#[derive(Debug)]
struct Subscriber {
    client: ClientId,
    filter: Filter,
    asks: Asks,
    /// Connections that it brought along, until their publisher announces itself too.
    announced: BTreeMap<EndId, u32>,
    /// How many those were; they count against the bound of the node until this subscriber is gone.
    brought: usize,
}

/// Whether a service is what a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Fits,
    /// It is named, or matches, and has another type or pattern.
    Misfit,
    /// It matches a filter that means services of another pattern.
    NotMeant,
}

impl Subscriber {
    fn fit(&self, stream: &Stream) -> Fit {
        if self.asks.pattern != stream.pattern {
            return if self.filter.is_exact().is_some() { Fit::Misfit } else { Fit::NotMeant };
        }
        if self.asks.accepts(&stream.kind) { Fit::Fits } else { Fit::Misfit }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    publisher: EndId,
    subscriber: EndId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairState {
    /// Too many pairs of these two nodes are on their way.
    Waiting,
    /// It is the subscriber's node's turn.
    Matched,
    /// It is the publisher's node's turn.
    Attaching { seat: u32 },
    /// Done.
    Connected { seat: u32 },
    /// One of them does not want to, or has let go; tried again at a `Rematch`.
    Failed,
}

/// From the node of a subscriber to the node of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    subscriber: ClientId,
    publisher: ClientId,
}

/// The pairs of a lane that are not settled; a lane without any is not kept.
#[derive(Debug, Default)]
struct Traffic {
    /// Matched or attaching.
    under_way: usize,
    waiting: BTreeSet<Pair>,
}

#[derive(Debug)]
struct Inquiry {
    asker: ClientId,
    request: u64,
    asked: ClientId,
    end: EndId,
}

type Actions = Vec<Action>;

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(root: RootIdentity, limits: Limits, policy: Policy) -> Registry {
        Registry {
            root,
            limits,
            policy,
            clients: BTreeMap::new(),
            names: BTreeMap::new(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            publishers: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            patterns: BTreeSet::new(),
            pairs: BTreeMap::new(),
            pairs_of_subscribers: BTreeSet::new(),
            lanes: BTreeMap::new(),
            inquiries: BTreeMap::new(),
            next_inquiry: 1,
            retained: BTreeMap::new(),
            watchers: BTreeSet::new(),
            joiners: joiners::Joiners::default(),
        }
    }

    /// What this root is now.
    #[must_use]
    pub fn root(&self) -> RootIdentity {
        self.root
    }

    /// The clients that stand in the way of this `Hello`: of the same name or epoch. Whether they are alive is not known
    /// here, so ask the kernel before handling the `Hello`.
    #[must_use]
    pub fn holders(&self, hello: &ToRoot) -> Vec<ClientId> {
        let ToRoot::Hello { name, node, .. } = hello else { return Vec::new() };
        let by_name = self.names.get(name.as_str()).into_iter().flatten();
        by_name.chain(self.nodes.get(node)).copied().collect()
    }

    /// Takes one event; answers with what is to be done, in order.
    #[must_use]
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected { client, pid, credentials, process } => {
                self.connected(client, pid, credentials, process, &mut actions);
            }
            Event::PolicyChanged { policy } => self.judge_anew(policy, &mut actions),
            Event::Gone { client } => self.remove(client, &mut actions),
            Event::Died { client } => self.died(client, &mut actions),
            Event::Said { client, message } => self.said(client, message, &mut actions),
            Event::DescriptorsLost { client, message } => {
                self.descriptors_lost(client, &message, &mut actions);
            }
            Event::Garbled { client, error } => {
                let refusal = match error {
                    DecodeError::Version { .. } => Refusal::Version { root: VERSION },
                    other => Refusal::Malformed { why: other.to_string() },
                };
                self.expel(client, refusal, &mut actions);
            }
        }
        actions
    }

    fn connected(
        &mut self,
        client: ClientId,
        pid: i32,
        credentials: Credentials,
        process: Process,
        actions: &mut Actions,
    ) {
        let rights = self.policy.rights_of(&credentials);
        if let Err(refusal) = self.check_entry(&credentials, &rights) {
            actions.push(refuse(client, None, refusal));
            actions.push(Action::CutOff { client });
            return;
        }
        let earlier =
            self.clients.insert(client, Client { pid, credentials, process, rights, admitted: None });
        assert!(earlier.is_none(), "the root gives every connection its own number");
    }

    fn said(&mut self, client: ClientId, message: ToRoot, actions: &mut Actions) {
        let Some(Client { admitted, rights, .. }) = self.clients.get(&client) else { return };
        let observer = admitted.as_ref().map(|admitted| admitted.observer);
        match (message, observer) {
            (ToRoot::HandOver, _) if !rights.are_everything() => {
                self.expel(client, self.not_allowed(client, Right::TakeOver, ""), actions);
            }
            (ToRoot::HandOver, _) if self.root.dedicated => {
                self.expel(client, Refusal::Dedicated { pid: self.root.pid }, actions);
            }
            (ToRoot::HandOver, _) => actions.push(Action::HandOver { to: client }),
            (ToRoot::Leave, _) => {
                self.remove(client, actions);
                actions.push(Action::CutOff { client });
            }
            (hello @ ToRoot::Hello { .. }, None) => self.hello(client, hello, actions),
            (_, None) => self.expel(client, malformed("a message before `Hello`"), actions),
            (ToRoot::Hello { .. }, _) => self.expel(client, malformed("a second `Hello`"), actions),
            (ToRoot::AreYouThere, _) => actions.push(send(client, ToNode::Alive)),
            (ToRoot::Watch, _) => drop(self.watchers.insert(client)),
            (ToRoot::List { request, after }, _) => {
                let (entries, next) = self.page(after);
                actions.push(send(client, ToNode::Page { request, entries, next }));
            }
            (ToRoot::Inspect { request, end }, _) => self.inspect(client, request, end, actions),
            (
                ToRoot::Offer { request, .. }
                | ToRoot::Demand { request, .. }
                | ToRoot::Misfits { request, .. },
                Some(true),
            ) => {
                actions.push(refuse(client, Some(request), malformed(OBSERVER)));
            }
            (_, Some(true)) => self.expel(client, malformed(OBSERVER), actions),
            (message, Some(false)) => self.about_ends(client, message, actions),
        }
    }

    fn about_ends(&mut self, client: ClientId, message: ToRoot, actions: &mut Actions) {
        match message {
            ToRoot::Offer { request, offer } => self.offer(client, request, offer, actions),
            ToRoot::Connected { subscriber, connections } => {
                self.announced(client, subscriber, connections, actions);
            }
            ToRoot::Demand { request, demand } => self.demand(client, request, demand, actions),
            ToRoot::Withdraw { index } => {
                // It says so itself: nothing more is written.
                self.ends_in_order(self.end(client, index));
                self.withdraw(client, index, actions);
            }
            ToRoot::Attach { subscriber, publisher, seat, reader } => {
                let pair = Pair { publisher, subscriber: self.end(client, subscriber) };
                self.attach(client, pair, seat, reader, actions);
            }
            ToRoot::Declined { subscriber, publisher } => {
                let pair = Pair { publisher, subscriber: self.end(client, subscriber) };
                self.has_answered(client);
                if self.pairs.get(&pair) == Some(&PairState::Matched) {
                    self.set_state(pair, PairState::Failed, actions);
                }
                self.leaves_orphan(pair, actions);
            }
            ToRoot::Lend { publisher, ring } => {
                self.lent(client, self.end(client, publisher), &ring, actions);
            }
            ToRoot::Attached { publisher, subscriber, start, ring, bells } => {
                let pair = Pair { publisher: self.end(client, publisher), subscriber };
                self.attached(client, pair, (start, ring, bells), actions);
            }
            ToRoot::AttachRefused { publisher, subscriber, reason } => {
                let pair = Pair { publisher: self.end(client, publisher), subscriber };
                self.attach_failed(pair, reason, actions);
            }
            ToRoot::Detached { subscriber, publisher } => {
                let pair = Pair { publisher, subscriber: self.end(client, subscriber) };
                self.detached(pair, actions);
            }
            ToRoot::Misfits { request, publisher } => self.misfits(client, request, publisher, actions),
            ToRoot::Rematch { subscriber } => self.rematch(self.end(client, subscriber), actions),
            ToRoot::Kept { publisher } => self.kept(client, publisher, actions),
            ToRoot::NotKept { publisher } => self.not_kept(client, publisher, actions),
            ToRoot::Inspected { inquiry, segment } => self.inspected(client, inquiry, segment, actions),
            ToRoot::Hello { .. }
            | ToRoot::List { .. }
            | ToRoot::Inspect { .. }
            | ToRoot::AreYouThere
            | ToRoot::Watch
            | ToRoot::HandOver
            | ToRoot::Leave => unreachable!("handled by the caller"),
        }
    }

    /// This process could not take the descriptors of a message. Whoever waits for it hears so.
    fn descriptors_lost(&mut self, client: ClientId, message: &ToRoot, actions: &mut Actions) {
        let refusal = Refusal::OutOfDescriptors { pid: self.root.pid };
        match *message {
            ToRoot::Attach { subscriber, publisher, .. } if self.is_admitted(client) => {
                let pair = Pair { publisher, subscriber: self.end(client, subscriber) };
                if self.pairs.get(&pair) == Some(&PairState::Matched) {
                    self.set_state(pair, PairState::Failed, actions);
                }
                actions.push(attach_refused(client, pair, refusal.to_string()));
            }
            ToRoot::Attached { publisher, subscriber, .. } if self.is_admitted(client) => {
                let pair = Pair { publisher: self.end(client, publisher), subscriber };
                self.attach_failed(pair, refusal.to_string(), actions);
            }
            ToRoot::Inspected { inquiry, .. } if self.is_admitted(client) => {
                self.inspected(client, inquiry, None, actions);
            }
            // Then nobody keeps it.
            ToRoot::Lend { .. } if self.is_admitted(client) => {}
            _ => self.expel(client, refusal, actions),
        }
    }

    // ---- nodes

    fn hello(&mut self, client: ClientId, hello: ToRoot, actions: &mut Actions) {
        let ToRoot::Hello { name, node, observer, external, rejoin, hosts_root, seen_epoch, bells } = hello
        else {
            return;
        };
        let name = match NodeName::parse(&name) {
            Ok(name) => name,
            Err(error) => return self.expel(client, Refusal::Name { why: error.to_string() }, actions),
        };
        if node == 0 {
            return self.expel(client, malformed("an epoch that no node can have"), actions);
        }
        if external && !self.root.dedicated {
            return self.expel(client, Refusal::NotDedicated { pid: self.root.pid }, actions);
        }
        if !self.clients[&client].process.may_have(node) {
            return self.expel(client, self.epoch_of_another(client, node), actions);
        }
        if let Some(&holder) = self.nodes.get(&node) {
            if !self.yields_epoch(holder, client) {
                return self.expel(client, Refusal::EpochTaken, actions);
            }
            self.expel(holder, self.epoch_of_another(holder, node), actions);
        }
        // A node that an earlier root admitted keeps its name, even if a newcomer was faster at this root.
        let holder = self.names.get(&name).and_then(BTreeSet::first).filter(|_| !rejoin && !observer);
        if let Some(holder) = holder.and_then(|holder| self.clients.get(holder)) {
            let refusal = Refusal::NameTaken { pid: holder.pid };
            return self.expel(client, refusal, actions);
        }
        self.nodes.insert(node, client);
        if !observer {
            self.names.entry(name.clone()).or_default().insert(client);
        }
        if bells == Carrier::Descriptor {
            actions.push(Action::KeepBells { client });
        }
        let admitted = Admitted {
            name,
            node,
            observer,
            hosts_root,
            bells,
            ends: BTreeSet::new(),
            announced: BTreeMap::new(),
            announced_count: 0,
            keeps: BTreeSet::new(),
            keeps_no_more: false,
        };
        let Some(entry) = self.clients.get_mut(&client) else { return };
        entry.admitted = Some(admitted);
        if entry.rights.are_everything() {
            self.rise_above(seen_epoch, actions);
        }
        let RootIdentity { epoch, pid, dedicated } = self.root;
        actions.push(send(client, ToNode::Welcome { epoch, pid, dedicated }));
        self.welcome_keeper(client, actions);
    }

    fn epoch_of_another(&self, client: ClientId, node: u64) -> Refusal {
        Refusal::EpochOfAnother { node, pid: self.clients[&client].pid }
    }

    /// Whether the holder of an epoch that is not bound yields it to who says it now: another user to the
    /// owner of the hive.
    fn yields_epoch(&self, holder: ClientId, comer: ClientId) -> bool {
        let (holder, comer) = (&self.clients[&holder], &self.clients[&comer]);
        holder.process.is(comer.process) != Some(true)
            && comer.rights.are_everything()
            && !holder.rights.are_everything()
    }

    /// A node has seen a higher epoch, so the lock file has lost it. This root holds the lock, so it is the later one.
    fn rise_above(&mut self, seen_epoch: u64, actions: &mut Actions) {
        if seen_epoch.min(MAX_EPOCH) > self.root.epoch {
            // A node that lies gains nothing: equal epochs are obeyed too.
            self.root.epoch = seen_epoch.min(MAX_EPOCH - 1) + 1;
            actions.push(Action::RaiseEpoch { epoch: self.root.epoch });
        }
    }

    fn expel(&mut self, client: ClientId, refusal: Refusal, actions: &mut Actions) {
        if self.clients.contains_key(&client) {
            actions.push(refuse(client, None, refusal));
            self.remove(client, actions);
            actions.push(Action::CutOff { client });
        }
    }

    /// Forgets a client and everything of it.
    fn remove(&mut self, client: ClientId, actions: &mut Actions) {
        self.watchers.remove(&client);
        self.joiners.unanswering.remove(&client);
        let kept = self.stop_keeping(client);
        let Some(admitted) = self.clients.get_mut(&client).map(|client| client.admitted.as_mut()) else {
            return;
        };
        let ends = admitted.map(|admitted| std::mem::take(&mut admitted.ends)).unwrap_or_default();
        let mut relieved = BTreeSet::new();
        for index in ends {
            self.remove_end(self.end(client, index), &mut relieved, actions);
        }
        self.replace_keeper(client, kept, actions);
        // Only now: what waited for an end of this client is gone, too.
        let Some(Client { admitted: Some(admitted), .. }) = self.clients.remove(&client) else { return };
        self.nodes.remove(&admitted.node);
        if let Some(holders) = self.names.get_mut(&admitted.name) {
            holders.remove(&client);
            if holders.is_empty() {
                self.names.remove(&admitted.name);
            }
        }
        for lane in relieved {
            self.release(lane, actions);
        }
        let concerned = |inquiry: &Inquiry| inquiry.asker == client || inquiry.asked == client;
        let ended: Vec<u64> = self
            .inquiries
            .iter()
            .filter(|(_, inquiry)| concerned(inquiry))
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            let Some(inquiry) = self.inquiries.remove(&number) else { continue };
            if inquiry.asker != client {
                let refusal = Refusal::UnknownEnd { end: inquiry.end };
                actions.push(refuse(inquiry.asker, Some(inquiry.request), refusal));
            }
        }
    }

    // ---- ends

    fn offer(&mut self, client: ClientId, request: u64, offer: Offer, actions: &mut Actions) {
        let service = match self.check_offer(client, &offer) {
            Ok(service) => service,
            Err(refusal) => return actions.push(refuse(client, Some(request), refusal)),
        };
        if !self.may_stand_for(client, &service, &offer, actions) {
            return;
        }
        let stream = Stream::of(&offer);
        self.make_way(&service, &stream, actions);
        let end = self.end(client, offer.index);
        let (wanting, skipping) = self.subscribers_of(&service, &stream);
        let barred = self.barred_from(&service, end);
        if let Err(refusal) = self.room_for_pairs(wanting.len()) {
            return actions.push(refuse(client, Some(request), refusal));
        }
        let entry = self.services.entry(service.clone()).or_default();
        let is_first = entry.publishers.is_empty();
        entry.publishers.insert(end);
        entry.stream.get_or_insert(stream);
        let Offer { contract, born, author, begins, .. } = offer;
        let former = author.former().map(|former| former.publisher);
        let publisher = Publisher { client, service: service.clone(), contract, born, author };
        self.publishers.insert(end, publisher);
        self.admitted_mut(client).ends.insert(end.index);
        self.has_changed(actions);
        self.discard_orphan(end, actions);
        if begins && former.is_none() {
            self.expect(client, end, &service, &wanting);
        }
        match former {
            None if contract.retained > 0 => self.begin_to_retain(client, end, request, actions),
            _ => self.accept(client, end, request, actions),
        }
        if former.is_some_and(|former| !self.stands_for(client, end, former, actions)) {
            return;
        }
        for subscriber in wanting {
            self.pair_up(Pair { publisher: end, subscriber }, actions);
        }
        for subscriber in skipping.into_iter().filter(|_| is_first) {
            self.skip(&service, subscriber, actions);
        }
        for subscriber in barred {
            self.bar(Pair { publisher: end, subscriber }, &service, actions);
        }
    }

    fn check_offer(&self, client: ClientId, offer: &Offer) -> Result<ServiceName, Refusal> {
        let service =
            ServiceName::parse(&offer.service).map_err(|error| Refusal::Name { why: error.to_string() })?;
        self.check_right(client, Right::Publish, &offer.service, self.rights(client).publish(&service))?;
        check_kind(&offer.kind)?;
        self.check_index(client, offer.index)?;
        if !self.gives_way(&service, offer) {
            self.check_stream(&service, offer)?;
        }
        if let Some(Remote { host, .. }) = offer.author.remote()
            && (!is_host_name(host) || offer.contract.retained > 0)
        {
            return Err(malformed("a publisher of another host that no link announces"));
        }
        self.check_retained(client, offer)?;
        Ok(service)
    }

    /// Who wants a service that carries this, and who means it although it does not fit.
    fn subscribers_of(&self, service: &ServiceName, stream: &Stream) -> (Vec<EndId>, Vec<EndId>) {
        let exact = self.services.get(service).into_iter().flat_map(|service| &service.subscribers);
        let by_pattern =
            self.patterns.iter().filter(|end| self.subscribers[end].filter.matches(service.as_str()));
        let (mut wanting, mut skipping) = (Vec::new(), Vec::new());
        for end in exact.chain(by_pattern).filter(|end| self.may_read(end, service)) {
            match self.subscribers[end].fit(stream) {
                Fit::Fits => wanting.push(*end),
                Fit::Misfit => skipping.push(*end),
                Fit::NotMeant => {}
            }
        }
        (wanting, skipping)
    }

    /// Connections of a subscriber that its `Demand`, still to come, brings along.
    fn announced(
        &mut self,
        client: ClientId,
        subscriber: u32,
        connections: Vec<Connected>,
        actions: &mut Actions,
    ) {
        debug_assert!(connections.len() <= CONNECTED_PER_PACKET, "checked when it was decoded");
        let limit = self.limits.announced;
        let admitted = self.admitted_mut(client);
        admitted.announced_count += connections.len();
        if admitted.announced_count > limit {
            let refusal = Refusal::Limit { what: Table::Announced, limit: limit as u64 };
            return self.expel(client, refusal, actions);
        }
        admitted.announced.entry(subscriber).or_default().extend(connections);
    }

    fn demand(&mut self, client: ClientId, request: u64, demand: Demand, actions: &mut Actions) {
        let brought = self.take_announced(client, demand.index);
        let count = brought.len();
        let filter = match self.check_demand(client, &demand) {
            Ok(filter) => filter,
            Err(refusal) => {
                self.admitted_mut(client).announced_count -= count;
                return actions.push(refuse(client, Some(request), refusal));
            }
        };
        let end = self.end(client, demand.index);
        let announced = brought.iter().map(|connected| (connected.publisher, connected.seat)).collect();
        let subscriber =
            Subscriber { client, filter: filter.clone(), asks: demand.asks, announced, brought: count };
        let (wanted, skipped) = self.publishers_for(&subscriber);
        let barred = self.barred_of(&subscriber);
        if let Err(refusal) = self.room_for_pairs(wanted.len()) {
            self.admitted_mut(client).announced_count -= count;
            return actions.push(refuse(client, Some(request), refusal));
        }
        if let Some(service) = filter.is_exact() {
            self.services.entry(service).or_default().subscribers.insert(end);
        } else {
            self.patterns.insert(end);
        }
        self.subscribers.insert(end, subscriber);
        self.admitted_mut(client).ends.insert(end.index);
        self.has_changed(actions);
        actions.push(send(client, ToNode::Accepted { request, joining: Joining::Done }));
        for publisher in wanted {
            self.pair_up(Pair { publisher, subscriber: end }, actions);
        }
        for service in skipped {
            self.skip(&service, end, actions);
        }
        for (publisher, service) in barred {
            self.bar(Pair { publisher, subscriber: end }, &service, actions);
        }
    }

    fn take_announced(&mut self, client: ClientId, index: u32) -> Vec<Connected> {
        self.admitted_mut(client).announced.remove(&index).unwrap_or_default()
    }

    fn check_demand(&self, client: ClientId, demand: &Demand) -> Result<Filter, Refusal> {
        let filter =
            Filter::parse(&demand.filter).map_err(|error| Refusal::Name { why: error.to_string() })?;
        self.check_right(client, Right::Subscribe, &demand.filter, self.rights(client).subscribe(&filter))?;
        self.check_index(client, demand.index)?;
        demand.asks.kind.as_ref().map_or(Ok(()), check_kind)?;
        Ok(filter)
    }

    /// The publishers that a subscription means, and the services that it means although they do not fit.
    fn publishers_for(&self, subscriber: &Subscriber) -> (Vec<EndId>, Vec<ServiceName>) {
        let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
        let rights = self.rights(subscriber.client);
        let mut look_at = |name: &ServiceName, service: &Service| {
            let Some(stream) = service.stream.as_ref().filter(|_| rights.read(name)) else { return };
            match subscriber.fit(stream) {
                Fit::Fits => wanted.extend(&service.publishers),
                Fit::Misfit => skipped.push(name.clone()),
                Fit::NotMeant => {}
            }
        };
        if let Some(name) = subscriber.filter.is_exact() {
            if let Some(service) = self.services.get(&name) {
                look_at(&name, service);
            }
        } else {
            for (name, service) in &self.services {
                if subscriber.filter.matches(name.as_str()) {
                    look_at(name, service);
                }
            }
        }
        (wanted, skipped)
    }

    fn withdraw(&mut self, client: ClientId, index: u32, actions: &mut Actions) {
        let end = self.end(client, index);
        let unused = self.take_announced(client, index).len();
        let admitted = self.admitted_mut(client);
        admitted.announced_count -= unused;
        if admitted.ends.remove(&index) {
            let mut relieved = BTreeSet::new();
            self.remove_end(end, &mut relieved, actions);
            for lane in relieved {
                self.release(lane, actions);
            }
        }
    }

    /// Forgets an end and its pairs; `relieved` gets the lanes that may have room now.
    fn remove_end(&mut self, end: EndId, relieved: &mut BTreeSet<Lane>, actions: &mut Actions) {
        self.has_changed(actions);
        let is_orphaned = self.orphan(end, actions);
        if let Some(publisher) = self.publishers.remove(&end) {
            let least = Pair { publisher: end, subscriber: EndId::FIRST };
            let most = Pair { publisher: end, subscriber: EndId::LAST };
            let pairs: Vec<Pair> = self.pairs.range(least..=most).map(|(pair, _)| *pair).collect();
            for pair in pairs {
                let subscriber = self.subscribers[&pair.subscriber].client;
                let is_served = is_orphaned && self.is_expected(pair);
                if matches!(self.pairs.get(&pair), Some(PairState::Attaching { .. })) && !is_served {
                    actions.push(attach_refused(subscriber, pair, PUBLISHER_GONE.into()));
                }
                let lane = Lane { subscriber, publisher: publisher.client };
                self.forget_pair(lane, pair);
                relieved.insert(lane);
            }
            self.leave_service(&publisher.service, |service| {
                service.publishers.remove(&end);
            });
            match publisher.author.former() {
                Some(former) => self.stands_no_more(publisher.client, former.publisher, actions),
                None if publisher.contract.retained > 0 => self.has_ended(end, actions),
                None => {}
            }
            self.serve_orphan(end, actions);
        }
        if let Some(subscriber) = self.subscribers.remove(&end) {
            let range = (end, EndId::FIRST)..=(end, EndId::LAST);
            let pairs: Vec<(EndId, EndId)> = self.pairs_of_subscribers.range(range).copied().collect();
            for (subscriber_end, publisher) in pairs {
                let lane =
                    Lane { subscriber: subscriber.client, publisher: self.publishers[&publisher].client };
                let pair = Pair { publisher, subscriber: subscriber_end };
                self.forget_pair(lane, pair);
                self.has_joined(pair, actions);
                relieved.insert(lane);
            }
            self.leaves_orphans(end, actions);
            self.admitted_mut(subscriber.client).announced_count -= subscriber.brought;
            self.patterns.remove(&end);
            if let Some(service) = subscriber.filter.is_exact() {
                self.leave_service(&service, |service| {
                    service.subscribers.remove(&end);
                });
            }
        }
    }

    /// Takes an end out of its service; the type is free again when nobody publishes, and the name when nobody is left.
    fn leave_service(&mut self, name: &ServiceName, leave: impl FnOnce(&mut Service)) {
        let Some(service) = self.services.get_mut(name) else { return };
        leave(service);
        if service.publishers.is_empty() {
            service.stream = None;
        }
        if service.publishers.is_empty() && service.subscribers.is_empty() {
            self.services.remove(name);
        }
    }

    /// Tells a subscriber that a service which it means carries something else.
    fn skip(&self, name: &ServiceName, subscriber: EndId, actions: &mut Actions) {
        let Some(carried) = self.services.get(name).and_then(|service| self.carried(name, service)) else {
            return;
        };
        let message = ToNode::Skipped { subscriber: subscriber.index, carried: Box::new(carried) };
        actions.push(send(self.subscribers[&subscriber].client, message));
    }

    /// Who waits for the service of this publisher in vain, because it asks for something else.
    fn misfits(&self, client: ClientId, request: u64, index: u32, actions: &mut Actions) {
        let publisher = self.publishers.get(&self.end(client, index));
        let found = publisher.and_then(|publisher| {
            let stream = self.services.get(&publisher.service)?.stream.as_ref()?;
            Some(self.subscribers_of(&publisher.service, stream).1)
        });
        let found = found.unwrap_or_default();
        let first = found.first().map(|end| {
            let Subscriber { client, filter, asks, .. } = &self.subscribers[end];
            let node_name = self.admitted(*client).name.clone();
            Box::new(Misfit { node_name, filter: filter.clone(), asks: asks.clone() })
        });
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        actions.push(send(client, ToNode::Misfits { request, count, first }));
    }

    // ---- pairs

    /// A pair that matches and was not there before.
    fn pair_up(&mut self, pair: Pair, actions: &mut Actions) {
        let Some(subscriber) = self.subscribers.get_mut(&pair.subscriber) else { return };
        let brought = subscriber.announced.remove(&pair.publisher);
        let state = brought.map_or(PairState::Waiting, |seat| PairState::Connected { seat });
        self.pairs.insert(pair, state);
        self.pairs_of_subscribers.insert((pair.subscriber, pair.publisher));
        if state == PairState::Waiting {
            let lane = self.lane_of(pair);
            self.lanes.entry(lane).or_default().waiting.insert(pair);
            self.release(lane, actions);
        }
    }

    fn lane_of(&self, pair: Pair) -> Lane {
        let subscriber = self.subscribers[&pair.subscriber].client;
        Lane { subscriber, publisher: self.publishers[&pair.publisher].client }
    }

    /// A subscription is not attached to this publisher any more.
    fn detached(&mut self, pair: Pair, actions: &mut Actions) {
        // Brought along, and its publisher has yet to announce itself: then it is matched as any other.
        if let Some(subscriber) = self.subscribers.get_mut(&pair.subscriber) {
            subscriber.announced.remove(&pair.publisher);
        }
        if let Some(PairState::Connected { .. }) = self.pairs.get(&pair) {
            self.set_state(pair, PairState::Failed, actions);
        }
    }

    /// Matches anew what a subscription has declined, or let go of.
    fn rematch(&mut self, subscriber: EndId, actions: &mut Actions) {
        let range = (subscriber, EndId::FIRST)..=(subscriber, EndId::LAST);
        let pairs: Vec<Pair> = self
            .pairs_of_subscribers
            .range(range)
            .map(|(subscriber, publisher)| Pair { publisher: *publisher, subscriber: *subscriber })
            .filter(|pair| self.pairs.get(pair) == Some(&PairState::Failed))
            .collect();
        for pair in pairs {
            self.pairs.insert(pair, PairState::Waiting);
            let lane = self.lane_of(pair);
            self.lanes.entry(lane).or_default().waiting.insert(pair);
            self.release(lane, actions);
        }
    }

    /// Tells those who watch that there are other ends now.
    fn has_changed(&mut self, actions: &mut Actions) {
        for client in std::mem::take(&mut self.watchers) {
            actions.push(send(client, ToNode::Changed));
        }
    }

    /// Sends the `Match` of waiting pairs while their lane has room.
    fn release(&mut self, lane: Lane, actions: &mut Actions) {
        while let Some(traffic) = self.lanes.get_mut(&lane) {
            if traffic.under_way >= self.limits.lane {
                return;
            }
            let Some(pair) = traffic.waiting.pop_first() else { return };
            traffic.under_way += 1;
            self.pairs.insert(pair, PairState::Matched);
            actions.push(send(lane.subscriber, self.match_of(pair)));
        }
    }

    fn match_of(&self, pair: Pair) -> ToNode {
        let publisher = &self.publishers[&pair.publisher];
        let stream = self.services[&publisher.service].stream.as_ref();
        let matched = Match {
            service: publisher.service.clone(),
            route: self.route_to(pair.publisher, publisher),
            kind: stream.expect("a service with a publisher carries something").kind.clone(),
            contract: publisher.contract,
        };
        ToNode::Match { subscriber: pair.subscriber.index, matched: Box::new(matched) }
    }

    fn route_to(&self, end: EndId, publisher: &Publisher) -> Route {
        let node_name = self.admitted(publisher.client).name.clone();
        Route { end, node_name, author: publisher.author.clone() }
    }

    fn attach(&mut self, client: ClientId, pair: Pair, seat: u32, reader: Carrier, actions: &mut Actions) {
        self.has_answered(client);
        match self.pairs.get(&pair) {
            Some(PairState::Matched) => {}
            // The second answer to a `Match` that was sent twice: it stands, or is on its way.
            Some(PairState::Attaching { .. } | PairState::Connected { .. }) => return,
            _ => {
                if !self.asks_for_orphan(pair, actions) {
                    actions.push(attach_refused(client, pair, PUBLISHER_GONE.into()));
                }
                return;
            }
        }
        let to = self.publishers[&pair.publisher].client;
        // A process that has them can write them, so other users never get them.
        let bells = (!self.are_strangers(client, to)).then(|| self.bells_of(client));
        let mut attachments = Vec::with_capacity(3);
        attachments.extend((reader == Carrier::Descriptor).then_some(Attachment::FromMessage(0)));
        attachments.extend((bells == Some(Carrier::Descriptor)).then_some(Attachment::BellsOf(client)));
        attachments.push(Attachment::PidfdOf(client));
        let message = ToNode::Attach {
            publisher: pair.publisher.index,
            subscriber: pair.subscriber,
            node_name: self.admitted(client).name.clone(),
            role: self.subscribers[&pair.subscriber].asks.role.clone(),
            seat,
            user: self.clients[&client].credentials.user,
            reader,
            bells,
            from_first: self.is_expected(pair),
        };
        actions.push(Action::Send { to, message, attachments });
        self.set_state(pair, PairState::Attaching { seat }, actions);
    }

    fn attached(
        &mut self,
        client: ClientId,
        pair: Pair,
        (start, ring, made): (u64, Carrier, Option<Carrier>),
        actions: &mut Actions,
    ) {
        // Not attaching: the subscriber has gone meanwhile. Its reader segment says so to the publisher.
        let Some(&PairState::Attaching { seat }) = self.pairs.get(&pair) else { return };
        let to = self.subscribers[&pair.subscriber].client;
        let is_stranger = self.are_strangers(client, to);
        let mut attachments = Vec::with_capacity(3);
        attachments.extend((ring == Carrier::Descriptor).then_some(Attachment::FromMessage(0)));
        let bells = if is_stranger {
            // What it made for this user, and nothing that a third may write.
            let Some(bells) = made else { return self.attach_failed(pair, NO_BELLS.into(), actions) };
            let place = attachments.len();
            attachments.extend((bells == Carrier::Descriptor).then_some(Attachment::FromMessage(place)));
            bells
        } else {
            let bells = self.bells_of(client);
            attachments.extend((bells == Carrier::Descriptor).then_some(Attachment::BellsOf(client)));
            bells
        };
        attachments.push(Attachment::PidfdOf(client));
        let message = ToNode::Attached {
            subscriber: pair.subscriber.index,
            publisher: pair.publisher,
            user: self.clients[&client].credentials.user,
            is_stranger,
            start,
            ring,
            bells,
            gone: false,
        };
        actions.push(Action::Send { to, message, attachments });
        self.set_state(pair, PairState::Connected { seat }, actions);
    }

    fn attach_failed(&mut self, pair: Pair, reason: String, actions: &mut Actions) {
        if let Some(PairState::Attaching { .. }) = self.pairs.get(&pair) {
            let to = self.subscribers[&pair.subscriber].client;
            actions.push(attach_refused(to, pair, reason));
            self.set_state(pair, PairState::Failed, actions);
        }
    }

    /// Moves a pair that exists; makes room in its lane when it has arrived.
    fn set_state(&mut self, pair: Pair, state: PairState, actions: &mut Actions) {
        let has_arrived = matches!(state, PairState::Connected { .. } | PairState::Failed);
        let lane = self.lane_of(pair);
        if has_arrived {
            self.settle(lane, pair);
        }
        self.pairs.insert(pair, state);
        if has_arrived {
            self.has_joined(pair, actions);
        }
        self.release(lane, actions);
    }

    /// Takes a pair out of its lane.
    fn settle(&mut self, lane: Lane, pair: Pair) {
        let Some(traffic) = self.lanes.get_mut(&lane) else { return };
        match self.pairs.get(&pair) {
            Some(PairState::Matched | PairState::Attaching { .. }) => traffic.under_way -= 1,
            Some(PairState::Waiting) => drop(traffic.waiting.remove(&pair)),
            _ => {}
        }
        if traffic.under_way == 0 && traffic.waiting.is_empty() {
            self.lanes.remove(&lane);
        }
    }

    fn forget_pair(&mut self, lane: Lane, pair: Pair) {
        self.settle(lane, pair);
        self.pairs.remove(&pair);
        self.pairs_of_subscribers.remove(&(pair.subscriber, pair.publisher));
    }

    // ---- questions

    fn inspect(&mut self, client: ClientId, request: u64, end: EndId, actions: &mut Actions) {
        let publisher = self.publishers.get(&end).map(|publisher| publisher.client);
        let asked = publisher.or_else(|| self.subscribers.get(&end).map(|subscriber| subscriber.client));
        let Some(asked) = asked else {
            return actions.push(refuse(client, Some(request), Refusal::UnknownEnd { end }));
        };
        if let Err(refusal) = self.check_look(client, asked, end) {
            return actions.push(refuse(client, Some(request), refusal));
        }
        let limit = self.limits.inquiries;
        if self.inquiries.len() >= limit {
            let refusal = Refusal::Limit { what: Table::Inquiries, limit: limit as u64 };
            return actions.push(refuse(client, Some(request), refusal));
        }
        let inquiry = self.next_inquiry;
        self.next_inquiry += 1;
        self.inquiries.insert(inquiry, Inquiry { asker: client, request, asked, end });
        actions.push(send(asked, ToNode::Inspect { inquiry, index: end.index }));
    }

    fn inspected(&mut self, client: ClientId, number: u64, segment: Option<Carrier>, actions: &mut Actions) {
        match self.inquiries.get(&number) {
            // Whoever asked has gone meanwhile: late, not wrong.
            None if number < self.next_inquiry => return,
            Some(inquiry) if inquiry.asked == client => {}
            _ => return self.expel(client, malformed("an answer to no question"), actions),
        }
        let Some(Inquiry { asker, request, end, .. }) = self.inquiries.remove(&number) else { return };
        match segment {
            Some(segment) => {
                let carried = segment == Carrier::Descriptor;
                let attachments = carried.then_some(Attachment::FromMessage(0)).into_iter().collect();
                let message = ToNode::Inspected { request, segment };
                actions.push(Action::Send { to: asker, message, attachments });
            }
            None => actions.push(refuse(asker, Some(request), Refusal::UnknownEnd { end })),
        }
    }

    // ---- checks

    fn check_index(&self, client: ClientId, index: u32) -> Result<(), Refusal> {
        let admitted = self.admitted(client);
        if admitted.ends.contains(&index) {
            return Err(Refusal::IndexTaken { index });
        }
        let limits = self.limits;
        let all = self.publishers.len() + self.subscribers.len();
        check_limit(Table::EndsOfNode, admitted.ends.len(), limits.ends_per_node)?;
        check_limit(Table::Ends, all, limits.ends)
    }

    fn check_stream(&self, name: &ServiceName, offer: &Offer) -> Result<(), Refusal> {
        let Some(carried) = self.services.get(name).and_then(|service| self.carried(name, service)) else {
            return Ok(());
        };
        if carried.pattern != offer.contract.pattern {
            return Err(Refusal::OtherPattern(Box::new(carried)));
        }
        if carried.kind.fingerprint != offer.kind.fingerprint {
            return Err(Refusal::OtherType(Box::new(carried)));
        }
        Ok(())
    }

    /// What a service carries, and who fixes it; `None`: nobody publishes it.
    fn carried(&self, name: &ServiceName, service: &Service) -> Option<Carried> {
        let Stream { pattern, kind } = service.stream.clone()?;
        let end = service.publishers.first()?;
        let holder = self.route_to(*end, &self.publishers[end]).publisher_node().clone();
        Some(Carried { service: name.clone(), pattern, kind, holder })
    }

    fn room_for_pairs(&self, more: usize) -> Result<(), Refusal> {
        // One more than there would be is one too many.
        check_limit(Table::Pairs, (self.pairs.len() + more).saturating_sub(1), self.limits.pairs)
    }

    // ---- small answers

    /// True for a client whose `Hello` was accepted.
    #[must_use]
    pub fn is_admitted(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| client.admitted.is_some())
    }

    fn admitted(&self, client: ClientId) -> &Admitted {
        let found = self.clients.get(&client).and_then(|client| client.admitted.as_ref());
        found.expect("only admitted clients get as far as this")
    }

    fn admitted_mut(&mut self, client: ClientId) -> &mut Admitted {
        let found = self.clients.get_mut(&client).and_then(|client| client.admitted.as_mut());
        found.expect("only admitted clients get as far as this")
    }

    fn end(&self, client: ClientId, index: u32) -> EndId {
        EndId { node: self.admitted(client).node, index }
    }

    fn name_of(&self, client: ClientId) -> String {
        self.admitted(client).name.as_str().to_owned()
    }

    fn bells_of(&self, client: ClientId) -> Carrier {
        self.admitted(client).bells.clone()
    }

    /// Whether the kernel says that they are of different users.
    fn are_strangers(&self, one: ClientId, other: ClientId) -> bool {
        self.clients[&one].credentials.user != self.clients[&other].credentials.user
    }
}

const NO_BELLS: &str = "the publisher made no doorbells for this user; restart its node";
const OBSERVER: &str = "an observer has no ends";

fn check_kind(kind: &Kind) -> Result<(), Refusal> {
    if kind.schema.len() > MAX_SCHEMA {
        return Err(Refusal::Limit { what: Table::SchemaBytes, limit: MAX_SCHEMA as u64 });
    }
    Ok(())
}

fn check_limit(what: Table, now: usize, limit: usize) -> Result<(), Refusal> {
    if now >= limit { Err(Refusal::Limit { what, limit: limit as u64 }) } else { Ok(()) }
}

fn send(to: ClientId, message: ToNode) -> Action {
    Action::Send { to, message, attachments: Vec::new() }
}

fn refuse(to: ClientId, request: Option<u64>, refusal: Refusal) -> Action {
    send(to, ToNode::Refused { request, refusal })
}

fn attach_refused(to: ClientId, pair: Pair, reason: String) -> Action {
    let Pair { publisher, subscriber } = pair;
    send(
        to,
        ToNode::AttachRefused { subscriber: subscriber.index, publisher, reason: bounded_reason(reason) },
    )
}

fn malformed(why: &str) -> Refusal {
    Refusal::Malformed { why: why.to_owned() }
}
