//! Hosts that are linked over real sockets: each has a hive in a folder of its own, and all are in this
//! process.
#![cfg(feature = "links")]

use hivemind::links::{LinkOptions, Links, Security};
use hivemind::{Node, message};
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(30);

/// A message with a part of its own outside.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Pose {
    /// Which one.
    pub id: u64,
    /// Some text.
    pub frame: String,
}

fn pose(id: u64) -> Pose {
    Pose { id, frame: format!("frame {id}") }
}

struct Host {
    // Before the folder.
    links: Links,
    node: Node,
    _link: Node,
    _folder: tempfile::TempDir,
}

impl Host {
    fn new(name: &str, peers: &[&str]) -> Host {
        Host::with(name, peers, |options| options)
    }

    fn with(name: &str, peers: &[&str], change: impl FnOnce(LinkOptions) -> LinkOptions) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::builder(&format!("node-{name}")).dir(folder.path()).join().unwrap();
        let link = Node::builder("link").dir(folder.path()).guest().join().unwrap();
        let mut options = LinkOptions::new(Security::plain_text(name)).listen("127.0.0.1:0".parse().unwrap());
        for peer in peers {
            options = options.peer(peer.parse().unwrap());
        }
        let links = Links::start(&link, change(options)).unwrap();
        Host { links, node, _link: link, _folder: folder }
    }

    fn address(&self) -> &str {
        &self.links.addresses()[0]
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LONG, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_subscriber_hears_a_publisher_of_another_host() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    assert!(a.links.wait_for_hosts(1, LONG) && b.links.wait_for_hosts(1, LONG));
    let mut publisher = a.node.publisher_builder::<Pose>("sensors/pose").reliable().create().unwrap();
    let mut subscriber = b.node.subscriber::<Pose>("sensors/*").unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    for id in 0..10_000 {
        publisher.send_timeout(&pose(id), LONG).unwrap();
        if id % 100 == 99 {
            for expected in id - 99..=id {
                let sample = subscriber.recv_timeout(LONG).unwrap().expect("it comes");
                assert_eq!(sample.to_owned().unwrap(), pose(expected));
                let origin = sample.origin();
                assert_eq!((origin.host(), origin.node.as_str()), (Some("a"), "node-a"));
                assert_eq!(origin.service.as_str(), "sensors/pose");
            }
        }
    }
    assert_eq!(subscriber.lost(), 0);
    drop(publisher);
    until("the end of the publisher is seen over there", || {
        let _ = subscriber.try_recv().unwrap();
        subscriber.connections().iter().all(|connection| connection.ended).then_some(())
    });
}

/// Messages of all lengths, in both directions at once, reliable and lossy.
#[test]
fn large_and_small_messages_cross_in_both_directions() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    let lengths = [0usize, 1, 56, 57, 1000, 65_536, 65_537, 1 << 20, 10 << 20];
    std::thread::scope(|scope| {
        for (from, to, service) in [(&a, &b, "from/a"), (&b, &a, "from/b")] {
            scope.spawn(move || {
                let mut publisher = from.node.publisher_builder::<[u8]>(service).reliable().create().unwrap();
                let mut subscriber = to.node.subscriber::<[u8]>(service).unwrap();
                subscriber.wait_for_publishers(1, LONG).unwrap();
                publisher.wait_for_subscribers(1, LONG).unwrap();
                for (round, length) in lengths.into_iter().cycle().take(60).enumerate() {
                    let message: Vec<u8> = (0..length).map(|at| (at * 7 + round) as u8).collect();
                    publisher.send_timeout(&message, LONG).unwrap();
                    let sample = subscriber.recv_timeout(LONG).unwrap().expect("it comes");
                    assert!(sample[..] == message, "{length} bytes");
                }
            });
        }
    });
}

