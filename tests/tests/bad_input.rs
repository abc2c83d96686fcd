//! Every kind of bad input gets a typed error that says what to do next: no panic, no hang, no silent drop.

use hivemind::{JoinError, Node, NodeError, PublisherError, SendError, SubscriberError};
use hivemind_runtime::runtime_dir::RuntimeDirError;
use hivemind_tests::BOUND;
use hivemind_tests::entry::{Entry, Reading};
use hivemind_tests::hive::{Hive, SubscriberOf, joining, lossy, reliable};
use hivemind_tests::order::{Failure, Join, Kind, Order};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// That a text has all these parts.
#[track_caller]
#[allow(clippy::needless_pass_by_value)] // Errors that nobody needs any more.
fn says(text: impl ToString, parts: &[&str]) {
    let text = text.to_string();
    for part in parts {
        assert!(text.contains(part), "it does not say {part:?}: {text}");
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Failure>, variant: &str, parts: &[&str]) {
    let failure = outcome.unwrap_err();
    assert!(failure.variant.contains(variant), "{failure:#?}");
    says(&failure.text, parts);
}

/// Once `capacity(4).history(4)` gave 3 messages, `history(1000)` gave 255, and `capacity(0)` two slots,
/// without a word.
#[test]
fn options_that_a_ring_cannot_have_are_refused_and_the_remedy_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::builder("node").dir(folder.path()).join().unwrap();
    let builder = || node.publisher_builder::<u64>("numbers");
    for (builder, said) in [
        (builder().capacity(0), "capacity(0) holds no message"),
        (builder().capacity(4).history(4), "history(4) is too many for a ring of 4 messages"),
        (builder().history(1000), "history(1000) is too many for a ring of 256 messages"),
        (builder().capacity(8).retain(9), "retain(9) is too many for a ring of 8 messages"),
        (builder().max_message(1 << 40), "max_message is 1099511627776"),
        (builder().max_memory(1 << 60), "max_memory is"),
    ] {
        let error = builder.create().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    // Rounded up: 5 messages need a ring of 8.
    drop(builder().capacity(5).history(7).create().unwrap());
}

#[test]
fn a_name_that_does_not_parse_says_where() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("node").join().unwrap();
    for (name, place, part) in [
        ("", "byte 0", "empty"),
        ("/a", "byte 0", "'/'"),
        ("a/", "byte 1", "'/'"),
        ("sensors//pose", "byte 8", "'/'"),
        ("sensors/my pose", "byte 10", "' '"),
        ("sensors/*", "byte 8", "'*'"),
        ("pose\0", "byte 4", "\\0"),
        ("läuft", "byte 1", "'ä'"),
    ] {
        let error = node.publisher::<Entry>(name).unwrap_err();
        assert!(matches!(error, PublisherError::Name(_)), "{error:?}");
        says(error, &["service", place, part]);
    }
    says(node.publisher::<Entry>(&"x".repeat(10_000)).unwrap_err(), &["byte 200", "200"]);
    for name in ["", "a/b", "a b", "*", &"x".repeat(65)] {
        let error = hive.node(name).join().unwrap_err();
        assert!(matches!(error, NodeError::Name(_)), "{error:?}");
        says(error, &["node", "byte"]);
        let error = hive.node("node").hive(name).join().unwrap_err();
        assert!(matches!(error, NodeError::Name(_)), "{error:?}");
        says(error, &["hive", "byte"]);
    }
    // Names that lead to other folders.
    for name in [".", ".."] {
        says(hive.node("node").hive(name).join().unwrap_err(), &["other folders"]);
    }
    assert!(node.publisher::<Entry>("sensors/pose").is_ok(), "the node is none the worse");
}

