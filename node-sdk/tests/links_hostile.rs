//! What a peer, or the network in between, can do to a link: a proxy between two hosts knows frames, and
//! damages one of them. Each time both sides say why the connection ended, the link comes back, nothing is
//! lost, and nobody who speaks within one host notices.
#![cfg(feature = "links")]

use hivemind::links::{LinkOptions, LinkStatus, Links, Security};
use hivemind::{Node, Publisher, Subscriber};
use hivemind_core::link::frame::{FrameKind, HEADER, Header, PIECE_MAX};
use hivemind_core::link::greeting::VERSION;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(30);

/// What the proxy does to the next frame that it is for, of those that come from the host that listens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mischief {
    /// Bytes that are no frame come before it.
    Garbage,
    /// It claims to be longer than any frame.
    Oversized,
    /// One bit of it is another one.
    Flipped,
    /// It comes twice.
    Replayed,
    /// It says that nothing sums it.
    Unsummed,
    /// It speaks of a stream that does not exist.
    Stranger,
    /// A hello, later.
    SecondHello,
    /// Half of it comes, then the end.
    Truncated,
    /// It, and whatever follows, does not come.
    Silence,
    /// A hello of another version.
    Version,
}

impl Mischief {
    fn is_for(self, kind: FrameKind) -> bool {
        if self == Mischief::Version { kind == FrameKind::Hello } else { kind == FrameKind::Piece }
    }

    /// What the host says that gets it.
    fn words(self) -> &'static str {
        match self {
            Mischief::Garbage => "which there is not",
            Mischief::Oversized => "are possible",
            Mischief::Flipped => "checksum",
            Mischief::Replayed => "a frame was replayed or lost",
            Mischief::Unsummed => "without a checksum",
            Mischief::Stranger => "which there is not",
            Mischief::SecondHello => "a hello frame where there must be none",
            Mischief::Truncated => "without a word",
            Mischief::Silence => "nothing was heard",
            Mischief::Version => "speaks version",
        }
    }

    /// What comes instead; and whether the connection ends there.
    fn commit(self, header: Header, payload: &[u8]) -> (Vec<u8>, bool) {
        let frame = |header: Header, payload: &[u8]| [&header.encode(payload)[..], payload].concat();
        let honest = frame(header, payload);
        let bytes = match self {
            Mischief::Garbage => [&[0xEE; 64][..], &honest].concat(),
            Mischief::Oversized => {
                let (length, total) = (PIECE_MAX + 1, PIECE_MAX + 1);
                frame(Header { length, total, ..header }, payload)
            }
            Mischief::Flipped => {
                let mut bytes = honest;
                *bytes.last_mut().expect("a payload") ^= 1;
                bytes
            }
            Mischief::Replayed => honest.repeat(2),
            Mischief::Unsummed => frame(header.unsummed(), payload),
            Mischief::Stranger => frame(Header { stream: header.stream + 1000, ..header }, payload),
            Mischief::SecondHello => {
                let hello = Header::control(FrameKind::Hello, 0, 0, payload.len() as u32);
                [frame(hello, payload), honest].concat()
            }
            Mischief::Truncated => return (honest[..honest.len() / 2].to_vec(), true),
            Mischief::Silence => Vec::new(),
            Mischief::Version => {
                let mut payload = payload.to_vec();
                payload[4..8].copy_from_slice(&(VERSION + 1).to_le_bytes());
                frame(header, &payload)
            }
        };
        (bytes, false)
    }
}

/// Stands between two hosts.
struct Proxy {
    address: String,
    armed: Arc<Mutex<Vec<Mischief>>>,
}

impl Proxy {
    fn start(to: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let armed = Arc::new(Mutex::new(Vec::new()));
        let (to, mischief) = (to.to_owned(), Arc::clone(&armed));
        // Ends with the process: it has nothing but these sockets.
        std::thread::spawn(move || {
            for dialled in listener.incoming() {
                let (Ok(dialled), Ok(listening)) = (dialled, TcpStream::connect(&to)) else { continue };
                let (back, there) = (dialled.try_clone().unwrap(), listening.try_clone().unwrap());
                let mischief = Arc::clone(&mischief);
                std::thread::spawn(move || pump(back, there, &Mutex::default()));
                std::thread::spawn(move || pump(listening, dialled, &mischief));
            }
        });
        Proxy { address, armed }
    }

    fn arm(&self, mischief: Mischief) {
        self.armed.lock().unwrap().push(mischief);
    }
}

