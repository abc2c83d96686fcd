//! Runs one link: moves bytes between a connection, the rules ([`Peering`]) and the hive of this host.
//!
//! ```text
//!   hive ─▶ Exports ─▶ sending thread ──▶ │           │ ─▶ receiving thread ─▶ Imports ─▶ hive
//!                          │ ▲            │ Transport │            │ ▲
//!                          ▼ │            └───────────┘            ▼ │
//!                         Peering, behind one lock, for the rules alone
//! ```
//!
//! The sending thread owns the exports and every message that may have to be sent again; it sleeps at the hive's doorbells. The
//! receiving thread owns the imports; it sleeps at the socket. Neither holds the lock of the rules while it waits for anything. A
//! payload goes from the ring to the socket, and from the socket into memory of the ring of its import, without a stop in between, unless it is
//! short and came with others, or its ring has no room.
//!
//! Connections come and go ([`Engine::connect`]); each has a number, and whatever one thread still has of an older one is dropped
//! when it sees another number. If the process dies here, the other host sees the end of the connection and keeps what it has for a
//! while; nothing that was committed is torn, because a message is committed as a whole.
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::local::{ExportChange, Exports, Imports, Polled, Waker};
use crate::transport::{Peer, Transport, close_after};
use hivemind_core::link::candidate::{Candidate, ExportId};
use hivemind_core::link::frame::{HEADER, Header};
use hivemind_core::link::greeting::{Hello, may_forward};
use hivemind_core::link::peering::{Action, Now, Out, Peering, Settings, Totals, Violation, Wanted};

mod receive;

use receive::Receiver;

/// Frames that are given to the socket at once, and about how many bytes.
const BATCH_FRAMES: usize = 128;
const BATCH_BYTES: usize = 256 * 1024;
/// The system takes so many pieces with one call.
const PIECES_MAX: usize = 256;
/// A thread that waits for the socket looks this often whether the connection is still the one that it means.
const LOOK_MS: u16 = 100;
/// How long what can wait (an acknowledgement, messages that need not be held any more) waits for something
/// else to travel with.
const LAZY: Duration = Duration::from_millis(1);
/// How long a side that can no longer write waits for the other host's last word.
const LAST_WORD: Duration = Duration::from_millis(50);
/// The pause between two looks whether everything has arrived.
const DRAIN_PAUSE: Duration = Duration::from_micros(500);

/// Whether a publisher may cross to that host.
pub type Permit = dyn Fn(&Candidate, &Hello) -> bool + Send + Sync;

/// What the owner of a link has to say in it, and hears of it.
#[derive(Clone)]
pub struct Hooks {
    /// Asked about every publisher that the other host wants, beside what the rules say: may it cross? Must not block.
    pub permit: Arc<Permit>,
    /// The other host wants something else now, or the connection has changed. Must not block.
    pub changed: Arc<dyn Fn() + Send + Sync>,
    /// A connection ended because the other host broke the rules, or says that this one did. Must not block.
    pub at_fault: Arc<dyn Fn() + Send + Sync>,
}

/// What a host says that ends all its links.
pub const LEAVES: &str = "the host leaves";
/// What a host says, among others, that is linked again too soon after many faults.
pub const TOO_SOON: &str = "links of these hosts ended for a fault again and again";
/// What a host says that has two connections, on the one that goes.
pub const ANOTHER_STAYS: &str = "another connection of these hosts stays";

/// One link, with its two threads. Dropped, it ends: the other host is told so, and what stood for its publishers is gone.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the two threads and the owner share.
struct Shared {
    /// For people: which link.
    name: String,
    state: Mutex<State>,
    begun: Instant,
    is_over: AtomicBool,
    /// How often the sending thread has found nothing left to be sent.
    idle: AtomicU64,
    sender: Arc<dyn Waker>,
    receiver: EventFd,
    at_fault: Arc<dyn Fn() + Send + Sync>,
}

struct State {
    peering: Peering,
    connection: Option<Connection>,
    /// The number of the latest connection.
    number: u64,
    to_sender: VecDeque<Action>,
    to_receiver: VecDeque<Action>,
    /// Since when the sender has something to do that can wait for [`LAZY`].
    lazy_since: Option<Now>,
    /// Why the last connection ended.
    ended: Option<String>,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    transport: Arc<Mutex<Box<dyn Transport>>>,
    /// To wait at, without the lock.
    socket: Arc<OwnedFd>,
    /// See [`Transport::is_tamper_proof`].
    is_tamper_proof: bool,
    peer: Peer,
}

