//! A hive of real processes in a folder of its own, as a test holds it.

use crate::BOUND;
use crate::hollow::HollowOrder;
use crate::order::{Answer, Failure, Join, Kind, Order, Over, Publish, Tally};
use hivemind::{Node, NodeBuilder};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use tempfile::TempDir;

/// A runtime directory of its own; it goes with this value.
#[derive(Debug)]
pub struct Hive {
    folder: TempDir,
    actor: PathBuf,
    arguments: Vec<String>,
}

/// A process that does what it is told. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Actor {
    name: String,
    process: RefCell<Child>,
    input: RefCell<ChildStdin>,
    answers: Receiver<String>,
    /// Answers that were looked for and not taken.
    early: RefCell<VecDeque<String>>,
}

/// A publisher of an actor.
#[derive(Debug, Clone, Copy)]
pub struct PublisherOf<'a> {
    actor: &'a Actor,
    number: usize,
}

/// A subscriber of an actor.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberOf<'a> {
    actor: &'a Actor,
    number: usize,
}

/// How to publish, with the defaults of the tests.
pub fn lossy(service: &str, kind: Kind) -> Publish {
    Publish {
        service: service.to_owned(),
        kind,
        reliable: false,
        capacity: 256,
        history: 0,
        retained: 0,
        max_memory: None,
    }
}

/// As [`lossy`], but nothing is lost.
pub fn reliable(service: &str, kind: Kind) -> Publish {
    Publish { reliable: true, ..lossy(service, kind) }
}

/// How to join, with the defaults of the tests.
pub fn joining(name: &str) -> Join {
    let patience_ms = u64::try_from(BOUND.as_millis()).expect("a minute");
    Join { name: name.to_owned(), hive: None, folder: None, patience_ms, external: false, guest: false }
}

impl Hive {
    /// A hive without nodes. `actor` is the program of the actors: `env!("CARGO_BIN_EXE_actor")`.
    pub fn new(actor: &str) -> Self {
        Hive::with_arguments(actor.into(), Vec::new())
    }

    /// As [`Hive::new`], for a program that is an actor when it is told so.
    pub fn with_arguments(actor: PathBuf, arguments: Vec<String>) -> Self {
        // Below /tmp, whatever TMPDIR says: a socket's path is short.
        let folder = tempfile::Builder::new().prefix("hm-").tempdir_in("/tmp").expect("a folder of its own");
        Hive { folder, actor, arguments }
    }

    /// The runtime directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A process that has not joined yet.
    pub fn spawn(&self, name: &str) -> Actor {
        let mut command = Command::new(&self.actor);
        // Ctrl-C is for the test; an actor ends with its input.
        command.process_group(0);
        command.args(&self.arguments).env("HIVEMIND_DIR", self.folder()).env_remove("XDG_RUNTIME_DIR");
        self.spawn_with(command, name)
    }

    /// A process with an environment of its own.
    pub fn spawn_with(&self, command: Command, name: &str) -> Actor {
        Actor::start(command, name)
    }

    /// A process that has joined as a node of this name.
    pub fn actor(&self, name: &str) -> Actor {
        let actor = self.spawn(name);
        actor.join(joining(name));
        actor
    }

    /// Options of a node in the test's own process.
    pub fn node(&self, name: &str) -> NodeBuilder {
        Node::builder(name).dir(self.folder()).patience(BOUND)
    }

    /// The names of all files and sockets in the runtime directory, each with the path below it.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let below = path.strip_prefix(self.folder()).expect("it lies below");
                    files.push(below.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

impl Actor {
    fn start(mut command: Command, name: &str) -> Self {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the actor starts");
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let (speak, answers) = channel();
        // A thread of its own, so that a test can wait for an answer with a bound. It ends with the process.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| speak.send(line))
        });
        Actor {
            name: name.to_owned(),
            process: RefCell::new(process),
            input: RefCell::new(input),
            answers,
            early: RefCell::default(),
        }
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.borrow().id()).expect("a process id")
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells it what to do, and does not wait.
    pub fn begin(&self, order: &Order) {
        let line = serde_json::to_string(order).expect("an order is plain data");
        let written = writeln!(self.input.borrow_mut(), "{line}");
        written.unwrap_or_else(|error| panic!("{} did not hear {order:?}: {error}", self.name));
    }

