//! One row for each case, as a table to read.

use super::ledger::Faults;
use std::fmt::Write;
use std::time::Duration;

/// What came of a case.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// The case.
    pub case: &'static str,
    /// Rounds that were wanted.
    pub wanted: u64,
    /// Rounds that were run.
    pub reached: u64,
    /// Messages that the ledger looked at.
    pub messages: u64,
    /// What went wrong.
    pub faults: Faults,
    /// What `times` are.
    pub timed: &'static str,
    /// Times of recovery.
    pub times: Times,
    /// Figures beside, and what was skipped and why.
    pub notes: Vec<String>,
    /// The whole case.
    pub took: Duration,
}

/// Durations, in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<u32>);

impl Times {
    /// One more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Those of another lane.
    pub fn add(&mut self, other: Times) {
        self.0.extend(other.0);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest time that this share of all does not exceed; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        let place = rank.clamp(1, sorted.len().max(1)) - 1;
        sorted.get(place).map(|us| Duration::from_micros(u64::from(*us)))
    }
}

impl Row {
    /// An empty one.
    pub fn new(case: &'static str) -> Row {
        Row { case, ..Row::default() }
    }

    /// What another lane has to add.
    pub fn add(&mut self, other: Row) {
        self.reached += other.reached;
        self.messages += other.messages;
        self.faults.add(other.faults);
        self.times.add(other.times);
        self.notes.extend(other.notes);
    }

    /// Whether all held. A case that did nothing has shown nothing, unless it says why.
    pub fn held(&self) -> bool {
        self.faults.total() == 0 && (self.reached > 0 || self.skipped())
    }

    /// Whether it could not run here; the notes say why.
    pub fn skipped(&self) -> bool {
        self.reached == 0 && !self.notes.is_empty()
    }

    fn verdict(&self) -> &'static str {
        match (self.held(), self.skipped()) {
            (true, true) => "skipped",
            (true, false) => "held",
            (false, _) => "FAILED",
        }
    }
}

/// The table, with what there is to say below it.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let head = ["case", "reached", "messages", "lost", "torn", "doubled", "made up", "misjudged", "failed"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines[0].extend(["p50", "p99", "max", "took", "verdict"].map(str::to_owned));
    for row in rows {
        let faults = &row.faults;
        let mut line = vec![row.case.to_owned(), row.reached.to_string(), row.messages.to_string()];
        let counts =
            [faults.lost, faults.torn, faults.doubled, faults.invented, faults.misjudged, faults.failed];
        line.extend(counts.map(|count| count.to_string()));
        line.extend([0.5, 0.99, 1.0].map(|share| row.times.quantile(share).map_or("-".to_owned(), brief)));
        line.extend([brief(row.took), row.verdict().to_owned()]);
        lines.push(line);
    }
    let widths: Vec<_> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    for line in &lines {
        for (place, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let gap = if place == 0 { "" } else { "  " };
            let _ = if place == 0 || place + 1 == line.len() {
                write!(text, "{gap}{cell:width$}")
            } else {
                write!(text, "{gap}{cell:>width$}")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for row in rows {
        text.push_str(&beside(row));
    }
    text
}

/// What a row says in words.
pub fn beside(row: &Row) -> String {
    let mut text = String::new();
    if !row.times.is_empty() {
        let _ =
            writeln!(text, "  {}: p50, p99 and max are {} ({} times)", row.case, row.timed, row.times.len());
    }
    if row.reached < row.wanted && row.wanted != u64::MAX && !row.skipped() {
        let _ = writeln!(text, "  {}: {} rounds of {} wanted", row.case, row.reached, row.wanted);
    }
    for note in &row.notes {
        let _ = writeln!(text, "  {}: {note}", row.case);
    }
    for fault in &row.faults.told {
        let _ = writeln!(text, "  {}: FAULT {fault}", row.case);
    }
    text
}

/// Three digits and a unit.
pub fn brief(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    match us {
        0.0..1e3 => format!("{us:.0} us"),
        1e3..1e4 => format!("{:.2} ms", us / 1e3),
        1e4..1e6 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.5), None);
        (1..=100).rev().for_each(|ms| times.push(Duration::from_millis(ms)));
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|share| times.quantile(share).unwrap().as_millis());
        assert_eq!(quantiles, [1, 50, 99, 100]);
    }

    #[test]
    fn a_case_that_did_nothing_has_not_held_and_one_that_could_not_run_says_so() {
        let mut row = Row::new("case");
        assert!(!row.held());
        row.notes.push("skipped: not allowed here".to_owned());
        assert!(row.held() && table(&[row.clone()]).contains("skipped"));
        row.reached = 1;
        assert!(row.held());
        row.faults.fail("it broke".to_owned());
        assert!(!row.held() && table(&[row]).contains("FAULT it broke"));
    }
}
