//! Aeron IPC, through rusteron: an embedded media driver in the parent, exclusive publications, polling
//! subscribers.
//!
//! The driver's work for IPC is to create logs and to move the publisher's limit on; no message passes
//! through it. Its thread shares the parent's core, so it sleeps between its rounds, and the window is large
//! enough to last meanwhile.

use std::ffi::CStr;

use rivals_course::case::Task;
use rivals_course::contender::{Contender, Drain, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Part, Seen, Small, read};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::{PATIENCE, nap_until, spin_for};
use rusteron_client::{
    Aeron, AeronBufferClaim, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler,
    AeronHeader, AeronIdleStrategyKind, AeronSubscription, Handlers, IntoCString,
};
use rusteron_media_driver::{AeronDriver, AeronDriverContext, EmbeddedMediaDriver};

/// Messages up to this length are claimed and written in place; longer ones are offered in fragments and put
/// together.
const MTU: usize = 65_504;
const CLAIM_MOST: usize = MTU - 32;
/// Length of the three terms of each log.
const TERM: usize = 16 << 20;
/// The same, for a thousand services.
const SMALL_TERM: usize = 64 << 10;
/// How long the driver sleeps between its rounds.
const DRIVER_SLEEP: &CStr = c"1ms";
/// Fragments a poll, where the receiver takes all that is there.
const FRAGMENTS: usize = 256;

const PING: i32 = 1001;
const PONG: i32 = 1002;
/// Streams of the cold starts and of the services.
const MORE: i32 = 10_000;

struct AeronIpc;

/// Starts the driver, and gives its folder.
fn driver(run: &Run, term: usize) -> Result<(EmbeddedMediaDriver, String)> {
    let folder = run.room.join("aeron").to_string_lossy().into_owned();
    let context = AeronDriverContext::new().map_err(rival)?;
    let set = || {
        context.set_dir(&folder.as_str().into_c_string())?;
        context.set_dir_delete_on_start(true)?;
        context.set_dir_delete_on_shutdown(true)?;
        context.set_threading_mode(
            rusteron_media_driver::bindings::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED,
        )?;
        context.set_shared_idle_strategy_kind(rusteron_media_driver::AeronIdleStrategyKind::Sleeping)?;
        context.set_shared_idle_strategy_init_args(DRIVER_SLEEP)?;
        context.set_ipc_term_buffer_length(term)?;
        context.set_ipc_mtu_length(MTU)?;
        context.set_term_buffer_sparse_file(term != TERM)?;
        Ok::<_, rusteron_media_driver::AeronCError>(())
    };
    set().map_err(rival)?;
    Ok((AeronDriver::launch_embedded_guard(context, false), folder))
}

fn client(folder: &str) -> Result<Aeron> {
    let context = AeronContext::new().map_err(rival)?;
    context.set_dir(&folder.into_c_string()).map_err(rival)?;
    context
        .set_error_handler(Some(|code: i32, text: &str| eprintln!("aeron: {code}: {text}")))
        .map_err(rival)?;
    context.set_pre_touch_mapped_memory(true).map_err(rival)?;
    context.set_idle_strategy_kind(AeronIdleStrategyKind::Sleeping).map_err(rival)?;
    let aeron = Aeron::new(&context).map_err(rival)?;
    aeron.start().map_err(rival)?;
    Ok(aeron)
}

fn publication(aeron: &Aeron, stream: i32) -> Result<AeronExclusivePublication> {
    let adding = aeron.async_add_exclusive_publication(c"aeron:ipc", stream).map_err(rival)?;
    adding.poll_blocking(PATIENCE).map_err(rival)
}

fn subscription(aeron: &Aeron, stream: i32) -> Result<AeronSubscription> {
    let adding =
        aeron.async_add_subscription(c"aeron:ipc", stream, Handlers::NONE, Handlers::NONE).map_err(rival)?;
    adding.poll_blocking(PATIENCE).map_err(rival)
}

impl Contender for AeronIpc {
    const NAME: &'static str = "aeron";
    type Link = Ends;

    fn version() -> String {
        "rusteron 0.2.16".to_owned()
    }

