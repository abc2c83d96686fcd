//! Subscriptions come and go during full load.
//!
//! ```text
//! speaker ──reliable, lossy, all the time──▶ listener, for the whole case
//!         └───────────────────────────────▶ churner: subscribe ─ attach ─ hear a little ─ drop, again and again
//! ```
//! The listener must get every reliable message once, and of the lossy ones as many as were published,
//! received and lost together.

use super::ledger::{Committed, Faults, Said};
use super::report::Row;
use super::root::all_up_to;
use super::{Rounds, actors};
use crate::hive::{lossy, reliable};
use crate::order::{Kind, Order, Tally};

/// Subscriptions that stand at the same time, at most.
const CROWD: u64 = 8;
/// Every that many subscriptions one waits until it is attached and has heard something; the others go as
/// fast as they came.
const PATIENT_EVERY: u64 = 4;
/// What is subscribed to, in turn.
const FILTERS: [&str; 3] = ["load/*", "load/reliable", "load/lossy"];

/// Runs the case.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    let mut row = Row::new("subscriptions");
    let hive = actors(rounds);
    let speaker = hive.actor("speaker");
    let kinds = [reliable("load/reliable", Kind::Typed), lossy("load/lossy", Kind::Typed)];
    let publishers = kinds.map(|kind| speaker.publish(kind));
    let listener = hive.actor("listener");
    let ears = ["load/reliable", "load/lossy"].map(|service| {
        let subscriber = listener.subscribe(service, Kind::Typed);
        subscriber.await_publishers(1);
        subscriber.collect();
        subscriber
    });
    let churner = hive.actor("churner");
    for publisher in &publishers {
        publisher.stream(Some(100), 0);
    }
    for round in 0.. {
        if !rounds.goes_on(round) {
            break;
        }
        let filter = FILTERS[(rounds.choice(round, 0) % 3) as usize];
        let subscriber = churner.subscribe(filter, Kind::Typed);
        if rounds.choice(round, 1).is_multiple_of(PATIENT_EVERY) {
            subscriber.await_publishers(if filter == "load/*" { 2 } else { 1 });
            subscriber.collect();
            for connection in subscriber.await_tally(1, 0).connections {
                if connection.account.torn + connection.account.disordered > 0 {
                    row.faults.fail(format!("round {round}: {connection:?}"));
                }
            }
        } else if let Err(failure) = churner.attempt(&Order::Collect { subscriber: subscriber.number() }) {
            row.faults.fail(failure.text);
        }
        if round >= CROWD {
            // The numbers of the churner's subscriptions are those of the rounds.
            churner.tell(&Order::Unsubscribe { subscriber: (round - CROWD) as usize });
        }
        row.reached += 1;
    }
    let sent = publishers.map(|publisher| publisher.stop());
    for ((subscriber, sent), reliable) in ears.iter().zip(sent).zip([true, false]) {
        let tally = all_up_to(subscriber, sent);
        enter(&mut row.faults, &tally, sent, reliable);
        row.messages += tally.messages();
        let (kind, lost) = (if reliable { "reliable" } else { "lossy" }, tally.lost());
        row.notes
            .push(format!("{kind}: {sent} published, {} received, {lost} lost", tally.messages() - lost));
    }
    row
}

/// The one connection of a listener that was there before the first message.
pub(super) fn enter(faults: &mut Faults, tally: &Tally, sent: u64, reliable: bool) {
    for error in &tally.errors {
        faults.fail(error.clone());
    }
    if tally.connections.len() != 1 {
        faults.misjudge(format!("{} connections with one publisher", tally.connections.len()));
    }
    for connection in &tally.connections {
        let said = Said { first: connection.first, received: connection.received, lost: connection.lost };
        let committed = Committed { done: sent, begun: sent };
        faults.judge("the listener", committed, &connection.account, said, reliable);
    }
}
