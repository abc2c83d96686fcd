//! The cases: what every contender is asked to do.

use serde::{Deserialize, Serialize};

use crate::message::Part;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Send, wait for the answer.
    RoundTrip {
        /// Length of the messages.
        bytes: usize,
        /// Both ends sleep between messages; otherwise they spin, where the contender can.
        asleep: bool,
    },
    /// Send as fast as nothing is lost; the peer receives and checks every message.
    OneWay {
        /// Length of the messages.
        bytes: usize,
        /// Many messages a call.
        batched: bool,
    },
    /// The cost of one send while so many subscribers are attached in the peer.
    FanOut {
        /// How many.
        subscribers: usize,
        /// Whether they read.
        draining: bool,
    },
    /// From nothing to the first message: a node, a new service, both ends of it.
    ColdStart,
    /// A thousand services, each with a publisher here and a subscriber in the peer, until each has carried
    /// one message.
    Services {
        /// How many.
        count: usize,
    },
}

impl Task {
    /// Length of the messages.
    pub fn bytes(self) -> usize {
        match self {
            Task::RoundTrip { bytes, .. } | Task::OneWay { bytes, .. } => bytes,
            Task::FanOut { .. } | Task::ColdStart | Task::Services { .. } => 64,
        }
    }

    /// Which part of them is written and read.
    pub fn part(self) -> Part {
        match self {
            Task::OneWay { bytes, .. } if bytes > 64 => Part::Full,
            Task::RoundTrip { bytes, .. } if bytes > 64 => Part::Touched,
            _ => Part::Small,
        }
    }

    /// Messages travel both ways.
    pub fn both_ways(self) -> bool {
        matches!(self, Task::RoundTrip { .. })
    }
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What `--only CONTENDER/CASE` matches.
    pub name: &'static str,
    /// What is done.
    pub task: Task,
}

const fn round_trip(name: &'static str, bytes: usize, asleep: bool) -> Case {
    Case { name, task: Task::RoundTrip { bytes, asleep } }
}

const fn one_way(name: &'static str, bytes: usize) -> Case {
    Case { name, task: Task::OneWay { bytes, batched: false } }
}

const fn fan_out(name: &'static str, subscribers: usize, draining: bool) -> Case {
    Case { name, task: Task::FanOut { subscribers, draining } }
}

/// Everything that is asked, in the order of the report.
pub const CASES: &[Case] = &[
    round_trip("round_trip_64B", 64, false),
    round_trip("round_trip_4KiB", 4 << 10, false),
    round_trip("round_trip_1MiB", 1 << 20, false),
    round_trip("blocking_round_trip_64B", 64, true),
    one_way("one_way_64B", 64),
    Case { name: "one_way_64B_batched", task: Task::OneWay { bytes: 64, batched: true } },
    one_way("one_way_256B", 256),
    one_way("one_way_1KiB", 1 << 10),
    one_way("one_way_4KiB", 4 << 10),
    one_way("one_way_16KiB", 16 << 10),
    one_way("one_way_64KiB", 64 << 10),
    one_way("one_way_256KiB", 256 << 10),
    one_way("one_way_1MiB", 1 << 20),
    fan_out("send_to_1", 1, false),
    fan_out("send_to_8", 8, false),
    fan_out("send_to_64", 64, false),
    fan_out("send_to_1_draining", 1, true),
    fan_out("send_to_8_draining", 8, true),
    fan_out("send_to_64_draining", 64, true),
    Case { name: "cold_start", task: Task::ColdStart },
    Case { name: "services_1000", task: Task::Services { count: 1000 } },
];

/// The case of that name.
pub fn find(name: &str) -> Option<Case> {
    CASES.iter().copied().find(|case| case.name == name)
}

/// How long and how often; the race decides and hands it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Milliseconds before the clock counts.
    pub warm_up_ms: u64,
    /// Milliseconds of readings.
    pub measure_ms: u64,
    /// The most batches or single readings of one kind.
    pub most: u64,
    /// The most single readings of a case in which both sides sleep.
    pub most_asleep: u64,
    /// Cold starts.
    pub starts: u64,
    /// Services in the case with a thousand, divided by this.
    pub fewer_services: usize,
}

impl Effort {
    /// Enough for a p99.9 of all that spins.
    pub const FULL: Effort = Effort {
        warm_up_ms: 60,
        measure_ms: 220,
        most: 20_000,
        most_asleep: 2_000,
        starts: 40,
        fewer_services: 1,
    };
    /// Shows that everything works and claims nothing.
    pub const SMOKE: Effort =
        Effort { warm_up_ms: 5, measure_ms: 15, most: 500, most_asleep: 50, starts: 3, fewer_services: 20 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        for (index, case) in CASES.iter().enumerate() {
            assert!(CASES[..index].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }
}
