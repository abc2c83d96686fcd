//! A thread that waits for its answer does the work of the control thread meanwhile: see the head of
//! [`crate::session`].
//!
//! | who holds the state                | looks after                                                             |
//! | ---------------------------------- | ----------------------------------------------------------------------- |
//! | the control thread, when it wakes  | everything; what is to be read from a link that is driven it leaves alone |
//! | a thread that drives (`is_driven`) | the link, until its answer is there, for at most [`DRIVING`]             |
//!
//! Neither holds it while it sleeps. A callback that panics in a thread that drives poisons the state: the
//! session ends then.
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::EpollFlags;

use super::{Cell, Control};
use crate::session::link::Link;
use crate::session::{AnnounceError, Announcement, Command, DRIVING, Reply, Shared};
use crate::socket::Socket;

/// [`DRIVING`] as a thread that drives waits for the socket.
const DRIVING_MS: u8 = DRIVING.as_millis() as u8;

impl Control {
    /// Reads what the root has said to a thread that drives this link since `begun`. False: it drives no
    /// more.
    fn heard(
        &mut self,
        socket: &Arc<Socket>,
        answer: &Receiver<Result<(), AnnounceError>>,
        begun: Instant,
    ) -> bool {
        if self.link.as_ref().is_some_and(|link| link.is_over(socket)) {
            self.link_ready(EpollFlags::EPOLLIN);
        }
        let link = self.link.as_mut().filter(|link| link.is_over(socket));
        // A link with too much to send is not read from.
        let goes_on = answer.is_empty()
            && begun.elapsed() < DRIVING
            && link.as_ref().is_some_and(|link| !link.is_full());
        if let Some(link) = link {
            link.is_driven = goes_on;
        }
        self.hand_back();
        goes_on
    }
}

thread_local! {
    static DRIVES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// True in callbacks that this thread makes while it drives.
pub(in crate::session) fn is_driving() -> bool {
    DRIVES.get()
}

/// Marks this thread while it holds the state; if a callback panics meanwhile, the control thread wakes and
/// ends.
struct Driving(Arc<Shared>);

impl Driving {
    fn begin(shared: &Arc<Shared>) -> Driving {
        DRIVES.set(true);
        Driving(shared.clone())
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        DRIVES.set(false);
        if std::thread::panicking() {
            let _ = self.0.wake.write(1);
        }
    }
}

/// An end that the root was told of before it is made. Whoever holds this looks after the link, so nothing
/// that the root says about the end is heard before it is there. Dropped before [`drive`] has taken it, it
/// takes the announcement back.
pub(in crate::session) struct Ahead {
    cell: Cell,
    shared: Arc<Shared>,
    index: u32,
    /// The link that it was said on.
    socket: Arc<Socket>,
    begun: Instant,
    is_taken: bool,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        // Poisoned: a callback panicked, and the session ends.
        if let Ok(mut held) = self.cell.lock()
            && let Some(control) = held.as_mut()
        {
            if let Some(link) = control.link.as_mut().filter(|link| link.is_over(&self.socket)) {
                link.is_driven = false;
            }
            control.hand_back();
        }
        // Refused only when the session has ended.
        let _ = self.shared.push(Command::Withdraw { index: self.index, ring: None });
    }
}

/// Announces an end that is still to be made, so that the root works on it meanwhile. `None`: not now; make
/// it first.
pub(in crate::session) fn announce_ahead(cell: &Cell, announcement: &Announcement) -> Option<Ahead> {
    let said = AssertUnwindSafe(|| {
        let mut held = cell.try_lock().ok()?;
        let control = held.as_mut()?;
        let is_free = |link: &Link| link.is_admitted && !link.is_driven && !link.is_full();
        // A number is announced once: what the root answered then is the answer.
        let is_known = control.announced.contains(announcement.index());
        if is_known || is_driving() || !control.link.as_ref().is_some_and(is_free) {
            return None;
        }
        let shared = control.shared.clone();
        let _driving = Driving::begin(&shared);
        // What was said before comes first.
        control.obey();
        control.announced.tell(announcement.clone());
        control.catch_up();
        let index = announcement.index();
        let socket = match control.link.as_mut().filter(|_| control.announced.backlog.is_empty()) {
            Some(link) => {
                link.is_driven = true;
                link.socket.clone()
            }
            // Lost just now, or too much waits: then it is told with the others, when it is made.
            None => {
                control.announced.told.remove(&index);
                return None;
            }
        };
        control.hand_back();
        Some(Ahead { cell: cell.clone(), shared, index, socket, begun: Instant::now(), is_taken: false })
    });
    // As in `drive`.
    catch_unwind(said).unwrap_or(None)
}

