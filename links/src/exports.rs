//! What is read from this hive for one link: one subscription to everything, with a gate that lets in what the other host wants.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::local::{ExportChange, Exports, Polled, Waker};
use hivemind_core::link::candidate::{Candidate, ExportId, Via};
use hivemind_core::name::NodeName;
use hivemind_core::protocol::EndId;
use hivemind_ring::archive::Message as Arrived;
use hivemind_ring::layout::PINS;
use hivemind_runtime::session::Matched;

use hivemind_runtime::lock;
use hivemind_runtime::ports::{self, Gate, Intake, Member, RoutePoll, SubscriberError, Trust};

/// Messages up to this length are copied while they are kept, in bytes.
const SHORT: usize = 2048;

type Predicate = Arc<dyn Fn(&Candidate) -> bool + Send + Sync>;

/// See the head of the module.
pub(super) struct HiveExports {
    member: Arc<Member>,
    intake: Intake,
    gate: Arc<ExportGate>,
    waker: Arc<ExportWaker>,
    ids: HashMap<EndId, ExportId>,
    next_id: ExportId,
    ended: Vec<ExportChange>,
    /// A publisher was seen to have ended, in its ring.
    may_have_ended: bool,
}

/// Lets in what is wanted, and remembers what that is.
struct ExportGate {
    wanted: Mutex<Predicate>,
    candidates: Mutex<HashMap<EndId, Candidate>>,
}

impl Gate for ExportGate {
    fn admits(&self, matched: &Matched) -> bool {
        // What is left of somebody who is gone stays on its host.
        if matched.writer.is_some_and(|writer| writer != matched.publisher) {
            return false;
        }
        let Some(candidate) = candidate_of(matched) else { return false };
        let wanted = Arc::clone(&lock(&self.wanted));
        let is_wanted = wanted(&candidate);
        if is_wanted {
            lock(&self.candidates).insert(matched.publisher, candidate);
        }
        is_wanted
    }
}

fn candidate_of(matched: &Matched) -> Option<Candidate> {
    let via = match &matched.via {
        Some(remote) => Some(Via {
            host: remote.host.clone(),
            leaf: remote.leaf,
            node: NodeName::parse(&remote.node_name).ok()?,
            publisher: remote.publisher,
        }),
        None => None,
    };
    Some(Candidate {
        publisher: matched.publisher,
        node: matched.node_name.clone(),
        service: matched.service.clone(),
        fingerprint: matched.fingerprint,
        schema: matched.schema.clone(),
        reliable: matched.reliable,
        history: matched.history,
        capacity: matched.capacity,
        via,
    })
}

/// Ends a sleep of the sending thread.
struct ExportWaker {
    port: ports::Waker,
    is_woken: AtomicBool,
}

impl Waker for ExportWaker {
    fn wake(&self) {
        // Release: what is to be seen by who wakes comes before.
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

    fn has_ended(&mut self, route: EndId, next: u64) {
        lock(&self.gate.candidates).remove(&route);
        if let Some(id) = self.ids.remove(&route) {
            self.ended.push(ExportChange::Ended { id, next });
        }
    }
}

impl Exports for HiveExports {
    type Message = Held;

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
        self.intake.name_new(|route, first| {
            let mut candidates = lock(&gate.candidates);
            let known = candidates.get(&route);
            // Forgotten with an earlier attachment, that ended after this one was let in: it has to ask again.
            is_unknown |= known.is_none();
            let Some(candidate) = known.filter(|candidate| wanted(candidate)).cloned() else {
                candidates.remove(&route);
                return None;
            };
            let id = *next_id;
            *next_id += 1;
            ids.insert(route, id);
            let keep = u64::from(candidate.history).max(1);
            changes.push(ExportChange::Begun { id, candidate, first });
            Some((id, keep))
        });
        if is_unknown {
            self.member.session().rematch(self.intake.index());
        }
    }

    fn ready(&self, ready: &mut Vec<ExportId>) {
        self.intake.ready(ready);
    }

    fn has_news(&self) -> bool {
        self.intake.has_news()
    }

    fn poll(&mut self, id: ExportId) -> Polled<Held> {
        match self.intake.poll_named(id) {
            RoutePoll::Message(message) => {
                Polled::Message { sequence: message.sequence(), message: Held::new(message) }
            }
            RoutePoll::Nothing => Polled::Nothing,
            RoutePoll::HeldOut => Polled::HeldOut,
            RoutePoll::Ended { route, next } => {
                self.has_ended(route, next);
                Polled::Nothing
            }
        }
    }

    fn sleep(&mut self, may_send: &dyn Fn(ExportId) -> bool, timeout: Option<Duration>) {
        // Acquire: pairs with the waker.
        let is_woken = || self.waker.is_woken.load(Ordering::Acquire);
        if !is_woken() {
            self.may_have_ended = self.intake.sleep_for(may_send, &is_woken, timeout);
        }
        // Relaxed: what the next wake is about is looked at after this.
        self.waker.is_woken.swap(false, Ordering::AcqRel);
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.waker) as _
    }

    fn held_max(&self) -> usize {
        PINS
    }
}

/// A message that is kept for sending again: a copy of a short one, so that it takes no pin of its publisher, of which there are few.
#[derive(Debug)]
pub(super) enum Held {
    InPlace(Arrived),
    Copy(Box<[u8]>),
}

impl Held {
    fn new(message: Arrived) -> Held {
        if message.bytes().len() <= SHORT {
            Held::Copy(message.bytes().into())
        } else {
            Held::InPlace(message)
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        match self {
            Held::InPlace(message) => message.bytes(),
            Held::Copy(bytes) => bytes,
        }
    }
}
