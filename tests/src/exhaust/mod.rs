//! Things run out, one call at a time: every system call of a path that can fail is made to fail, in every
//! way it can.
//!
//! ```text
//! for each phase, for each name of a call, for N = 1, 2, …, for each errno        a new process each time, the victim
//!     prepare ─▶ act, and call N fails ([`inject`]) ─▶ verdict ─▶ act again, and it works ─▶ drop all ─▶ nothing is left over
//! ```
//! until three runs have fewer than N calls of that name. Some faults last: then all calls of the same name
//! fail from the Nth on, as they do when a limit is reached.
//!
//! The victim must say a typed error that tells what to do, or succeed all the same; what failed once may not
//! cost all its patience. It may not panic, abort, get a signal or hang; the same must work afterwards;
//! descriptors, shared mappings and threads must be what they are when nothing fails; a publisher and a
//! subscriber in other processes must not notice; the root must keep no descriptor. [`calls`] says which
//! calls are let through, and why.

pub mod calls;
pub mod inject;
pub mod phase;
pub mod report;
pub mod stage;

use crate::hive::{Actor, joining};
use crate::order::{Failure, Join, Order};
use calls::{Fault, lasts};
use inject::{Injector, Plan, Seen};
use nix::errno::Errno;
use phase::Phase;
use report::{Report, Row};
use stage::{Belongings, Program, Stage};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A case that takes longer hangs.
const HANG: Duration = Duration::from_secs(20);
/// The patience of a victim. What fails once must be over long before.
const PATIENCE: Duration = Duration::from_secs(5);
/// The patience of a victim for whom something fails for good.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);
/// More calls of one name than any path makes: the bound of the loop over N.
const MOST_CALLS: usize = 500;
/// Findings of one path that are enough for a day; the bystanders may be in disarray by then.
const MOST_FINDINGS: usize = 8;
/// After so many runs with fewer than N calls a path has no call N.
const SHORT_RUNS: usize = 3;
/// Longest time until what was dropped is gone; it is a matter of microseconds.
const SETTLING: Duration = Duration::from_secs(10);
/// What did not change for so long is what is left of a victim for whom nothing failed.
const STEADY: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The actors.
    pub program: Program,
    /// The paths.
    pub phases: Vec<Phase>,
    /// Only the first errno of each call, and no faults that last.
    pub first_only: bool,
    /// Only calls of this name.
    pub call: Option<String>,
    /// Say each case.
    pub verbose: bool,
    /// End after so long, and say what was left out.
    pub bound: Duration,
}

/// Runs it.
///
/// # Panics
/// If the victims do not even work when nothing fails.
pub fn run(campaign: &Campaign) -> Report {
    let begun = Instant::now();
    let mut report = Report::default();
    for has_root in [true, false] {
        let phases: Vec<_> =
            campaign.phases.iter().copied().filter(|phase| phase.has_root() == has_root).collect();
        if phases.is_empty() {
            continue;
        }
        let stage = Stage::new(&campaign.program, has_root);
        for phase in phases {
            let row = run_phase(campaign, &stage, phase, begun, &mut report);
            report.rows.push(row);
        }
        match stage.end() {
            Ok(received) => report.traffic += received,
            Err(harm) => report.findings.push(format!("traffic: {harm}")),
        }
    }
    report.took = begun.elapsed();
    report
}

