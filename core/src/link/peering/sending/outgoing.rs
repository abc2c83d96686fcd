//! One stream to the other host.
//!
//! ```text
//!   held:   | released │ sent, not acknowledged │ being sent │ to be sent again |   next: to be polled
//!                      ▲ front                  ▲ sent       ▲ offset           ▲
//! ```
//!
//! The engine holds the messages; their numbers and lengths are here. Only a message that was sent in full
//! moves `sent`. If the connection breaks, `sent` and `offset` go back to the front.

use std::collections::VecDeque;

use crate::link::candidate::Candidate;
use crate::link::frame::Header;
use crate::link::peering::say::{self, Credit};
use crate::link::peering::violation::Violation;
use crate::protocol::EndId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not open on this connection.
    Closed,
    /// `Open` was sent.
    Asked,
    Open,
    /// The receiver does not want it; nothing is sent until it ends.
    Refused,
}

/// What a stream does in its turn.
pub(super) enum Turn {
    Nothing,
    /// It has to be polled.
    Poll,
    /// It is over, at this number.
    End {
        stream: u32,
        end: u64,
    },
    Piece(Header),
}

/// What came of a word of the receiver.
pub(super) struct Heard {
    /// Messages that need not be held any more.
    pub(super) released: u64,
    /// It could not send before, and can now.
    pub(super) is_unblocked: bool,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Outgoing {
    candidate: Candidate,
    state: State,
    /// Its number on this connection.
    stream: u32,
    /// What the engine holds: number and length, in order.
    held: VecDeque<(u64, u32)>,
    /// How many of them were sent in full on this connection.
    sent: usize,
    /// How much of the next one was sent.
    offset: u32,
    /// The number of the next message that can be polled.
    next: u64,
    /// The receiver has everything below: it is not sent.
    floor: u64,
    /// The receiver cannot have anything from here on.
    sent_next: u64,
    /// The number after the last message, once that is known.
    end: Option<u64>,
    end_sent: bool,
    credit: Credit,
    used: Credit,
    /// A poll may find something.
    ready: bool,
    /// A poll finds nothing before something is released.
    held_out: bool,
    in_turns: bool,
}

impl Outgoing {
    pub(super) fn new(candidate: Candidate, first: u64) -> Outgoing {
        Outgoing {
            candidate,
            state: State::Closed,
            stream: 0,
            held: VecDeque::new(),
            sent: 0,
            offset: 0,
            next: first,
            floor: 0,
            sent_next: 0,
            end: None,
            end_sent: false,
            credit: Credit::default(),
            used: Credit::default(),
            ready: true,
            held_out: false,
            in_turns: false,
        }
    }

    pub(super) fn publisher(&self) -> EndId {
        self.candidate.publisher
    }

