//! A process that does what a test tells it: the other side of [`crate::hive`].
//!
//! Orders come one by one; streams and collections go on beside them on threads of their own. The process
//! ends with its input, so no actor outlives its test.

use crate::BOUND;
use crate::account::Account;
use crate::entry::{Checked, Entry, HEAD, Reading, Source};
use crate::hollow::Hollow;
use crate::impostor::Impostor;
use crate::order::{Answer, Connection, Failure, Join, Kind, Order, Publish, Tally};
use crate::scribble::Scribbler;
use hivemind::{
    EndId, Message, Node, NodeError, Publisher, PublisherError, RecvError, Sample, SendError, Subscriber,
    SubscriberError, Trust, WaitError,
};
use hivemind_core::name::HiveName;
use hivemind_runtime::root::{RootError, ServeOptions, StopHandle, serve_root};
use hivemind_runtime::runtime_dir::RuntimeDir;
use hivemind_runtime::session::SessionError;
use memmap2::{Mmap, MmapMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt::Debug;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// All actors send the same messages under the same numbers.
static SOURCE: LazyLock<Source> = LazyLock::new(|| Source::new(0x5EED));
/// So often a collection that hears nothing looks whether it is to end.
const LOOK: Duration = Duration::from_millis(2);
/// How long a stream waits for room.
const STREAM_PATIENCE: Duration = Duration::from_secs(20);

/// Does what standard input says until it ends.
pub fn act() {
    // A root or a control thread that panics must not go unnoticed because others take its work over.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    let mut actor = Actor::default();
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let order: Order = serde_json::from_str(&line).expect("an order");
        let answer = actor.obey(order).unwrap_or_else(Answer::Failed);
        let answer = serde_json::to_string(&answer).expect("an answer is plain data");
        // The test is gone; so is the reason to go on.
        if writeln!(output, "{answer}").and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Actor {
    node: Option<Node>,
    publishers: Vec<Option<Outlet>>,
    subscribers: Vec<Option<Intake>>,
    held: Vec<HeldSample>,
    /// Mappings that are only there to be there.
    ballast: Vec<Mmap>,
    hollow: Option<Hollow>,
    root: Option<(StopHandle, JoinHandle<Result<(), RootError>>)>,
    /// Whom it was told to be.
    impostors: Vec<Impostor>,
}

/// A publisher, at hand or streaming.
enum Outlet {
    AtHand(Box<AnyPublisher>),
    Streaming {
        stop: Arc<AtomicBool>,
        published: Arc<AtomicU64>,
        thread: JoinHandle<(Box<AnyPublisher>, Result<(), Failure>)>,
    },
}

enum AnyPublisher {
    Typed(Publisher<Entry>),
    Bytes(Publisher<[u8]>),
    Other(Publisher<Reading>),
}

/// A subscriber, at hand or collecting.
enum Intake {
    AtHand(AnySubscriber),
    Collecting { shared: Arc<Collection>, thread: JoinHandle<()> },
}

enum AnySubscriber {
    Typed(Subscriber<Entry>),
    Bytes(Subscriber<[u8]>),
    Other(Subscriber<Reading>),
}

enum HeldSample {
    Typed(Sample<Entry>),
    Bytes(Sample<[u8]>),
}

/// What a collecting thread shares with the one that obeys.
#[derive(Default)]
struct Collection {
    tally: Mutex<Tally>,
    changed: Condvar,
    stop: AtomicBool,
}

fn failure<E: Error + 'static>(error: E) -> Failure {
    Failure { variant: variant(&error), text: error.to_string() }
}

/// The name of an error's variant, with that of its source. (`Debug` of the SDK's errors says the sentence.)
fn variant(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<NodeError>() {
        Some(NodeError::Join(source)) => return format!("Join({source:?})"),
        Some(NodeError::Memory(source)) => return format!("Memory({source:?})"),
        Some(NodeError::Segment(source)) => return format!("Segment({source:?})"),
        _ => {}
    }
    match error.downcast_ref::<PublisherError>() {
        Some(PublisherError::Announce(source)) => return format!("Announce({source:?})"),
        Some(PublisherError::Memory(source)) => return format!("Memory({source:?})"),
        _ => {}
    }
    match error.downcast_ref::<SubscriberError>() {
        Some(SubscriberError::Announce(source)) => return format!("Announce({source:?})"),
        Some(SubscriberError::Memory(source)) => return format!("Memory({source:?})"),
        _ => {}
    }
    match error.downcast_ref::<RecvError>() {
        Some(RecvError::NotAttached { .. }) => return "NotAttached".to_owned(),
        Some(RecvError::Detached { .. }) => return "Detached".to_owned(),
        _ => {}
    }
    if let Some(SessionError::NoRoot { what, .. }) = error.downcast_ref::<SessionError>() {
        return format!("NoRoot({what:?})");
    }
    if error.is::<WaitError>() {
        return "Wait".to_owned();
    }
    if let Some(RootError::Superseded { .. }) = error.downcast_ref::<RootError>() {
        return "Superseded".to_owned();
    }
    match error.downcast_ref::<SendError>() {
        Some(SendError::Full { .. }) => "Full".to_owned(),
        Some(SendError::MemoryOut { .. }) => "MemoryOut".to_owned(),
        Some(SendError::SystemMemoryOut { .. }) => "SystemMemoryOut".to_owned(),
        Some(SendError::TooLarge { .. }) => "TooLarge".to_owned(),
        _ => "another".to_owned(),
    }
}

fn mistake(text: &str) -> Failure {
    Failure { variant: "Mistake".to_owned(), text: text.to_owned() }
}

impl Actor {
    fn obey(&mut self, order: Order) -> Result<Answer, Failure> {
        match order {
            Order::Join(join) => self.join(&join, false),
            Order::JoinAsGuest(join) => self.join(&join, true),
            Order::Marked(order) => {
                nix::unistd::getppid();
                self.obey(*order)
            }
            Order::Leave => {
                self.node()?.leave();
                Ok(Answer::Done)
            }
            Order::ServeRoot => self.serve_root(),
            Order::Publish(publish) => self.publish(&publish, None),
            Order::PublishAhead { publish, prefault, huge } => self.publish(&publish, Some((prefault, huge))),
            Order::Retire { publisher } => {
                self.publishers[publisher] = None;
                Ok(Answer::Done)
            }
            Order::Subscribe { filter, kind } => self.subscribe(&filter, kind),
            Order::Unsubscribe { subscriber } => self.unsubscribe(subscriber),
            Order::AwaitSubscribers { publisher, count } => {
                self.publisher(publisher)?.wait_for_subscribers(count)?;
                Ok(Answer::Done)
            }
            Order::AwaitPublishers { subscriber, count } => {
                self.subscriber(subscriber)?.wait_for_publishers(count)?;
                Ok(Answer::Done)
            }
            Order::Send { publisher, count, length, patience_ms } => {
                let patience = Duration::from_millis(patience_ms);
                let publisher = self.publisher(publisher)?;
                publisher.send(count, length, patience)?;
                Ok(Answer::Number(publisher.published()))
            }
            Order::Stream { publisher, length, pause_us } => self.stream(publisher, length, pause_us),
            Order::Published { publisher } => match &mut self.publishers[publisher] {
                // Relaxed: a figure that is only told.
                Some(Outlet::Streaming { published, .. }) => {
                    Ok(Answer::Number(published.load(Ordering::Relaxed)))
                }
                Some(Outlet::AtHand(publisher)) => Ok(Answer::Number(publisher.published())),
                None => Err(mistake("that publisher has been dropped")),
            },
            Order::StopStream { publisher } => self.stop_stream(publisher),
            Order::Hold { subscriber, count } => self.hold(subscriber, count),
            Order::CheckHeld => self.check_held(),
            Order::Release => {
                self.held.clear();
                Ok(Answer::Done)
            }
            Order::Collect { subscriber } => self.collect(subscriber),
            Order::Tally { subscriber } => self.tally(subscriber, |_| true),
            Order::AwaitTally { subscriber, messages, ended } => {
                self.tally(subscriber, |tally| tally.messages() >= messages && tally.ended() >= ended)
            }
            Order::Receive { subscriber, patience_ms } => {
                let patience = Duration::from_millis(patience_ms);
                self.subscriber(subscriber)?.receive(patience).map(Answer::Number)
            }
            Order::ReceivePolling { subscriber, patience_ms } => {
                let patience = Duration::from_millis(patience_ms);
                self.subscriber(subscriber)?.receive_polling(patience).map(Answer::Number)
            }
            Order::RefuseKernelWaits => {
                hivemind_ring::pollable::refuse_from_now_on();
                Ok(Answer::Done)
            }
            Order::LookForSubscribers { publisher, count, patience_ms } => {
                let patience = Duration::from_millis(patience_ms);
                self.publisher(publisher)?.look_for_subscribers(count, patience)?;
                Ok(Answer::Done)
            }
            Order::AwaitHosting => {
                let node = self.node()?;
                crate::until("this node hosts the root", || node.hosts_root().then_some(()));
                Ok(Answer::Done)
            }
            Order::AwaitRootEnd => {
                let (_, thread) = self.root.take().ok_or_else(|| mistake("no root was served"))?;
                thread.join().expect("the root does not panic").map_err(failure)?;
                Ok(Answer::Done)
            }
            Order::Shout { publish, count, length, killed, made_first } => {
                self.publish(&publish, made_first.then_some((4096, false)))?;
                let number = self.publishers.len() - 1;
                self.publisher(number)?.send(count, Some(length), Duration::ZERO)?;
                if killed {
                    kill(Pid::this(), Signal::SIGKILL).map_err(failure)?;
                }
                self.obey(Order::DropAll)?;
                std::process::exit(0)
            }
            Order::DropAll => {
                self.held.clear();
                for subscriber in 0..self.subscribers.len() {
                    self.unsubscribe(subscriber)?;
                }
                self.subscribers.clear();
                self.publishers.clear();
                self.node = None;
                Ok(Answer::Done)
            }
            Order::Observe => {
                let listing = self.node()?.observe().map_err(failure)?;
                let mut names: Vec<_> = listing.nodes.into_iter().map(|node| node.name).collect();
                names.sort();
                Ok(Answer::Nodes(names))
            }
            Order::WhoIsRoot => {
                let node = self.node()?;
                Ok(Answer::Root { pid: node.root_pid(), epoch: node.root_epoch() })
            }
            Order::LimitDescriptors { spare } => limit_descriptors(spare),
            Order::LimitAddresses { spare } => {
                let pages = std::fs::read_to_string("/proc/self/statm").map_err(failure)?;
                let pages: u64 = pages
                    .split(' ')
                    .next()
                    .and_then(|pages| pages.parse().ok())
                    .expect("statm begins with pages");
                limit(Resource::RLIMIT_AS, pages * 4096 + spare)
            }
            Order::LimitThreads { user, limit: bound } => {
                if nix::unistd::geteuid().as_raw() != user {
                    nix::unistd::setgid(user.into()).map_err(failure)?;
                    nix::unistd::setuid(user.into()).map_err(failure)?;
                }
                limit(Resource::RLIMIT_NPROC, bound)
            }
            Order::FillMappings { spare } => self.fill_mappings(spare),
            Order::LimitFiles { bytes } => limit(Resource::RLIMIT_FSIZE, bytes),
            Order::SubscribeWarily { filter, kind } => self.subscribe_warily(&filter, kind),
            Order::Overwrite { over, byte } => {
                let scribbler = Scribbler::find(over).map_err(failure)?;
                scribbler.fill(byte).map_err(failure)?;
                Ok(Answer::Number(scribbler.places() as u64))
            }
            Order::Scribble { over, seed } => {
                let scribbler = Scribbler::find(over).map_err(failure)?;
                let places = scribbler.places();
                std::thread::spawn(move || (seed..).try_for_each(|turn| scribbler.scribble(turn)));
                Ok(Answer::Number(places as u64))
            }
            Order::Belongings => belongings(),
            Order::Impersonate { epoch, index, service, stays } => {
                let folder = std::env::var_os("HIVEMIND_DIR").ok_or_else(|| mistake("it has no folder"))?;
                let end = EndId { node: epoch, index };
                let (mut impostor, said) = Impostor::subscribe(folder.as_ref(), end, &service);
                if !stays {
                    impostor.leave_root();
                }
                self.impostors.push(impostor);
                Ok(Answer::Attempts(vec![said]))
            }
            Order::Hollow(order) => {
                let folder = std::env::var_os("HIVEMIND_DIR").ok_or_else(|| mistake("it has no folder"))?;
                Ok(Answer::Number(Hollow::obey(&mut self.hollow, folder.as_ref(), order)))
            }
            Order::Tamper { service } => {
                let folder = std::env::var_os("HIVEMIND_DIR").ok_or_else(|| mistake("it has no folder"))?;
                Ok(Answer::Attempts(crate::tamper::tamper(folder.as_ref(), &service)))
            }
        }
    }

    fn fill_mappings(&mut self, spare: Option<usize>) -> Result<Answer, Failure> {
        let Some(spare) = spare else {
            self.ballast = Vec::new();
            return Ok(Answer::Done);
        };
        let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").map_err(failure)?;
        // Its memory before the mappings: later there is none for it.
        let most = most.trim().parse().map_err(failure)?;
        self.ballast.reserve_exact(most);
        // Neighbours that are alike would become one, so they differ. Bounded by the kernel, and by what it
        // says it allows.
        for number in 0..most {
            let Ok(map) = MmapMut::map_anon(4096) else { break };
            if number % 2 == 1 {
                // It was a neighbour of its kind for a moment, and now would be one more.
                let Ok(map) = map.make_read_only() else { break };
                self.ballast.push(map);
            } else {
                let Ok(map) = map.make_exec() else { break };
                self.ballast.push(map);
            }
        }
        self.ballast.truncate(self.ballast.len().saturating_sub(spare));
        Ok(Answer::Number(self.ballast.len() as u64))
    }

    fn node(&self) -> Result<&Node, Failure> {
        self.node.as_ref().ok_or_else(|| mistake("it has not joined"))
    }

    fn join(&mut self, join: &Join, guest: bool) -> Result<Answer, Failure> {
        let mut builder = Node::builder(&join.name).patience(Duration::from_millis(join.patience_ms));
        if let Some(hive) = &join.hive {
            builder = builder.hive(hive);
        }
        if let Some(folder) = &join.folder {
            builder = builder.dir(folder);
        }
        if join.external {
            builder = builder.external_root();
        }
        if guest {
            builder = builder.guest();
        }
        if join.guest {
            builder = builder.guest();
        }
        let node = builder.join().map_err(failure)?;
        let answer = Answer::Joined { node: node.epoch(), hosts_root: node.hosts_root() };
        self.node = Some(node);
        Ok(answer)
    }

    fn serve_root(&mut self) -> Result<Answer, Failure> {
        let dir = RuntimeDir::locate(&HiveName::default()).map_err(failure)?;
        let stop = StopHandle::new().map_err(failure)?;
        let handle = stop.clone();
        let mut options = ServeOptions::default();
        options.patience = BOUND;
        let thread = std::thread::spawn(move || {
            serve_root(&dir, options, &handle)
                .inspect_err(|error| eprintln!("the dedicated root ended: {error}"))
        });
        self.root = Some((stop, thread));
        Ok(Answer::Done)
    }

    fn publish(&mut self, publish: &Publish, ahead: Option<(u64, bool)>) -> Result<Answer, Failure> {
        let publisher = match publish.kind {
            Kind::Typed => AnyPublisher::Typed(create(self.node()?, publish, ahead)?),
            Kind::Bytes => AnyPublisher::Bytes(create(self.node()?, publish, ahead)?),
            Kind::Other => AnyPublisher::Other(create(self.node()?, publish, ahead)?),
        };
        self.publishers.push(Some(Outlet::AtHand(Box::new(publisher))));
        Ok(Answer::Number(self.publishers.len() as u64 - 1))
    }

    fn subscribe(&mut self, filter: &str, kind: Kind) -> Result<Answer, Failure> {
        let node = self.node()?;
        let subscriber = match kind {
            Kind::Typed => AnySubscriber::Typed(node.subscriber(filter).map_err(failure)?),
            Kind::Bytes => AnySubscriber::Bytes(node.subscriber(filter).map_err(failure)?),
            Kind::Other => AnySubscriber::Other(node.subscriber(filter).map_err(failure)?),
        };
        self.subscribers.push(Some(Intake::AtHand(subscriber)));
        Ok(Answer::Number(self.subscribers.len() as u64 - 1))
    }

    fn subscribe_warily(&mut self, filter: &str, kind: Kind) -> Result<Answer, Failure> {
        fn warily<T: Message + ?Sized>(node: &Node, filter: &str) -> Result<Subscriber<T>, Failure> {
            node.subscriber_builder(filter).trust(Trust::Nobody).create().map_err(failure)
        }
        let node = self.node()?;
        let subscriber = match kind {
            Kind::Typed => AnySubscriber::Typed(warily(node, filter)?),
            Kind::Other => AnySubscriber::Other(warily(node, filter)?),
            Kind::Bytes => AnySubscriber::Bytes(warily(node, filter)?),
        };
        self.subscribers.push(Some(Intake::AtHand(subscriber)));
        Ok(Answer::Number(self.subscribers.len() as u64 - 1))
    }

    fn unsubscribe(&mut self, subscriber: usize) -> Result<Answer, Failure> {
        if let Some(Intake::Collecting { shared, thread }) = self.subscribers[subscriber].take() {
            // Relaxed: the thread only has to see it some time.
            shared.stop.store(true, Ordering::Relaxed);
            thread.join().map_err(|_| mistake("the collection panicked"))?;
        }
        Ok(Answer::Done)
    }

    fn publisher(&mut self, number: usize) -> Result<&mut AnyPublisher, Failure> {
        match &mut self.publishers[number] {
            Some(Outlet::AtHand(publisher)) => Ok(publisher),
            Some(Outlet::Streaming { .. }) => Err(mistake("that publisher streams")),
            None => Err(mistake("that publisher has been dropped")),
        }
    }

    fn subscriber(&mut self, number: usize) -> Result<&mut AnySubscriber, Failure> {
        match &mut self.subscribers[number] {
            Some(Intake::AtHand(subscriber)) => Ok(subscriber),
            Some(Intake::Collecting { .. }) => Err(mistake("that subscriber collects")),
            None => Err(mistake("that subscriber has been dropped")),
        }
    }

    fn stream(&mut self, number: usize, length: Option<usize>, pause_us: u64) -> Result<Answer, Failure> {
        self.publisher(number)?;
        let Some(Outlet::AtHand(mut publisher)) = self.publishers[number].take() else {
            unreachable!("checked above")
        };
        let stop = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicU64::new(publisher.published()));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&published));
        let thread = std::thread::spawn(move || {
            let mut outcome = Ok(());
            // Relaxed, both: a wish to stop and a figure; nothing is ordered by them.
            while outcome.is_ok() && !ended.load(Ordering::Relaxed) {
                outcome = publisher.send(1, length, STREAM_PATIENCE);
                count.store(publisher.published(), Ordering::Relaxed);
                if pause_us > 0 {
                    std::thread::sleep(Duration::from_micros(pause_us));
                }
            }
            (publisher, outcome)
        });
        self.publishers[number] = Some(Outlet::Streaming { stop, published, thread });
        Ok(Answer::Done)
    }

    fn stop_stream(&mut self, number: usize) -> Result<Answer, Failure> {
        let Some(Outlet::Streaming { stop, thread, .. }) = self.publishers[number].take() else {
            return Err(mistake("that publisher does not stream"));
        };
        // Relaxed: the thread only has to see it some time.
        stop.store(true, Ordering::Relaxed);
        let (publisher, outcome) = thread.join().map_err(|_| mistake("the stream panicked"))?;
        let published = publisher.published();
        self.publishers[number] = Some(Outlet::AtHand(publisher));
        outcome.map(|()| Answer::Number(published))
    }

    fn hold(&mut self, subscriber: usize, count: usize) -> Result<Answer, Failure> {
        let mut held = Vec::new();
        let subscriber = self.subscriber(subscriber)?;
        while held.len() < count {
            let sample = match subscriber {
                AnySubscriber::Typed(subscriber) => {
                    subscriber.recv_timeout(BOUND).map_err(failure)?.map(HeldSample::Typed)
                }
                AnySubscriber::Bytes(subscriber) => {
                    subscriber.recv_timeout(BOUND).map_err(failure)?.map(HeldSample::Bytes)
                }
                AnySubscriber::Other(_) => return Err(mistake("nobody sends messages of that type")),
            };
            held.push(sample.ok_or_else(|| mistake("nothing came"))?);
        }
        self.held.append(&mut held);
        self.check_held()
    }

    fn check_held(&mut self) -> Result<Answer, Failure> {
        for sample in &self.held {
            let checked = match sample {
                HeldSample::Typed(sample) => sample.check(sample.sequence()),
                HeldSample::Bytes(sample) => sample.check(sample.sequence()),
            };
            checked.map_err(|fault| mistake(&fault))?;
        }
        Ok(Answer::Number(self.held.len() as u64))
    }

    fn collect(&mut self, number: usize) -> Result<Answer, Failure> {
        self.subscriber(number)?;
        let Some(Intake::AtHand(subscriber)) = self.subscribers[number].take() else {
            unreachable!("checked above")
        };
        let shared = Arc::new(Collection::default());
        let collection = Arc::clone(&shared);
        let thread = match subscriber {
            AnySubscriber::Typed(subscriber) => std::thread::spawn(move || collection.run(subscriber)),
            AnySubscriber::Bytes(subscriber) => std::thread::spawn(move || collection.run(subscriber)),
            AnySubscriber::Other(_) => return Err(mistake("nobody sends messages of that type")),
        };
        self.subscribers[number] = Some(Intake::Collecting { shared, thread });
        Ok(Answer::Done)
    }

    fn tally(&mut self, number: usize, mut enough: impl FnMut(&Tally) -> bool) -> Result<Answer, Failure> {
        let Some(Intake::Collecting { shared, .. }) = &self.subscribers[number] else {
            return Err(mistake("that subscriber does not collect"));
        };
        let tally = shared.tally.lock().expect("the collection did not panic");
        let waited = shared.changed.wait_timeout_while(tally, BOUND, |tally| !enough(tally));
        let (tally, time) = waited.expect("the collection did not panic");
        if time.timed_out() {
            return Err(mistake(&format!("so much never came; {tally:#?}")));
        }
        Ok(Answer::Tally(tally.clone()))
    }
}

