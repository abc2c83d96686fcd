//! What the kernel itself offers: a pipe, a Unix stream socket, and TCP over loopback. All are streams, so
//! all run through [`Stream`].
//!
//! Where the case lets both ends spin, reads and writes do not block and are repeated: two cores are there,
//! and a sleeping side would be woken for more than the whole transfer costs. In the blocking case both
//! block.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::Mode;
use rivals_course::case::Task;
use rivals_course::contender::{Contender, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Part, SMALL, Seen, fill, read};
use rivals_course::waiting::spin_for;

/// The most the kernel gives without privileges; more would not help.
const PIPE_BYTES: i32 = 1 << 20;
/// Asked for; the kernel gives what its limit allows.
const SOCKET_BYTES: usize = 1 << 20;
/// Small messages in one write.
const BATCH: usize = 64;
/// The least a receiver asks for at once.
const READ_BYTES: usize = 64 << 10;

fn waits(task: Task) -> Waits {
    match task {
        Task::RoundTrip { asleep: true, .. } => Waits::Blocks,
        _ => Waits::PollsTheKernel,
    }
}

fn refuses(task: Task) -> Option<&'static str> {
    match task {
        Task::FanOut { .. } => Some("one reader each: the sender would write once for every subscriber"),
        Task::Services { .. } => Some("no services"),
        _ => None,
    }
}

pub(crate) struct Pipe;

impl Contender for Pipe {
    const NAME: &'static str = "pipe";
    type Link = Stream<File>;

    fn version() -> String {
        "the kernel's".to_owned()
    }

    fn setup() -> &'static str {
        "one FIFO each way of 1 MiB (F_SETPIPE_SZ); not blocking and repeated, but in the blocking case; the receiver \
         reads 64 KiB or one message at once, whichever is more; batches of 64 messages a write"
    }

    fn waits(task: Task) -> Waits {
        waits(task)
    }

    fn refuses(task: Task) -> Option<&'static str> {
        refuses(task)
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Stream<File>> {
        for name in ["ping", "pong"] {
            nix::unistd::mkfifo(&run.room.join(name), Mode::S_IRUSR | Mode::S_IWUSR).map_err(rival)?;
        }
        let (write, read) = (fifo(&run.room.join("ping"))?, fifo(&run.room.join("pong"))?);
        launch.launch("")?;
        Stream::over(write, read, run)
    }

    fn peer(run: &Run, _: &str) -> Result<Stream<File>> {
        let (read, write) = (fifo(&run.room.join("ping"))?, fifo(&run.room.join("pong"))?);
        Stream::over(write, read, run)
    }

    fn cold_start(_: &Run, _: &str, round: u64) -> Result<Keep> {
        let (mut read, mut write) = std::io::pipe()?;
        first_message(&mut read, &mut write, round)?;
        Ok(Box::new((read, write)))
    }
}

/// Opened for both, so that neither end waits for the other to open it.
fn fifo(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // Refused where the administrator allows less: the default size then remains.
    let _size = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok(file)
}

pub(crate) struct UnixSocket;

impl Contender for UnixSocket {
    const NAME: &'static str = "unix stream";
    type Link = Stream<UnixStream>;

    fn version() -> String {
        "the kernel's".to_owned()
    }

    fn setup() -> &'static str {
        "one stream socket, send and receive buffers of 1 MiB asked for (the kernel's limit may give less); not blocking \
         and repeated, but in the blocking case; reads and batches as for the pipe"
    }

    fn waits(task: Task) -> Waits {
        waits(task)
    }

    fn refuses(task: Task) -> Option<&'static str> {
        refuses(task)
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Stream<UnixStream>> {
        let listener = UnixListener::bind(run.room.join("socket"))?;
        launch.launch("")?;
        let (socket, _) = listener.accept()?;
        Stream::over(socket.try_clone()?, socket, run)
    }

    fn peer(run: &Run, _: &str) -> Result<Stream<UnixStream>> {
        let socket = UnixStream::connect(run.room.join("socket"))?;
        Stream::over(socket.try_clone()?, socket, run)
    }

    fn cold_start(run: &Run, _: &str, round: u64) -> Result<Keep> {
        let path = run.room.join(format!("cold-{round}"));
        let listener = UnixListener::bind(&path)?;
        let mut write = UnixStream::connect(&path)?;
        let (mut read, _) = listener.accept()?;
        first_message(&mut read, &mut write, round)?;
        Ok(Box::new((listener, read, write)))
    }
}

/// TCP, which links to other hosts use.
pub(crate) struct Tcp;

impl Contender for Tcp {
    const NAME: &'static str = "tcp";
    type Link = Stream<TcpStream>;

