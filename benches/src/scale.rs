//! How a hive of thousands of services is made, what it holds, and what it does when nobody does anything.
//!
//! ```text
//!   root        a node that does nothing but host the root
//!   publishers  one node, one publisher for each service
//!   subscribers one node, one subscriber for each service (or one for all)
//!
//!   |<- first create of either node ............ every publisher and every subscriber is matched ->|   the time
//! ```
//!
//! These processes are not pinned: three of them on two cores is what a user has, too. Beside each time
//! stands what the memory objects alone cost in the same run (*raw*): both segments of each service made,
//! sealed, reserved and mapped by their owner and by a peer, in one process, with no root, no socket and no
//! SDK.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hivemind_ring::segment::{Anonymous, Backend, LengthBounds, Sharing};
use serde::Serialize;

use crate::error::HarnessError;
use crate::readings::median;
use crate::stage::{Activity, Actor, Ahead, Footprint, Task, descriptor_limits};

/// In which order the ends of the services are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Begins {
    /// All publishers, then all subscribers.
    Publishers,
    /// All subscribers, then all publishers.
    Subscribers,
    /// Both nodes at the same time.
    Both,
    /// All publishers, then one subscriber for all of them.
    OneForAll,
}

/// How a node creates its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creates {
    /// Each when the one before it is accepted.
    OneByOne,
    /// All in one go, with a [batch](hivemind::Node::batch).
    Together,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// That many services are created in this order, and matched.
    Services(usize, Begins, Creates),
    /// That many publishers are created, and nobody else comes.
    IdlePublisher(usize),
    /// A publisher sends its first messages of 1 MiB.
    FirstMessages(Ahead),
    /// A hive with that many matched services and a subscriber that blocks, left alone.
    IdleHive(usize),
}

/// One question of scale.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What `--only` matches.
    pub name: &'static str,
    /// What is done.
    pub kind: Kind,
    /// What must hold, in words.
    pub goal: &'static str,
}

const fn thousand(name: &'static str, begins: Begins, creates: Creates) -> Case {
    let goal = "<= 150 ms, 60 MB resident, 2100 descriptors, 0 files";
    Case { name, kind: Kind::Services(1000, begins, creates), goal }
}

const fn first(name: &'static str, ahead: Ahead) -> Case {
    Case { name, kind: Kind::FirstMessages(ahead), goal: "no page faults" }
}

/// Everything that is asked about scale.
pub const CASES: &[Case] = &[
    thousand("services_1000_publishers_first", Begins::Publishers, Creates::OneByOne),
    thousand("services_1000_subscribers_first", Begins::Subscribers, Creates::OneByOne),
    thousand("services_1000_both_at_once", Begins::Both, Creates::OneByOne),
    thousand("services_1000_one_for_all", Begins::OneForAll, Creates::OneByOne),
    thousand("together_1000_publishers_first", Begins::Publishers, Creates::Together),
    thousand("together_1000_subscribers_first", Begins::Subscribers, Creates::Together),
    thousand("together_1000_both_at_once", Begins::Both, Creates::Together),
    thousand("together_1000_one_for_all", Begins::OneForAll, Creates::Together),
    Case {
        name: "services_4000_both_at_once",
        kind: Kind::Services(4000, Begins::Both, Creates::OneByOne),
        goal: "four times that of 1000",
    },
    Case {
        name: "idle_publisher",
        kind: Kind::IdlePublisher(1000),
        goal: "<= 24 KiB and 1 descriptor for each",
    },
    first("first_1MiB", Ahead::Nothing),
    first("first_1MiB_prefaulted", Ahead::Pages),
    first("first_1MiB_huge_pages", Ahead::HugePages),
    Case { name: "idle_hive", kind: Kind::IdleHive(100), goal: "0 context switches, 0 ns on a core" },
];

/// Services of a smoke run instead of hundreds or thousands.
const SMOKE_SERVICES: usize = 20;
/// Descriptors of a process beside those of its ends.
const OTHER_DESCRIPTORS: u64 = 64;
/// Messages that are the first of their publisher.
const FIRST_MESSAGES: usize = 16;
/// For how long an idle hive is watched.
const WATCH: Duration = Duration::from_secs(4);
/// The same in a smoke run.
const SMOKE_WATCH: Duration = Duration::from_millis(50);
/// What a hive has in its runtime directory: the socket and the lock file.
const FILES_OF_A_HIVE: usize = 2;

