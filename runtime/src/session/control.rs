//! The control thread: seeks a root, keeps the node announced, watches peers.
//!
//! | it wakes for | because                                                                                     |
//! | ------------ | ------------------------------------------------------------------------------------------- |
//! | wake         | another thread put a command into the inbox                                                 |
//! | link         | the root says something, or its socket closed                                               |
//! | root's pidfd | the root's process is gone, though a child of it may keep the socket open                    |
//! | folder       | another root has taken the place of this one, or somebody waits for it in vain ([`super::vigil`]) |
//! | peer's pidfd | the process of a node that this node has connections with is gone                            |
//! | timer        | armed only while there is no root (pauses between attempts), while joining (the patience), while the root owes an answer, and while the kernel is short of something |
//!
//! A thread that announces an end may do this work in the meantime ([`drive`]): it then looks after the link, and this
//! thread after everything else.
//!
//! Requests of other threads stay pending until a root answers or nobody waits any more, so they outlive roots.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use hivemind_ring::os::is_same_open_file;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rkyv::util::AlignedVec;

use self::settling::Settling;
use super::link::{Connecting, Link, carry};
use super::listing::Collector;
use super::vigil::{Due, Vigil};
use super::{
    AnnounceError, Announcement, Command, DRIVING, Handle, JoinError, Listing, Misfits, NodeSide, Reply,
    RootRole, SessionConfig, SessionError, Shared, WaitedFor,
};
use crate::identity::{current_process, process_of};
use crate::remedy::with_remedy;
use crate::root::EmbeddedRoot;
use crate::root::lock::{FileId, RootLock, last_holder, raise_doubt};
use crate::root::server::{OpenError, own_pid};
use crate::runtime_dir::RuntimeDir;
use crate::socket::{PacketBuffer, Passed, SendFailure, Socket, is_gone};
use hivemind_core::identity::Process;
use hivemind_core::name::NodeName;
use hivemind_core::protocol::{
    CONNECTED_PER_PACKET, Carrier, Cursor, Demand, EndId, Offer, Refusal, Right, ToRoot,
};

mod inbound;
mod settling;
#[cfg(test)]
mod tests;

/// Pauses between two attempts to find or to become a root: they double from the first to the longest, and to the
/// idle one when there has been no root for [`LONG_WITHOUT_ROOT`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
const IDLE_PAUSE: Duration = Duration::from_millis(250);
const LONG_WITHOUT_ROOT: Duration = Duration::from_secs(2);
/// How long a dedicated root that was said to take over is given before others would take the lock.
const SUCCESSION: Duration = Duration::from_secs(1);
/// Lock taken, root started, connected: so many steps one attempt has, and some for what may change in between.
const STEPS: usize = 4;
/// When the kernel is short of something that no readiness tells, it is asked again after this time.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(2);
/// Packets that are taken from the root in a row.
const PACKETS_IN_A_ROW: usize = 64;
/// With more than twice as many peers as were left the last time, and some, those that are no acquaintances any more are forgotten.
const SPARE_PEERS: usize = 16;
/// Pidfds that are kept of one peer where nobody can tell whether they are of one process: one for each root
/// that introduced it. Where a sandbox refuses `kcmp` as well, one for each pair with it.
const PIDFDS_OF_A_PEER: usize = 16;
/// [`DRIVING`] as a thread that drives waits for the socket.
const DRIVING_MS: u8 = DRIVING.as_millis() as u8;
const EVENTS: usize = 32;

const WAKE: u64 = 0;
const TIMER: u64 = 1;
const LINK: u64 = 2;
const ROOT: u64 = 3;
const FOLDER: u64 = 4;
const FIRST_PEER: u64 = 16;

/// See the head of the module.
pub(super) struct Control {
    shared: Arc<Shared>,
    side: Arc<dyn NodeSide>,
    dir: RuntimeDir,
    name: NodeName,
    node: u64,
    role: RootRole,
    observer: bool,
    bells: (Carrier, Vec<Passed>),

    epoll: Arc<Epoll>,
    timer: TimerFd,
    /// What the timer is set to.
    alarm: Option<Instant>,
    link: Option<Link>,
    root: Option<EmbeddedRoot>,
    seeking: Seeking,
    vigil: Vigil,
    joining: Option<Joining>,
    is_leaving: bool,
    /// Why joining fails before patience ends.
    failure: Option<JoinError>,

    /// Ends whose announcement somebody waits for, across roots.
    pending: BTreeMap<u32, Pending>,
    /// Publishers that stand, and whose subscribers that were there before are being introduced.
    settling: Settling,
    /// What this root was told, or is to be told, and what it answered.
    told: BTreeMap<u32, Told>,
    /// Announcements that are still to be sent to this root.
    backlog: VecDeque<Announcement>,
    questions: BTreeMap<u64, Question>,
    /// The root was asked for a sign of life.
    is_asking: bool,

    /// This process.
    process: Process,
    /// How processes are told apart.
    identify: fn(&OwnedFd) -> io::Result<Process>,
    peers: HashMap<u64, WatchedPeer>,
    /// With so many peers it is time to look who is none any more.
    crowd: usize,
    peer_tokens: HashMap<u64, u64>,
    next_token: u64,

