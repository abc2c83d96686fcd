//! One run of one case: the parent's half and the peer's half, the same for every contender.
//!
//! The clock is read around batches where one operation is too short for it, and around single operations for
//! the tail. Counts follow from time, so that a contender of 70 ns and one of 100 us take equally long.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::case::{Effort, Task};
use crate::contender::{Contender, Launch, Link, Run};
use crate::failure::{Failure, Result};
use crate::message::{LAST, ORDINARY, Part, START, Seen, Small, read};
use crate::program::{Launcher, say};
use crate::readings::{Readings, clock_cost_ns};
use crate::resources::Resources;
use crate::waiting::rest;

/// Round trips under one reading of the clock.
const ROUNDS: u64 = 16;
/// Sends under one reading of the clock.
const SENDS: u64 = 256;
/// Received bytes and messages under one reading of the clock, at most.
const STRIDE_BYTES: usize = 1 << 20;
const STRIDE_MESSAGES: usize = 1024;
/// Sent bytes and messages between two looks at the clock, at most.
const LOOK_BYTES: usize = 1 << 18;
const LOOK_MESSAGES: usize = 256;

/// What one run yields.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Readings of batches: the median and the rate.
    pub batches: Readings,
    /// Readings of single operations: the tail, and the only ones where a batch makes no sense.
    pub singles: Readings,
    /// Messages checked by their receiver.
    pub checked: u64,
    /// The case with a thousand services: what the parent holds beyond what it held before.
    pub parent: Resources,
    /// The same for the peer.
    pub peer: Resources,
    /// Process-id of a peer that is still alive, if it is.
    pub peer_pid: Option<u32>,
}

/// What the peer tells when it is done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PeerOutcome {
    readings: Readings,
    singles: Readings,
    checked: u64,
    resources: Resources,
}

/// The parent's half.
pub fn parent<C: Contender>(run: &Run) -> Result<Outcome> {
    let mut launcher = Launcher::new(run);
    match run.task {
        Task::RoundTrip { asleep, .. } => {
            let mut link = C::parent(run, &mut launcher)?;
            launcher.ready()?;
            ask(&mut link, run, asleep, &mut launcher)
        }
        Task::OneWay { batched, .. } => {
            let mut link = C::parent(run, &mut launcher)?;
            launcher.ready()?;
            let sent = if batched { pour_batches(&mut link, run.effort)? } else { pour(&mut link, run)? };
            let peer: PeerOutcome = launcher.answer()?;
            // The link outlives the answer: closing it early may take messages that are still under way
            // along.
            drop(link);
            same(sent, peer.checked)?;
            Ok(Outcome { batches: peer.readings, checked: peer.checked, ..Outcome::default() })
        }
        Task::FanOut { .. } => {
            let mut link = C::parent(run, &mut launcher)?;
            launcher.ready()?;
            let outcome = address(&mut link, run.effort);
            launcher.stop();
            let mut outcome = outcome?;
            outcome.checked = launcher.answer::<PeerOutcome>()?.checked;
            Ok(outcome)
        }
        Task::ColdStart => {
            let (offer, host) = C::host(run)?;
            launcher.launch(&offer)?;
            launcher.ready()?;
            let peer: PeerOutcome = launcher.answer()?;
            drop(host);
            Ok(Outcome { singles: peer.singles, checked: peer.checked, ..Outcome::default() })
        }
        Task::Services { count } => {
            let before = Resources::now();
            let start = Instant::now();
            let mut timed = TimedLauncher { launcher: &mut launcher, starting: Duration::ZERO };
            let keep = C::publish_services(run, &mut timed, count)?;
            let starting = timed.starting;
            let peer: PeerOutcome = launcher.answer()?;
            let elapsed = start.elapsed().saturating_sub(starting);
            same(count as u64, peer.checked)?;
            let mut outcome = Outcome { checked: peer.checked, peer: peer.resources, ..Outcome::default() };
            outcome.singles.record_single(elapsed, 0);
            outcome.parent = grown(before, Resources::now());
            outcome.peer_pid = launcher.pid();
            // The race reads this, then kills the parent, and the kernel the peer: what is left is counted.
            say(&outcome)?;
            let _killed_while_waiting = std::io::stdin().read(&mut [0]);
            drop(keep);
            Ok(outcome)
        }
    }
}

