//! Many ends, one wait.

use std::sync::Arc;

use super::member::Member;
use crate::session::{Gathering, RefusedEnd};

/// Ends that are announced without waiting for each answer of the root, and are then waited for once. Several
/// threads may create ends of one batch.
///
/// Dropped without [`Batch::finish`] it waits as that does, and says in the log what was refused.
#[derive(Debug)]
pub struct Batch {
    member: Arc<Member>,
    gathering: Gathering,
}

impl Batch {
    /// A batch without ends.
    #[must_use]
    pub fn new(member: &Arc<Member>) -> Batch {
        Batch { member: Arc::clone(member), gathering: Gathering::default() }
    }

    /// The node of its ends.
    #[must_use]
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    pub(crate) fn gathering(&self) -> &Gathering {
        &self.gathering
    }

    /// Waits for the answers to all that was announced so far, at most for the patience of the node. Those
    /// that were refused: they are in no hive, and nobody attaches to them.
    #[must_use]
    pub fn finish(&self) -> Vec<RefusedEnd> {
        let refused = self.member.session().finish(&self.gathering);
        for end in &refused {
            // Not in the roll call for the next root.
            self.member.hub().remove_publisher(end.index);
            self.member.hub().remove_subscriber(end.index);
            self.member.session().withdraw(end.index);
        }
        refused
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for RefusedEnd { what, error, .. } in self.finish() {
            tracing::error!(what, %error, "refused; the batch that it was created in was not finished");
        }
    }
}
