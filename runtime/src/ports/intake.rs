//! The untyped receiving end: the readers of all publishers that it is attached to, polled in turn.
//!
//! A port above it that looks at each connection by itself (a link) keeps a state with each: `Intake<S>`. It
//! takes in what is new with [`Intake::take_notice`] and [`Intake::admit_new`], then reads from
//! [`Intake::connection_mut`] and sleeps in [`Intake::sleep_at`].

use hivemind_core::contract::{Asks, Kind, Remote, SubscriberRole};
use hivemind_core::filter::Filter;
use hivemind_core::protocol::{Demand, EndId};
use hivemind_ring::archive::{Message as Arrived, NoCopy};
use hivemind_ring::fork::Counter;
use hivemind_ring::layout::{CAPACITY_MAX, SEATS_MAX};
use hivemind_ring::line::Line;
use hivemind_ring::mapped::{Mapped, MappedSeats};
use hivemind_ring::reader::{Held, PollError, Seats, Taken, Unread};
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::error::{RecvError, SubscriberError, WaitError};
use super::inbox::{Arrival, Gate, SubscriberEnd};
use super::member::Member;
use super::origin::Origin;
use super::trust::Trust;
use super::watch::{Watch, WatchError};

mod connection;
mod figures;
mod receive;

pub use self::connection::{Connection, ConnectionStatus};
pub use self::figures::Skipped;
pub use self::receive::{Receiving, receive};

use self::connection::{Left, StoodFor};

/// How long `recv` looks before it sleeps, by default: about what a wake-up costs.
pub const SPIN: Duration = Duration::from_micros(20);
/// After so many looks at the readers follows one for publishers that have ended …
const LOOKS_PER_SWEEP: u32 = 256;
/// … where one that found nothing counts as so many.
const IDLE_LOOKS: u32 = 16;
/// Attachments that have ended and are still listed by [`Intake::statuses`].
const ENDED_MAX: usize = 256;

/// A subscriber without its type: the readers of all publishers it is attached to, polled in turn. `S` is
/// what a port above it keeps with each connection.
pub struct Intake<S = ()> {
    connections: Vec<Connection<S>>,
    turn: usize,
    /// That of the end.
    news: Counter,
    seen_news: u64,
    /// Looks at the readers since the last sweep.
    looks: u32,
    /// Messages that a blocking receive still gives, once the node is leaving.
    last_call: Option<u64>,
    spin: Duration,
    filter: Filter,
    end: Arc<SubscriberEnd>,
    index: u32,
    member: Arc<Member>,
    ended: VecDeque<ConnectionStatus>,
    /// Of connections that ended.
    received_before: u64,
    lost_before: u64,
    /// How far it got with publishers of other hosts whose stand-in has ended, so that it is known what was
    /// missed if there is another one.
    left: Option<Box<Left>>,
    problems: VecDeque<(Origin, String)>,
    /// Who waits for this end beside the thread that receives.
    watch: OnceCell<Box<Watch>>,
}

impl<S> Intake<S> {
    /// Subscribes. Waits for the root's answer, at most for the patience of the node; not for publishers; in
    /// a batch, that waits. `None` expects any type.
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn create(
        member: &Arc<Member>,
        filter: &str,
        expected: Option<Kind>,
        spin: Duration,
        trust: Trust,
        gate: Option<Arc<dyn Gate>>,
        batch: Option<&Batch>,
    ) -> Result<Self, SubscriberError> {
        let filter = Filter::parse(filter)?;
        let hub = member.hub();
        hub.home().check()?;
        let index = hub.new_index();
        let role = if gate.is_some() { SubscriberRole::Link } else { SubscriberRole::Counted };
        let asks = Asks { kind: expected, role, ..Asks::default() };
        let demand = Demand::new(index, filter.as_str(), asks);
        member.session().demand_while(demand.clone(), batch.map(Batch::gathering), || {
            let bell = hub.bells().take()?;
            let seats = MappedSeats::create(hub.backend(), hub.node(), index, SEATS_MAX, bell)?;
            let end = Arc::new(SubscriberEnd::new(demand, seats, trust, gate));
            hub.add_subscriber(index, Arc::clone(&end));
            // From here on drop takes it back, also when the root refuses.
            Ok(Intake {
                connections: Vec::new(),
                turn: 0,
                news: end.news().clone(),
                seen_news: 0,
                looks: 0,
                last_call: hub.leaving().then_some(0),
                spin,
                filter,
                end,
                index,
                member: Arc::clone(member),
                ended: VecDeque::new(),
                received_before: 0,
                lost_before: 0,
                left: None,
                problems: VecDeque::new(),
                watch: OnceCell::new(),
            })
        })
    }

