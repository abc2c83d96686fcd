//! Who was there before a publisher: awaited, served by the root when the publisher is gone, and nothing of
//! it is left.
use super::*;
use crate::policy::Accounts;

/// An offer of a publisher that has sent nothing yet.
pub(super) fn begins(index: u32, service: &str, fingerprint: u128) -> ToRoot {
    let ToRoot::Offer { request, mut offer } = offer(index, service, fingerprint) else { unreachable!() };
    offer.begins = true;
    ToRoot::Offer { request, offer }
}

fn lend(publisher: u32) -> ToRoot {
    ToRoot::Lend { publisher, ring: Carrier::Descriptor }
}

fn is_empty(registry: &Registry) -> bool {
    registry.joiners.is_empty()
}

/// Node 1 will publish, nodes 2 and 3 have subscribed.
fn listening() -> Registry {
    let mut registry = registry();
    for client in 1..=3 {
        join(&mut registry, client);
    }
    for client in 2..=3 {
        drop(said(&mut registry, client, demand(4, "a", Some(5))));
    }
    registry
}

fn joining(actions: &[Action]) -> Joining {
    let found = actions.iter().find_map(|action| match action {
        Action::Send { message: ToNode::Accepted { joining, .. }, .. } => Some(*joining),
        _ => None,
    });
    found.expect("it is accepted")
}

