//! Ctrl-C while a node runs, and after. The test binary starts itself again as the program that gets the
//! signals.

use hivemind::Node;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const DIR: &str = "HIVEMIND_TEST_DIR";
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

fn program(folder: &str) {
    let node = Node::builder("node").dir(folder).join().unwrap();
    node.run().unwrap();
    println!("ended in order");
    // It has more to do, and somebody grows impatient.
    let _ = std::io::stdin().read(&mut [0]);
}

fn interrupt(pid: u32) {
    assert!(Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
}

/// Whether the process deals with SIGINT: its handler for SIGTERM is installed after all that SIGINT needs.
fn listens(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (SIGTERM - 1) & 1 == 1
}

// Once every Ctrl-C after the first was ignored for as long as the process lived.
#[test]
fn ctrl_c_ends_the_node_and_the_next_one_the_process() {
    if let Ok(folder) = std::env::var(DIR) {
        return program(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ctrl_c_ends_the_node_and_the_next_one_the_process", "--nocapture"])
        .env(DIR, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while !listens(child.id()) {
        assert_eq!(child.try_wait().unwrap(), None, "it runs until it is interrupted");
        std::thread::yield_now();
    }
    interrupt(child.id());
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap().contains("ended in order")));
    interrupt(child.id());
    assert_eq!(child.wait().unwrap().signal(), Some(SIGINT));
}
