//! The sending half: streams of local publishers to the other host.
//!
//! It outlives connections. On each one it opens all its streams anew, under numbers that only grow; the
//! receiver knows them by their publisher and says where to go on. Streams take turns, a part of a message
//! each.

mod outgoing;

use std::collections::{BTreeMap, VecDeque};

use self::outgoing::{Heard, Outgoing, Turn};
use super::effects::{Action, Effects};
use super::say::{self, Credit, Opened};
use super::violation::Violation;
use crate::link::candidate::{Candidate, ExportId};
use crate::link::frame::{FrameKind, Header};
use crate::protocol::EndId;

/// The most streams in one direction of a link.
pub const STREAMS_MAX: usize = 4096;

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Nothing, until something happens.
    Nothing,
    /// A whole frame was appended.
    Frame,
    /// A part of a message that the engine holds. It is sent in full, or the connection is over.
    Piece {
        /// Whose message.
        export: ExportId,
        /// The head of the frame; its `sequence`, `offset` and `length` say which bytes.
        header: Header,
    },
    /// Poll this export, and say what came: [`Peering::polled`](super::Peering::polled),
    /// [`Peering::nothing`](super::Peering::nothing) or [`Peering::held_out`](super::Peering::held_out).
    Poll {
        /// Which export.
        export: ExportId,
    },
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Sending {
    /// Longest part of a message, in bytes.
    piece: u32,
    is_connected: bool,
    exports: BTreeMap<ExportId, Outgoing>,
    /// Streams of this connection.
    streams: BTreeMap<u32, ExportId>,
    next_stream: u32,
    /// Streams that are to be opened.
    open_due: VecDeque<ExportId>,
    /// Streams that may have something to send, each once.
    turns: VecDeque<ExportId>,
    /// Streams that are refused and not ended yet.
    end_due: VecDeque<u32>,
    /// See [`Sending::take_unblocked`].
    has_unblocked: bool,
}

impl Sending {
    pub(super) fn new(piece: u32) -> Sending {
        Sending {
            piece,
            is_connected: false,
            exports: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            open_due: VecDeque::new(),
            turns: VecDeque::new(),
            end_due: VecDeque::new(),
            has_unblocked: false,
        }
    }

    // ---- connections

    pub(super) fn connect(&mut self) {
        self.is_connected = true;
        self.open_due = self.exports.keys().copied().collect();
    }

    pub(super) fn disconnect(&mut self, effects: &mut Effects) {
        self.is_connected = false;
        self.streams.clear();
        self.open_due.clear();
        self.turns.clear();
        self.end_due.clear();
        self.next_stream = 1;
        let mut over = Vec::new();
        for (export, outgoing) in &mut self.exports {
            let (again, is_over) = outgoing.disconnect();
            effects.totals.again += again;
            if is_over {
                over.push(*export);
            }
        }
        for export in over {
            self.forget(export, effects);
        }
    }

    /// Lets go of every message that is held, and of streams that have ended.
    pub(super) fn let_go(&mut self, effects: &mut Effects) {
        for (export, outgoing) in &mut self.exports {
            outgoing.drop_held();
            effects.add(Action::Release { export: *export, below: u64::MAX });
        }
        self.exports.retain(|_, outgoing| !outgoing.has_end());
    }

    // ---- what the engine says

    /// False: there are too many streams.
    pub(super) fn begun(&mut self, export: ExportId, candidate: Candidate, first: u64) -> bool {
        if self.exports.len() >= STREAMS_MAX {
            return false;
        }
        self.exports.insert(export, Outgoing::new(candidate, first));
        if self.is_connected {
            self.open_due.push_back(export);
        }
        true
    }

    /// `is_kept`: without a connection the stream waits for the next one.
    pub(super) fn ended(&mut self, export: ExportId, next: u64, is_kept: bool, effects: &mut Effects) {
        let nobody_waits = !self.is_connected && !is_kept;
        let Some(outgoing) = self.exports.get_mut(&export) else { return };
        outgoing.end(next);
        if outgoing.is_refused() || nobody_waits {
            self.forget(export, effects);
        } else {
            self.take_turn(export);
        }
    }