fn create<T: Message + ?Sized>(
    node: &Node,
    publish: &Publish,
    ahead: Option<(u64, bool)>,
) -> Result<Publisher<T>, Failure> {
    let mut builder = node.publisher_builder(&publish.service);
    builder = builder.capacity(publish.capacity).history(publish.history).retain(publish.retained);
    if publish.reliable {
        builder = builder.reliable();
    }
    if let Some(bytes) = publish.max_memory {
        builder = builder.max_memory(bytes);
    }
    if let Some((bytes, huge)) = ahead {
        builder = builder.prefault(bytes);
        if huge {
            builder = builder.huge_pages();
        }
    }
    builder.create().map_err(failure)
}

impl AnyPublisher {
    fn published(&self) -> u64 {
        match self {
            AnyPublisher::Typed(publisher) => publisher.published(),
            AnyPublisher::Bytes(publisher) => publisher.published(),
            AnyPublisher::Other(publisher) => publisher.published(),
        }
    }

    fn wait_for_subscribers(&self, count: usize) -> Result<(), Failure> {
        self.look_for_subscribers(count, BOUND)
    }

    fn look_for_subscribers(&self, count: usize, patience: Duration) -> Result<(), Failure> {
        let waited = match self {
            AnyPublisher::Typed(publisher) => publisher.wait_for_subscribers(count, patience),
            AnyPublisher::Bytes(publisher) => publisher.wait_for_subscribers(count, patience),
            AnyPublisher::Other(publisher) => publisher.wait_for_subscribers(count, patience),
        };
        waited.map_err(failure)
    }

