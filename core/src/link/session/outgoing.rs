//! The sender's half: streams of local publishers to the other host.
//!
//! ```text
//!   held:   | released │ sent, not acknowledged │ being sent │ to be sent again |   next: to be polled
//!                      ▲ front                  ▲ sent       ▲ offset           ▲
//! ```
//!
//! The engine holds the messages, this table their numbers and lengths. Only one that was sent in full moves `sent`; if the connection
//! breaks, `sent` and `offset` go back to the front.

use std::collections::VecDeque;
use std::sync::Arc;

use super::say::{self, Credit};
use super::{Action, Out, STREAMS_MAX, Session, Violation};
use crate::link::candidate::{Candidate, ExportId};
use crate::link::frame::{Header, Kind};

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
    /// How much of the one after those was sent.
    offset: u32,
    /// The number of the next message that can be polled.
    next: u64,
    /// What the receiver has already: it is not sent.
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
    /// It is in `turns`.
    in_turns: bool,
}

impl Outgoing {
    fn window_is_open(&self) -> bool {
        self.used.messages < self.credit.messages && self.used.bytes < self.credit.bytes
    }

    /// Messages are held that were not sent on this connection.
    fn has_unsent(&self) -> bool {
        self.sent < self.held.len()
    }

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

    /// The number of the first message that the receiver can get.
    fn first(&self) -> u64 {
        self.held.front().map_or(self.next, |(sequence, _)| *sequence)
    }

    fn rewind(&mut self) {
        self.state = State::Closed;
        (self.stream, self.sent, self.offset, self.end_sent) = (0, 0, 0, false);
        (self.credit, self.used) = (Credit::default(), Credit::default());
        (self.in_turns, self.ready, self.held_out) = (false, true, false);
    }

    /// Everything below `below` is not needed any more; how many that were.
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
}

impl Session {
    /// An export began: from `first` on its messages can be polled. `false`: there are too many streams, and it is not sent.
    pub fn begun(&mut self, export: ExportId, candidate: Candidate, first: u64) -> bool {
        if self.outgoing.len() >= STREAMS_MAX {
            return false;
        }
        let outgoing = Outgoing {
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
        };
        self.outgoing.insert(export, outgoing);
        if self.peer.is_some() {
            self.open_due.push_back(export);
        }
        true
    }

    /// An export ended; `next` is the number after its last message.
    pub fn ended(&mut self, export: ExportId, next: u64) {
        let nobody_waits = self.peer.is_none() && self.release_at.is_none();
        let Some(outgoing) = self.outgoing.get_mut(&export) else { return };
        outgoing.next = outgoing.next.max(next);
        outgoing.end = Some(outgoing.next);
        if outgoing.state == State::Refused || nobody_waits {
            self.forget_outgoing(export);
        } else {
            self.take_turn(export);
        }
    }

    /// A message came, of `length` bytes; the engine holds it until [`Action::Release`]. One that is longer than any message can be
    /// is released at once, and lost.
    pub fn polled(&mut self, export: ExportId, sequence: u64, length: usize) {
        let Some(outgoing) = self.outgoing.get_mut(&export) else { return };
        outgoing.next = sequence + 1;
        match u32::try_from(length) {
            Ok(length) if sequence >= outgoing.floor => outgoing.held.push_back((sequence, length)),
            _ => self.actions.push_back(Action::Release { export, below: sequence + 1 }),
        }
        self.take_turn(export);
    }

    /// There was no message.
    pub fn nothing(&mut self, export: ExportId) {
        if let Some(outgoing) = self.outgoing.get_mut(&export) {
            outgoing.ready = false;
        }
    }

    /// As many messages are held as can be. It is polled again after [`Session::look_at`], once some are released.
    pub fn held_out(&mut self, export: ExportId) {
        if let Some(outgoing) = self.outgoing.get_mut(&export) {
            // With nothing held here, the engine has yet to do an [`Action::Release`].
            outgoing.held_out = !outgoing.held.is_empty();
            outgoing.ready = false;
        }
    }

    /// These exports may have messages again.
    pub fn look_at(&mut self, exports: &[ExportId]) {
        for export in exports {
            if let Some(outgoing) = self.outgoing.get_mut(export) {
                outgoing.ready = true;
                self.take_turn(*export);
            }
        }
    }

    /// True: a message of this export could be sent now.
    #[must_use]
    pub fn may_send(&self, export: ExportId) -> bool {
        self.outgoing.get(&export).is_some_and(Outgoing::may_poll)
    }

    /// Exports that could not send can go on since this was asked last.
    pub fn take_unblocked(&mut self) -> bool {
        std::mem::take(&mut self.has_unblocked)
    }

