//! The lock file: whoever holds the lock of the file with this name is the root.
//!
//! The kernel gives the lock back when the process dies, so the file itself says nothing about who lives.
//! What stands in it is for people and for the next root: the epoch, and the process that took it.
//!
//! ```text
//! epoch 00000000000000000007 process 0000012345
//! ```
//!
//! The line has a fixed length and is written with one call. If it is lost (a full disk, a person) the next
//! root begins at epoch 1, and rises above whatever its nodes have seen.
//!
//! # Superseding a holder that lives and does not answer
//!
//! Its lock cannot be taken, so its file is replaced, and with the name goes the office:
//!
//! ```text
//! open root.heir, lock it          one of all that want to; whoever dies here leaves a file that the next one uses
//! root.lock still the old file?    no: somebody else was faster
//! rename root.heir to root.lock    the one step that counts: before it the old holder is the root, after it the new one
//! read the epoch of the old file   after the rename, see below
//! ```
//!
//! The old holder asks [`RootLock::is_in_force`] when it goes on, and abdicates. Others cannot take the old
//! file by mistake: who takes a lock looks at the name afterwards ([`RootLock::try_take`]), and the server
//! looks again when it has written its epoch down. So if the old holder dies just before the rename and
//! another process takes its lock, either that one finds the name gone and gives up, or its epoch was written
//! before the rename, and the heir reads it and rises above it: no two roots have the same epoch.
use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use hivemind_ring::os::{Kept, keep_from_children};
use nix::libc;

use crate::runtime_dir::RuntimeDir;
use hivemind_core::protocol::MAX_EPOCH;

/// How often the file may be replaced under us before that counts as an error.
const ATTEMPTS: usize = 8;
/// More than the line can have.
const LINE_BYTES: u64 = 128;

/// The lock, held. Dropped, it is free.
#[derive(Debug)]
pub(crate) struct RootLock {
    file: Kept<File>,
    epoch: u64,
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file with this name now; `None`: there is none.
    pub(crate) fn at(path: &Path) -> io::Result<Option<FileId>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(FileId { device: found.dev(), inode: found.ino() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(file: &File) -> io::Result<FileId> {
        let found = file.metadata()?;
        Ok(FileId { device: found.dev(), inode: found.ino() })
    }
}

/// What stands in the lock file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) epoch: u64,
    pub(crate) pid: i32,
}

impl RootLock {
    /// Takes the lock if it is free. Never waits.
    pub(crate) fn try_take(dir: &RuntimeDir) -> io::Result<Option<RootLock>> {
        let Some(file) = lock_file(dir.lock_file())? else { return Ok(None) };
        let epoch = read(&file).epoch;
        Ok(Some(RootLock { file: keep_from_children(file), epoch }))
    }

    /// Takes the place of a holder that lives and does not answer; see the head of the module. `None`: the
    /// lock file is not `observed` any more, or somebody else is at it. Never waits.
    pub(crate) fn supersede(dir: &RuntimeDir, observed: FileId) -> io::Result<Option<RootLock>> {
        let old = match File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(dir.lock_file()) {
            Ok(old) => old,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(file) = lock_file(dir.new_lock_file())? else { return Ok(None) };
        // Only who holds the lock of the heir replaces the lock file, so from here on nobody else does.
        if FileId::of(&old)? != observed || FileId::at(dir.lock_file())? != Some(observed) {
            // Left by whoever was faster and died, or made by us just now. It is ours to remove: its lock is.
            let _ = fs::remove_file(dir.new_lock_file());
            return Ok(None);
        }
        fs::rename(dir.new_lock_file(), dir.lock_file())?;
        let epoch = read(&old).epoch;
        Ok(Some(RootLock { file: keep_from_children(file), epoch }))
    }

    /// False: another process has superseded this one, and holds the lock of the file that has the name now.
    pub(crate) fn is_in_force(&self, dir: &RuntimeDir) -> io::Result<bool> {
        Ok(FileId::at(dir.lock_file())? == Some(FileId::of(&self.file)?))
    }

    /// The epoch of the last root.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Writes down who has the lock now.
    pub(crate) fn record(&mut self, epoch: u64) -> io::Result<()> {
        self.epoch = epoch;
        let line = format!("epoch {epoch:020} process {:010}\n", std::process::id());
        self.file.write_all_at(line.as_bytes(), 0)
    }
}

/// Who took the lock last, as far as the file says.
pub(crate) fn last_holder(dir: &RuntimeDir) -> Option<Record> {
    // Opening the file again is harmless: this kind of lock belongs to the opening, not to the process.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(dir.lock_file()).ok()?;
    Some(read(&file)).filter(|record| record.pid != 0)
}

/// Says that somebody waits in vain for the root, without a word: all nodes watch this file, and look for a
/// sign of life of their own. Needs to be the owner of the hive; anybody else waits for one that is.
pub(crate) fn raise_doubt(dir: &RuntimeDir) {
    // Whatever it says: who cannot tell the others waits on.
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(dir.lock_file());
    let now = SystemTime::now();
    // Both times: inotify takes one alone for an access or a write.
    if let Ok(file) = file
        && let Err(error) = file.set_times(FileTimes::new().set_accessed(now).set_modified(now))
    {
        tracing::debug!(%error, "cannot tell the others that the root does not answer");
    }
}

/// The file with this name, made if it is missing, and locked; `None`: somebody else holds the lock.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..ATTEMPTS {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Somebody may have removed or renamed the file between opening and locking; then this is the lock of
        // nothing.
        if FileId::at(path)? == Some(FileId::of(&file)?) {
            return Ok(Some(file));
        }
    }
    Err(io::Error::other("the lock file is being replaced again and again"))
}

