//! hivemind, through the public surface of its SDK: within one host, and between two that are linked over
//! TCP.

use std::time::Duration;

use hivemind::links::{LinkOptions, Links, Security};
use hivemind::{Message, Node, Publisher, Sample, SendError, Subscriber, message};
use rivals_course::case::Task;
use rivals_course::contender::{Contender, Drain, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Seen, Small};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::{PATIENCE, spin_for};

/// Slots of the rings in round trips: one message is under way at a time.
const FEW_SLOTS: u64 = 8;
/// Slots of the ring of small messages, one way: what stays in the first cache.
const MANY_SLOTS: u64 = 256;
/// Messages of one `send_many`.
const BATCH: usize = 64;
/// All chunks of large messages together fit the second cache of one core.
const LARGE_BYTES: u64 = 512 << 10;

const PING: &str = "race/ping";
const PONG: &str = "race/pong";

/// A typed message whose archive is 56 bytes: all that a slot holds beside its stamp.
#[message]
#[derive(Debug, Clone, Copy, PartialEq)]
struct Packet {
    number: u64,
    mark: u64,
    values: [u64; 5],
}

impl From<Small> for Packet {
    #[inline(always)]
    fn from(small: Small) -> Packet {
        let [number, mark, _, values @ ..] = small.0;
        Packet { number, mark, values }
    }
}

#[inline(always)]
fn seen(sample: &Sample<Packet>) -> Seen {
    Seen {
        number: sample.number.to_native(),
        mark: sample.mark.to_native(),
        last: sample.values[4].to_native(),
    }
}

struct Hivemind;

fn node(run: &Run, name: &str) -> Result<Node> {
    Node::builder(name).hive("race").dir(&run.room).join().map_err(rival)
}

impl Contender for Hivemind {
    const NAME: &'static str = "hivemind";
    type Link = Ends;

    fn version() -> String {
        "this tree".to_owned()
    }

