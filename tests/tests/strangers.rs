//! Programs that do not keep to the protocol, at the root's socket and as nodes: they are refused or cut off, in words where words
//! can reach them, and nobody else notices.

use hivemind::schema::Schema;
use hivemind::{Node, RecvError, Subscriber};
use hivemind_core::contract::{self, Asks, Contract};
use hivemind_core::protocol::{Carrier, Demand, EndId, Joining, MAX_PACKET, Offer, Refusal, ToNode, ToRoot};
use hivemind_ring::mapped::Bells;
use hivemind_ring::segment::{Anonymous, Handle};
use hivemind_runtime::identity::new_node_epoch;
use hivemind_tests::entry::scatter;
use hivemind_tests::forgery::{Forgery, reader_word, ring_word};
use hivemind_tests::hive::{Actor, Hive, reliable};
use hivemind_tests::order::Kind;
use hivemind_tests::wire::{FakeRoot, Stranger, hello, packet};
use hivemind_tests::{BOUND, until};
use nix::fcntl::SealFlag;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// Two processes that talk to each other throughout.
struct Bystanders {
    speaker: Actor,
    listener: Actor,
}

impl Bystanders {
    fn start(hive: &Hive) -> Bystanders {
        let speaker = hive.actor("speaker");
        speaker.publish(reliable("quiet/talk", Kind::Typed)).stream(Some(100), 100);
        let listener = hive.actor("listener");
        let subscriber = listener.subscribe("quiet/talk", Kind::Typed);
        subscriber.collect();
        subscriber.await_tally(10, 0);
        Bystanders { speaker, listener }
    }

