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
//! A thread that announces an end may do this work in the meantime ([`drive`]): it then looks after the link,
//! and this thread after everything else.
//!
//! Requests of other threads stay pending until a root answers or nobody waits any more, so they outlive
//! roots.
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use hivemind_core::name::NodeName;
use hivemind_core::protocol::{CONNECTED_PER_PACKET, Carrier, Cursor, Demand, EndId, ToRoot};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rkyv::util::AlignedVec;

use self::alarm::Alarm;
use self::announced::{Announced, Told};
use self::peers::{Impostor, Peers};
use self::questions::{Question, Questions};
use self::seeking::{Joining, Lost, Seeking};
use self::settling::Pending;
use super::link::{Link, carry};
use super::listing::Collector;
use super::vigil::Vigil;
use super::{
    AnnounceError, Announcement, Command, Handle, JoinError, NodeSide, Reply, RootRole, SessionConfig,
    Shared, WaitedFor,
};
use crate::root::lock::FileId;
use crate::runtime_dir::RuntimeDir;
use crate::socket::{PacketBuffer, Passed, is_gone};

mod alarm;
mod announced;
pub(super) mod drive;
mod inbound;
mod peers;
mod questions;
mod seeking;
mod settling;
mod silence;
#[cfg(test)]
mod tests;

/// How long a dedicated root that was said to take over is given before others would take the lock.
const SUCCESSION: Duration = Duration::from_secs(1);
/// When the kernel is short of something that no readiness tells, it is asked again after this time.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(2);
/// Packets that are taken from the root in a row.
const PACKETS_IN_A_ROW: usize = 64;
const EVENTS: usize = 32;

const WAKE: u64 = 0;
const TIMER: u64 = 1;
const LINK: u64 = 2;
const ROOT: u64 = 3;
const FOLDER: u64 = 4;

/// See the head of the module. Each part has a room of its own; what needs several of them is here.
pub(super) struct Control {
    shared: Arc<Shared>,
    side: Arc<dyn NodeSide>,
    who: Who,
    epoll: Arc<Epoll>,
    alarm: Alarm,
    link: Option<Link>,
    packets: Packets,
    seeking: Seeking,
    vigil: Vigil,
    announced: Announced,
    questions: Questions,
    peers: Peers,
}

/// The node, as it introduces itself.
struct Who {
    dir: RuntimeDir,
    name: NodeName,
    node: u64,
    role: RootRole,
    observer: bool,
    bells: (Carrier, Vec<Passed>),
}

/// Memory for what is received and sent.
struct Packets {
    buffer: PacketBuffer,
    packet: AlignedVec,
}

/// Where the state lies, for the control thread and for those that drive; empty when the thread has ended.
pub(super) type Cell = Arc<Mutex<Option<Control>>>;

