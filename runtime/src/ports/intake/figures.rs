//! What an intake has received, lost and not got.

use hivemind_core::name::ServiceName;

use super::Intake;
use super::connection::{Connection, ConnectionStatus};
use crate::session::Mismatch;

/// A service that matches the filter but carries another type. Its messages are not received; the subscriber
/// waits, and is attached as soon as a publisher of its type has the service. Example:
/// `hivemind::Subscriber::skipped`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The service.
    pub service: ServiceName,
    /// The name of the type that it carries.
    pub type_name: String,
    /// The name of the type that this subscriber expects; it may be the same.
    pub expected: String,
    /// The first difference, "here" being this subscriber: `Pose.frame is missing here`.
    pub difference: String,
    /// The node that publishes it, or has published what is kept of it.
    pub node: String,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Skipped { service, type_name, expected, difference, node } = self;
        write!(f, "{service} carries {type_name} in node {node}, not {expected} ({difference})")
    }
}

impl<S> Intake<S> {
    /// How many publishers it is attached to; in a forked child none.
    #[must_use]
    pub fn publishers(&self) -> usize {
        if self.member.hub().home().is_here() { self.end.publishers() } else { 0 }
    }

    /// Messages received, over all publishers that ever were.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received_before + self.connections.iter().map(Connection::received).sum::<u64>()
    }

    /// Messages missed for good, over all publishers that ever were.
    #[must_use]
    pub fn lost(&self) -> u64 {
        // What a publisher of another host says that it has published before is a stranger's number.
        let live = self.connections.iter().map(Connection::lost).sum::<u64>();
        self.lost_before.saturating_add(live)
    }

    /// Where it stands with each publisher; those that ended last are listed too (up to 256).
    #[must_use]
    pub fn statuses(&self) -> Vec<ConnectionStatus> {
        let live = self.connections.iter().map(|connection| connection.status(false));
        self.ended.iter().cloned().chain(live).collect()
    }

    /// Services that match and carry another type (up to 256).
    #[must_use]
    pub fn skipped(&self) -> Vec<Skipped> {
        if !self.member.hub().home().is_here() {
            return Vec::new();
        }
        // Comparing types takes a moment; the control thread does not wait for it.
        let known = self.end.inbox().skipped.clone();
        let in_words = known.into_iter().map(|skipped| {
            let Mismatch { ours, theirs, difference } = self.end.mismatch(&skipped);
            Skipped {
                service: skipped.service,
                type_name: theirs,
                expected: ours,
                difference,
                node: skipped.holder.as_str().to_owned(),
            }
        });
        in_words.collect()
    }
}
