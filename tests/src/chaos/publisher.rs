//! A publisher dies at a random instant, and starts again at once under its name.
//!
//! ```text
//! lane    life n: exec ─ join ─ publish ─ attach ─ messages … ✗ SIGKILL
//!         life n+1:                                           exec ─ join (same name) ─ …
//! observer (in the harness): receives from both, until the connection with life n has ended ▸ ledger
//! ```
//! Each lane has a victim and a subscriber of its own that lives as long as the case; all share one hive,
//! whose root is in the harness. A quarter of the kills count from the start of the process, the others from
//! its first message. The next life starts when the kernel says that its predecessor is dead; every other one
//! while it is still a zombie.

use super::Rounds;
use super::ledger::{Committed, Faults, Said};
use super::page::{Page, Word};
use super::report::Row;
use super::victim::{Owned, Part, PublisherPart, kill, start};
use crate::account::Account;
use crate::entry::Entry;
use crate::{BOUND, hive::Hive};
use hivemind::{ConnectionStatus, Message, Node, Subscriber};
use std::collections::HashMap;
use std::process::Child;
use std::time::{Duration, Instant};

/// Victims at a time.
const LANES: u64 = 2;
/// Start, join, publish and attach take about half of this.
const LATEST_FROM_START_US: u64 = 8_000;
/// Delays from the first message on are spread over this many octaves of a microsecond.
const OCTAVES: u64 = 11;
/// Longest time for a connection to be seen or to end. Generous, and far shorter than [`BOUND`], so that a
/// fault costs no minute.
const END_BOUND: Duration = Duration::from_secs(10);
/// Messages taken between two looks at the clock, and batches in the page.
const LOOK_EVERY: u64 = 16;
/// Payloads: two that fit into a slot, and others in chunks.
const LENGTHS: [usize; 5] = [8, 16, 100, 1000, 4000];

/// Runs the case.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    let hive = Hive::new("");
    let node = hive.node("observer").join().expect("a hive of its own");
    let mut row = Row::new("publisher");
    row.timed = "from SIGKILL to the first message of the next life under the same name";
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let (hive, node, rounds) = (&hive, &node, &*rounds);
                scope.spawn(move || {
                    if lane % 2 == 0 {
                        Lane::<[u8]>::new(rounds, hive, node, lane, false).run()
                    } else {
                        Lane::<Entry>::new(rounds, hive, node, lane, true).run()
                    }
                })
            })
            .collect();
        for lane in lanes {
            match lane.join() {
                Ok(lane) => row.add(lane),
                Err(panic) => row.faults.fail(format!("a lane ended: {}", super::said(&*panic))),
            }
        }
    });
    row
}

/// A victim that runs.
struct Life {
    number: u64,
    reliable: bool,
    process: Child,
    page: Page,
}

struct Lane<'a, T: Message + ?Sized> {
    rounds: &'a Rounds<'a>,
    hive: &'a Hive,
    lane: u64,
    typed: bool,
    subscriber: Subscriber<T>,
    /// Of each life of the node that was heard of and not judged yet.
    books: HashMap<u64, Book>,
    row: Row,
}

/// What came from one life.
struct Book {
    account: Account,
    /// The lives that the messages name; more than one is a fault.
    life: u64,
    foreign: u64,
}

