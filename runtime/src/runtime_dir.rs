//! Where a hive lives: one folder with a socket and a lock file, and nothing else.
//!
//! ```text
//! $HIVEMIND_DIR, else $XDG_RUNTIME_DIR/hivemind, else <tmp>/hivemind-<uid>      0700, ours
//! └── <hive>                                                                    0700, ours; 0711 while the policy admits others
//!     ├── root.sock       where the root of this hive listens                   0600; 0666 while the policy admits others
//!     ├── root.lock       held by the process that hosts the root; says which epoch and process
//!     ├── root.new        the next root.sock, for the moment before it gets that name
//!     ├── root.heir       the next root.lock, while a root that does not answer is superseded
//!     └── policy          who else may join, and what for; written by the owner (see `policy`)
//! ```
//!
//! The folder is the authority over who may join: so one that somebody else owns, or that others may write
//! to, is refused. If a process dies here, at most an empty folder is left, which the next start uses.
//!
//! *A hive of another user* is joined only when its owner is named (`$HIVEMIND_OWNER`): otherwise whoever
//! makes the right folder in time would be joined by mistake. Nothing is made or checked there, since all
//! that lies there is the owner's; what counts is that the kernel says of the process that listens that it is
//! the owner's.
use std::env;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::accounts::accounts_of_this_machine;
use hivemind_core::name::HiveName;

/// Whether a root listens in this folder now.
#[must_use]
pub fn is_listened_on(dir: &RuntimeDir) -> bool {
    crate::socket::Socket::connect(dir.root_socket()).is_ok()
}

/// The longest path of a Unix socket, in bytes (the address has 108, the last is a zero).
pub const MAX_SOCKET_PATH: usize = 107;

const SOCKET: &str = "root.sock";
/// The name under which a new root binds its socket before it is renamed; never longer than [`SOCKET`].
const NEW_SOCKET: &str = "root.new";
const LOCK: &str = "root.lock";
/// The name of the next lock file while a root that does not answer is being superseded.
const NEW_LOCK: &str = "root.heir";
/// Names the owner of the hive, if that is another user: a name or a number.
pub const OWNER_VARIABLE: &str = "HIVEMIND_OWNER";

/// The folder of one hive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeDir {
    hive: HiveName,
    path: PathBuf,
    socket: PathBuf,
    new_socket: PathBuf,
    lock: PathBuf,
    new_lock: PathBuf,
    policy: PathBuf,
    owner: u32,
}

