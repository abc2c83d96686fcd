//! Publishers that have next to no memory and publish messages of hundreds of megabytes, in holes of a ring
//! of 64 GiB. Once each subscriber that read one in its own memory gave it pages, at its own cost: a
//! publisher of five megabytes had readers killed for want of memory.
//!
//! The publishers are processes that speak the protocol by hand; those of another user are started by the
//! administrator only, so for everybody else these tests are skipped, and say so. What shows who paid is the
//! memory of the ring itself.

use hivemind::{Node, RecvError, Subscriber, Trust};
use hivemind_ring::layout::MESSAGE_BYTES_MAX;
use hivemind_runtime::policy_file::FILE_NAME;
use hivemind_tests::hive::{Actor, Hive, lossy};
use hivemind_tests::hollow::HollowOrder;
use hivemind_tests::order::Kind;
use hivemind_tests::{BOUND, until};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

const ALICE: u32 = 47_311;
/// Memory that a hollow publisher takes.
const TAKEN: u64 = 5 << 20;
/// Hollow messages, each so long as the largest there may be: 1 GiB, more than a reader here may come to
/// have.
const MESSAGES: u64 = 4;
/// How much more memory a reader may have for all of that.
const SLACK: u64 = 100 << 20;

/// A hive of ours that lets [`ALICE`] publish. `None`, said aloud, where there cannot be processes of other
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
    std::fs::write(folder.join(FILE_NAME), format!("allow user:{ALICE} publish **\n")).unwrap();
    Some(hive)
}

fn alice(hive: &Hive, name: &str) -> Actor {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={ALICE}")).arg(format!("--regid={ALICE}")).arg("--clear-groups");
    command.arg(hive.folder().join("actor")).env_remove("XDG_RUNTIME_DIR");
    command.env("HIVEMIND_DIR", hive.folder()).env("HIVEMIND_OWNER", "0");
    hive.spawn_with(command, name)
}

fn offer(service: &str) -> HollowOrder {
    HollowOrder::Offer {
        service: service.to_owned(),
        has_slots: true,
        far: TAKEN,
        message_max: MESSAGE_BYTES_MAX,
    }
}

/// Memory that a process has mapped now and had at most, shared memory included.
fn memory_of(pid: i32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    };
    (figure("VmRSS:"), figure("VmHWM:"))
}

/// A reader process beside a hollow publisher and an honest one: it says what is wrong with the one, hears
/// the other, and has not paid.
fn assert_nobody_pays(hive: &Hive, hollow: &Actor, reader: &Actor, is_wary: bool) {
    let honest = hive.actor("honest");
    let talk = honest.publish(lossy("talk/honest", Kind::Bytes));
    let subscriber = if is_wary {
        reader.subscribe_warily("talk/*", Kind::Bytes)
    } else {
        reader.subscribe("talk/*", Kind::Bytes)
    };
    subscriber.await_publishers(1);
    let taken = hollow.hollow(offer("talk/hollow"));
    hollow.hollow(HollowOrder::LetIn { count: 1 });
    subscriber.await_publishers(2);
    let (before, _) = memory_of(reader.pid());

    let commit = HollowOrder::Commit { count: MESSAGES, offset: 1 << 30, length: MESSAGE_BYTES_MAX };
    hollow.hollow(commit);
    subscriber.collect();
    talk.await_subscribers(1);
    talk.send(10);
    let tally = subscriber.await_tally(10, 1);
    println!("{:?}", tally.errors);
    assert_eq!(tally.errors.len(), 1, "{:?}", tally.errors);
    assert!(tally.errors[0].contains("in a hole"), "{:?}", tally.errors);
    assert_eq!(hollow.hollow(HollowOrder::Memory), taken, "its ring has grown, and it was not the publisher");
    let (_, most) = memory_of(reader.pid());
    assert!(most < before + SLACK, "the reader went from {before} bytes to {most}");
    // And on it goes.
    talk.send(10);
    let tally = subscriber.await_tally(20, 1);
    let heard = tally.connections.iter().find(|connection| connection.service == "talk/honest").unwrap();
    assert_eq!((heard.received, heard.lost, heard.account.torn), (20, 0, 0), "{tally:#?}");
}

#[test]
fn a_guest_whose_messages_lie_in_holes_is_cut_off_and_takes_no_memory_of_its_readers() {
    let name = "a_guest_whose_messages_lie_in_holes_is_cut_off_and_takes_no_memory_of_its_readers";
    let Some(hive) = hive_for_alice(name) else { return };
    let reader = hive.actor("reader");
    assert_nobody_pays(&hive, &alice(&hive, "alice"), &reader, false);
}

