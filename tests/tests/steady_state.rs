//! Publishing and receiving in steady state allocates nothing on the heap and makes no system call.
//!
//! Publisher and subscriber are processes of their own. Both are traced, every thread of them, from before
//! their first message of the steady state: the kernel stops them at each system call. Both count what their
//! allocator does.

use hivemind_tests::BOUND;
use hivemind_tests::hive::Hive;
use hivemind_tests::tracer::Tracer;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// Messages that are looked at in each case.
const MESSAGES: u64 = 10_000;

#[derive(Debug, Deserialize)]
struct Counts {
    allocations: usize,
    reallocations: usize,
    deallocations: usize,
    messages: u64,
}

struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(hive: &Hive, arguments: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steady"));
        command
            .args(arguments)
            .args(["--messages", &MESSAGES.to_string()])
            .env("HIVEMIND_DIR", hive.folder());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (speak, lines) = channel();
        // A thread of its own, so that the test can wait with a bound. It ends with the process.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| speak.send(line))
        });
        Process { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(BOUND).expect("the process says something")
    }

    fn counts(&self) -> Counts {
        serde_json::from_str(&self.line()).unwrap()
    }

    fn say(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets both ends run under the tracer. Returns the system calls of the publisher's process and of the
/// subscriber's.
fn run(publisher: &mut Process, subscriber: &mut Process) -> [Vec<u64>; 2] {
    for process in [&mut *publisher, &mut *subscriber] {
        assert_eq!(process.line(), "ready");
    }
    let tracers = [&*publisher, &*subscriber].map(|process| Tracer::seize(process.child.id() as i32));
    for process in [subscriber, publisher] {
        process.say("go");
    }
    Tracer::between_marks(tracers)
}

fn look_at(form: &str, reliable: bool) {
    let hive = Hive::new("");
    let arguments = ["publisher", form, "--reliable"];
    let mut publisher = Process::start(&hive, if reliable { &arguments } else { &arguments[..2] });
    let mut subscriber = Process::start(&hive, &["subscriber", form]);
    let calls = run(&mut publisher, &mut subscriber);
    for (process, calls) in [&mut publisher, &mut subscriber].into_iter().zip(calls) {
        assert!(calls.is_empty(), "{form}, reliable: {reliable}: {} system calls: {calls:?}", calls.len());
        let counts = process.counts();
        println!("{form}, reliable: {reliable}: {counts:?}, no system call");
        assert_eq!(
            (counts.allocations, counts.reallocations, counts.deallocations),
            (0, 0, 0),
            "{form}: {counts:?}"
        );
        assert!(counts.messages > 0 && (!reliable || counts.messages == MESSAGES), "{form}: {counts:?}");
    }
}

#[test]
fn small_typed_messages_allocate_nothing_and_make_no_system_call() {
    look_at("small", false);
    look_at("small", true);
}

#[test]
fn typed_messages_in_chunks_allocate_nothing_and_make_no_system_call() {
    look_at("large", false);
    look_at("large", true);
}

#[test]
fn bytes_filled_in_place_allocate_nothing_and_make_no_system_call() {
    look_at("loan", false);
    look_at("loan", true);
}

/// The counts themselves: one system call and one allocation between the marks are seen.
#[test]
fn a_system_call_and_an_allocation_would_be_seen() {
    let hive = Hive::new("");
    let mut publisher = Process::start(&hive, &["publisher", "small", "--disturb"]);
    let mut subscriber = Process::start(&hive, &["subscriber", "small", "--disturb"]);
    let calls = run(&mut publisher, &mut subscriber);
    for (process, calls) in [&mut publisher, &mut subscriber].into_iter().zip(calls) {
        assert_eq!(calls.len(), 1, "{calls:?}");
        let counts = process.counts();
        assert_eq!((counts.allocations, counts.deallocations), (1, 1), "{counts:?}");
    }
}
