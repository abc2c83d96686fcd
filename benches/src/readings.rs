//! What a case measured, and what is said about it: percentiles of all readings, never a mean alone.
//!
//! A reading is the time of one *batch* of operations divided by their number, or of one single operation.
//! Batches give an honest median (a reading of the clock costs 23 to 60 ns, a round trip about 150); single
//! readings, less the cost of the clock, give the tail. The harness takes both, one after the other.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Operations under one reading of the clock, where one alone is too short.
pub const BATCH: u64 = 16;

/// Times of single operations or of batches, in picoseconds for one operation.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Readings {
    picoseconds: Vec<u64>,
    operations: u64,
    elapsed_ns: u64,
}

impl Readings {
    /// No readings yet; room for `count`, so that recording does not allocate.
    pub fn with_capacity(count: u64) -> Readings {
        let mut picoseconds =
            vec![0; usize::try_from(count).expect("a count of readings fits the address space")];
        // The pages are touched now, not in the middle of the case.
        black_box(&mut picoseconds);
        picoseconds.clear();
        Readings { picoseconds, operations: 0, elapsed_ns: 0 }
    }

    /// `operations` took `elapsed` together.
    pub fn record(&mut self, elapsed: Duration, operations: u64) {
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.operations += operations;
        self.elapsed_ns += nanoseconds;
        self.picoseconds.push(nanoseconds.saturating_mul(1000) / operations.max(1));
    }

    /// One operation took `elapsed`, of which `clock_ns` were spent on reading the clock.
    pub fn record_single(&mut self, elapsed: Duration, clock_ns: u64) {
        self.record(elapsed.saturating_sub(Duration::from_nanos(clock_ns)), 1);
    }

    /// Percentiles over everything recorded; all zero if nothing was.
    pub fn summary(mut self) -> Summary {
        self.picoseconds.sort_unstable();
        Summary {
            p50: self.percentile(5_000),
            p99: self.percentile(9_900),
            p999: self.percentile(9_990),
            max: self.percentile(10_000),
            per_second: if self.elapsed_ns == 0 {
                0.0
            } else {
                self.operations as f64 * 1e9 / self.elapsed_ns as f64
            },
            operations: self.operations,
        }
    }

    /// The smallest readings that so many of a million readings do not exceed, in nanoseconds: the points of
    /// a curve. Empty if nothing was recorded.
    pub fn quantiles(&mut self, of_a_million: &[u64]) -> Vec<f64> {
        self.picoseconds.sort_unstable();
        let count = self.picoseconds.len() as u64;
        let ranks = of_a_million.iter().map(|share| (count * share).div_ceil(1_000_000).max(1));
        ranks.filter_map(|rank| Some(*self.picoseconds.get(rank as usize - 1)? as f64 / 1000.0)).collect()
    }

    /// The smallest reading that so many of 10,000 readings do not exceed, in nanoseconds. Sorted readings
    /// only.
    fn percentile(&self, of_ten_thousand: usize) -> f64 {
        let count = self.picoseconds.len();
        let rank = (count * of_ten_thousand).div_ceil(10_000).max(1);
        self.picoseconds.get(rank - 1).map_or(0.0, |&reading| reading as f64 / 1000.0)
    }
}

/// The figures of one run, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Half of the readings are no larger.
    pub p50: f64,
    /// 99 % of the readings are no larger.
    pub p99: f64,
    /// 99.9 % of the readings are no larger.
    pub p999: f64,
    /// The largest reading.
    pub max: f64,
    /// Operations per second while the clock ran.
    pub per_second: f64,
    /// How many operations were measured.
    pub operations: u64,
}

impl Summary {
    /// The median of batches with the tail of single readings: what is reported for a round trip.
    pub fn of_batches_and_singles(batches: Readings, singles: Readings) -> Summary {
        let batches = batches.summary();
        let singles = singles.summary();
        Summary {
            p50: batches.p50,
            per_second: batches.per_second,
            operations: batches.operations + singles.operations,
            // A tail below the median of the batches would only say that the clock was cheaper than thought.
            p99: singles.p99.max(batches.p50),
            p999: singles.p999.max(batches.p50),
            max: singles.max.max(batches.p50),
        }
    }
}

/// The median of `values`: the middle one, or the mean of the two in the middle; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// What two readings of the clock in a row cost, in nanoseconds: the median of many.
pub fn clock_cost_ns() -> u64 {
    const PROBES: usize = 2_001;
    let probes = (0..PROBES).map(|_| {
        let start = Instant::now();
        black_box(start.elapsed()).as_nanos() as f64
    });
    median(probes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(nanoseconds: impl IntoIterator<Item = u64>) -> Readings {
        let mut readings = Readings::default();
        for reading in nanoseconds {
            readings.record(Duration::from_nanos(reading), 1);
        }
        readings
    }

    #[test]
    fn percentiles_are_readings_that_were_taken() {
        let summary = readings((1..=1000).rev()).summary();
        assert_eq!((summary.p50, summary.p99, summary.p999, summary.max), (500.0, 990.0, 999.0, 1000.0));
    }

    #[test]
    fn a_single_reading_is_every_percentile() {
        let summary = readings([7]).summary();
        assert_eq!((summary.p50, summary.p99, summary.p999, summary.max), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn no_reading_is_zero_and_no_panic() {
        let summary = Readings::default().summary();
        assert_eq!((summary.p50, summary.max, summary.per_second), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_curve_runs_from_the_median_to_the_largest_reading() {
        let quantiles = readings((1..=1000).rev()).quantiles(&[500_000, 999_000, 1_000_000]);
        assert_eq!(quantiles, [500.0, 999.0, 1000.0]);
        assert!(Readings::default().quantiles(&[500_000]).is_empty());
    }

    #[test]
    fn a_batch_counts_its_operations_and_divides_its_time() {
        let mut readings = Readings::with_capacity(1);
        readings.record(Duration::from_nanos(1600), 16);
        let summary = readings.summary();
        assert_eq!((summary.p50, summary.operations), (100.0, 16));
        assert_eq!(summary.per_second, 1e7);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn the_cost_of_the_clock_is_never_subtracted_below_zero() {
        let mut readings = Readings::default();
        readings.record_single(Duration::from_nanos(5), 40);
        assert_eq!(readings.summary().max, 0.0);
    }
}
