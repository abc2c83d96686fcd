//! Peers that break the rules get a refusal or are cut off, and nobody else notices.
mod recorder;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use hivemind_core::contract::{Asks, Carried, Contract, Delivery, Kind, Pattern};
use hivemind_core::protocol::{
    Carrier, Cursor, Demand, EndId, Joining, Offer, Refusal, ToNode, ToRoot, VERSION, encode,
};
use hivemind_runtime::identity::new_node_epoch;
use hivemind_runtime::runtime_dir::RuntimeDir;
use hivemind_runtime::session::{Handle, JoinError, WaitedFor};
use nix::errno::Errno;
use rkyv::util::AlignedVec;

use recorder::raw::{FalseRoot, Raw, hello};
use recorder::{Heard, Node, handle, hive, wait_for};

/// Two nodes that meet: while they can, the root is well.
fn others_are_unaffected(dir: &RuntimeDir) {
    let (camera, viewer) = (Node::join(dir, "camera"), Node::join(dir, "viewer"));
    camera.offer(1, "a", 5).unwrap();
    viewer.demand(1, "a", Some(5)).unwrap();
    viewer.wait_attached(1, camera.end(1));
}

fn packet(message: &ToRoot) -> AlignedVec {
    let mut packet = AlignedVec::new();
    encode(message, &mut packet).unwrap();
    packet
}

fn is_cut_off(raw: &Raw) -> bool {
    raw.hear::<ToNode>().is_none()
}

#[test]
fn noise_is_refused_in_words() {
    let (_base, dir) = hive();
    let _host = Node::join(&dir, "host");
    let damaged = {
        let packet = packet(&hello("x", 1));
        packet[..packet.len() - 8].to_vec()
    };
    for noise in [&b"GET / HTTP/1.1"[..], &[0; 5], &[0xff; 60_000], &damaged] {
        let raw = Raw::connect(dir.root_socket());
        raw.send(noise, &[]).unwrap();
        let heard = raw.hear();
        let is_refused =
            matches!(&heard, Some(ToNode::Refused { request: None, refusal: Refusal::Malformed { .. } }));
        assert!(is_refused, "{} bytes: {heard:?}", noise.len());
        assert!(is_cut_off(&raw));
    }
    let raw = Raw::connect(dir.root_socket());
    raw.send(&[7; 100_000], &[]).unwrap();
    assert!(matches!(raw.hear(), Some(ToNode::Refused { .. })) && is_cut_off(&raw));
    others_are_unaffected(&dir);
}

#[test]
fn another_version_is_told_which_one_is_spoken() {
    let (_base, dir) = hive();
    let _host = Node::join(&dir, "host");
    let raw = Raw::connect(dir.root_socket());
    let mut packet = packet(&hello("x", 1));
    packet[4] = 77;
    raw.send(&packet, &[]).unwrap();
    let Some(ToNode::Refused { refusal, .. }) = raw.hear() else { panic!() };
    assert_eq!(refusal, Refusal::Version { root: VERSION });
    assert!(is_cut_off(&raw));
}

#[test]
fn a_node_says_that_the_root_is_of_another_version() {
    let (_base, dir) = hive();
    let root = FalseRoot::listen(dir.root_socket());
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| Node::try_join(&dir, "node", |_| {}).err().unwrap());
        let raw = root.accept();
        let mut packet = AlignedVec::new();
        encode(&ToNode::HandedOver, &mut packet).unwrap();
        packet[4] = 77;
        raw.send(&packet, &[]).unwrap();
        let error = joining.join().unwrap();
        assert!(matches!(error, JoinError::Version { ours: VERSION, theirs: 77 }), "{error}");
    });
}

/// How many descriptors of this process are memfds of this name. Both the root and the test live in it.
fn open_memfds(name: &str) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().contains(name)).count()
}

