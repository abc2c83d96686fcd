//! Reading a hostile publisher's ring: its slots and its header say anything, and change between two polls.
//!
//! A poll ends, gives bytes that lie within the ring, and counts on: `cursor - first = received + lost`.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::desk::Start;
use hivemind_ring::heap::{Heap, HeapRing};
use hivemind_ring::layout::{KIND_BUSY, KIND_CHUNK, KIND_WITHDRAWN};
use hivemind_ring::memory::RingMemory as _;
use hivemind_ring::reader::{PollError, Reader, Seats};
use hivemind_ring::sync::Ordering;
use hivemind_ring::writer::RingConfig;
use libfuzzer_sys::fuzz_target;

const SLOTS: usize = 8;
const CHUNK_BYTES: u64 = 1024;

#[derive(Debug, Arbitrary)]
struct Input {
    first: u64,
    message_max: u16,
    reliable: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Poll,
    /// A stamp that a publisher could write, `ahead` of the reader, with this kind.
    Commit {
        ahead: u8,
        kind: Kind,
        offset: u16,
        length: u16,
    },
    Stamp {
        slot: u8,
        stamp: u64,
    },
    Word {
        slot: u8,
        word: u8,
        value: u64,
    },
    Head(u64),
    Blocked(u64),
    Close,
    Drop(u8),
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Inline(u8),
    Chunk,
    Withdrawn,
    Busy,
}

fuzz_target!(|input: Input| {
    let ring = Arc::new(HeapRing::new(&RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: SLOTS as u64,
        message_max: input.message_max.into(),
        chunk_memory: CHUNK_BYTES,
        reliable: input.reliable,
        history: 0,
        retained: 0,
        bell: 0,
    }));
    let seats = Seats::<Heap>::on_heap(1, Arc::new(Bell::silent()));
    let seat = seats.take((7, 1)).expect("a fresh seat");
    let reader =
        Reader::<Heap>::new(Arc::clone(&ring), Arc::new(Bell::silent()), seat, Start::told(input.first));
    let Ok(mut reader) = reader else { return };
    let mut received = 0;
    let mut held: Vec<Message<Heap>> = Vec::new();
    for step in input.steps {
        match step {
            Step::Poll => match reader.poll() {
                Ok(Some(taken)) => {
                    let message = Message::try_from(taken).expect("its chunks are mapped");
                    received += 1;
                    let bytes = message.bytes();
                    assert!(bytes.len() as u64 <= CHUNK_BYTES);
                    // Touches every byte, for the address sanitizer.
                    let _ = std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
                    held.push(message);
                }
                Ok(None) => {}
                Err(PollError::HeldOut { limit }) => {
                    assert_eq!(held.iter().filter(|message| message.is_held()).count(), limit);
                }
                Err(_) => {}
            },
            Step::Commit { ahead, kind, offset, length } => {
                let sequence = reader.cursor() + u64::from(ahead % 16);
                let slot = &ring.slots()[sequence as usize % SLOTS];
                let kind = match kind {
                    Kind::Inline(length) => u64::from(length % 64),
                    Kind::Chunk => KIND_CHUNK,
                    Kind::Withdrawn => KIND_WITHDRAWN,
                    Kind::Busy => KIND_BUSY,
                };
                slot.words[0].store(offset.into(), Ordering::Relaxed);
                slot.words[1].store(length.into(), Ordering::Relaxed);
                slot.stamp.store((sequence + 1) << 8 | kind, Ordering::Relaxed);
                ring.header().head.store(sequence + 1, Ordering::Relaxed);
            }
            Step::Stamp { slot, stamp } => {
                ring.slots()[usize::from(slot) % SLOTS].stamp.store(stamp, Ordering::Relaxed);
            }
            Step::Word { slot, word, value } => {
                let words = &ring.slots()[usize::from(slot) % SLOTS].words;
                words[usize::from(word) % words.len()].store(value, Ordering::Relaxed);
            }
            Step::Head(head) => ring.header().head.store(head, Ordering::Relaxed),
            Step::Blocked(blocked) => ring.header().blocked.store(blocked, Ordering::Relaxed),
            Step::Close => ring.header().closed.store(1, Ordering::Relaxed),
            Step::Drop(which) => {
                if !held.is_empty() {
                    let which = usize::from(which) % held.len();
                    drop(held.swap_remove(which));
                }
            }
        }
        assert_eq!(reader.cursor() - reader.first(), received + reader.lost());
        let _ = (reader.ready(), reader.finished(), reader.lag());
    }
});
