//! iceoryx2: publish-subscribe services, with an event service beside them in the blocking case.

use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::Duration;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::{BackpressureAction, BackpressureInfo};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory as Service;
use rivals_course::case::Task;
use rivals_course::contender::{Contender, Drain, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Seen, Small};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::{PATIENCE, nap_until, spin_for};

/// Messages a subscriber's buffer holds, one way.
const BUFFER: usize = 1024;
/// All buffers of large messages together fit the second cache of one core.
const LARGE_BYTES: usize = 512 << 10;

/// A small message.
#[derive(Debug, Clone, Copy, ZeroCopySend)]
#[repr(C)]
#[repr(align(64))]
struct Packet {
    words: [u64; 8],
}

fn seen(packet: &Packet) -> Seen {
    Small(packet.words).seen()
}

struct Iceoryx2;

/// Everything below the room, and shared memory under the room's name.
fn config(run: &Run) -> Result<Config> {
    let mut config = Config::default();
    let room = run.room.to_str().ok_or_else(|| rival("the room's name is not text"))?;
    config.global.set_root_path(&Path::new(room.as_bytes()).map_err(|error| rival(format!("{error:?}")))?);
    config.global.prefix =
        FileName::new(prefix(run).as_bytes()).map_err(|error| rival(format!("{error:?}")))?;
    Ok(config)
}

fn prefix(run: &Run) -> String {
    format!("{}_", run.room.file_name().unwrap_or_default().to_string_lossy())
}

fn node(run: &Run) -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Error);
    NodeBuilder::new().config(&config(run)?).create::<ipc::Service>().map_err(rival)
}

fn service_name(name: &str) -> Result<ServiceName> {
    ServiceName::new(name).map_err(rival)
}

/// Limits no larger than the case needs: iceoryx2 visits every possible subscriber at each send.
fn small_service(
    node: &Node<ipc::Service>,
    name: &str,
    subscribers: usize,
    lossless: bool,
) -> Result<Service<ipc::Service, Packet, ()>> {
    node.service_builder(&service_name(name)?)
        .publish_subscribe::<Packet>()
        .max_publishers(1)
        .max_subscribers(subscribers)
        .max_nodes(2)
        .enable_safe_overflow(!lossless)
        .subscriber_max_buffer_size(if lossless { BUFFER } else { 2 })
        .subscriber_max_borrowed_samples(1)
        .open_or_create()
        .map_err(rival)
}

fn large_service(
    node: &Node<ipc::Service>,
    name: &str,
    task: Task,
) -> Result<Service<ipc::Service, [u8], ()>> {
    let buffer = match task {
        Task::OneWay { bytes, .. } => (LARGE_BYTES / bytes).clamp(2, BUFFER),
        _ => 2,
    };
    node.service_builder(&service_name(name)?)
        .publish_subscribe::<[u8]>()
        .payload_alignment(Alignment::new(64).ok_or_else(|| rival("64 is no alignment"))?)
        .max_publishers(1)
        .max_subscribers(1)
        .max_nodes(2)
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(buffer)
        .subscriber_max_borrowed_samples(1)
        .open_or_create()
        .map_err(rival)
}

/// Tries again at once, without the pauses of the built-in strategy.
fn keep_trying(info: &BackpressureInfo) -> BackpressureAction {
    if info.elapsed_time > PATIENCE {
        BackpressureAction::DiscardDataAndFail
    } else {
        BackpressureAction::Retry
    }
}

impl Contender for Iceoryx2 {
    const NAME: &'static str = "iceoryx2";
    type Link = Ends;

    fn version() -> String {
        "0.10.0".to_owned()
    }

