//! Hosts in network namespaces of their own, and networks between them that lose, delay, reorder, double,
//! narrow and break.

mod net;

use hivemind::{Node, Publisher, Subscriber};
use net::{Net, Weather};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(60);
const CUT: Duration = Duration::from_secs(10);

/// With what it says, or it could not say it.
struct Root(Child, #[expect(dead_code, reason = "held open")] BufReader<ChildStdout>);

impl Root {
    fn start(namespace: &str, folder: &Path, arguments: &[&str]) -> Root {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_hm")]).arg("--dir").arg(folder);
        let mut child = command.arg("root").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut first).unwrap();
        assert!(first.contains("root of hive"), "{first}");
        Root(child, said)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hive of its own, with its root, in a namespace.
struct Host {
    node: Node,
    _root: Root,
    _folder: tempfile::TempDir,
}

impl Host {
    fn start(net: &Net, host: usize, arguments: &[&str]) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("host{host}");
        let root =
            Root::start(net.host(host), folder.path(), &[arguments, &["--plain-text", &name]].concat());
        let node = Node::builder("node").dir(folder.path()).external_root().patience(LONG).join().unwrap();
        Host { node, _root: root, _folder: folder }
    }
}

/// The hosts 0 and 1, linked; 0 listens at that address.
fn pair(net: &Net, address: &str) -> [Host; 2] {
    let address = format!("{address}:7700");
    [Host::start(net, 0, &["--listen", &address]), Host::start(net, 1, &["--peer", &address])]
}

/// A reliable service of blocks, each of which says which one it is.
struct Stream {
    publisher: Publisher<Vec<u64>>,
    subscriber: Subscriber<Vec<u64>>,
    sent: u64,
    heard: u64,
}

fn words(number: u64, length: usize) -> Vec<u64> {
    (0..length as u64).map(|at| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at).collect()
}

impl Stream {
    fn new(service: &str, from: &Host, to: &Host) -> Stream {
        let builder = from.node.publisher_builder::<Vec<u64>>(service).reliable().capacity(1024);
        let publisher = builder.create().unwrap();
        let subscriber = to.node.subscriber::<Vec<u64>>(service).unwrap();
        subscriber.wait_for_publishers(1, LONG).unwrap();
        publisher.wait_for_subscribers(1, LONG).unwrap();
        Stream { publisher, subscriber, sent: 0, heard: 0 }
    }

    /// One message, of so many words after its number.
    fn send(&mut self, length: usize) {
        let message = [&[self.sent][..], &words(self.sent, length)].concat();
        self.publisher.send_timeout(&message, LONG).unwrap();
        self.sent += 1;
    }

    /// Everything that was sent arrives, whole and in order.
    fn hear(&mut self) {
        while self.heard < self.sent {
            let sample = self.subscriber.recv_timeout(LONG).unwrap().expect("it comes");
            let (number, rest) = sample.split_first().expect("a number");
            assert_eq!(*number, self.heard);
            assert!(rest.iter().map(|word| word.to_native()).eq(words(self.heard, rest.len())), "torn");
            self.heard += 1;
        }
        assert_eq!(self.subscriber.lost(), 0);
    }
}

/// A service that publishes whatever happens, and somebody who counts what comes of it.
struct Watch {
    publisher: Publisher<u64>,
    subscriber: Subscriber<u64>,
    next: u64,
}

impl Watch {
    fn new(service: &str, from: &Node, to: &Node, reliable: bool) -> Watch {
        let builder = from.publisher_builder::<u64>(service).capacity(256);
        let builder = if reliable { builder.reliable() } else { builder };
        let publisher = builder.create().unwrap();
        let subscriber = to.subscriber::<u64>(service).unwrap();
        subscriber.wait_for_publishers(1, LONG).unwrap();
        publisher.wait_for_subscribers(1, LONG).unwrap();
        Watch { publisher, subscriber, next: 0 }
    }

    /// Each direction, reliable and lossy.
    fn between(near: &Node, far: &Node) -> [Watch; 4] {
        [
            Watch::new("there/reliable", near, far, true),
            Watch::new("there/lossy", near, far, false),
            Watch::new("back/reliable", far, near, true),
            Watch::new("back/lossy", far, near, false),
        ]
    }

    fn go_on(watches: &mut [Watch], time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            for watch in watches.iter_mut() {
                watch.publish();
                watch.hear();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One message, unless it is a reliable service and there is no room.
    fn publish(&mut self) {
        let number = self.publisher.published();
        let _ = self.publisher.send(&number);
    }

    fn hear(&mut self) {
        while let Some(sample) = self.subscriber.try_recv().unwrap() {
            assert!(*sample >= self.next, "{} after {}", *sample, self.next);
            self.next = u64::from(*sample) + 1;
        }
    }

    /// Publishes until something of it arrives; then each message was received or counted as lost, and one
    /// publisher is there.
    fn settle(&mut self, what: &str) {
        let before = self.publisher.published();
        let begun = Instant::now();
        loop {
            if self.next <= before {
                self.publish();
            }
            self.hear();
            let connections = self.subscriber.connections();
            let live = connections.iter().filter(|connection| !connection.ended).count();
            if self.next > before && self.next == self.publisher.published() && live == 1 {
                break;
            }
            assert!(begun.elapsed() < LONG, "{what}: heard {} of {before}; {connections:?}", self.next);
            std::thread::sleep(Duration::from_millis(1));
        }
        let (received, lost, published) =
            (self.subscriber.received(), self.subscriber.lost(), self.publisher.published());
        assert_eq!(received + lost, published, "{what}: received {received}, lost {lost}");
    }
}

/// Links that keep what they have for a second, once they have noticed, after another one, that nothing
/// comes; outages that are shorter, about as long, and longer. `HIVEMIND_OUTAGES=5,25,50`: as long as that,
/// with the links as they are without options, which keep it for 36 s.
fn outages() -> (Vec<Duration>, &'static [&'static str]) {
    match std::env::var("HIVEMIND_OUTAGES") {
        Ok(text) => (text.split(',').map(|all| Duration::from_secs(all.parse().unwrap())).collect(), &[]),
        Err(_) => {
            ([500, 2200, 4500].map(Duration::from_millis).to_vec(), &["--link-hold", "1", "--link-dead", "1"])
        }
    }
}

/// Many short messages and a few long ones, each way at once.
fn exchange(near: &Host, far: &Host) {
    let mut streams = [
        Stream::new("there/short", near, far),
        Stream::new("there/long", near, far),
        Stream::new("back/short", far, near),
        Stream::new("back/long", far, near),
    ];
    for round in 0..200 {
        for (at, stream) in streams.iter_mut().enumerate() {
            match (at % 2, round % 20) {
                (1, 0) => stream.send(32 * 1024),
                (1, _) => {}
                _ => (0..20).for_each(|_| stream.send(3)),
            }
        }
        if round % 10 == 9 {
            streams.iter_mut().for_each(Stream::hear);
        }
    }
}

#[test]
fn a_network_that_loses_packets_costs_no_message() {
    let Some(mut net) = Net::new(2) else { return };
    let Some(wire) = net.wire(0, 1) else { return };
    if !net.lose(0, &wire) || !net.lose(1, &wire) {
        return;
    }
    let [near, far] = pair(&net, &wire.address(1));
    exchange(&near, &far);
    for host in 0..2 {
        assert!(net.dropped(host, &wire) > 0, "nothing was lost, so nothing was shown");
    }
}

#[test]
fn a_network_that_delays_reorders_and_doubles_packets_costs_no_message() {
    let Some(mut net) = Net::new(2) else { return };
    let weather = Weather { seed: 7, drops: 100, doubles: 50, delay: Duration::from_millis(2) };
    let Some((wire, tunnel)) = net.tunnel(0, 1, weather) else { return };
    let [near, far] = pair(&net, &wire.address(1));
    exchange(&near, &far);
    let happened = &tunnel.happened;
    for count in [&happened.forwarded, &happened.dropped, &happened.doubled, &happened.overtaken] {
        assert!(count.load(Ordering::Relaxed) > 0, "that did not happen, so it was not shown");
    }
}

/// What a lossy service has too much of is dropped where it is sent, while it is fresh: what arrives is not
/// what was published long ago.
#[test]
fn a_narrow_network_carries_what_is_fresh_and_all_that_is_reliable() {
    const RING: u64 = 2048;
    const BYTES: usize = 16 * 1024;
    let Some(mut net) = Net::new(2) else { return };
    let Some(wire) = net.wire(0, 1) else { return };
    if !net.narrow(0, &wire, "20mbit") {
        return;
    }
    let [near, far] = pair(&net, &wire.address(1));
    let mut reliable = Stream::new("reliable", &near, &far);
    let mut video = near.node.publisher_builder::<Vec<u64>>("video").capacity(RING).create().unwrap();
    let mut watch = far.node.subscriber::<Vec<u64>>("video").unwrap();
    watch.wait_for_publishers(1, LONG).unwrap();
    video.wait_for_subscribers(1, LONG).unwrap();
    let (mut published, mut behind) = (0, Vec::new());
    // 16 KiB each millisecond are six times what the wire carries; the ring has place for two seconds of it.
    while published < 2 * RING {
        let mut frame = vec![0; BYTES / 8];
        frame[0] = published;
        video.send(&frame).unwrap();
        published += 1;
        if published.is_multiple_of(16) {
            reliable.send(3);
        }
        while let Some(sample) = watch.try_recv().unwrap() {
            behind.push(published - sample[0].to_native());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    reliable.hear();
    drop(video);
    let begun = Instant::now();
    let ended = loop {
        while let Some(sample) = watch.try_recv().unwrap() {
            behind.push(published - sample[0].to_native());
        }
        if let Some(ended) = watch.connections().into_iter().find(|connection| connection.ended) {
            break ended;
        }
        assert!(begun.elapsed() < LONG, "its end arrives: {:?}", watch.connections());
        std::thread::yield_now();
    };
    assert_eq!(ended.received + ended.lost, published, "{ended:?}");
    assert!(ended.lost > 0, "the wire was not narrow: {ended:?}");
    behind.sort_unstable();
    let median = behind[behind.len() / 2];
    println!(
        "{} of {published} arrived; behind by {median} frames in the middle, at most {:?}",
        behind.len(),
        behind.last()
    );
    // In order from the ring it would be nearly all of it.
    assert!(median < RING / 2, "what arrives was published long ago: {median} frames of {RING}");
}

/// Each host publishes and hears all others, over links with each of them.
#[test]
fn of_three_hosts_two_go_on_while_the_third_is_cut_off() {
    let Some(mut net) = Net::new(3) else { return };
    let wires = [(0, 1), (0, 2), (1, 2)].map(|(one, other)| net.wire(one, other));
    let [Some(first), Some(second), Some(third)] = wires else { return };
    let listen = "0.0.0.0:7700";
    let hosts = [
        Host::start(&net, 0, &["--listen", listen]),
        Host::start(&net, 1, &["--listen", listen, "--peer", &format!("{}:7700", first.address(1))]),
        Host::start(
            &net,
            2,
            &[
                "--peer",
                &format!("{}:7700", second.address(1)),
                "--peer",
                &format!("{}:7700", third.address(1)),
            ],
        ),
    ];
    let mut streams: Vec<(usize, usize, Stream)> = Vec::new();
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            let stream = Stream::new(&format!("from/{from}/to/{to}"), &hosts[from], &hosts[to]);
            streams.push((from, to, stream));
        }
    }
    let mut everybody = hosts[0].node.subscriber::<Vec<u64>>("from/*/to/0").unwrap();
    everybody.wait_for_publishers(2, LONG).unwrap();
    let mut round = |all: bool| {
        for (from, to, stream) in &mut streams {
            (0..20).for_each(|_| stream.send(10));
            if all || (*from != 2 && *to != 2) {
                stream.hear();
            }
        }
    };
    (0..5).for_each(|_| round(true));
    net.set(2, &second, "down");
    net.set(2, &third, "down");
    // Reliable streams from and to the third host wait meanwhile, in rings that have room for it.
    (0..10).for_each(|_| round(false));
    net.set(2, &second, "up");
    net.set(2, &third, "up");
    (0..5).for_each(|_| round(true));
    // Once each, though two paths lead here.
    let mut numbers = BTreeMap::new();
    while let Some(sample) = everybody.try_recv().unwrap() {
        let next: &mut u64 = numbers.entry(sample.origin().publisher).or_default();
        assert_eq!(sample[0].to_native(), *next);
        *next += 1;
    }
    assert_eq!(numbers.into_values().collect::<Vec<_>>(), [400, 400]);
}

#[test]
fn a_wire_that_is_cut_and_mended_costs_a_reliable_service_nothing() {
    let Some(mut net) = Net::new(2) else { return };
    let Some(wire) = net.wire(0, 1) else { return };
    let [near, far] = pair(&net, &wire.address(1));
    let (speaker, listener) = (&near.node, &far.node);
    let mut reliable =
        speaker.publisher_builder::<u64>("reliable").reliable().capacity(65_536).create().unwrap();
    let mut lossy = speaker.publisher_builder::<u64>("lossy").create().unwrap();
    let mut hear_all = listener.subscriber::<u64>("reliable").unwrap();
    let mut hear_some = listener.subscriber::<u64>("lossy").unwrap();
    hear_all.wait_for_publishers(1, LONG).unwrap();
    hear_some.wait_for_publishers(1, LONG).unwrap();
    reliable.wait_for_subscribers(1, LONG).unwrap();
    lossy.wait_for_subscribers(1, LONG).unwrap();

    let mut sent = 0u64;
    let mut send = |count: u64| {
        for _ in 0..count {
            reliable.send_timeout(&sent, LONG).unwrap();
            lossy.send(&sent).unwrap();
            sent += 1;
        }
        sent
    };
    let mut expected = 0u64;
    let mut hear = |up_to: u64| {
        while expected < up_to {
            let sample = hear_all.recv_timeout(LONG).unwrap().expect("it comes");
            assert_eq!(*sample, expected);
            expected += 1;
        }
    };
    let before = send(1000);
    hear(before);
    net.set(0, &wire, "down");
    let cut = Instant::now();
    while cut.elapsed() < CUT {
        send(10);
        std::thread::sleep(Duration::from_millis(10));
    }
    let published = send(1);
    net.set(0, &wire, "up");
    let mended = Instant::now();
    hear(before + 1);
    println!("flow again {:?} after it was mended, {published} published", mended.elapsed());
    hear(published);
    assert_eq!(hear_all.lost(), 0);

    // The lossy one has lost what its ring no longer had, and each of them is counted.
    let last = send(1000);
    drop(lossy);
    let begun = Instant::now();
    let ended = loop {
        while hear_some.try_recv().unwrap().is_some() {}
        if let Some(ended) = hear_some.connections().into_iter().find(|connection| connection.ended) {
            break ended;
        }
        assert!(begun.elapsed() < LONG, "its end arrives: {:?}", hear_some.connections());
        std::thread::yield_now();
    };
    assert_eq!(ended.received + ended.lost, last, "{ended:?}");
    assert!(ended.lost > 0, "ten seconds were no loss: {ended:?}");
}

/// Both sides have let go of each other's streams after the longest one. Then nothing flowed any more, in
/// either direction, and nobody was told.
#[test]
fn after_outages_of_any_length_both_directions_flow_again_and_every_message_is_counted() {
    let Some(mut net) = Net::new(2) else { return };
    let Some(wire) = net.wire(0, 1) else { return };
    let (outages, options) = outages();
    let address = format!("{}:7700", wire.address(1));
    let near = Host::start(&net, 0, &[options, &["--listen", &address]].concat());
    let far = Host::start(&net, 1, &[options, &["--peer", &address]].concat());
    let mut watches = Watch::between(&near.node, &far.node);
    for outage in outages {
        watches.iter_mut().for_each(|watch| watch.settle("before"));
        net.set(0, &wire, "down");
        Watch::go_on(&mut watches, outage);
        net.set(0, &wire, "up");
        let mended = Instant::now();
        watches.iter_mut().for_each(|watch| watch.settle(&format!("after {outage:?}")));
        let counts = watches.each_ref().map(|watch| (watch.subscriber.received(), watch.subscriber.lost()));
        println!("{outage:?}: flow again after {:?}; received and lost: {counts:?}", mended.elapsed());
    }
}

/// The other side lets go after a while, and the root that goes on knows nothing of that.
#[test]
fn a_root_that_was_stopped_for_longer_than_links_are_kept_is_linked_again_with_all_its_streams() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let Some(mut net) = Net::new(2) else { return };
    let Some(wire) = net.wire(0, 1) else { return };
    let (outages, options) = outages();
    let address = format!("{}:7700", wire.address(1));
    let hosts = [
        Host::start(&net, 0, &[options, &["--listen", &address]].concat()),
        Host::start(&net, 1, &[options, &["--peer", &address]].concat()),
    ];
    let mut watches = Watch::between(&hosts[0].node, &hosts[1].node);
    let stop = *outages.last().unwrap();
    for host in &hosts {
        watches.iter_mut().for_each(|watch| watch.settle("before"));
        let root = Pid::from_raw(host._root.0.id() as i32);
        kill(root, Signal::SIGSTOP).unwrap();
        Watch::go_on(&mut watches, stop);
        kill(root, Signal::SIGCONT).unwrap();
        watches.iter_mut().for_each(|watch| watch.settle(&format!("after a stop of {stop:?}")));
        let counts = watches.each_ref().map(|watch| (watch.subscriber.received(), watch.subscriber.lost()));
        println!("stopped for {stop:?}; received and lost: {counts:?}");
    }
}
