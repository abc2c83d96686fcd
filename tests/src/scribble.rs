//! A process that writes over its own shared memory behind the SDK's back, through `/proc/self/mem`: whatever
//! the kernel lets it write, another process may find.

use crate::entry::scatter;
use crate::order::Over;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where the header of a ring says at which byte chunks begin, and how many bytes there are.
const CHUNKS_WORDS: u64 = 8 * 8;
/// Slots begin here.
const SLOTS: u64 = 32 * 8;
/// Beyond so many bytes a mapping is left alone: what is not touched yet takes memory when it is.
const TOUCHED: u64 = 1 << 20;

/// Memory that this process shares with others and may write.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    length: u64,
}

/// All memory of one kind.
#[derive(Debug)]
pub struct Scribbler {
    memory: File,
    places: Vec<Place>,
    over: Over,
}

impl Scribbler {
    /// Finds what this process may write over.
    ///
    /// # Errors
    /// If the kernel does not let it look.
    pub fn find(over: Over) -> std::io::Result<Scribbler> {
        let labels: &[&str] = match over {
            Over::Messages | Over::Rings => &["ring"],
            Over::Readers => &["reader", "bells"],
            Over::Bells => &["bells"],
        };
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let places = maps.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (range, access, name) = (words.next()?, words.next()?, words.nth(3)?);
            let label = name.strip_prefix("/memfd:")?;
            let (start, end) = range.split_once('-')?;
            let address = |text| u64::from_str_radix(text, 16).ok();
            let place = Place { start: address(start)?, length: address(end)? - address(start)? };
            (access == "rw-s" && labels.contains(&label)).then_some(place)
        });
        let places = places.collect();
        let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
        Ok(Scribbler { memory, places, over })
    }

    /// How many pieces of memory there are.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Where within a place it writes.
    fn part(&self, place: Place) -> std::io::Result<(u64, u64)> {
        let whole = (place.start, place.length.min(TOUCHED));
        if self.over != Over::Messages {
            return Ok(whole);
        }
        let mut words = [0; 16];
        self.memory.read_exact_at(&mut words, place.start + CHUNKS_WORDS)?;
        let word =
            |at: usize| words[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (offset, length): (u64, u64) = (word(0), word(8));
        Ok((place.start + offset, length.min(TOUCHED)))
    }

    /// Fills all of it with one byte.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill(&self, byte: u8) -> std::io::Result<()> {
        for place in &self.places {
            let (start, length) = self.part(*place)?;
            self.memory.write_all_at(&vec![byte; length as usize], start)?;
        }
        Ok(())
    }

    /// Writes some random words; `turn` says which.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn scribble(&self, turn: u64) -> std::io::Result<()> {
        let random = scatter(turn);
        if self.over == Over::Bells {
            // Nothing hides a sleeper so well as zeros.
            return self.fill(if random & 1 == 0 { 0 } else { (random >> 8) as u8 });
        }
        let Some(place) = self.places.get(random as usize % self.places.len().max(1)) else { return Ok(()) };
        let (start, length) = self.part(*place)?;
        // Mostly where it hurts: the header, the first slots, the first chunks.
        let span = match random >> 32 & 3 {
            0 => SLOTS,
            1 => 32 << 10,
            2 => 64 << 10,
            _ => length,
        };
        let words = span.min(length) / 8;
        let at = start + scatter(random) % words * 8;
        // Something that nearly makes sense, more often than not.
        let value = match random >> 40 & 7 {
            0 => 0,
            1 => u64::MAX,
            2 => scatter(random ^ 1),
            3 => scatter(random ^ 1) % 4096,
            4 => (scatter(random ^ 1) % 4096) << 8 | 0xF0,
            5 => (scatter(random ^ 1) % 4096) << 8 | scatter(random ^ 2) & 0xFF,
            6 => 1 << (scatter(random ^ 1) % 64),
            _ => (scatter(random ^ 1) % 4096) << 6,
        };
        self.memory.write_all_at(&value.to_le_bytes(), at)
    }
}
