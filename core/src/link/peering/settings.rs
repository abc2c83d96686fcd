//! What can be set for one link.

use std::time::Duration;

use crate::link::frame::PIECE;

/// Time since some moment that never changes.
pub type Now = Duration;

/// Timeouts and sizes of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which the other host is asked for a sign of life.
    pub keep_alive: Duration,
    /// Silence after which the connection is dead.
    pub dead: Duration,
    /// How long streams are kept without a connection.
    pub hold: Duration,
    /// Bytes of one stream that may be under way, beside one message.
    pub window: u64,
    /// Longest part of a message that is sent at once, in bytes; at most
    /// [`PIECE_MAX`](crate::link::frame::PIECE_MAX).
    pub piece: u32,
    /// After a wait shorter than this, the receiving thread polls for this long before it sleeps again. It
    /// yields its processor between polls.
    pub spin: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            keep_alive: Duration::from_secs(2),
            dead: Duration::from_secs(6),
            hold: Duration::from_secs(30),
            window: 4 * 1024 * 1024,
            piece: PIECE,
            // Twice the cost of a wake-up on a virtual machine whose processor has gone idle.
            spin: Duration::from_micros(100),
        }
    }
}