    buffer: PacketBuffer,
    packet: AlignedVec,
}

struct Seeking {
    /// The highest epoch of a root so far.
    seen_epoch: u64,
    /// True once a root has admitted this node.
    was_admitted: bool,
    since: Instant,
    /// When to try again.
    again: Instant,
    pause: Duration,
    /// Until then a process that was said to take over comes first.
    successor: Option<(i32, Instant)>,
    /// State of the generator of jitter.
    jitter: u64,
}

struct Joining {
    begun: Instant,
    patience: Duration,
    answer: Sender<Result<(), JoinError>>,
}

struct Pending {
    announcement: Announcement,
    reply: Reply<(), AnnounceError>,
}

/// An announcement, as the present root sees it.
enum Told {
    /// Not answered. The announcement is kept until it is, so that an error can name its type.
    /// Both in boxes: nearly all ends of a node are accepted, and take no room for the others.
    Open(Box<Announcement>),
    Accepted,
    Refused(Box<AnnounceError>),
}

enum Question {
    List {
        collector: Collector,
        after: Cursor,
        reply: Reply<Listing, SessionError>,
    },
    Inspect {
        end: EndId,
        reply: Reply<Handle, SessionError>,
    },
    Misfits {
        publisher: u32,
        reply: Reply<Option<Misfits>, SessionError>,
    },
    /// For a ring that this node is to keep.
    Keep {
        source: EndId,
        offer: Box<Offer>,
        pidfd: OwnedFd,
    },
}

/// Where the state lies, for the control thread and for those that drive; empty when the thread has ended.
pub(super) type Cell = Arc<Mutex<Option<Control>>>;

struct WatchedPeer {
    process: Process,
    /// With their tokens. One; more only where the kernel does not tell whether they are of one process.
    pidfds: Vec<(OwnedFd, u64)>,
}

/// Why a process is not taken for a node: the pair does not come about, and the node that is known stays as
/// it is.
#[derive(Debug, thiserror::Error)]
enum Impostor {
    /// The kernel says that the epoch is of another process.
    #[error(
        "the epoch {node:016x} belongs to another process than the one that says it; let that one join by itself, also \
         after a fork or a restore"
    )]
    EpochOfAnother { node: u64 },
    /// A process that lives is known by this epoch.
    #[error(
        "another living process is known by the epoch {node:016x}; end whichever of the two is not the node, \
         then subscribe again"
    )]
    AnotherProcess { node: u64 },
    /// Nobody can tell whether all these are one process, and there are too many.
    #[error(
        "cannot tell whether {limit} processes that said the epoch {node:016x} are one; mount /proc here, share a \
         process namespace, or use Linux 6.9 or newer"
    )]
    TooMany { node: u64, limit: usize },
    /// The system says something else.
    #[error("cannot watch its process: {}", with_remedy(.0))]
    System(io::Error),
}

/// Why a link is given up.
enum Lost {
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

impl Control {
    pub(super) fn new(
        config: SessionConfig,
        side: Arc<dyn NodeSide>,
        shared: Arc<Shared>,
        answer: Sender<Result<(), JoinError>>,
    ) -> Result<Control, JoinError> {
        let system = |doing| move |error: Errno| JoinError::system(doing, error.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("create an epoll"))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(system("create a timer"))?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&shared.wake, readable(WAKE)).map_err(system("watch an eventfd"))?;
        epoll.add(&timer, readable(TIMER)).map_err(system("watch a timer"))?;
        let now = Instant::now();
        let SessionConfig { dir, name, node, patience, root: role, root_timeout, observer, bells } = config;
        let vigil = Vigil::new(&dir, root_timeout);
        if let Some(folder) = vigil.folder() {
            epoll.add(folder, readable(FOLDER)).map_err(system("watch the folder of the hive"))?;
        }
        Ok(Control {
            shared,
            side,
            dir,
            name,
            node,
            role,
            observer,
            bells: carry(bells),
            epoll: Arc::new(epoll),
            timer,
            alarm: None,
            link: None,
            root: None,
            seeking: Seeking {
                seen_epoch: 0,
                was_admitted: false,
                since: now,
                again: now,
                pause: FIRST_PAUSE,
                successor: None,
                // Nodes of one process, and of processes that start together, differ in few bits.
                jitter: node.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            },
            vigil,
            joining: Some(Joining { begun: now, patience, answer }),
            is_leaving: false,
            failure: None,
            pending: BTreeMap::new(),
            settling: Settling::new(now),
            told: BTreeMap::new(),
            backlog: VecDeque::new(),
            questions: BTreeMap::new(),
            is_asking: false,
            process: current_process(),
            identify: process_of,
            peers: HashMap::new(),
            crowd: SPARE_PEERS,
            peer_tokens: HashMap::new(),
            next_token: FIRST_PEER,
            buffer: PacketBuffer::new(),
            packet: AlignedVec::with_capacity(4096),
        })
    }

