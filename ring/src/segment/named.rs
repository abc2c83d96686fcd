//! Segments with a name, for sandboxes and platforms where descriptors cannot be passed: the second choice.
//!
//! The owner's object is made, mapped and removed by the crate `shared_memory` (`/dev/shm/<prefix>-<32 random
//! digits>`). A peer opens the name itself, because that crate would map it writable and hold a descriptor
//! per mapping.
//!
//! What is weaker than with [`Anonymous`](super::Anonymous):
//!
//! - **No seals.** Every process of the same user can open the name to write, cut the object short under its
//!   readers (SIGBUS), or fill it. "Single writer" is what peers that use this module do: they map read-only,
//!   from a descriptor opened read-only, so not even `mprotect` makes them writers. The kernel does not hold
//!   others to it.
//! - **The same user only.** The object has mode 0600 from its first moment (the crate passes it to
//!   `shm_open`; a smaller umask may take bits away), and `open` refuses objects of other users or with more
//!   rights. There is no handing it to one process and not to another.
//! - **The name outlives `kill -9`**, and its memory with it, until it is removed: by the owner when its
//!   [`Segment`] is dropped, by [`Named::remove`] for a name whose owner is known to be dead, or by
//!   [`Named::remove_stale`], which the root calls when it starts and when a node dies. A reboot removes all.
//! - **Names can be listed by everybody** (`ls /dev/shm`), so labels do not appear in them.
//!
//! # Who is dead
//!
//! ```text
//! owner: create (shared_memory) ─▶ open, flock shared ─▶ map one page through it, close it ─▶ still linked? ready : next name
//! root:                            open, flock exclusive, without waiting ─▶ got it: nobody is alive, unlink
//! ```
//!
//! The lock belongs to the opened file and that mapping keeps it open, so it costs no descriptor, is not
//! inherited by a forked child, holds across process-id namespaces, and ends with the process, however it
//! dies. A stopped process still holds it. An owner that dies between the first two steps leaves an unlocked
//! name: stale, rightly. A root that comes between them removes a newborn; its owner sees the missing link
//! (or the lock of the root) and takes another name.

use std::collections::hash_map::RandomState;
use std::fs::{File, TryLockError};
use std::hash::BuildHasher;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use memmap2::MmapRaw;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{MmapAdvise, madvise, shm_open, shm_unlink};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::geteuid;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::{
    Backend, Found, Handle, Hold, LengthBounds, Object, Segment, SegmentError, Sharing, errno_of, map,
    page_size, reserve_pages, whole_pages,
};

/// Where Linux shows named objects; used to list them only.
const STORE: &str = "/dev/shm";
/// The longest prefix, in bytes. With the random digits a name stays far below the 255 bytes the kernel
/// allows.
const LONGEST_PREFIX: usize = 64;
/// Digits after the prefix: 128 bits.
const RANDOM_DIGITS: usize = 32;
/// Names tried for one segment.
const NAME_ATTEMPTS: u32 = 16;
/// Entries of the store looked at in one sweep.
const SWEEP_ENTRIES: usize = 100_000;

/// Memory with a name. Read the [module](self) first: it protects less than [`Anonymous`](super::Anonymous).
#[derive(Debug, Clone)]
pub struct Named {
    prefix: String,
}

/// What [`Named::remove_stale`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Sweep {
    /// The names it removed, because their owners are dead.
    pub removed: Vec<String>,
    /// How many names belong to living owners.
    pub alive: usize,
    /// Whether there were too many files to look at all: sweep again after cleaning up `/dev/shm`.
    pub unfinished: bool,
}

