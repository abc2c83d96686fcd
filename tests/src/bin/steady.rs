//! One end of a connection in its steady state, to be looked at from outside: see `tests/steady_state.rs`.
//!
//! ```text
//! attach, warm up ── "ready" ──▶ test
//!                 ◀── "go" ──── test, which traces this process by now
//! getppid · messages, spinning · getppid        what the allocator did in between is counted here
//!                 ── {"allocations": 0, …} ──▶ test
//! ```

use clap::{Parser, ValueEnum};
use hivemind::{Message, Node, Publisher, SendError, Subscriber};
use hivemind_tests::BOUND;
use hivemind_tests::entry::{Entry, Reading, scatter};
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::collections::VecDeque;
use std::io::Write;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SERVICE: &str = "steady/state";
/// Messages until everything has its place: several times around the ring.
const WARM_UP: u64 = 5_000;
/// Payloads of messages in chunks, in turn.
const LENGTHS: [usize; 4] = [100, 500, 1_000, 4_096];
/// Payloads while it warms up: any up to this, so that memory is taken and divided as it will never be again.
const WARM_UP_LENGTH_MAX: u64 = 10_000;
/// Samples that the subscriber holds while it warms up, so that the publisher has to work around some.
const WARM_UP_HELD: usize = 32;

#[derive(Parser)]
struct Arguments {
    end: End,
    form: Form,
    /// Lose nothing.
    #[arg(long)]
    reliable: bool,
    /// Messages that are looked at.
    #[arg(long)]
    messages: u64,
    /// Allocate once and make one system call meanwhile, so that the test can see that it sees it.
    #[arg(long)]
    disturb: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum End {
    Publisher,
    Subscriber,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// Typed, in the slot.
    Small,
    /// Typed, in chunks.
    Large,
    /// Bytes, filled in place.
    Loan,
}

#[derive(Serialize)]
struct Counts {
    allocations: usize,
    reallocations: usize,
    deallocations: usize,
    messages: u64,
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.end {
        End::Publisher => publish(&arguments),
        End::Subscriber => subscribe(&arguments),
    }
}

/// Does `work` when told to, between two marks, and says what the allocator did meanwhile.
fn look_at(arguments: &Arguments, work: impl FnOnce() -> u64) {
    println!("ready");
    std::io::stdout().flush().expect("the test listens");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the test says go");
    nix::unistd::getppid();
    let before = GLOBAL.stats();
    let messages = work();
    if arguments.disturb {
        drop(std::hint::black_box(Box::new(nix::unistd::getpid())));
    }
    let after = GLOBAL.stats();
    nix::unistd::getppid();
    let counts = Counts {
        allocations: after.allocations - before.allocations,
        reallocations: after.reallocations - before.reallocations,
        deallocations: after.deallocations - before.deallocations,
        messages,
    };
    println!("{}", serde_json::to_string(&counts).expect("plain data"));
    // Until the other end is done, too.
    let _ = std::io::stdin().read_line(&mut line);
}

fn length_of(number: u64) -> usize {
    match number {
        0..WARM_UP => 8 + (scatter(number) % WARM_UP_LENGTH_MAX) as usize,
        _ => LENGTHS[number as usize % LENGTHS.len()],
    }
}

fn publish(arguments: &Arguments) {
    let node = Node::builder("publisher").patience(BOUND).join().expect("the hive is ours");
    match arguments.form {
        Form::Small => stream::<Reading>(arguments, &node, |publisher, number| {
            publisher.send(&Reading { celsius: number as f64 }).map(drop)
        }),
        Form::Large => {
            // Made beforehand: making them is not what is looked at.
            let mut entries = LENGTHS.map(|length| Entry { payload: vec![7; length], ..Entry::empty() });
            stream::<Entry>(arguments, &node, |publisher, number| {
                let entry = &mut entries[number as usize % LENGTHS.len()];
                entry.number = number;
                entry.payload.resize(length_of(number), 7);
                publisher.send(entry).map(drop)
            });
        }
        Form::Loan => stream::<[u8]>(arguments, &node, |publisher, number| {
            let mut loan = publisher.loan(length_of(number))?;
            loan[..8].copy_from_slice(&number.to_le_bytes());
            loan.send();
            Ok(())
        }),
    }
}

fn stream<T: Message + ?Sized>(
    arguments: &Arguments,
    node: &Node,
    mut send: impl FnMut(&mut Publisher<T>, u64) -> Result<(), SendError>,
) {
    let mut builder = node.publisher_builder::<T>(SERVICE);
    if arguments.reliable {
        builder = builder.reliable();
    }
    let mut publisher = builder.create().expect("nobody else uses the service");
    publisher.wait_for_subscribers(1, BOUND).expect("it was started");
    let mut send_spinning = |number| {
        loop {
            match send(&mut publisher, number) {
                Ok(()) => return,
                Err(SendError::Full { .. }) => std::hint::spin_loop(),
                Err(error) => panic!("message {number}: {error}"),
            }
        }
    };
    (0..WARM_UP).for_each(&mut send_spinning);
    look_at(arguments, || {
        (WARM_UP..WARM_UP + arguments.messages).for_each(&mut send_spinning);
        arguments.messages
    });
}

fn subscribe(arguments: &Arguments) {
    let node = Node::builder("subscriber").patience(BOUND).join().expect("the hive is ours");
    match arguments.form {
        Form::Small => receive::<Reading>(
            arguments,
            node.subscriber(SERVICE).expect("it has this type"),
            |sample, number| {
                assert!(sample.celsius == number as f64);
            },
        ),
        Form::Large => receive::<Entry>(
            arguments,
            node.subscriber(SERVICE).expect("it has this type"),
            |sample, number| {
                assert_eq!((sample.number.to_native(), sample.payload.len()), (number, length_of(number)));
            },
        ),
        Form::Loan => receive::<[u8]>(
            arguments,
            node.subscriber(SERVICE).expect("it has this type"),
            |sample, number| {
                assert_eq!((&sample[..8], sample.len()), (&number.to_le_bytes()[..], length_of(number)));
            },
        ),
    }
}

fn receive<T: Message + ?Sized>(
    arguments: &Arguments,
    mut subscriber: Subscriber<T>,
    look: impl Fn(&T::Read, u64),
) {
    let mut held = VecDeque::with_capacity(WARM_UP_HELD);
    let mut receive_until = |last, hold| {
        let mut received = 0;
        loop {
            match subscriber.try_recv().expect("the publisher is sound") {
                Some(sample) => {
                    look(&sample, sample.sequence());
                    let sequence = sample.sequence();
                    received += 1;
                    held.truncate(hold);
                    if hold > 0 {
                        held.push_front(sample);
                    }
                    // Of a lossy service some may be missing, but never the last.
                    if sequence >= last {
                        held.clear();
                        return received;
                    }
                }
                None => std::hint::spin_loop(),
            }
        }
    };
    receive_until(WARM_UP - 1, WARM_UP_HELD - 1);
    look_at(arguments, || receive_until(WARM_UP + arguments.messages - 1, 0));
}
