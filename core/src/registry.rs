//! The registry: who is here, what they offer and want, and which pairs are under way.
//!
//! A pure state machine: [`Registry::handle`] takes an event and answers with actions. It does no input or
//! output, reads no clock, and the same events give the same actions, so the code that runs in production
//! also runs in property tests and in a fuzzer. Descriptors are opaque here: an action only says which one
//! goes where ([`Attachment`]).
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
//! - Every live pair that matches gets exactly one `Match`. Pairs that a node brings along (`Connected`,
//!   after the death of an earlier root) get none. A `Rematch` of a subscription gives one more to each pair
//!   of it that has failed.
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
//! - A `Match` that a node gets twice, because the policy took the pair away and gave it back in between, may
//!   be answered twice. The first answer counts.
//! - Publishers fix the type (*kind*) of a service, subscribers never do:
//!
//!   | who                                      | what happens                                                       |
//!   | ---------------------------------------- | ------------------------------------------------------------------ |
//!   | the first publisher of a service         | its type is the type of the service, until the last publisher goes |
//!   | a later one of another type              | refused, with both types and the node that holds the service       |
//!   | ... while all others are gone (retained) | accepted; what those retained is released                          |
//!   | a subscriber of another type             | accepted and told (`Skipped`), by name or wildcard alike; waits    |
//!   | a waiting subscriber                     | matched, as anybody, with the first publisher of its own type      |
//!
//!   The same holds for the *pattern* of a service, except that a subscription with wildcards (`**`) means
//!   services of its own pattern only, and is not told of others.
//!
//!   So neither a guest who may only subscribe nor a forgotten viewer keeps a publisher out, and nodes start
//!   in any order. A subscriber of a service without a publisher has no line in a listing of services. After
//!   the death of a root the publishers that live fix the types anew, and subscribers are told anew.
//! - Between two nodes at most [`Limits::lane`] pairs are on their way at a time. So a node with thousands of
//!   pairs needs neither thousands of queued packets nor thousands of descriptors, and one that does not
//!   answer delays its own pairs only.
//! - A client that is gone is nowhere any more. What a peer says about it later gets an answer, not a
//!   mistake: both may be right, only late.
//! - Nobody is told of what the policy of the hive does not let it read, and a request that the policy does
//!   not allow is refused in words; see `registry/rights.rs` for what a new policy does.
//! - Every table has a bound ([`Limits`]); a request that would exceed it is refused in words.
//!
//! If the process of the root dies, all this is lost, and nothing of it was needed: nodes tell the next root.
//!
//! | room           | what it keeps, or does                                              |
//! | -------------- | ------------------------------------------------------------------- |
//! | `clients`      | table: who is connected, names, epochs, what each node has          |
//! | `ends`         | table: publishers, subscriptions, services and what they carry      |
//! | `pairs`        | table: pairs and lanes                                              |
//! | `retained`     | table: what publishers retain, and who keeps it; and the rules      |
//! | `joiners`      | table: who was there before a publisher; and the rules              |
//! | `questions`    | table: inquiries and watchers; and the rules                        |
//! | `nodes`        | admission, and everything of a client that goes                     |
//! | `announcing`   | ends that come, go, or do not fit                                   |
//! | `attaching`    | a pair, step by step                                                |
//! | `rights`       | what the policy means for all this                                  |
//! | `listing`      | pages of it                                                         |
//! | `event`        | events, actions, limits                                             |
//!
//! What is in a table is private to its room, which says what always holds of it.

use self::attaching::Given;
use self::clients::Clients;
use self::ends::Ends;
use self::event::{Actions, malformed, refuse, send};
use self::joiners::Joiners;
use self::pairs::{Pair, Pairs};
use self::questions::Questions;
use self::retained::Retained;
use crate::policy::Policy;
use crate::protocol::{DecodeError, Refusal, Right, ToNode, ToRoot, VERSION};

mod announcing;
mod attaching;
mod clients;
mod ends;
mod event;
mod joiners;
mod listing;
mod nodes;
mod pairs;
mod questions;
mod retained;
mod rights;
#[cfg(test)]
mod tests;

pub use self::event::{Action, Attachment, ClientId, Event, Limits, RootIdentity};

