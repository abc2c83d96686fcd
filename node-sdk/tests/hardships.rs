//! What must not happen: leaks, waits without end, and peers that hold others up. In one process, over a real
//! root.

use hivemind::schema::{Describe, SchemaBuilder, TypeRef};
use hivemind::{Node, RecvError, RunError, Sample, SendError, rkyv};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// The bound of every wait: far beyond anything that is waited for, so reaching it means that it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Hive {
    folder: tempfile::TempDir,
}

impl Hive {
    fn new() -> Self {
        Hive { folder: tempfile::tempdir().unwrap() }
    }

    fn join(&self, name: &str) -> Node {
        Node::builder(name).dir(self.folder.path()).patience(PATIENCE).join().unwrap()
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

/// Runs `body` on a thread of its own and fails if it does not end.
fn ends<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    std::thread::spawn(move || done.send(body()));
    end.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what} does not end: {error}"))
}

/// Says that it is a `bool`, and is not always one.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = rkyv, derive(Debug))]
struct Liar(u8);

impl Describe for Liar {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        bool::describe(builder)
    }
}

// Once the publisher was held up by the subscriber that had detached from it, for as long as that lived.
#[test]
fn a_publisher_of_an_invalid_archive_is_cut_off_and_goes_on_without_that_subscriber() {
    let hive = Hive::new();
    let (liar, listener) = (hive.join("liar"), hive.join("listener"));
    let mut publisher = liar.publisher_builder::<Liar>("flag").capacity(4).reliable().create().unwrap();
    let mut subscriber = listener.subscriber::<bool>("flag").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    publisher.send(&Liar(1)).unwrap();
    publisher.send(&Liar(7)).unwrap();
    publisher.send(&Liar(0)).unwrap();
    assert!(*subscriber.recv_timeout(PATIENCE).unwrap().unwrap());
    let error = subscriber.recv_timeout(PATIENCE).unwrap_err();
    assert!(matches!(&error, RecvError::Detached { publisher: at_fault, .. } if *at_fault == publisher.id()));

    // What was not valid was not received.
    let status = &subscriber.connections()[0];
    assert!(status.ended);
    assert_eq!((status.received, status.lost), (1, 1));
    assert_eq!((subscriber.received(), subscriber.lost()), (1, 1));

    for _ in 0..20 {
        publisher.send(&Liar(0)).unwrap();
    }
    assert_eq!(publisher.subscribers(), 0);
    assert!(subscriber.try_recv().unwrap().is_none());
}

// Once the next root introduced them to each other again, and messages that had been received came a second
// time.
#[test]
fn a_publisher_that_was_cut_off_stays_so_under_the_next_root() {
    let hive = Hive::new();
    let host = hive.join("host");
    let (liar, listener) = (hive.join("liar"), hive.join("listener"));
    let mut publisher = liar.publisher_builder::<Liar>("flag").history(4).create().unwrap();
    let mut subscriber = listener.subscriber::<bool>("fl*").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    publisher.send(&Liar(1)).unwrap();
    publisher.send(&Liar(7)).unwrap();
    assert!(*subscriber.recv_timeout(PATIENCE).unwrap().unwrap());
    assert!(subscriber.recv_timeout(PATIENCE).is_err());
    drop(host);
    wait_for("another root", || listener.root_epoch() == 2 && liar.root_epoch() == 2);

    // An honest publisher, announced after that, is attached; by then the other would be as well.
    let mut honest = liar.publisher::<bool>("flat").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    honest.wait_for_subscribers(1, PATIENCE).unwrap();
    honest.send(&true).unwrap();
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap().service().as_str(), "flat");
    assert_eq!(subscriber.publishers(), 1);
}

/// Descriptors of this process that watch processes.
fn pidfds() -> usize {
    let links = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().path().read_link().ok());
    links.filter(|link| link.to_string_lossy().contains("pidfd")).count()
}

// Once each life of a subscriber's node left a descriptor in the publisher's process until its own process
// ended.
#[test]
fn nodes_that_come_and_go_leave_no_descriptors_behind() {
    let hive = Hive::new();
    let node = hive.join("stays");
    let publisher = node.publisher::<u64>("count").unwrap();
    let mut subscriber = node.subscriber::<u64>("from/*").unwrap();
    for life in 0..150 {
        let guest = hive.join("guest");
        let theirs = guest.publisher::<u64>("from/guest").unwrap();
        let reader = guest.subscriber::<u64>("count").unwrap();
        reader.wait_for_publishers(1, PATIENCE).unwrap();
        theirs.wait_for_subscribers(1, PATIENCE).unwrap();
        drop((theirs, reader, guest));
        assert!(subscriber.try_recv().unwrap().is_none());
        assert!(pidfds() < 120, "{} after {life} lives", pidfds());
    }
    wait_for("the last one's end", || publisher.subscribers() == 0);
}

// Once only a subscriber that slept let go of publishers that had ended.
#[test]
fn a_subscriber_that_never_sleeps_lets_go_of_publishers_that_ended() {
    let hive = Hive::new();
    let node = hive.join("node");
    let mut subscriber = node.subscriber::<u64>("life/*").unwrap();
    let mut steady = node.publisher::<u64>("life/steady").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for life in 0..50 {
        let mut publisher = node.publisher::<u64>("life/short").unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.send(&life).unwrap();
        drop(publisher);
        wait_for("its end", || {
            // There is always something to read.
            steady.send(&0).unwrap();
            assert!(subscriber.recv_timeout(PATIENCE).unwrap().is_some());
            subscriber.connections().len() == life as usize + 2 && subscriber.publishers() == 1
        });
    }
    let ended = subscriber.connections().iter().filter(|connection| connection.ended).count();
    assert_eq!(ended, 50);
    for connection in subscriber.connections().into_iter().filter(|connection| connection.ended) {
        assert_eq!((connection.received, connection.lost), (1, 0), "{connection:?}");
    }
}

