//! The file of a policy: `policy` in the folder of its hive.
//!
//! It says who gets in, so it counts only if nobody else could have written it: it belongs to the owner of
//! the hive or to the system's administrator, and only its owner may write to it. If there is none, nobody
//! but the owner gets in. A file that is refused changes nothing: the root keeps what it had, and says why.
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use hivemind_core::policy::{MAX_POLICY_BYTES, Policy, PolicyError};

use crate::accounts::accounts_of_this_machine;

/// The name of the file in the folder of the hive.
pub const FILE_NAME: &str = "policy";

/// Why the file of a policy does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyFileError {
    /// A mistake in its text. Correct it; `hm policy check` says when it is right.
    #[error("{path}: {error}; 'hm policy check' says when it is right", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and what.
        error: PolicyError,
    },
    /// Somebody else's file. Write it as the owner of the hive.
    #[error(
        "{path} belongs to user {found}, not to user {owner}, whose hive this is; write it as that user",
        path = path.display()
    )]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose hive it is.
        owner: u32,
    },
    /// Others may write to it. Take that right away.
    #[error("others may write to {path} (mode {mode:o}); run: chmod go-w {path}", path = path.display())]
    WritableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A folder, a link, a pipe. Put an ordinary file there.
    #[error("{path} is no ordinary file; put one there", path = path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// The system refused. Follow its message.
    #[error("cannot read {path}: {error}", path = path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The policy in this file for the hive of `owner`; without a file, [`Policy::owner_only`].
///
/// # Errors
/// [`PolicyFileError`].
pub fn read(path: &Path, owner: u32) -> Result<Policy, PolicyFileError> {
    let system = |error| PolicyFileError::System { path: path.to_owned(), error };
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Policy::owner_only(owner)),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(PolicyFileError::NotAFile { path: path.to_owned() });
        }
        Err(error) => return Err(system(error)),
    };
    check(&file, path, owner)?;
    let mut text = Vec::new();
    // One more byte than allowed, so that the parser sees that there is too much.
    file.take(MAX_POLICY_BYTES as u64 + 1).read_to_end(&mut text).map_err(system)?;
    Policy::parse(&text, owner, &accounts_of_this_machine())
        .map_err(|error| PolicyFileError::Invalid { path: path.to_owned(), error })
}

/// Looks at the open file, so nobody can exchange it in between.
fn check(file: &File, path: &Path, owner: u32) -> Result<(), PolicyFileError> {
    let path = path.to_owned();
    let found = match file.metadata() {
        Ok(found) => found,
        Err(error) => return Err(PolicyFileError::System { path, error }),
    };
    if !found.is_file() {
        return Err(PolicyFileError::NotAFile { path });
    }
    if found.uid() != owner && found.uid() != 0 {
        return Err(PolicyFileError::ForeignOwner { path, found: found.uid(), owner });
    }
    if found.mode() & 0o022 != 0 {
        return Err(PolicyFileError::WritableByOthers { path, mode: found.mode() & 0o7777 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn ourselves() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn without_a_file_only_the_owner_gets_in() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join(FILE_NAME), 7).unwrap(), Policy::owner_only(7));
    }

    #[test]
    #[allow(clippy::explicit_write)] // The test harness hides what `eprintln` says when nothing fails.
    fn a_file_that_others_could_have_written_does_not_count() {
        let (_folder, path) = file("allow anyone join\n", 0o664);
        let error = read(&path, ourselves()).unwrap_err().to_string();
        assert!(error.contains("mode 664") && error.contains("chmod go-w"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path, ourselves()).unwrap().admits_others());
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(4711), None).unwrap();
            let error = read(&path, 0).unwrap_err();
            assert!(matches!(error, PolicyFileError::ForeignOwner { found: 4711, owner: 0, .. }), "{error}");
            assert!(read(&path, 4711).unwrap().admits_others());
        } else {
            writeln!(io::stderr(), "SKIPPED a part: only the administrator can give a file away").unwrap();
        }
    }

    #[test]
    fn a_link_a_folder_and_a_pipe_are_no_policy_and_nobody_waits_for_them() {
        let (folder, path) = file("", 0o600);
        let other = folder.path().join("other");
        symlink(&path, &other).unwrap();
        assert!(matches!(read(&other, ourselves()), Err(PolicyFileError::NotAFile { .. })));
        assert!(matches!(read(folder.path(), ourselves()), Err(PolicyFileError::NotAFile { .. })));
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&pipe, ourselves()), Err(PolicyFileError::NotAFile { .. })));
    }

    #[test]
    fn a_mistake_is_told_with_file_line_and_column() {
        let (_folder, path) = file("\nallow user:1 fly\n", 0o600);
        let error = read(&path, ourselves()).unwrap_err().to_string();
        assert!(error.contains("policy: line 2, column 14: \"fly\" is no right"), "{error}");
        fs::write(&path, "#".repeat(MAX_POLICY_BYTES + 5)).unwrap();
        let error = read(&path, ourselves()).unwrap_err().to_string();
        assert!(error.contains("longer than 65536 bytes"), "{error}");
    }
}