#[test]
fn surplus_missing_and_unwanted_descriptors_are_closed() {
    let (_base, dir) = hive();
    let _host = Node::join(&dir, "host");
    let memfd = nix::sys::memfd::memfd_create(c"surplus", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let number = memfd.as_raw_fd();
    let with_bells = ToRoot::Hello {
        name: "x".into(),
        node: 5,
        observer: false,
        external: false,
        rejoin: false,
        hosts_root: false,
        seen_epoch: 0,
        bells: Carrier::Descriptor,
    };
    for (message, descriptors) in [
        (hello("x", 1), vec![number]),
        (hello("x", 1), vec![number; 100]),
        (with_bells.clone(), vec![]),
        (with_bells.clone(), vec![number; 2]),
        (with_bells.clone(), vec![number; 8]),
        (with_bells.clone(), vec![number; 9]),
    ] {
        let raw = Raw::connect(dir.root_socket());
        raw.say_with(&message, &descriptors);
        let Some(ToNode::Refused { refusal: Refusal::Malformed { why }, .. }) = raw.hear() else { panic!() };
        assert!(why.contains("descriptors"), "{why}");
        assert!(is_cut_off(&raw));
    }
    // A good one is kept as long as the node is there; one that comes along with nonsense is not.
    let raw = Raw::connect(dir.root_socket());
    raw.say_with(&with_bells, &[number]);
    assert!(matches!(raw.hear(), Some(ToNode::Welcome { .. })));
    wait_for("the rest being closed", || open_memfds("surplus") == 2);
    let end = EndId { node: 9, index: 9 };
    let attach = ToRoot::Attach { subscriber: 1, publisher: end, seat: 0, reader: Carrier::Descriptor };
    raw.say_with(&attach, &[number]);
    assert!(matches!(raw.hear(), Some(ToNode::AttachRefused { .. })));
    wait_for("the rest being closed", || open_memfds("surplus") == 2);
    drop(raw);
    wait_for("the bells being closed", || open_memfds("surplus") == 1);
    others_are_unaffected(&dir);
}

#[test]
fn what_is_not_its_turn_is_refused() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    host.offer(1, "a", 5).unwrap();
    // Nobody speaks before `Hello`.
    let raw = Raw::connect(dir.root_socket());
    raw.say(&ToRoot::Withdraw { index: 1 });
    assert!(matches!(raw.hear(), Some(ToNode::Refused { .. })) && is_cut_off(&raw));
    // An epoch that lives is not given to a second node, nor is a name.
    let raw = Raw::connect(dir.root_socket());
    raw.say(&hello("x", host.session.node()));
    assert!(matches!(raw.hear(), Some(ToNode::Refused { refusal: Refusal::EpochTaken, .. })));
    let raw = Raw::connect(dir.root_socket());
    raw.say(&hello("host", 4));
    assert!(matches!(raw.hear(), Some(ToNode::Refused { refusal: Refusal::NameTaken { .. }, .. })));
    // An observer has no ends to ask about, or to take back.
    let raw = Raw::connect(dir.root_socket());
    let mut observer = hello("eye", 6);
    if let ToRoot::Hello { observer, .. } = &mut observer {
        *observer = true;
    }
    raw.say(&observer);
    assert!(matches!(raw.hear(), Some(ToNode::Welcome { .. })));
    raw.say(&ToRoot::Misfits { request: 2, publisher: 1 });
    assert!(matches!(raw.hear(), Some(ToNode::Refused { request: Some(2), .. })));
    raw.say(&ToRoot::Withdraw { index: 1 });
    assert!(matches!(raw.hear(), Some(ToNode::Refused { request: None, .. })) && is_cut_off(&raw));
    // Ends of others and ends that are not there.
    let raw = Raw::hello(dir.root_socket(), "x", 5);
    let reader = || Carrier::Named("n".into());
    raw.say(&ToRoot::Attach { subscriber: 8, publisher: host.end(1), seat: 0, reader: reader() });
    assert!(matches!(raw.hear(), Some(ToNode::AttachRefused { subscriber: 8, .. })));
    raw.say(&ToRoot::Attached {
        publisher: 1,
        subscriber: host.end(1),
        start: 0,
        ring: reader(),
        bells: None,
    });
    raw.say(&ToRoot::Inspect { request: 3, end: EndId { node: 5, index: 3 } });
    assert!(matches!(raw.hear(), Some(ToNode::Refused { request: Some(3), .. })));
    raw.say(&ToRoot::Inspected { inquiry: 99, segment: None });
    assert!(matches!(raw.hear(), Some(ToNode::Refused { request: None, .. })) && is_cut_off(&raw));
    assert!(host.side.heard().is_empty(), "nothing of this reached the host");
    others_are_unaffected(&dir);
}

#[test]
fn a_flood_does_not_keep_others_from_meeting() {
    let (_base, dir) = hive();
    let _host = Node::join(&dir, "host");
    std::thread::scope(|scope| {
        let flood = Raw::hello(dir.root_socket(), "flood", 5);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let packet = packet(&ToRoot::Withdraw { index: 1 });
            while stopped.try_recv().is_err() {
                flood.send(&packet, &[]).unwrap();
            }
        });
        for _ in 0..3 {
            others_are_unaffected(&dir);
        }
        stop.send(()).unwrap();
    });
}

#[test]
fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    for index in 0..300 {
        host.offer_with(index, &format!("service/{index}"), 5, vec![0; 1000]).unwrap();
    }
    let deaf = Raw::hello(dir.root_socket(), "deaf", 5);
    let packet = packet(&ToRoot::List { request: 1, after: Cursor::Nodes(0) });
    let mut error = None;
    for _ in 0..100_000 {
        if let Err(found) = deaf.send(&packet, &[]) {
            error = Some(found);
            break;
        }
    }
    assert!(matches!(error, Some(Errno::EPIPE | Errno::ECONNRESET)), "{error:?}");
    others_are_unaffected(&dir);
}

