//! How a node notices that the root lives and does not answer, and that another one has taken its place.
//!
//! ```text
//!   nothing is asked ──asked, or no root found──▶ waiting ──half of the time──▶ in doubt ──all of it──▶ silent
//!         ▲                                          │                            │              supersede it, if this node may
//!         └────────────── the root says something ◀──┴────────────────────────────┘
//! ```
//!
//! Time runs only while this node waits for the root: a hive in which nobody asks for anything has no timer.
//! A node in doubt says so by touching the lock file, and all nodes, which watch the folder, ask for a
//! sign of life ([`ToRoot::AreYouThere`]) and wait the other half. So a guest, which never hosts the root,
//! does not wait in vain beside nodes that would but want nothing of it.
//!
//! Any packet is a sign of life. Before the time counts as over, what the root has said meanwhile is read: it
//! may be this process that stood still.
//!
//! The folder also tells when the socket is replaced: then the root that this node knows is the root no more,
//! whether it answers or not. A node that gets no watch (fs.inotify.max_user_instances) hears of a successor
//! when the old root's process ends or goes on, and looks by itself whenever it has waited for a whole
//! timeout.
//!
//! [`ToRoot::AreYouThere`]: hivemind_core::protocol::ToRoot::AreYouThere

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::root::MIN_ROOT_TIMEOUT;
use crate::root::lock::FileId;
use crate::runtime_dir::RuntimeDir;

/// Reports that are taken in a row; those that are left are told again.
const READS_IN_A_ROW: usize = 64;

/// See the head of the module.
pub(super) struct Vigil {
    timeout: Duration,
    waiting: Option<Waiting>,
    folder: Option<Inotify>,
}

struct Waiting {
    since: Instant,
    /// The lock file when it began: who is superseded is its holder, and nobody who came later.
    lock: Option<FileId>,
    is_in_doubt: bool,
    /// All nodes were asked to look by somebody who has waited for half of the time.
    is_second: bool,
    /// The time was over once, and nothing came of it.
    rounds: u32,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Tell the others.
    Doubt,
    /// The root does not answer. The lock file is still this one.
    Silent(FileId),
    /// There is no lock file to be replaced, or somebody else has replaced it: seek again.
    Replaced,
}

/// What the folder says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// The socket has been replaced.
    pub(super) is_replaced: bool,
    /// Somebody waits in vain.
    pub(super) is_doubted: bool,
}

impl Vigil {
    pub(super) fn new(dir: &RuntimeDir, timeout: Duration) -> Vigil {
        let wanted = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_ONLYDIR;
        let made = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .and_then(|inotify| inotify.add_watch(dir.path(), wanted).map(|_| inotify));
        if let Err(error) = &made {
            tracing::warn!(%error, "cannot watch the folder of the hive; a root that is superseded is noticed late (fs.inotify.max_user_instances)");
        }
        Vigil { timeout: timeout.max(MIN_ROOT_TIMEOUT), waiting: None, folder: made.ok() }
    }

    /// Readable when something in the folder has changed.
    pub(super) fn folder(&self) -> Option<BorrowedFd<'_>> {
        self.folder.as_ref().map(AsFd::as_fd)
    }

    /// What has changed in the folder.
    pub(super) fn signs(&self, dir: &RuntimeDir) -> Signs {
        let mut signs = Signs::default();
        let Some(folder) = &self.folder else { return signs };
        for _ in 0..READS_IN_A_ROW {
            let Ok(events) = folder.read_events() else { break };
            for event in events {
                let is_lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let is = |path: &std::path::Path| {
                    event.name.is_some() && event.name.as_deref() == path.file_name()
                };
                signs.is_replaced |=
                    is_lost || event.mask.contains(AddWatchFlags::IN_MOVED_TO) && is(dir.root_socket());
                signs.is_doubted |= event.mask.contains(AddWatchFlags::IN_ATTRIB) && is(dir.lock_file());
            }
        }
        signs
    }

    /// The root has said something.
    pub(super) fn is_heard(&mut self) {
        self.waiting = None;
    }

    /// The node waits for a word of the root. `lock` tells the lock file of the root that it waits for.
    pub(super) fn wait(&mut self, lock: impl FnOnce() -> Option<FileId>) {
        if self.waiting.is_none() {
            self.waiting = Some(Waiting::begin(lock()));
        }
    }

    /// The node wants nothing of the root.
    pub(super) fn rest(&mut self) {
        self.waiting = None;
    }

    /// Others have waited for half of the time, and this node is about to ask the root for a sign of life.
    /// False: it waits already.
    pub(super) fn join_doubt(&mut self, lock: Option<FileId>) -> bool {
        if self.waiting.is_some() {
            return false;
        }
        self.waiting = Some(Waiting { is_in_doubt: true, is_second: true, ..Waiting::begin(lock) });
        true
    }

    /// When something is due next.
    pub(super) fn alarm(&self) -> Option<Instant> {
        let waiting = self.waiting.as_ref()?;
        let after = if waiting.is_in_doubt { self.silence(waiting) } else { self.timeout / 2 };
        waiting.since.checked_add(after)
    }

    fn silence(&self, waiting: &Waiting) -> Duration {
        if waiting.is_second { self.timeout / 2 } else { self.timeout * (waiting.rounds + 1) }
    }

    /// What is due now. Each is told once.
    pub(super) fn due(&mut self, dir: &RuntimeDir) -> Due {
        let Some(waiting) = &self.waiting else { return Due::Nothing };
        let (elapsed, silence) = (waiting.since.elapsed(), self.silence(waiting));
        let Some(waiting) = &mut self.waiting else { return Due::Nothing };
        if elapsed >= silence {
            let now = FileId::at(dir.lock_file()).ok().flatten();
            return match (waiting.lock, now) {
                (Some(then), Some(now)) if then == now => {
                    waiting.rounds = waiting.rounds.saturating_add(1);
                    waiting.is_in_doubt = true;
                    // From here on as one that waits by itself.
                    waiting.is_second = false;
                    Due::Silent(now)
                }
                _ => {
                    self.waiting = None;
                    Due::Replaced
                }
            };
        }
        if !waiting.is_in_doubt && elapsed >= self.timeout / 2 {
            waiting.is_in_doubt = true;
            return Due::Doubt;
        }
        Due::Nothing
    }
}

