//! What the living see when a process is killed, with SIGKILL, at any moment; and that nothing is left
//! behind.

use hivemind_ring::segment::Anonymous;
use hivemind_ring::view::RingView;
use hivemind_tests::hive::{Actor, Hive, SubscriberOf, joining, lossy, reliable};
use hivemind_tests::order::{Answer, Join, Kind, Order};
use hivemind_tests::until;
use std::time::Instant;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

#[test]
fn a_killed_publisher_leaves_every_committed_message_and_then_the_connection_ends() {
    for kind in [Kind::Typed, Kind::Bytes] {
        for publish in [reliable("entries", kind), lossy("entries", kind)] {
            let hive = Hive::new(ACTOR);
            let listener = hive.actor("listener");
            let subscriber = listener.subscribe("entries", kind);
            let speaker = hive.actor("speaker");
            let publisher = speaker.publish(publish);
            subscriber.await_publishers(1);
            // The subscriber does not look at one of them before the publisher is dead.
            let committed = publisher.send(200);
            speaker.kill();
            subscriber.collect();
            let tally = subscriber.await_tally(0, 1);
            tally.assert_sound();
            let connection = tally.from("speaker");
            assert_eq!((connection.received, connection.lost), (committed, 0));
        }
    }
}

/// The publisher is killed while it publishes. An observer that has mapped its ring before reads there how
/// many messages were committed: these, and no more, were received or lost.
#[test]
fn a_publisher_killed_in_mid_stream_is_read_to_its_last_committed_message() {
    for publish in [lossy("entries", Kind::Typed), reliable("entries", Kind::Bytes)] {
        let hive = Hive::new(ACTOR);
        let listener = hive.actor("listener");
        let subscriber = listener.subscribe("entries", publish.kind);
        let speaker = hive.actor("speaker");
        let publisher = speaker.publish(publish);
        subscriber.await_publishers(1);
        subscriber.collect();
        let watcher = hive.node("watcher").observer().join().unwrap();
        let end = watcher.observe().unwrap().publishers[0].end;
        let ring = RingView::open(&Anonymous, watcher.inspect(end).unwrap()).unwrap();
        publisher.stream(None, 0);
        subscriber.await_tally(10_000, 0);
        speaker.kill();

        let tally = subscriber.await_tally(0, 1);
        tally.assert_sound();
        let connection = tally.from("speaker");
        // The count of the ring is written right after the commit, so it may be one behind.
        let published = ring.published();
        let behind = connection.position() - published;
        assert!(behind <= 1, "published {published}, {connection:#?}");
        assert!(!ring.closed(), "nobody closed it");
    }
}

#[test]
fn a_restarted_publisher_has_its_name_at_once_and_its_subscribers_go_on() {
    let hive = Hive::new(ACTOR);
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("entries", Kind::Typed);
    subscriber.collect();
    let mut sent = 0;
    for life in 1..=5 {
        let speaker = hive.spawn("speaker");
        // Without patience to spare: the name is free as soon as the kernel says that the former holder is
        // gone.
        speaker.join(joining("speaker"));
        let publisher = speaker.publish(reliable("entries", Kind::Typed));
        publisher.await_subscribers(1);
        sent += publisher.send(100);
        subscriber.await_tally(sent, life - 1);
        speaker.kill();
    }
    let tally = subscriber.await_tally(sent, 5);
    tally.assert_sound();
    assert_eq!((tally.messages(), tally.lost()), (500, 0));
}

#[test]
fn the_memory_that_a_killed_subscriber_held_comes_back() {
    for publish in [lossy("frames", Kind::Bytes), reliable("frames", Kind::Bytes)] {
        let hive = Hive::new(ACTOR);
        let speaker = hive.actor("speaker");
        let mut publish = publish;
        publish.capacity = 4;
        publish.max_memory = Some(1 << 20);
        let publisher = speaker.publish(publish);
        let survivor = hive.actor("survivor");
        let other = survivor.subscribe("frames", Kind::Bytes);
        other.await_publishers(1);
        other.collect();
        let holder = hive.actor("holder");
        let subscriber = holder.subscribe("frames", Kind::Bytes);
        publisher.await_subscribers(2);
        const LENGTH: usize = 200_000;
        // Five of these and no more fit into the memory.
        for _ in 0..5 {
            publisher.attempt(1, LENGTH, 5_000).unwrap();
            subscriber.hold(1);
        }
        // The other subscriber has read them all, so what is short from here on is memory, not slots.
        other.await_tally(5, 0);
        let failure = publisher.attempt(1, LENGTH, 0).unwrap_err();
        assert!(failure.variant.contains("MemoryOut") && failure.text.contains("max_memory"), "{failure:#?}");
        holder.tell(&Order::CheckHeld);

        // It waits for room, and gets it as soon as the kernel says that the holder is dead.
        speaker.begin(&publisher.sending(100, LENGTH, 50_000));
        holder.kill();
        let sent = match speaker.answer().unwrap() {
            Answer::Number(sent) => sent,
            other => panic!("{other:?}"),
        };
        assert_eq!(sent, 105);
        let tally = other.await_tally(sent, 0);
        tally.assert_sound();
        assert_eq!(tally.messages(), sent);
    }
}

