//! How a node comes to a root: it connects to one, or hosts it, and what ends that.
//!
//! ```text
//!            connected         Welcome
//!   seeking ───────────▶ greeting ──▶ admitted ──┐
//!      ▲  └ no root: take the lock, host it      │ the root dies, leaves, or cuts us off
//!      └─────────────────────────────────────────┘
//! ```
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use hivemind_core::protocol::{Refusal, Right, ToRoot};

use super::{Control, LINK, ROOT};
use crate::remedy::with_remedy;
use crate::root::EmbeddedRoot;
use crate::root::lock::{RootLock, last_holder};
use crate::root::server::{OpenError, own_pid};
use crate::session::link::{Connecting, Link};
use crate::session::{JoinError, RootRole, WaitedFor};
use crate::socket::SendFailure;

/// Pauses between two attempts to find or to become a root: they double from the first to the longest, and to
/// the idle one when there has been no root for [`LONG_WITHOUT_ROOT`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
const IDLE_PAUSE: Duration = Duration::from_millis(250);
const LONG_WITHOUT_ROOT: Duration = Duration::from_secs(2);
/// Lock taken, root started, connected: so many steps one attempt has, and some for what may change in
/// between.
const STEPS: usize = 4;

/// What this node knows of roots, and how it comes to one.
pub(super) struct Seeking {
    /// The highest epoch of a root so far.
    pub(super) seen_epoch: u64,
    /// True once a root has admitted this node.
    pub(super) was_admitted: bool,
    pub(super) since: Instant,
    /// When to try again.
    pub(super) again: Instant,
    pub(super) pause: Duration,
    /// Until then a process that was said to take over comes first.
    pub(super) successor: Option<(i32, Instant)>,
    /// State of the generator of jitter.
    jitter: u64,
    /// The root that this node hosts.
    pub(super) root: Option<EmbeddedRoot>,
    /// The thread that joins, until it is answered.
    pub(super) joining: Option<Joining>,
    /// Why joining fails before patience ends.
    failure: Option<JoinError>,
    pub(super) is_leaving: bool,
}

pub(super) struct Joining {
    pub(super) begun: Instant,
    pub(super) patience: Duration,
    pub(super) answer: Sender<Result<(), JoinError>>,
}

/// Why a link is given up.
pub(super) enum Lost {
    Closed,
    /// The root says what no root says.
    Nonsense(&'static str),
    /// A reason that may pass.
    NotNow(WaitedFor),
    /// A reason that will not.
    Never(JoinError),
}

impl From<SendFailure> for Lost {
    fn from(failure: SendFailure) -> Lost {
        match failure {
            SendFailure::Closed => Lost::Closed,
            SendFailure::Overflow => Lost::Nonsense("it does not read"),
            SendFailure::System(error) => Lost::NotNow(WaitedFor::System {
                doing: "send to the root",
                error: with_remedy(&error.into()),
            }),
        }
    }
}

impl Seeking {
    pub(super) fn new(node: u64, joining: Joining) -> Seeking {
        let now = Instant::now();
        Seeking {
            seen_epoch: 0,
            was_admitted: false,
            since: now,
            again: now,
            pause: FIRST_PAUSE,
            successor: None,
            // Nodes of one process, and of processes that start together, differ in few bits.
            jitter: node.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            root: None,
            joining: Some(joining),
            failure: None,
            is_leaving: false,
        }
    }

    /// Begins anew, without a pause.
    pub(super) fn restart(&mut self) {
        let now = Instant::now();
        (self.since, self.again, self.pause) = (now, now, FIRST_PAUSE);
    }

    /// Why this node cannot serve a root, or be served: that joining fails if it has not been in the hive
    /// yet; otherwise it waits.
    pub(super) fn fails_with(&mut self, reason: Lost) -> Option<Lost> {
        match reason {
            Lost::Never(error) if !self.was_admitted => {
                self.failure = Some(error);
                None
            }
            reason => Some(reason),
        }
    }
}

impl Control {
    /// True when this node will not be in the hive. Who waits for it hears why.
    pub(super) fn has_failed(&mut self) -> bool {
        let failure = self.seeking.failure.take();
        let Some(joining) = &self.seeking.joining else { return false };
        let waited = joining.begun.elapsed();
        let failure = match failure {
            Some(failure) => failure,
            None if waited < joining.patience => return false,
            None => JoinError::NoRoot { waited, what: self.shared.status().waited_for.clone() },
        };
        let _ = joining.answer.send(Err(failure));
        true
    }

