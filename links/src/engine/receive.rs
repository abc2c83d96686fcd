//! The receiving thread: from the socket into the rings of the imports.
//!
//! What a peer announces takes nothing; what it sends takes about twice as much, in the ring where it belongs ([`Import::reach`]), or here, for want of room
//! there: all that waits here is at most [`KEPT_MAX`] for each link, and what is more is lost, and counted.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ANOTHER_STAYS, Connection, LAZY, LEAVES, LOOK_MS, Shared, State, TOO_SOON, lock};
use crate::local::{Import, ImportError, Imports};
use hivemind_core::link::frame::{Checksum, FrameError, FrameKind, HEADER, Header, UNSUMMED};
use hivemind_core::link::peering::{Action, Arrived, Begin, ImportId, Place};

/// What is read from the socket at once.
const BUFFER: usize = 256 * 1024;
/// The rest of a payload that is at least so long is read to where it belongs, past the buffer.
const STRAIGHT: usize = 8 * 1024;
/// Reads in a row before other things are looked after.
const READS_IN_A_ROW: usize = 64;
/// While more comes in, sleepers are told of it after so many bytes.
const ANNOUNCE_EACH: usize = 256 * 1024;
/// How long the rest of a long message is looked for before this thread sleeps.
const AMID: Duration = Duration::from_micros(40);
/// A longer message is not kept here until there is room for it: no publisher sends one.
const PRIVATE_MAX: u32 = 256 << 20;
/// All messages of one link that wait here for room take no more than this, in bytes; what comes beyond it counts as lost.
const KEPT_MAX: u64 = 512 << 20;
/// The pauses between two looks at rings without room: they double from the first to the longest.
const FIRST_PAUSE_MS: u16 = 1;
const LONGEST_PAUSE_MS: u16 = 16;

pub(super) struct Receiver<I: Imports> {
    shared: Arc<Shared>,
    imports: I,
    slots: BTreeMap<ImportId, Slot<I::Import>>,
    /// The connection of which this thread has read.
    number: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    piece: Option<Piece>,
    /// The last piece was long, so the next frame probably is, too.
    is_bulk: bool,
    pause: u16,
    /// When something came in last.
    idle_since: Instant,
    /// See [`Settings::spin`](hivemind_core::link::peering::Settings::spin).
    spin: Duration,
    /// The last wait in which this thread slept was shorter than that.
    was_short: bool,
    /// Imports with messages that wait for room, or whose sender does.
    needy: BTreeSet<ImportId>,
    /// Imports with commits of which sleepers do not know yet. They are told without the lock: who is woken may take this processor.
    fresh: Vec<ImportId>,
    /// Bytes that were read since sleepers were told.
    unannounced: usize,
    /// Bytes of messages that wait here for room.
    kept: Arc<AtomicU64>,
}

struct Slot<I> {
    import: I,
    filling: Filling,
    /// Lost before the message that is coming in.
    lost: u64,
    /// What arrived and has no room yet: how many were lost before it, and the message, unless there was no memory for it.
    waiting: VecDeque<(u64, Option<Kept>)>,
}

/// A message, or the beginning of one, that waits here.
struct Kept {
    bytes: Vec<u8>,
    all: Arc<AtomicU64>,
}

impl Kept {
    fn new(bytes: Vec<u8>, all: &Arc<AtomicU64>) -> Kept {
        // Relaxed, here and below: one thread counts.
        all.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Kept { bytes, all: Arc::clone(all) }
    }

