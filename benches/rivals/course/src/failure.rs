//! Why a contender could not run a case.

use std::fmt::Display;

/// Why a case was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The other end stopped answering. Run that case alone with `--only CONTENDER/CASE` and look at its
    /// stderr.
    #[error(
        "nothing happened for {waited_s} s while waiting for {what}; run that case alone with `--only CONTENDER/CASE`"
    )]
    Silent {
        /// What was waited for.
        what: &'static str,
        /// How long, in seconds.
        waited_s: u64,
    },
    /// A message was lost, doubled, disordered or torn: no figure of this run counts.
    #[error("message {expected} was expected and {found} arrived; no figure of this run counts")]
    Mixed {
        /// The number that was due.
        expected: u64,
        /// The number that arrived; `u64::MAX` for a message whose words contradict each other.
        found: u64,
    },
    /// The rival refused; its own words.
    #[error("{0}")]
    Rival(String),
    /// The contender does not offer this case; the report says why.
    #[error("not offered: {0}")]
    NotOffered(&'static str),
    /// The two processes could not talk. Look at the peer's stderr.
    #[error("no conversation between the two processes: {0}")]
    Conversation(#[from] std::io::Error),
    /// Parent and peer are different builds. Build again with `benches/rivals/run`.
    #[error("an answer did not parse: {0}; build again")]
    Format(#[from] serde_json::Error),
    /// The process could not be placed; the text says what to do.
    #[error("{0}")]
    Unplaced(#[from] crate::pinning::PinError),
}

/// What a contender's step yields.
pub type Result<T> = std::result::Result<T, Failure>;

/// Wraps whatever a rival says.
pub fn rival(error: impl Display) -> Failure {
    Failure::Rival(error.to_string())
}
