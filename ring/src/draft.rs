//! A writer whose next message is filled in across calls: for what comes over a network, part by part.
//!
//! The memory of a long message comes as it is filled in ([`Drafter::reach`]): merely announcing a long
//! message takes nothing.
//!
//! The draft is memory of the ring that no reader can find (it was allocated, not committed). If the process
//! dies it is gone with the ring; no reader ever sees a part of a message.
use crate::allocator::Chunk;
use crate::layout::INLINE_BYTES;
use crate::line::Line;
use crate::memory::{Memory, ReserveError};
use crate::writer::{AdmitError, AllocateError, Writer};

/// See the head of the module.
#[derive(Debug)]
pub struct Drafter<M: Memory> {
    writer: Writer<M>,
    draft: Draft,
}

#[derive(Debug)]
enum Draft {
    Nothing,
    /// It travels in its slot.
    Line {
        line: Line,
        length: usize,
    },
    Chunk {
        chunk: Chunk,
        length: usize,
    },
}

impl<M: Memory> Drafter<M> {
    /// Fills in messages for this writer.
    pub fn new(writer: Writer<M>) -> Self {
        Drafter { writer, draft: Draft::Nothing }
    }

    /// The writer.
    pub fn writer(&self) -> &Writer<M> {
        &self.writer
    }

    /// Makes sure that one message may be committed; see [`Writer::admit`].
    ///
    /// # Errors
    /// [`AdmitError::Full`]: not now.
    pub fn admit(&mut self) -> Result<(), AdmitError> {
        self.writer.admit()
    }

    /// How many messages can be committed before a reader has read on; see [`Writer::room`].
    pub fn room(&mut self) -> u64 {
        self.writer.room()
    }

    /// The memory for messages grows to no more than `bytes` from now on; see [`Writer::limit_growth`].
    pub fn limit_growth(&mut self, bytes: u64) {
        self.writer.limit_growth(bytes);
    }

    /// Takes a place for a message of `length` bytes, instead of what was taken before.
    ///
    /// # Errors
    /// [`AllocateError`]; nothing is drafted then.
    pub fn begin(&mut self, length: usize) -> Result<(), AllocateError> {
        self.abandon();
        self.draft = if length <= INLINE_BYTES {
            Draft::Line { line: Line::default(), length }
        } else {
            Draft::Chunk { chunk: self.writer.allocate_ahead(length as u64)?, length }
        };
        Ok(())
    }

    /// Sees to it that the first `length` bytes of the place are memory; up to as much again may be taken
    /// ahead.
    ///
    /// # Errors
    /// The system has none; what there was stays.
    pub fn reach(&mut self, length: usize) -> Result<(), ReserveError> {
        match &self.draft {
            Draft::Chunk { chunk, .. } => self.writer.back(chunk, length as u64),
            Draft::Nothing | Draft::Line { .. } => Ok(()),
        }
    }

    /// The memory that is there for the message: all that was [reached](Drafter::reach), and maybe more;
    /// empty when there is none. The bytes are what an earlier message left there, or zeros.
    pub fn memory(&mut self) -> &mut [u8] {
        match &mut self.draft {
            Draft::Nothing => &mut [],
            Draft::Line { line, length } => &mut line.bytes_mut()[..*length],
            Draft::Chunk { chunk, length } => {
                let backed = (self.writer.backed(chunk) as usize).min(*length);
                let mut memory = self.writer.chunk_memory(chunk);
                // SAFETY: in bounds: `chunk_memory` asserts it; exclusive: the allocator gave this chunk to
                // this draft, no reader has a pin on it (edge unpin) and none can find it before the commit,
                // and self is borrowed mutably; initialised: pages start as zeros; alive: the writer is ours.
                let bytes = unsafe { memory.as_mut() };
                &mut bytes[..backed]
            }
        }
    }

    /// Commits what was filled in, if anything was. Call [`Drafter::admit`] first, and [`Drafter::announce`]
    /// afterwards: readers can find the message, but those that sleep are not woken yet.
    ///
    /// # Panics
    /// If the message was not [reached](Drafter::reach) to its end.
    pub fn commit(&mut self) {
        match std::mem::replace(&mut self.draft, Draft::Nothing) {
            Draft::Nothing => {}
            Draft::Line { line, length } => self.writer.send_inline_quietly(line.words(), length),
            Draft::Chunk { mut chunk, length } => {
                assert!(self.writer.backed(&chunk) >= length as u64, "what is committed was filled in");
                self.writer.shrink(&mut chunk, length as u64);
                self.writer.send_chunk_quietly(chunk, length as u64);
            }
        }
    }

    /// Wakes the readers that sleep: one system call for each, after however many commits.
    pub fn announce(&mut self) {
        self.writer.announce();
    }

    /// Gives the memory back.
    pub fn abandon(&mut self) {
        if let Draft::Chunk { chunk, .. } = std::mem::replace(&mut self.draft, Draft::Nothing) {
            self.writer.release(chunk);
        }
    }

    /// Counts a message as lost; see [`Writer::skip`]. Call [`Drafter::admit`] first.
    pub fn skip(&mut self) {
        self.writer.skip();
    }

    /// Counts `left` messages as lost, in at most as many steps as the ring has slots; see
    /// [`Writer::skip_many`].
    ///
    /// # Errors
    /// [`AdmitError`]; `left` says how many are not counted yet.
    pub fn skip_many(&mut self, left: &mut u64) -> Result<(), AdmitError> {
        self.writer.skip_many(left)
    }
}
