//! A node that writes down what it hears, with memfds whose content says whose they are.
#![allow(dead_code)] // Each test binary uses a part of it.
#![allow(unreachable_pub)]

pub mod raw;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hivemind_core::contract::{Asks, Carried, Contract, Kind, Match};
use hivemind_core::name::{HiveName, NodeName};
use hivemind_core::protocol::{Connected, Demand, EndId, Offer};
use hivemind_runtime::identity::new_node_epoch;
use hivemind_runtime::runtime_dir::RuntimeDir;
use hivemind_runtime::session::{
    AnnounceError, Announcement, AttachReply, AttachRequest, AttachedTo, Gathering, Handle, JoinError,
    NodeSide, RootRole, Seating, Session, SessionConfig,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The bound of every wait: far beyond anything that is waited for, so reaching it means that it never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a node heard, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Matched { subscriber: u32, publisher: EndId, service: String, node_name: String },
    Attach { publisher: u32, subscriber: EndId, node_name: String, seat: u32, reader: String, bells: String },
    Attached { subscriber: u32, publisher: EndId, start: u64, ring: String, bells: String },
    AttachRefused { subscriber: u32, publisher: EndId, reason: String },
    Skipped { subscriber: u32, service: String, holder: String },
    PeerGone { node: u64 },
    Refused { index: u32, error: String },
}

#[derive(Default)]
pub struct State {
    pub heard: Vec<Heard>,
    announcements: BTreeMap<u32, Announcement>,
    connected: BTreeMap<u32, Vec<Connected>>,
    pub roll_calls: usize,
}

pub struct Recorder {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
    /// What `attach` answers instead of a ring.
    pub refuses: Mutex<Option<String>>,
    pub acquaintances: Mutex<Option<HashSet<u64>>>,
    /// Whether the next match is a mistake in the node's own code.
    pub panics: AtomicBool,
}

impl Recorder {
    fn hear(&self, heard: Heard) {
        self.state.lock().unwrap().heard.push(heard);
        self.changed.notify_all();
    }

