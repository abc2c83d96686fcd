//! What runs out is an error, never a signal, an abort or a hang; the others do not notice; and nothing is
//! leaked.

#![cfg(target_arch = "x86_64")]

use hivemind_tests::exhaust::phase::PHASES;
use hivemind_tests::exhaust::stage::Program;
use hivemind_tests::exhaust::{Campaign, refusal_to_trace, run};
use hivemind_tests::hive::{Actor, Hive, joining, lossy};
use hivemind_tests::order::{Answer, Failure, Join, Kind, Order};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// Far longer than the two take, also beside other work: nothing is left out for want of time.
const CAMPAIGN_BOUND: Duration = Duration::from_secs(300);

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

/// Each call of each path fails once, in the way that is most likely. All ways: `cargo run --release -p
/// hivemind-tests --bin exhaust`.
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

/// A user of its own, without the administrator's right to pass limits.
const POOR: u32 = 47_120;

#[test]
fn a_process_without_threads_is_told_so_and_joins_when_there_are_some() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only the administrator can become a user who has no other processes");
        return;
    }
    let hive = Hive::new(ACTOR);
    std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o755)).unwrap();
    let folder = hive.folder().join("poor");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&folder, Some(POOR), Some(POOR)).unwrap();
    let poor = hive.spawn("poor");
    let join = Join { folder: Some(folder), ..joining("poor") };
    // Nothing; then enough for the thread of the session and not for that of the root.
    for limit in [0, 2] {
        poor.tell(&Order::LimitThreads { user: POOR, limit });
        let failure = poor.attempt(&Order::Join(join.clone())).unwrap_err();
        assert!(failure.variant.starts_with("Join(Resources"), "{failure:?}");
        assert!(failure.text.contains("raise the limit of threads"), "{failure:?}");
    }
    poor.tell(&Order::LimitThreads { user: POOR, limit: 1000 });
    assert!(poor.join(join), "it hosts the root, and nothing of the attempts before is in its way");
}

/// All mappings that the kernel allows (`vm.max_map_count`) are taken, but for some: a publisher, a
/// subscriber and a ring that grows are there whole, or the error says what to raise. Then they are let go,
/// and all of it works.
#[test]
fn a_process_that_may_map_nothing_more_is_told_so_and_goes_on_when_it_may() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let full = hive.actor("full");
    let publisher = full.publish(lossy("before", Kind::Bytes));
    // What the actor itself needs in order to send, it has from here on.
    publisher.attempt(1, 1000, 0).unwrap();
    let create = |full: &Actor| {
        let ends = [
            full.attempt(&Order::Publish(lossy("frames", Kind::Bytes))),
            full.attempt(&Order::Subscribe { filter: "nothing".to_owned(), kind: Kind::Bytes }),
        ];
        // Nothing of it needs a mapping of its own: a ring grows within the one it has.
        ends.into_iter().chain([publisher.attempt(1, 100_000, 0)]).collect::<Result<Vec<Answer>, Failure>>()
    };
    let mut refused = 0;
    for spare in 0..6 {
        full.tell(&Order::FillMappings { spare: Some(spare) });
        if let Err(failure) = create(&full) {
            refused += 1;
            assert!(failure.text.contains("vm.max_map_count"), "{spare} left: {failure:?}");
        }
        full.tell(&Order::FillMappings { spare: None });
    }
    assert!(refused > 0, "with none left there is no publisher");
    create(&full).unwrap();
    assert_eq!(host.nodes(), ["full", "host"]);
}
