//! What a subscriber of the demo heard and lost, publisher by publisher.

use hivemind::{ConnectionStatus, EndId, Message, Subscriber};

use super::report::{Account, End};
use super::tally::Tally;

/// The demo's own form of an end.
pub(crate) fn end_of(end: EndId) -> End {
    End { node: end.node, index: end.index }
}

/// What a subscriber lost of one publisher; 0 if it never met it.
pub(crate) fn lost_of<T: Message + ?Sized>(subscriber: &Subscriber<T>, publisher: End) -> u64 {
    lost_in(&subscriber.connections(), publisher)
}

/// The same, of connections that were looked up already.
pub(crate) fn lost_in(connections: &[ConnectionStatus], publisher: End) -> u64 {
    connections.iter().filter(|pair| end_of(pair.origin.publisher) == publisher).map(|pair| pair.lost).sum()
}

/// The SDK's account of each pair beside the demo's own.
pub(crate) fn accounts(connections: &[ConnectionStatus], tally: &Tally) -> Vec<Account> {
    let account = |pair: &ConnectionStatus| {
        let publisher = end_of(pair.origin.publisher);
        Account {
            publisher,
            service: pair.origin.service.as_str().to_owned(),
            first: pair.first,
            received: pair.received,
            lost: pair.lost,
            seen: tally.seen(publisher),
        }
    };
    connections.iter().map(account).collect()
}
