//! One step after the other, and what is refused on the way.
use super::*;

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
    // Node 3 answers for node 2, and then for node 1: it only ever speaks of its own ends, which do not
    // exist.
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

// Once `hm ls`, ended before a stopped node answered it, cost that node its place in the hive as soon as it
// went on.
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
    assert_eq!(count(|entry| matches!(entry, Entry::Node { .. })), 3);
    assert_eq!(count(|entry| matches!(entry, Entry::Service { .. })), 4000);
    assert_eq!(count(|entry| matches!(entry, Entry::Publisher { .. })), 4000);
    assert_eq!(count(|entry| matches!(entry, Entry::Subscriber { .. })), 1000);
    assert_eq!(count(|entry| matches!(entry, Entry::Connection { .. })), 1000);
    assert!(pages > 10 && pages < 40, "{pages} pages of {PAGE_BYTES} bytes");
}