    pub(super) fn polled(&mut self, export: ExportId, sequence: u64, length: usize, effects: &mut Effects) {
        let Some(outgoing) = self.exports.get_mut(&export) else { return };
        if !outgoing.polled(sequence, length) {
            effects.add(Action::Release { export, below: sequence + 1 });
        }
        self.take_turn(export);
    }

    pub(super) fn nothing(&mut self, export: ExportId) {
        if let Some(outgoing) = self.exports.get_mut(&export) {
            outgoing.nothing();
        }
    }

    pub(super) fn held_out(&mut self, export: ExportId) {
        if let Some(outgoing) = self.exports.get_mut(&export) {
            outgoing.hold_out();
        }
    }

    pub(super) fn look_at(&mut self, exports: &[ExportId]) {
        for export in exports {
            if let Some(outgoing) = self.exports.get_mut(export) {
                outgoing.look_at();
                self.take_turn(*export);
            }
        }
    }

    pub(super) fn may_send(&self, export: ExportId) -> bool {
        self.exports.get(&export).is_some_and(Outgoing::may_poll)
    }

    pub(super) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    pub(super) fn has_unacknowledged(&self) -> bool {
        self.exports.values().any(Outgoing::is_owed)
    }

    /// Whether exports that could not send can go on since this was asked last.
    pub(super) fn take_unblocked(&mut self) -> bool {
        std::mem::take(&mut self.has_unblocked)
    }

    // ---- what is sent

    pub(super) fn has_something_to_say(&self) -> bool {
        !self.end_due.is_empty() || !self.open_due.is_empty()
    }

