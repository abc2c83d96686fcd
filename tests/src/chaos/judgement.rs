//! Who is dead and who is alive: the kernel's word, and nothing else, decides.
//!
//! | a subscriber that | is | so |
//! | --- | --- | --- |
//! | is a zombie | dead | a reliable publisher goes on, its name is free |
//! | is stopped | alive | a reliable publisher waits, a lossy one does not, its samples stay, its name is taken |
//! | is dead, and another process holds every descriptor it had | dead | as a zombie |
//! | is dead, and another process has its process-id | dead | as a zombie; and the other is a node like any |
//!
//! A forked child is a process that holds every descriptor of its parent; here the harness takes them all
//! (`pidfd_getfd`) while the parent lives, the socket to the root included, which is the same for everybody
//! else: nothing closes when the parent dies. The process-id is forced in a namespace of its own, with the
//! publisher stopped until the other process has it, so that nobody can have judged before.

use super::report::Row;
use super::{Rounds, actors, actors_of};
use crate::hive::{Actor, Hive, PublisherOf, joining, lossy, reliable};
use crate::order::{Answer, Join, Kind, Order};
use crate::{BOUND, until};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// Slots of the reliable ring.
const CAPACITY: u64 = 8;
/// In a chunk.
const LENGTH: usize = 100;
/// Samples that the subscriber holds.
const HELD: usize = 3;
/// Messages that must go through: more than there are slots.
const BEYOND: u64 = 4 * CAPACITY;
/// Longer than anybody waits here.
const PATIENCE_MS: u64 = 50_000;

/// A publisher that waits for the one subscriber it has.
struct Scene<'a> {
    speaker: &'a Actor,
    victim: Actor,
}

impl<'a> Scene<'a> {
    fn set(hive: &Hive, speaker: &'a Actor) -> Self {
        let victim = hive.actor("victim");
        victim.subscribe("held/*", Kind::Bytes).await_publishers(2);
        let scene = Scene { speaker, victim };
        scene.reliable().await_subscribers(1);
        scene.lossy().await_subscribers(1);
        scene.reliable().attempt(HELD as u64, LENGTH, 0).expect("there is room");
        scene.victim.subscribers(0).hold(HELD);
        // Until it is full.
        let full = scene.reliable().attempt(2 * CAPACITY, LENGTH, 0).expect_err("nobody reads");
        assert!(full.variant.contains("Full"), "{full:?}");
        scene
    }

    fn reliable(&self) -> PublisherOf<'a> {
        self.speaker.publishers(0)
    }

    fn lossy(&self) -> PublisherOf<'a> {
        self.speaker.publishers(1)
    }
}

/// A node that hosts the root and has the two publishers.
fn speaker(hive: &Hive) -> Actor {
    let speaker = hive.actor("speaker");
    let mut publish = reliable("held/reliable", Kind::Bytes);
    publish.capacity = CAPACITY;
    speaker.publish(publish);
    speaker.publish(lossy("held/lossy", Kind::Bytes));
    speaker
}

fn play(rounds: &Rounds<'_>, case: &'static str, mut round: impl FnMut(&Hive, &Actor, &mut Row)) -> Row {
    let mut row = Row::new(case);
    let hive = actors(rounds);
    let speaker = speaker(&hive);
    for number in 0.. {
        if !rounds.goes_on(number) {
            break;
        }
        round(&hive, &speaker, &mut row);
        row.reached += 1;
    }
    row
}

/// The publisher goes on, and the victim's name is free.
fn is_dead(hive: &Hive, speaker: &Actor, row: &mut Row) {
    match speaker.publishers(0).attempt(BEYOND, LENGTH, PATIENCE_MS) {
        Ok(_) => row.messages += BEYOND,
        Err(failure) => row.faults.misjudge(format!("the dead hold up a publisher: {}", failure.text)),
    }
    let namesake = hive.spawn("victim");
    if let Err(failure) = namesake.attempt(&Order::Join(joining("victim"))) {
        row.faults.misjudge(format!("the dead keep a name: {}", failure.text));
    }
}