#[test]
fn a_publisher_hears_when_all_who_were_there_are_attached_and_they_hear_it_first() {
    let mut registry = listening();
    let actions = said(&mut registry, 1, begins(7, "a", 5));
    assert_eq!(summary(&actions), [(1, "accepted"), (2, "match"), (3, "match")]);
    assert_eq!(joining(&actions), Joining::UnderWay);
    let actions = said(&mut registry, 2, attach(4, end(1, 7)));
    let [Action::Send { to: 1, message: ToNode::Attach { from_first: true, .. }, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(summary(&said(&mut registry, 1, attached(7, end(2, 4)))), [(2, "attached")]);
    drop(said(&mut registry, 3, attach(4, end(1, 7))));
    let actions = said(&mut registry, 1, attached(7, end(3, 4)));
    assert_eq!(summary(&actions), [(3, "attached"), (1, "joined")]);
    assert!(is_empty(&registry));
    // A later one begins where it always did, and nobody waits for it.
    join(&mut registry, 4);
    drop(said(&mut registry, 4, demand(4, "*", None)));
    let actions = said(&mut registry, 4, attach(4, end(1, 7)));
    let [Action::Send { message: ToNode::Attach { from_first: false, .. }, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(summary(&said(&mut registry, 1, attached(7, end(4, 4)))), [(4, "attached")]);
}

#[test]
fn who_declines_is_refused_or_goes_is_not_awaited() {
    let mut registry = listening();
    drop(said(&mut registry, 1, begins(7, "a", 5)));
    drop(said(&mut registry, 2, ToRoot::Declined { subscriber: 4, publisher: end(1, 7) }));
    assert_eq!(summary(&registry.handle(Event::Gone { client: 3 })), [(1, "joined")]);
    assert!(is_empty(&registry));

    let mut registry = listening();
    drop(said(&mut registry, 1, begins(7, "a", 5)));
    drop(said(&mut registry, 2, ToRoot::Withdraw { index: 4 }));
    drop(said(&mut registry, 3, attach(4, end(1, 7))));
    let no = ToRoot::AttachRefused { publisher: 7, subscriber: end(3, 4), reason: "no".into() };
    assert_eq!(summary(&said(&mut registry, 1, no)), [(3, "attach refused"), (1, "joined")]);
    assert!(is_empty(&registry));
}

#[test]
fn a_publisher_that_nobody_wants_is_done_at_once() {
    let mut registry = listening();
    assert_eq!(joining(&said(&mut registry, 1, begins(7, "b", 5))), Joining::Done);
    // One that has sent something is not held up: its subscribers are those of an earlier root.
    assert_eq!(joining(&said(&mut registry, 1, offer(8, "a", 5))), Joining::Done);
    assert!(is_empty(&registry));
}

/// Node 2 answers nothing, node 3 is attached, and node 1 has lent its ring.
fn lent_for_node_2() -> Registry {
    let mut registry = listening();
    drop(said(&mut registry, 1, begins(7, "a", 5)));
    drop(said(&mut registry, 3, attach(4, end(1, 7))));
    drop(said(&mut registry, 1, attached(7, end(3, 4))));
    assert_eq!(summary(&said(&mut registry, 1, lend(7))), [(1, "keep ring")]);
    assert_sound(&registry);
    registry
}

fn assert_orphan_is_given(actions: &[Action], to: ClientId) {
    let [Action::Send { to: found, message, attachments }, Action::DropRing { publisher }] = actions else {
        panic!("{actions:?}")
    };
    let end = end(1, 7);
    assert_eq!((*found, *publisher), (to, end));
    let ToNode::Attached { subscriber: 4, start: 0, gone: true, user: OWNER, .. } = message else {
        panic!("{message:?}")
    };
    assert_eq!(
        attachments[..],
        [Attachment::LentRing(end), Attachment::BellsOf(to), Attachment::LentPidfd(end)]
    );
}

#[test]
fn a_lent_ring_is_given_to_who_answers_when_the_publisher_is_withdrawn() {
    let mut registry = lent_for_node_2();
    assert_eq!(summary(&said(&mut registry, 1, ToRoot::Withdraw { index: 7 })), []);
    assert_sound(&registry);
    assert_orphan_is_given(&said(&mut registry, 2, attach(4, end(1, 7))), 2);
    assert!(is_empty(&registry));
}

/// Its socket has closed. Perhaps its process writes on: a subscriber that pins what it reads there is not
/// seen by it.
#[test]
fn a_lent_ring_is_given_to_nobody_before_its_process_is_dead() {
    let mut registry = lent_for_node_2();
    assert_eq!(summary(&registry.handle(Event::Gone { client: 1 })), []);
    assert_eq!(summary(&said(&mut registry, 2, attach(4, end(1, 7)))), []);
    assert_sound(&registry);
    assert_orphan_is_given(&registry.handle(Event::Died { client: 1 }), 2);
    assert!(is_empty(&registry));

    // The other order.
    let mut registry = lent_for_node_2();
    drop(registry.handle(Event::Gone { client: 1 }));
    assert_eq!(summary(&registry.handle(Event::Died { client: 1 })), []);
    assert_orphan_is_given(&said(&mut registry, 2, attach(4, end(1, 7))), 2);
}

#[test]
fn who_was_about_to_attach_when_the_publisher_died_gets_its_ring() {
    let mut registry = lent_for_node_2();
    assert_eq!(summary(&said(&mut registry, 2, attach(4, end(1, 7)))), [(1, "attach")]);
    assert_eq!(summary(&registry.handle(Event::Gone { client: 1 })), []);
    assert_orphan_is_given(&registry.handle(Event::Died { client: 1 }), 2);
}

#[test]
fn a_lent_ring_is_closed_when_nobody_is_left_who_might_want_it() {
    for goodbye in [
        Event::Gone { client: 2 },
        Event::Said { client: 2, message: ToRoot::Withdraw { index: 4 } },
        Event::Said { client: 2, message: ToRoot::Declined { subscriber: 4, publisher: end(1, 7) } },
    ] {
        for is_orphan in [true, false] {
            let mut registry = lent_for_node_2();
            if is_orphan {
                drop(registry.handle(Event::Gone { client: 1 }));
            }
            assert_eq!(summary(&registry.handle(goodbye.clone())), [(0, "drop ring")]);
            assert_eq!(registry.joiners.beginnings(), 0);
            assert_sound(&registry);
        }
    }
}

#[test]
fn a_ring_is_lent_for_those_alone_who_were_there_before() {
    let mut registry = lent_for_node_2();
    drop(registry.handle(Event::Gone { client: 1 }));
    drop(registry.handle(Event::Died { client: 1 }));
    let actions = said(&mut registry, 3, attach(4, end(1, 7)));
    assert_eq!(summary(&actions), [(3, "attach refused")]);
    assert_sound(&registry);
}

#[test]
fn a_node_that_comes_back_with_its_publisher_takes_its_ring_back() {
    let mut registry = lent_for_node_2();
    drop(registry.handle(Event::Gone { client: 1 }));
    drop(said(&mut registry, 2, attach(4, end(1, 7))));
    assert_eq!(
        registry.handle(Event::Connected {
            client: 9,
            pid: 1,
            process: Process::Unknown,
            credentials: owner()
        }),
        []
    );
    drop(said(&mut registry, 9, hello("node1", 10)));
    let actions = said(&mut registry, 9, offer(7, "a", 5));
    let expected = [(2, "attach refused"), (0, "drop ring"), (9, "accepted"), (2, "match"), (3, "match")];
    assert_eq!(summary(&actions), expected);
    assert!(is_empty(&registry));
}

#[test]
fn who_does_not_answer_is_awaited_once_and_again_when_it_has_answered() {
    let mut registry = lent_for_node_2();
    // The next one does not wait for it.
    join(&mut registry, 4);
    let actions = said(&mut registry, 4, begins(1, "a", 5));
    assert_eq!(joining(&actions), Joining::UnderWay, "node 3 is there");
    drop(said(&mut registry, 3, attach(4, end(4, 1))));
    let actions = said(&mut registry, 4, attached(1, end(3, 4)));
    let [_, Action::Send { to: 4, message: ToNode::Joined { publisher: 1, unanswered: true }, .. }] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    drop(said(&mut registry, 3, ToRoot::Withdraw { index: 4 }));
    assert_eq!(joining(&said(&mut registry, 4, begins(2, "a", 5))), Joining::Unanswered);
    // It goes on.
    drop(said(&mut registry, 2, attach(4, end(1, 7))));
    assert_eq!(joining(&said(&mut registry, 4, begins(3, "a", 5))), Joining::UnderWay);
}

#[test]
fn all_who_wait_for_a_node_hear_that_it_does_not_answer() {
    let mut registry = listening();
    drop(said(&mut registry, 3, ToRoot::Withdraw { index: 4 }));
    drop(said(&mut registry, 1, begins(7, "a", 5)));
    drop(said(&mut registry, 3, begins(8, "a", 5)));
    let actions = said(&mut registry, 1, lend(7));
    assert_eq!(summary(&actions), [(1, "keep ring"), (3, "joined")]);
}

#[test]
fn a_guest_that_did_not_answer_is_never_awaited_again_and_cannot_blame_others() {
    let text = "allow user:2000 subscribe **\nallow user:2000 publish **";
    let policy = Policy::parse(text.as_bytes(), OWNER, &Accounts::default()).unwrap();
    let limits = Limits { lent: 3, lent_of_a_guest: 1, ..Limits::default() };
    let mut registry = Registry::new(ROOT, limits, policy);
    join(&mut registry, 1);
    for client in 2..=3 {
        let credentials = Credentials::of_user(2000);
        drop(registry.handle(Event::Connected {
            client,
            pid: client as i32,
            process: Process::Unknown,
            credentials,
        }));
        drop(said(&mut registry, client, hello(&format!("node{client}"), client * 10)));
    }
    drop(said(&mut registry, 2, demand(4, "a", None)));
    assert_eq!(joining(&said(&mut registry, 1, begins(1, "a", 5))), Joining::UnderWay);
    drop(said(&mut registry, 1, lend(1)));
    drop(said(&mut registry, 2, attach(4, end(1, 1))));
    assert_eq!(joining(&said(&mut registry, 1, begins(2, "a", 5))), Joining::Unanswered);
    // Nor is another node of this user.
    drop(said(&mut registry, 2, ToRoot::Withdraw { index: 4 }));
    drop(said(&mut registry, 3, demand(4, "a", None)));
    assert_eq!(joining(&said(&mut registry, 1, begins(3, "a", 5))), Joining::Unanswered);

    // A node of the owner is awaited by the owner, whatever a guest says of it; and a guest may lend less.
    drop(said(&mut registry, 1, demand(9, "b", None)));
    drop(said(&mut registry, 3, begins(5, "b", 5)));
    assert_eq!(summary(&said(&mut registry, 3, lend(5))), [(3, "keep ring")]);
    drop(said(&mut registry, 3, begins(6, "b", 5)));
    assert_eq!(summary(&said(&mut registry, 3, lend(6))), []);
    assert_eq!(joining(&said(&mut registry, 1, begins(10, "b", 5))), Joining::UnderWay);
}

#[test]
fn what_waits_for_room_in_its_lane_is_matched_when_the_publisher_is_gone() {
    let limits = Limits { lane: 1, ..Limits::default() };
    let mut registry = Registry::new(ROOT, limits, Policy::owner_only(OWNER));
    join(&mut registry, 1);
    join(&mut registry, 2);
    drop(said(&mut registry, 2, demand(4, "**", None)));
    drop(said(&mut registry, 1, begins(7, "a", 5)));
    assert_eq!(summary(&said(&mut registry, 1, begins(8, "b", 5))), [(1, "accepted")]);
    for index in [7, 8] {
        drop(said(&mut registry, 1, lend(index)));
    }
    // One was matched already. The other is as soon as there is room, or now at the latest.
    let actions = registry.handle(Event::Gone { client: 1 });
    assert_eq!(summary(&actions), [(2, "match")]);
    drop(registry.handle(Event::Died { client: 1 }));
    for index in [7, 8] {
        let actions = said(&mut registry, 2, attach(4, end(1, index)));
        assert_eq!(summary(&actions), [(2, "attached"), (0, "drop ring")]);
    }
    assert!(is_empty(&registry));
}

/// It is accepted when somebody keeps its ring, and its subscribers are introduced meanwhile.
#[test]
fn a_publisher_that_retains_hears_of_its_joiners_after_it_is_accepted() {
    for is_kept_first in [true, false] {
        let mut registry = listening();
        let actions = said(&mut registry, 1, retained::offer(7, "a", 5, 1, None));
        assert_eq!(summary(&actions), [(2, "keep"), (3, "keep"), (2, "match"), (3, "match")]);
        let kept = ToRoot::Kept { publisher: end(1, 7) };
        let mut heard = Vec::new();
        if is_kept_first {
            heard.extend(said(&mut registry, 2, kept.clone()));
        }
        for client in [2, 3] {
            drop(said(&mut registry, client, attach(4, end(1, 7))));
            heard.extend(said(&mut registry, 1, attached(7, end(client, 4))));
        }
        if !is_kept_first {
            heard.extend(said(&mut registry, 2, kept));
        }
        let to_publisher: Vec<&str> =
            summary(&heard).into_iter().filter(|(to, _)| *to == 1).map(|(_, what)| what).collect();
        let expected = if is_kept_first { &["accepted", "joined"][..] } else { &["accepted"] };
        assert_eq!(to_publisher, expected);
    }
}

/// It had asked the publisher, which lent its ring for another one and died.
#[test]
fn who_gets_a_lent_ring_is_counted_no_more_while_others_are_left() {
    let mut registry = listening();
    drop(said(&mut registry, 1, begins(7, "a", 5)));
    drop(said(&mut registry, 3, attach(4, end(1, 7))));
    drop(said(&mut registry, 1, lend(7)));
    drop(registry.handle(Event::Gone { client: 1 }));
    assert_sound(&registry);
    let actions = registry.handle(Event::Died { client: 1 });
    assert_eq!(summary(&actions), [(3, "attached")]);
    assert_sound(&registry);
    assert_orphan_is_given(&said(&mut registry, 2, attach(4, end(1, 7))), 2);
    assert!(is_empty(&registry));
}
