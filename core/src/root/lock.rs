//! The lock file: whoever holds its lock is the root.
//!
//! The kernel gives the lock back when the process dies, so the file itself says nothing about who lives. What stands in
//! it is for people and for the next root: the epoch, and the process that took it.
//!
//! ```text
//! epoch 00000000000000000007 process 0000012345
//! ```
//!
//! The line has a fixed length and is written with one call. If it is lost (a full disk, a person) the next root begins
//! at epoch 1, and rises above whatever its nodes have seen.
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use hivemind_ring::os::{Kept, keep_from_children};
use nix::libc;

use crate::protocol::MAX_EPOCH;
use crate::runtime_dir::RuntimeDir;

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

/// What stands in the lock file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) epoch: u64,
    pub(crate) pid: i32,
}

impl RootLock {
    /// Takes the lock if it is free. Never waits.
    pub(crate) fn try_take(dir: &RuntimeDir) -> io::Result<Option<RootLock>> {
        for _ in 0..ATTEMPTS {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(dir.lock_file())?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Somebody may have removed the file between opening and locking; then this is the lock of nothing.
            if is_still_there(&file, dir)? {
                let epoch = read(&file).epoch;
                return Ok(Some(RootLock { file: keep_from_children(file), epoch }));
            }
        }
        Err(io::Error::other("the lock file is being replaced again and again"))
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

fn is_still_there(file: &File, dir: &RuntimeDir) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(dir.lock_file()) {
        Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whatever is not the line counts as nothing: the file may have any content.
fn read(file: &File) -> Record {
    let mut text = String::new();
    if file.take(LINE_BYTES).read_to_string(&mut text).is_err() {
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
    use crate::name::HiveName;

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
            std::fs::write(dir.lock_file(), content).unwrap();
            assert_eq!(last_holder(&dir), None);
            assert_eq!(RootLock::try_take(&dir).unwrap().unwrap().epoch(), 0);
        }
        std::fs::write(dir.lock_file(), format!("epoch {} process 1", u64::MAX)).unwrap();
        assert_eq!(RootLock::try_take(&dir).unwrap().unwrap().epoch(), MAX_EPOCH);
    }
}
