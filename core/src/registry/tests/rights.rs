//! The registry with a policy: guests beside the owner, and policies that change.
use super::*;
use crate::contract::{Author, Remote};
use crate::name::NodeName;
use crate::policy::Accounts;

const ALICE: u32 = 1001;
const BOB: u32 = 1002;
const ROBOTS: u32 = 2000;

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes(), OWNER, &Accounts::default()).unwrap()
}

fn hive(text: &str) -> Registry {
    Registry::new(ROOT, Limits::default(), policy(text))
}

fn connect(registry: &mut Registry, client: ClientId, user: u32, groups: &[u32]) -> Vec<Action> {
    let credentials = Credentials { user, groups: groups.to_vec() };
    registry.handle(Event::Connected { client, pid: client as i32, credentials, process: Process::Unknown })
}

/// As [`join`], for any user.
fn join_as(registry: &mut Registry, client: ClientId, user: u32, groups: &[u32]) {
    assert_eq!(connect(registry, client, user, groups), []);
    let actions = said(registry, client, hello(&format!("node{client}"), client * 10));
    assert_eq!(summary(&actions).last(), Some(&(client, "welcome")));
}

fn change(registry: &mut Registry, text: &str) -> Vec<Action> {
    registry.handle(Event::PolicyChanged { policy: policy(text) })
}

/// Brings a pair to its end.
fn attach_pair(registry: &mut Registry, subscriber: EndId, publisher: EndId) {
    let asked = said(registry, subscriber.node / 10, attach(subscriber.index, publisher));
    assert_eq!(summary(&asked), [(publisher.node / 10, "attach")]);
    let is_stranger = matches!(&asked[0], Action::Send { message: ToNode::Attach { bells: None, .. }, .. });
    let answer = if is_stranger { attached_stranger } else { attached };
    let done = said(registry, publisher.node / 10, answer(publisher.index, subscriber));
    assert_eq!(summary(&done)[0], (subscriber.node / 10, "attached"));
}

fn not_allowed(user: u32, right: Right, what: &str) -> Refusal {
    Refusal::NotAllowed { owner: OWNER, user, right, what: what.into() }
}

#[test]
fn without_a_policy_nobody_but_the_owner_gets_in() {
    let mut registry = hive("");
    for user in [0, ALICE, u32::MAX] {
        let actions = connect(&mut registry, 1, user, &[OWNER]);
        assert_eq!(summary(&actions), [(1, "refused"), (1, "cut off")]);
        assert_eq!(*refusal(&actions), not_allowed(user, Right::Join, ""));
        // What it says all the same is not heard.
        assert_eq!(said(&mut registry, 1, hello("node", 10)), []);
    }
    join_as(&mut registry, 2, OWNER, &[]);
}

#[test]
fn a_guest_gets_what_a_line_allows_and_words_for_the_rest() {
    let mut registry = hive("allow user:1001 publish sensors/*\nallow group:2000 subscribe sensors/**");
    join_as(&mut registry, 1, ALICE, &[]);
    assert_eq!(summary(&said(&mut registry, 1, offer(1, "sensors/pose", 7))), [(1, "accepted")]);
    let denied = said(&mut registry, 1, offer(2, "actors/arm", 7));
    assert_eq!(*refusal(&denied), not_allowed(ALICE, Right::Publish, "actors/arm"));
    let text = refusal(&denied).to_string();
    assert!(text.contains("allow user:1001 publish actors/arm"), "{text}");
    for filter in ["sensors/pose", "**"] {
        let denied = said(&mut registry, 1, demand(3, filter, None));
        assert_eq!(*refusal(&denied), not_allowed(ALICE, Right::Subscribe, filter));
    }
    // In the group, by whichever of its groups.
    join_as(&mut registry, 2, BOB, &[5, ROBOTS]);
    let matched = said(&mut registry, 2, demand(1, "sensors/pose", None));
    assert_eq!(summary(&matched), [(2, "accepted"), (2, "match")]);
    assert_eq!(
        *refusal(&said(&mut registry, 2, offer(2, "sensors/pose", 7))),
        not_allowed(BOB, Right::Publish, "sensors/pose")
    );
    assert_eq!(
        *refusal(&said(&mut registry, 2, demand(3, "secret", None))),
        not_allowed(BOB, Right::Subscribe, "secret")
    );
}

