//! What a link needs of the hive of its host, and all that its engine knows of it. `exports` and `imports`
//! implement it over the ports.
//!
//! Two threads work for a link. The *sending* one owns [`Exports`] and sleeps in [`Exports::sleep`] while
//! there is nothing to send; the *receiving* one owns the [`Import`]s and sleeps at the socket. Nothing here
//! blocks but `sleep`.

use std::sync::Arc;
use std::time::Duration;

use hivemind_core::link::candidate::{Candidate, ExportId};

/// What has changed at the exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExportChange {
    /// Attached: messages from `first` on can be polled.
    Begun {
        /// Its name from now on.
        id: ExportId,
        /// Whose messages.
        candidate: Candidate,
        /// The sequence number of the first.
        first: u64,
    },
    /// The publisher is gone, everything was polled; or the predicate does not want it any more.
    Ended {
        /// Which export.
        id: ExportId,
        /// The sequence number after the last one that was polled or lost.
        next: u64,
    },
}

/// The outcome of a poll.
#[derive(Debug)]
pub(crate) enum Polled<M> {
    /// Nothing is there.
    Nothing,
    /// A message. A gap to the one before was lost here, because the ring was overwritten.
    Message {
        /// Its number at its publisher.
        sequence: u64,
        /// Readable until dropped; it may pin memory of its publisher.
        message: M,
    },
    /// No more messages of this publisher can be held; drop some that were acknowledged, then poll again.
    HeldOut,
}

/// What is read from this host for one link. Used by the sending thread alone.
pub(crate) trait Exports: Send {
    /// A message that stays readable while it is kept for sending again. [`Polled::HeldOut`] says when no
    /// more of one publisher can be kept.
    type Message: AsRef<[u8]> + Send;

    /// From now on attach to exactly those publishers for which this says yes, also to those that it was
    /// asked about before. The predicate is called from other threads, and must not block.
    fn want(&mut self, wanted: Arc<dyn Fn(&Candidate) -> bool + Send + Sync>);

    /// Attachments that began or ended since the last call, appended to `changes`.
    fn changes(&mut self, changes: &mut Vec<ExportChange>);

    /// Appends those attachments that have messages which were not polled.
    fn ready(&self, ready: &mut Vec<ExportId>);

    /// True: attachments have begun or ended that [`Exports::changes`] has not told of.
    fn has_news(&self) -> bool;

    /// The next message of one publisher. Never blocks.
    fn poll(&mut self, id: ExportId) -> Polled<Self::Message>;

    /// Sleeps until one of the attachments for which `may_send` says yes has a message, there are changes,
    /// [`Exports::wake_up`] was called since the last sleep ended, or the time is over. Other attachments
    /// cause no wake-up.
    fn sleep(&mut self, may_send: &dyn Fn(ExportId) -> bool, timeout: Option<Duration>);

    /// Ends a sleep from other threads.
    fn wake_up(&self) -> WakeUp;
}

/// Ends the sleep that is under way, or the next one. Does not block. See [`Exports::wake_up`].
pub(crate) type WakeUp = Arc<dyn Fn() + Send + Sync>;

/// Why nothing can be published for a remote publisher, or this message not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ImportError {
    /// A subscriber is too far behind for a reliable service: no room now; try again when it has read.
    #[error("no room now")]
    Full,
    /// The message is longer than any that this publisher sends, or there is no memory for it. It counts as
    /// lost.
    #[error("no memory for a message of {bytes} bytes")]
    NoMemory {
        /// Its length.
        bytes: u64,
    },
    /// The bytes are no archive of the type of the service. The peer is damaged or hostile.
    #[error("no archive of the type of its service: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
    /// The hive refuses the publisher: another type on that service, a policy, a bound. Follow the reason.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

/// Publishers that stand for remote ones. May be used by several threads.
pub(crate) trait Imports: Send + Sync {
    /// One of them.
    type Import: Import;

    /// Announces a publisher for `candidate`, whose `via` is set. The number of its first message, at the
    /// remote publisher, is `first`; each one after it, published or skipped, has the next number. May wait
    /// for the root.
    ///
    /// # Errors
    /// [`ImportError::Refused`].
    fn open(&self, candidate: &Candidate, first: u64) -> Result<Self::Import, ImportError>;
}

/// A publisher that stands for a remote one. Dropped, it is gone for its subscribers.
pub(crate) trait Import: Send {
    /// Takes a place for the next message, and at most the memory of a short one: a sender that announces a
    /// long message has sent nothing yet. Call it once for each message, then [`Import::commit`] or
    /// [`Import::abandon`].
    ///
    /// # Errors
    /// [`ImportError::Full`], [`ImportError::NoMemory`]; nothing has changed then.
    fn begin(&mut self, length: usize) -> Result<(), ImportError>;

    /// The first `length` bytes of the message are about to come: sees to it that [`Import::memory`] has
    /// them. It may take about as much again ahead, and no more.
    ///
    /// # Errors
    /// [`ImportError::NoMemory`]: the message cannot be completed; [`Import::abandon`] it.
    fn reach(&mut self, length: usize) -> Result<(), ImportError>;

    /// The memory that was taken, as far as it was [reached](Import::reach), in shared memory unless the
    /// message is very short; empty when none was.
    fn memory(&mut self) -> &mut [u8];

    /// Checks the message and publishes it. Subscribers that sleep are not woken yet.
    ///
    /// # Errors
    /// [`ImportError::Invalid`]; it is dropped then. [`ImportError::Full`]: what was skipped since
    /// [`Import::begin`] took its room; it is still there.
    fn commit(&mut self) -> Result<(), ImportError>;

    /// Wakes the subscribers that sleep, after commits. May give the processor to them.
    fn announce(&mut self);

    /// Gives the memory back.
    fn abandon(&mut self);

    /// Counts `messages` as lost on the way, at every subscriber. The cost does not grow with their number.
    fn skip(&mut self, messages: u64);

    /// Why the hive does not want it, if that came later than `open`.
    fn refusal(&self) -> Option<String>;

    /// How many messages it could take now. None before the first subscriber is attached, or it is clear that
    /// none comes: what is sent before would be lost to it. For a reliable service, until the slowest
    /// subscriber has read; else the ring's capacity.
    fn room(&mut self) -> u64;
}
