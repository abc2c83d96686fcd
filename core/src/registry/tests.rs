//! The registry against a world of obedient and of hostile nodes.
mod again;
mod identity;
mod joiners;
mod retained;

use proptest::prelude::*;

use super::*;
use crate::protocol::{Entry, PAGE_BYTES};

mod rights;

const ROOT: RootIdentity = RootIdentity { epoch: 3, pid: 100, dedicated: false };

const OWNER: u32 = 1000;

fn owner() -> Credentials {
    Credentials::of_user(OWNER)
}

fn registry() -> Registry {
    Registry::new(ROOT, Limits::default(), Policy::owner_only(OWNER))
}

fn hello(name: &str, node: u64) -> ToRoot {
    ToRoot::Hello {
        name: name.into(),
        node,
        observer: false,
        external: false,
        rejoin: false,
        hosts_root: false,
        seen_epoch: 0,
        bells: Carrier::Descriptor,
    }
}

fn said(registry: &mut Registry, client: ClientId, message: ToRoot) -> Vec<Action> {
    registry.handle(Event::Said { client, message })
}

/// A node whose client number, name and epoch follow from one number.
fn join(registry: &mut Registry, client: ClientId) -> Vec<Action> {
    assert_eq!(
        registry.handle(Event::Connected {
            client,
            pid: client as i32,
            credentials: owner(),
            process: Process::Unknown
        }),
        []
    );
    said(registry, client, hello(&format!("node{client}"), client * 10))
}

fn end(client: ClientId, index: u32) -> EndId {
    EndId { node: client * 10, index }
}

fn kind(fingerprint: u128) -> Kind {
    Kind { fingerprint, schema: vec![fingerprint as u8] }
}

/// What an end is told that does not fit: messages of this kind.
fn carried(service: &str, fingerprint: u128, holder: &str) -> Box<Carried> {
    Box::new(Carried {
        service: service.parse().unwrap(),
        pattern: Pattern::Messages,
        kind: kind(fingerprint),
        holder: holder.parse().unwrap(),
    })
}

fn offer(index: u32, service: &str, fingerprint: u128) -> ToRoot {
    let contract = Contract { capacity: 8, ..Contract::default() };
    let offer = Offer::new(index, service, kind(fingerprint), contract);
    ToRoot::Offer { request: index.into(), offer }
}

fn demand(index: u32, filter: &str, fingerprint: Option<u128>) -> ToRoot {
    let asks = Asks { kind: fingerprint.map(kind), ..Asks::default() };
    ToRoot::Demand { request: index.into(), demand: Demand::new(index, filter, asks) }
}

fn attach(subscriber: u32, publisher: EndId) -> ToRoot {
    ToRoot::Attach { subscriber, publisher, seat: subscriber, reader: Carrier::Descriptor }
}

fn attached(publisher: u32, subscriber: EndId) -> ToRoot {
    ToRoot::Attached { publisher, subscriber, start: 0, ring: Carrier::Descriptor, bells: None }
}

/// As [`attached`], with doorbells made for a subscriber of another user.
fn attached_stranger(publisher: u32, subscriber: EndId) -> ToRoot {
    let (ring, bells) = (Carrier::Descriptor, Some(Carrier::Descriptor));
    ToRoot::Attached { publisher, subscriber, start: 0, ring, bells }
}

/// To whom, and a word for what.
fn summary(actions: &[Action]) -> Vec<(ClientId, &'static str)> {
    actions
        .iter()
        .map(|action| match action {
            Action::Send { to, message, .. } => (*to, kind_of(message)),
            Action::KeepBells { client } => (*client, "keep bells"),
            Action::KeepRing { client, .. } => (*client, "keep ring"),
            Action::DropRing { .. } => (0, "drop ring"),
            Action::RaiseEpoch { .. } => (0, "raise epoch"),
            Action::CutOff { client } => (*client, "cut off"),
            Action::HandOver { to } => (*to, "hand over"),
        })
        .collect()
}

fn kind_of(message: &ToNode) -> &'static str {
    match message {
        ToNode::Welcome { .. } => "welcome",
        ToNode::Accepted { .. } => "accepted",
        ToNode::Refused { .. } => "refused",
        ToNode::Match { .. } => "match",
        ToNode::Skipped { .. } => "skipped",
        ToNode::Attach { .. } => "attach",
        ToNode::Attached { .. } => "attached",
        ToNode::AttachRefused { .. } => "attach refused",
        ToNode::Page { .. } => "page",
        ToNode::Misfits { .. } => "misfits",
        ToNode::Inspect { .. } => "inspect",
        ToNode::Inspected { .. } => "inspected",
        ToNode::Leaving { .. } => "leaving",
        ToNode::HandedOver => "handed over",
        ToNode::Alive => "alive",
        ToNode::Changed => "changed",
        ToNode::Keep { .. } => "keep",
        ToNode::Gone { .. } => "gone",
        ToNode::Release { .. } => "release",
        ToNode::Joined { .. } => "joined",
    }
}

fn refusal(actions: &[Action]) -> &Refusal {
    let found = actions.iter().find_map(|action| match action {
        Action::Send { message: ToNode::Refused { refusal, .. }, .. } => Some(refusal),
        _ => None,
    });
    found.expect("a refusal")
}

#[test]
fn a_publisher_and_a_subscriber_meet_in_four_steps() {
    let mut registry = registry();
    assert_eq!(summary(&join(&mut registry, 1)), [(1, "keep bells"), (1, "welcome")]);
    join(&mut registry, 2);
    assert_eq!(summary(&said(&mut registry, 1, offer(7, "a/b", 5))), [(1, "accepted")]);
    let actions = said(&mut registry, 2, demand(4, "a/*", Some(5)));
    assert_eq!(summary(&actions), [(2, "accepted"), (2, "match")]);

    let actions = said(&mut registry, 2, attach(4, end(1, 7)));
    let [Action::Send { to: 1, message: ToNode::Attach { publisher: 7, subscriber, .. }, attachments }] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(*subscriber, end(2, 4));
    let all = [Attachment::FromMessage(0), Attachment::BellsOf(2), Attachment::PidfdOf(2)];
    assert_eq!(attachments[..], all);

    let actions = said(&mut registry, 1, attached(7, end(2, 4)));
    let [Action::Send { to: 2, message: ToNode::Attached { subscriber: 4, publisher, .. }, attachments }] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(*publisher, end(1, 7));
    let all = [Attachment::FromMessage(0), Attachment::BellsOf(1), Attachment::PidfdOf(1)];
    assert_eq!(attachments[..], all);
}

