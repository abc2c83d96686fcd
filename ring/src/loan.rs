//! Memory that is filled in place before it is sent.
//!
//! A chunk and the writer that it is of are one value, so no chunk ever reaches another writer: of two
//! writers whose chunks are mixed up, both would hand out the same memory. If the process dies with a loan,
//! the message never existed.

use crate::allocator::Chunk;
use crate::layout::INLINE_BYTES;
use crate::line::Line;
use crate::memory::Memory;
use crate::writer::{AdmitError, AllocateError, Writer};
use std::ops::{Deref, DerefMut};

/// Memory of one message, to be filled in place; `send` commits it, drop gives it back.
#[derive(Debug)]
pub struct Loan<'writer, M: Memory> {
    writer: &'writer mut Writer<M>,
    /// `None` only between `send` and drop.
    chunk: Option<Chunk>,
    length: usize,
}

impl<'writer, M: Memory> Loan<'writer, M> {
    /// Takes memory for `length` bytes. Call [`Writer::admit`] first. The bytes are what an earlier message
    /// left there, or zeros.
    pub fn take(writer: &'writer mut Writer<M>, length: usize) -> Result<Self, AllocateError> {
        let chunk = writer.allocate(length as u64)?;
        Ok(Loan { writer, chunk: Some(chunk), length })
    }

    /// Commits the first `length` bytes (all of them, if `length` is larger) and gives the rest back. Short
    /// messages move into their slot. Returns how many subscribers are attached; in a child that was forked
    /// with the loan none, which get nothing.
    pub fn send_prefix(mut self, length: usize) -> usize {
        if self.writer.is_forked() {
            return 0;
        }
        self.length = self.length.min(length);
        let length = self.length;
        if length <= INLINE_BYTES {
            let mut buffer = Line::default();
            buffer.bytes_mut()[..length].copy_from_slice(&self);
            // The chunk goes back when self is dropped.
            return self.writer.send_inline(buffer.words(), length);
        }
        let Some(mut chunk) = self.chunk.take() else {
            unreachable!("the chunk is there until send or drop")
        };
        self.writer.shrink(&mut chunk, length as u64);
        self.writer.send_chunk(chunk, length as u64)
    }

    /// Commits all bytes.
    pub fn send(self) -> usize {
        self.send_prefix(usize::MAX)
    }

    /// As [`Writer::admit`], for one who takes memory before it asks.
    #[doc(hidden)]
    pub fn admit(&mut self) -> Result<(), AdmitError> {
        self.writer.admit()
    }

    /// Where the memory lies in the chunk area, in bytes: for models, whose chunks lie elsewhere.
    #[doc(hidden)]
    pub fn offset(&self) -> u64 {
        self.chunk().offset()
    }

    fn chunk(&self) -> &Chunk {
        match &self.chunk {
            Some(chunk) => chunk,
            None => unreachable!("the chunk is there until send or drop"),
        }
    }
}

impl<M: Memory> Deref for Loan<'_, M> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let memory = self.writer.chunk_memory(self.chunk());
        // SAFETY: in bounds: `chunk_memory` asserts it; exclusive: the allocator gave this chunk to this
        // loan, no reader has a pin on it (edge unpin) and none can find it before the commit; initialised:
        // pages start as zeros; alive: the writer is borrowed.
        let bytes = unsafe { memory.as_ref() };
        &bytes[..self.length]
    }
}

impl<M: Memory> DerefMut for Loan<'_, M> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let mut memory = self.writer.chunk_memory(self.chunk());
        // SAFETY: as in `deref`; exclusive: self is borrowed mutably.
        let bytes = unsafe { memory.as_mut() };
        &mut bytes[..self.length]
    }
}

impl<M: Memory> Drop for Loan<'_, M> {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.writer.release(chunk);
        }
    }
}