#[test]
fn a_filter_that_does_not_parse_says_where() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("node").join().unwrap();
    for (filter, place) in [
        ("", "byte 0"),
        ("sensors//*", "byte 8"),
        ("sensors/**x", "byte 8"),
        ("sensors/[ab", "byte 8"),
        ("sensors/ab]", "byte 10"),
        ("sensors/[]", "byte 9"),
        ("sensors/po se", "byte 10"),
        ("{a,b}", "byte 0"),
        ("a\\b", "byte 1"),
    ] {
        let error = node.subscriber::<Entry>(filter).unwrap_err();
        assert!(matches!(error, SubscriberError::Filter(_)), "{error:?}");
        says(error, &[place]);
        assert!(node.subscriber_dynamic(filter).is_err());
    }
    assert!(node.subscriber::<Entry>(&"*/".repeat(5_000)).is_err());
    assert!(node.subscriber::<Entry>("sensors/**").is_ok(), "the node is none the worse");
}

#[test]
fn a_second_live_node_of_the_same_name_is_refused_and_told_who_has_it() {
    let hive = Hive::new(ACTOR);
    let first = hive.actor("camera");
    let failure = hive.spawn("camera").attempt(&Order::Join(joining("camera")));
    refused(failure, "NodeNameTaken", &["camera", &first.pid().to_string(), "another name"]);
    // Also within one process, and by the holder itself.
    let error = hive.node("camera").join().unwrap_err();
    assert!(matches!(error, NodeError::Join(JoinError::NodeNameTaken { .. })), "{error:?}");
    first.kill();
    drop(hive.node("camera").join().expect("the name of a dead node is free"));
}

#[test]
fn another_type_on_the_same_service_names_both_and_what_differs() {
    let hive = Hive::new(ACTOR);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(lossy("sensors/pose", Kind::Typed));
    let other = hive.actor("other");
    let parts = ["sensors/pose", "Entry", "Reading", "speaker"];
    refused(other.attempt(&Order::Publish(lossy("sensors/pose", Kind::Other))), "TypeMismatch", &parts);
    // Types of one name that differ within.
    let node = hive.node("namesake").join().unwrap();
    let error = node.publisher::<namesake::Entry>("sensors/pose").unwrap_err();
    says(error, &["sensors/pose", "Entry.length", "u64", "u32"]);
    // A subscriber is told, and waits.
    let stale = node.subscriber::<namesake::Entry>("sensors/pose").unwrap();
    let skipped = hivemind_tests::until("the service is reported", || stale.skipped().pop());
    assert_eq!(skipped.type_name, skipped.expected, "the names say nothing");
    says(skipped, &["sensors/pose", "speaker", "Entry.length: u32 here, u64 there"]);
    let error = stale.wait_for_publishers(1, Duration::from_millis(10)).unwrap_err();
    says(error, &["sensors/pose", "speaker", "Entry.length: u32 here, u64 there", "same type"]);
    // Under a wildcard it is skipped and reported, too, and the rest is received.
    let node = hive.node("node").join().unwrap();
    let subscriber = node.subscriber::<Reading>("sensors/*").unwrap();
    hivemind_tests::until("the skipped service is reported", || subscriber.skipped().pop());
    let mut right = node.publisher::<Reading>("sensors/heat").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    right.send(&Reading { celsius: 20.0 }).unwrap();
    assert_eq!(subscriber.publishers(), 1);
    // Once nobody has the service, it is free for another type.
    publisher.retire();
    drop(hivemind_tests::until("the service is free", || node.publisher::<Reading>("sensors/pose").ok()));
}

/// It was not: whoever subscribed by name with the old type kept the upgraded program from starting, until it
/// was found and ended.
#[test]
fn a_stale_viewer_keeps_no_upgraded_robot_from_starting_and_is_served_when_it_fits_again() {
    let hive = Hive::new(ACTOR);
    let viewer = hive.actor("viewer");
    let subscriber = viewer.subscribe("robot/state", Kind::Typed);
    let upgraded = hive.actor("robot");
    upgraded.publish(lossy("robot/state", Kind::Other));
    let modern = hive.actor("modern-viewer");
    modern.subscribe("robot/state", Kind::Other).await_publishers(1);
    upgraded.kill();
    let robot = hive.actor("robot");
    let publisher = robot.publish(lossy("robot/state", Kind::Typed));
    subscriber.await_publishers(1);
    publisher.await_subscribers(1);
    subscriber.collect();
    publisher.send(10);
    subscriber.await_tally(10, 0);
    // The other one waits now.
    refused(
        hive.actor("second").attempt(&Order::Publish(lossy("robot/state", Kind::Other))),
        "TypeMismatch",
        &["robot/state", "Entry", "Reading", "in node robot"],
    );
}

