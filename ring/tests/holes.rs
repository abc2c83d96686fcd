//! Segments with holes where there should be memory. A peer that reads a hole through a mapping gives it
//! memory, at its own cost: so a stranger of a few megabytes could fill the memory of everybody who read its
//! ring. Nothing of a stranger's is touched now that may be a hole, and what it says in a header counts as it
//! was when it was read, once.
//!
//! What shows it is the memory of the object itself (`st_blocks`): it must not grow by anything that a peer
//! does.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use hivemind_ring::archive::Message;
use hivemind_ring::desk::{AttachReaderError, Start};
use hivemind_ring::layout::{
    KIND_CHUNK, LAYOUT_VERSION, PINS, READER_MAGIC, RING_MAGIC, SEAT_READ, SEATS_OFFSET, SLOTS_OFFSET,
};
use hivemind_ring::loan::Loan;
use hivemind_ring::mapped::{Bells, Mapped, MappedBell, MappedRing, MappedSeats, OpenError};
use hivemind_ring::memory::{RingMemory as _, SeatMemory as _};
use hivemind_ring::reader::{PollError, Reader, Seats, Taken};
use hivemind_ring::segment::{Anonymous, Backend as _, Handle, LengthBounds, Sharing};
use hivemind_ring::view::{ReaderView, RingView};
use hivemind_ring::writer::{RingConfig, Writer};
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const PAGE: u64 = 4096;
const LONG: u64 = 64 << 30;
const CAPACITY: u64 = 256;
const CHUNKS: u64 = (SLOTS_OFFSET + CAPACITY * 64).next_multiple_of(PAGE);
const ANY: LengthBounds = LengthBounds { min: 1, max: u64::MAX };

/// A stranger's memory object, which it wrote by hand.
struct Sparse {
    file: File,
    /// Its first bytes, to be written still.
    front: MmapMut,
}

impl Sparse {
    /// Of this length, with this many bytes mapped, these words at its start, and memory for nothing else.
    fn new(length: u64, mapped: u64, words: &[u64]) -> Sparse {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("sparse", flags).unwrap());
        file.set_len(length).unwrap();
        // SAFETY: a fresh object; those who map it as well read atomics, or nothing.
        let front = unsafe { MmapOptions::new().len(mapped as usize).map_mut(&file) }.unwrap();
        let mut sparse = Sparse { file, front };
        for (place, word) in words.iter().enumerate() {
            sparse.write(place as u64 * 8, *word);
        }
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE;
        fcntl(&sparse.file, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL)).unwrap();
        sparse
    }

    /// A ring that announces as much chunk memory as there can be.
    fn ring(message_max: u64) -> Sparse {
        let chunks_length = LONG - (1 << 20);
        let words = [
            RING_MAGIC,
            LAYOUT_VERSION,
            7,
            1,
            0,
            0,
            CAPACITY,
            SLOTS_OFFSET,
            CHUNKS,
            chunks_length,
            message_max,
        ];
        Sparse::new(LONG, 1 << 20, &words)
    }

    /// Writes to every page before byte `end`, as an honest owner has.
    fn written_to(mut self, end: u64) -> Sparse {
        for page in (PAGE..end).step_by(PAGE as usize) {
            self.front[page as usize] = 0;
        }
        self
    }

    fn write(&mut self, at: u64, word: u64) {
        self.front[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// Commits a message that lies in a chunk.
    fn commit(&mut self, sequence: u64, offset: u64, length: u64) {
        let slot = SLOTS_OFFSET + sequence % CAPACITY * 64;
        self.write(slot, offset);
        self.write(slot + 8, length);
        self.write(slot + 56, (sequence + 1) << 8 | KIND_CHUNK);
    }

    fn handle(&self) -> Handle {
        Handle::Descriptor(self.file.try_clone().unwrap().into())
    }

    fn memory(&self) -> u64 {
        self.file.metadata().unwrap().blocks() * 512
    }
}

fn bell() -> MappedBell {
    Bells::create(&Anonymous).unwrap().take().unwrap()
}

fn seats() -> Seats<Mapped> {
    MappedSeats::create(&Anonymous, 9, 1, 8, bell()).unwrap()
}

/// A reader that trusts nobody.
fn wary(handle: Handle, seats: &Seats<Mapped>) -> Reader<Mapped> {
    let ring = MappedRing::open_if(&Anonymous, handle, None, |_| false).unwrap();
    let seat = seats.take((7, 1)).unwrap();
    Reader::new(Arc::new(ring), bell(), seat, Start::told(0)).unwrap()
}

fn honest(config: RingConfig) -> Writer<Mapped> {
    MappedRing::create(&Anonymous, config, bell()).unwrap()
}

fn config(capacity: u64, chunk_memory: u64) -> RingConfig {
    RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity,
        message_max: 4 << 20,
        chunk_memory,
        reliable: false,
        history: 0,
        retained: 0,
        bell: 0,
    }
}

