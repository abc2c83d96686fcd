//! However the demo ends, none of its processes outlives it.
//!
//! The demo inherits the write end of a pipe, and so do all processes that it starts; the read end comes to
//! its end when the last of them is gone. That works only while nobody else starts processes, so this file
//! holds one test.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe};

#[test]
fn no_process_of_the_demo_outlives_it_whatever_ends_it() {
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGTERM, Some(130)), (Signal::SIGKILL, None)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (ear, mouth) = pipe().unwrap();
        let mut demo = Command::new(env!("CARGO_BIN_EXE_hm"))
            .args(["demo", "--seconds", "60"])
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(mouth);
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.by_ref().find(|line| line.contains("every message flows")).expect("the demo starts");
        kill(Pid::from_raw(demo.id() as i32), signal).unwrap();
        // What it still prints is read, so that it is not held up, until its end.
        lines.for_each(drop);
        assert_eq!(demo.wait().unwrap().code(), code, "{signal}");
        let mut nothing = Vec::new();
        File::from(ear).read_to_end(&mut nothing).unwrap();
        let left: Vec<_> = folder.path().read_dir().unwrap().collect();
        assert!(left.is_empty() || signal == Signal::SIGKILL, "the folder is removed: {left:?}");
    }
}
