//! One publisher that an intake is attached to.

use hivemind_core::contract::Match;
use hivemind_core::protocol::EndId;
use hivemind_ring::mapped::Mapped;
use hivemind_ring::reader::{PollError, Reader, Taken};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::ports::origin::Origin;

/// Where a subscriber stands with one publisher. Example: `hivemind::Subscriber::connections`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// The publisher, its node's name, and the service.
    pub origin: Origin,
    /// Sequence of the first message that this subscriber could get.
    pub first: u64,
    /// Messages received.
    pub received: u64,
    /// Messages missed for good. `first + received + lost` is the sequence that is read next.
    pub lost: u64,
    /// Whether this subscriber has detached: the publisher is gone and all that it committed was read (or it
    /// was at fault).
    pub ended: bool,
    /// Whether messages are copied before they are read, because their publisher is not trusted (see
    /// [`Trust`](crate::ports::Trust)).
    pub copies: bool,
}

/// The most publishers of other hosts of which a subscriber remembers how far it got, the latest.
const LEFT_MAX: usize = 4096;

/// A publisher of another host, and the user who says that it stands for it: nobody takes the place of
/// somebody else's, and has messages counted that nobody ever sent.
pub(super) type StoodFor = (u32, EndId);

/// By publisher, the number of the message that would have been next.
#[derive(Default)]
pub(super) struct Left {
    pub(super) next: HashMap<StoodFor, u64>,
    pub(super) in_order: VecDeque<StoodFor>,
}

impl Left {
    pub(super) fn insert(&mut self, publisher: StoodFor, next: u64) {
        if self.next.insert(publisher, next).is_none() {
            self.in_order.push_back(publisher);
            if self.in_order.len() > LEFT_MAX
                && let Some(oldest) = self.in_order.pop_front()
            {
                self.next.remove(&oldest);
            }
        }
    }
}

/// One attachment. See [`Intake`](super::Intake) for its state.
#[derive(Debug)]
pub struct Connection<S = ()> {
    pub(super) reader: Reader<Mapped>,
    pub(super) origin: Origin,
    /// See [`Arrival::matched`].
    pub(super) matched: Arc<Match>,
    /// See [`Arrival::user`].
    pub(super) user: u32,
    /// The kernel says that the publisher's node is gone.
    pub(super) gone: bool,
    /// Its publisher is not trusted: its chunks are not mapped, and messages are copied before they are
    /// looked at.
    pub(super) copies: bool,
    /// Messages that were read and are not what they must be, or could not be copied.
    pub(super) invalid: u64,
    /// There is another one for the same publisher of another host by now, which begins at this number
    /// there.
    pub(super) followed_at: Option<u64>,
    /// `None` until [`Intake::admit_new`](super::Intake::admit_new) gives it one.
    pub(super) state: Option<S>,
}

impl<S> Connection<S> {
    /// The end that let this subscriber in.
    #[must_use]
    pub fn route(&self) -> EndId {
        self.matched.route.end
    }

    /// The number of the first message that this subscriber could get.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.reader.first()
    }

    /// The number of the message that is read next.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.reader.cursor()
    }

    /// How many messages are published and not read. A stranger's figure.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.reader.lag()
    }

    /// Whether there is something to read.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.reader.ready()
    }

    /// Whether its publisher waits for slow subscribers instead of overwriting.
    #[must_use]
    pub fn reliable(&self) -> bool {
        self.reader.reliable()
    }

    /// The next message, if there is one. Never blocks.
    ///
    /// # Errors
    /// [`PollError`]. All but [`PollError::HeldOut`] mean that the publisher is at fault:
    /// [`Intake::cut_off`](super::Intake::cut_off) it.
    pub fn poll(&mut self) -> Result<Option<Taken<Mapped>>, PollError> {
        self.reader.poll()
    }

    /// Its state; `None`: it was not admitted yet.
    #[must_use]
    pub fn state(&self) -> Option<&S> {
        self.state.as_ref()
    }

    /// Its state, to be changed.
    pub fn state_mut(&mut self) -> Option<&mut S> {
        self.state.as_mut()
    }

    /// The number that message 0 of the ring has at its publisher's host, if that is another one.
    pub(super) fn remote_first(&self) -> Option<u64> {
        self.matched.route.author.remote().map(|remote| remote.first)
    }

    pub(super) fn received(&self) -> u64 {
        self.reader.cursor().saturating_sub(self.reader.first()).saturating_sub(self.lost())
    }

    pub(super) fn lost(&self) -> u64 {
        self.reader.lost() + self.invalid
    }

    /// For a publisher of another host, its number of the message that would be read next.
    pub(super) fn remote_next(&self) -> Option<u64> {
        // Numbers of a stranger: whatever they are, only figures depend on it.
        Some(self.remote_first()?.saturating_add(self.reader.cursor()))
    }

    /// Whether its publisher has ended, or is gone, and everything was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.reader.finished() || (self.gone && !self.reader.ready())
    }

    pub(super) fn status(&self, ended: bool) -> ConnectionStatus {
        ConnectionStatus {
            origin: self.origin,
            first: self.reader.first(),
            received: self.received(),
            lost: self.lost(),
            ended,
            copies: self.copies,
        }
    }
}
