//! What makes a process the root: the lock file, the socket, the door, and how it notices that another
//! process has taken them over.
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use hivemind_core::policy::Policy;
use hivemind_ring::os::{Kept, keep_from_children};
use nix::errno::Errno;

use super::door::Door;
use super::lock::{FileId, RootLock};
use crate::runtime_dir::RuntimeDir;
use crate::socket::listen_at;

/// A root that did nothing for so long looks whether it still is the root. Far less than
/// [`MIN_ROOT_TIMEOUT`], after which it may not be.
///
/// [`MIN_ROOT_TIMEOUT`]: super::MIN_ROOT_TIMEOUT
const LOOK_AFTER: Duration = Duration::from_millis(10);
/// How often the name of a new socket may be taken away before it is renamed. Only those do who are about to
/// be superseded.
const BIND_ATTEMPTS: usize = 8;

/// How a root ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its owner wanted it so.
    Stopped,
    /// A dedicated root takes over.
    HandedOver,
    /// It did not answer for so long that another process took over.
    Superseded,
}

/// Why a root does not begin.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The lock was taken, and another process has superseded it already.
    Superseded,
    System(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::System(error)
    }
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> OpenError {
        OpenError::System(error.into())
    }
}

/// See the head of the module.
pub(super) struct Office {
    pub(super) dir: RuntimeDir,
    // The order of these two is the order of an unordered end: nobody connects any more, then the lock is
    // free.
    listener: Kept<UnixListener>,
    pub(super) lock: RootLock,
    /// The socket that it listens on.
    socket: FileId,
    /// When it last was at work.
    seen: Instant,
    pub(super) is_superseded: bool,
    pub(super) is_listening: bool,
    /// Closed for a moment to accept and refuse a connection when there are no descriptors left.
    spare: Option<OwnedFd>,
    pub(super) door: Door,
}

impl Office {
    /// Binds the socket; and the policy in force.
    pub(super) fn open(dir: &RuntimeDir, lock: RootLock) -> Result<(Office, Policy), OpenError> {
        let (door, policy) = Door::open(dir);
        let (listener, socket) = bind(dir, &lock, &door)?;
        let office = Office {
            dir: dir.clone(),
            listener: keep_from_children(listener),
            lock,
            socket,
            seen: Instant::now(),
            is_superseded: false,
            is_listening: true,
            spare: spare_descriptor(),
            door,
        };
        Ok((office, policy))
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(super) fn look_after_standstill(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.seen) >= LOOK_AFTER {
            self.look_at_lock();
        }
        self.seen = now;
    }

    pub(super) fn look_at_lock(&mut self) {
        match self.lock.is_in_force(&self.dir) {
            Ok(is_in_force) => self.is_superseded |= !is_in_force,
            // To give up would leave the hive without a root; to go on introduces at worst somebody twice.
            Err(error) => tracing::warn!(%error, "cannot look at the lock file"),
        }
    }

    /// Whether another socket is in the place of this root's, while its lock is in force: a process that was
    /// superseded while it began has put it there, or a person has removed this one.
    pub(super) fn has_to_bind_anew(&mut self) -> bool {
        self.look_at_lock();
        let is_ours = FileId::at(self.dir.root_socket()).map_or(true, |found| found == Some(self.socket));
        !self.is_superseded && !is_ours
    }

    /// Listens on a new socket, if that can be watched.
    pub(super) fn bind_anew(&mut self, watch: impl FnOnce(&UnixListener) -> Result<(), Errno>) {
        match bind(&self.dir, &self.lock, &self.door) {
            Ok((listener, socket)) => {
                if let Err(error) = watch(&listener) {
                    return tracing::error!(%error, "cannot watch the new socket");
                }
                (self.listener, self.socket, self.is_listening) =
                    (keep_from_children(listener), socket, true);
            }
            Err(OpenError::Superseded) => self.is_superseded = true,
            Err(OpenError::System(error)) => tracing::error!(%error, "cannot listen anew"),
        }
    }

    /// Gives the spare descriptor up. False: there was none.
    pub(super) fn take_spare(&mut self) -> bool {
        self.spare.take().is_some()
    }

    /// Whether there is a spare descriptor, after an attempt to get one.
    pub(super) fn has_spare(&mut self) -> bool {
        self.spare = self.spare.take().or_else(spare_descriptor);
        self.spare.is_some()
    }
}

/// Binds the socket under another name and then renames it, so that a stale one is no obstacle and nobody
/// ever connects to one that does not listen yet.
fn bind(dir: &RuntimeDir, lock: &RootLock, door: &Door) -> Result<(UnixListener, FileId), OpenError> {
    for _ in 0..BIND_ATTEMPTS {
        remove_if_there(dir.new_socket())?;
        let listener = listen_at(dir.new_socket())?;
        let Some(socket) = FileId::at(dir.new_socket())? else { continue };
        if door.admits_others() {
            door.set_socket(dir.new_socket());
        }
        if !lock.is_in_force(dir)? {
            remove_if_there(dir.new_socket())?;
            return Err(OpenError::Superseded);
        }
        match fs::rename(dir.new_socket(), dir.root_socket()) {
            Ok(()) => {}
            // Taken away by a process that is about to find itself superseded, or by the one that supersedes
            // this one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        if FileId::at(dir.root_socket())? == Some(socket) {
            return Ok((listener, socket));
        }
    }
    Err(io::Error::other("the socket of the root is being replaced again and again").into())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn spare_descriptor() -> Option<OwnedFd> {
    fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
