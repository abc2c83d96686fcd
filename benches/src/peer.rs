//! The second process: started by the parent from the same executable, told what to do line by line.
//!
//! Orders arrive on stdin and answers leave on stdout, one JSON text a line. While the peer waits for an order it
//! sleeps in a read, so it takes nothing from its core.
//!
//! The peer asks the kernel to be killed when its parent dies, so a killed harness leaves no spinning process.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use hivemind_ring::segment::Handle;
use serde::{Deserialize, Serialize};

use crate::cases;
use crate::error::HarnessError;
use crate::floor::Floor;
use crate::pinning;
use crate::readings::Readings;

/// What a message looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// [`Reading`](crate::message::Reading): 56 bytes, inside a slot.
    Typed,
    /// A loan of that many bytes, of which the first and the last cache line are written and read.
    Bytes(usize),
}

/// How an end waits for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waiting {
    /// `try_recv` in a loop.
    Spinning,
    /// `recv_timeout` of a subscriber that does not spin: asleep until the publisher rings.
    Asleep,
    /// `recv_timeout` as it comes: it spins for a moment, then sleeps.
    AsItComes,
}

/// What the peer is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Echo that many batches of the floor.
    Floor {
        /// Batches of [`BATCH`](crate::readings::BATCH) rounds.
        batches: u64,
    },
    /// Echo that many rounds of the futex floor.
    FloorAsleep {
        /// Rounds.
        rounds: u64,
    },
    /// Answer every message with one of the same shape.
    Echo {
        /// The runtime directory of the hive.
        dir: PathBuf,
        /// What the messages look like.
        shape: Shape,
        /// How to wait for them.
        waiting: Waiting,
        /// How many to answer.
        rounds: u64,
    },
    /// Receive that many typed messages and time them.
    Drain {
        /// The runtime directory of the hive.
        dir: PathBuf,
        /// How many to receive.
        messages: u64,
        /// One by one, or all that are there.
        sending: cases::Sending,
    },
    /// Hold that many subscribers until told to stop.
    Audience {
        /// The runtime directory of the hive.
        dir: PathBuf,
        /// What the messages look like.
        shape: Shape,
        /// How many subscribers.
        subscribers: usize,
        /// Whether they read what they can, or nothing at all.
        draining: bool,
    },
    /// Receive that many messages by each of so many subscribers, which sleep in between.
    Doze {
        /// The runtime directory of the hive.
        dir: PathBuf,
        /// How many subscribers.
        subscribers: usize,
        /// How many messages.
        messages: u64,
    },
    /// Join, subscribe, receive one message and leave, that many times.
    Join {
        /// The runtime directory of the hive.
        dir: PathBuf,
        /// How many times.
        joins: u64,
    },
}

/// What the peer says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Pinned, mapped and waiting for orders.
    Ready,
    /// The order is carried out; what was measured on this side, if anything.
    Done(Option<Readings>),
    /// The order failed.
    Failed(String),
}

/// The parent's view of the peer. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts this executable a second time, on `core`, sharing the lines of `floor`.
    pub fn start(core: usize, floor: &Floor) -> Result<Peer, HarnessError> {
        let handle = floor.handle()?;
        let segment = match &handle {
            // The peer opens the parent's descriptor through /proc, so nothing has to be inherited.
            Handle::Descriptor(descriptor) => {
                format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd())
            }
            Handle::Name(name) => name.clone(),
        };
        let mut child = Command::new(std::env::current_exe()?)
            .arg("peer")
            .arg(core.to_string())
            .arg(segment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().expect("stdin was asked to be a pipe");
        let answers = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe"));
        let mut peer = Peer { child, orders, answers };
        // `handle` lives until the peer says that it has mapped the page.
        peer.answer()?;
        Ok(peer)
    }

    /// Gives an order. The peer starts at once; its end is told by [`answer`](Peer::answer).
    pub fn order(&mut self, order: &Order) -> Result<(), HarnessError> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes())?;
        Ok(())
    }

    /// Waits until the last order is carried out (the peer's own waits are bounded, so this one is).
    pub fn answer(&mut self) -> Result<Option<Readings>, HarnessError> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            return Err(HarnessError::Peer(format!("it ended early: {:?}", self.child.try_wait()?)));
        }
        match serde_json::from_str(&line)? {
            Answer::Ready => Ok(None),
            Answer::Done(readings) => Ok(readings),
            Answer::Failed(text) => Err(HarnessError::Peer(text)),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already; both calls then only reap it.
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The whole life of the peer: pin, map, then one answer for every order until stdin closes.
pub fn serve(core: usize, segment: &str) -> Result<(), HarnessError> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)?;
    pinning::pin(core).map_err(|error| HarnessError::Peer(error.to_string()))?;
    let floor = Floor::open(open_segment(segment)?)?;
    say(&Answer::Ready)?;
    for line in std::io::stdin().lock().lines() {
        let order = serde_json::from_str(&line?)?;
        say(&match carry_out(order, &floor) {
            Ok(readings) => Answer::Done(readings),
            Err(error) => Answer::Failed(error.to_string()),
        })?;
    }
    Ok(())
}

fn open_segment(segment: &str) -> Result<Handle, HarnessError> {
    if !segment.starts_with("/proc/") {
        return Ok(Handle::Name(segment.to_owned()));
    }
    let file = OpenOptions::new().read(true).write(true).open(Path::new(segment))?;
    Ok(Handle::Descriptor(file.into()))
}

fn say(answer: &Answer) -> Result<(), HarnessError> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    Ok(stdout.flush()?)
}

fn carry_out(order: Order, floor: &Floor) -> Result<Option<Readings>, HarnessError> {
    match order {
        Order::Floor { batches } => floor.answer(batches).map(|()| None),
        Order::FloorAsleep { rounds } => floor.answer_asleep(rounds).map(|()| None),
        Order::Echo { dir, shape: Shape::Typed, waiting, rounds } => {
            cases::echo_typed(&dir, waiting, rounds).map(|()| None)
        }
        Order::Echo { dir, shape: Shape::Bytes(length), waiting, rounds } => {
            cases::echo_bytes(&dir, length, waiting, rounds).map(|()| None)
        }
        Order::Drain { dir, messages, sending } => cases::drain(&dir, messages, sending).map(Some),
        Order::Audience { dir, shape, subscribers, draining } => {
            cases::attend(&dir, shape, subscribers, draining, floor).map(|()| None)
        }
        Order::Doze { dir, subscribers, messages } => {
            cases::doze(&dir, subscribers, messages, floor).map(|()| None)
        }
        Order::Join { dir, joins } => cases::join(&dir, joins).map(Some),
    }
}
