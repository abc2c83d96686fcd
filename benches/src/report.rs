//! What the harness says: medians over the runs, beside the floor of the same runs.

use std::fmt::Write;

use serde::Serialize;

use crate::cases::{Against, CASES, Case, Counts, Kind};
use crate::machine::Machine;
use crate::readings::{Summary, median};
use crate::scale;

/// One run of one case with the floors around it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    /// What was measured.
    pub summary: Summary,
    /// The floor just before: its median, in nanoseconds.
    pub floor_before: f64,
    /// The floor just after.
    pub floor_after: f64,
    /// Whether the two floors agree.
    pub steady: bool,
    /// How many attempts it took, this one included.
    pub attempts: usize,
}

impl Run {
    fn floor(&self) -> f64 {
        f64::midpoint(self.floor_before, self.floor_after)
    }

    fn ratio(&self) -> f64 {
        self.summary.p50 / self.floor()
    }
}

/// All runs of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The name of the case.
    pub case: &'static str,
    /// The operation the times are of.
    pub operation: &'static str,
    /// How the clock was read.
    pub reading: &'static str,
    /// `line` or `futex`: which floor.
    pub floor: &'static str,
    /// Median over the runs of the floor's median, ns.
    pub floor_p50_ns: f64,
    /// Median over the runs, ns.
    pub p50_ns: f64,
    /// Median over the runs, ns.
    pub p99_ns: f64,
    /// Median over the runs, ns.
    pub p999_ns: f64,
    /// The largest of all runs, ns.
    pub max_ns: f64,
    /// Median over the runs of p50 / floor.
    pub ratio: f64,
    /// Median over the runs.
    pub per_second: f64,
    /// Operations measured in one run.
    pub operations: u64,
    /// Runs whose floors still disagreed after the last attempt. The medians leave them out, unless all are.
    pub unsteady_runs: usize,
    /// The ratio that must hold, if one is promised.
    pub bound: Option<f64>,
    /// The ratio aimed at.
    pub budget: Option<f64>,
    /// p50 beside that of the same case with one subscriber, for fan-out cases.
    pub to_one_subscriber: Option<f64>,
    /// The runs themselves.
    pub runs: Vec<Run>,
}

impl Finding {
    /// Puts the runs of a case together. At least one run.
    pub fn new(case: &Case, runs: Vec<Run>) -> Finding {
        let unsteady_runs = runs.iter().filter(|run| !run.steady).count();
        let counted = |run: &&Run| run.steady || unsteady_runs == runs.len();
        let over = |figure: fn(&Run) -> f64| median(runs.iter().filter(counted).map(figure));
        Finding {
            case: case.name,
            operation: case.operation,
            reading: case.reading,
            floor: match case.against {
                Against::Line => "line",
                Against::Futex => "futex",
            },
            floor_p50_ns: over(Run::floor),
            p50_ns: over(|run| run.summary.p50),
            p99_ns: over(|run| run.summary.p99),
            p999_ns: over(|run| run.summary.p999),
            max_ns: runs.iter().map(|run| run.summary.max).fold(0.0, f64::max),
            ratio: over(Run::ratio),
            per_second: over(|run| run.summary.per_second),
            operations: runs.first().map_or(0, |run| run.summary.operations),
            unsteady_runs,
            bound: case.bound,
            budget: case.budget,
            to_one_subscriber: None,
            runs,
        }
    }

    /// Whether the promised ratio was exceeded in steady runs.
    pub fn exceeds_its_bound(&self) -> bool {
        self.unsteady_runs < self.runs.len() && self.bound.is_some_and(|bound| self.ratio > bound)
    }
}

/// Everything the harness found out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// The cores of the parent and of the peer; `None` when nothing could be measured.
    pub cores: Option<(usize, usize)>,
    /// Runs of each case.
    pub runs: usize,
    /// What one run does.
    pub counts: Counts,
    /// Whether this was only a test that the harness works.
    pub smoke: bool,
    /// What two readings of the clock cost, subtracted from single readings.
    pub clock_ns: u64,
    /// Why nothing was measured, if nothing was.
    pub skipped: Option<String>,
    /// Case by case.
    pub findings: Vec<Finding>,
    /// What was found about scale.
    pub scale: Vec<scale::Finding>,
    /// Cases that failed, with their errors.
    pub failures: Vec<(&'static str, String)>,
}

impl Report {
    /// Takes up what was found, beside the same case with one subscriber if it is a fan-out case.
    pub fn add(&mut self, case: &Case, mut finding: Finding) {
        let to_one = match case.kind {
            Kind::FanOut { shape, draining, .. } => Some(Kind::FanOut { shape, subscribers: 1, draining }),
            Kind::Rouse { .. } => Some(Kind::Rouse { subscribers: 1 }),
            _ => None,
        };
        if let Some(one) = to_one {
            let name = CASES.iter().find(|other| other.kind == one).map(|other| other.name);
            let of_one =
                self.findings.iter().find(|other| Some(other.case) == name).map(|other| other.p50_ns);
            finding.to_one_subscriber = of_one.map(|of_one| finding.p50_ns / of_one);
        }
        self.findings.push(finding);
    }

