//! A node's side of the control path: join a hive, say what is there, hear who is a match, and outlive roots.
//!
//! One thread for each node, `hm-<node>`, does everything: it looks for a root, becomes its host when there
//! is none, passes requests of the node's other threads on, calls the node back ([`NodeSide`]), and watches
//! the pidfds of peers. While nothing happens it sleeps.
//!
//! Waking that thread to ask, and being woken by it for the answer, would cost more than all the rest of a
//! request. So a thread that announces an end *drives* the session itself if it can: it takes the state of
//! the control thread (both hold it under one lock, never while they sleep), sends, sleeps on the socket in
//! the control thread's place, and handles what arrives until its answer is there, for at most [`DRIVING`].
//! Whatever else happens (the root dies, a peer dies, the node leaves) still wakes the control thread alone.
//! Where driving is not possible (no root, the control thread is at work), the request goes into the control
//! thread's inbox.
//!
//! Making an end takes about as long as the root takes to wake up and answer. So the end is announced first
//! and made meanwhile ([`Session::offer_while`]), by the thread that looks after the link: what the root says
//! about the end waits in the socket until it is there.
//!
//! Ends that are announced within a [`Gathering`] do not wait for each answer: the root works on the first
//! while the next are made, and all answers are awaited at the end ([`Session::finish`]).
//!
//! ```text
//!            connected         Welcome
//!   seeking ───────────▶ greeting ──▶ admitted ──┐
//!      ▲  └ no root: take the lock, host it      │ the root dies, leaves, or cuts us off
//!      └─────────────────────────────────────────┘   (then the whole roll call is said again to the next one)
//! ```
//!
//! The state of the hive lives in the nodes: whatever a root knew, its successor learns from the roll calls.
//! Connections that are attached need no root at all; the death of a peer is told by its pidfd, which this
//! thread holds.
//!
//! If this process dies half-way through a handshake, the root and the peers see it by socket and pidfd.
//!
//! A forked child has neither the thread nor what it holds, and finds locks that may stay locked: each call
//! says [`Forked`] before it takes one, or does nothing where there is nothing to be said. The child may join
//! by itself.
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use hivemind_ring::fork::{Forked, Home};
use nix::sys::eventfd::{EfdFlags, EventFd};

pub use hivemind_ring::segment::Handle;

use crate::lock;
use crate::runtime_dir::RuntimeDir;
use hivemind_core::contract::{Kind, MAX_SCHEMA};
use hivemind_core::filter::Filter;
use hivemind_core::name::{NodeName, ServiceName};
use hivemind_core::protocol::{Demand, EndId, Offer};

mod control;
mod error;
mod link;
mod listing;
mod side;
mod vigil;

pub use self::error::{AnnounceError, JoinError, Mismatch, SessionError, WaitedFor};
pub use self::listing::{
    ConnectionInfo, FormerInfo, KindInfo, Listing, NodeInfo, PublisherInfo, RemoteInfo, ServiceInfo,
    SubscriberInfo,
};
pub use self::side::{
    Announcement, AttachReply, AttachRequest, AttachedTo, Keeping, Misfits, NodeSide, Seating,
};
pub use hivemind_core::protocol::PUBLISHER_GONE;

/// Requests of other threads that may wait for the control thread.
const MAX_REQUESTS: usize = 65_536;

/// Longest time that a thread which waits for its answer does the work of the control thread. A root that
/// takes longer is stopped or overloaded; the answer then comes through the control thread.
pub const DRIVING: Duration = Duration::from_millis(5);

/// Longest wait of a new publisher for subscribers that were there before it and do not answer, counted from
/// when it was accepted, or from when the last subscriber was attached to a publisher of its node.
pub const JOINERS_PATIENCE: Duration = Duration::from_millis(100);

/// Longest wait in all, however many are attached meanwhile.
pub const JOINERS_BOUND: Duration = Duration::from_secs(1);

/// Who may be the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootRole {
    /// Anybody; when there is none, this process hosts it.
    #[default]
    Embedded,
    /// Only a dedicated one (`hm root`); joining waits for it.
    External,
    /// Any root that there is, but this process never hosts one: for tools that look and go.
    Guest,
}

