//! Doorbells are writable. A guest, a process of another user whom the policy let in, once got those of every
//! node whose service it read, with the lines of all the node's other services: it cleared one word and
//! ended, and a subscriber of the owner slept for ever, and a reliable publisher was `Full` without end.
//!
//! The guests here write over all doorbells that they were given through `/proc/self/mem`. Only the
//! administrator can start processes of other users, so for everybody else these tests are skipped, and say
//! so.

use hivemind_runtime::policy_file::FILE_NAME;
use hivemind_tests::hive::{Actor, Hive, joining, lossy, reliable};
use hivemind_tests::order::{Answer, Kind, Order, Over, Publish};
use hivemind_tests::until;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

const GUEST: u32 = 47_311;
/// Times that all sleep and are woken beside a guest that never stops writing.
const ROUNDS: usize = 40;
/// More messages than the reliable ring has slots.
const MANY: u64 = 500;
/// Longer than every test: a sleeper that nobody wakes does not wake by itself.
const FOR_EVER_MS: u64 = 3_600_000;

struct Shared {
    hive: Hive,
}

impl Shared {
    /// A hive of the test's user in a folder that everybody may reach, with this policy. `None`, said aloud,
    /// where there cannot be processes of other users.
    #[allow(clippy::explicit_write)] // The test harness hides what `eprintln` says when nothing fails.
    fn new(test: &str, policy: &str) -> Option<Shared> {
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
        std::fs::copy(ACTOR, hive.folder().join("actor")).unwrap();
        let folder = hive.folder().join("default");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(folder.join(FILE_NAME), policy).unwrap();
        Some(Shared { hive })
    }

    fn guest(&self, name: &str) -> Actor {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={GUEST}")).arg(format!("--regid={GUEST}")).arg("--clear-groups");
        command.arg(self.hive.folder().join("actor")).env_remove("XDG_RUNTIME_DIR");
        command.env("HIVEMIND_DIR", self.hive.folder()).env("HIVEMIND_OWNER", "0");
        let guest = self.hive.spawn_with(command, name);
        guest.join(joining(name));
        guest
    }
}

/// What its main thread, which carries out orders, waits in.
fn wait_channel(actor: &Actor) -> String {
    std::fs::read_to_string(format!("/proc/{}/wchan", actor.pid())).unwrap_or_default()
}

/// Lets it receive with its first subscriber, and returns when it sleeps.
fn sleeps(actor: &Actor) {
    actor.begin(&Order::Receive { subscriber: 0, patience_ms: FOR_EVER_MS });
    until("it sleeps", || wait_channel(actor).contains("futex").then_some(()));
}

/// It has received a message; not in vain, and not because its time was over.
fn is_woken(actor: &Actor, round: &str) {
    until(&format!("{} wakes {round}", actor.name()), || actor.has_answered().then_some(()));
    assert_eq!(actor.answer().unwrap(), Answer::Number(1), "{} {round}", actor.name());
}

#[test]
fn a_guest_that_writes_over_all_doorbells_that_it_was_given_lets_nobody_sleep_on() {
    let name = "a_guest_that_writes_over_all_doorbells_that_it_was_given_lets_nobody_sleep_on";
    let policy = format!("allow user:{GUEST} subscribe shared\n");
    let Some(hive) = Shared::new(name, &policy) else { return };
    let host = hive.hive.actor("host");
    let shared = host.publish(lossy("shared", Kind::Typed));
    let secret = host.publish(lossy("secret", Kind::Typed));
    let jobs = host.publish(Publish { capacity: 16, ..reliable("jobs", Kind::Typed) });
    let sleepers: Vec<Actor> = ["shared", "secret", "jobs"]
        .into_iter()
        .map(|service| {
            let actor = hive.hive.actor(service);
            actor.subscribe(service, Kind::Typed).await_publishers(1);
            actor
        })
        .collect();
    let publishers = [&shared, &secret, &jobs];
    let enter = |name: &str, before: usize| {
        let guest = hive.guest(name);
        guest.subscribe("shared", Kind::Typed).await_publishers(1);
        shared.await_subscribers(before + 1);
        guest
    };

    // It clears the words once, and is gone.
    let guest = enter("once", 1);
    sleepers.iter().for_each(sleeps);
    assert!(guest.overwrite(Over::Bells, 0) >= 1, "its own at least");
    guest.kill();
    for publisher in publishers {
        publisher.send(1);
    }
    sleepers.iter().for_each(|sleeper| is_woken(sleeper, "after a guest that cleared the words"));

    // It never stops, and then is gone.
    let guest = enter("without-end", 1);
    assert!(guest.scribble(Over::Bells, 7) >= 1);
    for round in 0..ROUNDS {
        sleepers.iter().for_each(sleeps);
        for publisher in publishers {
            publisher.send(1);
        }
        sleepers.iter().for_each(|sleeper| is_woken(sleeper, &format!("in round {round}")));
    }
    // A reliable publisher that waits for room goes on, too.
    sleepers[2].subscribers(0).collect();
    jobs.attempt(MANY, 20, FOR_EVER_MS).unwrap();
    sleepers[2].subscribers(0).await_tally(MANY, 0);
    sleeps(&sleepers[0]);
    guest.kill();
    shared.send(1);
    is_woken(&sleepers[0], "when the guest is gone");
}

