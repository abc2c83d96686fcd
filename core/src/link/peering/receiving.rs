//! The receiving half: streams of the other host, and the imports that stand for their publishers.
//!
//! An import lives as long as its publisher is announced, over connections.
//!
//! A peer may open what it was asked for, and no more: a stream that nobody here wants is declined, at the
//! cost of a number in a table, and so is a type whose description is more than all of them may take
//! ([`SCHEMAS_MAX`]). Nothing of a message is counted before it has arrived.

mod declined;
mod gaps;
mod incoming;
mod remembered;
mod table;

use std::collections::{BTreeMap, VecDeque};

use self::declined::{Declined, TOO_MUCH_SCHEMA, UNWANTED};
use self::gaps::Gaps;
use self::incoming::{Incoming, Piece, Queue, Said};
use self::remembered::Remembered;
use self::table::Table;
use super::effects::{Action, Effects, ImportId};
use super::say::{self, Opened};
use super::sending::STREAMS_MAX;
use super::settings::Now;
use super::violation::Violation;
use super::wants::Wants;
use crate::link::candidate::Candidate;
use crate::link::frame::{FrameKind, Header, SEQUENCE_END};
use crate::protocol::bounded_reason;

pub use self::incoming::{Begin, GRANTED_MAX};
pub use self::remembered::REMEMBERED_MAX;

/// The descriptions of all types that one link holds, in bytes.
pub(super) const SCHEMAS_MAX: usize = 16 << 20;

/// Where the payload of a piece goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the message that this import receives, at the offset of the header.
    Message {
        /// Which import.
        import: ImportId,
        /// The message begins.
        begin: Option<Begin>,
    },
    /// Nowhere.
    Discard,
}

/// A piece is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// More is to come, or nobody wants it.
    Part,
    /// The message is complete: commit it, then call [`Peering::committed`](super::Peering::committed).
    Whole {
        /// Of which import.
        import: ImportId,
    },
    /// The message is over, but there was no memory for it: skip one, then call
    /// [`Peering::missed`](super::Peering::missed).
    Missed {
        /// Of which import.
        import: ImportId,
    },
}

/// The piece whose payload comes in.
#[derive(Clone, Copy, Debug)]
struct Current {
    /// `None`: it goes nowhere.
    import: Option<ImportId>,
    length: u32,
}

/// A stream that the other host opens.
pub(super) struct Opening {
    pub(super) stream: u32,
    pub(super) candidate: Box<Candidate>,
    /// The number of the first message that can be sent.
    pub(super) first: u64,
    /// The number after the last one, when that is known already.
    pub(super) end: Option<u64>,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Receiving {
    /// The most bytes of one stream that are granted ahead.
    window: u64,
    table: Table,
    /// Streams of this connection.
    streams: BTreeMap<u32, ImportId>,
    last_stream: u32,
    /// At most one piece comes in at a time.
    current: Option<Current>,
    /// Imports with something to say, each once …
    due: VecDeque<ImportId>,
    /// … and those with something that can wait until the input is drained.
    later: Vec<ImportId>,
    /// Streams that are over for the receiver, and whose sender is to know it.
    over_due: VecDeque<u32>,
    declined: Declined,
    gaps: Gaps,
    remembered: Remembered,
}

impl Receiving {
    pub(super) fn new(window: u64) -> Receiving {
        Receiving {
            window,
            table: Table::default(),
            streams: BTreeMap::new(),
            last_stream: 0,
            current: None,
            due: VecDeque::new(),
            later: Vec::new(),
            over_due: VecDeque::new(),
            declined: Declined::default(),
            gaps: Gaps::default(),
            remembered: Remembered::default(),
        }
    }

    // ---- connections

    pub(super) fn disconnect(&mut self) {
        self.streams.clear();
        self.declined.clear();
        self.last_stream = 0;
        self.current = None;
        self.due.clear();
        self.later.clear();
        self.over_due.clear();
        self.table.disconnect();
    }

    /// Whether streams are kept from an earlier connection that were not opened on this one.
    pub(super) fn has_unopened(&self) -> bool {
        self.table.unopened().next().is_some()
    }

    /// Their sender has let go of them.
    pub(super) fn let_go_unopened(&mut self, wants: &Wants, effects: &mut Effects) {
        for import in self.table.unopened().collect::<Vec<ImportId>>() {
            self.close(import, wants, effects);
        }
    }

    pub(super) fn let_go(&mut self, wants: &Wants, effects: &mut Effects) {
        for import in self.table.ids() {
            self.close(import, wants, effects);
        }
    }

    /// What nobody here wants any more is missed by nobody.
    pub(super) fn forget_unwanted(&mut self, wants: &Wants) {
        self.remembered.forget_unwanted(wants);
    }

    // ---- messages

