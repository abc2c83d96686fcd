//! The receiver's half: streams of the other host, and the imports that stand for their publishers.
//!
//! ```text
//!   numbers of a stream:   | committed or lost │ arrived, not committed │ coming in |
//!                                              ▲ done                   ▲ next
//! ```
//!
//! An import lives as long as its publisher is announced, over connections. If a connection breaks, what arrived and was not
//! committed is dropped, and `next` goes back to `done`: the sender has it still. What was skipped is in `done`, so it is never
//! skipped twice.
//!
//! A peer may open what it was asked for, and no more: what nobody here wants is declined, at the cost of a number in a table, and so is a type whose
//! description is more than all of them may take ([`SCHEMAS_MAX`]). A gap in the numbers is a number here, too, and how large all of them may be grows
//! with time ([`GAPS_EACH_MICROSECOND`]): beyond that it is no loss, but a lie, and the link ends. Nothing of a message is counted before it has arrived.

use super::say::{self, Credit, Opened};
use super::{Action, GRANTED_MAX, Now, REMEMBERED_MAX, STREAMS_MAX, Session, Violation};
use crate::contract::Contract;
use crate::link::candidate::{Candidate, Via};
use crate::link::frame::{Header, Kind, SEQUENCE_END};
use crate::name::{ServiceName, is_host_name};
use crate::protocol::{EndId, bounded_reason};
use std::collections::VecDeque;

/// An import of one link; never reused.
pub type ImportId = u32;

/// Messages acknowledged at once; the sender holds them until then.
const ACKNOWLEDGE_EACH: u64 = 256;
/// A sender has few pins on its publisher's memory, and takes one for each message longer than this, in bytes
/// …
const LONG: u32 = 2048;
/// … so that these are acknowledged sooner.
const ACKNOWLEDGE_EACH_LONG: u64 = 14;

/// The descriptions of all types that one link holds, in bytes.
pub(super) const SCHEMAS_MAX: usize = 16 << 20;
/// No publisher, and no two thousand of them, publish more in a microsecond …
const GAPS_EACH_MICROSECOND: u64 = 256;
/// … and what they publish while nothing is heard of them counts up to this: more than an hour.
const GAPS_MAX: u64 = 1 << 40;

/// Why a stream is declined.
const UNWANTED: &str = "nobody here wants it";
const TOO_MUCH_SCHEMA: &str =
    "the types of this link's publishers take more than 16 MiB to describe; use fewer, or narrower filters";

/// How many messages a peer may claim to have been lost: as many as can have been published.
#[derive(Debug)]
pub(super) struct Gaps {
    left: u64,
    at: Now,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps { left: GAPS_MAX, at: Now::ZERO }
    }
}

impl Gaps {
    fn left(&mut self, now: Now) -> u64 {
        let passed = u64::try_from(now.saturating_sub(self.at).as_micros()).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(passed.saturating_mul(GAPS_EACH_MICROSECOND)).min(GAPS_MAX);
        self.at = self.at.max(now);
        self.left
    }

    fn spend(&mut self, lost: u64) {
        self.left = self.left.saturating_sub(lost);
    }
}

/// Where the payload of a piece goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the message that this import receives, at the offset of the header.
    Message {
        /// Which.
        import: ImportId,
        /// The message begins.
        begin: Option<Begin>,
    },
    /// Nowhere.
    Discard,
}

/// A message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Its number.
    pub sequence: u64,
    /// How many messages before it are lost. Skip them, then call [`Session::skipped`], once the message is
    /// complete and sound, and not before.
    pub lost: u64,
    /// Its bytes.
    pub total: u32,
}

/// A piece is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// More is to come, or nobody wants it.
    Part,
    /// The message is complete: commit it, then say [`Session::committed`].
    Whole {
        /// Of which import.
        import: ImportId,
    },
    /// The message is over, but there was no memory for it: skip one, then say [`Session::missed`].
    Missed {
        /// Of which import.
        import: ImportId,
    },
}

/// The piece whose payload comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiving {
    import: Option<ImportId>,
    length: u32,
}

#[derive(Clone, Copy, Debug)]
struct Partial {
    sequence: u64,
    offset: u32,
    total: u32,
    taken: bool,
}

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
    said: Credit,
    said_committed: u64,
    said_done: u64,
    /// Long ones among those that are not acknowledged.
    long: u64,
    in_due: bool,
    in_later: bool,
}