    /// The next message of the connection whose turn it is, if it travels in its slot and nothing else is to
    /// be done: the short way through [`Intake::poll`].
    #[inline(always)]
    pub fn poll_line(&mut self) -> Option<(usize, Line)> {
        self.looks += 1;
        let turn = self.undisturbed_turn()?;
        let line = self.connections.get_mut(turn)?.reader.poll_line()?;
        self.turn = turn + 1;
        Some((turn, line))
    }

    /// Whose turn it is, if nothing but messages is to be looked after.
    #[inline(always)]
    fn undisturbed_turn(&self) -> Option<usize> {
        let disturbed =
            self.looks >= LOOKS_PER_SWEEP || self.news.get() != self.seen_news || !self.problems.is_empty();
        (!disturbed).then_some(if self.turn < self.connections.len() { self.turn } else { 0 })
    }

    /// Whether there is nothing at all: the short way for a subscriber with one connection for which nobody
    /// waits.
    #[inline]
    pub fn is_idle(&mut self) -> bool {
        if self.undisturbed_turn().is_none() || self.watch.get().is_some() {
            return false;
        }
        let [connection] = &mut self.connections[..] else { return false };
        let idle = connection.reader.idle();
        if idle {
            self.looks += IDLE_LOOKS;
        }
        idle
    }

    /// As [`Intake::poll_line`], which was asked just before, for a message in a chunk.
    #[inline(always)]
    pub fn poll_held(&mut self) -> Option<(usize, Held<Mapped>)> {
        let turn = self.undisturbed_turn()?;
        // An error comes again on the long way, which tells of it.
        let held = self.connections.get_mut(turn)?.reader.poll_held().ok()??;
        self.turn = turn + 1;
        Some((turn, held))
    }

    /// The next message of any publisher, in turn, and which connection it came from.
    pub fn poll(&mut self) -> Result<Option<(usize, Arrived)>, RecvError> {
        if self.news.get() != self.seen_news {
            self.member.hub().home().check()?;
            self.take_news();
        }
        self.looks += 1;
        if self.looks >= LOOKS_PER_SWEEP {
            self.sweep();
        }
        if !self.problems.is_empty()
            && let Some((origin, reason)) = self.problems.pop_front()
        {
            let service = origin.service.clone();
            return Err(RecvError::NotAttached { service, publisher: origin.publisher, reason });
        }
        let count = self.connections.len();
        for _ in 0..count {
            if self.turn >= count {
                self.turn = 0;
            }
            let turn = self.turn;
            self.turn += 1;
            match self.connections[turn].reader.poll() {
                Ok(Some(Taken::Inline(line))) => return Ok(Some((turn, line.into()))),
                Ok(Some(Taken::Held(held))) => return Ok(Some((turn, held.into()))),
                Ok(Some(Taken::Unread(unread))) => return self.copied(turn, &unread),
                Ok(None) => {}
                Err(error) => return Err(self.trouble(turn, &error)),
            }
        }
        self.looks += IDLE_LOOKS;
        if self.watch.get().is_some() { self.arm() } else { Ok(None) }
    }

    /// Nothing is there: whoever waits for this end is told of what comes next. If that came meanwhile, it is
    /// told, and looked at.
    #[cold]
    fn arm(&mut self) -> Result<Option<(usize, Arrived)>, RecvError> {
        let Some(mut watch) = self.watch.take() else { return Ok(None) };
        let mut found = Ok(None);
        if !watch.is_armed() {
            self.sweep();
            let readers = self.connections.iter().map(|connection| &connection.reader);
            let news = || self.anything_new() || self.anything_ended();
            if !watch.arm(&self.end.seats, readers, news) {
                // Without the watch, so it does not come here again.
                found = self.poll();
            }
        }
        // It was taken.
        let _ = self.watch.set(watch);
        found
    }

