//! The registry: nodes that obey no protocol say anything at any time.
//!
//! Some are of other users, and the policy of the hive changes meanwhile. It never panics, sends with every
//! message as many descriptors as that message says, keeps to its limits, and has forgotten everybody when
//! all are gone.
#![no_main]

use arbitrary::Arbitrary;
use hivemind_core::contract::{Asks, Author, Contract, Delivery, Former, Kind, Pattern, SubscriberRole};
use hivemind_core::identity::Process;
use hivemind_core::policy::{Accounts, Credentials, Policy};
use hivemind_core::protocol::{Carrier, Connected, Cursor, Demand, EndId, Message, Offer, ToNode, ToRoot};
use hivemind_core::registry::{Action, ClientId, Event, Limits, Registry, RootIdentity};
use libfuzzer_sys::fuzz_target;

const CLIENTS: usize = 6;
const OWNER: u32 = 1000;
const SERVICES: [&str; 6] = ["a", "a/b", "a/c", "b", "", "a//b"];
const FILTERS: [&str; 8] = ["a", "a/*", "**", "?", "[ab]", "a/b", "", "[["];

/// What happens next. Small numbers, so that they meet.
#[derive(Debug, Arbitrary)]
enum Step {
    Connect(u8),
    Leave(u8),
    Say(u8, Saying),
    Lose(u8, Saying),
    Policy(u8),
    /// The kernel says that the process of one that has left is dead.
    Die(u8),
}

#[derive(Debug, Arbitrary)]
enum Saying {
    Hello { name: u8, node: u8, observer: bool, external: bool, rejoin: bool, hosts_root: bool, epoch: u64 },
    Offer { index: u8, service: u8, kind: u8, reliable: bool, pattern: u8 },
    Retain { index: u8, service: u8, kind: u8, born: u8, former: Option<(u8, u8)> },
    Kept { publisher: (u8, u8) },
    NotKept { publisher: (u8, u8) },
    Connected { subscriber: u8, connections: Vec<(u8, u8, u8)> },
    Demand { index: u8, filter: u8, kind: Option<u8>, pattern: u8, role: u8 },
    Withdraw { index: u8 },
    Attach { subscriber: u8, publisher: (u8, u8), named: bool },
    Declined { subscriber: u8, publisher: (u8, u8) },
    Detached { subscriber: u8, publisher: (u8, u8) },
    Rematch { subscriber: u8 },
    Attached { publisher: u8, subscriber: (u8, u8), named: bool },
    AttachRefused { publisher: u8, subscriber: (u8, u8) },
    List { what: u8, after: (u8, u8) },
    Inspect { end: (u8, u8) },
    Inspected { inquiry: u8, found: Option<bool> },
    AreYouThere,
    HandOver,
    Leave,
    Lend { publisher: u8, named: bool },
}

fuzz_target!(|steps: Vec<Step>| {
    let root = RootIdentity { epoch: 3, pid: 1, dedicated: false };
    let mut registry = Registry::new(root, limits(), policy(0));
    // The present number of each client; one that is not connected has the number it had, or one that never
    // was.
    let mut clients: [ClientId; CLIENTS] = std::array::from_fn(|client| client as ClientId);
    let mut connected = [false; CLIENTS];
    let mut next = CLIENTS as ClientId;
    for step in steps {
        let event = match step {
            Step::Connect(client) => {
                let client = usize::from(client) % CLIENTS;
                if std::mem::replace(&mut connected[client], true) {
                    continue;
                }
                clients[client] = next;
                next += 1;
                // Two of three belong to other users, one of them in a group.
                let credentials = match client % 3 {
                    0 => Credentials::of_user(OWNER),
                    1 => Credentials::of_user(1),
                    _ => Credentials { user: 2, groups: vec![7] },
                };
                // Some are in the same process.
                Event::Connected {
                    client: clients[client],
                    pid: client as i32 / 2,
                    credentials,
                    process: Process::Unknown,
                }
            }
            Step::Leave(client) => {
                let client = usize::from(client) % CLIENTS;
                connected[client] = false;
                Event::Gone { client: clients[client] }
            }
            Step::Say(client, saying) => {
                Event::Said { client: clients[usize::from(client) % CLIENTS], message: message(saying) }
            }
            Step::Die(client) => {
                let client = usize::from(client) % CLIENTS;
                if connected[client] {
                    continue;
                }
                Event::Died { client: clients[client] }
            }
            Step::Policy(which) => Event::PolicyChanged { policy: policy(which) },
            Step::Lose(client, saying) => Event::DescriptorsLost {
                client: clients[usize::from(client) % CLIENTS],
                message: message(saying),
            },
        };
        for action in handle(&mut registry, event) {
            let Action::CutOff { client } = action else { continue };
            if let Some(client) = clients.iter().position(|number| *number == client) {
                connected[client] = false;
            }
        }
    }
    for client in clients {
        handle(&mut registry, Event::Gone { client });
    }
    for client in 0..next {
        handle(&mut registry, Event::Died { client });
    }
    assert_eq!(lines(&mut registry), 1, "only who asks is listed");
});