    /// What the thread sleeps on while others may hold the rest.
    pub(super) fn epoll(&self) -> Arc<Epoll> {
        self.epoll.clone()
    }

    /// What is due before the control thread sleeps on. The driver hands the search for a root back by arming
    /// the timer.
    fn hand_back(&mut self) {
        self.catch_up();
        self.set_alarm();
    }

    /// Reads what the root has said to a thread that drives this link since `begun`. False: it drives no more.
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

    fn happened(&mut self, event: &EpollEvent) {
        match event.data() {
            WAKE => {
                let _ = self.shared.wake.read();
                self.obey();
            }
            TIMER => {
                // Read without waiting: a timer that was set again meanwhile has nothing to say.
                let _ = self.timer.wait();
                self.alarm = None;
                if self.link.as_ref().is_some_and(|link| link.is_short) {
                    self.link_ready(EpollFlags::EPOLLOUT);
                }
            }
            LINK => {
                let mut ready = event.events();
                let is_over = ready.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
                if self.link.as_ref().is_some_and(|link| link.is_driven) && !is_over {
                    // A report from before somebody else began to read from the link. What is to be sent is sent here.
                    ready.remove(EpollFlags::EPOLLIN);
                }
                self.link_ready(ready);
            }
            ROOT => {
                // Take what it still said. Its death may be older than this link; then the pidfd says no.
                self.link_ready(EpollFlags::EPOLLIN);
                if self.link.as_ref().is_some_and(|link| is_gone(&link.pidfd)) {
                    self.lose(Lost::Closed);
                }
            }
            FOLDER => self.folder_changed(),
            token => self.peer_is_gone(token),
        }
    }

    // ---- joining and leaving

    /// True when there is nothing more to do.
    fn is_over(&mut self) -> bool {
        self.is_leaving || self.has_failed()
    }

    /// True when this node will not be in the hive. Who waits for it hears why.
    fn has_failed(&mut self) -> bool {
        let failure = self.failure.take();
        let Some(joining) = &self.joining else { return false };
        let waited = joining.begun.elapsed();
        let failure = match failure {
            Some(failure) => failure,
            None if waited < joining.patience => return false,
            None => JoinError::NoRoot { waited, what: self.shared.status().waited_for.clone() },
        };
        let _ = joining.answer.send(Err(failure));
        true
    }

    fn take_leave(mut self) {
        if let Some(mut link) = self.link.take() {
            let _ = link.send(&ToRoot::Leave, Vec::new(), &mut self.packet);
            link.unwatch(&self.epoll);
        }
        // An embedded root passes on in order.
        self.root = None;
        let mut status = self.shared.status();
        (status.root_pid, status.hosts_root) = (None, false);
    }

    // ---- commands

    fn obey(&mut self) {
        // Callbacks may add commands while these are obeyed, so the inbox is not held.
        let commands = std::mem::take(&mut self.shared.inbox().commands);
        let mut forgotten = Vec::new();
        for command in commands {
            match command {
                Command::Announce { announcement, reply } => self.announce(announcement, reply),
                Command::List { request, reply } => {
                    let (collector, after) = (Collector::default(), Cursor::Nodes(0));
                    self.questions.insert(request, Question::List { collector, after, reply });
                    self.ask(request);
                }
                Command::Inspect { request, end, reply } => {
                    self.questions.insert(request, Question::Inspect { end, reply });
                    self.ask(request);
                }
                Command::Misfits { request, publisher, reply } => {
                    self.questions.insert(request, Question::Misfits { publisher, reply });
                    self.ask(request);
                }
                Command::GiveUp { request } => self.give_up(request),
                Command::Withdraw { index, ring } => self.withdraw(index, ring),
                Command::StandFor(offer) => self.tell(Announcement::Offer(offer)),
                Command::Detached { index, publisher } => self.say_detached(index, publisher),
                Command::Rematch { index } => self.say(&ToRoot::Rematch { subscriber: index }, Vec::new()),
                Command::Watch => self.say(&ToRoot::Watch, Vec::new()),
                Command::Forget { node } => forgotten.push(node),
                Command::Leave => self.is_leaving = true,
            }
        }
        forgotten.retain(|node| self.peers.contains_key(node));
        if !forgotten.is_empty() {
            // Attachments are made by this thread alone, so who is no acquaintance now stays none until it attaches anew.
            let acquaintances = self.side.acquaintances().unwrap_or_default();
            for node in forgotten.into_iter().filter(|node| !acquaintances.contains(node)) {
                self.forget(node);
            }
        }
    }

    fn announce(&mut self, announcement: Announcement, reply: Reply<(), AnnounceError>) {
        let index = announcement.index();
        // A roll call that was faster than this command has told the root already.
        match self.told.get(&index) {
            Some(Told::Accepted) => return self.is_accepted_already(Pending { announcement, reply }),
            Some(Told::Refused(error)) => return drop(reply.send(Err((**error).clone()))),
            Some(Told::Open(_)) => {}
            None => self.tell(announcement.clone()),
        }
        self.pending.insert(index, Pending { announcement, reply });
    }

