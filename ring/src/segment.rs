//! Mapped memory objects, each with one owner that made it and peers that were handed it.
//!
//! ```text
//!      owner                                        peer
//!   create ── length, sharing ──▶ memory object
//!   map: read and write             │
//!   seal ──────────────────────────▶│
//!   handle ─────────── Handle ──────┼────────────▶ open: check seals and length, then map:
//!                                   │                SingleWriter: only to read
//!   reserve: pages for a range      │                Doorbell: to read and write
//!   drop ──▶ lives until the last mapping is gone ◀── drop
//! ```
//!
//! | who   | [`Sharing::SingleWriter`]     | [`Sharing::Doorbell`]              | length                                 |
//! | ----- | ----------------------------- | ---------------------------------- | -------------------------------------- |
//! | owner | writes through its mapping    | writes                             | fixed when it is created, whole pages  |
//! | peer  | reads                         | writes; so nothing may rely on it  | checked against [`LengthBounds`], once |
//!
//! Two backends stand behind [`Backend`]: [`Anonymous`], where the kernel enforces every line of that table,
//! and, with the feature `named-segments`, [`Named`], where it is a promise of well-behaved peers. One
//! conformance suite holds both to the rest.
//!
//! **Memory is sparse.** A segment may be far longer than what is ever used: pages come into being when they
//! are reserved or touched. Touching a page that was not reserved risks a `SIGBUS` when there is no memory,
//! and that includes *reading* it: so the owner reserves a range before anybody learns that it is there, and
//! a failed [`Segment::reserve`] is an error like any other. The one thing that still kills is the memory
//! limit of a control group: when it is reached, the kernel may kill instead of refusing.
//!
//! A stranger's object is sparse on purpose, perhaps: so it can be [found](Backend::find) and looked at
//! before it is mapped, and read without being mapped at all ([`Found`]). The kernel tells which pages have
//! been written; sealed against writing, such a page never becomes a hole again.
//!
//! **If the owner dies**, whatever it had written stays readable for those who have the segment mapped, and
//! the memory is freed with the last mapping. A half-created segment is known to nobody and vanishes with its
//! process (named ones: see [`named`]).
//!
//! **A forked child** does not inherit mappings (`MADV_DONTFORK`): it would otherwise keep the memory of the
//! dead alive, or be a second writer. It finds pages of zeros in their place, and the descriptors closed
//! ([`crate::fork`]). A `Segment` of the parent says [`SegmentError::Forked`] there, and dropping it does
//! nothing: samples may still point to the place.

mod anonymous;
mod error;
mod found;
mod huge;
#[cfg(feature = "named-segments")]
pub mod named;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::fork::{Mapping, Registered};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use nix::sys::resource::Resource;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

pub use anonymous::Anonymous;
pub(crate) use anonymous::check_seals;
pub use error::SegmentError;
use error::soft_limit;
pub use found::Found;
pub(crate) use found::backed;
pub use huge::{HUGE_PAGE_BYTES, HugePages};
#[cfg(feature = "named-segments")]
pub use named::Named;

/// The longest segment there may be, in bytes: an eighth of the address space of a process on the smallest
/// supported machine.
pub const LONGEST: u64 = 1 << 44;

/// Pages are reserved in steps of this many bytes, because a signal makes the kernel undo the step it
/// interrupts.
const RESERVE_STEP: u64 = 1 << 20;
/// After every interruption the step is halved, down to this many bytes (16 pages).
const SMALLEST_RESERVE_STEP: u64 = 16 * 4096;
/// [`Segment::reserve`] gives up after this many interruptions in a row without a step done.
const MOST_INTERRUPTIONS: u32 = 100;
/// Before this many bytes or more are reserved at once, the machine is asked how many it has; asking takes
/// some 20 us.
const ASK_BEFORE_RESERVING: u64 = 1 << 20;