    pub(super) fn seek_when_due(&mut self) {
        if self.link.is_none()
            && Instant::now() >= self.seeking.again
            && let Err(reason) = self.seek()
            && let Some(reason) = self.seeking.fails_with(reason)
        {
            self.back_off(reason);
        }
    }

    /// Finds a root, or becomes its host.
    fn seek(&mut self) -> Result<(), Lost> {
        if self.seeking.root.as_ref().is_some_and(|root| !root.is_running()) {
            self.seeking.root = None;
        }
        for _ in 0..STEPS {
            match Link::connect(&self.who.dir) {
                Connecting::Connected(link) => return self.greet(link),
                Connecting::Busy => return Err(Lost::NotNow(self.no_listener())),
                Connecting::Failed(error) => return Err(Lost::Never(error)),
                Connecting::Closed => {
                    let (path, owner) = (self.who.dir.path().to_owned(), self.who.dir.owner());
                    return Err(Lost::NotNow(WaitedFor::OpenDoor { path, owner }));
                }
                Connecting::Nobody => {}
            }
            if !self.who.dir.is_ours() {
                let (path, owner) = (self.who.dir.root_socket().to_owned(), self.who.dir.owner());
                return Err(Lost::NotNow(WaitedFor::RootOf { path, owner }));
            }
            if self.who.role != RootRole::Embedded {
                let path = self.who.dir.root_socket().to_owned();
                return Err(Lost::NotNow(WaitedFor::Root { path }));
            }
            if let Some((pid, until)) = self.seeking.successor.filter(|(_, until)| Instant::now() < *until) {
                self.seeking.successor = Some((pid, until));
                return Err(Lost::NotNow(WaitedFor::Successor { pid }));
            }
            // A root of ours that nobody can reach, because somebody took its socket away, is none.
            self.seeking.root = None;
            self.host()?;
        }
        Err(Lost::NotNow(self.no_listener()))
    }

    fn host(&mut self) -> Result<(), Lost> {
        let never = |doing| move |error| Lost::Never(JoinError::system(doing, error));
        match RootLock::try_take(&self.who.dir).map_err(never("take the lock file"))? {
            Some(lock) => self.serve(lock),
            None => Err(Lost::NotNow(self.no_listener())),
        }
    }

    pub(super) fn serve(&mut self, lock: RootLock) -> Result<(), Lost> {
        match EmbeddedRoot::start(&self.who.dir, lock, self.seeking.seen_epoch) {
            Ok(root) => {
                self.seeking.root = Some(root);
                Ok(())
            }
            Err(OpenError::Superseded) => Err(Lost::NotNow(self.no_listener())),
            Err(OpenError::System(error)) => Err(Lost::Never(JoinError::system("host the root", error))),
        }
    }

    pub(super) fn no_listener(&self) -> WaitedFor {
        let pid = last_holder(&self.who.dir).map_or(0, |record| record.pid);
        WaitedFor::LockHolder { path: self.who.dir.lock_file().to_owned(), pid }
    }

