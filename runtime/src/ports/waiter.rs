//! What one waits on: one thread, descriptor or task for one end or for any number of them.
//!
//! | who waits | stands on | costs the ends nothing but |
//! | --- | --- | --- |
//! | a thread, for one end ([`super::receive`]) | `Seats::sleep`: spins, then a futex | what it did before |
//! | whoever polls the descriptor of an end ([`Intake::descriptor`]) | `Seats::arm`; the kernel waits ([`hivemind_ring::pollable`]) | arming, once a burst |
//! | a thread, for many ends ([`Waiter::wait`]) | `Seats::arm_at`: one word for all | arming, once a burst; silent ones nothing |
//! | whoever polls the descriptor of a waiter ([`Waiter::descriptor`]) | both | the same |
//! | the same two where the kernel does not wait | the node's herald, one thread ([`super::wards::Herald`]) | the same |
//!
//! An end tells whoever waits for it of the next thing: a message, an arrival, the end of a publisher, that
//! the node leaves. Then it is *ready* until a `try_recv` that finds nothing arms it again. So readiness is a
//! level: it may be told in vain, and is never held back while something can be received. Who takes edges has
//! to receive until there is nothing, as always.
//!
//! What the patterns above it need is here, and how they stand on it:
//!
//! - *wait set*: a waiter. Timers are the timeout of [`Waiter::wait`]: the earliest of a heap that the set
//!   keeps, so that no timer costs a descriptor. Priorities and deadlines are the set's own order of what
//!   [`Waiter::wait`] names. Nothing grows with what is silent.
//! - *foreign descriptors in a set*: the set polls them together with [`Waiter::descriptor`], which is one
//!   descriptor however many ends there are.
//! - *async*: a task of a runtime with a reactor registers [`Intake::descriptor`] there (tokio's `AsyncFd`,
//!   `async-io`), polls `try_recv`, and on `None` awaits readability: one wake-up and no thread between. It
//!   is cancel-safe, as nothing was taken. For a bare `block_on` the herald wakes tasks as it raises events:
//!   a ward has a place for either.
//! - *calls, latest values, events*: their receiving ends sleep by the same words, and are wards like any
//!   other.
//!
//! In a forked child every call says so; descriptors are always readable there.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hivemind_ring::bell;
use hivemind_ring::fork::Forked;
use hivemind_ring::memory::BellMemory as _;
use hivemind_ring::pollable::{Pollable, PollableError};
use hivemind_ring::sync::Ordering;

use super::intake::{Intake, SPIN};
use super::member::Member;
use super::wards::{Ear, PlaceWords, Ticket, Wards, with_ears};
use super::watch::{Descriptor, Watch, WatchError};

/// Looks at the word between two looks at the clock while spinning.
const SPINS_PER_CLOCK: u32 = 64;

/// Waits for any number of ends of one node. `Send`, not `Sync`.
pub struct Waiter {
    member: Arc<Member>,
    wards: Arc<Wards>,
    descriptor: OnceCell<Descriptor>,
    tickets: Vec<Ticket>,
    spin: Duration,
}

/// Names an end that a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(Ticket);

impl Waiter {
    /// A waiter that waits for nobody yet.
    ///
    /// # Errors
    /// [`WatchError`]: there is no doorbell left, or this is a forked child.
    pub fn new(member: &Arc<Member>) -> Result<Waiter, WatchError> {
        member.home().check()?;
        let wards = Wards::new(member.hub().bells().take()?);
        let member = Arc::clone(member);
        Ok(Waiter { member, wards, descriptor: OnceCell::new(), tickets: Vec::new(), spin: SPIN })
    }

    /// How long [`Waiter::wait`] spins before it sleeps. Default: 20 us.
    pub fn spin(&mut self, duration: Duration) {
        self.spin = duration;
    }

    /// Waits for this end, too. It is ready, until a look at it finds nothing.
    ///
    /// # Errors
    /// [`WatchError`]: somebody waits for it already, or it is of a forked child.
    pub fn add(&self, intake: &Intake) -> Result<Key, WatchError> {
        self.member.home().check()?;
        intake.watch_by(|end| {
            let ward = self.wards.add(Some(Arc::clone(end.memory())), None);
            let key = Key(ward.ticket());
            Ok((Watch::Ward(ward), key))
        })
    }