    /// Appends the next `End` or `Open`. False: none is due.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(stream) = self.end_due.pop_front() {
            say::append_bare(FrameKind::End, stream, 0, out);
            return true;
        }
        while let Some(export) = self.open_due.pop_front() {
            if self.is_second(export) {
                continue;
            }
            let Some(outgoing) = self.exports.get_mut(&export) else { continue };
            if !outgoing.is_closed() {
                continue;
            }
            let stream = self.next_stream;
            self.next_stream += 1;
            self.streams.insert(stream, export);
            say::append(FrameKind::Open, stream, 0, &outgoing.ask(stream), out);
            return true;
        }
        false
    }

    pub(super) fn next_piece(&mut self, out: &mut Vec<u8>) -> Out {
        // Each turn ends in an answer or shortens `turns`, so this ends.
        while let Some(export) = self.turns.pop_front() {
            let Some(outgoing) = self.exports.get_mut(&export) else { continue };
            match outgoing.take_turn(self.piece) {
                Turn::Nothing => {}
                Turn::Poll => return Out::Poll { export },
                Turn::End { stream, end } => {
                    say::append_bare(FrameKind::End, stream, end, out);
                    return Out::Frame;
                }
                Turn::Piece(header) => {
                    self.take_turn(export);
                    return Out::Piece { export, header };
                }
            }
        }
        Out::Nothing
    }

    // ---- what the receiver says

    pub(super) fn resume(&mut self, header: &Header, effects: &mut Effects) -> Result<(), Violation> {
        let Some(export) = self.asked_stream(header)? else { return Ok(()) };
        let Some(outgoing) = self.exports.get_mut(&export) else { return Ok(()) };
        let heard = outgoing.resume(header.sequence);
        self.go_on(export, header.sequence, &heard, effects);
        Ok(())
    }

    /// The answer to `Open`. Returns the publisher, if the receiver refuses it and it has not ended.
    pub(super) fn answered(
        &mut self,
        header: &Header,
        opened: &Opened,
        effects: &mut Effects,
    ) -> Result<Option<EndId>, Violation> {
        match opened {
            Opened::Yes => self.resume(header, effects).map(|()| None),
            Opened::Over => {
                let Some(export) = self.known_stream(header)? else { return Ok(None) };
                let delivered = self.exports.get(&export).and_then(Outgoing::finish);
                effects.totals.delivered += delivered.ok_or(Violation::Unexpected { kind: header.kind })?;
                self.forget(export, effects);
                Ok(None)
            }
            Opened::Refused { .. } => {
                Ok(self.known_stream(header)?.and_then(|export| self.refused(export, effects)))
            }
        }
    }

    pub(super) fn credit(
        &mut self,
        header: &Header,
        credit: Credit,
        effects: &mut Effects,
    ) -> Result<(), Violation> {
        let Some(export) = self.known_stream(header)? else { return Ok(()) };
        let Some(outgoing) = self.exports.get_mut(&export) else { return Ok(()) };
        let heard = outgoing.credit(header, credit)?;
        self.go_on(export, header.sequence, &heard, effects);
        Ok(())
    }

    /// The receiver has everything below `below`.
    fn go_on(&mut self, export: ExportId, below: u64, heard: &Heard, effects: &mut Effects) {
        self.has_unblocked |= heard.is_unblocked;
        effects.totals.delivered += heard.released;
        if heard.released > 0 {
            effects.add(Action::Release { export, below });
        }
        self.take_turn(export);
    }

    fn refused(&mut self, export: ExportId, effects: &mut Effects) -> Option<EndId> {
        let outgoing = self.exports.get_mut(&export).filter(|outgoing| !outgoing.is_refused())?;
        effects.totals.refused += 1;
        if outgoing.refuse() {
            self.end_due.push_back(outgoing.stream());
        }
        let (publisher, is_over) = (outgoing.publisher(), outgoing.has_end());
        effects.add(Action::Release { export, below: u64::MAX });
        if is_over {
            self.forget(export, effects);
            return None;
        }
        // Nobody reads it any more, so the link lets go of the publisher: a reliable one would wait for it.
        Some(publisher)
    }

    // ---- tables

    fn forget(&mut self, export: ExportId, effects: &mut Effects) {
        let Some(outgoing) = self.exports.remove(&export) else { return };
        self.streams.remove(&outgoing.stream());
        effects.add(Action::Release { export, below: u64::MAX });
        if self.is_connected {
            let is_next = |other: &Outgoing| other.publisher() == outgoing.publisher() && other.is_closed();
            let next = self.exports.iter().find(|(_, other)| is_next(other)).map(|(export, _)| *export);
            self.open_due.extend(next);
        }
    }

    /// True: an older export of the same publisher is not over yet. The receiver knows streams by their
    /// publisher, so this one follows it.
    fn is_second(&self, export: ExportId) -> bool {
        let Some(publisher) = self.exports.get(&export).map(Outgoing::publisher) else { return false };
        self.exports.range(..export).any(|(_, older)| older.publisher() == publisher)
    }

    fn take_turn(&mut self, export: ExportId) {
        if self.exports.get_mut(&export).is_some_and(Outgoing::wants_turn) {
            self.turns.push_back(export);
        }
    }

    /// Which export; `None`: it is over, and the peer does not know it yet.
    fn known_stream(&self, header: &Header) -> Result<Option<ExportId>, Violation> {
        if header.stream >= self.next_stream {
            return Err(Violation::Stream { kind: header.kind, stream: header.stream });
        }
        Ok(self.streams.get(&header.stream).copied().filter(|export| self.exports.contains_key(export)))
    }

    fn asked_stream(&self, header: &Header) -> Result<Option<ExportId>, Violation> {
        let export = self.known_stream(header)?;
        match export.and_then(|export| self.exports.get(&export)) {
            Some(outgoing) if !outgoing.is_asked() => Err(Violation::Unexpected { kind: header.kind }),
            _ => Ok(export),
        }
    }
}