fn run_phase(campaign: &Campaign, stage: &Stage, phase: Phase, begun: Instant, report: &mut Report) -> Row {
    let mut row = Row::new(phase.name());
    let log = stage.hive().folder().join("victim.log");
    let normal = Case { stage, phase, log: &log, at: RefCell::default(), expected: None, root_had: None };
    let clean =
        normal.run(None).unwrap_or_else(|fault| panic!("{} with nothing that fails: {fault}", phase.name()));
    let root_had = stage.root_pid().and_then(Belongings::of);
    row.calls = clean.seen.calls.values().sum();
    report.note(&clean.seen);
    let case = Case { expected: Some(clean.left), root_had, ..normal };
    // Names of calls that were seen in any run, and those that are done with.
    let mut names: BTreeSet<&'static str> = clean.seen.calls.keys().copied().collect();
    let mut done = BTreeSet::new();
    // Bounded by the number of names.
    while let Some(&name) = names.iter().find(|name| !done.contains(*name)) {
        done.insert(name);
        let wanted = |only: &String| name == only.as_str();
        if campaign.call.as_ref().is_some_and(|only| !wanted(only)) {
            continue;
        }
        let mut trial =
            Trial { campaign, case: &case, name, begun, row: &mut row, report, names: &mut names };
        if trial.all_of_this_name().is_break() {
            row.left_out = true;
            break;
        }
    }
    if let Err(harm) = stage.look_at_traffic() {
        report.findings.push(format!("{}: {harm}", phase.name()));
    }
    row
}

/// All calls of one name on one path.
struct Trial<'campaign> {
    campaign: &'campaign Campaign,
    case: &'campaign Case<'campaign>,
    name: &'static str,
    begun: Instant,
    row: &'campaign mut Row,
    report: &'campaign mut Report,
    names: &'campaign mut BTreeSet<&'static str>,
}

impl Trial<'_> {
    /// Breaks when there is no time left, or too much to be told.
    fn all_of_this_name(&mut self) -> ControlFlow<()> {
        let mut short_runs = 0;
        for nth in 1..MOST_CALLS {
            let (mut choice, mut lasting, mut faults) = (0, false, 1);
            while choice < faults {
                let name = self.name;
                match self.once(Plan { name, nth, choice, lasting })? {
                    Some((count, fault)) => {
                        short_runs = 0;
                        faults = count;
                        // A limit that is reached stays reached; an interruption does not.
                        if !lasting && !self.campaign.first_only && lasts(fault) {
                            lasting = true;
                            continue;
                        }
                    }
                    // Two runs are not alike: the next may have more calls.
                    None => {
                        short_runs += 1;
                        if short_runs == SHORT_RUNS {
                            return ControlFlow::Continue(());
                        }
                        continue;
                    }
                }
                if self.campaign.first_only {
                    break;
                }
                (choice, lasting) = (choice + 1, false);
            }
        }
        ControlFlow::Continue(())
    }

    /// Runs one case. The number of the call's faults, and the one that it had; `None`: there was no such
    /// call.
    fn once(&mut self, plan: Plan) -> ControlFlow<(), Option<(usize, Fault)>> {
        if self.begun.elapsed() > self.campaign.bound {
            return ControlFlow::Break(());
        }
        let phase = self.case.phase.name();
        let Plan { name, nth, choice, lasting } = plan;
        let lasts = if lasting { ", lasting" } else { "" };
        match self.case.run(Some(plan)) {
            Ok(ran) => {
                self.report.note(&ran.seen);
                self.names.extend(ran.seen.calls.keys());
                let Some((faults, fault)) = ran.seen.faults.zip(ran.seen.fault) else {
                    return ControlFlow::Continue(None);
                };
                self.row.enter(name, &ran);
                if self.campaign.verbose {
                    eprintln!("{phase}: {name} {nth} {fault:?}{lasts}: {}", ran.words());
                }
                ControlFlow::Continue(Some((faults, fault)))
            }
            Err(finding) => {
                let text = format!(
                    "--phase {phase} --call '{name}', number {nth}, fault {choice}{lasts}: {finding}"
                );
                eprintln!("FINDING {text}");
                self.report.findings.push(text);
                self.row.findings += 1;
                self.row.injected += 1;
                if self.row.findings == MOST_FINDINGS {
                    return ControlFlow::Break(());
                }
                // How many faults the call has is not known; the next run tells.
                ControlFlow::Continue(Some((choice + 2, Fault::Errno(Errno::EINTR))))
            }
        }
    }
}

struct Case<'stage> {
    stage: &'stage Stage,
    phase: Phase,
    log: &'stage Path,
    /// What failed last, for findings that come later.
    at: RefCell<String>,
    /// What is left of a victim when nothing failed.
    expected: Option<Belongings>,
    root_had: Option<Belongings>,
}

