//! What a linked host can take of this one's memory and time by saying a few words. The peer is made by hand,
//! over plain text: it obeys the rules as far as it must to be heard, and then claims what it does not send.
//! Each time memory grows with what has arrived, who breaks a bound hears the reason, and who speaks within
//! this host or over another link does not notice.
#![cfg(feature = "links")]

use hivemind::links::{LinkOptions, Links, Security};
use hivemind::{Node, Publisher, Subscriber};
use hivemind_core::contract::{self, Contract};
use hivemind_core::link::candidate::Candidate;
use hivemind_core::link::frame::{FrameKind, HEADER, Header};
use hivemind_core::link::greeting::{Hello, Role};
use hivemind_core::link::peering::{Out, Peering, STREAMS_MAX, Settings};
use hivemind_core::protocol::EndId;
use hivemind_core::schema::Schema;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// They measure the memory of this process, so one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this process has taken: its own pages, and those of its segments, whether they are mapped or not.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kilobytes: u64 = anonymous.trim().trim_end_matches("kB").trim().parse().unwrap();
    let segments: u64 = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_segment = std::fs::read_link(&path).ok()?.to_str()?.starts_with("/memfd:");
            is_segment.then(|| std::fs::metadata(&path).map_or(0, |file| file.blocks() * 512))
        })
        .sum();
    kilobytes * 1024 + segments
}

struct Host {
    // Before the folder.
    links: Links,
    node: Node,
    _link: Node,
    _folder: tempfile::TempDir,
}

impl Host {
    fn new(name: &str, peer: Option<&str>) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::builder(&format!("node-{name}")).dir(folder.path()).join().unwrap();
        let link = Node::builder("link").dir(folder.path()).guest().join().unwrap();
        let options = LinkOptions::new(Security::plain_text(name)).hold(Duration::from_secs(1));
        let options = match peer {
            Some(peer) => options.peer(peer.parse().unwrap()),
            None => options.listen("127.0.0.1:0".parse().unwrap()),
        };
        let links = Links::start(&link, options).unwrap();
        Host { links, node, _link: link, _folder: folder }
    }

    fn ended(&self, host: &str) -> String {
        let status = self.links.status().into_iter().find(|status| status.host == host);
        status.and_then(|status| status.ended).unwrap_or_default()
    }
}

