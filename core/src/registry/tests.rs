//! The registry against a world of obedient and of hostile nodes.
mod again;
mod identity;
mod joiners;
mod retained;
mod rights;
mod steps;
mod types;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::pairs::PairState;
use super::*;
use crate::contract::{Asks, Carried, Contract, Kind, Pattern};
use crate::end::EndId;
use crate::filter::Filter;
use crate::identity::Process;
use crate::policy::Credentials;
use crate::protocol::{
    Carrier, Connected, Cursor, Demand, Entry, Joining, MAX_EPOCH, MAX_SCHEMA, Misfit, Offer, PAGE_BYTES,
    Table,
};

const ROOT: RootIdentity = RootIdentity { epoch: 3, pid: 100, dedicated: false };

const OWNER: u32 = 1000;

const SERVICES: [&str; 4] = ["a", "b", "c/d", "c/e"];
const FILTERS: [&str; 6] = ["a", "b", "*", "**", "c/*", "c/?"];

fn owner() -> Credentials {
    Credentials::of_user(OWNER)
}

fn registry() -> Registry {
    Registry::new(ROOT, Limits::default(), Policy::owner_only(OWNER))
}

fn hello(name: &str, node: u64) -> ToRoot {
    ToRoot::Hello {
        name: name.into(),
        node,
        observer: false,
        external: false,
        rejoin: false,
        hosts_root: false,
        seen_epoch: 0,
        bells: Carrier::Descriptor,
    }
}

fn said(registry: &mut Registry, client: ClientId, message: ToRoot) -> Vec<Action> {
    registry.handle(Event::Said { client, message })
}

/// A node whose client number, name and epoch follow from one number.
fn join(registry: &mut Registry, client: ClientId) -> Vec<Action> {
    assert_eq!(
        registry.handle(Event::Connected {
            client,
            pid: client as i32,
            credentials: owner(),
            process: Process::Unknown
        }),
        []
    );
    said(registry, client, hello(&format!("node{client}"), client * 10))
}

fn end(client: ClientId, index: u32) -> EndId {
    EndId { node: client * 10, index }
}

fn kind(fingerprint: u128) -> Kind {
    Kind { fingerprint, schema: vec![fingerprint as u8] }
}

/// What an end is told that does not fit: messages of this kind.
fn carried(service: &str, fingerprint: u128, holder: &str) -> Box<Carried> {
    Box::new(Carried {
        service: service.parse().unwrap(),
        pattern: Pattern::Messages,
        kind: kind(fingerprint),
        holder: holder.parse().unwrap(),
    })
}

fn offer(index: u32, service: &str, fingerprint: u128) -> ToRoot {
    let contract = Contract { capacity: 8, ..Contract::default() };
    let offer = Offer::new(index, service, kind(fingerprint), contract);
    ToRoot::Offer { request: index.into(), offer }
}

fn demand(index: u32, filter: &str, fingerprint: Option<u128>) -> ToRoot {
    let asks = Asks { kind: fingerprint.map(kind), ..Asks::default() };
    ToRoot::Demand { request: index.into(), demand: Demand::new(index, filter, asks) }
}

fn attach(subscriber: u32, publisher: EndId) -> ToRoot {
    ToRoot::Attach { subscriber, publisher, seat: subscriber, reader: Carrier::Descriptor }
}

fn attached(publisher: u32, subscriber: EndId) -> ToRoot {
    ToRoot::Attached { publisher, subscriber, start: 0, ring: Carrier::Descriptor, bells: None }
}

/// As [`attached`], with doorbells made for a subscriber of another user.
fn attached_stranger(publisher: u32, subscriber: EndId) -> ToRoot {
    let (ring, bells) = (Carrier::Descriptor, Some(Carrier::Descriptor));
    ToRoot::Attached { publisher, subscriber, start: 0, ring, bells }
}

/// To whom, and a word for what.
fn summary(actions: &[Action]) -> Vec<(ClientId, &'static str)> {
    actions
        .iter()
        .map(|action| match action {
            Action::Send { to, message, .. } => (*to, kind_of(message)),
            Action::KeepBells { client } => (*client, "keep bells"),
            Action::KeepRing { client, .. } => (*client, "keep ring"),
            Action::DropRing { .. } => (0, "drop ring"),
            Action::RaiseEpoch { .. } => (0, "raise epoch"),
            Action::CutOff { client } => (*client, "cut off"),
            Action::HandOver { to } => (*to, "hand over"),
        })
        .collect()
}

fn kind_of(message: &ToNode) -> &'static str {
    match message {
        ToNode::Welcome { .. } => "welcome",
        ToNode::Accepted { .. } => "accepted",
        ToNode::Refused { .. } => "refused",
        ToNode::Match { .. } => "match",
        ToNode::Skipped { .. } => "skipped",
        ToNode::Attach { .. } => "attach",
        ToNode::Attached { .. } => "attached",
        ToNode::AttachRefused { .. } => "attach refused",
        ToNode::Page { .. } => "page",
        ToNode::Misfits { .. } => "misfits",
        ToNode::Inspect { .. } => "inspect",
        ToNode::Inspected { .. } => "inspected",
        ToNode::Leaving { .. } => "leaving",
        ToNode::HandedOver => "handed over",
        ToNode::Alive => "alive",
        ToNode::Changed => "changed",
        ToNode::Keep { .. } => "keep",
        ToNode::Gone { .. } => "gone",
        ToNode::Release { .. } => "release",
        ToNode::Joined { .. } => "joined",
    }
}

fn refusal(actions: &[Action]) -> &Refusal {
    let found = actions.iter().find_map(|action| match action {
        Action::Send { message: ToNode::Refused { refusal, .. }, .. } => Some(refusal),
        _ => None,
    });
    found.expect("a refusal")
}

/// What always holds of the tables.
fn assert_sound(registry: &Registry) {
    registry.clients.assert_sound();
    registry.ends.assert_sound();
    registry.pairs.assert_sound();
    registry.joiners.assert_sound(registry);
    registry.retained.assert_sound(registry);
}