    fn send(&mut self, count: u64, length: Option<usize>, patience: Duration) -> Result<(), Failure> {
        let source = &*SOURCE;
        let mut entry = Entry::empty();
        let mut bytes = Vec::new();
        for _ in 0..count {
            let number = self.published();
            let length = length.unwrap_or_else(|| source.mixed_length(number));
            let sent = match self {
                AnyPublisher::Typed(publisher) => {
                    source.fill(number, length, &mut entry);
                    deliver(publisher, &entry, patience)
                }
                AnyPublisher::Bytes(publisher) => {
                    bytes.resize(HEAD + length, 0);
                    source.write(number, &mut bytes);
                    deliver(publisher, &bytes[..], patience)
                }
                AnyPublisher::Other(_) => return Err(mistake("messages of that type are not to be sent")),
            };
            sent.map_err(failure)?;
        }
        Ok(())
    }
}

fn deliver<T: Message + ?Sized>(
    publisher: &mut Publisher<T>,
    message: &T,
    patience: Duration,
) -> Result<(), SendError> {
    if patience.is_zero() { publisher.send(message) } else { publisher.send_timeout(message, patience) }
        .map(drop)
}

impl AnySubscriber {
    /// How many messages came in time: one or none.
    fn receive(&mut self, patience: Duration) -> Result<u64, Failure> {
        let came = match self {
            AnySubscriber::Typed(subscriber) => {
                subscriber.recv_timeout(patience).map(|sample| sample.is_some())
            }
            AnySubscriber::Bytes(subscriber) => {
                subscriber.recv_timeout(patience).map(|sample| sample.is_some())
            }
            AnySubscriber::Other(subscriber) => {
                subscriber.recv_timeout(patience).map(|sample| sample.is_some())
            }
        };
        came.map(u64::from).map_err(failure)
    }

