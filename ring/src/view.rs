//! Looking at segments from outside, as `hm ls` does: read-only, a few loads, nobody notices.
//!
//! What is read is a stranger's and only shown, never followed. Figures of one look may be a message apart.
//! Of a ring the header alone is mapped, and nothing is looked at that has no memory: a seat that got some
//! after the view was opened is not shown.

use crate::layout::{PINS, SEAT_FREE, seat_phase};
use crate::mapped::{MappedHeader, MappedSeats, OpenError};
use crate::memory::SeatMemory;
use crate::segment::{Backend, Handle};
use crate::sync::Ordering;

/// A publisher's ring, looked at from outside.
#[derive(Debug)]
pub struct RingView {
    ring: MappedHeader,
}

impl RingView {
    /// Maps the header read-only and checks it.
    pub fn open(backend: &dyn Backend, handle: Handle) -> Result<Self, OpenError> {
        Ok(RingView { ring: MappedHeader::open(backend, handle)? })
    }

    /// Messages committed so far (at most one less than can be read already).
    pub fn published(&self) -> u64 {
        // Relaxed, here and below: figures to be shown; nothing is read by them.
        self.ring.header().head.load(Ordering::Relaxed)
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> u64 {
        self.ring.constants().capacity
    }

    /// Whether the publisher waits for its subscribers instead of overwriting.
    pub fn reliable(&self) -> bool {
        self.ring.constants().reliable
    }

    /// Whether the publisher ended in order.
    pub fn closed(&self) -> bool {
        self.ring.header().closed.load(Ordering::Relaxed) != 0
    }

    /// Whether the publisher waits for space at this moment.
    pub fn blocked(&self) -> bool {
        self.ring.header().blocked.load(Ordering::Relaxed) & 1 != 0
    }

    /// Bytes of chunk memory that are backed by pages.
    pub fn committed_bytes(&self) -> u64 {
        self.ring.header().committed.load(Ordering::Relaxed)
    }
}

/// A subscriber's seats, looked at from outside.
#[derive(Debug)]
pub struct ReaderView {
    seats: MappedSeats,
}

/// Where a subscriber stands with one publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatView {
    /// The life of the publisher's node.
    pub publisher_node: u64,
    /// Which end of that node.
    pub publisher_index: u32,
    /// Where the subscriber began.
    pub first: u64,
    /// Sequence of the message that it reads next.
    pub cursor: u64,
    /// Messages that it missed for good.
    pub lost: u64,
    /// Samples in chunks that it holds.
    pub held: usize,
    /// Whether it sleeps.
    pub sleeping: bool,
}

impl ReaderView {
    /// Maps the reader segment read-only and checks its header.
    pub fn open(backend: &dyn Backend, handle: Handle) -> Result<Self, OpenError> {
        Ok(ReaderView { seats: MappedSeats::open(backend, handle, None)? })
    }

    /// Whether the subscriber ended in order.
    pub fn closed(&self) -> bool {
        self.seats.header().closed.load(Ordering::Relaxed) != 0
    }

    /// One seat; `None` if there is no such seat or nobody has it.
    pub fn seat(&self, seat: u32) -> Option<SeatView> {
        let sleeping = self.seats.header().sleeping.load(Ordering::Relaxed) != 0;
        let seat = self.seats.seats().get(seat as usize)?;
        if seat_phase(seat.state.load(Ordering::Relaxed)) == SEAT_FREE {
            return None;
        }
        let used = seat.pins_used.load(Ordering::Relaxed).min(PINS as u64) as usize;
        Some(SeatView {
            publisher_node: seat.publisher_node.load(Ordering::Relaxed),
            publisher_index: u32::try_from(seat.publisher_index.load(Ordering::Relaxed)).unwrap_or(u32::MAX),
            first: seat.first.load(Ordering::Relaxed),
            cursor: seat.cursor.load(Ordering::Relaxed),
            lost: seat.lost.load(Ordering::Relaxed),
            held: seat.pins[..used].iter().filter(|pin| pin.load(Ordering::Relaxed) != 0).count(),
            sleeping,
        })
    }
}