/// A publisher whose stream is gone.
#[derive(Debug)]
pub(super) struct Remembered {
    /// The number after the last message that was published here, or counted as lost.
    next: u64,
    /// What it is, if somebody here has wanted it ever since: then what it published meanwhile is lost.
    missed_by: Option<(ServiceName, u128)>,
}

impl Incoming {
    fn grant(&self, window: u64) -> Credit {
        Credit {
            messages: self.said.messages.max(self.committed.messages + self.room.min(GRANTED_MAX)),
            bytes: self.said.bytes.max(self.committed.bytes + window),
        }
    }

    /// True: the sender should know before more is read.
    fn is_urgent(&self, window: u64) -> bool {
        let grant = self.grant(window);
        // A sender who may be out of credit waits for every bit of it.
        let starved = self.said.messages <= self.arrived.messages && grant.messages > self.said.messages;
        let each = ACKNOWLEDGE_EACH.min(u64::from(self.candidate.contract.capacity) / 4).max(1);
        starved
            || self.committed.messages - self.said_committed >= each
            || self.long >= ACKNOWLEDGE_EACH_LONG
            || grant.bytes - self.said.bytes >= window / 4
    }

    fn has_news(&self, window: u64) -> bool {
        self.grant(window) != self.said || self.done != self.said_done
    }

    fn disconnect(&mut self) {
        (self.stream, self.answered, self.resumed, self.end, self.partial) = (0, false, true, None, None);
        self.next = self.done;
        self.pending.clear();
        (self.arrived, self.committed) = (Credit::default(), Credit::default());
        (self.said, self.said_committed, self.said_done, self.long) = (Credit::default(), 0, 0, 0);
        (self.in_due, self.in_later) = (false, false);
    }
}

impl Session {
    /// The head of a piece: where does the payload go? After it comes [`Session::arrived`].
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn piece(&mut self, header: &Header) -> Result<Place, Violation> {
        let (kind, stream, sequence) = (header.kind, header.stream, header.sequence);
        if self.peer.is_none() || kind != Kind::Piece || self.receiving.is_some() {
            return Err(Violation::Unexpected { kind });
        }
        let gaps_left = self.gaps.left(self.heard);
        let import = *self.streams_in.get(&stream).ok_or(Violation::Stream { kind, stream })?;
        let incoming = self.incoming.get_mut(&import).ok_or(Violation::Stream { kind, stream })?;
        if incoming.refused.is_some() {
            self.receiving = Some(Receiving { import: None, length: header.length });
            return Ok(Place::Discard);
        }
        if incoming.end.is_some() {
            return Err(Violation::Unexpected { kind });
        }
        let begin = match &incoming.partial {
            Some(partial) => {
                let expected = partial.sequence;
                if sequence != expected || header.total != partial.total {
                    return Err(Violation::Sequence { kind, stream, sequence, expected });
                }
                if header.offset != partial.offset {
                    return Err(Violation::Offset {
                        sequence,
                        offset: header.offset,
                        expected: partial.offset,
                    });
                }
                None
            }
            None => {
                if sequence < incoming.next {
                    return Err(Violation::Sequence { kind, stream, sequence, expected: incoming.next });
                }
                if header.offset != 0 {
                    return Err(Violation::Offset { sequence, offset: header.offset, expected: 0 });
                }
                if incoming.arrived.messages >= incoming.said.messages
                    || incoming.arrived.bytes >= incoming.said.bytes
                {
                    return Err(Violation::Credit { stream });
                }
                let (lost, total) = (sequence - incoming.next, header.total);
                if lost > gaps_left {
                    return Err(Violation::Gap { stream, lost, possible: gaps_left });
                }
                incoming.arrived.messages += 1;
                incoming.partial = Some(Partial { sequence, offset: 0, total, taken: true });
                incoming.next = sequence;
                Some(Begin { sequence, lost, total })
            }
        };
        self.receiving = Some(Receiving { import: Some(import), length: header.length });
        let taken = incoming.partial.as_ref().is_some_and(|partial| partial.taken);
        Ok(if taken { Place::Message { import, begin } } else { Place::Discard })
    }

    /// There is no memory for the message that begins: the rest of it is discarded.
    pub fn not_taken(&mut self, import: ImportId) {
        if let Some(partial) = self.incoming.get_mut(&import).and_then(|incoming| incoming.partial.as_mut()) {
            partial.taken = false;
        }
    }

