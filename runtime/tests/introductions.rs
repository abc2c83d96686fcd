//! Nodes of one process meet over real sockets: joining, announcing, matching, listing.
mod recorder;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hivemind_core::contract::{Contract, Kind};
use hivemind_core::protocol::{EndId, Offer};
use hivemind_core::schema::{Describe, Schema, SchemaBuilder, TypeRef};
use hivemind_runtime::root::{ServeOptions, StopHandle, serve_root};
use hivemind_runtime::session::{
    AnnounceError, Announcement, Gathering, JoinError, RootRole, SessionError, WaitedFor,
};

use recorder::{Heard, Node, content, files, hive, named_hive, wait_for};

#[test]
fn a_publisher_and_a_subscriber_exchange_their_segments() {
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    let viewer = Node::join(&dir, "viewer");
    assert!(camera.session.hosts_root() && !viewer.session.hosts_root());
    assert_eq!(viewer.session.root_pid(), Some(std::process::id() as i32));
    assert_eq!((camera.session.root_epoch(), viewer.session.root_epoch()), (1, 1));
    camera.offer(3, "sensors/pose", 5).unwrap();
    viewer.demand(9, "sensors/*", Some(5)).unwrap();
    viewer.wait_attached(9, camera.end(3));
    assert_eq!(
        viewer.side.heard(),
        [
            Heard::Matched {
                subscriber: 9,
                publisher: camera.end(3),
                service: "sensors/pose".into(),
                node_name: "camera".into(),
            },
            Heard::Attached {
                subscriber: 9,
                publisher: camera.end(3),
                start: 7,
                ring: "ring camera 3".into(),
                bells: "bells camera".into(),
            },
        ]
    );
    assert_eq!(
        camera.side.heard(),
        [Heard::Attach {
            publisher: 3,
            subscriber: viewer.end(9),
            node_name: "viewer".into(),
            seat: 49,
            reader: "reader viewer 9".into(),
            bells: "bells viewer".into(),
        }]
    );
}

#[test]
fn a_subscriber_may_be_there_first_and_a_node_may_read_itself() {
    let (_base, dir) = hive();
    let node = Node::join(&dir, "node");
    node.demand(1, "a", None).unwrap();
    node.offer(2, "a", 5).unwrap();
    node.wait_attached(1, node.end(2));
}

/// Without the word of the first one the root would take the pair for connected, and never introduce them
/// again.
#[test]
fn who_has_let_go_of_a_publisher_is_introduced_again_when_it_wants_it_again() {
    let (_base, dir) = hive();
    let (publisher, subscriber) = (Node::join(&dir, "publisher"), Node::join(&dir, "subscriber"));
    publisher.offer(1, "numbers", 5).unwrap();
    subscriber.demand(2, "**", None).unwrap();
    let its_end = publisher.end(1);
    subscriber.wait_attached(2, its_end);
    for round in 2..=5 {
        // Still attached: nothing is to be told, and nothing to be done.
        subscriber.session.detached(2, its_end);
        subscriber.side.let_go(2, its_end);
        subscriber.session.detached(2, its_end);
        subscriber.session.rematch(2);
        let attached = |heard: &&Heard| matches!(heard, Heard::Attached { .. });
        subscriber
            .side
            .wait_until("attached again", |state| state.heard.iter().filter(attached).count() == round);
        assert_eq!(subscriber.matches(2), round);
    }
}

#[test]
fn a_refused_attach_reaches_the_subscriber_with_its_reason() {
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    *camera.side.refuses.lock().unwrap() = Some("all seats are taken".into());
    camera.offer(1, "a", 5).unwrap();
    let viewer = Node::join(&dir, "viewer");
    viewer.demand(1, "a", None).unwrap();
    let refused = Heard::AttachRefused {
        subscriber: 1,
        publisher: camera.end(1),
        reason: "all seats are taken".into(),
    };
    viewer.side.wait_until("the refusal", |state| state.heard.contains(&refused));
}

