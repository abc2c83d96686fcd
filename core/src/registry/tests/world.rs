//! Random worlds: nodes that obey, and such that do not.
use super::*;

const CLIENTS: u64 = 4;

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
    // Longer than other functions: one arm for each step.
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
    assert!(!registry.clients.contains(client) && registry.clients.of_epoch(node).is_none());
    assert!(registry.ends.publishers().all(|(end, p)| end.node != node && p.client != client));
    assert!(registry.ends.subscribers().all(|(end, s)| end.node != node && s.client != client));
    assert!(
        registry.pairs.iter().all(|(pair, _)| pair.publisher.node != node && pair.subscriber.node != node)
    );
    // Names, services and lanes of those that are there are all there is.
    super::assert_sound(registry);
}

/// What must hold between any two events.
fn assert_sound(registry: &Registry, world: &World) {
    let ought = world.ought();
    let pairs: BTreeSet<_> = registry.pairs.iter().map(|(p, _)| (p.publisher, p.subscriber)).collect();
    assert_eq!(pairs, ought, "the pairs that match are the pairs that are");
    for pair in &ought {
        let matches = world.matches.get(pair).copied().unwrap_or(0);
        let state = registry.pairs.state(Pair { publisher: pair.0, subscriber: pair.1 }).unwrap();
        assert_eq!(matches, usize::from(state != PairState::Waiting), "{state:?}");
        let is_connected = matches!(state, PairState::Connected { .. });
        assert_eq!(world.connected.contains(pair), is_connected);
    }
    super::assert_sound(registry);
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

    /// Random joins, deaths, offers, demands, withdrawals and answers, early or never: every pair that
    /// matches gets exactly one `Match`, nothing that does not match gets one, who is gone is nowhere, and
    /// the same events give the same actions.
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
            assert_sound(&registry, &world);
            other_world.run(&mut twin, step);
        }
        prop_assert_eq!(world.log, other_world.log);
    }

    /// A root dies in a random state; its nodes tell a new root what they have, in any order. The pairs that
    /// were connected get no second `Match`, all others get theirs.
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

    /// Nobody has to obey: whatever clients say in whatever order, the registry neither panics nor outgrows
    /// its bounds, and when all are gone it is empty.
    #[test]
    fn hostile_clients_harm_nobody(
        steps in prop::collection::vec((1u64..6, 0u8..12, any_message()), 1..200),
    ) {
        let limits = Limits { clients: 4, clients_of_a_guest: 2, ends_per_node: 3, ends: 6, pairs: 5, announced: 3, inquiries: 2, lane: 1, retained_of_node: 2, retained: 3, kept_of_node: 2, lent: 2, lent_of_a_guest: 1 };
        let mut registry = Registry::new(ROOT, limits, Policy::owner_only(OWNER));
        for (client, kind, message) in steps {
            let actions = match kind {
                0 if !registry.clients.contains(client) => {
                    let pid = client as i32 / 2;
                    registry.handle(Event::Connected { client, pid, credentials: owner(), process: Process::Unknown })
                }
                1 => registry.handle(Event::Gone { client }),
                2 => registry.handle(Event::DescriptorsLost { client, message }),
                3 if !registry.clients.contains(client) => registry.handle(Event::Died { client }),
                _ => registry.handle(Event::Said { client, message }),
            };
            for action in &actions {
                if let Action::Send { attachments, message, .. } = action {
                    prop_assert_eq!(attachments.len(), crate::protocol::Message::descriptors(message));
                }
            }
            prop_assert!(registry.clients.len() <= 4 && registry.pairs.len() <= 5);
            prop_assert!(registry.ends.len() <= 6);
            prop_assert!(registry.questions.inquiries() <= 2 && registry.retained.len() <= 3);
            super::assert_sound(&registry);
            prop_assert!(registry.joiners.lent() <= 2);
        }
        for client in 1..6 {
            drop(registry.handle(Event::Gone { client }));
        }
        prop_assert!(registry.clients.is_empty() && registry.ends.is_empty() && registry.pairs.is_empty());
        prop_assert!(registry.retained.len() == 0 && registry.questions.is_empty());
        prop_assert!(registry.joiners.is_empty());
    }
}
