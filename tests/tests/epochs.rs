//! Whose an epoch is. A root died; before a node had come back to the next one, a guest greeted it as that
//! node (every listing shows its epoch), subscribed and ended. The publisher had taken the guest for the
//! node: with its end the living node was detached, and a message that it held was written over under its
//! eyes. With the same number of the end, the publisher even looked at the guest's pins in place of the
//! node's.
//!
//! Guests are real users here. Only the administrator can start processes of other users, so for everybody
//! else those tests are skipped, and say so.

use hivemind_core::contract::Asks;
use hivemind_core::identity::Process;
use hivemind_core::protocol::{Carrier, Demand, EndId, ToNode, ToRoot};
use hivemind_ring::mapped::{Bells, Mapped, MappedSeats};
use hivemind_ring::reader::Seats;
use hivemind_ring::segment::Anonymous;
use hivemind_runtime::identity::current_process;
use hivemind_runtime::identity::new_node_epoch;
use hivemind_runtime::policy_file::FILE_NAME;
use hivemind_runtime::random::random_number;
use hivemind_tests::hive::{Actor, Hive, PublisherOf, joining, lossy, reliable};
use hivemind_tests::impostor::descriptor;
use hivemind_tests::order::{Answer, Kind, Order, Publish};
use hivemind_tests::until;
use hivemind_tests::wire::{Stranger, hello, packet};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

const ALICE: u32 = 47_311;
/// Bytes of a message that is held in place.
const LENGTH: usize = 4096;
/// More than the memory of the publisher holds.
const MESSAGES: u64 = 2000;
/// Slots of the reliable publisher.
const CAPACITY: u64 = 4;

/// A hive of ours that lets [`ALICE`] subscribe. `None`, said aloud, where there cannot be processes of other
/// users.
#[allow(clippy::explicit_write)] // The test harness hides what `eprintln` says when nothing fails.
fn hive_for_alice(test: &str) -> Option<Hive> {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("only the administrator can start processes of other users")
    } else if Command::new("setpriv").arg("--version").output().is_err() {
        Some("there is no setpriv (package util-linux) to start processes of other users")
    } else {
        None
    };
    if let Some(missing) = missing {
        writeln!(std::io::stderr(), "SKIPPED {test}: {missing}").unwrap();
        return None;
    }
    let hive = Hive::new(ACTOR);
    std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o755)).unwrap();
    let folder = hive.folder().join("default");
    std::fs::copy(ACTOR, hive.folder().join("actor")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(folder.join(FILE_NAME), format!("allow user:{ALICE} subscribe s\n")).unwrap();
    Some(hive)
}

fn alice(hive: &Hive) -> Actor {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={ALICE}")).arg(format!("--regid={ALICE}")).arg("--clear-groups");
    command.arg(hive.folder().join("actor")).env_remove("XDG_RUNTIME_DIR");
    command.env("HIVEMIND_DIR", hive.folder()).env("HIVEMIND_OWNER", "0");
    hive.spawn_with(command, "alice")
}

/// A root of its own, which will die, and a publisher that will host the next.
fn root_and_publisher(hive: &Hive, publish: Publish) -> (Actor, Actor) {
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    let publisher = hive.spawn("publisher");
    until("the root listens", || hive.folder().join("default/root.sock").exists().then_some(()));
    assert!(!publisher.join(joining("publisher")), "the root has a process of its own");
    publisher.publish(publish);
    (root, publisher)
}

