//! One stream of the other host, and the import that stands for its publisher.
//!
//! ```text
//!   numbers of a stream:   | committed or lost │ arrived, not committed │ coming in |
//!                                              ▲ done                   ▲ next
//! ```
//!
//! If the connection breaks, what arrived and was not committed is dropped, and `next` goes back to `done`:
//! the sender has it still. What was skipped is in `done`, so it is never skipped twice.

use std::collections::VecDeque;

use crate::contract::Contract;
use crate::link::candidate::Candidate;
use crate::link::frame::{FrameKind, Header};
use crate::link::peering::say::{self, Credit, Opened};
use crate::link::peering::violation::Violation;
use crate::protocol::EndId;

/// The most messages that a receiver grants ahead, whatever room it has.
pub const GRANTED_MAX: u64 = 4096;
/// Messages acknowledged at once; the sender holds them until then.
const ACKNOWLEDGE_EACH: u64 = 256;
/// A sender has few pins on its publisher's memory, and takes one for each message longer than this, in bytes
/// …
const LONG: u32 = 2048;
/// … so these are acknowledged sooner.
const ACKNOWLEDGE_EACH_LONG: u64 = 14;

/// A message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Its number.
    pub sequence: u64,
    /// How many messages before it are lost. Skip them, then call
    /// [`Peering::skipped`](crate::link::peering::Peering::skipped), once the message is complete and sound,
    /// and not before.
    pub lost: u64,
    /// Its bytes.
    pub total: u32,
}

/// A message of which only the beginning has arrived.
#[derive(Clone, Copy, Debug)]
struct Partial {
    sequence: u64,
    offset: u32,
    total: u32,
    /// There is memory for it.
    taken: bool,
}

/// A part of a message has arrived.
pub(super) enum Piece {
    Part,
    /// The message is complete; `taken`: there was memory for it.
    Last {
        taken: bool,
    },
}

/// When a sender is to hear of something.
pub(super) enum Queue {
    Neither,
    Now,
    /// Something else may be sent first, and take it along.
    Later,
}

/// What was said in the turn of an import.
pub(super) enum Said {
    Nothing,
    /// That the stream may begin; credit comes in another turn.
    Answer,
    All,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Incoming {
    candidate: Box<Candidate>,
    /// Its number on this connection; 0: none.
    stream: u32,
    /// `Action::Open` was not answered yet.
    opening: bool,
    /// The stream was known from an earlier connection.
    resumed: bool,
    /// The `Open` of this connection was answered.
    answered: bool,
    refused: Option<String>,
    next: u64,
    done: u64,
    partial: Option<Partial>,
    /// Bytes of messages that arrived and are not committed.
    pending: VecDeque<u32>,
    end: Option<u64>,
    arrived: Credit,
    committed: Credit,
    room: u64,
    /// The most bytes granted ahead.
    window: u64,
    said: Credit,
    said_committed: u64,
    said_done: u64,
    /// Long ones among those that are not acknowledged.
    long: u64,
    /// It is in the queue of those with something to say …
    in_due: bool,
    /// … or in that of those that can wait.
    in_later: bool,
}

impl Incoming {
    pub(super) fn new(candidate: Box<Candidate>, stream: u32, first: u64, window: u64) -> Incoming {
        Incoming {
            candidate,
            stream,
            opening: true,
            resumed: false,
            answered: false,
            refused: None,
            next: first,
            done: first,
            partial: None,
            pending: VecDeque::new(),
            end: None,
            arrived: Credit::default(),
            committed: Credit::default(),
            room: 0,
            window,
            said: Credit::default(),
            said_committed: 0,
            said_done: 0,
            long: 0,
            in_due: false,
            in_later: false,
        }
    }

    pub(super) fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    pub(super) fn publisher(&self) -> EndId {
        self.candidate.publisher
    }

    /// Its number on this connection; 0: none.
    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// The sender knows that it is refused, or has been told where to begin.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// The number after the last message that was published here, or counted as lost.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// An import that stands for this one can stand for the other one.
    pub(super) fn stands_for(&self, other: &Candidate) -> bool {
        let facts = |candidate: &Candidate| {
            let Contract { pattern, delivery, capacity, .. } = candidate.contract;
            (candidate.kind.fingerprint, pattern, delivery, capacity)
        };
        let ours = &self.candidate;
        (&ours.service, facts(ours), &ours.via) == (&other.service, facts(other), &other.via)
    }

