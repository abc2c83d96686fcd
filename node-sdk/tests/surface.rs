//! The public surface, used as the design shows it: in one process, over real shared memory and a real root.

use hivemind::{Node, RecvError, Sample, SendError, message};
use std::sync::mpsc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

#[message]
#[derive(Debug, Clone, PartialEq)]
struct Pose {
    id: u64,
    x: f64,
    y: f64,
    frame: String,
}

#[message]
#[derive(Debug, Clone, PartialEq)]
struct Signal {
    text: String,
}

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

fn pose(id: u64) -> Pose {
    Pose { id, x: 0.5, y: -2.0, frame: format!("frame-{id}") }
}

#[test]
fn a_typed_message_arrives_whole_and_says_where_it_came_from() {
    let hive = Hive::new();
    let camera = hive.join("camera");
    let mut publisher = camera.publisher::<Pose>("sensors/pose").unwrap();
    let listener = hive.join("listener");
    let mut subscriber = listener.subscriber::<Pose>("sensors/*").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    assert_eq!(publisher.send(&pose(7)).unwrap(), 1);

    let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(sample.x, 0.5);
    assert_eq!(sample.frame, "frame-7");
    assert_eq!(sample.sequence(), 0);
    assert_eq!(sample.service().as_str(), "sensors/pose");
    assert_eq!(sample.origin().node.as_str(), "camera");
    assert_eq!(sample.to_owned().unwrap(), pose(7));
    assert_eq!((subscriber.received(), subscriber.lost()), (1, 0));
    assert!(subscriber.try_recv().unwrap().is_none());
}

#[test]
fn large_plain_data_is_filled_in_place() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut frames = node.publisher_builder::<[u8]>("camera/frame").capacity(4).create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("camera/frame").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for length in [0, 1, 56, 57, 64, 4096, 1_000_003, 6_220_800] {
        let mut loan = frames.loan(length).unwrap();
        for (place, byte) in loan.iter_mut().enumerate() {
            *byte = place as u8;
        }
        assert_eq!(loan.send(), 1);
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(sample.len(), length);
        assert!(sample.iter().enumerate().all(|(place, byte)| *byte == place as u8));
    }
    // A loan that is dropped sends nothing.
    drop(frames.loan(100).unwrap());
    assert_eq!(frames.published(), 8);
    frames.send(b"short").unwrap();
    assert_eq!(*subscriber.recv_timeout(PATIENCE).unwrap().unwrap(), *b"short");
}

#[test]
fn a_reliable_publisher_says_full_and_goes_on_when_there_is_room() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut publisher = node.publisher_builder::<u64>("count").capacity(4).reliable().create().unwrap();
    let mut subscriber = node.subscriber::<u64>("count").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for number in 0..4 {
        publisher.send(&number).unwrap();
    }
    assert!(matches!(publisher.send(&4), Err(SendError::Full { capacity: 4, .. })));
    assert_eq!(*subscriber.try_recv().unwrap().unwrap(), 0);
    publisher.send(&4).unwrap();

    let reader = std::thread::spawn(move || {
        for expected in 1..1000 {
            assert_eq!(*subscriber.recv_timeout(PATIENCE).unwrap().unwrap(), expected);
        }
        subscriber.lost()
    });
    for number in 5..1000 {
        publisher.send_timeout(&number, PATIENCE).unwrap();
    }
    assert_eq!(reader.join().unwrap(), 0);
}

#[test]
fn a_slow_subscriber_of_a_lossy_service_is_told_exactly_what_it_lost() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut publisher = node.publisher_builder::<Pose>("pose").capacity(8).create().unwrap();
    let mut subscriber = node.subscriber::<Pose>("pose").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for id in 0..1000 {
        publisher.send(&pose(id)).unwrap();
    }
    let mut last = None;
    while let Some(sample) = subscriber.try_recv().unwrap() {
        assert_eq!(sample.id, sample.sequence());
        last = Some(sample.sequence());
    }
    assert_eq!(last, Some(999));
    assert_eq!(subscriber.received() + subscriber.lost(), publisher.published());
    assert!(subscriber.received() >= 7);
}

