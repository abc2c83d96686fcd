//! `#[message]`: every shape of type, and what becomes of it.

// What the attribute writes must pass where a user forbids these.
#![forbid(unsafe_code)]
#![deny(warnings)]
#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hivemind::message;
use hivemind::rkyv;
use hivemind::rkyv::rancor::Error;
use hivemind::schema::{Describe, Schema};

#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Pose {
    pub id: u64,
    pub x: f64,
    pub y: f64,
    pub frame: String,
}

#[message]
#[derive(Debug, PartialEq)]
struct Stop;

#[message]
#[derive(Debug, PartialEq)]
struct Meters(f64);

#[message]
#[derive(Debug, PartialEq)]
struct Nothing {}

#[message]
#[derive(Debug, PartialEq)]
enum Command {
    Stop,
    Turn(f32),
    Drive { speed: Meters, to: Vec<Pose> },
    Wait(Duration, u8),
}

/// A message like any other: documentation and visibility stay.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stamped<T> {
    /// Nanoseconds.
    pub(crate) at: u64,
    pub(crate) value: T,
}

#[message]
#[derive(Debug, PartialEq)]
enum Either<L, R> {
    Left(L),
    Right { value: R },
    Neither,
}

#[message]
#[derive(Debug, PartialEq)]
struct Grid<const WIDTH: usize, const CELL: char> {
    rows: Vec<[u16; WIDTH]>,
}

#[message]
#[derive(Debug, PartialEq)]
struct Bounded<T: Clone, const N: usize>
where
    T: std::fmt::Debug,
{
    values: [T; N],
    map: BTreeMap<String, Option<T>>,
}

#[message]
#[derive(Debug, PartialEq)]
struct Tree {
    value: i32,
    children: Vec<Self>,
    next: Option<Box<Tree>>,
}

#[message]
#[derive(Debug, PartialEq)]
struct List<T> {
    value: T,
    next: Option<Box<List<T>>>,
}

#[message]
#[derive(Debug, PartialEq)]
enum Expression {
    Number(f64),
    Sum(Box<Expression>, Box<Expression>),
}

#[message]
#[derive(Debug, PartialEq)]
struct Folder {
    name: String,
    #[rkyv(omit_bounds)]
    entries: Vec<Entry>,
}

#[message]
#[derive(Debug, PartialEq)]
enum Entry {
    File(u64),
    #[allow(dead_code)]
    Folder(#[rkyv(omit_bounds)] Folder),
}

#[message]
#[derive(Debug, Clone, Copy, PartialEq)]
enum Level {
    Low = 3,
    Middle,
    High = 0x10,
    Highest,
}

#[message]
#[derive(Debug, PartialEq)]
struct r#Struct {
    r#type: u8,
    r#match: r#Enum,
}

#[message]
#[derive(Debug, PartialEq)]
enum r#Enum {
    r#Self_,
    r#Loop { r#in: u8 },
}

#[message]
#[derive(Debug, PartialEq)]
#[rkyv(derive(Debug, PartialEq), compare(PartialEq))]
struct Compared(u8);

/// Archives, reads back, and gives the JSON by the schema after a trip over the wire.
macro_rules! journey {
    ($type:ty, $value:expr) => {{
        let value: $type = $value;
        let archive = rkyv::to_bytes::<Error>(&value).unwrap();
        let archived = rkyv::access::<rkyv::Archived<$type>, Error>(&archive).unwrap();
        assert!(!format!("{archived:?}").is_empty());
        assert_eq!(rkyv::deserialize::<$type, Error>(archived).unwrap(), value);
        let schema = Schema::of::<$type>();
        assert_eq!(schema.archived_size(), size_of::<rkyv::Archived<$type>>());
        assert_eq!(schema.archived_alignment(), align_of::<rkyv::Archived<$type>>());
        let received = Schema::from_bytes(&schema.to_bytes()).unwrap();
        assert_eq!(received, schema);
        assert_eq!(received.fingerprint(), schema.fingerprint());
        let mut json = String::new();
        received.to_json(&archive, &mut json).unwrap();
        json
    }};
}

fn pose() -> Pose {
    Pose { id: 7, x: 0.5, y: -1.0, frame: "map".to_owned() }
}