mod namesake {
    /// Another type of this name.
    #[hivemind::message]
    #[derive(Debug)]
    pub struct Entry {
        /// As in the other.
        pub number: u64,
        /// Not 64 bits wide.
        pub length: u32,
        /// As in the other.
        pub checksum: u64,
        /// As in the other.
        pub payload: Vec<u8>,
    }
}

#[test]
fn a_message_larger_than_the_bound_is_refused_with_both_figures() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("node").join().unwrap();
    let mut frames = node.publisher_builder::<[u8]>("frames").max_message(1000).create().unwrap();
    let error = frames.loan(1001).unwrap_err();
    assert!(matches!(error, SendError::TooLarge { bytes: 1001, limit: 1000, .. }), "{error:?}");
    says(error, &["1001", "1000", "max_message"]);
    assert!(frames.send(&[0; 1001][..]).is_err());
    assert!(frames.loan(usize::MAX).is_err());
    let mut entries = node.publisher_builder::<Entry>("entries").max_message(1000).create().unwrap();
    let large = Entry { payload: vec![0; 5000], ..Entry::empty() };
    let error = entries.send(&large).unwrap_err();
    assert!(matches!(error, SendError::TooLarge { limit: 1000, .. }), "{error:?}");
    says(error, &["max_message"]);
    assert_eq!((frames.published(), entries.published()), (0, 0));
    entries.send(&Entry::empty()).unwrap();
    frames.loan(1000).unwrap().send();
    // Bounds that no publisher can have.
    for builder in [
        node.publisher_builder::<[u8]>("a").max_message(u64::MAX),
        node.publisher_builder::<[u8]>("a").max_memory(u64::MAX),
        node.publisher_builder::<[u8]>("a").capacity(u64::MAX),
    ] {
        let error = builder.create().unwrap_err();
        assert!(matches!(error, PublisherError::Memory(_)), "{error:?}");
        says(error, &["at most", "ask for less"]);
    }
}

#[test]
fn exhausted_memory_is_an_error_of_loan_and_send() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("node").join().unwrap();
    for reliable in [false, true] {
        let name = if reliable { "reliable" } else { "lossy" };
        let mut builder = node.publisher_builder::<[u8]>(name).capacity(64).max_memory(1 << 20);
        if reliable {
            builder = builder.reliable();
        }
        let mut publisher = builder.create().unwrap();
        let mut subscriber = node.subscriber::<[u8]>(name).unwrap();
        subscriber.wait_for_publishers(1, BOUND).unwrap();
        let mut held = Vec::new();
        let error = loop {
            match publisher.loan(100_000) {
                Ok(loan) => {
                    loan.send();
                    held.push(subscriber.recv_timeout(BOUND).unwrap().unwrap());
                }
                Err(error) => break error,
            }
        };
        assert_eq!(held.len(), 10);
        assert!(matches!(error, SendError::MemoryOut { bytes: 100_000, .. }), "{error:?}");
        says(&error, &["100000", &(1 << 20).to_string(), name, "max_memory"]);
        assert_eq!(publisher.send(&[0; 100_000][..]).unwrap_err(), error);
        // Short messages need no such memory, and one sample less is enough to go on.
        publisher.send(&[0; 56][..]).unwrap();
        held.pop();
        publisher.loan(100_000).unwrap().send();
    }
}