#[test]
fn a_pattern_hears_of_what_may_be_read_and_of_nothing_else() {
    let mut registry = hive("allow user:1001 subscribe sensors/*");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    said(&mut registry, 1, offer(1, "sensors/pose", 7));
    said(&mut registry, 1, offer(2, "secret", 7));
    said(&mut registry, 1, offer(3, "secret-of-another-type", 8));
    let matched = said(&mut registry, 2, demand(1, "**", Some(7)));
    assert_eq!(summary(&matched), [(2, "accepted"), (2, "match")]);
    assert!(
        matches!(&matched[1], Action::Send { message: ToNode::Match { matched, .. }, .. } if matched.service.as_str() == "sensors/pose")
    );
    // The same for those that come later, of this type or another.
    assert_eq!(summary(&said(&mut registry, 1, offer(4, "secret/too", 7))), [(1, "accepted")]);
    assert_eq!(summary(&said(&mut registry, 1, offer(5, "secret/other", 8))), [(1, "accepted")]);
    assert_eq!(
        summary(&said(&mut registry, 1, offer(6, "sensors/other", 8))),
        [(1, "accepted"), (2, "skipped")]
    );
}

/// A guest who may only look fixed the type of a service once, and the owner's publisher was refused.
#[test]
fn a_guest_who_may_only_subscribe_fixes_no_type_and_is_told_of_what_it_may_read() {
    let mut registry = hive("allow user:1001 subscribe sensors/*\nallow user:1001 subscribe other");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    assert_eq!(summary(&said(&mut registry, 2, demand(1, "sensors/pose", Some(6)))), [(2, "accepted")]);
    let actions = said(&mut registry, 1, offer(1, "sensors/pose", 5));
    assert_eq!(summary(&actions), [(1, "accepted"), (2, "skipped")]);
    // A pattern means more than the guest may read; a new policy shows it, also what does not fit.
    said(&mut registry, 1, offer(2, "secret", 5));
    assert_eq!(
        summary(&said(&mut registry, 2, demand(2, "*", Some(6)))),
        [(2, "accepted")],
        "nothing is told of what it may not read"
    );
    let actions = change(&mut registry, "allow user:1001 subscribe **");
    let told = |action: &Action| match action {
        Action::Send { to: 2, message: ToNode::Skipped { subscriber, carried }, .. } => {
            Some((*subscriber, carried.service.as_str().to_owned()))
        }
        _ => None,
    };
    let told: Vec<_> = actions.iter().filter_map(told).collect();
    assert_eq!(told, [(1, "sensors/pose".to_owned()), (2, "secret".to_owned())]);
}

