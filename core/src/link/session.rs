//! The rules of one link, from its first connection to its last: pure, no I/O, no clock, no bytes of messages.
//!
//! ```text
//!   sender of a stream                                   receiver of it
//!   ◀────────────────────── interest ──────────────────  what subscribers want, the whole set whenever it changes
//!   a publisher matches:  ── open (first) ────────────▶  known here, or a new import
//!   ◀─────────── opened (first) or resume (next) ──────  or opened (refused, why)
//!   ◀── credit (arrived below, messages, bytes) ───────  again and again
//!   ── piece, piece, piece ───────────────────────────▶  a gap in the numbers is a loss, counted there
//!   ── end (after the last) ──────────────────────────▶
//!   ◀─────────────────── opened (over) ────────────────  everything arrived
//! ```
//!
//! Streams outlive connections: after each hello the sender opens all its streams again, and the receiver, who knows them by their
//! publisher, says where to go on. What is not acknowledged by `credit` is held by the sender and sent again; a message that was
//! cut off in the middle begins anew. Without a connection both sides keep what they have for [`Settings::hold`], then let go; the
//! receiver remembers the number it got to, so that nothing is published twice if the stream comes back; by the numbers of their
//! publisher subscribers see what they have missed meanwhile, and count it.
//!
//! One side may have let go while the other one has not: it was stopped, or noticed the end of the connection later. The sender opens
//! again what is still wanted of it, and the receiver goes on where it was. What is not opened again within [`Settings::dead`] of a new
//! connection has no sender any more, and the receiver lets go of it then; if it is opened after all, it comes back as above.
//!
//! A stream is opened for what this side said that it wants (the whole set counts that it said last); another one is declined, and costs a number.
//!
//! Credit is counted from the `open` on this connection. A message may begin while fewer messages and fewer bytes were sent than
//! granted, so one that is longer than the window is possible, and the receiver never holds more than the window and one message.
//!
//! Who calls what: the engine reports what happened and then does what [`Session::next_action`] says; it sends what
//! [`Session::next_out`] gives. Everything that waits to be said is a mark in a table with a bound, not a queue: a peer that does not read
//! makes nothing grow. A peer's mistake is a [`Violation`], and closes the connection.

mod incoming;
mod outgoing;
mod say;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::filter::Filter;
use crate::link::candidate::{Candidate, ExportId};
use crate::link::frame::{Header, Kind, PIECE};
use crate::link::greeting::{Hello, Role};
use crate::protocol::{EndId, bounded_reason};

pub use incoming::{Arrived, Begin, ImportId, Place};
use incoming::{Incoming, Remembered};
use outgoing::Outgoing;

/// The most streams in one direction of a link.
pub const STREAMS_MAX: usize = 4096;
/// The most filters that one host may want of another.
pub const WANTED_MAX: usize = 4096;
/// The most publishers of which it is remembered how far they got, after their stream is gone.
pub const REMEMBERED_MAX: usize = 4096;
/// The most messages that a receiver grants ahead, whatever room it has.
pub const GRANTED_MAX: u64 = 4096;

/// Time since some moment that never changes.
pub type Now = Duration;

/// What may be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Nothing heard for so long: ask.
    pub keep_alive: Duration,
    /// Nothing heard for so long: the connection is dead.
    pub dead: Duration,
    /// Without a connection streams are kept for so long.
    pub hold: Duration,
    /// Bytes of one stream that may be under way, beside one message.
    pub window: u64,
    /// The longest part of a message that is sent at once, in bytes, at most [`crate::link::frame::PIECE_MAX`].
    pub piece: u32,
    /// After a wait that was shorter than this the receiving thread looks for so long before it sleeps again, yielding its processor.
    pub spin: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            keep_alive: Duration::from_secs(2),
            dead: Duration::from_secs(6),
            hold: Duration::from_secs(30),
            window: 4 * 1024 * 1024,
            piece: PIECE,
            // What a wake-up costs on a virtual machine whose processor has gone idle, twice.
            spin: Duration::from_micros(100),
        }
    }
}

/// Services that the subscribers of a host want.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Which.
    pub filter: Filter,
    /// Of which type; `None`: any.
    pub fingerprint: Option<u128>,
}

impl Wanted {
    fn is_for(&self, candidate: &Candidate) -> bool {
        self.fingerprint.is_none_or(|fingerprint| fingerprint == candidate.kind.fingerprint)
            && self.filter.matches(candidate.service.as_str())
    }
}

