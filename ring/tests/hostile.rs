//! Peers that write anything anywhere into their own segments. The other side never panics, never leaves the
//! memory that it was given, always comes to an end, and its counts stay sane; an honest reader beside a
//! hostile one notices nothing.
//!
//! The random steps run in one thread, so that a failure can be replayed from its seed; after them a thread
//! scribbles without a pause while the other side works. Debug builds check every addition for overflow.
#![cfg(not(loom))]

use hivemind_ring::archive::{Message, View};
use hivemind_ring::bell::Bell;
use hivemind_ring::desk::{AttachReaderError, Start};
use hivemind_ring::heap::{Heap, HeapRing};
use hivemind_ring::layout::{
    INLINE_BYTES, KIND_BUSY, KIND_CHUNK, KIND_WITHDRAWN, MODE_RELIABLE, PINS, RingHeader, SEAT_FREE,
    SEQUENCE_MAX, Seat,
};
use hivemind_ring::line::Line;
use hivemind_ring::loan::Loan;
use hivemind_ring::memory::{RingMemory, SeatMemory};
use hivemind_ring::reader::{PollError, Reader, Seats, Taken};
use hivemind_ring::writer::{AdmitError, RingConfig, Writer};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const CAPACITY: u64 = 8;
const CHUNK_MEMORY: u64 = 64 << 10;

fn publisher(reliable: bool) -> (Writer<Heap>, Arc<Bell>) {
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: CAPACITY,
        message_max: 4096,
        chunk_memory: CHUNK_MEMORY,
        reliable,
        history: 2,
        retained: 0,
        bell: 0,
    };
    let bell = Arc::new(Bell::silent());
    (Writer::on_heap(&config, Arc::clone(&bell)), bell)
}

/// Seats, and a reader in the first of them.
fn subscriber(writer: &Writer<Heap>, bell: &Arc<Bell>, index: u32) -> (Seats<Heap>, Reader<Heap>) {
    let own = Arc::new(Bell::silent());
    let seats = Seats::on_heap(2, Arc::clone(&own));
    let seat = seats.take((7, 1)).expect("it is free");
    let first = writer
        .desk()
        .attach(Arc::clone(seats.memory()), seat.index(), own, (u64::from(index) + 8, index))
        .expect("there is room");
    let reader = Reader::new(Arc::clone(writer.ring()), Arc::clone(bell), seat, first);
    (seats, reader.expect("it is possible"))
}

/// A word as a hostile or broken peer may write it: anything, or something that nearly makes sense.
fn words() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        any::<u64>(),
        0..200_u64,
        (0..64_u32).prop_map(|bit| 1 << bit),
        (0..200_u64).prop_map(|below| SEQUENCE_MAX - 100 + below),
        (0..200_u64).prop_map(|below| CHUNK_MEMORY - 100 + below),
    ]
}

fn kinds() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(KIND_CHUNK),
        Just(KIND_WITHDRAWN),
        Just(KIND_BUSY),
        0..=INLINE_BYTES as u64,
        any::<u8>().prop_map(u64::from),
    ]
}

#[derive(Debug, Clone)]
enum Lie {
    /// A stamp for the slot where the reader looks next, about so many messages from its own.
    Stamp {
        ahead: i64,
        kind: u64,
    },
    /// The same, with a chunk that lies somewhere.
    Chunk {
        offset: u64,
        length: u64,
    },
    /// Any word of any slot.
    Slot {
        slot: usize,
        word: usize,
        value: u64,
    },
    Head(u64),
    /// Another word of the header.
    Header {
        word: usize,
        value: u64,
    },
    Poll,
    DropSamples,
}

