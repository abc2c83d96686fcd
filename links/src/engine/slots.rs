//! The imports of one link: where the messages of the other host go.
//!
//! What a peer announces takes nothing. What it sends takes about twice as much: in the ring where it belongs
//! ([`Import::reach`]), or *parked* here, for want of room there. All that is parked is at most
//! [`PARKED_MAX`] for each link; what is more is lost, and counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hivemind_core::link::frame::Header;
use hivemind_core::link::peering::{Action, Arrived, Begin, ImportId, Place};

use super::shared::{Shared, State};
use crate::local::{Import, ImportError, Imports};

/// A longer message is not parked: no publisher sends one.
const LONGEST_PARKED: u32 = 256 << 20;
/// Most memory for all messages of one link that wait for room, in bytes; what comes beyond it counts as
/// lost.
const PARKED_MAX: u64 = 512 << 20;

/// All messages of one link that wait for room.
#[derive(Clone, Default)]
struct ParkingLot(Arc<AtomicU64>);

impl ParkingLot {
    // Relaxed, here and below: one thread counts.
    fn has_room_for(&self, bytes: usize) -> bool {
        self.0.load(Ordering::Relaxed) + bytes as u64 <= PARKED_MAX
    }

    fn park(&self, bytes: Vec<u8>) -> Parked {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Parked { bytes, lot: self.clone() }
    }
}

/// A message, or the beginning of one, that waits for room in its ring.
struct Parked {
    bytes: Vec<u8>,
    lot: ParkingLot,
}

impl Parked {
    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Relaxed: see `ParkingLot`.
        self.lot.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // Relaxed: see `ParkingLot`.
        self.lot.0.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Where the message that is coming in goes.
enum Filling {
    Nothing,
    /// To the memory of the import.
    Shared,
    /// Here, for want of room. Grows with what comes.
    Private(Parked),
}

struct Slot<I> {
    import: I,
    filling: Filling,
    /// Lost before the message that is coming in.
    lost: u64,
    /// What arrived and has no room yet: how many were lost before it, and the message, unless there was no
    /// memory for it.
    waiting: VecDeque<(u64, Option<Parked>)>,
}

/// Progress of the imports that waited for room.
#[derive(Clone, Copy, Default)]
pub(super) struct Room {
    /// Something still waits for room, or a sender does.
    pub(super) is_wanted: bool,
    /// Some of what waited was committed.
    pub(super) has_moved: bool,
}

/// See the head of the module.
pub(super) struct Slots<I: Imports> {
    imports: I,
    slots: BTreeMap<ImportId, Slot<I::Import>>,
    /// Imports with messages that wait for room, or whose sender does.
    needy: BTreeSet<ImportId>,
    /// Imports with commits of which sleepers do not know yet. They are told without the lock: a thread that
    /// is woken may take this processor.
    fresh: Vec<ImportId>,
    parked: ParkingLot,
}

impl<I: Imports> Slots<I> {
    pub(super) fn new(imports: I) -> Self {
        Slots {
            imports,
            slots: BTreeMap::new(),
            needy: BTreeSet::new(),
            fresh: Vec::new(),
            parked: ParkingLot::default(),
        }
    }

    /// Another connection: what came on an older one and is not committed comes again.
    pub(super) fn begin_anew(&mut self) {
        for slot in self.slots.values_mut() {
            slot.import.abandon();
            slot.filling = Filling::Nothing;
            slot.waiting.clear();
        }
    }

    /// Does what the rules want.
    pub(super) fn act(&mut self, action: Action, shared: &Shared) {
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
                let mut state = shared.lock();
                match opened {
                    Ok(room) => state.peering.opened(import, room),
                    Err(error) => state.peering.not_opened(import, error.to_string()),
                }
                state.dispatch();
            }
            Action::Reopen { import } => {
                let Some(slot) = self.slots.get_mut(&import) else { return };
                let room = slot.import.room();
                self.needy.insert(import);
                let mut state = shared.lock();
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
    }