/// Only this crate makes segments: what is mapped where is what its proofs rest on.
mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// Makes and opens segments. Safe to use from any thread; no call waits for another process.
pub trait Backend: Sealed + Send + Sync + fmt::Debug {
    /// Makes a segment of at least `length` bytes, rounded up to whole pages, filled with zeros, and maps it
    /// to read and write.
    ///
    /// Takes no memory but for the mapping itself: see [`Segment::reserve`]. `label` is for people who look
    /// at `/proc/<pid>/maps`, nothing depends on it. Holds one descriptor as long as the segment lives.
    ///
    /// # Errors
    ///
    /// [`SegmentError`], each variant with its remedy.
    fn create(&self, label: &str, length: u64, sharing: Sharing) -> Result<Segment, SegmentError>;

    /// As [`create`](Backend::create), so that [`Segment::huge_pages`] can work; where it cannot, the same as
    /// `create`.
    ///
    /// # Errors
    ///
    /// As [`create`](Backend::create).
    fn create_aligned(&self, label: &str, length: u64, sharing: Sharing) -> Result<Segment, SegmentError> {
        self.create(label, length, sharing)
    }

    /// Finds a segment another process made, and checks that it is what `sharing` and `bounds` say. Maps
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`SegmentError`]; the handle is a stranger's, so every variant about handles, seals and lengths means:
    /// cut that peer off.
    fn find(&self, handle: Handle, sharing: Sharing, bounds: LengthBounds) -> Result<Found, SegmentError>;

    /// Maps a segment another process made, after checking that it is what `sharing` and `bounds` say. Keeps
    /// no descriptor.
    ///
    /// # Errors
    ///
    /// As [`find`](Backend::find).
    fn open(&self, handle: Handle, sharing: Sharing, bounds: LengthBounds) -> Result<Segment, SegmentError> {
        let found = self.find(handle, sharing, bounds)?;
        found.map(found.len())
    }
}

/// What travels to a peer so that it can [`open`](Backend::open) a segment.
#[derive(Debug)]
pub enum Handle {
    /// A descriptor of the memory object, sent as ancillary data of a Unix socket.
    Descriptor(OwnedFd),
    /// The name of the memory object.
    Name(String),
}

impl Handle {
    /// Another handle of the same segment.
    ///
    /// # Errors
    ///
    /// [`SegmentError::OutOfDescriptors`] and [`SegmentError::Refused`], for descriptors only.
    pub fn try_clone(&self) -> Result<Self, SegmentError> {
        match self {
            Self::Descriptor(descriptor) => duplicate(descriptor).map(Self::Descriptor),
            Self::Name(name) => Ok(Self::Name(name.clone())),
        }
    }
}

/// What [`Segment::prefault`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefaulted {
    /// Bytes, in whole pages, that have memory now and are mapped in this process.
    pub bytes: u64,
    /// How.
    pub by: PrefaultedBy,
}

/// How pages were mapped ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefaultedBy {
    /// By one call (`MADV_POPULATE_WRITE`, `MADV_POPULATE_READ`).
    Populating,
    /// Page by page, because the kernel is older than 5.14 or this segment has a name: the result is the
    /// same, the call takes longer.
    Touching,
}

/// Which processes may write a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Only the process that created it.
    SingleWriter,
    /// Everybody who has it. Its content can be anything at any moment, so it may carry hints only.
    Doorbell,
}

/// Between which lengths, in bytes, a stranger's segment must be to be mapped. Both ends belong to it; `max`
/// is rounded up to whole pages, as [`Backend::create`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthBounds {
    /// The least the reader needs.
    pub min: u64,
    /// The most the reader is willing to map.
    pub max: u64,
}

/// A mapped memory object; unmapped when dropped.
///
/// `Send` and `Sync`: it is a place, not its content. Code that reads or writes through it brings its own
/// proof (crate [head](crate)).
pub struct Segment {
    /// `Some` until it is dropped.
    hold: Option<Hold>,
    base: NonNull<u8>,
    length: u64,
    /// What a forked child finds in its place.
    fork: Registered,
}

