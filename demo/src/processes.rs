//! Starts, hears, kills and reaps the processes of the demo.
//!
//! Every process has two threads here that read its standard output and standard error and put what they read
//! on one channel. A process that ends is news too, told after all that it said. Whatever way the demo ends,
//! dropping [`Processes`] kills and reaps what still runs.
//!
//! The children stand in process groups of their own: Ctrl-C reaches the parent alone, which decides what to
//! do.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::clock::monotonic_ns;
use super::report::{Order, Report};
use super::role::Role;

/// Which process of this demo, counted from 0; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LifeId(pub(crate) u32);

/// What a process said or did.
#[derive(Debug)]
pub(crate) enum News {
    Report(Report),
    /// A line on standard error.
    Complaint(String),
    /// Both outputs are closed: it is dead or about to be.
    Gone,
}

#[derive(Debug)]
struct Running {
    child: Child,
    stdin: ChildStdin,
}

/// All processes that were started and not reaped.
#[derive(Debug)]
pub(crate) struct Processes {
    dir: PathBuf,
    program: PathBuf,
    running: BTreeMap<LifeId, Running>,
    next: u32,
    sender: Sender<(LifeId, News)>,
    news: Receiver<(LifeId, News)>,
}

impl Processes {
    /// Nothing runs yet. The processes will be this very program, with `dir` as their runtime directory.
    pub(crate) fn new(dir: PathBuf) -> io::Result<Processes> {
        let (sender, news) = channel();
        let program = std::env::current_exe()?;
        Ok(Processes { dir, program, running: BTreeMap::new(), next: 0, sender, news })
    }

    /// Starts a process. Returns which life it is, its process id, and when it was started.
    pub(crate) fn spawn(&mut self, role: Role) -> io::Result<(LifeId, u32, u64)> {
        let started_ns = monotonic_ns();
        let mut child = Command::new(&self.program)
            .arg("--dir")
            .arg(&self.dir)
            .args(["demo-process", role.name()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // All three were asked for right above.
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            unreachable!("the three streams were asked to be pipes");
        };
        let life = LifeId(self.next);
        self.next += 1;
        let complaints = self.sender.clone();
        let complainer = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // The other end is gone only when the demo is over.
                let _over = complaints.send((life, News::Complaint(line)));
            }
        });
        let reports = self.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let news = match serde_json::from_str(&line) {
                    Ok(report) => News::Report(report),
                    Err(_) => News::Complaint(line),
                };
                let _over = reports.send((life, news));
            }
            // A complainer that panicked has nothing more to say.
            let _panicked = complainer.join();
            let _over = reports.send((life, News::Gone));
        });
        let pid = child.id();
        self.running.insert(life, Running { child, stdin });
        Ok((life, pid, started_ns))
    }

    /// The next news, or `None` if there is none for so long.
    pub(crate) fn news(&self, wait: Duration) -> Option<(LifeId, News)> {
        match self.news.recv_timeout(wait) {
            Ok(news) => Some(news),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("`self` holds a sender"),
        }
    }

    /// Gives an order. A process that is gone does not mind.
    pub(crate) fn order(&mut self, life: LifeId, order: Order) {
        if let Some(running) = self.running.get_mut(&life) {
            let _gone = writeln!(running.stdin, "{}", order.word());
        }
    }

    /// Sends SIGKILL and reaps. Returns when the signal was sent.
    pub(crate) fn kill(&mut self, life: LifeId) -> io::Result<u64> {
        let sent_ns = monotonic_ns();
        if let Some(mut running) = self.running.remove(&life) {
            running.child.kill()?;
            running.child.wait()?;
        }
        Ok(sent_ns)
    }

    /// Reaps a process that is gone by itself.
    pub(crate) fn reap(&mut self, life: LifeId) -> io::Result<Option<ExitStatus>> {
        match self.running.remove(&life) {
            Some(mut running) => running.child.wait().map(Some),
            None => Ok(None),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for running in self.running.values_mut() {
            let _dead_already = running.child.kill();
        }
        for running in self.running.values_mut() {
            let _reaped_already = running.child.wait();
        }
    }
}