    /// Whether some import waits for room.
    pub(super) fn need_room(&self) -> bool {
        !self.needy.is_empty()
    }

    /// Commits what waits, where there is room now.
    pub(super) fn make_room(&mut self, state: &mut State) -> Room {
        let mut all = Room::default();
        self.needy.retain(|id| {
            let Some(slot) = self.slots.get_mut(id) else { return false };
            if slot.waiting.is_empty() && !state.peering.wants_room(*id) {
                return false;
            }
            if let Some(reason) = slot.import.refusal() {
                slot.refuse(*id, &ImportError::Refused { reason }, state);
                all.has_moved = true;
                return false;
            }
            let before = slot.waiting.len();
            slot.commit_waiting(*id, state, &mut self.fresh);
            let still = !slot.waiting.is_empty() || state.peering.wants_room(*id);
            all.is_wanted |= still;
            all.has_moved |= !still || slot.waiting.len() < before;
            still
        });
        all
    }

    /// Wakes the subscribers that sleep, after commits.
    pub(super) fn announce(&mut self) {
        for id in self.fresh.drain(..) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.import.announce();
            }
        }
    }

    /// A piece begins. Returns the import that takes it; `None`: it goes nowhere.
    pub(super) fn begin_piece(
        &mut self,
        header: &Header,
        place: Place,
        state: &mut State,
    ) -> Option<ImportId> {
        let Place::Message { import, begin } = place else { return None };
        // Without a slot it was refused a moment ago.
        let slot = self.slots.get_mut(&import)?;
        if let Some(begin) = begin {
            if !slot.waiting.is_empty() || state.peering.wants_room(import) {
                self.needy.insert(import);
            }
            slot.begin(import, begin, state, &self.parked);
        }
        slot.make_place(import, header, state).then_some(import)
    }

    /// The place in shared memory of what is still to come of a piece. Empty: there is none.
    pub(super) fn place(&mut self, import: Option<ImportId>, offset: usize, length: usize) -> &mut [u8] {
        match import.and_then(|import| self.slots.get_mut(&import)) {
            Some(Slot { import, filling: Filling::Shared, .. }) => {
                import.memory().get_mut(offset..offset + length).unwrap_or_default()
            }
            _ => &mut [],
        }
    }

    /// Puts a part of a payload where it belongs.
    pub(super) fn put(&mut self, import: Option<ImportId>, offset: usize, bytes: &[u8]) {
        let Some(slot) = import.and_then(|import| self.slots.get_mut(&import)) else { return };
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

    /// A piece is there.
    pub(super) fn finish_piece(&mut self, arrived: Arrived, state: &mut State) {
        let (Arrived::Whole { import } | Arrived::Missed { import }) = arrived else { return };
        let Some(slot) = self.slots.get_mut(&import) else { return };
        if matches!(arrived, Arrived::Whole { .. }) {
            slot.finish(import, state, &mut self.fresh, &self.parked);
        } else {
            slot.waiting.push_back((std::mem::take(&mut slot.lost), None));
            slot.commit_waiting(import, state, &mut self.fresh);
        }
        if !slot.waiting.is_empty() {
            self.needy.insert(import);
        }
    }
}

impl<I: Import> Slot<I> {
    /// A message begins.
    fn begin(&mut self, id: ImportId, begin: Begin, state: &mut State, lot: &ParkingLot) {
        // Not counted before the checksum is right: the number may be damaged.
        self.lost = begin.lost;
        self.filling = Filling::Nothing;
        let begun = if self.waiting.is_empty() {
            self.import.begin(begin.total as usize)
        } else {
            Err(ImportError::Full)
        };
        match begun {
            Ok(()) => self.filling = Filling::Shared,
            Err(ImportError::Full) if begin.total <= LONGEST_PARKED => {
                self.filling = Filling::Private(lot.park(Vec::new()));
            }
            Err(ImportError::Full) => state.peering.not_taken(id),
            Err(ImportError::NoMemory { bytes }) => {
                tracing::warn!(bytes, "no memory for a message of another host; it counts as lost");
                state.peering.not_taken(id);
            }
            Err(error) => self.refuse(id, &error, state),
        }
    }