/// What the other host wants, as it stands.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    wanted: Vec<Wanted>,
    refused: BTreeSet<EndId>,
}

impl Interest {
    /// True: this publisher is to be attached to.
    #[must_use]
    pub fn wants(&self, candidate: &Candidate) -> bool {
        !self.refused.contains(&candidate.publisher)
            && self.wanted.iter().any(|wanted| wanted.is_for(candidate))
    }

    /// The filters.
    #[must_use]
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }
}

/// What the engine is to do, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Attach to what the other host wants: give this to `hivemind_links::local::Exports::want`.
    Want(Arc<Interest>),
    /// Drop the messages of this export below this number.
    Release {
        /// Whose.
        export: ExportId,
        /// The number of the first that stays.
        below: u64,
    },
    /// Announce a publisher; answered by [`Session::opened`].
    Open {
        /// From now on called so.
        import: ImportId,
        /// As whom.
        candidate: Box<Candidate>,
        /// The number, at its publisher, of the first message that is published or skipped by it.
        first: u64,
    },
    /// The stream goes on: how much room is there? Answered by [`Session::opened`].
    Reopen {
        /// Which.
        import: ImportId,
    },
    /// Skip so many messages, then drop the import, with what of it is not committed.
    Close {
        /// Which.
        import: ImportId,
        /// Lost at the end.
        lost: u64,
    },
}

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
    /// Poll this export, and say what came: [`Session::polled`], [`Session::nothing`] or [`Session::held_out`].
    Poll {
        /// Which.
        export: ExportId,
    },
}

/// How a peer broke the rules, or why else a connection ends. To be said to the peer ([`Session::farewell`]) and logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The payload is no archive of its kind, or not within its bounds. The peer is damaged or hostile.
    #[error("a damaged {kind} frame; the peer is damaged or hostile")]
    Damaged {
        /// What the frame is for.
        kind: Kind,
    },
    /// A frame that does not belong here. The peer is damaged or hostile.
    #[error("a {kind} frame where there must be none; the peer is damaged or hostile")]
    Unexpected {
        /// What the frame is for.
        kind: Kind,
    },
    /// A stream that never was, or that is over, or a number that was used before. The peer is damaged or hostile.
    #[error("a {kind} frame for stream {stream}, which there is not; the peer is damaged or hostile")]
    Stream {
        /// What the frame is for.
        kind: Kind,
        /// Which stream.
        stream: u32,
    },
    /// A number that goes back or beyond what was sent: a frame was replayed, or left out.
    #[error(
        "a {kind} frame for message {sequence} of stream {stream}, {expected} is the next; a frame was replayed or lost"
    )]
    Sequence {
        /// What the frame is for.
        kind: Kind,
        /// Which stream.
        stream: u32,
        /// What it says.
        sequence: u64,
        /// What is next.
        expected: u64,
    },
    /// A part of a message that does not follow the one before.
    #[error(
        "bytes {offset} and on of message {sequence}, {expected} is the next; a frame was replayed or lost"
    )]
    Offset {
        /// Which message.
        sequence: u64,
        /// Where the part begins.
        offset: u32,
        /// Where it should.
        expected: u32,
    },
    /// More was sent than was granted. The peer is damaged or hostile.
    #[error("stream {stream} sends more than it was granted; the peer is damaged or hostile")]
    Credit {
        /// Which stream.
        stream: u32,
    },
    /// The peer leaves out more messages than can have been published meanwhile. It is damaged or hostile.
    #[error(
        "stream {stream} leaves out {lost} messages, and at most {possible} can have been published meanwhile; the peer is damaged or hostile"
    )]
    Gap {
        /// Which stream.
        stream: u32,
        /// How many it leaves out.
        lost: u64,
        /// How many there can have been.
        possible: u64,
    },
    /// A table is full. Use fewer, or narrower filters.
    #[error("there are too many {what}: {limit} are possible; use fewer, or narrower filters")]
    Limit {
        /// Of what there are too many.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Nothing was heard for too long. The other host or the network is gone.
    #[error("nothing was heard for {silent:?}; the other host or the network is gone")]
    Silent {
        /// For how long.
        silent: Duration,
    },
    /// The peer closed the link. Follow its reason.
    #[error("the other host closed the link: {reason}")]
    Bye {
        /// Why.
        reason: String,
    },
}

