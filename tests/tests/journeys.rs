//! Nodes of separate processes meet: in any order, in the hive they ask for and in no other.

use hivemind::{NodeError, SessionError};
use hivemind_runtime::session::JoinError;
use hivemind_tests::hive::{Hive, joining, lossy, reliable};
use hivemind_tests::order::{Join, Kind, Order};
use hivemind_tests::until;
use std::time::{Duration, Instant};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

#[test]
fn messages_of_all_sizes_travel_between_processes_whole() {
    for kind in [Kind::Typed, Kind::Bytes] {
        let hive = Hive::new(ACTOR);
        let speaker = hive.actor("speaker");
        let publisher = speaker.publish(reliable("entries", kind));
        let listeners: Vec<_> = (0..3).map(|number| hive.actor(&format!("listener-{number}"))).collect();
        let subscribers: Vec<_> = listeners.iter().map(|listener| listener.subscribe("*", kind)).collect();
        for subscriber in &subscribers {
            subscriber.await_publishers(1);
            subscriber.collect();
        }
        for length in (0..100).chain([1000, 4096, 65_536, 1 << 20]) {
            publisher.attempt(1, length, 20_000).unwrap();
        }
        publisher.stream(None, 0);
        until("a full round of the mix", || (publisher.published() > 10_104).then_some(()));
        let sent = publisher.stop();
        for subscriber in &subscribers {
            let tally = subscriber.await_tally(sent, 0);
            tally.assert_sound();
            assert_eq!((tally.messages(), tally.lost()), (sent, 0));
        }
        publisher.retire();
        for subscriber in &subscribers {
            assert_eq!(subscriber.await_tally(sent, 1).messages(), sent);
        }
    }
}

#[test]
fn subscribers_before_publishers_and_publishers_before_subscribers() {
    let hive = Hive::new(ACTOR);
    let early = hive.actor("early");
    let first = early.subscribe("a/*", Kind::Typed);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(lossy("a/b", Kind::Typed));
    first.await_publishers(1);
    let late = hive.actor("late");
    let second = late.subscribe("**", Kind::Typed);
    second.await_publishers(1);
    publisher.await_subscribers(2);
    first.collect();
    second.collect();
    publisher.send(100);
    for subscriber in [&first, &second] {
        let tally = subscriber.await_tally(100, 0);
        tally.assert_sound();
        assert_eq!(tally.messages(), 100);
    }
}

/// Nodes that may not host the root start first; then those that may; a dedicated root comes last and takes
/// over.
#[test]
fn nodes_may_start_before_the_root_and_in_any_order() {
    let hive = Hive::new(ACTOR);
    let waiting: Vec<_> = (0..3).map(|number| hive.spawn(&format!("external-{number}"))).collect();
    for node in &waiting {
        node.begin(&Order::Join(Join { external: true, ..joining(node.name()) }));
    }
    let root = hive.spawn("root");
    root.begin(&Order::ServeRoot);
    let embedded = hive.actor("embedded");
    root.answer().unwrap();
    for node in &waiting {
        node.answer().unwrap();
    }
    let mut names: Vec<_> = waiting.iter().map(|node| node.name().to_owned()).collect();
    names.insert(0, "embedded".to_owned());
    until("all have joined the same root", || (embedded.nodes() == names).then_some(()));
    let publisher = waiting[0].publish(reliable("entries", Kind::Typed));
    let subscriber = waiting[1].subscribe("entries", Kind::Typed);
    subscriber.await_publishers(1);
    subscriber.collect();
    publisher.send(10);
    subscriber.await_tally(10, 0).assert_sound();
}

#[test]
fn a_node_that_waits_in_vain_for_a_root_is_told_what_it_waited_for() {
    let hive = Hive::new(ACTOR);
    let patience = Duration::from_millis(300);
    let begun = Instant::now();
    let error = hive.node("patient").external_root().patience(patience).join().unwrap_err();
    assert!(begun.elapsed() >= patience);
    let text = error.to_string();
    let NodeError::Join(JoinError::NoRoot { waited, .. }) = error else { panic!("{error:?}") };
    assert!(waited >= patience, "{waited:?}");
    let waited = hivemind_runtime::rounded::rounded(waited).to_string();
    assert!(text.contains("no root") && text.contains("root.sock") && text.contains(&waited), "{text}");
    assert!(text.contains("hm root"), "it says what to do: {text}");
}