#[test]
fn a_late_subscriber_gets_the_history() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut publisher = node.publisher_builder::<u64>("count").capacity(16).history(5).create().unwrap();
    for number in 0..100 {
        publisher.send(&number).unwrap();
    }
    let mut subscriber = node.subscriber::<u64>("count").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for expected in 95..100 {
        assert_eq!(*subscriber.recv_timeout(PATIENCE).unwrap().unwrap(), expected);
    }
    assert_eq!(subscriber.lost(), 0);
}

#[test]
fn a_held_sample_does_not_change_and_too_many_are_an_error() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut publisher = node.publisher_builder::<[u8]>("blocks").capacity(2).create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("blocks").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    let mut held = Vec::new();
    let refused = loop {
        publisher.send(&vec![held.len() as u8; 1000]).unwrap();
        match subscriber.try_recv() {
            Ok(sample) => held.push(sample.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, RecvError::HeldOut { limit, .. } if limit == held.len()));
    for _ in 0..100 {
        publisher.send(&[0xFF; 1000][..]).unwrap();
    }
    for (number, sample) in held.iter().enumerate() {
        assert!(sample.iter().all(|byte| *byte == number as u8), "sample {number} changed while it was held");
    }
    held.clear();
    assert!(subscriber.try_recv().unwrap().is_some());
}

#[test]
fn samples_outlive_their_publisher_subscriber_and_node() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut publisher = node.publisher::<[u8]>("blocks").unwrap();
    let mut subscriber = node.subscriber::<[u8]>("blocks").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    publisher.send(&[7; 5000][..]).unwrap();
    let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    drop(subscriber);
    for _ in 0..1000 {
        publisher.send(&[8; 5000][..]).unwrap();
    }
    assert!(sample.iter().all(|byte| *byte == 7));
    drop((publisher, node));
    assert!(sample.iter().all(|byte| *byte == 7));
}

#[test]
fn services_and_handlers_run_themselves_until_the_node_stops() {
    let hive = Hive::new();
    let node = hive.join("gotham");
    let signal = Signal { text: "come".to_owned() };
    node.service("bat-signal-main", move |service| {
        service.send(&signal)?;
        service.sleep_for(Duration::from_millis(1))
    })
    .unwrap();
    let (seen, heard) = mpsc::channel();
    let stop = node.stop_handle();
    node.subscribe("bat-signal-*", move |sample: Sample<Signal>| {
        if sample.sequence() > 5 {
            stop.stop();
        }
        let _ = seen.send(sample.text.to_string());
    })
    .unwrap();
    node.run().unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "come");
    assert!(node.is_leaving());
}

#[test]
fn recv_ends_with_none_when_the_node_leaves() {
    let hive = Hive::new();
    let node = hive.join("alone");
    let mut subscriber = node.subscriber::<u64>("never").unwrap();
    let (ready, go) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        ready.send(()).unwrap();
        subscriber.recv().unwrap().is_none()
    });
    go.recv().unwrap();
    node.leave();
    assert!(waiter.join().unwrap());
}

#[test]
fn a_message_beyond_the_bound_and_memory_that_is_held_are_errors() {
    let hive = Hive::new();
    let node = hive.join("both");
    let builder = node.publisher_builder::<[u8]>("blocks").capacity(4).reliable();
    let mut publisher = builder.max_message(1 << 20).max_memory(2 << 20).create().unwrap();
    assert!(matches!(publisher.loan((1 << 20) + 1), Err(SendError::TooLarge { .. })));
    let subscriber = node.subscriber::<[u8]>("blocks").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    publisher.send(&vec![1; 1 << 20]).unwrap();
    publisher.send(&vec![2; 1 << 20]).unwrap();
    assert!(matches!(publisher.send(&vec![3; 1 << 20]), Err(SendError::MemoryOut { .. })));
    drop(subscriber);
    publisher.send(&vec![3; 1 << 20]).unwrap();
}