    fn setup() -> &'static str {
        "typed, validated messages of 56 B in the slot, larger ones as loans filled and read in place; round trips and \
         fan-out over a lossy service, one way over a reliable one (256 slots, fewer for large messages); try_recv in a \
         loop, `send_many` of 64 and `drain` in batches, or recv_timeout without spinning in the blocking case; the parent's node hosts the root"
    }

    fn waits(task: Task) -> Waits {
        match task {
            Task::RoundTrip { asleep: true, .. } => Waits::Blocks,
            _ => Waits::Spins,
        }
    }

    fn refuses(_: Task) -> Option<&'static str> {
        None
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let node = node(run, "parent")?;
        let ends = if run.task.bytes() == 64 {
            let publisher = publisher::<Packet>(&node, PING, run.task)?;
            let pongs = run.task.both_ways().then(|| subscriber(&node, PONG, run.task)).transpose()?;
            Ends::new(Kind::Typed(Some(publisher), pongs), asleep(run.task), node)
        } else {
            let publisher = publisher::<[u8]>(&node, PING, run.task)?;
            let pongs = run.task.both_ways().then(|| subscriber(&node, PONG, run.task)).transpose()?;
            Ends::new(Kind::Bytes(Some(publisher), pongs), asleep(run.task), node)
        };
        launch.launch("")?;
        let audience = match run.task {
            Task::FanOut { subscribers, .. } => subscribers,
            _ => 1,
        };
        ends.meet(audience)?;
        Ok(ends)
    }

    fn peer(run: &Run, _: &str) -> Result<Ends> {
        let node = node(run, "peer")?;
        let kind = if run.task.bytes() == 64 {
            let pings = subscriber(&node, PING, run.task)?;
            Kind::Typed(
                run.task.both_ways().then(|| publisher(&node, PONG, run.task)).transpose()?,
                Some(pings),
            )
        } else {
            let pings = subscriber(&node, PING, run.task)?;
            Kind::Bytes(
                run.task.both_ways().then(|| publisher(&node, PONG, run.task)).transpose()?,
                Some(pings),
            )
        };
        let ends = Ends::new(kind, asleep(run.task), node);
        ends.meet(1)?;
        Ok(ends)
    }

    fn audience(run: &Run, _: &str, subscribers: usize) -> Result<Drain> {
        let node = node(run, "peer")?;
        let mut audience = Vec::new();
        for _ in 0..subscribers {
            audience.push(subscriber::<Packet>(&node, PING, run.task)?);
        }
        for subscriber in &audience {
            subscriber.wait_for_publishers(1, PATIENCE).map_err(rival)?;
        }
        Ok(Box::new(move |take| {
            let _alive = &node;
            for (index, subscriber) in audience.iter_mut().enumerate() {
                if let Some(sample) = subscriber.try_recv().map_err(rival)? {
                    take(index, seen(&sample));
                }
            }
            Ok(())
        }))
    }

    fn host(run: &Run) -> Result<(String, Keep)> {
        Ok((String::new(), Box::new(node(run, "parent")?)))
    }

    fn cold_start(run: &Run, _: &str, round: u64) -> Result<Keep> {
        let node = node(run, &format!("starter-{round}"))?;
        let service = format!("race/cold-{round}");
        let mut publisher = node.publisher_builder::<Packet>(&service).history(1).create().map_err(rival)?;
        publisher.send(&Small::numbered(round, 0).into()).map_err(rival)?;
        let mut subscriber = node.subscriber::<Packet>(&service).map_err(rival)?;
        let sample = subscriber.recv_timeout(PATIENCE).map_err(rival)?.ok_or(silent("the first message"))?;
        let found = seen(&sample).number;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new((publisher, subscriber, node)))
    }

    fn publish_services(run: &Run, launch: &mut dyn Launch, count: usize) -> Result<Keep> {
        let node = node(run, "parent")?;
        launch.launch("")?;
        let mut publishers = Vec::with_capacity(count);
        for index in 0..count {
            publishers.push(node.publisher::<Packet>(&format!("race/service-{index}")).map_err(rival)?);
        }
        for (publisher, number) in publishers.iter_mut().zip(1..) {
            publisher.wait_for_subscribers(1, PATIENCE).map_err(rival)?;
            publisher.send(&Small::numbered(number, 0).into()).map_err(rival)?;
        }
        Ok(Box::new((publishers, node)))
    }

    fn subscribe_services(run: &Run, _: &str, count: usize, take: &mut dyn FnMut(Seen)) -> Result<Keep> {
        let node = node(run, "peer")?;
        let mut subscribers = Vec::with_capacity(count);
        for index in 0..count {
            subscribers.push(node.subscriber::<Packet>(&format!("race/service-{index}")).map_err(rival)?);
        }
        for subscriber in &mut subscribers {
            let sample =
                subscriber.recv_timeout(PATIENCE).map_err(rival)?.ok_or(silent("a service's message"))?;
            take(seen(&sample));
        }
        Ok(Box::new((subscribers, node)))
    }
}

fn asleep(task: Task) -> bool {
    matches!(task, Task::RoundTrip { asleep: true, .. })
}

fn silent(what: &'static str) -> Failure {
    Failure::Silent { what, waited_s: PATIENCE.as_secs() }
}

fn publisher<T: Message + ?Sized>(node: &Node, service: &str, task: Task) -> Result<Publisher<T>> {
    let bytes = task.bytes() as u64;
    let builder = node.publisher_builder::<T>(service).max_message(bytes.max(64));
    let builder = match task {
        Task::OneWay { .. } => builder.capacity((LARGE_BYTES / bytes).clamp(2, MANY_SLOTS)).reliable(),
        Task::RoundTrip { .. } => builder.capacity(FEW_SLOTS),
        _ => builder,
    };
    builder.create().map_err(rival)
}

fn subscriber<T: Message + ?Sized>(node: &Node, service: &str, task: Task) -> Result<Subscriber<T>> {
    let builder = node.subscriber_builder::<T>(service);
    let builder = if asleep(task) { builder.spin(Duration::ZERO) } else { builder };
    builder.create().map_err(rival)
}

/// The same between two hives, each with a root of its own.
struct Linked;

/// Bytes of large messages that a ring of a link holds.
const LINKED_BYTES: u64 = 16 << 20;

