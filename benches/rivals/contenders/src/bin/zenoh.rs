//! zenoh between two peers: over a Unix socket with payloads in its shared memory, and without; and over TCP,
//! as between hosts.
//!
//! Its runtime's threads share the cores of the two processes, as everything here does, and an end that spun
//! would take the core from them. So all ends block.

use std::path::PathBuf;

use rivals_course::case::Task;
use rivals_course::contender::{Contender, Drain, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Part, SMALL, Seen, fill, read};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::nap_until;
use zenoh::handlers::{FifoChannel, FifoChannelHandler, RingChannel};
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::sample::Sample;
use zenoh::shm::{BlockOn, GarbageCollect, PosixShmProviderBackend, ShmProvider, ShmProviderBuilder};
use zenoh::{Config, Session, Wait};

/// Messages that may wait at a subscriber, where nothing may be lost.
const QUEUE: usize = 1024;
/// Messages that a subscriber of the fan-out keeps.
const RECENT: usize = 64;
/// Messages that the pool of shared memory holds, and its least size.
const POOL_MESSAGES: usize = 16;
const POOL_LEAST: usize = 4 << 20;

/// Its shared memory, a Unix socket, or TCP.
const SHARED: u8 = 0;
const UNIX: u8 = 1;
const TCP: u8 = 2;

/// zenoh, one of these ways.
struct Zenoh<const WAY: u8>;

/// A port that nobody has, for both processes of a run.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where the sessions of a run meet; the parent decides.
fn place<const WAY: u8>(run: &Run) -> Result<String> {
    if WAY == TCP {
        return Ok(format!("tcp/127.0.0.1:{}", free_port()?));
    }
    Ok(format!("unixsock-stream/{}", run.room.join("socket").display()))
}

fn session(place: &str, role: &str, shared: bool) -> Result<Session> {
    let socket = format!("[\"{place}\"]");
    let endpoint = |mine: &str| if role == mine { socket.clone() } else { "[]".to_owned() };
    let mut config = Config::default();
    for (key, value) in [
        ("mode", "\"peer\"".to_owned()),
        ("listen/endpoints", endpoint("listen")),
        ("connect/endpoints", endpoint("connect")),
        ("scouting/multicast/enabled", "false".to_owned()),
        ("scouting/gossip/enabled", "false".to_owned()),
        ("transport/shared_memory/enabled", shared.to_string()),
        ("transport/shared_memory/mode", "\"init\"".to_owned()),
    ] {
        config.insert_json5(key, &value).map_err(rival)?;
    }
    zenoh::open(config).wait().map_err(rival)
}

fn publisher(session: &Session, key: &str, task: Task) -> Result<Publisher<'static>> {
    let lossy = matches!(task, Task::FanOut { .. });
    session
        .declare_publisher(key.to_owned())
        .congestion_control(if lossy { CongestionControl::Drop } else { CongestionControl::Block })
        // Express sends at once; without it, messages that follow each other closely share a batch.
        .express(task.both_ways())
        .wait()
        .map_err(rival)
}

fn subscriber(session: &Session, key: &str) -> Result<Subscriber<FifoChannelHandler<Sample>>> {
    session.declare_subscriber(key.to_owned()).with(FifoChannel::new(QUEUE)).wait().map_err(rival)
}

fn seen(sample: &Sample) -> Seen {
    read(&sample.payload().to_bytes(), Part::Small)
}

fn matched(publisher: &Publisher<'_>) -> Result<()> {
    nap_until(|| publisher.matching_status().wait().is_ok_and(|status| status.matching()), "a subscriber")
}

