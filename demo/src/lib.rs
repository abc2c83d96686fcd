//! `hm demo`: a hive of real processes on live data, three kills in front of the user, and a summary that
//! adds up.
//!
//! ```text
//!   root                                    hosts the root and nothing else, as `hm root` does
//!
//!   machine ──── machine/cpu ─────────────▶ exact, wildcard, frames      reliable
//!           ──── machine/memory, load ────▶ wildcard, frames
//!           ──── machine/disk/*, net/* ───▶ wildcard, frames
//!   frames  ──── frames/screen ───────────▶ exact, wildcard              6.2 MB each, drawn in place
//! ```
//!
//! This process starts the others (each is this program again, with a hidden command), shows what they
//! report, and kills: first whoever hosts the root, then a subscriber, then a publisher. What died is started
//! again. Then the publishers stop, the subscribers read what is left, and `verdict.rs` holds all counts
//! against each other.
//!
//! The children report through pipes, beside the hive, so that measuring does not depend on what is measured.
//! If this process dies, whatever way, its children read the end of their input and exit.

mod accounts;
mod canvas;
mod child;
mod clock;
mod folder;
mod frames;
mod ledger;
mod machine;
mod picture;
mod proc;
mod processes;
mod report;
mod role;
mod samples;
mod screen;
mod summary;
mod tally;
mod verdict;
mod watch;
mod watcher;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use child::Child;
pub use child::ChildError;
use clock::monotonic_ns;
use folder::Folder;
use ledger::{Ledger, State};
pub use proc::ProcError;
use processes::{LifeId, News, Processes};
use report::{End, Gap, Order};
pub use role::Role;
use screen::{Screen, Tone, View};
use summary::{Gaps, Kill, Successor, Summary};
use verdict::{Ring, Survivor};
use watcher::Watcher;

use hivemind_look::LookError;
use hivemind_look::figures::Span;

/// The kills come at these parts of the whole time.
const KILLS_AT: [f64; 3] = [0.2, 0.45, 0.7];
/// Between two kills everything has to come back and be watched for a while; three kills need so many
/// seconds.
pub const MIN_SECONDS: u64 = 6;
/// A day; beyond that the totals of a demo say nothing new.
pub const MAX_SECONDS: u64 = 86_400;
/// How long something is shown dead before it is started again.
const DEAD_FOR_NS: u64 = 400_000_000;
/// After everything flows again, the gaps of so much time still belong to the kill.
const SETTLE_NS: u64 = 500_000_000;
/// Reports are this old at most, so that a pair is not called silent because its report is on the way.
const REPORT_AGE_NS: u64 = 250_000_000;
/// At least so long before a kill is looked at for what is usual.
const MIN_USUAL_NS: u64 = 500_000_000;
/// How long the processes may take to start, to come back, to stop, or to leave.
const PATIENCE_NS: u64 = 15_000_000_000;
/// So often the parent looks whether everything flows.
const LOOK_EVERY_NS: u64 = 50_000_000;
/// So often it looks who hosts the root, while that changes.
const GLANCE_NS: u64 = 200_000;
/// So often it looks at least whether it was interrupted.
const WAIT_AT_MOST_NS: u64 = 20_000_000;
/// Being late by less is nothing to speak of.
const LEAST_STALL_NS: u64 = 1_000_000;
/// How many of the last are kept.
const MAX_STALLS: usize = 1_000;
/// News taken between two looks at the clock.
const NEWS_AT_ONCE: usize = 1_000;

