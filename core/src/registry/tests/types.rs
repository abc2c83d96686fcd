//! Types and patterns that do not fit.
use super::*;

/// A subscriber fixed it once, so a guest who might only look, or a forgotten viewer, kept the publisher of a
/// service out.
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
    // Later ones are told the same; a second publisher is no news.
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
        Entry::Service { service, kind, .. } => Some((service.as_str().to_owned(), kind.fingerprint)),
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
    // A subscriber of any type takes both.
    let actions = said(&mut registry, 2, demand(2, "*", None));
    assert_eq!(summary(&actions).len(), 5);
}