/// How to join.
#[derive(Debug)]
pub struct SessionConfig {
    /// Which hive.
    pub dir: RuntimeDir,
    /// The name of the node; only one live node of a hive may have it.
    pub name: NodeName,
    /// The epoch of the node, from [`crate::identity::new_node_epoch`].
    pub node: u64,
    /// How long joining, announcing and asking may wait for a root.
    pub patience: Duration,
    /// Who may be the root.
    pub root: RootRole,
    /// How long a root may keep this node waiting without a sign of life before it counts as one that does
    /// not answer, and is superseded; at least [`crate::root::MIN_ROOT_TIMEOUT`].
    pub root_timeout: Duration,
    /// True: this node only looks. It claims no name and has no ends.
    pub observer: bool,
    /// The doorbells of the node; each peer of its user gets a duplicate.
    pub bells: Handle,
}

/// A node's membership in a hive. Leaves when dropped.
pub struct Session {
    shared: Arc<Shared>,
    /// Shared with the control thread, which takes it out when it ends.
    control: control::Cell,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the control thread and the others share.
struct Shared {
    name: NodeName,
    node: u64,
    patience: Duration,
    /// It only looks.
    is_observer: bool,
    /// The process that joined.
    home: Home,
    wake: EventFd,
    inbox: Mutex<Inbox>,
    status: Mutex<Status>,
    next_request: AtomicU64,
}

/// Announcements whose answers are awaited later, by [`Session::finish`]. Several threads may announce within
/// one.
#[derive(Default)]
pub struct Gathering {
    awaited: Mutex<Vec<Awaited>>,
}

impl fmt::Debug for Gathering {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gathering").field("awaited", &lock(&self.awaited).len()).finish()
    }
}

/// An end that was announced within a [`Gathering`] and refused.
#[derive(Debug)]
pub struct RefusedEnd {
    /// Which end of this node.
    pub index: u32,
    /// The name of the service, or the filter.
    pub what: String,
    /// Why.
    pub error: AnnounceError,
}

/// An announcement whose answer is awaited later.
struct Awaited {
    index: u32,
    /// The name of the service, or the filter.
    what: String,
    answer: Receiver<Result<(), AnnounceError>>,
}

#[derive(Default)]
struct Inbox {
    commands: VecDeque<Command>,
    /// The control thread has ended; nothing is read any more.
    is_closed: bool,
}

struct Status {
    root_pid: Option<i32>,
    root_epoch: u64,
    hosts_root: bool,
    waited_for: WaitedFor,
}

/// What other threads want of the control thread.
enum Command {
    Announce {
        announcement: Announcement,
        reply: Reply<(), AnnounceError>,
    },
    List {
        request: u64,
        reply: Reply<Listing, SessionError>,
    },
    Inspect {
        request: u64,
        end: EndId,
        reply: Reply<Handle, SessionError>,
    },
    Misfits {
        request: u64,
        publisher: u32,
        reply: Reply<Option<Misfits>, SessionError>,
    },
    /// Nobody waits any more for this end or request.
    GiveUp {
        request: u64,
    },
    Withdraw {
        index: u32,
        /// Of a publisher that others may still be on their way to.
        ring: Option<Handle>,
    },
    /// Nobody waits for what comes of it.
    StandFor(Offer),
    Detached {
        index: u32,
        publisher: EndId,
    },
    Rematch {
        index: u32,
    },
    Watch,
    Forget {
        node: u64,
    },
    Leave,
}

type Reply<T, E> = Sender<Result<T, E>>;

/// Requests about ends are numbered as their ends, so that the answers to a roll call reach who waits; others
/// from here.
const FIRST_REQUEST: u64 = 1 << 32;

