//! What the publishers of all of one link may take here.
//!
//! | what the other host makes grow | bound for one link |
//! | --- | --- |
//! | slots, taken when a publisher is announced | [`SLOTS_MEMORY`], of which one gets at most a 32nd of what is left |
//! | memory for messages, taken as they arrive | [`LinkOptions::memory`](super::LinkOptions::memory), of which one gets at most a quarter of what is left |
//!
//! So a late publisher gets less, and never nothing; a lossy publisher that may take no more gives up its
//! oldest messages, as if its ring were smaller. A publisher that is gone gives back what it had. The other
//! bounds are those of `hivemind_core::link::peering`; see
//! `docs/decisions/0017-what-a-linked-host-may-take.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hivemind_ring::layout::{CAPACITY_MIN, LINE_BYTES, SLOTS_OFFSET};

/// Most slots of one publisher: 4 MiB.
pub(super) const CAPACITY_MAX: u64 = 65_536;
/// Most memory for the messages of one publisher, in bytes; it is taken as it is needed.
pub(super) const MEMORY_MAX: u64 = 1 << 30;

/// Memory is taken by whole pages of this many bytes.
const PAGE_BYTES: u64 = 4096;
/// Most memory for the slots of all publishers of one link, in bytes: 4096 rings of 256.
const SLOTS_MEMORY: u64 = 128 << 20;
/// One publisher takes at most this part of what is left for slots …
const SLOTS_SHARE: u64 = 32;
/// … and this part of what is left for messages.
const MEMORY_SHARE: u64 = 4;
/// Memory for messages that every publisher can have, in bytes; set aside when the publisher is announced.
const MEMORY_FLOOR: u64 = 64 << 10;

/// All is taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "the publishers of this link have all {slots} bytes for slots or {memory} bytes for messages that they may; use fewer, narrower \
     filters, or more `LinkOptions::memory`"
)]
pub(super) struct PurseError {
    slots: u64,
    memory: u64,
}

/// What the publishers of one link may still take.
#[derive(Debug)]
pub(super) struct Purse {
    slots: AtomicU64,
    memory: AtomicU64,
    all_memory: u64,
}

/// What one publisher has taken out; dropped, it is back.
#[derive(Debug)]
pub(super) struct Share {
    purse: Arc<Purse>,
    slots: u64,
    memory: u64,
}

impl Purse {
    /// A purse with `memory` bytes for messages.
    pub(super) fn new(memory: u64) -> Arc<Purse> {
        Arc::new(Purse { slots: SLOTS_MEMORY.into(), memory: memory.into(), all_memory: memory })
    }

    /// What it held at first, in bytes for messages.
    pub(super) fn all_memory(&self) -> u64 {
        self.all_memory
    }

    /// For a publisher that asks for `slots`: how many it gets, a power of two.
    pub(super) fn open(self: &Arc<Purse>, slots: u64) -> Result<(u64, Share), PurseError> {
        // Relaxed, as everywhere here: figures, with which nothing else is shared.
        let affordable =
            (self.slots.load(Ordering::Relaxed) / SLOTS_SHARE).saturating_sub(SLOTS_OFFSET) / LINE_BYTES;
        // One thread takes for each link. Asked first: nothing would give back what is taken of too little.
        let is_floor_there = self.memory.load(Ordering::Relaxed) >= MEMORY_FLOOR;
        if affordable < CAPACITY_MIN || !is_floor_there || !take(&self.memory, MEMORY_FLOOR) {
            return Err(PurseError { slots: SLOTS_MEMORY, memory: self.all_memory });
        }
        let slots = slots.next_power_of_two().min(1 << affordable.ilog2());
        let share = Share {
            purse: Arc::clone(self),
            slots: (SLOTS_OFFSET + slots * LINE_BYTES).next_multiple_of(PAGE_BYTES),
            memory: MEMORY_FLOOR,
        };
        take(&self.slots, share.slots);
        Ok((slots, share))
    }
}

/// Takes this much, or what there is. True: it was all there.
fn take(left: &AtomicU64, bytes: u64) -> bool {
    // Relaxed: see `Purse::open`.
    let before =
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
    before.is_ok_and(|before| before >= bytes)
}

/// Puts it back.
fn put_back(left: &AtomicU64, bytes: u64, all: u64) {
    // Relaxed: see `Purse::open`. The closure never says no.
    let _ = left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_add(bytes).min(all)));
}

impl Share {
    /// The most that its messages may take now.
    pub(super) fn limit(&self) -> u64 {
        // Relaxed: see `Purse::open`.
        self.memory + self.purse.memory.load(Ordering::Relaxed) / MEMORY_SHARE
    }

    /// It has taken this much memory for messages by now. False: more than there was.
    pub(super) fn takes(&mut self, memory: u64) -> bool {
        let more = memory.saturating_sub(self.memory);
        if more == 0 {
            return true;
        }
        // What is taken is counted, even if another publisher was faster.
        self.memory += more;
        take(&self.purse.memory, more)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        put_back(&self.purse.slots, self.slots, SLOTS_MEMORY);
        put_back(&self.purse.memory, self.memory, self.purse.all_memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_publisher_gets_less_and_what_is_given_back_is_there_again() {
        let purse = Purse::new(2 << 30);
        let mut shares = Vec::new();
        while let Ok((slots, share)) = purse.open(CAPACITY_MAX) {
            if shares.is_empty() {
                assert!(slots >= CAPACITY_MAX / 2);
            }
            shares.push(share);
        }
        assert!(shares.len() > 64);
        let taken: u64 = shares.iter().map(|share| share.slots).sum();
        assert!(taken <= SLOTS_MEMORY, "{taken}");
        drop(shares);
        // As many as a link can have streams, of the usual size.
        let mut shares: Vec<Share> = Vec::new();
        for _ in 0..hivemind_core::link::peering::STREAMS_MAX {
            let (slots, share) = purse.open(256).unwrap();
            assert_eq!(slots, 256);
            shares.push(share);
        }
        let limits: Vec<u64> = shares
            .iter_mut()
            .take(30)
            .map(|share| {
                let limit = share.limit();
                assert!(share.takes(limit));
                limit
            })
            .collect();
        assert!(limits[0] >= 400 << 20 && limits.is_sorted_by(|a, b| a >= b) && limits[29] >= MEMORY_FLOOR);
        assert!(!shares[0].takes(4 << 30));
        drop(shares);
        assert_eq!(purse.memory.load(Ordering::Relaxed), 2 << 30);
        assert_eq!(purse.slots.load(Ordering::Relaxed), SLOTS_MEMORY);
        // One that is refused takes nothing.
        let purse = Purse::new(MEMORY_FLOOR - 1);
        assert!(purse.open(256).is_err());
        assert_eq!(purse.memory.load(Ordering::Relaxed), MEMORY_FLOOR - 1);
    }
}
