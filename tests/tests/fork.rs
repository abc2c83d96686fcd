//! What a forked child finds of the node of its parent: words instead of crashes, and nothing that it could
//! disturb.
//!
//! Each case is a process of its own (`src/bin/forker.rs`), which the kernel ends if it hangs.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

fn passes(case: &str) {
    let folder = tempfile::Builder::new().prefix("hm-").tempdir_in("/tmp").expect("a folder of its own");
    let status = Command::new(env!("CARGO_BIN_EXE_forker"))
        .arg(case)
        .env("HIVEMIND_DIR", folder.path())
        .env_remove("XDG_RUNTIME_DIR")
        .status()
        .expect("the program of this test");
    assert!(status.success(), "{case}: {status} (signal {:?})", status.signal());
}

#[test]
fn every_call_in_a_forked_child_says_whose_the_node_is() {
    passes("calls");
}

#[test]
fn what_a_forked_child_drops_stays_with_its_parent() {
    passes("drops");
}

#[test]
fn a_sample_is_not_read_in_a_forked_child_and_its_drop_lets_nothing_go() {
    passes("samples");
}

#[test]
fn a_forked_child_joins_by_itself_and_so_does_its_child() {
    passes("joins");
}

#[test]
fn a_daemon_that_forked_twice_joins() {
    passes("daemon");
}

#[test]
fn the_workers_of_a_prefork_server_join_each() {
    passes("prefork");
}

#[test]
fn a_child_that_outlives_the_host_of_the_root_holds_nobody_up() {
    passes("outlives");
}

/// A drop, or a call, that takes a lock would hang in one of the children.
#[test]
fn a_fork_at_any_moment_leaves_a_child_that_neither_hangs_nor_crashes() {
    passes("busy");
}

/// The bell of the parent's run is an inherited descriptor: a Ctrl-C or SIGTERM to a child once rang it.
#[test]
fn a_signal_to_a_child_does_not_end_the_run_of_its_parent() {
    passes("signals");
}

#[test]
fn a_child_that_runs_a_node_of_its_own_ends_in_order() {
    passes("own-run");
}

#[test]
fn a_handler_may_fork() {
    passes("handler");
}

#[test]
fn no_segment_comes_along_to_a_forked_child() {
    passes("nothing-inherited");
}