#[test]
fn a_second_node_of_a_name_is_refused_and_the_name_is_free_when_the_first_has_left() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    let first = Node::join(&dir, "twin");
    let error = Node::try_join(&dir, "twin", |_| {}).err().unwrap();
    let pid = std::process::id();
    assert!(
        matches!(&error, JoinError::NodeNameTaken { name, pid: p } if name.as_str() == "twin" && *p == pid as i32)
    );
    assert!(error.to_string().contains("choose another name"), "{error}");
    for _ in 0..200 {
        let before = Node::join(&dir, "again");
        before.session.leave();
        Node::join(&dir, "again").session.leave();
    }
    drop((first, host));
}

struct Degrees;
impl Describe for Degrees {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        f32::describe(builder)
    }
}

#[test]
fn a_publisher_of_another_type_is_refused_and_a_subscriber_is_told_and_waits() {
    let (_base, dir) = hive();
    let (one, two) = (Node::join(&dir, "one"), Node::join(&dir, "two"));
    let (float, text) = (Schema::of::<Degrees>(), Schema::of::<String>());
    one.offer_with(1, "heat", float.fingerprint(), float.to_bytes()).unwrap();
    let error = two.offer_with(1, "heat", text.fingerprint(), text.to_bytes()).unwrap_err();
    let AnnounceError::TypeMismatch { service, ours, theirs, difference, holder } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((service.as_str(), &ours[..], &theirs[..]), ("heat", text.type_name(), float.type_name()));
    assert_eq!((holder.as_str(), difference), ("one", &text.difference(&float).unwrap()));
    // By its name and by a pattern: it is skipped, and said so.
    for (subscriber, filter) in [(2, "heat"), (3, "h*")] {
        two.demand_with(subscriber, filter, Some((text.fingerprint(), text.to_bytes()))).unwrap();
        let skipped = Heard::Skipped { subscriber, service: "heat".into(), holder: "one".into() };
        two.side.wait_until("the skipped service", |state| state.heard.contains(&skipped));
        assert_eq!(two.matches(subscriber), 0);
    }
    // The publisher can ask who waits.
    let misfits = one.session.misfits(1, recorder::PATIENCE).unwrap().unwrap();
    let first = &misfits.first;
    let fingerprint = first.asks.kind.as_ref().unwrap().fingerprint;
    let found = (misfits.count, first.node_name.as_str(), first.filter.as_str(), fingerprint);
    assert_eq!(found, (2, "two", "heat", text.fingerprint()));
    // When the service is free another takes it over, and who waited is matched.
    one.session.withdraw(1);
    one.offer_with(2, "heat", text.fingerprint(), text.to_bytes()).unwrap();
    for subscriber in [2, 3] {
        two.side.wait_until("the match", |state| {
            let is_it =
                |heard: &Heard| matches!(heard, Heard::Matched { subscriber: s, .. } if *s == subscriber);
            state.heard.iter().any(is_it)
        });
    }
    assert!(one.session.misfits(2, recorder::PATIENCE).unwrap().is_none());
}

#[test]
fn bad_names_and_bounds_are_errors_before_anybody_is_asked() {
    let (_base, dir) = hive();
    let node = Node::join(&dir, "node");
    assert!(matches!(node.offer(1, "a//b", 5), Err(AnnounceError::Name(error)) if error.position == 2));
    assert!(matches!(node.demand(1, "a/[", None), Err(AnnounceError::Filter(_))));
    let error = node.offer_with(1, "a", 5, vec![0; 40_000]).unwrap_err();
    assert!(matches!(error, AnnounceError::TooLarge { length: 40_000, .. }));
    node.offer(1, "a", 5).unwrap();
    let error = node.session.offer(plain_offer(1, "b", 1));
    // The end of that number stands, so the answer is the one it has: a number is announced once.
    assert!(error.is_ok());
}