/// A publisher of the guest to which a node of the owner is attached that publishes as well, beside a
/// publisher of the owner.
#[test]
fn a_publisher_of_a_guest_that_writes_over_all_doorbells_lets_nobody_sleep_on() {
    let name = "a_publisher_of_a_guest_that_writes_over_all_doorbells_lets_nobody_sleep_on";
    let policy = format!("allow user:{GUEST} publish all/*\n");
    let Some(hive) = Shared::new(name, &policy) else { return };
    let host = hive.hive.actor("host");
    let own = host.publish(lossy("all/own", Kind::Typed));
    // It reads both, and publishes.
    let between = hive.hive.actor("between");
    let onward = between.publish(lossy("onward", Kind::Typed));
    let both = between.subscribe("all/*", Kind::Typed);
    let end = hive.hive.actor("end");
    end.subscribe("onward", Kind::Typed).await_publishers(1);

    let guest = hive.guest("guest");
    let strange = guest.publish(lossy("all/strange", Kind::Typed));
    both.await_publishers(2);
    sleeps(&end);
    guest.overwrite(Over::Bells, 0);
    onward.send(1);
    is_woken(&end, "after a guest that cleared the words");

    guest.scribble(Over::Bells, 7);
    for round in 0..ROUNDS {
        sleeps(&between);
        // In turn by the owner and by the guest itself.
        let sender = if round % 2 == 0 { &own } else { &strange };
        sender.send(1);
        is_woken(&between, &format!("in round {round}"));
        sleeps(&end);
        onward.send(1);
        is_woken(&end, &format!("in round {round}"));
    }
    sleeps(&between);
    guest.kill();
    own.send(1);
    is_woken(&between, "when the guest is gone");
}

/// Both directions without any hostility: a guest sleeps like everybody, and is heard like everybody.
#[test]
fn a_guest_that_sleeps_is_woken_and_wakes() {
    let name = "a_guest_that_sleeps_is_woken_and_wakes";
    let policy = format!("allow user:{GUEST} publish to/*\nallow user:{GUEST} subscribe from/*\n");
    let Some(hive) = Shared::new(name, &policy) else { return };
    let host = hive.hive.actor("host");
    // More than a subscriber of its own user would listen to.
    let publishers: Vec<_> =
        (0..8).map(|number| host.publish(reliable(&format!("from/{number}"), Kind::Typed))).collect();
    host.subscribe("to/guest", Kind::Typed);
    let guest = hive.guest("guest");
    guest.subscribe("from/*", Kind::Typed).await_publishers(publishers.len());
    let back = guest.publish(lossy("to/guest", Kind::Typed));
    host.subscribers(0).await_publishers(1);
    for round in 0..ROUNDS {
        sleeps(&guest);
        publishers[round % publishers.len()].send(1);
        is_woken(&guest, &format!("in round {round}"));
        sleeps(&host);
        back.send(1);
        is_woken(&host, &format!("in round {round}"));
    }
    // What a guest has not read holds a reliable publisher up, until it reads.
    guest.subscribers(0).collect();
    publishers[0].attempt(MANY, 20, FOR_EVER_MS).unwrap();
    guest.subscribers(0).await_tally(MANY, 0);
    // And the end of a publisher reaches one that sleeps.
    host.kill();
    guest.subscribers(0).await_tally(MANY, publishers.len());
}

/// Longer than every bound of a sleep that depends on strangers.
const STILL: Duration = Duration::from_millis(500);

/// How often the threads of this process have gone to sleep by themselves.
fn sleeps_so_far(actor: &Actor) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", actor.pid())).unwrap();
    let status =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    let switches = status.map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    });
    switches.sum()
}

/// A bound on sleeps would show as threads that wake up for nothing. What the system does now and then to a
/// process does not come in each of many pauses.
#[test]
fn an_idle_hive_of_one_user_does_not_wake_up_by_itself() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let lossy = host.publish(lossy("lossy", Kind::Typed));
    let reliable = host.publish(reliable("reliable", Kind::Typed));
    let readers: Vec<Actor> = ["lossy", "**"]
        .into_iter()
        .map(|filter| {
            let actor = hive.actor(if filter == "**" { "all" } else { filter });
            actor.subscribe(filter, Kind::Typed).await_publishers(if filter == "**" { 2 } else { 1 });
            actor
        })
        .collect();
    lossy.await_subscribers(2);
    reliable.await_subscribers(1);
    readers.iter().for_each(sleeps);
    let count = || readers.iter().chain([&host]).map(sleeps_so_far).sum::<u64>();
    until("a pause in which nobody wakes up", || {
        let before = count();
        // Not to wait for a thing, but for nothing.
        std::thread::sleep(STILL);
        (count() == before).then_some(())
    });
    lossy.send(1);
    readers.iter().for_each(|reader| is_woken(reader, "after the pause"));
}
