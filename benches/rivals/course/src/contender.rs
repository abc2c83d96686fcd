//! What a contender implements: open a link, move bytes. Nothing about clocks, counts or checks.

use std::any::Any;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::case::{Effort, Task};
use crate::failure::{Failure, Result};
use crate::message::{Part, SMALL, Seen, Small};

/// What both processes of a run know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The contender's name.
    pub contender: String,
    /// What is done.
    pub task: Task,
    /// How much of it.
    pub effort: Effort,
    /// An empty folder in memory, for whatever the contender needs; removed afterwards.
    pub room: PathBuf,
    /// The cores of the parent and of the peer.
    pub cores: (usize, usize),
}

/// Starts the peer. A contender calls it once, when everything the peer needs to open exists.
pub trait Launch {
    /// Starts the same program as the peer; `offer` is handed to its side of the contender. Descriptors that
    /// are to be inherited must have lost their close-on-exec flag.
    fn launch(&mut self, offer: &str) -> Result<()>;
}

/// How the ends wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// Polling, without a system call.
    Spins,
    /// Asleep in the kernel between messages.
    Blocks,
    /// System calls that do not block, repeated.
    PollsTheKernel,
}

/// One end of an open link, with both directions if the case has them.
pub trait Link {
    /// Sends one message of `bytes` bytes: `fill` writes it where it will be read, if the contender can lend
    /// that place, or into a buffer that is then copied. Waits for room.
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()>;

    /// Waits for the next message and lets `read` look at it, in place if the contender can.
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R>;

    /// Sends one message of `bytes` bytes of which `part` is written; for references that carry the number
    /// themselves.
    #[inline(always)]
    fn send_numbered(&mut self, bytes: usize, part: Part, number: u64, mark: u64) -> Result<()> {
        self.send(bytes, |place| crate::message::fill(place, part, number, mark))
    }

    /// Waits for a message of `bytes` bytes of which `part` is read.
    #[inline(always)]
    fn receive_numbered(&mut self, bytes: usize, part: Part) -> Result<Seen> {
        let _ = bytes;
        self.receive(|place| crate::message::read(place, part))
    }

    /// Sends one small message; for contenders with a better way for a fixed size or a type.
    #[inline(always)]
    fn send_small(&mut self, message: Small) -> Result<()> {
        self.send_numbered(SMALL, Part::Small, message.0[0], message.0[1])
    }

    /// Waits for a small message.
    #[inline(always)]
    fn receive_small(&mut self) -> Result<Seen> {
        self.receive_numbered(SMALL, Part::Small)
    }

    /// Whether a receiver that has nothing to answer takes all messages that are there with one call, however
    /// they were sent. Then [`receive_each`](Link::receive_each) is used one way.
    const TAKES_ALL: bool = false;

    /// Waits for at least one message and lets `read` look at each that is there, in order.
    #[inline(always)]
    fn receive_each(&mut self, read: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.receive(read)?
    }

    /// Small messages in one batch, if the contender offers batches.
    fn batch(&self) -> Option<u64> {
        None
    }

    /// Sends [`batch`](Link::batch) small messages, numbered from `first`; the last one carries `mark`.
    fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
        let _ = (first, mark);
        Err(Failure::NotOffered("no batches"))
    }

    /// Waits for at least one small message and hands on all that are there, in order.
    fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let _ = take;
        Err(Failure::NotOffered("no batches"))
    }
}

/// Reads what is there for all subscribers of the peer; hands on the subscriber's index and what it saw.
pub type Drain = Box<dyn FnMut(&mut dyn FnMut(usize, Seen)) -> Result<()>>;

/// Something that must live until the case is over.
pub type Keep = Box<dyn Any>;

/// A contender. All steps of one case run in fresh processes.
pub trait Contender {
    /// What `--only` matches and what the tables say.
    const NAME: &'static str;

    /// The version measured.
    fn version() -> String;

    /// How it was set up, in a sentence: what the reader needs to judge whether that is fair.
    fn setup() -> &'static str;

    /// How its ends wait in that task.
    fn waits(task: Task) -> Waits;

    /// Why it does not run that task, if it does not.
    fn refuses(task: Task) -> Option<&'static str>;

    /// Prefixes of paths outside the room under which it leaves files, to be counted and removed after a
    /// kill; a last component that begins with `*` stands for whatever ends in the rest of it.
    fn traces(run: &Run) -> Vec<PathBuf> {
        let _ = run;
        Vec::new()
    }

    /// Both directions, or the one from the parent to the peer.
    type Link: Link;

    /// The parent's end. Launches the peer when the peer can open its own.
    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Self::Link>;

    /// The peer's end.
    fn peer(run: &Run, offer: &str) -> Result<Self::Link>;

    /// The peer's side of a fan-out: so many subscribers, attached when this returns.
    fn audience(run: &Run, offer: &str, subscribers: usize) -> Result<Drain> {
        let _ = (run, offer, subscribers);
        Err(Failure::NotOffered("no fan-out"))
    }

    /// What runs in the parent while the peer starts cold: a root, a driver, or nothing. Returns the offer
    /// too.
    fn host(run: &Run) -> Result<(String, Keep)> {
        let _ = run;
        Ok((String::new(), Box::new(())))
    }

    /// A node, a service that did not exist (`round` tells it from the others), both ends, one message sent
    /// and received. What it returns is dropped after the clock has stopped.
    fn cold_start(run: &Run, offer: &str, round: u64) -> Result<Keep> {
        let _ = (run, offer, round);
        Err(Failure::NotOffered("no cold start"))
    }

    /// `count` services with a publisher each; waits for a subscriber at each and sends one small message.
    fn publish_services(run: &Run, launch: &mut dyn Launch, count: usize) -> Result<Keep> {
        let _ = (run, launch, count);
        Err(Failure::NotOffered("no services"))
    }

    /// A subscriber for each of `count` services; waits for the message of each and hands it on.
    fn subscribe_services(run: &Run, offer: &str, count: usize, take: &mut dyn FnMut(Seen)) -> Result<Keep> {
        let _ = (run, offer, count, take);
        Err(Failure::NotOffered("no services"))
    }
}