/// Why the demo ended early, or badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The runtime directory of the demo could not be made. Give a directory that can be written with
    /// `--dir`.
    #[error("cannot make a folder for the demo in {parent}: {source}; give one that can be written with `--dir`", parent = parent.display())]
    Folder {
        /// Where it was to be made.
        parent: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A process could not be started. Raise the limit of processes, or stop others.
    #[error("cannot start {role}: {source}; raise the limit of processes, or stop others")]
    Spawn {
        /// Which process.
        role: Role,
        /// What the system said.
        source: io::Error,
    },
    /// A process could not be killed or waited for. This should not happen; please report it.
    #[error("cannot kill {role}: {source}; please report this")]
    Kill {
        /// Which process.
        role: Role,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended by itself. What it said last is part of the message.
    #[error("{role} (pid {pid}) ended by itself, {status}; it said: {words}")]
    Died {
        /// Which process.
        role: Role,
        /// Its process-id.
        pid: u32,
        /// How it ended.
        status: String,
        /// Its last words on standard error.
        words: String,
    },
    /// A process was too slow. Try again with less load on the machine; if it stays so, please report it.
    #[error("{what} took longer than {} s; is the machine overloaded?", PATIENCE_NS / 1_000_000_000)]
    TooSlow {
        /// What was waited for.
        what: String,
    },
    /// The hive could not be looked at.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The signal handlers could not be installed. Raise the limit of descriptors.
    #[error("cannot listen for Ctrl-C: {0}; raise the limit of descriptors")]
    Signals(io::Error),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
    /// The user stopped it.
    #[error("stopped by the user; all processes of the demo are gone")]
    Interrupted,
    /// The demo ran to its end, and the hive did not keep a promise. The complaints were printed.
    #[error("{complaints} of the promises did not hold; the sentences above say which")]
    Broken {
        /// How many complaints.
        complaints: usize,
    },
}

/// Runs the demo for about `seconds`, in a folder of its own below `parent`. With `json`, the last line is
/// one JSON object.
pub fn run(parent: Option<PathBuf>, seconds: u64, json: bool) -> Result<(), DemoError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(DemoError::Signals)?;
    }
    let mut demo = Demo::start(parent, interrupted)?;
    let summary = demo.play(seconds)?;
    demo.leave()?;
    let complaints = demo.close(summary, json)?;
    if complaints > 0 { Err(DemoError::Broken { complaints }) } else { Ok(()) }
}

/// Runs one of the processes of the demo: what the hidden command does.
pub fn run_process(role: Role, dir: PathBuf) -> Result<(), ChildError> {
    let child = Child::start(dir);
    match role {
        Role::Root => watch::run_root(&child),
        Role::Machine => machine::run(&child),
        Role::Frames => frames::run(&child),
        Role::Exact => watch::run_exact(&child),
        Role::Wildcard => watch::run_wildcard(&child),
    }
}

/// Why a process is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    RootHost,
    Subscriber,
    Publisher,
}

impl Victim {
    fn title(self) -> &'static str {
        match self {
            Victim::RootHost => "the host of the root",
            Victim::Subscriber => "a subscriber",
            Victim::Publisher => "a publisher",
        }
    }
}

/// The demo while it runs. The order of the fields matters: the processes die before their folder is removed.
struct Demo {
    processes: Processes,
    watcher: Watcher,
    ledger: Ledger,
    screen: Screen,
    interrupted: Arc<AtomicBool>,
    flowing_ns: u64,
    /// When this process itself was held up: what the machine, not the hive, did.
    stalls: VecDeque<Gap>,
    folder: Folder,
}

impl Demo {
    /// Starts all processes and waits until every message flows.
    fn start(parent: Option<PathBuf>, interrupted: Arc<AtomicBool>) -> Result<Demo, DemoError> {
        let mut screen = Screen::new();
        let folder = Folder::make(parent)?;
        let path = folder.path().display();
        screen.say("hivemind demo: separate processes, shared memory, live data from /proc")?;
        screen.say(&format!(
            "look at it from another terminal: hm --dir {path} ls, hm --dir {path} echo 'machine/net/*'\n"
        ))?;
        let mut processes = Processes::new(folder.path().to_owned())?;
        let mut ledger = Ledger::default();
        spawn(&mut processes, &mut ledger, Role::Root)?;
        let watcher = Watcher::join(folder.path())?;
        let mut demo = Demo {
            processes,
            watcher,
            ledger,
            screen,
            interrupted,
            flowing_ns: 0,
            stalls: VecDeque::new(),
            folder,
        };
        for role in Role::ALL.into_iter().filter(|&role| role != Role::Root) {
            spawn(&mut demo.processes, &mut demo.ledger, role)?;
        }
        demo.wait_until_flowing("the start")?;
        demo.flowing_ns = monotonic_ns();
        let text = format!("every message flows; {} hosts the root", demo.root_host());
        demo.screen.event(Tone::Relief, &text)?;
        Ok(demo)
    }