fn lies() -> impl Strategy<Value = Lie> {
    prop_oneof![
        4 => (-40..40_i64, kinds()).prop_map(|(ahead, kind)| Lie::Stamp { ahead, kind }),
        1 => (any::<i64>(), kinds()).prop_map(|(ahead, kind)| Lie::Stamp { ahead, kind }),
        4 => (words(), words()).prop_map(|(offset, length)| Lie::Chunk { offset, length }),
        4 => (0..2000_u64, 0..2000_u64)
            .prop_map(|(line, length)| Lie::Chunk { offset: line * 64, length }),
        3 => (0..CAPACITY as usize, 0..8_usize, words())
            .prop_map(|(slot, word, value)| Lie::Slot { slot, word, value }),
        3 => words().prop_map(Lie::Head),
        2 => (0..64_usize, words()).prop_map(|(word, value)| Lie::Header { word, value }),
        12 => Just(Lie::Poll),
        1 => Just(Lie::DropSamples),
    ]
}

/// All words of the header that are looked at after the segment was opened; its constants are not.
fn header_word(header: &RingHeader, word: usize) -> &AtomicU64 {
    let words =
        [&header.head, &header.tail, &header.blocked, &header.closed, &header.committed, &header.unfenced];
    words[word % words.len()]
}

fn tell(ring: &HeapRing, cursor: u64, lie: &Lie) {
    let slot = &ring.slots()[(cursor % CAPACITY) as usize];
    match *lie {
        Lie::Stamp { ahead, kind } => {
            let sequence = cursor.wrapping_add_signed(ahead).wrapping_add(1);
            slot.stamp.store(sequence << 8 | kind, Ordering::Release);
        }
        Lie::Chunk { offset, length } => {
            slot.words[0].store(offset, Ordering::Relaxed);
            slot.words[1].store(length, Ordering::Relaxed);
            slot.stamp.store((cursor + 1) << 8 | KIND_CHUNK, Ordering::Release);
        }
        Lie::Slot { slot, word, value } => {
            let slot = &ring.slots()[slot];
            slot.words.get(word).unwrap_or(&slot.stamp).store(value, Ordering::Relaxed);
        }
        Lie::Head(head) => ring.header().head.store(head, Ordering::Relaxed),
        Lie::Header { word, value } => header_word(ring.header(), word).store(value, Ordering::Relaxed),
        Lie::Poll | Lie::DropSamples => {}
    }
}

/// A victim: a reader that polls, and looks at what it gets.
struct Victim {
    reader: Reader<Heap>,
    seats: Seats<Heap>,
    samples: Vec<Message<Heap>>,
    received: u64,
}