    /// The payload of the piece is there, and its checksum is right.
    pub fn arrived(&mut self) -> Arrived {
        let Some(Receiving { import: Some(import), length }) = self.receiving.take() else {
            return Arrived::Part;
        };
        let Some(incoming) = self.incoming.get_mut(&import) else { return Arrived::Part };
        let Some(partial) = &mut incoming.partial else { return Arrived::Part };
        partial.offset += length;
        incoming.arrived.bytes += u64::from(length);
        if partial.offset < partial.total {
            return Arrived::Part;
        }
        let taken = partial.taken;
        incoming.next = partial.sequence + 1;
        incoming.pending.push_back(partial.total);
        incoming.partial = None;
        if taken { Arrived::Whole { import } } else { Arrived::Missed { import } }
    }

    /// Tells that `lost` messages were skipped before the one that is committed next.
    pub fn skipped(&mut self, import: ImportId, lost: u64) {
        if let Some(incoming) = self.incoming.get_mut(&import) {
            incoming.done += lost;
            self.gaps.spend(lost);
            self.totals.lost = self.totals.lost.saturating_add(lost);
        }
    }

    /// The oldest message that arrived was committed; there is room for so many more.
    pub fn committed(&mut self, import: ImportId, room: u64) {
        self.totals.received += 1;
        self.settle(import, room);
    }

    /// The oldest message that arrived was skipped, for want of memory; there is room for so many more.
    pub fn missed(&mut self, import: ImportId, room: u64) {
        self.totals.lost = self.totals.lost.saturating_add(1);
        self.settle(import, room);
    }

    /// There is room for so many more.
    pub fn room(&mut self, import: ImportId, room: u64) {
        let Some(incoming) = self.incoming.get_mut(&import) else { return };
        incoming.room = room;
        self.note(import);
    }

    /// True: the sender has used all credit that it has, or was not given any yet, and may have more to send: say [`Session::room`] when there
    /// is some.
    #[must_use]
    pub fn wants_room(&self, import: ImportId) -> bool {
        self.incoming.get(&import).is_some_and(|incoming| {
            let has_credit = incoming.answered && incoming.arrived.messages < incoming.said.messages;
            incoming.stream != 0 && incoming.refused.is_none() && incoming.end.is_none() && !has_credit
        })
    }

    /// The import cannot go on; the sender is told why. The engine gets [`Action::Close`].
    pub fn refuse(&mut self, import: ImportId, reason: String) {
        let Some(incoming) = self.incoming.get(&import) else { return };
        if incoming.refused.is_none() {
            self.actions.push_back(Action::Close { import, lost: 0 });
            self.set_refused(import, reason);
        }
    }

    /// The answer to [`Action::Open`] and [`Action::Reopen`]: how much room there is, or why not.
    pub fn opened(&mut self, import: ImportId, room: Result<u64, String>) {
        let Some(incoming) = self.incoming.get_mut(&import) else { return };
        incoming.opening = false;
        match room {
            Ok(room) => {
                incoming.room = room;
                self.due(import);
            }
            Err(reason) => self.set_refused(import, reason),
        }
    }

    /// Acknowledgements that need no frame of their own become due: something else is sent now, or they have waited for long enough.
    pub fn say_all(&mut self) {
        for import in std::mem::take(&mut self.say_later) {
            if let Some(incoming) = self.incoming.get_mut(&import) {
                incoming.in_later = false;
                if incoming.has_news(self.settings.window) {
                    self.due(import);
                }
            }
        }
    }

