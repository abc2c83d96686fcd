//! The cases: each a question, the parent's half and the peer's half, both through the public surface of
//! `hivemind`.
//!
//! Both halves of a case stand next to each other. The parent joins first, so it hosts the root of the hive;
//! each run has a hive of its own in a directory of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use hivemind::{Message, Node, Publisher, Sample, Subscriber};

use crate::error::HarnessError;
use crate::floor::{Floor, PATIENCE, poll, poll_for, rest};
use crate::message::Reading;
use crate::peer::{Order, Peer, Sending, Shape, Waiting};
use crate::readings::{BATCH, Readings, Summary};

/// Slots of the rings in the round trips: one message is under way at a time.
const FEW_SLOTS: u64 = 8;
/// Slots of the ring in the one-way case.
const MANY_SLOTS: u64 = 256;
/// Messages of one `send_many`.
const MANY: usize = 64;
/// Slots of the ring in the fan-out cases.
const FAN_SLOTS: u64 = 256;
/// Messages under one reading of the clock where a message takes a few nanoseconds.
const SEND_BATCH: u64 = 256;
/// Received messages under one reading of the clock in the one-way case.
const DRAIN_BATCH: u64 = 1024;
/// Length of the loans in the fan-out case with chunks.
const FAN_BYTES: usize = 4096;
/// A cache line.
const LINE: usize = 64;

/// Which floor a case is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// The round trip of a cache line, both sides polling.
    Line,
    /// The round trip of a futex, both sides sleeping.
    Futex,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Send, wait for the answer.
    RoundTrip(Shape, Waiting),
    /// Send as fast as the reliable ring allows; the peer receives and checks every message.
    OneWay(Sending),
    /// Send to that many subscribers in one peer process.
    FanOut {
        /// What the messages look like.
        shape: Shape,
        /// How many subscribers.
        subscribers: usize,
        /// Whether they read.
        draining: bool,
    },
    /// Send to that many subscribers in one peer process, each asleep in a thread of its own.
    Rouse {
        /// How many subscribers.
        subscribers: usize,
    },
    /// A new node joins, subscribes and receives its first message.
    ColdJoin,
}

/// One question of the harness.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What `--only` matches.
    pub name: &'static str,
    /// The operation that is counted.
    pub operation: &'static str,
    /// How the clock is read.
    pub reading: &'static str,
    /// What is done.
    pub kind: Kind,
    /// Which floor it stands beside.
    pub against: Against,
    /// The ratio to the floor that must hold today, if one is promised.
    pub bound: Option<f64>,
    /// The ratio to the floor aimed at (DESIGN, section 8).
    pub budget: Option<f64>,
}

const BATCHED: &str = "p50 and rate over batches of 16; tail over single readings less the clock";
const SENT: &str = "p50 and rate over batches of 256; tail over single readings less the clock";

const fn round_trip(
    name: &'static str,
    shape: Shape,
    waiting: Waiting,
    bound: Option<f64>,
    budget: Option<f64>,
) -> Case {
    let (against, reading) = match waiting {
        Waiting::Spinning | Waiting::AsItComes => (Against::Line, BATCHED),
        Waiting::Asleep => (
            Against::Futex,
            "single readings less the clock, each after a rest in which the peer falls asleep",
        ),
    };
    let kind = Kind::RoundTrip(shape, waiting);
    Case { name, operation: "round trip", reading, kind, against, bound, budget }
}

const fn fan_out(name: &'static str, shape: Shape, subscribers: usize, draining: bool) -> Case {
    let kind = Kind::FanOut { shape, subscribers, draining };
    Case { name, operation: "send", reading: SENT, kind, against: Against::Line, bound: None, budget: None }
}

const fn rouse(name: &'static str, subscribers: usize) -> Case {
    Case {
        name,
        operation: "send",
        reading: "single readings of the send alone less the clock, each after a rest in which all fall asleep",
        kind: Kind::Rouse { subscribers },
        against: Against::Futex,
        bound: None,
        budget: None,
    }
}

