//! Pairs that are let go of and wanted again: a root, its successors, and nodes that obey the rules of
//! `session/control.rs`, with everything they say to each other on its way for as long as it likes.
use std::collections::VecDeque;

use super::*;

const NODES: u64 = 3;
/// Services, one publisher each: of nodes 1, 2, 3, 1, ...
const PUBLISHERS: u32 = 4;
/// Subscriptions to everything, of nodes 1, 2, 3, 1, ...
const SUBSCRIBERS: u32 = 4;

#[test]
fn what_was_let_go_of_is_matched_anew_when_it_is_wanted() {
    let mut registry = registry();
    join(&mut registry, 1);
    join(&mut registry, 2);
    drop(said(&mut registry, 1, offer(7, "a", 5)));
    drop(said(&mut registry, 2, demand(4, "**", None)));
    for _ in 0..5 {
        assert_eq!(summary(&said(&mut registry, 2, attach(4, end(1, 7)))), [(1, "attach")]);
        assert_eq!(summary(&said(&mut registry, 1, attached(7, end(2, 4)))), [(2, "attached")]);
        assert_eq!(said(&mut registry, 2, ToRoot::Rematch { subscriber: 4 }), [], "it is connected");
        assert_eq!(said(&mut registry, 2, ToRoot::Detached { subscriber: 4, publisher: end(1, 7) }), []);
        assert_eq!(summary(&said(&mut registry, 2, ToRoot::Rematch { subscriber: 4 })), [(2, "match")]);
    }
}

/// It was connected at the former root, and let go of while its publisher had yet to announce itself.
#[test]
fn what_was_let_go_of_between_two_roots_is_not_connected_at_the_next_one() {
    let mut registry = registry();
    join(&mut registry, 2);
    let connections = vec![Connected { publisher: end(1, 7), seat: 1 }];
    drop(said(&mut registry, 2, ToRoot::Connected { subscriber: 4, connections }));
    drop(said(&mut registry, 2, demand(4, "**", None)));
    assert_eq!(said(&mut registry, 2, ToRoot::Detached { subscriber: 4, publisher: end(1, 7) }), []);
    join(&mut registry, 1);
    assert_eq!(summary(&said(&mut registry, 1, offer(7, "a", 5))), [(1, "accepted"), (2, "match")]);
}

#[test]
fn who_lets_go_of_what_others_have_changes_nothing() {
    let mut registry = registry();
    (1..=3).for_each(|client| drop(join(&mut registry, client)));
    drop(said(&mut registry, 1, offer(7, "a", 5)));
    drop(said(&mut registry, 2, demand(4, "**", None)));
    drop(said(&mut registry, 2, attach(4, end(1, 7))));
    // On its way: it is about an earlier one.
    assert_eq!(said(&mut registry, 2, ToRoot::Detached { subscriber: 4, publisher: end(1, 7) }), []);
    assert_eq!(summary(&said(&mut registry, 1, attached(7, end(2, 4)))), [(2, "attached")]);
    for subscriber in [4, 9] {
        assert_eq!(said(&mut registry, 3, ToRoot::Detached { subscriber, publisher: end(1, 7) }), []);
    }
    assert_eq!(said(&mut registry, 2, ToRoot::Rematch { subscriber: 4 }), [], "it is connected");
}

#[derive(Clone, Debug)]
enum Step {
    /// The root hears the next word of this node.
    Say(u64),
    /// This node hears the next word of the root.
    Hear(u64),
    /// This node tells the root of one more end that it has.
    Announce(u64),
    /// This node does what another thread of it has asked for.
    Obey(u64),
    /// A thread of the node lets go of a publisher.
    LetGo(u32, u32),
    /// From now on this subscription wants, or does not want, this publisher; and says so.
    Want(u32, u32, bool),
    /// The next publisher that lets this node in cannot be taken.
    Fail(u64),
    /// The root dies. All that was under way is lost.
    Takeover,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1..=NODES;
    let ends = (0..SUBSCRIBERS, 0..PUBLISHERS);
    prop_oneof![
        12 => node.clone().prop_map(Step::Say),
        12 => node.clone().prop_map(Step::Hear),
        6 => node.clone().prop_map(Step::Announce),
        6 => node.clone().prop_map(Step::Obey),
        4 => ends.clone().prop_map(|(subscriber, publisher)| Step::LetGo(subscriber, publisher)),
        4 => (ends, any::<bool>()).prop_map(|((s, p), wanted)| Step::Want(s, p, wanted)),
        1 => node.prop_map(Step::Fail),
        1 => Just(Step::Takeover),
    ]
}