    /// As `receive`, by polling.
    fn receive_polling(&mut self, patience: Duration) -> Result<u64, Failure> {
        let start = Instant::now();
        loop {
            let came = match self {
                AnySubscriber::Typed(subscriber) => subscriber.try_recv().map(|sample| sample.is_some()),
                AnySubscriber::Bytes(subscriber) => subscriber.try_recv().map(|sample| sample.is_some()),
                AnySubscriber::Other(subscriber) => subscriber.try_recv().map(|sample| sample.is_some()),
            };
            if came.map_err(failure)? {
                return Ok(1);
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(0);
            }
            let descriptor = match self {
                AnySubscriber::Typed(subscriber) => subscriber.descriptor(),
                AnySubscriber::Bytes(subscriber) => subscriber.descriptor(),
                AnySubscriber::Other(subscriber) => subscriber.descriptor(),
            };
            let polled = PollFd::new(descriptor.map_err(failure)?, PollFlags::POLLIN);
            poll(&mut [polled], PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).map_err(failure)?;
        }
    }

    fn wait_for_publishers(&self, count: usize) -> Result<(), Failure> {
        let waited = match self {
            AnySubscriber::Typed(subscriber) => subscriber.wait_for_publishers(count, BOUND),
            AnySubscriber::Bytes(subscriber) => subscriber.wait_for_publishers(count, BOUND),
            AnySubscriber::Other(subscriber) => subscriber.wait_for_publishers(count, BOUND),
        };
        waited.map_err(failure)
    }
}

