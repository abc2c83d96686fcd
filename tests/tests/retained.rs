//! What a publisher retains is there for those who come when it is gone, once, whole, and as long as somebody
//! keeps it.

use hivemind_runtime::identity::new_node_epoch;
use hivemind_tests::entry::scatter;
use hivemind_tests::hive::{Actor, Hive, PublisherOf, joining, lossy, reliable};
use hivemind_tests::order::{Answer, Connection, Join, Kind, Order, Publish, Tally};
use hivemind_tests::until;
use std::time::Duration;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const RETAINED: u64 = 10;

fn retaining(service: &str, kind: Kind) -> Publish {
    Publish { retained: RETAINED, ..lossy(service, kind) }
}

fn dedicated_root(hive: &Hive) -> Actor {
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    root
}

/// What a subscriber that comes now gets from the publishers that are gone.
fn late(hive: &Hive, name: &str, kind: Kind, ended: usize) -> Tally {
    let late = hive.actor(name);
    let tally = collected(&late, kind, ended);
    late.kill();
    tally
}

fn collected(actor: &Actor, kind: Kind, ended: usize) -> Tally {
    let subscriber = actor.subscribe("entries", kind);
    subscriber.collect();
    let tally = subscriber.await_tally(0, ended);
    tally.assert_sound();
    subscriber.drop_it();
    tally
}

#[track_caller]
fn assert_last(connection: &Connection, published: u64) {
    let first = published.saturating_sub(RETAINED);
    let found = (connection.first, connection.received, connection.lost, connection.ended);
    assert_eq!(found, (first, published - first, 0, true), "{connection:#?}");
}

/// How many rings of publishers this process holds.
fn rings_of(actor: &Actor) -> usize {
    let Answer::Belongings { descriptors, .. } = actor.tell(&Order::Belongings) else { panic!("it tells") };
    descriptors.iter().filter(|target| target.contains("ring")).count()
}

/// This many nodes keep it, and nothing of the past stands in the listing any more.
fn await_keepers(actor: &Hive, count: u32) {
    let watcher = actor.node("watcher").observer().join().unwrap();
    until("enough nodes keep it", || {
        let publishers = watcher.observe().ok()?.publishers;
        publishers.iter().any(|publisher| publisher.keepers == count).then_some(())
    });
}

#[test]
fn who_comes_when_the_publisher_is_dead_gets_its_last_messages_and_who_was_there_gets_them_once() {
    for kind in [Kind::Typed, Kind::Bytes] {
        for publish in [lossy("entries", kind), reliable("entries", kind)] {
            let hive = Hive::new(ACTOR);
            let (listener, _other) = (hive.actor("listener"), hive.actor("other"));
            let subscriber = listener.subscribe("entries", kind);
            subscriber.collect();
            let speaker = hive.spawn("speaker");
            speaker.join(joining("speaker"));
            let publisher = speaker.publish(Publish { retained: RETAINED, ..publish });
            publisher.await_subscribers(1);
            let published = publisher.send(200);
            subscriber.await_tally(published, 0);
            speaker.kill();

            let tally = late(&hive, "late", kind, 1);
            assert_eq!(tally.connections.len(), 1, "{tally:#?}");
            assert_last(tally.from("speaker"), published);
            // The same, to a node that keeps it itself.
            assert_last(collected(&listener, kind, 1).from("speaker"), published);

            let tally = subscriber.await_tally(published, 1);
            tally.assert_sound();
            assert_eq!(tally.connections.len(), 1, "it had them already: {tally:#?}");
        }
    }
}

/// It says one thing, and ends. The message was accepted when a keeper had the ring, so it is there.
#[test]
fn a_process_that_publishes_and_ends_at_once_is_heard_later() {
    let hive = Hive::new(ACTOR);
    let _keeper = hive.actor("keeper");
    for round in 1..=10 {
        let speaker = hive.spawn("speaker");
        speaker.join(joining("speaker"));
        let publisher = speaker.publish(retaining("entries", Kind::Typed));
        let published = publisher.send(round);
        if round % 2 == 0 {
            speaker.tell(&Order::DropAll);
        }
        speaker.kill();
        // Each life takes the place of the one before.
        let tally = until("the last life is there alone", || {
            let tally = late(&hive, "late", Kind::Typed, 1);
            let [only] = &tally.connections[..] else { return None };
            (only.received == published).then_some(tally)
        });
        assert_last(tally.from("speaker"), published);
    }
}

#[test]
fn a_node_that_is_alone_keeps_what_its_own_publisher_retained() {
    let hive = Hive::new(ACTOR);
    let node = hive.actor("node");
    let publisher = node.publish(retaining("entries", Kind::Bytes));
    let published = publisher.send(30);
    publisher.retire();
    let tally = collected(&node, Kind::Bytes, 1);
    assert_last(tally.from("node"), published);
    // A newcomer makes up the number of keepers, and has it when the first is gone.
    let second = hive.actor("second");
    await_keepers(&hive, 2);
    node.kill();
    assert_last(collected(&second, Kind::Bytes, 1).from("node"), published);
}

