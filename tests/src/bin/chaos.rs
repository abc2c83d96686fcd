//! Kills processes of real hives under load, for as long as you like, and lets a ledger decide.
//!
//! ```text
//! cargo run --release -p hivemind-tests --bin chaos -- [--seed N] [--only CASE,...] [--count N] [--minutes M] [--ci] [--report FILE]
//! ```
//! It prints its seed first; what a seed fixes and what it cannot is said at `hivemind_tests::chaos`. The
//! exit status is 0 only if everything held, and 130 after Ctrl-C, which ends the running case and prints
//! what was reached.

use clap::Parser;
use hivemind_tests::chaos::report::{Row, table};
use hivemind_tests::chaos::{self, CASES, Campaign};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a shell makes of Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(about = "Kills processes of real hives under load, and lets a ledger decide what was lost")]
struct Arguments {
    /// What all choices are made from. Default: another one each time; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these cases, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    only: Vec<String>,
    /// Rounds of each case. Default: those of `--list`, or what fits into `--minutes`.
    #[arg(long)]
    count: Option<u64>,
    /// No case may take longer.
    #[arg(long)]
    minutes: Option<f64>,
    /// A small set that takes about a minute.
    #[arg(long)]
    ci: bool,
    /// Write what came of it to this file, too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// What a process of a hive is told.
    #[arg(long, hide = true)]
    part: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(part) = &arguments.part {
        chaos::play(part);
        return ExitCode::SUCCESS;
    }
    if arguments.list {
        for case in CASES {
            println!("{:14} {} ({} rounds, {} in CI)", case.name, case.about, case.count, case.ci_count);
        }
        return ExitCode::SUCCESS;
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).expect("a signal that may be caught");
    }
    let campaign = Campaign {
        seed: arguments.seed.unwrap_or_else(hivemind_runtime::identity::new_node_epoch),
        count: arguments.count,
        limit: arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        ci: arguments.ci,
        program: std::env::current_exe().expect("it runs"),
        interrupted,
    };
    println!("seed {}", campaign.seed);
    let ran = campaign.run(&arguments.only, |row| print!("{}", table(std::slice::from_ref(row))));
    let rows = match ran {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let text = head(&campaign) + &table(&rows);
    println!("\n{text}");
    if let Some(path) = &arguments.report
        && let Err(error) = std::fs::write(path, &text)
    {
        eprintln!("{} cannot be written: {error}; the result stands above", path.display());
        return ExitCode::FAILURE;
    }
    // Relaxed: set long ago, by a signal handler.
    if campaign.interrupted.load(Ordering::Relaxed) {
        return ExitCode::from(INTERRUPTED);
    }
    if !rows.is_empty() && rows.iter().all(Row::held) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where and how it was run.
fn head(campaign: &Campaign) -> String {
    let mut text = String::new();
    let said = |program: &str, arguments: &[&str]| {
        let output =
            Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
        output
            .map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let _ = writeln!(text, "machine  {}, {cores} cores", model.map_or("unknown processor", |(_, name)| name));
    let _ = writeln!(text, "kernel   {}", said("uname", &["-sr"]));
    let _ = writeln!(text, "commit   {}", said("git", &["describe", "--always", "--dirty", "--abbrev=12"]));
    let build = if cfg!(debug_assertions) { "" } else { " --release" };
    let _ =
        writeln!(text, "command  cargo run{build} -p hivemind-tests --bin chaos -- {}", arguments.join(" "));
    let _ = writeln!(text, "seed     {}\n", campaign.seed);
    text
}