/// Why a folder cannot be the runtime directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeDirError {
    /// Somebody else's folder. Remove it, or set HIVEMIND_DIR to a folder of yours.
    #[error("{path} belongs to user {owner}, not to user {user}; remove it or set HIVEMIND_DIR to a folder of yours", path = path.display())]
    ForeignOwner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may write to the folder. Take that right away.
    #[error("others may write to {path} (mode {mode:o}); run: chmod go-w {path}", path = path.display())]
    WritableByOthers {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a folder. Remove it, or set HIVEMIND_DIR.
    #[error("{path} is not a directory; remove it or set HIVEMIND_DIR to another place", path = path.display())]
    NotADirectory {
        /// What is in the way.
        path: PathBuf,
    },
    /// Too long for a Unix socket. Set HIVEMIND_DIR to a shorter folder.
    #[error("the socket path {path} has {length} bytes, {limit} are possible; set HIVEMIND_DIR to a shorter folder", path = path.display())]
    TooLong {
        /// The path of the socket.
        path: PathBuf,
        /// Its bytes.
        length: usize,
        /// The most bytes possible.
        limit: usize,
    },
    /// A path that is not absolute would mean another hive in every working directory. Write it out.
    #[error("{variable}={path} is not an absolute path; write it out", path = path.display())]
    Relative {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The owner that was named is nobody. Name a user of this machine, or give the number that `id -u`
    /// shows.
    #[error("{owner:?} is no user of this machine; name one, or give the number that `id -u` shows")]
    UnknownOwner {
        /// What was named.
        owner: String,
    },
    /// The system refused. Follow its message, or set HIVEMIND_DIR to a folder that you may write to.
    #[error("cannot {doing} {path}: {error}; set HIVEMIND_DIR to a folder that you may write to", path = path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl RuntimeDir {
    /// The folder of a hive where the environment says; made when it is missing.
    ///
    /// # Errors
    /// [`RuntimeDirError`].
    pub fn locate(hive: &HiveName) -> Result<RuntimeDir, RuntimeDirError> {
        RuntimeDir::find(None, hive, None)
    }

    /// The folder of a hive in `base`, of the user `owner` (a name or a number); what is not given is what
    /// the environment says.
    ///
    /// # Errors
    /// [`RuntimeDirError`].
    pub fn find(
        base: Option<&Path>,
        hive: &HiveName,
        owner: Option<&str>,
    ) -> Result<RuntimeDir, RuntimeDirError> {
        let user = geteuid().as_raw();
        let owner = match owner {
            Some(owner) => user_of(owner)?,
            None => match env::var(OWNER_VARIABLE) {
                Ok(owner) if !owner.is_empty() => user_of(&owner)?,
                _ => user,
            },
        };
        let base = match base {
            Some(base) => base.to_owned(),
            None => base_directory(owner)?,
        };
        if owner == user { RuntimeDir::at(&base, hive) } else { RuntimeDir::of_another(&base, hive, owner) }
    }

    /// The folder of a hive of another user. Nothing is made there, and nothing checked; see the head of the
    /// module.
    ///
    /// # Errors
    /// Only when the path is too long for a socket.
    pub fn of_another(base: &Path, hive: &HiveName, owner: u32) -> Result<RuntimeDir, RuntimeDirError> {
        RuntimeDir::name(base, hive, owner)
    }

    /// The folder of a hive in `base`; both made when they are missing.
    ///
    /// # Errors
    /// [`RuntimeDirError`].
    pub fn at(base: &Path, hive: &HiveName) -> Result<RuntimeDir, RuntimeDirError> {
        let dir = RuntimeDir::name(base, hive, geteuid().as_raw())?;
        make_private(base)?;
        make_private(&dir.path)?;
        Ok(dir)
    }

    fn name(base: &Path, hive: &HiveName, owner: u32) -> Result<RuntimeDir, RuntimeDirError> {
        let path = base.join(hive.as_str());
        let socket = path.join(SOCKET);
        let length = socket.as_os_str().as_bytes().len();
        if length > MAX_SOCKET_PATH {
            return Err(RuntimeDirError::TooLong { path: socket, length, limit: MAX_SOCKET_PATH });
        }
        Ok(RuntimeDir {
            hive: hive.clone(),
            owner,
            policy: path.join(crate::policy_file::FILE_NAME),
            new_socket: path.join(NEW_SOCKET),
            new_lock: path.join(NEW_LOCK),
            lock: path.join(LOCK),
            socket,
            path,
        })
    }

    /// What the names of this hive's segments begin with, where segments have names (feature
    /// `named-segments`): another runtime directory or hive has another.
    #[cfg(feature = "named-segments")]
    pub fn segment_prefix(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        format!("hivemind-{:016x}-", xxhash_rust::xxh3::xxh3_64(self.path().as_os_str().as_bytes()))
    }

    /// The hive.
    #[must_use]
    pub fn hive(&self) -> &HiveName {
        &self.hive
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the root listens.
    #[must_use]
    pub fn root_socket(&self) -> &Path {
        &self.socket
    }

    /// What the host of the root holds locked.
    #[must_use]
    pub fn lock_file(&self) -> &Path {
        &self.lock
    }

    /// Whose hive it is. Only processes of this user can host its root.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// True when this process belongs to the owner of the hive.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.owner == geteuid().as_raw()
    }

    /// What says who else may join.
    #[must_use]
    pub fn policy_file(&self) -> &Path {
        &self.policy
    }

    /// What becomes the lock file when its holder is superseded; see `root::lock`.
    pub(crate) fn new_lock_file(&self) -> &Path {
        &self.new_lock
    }

    /// Where a new root binds before it replaces the old socket. Only the holder of the lock touches it.
    pub(crate) fn new_socket(&self) -> &Path {
        &self.new_socket
    }
}

fn user_of(name: &str) -> Result<u32, RuntimeDirError> {
    let number = name.parse().ok().filter(|number| *number != u32::MAX);
    let user = number.or_else(|| accounts_of_this_machine().user(name));
    user.ok_or_else(|| RuntimeDirError::UnknownOwner { owner: name.to_owned() })
}

fn base_directory(owner: u32) -> Result<PathBuf, RuntimeDirError> {
    let absolute = |variable, value: PathBuf| {
        if value.is_absolute() { Ok(value) } else { Err(RuntimeDirError::Relative { variable, path: value }) }
    };
    if let Some(value) = env::var_os("HIVEMIND_DIR").filter(|value| !value.is_empty()) {
        return absolute("HIVEMIND_DIR", value.into());
    }
    // That of this process's user, and nobody else's.
    let ours =
        env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty() && owner == geteuid().as_raw());
    if let Some(value) = ours {
        return Ok(absolute("XDG_RUNTIME_DIR", value.into())?.join("hivemind"));
    }
    Ok(env::temp_dir().join(format!("hivemind-{owner}")))
}