impl Control {
    pub(super) fn new(
        config: SessionConfig,
        side: Arc<dyn NodeSide>,
        shared: Arc<Shared>,
        answer: Sender<Result<(), JoinError>>,
    ) -> Result<Control, JoinError> {
        let system = |doing| move |error: Errno| JoinError::system(doing, error.into());
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("create an epoll"))?);
        let alarm = Alarm::new().map_err(|error| JoinError::system("create a timer", error))?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&shared.wake, readable(WAKE)).map_err(system("watch an eventfd"))?;
        epoll.add(&alarm.timer, readable(TIMER)).map_err(system("watch a timer"))?;
        let SessionConfig { dir, name, node, patience, root: role, root_timeout, observer, bells } = config;
        let vigil = Vigil::new(&dir, root_timeout);
        if let Some(folder) = vigil.folder() {
            epoll.add(folder, readable(FOLDER)).map_err(system("watch the folder of the hive"))?;
        }
        Ok(Control {
            shared,
            side,
            who: Who { dir, name, node, role, observer, bells: carry(bells) },
            alarm,
            link: None,
            packets: Packets { buffer: PacketBuffer::new(), packet: AlignedVec::with_capacity(4096) },
            seeking: Seeking::new(node, Joining { begun: Instant::now(), patience, answer }),
            vigil,
            announced: Announced::new(),
            questions: Questions::default(),
            peers: Peers::new(node, epoll.clone()),
            epoll,
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

    fn happened(&mut self, event: &EpollEvent) {
        match event.data() {
            WAKE => {
                let _ = self.shared.wake.read();
                self.obey();
            }
            TIMER => {
                self.alarm.has_rung();
                if self.link.as_ref().is_some_and(|link| link.is_short) {
                    self.link_ready(EpollFlags::EPOLLOUT);
                }
            }
            LINK => {
                let mut ready = event.events();
                let is_over = ready.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
                if self.link.as_ref().is_some_and(|link| link.is_driven) && !is_over {
                    // A report from before somebody else began to read from the link. What is to be sent is
                    // sent here.
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
        self.seeking.is_leaving || self.has_failed()
    }

    fn take_leave(mut self) {
        if let Some(mut link) = self.link.take() {
            let _ = link.send(&ToRoot::Leave, Vec::new(), &mut self.packets.packet);
            link.unwatch(&self.epoll);
        }
        // An embedded root passes on in order.
        self.seeking.root = None;
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
                Command::StandFor(offer) => self.announced.tell(Announcement::Offer(offer)),
                Command::Detached { index, publisher } => self.say_detached(index, publisher),
                Command::Rematch { index } => self.say(&ToRoot::Rematch { subscriber: index }, Vec::new()),
                Command::Watch => self.say(&ToRoot::Watch, Vec::new()),
                Command::Forget { node } => forgotten.push(node),
                Command::Leave => self.seeking.is_leaving = true,
            }
        }
        forgotten.retain(|node| self.peers.contains(*node));
        if !forgotten.is_empty() {
            // Attachments are made by this thread alone, so who is no acquaintance now stays none until it
            // attaches anew.
            let acquaintances = self.side.acquaintances().unwrap_or_default();
            for node in forgotten.into_iter().filter(|node| !acquaintances.contains(node)) {
                self.peers.forget(node);
            }
        }
    }

    fn announce(&mut self, announcement: Announcement, reply: Reply<(), AnnounceError>) {
        let index = announcement.index();
        // A roll call that was faster than this command has told the root already.
        match self.announced.told.get(&index) {
            Some(Told::Accepted) => return self.is_accepted_already(Pending { announcement, reply }),
            Some(Told::Refused(error)) => return drop(reply.send(Err((**error).clone()))),
            Some(Told::Open(_)) => {}
            None => self.announced.tell(announcement.clone()),
        }
        self.announced.pending.insert(index, Pending { announcement, reply });
    }

    fn give_up(&mut self, request: u64) {
        match u32::try_from(request) {
            Ok(index) => {
                self.announced.pending.remove(&index);
                self.withdraw(index, None);
            }
            Err(_) => drop(self.questions.remove(request)),
        }
    }

    fn withdraw(&mut self, index: u32, ring: Option<Handle>) {
        let settling = self.announced.settling.remove(index);
        let is_unsettled =
            settling.is_some() || matches!(self.announced.told.get(&index), Some(Told::Open(_)));
        if let Some(ring) = ring.filter(|_| is_unsettled) {
            self.lend_ring(index, ring);
        }
        if let Some(pending) = self.announced.pending.remove(&index).or(settling.flatten()) {
            // The end is gone before it was answered for; whoever waits, waits for other ends as well.
            let _nobody_waits = pending.reply.send(Ok(()));
        }
        if self.announced.told.remove(&index).is_some() {
            self.say(&ToRoot::Withdraw { index }, Vec::new());
        }
    }

    fn ask(&mut self, request: u64) {
        if let Some(message) = self.questions.in_words(request) {
            self.say(&message, Vec::new());
        }
    }

    // ---- the root

    /// Sends to the root, if there is one that has admitted this node. What it does not hear, the next one is
    /// told.
    fn say(&mut self, message: &ToRoot, descriptors: Vec<Passed>) {
        let Some(link) = self.link.as_mut().filter(|link| link.is_admitted) else { return };
        if let Err(failure) = link.send(message, descriptors, &mut self.packets.packet) {
            self.lose(failure.into());
        }
    }

    /// Tells the root what is still to be told, as far as it keeps up.
    fn catch_up(&mut self) {
        while self.link.as_ref().is_some_and(|link| link.is_admitted && !link.is_full()) {
            match self.announced.next() {
                None => break,
                Some(Announcement::Offer(offer)) => {
                    self.say(&ToRoot::Offer { request: offer.index.into(), offer }, Vec::new());
                }
                Some(Announcement::Demand(demand)) => self.say_demand(demand),
            }
        }
        let rearmed = self.link.as_mut().map(|link| link.rearm(&self.epoll, LINK));
        if let Some(Err(failure)) = rearmed {
            self.lose(failure.into());
        }
    }

    /// Tells the root that a subscription is not attached to this publisher, if that is so now. Attachments
    /// are made by this thread alone, so it stays so until the root has heard it.
    fn say_detached(&mut self, subscriber: u32, publisher: EndId) {
        if !self.announced.contains(subscriber) || self.side.has_to_do_with(subscriber, publisher) {
            return;
        }
        // What is still to be announced would announce it, and what is said now would come before that.
        for announcement in &mut self.announced.backlog {
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
        tracing::debug!(node = %self.who.name, epoch, pid = link.pid, "admitted");
        self.announced.begin_anew();
        for announcement in self.side.roll_call() {
            self.announced.tell(announcement);
        }
        self.side.changed();
        for publisher in self.side.kept() {
            self.say(&ToRoot::Kept { publisher }, Vec::new());
        }
        self.announced.tell_the_rest();
        for request in self.questions.all_anew() {
            self.ask(request);
        }
        if let Some(joining) = self.seeking.joining.take() {
            let _ = joining.answer.send(Ok(()));
        }
    }

    // ---- peers

    /// Whether this can be the process of that node; see [`Peers`].
    fn recognise(&mut self, node: u64, pidfd: &OwnedFd) -> Result<(), Impostor> {
        // What is gone is no obstacle, also when that news still waits to be read.
        for token in self.peers.gone(node) {
            self.peer_is_gone(token);
        }
        self.peers.recognise(node, pidfd).map(drop)
    }

    /// Watches the process of a peer until it is gone or forgotten. Another one than is known is refused.
    fn watch_peer(&mut self, node: u64, pidfd: OwnedFd) -> Result<(), Impostor> {
        self.recognise(node, &pidfd)?;
        self.peers.watch(node, pidfd)?;
        // A peer that ends in order says so in its segments, not here.
        if self.peers.are_many() {
            self.peers.keep_only(self.side.acquaintances().as_ref(), node);
        }
        Ok(())
    }

    fn peer_is_gone(&mut self, token: u64) {
        let Some(node) = self.peers.end_of(token) else { return };
        self.side.peer_gone(node);
        for (publisher, keeping) in self.side.succeed(node) {
            self.keeps(publisher, keeping);
        }
    }

    // ---- time

    /// Sets the timer to what has to happen without anybody saying so; usually nothing.
    fn set_alarm(&mut self) {
        let now = Instant::now();
        let seek = self.link.is_none().then_some(self.seeking.again);
        let patience =
            self.seeking.joining.as_ref().and_then(|joining| joining.begun.checked_add(joining.patience));
        let shortage = self.link.as_ref().filter(|link| link.is_short).map(|_| now + SHORTAGE_PAUSE);
        if self.is_waiting() {
            let lock = self.link.as_ref().map(|link| link.lock);
            self.vigil
                .wait(|| lock.unwrap_or_else(|| FileId::at(self.who.dir.lock_file()).unwrap_or_default()));
        } else {
            self.vigil.rest();
        }
        // A thread that drives is done long before.
        let settles = if self.link.as_ref().is_some_and(|link| link.is_driven) {
            None
        } else {
            self.announced.settling.alarm()
        };
        let wanted = [seek, patience, shortage, settles, self.vigil.alarm()].into_iter().flatten().min();
        self.alarm.set(wanted, now);
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

/// However the thread ends, whoever waits or will wait hears `Left`: their senders are dropped with the
/// commands.
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
