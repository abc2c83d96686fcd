//! The rules of one link, from its first connection to its last: pure, without I/O, clock or bytes of
//! messages.
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
//! | room | what it knows |
//! | --- | --- |
//! | [`Peering`] | who is connected, and which frame goes to which room |
//! | `life` | signs of life, and when streams are let go |
//! | `wants` | what the subscribers here and there want |
//! | `sending` | streams of local publishers: credit, what is not acknowledged, whose turn it is |
//! | `receiving` | streams of the other host: what has arrived, what is granted, what is remembered |
//! | `effects` | what the engine is to do, and what is counted |
//! | `say` | what control frames look like |
//!
//! Streams outlive connections. After each hello the sender opens all its streams again, and the receiver,
//! which knows them by their publisher, says where to go on. The sender holds what `credit` has not
//! acknowledged, and sends it again; a message that was cut off in the middle begins anew. Without a
//! connection both sides keep what they have for [`Settings::hold`], then let go. The receiver remembers the
//! number it got to, so that nothing is published twice if the stream comes back. From the numbers of the
//! publisher, subscribers see and count what they missed meanwhile.
//!
//! One side may have let go while the other has not: it was stopped, or noticed the end of the connection
//! later. The sender opens again what is still wanted of it, and the receiver goes on where it was. A stream
//! that is not opened again within [`Settings::dead`] of a new connection has no sender any more, and the
//! receiver lets go of it; if it is opened after all, it comes back as above.
//!
//! A stream is opened only for what this side said that it wants (the last whole set counts). Any other is
//! declined, and costs a number.
//!
//! Credit is counted from the `open` on this connection. A message may begin while fewer messages and fewer
//! bytes were sent than granted. So a message may be longer than the window, and the receiver never holds
//! more than the window and one message.
//!
//! The engine reports what happened, then does what [`Peering::next_action`] says and sends what
//! [`Peering::next_out`] gives. Everything that waits to be said is a mark in a table with a bound, not a
//! queue: a peer that does not read makes nothing grow. A peer's mistake is a [`Violation`], and closes the
//! connection.

mod effects;
mod life;
mod receiving;
mod say;
mod sending;
mod settings;
#[cfg(test)]
mod tests;
mod violation;
mod wants;

use std::sync::Arc;

use crate::link::candidate::{Candidate, ExportId};
use crate::link::frame::{FrameKind, Header};
use crate::link::greeting::{Hello, Role};
use crate::protocol::bounded_reason;

pub use self::effects::{Action, ImportId, Totals};
pub use self::receiving::{Arrived, Begin, GRANTED_MAX, Place, REMEMBERED_MAX};
pub use self::sending::{Out, STREAMS_MAX};
pub use self::settings::{Now, Settings};
pub use self::violation::Violation;
pub use self::wants::{Interest, WANTED_MAX, Wanted};

use self::effects::Effects;
use self::life::Life;
use self::receiving::{Opening, Receiving};
use self::sending::Sending;
use self::wants::Wants;

/// One link. See the [module](self).
#[derive(Debug)]
pub struct Peering {
    settings: Settings,
    /// The host at the other end; `None`: there is no connection.
    peer: Option<Hello>,
    life: Life,
    wants: Wants,
    sending: Sending,
    receiving: Receiving,
    effects: Effects,
}

impl Peering {
    /// A link that was not connected yet.
    #[must_use]
    pub fn new(settings: Settings) -> Peering {
        Peering {
            sending: Sending::new(settings.piece),
            receiving: Receiving::new(settings.window),
            settings,
            peer: None,
            life: Life::default(),
            wants: Wants::default(),
            effects: Effects::default(),
        }
    }

    // ---- connections and time

