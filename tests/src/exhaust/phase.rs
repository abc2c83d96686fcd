//! The paths on which something can run out: what leads to each, what is done in the window, and again
//! afterwards.
//!
//! ```text
//! prepare ─▶ │ act, while one call fails │ ─▶ undo ─▶ act once more, and nothing fails ─▶ drop all ─▶ what is left?
//! ```

use super::stage::Stage;
use crate::hive::{Actor, joining, lossy};
use crate::order::{Answer, Failure, Join, Kind, Order, Publish};

/// A path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Join a hive that has no root: host it.
    JoinAsFirst,
    /// Join a hive whose root is in another process.
    Join,
    /// Create a publisher.
    CreatePublisher,
    /// Create a subscriber.
    CreateSubscriber,
    /// The first message that needs a chunk: the ring grows.
    FirstChunk,
    /// A message that is larger than all before: the ring grows much.
    Grow,
    /// Somebody subscribes to a publisher of the victim.
    AttachAsPublisher,
    /// Somebody offers what the victim is subscribed to.
    AttachAsSubscriber,
    /// The root dies, and the victim takes over.
    TakeOver,
    /// Create a publisher with memory taken ahead.
    Prefault,
    /// The same in huge pages, as far as there are any.
    HugePages,
    /// Leave, with a publisher and a subscriber that are attached to each other.
    Leave,
    /// Leave as the one who hosts the root.
    LeaveAsRoot,
}

/// All of them.
pub const PHASES: &[Phase] = &[
    Phase::JoinAsFirst,
    Phase::Join,
    Phase::CreatePublisher,
    Phase::CreateSubscriber,
    Phase::FirstChunk,
    Phase::Grow,
    Phase::AttachAsPublisher,
    Phase::AttachAsSubscriber,
    Phase::TakeOver,
    Phase::Prefault,
    Phase::HugePages,
    Phase::Leave,
    Phase::LeaveAsRoot,
];

/// A service on which nobody but the victim, and who is told to, has an end.
const SERVICE: &str = "exhaust/victim";
/// The first message of this length needs more than a new ring has.
const CHUNK: usize = 3000;
/// Some of these need more than the ring ever had, again and again.
const LARGE: usize = 1 << 20;
const LARGE_ONES: u64 = 6;
/// Memory taken ahead.
const AHEAD: u64 = 3 << 20;
/// How long a victim waits for what may not come because a call failed: the failing half is told at once, and
/// the other hears nothing until then.
const ATTACH_PATIENCE_MS: u64 = 700;

