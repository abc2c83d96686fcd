//! A node that cannot reach the folder of its hive: it has a hive of its own in a private folder, which is linked with the host that has the
//! real one. All calls work as they do with shared memory, since it is shared memory.
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hivemind_core::random::random_number;
use hivemind_ring::fork::Home;

use super::{Address, LinkOptions, Links, Security};
use crate::error::NodeError;
use crate::node::Node;

/// What a remote node has beside what every node has. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Remote {
    // In this order: links need their node, and that its folder.
    _links: Links,
    _node: Node,
    _folder: Folder,
}

/// A folder that is removed with everything in it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf, Home);

impl Folder {
    /// In the folder for temporary files, closed to others.
    pub(crate) fn create() -> io::Result<Folder> {
        let name = format!("hm-leaf-{}-{:08x}", std::process::id(), random_number() as u32);
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path, Home::here()))
    }

    pub(crate) fn path(&self) -> &Path {
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

/// Links the hive in `folder`, and waits until it is.
///
/// # Errors
/// Why it is not, in words of whoever refused.
pub(crate) fn link(
    folder: Folder,
    address: &Address,
    security: Security,
    patience: Duration,
) -> Result<Remote, NodeError> {
    let node = Node::builder("link").dir(folder.path()).patience(patience).guest().join()?;
    let options = LinkOptions::new(security).peer(address.clone()).leaf();
    let links = Links::start(&node, options).map_err(|error| NodeError::Links(Box::new(error)))?;
    if !links.wait_for_hosts(1, patience) {
        let reason = links.refusal().unwrap_or_else(|| "it does not answer".to_owned());
        return Err(NodeError::Remote { address: address.to_string(), waited: patience, reason });
    }
    Ok(Remote { _links: links, _node: node, _folder: folder })
}
