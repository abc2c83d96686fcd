//! What a test tells an actor, and what it hears back.

use crate::account::Account;
use crate::hollow::HollowOrder;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Join the hive.
    Join(Join),
    /// Make the mark that [`crate::tracer`] knows, then do this.
    Marked(Box<Order>),
    /// Leave it, in order.
    Leave,
    /// Serve as a dedicated root, on a thread of its own. Answered when that thread runs.
    ServeRoot,
    /// Create a publisher. Answered with its number.
    Publish(Publish),
    /// Drop a publisher.
    Retire {
        /// Its number.
        publisher: usize,
    },
    /// Create a subscriber. Answered with its number.
    Subscribe {
        /// For what.
        filter: String,
        /// Of which type.
        kind: Kind,
    },
    /// Drop a subscriber, and what it has collected.
    Unsubscribe {
        /// Its number.
        subscriber: usize,
    },
    /// Wait until a publisher has as many subscribers.
    AwaitSubscribers {
        /// Its number.
        publisher: usize,
        /// At least.
        count: usize,
    },
    /// Wait until a subscriber has as many publishers.
    AwaitPublishers {
        /// Its number.
        subscriber: usize,
        /// At least.
        count: usize,
    },
    /// Publish some messages. Answered with how many were published in all.
    Send {
        /// The publisher's number.
        publisher: usize,
        /// How many.
        count: u64,
        /// How large; `None`: the mix.
        length: Option<usize>,
        /// Wait so long for room, for each message; 0: not at all.
        patience_ms: u64,
    },
    /// Publish until told to stop, on a thread of its own.
    Stream {
        /// The publisher's number.
        publisher: usize,
        /// How large; `None`: the mix.
        length: Option<usize>,
        /// Between two messages.
        pause_us: u64,
    },
    /// How many messages this publisher has published.
    Published {
        /// Its number.
        publisher: usize,
    },
    /// Stop a stream. Answered with how many were published in all.
    StopStream {
        /// The publisher's number.
        publisher: usize,
    },
    /// Receive and hold that many samples.
    Hold {
        /// The subscriber's number.
        subscriber: usize,
        /// How many.
        count: usize,
    },
    /// Check all samples that are held once more.
    CheckHeld,
    /// Drop all samples that are held.
    Release,
    /// Receive all that comes, on a thread of its own, and keep account of it.
    Collect {
        /// The subscriber's number.
        subscriber: usize,
    },
    /// What was collected so far.
    Tally {
        /// The subscriber's number.
        subscriber: usize,
    },
    /// Wait until so much was collected; then as `Tally`.
    AwaitTally {
        /// The subscriber's number.
        subscriber: usize,
        /// At least so many messages received or lost, over all publishers, and
        messages: u64,
        /// at least so many connections that have ended.
        ended: usize,
    },
    /// Receive one message. Answered with 1, or with 0 if none came in time; an error of receiving is a
    /// failure.
    Receive {
        /// The subscriber's number.
        subscriber: usize,
        /// How long to wait.
        patience_ms: u64,
    },
    /// As `Receive`, but look without waiting, and wait by polling the subscriber's descriptor.
    ReceivePolling {
        /// The subscriber's number.
        subscriber: usize,
        /// How long to wait.
        patience_ms: u64,
    },
    /// From now on, have no descriptor for which the kernel waits: a thread of the node does.
    RefuseKernelWaits,
    /// Wait until a publisher has as many subscribers, or the time is over, which is a failure.
    LookForSubscribers {
        /// Its number.
        publisher: usize,
        /// At least.
        count: usize,
        /// How long to wait.
        patience_ms: u64,
    },
    /// As `Publish`, with memory taken ahead.
    PublishAhead {
        /// How.
        publish: Publish,
        /// How many bytes.
        prefault: u64,
        /// In huge pages, as far as there are any.
        huge: bool,
    },
    /// As `Join`, but never host the root.
    JoinAsGuest(Join),
    /// Wait until the own node hosts the root.
    AwaitHosting,
    /// Wait until the root that it served has ended; answered with why.
    AwaitRootEnd,
    /// Create a publisher, send some messages, and end the process: all at once, as a short job does.
    /// Answered by nothing if it works.
    Shout {
        /// How.
        publish: Publish,
        /// How many.
        count: u64,
        /// How large.
        length: usize,
        /// By SIGKILL; otherwise in order.
        killed: bool,
        /// Make the ring before the root hears of it, not meanwhile: then the root's answer is the first
        /// thing that comes.
        made_first: bool,
    },
    /// Drop all that there is: samples, publishers, subscribers and the node.
    DropAll,
    /// Name those who are in the hive.
    Observe,
    /// Which process hosts the root.
    WhoIsRoot,
    /// From now on, open no descriptor beyond `spare` more than there are.
    LimitDescriptors {
        /// How many more.
        spare: usize,
    },
    /// From now on, have no more than so many bytes of addresses beyond those in use.
    LimitAddresses {
        /// How many more.
        spare: u64,
    },
    /// Become this user for good, who may have no more than so many threads and processes.
    LimitThreads {
        /// The user.
        user: u32,
        /// How many, over all its processes.
        limit: u64,
    },
    /// Map so much that only so many mappings more are possible; `None`: unmap all of that.
    FillMappings {
        /// How many.
        spare: Option<usize>,
    },
    /// From now on, have no file longer than so many bytes.
    LimitFiles {
        /// How many.
        bytes: u64,
    },
    /// Without the SDK, subscribe to a service and try to change the memory of its publisher. Answered with
    /// `Attempts`.
    Tamper {
        /// The service.
        service: String,
    },
    /// Without the SDK, greet the root as this end of this life of a node, and subscribe to a service.
    /// Answered with one of `Attempts`. What it has stays until the process ends.
    Impersonate {
        /// The life.
        epoch: u64,
        /// The end.
        index: u32,
        /// The service.
        service: String,
        /// Stay with the root, too.
        stays: bool,
    },
    /// As `Subscribe`, but trust nobody: every message is copied before it is looked at. Answered with its
    /// number.
    SubscribeWarily {
        /// For what.
        filter: String,
        /// Of which type.
        kind: Kind,
    },
    /// Write over shared memory behind the SDK's back: all of it with this byte, once. Answered with how many
    /// pieces there are.
    Overwrite {
        /// Which memory.
        over: Over,
        /// With what.
        byte: u8,
    },
    /// The same with random words, on a thread of its own, for the rest of the process's life. Answered with
    /// how many pieces there are.
    Scribble {
        /// Over which memory.
        over: Over,
        /// Which words.
        seed: u64,
    },
    /// Without the SDK, be a publisher whose ring is nearly all hole. Answered with the bytes of memory that
    /// it has.
    Hollow(HollowOrder),
    /// Open no descriptor, map nothing: what does the process have? Answered with `Belongings`.
    Belongings,
}