/// What a link has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections.
    pub connections: u64,
    /// Messages that the other host has acknowledged.
    pub delivered: u64,
    /// Messages that were sent again after a connection broke.
    pub again: u64,
    /// Messages of the other host that were committed here.
    pub received: u64,
    /// Messages of the other host that were lost on the way, or before it.
    pub lost: u64,
    /// Streams that the other host refused.
    pub refused: u64,
}

/// One link. See the [module](self).
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    /// Who is there; `None`: no connection.
    peer: Option<Hello>,
    /// What still is to be done.
    actions: VecDeque<Action>,
    totals: Totals,

    /// What is wanted here, and from where on it is to be said.
    ours: Vec<Wanted>,
    unsaid: Option<usize>,
    /// What is wanted there; `coming` is a set that is not complete yet.
    theirs: Arc<Interest>,
    coming: Vec<Wanted>,

    heard: Now,
    asked: bool,
    ping_due: bool,
    pong_due: Option<u64>,
    /// Without a connection, when streams are let go; with one, when those are that have not come back on it. `None`: nothing is kept.
    release_at: Option<Now>,

    outgoing: BTreeMap<ExportId, Outgoing>,
    /// Streams of this connection.
    streams_out: BTreeMap<u32, ExportId>,
    next_stream: u32,
    /// Streams that are to be opened.
    open_due: VecDeque<ExportId>,
    /// Streams that may have something to send, each once.
    turns: VecDeque<ExportId>,
    /// Streams that are refused and not ended yet.
    end_due: VecDeque<u32>,
    /// See [`Session::take_unblocked`].
    has_unblocked: bool,

    incoming: BTreeMap<ImportId, Incoming>,
    by_publisher: BTreeMap<EndId, ImportId>,
    streams_in: BTreeMap<u32, ImportId>,
    last_stream_in: u32,
    next_import: ImportId,
    /// Where the parts that are coming in belong: at most one frame at a time.
    receiving: Option<incoming::Receiving>,
    /// Imports with something to say, each once; and those with something that can wait until the input is drained.
    say_due: VecDeque<ImportId>,
    say_later: Vec<ImportId>,
    /// Streams that are over for the receiver, and whose sender is to know it.
    over_due: VecDeque<u32>,
    /// Streams that nobody here asked for, until their sender ends them; with the reason, while that is not said.
    declined: BTreeMap<u32, Option<&'static str>>,
    decline_due: VecDeque<u32>,
    /// Bytes of the descriptions in `incoming`.
    schemas: usize,
    gaps: incoming::Gaps,
    remembered: BTreeMap<EndId, Remembered>,
    remembered_order: VecDeque<EndId>,
}

impl Session {
    /// A link that was not connected yet.
    #[must_use]
    pub fn new(settings: Settings) -> Session {
        Session {
            settings,
            peer: None,
            actions: VecDeque::new(),
            totals: Totals::default(),
            ours: Vec::new(),
            unsaid: None,
            theirs: Arc::default(),
            coming: Vec::new(),
            heard: Now::ZERO,
            asked: false,
            ping_due: false,
            pong_due: None,
            release_at: None,
            outgoing: BTreeMap::new(),
            streams_out: BTreeMap::new(),
            next_stream: 1,
            open_due: VecDeque::new(),
            turns: VecDeque::new(),
            end_due: VecDeque::new(),
            has_unblocked: false,
            incoming: BTreeMap::new(),
            by_publisher: BTreeMap::new(),
            streams_in: BTreeMap::new(),
            last_stream_in: 0,
            next_import: 1,
            receiving: None,
            say_due: VecDeque::new(),
            say_later: Vec::new(),
            over_due: VecDeque::new(),
            declined: BTreeMap::new(),
            decline_due: VecDeque::new(),
            schemas: 0,
            gaps: incoming::Gaps::default(),
            remembered: BTreeMap::new(),
            remembered_order: VecDeque::new(),
        }
    }