fn until(what: &str, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < LONG, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Numbers from a publisher to a subscriber.
struct Flow {
    publisher: Publisher<u64>,
    subscriber: Subscriber<u64>,
    next: u64,
}

impl Flow {
    fn new(service: &str, from: &Node, to: &Node) -> Flow {
        let publisher = from.publisher_builder::<u64>(service).reliable().create().unwrap();
        let subscriber = to.subscriber::<u64>(service).unwrap();
        subscriber.wait_for_publishers(1, LONG).unwrap();
        publisher.wait_for_subscribers(1, LONG).unwrap();
        Flow { publisher, subscriber, next: 0 }
    }

    fn goes_on(&mut self) {
        for _ in 0..100 {
            self.publisher.send_timeout(&self.next, LONG).unwrap();
            assert_eq!(*self.subscriber.recv_timeout(LONG).unwrap().expect("it comes"), self.next);
            self.next += 1;
        }
        assert_eq!(self.subscriber.lost(), 0);
    }
}

/// A host that is linked by hand: it knows the words, and what it says is up to the test.
struct Peer {
    stream: TcpStream,
    peering: Peering,
    begun: Instant,
    /// Why the other end closed the connection.
    reason: Option<String>,
    last_open: Option<(Header, Vec<u8>)>,
}

impl Peer {
    fn dial(address: &str, name: &str) -> Peer {
        Peer::greet(TcpStream::connect(address).unwrap(), name)
    }

    fn greet(mut stream: TcpStream, name: &str) -> Peer {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let hello =
            |name: &str, epoch| Hello { role: Role::Peer, host: name.to_owned(), epoch, capabilities: 0 };
        stream.write_all(&hello(name, 0x600d_beef).encode()).unwrap();
        let mut peering = Peering::new(Settings::default());
        peering.connected(hello("victim", 1), Duration::ZERO);
        let mut peer = Peer { stream, peering, begun: Instant::now(), reason: None, last_open: None };
        assert_eq!(peer.hear().map(|(header, _)| header.kind), Some(FrameKind::Hello));
        // What it wants; or why it does not want to be linked.
        let is_over =
            |peer: &Peer| peer.reason.is_some() || !peer.peering.interest_of_peer().wanted().is_empty();
        while !is_over(&peer) && peer.hear().is_some() {}
        peer
    }

    /// The next frame; `None`: the end.
    fn hear(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head).ok()?;
        let (header, _) = Header::decode(&head).unwrap();
        let mut payload = vec![0; header.length as usize];
        self.stream.read_exact(&mut payload).ok()?;
        match header.kind {
            FrameKind::Hello => {}
            FrameKind::Bye => self.reason = Peering::farewell_reason(&payload),
            // What was sent by hand it knows nothing of.
            _ => drop(self.peering.frame(&header, &payload, self.begun.elapsed())),
        }
        Some((header, payload))
    }

    fn say(&mut self, bytes: &[u8]) {
        // It may have been cut off already; then it hears why.
        let _ = self.stream.write_all(bytes);
    }

    /// Publishers are announced, as streams from 1 on, each with `slots` slots.
    fn open(&mut self, service: &str, count: u32, capacity: u32) {
        let schema = Schema::of::<[u8]>();
        let mut said = Vec::new();
        for index in 1..=count {
            let candidate = Candidate {
                publisher: EndId { node: 0x600d_beef, index },
                node: "greedy".parse().unwrap(),
                service: format!("{service}/{index}").parse().unwrap(),
                kind: contract::Kind::of(&schema),
                contract: Contract { capacity, ..Contract::default() },
                via: None,
            };
            assert!(self.peering.begun(index, candidate, 0));
            let mut at = said.len();
            while self.peering.has_control() {
                at = said.len();
                assert_eq!(self.peering.next_out(&mut said), Out::Frame);
            }
            let (header, _) = Header::decode(said[at..].first_chunk().unwrap()).unwrap();
            self.last_open = Some((header, said[at + HEADER..].to_vec()));
        }
        self.say(&said);
    }

    /// The last stream that was announced, again under the next number.
    fn one_more(&mut self) {
        let (header, payload) = self.last_open.clone().expect("one was announced");
        let header = Header { stream: header.stream + 1, ..header };
        self.say(&[&header.encode(&payload)[..], &payload].concat());
    }

    /// All that was said before has been heard there.
    fn is_heard(&mut self) {
        self.say(&Header::control(FrameKind::Ping, 0, 1, 0).encode(&[]));
        while self.hear().expect("it answers").0.kind != FrameKind::Pong {}
    }

    /// Hears until the other end has let `streams` streams send.
    fn await_credit(&mut self, streams: u32) {
        while (1..=streams).any(|index| !self.peering.may_send(index)) {
            assert!(self.hear().is_some(), "it does not let them send: {:?}", self.reason);
        }
    }

    /// Hears until the connection ends; why it did.
    fn await_reason(&mut self) -> String {
        while self.hear().is_some() {}
        self.reason.take().expect("a farewell")
    }
}

fn piece(stream: u32, sequence: u64, offset: u32, payload: &[u8], total: u32) -> Vec<u8> {
    let header = Header::piece(stream, sequence, offset, payload.len() as u32, total);
    [&header.encode(payload)[..], payload].concat()
}

/// A message of the greatest length that is announced takes what came of it.
#[test]
fn a_message_that_is_only_announced_takes_no_memory() {
    const STREAMS: u32 = 12;
    const TOTAL: u32 = 256 << 20;
    let _alone = alone();
    let victim = Host::new("victim", None);
    let other = Host::new("other", Some(&victim.links.addresses()[0]));
    let mut subscriber = victim.node.subscriber::<[u8]>("big/*").unwrap();
    let mut flows =
        [Flow::new("in/victim", &victim.node, &victim.node), Flow::new("across", &other.node, &victim.node)];
    let mut peer = Peer::dial(&victim.links.addresses()[0], "greedy");
    peer.open("big", STREAMS, 16);
    peer.await_credit(STREAMS);
    let before = memory();
    for stream in 1..=STREAMS {
        peer.say(&piece(stream, 0, 0, &[7; 8], TOTAL));
    }
    peer.is_heard();
    for flow in &mut flows {
        flow.goes_on();
    }
    let part = [9; 64 << 10];
    for stream in 1..=STREAMS {
        peer.say(&piece(stream, 0, 8, &part, TOTAL));
    }
    let announced = u64::from(STREAMS) * (8 + part.len() as u64);
    peer.is_heard();
    let grown = memory().saturating_sub(before);
    assert!(grown <= 3 * announced + 16 * MIB, "{} MiB for {announced} bytes", grown / MIB);
    for flow in &mut flows {
        flow.goes_on();
    }
    // An honest one arrives whole, and each of them could.
    let whole = vec![5; 8 << 20];
    drop(peer);
    let mut peer = Peer::dial(&victim.links.addresses()[0], "honest");
    peer.open("big", 1, 16);
    peer.await_credit(1);
    for (at, part) in whole.chunks(64 << 10).enumerate() {
        peer.say(&piece(1, 0, (at << 16) as u32, part, whole.len() as u32));
    }
    let message = subscriber.recv_timeout(LONG).unwrap().expect("it arrives");
    assert_eq!(&message[..], &whole[..]);
}

