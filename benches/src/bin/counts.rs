//! How many instructions a message costs, path by path: the workload that `benches/instructions` runs under
//! callgrind.
//!
//! Instructions do not depend on what else the machine does, so a few per cent more of them are a fact and
//! not noise. They are no time, either: what a fence or a cache line costs is the question of the harness.
//!
//! ```text
//!   for every path     settle                  rings take their memory, tables grow
//!                      reading of N messages   batches: prepare (not counted), then `counted` does 64 steps
//!                      reading of 2 N          the same; the difference is N messages and nothing else
//! ```
//!
//! callgrind is told to collect inside of [`counted`] only, and to dump before [`end_of_reading`]; it tells
//! them by their names, so neither is inlined. This program prints one line per path, with what was counted
//! and N; the script takes the dumps in that order. Both ends of a service live in one node and on one
//! thread; the other threads of the node are never inside of `counted`.

use std::hint::black_box;
use std::time::Duration;

use hivemind::{Message, Node, Publisher, SendError, Subscriber};
use hivemind_benches::message::{Manifest, Reading};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::Arena;
use rkyv::ser::writer::Buffer;
use rkyv::util::Align;
use tempfile::TempDir;

type Failed = Box<dyn std::error::Error>;
type Outcome = Result<(), Failed>;

/// Steps within one call of `counted`; less than a ring holds, so a reliable one is never full.
const BATCH: u64 = 64;
/// Slots of every ring: the default. Whatever happens once in a round of the ring happens in every reading.
const SLOTS: u64 = 256;
/// Batches before the first reading, after which a ring has all the memory that it will need.
const TO_SETTLE: u64 = 4 * SLOTS / BATCH;
/// Batches of a reading: whole rounds of the ring.
const BATCHES: u64 = 8 * SLOTS / BATCH;
/// Subscribers for which a message must cost what it costs for one.
const MANY: usize = 64;
/// Bytes of a message that travels in a chunk.
const CHUNK: usize = 4 << 10;
/// Room for the archive of a [`Manifest`].
const ROOM: usize = 16 << 10;
/// How long an attachment within this process may take; valgrind is slow.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Outcome {
    let hive = Hive::start()?;
    send(&hive)?;
    receive(&hive)?;
    send_and_receive(&hive)?;
    loan_and_receive(&hive)?;
    archive(&hive)
}

// ---- the paths ----

/// Lossy: the subscribers are attached and do not read, so the publisher goes round and round. Reliable: they
/// read in between.
fn send(hive: &Hive) -> Outcome {
    for (name, readers, reliable) in [
        ("send 56 B, no subscriber", 0, false),
        ("send 56 B, 1 subscriber", 1, false),
        ("send 56 B, 64 subscribers", MANY, false),
        ("send 56 B, 1 subscriber, reliable", 1, true),
    ] {
        let (mut publisher, mut subscribers) = hive.service::<Reading>(reliable, readers)?;
        path(
            name,
            || if reliable { subscribers.iter_mut().try_for_each(drain) } else { Ok(()) },
            |step| sent(&publisher.send(black_box(&Reading::numbered(step))), readers),
        )?;
    }
    let (mut publisher, _subscribers) = hive.service::<Reading>(false, 1)?;
    let messages = [Reading::numbered(1); 4];
    path(
        "send_many, 4 x 56 B, 1 subscriber",
        || Ok(()),
        |_| matches!(publisher.send_many(black_box(&messages)), Ok(4)),
    )
}

fn receive(hive: &Hive) -> Outcome {
    let (mut publisher, mut subscribers) = hive.service::<Reading>(false, 1)?;
    let subscriber = &mut subscribers[0];
    path(
        "try_recv 56 B",
        || (0..BATCH).try_for_each(|step| Ok(publisher.send(&Reading::numbered(step)).map(drop)?)),
        |step| matches!(subscriber.try_recv(), Ok(Some(sample)) if sample.sequence.to_native() == step),
    )?;
    path("try_recv, nothing there", || Ok(()), |_| matches!(subscriber.try_recv(), Ok(None)))?;
    path(
        "drain 56 B",
        || (0..BATCH).try_for_each(|step| Ok(publisher.send(&Reading::numbered(step)).map(drop)?)),
        |step| matches!(subscriber.drain().next(), Some(Ok(sample)) if sample.sequence.to_native() == step),
    )
}

fn send_and_receive(hive: &Hive) -> Outcome {
    for (name, reliable) in [("send and try_recv 56 B", false), ("send and try_recv 56 B, reliable", true)] {
        let (mut publisher, mut subscribers) = hive.service::<Reading>(reliable, 1)?;
        let subscriber = &mut subscribers[0];
        path(
            name,
            || Ok(()),
            |step| {
                sent(&publisher.send(black_box(&Reading::numbered(step))), 1)
                    && matches!(subscriber.try_recv(), Ok(Some(sample)) if sample.sequence.to_native() == step)
            },
        )?;
    }
    Ok(())
}