impl Named {
    /// Segments whose names begin with `prefix`: 1 to 64 letters, digits, `.`, `_` or `-`. All nodes of a
    /// hive use the same, and no other hive of this user does.
    ///
    /// # Errors
    ///
    /// [`SegmentError::BadName`].
    pub fn new(prefix: &str) -> Result<Self, SegmentError> {
        let lawful = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=LONGEST_PREFIX).contains(&prefix.len()) && prefix.bytes().all(lawful) {
            Ok(Self { prefix: prefix.to_owned() })
        } else {
            Err(SegmentError::BadName { name: prefix.to_owned(), prefix: String::new() })
        }
    }

    /// Removes the name of a segment whose owner is known to be dead; its memory is freed with the last
    /// mapping. Says whether there was one.
    ///
    /// # Errors
    ///
    /// [`SegmentError::BadName`] for a name this hive does not give, [`SegmentError::Refused`].
    pub fn remove(&self, name: &str) -> Result<bool, SegmentError> {
        self.check_name(name)?;
        match shm_unlink(name) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(SegmentError::of("shm_unlink", errno, 0)),
        }
    }

    /// Removes every name with this prefix whose owner is dead. Names of the living, and files of others,
    /// stay untouched.
    ///
    /// Opens one file after another; blocks for some microseconds for each. Safe to run at any time, in
    /// several processes at once.
    ///
    /// # Errors
    ///
    /// [`SegmentError::OutOfDescriptors`], [`SegmentError::Refused`] when the store cannot be read.
    pub fn remove_stale(&self) -> Result<Sweep, SegmentError> {
        let entries =
            std::fs::read_dir(STORE).map_err(|e| SegmentError::of("opendir(/dev/shm)", errno_of(&e), 0))?;
        let mut sweep = Sweep::default();
        for (count, entry) in entries.enumerate() {
            if count == SWEEP_ENTRIES {
                sweep.unfinished = true;
                break;
            }
            let entry = entry.map_err(|e| SegmentError::of("readdir(/dev/shm)", errno_of(&e), 0))?;
            let name = format!("/{}", entry.file_name().to_string_lossy());
            if self.check_name(&name).is_err() {
                continue;
            }
            let file = match open_private(&name, OFlag::O_RDONLY) {
                Ok(descriptor) => File::from(descriptor),
                Err(SegmentError::Vanished { .. } | SegmentError::NotPrivate { .. }) => continue,
                Err(error) => return Err(error),
            };
            match file.try_lock() {
                // The lock is held until `file` is dropped, so a newborn's owner cannot take this name for
                // its own meanwhile.
                Ok(()) => {
                    if self.remove(&name)? {
                        sweep.removed.push(name);
                    }
                }
                Err(TryLockError::WouldBlock) => sweep.alive += 1,
                Err(TryLockError::Error(error)) => {
                    return Err(SegmentError::of("flock", errno_of(&error), 0));
                }
            }
        }
        Ok(sweep)
    }

    /// Whether a name is one that [`new_name`](Self::new_name) could have given: names come from strangers.
    fn check_name(&self, name: &str) -> Result<(), SegmentError> {
        let digits = name
            .strip_prefix('/')
            .and_then(|name| name.strip_prefix(&self.prefix))
            .and_then(|name| name.strip_prefix('-'));
        let lawful = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match digits {
            Some(digits) if digits.len() == RANDOM_DIGITS && digits.bytes().all(lawful) => Ok(()),
            _ => Err(SegmentError::BadName {
                name: name.chars().take(2 * LONGEST_PREFIX).collect(),
                prefix: format!("/{}-", self.prefix),
            }),
        }
    }

    /// A name nobody can guess in advance. Uniqueness does not rest on it: creation fails if the name exists.
    fn new_name(&self) -> String {
        // Each RandomState is keyed from the operating system's randomness and differs from the one before.
        let random = || RandomState::new().hash_one(std::process::id());
        format!("/{}-{:016x}{:016x}", self.prefix, random(), random())
    }
}

impl super::Sealed for Named {}

impl Backend for Named {
    fn create(&self, _label: &str, length: u64, _sharing: Sharing) -> Result<Segment, SegmentError> {
        let length = whole_pages(length)?;
        for _ in 0..NAME_ATTEMPTS {
            if let Some(created) = Created::try_new(&self.new_name(), length)? {
                return Ok(Segment::new(Hold::NamedOwner(created)));
            }
        }
        Err(SegmentError::NoFreeName { attempts: NAME_ATTEMPTS })
    }