/// Makes the folder with its parents, or checks the one that is there. The check comes after the making, and
/// on what the path means itself (no symbolic link is followed), so nobody can slip another folder in
/// between.
fn make_private(path: &Path) -> Result<(), RuntimeDirError> {
    let failed = |doing| move |error| RuntimeDirError::System { doing, path: path.to_owned(), error };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(RuntimeDirError::NotADirectory { path: path.to_owned() });
        }
        other => other.map_err(failed("create"))?,
    }
    let found = fs::symlink_metadata(path).map_err(failed("inspect"))?;
    check_private(path, &found)
}

fn check_private(path: &Path, found: &Metadata) -> Result<(), RuntimeDirError> {
    let (path, user) = (path.to_owned(), geteuid().as_raw());
    if !found.is_dir() {
        return Err(RuntimeDirError::NotADirectory { path });
    }
    if found.uid() != user {
        return Err(RuntimeDirError::ForeignOwner { path, owner: found.uid(), user });
    }
    if found.mode() & 0o022 != 0 {
        return Err(RuntimeDirError::WritableByOthers { path, mode: found.mode() & 0o7777 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn hive() -> HiveName {
        HiveName::default()
    }

    #[test]
    fn folders_are_made_private_with_their_parents() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("a/b");
        let dir = RuntimeDir::at(&deep, &hive()).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
        assert_eq!(RuntimeDir::at(&deep, &hive()).unwrap(), dir);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = RuntimeDir::at(base.path(), &hive()).unwrap_err();
        assert!(
            error.to_string().contains("mode 770") && error.to_string().contains("chmod go-w"),
            "{error}"
        );
    }

    #[test]
    fn somebody_elses_folder_is_refused() {
        // /proc/1 belongs to root or nobody; as root, ask for a folder that is certainly not ours.
        let found = fs::metadata(tempfile::tempdir().unwrap().path()).unwrap();
        assert_eq!(found.uid(), geteuid().as_raw());
        if geteuid().is_root() {
            let base = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(base.path(), Some(4711), None).unwrap();
            let error = RuntimeDir::at(base.path(), &hive()).unwrap_err();
            assert!(matches!(error, RuntimeDirError::ForeignOwner { owner: 4711, .. }), "{error}");
        } else {
            let error = RuntimeDir::at(Path::new("/proc"), &hive()).unwrap_err();
            assert!(matches!(error, RuntimeDirError::ForeignOwner { owner: 0, .. }), "{error}");
        }
    }

    #[test]
    fn a_link_and_a_file_are_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "").unwrap();
        let error = RuntimeDir::at(&base.path().join("file"), &hive()).unwrap_err();
        assert!(matches!(error, RuntimeDirError::NotADirectory { .. }), "{error}");
        std::os::unix::fs::symlink("/tmp", base.path().join("link")).unwrap();
        let error = RuntimeDir::at(&base.path().join("link"), &hive()).unwrap_err();
        assert!(matches!(error, RuntimeDirError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn a_long_path_is_refused_with_both_lengths() {
        let base = tempfile::tempdir().unwrap();
        let long = base.path().join("x".repeat(100));
        let error = RuntimeDir::at(&long, &hive()).unwrap_err().to_string();
        assert!(error.contains("107 are possible") && error.contains("HIVEMIND_DIR"), "{error}");
        assert!(!long.exists());
    }
}
