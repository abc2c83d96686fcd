//! A leaf, a node that cannot reach the folder of its hive. It has a hive of its own in a private folder,
//! which is linked with the host that has the real one. All calls work as they do with shared memory, since
//! it is shared memory.
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hivemind_ring::fork::Home;
use hivemind_runtime::random::random_number;

use super::{Address, LinkOptions, Links, LinksError, Security};
use hivemind_runtime::ports::{Member, MemberError, MemberOptions};
use hivemind_runtime::session::RootRole;

/// What links a leaf with its host. Dropped, it is gone.
#[derive(Debug)]
pub struct Leaf {
    // In this order: links need their node, and that its folder.
    _links: Links,
    _node: Arc<Member>,
    _folder: Folder,
}

/// A folder that is removed with everything in it.
#[derive(Debug)]
pub struct Folder(PathBuf, Home);

impl Folder {
    /// In the folder for temporary files, closed to others.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create() -> io::Result<Folder> {
        let name = format!("hm-leaf-{}-{:08x}", std::process::id(), random_number() as u32);
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path, Home::here()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A forked child leaves its parent's alone.
        if !self.1.is_here() {
            return;
        }
        // What is left of it lies in a folder for temporary files, and holds no message.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Why a leaf is not linked.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Its hive could not be joined; the source says why.
    #[error(transparent)]
    Join(#[from] MemberError),
    /// The links could not be started; the source says why.
    #[error(transparent)]
    Links(Box<LinksError>),
    /// The host was not reached, or refused. Look at it, at its key, and at the network between.
    #[error("not linked with {address} within {waited:?}: {reason}")]
    NotLinked {
        /// Where the host was sought.
        address: String,
        /// For how long.
        waited: Duration,
        /// What it said last, or the system.
        reason: String,
    },
}

/// Links the hive in `folder`, and waits until it is.
///
/// # Errors
/// Why it is not, in words of whichever side refused.
pub fn link(
    folder: Folder,
    address: &Address,
    security: Security,
    patience: Duration,
) -> Result<Leaf, LeafError> {
    let mut options = MemberOptions::new("link");
    options.folder = Some(folder.path().to_owned());
    options.patience = patience;
    options.root = RootRole::Guest;
    let node = Member::join(&options)?;
    let options = LinkOptions::new(security).peer(address.clone()).leaf();
    let links = Links::start(&node, options).map_err(|error| LeafError::Links(Box::new(error)))?;
    if !links.wait_for_hosts(1, patience) {
        let reason = links.refusal().unwrap_or_else(|| "it does not answer".to_owned());
        return Err(LeafError::NotLinked { address: address.to_string(), waited: patience, reason });
    }
    Ok(Leaf { _links: links, _node: node, _folder: folder })
}
