//! The receiving thread: from the socket into the rings of the imports.
//!
//! The rest of a long payload is read to where it belongs, past the buffer; everything else goes through it.
//! Without the lock: reads and wake-ups. With it: what the rules say about frames.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use hivemind_core::link::frame::{Checksum, FrameError, FrameKind, HEADER, Header, UNSUMMED};
use hivemind_core::link::peering::{ImportId, Violation};
use hivemind_runtime::lock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::shared::{Broken, Connection, Shared, State};
use super::slots::Slots;
use super::{ANOTHER_STAYS, LAZY, LEAVES, LOOK_MS, TOO_SOON};
use crate::local::Imports;

/// Bytes of the buffer: what is read from the socket at once.
const BUFFER: usize = 256 * 1024;
/// The rest of a payload that is at least this long is read to where it belongs, past the buffer.
const STRAIGHT: usize = 8 * 1024;
/// Reads in a row before other things are looked after.
const READS_IN_A_ROW: usize = 64;
/// Bytes after which sleepers are told, while more comes in.
const ANNOUNCE_EACH: usize = 256 * 1024;
/// How long the rest of a long message is polled for before this thread sleeps.
const AMID: Duration = Duration::from_micros(40);
/// Pauses between two looks at rings without room: they double from the first to the longest.
const FIRST_PAUSE_MS: u16 = 1;
const LONGEST_PAUSE_MS: u16 = 16;

/// Bytes that were read and not taken yet.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn take(&mut self, count: usize) {
        self.start += count;
    }

    /// Room behind the bytes; `is_little`: for no more than a header.
    fn room(&mut self, is_little: bool) -> &mut [u8] {
        if self.is_empty() {
            self.clear();
        } else if self.end == self.buffer.len() || (is_little && self.start + HEADER > self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let most = if is_little { self.start + HEADER } else { self.buffer.len() };
        &mut self.buffer[self.end..most]
    }
}

/// A piece whose payload is coming in.
struct Piece {
    header: Header,
    checksum: Checksum,
    /// `None`: it goes nowhere.
    import: Option<ImportId>,
    got: usize,
}

impl Piece {
    fn left(&self) -> usize {
        self.header.length as usize - self.got
    }