/// One run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Run {
    /// From the first create until everything is matched, milliseconds; 0 where nothing is matched.
    pub matched_ms: f64,
    /// Of it, the calls that create the publishers.
    pub publish_ms: f64,
    /// Of it, the calls that create the subscribers.
    pub subscribe_ms: f64,
    /// Time on a core that all three processes took for it together, milliseconds: says more than the time
    /// by the clock when others use the machine, too.
    pub on_core_ms: f64,
    /// What the segments alone cost, milliseconds.
    pub raw_ms: f64,
    /// Of the node with the publishers.
    pub publishers: Footprint,
    /// Of the node with the subscribers.
    pub subscribers: Footprint,
    /// Of the node that hosts the root.
    pub root: Footprint,
    /// Of each publisher: shared memory and private memory that it added, bytes.
    pub each: u64,
    /// Of each publisher: descriptors that it added.
    pub each_descriptors: f64,
    /// Of each of the first messages of 1 MiB, filled and sent: microseconds.
    pub first_us: f64,
    /// Files beside the socket and the lock file, here and in `/dev/shm`.
    pub files: i64,
    /// What the three processes did while they were left alone.
    pub idle: Activity,
    /// For how long, seconds.
    pub watched_s: f64,
}

/// All runs of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The name of the case.
    pub case: &'static str,
    /// What must hold.
    pub goal: &'static str,
    /// Why it was not measured, if it was not.
    pub skipped: Option<String>,
    /// The runs; empty if it was skipped.
    pub runs: Vec<Run>,
}

impl Case {
    fn services(&self, smoke: bool) -> usize {
        let services = match self.kind {
            Kind::Services(services, ..) | Kind::IdlePublisher(services) | Kind::IdleHive(services) => {
                services
            }
            Kind::FirstMessages(_) => 1,
        };
        if smoke { SMOKE_SERVICES } else { services }
    }

    /// Why this case cannot be measured here, if it cannot.
    fn obstacle(&self, smoke: bool) -> Result<Option<String>, HarnessError> {
        let (_, hard) = descriptor_limits()?;
        let needed = self.services(smoke) as u64 + OTHER_DESCRIPTORS;
        Ok((hard < needed).then(|| {
            format!("{needed} descriptors are needed and the hard limit is {hard}; raise it (`ulimit -Hn`)")
        }))
    }

    /// Measures, or says why not. `cores` are those that the processes may use.
    pub fn measure(&self, runs: usize, smoke: bool, cores: &[usize]) -> Result<Finding, HarnessError> {
        let skipped = self.obstacle(smoke)?;
        let runs = if skipped.is_some() { 0 } else { runs };
        let runs = (0..runs).map(|_| self.run(smoke, cores)).collect::<Result<Vec<_>, _>>()?;
        Ok(Finding { case: self.name, goal: self.goal, skipped, runs })
    }

    fn run(&self, smoke: bool, cores: &[usize]) -> Result<Run, HarnessError> {
        let services = self.services(smoke);
        let dir = tempfile::tempdir()?;
        let files_before = files(dir.path())?;
        let raw_ms = raw(services)?;
        let mut hive = Hive::start(dir.path(), cores, services as u64 + OTHER_DESCRIPTORS)?;
        let mut run = match self.kind {
            Kind::Services(_, begins, creates) => hive.introduce(services, begins, creates)?,
            Kind::IdlePublisher(_) => hive.publish_alone(services)?,
            Kind::FirstMessages(ahead) => hive.send_first(ahead)?,
            Kind::IdleHive(_) => hive.rest(services, if smoke { SMOKE_WATCH } else { WATCH })?,
        };
        run.raw_ms = raw_ms;
        run.files = files(dir.path())? - files_before - FILES_OF_A_HIVE as i64;
        run.publishers = hive.publishers.footprint()?;
        run.subscribers = hive.subscribers.footprint()?;
        run.root = hive.root.footprint()?;
        Ok(run)
    }
}

/// The three processes.
struct Hive {
    root: Actor,
    publishers: Actor,
    subscribers: Actor,
}

impl Hive {
    fn start(dir: &Path, cores: &[usize], descriptors: u64) -> Result<Hive, HarnessError> {
        let join = |name: &str| -> Result<Actor, HarnessError> {
            let mut actor = Actor::start(cores, descriptors)?;
            actor.perform(&Task::Join { dir: dir.to_owned(), name: name.to_owned() })?;
            Ok(actor)
        };
        // In this order: the first hosts the root.
        Ok(Hive { root: join("root")?, publishers: join("publishers")?, subscribers: join("subscribers")? })
    }

