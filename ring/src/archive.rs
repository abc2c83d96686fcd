//! Messages as bytes and as rkyv archives: writing straight into shared memory, and reading in place what was
//! validated once.
//!
//! A message that arrived is either a copy of its slot (up to 56 bytes, on the stack) or a pinned chunk, read
//! where its publisher wrote it. [`View`] checks the archive once, on arrival, and hands out references from
//! then on.
//!
//! What validation proves of memory that its publisher could still change is said in the design: nothing. A
//! publisher of the same user that rewrites its committed memory on purpose can break a reader that reads in
//! place; the kernel keeps everybody else from doing so. Where publishers are not trusted, their chunks are
//! not mapped ([`crate::unmapped`]): the bytes are copied ([`Message::copy`]), and the copy is checked: every
//! byte is read once, whatever its publisher does meanwhile is in the copy or is not, and what was checked
//! does not change any more.

use crate::layout::{INLINE_BYTES, INLINE_WORDS, KIND_CHUNK, stamp};
use crate::line::Line;
use crate::mapped::Mapped;
use crate::memory::{Memory, RingMemory as _};
use crate::reader::{Held, Pin, Taken, Unread};
use rkyv::api::low::{LowDeserializer, LowSerializer};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Source, Strategy, fail};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::writer::Buffer;
use rkyv::ser::{Positional, Writer as WriteBytes};
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::{ArchiveContext, Validator};
use rkyv::{Archive, Deserialize, Portable, Serialize};
use std::alloc::Layout;
use std::io;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

/// [`crate::loan::Loan`] in mapped memory.
pub type Loan<'writer, M = Mapped> = crate::loan::Loan<'writer, M>;

/// What serializes a message: straight into a slice, with scratch memory that is kept between messages.
pub type Archiver<'buffer, 'scratch> = LowSerializer<Buffer<'buffer>, ArenaHandle<'scratch>, Failure>;
/// What finds out how long an archive would be.
pub type Measurer<'scratch> = LowSerializer<Measure, ArenaHandle<'scratch>, Failure>;
/// What validates an archive.
pub type Checker<'bytes> = Strategy<Validator<Bounds<'bytes>, ()>, Failure>;
/// What turns an archive back into the type.
pub type Unarchiver = LowDeserializer<Failure>;

/// Counts the bytes of an archive and writes none.
#[derive(Debug, Default)]
pub struct Measure {
    position: usize,
}

impl Positional for Measure {
    fn pos(&self) -> usize {
        self.position
    }
}

impl<E: Source> WriteBytes<E> for Measure {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.position += bytes.len();
        Ok(())
    }
}

/// The type refused to be archived or deserialized; look at its own `Serialize` or `Deserialize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the type refused; look at its `Serialize` and `Deserialize` implementations")]
pub struct Refused;

/// Archives `value` at the start of `buffer` (which is aligned to 16 or more) and returns the length of the
/// archive. `None`: the buffer is too small, or the type refused; [`measure`] tells which. No heap allocation
/// once `scratch` has grown to what the type needs.
#[inline]
pub fn archive_into<T>(value: &T, buffer: &mut [u8], scratch: &mut Arena) -> Option<usize>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>>,
{
    let buffer = Buffer::from(buffer);
    let archived = rkyv::api::low::to_bytes_in_with_alloc::<_, _, Failure>(value, buffer, scratch.acquire());
    archived.ok().map(|buffer| buffer.len())
}

/// The length that the archive of `value` will have.
pub fn measure<T>(value: &T, scratch: &mut Arena) -> Result<usize, Refused>
where
    T: for<'s> Serialize<Measurer<'s>>,
{
    let measure = Measure::default();
    let measured = rkyv::api::low::to_bytes_in_with_alloc::<_, _, Failure>(value, measure, scratch.acquire());
    measured.map(|measure| measure.position).map_err(|Failure| Refused)
}

