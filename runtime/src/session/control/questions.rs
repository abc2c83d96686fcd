//! What the root was asked. Questions outlive roots: the next one is asked anew.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use hivemind_core::protocol::{Cursor, EndId, Offer, ToRoot};

use crate::session::listing::Collector;
use crate::session::{Handle, Listing, Misfits, Reply, SessionError};

/// See the head of the module.
#[derive(Default)]
pub(super) struct Questions {
    asked: BTreeMap<u64, Question>,
    /// The root was asked for a sign of life.
    pub(super) is_asking: bool,
}

/// A question that the root has not answered.
pub(super) enum Question {
    List {
        collector: Collector,
        after: Cursor,
        reply: Reply<Listing, SessionError>,
    },
    Inspect {
        end: EndId,
        reply: Reply<Handle, SessionError>,
    },
    Misfits {
        publisher: u32,
        reply: Reply<Option<Misfits>, SessionError>,
    },
    /// For a ring that this node is to keep.
    Keep {
        source: EndId,
        offer: Box<Offer>,
        pidfd: OwnedFd,
    },
}

impl Questions {
    pub(super) fn insert(&mut self, request: u64, question: Question) {
        self.asked.insert(request, question);
    }

    pub(super) fn get_mut(&mut self, request: u64) -> Option<&mut Question> {
        self.asked.get_mut(&request)
    }

    pub(super) fn remove(&mut self, request: u64) -> Option<Question> {
        self.asked.remove(&request)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Forgets what only this root can answer.
    pub(super) fn begin_anew(&mut self) {
        self.is_asking = false;
        self.asked.retain(|_, question| !matches!(question, Question::Keep { .. }));
    }

    /// All questions, to be asked from their beginning.
    pub(super) fn all_anew(&mut self) -> Vec<u64> {
        for question in self.asked.values_mut() {
            if let Question::List { collector, after, .. } = question {
                (*collector, *after) = (Collector::default(), Cursor::Nodes(0));
            }
        }
        self.asked.keys().copied().collect()
    }

    /// A question, as the root hears it.
    pub(super) fn in_words(&self, request: u64) -> Option<ToRoot> {
        Some(match self.asked.get(&request)? {
            Question::List { after, .. } => ToRoot::List { request, after: after.clone() },
            Question::Inspect { end, .. } | Question::Keep { source: end, .. } => {
                ToRoot::Inspect { request, end: *end }
            }
            Question::Misfits { publisher, .. } => ToRoot::Misfits { request, publisher: *publisher },
        })
    }
}
