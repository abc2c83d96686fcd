//! The door of a hive: its policy, as the root has it, and the modes of folder and socket that go with it.
//!
//! ```text
//!   knocked (inotify) ──▶ settles for SETTLE ──▶ file read ──▶ as before: nothing │ refused: warned, nothing │ another policy
//! ```
//!
//! An editor may remove a file for a moment and put another one in its place. So a change is looked at a
//! moment after it was told, once. Between changes nothing wakes the root.
//!
//! While the policy admits others, everybody may pass through the folder of the hive (not look into it) and
//! connect to its socket; who then connects is judged by the kernel's word. The folders above it are their
//! owner's business, and `hm policy check` says which of them are closed. If the process dies, the modes
//! stay, and the next root sets them anew.
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use hivemind_core::policy::Policy;

use crate::policy_file as file;
use crate::runtime_dir::RuntimeDir;

/// Pause between the report of a change and the look at it.
const SETTLE: Duration = Duration::from_millis(50);
/// Reports that are taken in a row; those that are left are told again.
const READS_IN_A_ROW: usize = 64;

/// What a report of the folder was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knock {
    /// The policy, or nothing that matters.
    Policy,
    /// The lock file or the socket of the root has been replaced or removed, or it may have been.
    Root,
}

/// See the head of the module.
pub(super) struct Door {
    folder: PathBuf,
    socket: PathBuf,
    lock: PathBuf,
    file: PathBuf,
    policy: Policy,
    changes: Option<Inotify>,
    settled_at: Option<Instant>,
}

impl Door {
    /// Reads the policy and sets the folder's mode. A policy that is refused admits nobody but the owner,
    /// until there is a better one.
    pub(super) fn open(dir: &RuntimeDir) -> (Door, Policy) {
        let file = dir.policy_file().to_owned();
        // First, so that no change is missed.
        let changes = watch(dir.path());
        let policy = file::read(&file, dir.owner()).unwrap_or_else(|error| {
            tracing::error!(%error, hive = %dir.hive(), "the policy is refused; nobody but the owner may join");
            Policy::owner_only(dir.owner())
        });
        let (folder, socket) = (dir.path().to_owned(), dir.root_socket().to_owned());
        let lock = dir.lock_file().to_owned();
        let door = Door { folder, socket, lock, file, policy: policy.clone(), changes, settled_at: None };
        door.set_folder();
        (door, policy)
    }

    pub(super) fn owner(&self) -> u32 {
        self.policy.owner()
    }

    /// Readable when something in the folder changes.
    pub(super) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Whether anybody but the owner may connect.
    pub(super) fn admits_others(&self) -> bool {
        self.policy.admits_others()
    }

    /// Something in the folder has changed. What it was for the policy comes with [`Door::new_policy`].
    pub(super) fn knocked(&mut self) -> Knock {
        let mut knock = Knock::Policy;
        let Some(changes) = &self.changes else { return knock };
        for _ in 0..READS_IN_A_ROW {
            let Ok(events) = changes.read_events() else { return knock };
            for InotifyEvent { mask, name, .. } in &events {
                // When reports were lost, it may have been anything. Others without a name are about the
                // folder itself.
                let is_lost = mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let is = |path: &Path| is_lost || name.is_some() && name.as_deref() == path.file_name();
                if is(&self.file) {
                    self.settled_at.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                let another =
                    AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE;
                if (is(&self.socket) || is(&self.lock)) && (is_lost || mask.intersects(another)) {
                    knock = Knock::Root;
                }
            }
        }
        knock
    }

    /// In how many milliseconds a change is to be looked at, if there is one.
    pub(super) fn settles_in(&self) -> Option<u8> {
        let left = self.settled_at?.saturating_duration_since(Instant::now());
        // Rounded up: rounded down, the last fraction would be spent spinning.
        Some(u8::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u8::MAX))
    }

    /// The policy, when it has settled and is another one than before.
    pub(super) fn new_policy(&mut self) -> Option<Policy> {
        self.settled_at.take_if(|at| *at <= Instant::now())?;
        match file::read(&self.file, self.policy.owner()) {
            Ok(policy) if policy == self.policy => None,
            Ok(policy) => {
                tracing::info!(rules = policy.rules().len(), file = %self.file.display(), "another policy");
                self.policy = policy.clone();
                self.set_folder();
                self.set_socket(&self.socket);
                Some(policy)
            }
            Err(error) => {
                tracing::error!(%error, "the policy is refused; the one before it stays in force");
                None
            }
        }
    }

    /// Lets everybody connect to this socket, or the owner alone.
    pub(super) fn set_socket(&self, socket: &Path) {
        set_mode(socket, if self.policy.admits_others() { 0o666 } else { 0o600 });
    }

    /// Lets everybody pass through the folder, or nobody who could not read it anyway.
    fn set_folder(&self) {
        let Ok(found) = fs::symlink_metadata(&self.folder) else { return };
        let now = found.mode() & 0o7777;
        let wanted = if self.policy.admits_others() { now | 0o011 } else { now & !0o011 };
        if wanted != now {
            set_mode(&self.folder, wanted);
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        tracing::error!(%error, path = %path.display(), "cannot set the mode {mode:o}");
    }
}

fn watch(folder: &Path) -> Option<Inotify> {
    let wanted = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_ONLYDIR;
    let made = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .and_then(|inotify| inotify.add_watch(folder, wanted).map(|_| inotify));
    match made {
        Ok(inotify) => Some(inotify),
        Err(error) => {
            tracing::warn!(%error, "cannot watch the policy; a change counts from the next root on (fs.inotify.max_user_instances)");
            None
        }
    }
}