/// An archive may be nested so deep: in a `Box`, a `Vec`, a `String` and the like, each within the other.
/// Validation recurses, and its depth would otherwise be the publisher's say over the subscriber's stack.
pub const DEPTH_MAX: usize = 256;

/// Alignment of messages in bytes, wherever they lie.
pub const ALIGNMENT: usize = align_of::<Line>();

/// The bytes of a message that arrived: a copy of its slot, or where they lie and what keeps them there.
///
/// It moves in pieces of 16 bytes, just as a line was read (see [`crate::line`]): so nothing in it may have
/// been written in smaller ones shortly before. That is why there is no tag beside the content; its last
/// word, the stamp, tells the kind already.
#[repr(C)]
pub struct Message<M: Memory = Mapped> {
    content: Content,
    niche: Niche,
    /// Written together with the niche, for the same reason.
    fill: u64,
    memory: PhantomData<fn() -> M>,
}

/// Says nothing. `Option` and `Result` of a message keep their own tag in the values that it does not have;
/// in front of the message, the tag would shift the pieces.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Niche {
    Taken = 1,
}

/// Which of them it is, is told by the kind in the stamp, which all have in the same place.
#[repr(C)]
union Content {
    /// A kind of up to [`INLINE_BYTES`].
    line: Line,
    /// [`KIND_CHUNK`].
    chunk: ManuallyDrop<Chunk>,
    /// [`KIND_COPY`].
    copy: ManuallyDrop<Copied>,
    stamped: Stamped,
}

/// A message in a pinned chunk.
#[repr(C, align(16))]
struct Chunk {
    start: NonNull<u8>,
    length: u64,
    pin: Pin,
    unused: [MaybeUninit<u64>; INLINE_WORDS - 3],
    stamp: u64,
}

/// A message that was copied to memory of this process.
#[repr(C, align(16))]
struct Copied {
    pieces: Box<[Piece]>,
    length: u64,
    unused: [MaybeUninit<u64>; INLINE_WORDS - 3],
    stamp: u64,
}

/// What a copy is made of: so it is aligned as messages are.
#[repr(C, align(16))]
struct Piece([u64; PIECE_WORDS]);

const PIECE_WORDS: usize = ALIGNMENT / 8;

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Stamped {
    unused: [MaybeUninit<u64>; INLINE_WORDS],
    stamp: u64,
}

const _: () = {
    assert!(size_of::<Chunk>() == size_of::<Line>());
    assert!(size_of::<Copied>() == size_of::<Line>());
    assert!(size_of::<Stamped>() == size_of::<Line>());
    assert!(size_of::<Piece>() == ALIGNMENT && align_of::<Piece>() == ALIGNMENT);
};

// SAFETY: a chunk is read only, from wherever (see `Held`); lines and copies are plain values.
unsafe impl<M: Memory> Send for Message<M> {}
// SAFETY: as for Send.
unsafe impl<M: Memory> Sync for Message<M> {}

/// The kind of a message that was copied to memory of this process. No slot says so: a reader refuses it.
const KIND_COPY: u64 = 0xF8;

impl<M: Memory> From<Line> for Message<M> {
    #[inline(always)]
    fn from(line: Line) -> Self {
        // Outside of this crate a line never is of another kind.
        assert!(line.kind() <= INLINE_BYTES as u64, "a message in the line");
        Message::new(Content { line })
    }
}

impl<M: Memory> From<Held<M>> for Message<M> {
    #[inline(always)]
    fn from(held: Held<M>) -> Self {
        let stamp = stamp(held.sequence, KIND_CHUNK);
        let Held { start, length, pin, .. } = held;
        let unused = [MaybeUninit::uninit(); _];
        Message::new(Content { chunk: ManuallyDrop::new(Chunk { start, length, pin, unused, stamp }) })
    }
}

impl<M: Memory> TryFrom<Taken<M>> for Message<M> {
    type Error = NoCopy;