/// The peer's half.
pub fn peer<C: Contender>(run: &Run, offer: &str) -> Result<()> {
    match run.task {
        Task::RoundTrip { .. } => {
            let mut link = C::peer(run, offer)?;
            say(&())?;
            let checked = answer(&mut link, run)?;
            say(&PeerOutcome { checked, ..PeerOutcome::default() })?;
            // Until the parent has the last answer and closes: closing first may take it along.
            wait_for_the_end();
        }
        Task::OneWay { batched, .. } => {
            let mut link = C::peer(run, offer)?;
            say(&())?;
            let outcome = if batched { catch_batches(&mut link)? } else { catch(&mut link, run)? };
            say(&outcome)?;
            wait_for_the_end();
        }
        Task::FanOut { subscribers, draining } => {
            let mut drain = C::audience(run, offer, subscribers)?;
            let stop = stop_when_told();
            say(&())?;
            let mut last_of = vec![0; subscribers];
            let mut checked = 0;
            while !stop.load(Ordering::Relaxed) {
                if !draining {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let mut backwards = None;
                drain(&mut |index, seen| {
                    if seen.number <= last_of[index] || seen.last != seen.number {
                        backwards = Some((last_of[index] + 1, seen.number));
                    }
                    last_of[index] = seen.number;
                    checked += 1;
                })?;
                if let Some((expected, found)) = backwards {
                    return Err(Failure::Mixed { expected, found });
                }
            }
            if draining && checked == 0 {
                return Err(Failure::Rival("no subscriber received anything".to_owned()));
            }
            say(&PeerOutcome { checked, ..PeerOutcome::default() })?;
        }
        Task::ColdStart => {
            say(&())?;
            let clock_ns = clock_cost_ns();
            let mut singles = Readings::with_capacity(run.effort.starts);
            for round in 0..run.effort.starts {
                let start = Instant::now();
                let keep = C::cold_start(run, offer, round)?;
                singles.record_single(start.elapsed(), clock_ns);
                drop(keep);
            }
            let checked = run.effort.starts;
            say(&PeerOutcome { singles, checked, ..PeerOutcome::default() })?;
        }
        Task::Services { count } => {
            let before = Resources::now();
            // The parent's clock does not count the start of this process, which says this when it is up.
            say(&())?;
            let mut checked = 0;
            let mut wrong = None;
            let keep = C::subscribe_services(run, offer, count, &mut |seen| {
                checked += 1;
                if seen.last != seen.number {
                    wrong = Some(seen.number);
                }
            })?;
            if let Some(found) = wrong {
                return Err(Failure::Mixed { expected: 0, found });
            }
            let resources = grown(before, Resources::now());
            say(&PeerOutcome { checked, resources, ..PeerOutcome::default() })?;
            wait_for_the_end();
            drop(keep);
        }
    }
    Ok(())
}

// ---- round trips ----

fn ask<L: Link>(link: &mut L, run: &Run, asleep: bool, launcher: &mut Launcher) -> Result<Outcome> {
    let Effort { warm_up_ms, measure_ms, most, most_asleep, .. } = run.effort;
    let clock_ns = clock_cost_ns();
    let part = run.task.part();
    let bytes = run.task.bytes();
    let mut number = 0;
    let mut round = |link: &mut L, mark: u64| {
        number += 1;
        let seen = if part == Part::Small {
            link.send_small(Small::numbered(number, mark))?;
            link.receive_small()?
        } else {
            link.send_numbered(bytes, part, number, mark)?;
            link.receive_numbered(bytes, part)?
        };
        check(seen, number)
    };

    let warm = Instant::now() + Duration::from_millis(warm_up_ms);
    while Instant::now() < warm {
        // Without it, one that looks a few times before it sleeps would warm up awake, and leave the host in
        // another state.
        if asleep {
            rest();
        }
        round(link, ORDINARY)?;
    }
    let mut batches = Readings::with_capacity(if asleep { 0 } else { most });
    let mut singles = Readings::with_capacity(if asleep { most_asleep } else { most });
    if !asleep {
        let end = Instant::now() + Duration::from_millis(measure_ms);
        for _ in 0..most {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                round(link, ORDINARY)?;
            }
            let now = Instant::now();
            batches.record(now - start, ROUNDS);
            if now > end {
                break;
            }
        }
    }
    let end = Instant::now() + Duration::from_millis(measure_ms);
    for _ in 0..if asleep { most_asleep } else { most } {
        if asleep {
            rest();
        }
        let start = Instant::now();
        round(link, ORDINARY)?;
        let now = Instant::now();
        singles.record_single(now - start, clock_ns);
        if now > end {
            break;
        }
    }
    round(link, LAST)?;
    let peer: PeerOutcome = launcher.answer()?;
    same(number, peer.checked)?;
    Ok(Outcome { batches, singles, checked: number, ..Outcome::default() })
}