/// Which memory object, as the kernel says: as long as it is mapped, no other object of the machine has both
/// numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    device: u64,
    inode: u64,
}

impl Object {
    fn of(status: &FileStat) -> Object {
        Object { device: status.st_dev, inode: status.st_ino }
    }

    fn behind(descriptor: &OwnedFd) -> Result<Object, SegmentError> {
        fstat(descriptor)
            .map(|status| Object::of(&status))
            .map_err(|errno| SegmentError::of("fstat", errno, 0))
    }
}

/// What keeps a segment mapped.
enum Hold {
    Peer {
        map: MmapRaw,
        writable: bool,
        /// The user who made the memory object, as the kernel says.
        maker: u32,
        /// Which memory object it is, as the kernel says.
        object: Object,
    },
    Owner {
        map: MmapRaw,
        descriptor: Option<OwnedFd>,
    },
    /// Mapped so that it can have huge pages.
    AlignedOwner {
        map: huge::Aligned,
        descriptor: Option<OwnedFd>,
    },
    #[cfg(feature = "named-segments")]
    NamedOwner(named::Created),
}

// SAFETY: a `Segment` owns its mapping, which belongs to the process and not to a thread: moving it moves an
// address and a descriptor, both plain data. `named::Created` and `huge::Aligned`, the only parts that are
// not `Send` by themselves, hold such an address, too.
unsafe impl Send for Segment {}
// SAFETY: every method with `&self` only reads the fields, which change under `&mut self` alone, or makes
// system calls that may be made from several threads at once. None reads or writes the mapped bytes.
unsafe impl Sync for Segment {}

impl Segment {
    fn new(hold: Hold) -> Self {
        let (base, length) = match &hold {
            Hold::Peer { map, .. } | Hold::Owner { map, .. } => (map.as_mut_ptr(), map.len()),
            Hold::AlignedOwner { map, .. } => (map.base(), map.len()),
            #[cfg(feature = "named-segments")]
            Hold::NamedOwner(created) => (created.base(), created.len()),
        };
        // Holds because both crates turn MAP_FAILED into an error and the kernel never chooses address 0 by
        // itself.
        let base = NonNull::new(base).expect("a mapping is never at address 0");
        let descriptor = match &hold {
            Hold::Owner { descriptor: Some(descriptor), .. }
            | Hold::AlignedOwner { descriptor: Some(descriptor), .. } => descriptor.as_raw_fd(),
            _ => -1,
        };
        let mapping = Mapping { base: base.as_ptr().addr(), length, descriptor: descriptor.into() };
        Self { hold: Some(hold), base, length: length as u64, fork: Registered::mapping(mapping) }
    }

