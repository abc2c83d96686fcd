//! Hands out the payload memory of one publisher, chunk by chunk, in constant time.
//!
//! Nothing here lies in shared memory. The allocator is ordinary private memory of the publisher and knows
//! offsets only, so neither a crash nor a peer can corrupt it, and it can be tested without a mapping. If the
//! publisher dies, it dies with it; so do all its chunks.
//!
//! The chunk area is a row of *blocks*, each a whole number of 64-byte units. Every byte that was committed
//! belongs to exactly one block, and a block is either in use (somebody holds its [`Chunk`]) or free. Two
//! free blocks never touch: they are one.
//!
//! ```text
//! chunk area   | in use | free      | in use | in use | free ...       | not committed |
//!              0                                                committed           limit
//!
//! blocks       a table of entries {offset, length, neighbours left and right, place in a bin}; a `Chunk` knows its entry,
//!              so no search and no hash is needed to give it back
//! bins         free blocks by length: below 16 units one bin per length, above that 16 bins per power of two;
//!              two words of bits say which bins hold anything
//! ```
//!
//! This is the *two-level segregated fit* (TLSF) with its boundary tags moved out of the memory they
//! describe. Within a bin, what was freed last is handed out first, because it is most likely still in the
//! cache. The tables grow with the largest number of blocks that ever were, and then never again: in steady
//! state nothing is allocated on the heap.

use std::num::NonZeroU32;

/// Every chunk starts at a multiple of this many bytes and is a multiple of it long: a cache line, and more
/// than any archive asks for.
pub(crate) const UNIT: u64 = 64;

/// No allocator manages more bytes than this, 256 GiB less one unit.
pub(crate) const LIMIT_MAX: u64 = u32::MAX as u64 * UNIT;

/// Each power of two is divided into `2^SUBDIVISION` bins, so a search overlooks at most 1/16 of what it asks
/// for.
const SUBDIVISION: u32 = 4;
const BINS_PER_LEVEL: usize = 1 << SUBDIVISION;

/// How many blocks of the bin that may be too small are looked at before a bin is taken whose every block is
/// long enough. The first look already finds the right block when all messages have one size.
const LOOKS_IN_OWN_BIN: usize = 4;

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

/// A piece of the chunk area that belongs to its holder alone, until it is given back with
/// [`ChunkAllocator::free`].
///
/// Dropping it does not give it back: its memory is lost for the life of the publisher.
// Small enough for two registers, and two fields: each message passes a few of them on, and what is read back
// in other pieces than it was written in waits for the stores before it (see `line`).
#[derive(Debug)]
#[must_use = "a chunk that is not given back is lost until the publisher is gone"]
pub(crate) struct Chunk {
    /// First unit in the upper half, number of units in the lower.
    place: u64,
    /// One more than the index of its entry in the table of the allocator it came from.
    entry: NonZeroU32,
}

impl Chunk {
    fn new(offset_units: u64, units: u64, block: u32) -> Self {
        let entry = NonZeroU32::new(block.wrapping_add(1)).expect("no entry has the index NONE");
        // In range: the allocator manages no more (see [`LIMIT_MAX`]).
        Chunk { place: offset_units << 32 | units, entry }
    }

    /// Where it begins, in bytes from the start of the chunk area; a multiple of [`UNIT`].
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        (self.place >> 32) * UNIT
    }

    /// How many bytes it has: what was asked for, rounded up to a multiple of [`UNIT`].
    #[inline]
    pub(crate) fn length(&self) -> u64 {
        (self.place & u64::from(u32::MAX)) * UNIT
    }

    fn block(&self) -> u32 {
        self.entry.get() - 1
    }
}

/// The allocator of one publisher's chunk area. See the [module](self).
///
/// All lengths and offsets are bytes. No method blocks or makes a system call.
#[derive(Debug)]
pub(crate) struct ChunkAllocator {
    limit_units: u64,
    committed_units: u64,
    used_units: u64,
    blocks: Vec<Block>,
    /// First of the unused entries of `blocks`, chained by `next_in_bin`.
    spare: u32,
    /// The block that ends where the committed memory ends, or `NONE`.
    last: u32,
    /// First block of each bin, `BINS_PER_LEVEL` to a level.
    bins: Vec<u32>,
    /// Bit `n`: level `n` has a bin that holds something.
    levels: u64,
    /// Per level, bit `n`: its bin `n` holds something.
    sublevels: Vec<u16>,
}

