//! Plain TCP and Unix sockets: what everything else runs over, and what a link uses that is told to do
//! without encryption.
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::{libc, setsockopt_impl, sockopt_impl};

use super::{Address, Peer, Transport};

/// Bytes that a TCP socket takes beyond what it has on the way. More would only wait there, grow old, and
/// keep what comes after them waiting.
const UNSENT: u32 = 256 * 1024;

sockopt_impl!(
    /// See tcp(7), `TCP_NOTSENT_LOWAT`.
    UnsentMax,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    u32
);

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, without delay.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects, to each address of a name in turn, at most for `patience` in all.
    ///
    /// # Errors
    /// Why the last of them failed.
    pub fn connect(address: &Address, patience: Duration) -> io::Result<Stream> {
        let begun = Instant::now();
        match address {
            Address::Unix(path) => Stream::of_unix(UnixStream::connect(path)?),
            Address::Tcp { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in Address::resolve(host, *port)? {
                    let left = patience.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    match TcpStream::connect_timeout(&address, left) {
                        Ok(stream) => return Stream::of_tcp(stream),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn of_tcp(stream: TcpStream) -> io::Result<Stream> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        setsockopt(&stream, UnsentMax, &UNSENT)?;
        Ok(Stream::Tcp(stream))
    }

    fn of_unix(stream: UnixStream) -> io::Result<Stream> {
        stream.set_nonblocking(true)?;
        Ok(Stream::Unix(stream))
    }

    /// The address at the other end, for people.
    #[must_use]
    pub fn peer(&self) -> String {
        match self {
            Stream::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "(gone)".to_owned(), |peer| peer.to_string())
            }
            Stream::Unix(_) => "unix socket".to_owned(),
        }
    }

    /// What limits of connections are counted by: the address without its port.
    #[must_use]
    pub fn origin(&self) -> String {
        match self {
            Stream::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| String::new(), |peer| peer.ip().to_string())
            }
            Stream::Unix(_) => "unix".to_owned(),
        }
    }

    /// Ends one direction, or both.
    pub fn shut_down(&self, what: Shutdown) {
        // Closed already is closed.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(what),
            Stream::Unix(stream) => stream.shutdown(what),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read_vectored(into),
            Stream::Unix(stream) => stream.read_vectored(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write_vectored(pieces),
            Stream::Unix(stream) => stream.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Listens on one address.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Listens; each address of a name is one listener.
    ///
    /// # Errors
    /// The address is taken, is not of this machine, or the system refuses.
    pub fn bind(address: &Address) -> io::Result<Vec<Listener>> {
        match address {
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(vec![Listener::Unix(listener)])
            }
            Address::Tcp { host, port } => Address::resolve(host, *port)?
                .into_iter()
                .map(|address| listen_on(address).map(Listener::Tcp))
                .collect(),
        }
    }

    /// Where it listens, with the port that the system has chosen.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |at| at.to_string())
            }
            Listener::Unix(listener) => {
                let path = listener.local_addr().ok().and_then(|at| at.as_pathname().map(Path::to_owned));
                path.map_or_else(|| "unix:".to_owned(), |path| format!("unix:{}", path.display()))
            }
        }
    }

    /// The next connection. Never blocks.
    ///
    /// # Errors
    /// `WouldBlock`: there is none now; otherwise the system refuses.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => Stream::of_tcp(listener.accept()?.0),
            Listener::Unix(listener) => Stream::of_unix(listener.accept()?.0),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a socket without a listener, which is in the way. One with a listener stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && is_dead(path)? {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn is_dead(path: &Path) -> io::Result<bool> {
    let probe = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let address = UnixAddr::new(path)?;
    Ok(matches!(connect(probe.as_raw_fd(), &address), Err(Errno::ECONNREFUSED)))
}

/// A bare socket: unencrypted and unauthenticated.
#[derive(Debug)]
pub struct Plain {
    stream: Stream,
    peer: Peer,
}

impl Plain {
    /// Over this socket.
    #[must_use]
    pub fn new(stream: Stream) -> Plain {
        let peer = Peer { address: stream.peer(), host: None };
        Plain { stream, peer }
    }
}

impl Transport for Plain {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn wants_write(&self) -> bool {
        false
    }

    fn read(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.stream.read_vectored(into)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn is_tamper_proof(&self) -> bool {
        false
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn finish(&mut self) {
        self.stream.shut_down(Shutdown::Write);
    }

    fn close(&mut self) {
        self.stream.shut_down(Shutdown::Both);
    }
}