    /// The descriptor of this end, if there is one.
    pub(crate) fn own_descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self.watch.get().map(Box::as_ref) {
            Some(Watch::Descriptor(descriptor)) => Some(descriptor.as_fd()),
            _ => None,
        }
    }

    /// Lets somebody wait for this end; it is told that there is something.
    pub(crate) fn watch_by<T>(
        &self,
        make: impl FnOnce(&Seats<Mapped>) -> Result<(Watch, T), WatchError>,
    ) -> Result<T, WatchError> {
        if self.watch.get().is_some() {
            return Err(WatchError::Watched);
        }
        let (watch, made) = make(&self.end.seats)?;
        // There was none.
        let _ = self.watch.set(Box::new(watch));
        Ok(made)
    }

    /// Nobody waits for this end any more but the thread that receives.
    pub fn unwatch(&mut self) {
        self.watch.take();
    }

    /// A copy of a message whose publisher is not trusted.
    #[inline(never)]
    fn copied(
        &mut self,
        turn: usize,
        unread: &Unread<Mapped>,
    ) -> Result<Option<(usize, Arrived)>, RecvError> {
        match Arrived::copy(unread) {
            Ok(copy) => Ok(Some((turn, copy))),
            Err(NoCopy { sequence, length: bytes, .. }) => {
                let connection = &mut self.connections[turn];
                connection.invalid += 1;
                let service = connection.origin.service.clone();
                Err(RecvError::NotCopied { service, sequence, bytes })
            }
        }
    }

    /// The filter.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Its node.
    #[must_use]
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Where the messages of a connection come from.
    ///
    /// # Panics
    /// If there is no such connection; those that a poll has just named are there.
    #[inline(always)]
    #[must_use]
    pub fn origin(&self, turn: usize) -> Origin {
        self.connections[turn].origin
    }

    /// Whether the messages of a connection are copied before they are looked at, because their publisher is
    /// not trusted.
    ///
    /// # Panics
    /// As [`Intake::origin`].
    #[inline(always)]
    #[must_use]
    pub fn copies(&self, turn: usize) -> bool {
        self.connections[turn].copies
    }

    /// The description of the type of a connection's messages, as it was announced.
    ///
    /// # Panics
    /// As [`Intake::origin`].
    #[must_use]
    pub fn schema(&self, turn: usize) -> &[u8] {
        &self.connections[turn].matched.kind.schema
    }

    #[cold]
    fn trouble(&mut self, turn: usize, error: &PollError) -> RecvError {
        match error {
            PollError::HeldOut { limit } => {
                RecvError::HeldOut { service: self.connections[turn].origin.service.clone(), limit: *limit }
            }
            error => self.cut_off(turn, error.to_string()),
        }
    }

    /// Detaches from a publisher whose message was read but is not what it must be.
    #[cold]
    pub fn cut_off_for(&mut self, turn: usize, reason: &dyn std::error::Error) -> RecvError {
        self.connections[turn].invalid += 1;
        self.cut_off(turn, reason.to_string())
    }

    /// Detaches from a publisher at fault.
    #[cold]
    pub fn cut_off(&mut self, turn: usize, reason: String) -> RecvError {
        let origin = self.connections[turn].origin;
        tracing::warn!(service = %origin.service, publisher = %origin.publisher, reason, "detached");
        self.end.bar(self.connections[turn].route());
        self.end_connection(turn);
        detached(&origin, reason)
    }

    fn end_connection(&mut self, turn: usize) {
        let connection = self.connections.remove(turn);
        self.received_before += connection.received();
        self.lost_before = self.lost_before.saturating_add(connection.lost());
        if let Some(next) = connection.remote_next() {
            let missed = connection.followed_at.map_or(0, |first| first.saturating_sub(next));
            self.lost_before = self.lost_before.saturating_add(missed);
            self.left.get_or_insert_default().insert((connection.user, connection.origin.publisher), next);
        }
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(connection.status(true));
        let route = connection.route();
        // Of one that has ended, or is gone, the root hears anyway.
        let lives = !connection.gone && !connection.reader.finished();
        self.end.detached(route, connection.reader.seat());
        drop(connection);
        if lives {
            self.member.session().detached(self.index, route);
        }
        self.member.session().forget(route.node);
    }

    /// Takes over what the control thread put into the inbox. The publishers that had to be let go of, each
    /// with the number of the message that would have been next.
    #[cold]
    fn take_news(&mut self) -> Vec<(EndId, u64)> {
        let (arrivals, gone, revoked) = {
            let mut inbox = self.end.inbox();
            self.seen_news = self.news.get();
            self.problems.extend(inbox.problems.drain(..));
            let revoked = std::mem::take(&mut inbox.revoked);
            (std::mem::take(&mut inbox.arrivals), std::mem::take(&mut inbox.gone), revoked)
        };
        // Before the arrivals, among which may be the same publishers again. Bounded: each was attached.
        let mut let_go = Vec::new();
        for (publisher, reason) in revoked {
            let is_it = |connection: &Connection<S>| connection.route() == publisher;
            if let Some(turn) = self.connections.iter().position(is_it) {
                self.problems.push_back((self.connections[turn].origin, reason));
                let_go.push((publisher, self.connections[turn].reader.cursor()));
                self.end_connection(turn);
            }
        }
        for Arrival { reader, origin, matched, user, gone, copies } in arrivals {
            if let Some(Remote { first, .. }) = matched.route.author.remote() {
                self.count_missed((user, origin.publisher), first.saturating_add(reader.first()));
            }
            self.connections.push(Connection {
                reader,
                origin,
                matched,
                user,
                gone,
                copies,
                invalid: 0,
                followed_at: None,
                state: None,
            });
        }
        for connection in &mut self.connections {
            connection.gone |= gone.contains(&connection.route().node);
        }
        if self.last_call.is_none() && self.member.hub().leaving() {
            // A lag beyond the largest ring is a lie.
            let lags = self.connections.iter().map(|connection| connection.reader.lag().min(CAPACITY_MAX));
            self.last_call = Some(lags.sum());
        }
        let_go
    }

    /// Counts what this subscriber has missed of a publisher of another host since an earlier one stood for
    /// it, to which it was attached. That one may not be read to its end yet; then this is done when it
    /// is.
    fn count_missed(&mut self, publisher: StoodFor, first: u64) {
        let is_earlier = |connection: &&mut Connection<S>| {
            connection.remote_first().is_some() && (connection.user, connection.origin.publisher) == publisher
        };
        if let Some(earlier) = self.connections.iter_mut().rev().find(is_earlier) {
            earlier.followed_at = Some(first);
            // It probably is read to its end: then that is seen now.
            self.looks = LOOKS_PER_SWEEP;
        } else if let Some(next) = self.left.as_ref().and_then(|left| left.next.get(&publisher)) {
            self.lost_before = self.lost_before.saturating_add(first.saturating_sub(*next));
        }
    }

    /// Ends the connections whose publisher is gone and that have nothing more to read. A publisher that ends
    /// in order says so in its ring alone, so this is asked from time to time.
    #[cold]
    fn sweep(&mut self) {
        self.looks = 0;
        for turn in (0..self.connections.len()).rev() {
            if self.connections[turn].is_over() {
                self.end_connection(turn);
            }
        }
    }

    #[inline]
    fn anything_new(&self) -> bool {
        self.news.get() != self.seen_news
            || self.connections.iter().any(|connection| connection.reader.ready())
    }

    /// Whether a publisher has ended and was read. One that ended since the last sweep has rung already.
    fn anything_ended(&self) -> bool {
        self.connections.iter().any(|connection| connection.reader.finished())
    }

    /// Waits until this intake is attached to `count` publishers, at most for `timeout`.
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over, and what does not fit.
    pub fn wait_for_publishers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        let hub = self.member.hub();
        let error = |found, forked| WaitError {
            what: "publishers",
            of: self.filter.as_str().to_owned(),
            found,
            wanted: count,
            waited: timeout,
            mismatch: None,
            forked,
        };
        hub.home().check().map_err(|forked| error(0, Some(forked)))?;
        let found = hub.wait_until(timeout, |_| {
            let found = self.end.publishers();
            if found >= count { Ok(()) } else { Err(found) }
        });
        found.map_err(|found| {
            let mismatch = self.skipped().first().map(Skipped::to_string);
            WaitError { mismatch, ..error(found, None) }
        })
    }
}