// Once the handler was called over and over with the same refusal, and the node never came to its end.
#[test]
fn a_handler_that_keeps_all_its_samples_does_not_keep_the_node_from_ending() {
    let hive = Hive::new();
    let node = hive.join("node");
    let mut publisher = node.publisher::<[u8]>("blocks").unwrap();
    let (keep, kept) = mpsc::channel();
    node.subscribe("blocks", move |sample: Sample<[u8]>| keep.send(sample).unwrap()).unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    for _ in 0..100 {
        publisher.send(&[1; 1000][..]).unwrap();
    }
    let mut samples: Vec<_> = (0..20).map(|_| kept.recv_timeout(PATIENCE).unwrap()).collect();
    let stop = node.stop_handle();
    let (running, ended) = (node.clone(), mpsc::channel());
    std::thread::spawn(move || ended.0.send(running.run()));
    stop.stop();
    ended.1.recv_timeout(PATIENCE).expect("the node ends").unwrap();
    samples.clear();
}

// Once a handler that was slower than a publisher always found one more message.
#[test]
fn a_node_ends_though_messages_keep_coming() {
    let hive = Hive::new();
    let (node, other) = (hive.join("node"), hive.join("other"));
    let publisher = other.publisher_builder::<u64>("count").capacity(16).create().unwrap();
    let publisher = Arc::new(Mutex::new(publisher));
    let (seen, heard) = mpsc::channel();
    let sender = Arc::clone(&publisher);
    node.subscribe("count", move |sample: Sample<u64>| {
        // However fast this is, the next message is there.
        sender.lock().unwrap().send(&1).unwrap();
        let _ = seen.send(*sample);
    })
    .unwrap();
    {
        let mut publisher = publisher.lock().unwrap();
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.send(&1).unwrap();
    }
    heard.recv_timeout(PATIENCE).unwrap();
    node.stop_handle().stop();
    ends("the node", move || node.run().unwrap());
}

// The same for a program's own loop, which the node leaves under.
#[test]
fn recv_ends_though_messages_keep_coming() {
    let hive = Hive::new();
    let (node, other) = (hive.join("node"), hive.join("other"));
    let mut publisher = other.publisher_builder::<u64>("count").capacity(1024).create().unwrap();
    let mut subscriber = node.subscriber::<u64>("count").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for number in 0..10 {
        publisher.send(&number).unwrap();
    }
    node.leave();
    // What was there is still received; what comes after is not.
    for expected in 0..10 {
        assert_eq!(*subscriber.recv().unwrap().unwrap(), expected);
        publisher.send(&100).unwrap();
    }
    assert!(subscriber.recv().unwrap().is_none());
}

// Once a service that waited for a stopped subscriber kept the node until its own timeout.
#[test]
fn a_service_that_waits_for_room_ends_with_the_node() {
    let hive = Hive::new();
    let (node, other) = (hive.join("node"), hive.join("other"));
    let _slow = other.subscriber::<u64>("count").unwrap();
    let (full, is_full) = mpsc::channel();
    let publisher = node.publisher_builder::<u64>("count").capacity(2).reliable().create().unwrap();
    let publisher = Mutex::new(publisher);
    publisher.lock().unwrap().wait_for_subscribers(1, PATIENCE).unwrap();
    node.service::<u64, _>("clock", move |_| {
        let mut publisher = publisher.lock().unwrap();
        while publisher.send(&1).is_ok() {}
        full.send(()).unwrap();
        publisher.send_timeout(&1, Duration::MAX)?;
        Ok(())
    })
    .unwrap();
    is_full.recv_timeout(PATIENCE).unwrap();
    node.stop_handle().stop();
    let outcome: Result<(), RunError> = ends("the node", move || node.run());
    outcome.unwrap();
}

// Once a message needed as much free memory as the longest before it.
#[test]
fn a_short_message_after_long_ones_needs_little_memory() {
    let hive = Hive::new();
    let node = hive.join("node");
    let builder = node.publisher_builder::<String>("text").capacity(8).reliable();
    let mut publisher = builder.max_message(1 << 20).max_memory(5 << 19).create().unwrap();
    let _unread = node.subscriber::<String>("text").unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let long = "x".repeat(900 << 10);
    publisher.send(&long).unwrap();
    publisher.send(&long).unwrap();
    assert!(matches!(publisher.send(&long), Err(SendError::MemoryOut { .. })));
    publisher.send(&"y".repeat(100)).unwrap();
    publisher.send(&"y".repeat(60_000)).unwrap();
}

#[test]
fn to_spin_for_ever_is_possible() {
    let hive = Hive::new();
    let node = hive.join("node");
    let mut publisher = node.publisher::<u64>("count").unwrap();
    let mut subscriber = node.subscriber_builder::<u64>("count").spin(Duration::MAX).create().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let reading = std::thread::spawn(move || {
        assert_eq!(*subscriber.recv().unwrap().unwrap(), 5);
        assert!(subscriber.recv_timeout(Duration::from_millis(1)).unwrap().is_none());
        subscriber
    });
    publisher.send(&5).unwrap();
    let mut subscriber = reading.join().unwrap();
    // It lets go of publishers that end while it spins, too.
    drop(publisher);
    assert!(subscriber.recv_timeout(Duration::from_millis(5)).unwrap().is_none());
    assert_eq!(subscriber.publishers(), 0);
    let (stop, spinning) = (node.clone(), std::thread::spawn(move || subscriber.recv().unwrap().is_none()));
    stop.leave();
    assert!(spinning.join().unwrap());
}