impl Collection {
    /// Receives until told to stop.
    fn run<T>(&self, mut subscriber: Subscriber<T>)
    where
        T: Message + ?Sized,
        T::Read: Checked,
    {
        let mut accounts: HashMap<EndId, Account> = HashMap::new();
        let (mut last, mut gap) = (None::<Instant>, Duration::ZERO);
        let mut looked = Instant::now();
        // Relaxed: a wish to stop; nothing is ordered by it.
        while !self.stop.load(Ordering::Relaxed) {
            let received = subscriber.recv_timeout(LOOK);
            let now = Instant::now();
            let idle = !matches!(received, Ok(Some(_)));
            match received {
                Ok(Some(sample)) => {
                    gap = gap.max(last.map_or(Duration::ZERO, |last| now - last));
                    last = Some(now);
                    let publisher = sample.publisher();
                    let account = accounts.entry(publisher).or_insert_with(|| {
                        let known = subscriber
                            .connections()
                            .into_iter()
                            .find(|known| known.origin.publisher == publisher);
                        Account::new(known.expect("a sample is of a connection").first)
                    });
                    account.enter(sample.sequence(), &*sample);
                }
                Ok(None) => {}
                Err(error) => self.report(&error),
            }
            if idle || now - looked > LOOK {
                looked = now;
                self.publish(&subscriber, &accounts, gap);
            }
        }
    }