    /// Copies what is not mapped.
    #[inline]
    fn try_from(taken: Taken<M>) -> Result<Self, NoCopy> {
        match taken {
            Taken::Inline(line) => Ok(line.into()),
            Taken::Held(held) => Ok(held.into()),
            Taken::Unread(unread) => Message::copy(&unread),
        }
    }
}

impl<M: Memory> Drop for Message<M> {
    #[inline]
    fn drop(&mut self) {
        if self.kind() > INLINE_BYTES as u64 {
            self.let_go();
        }
    }
}

impl<M: Memory> std::fmt::Debug for Message<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("sequence", &self.sequence())
            .field("length", &self.bytes_unasked().len())
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}

impl<M: Memory> Message<M> {
    #[inline(always)]
    fn new(content: Content) -> Self {
        Message { content, niche: Niche::Taken, fill: 0, memory: PhantomData }
    }

    #[inline(always)]
    fn stamp(&self) -> u64 {
        // SAFETY: all kinds of content have an initialised stamp in this place.
        unsafe { self.content.stamped.stamp }
    }

    #[inline(always)]
    fn kind(&self) -> u64 {
        self.stamp() & 0xFF
    }

    /// Number of the message at its publisher.
    #[inline]
    pub fn sequence(&self) -> u64 {
        (self.stamp() >> 8).wrapping_sub(1)
    }

    /// The bytes, aligned to 16 or more.
    ///
    /// # Panics
    /// If the message lies in shared memory and was received by another process, from which this one was
    /// forked: the memory is not here. Copy what children need before the fork.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        if self.kind() == KIND_CHUNK {
            // SAFETY: of this kind, so this is what was stored.
            let chunk = unsafe { &self.content.chunk };
            if !chunk.pin.is_set() {
                not_here();
            }
        }
        self.bytes_unasked()
    }

    /// The bytes of a message that this process received.
    #[inline]
    fn bytes_unasked(&self) -> &[u8] {
        match self.kind() {
            KIND_CHUNK => {
                // SAFETY: of this kind, so this is what was stored.
                let chunk = unsafe { &self.content.chunk };
                let memory = NonNull::slice_from_raw_parts(chunk.start, chunk.length as usize);
                // SAFETY: in bounds: checked against the chunk memory by the poll; alive: the pin keeps the
                // ring mapped (and in a forked child there are zeros in its place, for ever); initialised:
                // pages start as zeros; not written by an honest publisher while the pin is there (edge pin),
                // and read-only for everybody else. See the head of this module for the dishonest one.
                unsafe { memory.as_ref() }
            }
            KIND_COPY => {
                // SAFETY: of this kind, so this is what was stored.
                let copied = unsafe { &self.content.copy };
                let start: *const u8 = copied.pieces.as_ptr().cast();
                // SAFETY: in bounds: the pieces are long enough (see `copy`), all initialised; alive and not
                // written: they belong to self.
                unsafe { std::slice::from_raw_parts(start, copied.length as usize) }
            }
            _ => {
                // SAFETY: of no other kind, so this is what was stored.
                let line = unsafe { &self.content.line };
                line.message()
            }
        }
    }

    /// Copies a message out of shared memory that is not mapped, each byte read once. Allocates as many as it
    /// has; its publisher has taken at least as much memory (see [`crate::unmapped`]).
    ///
    /// # Errors
    /// [`NoCopy`] when there is no memory.
    pub fn copy(unread: &Unread<M>) -> Result<Self, NoCopy> {
        let Unread { offset, length, sequence, .. } = *unread;
        let no_copy = |reason| NoCopy { sequence, length: length as usize, reason };
        let source = unread.ring.unmapped().ok_or_else(|| no_copy(io::ErrorKind::NotFound))?;
        // Fits: at most MESSAGE_BYTES_MAX.
        let bytes = length as usize;
        let mut pieces: Vec<Piece> = Vec::new();
        let count = bytes.div_ceil(ALIGNMENT);
        pieces.try_reserve_exact(count).map_err(|_| no_copy(io::ErrorKind::OutOfMemory))?;
        let spare = pieces.spare_capacity_mut();
        if let Some(last) = count.checked_sub(1) {
            // The bytes behind the message in the last piece.
            spare[last].write(Piece([0; PIECE_WORDS]));
        }
        let start: *mut MaybeUninit<u8> = spare.as_mut_ptr().cast();
        // SAFETY: in bounds: the spare pieces are long enough, the call before this saw to it; exclusive:
        // borrowed from the vector, which is not touched while this slice is; alive: as long; bytes need no
        // alignment and may be uninitialised.
        let into = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
        source.read(offset, into).map_err(|error| no_copy(error.kind()))?;
        // SAFETY: initialised: every byte of the message by `read`, and what is behind it in the last piece
        // above; all bytes are valid words; in bounds: `count` were reserved.
        unsafe { pieces.set_len(count) };
        let pieces = pieces.into_boxed_slice();
        let (stamp, unused) = (stamp(sequence, KIND_COPY), [MaybeUninit::uninit(); _]);
        Ok(Message::new(Content { copy: ManuallyDrop::new(Copied { pieces, length, unused, stamp }) }))
    }

    /// Whether the message lies in shared memory, pinned.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.kind() == KIND_CHUNK
    }

    #[inline]
    fn let_go(&mut self) {
        if self.kind() == KIND_CHUNK {
            // SAFETY: of this kind, so this is what was stored.
            let chunk = unsafe { &mut self.content.chunk };
            // SAFETY: once, as only drop calls this.
            unsafe { ManuallyDrop::drop(chunk) }
        } else {
            // SAFETY: only drop calls this, for chunks and for copies, so this is what was stored.
            let copied = unsafe { &mut self.content.copy };
            // SAFETY: once, as only drop calls this.
            unsafe { ManuallyDrop::drop(copied) }
        }
    }
}

