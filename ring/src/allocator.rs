//! Hands out the payload memory of one publisher, chunk by chunk, in constant time.
//!
//! Nothing here lies in shared memory. The allocator is ordinary private memory of the publisher and knows offsets
//! only, so neither a crash nor a peer can corrupt it, and it can be tested without a mapping. If the publisher
//! dies, it dies with it; so do all its chunks.
//!
//! The chunk area is a row of *blocks*, each a whole number of 64-byte units. Every byte that was committed belongs
//! to exactly one block, and a block is either in use (somebody holds its [`Chunk`]) or free. Two free blocks never
//! touch: they are one.
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
//! This is the *two-level segregated fit* (TLSF) with its boundary tags moved out of the memory they describe.
//! Within a bin, what was freed last is handed out first, because it is most likely still in the cache. The tables
//! grow with the largest number of blocks that ever were, and then never again: in steady state nothing is
//! allocated on the heap.

use std::num::NonZeroU32;

/// Every chunk starts at a multiple of this many bytes and is a multiple of it long: a cache line, and more than
/// any archive asks for.
pub const UNIT: u64 = 64;

/// No allocator manages more bytes than this, 256 GiB less one unit.
pub const LIMIT_MAX: u64 = u32::MAX as u64 * UNIT;

/// Each power of two is divided into `2^SUBDIVISION` bins, so a search overlooks at most 1/16 of what it asks for.
const SUBDIVISION: u32 = 4;
const BINS_PER_LEVEL: usize = 1 << SUBDIVISION;

/// How many blocks of the bin that may be too small are looked at before a bin is taken whose every block is long
/// enough. The first look already finds the right block when all messages have one size.
const LOOKS_IN_OWN_BIN: usize = 4;

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

/// A piece of the chunk area that belongs to its holder alone, until it is given back with [`ChunkAllocator::free`].
///
/// It is not returned by being dropped: whoever drops it loses that memory for the life of the publisher.
// Small enough for two registers, and two fields: each message passes a few of them on, and what is read back in other pieces than
// it was written in waits for the stores before it (see `line`).
#[derive(Debug)]
#[must_use = "a chunk that is not given back is lost until the publisher is gone"]
pub struct Chunk {
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
    pub fn offset(&self) -> u64 {
        (self.place >> 32) * UNIT
    }

    /// How many bytes it has: what was asked for, rounded up to a multiple of [`UNIT`].
    #[inline]
    pub fn length(&self) -> u64 {
        (self.place & u64::from(u32::MAX)) * UNIT
    }

    fn block(&self) -> u32 {
        self.entry.get() - 1
    }
}

/// The allocator of one publisher's chunk area. See the [module](self).
///
/// All lengths and offsets are bytes. No method blocks or makes a system call.
///
/// ```
/// use hivemind_ring::allocator::ChunkAllocator;
///
/// let mut allocator = ChunkAllocator::new(1 << 20);
/// assert!(allocator.allocate(100).is_none(), "nothing is committed yet");
/// allocator.extend(4096);
/// let chunk = allocator.allocate(100).expect("4096 bytes are free");
/// assert_eq!((chunk.offset(), chunk.length()), (0, 128));
/// allocator.free(chunk);
/// assert_eq!(allocator.in_use(), 0);
/// ```
#[derive(Debug)]
pub struct ChunkAllocator {
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
    /// Who touches it in memory, or `NONE` at the ends.
    left: u32,
    right: u32,
    /// Who is beside it in its bin, while it is free.
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
    /// An allocator that may manage up to `limit` bytes (rounded down to whole units, at most [`LIMIT_MAX`]) and has none yet:
    /// see [`extend`](Self::extend).
    #[must_use]
    pub fn new(limit: u64) -> Self {
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

    /// Makes room in the tables for `chunks` chunks at a time and the free blocks between them, so that fewer than that
    /// never allocate on the heap.
    pub fn expect_chunks(&mut self, chunks: usize) {
        self.blocks.reserve((2 * chunks + 1).saturating_sub(self.blocks.len()));
    }

    /// The most bytes it may ever manage.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit_units * UNIT
    }