    /// The kills, each at its time, and the counting at the end.
    fn play(&mut self, seconds: u64) -> Result<Summary, DemoError> {
        let started_ns = self.flowing_ns;
        let at = |part: f64| started_ns + (seconds as f64 * part * 1e9) as u64;
        let mut kills = Vec::new();
        for (victim, part) in
            [Victim::RootHost, Victim::Subscriber, Victim::Publisher].into_iter().zip(KILLS_AT)
        {
            self.pump_until(at(part))?;
            kills.push(self.kill(victim)?);
        }
        self.pump_until(at(1.0))?;
        let elapsed_ns = monotonic_ns() - started_ns;
        let (messages, bytes) = self.ledger.arrived();
        self.stop()?;
        let (rings, survivors) = self.evidence();
        Ok(Summary {
            seconds: elapsed_ns as f64 / 1e9,
            messages_per_second: messages as f64 * 1e9 / elapsed_ns as f64,
            bytes_per_second: bytes as f64 * 1e9 / elapsed_ns as f64,
            machine: self.ledger.latency("machine/", None),
            frames: self.ledger.latency(frames::SERVICE, None),
            refused: self.refused(),
            published: rings.iter().map(|ring| ring.committed).sum(),
            kills,
            verdict: verdict::judge(&rings, &survivors),
        })
    }

    /// Kills, watches who takes over, starts what died again, and measures what the survivors noticed.
    fn kill(&mut self, victim: Victim) -> Result<Kill, DemoError> {
        let (id, role, pid) = self.choose(victim)?;
        let hosted_root = self.watcher.root_pid() == Some(pid);
        let also = if hosted_root && !matches!(victim, Victim::RootHost) {
            ", which also hosts the root"
        } else {
            ""
        };
        let text = format!("SIGKILL to {role} (pid {pid}), {}{also}", victim.title());
        self.screen.event(Tone::Alarm, &text)?;
        self.ledger.set_state(id, State::Killed);
        let killed_ns = self.processes.kill(id).map_err(|source| DemoError::Kill { role, source })?;
        let successor = if hosted_root { Some(self.wait_for_successor(pid, killed_ns)?) } else { None };
        self.pump_until(killed_ns + DEAD_FOR_NS)?;

        let new = spawn(&mut self.processes, &mut self.ledger, role)?;
        self.wait_until_flowing("coming back")?;
        let Some(life) = self.ledger.life(new) else { unreachable!("it was started right above") };
        let (new_pid, started_ns) = (life.pid, life.started_ns);
        let rejoined_ns = life.joined_ns.unwrap_or(started_ns) - started_ns;
        let text = match role {
            Role::Root => format!(
                "root is back (pid {new_pid}), and took over in order {} after its start",
                Span(rejoined_ns)
            ),
            _ => format!("{role} is back (pid {new_pid}), joined {} after its start", Span(rejoined_ns)),
        };
        self.screen.event(Tone::Relief, &text)?;
        self.pump_until(monotonic_ns() + SETTLE_NS + REPORT_AGE_NS)?;

        let until_ns = monotonic_ns() - REPORT_AGE_NS;
        let gaps = self.gaps(killed_ns, until_ns);
        self.screen.event(Tone::Calm, &gaps.sentence())?;
        Ok(Kill {
            victim: victim.title(),
            process: role,
            pid,
            hosted_root,
            at_seconds: (killed_ns - self.flowing_ns) as f64 / 1e9,
            successor,
            restarted_pid: new_pid,
            rejoined_ns,
            gaps,
        })
    }

    fn choose(&self, victim: Victim) -> Result<(LifeId, Role, u32), DemoError> {
        let found = match victim {
            Victim::RootHost => self.watcher.root_pid().and_then(|pid| self.ledger.with_pid(pid)),
            // Holds frames in shared memory and the cursor of a reliable service: the most a subscriber can
            // take with it.
            Victim::Subscriber => self.ledger.running(Role::Wildcard),
            // Is in the middle of drawing a frame more often than not.
            Victim::Publisher => self.ledger.running(Role::Frames),
        };
        let too_slow = || DemoError::TooSlow { what: format!("finding {}", victim.title()) };
        found.map(|(id, life)| (id, life.role, life.pid)).ok_or_else(too_slow)
    }

