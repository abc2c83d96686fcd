//! The rest of the hive, in processes of its own: those whom nothing may happen to.
//!
//! ```text
//! talker ──── "exhaust/traffic", reliable, all the time ────▶ hearer        guests: they never host the root
//! root          hosts it, where the phase wants one that outlives the victim
//! peer          attaches to the victim
//! ```

use crate::hive::{Actor, Hive, joining, reliable};
use crate::order::{Kind, Order, Tally};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The service of the traffic.
const TRAFFIC: &str = "exhaust/traffic";
/// Between two messages of the traffic.
const PAUSE_US: u64 = 1000;
/// The traffic that must have passed before a run of cases says anything.
const FIRST_MESSAGES: u64 = 10;

/// How a process is started that does what it is told ([`crate::actor`]).
#[derive(Debug, Clone)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// What makes it an actor.
    pub arguments: Vec<String>,
}

/// A hive with traffic.
#[derive(Debug)]
pub struct Stage {
    // In this order they end: the others first.
    hearer: Actor,
    talker: Actor,
    peer: Option<Actor>,
    root: RefCell<Option<Actor>>,
    hive: Hive,
    program: Program,
}

impl Stage {
    /// A hive with a root that stays, or with none.
    pub fn new(program: &Program, has_root: bool) -> Stage {
        let hive = Hive::new(&program.path.display().to_string());
        let root = start(&hive, program, "root", None);
        root.join(joining("root"));
        let guest = |name: &str| {
            let actor = start(&hive, program, name, None);
            actor.tell(&Order::JoinAsGuest(joining(name)));
            actor
        };
        let (hearer, talker) = (guest("hearer"), guest("talker"));
        let subscriber = hearer.subscribe(TRAFFIC, Kind::Bytes);
        let publisher = talker.publish(reliable(TRAFFIC, Kind::Bytes));
        subscriber.await_publishers(1);
        publisher.await_subscribers(1);
        subscriber.collect();
        publisher.stream(Some(1000), PAUSE_US);
        subscriber.await_tally(FIRST_MESSAGES, 0);
        let peer = has_root.then(|| guest("peer"));
        let root = if has_root {
            Some(root)
        } else {
            root.kill();
            None
        };
        Stage { hearer, talker, peer, root: RefCell::new(root), hive, program: program.clone() }
    }

    /// The hive.
    pub fn hive(&self) -> &Hive {
        &self.hive
    }

    /// Who attaches to the victim.
    pub fn peer(&self) -> &Actor {
        self.peer.as_ref().expect("a hive with a root has a peer")
    }

    /// Starts a process; what it says of itself goes into `log`.
    pub fn start(&self, name: &str, log: &Path) -> Actor {
        start(&self.hive, &self.program, name, Some(log))
    }

    /// A root that the victim will succeed.
    pub fn start_root(&self) {
        let root = start(&self.hive, &self.program, "root", None);
        root.join(joining("root"));
        self.root.replace(Some(root));
    }

    /// Kills the root, with SIGKILL.
    pub fn kill_root(&self) {
        if let Some(root) = self.root.take() {
            root.kill();
        }
    }

    /// The process of the root that stays.
    pub fn root_pid(&self) -> Option<i32> {
        self.root.borrow().as_ref().map(Actor::pid)
    }

    /// That nothing happened to the traffic, and that it goes on. An error says what happened.
    pub fn look_at_traffic(&self) -> Result<(), String> {
        let published = self.talker.publishers(0).published();
        let tally = self.hearer.subscribers(0).await_tally(published + 1, 0);
        judge(&tally)
    }

    /// Ends the traffic: everything that was published has arrived.
    pub fn end(self) -> Result<u64, String> {
        let published = self.talker.publishers(0).stop();
        let tally = self.hearer.subscribers(0).await_tally(published, 0);
        judge(&tally)?;
        let connection = tally.from("talker");
        if connection.received != published - connection.first {
            return Err(format!("{published} were published, and {connection:?}"));
        }
        Ok(connection.received)
    }
}

fn judge(tally: &Tally) -> Result<(), String> {
    let [connection] = &tally.connections[..] else {
        return Err(format!("the traffic has more than one connection: {tally:?}"));
    };
    let account = &connection.account;
    let harm = connection.lost + account.torn + account.disordered + account.missed;
    // The account is what was handed out, the other what the SDK says of it.
    if !tally.errors.is_empty() || connection.ended || harm > 0 || account.received != connection.received {
        return Err(format!("the traffic was harmed: {tally:?}"));
    }
    Ok(())
}

fn start(hive: &Hive, program: &Program, name: &str, log: Option<&Path>) -> Actor {
    let mut command = Command::new(&program.path);
    command.args(&program.arguments);
    command.env("HIVEMIND_DIR", hive.folder()).env_remove("XDG_RUNTIME_DIR").env_remove("RUST_BACKTRACE");
    if let Some(log) = log {
        let file = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        command.stderr(Stdio::from(file));
    }
    hive.spawn_with(command, name)
}

/// What a process has, of the things that run out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Belongings {
    /// What its descriptors lead to; numbers of sockets and pipes are left out.
    pub descriptors: Vec<String>,
    /// What it maps and shares.
    pub mappings: Vec<String>,
    /// How many threads.
    pub threads: usize,
}

impl Belongings {
    /// Of a process that stands in `/proc`; `None`: it does not, any more.
    pub fn of(pid: i32) -> Option<Belongings> {
        let mut descriptors = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
            if let Ok(target) = std::fs::read_link(entry.path()) {
                let target = target.to_string_lossy().into_owned();
                descriptors.push(target.split_once(":[").map_or(target.clone(), |(kind, _)| kind.to_owned()));
            }
        }
        descriptors.sort();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let shared =
            maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.ends_with('s')));
        let mut mappings: Vec<String> =
            shared.map(|line| line.find('/').map_or(line, |at| &line[at..]).to_owned()).collect();
        mappings.sort();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count();
        Some(Belongings { descriptors, mappings, threads })
    }

    /// How this differs from what should be there; empty: not at all.
    pub fn beyond(&self, wanted: &Belongings) -> String {
        let mut text = String::new();
        for (what, ours, theirs) in [
            ("descriptors", &self.descriptors, &wanted.descriptors),
            ("mappings", &self.mappings, &wanted.mappings),
        ] {
            if ours != theirs {
                text += &format!("{what} {ours:?} instead of {theirs:?}; ");
            }
        }
        if self.threads != wanted.threads {
            text += &format!("{} threads instead of {}; ", self.threads, wanted.threads);
        }
        text
    }
}

/// Kills a process that is not ours to wait for.
pub(super) fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}
