//! The root: which process hosts it, and how it changes hands.
//!
//! ```text
//!            lock taken                         lock taken
//!   (none) ─────────────▶ embedded in a node ◀──────────────┐
//!      ▲                    │            │                  │
//!      │ the process dies   │            │ HandOver         │ the process dies, or is stopped
//!      └────────────────────┘            ▼                  │
//!                                    dedicated (`hm root`) ─┘
//! ```
//!
//! The holder of the lock file is the root; there is no other condition. The holder binds the socket and
//! writes its epoch into the file. Handing over: the dedicated root connects, asks, and the embedded one
//! closes its socket, frees the lock and says so, in this order; nodes that hear of it give the successor a
//! moment before they would take the lock themselves. If a root dies without a word, every node tries the
//! lock, one gets it, and the others find its socket.
//!
//! A root that lives and does not answer (stopped, at a breakpoint, hung) is superseded: whoever waits for it
//! in vain for half of the [`DEFAULT_ROOT_TIMEOUT`] raises a *doubt*, upon which all nodes ask it for a sign
//! of life; when the whole time is over, one that may host takes its place by replacing the lock file
//! (`root/lock.rs`) and the socket, which every node sees, as all watch the folder. The old root ends as soon
//! as it goes on. While nobody waits for anything, nobody asks, and a root that stands still is not noticed.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rkyv::util::AlignedVec;

use crate::runtime_dir::RuntimeDir;
use crate::socket::{OutQueue, Packet, PacketBuffer, QueueBounds, Socket};
use hivemind_core::protocol::{Refusal, ToNode, ToRoot, decode, encode};

mod door;
pub(crate) mod lock;
mod office;
pub(crate) mod server;

use lock::{FileId, RootLock};
use server::{Ended, OpenError, Server};

/// How long a root may keep somebody waiting without a sign of life, unless said otherwise. Then it is
/// superseded.
pub const DEFAULT_ROOT_TIMEOUT: Duration = Duration::from_secs(1);
/// The least that this can be set to; less is taken for this. A busy machine keeps a root from running for
/// some of it.
pub const MIN_ROOT_TIMEOUT: Duration = Duration::from_millis(50);

/// The first and the longest pause between two attempts to get the lock.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How a dedicated root serves.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// How long it may take to get the lock from whoever has it.
    pub patience: Duration,
    /// A root that does not hand over and gives no answer for so long is superseded; at least
    /// [`MIN_ROOT_TIMEOUT`].
    pub root_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions { patience: Duration::from_secs(10), root_timeout: DEFAULT_ROOT_TIMEOUT }
    }
}

/// Ends a root from another thread, or from a signal handler's thread.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<EventFd>);

