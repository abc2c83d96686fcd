//! What goes to the socket at once: heads lie here, payloads where they are.

use hivemind_core::link::candidate::ExportId;

/// Frames of one batch, and about how many bytes.
const BATCH_FRAMES: usize = 128;
const BATCH_BYTES: usize = 256 * 1024;
/// Pieces that the system takes with one call.
const PIECES_MAX: usize = 256;

/// What goes to the socket at once: heads lie here, payloads where they are.
#[derive(Default)]
pub(super) struct Batch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
    frames: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Part {
    /// Bytes of `heads`.
    Heads { start: usize, end: usize },
    /// Bytes of a message that is held.
    Payload { export: ExportId, sequence: u64, start: usize, end: usize },
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.parts.clear();
        (self.bytes, self.frames) = (0, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames >= BATCH_FRAMES || self.bytes >= BATCH_BYTES || self.parts.len() + 2 > PIECES_MAX
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Bytes of a [`Part::Heads`].
    pub(super) fn heads(&self, start: usize, end: usize) -> &[u8] {
        &self.heads[start..end]
    }

    /// Where heads are appended, and where they begin. [`Batch::add_heads`] comes after it.
    pub(super) fn heads_mut(&mut self) -> (&mut Vec<u8>, usize) {
        let start = self.heads.len();
        (&mut self.heads, start)
    }

    /// Heads were appended from `start` on.
    pub(super) fn add_heads(&mut self, start: usize) {
        let end = self.heads.len();
        self.bytes += end - start;
        self.frames += 1;
        match self.parts.last_mut() {
            Some(Part::Heads { end: last, .. }) if *last == start => *last = end,
            _ => self.parts.push(Part::Heads { start, end }),
        }
    }

    /// The payload of the head that was added last follows it.
    pub(super) fn add_payload(&mut self, export: ExportId, sequence: u64, start: usize, end: usize) {
        self.bytes += end - start;
        self.parts.push(Part::Payload { export, sequence, start, end });
    }
}
