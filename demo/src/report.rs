//! What the processes of the demo tell their parent, one JSON object a line on their standard output, and
//! what the parent tells them, one word a line on their standard input.
//!
//! None of this is the hive: it is the measuring beside it, so that a figure does not depend on what it
//! measures. When the parent's end of the input closes, the parent is gone, and the child leaves at once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One end of a service: which life of which node, and which of its publishers or subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct End {
    pub(crate) node: u64,
    pub(crate) index: u32,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.node, self.index)
    }
}

impl From<End> for String {
    fn from(end: End) -> String {
        end.to_string()
    }
}

impl TryFrom<String> for End {
    type Error = String;

    fn try_from(text: String) -> Result<End, String> {
        let parse = || {
            let (node, index) = text.split_once('.')?;
            Some(End { node: u64::from_str_radix(node, 16).ok()?, index: u32::from_str(index).ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` names no end; it should be <node in hex>.<index>"))
    }
}

/// From child to parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub(crate) enum Report {
    /// The child is a node of the hive now.
    Joined,
    /// What arrived since the last such report.
    Heard { windows: Vec<Window> },
    /// A publisher has stopped: these are all messages that it sent in its life.
    Stopped { services: Vec<Said> },
    /// A subscriber has read everything that the publishers committed before they stopped.
    Drained { accounts: Vec<Account> },
}

/// What one subscriber heard of one publisher in a short time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) publisher: End,
    pub(crate) service: String,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Lost over the life of the pair, not only in this window.
    pub(crate) lost: u64,
    /// When the last message of the pair arrived, also if that was before this window.
    pub(crate) last_ns: u64,
    /// Latencies in nanoseconds with their counts, at two significant digits.
    pub(crate) latencies: Vec<(u64, u64)>,
    /// The longest gap between two messages for each [`GAP_GRAIN_NS`] in which one ended.
    pub(crate) gaps: Vec<Gap>,
}

/// Gaps are told apart by when they ended, at this grain.
pub(crate) const GAP_GRAIN_NS: u64 = 10_000_000;

/// The time between two messages of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) ended_ns: u64,
    pub(crate) length_ns: u64,
}

impl Gap {
    /// Whether it ran at some instant between the two.
    pub(crate) fn touches(&self, from_ns: u64, to_ns: u64) -> bool {
        self.ended_ns >= from_ns && self.ended_ns.saturating_sub(self.length_ns) <= to_ns
    }
}

/// What one publisher sent in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) service: String,
    pub(crate) published: u64,
    /// Reliable services only: refused with `Full`, never published.
    pub(crate) refused: u64,
}

/// The life of one pair as its subscriber saw it, counted twice: by the SDK, and by the demo from the
/// messages alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) publisher: End,
    pub(crate) service: String,
    /// The SDK's: the sequence number that the pair began with.
    pub(crate) first: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// The demo's own count.
    pub(crate) seen: Seen,
}

impl Account {
    /// The sequence number that comes next: all before it, from `first` on, are received or lost.
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.received).saturating_add(self.lost)
    }
}

/// What the messages themselves say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) received: u64,
    /// Sequence numbers that were skipped between the first and the last message seen.
    pub(crate) skipped: u64,
    /// Checksum or stamp did not agree with the payload.
    pub(crate) torn: u64,
    /// Sequence numbers that did not rise.
    pub(crate) disordered: u64,
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
}

/// From parent to child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Send nothing more, read what is there, report the counts, and stay.
    Stop,
    /// Leave the hive and exit.
    Leave,
}

impl Order {
    /// The line that carries the order.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Order::Stop => "stop",
            Order::Leave => "leave",
        }
    }

    /// The order that a line carries.
    pub(crate) fn parse(line: &str) -> Option<Order> {
        [Order::Stop, Order::Leave].into_iter().find(|order| order.word() == line.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_survives_the_way_through_json() {
        let end = End { node: u64::MAX - 1, index: 7 };
        let text = serde_json::to_string(&end).unwrap();
        assert_eq!(text, "\"fffffffffffffffe.7\"");
        assert_eq!(serde_json::from_str::<End>(&text).unwrap(), end);
        assert!(serde_json::from_str::<End>("\"nonsense\"").is_err());
    }

    #[test]
    fn a_report_survives_the_way_through_json() {
        let seen = Seen { received: 3, first: Some(0), last: Some(2), ..Seen::default() };
        let publisher = End { node: 1, index: 2 };
        let account = Account { publisher, service: "a/b".into(), first: 0, received: 3, lost: 0, seen };
        let report = Report::Drained { accounts: vec![account] };
        let text = serde_json::to_string(&report).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn an_order_is_understood_by_its_word_alone() {
        assert_eq!(Order::parse("stop\n"), Some(Order::Stop));
        assert_eq!(Order::parse("leave"), Some(Order::Leave));
        assert_eq!(Order::parse("sleep"), None);
    }
}