/// Passes frames on until one side ends.
fn pump(mut from: TcpStream, mut to: TcpStream, armed: &Mutex<Vec<Mischief>>) {
    let mut head = [0; HEADER];
    let mut is_silent = false;
    while from.read_exact(&mut head).is_ok() {
        let Ok((header, _)) = Header::decode(&head) else { break };
        let mut payload = vec![0; header.length as usize];
        if from.read_exact(&mut payload).is_err() {
            break;
        }
        let chosen = {
            let mut armed = armed.lock().unwrap();
            let found = armed.iter().position(|mischief| mischief.is_for(header.kind));
            found.map(|found| armed.remove(found))
        };
        is_silent |= chosen == Some(Mischief::Silence);
        let (bytes, is_end) = match chosen {
            Some(mischief) => mischief.commit(header, &payload),
            None => ([&head[..], &payload].concat(), false),
        };
        if (!is_silent && to.write_all(&bytes).is_err()) || is_end {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
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
        let options = LinkOptions::new(Security::plain_text(name)).dead_after(Duration::from_secs(1));
        let options = match peer {
            Some(peer) => options.peer(peer.parse().unwrap()),
            None => options.listen("127.0.0.1:0".parse().unwrap()),
        };
        let links = Links::start(&link, options).unwrap();
        Host { links, node, _link: link, _folder: folder }
    }

    fn status(&self) -> LinkStatus {
        self.links.status().into_iter().next().expect("they were linked")
    }

    /// Why it is not linked, or was not before.
    fn reasons(&self) -> String {
        let status = self.status();
        format!("{} | {}", status.ended.unwrap_or_default(), self.links.refusal().unwrap_or_default())
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

    fn send(&mut self, count: u64) {
        for number in self.next..self.next + count {
            self.publisher.send_timeout(&number, LONG).unwrap();
        }
    }

    /// What was sent arrives, once and in order.
    fn hear(&mut self, count: u64) {
        for number in self.next..self.next + count {
            assert_eq!(*self.subscriber.recv_timeout(LONG).unwrap().expect("it comes"), number);
        }
        self.next += count;
        assert_eq!(self.subscriber.lost(), 0);
    }
}

#[test]
fn whatever_comes_instead_of_a_frame_both_sides_say_why_and_nothing_is_lost() {
    let a = Host::new("a", None);
    let proxy = Proxy::start(&a.links.addresses()[0]);
    let b = Host::new("b", Some(&proxy.address));
    assert!(a.links.wait_for_hosts(1, LONG) && b.links.wait_for_hosts(1, LONG));
    let mut across = Flow::new("across", &a.node, &b.node);
    let mut local = [Flow::new("in/a", &a.node, &a.node), Flow::new("in/b", &b.node, &b.node)];
    across.send(10);
    across.hear(10);
    for mischief in [
        Mischief::Garbage,
        Mischief::Oversized,
        Mischief::Flipped,
        Mischief::Replayed,
        Mischief::Unsummed,
        Mischief::Stranger,
        Mischief::SecondHello,
        Mischief::Truncated,
        Mischief::Silence,
    ] {
        println!("{mischief:?}");
        let before = b.status().connections;
        proxy.arm(mischief);
        across.send(100);
        for flow in &mut local {
            flow.send(100);
            flow.hear(100);
        }
        across.hear(100);
        // Both have had a connection end since, each for a reason that it can say.
        until("the one that got it says why", || b.reasons().contains(mischief.words()));
        let heard = match mischief {
            // There was no subscriber to be told.
            Mischief::Truncated | Mischief::Silence => "",
            _ => mischief.words(),
        };
        until("the other one says it, too", || a.reasons().contains(heard) && a.status().ended.is_some());
        assert!(b.status().connections > before, "{mischief:?} ended no connection");
    }
    // The greeting after an end is of another version: the one that gets it refuses, and says so. The next
    // attempt is honest.
    proxy.arm(Mischief::Version);
    proxy.arm(Mischief::Truncated);
    across.send(10);
    across.hear(10);
    for host in [&a, &b] {
        until("both say that", || host.reasons().contains(Mischief::Version.words()));
    }
}

/// A peer that says nothing, or speaks something else, is told to go, and takes no place for long.
#[test]
fn strangers_are_refused_and_hosts_still_link() {
    let a = Host::new("a", None);
    let address = &a.links.addresses()[0];
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut browser = TcpStream::connect(address).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    browser.set_read_timeout(Some(LONG)).unwrap();
    // It may be cut off with a reset.
    let _ = browser.read_to_end(&mut answer);
    until("the refusal is said", || a.links.refusal().is_some());
    drop(silent);
    let b = Host::new("b", Some(address));
    assert!(b.links.wait_for_hosts(1, LONG), "{:?}", b.links.refusal());
    let mut flow = Flow::new("across", &a.node, &b.node);
    flow.send(10);
    flow.hear(10);
}
