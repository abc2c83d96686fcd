//! All processes of a hive die at once, at a random instant, the root included; the next start is clean.
//!
//! ```text
//! four nodes start at once, all talk to all …  ✗✗✗✗   folder: socket and lock file, nothing else
//! four nodes start at once in the same folder, under the same names …
//! ```
//! Half of the instants count from the start of the processes, so that they fall into joining and attaching;
//! the others from when everybody hears everybody. What is left is looked for in the hive's folder, in
//! `/dev/shm`, and among the descriptors and mappings of the harness. Where this user may make a memory
//! control group, all processes run in one, and the kernel says how many bytes of shared memory are charged
//! to it when they are dead: none.

use super::report::{Row, brief};
use super::{Rounds, actors};
use crate::BOUND;
use crate::hive::{Actor, Hive, joining, reliable};
use crate::order::{Kind, Order};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NODES: usize = 4;
/// Joining and attaching takes about half of this.
const LATEST_FROM_START_US: u64 = 30_000;
/// From when everybody hears everybody.
const LATEST_UNDER_LOAD_US: u64 = 3_000;
/// Messages that each node hears before it counts as load.
const HEARD: u64 = 100;
/// The only files that a hive leaves: the lock and the socket, and what was to replace one of them when its
/// maker died just before. The next start replaces the sockets, and the next heir uses that lock file.
const LEFT: [&str; 4] = ["default/root.lock", "default/root.heir", "default/root.sock", "default/root.new"];

/// Runs the case.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    let mut row = Row::new("everything");
    row.timed = "from the start of the next processes under the same names until all have joined";
    let (named, descriptors, memory) = (in_shared_memory(), descriptors(), shared_memory());
    let hive = actors(rounds);
    let group = Group::create();
    let mut largest = 0;
    for round in 0.. {
        if !rounds.goes_on(round) {
            break;
        }
        let choose = |purpose| rounds.choice(round, purpose);
        let begun = Instant::now();
        let nodes: Vec<_> = (0..NODES).map(|number| hive.spawn(&format!("node-{number}"))).collect();
        for node in &nodes {
            group.iter().for_each(|group| group.enter(node.pid()));
            node.begin(&Order::Join(joining(node.name())));
        }
        if choose(0).is_multiple_of(2) {
            // Nobody asks for the answers: they may be dead before they give them.
            begin_all(&nodes);
            let delay = Duration::from_micros(choose(1) % LATEST_FROM_START_US);
            std::thread::sleep(delay.saturating_sub(begun.elapsed()));
        } else {
            for node in &nodes {
                if let Err(failure) = node.answer() {
                    row.faults.fail(format!("round {round}: {} did not join: {}", node.name(), failure.text));
                }
            }
            row.times.push(begun.elapsed());
            row.messages += talk(&nodes);
            std::thread::sleep(Duration::from_micros(choose(1) % LATEST_UNDER_LOAD_US));
        }
        largest = largest.max(group.as_ref().and_then(Group::shared).unwrap_or(0));
        // All are told to die before one is waited for.
        for node in &nodes {
            kill(Pid::from_raw(node.pid()), Signal::SIGKILL).expect("it is ours");
        }
        nodes.iter().for_each(Actor::kill);
        drop(nodes);
        look_around(&hive, &named, round, &mut row);
        if let Some(Err(left)) = group.as_ref().map(Group::await_empty) {
            row.faults.fail(format!("round {round}: {left} bytes of shared memory outlive everybody"));
        }
        row.reached += 1;
    }
    drop(hive);
    row.notes.push(match &group {
        // What counts nothing while they live shows nothing when they are dead.
        Some(_) if largest == 0 => "SKIPPED: the exact count of shared memory; the kernel does not count it here".to_owned(),
        Some(_) => format!("0 bytes of shared memory charged to the dead after each round; up to {largest} bytes while they lived"),
        None => "SKIPPED: the exact count of shared memory; no memory control group can be made here".to_owned(),
    });
    // The threads that listened to the actors end on their own.
    let now = crate::until("the harness's own descriptors", || {
        let now = self::descriptors();
        (now <= descriptors).then_some(now)
    });
    row.notes.push(format!("descriptors of the harness: {descriptors} before, {now} after"));
    let after = shared_memory();
    row.notes.push(format!(
        "shared memory of the whole machine, whoever uses it: {memory} KiB before, {after} KiB after; the hives of this case died \
         {} times, in {}",
        row.reached,
        brief(rounds.elapsed())
    ));
    row
}