    /// The lines above the table.
    pub fn head(&self) -> String {
        let Machine { processor, cores, kernel, commit, load, profile } = &self.machine;
        let mut text = format!(
            "machine  {processor}, {cores} usable cores, load {load}\nkernel   {kernel}\n\
             commit   {commit}, {profile} build\n"
        );
        match (&self.skipped, self.cores) {
            (Some(reason), _) => {
                let _ = writeln!(text, "SKIPPED  nothing was measured: {reason}");
            }
            (None, Some((parent, peer))) => {
                let _ = writeln!(
                    text,
                    "pinning  parent on core {parent}, peer on core {peer}; two readings of the clock cost {} ns",
                    self.clock_ns
                );
                let counts = &self.counts;
                let _ = writeln!(
                    text,
                    "count    {} runs of each case; in a run: {} batches of 16 round trips or 256 sends, {} single \
                     readings, {} blocking round trips, {} one-way messages, {} joins",
                    self.runs, counts.batches, counts.singles, counts.asleep, counts.messages, counts.joins
                );
            }
            (None, None) => {}
        }
        if self.smoke {
            text.push_str("SMOKE    tiny counts, one run, floors not compared: no figure below is a claim\n");
        }
        text
    }

    /// The line above the table.
    pub fn table_head(&self) -> &'static str {
        "\nns for one operation             floor        p50        p99      p99.9          max   p50/floor   million/s"
    }

    /// The line of one case: medians over the runs, max over all runs.
    pub fn row(&self, finding: &Finding) -> String {
        let mut text = format!(
            "{:<28} {:>9.1}{:>11.1}{:>11.1}{:>11.1}{:>13.0}{:>11.2}x{:>12.3}",
            finding.case,
            finding.floor_p50_ns,
            finding.p50_ns,
            finding.p99_ns,
            finding.p999_ns,
            finding.max_ns,
            finding.ratio,
            finding.per_second / 1e6,
        );
        if let Some(bound) = finding.bound.filter(|_| !self.smoke) {
            let verdict = if finding.exceeds_its_bound() { "EXCEEDS" } else { "within" };
            let _ = write!(text, "  {verdict} {bound}x");
        }
        if let Some(budget) = finding.budget.filter(|_| !self.smoke) {
            let _ = write!(text, "  (aim {budget}x)");
        }
        if let Some(ratio) = finding.to_one_subscriber {
            let _ = write!(text, "  {ratio:.2}x of one subscriber");
        }
        if finding.unsteady_runs > 0 && !self.smoke {
            let (unsteady, all) = (finding.unsteady_runs, finding.runs.len());
            let _ = write!(text, "  UNSTEADY: floors disagreed in {unsteady} of {all} runs");
        }
        text
    }

    /// What has to be known to read the table.
    pub fn foot(&self) -> &'static str {
        "\nfloor: round trip of one cache line, both sides polling (of one futex for sleeping and joining cases), measured \
         before and after each run.\nRound trips and sends: p50 and rate from batches under one reading of the clock, tail \
         from single readings less its cost."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(p50: f64, floor: f64, steady: bool) -> Run {
        let summary = Summary { p50, p99: p50, p999: p50, max: p50, per_second: 1.0, operations: 1 };
        Run { summary, floor_before: floor, floor_after: floor, steady, attempts: 1 }
    }

    #[test]
    fn a_ratio_is_taken_within_a_run_never_across_runs() {
        let finding = Finding::new(
            &CASES[0],
            vec![run(150.0, 100.0, true), run(735.0, 490.0, true), run(150.0, 100.0, true)],
        );
        assert_eq!(finding.ratio, 1.5);
    }

    #[test]
    fn unsteady_runs_are_left_out_and_counted() {
        let finding = Finding::new(&CASES[0], vec![run(150.0, 100.0, true), run(900.0, 100.0, false)]);
        assert_eq!((finding.ratio, finding.unsteady_runs), (1.5, 1));
        assert!(!finding.exceeds_its_bound());
    }

    #[test]
    fn only_unsteady_runs_prove_nothing() {
        let finding = Finding::new(&CASES[0], vec![run(900.0, 100.0, false)]);
        assert_eq!((finding.ratio, finding.unsteady_runs), (9.0, 1));
        assert!(!finding.exceeds_its_bound());
        assert!(Finding::new(&CASES[0], vec![run(900.0, 100.0, true)]).exceeds_its_bound());
    }
}
