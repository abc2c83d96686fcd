//! The two-process harness: `cargo run --release -p hivemind-benches --bin harness`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hivemind_benches::cases::{self, Against, CASES, Case, Counts};
use hivemind_benches::error::HarnessError;
use hivemind_benches::floor::{ATTEMPTS, Floor, agree};
use hivemind_benches::machine::Machine;
use hivemind_benches::peer::{Order, Peer};
use hivemind_benches::pinning;
use hivemind_benches::readings::clock_cost_ns;
use hivemind_benches::report::{Finding, Report, Run};
use hivemind_benches::{scale, serve, stage};

/// Measure messages between two pinned processes beside the raw round trip of a cache line.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Runs of each case; medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// One run with tiny counts: shows that everything works and claims nothing.
    #[arg(long)]
    smoke: bool,
    /// Only the cases whose name contains this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// The cores of the parent and of the peer; the first two usable ones otherwise.
    #[arg(long, value_name = "A,B", value_parser = core_pair)]
    cores: Option<(usize, usize)>,
    /// Exit with status 1 if a promised ratio is exceeded in steady runs.
    #[arg(long)]
    check: bool,
    /// Print the cases and how each is read, and measure nothing.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The second process; started by the harness itself.
    #[command(hide = true)]
    Peer { core: usize, segment: String },
    /// A process of the cases of scale; started by the harness itself.
    #[command(hide = true)]
    Actor {
        #[arg(value_delimiter = ',', num_args = 1)]
        cores: Vec<usize>,
        descriptors: u64,
    },
}

fn core_pair(text: &str) -> Result<(usize, usize), String> {
    let pair =
        text.split_once(',').and_then(|(first, second)| Some((first.parse().ok()?, second.parse().ok()?)));
    match pair {
        Some((first, second)) if first != second => Ok((first, second)),
        _ => Err("expected two different core numbers, as in 0,1".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(role) = &arguments.role {
        let served = match role {
            Role::Peer { core, segment } => serve::serve(*core, segment),
            Role::Actor { cores, descriptors } => stage::serve(cores, *descriptors),
        };
        return match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("harness peer: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let is_wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|text| name.contains(text.as_str()))
    };
    let chosen: Vec<Case> = CASES.iter().filter(|case| is_wanted(case.name)).copied().collect();
    let of_scale: Vec<scale::Case> =
        scale::CASES.iter().filter(|case| is_wanted(case.name)).copied().collect();
    if chosen.is_empty() && of_scale.is_empty() {
        eprintln!("harness: no case is called {:?}; `--list` names them all", arguments.only);
        return ExitCode::FAILURE;
    }
    if arguments.list {
        for case in &chosen {
            println!("{:<28} {}: {}", case.name, case.operation, case.reading);
        }
        for case in &of_scale {
            println!("{:<28} {}", case.name, case.goal);
        }
        return ExitCode::SUCCESS;
    }
    let report = measure(&arguments, &chosen, &of_scale);
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("a report has no map keys that are not text"));
    }
    let exceeded = arguments.check && report.findings.iter().any(Finding::exceeds_its_bound);
    if exceeded || !report.failures.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs all chosen cases. With fewer than two cores, or without leave to pin, says so and measures nothing.
fn measure(arguments: &Arguments, chosen: &[Case], of_scale: &[scale::Case]) -> Report {
    let all_cores = pinning::usable_cores().unwrap_or_default();
    let mut report = Report {
        machine: Machine::here(all_cores.len()),
        cores: None,
        runs: if arguments.smoke { 1 } else { arguments.runs.into() },
        counts: if arguments.smoke { Counts::SMOKE } else { Counts::FULL },
        smoke: arguments.smoke,
        clock_ns: 0,
        skipped: None,
        findings: Vec::new(),
        scale: Vec::new(),
        failures: Vec::new(),
    };
    let placed = pinning::choose(arguments.cores).and_then(|(parent, peer)| {
        // The peer's core is tried first, so that a refusal is known before anything starts.
        pinning::pin(peer)?;
        pinning::pin(parent)?;
        Ok((parent, peer))
    });
    match placed {
        Ok(cores) => report.cores = Some(cores),
        Err(error) => report.skipped = Some(error.to_string()),
    }
    report.clock_ns = clock_cost_ns();
    let say = |line: &str| {
        if !arguments.json {
            println!("{line}");
        }
    };
    say(report.head().trim_end());
    let Some((_parent, peer_core)) = report.cores else { return report };
    if !chosen.is_empty() {
        say(report.table_head());
    }
    for case in chosen {
        let runs: Result<Vec<Run>, HarnessError> =
            (0..report.runs).map(|_| steady_run(case, &report, peer_core)).collect();
        match runs {
            Ok(runs) => {
                report.add(case, Finding::new(case, runs));
                if let Some(finding) = report.findings.last() {
                    say(&report.row(finding));
                }
            }
            Err(error) => {
                say(&format!("{:<28} FAILED: {error}", case.name));
                report.failures.push((case.name, error.to_string()));
            }
        }
    }
    if !chosen.is_empty() {
        say(report.foot());
    }
    if !of_scale.is_empty() {
        say(&scale::table_head());
    }
    for case in of_scale {
        match case.measure(report.runs, report.smoke, &all_cores) {
            Ok(finding) => {
                say(&finding.row());
                report.scale.push(finding);
            }
            Err(error) => {
                say(&format!("{:<32}FAILED: {error}", case.name));
                report.failures.push((case.name, error.to_string()));
            }
        }
    }
    report
}

/// One run between two floors that agree, or the last of several attempts.
fn steady_run(case: &Case, report: &Report, peer_core: usize) -> Result<Run, HarnessError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let floor = Floor::create()?;
        let mut peer = Peer::start(peer_core, &floor)?;
        let floor_before = measure_floor(case.against, report, &floor, &mut peer)?;
        let summary = cases::run(case, report.counts, report.clock_ns, &mut peer, &floor)?;
        let floor_after = measure_floor(case.against, report, &floor, &mut peer)?;
        let steady = agree(floor_before, floor_after);
        if steady || report.smoke || attempts == ATTEMPTS {
            return Ok(Run { summary, floor_before, floor_after, steady, attempts });
        }
    }
}

/// The median of the floor, in nanoseconds.
fn measure_floor(
    against: Against,
    report: &Report,
    floor: &Floor,
    peer: &mut Peer,
) -> Result<f64, HarnessError> {
    let Counts { floor_batches, futex_rounds, .. } = report.counts;
    floor.reset();
    let summary = match against {
        Against::Line => {
            peer.order(&Order::Floor { batches: floor_batches })?;
            floor.ask(floor_batches)?
        }
        Against::Futex => {
            peer.order(&Order::FloorAsleep { rounds: futex_rounds })?;
            floor.ask_asleep(futex_rounds, report.clock_ns)?
        }
    };
    peer.answer()?;
    Ok(summary.p50)
}
