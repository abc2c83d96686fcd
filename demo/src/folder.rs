//! The runtime directory of one demo: its own, closed to others, removed at the end.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hivemind::HiveName;
use hivemind_runtime::runtime_dir::RuntimeDir;
use nix::unistd::mkdtemp;

use super::DemoError;

/// Removed with all that is in it when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder of mode 0700 under a name that nobody has: in `parent`, else in `$HIVEMIND_DIR`, else
    /// in the temporary directory. The demo never shares a hive with anybody, so it takes none of these
    /// as it is.
    pub(crate) fn make(parent: Option<PathBuf>) -> Result<Folder, DemoError> {
        let from_environment =
            || std::env::var_os("HIVEMIND_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let parent = parent.or_else(from_environment).unwrap_or_else(std::env::temp_dir);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&parent);
        let made = made.and_then(|()| mkdtemp(&parent.join("hm-demo-XXXXXX")).map_err(io::Error::from));
        match made {
            Ok(path) => Ok(Folder { path }),
            Err(source) => Err(DemoError::Folder { parent, source }),
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