/// A node that may not host the root goes on without one, and says so only when it needs one.
#[test]
fn an_established_node_without_a_root_says_what_it_waits_for() {
    let hive = Hive::new(ACTOR);
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    let node = hive.node("external").external_root().patience(Duration::from_millis(300)).join().unwrap();
    let mut publisher = node.publisher::<u64>("numbers").unwrap();
    let mut subscriber = node.subscriber::<u64>("numbers").unwrap();
    subscriber.wait_for_publishers(1, hivemind_tests::BOUND).unwrap();
    root.kill();
    publisher.send(&1).unwrap();
    assert_eq!(*subscriber.recv_timeout(hivemind_tests::BOUND).unwrap().unwrap(), 1);
    until("the node knows that its root is dead", || node.root_pid().is_none().then_some(()));
    let error = node.observe().unwrap_err();
    assert!(matches!(error, SessionError::NoRoot { .. }), "{error:?}");
    let error = node.subscriber::<u64>("others").unwrap_err().to_string();
    assert!(error.contains("root"), "{error}");

    // A successor finds everything as it was, and only that: the subscription that was refused is not there.
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    let counts = until("the node has told its ends", || {
        let listing = node.observe().ok().filter(|listing| !listing.connections.is_empty())?;
        Some((listing.publishers.len(), listing.subscribers.len(), listing.connections.len()))
    });
    assert_eq!(counts, (1, 1, 1));
    publisher.send(&2).unwrap();
    assert_eq!(*subscriber.recv_timeout(hivemind_tests::BOUND).unwrap().unwrap(), 2);
}

#[test]
fn two_hives_in_one_folder_do_not_see_each_other() {
    let hive = Hive::new(ACTOR);
    let names = ["lab", "field"];
    let speakers = names.map(|name| (name, hive.spawn("speaker")));
    let listeners = names.map(|name| (name, hive.spawn("listener")));
    for (name, node) in speakers.iter().chain(&listeners) {
        // Both have nodes of the same names.
        node.join(Join { hive: Some((*name).to_owned()), ..joining(node.name()) });
    }
    let publishers = speakers.each_ref().map(|(_, node)| node.publish(reliable("entries", Kind::Typed)));
    let subscribers = listeners.each_ref().map(|(_, node)| node.subscribe("**", Kind::Typed));
    for (publisher, subscriber) in publishers.iter().zip(&subscribers) {
        subscriber.await_publishers(1);
        publisher.await_subscribers(1);
        subscriber.collect();
    }
    publishers[0].send(50);
    publishers[1].send(70);
    for (subscriber, sent) in subscribers.iter().zip([50, 70]) {
        let tally = subscriber.await_tally(sent, 0);
        tally.assert_sound();
        assert_eq!((tally.messages(), tally.connections.len()), (sent, 1));
    }
    for (_, node) in &listeners {
        assert_eq!(node.nodes(), ["listener", "speaker"]);
    }
    assert_eq!(hive.files(), ["field/root.lock", "field/root.sock", "lab/root.lock", "lab/root.sock"]);
}

#[test]
fn hivemind_dir_moves_the_runtime_directory() {
    let (here, there) = (Hive::new(ACTOR), Hive::new(ACTOR));
    // The environment of an actor names the folder of its hive.
    let one = here.actor("node");
    let other = there.actor("node");
    assert_eq!(one.nodes(), ["node"]);
    assert_eq!(other.nodes(), ["node"]);
    for hive in [&here, &there] {
        assert_eq!(hive.files(), ["default/root.lock", "default/root.sock"]);
    }
    // Without the variable it is the one of the session, which is a third place.
    let session = Hive::new(ACTOR);
    let mut command = std::process::Command::new(ACTOR);
    command.env_remove("HIVEMIND_DIR").env("XDG_RUNTIME_DIR", session.folder());
    let third = session.spawn_with(command, "node");
    third.join(joining("node"));
    assert_eq!(third.nodes(), ["node"]);
    assert_eq!(session.files(), ["hivemind/default/root.lock", "hivemind/default/root.sock"]);
}

#[test]
fn a_node_that_leaves_in_order_frees_its_name_at_once() {
    let hive = Hive::new(ACTOR);
    let witness = hive.actor("witness");
    for _ in 0..10 {
        let node = hive.node("brief").join().unwrap();
        let publisher = node.publisher::<u64>("numbers").unwrap();
        node.leave();
        drop(publisher);
    }
    until("only the witness is left", || (witness.nodes() == ["witness"]).then_some(()));
}