fn state_is(pid: i32, wanted: &str) -> Option<()> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains(wanted)).then_some(())
}

/// Kills it and leaves it a zombie.
fn make_zombie(victim: &Actor) {
    let pid = Pid::from_raw(victim.pid());
    kill(pid, Signal::SIGKILL).expect("it is ours");
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("it is ours");
}

/// A zombie is dead.
pub(super) fn zombie(rounds: &mut Rounds<'_>) -> Row {
    play(rounds, "zombie", |hive, speaker, row| {
        let scene = Scene::set(hive, speaker);
        make_zombie(&scene.victim);
        is_dead(hive, speaker, row);
        assert_eq!(state_is(scene.victim.pid(), "Z (zombie)"), Some(()), "nobody has waited for it");
    })
}

/// A stopped process is alive.
pub(super) fn stopped(rounds: &mut Rounds<'_>) -> Row {
    play(rounds, "stopped", |hive, speaker, row| {
        let scene = Scene::set(hive, speaker);
        let pid = scene.victim.pid();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is ours");
        until("it is stopped", || state_is(pid, "T (stopped)"));
        match scene.reliable().attempt(1, LENGTH, 20) {
            Err(failure) if failure.variant.contains("Full") => {}
            other => {
                row.faults.misjudge(format!("a reliable publisher did not wait for the living: {other:?}"));
            }
        }
        // Several times around its ring.
        if let Err(failure) = scene.lossy().attempt(1000, LENGTH, 0) {
            row.faults.misjudge(format!("a lossy publisher was held up: {}", failure.text));
        }
        let namesake = hive.spawn("victim");
        match namesake.attempt(&Order::Join(Join { patience_ms: 50, ..joining("victim") })) {
            Err(failure) if failure.variant.contains("NodeNameTaken") => {}
            other => row.faults.misjudge(format!("the living lost a name: {other:?}")),
        }
        kill(Pid::from_raw(pid), Signal::SIGCONT).expect("it is ours");
        if scene.victim.attempt(&Order::CheckHeld) != Ok(Answer::Number(HELD as u64)) {
            row.faults.misjudge("what a stopped subscriber held was taken from it".to_owned());
        }
        // It goes on where it was: nothing that was sent meanwhile is lost.
        scene.victim.subscribers(0).collect();
        let sent = scene.reliable().published();
        let tally = until("it reads on", || {
            let tally = scene.victim.subscribers(0).tally();
            let reliable = tally.connections.iter().find(|known| known.service == "held/reliable");
            reliable.is_some_and(|known| known.position() == sent).then_some(tally)
        });
        for connection in &tally.connections {
            let lost = if connection.service == "held/reliable" { connection.lost } else { 0 };
            if lost + connection.account.torn + connection.account.disordered > 0 {
                row.faults.fail(format!("{connection:?}"));
            }
        }
        row.messages += tally.messages();
    })
}

/// Everything a process has open, also held by this one from now on.
fn descriptors_of(pid: i32) -> std::io::Result<Vec<OwnedFd>> {
    let known = rustix::process::Pid::from_raw(pid).expect("a process has a number");
    let process = pidfd_open(known, PidfdFlags::empty())?;
    let mut held = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number = entry?.file_name().to_string_lossy().parse().expect("descriptors are numbers");
        held.push(pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?);
    }
    Ok(held)
}

/// Dead is who is dead, whoever holds its descriptors.
pub(super) fn kept_open(rounds: &mut Rounds<'_>) -> Row {
    let mut forbidden = None;
    let mut row = play(rounds, "kept-open", |hive, speaker, row| {
        let scene = Scene::set(hive, speaker);
        let held = match descriptors_of(scene.victim.pid()) {
            Ok(held) => held,
            Err(error) => {
                forbidden = Some(error);
                return;
            }
        };
        scene.victim.kill();
        is_dead(hive, speaker, row);
        drop(held);
    });
    if let Some(error) = forbidden {
        row.reached = 0;
        row.notes.push(format!("SKIPPED: descriptors of another process cannot be taken here: {error}"));
    }
    row
}