    /// Queues an announcement for this root, or for the next one.
    fn tell(&mut self, announcement: Announcement) {
        self.told.insert(announcement.index(), Told::Open(Box::new(announcement.clone())));
        self.backlog.push_back(announcement);
    }

    fn give_up(&mut self, request: u64) {
        match u32::try_from(request) {
            Ok(index) => {
                self.pending.remove(&index);
                self.withdraw(index, None);
            }
            Err(_) => drop(self.questions.remove(&request)),
        }
    }

    fn withdraw(&mut self, index: u32, ring: Option<Handle>) {
        let settling = self.settling.remove(index);
        let is_unsettled = settling.is_some() || matches!(self.told.get(&index), Some(Told::Open(_)));
        if let Some(ring) = ring.filter(|_| is_unsettled) {
            self.lend_ring(index, ring);
        }
        if let Some(pending) = self.pending.remove(&index).or(settling.flatten()) {
            // The end is gone before it was answered for; whoever waits, waits for other ends as well.
            let _nobody_waits = pending.reply.send(Ok(()));
        }
        if self.told.remove(&index).is_some() {
            self.say(&ToRoot::Withdraw { index }, Vec::new());
        }
    }

    fn ask(&mut self, request: u64) {
        let message = match self.questions.get(&request) {
            Some(Question::List { after, .. }) => ToRoot::List { request, after: after.clone() },
            Some(Question::Inspect { end, .. } | Question::Keep { source: end, .. }) => {
                ToRoot::Inspect { request, end: *end }
            }
            Some(Question::Misfits { publisher, .. }) => ToRoot::Misfits { request, publisher: *publisher },
            None => return,
        };
        self.say(&message, Vec::new());
    }

    // ---- the root

    /// Sends to the root, if there is one that has admitted this node. What it does not hear, the next one is told.
    fn say(&mut self, message: &ToRoot, descriptors: Vec<Passed>) {
        let Some(link) = self.link.as_mut().filter(|link| link.is_admitted) else { return };
        if let Err(failure) = link.send(message, descriptors, &mut self.packet) {
            self.lose(failure.into());
        }
    }

    /// Tells the root what is still to be told, as far as it keeps up.
    fn catch_up(&mut self) {
        while self.link.as_ref().is_some_and(|link| link.is_admitted && !link.is_full()) {
            let Some(announcement) = self.backlog.pop_front() else { break };
            let index = announcement.index();
            // Withdrawn while it waited.
            if !self.told.contains_key(&index) {
                continue;
            }
            match announcement {
                Announcement::Offer(offer) => {
                    self.say(&ToRoot::Offer { request: index.into(), offer }, Vec::new());
                }
                Announcement::Demand(demand) => self.say_demand(demand),
            }
        }
        let rearmed = self.link.as_mut().map(|link| link.rearm(&self.epoll, LINK));
        if let Some(Err(failure)) = rearmed {
            self.lose(failure.into());
        }
    }

    /// Tells the root that a subscription is not attached to this publisher, if that is so now. Attachments are made by this thread
    /// alone, so it stays so until the root has heard it.
    fn say_detached(&mut self, subscriber: u32, publisher: EndId) {
        if !self.told.contains_key(&subscriber) || self.side.has_to_do_with(subscriber, publisher) {
            return;
        }
        // What is still to be announced would announce it, and what is said now would come before that.
        for announcement in &mut self.backlog {
            if let Announcement::Demand(demand) = announcement
                && demand.index == subscriber
            {
                demand.connected.retain(|connected| connected.publisher != publisher);
                return;
            }
        }
        self.say(&ToRoot::Detached { subscriber, publisher }, Vec::new());
    }

    fn say_demand(&mut self, mut demand: Demand) {
        let subscriber = demand.index;
        let connected = std::mem::take(&mut demand.connected);
        for part in connected.chunks(CONNECTED_PER_PACKET) {
            self.say(&ToRoot::Connected { subscriber, connections: part.to_vec() }, Vec::new());
        }
        self.say(&ToRoot::Demand { request: subscriber.into(), demand }, Vec::new());
    }

    fn seek_when_due(&mut self) {
        if self.link.is_none() && Instant::now() >= self.seeking.again {
            match self.seek() {
                Ok(()) => {}
                Err(Lost::Never(error)) if !self.seeking.was_admitted => self.failure = Some(error),
                Err(reason) => self.back_off(reason),
            }
        }
    }