    /// A part of a message comes: makes room for it. False: it goes nowhere.
    fn make_place(&mut self, id: ImportId, header: &Header, state: &mut State) -> bool {
        let end = header.offset as usize + header.length as usize;
        let has_place = match &self.filling {
            Filling::Nothing => return false,
            Filling::Private(message) => message.lot.has_room_for(header.length as usize),
            Filling::Shared => self.import.reach(end).is_ok(),
        };
        if !has_place {
            let bytes = header.total;
            tracing::warn!(bytes, "no memory for the rest of a message of another host; it counts as lost");
            self.filling = Filling::Nothing;
            self.import.abandon();
            state.peering.not_taken(id);
        }
        has_place
    }

    /// A message is complete.
    fn finish(&mut self, id: ImportId, state: &mut State, fresh: &mut Vec<ImportId>, lot: &ParkingLot) {
        match std::mem::replace(&mut self.filling, Filling::Nothing) {
            Filling::Nothing => {}
            Filling::Shared => {
                let lost = std::mem::take(&mut self.lost);
                self.import.skip(lost);
                state.peering.skipped(id, lost);
                match self.import.commit() {
                    Ok(()) => self.committed(id, state, fresh),
                    // What was lost before it took the room.
                    Err(ImportError::Full) => {
                        let bytes = self.import.memory();
                        let message = lot.has_room_for(bytes.len()).then(|| lot.park(bytes.to_vec()));
                        self.import.abandon();
                        self.waiting.push_back((0, message));
                        self.commit_waiting(id, state, fresh);
                    }
                    Err(error) => self.refuse(id, &error, state),
                }
            }
            Filling::Private(message) => {
                self.waiting.push_back((std::mem::take(&mut self.lost), Some(message)));
                self.commit_waiting(id, state, fresh);
            }
        }
    }

    fn committed(&mut self, id: ImportId, state: &mut State, fresh: &mut Vec<ImportId>) {
        // A run of messages of one import is told of once.
        if fresh.last() != Some(&id) {
            fresh.push(id);
        }
        state.peering.committed(id, self.import.room());
    }

    /// Commits what waits, as far as there is room, and says how much there is.
    fn commit_waiting(&mut self, id: ImportId, state: &mut State, fresh: &mut Vec<ImportId>) {
        while let Some((lost, message)) = self.waiting.front_mut() {
            let lost = std::mem::take(lost);
            self.import.skip(lost);
            state.peering.skipped(id, lost);
            let Some(message) = message else {
                self.import.skip(1);
                self.waiting.pop_front();
                state.peering.missed(id, self.import.room());
                continue;
            };
            let length = message.bytes.len();
            match self.import.begin(length).and_then(|()| self.import.reach(length)) {
                Ok(()) => {
                    self.import.memory().copy_from_slice(&message.bytes);
                    self.waiting.pop_front();
                    match self.import.commit() {
                        Ok(()) => self.committed(id, state, fresh),
                        Err(error) => return self.refuse(id, &error, state),
                    }
                }
                Err(ImportError::Full) => return state.peering.room(id, 0),
                // Nothing gives it memory later: it counts as lost.
                Err(ImportError::NoMemory { .. }) => {
                    self.import.abandon();
                    self.import.skip(1);
                    self.waiting.pop_front();
                    state.peering.missed(id, self.import.room());
                }
                Err(error) => return self.refuse(id, &error, state),
            }
        }
        state.peering.room(id, self.import.room());
    }

    fn refuse(&mut self, id: ImportId, error: &ImportError, state: &mut State) {
        tracing::warn!(%error, "a publisher of another host is refused");
        self.waiting.clear();
        self.filling = Filling::Nothing;
        self.import.abandon();
        state.peering.refuse(id, error.to_string());
    }
}
