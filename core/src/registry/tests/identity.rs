//! Epochs and the processes that say them.
use super::*;
use crate::policy::Accounts;

/// A process by its inode, as Linux 6.9 and newer tell them apart.
fn process(inode: u64) -> Process {
    Process::Inode { device: 5, inode }
}

fn greets(registry: &mut Registry, client: ClientId, user: u32, process: Process, node: u64) -> Vec<Action> {
    let credentials = Credentials::of_user(user);
    drop(registry.handle(Event::Connected { client, pid: client as i32, credentials, process }));
    said(registry, client, hello(&format!("node{client}"), node))
}

fn is_welcome(actions: &[Action], client: ClientId) -> bool {
    actions.iter().any(
        |action| matches!(action, Action::Send { to, message: ToNode::Welcome { .. }, .. } if *to == client),
    )
}

fn refusal_of(actions: &[Action], client: ClientId) -> Option<&Refusal> {
    actions.iter().find_map(|action| match action {
        Action::Send { to, message: ToNode::Refused { request: None, refusal }, .. } if *to == client => {
            Some(refusal)
        }
        _ => None,
    })
}

#[test]
fn an_epoch_that_names_a_process_is_refused_to_every_other() {
    // Bound to inode 77, node 5 of that process; see `identity`.
    let node = 1 << 63 | 77 << 24 | 5;
    for other in [process(78), Process::Number(77), Process::Unknown] {
        let mut registry = registry();
        let actions = greets(&mut registry, 1, OWNER, other, node);
        assert_eq!(refusal_of(&actions, 1), Some(&Refusal::EpochOfAnother { node, pid: 1 }));
        assert_eq!(actions.last(), Some(&Action::CutOff { client: 1 }));
        assert!(is_welcome(&greets(&mut registry, 2, OWNER, process(77), node), 2));
        // Its own process, but once.
        let actions = greets(&mut registry, 3, OWNER, process(77), node);
        assert_eq!(refusal_of(&actions, 3), Some(&Refusal::EpochTaken));
    }
}

#[test]
fn an_epoch_that_names_nobody_is_yielded_by_a_guest_to_the_owner_and_by_nobody_else() {
    const GUEST: u32 = 5;
    let cases = [
        (GUEST, process(2), OWNER, true),
        (GUEST, Process::Unknown, OWNER, true),
        (GUEST, process(1), OWNER, false),
        (OWNER, process(2), OWNER, false),
        (OWNER, process(2), GUEST, false),
        (GUEST, process(2), GUEST, false),
    ];
    for (holder, of, comer, is_yielded) in cases {
        let policy = Policy::parse(b"allow user:5 subscribe **\n", OWNER, &Accounts::default()).unwrap();
        let mut registry = Registry::new(ROOT, Limits::default(), policy);
        assert!(is_welcome(&greets(&mut registry, 1, holder, of, 7), 1));
        let actions = greets(&mut registry, 2, comer, process(1), 7);
        assert_eq!(is_welcome(&actions, 2), is_yielded, "{holder} {of:?} {comer}");
        let expected = if is_yielded {
            (1, Refusal::EpochOfAnother { node: 7, pid: 1 })
        } else {
            (2, Refusal::EpochTaken)
        };
        assert_eq!(refusal_of(&actions, expected.0), Some(&expected.1));
        assert_eq!(registry.clients.len(), 1);
    }
}