/// How a link is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who is connected; `None`: nobody.
    pub peer: Option<Peer>,
    /// Who that says it is.
    pub hello: Option<Hello>,
    /// What it has carried.
    pub totals: Totals,
    /// Why the last connection ended.
    pub ended: Option<String>,
    /// What the other host wants.
    pub wanted: Vec<Wanted>,
}

impl Engine {
    /// A link without a connection. `name` is for people.
    ///
    /// # Errors
    /// The system gives no descriptor or no thread.
    pub fn start<E, I>(
        name: &str,
        settings: Settings,
        exports: E,
        imports: I,
        hooks: Hooks,
    ) -> io::Result<Engine>
    where
        E: Exports + 'static,
        I: Imports + 'static,
        I::Import: 'static,
    {
        let spin = settings.spin;
        let receiver = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let state = State {
            peering: Peering::new(settings),
            connection: None,
            number: 0,
            to_sender: VecDeque::new(),
            to_receiver: VecDeque::new(),
            lazy_since: None,
            ended: None,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            state: Mutex::new(state),
            begun: Instant::now(),
            is_over: AtomicBool::new(false),
            idle: AtomicU64::new(0),
            sender: exports.waker(),
            receiver,
            at_fault: Arc::clone(&hooks.at_fault),
        });
        let mut engine = Engine { shared: Arc::clone(&shared), threads: Vec::new() };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let sending = Arc::clone(&shared);
        engine
            .threads
            .push(thread("hm-link-send").spawn(move || Sender::new(sending, exports, hooks).run())?);
        engine
            .threads
            .push(thread("hm-link-recv").spawn(move || Receiver::new(shared, imports, spin).run())?);
        Ok(engine)
    }

    /// A connection stands, and both ends have said who they are. It takes the place of an older one.
    ///
    /// # Errors
    /// There are no descriptors left; the older connection goes on.
    pub fn connect(&self, transport: Box<dyn Transport>, hello: Hello) -> io::Result<()> {
        let peer = transport.peer().clone();
        let socket = Arc::new(transport.descriptor().try_clone_to_owned()?);
        let is_tamper_proof = transport.is_tamper_proof();
        tracing::info!(link = %self.shared.name, %peer, %hello, "linked");
        let now = self.shared.now();
        {
            let mut state = self.shared.lock();
            if let Some(old) = state.connection.take() {
                lock(&old.transport).close();
            }
            state.number += 1;
            let number = state.number;
            let transport = Arc::new(Mutex::new(transport));
            state.connection = Some(Connection { number, transport, socket, is_tamper_proof, peer });
            state.peering.connected(hello, now);
            state.dispatch();
        }
        self.shared.wake_both();
        Ok(())
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.lock().connection.is_some()
    }

    /// Whether the host that is connected gives a sign of life within so long. That the connection ends in the meantime is none.
    #[must_use]
    pub fn is_alive(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        let (number, heard) = {
            let mut state = self.shared.lock();
            let Some(heard) = state.peering.ask() else { return false };
            (state.number, heard)
        };
        self.shared.sender.wake();
        while begun.elapsed() < patience {
            std::thread::sleep(DRAIN_PAUSE);
            let state = self.shared.lock();
            if !state.is_current(number) {
                return state.connection.is_some();
            }
            if state.peering.last_heard() > heard {
                return true;
            }
        }
        false
    }

    /// What the subscribers of this host want, the whole set. Surplus is left out, and logged.
    pub fn want(&self, wanted: Vec<Wanted>) {
        let surplus = self.shared.lock().peering.want(wanted);
        if surplus > 0 {
            tracing::warn!(link = %self.shared.name, surplus, "too many filters for one link; these are left out");
        }
        self.shared.sender.wake();
    }

    /// [`Hooks::permit`] may say otherwise from now on: what is sent is looked at anew.
    pub fn reconsider(&self) {
        let mut state = self.shared.lock();
        let interest = Arc::clone(state.peering.interest_of_peer());
        state.to_sender.push_back(Action::Want(interest));
        drop(state);
        self.shared.sender.wake();
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            peer: state.connection.as_ref().map(|connection| connection.peer.clone()),
            hello: state.peering.peer().cloned(),
            totals: state.peering.totals(),
            ended: state.ended.clone(),
            wanted: state.peering.interest_of_peer().wanted().to_vec(),
        }
    }

    /// Waits until everything that was published here is acknowledged over there, at most so long, and while there is a connection.
    pub fn drain(&self, patience: Duration) {
        let begun = Instant::now();
        // Acquire, both: pairs with the sender's count. The first of its rounds to end may have begun before this, the second has not.
        let enough = self.shared.idle.load(Ordering::Acquire) + 2;
        self.shared.sender.wake();
        while begun.elapsed() < patience {
            let has_looked = self.shared.idle.load(Ordering::Acquire) >= enough;
            let state = self.shared.lock();
            if state.connection.is_none() || (has_looked && !state.peering.has_unacknowledged()) {
                return;
            }
            drop(state);
            // Its second round, too, shall not wait for anything else.
            self.shared.sender.wake();
            std::thread::sleep(DRAIN_PAUSE);
        }
    }

    /// Says farewell, and ends the connection.
    pub fn hang_up(&self, reason: &str) {
        let number = self.shared.lock().number;
        self.shared.end(number, reason, Some(reason));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.hang_up(LEAVES);
        // Release: the threads see it when they wake.
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.wake_both();
        for thread in self.threads.drain(..) {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Gives each thread what the rules want of it.
    fn dispatch(&mut self) {
        while let Some(action) = self.peering.next_action() {
            match action {
                Action::Want(_) | Action::Release { .. } => self.to_sender.push_back(action),
                Action::Open { .. } | Action::Reopen { .. } | Action::Close { .. } => {
                    self.to_receiver.push_back(action);
                }
            }
        }
    }

    /// The sender is to be woken.
    fn has_work_for_sender(&mut self) -> bool {
        let unblocked = self.peering.take_unblocked();
        unblocked
            || self.peering.has_turns()
            || self.peering.has_control()
            || self.to_sender.iter().any(|action| !matches!(action, Action::Release { .. }))
    }

    /// The sender has something to do when it wakes.
    fn has_lazy_work_for_sender(&self) -> bool {
        !self.to_sender.is_empty() || self.peering.has_more_to_say()
    }

    fn is_current(&self, number: u64) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.number == number)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn now(&self) -> Now {
        self.begun.elapsed()
    }

    fn is_over(&self) -> bool {
        // Acquire: pairs with the store in `drop`.
        self.is_over.load(Ordering::Acquire)
    }

    fn wake_both(&self) {
        self.sender.wake();
        self.wake_receiver();
    }

    fn wake_receiver(&self) {
        // Fails only when it is set already.
        let _ = self.receiver.write(1);
    }

    /// Ends a connection, if it is still the present one. `farewell` is said to the peer.
    fn end(&self, number: u64, reason: &str, farewell: Option<&str>) {
        let connection = {
            let mut state = self.lock();
            if !state.is_current(number) {
                return;
            }
            let connection = state.connection.take();
            state.peering.disconnected(self.now());
            // Why it waits is worth more than that it has to.
            if state.ended.is_none() || !reason.contains(TOO_SOON) {
                state.ended = Some(reason.to_owned());
            }
            state.dispatch();
            connection
        };
        if let Some(Connection { transport, peer, .. }) = connection {
            tracing::warn!(link = %self.name, %peer, reason, "the connection of a link ends");
            let mut transport = lock(&transport);
            match farewell {
                Some(farewell) => close_after(&mut **transport, &Peering::farewell(farewell)),
                None => transport.close(),
            }
        }
        self.wake_both();
    }

    /// Leaves the receiving thread a moment to end a connection.
    fn await_end(&self, number: u64) {
        let begun = Instant::now();
        while begun.elapsed() < LAST_WORD && self.lock().is_current(number) {
            std::thread::sleep(DRAIN_PAUSE);
        }
    }

    fn end_for(&self, number: u64, violation: &Violation) {
        let reason = violation.to_string();
        // Who has said farewell is not told why it did.
        let farewell = (!matches!(violation, Violation::Bye { .. })).then_some(&*reason);
        self.end(number, &reason, farewell);
    }
}

