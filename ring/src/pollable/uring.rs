//! The few calls of io_uring that one wait needs, without a library: a ring of [`ENTRIES`] requests, one of
//! which waits.
//!
//! The kernel reads the words and the time of a request while it is submitted and keeps copies, so nothing
//! that a request names has to live longer than that. Its two mappings are shared with the kernel alone, and
//! are not there in a forked child.
use super::{Event, PollableError};
use crate::bell::Wait;
use crate::fork::{Descriptor, Home};
use crate::reader::Armed;
use crate::sync::{AtomicU32, Ordering};
use nix::errno::Errno;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;

/// Requests that are prepared at the same time: a wait with its time, and one that cancels both.
const ENTRIES: u32 = 4;
/// Calls until what was cancelled has ended. Each of them but the last was interrupted by a signal.
const SETTLE_MAX: u32 = 1_000;

// Values of linux/io_uring.h.
const SETUP_SUBMIT_ALL: u32 = 1 << 7;
const SETUP_TASKRUN_FLAG: u32 = 1 << 9;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const FEATURE_SINGLE_MMAP: u32 = 1;
const OFFSET_REQUESTS: libc::off_t = 0x1000_0000;
const REGISTER_EVENTFD: libc::c_uint = 4;
const REGISTER_PROBE: libc::c_uint = 8;
const ENTER_GETEVENTS: libc::c_uint = 1;
const SQ_TASKRUN: u32 = 1 << 2;
const OP_ASYNC_CANCEL: u8 = 14;
const OP_LINK_TIMEOUT: u8 = 15;
const OP_FUTEX_WAITV: u8 = 53;
const REQUEST_LINK: u8 = 1 << 2;
const CANCEL_ALL_OF_ANY: u32 = 1 | 1 << 2;
const PROBE_SUPPORTED: u16 = 1;

/// Which threads may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// The one that makes it, undisturbed.
    ThisThread,
    /// All; see the head of `pollable`.
    AllThreads,
}

/// `struct io_uring_params`.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread: [u32; 2],
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SqOffsets,
    cq: CqOffsets,
}

#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_addr: u64,
}

#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

