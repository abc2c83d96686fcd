//! Hosts that are linked with each other, in one thread, with a network that does its worst.
//!
//! Two, three or four hosts run the machine of links over pipes in memory. A seeded schedule publishes,
//! reads, moves some bytes, breaks connections at any byte, flips bits, dials anew while the other end still
//! holds the old connection, stops reading, begins and ends publishers and subscriptions, and lets time pass.
//! A ledger checks each message that comes out: whole, in order, once, and with every gap counted; a reliable
//! one without gaps. At the end everything is connected and read, and has to be there.
//!
//! `HIVEMIND_SEED=N` replays one schedule, `HIVEMIND_SCHEDULES=N` runs N of them instead of 1,500.
#![cfg(feature = "links")]

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hivemind_core::contract::{self, Contract, Delivery};
use hivemind_core::filter::Filter;
use hivemind_core::link::candidate::{Candidate, Via};
use hivemind_core::link::frame::{FrameKind, HEADER, Header};
use hivemind_core::link::greeting::{Hello, Role, may_forward};
use hivemind_core::link::peering::{
    Action, Arrived, Interest, Out, Peering, Place, Settings, Violation, Wanted,
};
use hivemind_core::protocol::EndId;

const QUICK: u64 = 1500;
/// The host that is a leaf, where there are four.
const LEAF: usize = 3;
const STEPS: usize = 600;
const PIPE: usize = 6000;
const HELD_MAX: usize = 8;
/// More than this must never wait in one end for its connection.
const OUT_MAX: usize = 100_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

type Message = Rc<Vec<u8>>;

