//! What the halves of a link have the engine do, and what they count.

use std::collections::VecDeque;
use std::sync::Arc;

use super::wants::Interest;
use crate::link::candidate::{Candidate, ExportId};

/// An import of one link; never reused.
pub type ImportId = u32;

/// What the engine is to do, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Attach to what the other host wants: give this to `hivemind_links::local::Exports::want`.
    Want(Arc<Interest>),
    /// Drop the messages of this export below this number.
    Release {
        /// Which export.
        export: ExportId,
        /// The number of the first message that stays.
        below: u64,
    },
    /// Announce a publisher; answered by [`Peering::opened`](super::Peering::opened) or
    /// [`Peering::not_opened`](super::Peering::not_opened).
    Open {
        /// Its name from now on.
        import: ImportId,
        /// Whom it stands for.
        candidate: Box<Candidate>,
        /// The number, at the remote publisher, of the first message that the import publishes or skips.
        first: u64,
    },
    /// The stream goes on: how much room is there? Answered by [`Peering::opened`](super::Peering::opened).
    Reopen {
        /// Which import.
        import: ImportId,
    },
    /// Skip `lost` messages, then drop the import and whatever it has not committed.
    Close {
        /// Which import.
        import: ImportId,
        /// Messages lost at the end.
        lost: u64,
    },
}

/// What a link has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections.
    pub connections: u64,
    /// Messages that the other host has acknowledged.
    pub delivered: u64,
    /// Messages that were sent again after a connection broke.
    pub again: u64,
    /// Messages of the other host that were committed here.
    pub received: u64,
    /// Messages of the other host that were lost on the way, or before it.
    pub lost: u64,
    /// Streams that the other host refused.
    pub refused: u64,
}

impl Totals {
    /// Saturates: a peer may claim as much as it likes.
    pub(super) fn add_lost(&mut self, lost: u64) {
        self.lost = self.lost.saturating_add(lost);
    }
}

/// What follows from what the halves were told.
#[derive(Debug, Default)]
pub(super) struct Effects {
    actions: VecDeque<Action>,
    pub(super) totals: Totals,
}

impl Effects {
    pub(super) fn add(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Replaces an older [`Action::Want`]: only the last one counts, so a peer that changes its mind often
    /// fills no queue.
    pub(super) fn want(&mut self, interest: Arc<Interest>) {
        self.actions.retain(|action| !matches!(action, Action::Want(_)));
        self.actions.push_back(Action::Want(interest));
    }

    pub(super) fn next(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
