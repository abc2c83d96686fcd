//! The course that every contender runs: the same work, between the same two pinned processes, checked the
//! same way.
//!
//! ```text
//!   race (measures the floor, writes the report)
//!     └─ contender, parent: first core        ── launches ──▶   the same program, peer: second core
//!          open both directions                                  open both directions
//!          wait for "ready"              ◀── stdout ──           "ready"
//!          messages, numbered            ════ rival ═══▶         checks every number, answers or counts
//!          readings to stdout            ◀── stdout ──           readings, counts
//! ```
//!
//! A contender implements [`contender::Contender`]: it opens its link and moves bytes. What is sent, how it
//! is checked and when the clock runs is decided here, for all alike. The crate knows nothing of hivemind, so
//! that a change of hivemind rebuilds hivemind's own contender alone.
//!
//! If the parent dies, the kernel kills the peer. Every wait is bounded by [`waiting::PATIENCE`].

pub mod case;
pub mod contender;
pub mod failure;
pub mod message;
// The harness of hivemind has these two; they are used from there, not copied, and rest on nothing of
// hivemind.
#[path = "../../../src/pinning.rs"]
pub mod pinning;
pub mod program;
#[path = "../../../src/readings.rs"]
pub mod readings;
pub mod resources;
pub mod runner;
pub mod waiting;