impl Session {
    /// Joins a hive: connects to its root, or hosts it. Waits up to `config.patience`.
    ///
    /// # Errors
    /// [`JoinError`]; nothing is left running then.
    pub fn join(config: SessionConfig, side: Arc<dyn NodeSide>) -> Result<Session, JoinError> {
        let resources = |error| JoinError::system("create an eventfd", error);
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).map_err(io::Error::from).map_err(resources)?;
        let waited_for = WaitedFor::Root { path: config.dir.root_socket().to_owned() };
        let shared = Arc::new(Shared {
            name: config.name.clone(),
            node: config.node,
            patience: config.patience,
            is_observer: config.observer,
            home: Home::here(),
            wake,
            inbox: Mutex::default(),
            status: Mutex::new(Status { root_pid: None, root_epoch: 0, hosts_root: false, waited_for }),
            next_request: AtomicU64::new(FIRST_REQUEST),
        });
        let (joined, answer) = bounded(1);
        let control = control::Control::new(config, side, shared.clone(), joined)?;
        let epoll = control.epoll();
        let control: control::Cell = Arc::new(Mutex::new(Some(control)));
        let (cell, its_shared) = (control.clone(), shared.clone());
        let thread = thread::Builder::new()
            .name(format!("hm-{}", shared.name))
            .spawn(move || control::run(&cell, &epoll, its_shared))
            .map_err(|error| JoinError::Resources { doing: "start a thread", error })?;
        let session = Session { shared, control, thread: Mutex::new(Some(thread)) };
        // Bounded by the patience: the control thread gives up by itself. It answers also when it panics.
        match answer.recv() {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(JoinError::Crashed),
        }
    }

    /// Announces a publisher. Waits for the root's answer up to the patience, also across the death of a
    /// root; and, if it begins, for the subscribers that were there before it, until they are attached or
    /// [`JOINERS_PATIENCE`] is over.
    ///
    /// The node must list it in its roll call before, and take it out again when this fails.
    ///
    /// # Errors
    /// [`AnnounceError`].
    pub fn offer(&self, offer: Offer) -> Result<(), AnnounceError> {
        check_offer(&offer)?;
        self.announce_while(Announcement::Offer(offer), None, || Ok(()))
    }

    /// Announces a subscription. Waits as [`Session::offer`] does.
    ///
    /// # Errors
    /// [`AnnounceError`].
    pub fn demand(&self, demand: Demand) -> Result<(), AnnounceError> {
        check_demand(&demand)?;
        self.announce_while(Announcement::Demand(demand), None, || Ok(()))
    }

    /// As [`Session::offer`], and makes the publisher, if possible while the root works on the announcement:
    /// `make` is called once, and nothing that the root says about the end is heard before it returns. So
    /// it must not take long, and it is `make` that lists the end for the roll call. Within a gathering
    /// the answer is not awaited here.
    ///
    /// # Errors
    /// What `make` says, and [`AnnounceError`]. Then take the end out of the roll call, if it is in, and
    /// withdraw it.
    pub fn offer_while<T, E: From<AnnounceError>>(
        &self,
        offer: Offer,
        gathering: Option<&Gathering>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        check_offer(&offer)?;
        self.announce_while(Announcement::Offer(offer), gathering, make)
    }

    /// As [`Session::demand`], in the way of [`Session::offer_while`].
    ///
    /// # Errors
    /// As there.
    pub fn demand_while<T, E: From<AnnounceError>>(
        &self,
        demand: Demand,
        gathering: Option<&Gathering>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        check_demand(&demand)?;
        self.announce_while(Announcement::Demand(demand), gathering, make)
    }

    /// Waits for the answers to what was announced within this gathering so far, at most for the patience.
    /// Those that were refused; take those ends back.
    #[must_use]
    pub fn finish(&self, gathering: &Gathering) -> Vec<RefusedEnd> {
        if !self.shared.home.is_here() {
            // Each announcement has said so.
            return Vec::new();
        }
        let begun = Instant::now();
        let awaited = std::mem::take(&mut *lock(&gathering.awaited));
        let refused = awaited.into_iter().filter_map(|Awaited { index, what, answer }| {
            let left = self.shared.patience.saturating_sub(begun.elapsed());
            let error = self.wait(&answer, u64::from(index), left, AnnounceError::from).err()?;
            Some(RefusedEnd { index, what, error })
        });
        refused.collect()
    }

    fn announce_while<T, E: From<AnnounceError>>(
        &self,
        announcement: Announcement,
        gathering: Option<&Gathering>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.shared.home.check().map_err(AnnounceError::from)?;
        // The root would refuse it as a breach of the protocol.
        if self.shared.is_observer {
            return Err(AnnounceError::Observer.into());
        }
        // Nobody waits for a single answer of a gathering: then there is no time to be filled.
        let ahead = gathering
            .is_none()
            .then(|| control::drive::announce_ahead(&self.control, &announcement))
            .flatten();
        // If this fails, or panics, what was said ahead is taken back.
        let made = make()?;
        self.announce(announcement, gathering, ahead)?;
        Ok(made)
    }

    fn announce(
        &self,
        announcement: Announcement,
        gathering: Option<&Gathering>,
        ahead: Option<control::drive::Ahead>,
    ) -> Result<(), AnnounceError> {
        let index = announcement.index();
        let (reply, answer) = bounded(1);
        let what = gathering.map(|gathering| (gathering, announcement.what().to_owned()));
        let driver = what.is_none().then_some(&answer);
        let handed_back = control::drive::drive(&self.control, announcement, reply, driver, ahead);
        if let Some((announcement, reply)) = handed_back {
            self.shared.push(Command::Announce { announcement, reply }).map_err(AnnounceError::from)?;
        }
        match what {
            Some((gathering, what)) => {
                lock(&gathering.awaited).push(Awaited { index, what, answer });
                Ok(())
            }
            None => self.wait(&answer, u64::from(index), self.shared.patience, AnnounceError::from),
        }
    }

    /// An end is gone. Never waits; may be called by the node's callbacks.
    pub fn withdraw(&self, index: u32) {
        // Refused only when the session has ended, and then the root has forgotten the end anyway.
        let _ = self.shared.push(Command::Withdraw { index, ring: None });
    }

    /// As [`Session::withdraw`], for a publisher that may end while subscribers are on their way to it: then
    /// its ring goes to them.
    pub fn withdraw_lending(&self, index: u32, ring: Option<Handle>) {
        // As above.
        let _ = self.shared.push(Command::Withdraw { index, ring });
    }

    /// This subscription has let go of a publisher that lives: [`NodeSide::has_to_do_with`] says no by now.
    /// The root hears of it, so that [`Session::rematch`] can bring them together again. Never waits; may
    /// be called by the node's callbacks.
    pub fn detached(&self, index: u32, publisher: EndId) {
        // As above.
        let _ = self.shared.push(Command::Detached { index, publisher });
    }

    /// What this subscription declined or let go of it may want now. Never waits.
    pub fn rematch(&self, index: u32) {
        // As above.
        let _ = self.shared.push(Command::Rematch { index });
    }

    /// Asks to be told by [`NodeSide::changed`], once, when there are other publishers or subscriptions.
    /// Never waits.
    pub fn watch(&self) {
        // As above.
        let _ = self.shared.push(Command::Watch);
    }

    /// Announces what a publisher of this node retained that has ended. Never waits; a refusal comes to
    /// [`NodeSide::refused`].
    pub fn stand_for(&self, offer: Offer) {
        // As above.
        let _ = self.shared.push(Command::StandFor(offer));
    }

    /// There is no connection with this node left: its process need not be watched any more, unless
    /// [`NodeSide::acquaintances`] knows better. Never waits; may be called by the node's callbacks.
    pub fn forget(&self, node: u64) {
        let _ = self.shared.push(Command::Forget { node });
    }

    /// What there is in the hive. Whatever lives during the whole call is in it exactly once.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn list(&self) -> Result<Listing, SessionError> {
        let (request, (reply, answer)) = (self.shared.new_request(), bounded(1));
        self.shared.push(Command::List { request, reply }).map_err(SessionError::from)?;
        self.wait(&answer, request, self.shared.patience, SessionError::from)
    }

    /// The segment of an end of any node, to look at.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn inspect(&self, end: EndId) -> Result<Handle, SessionError> {
        let (request, (reply, answer)) = (self.shared.new_request(), bounded(1));
        self.shared.push(Command::Inspect { request, end, reply }).map_err(SessionError::from)?;
        self.wait(&answer, request, self.shared.patience, SessionError::from)
    }

    /// Subscribers that mean the service of this publisher but expect another type; waits for the root for
    /// `patience` at most.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn misfits(&self, publisher: u32, patience: Duration) -> Result<Option<Misfits>, SessionError> {
        let (request, (reply, answer)) = (self.shared.new_request(), bounded(1));
        self.shared.push(Command::Misfits { request, publisher, reply }).map_err(SessionError::from)?;
        self.wait(&answer, request, patience, SessionError::from)
    }

    fn wait<T, E>(
        &self,
        answer: &Receiver<Result<T, E>>,
        request: u64,
        patience: Duration,
        convert: impl Fn(Unanswered) -> E,
    ) -> Result<T, E> {
        let begun = Instant::now();
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(convert(Unanswered::Left)),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.shared.push(Command::GiveUp { request });
                let what = self.shared.status().waited_for.clone();
                Err(convert(Unanswered::NoRoot { waited: begun.elapsed(), what }))
            }
        }
    }

    /// The process of the root, as this process sees it; `None` while there is no root, and in a forked
    /// child.
    #[must_use]
    pub fn root_pid(&self) -> Option<i32> {
        self.shared.home.is_here().then(|| self.shared.status().root_pid)?
    }

    /// True while this session hosts the root.
    #[must_use]
    pub fn hosts_root(&self) -> bool {
        self.shared.home.is_here() && self.shared.status().hosts_root
    }

    /// The highest epoch of a root seen; 0 in a forked child.
    #[must_use]
    pub fn root_epoch(&self) -> u64 {
        if self.shared.home.is_here() { self.shared.status().root_epoch } else { 0 }
    }

    /// The name of the node.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.shared.name
    }

    /// The epoch of the node.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.shared.node
    }

    /// Leaves the hive: whoever waits gets `Left`, an embedded root passes on, and the thread ends before
    /// this returns (unless a callback of the node calls). May be called more than once. Does nothing in
    /// a forked child.
    pub fn leave(&self) {
        if !self.shared.home.is_here() {
            return;
        }
        let _ = self.shared.push(Command::Leave);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && !control::drive::is_driving()
        {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
        if !self.shared.home.is_here() {
            // The system would let go of whatever thread of this process has the place of the parent's by
            // now.
            let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(thread);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("name", &self.shared.name)
            .field("node", &format_args!("{:016x}", self.shared.node))
            .field("root_pid", &self.root_pid())
            .finish_non_exhaustive()
    }
}

/// Why a request was not even answered.
enum Unanswered {
    Forked(Forked),
    Left,
    TooMany,
    NoRoot { waited: Duration, what: WaitedFor },
}

impl Shared {
    fn push(&self, command: Command) -> Result<(), Unanswered> {
        self.home.check().map_err(Unanswered::Forked)?;
        let mut inbox = self.inbox();
        if inbox.is_closed {
            return Err(Unanswered::Left);
        }
        // What says that something is gone is bounded by what there was, and must not be lost.
        let is_request =
            matches!(command, Command::Announce { .. } | Command::List { .. } | Command::Inspect { .. });
        if is_request && inbox.commands.len() >= MAX_REQUESTS {
            return Err(Unanswered::TooMany);
        }
        let was_empty = inbox.commands.is_empty();
        inbox.commands.push_back(command);
        drop(inbox);
        if was_empty {
            // Fails only when the counter is full, and then the thread is awake.
            let _ = self.wake.write(1);
        }
        Ok(())
    }

    // A panic while one of these is held is one in this file; what is inside is whole at any moment.
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_request(&self) -> u64 {
        // Relaxed: only the number has to be new.
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }
}

fn check_offer(offer: &Offer) -> Result<(), AnnounceError> {
    ServiceName::parse(&offer.service)?;
    check_kind(&offer.kind)
}

fn check_demand(demand: &Demand) -> Result<(), AnnounceError> {
    Filter::parse(&demand.filter)?;
    demand.asks.kind.as_ref().map_or(Ok(()), check_kind)
}

fn check_kind(kind: &Kind) -> Result<(), AnnounceError> {
    let length = kind.schema.len();
    if length > MAX_SCHEMA {
        return Err(AnnounceError::TooLarge { length, limit: MAX_SCHEMA });
    }
    Ok(())
}