impl StopHandle {
    /// A handle for one root.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<StopHandle> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(StopHandle(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Ends the root, now or as soon as it serves. May be said more than once.
    pub fn stop(&self) {
        // Fails only when the counter is full, and then it says stop already.
        let _ = self.0.write(1);
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a dedicated root does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// There is a dedicated root already. Use it, or stop it first.
    #[error("process {pid} is a dedicated root of this hive already; use it or stop it first")]
    AlreadyServed {
        /// Its process.
        pid: i32,
    },
    /// The holder of the lock does not hand over. Look at that process; it may be stopped or at a breakpoint.
    #[error(
        "process {pid} holds {lock} and did not hand over within {waited:?}; see whether it is stopped, or end it"
    )]
    Held {
        /// The process, as far as the lock file says; 0 when it says nothing.
        pid: i32,
        /// The lock file.
        lock: String,
        /// How long this was tried.
        waited: Duration,
    },
    /// This process did not answer for so long (it was stopped, or at a breakpoint) that a node took the root
    /// over. Start it again, and it takes over from there in order; if that time is too short for you,
    /// raise `root_timeout` of the nodes.
    #[error(
        "this root did not answer for too long and was superseded by process {pid} (epoch {epoch}); start it again to take over in order"
    )]
    Superseded {
        /// The process that is the root now, as far as the lock file says; 0 when it says nothing.
        pid: i32,
        /// Its epoch.
        epoch: u64,
    },
    /// The root that is there refuses to hand over. Follow its reason.
    #[error("the root refuses to hand over: {refusal}")]
    Refused {
        /// Its reason.
        refusal: String,
    },
    /// The hive belongs to another user, and only that user can host its root. Run it as that user.
    #[error(
        "this hive belongs to user {owner}, and user {user} can never host its root; run it as user {owner}"
    )]
    NotTheOwner {
        /// Whose hive it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// The system refused: for want of memory, descriptors or space, mostly. The message says what gives it
    /// more.
    #[error("cannot {doing}: {error}; {}", crate::remedy::remedy(error))]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Serves a hive as a dedicated root, in the calling thread, until `stop`. An embedded root hands over in
/// order.
///
/// # Errors
/// [`RootError`]; nothing is left running then.
pub fn serve_root(dir: &RuntimeDir, options: ServeOptions, stop: &StopHandle) -> Result<(), RootError> {
    if !dir.is_ours() {
        let user = nix::unistd::geteuid().as_raw();
        return Err(RootError::NotTheOwner { owner: dir.owner(), user });
    }
    let begun = Instant::now();
    let timeout = options.root_timeout.max(MIN_ROOT_TIMEOUT);
    let mut pause = FIRST_PAUSE;
    let mut silent: Option<(FileId, Instant)> = None;
    let system = |doing| move |error| RootError::System { doing, error };
    loop {
        if let Some(lock) = RootLock::try_take(dir).map_err(system("take the lock file"))? {
            return serve(dir, lock, stop);
        }
        let left = options.patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let pid = lock::last_holder(dir).map_or(0, |record| record.pid);
            let lock = dir.lock_file().display().to_string();
            return Err(RootError::Held { pid, lock, waited: begun.elapsed() });
        }
        // Silent is who holds the same lock all the time and answers nothing.
        let holder = FileId::at(dir.lock_file()).map_err(system("look at the lock file"))?;
        silent = holder.map(|holder| match silent {
            Some((same, since)) if same == holder => (same, since),
            _ => (holder, Instant::now()),
        });
        if let Some((holder, since)) = silent
            && since.elapsed() >= timeout
            && let Some(lock) = RootLock::supersede(dir, holder).map_err(system("replace the lock file"))?
        {
            tracing::warn!("the root does not answer; this one supersedes it");
            return serve(dir, lock, stop);
        }
        match ask_for_hand_over(dir, stop, left.min(timeout))? {
            Asked::Stopped => return Ok(()),
            Asked::HandedOver => (pause, silent) = (FIRST_PAUSE, None),
            Asked::Nobody => {
                if wait_for(stop.descriptor(), pause.min(left)) {
                    return Ok(());
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn serve(dir: &RuntimeDir, lock: RootLock, stop: &StopHandle) -> Result<(), RootError> {
    let superseded = || {
        let record = lock::last_holder(dir).unwrap_or_default();
        RootError::Superseded { pid: record.pid, epoch: record.epoch }
    };
    let server = match Server::open(dir, lock, 0, true, stop.clone()) {
        Ok(server) => server,
        Err(OpenError::Superseded) => return Err(superseded()),
        Err(OpenError::System(error)) => return Err(RootError::System { doing: "listen", error }),
    };
    match server.run().map_err(|error| RootError::System { doing: "serve", error })? {
        Ended::Superseded => Err(superseded()),
        ended => {
            debug_assert_eq!(ended, Ended::Stopped, "a dedicated root hands over to nobody");
            Ok(())
        }
    }
}

enum Asked {
    /// The lock is free, or was a moment ago.
    HandedOver,
    /// Nobody answers there (any more).
    Nobody,
    /// We are to stop.
    Stopped,
}

fn ask_for_hand_over(dir: &RuntimeDir, stop: &StopHandle, patience: Duration) -> Result<Asked, RootError> {
    let Ok(socket) = Socket::connect(dir.root_socket()) else { return Ok(Asked::Nobody) };
    let (mut packet, mut buffer) = (AlignedVec::new(), PacketBuffer::new());
    let mut queue = OutQueue::new(QueueBounds { packets: 1, bytes: 1024, descriptors: 0 });
    if encode(&ToRoot::HandOver, &mut packet).is_err() || queue.send(&socket, &packet, Vec::new()).is_err() {
        return Ok(Asked::Nobody);
    }
    let mut wanted =
        [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.descriptor(), PollFlags::POLLIN)];
    match poll(&mut wanted, poll_timeout(patience)) {
        Ok(ready) if ready > 0 => {}
        _ => return Ok(Asked::Nobody),
    }
    if wanted[1].any() == Some(true) {
        return Ok(Asked::Stopped);
    }
    let mut none = Vec::new();
    let Ok(Packet::Message { length, .. }) = socket.receive(&mut buffer, &mut none) else {
        return Ok(Asked::Nobody);
    };
    match decode::<ToNode>(buffer.bytes(length), none.len()) {
        Ok(ToNode::HandedOver) => Ok(Asked::HandedOver),
        Ok(ToNode::Refused { refusal: Refusal::Dedicated { pid }, .. }) => {
            Err(RootError::AlreadyServed { pid })
        }
        Ok(ToNode::Refused { refusal, .. }) => Err(RootError::Refused { refusal: refusal.to_string() }),
        Ok(_) => Ok(Asked::Nobody),
        Err(error) => Err(RootError::Refused { refusal: error.to_string() }),
    }
}

/// True when the descriptor became readable in time.
fn wait_for(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut wanted = [PollFd::new(descriptor, PollFlags::POLLIN)];
    matches!(poll(&mut wanted, poll_timeout(patience)), Ok(ready) if ready > 0)
}

/// Whole milliseconds, rounded up: rounded down, the last fraction would be spent spinning.
pub(crate) fn poll_timeout(patience: Duration) -> PollTimeout {
    let milliseconds = patience.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

/// A root in a thread of this process. Dropped, it closes in order.
#[derive(Debug)]
pub(crate) struct EmbeddedRoot {
    socket: Option<FileId>,
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
    is_running: Arc<AtomicBool>,
}

impl EmbeddedRoot {
    /// Begins to listen and to serve. When this returns, nodes can connect.
    pub(crate) fn start(
        dir: &RuntimeDir,
        lock: RootLock,
        seen_epoch: u64,
    ) -> Result<EmbeddedRoot, OpenError> {
        let stop = StopHandle::new()?;
        let server = Server::open(dir, lock, seen_epoch, false, stop.clone())?;
        let socket = FileId::at(dir.root_socket())?;
        let is_running = Arc::new(AtomicBool::new(true));
        let flag = Running(is_running.clone());
        let thread = thread::Builder::new().name("hm-root".into()).spawn(move || {
            let _flag = flag;
            if let Err(error) = server.run() {
                tracing::error!(%error, "the embedded root ends; another node takes over");
            }
        })?;
        Ok(EmbeddedRoot { socket, stop, thread: Some(thread), is_running })
    }

    /// True when it is this root that listens in this folder now, and not one of another node of this
    /// process.
    ///
    /// # Errors
    /// The system cannot say so now. To take that for a no would be wrong for as long as this root lives.
    pub(crate) fn listens_in(&self, dir: &RuntimeDir) -> io::Result<bool> {
        let socket = FileId::at(dir.root_socket())?;
        Ok(self.is_running() && socket.is_some() && socket == self.socket)
    }

    /// Lets go of a root that does not answer. Its thread ends as soon as it goes on.
    pub(crate) fn abandon(mut self) {
        self.stop.stop();
        self.thread = None;
    }

    /// False once it has handed over, was superseded or failed.
    pub(crate) fn is_running(&self) -> bool {
        // Relaxed: the flag says nothing about other memory.
        self.is_running.load(Ordering::Relaxed)
    }
}

impl Drop for EmbeddedRoot {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
    }
}

/// Cleared however the thread ends.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        // Relaxed: see `EmbeddedRoot::is_running`.
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::name::HiveName;
    use std::fs;

    /// A look at the socket that failed for want of memory, right after a take-over, was taken for "another
    /// root listens there": the node hosted the root and said for ever after that it did not.
    #[test]
    fn a_root_that_cannot_look_at_its_socket_does_not_say_that_another_listens_there() {
        let base = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(base.path(), &HiveName::default()).unwrap();
        let lock = RootLock::try_take(&dir).unwrap().unwrap();
        let root = EmbeddedRoot::start(&dir, lock, 0).unwrap();
        assert!(root.listens_in(&dir).unwrap());
        let away = base.path().join("away");
        fs::rename(dir.path(), &away).unwrap();
        assert!(!root.listens_in(&dir).unwrap(), "nobody listens where there is nothing");
        // A file where the folder was: to look fails, and not because there is nothing.
        fs::write(dir.path(), "").unwrap();
        root.listens_in(&dir).unwrap_err();
        fs::remove_file(dir.path()).unwrap();
        fs::rename(&away, dir.path()).unwrap();
        assert!(root.listens_in(&dir).unwrap());
    }
}
