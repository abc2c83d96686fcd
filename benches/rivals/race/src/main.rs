//! Runs every contender beside the raw floor, and writes tables and plots.
//!
//! ```text
//!   floor before  ─▶  a contender's two processes  ─▶  floor after      one lap; the same two cores throughout
//! ```
//!
//! A lap whose two floors disagree by more than [`floor::DISAGREEMENT`] is run again, at most
//! [`lap::ATTEMPTS`] times; after that it counts, visibly marked. Laps of one case follow each other
//! contender by contender, and all cases are run before the next run begins, so that a slow minute of the
//! host is shared by all.
//!
//! What could not be built, does not start, fails or is not offered is said in the report with its reason.

mod field;
mod lap;
mod plots;
mod report;
mod results;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use hivemind_benches::floor::Floor;
use hivemind_benches::peer::{self, Peer};
use hivemind_benches::pinning;
use rivals_course::case::{CASES, Effort};

use crate::field::{Field, NotRunning};
use crate::lap::Track;
use crate::results::{Facts, Lap, Results};

/// Measure hivemind and its rivals between two pinned processes, beside the raw round trip of a cache line.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Runs of each case; medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// One run with tiny counts: shows that everything works and claims nothing.
    #[arg(long)]
    smoke: bool,
    /// Only what matches CONTENDER/CASE; either side may be left out or be a part of a name. May be
    /// repeated.
    #[arg(long, value_name = "CONTENDER/CASE")]
    only: Vec<String>,
    /// The cores of the parent and of the peer; the first two usable ones otherwise.
    #[arg(long, value_name = "A,B", value_parser = core_pair)]
    cores: Option<(usize, usize)>,
    /// The folder with the contenders' programs.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// A contender that was not built, and why. May be repeated.
    #[arg(long, value_name = "NAME=REASON")]
    not_built: Vec<String>,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report from figures that an earlier race left, and measure nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    from: Option<PathBuf>,
    /// Write the report into this file, between its markers, and the plots into the folder `plots` beside
    /// it.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// List contenders and cases, and measure nothing.
    #[arg(long)]
    list: bool,
    /// The second process of the floor; started by the race itself.
    #[arg(hide = true, num_args = 0..=3)]
    role: Vec<String>,
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
    let outcome = match arguments.role.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["peer", core, segment] => serve_the_floor(core, segment),
        [] => race(&arguments),
        _ => Err("unknown arguments; see --help".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("race: {error}");
            ExitCode::FAILURE
        }
    }
}

type Error = Box<dyn std::error::Error>;

fn serve_the_floor(core: &str, segment: &str) -> Result<(), Error> {
    Ok(peer::serve(core.parse()?, segment)?)
}

fn race(arguments: &Arguments) -> Result<(), Error> {
    let results = match &arguments.from {
        Some(file) => serde_json::from_str(&fs::read_to_string(file)?)?,
        None => match measure(arguments)? {
            Some(results) => results,
            None => return Ok(()),
        },
    };
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string(&results)?)?;
    }
    println!("{}", report::markdown(&results));
    if let Some(file) = &arguments.report {
        report::write_between_markers(file, &results)?;
        plots::draw_all(&file.parent().unwrap_or(Path::new(".")).join("plots"), &results)?;
    }
    let failed = results.laps.iter().filter(|lap| lap.figures.is_err()).count();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} laps failed; the report names them").into()) }
}

fn measure(arguments: &Arguments) -> Result<Option<Results>, Error> {
    let programs = match &arguments.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().ok_or("this program lies in no folder")?.to_owned(),
    };
    let mut not_running = Vec::new();
    for text in &arguments.not_built {
        let (name, reason) = text.split_once('=').ok_or("--not-built wants NAME=REASON")?;
        not_running.push(NotRunning { name: name.to_owned(), reason: reason.to_owned() });
    }
    let field = Field::assemble(&programs, not_running);
    if arguments.list {
        list(&field);
        return Ok(None);
    }
    let cores = pinning::choose(arguments.cores)?;
    // The peer's core is tried first, so that a refusal is known before anything starts.
    pinning::pin(cores.1)?;
    pinning::pin(cores.0)?;
    let effort = if arguments.smoke { Effort::SMOKE } else { Effort::FULL };
    let runs = if arguments.smoke { 1 } else { arguments.runs };
    let facts = Facts::here(cores, runs.into(), arguments.smoke);
    let floor = Floor::create()?;
    let peer = Peer::start(cores.1, &floor)?;
    let mut track = Track { floor, peer, cores, effort, clock_ns: facts.clock_ns, smoke: arguments.smoke };

    let begun = Instant::now();
    let mut laps: Vec<Lap> = Vec::new();
    for run in 1..=runs {
        for case in CASES {
            for contender in field.contenders.iter().filter(|contender| contender.runs(case.name)) {
                if !chosen(&arguments.only, &contender.description.name, case.name) {
                    continue;
                }
                let lap = track.run(contender, case);
                eprintln!("{:>5.0} s  run {run}  {}", begun.elapsed().as_secs_f64(), lap.line());
                laps.push(lap);
            }
        }
    }
    if laps.is_empty() {
        return Err("nothing matches `--only`, or nothing was built; `--list` names what there is".into());
    }
    let seconds = begun.elapsed().as_secs();
    Ok(Some(Results {
        facts,
        seconds,
        contenders: field.descriptions(),
        not_running: field.not_running,
        laps,
    }))
}

fn chosen(only: &[String], contender: &str, case: &str) -> bool {
    only.is_empty()
        || only.iter().any(|text| {
            let (wanted_contender, wanted_case) = text.split_once('/').unwrap_or((text, ""));
            contender.contains(wanted_contender) && case.contains(wanted_case)
        })
}

fn list(field: &Field) {
    for contender in &field.contenders {
        let description = &contender.description;
        println!("{} ({})", description.name, description.version);
        for (case, answer) in &description.cases {
            match answer {
                Ok(waits) => println!("    {case:<26} {waits:?}"),
                Err(reason) => println!("    {case:<26} -  {reason}"),
            }
        }
    }
    for absent in &field.not_running {
        println!("{}: not built: {}", absent.name, absent.reason);
    }
}