#[test]
fn structs_of_every_shape_can_be_messages() {
    assert_eq!(journey!(Pose, pose()), r#"{"id":7,"x":0.5,"y":-1.0,"frame":"map"}"#);
    assert_eq!(journey!(Stop, Stop), "null");
    assert_eq!(journey!(Nothing, Nothing {}), "{}");
    assert_eq!(journey!(Meters, Meters(2.5)), "2.5");
}

#[test]
fn enums_of_every_shape_can_be_messages() {
    assert_eq!(journey!(Command, Command::Stop), r#""Stop""#);
    assert_eq!(journey!(Command, Command::Turn(0.1)), r#"{"Turn":0.1}"#);
    let drive = Command::Drive { speed: Meters(3.0), to: vec![] };
    assert_eq!(journey!(Command, drive), r#"{"Drive":{"speed":3.0,"to":[]}}"#);
    let wait = Command::Wait(Duration::from_millis(1500), 9);
    assert_eq!(journey!(Command, wait), r#"{"Wait":[{"secs":1,"nanos":500000000},9]}"#);
}

#[test]
fn variants_with_numbers_of_their_own_keep_them() {
    for (level, json) in [
        (Level::Low, "\"Low\""),
        (Level::Middle, "\"Middle\""),
        (Level::High, "\"High\""),
        (Level::Highest, "\"Highest\""),
    ] {
        assert_eq!(journey!(Level, level), json);
    }
    let text = Schema::of::<Level>().text();
    assert!(text.contains("{Low = 3, Middle = 4, High = 16, Highest = 17}"), "{text}");
}

#[test]
fn generic_types_can_be_messages_of_messages() {
    assert_eq!(
        journey!(Stamped<Vec<u32>>, Stamped { at: 1, value: vec![2, 3] }),
        r#"{"at":1,"value":[2,3]}"#
    );
    assert_eq!(journey!(Either<u8, String>, Either::Left(1)), r#"{"Left":1}"#);
    assert_eq!(
        journey!(Either<u8, String>, Either::Right { value: "r".to_owned() }),
        r#"{"Right":{"value":"r"}}"#
    );
    assert_eq!(journey!(Either<u8, String>, Either::Neither), r#""Neither""#);
    assert_eq!(journey!(Grid<2, 'a'>, Grid { rows: vec![[1, 2]] }), r#"{"rows":[[1,2]]}"#);
    let map = BTreeMap::from([("k".to_owned(), Some(5u8))]);
    assert_eq!(
        journey!(Bounded<u16, 1>, Bounded { values: [1], map: BTreeMap::new() }),
        r#"{"values":[1],"map":{}}"#
    );
    assert!(journey!(Bounded<u8, 3>, Bounded { values: [1, 2, 3], map }).ends_with(r#""map":{"k":5}}"#));
}

#[test]
fn the_name_of_a_generic_type_says_its_arguments() {
    assert_eq!(Schema::of::<Stamped<Pose>>().type_name(), "Stamped<Pose>");
    assert_eq!(Schema::of::<Grid<4, 'a'>>().type_name(), "Grid<4, U0061>");
    assert_eq!(Schema::of::<Vec<Option<Either<u8, Pose>>>>().type_name(), "Vec<Option<Either<u8, Pose>>>");
}

#[test]
fn types_that_contain_themselves_can_be_messages() {
    let leaf = |value| Tree { value, children: vec![], next: None };
    let tree = Tree { value: 1, children: vec![leaf(2)], next: Some(Box::new(leaf(3))) };
    let leaf_json = |value| format!(r#"{{"value":{value},"children":[],"next":null}}"#);
    assert_eq!(
        journey!(Tree, tree),
        format!(r#"{{"value":1,"children":[{}],"next":{}}}"#, leaf_json(2), leaf_json(3))
    );

    let list = List { value: 1u8, next: Some(Box::new(List { value: 2, next: None })) };
    assert_eq!(journey!(List<u8>, list), r#"{"value":1,"next":{"value":2,"next":null}}"#);

    let sum = Expression::Sum(Box::new(Expression::Number(1.0)), Box::new(Expression::Number(2.0)));
    assert_eq!(journey!(Expression, sum), r#"{"Sum":[{"Number":1.0},{"Number":2.0}]}"#);
}

#[test]
fn types_that_contain_each_other_can_be_messages() {
    let inner = Folder { name: "inner".to_owned(), entries: vec![Entry::File(5)] };
    let outer = Folder { name: "outer".to_owned(), entries: vec![Entry::Folder(inner)] };
    let json = r#"{"name":"outer","entries":[{"Folder":{"name":"inner","entries":[{"File":5}]}}]}"#;
    assert_eq!(journey!(Folder, outer), json);
}

#[test]
fn names_that_are_keywords_lose_their_prefix() {
    let json = journey!(r#Struct, r#Struct { r#type: 1, r#match: r#Enum::r#Loop { r#in: 2 } });
    assert_eq!(json, r#"{"type":1,"match":{"Loop":{"in":2}}}"#);
    assert_eq!(journey!(r#Enum, r#Enum::r#Self_), r#""Self_""#);
}

#[test]
fn attributes_of_rkyv_stay() {
    assert_eq!(journey!(Compared, Compared(4)), "4");
    let archive = rkyv::to_bytes::<Error>(&Compared(4)).unwrap();
    assert_eq!(*rkyv::access::<ArchivedCompared, Error>(&archive).unwrap(), Compared(4));
}

#[test]
fn the_archived_form_of_a_generic_message_has_debug() {
    let archive = rkyv::to_bytes::<Error>(&Stamped { at: 1, value: "text".to_owned() }).unwrap();
    let archived = rkyv::access::<ArchivedStamped<String>, Error>(&archive).unwrap();
    assert_eq!(format!("{archived:?}"), r#"ArchivedStamped { at: 1, value: "text" }"#);
}

mod elsewhere {
    use hivemind::message;

    /// The same as the one above, in another place, with other derives and other documentation.
    #[message]
    #[derive(Default)]
    pub(crate) struct Pose {
        id: u64,
        x: f64,
        y: f64,
        frame: String,
    }
}

#[test]
fn the_same_type_defined_twice_has_one_fingerprint() {
    assert_eq!(Schema::of::<Pose>().fingerprint(), Schema::of::<elsewhere::Pose>().fingerprint());
    assert_eq!(Schema::of::<Pose>().difference(&Schema::of::<elsewhere::Pose>()), None);
}

mod other {
    macro_rules! poses {
        ($($module:ident { $($item:item)* })*) => { $(
            pub(crate) mod $module {
                #![allow(dead_code)]
                use hivemind::message;
                $(#[message] $item)*
            }
        )* };
    }

    poses! {
        field_name { pub(crate) struct Pose { id: u64, x: f64, z: f64, frame: String } }
        field_type { pub(crate) struct Pose { id: u64, x: f64, y: f32, frame: String } }
        field_order { pub(crate) struct Pose { id: u64, y: f64, x: f64, frame: String } }
        field_more { pub(crate) struct Pose { id: u64, x: f64, y: f64, frame: String, z: f64 } }
        field_less { pub(crate) struct Pose { id: u64, x: f64, y: f64 } }
        type_name { pub(crate) struct Position { id: u64, x: f64, y: f64, frame: String } }
        kind { pub(crate) enum Pose { Id(u64) } }
        unnamed { pub(crate) struct Pose(u64, f64, f64, String); }
    }
}

#[test]
fn types_that_differ_in_one_thing_have_other_fingerprints_and_it_is_said_which() {
    fn differs<T: Describe>(expected: &str) -> u128 {
        let (here, there) = (Schema::of::<Pose>(), Schema::of::<T>());
        assert_eq!(here.difference(&there).as_deref(), Some(expected));
        there.fingerprint()
    }
    let mut fingerprints = vec![
        Schema::of::<Pose>().fingerprint(),
        differs::<other::field_name::Pose>("Pose.y is missing there"),
        differs::<other::field_type::Pose>("Pose.y: f64 here, f32 there"),
        differs::<other::field_order::Pose>("Pose: field 2 is x here, y there"),
        differs::<other::field_more::Pose>("Pose.z is missing here"),
        differs::<other::field_less::Pose>("Pose.frame is missing there"),
        differs::<other::type_name::Position>("Pose here, Position there"),
        differs::<other::kind::Pose>("a struct Pose here, an enum Pose there"),
        differs::<other::unnamed::Pose>("Pose has fields with names here, fields without names there"),
        differs::<Stamped<Pose>>("Pose here, Stamped<Pose> there"),
    ];
    let count = fingerprints.len();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), count);
}

#[test]
fn a_message_can_be_defined_in_a_function() {
    #[message]
    #[derive(Debug, PartialEq)]
    struct Local {
        counts: HashMap<u8, (u16, char)>,
    }
    assert_eq!(
        journey!(Local, Local { counts: HashMap::from([(1, (2, 'c'))]) }),
        r#"{"counts":[[1,[2,"c"]]]}"#
    );
}
