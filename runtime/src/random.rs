//! Numbers that no other process has.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A random number, never 0.
#[must_use]
pub fn random_number() -> u64 {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = number_of(&RandomState::new(), std::process::id(), now);
        if number != 0 {
            return number;
        }
    }
}

/// The keys come from the system's random numbers, so processes that start together differ; the rest is for
/// those that are forked, whose keys are the same.
fn number_of(keys: &RandomState, process: u32, now: Duration) -> u64 {
    let mut hasher = keys.build_hasher();
    hasher.write_u32(process);
    hasher.write_u128(now.as_nanos());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Once a process and its forked child, which then joined both, had the same epoch.
    #[test]
    fn a_forked_child_makes_other_epochs_than_its_parent() {
        let (keys, now) = (RandomState::new(), Duration::from_secs(1));
        assert_ne!(number_of(&keys, 100, now), number_of(&keys, 101, now));
        // In another namespace it may have the same number.
        assert_ne!(number_of(&keys, 1, now), number_of(&keys, 1, now + Duration::from_nanos(1)));
    }
}