/// What came of a case that holds.
#[derive(Debug)]
pub struct Ran {
    /// What was seen in the window.
    pub seen: Seen,
    /// The victim's error, or its peer's, if there was one.
    pub failure: Option<Failure>,
    left: Belongings,
    took: Duration,
}

impl Ran {
    /// What came of it, in words.
    pub fn words(&self) -> String {
        let took = self.took.as_millis();
        self.failure.as_ref().map_or(format!("went on ({took} ms)"), |failure| {
            format!("{} ({took} ms): {}", failure.variant, failure.text)
        })
    }
}

impl Case<'_> {
    /// Runs it. The error is what does not hold.
    fn run(&self, plan: Option<Plan>) -> Result<Ran, String> {
        let _ = std::fs::remove_file(self.log);
        if self.phase == Phase::TakeOver {
            self.stage.start_root();
        }
        let victim = self.stage.start("victim", self.log);
        let pid = victim.pid();
        let hung = AtomicBool::new(false);
        let (done, is_done) = channel::<()>();
        let outcome = std::thread::scope(|scope| {
            let hung = &hung;
            scope.spawn(move || {
                if is_done.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
                    // Relaxed: read after this thread was joined.
                    hung.store(true, Ordering::Relaxed);
                    stage::kill(pid);
                }
            });
            // What the helpers of the tests say with a panic is a finding here.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.act(&victim, plan)));
            drop(done);
            outcome
        });
        let said = std::fs::read_to_string(self.log).unwrap_or_default();
        let mut outcome = outcome.unwrap_or_else(|panic| {
            Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a helper panicked".to_owned()))
        });
        if hung.load(Ordering::Relaxed) {
            outcome = Err(format!(
                "{}: it hung for {HANG:?}; {}",
                self.at.borrow(),
                outcome.err().unwrap_or_default()
            ));
        }
        if said.contains("panicked at") || said.contains("memory allocation of") {
            outcome = Err(format!("it panicked; {}", outcome.err().unwrap_or_default()));
        }
        outcome
            .map_err(|finding| if said.is_empty() { finding } else { format!("{finding}; it said: {said}") })
    }

    fn act(&self, victim: &Actor, plan: Option<Plan>) -> Result<Ran, String> {
        let (stage, phase) = (self.stage, self.phase);
        let patience = if plan.is_some_and(|plan| plan.lasting) { SHORT_PATIENCE } else { PATIENCE };
        let join = Join { patience_ms: patience.as_millis() as u64, ..joining("victim") };
        phase.prepare(victim, &join).map_err(|failure| format!("preparing: {failure:?}"))?;
        let injector = Injector::seize(victim.pid(), plan).map_err(|errno| format!("ptrace: {errno}"))?;
        victim.begin(&Order::Marked(Box::new(phase.act(&join))));
        let begun = Instant::now();
        let seen = injector.run(|| phase.meanwhile(stage));
        let took = begun.elapsed();
        let at = format!("{:?}", seen.fault);
        if let Some(ended) = &seen.ended {
            return Err(format!("it ended with {ended} at {at}"));
        }
        if !seen.unknown.is_empty() {
            return Err(format!(
                "nobody has judged the system calls {:?}: see exhaust/calls.rs",
                seen.unknown
            ));
        }
        *self.at.borrow_mut() = at.clone();
        let outcome = victim.answer();
        let theirs = phase.aftermath(stage, &outcome).map_err(|finding| format!("{at}: {finding}"))?;
        let failure = outcome.as_ref().err().cloned();
        if plan.is_none() && failure.is_some() {
            return Err(format!("{failure:?}"));
        }
        for failure in failure.iter().chain(&theirs) {
            if !says_what_to_do(&failure.text) {
                return Err(format!("{at}: the error does not say what to do: {failure:?}"));
            }
        }
        if plan.is_some_and(|plan| !plan.lasting) && took >= PATIENCE {
            return Err(format!("{at}, once, and it waited for {took:?}: {failure:?}"));
        }
        // What lasts ends here: the limit was raised.
        let again = |failure: Failure| format!("{at}, then without a fault: {failure:?}");
        let join = Join { patience_ms: PATIENCE.as_millis() as u64, ..join };
        phase.undo(victim, stage, &join, outcome.is_ok()).map_err(again)?;
        phase.once_more(victim, stage, &join).map_err(again)?;
        if !phase.has_root() && phase != Phase::LeaveAsRoot {
            self.look_who_is_there(&at)?;
        }
        victim.attempt(&Order::DropAll).map_err(again)?;
        let left = self.look_what_is_left(victim.pid()).map_err(|finding| format!("{at}: {finding}"))?;
        if matches!(phase, Phase::AttachAsPublisher | Phase::AttachAsSubscriber) {
            stage.peer().attempt(&Order::DropAll).map_err(again)?;
            stage.peer().attempt(&Order::JoinAsGuest(joining("peer"))).map_err(again)?;
        }
        self.look_at_root().map_err(|finding| format!("{at}: {finding}"))?;
        Ok(Ran { seen, failure: failure.filter(|failure| failure.variant != "Wait").or(theirs), left, took })
    }

    /// The root that the victim hosts serves.
    fn look_who_is_there(&self, at: &str) -> Result<(), String> {
        let probe = self.stage.hive().node("probe").observer().join();
        let probe = probe.map_err(|error| format!("{at}: nobody can join the victim's root: {error}"))?;
        // The guests come back by themselves.
        crate::until("all are back", || {
            let names: Vec<_> = probe.observe().ok()?.nodes.into_iter().map(|node| node.name).collect();
            ["victim", "talker", "hearer"].iter().all(|name| names.iter().any(|n| n == name)).then_some(())
        });
        Ok(())
    }

    fn look_what_is_left(&self, victim: i32) -> Result<Belongings, String> {
        let begun = Instant::now();
        loop {
            let left = Belongings::of(victim).ok_or("the victim is gone")?;
            let Some(wanted) = &self.expected else {
                // Of a run in which nothing failed: what is there when nothing changes any more.
                std::thread::sleep(STEADY);
                let later = Belongings::of(victim).ok_or("the victim is gone")?;
                if later == left {
                    return Ok(left);
                }
                continue;
            };
            let beyond = left.beyond(wanted);
            if beyond.is_empty() {
                return Ok(left);
            }
            if begun.elapsed() > SETTLING {
                return Err(format!("leaked: {beyond}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The root keeps nothing of a victim that has left. The victim's process itself is of no concern to it.
    fn look_at_root(&self) -> Result<(), String> {
        let (Some(pid), Some(wanted)) = (self.stage.root_pid(), &self.root_had) else { return Ok(()) };
        let begun = Instant::now();
        loop {
            let has = Belongings::of(pid).ok_or("the root is gone")?;
            // Its guests may be about to connect again.
            if has.descriptors.len() <= wanted.descriptors.len() {
                return Ok(());
            }
            if begun.elapsed() > SETTLING {
                return Err(format!("the root leaked: {}", has.beyond(wanted)));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Whether a sentence says behind a semicolon or a colon what can be done: one of the words that our errors
/// use for it.
fn says_what_to_do(text: &str) -> bool {
    const REMEDIES: &[&str] = &[
        "raise ",
        "free ",
        "lower ",
        "start ",
        "see whether ",
        "try ",
        "look at ",
        "close ",
        "wait ",
        "choose ",
        "drop ",
        "put that right",
        "use ",
        "set ",
        "allow ",
        "end ",
        "mount ",
    ];
    let parts = text.split([';', ':']).skip(1);
    parts.map(str::trim_start).any(|part| REMEDIES.iter().any(|remedy| part.starts_with(remedy)))
}

/// Why nothing can be injected here; `None`: it can.
pub fn refusal_to_trace() -> Option<String> {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().ok()?;
    let permitted = inject::is_permitted(i32::try_from(child.id()).expect("a process id"));
    // Both fail when it is gone already, which is what we want.
    let _ = child.kill();
    let _ = child.wait();
    permitted.err()
}