/// `struct io_uring_probe` with as many operations as are asked for.
#[repr(C)]
struct Probe {
    last_op: u8,
    count: u8,
    reserved: [u16; 7],
    operations: [ProbedOperation; OP_FUTEX_WAITV as usize + 1],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ProbedOperation {
    operation: u8,
    reserved: u8,
    flags: u16,
    reserved_too: u32,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct io_uring_sqe`.
type Request = [u64; 8];

fn request(operation: u8, flags: u8, address: u64, length: u32, operation_flags: u32) -> Request {
    let no_descriptor = if operation == OP_FUTEX_WAITV { 0 } else { u64::from(u32::MAX) << 32 };
    let first = u64::from(operation) | u64::from(flags) << 8 | no_descriptor;
    [first, 0, address, u64::from(length) | u64::from(operation_flags) << 32, 0, 0, 0, 0]
}

#[derive(Debug)]
pub(super) struct Uring {
    descriptor: Descriptor,
    rings: Mapping,
    requests: Mapping,
    sq: SqOffsets,
    cq: CqOffsets,
    serves: Serves,
    /// Requests that were submitted and whose ends were not taken.
    in_flight: u32,
}

/// In the flags of the completion ring: the eventfd is not raised.
const CQ_EVENTFD_DISABLED: u32 = 1;

impl Drop for Uring {
    fn drop(&mut self) {
        if self.rings.home.is_here() {
            // Relaxed: the kernel alone looks, when it cancels what is under way: nobody is to hear of that.
            self.rings.word(self.cq.flags).store(CQ_EVENTFD_DISABLED, Ordering::Relaxed);
        }
    }
}

impl Uring {
    /// One that raises `event` when a request has ended.
    pub(super) fn new(event: &Event, serves: Serves) -> Result<Uring, PollableError> {
        let flags = match serves {
            Serves::ThisThread => SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_TASKRUN_FLAG,
            Serves::AllThreads => 0,
        };
        let mut params = Params { flags: flags | SETUP_SUBMIT_ALL, ..Params::default() };
        // SAFETY: reads and writes `params`, a local of the layout that the kernel knows; the rest are
        // integers.
        let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) };
        let number = match RawFd::try_from(made) {
            Ok(number) if number >= 0 => number,
            _ => return Err(refused_or_short(io::Error::last_os_error())),
        };
        // SAFETY: the kernel has just made this descriptor for us; we are its exclusive owner.
        let owner = unsafe { OwnedFd::from_raw_fd(number) };
        if params.features & FEATURE_SINGLE_MMAP == 0 || !knows_the_wait(number) {
            return Err(PollableError::Refused(Errno::ENOSYS.into()));
        }
        let (sq, cq) = (params.sq, params.cq);
        let requests_end = u64::from(sq.array) + u64::from(params.sq_entries) * 4;
        let ends_end = u64::from(cq.cqes) + u64::from(params.cq_entries) * 16;
        let rings = Mapping::new(number, 0, requests_end.max(ends_end) as usize)?;
        let requests =
            Mapping::new(number, OFFSET_REQUESTS, params.sq_entries as usize * size_of::<Request>())?;
        let number = event_number(event);
        // SAFETY: reads one integer, a local; the rest are integers.
        let told = unsafe {
            let io_uring = owner.as_raw_fd();
            libc::syscall(libc::SYS_io_uring_register, io_uring, REGISTER_EVENTFD, &raw const number, 1)
        };
        if told != 0 {
            return Err(refused_or_short(io::Error::last_os_error()));
        }
        let uring =
            Uring { descriptor: Descriptor::new(owner), rings, requests, sq, cq, serves, in_flight: 0 };
        for entry in 0..ENTRIES {
            // Relaxed: the tail, which is stored later, makes it known.
            uring.rings.word(sq.array + entry * 4).store(entry, Ordering::Relaxed);
        }
        Ok(uring)
    }

    /// Whether a request is under way and none has ended.
    pub(super) fn is_waiting(&self) -> bool {
        // Relaxed, all: whoever is told that something has ended looks again, with orderings of its own.
        let is_deferred = self.serves == Serves::ThisThread
            && self.rings.word(self.sq.flags).load(Ordering::Relaxed) & SQ_TASKRUN != 0;
        let ended = self.rings.word(self.cq.tail).load(Ordering::Relaxed);
        self.in_flight > 0 && !is_deferred && ended == self.rings.word(self.cq.head).load(Ordering::Relaxed)
    }

    /// Ends whatever is under way.
    ///
    /// # Errors
    /// It serves another thread, or the kernel has no memory.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.in_flight == 0 {
            return Ok(());
        }
        if self.serves == Serves::ThisThread {
            // What has ended is said now.
            self.enter(0, 0)?;
        }
        self.take_ends();
        if self.in_flight == 0 {
            return Ok(());
        }
        self.push(0, request(OP_ASYNC_CANCEL, 0, 0, 0, CANCEL_ALL_OF_ANY));
        self.submit(1)?;
        for _ in 0..SETTLE_MAX {
            self.take_ends();
            if self.in_flight == 0 {
                return Ok(());
            }
            match self.enter(0, 1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EINTR.into())
    }

    /// Waits; see [`super::Pollable::wait`]. Nothing is under way.
    pub(super) fn wait(&mut self, armed: &Armed<'_>) -> io::Result<()> {
        let words = armed.words.all();
        let waits: Vec<Wait> = words.iter().map(|word| Wait::on(*word)).collect();
        let time = armed.bound.map(|bound| Time {
            seconds: i64::try_from(bound.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(bound.subsec_nanos()),
        });
        let link = if time.is_some() { REQUEST_LINK } else { 0 };
        self.push(0, request(OP_FUTEX_WAITV, link, waits.as_ptr() as u64, waits.len() as u32, 0));
        let mut count = 1;
        if let Some(time) = &time {
            self.push(1, request(OP_LINK_TIMEOUT, 0, std::ptr::from_ref(time) as u64, 1, 0));
            count = 2;
        }
        // `waits`, `time` and the words live until here: the kernel reads them now and has copies then.
        self.submit(count)
    }

    /// Prepares a request, `ahead` of the next.
    fn push(&self, ahead: u32, request: Request) {
        // Relaxed: only this process stores it.
        let tail = self.rings.word(self.sq.tail).load(Ordering::Relaxed);
        let place = (tail.wrapping_add(ahead) % ENTRIES) as usize;
        // SAFETY: in bounds: the mapping has ENTRIES requests or more, as the kernel rounds up, and `place`
        // is below.
        let place = unsafe { self.requests.base.cast::<Request>().add(place) };
        // SAFETY: in bounds (above) and aligned: the mapping begins with a page. Nobody reads it: the kernel
        // does within `enter`, of requests before the tail.
        unsafe { place.write(request) };
    }

    /// Hands over so many requests that were prepared. After an error some may still lie there: the io_uring
    /// is not used again.
    fn submit(&mut self, count: u32) -> io::Result<()> {
        let tail = self.rings.word(self.sq.tail);
        // Relaxed, both: the kernel looks at it within `enter`, on this thread.
        tail.store(tail.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
        let taken = self.enter(count, 0)?;
        self.in_flight += taken;
        if taken == count { Ok(()) } else { Err(Errno::EAGAIN.into()) }
    }

    fn enter(&self, submitted: u32, awaited: u32) -> io::Result<u32> {
        let flags = if submitted == 0 { ENTER_GETEVENTS } else { 0 };
        let number = self.descriptor.get().map_err(io::Error::other)?.as_raw_fd();
        // SAFETY: the kernel reads requests from the mapping, and what they name, which `wait` keeps alive
        // for the call; it writes to its own mapping. The rest are integers, and there is no signal
        // set.
        let taken = unsafe {
            let (none, no_bytes) = (std::ptr::null::<libc::c_void>(), 0usize);
            libc::syscall(libc::SYS_io_uring_enter, number, submitted, awaited, flags, none, no_bytes)
        };
        u32::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    /// Takes what has ended. How it ended does not matter: whoever waited looks.
    fn take_ends(&mut self) {
        // Relaxed, all: only the counts are read, and nothing of what they count.
        let tail = self.rings.word(self.cq.tail).load(Ordering::Relaxed);
        let head = self.rings.word(self.cq.head);
        let ended = tail.wrapping_sub(head.load(Ordering::Relaxed));
        head.store(tail, Ordering::Relaxed);
        self.in_flight = self.in_flight.saturating_sub(ended);
    }
}

fn event_number(event: &Event) -> i32 {
    use std::os::fd::AsFd as _;
    event.as_fd().as_raw_fd()
}

/// Whether this kernel waits for futex words.
fn knows_the_wait(io_uring: RawFd) -> bool {
    let operation = ProbedOperation { operation: 0, reserved: 0, flags: 0, reserved_too: 0 };
    let mut probe = Probe { last_op: 0, count: 0, reserved: [0; 7], operations: [operation; _] };
    // SAFETY: writes `probe`, a local that has room for as many operations as are asked for; the rest are
    // integers.
    let told = unsafe {
        let count = probe.operations.len();
        libc::syscall(libc::SYS_io_uring_register, io_uring, REGISTER_PROBE, &raw mut probe, count)
    };
    told == 0 && probe.operations[OP_FUTEX_WAITV as usize].flags & PROBE_SUPPORTED != 0
}

/// Whether the kernel or a sandbox does not want to, or there is too little of something.
fn refused_or_short(error: io::Error) -> PollableError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN) => PollableError::System(error),
        _ => PollableError::Refused(error),
    }
}

/// Memory that is shared with the kernel.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    length: usize,
    home: Home,
}

// SAFETY: the mapping belongs to this value alone; whoever has it reaches it, on any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(descriptor: RawFd, offset: libc::off_t, length: usize) -> io::Result<Mapping> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: without MAP_FIXED a mapping takes the place of nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, rights, flags, descriptor, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        let mapping = Mapping { base, length, home: Home::here() };
        // SAFETY: advice about our own mapping: a child does not get it.
        if unsafe { libc::madvise(base.as_ptr().cast(), length, libc::MADV_DONTFORK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// The word at an offset that the kernel said.
    fn word(&self, offset: u32) -> &AtomicU32 {
        let offset = offset as usize;
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.length,
            "the kernel names words of its own mapping"
        );
        // SAFETY: in bounds (above).
        let place = unsafe { self.base.add(offset) };
        // SAFETY: in bounds and aligned (above; the mapping begins with a page), initialised by the kernel,
        // only used as an atomic, alive as long as self.
        unsafe { place.cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a child something else may be there.
        if self.home.is_here() {
            // SAFETY: mapped in `new`, with this length, and unmapped only here; no reference outlives self.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
        }
    }
}