fn plain_offer(index: u32, service: &str, fingerprint: u128) -> Offer {
    let kind = Kind { fingerprint, schema: vec![1, 2, 3] };
    let contract = Contract { capacity: 64, ..Contract::default() };
    Offer { begins: true, ..Offer::new(index, service, kind, contract) }
}

/// The viewer answers its match at once, so the root asks the camera to attach it while the publisher is
/// being made. When the root has answered a question that the viewer asked after that, the request lies in
/// the camera's socket.
#[test]
fn what_the_root_says_about_an_end_waits_until_the_end_is_made() {
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    let viewer = Node::join(&dir, "viewer");
    // Where the control thread is at work just then, the end is made first, and the next one is tried.
    let seen = (0..100).find(|index| {
        let service = format!("a/{index}");
        viewer.demand(*index, &service, Some(5)).unwrap();
        let heard_before = camera.side.heard().len();
        let offer = plain_offer(*index, &service, 5);
        let made = camera.session.offer_while(offer.clone(), None, || {
            let listing = viewer.session.list().unwrap();
            let is_ahead = listing.publishers.iter().any(|publisher| publisher.end == camera.end(*index));
            if is_ahead {
                wait_for("the match", || viewer.matches(*index) == 1);
                viewer.session.list().unwrap();
                assert_eq!(camera.side.heard().len(), heard_before);
            }
            camera.side.list(Announcement::Offer(offer));
            Ok::<bool, AnnounceError>(is_ahead)
        });
        viewer.wait_attached(*index, camera.end(*index));
        made.unwrap()
    });
    assert!(seen.is_some(), "no end was announced before it was made");
}

#[test]
fn an_end_that_cannot_be_made_is_withdrawn() {
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    let other = Node::join(&dir, "other");
    let failed =
        camera.session.offer_while(plain_offer(3, "a", 5), None, || Err::<(), _>(AnnounceError::Left));
    assert!(matches!(failed, Err(AnnounceError::Left)));
    let making = AssertUnwindSafe(|| {
        let make = || -> Result<(), AnnounceError> { panic!("on purpose") };
        camera.session.offer_while(plain_offer(4, "b", 5), None, make)
    });
    assert!(catch_unwind(making).is_err());
    // Both names are free for another type, and the node goes on.
    let mut index = 0;
    // Each time under another number: the answer to a number is the one that it got.
    for service in ["a", "b"] {
        wait_for("a name to be free", || {
            index += 1;
            other.offer(index, service, 6).is_ok()
        });
    }
    camera.offer(5, "c", 5).unwrap();
}

#[test]
fn hives_in_one_folder_do_not_see_each_other() {
    let (base, dir) = hive();
    let other = named_hive(base.path(), "other");
    let (here, there) = (Node::join(&dir, "node"), Node::join(&other, "node"));
    assert!(here.session.hosts_root() && there.session.hosts_root());
    here.offer(1, "a", 5).unwrap();
    there.demand(1, "**", None).unwrap();
    there.offer(2, "b", 6).unwrap();
    there.wait_attached(1, there.end(2));
    assert_eq!(there.matches(1), 1);
    assert_eq!(here.session.list().unwrap().nodes.len(), 1);
}

#[test]
fn nothing_but_socket_and_lock_is_left_and_the_next_start_uses_them() {
    let (_base, dir) = hive();
    for epoch in 1..5 {
        let node = Node::join(&dir, "node");
        assert_eq!(node.session.root_epoch(), epoch);
        assert_eq!(files(&dir), ["root.lock", "root.sock"]);
        drop(node);
        assert_eq!(files(&dir), ["root.lock", "root.sock"]);
    }
    // Whatever else has the name of the socket is no obstacle either.
    std::fs::remove_file(dir.root_socket()).unwrap();
    std::fs::write(dir.root_socket(), "not a socket").unwrap();
    std::fs::write(dir.path().join("root.new"), "left behind").unwrap();
    Node::join(&dir, "node");
    assert_eq!(files(&dir), ["root.lock", "root.sock"]);
}

