//! What runs out is an error, never a signal, an abort or a hang; the others do not notice; and nothing is leaked.

#![cfg(target_arch = "x86_64")]

use hivemind_tests::exhaust::phase::PHASES;
use hivemind_tests::exhaust::stage::Program;
use hivemind_tests::exhaust::{Campaign, refusal_to_trace, run};
use std::time::Duration;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// Longer than the two take on a busy machine. What does not fit is said.
const CAMPAIGN_BOUND: Duration = Duration::from_secs(60);

fn campaign() -> Option<Campaign> {
    if let Some(why) = refusal_to_trace() {
        println!("SKIPPED: {why}");
        return None;
    }
    Some(Campaign {
        program: Program { path: ACTOR.into(), arguments: Vec::new() },
        phases: PHASES.to_vec(),
        first_only: true,
        call: None,
        verbose: false,
        bound: CAMPAIGN_BOUND,
    })
}

/// Each call of each path fails once, in the way that is most likely. All ways: `cargo run --release -p hivemind-tests --bin exhaust`.
#[test]
fn a_path_on_which_any_system_call_fails_ends_in_an_error_that_says_what_to_do_or_goes_on() {
    let Some(campaign) = campaign() else { return };
    let report = run(&campaign);
    println!("{report}");
    assert!(report.findings.is_empty(), "{}", report.findings.join("\n"));
    // Far fewer than there are: something was injected on every path.
    for row in &report.rows {
        assert!(row.injected > 0, "nothing failed on a path: {row:?}");
    }
}
