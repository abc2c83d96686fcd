//! Links whose subscribers come and go, and that break for shorter and for longer than their hosts keep what
//! they have: every publisher is reached again, and every message is received or counted as lost.
//!
//! A publisher that a link had let go of once was never attached to again: the link's subscriber detached
//! without a word to the root, for which the pair stayed connected. So the second subscriber heard nothing,
//! and after a long outage nobody heard anything, in either direction.
#![cfg(feature = "links")]

mod relay;

use hivemind::links::{LinkOptions, Links, Security};
use hivemind::{Node, Publisher, Subscriber};
use relay::Relay;
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(60);
/// How long these links keep their streams without a connection, and how long they are silent before they
/// count as dead.
const HOLD: Duration = Duration::from_millis(600);
const DEAD: Duration = Duration::from_millis(600);

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
        let mut options = LinkOptions::new(Security::plain_text(name)).listen("127.0.0.1:0".parse().unwrap());
        if let Some(peer) = peer {
            options = options.peer(peer.parse().unwrap());
        }
        let links = Links::start(&link, options.hold(HOLD).dead_after(DEAD)).unwrap();
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
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn publisher(node: &Node, service: &str, reliable: bool) -> Publisher<u64> {
    let builder = node.publisher_builder::<u64>(service).capacity(1024);
    if reliable { builder.reliable().create().unwrap() } else { builder.create().unwrap() }
}

/// Publishes the next number.
fn send(publisher: &mut Publisher<u64>) {
    let number = publisher.published();
    publisher.send_timeout(&number, LONG).unwrap();
}

/// One round: a subscriber comes, hears everything, and goes.
fn visit(from: &mut Publisher<u64>, to: &Node, filter: &str) {
    let mut subscriber = to.subscriber::<u64>(filter).unwrap();
    from.wait_for_subscribers(1, LONG).unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    let first = from.published();
    (0..100).for_each(|_| send(from));
    for expected in first..from.published() {
        assert_eq!(*subscriber.recv_timeout(LONG).unwrap().expect("it comes"), expected);
    }
    assert_eq!((subscriber.received(), subscriber.lost()), (100, 0), "{:?}", subscriber.connections());
    drop(subscriber);
    until("the link lets go", || (from.subscribers() == 0).then_some(()));
    // These are not wanted.
    (0..10).for_each(|_| send(from));
}

#[test]
fn a_publisher_is_reached_again_and_again_over_a_link_by_those_who_come_and_go() {
    let a = Host::new("a", None);
    let b = Host::new("b", Some(a.address()));
    let mut publishers = [publisher(&a.node, "x/lossy", false), publisher(&a.node, "x/reliable", true)];
    let mut back = publisher(&b.node, "y/reliable", true);
    for _ in 0..5 {
        visit(&mut publishers[0], &b.node, "x/lossy");
        visit(&mut publishers[1], &b.node, "x/*liable");
        visit(&mut back, &a.node, "**");
    }
    assert_eq!(a.links.status()[0].lost + b.links.status()[0].lost, 0, "nobody missed what nobody wanted");
}

#[test]
fn a_node_without_shared_memory_comes_and_goes_as_well_and_is_reached_again() {
    let a = Host::new("a", None);
    let nowhere = tempfile::tempdir().unwrap();
    let leaf =
        Node::builder("leaf").dir(nowhere.path()).patience(LONG).remote(a.address(), None).join().unwrap();
    let mut out = publisher(&leaf, "x/reliable", true);
    let mut back = publisher(&a.node, "y/lossy", false);
    for _ in 0..5 {
        visit(&mut out, &a.node, "x/*");
        visit(&mut back, &leaf, "y/lossy");
    }
}

/// A subscriber that stays, and counts.
struct Watch {
    publisher: Publisher<u64>,
    subscriber: Subscriber<u64>,
    next: u64,
}

impl Watch {
    fn new(from: &Node, to: &Node, service: &str, reliable: bool) -> Watch {
        let publisher = publisher(from, service, reliable);
        let subscriber = to.subscriber::<u64>(service).unwrap();
        publisher.wait_for_subscribers(1, LONG).unwrap();
        subscriber.wait_for_publishers(1, LONG).unwrap();
        Watch { publisher, subscriber, next: 0 }
    }

    /// Publishes without waiting for anybody; a reliable service may be full.
    fn publish(&mut self) {
        let number = self.publisher.published();
        let _ = self.publisher.send(&number);
    }

    fn hear(&mut self) {
        while let Some(sample) = self.subscriber.try_recv().unwrap() {
            assert!(*sample >= self.next, "once, and in order: {} after {}", *sample, self.next);
            self.next = u64::from(*sample) + 1;
        }
    }

    /// Publishes until something new arrives; then everything that was published is received or lost.
    fn settle(&mut self, what: &str) {
        let before = self.publisher.published();
        until(what, || {
            self.publish();
            self.hear();
            (self.next > before).then_some(())
        });
        let published = self.publisher.published();
        until(what, || {
            self.hear();
            let connected =
                self.subscriber.connections().iter().filter(|connection| !connection.ended).count();
            (self.next == published && connected == 1).then_some(())
        });
        let (received, lost) = (self.subscriber.received(), self.subscriber.lost());
        assert_eq!(
            received + lost,
            published,
            "{what}: {received} + {lost}; {:?}",
            self.subscriber.connections()
        );
    }
}