/// Zeros would be no message.
#[cold]
#[inline(never)]
fn not_here() -> ! {
    panic!(
        "this sample was received by another process, and process {} was forked from it: its memory is not here; copy what children need \
         (`to_owned`) before the fork",
        std::process::id()
    )
}

/// A message could not be copied, mostly for want of memory: free some, or raise the limit of this process or
/// container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "message {sequence} of {length} bytes could not be copied ({reason}); free memory, or raise the limit of this process or container"
)]
#[non_exhaustive]
pub struct NoCopy {
    /// Number of the message.
    pub sequence: u64,
    /// Its length in bytes.
    pub length: usize,
    /// What the system said.
    pub reason: io::ErrorKind,
}

/// A message that was validated as the archive `A`, readable in place. It may be sent to other threads, or
/// shared with them, if the archive may.
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
#[repr(C)]
pub struct View<A, M: Memory = Mapped> {
    message: Message<M>,
    /// Sent and shared like the archive itself.
    archive: PhantomData<A>,
}

/// The bytes are no valid archive of the type, or one that is nested too deep: their publisher is broken or
/// hostile.
#[derive(Debug, thiserror::Error)]
#[error(
    "message {sequence} of {length} bytes is no valid archive of its type, or nested deeper than {DEPTH_MAX}; its publisher is \
     broken or hostile"
)]
#[non_exhaustive]
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
        if is_valid::<A>(message.bytes_unasked()) {
            Ok(View { message, archive: PhantomData })
        } else {
            Err(InvalidArchive { sequence: message.sequence(), length: message.bytes_unasked().len() })
        }
    }
}

/// A line that was validated as the archive `A`: what a [`View`] is made of, still in the registers that it
/// was read into.
#[derive(Debug, Clone, Copy)]
pub struct CheckedLine<A> {
    line: Line,
    archive: PhantomData<A>,
}

