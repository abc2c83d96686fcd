//! A private copy of one slot: where a message that travels in its slot is put together, and what a reader
//! takes away.
//!
//! The copy keeps the layout of the slot, stamp included, so it moves in four pieces of 16 bytes from the
//! slot to wherever the sample ends up. Copied word by word it would be read back in larger pieces than it
//! was written in, and each such read waits for the stores before it to leave the core's store buffer
//! (measured: two thirds of the time of a receive).

use crate::layout::{INLINE_BYTES, INLINE_WORDS, Slot};
use crate::sync::Ordering;

/// Up to 56 bytes of a message, aligned for every archive, and the stamp of the slot that they came from.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct Line {
    pieces: Pieces,
}

/// What moves at once: pieces of 16 bytes, where the processor has registers for them.
#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
type Pieces = [std::arch::x86_64::__m128i; 4];
#[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
type Pieces = [u64; INLINE_WORDS + 1];

const _: () = {
    assert!(size_of::<Line>() >= (INLINE_WORDS + 1) * 8);
    assert!(cfg!(loom) || size_of::<Line>() == size_of::<Slot>());
    assert!(std::mem::offset_of!(Slot, words) == 0);
    assert!(std::mem::offset_of!(Slot, stamp) == INLINE_BYTES);
};

impl Default for Line {
    #[inline]
    fn default() -> Self {
        // SAFETY: integers, of which zero is one.
        unsafe { std::mem::zeroed() }
    }
}

impl Line {
    /// Copies a slot whose stamp was found to be `found`. The words are whole only if the stamp of the slot
    /// is still the same afterwards; `None` if the copy itself shows another.
    #[inline]
    pub(crate) fn copy(slot: &Slot, found: u64) -> Option<Line> {
        let (line, stamp) = Line::load(slot, found);
        (stamp == found).then_some(line)
    }

    /// The copy, and the stamp that it shows.
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    #[inline]
    fn load(slot: &Slot, _found: u64) -> (Line, u64) {
        let (a, b, c, d, stamp);
        // SAFETY: reads the 64 bytes of `slot` (borrowed, so alive and in bounds; aligned to 64) and writes
        // no memory. An aligned piece of 16 bytes is read no less atomically than its two words, each of
        // which a relaxed atomic load could have read: so this is those eight loads, in some order.
        unsafe {
            std::arch::asm!(
                "movdqa {a}, [{from}]",
                "movdqa {b}, [{from} + 16]",
                "movdqa {c}, [{from} + 32]",
                "movdqa {d}, [{from} + 48]",
                // Here, where the compiler cannot see it: it would take the last piece apart, since it knows
                // one half of it.
                "movhlps {e}, {d}",
                "movq {stamp}, {e}",
                from = in(reg) std::ptr::from_ref(slot),
                a = out(xmm_reg) a,
                b = out(xmm_reg) b,
                c = out(xmm_reg) c,
                d = out(xmm_reg) d,
                e = out(xmm_reg) _,
                stamp = out(reg) stamp,
                options(nostack, preserves_flags, readonly),
            );
        }
        (Line { pieces: [a, b, c, d] }, stamp)
    }

    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    #[inline]
    fn load(slot: &Slot, found: u64) -> (Line, u64) {
        let mut pieces = [found; INLINE_WORDS + 1];
        for (piece, word) in pieces.iter_mut().zip(&slot.words) {
            // Relaxed: the stamp is looked at again.
            *piece = word.load(Ordering::Relaxed);
        }
        (Line { pieces }, found)
    }

    #[inline]
    fn all(&self) -> &[u64; INLINE_WORDS + 1] {
        // SAFETY: the pieces are at least that long and initialised (asserted above), aligned to 16; alive:
        // borrowed from self.
        unsafe { &*std::ptr::from_ref(&self.pieces).cast() }
    }

    #[inline]
    fn stamp(&self) -> u64 {
        self.all()[INLINE_WORDS]
    }

    /// Puts words into a slot, one by one; its other words and its stamp stay.
    #[inline(always)]
    pub(crate) fn store(words: &[u64], slot: &Slot) {
        for (place, word) in slot.words.iter().zip(words) {
            // Relaxed: the stamp on both sides of the words orders them.
            place.store(*word, Ordering::Relaxed);
        }
    }

    /// What the stamp says of the message: its length, or where it lies.
    #[inline]
    pub(crate) fn kind(&self) -> u64 {
        self.stamp() & 0xFF
    }

    /// Number of the message. Of a line that a reader took, that is.
    #[inline]
    pub fn sequence(&self) -> u64 {
        (self.stamp() >> 8).wrapping_sub(1)
    }

    /// The message: as many bytes as the stamp says. Of a line that a reader took, that is.
    #[inline]
    pub fn message(&self) -> &[u8] {
        let length = self.kind() as usize;
        &self.bytes()[..length.min(INLINE_BYTES)]
    }

    /// The words, as [`crate::writer::Writer::send_inline`] takes them.
    #[inline]
    pub fn words(&self) -> &[u64; INLINE_WORDS] {
        self.all().first_chunk().expect("the words come first")
    }

    /// All 56 bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8; INLINE_BYTES] {
        // SAFETY: the pieces begin with that many initialised bytes; alive: borrowed from self; u8 needs no
        // alignment.
        unsafe { &*std::ptr::from_ref(&self.pieces).cast() }
    }

    /// All 56 bytes.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8; INLINE_BYTES] {
        // SAFETY: as in `bytes`; exclusive: borrowed mutably from self; any bytes are valid words.
        unsafe { &mut *std::ptr::from_mut(&mut self.pieces).cast() }
    }
}
