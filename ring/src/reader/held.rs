//! What a poll gives: a copy of a slot, or a chunk and the pin that keeps it.

use crate::line::Line;
use crate::memory::Memory;
#[cfg(not(loom))]
use crate::sync::Ordering;
use crate::sync::{Arc, AtomicU64, strong};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A message that a poll found.
pub enum Taken<M: Memory> {
    /// A copy of a message that travelled in its slot.
    Inline(Line),
    /// A message in a chunk, pinned until this is dropped.
    Held(Held<M>),
    /// A message in a chunk that is not mapped, pinned until this is dropped.
    Unread(Unread<M>),
}

impl<M: Memory> std::fmt::Debug for Taken<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Taken::Inline(line) => line.fmt(f),
            Taken::Held(held) => held.fmt(f),
            Taken::Unread(unread) => unread.fmt(f),
        }
    }
}

/// A pinned chunk: its publisher does not touch it before this is dropped. May be dropped on any thread.
pub struct Held<M: Memory> {
    /// Where the message lies in our mapping; checked against the chunk memory.
    pub(crate) start: NonNull<u8>,
    pub(crate) length: u64,
    pub(crate) sequence: u64,
    pub(super) offset: u64,
    #[cfg_attr(loom, expect(dead_code, reason = "its drop is what the models look at"))]
    pub(crate) pin: Pin,
    pub(super) memory: PhantomData<fn() -> M>,
}

/// A pinned chunk of a publisher that is not trusted, in memory that is not mapped: it can be copied, and
/// nothing else. May be dropped on any thread.
pub struct Unread<M: Memory> {
    pub(crate) ring: Arc<M::Ring>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) sequence: u64,
    pub(super) _pin: Pin,
}

// SAFETY: the addresses stay valid on every thread while the pin is not dropped (see `orphans`); the bytes
// are only read, and the pin is an atomic.
unsafe impl<M: Memory> Send for Held<M> {}
// SAFETY: as for Send.
unsafe impl<M: Memory> Sync for Held<M> {}

/// The pin alone: its drop lets the chunk go. It points into the reader segment, which stays mapped while a
/// pin there is not 0 (see `orphans`).
pub(crate) struct Pin(pub(super) NonNull<AtomicU64>);

// SAFETY: see `Held`.
unsafe impl Send for Pin {}
// SAFETY: see `Held`.
unsafe impl Sync for Pin {}

impl<M: Memory> Held<M> {
    /// Number of the message.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Byte offset within the chunk memory, and length in bytes; within the bounds of the segment.
    #[inline]
    pub fn location(&self) -> (u64, u64) {
        (self.offset, self.length)
    }

    /// Address and length of the message.
    #[inline]
    pub fn memory(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start, self.length as usize)
    }
}

impl<M: Memory> Unread<M> {
    /// Number of the message.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl<M: Memory> std::fmt::Debug for Unread<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unread")
            .field("sequence", &self.sequence)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<M: Memory> std::fmt::Debug for Held<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("sequence", &self.sequence())
            .field("length", &self.location().1)
            .finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
impl Pin {
    /// Whether it says that the chunk is read; not in a child that was forked with it, which finds zeros.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // SAFETY: as in drop.
        let pin = unsafe { self.0.as_ref() };
        // Relaxed: this process's own word, which changes when this is dropped.
        pin.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: aligned and in bounds: made from a reference; alive: the segment stays mapped while this
        // pin is not 0, which it is until the store below: by its reader, and afterwards by the list of
        // orphans. A forked child has pages in its place, for ever.
        let pin = unsafe { self.0.as_ref() };
        // edge unpin: the last read of the chunk is done.
        pin.store(0, strong!("unpin: sample dropped", Release));
        // From here on nothing of the segment may be touched.
        crate::orphans::look();
    }
}