/// Shared memory that a process may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Over {
    /// The chunks of its rings: messages, committed or not.
    Messages,
    /// Its rings, from the first byte to the last.
    Rings,
    /// Its reader segments, and the doorbells of everybody it knows.
    Readers,
    /// The doorbells of everybody it knows alone, from the first byte to the last.
    Bells,
}

/// How to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The node's name.
    pub name: String,
    /// The hive's name.
    pub hive: Option<String>,
    /// A folder that is not the one of the environment.
    pub folder: Option<PathBuf>,
    /// How long to wait.
    pub patience_ms: u64,
    /// Accept only a dedicated root.
    pub external: bool,
    /// Join any root, but never host it.
    pub guest: bool,
}

/// How to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The service.
    pub service: String,
    /// Of which type.
    pub kind: Kind,
    /// Lose nothing.
    pub reliable: bool,
    /// Slots.
    pub capacity: u64,
    /// For late subscribers.
    pub history: u64,
    /// For those that come when it is gone.
    pub retained: u64,
    /// Bytes; `None`: the default.
    pub max_memory: Option<u64>,
}

/// Types of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// [`crate::entry::Entry`].
    Typed,
    /// The same as plain bytes.
    Bytes,
    /// [`crate::entry::Reading`]; not to be sent.
    Other,
}

/// What an actor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, and nothing to say.
    Done,
    /// A number: of an end, or of messages.
    Number(u64),
    /// It has joined.
    Joined {
        /// The life of the node.
        node: u64,
        /// Whether it hosts the root.
        hosts_root: bool,
    },
    /// Who hosts the root.
    Root {
        /// The process; `None`: nobody, at the moment.
        pid: Option<i32>,
        /// The root's epoch.
        epoch: u64,
    },
    /// What was collected.
    Tally(Tally),
    /// Names of nodes, in order.
    Nodes(Vec<String>),
    /// What came of each attempt, in words.
    Attempts(Vec<String>),
    /// What the process has.
    Belongings {
        /// Targets of its descriptors.
        descriptors: Vec<String>,
        /// Files and memory objects that it maps.
        mappings: Vec<String>,
    },
    /// It did not work.
    Failed(Failure),
}

/// An error of the SDK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which variant, and which of its source.
    pub variant: String,
    /// Its `Display` form: says what to do.
    pub text: String,
}

/// What a subscriber has collected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// One for each publisher that it ever was attached to.
    pub connections: Vec<Connection>,
    /// Errors of receiving, in words.
    pub errors: Vec<String>,
    /// The longest time between two messages.
    pub longest_gap_us: u64,
}

/// Where a subscriber stands with one publisher: what the SDK says, beside the account of the test's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// The publisher's node.
    pub node: String,
    /// The life of that node.
    pub epoch: u64,
    /// Which end of it.
    pub index: u32,
    /// The service.
    pub service: String,
    /// Where it begins.
    pub first: u64,
    /// So the SDK says.
    pub received: u64,
    /// So the SDK says.
    pub lost: u64,
    /// Whether it has ended.
    pub ended: bool,
    /// The account of what arrived.
    pub account: Account,
}

impl Tally {
    /// Messages received and lost, over all.
    pub fn messages(&self) -> u64 {
        self.connections.iter().map(|connection| connection.received + connection.lost).sum()
    }

    /// Messages lost, over all.
    pub fn lost(&self) -> u64 {
        self.connections.iter().map(|connection| connection.lost).sum()
    }

    /// Connections that have ended.
    pub fn ended(&self) -> usize {
        self.connections.iter().filter(|connection| connection.ended).count()
    }

    /// The connection with a node, the latest if there were several lives of it.
    ///
    /// # Panics
    /// If there is none.
    pub fn from(&self, node: &str) -> &Connection {
        let found = self.connections.iter().rfind(|connection| connection.node == node);
        found.unwrap_or_else(|| panic!("no connection with {node}: {self:#?}"))
    }

    /// That nothing was torn, repeated or out of order, and that the SDK says of what was lost what the
    /// numbers say.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_sound(&self) {
        assert!(self.errors.is_empty(), "{self:#?}");
        for connection in &self.connections {
            let account = &connection.account;
            assert_eq!((account.torn, account.disordered), (0, 0), "{self:#?}");
            assert_eq!(account.received, connection.received, "{self:#?}");
            // The SDK hears of a loss no later than with the next message.
            assert!(account.missed <= connection.lost, "{self:#?}");
            assert_eq!(account.first, connection.first, "{self:#?}");
        }
    }
}

impl Connection {
    /// The sequence up to which all is received or lost.
    pub fn position(&self) -> u64 {
        self.first + self.received + self.lost
    }
}
