//! Messages that can be checked: each carries its number, the length of its payload, and a checksum of all
//! three.
//!
//! There are two forms of the same: [`Entry`], a typed message, and plain bytes:
//!
//! ```text
//! | number: u64 | length: u64 | checksum: u64 | payload: `length` bytes |      little-endian
//! ```
//!
//! Numbers are the publisher's sequence numbers, so a message that arrives under another sequence shows as
//! well. Payloads are windows of one random block, at a place that depends on the number: two messages of the
//! same length differ, so a mixture of both does not pass the checksum.

use hivemind::message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A typed message that can be checked.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The publisher's sequence of this message.
    pub number: u64,
    /// Bytes of the payload.
    pub length: u64,
    /// Of number, length and payload.
    pub checksum: u64,
    /// Anything.
    pub payload: Vec<u8>,
}

/// Another type, for what must not fit together.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Anything.
    pub celsius: f64,
}

/// Bytes before the payload of a message in the form of plain bytes.
pub const HEAD: usize = 24;
/// The smallest payload of the mix.
pub const PAYLOAD_MIN: usize = 8;
/// The largest payload of the mix, but for the exceptional one.
pub const PAYLOAD_MAX: usize = 4096;
/// Every that many messages one is exceptional.
pub const EXCEPTION_EVERY: u64 = 10_000;
/// The payload of an exceptional message.
pub const EXCEPTION_BYTES: usize = 1 << 20;
/// Places of the block where a payload may begin; a prime, so that they are not aligned.
const PLACES: u64 = 65_521;

/// Scatters numbers (splitmix64).
pub fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The checksum of a message.
pub fn checksum(number: u64, payload: &[u8]) -> u64 {
    xxh3_64_with_seed(payload, scatter(number).wrapping_add(payload.len() as u64))
}

/// Makes messages; the same seed makes the same.
#[derive(Debug)]
pub struct Source {
    seed: u64,
    block: Vec<u8>,
}

impl Source {
    /// A source of messages.
    pub fn new(seed: u64) -> Self {
        let words = (EXCEPTION_BYTES + PLACES as usize).div_ceil(8) as u64;
        let block = (0..words).flat_map(|word| scatter(seed ^ scatter(word)).to_le_bytes()).collect();
        Source { seed, block }
    }

    /// Bytes of the payload of message `number` in the mix: as many small ones as large ones (each power of
    /// two is as likely), and every 10,000th is 1 MiB.
    pub fn mixed_length(&self, number: u64) -> usize {
        if number % EXCEPTION_EVERY == EXCEPTION_EVERY - 1 {
            return EXCEPTION_BYTES;
        }
        let random = scatter(self.seed ^ number);
        let octave = PAYLOAD_MIN << (random % 9);
        octave + (random >> 32) as usize % (octave + 1)
    }

    /// The payload of message `number`.
    pub fn payload(&self, number: u64, length: usize) -> &[u8] {
        let place = (scatter(number.wrapping_mul(3) ^ self.seed) % PLACES) as usize;
        &self.block[place..place + length]
    }

    /// Writes message `number` in the form of plain bytes; `place` has room for exactly [`HEAD`] and the
    /// payload.
    pub fn write(&self, number: u64, place: &mut [u8]) {
        let (head, payload) = place.split_at_mut(HEAD);
        payload.copy_from_slice(self.payload(number, payload.len()));
        head[..8].copy_from_slice(&number.to_le_bytes());
        head[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        head[16..].copy_from_slice(&checksum(number, payload).to_le_bytes());
    }

    /// Makes `entry` message `number`; its memory is used again.
    pub fn fill(&self, number: u64, length: usize, entry: &mut Entry) {
        let payload = self.payload(number, length);
        entry.payload.clear();
        entry.payload.extend_from_slice(payload);
        entry.number = number;
        entry.length = length as u64;
        entry.checksum = checksum(number, payload);
    }
}

impl Entry {
    /// A message that is still to be filled.
    pub fn empty() -> Self {
        Entry { number: 0, length: 0, checksum: 0, payload: Vec::new() }
    }
}

/// What a received message must satisfy, in either form.
pub trait Checked {
    /// Checks the message that arrived as number `sequence`. Returns the bytes of its payload, or what is
    /// wrong with it.
    fn check(&self, sequence: u64) -> Result<usize, String>;
}

impl Checked for ArchivedEntry {
    fn check(&self, sequence: u64) -> Result<usize, String> {
        check(
            sequence,
            self.number.to_native(),
            self.length.to_native(),
            self.checksum.to_native(),
            &self.payload,
        )
    }
}

impl Checked for [u8] {
    fn check(&self, sequence: u64) -> Result<usize, String> {
        if self.len() < HEAD {
            return Err(format!("message {sequence} has {} bytes, not even a head", self.len()));
        }
        let (head, payload) = self.split_at(HEAD);
        let mut words = head
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        let mut word = || words.next().expect("a head has three words");
        check(sequence, word(), word(), word(), payload)
    }
}

fn check(sequence: u64, number: u64, length: u64, sum: u64, payload: &[u8]) -> Result<usize, String> {
    if number != sequence {
        return Err(format!("message {sequence} says that it is number {number}"));
    }
    if length != payload.len() as u64 {
        return Err(format!("message {sequence} says {length} bytes and has {}", payload.len()));
    }
    if sum != checksum(number, payload) {
        return Err(format!("message {sequence} of {length} bytes is torn: its checksum does not hold"));
    }
    Ok(payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_passes_its_check_and_one_changed_byte_does_not() {
        let source = Source::new(1);
        let mut bytes = vec![0; HEAD + 100];
        source.write(7, &mut bytes);
        assert_eq!(bytes.check(7), Ok(100));
        assert!(bytes.check(8).is_err());
        assert!(bytes[..HEAD + 99].check(7).is_err());
        for place in 0..bytes.len() {
            bytes[place] ^= 1;
            assert!(bytes.check(7).is_err(), "byte {place} counts for nothing");
            bytes[place] ^= 1;
        }
    }

    #[test]
    fn the_mix_reaches_from_8_bytes_to_4_kib_and_has_its_exceptions() {
        let source = Source::new(2);
        let lengths: Vec<_> = (0..100_000).map(|number| source.mixed_length(number)).collect();
        let ordinary = lengths.iter().filter(|length| **length != EXCEPTION_BYTES);
        assert_eq!((ordinary.clone().min(), ordinary.max()), (Some(&8), Some(&4096)));
        assert_eq!(lengths.iter().filter(|length| **length == EXCEPTION_BYTES).count(), 10);
        let in_slots = lengths.iter().filter(|length| **length + HEAD <= 56).count();
        assert!((15_000..35_000).contains(&in_slots), "{in_slots} of 100,000 fit into a slot");
    }
}
