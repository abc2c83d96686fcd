//! A peer that says what it likes: the other side of the protocol, without the code that obeys it.
#![allow(dead_code)] // Each test binary uses a part of it.
#![allow(unreachable_pub)]

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use hivemind_core::protocol::{Carrier, Message, ToNode, ToRoot, decode, encode};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen,
    sendmsg, socket,
};
use rkyv::util::AlignedVec;

/// One end of a connection.
pub struct Raw(OwnedFd);

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

impl Raw {
    pub fn connect(path: &Path) -> Raw {
        let descriptor = seqpacket();
        connect(descriptor.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Raw(descriptor)
    }

    /// A connection that has said `Hello`.
    pub fn hello(path: &Path, name: &str, node: u64) -> Raw {
        let raw = Raw::connect(path);
        raw.say(&hello(name, node));
        assert!(matches!(raw.hear(), Some(ToNode::Welcome { .. })));
        raw
    }

    pub fn say<M: Message>(&self, message: &M) {
        self.say_with(message, &[]);
    }

    pub fn say_with<M: Message>(&self, message: &M, descriptors: &[RawFd]) {
        let mut packet = AlignedVec::new();
        encode(message, &mut packet).unwrap();
        self.send(&packet, descriptors).unwrap();
    }

    pub fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> nix::Result<usize> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
        let slices = [IoSlice::new(bytes)];
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None)
    }

    /// Waits for the next message; `None`: the other side has closed.
    pub fn hear<M: Message>(&self) -> Option<M> {
        let (mut buffer, mut descriptors) = (AlignedVec::<16>::new(), Vec::new());
        buffer.resize(1 << 16, 0);
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        for _ in 0..2 {
            match hivemind_ring::os::receive(self.0.as_fd(), &mut buffer, &mut descriptors) {
                Ok(received) if received.length == 0 => return None,
                Ok(received) => return Some(decode(&buffer[..received.length], descriptors.len()).unwrap()),
                // A reset is told once, before what is still to be read.
                Err(_) => {}
            }
        }
        None
    }
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for FalseRoot {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

pub fn hello(name: &str, node: u64) -> ToRoot {
    ToRoot::Hello {
        name: name.into(),
        node,
        observer: false,
        external: false,
        rejoin: false,
        hosts_root: false,
        seen_epoch: 0,
        bells: Carrier::Named("bells".into()),
    }
}

/// A root that says what the test likes.
pub struct FalseRoot(UnixListener);

impl FalseRoot {
    pub fn listen(path: &Path) -> FalseRoot {
        let descriptor = seqpacket();
        bind(descriptor.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&descriptor, Backlog::new(16).unwrap()).unwrap();
        FalseRoot(descriptor.into())
    }

    pub fn accept(&self) -> Raw {
        Raw(self.0.accept().unwrap().0.into())
    }
}
