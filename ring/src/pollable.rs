//! A descriptor that becomes readable when one of some futex words changes: for `poll`, `epoll` and whatever
//! rests on them.
//!
//! The kernel waits, no thread does: io_uring waits on futex words since Linux 6.7 (`IORING_OP_FUTEX_WAITV`),
//! the same words on which [`crate::reader::Seats::sleep`] waits, and says in an eventfd that the wait is
//! over. Peers notice no difference, and are trusted in nothing more.
//!
//! ```text
//! clear     what has ended is taken from the io_uring, what has not is cancelled; the eventfd is 0
//! (arm: publishers are told, words are noted, a last look)
//! wait      one request; if a word has changed since it was noted, it is over at once
//! ring      whoever rings the word makes the kernel raise the eventfd, before anything else runs here
//! ```
//!
//! From `clear` on one of three things is true until the next: the wait has begun, or it is over and the
//! descriptor is readable, or [`Pollable::trip`] made it readable. Besides, the end of the thread that began
//! the wait makes it readable, which ends the wait; and a raise for an earlier wait may come late, which
//! [`Pollable::is_armed`] takes back.
//!
//! The kernel finishes a request in the thread that made it. For the first thread that waits, the io_uring is
//! made so that this happens when that thread asks (`IORING_SETUP_DEFER_TASKRUN`), and the eventfd is raised
//! meanwhile: nothing that this thread does is disturbed. Such an io_uring serves one thread. When another
//! one waits, the next io_uring serves all: then the thread that waited last is interrupted for
//! a moment wherever it is, so `epoll_wait` may return EINTR there, as it may after SIGCONT.
//!
//! If the process dies, the kernel takes everything back. A forked child finds at the eventfd's number a
//! descriptor of its own that is always readable, and nothing of the io_uring (see `fork`); its close, its
//! reads and its death do nothing in the parent.
//!
//! Not offered: kernels before 6.7 and sandboxes that forbid io_uring; there [`Pollable::new`] says
//! [`PollableError::Refused`], and somebody else has to raise an [`Event`].

use crate::fork::{Descriptor, Home};
use crate::reader::Armed;
use crate::sync::{AtomicBool, Ordering};
use nix::errno::Errno;
use nix::libc;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};

use self::uring::{Serves, Uring};

mod uring;

/// Why there is no such descriptor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PollableError {
    /// The kernel is too old to wait for this process, or a sandbox forbids it to.
    #[error("the kernel does not wait for futex words by io_uring ({0}); a thread has to")]
    Refused(io::Error),
    /// The system has no descriptor or no memory left for it.
    #[error("cannot make a descriptor to wait on: {0}; close some, or raise the limit (ulimit -n)")]
    System(#[from] io::Error),
}

/// A descriptor that is readable from the time it is raised until it is cleared.
#[derive(Debug)]
pub struct Event(Descriptor);

impl Event {
    /// One that is not readable.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Event> {
        // SAFETY: the call takes two integers and touches no memory of ours.
        let made = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; we are its exclusive owner.
        let owner = unsafe { OwnedFd::from_raw_fd(made) };
        Ok(Event(Descriptor::always_ready_in_children(owner)))
    }

    /// Makes it readable. Does not block.
    pub fn raise(&self) {
        // It fails when the count is at its end: then it is readable.
        let _ = nix::unistd::write(self.0.in_any_process(), &1u64.to_ne_bytes());
    }

    /// Makes it unreadable. Does nothing in a forked child.
    pub fn clear(&self) {
        if let Ok(owner) = self.0.get() {
            // It fails when the count is 0.
            let _ = nix::unistd::read(owner, &mut [0; 8]);
        }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.in_any_process().as_fd()
    }
}

/// A descriptor for which the kernel waits on futex words; see the head of this module.
#[derive(Debug)]
pub struct Pollable {
    event: Event,
    /// `None`: it could not be made anew.
    uring: Option<Uring>,
    is_tripped: bool,
    home: Home,
}

/// Set where this process is not to ask the kernel.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// From now on [`Pollable::new`] is refused in this process, as on a kernel before 6.7: for tests of what is
/// done instead.
#[doc(hidden)]
pub fn refuse_from_now_on() {
    // Relaxed: nothing else is read by it.
    REFUSED.store(true, Ordering::Relaxed);
}

impl Pollable {
    /// A descriptor that is readable.
    ///
    /// # Errors
    /// [`PollableError`].
    pub fn new() -> Result<Pollable, PollableError> {
        // Relaxed: nothing else is read by it.
        if REFUSED.load(Ordering::Relaxed) {
            return Err(PollableError::Refused(Errno::ENOSYS.into()));
        }
        let event = Event::new()?;
        let uring = Uring::new(&event, Serves::ThisThread)?;
        event.raise();
        Ok(Pollable { event, uring: Some(uring), is_tripped: true, home: Home::here() })
    }

    /// Whether the kernel waits: the descriptor is not readable, and will be.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        let waits = || self.uring.as_ref().is_some_and(Uring::is_waiting);
        if !self.home.is_here() || self.is_tripped || !waits() {
            return false;
        }
        // The kernel may raise the descriptor late for a wait that is over. It counts an end before it
        // raises, so if what is taken here was raised for the wait that is under way, the second look
        // sees its end.
        self.event.clear();
        waits()
    }

    /// Makes it unreadable, and ends the wait that may be under way. To be followed by [`Pollable::wait`] or
    /// [`Pollable::trip`].
    pub fn clear(&mut self) {
        if !self.home.is_here() {
            return;
        }
        if self.uring.as_mut().is_none_or(|uring| uring.settle().is_err()) {
            // Another thread, or a kernel without memory.
            self.uring = None;
            self.uring = Uring::new(&self.event, Serves::AllThreads).ok();
        }
        self.event.clear();
        self.is_tripped = false;
    }

    /// Lets the kernel wait until one of the words changes or the bound is over. Where it cannot, the
    /// descriptor is readable at once.
    pub fn wait(&mut self, armed: &Armed<'_>) {
        let waits = self.home.is_here() && self.uring.as_mut().is_some_and(|uring| uring.wait(armed).is_ok());
        if !waits {
            // It serves another thread, or holds requests that the kernel did not take and whose memory is
            // about to go: the next `clear` makes another.
            self.uring = None;
            self.trip();
        }
    }

    /// Makes it readable.
    pub fn trip(&mut self) {
        if !self.is_tripped {
            self.is_tripped = true;
            self.event.raise();
        }
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