#[test]
fn a_reliable_publisher_that_waits_for_a_subscriber_goes_on_when_that_one_is_killed() {
    let hive = Hive::new(ACTOR);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let idler = hive.actor("idler");
    idler.subscribe("entries", Kind::Typed);
    publisher.await_subscribers(1);
    publisher.send(256);
    let failure = publisher.attempt(1, 8, 0).unwrap_err();
    assert!(failure.variant.contains("Full") && failure.text.contains("send_timeout"), "{failure:#?}");

    let begun = Instant::now();
    speaker.begin(&publisher.sending(10_000, 8, 50_000));
    idler.kill();
    assert_eq!(speaker.answer(), Ok(Answer::Number(10_256)));
    println!("10,000 messages after the death of the subscriber that held them up: {:?}", begun.elapsed());
}

/// Three nodes talk while the process of the root dies again and again: no message is lost, newcomers are let
/// in, and they get to the publishers of old, which the successor knows only because their nodes tell it.
#[test]
fn established_traffic_does_not_notice_the_death_of_the_root_and_newcomers_get_in() {
    let hive = Hive::new(ACTOR);
    let mut host = hive.actor("host-0");
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("*", Kind::Typed);
    subscriber.await_publishers(1);
    subscriber.collect();
    assert_eq!(speaker.root().0, Some(host.pid()));
    publisher.stream(Some(100), 20);
    for round in 1..=4 {
        // A dedicated root takes over in order from an embedded one, so there is a process to kill that does
        // nothing else.
        let before = subscriber.tally().messages();
        let begun = Instant::now();
        host.kill();
        let newcomer = hive.actor(&format!("newcomer-{round}"));
        let joined = begun.elapsed();
        let late = newcomer.subscribe("entries", Kind::Typed);
        late.await_publishers(1);
        late.collect();
        late.await_tally(100, 0).assert_sound();
        println!(
            "round {round}: the next join was served {joined:?} after the kill, its first messages came after {:?}",
            begun.elapsed()
        );
        let tally = subscriber.await_tally(before + 1000, 0);
        tally.assert_sound();
        assert_eq!((tally.lost(), tally.connections.len(), tally.ended()), (0, 1, 0));
        // The successor, whoever it is, dies next, unless it is one of the two whose traffic is watched.
        let (pid, epoch) = until("the listener knows the new root", || {
            let (pid, epoch) = listener.root();
            pid.map(|pid| (pid, epoch))
        });
        println!("  root is process {pid}, epoch {epoch}");
        late.drop_it();
        drop(newcomer);
        host = dedicated_root(&hive, &listener);
    }
    let sent = publisher.stop();
    let tally = subscriber.await_tally(sent, 0);
    tally.assert_sound();
    let connection = tally.from("speaker");
    assert_eq!((connection.first + connection.received, connection.lost), (sent, 0));
    println!("longest gap between two messages: {} us", tally.longest_gap_us);
}

/// Starts a process that serves as the root and does nothing else, and waits until it does.
fn dedicated_root(hive: &Hive, witness: &Actor) -> Actor {
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    until("the dedicated root takes over", || (witness.root().0 == Some(root.pid())).then_some(()));
    root
}

/// As above, but the root is embedded in a node that publishes itself.
#[test]
fn when_a_node_dies_that_hosts_the_root_only_its_own_services_end() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let doomed = host.publish(reliable("of/host", Kind::Typed));
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("of/speaker", Kind::Typed));
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("of/*", Kind::Typed);
    subscriber.await_publishers(2);
    subscriber.collect();
    doomed.stream(None, 50);
    publisher.stream(None, 50);
    subscriber.await_tally(2000, 0);
    host.kill();
    let before = subscriber.await_tally(0, 1).messages();
    subscriber.await_tally(before + 2000, 1);
    let sent = publisher.stop();
    let tally = subscriber.await_tally(sent, 1);
    tally.assert_sound();
    assert!(tally.from("host").ended);
    let connection = tally.from("speaker");
    assert!(!connection.ended);
    let tally = await_position(&subscriber, "speaker", sent);
    assert_eq!((tally.from("speaker").position(), tally.lost()), (sent, 0));

    // The successor lists who lives, and nobody else.
    assert_eq!(listener.nodes(), ["listener", "speaker"]);
    assert!([listener.pid(), speaker.pid()].map(Some).contains(&listener.root().0));
}

/// Waits until a subscriber has got as far as `position` with a node's publisher.
fn await_position(subscriber: &SubscriberOf<'_>, node: &str, position: u64) -> hivemind_tests::order::Tally {
    until("the last messages", || {
        let tally = subscriber.tally();
        (tally.from(node).position() == position).then_some(tally)
    })
}