    /// Whether this many more bytes are within what may wait.
    fn has_room_for(&self, bytes: usize) -> bool {
        has_room_for(&self.all, bytes)
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.all.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Relaxed: see [`Kept::new`].
fn has_room_for(all: &AtomicU64, bytes: usize) -> bool {
    all.load(Ordering::Relaxed) + bytes as u64 <= KEPT_MAX
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Where the message that is coming in goes.
enum Filling {
    Nothing,
    /// To the memory of the import.
    Shared,
    /// Here, for want of room. Grows with what comes.
    Private(Kept),
}

/// A piece whose payload is coming in.
struct Piece {
    header: Header,
    checksum: Checksum,
    import: Option<ImportId>,
    got: usize,
}

impl Piece {
    fn left(&self) -> usize {
        self.header.length as usize - self.got
    }
}

/// What is to be done beside reading.
struct Due {
    /// There is another connection than before, or none: bytes of it may be there already, past the socket.
    connection: bool,
    actions: bool,
    /// Something that can wait for a while does.
    lazy: bool,
}

/// What a look at the socket gave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Got {
    /// Nothing is there now.
    Nothing,
    /// Less than there was place for.
    Some,
    AllAskedFor,
}

/// Why a connection ends.
enum Broken {
    /// The peer closed it, or the network did.
    Closed(String),
    /// The peer broke the rules, and is told so.
    Fault(String),
    /// The peer has said farewell.
    Farewell(String),
    /// Another connection has taken its place.
    Replaced,
}

impl<I: Imports> Receiver<I> {
    pub(super) fn new(shared: Arc<Shared>, imports: I, spin: Duration) -> Self {
        Receiver {
            shared,
            imports,
            slots: BTreeMap::new(),
            number: 0,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            piece: None,
            is_bulk: false,
            pause: FIRST_PAUSE_MS,
            idle_since: Instant::now(),
            spin,
            was_short: false,
            needy: BTreeSet::new(),
            fresh: Vec::new(),
            unannounced: 0,
            kept: Arc::default(),
        }
    }

    pub(super) fn run(mut self) {
        let mut connection: Option<Connection> = None;
        let mut has_more = false;
        while !self.shared.is_over() {
            let due = self.look(&mut connection);
            if due.actions {
                self.act();
            }
            let has_starved = !self.needy.is_empty() && self.make_room();
            if !has_more && !due.connection {
                self.sleep(connection.as_ref(), has_starved, due.lazy);
                self.was_short = self.idle_since.elapsed() < self.spin;
            }
            has_more = false;
            let Some(connection) = &connection else { continue };
            match self.read(connection) {
                Ok(more) => has_more = more,
                Err(Broken::Replaced) => {}
                Err(Broken::Closed(reason)) => self.shared.end(connection.number, &reason, None),
                // A side that is told that it is over should know why.
                Err(Broken::Farewell(reason)) => {
                    if ![LEAVES, ANOTHER_STAYS, TOO_SOON].iter().any(|said| reason.contains(said)) {
                        (self.shared.at_fault)();
                    }
                    self.shared.end(connection.number, &reason, None);
                }
                Err(Broken::Fault(reason)) => {
                    (self.shared.at_fault)();
                    self.shared.end(connection.number, &reason, Some(&reason));
                }
            }
        }
    }

    /// Everything but bytes that may be due, with one lock.
    fn look(&mut self, connection: &mut Option<Connection>) -> Due {
        let mut state = self.shared.lock();
        let number = state.connection.as_ref().map_or(0, |connection| connection.number);
        let is_another = number != self.number;
        if is_another {
            connection.clone_from(&state.connection);
        }
        let has_waited = state.lazy_since.is_some_and(|since| self.shared.now() >= since + LAZY);
        if has_waited {
            // What has waited for something else for long enough waits no longer.
            state.lazy_since = None;
            state.peering.say_all();
        }
        let due = Due {
            connection: is_another,
            actions: !state.to_receiver.is_empty(),
            lazy: state.lazy_since.is_some(),
        };
        drop(state);
        if has_waited {
            self.shared.sender.wake();
        }
        if is_another {
            self.begin_anew(number);
        }
        due
    }

    /// What came on an older connection and is not committed comes again.
    fn begin_anew(&mut self, number: u64) {
        self.number = number;
        (self.start, self.end, self.piece) = (0, 0, None);
        for slot in self.slots.values_mut() {
            slot.import.abandon();
            slot.filling = Filling::Nothing;
            slot.waiting.clear();
        }
    }

    fn sleep(&self, connection: Option<&Connection>, has_starved: bool, has_lazy: bool) {
        let mut milliseconds = if has_starved { self.pause } else { 5 * LOOK_MS };
        if has_lazy {
            milliseconds = milliseconds.min(u16::try_from(LAZY.as_millis()).unwrap_or(1));
        }
        let alarm = self.shared.receiver.as_fd();
        let socket = connection.map_or(alarm, |connection| connection.socket.as_fd());
        let mut wanted = [PollFd::new(alarm, PollFlags::POLLIN), PollFd::new(socket, PollFlags::POLLIN)];
        // Whatever it says, the next look tells.
        let _ = poll(&mut wanted, PollTimeout::from(milliseconds));
        if wanted[0].any().unwrap_or(true) {
            let _ = self.shared.receiver.read();
        }
    }

    // ---- imports

    /// Does what the rules want of this thread.
    fn act(&mut self) {
        loop {
            let Some(action) = self.shared.lock().to_receiver.pop_front() else { return };
            match action {
                Action::Open { import, candidate, first } => {
                    let opened = self.imports.open(&candidate, first).map(|mut stands| {
                        let room = stands.room();
                        let (lost, waiting) = (0, VecDeque::new());
                        let slot = Slot { import: stands, filling: Filling::Nothing, lost, waiting };
                        self.slots.insert(import, slot);
                        self.needy.insert(import);
                        room
                    });
                    if let Err(error) = &opened {
                        tracing::warn!(service = %candidate.service, %error, "not taken over a link");
                    }
                    let mut state = self.shared.lock();
                    match opened {
                        Ok(room) => state.peering.opened(import, room),
                        Err(error) => state.peering.not_opened(import, error.to_string()),
                    }
                    state.dispatch();
                }
                Action::Reopen { import } => {
                    let Some(slot) = self.slots.get_mut(&import) else { continue };
                    let room = slot.import.room();
                    self.needy.insert(import);
                    let mut state = self.shared.lock();
                    state.peering.opened(import, room);
                    state.dispatch();
                }
                Action::Close { import, lost } => {
                    if let Some(mut slot) = self.slots.remove(&import) {
                        slot.import.skip(lost);
                    }
                }
                Action::Want(_) | Action::Release { .. } => {}
            }
            self.shared.sender.wake();
        }
    }

    /// Commits what waits, where there is room now. True: something still waits, or a sender waits for room.
    fn make_room(&mut self) -> bool {
        let mut has_starved = false;
        let mut has_moved = false;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        self.needy.retain(|id| {
            let Some(slot) = self.slots.get_mut(id) else { return false };
            if slot.waiting.is_empty() && !state.peering.wants_room(*id) {
                return false;
            }
            if let Some(reason) = slot.import.refusal() {
                refuse(*id, slot, &ImportError::Refused { reason }, &mut state);
                has_moved = true;
                return false;
            }
            let before = slot.waiting.len();
            commit_waiting(*id, slot, &mut state, &mut self.fresh);
            let still = !slot.waiting.is_empty() || state.peering.wants_room(*id);
            has_starved |= still;
            has_moved |= !still || slot.waiting.len() < before;
            still
        });
        state.dispatch();
        let has_news = state.has_work_for_sender();
        drop(state);
        self.announce();
        if has_news {
            shared.sender.wake();
        }
        self.pause = if has_moved { FIRST_PAUSE_MS } else { (self.pause * 2).min(LONGEST_PAUSE_MS) };
        has_starved
    }

    fn announce(&mut self) {
        self.unannounced = 0;
        for id in self.fresh.drain(..) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.import.announce();
            }
        }
    }