/// Everything the harness asks, in the order of the report.
pub const CASES: &[Case] = &[
    round_trip("round_trip_56B", Shape::Typed, Waiting::Spinning, Some(1.8), Some(1.4)),
    round_trip("round_trip_4KiB", Shape::Bytes(4 << 10), Waiting::Spinning, None, Some(2.0)),
    round_trip("round_trip_64KiB", Shape::Bytes(64 << 10), Waiting::Spinning, None, Some(2.0)),
    round_trip("round_trip_1MiB", Shape::Bytes(1 << 20), Waiting::Spinning, Some(3.5), Some(2.0)),
    round_trip("round_trip_56B_sleeping", Shape::Typed, Waiting::Asleep, None, Some(1.1)),
    round_trip("round_trip_56B_recv", Shape::Typed, Waiting::AsItComes, None, None),
    Case {
        name: "one_way_56B_reliable",
        operation: "message",
        reading: "batches of 1024 received",
        kind: Kind::OneWay(Sending::OneByOne),
        against: Against::Line,
        bound: None,
        budget: None,
    },
    Case {
        name: "one_way_56B_batched",
        operation: "message",
        reading: "64 messages a send, batches of 1024 received",
        kind: Kind::OneWay(Sending::Batched),
        against: Against::Line,
        bound: None,
        budget: None,
    },
    fan_out("send_56B_to_1", Shape::Typed, 1, false),
    fan_out("send_56B_to_8", Shape::Typed, 8, false),
    fan_out("send_56B_to_64", Shape::Typed, 64, false),
    fan_out("send_56B_to_1_draining", Shape::Typed, 1, true),
    fan_out("send_56B_to_8_draining", Shape::Typed, 8, true),
    fan_out("send_56B_to_64_draining", Shape::Typed, 64, true),
    fan_out("send_4KiB_to_1", Shape::Bytes(FAN_BYTES), 1, false),
    fan_out("send_4KiB_to_64", Shape::Bytes(FAN_BYTES), 64, false),
    rouse("send_56B_wakes_1", 1),
    rouse("send_56B_wakes_8", 8),
    rouse("send_56B_wakes_64", 64),
    Case {
        name: "cold_join",
        operation: "join to first message",
        reading: "single readings less the clock",
        kind: Kind::ColdJoin,
        against: Against::Futex,
        bound: None,
        budget: None,
    },
];

/// How much of everything is done in one run of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Batches of the floor.
    pub floor_batches: u64,
    /// Rounds of the futex floor.
    pub futex_rounds: u64,
    /// Operations before the clock runs.
    pub warm_up: u64,
    /// Batches of a spinning case.
    pub batches: u64,
    /// Single readings of a spinning case.
    pub singles: u64,
    /// Single readings of a case in which both sides sleep.
    pub asleep: u64,
    /// Messages of the one-way case.
    pub messages: u64,
    /// Joins.
    pub joins: u64,
}

impl Counts {
    /// Enough for a p99.9 of every spinning case.
    pub const FULL: Counts = Counts {
        floor_batches: 5_000,
        futex_rounds: 2_000,
        warm_up: 20_000,
        batches: 10_000,
        singles: 50_000,
        asleep: 4_000,
        messages: 10_000_000,
        joins: 200,
    };

    /// Enough to see that everything works; no figure from it is a claim.
    pub const SMOKE: Counts = Counts {
        floor_batches: 50,
        futex_rounds: 50,
        warm_up: 100,
        batches: 20,
        singles: 200,
        asleep: 50,
        messages: 50_000,
        joins: 3,
    };

    fn of(self, kind: Kind) -> Plan {
        match kind {
            Kind::RoundTrip(_, Waiting::Spinning | Waiting::AsItComes) => Plan {
                warm_up: self.warm_up,
                batches: self.batches,
                batch: BATCH,
                singles: self.singles,
                rest: false,
            },
            Kind::FanOut { .. } => Plan {
                warm_up: self.warm_up,
                batches: self.batches,
                batch: SEND_BATCH,
                singles: self.singles,
                rest: false,
            },
            // One round takes as long as a thousand readings of the clock: singles alone.
            _ => Plan { warm_up: self.asleep / 10, batches: 0, batch: 0, singles: self.asleep, rest: true },
        }
    }
}