fn begin_all(nodes: &[Actor]) {
    for node in nodes {
        node.begin(&Order::Publish(reliable(&format!("of/{}", node.name()), Kind::Bytes)));
        node.begin(&Order::Subscribe { filter: "of/*".to_owned(), kind: Kind::Bytes });
        node.begin(&Order::Collect { subscriber: 0 });
        node.begin(&Order::Stream { publisher: 0, length: None, pause_us: 0 });
    }
}

/// All publish, and hear all.
fn talk(nodes: &[Actor]) -> u64 {
    for node in nodes {
        node.publish(reliable(&format!("of/{}", node.name()), Kind::Bytes));
        node.subscribe("of/*", Kind::Bytes);
    }
    for node in nodes {
        node.subscribers(0).await_publishers(nodes.len());
        node.subscribers(0).collect();
        node.publishers(0).stream(None, 0);
    }
    let heard = nodes.iter().map(|node| {
        let tally = node.subscribers(0).await_tally(HEARD, 0);
        tally.assert_sound();
        tally.messages()
    });
    heard.sum()
}

/// Nobody is left, so nothing may be.
fn look_around(hive: &Hive, named: &BTreeSet<String>, round: u64, row: &mut Row) {
    let files = hive.files();
    let strange: Vec<_> = files.iter().filter(|file| !LEFT.contains(&file.as_str())).collect();
    if !strange.is_empty() {
        row.faults.fail(format!("round {round}: files are left: {strange:?}"));
    }
    let new: Vec<_> =
        in_shared_memory().difference(named).filter(|name| name.contains("hivemind")).cloned().collect();
    if !new.is_empty() {
        row.faults.fail(format!("round {round}: /dev/shm has {new:?}"));
    }
    let held = held_by(std::process::id());
    if !held.is_empty() {
        row.faults.fail(format!("round {round}: the harness holds {held:?}"));
    }
}

/// Memory objects of hives that a process holds or maps. The dead hold nothing, and whoever starts next gets
/// nothing of theirs: only the one who started them could.
fn held_by(pid: u32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let open = open.map(|target| target.display().to_string());
    open.chain(maps.lines().map(str::to_owned)).filter(|target| target.contains("/memfd:")).collect()
}

fn in_shared_memory() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// KiB; 0 where the kernel does not say.
fn shared_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Shmem:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// A memory control group (of the first kind), whose statistics say what is charged to its processes, dead or
/// alive.
struct Group(PathBuf);

impl Group {
    fn create() -> Option<Group> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/hivemind-chaos-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let group = Group(path);
        group.shared().map(|_| group)
    }

    /// From now on what it takes is charged here. It has not joined yet, so it has taken nothing.
    fn enter(&self, pid: i32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the group is ours");
    }

    /// Bytes of shared memory.
    fn shared(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.0.join("memory.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("total_shmem ")?.trim().parse().ok())
    }

    /// The kernel sums up its counts now and then. The error is what is left in the end.
    fn await_empty(&self) -> Result<(), u64> {
        let begun = Instant::now();
        loop {
            match self.shared() {
                Some(0) | None => return Ok(()),
                Some(left) if begun.elapsed() > BOUND => return Err(left),
                Some(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty by now; if not, the administrator sees it by its name.
        let _ = std::fs::remove_dir(&self.0);
    }
}