    pub(super) fn connect_outgoing(&mut self) {
        self.open_due = self.outgoing.keys().copied().collect();
    }

    pub(super) fn disconnect_outgoing(&mut self) {
        self.streams_out.clear();
        self.open_due.clear();
        self.turns.clear();
        self.end_due.clear();
        self.next_stream = 1;
        let mut over = Vec::new();
        for (export, outgoing) in &mut self.outgoing {
            self.totals.again += outgoing.sent as u64;
            if outgoing.state == State::Refused && outgoing.end.is_some() {
                over.push(*export);
            }
            outgoing.rewind();
        }
        for export in over {
            self.forget_outgoing(export);
        }
    }

    pub(super) fn let_go_outgoing(&mut self) {
        let exports: Vec<ExportId> = self.outgoing.keys().copied().collect();
        for export in exports {
            let Some(outgoing) = self.outgoing.get_mut(&export) else { continue };
            outgoing.held.clear();
            (outgoing.sent, outgoing.offset) = (0, 0);
            let over = outgoing.end.is_some();
            self.actions.push_back(Action::Release { export, below: u64::MAX });
            if over {
                self.outgoing.remove(&export);
            }
        }
    }

    pub(super) fn say_outgoing(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(stream) = self.end_due.pop_front() {
            say::append_bare(Kind::End, stream, 0, out);
            return true;
        }
        while let Some(export) = self.open_due.pop_front() {
            if self.is_second(export) {
                continue;
            }
            let Some(outgoing) = self.outgoing.get_mut(&export) else { continue };
            if outgoing.state != State::Closed {
                continue;
            }
            let stream = self.next_stream;
            self.next_stream += 1;
            self.streams_out.insert(stream, export);
            outgoing.stream = stream;
            outgoing.state = State::Asked;
            let open = say::Open::of(&outgoing.candidate, outgoing.first(), outgoing.end);
            say::append(Kind::Open, stream, 0, &open, out);
            return true;
        }
        false
    }

    pub(super) fn next_piece(&mut self, out: &mut Vec<u8>) -> Out {
        // Each turn ends in an answer or shortens `turns`, so this ends.
        while let Some(export) = self.turns.pop_front() {
            let Some(outgoing) = self.outgoing.get_mut(&export) else { continue };
            outgoing.in_turns = false;
            if !outgoing.has_work() {
                continue;
            }
            if outgoing.offset == 0 && !outgoing.has_unsent() {
                if let Some(end) = outgoing.end {
                    // Who was attached late, for old messages, and is detached at once ends below what the receiver has already.
                    let end = end.max(outgoing.floor);
                    outgoing.end_sent = true;
                    outgoing.sent_next = outgoing.sent_next.max(end);
                    say::append_bare(Kind::End, outgoing.stream, end, out);
                    return Out::Frame;
                }
                return Out::Poll { export };
            }
            let (sequence, total) = outgoing.held[outgoing.sent];
            let offset = outgoing.offset;
            let length = self.settings.piece.min(total - offset);
            if offset == 0 {
                outgoing.used.messages += 1;
            }
            outgoing.used.bytes += u64::from(length);
            outgoing.offset += length;
            if outgoing.offset == total {
                outgoing.offset = 0;
                outgoing.sent += 1;
                outgoing.sent_next = sequence + 1;
            }
            let header = Header::piece(outgoing.stream, sequence, offset, length, total);
            self.take_turn(export);
            return Out::Piece { export, header };
        }
        Out::Nothing
    }

    pub(super) fn resume(&mut self, header: &Header) -> Result<(), Violation> {
        let Some(export) = self.asked_stream(header)? else { return Ok(()) };
        self.go_on(export, header.sequence);
        Ok(())
    }

    pub(super) fn answered(&mut self, header: &Header, opened: &say::Opened) -> Result<(), Violation> {
        match opened {
            say::Opened::Yes => self.resume(header),
            say::Opened::Over => {
                let Some(export) = self.known_stream(header)? else { return Ok(()) };
                let outgoing = &self.outgoing[&export];
                if outgoing.end.is_none() || !(outgoing.end_sent || outgoing.state == State::Asked) {
                    return Err(Violation::Unexpected { kind: header.kind });
                }
                self.totals.delivered += outgoing.held.len() as u64;
                self.forget_outgoing(export);
                Ok(())
            }
            say::Opened::Refused { .. } => {
                let Some(export) = self.known_stream(header)? else { return Ok(()) };
                self.refused(export);
                Ok(())
            }
        }
    }