/// Three hosts, each linked with each: everything arrives once.
#[test]
fn in_a_ring_of_three_hosts_nothing_comes_twice() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    let c = Host::new("c", &[a.address(), b.address()]);
    let hosts = [&a, &b, &c];
    for host in hosts {
        assert!(host.links.wait_for_hosts(2, LONG), "{:?}", host.links.refusal());
    }
    let mut subscribers: Vec<_> =
        hosts.iter().map(|host| host.node.subscriber::<u64>("numbers").unwrap()).collect();
    let mut publishers: Vec<_> = hosts
        .iter()
        .map(|host| host.node.publisher_builder::<u64>("numbers").reliable().create().unwrap())
        .collect();
    for subscriber in &subscribers {
        subscriber.wait_for_publishers(3, LONG).unwrap();
    }
    // One of its own host, and one link for each of the others.
    for publisher in &publishers {
        publisher.wait_for_subscribers(3, LONG).unwrap();
    }
    for number in 0..100u64 {
        for publisher in &mut publishers {
            publisher.send_timeout(&number, LONG).unwrap();
        }
    }
    for subscriber in &mut subscribers {
        for _ in 0..300 {
            subscriber.recv_timeout(LONG).unwrap().expect("it comes");
        }
        assert!(
            subscriber.recv_timeout(Duration::from_millis(100)).unwrap().is_none(),
            "nothing comes twice"
        );
        assert_eq!((subscriber.lost(), subscriber.connections().len()), (0, 3));
    }
}

/// What nobody wants is not sent, and a subscription that ends stops it.
#[test]
fn only_what_is_wanted_crosses_and_once_for_all_who_want_it() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    assert!(a.links.wait_for_hosts(1, LONG));
    let mut wanted = a.node.publisher::<u64>("wanted").unwrap();
    let mut unwanted = a.node.publisher::<u64>("unwanted").unwrap();
    let subscribers: Vec<_> = (0..5).map(|_| b.node.subscriber::<u64>("wanted").unwrap()).collect();
    for subscriber in &subscribers {
        subscriber.wait_for_publishers(1, LONG).unwrap();
    }
    wanted.wait_for_subscribers(1, LONG).unwrap();
    for number in 0..10 {
        wanted.send(&number).unwrap();
        unwanted.send(&number).unwrap();
    }
    until("they have crossed", || (b.links.status()[0].received == 10).then_some(()));
    assert_eq!((wanted.subscribers(), unwanted.subscribers()), (1, 0));
    drop(subscribers);
    until("nobody wants it any more", || (wanted.subscribers() == 0).then_some(()));
}

/// A lossy publisher that is faster than the network loses at its own ring, and every loss is counted at the
/// other end.
#[test]
fn losses_are_counted_from_end_to_end() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    let mut publisher = a.node.publisher_builder::<[u8]>("fast").capacity(16).create().unwrap();
    let mut subscriber = b.node.subscriber::<[u8]>("fast").unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    for number in 0..20_000u64 {
        publisher.send(&number.to_le_bytes()).unwrap();
    }
    let published = publisher.published();
    drop(publisher);
    let connection = until("the end", || {
        while subscriber.try_recv().unwrap().is_some() {}
        subscriber.connections().into_iter().find(|connection| connection.ended)
    });
    assert_eq!(connection.received + connection.lost, published, "{connection:?}");
    assert!(connection.lost > 0, "it was not fast enough to lose anything: {connection:?}");
}

#[test]
fn a_type_that_the_other_host_has_otherwise_is_refused_and_harms_nobody() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    let _other = b.node.publisher::<u64>("value").unwrap();
    let mut publisher = a.node.publisher_builder::<[u8]>("value").reliable().create().unwrap();
    let mut wild = b.node.subscriber_dynamic("**").unwrap();
    let mut good = a.node.publisher::<u64>("good").unwrap();
    until("the good one is there", || wild.wait_for_publishers(2, Duration::from_millis(50)).ok());
    good.wait_for_subscribers(1, LONG).unwrap();
    // Refused over there, so nobody holds the publisher up.
    until("the link lets go of it", || (publisher.subscribers() == 0).then_some(()));
    for number in 0..1000u64 {
        publisher.send(&number.to_le_bytes()).unwrap();
    }
    good.send(&7).unwrap();
    let sample = wild.recv_timeout(LONG).unwrap().expect("it comes");
    assert_eq!(sample.origin().service.as_str(), "good");
}

