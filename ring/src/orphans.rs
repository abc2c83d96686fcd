//! Memory that samples still read though their reader has ended.
//!
//! A sample holds addresses and no count: two locked instructions for each message would cost as much as the
//! rest of a receive. What keeps its memory mapped is its reader, for as long as that lives, and afterwards
//! this list, until the last pin is gone:
//!
//! ```text
//! reader ends                              sample dropped, on any thread
//! list += its two segments                 pin = 0
//! WAITING = length of the list             light barrier
//! heavy barrier                            WAITING != 0 ? look through the list
//! look through the list
//! ```
//!
//! Of the two looks the later one finds the pin gone. Where the kernel refuses the barrier, both may come too
//! early: then the memory stays mapped until the next sample is dropped, or the next reader ends.
//!
//! The list is of one process; when that dies, it dies with it. A forked child begins another: what its
//! parent's samples point to stays mapped there for ever (see [`crate::fork`]), and is on no list. The list
//! holds no more than there are readers whose samples were kept beyond them.

use crate::barrier;
#[cfg(not(loom))]
use crate::fork::{PerLife, clear_in_children};
use crate::layout::{Seat, seat_life};
use crate::memory::{Memory, SeatMemory};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock, strong};

type List = Mutex<Vec<Box<dyn Orphan>>>;

/// The length of the list.
#[cfg(not(loom))]
static WAITING: AtomicU64 = AtomicU64::new(0);
#[cfg(not(loom))]
static LIST: PerLife<List> = PerLife::new();

// Loom's statics begin anew with each execution of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref WAITING: AtomicU64 = AtomicU64::new(0);
    static ref LIST: List = List::new(Vec::new());
}

fn list() -> &'static List {
    #[cfg(not(loom))]
    return LIST.get();
    #[cfg(loom)]
    &LIST
}

/// The two segments that a sample needs.
pub(crate) struct Segments<M: Memory> {
    pub(crate) _ring: Arc<M::Ring>,
    pub(crate) seats: Arc<M::Seats>,
}

/// Two segments that nobody but samples needs.
trait Orphan: Send {
    /// Whether the last sample is gone.
    fn is_free(&self) -> bool;
}

struct Left<M: Memory> {
    segments: Segments<M>,
    seat: usize,
    life: u64,
}

impl<M: Memory> Left<M> {
    fn seat(&self) -> &Seat {
        &self.segments.seats.seats()[self.seat]
    }
}

impl<M: Memory> Orphan for Left<M> {
    fn is_free(&self) -> bool {
        let seat = self.seat();
        // Acquire, both (edge unpin): the last read of the last sample is done. A seat is taken again only
        // when none of its pins was left, and the pins that it has then are of another reader.
        seat_life(seat.state.load(strong!("unpin: orphan looks at its seat", Acquire))) != self.life
            || seat.pins.iter().all(|pin| pin.load(strong!("unpin: orphan looks at its pins", Acquire)) == 0)
    }
}

/// Keeps the segments of a reader that ends, if samples of it are still held.
pub(crate) fn adopt<M: Memory>(segments: Segments<M>, seat: usize) {
    let state = &segments.seats.seats()[seat].state;
    // Relaxed: of this process, written before the reader began.
    let life = seat_life(state.load(Ordering::Relaxed));
    let left = Left { segments, seat, life };
    if left.is_free() {
        return;
    }
    // A child begins with an empty list.
    #[cfg(not(loom))]
    clear_in_children(&WAITING);
    {
        let mut list = lock(list());
        list.push(Box::new(left));
        // Relaxed: the barrier below, see the head of this module.
        WAITING.store(list.len() as u64, Ordering::Relaxed);
    }
    // The length before the look. Refused: see the head of this module.
    let _ordered = barrier::is_ready() && barrier::heavy();
    look_through();
}