impl Victim {
    fn poll(&mut self) {
        let before = self.reader.cursor();
        match self.reader.poll() {
            Ok(Some(taken)) => {
                self.received += 1;
                if let Taken::Held(held) = &taken {
                    let (offset, length) = held.location();
                    assert!(
                        offset.checked_add(length).is_some_and(|end| end <= CHUNK_MEMORY),
                        "it left its memory"
                    );
                    assert!(offset.is_multiple_of(64) && length <= 4096);
                }
                let message = Message::try_from(taken).expect("its chunks are mapped");
                assert!(message.sequence() >= before && message.sequence() < self.reader.cursor());
                // Every byte can be read.
                std::hint::black_box(message.bytes().to_vec());
                self.samples.push(message);
            }
            Ok(None) => {}
            Err(PollError::HeldOut { limit }) => {
                assert!(self.samples.len() >= limit);
                self.samples.clear();
            }
            Err(PollError::Corrupt { sequence, .. }) => assert_eq!(sequence, self.reader.cursor()),
            Err(error) => panic!("{error}"),
        }
        let cursor = self.reader.cursor();
        assert!(cursor >= before && cursor <= SEQUENCE_MAX + 2000, "from {before} to {cursor}");
        assert_eq!(
            self.received + self.reader.lost(),
            cursor - self.reader.first(),
            "every message counts once"
        );
        let _ = (self.reader.ready(), self.reader.finished(), self.reader.lag());
        let seat = &self.seats.memory().seats()[self.reader.seat() as usize];
        let pins = seat.pins.iter().filter(|pin| pin.load(Ordering::Relaxed) != 0).count();
        let held = self.samples.iter().filter(|sample| sample.is_held()).count();
        assert_eq!(pins, held, "one pin for each sample, and no other");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// In one thread: random lies, and a poll now and then.
    #[test]
    fn a_lying_publisher_cannot_hurt_its_readers(
        reliable in any::<bool>(),
        first in prop_oneof![Just(0), 0..100_u64, words()],
        lies in proptest::collection::vec(lies(), 1..300),
    ) {
        let (writer, bell) = publisher(reliable);
        let seats = Seats::on_heap(1, Arc::new(Bell::silent()));
        let seat = seats.take((7, 1)).expect("it is free");
        let ring = Arc::clone(writer.ring());
        let Ok(reader) = Reader::new(Arc::clone(&ring), bell, seat, Start::told(first)) else {
            prop_assert!(first > SEQUENCE_MAX);
            return Ok(());
        };
        let mut victim = Victim { reader, seats, samples: Vec::new(), received: 0 };
        for lie in &lies {
            tell(&ring, victim.reader.cursor(), lie);
            match lie {
                Lie::Poll => victim.poll(),
                Lie::DropSamples => victim.samples.clear(),
                _ => {}
            }
        }
        victim.samples.clear();
        victim.poll();
    }

    /// In one thread: a subscriber that lies about its cursor, pins and state, beside an honest one on the
    /// same ring.
    #[test]
    fn a_lying_subscriber_cannot_hurt_the_publisher_nor_its_neighbour(
        reliable in any::<bool>(),
        lies in proptest::collection::vec((0..70_usize, words(), 0..600_usize, any::<bool>()), 1..200),
    ) {
        let (mut writer, bell) = publisher(reliable);
        let (liar, _reader) = subscriber(&writer, &bell, 1);
        let (_seats, mut honest) = subscriber(&writer, &bell, 2);
        let mut received = 0;
        for (word, value, length, read) in lies {
            let (seat, header) = (&liar.memory().seats()[0], liar.memory().header());
            seat_word(seat, word).unwrap_or(if word % 2 == 0 { &header.closed } else { &header.sleeping })
                .store(value, Ordering::Relaxed);
            bell.sleepers.store(value as u32, Ordering::Relaxed);
            bell.space.store(value as u32, Ordering::Relaxed);
            match writer.admit() {
                Ok(()) => send(&mut writer, length),
                Err(AdmitError::Full { .. }) => prop_assert!(reliable),
                Err(error) => panic!("{error}"),
            }
            if read || reliable {
                while let Some(taken) = honest.poll().expect("an honest publisher") {
                    check(&Message::try_from(taken).expect("its chunks are mapped"));
                    received += 1;
                }
            }
        }
        prop_assert!(!reliable || honest.lost() == 0);
        while let Some(taken) = honest.poll().expect("an honest publisher") {
            check(&Message::try_from(taken).expect("its chunks are mapped"));
            received += 1;
        }
        prop_assert_eq!(received + honest.lost(), writer.published());
        // Whatever it did, it is forgotten when the kernel says that it is dead, and holds up nobody.
        prop_assert!(writer.desk().detach_node(9) == 1 || writer.desk().subscribers() == [(10, 2)]);
        prop_assert!(writer.admit().is_ok());
        writer.reclaim();
        let (in_use, _, limit) = writer.memory();
        prop_assert!(in_use <= limit);
    }

    /// A node that names seats at random when it wants to attach.
    #[test]
    fn a_seat_that_does_not_exist_is_refused(
        seat in prop_oneof![0..5_u32, any::<u32>()],
        state in words(),
    ) {
        let (writer, _) = publisher(false);
        let seats = Seats::<Heap>::on_heap(3, Arc::new(Bell::silent()));
        if let Some(seat) = seats.memory().seats().get(seat as usize) {
            seat.state.store(state, Ordering::Relaxed);
        }
        let bell = Arc::new(Bell::silent());
        let attached = writer.desk().attach(Arc::clone(seats.memory()), seat, bell, (9, 1));
        if seat < 3 && state & 0b11 != SEAT_FREE {
            prop_assert_eq!(attached.unwrap().sequence(), 0);
        } else {
            prop_assert_eq!(attached, Err(AttachReaderError::NoSuchSeat { seat }));
        }
    }
}

/// The words of a seat, then none.
fn seat_word(seat: &Seat, word: usize) -> Option<&AtomicU64> {
    let words = [
        &seat.cursor,
        &seat.lost,
        &seat.first,
        &seat.publisher_node,
        &seat.publisher_index,
        &seat.pins_used,
        &seat.state,
    ];
    words.get(word).copied().or_else(|| seat.pins.get(word - words.len()))
}

fn fill(sequence: u64, bytes: &mut [u8]) {
    let (start, end) = bytes.split_at_mut(bytes.len() / 2);
    start.fill(sequence as u8);
    end.fill((sequence * 31) as u8);
}

/// Sends a message; there is memory, since nobody can pin more than [`PINS`] chunks of it.
fn send(writer: &mut Writer<Heap>, length: usize) {
    let sequence = writer.published();
    if length <= INLINE_BYTES {
        let mut buffer = Line::default();
        fill(sequence, &mut buffer.bytes_mut()[..length]);
        writer.send_inline(buffer.words(), length);
    } else {
        let mut loan = Loan::take(writer, length).expect("two readers cannot pin as much as there is");
        fill(sequence, &mut loan);
        loan.send();
    }
}

fn check(message: &Message<Heap>) {
    let mut expected = vec![0; message.bytes().len()];
    fill(message.sequence(), &mut expected);
    assert!(message.bytes() == expected, "message {} is torn", message.sequence());
}

/// As many chunks as two readers can pin and the ring can hold fit into the memory, at the length that is
/// used here.
const _: () = assert!((PINS as u64 + CAPACITY + 4) * 640 <= CHUNK_MEMORY);

/// Writes of a scribbler while the other side works.
const SCRIBBLES: u64 = 200_000;

/// Numbers that look random, from a seed that is printed.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// A publisher that scribbles from another thread, so that words change between the looks of one poll.
#[test]
fn a_publisher_that_scribbles_all_the_time_cannot_hurt_its_readers() {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        let (writer, bell) = publisher(seed == 2);
        let (seats, reader) = subscriber(&writer, &bell, 1);
        let ring = Arc::clone(writer.ring());
        let position = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let scribbling = {
            let (ring, position, over) = (Arc::clone(&ring), Arc::clone(&position), Arc::clone(&over));
            thread::spawn(move || {
                let mut state = seed;
                for _ in 0..SCRIBBLES {
                    let cursor = position.load(Ordering::Relaxed);
                    let (a, b) = (random(&mut state), random(&mut state));
                    let near = (a >> 8) as i64 % (2 * CAPACITY as i64);
                    let lie = match a % 8 {
                        0 => Lie::Stamp { ahead: near, kind: b & 0xFF },
                        1 => Lie::Stamp { ahead: 0, kind: KIND_CHUNK },
                        2 => Lie::Stamp { ahead: CAPACITY as i64, kind: KIND_BUSY },
                        3 => Lie::Chunk { offset: (b % 1200) * 64, length: (b >> 32) % 5000 },
                        4 => Lie::Slot {
                            slot: (b % CAPACITY) as usize,
                            word: (a >> 20) as usize % 8,
                            value: b,
                        },
                        5 => Lie::Head(cursor.wrapping_add(b % 64)),
                        6 => Lie::Stamp { ahead: 0, kind: b % (INLINE_BYTES as u64 + 1) },
                        _ => Lie::Header { word: (a >> 32) as usize, value: b & MODE_RELIABLE },
                    };
                    tell(&ring, cursor, &lie);
                }
                over.store(true, Ordering::Release);
            })
        };
        let mut victim = Victim { reader, seats, samples: Vec::new(), received: 0 };
        while !over.load(Ordering::Acquire) {
            for _ in 0..64 {
                victim.poll();
                position.store(victim.reader.cursor(), Ordering::Relaxed);
            }
            victim.samples.clear();
        }
        scribbling.join().expect("the scribbler");
    }
}