impl<A: Portable + for<'b> CheckBytes<Checker<'b>>> CheckedLine<A> {
    /// Validates the whole archive, as [`View::check`] does; `None` if it is not one.
    #[inline(always)]
    pub fn new(line: Line) -> Option<Self> {
        is_valid::<A>(line.message()).then_some(CheckedLine { line, archive: PhantomData })
    }
}

impl<A, M: Memory> From<CheckedLine<A>> for View<A, M> {
    #[inline(always)]
    fn from(checked: CheckedLine<A>) -> Self {
        View { message: checked.line.into(), archive: PhantomData }
    }
}

impl InvalidArchive {
    /// What there is to say of a line that is none.
    pub fn of(line: &Line) -> Self {
        InvalidArchive { sequence: line.sequence(), length: line.message().len() }
    }
}

/// The bounds of an archive while it is validated: rkyv's own, and that nothing in it asks for more alignment
/// than every message has. A part that does could pass where it lies by chance, and be read after it has
/// moved, with its message, to where it does not.
#[derive(Debug)]
pub struct Bounds<'bytes> {
    archive: ArchiveValidator<'bytes>,
}

/// A part of an archive asks for more than [`ALIGNMENT`].
#[derive(Debug, thiserror::Error)]
#[error("a part of the archive asks for an alignment of {align}; messages have {ALIGNMENT}")]
struct TooAligned {
    align: usize,
}

// SAFETY: `check_subtree_ptr` says yes only where rkyv's own does, which keeps the promise; the rest is
// passed on.
unsafe impl<E: Source> ArchiveContext<E> for Bounds<'_> {
    #[inline]
    fn check_subtree_ptr(&mut self, start: *const u8, layout: &Layout) -> Result<(), E> {
        if layout.align() > ALIGNMENT {
            fail!(TooAligned { align: layout.align() });
        }
        self.archive.check_subtree_ptr(start, layout)
    }

    #[inline]
    unsafe fn push_subtree_range(&mut self, root: *const u8, end: *const u8) -> Result<Range<usize>, E> {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.archive.push_subtree_range(root, end) }
    }

    #[inline]
    unsafe fn pop_subtree_range(&mut self, range: Range<usize>) -> Result<(), E> {
        // SAFETY: as above.
        unsafe { self.archive.pop_subtree_range(range) }
    }
}

#[inline(always)]
fn is_valid<A: Portable + for<'b> CheckBytes<Checker<'b>>>(bytes: &[u8]) -> bool {
    const { assert!(align_of::<A>() <= ALIGNMENT, "messages are aligned to 16 bytes at most") };
    // rkyv counts down from this, also for the root, and says no at one.
    let depth = NonZeroUsize::new(DEPTH_MAX + 2);
    let bounds = Bounds { archive: ArchiveValidator::with_max_depth(bytes, depth) };
    let mut validator = Validator::new(bounds, ());
    rkyv::api::access_with_context::<A, _, Failure>(bytes, &mut validator).is_ok()
}

impl<A, M: Memory> View<A, M> {
    /// The message.
    #[inline]
    pub fn message(&self) -> &Message<M> {
        &self.message
    }

    /// Deserializes a copy.
    pub fn deserialize<T>(&self) -> Result<T, Refused>
    where
        T: Archive<Archived = A>,
        A: Portable + Deserialize<T, Unarchiver>,
    {
        rkyv::api::low::deserialize::<T, Failure>(&**self).map_err(|Failure| Refused)
    }
}

impl<A: Portable, M: Memory> Deref for View<A, M> {
    type Target = A;
    #[inline]
    fn deref(&self) -> &A {
        // SAFETY: `check` validated these very bytes as an archive of A with its root at the end; they do not
        // change (see `Message::bytes`); a copy in the slot may have moved since, but to memory of the same
        // alignment, and archives only hold relative pointers into themselves.
        unsafe { rkyv::access_unchecked::<A>(self.message.bytes()) }
    }
}