#[test]
fn a_dynamic_subscriber_reads_types_that_it_does_not_know() {
    let hive = Hive::new();
    let node = hive.join("both");
    let mut publisher = node.publisher::<Pose>("sensors/pose").unwrap();
    let mut subscriber = node.subscriber_dynamic("**").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    publisher.send(&pose(3)).unwrap();
    let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(sample.to_json().unwrap(), r#"{"id":3,"x":0.5,"y":-2.0,"frame":"frame-3"}"#);
}

#[test]
fn a_publisher_of_another_type_is_refused_and_a_subscriber_is_told_and_waits() {
    let hive = Hive::new();
    let node = hive.join("both");
    let publisher = node.publisher::<Pose>("sensors/pose").unwrap();
    let error = node.publisher::<Signal>("sensors/pose").unwrap_err().to_string();
    assert!(error.contains("Pose") && error.contains("Signal"), "{error}");
    let mut subscribers =
        ["sensors/pose", "sensors/*"].map(|filter| node.subscriber::<Signal>(filter).unwrap());
    for subscriber in &subscribers {
        while subscriber.skipped().is_empty() {
            std::thread::yield_now();
        }
        let error = subscriber.wait_for_publishers(1, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("sensors/pose carries Pose in node both, not Signal"), "{error}");
        let [skipped] = &subscriber.skipped()[..] else { panic!("{:?}", subscriber.skipped()) };
        assert_eq!((&skipped.type_name[..], &skipped.expected[..]), ("Pose", "Signal"));
        assert_eq!((&skipped.node[..], &skipped.difference[..]), ("both", "Signal here, Pose there"));
    }
    drop(publisher);
    let mut publisher = node.publisher::<Signal>("sensors/pose").unwrap();
    publisher.wait_for_subscribers(2, PATIENCE).unwrap();
    publisher.send(&Signal { text: "fits".to_owned() }).unwrap();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap().text, "fits");
        assert_eq!(subscriber.skipped(), []);
    }
}

// This was a panic once: the schema was made by the call that cannot fail.
#[test]
fn ends_of_a_batch_work_and_those_that_are_refused_are_named() {
    let hive = Hive::new();
    let camera = hive.join("camera");
    let listener = hive.join("listener");
    let name = |number: usize| format!("joint/{number}");
    let batch = camera.batch();
    let mut publishers: Vec<_> = (0..50).map(|n| batch.publisher::<Pose>(&name(n)).unwrap()).collect();
    batch.finish().unwrap();
    let batch = listener.batch();
    let mut subscribers: Vec<_> = (0..50).map(|n| batch.subscriber::<Pose>(&name(n)).unwrap()).collect();
    batch.finish().unwrap();
    for (id, publisher) in publishers.iter_mut().enumerate() {
        publisher.wait_for_subscribers(1, PATIENCE).unwrap();
        publisher.send(&pose(id as u64)).unwrap();
    }
    for (id, subscriber) in subscribers.iter_mut().enumerate() {
        assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap().id, id as u64);
    }

    let batch = listener.batch();
    let others: Vec<_> = (49..52).map(|n| batch.publisher::<Signal>(&name(n)).unwrap()).collect();
    let refused = batch.finish().unwrap_err();
    assert_eq!(refused.refused().len(), 1);
    assert_eq!(refused.refused()[0].0, "joint/49");
    assert!(refused.to_string().contains("joint/49"), "{refused}");
    // The one that was refused is in no hive, though it is held still; the others are.
    assert_eq!(listener.observe().unwrap().publishers.len(), 52);
    drop(others);
    assert_eq!(listener.observe().unwrap().publishers.len(), 50);
}

/// A payload whose fields are called as the methods and the private fields of a sample.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Namesakes {
    service: u8,
    sequence: u8,
    publisher: u8,
    origin: u8,
    held: u8,
}

#[test]
fn a_sample_hides_no_field_of_its_payload() {
    let hive = Hive::new();
    let node = hive.join("node");
    let mut subscriber = node.subscriber::<Namesakes>("names").unwrap();
    let mut publisher = node.publisher::<Namesakes>("names").unwrap();
    publisher.send(&Namesakes { service: 1, sequence: 2, publisher: 3, origin: 4, held: 5 }).unwrap();
    let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    let fields = [sample.service, sample.sequence, sample.publisher, sample.origin, sample.held];
    assert_eq!(fields, [1, 2, 3, 4, 5]);
    assert_eq!((sample.service().as_str(), sample.sequence()), ("names", 0));
}

