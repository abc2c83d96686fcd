//! Publishing to hostile subscribers: their seats, cursors and pins say anything, and change between two
//! messages.
//!
//! The publisher never panics, never waits, and never hands out memory twice; a reliable one may say that it
//! is full.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use hivemind_ring::bell::Bell;
use hivemind_ring::heap::{Heap, HeapSeats};
use hivemind_ring::layout::{INLINE_BYTES, PINS};
use hivemind_ring::loan::Loan;
use hivemind_ring::memory::SeatMemory as _;
use hivemind_ring::sync::Ordering;
use hivemind_ring::writer::{RingConfig, Writer};
use libfuzzer_sys::fuzz_target;

const SUBSCRIBERS: usize = 3;
const SEATS: usize = 2;

#[derive(Debug, Arbitrary)]
struct Input {
    reliable: bool,
    history: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Inline { length: u8 },
    Chunk { length: u16 },
    Attach { subscriber: u8, seat: u8, life: bool },
    Detach { subscriber: u8, life: bool },
    DetachNode { life: bool },
    State { subscriber: u8, seat: u8, state: u64 },
    Cursor { subscriber: u8, seat: u8, cursor: u64 },
    Pin { subscriber: u8, seat: u8, pin: u8, value: u64 },
    PinRecent { subscriber: u8, seat: u8, pin: u8, back: u8 },
    PinsUsed { subscriber: u8, seat: u8, used: u64 },
    Sleeping { subscriber: u8, sleeping: u64 },
    Closed { subscriber: u8, closed: u64 },
    Sleepers { sleepers: bool },
    Reclaim,
    Prune,
}

fuzz_target!(|input: Input| {
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 8,
        message_max: 2048,
        chunk_memory: 8192,
        reliable: input.reliable,
        history: input.history.into(),
        retained: 0,
        bell: 0,
    };
    let bell = Arc::new(Bell::silent());
    let mut writer = Writer::<Heap>::on_heap(&config, Arc::clone(&bell));
    let subscribers: Vec<Arc<HeapSeats>> =
        (0..SUBSCRIBERS).map(|_| Arc::new(HeapSeats::new(SEATS))).collect();
    let of = |subscriber: u8| &subscribers[usize::from(subscriber) % SUBSCRIBERS];
    for step in input.steps {
        match step {
            Step::Inline { length } => {
                if writer.admit().is_ok() {
                    writer.send_inline(&[u64::from(length); 7], usize::from(length % 57));
                } else {
                    assert!(input.reliable, "a lossy publisher is never full");
                }
            }
            Step::Chunk { length } => {
                if writer.admit().is_err() {
                    continue;
                }
                // Not moved to the slot.
                let length = length.max(INLINE_BYTES as u16 + 1);
                if let Ok(loan) = Loan::take(&mut writer, length.into()) {
                    assert!(loan.len() == usize::from(length) && loan.offset() + u64::from(length) <= 8192);
                    loan.send();
                }
            }
            Step::Attach { subscriber, seat, life } => {
                let who = (u64::from(life), u32::from(subscriber) % SUBSCRIBERS as u32);
                let bell = Arc::new(Bell::silent());
                if let Ok(first) = writer.desk().attach(Arc::clone(of(subscriber)), seat.into(), bell, who) {
                    assert!(first.sequence() <= writer.published());
                }
            }
            Step::Detach { subscriber, life } => {
                // Of all but the first no such node is here.
                writer.desk().detach_node(u64::from(life) + 2 * u64::from(subscriber));
            }
            Step::DetachNode { life } => {
                writer.desk().detach_node(life.into());
            }
            Step::State { subscriber, seat, state } => {
                of(subscriber).seats()[usize::from(seat) % SEATS].state.store(state, Ordering::Relaxed);
            }
            Step::Cursor { subscriber, seat, cursor } => {
                of(subscriber).seats()[usize::from(seat) % SEATS].cursor.store(cursor, Ordering::Relaxed);
            }
            Step::Pin { subscriber, seat, pin, value } => {
                let seat = &of(subscriber).seats()[usize::from(seat) % SEATS];
                seat.pins[usize::from(pin) % PINS].store(value, Ordering::Relaxed);
            }
            Step::PinRecent { subscriber, seat, pin, back } => {
                let seat = &of(subscriber).seats()[usize::from(seat) % SEATS];
                let value = writer.published().saturating_sub(u64::from(back % 16));
                seat.pins[usize::from(pin) % PINS].store(value, Ordering::Relaxed);
            }
            Step::PinsUsed { subscriber, seat, used } => {
                of(subscriber).seats()[usize::from(seat) % SEATS].pins_used.store(used, Ordering::Relaxed);
            }
            Step::Sleeping { subscriber, sleeping } => {
                of(subscriber).header().sleeping.store(sleeping, Ordering::Relaxed);
            }
            Step::Closed { subscriber, closed } => {
                of(subscriber).header().closed.store(closed, Ordering::Relaxed);
            }
            Step::Sleepers { sleepers } => bell.sleepers.store(u32::from(sleepers), Ordering::Relaxed),
            Step::Reclaim => writer.reclaim(),
            Step::Prune => writer.desk().prune(),
        }
        let (in_use, committed, limit) = writer.memory();
        assert!(in_use <= committed && committed <= limit);
    }
});