/// One entry of the table of blocks.
#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    length: u64,
    /// Its neighbours in memory, or `NONE` at the ends.
    left: u32,
    right: u32,
    /// Its neighbours in its bin, while it is free.
    previous_in_bin: u32,
    next_in_bin: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    InUse,
    Spare,
}

/// Which bin: a level and a place within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bin {
    level: u32,
    place: u32,
}

impl ChunkAllocator {
    /// An allocator that may manage up to `limit` bytes (rounded down to whole units, at most [`LIMIT_MAX`])
    /// and has none yet: see [`extend`](Self::extend).
    #[must_use]
    pub(crate) fn new(limit: u64) -> Self {
        let limit_units = limit.min(LIMIT_MAX) / UNIT;
        let levels = Bin::of(limit_units.max(1)).level as usize + 1;
        Self {
            limit_units,
            committed_units: 0,
            used_units: 0,
            blocks: Vec::new(),
            spare: NONE,
            last: NONE,
            bins: vec![NONE; levels * BINS_PER_LEVEL],
            levels: 0,
            sublevels: vec![0; levels],
        }
    }

    /// Makes room in the tables for `chunks` chunks at a time and the free blocks between them, so that fewer
    /// than that never allocate on the heap.
    pub(crate) fn expect_chunks(&mut self, chunks: usize) {
        self.blocks.reserve((2 * chunks + 1).saturating_sub(self.blocks.len()));
    }

    /// The most bytes it may ever manage.
    #[must_use]
    pub(crate) fn limit(&self) -> u64 {
        self.limit_units * UNIT
    }

    /// The bytes it manages now, free or not.
    #[must_use]
    pub(crate) fn committed(&self) -> u64 {
        self.committed_units * UNIT
    }

    /// The bytes that chunks are holding.
    #[must_use]
    pub(crate) fn in_use(&self) -> u64 {
        self.used_units * UNIT
    }

    /// Takes over the next `bytes` after what is committed; they join a free block that ends there.
    ///
    /// After `extend(bytes)` an [`allocate`](Self::allocate) of up to that many bytes cannot fail.
    ///
    /// # Panics
    ///
    /// If `bytes` is no multiple of [`UNIT`], or the limit would be passed: ask [`limit`](Self::limit) and
    /// [`committed`](Self::committed) first.
    pub(crate) fn extend(&mut self, bytes: u64) {
        assert!(bytes.is_multiple_of(UNIT), "{bytes} bytes are no multiple of {UNIT}");
        let units = bytes / UNIT;
        assert!(
            units <= self.limit_units - self.committed_units,
            "{bytes} bytes on top of {} pass the limit of {}",
            self.committed(),
            self.limit()
        );
        if units == 0 {
            return;
        }
        let offset = self.committed_units;
        self.committed_units += units;
        if self.last != NONE && self.block(self.last).state == State::Free {
            let tail = self.last;
            self.take_from_bin(tail);
            self.block_mut(tail).length += units;
            self.put_in_bin(tail);
        } else {
            let tail = self.new_block(offset, units, self.last, NONE);
            self.put_in_bin(tail);
        }
    }

    /// A chunk of at least `length` bytes (a length of 0 counts as 1), or `None` when no free block is known
    /// to be long enough.
    ///
    /// Constant time. `None` although there is a fitting block happens only when that block is less than 1/16
    /// longer than what was asked for, and others of nearly its length were freed after it.
    pub(crate) fn allocate(&mut self, length: u64) -> Option<Chunk> {
        let units = units_for(length);
        if units > self.committed_units - self.used_units {
            return None;
        }
        let index = self.recently_freed(units).or_else(|| self.surely_long_enough(units))?;
        self.take_from_bin(index);
        self.block_mut(index).state = State::InUse;
        self.cut(index, units);
        self.used_units += units;
        Some(Chunk::new(self.block(index).offset, units, index))
    }