struct StopOnDrop(StopHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn who_waits_for_a_dedicated_root_says_so_and_gets_in_when_it_comes() {
    let (_base, dir) = hive();
    let external = |patience: Duration| {
        move |config: &mut hivemind_runtime::session::SessionConfig| {
            config.root = RootRole::External;
            config.patience = patience;
        }
    };
    let error = Node::try_join(&dir, "patient", external(Duration::from_millis(20))).err().unwrap();
    assert!(
        matches!(&error, JoinError::NoRoot { what: WaitedFor::Root { path }, .. } if path == dir.root_socket())
    );
    assert!(error.to_string().contains("start one with `hm root`"), "{error}");

    let host = Node::join(&dir, "host");
    let error = Node::try_join(&dir, "patient", external(Duration::from_millis(500))).err().unwrap();
    let pid = std::process::id() as i32;
    assert!(
        matches!(&error, JoinError::NoRoot { what: WaitedFor::DedicatedRoot { pid: p }, .. } if *p == pid),
        "{error}"
    );

    let stop = StopHandle::new().unwrap();
    std::thread::scope(|scope| {
        // The threads of a scope are waited for, also when an assertion fails.
        let _stopping = StopOnDrop(stop.clone());
        let waiting = scope.spawn(|| Node::try_join(&dir, "patient", external(recorder::PATIENCE)).unwrap());
        let serving = scope.spawn(|| serve_root(&dir, ServeOptions::default(), &stop));
        let patient = waiting.join().unwrap();
        assert!(patient.session.list().unwrap().dedicated_root);
        // The embedded root has handed over, and its node is announced to the dedicated one.
        wait_for("the host's roll call", || patient.session.list().unwrap().nodes.len() == 2);
        assert!(!host.session.hosts_root());
        // A second dedicated root is refused.
        let error = serve_root(&dir, ServeOptions::default(), &StopHandle::new().unwrap()).unwrap_err();
        assert!(error.to_string().contains("is a dedicated root of this hive already"), "{error}");
        // When it ends in order, the embedded node takes over again.
        stop.stop();
        serving.join().unwrap().unwrap();
        wait_for("the take-over", || host.session.hosts_root());
    });
}

#[test]
fn an_established_pair_does_not_notice_a_new_root_and_new_pairs_are_matched() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    let camera = Node::join(&dir, "camera");
    let viewer = Node::join(&dir, "viewer");
    camera.offer(1, "a", 5).unwrap();
    viewer.demand(1, "*", Some(5)).unwrap();
    viewer.wait_attached(1, camera.end(1));
    for epoch in 2..6 {
        if camera.session.hosts_root() || viewer.session.hosts_root() {
            break;
        }
        host.session.leave();
        wait_for("a new root", || {
            [&camera, &viewer].iter().all(|node| node.session.root_epoch() >= epoch)
                && [&camera, &viewer].iter().any(|node| node.session.hosts_root())
        });
    }
    let hosts = [&camera, &viewer].iter().filter(|node| node.session.hosts_root()).count();
    assert_eq!(hosts, 1, "exactly one took over");
    camera.offer(2, "b", 5).unwrap();
    viewer.wait_attached(1, camera.end(2));
    assert_eq!(viewer.matches(1), 2, "one match for each pair over two roots");
    let listing = viewer.session.list().unwrap();
    assert_eq!(listing.connections.len(), 2);
    assert!(listing.connections.iter().all(|connection| connection.seat == 41));
}

#[test]
fn an_announcement_made_while_there_is_no_root_is_answered_by_the_next() {
    let (_base, dir) = hive();
    let host = Arc::new(Node::join(&dir, "host"));
    let nodes: Vec<Node> = (0..4).map(|number| Node::join(&dir, &format!("node{number}"))).collect();
    std::thread::scope(|scope| {
        for (number, node) in nodes.iter().enumerate() {
            scope.spawn(move || {
                for index in 0..50 {
                    node.offer(index, &format!("from{number}/{index}"), 5).unwrap();
                }
            });
        }
        scope.spawn(|| host.session.leave());
    });
    let listing = nodes[0].session.list().unwrap();
    assert_eq!((listing.nodes.len(), listing.publishers.len(), listing.services.len()), (4, 200, 200));
}