#[test]
fn a_process_without_memory_for_a_ring_is_told_so() {
    let hive = Hive::new(ACTOR);
    let poor = hive.actor("poor");
    poor.tell(&Order::LimitAddresses { spare: 64 << 20 });
    let failure = poor.attempt(&Order::Publish(lossy("frames", Kind::Bytes)));
    refused(failure, "Memory", &["ulimit -v", "max_memory"]);
    // With less it works.
    let mut little = lossy("frames", Kind::Bytes);
    little.max_memory = Some(1 << 20);
    let publisher = poor.publish(little);
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("frames", Kind::Bytes);
    subscriber.await_publishers(1);
    subscriber.collect();
    publisher.send(100);
    assert_eq!(subscriber.await_tally(100, 0).messages(), 100);

    // The subscriber's side: it cannot map what it is to read, says so, and goes on with the others.
    let reader = poor.subscribe("entries", Kind::Typed);
    reader.collect();
    let rich = hive.actor("rich");
    rich.publish(lossy("entries", Kind::Typed));
    let tally = hivemind_tests::until("the failed attachment is reported", || {
        let tally = reader.tally();
        (!tally.errors.is_empty()).then_some(tally)
    });
    says(&tally.errors[0], &["entries", "ulimit -v"]);
}

#[test]
fn files_that_may_not_be_long_enough_are_an_error_and_no_signal() {
    let hive = Hive::new(ACTOR);
    let poor = hive.actor("poor");
    poor.tell(&Order::LimitFiles { bytes: 10 << 20 });
    let failure = poor.attempt(&Order::Publish(lossy("frames", Kind::Bytes)));
    refused(failure, "Memory", &["ulimit -f", "max_memory"]);
    assert_eq!(poor.nodes(), ["poor"]);
}

/// With every number of descriptors from none upwards a process can join, publish and subscribe, or is told
/// that it needs more. It never hangs, and what stands is whole.
#[test]
fn a_process_without_descriptors_is_told_so() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let other = host.publish(reliable("entries", Kind::Typed));
    host.subscribe("echo", Kind::Typed);
    let mut complete = 0;
    for spare in 0..40 {
        let poor = hive.spawn("poor");
        poor.tell(&Order::LimitDescriptors { spare });
        let told = |failure: Failure| says(&failure.text, &["descriptors", "ulimit -n"]);
        let join = Join { patience_ms: 2000, ..joining(&format!("poor-{spare}")) };
        if let Err(failure) = poor.attempt(&Order::Join(join)) {
            told(failure);
            continue;
        }
        let publisher = poor.attempt(&Order::Publish(reliable("echo", Kind::Typed)));
        let subscriber = poor.attempt(&Order::Subscribe { filter: "entries".to_owned(), kind: Kind::Typed });
        let both = publisher.is_ok() && subscriber.is_ok();
        [publisher, subscriber].into_iter().filter_map(Result::err).for_each(told);
        if both {
            complete += 1;
        }
        drop(poor);
    }
    assert!(complete > 0, "40 descriptors are enough");
    assert_eq!(host.nodes(), ["host"]);
    assert_eq!(other.send(10), 10);
}

/// Attaching needs descriptors for a moment on both sides. Who has none left says so to whoever receives.
#[test]
fn a_subscriber_without_descriptors_says_whom_it_could_not_attach_to() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let speaker = hive.actor("speaker");
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("entries", Kind::Typed);
    subscriber.collect();
    listener.tell(&Order::LimitDescriptors { spare: 0 });
    speaker.publish(lossy("entries", Kind::Typed));
    says(await_error(&subscriber), &["entries", "descriptors"]);
    assert_eq!(host.nodes(), ["host", "listener", "speaker"]);
}