    /// Finds a root, or becomes its host.
    fn seek(&mut self) -> Result<(), Lost> {
        if self.root.as_ref().is_some_and(|root| !root.is_running()) {
            self.root = None;
        }
        for _ in 0..STEPS {
            match Link::connect(&self.dir) {
                Connecting::Connected(link) => return self.greet(link),
                Connecting::Busy => return Err(Lost::NotNow(self.no_listener())),
                Connecting::Failed(error) => return Err(Lost::Never(error)),
                Connecting::Closed => {
                    let (path, owner) = (self.dir.path().to_owned(), self.dir.owner());
                    return Err(Lost::NotNow(WaitedFor::OpenDoor { path, owner }));
                }
                Connecting::Nobody => {}
            }
            if !self.dir.is_ours() {
                let (path, owner) = (self.dir.root_socket().to_owned(), self.dir.owner());
                return Err(Lost::NotNow(WaitedFor::RootOf { path, owner }));
            }
            if self.role != RootRole::Embedded {
                let path = self.dir.root_socket().to_owned();
                return Err(Lost::NotNow(WaitedFor::Root { path }));
            }
            if let Some((pid, until)) = self.seeking.successor.filter(|(_, until)| Instant::now() < *until) {
                self.seeking.successor = Some((pid, until));
                return Err(Lost::NotNow(WaitedFor::Successor { pid }));
            }
            // A root of ours that nobody can reach, because somebody took its socket away, is none.
            self.root = None;
            self.host()?;
        }
        Err(Lost::NotNow(self.no_listener()))
    }

    fn host(&mut self) -> Result<(), Lost> {
        let never = |doing| move |error| Lost::Never(JoinError::system(doing, error));
        match RootLock::try_take(&self.dir).map_err(never("take the lock file"))? {
            Some(lock) => self.serve(lock),
            None => Err(Lost::NotNow(self.no_listener())),
        }
    }

    fn serve(&mut self, lock: RootLock) -> Result<(), Lost> {
        match EmbeddedRoot::start(&self.dir, lock, self.seeking.seen_epoch) {
            Ok(root) => {
                self.root = Some(root);
                Ok(())
            }
            Err(OpenError::Superseded) => Err(Lost::NotNow(self.no_listener())),
            Err(OpenError::System(error)) => Err(Lost::Never(JoinError::system("host the root", error))),
        }
    }

    // ---- a root that does not answer

    /// Whether this node waits for a word of the root.
    fn is_waiting(&self) -> bool {
        match &self.link {
            // A thread that drives waits by itself, and only for a moment.
            Some(link) if link.is_driven => false,
            Some(link) => {
                !link.is_admitted || self.is_asking || !self.pending.is_empty() || !self.questions.is_empty()
            }
            None => true,
        }
    }

    /// Does what is due because the root has said nothing for long.
    fn keep_vigil(&mut self) {
        match self.vigil.due(&self.dir) {
            Due::Nothing => {}
            Due::Doubt => raise_doubt(&self.dir),
            Due::Replaced => {
                self.is_succeeded();
            }
            Due::Silent(lock) => {
                // It may be this process that stood still: what the root has said is read first, and counts.
                self.link_ready(EpollFlags::EPOLLIN);
                if self.vigil.alarm().is_some() && !self.is_succeeded() {
                    self.succeed(lock);
                }
            }
        }
    }

    /// True: another socket has taken the place of the one that this node is connected to, and it seeks anew.
    fn is_succeeded(&mut self) -> bool {
        let Some(link) = &self.link else { return false };
        let is_there = FileId::at(self.dir.root_socket()).map_or(true, |now| now == link.found);
        if !is_there {
            tracing::debug!(node = %self.name, pid = link.pid, "the root has a successor");
            self.seek_anew();
        }
        !is_there
    }

    fn seek_anew(&mut self) {
        let path = self.dir.root_socket().to_owned();
        self.lose(Lost::NotNow(WaitedFor::Root { path }));
        (self.seeking.since, self.seeking.again, self.seeking.pause) =
            (Instant::now(), Instant::now(), FIRST_PAUSE);
    }

    /// Takes the place of a root that does not answer, if this node may.
    fn succeed(&mut self, lock: FileId) {
        if self.role != RootRole::Embedded || !self.dir.is_ours() {
            // Those who may were told.
            return;
        }
        let taken = match RootLock::try_take(&self.dir) {
            // Its process is gone, and another one, which serves nobody, was connected to.
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => RootLock::supersede(&self.dir, lock),
            Err(error) => Err(error),
        };
        match taken {
            Ok(None) => self.seek_anew(),
            Err(error) => tracing::error!(%error, "cannot supersede the root that does not answer"),
            Ok(Some(lock)) => {
                let pid = self.link.as_ref().map_or(0, |link| link.pid);
                tracing::warn!(node = %self.name, pid, "the root does not answer; this node takes its place");
                if let Some(own) = self.root.take() {
                    own.abandon();
                }
                self.seek_anew();
                match self.serve(lock) {
                    Ok(()) => {}
                    Err(Lost::Never(error)) if !self.seeking.was_admitted => self.failure = Some(error),
                    Err(reason) => self.back_off(reason),
                }
            }
        }
    }

    fn folder_changed(&mut self) {
        let signs = self.vigil.signs(&self.dir);
        if signs.is_replaced && self.is_succeeded() {
            return;
        }
        let can_ask = self.link.as_ref().is_some_and(|link| link.is_admitted);
        let lock = self.link.as_ref().and_then(|link| link.lock);
        if signs.is_doubted && can_ask && self.vigil.join_doubt(lock) {
            self.is_asking = true;
            self.say(&ToRoot::AreYouThere, Vec::new());
        }
    }

