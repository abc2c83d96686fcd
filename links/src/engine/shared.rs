//! What the two threads of a link and its owner share: the rules behind a lock, and the present connection.
//!
//! | edge | release | acquire | carries |
//! | --- | --- | --- | --- |
//! | over | `Shared::set_over` | `Shared::is_over` | what the owner did before it ended the link |
//! | idle | `Shared::count_idle` | `Shared::idle_rounds` | what was sent before a round found no more |

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hivemind_core::link::frame::FrameError;
use hivemind_core::link::greeting::Hello;
use hivemind_core::link::peering::{Action, Now, Peering, Settings, Violation};
use hivemind_runtime::lock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{DRAIN_PAUSE, TOO_SOON};
use crate::local::WakeUp;
use crate::transport::{Peer, Transport, farewell};

/// Longest wait of a side that can no longer write for the other host's last word.
const LAST_WORD: Duration = Duration::from_millis(50);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the other host closed the connection without a word; its log may say why")]
    Closed,
    #[error("{0}")]
    Transport(#[from] io::Error),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("another connection has taken its place")]
    Replaced,
}

/// What the two threads and the owner share.
pub(super) struct Shared {
    /// For people: which link.
    name: String,
    state: Mutex<State>,
    begun: Instant,
    is_over: AtomicBool,
    /// How often the sending thread has found nothing left to be sent.
    idle: AtomicU64,
    sender: WakeUp,
    receiver: EventFd,
    at_fault: Arc<dyn Fn() + Send + Sync>,
}

/// What stands behind the lock. Neither thread holds it while it waits for anything.
pub(super) struct State {
    pub(super) peering: Peering,
    pub(super) connection: Option<Connection>,
    /// The number of the latest connection.
    number: u64,
    pub(super) to_sender: VecDeque<Action>,
    pub(super) to_receiver: VecDeque<Action>,
    /// Since when the sender has something to do that can wait for [`LAZY`](super::LAZY).
    pub(super) lazy_since: Option<Now>,
    /// Why the last connection ended.
    ended: Option<String>,
}

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) transport: Arc<Mutex<Box<dyn Transport>>>,
    /// To wait at, without the lock.
    pub(super) socket: Arc<OwnedFd>,
    /// See [`Transport::is_tamper_proof`].
    pub(super) is_tamper_proof: bool,
    pub(super) peer: Peer,
}

impl State {
    /// Another connection takes the place of the present one.
    pub(super) fn connect(
        &mut self,
        transport: Box<dyn Transport>,
        hello: Hello,
        now: Now,
    ) -> io::Result<()> {
        let peer = transport.peer().clone();
        let socket = Arc::new(transport.descriptor().try_clone_to_owned()?);
        let is_tamper_proof = transport.is_tamper_proof();
        if let Some(old) = self.connection.take() {
            lock(&old.transport).close();
        }
        self.number += 1;
        let (number, transport) = (self.number, Arc::new(Mutex::new(transport)));
        self.connection = Some(Connection { number, transport, socket, is_tamper_proof, peer });
        self.peering.connected(hello, now);
        self.dispatch();
        Ok(())
    }

    /// Gives each thread what the rules want of it.
    pub(super) fn dispatch(&mut self) {
        while let Some(action) = self.peering.next_action() {
            match action {
                Action::Want(_) => {
                    // The latest counts. A peer that changes its mind and does not read fills no queue.
                    self.to_sender.retain(|queued| !matches!(queued, Action::Want(_)));
                    self.to_sender.push_back(action);
                }
                Action::Release { .. } => self.to_sender.push_back(action),
                Action::Open { .. } | Action::Reopen { .. } | Action::Close { .. } => {
                    self.to_receiver.push_back(action);
                }
            }
        }
    }

    /// Whether to wake the sender.
    pub(super) fn has_work_for_sender(&mut self) -> bool {
        let unblocked = self.peering.take_unblocked();
        unblocked
            || self.peering.has_turns()
            || self.peering.has_control()
            || self.to_sender.iter().any(|action| !matches!(action, Action::Release { .. }))
    }

