//! Streams that are declined: nobody here wants them, or their types take too much. Each costs a number,
//! until its sender ends it.

use std::collections::{BTreeMap, VecDeque};

use crate::link::frame::FrameKind;
use crate::link::peering::say::{self, Opened};
use crate::link::peering::violation::Violation;

pub(super) const UNWANTED: &str = "nobody here wants it";
pub(super) const TOO_MUCH_SCHEMA: &str =
    "the types of this link's publishers take more than 16 MiB to describe; use fewer, or narrower filters";

#[derive(Debug, Default)]
pub(super) struct Declined {
    /// By stream, the reason while it is not said.
    streams: BTreeMap<u32, Option<&'static str>>,
    due: VecDeque<u32>,
}

impl Declined {
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn clear(&mut self) {
        self.streams.clear();
        self.due.clear();
    }

    pub(super) fn add(&mut self, stream: u32, reason: &'static str) {
        self.streams.insert(stream, Some(reason));
        self.due.push_back(stream);
    }

    /// The sender ends a stream. False: it is none of these.
    pub(super) fn end(&mut self, stream: u32) -> Result<bool, Violation> {
        match self.streams.get(&stream) {
            None => Ok(false),
            // It ends because it was declined, and its sender cannot know that yet.
            Some(Some(_)) => Err(Violation::Unexpected { kind: FrameKind::End }),
            Some(None) => {
                self.streams.remove(&stream);
                Ok(true)
            }
        }
    }

    pub(super) fn has_something_to_say(&self) -> bool {
        !self.due.is_empty()
    }

    /// Appends the next refusal. False: none is due.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(stream) = self.due.pop_front() else { return false };
        let reason = self.streams.get_mut(&stream).and_then(Option::take).unwrap_or(UNWANTED).to_owned();
        say::append(FrameKind::Opened, stream, 0, &Opened::Refused { reason }, out);
        true
    }
}
