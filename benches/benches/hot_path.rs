//! What one step of the hot path costs in one process, without the other core: the question of each bench is
//! its name.
//!
//! These figures are for finding regressions. What a message costs between two processes, beside the floor of
//! the machine, is the harness's question: `cargo run --release -p hivemind-benches --bin harness`.

// criterion's macro expands to a public function without documentation.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hivemind::{Message, Node, Publisher, Subscriber};
use hivemind_benches::message::{Block, Manifest, Reading};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::Arena;
use rkyv::ser::writer::Buffer;
use rkyv::util::Align;
use tempfile::TempDir;

/// Slots of every ring here.
const SLOTS: u64 = 64;
/// Messages under one reading of the clock where the other half of the work must not be timed.
const BATCH: u64 = SLOTS;
/// Messages after which a ring has all the memory that it will need.
const TO_SETTLE: u64 = 4 * SLOTS;
/// Room for the archive of a [`Manifest`].
const ROOM: usize = 16 << 10;
/// How long an attachment within this process may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hive with one node, in a directory that goes with it.
struct Hive {
    node: Node,
    _dir: TempDir,
}

impl Hive {
    fn start() -> Hive {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::builder("bench").hive("bench").dir(dir.path()).join().unwrap();
        Hive { node, _dir: dir }
    }

    /// Both ends of one service, attached to each other.
    fn pair<T: Message + ?Sized>(&self, max_message: u64) -> (Publisher<T>, Subscriber<T>) {
        let publisher = self
            .node
            .publisher_builder::<T>("bench/one")
            .capacity(SLOTS)
            .max_message(max_message)
            .create()
            .unwrap();
        let subscriber = self.node.subscriber::<T>("bench/one").unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        subscriber.wait_for_publishers(1, PATIENCE).unwrap();
        (publisher, subscriber)
    }
}

// A subscriber is attached and does not read: the ring is lossy, so the publisher goes round and round. All
// ends are made before the bench, since criterion calls the bench anew for every sample, and a young ring
// still grows.
fn archive_and_send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("archive_and_send");
    group.throughput(Throughput::Elements(1));
    {
        let hive = Hive::start();
        let (mut publisher, _subscriber) = hive.pair::<Reading>(4096);
        let mut sequence = 0;
        group.bench_function("56_bytes_in_the_slot", |bencher| {
            bencher.iter(|| {
                sequence += 1;
                publisher.send(black_box(&Reading::numbered(sequence))).unwrap()
            });
        });
    }
    let hive = Hive::start();
    let (mut publisher, _subscriber) = hive.pair::<Block>(1 << 20);
    let block = Block::numbered(1);
    for _ in 0..TO_SETTLE {
        publisher.send(&block).unwrap();
    }
    group.bench_function("4_KiB_in_a_chunk", |bencher| {
        bencher.iter(|| publisher.send(black_box(&block)).unwrap());
    });
    group.finish();
}

// The same archive, into a buffer that is ready and stays in the first cache, and sent. The ready buffers of
// the second figure are as many as a ring has slots, one after the other: what it costs beside the first is
// the cache's, what `send` costs beside it is hivemind's.
fn a_hundred_strings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a_hundred_strings");
    group.throughput(Throughput::Elements(1));
    let manifest = Manifest::numbered(1);
    for (name, count) in [("rkyv_into_a_ready_buffer", 1), ("rkyv_into_ready_buffers_in_turn", SLOTS)] {
        let mut buffers = (0..count).map(|_| Align([0; ROOM])).collect::<Vec<_>>();
        let mut arena = Arena::new();
        let mut turn = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % buffers.len();
                let writer = Buffer::from(&mut buffers[turn].0);
                let scratch = arena.acquire();
                rkyv::api::low::to_bytes_in_with_alloc::<_, _, Failure>(black_box(&manifest), writer, scratch)
                    .map(|archive| archive.len())
                    .unwrap()
            });
        });
    }
    let hive = Hive::start();
    let (mut publisher, _subscriber) = hive.pair::<Manifest>(1 << 20);
    for _ in 0..TO_SETTLE {
        publisher.send(&manifest).unwrap();
    }
    group.bench_function("send", |bencher| {
        bencher.iter(|| publisher.send(black_box(&manifest)).unwrap());
    });
    group.finish();
}

