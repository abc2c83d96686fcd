//! The two subscriber processes of the demo, and the one that hosts the root.
//!
//! `exact` asks for two services by name, each with its type: `machine/cpu` (reliable) and `frames/screen`.
//! `wildcard` asks for `**`, whatever the types, and learns them from the schemas that come with the
//! services.
//!
//! Both check every message where it lies, sample the time, and report what they heard ten times a second.

use std::time::Duration;

use hivemind::{ConnectionStatus, DynamicSubscriber, HiveName, Message, Subscriber};
use hivemind_runtime::root::{self, ServeOptions, StopHandle};
use hivemind_runtime::runtime_dir::RuntimeDir;

use super::accounts::{accounts, end_of, lost_in};
use super::child::{Child, ChildError, REPORT_EVERY_MS};
use super::clock::monotonic_ns;
use super::frames;
use super::report::{Account, Report};
use super::samples::{
    ArchivedCpuSample, ArchivedDiskSample, ArchivedLoadSample, ArchivedMemorySample, ArchivedNetSample,
    CpuSample, Verified, Verify,
};
use super::tally::{Heard, Tally};

const REPORT_EVERY_NS: u64 = REPORT_EVERY_MS * 1_000_000;

/// What the loop below needs of a subscriber, typed or not.
trait Listen {
    /// The next message, counted into `tally`; `false` if none came in time.
    fn next(&mut self, wait: Duration, tally: &mut Tally) -> Result<bool, ChildError>;
    fn connections(&self) -> Vec<ConnectionStatus>;
}

struct Typed<T: Message + ?Sized> {
    subscriber: Subscriber<T>,
    verify: fn(&T::Read) -> Option<Verified>,
    /// Bytes of the message.
    measure: fn(&T::Read) -> usize,
}

impl<T: Message + ?Sized> Listen for Typed<T> {
    fn next(&mut self, wait: Duration, tally: &mut Tally) -> Result<bool, ChildError> {
        let Some(sample) = self.subscriber.recv_timeout(wait)? else { return Ok(false) };
        let heard = Heard {
            arrived_ns: monotonic_ns(),
            sequence: sample.sequence(),
            verified: (self.verify)(&sample),
            bytes: (self.measure)(&sample),
        };
        tally.count(end_of(sample.publisher()), sample.service().as_str(), heard);
        Ok(true)
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        self.subscriber.connections()
    }
}

impl Listen for DynamicSubscriber {
    fn next(&mut self, wait: Duration, tally: &mut Tally) -> Result<bool, ChildError> {
        let Some(sample) = self.recv_timeout(wait)? else { return Ok(false) };
        let arrived_ns = monotonic_ns();
        let origin = sample.origin();
        let (service, bytes) = (origin.service.as_str(), sample.bytes());
        let heard = Heard {
            arrived_ns,
            sequence: sample.sequence(),
            verified: verify(service, bytes),
            bytes: bytes.len(),
        };
        tally.count(end_of(origin.publisher), service, heard);
        Ok(true)
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        DynamicSubscriber::connections(self)
    }
}

/// Checks a message of any service of the demo.
fn verify(service: &str, bytes: &[u8]) -> Option<Verified> {
    fn check<A>(bytes: &[u8]) -> Option<Verified>
    where
        A: Verify
            + hivemind::rkyv::Portable
            + for<'a> hivemind::rkyv::bytecheck::CheckBytes<
                hivemind::rkyv::api::high::HighValidator<'a, hivemind::rkyv::rancor::Error>,
            >,
    {
        hivemind::rkyv::access::<A, hivemind::rkyv::rancor::Error>(bytes).ok().map(Verify::verify)
    }
    match service {
        frames::SERVICE => frames::verify(bytes),
        "machine/cpu" => check::<ArchivedCpuSample>(bytes),
        "machine/memory" => check::<ArchivedMemorySample>(bytes),
        "machine/load" => check::<ArchivedLoadSample>(bytes),
        disk if disk.starts_with("machine/disk/") => check::<ArchivedDiskSample>(bytes),
        net if net.starts_with("machine/net/") => check::<ArchivedNetSample>(bytes),
        _ => None,
    }
}