/// Waits for a descriptor, at most so long.
fn wait(descriptor: BorrowedFd<'_>, flags: PollFlags, milliseconds: u16) {
    // Whatever it says, the next look tells.
    let _ = poll(&mut [PollFd::new(descriptor, flags)], PollTimeout::from(milliseconds));
}

/// The sending thread.
struct Sender<E: Exports> {
    shared: Arc<Shared>,
    exports: E,
    /// What may have to be sent again.
    held: BTreeMap<ExportId, VecDeque<(u64, E::Message)>>,
    hooks: Hooks,
    /// Exports that have no stream, because there are too many.
    surplus: HashSet<ExportId>,
    /// Exports that have something to be read, as of the last look.
    ready: Vec<ExportId>,
}

/// What goes to the socket at once: heads lie here, payloads where they are.
#[derive(Default)]
struct Batch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
    frames: usize,
}

enum Part {
    /// Bytes of `heads`.
    Heads { start: usize, end: usize },
    /// Bytes of a message that is held.
    Payload { export: ExportId, sequence: u64, start: usize, end: usize },
}

impl Batch {
    fn clear(&mut self) {
        self.heads.clear();
        self.parts.clear();
        (self.bytes, self.frames) = (0, 0);
    }

    fn is_full(&self) -> bool {
        self.frames >= BATCH_FRAMES || self.bytes >= BATCH_BYTES || self.parts.len() + 2 > PIECES_MAX
    }

