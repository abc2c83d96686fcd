//! A root and 20 nodes start at the same time, all talk to all, and are killed one by one.

use hivemind_tests::entry::scatter;
use hivemind_tests::hive::{Actor, Hive, joining, reliable};
use hivemind_tests::order::{Kind, Order};
use hivemind_tests::until;
use std::time::Instant;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const NODES: usize = 20;
/// Messages of each node in each round.
const MESSAGES: u64 = 10;

#[test]
fn a_root_and_twenty_nodes_start_at_once_and_survive_each_other() {
    let seed = hivemind_runtime::identity::new_node_epoch();
    println!("seed {seed}");
    let hive = Hive::new(ACTOR);
    let begun = Instant::now();
    let nodes: Vec<_> = (0..NODES).map(|number| hive.spawn(&format!("node-{number}"))).collect();
    for node in &nodes {
        node.begin(&Order::Join(joining(node.name())));
    }
    let root = hive.spawn("root");
    root.begin(&Order::ServeRoot);
    for node in &nodes {
        node.answer().unwrap();
    }
    root.answer().unwrap();
    println!("{NODES} nodes joined within {:?} of the start of the first process", begun.elapsed());

    let ends: Vec<_> = nodes
        .iter()
        .map(|node| {
            let publisher = node.publish(reliable(&format!("swarm/{}", node.name()), Kind::Typed));
            (publisher, node.subscribe("swarm/*", Kind::Typed))
        })
        .collect();
    for (publisher, subscriber) in &ends {
        publisher.await_subscribers(NODES);
        subscriber.await_publishers(NODES);
        subscriber.collect();
    }
    println!("{} connections stand after {:?}", NODES * NODES, begun.elapsed());

    // The order of death, with the root (place NODES) somewhere in it.
    let mut order: Vec<_> = (0..=NODES).collect();
    order.sort_by_key(|place| scatter(seed ^ *place as u64));
    let mut alive = vec![true; NODES];
    let mut sent = vec![0; NODES];
    for victim in order {
        talk(&ends, &alive, &mut sent);
        if victim == NODES {
            root.kill();
        } else {
            nodes[victim].kill();
            alive[victim] = false;
        }
        settle(&nodes, &ends, &alive);
    }
    println!("all are dead after {:?}", begun.elapsed());
    assert_eq!(hive.files(), ["default/root.lock", "default/root.sock"]);
}

type Ends<'a> = (hivemind_tests::hive::PublisherOf<'a>, hivemind_tests::hive::SubscriberOf<'a>);

/// All who live publish, and hear everything of all who live.
fn talk(ends: &[Ends<'_>], alive: &[bool], sent: &mut [u64]) {
    let living = || (0..alive.len()).filter(|place| alive[*place]);
    for place in living() {
        ends[place].0.send(MESSAGES);
        sent[place] += MESSAGES;
    }
    let total: u64 = sent.iter().sum();
    for place in living() {
        // All heard everything of the dead, too: it was waited for before they died.
        let tally = ends[place].1.await_tally(total, 0);
        tally.assert_sound();
        assert_eq!((tally.messages(), tally.lost()), (total, 0), "{tally:#?}");
    }
}

/// All who live know who is dead.
fn settle(nodes: &[Actor], ends: &[Ends<'_>], alive: &[bool]) {
    let dead = alive.iter().filter(|alive| !**alive).count();
    let living: Vec<_> = (0..alive.len()).filter(|place| alive[*place]).collect();
    for place in &living {
        ends[*place].1.await_tally(0, dead);
    }
    let Some(first) = living.first() else { return };
    until("the list of nodes is that of the living", || {
        (nodes[*first].nodes().len() == living.len()).then_some(())
    });
}