#[test]
fn a_subscriber_hears_why_a_publisher_without_descriptors_did_not_attach_it() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(lossy("entries", Kind::Typed));
    let early = hive.actor("early");
    let first = early.subscribe("entries", Kind::Typed);
    publisher.await_subscribers(1);
    first.await_publishers(1);
    first.collect();
    speaker.tell(&Order::LimitDescriptors { spare: 0 });
    let late = hive.actor("late");
    let second = late.subscribe("entries", Kind::Typed);
    second.collect();
    says(await_error(&second), &["entries", "descriptors"]);
    // Who was attached before stays attached.
    publisher.send(10);
    first.await_tally(10, 0).assert_sound();
    assert_eq!(host.nodes(), ["early", "host", "late", "speaker"]);
}

fn await_error(subscriber: &SubscriberOf<'_>) -> String {
    hivemind_tests::until("the failed attachment is reported", || subscriber.tally().errors.pop())
}

#[test]
fn a_root_without_descriptors_tells_newcomers_and_serves_the_others() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let listener = hive.actor("listener");
    host.tell(&Order::LimitDescriptors { spare: 0 });
    let newcomer = hive.spawn("newcomer");
    let failure = newcomer.attempt(&Order::Join(Join { patience_ms: 500, ..joining("newcomer") }));
    refused(failure, "", &["descriptors", "ulimit -n", &host.pid().to_string()]);
    // Who is there stays there and hears everything.
    assert_eq!(publisher.send(10), 10);
    assert_eq!(listener.nodes(), ["host", "listener", "speaker"]);
    host.tell(&Order::LimitDescriptors { spare: 100 });
    newcomer.join(joining("newcomer"));
    let subscriber = newcomer.subscribe("entries", Kind::Typed);
    subscriber.await_publishers(1);
}

#[test]
fn a_runtime_directory_that_others_may_write_to_is_refused() {
    let hive = Hive::new(ACTOR);
    for mode in [0o777, 0o770, 0o702, 0o1777] {
        std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(mode)).unwrap();
        let error = hive.node("node").join().unwrap_err();
        let expected =
            matches!(error, NodeError::Join(JoinError::Directory(RuntimeDirError::WritableByOthers { .. })));
        assert!(expected, "{error:?}");
        says(error, &[&format!("{mode:o}"), "chmod go-w", &hive.folder().display().to_string()]);
    }
    std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o700)).unwrap();
    drop(hive.node("node").join().unwrap());
    // The folder of the hive within it counts, too.
    std::fs::set_permissions(hive.folder().join("default"), PermissionsExt::from_mode(0o770)).unwrap();
    says(hive.node("node").join().unwrap_err(), &["chmod go-w"]);
}