/// All who keep it die one by one, and so does the root; others have taken it over each time.
#[test]
fn what_is_retained_outlives_its_keepers_and_the_root() {
    let hive = Hive::new(ACTOR);
    let mut root = dedicated_root(&hive);
    let mut keepers: Vec<Actor> = (0..3).map(|number| hive.actor(&format!("keeper-{number}"))).collect();
    let speaker = hive.spawn("speaker");
    speaker.join(joining("speaker"));
    let publisher = speaker.publish(retaining("entries", Kind::Bytes));
    let published = publisher.send(100);
    speaker.kill();
    for round in 3..9 {
        await_keepers(&hive, 2);
        if round % 2 == 0 {
            root.kill();
            let before = keepers[2].root().1;
            root = dedicated_root(&hive);
            until("the keepers have told the new root", || (keepers[2].root().1 > before).then_some(()));
            await_keepers(&hive, 2);
        }
        assert_last(late(&hive, "late", Kind::Bytes, 1).from("speaker"), published);
        keepers.remove(0).kill();
        keepers.push(hive.actor(&format!("keeper-{round}")));
    }
    drop(root);
}

/// Without a root nobody is told of anything: keepers see the death by themselves, and tell the next root.
#[test]
fn a_publisher_that_dies_while_there_is_no_root_is_stood_for_under_the_next() {
    let hive = Hive::new(ACTOR);
    let root = dedicated_root(&hive);
    let guest = |name: &str| {
        let actor = hive.spawn(name);
        actor.join(Join { external: true, ..joining(name) });
        actor
    };
    let _keepers = [guest("keeper-0"), guest("keeper-1")];
    let (dies, ends, leaves) = (guest("dies"), guest("ends"), guest("leaves"));
    let published = dies.publish(retaining("entries", Kind::Typed)).send(50);
    let publisher = ends.publish(retaining("entries", Kind::Typed));
    publisher.send(60);
    leaves.publish(retaining("entries", Kind::Typed)).send(70);
    root.kill();
    until("they know", || _keepers[0].root().0.is_none().then_some(()));
    dies.kill();
    publisher.retire();
    // Its process goes on.
    leaves.tell(&Order::DropAll);
    let _root = dedicated_root(&hive);
    let tally = late(&hive, "late", Kind::Typed, 3);
    assert_last(tally.from("dies"), published);
    assert_last(tally.from("ends"), 60);
    assert_last(tally.from("leaves"), 70);
}

/// What a former life has left stays until the present one ends with a message: until then both are to be
/// had.
#[test]
fn a_later_life_takes_the_place_of_an_earlier_one_when_it_has_said_something() {
    let hive = Hive::new(ACTOR);
    let _keeper = hive.actor("keeper");
    let life = |messages: u64| {
        let speaker = hive.spawn("speaker");
        speaker.join(joining("speaker"));
        let publisher = speaker.publish(retaining("entries", Kind::Typed));
        if messages > 0 {
            publisher.send(messages);
        }
        speaker
    };
    life(5).kill();
    life(0).kill();
    assert_last(late(&hive, "late", Kind::Typed, 1).from("speaker"), 5);
    let present = life(7);
    let both = hive.actor("both");
    let subscriber = both.subscribe("entries", Kind::Typed);
    subscriber.collect();
    let tally = subscriber.await_tally(5, 1);
    assert!(
        tally.connections.iter().any(|connection| connection.ended && connection.received == 5),
        "{tally:#?}"
    );
    present.kill();
    until("the later life alone is there", || {
        let tally = late(&hive, "late", Kind::Typed, 1);
        (tally.connections.len() == 1 && tally.messages() == 7).then_some(())
    });
}

/// Killed at a random instant in full stream: the last that were committed are there, none is torn, and who
/// comes late gets the same as who was there.
#[test]
fn the_last_messages_are_whole_at_whatever_instant_the_publisher_is_killed() {
    let seed = new_node_epoch();
    println!("seed {seed}");
    let hive = Hive::new(ACTOR);
    let listener = hive.actor("listener");
    for round in 0..30 {
        let kind = if round % 2 == 0 { Kind::Typed } else { Kind::Bytes };
        let service = format!("stream/{round}");
        let early = listener.subscribe(&service, kind);
        early.collect();
        let speaker = hive.spawn("speaker");
        speaker.join(joining("speaker"));
        let publisher: PublisherOf<'_> = speaker.publish(retaining(&service, kind));
        publisher.await_subscribers(1);
        publisher.stream(None, 0);
        early.await_tally(100, 0);
        let pause = Duration::from_micros(scatter(seed ^ round) % 2000);
        let begun = std::time::Instant::now();
        while begun.elapsed() < pause {
            std::hint::spin_loop();
        }
        speaker.kill();
        let end = early.await_tally(0, 1).from("speaker").position();
        let late = listener.subscribe(&service, kind);
        late.collect();
        let tally = late.await_tally(0, 1);
        tally.assert_sound();
        assert_last(tally.from("speaker"), end);
        early.drop_it();
        late.drop_it();
    }
}

/// More keepers, publishers and subscribers than are needed, in one hive, and nobody holds a ring for nobody
/// at the end.
#[test]
fn nothing_is_kept_of_publishers_that_retain_nothing_or_are_replaced() {
    let hive = Hive::new(ACTOR);
    let keeper = hive.actor("keeper");
    let base = rings_of(&keeper);
    for _ in 0..20 {
        let speaker = hive.spawn("speaker");
        speaker.join(joining("speaker"));
        speaker.publish(retaining("entries", Kind::Typed)).send(3);
        speaker.publish(lossy("others", Kind::Typed)).send(3);
        speaker.kill();
    }
    until("one ring is kept, of the last life", || (rings_of(&keeper) - base == 1).then_some(()));
}
