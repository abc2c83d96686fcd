//! Who comes and goes leaves nothing in those who stay: no descriptor, no mapping.

use hivemind_tests::hive::{Actor, Hive, lossy, reliable};
use hivemind_tests::order::{Answer, Kind, Order};
use hivemind_tests::until;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const ROUNDS: u64 = 50;

/// How many descriptors and mappings a process has.
fn belongings(actor: &Actor) -> (usize, usize) {
    match actor.tell(&Order::Belongings) {
        Answer::Belongings { descriptors, mappings } => (descriptors.len(), mappings.len()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn settles(actor: &Actor, before: (usize, usize)) {
    until(&format!("{} has what it had before, {before:?}", actor.name()), || {
        let now = belongings(actor);
        (now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
}

#[test]
fn subscribers_that_come_and_go_leave_nothing_in_the_publisher_and_the_root() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let visitor = hive.actor("visitor");
    let mut before = None;
    for round in 0..ROUNDS {
        let subscriber = visitor.subscribe("*", Kind::Typed);
        subscriber.await_publishers(1);
        subscriber.collect();
        let sent = publisher.send(10);
        let tally = subscriber.await_tally(10, 0);
        tally.assert_sound();
        assert_eq!(tally.from("speaker").position(), sent, "round {round}");
        subscriber.drop_it();
        // The first round maps what stays.
        before.get_or_insert_with(|| [&host, &speaker, &visitor].map(belongings));
    }
    for (actor, before) in [&host, &speaker, &visitor].into_iter().zip(before.expect("a round")) {
        settles(actor, before);
    }
}

#[test]
fn publishers_that_come_and_go_leave_nothing_in_the_subscriber_and_the_root() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("*", Kind::Bytes);
    subscriber.collect();
    let visitor = hive.actor("visitor");
    let mut before = None;
    for round in 0..ROUNDS {
        let publisher = visitor.publish(lossy("entries", Kind::Bytes));
        publisher.await_subscribers(1);
        publisher.attempt(10, 1000, 0).unwrap();
        publisher.retire();
        let tally = subscriber.await_tally(10 * (round + 1), round as usize + 1);
        tally.assert_sound();
        before.get_or_insert_with(|| [&host, &listener, &visitor].map(belongings));
    }
    for (actor, before) in [&host, &listener, &visitor].into_iter().zip(before.expect("a round")) {
        settles(actor, before);
    }
}

#[test]
fn processes_that_are_killed_leave_nothing_in_those_who_live() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("*", Kind::Typed);
    subscriber.await_publishers(1);
    subscriber.collect();
    let before = [&host, &speaker, &listener].map(belongings);
    for round in 0..ROUNDS / 5 {
        let visitor = hive.actor("visitor");
        let guest = visitor.publish(reliable("guest", Kind::Typed));
        let late = visitor.subscribe("entries", Kind::Typed);
        late.await_publishers(1);
        guest.await_subscribers(1);
        publisher.send(10);
        guest.send(10);
        late.hold(5);
        subscriber.await_tally(20 * (round + 1), 0).assert_sound();
        visitor.kill();
        subscriber.await_tally(0, round as usize + 1);
    }
    // A publisher lets go of the dead with its next message.
    publisher.send(1);
    for (actor, before) in [&host, &speaker, &listener].into_iter().zip(before) {
        settles(actor, before);
    }
    let tally = subscriber.tally();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}
