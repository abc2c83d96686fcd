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
//! A *keeper* is a node that holds a descriptor of the ring. When the publisher is gone it offers the ring as a publisher of its own
//! (`stands_for`), so matching, attaching, policy and listing know nothing of all this. Each keeper does: who wants the messages is matched
//! with each of them, takes the first and declines the others.
//!
//! - A publisher that retains is accepted when one keeper has its ring, or nobody can keep it: what it sends after that survives it.
//! - Keepers are nodes of the publisher's user, in processes other than its own and each other's. When one goes another is asked, as long
//!   as anybody has the ring; when there are too many (a new root hears of them one by one) the last is released.
//! - That a publisher is gone is not judged here: keepers ask the kernel, and look at the ring.
//! - Of one service and one name of a node the latest life stays, of one service at most [`FORMER_MAX`] names.
//! - The types of those that are gone hold up no publisher that comes.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, Actions, Attachment, Author, ClientId, EndId, Offer, Publisher, Refusal, Registry, ServiceName,
    Stream, Table, ToNode, check_limit, send,
};
use crate::contract::Former;

/// Nodes that keep the ring of each publisher that retains messages.
const KEEPERS: usize = 2;
/// Publishers of one service that are gone, and of which something is kept.
const FORMER_MAX: usize = 16;

/// The keepers of one publisher, living or gone.
#[derive(Debug, Default)]
pub(super) struct Retained {
    pub(super) keepers: BTreeMap<ClientId, Keeping>,
    /// Who is to be told that its offer stands, as soon as somebody keeps the ring.
    unanswered: Option<(ClientId, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    Asked,
    Kept,
    /// As this publisher.
    StandsFor(EndId),
}

impl Registry {
    /// Whether there is room for one more that retains.
    pub(super) fn check_retained(&self, client: ClientId, offer: &Offer) -> Result<(), Refusal> {
        let what = match offer.author.former() {
            Some(former) => former.publisher,
            None if offer.contract.retained > 0 => {
                let own = |end: &&u32| {
                    let end = EndId { node: self.admitted(client).node, index: **end };
                    self.publishers.get(&end).is_some_and(|publisher| publisher.contract.retained > 0)
                };
                let count = self.admitted(client).ends.iter().filter(own).count();
                check_limit(Table::RetainedOfNode, count, self.limits.retained_of_node)?;
                self.end(client, offer.index)
            }
            None => return Ok(()),
        };
        if self.retained.contains_key(&what) {
            return Ok(());
        }
        check_limit(Table::Retained, self.retained.len(), self.limits.retained)
    }

    /// Nobody but publishers that are gone fixes the type of this service: they give way to one that lives.
    pub(super) fn gives_way(&self, service: &ServiceName, offer: &Offer) -> bool {
        let Some(entry) = self.services.get(service) else { return false };
        let is_former = |end: &EndId| self.publishers[end].author.former().is_some();
        offer.author.former().is_none() && entry.publishers.iter().all(is_former)
    }

