//! The sending thread: from the rings of the exports to the socket.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;

use hivemind_core::link::candidate::ExportId;
use hivemind_core::link::frame::{HEADER, Header};
use hivemind_core::link::greeting::may_forward;
use hivemind_core::link::peering::{Action, Out};
use hivemind_runtime::lock;
use nix::poll::PollFlags;

use super::batch::{Batch, Part};
use super::shared::{Broken, Connection, Shared, wait};
use super::{Hooks, LOOK_MS};
use crate::local::{ExportChange, Exports, Polled};

/// See the head of the module.
pub(super) struct Sender<E: Exports> {
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

impl<E: Exports> Sender<E> {
    pub(super) fn new(shared: Arc<Shared>, exports: E, hooks: Hooks) -> Self {
        let (surplus, ready) = (HashSet::new(), Vec::new());
        Sender { shared, exports, held: BTreeMap::new(), hooks, surplus, ready }
    }

    pub(super) fn run(mut self) {
        let mut batch = Batch::default();
        let mut changes = Vec::new();
        while !self.shared.is_over() {
            self.act();
            self.exports.changes(&mut changes);
            self.note(&mut changes);
            batch.clear();
            let connection = self.fill(&mut batch);
            match connection {
                Some(connection) if !batch.is_empty() => {
                    if let Err(broken) = self.write(&connection, &batch) {
                        // The receiving thread may be about to read why.
                        self.shared.await_end(connection.number);
                        self.shared.end(connection.number, &broken.to_string(), None);
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
                        tracing::warn!(link = self.shared.name(), %service, "too many publishers for one link; not sent");
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
        if let Err(violation) = state.tick(shared.now()) {
            let (number, reason) = (state.number(), violation.to_string());
            drop(state);
            shared.end(number, &reason, Some(&reason));
            return None;
        }
        state.dispatch();
        let connection = state.connection.clone()?;
        state.peering.look_at(&self.ready);
        let mut has_said_all = false;
        while !batch.is_full() {
            let (heads, start) = batch.heads_mut();
            match state.peering.next_out(heads) {
                // What could wait goes along with what did not.
                Out::Nothing if !has_said_all && !batch.is_empty() => {
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
        let payload = &message[start..end];
        let (heads, at) = batch.heads_mut();
        heads.extend_from_slice(&header.encode(payload));
        // A short payload costs less to copy than to point at.
        let is_short = payload.len() <= 4 * HEADER;
        if is_short {
            heads.extend_from_slice(payload);
        }
        batch.add_heads(at);
        if !is_short {
            batch.add_payload(export, header.sequence, start, end);
        }
    }

    /// What is sent is held until the rules release it, and that is done between two batches.
    fn message(&self, export: ExportId, sequence: u64) -> &[u8] {
        let held = self.held.get(&export).expect("what is sent is held");
        let at =
            held.binary_search_by_key(&sequence, |(sequence, _)| *sequence).expect("what is sent is held");
        held[at].1.as_ref()
    }

    fn write(&self, connection: &Connection, batch: &Batch) -> Result<(), Broken> {
        let slices: Vec<&[u8]> = batch
            .parts()
            .iter()
            .map(|part| match *part {
                Part::Heads { start, end } => batch.heads(start, end),
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
                Err(error) => return Err(error.into()),
            }
            if self.shared.is_over() || !self.shared.lock().is_current(connection.number) {
                return Ok(());
            }
            self.tick(connection.number)?;
        }
    }

    /// A peer that does not read must not keep this thread from noticing that it is silent.
    fn tick(&self, number: u64) -> Result<(), Broken> {
        let mut state = self.shared.lock();
        if state.is_current(number) {
            state.tick(self.shared.now())?;
        }
        Ok(())
    }

    fn sleep(&mut self) {
        let (blocked, is_connected, timeout) = {
            let state = self.shared.lock();
            if !state.to_sender.is_empty() || state.peering.has_control() {
                return;
            }
            // A blocked export that has nothing yet wakes this thread once it has, and is found here then.
            let is_blocked = |export: &ExportId| !state.peering.may_send(*export);
            let blocked: HashSet<ExportId> = self.ready.drain(..).filter(is_blocked).collect();
            let timeout = state.peering.deadline().map(|at| at.saturating_sub(self.shared.now()));
            (blocked, state.connection.is_some(), timeout)
        };
        if blocked.is_empty() && !self.exports.has_news() {
            self.shared.count_idle();
        }
        let surplus = &self.surplus;
        let may_send = |export| is_connected && !blocked.contains(&export) && !surplus.contains(&export);
        self.exports.sleep(&may_send, timeout);
    }
}