/// Once a guest got the doorbells of every node whose service it read, with the lines of all its other
/// services, to write.
#[test]
fn nobody_gets_the_doorbells_of_a_node_of_another_user() {
    let mut registry = hive("allow user:1001 publish of/*\nallow user:1001 subscribe of/*");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    join_as(&mut registry, 3, ALICE, &[]);
    for (publisher, subscriber, user) in [(1, 2, ALICE), (2, 1, OWNER)] {
        let name = format!("of/{publisher}");
        said(&mut registry, publisher, offer(publisher as u32, &name, 7));
        said(&mut registry, subscriber, demand(10, &name, None));
        let (publisher_end, subscriber_end) = (end(publisher, publisher as u32), end(subscriber, 10));
        let asked = said(&mut registry, subscriber, attach(10, publisher_end));
        let [Action::Send { message: ToNode::Attach { bells: None, user: told, .. }, attachments, .. }] =
            &asked[..]
        else {
            panic!("{asked:?}")
        };
        assert_eq!(*told, user, "for whom to make doorbells");
        assert_eq!(attachments[..], [Attachment::FromMessage(0), Attachment::PidfdOf(subscriber)]);
        // What comes back is what the publisher made for this user.
        let done = said(&mut registry, publisher, attached_stranger(publisher as u32, subscriber_end));
        let [Action::Send { message: ToNode::Attached { is_stranger: true, .. }, attachments, .. }] =
            &done[..]
        else {
            panic!("{done:?}")
        };
        let all = [Attachment::FromMessage(0), Attachment::FromMessage(1), Attachment::PidfdOf(publisher)];
        assert_eq!(attachments[..], all);
    }
    // One that makes none lets nobody in, and the other hears why.
    said(&mut registry, 3, offer(5, "of/3", 7));
    said(&mut registry, 1, demand(11, "of/3", None));
    said(&mut registry, 1, attach(11, end(3, 5)));
    let failed = said(&mut registry, 3, attached(5, end(1, 11)));
    assert!(
        matches!(&failed[..], [Action::Send { to: 1, message: ToNode::AttachRefused { reason, .. }, .. }]
            if reason.contains("doorbells")),
        "{failed:?}"
    );
    // Nodes of one user get each other's, whoever is asked to make some.
    said(&mut registry, 2, demand(12, "of/3", None));
    said(&mut registry, 2, attach(12, end(3, 5)));
    let done = said(&mut registry, 3, attached_stranger(5, end(2, 12)));
    let [Action::Send { message: ToNode::Attached { is_stranger: false, .. }, attachments, .. }] = &done[..]
    else {
        panic!("{done:?}")
    };
    assert_eq!(attachments[..], [Attachment::FromMessage(0), Attachment::BellsOf(3), Attachment::PidfdOf(3)]);
}

#[test]
fn a_guest_takes_nothing_over_and_raises_no_epoch() {
    let mut registry = hive("allow user:1001 join");
    assert_eq!(connect(&mut registry, 1, ALICE, &[]), []);
    let refused = said(&mut registry, 1, ToRoot::HandOver);
    assert_eq!(summary(&refused), [(1, "refused"), (1, "cut off")]);
    assert_eq!(*refusal(&refused), not_allowed(ALICE, Right::TakeOver, ""));
    assert_eq!(connect(&mut registry, 2, ALICE, &[]), []);
    let ToRoot::Hello { name, node, observer, external, rejoin, hosts_root, bells, .. } = hello("far", 20)
    else {
        unreachable!("it is a hello");
    };
    let hello =
        ToRoot::Hello { name, node, observer, external, rejoin, hosts_root, seen_epoch: MAX_EPOCH, bells };
    assert_eq!(summary(&said(&mut registry, 2, hello)), [(2, "keep bells"), (2, "welcome")]);
    assert_eq!(registry.root().epoch, ROOT.epoch);
}

#[test]
fn looking_at_a_ring_is_reading_it() {
    let mut registry = hive("allow user:1001 subscribe sensors/*\nallow user:1002 join");
    join_as(&mut registry, 1, OWNER, &[]);
    said(&mut registry, 1, offer(1, "sensors/pose", 7));
    said(&mut registry, 1, offer(2, "secret", 7));
    said(&mut registry, 1, demand(3, "secret", None));
    join_as(&mut registry, 2, ALICE, &[]);
    join_as(&mut registry, 3, BOB, &[]);
    let look = |registry: &mut Registry, client, index| {
        said(registry, client, ToRoot::Inspect { request: 9, end: end(1, index) })
    };
    assert_eq!(summary(&look(&mut registry, 2, 1)), [(1, "inspect")]);
    for (client, user, index, what) in
        [(2, ALICE, 2, "secret"), (2, ALICE, 3, "secret"), (3, BOB, 1, "sensors/pose"), (3, BOB, 2, "secret")]
    {
        assert_eq!(*refusal(&look(&mut registry, client, index)), not_allowed(user, Right::Look, what));
    }
}

#[test]
fn one_user_cannot_take_all_places_of_the_hive() {
    let limits = Limits { clients_of_a_guest: 2, ..Limits::default() };
    let mut registry = Registry::new(ROOT, limits, policy("allow anyone join"));
    for client in 1..=2 {
        assert_eq!(connect(&mut registry, client, ALICE, &[]), []);
    }
    let refused = connect(&mut registry, 3, ALICE, &[]);
    assert_eq!(*refusal(&refused), Refusal::Limit { what: Table::NodesOfGuest, limit: 2 });
    assert_eq!(connect(&mut registry, 4, BOB, &[]), []);
    for client in 5..10 {
        assert_eq!(connect(&mut registry, client, OWNER, &[]), []);
    }
}

