//! Schemas and archives from strangers: whatever the bytes say, reading them ends, with a result and not with
//! a panic.
//!
//! proptest prints the case it failed on, and keeps its seed in `schema_strangers.proptest-regressions`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hivemind_core::schema::{
    Argument, Describe, EnumDef, Field, Fields, JsonBounds, Primitive, Schema, StructDef, TypeDef, TypeRef,
    Variant,
};
use hivemind_derive::message;
use proptest::collection::{btree_map, hash_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;

mod hivemind {
    pub(crate) use ::rkyv;
    pub(crate) use hivemind_core::schema;
}

/// Small enough that a case takes little time, and that each of them is reached.
const BOUNDS: JsonBounds = JsonBounds { depth: 40, bytes: 20_000, steps: 20_000 };

/// A message with one of everything.
#[message(crate = crate::hivemind)]
#[derive(Debug, Clone, serde::Serialize)]
struct Everything {
    id: u64,
    name: String,
    title: Box<str>,
    flags: (bool, char, i8),
    wide: Option<u16>,
    shapes: Vec<Shape>,
    samples: Box<[f32]>,
    by_name: BTreeMap<String, i32>,
    by_number: HashMap<String, Vec<String>>,
    set: BTreeSet<i16>,
    next: Option<Box<Everything>>,
}

#[message(crate = crate::hivemind)]
#[derive(Debug, Clone, serde::Serialize)]
enum Shape {
    Point,
    Circle { radius: f64, fill: Option<char> },
    Pair([i64; 2], String),
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        (-1e9f64..1e9, any::<Option<char>>()).prop_map(|(radius, fill)| Shape::Circle { radius, fill }),
        (any::<[i64; 2]>(), ".{0,12}").prop_map(|(pair, text)| Shape::Pair(pair, text)),
    ]
}

/// A float of few digits. Of longer ones there may be two shortest texts, and serde_json may choose the other
/// one.
fn half() -> impl Strategy<Value = f32> {
    (-1_000_000i32..1_000_000).prop_map(|number| number as f32 / 2.0)
}

fn everything() -> impl Strategy<Value = Everything> {
    let words = (any::<u64>(), ".{0,20}", ".{0,20}", any::<(bool, char, i8)>(), any::<Option<u16>>());
    let lists = (vec(shape(), 0..5), vec(half(), 0..5));
    let maps = (
        btree_map(".{0,12}", any::<i32>(), 0..40),
        hash_map(".{0,12}", vec(".{0,12}", 0..3), 0..20),
        proptest::collection::btree_set(any::<i16>(), 0..40),
    );
    let leaf = (words, lists, maps)
        .prop_map(|(words, lists, maps)| Everything {
            id: words.0,
            name: words.1,
            title: words.2.into(),
            flags: words.3,
            wide: words.4,
            shapes: lists.0,
            samples: lists.1.into(),
            by_name: maps.0,
            by_number: maps.1,
            set: maps.2,
            next: None,
        })
        .boxed();
    (leaf.clone(), proptest::option::of(leaf))
        .prop_map(|(first, second)| Everything { next: second.map(Box::new), ..first })
}

/// A table of up to 12 types. Mostly sound: types refer to later ones, now and then to any, and rarely to
/// none.
fn table() -> impl Strategy<Value = Vec<TypeDef>> {
    (1u32..12).prop_flat_map(|count| (0..count).map(|index| def(index, count)).collect::<Vec<_>>())
}

fn def(index: u32, count: u32) -> BoxedStrategy<TypeDef> {
    let primitive = prop_oneof![
        Just(Primitive::Unit),
        Just(Primitive::Bool),
        Just(Primitive::U8),
        Just(Primitive::I32),
        Just(Primitive::F64),
        Just(Primitive::U128),
        Just(Primitive::Char),
        Just(Primitive::String),
        Just(Primitive::BoxedStr),
    ]
    .prop_map(TypeDef::Primitive);
    if index + 1 >= count {
        return prop_oneof![20 => primitive, 1 => Just(TypeDef::Bytes)].boxed();
    }
    let to = || {
        prop_oneof![60 => index + 1..count, 6 => 0..count, 1 => Just(count)].prop_map(TypeRef::new).boxed()
    };
    let length = prop_oneof![4 => 0u32..4, 1 => any::<u32>()];
    prop_oneof![
        1 => primitive,
        2 => to().prop_map(TypeDef::Option),
        2 => to().prop_map(TypeDef::Box),
        2 => to().prop_map(TypeDef::Vec),
        1 => to().prop_map(TypeDef::BoxedSlice),
        1 => (to(), length).prop_map(|(of, length)| TypeDef::Array(of, length)),
        2 => vec(to(), 1..4).prop_map(TypeDef::Tuple),
        2 => (to(), to()).prop_map(|(key, value)| TypeDef::BTreeMap(key, value)),
        2 => (to(), to()).prop_map(|(key, value)| TypeDef::HashMap(key, value)),
        1 => to().prop_map(TypeDef::BTreeSet),
        1 => to().prop_map(TypeDef::HashSet),
        4 => (name(), arguments(to()), fields(to()))
            .prop_map(|(name, arguments, fields)| TypeDef::Struct(StructDef { name, arguments, fields })),
        3 => (name(), arguments(to()), variants(to()))
            .prop_map(|(name, arguments, variants)| TypeDef::Enum(EnumDef { name, arguments, variants })),
    ]
    .boxed()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![10 => "[A-C]", 10 => "[a-z]{1,3}", 1 => ".{0,2}"]
}

