//! The clients: connections, and the nodes that some of them are, by number, name and epoch.
//!
//! What holds after every call:
//!
//! - A client is found by its epoch, and unless it only looks by its name, from its admission until it is
//!   removed; nobody else is.
//! - Name, epoch and doorbells of a node never change. What it has ([`Holdings`]) goes with it.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Index;

use super::event::ClientId;
use crate::end::EndId;
use crate::identity::Process;
use crate::name::NodeName;
use crate::policy::{Credentials, Policy, Rights};
use crate::protocol::{Carrier, Connected};

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Clients {
    clients: BTreeMap<ClientId, Client>,
    names: BTreeMap<NodeName, BTreeSet<ClientId>>,
    nodes: BTreeMap<u64, ClientId>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) pid: i32,
    pub(super) credentials: Credentials,
    pub(super) process: Process,
    pub(super) rights: Rights,
    pub(super) node: Option<Admitted>,
}

/// What a client is once its `Hello` was accepted.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) name: NodeName,
    pub(super) epoch: u64,
    pub(super) observer: bool,
    pub(super) hosts_root: bool,
    pub(super) bells: Carrier,
    pub(super) holdings: Holdings,
}

/// What a node has.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    ends: BTreeSet<u32>,
    /// Connections announced for subscribers that are still to be announced themselves.
    announced: BTreeMap<u32, Vec<Connected>>,
    /// How many those are, and those that its subscribers have brought along.
    announced_count: usize,
    /// Publishers whose rings it keeps, or was asked to.
    keeps: BTreeSet<EndId>,
    /// It lacked something when it was asked to keep a ring, or is on its way out.
    keeps_no_more: bool,
}

impl Holdings {
    pub(super) fn ends(&self) -> &BTreeSet<u32> {
        &self.ends
    }

    pub(super) fn add_end(&mut self, index: u32) {
        self.ends.insert(index);
    }

    /// False: there was none.
    pub(super) fn remove_end(&mut self, index: u32) -> bool {
        self.ends.remove(&index)
    }

    pub(super) fn take_ends(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.ends)
    }

    /// Connections of a subscriber that is still to come. False: there are more than `limit` of this node by
    /// now.
    pub(super) fn announce(&mut self, subscriber: u32, connections: Vec<Connected>, limit: usize) -> bool {
        self.announced_count += connections.len();
        if self.announced_count > limit {
            return false;
        }
        self.announced.entry(subscriber).or_default().extend(connections);
        true
    }

    /// What was announced for this subscriber. It counts until [`Holdings::forget_announced`].
    pub(super) fn take_announced(&mut self, subscriber: u32) -> Vec<Connected> {
        self.announced.remove(&subscriber).unwrap_or_default()
    }

    pub(super) fn forget_announced(&mut self, count: usize) {
        self.announced_count -= count;
    }

    pub(super) fn keeps(&self) -> &BTreeSet<EndId> {
        &self.keeps
    }

    pub(super) fn keep(&mut self, publisher: EndId) {
        self.keeps.insert(publisher);
    }

    pub(super) fn let_go(&mut self, publisher: EndId) {
        self.keeps.remove(&publisher);
    }

    pub(super) fn can_keep(&self, limit: usize) -> bool {
        !self.keeps_no_more && self.keeps.len() < limit
    }

    /// It is not asked to keep anything any more.
    pub(super) fn keep_no_more(&mut self) {
        self.keeps_no_more = true;
    }

    pub(super) fn take_kept(&mut self) -> BTreeSet<EndId> {
        self.keeps_no_more = true;
        std::mem::take(&mut self.keeps)
    }
}

impl Clients {
    /// A connection that is nobody yet.
    pub(super) fn connect(&mut self, client: ClientId, found: Client) {
        let earlier = self.clients.insert(client, found);
        assert!(earlier.is_none(), "the root gives every connection its own number");
    }