    fn no_listener(&self) -> WaitedFor {
        let pid = last_holder(&self.dir).map_or(0, |record| record.pid);
        WaitedFor::LockHolder { path: self.dir.lock_file().to_owned(), pid }
    }

    fn greet(&mut self, mut link: Link) -> Result<(), Lost> {
        if let Some(root) = self.root.as_ref().filter(|_| link.pid == own_pid()) {
            let not_now = |error| {
                let error = with_remedy(&error);
                Lost::NotNow(WaitedFor::System { doing: "look at the own root's socket", error })
            };
            link.is_own = root.listens_in(&self.dir).map_err(not_now)?;
        }
        let system = |error| Lost::Never(JoinError::system("watch the root", error));
        if let Err(error) = link.watch(&self.epoll, LINK, ROOT) {
            link.unwatch(&self.epoll);
            return Err(system(error));
        }
        let hello = ToRoot::Hello {
            name: self.name.as_str().to_owned(),
            node: self.node,
            observer: self.observer,
            external: self.role == RootRole::External,
            rejoin: self.seeking.was_admitted,
            hosts_root: link.is_own,
            seen_epoch: self.seeking.seen_epoch,
            bells: self.bells.0.clone(),
        };
        {
            // Why it refused before says more than that it has not answered yet.
            let waited_for = &mut self.shared.status().waited_for;
            if !matches!(waited_for, WaitedFor::DedicatedRoot { .. } | WaitedFor::BetterAnswer { .. }) {
                *waited_for = WaitedFor::Answer { pid: link.pid };
            }
        }
        let sent = link.send(&hello, self.bells.1.clone(), &mut self.packet);
        self.link = Some(link);
        if let Err(failure) = sent {
            self.lose(failure.into());
        }
        Ok(())
    }

    /// Gives the link up and seeks another root.
    fn lose(&mut self, reason: Lost) {
        let Some(link) = self.link.take() else { return };
        link.unwatch(&self.epoll);
        self.is_asking = false;
        self.told.clear();
        self.backlog.clear();
        self.pending.extend(self.settling.clear());
        // The next root asks anew.
        self.questions.retain(|_, question| !matches!(question, Question::Keep { .. }));
        let now = Instant::now();
        {
            let mut status = self.shared.status();
            (status.root_pid, status.hosts_root) = (None, false);
        }
        if link.is_admitted {
            (self.seeking.since, self.seeking.again, self.seeking.pause) = (now, now, FIRST_PAUSE);
        }
        match reason {
            Lost::Never(error) if !self.seeking.was_admitted => self.failure = Some(error),
            // A root that died or left is succeeded at once; after one that never admitted us comes a pause.
            Lost::Closed if link.is_admitted => {
                let path = self.dir.root_socket().to_owned();
                self.shared.status().waited_for = WaitedFor::Root { path };
            }
            reason => self.back_off(reason),
        }
    }