/// Greets as that end, subscribes, and says what came of it.
fn impersonate(actor: &Actor, end: EndId, stays: bool) -> String {
    let order = Order::Impersonate { epoch: end.node, index: end.index, service: "s".to_owned(), stays };
    match actor.tell(&order) {
        Answer::Attempts(said) => said.concat(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_full(publisher: PublisherOf<'_>) {
    let failure = publisher.attempt(1, LENGTH, 0).unwrap_err();
    assert_eq!(failure.variant, "Full", "{failure:#?}");
}

/// Fills a reliable publisher until the subscriber that reads nothing is waited for.
#[track_caller]
fn fill(publisher: PublisherOf<'_>) {
    publisher.attempt(CAPACITY, LENGTH, 0).unwrap();
    is_full(publisher);
}

#[test]
fn a_guest_does_not_get_the_epoch_of_a_node_that_is_slow_to_come_back() {
    let name = "a_guest_does_not_get_the_epoch_of_a_node_that_is_slow_to_come_back";
    for index in [0, 7777] {
        let Some(hive) = hive_for_alice(name) else { return };
        if !matches!(current_process(), Process::Inode { .. }) {
            // Then the tests below show what holds.
            return;
        }
        let small = Publish { max_memory: Some(256 << 10), capacity: 16, ..lossy("s", Kind::Bytes) };
        let (root, publisher) = root_and_publisher(&hive, small);
        let victim = hive.spawn("victim");
        let Answer::Joined { node, .. } = victim.tell(&Order::JoinAsGuest(joining("victim"))) else {
            panic!("it joins")
        };
        kill(Pid::from_raw(victim.pid()), Signal::SIGSTOP).unwrap();
        root.kill();
        publisher.tell(&Order::AwaitHosting);

        let guest = alice(&hive);
        let said = impersonate(&guest, EndId { node, index }, false);
        assert!(said.contains("refused") && said.contains("belongs to another process"), "{said}");
        assert!(
            said.contains(&format!("process {}", guest.pid())) && said.contains("join by itself"),
            "{said}"
        );

        kill(Pid::from_raw(victim.pid()), Signal::SIGCONT).unwrap();
        let subscriber = victim.subscribe("s", Kind::Bytes);
        subscriber.await_publishers(1);
        let outlet = publisher.publishers(0);
        outlet.attempt(1, LENGTH, 0).unwrap();
        subscriber.hold(1);
        guest.kill();
        outlet.attempt(MESSAGES, LENGTH, 0).unwrap();
        victim.tell(&Order::CheckHeld);
    }
}

/// An epoch that is not bound, as nodes have it on kernels before 6.9: the root cannot know better, and the
/// publisher remembers.
#[test]
fn a_publisher_takes_no_other_process_for_a_node_that_it_knows() {
    let Some(hive) = hive_for_alice("a_publisher_takes_no_other_process_for_a_node_that_it_knows") else {
        return;
    };
    let publish = Publish { capacity: CAPACITY, ..reliable("s", Kind::Bytes) };
    let (root, publisher) = root_and_publisher(&hive, publish);
    let (victim, outlet) = (hive.spawn("victim"), publisher.publishers(0));
    let node = (random_number() >> 1).max(1);
    assert_eq!(impersonate(&victim, EndId { node, index: 0 }, true), "attached");
    fill(outlet);
    root.kill();
    publisher.tell(&Order::AwaitHosting);
    for index in [0, 7777] {
        let guest = alice(&hive);
        let said = impersonate(&guest, EndId { node, index }, false);
        assert!(said.contains("not attached") && said.contains("another living process"), "{said}");
        guest.kill();
        is_full(outlet);
    }
    // And the kernel's word about the node itself counts as before.
    victim.kill();
    outlet.attempt(CAPACITY, LENGTH, 60_000).unwrap();
}

/// The same, with a guest who was first: nobody knows the node, and everybody takes the guest for it.
#[test]
fn a_guest_who_was_first_yields_an_epoch_to_the_owner_and_is_never_taken_for_him() {
    let name = "a_guest_who_was_first_yields_an_epoch_to_the_owner_and_is_never_taken_for_him";
    for index in [0, 7777] {
        let Some(hive) = hive_for_alice(name) else { return };
        let publish = Publish { capacity: CAPACITY, ..reliable("s", Kind::Bytes) };
        let (_root, publisher) = root_and_publisher(&hive, publish);
        let (guest, victim, outlet) = (alice(&hive), hive.spawn("victim"), publisher.publishers(0));
        let node = (random_number() >> 1).max(1);
        assert_eq!(impersonate(&guest, EndId { node, index }, true), "attached");
        // The root lets the owner in; the publisher knows that this is somebody else.
        let said = impersonate(&victim, EndId { node, index: 0 }, true);
        assert!(said.contains("not attached") && said.contains("another living process"), "{said}");
        let other = alice(&hive);
        let said = impersonate(&other, EndId { node, index: 0 }, true);
        assert!(said.contains("refused"), "a guest does not take it back: {said}");
        guest.kill();
        victim.kill();
        // Nobody is left who was taken for it.
        let heir = hive.spawn("victim");
        until("the way is free", || {
            (impersonate(&heir, EndId { node, index: 0 }, false) == "attached").then_some(())
        });
        fill(outlet);
    }
}

/// A node that keeps to no rules about its own memory.
struct Liar {
    stranger: Stranger,
    bells: std::sync::Arc<Bells>,
    seats: Seats<Mapped>,
}

impl Liar {
    fn join(hive: &Hive, node: u64, index: u32) -> Liar {
        let bells = Bells::create(&Anonymous).unwrap();
        let handle = descriptor(bells.handle().unwrap());
        let stranger = Stranger::join(hive.folder(), "liar", node, handle.as_fd());
        let seats = Liar::seats(&bells, node, index);
        Liar { stranger, bells, seats }
    }

    fn seats(bells: &std::sync::Arc<Bells>, node: u64, index: u32) -> Seats<Mapped> {
        MappedSeats::create(&Anonymous, node, index, 8, bells.take().unwrap()).unwrap()
    }

    fn demand(&self, index: u32, filter: &str) {
        let demand = Demand::new(index, filter, Asks::default());
        self.stranger.send(&packet(&ToRoot::Demand { request: index.into(), demand }), &[]).unwrap();
    }

    /// Takes a seat of this segment at the next publisher that matches. `None`: it is attached; otherwise why
    /// not.
    fn attach(&self, subscriber: u32, seats: &Seats<Mapped>) -> Option<String> {
        let publisher = self.stranger.hear_until(|said| match said {
            ToNode::Match { matched, .. } => Some(matched.route.end),
            _ => None,
        });
        let taken = seats.take((publisher.node, publisher.index)).unwrap();
        let seat = taken.index();
        // It keeps the seat to its end.
        std::mem::forget(taken);
        let reader: OwnedFd = descriptor(seats.memory().segment().handle().unwrap());
        let attach = ToRoot::Attach { subscriber, publisher, seat, reader: Carrier::Descriptor };
        self.stranger.send(&packet(&attach), &[reader.as_fd()]).unwrap();
        self.stranger.hear_until(|said| match said {
            ToNode::Attached { .. } => Some(None),
            ToNode::AttachRefused { reason, .. } => Some(Some(reason.clone())),
            _ => None,
        })
    }
}

#[test]
fn a_subscriber_has_one_reader_segment_and_a_node_has_one_segment_of_doorbells() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("publisher").join().unwrap();
    let first = node.publisher::<[u8]>("s/first").unwrap();
    let epoch = new_node_epoch();
    let liar = Liar::join(&hive, epoch, 0);
    liar.demand(0, "s/*");
    assert_eq!(liar.attach(0, &liar.seats), None);
    // Another publisher of the node, and another segment for the same end.
    let second = node.publisher::<[u8]>("s/second").unwrap();
    let reason = liar.attach(0, &Liar::seats(&liar.bells, epoch, 0)).expect("refused");
    assert!(reason.contains("another reader segment") && reason.contains("end that process"), "{reason}");
    // The same segment is welcome, of course.
    let third = node.publisher::<[u8]>("s/third").unwrap();
    assert_eq!(liar.attach(0, &liar.seats), None);
    // Greets anew with other doorbells, while those of before are in use.
    let Liar { stranger, seats, bells: _bells } = liar;
    stranger.send(&packet(&ToRoot::Leave), &[]).unwrap();
    stranger.hear_out();
    let liar = Liar::join(&hive, epoch, 1);
    liar.demand(1, "s/third");
    let reason = liar.attach(1, &liar.seats).expect("refused");
    assert!(reason.contains("other doorbells"), "{reason}");
    assert_eq!((first.subscribers(), second.subscribers(), third.subscribers()), (1, 0, 1));
    drop(seats);
}

#[test]
fn the_root_says_whose_epoch_it_is_not_and_what_to_do() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("node").join().unwrap();
    if !matches!(current_process(), Process::Inode { .. }) {
        return;
    }
    // Of an actor, which has left.
    let other = hive.spawn("other");
    let Answer::Joined { node: epoch, .. } = other.tell(&Order::Join(joining("other"))) else { panic!() };
    other.tell(&Order::Leave);
    until("it has left", || (node.observe().unwrap().nodes.len() == 1).then_some(()));
    let stranger = Stranger::connect(hive.folder());
    let bells = Bells::create(&Anonymous).unwrap();
    let bells = descriptor(bells.handle().unwrap());
    stranger.send(&packet(&hello("stranger", epoch)), &[bells.as_fd()]).unwrap();
    let said = stranger.hear_out();
    let [ToNode::Refused { request: None, refusal }] = &said[..] else { panic!("{said:?}") };
    let text = refusal.to_string();
    assert!(text.contains(&format!("{epoch:016x}")) && text.contains("let it join by itself"), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    // Two nodes of one process have two, and both are its own.
    let second = hive.node("second").join().unwrap();
    assert_ne!(node.epoch(), second.epoch());
}
