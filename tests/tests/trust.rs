//! Publishers of another user, which the policy lets in and nobody trusts: what they do to a message after it
//! was received, or while it is, changes nothing for a subscriber.
//!
//! The publishers here write over their own committed messages through `/proc/self/mem`; the subscribers are
//! in the test's own process. Only the administrator can start processes of other users, so for everybody
//! else these tests are skipped, and say so.

use hivemind::{DynamicSubscriber, Message, Node, RecvError, Sample, Subscriber, SubscriberBuilder, Trust};
use hivemind_runtime::policy_file::FILE_NAME;
use hivemind_tests::entry::{Checked, Entry};
use hivemind_tests::hive::{Actor, Hive, joining, lossy};
use hivemind_tests::order::{Kind, Over, Publish};
use hivemind_tests::{BOUND, until};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

const ALICE: u32 = 47_211;
/// Messages in a row from a publisher that rewrites them all the time.
const MESSAGES: usize = 20_000;
/// Publishers that are tried one after the other, each until a message of it is no message any more.
const LIARS: usize = 8;

/// A hive of ours, and a process of [`ALICE`] in it. `None`, said aloud, where there cannot be processes of
/// other users.
#[allow(clippy::explicit_write)] // The test harness hides what `eprintln` says when nothing fails.
fn hive_with_alice(test: &str) -> Option<(Hive, Node, Actor)> {
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
    let (program, folder) = (hive.folder().join("actor"), hive.folder().join("default"));
    std::fs::copy(ACTOR, &program).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(folder.join(FILE_NAME), format!("allow user:{ALICE} publish **\n")).unwrap();
    let ours = hive.node("ours").join().unwrap();
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={ALICE}")).arg(format!("--regid={ALICE}")).arg("--clear-groups");
    command.arg(program).env_remove("XDG_RUNTIME_DIR");
    command.env("HIVEMIND_DIR", hive.folder()).env("HIVEMIND_OWNER", "0");
    let alice = hive.spawn_with(command, "alice");
    alice.join(joining("alice"));
    Some((hive, ours, alice))
}

/// With little memory, all of which is written over.
fn small(service: &str, kind: Kind) -> Publish {
    Publish { max_memory: Some(1 << 20), capacity: 16, ..lossy(service, kind) }
}

fn subscribe<T: Message + ?Sized>(node: &Node, service: &str, trust: Option<Trust>) -> Subscriber<T> {
    let builder = node.subscriber_builder::<T>(service);
    let subscriber = trust.into_iter().fold(builder, SubscriberBuilder::trust).create().unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    subscriber
}

fn next<T: Message + ?Sized>(subscriber: &mut Subscriber<T>) -> Sample<T> {
    subscriber.recv_timeout(BOUND).unwrap().expect("it was sent")
}