/// A subscriber that scribbles over its seat from another thread, while its publisher works and waits.
#[test]
fn a_subscriber_that_scribbles_all_the_time_cannot_hurt_the_publisher() {
    for (seed, reliable) in [(1, false), (2, true)] {
        println!("seed {seed}");
        let (mut writer, bell) = publisher(reliable);
        let (liar, _reader) = subscriber(&writer, &bell, 1);
        let (_seats, mut honest) = subscriber(&writer, &bell, 2);
        let over = Arc::new(AtomicBool::new(false));
        let scribbling = {
            let (over, memory, bell) = (Arc::clone(&over), Arc::clone(liar.memory()), Arc::clone(&bell));
            thread::spawn(move || {
                let mut state = seed;
                for _ in 0..SCRIBBLES {
                    let (a, b) = (random(&mut state), random(&mut state));
                    let value = if a & 1 == 0 { b } else { b % 5000 };
                    let (seat, header) = (&memory.seats()[0], memory.header());
                    match (a >> 8) as usize % 70 {
                        word @ 0..67 => {
                            seat_word(seat, word).unwrap_or(&seat.cursor).store(value, Ordering::Relaxed);
                        }
                        // In half of the cases a place, which may be none.
                        67 => header
                            .sleeping
                            .store(if value & 1 == 0 { value } else { value & !0xFF | 8 }, Ordering::Relaxed),
                        68 => bell.sleepers.store(value as u32, Ordering::Relaxed),
                        _ => bell.space.store(value as u32, Ordering::Relaxed),
                    }
                }
                over.store(true, Ordering::Release);
            })
        };
        let mut received = 0;
        let mut sent = 0_u64;
        while !over.load(Ordering::Acquire) {
            match writer.admit_within(Duration::from_micros(50)) {
                Ok(()) => {
                    sent += 1;
                    send(&mut writer, sent as usize * 37 % 600);
                }
                Err(AdmitError::Full { .. }) => assert!(reliable),
                Err(error) => panic!("{error}"),
            }
            while let Some(taken) = honest.poll().expect("an honest publisher") {
                check(&Message::try_from(taken).expect("its chunks are mapped"));
                received += 1;
            }
        }
        scribbling.join().expect("the scribbler");
        assert_eq!((received, honest.lost(), writer.published()), (sent, 0, sent));
    }
}

