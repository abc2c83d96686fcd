//! The second process: started by the parent from the same executable, told what to do line by line.
//!
//! Orders arrive on its stdin and answers leave on its stdout, one JSON text a line. What it does with them
//! is in [`serve`](crate::serve).

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use hivemind_ring::segment::Handle;
use serde::{Deserialize, Serialize};

use crate::error::HarnessError;
use crate::floor::Floor;
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

/// How the messages of a one-way case are sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sending {
    /// `send` and `try_recv`.
    OneByOne,
    /// `send_many` of 64 and `drain`.
    Batched,
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
        sending: Sending,
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
