//! The typed messages that are measured.

use hivemind::message;

/// A message whose archive is exactly 56 bytes of plain data: it travels inside a slot.
#[message]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Counts the messages of a case, so that every answer can be checked.
    pub sequence: u64,
    /// Six words of payload.
    pub values: [f64; 6],
}

impl Reading {
    /// The message number `sequence`.
    pub fn numbered(sequence: u64) -> Reading {
        Reading { sequence, values: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] }
    }
}

/// A typed message of about 4 KiB: too large for a slot, so it travels in a chunk.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Counts the messages of a case.
    pub sequence: u64,
    /// The payload.
    pub values: Vec<u64>,
}

impl Block {
    /// The message number `sequence`, with a payload of 4,064 bytes.
    pub fn numbered(sequence: u64) -> Block {
        Block { sequence, values: (0..508).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_message_is_an_archive_of_56_bytes() {
        assert_eq!(size_of::<<Reading as rkyv::Archive>::Archived>(), 56);
    }
}