    /// The head of a piece. `heard` is the present time.
    pub(super) fn piece(&mut self, header: &Header, heard: Now) -> Result<Place, Violation> {
        let (kind, stream, length) = (header.kind, header.stream, header.length);
        if kind != FrameKind::Piece || self.current.is_some() {
            return Err(Violation::Unexpected { kind });
        }
        let possible = self.gaps.possible(heard);
        let import = *self.streams.get(&stream).ok_or(Violation::Stream { kind, stream })?;
        let incoming = self.table.get_mut(import).ok_or(Violation::Stream { kind, stream })?;
        if incoming.is_refused() {
            self.current = Some(Current { import: None, length });
            return Ok(Place::Discard);
        }
        let begin = incoming.piece(header, possible)?;
        self.current = Some(Current { import: Some(import), length });
        Ok(if incoming.is_taken() { Place::Message { import, begin } } else { Place::Discard })
    }

    pub(super) fn not_taken(&mut self, import: ImportId) {
        if let Some(incoming) = self.table.get_mut(import) {
            incoming.discard();
        }
    }

    pub(super) fn arrived(&mut self) -> Arrived {
        let Some(Current { import: Some(import), length }) = self.current.take() else {
            return Arrived::Part;
        };
        match self.table.get_mut(import).map(|incoming| incoming.arrived(length)) {
            Some(Piece::Last { taken: true }) => Arrived::Whole { import },
            Some(Piece::Last { taken: false }) => Arrived::Missed { import },
            Some(Piece::Part) | None => Arrived::Part,
        }
    }

    pub(super) fn skipped(&mut self, import: ImportId, lost: u64, effects: &mut Effects) {
        if let Some(incoming) = self.table.get_mut(import) {
            incoming.skip(lost);
            self.gaps.spend(lost);
            effects.totals.add_lost(lost);
        }
    }

    /// The oldest message that arrived was committed or skipped.
    pub(super) fn settle(&mut self, import: ImportId, room: u64, wants: &Wants, effects: &mut Effects) {
        if self.table.get_mut(import).is_some_and(|incoming| incoming.settle(room)) {
            self.note(import);
            self.finish(import, wants, effects);
        }
    }

    pub(super) fn room(&mut self, import: ImportId, room: u64) {
        if let Some(incoming) = self.table.get_mut(import) {
            incoming.set_room(room);
            self.note(import);
        }
    }

    pub(super) fn wants_room(&self, import: ImportId) -> bool {
        self.table.get(import).is_some_and(Incoming::wants_room)
    }

    // ---- streams begin

    pub(super) fn open(
        &mut self,
        opening: Opening,
        heard: Now,
        wants: &Wants,
        effects: &mut Effects,
    ) -> Result<(), Violation> {
        let kind = FrameKind::Open;
        let Opening { stream, candidate, first, end } = opening;
        if first >= SEQUENCE_END || end.is_some_and(|end| end < first || end >= SEQUENCE_END) {
            return Err(Violation::Damaged { kind });
        }
        self.last_stream = stream;
        let publisher = candidate.publisher;
        let is_wanted = wants.is_wanted_here(&candidate.service, candidate.kind.fingerprint);
        if let Some(import) = self.table.of_publisher(publisher)
            && let Some(incoming) = self.table.get_mut(import)
        {
            if incoming.stream() != 0 {
                return Err(Violation::Unexpected { kind });
            }
            if is_wanted && incoming.stands_for(&candidate) {
                self.streams.insert(stream, import);
                if incoming.reopen(stream) {
                    effects.add(Action::Reopen { import });
                }
                return Ok(());
            }
            self.close(import, wants, effects);
        }
        let former = self.remembered.next_of(publisher);
        if former.is_some_and(|next| end.is_some_and(|end| next >= end)) {
            self.over_due.push_back(stream);
            return Ok(());
        }
        if !is_wanted {
            self.declined.add(stream, UNWANTED);
            return Ok(());
        }
        if self.table.schemas() + candidate.kind.schema.len() > SCHEMAS_MAX {
            self.declined.add(stream, TOO_MUCH_SCHEMA);
            return Ok(());
        }
        if let Some(next) = former {
            // As any other gap: subscribers count this one by the number that the import begins with.
            let (lost, possible) = (first.saturating_sub(next), self.gaps.possible(heard));
            if lost > possible {
                return Err(Violation::Gap { stream, lost, possible });
            }
            self.gaps.spend(lost);
            if self.remembered.begins_at(publisher, first) {
                effects.totals.add_lost(lost);
            }
        }
        self.open_import(stream, candidate, first.max(former.unwrap_or(0)), wants, effects);
        Ok(())
    }

    /// Whether the number of a stream that is opened is a new one, and there is place for it.
    pub(super) fn check_stream(&self, stream: u32) -> Result<(), Violation> {
        if stream <= self.last_stream {
            return Err(Violation::Stream { kind: FrameKind::Open, stream });
        }
        // Each is a stream here until its sender knows better.
        if self.streams.len() + self.declined.len() + self.over_due.len() >= STREAMS_MAX {
            return Err(Violation::Limit { what: "streams", limit: STREAMS_MAX });
        }
        Ok(())
    }

