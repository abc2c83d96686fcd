//! A bare ring: one producer, one consumer, slots of a fixed size, one index each. It can be used by nobody
//! who wants to know who is there, which type travels, or what happens when a side dies.
//!
//! ```text
//!   line 0   head: messages written    by the producer
//!   line 1   tail: messages read       by the consumer
//!   slots    each a multiple of a cache line
//! ```
//!
//! | edge    | release           | acquire            | carries                         |
//! | ------- | ----------------- | ------------------ | ------------------------------- |
//! | commit  | `Half::commit`    | `Half::available`  | the bytes of the message        |
//! | consume | `Half::consume`   | `Half::room`       | "my last read of it is done"    |
//!
//! Each side keeps a copy of the other's index and looks again only when the copy says full or empty.

use std::sync::atomic::Ordering::{Acquire, Release};

use rivals_course::case::Task;
use rivals_course::contender::{Contender, Launch, Link, Run, Waits};
use rivals_course::failure::Result;
use rivals_course::message::{Part, SMALL, Seen, fill, read};
use rivals_course::waiting::spin_until;

use crate::mapping::Mapping;

/// Both indices, a line each.
const HEADER: usize = 128;
/// All slots of large messages together fit the second cache of one core.
const LARGE_BYTES: usize = 512 << 10;
/// Of the largest messages there are this many at least, so that both sides work at once.
const FEWEST: usize = 2;
/// Messages under one store of the index in a batch.
const BATCH: u64 = 32;

/// A bare ring of `SLOTS` slots for small messages, and of fewer, larger ones for large messages.
pub(crate) struct Bare<const SLOTS: usize>;

impl<const SLOTS: usize> Contender for Bare<SLOTS> {
    const NAME: &'static str = match SLOTS {
        1024 => "bare ring 1024",
        256 => "bare ring 256",
        _ => panic!("name the ring of this size"),
    };
    type Link = Duplex;

    fn version() -> String {
        "own code".to_owned()
    }

    fn setup() -> &'static str {
        match SLOTS {
            1024 => {
                "one producer, one consumer, 1,024 slots of 64 B in a shared memfd, cached indices; larger messages \
                 in fewer slots, 512 KiB in all and two at least, written and read in place; batches of 32"
            }
            _ => "the same with 256 slots of 64 B, which stay in the first cache; batches of 32",
        }
    }

    fn waits(_: Task) -> Waits {
        Waits::Spins
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::RoundTrip { asleep: true, .. } => Some("polls only"),
            Task::FanOut { .. } => Some("one consumer"),
            Task::ColdStart | Task::Services { .. } => Some("no services"),
            _ if SLOTS == 256 && task.bytes() > SMALL => Some("the same as the ring of 1,024"),
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Duplex> {
        Duplex::parent(run, SLOTS, launch)
    }

    fn peer(run: &Run, offer: &str) -> Result<Duplex> {
        Duplex::peer(run, SLOTS, offer)
    }
}

/// The same ring, with a copy in and a copy out: what a transport that does not lend its memory does at best.
pub(crate) struct Copied;

impl Contender for Copied {
    const NAME: &'static str = "memcpy";
    type Link = Copying;

    fn version() -> String {
        "own code".to_owned()
    }

    fn setup() -> &'static str {
        "the bare ring of 1,024, with one memcpy from the sender's buffer and one to the receiver's"
    }

    fn waits(_: Task) -> Waits {
        Waits::Spins
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::OneWay { batched: true, .. } => Some("the copies are the point, not the calls"),
            _ => Bare::<1024>::refuses(task),
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Copying> {
        Ok(Copying { ring: Duplex::parent(run, 1024, launch)?, buffer: vec![0; run.task.bytes()] })
    }

    fn peer(run: &Run, offer: &str) -> Result<Copying> {
        Ok(Copying { ring: Duplex::peer(run, 1024, offer)?, buffer: vec![0; run.task.bytes()] })
    }
}

/// One side of one ring.
struct Half {
    /// Where the ring begins in the mapping.
    start: usize,
    slots: u64,
    slot_bytes: usize,
    /// This side's index.
    mine: u64,
    /// The other side's, as last seen.
    theirs: u64,
}

impl Half {
    fn bytes(slots: u64, slot_bytes: usize) -> usize {
        HEADER + slots as usize * slot_bytes
    }

    #[inline(always)]
    fn place(&self, number: u64) -> usize {
        self.start + HEADER + (number & (self.slots - 1)) as usize * self.slot_bytes
    }

    /// Waits for room for `count` messages.
    #[inline(always)]
    fn room(&mut self, mapping: &Mapping, count: u64) -> Result<()> {
        if self.mine + count - self.theirs > self.slots {
            let tail = mapping.word(self.start + 64);
            spin_until(
                || {
                    // edge consume
                    self.theirs = tail.load(Acquire);
                    self.mine + count - self.theirs <= self.slots
                },
                "room in the bare ring",
            )?;
        }
        Ok(())
    }