impl Waiting {
    fn begin(lock: Option<FileId>) -> Waiting {
        Waiting { since: Instant::now(), lock, is_in_doubt: false, is_second: false, rounds: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::name::HiveName;

    fn hive() -> (tempfile::TempDir, RuntimeDir) {
        let base = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(base.path(), &HiveName::default()).unwrap();
        std::fs::write(dir.lock_file(), "").unwrap();
        (base, dir)
    }

    fn lock(dir: &RuntimeDir) -> Option<FileId> {
        FileId::at(dir.lock_file()).unwrap()
    }

    /// Lets the time since the wait began be `elapsed`.
    fn age(vigil: &mut Vigil, elapsed: Duration) {
        vigil.waiting.as_mut().unwrap().since = Instant::now().checked_sub(elapsed).unwrap();
    }

    #[test]
    fn who_wants_nothing_is_never_woken() {
        let (_base, dir) = hive();
        let mut vigil = Vigil::new(&dir, Duration::from_secs(1));
        assert_eq!((vigil.alarm(), vigil.due(&dir)), (None, Due::Nothing));
        vigil.wait(|| lock(&dir));
        assert!(vigil.alarm().is_some());
        vigil.rest();
        assert_eq!((vigil.alarm(), vigil.due(&dir)), (None, Due::Nothing));
    }

    #[test]
    fn doubt_comes_at_half_of_the_time_and_silence_at_all_of_it_once_each() {
        let (_base, dir) = hive();
        let mut vigil = Vigil::new(&dir, Duration::from_secs(100));
        vigil.wait(|| lock(&dir));
        assert_eq!(vigil.due(&dir), Due::Nothing);
        age(&mut vigil, Duration::from_secs(51));
        assert_eq!([vigil.due(&dir), vigil.due(&dir)], [Due::Doubt, Due::Nothing]);
        age(&mut vigil, Duration::from_secs(101));
        assert_eq!([vigil.due(&dir), vigil.due(&dir)], [Due::Silent(lock(&dir).unwrap()), Due::Nothing]);
        vigil.is_heard();
        assert_eq!(vigil.alarm(), None);
    }

    #[test]
    fn who_was_asked_to_look_waits_the_other_half() {
        let (_base, dir) = hive();
        let mut vigil = Vigil::new(&dir, Duration::from_secs(100));
        assert!(vigil.join_doubt(lock(&dir)));
        assert!(!vigil.join_doubt(lock(&dir)), "it waits already");
        age(&mut vigil, Duration::from_secs(51));
        assert_eq!(vigil.due(&dir), Due::Silent(lock(&dir).unwrap()));
    }

    /// The holder of a lock file that came later is not the one that was silent.
    #[test]
    fn a_lock_file_that_was_replaced_meanwhile_is_nobodys_who_was_silent() {
        let (_base, dir) = hive();
        let mut vigil = Vigil::new(&dir, Duration::from_secs(100));
        vigil.wait(|| lock(&dir));
        std::fs::write(dir.new_lock_file(), "").unwrap();
        std::fs::rename(dir.new_lock_file(), dir.lock_file()).unwrap();
        age(&mut vigil, Duration::from_secs(101));
        assert_eq!((vigil.due(&dir), vigil.alarm()), (Due::Replaced, None));
    }

    #[test]
    fn the_folder_tells_of_doubts_and_of_another_socket() {
        let (_base, dir) = hive();
        let vigil = Vigil::new(&dir, Duration::from_secs(1));
        assert!(
            vigil.folder().is_some(),
            "this system has no inotify to spare (fs.inotify.max_user_instances)"
        );
        assert_eq!(vigil.signs(&dir), Signs::default());
        crate::root::lock::raise_doubt(&dir);
        assert_eq!(vigil.signs(&dir), Signs { is_doubted: true, is_replaced: false });
        std::fs::write(dir.new_socket(), "").unwrap();
        std::fs::rename(dir.new_socket(), dir.root_socket()).unwrap();
        assert_eq!(vigil.signs(&dir), Signs { is_doubted: false, is_replaced: true });
    }
}