    /// Forgets those that are gone, if they have sent something else than this.
    pub(super) fn make_way(&mut self, service: &ServiceName, comes: &Stream, actions: &mut Actions) {
        let stream = self.services.get(service).and_then(|service| service.stream.as_ref());
        if stream.is_some_and(|stream| !stream.is_same(comes.pattern, comes.kind.fingerprint)) {
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
        let user = self.clients[&client].credentials.user;
        // Nodes may have told of it before it came: who is not of its user has been mistaken, or lies.
        let clients = &self.clients;
        let entry = self.retained.entry(end).or_default();
        entry.keepers.retain(|keeper, _| clients[keeper].credentials.user == user);
        entry.unanswered = Some((client, request));
        self.recruit(end, None, actions);
        self.answer_if_settled(end, actions);
    }

    /// A publisher that is gone, as one of its keepers offers it. False: a later life of it is known, and this is forgotten.
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
            let other =
                self.publishers.values().find_map(|p| p.author.former().filter(|f| f.publisher == *end));
            other.is_some_and(|other| other.node_name == former.node_name)
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
        let entry = self.retained.entry(former).or_default();
        entry.keepers.insert(client, Keeping::StandsFor(end));
        self.admitted_mut(client).keeps.insert(former);
        let stand = |keeping: &&Keeping| matches!(keeping, Keeping::StandsFor(_));
        if self.retained[&former].keepers.values().filter(stand).count() > KEEPERS {
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
        let ends = self.services.get(service).into_iter().flat_map(|service| &service.publishers);
        let former = ends.filter_map(|end| {
            let publisher = &self.publishers[end];
            Some((publisher.author.former()?.publisher, publisher.born))
        });
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
        let Some(entry) = self.retained.get_mut(&end) else { return };
        entry.keepers.insert(keeper, Keeping::Asked);
        self.admitted_mut(keeper).keeps.insert(end);
        let from = self.publishers[&source].client;
        let message = ToNode::Keep { source, offer: Box::new(offer) };
        actions.push(Action::Send { to: keeper, message, attachments: vec![Attachment::PidfdOf(from)] });
    }

    /// Who has the ring, and what is known of it.
    fn source_of(&self, end: EndId, except: Option<ClientId>) -> Option<(EndId, Offer)> {
        let is_living =
            |end: &EndId| self.publishers.get(end).is_some_and(|publisher| publisher.contract.retained > 0);
        let standing = self.retained.get(&end)?.keepers.values().filter_map(|keeping| match keeping {
            Keeping::StandsFor(end) => Some(*end),
            Keeping::Asked | Keeping::Kept => None,
        });
        let sources = Some(end).filter(is_living).into_iter().chain(standing);
        let source = sources
            .into_iter()
            .find(|end| self.publishers.get(end).is_some_and(|publisher| Some(publisher.client) != except))?;
        let publisher = &self.publishers[&source];
        let stream = self.services[&publisher.service].stream.as_ref();
        let former = publisher.author.former().cloned().unwrap_or_else(|| {
            let node_name = self.admitted(publisher.client).name.clone();
            Former { publisher: end, node_name }
        });
        let offer = Offer {
            index: 0,
            service: publisher.service.as_str().to_owned(),
            kind: stream.expect("a service with a publisher carries something").kind.clone(),
            contract: publisher.contract.of_former(),
            born: publisher.born,
            author: Author::Former(former),
            begins: false,
        };
        Some((source, offer))
    }

    /// Who is asked next: rather a node without the root, and among these who came first.
    fn candidate(&self, end: EndId, source: EndId, except: Option<ClientId>) -> Option<ClientId> {
        let is_enough = self.retained.get(&end)?.keepers.len() >= KEEPERS;
        let hosts_root = |client: &ClientId| self.admitted(*client).hosts_root;
        let candidates = self
            .clients
            .keys()
            .copied()
            .filter(|client| Some(*client) != except && self.can_keep(*client, end, source));
        candidates.filter(|_| !is_enough).min_by_key(|client| (hosts_root(client), *client))
    }

    /// Whether a node could be one more keeper of this ring.
    fn can_keep(&self, client: ClientId, end: EndId, source: EndId) -> bool {
        let (Some(entry), Some(source)) = (self.retained.get(&end), self.publishers.get(&source)) else {
            return false;
        };
        let (candidate, from) = (&self.clients[&client], source.client);
        let Some(admitted) = &candidate.admitted else { return false };
        // Two in one process die together. (0: a process that this one cannot see.)
        let is_elsewhere = |other: &ClientId| {
            *other != client && (candidate.pid == 0 || self.clients[other].pid != candidate.pid)
        };
        !admitted.observer
            && !admitted.keeps_no_more
            && admitted.keeps.len() < self.limits.kept_of_node
            && candidate.credentials.user == self.clients[&from].credentials.user
            && is_elsewhere(&from)
            && entry.keepers.keys().all(is_elsewhere)
    }

    /// A node that may keep what too few keep.
    pub(super) fn welcome_keeper(&mut self, client: ClientId, actions: &mut Actions) {
        let short = self.retained.iter().filter(|(_, entry)| entry.keepers.len() < KEEPERS);
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
        let is_known = self.retained.contains_key(&end);
        let has_room = self.admitted(client).keeps.len() < self.limits.kept_of_node;
        let is_keeper = self.admitted(client).keeps.contains(&end);
        let is_same_user = |publisher: &Publisher| {
            self.clients[&publisher.client].credentials.user == self.clients[&client].credentials.user
        };
        let is_apt = self.publishers.get(&end).is_none_or(is_same_user);
        if !is_apt || (!is_keeper && !has_room) || (!is_known && self.retained.len() >= self.limits.retained)
        {
            return actions.push(send(client, ToNode::Release { publisher: end }));
        }
        self.admitted_mut(client).keeps.insert(end);
        let keeping = self.retained.entry(end).or_default().keepers.entry(client).or_insert(Keeping::Kept);
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
            self.admitted_mut(client).keeps_no_more = true;
        }
        self.lost_a_keeper(end, None, actions);
    }