#[test]
fn slots_of_publishers_of_another_host_have_a_budget() {
    const STREAMS: u32 = 250;
    let _alone = alone();
    let victim = Host::new("victim", None);
    let _subscriber = victim.node.subscriber::<[u8]>("many/*").unwrap();
    let mut flow = Flow::new("in/victim", &victim.node, &victim.node);
    let before = memory();
    let mut peer = Peer::dial(&victim.links.addresses()[0], "greedy");
    peer.open("many", STREAMS, 65_536);
    peer.await_credit(STREAMS);
    let grown = memory().saturating_sub(before);
    assert!(grown <= 200 * MIB, "{} MiB", grown / MIB);
    flow.goes_on();
    // And it is given back.
    drop(peer);
    until("the memory is given back", || memory() <= before + 40 * MIB);
}

#[test]
fn what_nobody_here_asked_for_takes_nothing_and_too_much_of_it_ends_the_link() {
    let _alone = alone();
    let victim = Host::new("victim", None);
    let _subscriber = victim.node.subscriber::<[u8]>("wanted").unwrap();
    let mut flow = Flow::new("in/victim", &victim.node, &victim.node);
    let before = memory();
    let mut peer = Peer::dial(&victim.links.addresses()[0], "greedy");
    peer.open("unwanted", 300, 65_536);
    while peer.peering.totals().refused < 300 {
        assert!(peer.hear().is_some(), "it does not decline them: {:?}", peer.reason);
    }
    let grown = memory().saturating_sub(before);
    assert!(grown <= 16 * MIB, "{} MiB", grown / MIB);
    drop(peer);
    let mut peer = Peer::dial(&victim.links.addresses()[0], "greedier");
    peer.open("unwanted", STREAMS_MAX as u32, 16);
    peer.one_more();
    let reason = peer.await_reason();
    assert!(reason.contains("too many streams"), "{reason}");
    until("this side says so, too", || victim.ended("greedier").contains("too many streams"));
    flow.goes_on();
}

/// One number costs the other host nothing, and this one no more than a ring.
#[test]
fn a_gap_in_the_numbers_is_counted_at_once_and_an_impossible_one_ends_the_link() {
    const GAP: u64 = 1 << 39;
    let _alone = alone();
    let victim = Host::new("victim", None);
    let mut subscriber = victim.node.subscriber::<[u8]>("gap/*").unwrap();
    let mut flow = Flow::new("in/victim", &victim.node, &victim.node);
    let mut peer = Peer::dial(&victim.links.addresses()[0], "greedy");
    peer.open("gap", 1, 65_536);
    peer.await_credit(1);
    peer.say(&piece(1, 0, 0, b"first", 5));
    assert_eq!(&subscriber.recv_timeout(LONG).unwrap().expect("it arrives")[..], b"first");
    peer.say(&piece(1, GAP, 0, b"second", 6));
    // A loop over them all takes hours.
    assert_eq!(&subscriber.recv_timeout(LONG).unwrap().expect("it arrives")[..], b"second");
    assert_eq!(subscriber.lost(), GAP - 1);
    flow.goes_on();
    peer.say(&piece(1, 1 << 61, 0, b"third", 5));
    let reason = peer.await_reason();
    assert!(reason.contains("can have been published"), "{reason}");
    until("this side says so, too", || victim.ended("greedy").contains("can have been published"));
    flow.goes_on();
    assert_eq!(subscriber.lost(), GAP - 1);
}

#[test]
fn a_host_at_fault_again_and_again_is_linked_less_and_less_often() {
    let _alone = alone();
    let victim = Host::new("victim", None);
    let address = &victim.links.addresses()[0];
    let other = Host::new("other", Some(address));
    let mut flow = Flow::new("across", &other.node, &victim.node);
    let garbage = [0xEE; HEADER];
    // It dials without a pause, and is told that it is too soon.
    let refused = (0..50).find_map(|_| {
        let mut peer = Peer::dial(address, "liar");
        peer.say(&garbage);
        let reason = peer.reason.take().unwrap_or_else(|| peer.await_reason());
        reason.contains("again and again").then_some(reason)
    });
    assert!(refused.is_some(), "a liar is linked 50 times in a row");
    flow.goes_on();
    // It is dialled, and the pauses grow: the last five alone are longer than this together.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialling = Host::new("dialling", Some(&listener.local_addr().unwrap().to_string()));
    let _subscriber = dialling.node.subscriber::<[u8]>("any").unwrap();
    let begun = Instant::now();
    for _ in 0..11 {
        let (stream, _) = listener.accept().unwrap();
        let mut peer = Peer::greet(stream, "liar");
        peer.say(&garbage);
        assert!(!peer.await_reason().is_empty());
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(dialling);
}