#[test]
fn a_runtime_directory_of_somebody_else_is_refused() {
    let hive = Hive::new(ACTOR);
    if nix::unistd::geteuid().is_root() {
        chown(hive.folder(), Some(4711), None).unwrap();
        let error = hive.node("node").join().unwrap_err();
        let expected =
            matches!(error, NodeError::Join(JoinError::Directory(RuntimeDirError::ForeignOwner { .. })));
        assert!(expected, "{error:?}");
        says(error, &["4711", "HIVEMIND_DIR"]);
        chown(hive.folder(), Some(0), None).unwrap();

        // The other way round: another user comes to a hive that is ours, and may even enter its folder.
        let host = hive.actor("host");
        std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = hive.folder().join("actor");
        std::fs::copy(ACTOR, &program).unwrap();
        let mut command = Command::new(&program);
        command.uid(4711).gid(4711).env("HIVEMIND_DIR", hive.folder());
        let foreigner = hive.spawn_with(command, "foreigner");
        refused(
            foreigner.attempt(&Order::Join(joining("foreigner"))),
            "ForeignOwner",
            &["HIVEMIND_DIR", "4711"],
        );
        assert_eq!(host.nodes(), ["host"]);
    } else {
        let error = Node::builder("node").dir("/proc").join().unwrap_err();
        says(error, &["belongs to user 0", "HIVEMIND_DIR"]);
    }
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_with_both_lengths() {
    let hive = Hive::new(ACTOR);
    let long = hive.folder().join("x".repeat(100));
    let error = Node::builder("node").dir(&long).join().unwrap_err();
    let expected = matches!(error, NodeError::Join(JoinError::Directory(RuntimeDirError::TooLong { .. })));
    assert!(expected, "{error:?}");
    let length = long.join("default/root.sock").as_os_str().len();
    says(error, &[&length.to_string(), "107", "HIVEMIND_DIR"]);
    assert!(!long.exists());
    // As long as possible is possible.
    let rest = 107 - hive.folder().as_os_str().len() - "//default/root.sock".len();
    let node = Node::builder("node").dir(hive.folder().join("x".repeat(rest))).join().unwrap();
    assert!(node.hosts_root());
}

#[test]
fn a_runtime_directory_that_would_differ_from_place_to_place_is_refused() {
    let hive = Hive::new(ACTOR);
    for variable in ["HIVEMIND_DIR", "XDG_RUNTIME_DIR"] {
        let mut command = Command::new(ACTOR);
        command.current_dir(hive.folder()).env_remove("HIVEMIND_DIR").env(variable, "relative/folder");
        let lost = hive.spawn_with(command, "lost");
        refused(
            lost.attempt(&Order::Join(joining("lost"))),
            "Relative",
            &[variable, "relative/folder", "absolute"],
        );
        assert!(!hive.folder().join("relative").exists());
    }
}

#[test]
fn what_is_in_the_way_in_the_runtime_directory_is_named() {
    let hive = Hive::new(ACTOR);
    let folder = hive.folder().join("default");
    let patience = Duration::from_millis(300);
    for (name, make) in [
        ("root.sock", std::fs::create_dir as fn(std::path::PathBuf) -> std::io::Result<()>),
        ("root.lock", std::fs::create_dir),
    ] {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        make(folder.join(name)).unwrap();
        let error = hive.node("node").patience(patience).join().unwrap_err();
        println!("{name} is a folder: {error}");
        assert!(matches!(error, NodeError::Join(_)), "{error:?}");
        says(&error, &["directory"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
    // A stale file, or a socket that nobody listens to, is no obstacle.
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(folder.join("root.sock"), "stale").unwrap();
    std::fs::write(folder.join("root.new"), "stale").unwrap();
    std::fs::write(folder.join("root.lock"), "no epoch at all, but a text of some length\n").unwrap();
    drop(hive.node("node").patience(patience).join().unwrap());
}

/// Ends whose node has left: no hang, no panic.
#[test]
fn ends_of_a_node_that_has_left_say_so() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("node").join().unwrap();
    let mut publisher = node.publisher::<u64>("numbers").unwrap();
    let mut subscriber = node.subscriber::<u64>("numbers").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    publisher.send(&1).unwrap();
    node.leave();
    assert_eq!(*subscriber.recv().unwrap().expect("what was committed is read"), 1);
    assert!(subscriber.recv().unwrap().is_none());
    says(node.publisher::<u64>("others").unwrap_err(), &["has left", "join again"]);
    says(node.subscriber::<u64>("others").unwrap_err(), &["has left", "join again"]);
    says(node.observe().unwrap_err(), &["has left", "join again"]);
    assert!(publisher.wait_for_subscribers(2, BOUND).is_err());
}

#[test]
fn an_observer_may_look_and_do_nothing_else() {
    let hive = Hive::new(ACTOR);
    let error = hive.node("watcher").observer().patience(Duration::from_millis(200)).join().unwrap_err();
    says(error, &["no root"]);
    let host = hive.actor("host");
    let watcher = hive.node("watcher").observer().join().unwrap();
    assert!(watcher.publisher::<u64>("numbers").is_err());
    assert!(watcher.subscriber::<u64>("numbers").is_err());
    hivemind_tests::until("it is still there", || (host.nodes() == ["host", "watcher"]).then_some(()));
    // An end that is not there.
    let nobody = hivemind::EndId { node: 1, index: 1 };
    says(watcher.inspect(nobody).unwrap_err(), &["no end", "list again"]);
}