/// A message says whose it is, which one, and how long; the rest follows from that.
fn message(publisher: EndId, sequence: u64, length: usize) -> Message {
    let mut bytes = Vec::with_capacity(24 + length);
    bytes.extend_from_slice(&publisher.node.to_le_bytes());
    bytes.extend_from_slice(&u64::from(publisher.index).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend((0..length).map(|at| (sequence as usize + at * 7) as u8));
    Rc::new(bytes)
}

/// A publisher of a host: its own, or one that stands for a remote one.
struct Publication {
    candidate: Candidate,
    capacity: u64,
    published: u64,
    ring: VecDeque<(u64, Message)>,
    alive: bool,
    /// What the subscriber of the host has read, if it is one that reads everything.
    read: u64,
    has_subscriber: bool,
    /// Positions of links.
    cursors: BTreeMap<(usize, u32), u64>,
}

impl Publication {
    fn new(candidate: Candidate, has_subscriber: bool) -> Publication {
        let capacity = u64::from(candidate.contract.capacity);
        Publication {
            candidate,
            capacity,
            published: 0,
            ring: VecDeque::new(),
            alive: true,
            read: 0,
            has_subscriber,
            cursors: BTreeMap::new(),
        }
    }

    fn room(&self) -> u64 {
        if !self.candidate.contract.is_reliable() {
            return self.capacity;
        }
        let slowest = self.cursors.values().copied().chain(self.has_subscriber.then_some(self.read)).min();
        self.capacity.saturating_sub(self.published - slowest.unwrap_or(self.published))
    }

    fn publish(&mut self, message: Message) {
        self.ring.push_back((self.published, message));
        self.skip(1);
    }

    fn skip(&mut self, count: u64) {
        self.published += count;
        let start = self.published.saturating_sub(self.capacity);
        while self.ring.front().is_some_and(|(sequence, _)| *sequence < start) {
            self.ring.pop_front();
        }
    }
}

/// What came out at one host of one publisher.
#[derive(Default)]
struct Ledger {
    last: Option<u64>,
}

struct Host {
    hello: Hello,
    publications: Vec<Publication>,
    ledgers: BTreeMap<EndId, Ledger>,
    wanted: Vec<Wanted>,
    reads: bool,
}

struct Export {
    publication: usize,
    held: VecDeque<(u64, Message)>,
}

struct Import {
    publication: usize,
    building: Vec<u8>,
    /// Lost before the message that is built.
    lost: u64,
    /// What arrived and has no room yet: lost before it, and the message, unless there was no memory for it.
    waiting: VecDeque<(u64, Option<Vec<u8>>)>,
    /// The number of the message minus the number here; constant, or something was not counted.
    shift: Option<u64>,
}

/// One end of one link.
struct End {
    host: usize,
    peer: usize,
    peering: Peering,
    interest: Arc<Interest>,
    exports: BTreeMap<u32, Export>,
    next_export: u32,
    imports: BTreeMap<u32, Import>,
    connection: Option<usize>,
    out: VecDeque<u8>,
    input: Vec<u8>,
}

/// Two pipes; `to[0]` leads to the end with the lower number.
#[derive(Default)]
struct Connection {
    to: [VecDeque<u8>; 2],
    broken: bool,
    damaged: bool,
}

struct World {
    random: Random,
    now: Duration,
    hosts: Vec<Host>,
    /// Ends 2n and 2n + 1 are those of one link.
    ends: Vec<End>,
    connections: Vec<Connection>,
    lossless: bool,
    /// How many messages came out.
    received: u64,
}

const SERVICES: [&str; 3] = ["a", "b/c", "b/d"];

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let lossless = !random.one_in(4);
        let shape = random.below(3);
        let pairs: &[(usize, usize)] = match shape {
            0 => &[(0, 1)],
            1 => &[(0, 1), (1, 2), (2, 0)],
            _ => &[(0, 1), (1, 2), (2, 0), (0, 3)],
        };
        let count = [2, 3, 4][shape];
        let hosts: Vec<Host> = (0..count)
            .map(|host| Host {
                hello: Hello {
                    role: if host == LEAF { Role::Leaf } else { Role::Peer },
                    host: format!("host-{host}"),
                    epoch: host as u64 + 1,
                    capabilities: 0,
                },
                publications: Vec::new(),
                ledgers: BTreeMap::new(),
                wanted: Vec::new(),
                reads: true,
            })
            .collect();
        let settings = Settings {
            keep_alive: Duration::from_secs(2),
            dead: Duration::from_secs(6),
            // Without losses streams are kept for longer than any schedule takes.
            hold: Duration::from_secs(if lossless { 1_000_000 } else { 3 }),
            window: 4096,
            piece: 1000,
            ..Settings::default()
        };
        let end = |host, peer| End {
            host,
            peer,
            peering: Peering::new(settings.clone()),
            interest: Arc::default(),
            exports: BTreeMap::new(),
            next_export: 0,
            imports: BTreeMap::new(),
            connection: None,
            out: VecDeque::new(),
            input: Vec::new(),
        };
        let ends = pairs.iter().flat_map(|(a, b)| [end(*a, *b), end(*b, *a)]).collect();
        World { random, now: Duration::ZERO, hosts, ends, connections: Vec::new(), lossless, received: 0 }
    }

    fn run(mut self) -> u64 {
        for host in 0..self.hosts.len() {
            self.change_wanted(host);
            self.begin_publisher(host);
        }
        for _ in 0..STEPS {
            self.step();
        }
        self.settle();
        self.received
    }

    fn step(&mut self) {
        let end = self.random.below(self.ends.len());
        let host = self.random.below(self.hosts.len());
        match self.random.below(100) {
            0..25 => self.publish(host),
            25..50 => self.send(end),
            50..80 => self.receive(end),
            80..86 => self.read(host),
            86..90 => self.dial(end / 2),
            90 => self.disturb(end),
            91 => self.hosts[host].reads = !self.hosts[host].reads,
            92 => self.change_wanted(host),
            93 => self.begin_publisher(host),
            94 => self.end_publisher(host),
            95 => self.pass_time(),
            _ => self.notice(end),
        }
        self.scan();
    }

    fn begin_publisher(&mut self, host: usize) {
        let index = self.hosts[host].publications.len() as u32;
        if index > 20 {
            return;
        }
        let reliable = self.random.one_in(2);
        let candidate = Candidate {
            publisher: EndId { node: host as u64 + 100, index },
            node: "node".parse().unwrap(),
            service: SERVICES[self.random.below(SERVICES.len())].parse().unwrap(),
            kind: contract::Kind { fingerprint: 7, schema: vec![1; self.random.below(50)] },
            contract: Contract {
                delivery: Delivery::reliable_if(reliable),
                history: self.random.below(3) as u32,
                capacity: 1 << self.random.below(6),
                ..Contract::default()
            },
            via: None,
        };
        self.hosts[host].publications.push(Publication::new(candidate, false));
    }

    fn end_publisher(&mut self, host: usize) {
        let own: Vec<usize> = (0..self.hosts[host].publications.len())
            .filter(|at| self.hosts[host].publications[*at].candidate.via.is_none())
            .collect();
        if let Some(at) = own.get(self.random.below(own.len() * 2)) {
            self.hosts[host].publications[*at].alive = false;
        }
    }

    fn publish(&mut self, host: usize) {
        let count = self.hosts[host].publications.len();
        let at = self.random.below(count);
        let length = if self.random.one_in(10) { self.random.below(9000) } else { self.random.below(60) };
        for _ in 0..=self.random.below(8) {
            let Some(publication) = self.hosts[host].publications.get_mut(at) else { return };
            if publication.candidate.via.is_none() && publication.alive && publication.room() > 0 {
                let message = message(publication.candidate.publisher, publication.published, length);
                publication.publish(message);
            }
        }
    }

    fn read(&mut self, host: usize) {
        if !self.hosts[host].reads {
            return;
        }
        for publication in &mut self.hosts[host].publications {
            let more = publication.published - publication.read;
            publication.read += self.random.below(more as usize + 1) as u64;
        }
        for end in 0..self.ends.len() {
            if self.ends[end].host == host {
                for import in self.ends[end].imports.keys().copied().collect::<Vec<_>>() {
                    self.commit_waiting(end, import);
                }
                self.act(end);
            }
        }
    }

    fn change_wanted(&mut self, host: usize) {
        const FILTERS: [&str; 4] = ["**", "b/*", "a", "nothing"];
        let wanted = (0..self.random.below(3))
            .map(|_| Wanted {
                filter: Filter::parse(FILTERS[self.random.below(4)]).unwrap(),
                fingerprint: self.random.one_in(2).then_some(7),
            })
            .collect();
        self.want(host, wanted);
    }

    /// What a host wants of its peers; the host of a leaf wants for it, too.
    fn want(&mut self, host: usize, wanted: Vec<Wanted>) {
        self.hosts[host].wanted = wanted;
        for end in 0..self.ends.len() {
            let End { host, peer, .. } = self.ends[end];
            let mut all = self.hosts[host].wanted.clone();
            if let Some(leaf) = self.hosts.get(3)
                && host == 0
                && peer != 3
            {
                all.extend(leaf.wanted.iter().cloned());
            }
            assert_eq!(self.ends[end].peering.want(all), 0);
        }
    }

    fn dial(&mut self, link: usize) {
        let connection = self.connections.len();
        self.connections.push(Connection::default());
        for end in [2 * link, 2 * link + 1] {
            // One end may come later, or not at all: then the connection breaks again.
            if self.random.one_in(8) {
                self.connections[connection].broken = true;
            } else {
                self.attach(end, connection);
            }
        }
    }

    fn attach(&mut self, end: usize, connection: usize) {
        self.hang_up(end);
        let peer = self.hosts[self.ends[end].peer].hello.clone();
        self.ends[end].connection = Some(connection);
        self.ends[end].peering.connected(peer, self.now);
        self.act(end);
    }

    fn hang_up(&mut self, end: usize) {
        let this = &mut self.ends[end];
        if let Some(connection) = this.connection.take() {
            self.connections[connection].broken = true;
            this.out.clear();
            this.input.clear();
            this.peering.disconnected(self.now);
            for import in this.imports.values_mut() {
                import.building.clear();
                import.waiting.clear();
            }
            self.act(end);
        }
    }

    /// An end finds that its connection is broken.
    fn notice(&mut self, end: usize) {
        if self.ends[end].connection.is_some_and(|connection| self.connections[connection].broken) {
            self.hang_up(end);
        }
    }

    fn disturb(&mut self, end: usize) {
        let Some(connection) = self.ends[end].connection else { return };
        let flip = self.random.one_in(3);
        let connection = &mut self.connections[connection];
        let pipe = &mut connection.to[end % 2];
        if flip {
            let at = self.random.below(pipe.len());
            if let Some(byte) = pipe.get_mut(at) {
                *byte ^= 1 << self.random.below(8);
                connection.damaged = true;
            }
        } else {
            let left = self.random.below(pipe.len() + 1);
            pipe.truncate(left);
            connection.broken = true;
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_millis(self.random.below(2500) as u64);
        for end in 0..self.ends.len() {
            if self.ends[end].peering.deadline().is_some_and(|at| at <= self.now)
                && self.ends[end].peering.tick(self.now).is_err()
            {
                self.hang_up(end);
            }
            self.act(end);
        }
    }

    /// Attaches to what the other host wants, and lets go of what it does not.
    fn scan(&mut self) {
        for at in 0..self.ends.len() {
            let end = &mut self.ends[at];
            let peer = self.hosts[end.peer].hello.clone();
            let host = &mut self.hosts[end.host];
            let mut over = Vec::new();
            for (id, export) in &end.exports {
                let publication = &host.publications[export.publication];
                let wanted = end.interest.wants(&publication.candidate);
                let Some(cursor) = publication.cursors.get(&(at, *id)).copied() else { continue };
                let more = publication.ring.iter().any(|(sequence, _)| *sequence >= cursor);
                if !wanted || (!publication.alive && !more) {
                    // A gap at the end is known, once the publisher is gone.
                    let next = if wanted { publication.published } else { cursor };
                    over.push((*id, next));
                }
            }
            for (id, next) in over {
                let publication = end.exports[&id].publication;
                host.publications[publication].cursors.remove(&(at, id));
                end.peering.ended(id, next);
                // Its messages stay until they are released.
            }
            for (number, publication) in host.publications.iter_mut().enumerate() {
                let attached = publication.cursors.keys().any(|(end, _)| *end == at);
                if publication.alive
                    && !attached
                    && end.interest.wants(&publication.candidate)
                    && may_forward(&publication.candidate, &peer)
                {
                    let start = publication.ring.front().map_or(publication.published, |(first, _)| *first);
                    let history = u64::from(publication.candidate.contract.history);
                    let first = publication.published.saturating_sub(history).max(start);
                    let id = end.next_export;
                    end.next_export += 1;
                    publication.cursors.insert((at, id), first);
                    end.exports.insert(id, Export { publication: number, held: VecDeque::new() });
                    assert!(end.peering.begun(id, publication.candidate.clone(), first));
                }
            }
            end.exports.retain(|id, export| {
                !export.held.is_empty()
                    || host.publications[export.publication].cursors.contains_key(&(at, *id))
            });
            self.act(at);
        }
    }

    fn send(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let publications = &self.hosts[end.host].publications;
        let has_more = |(id, export): &(&u32, &Export)| {
            let publication = &publications[export.publication];
            publication.cursors.get(&(at, **id)).is_some_and(|cursor| *cursor < publication.published)
        };
        let ready: Vec<u32> = end.exports.iter().filter(has_more).map(|(id, _)| *id).collect();
        end.peering.look_at(&ready);
        for _ in 0..self.random.below(60) {
            if self.ends[at].out.len() > PIPE {
                break;
            }
            let mut frame = Vec::new();
            match self.ends[at].peering.next_out(&mut frame) {
                Out::Nothing => break,
                Out::Frame => self.ends[at].out.extend(frame),
                Out::Piece { export, header } => {
                    let end = &mut self.ends[at];
                    let held = &end.exports[&export].held;
                    let (_, message) =
                        held.iter().find(|(sequence, _)| *sequence == header.sequence).expect("held");
                    assert_eq!(message.len(), header.total as usize);
                    let payload = &message[header.offset as usize..][..header.length as usize];
                    end.out.extend(header.encode(payload));
                    end.out.extend(payload);
                }
                Out::Poll { export } => self.poll(at, export),
            }
            self.act(at);
        }
        let end = &mut self.ends[at];
        assert!(end.out.len() < OUT_MAX);
        if let Some(connection) = end.connection {
            let connection = &mut self.connections[connection];
            let pipe = &mut connection.to[1 - at % 2];
            let count = end.out.len().min(PIPE.saturating_sub(pipe.len()));
            if !connection.broken {
                pipe.extend(end.out.drain(..count));
            }
        }
    }

    fn poll(&mut self, at: usize, id: u32) {
        let end = &mut self.ends[at];
        let export = end.exports.get_mut(&id).expect("an export that is polled");
        let publication = &mut self.hosts[end.host].publications[export.publication];
        let cursor = publication.cursors.get_mut(&(at, id)).expect("an attachment");
        if export.held.len() >= HELD_MAX {
            end.peering.held_out(id);
        } else if let Some((sequence, message)) =
            publication.ring.iter().find(|(sequence, _)| *sequence >= *cursor)
        {
            *cursor = sequence + 1;
            export.held.push_back((*sequence, Rc::clone(message)));
            end.peering.polled(id, *sequence, message.len());
        } else {
            end.peering.nothing(id);
        }
    }

    fn receive(&mut self, at: usize) {
        let Some(connection) = self.ends[at].connection else { return };
        let pipe = &mut self.connections[connection].to[at % 2];
        let count = self.random.below(pipe.len() + 1);
        let bytes: Vec<u8> = pipe.drain(..count).collect();
        self.ends[at].input.extend(bytes);
        while self.ends[at].connection == Some(connection) {
            match self.take_frame(at) {
                Ok(true) => {}
                Ok(false) => break,
                Err(why) => {
                    assert!(self.connections[connection].damaged, "an honest peer broke the rules: {why}");
                    self.hang_up(at);
                }
            }
        }
        if self.random.one_in(2) {
            self.ends[at].peering.say_all();
        }
    }

    fn take_frame(&mut self, at: usize) -> Result<bool, String> {
        let Some(head) = self.ends[at].input.first_chunk::<HEADER>() else { return Ok(false) };
        let (header, mut checksum) = Header::decode(head).map_err(|error| error.to_string())?;
        let length = HEADER + header.length as usize;
        if self.ends[at].input.len() < length {
            return Ok(false);
        }
        let frame: Vec<u8> = self.ends[at].input.drain(..length).collect();
        let payload = &frame[HEADER..];
        let words = |violation: Violation| violation.to_string();
        if header.kind != FrameKind::Piece {
            checksum.add(payload);
            checksum.check().map_err(|error| error.to_string())?;
            self.ends[at].peering.frame(&header, payload, self.now).map_err(words)?;
            self.act(at);
            return Ok(true);
        }
        let place = self.ends[at].peering.piece(&header).map_err(words)?;
        if let Place::Message { import, begin } = place {
            let end = &mut self.ends[at];
            let stands = end.imports.get_mut(&import).expect("an import that is open");
            if let Some(begin) = begin {
                let reliable =
                    self.hosts[end.host].publications[stands.publication].candidate.contract.is_reliable();
                stands.lost = begin.lost;
                stands.building.clear();
                if !reliable && self.random.one_in(50) {
                    end.peering.not_taken(import);
                }
            }
            stands.building.extend_from_slice(payload);
        }
        checksum.add(payload);
        checksum.check().map_err(|error| error.to_string())?;
        match self.ends[at].peering.arrived() {
            Arrived::Part => {}
            Arrived::Whole { import } => {
                let stands = self.ends[at].imports.get_mut(&import).expect("an import that is open");
                let whole = std::mem::take(&mut stands.building);
                stands.waiting.push_back((stands.lost, Some(whole)));
                self.commit_waiting(at, import);
            }
            Arrived::Missed { import } => {
                let stands = self.ends[at].imports.get_mut(&import).expect("an import that is open");
                stands.waiting.push_back((stands.lost, None));
                self.commit_waiting(at, import);
            }
        }
        self.act(at);
        Ok(true)
    }

    fn commit_waiting(&mut self, at: usize, import: u32) {
        loop {
            let end = &mut self.ends[at];
            let Some(stands) = end.imports.get_mut(&import) else { return };
            let host = &mut self.hosts[end.host];
            let publication = &mut host.publications[stands.publication];
            if publication.room() == 0 {
                return end.peering.room(import, 0);
            }
            let Some((lost, waiting)) = stands.waiting.pop_front() else {
                return end.peering.room(import, publication.room());
            };
            let reliable = publication.candidate.contract.is_reliable();
            assert!(lost == 0 || !(self.lossless && reliable), "a reliable service lost messages");
            publication.skip(lost);
            end.peering.skipped(import, lost);
            let Some(bytes) = waiting.map(Rc::new) else {
                publication.skip(1);
                end.peering.missed(import, publication.room());
                continue;
            };
            let whose = publication.candidate.publisher;
            let sequence = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
            assert_eq!(bytes, message(whose, sequence, bytes.len() - 24), "a message is not what was sent");
            let shift = sequence.wrapping_sub(publication.published);
            assert_eq!(*stands.shift.get_or_insert(shift), shift, "a gap was not counted");
            let ledger = host.ledgers.entry(whose).or_default();
            assert!(ledger.last.is_none_or(|last| last < sequence), "a message came twice or out of order");
            ledger.last = Some(sequence);
            publication.publish(bytes);
            self.received += 1;
            end.peering.committed(import, publication.room());
            self.act(at);
        }
    }

    fn act(&mut self, at: usize) {
        while let Some(action) = self.ends[at].peering.next_action() {
            match action {
                Action::Want(interest) => self.ends[at].interest = interest,
                Action::Release { export, below } => {
                    if let Some(export) = self.ends[at].exports.get_mut(&export) {
                        while export.held.front().is_some_and(|(sequence, _)| *sequence < below) {
                            export.held.pop_front();
                        }
                    }
                }
                Action::Open { import, candidate, .. } => self.open(at, import, *candidate),
                Action::Reopen { import } => {
                    let end = &mut self.ends[at];
                    let publication = end.imports[&import].publication;
                    let room = self.hosts[end.host].publications[publication].room();
                    end.peering.opened(import, room);
                }
                Action::Close { import, lost } => {
                    let end = &mut self.ends[at];
                    let stands = end.imports.remove(&import).expect("an import that was open");
                    let publication = &mut self.hosts[end.host].publications[stands.publication];
                    assert!(lost == 0 || !(self.lossless && publication.candidate.contract.is_reliable()));
                    publication.skip(lost);
                    publication.alive = false;
                    publication.has_subscriber = false;
                }
            }
        }
    }

    fn open(&mut self, at: usize, import: u32, candidate: Candidate) {
        if !self.lossless && self.random.one_in(20) {
            let end = &mut self.ends[at];
            return end.peering.not_opened(import, "another type".to_owned());
        }
        let Some(Via { host: from, .. }) = &candidate.via else { panic!("it came over a link") };
        // A leaf is told who is behind its host; what a leaf publishes is its host's.
        let origin = (candidate.publisher.node - 100) as usize;
        let expected = if origin == LEAF { self.ends[at].peer } else { origin };
        assert_eq!(*from, self.hosts[expected].hello.host);
        let host = &mut self.hosts[self.ends[at].host];
        let twice = host
            .publications
            .iter()
            .any(|there| there.alive && there.candidate.publisher == candidate.publisher);
        assert!(!twice, "a publisher came over two links, or back to its host");
        host.publications.push(Publication::new(candidate, true));
        let publication = host.publications.len() - 1;
        let room = host.publications[publication].room();
        self.ends[at].imports.insert(
            import,
            Import { publication, building: Vec::new(), lost: 0, waiting: VecDeque::new(), shift: None },
        );
        self.ends[at].peering.opened(import, room);
    }

    /// The network is sound again, everybody wants and reads everything: it has to arrive.
    fn settle(&mut self) {
        for host in 0..self.hosts.len() {
            self.hosts[host].reads = true;
            self.want(host, vec![Wanted { filter: Filter::parse("**").unwrap(), fingerprint: None }]);
        }
        for link in 0..self.ends.len() / 2 {
            let connection = self.connections.len();
            self.connections.push(Connection::default());
            self.attach(2 * link, connection);
            self.attach(2 * link + 1, connection);
        }
        for _ in 0..3000 {
            self.scan();
            for end in 0..self.ends.len() {
                self.send(end);
                self.receive(end);
                self.ends[end].peering.say_all();
            }
            for host in &mut self.hosts {
                for publication in &mut host.publications {
                    publication.read = publication.published;
                }
            }
            for end in 0..self.ends.len() {
                for import in self.ends[end].imports.keys().copied().collect::<Vec<_>>() {
                    self.commit_waiting(end, import);
                }
            }
            if self.is_settled() {
                return;
            }
        }
        for end in &self.ends {
            println!("{} to {}: {:#?}", end.host, end.peer, end.peering);
        }
        panic!("something did not arrive");
    }

    /// Everything that lives is announced at every host that can be reached, and read to its end.
    fn is_settled(&self) -> bool {
        let last =
            |publication: &Publication| publication.ring.back().map_or(0, |(sequence, _)| sequence + 1);
        let all = |publication: &Publication| publication.cursors.values().all(|at| *at >= last(publication));
        self.ends.iter().all(|end| end.exports.values().all(|export| export.held.is_empty()))
            && self.hosts.iter().enumerate().all(|(at, host)| {
                host.publications
                    .iter()
                    .filter(|publication| publication.alive)
                    .all(|publication| all(publication) && self.is_everywhere(at, publication))
            })
    }

    fn is_everywhere(&self, at: usize, publication: &Publication) -> bool {
        if publication.candidate.via.is_some() {
            return true;
        }
        let whose = publication.candidate.publisher;
        self.hosts.iter().enumerate().all(|(there, host)| {
            // A refused publisher is missing, and only refused where losses are allowed.
            there == at
                || !self.lossless
                || host.publications.iter().any(|stands| stands.alive && stands.candidate.publisher == whose)
        })
    }
}

#[test]
fn whatever_the_network_does_every_message_is_received_once_or_counted_as_lost() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("HIVEMIND_SEED") {
        println!("seed {seed}: {} messages", World::new(seed).run());
        return;
    }
    let (first, count) =
        (number("HIVEMIND_FIRST").unwrap_or(0), number("HIVEMIND_SCHEDULES").unwrap_or(QUICK));
    let mut received = 0;
    for seed in first..first + count {
        let _told = OnPanic(seed);
        received += World::new(seed).run();
    }
    println!("{count} schedules from {first}, {received} messages: each received once or counted as lost");
    assert!(received > 0);
}

/// Says which schedule it was.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("HIVEMIND_SEED={} replays it", self.0);
        }
    }
}