    fn wait_for_successor(&mut self, dead: u32, killed_ns: u64) -> Result<Successor, DemoError> {
        let deadline_ns = killed_ns + PATIENCE_NS;
        loop {
            if let Some(pid) = self.watcher.root_pid().filter(|&pid| pid != dead) {
                let after_ns = monotonic_ns() - killed_ns;
                let process = self.ledger.with_pid(pid).map(|(_, life)| life.role);
                let text =
                    format!("{} hosts the root now, {} after the kill", self.root_host(), Span(after_ns));
                self.screen.event(Tone::Relief, &text)?;
                return Ok(Successor { process, pid, after_ns });
            }
            let now_ns = monotonic_ns();
            if now_ns > deadline_ns {
                return Err(DemoError::TooSlow { what: "finding a new root".to_owned() });
            }
            self.pump_until(now_ns + GLANCE_NS)?;
        }
    }

    /// The longest gaps around a kill, and those of as long a time before, over the pairs that survived it.
    fn gaps(&self, killed_ns: u64, until_ns: u64) -> Gaps {
        let length_ns = until_ns.saturating_sub(killed_ns).max(MIN_USUAL_NS);
        let before = (killed_ns.saturating_sub(length_ns).max(self.flowing_ns), killed_ns - 1);
        let survives = |end: End| {
            let life = self.watcher.rings().get(&end).and_then(|ring| self.ledger.with_pid(ring.pid));
            life.is_some_and(|(_, life)| {
                life.is_running() && life.joined_ns.is_some_and(|joined| joined < killed_ns)
            })
        };
        let longest = |window: (u64, u64), prefix: &str| {
            self.ledger.longest_gap(window, survives, |service| service.starts_with(prefix))
        };
        let (all, pairs) = longest((killed_ns, until_ns), "");
        let stalls = self.stalls.iter().filter(|stall| stall.touches(killed_ns, until_ns));
        Gaps {
            pairs,
            stall_ns: stalls.map(|stall| stall.length_ns).max().unwrap_or(0),
            longest: all,
            machine: longest((killed_ns, until_ns), "machine/").0,
            frames: longest((killed_ns, until_ns), frames::SERVICE).0,
            usual_machine: longest(before, "machine/").0,
            usual_frames: longest(before, frames::SERVICE).0,
        }
    }

    /// Stops the publishers, one after the other along the flow, then lets the subscribers read what is left.
    fn stop(&mut self) -> Result<(), DemoError> {
        self.screen.event(Tone::Calm, "the publishers stop, the subscribers read what is left")?;
        // Whatever was committed up to now must be in rings that are watched.
        self.watcher.look()?;
        for role in [Role::Machine, Role::Frames, Role::Exact, Role::Wildcard] {
            let Some((id, _)) = self.ledger.running(role) else { continue };
            self.processes.order(id, Order::Stop);
            self.wait_for(&format!("stopping {role}"), |ledger| {
                ledger.life(id).is_some_and(|life| {
                    (life.said.is_some() || !role.publishes())
                        && (life.accounts.is_some() || !role.subscribes())
                })
            })?;
        }
        Ok(())
    }

    fn evidence(&self) -> (Vec<Ring>, Vec<Survivor>) {
        let mut rings = Vec::new();
        for (&end, ring) in self.watcher.rings() {
            let Some((_, life)) = self.ledger.with_pid(ring.pid) else { continue };
            let said = life.said.iter().flatten().find(|said| said.service == ring.service);
            rings.push(Ring {
                end,
                service: ring.service.clone(),
                role: life.role,
                pid: life.pid,
                reliable: ring.is_reliable(),
                committed: ring.committed(),
                reported: said.map(|said| said.published),
            });
        }
        let survivors = self.ledger.lives().filter(|(_, life)| life.is_running()).filter_map(|(_, life)| {
            let accounts = life.accounts.clone()?;
            Some(Survivor { role: life.role, pid: life.pid, accounts })
        });
        (rings, survivors.collect())
    }

