//! The allocator against a plain list of chunks, and its tables in steady state.

use super::*;
use proptest::prelude::*;

impl ChunkAllocator {
    /// The blocks in memory order: offset, length, free?; checked on the way against every rule of the
    /// module's head.
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
        let chain =
            std::iter::successors(Some(self.bins[bin]), |&i| (i != NONE).then(|| self.block(i).next_in_bin));
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

// The publisher of a ring of 64 slots frees the chunk that left the ring and takes one for the new message,
// sizes changing freely. The tables must reach their size in the first rounds and keep it.
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

// Every second chunk is free, so nothing coalesces and no free block is longer than what is asked for. A
// search that only took bins in which everything fits would overlook all of them.
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
