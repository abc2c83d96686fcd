//! What a subscriber gets of a publisher's segment, a descriptor and a read-only mapping, is useless for
//! writing: the kernel refuses every way there is. Each test tries one way and then looks whether the bytes
//! changed.
//!
//! The subscriber is played within one process. The kernel makes no difference: the seals belong to the
//! memory object, not to who holds it, and even the publisher itself has no second way to write.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use hivemind_ring::segment::{Anonymous, Backend, Handle, LengthBounds, Segment, Sharing};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mprotect, munmap};
use nix::unistd::ftruncate;

const LENGTH: u64 = 8192;
const BOUNDS: LengthBounds = LengthBounds { min: LENGTH, max: 1 << 20 };
const WRITTEN: u8 = 0x5a;

struct Attack {
    publisher: Segment,
    subscriber: Segment,
    descriptor: OwnedFd,
}

impl Attack {
    fn prepare() -> Self {
        let publisher = Anonymous.create("publisher", LENGTH, Sharing::SingleWriter).unwrap();
        publisher.reserve(0..LENGTH).unwrap();
        // SAFETY: the first byte of a writable mapping; no reference to it exists.
        unsafe { publisher.as_ptr().write_volatile(WRITTEN) };
        let subscriber = Anonymous.open(publisher.handle().unwrap(), Sharing::SingleWriter, BOUNDS).unwrap();
        let Handle::Descriptor(descriptor) = publisher.handle().unwrap() else { panic!("not anonymous") };
        Self { publisher, subscriber, descriptor }
    }

    /// The memory is as it was, and its owner can still write it.
    fn came_to_nothing(&self) {
        assert_eq!(nix::sys::stat::fstat(&self.descriptor).unwrap().st_size as u64, self.publisher.len());
        // SAFETY: the first byte of a mapping that `subscriber` keeps alive.
        assert_eq!(unsafe { self.subscriber.as_ptr().read_volatile() }, WRITTEN);
        // SAFETY: the first byte of the publisher's writable mapping; no reference to it exists.
        unsafe { self.publisher.as_ptr().write_volatile(!WRITTEN) };
        // SAFETY: as above.
        assert_eq!(unsafe { self.subscriber.as_ptr().read_volatile() }, !WRITTEN);
    }
}

/// Maps `descriptor` shared with these rights and unmaps it again.
fn map(descriptor: impl AsFd, rights: ProtFlags) -> Result<(), Errno> {
    let length = NonZeroUsize::new(LENGTH as usize).unwrap();
    // SAFETY: a new mapping at an address of the kernel's choice; nothing is read or written through it.
    let start = unsafe { mmap(None, length, rights, MapFlags::MAP_SHARED, descriptor, 0) }?;
    // SAFETY: exactly the mapping made above, used by nobody.
    unsafe { munmap(start, LENGTH as usize) }
}

#[test]
fn a_subscriber_cannot_map_the_segment_writable() {
    let attack = Attack::prepare();
    assert_eq!(map(&attack.descriptor, ProtFlags::PROT_WRITE), Err(Errno::EPERM));
    assert_eq!(map(&attack.descriptor, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE), Err(Errno::EPERM));
    assert_eq!(map(&attack.descriptor, ProtFlags::PROT_READ), Ok(()), "reading is what it got it for");
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_make_its_mapping_writable() {
    let attack = Attack::prepare();
    let start = NonNull::new(attack.subscriber.as_ptr().cast()).unwrap();
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: start and length lie within the mapping of `subscriber`; more rights on it would harm nobody
    // here.
    let result = unsafe { mprotect(start, LENGTH as usize, rights) };
    assert_eq!(result, Err(Errno::EACCES));
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_write_through_its_descriptor() {
    let attack = Attack::prepare();
    assert_eq!(nix::unistd::write(&attack.descriptor, b"x"), Err(Errno::EPERM));
    let file = std::fs::File::from(attack.descriptor.try_clone().unwrap());
    let error = file.write_at(b"x", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_change_the_length() {
    let attack = Attack::prepare();
    for length in [0, 1, 4096, LENGTH - 1, LENGTH + 1, 1 << 30] {
        assert_eq!(ftruncate(&attack.descriptor, length as i64), Err(Errno::EPERM), "to {length}");
    }
    let beyond = fallocate(&attack.descriptor, FallocateFlags::empty(), LENGTH as i64, 4096);
    assert_eq!(beyond, Err(Errno::EPERM));
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_punch_a_hole() {
    let attack = Attack::prepare();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&attack.descriptor, punch, 0, 4096), Err(Errno::EPERM));
    let zero = fallocate(&attack.descriptor, FallocateFlags::FALLOC_FL_ZERO_RANGE, 0, 4096);
    assert!(matches!(zero, Err(Errno::EPERM | Errno::EOPNOTSUPP)), "{zero:?}");
    let start = NonNull::new(attack.subscriber.as_ptr().cast()).unwrap();
    // SAFETY: the first page of the mapping of `subscriber`; should it be freed, it reads as zeros, which no
    // reference relies on.
    let removed = unsafe { madvise(start, 4096, MmapAdvise::MADV_REMOVE) };
    assert!(matches!(removed, Err(Errno::EPERM | Errno::EACCES)), "{removed:?}");
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_reopen_the_segment_to_write() {
    let attack = Attack::prepare();
    let path = format!("/proc/self/fd/{}", attack.descriptor.as_raw_fd());
    let reopened = OpenOptions::new().read(true).write(true).open(path).expect("opening alone is allowed");
    assert_eq!(map(&reopened, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE), Err(Errno::EPERM));
    let error = reopened.write_at(b"x", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
    assert_eq!(ftruncate(&reopened, 0), Err(Errno::EPERM));
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_write_through_its_own_memory_file() {
    let attack = Attack::prepare();
    let memory = OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    let address = attack.subscriber.as_ptr().addr() as u64;
    assert!(memory.write_at(b"x", address).is_err(), "the way debuggers write past page rights");
    attack.came_to_nothing();
}

#[test]
fn a_subscriber_cannot_add_or_remove_seals() {
    let attack = Attack::prepare();
    let seals = || SealFlag::from_bits_retain(fcntl(&attack.descriptor, FcntlArg::F_GET_SEALS).unwrap());
    let before = seals();
    let expected = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_FUTURE_WRITE
        | SealFlag::F_SEAL_SEAL;
    assert!(before.contains(expected), "{before:?}");
    for seal in [SealFlag::F_SEAL_WRITE, SealFlag::empty()] {
        assert_eq!(fcntl(&attack.descriptor, FcntlArg::F_ADD_SEALS(seal)), Err(Errno::EPERM));
    }
    assert_eq!(seals(), before);
    attack.came_to_nothing();
}

// A doorbell is there to be written, but its length is as fixed as that of any other segment.
#[test]
fn a_peer_can_write_a_doorbell_but_not_resize_it() {
    let owner = Anonymous.create("doorbell", LENGTH, Sharing::Doorbell).unwrap();
    let Handle::Descriptor(descriptor) = owner.handle().unwrap() else { panic!("not anonymous") };
    assert_eq!(map(&descriptor, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE), Ok(()));
    assert_eq!(ftruncate(&descriptor, 0), Err(Errno::EPERM));
    assert_eq!(ftruncate(&descriptor, 2 * LENGTH as i64), Err(Errno::EPERM));
    assert_eq!(fcntl(&descriptor, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
}
