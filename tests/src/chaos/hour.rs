//! Churn at full load, for as long as is given: what the long-lived processes have must not grow.
//!
//! ```text
//! host (root)   speaker ──reliable──▶ listener      for the whole case; sampled after each round
//! visitors: join, publish, subscribe, hear, hold ✗ SIGKILL     a new one each round
//! ```
//! A straight line is laid through the samples of each figure after the warm-up. What grows is what the line
//! says over the whole span, and it fails beyond a bound: one descriptor or thread in `ROUNDS_FOR_ONE`
//! rounds, `BYTES_PER_ROUND` of memory of its own each round; neither can be seen in fewer than `SAMPLES_MIN`
//! samples.

use super::report::Row;
use super::root::all_up_to;
use super::subscriptions::enter;
use super::{Rounds, actors};
use crate::hive::{Actor, reliable};
use crate::order::Kind;

/// The first part of the samples, which is not looked at: one in so many.
const WARM_UP_SHARE: usize = 4;
/// One more descriptor or thread in fewer rounds than this is growth.
const ROUNDS_FOR_ONE: f64 = 50.0;
/// More bytes than this with each round are growth. A mapping or a table entry that stays is more.
const BYTES_PER_ROUND: f64 = 512.0;
/// The least that a line can be laid through.
const SAMPLES_MIN: usize = 40;
/// What an allocator may take at once and keep; a line through few samples must not take that for growth.
const BYTES_ALLOWED: f64 = 1_048_576.0;

/// Runs the case.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    let mut row = Row::new("hour");
    let hive = actors(rounds);
    let host = hive.actor("host");
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let listener = hive.actor("listener");
    let ear = listener.subscribe("entries", Kind::Typed);
    ear.await_publishers(1);
    ear.collect();
    publisher.stream(None, 0);
    let long_lived = [&host, &speaker, &listener];
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for round in 0.. {
        if !rounds.goes_on(round) {
            break;
        }
        let visitor = hive.actor("visitor");
        let guest = visitor.publish(reliable("guest", Kind::Typed));
        let heard = visitor.subscribe("entries", Kind::Typed);
        let other = listener.subscribe("guest", Kind::Typed);
        heard.await_publishers(1);
        guest.await_subscribers(1);
        guest.send(10);
        heard.hold(2);
        visitor.kill();
        other.drop_it();
        for (samples, actor) in samples.iter_mut().zip(long_lived) {
            samples.push(Sample::of(actor));
        }
        row.reached += 1;
    }
    let sent = publisher.stop();
    let tally = all_up_to(&ear, sent);
    enter(&mut row.faults, &tally, sent, true);
    row.messages = tally.messages();
    for (samples, actor) in samples.iter().zip(long_lived) {
        judge(&mut row, actor.name(), samples);
    }
    row
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Sample {
    bytes: f64,
    descriptors: f64,
    threads: f64,
}

impl Sample {
    fn bytes(&self) -> f64 {
        self.bytes
    }

    fn descriptors(&self) -> f64 {
        self.descriptors
    }

    fn threads(&self) -> f64 {
        self.threads
    }

    fn of(actor: &Actor) -> Sample {
        let pid = actor.pid();
        let count = |what| std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count) as f64;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        // Its own: shared memory counts with whoever touched it last.
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: f64 =
            own.and_then(|line| line.trim().split(' ').next()?.parse().ok()).expect("the kernel says so");
        Sample { bytes: kib * 1024.0, descriptors: count("fd"), threads: count("task") }
    }
}

fn judge(row: &mut Row, name: &str, samples: &[Sample]) {
    let settled = &samples[samples.len() / WARM_UP_SHARE..];
    let figures = [
        ("bytes", Sample::bytes as fn(&Sample) -> f64, BYTES_PER_ROUND, BYTES_ALLOWED),
        ("descriptors", Sample::descriptors, 1.0 / ROUNDS_FOR_ONE, 1.0),
        ("threads", Sample::threads, 1.0 / ROUNDS_FOR_ONE, 1.0),
    ];
    for (what, figure, bound, allowed) in figures {
        let values: Vec<_> = settled.iter().map(figure).collect();
        let slope = slope(&values);
        let growth = slope * values.len() as f64;
        let last = values.last().copied().unwrap_or(0.0);
        row.notes.push(format!("{name}: {last} {what}, {slope:+.4} a round over {} rounds", values.len()));
        if values.len() >= SAMPLES_MIN && slope > bound && growth > allowed {
            row.faults.fail(format!("{name}: {growth:.1} more {what} over {} rounds", values.len()));
        }
    }
    if settled.len() < SAMPLES_MIN {
        row.notes.push(format!("{name}: fewer than {SAMPLES_MIN} samples, so growth was not judged"));
    }
}

/// Of the straight line with the least squares.
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let (mean_x, mean_y) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count.max(1.0));
    let (mut above, mut below) = (0.0, 0.0);
    for (place, value) in values.iter().enumerate() {
        let x = place as f64 - mean_x;
        above += x * (value - mean_y);
        below += x * x;
    }
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(figure: impl Fn(usize) -> Sample) -> u64 {
        let samples: Vec<_> = (0..400).map(figure).collect();
        let mut row = Row::new("hour");
        judge(&mut row, "somebody", &samples);
        row.faults.total()
    }

    const FLAT: Sample = Sample { bytes: 5e6, descriptors: 20.0, threads: 3.0 };

    #[test]
    fn what_stays_and_what_trembles_has_not_grown() {
        assert_eq!(judged(|_| FLAT), 0);
        assert_eq!(judged(|at| Sample { descriptors: 20.0 + (at % 2) as f64, ..FLAT }), 0);
    }

    #[test]
    fn a_descriptor_a_thread_or_memory_that_stays_each_round_is_growth() {
        assert_eq!(judged(|at| Sample { descriptors: 20.0 + at as f64, ..FLAT }), 1);
        assert_eq!(judged(|at| Sample { threads: 3.0 + (at / 10) as f64, ..FLAT }), 1);
        assert_eq!(judged(|at| Sample { bytes: 5e6 + at as f64 * 4096.0, ..FLAT }), 1);
    }
}
