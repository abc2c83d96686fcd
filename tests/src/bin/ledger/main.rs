//! Counts every message: 1 publisher and 8 subscribers, fast and slow, in separate processes.
//!
//! ```text
//! cargo run --release -p hivemind-tests --bin ledger -- --messages 10000000
//! ```
//!
//! Each message carries its number, its length and a checksum; sizes are mixed from 8 B to 4 KiB, and every
//! 10,000th is 1 MiB. It runs four times: a lossy and a reliable service, each with typed messages and with
//! plain bytes filled in place. Every subscriber keeps an account of its own, by the numbers of the messages
//! alone. At the end of each run, for every pair:
//!
//! ```text
//! received + lost = published        what the SDK counts is what the account counts
//! nothing torn, repeated or out of order; lost = 0 where the service is reliable
//! ```
//!
//! With `--length` all messages have one length, and with `--slow` every subscriber sleeps now and then:
//! `--length 8 --slow --subscribers 1 --service lossy --form bytes` overtakes one slow reader as fast as
//! small messages can be written.
//!
//! The exit status is 0 only if all of it held. Nothing here waits without a bound: a run in which nothing
//! moves for [`PATIENCE`] fails. The processes are this program again, told in one JSON text what to do.

mod publish;
mod report;
mod subscribe;

use clap::{Parser, ValueEnum};
use hivemind_tests::entry::{EXCEPTION_BYTES, PAYLOAD_MIN};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use report::{Books, Pair, Run};

/// The service.
const SERVICE: &str = "ledger/entries";
/// Nothing waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Counts every message: 1 publisher and 8 subscribers, in separate processes")]
struct Arguments {
    /// Messages to publish in each run.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// Subscribers, each in a process of its own.
    #[arg(long, default_value_t = 8)]
    subscribers: usize,
    /// What sizes and contents are made from. Default: another one each time; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only a lossy, or only a reliable service.
    #[arg(long)]
    service: Option<Delivery>,
    /// Only typed messages, or only plain bytes.
    #[arg(long)]
    form: Option<Form>,
    /// All messages have so many bytes of payload, up to 1 MiB. Default: the mix.
    #[arg(long, value_name = "BYTES", value_parser = length)]
    length: Option<usize>,
    /// Every subscriber sleeps now and then, so that a lossy service loses most messages.
    #[arg(long)]
    slow: bool,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// What a process of a run is told.
    #[arg(long, hide = true)]
    part: Option<String>,
}

/// Whether messages may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Delivery {
    /// The oldest are overwritten.
    Lossy,
    /// The publisher waits.
    Reliable,
}

/// What messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// A type with `#[message]`.
    Typed,
    /// `[u8]`, filled in place.
    Bytes,
}

/// How a subscriber spends its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pace {
    /// It receives.
    Fast,
    /// It works for a while on every message.
    Working,
    /// It sleeps now and then.
    Sleeping,
}

/// What a process of a run does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Part {
    /// It publishes.
    Publisher { job: Job, subscribers: usize },
    /// It receives.
    Subscriber { job: Job, number: usize, pace: Pace },
}

/// What all processes of a run know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) messages: u64,
    pub(crate) seed: u64,
    pub(crate) delivery: Delivery,
    pub(crate) form: Form,
    /// `None`: the mix.
    pub(crate) length: Option<usize>,
    /// Whether all subscribers sleep now and then.
    pub(crate) slow: bool,
}

fn length(text: &str) -> Result<usize, String> {
    let length = text.parse().map_err(|error| format!("{error}"))?;
    let bounds = PAYLOAD_MIN..=EXCEPTION_BYTES;
    bounds.contains(&length).then_some(length).ok_or(format!("not within {bounds:?}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(part) = &arguments.part {
        // Whatever happens to the one who counts, no process of a run stays.
        set_pdeathsig(Signal::SIGKILL).expect("a signal that exists");
        return match serde_json::from_str(part).expect("this program has written it") {
            Part::Publisher { job, subscribers } => publish::run(&job, subscribers),
            Part::Subscriber { job, number, pace } => subscribe::run(&job, number, pace),
        };
    }
    let seed = arguments.seed.unwrap_or_else(hivemind_runtime::identity::new_node_epoch);
    eprintln!("seed {seed}");
    let start = Instant::now();
    let mut books = Books { seed, messages: arguments.messages, holds: true, seconds: 0.0, runs: Vec::new() };
    for delivery in [Delivery::Lossy, Delivery::Reliable] {
        for form in [Form::Typed, Form::Bytes] {
            let wanted = arguments.service.is_none_or(|only| only == delivery)
                && arguments.form.is_none_or(|only| only == form);
            if wanted {
                let Arguments { messages, length, slow, .. } = arguments;
                let job = Job { messages, seed, delivery, form, length, slow };
                let run = count(&job, arguments.subscribers);
                books.holds &= run.faults.is_empty();
                if !arguments.json {
                    print!("{run}");
                }
                books.runs.push(run);
            }
        }
    }
    books.seconds = start.elapsed().as_secs_f64();
    if arguments.json {
        println!("{}", serde_json::to_string(&books).expect("plain data"));
    } else {
        print!("{books}");
    }
    if books.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run: starts the processes, hears what they counted, and compares.
fn count(job: &Job, subscribers: usize) -> Run {
    let folder = tempfile::Builder::new().prefix("hm-").tempdir_in("/tmp").expect("a folder of its own");
    let start = Instant::now();
    let publisher = spawn(folder.path(), &Part::Publisher { job: job.clone(), subscribers });
    let readers: Vec<_> = (0..subscribers)
        .map(|number| {
            let mix = [Pace::Fast, Pace::Working, Pace::Fast, Pace::Sleeping];
            let pace = if job.slow { Pace::Sleeping } else { mix[number % 4] };
            (pace, spawn(folder.path(), &Part::Subscriber { job: job.clone(), number, pace }))
        })
        .collect();
    let mut faults = Vec::new();
    let published = hear::<publish::Published>("publisher", publisher, &mut faults).unwrap_or_default();
    let mut pairs = Vec::new();
    for (number, (pace, process)) in readers.into_iter().enumerate() {
        let name = format!("subscriber {number}");
        let Some(received) = hear::<subscribe::Received>(&name, process, &mut faults) else { continue };
        let pair = Pair { number, pace, received };
        pair.compare(job, published.messages, &mut faults);
        pairs.push(pair);
    }
    if published.messages != job.messages {
        faults.push(format!("published {} messages of {}", published.messages, job.messages));
    }
    let seconds = start.elapsed().as_secs_f64();
    Run { service: job.delivery, form: job.form, published, pairs, seconds, faults }
}

fn spawn(folder: &std::path::Path, part: &Part) -> Child {
    let program = std::env::current_exe().expect("this program has a file");
    let part = serde_json::to_string(part).expect("plain data");
    let mut command = Command::new(program);
    command.args(["--part", &part]).env("HIVEMIND_DIR", folder).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("this program can be started again")
}

/// What a process said in the end: one JSON text.
fn hear<T: for<'a> Deserialize<'a>>(name: &str, process: Child, faults: &mut Vec<String>) -> Option<T> {
    let output = process.wait_with_output().expect("our own child");
    if !output.status.success() {
        faults.push(format!("the {name} ended with {}", output.status));
    }
    let said = serde_json::from_slice(&output.stdout);
    said.map_err(|error| faults.push(format!("the {name} said nothing that can be read: {error}"))).ok()
}
