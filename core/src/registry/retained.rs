//! What publishers retain, who keeps their rings, and who stands for them when they are gone.
//!
//! ```text
//!              Offer, retained          Kept                  Gone              Offer, stands for it
//!   (nothing) ────────────────▶ asked ────────▶ kept (living) ────▶ kept (gone) ────────────────────▶ stood for ──▶ (nothing)
//!                                 │ NotKept       ▲                     │ NotKept: nothing is in it     ▲  │ Release, or
//!                                 ▼               │ Kept, to a new root ▼                               └──┘ the last keeper goes
//!                            another is asked                       (nothing)                         Keep: another keeper
//! ```
//!
//! A *keeper* is a node that holds a descriptor of the ring. When the publisher is gone it offers the ring as
//! a publisher of its own (`stands_for`), so matching, attaching, policy and listing know nothing of all
//! this. Each keeper does: who wants the messages is matched with each of them, takes the first and declines
//! the others.
//!
//! - A publisher that retains is accepted when one keeper has its ring, or nobody can keep it: what it sends
//!   after that survives it.
//! - Keepers are nodes of the publisher's user, in processes other than its own and each other's. When one
//!   goes another is asked, as long as anybody has the ring; when there are too many (a new root hears of
//!   them one by one) the last is released.
//! - That a publisher is gone is not judged here: keepers ask the kernel, and look at the ring.
//! - Of one service and one name of a node the latest life stays, of one service at most [`FORMER_MAX`]
//!   names.
//! - The types of those that are gone hold up no publisher that comes.
use std::collections::{BTreeMap, BTreeSet};

use super::Registry;
use super::clients::Holdings;
use super::ends::{Publisher, Stream};
use super::event::{Action, Actions, Attachment, ClientId, check_limit, send};
use crate::contract::{Author, Former};
use crate::end::EndId;
use crate::name::ServiceName;
use crate::protocol::{Offer, Refusal, Table, ToNode};

/// Nodes that keep the ring of each publisher that retains messages.
const KEEPERS: usize = 2;
/// Publishers of one service that are gone, and of which something is kept.
const FORMER_MAX: usize = 16;

/// Publishers that retain messages, living and gone.
#[derive(Debug, Default)]
pub(super) struct Retained {
    rings: BTreeMap<EndId, Keepers>,
}

/// The keepers of one publisher, living or gone.
#[derive(Debug, Default)]
struct Keepers {
    nodes: BTreeMap<ClientId, Keeping>,
    /// The publisher's node and request, to be answered as soon as somebody keeps the ring.
    unanswered: Option<(ClientId, u64)>,
}

impl Retained {
    fn standing(&self, end: EndId) -> usize {
        let nodes = self.rings.get(&end).into_iter().flat_map(|keepers| keepers.nodes.values());
        nodes.filter(|keeping| matches!(keeping, Keeping::StandsFor(_))).count()
    }
}

#[cfg(test)]
impl Retained {
    pub(super) fn len(&self) -> usize {
        self.rings.len()
    }

    pub(super) fn contains(&self, end: EndId) -> bool {
        self.rings.contains_key(&end)
    }

