//! What is read from this hive for one link: one subscription to everything, with a gate that lets in what
//! the other host wants.
//!
//! Each connection of the port is an export, which has a number; numbers only grow, and so they do from one
//! connection to the next. A lossy export that the network does not keep up with passes over messages that
//! are too old to be worth sending.
//!
//! | edge   | release             | acquire               | carries                                   |
//! | ------ | ------------------- | --------------------- | ----------------------------------------- |
//! | wake   | `ExportWaker::wake` | `HiveExports::sleep`  | what the sending thread is woken for      |
//!
//! The sending thread clears the flag with an acquire: what was said before the wake-up is seen in the next
//! look. A wake-up after that sets the flag again, so the next sleep ends at once.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::local::{ExportChange, Exports, Polled, WakeUp};
use hivemind_core::contract::Match;
use hivemind_core::link::candidate::{Candidate, ExportId, Via};
use hivemind_core::protocol::EndId;
use hivemind_ring::archive::Message;
use hivemind_ring::reader::PollError;

use hivemind_runtime::lock;
use hivemind_runtime::ports::{Connection, Gate, Intake, Member, SubscriberError, Trust, Waker};

/// Messages up to this length are copied while they are kept, in bytes.
const SHORT: usize = 2048;

type Predicate = Arc<dyn Fn(&Candidate) -> bool + Send + Sync>;

/// See the head of the module.
pub(super) struct HiveExports {
    member: Arc<Member>,
    intake: Intake<Export>,
    gate: Arc<ExportGate>,
    waker: Arc<ExportWaker>,
    ids: HashMap<EndId, ExportId>,
    next_id: ExportId,
    ended: Vec<ExportChange>,
    /// A publisher was seen to have ended, in its ring.
    may_have_ended: bool,
}

/// One attachment to a publisher of this hive.
#[derive(Debug)]
struct Export {
    id: ExportId,
    /// This many of the newest messages never are stale.
    keep: u64,
    /// Since when it has not caught up, and the number of the message that was published next then.
    behind_since: Option<(Instant, u64)>,
}

/// Age at which a message of a lossy publisher is stale: the network has not taken it for so long that it is
/// not worth sending any more.
const STALE: Duration = Duration::from_millis(200);

/// Passes over stale messages. Subscribers at the other host count them by the gap in the numbers.
fn skip_stale(connection: &mut Connection<Export>) {
    let head = connection.cursor() + connection.lag();
    let Some(export) = connection.state_mut() else { return };
    let now = Instant::now();
    let Some((since, published)) = export.behind_since else {
        export.behind_since = Some((now, head));
        return;
    };
    let waited = now.saturating_duration_since(since);
    if waited < STALE {
        return;
    }
    export.behind_since = Some((now, head));
    // After a long stop it is not known how old the rest is.
    let stale = if waited < 2 * STALE { published } else { head };
    let end = stale.min(head.saturating_sub(export.keep));
    // Bounded by the ring: each poll passes over a message, or over those that were overwritten.
    while connection.cursor() < end && matches!(connection.poll(), Ok(Some(_))) {}
}

/// Lets in what is wanted, and remembers what that is.
struct ExportGate {
    wanted: Mutex<Predicate>,
    candidates: Mutex<HashMap<EndId, Candidate>>,
}

impl Gate for ExportGate {
    fn admits(&self, matched: &Match) -> bool {
        // What is left of a publisher that is gone stays on its host.
        if matched.route.author.former().is_some() {
            return false;
        }
        let candidate = candidate_of(matched);
        let wanted = Arc::clone(&lock(&self.wanted));
        let is_wanted = wanted(&candidate);
        if is_wanted {
            lock(&self.candidates).insert(matched.route.end, candidate);
        }
        is_wanted
    }
}

fn candidate_of(matched: &Match) -> Candidate {
    let Match { service, route, kind, contract } = matched;
    let via = route.author.remote().map(|remote| Via {
        host: remote.host.clone(),
        leaf: remote.leaf,
        node: remote.node_name.clone(),
        publisher: remote.publisher,
    });
    Candidate {
        publisher: route.end,
        node: route.publisher_node().clone(),
        service: service.clone(),
        kind: kind.clone(),
        contract: *contract,
        via,
    }
}

/// Ends a sleep of the sending thread.
struct ExportWaker {
    port: Waker,
    is_woken: AtomicBool,
}

impl ExportWaker {
    fn wake(&self) {
        // Release, edge wake: what the thread is woken for was written before.
        if !self.is_woken.swap(true, Ordering::Release) {
            self.port.wake();
        }
    }
}

impl HiveExports {
    /// Subscribes to everything, and lets nothing in yet.
    pub(super) fn new(member: &Arc<Member>) -> Result<HiveExports, SubscriberError> {
        let nothing: Predicate = Arc::new(|_| false);
        let gate = Arc::new(ExportGate { wanted: Mutex::new(nothing), candidates: Mutex::default() });
        let choice: Arc<dyn Gate> = Arc::clone(&gate) as _;
        let intake = Intake::create(member, "**", None, Duration::ZERO, Trust::SameUser, Some(choice), None)?;
        let waker = Arc::new(ExportWaker { port: intake.waker(), is_woken: AtomicBool::new(false) });
        Ok(HiveExports {
            member: Arc::clone(member),
            intake,
            gate,
            waker,
            ids: HashMap::new(),
            next_id: 1,
            ended: Vec::new(),
            may_have_ended: false,
        })
    }

    fn turn_of(&self, id: ExportId) -> Option<usize> {
        // Those that are not admitted yet come last.
        let connections = self.intake.connections();
        connections.binary_search_by_key(&id, |connection| id_of(connection).unwrap_or(ExportId::MAX)).ok()
    }

