//! Segments that no honest process makes: copies of genuine ones with some words changed, in memory objects
//! with any seals.

use hivemind_ring::segment::Handle;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Bytes that are to become a segment.
#[derive(Debug, Clone)]
pub struct Forgery {
    bytes: Vec<u8>,
    seals: SealFlag,
}

/// The words of a ring's header, by their places.
pub mod ring_word {
    /// Which kind of segment.
    pub const MAGIC: usize = 0;
    /// Of the layout.
    pub const VERSION: usize = 1;
    /// The life of the publisher's node.
    pub const NODE: usize = 2;
    /// Which end of it.
    pub const INDEX: usize = 3;
    /// Half of the type's fingerprint.
    pub const FINGERPRINT_LOW: usize = 4;
    /// Slots.
    pub const CAPACITY: usize = 6;
    /// Where slots begin.
    pub const SLOTS_OFFSET: usize = 7;
    /// Where chunks begin.
    pub const CHUNKS_OFFSET: usize = 8;
    /// Bytes of chunks.
    pub const CHUNKS_LENGTH: usize = 9;
    /// Largest message.
    pub const MESSAGE_MAX: usize = 10;
    /// Flags.
    pub const MODE: usize = 11;
    /// Messages for latecomers.
    pub const HISTORY: usize = 12;
    /// Line of the doorbell.
    pub const BELL: usize = 13;
    /// Messages committed.
    pub const HEAD: usize = 16;
    /// First word of the first slot: offset of a chunk, or the message.
    pub const SLOT: usize = 32;
    /// Last word of the first slot: its stamp.
    pub const STAMP: usize = SLOT + 7;
}

/// The words of a reader segment's header and of its first seat, by their places.
pub mod reader_word {
    /// Which kind of segment.
    pub const MAGIC: usize = 0;
    /// Of the layout.
    pub const VERSION: usize = 1;
    /// The life of the subscriber's node.
    pub const NODE: usize = 2;
    /// Which end of it.
    pub const INDEX: usize = 3;
    /// How many seats.
    pub const SEATS: usize = 4;
    /// Line of the doorbell.
    pub const BELL: usize = 5;
    /// The state of the first seat.
    pub const STATE: usize = 64 + 6;
}

/// All seals of a segment that only its owner writes; these objects are never written again.
fn whole() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL
}

impl Forgery {
    /// A copy of the first `length` bytes of a genuine segment.
    ///
    /// # Panics
    /// If it is none that can be read.
    pub fn copy(genuine: &Handle, length: usize) -> Forgery {
        let Handle::Descriptor(descriptor) = genuine else { panic!("not anonymous") };
        let file = File::from(descriptor.try_clone().expect("a descriptor"));
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).expect("it is as long");
        Forgery { bytes, seals: whole() }
    }

    /// Nothing but zeros.
    pub fn zeros(length: usize) -> Forgery {
        Forgery { bytes: vec![0; length], seals: whole() }
    }

    /// Changes a word.
    #[must_use]
    pub fn word(mut self, place: usize, value: u64) -> Forgery {
        self.bytes[place * 8..place * 8 + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Cuts it short.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Forgery {
        self.bytes.truncate(length);
        self
    }

    /// Leaves a seal away.
    #[must_use]
    pub fn without(mut self, seal: SealFlag) -> Forgery {
        self.seals.remove(seal | SealFlag::F_SEAL_SEAL);
        self
    }

    /// The memory object.
    ///
    /// # Panics
    /// If the system has no memory.
    pub fn make(&self) -> OwnedFd {
        let descriptor =
            memfd_create(c"forgery", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memory");
        let file = File::from(descriptor);
        file.write_all_at(&self.bytes, 0).expect("memory");
        fcntl(&file, FcntlArg::F_ADD_SEALS(self.seals)).expect("it may be sealed");
        file.into()
    }
}
