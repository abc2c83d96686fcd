//! What came of a campaign: a table, and what does not hold.

use super::Ran;
use super::inject::Seen;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One path.
#[derive(Debug)]
pub struct Row {
    name: &'static str,
    /// Calls that can fail, when none does.
    pub calls: usize,
    /// Cases in which one failed.
    pub injected: usize,
    went_on: usize,
    errors: BTreeMap<String, usize>,
    by_call: BTreeMap<&'static str, usize>,
    /// Cases that do not hold.
    pub findings: usize,
    /// The time was over before all cases were run.
    pub left_out: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Report {
    /// One for each path.
    pub rows: Vec<Row>,
    /// What does not hold.
    pub findings: Vec<String>,
    /// Messages of the bystanders, all of which arrived.
    pub traffic: u64,
    /// Calls that were let through, and why.
    pub through: BTreeMap<&'static str, &'static str>,
    /// Each sentence that a victim said.
    pub sentences: BTreeMap<String, usize>,
    /// How long it took.
    pub took: Duration,
}

impl Row {
    pub(super) fn new(name: &'static str) -> Row {
        Row {
            name,
            calls: 0,
            injected: 0,
            went_on: 0,
            errors: BTreeMap::new(),
            by_call: BTreeMap::new(),
            findings: 0,
            left_out: false,
        }
    }

    pub(super) fn enter(&mut self, call: &'static str, ran: &Ran) {
        if ran.seen.injected == 0 {
            return;
        }
        self.injected += 1;
        *self.by_call.entry(call).or_default() += 1;
        match &ran.failure {
            None => self.went_on += 1,
            Some(failure) => {
                // `Join(Resources { doing: …` is `Join(Resources`.
                let variant = failure.variant.split([' ', '{']).next().unwrap_or_default();
                *self.errors.entry(variant.trim_end_matches(')').to_owned()).or_default() += 1;
            }
        }
    }
}

impl Report {
    pub(super) fn note(&mut self, seen: &Seen) {
        self.through.extend(&seen.through);
    }

    /// How many cases there were.
    pub fn injected(&self) -> usize {
        self.rows.iter().map(|row| row.injected).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| phase | calls | faults | went on | typed errors | calls that failed |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            let list =
                |counts: Vec<String>| if counts.is_empty() { "-".to_owned() } else { counts.join(", ") };
            let errors = list(row.errors.iter().map(|(name, count)| format!("{name} {count}")).collect());
            let calls = list(row.by_call.iter().map(|(name, count)| format!("{name} {count}")).collect());
            let rest = if row.left_out { " (and more: the time was over)" } else { "" };
            writeln!(
                f,
                "| {} | {} | {}{rest} | {} | {errors} | {calls} |",
                row.name, row.calls, row.injected, row.went_on
            )?;
        }
        writeln!(
            f,
            "{} faults, {} do not hold; {} messages of the bystanders, all arrived; {:.1} s",
            self.injected(),
            self.findings.len(),
            self.traffic,
            self.took.as_secs_f64()
        )
    }
}
