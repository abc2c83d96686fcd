//! Runs every example as a user would: as separate processes, in a runtime directory of its own.
//!
//! What is waited for is a line of output. A test that waits in vain hangs until the harness ends it; there
//! is no limit in here that a slow machine could reach.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running example; killed at the end of the test.
struct Example {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Example {
    fn start(name: &str, dir: &Path) -> Example {
        // `cargo test` builds them beside the folder of this test.
        let test = std::env::current_exe().unwrap();
        let program = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
        let mut child = Command::new(program)
            .env("HIVEMIND_DIR", dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Example { child, lines }
    }

    /// Reads on until a line contains `text`.
    fn line_with(&mut self, text: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(text) {
                return line;
            }
        }
        panic!("the example ended without a line with `{text}`: {:?}", self.child.wait());
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_subscriber_prints_what_a_publisher_sends_whichever_starts_first() {
    for subscriber_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (publisher, subscriber) = ("hello_publisher", "hello_subscriber");
        let (first, second) =
            if subscriber_first { (subscriber, publisher) } else { (publisher, subscriber) };
        let (mut first, mut second) = (Example::start(first, dir.path()), Example::start(second, dir.path()));
        let subscriber = if subscriber_first { &mut first } else { &mut second };
        let line = subscriber.line_with("in map");
        assert!(line.contains("from sensors/pose #") && line.ends_with("lost 0"), "{line}");
    }
}

// The killed publisher was killed at its first poses, so a pose twenty later can only be the new one's.
#[test]
fn a_subscriber_goes_on_when_its_publisher_is_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut subscriber = Example::start("hello_subscriber", dir.path());
    let publisher = Example::start("hello_publisher", dir.path());
    let line = subscriber.line_with("in map");
    let pose: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    drop(publisher);
    let mut publisher = Example::start("hello_publisher", dir.path());
    let later = pose + 20;
    publisher.line_with(&format!("sent {later} to 1"));
    subscriber.line_with(&format!("pose {later} "));
}

#[test]
fn a_frame_is_read_in_place_and_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let _publisher = Example::start("frames_publisher", dir.path());
    let mut subscriber = Example::start("frames_subscriber", dir.path());
    let line = subscriber.line_with("of 6220800 bytes");
    assert!(line.contains("from Some("), "{line}");
    let line = subscriber.line_with("kept");
    // Row 0 of frame n is filled with n.
    let number: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(line.ends_with(&format!("Some({})", number as u8)), "{line}");
}

#[test]
fn a_handler_sees_every_service_that_matches() {
    let dir = tempfile::tempdir().unwrap();
    let mut cave = Example::start("bat_cave", dir.path());
    let _police = Example::start("bat_signal", dir.path());
    cave.line_with("bat-signal-spare: docks");
    cave.line_with("bat-signal-main: police headquarters at 100 %");
}

#[test]
fn a_reliable_service_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut example = Example::start("reliable", dir.path());
    assert!(example.line_with("payments").contains("1000 payments, 250000 cents, none lost"));
    assert!(example.child.wait().unwrap().success());
}
