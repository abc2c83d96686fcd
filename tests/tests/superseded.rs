//! The root is stopped: it lives and does not answer. Another takes its place, the hive goes on, and it
//! abdicates when it is continued.

use hivemind::NodeError;
use hivemind_runtime::session::JoinError;
use hivemind_tests::BOUND;
use hivemind_tests::hive::{Actor, Hive, joining, reliable};
use hivemind_tests::order::{Join, Kind, Order};
use hivemind_tests::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// A process that does not run, and is continued at the end whatever happens.
struct Stopped<'a>(&'a Actor);

impl<'a> Stopped<'a> {
    fn new(actor: &'a Actor) -> Self {
        kill(Pid::from_raw(actor.pid()), Signal::SIGSTOP).unwrap();
        // A thread that runs on another processor goes on for a moment.
        until("all its threads are stopped", || all_threads_are_stopped(actor.pid()).then_some(()));
        Stopped(actor)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.pid()), Signal::SIGCONT);
    }
}

fn all_threads_are_stopped(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| thread.unwrap().path().join("stat")).all(|stat| {
        // The state follows the name, which is in parentheses. A thread that has ended meanwhile does not
        // run.
        std::fs::read_to_string(stat).map_or(true, |stat| {
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            state.is_some_and(|rest| rest.starts_with('T'))
        })
    })
}

fn guest(hive: &Hive, name: &str) -> Actor {
    let actor = hive.spawn(name);
    actor.join(Join { guest: true, ..joining(name) });
    actor
}

/// Somebody streams to somebody while the root is stopped. A newcomer joins and subscribes in the gap, and
/// gets all that is sent from there on. One of two standbys is the root then, with the next epoch, and all
/// obey it, also the old one when it goes on.
fn stop_the_root_under_load(hive: &Hive, root: &Actor, goes_on: impl FnOnce(&Actor, i32)) {
    let speaker = guest(hive, "speaker");
    let listener = guest(hive, "listener");
    let standbys = ["first", "second"].map(|name| hive.actor(name));
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let subscriber = listener.subscribe("entries", Kind::Typed);
    subscriber.await_publishers(1);
    subscriber.collect();
    let (pid, epoch) = listener.root();
    assert_eq!(pid, Some(root.pid()));
    publisher.stream(Some(100), 0);

    let stopped = Stopped::new(root);
    let newcomer = hive.spawn("newcomer");
    newcomer.join(Join { guest: true, ..joining("newcomer") });
    let second = newcomer.subscribe("entr*", Kind::Typed);
    second.await_publishers(1);
    second.collect();
    let (heir, next) = newcomer.root();
    let heir = heir.expect("the newcomer has just been introduced by it");
    assert!(next > epoch, "epoch {next} after {epoch}");
    assert!(standbys.iter().any(|standby| standby.pid() == heir), "{heir} is no standby");
    for actor in [&speaker, &listener, &standbys[0], &standbys[1]] {
        until("all obey the new root", || (actor.root() == (Some(heir), next)).then_some(()));
    }

    drop(stopped);
    goes_on(root, heir);
    let third = listener.subscribe("entries", Kind::Typed);
    third.await_publishers(1);
    third.collect();
    for actor in [&speaker, &newcomer, &standbys[0], &standbys[1]] {
        assert_eq!(actor.root(), (Some(heir), next), "the old root has changed something");
    }
    let sent = publisher.stop();
    for subscriber in [&subscriber, &second, &third] {
        let tally = until("all that was sent", || {
            let tally = subscriber.tally();
            tally.connections.first().is_some_and(|found| found.position() == sent).then_some(tally)
        });
        tally.assert_sound();
        assert_eq!((tally.connections.len(), tally.lost()), (1, 0), "{tally:#?}");
    }
}

#[test]
fn a_node_that_hosts_the_root_and_is_stopped_finds_its_successor_when_it_goes_on() {
    let hive = Hive::new(ACTOR);
    let root = hive.actor("host");
    stop_the_root_under_load(&hive, &root, |root, heir| {
        until("the old root obeys its successor", || (root.root().0 == Some(heir)).then_some(()));
        let names = until("it is in the hive again", || {
            let names = root.nodes();
            (names.len() == 6).then_some(names)
        });
        assert_eq!(names, ["first", "host", "listener", "newcomer", "second", "speaker"]);
        let publisher = root.publish(reliable("more", Kind::Typed));
        let subscriber = root.subscribe("more", Kind::Typed);
        subscriber.await_publishers(1);
        subscriber.collect();
        publisher.send(10);
        subscriber.await_tally(10, 0).assert_sound();
    });
}

#[test]
fn a_dedicated_root_that_is_stopped_says_who_superseded_it_when_it_goes_on() {
    let hive = Hive::new(ACTOR);
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    until("it listens", || hive.files().iter().any(|file| file.ends_with("root.sock")).then_some(()));
    stop_the_root_under_load(&hive, &root, |root, heir| {
        let failure = root.attempt(&Order::AwaitRootEnd).unwrap_err();
        assert_eq!(failure.variant, "Superseded");
        let expected = format!("superseded by process {heir}");
        assert!(failure.text.contains(&expected) && failure.text.contains("start it again"), "{failure:?}");
    });
}

/// `hm root` waits for nobody longer than it must.
#[test]
fn a_dedicated_root_supersedes_one_that_is_stopped() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let other = guest(&hive, "other");
    let (_, epoch) = other.root();
    let stopped = Stopped::new(&host);
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    let (pid, next) = until("the other obeys the dedicated root", || {
        let (pid, next) = other.root();
        (pid == Some(root.pid())).then_some((pid, next))
    });
    assert!(next > epoch, "epoch {next} after {epoch}");
    drop(stopped);
    until("the old root obeys it, too", || (host.root() == (pid, next)).then_some(()));
}

/// Nodes that may not host the root take nobody's place. They wait for the one that is there, and go on with
/// it.
#[test]
fn a_root_that_nobody_may_replace_is_waited_for() {
    let hive = Hive::new(ACTOR);
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    let member = hive.spawn("member");
    member.join(Join { external: true, ..joining("member") });
    let before = member.root();

    let stopped = Stopped::new(&root);
    let patience = Duration::from_millis(2_500);
    let begun = Instant::now();
    let error = hive.node("late").external_root().patience(patience).join().unwrap_err();
    assert!(begun.elapsed() >= patience);
    let NodeError::Join(JoinError::NoRoot { .. }) = &error else { panic!("{error:?}") };
    let text = error.to_string();
    assert!(text.contains(&root.pid().to_string()), "it names the process that does not answer: {text}");
    drop(stopped);

    let late = hive.node("late").external_root().patience(BOUND).join().unwrap();
    assert_eq!((late.root_pid(), member.root()), (before.0, before), "it is the same root");
}