/// Runs the rounds in a namespace of process-ids.
pub(super) fn reused(rounds: &mut Rounds<'_>) -> Row {
    let mut row = Row::new("reused-pid");
    // The namespace does not see the clock of the campaign, so it plays in parts.
    const PART: u64 = 20;
    while rounds.goes_on(row.reached) {
        let count = PART.min(rounds.wanted - row.reached);
        let part = serde_json::to_string(&super::victim::Part::Reuse { rounds: count }).expect("plain data");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command.arg(&rounds.campaign.program).args(["--part", &part]).stdin(Stdio::null());
        let said = command.output();
        let text = said.as_ref().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let result = text.ok().and_then(|text| serde_json::from_str::<(u64, u64, Vec<String>)>(&text).ok());
        let Some((reached, misjudged, told)) = result else {
            let why = said.map_or_else(
                |error| error.to_string(),
                |output| {
                    String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ")
                },
            );
            if row.reached == 0 && !why.contains("panicked") {
                row.notes.push(format!("SKIPPED: no namespace in which a process-id can be chosen: {why}"));
            } else {
                row.faults.fail(format!("after {} rounds: {why}", row.reached));
            }
            break;
        };
        row.reached += reached;
        row.messages += reached * BEYOND;
        row.faults.misjudged += misjudged;
        told.into_iter().for_each(|fault| row.faults.tell(fault));
    }
    row
}

/// The rounds, in a process that may choose process-ids. Says on its standard output how many and what was
/// misjudged.
pub(super) fn reuse_here(rounds: u64) {
    let program = std::env::current_exe().expect("it runs");
    let hive = actors_of(&program);
    let speaker = speaker(&hive);
    let mut row = Row::new("reused-pid");
    for _ in 0..rounds {
        let scene = Scene::set(&hive, &speaker);
        let pid = scene.victim.pid();
        // The root and the publisher, in one process: they learn of the death when the other one has the
        // number.
        kill(Pid::from_raw(speaker.pid()), Signal::SIGSTOP).expect("it is ours");
        until("the publisher is stopped", || state_is(speaker.pid(), "T (stopped)"));
        scene.victim.kill();
        let other = until("another process gets the number", || {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
                .expect("the number of the next process can be chosen");
            let other = hive.spawn("victim");
            (other.pid() == pid).then_some(other)
        });
        other.begin(&Order::Join(joining("victim")));
        kill(Pid::from_raw(speaker.pid()), Signal::SIGCONT).expect("it is ours");
        match speaker.publishers(0).attempt(BEYOND, LENGTH, PATIENCE_MS) {
            Ok(_) => {}
            Err(failure) => row.faults.misjudge(format!("the dead hold up a publisher: {}", failure.text)),
        }
        match other.answer() {
            Ok(_) => {
                let subscriber = other.subscribe("held/*", Kind::Bytes);
                subscriber.await_publishers(2);
                scene.reliable().attempt(HELD as u64, LENGTH, 0).expect("there is room");
                subscriber.hold(HELD);
                // Nothing that is still to be heard about the dead ends what the living has.
                let nodes = speaker.nodes();
                if nodes != ["speaker", "victim"] {
                    row.faults.misjudge(format!("the living are {nodes:?}"));
                }
            }
            Err(failure) => {
                row.faults.misjudge(format!("the living is taken for the dead: {}", failure.text));
            }
        }
        row.reached += 1;
    }
    assert!(BOUND.as_millis() > u128::from(PATIENCE_MS), "an actor answers before anybody stops listening");
    let said = (row.reached, row.faults.misjudged, row.faults.told);
    println!("{}", serde_json::to_string(&said).expect("plain data"));
}
