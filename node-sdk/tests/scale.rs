//! What many ends share. Alone in its process, since it counts the mappings of the whole process.

use hivemind::Node;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A subscriber of a thousand services of a node was mapped a thousand times there, each time with all the
/// pages that the kernel maps around a fault: 96 MB that were not memory, but counted as such.
#[test]
fn a_subscriber_of_many_publishers_of_a_node_is_mapped_there_once() {
    const PUBLISHERS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let join = |name: &str| Node::builder(name).dir(folder.path()).patience(PATIENCE).join().unwrap();
    let (camera, listener) = (join("camera"), join("listener"));
    let mut publishers: Vec<_> =
        (0..PUBLISHERS).map(|number| camera.publisher::<[u8]>(&format!("s/{number}")).unwrap()).collect();
    let mut subscriber = listener.subscriber::<[u8]>("s/*").unwrap();
    subscriber.wait_for_publishers(PUBLISHERS, PATIENCE).unwrap();
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd:reader")).count()
    };
    assert_eq!(mapped(), 2, "once by its owner, once by the node of the publishers");

    for publisher in &mut publishers {
        publisher.loan(100).unwrap().send();
    }
    for _ in 0..PUBLISHERS {
        assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap().len(), 100);
    }
    // One that ends and one that comes are told apart, though their segments had the same place.
    drop(subscriber);
    let subscriber = listener.subscriber::<[u8]>("s/*").unwrap();
    subscriber.wait_for_publishers(PUBLISHERS, PATIENCE).unwrap();
    drop(publishers);
    assert_eq!(mapped(), 1, "its owner alone");
}