impl Linked {
    /// A hive of its own, with its links.
    fn host(run: &Run, name: &str, peer: Option<&str>) -> Result<(Node, Links, Node)> {
        let folder = run.room.join(name);
        let join = |node: &str| Node::builder(node).hive("race").dir(&folder);
        let node = join(name).join().map_err(rival)?;
        let link = join("link").guest().join().map_err(rival)?;
        let options = LinkOptions::new(Security::plain_text(name));
        let options = match peer {
            Some(peer) => options.peer(peer.parse().map_err(rival)?),
            None => options.listen("127.0.0.1:0".parse().map_err(rival)?),
        };
        let links = Links::start(&link, options).map_err(rival)?;
        Ok((node, links, link))
    }

    fn publisher<T: Message + ?Sized>(node: &Node, service: &str, task: Task) -> Result<Publisher<T>> {
        let bytes = task.bytes() as u64;
        let builder = node.publisher_builder::<T>(service).max_message(bytes.max(64)).reliable();
        builder.capacity((LINKED_BYTES / bytes).clamp(16, 4096)).create().map_err(rival)
    }

    fn subscriber<T: Message + ?Sized>(node: &Node, service: &str) -> Result<Subscriber<T>> {
        node.subscriber_builder::<T>(service).spin(Duration::ZERO).create().map_err(rival)
    }

    /// What is sent out and received back, as far as the task has both.
    fn kind(node: &Node, task: Task, out: Option<&str>, back: Option<&str>) -> Result<Kind> {
        Ok(if task.bytes() == 64 {
            let out = out.map(|out| Linked::publisher(node, out, task)).transpose()?;
            Kind::Typed(out, back.map(|back| Linked::subscriber(node, back)).transpose()?)
        } else {
            let out = out.map(|out| Linked::publisher(node, out, task)).transpose()?;
            Kind::Bytes(out, back.map(|back| Linked::subscriber(node, back)).transpose()?)
        })
    }
}

impl Contender for Linked {
    const NAME: &'static str = "hivemind link";
    type Link = Ends;

    fn version() -> String {
        "this tree".to_owned()
    }

    fn setup() -> &'static str {
        "two hives linked over TCP on loopback, without encryption; reliable services, blocking receive without spinning (a spinning end \
         would starve the threads of its link); 4,096 slots, or 16 MiB and 16 messages at least"
    }

    fn waits(_: Task) -> Waits {
        Waits::Blocks
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::OneWay { batched: true, .. } => Some("it batches by itself, one message a call"),
            Task::FanOut { .. } | Task::ColdStart | Task::Services { .. } => {
                Some("as within a host; a link stands here for what crosses between hosts")
            }
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let (node, links, link) = Linked::host(run, "near", None)?;
        let back = run.task.both_ways().then_some(PONG);
        let kind = Linked::kind(&node, run.task, Some(PING), back)?;
        launch.launch(&links.addresses()[0])?;
        let ends = Ends { kind, asleep: true, links: Some((links, link)), _node: node };
        ends.meet(1)?;
        Ok(ends)
    }

    fn peer(run: &Run, address: &str) -> Result<Ends> {
        let (node, links, link) = Linked::host(run, "far", Some(address))?;
        let out = run.task.both_ways().then_some(PONG);
        let kind = Linked::kind(&node, run.task, out, Some(PING))?;
        let ends = Ends { kind, asleep: true, links: Some((links, link)), _node: node };
        ends.meet(1)?;
        Ok(ends)
    }
}

/// Both ends of one process; drop order: ends before the links before the node.
struct Ends {
    kind: Kind,
    asleep: bool,
    links: Option<(Links, Node)>,
    _node: Node,
}

#[allow(clippy::large_enum_variant)]
enum Kind {
    Typed(Option<Publisher<Packet>>, Option<Subscriber<Packet>>),
    Bytes(Option<Publisher<[u8]>>, Option<Subscriber<[u8]>>),
}

impl Ends {
    fn new(kind: Kind, asleep: bool, node: Node) -> Ends {
        Ends { kind, asleep, links: None, _node: node }
    }

