//! One line each way, and both sides asleep in a futex until it changes: what a blocking transport costs at
//! least.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Instant;

use rivals_course::case::Task;
use rivals_course::contender::{Contender, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{LINE, Part, Seen};
use rivals_course::waiting::PATIENCE;
use rustix::thread::futex;

use crate::mapping::Mapping;

pub(crate) struct Futex;

impl Contender for Futex {
    const NAME: &'static str = "raw futex";
    type Link = Lines;

    fn version() -> String {
        "own code".to_owned()
    }

    fn setup() -> &'static str {
        "one cache line each way; FUTEX_WAIT and FUTEX_WAKE on the low half of its first word, no spinning"
    }

    fn waits(_: Task) -> Waits {
        Waits::Blocks
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::RoundTrip { asleep: true, .. } => None,
            _ => Some("a reference for sleepers alone"),
        }
    }

    fn parent(_: &Run, launch: &mut dyn Launch) -> Result<Lines> {
        let mapping = Mapping::create(2 * LINE)?;
        launch.launch(&mapping.offer())?;
        Ok(Lines { mapping, mine: 0, theirs: LINE, received: 0 })
    }

    fn peer(_: &Run, offer: &str) -> Result<Lines> {
        Ok(Lines { mapping: Mapping::open(offer)?, mine: LINE, theirs: 0, received: 0 })
    }
}

pub(crate) struct Lines {
    mapping: Mapping,
    mine: usize,
    theirs: usize,
    received: u32,
}

impl Link for Lines {
    fn send_numbered(&mut self, _: usize, _: Part, number: u64, mark: u64) -> Result<()> {
        // Relaxed: published by the low half of the number below. Numbers stay far below 2^32 here.
        for index in 2..8 {
            self.mapping.word(self.mine + 8 * index).store(number, Relaxed);
        }
        self.mapping.word(self.mine + 8).store(mark, Relaxed);
        let bell = self.mapping.half(self.mine);
        bell.store(number as u32, Release);
        futex::wake(bell, futex::Flags::empty(), 1).map_err(rival)?;
        Ok(())
    }

    fn receive_numbered(&mut self, _: usize, _: Part) -> Result<Seen> {
        self.received += 1;
        let due = self.received;
        let bell = self.mapping.half(self.theirs);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = bell.load(Acquire);
            if seen == due {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::Silent { what: "the futex", waited_s: PATIENCE.as_secs() });
            }
            let patience = futex::Timespec { tv_sec: 1, tv_nsec: 0 };
            // Every way of waking up ends in a new look.
            let _woken = futex::wait(bell, futex::Flags::empty(), seen, Some(&patience));
        }
        let word = |index: usize| self.mapping.word(self.theirs + 8 * index).load(Relaxed);
        Ok(Seen { number: due.into(), mark: word(1), last: word(7) })
    }

    fn send(&mut self, _: usize, _: impl FnOnce(&mut [u8])) -> Result<()> {
        Err(Failure::NotOffered("the raw futex carries numbered messages only"))
    }

    fn receive<R>(&mut self, _: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Err(Failure::NotOffered("the raw futex carries numbered messages only"))
    }
}