#[test]
fn silent_connections_are_no_obstacle() {
    let (_base, dir) = hive();
    let _host = Node::join(&dir, "host");
    let silent: Vec<Raw> = (0..100).map(|_| Raw::connect(dir.root_socket())).collect();
    others_are_unaffected(&dir);
    drop(silent);
    others_are_unaffected(&dir);
}

/// A type with a description of this many bytes.
fn kind(schema: usize) -> Kind {
    Kind { fingerprint: 5, schema: vec![7; schema] }
}

fn reliable() -> Contract {
    Contract { delivery: Delivery::Reliable, capacity: 1, ..Contract::default() }
}

#[test]
fn a_publisher_that_never_answers_delays_only_those_who_want_it() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    let mute = Raw::hello(dir.root_socket(), "mute", 5);
    for index in 0..200 {
        mute.say(&ToRoot::Offer {
            request: index.into(),
            offer: Offer::new(index, &format!("mute/{index}"), kind(0), reliable()),
        });
        assert!(matches!(mute.hear(), Some(ToNode::Accepted { .. })));
    }
    let viewer = Node::join(&dir, "viewer");
    viewer.demand(1, "**", None).unwrap();
    host.offer(1, "a", 5).unwrap();
    viewer.wait_attached(1, host.end(1));
    drop(mute);
    // What was on its way to the mute one hears that it is gone.
    viewer.side.wait_until("the refusals", |state| {
        state.heard.iter().filter(|heard| matches!(heard, Heard::AttachRefused { .. })).count() == 8
    });
}

/// A publisher that is slow to read is not cut off for it: no more is sent to it than it can answer. (Once it
/// was, and cut off, came back, was told everything again, and was cut off again.)
#[test]
fn a_slow_publisher_gets_all_its_subscribers_in_the_end() {
    let (_base, dir) = hive();
    let _host = Node::join(&dir, "host");
    let slow = Raw::hello(dir.root_socket(), "slow", 5);
    for index in 0..1000 {
        let offer = Offer::new(index, &format!("slow/{index}"), kind(300), reliable());
        slow.say(&ToRoot::Offer { request: index.into(), offer });
    }
    let viewer = Node::join(&dir, "patient");
    viewer.demand(1, "slow/*", None).unwrap();
    others_are_unaffected(&dir);
    let mut attached = 0;
    while attached < 1000 {
        if let ToNode::Attach { publisher, subscriber, .. } = slow.hear().expect("it is not cut off") {
            let ring = Carrier::Descriptor;
            let ring_memory = content_of("ring");
            slow.say_with(
                &ToRoot::Attached { publisher, subscriber, start: 0, ring, bells: None },
                &[ring_memory.as_raw_fd()],
            );
            attached += 1;
        }
    }
    viewer.side.wait_until("a thousand attachments", |state| {
        state.heard.iter().filter(|heard| matches!(heard, Heard::Attached { .. })).count() == 1000
    });
    assert_eq!(viewer.matches(1), 1000);
}

fn content_of(content: &str) -> OwnedFd {
    match handle(content) {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(name) => panic!("{name}"),
    }
}

#[test]
fn a_subscriber_that_never_answers_delays_nobody() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    let mute = Raw::hello(dir.root_socket(), "mute", 5);
    let demand = Demand::new(1, "**", Asks::default());
    mute.say(&ToRoot::Demand { request: 1, demand });
    for index in 0..200 {
        host.offer(index, &format!("a/{index}"), 5).unwrap();
    }
    others_are_unaffected(&dir);
}

/// A root that is no root is left alone; when it goes away, the node becomes the host itself.
#[test]
fn a_node_does_not_believe_a_false_root() {
    let (_base, dir) = hive();
    let root = FalseRoot::listen(dir.root_socket());
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| Node::join(&dir, "node"));
        root.accept().send(b"what?", &[]).unwrap();
        root.accept().send(&[9; 70_000], &[]).unwrap();
        root.accept().say(&ToNode::Accepted { request: 1, joining: Joining::Done });
        root.accept().say(&ToNode::Welcome { epoch: u64::MAX, pid: 1, dedicated: false });
        root.accept().say(&ToNode::Welcome { epoch: 0, pid: 1, dedicated: false });
        {
            let raw = root.accept();
            raw.say(&ToNode::Leaving { successor: 0 });
        }
        drop(root);
        let node = joining.join().unwrap();
        assert!(node.session.hosts_root());
    });
    others_are_unaffected(&dir);
}