    /// Waits until what was heard satisfies `is_enough`.
    pub fn wait_until(&self, what: &str, is_enough: impl Fn(&State) -> bool) {
        let begun = Instant::now();
        let mut state = self.state.lock().unwrap();
        while !is_enough(&state) {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let last = &state.heard[state.heard.len().saturating_sub(5)..];
            assert!(
                !left.is_zero(),
                "{} never heard {what}; heard {}: {last:?}",
                self.name,
                state.heard.len()
            );
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Puts an end into the roll call.
    pub fn list(&self, announcement: Announcement) {
        let index = match &announcement {
            Announcement::Offer(offer) => offer.index,
            Announcement::Demand(demand) => demand.index,
        };
        self.state.lock().unwrap().announcements.insert(index, announcement);
    }

    /// This subscriber is not attached to this publisher any more.
    pub fn let_go(&self, subscriber: u32, publisher: EndId) {
        let mut state = self.state.lock().unwrap();
        state.connected.entry(subscriber).or_default().retain(|connected| connected.publisher != publisher);
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.state.lock().unwrap().heard.clone()
    }

    pub fn count(&self, wanted: impl Fn(&Heard) -> bool) -> usize {
        self.state.lock().unwrap().heard.iter().filter(|heard| wanted(heard)).count()
    }
}

/// A memfd with this content.
pub fn handle(content: &str) -> Handle {
    let descriptor = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = File::from(descriptor);
    file.write_all(content.as_bytes()).unwrap();
    Handle::Descriptor(file.into())
}

/// The content of a memfd, or the name.
pub fn content(handle: Handle) -> String {
    let descriptor = match handle {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(name) => return name,
    };
    let mut file = File::from(descriptor);
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

impl NodeSide for Recorder {
    fn roll_call(&self) -> Vec<Announcement> {
        let mut state = self.state.lock().unwrap();
        state.roll_calls += 1;
        self.changed.notify_all();
        let complete = |announcement: &Announcement| match announcement.clone() {
            Announcement::Demand(mut demand) => {
                demand.connected = state.connected.get(&demand.index).cloned().unwrap_or_default();
                Announcement::Demand(demand)
            }
            offer => offer,
        };
        state.announcements.values().map(complete).collect()
    }

    fn matched(&self, subscriber: u32, matched: Box<Match>) -> Option<Seating> {
        let Match { service, route, .. } = *matched;
        let (publisher, node_name) = (route.end, route.publisher_node());
        assert!(!self.panics.load(Ordering::SeqCst), "a mistake of the node");
        self.hear(Heard::Matched {
            subscriber,
            publisher,
            service: service.to_string(),
            node_name: node_name.to_string(),
        });
        Some(Seating { seat: 40 + subscriber, reader: handle(&format!("reader {} {subscriber}", self.name)) })
    }

    fn attach(&self, request: AttachRequest) -> Result<AttachReply, String> {
        let AttachRequest { publisher, subscriber, node_name, seat, user, reader, bells, .. } = request;
        assert_eq!(user, hivemind_ring::os::own_user(), "as the kernel says");
        self.hear(Heard::Attach {
            publisher,
            subscriber,
            node_name: node_name.to_string(),
            seat,
            reader: content(reader),
            bells: content(bells.expect("those of a peer of this user")),
        });
        match &*self.refuses.lock().unwrap() {
            Some(reason) => Err(reason.clone()),
            None => {
                let ring = handle(&format!("ring {} {publisher}", self.name));
                Ok(AttachReply { start: 7, ring, bells: None })
            }
        }
    }

    fn attached(&self, attached: AttachedTo) {
        let AttachedTo { subscriber, publisher, user, is_stranger, start, ring, bells, .. } = attached;
        assert!(!is_stranger);
        assert_eq!(user, hivemind_ring::os::own_user(), "as the kernel says");
        let connected = Connected { publisher, seat: 40 + subscriber };
        self.state.lock().unwrap().connected.entry(subscriber).or_default().push(connected);
        let (ring, bells) = (content(ring), content(bells));
        self.hear(Heard::Attached { subscriber, publisher, start, ring, bells });
    }

    fn has_to_do_with(&self, subscriber: u32, publisher: EndId) -> bool {
        let state = self.state.lock().unwrap();
        state.connected.get(&subscriber).is_some_and(|all| all.iter().any(|one| one.publisher == publisher))
    }

    fn attach_refused(&self, subscriber: u32, publisher: EndId, reason: &str) {
        self.hear(Heard::AttachRefused { subscriber, publisher, reason: reason.into() });
    }

    fn skipped(&self, subscriber: u32, carried: Carried) {
        let Carried { service, holder, .. } = carried;
        self.hear(Heard::Skipped { subscriber, service: service.to_string(), holder: holder.to_string() });
    }

    fn inspect(&self, index: u32) -> Option<Handle> {
        let is_there = self.state.lock().unwrap().announcements.contains_key(&index);
        is_there.then(|| handle(&format!("segment {} {index}", self.name)))
    }

    fn peer_gone(&self, node: u64) {
        self.hear(Heard::PeerGone { node });
    }

    fn acquaintances(&self) -> Option<HashSet<u64>> {
        self.acquaintances.lock().unwrap().clone()
    }

    fn refused(&self, index: u32, error: &AnnounceError) {
        self.hear(Heard::Refused { index, error: error.to_string() });
    }
}

/// A node of a test.
pub struct Node {
    pub session: Session,
    pub side: Arc<Recorder>,
}

impl Node {
    pub fn join(dir: &RuntimeDir, name: &str) -> Node {
        Node::try_join(dir, name, |_| {}).unwrap()
    }

    pub fn try_join(
        dir: &RuntimeDir,
        name: &str,
        change: impl FnOnce(&mut SessionConfig),
    ) -> Result<Node, JoinError> {
        let side = Arc::new(Recorder {
            name: name.into(),
            state: Mutex::default(),
            changed: Condvar::new(),
            refuses: Mutex::default(),
            acquaintances: Mutex::default(),
            panics: AtomicBool::new(false),
        });
        let mut config = SessionConfig {
            dir: dir.clone(),
            name: NodeName::parse(name).unwrap(),
            node: new_node_epoch(),
            patience: PATIENCE,
            root: RootRole::Embedded,
            root_timeout: hivemind_runtime::root::DEFAULT_ROOT_TIMEOUT,
            observer: false,
            bells: handle(&format!("bells {name}")),
        };
        change(&mut config);
        Session::join(config, side.clone()).map(|session| Node { session, side })
    }

    pub fn end(&self, index: u32) -> EndId {
        EndId { node: self.session.node(), index }
    }

    pub fn offer(&self, index: u32, service: &str, fingerprint: u128) -> Result<(), AnnounceError> {
        self.offer_with(index, service, fingerprint, vec![1, 2, 3])
    }

    pub fn offer_with(
        &self,
        index: u32,
        service: &str,
        fingerprint: u128,
        schema: Vec<u8>,
    ) -> Result<(), AnnounceError> {
        let offer = offer_of(index, service, fingerprint, schema);
        self.announce(index, offer, None)
    }

    pub fn offer_within(
        &self,
        gathering: &Gathering,
        index: u32,
        service: &str,
        fingerprint: u128,
    ) -> Result<(), AnnounceError> {
        let offer = offer_of(index, service, fingerprint, vec![1, 2, 3]);
        self.announce(index, offer, Some(gathering))
    }

    fn announce(&self, index: u32, offer: Offer, gathering: Option<&Gathering>) -> Result<(), AnnounceError> {
        let announcement = Announcement::Offer(offer.clone());
        self.side.state.lock().unwrap().announcements.insert(index, announcement);
        let answer = self.session.offer_while(offer, gathering, || Ok(()));
        if answer.is_err() {
            self.side.state.lock().unwrap().announcements.remove(&index);
        }
        answer
    }

    pub fn demand(&self, index: u32, filter: &str, fingerprint: Option<u128>) -> Result<(), AnnounceError> {
        self.demand_with(index, filter, fingerprint.map(|fingerprint| (fingerprint, vec![1, 2, 3])))
    }

    pub fn demand_with(
        &self,
        index: u32,
        filter: &str,
        expected: Option<(u128, Vec<u8>)>,
    ) -> Result<(), AnnounceError> {
        let kind = expected.map(|(fingerprint, schema)| Kind { fingerprint, schema });
        let demand = Demand::new(index, filter, Asks { kind, ..Asks::default() });
        let announcement = Announcement::Demand(demand.clone());
        self.side.state.lock().unwrap().announcements.insert(index, announcement);
        let answer = self.session.demand(demand);
        if answer.is_err() {
            self.side.state.lock().unwrap().announcements.remove(&index);
        }
        answer
    }

    pub fn withdraw(&self, index: u32) {
        let mut state = self.side.state.lock().unwrap();
        state.announcements.remove(&index);
        state.connected.remove(&index);
        drop(state);
        self.session.withdraw(index);
    }

    /// Waits until this subscriber is attached to this publisher.
    pub fn wait_attached(&self, subscriber: u32, publisher: EndId) {
        self.side.wait_until("attached", |state| {
            state.heard.iter().any(|heard| {
                matches!(heard, Heard::Attached { subscriber: s, publisher: p, .. }
                    if (*s, *p) == (subscriber, publisher))
            })
        });
    }

    pub fn matches(&self, subscriber: u32) -> usize {
        self.side.count(|heard| matches!(heard, Heard::Matched { subscriber: s, .. } if *s == subscriber))
    }
}

/// A hive in a folder of its own.
pub fn hive() -> (tempfile::TempDir, RuntimeDir) {
    let base = tempfile::tempdir().unwrap();
    let dir = named_hive(base.path(), "default");
    (base, dir)
}

pub fn named_hive(base: &Path, name: &str) -> RuntimeDir {
    RuntimeDir::at(base, &HiveName::parse(name).unwrap()).unwrap()
}

/// The names in a folder, sorted.
pub fn files(dir: &RuntimeDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits, with a bound, for something that nobody announces.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

fn offer_of(index: u32, service: &str, fingerprint: u128, schema: Vec<u8>) -> Offer {
    let contract = Contract { capacity: 64, ..Contract::default() };
    let offer = Offer::new(index, service, Kind { fingerprint, schema }, contract);
    Offer { begins: true, ..offer }
}