/// While a hive lives it has nothing in /dev/shm, and its processes map no file but programs and libraries;
/// so when all of them are killed at once there is nothing to be left behind but the socket and the lock
/// file, and these hinder nobody.
#[test]
fn after_sigkill_of_all_nothing_is_left_but_socket_and_lock_file() {
    let before = in_shared_memory();
    let hive = Hive::new(ACTOR);
    let mut generation: Vec<Actor> = Vec::new();
    for life in 0..3 {
        // All at once, and with the names of those who were killed.
        let begun = Instant::now();
        let nodes: Vec<_> = (0..6).map(|number| hive.spawn(&format!("node-{number}"))).collect();
        for node in &nodes {
            node.begin(&Order::Join(joining(node.name())));
        }
        for node in &nodes {
            node.answer().unwrap();
        }
        let joined = begun.elapsed();
        let ends: Vec<_> = nodes
            .iter()
            .map(|node| {
                let publisher = node.publish(reliable(&format!("of/{}", node.name()), Kind::Bytes));
                (publisher, node.subscribe("of/*", Kind::Bytes))
            })
            .collect();
        for (publisher, subscriber) in &ends {
            subscriber.await_publishers(nodes.len());
            subscriber.collect();
            publisher.stream(None, 0);
        }
        for (_, subscriber) in &ends {
            subscriber.await_tally(1000, 0);
        }
        for node in &nodes {
            let Answer::Belongings { descriptors, mappings } = node.tell(&Order::Belongings) else {
                panic!()
            };
            for place in descriptors.iter().chain(&mappings) {
                assert!(!place.contains("/dev/shm"), "{place}");
            }
        }
        println!("life {life}: six nodes joined within {joined:?}");
        // All are told to die before one is waited for.
        for node in &nodes {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(node.pid()), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }
        nodes.iter().for_each(Actor::kill);
        assert_eq!(hive.files(), ["default/root.lock", "default/root.sock"]);
        generation.extend(nodes);
    }
    let new: Vec<_> = in_shared_memory().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(new.iter().all(|name| !name.contains("hivemind")), "{new:?}");
}

fn in_shared_memory() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// A stopped process is alive: it keeps its name, and a reliable publisher waits for it.
#[test]
fn a_stopped_process_is_alive() {
    use nix::sys::signal::{Signal, kill};
    let hive = Hive::new(ACTOR);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("entries", Kind::Typed);
    subscriber.await_publishers(1);
    subscriber.collect();
    let pid = nix::unistd::Pid::from_raw(listener.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    until("it is stopped", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("T (stopped)").then_some(())
    });
    let namesake = hive.spawn("listener");
    let failure =
        namesake.attempt(&Order::Join(Join { patience_ms: 500, ..joining("listener") })).unwrap_err();
    assert!(failure.variant.contains("NodeNameTaken"), "{failure:#?}");
    let failure = publisher.attempt(1000, 8, 100).unwrap_err();
    assert!(failure.variant.contains("Full"), "{failure:#?}");
    let sent = publisher.published();
    kill(pid, Signal::SIGCONT).unwrap();
    let tally = subscriber.await_tally(sent, 0);
    tally.assert_sound();
    assert_eq!((tally.messages(), tally.lost()), (sent, 0));
}

/// What was sent before the last subscriber came is not lost with its publisher: a sample stays readable
/// after the death of the process that wrote it.
#[test]
fn held_samples_outlive_the_process_that_wrote_them() {
    let hive = Hive::new(ACTOR);
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("entries", Kind::Bytes);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(lossy("entries", Kind::Bytes));
    subscriber.await_publishers(1);
    publisher.attempt(20, 100_000, 0).unwrap();
    subscriber.hold(20);
    publisher.stream(Some(100_000), 0);
    until("the publisher goes round its ring", || (publisher.published() > 2000).then_some(()));
    assert_eq!(listener.tell(&Order::CheckHeld), Answer::Number(20));
    speaker.kill();
    subscriber.collect();
    subscriber.await_tally(0, 1);
    assert_eq!(listener.tell(&Order::CheckHeld), Answer::Number(20));
}

/// The lock passes on within moments, also when many want it.
#[test]
fn the_root_is_taken_over_by_exactly_one() {
    let hive = Hive::new(ACTOR);
    let mut nodes: Vec<_> = (0..6).map(|number| hive.actor(&format!("node-{number}"))).collect();
    let mut epoch = 0;
    while nodes.len() > 1 {
        let (root, now) = until("all obey the same root", || {
            let mut roots: Vec<_> = nodes.iter().map(Actor::root).collect();
            roots.dedup();
            roots.first().filter(|root| roots.len() == 1 && root.0.is_some()).copied()
        });
        assert!(now > epoch, "epoch {now} after {epoch}");
        epoch = now;
        let place = nodes.iter().position(|node| Some(node.pid()) == root).expect("the root is one of them");
        let begun = Instant::now();
        nodes.remove(place).kill();
        let (successor, _) = until("a successor", || {
            let (pid, epoch) = nodes[0].root();
            (epoch > now).then_some((pid, epoch))
        });
        println!("process {successor:?} took over {:?} after the kill", begun.elapsed());
    }
}