    /// A connection stands, and [`Hello::judge`] has accepted `peer`. It takes the place of an older
    /// connection.
    pub fn connected(&mut self, peer: Hello, now: Now) {
        if self.peer.is_some() {
            self.disconnected(now);
        }
        self.effects.totals.connections += 1;
        self.peer = Some(peer);
        let release_at = self.receiving.has_unopened().then(|| now + self.settings.dead);
        self.life.connect(now, release_at);
        self.wants.say_anew();
        if let Some(interest) = self.wants.forgive() {
            self.effects.want(interest);
        }
        self.sending.connect();
    }

    /// The connection is over. The engine drops what it received and has not committed.
    pub fn disconnected(&mut self, now: Now) {
        if self.peer.take().is_none() {
            return;
        }
        self.wants.disconnect();
        self.sending.disconnect(&mut self.effects);
        self.receiving.disconnect();
        self.life.disconnect(now + self.settings.hold);
    }

    /// The latest time for the next [`Peering::tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        self.life.deadline(self.peer.is_some(), &self.settings)
    }

    /// Time has passed.
    ///
    /// # Errors
    /// [`Violation::Silent`].
    pub fn tick(&mut self, now: Now) -> Result<(), Violation> {
        let is_release_due = self.life.take_release(now);
        if self.peer.is_none() {
            if is_release_due {
                self.let_go();
            }
            return Ok(());
        }
        if is_release_due {
            self.receiving.let_go_unopened(&self.wants, &mut self.effects);
        }
        self.life.check(now, &self.settings)
    }

    /// Streams were kept for long enough, or the link is not wanted any more.
    pub fn let_go(&mut self) {
        self.life.keep_nothing();
        let nothing = self.wants.set_theirs(Vec::new());
        self.effects.want(nothing);
        self.sending.let_go(&mut self.effects);
        self.receiving.let_go(&self.wants, &mut self.effects);
    }

    /// Bytes came in.
    pub fn heard(&mut self, now: Now) {
        self.life.hear(now);
    }

    /// When something was heard last.
    #[must_use]
    pub fn last_heard(&self) -> Now {
        self.life.heard()
    }

    /// Asks the other host for a sign of life. Returns when something was heard last; `None`: there is no
    /// connection.
    pub fn ask(&mut self) -> Option<Now> {
        self.peer.as_ref()?;
        self.life.ask();
        Some(self.life.heard())
    }

    /// The host that is connected.
    #[must_use]
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// Whether the host that is connected is a leaf.
    #[must_use]
    pub fn peer_is_leaf(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.role == Role::Leaf)
    }

    /// What it has carried so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.effects.totals
    }

    // ---- what is wanted

    /// What the subscribers here want, the whole set. Drops what exceeds [`WANTED_MAX`], and returns how many
    /// filters those were.
    pub fn want(&mut self, wanted: Vec<Wanted>) -> usize {
        let surplus = self.wants.set_ours(wanted);
        self.receiving.forget_unwanted(&self.wants);
        if self.peer.is_some() {
            self.wants.say_anew();
        }
        surplus
    }

    /// What the other host wants.
    #[must_use]
    pub fn interest_of_peer(&self) -> &Arc<Interest> {
        self.wants.theirs()
    }

    // ---- frames that come

    /// A whole frame that is no piece; its checksum is right.
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn frame(&mut self, header: &Header, payload: &[u8], now: Now) -> Result<(), Violation> {
        let kind = header.kind;
        let Some(peer) = &self.peer else { return Err(Violation::Unexpected { kind }) };
        self.life.hear(now);
        let damaged = Violation::Damaged { kind };
        let is_bare = matches!(kind, FrameKind::End | FrameKind::Ping | FrameKind::Pong | FrameKind::Resume);
        if is_bare && !payload.is_empty() {
            return Err(damaged);
        }
        let effects = &mut self.effects;
        match kind {
            FrameKind::Hello | FrameKind::Piece => return Err(Violation::Unexpected { kind }),
            FrameKind::Interest => {
                if let Some(interest) = self.wants.hear(say::read(payload).ok_or(damaged)?)? {
                    effects.want(interest);
                }
            }
            FrameKind::Open => {
                let open: say::Open = say::read(payload).ok_or_else(|| damaged.clone())?;
                let stream = header.stream;
                self.receiving.check_stream(stream)?;
                let (first, end) = (open.first, open.end);
                let candidate = open.candidate(peer).ok_or(damaged)?;
                let opening = Opening { stream, candidate, first, end };
                self.receiving.open(opening, now, &self.wants, effects)?;
            }
            FrameKind::Opened => {
                let opened = say::read(payload).ok_or(damaged)?;
                if let Some(refused) = self.sending.answered(header, &opened, effects)? {
                    effects.want(self.wants.refuse(refused));
                }
            }
            FrameKind::Resume => self.sending.resume(header, effects)?,
            FrameKind::Credit => {
                self.sending.credit(header, say::read(payload).ok_or(damaged)?, effects)?;
            }
            FrameKind::End => self.receiving.end(header, now, &self.wants, effects)?,
            FrameKind::Ping => self.life.answer(header.sequence),
            FrameKind::Pong => {}
            FrameKind::Bye => {
                let bye: say::Bye = say::read(payload).ok_or(damaged)?;
                return Err(Violation::Bye { reason: bounded_reason(bye.reason) });
            }
        }
        Ok(())
    }

    /// The head of a piece: where does the payload go? After it comes [`Peering::arrived`].
    ///
    /// # Errors
    /// [`Violation`]: the connection is to be closed.
    pub fn piece(&mut self, header: &Header) -> Result<Place, Violation> {
        if self.peer.is_none() {
            return Err(Violation::Unexpected { kind: header.kind });
        }
        self.receiving.piece(header, self.life.heard())
    }

    /// The payload of the piece is there, and its checksum is right.
    pub fn arrived(&mut self) -> Arrived {
        self.receiving.arrived()
    }

    // ---- imports

    /// The answer to [`Action::Open`] and [`Action::Reopen`]: the import stands, with room for so many
    /// messages.
    pub fn opened(&mut self, import: ImportId, room: u64) {
        self.receiving.opened(import, room);
    }

    /// The answer to [`Action::Open`]: there is no import, and why. The sender is told.
    pub fn not_opened(&mut self, import: ImportId, reason: String) {
        self.receiving.not_opened(import, reason);
    }

    /// The import cannot go on; the sender is told why. The engine gets [`Action::Close`].
    pub fn refuse(&mut self, import: ImportId, reason: String) {
        self.receiving.refuse(import, reason, &mut self.effects);
    }

    /// There is no memory for the message that begins: the rest of it is discarded.
    pub fn not_taken(&mut self, import: ImportId) {
        self.receiving.not_taken(import);
    }

    /// `lost` messages were skipped before the one that is committed next.
    pub fn skipped(&mut self, import: ImportId, lost: u64) {
        self.receiving.skipped(import, lost, &mut self.effects);
    }

    /// The oldest message that arrived was committed; there is room for `room` more.
    pub fn committed(&mut self, import: ImportId, room: u64) {
        self.effects.totals.received += 1;
        self.receiving.settle(import, room, &self.wants, &mut self.effects);
    }

    /// The oldest message that arrived was skipped, for want of memory; there is room for `room` more.
    pub fn missed(&mut self, import: ImportId, room: u64) {
        self.effects.totals.add_lost(1);
        self.receiving.settle(import, room, &self.wants, &mut self.effects);
    }

    /// There is room for `room` more messages.
    pub fn room(&mut self, import: ImportId, room: u64) {
        self.receiving.room(import, room);
    }

    /// Whether the sender has used all credit that it has, or was not given any yet, and may have more to
    /// send: call [`Peering::room`] when there is some.
    #[must_use]
    pub fn wants_room(&self, import: ImportId) -> bool {
        self.receiving.wants_room(import)
    }

    // ---- exports

    /// An export began: from `first` on its messages can be polled. False: there are too many streams, and it
    /// is not sent.
    pub fn begun(&mut self, export: ExportId, candidate: Candidate, first: u64) -> bool {
        self.sending.begun(export, candidate, first)
    }

    /// An export ended; `next` is the number after its last message.
    pub fn ended(&mut self, export: ExportId, next: u64) {
        self.sending.ended(export, next, self.life.keeps_something(), &mut self.effects);
    }

    /// A message of `length` bytes came; the engine holds it until [`Action::Release`]. One that is longer
    /// than any message can be is released at once, and lost.
    pub fn polled(&mut self, export: ExportId, sequence: u64, length: usize) {
        self.sending.polled(export, sequence, length, &mut self.effects);
    }

    /// There was no message.
    pub fn nothing(&mut self, export: ExportId) {
        self.sending.nothing(export);
    }

    /// As many messages are held as can be. The export is polled again after [`Peering::look_at`], once some
    /// are released.
    pub fn held_out(&mut self, export: ExportId) {
        self.sending.held_out(export);
    }

    /// These exports may have messages again.
    pub fn look_at(&mut self, exports: &[ExportId]) {
        self.sending.look_at(exports);
    }

    /// Whether a message of this export could be sent now.
    #[must_use]
    pub fn may_send(&self, export: ExportId) -> bool {
        self.sending.may_send(export)
    }

    /// Whether exports that could not send can go on since this was asked last.
    pub fn take_unblocked(&mut self) -> bool {
        self.sending.take_unblocked()
    }

    /// Whether the other host has not acknowledged everything that was polled.
    #[must_use]
    pub fn has_unacknowledged(&self) -> bool {
        self.peer.is_some() && self.sending.has_unacknowledged()
    }

    // ---- what is to be done, and what is to be said

    /// What is to be done; ask until there is nothing.
    pub fn next_action(&mut self) -> Option<Action> {
        self.effects.next()
    }

    /// What is to be sent next: first what the peer has to know, then parts of messages, one of each stream
    /// in turn.
    pub fn next_out(&mut self, out: &mut Vec<u8>) -> Out {
        if self.peer.is_none() {
            return Out::Nothing;
        }
        // What is declined comes before what is wanted.
        let has_said = self.life.say(out)
            || self.receiving.say_declined(out)
            || self.wants.say(out)
            || self.receiving.say(out)
            || self.sending.say(out);
        if has_said { Out::Frame } else { self.sending.next_piece(out) }
    }

    /// Whether [`Peering::next_out`] would give a frame before any piece.
    #[must_use]
    pub fn has_control(&self) -> bool {
        self.peer.is_some()
            && (self.life.has_something_to_say()
                || self.wants.is_unsaid()
                || self.receiving.has_something_to_say()
                || self.sending.has_something_to_say())
    }

    /// Whether parts of messages wait to be sent, or exports to be polled.
    #[must_use]
    pub fn has_turns(&self) -> bool {
        self.sending.has_turns()
    }

    /// Whether something is to be said that can wait; see [`Peering::say_all`].
    #[must_use]
    pub fn has_more_to_say(&self) -> bool {
        self.receiving.has_more_to_say()
    }

    /// Acknowledgements that need no frame of their own become due: something else is sent now, or they have
    /// waited for long enough.
    pub fn say_all(&mut self) {
        self.receiving.say_all();
    }

    /// The last frame of a connection that closes: why.
    #[must_use]
    pub fn farewell(reason: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        let bye = say::Bye { reason: bounded_reason(reason.to_owned()) };
        say::append(FrameKind::Bye, 0, 0, &bye, &mut frame);
        frame
    }

    /// What a farewell says.
    #[must_use]
    pub fn farewell_reason(payload: &[u8]) -> Option<String> {
        let bye: say::Bye = say::read(payload)?;
        Some(bounded_reason(bye.reason))
    }
}