/// The first admits the most, so that steps without a policy meet.
fn policy(which: u8) -> Policy {
    let texts = [
        "allow anyone publish **\nallow anyone subscribe **",
        "",
        "allow user:1 publish a\nallow group:7 subscribe a/*",
        "allow user:1 join\nallow user:2 publish **",
        "allow group:7 subscribe [ab]\nallow user:1 subscribe **",
    ];
    let text = texts[usize::from(which) % texts.len()];
    Policy::parse(text.as_bytes(), OWNER, &Accounts::default()).expect("a policy")
}

/// Small, so that each is reached.
fn limits() -> Limits {
    Limits {
        clients: 4,
        clients_of_a_guest: 2,
        ends_per_node: 4,
        ends: 8,
        pairs: 6,
        announced: 4,
        inquiries: 2,
        retained_of_node: 2,
        retained: 3,
        kept_of_node: 2,
        lent: 2,
        lent_of_a_guest: 1,
        ..Limits::default()
    }
}

fn handle(registry: &mut Registry, event: Event) -> Vec<Action> {
    let actions = registry.handle(event);
    for action in &actions {
        if let Action::Send { message, attachments, .. } = action {
            assert_eq!(attachments.len(), message.descriptors());
        }
    }
    actions
}

/// Asks for all there is, as `hm ls` does.
fn lines(registry: &mut Registry) -> usize {
    let client = ClientId::MAX;
    // Not bound to a process.
    let node = u64::MAX >> 1;
    handle(
        registry,
        Event::Connected {
            client,
            pid: 1,
            credentials: Credentials::of_user(OWNER),
            process: Process::Unknown,
        },
    );
    let bells = Carrier::Descriptor;
    let hello = ToRoot::Hello {
        name: "asks".into(),
        node,
        observer: true,
        external: false,
        rejoin: false,
        hosts_root: false,
        seen_epoch: 0,
        bells,
    };
    handle(registry, Event::Said { client, message: hello });
    let mut lines = 0;
    let mut after = Cursor::Nodes(0);
    loop {
        let list = ToRoot::List { request: 0, after };
        let actions = handle(registry, Event::Said { client, message: list });
        let [Action::Send { message: ToNode::Page { entries, next, .. }, .. }] = &actions[..] else {
            panic!("{actions:?}");
        };
        lines += entries.len();
        match next {
            Some(next) => after = next.clone(),
            None => return lines,
        }
    }
}

fn kind(which: u8) -> Kind {
    Kind { fingerprint: (which % 2).into(), schema: vec![which % 2] }
}

/// Messages mostly, so that ends meet.
fn pattern(which: u8) -> Pattern {
    if which % 8 == 7 { Pattern::Latest } else { Pattern::Messages }
}