    /// What it answers to the earliest order that it has not answered.
    pub fn answer(&self) -> Result<Answer, Failure> {
        // Longer than an actor itself waits, so that it is the actor who says what it waited for.
        let early = self.early.borrow_mut().pop_front();
        match early.map_or_else(|| self.answers.recv_timeout(BOUND * 2), Ok) {
            Ok(line) => match serde_json::from_str(&line).expect("an answer") {
                Answer::Failed(failure) => Err(failure),
                answer => Ok(answer),
            },
            Err(RecvTimeoutError::Timeout) => panic!("{} gave no answer in {:?}", self.name, BOUND * 2),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.borrow_mut().wait();
                panic!("{} ended instead of answering: {status:?}", self.name);
            }
        }
    }

    /// Whether it has answered its earliest order already.
    pub fn has_answered(&self) -> bool {
        match self.answers.try_recv() {
            Ok(line) => {
                self.early.borrow_mut().push_back(line);
                true
            }
            Err(_) => !self.early.borrow().is_empty(),
        }
    }

    /// Tells it what to do, and hears whether it worked.
    pub fn attempt(&self, order: &Order) -> Result<Answer, Failure> {
        self.begin(order);
        self.answer()
    }

    /// Tells it what to do; it must work.
    #[track_caller]
    pub fn tell(&self, order: &Order) -> Answer {
        self.attempt(order).unwrap_or_else(|failure| panic!("{}: {order:?}: {failure:#?}", self.name))
    }

    /// Kills it with SIGKILL, and returns when it is gone.
    pub fn kill(&self) {
        let mut process = self.process.borrow_mut();
        process.kill().expect("it is ours");
        process.wait().expect("it is ours");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn await_end(&self) {
        let mut process = self.process.borrow_mut();
        crate::until("it ends", || process.try_wait().expect("it is ours"));
    }

    /// Joins. Returns whether it hosts the root.
    #[track_caller]
    pub fn join(&self, join: Join) -> bool {
        match self.tell(&Order::Join(join)) {
            Answer::Joined { hosts_root, .. } => hosts_root,
            other => panic!("{other:?}"),
        }
    }

    /// The process that hosts its root, and the root's epoch.
    #[track_caller]
    pub fn root(&self) -> (Option<i32>, u64) {
        match self.tell(&Order::WhoIsRoot) {
            Answer::Root { pid, epoch } => (pid, epoch),
            other => panic!("{other:?}"),
        }
    }

    /// The names of the nodes of its hive.
    #[track_caller]
    pub fn nodes(&self) -> Vec<String> {
        match self.tell(&Order::Observe) {
            Answer::Nodes(names) => names,
            other => panic!("{other:?}"),
        }
    }

    /// Creates a publisher.
    #[track_caller]
    pub fn publish(&self, publish: Publish) -> PublisherOf<'_> {
        let number = self.number(&Order::Publish(publish));
        PublisherOf { actor: self, number: number as usize }
    }

    /// Creates a subscriber.
    #[track_caller]
    pub fn subscribe(&self, filter: &str, kind: Kind) -> SubscriberOf<'_> {
        let number = self.number(&Order::Subscribe { filter: filter.to_owned(), kind });
        SubscriberOf { actor: self, number: number as usize }
    }

    /// Creates a subscriber that trusts nobody.
    #[track_caller]
    pub fn subscribe_warily(&self, filter: &str, kind: Kind) -> SubscriberOf<'_> {
        let number = self.number(&Order::SubscribeWarily { filter: filter.to_owned(), kind });
        SubscriberOf { actor: self, number: number as usize }
    }

    /// Writes over its own shared memory from now on; returns how many pieces it has.
    #[track_caller]
    pub fn scribble(&self, over: Over, seed: u64) -> u64 {
        self.number(&Order::Scribble { over, seed })
    }

    /// Fills its own shared memory with one byte; returns how many pieces it has.
    #[track_caller]
    pub fn overwrite(&self, over: Over, byte: u8) -> u64 {
        self.number(&Order::Overwrite { over, byte })
    }

    /// A publisher that it has already.
    pub fn publishers(&self, number: usize) -> PublisherOf<'_> {
        PublisherOf { actor: self, number }
    }

    /// A subscriber that it has already.
    pub fn subscribers(&self, number: usize) -> SubscriberOf<'_> {
        SubscriberOf { actor: self, number }
    }

    /// Obeys as a publisher of holes; returns the bytes of memory that its ring has.
    pub fn hollow(&self, order: HollowOrder) -> u64 {
        self.number(&Order::Hollow(order))
    }

    #[track_caller]
    fn number(&self, order: &Order) -> u64 {
        match self.tell(order) {
            Answer::Number(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn tally(&self, order: &Order) -> Tally {
        match self.tell(order) {
            Answer::Tally(tally) => tally,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let process = self.process.get_mut();
        // Both fail when it is gone already, which is what we want.
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl PublisherOf<'_> {
    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Waits until it has as many subscribers.
    #[track_caller]
    pub fn await_subscribers(&self, count: usize) {
        self.actor.tell(&Order::AwaitSubscribers { publisher: self.number, count });
    }

    /// Sends `count` messages of the mix, without waiting for room. Returns how many it has sent in all.
    #[track_caller]
    pub fn send(&self, count: u64) -> u64 {
        self.actor.number(&Order::Send { publisher: self.number, count, length: None, patience_ms: 0 })
    }

    /// Sends messages of one length; waits for room if `patience_ms` is not 0.
    pub fn attempt(&self, count: u64, length: usize, patience_ms: u64) -> Result<Answer, Failure> {
        self.actor.attempt(&self.sending(count, length, patience_ms))
    }

    /// The order for [`PublisherOf::attempt`], to be begun.
    pub fn sending(&self, count: u64, length: usize, patience_ms: u64) -> Order {
        Order::Send { publisher: self.number, count, length: Some(length), patience_ms }
    }

    /// Publishes from now on, until `stop`. `length`: `None` is the mix.
    #[track_caller]
    pub fn stream(&self, length: Option<usize>, pause_us: u64) {
        self.actor.tell(&Order::Stream { publisher: self.number, length, pause_us });
    }

    /// How many messages it has sent.
    #[track_caller]
    pub fn published(&self) -> u64 {
        self.actor.number(&Order::Published { publisher: self.number })
    }

    /// Ends a stream. Returns how many messages it has sent in all.
    #[track_caller]
    pub fn stop(&self) -> u64 {
        self.actor.number(&Order::StopStream { publisher: self.number })
    }

    /// Drops it.
    #[track_caller]
    pub fn retire(self) {
        self.actor.tell(&Order::Retire { publisher: self.number });
    }
}

impl SubscriberOf<'_> {
    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Waits until it has as many publishers.
    #[track_caller]
    pub fn await_publishers(&self, count: usize) {
        self.actor.tell(&Order::AwaitPublishers { subscriber: self.number, count });
    }

    /// Receives and holds that many samples.
    #[track_caller]
    pub fn hold(&self, count: usize) {
        self.actor.tell(&Order::Hold { subscriber: self.number, count });
    }

    /// Receives all that comes from now on.
    #[track_caller]
    pub fn collect(&self) {
        self.actor.tell(&Order::Collect { subscriber: self.number });
    }

    /// What it has collected.
    #[track_caller]
    pub fn tally(&self) -> Tally {
        self.actor.tally(&Order::Tally { subscriber: self.number })
    }

    /// What it has collected, once so many messages were received or lost, and so many connections have
    /// ended.
    #[track_caller]
    pub fn await_tally(&self, messages: u64, ended: usize) -> Tally {
        self.actor.tally(&Order::AwaitTally { subscriber: self.number, messages, ended })
    }

    /// Drops it.
    #[track_caller]
    pub fn drop_it(self) {
        self.actor.tell(&Order::Unsubscribe { subscriber: self.number });
    }
}