    fn refused(&self) -> u64 {
        self.ledger.lives().flat_map(|(_, life)| life.said.iter().flatten()).map(|said| said.refused).sum()
    }

    /// Lets all processes leave, the root last.
    fn leave(&mut self) -> Result<(), DemoError> {
        for role in [Role::Wildcard, Role::Exact, Role::Frames, Role::Machine, Role::Root] {
            let Some((id, _)) = self.ledger.running(role) else { continue };
            self.ledger.set_state(id, State::Leaving);
            self.processes.order(id, Order::Leave);
            self.wait_for(&format!("the leaving of {role}"), |ledger| {
                ledger.life(id).is_some_and(|life| life.state == State::Left)
            })?;
        }
        Ok(())
    }

    /// Prints the summary. Returns how many promises did not hold.
    fn close(&mut self, mut summary: Summary, json: bool) -> Result<usize, DemoError> {
        if let Some(leftover) = self.folder.leftover() {
            let sentence = format!("{} was left in the runtime directory", leftover.display());
            summary.verdict.complaints.push(sentence);
        }
        self.screen.finish()?;
        summary.print(&mut self.screen)?;
        if json {
            self.screen.say(&summary.json().to_string())?;
        }
        Ok(summary.verdict.complaints.len())
    }

    fn wait_until_flowing(&mut self, what: &str) -> Result<(), DemoError> {
        let deadline_ns = monotonic_ns() + PATIENCE_NS;
        self.wait_for_root(deadline_ns)?;
        loop {
            let looked = self.watcher.look();
            let missing = match &looked {
                Ok(()) => self.missing(),
                Err(error) => Some(error.to_string()),
            };
            let Some(missing) = missing else { return Ok(()) };
            let now_ns = monotonic_ns();
            if now_ns > deadline_ns {
                return Err(DemoError::TooSlow { what: format!("{what} ({missing})") });
            }
            self.pump_until(now_ns + LOOK_EVERY_NS)?;
        }
    }

    /// Waits until the process that is there for it hosts the root.
    fn wait_for_root(&mut self, deadline_ns: u64) -> Result<(), DemoError> {
        let Some((id, life)) = self.ledger.running(Role::Root) else { return Ok(()) };
        let pid = life.pid;
        while self.watcher.root_pid() != Some(pid) {
            let now_ns = monotonic_ns();
            if now_ns > deadline_ns {
                return Err(DemoError::TooSlow { what: format!("taking the root over to pid {pid}") });
            }
            self.pump_until(now_ns + GLANCE_NS)?;
        }
        self.ledger.join(id, monotonic_ns());
        Ok(())
    }

    /// The first thing that does not flow yet.
    fn missing(&self) -> Option<String> {
        for role in Role::ALL {
            match self.ledger.running(role) {
                Some((_, life)) if life.state == State::Joined => {}
                _ => return Some(format!("{role} has not joined")),
            }
            let publishes = |pid: u32| self.watcher.rings().values().any(|ring| ring.pid == pid);
            if role.publishes() && !self.ledger.running(role).is_some_and(|(_, life)| publishes(life.pid)) {
                return Some(format!("nobody sees what {role} publishes"));
            }
        }
        for (&end, ring) in self.watcher.rings() {
            if !self.ledger.with_pid(ring.pid).is_some_and(|(_, life)| life.is_running()) {
                continue;
            }
            for (id, life) in self.ledger.lives().filter(|(_, life)| life.is_running()) {
                if life.role.hears(&ring.service) && !self.ledger.has_heard(id, end) {
                    return Some(format!("{} has not heard {}", life.role, ring.service));
                }
            }
        }
        None
    }