fn message(saying: Saying) -> ToRoot {
    let end = |(node, index): (u8, u8)| EndId { node: (node % 8).into(), index: (index % 4).into() };
    let carrier = |named: bool| if named { Carrier::Named("n".into()) } else { Carrier::Descriptor };
    let index = |index: u8| u32::from(index % 4);
    match saying {
        Saying::Hello { name, node, observer, external, rejoin, hosts_root, epoch } => ToRoot::Hello {
            name: ["a", "b", "c", "", "a/b"][usize::from(name % 5)].into(),
            node: (node % 8).into(),
            observer,
            external,
            rejoin,
            hosts_root,
            seen_epoch: epoch,
            bells: Carrier::Descriptor,
        },
        Saying::Offer { index: which, service, kind: which_kind, reliable, pattern: which_pattern } => {
            let contract = Contract {
                pattern: pattern(which_pattern),
                delivery: Delivery::reliable_if(reliable),
                history: which_kind.into(),
                capacity: 8,
                ..Contract::default()
            };
            let service = SERVICES[usize::from(service) % SERVICES.len()];
            let offer = Offer::new(index(which), service, kind(which_kind), contract);
            ToRoot::Offer { request: which.into(), offer: Offer { begins: true, ..offer } }
        }
        Saying::Retain { index: which, service, kind: which_kind, born, former } => {
            let contract = Contract { capacity: 8, retained: 3, ..Contract::default() };
            let service = SERVICES[usize::from(service) % SERVICES.len()];
            let offer = Offer::new(index(which), service, kind(which_kind), contract);
            let author = former.map_or(Author::Own, |(node, which)| {
                let node_name = "a".parse().expect("a name");
                Author::Former(Former { publisher: end((node, which)), node_name })
            });
            ToRoot::Offer {
                request: which.into(),
                offer: Offer { born: born.into(), author, begins: true, ..offer },
            }
        }
        Saying::Kept { publisher } => ToRoot::Kept { publisher: end(publisher) },
        Saying::NotKept { publisher } => ToRoot::NotKept { publisher: end(publisher) },
        Saying::Connected { subscriber, connections } => ToRoot::Connected {
            subscriber: index(subscriber),
            connections: connections
                .into_iter()
                .take(16)
                .map(|(node, which, seat)| Connected { publisher: end((node, which)), seat: seat.into() })
                .collect(),
        },
        Saying::Demand { index: which, filter, kind: which_kind, pattern: which_pattern, role } => {
            let role = match role % 4 {
                0 => SubscriberRole::Counted,
                1 => SubscriberRole::Onlooker,
                2 => SubscriberRole::Link,
                _ => {
                    let group = "a".parse().expect("a name");
                    SubscriberRole::Member { group, at_least_once: true }
                }
            };
            let asks = Asks { kind: which_kind.map(kind), pattern: pattern(which_pattern), role };
            let filter = FILTERS[usize::from(filter) % FILTERS.len()];
            ToRoot::Demand { request: which.into(), demand: Demand::new(index(which), filter, asks) }
        }
        Saying::Withdraw { index: which } => ToRoot::Withdraw { index: index(which) },
        Saying::Attach { subscriber, publisher, named } => ToRoot::Attach {
            subscriber: index(subscriber),
            publisher: end(publisher),
            seat: 0,
            reader: carrier(named),
        },
        Saying::Detached { subscriber, publisher } => {
            ToRoot::Detached { subscriber: index(subscriber), publisher: end(publisher) }
        }
        Saying::Rematch { subscriber } => ToRoot::Rematch { subscriber: index(subscriber) },
        Saying::Declined { subscriber, publisher } => {
            ToRoot::Declined { subscriber: index(subscriber), publisher: end(publisher) }
        }
        Saying::Attached { publisher, subscriber, named } => ToRoot::Attached {
            publisher: index(publisher),
            subscriber: end(subscriber),
            start: 0,
            ring: carrier(named),
            // Asked for of strangers alone.
            bells: (publisher & 1 == 1).then(|| carrier(named)),
        },
        Saying::AttachRefused { publisher, subscriber } => ToRoot::AttachRefused {
            publisher: index(publisher),
            subscriber: end(subscriber),
            reason: "no".into(),
        },
        Saying::List { what, after } => ToRoot::List {
            request: 0,
            after: match what % 5 {
                0 => Cursor::Nodes(after.0.into()),
                1 => Cursor::Services(SERVICES[usize::from(after.0) % SERVICES.len()].into()),
                2 => Cursor::Publishers(end(after)),
                3 => Cursor::Subscribers(end(after)),
                _ => Cursor::Connections(end(after), end(after)),
            },
        },
        Saying::Inspect { end: (node, which) } => ToRoot::Inspect { request: 0, end: end((node, which)) },
        Saying::Inspected { inquiry, found } => {
            ToRoot::Inspected { inquiry: inquiry.into(), segment: found.map(carrier) }
        }
        Saying::AreYouThere => ToRoot::AreYouThere,
        Saying::HandOver => ToRoot::HandOver,
        Saying::Leave => ToRoot::Leave,
        Saying::Lend { publisher, named } => {
            ToRoot::Lend { publisher: index(publisher), ring: carrier(named) }
        }
    }
}
