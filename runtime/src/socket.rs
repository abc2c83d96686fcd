//! Packets over Unix sockets: one SEQPACKET packet is one message with its descriptors.
//!
//! Nothing here blocks. What cannot be sent at once waits in an [`OutQueue`] with a bound; who exceeds it
//! does not read and is cut off by the caller. Received descriptors are owned before anything else happens,
//! so that every way out of a function closes them. If a process dies, the kernel drops its queues, and
//! descriptors in flight with them.
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use hivemind_ring::os;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    getsockopt, listen, sendmsg, socket,
};
use rkyv::util::AlignedVec;

use hivemind_core::protocol::MAX_PACKET;

/// Connections that may wait to be accepted; more get `EAGAIN` and try again.
const BACKLOG: i32 = 256;

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

/// Who is at the other end, as the kernel says.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: i32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// Readable when the process is gone.
    pub(crate) pidfd: OwnedFd,
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Bytes in the buffer.
    Message {
        length: usize,
        /// The kernel had to drop descriptors.
        descriptors_lost: bool,
    },
    /// Longer than any packet of the protocol.
    TooLong,
    /// Nothing waits.
    Nothing,
    /// The peer has closed.
    Closed,
}

impl Socket {
    /// Connects without waiting. `WouldBlock`: the listener's backlog is full.
    pub(crate) fn connect(path: &Path) -> io::Result<Socket> {
        let descriptor = seqpacket()?;
        connect(descriptor.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Socket(descriptor))
    }

    pub(crate) fn from_descriptor(descriptor: OwnedFd) -> Socket {
        Socket(descriptor)
    }

    /// Who is at the other end: for an accepted socket who connected, for a connected one who listened.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        let credentials = getsockopt(&self.0, PeerCredentials)?;
        let pidfd = match getsockopt(&self.0, PeerPidfd) {
            // Kernels before 6.5 give no pidfd for a socket. The id may be reused between the connect and
            // here; then the first process is gone and its socket says so.
            Err(Errno::ENOPROTOOPT | Errno::EINVAL) => os::open_pidfd(credentials.pid())?,
            other => other?,
        };
        Ok(Peer { pid: credentials.pid(), user: credentials.uid(), group: credentials.gid(), pidfd })
    }

    /// The supplementary groups of who is at the other end.
    pub(crate) fn groups(&self) -> io::Result<Vec<u32>> {
        os::peer_groups(self.0.as_fd())
    }

    /// Takes the next packet; `buffer` is overwritten, descriptors are appended.
    pub(crate) fn receive(
        &self,
        buffer: &mut PacketBuffer,
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<Packet> {
        // Bounded: a reset is reported once, an interrupted call is not repeated by this kernel call more
        // than once.
        for _ in 0..RECEIVE_ATTEMPTS {
            match os::receive(self.0.as_fd(), &mut buffer.0, descriptors) {
                Ok(received) if received.length == 0 => return Ok(Packet::Closed),
                Ok(received) if received.truncated => return Ok(Packet::TooLong),
                Ok(received) => {
                    return Ok(Packet::Message {
                        length: received.length,
                        descriptors_lost: received.descriptors_lost,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Packet::Nothing),
                // The peer closed with packets of ours unread. What it had sent before is still to be read.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Packet::Closed)
    }

    fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
        let slices = [IoSlice::new(bytes)];
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &slices, control, flags, None).map(|_| ())
    }
}

const RECEIVE_ATTEMPTS: usize = 4;

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Binds and listens. The path must be free; the socket can be used by its owner only.
///
/// The listener is the standard library's for its safe `accept`; that it carries packets makes no difference
/// to it.
pub(crate) fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let descriptor = seqpacket()?;
    bind(descriptor.as_raw_fd(), &UnixAddr::new(path)?)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&descriptor, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(descriptor))
}

/// True when the kernel says that the process of this pidfd is gone (a zombie is gone, a stopped process is
/// not).
pub(crate) fn is_gone(pidfd: &impl AsFd) -> bool {
    let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut wanted, PollTimeout::ZERO), Ok(ready) if ready > 0)
}

/// A place for one packet, aligned as its archive needs.
pub(crate) struct PacketBuffer(AlignedVec);

impl PacketBuffer {
    pub(crate) fn new() -> PacketBuffer {
        let mut bytes = AlignedVec::with_capacity(MAX_PACKET);
        bytes.resize(MAX_PACKET, 0);
        PacketBuffer(bytes)
    }

    pub(crate) fn bytes(&self, length: usize) -> &[u8] {
        &self.0[..length]
    }
}

/// A descriptor on its way; several packets may carry the same one.
pub(crate) type Passed = Arc<OwnedFd>;

struct Outgoing {
    bytes: Vec<u8>,
    descriptors: Vec<Passed>,
}

/// How much may wait for one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueBounds {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
    pub(crate) descriptors: usize,
}

/// What waits until the peer reads.
pub(crate) struct OutQueue {
    bounds: QueueBounds,
    packets: VecDeque<Outgoing>,
    bytes: usize,
    descriptors: usize,
}

/// Where the queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is sent.
    Empty,
    /// The peer has to read first; the socket will become writable.
    Blocked,
    /// The kernel is short of something that no readiness tells (descriptors in flight, memory): try again
    /// soon.
    Later,
}