    fn report(&self, error: &RecvError) {
        let mut tally = self.tally.lock().expect("nobody panics with the tally");
        tally.errors.push(error.to_string());
        // A subscriber that only fails would fill the memory.
        tally.errors.truncate(64);
    }

    fn publish<T: Message + ?Sized>(
        &self,
        subscriber: &Subscriber<T>,
        accounts: &HashMap<EndId, Account>,
        gap: Duration,
    ) {
        let connections = subscriber.connections().into_iter().map(|status| Connection {
            node: status.origin.node.to_string(),
            epoch: status.origin.publisher.node,
            index: status.origin.publisher.index,
            service: status.origin.service.to_string(),
            first: status.first,
            received: status.received,
            lost: status.lost,
            ended: status.ended,
            account: accounts
                .get(&status.origin.publisher)
                .cloned()
                .unwrap_or_else(|| Account::new(status.first)),
        });
        let connections = connections.collect();
        let mut tally = self.tally.lock().expect("nobody panics with the tally");
        tally.connections = connections;
        tally.longest_gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        self.changed.notify_all();
    }
}

fn limit(resource: Resource, bound: u64) -> Result<Answer, Failure> {
    let (_, hard) = getrlimit(resource).map_err(failure)?;
    setrlimit(resource, bound.min(hard), hard).map_err(failure)?;
    Ok(Answer::Done)
}

