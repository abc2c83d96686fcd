//! What one step of the hot path costs in one process, without the other core: the question of each bench is its name.
//!
//! These figures are for finding regressions. What a message costs between two processes, beside the floor of the
//! machine, is the harness's question: `cargo run --release -p hivemind-benches --bin harness`.

// criterion's macro expands to a public function without documentation.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hivemind::{Node, Publisher, Sample, Subscriber};
use hivemind_benches::message::{Block, Reading};
use tempfile::TempDir;

/// Slots of every ring here.
const SLOTS: u64 = 64;
/// Messages under one reading of the clock where the other half of the work must not be timed.
const BATCH: u64 = SLOTS;
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

    fn typed_pair(&self) -> (Publisher<Reading>, Subscriber<Reading>) {
        let publisher =
            self.node.publisher_builder::<Reading>("bench/typed").capacity(SLOTS).create().unwrap();
        let subscriber = self.node.subscriber::<Reading>("bench/typed").unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        (publisher, subscriber)
    }

    fn block_pair(&self) -> (Publisher<Block>, Subscriber<Block>) {
        let publisher = self.node.publisher_builder::<Block>("bench/block").capacity(SLOTS).create().unwrap();
        let subscriber = self.node.subscriber::<Block>("bench/block").unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        (publisher, subscriber)
    }

    fn bytes_pair(&self, length: usize) -> (Publisher<[u8]>, Subscriber<[u8]>) {
        let publisher = self
            .node
            .publisher_builder::<[u8]>("bench/bytes")
            .capacity(SLOTS)
            .max_message(length as u64)
            .create()
            .unwrap();
        let subscriber = self.node.subscriber::<[u8]>("bench/bytes").unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        (publisher, subscriber)
    }
}

// A subscriber is attached and does not read: the ring is lossy, so the publisher goes round and round.
fn archive_and_send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("archive_and_send");
    group.throughput(Throughput::Elements(1));
    group.bench_function("56_bytes_in_the_slot", |bencher| {
        let hive = Hive::start();
        let (mut publisher, _subscriber) = hive.typed_pair();
        let mut sequence = 0;
        bencher.iter(|| {
            sequence += 1;
            publisher.send(black_box(&Reading::numbered(sequence))).unwrap()
        });
    });
    group.bench_function("4_KiB_in_a_chunk", |bencher| {
        let hive = Hive::start();
        let (mut publisher, _subscriber) = hive.block_pair();
        let block = Block::numbered(1);
        bencher.iter(|| publisher.send(black_box(&block)).unwrap());
    });
    group.finish();
}

// The memory of the loan is not written, except for its first byte: what is measured is the loan.
fn loan_and_send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loan_and_send");
    group.throughput(Throughput::Elements(1));
    for (name, length) in [("64_bytes", 64), ("4_KiB", 4 << 10), ("1_MiB", 1 << 20)] {
        group.bench_function(name, |bencher| {
            let hive = Hive::start();
            let (mut publisher, _subscriber) = hive.bytes_pair(length);
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
    group.bench_function("56_bytes_from_the_slot", |bencher| {
        let hive = Hive::start();
        let (mut publisher, mut subscriber) = hive.typed_pair();
        bencher.iter_custom(|messages| {
            time_of_receiving(
                messages,
                || {
                    publisher.send(&Reading::numbered(1)).unwrap();
                },
                || assert_eq!(subscriber.try_recv().unwrap().unwrap().sequence.to_native(), 1),
            )
        });
    });
    group.bench_function("nothing_there", |bencher| {
        let hive = Hive::start();
        let (_publisher, mut subscriber) = hive.typed_pair();
        bencher.iter(|| assert!(black_box(subscriber.try_recv().unwrap()).is_none()));
    });
    group.bench_function("pin_and_release_4_KiB", |bencher| {
        let hive = Hive::start();
        let (mut publisher, mut subscriber) = hive.bytes_pair(4 << 10);
        bencher.iter_custom(|messages| {
            time_of_receiving(
                messages,
                || {
                    publisher.loan(4 << 10).unwrap().send();
                },
                || {
                    let sample: Sample<[u8]> = subscriber.try_recv().unwrap().unwrap();
                    black_box(sample.len());
                },
            )
        });
    });
    group.finish();
}

fn send_and_receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send_and_receive");
    group.throughput(Throughput::Elements(1));
    group.bench_function("56_bytes_on_one_core", |bencher| {
        let hive = Hive::start();
        let (mut publisher, mut subscriber) = hive.typed_pair();
        let mut sequence = 0;
        bencher.iter(|| {
            sequence += 1;
            publisher.send(&Reading::numbered(sequence)).unwrap();
            assert_eq!(subscriber.try_recv().unwrap().unwrap().sequence.to_native(), sequence);
        });
    });
    group.finish();
}

// A subscriber is made, matched, attached, and dropped again: four messages over the socket of the root and two mappings.
fn attach(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attach");
    group.bench_function("subscriber_to_a_live_publisher", |bencher| {
        let hive = Hive::start();
        let _publisher = hive.node.publisher::<Reading>("bench/typed").unwrap();
        bencher.iter(|| {
            let subscriber = hive.node.subscriber::<Reading>("bench/typed").unwrap();
            subscriber.wait_for_publishers(1, PATIENCE).unwrap();
        });
    });
    group.finish();
}

criterion_group!(hot_path, archive_and_send, loan_and_send, receive, send_and_receive, attach);
criterion_main!(hot_path);