    pub(super) fn open(&mut self, stream: u32, open: say::Open) -> Result<(), Violation> {
        let kind = Kind::Open;
        if stream <= self.last_stream_in {
            return Err(Violation::Stream { kind, stream });
        }
        // Each is a stream here until its sender knows better.
        if self.streams_in.len() + self.declined.len() + self.over_due.len() >= STREAMS_MAX {
            return Err(Violation::Limit { what: "streams", limit: STREAMS_MAX });
        }
        let (first, end) = (open.first, open.end);
        if first >= SEQUENCE_END || end.is_some_and(|end| end < first || end >= SEQUENCE_END) {
            return Err(Violation::Damaged { kind });
        }
        let candidate = self.candidate(open).ok_or(Violation::Damaged { kind })?;
        self.last_stream_in = stream;
        let publisher = candidate.publisher;
        let is_wanted = self.ours.iter().any(|wanted| wanted.is_for(&candidate));
        if let Some(import) = self.by_publisher.get(&publisher).copied() {
            let incoming = &self.incoming[&import];
            if incoming.stream != 0 {
                return Err(Violation::Unexpected { kind });
            }
            if is_wanted && is_same(&incoming.candidate, &candidate) {
                self.reopen(import, stream);
                return Ok(());
            }
            self.close_incoming(import);
        }
        let (mut got, mut is_missed) = (0, false);
        if let Some(remembered) = self.remembered.get(&publisher) {
            (got, is_missed) = (remembered.next, remembered.missed_by.is_some());
            if end.is_some_and(|end| got >= end) {
                self.over_due.push_back(stream);
                return Ok(());
            }
        }
        if !is_wanted {
            self.decline(stream, UNWANTED);
            return Ok(());
        }
        if self.schemas + candidate.kind.schema.len() > SCHEMAS_MAX {
            self.decline(stream, TOO_MUCH_SCHEMA);
            return Ok(());
        }
        if let Some(remembered) = self.remembered.get_mut(&publisher) {
            // As any other gap: subscribers count this one by the number that the import begins with.
            let (lost, possible) = (first.saturating_sub(got), self.gaps.left(self.heard));
            if lost > possible {
                return Err(Violation::Gap { stream, lost, possible });
            }
            self.gaps.spend(lost);
            // Counted once, however this stream ends.
            remembered.next = got.max(first);
            if is_missed {
                self.totals.lost = self.totals.lost.saturating_add(lost);
            }
        }
        self.open_import(stream, candidate, got.max(first));
        Ok(())
    }

    pub(super) fn end(&mut self, header: &Header) -> Result<(), Violation> {
        let (kind, stream) = (header.kind, header.stream);
        if let Some(unsaid) = self.declined.get(&stream) {
            if unsaid.is_some() {
                // It ends because it was declined, and cannot know that yet.
                return Err(Violation::Unexpected { kind });
            }
            self.declined.remove(&stream);
            return Ok(());
        }
        let gaps_left = self.gaps.left(self.heard);
        let import = *self.streams_in.get(&stream).ok_or(Violation::Stream { kind, stream })?;
        let incoming = self.incoming.get_mut(&import).ok_or(Violation::Stream { kind, stream })?;
        if incoming.refused.is_some() && incoming.answered {
            self.take_incoming(import);
            self.streams_in.remove(&stream);
            return Ok(());
        }
        if !incoming.answered || incoming.partial.is_some() || incoming.end.is_some() {
            return Err(Violation::Unexpected { kind });
        }
        if header.sequence < incoming.next {
            let (sequence, expected) = (header.sequence, incoming.next);
            return Err(Violation::Sequence { kind, stream, sequence, expected });
        }
        let lost = header.sequence - incoming.next;
        if lost > gaps_left {
            return Err(Violation::Gap { stream, lost, possible: gaps_left });
        }
        self.gaps.spend(lost);
        incoming.end = Some(header.sequence);
        self.finish(import);
        Ok(())
    }

    pub(super) fn say_incoming(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(stream) = self.over_due.pop_front() {
            say::append(Kind::Opened, stream, 0, &Opened::Over, out);
            return true;
        }
        let window = self.settings.window;
        while let Some(import) = self.say_due.pop_front() {
            let Some(incoming) = self.incoming.get_mut(&import) else { continue };
            incoming.in_due = false;
            let stream = incoming.stream;
            if let Some(reason) = &incoming.refused {
                let reason = reason.clone();
                incoming.answered = true;
                say::append(Kind::Opened, stream, 0, &Opened::Refused { reason }, out);
                return true;
            }
            if stream == 0 {
                continue;
            }
            if !incoming.answered {
                incoming.answered = true;
                incoming.said_done = incoming.done;
                if incoming.resumed {
                    say::append_bare(Kind::Resume, stream, incoming.done, out);
                } else {
                    say::append(Kind::Opened, stream, incoming.done, &Opened::Yes, out);
                }
                self.due(import);
                return true;
            }
            if incoming.has_news(window) {
                let grant = incoming.grant(window);
                incoming.said = grant;
                incoming.said_committed = incoming.committed.messages;
                incoming.said_done = incoming.done;
                incoming.long = 0;
                say::append(Kind::Credit, stream, incoming.done, &grant, out);
                return true;
            }
        }
        false
    }