/// What all of this rests on. A page that was written is known from one that was only reserved and from a
/// hole, and it cannot become a hole again, whatever its owner does; reading with a system call takes no
/// memory, and reading through a mapping does.
#[test]
fn a_page_that_was_written_stays_and_only_a_touch_gives_memory_to_a_hole() {
    let mut sparse = Sparse::new(LONG, 1 << 20, &[1]);
    fallocate(&sparse.file, FallocateFlags::empty(), PAGE as i64, PAGE as i64).unwrap();
    assert_eq!(sparse.memory(), 2 * PAGE, "written, and reserved");
    let found = Anonymous.find(sparse.handle(), Sharing::SingleWriter, ANY).unwrap();
    assert_eq!(found.written(0, LONG).unwrap(), PAGE);
    sparse.front[PAGE as usize] = 1;
    sparse.front[3 * PAGE as usize] = 1;
    assert_eq!(found.written(0, LONG).unwrap(), 2 * PAGE);
    assert_eq!(found.written(2 * PAGE, LONG).unwrap(), 2 * PAGE);
    assert_eq!(found.written(3 * PAGE + 5, LONG).unwrap(), 4 * PAGE);

    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&sparse.file, hole, 0, 8 * PAGE as i64), Err(Errno::EPERM));
    // SAFETY: nobody refers to the bytes meanwhile, and none of them changes if the kernel is what we take it
    // for.
    let removed =
        unsafe { sparse.front.unchecked_advise_range(UncheckedAdvice::Remove, 0, 8 * PAGE as usize) };
    let removed = removed.unwrap_err();
    assert_eq!(removed.raw_os_error(), Some(Errno::EPERM as i32));
    sparse.file.set_len(PAGE).unwrap_err();
    assert_eq!((found.written(0, LONG).unwrap(), sparse.memory()), (2 * PAGE, 3 * PAGE));

    let mut bytes = vec![1; 1 << 20];
    found.read_at(LONG - (1 << 20), &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    found.read_at(0, &mut bytes).unwrap();
    assert!(found.read_at(LONG - 8, &mut bytes).is_err(), "it ends before");
    assert_eq!(sparse.memory(), 3 * PAGE);
    let mapped = found.map(LONG).unwrap();
    let untouched = mapped.as_ptr().wrapping_add(2 * PAGE as usize);
    // SAFETY: in bounds of the segment, which is alive; nobody writes there.
    assert_eq!(unsafe { untouched.read_volatile() }, 0);
    assert_eq!(sparse.memory(), 4 * PAGE, "this is what must not happen to us");
}

