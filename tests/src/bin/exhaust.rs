//! Lets every system call of every path fail, one after the other, and says what came of it.
//!
//! ```text
//! cargo run --release -p hivemind-tests --bin exhaust -- [--phase NAME,...] [--call NAME] [--first] [--verbose]
//! ```
//! The exit status is 0 only if everything held. See `hivemind_tests::exhaust`.

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Lets every system call of join, create, grow, attach, take-over and leave fail")]
struct Arguments {
    /// Only these paths, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    phase: Vec<String>,
    /// Only calls of this name.
    #[arg(long, value_name = "NAME")]
    call: Option<String>,
    /// Only the first errno of each call, and once.
    #[arg(long)]
    first: bool,
    /// Say what came of each case.
    #[arg(long)]
    verbose: bool,
    /// Say which calls were let through, and why.
    #[arg(long)]
    through: bool,
    /// End after so many minutes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// What a process of a hive is.
    #[arg(long, hide = true)]
    part: Option<String>,
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    let _ = Arguments::parse();
    println!("SKIPPED: system calls are replaced on x86-64 only");
    ExitCode::SUCCESS
}

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    use hivemind_tests::exhaust::phase::PHASES;
    use hivemind_tests::exhaust::stage::Program;
    use hivemind_tests::exhaust::{Campaign, refusal_to_trace, run};
    use std::time::Duration;

    let arguments = Arguments::parse();
    if arguments.part.is_some() {
        hivemind_tests::actor::act();
        return ExitCode::SUCCESS;
    }
    let names: Vec<_> = PHASES.iter().map(|phase| phase.name()).collect();
    if let Some(unknown) = arguments.phase.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!("no phase is called {unknown}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    if let Some(why) = refusal_to_trace() {
        println!("SKIPPED: {why}");
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| arguments.phase.is_empty() || arguments.phase.iter().any(|phase| phase == name);
    let report = run(&Campaign {
        program: Program {
            path: std::env::current_exe().expect("this program has a path"),
            arguments: vec!["--part=actor".to_owned()],
        },
        phases: PHASES.iter().copied().filter(|phase| wanted(phase.name())).collect(),
        first_only: arguments.first,
        call: arguments.call,
        verbose: arguments.verbose,
        bound: Duration::from_secs_f64(arguments.minutes * 60.0),
    });
    println!("{report}");
    if arguments.through {
        for (name, why) in &report.through {
            println!("let through: {name}: {why}");
        }
    }
    for finding in &report.findings {
        println!("DOES NOT HOLD: {finding}");
    }
    if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