// Once what belonged together was known by the thread, so a batch could not be filled by several.
#[test]
fn a_batch_is_filled_by_several_threads_and_concerns_nothing_else() {
    let hive = Hive::new();
    let camera = hive.join("camera");
    let _typed = camera.publisher::<Pose>("a").unwrap();
    let batch = camera.batch();
    let ends: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let batch = &batch;
                scope.spawn(move || batch.publisher::<Signal>(&format!("b/{thread}")).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // Not of the batch: refused at once.
    let refused = camera.service::<Signal, _>("a", |_| unreachable!("it was refused"));
    assert!(matches!(refused, Err(hivemind::PublisherError::Announce(_))));
    batch.finish().unwrap();
    assert_eq!(ends.len(), 4);
}

#[test]
fn memory_that_was_mapped_ahead_carries_messages_and_the_publisher_says_what_it_got() {
    const AHEAD: u64 = 3 << 20;
    const HUGE: u64 = 2 << 20;
    let hive = Hive::new();
    let camera = hive.join("camera");
    let plain = camera.publisher::<[u8]>("plain").unwrap();
    assert_eq!((plain.prefaulted(), plain.huge_pages()), (None, None));

    let mut frames =
        camera.publisher_builder::<[u8]>("frames").prefault(AHEAD).huge_pages().create().unwrap();
    // The slots come on top.
    assert!(frames.prefaulted().unwrap().bytes > AHEAD);
    let huge = frames.huge_pages().unwrap();
    assert_eq!(huge.asked, 2 * HUGE);
    assert!(huge.obtained <= huge.asked && huge.obtained.is_multiple_of(HUGE), "{huge:?}");
    let mut subscriber = hive.join("listener").subscriber::<[u8]>("frames").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    for byte in 0..10 {
        let mut loan = frames.loan(1 << 20).unwrap();
        loan.fill(byte);
        loan.send();
        let frame = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(frame.len() == 1 << 20 && frame.iter().all(|found| *found == byte));
    }
}

#[test]
fn a_type_too_large_to_be_described_is_an_error_that_says_what_to_do() {
    type Huge = [[u8; 1 << 16]; 1 << 16];
    let hive = Hive::new();
    let node = hive.join("both");
    let refused = [
        node.publisher::<Huge>("huge").unwrap_err().to_string(),
        node.subscriber::<Huge>("huge").unwrap_err().to_string(),
    ];
    for error in refused {
        assert!(error.contains("cannot be a message") && error.contains("split it"), "{error}");
    }
}

// The other backend, end to end: names instead of descriptors, and no name left behind after an orderly end.
#[cfg(feature = "named-segments")]
#[test]
fn messages_travel_through_named_segments_which_their_owners_remove() {
    let hive = Hive::new();
    let named = |name| {
        Node::builder(name).dir(hive.folder.path()).named_segments().patience(PATIENCE).join().unwrap()
    };
    let dir =
        hivemind_runtime::runtime_dir::RuntimeDir::at(hive.folder.path(), &hivemind::HiveName::default())
            .unwrap();
    let prefix = dir.segment_prefix();
    let names = || {
        let entries = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_string_lossy().contains(prefix.trim_end_matches('-'))).count()
    };
    let (camera, listener) = (named("camera"), named("listener"));
    let mut publisher = camera.publisher::<Pose>("sensors/pose").unwrap();
    let mut subscriber = listener.subscriber::<Pose>("sensors/*").unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    assert!(names() > 0, "the segments have names that begin with {prefix}");
    publisher.send(&pose(7)).unwrap();
    let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(sample.to_owned().unwrap(), pose(7));
    drop((sample, publisher, subscriber, camera, listener));
    assert_eq!(names(), 0, "their owners have removed them");
}

#[test]
fn many_messages_are_sent_and_received_at_once() {
    let hive = Hive::new();
    let node = hive.join("node");
    let mut publisher = node.publisher_builder::<u64>("counts").capacity(128).create().unwrap();
    let mut subscriber = node.subscriber::<u64>("counts").unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    let numbers: Vec<u64> = (0..100).collect();
    assert_eq!(publisher.send_many(&numbers).unwrap(), 100);
    assert_eq!(publisher.send_many(&[]).unwrap(), 0);
    let some: Vec<u64> = subscriber.drain().take(40).map(|sample| sample.unwrap().to_native()).collect();
    assert_eq!(some, numbers[..40]);
    // Each is a sample of its own, which may be kept while others are received.
    let rest: Vec<Sample<u64>> = subscriber.drain().map(Result::unwrap).collect();
    assert!(rest.iter().map(|sample| sample.to_native()).eq(40..100));
    assert!(rest.iter().map(Sample::sequence).eq(40..100));
    assert!(subscriber.drain().next().is_none());
    assert_eq!((subscriber.received(), subscriber.lost()), (100, 0));
}

