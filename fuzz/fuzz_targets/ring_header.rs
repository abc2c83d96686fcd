//! Opening a peer's segments, ring, reader segment and doorbells: any content, any length, any seals.
//!
//! What opens has slots, chunks, seats and bells within the mapping: they are read here, under the address
//! sanitizer and before the eyes of the kernel; bells, which are the only ones that a peer may write, are
//! rung, too.
#![no_main]

use std::ffi::CString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt as _;

use arbitrary::Arbitrary;
use hivemind_ring::bell;
use hivemind_ring::layout::{LAYOUT_VERSION, READER_MAGIC, RING_MAGIC, SLOTS_OFFSET};
use hivemind_ring::mapped::{BELLS_MAX, Bells, MappedRing, MappedSeats};
use hivemind_ring::memory::{BellMemory as _, RingMemory as _, SeatMemory as _};
use hivemind_ring::segment::{Anonymous, Handle};
use hivemind_ring::sync::Ordering;
use hivemind_ring::view::{ReaderView, RingView};
use libfuzzer_sys::fuzz_target;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

#[derive(Debug, Arbitrary)]
struct Input {
    /// Pages, and bytes beyond the last whole one.
    pages: u8,
    surplus: u8,
    seals: u8,
    kind: Kind,
    /// Sound words at the start, which then are changed; doorbells, which have no such words, get their
    /// length.
    sound: bool,
    capacity_log: u8,
    changes: Vec<(u16, u64)>,
    /// A line of the doorbells, as a header names it.
    line: u32,
}

/// What it is opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Kind {
    Ring,
    Reader,
    Bells,
}

const BELLS_LENGTH: u64 = BELLS_MAX as u64 * 64;

fuzz_target!(|input: Input| {
    let Some(handle) = segment(&input) else { return };
    match input.kind {
        Kind::Ring => open_ring(&input, handle),
        Kind::Reader => open_reader(handle),
        Kind::Bells => open_bells(&input, handle),
    }
});

fn open_ring(input: &Input, handle: Handle) {
    if let Ok(view) = RingView::open(&Anonymous, handle.try_clone().expect("a descriptor to spare")) {
        let _ = (view.published(), view.capacity(), view.reliable(), view.closed(), view.committed_bytes());
    }
    let apart = handle.try_clone().expect("a descriptor to spare");
    if let Ok(ring) = MappedRing::open_if(&Anonymous, apart, None, |_| false) {
        assert!(ring.segment().len() == ring.constants().chunks_offset && ring.chunks().1 == 0);
        let chunks = ring.unmapped().expect("nobody is trusted");
        let mut bytes = [MaybeUninit::uninit(); 64];
        if chunks.length() >= 64 {
            chunks.read(chunks.length() - 64, &mut bytes).expect("it is within the segment");
        }
        let _ = chunks.is_backed(chunks.length());
    }
    let Ok(ring) = MappedRing::open(&Anonymous, handle, None) else { return };
    let slots = ring.slots();
    assert!(slots.len().is_power_of_two());
    assert!(slots[slots.len() - 1].stamp.load(Ordering::Relaxed) == 0 || !input.changes.is_empty());
    let (_, length) = ring.chunks();
    assert!(SLOTS_OFFSET + 64 * slots.len() as u64 + length <= 256 * 4096);
}

fn open_reader(handle: Handle) {
    if let Ok(view) = ReaderView::open(&Anonymous, handle.try_clone().expect("a descriptor to spare")) {
        for seat in [0, 1, 7, u32::MAX] {
            let _ = view.seat(seat);
        }
    }
    let again = handle.try_clone().expect("a descriptor to spare");
    let Ok(seats) = MappedSeats::open(&Anonymous, handle, None) else { return };
    let _ = seats.look_for(&Anonymous, again, u32::MAX);
    if let Some(last) = seats.seats().last() {
        let _ = last.pins[0].load(Ordering::Relaxed);
    }
}

fn open_bells(input: &Input, handle: Handle) {
    let Ok(bells) = Bells::open(&Anonymous, handle) else { return };
    assert!(input.sound, "no other length is that of doorbells");
    assert_eq!(bells.lines().len(), BELLS_MAX as usize);
    let Some(line) = bells.line(input.line) else {
        assert!(input.line >= BELLS_MAX);
        return;
    };
    let before = line.bell().wake.load(Ordering::Relaxed);
    bell::ring(&line.bell().wake);
    assert_eq!(bells.lines()[input.line as usize].wake.load(Ordering::Relaxed), before.wrapping_add(1));
}

fn segment(input: &Input) -> Option<Handle> {
    let name = CString::new("fuzz").ok()?;
    let descriptor =
        memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).ok()?;
    let file = File::from(descriptor);
    let bells = input.sound && input.kind == Kind::Bells;
    let any = u64::from(input.pages) * 4096 + u64::from(input.surplus);
    file.set_len(if bells { BELLS_LENGTH } else { any }).ok()?;
    let length = file.metadata().ok()?.len();
    let write = |word: u64, value: u64| {
        if word * 8 + 8 <= length {
            let _ = file.write_all_at(&value.to_le_bytes(), word * 8);
        }
    };
    if input.sound && !bells {
        let capacity = 1u64 << (input.capacity_log % 22);
        let chunks = (SLOTS_OFFSET + capacity * 64).next_multiple_of(4096);
        let words: &[u64] = if input.kind == Kind::Ring {
            &[
                RING_MAGIC,
                LAYOUT_VERSION,
                7,
                1,
                0,
                0,
                capacity,
                SLOTS_OFFSET,
                chunks,
                length.saturating_sub(chunks),
                4096,
            ]
        } else {
            &[READER_MAGIC, LAYOUT_VERSION, 7, 1, capacity, 0]
        };
        for (word, value) in (0..).zip(words) {
            write(word, *value);
        }
    }
    for (word, value) in input.changes.iter().take(64) {
        write(u64::from(*word), *value);
    }
    let seals = match input.seals {
        0 => SealFlag::empty(),
        1 => SealFlag::F_SEAL_GROW,
        2 => SealFlag::F_SEAL_SHRINK,
        3 => SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW,
        4 => SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE,
        _ => {
            SealFlag::F_SEAL_SHRINK
                | SealFlag::F_SEAL_GROW
                | SealFlag::F_SEAL_FUTURE_WRITE
                | SealFlag::F_SEAL_SEAL
        }
    };
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).ok()?;
    Some(Handle::Descriptor(file.into()))
}
