//! Messages as bytes and as rkyv archives: writing straight into shared memory, and reading in place what was validated once.
//!
//! A message that arrived is either a copy of its slot (up to 56 bytes, on the stack) or a pinned chunk, read where its
//! publisher wrote it. [`View`] checks the archive once, on arrival, and hands out references from then on.
//!
//! What validation proves of memory that its publisher could still change is said in the design: nothing. A publisher of
//! the same user that rewrites its committed memory on purpose can break a reader that reads in place; the kernel keeps everybody else
//! from doing so. Where publishers are not trusted, copy the bytes first ([`Message::into_copy`]) and check the copy.

use crate::layout::{INLINE_BYTES, INLINE_WORDS};
use crate::memory::Memory;
use crate::reader::{Held, Taken};
use crate::writer::Writer;
use crate::{allocator::Chunk, mapped::Mapped};
use rkyv::api::low::{LowDeserializer, LowSerializer, LowValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Source};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Writer as WriteBytes};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Deserialize, Portable, Serialize};
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};

/// What serializes a message: straight into a slice, with scratch memory that is kept between messages.
pub type Archiver<'buffer, 'scratch> = LowSerializer<SliceWriter<'buffer>, ArenaHandle<'scratch>, Failure>;
/// What validates an archive.
pub type Checker<'bytes> = LowValidator<'bytes, Failure>;
/// What turns an archive back into the type.
pub type Unarchiver = LowDeserializer<Failure>;

/// Writes an archive into a slice, and remembers how much room it would have needed.
#[derive(Debug)]
pub struct SliceWriter<'buffer> {
    buffer: &'buffer mut [u8],
    position: usize,
    needed: &'buffer mut usize,
}

impl Positional for SliceWriter<'_> {
    fn pos(&self) -> usize {
        self.position
    }
}

impl<E: Source> WriteBytes<E> for SliceWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.position + bytes.len();
        let Some(place) = self.buffer.get_mut(self.position..end) else {
            *self.needed = end;
            return Err(E::new(Full));
        };
        place.copy_from_slice(bytes);
        self.position = end;
        Ok(())
    }
}

/// The slice is too small.
#[derive(Debug, thiserror::Error)]
#[error("the archive does not fit")]
struct Full;

/// Why a value was not archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The buffer has less than `needed` bytes; with so many it gets further, but perhaps not to the end.
    #[error("the archive needs at least {needed} bytes")]
    Full {
        /// Bytes needed to get past the point that was reached.
        needed: usize,
    },
    /// The type refused to be archived; look at its own `Serialize`.
    #[error("the type refused to be archived; look at its `Serialize` implementation")]
    Refused,
}

/// Archives `value` at the start of `buffer` (which is aligned to 16 or more) and returns the length of the archive.
/// No heap allocation once `scratch` has grown to what the type needs.
#[inline]
pub fn archive_into<T>(value: &T, buffer: &mut [u8], scratch: &mut Arena) -> Result<usize, ArchiveError>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>>,
{
    let mut needed = 0;
    let writer = SliceWriter { buffer, position: 0, needed: &mut needed };
    let length = rkyv::api::low::to_bytes_in_with_alloc::<_, _, Failure>(value, writer, scratch.acquire())
        .map(|writer| writer.position);
    length.map_err(|Failure| if needed > 0 { ArchiveError::Full { needed } } else { ArchiveError::Refused })
}

/// Room for a message that travels in its slot, aligned for every archive.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct InlineBuffer {
    words: [u64; INLINE_WORDS],
    _fill: u64,
}

impl Default for InlineBuffer {
    #[inline]
    fn default() -> Self {
        InlineBuffer { words: [0; INLINE_WORDS], _fill: 0 }
    }
}

impl InlineBuffer {
    /// The words, as [`Writer::send_inline`] takes them.
    #[inline]
    pub fn words(&self) -> &[u64; INLINE_WORDS] {
        &self.words
    }

    /// All 56 bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8; INLINE_BYTES] {
        // SAFETY: seven initialised words are 56 initialised bytes; alive: borrowed from self; u8 needs no alignment.
        unsafe { &*std::ptr::from_ref(&self.words).cast() }
    }

    /// All 56 bytes.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8; INLINE_BYTES] {
        // SAFETY: as in `bytes`; exclusive: borrowed mutably from self; any bytes are valid words.
        unsafe { &mut *std::ptr::from_mut(&mut self.words).cast() }
    }
}

/// An archive may be nested so deep: in a `Box`, a `Vec`, a `String` and the like, each within the other. Validation recurses,
/// and its depth would otherwise be the publisher's say over the subscriber's stack.
pub const DEPTH_MAX: usize = 256;

/// Messages are aligned to so many bytes, wherever they lie.
pub const ALIGNMENT: usize = align_of::<InlineBuffer>();

/// The bytes of a message that arrived.
#[derive(Debug)]
pub struct Message<M: Memory = Mapped> {
    sequence: u64,
    place: Place<M>,
}

#[derive(Debug)]
enum Place<M: Memory> {
    Inline { length: usize, buffer: InlineBuffer },
    Chunk(Held<M>),
    Copy(rkyv::util::AlignedVec),
}

impl<M: Memory> From<Taken<M>> for Message<M> {
    #[inline]
    fn from(taken: Taken<M>) -> Self {
        match taken {
            Taken::Inline { sequence, length, words } => Message {
                sequence,
                place: Place::Inline { length, buffer: InlineBuffer { words, _fill: 0 } },
            },
            Taken::Held(held) => Message { sequence: held.sequence(), place: Place::Chunk(held) },
        }
    }
}