    fn introduce(&mut self, services: usize, begins: Begins, creates: Creates) -> Result<Run, HarnessError> {
        let together = creates == Creates::Together;
        let publish = Task::Publish { services, together };
        let subscribe = Task::Subscribe { services, together };
        let (one_each, all) = (Task::AwaitPublishers { each: 1 }, Task::AwaitPublishers { each: services });
        let each = Task::AwaitSubscribers { each: 1 };
        let before = self.activity()?;
        let Hive { publishers, subscribers, .. } = self;
        let (first, second) = match begins {
            Begins::Publishers => (publishers.perform(&publish)?, subscribers.perform(&subscribe)?),
            Begins::OneForAll => (publishers.perform(&publish)?, subscribers.perform(&Task::SubscribeToAll)?),
            Begins::Subscribers => {
                let first = subscribers.perform(&subscribe)?;
                (first, publishers.perform(&publish)?)
            }
            Begins::Both => {
                publishers.task(&publish)?;
                subscribers.task(&subscribe)?;
                (publishers.report()?, subscribers.report()?)
            }
        };
        publishers.task(&each)?;
        subscribers.task(if begins == Begins::OneForAll { &all } else { &one_each })?;
        let end_ns = publishers.report()?.end_ns.max(subscribers.report()?.end_ns);
        let begin_ns = first.begin_ns.min(second.begin_ns);
        let on_core_ns = self.activity()?.on_core_ns - before.on_core_ns;
        let (publish, subscribe) =
            if begins == Begins::Subscribers { (second, first) } else { (first, second) };
        Ok(Run {
            matched_ms: (end_ns - begin_ns) as f64 / 1e6,
            publish_ms: publish.length_ms(),
            subscribe_ms: subscribe.length_ms(),
            on_core_ms: on_core_ns as f64 / 1e6,
            ..Run::default()
        })
    }

    fn publish_alone(&mut self, services: usize) -> Result<Run, HarnessError> {
        // The first publisher also brings what all have in common.
        self.publishers.perform(&Task::Publish { services: 1, together: false })?;
        let first = self.publishers.footprint()?;
        self.publishers.perform(&Task::Publish { services, together: false })?;
        let all = self.publishers.footprint()?;
        let taken = (all.owned - first.owned) + all.private.saturating_sub(first.private);
        let each_descriptors = (all.descriptors - first.descriptors) as f64 / services as f64;
        Ok(Run { each: taken / services as u64, each_descriptors, ..Run::default() })
    }

    fn send_first(&mut self, ahead: Ahead) -> Result<Run, HarnessError> {
        let task = Task::FirstMessages { messages: FIRST_MESSAGES, ahead };
        let first_us = self.publishers.perform(&task)?.length_ms() * 1e3 / FIRST_MESSAGES as f64;
        Ok(Run { first_us, ..Run::default() })
    }

    fn rest(&mut self, services: usize, watch: Duration) -> Result<Run, HarnessError> {
        let mut run = self.introduce(services, Begins::Publishers, Creates::OneByOne)?;
        self.subscribers.perform(&Task::Listen)?;
        // What was just done ends; what goes on afterwards is what is looked for.
        std::thread::sleep(watch / 4);
        let before = self.activity()?;
        std::thread::sleep(watch);
        let after = self.activity()?;
        run.idle = Activity {
            switches: after.switches - before.switches,
            on_core_ns: after.on_core_ns - before.on_core_ns,
        };
        run.watched_s = watch.as_secs_f64();
        Ok(run)
    }

    fn activity(&self) -> Result<Activity, HarnessError> {
        let mut all = Activity::default();
        for actor in [&self.root, &self.publishers, &self.subscribers] {
            let one = actor.activity()?;
            all.switches += one.switches;
            all.on_core_ns += one.on_core_ns;
        }
        Ok(all)
    }
}

/// What both segments of each service cost alone, in milliseconds.
fn raw(services: usize) -> Result<f64, HarnessError> {
    /// As the SDK makes them by default: address space, and what of it is reserved.
    const RING: (u64, u64) = ((20 << 10) + (256 << 20), 20 << 10);
    const READER: (u64, u64) = ((8 << 20) + (4 << 10), 4 << 10);
    let start = Instant::now();
    let mut held = Vec::with_capacity(4 * services);
    for (length, reserved) in (0..services).flat_map(|_| [RING, READER]) {
        let own = Anonymous.create("raw", length, Sharing::SingleWriter).map_err(HarnessError::floor)?;
        own.reserve(0..reserved).map_err(HarnessError::floor)?;
        let handle = own.handle().map_err(HarnessError::floor)?;
        let bounds = LengthBounds { min: length, max: length };
        let peer = Anonymous.open(handle, Sharing::SingleWriter, bounds).map_err(HarnessError::floor)?;
        held.push((own, peer));
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Files in the runtime directory, and among the named segments those of hivemind.
fn files(dir: &Path) -> Result<i64, HarnessError> {
    const PREFIX: &str = "hivemind-";
    fn count(dir: &Path) -> Result<i64, HarnessError> {
        let mut files = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
        }
        Ok(files)
    }
    let named = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let ours = named.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)).count();
    Ok(count(dir)? + ours as i64)
}