    /// They have not noticed anything, and newcomers are let in.
    #[track_caller]
    fn assert_undisturbed(&self, hive: &Hive) {
        let subscriber = self.listener.subscribers(0);
        let before = subscriber.tally().messages();
        let tally = subscriber.await_tally(before + 100, 0);
        tally.assert_sound();
        assert_eq!((tally.lost(), tally.connections.len()), (0, 1), "{tally:#?}");
        assert_eq!(self.speaker.root(), self.listener.root(), "the root is the same");
        let newcomer = hive.node("newcomer").join().unwrap();
        let late = newcomer.subscriber_dynamic("quiet/*").unwrap();
        late.wait_for_publishers(1, BOUND).unwrap();
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn bells() -> OwnedFd {
    match Bells::create(&Anonymous).unwrap().handle().unwrap() {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(_) => panic!("a name"),
    }
}

#[test]
fn what_is_no_message_is_refused_and_the_connection_closed() {
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    let good = packet(&hello("stranger", 7));
    let mut other_version = good.to_vec();
    other_version[4..8].copy_from_slice(&9u32.to_le_bytes());
    let mut other_protocol = good.to_vec();
    other_protocol[0] ^= 1;
    let mut damaged = good.to_vec();
    damaged[16..].fill(0xFF);
    let descriptor = null();
    let one = [descriptor.as_fd()];
    let many = [descriptor.as_fd(); 40];
    let too_long = vec![0x48; MAX_PACKET + 1];
    let noise: Vec<u8> = (0..500).flat_map(|word| scatter(word).to_le_bytes()).collect();
    let cases: Vec<(&str, &[u8], &[_])> = vec![
        ("one byte", &[0], &[]),
        ("noise", &noise, &[]),
        ("noise with descriptors", &noise, &many[..8]),
        ("another protocol", &other_protocol, &one),
        ("a damaged archive", &damaged, &one),
        ("cut short", &good[..good.len() - 1], &one),
        ("only the head", &good[..16], &[]),
        ("a descriptor too few", &good, &[]),
        ("descriptors too many", &good, &many[..2]),
        ("more descriptors than any message has", &good, &many),
        ("longer than any packet", &too_long, &[]),
    ];
    for (what, bytes, descriptors) in cases {
        let stranger = Stranger::connect(hive.folder());
        stranger.send(bytes, descriptors).unwrap();
        let said = stranger.hear_out();
        let [ToNode::Refused { request: None, refusal: Refusal::Malformed { why } }] = &said[..] else {
            panic!("{what}: {said:?}")
        };
        println!("{what}: {why}");
    }
    let stranger = Stranger::connect(hive.folder());
    stranger.send(&other_version, &one).unwrap();
    let said = stranger.hear_out();
    assert!(matches!(&said[..], [ToNode::Refused { refusal: Refusal::Version { .. }, .. }]), "{said:?}");
    // A packet of no bytes is the same as hanging up.
    let stranger = Stranger::connect(hive.folder());
    stranger.send(&[], &[]).unwrap();
    assert_eq!(stranger.hear_out(), []);
    bystanders.assert_undisturbed(&hive);
}

#[test]
fn messages_at_the_wrong_time_or_with_impossible_contents_are_refused() {
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    let bells = bells();
    // Before it has said who it is.
    for message in [ToRoot::Leave, ToRoot::Withdraw { index: 0 }, withdrawn_offer("a", 0)] {
        let stranger = Stranger::connect(hive.folder());
        stranger.send(&packet(&message), &[]).unwrap();
        let said = stranger.hear_out();
        assert!(matches!(said[..], [] | [ToNode::Refused { request: None, .. }]), "{message:?}: {said:?}");
    }
    // Names and epochs that no node has.
    for (name, epoch) in [("", 7), ("a/b", 7), (&*"x".repeat(60_000), 7), ("stranger", 0)] {
        let stranger = Stranger::connect(hive.folder());
        stranger.send(&packet(&hello(name, epoch)), &[bells.as_fd()]).unwrap();
        let said = stranger.hear_out();
        assert!(matches!(said[..], [ToNode::Refused { request: None, .. }]), "{said:?}");
    }
    // The life of somebody else.
    let listing = hive.node("watcher").observer().join().unwrap().observe().unwrap();
    let speaker = listing.nodes.iter().find(|node| node.name == "speaker").unwrap().node;
    let stranger = Stranger::connect(hive.folder());
    stranger.send(&packet(&hello("stranger", speaker)), &[bells.as_fd()]).unwrap();
    let said = stranger.hear_out();
    // Before Linux 6.9 the root cannot tell whose it is, only that somebody has it.
    let [ToNode::Refused { refusal: Refusal::EpochOfAnother { .. } | Refusal::EpochTaken, .. }] = said[..]
    else {
        panic!("{said:?}")
    };

    // As a node: it talks about what does not exist.
    let nobody = EndId { node: 1, index: 1 };
    let no_schema = contract::Kind { schema: vec![0xFF; 100], ..offer("noise", 1).kind };
    for message in [
        hello("again", 8),
        withdrawn_offer("no name", 1),
        withdrawn_offer("a//b", 1),
        ToRoot::Offer { request: 1, offer: Offer { kind: no_schema, ..offer("noise", 1) } },
        ToRoot::Demand { request: 1, demand: Demand { filter: "[".to_owned(), ..demand("x", 1) } },
        ToRoot::Attached {
            publisher: 9,
            subscriber: nobody,
            start: u64::MAX,
            ring: Carrier::Descriptor,
            bells: None,
        },
        ToRoot::Attach { subscriber: 9, publisher: nobody, seat: u32::MAX, reader: Carrier::Descriptor },
        ToRoot::AttachRefused { publisher: 9, subscriber: nobody, reason: "no".repeat(400) },
        ToRoot::Declined { subscriber: 9, publisher: nobody },
        ToRoot::Detached { subscriber: 9, publisher: nobody },
        ToRoot::Rematch { subscriber: 9 },
        ToRoot::Inspect { request: 1, end: nobody },
        ToRoot::Inspected { inquiry: u64::MAX, segment: None },
        ToRoot::Withdraw { index: u32::MAX },
    ] {
        let stranger = Stranger::join(hive.folder(), "stranger", new_node_epoch(), bells.as_fd());
        let with_descriptor = match message {
            ToRoot::Hello { .. } | ToRoot::Attached { .. } | ToRoot::Attach { .. } => vec![bells.as_fd()],
            _ => vec![],
        };
        stranger.send(&packet(&message), &with_descriptor).unwrap();
        // It may stay or be cut off, but it may not hang: leaving ends it either way.
        let _ = stranger.send(&packet(&ToRoot::Leave), &[]);
        let said = stranger.hear_out();
        println!("{message:?}: {said:?}");
    }
    bystanders.assert_undisturbed(&hive);
}

fn offer(service: &str, index: u32) -> Offer {
    let kind = contract::Kind::of(&Schema::of::<u64>());
    Offer::new(index, service, kind, Contract { capacity: 16, ..Contract::default() })
}

fn withdrawn_offer(service: &str, index: u32) -> ToRoot {
    ToRoot::Offer { request: u64::from(index), offer: offer(service, index) }
}

fn demand(filter: &str, index: u32) -> Demand {
    let kind = Some(contract::Kind::of(&Schema::of::<u64>()));
    Demand::new(index, filter, Asks { kind, ..Asks::default() })
}

/// A program that is no root sits at the root's place. Nodes that join are told what is wrong within their patience, and once it has
/// gone the next node is the root.
#[test]
fn a_root_that_is_none_is_named_within_the_patience() {
    let hive = Hive::new(ACTOR);
    let patience = Duration::from_millis(200);
    let mut other_version = packet(&ToNode::Welcome { epoch: 1, pid: 1, dedicated: true }).to_vec();
    other_version[4..8].copy_from_slice(&9u32.to_le_bytes());
    let welcome = packet(&ToNode::Welcome { epoch: 1, pid: 1, dedicated: true }).to_vec();
    let impossible = packet(&ToNode::Welcome { epoch: u64::MAX, pid: 1, dedicated: true }).to_vec();
    let early = packet(&ToNode::Accepted { request: 1, joining: Joining::Done }).to_vec();
    let refused = ToNode::Refused { request: None, refusal: Refusal::Version { root: 9 } };
    let noise: Vec<u8> = (0..500).flat_map(|word| scatter(word).to_le_bytes()).collect();
    let cases = [
        ("another version", vec![other_version], false, "version 9"),
        ("a refusal for the version", vec![packet(&refused).to_vec()], false, "version 9"),
        ("nothing, and it closes", vec![], false, "no root"),
        ("nothing, for ever", vec![], true, "does not answer"),
        ("noise", vec![noise], false, "no root"),
        ("a packet too long", vec![vec![0; MAX_PACKET + 1]], false, "no root"),
        ("an epoch of no root", vec![impossible], false, "no root"),
        ("an answer to no question", vec![early], false, "no root"),
    ];
    for (what, answers, mute, says) in cases {
        let fake = FakeRoot::listen(hive.folder(), answers, mute);
        for embedded in [false, true] {
            let builder = hive.node("visitor").patience(patience);
            let begun = Instant::now();
            let error =
                if embedded { builder } else { builder.external_root() }.join().unwrap_err().to_string();
            println!("{what}: {error} ({:?})", begun.elapsed());
            assert!(error.contains(says), "{what}: {error}");
            assert!(begun.elapsed() < BOUND / 2, "{what}: far beyond the patience");
        }
        assert!(fake.end() >= 2, "it was visited");
        let node = hive.node("visitor").join().unwrap();
        assert!(node.hosts_root(), "{what}");
    }
    // It is let in and then hears nothing: what it asks for is not answered, and it says so in time.
    let fake = FakeRoot::listen(hive.folder(), vec![welcome], true);
    let node = hive.node("visitor").external_root().patience(patience).join().unwrap();
    let error = node.publisher::<u64>("numbers").unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    let error = node.observe().unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    node.leave();
    fake.end();
}

/// Mute connections, and one that sends without ever reading what it is answered.
#[test]
fn who_says_nothing_or_never_listens_holds_up_nobody() {
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    let mute: Vec<_> = (0..100).map(|_| Stranger::connect(hive.folder())).collect();
    let bells = bells();
    let deaf = Stranger::join(hive.folder(), "deaf", new_node_epoch(), bells.as_fd());
    let list = packet(&ToRoot::List { request: 1, after: hivemind_core::protocol::Cursor::Nodes(0) });
    // Bounded by what the root lets wait for one who does not read: it cuts this one off.
    let mut sent = 0u64;
    let cut_off = until("the deaf one is cut off", || {
        (0..10_000).find_map(|_| match deaf.send(&list, &[]) {
            Ok(()) => {
                sent += 1;
                None
            }
            Err(error) => Some(error),
        })
    });
    println!("cut off after {sent} questions: {cut_off}");
    bystanders.assert_undisturbed(&hive);
    drop(mute);
}

/// Somebody asks the root to make way for a dedicated one, and then is none: the nodes find another root among themselves.
#[test]
fn a_root_that_makes_way_for_nobody_is_succeeded() {
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    for _ in 0..3 {
        let (_, epoch) = bystanders.listener.root();
        let stranger = Stranger::connect(hive.folder());
        stranger.send(&packet(&ToRoot::HandOver), &[]).unwrap();
        assert_eq!(stranger.hear_out(), [ToNode::HandedOver]);
        until("all obey a new root", || {
            let (listener, speaker) = (bystanders.listener.root(), bystanders.speaker.root());
            (listener.1 > epoch && listener == speaker && listener.0.is_some()).then_some(())
        });
        bystanders.assert_undisturbed(&hive);
    }
}

/// A node that is no such thing answers for a publisher with memory of its own making. The subscriber says what is wrong with it,
/// and receives from the others.
#[test]
fn a_ring_that_is_corrupt_truncated_or_of_another_version_is_refused_and_said() {
    use ring_word::*;
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    let honest = hive.node("honest").join().unwrap();
    let mut publisher = honest.publisher_builder::<u64>("numbers").capacity(16).create().unwrap();
    for number in 0..3 {
        publisher.send(&number).unwrap();
    }
    let genuine = Forgery::copy(&honest.inspect(publisher.id()).unwrap(), 1 << 20).word(CHUNKS_LENGTH, 8192);
    let listener = hive.node("listener-of-lies").join().unwrap();
    let mut subscriber = listener.subscriber::<u64>("numbers").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();

    let lies: Vec<(&str, &str, Lie)> = vec![
        ("no memory", "no memfd", Box::new(|_| null())),
        ("zeros", "no ring segment", Box::new(|_| Forgery::zeros(1 << 20).make())),
        ("no byte", "0 bytes", Box::new(|ring| ring.cut(0).make())),
        ("half a page", "2048 bytes", Box::new(|ring| ring.cut(2048).make())),
        ("one page", "chunks_length", Box::new(|ring| ring.cut(4096).make())),
        ("may be cut short", "seal SHRINK", Box::new(|ring| ring.without(SealFlag::F_SEAL_SHRINK).make())),
        ("may be written", "seal FUTURE_WRITE", Box::new(|ring| ring.without(SealFlag::F_SEAL_WRITE).make())),
        ("magic", "no ring segment", Box::new(|ring| ring.word(MAGIC, 0x0102_0304_0506_0708).make())),
        ("version", "layout version 99", Box::new(|ring| ring.word(VERSION, 99).make())),
        ("node", "node 0x63", Box::new(|ring| ring.word(NODE, 99).make())),
        ("index", "end 99", Box::new(|ring| ring.word(INDEX, 99).make())),
        ("type", "type 0x", Box::new(|ring| ring.word(FINGERPRINT_LOW, 99).make())),
        ("capacity 0", "capacity = 0", Box::new(|ring| ring.word(CAPACITY, 0).make())),
        ("capacity 3", "capacity = 3", Box::new(|ring| ring.word(CAPACITY, 3).make())),
        ("capacity 2^40", "capacity = 1099511627776", Box::new(|ring| ring.word(CAPACITY, 1 << 40).make())),
        ("slots elsewhere", "slots_offset", Box::new(|ring| ring.word(SLOTS_OFFSET, 1 << 50).make())),
        ("chunks elsewhere", "chunks_offset", Box::new(|ring| ring.word(CHUNKS_OFFSET, 64).make())),
        ("chunks without end", "chunks_length", Box::new(|ring| ring.word(CHUNKS_LENGTH, u64::MAX).make())),
        ("messages of any size", "message_max", Box::new(|ring| ring.word(MESSAGE_MAX, u64::MAX).make())),
        ("unknown flags", "mode", Box::new(|ring| ring.word(MODE, 0xF0).make())),
        ("more history than slots", "history", Box::new(|ring| ring.word(HISTORY, 16).make())),
        ("a bell that no node has", "bell", Box::new(|ring| ring.word(BELL, 1 << 40).make())),
    ];
    for (what, why, lie) in lies {
        let liar = Liar::join(&hive);
        let ring = lie(liar.own(&genuine));
        let _stranger = liar.answer_for_publisher(&ring);
        let error = await_error(&mut subscriber);
        let RecvError::NotAttached { service, publisher, reason } = &error else { panic!("{what}: {error}") };
        assert_eq!(
            (service.as_str(), *publisher),
            ("numbers", EndId { node: liar.node, index: 0 }),
            "{what}"
        );
        assert!(reason.contains(why), "{what}: {reason}");
    }

    // The copy itself, whole, would have been accepted: what it says is read.
    let liar = Liar::join(&hive);
    let ring = liar.own(&genuine).make();
    let _stranger = liar.answer_for_publisher(&ring);
    for number in 0..3 {
        assert_eq!(*subscriber.recv_timeout(BOUND).unwrap().unwrap(), number);
    }

    // It was none of the honest one's business.
    publisher.send(&42).unwrap();
    let sample = subscriber.recv_timeout(BOUND).unwrap().unwrap();
    assert_eq!((u64::from(*sample), sample.origin().node.as_str()), (42, "honest"));
    bystanders.assert_undisturbed(&hive);
}

/// The header is right, and what lies in the slots is not: never undefined, never a hang, and mostly an error in words.
#[test]
fn slots_that_lie_cut_off_their_publisher_only() {
    use ring_word::*;
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    let honest = hive.node("honest").join().unwrap();
    let mut publisher = honest.publisher_builder::<u64>("numbers").capacity(16).create().unwrap();
    let genuine = Forgery::copy(&honest.inspect(publisher.id()).unwrap(), 1 << 20).word(CHUNKS_LENGTH, 8192);
    let listener = hive.node("listener-of-lies").join().unwrap();
    let mut subscriber = listener.subscriber::<u64>("numbers").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();

    const CHUNK: u64 = 0xF0;
    let stamp = |sequence: u64, kind: u64| (sequence + 1) << 8 | kind;
    let told: [(&str, u64, u64, u64); 8] = [
        ("a message shorter than its type", stamp(0, 3), 0, 0),
        ("of an unknown kind", stamp(0, 0x80), 0, 0),
        ("longer than a slot", stamp(0, 57), 0, 0),
        ("a chunk outside", stamp(0, CHUNK), 1 << 40, 64),
        ("a chunk that ends outside", stamp(0, CHUNK), 8128, 65),
        ("a chunk around the end of all numbers", stamp(0, CHUNK), u64::MAX - 3, 64),
        ("a chunk without end", stamp(0, CHUNK), 0, u64::MAX),
        ("a chunk that is no archive", stamp(0, CHUNK), 0, 1),
    ];
    for (what, stamp, offset, length) in told {
        let liar = Liar::join(&hive);
        let ring =
            liar.own(&genuine).word(STAMP, stamp).word(SLOT, offset).word(SLOT + 1, length).word(HEAD, 1);
        let _stranger = liar.answer_for_publisher(&ring.make());
        let error = await_error(&mut subscriber);
        assert!(matches!(error, RecvError::Detached { .. }), "{what}: {error:?}");
        println!("{what}: {error}");
    }

    // Numbers from a future that will never be, and heads that jump: whatever the subscriber makes of them, it goes on.
    let strange: [(&str, u64, u64); 5] = [
        ("from the far future", stamp(1 << 54, 8), 1 << 54),
        ("beyond the last number", u64::MAX, u64::MAX),
        ("being written for ever", stamp(0, 0xFF), 1),
        ("withdrawn for ever", stamp(0, 0xFE), 1),
        ("a head without messages", 0, 1 << 60),
    ];
    for (what, stamp, head) in strange {
        let liar = Liar::join(&hive);
        let before = subscriber.publishers();
        let _stranger =
            liar.answer_for_publisher(&liar.own(&genuine).word(STAMP, stamp).word(HEAD, head).make());
        until("it is attached, or refused", || {
            let outcome = subscriber.try_recv();
            (outcome.is_err() || subscriber.publishers() > before).then_some(())
        });
        publisher.send(&7).unwrap();
        let mut others = 0;
        let found = until("the honest message", || match subscriber.try_recv() {
            Ok(Some(sample)) if sample.origin().node.as_str() == "honest" => Some(u64::from(*sample)),
            Ok(Some(_)) => {
                others += 1;
                None
            }
            Ok(None) => None,
            Err(error) => {
                println!("{what}: {error}");
                None
            }
        });
        assert_eq!(found, 7);
        println!("{what}: {others} messages of the liar, lost {}", subscriber.lost());
    }
    bystanders.assert_undisturbed(&hive);
}

/// The other way round: who subscribes with memory that is no reader segment is refused by the publisher's node.
#[test]
fn a_reader_segment_that_is_corrupt_is_refused_and_the_publisher_goes_on() {
    use reader_word::*;
    let hive = Hive::new(ACTOR);
    let bystanders = Bystanders::start(&hive);
    let honest = hive.node("honest").join().unwrap();
    let mut publisher = honest.publisher::<u64>("numbers").unwrap();
    let mut subscriber = honest.subscriber::<u64>("numbers").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    let end = honest.observe().unwrap().subscribers.iter().find(|end| end.filter == "numbers").unwrap().end;
    // The seat that it sits on is a matter of its index; here it is the first, taken once and read.
    let first_seat_read = 1 << 2 | 2;
    let genuine =
        Forgery::copy(&honest.inspect(end).unwrap(), 8192).word(SEATS, 8).word(STATE, first_seat_read);

    let lies: Vec<(&str, &str, u32, Lie)> = vec![
        ("no memory", "no memfd", 0, Box::new(|_| null())),
        ("zeros", "no reader segment", 0, Box::new(|_| Forgery::zeros(8192).make())),
        ("half a page", "2048 bytes", 0, Box::new(|reader| reader.cut(2048).make())),
        (
            "may be cut short",
            "seal SHRINK",
            0,
            Box::new(|reader| reader.without(SealFlag::F_SEAL_SHRINK).make()),
        ),
        (
            "may be written",
            "seal FUTURE_WRITE",
            0,
            Box::new(|reader| reader.without(SealFlag::F_SEAL_WRITE).make()),
        ),
        ("magic", "no reader segment", 0, Box::new(|reader| reader.word(MAGIC, 1).make())),
        ("version", "layout version 99", 0, Box::new(|reader| reader.word(VERSION, 99).make())),
        ("node", "node = 99", 0, Box::new(|reader| reader.word(NODE, 99).make())),
        ("index", "index = 99", 0, Box::new(|reader| reader.word(INDEX, 99).make())),
        ("no seat", "seats = 0", 0, Box::new(|reader| reader.word(SEATS, 0).make())),
        ("seats without end", "seats", 0, Box::new(|reader| reader.word(SEATS, 1 << 60).make())),
        ("a bell that no node has", "bell", 0, Box::new(|reader| reader.word(BELL, 1 << 40).make())),
        ("a seat that is not there", "seat 8", 8, Box::new(|reader| reader.make())),
        ("a seat far away", "seat 4294967295", u32::MAX, Box::new(|reader| reader.make())),
        ("a seat that is not taken", "has not taken", 0, Box::new(|reader| reader.word(STATE, 0).make())),
    ];
    for (what, why, seat, lie) in lies {
        let liar = Liar::join(&hive);
        let reader = lie(genuine.clone().word(NODE, liar.node).word(INDEX, 0));
        let answer = liar.subscribe(seat, &reader);
        let ToNode::AttachRefused { reason, .. } = &answer else { panic!("{what}: {answer:?}") };
        assert!(reason.contains(why), "{what}: {reason}");
    }
    let liar = Liar { bells: null(), ..Liar::join(&hive) };
    let answer = liar.subscribe_with_bells(0, &genuine.clone().word(NODE, liar.node).word(INDEX, 0).make());
    assert!(matches!(answer, ToNode::AttachRefused { .. }), "false bells: {answer:?}");
    // The copy itself, whole, would have been let in.
    let liar = Liar::join(&hive);
    let answer = liar.subscribe(0, &genuine.clone().word(NODE, liar.node).word(INDEX, 0).make());
    assert!(matches!(answer, ToNode::Attached { .. }), "{answer:?}");

    for number in 0..10 {
        publisher.send(&number).unwrap();
        assert_eq!(*subscriber.recv_timeout(BOUND).unwrap().unwrap(), number);
    }
    bystanders.assert_undisturbed(&hive);
}

fn await_error(subscriber: &mut Subscriber<u64>) -> RecvError {
    until("the subscriber says what is wrong", || subscriber.try_recv().err())
}

/// What becomes of a genuine segment.
type Lie = Box<dyn Fn(Forgery) -> OwnedFd>;

/// A node that speaks the protocol, and lies about its memory.
struct Liar {
    stranger: Stranger,
    folder: std::path::PathBuf,
    node: u64,
    bells: OwnedFd,
}

impl Liar {
    fn join(hive: &Hive) -> Liar {
        let (node, bells) = (new_node_epoch(), bells());
        let stranger = Stranger::join(hive.folder(), &format!("liar-{node:x}"), node, bells.as_fd());
        Liar { stranger, folder: hive.folder().to_owned(), node, bells }
    }

    /// A copy of a genuine ring with this node's name on it.
    fn own(&self, genuine: &Forgery) -> Forgery {
        genuine.clone().word(ring_word::NODE, self.node).word(ring_word::INDEX, 0)
    }

    /// Offers `numbers`, and answers the first who wants it with this ring. The liar lives as long as it is borrowed.
    fn answer_for_publisher(&self, ring: &OwnedFd) -> &Stranger {
        self.stranger.send(&packet(&withdrawn_offer("numbers", 0)), &[]).unwrap();
        let subscriber = self.stranger.hear_until(|said| match said {
            ToNode::Attach { subscriber, .. } => Some(*subscriber),
            _ => None,
        });
        let (carrier, bells) = (Carrier::Descriptor, None);
        let attached = ToRoot::Attached { publisher: 0, subscriber, start: 0, ring: carrier, bells };
        self.stranger.send(&packet(&attached), &[ring.as_fd()]).unwrap();
        &self.stranger
    }

    /// Subscribes to `numbers` and takes a seat with this reader segment. Returns the answer.
    fn subscribe(&self, seat: u32, reader: &OwnedFd) -> ToNode {
        demand_and_attach(&self.stranger, seat, reader)
    }

    /// As above, as a node whose doorbells are none.
    fn subscribe_with_bells(&self, seat: u32, reader: &OwnedFd) -> ToNode {
        // Another connection, since the bells are named in the first message.
        let stranger = Stranger::join(&self.folder, "liar-without-bells", self.node ^ 1, self.bells.as_fd());
        demand_and_attach(&stranger, seat, reader)
    }
}

fn demand_and_attach(stranger: &Stranger, seat: u32, reader: &OwnedFd) -> ToNode {
    stranger.send(&packet(&ToRoot::Demand { request: 0, demand: demand("numbers", 0) }), &[]).unwrap();
    let publisher = stranger.hear_until(|said| match said {
        ToNode::Match { matched, .. } => Some(matched.route.end),
        _ => None,
    });
    let attach = ToRoot::Attach { subscriber: 0, publisher, seat, reader: Carrier::Descriptor };
    stranger.send(&packet(&attach), &[reader.as_fd()]).unwrap();
    stranger.hear_until(|said| {
        matches!(said, ToNode::Attached { .. } | ToNode::AttachRefused { .. }).then(|| said.clone())
    })
}

#[test]
fn a_node_in_the_same_process_is_no_stranger() {
    // The helper speaks the protocol as it should: otherwise the tests above would show nothing.
    let hive = Hive::new(ACTOR);
    let node: Node = hive.node("honest").join().unwrap();
    let bells = bells();
    let stranger = Stranger::join(hive.folder(), "stranger", new_node_epoch(), bells.as_fd());
    assert_eq!(node.observe().unwrap().nodes.len(), 2);
    stranger.send(&packet(&ToRoot::Leave), &[]).unwrap();
    assert_eq!(stranger.hear_out(), []);
    until("it has left", || (node.observe().unwrap().nodes.len() == 1).then_some(()));
}
