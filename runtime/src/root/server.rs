//! The root at work: one thread, one epoll, the registry.
//!
//! Everything that comes in becomes an event of the registry, everything it answers with is done here.
//! Nothing blocks: a packet that a client does not take waits in its queue, and a client whose queue
//! overflows is cut off (it may connect again and say what it has). Of a client that sends without end only
//! some packets are taken in a row.
//!
//! | it is watched | because                                                                                   |
//! | ------------- | ----------------------------------------------------------------------------------------- |
//! | listener      | nodes connect; the kernel says which process and user, and so whose epoch they may say     |
//! | socket        | requests; its end is the first sign that a node is gone                                    |
//! | pidfd         | the proof: a forked child may keep the socket of a dead node open, never its pidfd silent  |
//! | folder        | an inotify: the owner of the hive changed its policy, or another process took the root over   |
//! | stop          | an eventfd by which the owner ends the thread                                              |
//!
//! A root that stood still for long may have been superseded (see [`super::lock`]). So whenever it did
//! nothing for [`LOOK_AFTER`], and when the folder says so, it looks whether its lock file still has its name
//! before it handles anything; others wait for far longer before they supersede it. What it does between that
//! look and a new standstill is an introduction more, which harms nobody. If somebody else's socket has taken
//! the place of its own while its lock is in force, it binds anew.
//!
//! If the process dies, the kernel frees the lock and closes the sockets, and every node sees that at once.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hivemind_ring::os::MAX_DESCRIPTORS;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use rkyv::util::AlignedVec;

use super::StopHandle;
use super::door::Knock;
use super::lock::RootLock;
use super::office::Office;
pub(crate) use super::office::{Ended, OpenError};
use crate::identity::process_of;
use crate::runtime_dir::RuntimeDir;
use crate::socket::{
    Flushed, OutQueue, Packet, PacketBuffer, Passed, QueueBounds, SendFailure, Socket, is_gone,
};
use hivemind_core::policy::Credentials;
use hivemind_core::protocol::{
    DecodeError, EndId, MAX_EPOCH, MAX_PACKET, Refusal, ToNode, ToRoot, decode, decode_unaccompanied, encode,
};
use hivemind_core::registry::{Action, Attachment, ClientId, Event, Limits, Registry, RootIdentity};

/// Packets that are taken from one client in a row, so that one that never stops does not starve the others.
const PACKETS_IN_A_ROW: usize = 64;
/// Packets that are heard of a client after its end. The buffer of a socket holds fewer; a child that keeps
/// it may go on for ever.
const LAST_WORDS_MAX: usize = 1024;
/// Connections that are accepted in a row.
const ACCEPTS_IN_A_ROW: usize = 64;
/// Events that one wait reports.
const EVENTS: usize = 64;
/// What may wait for a client that does not read. The registry's lanes keep obedient nodes far below: eight
/// pairs with each other node, three descriptors each, of which the doorbells and the pidfd are shared by all
/// packets.
const QUEUE: QueueBounds = QueueBounds { packets: 65_536, bytes: 16 << 20, descriptors: 8192 };
/// When the kernel is short of something that no readiness tells, it is asked again after this many
/// milliseconds.
const RETRY_MS: u8 = 2;
/// While there is no descriptor left for a connection, none is accepted for this many milliseconds.
const PAUSE_MS: u8 = 20;

/// Publishers' rings that are kept for subscribers that do not answer ([`Action::KeepRing`]) may take one in
/// this many of the descriptors that this process may have …
const LENT_PART: u64 = 4;
/// … and there are never more of them than this.
const LENT_MAX: u64 = 1024;
/// The ring, and the pidfd of its node.
const DESCRIPTORS_OF_LENT: u64 = 2;

const LISTENER: u64 = 0;
const STOP: u64 = 1;
/// Clients begin with 1, so this is the number of no client's socket either.
const FOLDER: u64 = u64::MAX - 1;

