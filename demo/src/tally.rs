//! A subscriber's own count of what it hears, pair by pair.
//!
//! The SDK counts too; this counts from the messages alone (sequence numbers, stamps, checksums), so that the
//! two can be held against each other. Between two reports it also keeps latencies and gaps for the live
//! table.

use hdrhistogram::Histogram;

use super::report::{End, GAP_GRAIN_NS, Gap, Seen, Window};
use super::samples::Verified;

/// Latencies above one minute count as one minute.
const MAX_LATENCY_NS: u64 = 60_000_000_000;
/// Two significant digits: every figure is right within one percent.
const DIGITS: u8 = 2;

/// An empty histogram for latencies in nanoseconds.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    // The bounds are constants that the constructor accepts; the tests below build one.
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, DIGITS).expect("the bounds are valid")
}

/// One message, as its subscriber found it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    /// By the SDK.
    pub(crate) sequence: u64,
    /// By the payload; `None` if it is not even of the right shape.
    pub(crate) verified: Option<Verified>,
    pub(crate) bytes: usize,
    pub(crate) arrived_ns: u64,
}

/// All pairs of one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pairs: Vec<Pair>,
    /// The pair that was heard last is likely to be heard next.
    latest: usize,
}

#[derive(Debug)]
struct Pair {
    publisher: End,
    service: String,
    seen: Seen,
    last_ns: u64,
    messages: u64,
    bytes: u64,
    latencies: Histogram<u64>,
    gaps: Vec<Gap>,
}

impl Tally {
    /// Counts one message.
    pub(crate) fn count(&mut self, publisher: End, service: &str, heard: Heard) {
        let index = self.pair(publisher, service);
        self.pairs[index].count(heard);
    }

    fn pair(&mut self, publisher: End, service: &str) -> usize {
        let is_latest = self.pairs.get(self.latest).is_some_and(|pair| pair.publisher == publisher);
        if !is_latest {
            let known = self.pairs.iter().position(|pair| pair.publisher == publisher);
            self.latest = known.unwrap_or_else(|| {
                self.pairs.push(Pair::new(publisher, service));
                self.pairs.len() - 1
            });
        }
        self.latest
    }

    /// What was counted of one publisher.
    pub(crate) fn seen(&self, publisher: End) -> Seen {
        self.pairs.iter().find(|pair| pair.publisher == publisher).map(|pair| pair.seen).unwrap_or_default()
    }

    /// What arrived since the last call, for every pair ever heard; `lost` asks the SDK.
    pub(crate) fn take_windows(&mut self, lost: impl Fn(End) -> u64) -> Vec<Window> {
        self.pairs.iter_mut().map(|pair| pair.take_window(lost(pair.publisher))).collect()
    }
}

impl Pair {
    fn new(publisher: End, service: &str) -> Pair {
        Pair {
            publisher,
            service: service.to_owned(),
            seen: Seen::default(),
            last_ns: 0,
            messages: 0,
            bytes: 0,
            latencies: latency_histogram(),
            gaps: Vec::new(),
        }
    }

    fn count(&mut self, heard: Heard) {
        let Heard { sequence, verified, bytes, arrived_ns } = heard;
        let seen = &mut self.seen;
        seen.received += 1;
        match seen.last {
            Some(last) if sequence <= last => seen.disordered += 1,
            Some(last) => seen.skipped += sequence - last - 1,
            None => seen.first = Some(sequence),
        }
        seen.last = seen.last.max(Some(sequence));
        match verified {
            Some(verified) if verified.whole && verified.sequence == sequence => {
                self.latencies.saturating_record(arrived_ns.saturating_sub(verified.sent_ns).max(1));
            }
            _ => seen.torn += 1,
        }
        self.messages += 1;
        self.bytes += bytes as u64;
        if self.last_ns > 0 {
            self.gap(Gap { ended_ns: arrived_ns, length_ns: arrived_ns.saturating_sub(self.last_ns) });
        }
        self.last_ns = arrived_ns;
    }

    fn gap(&mut self, gap: Gap) {
        match self.gaps.last_mut() {
            Some(longest) if longest.ended_ns / GAP_GRAIN_NS == gap.ended_ns / GAP_GRAIN_NS => {
                if gap.length_ns > longest.length_ns {
                    *longest = gap;
                }
            }
            _ => self.gaps.push(gap),
        }
    }

    fn take_window(&mut self, lost: u64) -> Window {
        let latencies = self
            .latencies
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        self.latencies.reset();
        Window {
            publisher: self.publisher,
            service: self.service.clone(),
            messages: std::mem::take(&mut self.messages),
            bytes: std::mem::take(&mut self.bytes),
            lost,
            last_ns: self.last_ns,
            latencies,
            gaps: std::mem::take(&mut self.gaps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: End = End { node: 1, index: 1 };

    fn hear(tally: &mut Tally, sequence: u64, arrived_ns: u64) {
        let verified = Some(Verified { sequence, sent_ns: arrived_ns.saturating_sub(100), whole: true });
        tally.count(END, "a", Heard { sequence, verified, bytes: 10, arrived_ns });
    }

    #[test]
    fn skipped_sequence_numbers_are_counted() {
        let mut tally = Tally::default();
        for sequence in [4, 5, 9] {
            hear(&mut tally, sequence, 1000);
        }
        let seen = tally.seen(END);
        assert_eq!((seen.first, seen.last, seen.received, seen.skipped), (Some(4), Some(9), 3, 3));
        assert_eq!((seen.torn, seen.disordered), (0, 0));
    }

    #[test]
    fn a_message_that_comes_twice_is_disordered() {
        let mut tally = Tally::default();
        for sequence in [4, 4, 3] {
            hear(&mut tally, sequence, 1000);
        }
        assert_eq!(tally.seen(END).disordered, 2);
    }

    #[test]
    fn a_message_that_does_not_verify_or_carries_another_number_is_torn() {
        let mut tally = Tally::default();
        let good = Verified { sequence: 0, sent_ns: 1, whole: true };
        for verified in
            [None, Some(Verified { whole: false, ..good }), Some(Verified { sequence: 7, ..good })]
        {
            tally.count(END, "a", Heard { sequence: 0, verified, bytes: 1, arrived_ns: 2 });
        }
        assert_eq!(tally.seen(END).torn, 3);
    }

    #[test]
    fn a_window_holds_what_came_since_the_last_one() {
        let mut tally = Tally::default();
        hear(&mut tally, 0, 1_000);
        hear(&mut tally, 1, 5_000);
        hear(&mut tally, 2, 6_000);
        hear(&mut tally, 3, 6_000 + 2 * GAP_GRAIN_NS);
        let windows = tally.take_windows(|_end| 5);
        assert_eq!(windows.len(), 1);
        let window = &windows[0];
        assert_eq!((window.messages, window.bytes, window.lost), (4, 40, 5));
        assert_eq!(window.latencies.iter().map(|&(_value, count)| count).sum::<u64>(), 4);
        assert_eq!(window.gaps[0], Gap { ended_ns: 5_000, length_ns: 4_000 });
        assert_eq!(window.gaps[1].length_ns, 2 * GAP_GRAIN_NS);
        let windows = tally.take_windows(|_end| 5);
        assert_eq!((windows[0].messages, windows[0].last_ns), (0, 6_000 + 2 * GAP_GRAIN_NS));
        assert!(windows[0].gaps.is_empty() && windows[0].latencies.is_empty());
    }
}