/// Of the loan only the first byte is written and read: what is counted is the loan, the pin and its release.
fn loan_and_receive(hive: &Hive) -> Outcome {
    for (name, reliable) in [
        ("loan, send, try_recv and drop 4 KiB", false),
        ("loan, send, try_recv and drop 4 KiB, reliable", true),
    ] {
        let (mut publisher, mut subscribers) = hive.service::<[u8]>(reliable, 1)?;
        let subscriber = &mut subscribers[0];
        path(
            name,
            || Ok(()),
            |step| {
                let Ok(mut loan) = publisher.loan(black_box(CHUNK)) else { return false };
                loan[0] = step as u8;
                loan.send();
                matches!(subscriber.try_recv(), Ok(Some(sample)) if sample[0] == step as u8)
            },
        )?;
    }
    Ok(())
}

/// What hivemind adds to rkyv shows in the first two figures: the same archive into a buffer that is ready,
/// and sent.
fn archive(hive: &Hive) -> Outcome {
    let manifest = Manifest::numbered(1);
    let mut buffer = Align([0; ROOM]);
    let mut arena = Arena::new();
    path(
        "rkyv alone, 100 strings into a ready buffer",
        || Ok(()),
        |_| {
            let writer = Buffer::from(&mut buffer.0);
            rkyv::api::low::to_bytes_in_with_alloc::<_, _, Failure>(
                black_box(&manifest),
                writer,
                arena.acquire(),
            )
            .is_ok_and(|archive| black_box(archive.len()) > 0)
        },
    )?;
    for (name, reliable) in
        [("send 100 strings, 1 subscriber", false), ("send 100 strings, 1 subscriber, reliable", true)]
    {
        let (mut publisher, mut subscribers) = hive.service::<Manifest>(reliable, 1)?;
        let subscriber = &mut subscribers[0];
        path(
            name,
            || if reliable { drain(subscriber) } else { Ok(()) },
            |_| sent(&publisher.send(black_box(&manifest)), 1),
        )?;
    }
    Ok(())
}

#[inline]
fn sent(reached: &Result<usize, SendError>, wanted: usize) -> bool {
    matches!(reached, Ok(reached) if *reached == wanted)
}

fn drain<T: Message + ?Sized>(subscriber: &mut Subscriber<T>) -> Outcome {
    // Bounded: nobody sends meanwhile.
    while subscriber.try_recv()?.is_some() {}
    Ok(())
}

// ---- how they are counted ----

/// Settles, then takes the two readings. `step` gets its number within the batch, and says whether all came
/// as it must: so no work can be left out, and little is counted that is not hivemind's.
fn path(name: &str, mut prepare: impl FnMut() -> Outcome, mut step: impl FnMut(u64) -> bool) -> Outcome {
    for batches in [TO_SETTLE, BATCHES, 2 * BATCHES] {
        for _ in 0..batches {
            prepare()?;
            if !counted(&mut step) {
                return Err(
                    format!("{name}: a message was refused, lost, or not the one that was sent").into()
                );
            }
        }
        end_of_reading();
    }
    println!("{}\t{name}", BATCHES * BATCH);
    Ok(())
}

/// callgrind collects in here, and nowhere else.
#[inline(never)]
fn counted(step: &mut impl FnMut(u64) -> bool) -> bool {
    (0..BATCH).all(step)
}

/// Before this callgrind writes down what it collected, and begins anew.
#[inline(never)]
fn end_of_reading() {
    black_box(());
}

/// A hive with one node, in a directory that goes with it.
struct Hive {
    node: Node,
    _dir: TempDir,
}

impl Hive {
    fn start() -> Result<Hive, Failed> {
        let dir = tempfile::tempdir()?;
        let node = Node::builder("counts").hive("counts").dir(dir.path()).patience(PATIENCE).join()?;
        Ok(Hive { node, _dir: dir })
    }

    /// Both ends of one service, attached to each other.
    fn service<T: Message + ?Sized>(
        &self,
        reliable: bool,
        readers: usize,
    ) -> Result<(Publisher<T>, Vec<Subscriber<T>>), Failed> {
        let builder = self.node.publisher_builder::<T>("counts/one").capacity(SLOTS);
        let publisher = if reliable { builder.reliable() } else { builder }.create()?;
        let subscribers =
            (0..readers).map(|_| self.node.subscriber::<T>("counts/one")).collect::<Result<Vec<_>, _>>()?;
        publisher.wait_for_subscribers(readers, PATIENCE)?;
        for subscriber in &subscribers {
            subscriber.wait_for_publishers(1, PATIENCE)?;
        }
        Ok((publisher, subscribers))
    }
}