    /// A connection becomes a node.
    pub(super) fn admit(&mut self, client: ClientId, node: Admitted) {
        let Some(entry) = self.clients.get_mut(&client) else { return };
        self.nodes.insert(node.epoch, client);
        if !node.observer {
            self.names.entry(node.name.clone()).or_default().insert(client);
        }
        entry.node = Some(node);
    }

    pub(super) fn remove(&mut self, client: ClientId) {
        let Some(Client { node: Some(node), .. }) = self.clients.remove(&client) else { return };
        self.nodes.remove(&node.epoch);
        if let Some(holders) = self.names.get_mut(&node.name) {
            holders.remove(&client);
            if holders.is_empty() {
                self.names.remove(&node.name);
            }
        }
    }

    /// What each may do by another policy.
    pub(super) fn judge(&mut self, policy: &Policy) {
        for client in self.clients.values_mut() {
            client.rights = policy.rights_of(&client.credentials);
        }
    }

    pub(super) fn get(&self, client: ClientId) -> Option<&Client> {
        self.clients.get(&client)
    }

    pub(super) fn contains(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.clients.iter().map(|(id, client)| (*id, client))
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// The nodes of this name; more than one if they were admitted by an earlier root.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = ClientId> {
        self.names.get(name).into_iter().flatten().copied()
    }

    /// The node of this epoch.
    pub(super) fn of_epoch(&self, epoch: u64) -> Option<ClientId> {
        self.nodes.get(&epoch).copied()
    }

    /// The nodes with a higher epoch, in order.
    pub(super) fn after(&self, epoch: u64) -> impl Iterator<Item = (&Client, &Admitted)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let later = self.nodes.range((Excluded(epoch), Unbounded));
        later.filter_map(|(_, client)| {
            let client = &self.clients[client];
            Some((client, client.node.as_ref()?))
        })
    }

    pub(super) fn node(&self, client: ClientId) -> &Admitted {
        let found = self.clients.get(&client).and_then(|client| client.node.as_ref());
        found.expect("only admitted clients get as far as this")
    }

    /// What a client has; `None`: it is no node.
    pub(super) fn holdings_if_any(&mut self, client: ClientId) -> Option<&mut Holdings> {
        Some(&mut self.clients.get_mut(&client)?.node.as_mut()?.holdings)
    }

    pub(super) fn holdings(&mut self, client: ClientId) -> &mut Holdings {
        self.holdings_if_any(client).expect("only admitted clients get as far as this")
    }

    /// An end of a client.
    pub(super) fn end(&self, client: ClientId, index: u32) -> EndId {
        EndId { node: self.node(client).epoch, index }
    }

    pub(super) fn user(&self, client: ClientId) -> u32 {
        self[client].credentials.user
    }

    /// Whether the kernel says that they are of different users.
    pub(super) fn are_strangers(&self, one: ClientId, other: ClientId) -> bool {
        self.user(one) != self.user(other)
    }

    /// Nobody is connected, and nothing is left of those who were.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.names.is_empty() && self.nodes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn assert_sound(&self) {
        let admitted = || self.iter().filter_map(|(id, client)| Some((id, client.node.as_ref()?)));
        let nodes: BTreeMap<u64, ClientId> = admitted().map(|(id, node)| (node.epoch, id)).collect();
        assert_eq!(nodes, self.nodes);
        let named: BTreeSet<(&NodeName, ClientId)> = self
            .names
            .iter()
            .inspect(|(_, holders)| assert!(!holders.is_empty()))
            .flat_map(|(name, holders)| holders.iter().map(move |holder| (name, *holder)))
            .collect();
        let nodes = admitted().filter(|(_, node)| !node.observer);
        assert_eq!(named, nodes.map(|(id, node)| (&node.name, id)).collect());
    }
}

impl Index<ClientId> for Clients {
    type Output = Client;

    fn index(&self, client: ClientId) -> &Client {
        &self.clients[&client]
    }
}