#[test]
fn who_may_not_join_any_more_is_let_go_of_told_and_cut_off() {
    let mut registry = hive("allow user:1001 publish **\nallow user:1001 subscribe **");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    said(&mut registry, 1, offer(1, "a", 7));
    said(&mut registry, 1, demand(2, "b", None));
    said(&mut registry, 2, demand(1, "a", None));
    attach_pair(&mut registry, end(2, 1), end(1, 1));
    said(&mut registry, 2, offer(2, "b", 7));
    attach_pair(&mut registry, end(1, 2), end(2, 2));
    let actions = change(&mut registry, "allow user:1002 join");
    let told = summary(&actions);
    assert_eq!(told, [(2, "attach refused"), (1, "attach refused"), (2, "refused"), (2, "cut off")]);
    assert!(registry.pairs.is_empty() && !registry.clients.contains(2));
    // Both subscribers hear why.
    for (place, part) in [(0, "may not subscribe \"a\""), (1, "may not publish \"b\"")] {
        let Action::Send { message: ToNode::AttachRefused { reason, .. }, .. } = &actions[place] else {
            panic!("{:?}", actions[place]);
        };
        assert!(reason.contains("user 1001") && reason.contains(part), "{reason}");
    }
}

#[test]
fn an_end_without_a_right_is_withdrawn_and_a_pattern_keeps_the_rest() {
    let mut registry = hive("allow user:1001 publish a*\nallow user:1001 subscribe **");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    for (index, service) in [(1, "x"), (2, "y")] {
        said(&mut registry, 1, offer(index, service, 7));
    }
    said(&mut registry, 1, demand(3, "ab", None));
    said(&mut registry, 2, demand(1, "*", None));
    attach_pair(&mut registry, end(2, 1), end(1, 1));
    attach_pair(&mut registry, end(2, 1), end(1, 2));
    said(&mut registry, 2, demand(2, "y", None));
    said(&mut registry, 2, offer(3, "ab", 7));
    attach_pair(&mut registry, end(1, 3), end(2, 3));
    let actions = change(&mut registry, "allow user:1001 subscribe x");
    let told = summary(&actions);
    // From y and from its own ab, which the pattern meant as well (that pair was only matched, so nothing is
    // to be let go of).
    assert_eq!(
        told,
        [(2, "attach refused"), (1, "attach refused"), (2, "refused"), (2, "refused")],
        "{actions:?}"
    );
    let refused: Vec<u64> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { message: ToNode::Refused { request: Some(request), .. }, .. } => Some(*request),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [3, 2], "the publisher ab and the subscription y; the pattern stands");
    assert_eq!(
        registry.pairs.iter().map(|(pair, _)| pair).collect::<Vec<_>>(),
        [Pair { publisher: end(1, 1), subscriber: end(2, 1) }]
    );
    // What it withdraws itself later is gone already.
    assert_eq!(said(&mut registry, 2, ToRoot::Withdraw { index: 3 }), []);
}

#[test]
fn what_a_new_policy_allows_is_matched_at_once() {
    let mut registry = hive("allow user:1001 subscribe a");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    for (index, service) in [(1, "a"), (2, "b"), (3, "c")] {
        said(&mut registry, 1, offer(index, service, 7));
    }
    assert_eq!(summary(&said(&mut registry, 2, demand(1, "*", None))), [(2, "accepted"), (2, "match")]);
    let actions = change(&mut registry, "allow user:1001 subscribe [ab]");
    assert_eq!(summary(&actions), [(2, "match")]);
    assert_eq!(change(&mut registry, "allow user:1001 subscribe [ab] # the same"), []);
}

