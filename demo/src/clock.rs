//! The clock that all processes of the demo share.
//!
//! `CLOCK_MONOTONIC` counts from the same instant in every process of one host, so the difference between a
//! publisher's stamp and a subscriber's is the time that the message took, and a kill that the parent stamps
//! can be placed between two messages that a subscriber stamped.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since an instant that is the same for every process of this host.
pub(crate) fn monotonic_ns() -> u64 {
    // The kernel refuses only clocks that it does not know; this one is in every Linux.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has CLOCK_MONOTONIC");
    // Both parts are non-negative for a clock that starts at boot.
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