impl Phase {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::JoinAsFirst => "join-first",
            Phase::Join => "join",
            Phase::CreatePublisher => "publisher",
            Phase::CreateSubscriber => "subscriber",
            Phase::FirstChunk => "first-chunk",
            Phase::Grow => "grow",
            Phase::AttachAsPublisher => "attach-publisher",
            Phase::AttachAsSubscriber => "attach-subscriber",
            Phase::TakeOver => "take-over",
            Phase::Prefault => "prefault",
            Phase::HugePages => "huge-pages",
            Phase::Leave => "leave",
            Phase::LeaveAsRoot => "leave-root",
        }
    }

    /// Whether the root is in another process, which outlives the victim.
    pub fn has_root(self) -> bool {
        !matches!(self, Phase::JoinAsFirst | Phase::TakeOver | Phase::LeaveAsRoot)
    }

    /// What the victim does before the window.
    pub fn prepare(self, victim: &Actor, join: &Join) -> Result<(), Failure> {
        let tell = |order| victim.attempt(&order).map(drop);
        if !matches!(self, Phase::JoinAsFirst | Phase::Join) {
            tell(Order::Join(join.clone()))?;
        }
        match self {
            Phase::FirstChunk | Phase::Grow | Phase::AttachAsPublisher => tell(Order::Publish(publish()))?,
            Phase::AttachAsSubscriber => tell(subscribe())?,
            Phase::Leave | Phase::LeaveAsRoot => {
                tell(Order::Publish(publish()))?;
                tell(subscribe())?;
                tell(Order::AwaitPublishers { subscriber: 0, count: 1 })?;
            }
            _ => {}
        }
        if self == Phase::Grow {
            tell(send(1, CHUNK))?;
        }
        Ok(())
    }

    /// What the victim does in the window.
    pub fn act(self, join: &Join) -> Order {
        let join = join.clone();
        match self {
            Phase::JoinAsFirst | Phase::Join => Order::Join(join),
            Phase::CreatePublisher => Order::Publish(publish()),
            Phase::CreateSubscriber => subscribe(),
            Phase::FirstChunk => send(1, CHUNK),
            Phase::Grow => send(LARGE_ONES, LARGE),
            Phase::AttachAsPublisher => {
                Order::LookForSubscribers { publisher: 0, count: 1, patience_ms: ATTACH_PATIENCE_MS }
            }
            Phase::AttachAsSubscriber => Order::Receive { subscriber: 0, patience_ms: ATTACH_PATIENCE_MS },
            // Answered by the next root, or at the end of the patience.
            Phase::TakeOver => Order::Observe,
            Phase::Prefault => Order::PublishAhead { publish: publish(), prefault: AHEAD, huge: false },
            Phase::HugePages => Order::PublishAhead { publish: publish(), prefault: AHEAD, huge: true },
            Phase::Leave | Phase::LeaveAsRoot => Order::Leave,
        }
    }

    /// What the others do once the window is open.
    pub fn meanwhile(self, stage: &Stage) {
        match self {
            Phase::AttachAsPublisher => stage.peer().begin(&subscribe()),
            Phase::AttachAsSubscriber => {
                stage.peer().begin(&Order::Publish(Publish { history: 1, ..publish() }));
                stage.peer().begin(&send(1, CHUNK));
            }
            Phase::TakeOver => stage.kill_root(),
            _ => {}
        }
    }

    /// What the others hear of it: an error of theirs that tells of the victim's trouble, if there is one.
    pub fn aftermath(
        self,
        stage: &Stage,
        outcome: &Result<Answer, Failure>,
    ) -> Result<Option<Failure>, String> {
        match self {
            Phase::AttachAsPublisher => {
                stage
                    .peer()
                    .answer()
                    .map_err(|failure| format!("the peer could not subscribe: {failure:?}"))?;
                if outcome.is_ok() {
                    return Ok(None);
                }
                // The subscriber is the one who is told.
                let receive = Order::Receive { subscriber: 0, patience_ms: 60_000 };
                match stage.peer().attempt(&receive) {
                    Err(failure) => Ok(Some(failure)),
                    Ok(answer) => {
                        Err(format!("neither side was told that they are not attached: {answer:?}"))
                    }
                }
            }
            Phase::AttachAsSubscriber => {
                for _ in 0..2 {
                    stage.peer().answer().map_err(|failure| format!("the peer failed: {failure:?}"))?;
                }
                match outcome {
                    Ok(Answer::Number(0)) => Err("nothing came, and no error either".to_owned()),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// Undoes what was done in the window, so that it can be done once more.
    pub fn undo(self, victim: &Actor, stage: &Stage, join: &Join, worked: bool) -> Result<(), Failure> {
        let tell = |order| victim.attempt(&order).map(drop);
        match self {
            Phase::JoinAsFirst | Phase::Join if worked => tell(Order::DropAll),
            Phase::CreatePublisher | Phase::Prefault | Phase::HugePages if worked => {
                tell(Order::Retire { publisher: 0 })
            }
            Phase::CreateSubscriber if worked => tell(Order::Unsubscribe { subscriber: 0 }),
            Phase::AttachAsPublisher | Phase::AttachAsSubscriber => {
                stage.peer().attempt(&Order::DropAll)?;
                stage.peer().attempt(&Order::JoinAsGuest(joining("peer")))?;
                if self == Phase::AttachAsSubscriber {
                    // It was told to subscribe anew.
                    tell(Order::Unsubscribe { subscriber: 0 })?;
                    tell(subscribe())?;
                }
                Ok(())
            }
            Phase::Leave | Phase::LeaveAsRoot => {
                tell(Order::DropAll)?;
                self.prepare(victim, join)
            }
            _ => Ok(()),
        }
    }

    /// The same once more, with nothing that fails.
    pub fn once_more(self, victim: &Actor, stage: &Stage, join: &Join) -> Result<(), Failure> {
        let tell = |order| victim.attempt(&order);
        match self {
            Phase::AttachAsPublisher => {
                stage.peer().attempt(&subscribe())?;
                tell(Order::AwaitSubscribers { publisher: 0, count: 1 }).map(drop)
            }
            Phase::AttachAsSubscriber => {
                stage.peer().attempt(&Order::Publish(Publish { history: 1, ..publish() }))?;
                stage.peer().attempt(&send(1, CHUNK))?;
                // The subscriber created anew is the second.
                match tell(Order::Receive { subscriber: 1, patience_ms: 60_000 })? {
                    Answer::Number(1) => Ok(()),
                    other => Err(Failure { variant: "Nothing".to_owned(), text: format!("{other:?}") }),
                }
            }
            Phase::TakeOver => {
                tell(Order::AwaitHosting)?;
                tell(Order::Observe).map(drop)
            }
            _ => tell(self.act(join)).map(drop),
        }
    }
}

fn publish() -> Publish {
    lossy(SERVICE, Kind::Bytes)
}

fn subscribe() -> Order {
    Order::Subscribe { filter: SERVICE.to_owned(), kind: Kind::Bytes }
}

fn send(count: u64, length: usize) -> Order {
    Order::Send { publisher: 0, count, length: Some(length), patience_ms: 0 }
}