    fn setup() -> &'static str {
        "ipc service; small messages typed, large ones as uninitialised slices filled and read in place; limits no larger \
         than needed (1 publisher, 2 nodes, as many subscribers as there are); one way without overflow, buffer of 1,024 \
         (fewer for large messages), retrying at once when full; fan-out with safe overflow, its default; the blocking \
         case with an event service beside it"
    }

    fn waits(task: Task) -> Waits {
        match task {
            Task::RoundTrip { asleep: true, .. } => Waits::Blocks,
            _ => Waits::Spins,
        }
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::OneWay { batched: true, .. } => Some("one message a call"),
            _ => None,
        }
    }

    fn traces(run: &Run) -> Vec<PathBuf> {
        vec![PathBuf::from("/dev/shm").join(prefix(run))]
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let ends = Ends::open(run, "ping", "pong")?;
        launch.launch("")?;
        ends.meet(match run.task {
            Task::FanOut { subscribers, .. } => subscribers,
            _ => 1,
        })?;
        Ok(ends)
    }

    fn peer(run: &Run, _: &str) -> Result<Ends> {
        let ends = Ends::open(run, "pong", "ping")?;
        ends.meet(1)?;
        Ok(ends)
    }

    fn audience(run: &Run, _: &str, subscribers: usize) -> Result<Drain> {
        let node = node(run)?;
        let service = small_service(&node, "ping", subscribers, false)?;
        let mut audience = Vec::new();
        for _ in 0..subscribers {
            audience.push(service.subscriber_builder().create().map_err(rival)?);
        }
        Ok(Box::new(move |take| {
            let _alive = (&node, &service);
            for (index, subscriber) in audience.iter().enumerate() {
                if let Some(sample) = subscriber.receive().map_err(rival)? {
                    take(index, seen(&sample));
                }
            }
            Ok(())
        }))
    }

    fn cold_start(run: &Run, _: &str, round: u64) -> Result<Keep> {
        let node = node(run)?;
        let service = small_service(&node, &format!("cold-{round}"), 1, false)?;
        let publisher = service.publisher_builder().create().map_err(rival)?;
        let subscriber = service.subscriber_builder().create().map_err(rival)?;
        publish(&publisher, Small::numbered(round, 0))?;
        let found = spin_for(
            || Ok(subscriber.receive().map_err(rival)?.map(|sample| seen(&sample).number)),
            "a message",
        )?;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new((publisher, subscriber, service, node)))
    }

    fn publish_services(run: &Run, launch: &mut dyn Launch, count: usize) -> Result<Keep> {
        let node = node(run)?;
        launch.launch("")?;
        let mut ends = Vec::with_capacity(count);
        for index in 0..count {
            let service = small_service(&node, &format!("service-{index}"), 1, false)?;
            let publisher = service.publisher_builder().create().map_err(rival)?;
            ends.push((publisher, service));
        }
        for ((publisher, service), number) in ends.iter().zip(1..) {
            nap_until(|| service.dynamic_config().number_of_subscribers() == 1, "a subscriber")?;
            publish(publisher, Small::numbered(number, 0))?;
        }
        Ok(Box::new((ends, node)))
    }

    fn subscribe_services(run: &Run, _: &str, count: usize, take: &mut dyn FnMut(Seen)) -> Result<Keep> {
        let node = node(run)?;
        let mut ends = Vec::with_capacity(count);
        for index in 0..count {
            let service = small_service(&node, &format!("service-{index}"), 1, false)?;
            let subscriber = service.subscriber_builder().create().map_err(rival)?;
            ends.push((subscriber, service));
        }
        for (subscriber, _) in &ends {
            take(spin_for(
                || Ok(subscriber.receive().map_err(rival)?.map(|sample| seen(&sample))),
                "a message",
            )?);
        }
        Ok(Box::new((ends, node)))
    }
}

fn publish(publisher: &Publisher<ipc::Service, Packet, ()>, message: Small) -> Result<()> {
    let sample = publisher.loan_uninit().map_err(rival)?;
    sample.write_payload(Packet { words: message.0 }).send().map_err(rival)?;
    Ok(())
}

/// Both ends of one process; drop order: ports before the node.
struct Ends {
    kind: Kind,
    bells: Option<(Notifier<ipc::Service>, Listener<ipc::Service>)>,
    _node: Node<ipc::Service>,
}

type Out<T> = Option<(Publisher<ipc::Service, T, ()>, Service<ipc::Service, T, ()>)>;
type Back<T> = Option<(Subscriber<ipc::Service, T, ()>, Service<ipc::Service, T, ()>)>;

#[allow(clippy::large_enum_variant)]
enum Kind {
    Small(Out<Packet>, Back<Packet>),
    Large(Out<[u8]>, Back<[u8]>),
}