impl<const WAY: u8> Contender for Zenoh<WAY> {
    const NAME: &'static str = match WAY {
        SHARED => "zenoh shm",
        UNIX => "zenoh plain",
        _ => "zenoh tcp",
    };
    type Link = Ends;

    fn version() -> String {
        "1.10.2".to_owned()
    }

    fn setup() -> &'static str {
        match WAY {
            SHARED => {
                "two peers over a Unix socket, no scouting; payloads allocated in its shared memory, filled and read in place; \
             congestion control Block (Drop in the fan-out), express in round trips, batched one way; blocking receive (a \
             spinning end would starve its runtime); FIFO of 1,024, ring of 64 in the fan-out"
            }
            UNIX => "the same without shared memory: payloads travel through the socket",
            _ => "the same over TCP on loopback, without encryption",
        }
    }

    fn waits(_: Task) -> Waits {
        Waits::Blocks
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::OneWay { batched: true, .. } => Some("it batches by itself, one message a call"),
            Task::FanOut { .. } | Task::ColdStart | Task::Services { .. } if WAY == TCP => {
                Some("as over the Unix socket; TCP stands here for what crosses between hosts")
            }
            _ => None,
        }
    }

    fn traces(_: &Run) -> Vec<PathBuf> {
        vec![PathBuf::from("/dev/shm/*.zenoh")]
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let place = place::<WAY>(run)?;
        let session = session(&place, "listen", WAY == SHARED)?;
        let out = publisher(&session, "race/ping", run.task)?;
        let back = run.task.both_ways().then(|| subscriber(&session, "race/pong")).transpose()?;
        launch.launch(&place)?;
        let ends = Ends::new(Some(out), back, session, run.task, WAY == SHARED)?;
        ends.meet()?;
        Ok(ends)
    }

    fn peer(run: &Run, place: &str) -> Result<Ends> {
        let session = session(place, "connect", WAY == SHARED)?;
        let back = subscriber(&session, "race/ping")?;
        let out = run.task.both_ways().then(|| publisher(&session, "race/pong", run.task)).transpose()?;
        let ends = Ends::new(out, Some(back), session, run.task, WAY == SHARED)?;
        ends.meet()?;
        Ok(ends)
    }

    fn audience(_: &Run, place: &str, subscribers: usize) -> Result<Drain> {
        let session = session(place, "connect", WAY == SHARED)?;
        let mut audience = Vec::new();
        for _ in 0..subscribers {
            let subscriber = session.declare_subscriber("race/ping").with(RingChannel::new(RECENT));
            audience.push(subscriber.wait().map_err(rival)?);
        }
        Ok(Box::new(move |take| {
            let _alive = &session;
            let mut any = false;
            for (index, subscriber) in audience.iter().enumerate() {
                while let Some(sample) = subscriber.try_recv().map_err(rival)? {
                    any = true;
                    take(index, seen(&sample));
                }
            }
            if !any {
                // The core belongs to the runtime that fills the rings.
                std::thread::yield_now();
            }
            Ok(())
        }))
    }

    /// The session that a newcomer connects to.
    fn host(run: &Run) -> Result<(String, Keep)> {
        let place = place::<WAY>(run)?;
        let session = session(&place, "listen", WAY == SHARED)?;
        Ok((place, Box::new(session)))
    }

    fn cold_start(run: &Run, place: &str, round: u64) -> Result<Keep> {
        let session = session(place, "connect", WAY == SHARED)?;
        let key = format!("race/cold-{round}");
        let back = subscriber(&session, &key)?;
        let out = publisher(&session, &key, run.task)?;
        let mut ends = Ends::new(Some(out), Some(back), session, run.task, WAY == SHARED)?;
        ends.send_numbered(SMALL, Part::Small, round, 0)?;
        let found = ends.receive_small()?.number;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new(ends))
    }

    fn publish_services(run: &Run, launch: &mut dyn Launch, count: usize) -> Result<Keep> {
        let place = place::<WAY>(run)?;
        let session = session(&place, "listen", WAY == SHARED)?;
        launch.launch(&place)?;
        let mut publishers = Vec::with_capacity(count);
        for index in 0..count {
            publishers.push(publisher(&session, &format!("race/service-{index}"), run.task)?);
        }
        let pool = pool(WAY == SHARED, SMALL)?;
        for (publisher, number) in publishers.iter().zip(1..) {
            matched(publisher)?;
            put(publisher, pool.as_ref(), SMALL, |place| fill(place, Part::Small, number, 0))?;
        }
        Ok(Box::new((publishers, pool, session)))
    }

    fn subscribe_services(_: &Run, place: &str, count: usize, take: &mut dyn FnMut(Seen)) -> Result<Keep> {
        let session = session(place, "connect", WAY == SHARED)?;
        let mut subscribers = Vec::with_capacity(count);
        for index in 0..count {
            subscribers.push(subscriber(&session, &format!("race/service-{index}"))?);
        }
        for subscriber in &subscribers {
            take(seen(&subscriber.recv().map_err(rival)?));
        }
        Ok(Box::new((subscribers, session)))
    }
}

type Pool = ShmProvider<PosixShmProviderBackend>;

fn pool(shared: bool, bytes: usize) -> Result<Option<Pool>> {
    if !shared {
        return Ok(None);
    }
    let size = (POOL_MESSAGES * bytes).max(POOL_LEAST);
    let backend =
        PosixShmProviderBackend::builder(size).wait().map_err(|error| rival(format!("{error:?}")))?;
    Ok(Some(ShmProviderBuilder::backend(backend).wait()))
}

/// Publishes one message: in shared memory if there is a pool, or in a vector, which zenoh takes over.
#[inline(always)]
fn put(
    publisher: &Publisher<'_>,
    pool: Option<&Pool>,
    bytes: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Result<()> {
    if let Some(pool) = pool {
        let place = pool.alloc(bytes).with_policy::<BlockOn<GarbageCollect>>().wait();
        let mut place = place.map_err(|error| rival(format!("{error:?}")))?;
        fill(&mut place);
        return publisher.put(place).wait().map_err(rival);
    }
    let mut place = vec![0; bytes];
    fill(&mut place);
    publisher.put(place).wait().map_err(rival)
}

/// Both ends of one process; drop order: ends before the session.
struct Ends {
    out: Option<Publisher<'static>>,
    back: Option<Subscriber<FifoChannelHandler<Sample>>>,
    pool: Option<Pool>,
    _session: Session,
}

impl Ends {
    fn new(
        out: Option<Publisher<'static>>,
        back: Option<Subscriber<FifoChannelHandler<Sample>>>,
        session: Session,
        task: Task,
        shared: bool,
    ) -> Result<Ends> {
        let pool = pool(shared && out.is_some(), task.bytes())?;
        Ok(Ends { out, back, pool, _session: session })
    }

    fn meet(&self) -> Result<()> {
        self.out.as_ref().map_or(Ok(()), matched)
    }
}

impl Link for Ends {
    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let out = self.out.as_ref().ok_or(Failure::NotOffered("this end does not publish"))?;
        put(out, self.pool.as_ref(), bytes, fill)
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let back = self.back.as_ref().ok_or(Failure::NotOffered("this end does not receive"))?;
        let sample = back.recv().map_err(rival)?;
        Ok(read(&sample.payload().to_bytes()))
    }
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<Zenoh<SHARED>>(), Entry::of::<Zenoh<UNIX>>(), Entry::of::<Zenoh<TCP>>()])
}