#[test]
fn a_node_that_has_left_says_so() {
    let (_base, dir) = hive();
    let node = Node::join(&dir, "node");
    node.session.leave();
    node.session.leave();
    assert!(matches!(node.offer(1, "a", 5), Err(AnnounceError::Left)));
    assert!(matches!(node.session.list(), Err(SessionError::Left)));
    node.session.withdraw(1);
    assert!(!node.session.hosts_root() && node.session.root_pid().is_none());
}

#[test]
fn an_observer_lists_and_inspects_and_claims_nothing() {
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    camera.offer(1, "a", 5).unwrap();
    let observe = |config: &mut hivemind_runtime::session::SessionConfig| config.observer = true;
    let one = Node::try_join(&dir, "camera", observe).unwrap();
    let two = Node::try_join(&dir, "camera", observe).unwrap();
    let segment = one.session.inspect(camera.end(1)).unwrap();
    assert_eq!(content(segment), "segment camera 1");
    let nobody = EndId { node: 1, index: 1 };
    assert!(matches!(two.session.inspect(nobody), Err(SessionError::Gone { end }) if end == nobody));
    let listing = two.session.list().unwrap();
    assert_eq!(listing.nodes.iter().filter(|node| node.observer).count(), 2);
    assert_eq!(listing.nodes.iter().filter(|node| node.hosts_root).count(), 1);
    assert_eq!((listing.root_epoch, listing.dedicated_root), (1, false));
}

#[test]
fn an_observer_has_no_ends_and_hears_so_without_asking_the_root() {
    let (_base, dir) = hive();
    let observer = Node::try_join(&dir, "eye", |config| config.observer = true).unwrap();
    let error = observer.offer(1, "a", 5).unwrap_err();
    assert!(matches!(&error, AnnounceError::Observer), "{error}");
    assert_eq!(observer.session.list().unwrap().nodes.len(), 1);
}

#[test]
fn withdrawn_ends_are_gone_and_their_numbers_are_not() {
    let (_base, dir) = hive();
    let (camera, viewer) = (Node::join(&dir, "camera"), Node::join(&dir, "viewer"));
    viewer.demand(1, "**", None).unwrap();
    for index in 0..100 {
        camera.offer(index, "a", u128::from(index)).unwrap();
        viewer.wait_attached(1, camera.end(index));
        camera.withdraw(index);
    }
    // What a node asks comes after what it said before.
    let listing = camera.session.list().unwrap();
    assert_eq!((listing.publishers.len(), listing.services.len(), listing.connections.len()), (0, 0, 0));
}

#[test]
fn five_thousand_ends_are_listed() {
    let (_base, dir) = hive();
    let nodes: Vec<Node> = (0..5).map(|number| Node::join(&dir, &format!("node{number}"))).collect();
    std::thread::scope(|scope| {
        for (number, node) in nodes.iter().enumerate() {
            scope.spawn(move || {
                for index in 0..1000 {
                    let service = format!("a/service/with/a/long/name/{number}/{index}");
                    node.offer_with(index, &service, 5, vec![7; 200]).unwrap();
                }
            });
        }
    });
    let listing = nodes[4].session.list().unwrap();
    assert_eq!((listing.publishers.len(), listing.services.len()), (5000, 5000));
    assert_eq!(listing.services[0].kind.schema, vec![7; 200]);
}