    /// A connection stands, and [`Hello::judge`] has judged who is there. What came before on another one counts no more.
    pub fn connected(&mut self, peer: Hello, now: Now) {
        if self.peer.is_some() {
            self.disconnected(now);
        }
        self.totals.connections += 1;
        self.peer = Some(peer);
        self.release_at = self.has_unopened_incoming().then(|| now + self.settings.dead);
        (self.heard, self.asked, self.ping_due, self.pong_due) = (now, false, false, None);
        self.unsaid = Some(0);
        if !self.theirs.refused.is_empty() {
            self.set_theirs(self.theirs.wanted.clone());
        }
        self.connect_outgoing();
    }

    /// The connection is over. The engine drops what it received and has not committed.
    pub fn disconnected(&mut self, now: Now) {
        if self.peer.take().is_none() {
            return;
        }
        self.coming.clear();
        self.unsaid = None;
        self.disconnect_outgoing();
        self.disconnect_incoming();
        self.release_at = Some(now + self.settings.hold);
    }

    /// When [`Session::tick`] is to be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let of_peer = self
            .peer
            .as_ref()
            .map(|_| self.heard + if self.asked { self.settings.dead } else { self.settings.keep_alive });
        of_peer.into_iter().chain(self.release_at).min()
    }

    /// Time has passed.
    ///
    /// # Errors
    /// [`Violation::Silent`].
    pub fn tick(&mut self, now: Now) -> Result<(), Violation> {
        if self.peer.is_none() {
            if self.release_at.is_some_and(|at| at <= now) {
                self.let_go();
            }
            return Ok(());
        }
        if self.release_at.is_some_and(|at| at <= now) {
            self.release_at = None;
            self.let_go_unopened();
        }
        let silent = now.saturating_sub(self.heard);
        if silent >= self.settings.dead.max(self.settings.keep_alive) {
            return Err(Violation::Silent { silent });
        }
        if silent >= self.settings.keep_alive && !self.asked {
            self.asked = true;
            self.ping_due = true;
        }
        Ok(())
    }

    /// Streams were kept for long enough, or the link is not wanted any more.
    pub fn let_go(&mut self) {
        self.release_at = None;
        self.set_theirs(Vec::new());
        self.let_go_outgoing();
        self.let_go_incoming();
    }

    /// Bytes came in.
    pub fn heard(&mut self, now: Now) {
        self.heard = now;
        self.asked = false;
    }

    /// Asks the other host for a sign of life. When something was heard last; `None`: there is no connection.
    pub fn ask(&mut self) -> Option<Now> {
        self.peer.as_ref()?;
        self.ping_due = true;
        Some(self.heard)
    }

    /// When something was heard last.
    #[must_use]
    pub fn last_heard(&self) -> Now {
        self.heard
    }

    /// What the subscribers here want, the whole set. Surplus is cut at [`WANTED_MAX`]; how many were cut is the answer.
    pub fn want(&mut self, mut wanted: Vec<Wanted>) -> usize {
        let surplus = wanted.len().saturating_sub(WANTED_MAX);
        wanted.truncate(WANTED_MAX);
        self.ours = wanted;
        self.forget_debts();
        if self.peer.is_some() {
            self.unsaid = Some(0);
        }
        surplus
    }

    /// A whole frame that is no piece; its checksum is right.
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn frame(&mut self, header: &Header, payload: &[u8], now: Now) -> Result<(), Violation> {
        let kind = header.kind;
        if self.peer.is_none() {
            return Err(Violation::Unexpected { kind });
        }
        self.heard(now);
        let damaged = Violation::Damaged { kind };
        if matches!(kind, Kind::End | Kind::Ping | Kind::Pong | Kind::Resume) && !payload.is_empty() {
            return Err(damaged);
        }
        match kind {
            Kind::Hello | Kind::Piece => Err(Violation::Unexpected { kind }),
            Kind::Interest => self.interest(say::read(payload).ok_or(damaged)?),
            Kind::Open => self.open(header.stream, say::read(payload).ok_or(damaged)?),
            Kind::Opened => self.answered(header, &say::read(payload).ok_or(damaged)?),
            Kind::Resume => self.resume(header),
            Kind::Credit => self.credit(header, say::read(payload).ok_or(damaged)?),
            Kind::End => self.end(header),
            Kind::Ping => {
                self.pong_due = Some(header.sequence);
                Ok(())
            }
            Kind::Pong => Ok(()),
            Kind::Bye => {
                let bye: say::Bye = say::read(payload).ok_or(damaged)?;
                Err(Violation::Bye { reason: bye.reason })
            }
        }
    }

    /// The last frame of a connection that closes: why.
    #[must_use]
    pub fn farewell(reason: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        let bye = say::Bye { reason: bounded_reason(reason.to_owned()) };
        say::append(Kind::Bye, 0, 0, &bye, &mut frame);
        frame
    }

    /// True: parts of messages wait to be sent, or exports to be polled.
    #[must_use]
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// True: something is to be said that can wait; see [`Session::say_all`].
    #[must_use]
    pub fn has_more_to_say(&self) -> bool {
        !self.say_later.is_empty()
    }

    /// What a farewell says.
    #[must_use]
    pub fn farewell_reason(payload: &[u8]) -> Option<String> {
        let bye: say::Bye = say::read(payload)?;
        Some(bye.reason)
    }

    /// True: the other host has not acknowledged everything that was polled.
    #[must_use]
    pub fn has_unacknowledged(&self) -> bool {
        self.peer.is_some() && self.outgoing.values().any(Outgoing::is_owed)
    }

    /// What is to be done; ask until there is nothing.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What is to be sent next: first what the peer has to know, then parts of messages, one of each stream in turn.
    pub fn next_out(&mut self, out: &mut Vec<u8>) -> Out {
        if self.peer.is_none() {
            return Out::Nothing;
        }
        if self.next_control(out) { Out::Frame } else { self.next_piece(out) }
    }

    /// True: [`Session::next_out`] would give a frame before any piece.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.peer.is_some()
            && (self.ping_due
                || self.pong_due.is_some()
                || self.unsaid.is_some()
                || !self.say_due.is_empty()
                || !self.over_due.is_empty()
                || !self.decline_due.is_empty()
                || !self.end_due.is_empty()
                || !self.open_due.is_empty())
    }

    /// Who is connected.
    #[must_use]
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// What it has carried so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What the other host wants.
    #[must_use]
    pub fn interest_of_peer(&self) -> &Arc<Interest> {
        &self.theirs
    }

    /// True: the other end or this one is a leaf, which belongs to its host.
    #[must_use]
    pub fn peer_is_leaf(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.role == Role::Leaf)
    }

    fn next_control(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(number) = self.pong_due.take() {
            say::append_bare(Kind::Pong, 0, number, out);
        } else if std::mem::take(&mut self.ping_due) {
            say::append_bare(Kind::Ping, 0, 0, out);
        } else if self.say_declined(out) {
            // Before what is wanted.
        } else if let Some(from) = self.unsaid {
            self.say_interest(from, out);
        } else if !self.say_incoming(out) && !self.say_outgoing(out) {
            return false;
        }
        true
    }

    fn say_interest(&mut self, from: usize, out: &mut Vec<u8>) {
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        for next in &self.ours[from..] {
            bytes += next.filter.as_str().len() + say::WANTED_EACH;
            if bytes > say::WANTED_BYTES {
                break;
            }
            wanted.push((next.filter.as_str().to_owned(), next.fingerprint));
        }
        let to = from + wanted.len();
        let last = to == self.ours.len();
        self.unsaid = (!last).then_some(to);
        say::append(Kind::Interest, 0, 0, &say::Interest { first: from == 0, last, wanted }, out);
    }

    fn interest(&mut self, interest: say::Interest) -> Result<(), Violation> {
        let kind = Kind::Interest;
        if interest.first {
            self.coming.clear();
        }
        if self.coming.len() + interest.wanted.len() > WANTED_MAX {
            return Err(Violation::Limit { what: "filters of subscribers", limit: WANTED_MAX });
        }
        for (filter, fingerprint) in interest.wanted {
            let filter = Filter::parse(&filter).map_err(|_| Violation::Damaged { kind })?;
            self.coming.push(Wanted { filter, fingerprint });
        }
        if interest.last {
            let wanted = std::mem::take(&mut self.coming);
            self.set_theirs(wanted);
        }
        Ok(())
    }

    fn set_theirs(&mut self, wanted: Vec<Wanted>) {
        self.theirs = Arc::new(Interest { wanted, refused: BTreeSet::new() });
        self.say_wanted();
    }

    /// Only the last word counts, so a peer that changes its mind often fills no queue.
    fn say_wanted(&mut self) {
        self.actions.retain(|action| !matches!(action, Action::Want(_)));
        self.actions.push_back(Action::Want(Arc::clone(&self.theirs)));
    }
}