#[test]
fn a_node_without_shared_memory_has_the_same_calls() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    assert!(b.links.wait_for_hosts(1, LONG));
    let nowhere = tempfile::tempdir().unwrap();
    let join = |name: &str| {
        let builder = Node::builder(name).dir(nowhere.path()).patience(LONG);
        builder.remote(a.address(), None).join().unwrap()
    };
    let (leaf, other) = (join("leaf"), join("other"));
    let mut numbers = leaf.publisher_builder::<u64>("numbers").reliable().create().unwrap();
    // Its host, the host beside it, and another leaf.
    let mut subscribers = [&a.node, &b.node, &other].map(|node| node.subscriber::<u64>("numbers").unwrap());
    for subscriber in &subscribers {
        subscriber.wait_for_publishers(1, LONG).unwrap();
    }
    until("its host reads it", || (numbers.subscribers() == 1).then_some(()));
    for number in 0..200u64 {
        numbers.send_timeout(&number, LONG).unwrap();
    }
    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        for expected in 0..200u64 {
            let sample = subscriber.recv_timeout(LONG).unwrap().unwrap_or_else(|| panic!("{at}: {expected}"));
            assert_eq!(*sample, expected);
        }
        assert_eq!(subscriber.lost(), 0);
    }
    // And the other way, from a host that it is not linked with.
    let mut poses = b.node.publisher_builder::<Pose>("poses").reliable().create().unwrap();
    let mut heard = leaf.subscriber::<Pose>("poses").unwrap();
    heard.wait_for_publishers(1, LONG).unwrap();
    poses.wait_for_subscribers(1, LONG).unwrap();
    poses.send(&pose(5)).unwrap();
    let sample = heard.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!((sample.id.to_native(), sample.origin().host()), (5, Some("b")));
    assert_eq!(sample.origin().node.as_str(), "node-b");
}

/// A program that publishes and ends has published.
#[test]
fn what_a_remote_node_published_arrives_though_it_leaves_at_once() {
    let a = Host::new("a", &[]);
    let nowhere = tempfile::tempdir().unwrap();
    let mut subscriber = a.node.subscriber::<u64>("numbers").unwrap();
    let leaf = Node::builder("leaf").dir(nowhere.path()).remote(a.address(), None).join().unwrap();
    let mut publisher = leaf.publisher_builder::<u64>("numbers").reliable().capacity(4096).create().unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    for number in 0..1000u64 {
        publisher.send(&number).unwrap();
    }
    drop(publisher);
    drop(leaf);
    for expected in 0..1000u64 {
        assert_eq!(*subscriber.recv_timeout(LONG).unwrap().expect("it comes"), expected);
    }
}

#[test]
fn a_remote_node_says_why_it_is_not_linked() {
    let nowhere = tempfile::tempdir().unwrap();
    let builder = || Node::builder("leaf").dir(nowhere.path()).patience(Duration::from_millis(300));
    let text = builder().remote("127.0.0.1:1", None).join().unwrap_err().to_string();
    assert!(text.contains("127.0.0.1:1") && text.contains("hm root --listen"), "{text}");
    let text = builder().remote("nonsense", None).join().unwrap_err().to_string();
    assert!(text.contains("the port is missing"), "{text}");
}

/// A forked child has none of the threads of a link: what it drops waits for none, and the link goes on.
#[test]
fn a_forked_child_drops_links_that_go_on_in_its_parent() {
    let a = Host::new("a", &[]);
    let b = Host::new("b", &[a.address()]);
    assert!(a.links.wait_for_hosts(1, LONG) && b.links.wait_for_hosts(1, LONG));
    let mut hosts = Some((a, b));
    let child = hivemind_ring::fork::run_in_child(|| {
        nix::unistd::alarm::set(30);
        let (a, b) = hosts.take().unwrap();
        let is_silent = a.links.status().is_empty() && !a.links.wait_for_hosts(1, LONG);
        let says_so = b.links.refusal().is_some_and(|text| text.contains("join after the fork"))
            && Links::start(&a.node, LinkOptions::new(Security::plain_text("c"))).is_err();
        // The folders are the parent's.
        let (Host { links, node, _link: link, _folder: folder }, other) = (a, b);
        std::mem::forget((folder, other._folder));
        drop((links, node, link, other.links, other.node, other._link));
        i32::from(!(is_silent && says_so))
    });
    let child = nix::unistd::Pid::from_raw(child.unwrap());
    let end = nix::sys::wait::waitpid(child, None);
    assert_eq!(end, Ok(nix::sys::wait::WaitStatus::Exited(child, 0)));
    let (a, b) = hosts.unwrap();
    let mut publisher = a.node.publisher_builder::<Pose>("sensors/pose").reliable().create().unwrap();
    let mut subscriber = b.node.subscriber::<Pose>("sensors/*").unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    for id in 0..100 {
        publisher.send_timeout(&pose(id), LONG).unwrap();
        assert_eq!(subscriber.recv_timeout(LONG).unwrap().expect("it comes").to_owned().unwrap(), pose(id));
    }
    assert_eq!(a.links.status()[0].connections, 1, "the link was not cut");
}