enum Announced {
    Offer(u32),
    Demand(u32, Vec<EndId>),
}

/// A node: its control thread, and what others have asked it for.
#[derive(Default)]
struct Node {
    backlog: VecDeque<Announced>,
    commands: VecDeque<ToRoot>,
    to_root: VecDeque<ToRoot>,
    from_root: VecDeque<ToNode>,
    told: BTreeSet<u32>,
    pending: BTreeSet<(u32, EndId)>,
    live: BTreeSet<(u32, EndId)>,
    unwanted: BTreeSet<(u32, EndId)>,
    fails: bool,
}

/// Subscriptions have numbers from here.
const FIRST_SUBSCRIBER: u32 = 100;

fn publisher(number: u32) -> EndId {
    end(u64::from(number) % NODES + 1, number)
}

fn subscriber(number: u32) -> (u64, u32) {
    (u64::from(number) % NODES + 1, FIRST_SUBSCRIBER + number)
}

impl Node {
    fn roll_call(&mut self, id: u64) {
        (self.to_root, self.from_root, self.backlog) = Default::default();
        self.told.clear();
        let own = (0..PUBLISHERS).filter(|number| publisher(*number).node == id * 10);
        self.backlog.extend(own.map(Announced::Offer));
        for (_, index) in (0..SUBSCRIBERS).map(subscriber).filter(|(node, _)| *node == id) {
            let connected = self.live.iter().filter(|pair| pair.0 == index).map(|pair| pair.1).collect();
            self.backlog.push_back(Announced::Demand(index, connected));
            self.told.insert(index);
        }
    }

    fn announce(&mut self) {
        match self.backlog.pop_front() {
            Some(Announced::Offer(number)) => {
                self.to_root.push_back(offer(number, SERVICES[number as usize % SERVICES.len()], 5));
            }
            Some(Announced::Demand(index, connected)) => {
                let connections =
                    connected.into_iter().map(|publisher| Connected { publisher, seat: 0 }).collect();
                self.to_root.push_back(ToRoot::Connected { subscriber: index, connections });
                self.to_root.push_back(demand(index, "**", None));
            }
            None => {}
        }
    }

    /// As `Control::say_detached`.
    fn say_detached(&mut self, index: u32, publisher: EndId) {
        let pair = (index, publisher);
        if self.live.contains(&pair) || self.pending.contains(&pair) {
            return;
        }
        for announced in &mut self.backlog {
            if let Announced::Demand(other, connected) = announced
                && *other == index
            {
                return connected.retain(|other| *other != publisher);
            }
        }
        self.to_root.push_back(ToRoot::Detached { subscriber: index, publisher });
    }

    fn hear(&mut self) {
        match self.from_root.pop_front() {
            Some(ToNode::Match { subscriber, matched }) => {
                let publisher = matched.route.end;
                let pair = (subscriber, publisher);
                if self.live.contains(&pair) || self.unwanted.contains(&pair) {
                    self.to_root.push_back(ToRoot::Declined { subscriber, publisher });
                } else {
                    self.pending.insert(pair);
                    self.to_root.push_back(attach(subscriber, publisher));
                }
            }
            Some(ToNode::Attach { publisher, subscriber, .. }) => {
                self.to_root.push_back(attached(publisher, subscriber));
            }
            Some(ToNode::Attached { subscriber, publisher, .. }) => {
                let pair = (subscriber, publisher);
                if self.pending.remove(&pair) && !std::mem::take(&mut self.fails) {
                    self.live.insert(pair);
                }
                self.say_detached(subscriber, publisher);
            }
            Some(ToNode::AttachRefused { subscriber, publisher, .. }) => {
                assert!(self.pending.remove(&(subscriber, publisher)), "nobody takes what is connected");
            }
            _ => {}
        }
    }
}

/// Publisher and subscriber.
type Pairs = BTreeSet<(EndId, EndId)>;

struct Hive {
    registry: Registry,
    lane: usize,
    nodes: Vec<Node>,
}