    /// Whether the sender has something to do when it wakes.
    pub(super) fn has_lazy_work_for_sender(&self) -> bool {
        !self.to_sender.is_empty() || self.peering.has_more_to_say()
    }

    /// The number of the latest connection.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_current(&self, number: u64) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.number == number)
    }

    /// Tells the rules of the time when they asked for that.
    pub(super) fn tick(&mut self, now: Now) -> Result<(), Violation> {
        if self.peering.deadline().is_some_and(|at| at <= now) { self.peering.tick(now) } else { Ok(()) }
    }

    /// Why the last connection ended.
    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }
}

impl Shared {
    pub(super) fn new(
        name: &str,
        settings: Settings,
        sender: WakeUp,
        at_fault: Arc<dyn Fn() + Send + Sync>,
    ) -> io::Result<Shared> {
        let state = State {
            peering: Peering::new(settings),
            connection: None,
            number: 0,
            to_sender: VecDeque::new(),
            to_receiver: VecDeque::new(),
            lazy_since: None,
            ended: None,
        };
        Ok(Shared {
            name: name.to_owned(),
            state: Mutex::new(state),
            begun: Instant::now(),
            is_over: AtomicBool::new(false),
            idle: AtomicU64::new(0),
            sender,
            receiver: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            at_fault,
        })
    }

    /// For people: which link.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn now(&self) -> Now {
        self.begun.elapsed()
    }

    // ---- threads

    pub(super) fn is_over(&self) -> bool {
        // Acquire, edge over.
        self.is_over.load(Ordering::Acquire)
    }

    pub(super) fn set_over(&self) {
        // Release, edge over: the threads see it when they wake.
        self.is_over.store(true, Ordering::Release);
        self.wake_both();
    }

    /// The sending thread has found nothing left to be sent.
    pub(super) fn count_idle(&self) {
        // Release, edge idle: what was sent before counts.
        self.idle.fetch_add(1, Ordering::Release);
    }

    pub(super) fn idle_rounds(&self) -> u64 {
        // Acquire, edge idle.
        self.idle.load(Ordering::Acquire)
    }

    pub(super) fn wake_both(&self) {
        self.wake_sender();
        // Fails only when it is set already.
        let _ = self.receiver.write(1);
    }

    pub(super) fn wake_sender(&self) {
        (self.sender)();
    }

    /// What the receiving thread waits at beside its socket.
    pub(super) fn receiver(&self) -> &EventFd {
        &self.receiver
    }

    /// One of the two sides broke the rules.
    pub(super) fn at_fault(&self) {
        (self.at_fault)();
    }

    // ---- the end of a connection

    /// Ends a connection, if it is still the present one. `last_word` is said to the peer.
    pub(super) fn end(&self, number: u64, reason: &str, last_word: Option<&str>) {
        let connection = {
            let mut state = self.lock();
            if !state.is_current(number) {
                return;
            }
            let connection = state.connection.take();
            state.peering.disconnected(self.now());
            // Why it waits is worth more than that it has to.
            if state.ended.is_none() || !reason.contains(TOO_SOON) {
                state.ended = Some(reason.to_owned());
            }
            state.dispatch();
            connection
        };
        if let Some(Connection { transport, peer, .. }) = connection {
            tracing::warn!(link = %self.name, %peer, reason, "the connection of a link ends");
            let mut transport = lock(&transport);
            match last_word {
                Some(last_word) => farewell(&mut **transport, last_word),
                None => transport.close(),
            }
        }
        self.wake_both();
    }

    /// Gives the receiving thread a moment to end a connection.
    pub(super) fn await_end(&self, number: u64) {
        let begun = Instant::now();
        while begun.elapsed() < LAST_WORD && self.lock().is_current(number) {
            std::thread::sleep(DRAIN_PAUSE);
        }
    }
}

/// Waits for a descriptor, at most for `milliseconds`.
pub(super) fn wait(descriptor: BorrowedFd<'_>, flags: PollFlags, milliseconds: u16) {
    // Whatever it says, the next look tells.
    let _ = poll(&mut [PollFd::new(descriptor, flags)], PollTimeout::from(milliseconds));
}
