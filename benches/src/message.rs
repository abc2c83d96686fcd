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

/// A message with a hundred nested strings, which nothing but a walk over all of it can archive: about 5 KiB
/// in a chunk.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Counts the messages of a case.
    pub sequence: u64,
    /// A hundred of them.
    pub items: Vec<Item>,
}

/// One line of a [`Manifest`].
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its place in the list.
    pub number: u64,
    /// In kilograms.
    pub weight: f64,
    /// Too long to lie in the string's own words.
    pub name: String,
}

impl Manifest {
    /// The message number `sequence`.
    pub fn numbered(sequence: u64) -> Manifest {
        let item =
            |number| Item { number, weight: 0.5, name: format!("crate number {number:03} of this list") };
        Manifest { sequence, items: (0..100).map(item).collect() }
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
