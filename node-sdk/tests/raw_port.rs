//! Ports without a type: what recorders, links and bindings stand on.

use hivemind::schema::Schema;
use hivemind::{Node, RecvError, message};
use hivemind_core::contract::Kind;
use hivemind_runtime::ports::{AsMember, Outlet, OutletOptions};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

#[message]
#[derive(Debug, Clone, PartialEq)]
struct Pose {
    id: u64,
    frame: String,
}

fn joined() -> (tempfile::TempDir, Node) {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::builder("node").dir(folder.path()).join().unwrap();
    (folder, node)
}

/// Records a message and plays it: the bytes of a dynamic sample, with its schema, through a port that never
/// heard of the type.
#[test]
fn what_was_recorded_is_played_through_a_port_without_its_type() {
    let (_folder, node) = joined();
    let mut recorder = node.subscriber_dynamic("live").unwrap();
    let mut live = node.publisher::<Pose>("live").unwrap();
    let poses = [
        Pose { id: 1, frame: "map".to_owned() },
        Pose {
            id: 2,
            frame: "a frame whose name does not fit into a slot, by a good number of letters".to_owned(),
        },
    ];
    let mut player = node.subscriber::<Pose>("replay").unwrap();
    let mut outlet = None;
    for pose in &poses {
        live.send(pose).unwrap();
        let recorded = recorder.recv_timeout(PATIENCE).unwrap().unwrap();
        let outlet = outlet.get_or_insert_with(|| {
            let kind = Kind::of(recorded.schema());
            Outlet::create(node.as_member(), "replay", kind, &OutletOptions::default(), None).unwrap()
        });
        assert_eq!(outlet.send_bytes(recorded.bytes()).unwrap(), 1);
        let played = player.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(&played.to_owned().unwrap(), pose);
    }
}

#[test]
fn bytes_that_are_no_archive_of_the_kind_are_refused_by_subscribers_and_harm_nobody() {
    let (_folder, node) = joined();
    let kind = Kind::of(&Schema::of::<Pose>());
    let mut subscriber = node.subscriber::<Pose>("poses").unwrap();
    let mut outlet =
        Outlet::create(node.as_member(), "poses", kind, &OutletOptions::default(), None).unwrap();
    outlet.send_bytes(&[0xff; 100]).unwrap();
    let error = subscriber.recv_timeout(PATIENCE).unwrap_err();
    assert!(matches!(error, RecvError::Detached { .. }), "{error}");
    // The next publisher is not the last.
    drop(outlet);
    let mut honest = node.publisher::<Pose>("poses").unwrap();
    honest.send(&Pose { id: 3, frame: String::new() }).unwrap();
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap().id, 3);
}