#[test]
fn what_a_guest_was_connected_to_before_counts_under_the_next_root_only_if_it_is_allowed() {
    for guest_is_first in [false, true] {
        let mut registry = hive("allow user:1001 subscribe a");
        join_as(&mut registry, 1, OWNER, &[]);
        join_as(&mut registry, 2, ALICE, &[]);
        let connections = [1, 2].map(|index| Connected { publisher: end(1, index), seat: index }).to_vec();
        let mut actions = Vec::new();
        for guest in [guest_is_first, !guest_is_first] {
            if guest {
                let connections = connections.clone();
                actions.extend(said(&mut registry, 2, ToRoot::Connected { subscriber: 1, connections }));
                actions.extend(said(&mut registry, 2, demand(1, "*", None)));
            } else {
                actions.extend(said(&mut registry, 1, offer(1, "a", 7)));
                actions.extend(said(&mut registry, 1, offer(2, "secret", 7)));
            }
        }
        let told: Vec<_> = summary(&actions).into_iter().filter(|(_, what)| *what != "accepted").collect();
        assert_eq!(told, [(2, "attach refused")], "only the one that it may not read");
        let pairs: Vec<Pair> = registry.pairs.iter().map(|(pair, _)| pair).collect();
        assert_eq!(pairs, [Pair { publisher: end(1, 1), subscriber: end(2, 1) }]);
    }
}