    fn find(&self, handle: Handle, sharing: Sharing, bounds: LengthBounds) -> Result<Found, SegmentError> {
        let Handle::Name(name) = handle else {
            return Err(SegmentError::WrongHandle { expected: "name", found: "descriptor" });
        };
        self.check_name(&name)?;
        let access = if sharing == Sharing::Doorbell { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        Found::new(open_private(&name, access)?, sharing, bounds)
    }
}

/// The owner's side of a named segment. When it is dropped the name is removed, then the lock is let go.
pub(super) struct Created {
    memory: Shmem,
    /// Keeps the file open that carries the lock. Never touched, so it takes no page.
    _alive: MmapRaw,
}

impl Created {
    /// Makes the object, or `None` if that name is taken or was swept away at once.
    fn try_new(name: &str, length: u64) -> Result<Option<Self>, SegmentError> {
        // The cast fits: whole_pages bounds the length, and a usize has 64 bits on every supported machine.
        let memory = match ShmemConf::new().os_id(name).size(length as usize).create() {
            Ok(memory) => memory,
            Err(ShmemError::MappingIdExists) => return Ok(None),
            Err(error) => return Err(creation_error(&error, length)),
        };
        let start = NonNull::new(memory.as_ptr().cast());
        // Holds because shared_memory turns MAP_FAILED into an error, and the kernel never chooses address 0
        // by itself.
        let start = start.expect("a mapping is never at address 0");
        // SAFETY: start and length are those of the mapping that `memory` has just made and still owns
        // (alive, in bounds, aligned to a page); MADV_DONTFORK changes no byte and no right of it, only
        // whether a forked child inherits it, and no child relies on it.
        unsafe { madvise(start, memory.len(), MmapAdvise::MADV_DONTFORK) }
            .map_err(|errno| SegmentError::of("madvise", errno, length))?;

        let file = match open_private(name, OFlag::O_RDONLY) {
            Ok(descriptor) => File::from(descriptor),
            Err(SegmentError::Vanished { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(stay_alive(&file)?.map(|alive| Self { memory, _alive: alive }))
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(super) fn name(&self) -> &str {
        self.memory.get_os_id()
    }

    /// See [`Segment::reserve`]. Opens the object for a moment: the descriptor that `shared_memory` holds is
    /// not to be had.
    pub(super) fn reserve(&self, range: &Range<u64>) -> Result<(), SegmentError> {
        let descriptor = open_private(self.name(), OFlag::O_RDWR)?;
        // The store has a size of its own, often half of the machine's memory.
        reserve_pages(descriptor.as_fd(), range, |needed| SegmentError::StoreFull { needed })
    }
}

/// Locks the object behind `file` for as long as the returned mapping lives, or `None` if a sweep was here
/// first.
fn stay_alive(file: &File) -> Result<Option<MmapRaw>, SegmentError> {
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(SegmentError::of("flock", errno_of(&error), 0)),
    }
    // Under the lock no sweep removes it any more; but one may have done so just before.
    let links = fstat(file).map_err(|errno| SegmentError::of("fstat", errno, 0))?.st_nlink;
    if links == 0 {
        return Ok(None);
    }
    map(file.as_fd(), page_size(), false).map(Some)
}

/// Which memory object has this name now.
pub(super) fn object_of(name: &str) -> Result<Object, SegmentError> {
    Object::behind(&open_private(name, OFlag::O_RDONLY)?)
}

/// Opens a name and checks that it is an ordinary memory object of this user and of nobody else.
fn open_private(name: &str, access: OFlag) -> Result<OwnedFd, SegmentError> {
    // Not blocking: somebody may have put a pipe there.
    let descriptor = match shm_open(name, access | OFlag::O_NONBLOCK, Mode::empty()) {
        Ok(descriptor) => descriptor,
        Err(Errno::ENOENT) => return Err(SegmentError::Vanished { name: name.to_owned() }),
        Err(errno) => return Err(SegmentError::of("shm_open", errno, 0)),
    };
    let status = fstat(&descriptor).map_err(|errno| SegmentError::of("fstat", errno, 0))?;
    let (owner, mode) = (status.st_uid, status.st_mode);
    let ordinary = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    let closed_to_others = (Mode::S_IRWXG | Mode::S_IRWXO).bits() & mode == 0;
    if owner != geteuid().as_raw() || !ordinary || !closed_to_others {
        return Err(SegmentError::NotPrivate { name: name.to_owned(), owner, mode });
    }
    Ok(descriptor)
}

fn creation_error(error: &ShmemError, length: u64) -> SegmentError {
    let (call, errno) = match *error {
        ShmemError::MapCreateFailed(errno) => ("shm_open or mmap", errno),
        ShmemError::UnknownOsError(errno) => ("ftruncate", errno),
        _ => ("shared_memory", 0),
    };
    match Errno::from_raw(errno as i32) {
        Errno::ENOSPC => SegmentError::StoreFull { needed: length },
        Errno::ENOMEM => SegmentError::OutOfMappings { length },
        errno => SegmentError::of(call, errno, length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The race of a creation with a sweep, step by step: the owner has made and opened its object, then the
    // root comes.
    #[test]
    fn an_owner_notices_that_a_sweep_took_its_newborn_segment() {
        let named = Named::new(&format!("hivemind-test-newborn-{}", std::process::id())).unwrap();
        let name = named.new_name();
        let _memory = ShmemConf::new().os_id(&name).size(1).create().unwrap();
        let open = || File::from(open_private(&name, OFlag::O_RDONLY).unwrap());

        let (late, early, root) = (open(), open(), open());
        root.try_lock().unwrap();
        assert!(stay_alive(&late).unwrap().is_none(), "the root has it and is about to remove it");
        drop(root);

        let alive = stay_alive(&early).unwrap();
        drop(early);
        assert!(alive.is_some());
        assert_eq!(named.remove_stale().unwrap().alive, 1, "the mapping alone holds the lock");
        drop(alive);
        assert_eq!(named.remove_stale().unwrap().removed.len(), 1);
        assert!(stay_alive(&late).unwrap().is_none(), "there is no name any more");
    }
}
