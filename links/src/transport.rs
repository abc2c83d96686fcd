//! The seam under a link: an ordered, reliable stream of bytes to a peer, authenticated or not, and nothing
//! more.
//!
//! A transport never blocks: every call does what can be done now and says [`std::io::ErrorKind::WouldBlock`]
//! otherwise. The engine waits at [`Transport::descriptor`]. Whatever is below (plain TCP, TLS, a Unix
//! stream, one day an engine such as zenoh) passes the same conformance test.

mod address;
pub mod plain;
pub mod tls;

pub use address::{Address, AddressError};

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use hivemind_core::link::peering::Peering;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Why a stream was not read or written in time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Nothing came or went for too long. See whether the other host runs, and the network between.
    #[error("the other end does not answer in time; see whether it runs, and the network between")]
    Late,
    /// The stream ended. The log of the other host may say why.
    #[error("the other end closed the connection without a word; its log may say why")]
    Closed,
    /// The system says that the stream is broken. Look at the network.
    #[error("the connection is broken: {0}; look at the network between the hosts")]
    Broken(#[from] io::Error),
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, for people.
    pub address: String,
    /// The name in its certificate; `None`: it proved nothing (plain text), and its name is what it claims.
    pub host: Option<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(formatter, "{host} ({})", self.address),
            None => formatter.write_str(&self.address),
        }
    }
}

/// A stream of bytes to a peer, after whatever handshake it takes.
pub trait Transport: Send {
    /// To be polled: for reading always, for writing while [`Transport::wants_write`].
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// True: bytes that were taken by `write` wait here for the socket.
    fn wants_write(&self) -> bool;

    /// Reads some bytes into these places, in order; 0 is the orderly end. A plain one makes one system call.
    /// As long as the places are filled more may be there although the descriptor is not readable (decrypted
    /// already), and after the handshake, too.
    ///
    /// # Errors
    /// `WouldBlock`, or the stream is broken.
    fn read(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Takes some bytes of the first pieces, in order, and says how many. As few copies as can be: a plain
    /// one makes one system call.
    ///
    /// # Errors
    /// `WouldBlock` when it takes none now, or the stream is broken.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Passes bytes on that wait here.
    ///
    /// # Errors
    /// `WouldBlock` while some are left, or the stream is broken.
    fn flush(&mut self) -> io::Result<()>;

    /// True: what was changed on the way is never read, so a checksum over it would find nothing.
    fn is_tamper_proof(&self) -> bool;

    /// The other end.
    fn peer(&self) -> &Peer;

    /// Ends what is sent, as far as that goes at once: what was written still arrives, then the end. Reading
    /// goes on.
    fn finish(&mut self);

    /// Ends both directions at once; a read at the other end sees it.
    fn close(&mut self);
}

/// Writes everything, and waits for the socket where it has to.
///
/// # Errors
/// The time is over, or the stream is broken.
pub fn write_all(
    transport: &mut dyn Transport,
    mut bytes: &[u8],
    deadline: Instant,
) -> Result<(), StreamError> {
    while !bytes.is_empty() || transport.wants_write() {
        let outcome = if bytes.is_empty() {
            transport.flush().map(|()| 0)
        } else {
            transport.write(&[IoSlice::new(bytes)])
        };
        match outcome {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(transport, true, deadline)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Longest time for a farewell.
const FAREWELL: Duration = Duration::from_millis(200);

/// Says why the connection ends, as far as that goes within moments, and closes it.
pub fn farewell(transport: &mut dyn Transport, reason: &str) {
    close_after(transport, &Peering::farewell(reason));
}

/// Says a last frame, as far as that goes within moments, and closes. What the other end still sends is read
/// until it closes, too: the system would answer it with a reset, which takes away what was said.
pub fn close_after(transport: &mut dyn Transport, last: &[u8]) {
    let deadline = Instant::now() + FAREWELL;
    // Whether it went or not, it is the last.
    let _ = write_all(transport, last, deadline);
    transport.finish();
    let mut nowhere = [0; 4096];
    while Instant::now() < deadline {
        match transport.read(&mut [IoSliceMut::new(&mut nowhere)]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if wait_for(transport, false, deadline).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    transport.close();
}

/// Waits until a stream can be written (or read).
///
/// # Errors
/// The time is over.
pub fn wait_for(transport: &dyn Transport, to_write: bool, deadline: Instant) -> Result<(), StreamError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(StreamError::Late);
    }
    let flags = if to_write || transport.wants_write() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
    let milliseconds = u16::try_from(left.min(Duration::from_millis(100)).as_millis()).unwrap_or(1).max(1);
    // Whatever it says, the next attempt tells.
    let _ = poll(&mut [PollFd::new(transport.descriptor(), flags)], PollTimeout::from(milliseconds));
    Ok(())
}

/// Wakes a thread that waits for connections.
#[derive(Debug)]
pub struct Alarm(EventFd);

impl Alarm {
    /// Not rung yet.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Ends all waits here, and those to come.
    pub fn ring(&self) {
        // Fails only when it rings already.
        let _ = self.0.write(1);
    }

    /// Waits until it rings, or somebody connects.
    pub fn wait_beside(&self, listeners: &[plain::Listener]) {
        let mut wanted = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        wanted.extend(listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        // Whatever it says, the caller looks.
        let _ = poll(&mut wanted, PollTimeout::NONE);
    }
}
