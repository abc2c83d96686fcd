//! Who keeps what publishers retain, and who stands for those that are gone.
use super::*;
use crate::contract::{Author, Former};
use crate::policy::Accounts;

/// An offer that retains three messages, or stands for a former publisher.
pub(super) fn offer(
    index: u32,
    service: &str,
    fingerprint: u128,
    born: u64,
    former: Option<EndId>,
) -> ToRoot {
    let ToRoot::Offer { request, mut offer } = super::offer(index, service, fingerprint) else {
        unreachable!()
    };
    offer.born = born;
    match former {
        Some(publisher) => {
            let node_name = format!("node{}", publisher.node / 10).parse().unwrap();
            offer.author = Author::Former(Former { publisher, node_name });
        }
        None => {
            offer.contract.retained = 3;
            offer.begins = true;
        }
    }
    ToRoot::Offer { request, offer }
}

fn nodes(count: ClientId) -> Registry {
    let mut registry = registry();
    for client in 1..=count {
        join(&mut registry, client);
    }
    registry
}

fn kept(publisher: EndId) -> ToRoot {
    ToRoot::Kept { publisher }
}

/// Node 1 publishes, and nodes 2 and 3 keep its ring.
fn published() -> (Registry, EndId) {
    let mut registry = nodes(3);
    let publisher = end(1, 7);
    let actions = said(&mut registry, 1, offer(7, "a", 5, 1, None));
    assert_eq!(summary(&actions), [(2, "keep"), (3, "keep")]);
    assert_eq!(summary(&said(&mut registry, 3, kept(publisher))), [(1, "accepted")]);
    assert_eq!(summary(&said(&mut registry, 2, kept(publisher))), []);
    assert_sound(&registry);
    (registry, publisher)
}

/// Both keepers offer what node 1 retained, under their number 0.
fn stood_for() -> (Registry, EndId) {
    let (mut registry, publisher) = published();
    let actions = registry.handle(Event::Gone { client: 1 });
    assert_eq!(summary(&actions), [(2, "gone"), (3, "gone")]);
    for keeper in [2, 3] {
        let actions = said(&mut registry, keeper, offer(0, "a", 5, 1, Some(publisher)));
        assert_eq!(summary(&actions), [(keeper, "accepted")]);
    }
    assert_sound(&registry);
    (registry, publisher)
}