/// See the head of the module.
pub(crate) struct Server {
    office: Office,
    /// What the names of this hive's segments begin with.
    #[cfg(feature = "named-segments")]
    prefix: String,
    epoll: Epoll,
    /// Stays open while it is watched.
    _stop: StopHandle,
    clients: BTreeMap<ClientId, Client>,
    next_client: ClientId,
    /// Rings that publishers have lent.
    lent: BTreeMap<EndId, Lent>,
    /// The processes of clients that are gone as a connection, and have lent something: they may still
    /// write.
    leaving: BTreeMap<ClientId, Passed>,
    registry: Registry,
    buffer: PacketBuffer,
    packet: AlignedVec,
    /// Some queue waits for something that no readiness tells.
    is_short: bool,
    hand_over_to: Option<ClientId>,
}

/// An event, and the descriptors that came with it.
type Happened = (Event, Vec<Passed>);

struct Client {
    socket: Socket,
    pidfd: Passed,
    pid: i32,
    bells: Option<Passed>,
    queue: OutQueue,
    wants_write: bool,
}

/// A ring, and what a subscriber needs beside it.
struct Lent {
    client: ClientId,
    ring: Passed,
    pidfd: Passed,
}

fn socket_token(client: ClientId) -> u64 {
    client << 1
}

fn pidfd_token(client: ClientId) -> u64 {
    client << 1 | 1
}