/// The subscriber is there first, so that every publisher is matched at once; then it is the other way round.
#[test]
fn a_thousand_services_are_matched_both_ways() {
    let (_base, dir) = hive();
    let host = Node::join(&dir, "host");
    let (camera, early, late) =
        (Node::join(&dir, "camera"), Node::join(&dir, "early"), Node::join(&dir, "late"));
    early.demand(1, "services/*", None).unwrap();
    let begun = Instant::now();
    for index in 0..1000 {
        camera.offer_with(index, &format!("services/{index}"), 5, vec![7; 300]).unwrap();
    }
    let offered = begun.elapsed();
    let wait_for_all = |node: &Node| {
        node.side.wait_until("a thousand attachments", |state| {
            state.heard.iter().filter(|heard| matches!(heard, Heard::Attached { .. })).count() == 1000
        });
    };
    wait_for_all(&early);
    let matched = begun.elapsed();
    let begun = Instant::now();
    late.demand(1, "services/*", None).unwrap();
    wait_for_all(&late);
    println!("1000 services: offered {offered:?}, matched {matched:?}, matched late {:?}", begun.elapsed());
    assert_eq!((early.matches(1), late.matches(1)), (1000, 1000));
    assert_eq!(host.session.list().unwrap().connections.len(), 2000);
}

#[test]
fn ends_that_are_gathered_are_all_there_and_the_refused_are_named() {
    const ENDS: u32 = 300;
    let (_base, dir) = hive();
    let other = Node::join(&dir, "other");
    other.offer(1, "s/7", 99).unwrap();
    let node = Node::join(&dir, "node");
    let gathering = Gathering::default();
    // From several threads: what belongs together is said by a value, and by nothing else.
    std::thread::scope(|scope| {
        for part in 0..3 {
            let (node, gathering) = (&node, &gathering);
            scope.spawn(move || {
                for number in (part..ENDS).step_by(3) {
                    node.offer_within(gathering, number, &format!("s/{number}"), 5).unwrap();
                }
            });
        }
    });
    // One that is not of the gathering is answered at once.
    assert!(matches!(node.offer(ENDS, "s/7", 5), Err(AnnounceError::TypeMismatch { .. })));
    let refused = node.session.finish(&gathering);
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].index, &*refused[0].what), (7, "s/7"));
    assert!(matches!(refused[0].error, AnnounceError::TypeMismatch { .. }), "{:?}", refused[0].error);
    assert_eq!(other.session.list().unwrap().publishers.len(), 1 + ENDS as usize - 1);
    assert!(node.session.finish(&gathering).is_empty());
}

/// A thread that waits for an answer may do the work of the control thread, and only one can: here they push
/// each other aside, while matches of all of them are under way.
#[test]
fn threads_that_announce_at_the_same_time_all_get_their_answers_and_their_matches() {
    const THREADS: u32 = 4;
    const ENDS: u32 = 50;
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    let viewer = Node::join(&dir, "viewer");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (camera, viewer) = (&camera, &viewer);
            let names = move || (0..ENDS).map(move |end| (thread * ENDS + end, format!("{thread}/{end}")));
            scope.spawn(move || {
                for (index, name) in names() {
                    camera.offer(index, &name, 5).unwrap();
                }
            });
            scope.spawn(move || {
                for (index, name) in names() {
                    viewer.demand(index, &name, Some(5)).unwrap();
                }
            });
        }
    });
    for index in 0..THREADS * ENDS {
        viewer.wait_attached(index, camera.end(index));
        assert_eq!(viewer.matches(index), 1);
    }
}

/// The callback runs in the control thread or in the one that waits; in either case nobody waits for ever,
/// and the hive sees the node go.
#[test]
fn a_callback_that_panics_ends_the_session_for_every_thread() {
    let (_base, dir) = hive();
    let camera = Node::join(&dir, "camera");
    camera.offer(1, "a", 5).unwrap();
    let viewer = Node::join(&dir, "viewer");
    viewer.side.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    // It is answered before that, or hears that the session has ended.
    let answer = viewer.demand(2, "a", Some(5));
    assert!(matches!(answer, Ok(()) | Err(AnnounceError::Left)), "{answer:?}");
    wait_for("the end of the session", || matches!(viewer.offer(3, "b", 5), Err(AnnounceError::Left)));
    wait_for("the node to be gone", || camera.session.list().unwrap().nodes.len() == 1);
}
