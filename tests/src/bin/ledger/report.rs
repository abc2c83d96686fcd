//! What was counted, compared and printed.

use crate::publish::Published;
use crate::subscribe::Received;
use crate::{Delivery, Form, Job, Pace};
use serde::Serialize;
use std::fmt::{Display, Formatter, Result};

/// All runs.
#[derive(Debug, Serialize)]
pub(crate) struct Books {
    pub(crate) seed: u64,
    pub(crate) messages: u64,
    /// Whether everything held in all runs.
    pub(crate) holds: bool,
    pub(crate) seconds: f64,
    pub(crate) runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) service: Delivery,
    pub(crate) form: Form,
    pub(crate) published: Published,
    pub(crate) pairs: Vec<Pair>,
    /// With the start of the processes and their end.
    pub(crate) seconds: f64,
    /// What did not hold.
    pub(crate) faults: Vec<String>,
}

/// The publisher with one subscriber.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) number: usize,
    pub(crate) pace: Pace,
    pub(crate) received: Received,
}

impl Pair {
    /// Compares what was published with what arrived, and what the SDK says with both.
    pub(crate) fn compare(&self, job: &Job, published: u64, faults: &mut Vec<String>) {
        let Received { account, sdk, connections, errors } = &self.received;
        let mut fault = |text: String| faults.push(format!("subscriber {}: {text}", self.number));
        for text in errors.iter().chain(&account.faults) {
            fault(text.clone());
        }
        if account.torn + account.disordered > 0 {
            fault(format!("{} torn, {} repeated or out of order", account.torn, account.disordered));
        }
        if account.received + account.missed != published {
            fault(format!(
                "{} received + {} lost is not {published} published",
                account.received, account.missed
            ));
        }
        if *sdk != (account.received, account.missed) {
            fault(format!(
                "the SDK counts {} received, {} lost; the messages {} and {}",
                sdk.0, sdk.1, account.received, account.missed
            ));
        }
        if *connections != [(0, sdk.0, sdk.1, true)] {
            fault(format!("not one connection from the first message to the end: {connections:?}"));
        }
        if job.delivery == Delivery::Reliable && account.missed > 0 {
            fault(format!("{} messages of a reliable service are lost", account.missed));
        }
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Published { messages, bytes, waits, seconds } = &self.published;
        let form = match self.form {
            Form::Typed => "typed messages",
            Form::Bytes => "plain bytes",
        };
        let service = match self.service {
            Delivery::Lossy => "lossy",
            Delivery::Reliable => "reliable",
        };
        let rate = *messages as f64 / seconds.max(1e-9);
        let mib = *bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "\n{service} service, {form}: {messages} messages, {mib:.0} MiB of payload in {seconds:.2} s ({rate:.0}/s)"
        )?;
        if self.service == Delivery::Reliable {
            writeln!(f, "the publisher had to wait for room {waits} times")?;
        }
        writeln!(
            f,
            "  subscriber  pace        received        lost         sum    MiB      torn  disordered"
        )?;
        for Pair { number, pace, received } in &self.pairs {
            let account = &received.account;
            let pace = match pace {
                Pace::Fast => "fast",
                Pace::Working => "working",
                Pace::Sleeping => "sleeping",
            };
            let mib = account.bytes >> 20;
            writeln!(
                f,
                "  {number:>10}  {pace:<8} {:>11} {:>11} {:>11} {mib:>6} {:>9} {:>11}",
                account.received,
                account.missed,
                account.received + account.missed,
                account.torn,
                account.disordered,
            )?;
        }
        for fault in &self.faults {
            writeln!(f, "  FAULT: {fault}")?;
        }
        writeln!(f, "  {:.1} s with the start and the end of all processes", self.seconds)
    }
}

impl Display for Books {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let pairs: usize = self.runs.iter().map(|run| run.pairs.len()).sum();
        let faults: usize = self.runs.iter().map(|run| run.faults.len()).sum();
        let verdict =
            if self.holds { "received + lost = published for every pair" } else { "it did NOT hold" };
        writeln!(f, "\n{verdict}: {pairs} pairs, {faults} faults, {:.1} s, seed {}", self.seconds, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_tests::account::Account;

    /// What a subscriber of 1,000 messages reports that lost 10 of them.
    fn sound() -> Pair {
        let account = Account { next: 1000, received: 990, missed: 10, ..Account::default() };
        let received =
            Received { account, sdk: (990, 10), connections: vec![(0, 990, 10, true)], errors: Vec::new() };
        Pair { number: 0, pace: Pace::Fast, received }
    }

    fn faults(delivery: Delivery, change: impl FnOnce(&mut Received)) -> usize {
        let job = Job { messages: 1000, seed: 1, delivery, form: Form::Bytes, length: None, slow: false };
        let mut pair = sound();
        change(&mut pair.received);
        let mut faults = Vec::new();
        pair.compare(&job, 1000, &mut faults);
        faults.len()
    }

    #[test]
    fn each_thing_that_must_hold_is_a_fault_when_it_does_not() {
        assert_eq!(faults(Delivery::Lossy, |_| {}), 0);
        assert_eq!(faults(Delivery::Reliable, |_| {}), 1, "lost, though reliable");
        // One message fewer: the sum and the figures of the SDK do not agree any more.
        assert_eq!(faults(Delivery::Lossy, |received| received.account.received -= 1), 2);
        assert_eq!(faults(Delivery::Lossy, |received| received.account.torn += 1), 1);
        assert_eq!(faults(Delivery::Lossy, |received| received.account.disordered += 1), 1);
        assert_eq!(faults(Delivery::Lossy, |received| received.sdk.1 += 1), 2);
        assert_eq!(faults(Delivery::Lossy, |received| received.connections[0].3 = false), 1);
        assert_eq!(faults(Delivery::Lossy, |received| received.connections.push((0, 0, 0, true))), 1);
        assert_eq!(faults(Delivery::Lossy, |received| received.errors.push("detached".to_owned())), 1);
    }
}
