//! The connection to a root: its socket, its queue, and who is at the other end.
use std::os::fd::OwnedFd;
use std::{io, sync::Arc};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::unistd::geteuid;
use rkyv::util::AlignedVec;

use super::{Handle, JoinError};
use crate::root::lock::FileId;
use crate::runtime_dir::RuntimeDir;
use crate::socket::{Flushed, OutQueue, Passed, Peer, QueueBounds, SendFailure, Socket, is_gone};
use hivemind_core::protocol::{Carrier, ToRoot, encode};

/// What may wait for a root that is busy. A root never waits for a node, so this fills only while it is
/// stopped.
const QUEUE: QueueBounds = QueueBounds { packets: 65_536, bytes: 64 << 20, descriptors: 4096 };
/// With so many packets waiting, nothing more is announced or read until the root has caught up.
pub(super) const HIGH_WATER: usize = 256;

/// A connection to a root.
pub(super) struct Link {
    pub(super) socket: Arc<Socket>,
    pub(super) pidfd: OwnedFd,
    /// The root's process as this process sees it.
    pub(super) pid: i32,
    /// What had the socket's name just before it connected.
    pub(super) found: Option<FileId>,
    /// The lock file at that time.
    pub(super) lock: Option<FileId>,
    /// Welcomed.
    pub(super) is_admitted: bool,
    pub(super) is_dedicated: bool,
    /// This node hosts that root.
    pub(super) is_own: bool,
    /// A thread that waits for its answer reads from the socket; the control thread does not.
    pub(super) is_driven: bool,
    queue: OutQueue,
    interest: EpollFlags,
    /// The queue waits for something that no readiness tells.
    pub(super) is_short: bool,
}

/// What came of an attempt to connect.
pub(super) enum Connecting {
    Connected(Link),
    /// Nobody listens, or only the leftovers of the dead.
    Nobody,
    /// Somebody listens, but too many want in at this moment.
    Busy,
    /// The folder or the socket of another user's hive is closed to us.
    Closed,
    Failed(JoinError),
}

impl Link {
    /// Connects to the root of the hive of `owner`: a process of anybody else is none, whatever it says.
    pub(super) fn connect(dir: &RuntimeDir) -> Connecting {
        let (path, owner) = (dir.root_socket(), dir.owner());
        let ourselves = geteuid().as_raw();
        // Before, not after: if the socket is replaced in between, a later look finds another one, and
        // connects once too often.
        let found = FileId::at(path).unwrap_or_default();
        let lock = FileId::at(dir.lock_file()).unwrap_or_default();
        let socket = match Socket::connect(path) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && owner != ourselves => {
                return Connecting::Closed;
            }
            Err(error) => return Link::not_connected(error),
        };
        let peer = match socket.peer() {
            Ok(peer) => peer,
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Connecting::Nobody,
            Err(error) => return Connecting::Failed(JoinError::system("look at the root's process", error)),
        };
        let Peer { pid, user, pidfd, .. } = peer;
        if user != owner {
            return Connecting::Failed(JoinError::Stranger { owner, user });
        }
        // A forked child may keep the socket of a dead root open: then connecting works and nobody ever
        // answers.
        if is_gone(&pidfd) {
            return Connecting::Nobody;
        }
        Connecting::Connected(Link {
            socket: Arc::new(socket),
            pidfd,
            pid,
            found,
            lock,
            is_admitted: false,
            is_dedicated: false,
            is_own: false,
            is_driven: false,
            queue: OutQueue::new(QUEUE),
            interest: EpollFlags::EPOLLIN,
            is_short: false,
        })
    }

    fn not_connected(error: io::Error) -> Connecting {
        match error.raw_os_error().map(Errno::from_raw) {
            // The last two: something else has that name. The lock decides, and the next root replaces it.
            Some(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EPROTOTYPE | Errno::ENOTSOCK) => {
                Connecting::Nobody
            }
            Some(Errno::EAGAIN | Errno::EINTR) => Connecting::Busy,
            _ => Connecting::Failed(JoinError::system("connect to the root", error)),
        }
    }

    pub(super) fn watch(&self, epoll: &Epoll, socket: u64, pidfd: u64) -> io::Result<()> {
        epoll.add(&*self.socket, EpollEvent::new(self.interest, socket))?;
        epoll.add(&self.pidfd, EpollEvent::new(EpollFlags::EPOLLIN, pidfd))?;
        Ok(())
    }

    /// Said explicitly before the link is dropped: a forked child may keep both open.
    pub(super) fn unwatch(&self, epoll: &Epoll) {
        let _ = epoll.delete(&*self.socket);
        let _ = epoll.delete(&self.pidfd);
    }

    /// True: it is the connection with this socket, not a later one.
    pub(super) fn is_over(&self, socket: &Arc<Socket>) -> bool {
        Arc::ptr_eq(&self.socket, socket)
    }

    /// True: whoever wants to send much should wait.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= HIGH_WATER
    }

    /// Sends, or lets wait. The error: this link is lost.
    pub(super) fn send(
        &mut self,
        message: &ToRoot,
        descriptors: Vec<Passed>,
        packet: &mut AlignedVec,
    ) -> Result<(), SendFailure> {
        if let Err(error) = encode(message, packet) {
            // Names, filters and schemas were bounded when they came in, and tables are split.
            tracing::error!(%error, "a message does not fit into a packet");
            return Ok(());
        }
        let sent = self.queue.send(&self.socket, packet, descriptors);
        let state = unless_closed(sent)?;
        self.is_short |= state == Flushed::Later;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), SendFailure> {
        self.is_short = unless_closed(self.queue.flush(&self.socket))? == Flushed::Later;
        Ok(())
    }

    /// Watches for what this link waits for.
    pub(super) fn rearm(&mut self, epoll: &Epoll, token: u64) -> Result<(), SendFailure> {
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, !self.is_full() && !self.is_driven);
        interest.set(EpollFlags::EPOLLOUT, self.queue.len() > 0 && !self.is_short);
        if interest != self.interest {
            epoll
                .modify(&*self.socket, &mut EpollEvent::new(interest, token))
                .map_err(SendFailure::System)?;
            self.interest = interest;
        }
        Ok(())
    }
}

/// A root that has closed may have said why: whoever reads finds that first, and then the end.
fn unless_closed(sent: Result<Flushed, SendFailure>) -> Result<Flushed, SendFailure> {
    match sent {
        Err(SendFailure::Closed) => Ok(Flushed::Empty),
        other => other,
    }
}

/// A handle as it travels.
pub(super) fn carry(handle: Handle) -> (Carrier, Vec<Passed>) {
    match handle {
        Handle::Descriptor(descriptor) => (Carrier::Descriptor, vec![Arc::new(descriptor)]),
        Handle::Name(name) => (Carrier::Named(name), Vec::new()),
    }
}

/// A handle as it arrives. `descriptors` were counted when the message was decoded.
pub(super) fn uncarry(carrier: Carrier, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Handle> {
    match carrier {
        Carrier::Descriptor => descriptors.next().map(Handle::Descriptor),
        Carrier::Named(name) => Some(Handle::Name(name)),
    }
}