#[test]
fn a_publisher_that_retains_stands_when_somebody_keeps_its_ring() {
    let mut registry = nodes(2);
    let publisher = end(1, 7);
    let actions = said(&mut registry, 1, offer(7, "a", 5, 1, None));
    let [Action::Send { to: 2, message: ToNode::Keep { source, offer }, attachments }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((*source, &attachments[..]), (publisher, &[Attachment::PidfdOf(1)][..]));
    let former = Former { publisher, node_name: "node1".parse().unwrap() };
    assert_eq!((offer.author.former(), offer.contract.retained, &*offer.service), (Some(&former), 0, "a"));
    // The node that was asked fetches the ring like any observer.
    let actions = said(&mut registry, 2, ToRoot::Inspect { request: 9, end: publisher });
    assert_eq!(summary(&actions), [(1, "inspect")]);
    assert_eq!(summary(&said(&mut registry, 2, kept(publisher))), [(1, "accepted")]);
    // A newcomer makes up the number, a third is not needed.
    assert_eq!(summary(&join(&mut registry, 3)), [(3, "keep bells"), (3, "welcome"), (3, "keep")]);
    assert_eq!(summary(&join(&mut registry, 4)), [(4, "keep bells"), (4, "welcome")]);
    assert_sound(&registry);
}

#[test]
fn where_nobody_can_keep_it_the_offer_stands_at_once() {
    let mut registry = nodes(1);
    assert_eq!(summary(&said(&mut registry, 1, offer(7, "a", 5, 1, None))), [(1, "accepted")]);
    // In the same process it would die with the publisher; an observer is there for a moment only.
    drop(registry.handle(Event::Connected {
        client: 2,
        pid: 1,
        credentials: owner(),
        process: Process::Unknown,
    }));
    drop(said(&mut registry, 2, hello("twin", 20)));
    assert!(registry.keepers_of(end(1, 7)) == 0);
    assert_sound(&registry);
}

#[test]
fn a_keeper_that_cannot_or_goes_is_replaced() {
    let mut registry = nodes(4);
    let publisher = end(1, 7);
    drop(said(&mut registry, 1, offer(7, "a", 5, 1, None)));
    let actions = said(&mut registry, 2, ToRoot::NotKept { publisher });
    assert_eq!(summary(&actions), [(4, "keep")]);
    let actions = registry.handle(Event::Gone { client: 3 });
    assert_eq!(summary(&actions), [], "2 lacks something, and is not asked again");
    // The last that was asked cannot either, so the publisher waits for nobody.
    let actions = said(&mut registry, 4, ToRoot::NotKept { publisher });
    assert_eq!(summary(&actions), [(1, "accepted")]);
    assert_sound(&registry);
}

#[test]
fn who_comes_later_is_matched_with_those_who_stand_for_it() {
    let (mut registry, publisher) = stood_for();
    join(&mut registry, 4);
    let actions = said(&mut registry, 4, demand(1, "a", Some(5)));
    assert_eq!(summary(&actions), [(4, "accepted"), (4, "match"), (4, "match")]);
    for (action, keeper) in actions[1..].iter().zip([2, 3]) {
        let Action::Send { message: ToNode::Match { matched, .. }, .. } = action else {
            panic!("{action:?}")
        };
        let route = &matched.route;
        assert_eq!(
            (route.end, route.writer(), route.publisher_node().as_str()),
            (end(keeper, 0), publisher, "node1")
        );
        assert!(matched.is_retained());
    }
}

/// With one keeper left the others get it from there; with the last one it is gone.
#[test]
fn what_is_retained_lives_as_long_as_one_keeper() {
    let (mut registry, publisher) = stood_for();
    join(&mut registry, 4);
    let actions = registry.handle(Event::Gone { client: 2 });
    let [Action::Send { to: 4, message: ToNode::Keep { source, .. }, attachments }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((*source, &attachments[..]), (end(3, 0), &[Attachment::PidfdOf(3)][..]));
    drop(said(&mut registry, 4, offer(0, "a", 5, 1, Some(publisher))));
    assert_sound(&registry);
    drop(registry.handle(Event::Gone { client: 3 }));
    assert_eq!(registry.ends.services(), 1);
    drop(registry.handle(Event::Gone { client: 4 }));
    assert!(registry.ends.is_empty() && registry.retained.len() == 0);
}

#[test]
fn a_ring_in_which_nothing_is_is_not_kept() {
    let (mut registry, publisher) = published();
    drop(registry.handle(Event::Gone { client: 1 }));
    for keeper in [2, 3] {
        assert_eq!(summary(&said(&mut registry, keeper, ToRoot::NotKept { publisher })), []);
    }
    assert_eq!(registry.retained.len(), 0);
    // They lack nothing, and keep the next.
    join(&mut registry, 1);
    let actions = said(&mut registry, 1, offer(8, "a", 5, 2, None));
    assert_eq!(summary(&actions), [(2, "keep"), (3, "keep")]);
}

/// Of two lives of a node the later stays, whichever comes first.
#[test]
fn a_later_life_takes_the_place_of_an_earlier_one() {
    let (mut registry, first) = stood_for();
    let second = EndId { node: 11, index: 0 };
    let actions = said(&mut registry, 3, offer(1, "a", 5, 2, Some(second)));
    assert_eq!(summary(&actions), [(2, "release"), (3, "release"), (3, "accepted"), (2, "keep")]);
    assert!(!registry.retained.contains(first) && registry.retained.contains(second));
    let actions = said(&mut registry, 2, offer(1, "a", 5, 1, Some(first)));
    assert_eq!(summary(&actions), [(2, "release")]);
    assert_sound(&registry);
    // Another name on the same service stays beside it.
    let other = EndId { node: 99, index: 0 };
    assert_eq!(summary(&said(&mut registry, 2, offer(2, "a", 5, 0, Some(other))))[0], (2, "accepted"));
    assert!(registry.retained.contains(second));
}

#[test]
fn so_many_names_of_one_service_stay_and_the_oldest_goes() {
    let mut registry = nodes(1);
    for node in 0..20u64 {
        let former = EndId { node: 1000 + node * 10, index: 0 };
        drop(said(&mut registry, 1, offer(node as u32, "a", 5, node, Some(former))));
        assert_sound(&registry);
    }
    let left: Vec<u64> = registry.ends.publishers().map(|(_, publisher)| publisher.born).collect();
    assert_eq!(left, (4..20).collect::<Vec<_>>());
}

/// What nobody alive has fixed holds up nobody who lives. It did once, while a subscriber of the old type was
/// there.
#[test]
fn a_publisher_of_another_type_displaces_what_was_retained() {
    let (mut registry, _) = stood_for();
    join(&mut registry, 4);
    join(&mut registry, 5);
    // For subscribers it is the type of the service, held by the node that is gone.
    let actions = said(&mut registry, 5, demand(2, "a", Some(6)));
    let told = ToNode::Skipped { subscriber: 2, carried: carried("a", 5, "node1") };
    assert_eq!(
        actions[..],
        [send(5, ToNode::Accepted { request: 2, joining: Joining::Done }), send(5, told)]
    );
    let actions = said(&mut registry, 4, super::offer(1, "a", 6));
    assert_eq!(summary(&actions), [(2, "release"), (3, "release"), (4, "accepted"), (5, "match")]);
    let actions = said(&mut registry, 2, offer(3, "a", 5, 9, Some(end(1, 9))));
    assert!(matches!(refusal(&actions), Refusal::OtherType(_)));
    assert_sound(&registry);
}

/// A new root asks others before it has heard of all who have the ring.
#[test]
fn who_is_one_too_many_is_released() {
    let mut registry = nodes(5);
    let former = end(9, 1);
    drop(said(&mut registry, 5, demand(1, "a", Some(5))));
    let actions = said(&mut registry, 2, offer(0, "a", 5, 1, Some(former)));
    assert_eq!(summary(&actions), [(2, "accepted"), (1, "keep"), (5, "match")]);
    drop(said(&mut registry, 3, offer(0, "a", 5, 1, Some(former))));
    let actions = said(&mut registry, 1, offer(0, "a", 5, 1, Some(former)));
    assert_eq!(summary(&actions), [(1, "accepted"), (1, "release")]);
    assert_sound(&registry);
    assert!(registry.ends.publisher(end(1, 0)).is_none());

    let publisher = end(4, 7);
    for keeper in [1, 2, 3] {
        let expected: &[_] = if keeper == 3 { &[(3, "release")] } else { &[] };
        assert_eq!(summary(&said(&mut registry, keeper, kept(publisher))), expected);
    }
    assert_sound(&registry);
}

/// After the death of a root keepers and publishers come in any order, and nobody keeps more than is needed.
#[test]
fn keepers_tell_the_next_root_what_they_keep() {
    let mut registry = nodes(4);
    let publisher = end(1, 7);
    for keeper in [2, 3] {
        assert_eq!(summary(&said(&mut registry, keeper, kept(publisher))), []);
    }
    let actions = said(&mut registry, 1, offer(7, "a", 5, 1, None));
    assert_eq!(summary(&actions), [(1, "accepted")]);
    assert_sound(&registry);
    // A publisher that did not come may be gone: who keeps its ring finds out, and offers it.
    let lost = end(9, 1);
    drop(said(&mut registry, 2, kept(lost)));
    drop(said(&mut registry, 2, offer(0, "b", 5, 1, Some(lost))));
    assert_sound(&registry);
}

#[test]
fn who_is_of_another_user_keeps_nothing() {
    let policy = "allow user:5 publish **\nallow user:5 subscribe **";
    let policy = Policy::parse(policy.as_bytes(), OWNER, &Accounts::default()).unwrap();
    let mut registry = Registry::new(ROOT, Limits::default(), policy);
    join(&mut registry, 1);
    drop(registry.handle(Event::Connected {
        client: 2,
        pid: 2,
        credentials: Credentials::of_user(5),
        process: Process::Unknown,
    }));
    drop(said(&mut registry, 2, hello("other", 20)));
    assert_eq!(summary(&said(&mut registry, 1, offer(7, "a", 5, 1, None))), [(1, "accepted")]);
    assert_eq!(summary(&said(&mut registry, 2, kept(end(1, 7)))), [(2, "release")]);
    assert_sound(&registry);
}

#[test]
fn retained_publishers_have_bounds() {
    let limits = Limits { retained_of_node: 2, retained: 3, ..Limits::default() };
    let mut registry = Registry::new(ROOT, limits, Policy::owner_only(OWNER));
    join(&mut registry, 1);
    join(&mut registry, 2);
    for index in 0..2 {
        drop(said(&mut registry, 1, offer(index, "a", 5, 1, None)));
    }
    let table = |actions: &[Action]| match refusal(actions) {
        Refusal::Limit { what, .. } => *what,
        other => panic!("{other:?}"),
    };
    assert_eq!(table(&said(&mut registry, 1, offer(2, "a", 5, 1, None))), Table::RetainedOfNode);
    drop(said(&mut registry, 2, offer(0, "a", 5, 1, None)));
    assert_eq!(table(&said(&mut registry, 2, offer(1, "a", 5, 1, None))), Table::Retained);
    assert_sound(&registry);
}