    fn has_ended(&mut self, route: EndId, next: u64) {
        lock(&self.gate.candidates).remove(&route);
        if let Some(id) = self.ids.remove(&route) {
            self.ended.push(ExportChange::Ended { id, next });
        }
    }
}

impl Exports for HiveExports {
    type Message = Unacknowledged;

    fn want(&mut self, wanted: Predicate) {
        *lock(&self.gate.wanted) = Arc::clone(&wanted);
        let unwanted: Vec<EndId> = {
            let candidates = lock(&self.gate.candidates);
            candidates.iter().filter(|(_, candidate)| !wanted(candidate)).map(|(route, _)| *route).collect()
        };
        for route in unwanted {
            // One that is on its way here is looked at again when it arrives.
            if let Some(next) = self.intake.end_route(route) {
                self.has_ended(route, next);
            }
        }
        self.member.session().rematch(self.intake.index());
    }

    fn changes(&mut self, changes: &mut Vec<ExportChange>) {
        for (route, next) in self.intake.take_notice(self.may_have_ended) {
            self.has_ended(route, next);
        }
        self.may_have_ended = false;
        changes.append(&mut self.ended);
        let wanted = Arc::clone(&lock(&self.gate.wanted));
        let (gate, ids, next_id) = (&self.gate, &mut self.ids, &mut self.next_id);
        let mut is_unknown = false;
        self.intake.admit_new(|connection| {
            let route = connection.route();
            let mut candidates = lock(&gate.candidates);
            let known = candidates.get(&route);
            // Forgotten with an earlier attachment, that ended after this one was let in: it has to ask
            // again.
            is_unknown |= known.is_none();
            let Some(candidate) = known.filter(|candidate| wanted(candidate)).cloned() else {
                candidates.remove(&route);
                return None;
            };
            let id = *next_id;
            *next_id += 1;
            ids.insert(route, id);
            let keep = u64::from(candidate.contract.history).max(1);
            changes.push(ExportChange::Begun { id, candidate, first: connection.first() });
            Some(Export { id, keep, behind_since: None })
        });
        if is_unknown {
            self.member.session().rematch(self.intake.index());
        }
    }

    fn ready(&self, ready: &mut Vec<ExportId>) {
        let connections = self.intake.connections().iter();
        let with_messages =
            connections.filter(|connection| connection.state().is_some() && connection.ready());
        ready.extend(with_messages.filter_map(id_of));
    }

    fn has_news(&self) -> bool {
        self.intake.has_news()
    }

    fn poll(&mut self, id: ExportId) -> Polled<Unacknowledged> {
        let found = self.turn_of(id).and_then(|turn| Some((turn, self.intake.connection_mut(turn)?)));
        let Some((turn, connection)) = found else { return Polled::Nothing };
        if !connection.reliable() {
            skip_stale(connection);
        }
        match connection.poll() {
            // A message that cannot be copied is a gap in the numbers.
            Ok(Some(taken)) => Message::try_from(taken).map_or(Polled::Nothing, |message| Polled::Message {
                sequence: message.sequence(),
                message: Unacknowledged::new(message),
            }),
            Ok(None) => {
                if let Some(export) = connection.state_mut() {
                    export.behind_since = None;
                }
                Polled::Nothing
            }
            Err(PollError::HeldOut { .. }) => Polled::HeldOut,
            Err(error) => {
                let (route, next) = (connection.route(), connection.cursor());
                let _told_in_the_log = self.intake.cut_off(turn, error.to_string());
                self.has_ended(route, next);
                Polled::Nothing
            }
        }
    }

    fn sleep(&mut self, may_send: &dyn Fn(ExportId) -> bool, timeout: Option<Duration>) {
        let is_set = &self.waker.is_woken;
        // Relaxed: only whether to sleep depends on it. Clearing it below carries what the wake-up is for.
        if !is_set.load(Ordering::Relaxed) {
            let is_chosen = |connection: &&Connection<Export>| id_of(connection).is_some_and(may_send);
            let chosen: Vec<&Connection<Export>> =
                self.intake.connections().iter().filter(is_chosen).collect();
            let mut has_ended = false;
            let is_due = || {
                has_ended = chosen.iter().any(|connection| connection.is_over());
                // Relaxed: as above.
                has_ended
                    || is_set.load(Ordering::Relaxed)
                    || chosen.iter().any(|connection| connection.ready())
            };
            self.intake.sleep_at(chosen.iter().copied(), is_due, timeout);
            self.may_have_ended = has_ended;
        }
        // Acquire, edge wake. A read-modify-write, so that no wake-up between a look and the clearing is
        // lost.
        is_set.swap(false, Ordering::Acquire);
    }

    fn wake_up(&self) -> WakeUp {
        let waker = Arc::clone(&self.waker);
        Arc::new(move || waker.wake())
    }
}

fn id_of(connection: &Connection<Export>) -> Option<ExportId> {
    connection.state().map(|export| export.id)
}

/// A message that is kept for sending again: a copy of a short one, which takes no pin of its publisher, of
/// which there are few.
#[derive(Debug)]
pub(super) enum Unacknowledged {
    InPlace(Message),
    Copy(Box<[u8]>),
}

impl Unacknowledged {
    fn new(message: Message) -> Unacknowledged {
        if message.bytes().len() <= SHORT {
            Unacknowledged::Copy(message.bytes().into())
        } else {
            Unacknowledged::InPlace(message)
        }
    }
}

impl AsRef<[u8]> for Unacknowledged {
    fn as_ref(&self) -> &[u8] {
        match self {
            Unacknowledged::InPlace(message) => message.bytes(),
            Unacknowledged::Copy(bytes) => bytes,
        }
    }
}