/// The kernel bounds the number of a descriptor, not how many there are: `spare` numbers below the limit are
/// free.
fn limit_descriptors(spare: usize) -> Result<Answer, Failure> {
    // To look takes a descriptor, which an earlier limit may forbid.
    limit(Resource::RLIMIT_NOFILE, u64::MAX)?;
    let listed: Vec<_> = std::fs::read_dir("/proc/self/fd").and_then(Iterator::collect).map_err(failure)?;
    // The descriptor of the listing itself is gone by now.
    let open: HashSet<_> = listed
        .iter()
        .map(std::fs::DirEntry::path)
        .filter(|path| path.read_link().is_ok())
        .filter_map(|path| path.file_name()?.to_str()?.parse::<u64>().ok())
        .collect();
    let beyond = (0..).filter(|number| !open.contains(number)).nth(spare).expect("numbers do not end");
    limit(Resource::RLIMIT_NOFILE, beyond)
}

fn belongings() -> Result<Answer, Failure> {
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failure)? {
        // The descriptor of the listing itself is gone when it is looked at.
        if let Ok(target) = std::fs::read_link(entry.map_err(failure)?.path()) {
            descriptors.push(target.display().to_string());
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(failure)?;
    let mappings = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
    Ok(Answer::Belongings { descriptors, mappings: mappings.collect() })
}

impl Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").field("node", &self.node).finish_non_exhaustive()
    }
}