// The memory of the loan is not written, except for its first byte: what is measured is the loan.
fn loan_and_send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loan_and_send");
    group.throughput(Throughput::Elements(1));
    for (name, length) in [("64_bytes", 64), ("4_KiB", 4 << 10), ("1_MiB", 1 << 20)] {
        let hive = Hive::start();
        let (mut publisher, _subscriber) = hive.pair::<[u8]>(length as u64);
        for _ in 0..TO_SETTLE {
            publisher.loan(length).unwrap().send();
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut loan = publisher.loan(black_box(length)).unwrap();
                loan[0] = 1;
                loan.send()
            });
        });
    }
    group.finish();
}

/// Times `receive` alone: a ring is filled off the clock, then emptied under one reading of it.
fn time_of_receiving(messages: u64, mut send: impl FnMut(), mut receive: impl FnMut()) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = messages;
    while left > 0 {
        let batch = left.min(BATCH);
        (0..batch).for_each(|_| send());
        let start = Instant::now();
        (0..batch).for_each(|_| receive());
        elapsed += start.elapsed();
        left -= batch;
    }
    elapsed
}

fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive");
    group.throughput(Throughput::Elements(1));
    {
        let hive = Hive::start();
        let (mut publisher, mut subscriber) = hive.pair::<Reading>(4096);
        group.bench_function("56_bytes_from_the_slot", |bencher| {
            bencher.iter_custom(|messages| {
                let send = || {
                    publisher.send(&Reading::numbered(1)).unwrap();
                };
                let receive = || {
                    assert_eq!(subscriber.try_recv().unwrap().unwrap().sequence.to_native(), 1);
                };
                time_of_receiving(messages, send, receive)
            });
        });
        group.bench_function("nothing_there", |bencher| {
            bencher.iter(|| assert!(black_box(subscriber.try_recv().unwrap()).is_none()));
        });
    }
    let hive = Hive::start();
    let (mut publisher, mut subscriber) = hive.pair::<[u8]>(4 << 10);
    group.bench_function("pin_and_release_4_KiB", |bencher| {
        bencher.iter_custom(|messages| {
            let send = || {
                publisher.loan(4 << 10).unwrap().send();
            };
            let receive = || {
                let sample = subscriber.try_recv().unwrap().unwrap();
                black_box(sample.len());
            };
            time_of_receiving(messages, send, receive)
        });
    });
    group.finish();
}

fn send_and_receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send_and_receive");
    group.throughput(Throughput::Elements(1));
    {
        let hive = Hive::start();
        let (mut publisher, mut subscriber) = hive.pair::<Reading>(4096);
        let mut sequence = 0;
        group.bench_function("56_bytes_on_one_core", |bencher| {
            bencher.iter(|| {
                sequence += 1;
                publisher.send(&Reading::numbered(sequence)).unwrap();
                assert_eq!(subscriber.try_recv().unwrap().unwrap().sequence.to_native(), sequence);
            });
        });
    }
    let hive = Hive::start();
    let (mut publisher, mut subscriber) = hive.pair::<[u8]>(4 << 10);
    group.bench_function("4_KiB_on_one_core", |bencher| {
        bencher.iter(|| {
            let mut loan = publisher.loan(black_box(4 << 10)).unwrap();
            loan[0] = 1;
            loan.send();
            assert_eq!(subscriber.try_recv().unwrap().unwrap()[0], 1);
        });
    });
    group.finish();
}

// A subscriber is made, matched, attached, and dropped again: four messages over the socket of the root and
// two mappings.
fn attach(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attach");
    let hive = Hive::start();
    let _publisher = hive.node.publisher::<Reading>("bench/one").unwrap();
    group.bench_function("subscriber_to_a_live_publisher", |bencher| {
        bencher.iter(|| {
            let subscriber = hive.node.subscriber::<Reading>("bench/one").unwrap();
            subscriber.wait_for_publishers(1, PATIENCE).unwrap();
        });
    });
    group.finish();
}

criterion_group!(
    hot_path,
    archive_and_send,
    a_hundred_strings,
    loan_and_send,
    receive,
    send_and_receive,
    attach
);
criterion_main!(hot_path);