    /// Where in the message the next byte belongs.
    fn offset(&self) -> usize {
        self.header.offset as usize + self.got
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

/// See the head of the module.
pub(super) struct Receiver<I: Imports> {
    shared: Arc<Shared>,
    slots: Slots<I>,
    /// The connection of which this thread has read.
    number: u64,
    input: Input,
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
    /// Bytes that were read since sleepers were told.
    unannounced: usize,
}

impl<I: Imports> Receiver<I> {
    pub(super) fn new(shared: Arc<Shared>, imports: I, spin: Duration) -> Self {
        Receiver {
            shared,
            slots: Slots::new(imports),
            number: 0,
            input: Input { buffer: vec![0; BUFFER], start: 0, end: 0 },
            piece: None,
            is_bulk: false,
            pause: FIRST_PAUSE_MS,
            idle_since: Instant::now(),
            spin,
            was_short: false,
            unannounced: 0,
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
            let wants_room = self.slots.need_room() && self.make_room();
            if !has_more && !due.connection {
                self.sleep(connection.as_ref(), wants_room, due.lazy);
                self.was_short = self.idle_since.elapsed() < self.spin;
            }
            has_more = false;
            let Some(connection) = &connection else { continue };
            match self.read(connection) {
                Ok(more) => has_more = more,
                Err(broken) => self.end(connection, &broken),
            }
        }
    }

    fn end(&self, connection: &Connection, broken: &Broken) {
        let reason = broken.to_string();
        let last_word = match broken {
            Broken::Replaced => return,
            Broken::Closed | Broken::Transport(_) => None,
            // A peer that has said farewell needs none. If it gives a fault as its reason, that counts as
            // one.
            Broken::Violation(Violation::Bye { .. }) => {
                if ![LEAVES, ANOTHER_STAYS, TOO_SOON].iter().any(|said| reason.contains(said)) {
                    self.shared.at_fault();
                }
                None
            }
            Broken::Violation(_) | Broken::Frame(_) => {
                self.shared.at_fault();
                Some(&*reason)
            }
        };
        self.shared.end(connection.number, &reason, last_word);
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
            self.shared.wake_sender();
        }
        if is_another {
            self.number = number;
            self.input.clear();
            self.piece = None;
            self.slots.begin_anew();
        }
        due
    }

    fn sleep(&self, connection: Option<&Connection>, wants_room: bool, has_lazy: bool) {
        let mut milliseconds = if wants_room { self.pause } else { 5 * LOOK_MS };
        if has_lazy {
            milliseconds = milliseconds.min(u16::try_from(LAZY.as_millis()).unwrap_or(1));
        }
        let alarm = self.shared.receiver();
        let socket = connection.map_or(alarm.as_fd(), |connection| connection.socket.as_fd());
        let mut wanted =
            [PollFd::new(alarm.as_fd(), PollFlags::POLLIN), PollFd::new(socket, PollFlags::POLLIN)];
        // Whatever it says, the next look tells.
        let _ = poll(&mut wanted, PollTimeout::from(milliseconds));
        if wanted[0].any().unwrap_or(true) {
            let _ = alarm.read();
        }
    }

    // ---- imports

    /// Does what the rules want of this thread.
    fn act(&mut self) {
        loop {
            let Some(action) = self.shared.lock().to_receiver.pop_front() else { return };
            self.slots.act(action, &self.shared);
            self.shared.wake_sender();
        }
    }

    /// Commits what waits, where there is room now. True: something still waits, or a sender waits for room.
    fn make_room(&mut self) -> bool {
        let mut state = self.shared.lock();
        let room = self.slots.make_room(&mut state);
        state.dispatch();
        let has_work_for_sender = state.has_work_for_sender();
        drop(state);
        self.announce();
        if has_work_for_sender {
            self.shared.wake_sender();
        }
        self.pause = if room.has_moved { FIRST_PAUSE_MS } else { (self.pause * 2).min(LONGEST_PAUSE_MS) };
        room.is_wanted
    }

    fn announce(&mut self) {
        self.unannounced = 0;
        self.slots.announce();
    }

    // ---- bytes

    /// Reads until nothing is there, or other things are to be looked after. True: more may be there.
    fn read(&mut self, connection: &Connection) -> Result<bool, Broken> {
        let mut got = self.read_run(connection)?;
        // In the middle of a long message the rest is on its way, and where the last wait was short the next
        // one probably is: to sleep and be woken takes longer.
        while got == Got::Nothing && self.idle_since.elapsed() < self.polling_time() && !self.shared.is_over()
        {
            // Another thread that shares this processor goes first.
            std::thread::yield_now();
            got = self.read_run(connection)?;
        }
        Ok(got != Got::Nothing)
    }

    /// How long to poll before going to sleep.
    fn polling_time(&self) -> Duration {
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
        // Last, since a thread that is woken may take this processor, or wait until it is free. After a
        // fault, too: what came before it was committed.
        self.announce();
        let (got, has_work_for_sender) = outcome?;
        if has_work_for_sender {
            self.shared.wake_sender();
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
        let mut state = current(&self.shared, connection)?;
        state.dispatch();
        let has_work_for_sender = state.has_work_for_sender();
        if !has_work_for_sender && state.has_lazy_work_for_sender() && state.lazy_since.is_none() {
            state.lazy_since = Some(self.shared.now());
        }
        Ok((last, has_work_for_sender))
    }

    /// Reads what is there: the rest of a long piece to where it belongs, what follows into the buffer.
    fn read_once(&mut self, connection: &Connection) -> Result<Got, Broken> {
        let mut place: &mut [u8] = &mut [];
        if self.input.is_empty()
            && let Some(piece) = &self.piece
            && (self.is_bulk || piece.left() >= STRAIGHT)
        {
            place = self.slots.place(piece.import, piece.offset(), piece.left());
        }
        // What comes behind the head of a long piece is to go where it belongs, not through the buffer.
        let is_ahead_of_head = self.piece.is_none() || !place.is_empty();
        let is_little = self.is_bulk && is_ahead_of_head && self.input.len() < HEADER;
        let rest = self.input.room(is_little);
        let asked = place.len() + rest.len();
        let outcome = if place.is_empty() {
            lock(&connection.transport).read(&mut [IoSliceMut::new(rest)])
        } else {
            lock(&connection.transport).read(&mut [IoSliceMut::new(place), IoSliceMut::new(rest)])
        };
        let Some(count) = came(outcome)? else { return Ok(Got::Nothing) };
        if count == 0 {
            return Err(Broken::Closed);
        }
        let placed = count.min(place.len());
        if let Some(piece) = self.piece.as_mut().filter(|_| placed > 0) {
            piece.checksum.add(&place[..placed]);
            piece.got += placed;
        }
        self.input.end += count - placed;
        self.unannounced += count;
        self.parse(connection)?;
        Ok(if count == asked { Got::AllAskedFor } else { Got::Some })
    }

    /// Takes all frames that are complete, and the parts of pieces that are there.
    fn parse(&mut self, connection: &Connection) -> Result<(), Broken> {
        let shared = Arc::clone(&self.shared);
        let mut state = current(&shared, connection)?;
        state.peering.heard(shared.now());
        loop {
            if self.piece.is_some() {
                if !self.go_on_with_piece(&mut state)? {
                    return Ok(());
                }
                continue;
            }
            let bytes = self.input.bytes();
            let Some(head) = bytes.first_chunk::<HEADER>() else { return Ok(()) };
            let (header, mut checksum) = Header::decode(head)?;
            if header.flags & UNSUMMED != 0 && !connection.is_tamper_proof {
                return Err(FrameError::Unsummed.into());
            }
            if header.kind == FrameKind::Piece {
                self.input.take(HEADER);
                self.begin_piece(header, checksum, &mut state)?;
                continue;
            }
            self.is_bulk = false;
            let end = HEADER + header.length as usize;
            let Some(payload) = bytes.get(HEADER..end) else { return Ok(()) };
            checksum.add(payload);
            checksum.check()?;
            let outcome = state.peering.frame(&header, payload, shared.now());
            self.input.take(end);
            outcome?;
            state.dispatch();
        }
    }

    fn begin_piece(&mut self, header: Header, checksum: Checksum, state: &mut State) -> Result<(), Broken> {
        self.is_bulk = header.length as usize >= STRAIGHT;
        let place = state.peering.piece(&header)?;
        let import = self.slots.begin_piece(&header, place, state);
        self.piece = Some(Piece { header, checksum, import, got: 0 });
        Ok(())
    }

    /// Takes what is there of the piece that comes in. False: more of it is to come.
    fn go_on_with_piece(&mut self, state: &mut State) -> Result<bool, Broken> {
        let Some(piece) = &mut self.piece else { return Ok(true) };
        let bytes = self.input.bytes();
        let bytes = &bytes[..bytes.len().min(piece.left())];
        piece.checksum.add(bytes);
        self.slots.put(piece.import, piece.offset(), bytes);
        let count = bytes.len();
        piece.got += count;
        self.input.take(count);
        if piece.left() > 0 {
            return Ok(false);
        }
        if let Some(piece) = self.piece.take() {
            piece.checksum.check()?;
            let arrived = state.peering.arrived();
            self.slots.finish_piece(arrived, state);
            state.dispatch();
        }
        Ok(true)
    }
}

fn current<'a>(shared: &'a Shared, connection: &Connection) -> Result<MutexGuard<'a, State>, Broken> {
    let state = shared.lock();
    if state.is_current(connection.number) { Ok(state) } else { Err(Broken::Replaced) }
}

/// `None`: nothing is there now.
fn came(outcome: io::Result<usize>) -> Result<Option<usize>, Broken> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a head, read as the last bytes of the buffer but one: the rest of it was looked for
    /// past the end, and the thread died of it.
    #[test]
    fn the_rest_of_a_head_has_room_wherever_its_beginning_lies() {
        for behind in 0..2 * HEADER {
            for length in 1..HEADER.min(BUFFER - behind) {
                let end = BUFFER - behind;
                let mut buffer = vec![0; BUFFER];
                buffer[end - length..end].fill(7);
                let mut input = Input { buffer, start: end - length, end };
                assert_eq!(
                    input.room(true).len(),
                    HEADER - length,
                    "{length} bytes, {behind} before the end"
                );
                assert_eq!(input.bytes(), &[7; HEADER][..length]);
            }
        }
    }
}
