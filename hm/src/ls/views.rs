//! What stands in the segments of a hive, read without touching a message or a counter.
use std::collections::BTreeMap;
use std::time::Instant;

use hivemind::{EndId, Listing, Node};
use hivemind_look::{self as look, LookError};
use hivemind_ring::view::{ReaderView, RingView, SeatView};

/// All views that could be opened.
pub(super) struct Views {
    pub(super) rings: BTreeMap<EndId, RingView>,
    pub(super) readers: BTreeMap<EndId, ReaderView>,
}

/// What stood in the segments at one instant.
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) published: BTreeMap<EndId, u64>,
    /// By publisher and subscriber.
    pub(super) seats: BTreeMap<(EndId, EndId), SeatView>,
}

impl Views {
    /// Maps what can be mapped. Whoever left since it was listed has nothing to be mapped, and no line.
    pub(super) fn open(node: &Node, listing: &Listing) -> Views {
        let ring = |end: EndId| look::ring(node, end).inspect_err(|error| skip(end, error)).ok();
        let reader = |end: EndId| look::reader(node, end).inspect_err(|error| skip(end, error)).ok();
        let publishers = listing.publishers.iter().map(|publisher| publisher.end);
        let subscribers = listing.subscribers.iter().map(|subscriber| subscriber.end);
        Views {
            rings: publishers.filter_map(|end| Some((end, ring(end)?))).collect(),
            readers: subscribers.filter_map(|end| Some((end, reader(end)?))).collect(),
        }
    }

    pub(super) fn read(&self, listing: &Listing) -> Reading {
        let mut seats = BTreeMap::new();
        for connection in &listing.connections {
            let seat =
                self.readers.get(&connection.subscriber).and_then(|reader| reader.seat(connection.seat));
            // A seat may have been given to another publisher since.
            let EndId { node, index } = connection.publisher;
            if let Some(seat) =
                seat.filter(|seat| seat.publisher_node == node && seat.publisher_index == index)
            {
                seats.insert((connection.publisher, connection.subscriber), seat);
            }
        }
        // Rings are read after the seats: a message that was received was published, so no lag is below zero.
        let published = self.rings.iter().map(|(&end, ring)| (end, ring.published())).collect();
        Reading { at: Instant::now(), published, seats }
    }
}

fn skip(end: EndId, error: &LookError) {
    tracing::info!(%end, %error, "left out");
}
