//! Writes the seeds of the corpus: `cargo run --example seeds` in `fuzz/`.
//!
//! Only the targets whose inputs have a form of their own need seeds; the others take steps that the fuzzer
//! makes up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::path::Path;

use hivemind_core::contract::{
    Asks, Author, Carried, Contract, Delivery, Former, Kind, Match, Pattern, Remote, Route, SubscriberRole,
};
use hivemind_core::link::frame::{FrameKind, HEADER, Header};
use hivemind_core::link::greeting::{Hello, Role};
use hivemind_core::name::{NodeName, ServiceName};
use hivemind_core::protocol::{
    Carrier, Connected, Cursor, Demand, EndId, Entry, Joining, Message, Offer, Refusal, ToNode, ToRoot,
    encode,
};
use hivemind_core::schema::Schema;
use hivemind_fuzz::join;
use hivemind_fuzz::messages::{Everything, Shape};
use rkyv::rancor;
use rkyv::util::AlignedVec;

fn main() -> Result<(), Box<dyn Error>> {
    let schemas = [
        Schema::of::<[u8]>(),
        Schema::of::<Everything>(),
        Schema::of::<BTreeMap<String, Vec<Option<(u8, f64)>>>>(),
        Schema::of::<HashMap<u32, BTreeSet<char>>>(),
    ];
    for (number, schema) in schemas.iter().enumerate() {
        write("schema", number, &schema.to_bytes())?;
    }

    let small = everything(0, None);
    let archives = [everything(3, Some(Box::new(small.clone()))), everything(70, None), small];
    for (number, message) in archives.iter().enumerate() {
        let archive = rkyv::to_bytes::<rancor::Error>(message)?;
        write("archive_to_json", 2 * number, &join(&[], &archive))?;
        write("archive_to_json", 2 * number + 1, &join(&schemas[1].to_bytes(), &archive))?;
    }
    let map: BTreeMap<String, Vec<Option<(u8, f64)>>> =
        (0..9u8).map(|key| (format!("a key of some length {key}"), vec![Some((key, 0.5)), None])).collect();
    let archive = rkyv::to_bytes::<rancor::Error>(&map)?;
    write("archive_to_json", 10, &join(&schemas[2].to_bytes(), &archive))?;
    let map: HashMap<u32, BTreeSet<char>> = (0..9).map(|key| (key, ('a'..'k').collect())).collect();
    let archive = rkyv::to_bytes::<rancor::Error>(&map)?;
    write("archive_to_json", 11, &join(&schemas[3].to_bytes(), &archive))?;

    control_packets(&schemas[1].to_bytes())?;

    let texts =
        ["sensors/*\nsensors/pose", "**\na/b/c", "bat-signal-?\nbat-signal-1", "[a-c]*/x\nb/x", "a/b", "lab"];
    for (number, text) in texts.iter().enumerate() {
        write("name_and_filter", number, text.as_bytes())?;
    }

    let policies = [
        "# who may do what\nallow user:alice publish sensors/*\nallow group:robots subscribe sensors/**\n",
        "allow anyone join\r\nallow user:1002 subscribe cam-[0-9] # all\r\n",
        "\n\tallow user:1002 publish **\nallow group:2000 publish a\n",
        "allow user:mallory join\n",
        "allow user:1002 publish a/[b\n",
        "deny user:65534 join\n",
    ];
    for (number, text) in policies.iter().enumerate() {
        write("policy", number, text.as_bytes())?;
    }
    link_frames()?;
    Ok(())
}

fn everything(count: i16, next: Option<Box<Everything>>) -> Everything {
    Everything {
        id: 7,
        name: "short".to_owned(),
        title: "a title that is longer than eight bytes".into(),
        flags: (true, 'ä', -1),
        wide: Some(u128::MAX),
        shapes: vec![
            Shape::Point,
            Shape::Circle { radius: 1.5, fill: Some('x') },
            Shape::Pair([1, -1], "text".to_owned()),
        ],
        samples: [0.1, f32::NAN].into(),
        by_name: (0..count).map(|key| (format!("key number {key}"), i32::from(key))).collect(),
        by_number: (0..count).map(|key| (key.unsigned_abs(), vec!["value".to_owned()])).collect(),
        set: (0..count).collect(),
        next,
    }
}