#[test]
fn who_trusts_nobody_pays_for_no_holes_of_its_own_user_either() {
    let hive = Hive::new(ACTOR);
    let reader = hive.actor("reader");
    assert_nobody_pays(&hive, &hive.spawn("hollow"), &reader, true);
}

fn await_error(subscriber: &mut Subscriber<[u8]>) -> RecvError {
    until("the subscriber says what is wrong", || subscriber.try_recv().err())
}

/// As above, where the subscriber knows no type: that is what `hm echo` is. Then holes within the bounds of
/// what the publisher has taken: a copy of zeros, no longer than that. And a ring that is hollow from its
/// first page on.
#[test]
fn a_dynamic_subscriber_copies_no_more_than_a_guest_has_and_gives_it_nothing() {
    let name = "a_dynamic_subscriber_copies_no_more_than_a_guest_has_and_gives_it_nothing";
    let Some(hive) = hive_for_alice(name) else { return };
    let ours = hive.node("ours").join().unwrap();
    let mut dynamic = ours.subscriber_dynamic("hollow/*").unwrap();
    let mut everybody = ours.subscriber_dynamic("other/*").unwrap();

    let first = alice(&hive, "first");
    let taken = first.hollow(offer("hollow/first"));
    first.hollow(HollowOrder::LetIn { count: 1 });
    dynamic.wait_for_publishers(1, BOUND).unwrap();
    first.hollow(HollowOrder::Commit { count: 10, offset: 0, length: TAKEN });
    let sample = dynamic.recv_timeout(BOUND).unwrap().unwrap();
    assert!(sample.bytes().len() as u64 == TAKEN && sample.bytes().iter().all(|byte| *byte == 0));
    // One behind the other: the second ends where its publisher has nothing any more.
    let error = dynamic.recv_timeout(BOUND).unwrap_err();
    assert!(matches!(&error, RecvError::Detached { reason, .. } if reason.contains("in a hole")), "{error}");
    assert_eq!(first.hollow(HollowOrder::Memory), taken);

    let second = alice(&hive, "second");
    let taken = second.hollow(offer("other/second"));
    second.hollow(HollowOrder::LetIn { count: 1 });
    everybody.wait_for_publishers(1, BOUND).unwrap();
    second.hollow(HollowOrder::Commit { count: 1, offset: 1 << 30, length: MESSAGE_BYTES_MAX });
    let error = until("it says what is wrong", || everybody.try_recv().err());
    let RecvError::Detached { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("in a hole"), "{error}");
    assert_eq!(second.hollow(HollowOrder::Memory), taken);

    let third = alice(&hive, "third");
    let offer = HollowOrder::Offer {
        service: "other/third".to_owned(),
        has_slots: false,
        far: TAKEN,
        message_max: MESSAGE_BYTES_MAX,
    };
    let taken = third.hollow(offer);
    third.hollow(HollowOrder::LetIn { count: 1 });
    let error = until("it says what is wrong", || everybody.try_recv().err());
    let RecvError::NotAttached { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("hollow"), "{error}");
    assert_eq!(third.hollow(HollowOrder::Memory), taken);
}

/// The header said 4 KiB when it was checked, and 512 MiB when it was read again.
#[test]
fn a_larger_message_than_was_announced_is_refused_whatever_the_header_says_since() {
    for trust in [Trust::Nobody, Trust::SameUser] {
        let hive = Hive::new(ACTOR);
        let ours: Node = hive.node("ours").join().unwrap();
        let mut subscriber = ours.subscriber_builder::<[u8]>("talk").trust(trust).create().unwrap();
        let liar = hive.spawn("liar");
        liar.hollow(HollowOrder::Offer {
            service: "talk".to_owned(),
            has_slots: true,
            far: TAKEN,
            message_max: 4096,
        });
        liar.hollow(HollowOrder::LetIn { count: 1 });
        subscriber.wait_for_publishers(1, BOUND).unwrap();
        liar.hollow(HollowOrder::Rewrite { message_max: 2 * MESSAGE_BYTES_MAX });
        liar.hollow(HollowOrder::Commit { count: 1, offset: 0, length: 4096 });
        assert_eq!(subscriber.recv_timeout(BOUND).unwrap().unwrap().len(), 4096);
        liar.hollow(HollowOrder::Commit { count: 1, offset: 0, length: 4160 });
        let error = await_error(&mut subscriber);
        let RecvError::Detached { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("out of bounds"), "{error}");
    }
}