/// What may happen in a hive of three users.
#[derive(Clone, Debug)]
enum Doing {
    Join { client: ClientId, user: u32, groups: Vec<u32> },
    Gone(ClientId),
    Offer { client: ClientId, index: u32, service: &'static str },
    Demand { client: ClientId, index: u32, filter: &'static str },
    Answer,
    Policy(String),
}

fn doing() -> impl Strategy<Value = Doing> {
    let client = 1..5u64;
    let user = prop::sample::select(vec![OWNER, ALICE, BOB]);
    let groups = prop::sample::select(vec![vec![], vec![ROBOTS], vec![3, ROBOTS]]);
    let service = prop::sample::select(vec!["a", "b", "a/x", "a/y"]);
    let filter = prop::sample::select(vec!["a", "b", "*", "a/*", "**", "a/x"]);
    let who = prop::sample::select(vec!["user:1001", "user:1002", "group:2000", "anyone"]);
    let right = prop::sample::select(vec![
        "join",
        "publish **",
        "publish a",
        "subscribe *",
        "subscribe a/*",
        "subscribe **",
    ]);
    // Mostly with a line that lets the guests stay, so that rights change while their ends stand.
    let stays = prop::bool::weighted(0.8);
    let policy = (stays, prop::collection::vec((who, right), 0..4)).prop_map(|(stays, lines)| {
        let first = if stays { "allow anyone subscribe a/y\n" } else { "" };
        let lines = lines.iter().map(|(who, right)| format!("allow {who} {right}\n"));
        Doing::Policy(first.to_owned() + &lines.collect::<String>())
    });
    prop_oneof![
        3 => (client.clone(), user, groups).prop_map(|(client, user, groups)| Doing::Join { client, user, groups }),
        1 => client.clone().prop_map(Doing::Gone),
        4 => (client.clone(), 0..6u32, service).prop_map(|(client, index, service)| Doing::Offer { client, index, service }),
        4 => (client, 0..6u32, filter).prop_map(|(client, index, filter)| Doing::Demand { client, index, filter }),
        4 => Just(Doing::Answer),
        3 => policy,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens, in any order: nobody is in the hive, has an end or is in a pair for which the
    /// present policy has no line; every pair that it allows is there; and no message tells a guest a name
    /// that it may not read.
    #[test]
    fn at_any_time_everything_is_as_the_present_policy_wants_it(steps in prop::collection::vec(doing(), 1..60)) {
        let mut registry = hive("allow anyone publish **\nallow anyone subscribe **");
        join_as(&mut registry, 1, OWNER, &[]);
        join_as(&mut registry, 2, ALICE, &[]);
        join_as(&mut registry, 3, BOB, &[ROBOTS]);
        let mut matched: Vec<(EndId, EndId)> = Vec::new();
        for step in steps {
            let actions = match step {
                Doing::Join { client, user, groups } => {
                    if registry.clients.contains(client) {
                        continue;
                    }
                    let mut actions = connect(&mut registry, client, user, &groups);
                    actions.extend(said(&mut registry, client, hello(&format!("node{client}"), client * 10)));
                    actions
                }
                Doing::Gone(client) => registry.handle(Event::Gone { client }),
                Doing::Offer { client, index, service } => said(&mut registry, client, offer(index, service, 7)),
                Doing::Demand { client, index, filter } => said(&mut registry, client, demand(index, filter, None)),
                Doing::Answer => match matched.pop() {
                    Some((subscriber, publisher)) => {
                        let mut actions = said(&mut registry, subscriber.node / 10, attach(subscriber.index, publisher));
                        actions.extend(said(&mut registry, publisher.node / 10, attached(publisher.index, subscriber)));
                        actions
                    }
                    None => continue,
                },
                Doing::Policy(text) => change(&mut registry, &text),
            };
            for action in &actions {
                if let Action::Send { to, message: ToNode::Match { subscriber, matched: found }, .. } = action {
                    let service = &found.service;
                    prop_assert!(registry.rights(*to).read(service), "{} was told of {}", to, service);
                    matched.push((EndId { node: to * 10, index: *subscriber }, found.route.end));
                }
            }
            for (_, client) in registry.clients.iter() {
                let now = registry.policy.rights_of(&client.credentials);
                prop_assert!(now.join());
                prop_assert_eq!(now.are_everything(), client.rights.are_everything());
            }
            for (_, publisher) in registry.ends.publishers() {
                prop_assert!(registry.rights(publisher.client).publish(&publisher.service));
            }
            for (end, subscriber) in registry.ends.subscribers() {
                prop_assert!(registry.rights(subscriber.client).subscribe(&subscriber.filter));
                for (other, publisher) in registry.ends.publishers() {
                    let pair = Pair { publisher: other, subscriber: end };
                    let wanted = subscriber.filter.matches(publisher.service.as_str())
                        && registry.rights(subscriber.client).read(&publisher.service);
                    prop_assert_eq!(registry.pairs.state(pair).is_some(), wanted, "{:?}", pair);
                }
            }
        }
    }
}

/// The policy took the pair away and gave it back while its `Match` was on the way: the node answers both.
#[test]
fn a_match_that_was_sent_twice_may_be_answered_twice() {
    let mut registry = hive("allow user:1001 subscribe a");
    join_as(&mut registry, 1, OWNER, &[]);
    join_as(&mut registry, 2, ALICE, &[]);
    said(&mut registry, 1, offer(7, "a", 5));
    assert_eq!(summary(&said(&mut registry, 2, demand(5, "*", None))), [(2, "accepted"), (2, "match")]);
    assert_eq!(summary(&change(&mut registry, "allow user:1001 subscribe b")), []);
    assert_eq!(summary(&change(&mut registry, "allow user:1001 subscribe a")), [(2, "match")]);
    assert_eq!(summary(&said(&mut registry, 2, attach(5, end(1, 7)))), [(1, "attach")]);
    assert_eq!(said(&mut registry, 2, attach(5, end(1, 7))), [], "the first answer counts");
    assert_eq!(summary(&said(&mut registry, 1, attached_stranger(7, end(2, 5)))), [(2, "attached")]);
    assert_eq!(said(&mut registry, 2, attach(5, end(1, 7))), [], "it stands");
}

/// A guest could have its messages taken for those of another host's node, under any name.
#[test]
fn a_guest_stands_for_no_publisher_of_another_host() {
    let mut registry = hive("allow user:1001 publish sensors/*");
    join_as(&mut registry, 1, ALICE, &[]);
    join_as(&mut registry, 2, OWNER, &[]);
    let remote = |index| {
        let ToRoot::Offer { request, offer } = offer(index, "sensors/pose", 7) else { unreachable!() };
        let author = Author::Remote(Remote {
            host: "plant".to_owned(),
            leaf: false,
            publisher: EndId { node: 7, index: 1 },
            node_name: NodeName::parse("controller").unwrap(),
            first: 0,
        });
        ToRoot::Offer { request, offer: Offer { author, ..offer } }
    };
    let refused = said(&mut registry, 1, remote(1));
    assert!(refusal(&refused).to_string().contains("only the owner of the hive links it with other hosts"));
    assert_eq!(summary(&said(&mut registry, 2, remote(1))), [(2, "accepted")]);
}