    fn meet(&self, subscribers: usize) -> Result<()> {
        fn ends<T: Message + ?Sized>(
            publisher: Option<&Publisher<T>>,
            subscriber: Option<&Subscriber<T>>,
            subscribers: usize,
        ) -> Result<()> {
            if let Some(publisher) = publisher {
                publisher.wait_for_subscribers(subscribers, PATIENCE).map_err(rival)?;
            }
            if let Some(subscriber) = subscriber {
                subscriber.wait_for_publishers(1, PATIENCE).map_err(rival)?;
            }
            Ok(())
        }
        match &self.kind {
            Kind::Typed(publisher, subscriber) => ends(publisher.as_ref(), subscriber.as_ref(), subscribers),
            Kind::Bytes(publisher, subscriber) => ends(publisher.as_ref(), subscriber.as_ref(), subscribers),
        }
    }
}

#[inline(always)]
fn next<T: Message + ?Sized>(subscriber: &mut Subscriber<T>, asleep: bool) -> Result<Sample<T>> {
    if asleep {
        subscriber.recv_timeout(PATIENCE).map_err(rival)?.ok_or(silent("a message"))
    } else {
        spin_for(|| subscriber.try_recv().map_err(rival), "a message")
    }
}

impl Link for Ends {
    #[inline(always)]
    fn send_small(&mut self, message: Small) -> Result<()> {
        let Kind::Typed(Some(publisher), _) = &mut self.kind else {
            return Err(Failure::NotOffered("this end does not publish small messages"));
        };
        let packet = Packet::from(message);
        if self.links.is_some() {
            return publisher.send_timeout(&packet, PATIENCE).map(drop).map_err(rival);
        }
        spin_for(
            || match publisher.send(&packet) {
                Ok(_reached) => Ok(Some(())),
                Err(SendError::Full { .. }) => Ok(None),
                Err(error) => Err(rival(error)),
            },
            "room in the ring",
        )
    }

    #[inline(always)]
    fn receive_small(&mut self) -> Result<Seen> {
        let Kind::Typed(_, Some(subscriber)) = &mut self.kind else {
            return Err(Failure::NotOffered("this end does not receive small messages"));
        };
        Ok(seen(&next(subscriber, self.asleep)?))
    }

    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let Kind::Bytes(Some(publisher), _) = &mut self.kind else {
            return Err(Failure::NotOffered("this end does not publish bytes"));
        };
        if self.links.is_some() {
            let mut loan = publisher.loan_timeout(bytes, PATIENCE).map_err(rival)?;
            fill(&mut loan);
            loan.send();
            return Ok(());
        }
        let mut fill = Some(fill);
        spin_for(
            || match publisher.loan(bytes) {
                Ok(mut loan) => {
                    if let Some(fill) = fill.take() {
                        fill(&mut loan);
                    }
                    loan.send();
                    Ok(Some(()))
                }
                Err(SendError::Full { .. } | SendError::MemoryOut { .. }) => Ok(None),
                Err(error) => Err(rival(error)),
            },
            "room in the ring",
        )
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let Kind::Bytes(_, Some(subscriber)) = &mut self.kind else {
            return Err(Failure::NotOffered("this end does not receive bytes"));
        };
        Ok(read(&next(subscriber, self.asleep)?))
    }

    fn batch(&self) -> Option<u64> {
        Some(BATCH as u64)
    }

    #[inline(always)]
    fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
        let Kind::Typed(Some(publisher), _) = &mut self.kind else {
            return Err(Failure::NotOffered("this end does not publish small messages"));
        };
        let last = first + BATCH as u64 - 1;
        let batch: [Packet; BATCH] = std::array::from_fn(|index| {
            let number = first + index as u64;
            Small::numbered(number, if number == last { mark } else { 0 }).into()
        });
        let mut sent = 0;
        spin_for(
            || match publisher.send_many(&batch[sent..]) {
                Ok(more) => {
                    sent += more;
                    Ok((sent == BATCH).then_some(()))
                }
                Err(SendError::Full { .. }) => Ok(None),
                Err(error) => Err(rival(error)),
            },
            "room in the ring",
        )
    }

    #[inline(always)]
    fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let Kind::Typed(_, Some(subscriber)) = &mut self.kind else {
            return Err(Failure::NotOffered("this end does not receive small messages"));
        };
        let first = next(subscriber, self.asleep)?;
        take(seen(&first))?;
        for sample in subscriber.drain().take(BATCH - 1) {
            take(seen(&sample.map_err(rival)?))?;
        }
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<Hivemind>(), Entry::of::<Linked>()])
}
