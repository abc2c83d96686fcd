//! Processes that hold many ends: started from the same executable, told line by line, and looked at from
//! outside.
//!
//! ```text
//!   harness                         actor (one for the root, one for publishers, one for subscribers)
//!   -------                         -----
//!   start         ---- stdin ---->  raises its limit of descriptors, as a user would with `ulimit -n`
//!   Task          ---- stdin ---->  carries it out
//!                 <--- stdout ----  Report: when it began and ended (CLOCK_MONOTONIC, one clock for all processes)
//!   reads /proc/<pid>: memory, descriptors, context switches, time on a core
//! ```
//!
//! Tasks may be given ahead; they are carried out in order. The figures are read by the harness, so that
//! looking takes nothing from the process looked at. The kernel kills an actor whose harness dies.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use hivemind::{Node, Publisher, Subscriber};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::error::HarnessError;
use crate::floor::PATIENCE;
use crate::message::Reading;
use crate::pinning;

/// What an actor is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Join the hive in `dir`. The first to do so hosts the root.
    Join {
        /// The runtime directory of the hive.
        dir: PathBuf,
        /// The name of the node.
        name: String,
    },
    /// Create that many publishers, each of a service of its own.
    Publish {
        /// How many.
        services: usize,
        /// In one go, with a [batch](Node::batch).
        together: bool,
    },
    /// Create that many subscribers, each of one service by its exact name.
    Subscribe {
        /// How many.
        services: usize,
        /// In one go, with a [batch](Node::batch).
        together: bool,
    },
    /// Create one subscriber of all services.
    SubscribeToAll,
    /// Create a publisher and write and send that many messages of 1 MiB, the first it ever sends. The time
    /// is that of the messages; creating it comes before.
    FirstMessages {
        /// How many.
        messages: usize,
        /// What is taken ahead.
        ahead: Ahead,
    },
    /// Wait until each publisher has so many subscribers.
    AwaitSubscribers {
        /// How many.
        each: usize,
    },
    /// Wait until each subscriber has so many publishers.
    AwaitPublishers {
        /// How many.
        each: usize,
    },
    /// Let a thread block in `recv` of the first subscriber.
    Listen,
}

/// What a publisher of large messages takes before the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ahead {
    /// Nothing.
    Nothing,
    /// All memory that the messages need.
    Pages,
    /// The same, in huge pages as far as the kernel can.
    HugePages,
}

/// When a task began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Nanoseconds of the clock that all processes share.
    pub begin_ns: u64,
    /// The same clock.
    pub end_ns: u64,
}

impl Span {
    /// How long it took.
    pub fn length_ms(self) -> f64 {
        (self.end_ns - self.begin_ns) as f64 / 1e6
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Done(Span),
    Failed(String),
}

/// What a process takes, as the kernel tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// All memory that is mapped and present (`VmRSS`), bytes.
    pub resident: u64,
    /// Of it private memory (`RssAnon`).
    pub private: u64,
    /// Of it shared memory (`RssShmem`).
    pub shared: u64,
    /// Pages of the memory objects that this process has a descriptor of, whether it mapped them or not,
    /// bytes.
    pub owned: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// What a process did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// Times that one of its threads stopped running, by itself or not.
    pub switches: u64,
    /// Time on a core, nanoseconds, over all threads that live.
    pub on_core_ns: u64,
}

