//! What travels: words that all carry the number of the message, so that a lost, doubled or torn one is seen.
//!
//! ```text
//!   word 0  number     1, 2, 3, ... without a gap
//!   word 1  mark       0, or START: the clock starts after this one, or LAST: nothing follows
//!   word 2.. the number again
//! ```
//!
//! *Small* messages are one cache line (64 bytes; 56 for contenders whose line holds a stamp of its own): all
//! words are written, the first, the mark and the last are read. *Touched* messages have their first and last
//! cache line written and read. *Full* messages are written and read in every word.

/// An ordinary message.
pub const ORDINARY: u64 = 0;
/// The clock starts once this message has been received.
pub const START: u64 = 1;
/// The last message.
pub const LAST: u64 = 2;

/// Bytes of a small message.
pub const SMALL: usize = 64;
/// A cache line.
pub const LINE: usize = 64;

/// A small message, ready to be written.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Small(pub [u64; 8]);

impl Small {
    /// The message with that number and mark.
    #[inline(always)]
    pub fn numbered(number: u64, mark: u64) -> Small {
        Small([number, mark, number, number, number, number, number, number])
    }

    /// What its receiver looks at.
    #[inline(always)]
    pub fn seen(&self) -> Seen {
        Seen { number: self.0[0], mark: self.0[1], last: self.0[7] }
    }
}

/// What was read of a message: enough to check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The first word.
    pub number: u64,
    /// The second word.
    pub mark: u64,
    /// The last word.
    pub last: u64,
}

/// Which part of a message is written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One cache line, all of it.
    Small,
    /// The first and the last cache line.
    Touched,
    /// Every word.
    Full,
}

/// The words of `bytes`; they need not be aligned.
#[inline(always)]
fn words_mut(bytes: &mut [u8]) -> &mut [[u8; 8]] {
    bytes.as_chunks_mut::<8>().0
}

/// Writes the message into `bytes`, as much of it as `part` says.
#[inline(always)]
pub fn fill(bytes: &mut [u8], part: Part, number: u64, mark: u64) {
    let length = bytes.len();
    match part {
        Part::Small => {
            for word in words_mut(&mut bytes[..SMALL]) {
                *word = number.to_le_bytes();
            }
        }
        Part::Touched => {
            for word in words_mut(&mut bytes[..LINE]) {
                *word = number.to_le_bytes();
            }
            for word in words_mut(&mut bytes[length - LINE..]) {
                *word = number.to_le_bytes();
            }
        }
        Part::Full => {
            for word in words_mut(bytes) {
                *word = number.to_le_bytes();
            }
        }
    }
    bytes[8..16].copy_from_slice(&mark.to_le_bytes());
}

/// Reads as much of the message as `part` says. `last` differs from `number` if any word read contradicts.
#[inline(always)]
pub fn read(bytes: &[u8], part: Part) -> Seen {
    let words = bytes.as_chunks::<8>().0;
    let number = u64::from_le_bytes(words[0]);
    let mark = u64::from_le_bytes(words[1]);
    let last = match part {
        Part::Small => u64::from_le_bytes(words[7]),
        Part::Touched => {
            let (first, last) = (&words[2..8], &words[words.len() - 8..]);
            number ^ (differences(first, number) | differences(last, number))
        }
        Part::Full => number ^ differences(&words[2..], number),
    };
    Seen { number, mark, last }
}

/// Zero if every word is `number`.
#[inline(always)]
fn differences(words: &[[u8; 8]], number: u64) -> u64 {
    words.iter().fold(0, |different, word| different | (u64::from_le_bytes(*word) ^ number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen_in_every_part_that_is_read() {
        for (part, length, places) in [
            (Part::Small, 64, vec![0, 7, 56, 63]),
            (Part::Touched, 4096, vec![0, 16, 63, 4032, 4095]),
            (Part::Full, 4096, vec![0, 16, 64, 2048, 4095]),
        ] {
            let mut bytes = vec![0; length];
            fill(&mut bytes, part, 9, START);
            assert_eq!(read(&bytes, part), Seen { number: 9, mark: START, last: 9 });
            for place in places {
                let mut changed = bytes.clone();
                changed[place] ^= 1;
                let seen = read(&changed, part);
                assert!(seen.number != 9 || seen.last != 9, "{part:?}, byte {place}");
            }
        }
    }

    #[test]
    fn a_small_message_is_the_same_as_words_and_as_bytes() {
        let mut bytes = [0; SMALL];
        fill(&mut bytes, Part::Small, 5, LAST);
        assert_eq!(read(&bytes, Part::Small), Small::numbered(5, LAST).seen());
    }
}