    fn root_host(&self) -> String {
        let Some(pid) = self.watcher.root_pid() else { return "nobody".to_owned() };
        match self.ledger.with_pid(pid) {
            Some((_, life)) => format!("{} (pid {pid})", life.role),
            None => format!("pid {pid}"),
        }
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Ledger) -> bool) -> Result<(), DemoError> {
        if self.pump(monotonic_ns() + PATIENCE_NS, done)? {
            Ok(())
        } else {
            Err(DemoError::TooSlow { what: what.to_owned() })
        }
    }

    fn pump_until(&mut self, until_ns: u64) -> Result<(), DemoError> {
        self.pump(until_ns, |_| false).map(|_done| ())
    }

    /// Takes news and keeps the screen fresh until `done` or the time is over; says which of the two.
    fn pump(&mut self, until_ns: u64, done: impl Fn(&Ledger) -> bool) -> Result<bool, DemoError> {
        loop {
            // Relaxed: the flag is all there is to know.
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(DemoError::Interrupted);
            }
            let now_ns = monotonic_ns();
            if self.screen.is_due(now_ns) && self.flowing_ns > 0 {
                let view = self.view(now_ns);
                self.screen.show(&view, now_ns)?;
            }
            if done(&self.ledger) {
                return Ok(true);
            }
            if now_ns >= until_ns {
                return Ok(false);
            }
            let wait_ns = (until_ns - now_ns).min(WAIT_AT_MOST_NS);
            let mut wait = Duration::from_nanos(wait_ns);
            for _ in 0..NEWS_AT_ONCE {
                let Some((id, news)) = self.processes.news(wait) else { break };
                self.take(id, news)?;
                wait = Duration::ZERO;
            }
            self.note_stall(now_ns + wait_ns);
        }
    }

    /// Notes by how much this process is late.
    fn note_stall(&mut self, due_ns: u64) {
        let now_ns = monotonic_ns();
        let length_ns = now_ns.saturating_sub(due_ns);
        if length_ns >= LEAST_STALL_NS {
            if self.stalls.len() == MAX_STALLS {
                self.stalls.pop_front();
            }
            self.stalls.push_back(Gap { ended_ns: now_ns, length_ns });
        }
    }

    fn take(&mut self, id: LifeId, news: News) -> Result<(), DemoError> {
        match news {
            News::Report(report) => self.ledger.report(id, report, monotonic_ns()),
            News::Complaint(line) => self.ledger.complaint(id, line),
            News::Gone => {
                let Some(life) = self.ledger.life(id) else { return Ok(()) };
                let (role, pid, state) = (life.role, life.pid, life.state);
                if state == State::Killed {
                    return Ok(());
                }
                let status = self.processes.reap(id).map_err(|source| DemoError::Kill { role, source })?;
                if state == State::Leaving && status.is_some_and(|status| status.success()) {
                    self.ledger.set_state(id, State::Left);
                    return Ok(());
                }
                let words = life.last_words.iter().cloned().collect::<Vec<_>>().join(" | ");
                let words = if words.is_empty() { "nothing".to_owned() } else { words };
                let status =
                    status.map_or_else(|| "unknown".to_owned(), |status: ExitStatus| status.to_string());
                return Err(DemoError::Died { role, pid, status, words });
            }
        }
        Ok(())
    }

    fn view(&self, now_ns: u64) -> View {
        let root = self.watcher.root_pid();
        let mut processes = String::from("processes  ");
        for role in Role::ALL {
            let text = match self.ledger.running(role) {
                Some((_, life)) if Some(life.pid) == root => format!("{role} {} [root]   ", life.pid),
                Some((_, life)) => format!("{role} {}   ", life.pid),
                None => format!("{role} DEAD   "),
            };
            processes.push_str(&text);
        }
        View {
            processes,
            rows: self.ledger.rows(now_ns),
            all: self.ledger.latency("", Some(now_ns)),
            machine: self.ledger.latency("machine/", Some(now_ns)),
            frames: self.ledger.latency(frames::SERVICE, Some(now_ns)),
        }
    }
}

fn spawn(processes: &mut Processes, ledger: &mut Ledger, role: Role) -> Result<LifeId, DemoError> {
    let (id, pid, started_ns) = processes.spawn(role).map_err(|source| DemoError::Spawn { role, source })?;
    ledger.start(id, role, pid, started_ns);
    Ok(id)
}