    /// Refusals of what nobody here wants go before anything else: one that came after a new wish would keep
    /// the sender from ever sending it.
    pub(super) fn say_declined(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(stream) = self.decline_due.pop_front() else { return false };
        let reason = self.declined.get_mut(&stream).and_then(Option::take).unwrap_or(UNWANTED).to_owned();
        say::append(Kind::Opened, stream, 0, &Opened::Refused { reason }, out);
        true
    }

    fn decline(&mut self, stream: u32, reason: &'static str) {
        self.declined.insert(stream, Some(reason));
        self.decline_due.push_back(stream);
    }

    /// Out of the table, with what it counts there.
    fn take_incoming(&mut self, import: ImportId) -> Option<Incoming> {
        let incoming = self.incoming.remove(&import)?;
        self.schemas -= incoming.candidate.kind.schema.len();
        Some(incoming)
    }

    pub(super) fn disconnect_incoming(&mut self) {
        self.streams_in.clear();
        self.declined.clear();
        self.decline_due.clear();
        self.last_stream_in = 0;
        self.receiving = None;
        self.say_due.clear();
        self.say_later.clear();
        self.over_due.clear();
        self.incoming.retain(|_, incoming| incoming.refused.is_none());
        for incoming in self.incoming.values_mut() {
            incoming.disconnect();
        }
    }

    /// Streams that are kept from an earlier connection, and were not opened on this one.
    pub(super) fn has_unopened_incoming(&self) -> bool {
        self.incoming.values().any(|incoming| incoming.stream == 0)
    }

    /// Their sender has let go of them.
    pub(super) fn let_go_unopened(&mut self) {
        let unopened = self.incoming.iter().filter(|(_, incoming)| incoming.stream == 0);
        for import in unopened.map(|(import, _)| *import).collect::<Vec<ImportId>>() {
            self.close_incoming(import);
        }
    }

    pub(super) fn let_go_incoming(&mut self) {
        let imports: Vec<ImportId> = self.incoming.keys().copied().collect();
        for import in imports {
            self.close_incoming(import);
        }
    }

    fn candidate(&self, open: say::Open) -> Option<Box<Candidate>> {
        let peer = self.peer.as_ref()?;
        let node: crate::name::NodeName = open.node.parse().ok()?;
        // A leaf has nobody behind it.
        let host = match open.host {
            None => peer.host.clone(),
            Some(host) if !self.peer_is_leaf() && is_host_name(&host) => host,
            Some(_) => return None,
        };
        let via = Via { host, leaf: self.peer_is_leaf(), node: node.clone(), publisher: open.publisher };
        Some(Box::new(Candidate {
            publisher: open.publisher,
            node,
            service: open.service.parse().ok()?,
            kind: open.kind,
            contract: open.contract,
            via: Some(via),
        }))
    }

    fn reopen(&mut self, import: ImportId, stream: u32) {
        self.streams_in.insert(stream, import);
        if let Some(incoming) = self.incoming.get_mut(&import) {
            incoming.stream = stream;
            if !incoming.opening {
                self.actions.push_back(Action::Reopen { import });
            }
        }
    }

    fn open_import(&mut self, stream: u32, candidate: Box<Candidate>, first: u64) {
        if self.incoming.len() >= STREAMS_MAX {
            // Fewer streams than that are connected, so one is kept from an earlier connection.
            let kept =
                self.incoming.iter().find(|(_, incoming)| incoming.stream == 0).map(|(import, _)| *import);
            self.close_incoming(kept.expect("an import without a stream"));
        }
        let import = self.next_import;
        self.next_import += 1;
        self.by_publisher.insert(candidate.publisher, import);
        self.streams_in.insert(stream, import);
        self.schemas += candidate.kind.schema.len();
        self.actions.push_back(Action::Open { import, candidate: candidate.clone(), first });
        let incoming = Incoming {
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
            said: Credit::default(),
            said_committed: 0,
            said_done: 0,
            long: 0,
            in_due: false,
            in_later: false,
        };
        self.incoming.insert(import, incoming);
    }

    fn settle(&mut self, import: ImportId, room: u64) {
        let Some(incoming) = self.incoming.get_mut(&import) else { return };
        let Some(length) = incoming.pending.pop_front() else { return };
        incoming.done += 1;
        incoming.committed.messages += 1;
        incoming.committed.bytes += u64::from(length);
        incoming.long += u64::from(length > LONG);
        incoming.room = room;
        self.note(import);
        self.finish(import);
    }

