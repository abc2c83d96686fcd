//! What the processes of a campaign do: this program again, told in one JSON text.
//!
//! Every message says whose it is: the first 8 bytes of its payload are the number of its sender's life, so a
//! message of a former life or of somebody else's ring is noticed though its checksum holds.

use super::page::{Page, Word};
use crate::BOUND;
use crate::entry::{ArchivedEntry, Checked, Entry, HEAD, checksum, scatter};
use hivemind::{Message, Node, Publisher, SendError};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Nobody lives longer than so many messages; it only keeps a mistake of the harness from filling the
/// machine.
const MESSAGES_MAX: u64 = 100_000_000;

/// What a process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Part {
    /// It publishes until it is killed.
    Publisher(PublisherPart),
    /// It subscribes and holds samples until it is killed.
    Subscriber(SubscriberPart),
    /// It does what its standard input says.
    Actor,
    /// It is the first process of a namespace, where it may say which process-id comes next; see
    /// [`super::judgement`].
    Reuse {
        /// So often.
        rounds: u64,
    },
}

/// How to publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublisherPart {
    /// The runtime directory.
    pub folder: PathBuf,
    /// The name of the node.
    pub name: String,
    /// The service.
    pub service: String,
    /// Typed messages; else plain bytes, filled in place.
    pub typed: bool,
    /// Lose nothing.
    pub reliable: bool,
    /// Slots.
    pub capacity: u64,
    /// Bytes of each payload, at least 8.
    pub length: usize,
    /// Messages between two entries in the page.
    pub batch: u64,
    /// The number of this life.
    pub life: u64,
    /// Where its page is.
    pub page: PathBuf,
}

/// How to subscribe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubscriberPart {
    /// The runtime directory.
    pub folder: PathBuf,
    /// The name of the node.
    pub name: String,
    /// The service.
    pub service: String,
    /// Samples to hold.
    pub hold: usize,
    /// Go on receiving, each new sample taking the place of the oldest; else stand still with those that are
    /// held.
    pub receive_on: bool,
    /// Where its page is. Stage 1: it holds that many.
    pub page: PathBuf,
}

/// Starts a process with a part.
///
/// # Panics
/// If the machine does not let us.
pub fn start(program: &Path, part: &Part) -> Child {
    let part = serde_json::to_string(part).expect("a part is plain data");
    let mut command = Command::new(program);
    command.arg("--part").arg(part).stdin(Stdio::null()).stdout(Stdio::null());
    // What a victim says when something does not work is a line; where it stood is of no use to anybody.
    command.env("RUST_BACKTRACE", "0");
    // Ctrl-C is for the harness, which says what it has reached.
    command.process_group(0);
    command.spawn().expect("the machine starts one more process")
}

