//! Why the harness could not measure.

use std::io;

/// Why a case was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The peer stopped answering. It has been killed; run the case alone with `--only` and look at its
    /// stderr.
    #[error(
        "the peer was silent for {waited_s} s while {during}; run that case alone with `--only` to see why"
    )]
    Silent {
        /// What the harness waited for.
        during: &'static str,
        /// How long, in seconds.
        waited_s: u64,
    },
    /// A message came back that was not the one sent: a defect of hivemind. Report it with the command line.
    #[error(
        "message {expected} was sent and {found} came back; this is a defect of hivemind, please report it"
    )]
    Mixed {
        /// The sequence number sent.
        expected: u64,
        /// The sequence number received.
        found: u64,
    },
    /// The peer refused an order. The text is the peer's own error.
    #[error("the peer failed: {0}")]
    Peer(String),
    /// The parent and the peer could not talk. Look at the peer's stderr above.
    #[error("no conversation with the peer: {0}")]
    Conversation(#[from] io::Error),
    /// An order or an answer did not parse: parent and peer are different builds. Rebuild.
    #[error("an order or an answer did not parse: {0}; rebuild the harness")]
    Format(#[from] serde_json::Error),
    /// The shared lines of the floor could not be made or mapped; the source says what to do.
    #[error("no shared lines for the floor: {0}")]
    Floor(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The SDK refused; its own error says what to do.
    #[error("hivemind: {0}")]
    Hivemind(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl HarnessError {
    /// Wraps an error of making or opening the floor's segment.
    pub fn floor(error: impl std::error::Error + Send + Sync + 'static) -> HarnessError {
        HarnessError::Floor(Box::new(error))
    }

    /// Wraps whatever error of the SDK.
    pub fn hivemind(error: impl std::error::Error + Send + Sync + 'static) -> HarnessError {
        HarnessError::Hivemind(Box::new(error))
    }
}