    // ---- bytes

    /// Reads until nothing is there, or other things are to be looked after. True: more may be there.
    fn read(&mut self, connection: &Connection) -> Result<bool, Broken> {
        let mut got = self.read_run(connection)?;
        // In the middle of a long message the rest is on its way, and where the last wait was short the next one probably is: to sleep
        // and be woken takes longer.
        while got == Got::Nothing && self.idle_since.elapsed() < self.patience() && !self.shared.is_over() {
            // Who shares this processor goes first.
            std::thread::yield_now();
            got = self.read_run(connection)?;
        }
        Ok(got != Got::Nothing)
    }

    /// How long to look before going to sleep.
    fn patience(&self) -> Duration {
        if self.is_bulk && self.piece.is_some() {
            AMID
        } else if self.was_short {
            self.spin
        } else {
            Duration::ZERO
        }
    }

    /// Reads until nothing is there, and tells of it.
    fn read_run(&mut self, connection: &Connection) -> Result<Got, Broken> {
        let outcome = self.take_run(connection);
        // Last, since who is woken may take this processor, or wait until it is free; and in any case, since it was committed.
        self.announce();
        let (got, has_work_for_sender) = outcome?;
        if has_work_for_sender {
            self.shared.sender.wake();
        }
        Ok(got)
    }