    /// Bytes were appended to `heads`.
    fn add_heads(&mut self, start: usize) {
        let end = self.heads.len();
        self.bytes += end - start;
        self.frames += 1;
        match self.parts.last_mut() {
            Some(Part::Heads { end: last, .. }) if *last == start => *last = end,
            _ => self.parts.push(Part::Heads { start, end }),
        }
    }
}

impl<E: Exports> Sender<E> {
    fn new(shared: Arc<Shared>, exports: E, hooks: Hooks) -> Self {
        let (surplus, ready) = (HashSet::new(), Vec::new());
        Sender { shared, exports, held: BTreeMap::new(), hooks, surplus, ready }
    }

    fn run(mut self) {
        let mut batch = Batch::default();
        let mut changes = Vec::new();
        while !self.shared.is_over() {
            self.act();
            self.exports.changes(&mut changes);
            self.note(&mut changes);
            batch.clear();
            let connection = self.fill(&mut batch);
            match connection {
                Some(connection) if !batch.parts.is_empty() => {
                    if let Err(reason) = self.write(&connection, &batch) {
                        // The receiving thread may be about to read why.
                        self.shared.await_end(connection.number);
                        self.shared.end(connection.number, &reason, None);
                    }
                }
                _ => self.sleep(),
            }
        }
    }

    /// Does what the rules want of this thread.
    fn act(&mut self) {
        loop {
            let action = self.shared.lock().to_sender.pop_front();
            match action {
                Some(Action::Want(interest)) => {
                    let peer = self.shared.lock().peering.peer().cloned();
                    let permit = Arc::clone(&self.hooks.permit);
                    self.exports.want(Arc::new(move |candidate| {
                        peer.as_ref().is_some_and(|peer| {
                            interest.wants(candidate)
                                && may_forward(candidate, peer)
                                && permit(candidate, peer)
                        })
                    }));
                    (self.hooks.changed)();
                }
                Some(Action::Release { export, below }) => {
                    if let Some(held) = self.held.get_mut(&export) {
                        while held.front().is_some_and(|(sequence, _)| *sequence < below) {
                            held.pop_front();
                        }
                    }
                    if below == u64::MAX {
                        self.held.remove(&export);
                    }
                }
                Some(_) | None => return,
            }
        }
    }

