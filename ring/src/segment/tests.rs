//! What the kernel gives ahead of use, page by page and in huge pages.

use super::*;

/// Bytes of the mapping at this address that this process has mapped (`Rss` of smaps).
fn mapped(segment: &Segment) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", segment.as_ptr().addr());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the mapping is there");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

const LENGTH: u64 = 64 << 20;
const AHEAD: u64 = 3 << 20;

fn pair() -> (Segment, Segment) {
    let own = Anonymous.create("test", LENGTH, Sharing::SingleWriter).unwrap();
    let bounds = LengthBounds { min: LENGTH, max: LENGTH };
    let peer = Anonymous.open(own.handle().unwrap(), Sharing::SingleWriter, bounds).unwrap();
    (own, peer)
}

#[test]
fn what_is_prefaulted_is_mapped_in_the_process_that_asked_and_no_more() {
    let (own, peer) = pair();
    let (before, others) = (mapped(&own), mapped(&peer));
    assert_eq!((before, others), (0, 0));
    assert_eq!(own.prefault(0..AHEAD).unwrap().bytes, AHEAD);
    assert_eq!((mapped(&own), mapped(&peer)), (AHEAD, 0));
    assert_eq!(peer.prefault(0..AHEAD).unwrap().bytes, AHEAD);
    assert_eq!((mapped(&own), mapped(&peer)), (AHEAD, AHEAD));
}

#[test]
fn a_kernel_that_cannot_populate_gets_the_same_by_touching() {
    let (own, peer) = pair();
    own.reserve(0..AHEAD).unwrap();
    let touched = Prefaulted { bytes: AHEAD, by: PrefaultedBy::Touching };
    assert_eq!(own.touch(0, AHEAD).unwrap(), touched);
    assert!(mapped(&own) >= AHEAD, "the kernel may map more around each page");
    assert_eq!(peer.touch(0, AHEAD).unwrap(), touched);
    assert!(mapped(&peer) >= AHEAD);
}

/// Where the kernel gives none, the rest still has to hold, and the test says so.
#[test]
fn huge_pages_are_what_the_kernel_says_and_the_content_stays() {
    let own = Anonymous.create_aligned("test", LENGTH, Sharing::SingleWriter).unwrap();
    assert!((own.as_ptr().addr() as u64).is_multiple_of(HUGE_PAGE_BYTES));
    own.prefault(0..AHEAD).unwrap();
    // SAFETY: in bounds of the segment, reserved, and nobody else has it.
    unsafe { own.as_ptr().wrapping_add(AHEAD as usize - 1).write(77) };
    let HugePages { asked, obtained, .. } = own.huge_pages(AHEAD).unwrap();
    assert_eq!(asked, 2 * HUGE_PAGE_BYTES);
    if obtained < asked {
        eprintln!("skipped in part: the kernel gave {obtained} bytes of {asked} in huge pages");
    }
    assert!(obtained.is_multiple_of(HUGE_PAGE_BYTES) && mapped(&own) >= asked);
    let bounds = LengthBounds { min: LENGTH, max: LENGTH };
    let peer = Anonymous.open(own.handle().unwrap(), Sharing::SingleWriter, bounds).unwrap();
    assert_eq!(peer.prefault(0..AHEAD).unwrap().bytes, AHEAD);
    // SAFETY: in bounds of the segment, and nobody writes.
    assert_eq!(unsafe { peer.as_ptr().wrapping_add(AHEAD as usize - 1).read() }, 77);
    assert_eq!(peer.huge_pages(AHEAD).unwrap().obtained, 0, "only the owner has them made");
}

#[test]
fn a_segment_that_is_not_aligned_or_too_short_gets_no_huge_pages() {
    let (own, _peer) = pair();
    assert_eq!(
        own.huge_pages(AHEAD).unwrap(),
        HugePages { asked: 2 * HUGE_PAGE_BYTES, obtained: 0, prefaulted: None }
    );
    let short = Anonymous.create_aligned("test", 5000, Sharing::SingleWriter).unwrap();
    let HugePages { asked, obtained, .. } = short.huge_pages(AHEAD).unwrap();
    assert_eq!((asked, obtained), (0, 0));
}

#[test]
fn nothing_of_an_aligned_mapping_is_left_when_it_is_dropped() {
    let lines = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd:left-over")).count()
    };
    let (odd, even) = (LENGTH - 4096, LENGTH);
    let segments =
        [odd, even].map(|n| Anonymous.create_aligned("left-over", n, Sharing::SingleWriter).unwrap());
    assert_eq!(lines(), 2);
    drop(segments);
    assert_eq!(lines(), 0);
}

#[test]
fn a_range_that_begins_within_a_page_is_widened_to_whole_pages() {
    let (own, _peer) = pair();
    let page = page_size();
    assert_eq!(own.prefault(page + 1..2 * page + 1).unwrap().bytes, 2 * page);
    assert_eq!(own.prefault(LENGTH - 1..LENGTH).unwrap().bytes, page);
    assert_eq!(own.prefault(7..7).unwrap().bytes, page);
    assert!(matches!(own.prefault(0..LENGTH + 1), Err(SegmentError::OutOfBounds { .. })));
}