/// To be called after a pin was dropped.
#[inline]
pub(crate) fn look() {
    barrier::light();
    // Relaxed: see the head of this module.
    if WAITING.load(Ordering::Relaxed) != 0 {
        look_through();
    }
}

#[cold]
fn look_through() {
    let mut list = lock(list());
    // Unmapped under the lock: when the drop of the last sample returns the memory is gone, also if another
    // thread was here first.
    list.retain(|left| !left.is_free());
    // Relaxed: a thread that finds an old value looks in vain, or was followed by this look.
    WAITING.store(list.len() as u64, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::archive::Message;
    use crate::bell::Bell;
    use crate::desk::Start;
    use crate::heap::Heap;
    use crate::memory::Memory;
    use crate::reader::{Reader, Seats};
    use crate::writer::{RingConfig, Writer};
    use std::sync::{Arc, Barrier, Weak};

    type Segments = (Weak<<Heap as Memory>::Ring>, Weak<<Heap as Memory>::Seats>);

    /// A reader, some samples of it, and whether their memory is still there. Publisher and subscriber are
    /// gone.
    fn hold(samples: u64) -> (Reader<Heap>, Vec<Message<Heap>>, Segments) {
        let config = RingConfig {
            node: 7,
            index: 1,
            fingerprint: 0,
            capacity: 4,
            message_max: 64,
            chunk_memory: 4096,
            reliable: false,
            history: 0,
            retained: 0,
            bell: 0,
        };
        let mut writer = Writer::on_heap(&config, Arc::new(Bell::silent()));
        let seats = Seats::on_heap(4, Arc::new(Bell::silent()));
        let seat = seats.take((7, 1)).unwrap();
        let mut reader =
            Reader::new(Arc::clone(writer.ring()), Arc::new(Bell::silent()), seat, Start::told(0)).unwrap();
        let mut held = Vec::new();
        for number in 0..samples {
            writer.admit().unwrap();
            let mut loan = crate::loan::Loan::take(&mut writer, 64).unwrap();
            loan.fill(number as u8);
            loan.send();
            held.push(Message::try_from(reader.poll().unwrap().unwrap()).unwrap());
        }
        let segments = (Arc::downgrade(writer.ring()), Arc::downgrade(seats.memory()));
        (reader, held, segments)
    }

    fn alive(segments: &Segments) -> (bool, bool) {
        (segments.0.strong_count() > 0, segments.1.strong_count() > 0)
    }

    #[test]
    fn a_sample_outlives_its_reader_and_its_publisher_and_the_last_one_frees_the_memory() {
        let (reader, mut held, segments) = hold(3);
        drop(reader);
        while let Some(message) = held.pop() {
            assert_eq!(alive(&segments), (true, true));
            assert!(message.bytes().iter().all(|byte| usize::from(*byte) == held.len()));
        }
        assert_eq!(alive(&segments), (false, false));
    }

    #[test]
    fn a_reader_without_samples_leaves_nothing() {
        let (reader, _, segments) = hold(0);
        drop(reader);
        assert_eq!(alive(&segments), (false, false));
    }

    /// The last sample is dropped at the very moment at which its reader ends: one of both frees the memory.
    #[test]
    fn a_sample_that_is_dropped_while_its_reader_ends_leaves_nothing() {
        crate::barrier::enable();
        let ready = (0..1_000_000).any(|_| {
            std::thread::yield_now();
            crate::barrier::is_ready()
        });
        const ROUNDS: usize = 300;
        let mut all = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let (reader, held, segments) = hold(1);
            all.push(segments);
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(held);
                });
                start.wait();
                drop(reader);
            });
        }
        if !ready {
            println!(
                "this kernel or sandbox has no membarrier: whichever sample is dropped next frees the memory"
            );
            let (reader, held, _) = hold(1);
            drop(reader);
            drop(held);
        }
        assert_eq!(all.iter().filter(|segments| alive(segments) != (false, false)).count(), 0);
    }
}