    /// Gives back what lies behind the first `length` bytes of `chunk` (rounded up to whole units, at least
    /// one).
    ///
    /// # Panics
    ///
    /// If `length` is more than the chunk has, or the chunk is not of this allocator.
    pub(crate) fn shrink(&mut self, chunk: &mut Chunk, length: u64) {
        let before = self.units_of(chunk);
        let after = units_for(length);
        assert!(after <= before, "a chunk of {} bytes cannot shrink to {length}", chunk.length());
        self.cut(chunk.block(), after);
        self.used_units -= before - after;
        *chunk = Chunk::new(chunk.offset() / UNIT, after, chunk.block());
    }

    /// Takes a chunk back; it joins its free neighbours and is the first to be handed out again.
    ///
    /// # Panics
    ///
    /// If the chunk is not of this allocator.
    #[expect(clippy::needless_pass_by_value, reason = "whoever gives a chunk back must not keep it")]
    pub(crate) fn free(&mut self, chunk: Chunk) {
        self.used_units -= self.units_of(&chunk);
        let mut index = chunk.block();
        let Block { left, right, .. } = *self.block(index);
        if right != NONE && self.block(right).state == State::Free {
            self.take_from_bin(right);
            self.join(index, right);
        }
        if left != NONE && self.block(left).state == State::Free {
            self.take_from_bin(left);
            self.join(left, index);
            index = left;
        }
        self.put_in_bin(index);
    }

    /// Gives up what is committed behind the first `bytes`, so that it can be taken over again; nothing where
    /// less is committed.
    ///
    /// # Panics
    ///
    /// If `bytes` is no multiple of [`UNIT`], or somebody holds some of what is given up.
    pub(crate) fn retract(&mut self, bytes: u64) {
        assert!(bytes.is_multiple_of(UNIT), "{bytes} bytes are no multiple of {UNIT}");
        let units = bytes / UNIT;
        if units >= self.committed_units {
            return;
        }
        let tail = self.last;
        let Block { offset, left, state, .. } = *self.block(tail);
        assert!(state == State::Free && offset <= units, "what is given up is free");
        self.take_from_bin(tail);
        if offset < units {
            self.block_mut(tail).length = units - offset;
            self.put_in_bin(tail);
        } else {
            if left != NONE {
                self.block_mut(left).right = NONE;
            }
            self.last = left;
            let spare = self.spare;
            let gone = self.block_mut(tail);
            gone.state = State::Spare;
            gone.next_in_bin = spare;
            self.spare = tail;
        }
        self.committed_units = units;
    }

    /// The units of a chunk, after checking that it is one of ours: anything else is a mistake of this crate.
    fn units_of(&self, chunk: &Chunk) -> u64 {
        let block = self.block(chunk.block());
        assert!(
            block.state == State::InUse
                && block.offset * UNIT == chunk.offset()
                && block.length * UNIT == chunk.length(),
            "{chunk:?} is no chunk of this allocator: its entry says {block:?}"
        );
        block.length
    }

    /// Among the blocks freed last in the bin of `units`, which also holds somewhat shorter ones: one that is
    /// long enough.
    fn recently_freed(&self, units: u64) -> Option<u32> {
        let own = self.bins.get(Bin::of(units).index())?;
        let candidates = std::iter::successors(Some(*own), |&index| {
            (index != NONE).then(|| self.block(index).next_in_bin)
        });
        candidates
            .take(LOOKS_IN_OWN_BIN)
            .take_while(|&index| index != NONE)
            .find(|&index| self.block(index).length >= units)
    }

    /// The first block of the lowest bin in which no block is shorter than `units`.
    fn surely_long_enough(&self, units: u64) -> Option<u32> {
        let from = Bin::at_least(units);
        let level = from.level as usize;
        let here = self.sublevels.get(level)? & (u16::MAX << from.place);
        let bin = if here != 0 {
            Bin { level: from.level, place: here.trailing_zeros() }
        } else {
            let above = self.levels & u64::MAX.checked_shl(from.level + 1).unwrap_or(0);
            if above == 0 {
                return None;
            }
            let level = above.trailing_zeros();
            Bin { level, place: self.sublevels[level as usize].trailing_zeros() }
        };
        Some(self.bins[bin.index()])
    }

    /// Shortens a block that is in no bin to `units`; what is cut off becomes free.
    fn cut(&mut self, index: u32, units: u64) {
        let Block { offset, length, right, .. } = *self.block(index);
        if length == units {
            return;
        }
        self.block_mut(index).length = units;
        if right != NONE && self.block(right).state == State::Free {
            self.take_from_bin(right);
            let right_block = self.block_mut(right);
            right_block.offset = offset + units;
            right_block.length += length - units;
            self.put_in_bin(right);
        } else {
            let tail = self.new_block(offset + units, length - units, index, right);
            self.put_in_bin(tail);
        }
    }