    /// Its length in bytes; never 0, never changes. Whole pages if hivemind made it.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether this is a child of the process that mapped it, which finds zeros in its place.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        !self.fork.home().is_here()
    }

    /// As [`is_forked`](Self::is_forked), as a result.
    pub(crate) fn check_home(&self) -> Result<(), SegmentError> {
        Ok(self.fork.home().check()?)
    }

    /// Whether this process may write it: the owner always, a peer when it is a [`Sharing::Doorbell`].
    #[must_use]
    pub fn writable(&self) -> bool {
        !matches!(self.hold, Some(Hold::Peer { writable: false, .. }))
    }

    /// The user whose process made the memory object of a peer's segment, as the kernel says; `None` for a
    /// segment of our own.
    #[must_use]
    pub fn maker(&self) -> Option<u32> {
        match self.hold {
            Some(Hold::Peer { maker, .. }) => Some(maker),
            _ => None,
        }
    }

    /// Whether this handle leads to the memory object that is mapped here, as the kernel says. Nothing is
    /// mapped for it.
    ///
    /// # Errors
    ///
    /// [`SegmentError`], when the handle leads nowhere, or the kernel does not say where.
    pub fn is_of(&self, handle: &Handle) -> Result<bool, SegmentError> {
        match (&self.hold, handle) {
            (Some(Hold::Peer { object, .. }), Handle::Descriptor(other)) => {
                Ok(*object == Object::behind(other)?)
            }
            #[cfg(feature = "named-segments")]
            (Some(Hold::Peer { object, .. }), Handle::Name(name)) => Ok(*object == named::object_of(name)?),
            (
                Some(
                    Hold::Owner { descriptor: Some(own), .. }
                    | Hold::AlignedOwner { descriptor: Some(own), .. },
                ),
                Handle::Descriptor(other),
            ) => Ok(Object::behind(own)? == Object::behind(other)?),
            #[cfg(feature = "named-segments")]
            (Some(Hold::NamedOwner(created)), Handle::Name(name)) => Ok(created.name() == name),
            _ => Ok(false),
        }
    }

    /// What to send to a peer: a duplicate of the descriptor, or the name. It stays good after this segment
    /// is dropped if it is a descriptor, and does not if it is a name.
    ///
    /// # Errors
    ///
    /// [`SegmentError::NotOwner`] on a peer's segment, [`SegmentError::OutOfDescriptors`],
    /// [`SegmentError::Forked`].
    pub fn handle(&self) -> Result<Handle, SegmentError> {
        self.check_home()?;
        match &self.hold {
            Some(
                Hold::Owner { descriptor: Some(descriptor), .. }
                | Hold::AlignedOwner { descriptor: Some(descriptor), .. },
            ) => duplicate(descriptor).map(Handle::Descriptor),
            #[cfg(feature = "named-segments")]
            Some(Hold::NamedOwner(created)) => Ok(Handle::Name(created.name().to_owned())),
            _ => Err(SegmentError::NotOwner { operation: "make a handle of" }),
        }
    }

    /// Makes sure that every page of `range` (bytes from the start) has memory, so that touching it cannot
    /// fail later. What was reserved stays so until the segment is gone; its content does not change.
    ///
    /// For the owner. Takes about 1 us for each page that had no memory yet, and blocks for no longer. After
    /// an error some of the pages may have been reserved; it may be tried again. A range is expected to be
    /// reserved once: one of 1 MiB or more is refused when the machine has fewer bytes available than it is
    /// long, even if its pages are already there.
    ///
    /// # Errors
    ///
    /// [`SegmentError::OutOfMemory`] and [`SegmentError::StoreFull`] when there is no memory,
    /// [`SegmentError::OutOfBounds`] when the range reaches beyond the end, [`SegmentError::NotOwner`] on a
    /// peer's segment, [`SegmentError::Interrupted`], [`SegmentError::Forked`].
    pub fn reserve(&self, range: Range<u64>) -> Result<(), SegmentError> {
        self.check_home()?;
        if range.start > range.end || range.end > self.length {
            let Range { start, end } = range;
            return Err(SegmentError::OutOfBounds { start, end, length: self.length });
        }
        match &self.hold {
            Some(
                Hold::Owner { descriptor: Some(descriptor), .. }
                | Hold::AlignedOwner { descriptor: Some(descriptor), .. },
            ) => {
                let no_space = |needed| SegmentError::OutOfMemory { needed, available: None };
                reserve_pages(descriptor.as_fd(), &range, no_space)
            }
            #[cfg(feature = "named-segments")]
            Some(Hold::NamedOwner(created)) => created.reserve(&range),
            _ => Err(SegmentError::NotOwner { operation: "reserve memory of" }),
        }
    }

    /// Makes sure that touching `range` (bytes from the start) takes no page fault in this process: each
    /// would cost 0.2 us where the page has memory already, and 1 to 3 us where it has not.
    ///
    /// The owner [reserves](Self::reserve) the range first. A peer's call gives memory to pages of the owner
    /// that have none yet; it is counted against the peer's control group, so a peer asks for what it expects
    /// to read, and never for what a stranger says. Content does not change. May be called while others read
    /// and write.
    ///
    /// # Errors
    ///
    /// Those of [`reserve`](Self::reserve), but for `NotOwner`; [`SegmentError::Refused`].
    pub fn prefault(&self, range: Range<u64>) -> Result<Prefaulted, SegmentError> {
        self.check_home()?;
        if range.start > range.end || range.end > self.length {
            let Range { start, end } = range;
            return Err(SegmentError::OutOfBounds { start, end, length: self.length });
        }
        let page = page_size();
        let start = range.start / page * page;
        let bytes = range.end.next_multiple_of(page).min(self.length) - start;
        // Both fit: they lie within the mapping.
        let (first, count) = (start as usize, bytes as usize);
        let populate = || match &self.hold {
            Some(Hold::Peer { map, .. }) => {
                map.advise_range(Advice::PopulateRead, first, count).map_err(|error| errno_of(&error))
            }
            Some(Hold::Owner { map, .. }) => {
                map.advise_range(Advice::PopulateWrite, first, count).map_err(|error| errno_of(&error))
            }
            Some(Hold::AlignedOwner { map, .. }) => map.advise(first, count, libc::MADV_POPULATE_WRITE),
            // Its mapping belongs to another crate, which cannot.
            #[cfg(feature = "named-segments")]
            Some(Hold::NamedOwner(_)) => Err(Errno::EINVAL),
            None => Err(Errno::EINVAL),
        };
        if !matches!(self.hold, Some(Hold::Peer { .. })) {
            self.reserve(range)?;
        }
        for _ in 0..MOST_INTERRUPTIONS {
            match populate() {
                Ok(()) => return Ok(Prefaulted { bytes, by: PrefaultedBy::Populating }),
                // Before 5.14 nobody knew this advice.
                Err(Errno::EINVAL) => return self.touch(start, bytes),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EFAULT) => {
                    return Err(SegmentError::OutOfMemory { needed: bytes, available: None });
                }
                Err(errno) => return Err(SegmentError::of("madvise(MADV_POPULATE)", errno, bytes)),
            }
        }
        Err(SegmentError::Interrupted { attempts: MOST_INTERRUPTIONS })
    }

    /// Gives the first `bytes` huge pages as far as the kernel can, rounded up to whole ones; takes the
    /// memory like [`reserve`](Self::reserve). For an owner that made it with [`Backend::create_aligned`],
    /// before others read: they have to map again what is moved. Takes about 0.3 ms for each huge page.
    ///
    /// Never having obtained any is no error: look at the result. `obtained` is 0 for other segments, on
    /// kernels before 6.1, and where the administrator said `deny`.
    ///
    /// # Errors
    ///
    /// Those of [`reserve`](Self::reserve).
    pub fn huge_pages(&self, bytes: u64) -> Result<HugePages, SegmentError> {
        self.check_home()?;
        let whole = self.length / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        let asked = bytes.next_multiple_of(HUGE_PAGE_BYTES).min(whole);
        match &self.hold {
            Some(Hold::AlignedOwner { map, .. }) => {
                let prefaulted = self.prefault(0..asked)?;
                Ok(HugePages { asked, obtained: map.collapse(asked), prefaulted: Some(prefaulted) })
            }
            _ => Ok(HugePages { asked, obtained: 0, prefaulted: None }),
        }
    }

    /// Lets the kernel read one byte of each page through this process's mapping. It does not go through
    /// references or pointers of this program, so nobody else has to stop reading and writing meanwhile; and
    /// where there is no memory it says so instead of sending a signal.
    fn touch(&self, start: u64, bytes: u64) -> Result<Prefaulted, SegmentError> {
        /// The kernel takes 1024 pieces in a call.
        const PIECES: usize = 1024;
        let mut sink = [0; PIECES];
        // Page by page from the first byte of the range, which begins a page.
        let pages = (start..start + bytes).step_by(page_size() as usize);
        let base = self.base.as_ptr().addr();
        let pieces: Vec<RemoteIoVec> =
            pages.map(|offset| RemoteIoVec { base: base + offset as usize, len: 1 }).collect();
        for pieces in pieces.chunks(PIECES) {
            let mut read = 0;
            for _ in 0..MOST_INTERRUPTIONS {
                let into = &mut [IoSliceMut::new(&mut sink[..pieces.len() - read])];
                match process_vm_readv(Pid::this(), into, &pieces[read..]) {
                    Ok(more) => read += more,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EFAULT) => {
                        return Err(SegmentError::OutOfMemory { needed: bytes, available: None });
                    }
                    Err(errno) => return Err(SegmentError::of("process_vm_readv", errno, bytes)),
                }
                if read == pieces.len() {
                    break;
                }
            }
            if read < pieces.len() {
                return Err(SegmentError::Interrupted { attempts: MOST_INTERRUPTIONS });
            }
        }
        Ok(Prefaulted { bytes, by: PrefaultedBy::Touching })
    }

    /// Closes the owner's descriptor; afterwards there are no more handles and reservations, and the mapping
    /// stays.
    ///
    /// A peer has none, and the descriptor of a named segment is needed to remove the name: nothing happens
    /// there.
    pub fn close_descriptor(&mut self) {
        if self.is_forked() {
            // Closed already, and its number may be of another.
            return;
        }
        self.fork.forget_descriptor();
        if let Some(Hold::Owner { descriptor, .. } | Hold::AlignedOwner { descriptor, .. }) = &mut self.hold {
            *descriptor = None;
        }
    }

    /// The address of the first byte, aligned to a page; `len()` bytes are mapped from there as long as this
    /// segment lives.
    ///
    /// Only an address: writing through it where [`writable`](Self::writable) is false, or touching a page
    /// that is not [reserved](Self::reserve) when memory is exhausted, ends in a signal; and whatever is read
    /// is a stranger's input.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The address of the first byte. See [`as_ptr`](Self::as_ptr).
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        if self.fork.home().is_here() {
            // Before the descriptor is closed and the place unmapped: both may be of another a moment later.
            self.fork.forget();
            drop(hold);
        } else {
            // A forked child: neither the mapping nor the descriptor came along, samples may point to what is
            // there instead, and the name is the parent's.
            std::mem::forget(hold);
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match &self.hold {
            Some(Hold::Peer { .. }) | None => "peer",
            Some(Hold::Owner { .. }) => "owner",
            Some(Hold::AlignedOwner { .. }) => "owner, aligned",
            #[cfg(feature = "named-segments")]
            Some(Hold::NamedOwner(_)) => "owner, named",
        };
        formatter
            .debug_struct("Segment")
            .field("role", &role)
            .field("length", &self.length)
            .field("writable", &self.writable())
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// `length` in whole pages, if a segment can be that long.
fn whole_pages(length: u64) -> Result<u64, SegmentError> {
    if !(1..=LONGEST).contains(&length) {
        return Err(SegmentError::BadLength { length });
    }
    let length = length.next_multiple_of(page_size());
    // Passing this limit would not only fail: the kernel sends SIGXFSZ, which kills.
    let limit = soft_limit(Resource::RLIMIT_FSIZE);
    if length > limit {
        return Err(SegmentError::FileSizeLimit { length, limit });
    }
    Ok(length)
}

impl LengthBounds {
    /// Whether an object of that length may be mapped.
    fn check(self, length: u64) -> Result<(), SegmentError> {
        let Self { min, max } = self;
        let max = max.min(LONGEST).next_multiple_of(page_size());
        if length == 0 || length < min || length > max {
            return Err(SegmentError::WrongLength { length, min, max });
        }
        Ok(())
    }
}

/// Maps all `length` bytes of an object of our own so that no fork copies the mapping.
fn map(descriptor: BorrowedFd<'_>, length: u64, writable: bool) -> Result<MmapRaw, SegmentError> {
    // Whatever the reason, no peer is at fault: a sandbox may forbid it.
    map_with(descriptor, length, writable, |errno| SegmentError::of("mmap", errno, length))
}

/// The same for an object of a peer, who may have opened it without the rights that are needed.
fn map_peers(descriptor: BorrowedFd<'_>, length: u64, writable: bool) -> Result<MmapRaw, SegmentError> {
    let wanted = if writable { "to read and write" } else { "to read" };
    map_with(descriptor, length, writable, |errno| match errno {
        Errno::EACCES | Errno::EPERM | Errno::EBADF => SegmentError::WrongAccess { wanted },
        errno => SegmentError::of("mmap", errno, length),
    })
}

fn map_with(
    descriptor: BorrowedFd<'_>,
    length: u64,
    writable: bool,
    failed: impl FnOnce(Errno) -> SegmentError,
) -> Result<MmapRaw, SegmentError> {
    let mut options = MmapOptions::new();
    // Fits: lengths were checked against LONGEST, and a usize has 64 bits on every supported machine.
    options.len(length as usize).no_reserve_swap();
    let map = if writable { options.map_raw(&descriptor) } else { options.map_raw_read_only(&descriptor) };
    let map = map.map_err(|error| failed(errno_of(&error)))?;
    map.advise(Advice::DontFork).map_err(|error| SegmentError::of("madvise", errno_of(&error), length))?;
    Ok(map)
}

/// Another descriptor of the same object, closed on exec.
pub(crate) fn duplicate(descriptor: &OwnedFd) -> Result<OwnedFd, SegmentError> {
    descriptor.try_clone().map_err(|error| SegmentError::of("fcntl(F_DUPFD_CLOEXEC)", errno_of(&error), 0))
}

/// Gives every page of the range memory, step by step. The range is within the object; `no_space` is what it
/// means when the file system has no more.
fn reserve_pages(
    descriptor: BorrowedFd<'_>,
    range: &Range<u64>,
    no_space: impl Fn(u64) -> SegmentError,
) -> Result<(), SegmentError> {
    let needed = range.end - range.start;
    if needed >= ASK_BEFORE_RESERVING {
        // Without this question the kernel would not refuse: it would first kill processes to find the
        // memory.
        let available = available_memory();
        if available.is_some_and(|available| available < needed) {
            return Err(SegmentError::OutOfMemory { needed, available });
        }
    }
    let (mut start, mut step, mut interruptions) = (range.start, RESERVE_STEP, 0);
    while start < range.end {
        let length = step.min(range.end - start);
        // Both casts fit: the range is within a segment, at most LONGEST.
        match fallocate(descriptor, FallocateFlags::empty(), start as i64, length as i64) {
            Ok(()) => (start, interruptions) = (start + length, 0),
            Err(Errno::EINTR) if interruptions < MOST_INTERRUPTIONS => {
                interruptions += 1;
                step = (step / 2).max(SMALLEST_RESERVE_STEP);
            }
            Err(Errno::EINTR) => return Err(SegmentError::Interrupted { attempts: interruptions }),
            Err(Errno::ENOSPC) => return Err(no_space(needed)),
            Err(errno) => return Err(SegmentError::of("fallocate", errno, needed)),
        }
    }
    Ok(())
}

/// The bytes this machine could hand out without killing anything, if it says so.
fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    bytes("MemAvailable:")?.checked_add(bytes("SwapFree:")?)
}

fn page_size() -> u64 {
    // Holds because every Linux answers this question, from the C library's own memory.
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().expect("the page size is known") as u64
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests;