    /// What holds between any two events.
    pub(super) fn assert_sound(&self, registry: &Registry) {
        for (end, ring) in &self.rings {
            let is_known = !ring.nodes.is_empty() || registry.ends.publisher(*end).is_some();
            assert!(is_known, "nobody knows {end} any more");
            for (keeper, keeping) in &ring.nodes {
                let keeps = registry.clients.node(*keeper).holdings.keeps();
                assert!(keeps.contains(end), "{keeper} does not know that it keeps {end}");
                if let Keeping::StandsFor(offered) = keeping {
                    assert_eq!(registry.ends.client_of(*offered), Some(*keeper));
                }
            }
        }
        for (client, known) in registry.clients.iter() {
            for end in known.node.iter().flat_map(|node| node.holdings.keeps()) {
                assert!(self.rings[end].nodes.contains_key(&client), "{client} keeps {end} for nobody");
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    Asked,
    Kept,
    /// As this publisher.
    StandsFor(EndId),
}

impl Registry {
    /// Checks that there is room for one more publisher that retains.
    pub(super) fn check_retained(&self, client: ClientId, offer: &Offer) -> Result<(), Refusal> {
        let what = match offer.author.former() {
            Some(former) => former.publisher,
            None if offer.contract.retained > 0 => {
                let retains = |index: &&u32| {
                    let publisher = self.ends.publisher(self.clients.end(client, **index));
                    publisher.is_some_and(|publisher| publisher.contract.retained > 0)
                };
                let count = self.clients.node(client).holdings.ends().iter().filter(retains).count();
                check_limit(Table::RetainedOfNode, count, self.limits.retained_of_node)?;
                self.clients.end(client, offer.index)
            }
            None => return Ok(()),
        };
        if self.retained.rings.contains_key(&what) {
            return Ok(());
        }
        check_limit(Table::Retained, self.retained.rings.len(), self.limits.retained)
    }

    /// Nobody but publishers that are gone fixes the type of this service: they give way to one that lives.
    pub(super) fn gives_way(&self, service: &ServiceName, offer: &Offer) -> bool {
        let mut publishers = self.ends.publishers_of(service).peekable();
        publishers.peek().is_some()
            && offer.author.former().is_none()
            && publishers.all(|(_, publisher)| publisher.former().is_some())
    }

    /// Forgets those that are gone, if they have sent something else than this.
    pub(super) fn make_way(&mut self, service: &ServiceName, comes: &Stream, actions: &mut Actions) {
        if self.ends.stream(service).is_some_and(|stream| !stream.is_same(comes)) {
            for (former, _) in self.former_of(service) {
                self.release_retained(former, actions);
            }
        }
    }

    /// A publisher that retains stands. Its offer is answered now, or when somebody keeps its ring.
    pub(super) fn begin_to_retain(
        &mut self,
        client: ClientId,
        end: EndId,
        request: u64,
        actions: &mut Actions,
    ) {
        let user = self.clients.user(client);
        // Nodes may have told of it before it came: who is not of its user has been mistaken, or lies.
        let clients = &self.clients;
        let entry = self.retained.rings.entry(end).or_default();
        entry.nodes.retain(|keeper, _| clients.user(*keeper) == user);
        entry.unanswered = Some((client, request));
        self.recruit(end, None, actions);
        self.answer_if_settled(end, actions);
    }

    /// A publisher that is gone, as one of its keepers offers it. False: a later life of it is known, and
    /// this is forgotten.
    pub(super) fn may_stand_for(
        &mut self,
        client: ClientId,
        service: &ServiceName,
        offer: &Offer,
        actions: &mut Actions,
    ) -> bool {
        let Some(former) = offer.author.former() else { return true };
        let others = self.former_of(service);
        let is_of_same_name = |end: &EndId| {
            let others = self.ends.publishers().filter_map(|(_, publisher)| publisher.author.former());
            let mut other = others.filter(|other| other.publisher == *end);
            other.next().is_some_and(|other| other.node_name == former.node_name)
        };
        let same_name: Vec<(EndId, u64)> = others
            .iter()
            .filter(|(end, _)| *end != former.publisher && is_of_same_name(end))
            .copied()
            .collect();
        if same_name.iter().any(|(_, born)| *born > offer.born) {
            let _was = self.forget_keeper(former.publisher, client);
            actions.push(send(client, ToNode::Release { publisher: former.publisher }));
            return false;
        }
        let mut older: Vec<EndId> = same_name.into_iter().map(|(end, _)| end).collect();
        let mut left: Vec<_> =
            others.into_iter().filter(|(end, _)| *end != former.publisher && !older.contains(end)).collect();
        left.sort_by_key(|(_, born)| *born);
        let surplus = (left.len() + 1).saturating_sub(FORMER_MAX);
        older.extend(left.into_iter().take(surplus).map(|(end, _)| end));
        for end in older {
            self.release_retained(end, actions);
        }
        true
    }

    /// The offer of a keeper stands. False: there are enough without it, and it is withdrawn.
    pub(super) fn stands_for(
        &mut self,
        client: ClientId,
        end: EndId,
        former: EndId,
        actions: &mut Actions,
    ) -> bool {
        let entry = self.retained.rings.entry(former).or_default();
        entry.nodes.insert(client, Keeping::StandsFor(end));
        self.clients.holdings(client).keep(former);
        if self.retained.standing(former) > KEEPERS {
            // Another was asked before this one had told a new root that it has the ring.
            self.is_surplus(client, former, actions);
            self.withdraw(client, end.index, actions);
            return false;
        }
        self.recruit(former, None, actions);
        true
    }

    fn is_surplus(&mut self, client: ClientId, end: EndId, actions: &mut Actions) {
        let _was = self.forget_keeper(end, client);
        actions.push(send(client, ToNode::Release { publisher: end }));
    }

    /// The publishers that are gone and stood for on this service, and when they were born.
    fn former_of(&self, service: &ServiceName) -> Vec<(EndId, u64)> {
        let former = self.ends.publishers_of(service);
        let former = former.filter_map(|(_, publisher)| Some((publisher.former()?, publisher.born)));
        former.collect::<BTreeMap<EndId, u64>>().into_iter().collect()
    }

    // ---- keepers

    /// Asks for more keepers, if there are too few and somebody has the ring. `except` is on its way out.
    fn recruit(&mut self, end: EndId, except: Option<ClientId>, actions: &mut Actions) {
        let Some((source, offer)) = self.source_of(end, except) else { return };
        // Bounded: each round makes one more keeper.
        while let Some(keeper) = self.candidate(end, source, except) {
            self.ask_to_keep(end, keeper, source, offer.clone(), actions);
        }
    }

    fn ask_to_keep(
        &mut self,
        end: EndId,
        keeper: ClientId,
        source: EndId,
        offer: Offer,
        actions: &mut Actions,
    ) {
        let ring = self.retained.rings.get_mut(&end);
        let (Some(ring), Some(from)) = (ring, self.ends.client_of(source)) else { return };
        ring.nodes.insert(keeper, Keeping::Asked);
        self.clients.holdings(keeper).keep(end);
        let message = ToNode::Keep { source, offer: Box::new(offer) };
        actions.push(Action::Send { to: keeper, message, attachments: vec![Attachment::PidfdOf(from)] });
    }

    /// An end that has the ring, and the offer a keeper would make of it.
    fn source_of(&self, end: EndId, except: Option<ClientId>) -> Option<(EndId, Offer)> {
        let from = |end: EndId| self.ends.publisher(end).filter(|publisher| Some(publisher.client) != except);
        let own = from(end).filter(|publisher| publisher.contract.retained > 0).map(|own| (end, own));
        let keepers = self.retained.rings.get(&end)?.nodes.values();
        let standing = || {
            keepers.into_iter().find_map(|keeping| match keeping {
                Keeping::StandsFor(end) => Some((*end, from(*end)?)),
                Keeping::Asked | Keeping::Kept => None,
            })
        };
        let (source, publisher) = own.or_else(standing)?;
        let former = publisher.author.former().cloned().unwrap_or_else(|| {
            let node_name = self.clients.node(publisher.client).name.clone();
            Former { publisher: end, node_name }
        });
        let offer = Offer {
            index: 0,
            service: publisher.service.as_str().to_owned(),
            kind: self.ends.stream_of(publisher).kind.clone(),
            contract: publisher.contract.of_former(),
            born: publisher.born,
            author: Author::Former(former),
            begins: false,
        };
        Some((source, offer))
    }

    /// The node to ask next: preferably one that does not host the root, the earliest among equals.
    fn candidate(&self, end: EndId, source: EndId, except: Option<ClientId>) -> Option<ClientId> {
        if self.retained.rings.get(&end)?.nodes.len() >= KEEPERS {
            return None;
        }
        let able = self.clients.iter().map(|(client, _)| client);
        let able = able.filter(|client| Some(*client) != except && self.can_keep(*client, end, source));
        able.min_by_key(|client| (self.clients.node(*client).hosts_root, *client))
    }

    /// Whether a node could be one more keeper of this ring.
    fn can_keep(&self, client: ClientId, end: EndId, source: EndId) -> bool {
        let (Some(ring), Some(from)) = (self.retained.rings.get(&end), self.ends.client_of(source)) else {
            return false;
        };
        let candidate = &self.clients[client];
        let Some(node) = &candidate.node else { return false };
        // Two in one process die together. (0: a process that this one cannot see.)
        let is_elsewhere = |other: &ClientId| {
            *other != client && (candidate.pid == 0 || self.clients[*other].pid != candidate.pid)
        };
        !node.observer
            && node.holdings.can_keep(self.limits.kept_of_node)
            && !self.clients.are_strangers(client, from)
            && is_elsewhere(&from)
            && ring.nodes.keys().all(is_elsewhere)
    }

    /// A node that may keep what too few keep.
    pub(super) fn welcome_keeper(&mut self, client: ClientId, actions: &mut Actions) {
        let short = self.retained.rings.iter().filter(|(_, ring)| ring.nodes.len() < KEEPERS);
        let short: Vec<EndId> = short.map(|(end, _)| *end).collect();
        for end in short {
            let Some((source, offer)) = self.source_of(end, None) else { continue };
            if self.can_keep(client, end, source) {
                self.ask_to_keep(end, client, source, offer, actions);
            }
        }
    }

    /// A node has a ring: it was asked to keep it, or tells a new root.
    pub(super) fn kept(&mut self, client: ClientId, end: EndId, actions: &mut Actions) {
        let keeps = self.clients.node(client).holdings.keeps();
        let (is_keeper, has_room) = (keeps.contains(&end), keeps.len() < self.limits.kept_of_node);
        let is_known = self.retained.rings.contains_key(&end);
        let is_same_user = |publisher: &Publisher| !self.clients.are_strangers(publisher.client, client);
        let is_apt = self.ends.publisher(end).is_none_or(is_same_user);
        let is_full = self.retained.rings.len() >= self.limits.retained;
        if !is_apt || (!is_keeper && !has_room) || (!is_known && is_full) {
            return actions.push(send(client, ToNode::Release { publisher: end }));
        }
        self.clients.holdings(client).keep(end);
        let ring = self.retained.rings.entry(end).or_default();
        let keeping = ring.nodes.entry(client).or_insert(Keeping::Kept);
        if *keeping == Keeping::Asked {
            *keeping = Keeping::Kept;
        }
        if self.keepers_of(end) > KEEPERS as u32 {
            self.is_surplus(client, end, actions);
        }
        self.answer_if_settled(end, actions);
    }

    /// A node does not have a ring, or nothing is in it.
    pub(super) fn not_kept(&mut self, client: ClientId, end: EndId, actions: &mut Actions) {
        // Released meanwhile.
        let Some(was) = self.forget_keeper(end, client) else { return };
        // The ring is there, so it lacks something.
        if was == Keeping::Asked && self.source_of(end, None).is_some() {
            self.clients.holdings(client).keep_no_more();
        }
        self.lost_a_keeper(end, None, actions);
    }

    /// A node goes: it keeps nothing, and is given nothing to keep. To be followed by
    /// [`Registry::replace_keeper`].
    pub(super) fn stop_keeping(&mut self, client: ClientId) -> BTreeSet<EndId> {
        self.clients.holdings_if_any(client).map(Holdings::take_kept).unwrap_or_default()
    }

    /// Finds others in place of one that has gone.
    pub(super) fn replace_keeper(&mut self, client: ClientId, kept: BTreeSet<EndId>, actions: &mut Actions) {
        for end in kept {
            let _was = self.forget_keeper(end, client);
            self.lost_a_keeper(end, Some(client), actions);
        }
    }

    /// An end that stood for a publisher is withdrawn.
    pub(super) fn stands_no_more(&mut self, client: ClientId, former: EndId, actions: &mut Actions) {
        if self.forget_keeper(former, client).is_some() {
            self.lost_a_keeper(former, Some(client), actions);
        }
    }

    fn lost_a_keeper(&mut self, end: EndId, except: Option<ClientId>, actions: &mut Actions) {
        self.recruit(end, except, actions);
        self.answer_if_settled(end, actions);
        let is_empty = |ring: &Keepers| ring.nodes.is_empty() && ring.unanswered.is_none();
        if self.retained.rings.get(&end).is_some_and(is_empty) && self.ends.publisher(end).is_none() {
            self.retained.rings.remove(&end);
        }
    }

    /// `None`: it was none.
    fn forget_keeper(&mut self, end: EndId, client: ClientId) -> Option<Keeping> {
        if let Some(holdings) = self.clients.holdings_if_any(client) {
            holdings.let_go(end);
        }
        self.retained.rings.get_mut(&end)?.nodes.remove(&client)
    }

    /// The offer stands when somebody has the ring, or nobody is left who was asked.
    fn answer_if_settled(&mut self, end: EndId, actions: &mut Actions) {
        let Some(entry) = self.retained.rings.get_mut(&end) else { return };
        let is_settled =
            entry.nodes.is_empty() || entry.nodes.values().any(|keeping| *keeping != Keeping::Asked);
        if is_settled && let Some((client, request)) = entry.unanswered.take() {
            self.accept(client, end, request, actions);
        }
    }

    // ---- publishers that go

    /// A publisher that retains is gone, or has left this root. Its keepers find out which.
    pub(super) fn has_ended(&mut self, end: EndId, actions: &mut Actions) {
        let Some(entry) = self.retained.rings.get_mut(&end) else { return };
        entry.unanswered = None;
        if entry.nodes.is_empty() {
            self.retained.rings.remove(&end);
            return;
        }
        for (keeper, keeping) in &entry.nodes {
            if !matches!(keeping, Keeping::StandsFor(_)) {
                actions.push(send(*keeper, ToNode::Gone { publisher: end }));
            }
        }
    }

    /// What this publisher retained is not wanted any more.
    fn release_retained(&mut self, end: EndId, actions: &mut Actions) {
        let Some(entry) = self.retained.rings.remove(&end) else { return };
        for (keeper, keeping) in entry.nodes {
            actions.push(send(keeper, ToNode::Release { publisher: end }));
            self.clients.holdings(keeper).let_go(end);
            if let Keeping::StandsFor(end) = keeping {
                self.withdraw(keeper, end.index, actions);
            }
        }
    }

    /// How many nodes have the ring.
    pub(super) fn keepers_of(&self, end: EndId) -> u32 {
        let keepers = self.retained.rings.get(&end).into_iter().flat_map(|entry| entry.nodes.values());
        keepers.filter(|keeping| **keeping != Keeping::Asked).count() as u32
    }
}