/// What `measure` does with an operation.
#[derive(Debug, Clone, Copy)]
struct Plan {
    warm_up: u64,
    batches: u64,
    batch: u64,
    singles: u64,
    /// Rest before each single reading, so that the other side falls asleep.
    rest: bool,
}

impl Plan {
    fn operations(self) -> u64 {
        self.warm_up + self.batches * self.batch + self.singles
    }

    fn measure(
        self,
        clock_ns: u64,
        mut operation: impl FnMut() -> Result<(), HarnessError>,
    ) -> Result<Summary, HarnessError> {
        let mut batches = Readings::with_capacity(self.batches);
        let mut singles = Readings::with_capacity(self.singles);
        for _ in 0..self.warm_up {
            operation()?;
        }
        for _ in 0..self.batches {
            let start = Instant::now();
            for _ in 0..self.batch {
                operation()?;
            }
            batches.record(start.elapsed(), self.batch);
        }
        for _ in 0..self.singles {
            if self.rest {
                rest();
            }
            let start = Instant::now();
            operation()?;
            singles.record_single(start.elapsed(), clock_ns);
        }
        Ok(if self.batches == 0 {
            singles.summary()
        } else {
            Summary::of_batches_and_singles(batches, singles)
        })
    }
}

/// The parent's half of one run of `case`.
pub fn run(
    case: &Case,
    counts: Counts,
    clock_ns: u64,
    peer: &mut Peer,
    floor: &Floor,
) -> Result<Summary, HarnessError> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let plan = counts.of(case.kind);
    match case.kind {
        Kind::RoundTrip(Shape::Typed, waiting) => round_trips_typed(dir, waiting, plan, clock_ns, peer),
        Kind::RoundTrip(Shape::Bytes(length), waiting) => {
            round_trips_bytes(dir, length, waiting, plan, clock_ns, peer)
        }
        Kind::OneWay(sending) => flood(dir, counts.messages, sending, peer),
        Kind::FanOut { shape, subscribers, draining } => {
            peer.order(&Order::Audience { dir: dir.into(), shape, subscribers, draining })?;
            let summary = address(dir, shape, subscribers, plan, clock_ns);
            floor.stop();
            let summary = summary?;
            peer.answer()?;
            Ok(summary)
        }
        Kind::Rouse { subscribers } => {
            floor.reset();
            peer.order(&Order::Doze { dir: dir.into(), subscribers, messages: plan.operations() })?;
            let summary = rouse_all(dir, subscribers, plan, clock_ns, floor)?;
            peer.answer()?;
            Ok(summary)
        }
        Kind::ColdJoin => host(dir, counts.joins, peer),
    }
}

fn node(dir: &Path, name: &str) -> Result<Node, HarnessError> {
    Node::builder(name).hive("bench").dir(dir).join().map_err(HarnessError::hivemind)
}

// ---- round trips, typed ----

const PING: &str = "bench/ping";
const PONG: &str = "bench/pong";

fn round_trips_typed(
    dir: &Path,
    waiting: Waiting,
    plan: Plan,
    clock_ns: u64,
    peer: &mut Peer,
) -> Result<Summary, HarnessError> {
    let node = node(dir, "parent")?;
    let mut pings = node
        .publisher_builder::<Reading>(PING)
        .capacity(FEW_SLOTS)
        .create()
        .map_err(HarnessError::hivemind)?;
    let mut pongs = subscribe::<Reading>(&node, PONG, waiting)?;
    peer.order(&Order::Echo { dir: dir.into(), shape: Shape::Typed, waiting, rounds: plan.operations() })?;
    pings.wait_for_subscribers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    pongs.wait_for_publishers(1, PATIENCE).map_err(HarnessError::hivemind)?;

    let mut expected = 0;
    let summary = plan.measure(clock_ns, || {
        expected += 1;
        pings.send(&Reading::numbered(expected)).map_err(HarnessError::hivemind)?;
        let found = next(&mut pongs, waiting)?.sequence.to_native();
        if found == expected { Ok(()) } else { Err(HarnessError::Mixed { expected, found }) }
    })?;
    peer.answer()?;
    Ok(summary)
}