    fn note(&mut self, changes: &mut Vec<ExportChange>) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for change in changes.drain(..) {
            match change {
                ExportChange::Begun { id, candidate, first } => {
                    let service = candidate.service.clone();
                    if !state.peering.begun(id, candidate, first) {
                        tracing::warn!(link = %self.shared.name, %service, "too many publishers for one link; not sent");
                        self.surplus.insert(id);
                    }
                }
                ExportChange::Ended { id, next } => {
                    self.surplus.remove(&id);
                    state.peering.ended(id, next);
                }
            }
        }
        state.dispatch();
    }

    /// Takes what is to be sent next. The connection that it is for; `None`: there is none.
    fn fill(&mut self, batch: &mut Batch) -> Option<Connection> {
        self.ready.clear();
        self.exports.ready(&mut self.ready);
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let now = shared.now();
        if state.peering.deadline().is_some_and(|at| at <= now)
            && let Err(violation) = state.peering.tick(now)
        {
            let number = state.number;
            drop(state);
            shared.end_for(number, &violation);
            return None;
        }
        state.dispatch();
        let connection = state.connection.clone()?;
        state.peering.look_at(&self.ready);
        let mut has_said_all = false;
        while !batch.is_full() {
            let start = batch.heads.len();
            match state.peering.next_out(&mut batch.heads) {
                // What could wait goes along with what did not.
                Out::Nothing if !has_said_all && !batch.parts.is_empty() => {
                    has_said_all = true;
                    state.peering.say_all();
                }
                Out::Nothing => break,
                Out::Frame => batch.add_heads(start),
                Out::Piece { export, header } if connection.is_tamper_proof => {
                    self.add_piece(batch, export, &header.unsummed());
                }
                Out::Piece { export, header } => self.add_piece(batch, export, &header),
                Out::Poll { export } => match self.exports.poll(export) {
                    Polled::Message { sequence, message } => {
                        let length = message.as_ref().len();
                        self.held.entry(export).or_default().push_back((sequence, message));
                        state.peering.polled(export, sequence, length);
                    }
                    Polled::Nothing => state.peering.nothing(export),
                    Polled::HeldOut => state.peering.held_out(export),
                },
            }
        }
        state.dispatch();
        if !state.has_lazy_work_for_sender() {
            state.lazy_since = None;
        }
        Some(connection)
    }

    fn add_piece(&self, batch: &mut Batch, export: ExportId, header: &Header) {
        let (start, end) = (header.offset as usize, header.offset as usize + header.length as usize);
        let message = self.message(export, header.sequence);
        let at = batch.heads.len();
        batch.heads.extend_from_slice(&header.encode(&message[start..end]));
        // A short payload costs less to copy than to point at.
        if end - start <= 4 * HEADER {
            batch.heads.extend_from_slice(&message[start..end]);
            return batch.add_heads(at);
        }
        batch.add_heads(at);
        batch.bytes += end - start;
        batch.parts.push(Part::Payload { export, sequence: header.sequence, start, end });
    }

    /// A message that the rules have sent is held until it says otherwise, and that is heard between two batches.
    fn message(&self, export: ExportId, sequence: u64) -> &[u8] {
        let held = self.held.get(&export).expect("what is sent is held");
        let at =
            held.binary_search_by_key(&sequence, |(sequence, _)| *sequence).expect("what is sent is held");
        held[at].1.as_ref()
    }

    fn write(&self, connection: &Connection, batch: &Batch) -> Result<(), String> {
        let slices: Vec<&[u8]> = batch
            .parts
            .iter()
            .map(|part| match *part {
                Part::Heads { start, end } => &batch.heads[start..end],
                Part::Payload { export, sequence, start, end } => &self.message(export, sequence)[start..end],
            })
            .collect();
        let mut pieces: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut left = &mut pieces[..];
        loop {
            let mut transport = lock(&connection.transport);
            let outcome = match (left.is_empty(), transport.wants_write()) {
                (true, false) => return Ok(()),
                (true, true) => transport.flush().map(|()| 0),
                (false, _) => transport.write(left),
            };
            match outcome {
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(transport);
                    wait(connection.socket.as_fd(), PollFlags::POLLOUT, LOOK_MS);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
            if self.shared.is_over() || !self.shared.lock().is_current(connection.number) {
                return Ok(());
            }
            self.tick(connection.number)?;
        }
    }

    /// A peer that does not read must not keep this thread from noticing that it is silent.
    fn tick(&self, number: u64) -> Result<(), String> {
        let mut state = self.shared.lock();
        let now = self.shared.now();
        if state.is_current(number) && state.peering.deadline().is_some_and(|at| at <= now) {
            state.peering.tick(now).map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }

    fn sleep(&mut self) {
        let (blocked, is_connected, timeout) = {
            let state = self.shared.lock();
            if !state.to_sender.is_empty() || state.peering.has_control() {
                return;
            }
            // One that is blocked and has nothing yet wakes this thread when it has, and is found here then.
            let is_blocked = |export: &ExportId| !state.peering.may_send(*export);
            let blocked: HashSet<ExportId> = self.ready.drain(..).filter(is_blocked).collect();
            let timeout = state.peering.deadline().map(|at| at.saturating_sub(self.shared.now()));
            (blocked, state.connection.is_some(), timeout)
        };
        if blocked.is_empty() && !self.exports.has_news() {
            // Release: what was sent before counts.
            self.shared.idle.fetch_add(1, Ordering::Release);
        }
        let surplus = &self.surplus;
        let may_send = |export| is_connected && !blocked.contains(&export) && !surplus.contains(&export);
        self.exports.sleep(&may_send, timeout);
    }
}
