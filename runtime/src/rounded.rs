//! Durations as a person reads them.
//!
//! What an error carries is exact; what it says is rounded: `5 s`, not `5.000098979s`.

use std::fmt;
use std::time::Duration;

/// A duration with two or three digits: whole microseconds, whole milliseconds, tenths of a second below 10
/// s, whole seconds.
#[must_use]
pub fn rounded(duration: Duration) -> impl fmt::Display {
    Rounded(duration)
}

struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded_to = |unit: Duration| (self.0.as_nanos() + unit.as_nanos() / 2) / unit.as_nanos();
        let micros = rounded_to(Duration::from_micros(1));
        let millis = rounded_to(Duration::from_millis(1));
        let tenths = rounded_to(Duration::from_millis(100));
        match (micros, millis, tenths) {
            (0, ..) => formatter.write_str("0 s"),
            (..1000, ..) => write!(formatter, "{micros} us"),
            (_, ..1000, _) => write!(formatter, "{millis} ms"),
            (.., ..100) if !tenths.is_multiple_of(10) => {
                write!(formatter, "{}.{} s", tenths / 10, tenths % 10)
            }
            _ => write!(formatter, "{} s", rounded_to(Duration::from_secs(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_said_in_the_digits_that_a_person_reads() {
        for (nanos, text) in [
            (0, "0 s"),
            (20_000, "20 us"),
            (999_600, "1 ms"),
            (250_000_000, "250 ms"),
            (451_599_800, "452 ms"),
            (999_700_000, "1 s"),
            (1_234_034_453, "1.2 s"),
            (5_000_098_979, "5 s"),
            (9_960_000_000, "10 s"),
            (12_600_000_000, "13 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(rounded(Duration::from_nanos(nanos)).to_string(), text);
        }
        assert!(rounded(Duration::MAX).to_string().ends_with(" s"));
    }
}