fn arguments(to: BoxedStrategy<TypeRef>) -> impl Strategy<Value = Vec<Argument>> {
    vec(prop_oneof![to.prop_map(Argument::Type), name().prop_map(Argument::Const)], 0..2)
}

fn fields(to: BoxedStrategy<TypeRef>) -> impl Strategy<Value = Fields> {
    let named = vec((name(), to.clone()), 0..4).prop_map(|fields| {
        let named = fields.into_iter().map(|(name, of)| Field { name, of });
        Fields::Named(named.collect())
    });
    prop_oneof![Just(Fields::Unit), vec(to, 0..4).prop_map(Fields::Unnamed), named]
}

fn variants(to: BoxedStrategy<TypeRef>) -> impl Strategy<Value = Vec<Variant>> {
    (vec(fields(to), 0..4), any::<bool>()).prop_map(|(variants, reversed)| {
        let tag = |position: u8| if reversed { 255 - position } else { position };
        let variants = (0u8..).zip(variants);
        variants.map(|(at, fields)| Variant { name: format!("V{at}"), tag: tag(at), fields }).collect()
    })
}

/// Bytes as archives have them: small numbers, short distances back, tags.
fn archive() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => (-64i32..0).prop_map(i32::to_le_bytes),
        4 => (0i32..8).prop_map(i32::to_le_bytes),
        2 => any::<[u8; 4]>(),
        1 => Just([0xff; 4]),
        1 => Just([0x8f, 0, 0, 0]),
    ];
    vec(word, 0..60).prop_map(|words| words.concat())
}

/// Reads, and holds the reader to its promises.
fn read(schema: &Schema, archive: &[u8]) {
    let mut out = "kept".to_owned();
    match schema.to_json_within(archive, &BOUNDS, &mut out) {
        Ok(()) => {
            let json = out.strip_prefix("kept").expect("what was there stays");
            assert!(json.len() <= BOUNDS.bytes);
            serde_json::from_str::<serde::de::IgnoredAny>(json)
                .unwrap_or_else(|error| panic!("{error} in {json}"));
        }
        Err(error) => {
            assert_eq!(out, "kept");
            assert!(error.to_string().len() < 1000, "{error}");
        }
    }
}

fn expected_json(message: &Everything) -> serde_json::Value {
    serde_json::from_str(&serde_json::to_string(message).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn a_sound_archive_reads_as_its_value(message in everything()) {
        let archive = rkyv::to_bytes::<Error>(&message).unwrap();
        let mut json = String::new();
        Schema::of::<Everything>().to_json(&archive, &mut json).unwrap();
        let found: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(found, expected_json(&message));
    }

    #[test]
    fn a_corrupted_archive_is_read_or_refused(
        message in everything(),
        changes in vec((any::<Index>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<Index>()),
    ) {
        let mut archive = rkyv::to_bytes::<Error>(&message).unwrap().to_vec();
        for (index, byte) in changes {
            let index = index.index(archive.len());
            archive[index] = byte;
        }
        if let Some(cut) = cut {
            archive.drain(..cut.index(archive.len()));
        }
        let schema = Schema::of::<Everything>();
        read(&schema, &archive);
        // What rkyv holds to be an archive of the type can be read.
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(&archive);
        if rkyv::access::<ArchivedEverything, Error>(&aligned).is_ok() {
            let read = schema.to_json(&archive, &mut String::new());
            prop_assert_eq!(read, Ok(()));
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused_by_any_type(archive in archive()) {
        fn with<T: Describe + ?Sized>(archive: &[u8]) {
            read(&Schema::of::<T>(), archive);
        }
        with::<Everything>(&archive);
        with::<Vec<Everything>>(&archive);
        with::<Vec<Vec<Vec<()>>>>(&archive);
        with::<HashMap<String, HashSet<u8>>>(&archive);
        with::<BTreeMap<u8, BTreeMap<(), BTreeSet<()>>>>(&archive);
        with::<HashMap<(), HashMap<(), ()>>>(&archive);
        with::<[u8]>(&archive);
    }

    #[test]
    fn any_table_is_refused_or_sound(
        types in table(),
        archive in archive(),
        other in table(),
    ) {
        let Ok(schema) = Schema::from_table(TypeRef::new(0), types) else { return Ok(()) };
        prop_assert_eq!(Schema::from_bytes(&schema.to_bytes()).unwrap(), schema.clone());
        prop_assert_eq!(schema.difference(&schema), None);
        prop_assert!(!schema.type_name().is_empty());
        read(&schema, &archive);
        if let Ok(other) = Schema::from_table(TypeRef::new(0), other) {
            let same = schema.fingerprint() == other.fingerprint();
            prop_assert_eq!(schema.difference(&other).is_none(), same);
            prop_assert_eq!(other.difference(&schema).is_none(), same);
        }
    }

    #[test]
    fn corrupted_schemas_are_refused_or_sound(
        changes in vec((any::<Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<Index>()),
        archive in archive(),
    ) {
        let mut bytes = Schema::of::<Everything>().to_bytes();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(schema) = Schema::from_bytes(&bytes) {
            let _ = schema.difference(&Schema::of::<Everything>());
            read(&schema, &archive);
        }
    }
}