    /// Makes one block of two that touch; `right` leaves the table.
    fn join(&mut self, left: u32, right: u32) {
        let gone = *self.block(right);
        debug_assert_eq!(self.block(left).offset + self.block(left).length, gone.offset);
        let left_block = self.block_mut(left);
        left_block.length += gone.length;
        left_block.right = gone.right;
        if gone.right == NONE {
            self.last = left;
        } else {
            self.block_mut(gone.right).left = left;
        }
        let spare = self.spare;
        let right_block = self.block_mut(right);
        right_block.state = State::Spare;
        right_block.next_in_bin = spare;
        self.spare = right;
    }

    /// A new entry between two neighbours, in no bin yet.
    fn new_block(&mut self, offset: u64, length: u64, left: u32, right: u32) -> u32 {
        let block = Block {
            offset,
            length,
            left,
            right,
            previous_in_bin: NONE,
            next_in_bin: NONE,
            state: State::InUse,
        };
        let index = if self.spare == NONE {
            let index = self.blocks.len() as u32;
            assert!(index != NONE, "2^32 blocks are more than any table here can name");
            self.blocks.push(block);
            index
        } else {
            let index = self.spare;
            self.spare = self.block(index).next_in_bin;
            *self.block_mut(index) = block;
            index
        };
        if left != NONE {
            self.block_mut(left).right = index;
        }
        if right == NONE {
            self.last = index;
        } else {
            self.block_mut(right).left = index;
        }
        index
    }

    fn put_in_bin(&mut self, index: u32) {
        let bin = Bin::of(self.block(index).length);
        let next = std::mem::replace(&mut self.bins[bin.index()], index);
        let block = self.block_mut(index);
        block.state = State::Free;
        block.previous_in_bin = NONE;
        block.next_in_bin = next;
        if next != NONE {
            self.block_mut(next).previous_in_bin = index;
        }
        self.levels |= 1 << bin.level;
        self.sublevels[bin.level as usize] |= 1 << bin.place;
    }

    fn take_from_bin(&mut self, index: u32) {
        let Block { length, previous_in_bin, next_in_bin, .. } = *self.block(index);
        if next_in_bin != NONE {
            self.block_mut(next_in_bin).previous_in_bin = previous_in_bin;
        }
        if previous_in_bin != NONE {
            self.block_mut(previous_in_bin).next_in_bin = next_in_bin;
            return;
        }
        let bin = Bin::of(length);
        debug_assert_eq!(self.bins[bin.index()], index);
        self.bins[bin.index()] = next_in_bin;
        if next_in_bin == NONE {
            let level = &mut self.sublevels[bin.level as usize];
            *level &= !(1 << bin.place);
            if *level == 0 {
                self.levels &= !(1 << bin.level);
            }
        }
    }

    fn block(&self, index: u32) -> &Block {
        &self.blocks[index as usize]
    }

    fn block_mut(&mut self, index: u32) -> &mut Block {
        &mut self.blocks[index as usize]
    }
}

impl Bin {
    /// The bin in which a block of `units` is kept.
    fn of(units: u64) -> Self {
        debug_assert!(units > 0);
        if units < BINS_PER_LEVEL as u64 {
            return Self { level: 0, place: units as u32 };
        }
        let power = units.ilog2();
        let place = (units >> (power - SUBDIVISION)) as u32 & (BINS_PER_LEVEL as u32 - 1);
        Self { level: power - SUBDIVISION + 1, place }
    }

    /// The lowest bin that holds no block shorter than `units`.
    fn at_least(units: u64) -> Self {
        if units < BINS_PER_LEVEL as u64 {
            return Self::of(units);
        }
        Self::of(units + ((1 << (units.ilog2() - SUBDIVISION)) - 1))
    }

    fn index(self) -> usize {
        self.level as usize * BINS_PER_LEVEL + self.place as usize
    }
}

/// The units that `length` bytes take.
fn units_for(length: u64) -> u64 {
    length.div_ceil(UNIT).max(1)
}

#[cfg(test)]
mod tests;