    /// What was read at last, and whether the sender has to do something about it.
    fn take_run(&mut self, connection: &Connection) -> Result<(Got, bool), Broken> {
        let mut last = Got::Nothing;
        for _ in 0..READS_IN_A_ROW {
            let got = self.read_once(connection)?;
            if got == Got::Nothing {
                break;
            }
            last = got;
            if got == Got::Some && !self.is_bulk {
                break;
            }
            if self.unannounced >= ANNOUNCE_EACH {
                self.announce();
            }
        }
        if last == Got::Nothing {
            return Ok((last, false));
        }
        self.idle_since = Instant::now();
        let mut state = self.current(connection)?;
        state.dispatch();
        let has_work_for_sender = state.has_work_for_sender();
        if !has_work_for_sender && state.has_lazy_work_for_sender() && state.lazy_since.is_none() {
            state.lazy_since = Some(self.shared.now());
        }
        Ok((last, has_work_for_sender))
    }

    fn current(&self, connection: &Connection) -> Result<std::sync::MutexGuard<'_, State>, Broken> {
        let state = self.shared.lock();
        if state.is_current(connection.number) { Ok(state) } else { Err(Broken::Replaced) }
    }

    /// Reads what is there: the rest of a long piece to where it belongs, what follows into the buffer.
    fn read_once(&mut self, connection: &Connection) -> Result<Got, Broken> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut place: &mut [u8] = &mut [];
        if self.start == self.end
            && let Some(piece) = &mut self.piece
            && (self.is_bulk || piece.left() >= STRAIGHT)
            && let Some(slot) = piece.import.and_then(|import| self.slots.get_mut(&import))
            && matches!(slot.filling, Filling::Shared)
        {
            let offset = piece.header.offset as usize + piece.got;
            place = slot.import.memory().get_mut(offset..offset + piece.left()).unwrap_or_default();
        }
        // What comes behind the head of a long piece is to go where it belongs, not through here.
        let is_ahead_of_head = self.piece.is_none() || !place.is_empty();
        let most = if self.is_bulk && is_ahead_of_head && self.end - self.start < HEADER {
            self.start + HEADER
        } else {
            self.buffer.len()
        };
        let rest = &mut self.buffer[self.end..most];
        let asked = place.len() + rest.len();
        let outcome = if place.is_empty() {
            lock(&connection.transport).read(&mut [IoSliceMut::new(rest)])
        } else {
            lock(&connection.transport).read(&mut [IoSliceMut::new(place), IoSliceMut::new(rest)])
        };
        let Some(count) = came(outcome)? else { return Ok(Got::Nothing) };
        if count == 0 {
            return Err(Broken::Closed("the other host closed the connection without a word".to_owned()));
        }
        let placed = count.min(place.len());
        if let Some(piece) = self.piece.as_mut().filter(|_| placed > 0) {
            piece.checksum.add(&place[..placed]);
            piece.got += placed;
        }
        self.end += count - placed;
        self.unannounced += count;
        self.parse(connection)?;
        Ok(if count == asked { Got::AllAskedFor } else { Got::Some })
    }

    /// Takes all frames that are complete, and the parts of pieces that are there.
    fn parse(&mut self, connection: &Connection) -> Result<(), Broken> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if !state.is_current(connection.number) {
            return Err(Broken::Replaced);
        }
        state.peering.heard(shared.now());
        loop {
            if let Some(piece) = &mut self.piece {
                let bytes = &self.buffer[self.start..self.end];
                let bytes = &bytes[..bytes.len().min(piece.left())];
                put(piece, bytes, &mut self.slots);
                self.start += bytes.len();
                if piece.left() > 0 {
                    return Ok(());
                }
                self.finish_piece(&mut state)?;
                continue;
            }
            let bytes = &self.buffer[self.start..self.end];
            let Some(head) = bytes.first_chunk::<HEADER>() else { return Ok(()) };
            let (header, mut checksum) = Header::decode(head).map_err(fault)?;
            if header.flags & UNSUMMED != 0 && !connection.is_tamper_proof {
                return Err(fault(FrameError::Unsummed));
            }
            if header.kind == FrameKind::Piece {
                self.start += HEADER;
                self.begin_piece(header, checksum, &mut state)?;
                continue;
            }
            self.is_bulk = false;
            let Some(payload) = bytes.get(HEADER..HEADER + header.length as usize) else { return Ok(()) };
            checksum.add(payload);
            checksum.check().map_err(fault)?;
            let outcome = state.peering.frame(&header, payload, shared.now());
            self.start += HEADER + header.length as usize;
            if let Err(violation) = outcome {
                let reason = violation.to_string();
                let is_farewell = header.kind == FrameKind::Bye;
                return Err(if is_farewell { Broken::Farewell(reason) } else { Broken::Fault(reason) });
            }
            state.dispatch();
        }
    }

    fn begin_piece(&mut self, header: Header, checksum: Checksum, state: &mut State) -> Result<(), Broken> {
        self.is_bulk = header.length as usize >= STRAIGHT;
        let place = state.peering.piece(&header).map_err(fault)?;
        let import = match place {
            Place::Discard => None,
            Place::Message { import, begin } => match (self.slots.get_mut(&import), begin) {
                (Some(slot), Some(begin)) => {
                    if !slot.waiting.is_empty() || state.peering.wants_room(import) {
                        self.needy.insert(import);
                    }
                    begin_message(import, slot, begin, state, &self.kept);
                    make_place(import, slot, &header, state).then_some(import)
                }
                (Some(slot), None) => make_place(import, slot, &header, state).then_some(import),
                // Refused a moment ago.
                (None, _) => None,
            },
        };
        self.piece = Some(Piece { header, checksum, import, got: 0 });
        Ok(())
    }

    fn finish_piece(&mut self, state: &mut State) -> Result<(), Broken> {
        let Some(piece) = self.piece.take() else { return Ok(()) };
        piece.checksum.check().map_err(fault)?;
        match state.peering.arrived() {
            Arrived::Part => {}
            Arrived::Whole { import } => {
                if let Some(slot) = self.slots.get_mut(&import) {
                    finish_message(import, slot, state, &mut self.fresh, &self.kept);
                    if !slot.waiting.is_empty() {
                        self.needy.insert(import);
                    }
                }
            }
            Arrived::Missed { import } => {
                if let Some(slot) = self.slots.get_mut(&import) {
                    slot.waiting.push_back((std::mem::take(&mut slot.lost), None));
                    commit_waiting(import, slot, state, &mut self.fresh);
                    if !slot.waiting.is_empty() {
                        self.needy.insert(import);
                    }
                }
            }
        }
        state.dispatch();
        Ok(())
    }
}

