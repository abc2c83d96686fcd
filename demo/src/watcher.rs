//! The parent's own node in the hive of the demo: it knows who is there and keeps an eye on every ring.
//!
//! It publishes nothing, subscribes to nothing and never hosts the root. It maps each ring once, read-only,
//! when it first sees it, and keeps it: so it can read how many messages were committed after the publisher
//! was killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hivemind::{EndId, Node};
use hivemind_ring::view::RingView;

use super::report::End;
use hivemind_look::{self as look, LookError};

/// How long the node waits for a root, also while one takes over from another.
const PATIENCE: Duration = Duration::from_secs(10);

/// A ring, and who writes it.
#[derive(Debug)]
pub(crate) struct WatchedRing {
    pub(crate) service: String,
    pub(crate) pid: u32,
    view: RingView,
}

impl WatchedRing {
    pub(crate) fn is_reliable(&self) -> bool {
        self.view.reliable()
    }

    pub(crate) fn committed(&self) -> u64 {
        self.view.published()
    }
}

/// The parent's node.
#[derive(Debug)]
pub(crate) struct Watcher {
    node: Node,
    rings: BTreeMap<End, WatchedRing>,
}

impl Watcher {
    /// Joins the hive; a root must come up within [`PATIENCE`].
    pub(crate) fn join(dir: &Path) -> Result<Watcher, LookError> {
        let node = Node::builder("demo").dir(dir).patience(PATIENCE).observer().join()?;
        Ok(Watcher { node, rings: BTreeMap::new() })
    }

    /// Looks who is there and maps rings that are new.
    pub(crate) fn look(&mut self) -> Result<(), LookError> {
        let listing = look::listing(&self.node)?;
        for publisher in &listing.publishers {
            let EndId { node, index } = publisher.end;
            let end = End { node, index };
            if self.rings.contains_key(&end) {
                continue;
            }
            // A node that left since it was listed has nothing to be watched any more.
            let Some(owner) = listing.nodes.iter().find(|info| info.node == node) else { continue };
            let pid = u32::try_from(owner.pid).unwrap_or(0);
            let view = look::ring(&self.node, publisher.end)?;
            let ring = WatchedRing { service: publisher.service.to_string(), pid, view };
            self.rings.insert(end, ring);
        }
        Ok(())
    }

    /// Every ring ever seen.
    pub(crate) fn rings(&self) -> &BTreeMap<End, WatchedRing> {
        &self.rings
    }

    /// The process that hosts the root now; `None` while there is none.
    pub(crate) fn root_pid(&self) -> Option<u32> {
        self.node.root_pid().and_then(|pid| u32::try_from(pid).ok())
    }
}