/// Whatever is not the line counts as nothing: the file may have any content.
fn read(mut file: &File) -> Record {
    let mut text = String::new();
    if file.rewind().is_err() || file.take(LINE_BYTES).read_to_string(&mut text).is_err() {
        return Record::default();
    }
    let mut words = text.split_whitespace();
    let (Some("epoch"), Some(epoch), Some("process"), Some(pid)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Record::default();
    };
    match (epoch.parse::<u64>(), pid.parse()) {
        (Ok(epoch), Ok(pid)) => Record { epoch: epoch.min(MAX_EPOCH), pid },
        _ => Record::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::name::HiveName;

    fn dir() -> (tempfile::TempDir, RuntimeDir) {
        let base = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(base.path(), &HiveName::default()).unwrap();
        (base, dir)
    }

    #[test]
    fn one_holds_the_lock_and_the_next_reads_its_epoch() {
        let (_base, dir) = dir();
        let mut lock = RootLock::try_take(&dir).unwrap().unwrap();
        assert_eq!(lock.epoch(), 0);
        lock.record(7).unwrap();
        assert!(RootLock::try_take(&dir).unwrap().is_none());
        let pid = std::process::id() as i32;
        assert_eq!(last_holder(&dir), Some(Record { epoch: 7, pid }));
        drop(lock);
        assert_eq!(RootLock::try_take(&dir).unwrap().unwrap().epoch(), 7);
    }

    #[test]
    fn whatever_stands_in_the_lock_file_is_no_obstacle() {
        let (_base, dir) = dir();
        for content in
            ["", "epoch", "epoch x process y", "\u{0}\u{1}", "epoch -3 process 1", &"9".repeat(10_000)]
        {
            fs::write(dir.lock_file(), content).unwrap();
            assert_eq!(last_holder(&dir), None);
            assert_eq!(RootLock::try_take(&dir).unwrap().unwrap().epoch(), 0);
        }
        fs::write(dir.lock_file(), format!("epoch {} process 1", u64::MAX)).unwrap();
        assert_eq!(RootLock::try_take(&dir).unwrap().unwrap().epoch(), MAX_EPOCH);
    }

    fn supersede(dir: &RuntimeDir) -> Option<RootLock> {
        RootLock::supersede(dir, FileId::at(dir.lock_file()).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn who_supersedes_has_the_office_and_rises_above_the_old_epoch() {
        let (_base, dir) = dir();
        let mut old = RootLock::try_take(&dir).unwrap().unwrap();
        old.record(7).unwrap();
        assert!(old.is_in_force(&dir).unwrap());
        let new = supersede(&dir).unwrap();
        assert_eq!(new.epoch(), 7);
        assert!(new.is_in_force(&dir).unwrap() && !old.is_in_force(&dir).unwrap());
        assert!(RootLock::try_take(&dir).unwrap().is_none());
        drop(old);
        assert!(RootLock::try_take(&dir).unwrap().is_none(), "what the old one lets go is no office");
        drop(new);
        assert!(RootLock::try_take(&dir).unwrap().is_some());
        assert!(!dir.new_lock_file().exists());
    }

    #[test]
    fn nobody_supersedes_whom_he_did_not_wait_for() {
        let (_base, dir) = dir();
        let _first = RootLock::try_take(&dir).unwrap().unwrap();
        let observed = FileId::at(dir.lock_file()).unwrap().unwrap();
        let second = supersede(&dir).unwrap();
        assert!(RootLock::supersede(&dir, observed).unwrap().is_none());
        assert!(second.is_in_force(&dir).unwrap());
        assert!(!dir.new_lock_file().exists(), "who gives up leaves nothing");
    }

    /// A process died after it had made the file of the heir: its lock is free, and the next one uses it.
    #[test]
    fn an_heir_that_died_is_no_obstacle() {
        let (_base, dir) = dir();
        let old = RootLock::try_take(&dir).unwrap().unwrap();
        fs::write(dir.new_lock_file(), "whatever").unwrap();
        let new = supersede(&dir).unwrap();
        assert!(new.is_in_force(&dir).unwrap() && !old.is_in_force(&dir).unwrap());
    }

    /// Of many that supersede the same root at once, one does; whoever is told so holds the office.
    #[test]
    fn of_many_heirs_one_succeeds() {
        for _ in 0..50 {
            let (_base, dir) = dir();
            let _old = RootLock::try_take(&dir).unwrap().unwrap();
            let observed = FileId::at(dir.lock_file()).unwrap().unwrap();
            let taken: Vec<RootLock> = std::thread::scope(|scope| {
                let heirs: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| RootLock::supersede(&dir, observed).unwrap())).collect();
                heirs.into_iter().filter_map(|heir| heir.join().unwrap()).collect()
            });
            assert_eq!(taken.len(), 1);
            assert!(taken[0].is_in_force(&dir).unwrap());
        }
    }
}