fn watches(a: &Node, b: &Node) -> [Watch; 4] {
    [
        Watch::new(a, b, "there/reliable", true),
        Watch::new(a, b, "there/lossy", false),
        Watch::new(b, a, "back/reliable", true),
        Watch::new(b, a, "back/lossy", false),
    ]
}

/// Everybody publishes all the time, and hears what comes.
fn go_on(watches: &mut [Watch], time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        for watch in watches.iter_mut() {
            watch.publish();
            watch.hear();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Shorter than streams are held, about as long, and much longer; closed at once, and without a word.
#[test]
fn after_an_outage_of_any_length_everything_flows_again_and_is_counted() {
    let a = Host::new("a", None);
    let relay = Relay::to(a.address());
    let b = Host::new("b", Some(relay.address()));
    let mut watches = watches(&a.node, &b.node);
    for round in 0..6 {
        let outage = [HOLD / 3, HOLD + DEAD / 2, 2 * (HOLD + DEAD)][round % 3];
        watches.iter_mut().for_each(|watch| watch.settle("before"));
        let cut = if round < 3 { relay.cut() } else { relay.swallow() };
        go_on(&mut watches, outage);
        drop(cut);
        watches.iter_mut().for_each(|watch| watch.settle(&format!("after {outage:?}, round {round}")));
        println!("{outage:?}: {:?}", watches.each_ref().map(|watch| watch.subscriber.lost()));
    }
    let lost = watches.each_ref().map(|watch| watch.subscriber.lost());
    assert!(lost.iter().all(|lost| *lost > 0), "the outages were too short to lose anything: {lost:?}");
}

/// The host lets go long before its leaf does, which keeps what it has for half a minute.
#[test]
fn after_a_long_outage_a_node_without_shared_memory_hears_and_is_heard_again() {
    let a = Host::new("a", None);
    let relay = Relay::to(a.address());
    let nowhere = tempfile::tempdir().unwrap();
    let leaf = Node::builder("leaf")
        .dir(nowhere.path())
        .patience(LONG)
        .remote(relay.address(), None)
        .join()
        .unwrap();
    let mut watches = watches(&a.node, &leaf);
    for round in 0..2 {
        watches.iter_mut().for_each(|watch| watch.settle("before"));
        let cut = relay.cut();
        go_on(&mut watches, 2 * (HOLD + DEAD));
        drop(cut);
        watches.iter_mut().for_each(|watch| watch.settle(&format!("after round {round}")));
    }
}

/// A subscriber that comes after an outage has missed nothing of it.
#[test]
fn a_subscriber_that_comes_after_an_outage_does_not_count_what_it_never_wanted() {
    let a = Host::new("a", None);
    let relay = Relay::to(a.address());
    let b = Host::new("b", Some(relay.address()));
    let mut lossy = publisher(&a.node, "x", false);
    visit(&mut lossy, &b.node, "x");
    {
        let mut subscriber = b.node.subscriber::<u64>("x").unwrap();
        lossy.wait_for_subscribers(1, LONG).unwrap();
        subscriber.wait_for_publishers(1, LONG).unwrap();
        let cut = relay.cut();
        until("the link lets go", || (lossy.subscribers() == 0).then_some(()));
        until("the subscriber sees it", || {
            assert!(subscriber.try_recv().unwrap().is_none());
            subscriber.wait_for_publishers(1, Duration::ZERO).err()
        });
        (0..1000).for_each(|_| send(&mut lossy));
        drop(subscriber);
        drop(cut);
    }
    visit(&mut lossy, &b.node, "x");
}

/// They displaced each other several times a second, and nearly everything was lost without being counted.
#[test]
fn of_two_hosts_of_one_name_the_second_is_refused_in_words_and_follows_when_the_first_has_left() {
    let a = Host::new("a", None);
    let first = Host::new("b", Some(a.address()));
    assert!(a.links.wait_for_hosts(1, LONG) && first.links.wait_for_hosts(1, LONG));
    let mut watch = Watch::new(&first.node, &a.node, "numbers", true);
    let second = Host::new("b", Some(a.address()));
    // Each side names the other one: the address of the first, as the host sees it.
    let twin = a.links.status()[0].address.clone().unwrap();
    for links in [&second.links, &a.links] {
        let refusal = until("it is refused", || links.refusal());
        assert!(refusal.contains("linked already") && refusal.contains(&twin), "{refusal}");
    }
    for _ in 0..1500 {
        send(&mut watch.publisher);
        watch.hear();
    }
    watch.settle("beside its twin");
    assert_eq!((watch.subscriber.lost(), watch.subscriber.connections().len()), (0, 1));
    assert_eq!((a.links.status()[0].connections, second.links.status().len()), (1, 0));
    drop(watch);
    drop(first);
    assert!(second.links.wait_for_hosts(1, LONG), "{:?}", second.links.refusal());
    drop(Watch::new(&second.node, &a.node, "numbers", true));
}