/// The harness's view of an actor. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    tasks: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts this executable again, allowed on all of `cores`, and with at least `descriptors` if the hard
    /// limit permits.
    pub fn start(cores: &[usize], descriptors: u64) -> Result<Actor, HarnessError> {
        let cores = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["actor", &cores, &descriptors.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let tasks = child.stdin.take().expect("stdin was asked to be a pipe");
        let reports = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe"));
        let mut actor = Actor { child, tasks, reports };
        // The first report says that it is ready.
        actor.report()?;
        Ok(actor)
    }

    /// Gives a task. It begins when those before it are done.
    pub fn task(&mut self, task: &Task) -> Result<(), HarnessError> {
        let mut line = serde_json::to_string(task)?;
        line.push('\n');
        Ok(self.tasks.write_all(line.as_bytes())?)
    }

    /// Waits for the end of the oldest task that was not reported yet.
    pub fn report(&mut self) -> Result<Span, HarnessError> {
        let mut line = String::new();
        self.reports.read_line(&mut line)?;
        if line.is_empty() {
            return Err(HarnessError::Peer(format!("it ended early: {:?}", self.child.try_wait()?)));
        }
        match serde_json::from_str(&line)? {
            Report::Done(span) => Ok(span),
            Report::Failed(text) => Err(HarnessError::Peer(text)),
        }
    }

    /// Gives a task and waits for its end.
    pub fn perform(&mut self, task: &Task) -> Result<Span, HarnessError> {
        self.task(task)?;
        self.report()
    }

    /// What the actor takes now.
    pub fn footprint(&self) -> Result<Footprint, HarnessError> {
        footprint(self.child.id())
    }

    /// What the actor did since it was started.
    pub fn activity(&self) -> Result<Activity, HarnessError> {
        let mut activity = Activity::default();
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?.path();
            let status = fs::read_to_string(thread.join("status"))?;
            activity.switches += number_after(&status, "voluntary_ctxt_switches:").unwrap_or(0)
                + number_after(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            let schedule = fs::read_to_string(thread.join("schedstat"))?;
            activity.on_core_ns +=
                schedule.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(activity)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended already; both calls then only reap it.
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What a process takes now.
fn footprint(process: u32) -> Result<Footprint, HarnessError> {
    const MEMORY_OBJECT: &str = "/memfd:";
    const BLOCK_BYTES: u64 = 512;
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |key| number_after(&status, key).unwrap_or(0) * 1024;
    let (mut owned, mut descriptors) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?.path();
        descriptors += 1;
        let is_memory = fs::read_link(&entry)
            .is_ok_and(|target| target.to_str().is_some_and(|t| t.starts_with(MEMORY_OBJECT)));
        if is_memory {
            owned += fs::metadata(&entry)?.blocks() * BLOCK_BYTES;
        }
    }
    Ok(Footprint {
        resident: bytes("VmRSS:"),
        private: bytes("RssAnon:"),
        shared: bytes("RssShmem:"),
        owned,
        descriptors,
    })
}

/// The number behind `key`, which begins a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Nanoseconds of the clock that all processes share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()
}

/// The soft and the hard limit of descriptors of this process.
pub fn descriptor_limits() -> Result<(u64, u64), HarnessError> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE).map_err(std::io::Error::from)?)
}

/// The whole life of an actor: one report for every task until stdin closes.
pub fn serve(cores: &[usize], descriptors: u64) -> Result<(), HarnessError> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)?;
    pinning::pin_to(cores).map_err(|error| HarnessError::Peer(error.to_string()))?;
    let (soft, hard) = descriptor_limits()?;
    if soft < descriptors {
        setrlimit(Resource::RLIMIT_NOFILE, descriptors.min(hard), hard).map_err(std::io::Error::from)?;
    }
    let mut cast = Cast::default();
    let ready_ns = now_ns();
    say(&Report::Done(Span { begin_ns: ready_ns, end_ns: ready_ns }))?;
    for line in std::io::stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?)?;
        let mut begin_ns = now_ns();
        let outcome = cast.perform(task, &mut begin_ns);
        let end_ns = now_ns();
        say(&match outcome {
            Ok(()) => Report::Done(Span { begin_ns, end_ns }),
            Err(error) => Report::Failed(error.to_string()),
        })?;
    }
    Ok(())
}

fn say(report: &Report) -> Result<(), HarnessError> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    Ok(stdout.flush()?)
}

/// What an actor holds.
#[derive(Default)]
struct Cast {
    node: Option<Node>,
    publishers: Vec<Publisher<Reading>>,
    subscribers: Vec<Subscriber<Reading>>,
}

/// The name of one of many services.
fn service(number: usize) -> String {
    format!("scale/{number}")
}