fn control_packets(schema: &[u8]) -> Result<(), Box<dyn Error>> {
    let end = EndId { node: 7, index: 1 };
    let kind = Kind { fingerprint: 9, schema: schema.to_vec() };
    let contract = Contract {
        delivery: Delivery::Reliable,
        history: 2,
        capacity: 64,
        retained: 3,
        ..Contract::default()
    };
    let camera: NodeName = "camera".parse()?;
    let service: ServiceName = "sensors/pose".parse()?;
    let former = Author::Former(Former { publisher: end, node_name: camera.clone() });
    let role = SubscriberRole::Member { group: "workers".parse()?, at_least_once: true };
    let asks = Asks { kind: Some(kind.clone()), pattern: Pattern::Jobs, role };
    let offer = Offer::new(1, "sensors/pose", kind.clone(), contract);
    let to_root = [
        ToRoot::Hello {
            name: "camera".to_owned(),
            node: 7,
            observer: false,
            external: false,
            rejoin: false,
            hosts_root: true,
            seen_epoch: 3,
            bells: Carrier::Descriptor,
        },
        ToRoot::Offer {
            request: 1,
            offer: Offer { born: 77, author: former.clone(), begins: true, ..offer },
        },
        ToRoot::Kept { publisher: end },
        ToRoot::Demand { request: 2, demand: Demand::new(2, "sensors/*", asks.clone()) },
        ToRoot::Connected { subscriber: 2, connections: vec![Connected { publisher: end, seat: 1 }; 3] },
        ToRoot::Attach {
            subscriber: 2,
            publisher: end,
            seat: 1,
            reader: Carrier::Named("reader".to_owned()),
        },
        ToRoot::AttachRefused { publisher: 1, subscriber: end, reason: "no memory".to_owned() },
        ToRoot::List { request: 3, after: Cursor::Services("sensors/pose".to_owned()) },
    ];
    for (number, message) in to_root.iter().enumerate() {
        packet(number, message)?;
    }
    let remote =
        Remote { host: "robot".to_owned(), leaf: false, publisher: end, node_name: "arm".parse()?, first: 9 };
    let route = Route { end, node_name: camera.clone(), author: Author::Remote(remote) };
    let matched = Match {
        service: service.clone(),
        route: route.clone(),
        kind: kind.clone(),
        contract: Contract { deadline_us: Some(1000), ..contract },
    };
    let carried = Carried {
        service: service.clone(),
        pattern: Pattern::Latest,
        kind: kind.clone(),
        holder: camera.clone(),
    };
    let to_node = [
        ToNode::Welcome { epoch: 3, pid: 1, dedicated: false },
        ToNode::Match { subscriber: 2, matched: Box::new(matched) },
        ToNode::Skipped { subscriber: 2, carried: Box::new(carried.clone()) },
        ToNode::Attach {
            publisher: 1,
            subscriber: end,
            node_name: "listener".parse()?,
            role: SubscriberRole::Onlooker,
            seat: 1,
            user: 1000,
            reader: Carrier::Descriptor,
            bells: Some(Carrier::Descriptor),
            from_first: true,
        },
        ToNode::Accepted { request: 1, joining: Joining::UnderWay },
        ToNode::Joined { publisher: 1, unanswered: true },
        ToNode::Refused { request: Some(1), refusal: Refusal::OtherType(Box::new(carried)) },
        ToNode::Page {
            request: 3,
            entries: vec![
                Entry::Service { service: service.clone(), pattern: Pattern::Messages, kind },
                Entry::Subscriber { end, filter: "**".to_owned(), asks },
                Entry::Publisher { route, service: service.clone(), contract, keepers: 2 },
                Entry::Publisher {
                    route: Route { end, node_name: camera, author: former },
                    service,
                    contract: contract.of_former(),
                    keepers: 1,
                },
            ],
            next: Some(Cursor::Connections(end, end)),
        },
    ];
    for (number, message) in to_node.iter().enumerate() {
        packet(to_root.len() + number, message)?;
    }
    Ok(())
}

/// A greeting, a sign of life and a part of a message.
fn link_frames() -> Result<(), Box<dyn Error>> {
    let hello = Hello { role: Role::Leaf, host: "robot".to_owned(), epoch: 7, capabilities: 0 }.encode();
    write("link_frame", 0, &hello[HEADER..])?;
    let ping = Header::control(FrameKind::Ping, 0, 0, 0).encode(&[]);
    let piece = Header::piece(1, 5, 0, 4, 9).encode(b"data");
    write("link_frame", 1, &[&hello[..], &ping, &piece, b"data"].concat())
}

fn packet<M: Message>(number: usize, message: &M) -> Result<(), Box<dyn Error>> {
    let mut packet = AlignedVec::new();
    encode(message, &mut packet)?;
    let descriptors = u8::try_from(message.descriptors())?;
    write("control_packet", number, &[&[descriptors], packet.as_slice()].concat())
}

fn write(target: &str, number: usize, seed: &[u8]) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
    Ok(())
}