#[test]
fn a_ring_whose_header_or_slots_lie_in_holes_is_refused_and_gets_no_memory() {
    for (sparse, ends_at) in [
        (Sparse::ring(4096), PAGE),
        (Sparse::ring(4096).written_to(CHUNKS - PAGE), CHUNKS - PAGE),
        (Sparse::ring(4096).written_to(2 * PAGE), 2 * PAGE),
    ] {
        let before = sparse.memory();
        for trusted in [true, false] {
            let error = MappedRing::open_if(&Anonymous, sparse.handle(), None, |_| trusted).unwrap_err();
            let OpenError::Hollow { at, end: CHUNKS, .. } = error else { panic!("{error}") };
            assert_eq!(at, ends_at);
        }
        assert_eq!(sparse.memory(), before);
    }
    let reserved = Sparse::ring(4096);
    fallocate(&reserved.file, FallocateFlags::empty(), 0, CHUNKS as i64).unwrap();
    let error = MappedRing::open(&Anonymous, reserved.handle(), None).unwrap_err();
    assert!(
        matches!(error, OpenError::Hollow { .. }),
        "it is to be written to, as it cannot be told from a hole: {error}"
    );
}

#[test]
fn a_message_in_a_hole_takes_no_memory_and_cuts_off_its_publisher() {
    let mut sparse = Sparse::ring(256 << 20).written_to(CHUNKS);
    let before = sparse.memory();
    let seats = seats();
    let mut reader = wary(sparse.handle(), &seats);
    sparse.commit(0, 1 << 30, 256 << 20);
    for _ in 0..2 {
        let error = reader.poll().unwrap_err();
        let PollError::Corrupt { sequence: 0, what } = error else { panic!("{error}") };
        assert!(what.contains("in a hole"), "{what}");
    }
    assert!(matches!(reader.poll_held(), Ok(None)));
    // One byte more than there is, and as much as there is: wherever the memory lies, so much may be copied.
    sparse.commit(0, 0, before - CHUNKS + 1);
    reader.poll().unwrap_err();
    fallocate(&sparse.file, FallocateFlags::empty(), 32 << 30, 5 << 20).unwrap();
    let before = sparse.memory();
    let zeros = vec![0; 5 << 20];
    for sequence in 0..CAPACITY {
        sparse.commit(sequence, 0, 5 << 20);
        let message = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
        assert!(!message.is_held() && message.bytes().len() == 5 << 20);
        assert!(message.bytes() == &zeros[..]);
    }
    assert_eq!(sparse.memory(), before);
    let pins = &seats.memory().seats()[reader.seat() as usize].pins;
    assert!(pins.iter().all(|pin| pin.load(Ordering::Relaxed) == 0));
    // What lies beyond the chunk memory, or nowhere, is as before.
    for (offset, length) in [(LONG, 64), (64, u64::MAX), (u64::MAX - 63, 64), (32, 64), (0, (256 << 20) + 1)]
    {
        sparse.commit(CAPACITY, offset, length);
        let error = reader.poll().unwrap_err();
        assert!(matches!(error, PollError::Corrupt { what: "its chunk is out of bounds", .. }), "{error}");
    }
}

/// However it takes its memory, and however little of it it writes.
#[test]
fn an_honest_publisher_is_never_taken_for_a_hollow_one() {
    for (capacity, ahead, huge) in
        [(2, 0, false), (64, 0, false), (1000, 1 << 20, false), (64, 3 << 20, true)]
    {
        let writer = if huge { MappedRing::create_aligned } else { MappedRing::create };
        let mut writer = writer(&Anonymous, config(capacity, 48 << 20), bell()).unwrap();
        if huge {
            writer.ring().huge_pages(ahead).unwrap();
        } else if ahead > 0 {
            writer.ring().prefault(ahead).unwrap();
        }
        let seats = seats();
        let mut reader = wary(writer.ring().segment().handle().unwrap(), &seats);
        let seat = u64::from(reader.seat());
        let attached = writer.desk().attach(Arc::clone(seats.memory()), seat as u32, bell(), (9, 1));
        assert_eq!(attached.unwrap().sequence(), 0);
        let mut length = 57_u64;
        for sequence in 0..120 {
            writer.admit().unwrap();
            let mut loan = Loan::take(&mut writer, length as usize).unwrap();
            let at = sequence as usize * 7919 % loan.len();
            // One byte of many: most of its pages stay as they were reserved.
            loan[at] = 0xA5;
            loan.send();
            let message = Message::try_from(reader.poll().unwrap().unwrap()).unwrap();
            assert_eq!((message.sequence(), message.bytes().len() as u64), (sequence, length));
            assert_eq!(message.bytes()[at], 0xA5);
            length = (length * 3 / 2 + 1) % (1 << 20) + 57;
        }
        assert_eq!(reader.lost(), 0);
    }
}

