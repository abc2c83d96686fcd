//! The program of a contender: `list`, `parent RUN`, `peer RUN OFFER`. The race starts the first two, the
//! parent the third.
//!
//! Answers are lines of stdout that begin with `@@ `, one JSON text each; whatever else a rival prints goes
//! to stderr.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::case::CASES;
use crate::contender::{Contender, Launch, Run, Waits};
use crate::failure::{Failure, Result};
use crate::pinning;
use crate::runner::{self, Outcome};

/// How long the peer may take to end by itself.
const GOODBYE: Duration = Duration::from_secs(2);

/// What an answer begins with.
pub const MARK: &str = "@@ ";

/// What a contender says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// The version measured.
    pub version: String,
    /// How it was set up.
    pub setup: String,
    /// How its ends wait in each case, or why it does not run it.
    pub cases: Vec<(String, std::result::Result<Waits, String>)>,
}

/// One contender of a program.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    name: &'static str,
    describe: fn() -> Description,
    parent: fn(&Run) -> Result<Outcome>,
    peer: fn(&Run, &str) -> Result<()>,
    traces: fn(&Run) -> Vec<std::path::PathBuf>,
}

impl Entry {
    /// The entry of that contender.
    pub fn of<C: Contender>() -> Entry {
        Entry {
            name: C::NAME,
            describe: describe::<C>,
            parent: runner::parent::<C>,
            peer: runner::peer::<C>,
            traces: C::traces,
        }
    }
}

fn describe<C: Contender>() -> Description {
    let cases = CASES.iter().map(|case| {
        let answer = match C::refuses(case.task) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(C::waits(case.task)),
        };
        (case.name.to_owned(), answer)
    });
    Description {
        name: C::NAME.to_owned(),
        version: C::version(),
        setup: C::setup().to_owned(),
        cases: cases.collect(),
    }
}

/// The whole program.
pub fn main(entries: &[Entry]) -> ExitCode {
    match serve(entries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(entries: &[Entry]) -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => say(&entries.iter().map(|entry| (entry.describe)()).collect::<Vec<_>>()),
        ["traces", run] => {
            let (entry, run) = entry_of(entries, run)?;
            say(&(entry.traces)(&run))
        }
        ["parent", run] => {
            let (entry, run) = entry_of(entries, run)?;
            begin(run.cores.0)?;
            say(&(entry.parent)(&run)?)
        }
        ["peer", run, offer] => {
            let (entry, run) = entry_of(entries, run)?;
            begin(run.cores.1)?;
            (entry.peer)(&run, offer)
        }
        _ => Err(Failure::Rival(
            "usage: list | parent RUN | peer RUN OFFER; start it with benches/rivals/run".into(),
        )),
    }
}

fn entry_of<'entry>(entries: &'entry [Entry], run: &str) -> Result<(&'entry Entry, Run)> {
    let run: Run = serde_json::from_str(run)?;
    let entry = entries
        .iter()
        .find(|entry| entry.name == run.contender)
        .ok_or_else(|| Failure::Rival(format!("this program has no contender {:?}", run.contender)))?;
    Ok((entry, run))
}

/// Dies with its parent, and stays, with all threads it will start, on its core.
fn begin(core: usize) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)?;
    Ok(pinning::pin(core)?)
}

/// Prints one answer.
pub fn say(answer: &impl Serialize) -> Result<()> {
    let line = format!("{MARK}{}\n", serde_json::to_string(answer)?);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Reads lines until an answer comes; hands everything else to stderr. `None` at the end.
pub fn next_answer(lines: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.strip_prefix(MARK) {
            Some(answer) => return Ok(Some(answer.trim_end().to_owned())),
            None => eprint!("{line}"),
        }
    }
}

/// Starts the peer and listens to it. Stopped and reaped when dropped.
#[derive(Debug)]
pub struct Launcher<'run> {
    run: &'run Run,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Launcher<'_> {
    /// Nothing started yet.
    pub fn new(run: &Run) -> Launcher<'_> {
        Launcher { run, child: None, stdin: None, stdout: None }
    }

    /// Waits until the peer's end is open.
    pub fn ready(&mut self) -> Result<()> {
        self.answer()
    }

    /// The peer's next answer. The race bounds the wait: it kills a run that takes too long.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let lines = self.stdout.as_mut().ok_or_else(|| Failure::Rival("the peer was not launched".into()))?;
        let answer = next_answer(lines)?
            .ok_or_else(|| Failure::Rival("the peer ended early; its words are on stderr".into()))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Tells the peer to stop.
    pub fn stop(&mut self) {
        self.stdin = None;
    }

    /// The peer's process-id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Launch for Launcher<'_> {
    fn launch(&mut self, offer: &str) -> Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["peer", &serde_json::to_string(self.run)?, offer])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        self.stdin = child.stdin.take();
        self.stdout = child.stdout.take().map(BufReader::new);
        self.child = Some(child);
        Ok(())
    }
}

impl Drop for Launcher<'_> {
    /// Lets the peer end by itself, so that it can tidy up what its contender leaves; kills it if it does
    /// not.
    fn drop(&mut self) {
        self.stop();
        let Some(child) = &mut self.child else { return };
        let deadline = Instant::now() + GOODBYE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // It may have ended just now; both calls then only reap it.
                let _already_gone = child.kill();
                let _reaped = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