/// Puts a part of a payload where it belongs.
fn put<I: Import>(piece: &mut Piece, bytes: &[u8], slots: &mut BTreeMap<ImportId, Slot<I>>) {
    piece.checksum.add(bytes);
    let offset = piece.header.offset as usize + piece.got;
    piece.got += bytes.len();
    let Some(slot) = piece.import.and_then(|import| slots.get_mut(&import)) else { return };
    match &mut slot.filling {
        Filling::Nothing => {}
        Filling::Private(message) => message.extend(bytes),
        Filling::Shared => {
            if let Some(place) = slot.import.memory().get_mut(offset..offset + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
    }
}

/// A part of a message comes: makes room for it. False: it goes nowhere.
fn make_place<I: Import>(id: ImportId, slot: &mut Slot<I>, header: &Header, state: &mut State) -> bool {
    let end = header.offset as usize + header.length as usize;
    let has_place = match &slot.filling {
        Filling::Nothing => return false,
        Filling::Private(message) => message.has_room_for(header.length as usize),
        Filling::Shared => slot.import.reach(end).is_ok(),
    };
    if !has_place {
        let bytes = header.total;
        tracing::warn!(bytes, "no memory for the rest of a message of another host; it counts as lost");
        slot.filling = Filling::Nothing;
        slot.import.abandon();
        state.peering.not_taken(id);
    }
    has_place
}

/// A message begins.
fn begin_message<I: Import>(
    id: ImportId,
    slot: &mut Slot<I>,
    begin: Begin,
    state: &mut State,
    kept: &Arc<AtomicU64>,
) {
    // Not counted before the checksum is right: the number may be damaged.
    slot.lost = begin.lost;
    slot.filling = Filling::Nothing;
    if slot.waiting.is_empty() {
        match slot.import.begin(begin.total as usize) {
            Ok(()) => slot.filling = Filling::Shared,
            Err(ImportError::Full) if begin.total <= PRIVATE_MAX => {
                slot.filling = Filling::Private(Kept::new(Vec::new(), kept));
            }
            Err(ImportError::Full) => state.peering.not_taken(id),
            Err(ImportError::NoMemory { bytes }) => {
                tracing::warn!(bytes, "no memory for a message of another host; it counts as lost");
                state.peering.not_taken(id);
            }
            Err(error) => refuse(id, slot, &error, state),
        }
    } else if begin.total <= PRIVATE_MAX {
        slot.filling = Filling::Private(Kept::new(Vec::new(), kept));
    } else {
        state.peering.not_taken(id);
    }
}

fn finish_message<I: Import>(
    id: ImportId,
    slot: &mut Slot<I>,
    state: &mut State,
    fresh: &mut Vec<ImportId>,
    kept: &Arc<AtomicU64>,
) {
    match std::mem::replace(&mut slot.filling, Filling::Nothing) {
        Filling::Nothing => {}
        Filling::Shared => {
            let lost = std::mem::take(&mut slot.lost);
            slot.import.skip(lost);
            state.peering.skipped(id, lost);
            match slot.import.commit() {
                Ok(()) => {
                    note_fresh(id, fresh);
                    state.peering.committed(id, slot.import.room());
                }
                // What was lost before it took the room.
                Err(ImportError::Full) => {
                    let bytes = slot.import.memory();
                    let message = has_room_for(kept, bytes.len()).then(|| Kept::new(bytes.to_vec(), kept));
                    slot.import.abandon();
                    slot.waiting.push_back((0, message));
                    commit_waiting(id, slot, state, fresh);
                }
                Err(error) => refuse(id, slot, &error, state),
            }
        }
        Filling::Private(message) => {
            slot.waiting.push_back((std::mem::take(&mut slot.lost), Some(message)));
            commit_waiting(id, slot, state, fresh);
        }
    }
}

/// A run of messages of one import is told of once.
fn note_fresh(id: ImportId, fresh: &mut Vec<ImportId>) {
    if fresh.last() != Some(&id) {
        fresh.push(id);
    }
}

/// Commits what waits, as far as there is room, and says how much there is.
fn commit_waiting<I: Import>(id: ImportId, slot: &mut Slot<I>, state: &mut State, fresh: &mut Vec<ImportId>) {
    while let Some((lost, message)) = slot.waiting.front_mut() {
        let lost = std::mem::take(lost);
        slot.import.skip(lost);
        state.peering.skipped(id, lost);
        let Some(message) = message else {
            slot.import.skip(1);
            slot.waiting.pop_front();
            state.peering.missed(id, slot.import.room());
            continue;
        };
        let length = message.bytes.len();
        match slot.import.begin(length).and_then(|()| slot.import.reach(length)) {
            Ok(()) => {
                slot.import.memory().copy_from_slice(&message.bytes);
                slot.waiting.pop_front();
                match slot.import.commit() {
                    Ok(()) => {
                        note_fresh(id, fresh);
                        state.peering.committed(id, slot.import.room());
                    }
                    Err(error) => return refuse(id, slot, &error, state),
                }
            }
            Err(ImportError::Full) => return state.peering.room(id, 0),
            // Nothing gives it memory later: it counts as lost.
            Err(ImportError::NoMemory { .. }) => {
                slot.import.abandon();
                slot.import.skip(1);
                slot.waiting.pop_front();
                state.peering.missed(id, slot.import.room());
            }
            Err(error) => return refuse(id, slot, &error, state),
        }
    }
    state.peering.room(id, slot.import.room());
}

fn refuse<I: Import>(id: ImportId, slot: &mut Slot<I>, error: &ImportError, state: &mut State) {
    tracing::warn!(%error, "a publisher of another host is refused");
    slot.waiting.clear();
    slot.filling = Filling::Nothing;
    slot.import.abandon();
    state.peering.refuse(id, error.to_string());
}

/// `None`: nothing is there now.
fn came(outcome: io::Result<usize>) -> Result<Option<usize>, Broken> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(Broken::Closed(error.to_string())),
    }
}

fn fault(error: impl std::error::Error) -> Broken {
    Broken::Fault(error.to_string())
}