impl Ends {
    /// The parent is who calls its own direction "ping".
    fn open(run: &Run, mine: &str, theirs: &str) -> Result<Ends> {
        let node = node(run)?;
        let task = run.task;
        let sends = task.both_ways() || mine == "ping";
        let receives = task.both_ways() || theirs == "ping";
        let kind = if task.bytes() == 64 {
            let (subscribers, lossless) = match task {
                Task::FanOut { subscribers, .. } => (subscribers, false),
                _ => (1, matches!(task, Task::OneWay { .. })),
            };
            let mut out = None;
            if sends {
                let service = small_service(&node, mine, subscribers, lossless)?;
                let builder = service.publisher_builder().set_backpressure_handler(keep_trying);
                out = Some((builder.create().map_err(rival)?, service));
            }
            let mut back = None;
            if receives {
                let service = small_service(&node, theirs, subscribers, lossless)?;
                back = Some((service.subscriber_builder().create().map_err(rival)?, service));
            }
            Kind::Small(out, back)
        } else {
            let mut out = None;
            if sends {
                let service = large_service(&node, mine, task)?;
                let builder = service
                    .publisher_builder()
                    .initial_max_slice_len(task.bytes())
                    .set_backpressure_handler(keep_trying);
                out = Some((builder.create().map_err(rival)?, service));
            }
            let mut back = None;
            if receives {
                let service = large_service(&node, theirs, task)?;
                back = Some((service.subscriber_builder().create().map_err(rival)?, service));
            }
            Kind::Large(out, back)
        };
        let bells = matches!(task, Task::RoundTrip { asleep: true, .. })
            .then(|| {
                let event = |name: &str| {
                    let builder = node.service_builder(&service_name(&format!("{name}-bell"))?);
                    builder.event().max_notifiers(1).max_listeners(1).open_or_create().map_err(rival)
                };
                let notifier = event(mine)?.notifier_builder().create().map_err(rival)?;
                let listener = event(theirs)?.listener_builder().create().map_err(rival)?;
                Ok::<_, Failure>((notifier, listener))
            })
            .transpose()?;
        Ok(Ends { kind, bells, _node: node })
    }

    fn meet(&self, subscribers: usize) -> Result<()> {
        nap_until(
            || match &self.kind {
                Kind::Small(out, back) => {
                    out.as_ref()
                        .is_none_or(|(_, out)| out.dynamic_config().number_of_subscribers() == subscribers)
                        && back
                            .as_ref()
                            .is_none_or(|(_, back)| back.dynamic_config().number_of_publishers() == 1)
                }
                Kind::Large(out, back) => {
                    out.as_ref()
                        .is_none_or(|(_, out)| out.dynamic_config().number_of_subscribers() == subscribers)
                        && back
                            .as_ref()
                            .is_none_or(|(_, back)| back.dynamic_config().number_of_publishers() == 1)
                }
            },
            "the other end",
        )
    }

    #[inline(always)]
    fn ring(&self) -> Result<()> {
        if let Some((notifier, _)) = &self.bells {
            notifier.notify().map_err(rival)?;
        }
        Ok(())
    }
}

#[inline(always)]
fn next<T>(
    bells: Option<&(Notifier<ipc::Service>, Listener<ipc::Service>)>,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let Some((_, listener)) = bells else { return spin_for(look, "a message") };
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        let mut rung = 0;
        listener.timed_wait(|_| rung += 1, Duration::from_secs(5)).map_err(rival)?;
        if rung == 0 {
            return Err(Failure::Silent { what: "a notification", waited_s: 5 });
        }
    }
}

impl Link for Ends {
    #[inline(always)]
    fn send_small(&mut self, message: Small) -> Result<()> {
        let Kind::Small(Some((publisher, _)), _) = &self.kind else {
            return Err(Failure::NotOffered("this end does not publish small messages"));
        };
        publish(publisher, message)?;
        self.ring()
    }

    #[inline(always)]
    fn receive_small(&mut self) -> Result<Seen> {
        let Kind::Small(_, Some((subscriber, _))) = &self.kind else {
            return Err(Failure::NotOffered("this end does not receive small messages"));
        };
        next(self.bells.as_ref(), || Ok(subscriber.receive().map_err(rival)?.map(|sample| seen(&sample))))
    }

    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let Kind::Large(Some((publisher, _)), _) = &self.kind else {
            return Err(Failure::NotOffered("this end does not publish bytes"));
        };
        let mut sample = publisher.loan_slice_uninit(bytes).map_err(rival)?;
        fill(initialised(sample.payload_mut()));
        // SAFETY: initialised: shared memory comes zeroed from the kernel, and what was written since are
        // bytes.
        unsafe { sample.assume_init() }.send().map_err(rival)?;
        Ok(())
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let Kind::Large(_, Some((subscriber, _))) = &self.kind else {
            return Err(Failure::NotOffered("this end does not receive bytes"));
        };
        let sample = next(self.bells.as_ref(), || subscriber.receive().map_err(rival))?;
        Ok(read(&sample))
    }
}

/// The bytes of a loan. Written once by the kernel, so initialised, whatever the type says.
#[inline(always)]
fn initialised(bytes: &mut [MaybeUninit<u8>]) -> &mut [u8] {
    let (start, length) = (bytes.as_mut_ptr().cast::<u8>(), bytes.len());
    // SAFETY: in bounds, aligned, alive and exclusive as `bytes` itself; initialised: see above.
    unsafe { std::slice::from_raw_parts_mut(start, length) }
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<Iceoryx2>()])
}