/// The peer's half of the typed round trips.
pub fn echo_typed(dir: &Path, waiting: Waiting, rounds: u64) -> Result<(), HarnessError> {
    let node = node(dir, "peer")?;
    let mut pings = subscribe::<Reading>(&node, PING, waiting)?;
    let mut pongs = node
        .publisher_builder::<Reading>(PONG)
        .capacity(FEW_SLOTS)
        .create()
        .map_err(HarnessError::hivemind)?;
    pings.wait_for_publishers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    pongs.wait_for_subscribers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    for _ in 0..rounds {
        let sequence = next(&mut pings, waiting)?.sequence.to_native();
        pongs.send(&Reading::numbered(sequence)).map_err(HarnessError::hivemind)?;
    }
    Ok(())
}

/// A subscriber that waits as the case says.
fn subscribe<T>(node: &Node, filter: &str, waiting: Waiting) -> Result<Subscriber<T>, HarnessError>
where
    T: Message + ?Sized,
{
    let builder = node.subscriber_builder::<T>(filter);
    let builder = if waiting == Waiting::Asleep { builder.spin(Duration::ZERO) } else { builder };
    builder.create().map_err(HarnessError::hivemind)
}

fn next<T>(subscriber: &mut Subscriber<T>, waiting: Waiting) -> Result<Sample<T>, HarnessError>
where
    T: Message + ?Sized,
{
    match waiting {
        Waiting::Spinning => poll_for(|| subscriber.try_recv().map_err(HarnessError::hivemind), "a message"),
        Waiting::Asleep | Waiting::AsItComes => subscriber
            .recv_timeout(PATIENCE)
            .map_err(HarnessError::hivemind)?
            .ok_or(HarnessError::Silent { during: "a message", waited_s: PATIENCE.as_secs() }),
    }
}

// ---- round trips, loans ----

fn round_trips_bytes(
    dir: &Path,
    length: usize,
    waiting: Waiting,
    plan: Plan,
    clock_ns: u64,
    peer: &mut Peer,
) -> Result<Summary, HarnessError> {
    let node = node(dir, "parent")?;
    let mut pings = bytes_publisher(&node, PING, length)?;
    let mut pongs = subscribe::<[u8]>(&node, PONG, waiting)?;
    let shape = Shape::Bytes(length);
    peer.order(&Order::Echo { dir: dir.into(), shape, waiting, rounds: plan.operations() })?;
    pings.wait_for_subscribers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    pongs.wait_for_publishers(1, PATIENCE).map_err(HarnessError::hivemind)?;

    let mut expected = 0;
    let summary = plan.measure(clock_ns, || {
        expected += 1;
        send_lines(&mut pings, length, expected)?;
        let found = read_lines(&next(&mut pongs, waiting)?);
        if found == Some(expected) {
            Ok(())
        } else {
            Err(HarnessError::Mixed { expected, found: found.unwrap_or(u64::MAX) })
        }
    })?;
    peer.answer()?;
    Ok(summary)
}

/// The peer's half of the round trips of loans.
pub fn echo_bytes(dir: &Path, length: usize, waiting: Waiting, rounds: u64) -> Result<(), HarnessError> {
    let node = node(dir, "peer")?;
    let mut pings = subscribe::<[u8]>(&node, PING, waiting)?;
    let mut pongs = bytes_publisher(&node, PONG, length)?;
    pings.wait_for_publishers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    pongs.wait_for_subscribers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    for round in 1..=rounds {
        let found = read_lines(&next(&mut pings, waiting)?);
        let sequence = found.ok_or(HarnessError::Mixed { expected: round, found: u64::MAX })?;
        send_lines(&mut pongs, length, sequence)?;
    }
    Ok(())
}

