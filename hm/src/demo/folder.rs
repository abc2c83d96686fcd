//! The runtime directory of one demo: its own, closed to others, removed at the end.

use std::io;
use std::path::{Path, PathBuf};

use hivemind::HiveName;
use hivemind_core::runtime_dir::RuntimeDir;
use nix::unistd::mkdtemp;

use super::DemoError;

/// Removed with all that is in it when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder of mode 0700 below the temporary directory, under a name that nobody has.
    pub(crate) fn make() -> Result<Folder, DemoError> {
        let parent = std::env::temp_dir();
        match mkdtemp(&parent.join("hm-demo-XXXXXX")) {
            Ok(path) => Ok(Folder { path }),
            Err(errno) => Err(DemoError::Folder { parent, source: io::Error::from(errno) }),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file that should not be there any more: all but the socket and the lock file of the hive.
    pub(crate) fn leftover(&self) -> Option<PathBuf> {
        let hive = RuntimeDir::at(&self.path, &HiveName::default()).ok()?;
        let expected = [hive.root_socket().to_owned(), hive.lock_file().to_owned()];
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().ok()?.flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    _ if expected.contains(&entry.path()) => {}
                    _ => return Some(entry.path()),
                }
            }
        }
        None
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Somebody else may have removed it; then there is nothing to do.
        let _gone = std::fs::remove_dir_all(&self.path);
    }
}