impl Hive {
    fn new(lane: usize) -> Hive {
        let mut hive = Hive { registry: registry(), lane, nodes: Vec::new() };
        hive.nodes.resize_with(NODES as usize, Node::default);
        hive.takeover();
        hive
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    fn takeover(&mut self) {
        let limits = Limits { lane: self.lane, ..Limits::default() };
        self.registry = Registry::new(ROOT, limits, Policy::owner_only(OWNER));
        for id in 1..=NODES {
            drop(join(&mut self.registry, id));
            self.node(id).roll_call(id);
        }
    }

    fn say(&mut self, id: u64) {
        let Some(message) = self.node(id).to_root.pop_front() else { return };
        for action in said(&mut self.registry, id, message) {
            let Action::Send { to, message, .. } = action else { continue };
            self.node(to).from_root.push_back(message);
        }
    }

    fn obey(&mut self, id: u64) {
        let node = self.node(id);
        match node.commands.pop_front() {
            Some(ToRoot::Detached { subscriber, publisher }) => node.say_detached(subscriber, publisher),
            Some(message) => node.to_root.push_back(message),
            None => {}
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Say(id) => self.say(id),
            Step::Hear(id) => self.node(id).hear(),
            Step::Announce(id) => self.node(id).announce(),
            Step::Obey(id) => self.obey(id),
            Step::Fail(id) => self.node(id).fails = true,
            Step::Takeover => self.takeover(),
            Step::LetGo(number, other) => {
                let ((id, subscriber), publisher) = (subscriber(number), publisher(other));
                let node = self.node(id);
                if node.live.remove(&(subscriber, publisher)) {
                    node.commands.push_back(ToRoot::Detached { subscriber, publisher });
                }
            }
            Step::Want(number, other, wanted) => self.want(number, other, wanted),
        }
    }

    fn want(&mut self, number: u32, other: u32, wanted: bool) {
        let ((id, subscriber), publisher) = (subscriber(number), publisher(other));
        let node = self.node(id);
        if wanted {
            node.unwanted.remove(&(subscriber, publisher));
        } else {
            node.unwanted.insert((subscriber, publisher));
        }
        node.commands.push_back(ToRoot::Rematch { subscriber });
    }

    /// Until nothing is under way.
    fn settle(&mut self) {
        let is_busy = |node: &Node| {
            !(node.backlog.is_empty()
                && node.commands.is_empty()
                && node.to_root.is_empty()
                && node.from_root.is_empty())
        };
        while self.nodes.iter().any(is_busy) {
            for id in 1..=NODES {
                self.node(id).announce();
                self.obey(id);
                self.say(id);
                self.node(id).hear();
            }
        }
    }

    /// As the root has it, and as the nodes have it.
    fn connected(&self) -> (Pairs, Pairs) {
        let is_connected = |state: &PairState| matches!(state, PairState::Connected { .. });
        let at_root = self.registry.pairs.iter().filter(|(_, state)| is_connected(state));
        let nodes = (1..).zip(&self.nodes);
        let at_nodes = nodes
            .flat_map(|(id, node)| node.live.iter().map(move |(index, other)| (*other, end(id, *index))));
        (at_root.map(|(pair, _)| (pair.publisher, pair.subscriber)).collect(), at_nodes.collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Subscribers let go, decline, fail and want again, across roots: when everything is said, the root
    /// takes for connected what is attached, and nothing else; and whatever is wanted then is attached.
    #[test]
    fn the_root_knows_what_is_attached_and_whatever_is_wanted_again_is_attached_again(
        steps in prop::collection::vec(step(), 1..400),
        lane in 1usize..4,
    ) {
        let mut hive = Hive::new(lane);
        // So that there is something to let go of.
        hive.settle();
        for step in &steps {
            hive.run(step);
        }
        hive.settle();
        let (at_root, at_nodes) = hive.connected();
        prop_assert_eq!(at_root, at_nodes);
        for number in 0..SUBSCRIBERS {
            (0..PUBLISHERS).for_each(|other| hive.want(number, other, true));
        }
        hive.nodes.iter_mut().for_each(|node| node.fails = false);
        hive.settle();
        let (at_root, at_nodes) = hive.connected();
        prop_assert_eq!(at_root.len(), (SUBSCRIBERS * PUBLISHERS) as usize);
        prop_assert_eq!(at_root, at_nodes);
    }
}