fn bytes_publisher(node: &Node, service: &str, length: usize) -> Result<Publisher<[u8]>, HarnessError> {
    node.publisher_builder::<[u8]>(service)
        .capacity(FEW_SLOTS)
        .max_message(length as u64)
        .create()
        .map_err(HarnessError::hivemind)
}

/// Fills the first and the last line of a loan in place and sends it.
fn send_lines(publisher: &mut Publisher<[u8]>, length: usize, sequence: u64) -> Result<(), HarnessError> {
    let line = numbered_line(sequence);
    let mut loan = publisher.loan(length).map_err(HarnessError::hivemind)?;
    loan[..LINE].copy_from_slice(&line);
    loan[length - LINE..].copy_from_slice(&line);
    loan.send();
    Ok(())
}

/// Reads all of the first and of the last line: the number of the message, or `None` if the lines disagree.
fn read_lines(bytes: &[u8]) -> Option<u64> {
    let sequence = u64::from_le_bytes(*bytes.first_chunk()?);
    let line = numbered_line(sequence);
    (bytes.first_chunk() == Some(&line) && bytes.last_chunk() == Some(&line)).then_some(sequence)
}

fn numbered_line(sequence: u64) -> [u8; LINE] {
    let mut line = [0; LINE];
    for word in line.as_chunks_mut::<8>().0 {
        *word = sequence.to_le_bytes();
    }
    line
}

// ---- one way ----

const FLOOD: &str = "bench/flood";

/// The parent sends as fast as the ring takes it; the peer holds the clock.
fn flood(dir: &Path, messages: u64, sending: Sending, peer: &mut Peer) -> Result<Summary, HarnessError> {
    let node = node(dir, "parent")?;
    let mut publisher = node
        .publisher_builder::<Reading>(FLOOD)
        .capacity(MANY_SLOTS)
        .reliable()
        .create()
        .map_err(HarnessError::hivemind)?;
    peer.order(&Order::Drain { dir: dir.into(), messages, sending })?;
    publisher.wait_for_subscribers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    match sending {
        Sending::OneByOne => {
            for sequence in 1..=messages {
                let reading = Reading::numbered(sequence);
                poll_for(
                    || match publisher.send(&reading) {
                        Ok(_reached) => Ok(Some(())),
                        Err(hivemind::SendError::Full { .. }) => Ok(None),
                        Err(error) => Err(HarnessError::hivemind(error)),
                    },
                    "room in the ring",
                )?;
            }
        }
        Sending::Batched => {
            let mut next = 1;
            while next <= messages {
                let batch: [Reading; MANY] =
                    std::array::from_fn(|index| Reading::numbered(next + index as u64));
                let mut rest = &batch[..MANY.min((messages - next + 1) as usize)];
                next += rest.len() as u64;
                poll_for(
                    || match publisher.send_many(rest) {
                        Ok(sent) => {
                            rest = &rest[sent..];
                            Ok(rest.is_empty().then_some(()))
                        }
                        Err(hivemind::SendError::Full { .. }) => Ok(None),
                        Err(error) => Err(HarnessError::hivemind(error)),
                    },
                    "room in the ring",
                )?;
            }
        }
    }
    let readings = peer.answer()?;
    Ok(readings.unwrap_or_default().summary())
}

/// The peer's half of the one-way case: every message is received and its number checked.
pub fn drain(dir: &Path, messages: u64, sending: Sending) -> Result<Readings, HarnessError> {
    let node = node(dir, "peer")?;
    let mut subscriber = node.subscriber::<Reading>(FLOOD).map_err(HarnessError::hivemind)?;
    subscriber.wait_for_publishers(1, PATIENCE).map_err(HarnessError::hivemind)?;
    let mut readings = Readings::with_capacity(messages / DRAIN_BATCH + 1);
    let mut received = 0;
    while received < messages {
        let batch = DRAIN_BATCH.min(messages - received);
        let start = Instant::now();
        let end = received + batch;
        while received < end {
            let first = next(&mut subscriber, Waiting::Spinning)?;
            received = expect(received + 1, &first)?;
            if sending == Sending::Batched {
                for sample in subscriber.drain().take((end - received) as usize) {
                    received = expect(received + 1, &sample.map_err(HarnessError::hivemind)?)?;
                }
            }
        }
        // The first batch also waits for the publisher to begin.
        if received > DRAIN_BATCH || messages <= DRAIN_BATCH {
            readings.record(start.elapsed(), batch);
        }
    }
    Ok(readings)
}