impl Cast {
    /// `begin_ns` is moved to where the clock starts, if that is not here.
    fn perform(&mut self, task: Task, begin_ns: &mut u64) -> Result<(), HarnessError> {
        match task {
            Task::Join { dir, name } => self.node = Some(join(&dir, &name)?),
            Task::Publish { services, together } => {
                let node = self.node()?;
                let publishers = if together {
                    let batch = node.batch();
                    let publishers = create(services, |name| batch.publisher(name))?;
                    batch.finish().map_err(HarnessError::hivemind)?;
                    publishers
                } else {
                    create(services, |name| node.publisher(name))?
                };
                self.publishers.extend(publishers);
            }
            Task::Subscribe { services, together } => {
                let node = self.node()?;
                let subscribers = if together {
                    let batch = node.batch();
                    let subscribers = create(services, |name| batch.subscriber(name))?;
                    batch.finish().map_err(HarnessError::hivemind)?;
                    subscribers
                } else {
                    create(services, |name| node.subscriber(name))?
                };
                self.subscribers.extend(subscribers);
            }
            Task::FirstMessages { messages, ahead } => {
                const BYTES: usize = 1 << 20;
                // A chunk is a little longer than its message.
                let needed = (messages * (BYTES + (64 << 10))) as u64;
                let builder = self.node()?.publisher_builder::<[u8]>("scale/first");
                let builder = match ahead {
                    Ahead::Nothing => builder,
                    Ahead::Pages => builder.prefault(needed),
                    Ahead::HugePages => builder.prefault(needed).huge_pages(),
                };
                let mut publisher = builder.create().map_err(HarnessError::hivemind)?;
                let huge = publisher.huge_pages();
                if let Some(huge) = huge.filter(|huge| huge.obtained < huge.asked) {
                    eprintln!("of {} bytes in huge pages the kernel gave {}", huge.asked, huge.obtained);
                }
                *begin_ns = now_ns();
                for number in 0..messages {
                    let mut loan = publisher.loan(BYTES).map_err(HarnessError::hivemind)?;
                    loan.fill(number as u8);
                    loan.send();
                }
            }
            Task::SubscribeToAll => {
                let subscriber = self.node()?.subscriber("scale/*");
                self.subscribers.push(subscriber.map_err(HarnessError::hivemind)?);
            }
            Task::AwaitSubscribers { each } => {
                for publisher in &self.publishers {
                    publisher.wait_for_subscribers(each, PATIENCE).map_err(HarnessError::hivemind)?;
                }
            }
            Task::AwaitPublishers { each } => {
                for subscriber in &self.subscribers {
                    subscriber.wait_for_publishers(each, PATIENCE).map_err(HarnessError::hivemind)?;
                }
            }
            Task::Listen => {
                let mut subscriber = self
                    .subscribers
                    .pop()
                    .ok_or_else(|| HarnessError::Peer("it has no subscriber".into()))?;
                // Ends with the process.
                std::thread::spawn(move || while let Ok(Some(_)) = subscriber.recv() {});
            }
        }
        Ok(())
    }

    fn node(&self) -> Result<&Node, HarnessError> {
        self.node.as_ref().ok_or_else(|| HarnessError::Peer("it has not joined".into()))
    }
}

/// One end for each of so many services.
fn create<T, E: std::error::Error + Send + Sync + 'static>(
    services: usize,
    one: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, HarnessError> {
    let created = (0..services).map(|number| one(&service(number))).collect::<Result<Vec<T>, E>>();
    created.map_err(HarnessError::hivemind)
}

fn join(dir: &Path, name: &str) -> Result<Node, HarnessError> {
    Node::builder(name).hive("scale").dir(dir).patience(PATIENCE).join().map_err(HarnessError::hivemind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footprint_of_this_process_is_that_of_the_kernel() {
        let here = footprint(std::process::id()).unwrap();
        assert!(here.resident >= here.private + here.shared);
        assert!(here.private > 0 && here.descriptors > 2);
    }

    #[test]
    fn memory_that_is_reserved_counts_as_owned_before_it_is_mapped() {
        use hivemind_ring::segment::{Anonymous, Backend, Sharing};
        const BYTES: u64 = 8 << 20;
        let segment = Anonymous.create("scale", BYTES, Sharing::SingleWriter).unwrap();
        segment.reserve(0..BYTES).unwrap();
        assert!(footprint(std::process::id()).unwrap().owned >= BYTES);
    }

    #[test]
    fn a_number_is_found_behind_its_key_alone() {
        let text = "VmRSS:\t  12 kB\nnonvoluntary_ctxt_switches:\t3\nvoluntary_ctxt_switches:\t4\n";
        assert_eq!(number_after(text, "voluntary_ctxt_switches:"), Some(4));
        assert_eq!(number_after(text, "RssAnon:"), None);
    }
}