fn answer<L: Link>(link: &mut L, run: &Run) -> Result<u64> {
    let part = run.task.part();
    let bytes = run.task.bytes();
    let mut number = 0;
    loop {
        number += 1;
        let seen =
            if part == Part::Small { link.receive_small()? } else { link.receive_numbered(bytes, part)? };
        check(seen, number)?;
        if part == Part::Small {
            link.send_small(Small::numbered(number, seen.mark))?;
        } else {
            link.send_numbered(bytes, part, number, seen.mark)?;
        }
        if seen.mark == LAST {
            return Ok(number);
        }
    }
}

// ---- one way ----

/// Sends for the time of the warm-up, then says START, sends for the time of the measurement, then says LAST.
fn pour<L: Link>(link: &mut L, run: &Run) -> Result<u64> {
    let part = run.task.part();
    let bytes = run.task.bytes();
    let look = (LOOK_BYTES / bytes).clamp(1, LOOK_MESSAGES);
    let mut number = 0;
    for (milliseconds, mark) in [(run.effort.warm_up_ms, START), (run.effort.measure_ms, LAST)] {
        let end = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < end {
            for _ in 0..look {
                number += 1;
                pour_one(link, bytes, part, number, ORDINARY)?;
            }
        }
        number += 1;
        pour_one(link, bytes, part, number, mark)?;
    }
    Ok(number)
}

#[inline(always)]
fn pour_one<L: Link>(link: &mut L, bytes: usize, part: Part, number: u64, mark: u64) -> Result<()> {
    if part == Part::Small {
        link.send_small(Small::numbered(number, mark))
    } else {
        link.send_numbered(bytes, part, number, mark)
    }
}

fn pour_batches<L: Link>(link: &mut L, effort: Effort) -> Result<u64> {
    let batch = link.batch().ok_or(Failure::NotOffered("no batches"))?;
    let batches_a_look = (LOOK_MESSAGES as u64 / batch).max(1);
    let mut sent = 0;
    for (milliseconds, mark) in [(effort.warm_up_ms, START), (effort.measure_ms, LAST)] {
        let end = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < end {
            for _ in 0..batches_a_look {
                link.send_batch(sent + 1, ORDINARY)?;
                sent += batch;
            }
        }
        link.send_batch(sent + 1, mark)?;
        sent += batch;
    }
    Ok(sent)
}

fn catch<L: Link>(link: &mut L, run: &Run) -> Result<PeerOutcome> {
    let (part, bytes) = (run.task.part(), run.task.bytes());
    let mut counter = Counter::new((STRIDE_BYTES / run.task.bytes()).clamp(1, STRIDE_MESSAGES) as u64);
    while !counter.over {
        if L::TAKES_ALL {
            link.receive_each(&mut |place| counter.count(read(place, part)))?;
            continue;
        }
        let seen =
            if part == Part::Small { link.receive_small()? } else { link.receive_numbered(bytes, part)? };
        counter.count(seen)?;
    }
    Ok(counter.outcome())
}

fn catch_batches<L: Link>(link: &mut L) -> Result<PeerOutcome> {
    let mut counter = Counter::new(STRIDE_MESSAGES as u64);
    while !counter.over {
        link.receive_batch(&mut |seen| counter.count(seen))?;
    }
    Ok(counter.outcome())
}