    /// Everything up to the end is committed: the import closes.
    fn finish(&mut self, import: ImportId) {
        let Some(incoming) = self.incoming.get(&import) else { return };
        let Some(end) = incoming.end.filter(|_| incoming.pending.is_empty()) else { return };
        let (lost, stream) = (end - incoming.done, incoming.stream);
        self.totals.lost = self.totals.lost.saturating_add(lost);
        self.actions.push_back(Action::Close { import, lost });
        self.over_due.push_back(stream);
        self.streams_in.remove(&stream);
        let Some(incoming) = self.take_incoming(import) else { return };
        self.by_publisher.remove(&incoming.candidate.publisher);
        self.remember(&incoming.candidate, end);
    }

    fn close_incoming(&mut self, import: ImportId) {
        let Some(incoming) = self.take_incoming(import) else { return };
        if incoming.refused.is_none() {
            self.by_publisher.remove(&incoming.candidate.publisher);
            self.remember(&incoming.candidate, incoming.done);
            self.actions.push_back(Action::Close { import, lost: 0 });
        }
        self.streams_in.remove(&incoming.stream);
    }

    fn set_refused(&mut self, import: ImportId, reason: String) {
        let Some(incoming) = self.incoming.get_mut(&import) else { return };
        self.by_publisher.remove(&incoming.candidate.publisher);
        if incoming.stream == 0 {
            self.take_incoming(import);
            return;
        }
        // Only the stream is left of it.
        self.schemas -= std::mem::take(&mut incoming.candidate.kind.schema).len();
        incoming.refused = Some(bounded_reason(reason));
        incoming.partial = None;
        incoming.pending.clear();
        if let Some(receiving) = &mut self.receiving {
            receiving.import = receiving.import.filter(|receiving| *receiving != import);
        }
        self.due(import);
    }

    fn note(&mut self, import: ImportId) {
        let window = self.settings.window;
        let Some(incoming) = self.incoming.get_mut(&import) else { return };
        if incoming.stream == 0 || incoming.in_due {
            return;
        }
        if incoming.is_urgent(window) {
            self.due(import);
        } else if !incoming.in_later && incoming.has_news(window) {
            incoming.in_later = true;
            self.say_later.push(import);
        }
    }

    fn due(&mut self, import: ImportId) {
        if let Some(incoming) = self.incoming.get_mut(&import)
            && incoming.stream != 0
            && !incoming.in_due
        {
            incoming.in_due = true;
            self.say_due.push_back(import);
        }
    }

    fn remember(&mut self, candidate: &Candidate, next: u64) {
        let publisher = candidate.publisher;
        let missed_by = self.is_wanted_here(&candidate.service, candidate.kind.fingerprint);
        let missed_by = missed_by.then(|| (candidate.service.clone(), candidate.kind.fingerprint));
        if self.remembered.insert(publisher, Remembered { next, missed_by }).is_none() {
            self.remembered_order.push_back(publisher);
            if self.remembered_order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.remembered_order.pop_front()
            {
                self.remembered.remove(&oldest);
            }
        }
    }

    fn is_wanted_here(&self, service: &ServiceName, fingerprint: u128) -> bool {
        self.ours.iter().any(|wanted| {
            wanted.fingerprint.is_none_or(|wanted| wanted == fingerprint)
                && wanted.filter.matches(service.as_str())
        })
    }

    /// What nobody here wants any more, nobody misses.
    pub(super) fn forget_debts(&mut self) {
        let missed = self.remembered.iter().filter_map(|(publisher, remembered)| {
            let (service, fingerprint) = remembered.missed_by.as_ref()?;
            (!self.is_wanted_here(service, *fingerprint)).then_some(*publisher)
        });
        for publisher in missed.collect::<Vec<EndId>>() {
            if let Some(remembered) = self.remembered.get_mut(&publisher) {
                remembered.missed_by = None;
            }
        }
    }
}

/// An import that stands for the one can stand for the other.
fn is_same(ours: &Candidate, theirs: &Candidate) -> bool {
    let facts = |candidate: &Candidate| {
        let Contract { pattern, delivery, capacity, .. } = candidate.contract;
        (candidate.kind.fingerprint, pattern, delivery, capacity)
    };
    (&ours.service, facts(ours), &ours.via) == (&theirs.service, facts(theirs), &theirs.via)
}
