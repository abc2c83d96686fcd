//! What is readable of a publisher that died: at every step of a commit, by its stamps alone.
#![cfg(not(loom))]

use hivemind_ring::archive::Message;
use hivemind_ring::bell::Bell;
use hivemind_ring::desk::Start;
use hivemind_ring::heap::Heap;
use hivemind_ring::kept::KeptRing;
use hivemind_ring::layout::{INLINE_WORDS, KIND_BUSY};
use hivemind_ring::loan::Loan;
use hivemind_ring::memory::RingMemory;
use hivemind_ring::reader::{Reader, Seats};
use hivemind_ring::retained::{closed, first};
use hivemind_ring::segment::{Anonymous, Backend, Handle, Sharing};
use hivemind_ring::writer::{AllocateError, RingConfig, Writer};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CAPACITY: u64 = 8;

fn config(retained: u64, chunk_memory: u64) -> RingConfig {
    RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: CAPACITY,
        message_max: 1 << 16,
        chunk_memory,
        reliable: false,
        history: 0,
        retained,
        bell: 0,
    }
}

fn publisher(retained: u64, chunk_memory: u64) -> Writer<Heap> {
    Writer::on_heap(&config(retained, chunk_memory), Arc::new(Bell::silent()))
}

/// A message in its slot (56 bytes) or in a chunk, each word of which is its sequence.
fn send(writer: &mut Writer<Heap>, length: usize) -> Result<(), AllocateError> {
    let sequence = writer.published();
    writer.admit().unwrap();
    if length <= 56 {
        writer.send_inline(&[sequence; INLINE_WORDS], 56);
        return Ok(());
    }
    let mut loan = Loan::take(writer, length)?;
    loan.fill(sequence as u8);
    loan.send();
    Ok(())
}

/// Sequences of all that a late reader gets; each message must be whole. Then what it counts as lost.
fn late(ring: &Arc<<Heap as hivemind_ring::memory::Memory>::Ring>) -> (Vec<u64>, u64) {
    let seats = Seats::<Heap>::on_heap(1, Arc::new(Bell::silent()));
    let seat = seats.take((7, 1)).unwrap();
    let mut reader =
        Reader::new(Arc::clone(ring), Arc::new(Bell::silent()), seat, Start::told(first(&**ring))).unwrap();
    let mut sequences = Vec::new();
    while let Some(taken) = reader.poll().unwrap() {
        let message = Message::try_from(taken).expect("its chunks are mapped");
        let sequence = message.sequence();
        if message.bytes().len() == 56 {
            assert_eq!(message.bytes(), [sequence; INLINE_WORDS].map(u64::to_le_bytes).concat());
        } else {
            assert!(message.bytes().iter().all(|byte| *byte == sequence as u8), "message {sequence} is torn");
        }
        sequences.push(sequence);
    }
    (sequences, reader.lost())
}

proptest! {
    /// However many messages of whatever lengths: the last n, or as many as there were; also while the next
    /// one is being written and after its stamp, when `head` does not know of it yet.
    #[test]
    fn the_last_n_are_there_at_every_step_of_the_next(
        lengths in prop::collection::vec(prop_oneof![Just(8usize), 57usize..3000], 0..40),
        retained in 1u64..CAPACITY,
        step in 0u8..3,
    ) {
        // As much as the retained ones and one more can take.
        let mut writer = publisher(retained, 3072 * (retained + 2));
        for length in &lengths {
            send(&mut writer, *length).unwrap();
        }
        let published = writer.published();
        let ring = Arc::clone(writer.ring());
        match step {
            // Died while it wrote the next message.
            1 => {
                let slot = &ring.slots()[(published % CAPACITY) as usize];
                slot.stamp.store((published + 1) << 8 | KIND_BUSY, Ordering::Relaxed);
                slot.words[0].store(u64::MAX, Ordering::Relaxed);
            }
            // Died between the stamp of the last one and `head`.
            2 if published > 0 => ring.header().head.store(published - 1, Ordering::Relaxed),
            _ => {}
        }
        let (sequences, lost) = late(&ring);
        let expected: Vec<u64> = (published.saturating_sub(retained)..published).collect();
        prop_assert_eq!(sequences, expected);
        prop_assert_eq!(lost, 0);
        prop_assert!(!closed(&*ring));
        drop(writer);
        prop_assert!(closed(&*ring));
    }

    /// Whatever the words say: it begins at a possible message.
    #[test]
    fn a_lying_header_moves_the_beginning_within_bounds(head: u64, tail: u64, retained: u64, stamp: u64, place in 0usize..8) {
        let writer = publisher(retained, 4096);
        let ring = writer.ring();
        ring.header().head.store(head, Ordering::Relaxed);
        ring.header().tail.store(tail, Ordering::Relaxed);
        ring.slots()[place].stamp.store(stamp, Ordering::Relaxed);
        prop_assert!(first(&**ring) <= hivemind_ring::layout::SEQUENCE_MAX);
    }
}

/// A lossy publisher gives up its oldest messages when memory runs out. Those that it retains it does not: it
/// says so instead.
#[test]
fn what_is_retained_is_not_given_up_for_want_of_memory() {
    let mut writer = publisher(3, 4 * 1024);
    for _ in 0..20 {
        send(&mut writer, 1000).unwrap();
    }
    // With three of 1000 bytes there is no room for 2000.
    let refused = send(&mut writer, 2000).unwrap_err();
    assert!(matches!(refused, AllocateError::MemoryOut { .. }), "{refused}");
    assert_eq!(late(writer.ring()), (vec![17, 18, 19], 0));
    // The same memory is enough for one that retains nothing.
    let mut writer = publisher(0, 4 * 1024);
    for _ in 0..20 {
        send(&mut writer, 1000).unwrap();
    }
    send(&mut writer, 2000).unwrap();
}

#[test]
fn a_kept_ring_says_whether_it_is_empty_and_is_nothing_but_sealed_memory() {
    use hivemind_ring::mapped::{Bells, MappedRing};
    let bell = Bells::create(&Anonymous).unwrap().take().unwrap();
    let mut writer = MappedRing::create(&Anonymous, config(3, 4096), bell).unwrap();
    let handle = || match writer.ring().segment().handle().unwrap() {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(_) => unreachable!("it is anonymous"),
    };
    let kept = KeptRing::new(handle()).unwrap();
    assert!(kept.messages().is_empty());
    writer.admit().unwrap();
    writer.send_inline(&[1; INLINE_WORDS], 56);
    assert!(!kept.messages().is_empty());
    // As if it had died before `head` was stored.
    writer.ring().header().head.store(0, Ordering::Relaxed);
    assert!(!kept.messages().is_empty());
    let ring = Arc::clone(writer.ring());
    drop(writer);
    drop(ring);
    let handle = Handle::Descriptor(kept.descriptor().unwrap());
    let ring = MappedRing::open(&Anonymous, handle, None).unwrap();
    assert!(closed(&ring));
    assert_eq!(first(&ring), 0);

    let open = std::fs::File::open("/dev/null").unwrap();
    KeptRing::new(open.into()).unwrap_err();
    let doorbell = Anonymous.create("doorbell", 4096, Sharing::Doorbell).unwrap();
    let Handle::Descriptor(writable) = doorbell.handle().unwrap() else { unreachable!("it is anonymous") };
    KeptRing::new(writable).unwrap_err();
}