/// Ends a sleep of an intake, from any thread.
pub struct Waker(Arc<SubscriberEnd>);

impl Waker {
    /// Ends the sleep that is under way, or the next one. Does not block.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// For ports that look at each connection by itself.
impl<S> Intake<S> {
    /// What ends a sleep of this intake from other threads.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.end))
    }

    /// Its number in its node.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// All connections, in the order in which they came: those that were admitted, then those that were not
    /// yet.
    #[must_use]
    pub fn connections(&self) -> &[Connection<S>] {
        &self.connections
    }

    /// One of [`Intake::connections`].
    pub fn connection_mut(&mut self, turn: usize) -> Option<&mut Connection<S>> {
        self.connections.get_mut(turn)
    }

    /// Asks for the state of each new connection. `None`: it is detached.
    pub fn admit_new(&mut self, mut admit: impl FnMut(&Connection<S>) -> Option<S>) {
        let mut turn = self.connections.partition_point(|connection| connection.state.is_some());
        while let Some(connection) = self.connections.get_mut(turn) {
            connection.state = admit(connection);
            if connection.state.is_some() {
                turn += 1;
            } else {
                self.end_connection(turn);
            }
        }
    }

    /// Whether connections came or went that were not taken notice of.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.news.get() != self.seen_news
    }

    /// Detaches. Returns the number of the message that would have been next; `None`: it is not attached.
    pub fn end_route(&mut self, route: EndId) -> Option<u64> {
        let turn = self.connections.iter().position(|connection| connection.route() == route)?;
        let next = self.connections[turn].reader.cursor();
        self.end_connection(turn);
        Some(next)
    }

    /// Takes notice of connections that came and went. Returns those that have ended and were read, with the
    /// number after their last message. Looks at rings if there are news, if it is told to, and now and
    /// then.
    pub fn take_notice(&mut self, look_at_rings: bool) -> Vec<(EndId, u64)> {
        let mut ended = Vec::new();
        let has_news = self.has_news();
        if has_news {
            ended = self.take_news();
            self.problems.clear();
        }
        self.looks += IDLE_LOOKS;
        if !has_news && !look_at_rings && self.looks < LOOKS_PER_SWEEP {
            return ended;
        }
        self.looks = 0;
        for turn in (0..self.connections.len()).rev() {
            let connection = &self.connections[turn];
            if connection.is_over() {
                ended.push((connection.route(), connection.reader.cursor()));
                self.end_connection(turn);
            }
        }
        ended
    }

    /// Sleeps until the publisher of one of these connections publishes or ends, connections come or go, a
    /// [`Waker`] wakes it, or the time is over. It does not sleep if `is_due` says yes, asked once wake-ups
    /// cannot be lost any more. It may return early.
    ///
    /// # Panics
    /// If this end has a descriptor or a waiter: one that sleeps here would hide what they wait for.
    pub fn sleep_at<'a>(
        &'a self,
        chosen: impl Iterator<Item = &'a Connection<S>> + Clone,
        mut is_due: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) {
        assert!(
            self.watch.get().is_none(),
            "nobody else waits for an end that sleeps at some of its publishers"
        );
        let is_due = || self.has_news() || self.member.hub().leaving() || is_due();
        // Whatever it says, the caller looks.
        let _woken = self.end.seats.sleep(chosen.map(|connection| &connection.reader), is_due, timeout);
    }
}

impl<S> Drop for Intake<S> {
    fn drop(&mut self) {
        if !self.member.hub().home().is_here() {
            return;
        }
        // Arrivals that nobody took yet are attached, too.
        self.take_news();
        let connections = std::mem::take(&mut self.connections);
        let routes: Vec<EndId> = connections.iter().map(Connection::route).collect();
        self.end.seats.close(connections.into_iter().map(|connection| connection.reader));
        self.member.hub().remove_subscriber(self.index);
        self.member.session().withdraw(self.index);
        for route in routes {
            self.member.session().forget(route.node);
        }
    }
}

fn detached(origin: &Origin, reason: String) -> RecvError {
    RecvError::Detached { service: origin.service.clone(), publisher: EndId { ..origin.publisher }, reason }
}