    pub(super) fn greet(&mut self, mut link: Link) -> Result<(), Lost> {
        if let Some(root) = self.seeking.root.as_ref().filter(|_| link.pid == own_pid()) {
            let not_now = |error| {
                let error = with_remedy(&error);
                Lost::NotNow(WaitedFor::System { doing: "look at the own root's socket", error })
            };
            link.is_own = root.listens_in(&self.who.dir).map_err(not_now)?;
        }
        let system = |error| Lost::Never(JoinError::system("watch the root", error));
        if let Err(error) = link.watch(&self.epoll, LINK, ROOT) {
            link.unwatch(&self.epoll);
            return Err(system(error));
        }
        let hello = ToRoot::Hello {
            name: self.who.name.as_str().to_owned(),
            node: self.who.node,
            observer: self.who.observer,
            external: self.who.role == RootRole::External,
            rejoin: self.seeking.was_admitted,
            hosts_root: link.is_own,
            seen_epoch: self.seeking.seen_epoch,
            bells: self.who.bells.0.clone(),
        };
        {
            // Why it refused before says more than that it has not answered yet.
            let waited_for = &mut self.shared.status().waited_for;
            if !matches!(waited_for, WaitedFor::DedicatedRoot { .. } | WaitedFor::BetterAnswer { .. }) {
                *waited_for = WaitedFor::Answer { pid: link.pid };
            }
        }
        let sent = link.send(&hello, self.who.bells.1.clone(), &mut self.packets.packet);
        self.link = Some(link);
        if let Err(failure) = sent {
            self.lose(failure.into());
        }
        Ok(())
    }

    /// Gives the link up and seeks another root.
    pub(super) fn lose(&mut self, reason: Lost) {
        let Some(link) = self.link.take() else { return };
        link.unwatch(&self.epoll);
        self.announced.begin_anew();
        self.questions.begin_anew();
        {
            let mut status = self.shared.status();
            (status.root_pid, status.hosts_root) = (None, false);
        }
        if link.is_admitted {
            self.seeking.restart();
        }
        match reason {
            Lost::Never(error) if !self.seeking.was_admitted => self.seeking.failure = Some(error),
            // A root that died or left is succeeded at once; after one that never admitted us comes a pause.
            Lost::Closed if link.is_admitted => {
                let path = self.who.dir.root_socket().to_owned();
                self.shared.status().waited_for = WaitedFor::Root { path };
            }
            reason => self.back_off(reason),
        }
    }

    pub(super) fn back_off(&mut self, reason: Lost) {
        let seeking = &mut self.seeking;
        let waited_for = match reason {
            Lost::Closed => {
                let refusal = "the root closed the connection without a word; it may be ending".to_owned();
                WaitedFor::BetterAnswer { refusal }
            }
            Lost::Nonsense(what) => {
                WaitedFor::BetterAnswer { refusal: format!("the root is no root: {what}") }
            }
            Lost::NotNow(waited_for) => waited_for,
            Lost::Never(error) => WaitedFor::BetterAnswer { refusal: error.to_string() },
        };
        if waited_for != self.shared.status().waited_for {
            tracing::debug!(node = %self.who.name, %waited_for, "no root");
        }
        self.shared.status().waited_for = waited_for;
        let now = Instant::now();
        let is_idle = now.duration_since(seeking.since) > LONG_WITHOUT_ROOT;
        let longest = if is_idle { IDLE_PAUSE } else { LONGEST_PAUSE };
        // Half of the pause is jitter: several nodes that lost one root do not step in time.
        let half = seeking.pause / 2;
        seeking.again = now + half + half.mul_f64(next_jitter(&mut seeking.jitter));
        seeking.pause = (seeking.pause * 2).min(longest);
    }

    /// What a refusal without a number means for this node.
    pub(super) fn refused(&mut self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::NameTaken { pid } => {
                Lost::Never(JoinError::NodeNameTaken { name: self.who.name.clone(), pid })
            }
            Refusal::NotDedicated { pid } => Lost::NotNow(WaitedFor::DedicatedRoot { pid }),
            Refusal::Version { root } => Lost::Never(JoinError::version(root)),
            Refusal::NotAllowed { owner, user, right: Right::Join, .. } => {
                Lost::Never(JoinError::NotAllowed { owner, user })
            }
            // The next life of the connection may find room.
            refusal @ (Refusal::OutOfDescriptors { .. } | Refusal::EpochTaken | Refusal::Limit { .. }) => {
                Lost::NotNow(WaitedFor::BetterAnswer { refusal: refusal.to_string() })
            }
            refusal => Lost::Never(JoinError::Refused { refusal: refusal.to_string() }),
        };
        self.lose(reason);
    }
}

/// Between 0 and 1. Xorshift: any spread will do.
fn next_jitter(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as f64 / (1u64 << 53) as f64
}
