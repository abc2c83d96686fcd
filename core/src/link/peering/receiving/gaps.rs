//! How many messages a peer may claim to have been lost: as many as can have been published.
//!
//! A gap in the numbers costs a peer nothing to write. So all gaps together are bounded by the time that
//! passes; beyond that a gap is not a loss but a lie, and the link ends.

use crate::link::peering::settings::Now;

/// No publisher, and no two thousand of them, publish more in a microsecond …
const GAPS_EACH_MICROSECOND: u64 = 256;
/// … and what they publish while nothing is heard of them counts up to this: more than an hour.
const GAPS_MAX: u64 = 1 << 40;

#[derive(Debug)]
pub(super) struct Gaps {
    left: u64,
    at: Now,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps { left: GAPS_MAX, at: Now::ZERO }
    }
}

impl Gaps {
    /// How many messages can have been lost by now.
    pub(super) fn possible(&mut self, now: Now) -> u64 {
        let passed = u64::try_from(now.saturating_sub(self.at).as_micros()).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(passed.saturating_mul(GAPS_EACH_MICROSECOND)).min(GAPS_MAX);
        self.at = self.at.max(now);
        self.left
    }

    pub(super) fn spend(&mut self, lost: u64) {
        self.left = self.left.saturating_sub(lost);
    }
}