    // ---- connections

    /// It is opened again. True: the engine is to be asked for its room.
    pub(super) fn reopen(&mut self, stream: u32) -> bool {
        self.stream = stream;
        !self.opening
    }

    pub(super) fn disconnect(&mut self) {
        (self.stream, self.answered, self.resumed, self.end, self.partial) = (0, false, true, None, None);
        self.next = self.done;
        self.pending.clear();
        (self.arrived, self.committed) = (Credit::default(), Credit::default());
        (self.said, self.said_committed, self.said_done, self.long) = (Credit::default(), 0, 0, 0);
        (self.in_due, self.in_later) = (false, false);
    }

    // ---- what the engine says

    pub(super) fn opened(&mut self, room: u64) {
        self.opening = false;
        self.room = room;
    }

    pub(super) fn set_room(&mut self, room: u64) {
        self.room = room;
    }

    /// Only the stream is left of it. Returns the description of its type, which is not needed any more.
    pub(super) fn refuse(&mut self, reason: String) -> Vec<u8> {
        self.opening = false;
        self.refused = Some(reason);
        self.partial = None;
        self.pending.clear();
        std::mem::take(&mut self.candidate.kind.schema)
    }

    /// There is no memory for the message that is coming in.
    pub(super) fn discard(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.taken = false;
        }
    }

    pub(super) fn skip(&mut self, lost: u64) {
        self.done += lost;
    }

    /// The oldest message that arrived was committed or skipped. False: there is none.
    pub(super) fn settle(&mut self, room: u64) -> bool {
        let Some(length) = self.pending.pop_front() else { return false };
        self.done += 1;
        self.committed.messages += 1;
        self.committed.bytes += u64::from(length);
        self.long += u64::from(length > LONG);
        self.room = room;
        true
    }

    /// Its sender has used all credit that it has, or was not given any yet, and may have more to send.
    pub(super) fn wants_room(&self) -> bool {
        let has_credit = self.answered && self.arrived.messages < self.said.messages;
        self.stream != 0 && self.refused.is_none() && self.end.is_none() && !has_credit
    }

    // ---- what the sender says

    /// A piece comes. At most `possible` messages can have been lost before it. If it is the first of its
    /// message, that begins.
    pub(super) fn piece(&mut self, header: &Header, possible: u64) -> Result<Option<Begin>, Violation> {
        let (kind, stream, sequence) = (header.kind, header.stream, header.sequence);
        if self.end.is_some() {
            return Err(Violation::Unexpected { kind });
        }
        if let Some(partial) = &self.partial {
            let expected = partial.sequence;
            if sequence != expected || header.total != partial.total {
                return Err(Violation::Sequence { kind, stream, sequence, expected });
            }
            if header.offset != partial.offset {
                return Err(Violation::Offset { sequence, offset: header.offset, expected: partial.offset });
            }
            return Ok(None);
        }
        if sequence < self.next {
            return Err(Violation::Sequence { kind, stream, sequence, expected: self.next });
        }
        if header.offset != 0 {
            return Err(Violation::Offset { sequence, offset: header.offset, expected: 0 });
        }
        if self.arrived.messages >= self.said.messages || self.arrived.bytes >= self.said.bytes {
            return Err(Violation::Credit { stream });
        }
        let (lost, total) = (sequence - self.next, header.total);
        if lost > possible {
            return Err(Violation::Gap { stream, lost, possible });
        }
        self.arrived.messages += 1;
        self.partial = Some(Partial { sequence, offset: 0, total, taken: true });
        self.next = sequence;
        Ok(Some(Begin { sequence, lost, total }))
    }