/// Why a peer is cut off.
#[derive(Debug)]
pub(crate) enum SendFailure {
    /// It does not read: this much waits already.
    Overflow,
    /// It is gone.
    Closed,
    /// The system said something else.
    System(Errno),
}

impl OutQueue {
    pub(crate) fn new(bounds: QueueBounds) -> OutQueue {
        OutQueue { bounds, packets: VecDeque::new(), bytes: 0, descriptors: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Sends a packet behind those that wait, or lets it wait. Copies it only when it has to wait.
    pub(crate) fn send(
        &mut self,
        socket: &Socket,
        packet: &[u8],
        descriptors: Vec<Passed>,
    ) -> Result<Flushed, SendFailure> {
        let mut state = Flushed::Blocked;
        if self.packets.is_empty() {
            state = attempt(socket, packet, &descriptors)?;
            if state == Flushed::Empty {
                return Ok(state);
            }
        }
        self.bytes += packet.len();
        self.descriptors += descriptors.len();
        let bounds = self.bounds;
        if self.packets.len() >= bounds.packets
            || self.bytes > bounds.bytes
            || self.descriptors > bounds.descriptors
        {
            return Err(SendFailure::Overflow);
        }
        self.packets.push_back(Outgoing { bytes: packet.to_vec(), descriptors });
        Ok(state)
    }

    /// Sends what waits, as far as the peer reads.
    pub(crate) fn flush(&mut self, socket: &Socket) -> Result<Flushed, SendFailure> {
        while let Some(first) = self.packets.front() {
            let state = attempt(socket, &first.bytes, &first.descriptors)?;
            if state != Flushed::Empty {
                return Ok(state);
            }
            if let Some(sent) = self.packets.pop_front() {
                self.bytes -= sent.bytes.len();
                self.descriptors -= sent.descriptors.len();
            }
        }
        Ok(Flushed::Empty)
    }
}

fn attempt(socket: &Socket, bytes: &[u8], descriptors: &[Passed]) -> Result<Flushed, SendFailure> {
    let mut numbers = [0; os::MAX_DESCRIPTORS];
    for (place, descriptor) in numbers.iter_mut().zip(descriptors) {
        *place = descriptor.as_raw_fd();
    }
    match socket.send(bytes, &numbers[..descriptors.len()]) {
        Ok(()) => Ok(Flushed::Empty),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Flushed::Blocked),
        Err(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => Ok(Flushed::Later),
        Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(SendFailure::Closed),
        Err(error) => Err(SendFailure::System(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;

    fn pair() -> (Socket, Socket) {
        let (first, second) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Socket(first), Socket(second))
    }

    const BOUNDS: QueueBounds = QueueBounds { packets: 1000, bytes: 1 << 20, descriptors: 10 };

    #[test]
    fn what_a_slow_peer_does_not_read_waits_in_order_and_up_to_the_bound() {
        let (here, there) = pair();
        let mut queue = OutQueue::new(BOUNDS);
        let mut sent = 0u32;
        let failure = loop {
            match queue.send(&here, &sent.to_le_bytes(), Vec::new()) {
                Ok(_) => sent += 1,
                Err(failure) => break failure,
            }
        };
        assert!(matches!(failure, SendFailure::Overflow));
        assert_eq!(queue.len(), 1000);
        let (mut buffer, mut none, mut next) = (PacketBuffer::new(), Vec::new(), 0u32);
        while next < sent {
            match there.receive(&mut buffer, &mut none).unwrap() {
                Packet::Message { length, .. } => {
                    assert_eq!(buffer.bytes(length), next.to_le_bytes());
                    next += 1;
                }
                Packet::Nothing => drop(queue.flush(&here).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(queue.flush(&here).unwrap(), Flushed::Empty);
    }

    #[test]
    fn what_was_sent_before_a_close_is_read_also_after_a_reset() {
        let (here, there) = pair();
        let mut queue = OutQueue::new(BOUNDS);
        queue.send(&here, b"last words", Vec::new()).unwrap();
        OutQueue::new(BOUNDS).send(&there, b"unread", Vec::new()).unwrap();
        drop(here);
        let (mut buffer, mut none) = (PacketBuffer::new(), Vec::new());
        let packet = there.receive(&mut buffer, &mut none).unwrap();
        assert_eq!(packet, Packet::Message { length: 10, descriptors_lost: false });
        assert_eq!(there.receive(&mut buffer, &mut none).unwrap(), Packet::Closed);
    }

    #[test]
    fn the_kernel_says_who_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = listen_at(&path).unwrap();
        let here = Socket::connect(&path).unwrap();
        let there = Socket::from_descriptor(listener.accept().unwrap().0.into());
        for socket in [&here, &there] {
            let peer = socket.peer().unwrap();
            assert_eq!(peer.pid, std::process::id() as i32);
            assert_eq!(peer.user, nix::unistd::geteuid().as_raw());
            assert!(!is_gone(&peer.pidfd));
        }
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = os::open_pidfd(child.id() as i32).unwrap();
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        assert!(is_gone(&pidfd));
        child.wait().unwrap();
        assert!(is_gone(&pidfd));
    }
}
