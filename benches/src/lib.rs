//! The two-process harness: what a message costs beside what the machine costs.
//!
//! Every figure stands beside a *floor* measured on the same two cores within the same second: the round trip
//! of one cache line over a shared mapping (or of one futex, where processes sleep). The host moves virtual
//! cores between a near and a far place, so nanoseconds of two different minutes cannot be compared; ratios
//! can.
//!
//! ```text
//!   parent, first core                         peer, second core
//!   ------------------                         -----------------
//!   spawn, pin          ---- order (stdin) -->  pin
//!   floor before        <=== bells ==========>  echo            raw cache line, no SDK
//!   the case            <=== hivemind =======>  the other end   through the crate `hivemind`
//!   floor after         <=== bells ==========>  echo
//!   floors agree?       <-- answer (stdout) --  readings
//! ```
//!
//! A run whose two floors disagree by more than [`floor::DISAGREEMENT`] is measured again, at most
//! [`floor::ATTEMPTS`] times; after that it is reported, visibly marked.
//!
//! If the parent dies, the kernel kills the peer; if the peer dies, the parent's waits end with an error,
//! since every spin is bounded by [`floor::PATIENCE`].

pub mod cases;
pub mod error;
pub mod floor;
pub mod machine;
pub mod message;
pub mod peer;
pub mod pinning;
pub mod readings;
pub mod report;
pub mod scale;
pub mod serve;
pub mod stage;
