//! Chunk memory of a publisher that is not trusted: read with a system call, never mapped.
//!
//! ```text
//!   ring of a trusted publisher      | header | slots | chunk memory ................. |   all of it mapped
//!   ring of one that is not          | header | slots |                                    mapped
//!                                                     | chunk memory ................. |   a descriptor: `pread`
//! ```
//!
//! A message of such a publisher is copied before it is looked at in any case. Reading a chunk in a hole of a
//! sparse object through a mapping would give the whole of it memory, at the reader's cost: a publisher of a
//! few megabytes could make every reader of its ring take 64 GiB, or end it with a SIGBUS. `pread` takes
//! none. It also leaves the ring's 64 GiB of addresses alone.
//!
//! | what one message costs       | bound                                                                                             |
//! | ---------------------------- | ------------------------------------------------------------------------------------------------- |
//! | the publisher's memory, here | nothing                                                                                           |
//! | the copy                     | its length: at most `message_max`, and where it ends at most the memory that the publisher itself has taken |
//! | a descriptor for each ring   | a quarter of those that this process may have, for all such rings: [`OpenError::UntrustedOut`]     |
//!
//! Why the second bound holds for every honest publisher: it reserves chunk memory from the front on, without
//! a gap, before it writes there (`Writer::grow`), after it has written header and slots. So an object in
//! which a message ends at byte n has n bytes of memory or more, and never less later (see
//! [`crate::segment::Found`]). One that says otherwise lies, and is cut off. Which of its pages have memory
//! does not matter, as none is touched.
//!
//! The message is pinned while it is read, as any other: nothing else is needed to read it whole. The kernel
//! copies bytes, in no order that could be named; the pin comes before (edge pin) and goes after (edge
//! unpin).

use crate::fork::Descriptor;
use crate::layout::RingConstants;
use crate::memory::{UnmappedMemory, sealed::Sealed};
use crate::refusal::OpenError;
use crate::segment::{Found, backed};
use crate::sync::{AtomicU64, Ordering};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// The rings of publishers that are not trusted may have one in this many of the process's descriptors.
const DESCRIPTORS_SHARE: u64 = 4;

/// Descriptors that this process keeps for such rings.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// The chunk memory of one ring.
#[derive(Debug)]
pub(crate) struct Unmapped {
    descriptor: Descriptor,
    start: u64,
    length: u64,
    /// Bytes that the object had memory for when it was last asked.
    backed: AtomicU64,
    _share: Share,
}

/// One of the descriptors.
#[derive(Debug)]
struct Share;

impl Share {
    fn take() -> Result<Share, OpenError> {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft) / DESCRIPTORS_SHARE;
        // Relaxed: it is only counted.
        if KEPT.fetch_add(1, Ordering::Relaxed) >= limit {
            drop(Share);
            return Err(OpenError::UntrustedOut { limit });
        }
        Ok(Share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Relaxed: it is only counted.
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Unmapped {
    pub(crate) fn new(found: Found, constants: &RingConstants) -> Result<Self, OpenError> {
        let _share = Share::take()?;
        Ok(Unmapped {
            descriptor: Descriptor::new(found.into_descriptor()),
            start: constants.chunks_offset,
            length: constants.chunks_length,
            backed: AtomicU64::new(0),
            _share,
        })
    }
}

impl Sealed for Unmapped {}

impl UnmappedMemory for Unmapped {
    fn length(&self) -> u64 {
        self.length
    }

    fn is_backed(&self, end: u64) -> bool {
        let end = self.start.saturating_add(end);
        // Relaxed: our own note of what stays true.
        if end <= self.backed.load(Ordering::Relaxed) {
            return true;
        }
        // The publisher took its memory before the commit that told of the message (edge commit).
        let now = self.descriptor.get().ok().and_then(|descriptor| backed(descriptor).ok()).unwrap_or(0);
        // Relaxed: as above.
        self.backed.fetch_max(now, Ordering::Relaxed);
        end <= now
    }

    fn read(&self, offset: u64, into: &mut [MaybeUninit<u8>]) -> io::Result<()> {
        let descriptor = self.descriptor.get().map_err(io::Error::other)?.as_raw_fd();
        let mut done = 0;
        while done < into.len() {
            let rest = &mut into[done..];
            // In range: chunks end within the segment, whose length the kernel gave as one of these.
            let at = (self.start + offset + done as u64) as libc::off_t;
            // SAFETY: pread writes at most `rest.len()` bytes to `rest`, which is borrowed for the whole
            // call: in bounds, alive, exclusive.
            let read = unsafe { libc::pread(descriptor, rest.as_mut_ptr().cast(), rest.len(), at) };
            match Errno::result(read) {
                // It never becomes shorter.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // Not negative.
                Ok(more) => done += more as usize,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