    /// A node goes: it keeps nothing, and is given nothing to keep. To be followed by [`Registry::replace_keeper`].
    pub(super) fn stop_keeping(&mut self, client: ClientId) -> BTreeSet<EndId> {
        let Some(admitted) = self.clients.get_mut(&client).and_then(|client| client.admitted.as_mut()) else {
            return BTreeSet::new();
        };
        admitted.keeps_no_more = true;
        std::mem::take(&mut admitted.keeps)
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
        let is_empty = |entry: &Retained| entry.keepers.is_empty() && entry.unanswered.is_none();
        if self.retained.get(&end).is_some_and(is_empty) && !self.publishers.contains_key(&end) {
            self.retained.remove(&end);
        }
    }

    /// `None`: it was none.
    fn forget_keeper(&mut self, end: EndId, client: ClientId) -> Option<Keeping> {
        if let Some(admitted) = self.clients.get_mut(&client).and_then(|client| client.admitted.as_mut()) {
            admitted.keeps.remove(&end);
        }
        self.retained.get_mut(&end)?.keepers.remove(&client)
    }

    /// The offer stands when somebody has the ring, or nobody is left who was asked.
    fn answer_if_settled(&mut self, end: EndId, actions: &mut Actions) {
        let Some(entry) = self.retained.get_mut(&end) else { return };
        let is_settled =
            entry.keepers.is_empty() || entry.keepers.values().any(|keeping| *keeping != Keeping::Asked);
        if is_settled && let Some((client, request)) = entry.unanswered.take() {
            self.accept(client, end, request, actions);
        }
    }

    // ---- publishers that go

    /// A publisher that retains is gone, or has left this root. Its keepers find out which.
    pub(super) fn has_ended(&mut self, end: EndId, actions: &mut Actions) {
        let Some(entry) = self.retained.get_mut(&end) else { return };
        entry.unanswered = None;
        if entry.keepers.is_empty() {
            self.retained.remove(&end);
            return;
        }
        for (keeper, keeping) in &entry.keepers {
            if !matches!(keeping, Keeping::StandsFor(_)) {
                actions.push(send(*keeper, ToNode::Gone { publisher: end }));
            }
        }
    }

    /// What this publisher retained is not wanted any more.
    fn release_retained(&mut self, end: EndId, actions: &mut Actions) {
        let Some(entry) = self.retained.remove(&end) else { return };
        for (keeper, keeping) in entry.keepers {
            actions.push(send(keeper, ToNode::Release { publisher: end }));
            self.admitted_mut(keeper).keeps.remove(&end);
            if let Keeping::StandsFor(end) = keeping {
                self.withdraw(keeper, end.index, actions);
            }
        }
    }

    /// How many nodes have the ring.
    pub(super) fn keepers_of(&self, end: EndId) -> u32 {
        let keepers = self.retained.get(&end).into_iter().flat_map(|entry| entry.keepers.values());
        keepers.filter(|keeping| **keeping != Keeping::Asked).count() as u32
    }
}
