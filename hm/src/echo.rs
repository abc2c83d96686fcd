//! `hm echo FILTER`: prints messages of any type as JSON, by the schemas that come with the services.
//!
//! One line for each message:
//!
//! ```text
//! {"service":"machine/load","node":"machine","publisher":"6b0c…:4","sequence":17,"message":{"one_minute":0.5,…}}
//! ```
//!
//! What was lost goes to standard error, so that standard output stays a stream of messages. Lines are
//! written when no further message waits, many at a time where messages come fast.

use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};

use hivemind::{DynamicSample, DynamicSubscriber, Filter, NodeError, RecvError, SubscriberError};

use crate::{Place, stop};
use hivemind_look::figures::Count;

/// What was lost is told at most so often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Written at once at most.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why nothing more is printed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EchoError {
    /// The hive could not be joined; the source says what to do.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The subscription was refused; the source says what to do.
    #[error(transparent)]
    Subscriber(#[from] SubscriberError),
    /// The signal handlers could not be installed. Raise the limit of descriptors.
    #[error("cannot listen for Ctrl-C: {0}; raise the limit of descriptors")]
    Signals(io::Error),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// Prints until `count` messages are printed, or until Ctrl-C.
pub(crate) fn run(place: &Place, filter: &Filter, count: Option<u64>) -> Result<(), EchoError> {
    let node = place.node(&format!("hm-echo-{}", std::process::id())).join()?;
    let mut subscriber = node.subscriber_dynamic(filter.as_str())?;
    let leaver = node.clone();
    stop::on_signal(move || leaver.leave()).map_err(EchoError::Signals)?;

    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut losses = Losses { told: 0, at: Instant::now() };
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(sample) = next(&mut subscriber, &mut out)? else { break };
        if print(&sample, &mut out)? {
            left -= 1;
        }
        drop(sample);
        losses.tell(&subscriber, false);
    }
    out.flush()?;
    losses.tell(&subscriber, true);
    node.leave();
    Ok(())
}

/// The next message; what was printed is written out before this waits. `None` once the node is leaving.
fn next(
    subscriber: &mut DynamicSubscriber,
    out: &mut impl Write,
) -> Result<Option<DynamicSample>, EchoError> {
    loop {
        match subscriber.try_recv() {
            Ok(Some(sample)) => return Ok(Some(sample)),
            Ok(None) => {}
            Err(error) => complain(&error),
        }
        out.flush()?;
        match subscriber.recv() {
            Ok(sample) => return Ok(sample),
            // The subscriber has detached from whoever was at fault, and goes on with the others.
            Err(error) => complain(&error),
        }
    }
}

fn complain(error: &RecvError) {
    eprintln!("hm: {error}");
}

/// Prints one line; false if the message does not fit its own schema.
fn print(sample: &DynamicSample, out: &mut impl Write) -> io::Result<bool> {
    let origin = sample.origin();
    match sample.to_json() {
        Ok(json) => {
            // Names hold no character that JSON would escape.
            let (service, node, publisher) = (&origin.service, &origin.node, &origin.publisher);
            let sequence = sample.sequence();
            writeln!(
                out,
                "{{\"service\":\"{service}\",\"node\":\"{node}\",\"publisher\":\"{publisher}\",\
                 \"sequence\":{sequence},\"message\":{json}}}"
            )?;
            Ok(true)
        }
        Err(error) => {
            eprintln!(
                "hm: message {} of {} is not what its schema says: {error}",
                sample.sequence(),
                origin.service
            );
            Ok(false)
        }
    }
}

/// What was lost, told when it grows.
struct Losses {
    told: u64,
    at: Instant,
}

impl Losses {
    fn tell(&mut self, subscriber: &DynamicSubscriber, last: bool) {
        let lost = subscriber.lost();
        if lost > self.told && (last || self.told == 0 || self.at.elapsed() >= TELL_EVERY) {
            eprintln!("hm: lost {} messages so far: they came faster than they were printed", Count(lost));
            (self.told, self.at) = (lost, Instant::now());
        }
    }
}