    pub(super) fn credit(&mut self, header: &Header, credit: Credit) -> Result<(), Violation> {
        let Some(export) = self.known_stream(header)? else { return Ok(()) };
        let Some(outgoing) = self.outgoing.get_mut(&export) else { return Ok(()) };
        match outgoing.state {
            State::Open => {}
            State::Refused => return Ok(()),
            State::Closed | State::Asked => return Err(Violation::Unexpected { kind: header.kind }),
        }
        if credit.messages < outgoing.credit.messages || credit.bytes < outgoing.credit.bytes {
            return Err(Violation::Credit { stream: header.stream });
        }
        // With the first part of a message the receiver learns that everything before it is sent or lost.
        let begun =
            if outgoing.offset > 0 { outgoing.held.get(outgoing.sent).map(|(at, _)| *at) } else { None };
        let bound = outgoing.sent_next.max(outgoing.floor).max(begun.unwrap_or(0));
        if header.sequence > bound {
            return Err(Violation::Sequence {
                kind: header.kind,
                stream: header.stream,
                sequence: header.sequence,
                expected: bound,
            });
        }
        let was_blocked = !outgoing.may_poll();
        outgoing.credit = credit;
        let released = outgoing.release(header.sequence);
        self.has_unblocked |= was_blocked && outgoing.may_poll();
        self.totals.delivered += released;
        if released > 0 {
            self.actions.push_back(Action::Release { export, below: header.sequence });
        }
        self.take_turn(export);
        Ok(())
    }

    /// The receiver has everything below `next`.
    fn go_on(&mut self, export: ExportId, next: u64) {
        let Some(outgoing) = self.outgoing.get_mut(&export) else { return };
        outgoing.state = State::Open;
        outgoing.floor = next;
        outgoing.sent_next = next;
        let released = outgoing.release(next);
        self.has_unblocked = true;
        self.totals.delivered += released;
        if released > 0 {
            self.actions.push_back(Action::Release { export, below: next });
        }
        self.take_turn(export);
    }

    fn refused(&mut self, export: ExportId) {
        let Some(outgoing) = self.outgoing.get_mut(&export) else { return };
        if outgoing.state == State::Refused {
            return;
        }
        self.totals.refused += 1;
        outgoing.state = State::Refused;
        outgoing.held.clear();
        (outgoing.sent, outgoing.offset) = (0, 0);
        if !outgoing.end_sent {
            self.end_due.push_back(outgoing.stream);
        }
        let (publisher, over) = (outgoing.candidate.publisher, outgoing.end.is_some());
        self.actions.push_back(Action::Release { export, below: u64::MAX });
        if over {
            self.forget_outgoing(export);
        } else {
            // Nobody reads it any more, so the link lets go of the publisher: a reliable one would wait for it.
            Arc::make_mut(&mut self.theirs).refused.insert(publisher);
            self.say_wanted();
        }
    }

    fn forget_outgoing(&mut self, export: ExportId) {
        if let Some(outgoing) = self.outgoing.remove(&export) {
            self.streams_out.remove(&outgoing.stream);
            self.actions.push_back(Action::Release { export, below: u64::MAX });
            if self.peer.is_some() {
                let publisher = outgoing.candidate.publisher;
                let waiting =
                    |other: &Outgoing| other.candidate.publisher == publisher && other.state == State::Closed;
                let waiting =
                    self.outgoing.iter().find(|(_, other)| waiting(other)).map(|(export, _)| *export);
                self.open_due.extend(waiting);
            }
        }
    }

    /// True: an older export of the same publisher is not over yet; the receiver knows streams by their publisher. This one follows.
    fn is_second(&self, export: ExportId) -> bool {
        let Some(outgoing) = self.outgoing.get(&export) else { return false };
        let publisher = outgoing.candidate.publisher;
        self.outgoing.range(..export).any(|(_, older)| older.candidate.publisher == publisher)
    }

    fn take_turn(&mut self, export: ExportId) {
        let Some(outgoing) = self.outgoing.get_mut(&export) else { return };
        if !outgoing.in_turns && outgoing.has_work() {
            outgoing.in_turns = true;
            self.turns.push_back(export);
        }
    }

    /// Which export; `None`: it is over, and the peer does not know it yet.
    fn known_stream(&self, header: &Header) -> Result<Option<ExportId>, Violation> {
        if header.stream >= self.next_stream {
            return Err(Violation::Stream { kind: header.kind, stream: header.stream });
        }
        Ok(self.streams_out.get(&header.stream).copied().filter(|export| self.outgoing.contains_key(export)))
    }

    fn asked_stream(&self, header: &Header) -> Result<Option<ExportId>, Violation> {
        let export = self.known_stream(header)?;
        match export.map(|export| self.outgoing[&export].state) {
            Some(State::Asked) | None => Ok(export),
            Some(_) => Err(Violation::Unexpected { kind: header.kind }),
        }
    }
}
