//! ZeroMQ over `ipc://`: PAIR sockets, and XPUB with SUB for the fan-out.
//!
//! Its I/O threads share the cores of the two processes, as everything here does; an end that spun would take
//! the core from its own I/O thread. So all ends block, which is also what its guide shows.

use rivals_course::case::Task;
use rivals_course::contender::{Contender, Drain, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Part, SMALL, read};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::PATIENCE;
use zmq::{Context, DONTWAIT, Message, Socket, SocketType};

/// Messages that may wait on either side.
const HIGH_WATER: i32 = 10_000;
/// Bytes of large messages that may wait on either side.
const LARGE_BYTES: usize = 16 << 20;
/// How long the audience waits for anything.
const LOOK_MS: i64 = 1;

struct ZeroMq;

impl Contender for ZeroMq {
    const NAME: &'static str = "zeromq";
    type Link = Ends;

    fn version() -> String {
        let (major, minor, patch) = zmq::version();
        format!("libzmq {major}.{minor}.{patch} (zmq 0.10.0)")
    }

    fn setup() -> &'static str {
        "PAIR sockets over ipc://, one I/O thread each on the core of its process, blocking receive (a spinning end would \
         starve its own I/O thread); high-water marks of 10,000 messages (16 MiB of large ones); XPUB and SUB for the fan-out"
    }

    fn waits(_: Task) -> Waits {
        Waits::Blocks
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::OneWay { batched: true, .. } => Some("it batches by itself, one message a call"),
            Task::Services { .. } => Some("no services: endpoints are addresses that the user knows"),
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let context = Context::new();
        if let Task::FanOut { subscribers, .. } = run.task {
            let socket = socket(&context, SocketType::XPUB, run.task)?;
            socket.set_xpub_verbose(true).map_err(rival)?;
            socket.bind(&endpoint(run)).map_err(rival)?;
            launch.launch("")?;
            for _ in 0..subscribers {
                let _subscription = socket.recv_bytes(0).map_err(rival)?;
            }
            return Ok(Ends::new(socket, context, run.task));
        }
        let socket = socket(&context, SocketType::PAIR, run.task)?;
        socket.bind(&endpoint(run)).map_err(rival)?;
        launch.launch("")?;
        Ok(Ends::new(socket, context, run.task))
    }

    fn peer(run: &Run, _: &str) -> Result<Ends> {
        let context = Context::new();
        let socket = socket(&context, SocketType::PAIR, run.task)?;
        socket.connect(&endpoint(run)).map_err(rival)?;
        Ok(Ends::new(socket, context, run.task))
    }

    fn audience(run: &Run, _: &str, subscribers: usize) -> Result<Drain> {
        let context = Context::new();
        let mut audience = Vec::new();
        for _ in 0..subscribers {
            let socket = socket(&context, SocketType::SUB, run.task)?;
            socket.connect(&endpoint(run)).map_err(rival)?;
            socket.set_subscribe(b"").map_err(rival)?;
            audience.push(socket);
        }
        let mut message = Message::new();
        Ok(Box::new(move |take| {
            let mut items: Vec<_> = audience.iter().map(|socket| socket.as_poll_item(zmq::POLLIN)).collect();
            zmq::poll(&mut items, LOOK_MS).map_err(rival)?;
            let readable: Vec<bool> = items.iter().map(zmq::PollItem::is_readable).collect();
            for (index, socket) in audience.iter().enumerate().filter(|(index, _)| readable[*index]) {
                while socket.recv(&mut message, DONTWAIT).is_ok() {
                    take(index, read(&message, Part::Small));
                }
            }
            Ok(())
        }))
    }

    fn cold_start(run: &Run, _: &str, round: u64) -> Result<Keep> {
        let endpoint = format!("ipc://{}", run.room.join(format!("cold-{round}")).display());
        let context = Context::new();
        let theirs = socket(&context, SocketType::PAIR, run.task)?;
        theirs.bind(&endpoint).map_err(rival)?;
        let mine = socket(&context, SocketType::PAIR, run.task)?;
        mine.connect(&endpoint).map_err(rival)?;
        let mut mine = Ends::new(mine, context.clone(), run.task);
        let mut theirs = Ends::new(theirs, context, run.task);
        mine.send_numbered(SMALL, Part::Small, round, 0)?;
        let found = theirs.receive_small()?.number;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new((mine, theirs)))
    }
}

fn endpoint(run: &Run) -> String {
    format!("ipc://{}", run.room.join("socket").display())
}

fn socket(context: &Context, kind: SocketType, task: Task) -> Result<Socket> {
    let socket = context.socket(kind).map_err(rival)?;
    let messages = ((LARGE_BYTES / task.bytes()) as i32).clamp(4, HIGH_WATER);
    socket.set_sndhwm(messages).map_err(rival)?;
    socket.set_rcvhwm(messages).map_err(rival)?;
    socket.set_linger(0).map_err(rival)?;
    let patience = PATIENCE.as_millis() as i32;
    socket.set_rcvtimeo(patience).map_err(rival)?;
    socket.set_sndtimeo(patience).map_err(rival)?;
    Ok(socket)
}

/// Drop order: the socket before its context.
struct Ends {
    socket: Socket,
    message: Message,
    buffer: Vec<u8>,
    _context: Context,
}

impl Ends {
    fn new(socket: Socket, context: Context, task: Task) -> Ends {
        Ends { socket, message: Message::new(), buffer: vec![0; task.bytes()], _context: context }
    }
}

impl Link for Ends {
    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        fill(&mut self.buffer[..bytes]);
        self.socket.send(&self.buffer[..bytes], 0).map_err(rival)
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.socket.recv(&mut self.message, 0).map_err(rival)?;
        Ok(read(&self.message))
    }
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<ZeroMq>()])
}