impl<'a, T> Lane<'a, T>
where
    T: Message + ?Sized,
    T::Read: Owned,
{
    fn new(rounds: &'a Rounds<'a>, hive: &'a Hive, node: &Node, lane: u64, typed: bool) -> Self {
        let subscriber = node.subscriber::<T>(&format!("lane-{lane}/*")).expect("the root is here");
        Lane { rounds, hive, lane, typed, subscriber, books: HashMap::new(), row: Row::new("publisher") }
    }

    fn run(mut self) -> Row {
        let (mut before, mut killed) = (None::<Life>, None::<Instant>);
        for number in (self.lane..).step_by(LANES as usize) {
            if !self.rounds.goes_on(number) {
                break;
            }
            let choose = |purpose| self.rounds.choice(number, purpose);
            // Its predecessor is a zombie, or gone for good.
            if choose(0).is_multiple_of(2)
                && let Some(dead) = &mut before
            {
                dead.process.wait().expect("it is ours");
            }
            let mut life = self.start(number);
            let begun = Instant::now();
            if let Some(dead) = before.take() {
                self.judge(dead);
            }
            if choose(1).is_multiple_of(4) {
                let delay = Duration::from_micros(choose(2) % LATEST_FROM_START_US);
                self.receive_until(begun + delay);
            } else {
                self.await_first(&mut life);
                if let Some(killed) = killed {
                    self.row.times.push(killed.elapsed());
                }
                let delay = choose(2) % (1 << (choose(3) % OCTAVES));
                self.receive_until(Instant::now() + Duration::from_micros(delay));
            }
            // Only a victim that was heard of makes the next one's time a recovery.
            killed = Some(Instant::now());
            kill(&mut life.process);
            self.row.reached += 1;
            before = Some(life);
        }
        if let Some(dead) = before.take() {
            self.judge(dead);
        }
        // Whatever came and belongs to no life was made up.
        let strangers: u64 = self.books.values().map(|book| book.account.received).sum();
        if strangers > 0 {
            self.row.faults.invented += strangers;
            self.row.faults.tell(format!("lane {}: {strangers} messages of no known life", self.lane));
        }
        self.row
    }

    fn start(&self, number: u64) -> Life {
        let choose = |purpose| self.rounds.choice(number, purpose);
        let page = Page::create();
        let reliable = choose(4).is_multiple_of(2);
        let kind = if reliable { "reliable" } else { "lossy" };
        let part = Part::Publisher(PublisherPart {
            folder: self.hive.folder().to_owned(),
            name: format!("victim-{}", self.lane),
            service: format!("lane-{}/{kind}", self.lane),
            typed: self.typed,
            reliable,
            capacity: [4, 16, 64, 256][choose(5) as usize % 4],
            length: LENGTHS[choose(6) as usize % LENGTHS.len()],
            batch: [1, 1, 4, 64][choose(7) as usize % 4],
            life: number,
            page: page.path(),
        });
        Life { number, reliable, process: start(&self.rounds.campaign.program, &part), page }
    }

    /// Enters one message, if there is one.
    fn take(&mut self) -> bool {
        let sample = match self.subscriber.try_recv() {
            Ok(Some(sample)) => sample,
            Ok(None) => return false,
            Err(error) => {
                self.row.faults.fail(format!("lane {}: {error}", self.lane));
                return false;
            }
        };
        let node = sample.publisher().node;
        let (sequence, life) = (sample.sequence(), sample.life());
        let book = match self.books.entry(node) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let first = status_of(&self.subscriber, node).map_or(sequence, |status| status.first);
                let account = Account::new(first);
                new.insert(Book { account, life: life.unwrap_or(u64::MAX), foreign: 0 })
            }
        };
        book.account.enter(sequence, &*sample);
        book.foreign += u64::from(life != Some(book.life));
        self.row.messages += 1;
        true
    }

    fn receive_until(&mut self, end: Instant) {
        while Instant::now() < end {
            for _ in 0..LOOK_EVERY {
                if !self.take() {
                    std::hint::spin_loop();
                }
            }
        }
    }

    /// Receives until something has come from this life.
    fn await_first(&mut self, life: &mut Life) {
        let begun = Instant::now();
        loop {
            if !self.take() {
                self.yield_core();
            }
            let node = life.page.read(Word::Node);
            if node != 0 && self.books.contains_key(&node) {
                return;
            }
            if let Some(status) = life.process.try_wait().expect("it is ours") {
                self.row.faults.fail(format!("life {} ended on its own: {status}", life.number));
                return;
            }
            if begun.elapsed() > BOUND {
                self.row.faults.fail(format!("nothing came from life {} in {BOUND:?}", life.number));
                return;
            }
        }
    }

    /// The victim of this lane and its neighbour need a core.
    fn yield_core(&mut self) {
        std::thread::yield_now();
    }

    /// Receives what the dead has committed, until its connection has ended, and holds it against its page.
    fn judge(&mut self, mut dead: Life) {
        // If it has died before, on its own, that was told already.
        dead.process.wait().expect("it is ours");
        let node = dead.page.read(Word::Node);
        let committed = Committed { done: dead.page.read(Word::Done), begun: dead.page.read(Word::Begun) };
        let whom = format!("life {} (seed {})", dead.number, self.rounds.campaign.seed);
        let begun = Instant::now();
        loop {
            while self.take() {}
            let status = status_of(&self.subscriber, node);
            match status {
                Some(status) if status.ended => {
                    let book = self.books.remove(&node);
                    close(&mut self.row.faults, &whom, &dead, committed, book, &status);
                    return;
                }
                // It never had a subscriber, so it has sent nothing that anybody could have.
                None if committed.begun == 0 => return,
                _ => {}
            }
            if begun.elapsed() > END_BOUND {
                self.row.faults.lost += committed.done;
                self.row
                    .faults
                    .fail(format!("{whom}: no end came in {END_BOUND:?}: {committed:?}, {status:?}"));
                return;
            }
            self.yield_core();
        }
    }
}

/// Judges a connection that has ended.
fn close(
    faults: &mut Faults,
    whom: &str,
    dead: &Life,
    committed: Committed,
    book: Option<Book>,
    status: &ConnectionStatus,
) {
    let said = Said { first: status.first, received: status.received, lost: status.lost };
    let fresh = || Book { account: Account::new(status.first), life: dead.number, foreign: 0 };
    let book = book.unwrap_or_else(fresh);
    faults.judge(whom, committed, &book.account, said, dead.reliable);
    let foreign = if book.life == dead.number { book.foreign } else { book.account.received };
    if foreign > 0 {
        faults.invented += foreign;
        faults.tell(format!("{whom}: {foreign} messages that it has not sent"));
    }
}

/// Where a subscriber stands with a life of a node.
fn status_of<T: Message + ?Sized>(subscriber: &Subscriber<T>, node: u64) -> Option<ConnectionStatus> {
    subscriber.connections().into_iter().rfind(|status| status.origin.publisher.node == node)
}
