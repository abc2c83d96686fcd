//! Everything a race found out, as it is kept in the JSON file.

use hivemind_benches::machine::Machine;
use hivemind_benches::readings::{clock_cost_ns, median};
use rivals_course::program::Description;
use rivals_course::resources::Resources;
use serde::{Deserialize, Serialize};

use crate::field::NotRunning;

/// Where and how it was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    pub(crate) load: String,
    pub(crate) profile: String,
    pub(crate) usable_cores: usize,
    pub(crate) cores: (usize, usize),
    pub(crate) runs: usize,
    pub(crate) smoke: bool,
    pub(crate) clock_ns: u64,
}

impl Facts {
    pub(crate) fn here(cores: (usize, usize), runs: usize, smoke: bool) -> Facts {
        let usable = std::thread::available_parallelism().map_or(0, usize::from).max(2);
        let machine = Machine::here(usable);
        Facts {
            processor: machine.processor,
            kernel: machine.kernel,
            commit: machine.commit,
            load: machine.load,
            profile: machine.profile.to_owned(),
            usable_cores: usable,
            cores,
            runs,
            smoke,
            clock_ns: clock_cost_ns(),
        }
    }
}

/// One run of one case by one contender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lap {
    pub(crate) contender: String,
    pub(crate) case: String,
    /// The floor before and after in nanoseconds: of a cache line, or of a futex where both ends sleep.
    pub(crate) floors: (f64, f64),
    pub(crate) steady: bool,
    pub(crate) attempts: usize,
    pub(crate) figures: Result<Figures, String>,
}

/// What a lap measured; times in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    pub(crate) per_second: f64,
    pub(crate) operations: u64,
    /// Messages whose number the receiver checked.
    pub(crate) checked: u64,
    /// Round trips: the readings that so many of a million do not exceed ([`CURVE`]).
    pub(crate) curve: Vec<f64>,
    /// The case with a thousand services.
    pub(crate) parent: Resources,
    pub(crate) peer: Resources,
    pub(crate) files_left: Option<u64>,
}

/// Points of the latency curve, in readings of a million.
pub(crate) const CURVE: &[u64] = &[
    10_000, 50_000, 100_000, 250_000, 500_000, 600_000, 700_000, 800_000, 850_000, 900_000, 930_000, 950_000,
    970_000, 980_000, 990_000, 993_000, 995_000, 997_000, 998_000, 999_000, 999_300, 999_500, 999_700,
    999_800, 999_900,
];

impl Lap {
    /// The mean of both floors.
    pub(crate) fn floor(&self) -> f64 {
        f64::midpoint(self.floors.0, self.floors.1)
    }

    pub(crate) fn line(&self) -> String {
        let what = format!("{:<16} {:<24}", self.contender, self.case);
        match &self.figures {
            Ok(figures) => format!(
                "{what} floor {:>8.1}  p50 {:>12.1} ns ({:>6.2}x)  {:>9.3} M/s  {} checked{}{}",
                self.floor(),
                figures.p50,
                figures.p50 / self.floor(),
                figures.per_second / 1e6,
                figures.checked,
                if self.steady { "" } else { "  UNSTEADY" },
                if self.attempts > 1 { format!("  {} attempts", self.attempts) } else { String::new() },
            ),
            Err(error) => format!("{what} FAILED: {error}"),
        }
    }
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) facts: Facts,
    pub(crate) seconds: u64,
    pub(crate) contenders: Vec<Description>,
    pub(crate) not_running: Vec<NotRunning>,
    pub(crate) laps: Vec<Lap>,
}

/// One contender's laps of one case that succeeded.
#[derive(Debug)]
pub(crate) struct Cell<'results> {
    laps: Vec<(&'results Lap, &'results Figures)>,
    /// A lap was marked unsteady, so the medians are over fewer or doubtful laps.
    pub(crate) doubtful: bool,
}

impl Results {
    /// The laps of that contender and case; `None` if none succeeded. Steady laps alone, if there are any.
    pub(crate) fn cell(&self, contender: &str, case: &str) -> Option<Cell<'_>> {
        let all: Vec<_> = self
            .laps
            .iter()
            .filter(|lap| lap.contender == contender && lap.case == case)
            .filter_map(|lap| Some((lap, lap.figures.as_ref().ok()?)))
            .collect();
        let steady: Vec<_> = all.iter().copied().filter(|(lap, _)| lap.steady).collect();
        let doubtful = steady.is_empty();
        let laps = if doubtful { all } else { steady };
        if laps.is_empty() { None } else { Some(Cell { laps, doubtful }) }
    }

    /// Why that contender has no figure there.
    pub(crate) fn reason(&self, contender: &str, case: &str) -> Option<String> {
        let failed = self.laps.iter().find_map(|lap| {
            let error = lap.figures.as_ref().err()?;
            (lap.contender == contender && lap.case == case).then(|| format!("failed: {error}"))
        });
        failed.or_else(|| {
            let description = self.contenders.iter().find(|description| description.name == contender)?;
            let (_, answer) = description.cases.iter().find(|(name, _)| name == case)?;
            answer.as_ref().err().cloned()
        })
    }
}

impl Cell<'_> {
    /// The median over the laps of what `pick` takes of each.
    pub(crate) fn median(&self, pick: impl Fn(&Lap, &Figures) -> f64) -> f64 {
        median(self.laps.iter().map(|(lap, figures)| pick(lap, figures)))
    }

    /// The median latency.
    pub(crate) fn p50(&self) -> f64 {
        self.median(|_, figures| figures.p50)
    }

    /// The median of the ratios, each of one lap.
    pub(crate) fn ratio(&self) -> f64 {
        self.median(|lap, figures| figures.p50 / lap.floor())
    }

    /// The median rate.
    pub(crate) fn per_second(&self) -> f64 {
        self.median(|_, figures| figures.per_second)
    }

    /// The medians of the points of the latency curve, each as a multiple of the floor of its lap.
    pub(crate) fn curve(&self) -> Vec<f64> {
        (0..CURVE.len())
            .filter(|&point| self.laps.iter().all(|(_, figures)| point < figures.curve.len()))
            .map(|point| self.median(|lap, figures| figures.curve[point] / lap.floor()))
            .collect()
    }
}
