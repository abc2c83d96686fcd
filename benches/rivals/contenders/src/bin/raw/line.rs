//! One buffer each way, and nothing else: the number of the message in the first word is also the flag.
//!
//! ```text
//!   ping   | number, mark, words ... |  ...  | last line |     written by the parent
//!   pong   | number, mark, words ... |  ...  | last line |     written by the peer
//! ```
//!
//! There is room for one message, so only round trips can be run. No message can be faster between two
//! processes.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rivals_course::case::Task;
use rivals_course::contender::{Contender, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result};
use rivals_course::message::{LINE, Part, Seen};
use rivals_course::waiting::spin_until;

use crate::mapping::Mapping;

pub(crate) struct Line;

impl Contender for Line {
    const NAME: &'static str = "raw line";
    type Link = Buffers;

    fn version() -> String {
        "own code".to_owned()
    }

    fn setup() -> &'static str {
        "one buffer each way in a shared memfd; the first word is the message's number and the flag; no ring, no queue"
    }

    fn waits(_: Task) -> Waits {
        Waits::Spins
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::RoundTrip { asleep: false, .. } => None,
            Task::RoundTrip { .. } => Some("polls only"),
            _ => Some("room for one message"),
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Buffers> {
        let length = run.task.bytes();
        let mapping = Mapping::create(2 * length)?;
        launch.launch(&mapping.offer())?;
        Ok(Buffers { mapping, mine: 0, theirs: length, received: 0 })
    }

    fn peer(run: &Run, offer: &str) -> Result<Buffers> {
        Ok(Buffers { mapping: Mapping::open(offer)?, mine: run.task.bytes(), theirs: 0, received: 0 })
    }
}

pub(crate) struct Buffers {
    mapping: Mapping,
    mine: usize,
    theirs: usize,
    received: u64,
}

impl Link for Buffers {
    #[inline(always)]
    fn send_numbered(&mut self, bytes: usize, part: Part, number: u64, mark: u64) -> Result<()> {
        let word = |index: usize| self.mapping.word(self.mine + 8 * index);
        // Relaxed: published by the number below.
        if part != Part::Small {
            for index in (bytes - LINE) / 8..bytes / 8 {
                word(index).store(number, Relaxed);
            }
        }
        for index in 2..8 {
            word(index).store(number, Relaxed);
        }
        word(1).store(mark, Relaxed);
        word(0).store(number, Release);
        Ok(())
    }

    #[inline(always)]
    fn receive_numbered(&mut self, bytes: usize, part: Part) -> Result<Seen> {
        self.received += 1;
        let due = self.received;
        let word = |index: usize| self.mapping.word(self.theirs + 8 * index);
        spin_until(|| word(0).load(Acquire) == due, "the raw line")?;
        // Relaxed: ordered by the load of the number above; the other side writes again only after our
        // answer.
        let mark = word(1).load(Relaxed);
        let mut last = word(7).load(Relaxed);
        if part != Part::Small {
            for index in (2..7).chain((bytes - LINE) / 8..bytes / 8) {
                last |= word(index).load(Relaxed) ^ due;
            }
        }
        Ok(Seen { number: due, mark, last })
    }

    fn send(&mut self, _: usize, _: impl FnOnce(&mut [u8])) -> Result<()> {
        Err(Failure::NotOffered("the raw line carries numbered messages only"))
    }

    fn receive<R>(&mut self, _: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Err(Failure::NotOffered("the raw line carries numbered messages only"))
    }
}