    fn setup() -> &'static str {
        "exclusive publications over aeron:ipc, written in place with try_claim up to 64 KiB, offered in fragments and put \
         together beyond; MTU 65,504, terms of 16 MiB, touched beforehand; busy polling, 256 fragments a poll one way; the \
         embedded media driver in shared mode on the parent's core, sleeping 1 ms between its rounds"
    }

    fn waits(_: Task) -> Waits {
        Waits::Spins
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::RoundTrip { asleep: true, .. } => Some("no blocking receive: subscribers poll"),
            Task::OneWay { batched: true, .. } => Some("one message a claim"),
            Task::FanOut { draining: false, .. } => Some("its sender waits for subscribers that do not read"),
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let (driver, folder) = driver(run, TERM)?;
        let aeron = spin_for(|| Ok(client(&folder).ok()), "the media driver")?;
        let out = publication(&aeron, PING)?;
        let back = run.task.both_ways().then(|| subscription(&aeron, PONG)).transpose()?;
        launch.launch(&folder)?;
        let ends = Ends::new(Some(out), back, aeron, Some(driver), run.task)?;
        ends.meet()?;
        Ok(ends)
    }

    fn peer(run: &Run, offer: &str) -> Result<Ends> {
        let aeron = client(offer)?;
        let back = subscription(&aeron, PING)?;
        let out = run.task.both_ways().then(|| publication(&aeron, PONG)).transpose()?;
        let ends = Ends::new(out, Some(back), aeron, None, run.task)?;
        ends.meet()?;
        Ok(ends)
    }

    fn audience(_: &Run, offer: &str, subscribers: usize) -> Result<Drain> {
        let aeron = client(offer)?;
        let mut audience = Vec::new();
        for _ in 0..subscribers {
            audience.push(subscription(&aeron, PING)?);
        }
        for subscription in &audience {
            nap_until(|| subscription.is_connected(), "the publication")?;
        }
        Ok(Box::new(move |take| {
            let _alive = &aeron;
            for (index, subscription) in audience.iter().enumerate() {
                subscription
                    .poll_fn(|bytes, _| take(index, read(bytes, Part::Small)), FRAGMENTS)
                    .map_err(rival)?;
            }
            Ok(())
        }))
    }

    fn host(run: &Run) -> Result<(String, Keep)> {
        let (driver, folder) = driver(run, SMALL_TERM)?;
        // Up when a client can connect.
        let client = spin_for(|| Ok(client(&folder).ok()), "the media driver")?;
        Ok((folder, Box::new((client, driver))))
    }

    fn cold_start(run: &Run, offer: &str, round: u64) -> Result<Keep> {
        let aeron = client(offer)?;
        let out = publication(&aeron, MORE + round as i32)?;
        let back = subscription(&aeron, MORE + round as i32)?;
        let mut ends = Ends::new(Some(out), Some(back), aeron, None, run.task)?;
        ends.send_small(Small::numbered(round, 0))?;
        let found = ends.receive_small()?.number;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new(ends))
    }

    fn publish_services(run: &Run, launch: &mut dyn Launch, count: usize) -> Result<Keep> {
        let (driver, folder) = driver(run, SMALL_TERM)?;
        let aeron = spin_for(|| Ok(client(&folder).ok()), "the media driver")?;
        launch.launch(&folder)?;
        let adding =
            (0..count as i32).map(|index| aeron.async_add_exclusive_publication(c"aeron:ipc", MORE + index));
        let adding = adding.collect::<std::result::Result<Vec<_>, _>>().map_err(rival)?;
        let mut publications = Vec::with_capacity(count);
        for (added, number) in adding.iter().zip(1..) {
            let publication = added.poll_blocking(PATIENCE).map_err(rival)?;
            nap_until(|| publication.is_connected(), "a subscription")?;
            claim(&publication, &AeronBufferClaim::default(), 64, |place| {
                rivals_course::message::fill(place, Part::Small, number, 0)
            })?;
            publications.push(publication);
        }
        Ok(Box::new((publications, aeron, driver)))
    }

    fn subscribe_services(_: &Run, offer: &str, count: usize, take: &mut dyn FnMut(Seen)) -> Result<Keep> {
        let aeron = client(offer)?;
        let adding = (0..count as i32).map(|index| {
            aeron.async_add_subscription(c"aeron:ipc", MORE + index, Handlers::NONE, Handlers::NONE)
        });
        let adding = adding.collect::<std::result::Result<Vec<_>, _>>().map_err(rival)?;
        let mut subscriptions = Vec::with_capacity(count);
        for added in &adding {
            subscriptions.push(added.poll_blocking(PATIENCE).map_err(rival)?);
        }
        for subscription in &subscriptions {
            let mut seen = None;
            nap_until(
                || {
                    let polled = subscription.poll_fn(|bytes, _| seen = Some(read(bytes, Part::Small)), 1);
                    polled.is_ok() && seen.is_some()
                },
                "a service's message",
            )?;
            if let Some(seen) = seen {
                take(seen);
            }
        }
        Ok(Box::new((subscriptions, aeron)))
    }
}

