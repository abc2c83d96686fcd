//! How figures look on the screen: short, with a unit, at three digits where more would not be read.

use std::fmt;

/// A count with its thousands apart: `1,234,567`.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() * 4 / 3);
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// A span of time in nanoseconds: `850 ns`, `12.3 µs`, `1.20 ms`, `2.50 s`.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        let text = match self.0 {
            0..1_000 => format!("{} ns", self.0),
            1_000..999_500 => format!("{} µs", three(ns / 1e3)),
            999_500..999_500_000 => format!("{} ms", three(ns / 1e6)),
            _ => format!("{} s", three(ns / 1e9)),
        };
        f.pad(&text)
    }
}

/// Bytes: `512 B`, `6.22 MB`, powers of ten.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            bytes if bytes >= 999.5e6 => format!("{} GB", three(bytes / 1e9)),
            bytes if bytes >= 999.5e3 => format!("{} MB", three(bytes / 1e6)),
            bytes if bytes >= 999.5 => format!("{} kB", three(bytes / 1e3)),
            bytes => format!("{bytes:.0} B"),
        };
        f.pad(&text)
    }
}

/// Three digits of a number from 1 to 1000.
fn three(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let show = |count| Count(count).to_string();
        assert_eq!([0, 999, 1000, 1_234_567].map(show), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(format!("{:>7}", Count(1000)), "  1,000");
    }

    #[test]
    fn spans_keep_three_digits() {
        let show = |ns| Span(ns).to_string();
        assert_eq!([0, 850, 12_345, 1_200_000].map(show), ["0 ns", "850 ns", "12.3 µs", "1.20 ms"]);
        assert_eq!(
            [999_499, 999_500, 33_400_000, 2_500_000_000].map(show),
            ["999 µs", "1.00 ms", "33.4 ms", "2.50 s"]
        );
    }

    #[test]
    fn bytes_use_powers_of_ten() {
        let show = |bytes| Bytes(bytes).to_string();
        assert_eq!(
            [0.0, 999.0, 1000.0, 6_220_800.0, 1.87e9].map(show),
            ["0 B", "999 B", "1.00 kB", "6.22 MB", "1.87 GB"]
        );
    }
}