    fn open_import(
        &mut self,
        stream: u32,
        candidate: Box<Candidate>,
        first: u64,
        wants: &Wants,
        effects: &mut Effects,
    ) {
        if self.table.len() >= STREAMS_MAX {
            // Fewer streams than that are connected, so one is kept from an earlier connection.
            let kept = self.table.unopened().next().expect("an import without a stream");
            self.close(kept, wants, effects);
        }
        let import = self.table.insert(Incoming::new(candidate.clone(), stream, first, self.window));
        self.streams.insert(stream, import);
        effects.add(Action::Open { import, candidate, first });
    }

    pub(super) fn opened(&mut self, import: ImportId, room: u64) {
        if let Some(incoming) = self.table.get_mut(import) {
            incoming.opened(room);
            self.make_due(import);
        }
    }

    // ---- streams end

    pub(super) fn not_opened(&mut self, import: ImportId, reason: String) {
        if !self.table.refuse(import, bounded_reason(reason)) {
            return;
        }
        if let Some(current) = &mut self.current {
            current.import = current.import.filter(|current| *current != import);
        }
        self.make_due(import);
    }

    pub(super) fn refuse(&mut self, import: ImportId, reason: String, effects: &mut Effects) {
        if self.table.get(import).is_some_and(|incoming| !incoming.is_refused()) {
            effects.add(Action::Close { import, lost: 0 });
            self.not_opened(import, reason);
        }
    }

    /// Its sender ends a stream. `heard` is the present time.
    pub(super) fn end(
        &mut self,
        header: &Header,
        heard: Now,
        wants: &Wants,
        effects: &mut Effects,
    ) -> Result<(), Violation> {
        let (kind, stream) = (header.kind, header.stream);
        if self.declined.end(stream)? {
            return Ok(());
        }
        let possible = self.gaps.possible(heard);
        let import = *self.streams.get(&stream).ok_or(Violation::Stream { kind, stream })?;
        let incoming = self.table.get_mut(import).ok_or(Violation::Stream { kind, stream })?;
        if incoming.is_refused() && incoming.is_answered() {
            self.table.remove(import);
            self.streams.remove(&stream);
            return Ok(());
        }
        let lost = incoming.end(header, possible)?;
        self.gaps.spend(lost);
        self.finish(import, wants, effects);
        Ok(())
    }

    /// Closes the import, if everything up to the end is committed.
    fn finish(&mut self, import: ImportId, wants: &Wants, effects: &mut Effects) {
        let Some(end) = self.table.get(import).and_then(Incoming::finished) else { return };
        let Some(incoming) = self.table.remove(import) else { return };
        let (lost, stream) = (end - incoming.done(), incoming.stream());
        effects.totals.add_lost(lost);
        effects.add(Action::Close { import, lost });
        self.over_due.push_back(stream);
        self.streams.remove(&stream);
        self.remembered.add(incoming.candidate(), end, wants);
    }

    fn close(&mut self, import: ImportId, wants: &Wants, effects: &mut Effects) {
        let Some(incoming) = self.table.remove(import) else { return };
        if !incoming.is_refused() {
            self.remembered.add(incoming.candidate(), incoming.done(), wants);
            effects.add(Action::Close { import, lost: 0 });
        }
        self.streams.remove(&incoming.stream());
    }

    // ---- what is said

    pub(super) fn has_something_to_say(&self) -> bool {
        !self.due.is_empty() || !self.over_due.is_empty() || self.declined.has_something_to_say()
    }

    pub(super) fn has_more_to_say(&self) -> bool {
        !self.later.is_empty()
    }

    /// Acknowledgements that need no frame of their own become due.
    pub(super) fn say_all(&mut self) {
        for import in std::mem::take(&mut self.later) {
            if self.table.get_mut(import).is_some_and(Incoming::has_waited) {
                self.due.push_back(import);
            }
        }
    }

    /// Refusals of what nobody here wants come before anything else: one that came after a new wish would
    /// keep the sender from ever sending it.
    pub(super) fn say_declined(&mut self, out: &mut Vec<u8>) -> bool {
        self.declined.say(out)
    }

    /// Appends the next answer or acknowledgement. False: none is due.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(stream) = self.over_due.pop_front() {
            say::append(FrameKind::Opened, stream, 0, &Opened::Over, out);
            return true;
        }
        while let Some(import) = self.due.pop_front() {
            let Some(incoming) = self.table.get_mut(import) else { continue };
            match incoming.say(out) {
                Said::Nothing => {}
                Said::Answer => {
                    self.make_due(import);
                    return true;
                }
                Said::All => return true,
            }
        }
        false
    }

    fn note(&mut self, import: ImportId) {
        match self.table.get_mut(import).map_or(Queue::Neither, Incoming::queue) {
            Queue::Neither => {}
            Queue::Now => self.due.push_back(import),
            Queue::Later => self.later.push(import),
        }
    }

    fn make_due(&mut self, import: ImportId) {
        if self.table.get_mut(import).is_some_and(Incoming::becomes_due) {
            self.due.push_back(import);
        }
    }
}