fn expect(expected: u64, sample: &Sample<Reading>) -> Result<u64, HarnessError> {
    let found = sample.sequence.to_native();
    if found == expected { Ok(found) } else { Err(HarnessError::Mixed { expected, found }) }
}

// ---- fan-out ----

const FAN: &str = "bench/fan";

fn address(
    dir: &Path,
    shape: Shape,
    subscribers: usize,
    plan: Plan,
    clock_ns: u64,
) -> Result<Summary, HarnessError> {
    let node = node(dir, "parent")?;
    match shape {
        Shape::Typed => {
            let mut publisher = node
                .publisher_builder::<Reading>(FAN)
                .capacity(FAN_SLOTS)
                .create()
                .map_err(HarnessError::hivemind)?;
            publisher.wait_for_subscribers(subscribers, PATIENCE).map_err(HarnessError::hivemind)?;
            let mut sequence = 0;
            plan.measure(clock_ns, || {
                sequence += 1;
                publisher
                    .send(&Reading::numbered(sequence))
                    .map(|_reached| ())
                    .map_err(HarnessError::hivemind)
            })
        }
        Shape::Bytes(length) => {
            let mut publisher = bytes_publisher(&node, FAN, length)?;
            publisher.wait_for_subscribers(subscribers, PATIENCE).map_err(HarnessError::hivemind)?;
            let mut sequence = 0;
            plan.measure(clock_ns, || {
                sequence += 1;
                send_lines(&mut publisher, length, sequence)
            })
        }
    }
}

/// The peer's half of the fan-out cases: many subscribers in one process, until the parent says stop.
pub fn attend(
    dir: &Path,
    shape: Shape,
    subscribers: usize,
    draining: bool,
    floor: &Floor,
) -> Result<(), HarnessError> {
    let node = node(dir, "peer")?;
    match shape {
        Shape::Typed => {
            let mut audience = (0..subscribers)
                .map(|_| node.subscriber::<Reading>(FAN))
                .collect::<Result<Vec<_>, _>>()
                .map_err(HarnessError::hivemind)?;
            attend_until_stopped(floor, || {
                for subscriber in audience.iter_mut().filter(|_| draining) {
                    subscriber.try_recv().map_err(HarnessError::hivemind)?;
                }
                Ok(draining)
            })
        }
        Shape::Bytes(_) => {
            let mut audience = (0..subscribers)
                .map(|_| node.subscriber::<[u8]>(FAN))
                .collect::<Result<Vec<_>, _>>()
                .map_err(HarnessError::hivemind)?;
            attend_until_stopped(floor, || {
                for subscriber in audience.iter_mut().filter(|_| draining) {
                    subscriber.try_recv().map_err(HarnessError::hivemind)?;
                }
                Ok(draining)
            })
        }
    }
}

/// Repeats `look` until the parent says stop. An audience that does not drain leaves its core alone.
fn attend_until_stopped(
    floor: &Floor,
    mut look: impl FnMut() -> Result<bool, HarnessError>,
) -> Result<(), HarnessError> {
    const NAP: Duration = Duration::from_millis(1);
    while !floor.stopped() {
        if !look()? {
            std::thread::sleep(NAP);
        }
    }
    Ok(())
}

// ---- waking many ----

