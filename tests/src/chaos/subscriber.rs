//! A subscriber dies while it holds samples of a reliable publisher that waits for it.
//!
//! ```text
//! lane   publisher ──reliable──▶ survivor (both threads of the harness, for the whole case)
//!                  └───────────▶ victim: holds samples, stands still or goes on ✗ SIGKILL
//! ```
//! A victim that stands still stops the publisher after as many messages as there are slots; from the kill on
//! the kernel says that it is gone, and the send that waits goes on. The memory of the publisher is so small
//! that the pins of a few dead would use it up. The survivor must get every message, once.

use super::Rounds;
use super::ledger::{Committed, Said};
use super::page::{Page, Word};
use super::report::Row;
use super::victim::{Part, SubscriberPart, compose, start};
use crate::account::Account;
use crate::entry::HEAD;
use crate::hive::Hive;
use crate::{BOUND, until};
use hivemind::{Node, Publisher, Subscriber};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Victims at a time.
const LANES: u64 = 2;
/// Slots of the ring.
const CAPACITY: u64 = 8;
/// A payload that lies in a chunk.
const LENGTH: usize = 1000;
/// Memory for so many chunks: the ring's, those that are held, and a few.
const CHUNKS: u64 = 24;
/// The most samples that a victim holds.
const HELD_MAX: u64 = 4;
/// The kill comes so much later, at most, than the victim holds its samples.
const LATEST_DEATH_US: u64 = 1_000;
/// Descriptors that the harness may have more at the end than at the beginning of a case; a leak of one a
/// kill is far beyond.
const DESCRIPTORS_SPARE: usize = 48;

/// What the threads of a lane share. All is Relaxed: figures and wishes, nothing is ordered by them.
#[derive(Debug)]
struct Shared {
    base: Instant,
    stop: AtomicBool,
    /// When the last victim was killed, in nanoseconds since `base`; 0: the publisher has noticed.
    killed: AtomicU64,
    published: AtomicU64,
}

/// Runs the case.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    let descriptors = descriptors();
    let hive = Hive::new("");
    let node = hive.node("observer").join().expect("a hive of its own");
    let mut row = Row::new("subscriber");
    row.timed = "from SIGKILL until the send that waited has gone on";
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let (hive, node, rounds) = (&hive, &node, &*rounds);
                scope.spawn(move || run_lane(rounds, hive, node, lane))
            })
            .collect();
        for lane in lanes {
            match lane.join() {
                Ok(lane) => row.add(lane),
                Err(panic) => row.faults.fail(format!("a lane ended: {}", super::said(&*panic))),
            }
        }
    });
    let left = self::descriptors();
    if left > descriptors + DESCRIPTORS_SPARE {
        row.faults.fail(format!("the publishers' process had {descriptors} descriptors, and has {left} now"));
    }
    row
}

/// How many descriptors this process has.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn run_lane(rounds: &Rounds<'_>, hive: &Hive, node: &Node, lane: u64) -> Row {
    let service = format!("lane-{lane}");
    let bytes = (HEAD + LENGTH) as u64;
    let builder = node.publisher_builder::<[u8]>(&service).reliable().capacity(CAPACITY);
    let publisher =
        builder.max_memory(CHUNKS * bytes.next_multiple_of(64)).create().expect("the root is here");
    let survivor = node.subscriber::<[u8]>(&service).expect("the root is here");
    publisher.wait_for_subscribers(1, BOUND).expect("it is there");
    let shared = Shared {
        base: Instant::now(),
        stop: AtomicBool::new(false),
        killed: AtomicU64::new(0),
        published: AtomicU64::new(0),
    };
    let mut row = Row::new("subscriber");
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(publisher, lane, &shared));
        let surviving = scope.spawn(|| survive(survivor, &shared));
        for number in (lane..).step_by(LANES as usize) {
            if !rounds.goes_on(number) || publishing.is_finished() || surviving.is_finished() {
                break;
            }
            kill_one(rounds, hive, &service, number, &shared, &mut row);
        }
        shared.stop.store(true, Ordering::Relaxed);
        match publishing.join() {
            Ok(part) => row.add(part),
            Err(panic) => row.faults.fail(format!("lane {lane}, publisher: {}", super::said(&*panic))),
        }
        match surviving.join() {
            Ok((account, said)) => {
                let published = shared.published.load(Ordering::Relaxed);
                let committed = Committed { done: published, begun: published };
                row.messages += account.received;
                row.faults.judge(&format!("lane {lane}, survivor"), committed, &account, said, true);
            }
            Err(panic) => row.faults.fail(format!("lane {lane}, survivor: {}", super::said(&*panic))),
        }
    });
    row
}