/// See the head of the module.
#[derive(Debug)]
pub struct Registry {
    root: RootIdentity,
    limits: Limits,
    policy: Policy,
    clients: Clients,
    ends: Ends,
    pairs: Pairs,
    retained: Retained,
    joiners: Joiners,
    questions: Questions,
}

const OBSERVER: &str = "an observer has no ends";

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(root: RootIdentity, limits: Limits, policy: Policy) -> Registry {
        Registry {
            root,
            limits,
            policy,
            clients: Clients::default(),
            ends: Ends::default(),
            pairs: Pairs::new(limits.lane),
            retained: Retained::default(),
            joiners: Joiners::default(),
            questions: Questions::default(),
        }
    }

    /// What this root is now.
    #[must_use]
    pub fn root(&self) -> RootIdentity {
        self.root
    }

    /// The clients that stand in the way of this `Hello`: of the same name or epoch. Whether they are alive
    /// is not known here, so ask the kernel before handling the `Hello`.
    #[must_use]
    pub fn holders(&self, hello: &ToRoot) -> Vec<ClientId> {
        let ToRoot::Hello { name, node, .. } = hello else { return Vec::new() };
        self.clients.named(name).chain(self.clients.of_epoch(*node)).collect()
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

    fn said(&mut self, client: ClientId, message: ToRoot, actions: &mut Actions) {
        let Some(known) = self.clients.get(client) else { return };
        let observer = known.node.as_ref().map(|node| node.observer);
        match (message, observer) {
            (ToRoot::HandOver, _) => self.hand_over(client, actions),
            (ToRoot::Leave, _) => {
                self.remove(client, actions);
                actions.push(Action::CutOff { client });
            }
            (hello @ ToRoot::Hello { .. }, None) => self.hello(client, hello, actions),
            (_, None) => self.expel(client, malformed("a message before `Hello`"), actions),
            (ToRoot::Hello { .. }, _) => self.expel(client, malformed("a second `Hello`"), actions),
            (ToRoot::AreYouThere, _) => actions.push(send(client, ToNode::Alive)),
            (ToRoot::Watch, _) => self.watch(client),
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
                self.ends_in_order(self.clients.end(client, index));
                self.withdraw(client, index, actions);
            }
            ToRoot::Attach { subscriber, publisher, seat, reader } => {
                let pair = Pair { publisher, subscriber: self.clients.end(client, subscriber) };
                self.attach(client, pair, seat, reader, actions);
            }
            ToRoot::Declined { subscriber, publisher } => {
                let pair = Pair { publisher, subscriber: self.clients.end(client, subscriber) };
                self.has_answered(client);
                self.declined(pair, actions);
                self.leaves_orphan(pair, actions);
            }
            ToRoot::Lend { publisher, ring } => {
                self.lent(client, self.clients.end(client, publisher), &ring, actions);
            }
            ToRoot::Attached { publisher, subscriber, start, ring, bells } => {
                let pair = Pair { publisher: self.clients.end(client, publisher), subscriber };
                self.attached(client, pair, Given { start, ring, bells }, actions);
            }
            ToRoot::AttachRefused { publisher, subscriber, reason } => {
                let pair = Pair { publisher: self.clients.end(client, publisher), subscriber };
                self.attach_failed(pair, reason, actions);
            }
            ToRoot::Detached { subscriber, publisher } => {
                let pair = Pair { publisher, subscriber: self.clients.end(client, subscriber) };
                self.detached(pair, actions);
            }
            ToRoot::Misfits { request, publisher } => self.misfits(client, request, publisher, actions),
            ToRoot::Rematch { subscriber } => self.rematch(self.clients.end(client, subscriber), actions),
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
                let pair = Pair { publisher, subscriber: self.clients.end(client, subscriber) };
                self.declined(pair, actions);
                actions.push(pair.refused(client, refusal.to_string()));
            }
            ToRoot::Attached { publisher, subscriber, .. } if self.is_admitted(client) => {
                let pair = Pair { publisher: self.clients.end(client, publisher), subscriber };
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

    /// True for a client whose `Hello` was accepted.
    #[must_use]
    pub fn is_admitted(&self, client: ClientId) -> bool {
        self.clients.get(client).is_some_and(|client| client.node.is_some())
    }
}