/// Claims room, lets `fill` write into it, commits. Tries again at once while the log is full.
#[inline(always)]
fn claim(
    publication: &AeronExclusivePublication,
    claim: &AeronBufferClaim,
    bytes: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Result<()> {
    spin_for(
        || match publication.try_claim(bytes, claim) {
            Ok(_) => Ok(Some(())),
            Err(error) if error.is_retryable() => Ok(None),
            Err(error) => Err(rival(error)),
        },
        "room in the log",
    )?;
    fill(claim.data());
    claim.commit().map_err(rival)?;
    Ok(())
}

/// Both ends of one process; drop order: ends, client, driver.
struct Ends {
    out: Option<AeronExclusivePublication>,
    back: Option<AeronSubscription>,
    assembler: AeronFragmentClosureAssembler,
    claim: AeronBufferClaim,
    /// Messages are longer than a fragment.
    fragmented: bool,
    buffer: Vec<u8>,
    _aeron: Aeron,
    _driver: Option<EmbeddedMediaDriver>,
}

impl Ends {
    fn new(
        out: Option<AeronExclusivePublication>,
        back: Option<AeronSubscription>,
        aeron: Aeron,
        driver: Option<EmbeddedMediaDriver>,
        task: Task,
    ) -> Result<Ends> {
        let assembler = AeronFragmentClosureAssembler::new().map_err(rival)?;
        let fragmented = task.bytes() > CLAIM_MOST;
        let (claim, buffer) = (AeronBufferClaim::default(), vec![0; task.bytes()]);
        Ok(Ends { out, back, assembler, claim, fragmented, buffer, _aeron: aeron, _driver: driver })
    }

    fn meet(&self) -> Result<()> {
        nap_until(
            || {
                self.out.as_ref().is_none_or(AeronExclusivePublication::is_connected)
                    && self.back.as_ref().is_none_or(AeronSubscription::is_connected)
            },
            "the other end",
        )
    }
}

/// What a poll of one fragment may complete: one message.
struct One<F, R> {
    read: Option<F>,
    found: Option<R>,
}

fn on_one<F: FnOnce(&[u8]) -> R, R>(one: &mut One<F, R>, bytes: &[u8], _: AeronHeader) {
    one.found = one.read.take().map(|read| read(bytes));
}

/// What a poll of many fragments may complete: many messages.
struct Each<'read, F> {
    read: &'read mut F,
    outcome: Result<()>,
    any: bool,
}

fn on_each<F: FnMut(&[u8]) -> Result<()>>(each: &mut Each<'_, F>, bytes: &[u8], _: AeronHeader) {
    each.any = true;
    if each.outcome.is_ok() {
        each.outcome = (each.read)(bytes);
    }
}

impl Link for Ends {
    const TAKES_ALL: bool = true;

    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let out = self.out.as_ref().ok_or(Failure::NotOffered("this end does not publish"))?;
        if bytes <= CLAIM_MOST {
            return claim(out, &self.claim, bytes, fill);
        }
        let buffer = &mut self.buffer[..bytes];
        fill(buffer);
        spin_for(
            || match out.offer(buffer) {
                Ok(_) => Ok(Some(())),
                Err(error) if error.is_retryable() => Ok(None),
                Err(error) => Err(rival(error)),
            },
            "room in the log",
        )
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let back = self.back.as_ref().ok_or(Failure::NotOffered("this end does not receive"))?;
        if !self.fragmented {
            let (mut read, mut found) = (Some(read), None);
            return spin_for(
                || {
                    back.poll_fn(|bytes, _| found = read.take().map(|read| read(bytes)), 1).map_err(rival)?;
                    Ok(found.take())
                },
                "a message",
            );
        }
        let mut one = One { read: Some(read), found: None };
        let assembler = &mut self.assembler;
        spin_for(
            || {
                assembler.poll(back, &mut one, on_one, 1).map_err(rival)?;
                Ok(one.found.take())
            },
            "a message",
        )
    }

    #[inline(always)]
    fn receive_each(&mut self, read: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let back = self.back.as_ref().ok_or(Failure::NotOffered("this end does not receive"))?;
        let mut each = Each { read, outcome: Ok(()), any: false };
        if !self.fragmented {
            spin_for(
                || {
                    let polled = back.poll_fn(|bytes, header| on_each(&mut each, bytes, header), FRAGMENTS);
                    Ok((polled.map_err(rival)? > 0).then_some(()))
                },
                "a message",
            )?;
            return each.outcome;
        }
        let assembler = &mut self.assembler;
        spin_for(
            || {
                assembler.poll(back, &mut each, on_each, FRAGMENTS).map_err(rival)?;
                Ok(each.any.then_some(()))
            },
            "a message",
        )?;
        each.outcome
    }
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<AeronIpc>()])
}
