//! ipc-channel: its channel of bytes. Every receive allocates, and every message goes through the kernel.

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel};
use rivals_course::case::Task;
use rivals_course::contender::{Contender, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Part, SMALL};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::spin_for;

/// What the peer sends to the parent first: where to send to, where to receive from.
type Offer = (IpcBytesSender, IpcBytesReceiver);

struct IpcChannel;

impl Contender for IpcChannel {
    const NAME: &'static str = "ipc-channel";
    type Link = Ends;

    fn version() -> String {
        "0.23.1".to_owned()
    }

    fn setup() -> &'static str {
        "a bytes channel each way; try_recv in a loop, recv in the blocking case; large messages through the same channel"
    }

    fn waits(task: Task) -> Waits {
        match task {
            Task::RoundTrip { asleep: true, .. } => Waits::Blocks,
            _ => Waits::PollsTheKernel,
        }
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::OneWay { batched: true, .. } => Some("one message a call"),
            Task::FanOut { .. } => Some("one receiver a channel"),
            Task::Services { .. } => Some("no services: channels are handed on by the user"),
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let (server, name) = IpcOneShotServer::<Offer>::new()?;
        launch.launch(&name)?;
        let (_, (sender, receiver)) = server.accept().map_err(rival)?;
        Ok(Ends::new(sender, receiver, run.task))
    }

    fn peer(run: &Run, offer: &str) -> Result<Ends> {
        let hello = IpcSender::<Offer>::connect(offer.to_owned())?;
        let (their_sender, receiver) = bytes_channel()?;
        let (sender, their_receiver) = bytes_channel()?;
        hello.send((their_sender, their_receiver)).map_err(rival)?;
        Ok(Ends::new(sender, receiver, run.task))
    }

    fn cold_start(run: &Run, _: &str, round: u64) -> Result<Keep> {
        let (sender, receiver) = bytes_channel()?;
        let mut ends = Ends::new(sender, receiver, run.task);
        ends.asleep = true;
        ends.send_numbered(SMALL, Part::Small, round, 0)?;
        let found = ends.receive_small()?.number;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new(ends))
    }
}

struct Ends {
    sender: IpcBytesSender,
    receiver: IpcBytesReceiver,
    buffer: Vec<u8>,
    asleep: bool,
}

impl Ends {
    fn new(sender: IpcBytesSender, receiver: IpcBytesReceiver, task: Task) -> Ends {
        let asleep = matches!(task, Task::RoundTrip { asleep: true, .. });
        Ends { sender, receiver, buffer: vec![0; task.bytes()], asleep }
    }
}

impl Link for Ends {
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        fill(&mut self.buffer[..bytes]);
        Ok(self.sender.send(&self.buffer[..bytes])?)
    }

    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if self.asleep {
            return Ok(read(&self.receiver.recv().map_err(rival)?));
        }
        let bytes = spin_for(
            || match self.receiver.try_recv() {
                Ok(bytes) => Ok(Some(bytes)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(error) => Err(rival(error)),
            },
            "a message",
        )?;
        Ok(read(&bytes))
    }
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<IpcChannel>()])
}
