//! Kills real processes under load and lets a ledger decide what was lost: the library of the program
//! `chaos`.
//!
//! ```text
//!   campaign (one seed) ──▶ case ──▶ hive of real processes ──SIGKILL, SIGSTOP──▶ victims
//!                             │                                                     │ what I commit (page)
//!                             └──▶ ledger ◀── what the survivors received ◀─────────┘
//! ```
//! A victim writes into its [`page`], which belongs to the case and survives it, how far it has committed;
//! the survivors keep [`account`](crate::account)s by the numbers of the messages alone; the [`ledger`] holds
//! the two against each other and against what the SDK says. Each case ends in one [`report::Row`].
//!
//! **What a seed fixes**: every choice of the harness, which are the victim, the kind of service, the form
//! and length of messages, the delay before a kill and the point of a life from which it counts, the system
//! call or instruction at which a traced victim dies. **What it cannot fix**: where an untraced victim is
//! when its time is over, since the kernel schedules. A replay with the same seed and count makes the same
//! choices in the same order in each lane; only traced deaths (`points`, `instructions`) also fall on the
//! same place.
//!
//! Nothing is decided by a clock: recovery times are reported, and what fails is what was lost, torn,
//! doubled, made up, misjudged or never came within [`BOUND`](crate::BOUND).

pub mod everything;
pub mod hour;
pub mod judgement;
pub mod ledger;
pub mod page;
pub mod points;
pub mod publisher;
pub mod report;
pub mod root;
pub mod subscriber;
pub mod subscriptions;
pub mod victim;

use crate::entry::scatter;
use crate::hive::Hive;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use report::Row;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use victim::Part;

/// Plays the part that this process was started with.
///
/// # Panics
/// If the part is none, and when what the part says does not work.
pub fn play(part: &str) {
    // Whatever happens to the harness, no victim stays.
    set_pdeathsig(Signal::SIGKILL).expect("a signal that exists");
    match serde_json::from_str(part).expect("the harness has written it") {
        Part::Publisher(part) => victim::publish(&part),
        Part::Subscriber(part) => victim::subscribe(&part),
        Part::Actor => crate::actor::act(),
        Part::Reuse { rounds } => judgement::reuse_here(rounds),
    }
}

/// What every case is given.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// All choices come from this.
    pub seed: u64,
    /// So often; `None`: as the case has it.
    pub count: Option<u64>,
    /// No longer than this for each case.
    pub limit: Option<Duration>,
    /// A small set, with small counts.
    pub ci: bool,
    /// This program: it is executed again for every process of a hive.
    pub program: PathBuf,
    /// Ctrl-C was pressed: finish the round, and say what was reached.
    pub interrupted: Arc<AtomicBool>,
}

/// One case: a fault, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How `--only` calls it.
    pub name: &'static str,
    /// What is done to whom.
    pub about: &'static str,
    /// How often without `--count`.
    pub count: u64,
    /// How often in CI; 0: not at all.
    pub ci_count: u64,
    run: fn(&mut Rounds<'_>) -> Row,
}

/// All cases, in the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "publisher",
        about: "a publisher killed at random instants under load, and started again at once under its name",
        count: 5_000,
        ci_count: 600,
        run: publisher::run,
    },
    Case {
        name: "subscriber",
        about: "a subscriber killed while it holds samples of a reliable publisher that waits for it",
        count: 5_000,
        ci_count: 600,
        run: subscriber::run,
    },
    Case {
        name: "root",
        about: "the root killed under load, embedded and dedicated in turn, while somebody joins",
        count: 200,
        ci_count: 20,
        run: root::run,
    },
    Case {
        name: "root-stopped",
        about: "the root stopped under load and continued later, while somebody joins",
        count: 100,
        ci_count: 3,
        run: root::run_stopped,
    },
    Case {
        name: "points",
        about: "killed before and after every system call of join, create, grow, attach and take-over, while others race",
        count: 1,
        ci_count: 1,
        run: points::run,
    },
    Case {
        name: "everything",
        about: "all processes of a hive killed at once; the next start is clean",
        count: 200,
        ci_count: 40,
        run: everything::run,
    },
    Case {
        name: "zombie",
        about: "a subscriber that is dead and not waited for is dead",
        count: 200,
        ci_count: 20,
        run: judgement::zombie,
    },
    Case {
        name: "stopped",
        about: "a subscriber that is stopped is alive: it keeps its name, its pins and its place",
        count: 100,
        ci_count: 10,
        run: judgement::stopped,
    },
    Case {
        name: "kept-open",
        about: "a subscriber is dead though somebody else holds all its descriptors",
        count: 200,
        ci_count: 20,
        run: judgement::kept_open,
    },
    Case {
        name: "reused-pid",
        about: "a process that got the process-id of a dead one is not taken for it",
        count: 200,
        ci_count: 20,
        run: judgement::reused,
    },
    Case {
        name: "subscriptions",
        about: "subscriptions added and removed during full load",
        count: 10_000,
        ci_count: 500,
        run: subscriptions::run,
    },
    Case {
        name: "hour",
        about: "churn at full load; what the long-lived have must not grow",
        count: 300,
        ci_count: 0,
        run: hour::run,
    },
];