#[test]
fn of_many_messages_a_reliable_service_takes_those_for_which_there_is_room() {
    let hive = Hive::new();
    let node = hive.join("node");
    let mut publisher = node.publisher_builder::<u64>("counts").capacity(64).reliable().create().unwrap();
    let mut subscriber = node.subscriber::<u64>("counts").unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    subscriber.wait_for_publishers(1, PATIENCE).unwrap();
    let numbers: Vec<u64> = (0..100).collect();
    assert_eq!(publisher.send_many(&numbers).unwrap(), 64);
    let error = publisher.send_many(&numbers[64..]).unwrap_err();
    assert!(matches!(error, SendError::Full { capacity: 64, .. }), "{error:?}");
    assert_eq!(subscriber.drain().take(10).filter_map(Result::ok).count(), 10);
    assert_eq!(publisher.send_many(&numbers[64..]).unwrap(), 10);
    assert_eq!(publisher.send_many(&numbers[74..]).ok(), None);
    let received: Vec<u64> = subscriber.drain().map(|sample| sample.unwrap().to_native()).collect();
    assert_eq!(received, numbers[10..74]);
}

// Some could be met in a field or an error, and not written in a signature of one's own.
#[test]
fn everything_that_the_surface_hands_out_has_a_name() {
    use hivemind::*;
    fn named<T: ?Sized>() {}
    // Errors, and what their variants hold.
    named::<(NodeError, JoinError, RuntimeDirError, WaitedFor, NameError, NameKind, NameRule)>();
    named::<(PublisherError, SubscriberError, AnnounceError, CreateError, SegmentError, FilterError)>();
    named::<(SendError, LoanError, RecvError, WaitError, Forked, Right, schema::SchemaError)>();
    named::<(BatchError, RunError, ServiceError, Leaving, SessionError, Refused, schema::DecodeError)>();
    // What a listing and a look at oneself show.
    named::<(Listing, NodeInfo, ServiceInfo, PublisherInfo, SubscriberInfo, ConnectionInfo)>();
    named::<(FormerInfo, RemoteInfo, KindInfo, Mismatch, Pattern)>();
    named::<(ConnectionStatus, Skipped, Origin, EndId, Handle, HugePages, Prefaulted, PrefaultedBy, Trust)>();
    named::<(Filter, HiveName, NodeName, ServiceName, schema::Schema)>();
    // Ends and their options.
    named::<(Node, NodeBuilder, StopHandle, Batch, DynamicSubscriber, DynamicSample, Loan<'_>)>();
    named::<(Publisher<u64>, PublisherBuilder<u64>, Subscriber<u64>, SubscriberBuilder<u64>)>();
    named::<(Service<u64>, Sample<u64>, Drain<'_, u64>)>();
}

#[test]
fn an_observer_that_publishes_or_subscribes_hears_what_to_change() {
    let hive = Hive::new();
    let _host = hive.join("host");
    let looker = Node::builder("looker").dir(hive.folder.path()).observer().join().unwrap();
    let batch = looker.batch();
    for error in [
        looker.publisher::<u64>("count").unwrap_err().to_string(),
        looker.subscriber::<u64>("count").unwrap_err().to_string(),
        batch.publisher::<u64>("count").unwrap_err().to_string(),
    ] {
        assert!(error.contains("join without `observer`"), "{error}");
    }
    batch.finish().unwrap();
    assert_eq!(looker.observe().unwrap().nodes.len(), 2);
}

#[test]
fn a_bound_is_named_as_the_option_that_broke_it() {
    let hive = Hive::new();
    let node = hive.join("node");
    let builder = || node.publisher_builder::<[u8]>("bytes");
    for (option, refused) in [
        ("capacity", builder().capacity(1 << 21).create()),
        ("max_message", builder().max_message(1 << 30).create()),
        ("max_memory", builder().max_memory(1 << 50).create()),
    ] {
        let text = refused.unwrap_err().to_string();
        assert!(text.starts_with(&format!("{option} is ")), "{text}");
    }
}