/// Checks every number and reads the clock once a stride, between START and LAST.
struct Counter {
    stride: u64,
    number: u64,
    left: u64,
    since: Option<Instant>,
    readings: Readings,
    over: bool,
}

impl Counter {
    fn new(stride: u64) -> Counter {
        let readings = Readings::with_capacity(1 << 16);
        Counter { stride, number: 0, left: u64::MAX, since: None, readings, over: false }
    }

    #[inline(always)]
    fn count(&mut self, seen: Seen) -> Result<()> {
        self.number += 1;
        check(seen, self.number)?;
        self.left -= 1;
        if seen.mark != ORDINARY || self.left == 0 {
            self.turn(seen.mark);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn turn(&mut self, mark: u64) {
        let now = Instant::now();
        if let Some(since) = self.since {
            self.readings.record(now - since, self.stride - self.left);
        }
        if mark == START || self.since.is_some() {
            self.since = Some(now);
            self.left = self.stride;
        } else {
            self.left = u64::MAX;
        }
        self.over = mark == LAST;
    }

    fn outcome(self) -> PeerOutcome {
        PeerOutcome { readings: self.readings, checked: self.number, ..PeerOutcome::default() }
    }
}

// ---- fan-out ----

fn address<L: Link>(link: &mut L, effort: Effort) -> Result<Outcome> {
    let clock_ns = clock_cost_ns();
    let mut number = 0;
    let mut send = |link: &mut L| {
        number += 1;
        link.send_small(Small::numbered(number, ORDINARY))
    };
    let warm = Instant::now() + Duration::from_millis(effort.warm_up_ms);
    while Instant::now() < warm {
        send(link)?;
    }
    let mut batches = Readings::with_capacity(effort.most);
    let mut singles = Readings::with_capacity(effort.most);
    let end = Instant::now() + Duration::from_millis(effort.measure_ms);
    for _ in 0..effort.most {
        let start = Instant::now();
        for _ in 0..SENDS {
            send(link)?;
        }
        let now = Instant::now();
        batches.record(now - start, SENDS);
        if now > end {
            break;
        }
    }
    let end = Instant::now() + Duration::from_millis(effort.measure_ms);
    for _ in 0..effort.most {
        let start = Instant::now();
        send(link)?;
        let now = Instant::now();
        singles.record_single(now - start, clock_ns);
        if now > end {
            break;
        }
    }
    Ok(Outcome { batches, singles, ..Outcome::default() })
}

// ---- what all share ----

#[inline(always)]
fn check(seen: Seen, expected: u64) -> Result<()> {
    if seen.number == expected && seen.last == expected { Ok(()) } else { Err(mixed(seen, expected)) }
}

#[cold]
fn mixed(seen: Seen, expected: u64) -> Failure {
    let found = if seen.number == expected { u64::MAX } else { seen.number };
    Failure::Mixed { expected, found }
}

/// As many were checked as were sent.
fn same(sent: u64, checked: u64) -> Result<()> {
    if sent == checked { Ok(()) } else { Err(Failure::Mixed { expected: sent, found: checked }) }
}

fn grown(before: Resources, now: Resources) -> Resources {
    Resources {
        // Both are told as they are: a process of its own weight is a part of the price.
        resident_kib: now.resident_kib,
        descriptors: now.descriptors.saturating_sub(before.descriptors),
    }
}

/// Does not count the start of the peer's process, which is the machine's price, not the contender's.
struct TimedLauncher<'launcher, 'run> {
    launcher: &'launcher mut Launcher<'run>,
    starting: Duration,
}

impl Launch for TimedLauncher<'_, '_> {
    fn launch(&mut self, offer: &str) -> Result<()> {
        let start = Instant::now();
        self.launcher.launch(offer)?;
        self.launcher.ready()?;
        self.starting += start.elapsed();
        Ok(())
    }
}

/// The parent closes the peer's stdin to say stop.
fn wait_for_the_end() {
    let mut rest = Vec::new();
    let _closed_or_broken = std::io::stdin().read_to_end(&mut rest);
}

fn stop_when_told() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        wait_for_the_end();
        // Relaxed: nothing is published by it.
        told.store(true, Ordering::Relaxed);
    });
    stop
}