    /// There is memory for the message that is coming in.
    pub(super) fn is_taken(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.taken)
    }

    /// `length` bytes of the message that is coming in are there.
    pub(super) fn arrived(&mut self, length: u32) -> Piece {
        let Some(partial) = &mut self.partial else { return Piece::Part };
        partial.offset += length;
        self.arrived.bytes += u64::from(length);
        if partial.offset < partial.total {
            return Piece::Part;
        }
        let (total, taken) = (partial.total, partial.taken);
        self.next = partial.sequence + 1;
        self.pending.push_back(total);
        self.partial = None;
        Piece::Last { taken }
    }

    /// The stream ends. At most `possible` messages can have been lost before that. Returns how many were.
    pub(super) fn end(&mut self, header: &Header, possible: u64) -> Result<u64, Violation> {
        let (kind, stream, sequence) = (header.kind, header.stream, header.sequence);
        if !self.answered || self.partial.is_some() || self.end.is_some() {
            return Err(Violation::Unexpected { kind });
        }
        if sequence < self.next {
            return Err(Violation::Sequence { kind, stream, sequence, expected: self.next });
        }
        let lost = sequence - self.next;
        if lost > possible {
            return Err(Violation::Gap { stream, lost, possible });
        }
        self.end = Some(sequence);
        Ok(lost)
    }

    /// The number at which it ended, once everything before that is committed.
    pub(super) fn finished(&self) -> Option<u64> {
        self.end.filter(|_| self.pending.is_empty())
    }

    // ---- what is said to the sender

    fn grant(&self) -> Credit {
        Credit {
            messages: self.said.messages.max(self.committed.messages + self.room.min(GRANTED_MAX)),
            bytes: self.said.bytes.max(self.committed.bytes + self.window),
        }
    }

    /// True: the sender should know before more is read.
    fn is_urgent(&self) -> bool {
        let grant = self.grant();
        // A sender that may be out of credit waits for every bit of it.
        let starved = self.said.messages <= self.arrived.messages && grant.messages > self.said.messages;
        let each = ACKNOWLEDGE_EACH.min(u64::from(self.candidate.contract.capacity) / 4).max(1);
        starved
            || self.committed.messages - self.said_committed >= each
            || self.long >= ACKNOWLEDGE_EACH_LONG
            || grant.bytes - self.said.bytes >= self.window / 4
    }

    fn has_news(&self) -> bool {
        self.grant() != self.said || self.done != self.said_done
    }

    /// When its sender is to hear of what has changed. It is put into that queue.
    pub(super) fn queue(&mut self) -> Queue {
        if self.stream == 0 || self.in_due {
            return Queue::Neither;
        }
        if self.is_urgent() {
            self.in_due = true;
            return Queue::Now;
        }
        if self.in_later || !self.has_news() {
            return Queue::Neither;
        }
        self.in_later = true;
        Queue::Later
    }

    /// True: it is to be put into the queue of those with something to say.
    pub(super) fn becomes_due(&mut self) -> bool {
        let becomes_due = self.stream != 0 && !self.in_due;
        self.in_due |= becomes_due;
        becomes_due
    }

    /// It has waited for long enough. True: it is to be put into the queue of those with something to say.
    pub(super) fn has_waited(&mut self) -> bool {
        self.in_later = false;
        self.has_news() && self.becomes_due()
    }

    /// Its turn: appends what its sender is to know next.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> Said {
        self.in_due = false;
        let (stream, done) = (self.stream, self.done);
        if let Some(reason) = &self.refused {
            let refused = Opened::Refused { reason: reason.clone() };
            self.answered = true;
            say::append(FrameKind::Opened, stream, 0, &refused, out);
            return Said::All;
        }
        if stream == 0 {
            return Said::Nothing;
        }
        if !self.answered {
            self.answered = true;
            self.said_done = done;
            if self.resumed {
                say::append_bare(FrameKind::Resume, stream, done, out);
            } else {
                say::append(FrameKind::Opened, stream, done, &Opened::Yes, out);
            }
            return Said::Answer;
        }
        if !self.has_news() {
            return Said::Nothing;
        }
        let grant = self.grant();
        self.said = grant;
        self.said_committed = self.committed.messages;
        self.said_done = done;
        self.long = 0;
        say::append(FrameKind::Credit, stream, done, &grant, out);
        Said::All
    }
}
