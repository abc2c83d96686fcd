//! What the tests across processes share. This crate is test code: what fails here panics and says what it
//! waited for.
//!
//! ```text
//! test ── Hive ── Actor ──(orders, answers: one JSON text a line)── process `actor`
//!            └─── Actor ───────────────────────────────────────── process `actor`
//! ```
//!
//! A test reads as a script: it starts *actors*, processes of their own that do what they are told
//! ([`order`]), tells them to publish and to subscribe, kills some with SIGKILL, and looks at what the others
//! saw. Messages are [`entry`]s, each of which carries its number, its length and a checksum, and
//! [`account`]s are kept of what arrived.
//!
//! Nothing here sleeps in order to wait for something: every wait is for the thing itself and ends after
//! [`BOUND`].

pub mod account;
pub mod actor;
pub mod chaos;
pub mod entry;
#[cfg(target_arch = "x86_64")]
pub mod exhaust;
pub mod forgery;
pub mod hive;
pub mod hollow;
pub mod impostor;
pub mod order;
pub mod scribble;
pub mod tamper;
pub mod tracer;
pub mod wire;

use std::time::{Duration, Instant};

/// No wait of a test is longer. Far longer than anything takes, so that a busy machine fails no test.
pub const BOUND: Duration = Duration::from_secs(60);

/// Looks until `found` says yes, at most for [`BOUND`]. For states that nobody announces.
///
/// # Panics
/// When the time is over.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(thing) = found() {
            return thing;
        }
        assert!(start.elapsed() < BOUND, "waited {BOUND:?} in vain: {what}");
        // Gives the core away between two looks; what is waited for may need it.
        std::thread::sleep(Duration::from_micros(200));
    }
}