#[test]
fn what_a_publisher_of_another_user_does_to_a_message_afterwards_changes_nothing() {
    let name = "what_a_publisher_of_another_user_does_to_a_message_afterwards_changes_nothing";
    let Some((_hive, ours, alice)) = hive_with_alice(name) else { return };
    let typed = alice.publish(small("typed", Kind::Typed));
    let bytes = alice.publish(small("bytes", Kind::Bytes));
    let mut entries = subscribe::<Entry>(&ours, "typed", None);
    let mut wary = subscribe::<[u8]>(&ours, "bytes", None);
    let mut trusting = subscribe::<[u8]>(&ours, "bytes", Some(Trust::Everybody));
    let mut anything: DynamicSubscriber = ours.subscriber_dynamic("typed").unwrap();
    anything.wait_for_publishers(1, BOUND).unwrap();
    assert!(entries.connections().is_empty() || entries.connections()[0].copies);

    typed.attempt(1, 4000, 0).unwrap();
    bytes.attempt(1, 4001, 0).unwrap();
    let (entry, copied, in_place) = (next(&mut entries), next(&mut wary), next(&mut trusting));
    let shown = anything.recv_timeout(BOUND).unwrap().unwrap();
    let json = shown.to_json().unwrap();
    assert_eq!((entry.check(0), copied.check(0), in_place.check(0)), (Ok(4000), Ok(4001), Ok(4001)));
    assert!(wary.connections()[0].copies && !trusting.connections()[0].copies);

    assert_eq!(alice.overwrite(Over::Messages, 0xFF), 2);
    // It did write over them: who trusts it sees so.
    assert!(in_place.iter().all(|byte| *byte == 0xFF));
    assert_eq!((entry.check(0), copied.check(0)), (Ok(4000), Ok(4001)));
    assert_eq!(shown.to_json().unwrap(), json);

    // Its memory is not held: more samples than there are pins, and all as they were sent.
    let mut held = Vec::new();
    for sequence in 1..200 {
        bytes.attempt(1, 4001, 0).unwrap();
        held.push(next(&mut wary));
        assert_eq!(held.last().unwrap().check(sequence), Ok(4001));
    }
    alice.overwrite(Over::Messages, 0);
    for (sample, sequence) in held.iter().zip(1..) {
        assert_eq!(sample.check(sequence), Ok(4001));
    }
    // Publishers of the same user are read in place, as ever.
    let mut own = ours.publisher::<[u8]>("own").unwrap();
    let mut same = subscribe::<[u8]>(&ours, "own", None);
    let mut nobody = subscribe::<[u8]>(&ours, "own", Some(Trust::Nobody));
    own.send(&[7; 1000][..]).unwrap();
    assert_eq!((&*next(&mut same), &*next(&mut nobody)), (&[7; 1000][..], &[7; 1000][..]));
    assert!(!same.connections()[0].copies && nobody.connections()[0].copies);
}

/// Each sample is read twice, with the publisher writing over its messages all the time: both times the same
/// is read. Where the copy is no message, the publisher is cut off, in words, and the next one is listened
/// to.
#[test]
fn what_a_publisher_of_another_user_does_to_a_message_meanwhile_is_seen_whole_or_not_at_all() {
    let name = "what_a_publisher_of_another_user_does_to_a_message_meanwhile_is_seen_whole_or_not_at_all";
    let Some((_hive, ours, alice)) = hive_with_alice(name) else { return };
    let bytes = alice.publish(small("bytes", Kind::Bytes));
    let typed: Vec<_> =
        (0..LIARS).map(|liar| alice.publish(small(&format!("typed/{liar}"), Kind::Typed))).collect();
    let mut entries = ours.subscriber::<Entry>("typed/*").unwrap();
    entries.wait_for_publishers(LIARS, BOUND).unwrap();
    let mut plain = subscribe::<[u8]>(&ours, "bytes", None);
    assert_eq!(alice.scribble(Over::Messages, 1), LIARS as u64 + 1);
    bytes.stream(Some(3000), 0);
    let mut changed = 0;
    for _ in 0..MESSAGES {
        let sample = next(&mut plain);
        let first: Vec<u8> = sample.to_vec();
        changed += usize::from(sample.check(sample.sequence()).is_err());
        assert!(sample[..] == first[..], "the sample has changed");
    }
    println!("{changed} of {MESSAGES} messages were written over before they were copied");
    bytes.stop();
    let (mut read, mut cut_off) = (0, 0);
    for publisher in &typed {
        publisher.stream(Some(3000), 0);
    }
    until("all liars are cut off, or much was read", || {
        match entries.try_recv() {
            Ok(Some(sample)) => {
                let (first, owned) = (sample.check(sample.sequence()), sample.to_owned().unwrap());
                assert_eq!(sample.check(sample.sequence()), first);
                assert_eq!(sample.to_owned().unwrap(), owned);
                read += 1;
            }
            Ok(None) => {}
            Err(RecvError::Detached { .. }) => cut_off += 1,
            Err(error) => panic!("{error}"),
        }
        (cut_off == LIARS || read >= MESSAGES).then_some(())
    });
    println!("{read} typed messages, {cut_off} publishers cut off");
    assert!(entries.received() >= read as u64);
}
