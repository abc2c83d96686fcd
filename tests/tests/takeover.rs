//! The root dies while it introduces somebody: whatever was on its way comes about with the next root, once
//! and without loss.

use hivemind_runtime::identity::new_node_epoch;
use hivemind_tests::entry::scatter;
use hivemind_tests::hive::{Actor, Hive, joining, reliable};
use hivemind_tests::order::{Answer, Kind, Order};
use hivemind_tests::until;
use std::time::{Duration, Instant};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const ROUNDS: u64 = 20;
/// A join with a subscription takes about half of this, so the deaths fall before, within and after it.
const LATEST_DEATH_US: u64 = 4_000;

/// Lets a random time pass without giving the core away: far shorter than what a scheduler could keep to.
fn linger(random: u64) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(random % LATEST_DEATH_US) {
        std::hint::spin_loop();
    }
}

fn dedicated_root(hive: &Hive, witness: &Actor) -> Actor {
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    until("the dedicated root takes over", || (witness.root().0 == Some(root.pid())).then_some(()));
    root
}

/// A newcomer joins and subscribes while the root is killed at a random moment. It gets everything that the
/// reliable publisher sends from where it begins, and both sides count one connection.
#[test]
fn a_join_and_a_subscription_that_meet_the_death_of_the_root_come_about_once() {
    let seed = new_node_epoch();
    println!("seed {seed}");
    let hive = Hive::new(ACTOR);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    for round in 0..ROUNDS {
        let root = dedicated_root(&hive, &speaker);
        let newcomer = hive.spawn("newcomer");
        newcomer.begin(&Order::Join(joining("newcomer")));
        newcomer.begin(&Order::Subscribe { filter: "*".to_owned(), kind: Kind::Typed });
        linger(scatter(seed ^ round));
        root.kill();
        newcomer.answer().unwrap();
        assert_eq!(newcomer.answer(), Ok(Answer::Number(0)), "round {round}");
        let subscriber = newcomer.subscribers(0);
        subscriber.await_publishers(1);
        publisher.await_subscribers(1);
        subscriber.collect();
        let sent = publisher.send(100);
        let tally = until("all messages since it was attached", || {
            let tally = subscriber.tally();
            tally.connections.last().is_some_and(|connection| connection.position() == sent).then_some(tally)
        });
        tally.assert_sound();
        assert_eq!((tally.connections.len(), tally.lost()), (1, 0), "round {round}: {tally:#?}");
        assert!(tally.connections[0].received >= 100, "round {round}: {tally:#?}");
        until("the root lists one connection", || (connections(&hive) == 1).then_some(()));
        newcomer.kill();
        until("the connection is gone", || (connections(&hive) == 0).then_some(()));
    }
}

fn connections(hive: &Hive) -> usize {
    let watcher = hive.node("watcher").observer().join().unwrap();
    watcher.observe().map_or(usize::MAX, |listing| listing.connections.len())
}

/// As above, with publishers that appear, and with the root in a node that takes part.
#[test]
fn a_publication_that_meets_the_death_of_the_root_comes_about_once() {
    let seed = new_node_epoch();
    println!("seed {seed}");
    let hive = Hive::new(ACTOR);
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("*", Kind::Bytes);
    subscriber.collect();
    for round in 0..ROUNDS {
        let root = dedicated_root(&hive, &listener);
        let speaker = hive.spawn("speaker");
        speaker.begin(&Order::Join(joining("speaker")));
        speaker.begin(&Order::Publish(reliable("entries", Kind::Bytes)));
        linger(scatter(seed ^ round));
        root.kill();
        speaker.answer().unwrap();
        assert_eq!(speaker.answer(), Ok(Answer::Number(0)), "round {round}");
        let publisher = speaker.publishers(0);
        publisher.await_subscribers(1);
        let sent = publisher.send(100);
        let before = round * 100;
        let tally = subscriber.await_tally(before + sent, 0);
        tally.assert_sound();
        assert_eq!((tally.messages(), tally.lost()), (before + sent, 0), "round {round}: {tally:#?}");
        speaker.kill();
        subscriber.await_tally(before + sent, round as usize + 1);
    }
}