    /// Waits until an end may have something, and names all that may, after what is there already; returns
    /// how many. 0: the time is over. Those that are not read to their end are named again by the next
    /// call.
    ///
    /// # Errors
    /// [`Forked`].
    pub fn wait(&mut self, ready: &mut Vec<Key>, timeout: Option<Duration>) -> Result<usize, Forked> {
        self.member.home().check()?;
        let start = Instant::now();
        let wards = Arc::clone(&self.wards);
        loop {
            let words = PlaceWords::at(wards.bell().bell());
            let (ears, bound) = match wards.gather(&mut self.tickets) {
                Ok(()) => return Ok(self.name(ready)),
                Err(sleep) => sleep,
            };
            let elapsed = start.elapsed();
            let left = timeout.map(|timeout| timeout.saturating_sub(elapsed));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(self.nothing(ready));
            }
            let spin = self.spin.saturating_sub(elapsed).min(left.unwrap_or(Duration::MAX));
            if !self.spin_while_silent(&words, start, elapsed.saturating_add(spin)) {
                let armed = with_ears(&words, &ears, bound);
                let time = armed.bound.into_iter().chain(left).min();
                bell::wait_for_any(&armed.words, time);
            }
            wards.awake();
        }
    }

    /// Looks until so long after `start`. True: it was rung.
    fn spin_while_silent(&self, words: &PlaceWords<'_>, start: Instant, until: Duration) -> bool {
        let (word, seen) = words.all()[0];
        while start.elapsed() < until {
            for _ in 0..SPINS_PER_CLOCK {
                // Relaxed: whoever looks afterwards does so with orderings of its own.
                if word.load(Ordering::Relaxed) != seen {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Hands out what was gathered.
    fn name(&mut self, ready: &mut Vec<Key>) -> usize {
        if let Some(descriptor) = self.descriptor.get_mut() {
            descriptor.trip();
        }
        let count = self.tickets.len();
        ready.extend(self.tickets.drain(..).map(Key));
        count
    }

    /// Nothing is ready: whoever polls the descriptor, if there is one, waits from here on.
    fn nothing(&mut self, ready: &mut Vec<Key>) -> usize {
        let Some(descriptor) = self.descriptor.get_mut() else {
            self.wards.awake();
            return 0;
        };
        if descriptor.is_armed() {
            return 0;
        }
        descriptor.clear();
        let bell = self.wards.bell();
        let words = PlaceWords::at(bell.bell());
        match self.wards.gather(&mut self.tickets) {
            Ok(()) => self.name(ready),
            Err((ears, bound)) => {
                let armed = with_ears(&words, &ears, bound);
                let (_, seen) = words.all()[0];
                let place = Ear::Place(bell.clone(), seen);
                descriptor.wait_at(&armed, || [place].into_iter().chain(ears.iter().cloned()).collect());
                0
            }
        }
    }

    /// A descriptor that is readable when an end may have something, until [`Waiter::wait`] has found that
    /// none has. It lives as long as this.
    ///
    /// # Errors
    /// [`WatchError`]: the system has no descriptor left.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>, WatchError> {
        if self.descriptor.get().is_none() {
            let descriptor =
                descriptor_for(&self.member, || Ok(Descriptor::told(&self.member.hub().herald()?, None)?))?;
            // There was none.
            let _ = self.descriptor.set(descriptor);
        }
        Ok(self.descriptor.get().expect("it was set just now").as_fd())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.wards.end();
    }
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("spin", &self.spin).finish_non_exhaustive()
    }
}

impl Intake {
    /// A descriptor that is readable when something can be received or looked at: a message, an arrival, the
    /// end of a publisher, that the node leaves. Once a look for a message found none, it is not readable
    /// until something comes. It may be readable for nothing. It is made by the first call, costs nothing
    /// before, and lives as long as this end; nobody must read from it.
    ///
    /// # Errors
    /// [`WatchError`]: a waiter waits for this end, or the system has no descriptor left.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>, WatchError> {
        if let Some(descriptor) = self.own_descriptor() {
            return Ok(descriptor);
        }
        self.watch_by(|end| {
            let herald = || Ok(Descriptor::told(&self.member().hub().herald()?, Some(end))?);
            Ok((Watch::Descriptor(descriptor_for(self.member(), herald)?), ()))
        })?;
        Ok(self.own_descriptor().expect("it was made just now"))
    }
}

impl AsFd for Intake {
    /// As [`Intake::descriptor`].
    ///
    /// # Panics
    /// Where that is an error; ask it first, once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl AsFd for Waiter {
    /// As [`Waiter::descriptor`].
    ///
    /// # Panics
    /// Where that is an error; ask it first, once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// One for which the kernel waits or, where it does not, one made by `told`.
fn descriptor_for(
    member: &Member,
    told: impl FnOnce() -> Result<Descriptor, WatchError>,
) -> Result<Descriptor, WatchError> {
    member.home().check()?;
    match Pollable::new() {
        Ok(pollable) => Ok(Descriptor::Kernel(Box::new(pollable))),
        Err(PollableError::Refused(reason)) => {
            tracing::debug!(%reason, "a thread waits for descriptors, as the kernel does not");
            told()
        }
        Err(PollableError::System(error)) => Err(error.into()),
        Err(other) => Err(std::io::Error::other(other).into()),
    }
}