/// A copy is what the message was, of every length around the pieces that it is made in, at the alignment of
/// all messages, and its chunk is free at once.
#[test]
fn a_copy_is_the_message_and_lets_its_chunk_go() {
    let mut writer = honest(config(8, 1 << 20));
    let seats = seats();
    let mut reader = wary(writer.ring().segment().handle().unwrap(), &seats);
    let _start = writer.desk().attach(Arc::clone(seats.memory()), reader.seat(), bell(), (9, 1)).unwrap();
    let expected = |sequence: u64, length: usize| -> Vec<u8> {
        (0..length).map(|place| (sequence as usize * 31 + place * 7) as u8).collect()
    };
    for length in (57..=130).chain([1000, 4093, 4096, 100_000]) {
        let mut held = Vec::new();
        for _ in 0..=PINS {
            let sequence = writer.published();
            writer.admit().unwrap();
            let mut loan = Loan::take(&mut writer, length).unwrap();
            loan.copy_from_slice(&expected(sequence, length));
            loan.send();
            let taken = reader.poll().unwrap().unwrap();
            assert!(matches!(&taken, Taken::Unread(unread) if unread.length() == length as u64));
            let copy = Message::try_from(taken).unwrap();
            assert!(!copy.is_held() && copy.bytes().as_ptr().addr().is_multiple_of(16));
            held.push(copy);
        }
        // Never more than one chunk was pinned, and what was sent since has not reached the copies.
        for copy in &held {
            assert!(copy.bytes() == expected(copy.sequence(), length), "message {} is torn", copy.sequence());
        }
    }
    // One that is dropped unread lets its chunk go as well.
    for _ in 0..2 * PINS {
        writer.admit().unwrap();
        Loan::take(&mut writer, 100).unwrap().send();
        drop(reader.poll().unwrap().unwrap());
    }
    assert_eq!(reader.lost(), 0);
}

/// It was: `message_max` was checked when the ring was opened and read again by the reader, so a header that
/// was rewritten in between had a message of 512 MiB accepted.
#[test]
fn a_header_that_is_rewritten_after_it_was_checked_changes_nothing() {
    for trusted in [true, false] {
        let mut sparse = Sparse::ring(4096).written_to(1 << 20);
        let ring = MappedRing::open_if(&Anonymous, sparse.handle(), None, |_| trusted).unwrap();
        let before = ring.constants().clone();
        for word in 0..16 {
            sparse.write(word * 8, if word == 10 { 512 << 20 } else { u64::MAX });
        }
        let seats = seats();
        let seat = seats.take((7, 1)).unwrap();
        let ring = Arc::new(ring);
        let mut reader = Reader::<Mapped>::new(Arc::clone(&ring), bell(), seat, Start::told(0)).unwrap();
        assert!(!reader.reliable());
        assert_eq!(*ring.constants(), before);
        assert_eq!(hivemind_ring::retained::first(&*ring), 0);
        sparse.commit(0, 0, 4097);
        let error = reader.poll().unwrap_err();
        assert!(matches!(error, PollError::Corrupt { sequence: 0, .. }), "{error}");
        sparse.commit(0, 0, 4096);
        assert!(reader.poll().unwrap().is_some());
    }
    let words = [READER_MAGIC, LAYOUT_VERSION, 9, 1, 7, 3];
    let mut sparse = Sparse::new(1 << 20, 1 << 20, &words);
    let (seats, view) = (
        MappedSeats::open(&Anonymous, sparse.handle(), Some((9, 1))).unwrap(),
        ReaderView::open(&Anonymous, sparse.handle()).unwrap(),
    );
    for word in 0..8 {
        sparse.write(word * 8, u64::MAX);
    }
    assert_eq!((seats.constants().bell, seats.seats().len()), (3, 7));
    assert_eq!(view.seat(7), None);
}