    fn back_off(&mut self, reason: Lost) {
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
            tracing::debug!(node = %self.name, %waited_for, "no root");
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

    fn welcomed(&mut self, epoch: u64, is_dedicated: bool) {
        let Some(link) = &mut self.link else { return };
        (link.is_admitted, link.is_dedicated) = (true, is_dedicated);
        self.seeking.seen_epoch = epoch;
        self.seeking.was_admitted = true;
        self.seeking.successor = None;
        {
            let mut status = self.shared.status();
            status.root_pid = Some(link.pid);
            status.root_epoch = epoch;
            status.hosts_root = link.is_own && !is_dedicated;
            status.waited_for = WaitedFor::Answer { pid: link.pid };
        }
        tracing::debug!(node = %self.name, epoch, pid = link.pid, "admitted");
        self.told.clear();
        self.backlog.clear();
        self.pending.extend(self.settling.clear());
        for announcement in self.side.roll_call() {
            self.tell(announcement);
        }
        self.side.changed();
        for publisher in self.side.kept() {
            self.say(&ToRoot::Kept { publisher }, Vec::new());
        }
        self.announce_who_waits();
        let questions: Vec<u64> = self.questions.keys().copied().collect();
        for request in questions {
            if let Some(Question::List { collector, after, .. }) = self.questions.get_mut(&request) {
                (*collector, *after) = (Collector::default(), Cursor::Nodes(0));
            }
            self.ask(request);
        }
        if let Some(joining) = self.joining.take() {
            let _ = joining.answer.send(Ok(()));
        }
    }

    /// An end that is being announced and was not in the roll call.
    fn announce_who_waits(&mut self) {
        let unlisted =
            self.pending.values().filter(|pending| !self.told.contains_key(&pending.announcement.index()));
        let unlisted: Vec<Announcement> = unlisted.map(|pending| pending.announcement.clone()).collect();
        for announcement in unlisted {
            self.tell(announcement);
        }
    }

    // ---- peers

    /// Whether this can be the process of that node, as far as the kernel tells; see [`crate::identity`].
    fn recognise(&mut self, node: u64, pidfd: &OwnedFd) -> Result<Process, Impostor> {
        let process = (self.identify)(pidfd).map_err(Impostor::System)?;
        if !process.may_have(node) {
            return Err(Impostor::EpochOfAnother { node });
        }
        if node == self.node && process.is(self.process) == Some(false) {
            return Err(Impostor::AnotherProcess { node });
        }
        // Who is gone is no obstacle, also when that news still waits to be read.
        let known = self.peers.get(&node).into_iter().flat_map(|peer| &peer.pidfds);
        let gone: Vec<u64> = known.filter(|(pidfd, _)| is_gone(pidfd)).map(|(_, token)| *token).collect();
        for token in gone {
            self.peer_is_gone(token);
        }
        match self.peers.get(&node) {
            Some(peer) if peer.process.is(process) == Some(false) => Err(Impostor::AnotherProcess { node }),
            _ => Ok(process),
        }
    }

    /// Watches the process of a peer until it is gone or forgotten. Another one than is known is refused.
    fn watch_peer(&mut self, node: u64, pidfd: OwnedFd) -> Result<(), Impostor> {
        let process = self.recognise(node, &pidfd)?;
        let known = self.peers.get(&node);
        if node == self.node || known.is_some_and(|peer| peer.process.is(process) == Some(true)) {
            return Ok(());
        }
        // A root gives copies of one pidfd for all pairs with a node.
        let is_copy =
            |(known, _): &(OwnedFd, u64)| is_same_open_file(known.as_fd(), pidfd.as_fd()) == Some(true);
        if known.is_some_and(|peer| peer.pidfds.iter().any(is_copy)) {
            return Ok(());
        }
        if known.is_some_and(|peer| peer.pidfds.len() >= PIDFDS_OF_A_PEER) {
            return Err(Impostor::TooMany { node, limit: PIDFDS_OF_A_PEER });
        }
        let token = self.next_token;
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(&pidfd, interest).map_err(|errno| Impostor::System(errno.into()))?;
        self.next_token += 1;
        self.peer_tokens.insert(token, node);
        let peer = self.peers.entry(node).or_insert(WatchedPeer { process, pidfds: Vec::new() });
        peer.pidfds.push((pidfd, token));
        if self.peers.len() > self.crowd {
            self.forget_strangers(node);
        }
        Ok(())
    }

    /// A peer that ends in order says so in its segments, not here. Forgets those with which nothing is left to do.
    fn forget_strangers(&mut self, newcomer: u64) {
        if let Some(acquaintances) = self.side.acquaintances() {
            let is_stranger = |node: &u64| *node != newcomer && !acquaintances.contains(node);
            let strangers: Vec<u64> = self.peers.keys().copied().filter(is_stranger).collect();
            for node in strangers {
                self.forget(node);
            }
        }
        self.crowd = self.peers.len() * 2 + SPARE_PEERS;
    }

    fn forget(&mut self, node: u64) {
        for (pidfd, token) in self.peers.remove(&node).into_iter().flat_map(|peer| peer.pidfds) {
            self.peer_tokens.remove(&token);
            let _ = self.epoll.delete(&pidfd);
        }
    }

    fn peer_is_gone(&mut self, token: u64) {
        if let Some(&node) = self.peer_tokens.get(&token) {
            if let Some(peer) = self.peers.get_mut(&node)
                && peer.pidfds.len() > 1
                && let Some(place) = peer.pidfds.iter().position(|(_, other)| *other == token)
            {
                // The others may be of a process that lives.
                let (pidfd, _) = peer.pidfds.swap_remove(place);
                self.peer_tokens.remove(&token);
                let _ = self.epoll.delete(&pidfd);
                return;
            }
            self.forget(node);
            self.side.peer_gone(node);
            for (publisher, keeping) in self.side.succeed(node) {
                self.keeps(publisher, keeping);
            }
        }
    }

    // ---- time

    /// Sets the timer to what has to happen without anybody saying so; usually nothing.
    fn set_alarm(&mut self) {
        let now = Instant::now();
        let seek = self.link.is_none().then_some(self.seeking.again);
        let patience = self.joining.as_ref().and_then(|joining| joining.begun.checked_add(joining.patience));
        let shortage = self.link.as_ref().filter(|link| link.is_short).map(|_| now + SHORTAGE_PAUSE);
        if self.is_waiting() {
            let lock = self.link.as_ref().map(|link| link.lock);
            self.vigil.wait(|| lock.unwrap_or_else(|| FileId::at(self.dir.lock_file()).unwrap_or_default()));
        } else {
            self.vigil.rest();
        }
        // A thread that drives is done long before.
        let settles =
            if self.link.as_ref().is_some_and(|link| link.is_driven) { None } else { self.settling.alarm() };
        let wanted = [seek, patience, shortage, settles, self.vigil.alarm()].into_iter().flatten().min();
        let is_set = match (wanted, self.alarm) {
            (None, None) => true,
            // It may ring early, and is then set again: what the root owes moves later with each of its answers.
            (Some(wanted), Some(alarm)) => alarm > now && alarm <= wanted,
            _ => false,
        };
        if is_set {
            return;
        }
        let set = match wanted {
            None => self.timer.unset(),
            Some(alarm) => {
                // Zero would switch the timer off.
                let left = alarm.saturating_duration_since(now).max(Duration::from_nanos(1));
                let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
                self.timer.set(expiration, TimerSetTimeFlags::empty())
            }
        };
        if let Err(error) = set {
            tracing::error!(%error, "cannot set a timer");
        }
        self.alarm = wanted;
    }

    /// What a refusal without a number means for this node.
    fn refused(&mut self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::NameTaken { pid } => {
                Lost::Never(JoinError::NodeNameTaken { name: self.name.clone(), pid })
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

/// The life of the thread.
pub(super) fn run(cell: &Cell, epoll: &Epoll, shared: Arc<Shared>) {
    // Also when a callback panics: nobody waits for a thread that is gone.
    let _closing = CloseInbox(shared);
    let emptying = EmptyCell(cell);
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut count = 0;
    loop {
        // Poisoned: a callback panicked in a thread that drove, and nobody knows how far it got.
        let Ok(mut held) = cell.lock() else { break };
        let Some(control) = held.as_mut() else { break };
        for event in &events[..count] {
            control.happened(event);
        }
        if control.is_over() {
            break;
        }
        control.keep_vigil();
        control.seek_when_due();
        control.lend_when_due();
        control.hand_back();
        if control.is_over() {
            break;
        }
        drop(held);
        count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => {
                tracing::error!(%error, "the control thread cannot wait");
                break;
            }
        };
    }
    if let Some(control) = emptying.take() {
        control.take_leave();
    }
}

/// However the thread ends, the link, the pidfds and an embedded root end with it.
struct EmptyCell<'cell>(&'cell Cell);

impl EmptyCell<'_> {
    fn take(&self) -> Option<Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for EmptyCell<'_> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

thread_local! {
    static DRIVES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// True in callbacks that this thread makes while it drives.
pub(super) fn is_driving() -> bool {
    DRIVES.get()
}

/// Marks this thread while it holds the state; if a callback panics meanwhile, the control thread wakes and ends.
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

/// An end that the root was told of before it is made. Whoever holds this looks after the link, so nothing that the root
/// says about the end is heard before it is there. Dropped before [`drive`] has taken it, it takes the announcement back.
pub(super) struct Ahead {
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

/// Announces an end that is still to be made, so that the root works on it meanwhile. `None`: not now; make it first.
pub(super) fn announce_ahead(cell: &Cell, announcement: &Announcement) -> Option<Ahead> {
    let said = AssertUnwindSafe(|| {
        let mut held = cell.try_lock().ok()?;
        let control = held.as_mut()?;
        let is_free = |link: &Link| link.is_admitted && !link.is_driven && !link.is_full();
        // A number is announced once: what the root answered then is the answer.
        let is_known = control.told.contains_key(&announcement.index());
        if is_known || is_driving() || !control.link.as_ref().is_some_and(is_free) {
            return None;
        }
        let shared = control.shared.clone();
        let _driving = Driving::begin(&shared);
        // What was said before comes first.
        control.obey();
        control.tell(announcement.clone());
        control.catch_up();
        let index = announcement.index();
        let socket = match control.link.as_mut().filter(|_| control.backlog.is_empty()) {
            Some(link) => {
                link.is_driven = true;
                link.socket.clone()
            }
            // Lost just now, or too much waits: then it is told with the others, when it is made.
            None => {
                control.told.remove(&index);
                return None;
            }
        };
        control.hand_back();
        Some(Ahead { cell: cell.clone(), shared, index, socket, begun: Instant::now(), is_taken: false })
    });
    // As in `drive`.
    catch_unwind(said).unwrap_or(None)
}

/// Announces an end from the thread that waits for it (if it was not announced `ahead`), and looks after the link until the
/// answer is there (if it waits: `answer`). What is handed back has to be done by the control thread; otherwise the answer is
/// in the channel afterwards, or will come there.
pub(super) fn drive(
    cell: &Cell,
    announcement: Announcement,
    reply: Reply<(), AnnounceError>,
    answer: Option<&Receiver<Result<(), AnnounceError>>>,
    ahead: Option<Ahead>,
) -> Option<(Announcement, Reply<(), AnnounceError>)> {
    // A callback that panics ends the session, as it does in the control thread; it does not end the thread that waits, which
    // hears `Left`. Unwinding has poisoned the state, so nobody uses it any more but to drop it.
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

/// Between 0 and 1. Xorshift: any spread will do.
fn next_jitter(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

/// However the thread ends, whoever waits or will wait hears `Left`: their senders are dropped with the commands.
struct CloseInbox(Arc<Shared>);

impl Drop for CloseInbox {
    fn drop(&mut self) {
        let mut inbox = self.0.inbox();
        inbox.is_closed = true;
        let commands = std::mem::take(&mut inbox.commands);
        drop(inbox);
        drop(commands);
    }
}