impl<M: Memory> Message<M> {
    /// Number of the message at its publisher.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The bytes, aligned to 16 or more.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.place {
            Place::Inline { length, buffer } => &buffer.bytes()[..*length],
            // SAFETY: in bounds: `Held` was checked against the chunk memory; alive: the ring lives in `Held`; initialised:
            // pages start as zeros; not written by an honest publisher while `Held` keeps the pin (edge pin), and read-only
            // for everybody else. See the head of this module for the dishonest one.
            Place::Chunk(held) => unsafe { held.memory().as_ref() },
            Place::Copy(bytes) => bytes,
        }
    }

    /// Copies the bytes out of shared memory and lets the chunk go. Allocates.
    #[must_use]
    pub fn into_copy(self) -> Self {
        let Place::Chunk(_) = &self.place else { return self };
        let mut copy = rkyv::util::AlignedVec::with_capacity(self.bytes().len());
        copy.extend_from_slice(self.bytes());
        Message { sequence: self.sequence, place: Place::Copy(copy) }
    }

    /// Whether the message lies in shared memory, pinned.
    pub fn is_held(&self) -> bool {
        matches!(self.place, Place::Chunk(_))
    }
}

/// A message that was validated as the archive `A`, readable in place. It may be sent to other threads, or shared with them, if
/// the archive may.
///
/// ```
/// fn share<T: Send + Sync>() {}
/// share::<hivemind_ring::archive::View<u8>>();
/// ```
/// ```compile_fail
/// fn share<T: Send + Sync>() {}
/// share::<hivemind_ring::archive::View<std::cell::Cell<u8>>>();
/// ```
#[derive(Debug)]
pub struct View<A, M: Memory = Mapped> {
    message: Message<M>,
    /// Sent and shared like the archive itself.
    archive: PhantomData<A>,
}

/// The bytes are no valid archive of the type, or one that is nested too deep: their publisher is broken or hostile.
#[derive(Debug, thiserror::Error)]
#[error(
    "message {sequence} of {length} bytes is no valid archive of its type, or nested deeper than {DEPTH_MAX}; its publisher is \
     broken or hostile"
)]
pub struct InvalidArchive {
    /// Number of the message.
    pub sequence: u64,
    /// Its length in bytes.
    pub length: usize,
}

impl<A, M> View<A, M>
where
    A: Portable + for<'b> CheckBytes<Checker<'b>>,
    M: Memory,
{
    /// Validates the whole archive.
    #[inline]
    pub fn check(message: Message<M>) -> Result<Self, InvalidArchive> {
        const { assert!(align_of::<A>() <= ALIGNMENT, "messages are aligned to 16 bytes at most") };
        let bytes = message.bytes();
        // rkyv counts down from this, also for the root, and says no at one.
        let depth = NonZeroUsize::new(DEPTH_MAX + 2);
        let mut validator = Validator::new(ArchiveValidator::with_max_depth(bytes, depth), ());
        match rkyv::api::access_with_context::<A, _, Failure>(bytes, &mut validator) {
            Ok(_) => Ok(View { message, archive: PhantomData }),
            Err(Failure) => Err(InvalidArchive { sequence: message.sequence, length: message.bytes().len() }),
        }
    }
}

impl<A, M: Memory> View<A, M> {
    /// The message.
    #[inline]
    pub fn message(&self) -> &Message<M> {
        &self.message
    }

    /// Deserializes a copy.
    pub fn deserialize<T>(&self) -> Result<T, ArchiveError>
    where
        T: Archive<Archived = A>,
        A: Portable + Deserialize<T, Unarchiver>,
    {
        rkyv::api::low::deserialize::<T, Failure>(&**self).map_err(|Failure| ArchiveError::Refused)
    }
}

impl<A: Portable, M: Memory> Deref for View<A, M> {
    type Target = A;
    #[inline]
    fn deref(&self) -> &A {
        // SAFETY: `check` validated these very bytes as an archive of A with its root at the end; they do not change
        // (see `Message::bytes`); a copy in the slot may have moved since, but to memory of the same alignment, and
        // archives only hold relative pointers into themselves.
        unsafe { rkyv::access_unchecked::<A>(self.message.bytes()) }
    }
}

/// Memory of one message, to be filled in place; `send` commits it, drop gives it back.
#[derive(Debug)]
pub struct Loan<'writer, M: Memory = Mapped> {
    writer: &'writer mut Writer<M>,
    /// `None` only between `send` and drop.
    chunk: Option<Chunk>,
    length: usize,
}

impl<'writer, M: Memory> Loan<'writer, M> {
    /// Takes memory for `length` bytes. Call [`Writer::admit`] first. The bytes are what an earlier message left there, or zeros.
    pub fn take(writer: &'writer mut Writer<M>, length: usize) -> Result<Self, crate::writer::AllocateError> {
        let chunk = writer.allocate(length as u64)?;
        Ok(Loan { writer, chunk: Some(chunk), length })
    }

    /// Commits the first `length` bytes (all of them, if `length` is larger) and gives the rest back. Short messages move into their slot. Returns how
    /// many subscribers are attached.
    pub fn send_prefix(mut self, length: usize) -> usize {
        self.length = self.length.min(length);
        let length = self.length;
        if length <= INLINE_BYTES {
            let mut buffer = InlineBuffer::default();
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
        // SAFETY: in bounds: `chunk_memory` asserts it; exclusive: the allocator gave this chunk to this loan, no reader
        // has a pin on it (edge unpin) and none can find it before the commit; initialised: pages start as zeros;
        // alive: the writer is borrowed.
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
