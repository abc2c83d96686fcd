//! Doorbells in mapped memory.

use super::{CreateError, PAGE_BYTES, view};
use crate::bell::Bell;
use crate::layout::LINE_BYTES;
use crate::memory::BellMemory;
use crate::refusal::OpenError;
use crate::segment::{Backend, Handle, LengthBounds, Segment, SegmentError, Sharing};
use crate::sync::{Arc, Mutex, lock};
use std::ptr::NonNull;

/// Lines of a doorbell segment: publishers and subscribers that a node may have at a time.
pub const BELLS_MAX: u32 = 65_536;

/// The doorbell segment of a node: [`BELLS_MAX`] lines of address space, backed by pages with use.
#[derive(Debug)]
pub struct Bells {
    lines: NonNull<[Bell]>,
    /// Which lines of an own segment are free; a peer's lines are given out by the peer.
    book: Mutex<BellBook>,
    segment: Segment,
}

#[derive(Debug, Default)]
struct BellBook {
    free: Vec<u32>,
    used: u32,
}

// SAFETY: `lines` leads into `segment`, which moves along and is itself Send and Sync; all that it reaches is
// atomics.
unsafe impl Send for Bells {}
// SAFETY: as for Send.
unsafe impl Sync for Bells {}

impl Bells {
    /// Makes the doorbell segment of a node.
    pub fn create(backend: &dyn Backend) -> Result<Arc<Bells>, CreateError> {
        let segment = backend.create("bells", u64::from(BELLS_MAX) * LINE_BYTES, Sharing::Doorbell)?;
        segment.reserve(0..PAGE_BYTES)?;
        Ok(Bells::over(segment))
    }

    /// Opens the doorbell segment of a peer, writable.
    pub fn open(backend: &dyn Backend, handle: Handle) -> Result<Arc<Bells>, OpenError> {
        let length = u64::from(BELLS_MAX) * LINE_BYTES;
        let bounds = LengthBounds { min: length, max: length };
        Ok(Bells::over(backend.open(handle, Sharing::Doorbell, bounds)?))
    }

    fn over(segment: Segment) -> Arc<Bells> {
        assert!(segment.len() >= u64::from(BELLS_MAX) * LINE_BYTES, "all lines lie within the segment");
        // SAFETY: in bounds: the assertion; aligned: offset 0; atomics only; the pointer lives beside its
        // segment.
        let lines = unsafe { view::<Bell>(&segment, 0, BELLS_MAX as usize) };
        Arc::new(Bells { lines, book: Mutex::new(BellBook::default()), segment })
    }

    /// Backs a line with memory, of doorbells that are made for the peers of another user: each end of the
    /// node has the same line there as in the node's own.
    pub fn door(self: &Arc<Self>, line: u32) -> Result<MappedBell, CreateError> {
        if line >= BELLS_MAX {
            return Err(CreateError::BellsOut { limit: BELLS_MAX });
        }
        let start = u64::from(line) * LINE_BYTES / PAGE_BYTES * PAGE_BYTES;
        self.segment.reserve(start..start + PAGE_BYTES)?;
        Ok(MappedBell::at(Arc::clone(self), line, false))
    }

    /// A line for a new end of this node; it is given back when the last clone is dropped.
    pub fn take(self: &Arc<Self>) -> Result<MappedBell, CreateError> {
        self.segment.check_home()?;
        let mut book = lock(&self.book);
        let line = match book.free.pop() {
            Some(line) => line,
            None if book.used == BELLS_MAX => return Err(CreateError::BellsOut { limit: BELLS_MAX }),
            None => {
                let start = u64::from(book.used) * LINE_BYTES;
                // A page at a time: every line within it has memory then.
                if start.is_multiple_of(PAGE_BYTES) {
                    self.segment.reserve(start..start + PAGE_BYTES)?;
                }
                book.used += 1;
                book.used - 1
            }
        };
        drop(book);
        Ok(MappedBell::at(Arc::clone(self), line, true))
    }

    /// The line that a peer's header names; `None` if there is no such line.
    pub fn line(self: &Arc<Self>, line: u32) -> Option<MappedBell> {
        (line < BELLS_MAX).then(|| MappedBell::at(Arc::clone(self), line, false))
    }

    /// Whether this handle leads to the same doorbells, as the kernel says.
    pub fn are_of(&self, handle: &Handle) -> Result<bool, SegmentError> {
        self.segment.is_of(handle)
    }

    /// The segment's handle, to be sent to peers.
    pub fn handle(&self) -> Result<Handle, SegmentError> {
        self.segment.handle()
    }

    /// All lines.
    pub fn lines(&self) -> &[Bell] {
        // SAFETY: in bounds, aligned, initialised, atomics only: see `over`; alive: the segment is a field of
        // self.
        unsafe { self.lines.as_ref() }
    }
}

/// One line of a doorbell segment.
#[derive(Debug, Clone)]
pub struct MappedBell {
    pub(super) line: u32,
    bells: Arc<Bells>,
    _ours: Option<Arc<OwnLine>>,
}

/// Gives a line back.
#[derive(Debug)]
struct OwnLine {
    bells: Arc<Bells>,
    line: u32,
}

impl Drop for OwnLine {
    fn drop(&mut self) {
        // In a child the book may be locked for ever.
        if !self.bells.segment.is_forked() {
            lock(&self.bells.book).free.push(self.line);
        }
    }
}

impl MappedBell {
    fn at(bells: Arc<Bells>, line: u32, ours: bool) -> Self {
        let ours = ours.then(|| Arc::new(OwnLine { bells: Arc::clone(&bells), line }));
        MappedBell { line, bells, _ours: ours }
    }
}

impl BellMemory for MappedBell {
    #[inline]
    fn bell(&self) -> &Bell {
        &self.bells.lines()[self.line as usize]
    }
    fn line(&self) -> u32 {
        self.line
    }
    fn beside(&self, line: u32) -> Option<&Bell> {
        self.bells.lines().get(line as usize)
    }
}