/// Kills a process with SIGKILL and waits until the kernel says that it is dead. It stays a zombie until it
/// is waited for.
///
/// # Panics
/// If it is not ours.
pub fn kill(process: &mut Child) {
    process.kill().expect("it is ours");
    let whom = Id::Pid(Pid::from_raw(process.id().cast_signed()));
    // An error: it has ended on its own and was waited for.
    let _ = waitid(whom, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
}

/// Publishes until it is killed.
pub(super) fn publish(part: &PublisherPart) {
    if part.typed {
        let mut entry = Entry::empty();
        publish_with::<Entry>(part, |publisher, number| {
            entry.payload.resize(part.length, 0);
            fill(part.life, number, &mut entry.payload);
            entry.number = number;
            entry.length = part.length as u64;
            entry.checksum = checksum(number, &entry.payload);
            publisher.send_timeout(&entry, BOUND).map(drop)
        });
    } else {
        publish_with::<[u8]>(part, |publisher, number| {
            let mut loan = loan(publisher, HEAD + part.length)?;
            compose(part.life, number, &mut loan);
            loan.send();
            Ok(())
        });
    }
}

fn publish_with<T: Message + ?Sized>(
    part: &PublisherPart,
    mut send: impl FnMut(&mut Publisher<T>, u64) -> Result<(), SendError>,
) {
    let page = Page::open(&part.page);
    let node = Node::builder(&part.name).dir(&part.folder).patience(BOUND).join();
    let node = node.unwrap_or_else(|error| panic!("life {}: {error}", part.life));
    page.write(Word::Node, node.epoch());
    let mut builder = node.publisher_builder::<T>(&part.service).capacity(part.capacity);
    if part.reliable {
        builder = builder.reliable();
    }
    let mut publisher = builder.create().unwrap_or_else(|error| panic!("life {}: {error}", part.life));
    page.write(Word::Stage, 1);
    publisher.wait_for_subscribers(1, BOUND).expect("the harness subscribes");
    page.write(Word::Stage, 2);
    let mut number = 0;
    while number < MESSAGES_MAX {
        page.write(Word::Begun, number + part.batch);
        for _ in 0..part.batch {
            send(&mut publisher, number)
                .unwrap_or_else(|error| panic!("life {} #{number}: {error}", part.life));
            number += 1;
        }
        page.write(Word::Done, number);
    }
}

/// A loan; on a reliable service it is waited for. `loan` itself never waits.
fn loan(publisher: &mut Publisher<[u8]>, bytes: usize) -> Result<hivemind::Loan<'_>, SendError> {
    let begun = std::time::Instant::now();
    // Bounded by the clock; the borrow of a loan that is returned keeps this from being one loop with
    // `match`.
    loop {
        match publisher.loan(bytes).map(drop) {
            Ok(()) => return publisher.loan(bytes),
            Err(SendError::Full { .. }) if begun.elapsed() < BOUND => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
}

/// Makes message `number` of a life in the form of plain bytes.
pub fn compose(life: u64, number: u64, place: &mut [u8]) {
    let (head, payload) = place.split_at_mut(HEAD);
    fill(life, number, payload);
    head[..8].copy_from_slice(&number.to_le_bytes());
    head[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    head[16..].copy_from_slice(&checksum(number, payload).to_le_bytes());
}

/// Whose it is, and then anything that no other message has.
fn fill(life: u64, number: u64, payload: &mut [u8]) {
    let start = scatter(life ^ scatter(number));
    for (place, word) in payload.chunks_mut(8).enumerate() {
        let value = if place == 0 { life } else { start.wrapping_mul(2 * place as u64 + 1) };
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}

/// A message that says whose it is.
pub trait Owned: Checked {
    /// The number of the life that sent it; `None` if it is too short to say.
    fn life(&self) -> Option<u64>;
}

impl Owned for [u8] {
    fn life(&self) -> Option<u64> {
        self.get(HEAD..).and_then(first_word)
    }
}

impl Owned for ArchivedEntry {
    fn life(&self) -> Option<u64> {
        first_word(&self.payload)
    }
}

fn first_word(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Subscribes and holds samples until it is killed.
pub(super) fn subscribe(part: &SubscriberPart) {
    let page = Page::open(&part.page);
    let node = Node::builder(&part.name).dir(&part.folder).patience(BOUND).join();
    let node = node.unwrap_or_else(|error| panic!("{}: {error}", part.name));
    page.write(Word::Node, node.epoch());
    let mut subscriber =
        node.subscriber::<[u8]>(&part.service).unwrap_or_else(|error| panic!("{}: {error}", part.name));
    let mut held = VecDeque::with_capacity(part.hold);
    let mut received = 0;
    while received < MESSAGES_MAX {
        let sample = subscriber.recv_timeout(BOUND).expect("the publisher is sound");
        let sample = sample.expect("the harness publishes all the time");
        sample.check(sample.sequence()).expect("nothing is torn");
        received += 1;
        if held.len() == part.hold {
            held.pop_front();
        }
        held.push_back(sample);
        if held.len() == part.hold {
            page.write(Word::Stage, 1);
            if !part.receive_on {
                // Until it is killed; the bound is the life of the harness.
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_whose_it_is_and_passes_its_check() {
        for length in [8, 24, 100, 4096] {
            let mut bytes = vec![0; HEAD + length];
            compose(77, 5, &mut bytes);
            assert_eq!((bytes.check(5), bytes[..].life()), (Ok(length), Some(77)));
            bytes[HEAD] ^= 1;
            assert!(bytes.check(5).is_err());
        }
        assert_eq!([0u8; HEAD + 7][..].life(), None);
    }
}