/// The line above the table.
pub fn table_head() -> String {
    let soft = descriptor_limits()
        .map_or_else(|error| error.to_string(), |(soft, hard)| format!("{soft} of {hard}"));
    format!(
        "\nscale: {soft} descriptors are allowed here; each process raises its soft limit as `ulimit -n` would where it \
         needs more\nmedians; MB resident (of it shared) and descriptors of each process, the largest of the runs"
    )
}

impl Finding {
    /// The median time until everything is matched, milliseconds.
    pub fn matched_ms(&self) -> f64 {
        median(self.runs.iter().map(|run| run.matched_ms))
    }

    /// The lines of this case.
    pub fn row(&self) -> String {
        let mut text = format!("{:<32}", self.case);
        if let Some(reason) = &self.skipped {
            let _ = write!(text, "SKIPPED: {reason}");
            return text;
        }
        let over = |figure: fn(&Run) -> f64| median(self.runs.iter().map(figure));
        let matched_ms = self.matched_ms();
        if matched_ms > 0.0 {
            let ratio = over(|run| run.matched_ms / run.raw_ms);
            let _ = write!(
                text,
                "{matched_ms:>9.1} ms (creating {:.1} and {:.1}), {:.1} ms on cores, raw {:.1} ms, {ratio:.2}x",
                over(|run| run.publish_ms),
                over(|run| run.subscribe_ms),
                over(|run| run.on_core_ms),
                over(|run| run.raw_ms)
            );
        }
        if self.runs.iter().any(|run| run.each > 0) {
            let _ = write!(
                text,
                "{:>9.1} KiB and {:.2} descriptors for each",
                over(|run| run.each as f64) / 1024.0,
                over(|run| run.each_descriptors)
            );
        }
        let first_us = over(|run| run.first_us);
        if first_us > 0.0 {
            let _ = write!(text, "{first_us:>9.1} us to fill and send each of the first {FIRST_MESSAGES}");
        }
        if self.runs.iter().any(|run| run.watched_s > 0.0) {
            let _ = write!(
                text,
                "; {} context switches and {:.0} ns on a core in {} s",
                over(|run| run.idle.switches as f64),
                over(|run| run.idle.on_core_ns as f64),
                over(|run| run.watched_s)
            );
        }
        let _ = write!(text, "  (aim {})", self.goal);
        type Of = fn(&Run) -> Footprint;
        let processes: [(&str, Of); 3] = [
            ("publishers", |run| run.publishers),
            ("subscribers", |run| run.subscribers),
            ("root", |run| run.root),
        ];
        let _ = write!(text, "\n{:<32}", "");
        for (name, of) in processes {
            let most =
                |figure: fn(Footprint) -> u64| self.runs.iter().map(|run| figure(of(run))).max().unwrap_or(0);
            let _ = write!(
                text,
                "  {name} {:.1} MB ({:.1}), {}",
                most(|print| print.resident) as f64 / 1e6,
                most(|print| print.shared) as f64 / 1e6,
                most(|print| print.descriptors),
            );
        }
        let _ = write!(text, "; {} files", self.runs.iter().map(|run| run.files).max().unwrap_or(0));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cases_share_a_name_with_each_other_or_with_the_round_trips() {
        let names =
            CASES.iter().map(|case| case.name).chain(crate::cases::CASES.iter().map(|case| case.name));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_case_that_was_skipped_says_why() {
        let skipped = Some("no descriptors".to_owned());
        let finding = Finding { case: "x", goal: "y", skipped, runs: Vec::new() };
        assert!(finding.row().contains("SKIPPED: no descriptors"));
    }

    #[test]
    fn files_are_counted_below_folders_too() {
        let dir = tempfile::tempdir().unwrap();
        let before = files(dir.path()).unwrap();
        fs::create_dir(dir.path().join("hive")).unwrap();
        fs::write(dir.path().join("hive/file"), "").unwrap();
        assert_eq!(files(dir.path()).unwrap() - before, 1);
    }
}