/// How far a case has got, and whether it goes on.
#[derive(Debug)]
pub struct Rounds<'a> {
    /// What it was given.
    pub campaign: &'a Campaign,
    /// Of this case alone: the same for `--only` and for all.
    pub seed: u64,
    /// So often.
    pub wanted: u64,
    begun: Instant,
}

impl Rounds<'_> {
    /// Whether there is to be a round of this number, from 0.
    pub fn goes_on(&self, round: u64) -> bool {
        round < self.wanted
            && self.campaign.limit.is_none_or(|limit| self.begun.elapsed() < limit)
            // Relaxed: a wish to stop; nothing is ordered by it.
            && !self.campaign.interrupted.load(Ordering::Relaxed)
    }

    /// Since the case began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A choice: a random number for a purpose in a round.
    pub fn choice(&self, round: u64, purpose: u64) -> u64 {
        scatter(self.seed ^ scatter(round.wrapping_mul(64).wrapping_add(purpose)))
    }
}

impl Campaign {
    /// Runs the cases of these names, or all; in CI, all that have a count for it. `tell` hears each row when
    /// it is there.
    ///
    /// # Errors
    /// Names that no case has.
    pub fn run(&self, only: &[String], mut tell: impl FnMut(&Row)) -> Result<Vec<Row>, String> {
        if let Some(unknown) = only.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
            let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
            return Err(format!("no case is called {unknown}; the cases: {}", names.join(", ")));
        }
        let wanted = CASES.iter().filter(|case| {
            if only.is_empty() {
                !self.ci || case.ci_count > 0
            } else {
                only.iter().any(|name| name == case.name)
            }
        });
        let mut rows = Vec::new();
        for case in wanted {
            // Relaxed: as in `goes_on`.
            if self.interrupted.load(Ordering::Relaxed) {
                break;
            }
            let row = self.run_case(case);
            tell(&row);
            rows.push(row);
        }
        Ok(rows)
    }

    fn run_case(&self, case: &Case) -> Row {
        // A limit of time alone means: as often as fits.
        let otherwise = match (self.ci, self.limit) {
            (true, _) => case.ci_count.max(1),
            (false, Some(_)) => u64::MAX,
            (false, None) => case.count,
        };
        let name = case.name.bytes().fold(0, |sum, byte| scatter(sum ^ u64::from(byte)));
        let begun = Instant::now();
        let mut rounds = Rounds {
            campaign: self,
            seed: scatter(self.seed ^ name),
            wanted: self.count.unwrap_or(otherwise),
            begun,
        };
        let wanted = rounds.wanted;
        let ran = catch_unwind(AssertUnwindSafe(|| (case.run)(&mut rounds)));
        let mut row = ran.unwrap_or_else(|panic| {
            let mut row = Row::new(case.name);
            row.faults.fail(format!("the case ended: {}", said(&*panic)));
            row
        });
        row.wanted = wanted;
        row.took = begun.elapsed();
        row
    }
}

/// A hive whose processes are actors of this program.
pub(crate) fn actors(rounds: &Rounds<'_>) -> Hive {
    actors_of(&rounds.campaign.program)
}

/// The same, where there are no rounds.
pub(crate) fn actors_of(program: &Path) -> Hive {
    let part = serde_json::to_string(&Part::Actor).expect("a part is plain data");
    Hive::with_arguments(program.to_owned(), vec!["--part".to_owned(), part])
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