/// A part of an archive that asks for 64 bytes of alignment has it where the chunk begins, and does not after
/// the message was copied or moved to a slot. Once it was validated at the one place and read at the other.
#[test]
fn an_archive_that_asks_for_more_alignment_than_messages_have_is_refused() {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    #[repr(C, align(64))]
    #[rkyv(attr(repr(C, align(64))))]
    struct Wide(u64);
    let (mut writer, bell) = publisher(false);
    let (_seats, mut reader) = subscriber(&writer, &bell, 1);
    let archive = rkyv::to_bytes::<rkyv::rancor::Error>(&vec![Wide(7), Wide(8)]).unwrap();
    let mut let_pass_by_rkyv = 0;
    // An archive may begin with anything, so it is put where it happens to be aligned, and where it is not.
    for ahead in [0, 16, 32, 48] {
        let bytes = [&vec![0; ahead][..], &archive].concat();
        writer.admit().unwrap();
        let mut loan = Loan::take(&mut writer, bytes.len()).unwrap();
        loan.copy_from_slice(&bytes);
        loan.send();
        let message = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
        type List = rkyv::vec::ArchivedVec<ArchivedWide>;
        let by_rkyv = rkyv::access::<List, rkyv::rancor::Error>(message.bytes());
        let_pass_by_rkyv += usize::from(by_rkyv.is_ok());
        let Err(refused) = View::<List, Heap>::check(message) else {
            panic!("it is let pass {ahead} bytes from the begin");
        };
        assert_eq!(refused.length, bytes.len());
    }
    assert_eq!(let_pass_by_rkyv, 1, "by chance, at one of the four places");
}
