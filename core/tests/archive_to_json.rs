//! Real archives of real types, read by their schema alone: what comes out is what serde_json says of the
//! value itself.

use hivemind_core::schema::{Describe, Schema};
use rkyv::Serialize;
use rkyv::api::high::HighSerializer;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

mod hivemind {
    pub(crate) use ::rkyv;
    pub(crate) use hivemind_core::schema;
}

use hivemind_derive::message;

fn json_of<T>(value: &T) -> String
where
    T: Describe + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
{
    let schema = Schema::of::<T>();
    assert_eq!(schema.archived_size(), size_of::<T::Archived>(), "size of {}", schema.type_name());
    assert_eq!(schema.archived_alignment(), align_of::<T::Archived>(), "alignment of {}", schema.type_name());
    let archive = rkyv::to_bytes::<Error>(value).unwrap();
    let mut json = String::new();
    schema.to_json(&archive, &mut json).unwrap();
    json
}

/// Checks the JSON of a value against what serde says of it.
fn check<T>(value: &T)
where
    T: Describe + serde::Serialize + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
{
    let json = json_of(value);
    let found: serde_json::Value =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    // Through text: `to_value` widens an f32, text keeps the digits it needs.
    let expected: serde_json::Value = serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap();
    assert_eq!(found, expected);
}

#[message(crate = crate::hivemind)]
#[derive(Debug, Clone, serde::Serialize)]
struct Pose {
    id: u64,
    x: f64,
    y: f32,
    frame: String,
}

#[message(crate = crate::hivemind)]
#[derive(Debug, Clone, serde::Serialize)]
enum Shape {
    Nothing,
    Circle { radius: f64, at: Pose },
    Line(u8, u64),
    Text(String),
}

#[message(crate = crate::hivemind)]
#[derive(Debug, Clone, serde::Serialize)]
struct Stamped<T> {
    at: u8,
    value: T,
}

#[message(crate = crate::hivemind)]
#[derive(Debug, Clone, serde::Serialize)]
struct Node {
    value: i32,
    next: Option<Box<Self>>,
    children: Vec<Node>,
}

fn pose(frame: &str) -> Pose {
    Pose { id: u64::MAX, x: 1.5e300, y: 0.1, frame: frame.to_owned() }
}

#[test]
fn a_struct_reads_as_its_fields() {
    for frame in
        ["", "a", "1234567", "12345678", "123456789", "ä€😀", "a \"quoted\"\n\\ text \u{1b} that is long"]
    {
        check(&pose(frame));
    }
    assert_eq!(json_of(&pose("map")), r#"{"id":18446744073709551615,"x":1.5e300,"y":0.1,"frame":"map"}"#);
}

#[test]
fn every_length_of_string_reads_back() {
    for length in 0..400 {
        check(&(length as u8, "x".repeat(length), 'ö'.to_string().repeat(length)));
    }
}

#[test]
fn enums_read_as_their_variants() {
    check(&Shape::Nothing);
    check(&Shape::Circle { radius: 2.5, at: pose("a frame that is out of line") });
    check(&Shape::Line(7, 1 << 60));
    check(&Shape::Text("short".to_owned()));
    check(&vec![Some(Shape::Nothing), None, Some(Shape::Line(1, 2))]);
}

#[test]
fn containers_nest() {
    check(&vec![Some(pose("a")), None, Some(pose("much longer than eight"))]);
    check(&Stamped { at: 3, value: Stamped { at: 4, value: vec![1u16, 2, 3] } });
    check(&[[1i16, -2], [3, i16::MIN]]);
    check(&(true, 'x', -1i8, (), (2u32,), Some(Some(5u64)), Box::new(7i64)));
    check(&vec![vec![String::new(), "abc".to_owned()], vec![]]);
    check(&(
        Box::<str>::from("boxed text"),
        Box::<[i32]>::from([1, 2, 3]),
        Box::<str>::from(""),
        Vec::<u32>::new(),
    ));
    check(&vec![(); 3]);
}

#[test]
fn recursive_types_read_as_trees() {
    let leaf = |value| Node { value, next: None, children: vec![] };
    let tree = Node {
        value: 1,
        next: Some(Box::new(leaf(2))),
        children: vec![leaf(3), Node { value: 4, next: None, children: vec![leaf(5)] }],
    };
    check(&tree);
}

#[test]
fn tree_maps_of_every_height_read_in_order() {
    for length in (0..60).chain([100, 215, 216, 1000, 2000]) {
        check(&(0..length).map(|key| (key.to_string(), key)).collect::<BTreeMap<String, u32>>());
        check(&(0..length).map(u64::from).collect::<BTreeSet<u64>>());
        let pairs: BTreeMap<u8, u128> = (0..length.min(256)).map(|key| (key as u8, 0)).collect();
        let expected: Vec<(u8, String)> = pairs.keys().map(|key| (*key, "0".to_owned())).collect();
        assert_eq!(json_of(&pairs), serde_json::to_string(&expected).unwrap());
    }
}

#[test]
fn hash_maps_read_in_some_order() {
    for length in (0..60).chain([100, 1000]) {
        check(&(0..length).map(|key| (key.to_string(), f64::from(key))).collect::<HashMap<String, f64>>());
        let set: HashSet<u32> = (0..length).collect();
        let mut found: Vec<u32> = serde_json::from_str(&json_of(&set)).unwrap();
        found.sort_unstable();
        assert_eq!(found, (0..length).collect::<Vec<_>>());
        let map: HashMap<u8, String> =
            (0..length.min(256)).map(|key| (key as u8, format!("value {key}"))).collect();
        let mut found: Vec<(u8, String)> = serde_json::from_str(&json_of(&map)).unwrap();
        found.sort_unstable();
        assert_eq!(found.len(), map.len());
        assert!(found.iter().all(|(key, value)| map[key] == *value));
    }
}

#[test]
fn what_json_has_no_number_for_is_a_string() {
    let wide = (u128::MAX, i128::MIN, [f32::NAN, f32::INFINITY, 0.5], Some(f64::NEG_INFINITY), '\u{10ffff}');
    let json = json_of(&wide);
    let expected = concat!(
        r#"["340282366920938463463374607431768211455","-170141183460469231731687303715884105728","#,
        r#"["NaN","inf",0.5],"-inf",""#,
        "\u{10ffff}\"]"
    );
    assert_eq!(json, expected);
}