#[test]
fn what_was_declined_is_matched_anew_when_it_is_wanted() {
    let mut registry = registry();
    join(&mut registry, 1);
    join(&mut registry, 2);
    drop(said(&mut registry, 1, offer(7, "a", 5)));
    drop(said(&mut registry, 1, offer(8, "b", 5)));
    drop(said(&mut registry, 2, demand(4, "**", None)));
    let declined = ToRoot::Declined { subscriber: 4, publisher: end(1, 7) };
    drop(said(&mut registry, 2, declined));
    // The other is under way and is not matched twice.
    let actions = said(&mut registry, 2, ToRoot::Rematch { subscriber: 4 });
    let [Action::Send { to: 2, message: ToNode::Match { matched, .. }, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(matched.route.end, end(1, 7));
    assert_eq!(summary(&said(&mut registry, 2, attach(4, end(1, 7)))), [(1, "attach")]);
}

#[test]
fn who_watches_is_told_once_that_there_are_other_ends() {
    let mut registry = registry();
    join(&mut registry, 1);
    join(&mut registry, 2);
    assert_eq!(summary(&said(&mut registry, 2, ToRoot::Watch)), []);
    assert_eq!(summary(&said(&mut registry, 1, offer(7, "a", 5))), [(2, "changed"), (1, "accepted")]);
    assert_eq!(summary(&said(&mut registry, 1, offer(8, "a", 5))), [(1, "accepted")]);
    drop(said(&mut registry, 2, ToRoot::Watch));
    assert_eq!(summary(&said(&mut registry, 1, ToRoot::Withdraw { index: 8 })), [(2, "changed")]);
    drop(said(&mut registry, 2, ToRoot::Watch));
    assert_eq!(summary(&registry.handle(Event::Gone { client: 1 })), [(2, "changed")]);
}

#[test]
fn a_second_live_node_of_a_name_is_refused_with_the_process_that_has_it() {
    let mut registry = registry();
    join(&mut registry, 1);
    drop(registry.handle(Event::Connected {
        client: 2,
        pid: 2,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(registry.holders(&hello("node1", 99)), [1]);
    let actions = said(&mut registry, 2, hello("node1", 99));
    assert_eq!(summary(&actions), [(2, "refused"), (2, "cut off")]);
    assert_eq!(*refusal(&actions), Refusal::NameTaken { pid: 1 });

    drop(registry.handle(Event::Gone { client: 1 }));
    drop(registry.handle(Event::Connected {
        client: 3,
        pid: 3,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(summary(&said(&mut registry, 3, hello("node1", 99)))[1], (3, "welcome"));
}

/// A newcomer may reach the successor of a dead root before a node that is in the hive already. Both live on.
#[test]
fn a_node_that_was_in_the_hive_keeps_its_name_at_the_next_root() {
    let mut registry = registry();
    join(&mut registry, 1);
    drop(registry.handle(Event::Connected {
        client: 2,
        pid: 2,
        credentials: owner(),
        process: Process::Unknown,
    }));
    let mut again = hello("node1", 99);
    if let ToRoot::Hello { rejoin, .. } = &mut again {
        *rejoin = true;
    }
    assert_eq!(summary(&said(&mut registry, 2, again))[1], (2, "welcome"));
    drop(registry.handle(Event::Gone { client: 1 }));
    drop(registry.handle(Event::Connected {
        client: 3,
        pid: 3,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(*refusal(&said(&mut registry, 3, hello("node1", 98))), Refusal::NameTaken { pid: 2 });
}

#[test]
fn a_forged_epoch_is_refused() {
    let mut registry = registry();
    join(&mut registry, 1);
    drop(registry.handle(Event::Connected {
        client: 2,
        pid: 2,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(*refusal(&said(&mut registry, 2, hello("other", 10))), Refusal::EpochTaken);
    drop(registry.handle(Event::Connected {
        client: 3,
        pid: 3,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert!(matches!(refusal(&said(&mut registry, 3, hello("other", 0))), Refusal::Malformed { .. }));
}

#[test]
fn an_end_of_another_node_cannot_be_used() {
    let mut registry = registry();
    for client in 1..=3 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    said(&mut registry, 2, demand(1, "a", None));
    // Node 3 answers for node 2, and then for node 1: it only ever speaks of its own ends, which do not exist.
    assert_eq!(summary(&said(&mut registry, 3, attach(1, end(1, 1)))), [(3, "attach refused")]);
    said(&mut registry, 2, attach(1, end(1, 1)));
    assert_eq!(said(&mut registry, 3, attached(1, end(2, 1))), []);
    // And the right one still can.
    assert_eq!(summary(&said(&mut registry, 1, attached(1, end(2, 1)))), [(2, "attached")]);
}

#[test]
fn a_message_before_hello_and_a_second_hello_cut_off() {
    let mut registry = registry();
    drop(registry.handle(Event::Connected {
        client: 1,
        pid: 1,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(summary(&said(&mut registry, 1, offer(1, "a", 1))), [(1, "refused"), (1, "cut off")]);
    join(&mut registry, 2);
    let actions = said(&mut registry, 2, hello("node2", 20));
    assert_eq!(summary(&actions), [(2, "refused"), (2, "cut off")]);
    assert_eq!(said(&mut registry, 2, offer(1, "a", 1)), [], "whoever is cut off is nobody");
}

#[test]
fn another_version_and_damage_are_refused_in_words() {
    let mut registry = registry();
    join(&mut registry, 1);
    let error = DecodeError::Version { theirs: 9 };
    let actions = registry.handle(Event::Garbled { client: 1, error });
    assert_eq!(*refusal(&actions), Refusal::Version { root: VERSION });
    join(&mut registry, 2);
    let error = DecodeError::Damaged { length: 9 };
    let actions = registry.handle(Event::Garbled { client: 2, error });
    assert_eq!(summary(&actions), [(2, "refused"), (2, "cut off")]);
}

/// A subscriber fixed it once, so a guest who might only look, or a forgotten viewer, kept the publisher of a service out.
#[test]
fn a_subscriber_of_another_type_keeps_no_publisher_out_and_is_told() {
    let mut registry = registry();
    for client in 1..=3 {
        join(&mut registry, client);
    }
    assert_eq!(summary(&said(&mut registry, 1, demand(1, "a", Some(6)))), [(1, "accepted")]);
    assert_eq!(listed(&registry), [], "nobody publishes it, so it carries nothing");
    let actions = said(&mut registry, 2, offer(1, "a", 5));
    assert_eq!(summary(&actions), [(2, "accepted"), (1, "skipped")]);
    let told = ToNode::Skipped { subscriber: 1, carried: carried("a", 5, "node2") };
    assert_eq!(actions[1], send(1, told.clone()));
    // Whoever comes later is told the same; a second publisher is no news.
    let actions = said(&mut registry, 3, demand(1, "a", Some(6)));
    assert_eq!(
        actions[..],
        [send(3, ToNode::Accepted { request: 1, joining: Joining::Done }), send(3, told)]
    );
    assert_eq!(summary(&said(&mut registry, 2, offer(2, "a", 5))), [(2, "accepted")]);
    assert_eq!(listed(&registry), [("a".to_owned(), 5)]);
}

/// The services of a listing, with their types.
fn listed(registry: &Registry) -> Vec<(String, u128)> {
    let (entries, _) = registry.page(Cursor::Services(String::new()));
    let services = entries.into_iter().filter_map(|entry| match entry {
        Entry::Service { service, kind, .. } => Some((service, kind.fingerprint)),
        _ => None,
    });
    services.collect()
}

#[test]
fn a_waiting_subscriber_is_matched_when_a_publisher_of_its_type_takes_the_service_over() {
    let mut registry = registry();
    for client in 1..=4 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    said(&mut registry, 2, offer(1, "a", 5));
    said(&mut registry, 3, demand(1, "a", Some(6)));
    said(&mut registry, 4, demand(1, "a", Some(5)));
    // As long as anybody publishes, another type is refused.
    drop(registry.handle(Event::Gone { client: 1 }));
    let actions = said(&mut registry, 3, offer(2, "a", 6));
    assert_eq!(*refusal(&actions), Refusal::OtherType(carried("a", 5, "node2")));
    drop(registry.handle(Event::Gone { client: 2 }));
    let actions = said(&mut registry, 3, offer(2, "a", 6));
    assert_eq!(summary(&actions), [(3, "accepted"), (3, "match"), (4, "skipped")]);
    // And back.
    drop(said(&mut registry, 3, ToRoot::Withdraw { index: 2 }));
    join(&mut registry, 5);
    let actions = said(&mut registry, 5, offer(1, "a", 5));
    assert_eq!(summary(&actions), [(5, "accepted"), (4, "match"), (3, "skipped")]);
}

/// Ends of one name have one pattern: who comes with another one is told so, as with another type.
#[test]
fn a_service_has_one_pattern_and_who_names_it_for_another_is_told() {
    let mut registry = registry();
    for client in 1..=4 {
        join(&mut registry, client);
    }
    let of_pattern = |message: ToRoot, to: Pattern| match message {
        ToRoot::Offer { request, mut offer } => {
            offer.contract.pattern = to;
            ToRoot::Offer { request, offer }
        }
        ToRoot::Demand { request, mut demand } => {
            demand.asks.pattern = to;
            ToRoot::Demand { request, demand }
        }
        other => other,
    };
    said(&mut registry, 1, demand(1, "a", Some(5)));
    said(&mut registry, 1, demand(2, "*", None));
    let actions = said(&mut registry, 2, of_pattern(offer(1, "a", 5), Pattern::Latest));
    assert_eq!(summary(&actions), [(2, "accepted"), (1, "skipped")], "by name, not by a pattern over names");
    let told = Box::new(Carried { pattern: Pattern::Latest, ..*carried("a", 5, "node2") });
    assert_eq!(actions[1], send(1, ToNode::Skipped { subscriber: 1, carried: told.clone() }));
    assert_eq!(*refusal(&said(&mut registry, 3, offer(1, "a", 5))), Refusal::OtherPattern(told));
    let actions = said(&mut registry, 4, of_pattern(demand(1, "*", None), Pattern::Latest));
    assert_eq!(summary(&actions), [(4, "accepted"), (4, "match")]);
    let actions = said(&mut registry, 2, ToRoot::Misfits { request: 3, publisher: 1 });
    let [Action::Send { message: ToNode::Misfits { count: 1, first: Some(first), .. }, .. }] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!((first.filter.as_str(), first.asks.pattern), ("a", Pattern::Messages));
    // When the last one goes, the name is free for any pattern.
    drop(registry.handle(Event::Gone { client: 2 }));
    let actions = said(&mut registry, 3, offer(2, "a", 5));
    assert_eq!(summary(&actions), [(3, "accepted"), (1, "match"), (1, "match")]);
}

#[test]
fn a_publisher_hears_who_waits_for_another_type_and_no_other_client_does() {
    let mut registry = registry();
    for client in 1..=3 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    for (index, filter, fingerprint) in
        [(1, "a", Some(5)), (2, "*", Some(6)), (3, "a", Some(7)), (4, "*", None)]
    {
        said(&mut registry, 2, demand(index, filter, fingerprint));
    }
    let question = ToRoot::Misfits { request: 9, publisher: 1 };
    let asks = Asks { kind: Some(kind(7)), ..Asks::default() };
    let first = Misfit { node_name: "node2".parse().unwrap(), filter: Filter::parse("a").unwrap(), asks };
    let answer = |count, first| [send(1, ToNode::Misfits { request: 9, count, first })];
    assert_eq!(said(&mut registry, 1, question.clone()), answer(2, Some(Box::new(first))));
    assert_eq!(
        said(&mut registry, 3, question.clone()),
        [send(3, ToNode::Misfits { request: 9, count: 0, first: None })]
    );
    drop(registry.handle(Event::Gone { client: 2 }));
    assert_eq!(said(&mut registry, 1, question), answer(0, None));
}

#[test]
fn a_pattern_skips_other_types_and_says_so() {
    let mut registry = registry();
    for client in 1..=2 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    let actions = said(&mut registry, 2, demand(1, "*", Some(6)));
    assert_eq!(summary(&actions), [(2, "accepted"), (2, "skipped")]);
    // Later ones too, once for a service.
    assert_eq!(summary(&said(&mut registry, 1, offer(2, "b", 5))), [(1, "accepted"), (2, "skipped")]);
    assert_eq!(summary(&said(&mut registry, 1, offer(3, "b", 5))), [(1, "accepted")]);
    assert_eq!(summary(&said(&mut registry, 1, offer(4, "c", 6))), [(1, "accepted"), (2, "match")]);
    // Who takes any type takes both.
    let actions = said(&mut registry, 2, demand(2, "*", None));
    assert_eq!(summary(&actions).len(), 5);
}

#[test]
fn what_the_root_could_not_take_for_lack_of_descriptors_is_answered() {
    let mut registry = registry();
    for client in 1..=2 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    said(&mut registry, 2, demand(1, "a", None));
    let event = Event::DescriptorsLost { client: 2, message: attach(1, end(1, 1)) };
    assert_eq!(summary(&registry.handle(event)), [(2, "attach refused")]);

    said(&mut registry, 2, demand(2, "a", None));
    said(&mut registry, 2, attach(2, end(1, 1)));
    let event = Event::DescriptorsLost { client: 1, message: attached(1, end(2, 2)) };
    assert_eq!(summary(&registry.handle(event)), [(2, "attach refused")]);

    drop(registry.handle(Event::Connected {
        client: 3,
        pid: 3,
        credentials: owner(),
        process: Process::Unknown,
    }));
    let actions = registry.handle(Event::DescriptorsLost { client: 3, message: hello("x", 9) });
    assert_eq!(*refusal(&actions), Refusal::OutOfDescriptors { pid: ROOT.pid });
}

#[test]
fn an_inspection_reaches_the_node_and_comes_back() {
    let mut registry = registry();
    for client in 1..=3 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    let actions = said(&mut registry, 2, ToRoot::Inspect { request: 77, end: end(1, 1) });
    let [Action::Send { to: 1, message: ToNode::Inspect { inquiry, index: 1 }, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    // Nobody else may answer.
    let answer = ToRoot::Inspected { inquiry, segment: Some(Carrier::Descriptor) };
    assert_eq!(summary(&said(&mut registry, 3, answer.clone())), [(3, "refused"), (3, "cut off")]);
    // That takes nothing from who was asked.
    assert_eq!(summary(&said(&mut registry, 1, answer)), [(2, "inspected")]);
    said(&mut registry, 2, ToRoot::Inspect { request: 78, end: end(1, 1) });
    let actions = said(&mut registry, 1, ToRoot::Inspected { inquiry: inquiry + 1, segment: None });
    assert_eq!(*refusal(&actions), Refusal::UnknownEnd { end: end(1, 1) });
    // The asked one dies: the asker hears of it.
    said(&mut registry, 2, ToRoot::Inspect { request: 79, end: end(1, 1) });
    let actions = registry.handle(Event::Gone { client: 1 });
    assert_eq!(summary(&actions), [(2, "refused")]);
    let actions = said(&mut registry, 2, ToRoot::Inspect { request: 80, end: end(1, 1) });
    assert_eq!(*refusal(&actions), Refusal::UnknownEnd { end: end(1, 1) });
}

// Once `hm ls`, ended before a stopped node answered it, cost that node its place in the hive as soon as it went on.
#[test]
fn an_answer_whose_asker_has_gone_is_late_and_not_wrong() {
    let mut registry = registry();
    for client in 1..=2 {
        join(&mut registry, client);
    }
    said(&mut registry, 1, offer(1, "a", 5));
    let actions = said(&mut registry, 2, ToRoot::Inspect { request: 77, end: end(1, 1) });
    let [Action::Send { to: 1, message: ToNode::Inspect { inquiry, .. }, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(registry.handle(Event::Gone { client: 2 }), []);
    let answer = |inquiry| ToRoot::Inspected { inquiry, segment: Some(Carrier::Descriptor) };
    assert_eq!(said(&mut registry, 1, answer(inquiry)), []);
    // Nobody ever asked this.
    assert_eq!(summary(&said(&mut registry, 1, answer(inquiry + 1))), [(1, "refused"), (1, "cut off")]);
}

#[test]
fn between_two_nodes_only_so_many_pairs_are_on_their_way() {
    let mut registry =
        Registry::new(ROOT, Limits { lane: 2, ..Limits::default() }, Policy::owner_only(OWNER));
    for client in 1..=3 {
        join(&mut registry, client);
    }
    for index in 0..5 {
        said(&mut registry, 1, offer(index, "a", 5));
    }
    let actions = said(&mut registry, 2, demand(9, "a", None));
    assert_eq!(summary(&actions), [(2, "accepted"), (2, "match"), (2, "match")]);
    // The publisher's turn counts as well: it may be slow, too.
    assert_eq!(summary(&said(&mut registry, 2, attach(9, end(1, 0)))), [(1, "attach")]);
    assert_eq!(summary(&said(&mut registry, 1, attached(0, end(2, 9)))), [(2, "attached"), (2, "match")]);
    let declined = ToRoot::Declined { subscriber: 9, publisher: end(1, 1) };
    assert_eq!(summary(&said(&mut registry, 2, declined)), [(2, "match")]);
    // A publisher that goes while its match is under way makes room as well.
    assert_eq!(summary(&said(&mut registry, 1, ToRoot::Withdraw { index: 3 })), [(2, "match")]);
    assert_eq!(summary(&said(&mut registry, 1, ToRoot::Withdraw { index: 2 })), []);
    // Other nodes have lanes of their own.
    assert_eq!(summary(&said(&mut registry, 3, offer(1, "a", 5))), [(3, "accepted"), (2, "match")]);
    let actions = said(&mut registry, 3, demand(2, "a", None));
    assert_eq!(summary(&actions).len(), 1 + 2 + 1);
}

#[test]
fn a_waiting_dedicated_root_takes_over_and_a_dedicated_one_stays() {
    let mut registry = registry();
    drop(registry.handle(Event::Connected {
        client: 1,
        pid: 1,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(said(&mut registry, 1, ToRoot::HandOver), [Action::HandOver { to: 1 }]);
    let mut registry =
        Registry::new(RootIdentity { dedicated: true, ..ROOT }, Limits::default(), Policy::owner_only(OWNER));
    drop(registry.handle(Event::Connected {
        client: 1,
        pid: 1,
        credentials: owner(),
        process: Process::Unknown,
    }));
    assert_eq!(*refusal(&said(&mut registry, 1, ToRoot::HandOver)), Refusal::Dedicated { pid: ROOT.pid });
}

#[test]
fn who_wants_a_dedicated_root_is_not_admitted_by_an_embedded_one() {
    let mut registry = registry();
    drop(registry.handle(Event::Connected {
        client: 1,
        pid: 1,
        credentials: owner(),
        process: Process::Unknown,
    }));
    let mut patient = hello("x", 5);
    if let ToRoot::Hello { external, .. } = &mut patient {
        *external = true;
    }
    assert_eq!(*refusal(&said(&mut registry, 1, patient)), Refusal::NotDedicated { pid: ROOT.pid });
}

#[test]
fn a_root_rises_above_every_epoch_its_nodes_have_seen() {
    let mut registry = registry();
    for (client, seen, epoch) in
        [(1, 3, 3), (2, 9, 10), (3, 4, 10), (4, u64::MAX, MAX_EPOCH), (5, u64::MAX, MAX_EPOCH)]
    {
        drop(registry.handle(Event::Connected {
            client,
            pid: 1,
            credentials: owner(),
            process: Process::Unknown,
        }));
        let mut message = hello(&format!("n{client}"), client);
        if let ToRoot::Hello { seen_epoch, .. } = &mut message {
            *seen_epoch = seen;
        }
        let actions = said(&mut registry, client, message);
        let Some(Action::Send { message: ToNode::Welcome { epoch: welcomed, .. }, .. }) = actions.last()
        else {
            panic!("{actions:?}")
        };
        assert_eq!(*welcomed, epoch);
    }
}

#[test]
fn every_table_has_a_bound_and_says_so() {
    let limits = Limits {
        clients: 3,
        clients_of_a_guest: 2,
        ends_per_node: 3,
        ends: 5,
        pairs: 2,
        announced: 2,
        inquiries: 1,
        lane: 8,
        ..Limits::default()
    };
    let mut registry = Registry::new(ROOT, limits, Policy::owner_only(OWNER));
    let table = |actions: &[Action]| match refusal(actions) {
        Refusal::Limit { what, .. } => *what,
        other => panic!("{other:?}"),
    };
    for client in 1..=3 {
        join(&mut registry, client);
    }
    let actions = registry.handle(Event::Connected {
        client: 4,
        pid: 4,
        credentials: owner(),
        process: Process::Unknown,
    });
    assert_eq!((table(&actions), &summary(&actions)[1]), (Table::Nodes, &(4, "cut off")));
    for index in 0..3 {
        said(&mut registry, 1, offer(index, "a", 5));
    }
    assert_eq!(table(&said(&mut registry, 1, offer(3, "a", 5))), Table::EndsOfNode);
    assert_eq!(table(&said(&mut registry, 2, demand(1, "a", None))), Table::Pairs);
    said(&mut registry, 1, ToRoot::Withdraw { index: 2 });
    assert_eq!(summary(&said(&mut registry, 2, demand(1, "a", None)))[0], (2, "accepted"));
    assert_eq!(table(&said(&mut registry, 1, offer(3, "a", 5))), Table::Pairs);
    said(&mut registry, 2, demand(2, "b", None));
    said(&mut registry, 2, demand(3, "b", None));
    assert_eq!(table(&said(&mut registry, 3, demand(1, "c", None))), Table::Ends);
    said(&mut registry, 3, ToRoot::Inspect { request: 1, end: end(1, 0) });
    assert_eq!(
        table(&said(&mut registry, 3, ToRoot::Inspect { request: 2, end: end(1, 0) })),
        Table::Inquiries
    );
    let large = ToRoot::Offer {
        request: 0,
        offer: Offer::new(
            9,
            "x",
            Kind { fingerprint: 0, schema: vec![0; MAX_SCHEMA + 1] },
            Contract::default(),
        ),
    };
    assert_eq!(table(&said(&mut registry, 3, large)), Table::SchemaBytes);
    let connections = vec![Connected { publisher: end(9, 9), seat: 0 }; 3];
    let actions = said(&mut registry, 3, ToRoot::Connected { subscriber: 0, connections });
    assert_eq!((table(&actions), summary(&actions).last()), (Table::Announced, Some(&(3, "cut off"))));
}

#[test]
fn a_listing_of_thousands_comes_in_pages_that_fit_a_packet() {
    let mut registry = registry();
    for client in 1..=3 {
        join(&mut registry, client);
    }
    for index in 0..4000 {
        said(&mut registry, 1, offer(index, &format!("services/number/{index}"), 5));
    }
    for index in 0..1000 {
        said(&mut registry, 2, demand(index, &format!("services/number/{index}"), None));
        said(&mut registry, 2, attach(index, end(1, index)));
        said(&mut registry, 1, attached(index, end(2, index)));
    }
    let (mut cursor, mut entries, mut pages) = (Cursor::Nodes(0), Vec::new(), 0);
    loop {
        let actions = said(&mut registry, 3, ToRoot::List { request: 1, after: cursor });
        let [Action::Send { message, .. }] = &actions[..] else { panic!("{actions:?}") };
        let mut packet = rkyv::util::AlignedVec::new();
        crate::protocol::encode(message, &mut packet).unwrap();
        let ToNode::Page { entries: page, next, .. } = message else { panic!("{message:?}") };
        entries.extend(page.clone());
        pages += 1;
        match next {
            Some(next) => cursor = next.clone(),
            None => break,
        }
    }
    let count = |wanted: fn(&Entry) -> bool| entries.iter().filter(|entry| wanted(entry)).count();
    assert_eq!(count(|entry| matches!(entry, Entry::Node(_))), 3);
    assert_eq!(count(|entry| matches!(entry, Entry::Service { .. })), 4000);
    assert_eq!(count(|entry| matches!(entry, Entry::Publisher { .. })), 4000);
    assert_eq!(count(|entry| matches!(entry, Entry::Subscriber { .. })), 1000);
    assert_eq!(count(|entry| matches!(entry, Entry::Connection(_))), 1000);
    assert!(pages > 10 && pages < 40, "{pages} pages of {PAGE_BYTES} bytes");
}

// ---- random worlds

const CLIENTS: u64 = 4;
const SERVICES: [&str; 4] = ["a", "b", "c/d", "c/e"];
const FILTERS: [&str; 6] = ["a", "b", "*", "**", "c/*", "c/?"];

#[derive(Clone, Debug)]
enum Step {
    Join {
        client: u64,
    },
    Leave {
        client: u64,
    },
    Offer {
        client: u64,
        service: usize,
        fingerprint: u128,
    },
    Demand {
        client: u64,
        filter: usize,
        fingerprint: Option<u128>,
    },
    Withdraw {
        pick: usize,
    },
    /// An answer to one of the messages that nodes have not answered yet.
    Answer {
        pick: usize,
        agree: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        2 => client.clone().prop_map(|client| Step::Join { client }),
        1 => client.clone().prop_map(|client| Step::Leave { client }),
        4 => (client.clone(), 0..SERVICES.len(), 5..7u128)
            .prop_map(|(client, service, fingerprint)| Step::Offer { client, service, fingerprint }),
        4 => (client, 0..FILTERS.len(), prop::option::of(5..7u128))
            .prop_map(|(client, filter, fingerprint)| Step::Demand { client, filter, fingerprint }),
        2 => any::<usize>().prop_map(|pick| Step::Withdraw { pick }),
        12 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(pick, agree)| Step::Answer { pick, agree }),
    ]
}

/// The nodes' side of the world, as simple as it can be: lists, and no memory of the registry's.
#[derive(Default)]
struct World {
    next_client: u64,
    next_index: u32,
    /// Of each slot: the client and its epoch, while joined.
    joined: [Option<ClientId>; CLIENTS as usize],
    publishers: Vec<(ClientId, EndId, &'static str, u128)>,
    subscribers: Vec<(ClientId, EndId, &'static str, Option<u128>)>,
    unanswered: Vec<(ClientId, ToNode)>,
    matches: BTreeMap<(EndId, EndId), usize>,
    connected: BTreeSet<(EndId, EndId)>,
    /// Of each subscriber: services of another type that it was told of, and which type it was.
    told: BTreeMap<EndId, BTreeMap<String, u128>>,
    log: Vec<Action>,
}

impl World {
    fn run(&mut self, registry: &mut Registry, step: &Step) {
        match step.clone() {
            Step::Join { client } if self.joined[client as usize].is_none() => {
                self.next_client += 1;
                let id = self.next_client;
                let actions = join(registry, id);
                self.joined[client as usize] = Some(id);
                self.take(actions);
            }
            Step::Join { .. } => {}
            Step::Leave { client } => {
                if let Some(id) = self.joined[client as usize].take() {
                    self.publishers.retain(|publisher| publisher.0 != id);
                    self.subscribers.retain(|subscriber| subscriber.0 != id);
                    self.unanswered.retain(|(to, _)| *to != id);
                    self.forget_pairs();
                    let actions = registry.handle(Event::Gone { client: id });
                    self.take(actions);
                    assert_nowhere(registry, id);
                }
            }
            Step::Offer { client, service, fingerprint } => {
                let Some(id) = self.joined[client as usize] else { return };
                self.next_index += 1;
                let (index, service) = (self.next_index, SERVICES[service]);
                let fits = self.type_fits(service, fingerprint);
                let actions = said(registry, id, joiners::begins(index, service, fingerprint));
                assert_eq!(summary(&actions)[0].1, if fits { "accepted" } else { "refused" });
                if fits {
                    self.publishers.push((id, end(id, index), service, fingerprint));
                }
                self.take(actions);
            }
            Step::Demand { client, filter, fingerprint } => {
                let Some(id) = self.joined[client as usize] else { return };
                self.next_index += 1;
                let (index, filter) = (self.next_index, FILTERS[filter]);
                let actions = said(registry, id, demand(index, filter, fingerprint));
                assert_eq!(summary(&actions)[0].1, "accepted", "whatever type it expects");
                self.subscribers.push((id, end(id, index), filter, fingerprint));
                self.told.insert(end(id, index), BTreeMap::new());
                self.take(actions);
            }
            Step::Withdraw { pick } => {
                let all = self.publishers.len() + self.subscribers.len();
                if all == 0 {
                    return;
                }
                let pick = pick % all;
                let (id, end) = if pick < self.publishers.len() {
                    let (id, end, ..) = self.publishers.remove(pick);
                    (id, end)
                } else {
                    let (id, end, ..) = self.subscribers.remove(pick - self.publishers.len());
                    (id, end)
                };
                self.forget_pairs();
                let actions = said(registry, id, ToRoot::Withdraw { index: end.index });
                self.take(actions);
            }
            Step::Answer { pick, agree } => {
                if !self.unanswered.is_empty() {
                    let (from, question) = self.unanswered.remove(pick % self.unanswered.len());
                    let actions = said(registry, from, answer(&question, agree));
                    self.take(actions);
                }
            }
        }
    }

    fn type_fits(&self, service: &str, fingerprint: u128) -> bool {
        self.publishers.iter().filter(|p| p.2 == service).all(|p| p.3 == fingerprint)
    }

    fn forget_pairs(&mut self) {
        let live = |end: &EndId, ends: &[EndId]| ends.contains(end);
        let publishers: Vec<EndId> = self.publishers.iter().map(|p| p.1).collect();
        let subscribers: Vec<EndId> = self.subscribers.iter().map(|s| s.1).collect();
        self.matches.retain(|(p, s), _| live(p, &publishers) && live(s, &subscribers));
        self.connected.retain(|(p, s)| live(p, &publishers) && live(s, &subscribers));
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.log.push(action.clone());
            let Action::Send { to, message, .. } = action else { continue };
            match &message {
                ToNode::Match { subscriber, matched } => {
                    *self.matches.entry((matched.route.end, end(to, *subscriber))).or_default() += 1;
                    self.unanswered.push((to, message));
                }
                ToNode::Attach { .. } => self.unanswered.push((to, message)),
                ToNode::Skipped { subscriber, carried } => {
                    let told = self.told.entry(end(to, *subscriber)).or_default();
                    told.insert(carried.service.as_str().to_owned(), carried.kind.fingerprint);
                }
                ToNode::Attached { subscriber, publisher, .. } => {
                    self.connected.insert((*publisher, end(to, *subscriber)));
                }
                _ => {}
            }
        }
    }

    /// The pairs that ought to be, by the plainest reading of the rules.
    fn ought(&self) -> BTreeSet<(EndId, EndId)> {
        let mut pairs = BTreeSet::new();
        for (_, publisher, service, kind) in &self.publishers {
            for (_, subscriber, filter, wanted) in &self.subscribers {
                let means = Filter::parse(filter).unwrap().matches(service);
                if means && wanted.is_none_or(|wanted| wanted == *kind) {
                    pairs.insert((*publisher, *subscriber));
                }
            }
        }
        pairs
    }
}

fn answer(question: &ToNode, agree: bool) -> ToRoot {
    match question {
        ToNode::Match { subscriber, matched } if agree => attach(*subscriber, matched.route.end),
        ToNode::Match { subscriber, matched } => {
            ToRoot::Declined { subscriber: *subscriber, publisher: matched.route.end }
        }
        ToNode::Attach { publisher, subscriber, .. } if agree => attached(*publisher, *subscriber),
        ToNode::Attach { publisher, subscriber, .. } => {
            ToRoot::AttachRefused { publisher: *publisher, subscriber: *subscriber, reason: "no".into() }
        }
        other => panic!("{other:?} needs no answer"),
    }
}

/// After a client is gone its number and its epoch are in no table.
fn assert_nowhere(registry: &Registry, client: ClientId) {
    let node = client * 10;
    let foreign = |end: &EndId| end.node != node;
    assert!(!registry.clients.contains_key(&client) && !registry.nodes.contains_key(&node));
    assert!(registry.names.values().flatten().all(|other| *other != client));
    assert!(registry.publishers.iter().all(|(end, p)| foreign(end) && p.client != client));
    assert!(registry.subscribers.iter().all(|(end, s)| foreign(end) && s.client != client));
    assert!(registry.patterns.iter().all(foreign));
    assert!(registry.pairs.keys().all(|pair| foreign(&pair.publisher) && foreign(&pair.subscriber)));
    assert!(registry.pairs_of_subscribers.iter().all(|(s, p)| foreign(s) && foreign(p)));
    for service in registry.services.values() {
        assert!(service.publishers.iter().chain(&service.subscribers).all(foreign));
    }
    assert!(registry.lanes.keys().all(|lane| lane.subscriber != client && lane.publisher != client));
}

/// What must hold between any two events.
fn assert_sound(registry: &Registry, world: &World, lane: usize) {
    let ought = world.ought();
    let pairs: BTreeSet<_> = registry.pairs.keys().map(|p| (p.publisher, p.subscriber)).collect();
    assert_eq!(pairs, ought, "the pairs that match are the pairs that are");
    let turned: BTreeSet<_> = registry.pairs_of_subscribers.iter().map(|(s, p)| (*p, *s)).collect();
    assert_eq!(turned, ought);
    for pair in &ought {
        let matches = world.matches.get(pair).copied().unwrap_or(0);
        let state = registry.pairs[&Pair { publisher: pair.0, subscriber: pair.1 }];
        assert_eq!(matches, usize::from(state != PairState::Waiting), "{state:?}");
        let is_connected = matches!(state, PairState::Connected { .. });
        assert_eq!(world.connected.contains(pair), is_connected);
    }
    let mut traffic: BTreeMap<Lane, (usize, usize)> = BTreeMap::new();
    for (pair, state) in &registry.pairs {
        let counts = traffic.entry(registry.lane_of(*pair)).or_default();
        counts.0 += usize::from(matches!(state, PairState::Matched | PairState::Attaching { .. }));
        counts.1 += usize::from(*state == PairState::Waiting);
    }
    traffic.retain(|_, counts| *counts != (0, 0));
    let counted = registry.lanes.iter().map(|(lane, t)| (*lane, (t.under_way, t.waiting.len())));
    assert_eq!(counted.collect::<BTreeMap<_, _>>(), traffic);
    for (under_way, waiting) in traffic.into_values() {
        assert!(under_way <= lane && (waiting == 0 || under_way == lane), "nobody waits beside free room");
    }
    joiners::assert_sound(registry);
    for service in registry.services.values() {
        assert!(!service.publishers.is_empty() || !service.subscribers.is_empty());
        assert_eq!(service.stream.is_some(), !service.publishers.is_empty(), "publishers fix the type");
    }
    for (_, publisher, service, kind) in &world.publishers {
        for (_, subscriber, filter, wanted) in &world.subscribers {
            let means = Filter::parse(filter).unwrap().matches(service);
            if means && wanted.is_some_and(|wanted| wanted != *kind) {
                let told = world.told[subscriber].get(*service);
                assert_eq!(told, Some(kind), "{subscriber} does not fit {publisher}, and was told");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Random joins, deaths, offers, demands, withdrawals and answers, early or never: every pair that matches gets
    /// exactly one `Match`, nothing that does not match gets one, who is gone is nowhere, and the same events give the
    /// same actions.
    #[test]
    fn every_matching_pair_gets_exactly_one_match(
        steps in prop::collection::vec(step(), 1..120),
        lane in 1usize..4,
    ) {
        let limits = Limits { lane, ..Limits::default() };
        let (mut registry, mut world) = (Registry::new(ROOT, limits, Policy::owner_only(OWNER)), World::default());
        let (mut twin, mut other_world) = (Registry::new(ROOT, limits, Policy::owner_only(OWNER)), World::default());
        for step in &steps {
            world.run(&mut registry, step);
            assert_sound(&registry, &world, lane);
            other_world.run(&mut twin, step);
        }
        prop_assert_eq!(world.log, other_world.log);
    }

    /// A root dies in a random state; its nodes tell a new root what they have, in any order. The pairs that were connected
    /// get no second `Match`, all others get theirs.
    #[test]
    fn what_was_connected_is_not_matched_again_by_the_next_root(
        steps in prop::collection::vec(step(), 1..100),
        order in any::<u64>(),
    ) {
        let (mut registry, mut world) = (registry(), World::default());
        for step in &steps {
            world.run(&mut registry, step);
        }
        // Nobody answers the successor here, so no pair may have to wait for room in its lane.
        let limits = Limits { lane: usize::MAX, ..Limits::default() };
        let mut successor = Registry::new(RootIdentity { epoch: 4, ..ROOT }, limits, Policy::owner_only(OWNER));
        let mut after = World { connected: world.connected.clone(), ..World::default() };
        let mut nodes: Vec<ClientId> = world.joined.iter().flatten().copied().collect();
        if !nodes.is_empty() {
            let turn = order as usize % nodes.len();
            nodes.rotate_left(turn);
        }
        for id in nodes {
            let actions = join(&mut successor, id);
            after.take(actions);
            for (_, end, service, kind) in world.publishers.iter().filter(|p| p.0 == id) {
                let actions = said(&mut successor, id, offer(end.index, service, *kind));
                assert_eq!(summary(&actions)[0].1, "accepted");
                after.take(actions);
            }
            for (_, end, filter, kind) in world.subscribers.iter().filter(|s| s.0 == id) {
                let connected = world.connected.iter().filter(|pair| pair.1 == *end);
                let connections = connected.map(|pair| Connected { publisher: pair.0, seat: 1 }).collect();
                let brought = ToRoot::Connected { subscriber: end.index, connections };
                after.take(said(&mut successor, id, brought));
                let actions = said(&mut successor, id, demand(end.index, filter, *kind));
                assert_eq!(summary(&actions)[0].1, "accepted");
                after.take(actions);
            }
        }
        for pair in world.ought() {
            let matches = after.matches.get(&pair).copied().unwrap_or(0);
            prop_assert_eq!(matches, usize::from(!world.connected.contains(&pair)));
        }
    }
}

/// Any message at any time from anybody, with numbers that exist and numbers that do not.
fn any_message() -> impl Strategy<Value = ToRoot> {
    let end = (0u64..40, 0u32..4).prop_map(|(node, index)| EndId { node, index });
    let carrier = prop_oneof![Just(Carrier::Descriptor), Just(Carrier::Named("n".into()))];
    let index = 0u32..4;
    prop_oneof![
        (0u64..4, any::<bool>(), any::<bool>()).prop_map(|(node, rejoin, observer)| ToRoot::Hello {
            name: format!("n{node}"),
            node,
            observer,
            external: false,
            rejoin,
            hosts_root: false,
            seen_epoch: node,
            bells: Carrier::Descriptor,
        }),
        (index.clone(), 0..SERVICES.len(), 5..7u128).prop_map(|(i, s, f)| offer(i, SERVICES[s], f)),
        (index.clone(), 0..SERVICES.len(), 5..7u128).prop_map(|(i, s, f)| joiners::begins(i, SERVICES[s], f)),
        (index.clone(), carrier.clone()).prop_map(|(publisher, ring)| ToRoot::Lend { publisher, ring }),
        (index.clone(), 0..FILTERS.len(), prop::option::of(5..7u128))
            .prop_map(|(i, f, kind)| demand(i, FILTERS[f], kind)),
        (index.clone(), end.clone()).prop_map(|(subscriber, publisher)| ToRoot::Connected {
            subscriber,
            connections: vec![Connected { publisher, seat: 0 }],
        }),
        index.clone().prop_map(|index| ToRoot::Withdraw { index }),
        (index.clone(), end.clone(), carrier.clone()).prop_map(|(subscriber, publisher, reader)| {
            ToRoot::Attach { subscriber, publisher, seat: 0, reader }
        }),
        (index.clone(), end.clone())
            .prop_map(|(subscriber, publisher)| ToRoot::Declined { subscriber, publisher }),
        (index.clone(), end.clone(), carrier.clone()).prop_map(|(publisher, subscriber, ring)| {
            ToRoot::Attached { publisher, subscriber, start: 0, bells: Some(ring.clone()), ring }
        }),
        (index, end.clone()).prop_map(|(publisher, subscriber)| ToRoot::AttachRefused {
            publisher,
            subscriber,
            reason: "no".into(),
        }),
        (0u32..4, 0..SERVICES.len(), 5..7u128, 0u64..3, prop::option::of(end.clone())).prop_map(
            |(index, service, kind, born, former)| {
                retained::offer(index, SERVICES[service], kind, born, former)
            }
        ),
        end.clone().prop_map(|publisher| ToRoot::Kept { publisher }),
        end.clone().prop_map(|publisher| ToRoot::NotKept { publisher }),
        end.prop_map(|end| ToRoot::Inspect { request: 0, end }),
        (0u64..6, prop::option::of(carrier))
            .prop_map(|(inquiry, segment)| ToRoot::Inspected { inquiry, segment }),
        Just(ToRoot::HandOver),
        Just(ToRoot::AreYouThere),
        Just(ToRoot::Watch),
        (0u32..4).prop_map(|subscriber| ToRoot::Rematch { subscriber }),
        (0u32..4, 0u64..40, 0u32..4).prop_map(|(subscriber, node, index)| ToRoot::Detached {
            subscriber,
            publisher: EndId { node, index },
        }),
        (0u32..4).prop_map(|publisher| ToRoot::Misfits { request: 0, publisher }),
        Just(ToRoot::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Nobody has to obey: whatever clients say in whatever order, the registry neither panics nor outgrows its bounds,
    /// and when all are gone it is empty.
    #[test]
    fn hostile_clients_harm_nobody(
        steps in prop::collection::vec((1u64..6, 0u8..12, any_message()), 1..200),
    ) {
        let limits = Limits { clients: 4, clients_of_a_guest: 2, ends_per_node: 3, ends: 6, pairs: 5, announced: 3, inquiries: 2, lane: 1, retained_of_node: 2, retained: 3, kept_of_node: 2, lent: 2, lent_of_a_guest: 1 };
        let mut registry = Registry::new(ROOT, limits, Policy::owner_only(OWNER));
        for (client, kind, message) in steps {
            let actions = match kind {
                0 if !registry.clients.contains_key(&client) => {
                    let pid = client as i32 / 2;
                    registry.handle(Event::Connected { client, pid, credentials: owner(), process: Process::Unknown })
                }
                1 => registry.handle(Event::Gone { client }),
                2 => registry.handle(Event::DescriptorsLost { client, message }),
                3 if !registry.clients.contains_key(&client) => registry.handle(Event::Died { client }),
                _ => registry.handle(Event::Said { client, message }),
            };
            for action in &actions {
                if let Action::Send { attachments, message, .. } = action {
                    prop_assert_eq!(attachments.len(), crate::protocol::Message::descriptors(message));
                }
            }
            prop_assert!(registry.clients.len() <= 4 && registry.pairs.len() <= 5);
            prop_assert!(registry.publishers.len() + registry.subscribers.len() <= 6);
            prop_assert!(registry.inquiries.len() <= 2 && registry.retained.len() <= 3);
            retained::assert_sound(&registry);
            joiners::assert_sound(&registry);
            prop_assert!(joiners::lent(&registry) <= 2);
        }
        for client in 1..6 {
            drop(registry.handle(Event::Gone { client }));
        }
        prop_assert!(registry.clients.is_empty() && registry.names.is_empty() && registry.nodes.is_empty());
        prop_assert!(registry.services.is_empty() && registry.publishers.is_empty());
        prop_assert!(registry.subscribers.is_empty() && registry.patterns.is_empty());
        prop_assert!(registry.pairs.is_empty() && registry.pairs_of_subscribers.is_empty());
        prop_assert!(registry.inquiries.is_empty() && registry.lanes.is_empty());
        prop_assert!(registry.retained.is_empty() && registry.watchers.is_empty());
        prop_assert!(joiners::is_empty(&registry));
    }
}