/// A subscriber names a seat far into a hole of its segment, and a publisher would look at it with every
/// message.
#[test]
fn a_seat_in_a_hole_is_no_seat_until_it_has_memory() {
    let words = [READER_MAGIC, LAYOUT_VERSION, 9, 1, 16_000, 3];
    let mut sparse = Sparse::new(8 << 20, 8 << 20, &words);
    let state = |seat: u64| SEATS_OFFSET + seat * 512 + 48;
    sparse.write(state(0), 1 << 2 | SEAT_READ);
    sparse.write(state(10_000), 1 << 2 | SEAT_READ);
    let before = sparse.memory();
    let writer = honest(config(8, 1 << 20));
    let seats = Arc::new(MappedSeats::open(&Anonymous, sparse.handle(), Some((9, 1))).unwrap());
    assert_eq!(seats.seats().len(), 7, "those of the first page");
    let attach = |seat: u32| {
        seats.look_for(&Anonymous, sparse.handle(), seat).unwrap();
        writer.desk().attach(Arc::clone(&seats), seat, bell(), (9, 1))
    };
    for seat in [7, 8, 9_999, 10_000, 15_999, 16_000, u32::MAX] {
        assert_eq!(attach(seat), Err(AttachReaderError::NoSuchSeat { seat }));
    }
    assert_eq!(attach(0).unwrap().sequence(), 0);
    let view = ReaderView::open(&Anonymous, sparse.handle()).unwrap();
    assert!(view.seat(0).is_some() && view.seat(10_000).is_none());
    assert_eq!(sparse.memory(), before);

    // It takes one that is next, as an honest one does; another object says nothing about this one.
    sparse.write(state(7), 1 << 2 | SEAT_READ);
    let mut other = Sparse::new(8 << 20, 8 << 20, &words).written_to(8 << 20);
    other.write(state(20), 1 << 2 | SEAT_READ);
    seats.look_for(&Anonymous, other.handle(), 20).unwrap();
    assert_eq!(seats.seats().len(), 7);
    seats.look_for(&Anonymous, sparse.handle(), 7).unwrap();
    assert_eq!(seats.seats().len(), 15);
    let attached = writer.desk().attach(Arc::clone(&seats), 7, bell(), (9, 1));
    assert_eq!(attached.unwrap().sequence(), 0);

    let headless = Sparse::new(1 << 20, 1 << 20, &[]);
    assert!(MappedSeats::open(&Anonymous, headless.handle(), None).is_err());
    assert_eq!(headless.memory(), 0);
}

#[test]
fn who_only_looks_at_a_ring_maps_its_header_and_nothing_else() {
    let sparse = Sparse::ring(4096);
    let before = sparse.memory();
    let view = RingView::open(&Anonymous, sparse.handle()).unwrap();
    assert_eq!((view.capacity(), view.published(), view.reliable()), (CAPACITY, 0, false));
    assert_eq!(sparse.memory(), before);
    let inode = sparse.file.metadata().unwrap().ino().to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut mine = maps.lines().filter(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words[1] == "r--s" && words[4] == inode
    });
    let (start, end) = mine.next().unwrap().split(' ').next().unwrap().split_once('-').unwrap();
    let address = |text| u64::from_str_radix(text, 16).unwrap();
    assert_eq!((address(end) - address(start), mine.next()), (PAGE, None));
}