/// Each message is sent when all have received the one before and have had time to fall asleep; the send
/// alone is timed.
fn rouse_all(
    dir: &Path,
    subscribers: usize,
    plan: Plan,
    clock_ns: u64,
    floor: &Floor,
) -> Result<Summary, HarnessError> {
    let node = node(dir, "parent")?;
    let mut publisher = node
        .publisher_builder::<Reading>(FAN)
        .capacity(FEW_SLOTS)
        .create()
        .map_err(HarnessError::hivemind)?;
    publisher.wait_for_subscribers(subscribers, PATIENCE).map_err(HarnessError::hivemind)?;
    let mut readings = Readings::with_capacity(plan.singles);
    for sequence in 1..=plan.operations() {
        let received = (sequence - 1) * subscribers as u64;
        poll(|| u64::from(floor.told()) == received, "all subscribers")?;
        rest();
        let start = Instant::now();
        publisher.send(&Reading::numbered(sequence)).map_err(HarnessError::hivemind)?;
        let took = start.elapsed();
        if sequence > plan.warm_up {
            readings.record_single(took, clock_ns);
        }
    }
    Ok(readings.summary())
}

/// The peer's half: subscribers that sleep until the next message, each in a thread of its own.
pub fn doze(dir: &Path, subscribers: usize, messages: u64, floor: &Floor) -> Result<(), HarnessError> {
    let node = node(dir, "peer")?;
    let receive_all = || {
        let mut subscriber = subscribe::<Reading>(&node, FAN, Waiting::Asleep)?;
        for expected in 1..=messages {
            expect(expected, &next(&mut subscriber, Waiting::Asleep)?)?;
            floor.tell();
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let sleepers: Vec<_> = (0..subscribers).map(|_| scope.spawn(receive_all)).collect();
        sleepers.into_iter().try_for_each(|sleeper| sleeper.join().expect("no assertion failed"))
    })
}

// ---- cold join ----

const NEWS: &str = "bench/news";

/// The parent hosts the root and a service whose last message waits for late joiners.
fn host(dir: &Path, joins: u64, peer: &mut Peer) -> Result<Summary, HarnessError> {
    let node = node(dir, "parent")?;
    let mut publisher =
        node.publisher_builder::<Reading>(NEWS).history(1).create().map_err(HarnessError::hivemind)?;
    publisher.send(&Reading::numbered(1)).map_err(HarnessError::hivemind)?;
    peer.order(&Order::Join { dir: dir.into(), joins })?;
    let readings = peer.answer()?;
    Ok(readings.unwrap_or_default().summary())
}

/// The peer's half of the cold join. The clock starts before the node exists and stops with the message in
/// hand.
pub fn join(dir: &Path, joins: u64) -> Result<Readings, HarnessError> {
    let clock_ns = crate::readings::clock_cost_ns();
    let mut readings = Readings::with_capacity(joins);
    for join in 0..joins {
        let name = format!("joiner-{join}");
        let start = Instant::now();
        let node = node(dir, &name)?;
        let mut subscriber = node.subscriber::<Reading>(NEWS).map_err(HarnessError::hivemind)?;
        let found = next(&mut subscriber, Waiting::Asleep)?.sequence.to_native();
        readings.record_single(start.elapsed(), clock_ns);
        if found != 1 {
            return Err(HarnessError::Mixed { expected: 1, found });
        }
    }
    Ok(readings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        for (index, case) in CASES.iter().enumerate() {
            assert!(CASES[..index].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }

    #[test]
    fn a_changed_byte_in_either_line_is_seen() {
        let mut bytes = [7_u8; 4096];
        bytes[..LINE].copy_from_slice(&numbered_line(9));
        bytes[4096 - LINE..].copy_from_slice(&numbered_line(9));
        assert_eq!(read_lines(&bytes), Some(9));
        for index in [0, LINE - 1, 4096 - LINE, 4095] {
            let mut changed = bytes;
            changed[index] ^= 1;
            assert_eq!(read_lines(&changed), None, "byte {index}");
        }
    }

    #[test]
    fn a_plan_performs_exactly_the_operations_it_announces() {
        for case in CASES {
            let plan = Counts::SMOKE.of(case.kind);
            let mut performed = 0;
            plan.measure(0, || {
                performed += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(performed, plan.operations(), "{}", case.name);
        }
    }
}