    #[inline(always)]
    fn commit(&mut self, mapping: &Mapping, count: u64) {
        self.mine += count;
        // edge commit
        mapping.word(self.start).store(self.mine, Release);
    }

    /// Waits for a message; how many there are.
    #[inline(always)]
    fn available(&mut self, mapping: &Mapping) -> Result<u64> {
        if self.theirs == self.mine {
            let head = mapping.word(self.start);
            spin_until(
                || {
                    // edge commit
                    self.theirs = head.load(Acquire);
                    self.theirs != self.mine
                },
                "a message in the bare ring",
            )?;
        }
        Ok(self.theirs - self.mine)
    }

    #[inline(always)]
    fn consume(&mut self, mapping: &Mapping, count: u64) {
        self.mine += count;
        // edge consume
        mapping.word(self.start + 64).store(self.mine, Release);
    }
}

/// Both directions of one side.
pub(crate) struct Duplex {
    mapping: Mapping,
    out: Half,
    back: Half,
}

impl Duplex {
    fn parent(run: &Run, slots: usize, launch: &mut dyn Launch) -> Result<Duplex> {
        let (slots, slot_bytes) = Duplex::shape(run, slots);
        let mapping = Mapping::create(2 * Half::bytes(slots, slot_bytes))?;
        launch.launch(&mapping.offer())?;
        Ok(Duplex::over(mapping, slots, slot_bytes, false))
    }

    fn peer(run: &Run, slots: usize, offer: &str) -> Result<Duplex> {
        let (slots, slot_bytes) = Duplex::shape(run, slots);
        Ok(Duplex::over(Mapping::open(offer)?, slots, slot_bytes, true))
    }

    fn shape(run: &Run, slots: usize) -> (u64, usize) {
        let slot_bytes = run.task.bytes().next_multiple_of(64);
        let fitting =
            if slot_bytes == SMALL { slots } else { (LARGE_BYTES / slot_bytes).clamp(FEWEST, slots) };
        (fitting as u64, slot_bytes)
    }

    fn over(mapping: Mapping, slots: u64, slot_bytes: usize, swapped: bool) -> Duplex {
        let half = |start| Half { start, slots, slot_bytes, mine: 0, theirs: 0 };
        let (first, second) = (half(0), half(Half::bytes(slots, slot_bytes)));
        let (out, back) = if swapped { (second, first) } else { (first, second) };
        Duplex { mapping, out, back }
    }
}

impl Link for Duplex {
    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        self.out.room(&self.mapping, 1)?;
        // SAFETY: the consumer has said (edge consume) that it is done with this slot, and reads it again
        // only after the commit below, when the slice is gone.
        fill(unsafe { self.mapping.bytes_mut(self.out.place(self.out.mine), bytes) });
        self.out.commit(&self.mapping, 1);
        Ok(())
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.back.available(&self.mapping)?;
        // SAFETY: the producer has committed this slot (edge commit) and writes it again only after
        // `consume`, when the slice is gone.
        let found =
            read(unsafe { self.mapping.bytes(self.back.place(self.back.mine), self.back.slot_bytes) });
        self.back.consume(&self.mapping, 1);
        Ok(found)
    }

    fn batch(&self) -> Option<u64> {
        Some(BATCH)
    }

    #[inline(always)]
    fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
        self.out.room(&self.mapping, BATCH)?;
        for number in 0..BATCH {
            let mark = if number + 1 == BATCH { mark } else { 0 };
            // SAFETY: as in `send`; `room` has seen all slots of the batch free.
            let slot = unsafe { self.mapping.bytes_mut(self.out.place(self.out.mine + number), SMALL) };
            fill(slot, Part::Small, first + number, mark);
        }
        self.out.commit(&self.mapping, BATCH);
        Ok(())
    }

    #[inline(always)]
    fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let count = self.back.available(&self.mapping)?;
        for number in 0..count {
            // SAFETY: as in `receive`; `available` has seen so many committed.
            let slot = unsafe { self.mapping.bytes(self.back.place(self.back.mine + number), SMALL) };
            take(read(slot, Part::Small))?;
        }
        self.back.consume(&self.mapping, count);
        Ok(())
    }
}

/// Both directions, with copies.
pub(crate) struct Copying {
    ring: Duplex,
    buffer: Vec<u8>,
}

impl Link for Copying {
    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        fill(&mut self.buffer[..bytes]);
        self.ring.send(bytes, |slot| slot.copy_from_slice(&self.buffer[..bytes]))
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.ring.receive(|slot| self.buffer.copy_from_slice(slot))?;
        Ok(read(&self.buffer))
    }
}