    /// The bytes it manages now, free or not.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed_units * UNIT
    }

    /// The bytes that chunks are holding.
    #[must_use]
    pub fn in_use(&self) -> u64 {
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
    pub fn extend(&mut self, bytes: u64) {
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

    /// A chunk of at least `length` bytes (a length of 0 counts as 1), or `None` when no free block is known to be
    /// long enough.
    ///
    /// Constant time. `None` although there is a fitting block happens only when that block is less than 1/16
    /// longer than what was asked for, and others of nearly its length were freed after it.
    pub fn allocate(&mut self, length: u64) -> Option<Chunk> {
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

    /// Gives back what lies behind the first `length` bytes of `chunk` (rounded up to whole units, at least one).
    ///
    /// # Panics
    ///
    /// If `length` is more than the chunk has, or the chunk is not of this allocator.
    pub fn shrink(&mut self, chunk: &mut Chunk, length: u64) {
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
    pub fn free(&mut self, chunk: Chunk) {
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

    /// Gives up what is committed behind the first `bytes`, so that it can be taken over again; nothing where less is committed.
    ///
    /// # Panics
    ///
    /// If `bytes` is no multiple of [`UNIT`], or somebody holds some of what is given up.
    pub fn retract(&mut self, bytes: u64) {
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

    /// Among the blocks freed last in the bin of `units`, which also holds somewhat shorter ones: one that is long
    /// enough.
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl ChunkAllocator {
        /// The blocks in memory order: offset, length, free?; checked on the way against every rule of the module's
        /// head.
        fn walk(&self) -> Vec<(u64, u64, bool)> {
            let mut index = self.last;
            let mut end = self.committed_units;
            let mut row = Vec::new();
            let mut right = NONE;
            while index != NONE {
                let block = self.block(index);
                assert_eq!(block.offset + block.length, end, "blocks leave no gap");
                assert!(block.length > 0);
                assert_eq!(block.right, right);
                assert_ne!(block.state, State::Spare);
                let free = block.state == State::Free;
                if let Some(&(_, _, right_is_free)) = row.last() {
                    assert!(!(free && right_is_free), "two free blocks touch");
                }
                row.push((block.offset * UNIT, block.length * UNIT, free));
                (end, right, index) = (block.offset, index, block.left);
            }
            assert_eq!(end, 0);
            row.reverse();
            let in_bins = (0..self.bins.len()).map(|bin| self.count_bin(bin)).sum::<usize>();
            assert_eq!(in_bins, row.iter().filter(|block| block.2).count());
            row
        }

        fn count_bin(&self, bin: usize) -> usize {
            let (level, place) = (bin / BINS_PER_LEVEL, bin % BINS_PER_LEVEL);
            let marked = self.sublevels[level] & (1 << place) != 0;
            assert_eq!(marked, self.bins[bin] != NONE);
            assert_eq!(self.levels & (1 << level) != 0, self.sublevels[level] != 0);
            let chain = std::iter::successors(Some(self.bins[bin]), |&i| {
                (i != NONE).then(|| self.block(i).next_in_bin)
            });
            chain
                .take_while(|&index| index != NONE)
                .inspect(|&index| {
                    assert_eq!(self.block(index).state, State::Free);
                    assert_eq!(Bin::of(self.block(index).length).index(), bin);
                })
                .count()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Extend(u64),
        Allocate(u64),
        Shrink(usize, u64),
        Free(usize),
    }

    fn lengths() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..2_000_u64, 2 => 0..70_000_u64, 1 => 0..3_000_000_u64, 1 => Just(u64::MAX)]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (1..5_000_u64).prop_map(|units| Step::Extend(units * UNIT)),
            8 => lengths().prop_map(Step::Allocate),
            3 => (any::<usize>(), lengths()).prop_map(|(which, length)| Step::Shrink(which, length)),
            6 => any::<usize>().prop_map(Step::Free),
        ];
        proptest::collection::vec(step, 1..300)
    }

    proptest! {
        // The model is the plain list of the chunks that are held. After every step the table of blocks, which
        // walk() checks against the bins, must agree with it to the byte.
        #[test]
        fn any_order_of_calls_leaves_chunks_apart_and_everything_accounted_for(steps in steps()) {
            let limit = 1 << 24;
            let mut allocator = ChunkAllocator::new(limit);
            let mut held: Vec<Chunk> = Vec::new();
            for step in steps {
                match step {
                    Step::Extend(bytes) => {
                        let bytes = bytes.min(allocator.limit() - allocator.committed());
                        let before = allocator.committed();
                        allocator.extend(bytes);
                        prop_assert_eq!(allocator.committed(), before + bytes);
                        if bytes > 0 {
                            let whole = allocator.allocate(bytes).expect("just extended by that much");
                            allocator.free(whole);
                        }
                    }
                    Step::Allocate(length) => {
                        let longest = allocator.walk().iter().filter(|b| b.2).map(|b| b.1).max().unwrap_or(0);
                        match allocator.allocate(length) {
                            Some(chunk) => {
                                prop_assert_eq!(chunk.length(), length.max(1).div_ceil(UNIT) * UNIT);
                                prop_assert!(chunk.offset() + chunk.length() <= allocator.committed());
                                held.push(chunk);
                            }
                            None => prop_assert!(
                                longest < length.max(1).saturating_add(length / 16),
                                "{length} bytes were refused beside a free block of {longest}"
                            ),
                        }
                    }
                    Step::Shrink(which, length) if !held.is_empty() => {
                        let which = which % held.len();
                        let length = length % (held[which].length() + 1);
                        allocator.shrink(&mut held[which], length);
                        prop_assert_eq!(held[which].length(), length.max(1).div_ceil(UNIT) * UNIT);
                    }
                    Step::Free(which) if !held.is_empty() => {
                        allocator.free(held.swap_remove(which % held.len()));
                    }
                    Step::Shrink(..) | Step::Free(_) => {}
                }
                let mut model: Vec<_> = held.iter().map(|chunk| (chunk.offset(), chunk.length())).collect();
                model.sort_unstable();
                let used: Vec<_> = allocator.walk().iter().filter(|b| !b.2).map(|b| (b.0, b.1)).collect();
                prop_assert_eq!(&model, &used);
                prop_assert_eq!(allocator.in_use(), model.iter().map(|chunk| chunk.1).sum::<u64>());
            }
            for chunk in held {
                allocator.free(chunk);
            }
            prop_assert_eq!(allocator.in_use(), 0);
            let committed = allocator.committed();
            let one_block = if committed == 0 { vec![] } else { vec![(0, committed, true)] };
            prop_assert_eq!(allocator.walk(), one_block);
        }

        #[test]
        fn bins_are_in_order_of_length_and_a_search_starts_where_all_fit(units in 1..1_u64 << 58) {
            prop_assert!(Bin::of(units).index() <= Bin::of(units + 1).index());
            let from = Bin::at_least(units);
            prop_assert!(from.index() - Bin::of(units).index() <= 1);
            if units > 1 {
                prop_assert!(Bin::of(units - 1) != from, "a bin of the search holds something too short");
            }
        }
    }

    #[test]
    fn what_was_freed_last_is_handed_out_first() {
        let mut allocator = ChunkAllocator::new(1 << 20);
        allocator.extend(1 << 20);
        let mut chunks: Vec<_> = (0..9).map(|_| allocator.allocate(5000).unwrap()).collect();
        let (late, early) = (chunks.remove(5), chunks.remove(2));
        let (late_offset, early_offset) = (late.offset(), early.offset());
        allocator.free(early);
        allocator.free(late);
        assert_eq!(allocator.allocate(5000).unwrap().offset(), late_offset);
        assert_eq!(allocator.allocate(5000).unwrap().offset(), early_offset);
    }

    // The publisher of a ring of 64 slots frees the chunk that left the ring and takes one for the new message, sizes
    // changing freely. The tables must reach their size in the first rounds and keep it.
    #[test]
    fn the_steady_state_of_a_publisher_does_not_grow_the_tables() {
        let mut allocator = ChunkAllocator::new(1 << 28);
        allocator.extend(1 << 28);
        let mut ring = std::collections::VecDeque::new();
        let mut tables = None;
        for round in 0_u64..100_000 {
            if round == 20_000 {
                tables = Some((allocator.blocks.len(), allocator.blocks.capacity()));
            }
            if ring.len() == 64 {
                allocator.free(ring.pop_front().expect("64 are in it"));
            }
            let length = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
            let mut chunk = allocator.allocate(length).expect("64 of at most 1 MiB fit into 256 MiB");
            allocator.shrink(&mut chunk, length / 2);
            ring.push_back(chunk);
        }
        assert_eq!(tables, Some((allocator.blocks.len(), allocator.blocks.capacity())));
        assert!(allocator.blocks.len() <= 2 * 65 + 1, "{} blocks", allocator.blocks.len());
    }

    // Every second chunk is free, so nothing coalesces and no free block is longer than what is asked for. A search
    // that only took bins in which everything fits would overlook all of them.
    #[test]
    fn freed_chunks_are_found_again_even_when_their_length_is_within_a_bin() {
        let length = 16_385 * UNIT;
        let mut allocator = ChunkAllocator::new(64 * length);
        allocator.extend(64 * length);
        let chunks: Vec<_> = (0..64).map(|_| allocator.allocate(length).expect("64 fit")).collect();
        let (mut kept, mut again) = (Vec::new(), 0);
        for (place, chunk) in chunks.into_iter().enumerate() {
            if place % 2 == 0 { allocator.free(chunk) } else { kept.push(chunk) }
        }
        while let Some(chunk) = allocator.allocate(length) {
            kept.push(chunk);
            again += 1;
        }
        assert_eq!(again, 32);
        assert_eq!(allocator.in_use(), allocator.committed());
    }

    #[test]
    fn memory_that_is_added_joins_a_free_tail() {
        let mut allocator = ChunkAllocator::new(1 << 20);
        allocator.extend(1024);
        let front = allocator.allocate(512).unwrap();
        allocator.extend(1024);
        let whole = allocator.allocate(512 + 1024).expect("the tail and what was added are one block");
        assert_eq!(whole.offset(), 512);
        allocator.free(front);
        allocator.free(whole);
    }

    #[test]
    fn an_allocator_of_the_largest_size_takes_little_memory_itself() {
        let allocator = ChunkAllocator::new(16 << 30);
        let bytes = allocator.bins.len() * size_of::<u32>() + allocator.sublevels.len() * size_of::<u16>();
        assert!(bytes <= 2048, "{bytes} bytes of bins");
        assert_eq!(ChunkAllocator::new(u64::MAX).limit(), LIMIT_MAX);
        assert!(ChunkAllocator::new(u64::MAX).allocate(u64::MAX).is_none());
        assert!(ChunkAllocator::new(0).allocate(0).is_none());
    }

    #[test]
    #[should_panic(expected = "is no chunk of this allocator")]
    fn a_chunk_of_another_allocator_is_a_mistake_of_ours() {
        let mut one = ChunkAllocator::new(4096);
        let mut two = ChunkAllocator::new(4096);
        one.extend(4096);
        two.extend(4096);
        let chunk = one.allocate(1).unwrap();
        let _same_entry_other_length = two.allocate(200).unwrap();
        two.free(chunk);
    }

    #[test]
    #[should_panic(expected = "pass the limit of 4096")]
    fn growing_past_the_limit_is_a_mistake_of_ours() {
        ChunkAllocator::new(4096 + 63).extend(4096 + 64);
    }
}
