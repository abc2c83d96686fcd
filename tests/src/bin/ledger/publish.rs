//! The publisher's process.

use crate::{Delivery, Form, Job, PATIENCE, SERVICE};
use hivemind::{Node, Publisher, SendError};
use hivemind_tests::entry::{Entry, HEAD, Source};
use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use std::time::Instant;

/// Slots of the ring.
const CAPACITY: u64 = 4096;
/// Room for messages that do not fit into a slot: a full ring of the mix, and the exceptional ones.
const MEMORY: u64 = 64 << 20;
/// A lossy publisher gives its core away after so many messages: nine processes share the cores, and one that
/// never pauses would overwrite most of what the others have not even been scheduled to read.
const BREATH: u64 = 256;

/// What the publisher has done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Messages.
    pub(crate) messages: u64,
    /// Bytes of payload.
    pub(crate) bytes: u64,
    /// Messages that there was no room for at first.
    pub(crate) waits: u64,
    /// From the first message to the last.
    pub(crate) seconds: f64,
}

pub(crate) fn run(job: &Job, subscribers: usize) -> ExitCode {
    let node = Node::builder("publisher").patience(PATIENCE).join().expect("the hive is ours");
    let published = match job.form {
        Form::Typed => {
            let mut entry = Entry::empty();
            publish::<Entry>(job, subscribers, &node, |publisher, source, number, length| {
                if entry.number != number || entry.payload.is_empty() {
                    source.fill(number, length, &mut entry);
                }
                publisher.send(&entry).map(drop)
            })
        }
        Form::Bytes => publish::<[u8]>(job, subscribers, &node, |publisher, source, number, length| {
            let mut loan = publisher.loan(HEAD + length)?;
            source.write(number, &mut loan);
            loan.send();
            Ok(())
        }),
    };
    println!("{}", serde_json::to_string(&published).expect("plain data"));
    ExitCode::SUCCESS
}

fn publish<T: hivemind::Message + ?Sized>(
    job: &Job,
    subscribers: usize,
    node: &Node,
    mut send: impl FnMut(&mut Publisher<T>, &Source, u64, usize) -> Result<(), SendError>,
) -> Published {
    let mut builder = node.publisher_builder::<T>(SERVICE).capacity(CAPACITY).max_memory(MEMORY);
    if job.delivery == Delivery::Reliable {
        builder = builder.reliable();
    }
    let mut publisher = builder.create().expect("nobody else uses the service");
    publisher.wait_for_subscribers(subscribers, PATIENCE).expect("they are started beside us");
    let source = Source::new(job.seed);
    let (mut bytes, mut waits) = (0, 0);
    let start = Instant::now();
    for number in 0..job.messages {
        let length = job.length.unwrap_or_else(|| source.mixed_length(number));
        bytes += length as u64;
        let mut waiting = None;
        loop {
            match send(&mut publisher, &source, number, length) {
                Ok(()) => break,
                Err(SendError::Full { .. } | SendError::MemoryOut { .. }) => {
                    let since = *waiting.get_or_insert_with(|| {
                        waits += 1;
                        Instant::now()
                    });
                    assert!(since.elapsed() < PATIENCE, "no room for message {number} in {PATIENCE:?}");
                    std::thread::yield_now();
                }
                Err(error) => panic!("message {number}: {error}"),
            }
        }
        if job.delivery == Delivery::Lossy && number % BREATH == BREATH - 1 {
            std::thread::yield_now();
        }
    }
    Published { messages: publisher.published(), bytes, waits, seconds: start.elapsed().as_secs_f64() }
}