impl Server {
    /// Begins to listen.
    pub(crate) fn open(
        dir: &RuntimeDir,
        mut lock: RootLock,
        seen_epoch: u64,
        dedicated: bool,
        stop: StopHandle,
    ) -> Result<Server, OpenError> {
        let epoch = (lock.epoch().max(seen_epoch) + 1).min(MAX_EPOCH);
        if let Err(error) = lock.record(epoch) {
            // The epoch is a help, not a condition: nodes tell the next root what they have seen.
            tracing::warn!(%error, "cannot write to the lock file");
        }
        let (office, policy) = Office::open(dir, lock)?;
        let pid = own_pid();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(office.listener(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(stop.descriptor(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        if let Some(changes) = office.door.changes() {
            epoll.add(changes, EpollEvent::new(EpollFlags::EPOLLIN, FOLDER))?;
        }
        tracing::debug!(epoch, dedicated, hive = %dir.hive(), "root listens");
        #[cfg(feature = "named-segments")]
        sweep_names(&dir.segment_prefix());
        Ok(Server {
            office,
            #[cfg(feature = "named-segments")]
            prefix: dir.segment_prefix(),
            epoll,
            _stop: stop,
            clients: BTreeMap::new(),
            lent: BTreeMap::new(),
            leaving: BTreeMap::new(),
            next_client: 1,
            registry: Registry::new(RootIdentity { epoch, pid, dedicated }, limits(), policy),
            buffer: PacketBuffer::new(),
            packet: AlignedVec::with_capacity(4096),
            is_short: false,
            hand_over_to: None,
        })
    }

    /// Serves until it is stopped, handed over or superseded.
    pub(crate) fn run(mut self) -> io::Result<Ended> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                self.office.look_after_standstill();
                if self.office.is_superseded {
                    return Ok(self.abdicate());
                }
                match event.data() {
                    LISTENER => self.accept(),
                    STOP => return Ok(self.close(None)),
                    FOLDER => self.folder_changed(),
                    token if token & 1 == 1 => self.gone(token >> 1),
                    token => self.ready(token >> 1, event.events()),
                }
                if self.hand_over_to.is_some() {
                    let successor = self.hand_over_to;
                    return Ok(self.close(successor));
                }
            }
            self.try_again();
            if let Some(policy) = self.office.door.new_policy() {
                self.process(Event::PolicyChanged { policy }, Vec::new());
            }
            if self.office.is_superseded {
                return Ok(self.abdicate());
            }
        }
    }

    // ---- the office

    /// Something in the folder has another name now: the policy, the lock file, the socket.
    fn folder_changed(&mut self) {
        if self.office.door.knocked() == Knock::Root && self.office.has_to_bind_anew() {
            let interest = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
            let epoll = &self.epoll;
            self.office.bind_anew(|listener| epoll.add(listener, interest));
        }
    }

    /// Ends at once: whoever is connected goes to the successor, who has the lock file and the socket
    /// already.
    fn abdicate(self) -> Ended {
        tracing::warn!(
            epoch = self.office.lock.epoch(),
            "this root did not answer and was superseded by another process; it ends"
        );
        Ended::Superseded
    }

    fn timeout(&self) -> EpollTimeout {
        if self.is_short {
            EpollTimeout::from(RETRY_MS)
        } else if !self.office.is_listening {
            EpollTimeout::from(PAUSE_MS)
        } else {
            // Only while the owner of the hive is at work on the policy.
            self.office.door.settles_in().map_or(EpollTimeout::NONE, EpollTimeout::from)
        }
    }

    /// What was put off because something was short.
    fn try_again(&mut self) {
        if self.is_short {
            self.is_short = false;
            let waiting: Vec<ClientId> =
                self.clients.iter().filter(|(_, c)| c.queue.len() > 0).map(|(id, _)| *id).collect();
            for client in waiting {
                self.flush(client);
            }
        }
        if !self.office.is_listening && self.office.has_spare() {
            self.listen(true);
        }
    }

    fn listen(&mut self, listen: bool) {
        let flags = if listen { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        if self.epoll.modify(self.office.listener(), &mut EpollEvent::new(flags, LISTENER)).is_ok() {
            self.office.is_listening = listen;
        }
    }

    /// Ends in order: everybody hears that it ends and who comes next, nobody connects any more, the lock is
    /// free, the successor hears so, and last the connections close.
    fn close(mut self, successor: Option<ClientId>) -> Ended {
        let mut successor = successor.and_then(|client| self.clients.remove(&client));
        let pid = successor.as_ref().map_or(0, |client| client.pid);
        let everybody: Vec<ClientId> = self.clients.keys().copied().collect();
        for client in everybody {
            self.send(client, &ToNode::Leaving { successor: pid }, Vec::new());
        }
        tracing::debug!(epoch = self.office.lock.epoch(), successor = pid, "root closes");
        let Server { office, clients, mut packet, .. } = self;
        // Nobody connects any more, then the lock is free.
        drop(office);
        // The message is short, so it fits; a successor that does not read it sees the end of the socket.
        if let Some(client) = &mut successor
            && encode(&ToNode::HandedOver, &mut packet).is_ok()
        {
            let _ = client.queue.send(&client.socket, &packet, Vec::new());
        }
        drop(clients);
        if successor.is_some() { Ended::HandedOver } else { Ended::Stopped }
    }

    // ---- connections

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_IN_A_ROW {
            match self.office.listener().accept() {
                Ok((stream, _)) => self.admit(Socket::from_descriptor(stream.into())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_out_of_descriptors(&error) => return self.refuse_for_lack(),
                // The peer gave up while it waited.
                Err(error) => tracing::debug!(%error, "cannot accept"),
            }
        }
    }

    /// A connection that cannot be accepted would be reported for ever: accept it with the spare descriptor,
    /// say why not, and close it.
    fn refuse_for_lack(&mut self) {
        if self.office.take_spare()
            && let Ok((stream, _)) = self.office.listener().accept()
        {
            self.refuse(&Socket::from_descriptor(stream.into()), self.out_of_descriptors());
        }
        if !self.office.has_spare() {
            self.listen(false);
        }
    }

    fn out_of_descriptors(&self) -> Refusal {
        Refusal::OutOfDescriptors { pid: self.registry.root().pid }
    }

    fn refuse(&mut self, socket: &Socket, refusal: Refusal) {
        tracing::debug!(%refusal, "refused a connection");
        if encode(&ToNode::Refused { request: None, refusal }, &mut self.packet).is_ok() {
            let _ = OutQueue::new(QUEUE).send(socket, &self.packet, Vec::new());
        }
    }

    fn admit(&mut self, socket: Socket) {
        let peer = match socket.peer() {
            Ok(peer) => peer,
            Err(error) if is_out_of_descriptors(&error) => {
                return self.refuse(&socket, self.out_of_descriptors());
            }
            // Gone before we looked.
            Err(_) => return,
        };
        let Ok(credentials) = self.credentials(&socket, peer.user, peer.group) else { return };
        let process = match process_of(&peer.pidfd) {
            Ok(process) => process,
            Err(error) if is_out_of_descriptors(&error) => {
                return self.refuse(&socket, self.out_of_descriptors());
            }
            Err(error) => {
                return tracing::warn!(%error, pid = peer.pid, "cannot tell which process connected");
            }
        };
        let client = self.next_client;
        self.next_client += 1;
        let entry = Client {
            socket,
            pidfd: Arc::new(peer.pidfd),
            pid: peer.pid,
            bells: None,
            queue: OutQueue::new(QUEUE),
            wants_write: false,
        };
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        let watched = self
            .epoll
            .add(&entry.socket, readable(socket_token(client)))
            .and_then(|()| self.epoll.add(&entry.pidfd, readable(pidfd_token(client))));
        if let Err(error) = watched {
            tracing::warn!(%error, "cannot watch a connection");
            return;
        }
        self.clients.insert(client, entry);
        self.process(Event::Connected { client, pid: peer.pid, credentials, process }, Vec::new());
    }

    /// Who connected. The groups of the owner's own processes matter to nobody.
    fn credentials(&self, socket: &Socket, user: u32, group: u32) -> io::Result<Credentials> {
        if user == self.office.door.owner() {
            return Ok(Credentials::of_user(user));
        }
        let mut groups = socket.groups()?;
        groups.push(group);
        Ok(Credentials { user, groups })
    }

    fn gone(&mut self, client: ClientId) {
        if self.clients.contains_key(&client) {
            let mut events = self.last_words(client);
            events.push_back((Event::Gone { client }, Vec::new()));
            self.process_all(events);
            #[cfg(feature = "named-segments")]
            sweep_names(&self.prefix);
        } else if let Some(pidfd) = self.leaving.remove(&client) {
            let _ = self.epoll.delete(&pidfd);
            self.process(Event::Died { client }, Vec::new());
        }
    }

    /// What a client that is gone has said and nobody has read: its death may be reported before its packets,
    /// and a publisher that has let somebody in and published since must not take back with its death
    /// that it has.
    fn last_words(&mut self, client: ClientId) -> VecDeque<Happened> {
        let mut events = VecDeque::new();
        while events.len() < LAST_WORDS_MAX {
            let mut descriptors = Vec::new();
            let Some(entry) = self.clients.get(&client) else { break };
            let Ok(Packet::Message { length, descriptors_lost }) =
                entry.socket.receive(&mut self.buffer, &mut descriptors)
            else {
                break;
            };
            let event = self.understand(client, length, descriptors_lost, descriptors.len());
            events.push_back((event, descriptors.into_iter().map(Arc::new).collect()));
        }
        events
    }

    fn close_client(&mut self, client: ClientId) {
        let Some(mut entry) = self.clients.remove(&client) else { return };
        // A process that is gone succeeds nobody.
        self.hand_over_to = self.hand_over_to.filter(|successor| *successor != client);
        let _ = entry.queue.flush(&entry.socket);
        // Said explicitly: others may hold the pidfd on its way to a third, and a child the socket.
        let _ = self.epoll.delete(&entry.socket);
        if self.has_lent(client) {
            // That the socket is closed proves nothing; whether the process is dead already, the next wait
            // says.
            self.leaving.insert(client, entry.pidfd);
        } else {
            let _ = self.epoll.delete(&entry.pidfd);
        }
    }

    fn has_lent(&self, client: ClientId) -> bool {
        self.lent.values().any(|lent| lent.client == client)
    }

    fn keep_ring(&mut self, client: ClientId, publisher: EndId, ring: Option<&Passed>) {
        let Some(Client { pidfd, .. }) = self.clients.get(&client) else { return };
        if let Some(ring) = ring.cloned() {
            let pidfd = pidfd.clone();
            self.lent.insert(publisher, Lent { client, ring, pidfd });
        }
    }

    fn drop_ring(&mut self, publisher: EndId) {
        let Some(Lent { client, .. }) = self.lent.remove(&publisher) else { return };
        if !self.has_lent(client)
            && let Some(pidfd) = self.leaving.remove(&client)
        {
            let _ = self.epoll.delete(&pidfd);
        }
    }

    fn ready(&mut self, client: ClientId, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush(client);
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read(client);
        }
    }

    // ---- packets

    fn read(&mut self, client: ClientId) {
        for _ in 0..PACKETS_IN_A_ROW {
            let mut descriptors = Vec::new();
            let Some(entry) = self.clients.get(&client) else { return };
            match entry.socket.receive(&mut self.buffer, &mut descriptors) {
                Ok(Packet::Nothing) => return,
                Ok(Packet::Message { length, descriptors_lost }) => {
                    self.received(client, length, descriptors_lost, descriptors);
                }
                Ok(Packet::TooLong) => {
                    let error = DecodeError::Foreign { length: MAX_PACKET + 1 };
                    self.process(Event::Garbled { client, error }, Vec::new());
                }
                Ok(Packet::Closed) | Err(_) => return self.gone(client),
            }
            if self.hand_over_to.is_some() {
                return;
            }
        }
    }

    /// What a packet in the buffer says.
    fn understand(&self, client: ClientId, length: usize, lost: bool, descriptors: usize) -> Event {
        let bytes = self.buffer.bytes(length);
        // When there was room for all that a packet may bring, and some were lost, the peer sent too many.
        let is_own_lack = lost && descriptors < MAX_DESCRIPTORS;
        let decoded = if is_own_lack {
            decode_unaccompanied(bytes).map(|message| Event::DescriptorsLost { client, message })
        } else {
            decode(bytes, descriptors + usize::from(lost)).map(|message| Event::Said { client, message })
        };
        decoded.unwrap_or_else(|error| Event::Garbled { client, error })
    }

    fn received(&mut self, client: ClientId, length: usize, lost: bool, descriptors: Vec<OwnedFd>) {
        let event = self.understand(client, length, lost, descriptors.len());
        if let Event::Said { message: hello @ ToRoot::Hello { .. }, .. } = &event
            && !self.registry.is_admitted(client)
        {
            self.look_after_holders(hello);
        }
        self.process(event, descriptors);
    }

    /// A name whose holder is dead or has just left is free, also when that news still waits to be read.
    fn look_after_holders(&mut self, hello: &ToRoot) {
        for holder in self.registry.holders(hello) {
            match self.clients.get(&holder) {
                Some(client) if is_gone(&client.pidfd) => self.gone(holder),
                Some(_) => self.read(holder),
                None => {}
            }
        }
    }

    /// Handles an event, and those that follow from it.
    fn process(&mut self, event: Event, descriptors: Vec<OwnedFd>) {
        let descriptors = descriptors.into_iter().map(Arc::new).collect();
        self.process_all(VecDeque::from([(event, descriptors)]));
    }

    /// A client that cannot be sent to is gone, after what it has said before.
    fn process_all(&mut self, mut events: VecDeque<Happened>) {
        let mut lost = BTreeSet::new();
        // Bounded: further events come once from each client, which is removed by the last of them.
        while let Some((event, descriptors)) = events.pop_front() {
            let gone = if let Event::Gone { client } = event { Some(client) } else { None };
            for action in self.registry.handle(event) {
                if let Err(client) = self.perform(action, &descriptors)
                    && lost.insert(client)
                {
                    events.extend(self.last_words(client));
                    events.push_back((Event::Gone { client }, Vec::new()));
                }
            }
            // Not before: what it has said is passed on with its doorbells and its pidfd.
            if let Some(client) = gone {
                self.close_client(client);
            }
        }
    }

    /// Does one action. The error is the client that could not be reached.
    fn perform(&mut self, action: Action, descriptors: &[Passed]) -> Result<(), ClientId> {
        if self.office.is_superseded {
            return Ok(());
        }
        match action {
            Action::Send { to, message, attachments } => {
                let Some(attached) = self.gather(&attachments, descriptors) else {
                    tracing::warn!(client = to, "a descriptor that should be there is missing");
                    return Ok(());
                };
                if !self.send(to, &message, attached) && self.clients.contains_key(&to) {
                    return Err(to);
                }
            }
            Action::KeepBells { client } => {
                if let Some(entry) = self.clients.get_mut(&client) {
                    entry.bells = descriptors.first().cloned();
                }
            }
            Action::KeepRing { client, publisher } => {
                self.keep_ring(client, publisher, descriptors.first());
            }
            Action::DropRing { publisher } => self.drop_ring(publisher),
            Action::RaiseEpoch { epoch } => {
                // A node has seen a later root. Either the lock file had lost its epoch, or that root is
                // there.
                self.office.look_at_lock();
                if !self.office.is_superseded
                    && let Err(error) = self.office.lock.record(epoch)
                {
                    tracing::warn!(%error, "cannot write to the lock file");
                }
            }
            Action::CutOff { client } => self.close_client(client),
            Action::HandOver { to } => self.hand_over_to = Some(to),
        }
        Ok(())
    }

    fn gather(&self, attachments: &[Attachment], descriptors: &[Passed]) -> Option<Vec<Passed>> {
        let one = |attachment: &Attachment| match attachment {
            Attachment::FromMessage(index) => descriptors.get(*index).cloned(),
            Attachment::BellsOf(client) => self.clients.get(client)?.bells.clone(),
            Attachment::PidfdOf(client) => self.clients.get(client).map(|client| client.pidfd.clone()),
            Attachment::LentRing(publisher) => self.lent.get(publisher).map(|lent| lent.ring.clone()),
            Attachment::LentPidfd(publisher) => self.lent.get(publisher).map(|lent| lent.pidfd.clone()),
        };
        attachments.iter().map(one).collect()
    }

    /// False: the client is not there, does not read or is gone.
    fn send(&mut self, to: ClientId, message: &ToNode, descriptors: Vec<Passed>) -> bool {
        let Some(client) = self.clients.get_mut(&to) else { return false };
        if let Err(error) = encode(message, &mut self.packet) {
            // Everything that goes into a message was bounded when it came in.
            tracing::error!(%error, "a message does not fit into a packet");
            return true;
        }
        let sent = client.queue.send(&client.socket, &self.packet, descriptors);
        self.settle(to, sent)
    }

    fn flush(&mut self, client: ClientId) {
        let Some(entry) = self.clients.get_mut(&client) else { return };
        let flushed = entry.queue.flush(&entry.socket);
        if !self.settle(client, flushed) {
            self.gone(client);
        }
    }

    /// Watches for what the queue of a client waits for. False: the client is lost.
    fn settle(&mut self, client: ClientId, sent: Result<Flushed, SendFailure>) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        let state = match sent {
            Ok(state) => state,
            Err(failure) => {
                tracing::debug!(?failure, pid = entry.pid, "cut off a client");
                return false;
            }
        };
        self.is_short |= state == Flushed::Later;
        let wants_write = state == Flushed::Blocked;
        if wants_write != entry.wants_write {
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, wants_write);
            let token = socket_token(client);
            if self.epoll.modify(entry.socket.as_fd(), &mut EpollEvent::new(flags, token)).is_err() {
                return false;
            }
            entry.wants_write = wants_write;
        }
        true
    }
}

/// Removes the named segments that the dead of this hive left behind; segments without names leave nothing.
#[cfg(feature = "named-segments")]
fn sweep_names(prefix: &str) {
    let swept = hivemind_ring::segment::Named::new(prefix).and_then(|named| named.remove_stale());
    match swept {
        Ok(sweep) if sweep.removed.is_empty() => {}
        Ok(sweep) => tracing::debug!(removed = sweep.removed.len(), "removed the segments of dead nodes"),
        Err(error) => tracing::warn!(%error, "cannot look for the segments of dead nodes"),
    }
}

/// The bounds of the tables in a process with this one's limits.
fn limits() -> Limits {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let lent = (descriptors / LENT_PART / DESCRIPTORS_OF_LENT).min(LENT_MAX);
    Limits { lent: lent as usize, ..Limits::default() }
}

pub(crate) fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}
