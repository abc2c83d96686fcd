//! Strangers on both sides of the root's socket, who send what they like.

use crate::BOUND;
use hivemind_core::protocol::{self, Carrier, MAX_PACKET, ToNode, ToRoot};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv,
    sendmsg, socket,
};
use rkyv::util::AlignedVec;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A connection to a root.
#[derive(Debug)]
pub struct Stranger {
    socket: OwnedFd,
}

/// What the root did with the stranger in the end.
#[derive(Debug)]
pub struct Verdict {
    /// What it said, in order.
    pub said: Vec<ToNode>,
    /// Whether it closed the connection; otherwise the connection still stands.
    pub closed: bool,
}

impl Stranger {
    /// Connects to the root of the default hive in this runtime directory.
    pub fn connect(folder: &Path) -> Stranger {
        let path = folder.join("default/root.sock");
        let socket =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        connect(socket.as_raw_fd(), &UnixAddr::new(&path).expect("a short path")).expect("the root listens");
        Stranger { socket }
    }

    /// Sends a packet with descriptors. What the kernel says when the root has closed already is returned.
    pub fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
        let slices = [IoSlice::new(packet)];
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }

    /// Sends a packet that the root does not take all of at once, if it fits; returns whether it did.
    pub fn send_at_once(&self, packet: &[u8]) -> Result<(), Errno> {
        let slices = [IoSlice::new(packet)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &slices, &[], flags, None).map(drop)
    }

    /// Reads the next packet, at most for [`BOUND`]; `None` when the root has closed.
    pub fn hear(&self) -> Option<ToNode> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let waiting = PollTimeout::try_from(BOUND).expect("a minute");
        assert!(poll(&mut ready, waiting).expect("a socket") > 0, "the root neither answers nor closes");
        let mut packet = AlignedVec::<16>::new();
        packet.resize(MAX_PACKET, 0);
        // A reset is told before what was said ahead of it. Descriptors that come along are dropped by the
        // kernel, since there is no room for them.
        let length = match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Err(Errno::ECONNRESET) => recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()),
            other => other,
        };
        let length = length.expect("receiving from the root");
        if length == 0 {
            return None;
        }
        Some(
            protocol::decode_unaccompanied::<ToNode>(&packet[..length])
                .expect("the root speaks the protocol"),
        )
    }

    /// As [`Stranger::hear`], with the descriptors that came along.
    pub fn hear_with_descriptors(&self) -> Option<(ToNode, Vec<OwnedFd>)> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let waiting = PollTimeout::try_from(BOUND).expect("a minute");
        assert!(poll(&mut ready, waiting).expect("a socket") > 0, "the root neither answers nor closes");
        let (mut packet, mut descriptors) = (AlignedVec::<16>::new(), Vec::new());
        packet.resize(MAX_PACKET, 0);
        let mut receive = || hivemind_ring::os::receive(self.socket.as_fd(), &mut packet, &mut descriptors);
        // A reset is told before what was said ahead of it.
        let length = receive().or_else(|_| receive()).expect("receiving from the root").length;
        let said = protocol::decode_unaccompanied::<ToNode>(&packet[..length]);
        (length > 0).then(|| (said.expect("the root speaks the protocol"), descriptors))
    }

    /// Listens until the root closes the connection.
    pub fn hear_out(&self) -> Vec<ToNode> {
        let mut said = Vec::new();
        while let Some(message) = self.hear() {
            said.push(message);
            assert!(said.len() < 10_000, "the root does not stop talking");
        }
        said
    }
}

/// A packet of the protocol.
pub fn packet<M: protocol::Message>(message: &M) -> AlignedVec<16> {
    let mut packet = AlignedVec::new();
    protocol::encode(message, &mut packet).expect("it fits into a packet");
    packet
}

impl Stranger {
    /// Connects and joins as a node of this name and epoch; from here on it may lie.
    pub fn join(folder: &Path, name: &str, node: u64, bells: BorrowedFd<'_>) -> Stranger {
        let stranger = Stranger::connect(folder);
        stranger.send(&packet(&hello(name, node)), &[bells]).expect("the root listens");
        let answer = stranger.hear();
        assert!(matches!(answer, Some(ToNode::Welcome { .. })), "{answer:?}");
        stranger
    }

    /// Listens until the root says what is waited for.
    pub fn hear_until<T>(&self, mut wanted: impl FnMut(&ToNode) -> Option<T>) -> T {
        loop {
            let message = self.hear().expect("the root did not close");
            if let Some(found) = wanted(&message) {
                return found;
            }
        }
    }
}

/// What a node says first.
pub fn hello(name: &str, node: u64) -> ToRoot {
    ToRoot::Hello {
        name: name.to_owned(),
        node,
        observer: false,
        external: false,
        rejoin: false,
        hosts_root: false,
        seen_epoch: 0,
        bells: Carrier::Descriptor,
    }
}

/// A program that sits where the root of a hive should, and answers everybody the same.
#[derive(Debug)]
pub struct FakeRoot {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl FakeRoot {
    /// Listens in this runtime directory; hears each visitor's first packet, answers with these, and then
    /// closes or, if `mute` says so, stays.
    pub fn listen(folder: &Path, answers: Vec<Vec<u8>>, mute: bool) -> FakeRoot {
        let path = folder.join("default/root.sock");
        std::fs::create_dir_all(folder.join("default")).expect("a folder of our own");
        std::fs::set_permissions(folder.join("default"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("it is ours");
        let _ = std::fs::remove_file(&path);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).expect("a short path")).expect("the path is free");
        nix::sys::socket::listen(&listener, Backlog::new(8).expect("few")).expect("it is bound");
        let listener = UnixListener::from(listener);
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut visitors = Vec::new();
            let mut count = 0;
            // Relaxed: a wish to end; nothing is ordered by it.
            while !ended.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                let waiting = PollTimeout::try_from(5).expect("milliseconds");
                if !matches!(poll(&mut ready, waiting), Ok(1..)) {
                    continue;
                }
                let Ok((visitor, _)) = listener.accept() else { continue };
                count += 1;
                let visitor = Stranger { socket: visitor.into() };
                let _ = recv(visitor.socket.as_raw_fd(), &mut [0; MAX_PACKET], MsgFlags::empty());
                for answer in &answers {
                    let _ = visitor.send(answer, &[]);
                }
                if mute {
                    visitors.push(visitor);
                }
            }
            count
        });
        FakeRoot { end, thread: Some(thread) }
    }

    /// Ends it. Returns how many visitors it had.
    pub fn end(mut self) -> usize {
        self.finish().expect("it ran")
    }

    fn finish(&mut self) -> Option<usize> {
        // Relaxed: see above.
        self.end.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for FakeRoot {
    fn drop(&mut self) {
        self.finish();
    }
}