/// Announces an end from the thread that waits for it (if it was not announced `ahead`), and looks after the
/// link until the answer is there (if it waits: `answer`). What is handed back has to be done by the control
/// thread; otherwise the answer is in the channel afterwards, or will come there.
pub(in crate::session) fn drive(
    cell: &Cell,
    announcement: Announcement,
    reply: Reply<(), AnnounceError>,
    answer: Option<&Receiver<Result<(), AnnounceError>>>,
    ahead: Option<Ahead>,
) -> Option<(Announcement, Reply<(), AnnounceError>)> {
    // A callback that panics ends the session, as it does in the control thread; it does not end the thread
    // that waits, which hears `Left`. Unwinding has poisoned the state, so nobody uses it any more but to
    // drop it.
    let driven = AssertUnwindSafe(|| match (ahead, answer) {
        (Some(ahead), Some(answer)) => {
            keep_the_wheel(cell, announcement, reply, answer, ahead);
            None
        }
        _ => take_the_wheel(cell, announcement, reply, answer),
    });
    catch_unwind(driven).unwrap_or(None)
}

/// See [`drive`]: the root was told, and its answer may be there already.
fn keep_the_wheel(
    cell: &Cell,
    announcement: Announcement,
    reply: Reply<(), AnnounceError>,
    answer: &Receiver<Result<(), AnnounceError>>,
    mut ahead: Ahead,
) {
    let Ok(mut held) = cell.lock() else { return };
    let Some(control) = held.as_mut() else { return };
    ahead.is_taken = true;
    let driving = Driving::begin(&ahead.shared);
    // Tells it again, if that link was lost meanwhile.
    control.announce(announcement, reply);
    control.catch_up();
    let goes_on = control.heard(&ahead.socket, answer, ahead.begun);
    drop(driving);
    drop(held);
    if goes_on {
        look_after(cell, &ahead.shared, &ahead.socket, answer, ahead.begun);
    }
}

/// See [`drive`].
fn take_the_wheel(
    cell: &Cell,
    announcement: Announcement,
    reply: Reply<(), AnnounceError>,
    answer: Option<&Receiver<Result<(), AnnounceError>>>,
) -> Option<(Announcement, Reply<(), AnnounceError>)> {
    // When the control thread is at work, asking it costs no wake-up; when a callback panicked, it ends.
    let Ok(mut held) = cell.try_lock() else { return Some((announcement, reply)) };
    let Some(control) = held.as_mut() else { return Some((announcement, reply)) };
    if is_driving() || control.link.as_ref().is_none_or(|link| !link.is_admitted) {
        return Some((announcement, reply));
    }
    let shared = control.shared.clone();
    let driving = Driving::begin(&shared);
    // What was said before comes first.
    control.obey();
    control.announce(announcement, reply);
    control.catch_up();
    let taken = match (&mut control.link, answer) {
        (Some(link), Some(answer)) if !link.is_driven => {
            link.is_driven = true;
            Some((link.socket.clone(), answer))
        }
        // Nobody waits, somebody else looks after the link, or it has just been lost.
        _ => None,
    };
    control.hand_back();
    drop(driving);
    drop(held);
    let (socket, answer) = taken?;
    look_after(cell, &shared, &socket, answer, Instant::now());
    None
}

/// Reads from the link that this thread drives, until the answer is there or [`DRIVING`] is over.
fn look_after(
    cell: &Cell,
    shared: &Arc<Shared>,
    socket: &Arc<Socket>,
    answer: &Receiver<Result<(), AnnounceError>>,
    begun: Instant,
) {
    // Bounded by the clock: no wait is longer than `DRIVING`, and the first that ends after it is the last.
    loop {
        // Whatever it says, a look at the socket tells.
        let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], DRIVING_MS);
        let Ok(mut held) = cell.lock() else { return };
        let Some(control) = held.as_mut() else { return };
        let _driving = Driving::begin(shared);
        if !control.heard(socket, answer, begun) {
            return;
        }
    }
}