/// Roots in disorder: a node that has seen epoch 7 does not obey a root of epoch 3.
#[test]
fn a_node_obeys_the_highest_epoch() {
    let (_base, dir) = hive();
    let root = FalseRoot::listen(dir.root_socket());
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| Node::join(&dir, "node"));
        let raw = root.accept();
        assert!(matches!(raw.hear(), Some(ToRoot::Hello { rejoin: false, seen_epoch: 0, .. })));
        raw.say(&ToNode::Welcome { epoch: 7, pid: 1, dedicated: false });
        let node = joining.join().unwrap();
        assert_eq!(node.session.root_epoch(), 7);
        drop(raw);
        let raw = root.accept();
        assert!(matches!(raw.hear(), Some(ToRoot::Hello { rejoin: true, seen_epoch: 7, .. })));
        raw.say(&ToNode::Welcome { epoch: 3, pid: 1, dedicated: false });
        assert!(raw.hear::<ToRoot>().is_none(), "the node leaves a root of the past");
        drop(root);
        wait_for("the node hosting", || node.session.hosts_root());
        assert_eq!(node.session.root_epoch(), 8);
    });
}

/// Somebody was faster with the name of a service while its owner had no root: the owner hears that its end
/// does not stand, and the end is not announced any more.
#[test]
fn an_end_that_the_next_root_refuses_is_told_to_its_node() {
    let (_base, dir) = hive();
    let root = FalseRoot::listen(dir.root_socket());
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| Node::join(&dir, "node"));
        let raw = root.accept();
        assert!(matches!(raw.hear(), Some(ToRoot::Hello { .. })));
        raw.say(&ToNode::Welcome { epoch: 1, pid: 1, dedicated: false });
        let node = joining.join().unwrap();
        scope.spawn(|| {
            assert!(matches!(raw.hear(), Some(ToRoot::Offer { .. })));
            raw.say(&ToNode::Accepted { request: 1, joining: Joining::Done });
            drop(raw);
        });
        node.offer(1, "a", 5).unwrap();
        let raw = root.accept();
        assert!(matches!(raw.hear(), Some(ToRoot::Hello { .. })));
        raw.say(&ToNode::Welcome { epoch: 2, pid: 1, dedicated: false });
        assert!(matches!(raw.hear(), Some(ToRoot::Offer { request: 1, .. })));
        let carried = Carried {
            service: "a".parse().unwrap(),
            pattern: Pattern::Messages,
            kind: Kind { fingerprint: 6, schema: Vec::new() },
            holder: "thief".parse().unwrap(),
        };
        let refusal = Refusal::OtherType(Box::new(carried));
        raw.say(&ToNode::Refused { request: Some(1), refusal });
        node.side.wait_until("the refusal", |state| {
            state.heard.iter().any(|heard| {
                matches!(heard, Heard::Refused { index: 1, error } if error.contains("in node thief"))
            })
        });
        drop(root);
    });
}

#[test]
fn a_root_that_does_not_answer_is_named() {
    let (_base, dir) = hive();
    let _root = FalseRoot::listen(dir.root_socket());
    let error =
        Node::try_join(&dir, "node", |config| config.patience = Duration::from_millis(30)).err().unwrap();
    let pid = std::process::id() as i32;
    assert!(
        matches!(&error, JoinError::NoRoot { what: WaitedFor::Answer { pid: p }, .. } if *p == pid),
        "{error}"
    );
}

#[test]
fn a_lock_that_nobody_serves_is_named_with_its_holder() {
    let (_base, dir) = hive();
    let lock = std::fs::File::create(dir.lock_file()).unwrap();
    lock.lock().unwrap();
    std::fs::write(dir.lock_file(), "epoch 4 process 4711").unwrap();
    let error =
        Node::try_join(&dir, "node", |config| config.patience = Duration::from_millis(30)).err().unwrap();
    assert!(
        matches!(&error, JoinError::NoRoot { what: WaitedFor::LockHolder { pid: 4711, .. }, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("process 4711 holds"), "{error}");
}

/// A segment by name needs no descriptor; the pidfd still comes along.
#[test]
fn named_segments_travel_as_names() {
    let (_base, dir) = hive();
    let bells = |config: &mut hivemind_runtime::session::SessionConfig| {
        config.bells = Handle::Name("bells by name".into());
    };
    let camera = Node::try_join(&dir, "camera", bells).unwrap();
    drop(handle("unused"));
    camera.offer(1, "a", 5).unwrap();
    let raw = Raw::hello(dir.root_socket(), "raw", new_node_epoch());
    let demand = Demand::new(1, "a", Asks::default());
    raw.say(&ToRoot::Demand { request: 1, demand });
    assert!(matches!(raw.hear(), Some(ToNode::Accepted { .. })));
    assert!(matches!(raw.hear(), Some(ToNode::Match { .. })));
    let listing = camera.session.list().unwrap();
    assert_eq!((listing.subscribers.len(), listing.connections.len()), (1, 0));
}