/// One victim's life.
fn kill_one(rounds: &Rounds<'_>, hive: &Hive, service: &str, number: u64, shared: &Shared, row: &mut Row) {
    let choose = |purpose| rounds.choice(number, purpose);
    let page = Page::create();
    let part = Part::Subscriber(SubscriberPart {
        folder: hive.folder().to_owned(),
        name: format!("victim-of-{service}"),
        service: service.to_owned(),
        hold: 1 + (choose(0) % HELD_MAX) as usize,
        receive_on: choose(1).is_multiple_of(4),
        page: page.path(),
    });
    let mut process = start(&rounds.campaign.program, &part);
    let mut ended = None;
    until("a victim that holds samples", || {
        ended = process.try_wait().expect("it is ours");
        (page.read(Word::Stage) == 1 || ended.is_some()).then_some(())
    });
    if let Some(status) = ended {
        row.faults.fail(format!("victim {number} ended on its own: {status}"));
        return;
    }
    let delay = Duration::from_micros(choose(2) % LATEST_DEATH_US);
    std::thread::sleep(delay);
    let sent = shared.published.load(Ordering::Relaxed);
    let now = u64::try_from(shared.base.elapsed().as_nanos()).expect("a campaign ends").max(1);
    shared.killed.store(now, Ordering::Relaxed);
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
    row.reached += 1;
    // More than the ring holds: the dead one's cursor must have stopped counting.
    until("the publisher goes on", || {
        (shared.published.load(Ordering::Relaxed) > sent + 2 * CAPACITY).then_some(())
    });
}

/// Publishes all the time; says how long a send that waited has waited since the kill.
fn publish(mut publisher: Publisher<[u8]>, lane: u64, shared: &Shared) -> Row {
    let mut row = Row::new("subscriber");
    let mut message = vec![0; HEAD + LENGTH];
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        compose(lane, number, &mut message);
        let begun = shared.base.elapsed();
        // No send fails: this one waits for the kernel's word, and for nothing else.
        if let Err(error) = publisher.send_timeout(&message, BOUND) {
            row.faults.fail(format!("lane {lane}, message {number}: {error}"));
            break;
        }
        number += 1;
        shared.published.store(number, Ordering::Relaxed);
        let killed = Duration::from_nanos(shared.killed.swap(0, Ordering::Relaxed));
        if killed > begun {
            row.times.push(shared.base.elapsed().saturating_sub(killed));
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    row
}

/// Receives everything; returns when the publisher has ended.
fn survive(mut subscriber: Subscriber<[u8]>, shared: &Shared) -> (Account, Said) {
    let mut account = Account::new(0);
    loop {
        let sample = subscriber.recv_timeout(Duration::from_millis(1)).expect("the publisher is sound");
        let Some(sample) = sample else {
            // The publisher was dropped at the end of its thread; what it committed was read before the
            // connection ends.
            let Some(status) = subscriber.connections().pop() else { continue };
            if shared.stop.load(Ordering::Relaxed) && status.ended {
                let said = Said { first: status.first, received: status.received, lost: status.lost };
                return (account, said);
            }
            continue;
        };
        account.enter(sample.sequence(), &*sample);
    }
}