/// Listens until the parent says stop, then reads what is left; returns the final accounts. An error stops
/// the other threads of this process too.
fn listen(child: &Child, ears: impl Listen) -> Result<Vec<Account>, ChildError> {
    let result = listen_until_stopped(child, ears);
    if result.is_err() {
        child.stop();
    }
    result
}

fn listen_until_stopped(child: &Child, mut ears: impl Listen) -> Result<Vec<Account>, ChildError> {
    let mut tally = Tally::default();
    let mut next_report_ns = monotonic_ns() + REPORT_EVERY_NS;
    while !child.is_stopped() {
        ears.next(Duration::from_millis(REPORT_EVERY_MS), &mut tally)?;
        if monotonic_ns() >= next_report_ns {
            report(child, &ears, &mut tally)?;
            next_report_ns += REPORT_EVERY_NS;
        }
    }
    // The publishers stopped before this process was told to: what is there now is all there is.
    while ears.next(Duration::ZERO, &mut tally)? {}
    report(child, &ears, &mut tally)?;
    Ok(accounts(&ears.connections(), &tally))
}

fn report(child: &Child, ears: &impl Listen, tally: &mut Tally) -> Result<(), ChildError> {
    let connections = ears.connections();
    child.report(&Report::Heard { windows: tally.take_windows(|end| lost_in(&connections, end)) })
}

/// Runs the process that hosts the root: what `hm root` does. If a node hosts it, that hands over in order.
/// It reports nothing: the parent sees who hosts the root.
pub(crate) fn run_root(child: &Child) -> Result<(), ChildError> {
    let dir = RuntimeDir::at(child.dir(), &HiveName::default())?;
    let handle = StopHandle::new()?;
    std::thread::scope(|scope| {
        let stopper = handle.clone();
        // Ends with the parent, if not before; then so does the process.
        scope.spawn(move || {
            child.wait_for_leave();
            stopper.stop();
        });
        let served = root::serve_root(&dir, ServeOptions::default(), &handle);
        if served.is_err() {
            child.leave();
        }
        Ok(served?)
    })
}

/// Runs the subscriber by exact names, one thread for each.
pub(crate) fn run_exact(child: &Child) -> Result<(), ChildError> {
    let node = child.join("exact")?;
    let cpu = Typed::<CpuSample> {
        subscriber: node.subscriber("machine/cpu")?,
        verify: |cpu| Some(cpu.verify()),
        measure: |cpu| size_of_val(cpu) + size_of_val(cpu.cores.as_slice()),
    };
    let subscriber = node.subscriber(frames::SERVICE)?;
    let screen = Typed::<[u8]> { subscriber, verify: frames::verify, measure: <[u8]>::len };
    child.report(&Report::Joined)?;
    let accounts = std::thread::scope(|scope| {
        let screen = scope.spawn(|| listen(child, screen));
        let mut accounts = listen(child, cpu)?;
        // A thread that panicked has said why on standard error; the panic goes on here.
        accounts.extend(screen.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok::<_, ChildError>(accounts)
    })?;
    child.report(&Report::Drained { accounts })?;
    child.wait_for_leave();
    node.leave();
    Ok(())
}

/// Runs the subscriber by wildcard.
pub(crate) fn run_wildcard(child: &Child) -> Result<(), ChildError> {
    let node = child.join("wildcard")?;
    let everything = node.subscriber_dynamic("**")?;
    child.report(&Report::Joined)?;
    let accounts = listen(child, everything)?;
    child.report(&Report::Drained { accounts })?;
    child.wait_for_leave();
    node.leave();
    Ok(())
}