    pub(super) fn stream(&self) -> u32 {
        self.stream
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub(super) fn is_asked(&self) -> bool {
        self.state == State::Asked
    }

    pub(super) fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    pub(super) fn has_end(&self) -> bool {
        self.end.is_some()
    }

    fn window_is_open(&self) -> bool {
        self.used.messages < self.credit.messages && self.used.bytes < self.credit.bytes
    }

    /// Messages are held that were not sent on this connection.
    fn has_unsent(&self) -> bool {
        self.sent < self.held.len()
    }

    /// The receiver has not acknowledged everything.
    pub(super) fn is_owed(&self) -> bool {
        self.state != State::Refused && (!self.held.is_empty() || (self.end.is_some() && !self.end_sent))
    }

    pub(super) fn may_poll(&self) -> bool {
        self.state == State::Open
            && !self.has_unsent()
            && self.end.is_none()
            && !self.held_out
            && self.window_is_open()
    }

    fn has_work(&self) -> bool {
        self.state == State::Open
            && (self.offset > 0
                || (self.has_unsent() && self.window_is_open())
                || (self.may_poll() && self.ready)
                || (!self.has_unsent() && self.end.is_some() && !self.end_sent))
    }

    /// True: it is to be put into the queue of turns.
    pub(super) fn wants_turn(&mut self) -> bool {
        let wants = !self.in_turns && self.has_work();
        self.in_turns |= wants;
        wants
    }

    // ---- what the engine says

    /// There is nothing after `next`.
    pub(super) fn end(&mut self, next: u64) {
        self.next = self.next.max(next);
        self.end = Some(self.next);
    }

    /// A message came. False: it is not to be sent, and not held.
    pub(super) fn polled(&mut self, sequence: u64, length: usize) -> bool {
        self.next = sequence + 1;
        match u32::try_from(length) {
            Ok(length) if sequence >= self.floor => self.held.push_back((sequence, length)),
            _ => return false,
        }
        true
    }

    pub(super) fn nothing(&mut self) {
        self.ready = false;
    }

    pub(super) fn hold_out(&mut self) {
        // With nothing held here, the engine has yet to drop what was released.
        self.held_out = !self.held.is_empty();
        self.ready = false;
    }

    pub(super) fn look_at(&mut self) {
        self.ready = true;
    }

    // ---- connections

    /// Asks the receiver for it, under this number.
    pub(super) fn ask(&mut self, stream: u32) -> say::Open {
        self.stream = stream;
        self.state = State::Asked;
        let first = self.held.front().map_or(self.next, |(sequence, _)| *sequence);
        say::Open::of(&self.candidate, first, self.end)
    }

    /// The connection is over. How many messages have to be sent again, and whether the stream is over, too.
    pub(super) fn disconnect(&mut self) -> (u64, bool) {
        let (again, is_over) = (self.sent as u64, self.is_refused() && self.has_end());
        self.state = State::Closed;
        (self.stream, self.sent, self.offset, self.end_sent) = (0, 0, 0, false);
        (self.credit, self.used) = (Credit::default(), Credit::default());
        (self.in_turns, self.ready, self.held_out) = (false, true, false);
        (again, is_over)
    }

    /// Holds nothing any more.
    pub(super) fn drop_held(&mut self) {
        self.held.clear();
        (self.sent, self.offset) = (0, 0);
    }

    // ---- what the receiver says

    /// It has everything below `next`, and is open.
    pub(super) fn resume(&mut self, next: u64) -> Heard {
        self.state = State::Open;
        self.floor = next;
        self.sent_next = next;
        Heard { released: self.release(next), is_unblocked: true }
    }

    /// Everything below `header.sequence` has arrived, and more may be sent.
    pub(super) fn credit(&mut self, header: &Header, credit: Credit) -> Result<Heard, Violation> {
        let (kind, stream, sequence) = (header.kind, header.stream, header.sequence);
        match self.state {
            State::Open => {}
            State::Refused => return Ok(Heard { released: 0, is_unblocked: false }),
            State::Closed | State::Asked => return Err(Violation::Unexpected { kind }),
        }
        if credit.messages < self.credit.messages || credit.bytes < self.credit.bytes {
            return Err(Violation::Credit { stream });
        }
        // With the first part of a message the receiver learns that everything before it is sent or lost.
        let begun = if self.offset > 0 { self.held.get(self.sent).map(|(at, _)| *at) } else { None };
        let expected = self.sent_next.max(self.floor).max(begun.unwrap_or(0));
        if sequence > expected {
            return Err(Violation::Sequence { kind, stream, sequence, expected });
        }
        let was_blocked = !self.may_poll();
        self.credit = credit;
        let released = self.release(sequence);
        Ok(Heard { released, is_unblocked: was_blocked && self.may_poll() })
    }

    /// Nothing below `below` is needed any more. Returns how many that were.
    fn release(&mut self, below: u64) -> u64 {
        let mut released = 0;
        while self.held.front().is_some_and(|(sequence, _)| *sequence < below) {
            self.held.pop_front();
            self.sent = self.sent.saturating_sub(1);
            released += 1;
        }
        if released > 0 {
            self.held_out = false;
        }
        released
    }

    /// It does not want it. True: its end is still to be said.
    pub(super) fn refuse(&mut self) -> bool {
        self.state = State::Refused;
        self.drop_held();
        !self.end_sent
    }

    /// Everything up to the end has arrived. How many messages it acknowledges so; `None`: it cannot know
    /// the end.
    pub(super) fn finish(&self) -> Option<u64> {
        let knows_end = self.end.is_some() && (self.end_sent || self.state == State::Asked);
        knows_end.then_some(self.held.len() as u64)
    }

    // ---- what is sent

    /// Its turn. A part of a message is at most `piece` bytes long.
    pub(super) fn take_turn(&mut self, piece: u32) -> Turn {
        self.in_turns = false;
        if !self.has_work() {
            return Turn::Nothing;
        }
        if self.offset == 0 && !self.has_unsent() {
            let Some(end) = self.end else { return Turn::Poll };
            // An export that was attached late, for old messages, and is detached at once, ends below what
            // the receiver has already.
            let end = end.max(self.floor);
            self.end_sent = true;
            self.sent_next = self.sent_next.max(end);
            return Turn::End { stream: self.stream, end };
        }
        let (sequence, total) = self.held[self.sent];
        let offset = self.offset;
        let length = piece.min(total - offset);
        if offset == 0 {
            self.used.messages += 1;
        }
        self.used.bytes += u64::from(length);
        self.offset += length;
        if self.offset == total {
            self.offset = 0;
            self.sent += 1;
            self.sent_next = sequence + 1;
        }
        Turn::Piece(Header::piece(self.stream, sequence, offset, length, total))
    }
}