    fn version() -> String {
        "the kernel's".to_owned()
    }

    fn setup() -> &'static str {
        "one connection over loopback, without delay, buffers as the kernel sizes them; blocking, as everything over TCP here; reads and \
         batches as for the pipe"
    }

    fn waits(_: Task) -> Waits {
        Waits::Blocks
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::ColdStart => Some("no services"),
            _ => refuses(task),
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Stream<TcpStream>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        launch.launch(&listener.local_addr()?.to_string())?;
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        Stream::new(socket.try_clone()?, socket, run.task.bytes())
    }

    fn peer(run: &Run, offer: &str) -> Result<Stream<TcpStream>> {
        let socket = TcpStream::connect(offer)?;
        socket.set_nodelay(true)?;
        Stream::new(socket.try_clone()?, socket, run.task.bytes())
    }
}

fn first_message(from: &mut impl Read, to: &mut impl Write, round: u64) -> Result<()> {
    let mut bytes = [0; SMALL];
    fill(&mut bytes, Part::Small, round, 0);
    to.write_all(&bytes)?;
    let mut found = [0; SMALL];
    from.read_exact(&mut found)?;
    if found == bytes { Ok(()) } else { Err(Failure::Mixed { expected: round, found: u64::MAX }) }
}

/// What both kinds have in common.
pub(crate) trait Descriptor: Read + Write + AsFd + AsRawFd {
    fn widen(&self);
}

impl Descriptor for File {
    fn widen(&self) {}
}

impl Descriptor for UnixStream {
    fn widen(&self) {
        // Capped by the kernel's limit, which needs no answer.
        let _send = setsockopt(self, sockopt::SndBuf, &SOCKET_BYTES);
        let _receive = setsockopt(self, sockopt::RcvBuf, &SOCKET_BYTES);
    }
}

/// Messages of one length over a stream of bytes.
pub(crate) struct Stream<D> {
    write: D,
    read: D,
    bytes: usize,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// `incoming[start..end]` has been received and not yet read.
    start: usize,
    end: usize,
}

impl Descriptor for TcpStream {
    fn widen(&self) {}
}

impl<D: Descriptor> Stream<D> {
    fn over(write: D, read: D, run: &Run) -> Result<Stream<D>> {
        if waits(run.task) != Waits::Blocks {
            fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(rival)?;
            fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(rival)?;
        }
        write.widen();
        Stream::new(write, read, run.task.bytes())
    }

    /// As the descriptors are.
    fn new(write: D, read: D, bytes: usize) -> Result<Stream<D>> {
        Ok(Stream {
            write,
            read,
            bytes,
            outgoing: vec![0; bytes.max(SMALL * BATCH)],
            incoming: vec![0; bytes.max(READ_BYTES)],
            start: 0,
            end: 0,
        })
    }

    #[inline(always)]
    fn write(&mut self, length: usize) -> Result<()> {
        let mut written = 0;
        while written < length {
            let rest = &self.outgoing[written..length];
            written += spin_for(|| progress(self.write.write(rest)), "room in the kernel's buffer")?;
        }
        Ok(())
    }

    /// Waits until `length` bytes are there.
    #[inline(always)]
    fn read(&mut self, length: usize) -> Result<()> {
        if self.end - self.start >= length {
            return Ok(());
        }
        self.incoming.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < length {
            let room = &mut self.incoming[self.end..];
            self.end += spin_for(|| progress(self.read.read(room)), "bytes from the kernel")?;
        }
        Ok(())
    }
}

#[inline(always)]
fn progress(result: std::io::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(0) => Err(Failure::Rival("the other side closed its end".to_owned())),
        Ok(some) => Ok(Some(some)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl<D: Descriptor> Link for Stream<D> {
    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        fill(&mut self.outgoing[..bytes]);
        self.write(bytes)
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.read(self.bytes)?;
        let found = read(&self.incoming[self.start..self.start + self.bytes]);
        self.start += self.bytes;
        Ok(found)
    }

    fn batch(&self) -> Option<u64> {
        Some(BATCH as u64)
    }

    #[inline(always)]
    fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
        for (number, place) in (first..).zip(self.outgoing[..SMALL * BATCH].chunks_exact_mut(SMALL)) {
            let mark = if number + 1 == first + BATCH as u64 { mark } else { 0 };
            fill(place, Part::Small, number, mark);
        }
        self.write(SMALL * BATCH)
    }

    #[inline(always)]
    fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
        self.read(SMALL)?;
        let there = (self.end - self.start) / SMALL * SMALL;
        for place in self.incoming[self.start..self.start + there].chunks_exact(SMALL) {
            take(read(place, Part::Small))?;
        }
        self.start += there;
        Ok(())
    }
}
