//! A schema as bytes, and the rules that a table from a stranger must keep.
//!
//! ```text
//! +--------+-----------+---------------------------------------+
//! | "hmsc" | version   | rkyv archive of the table, root last  |
//! | 4 bytes| u32, LE   |                                       |
//! +--------+-----------+---------------------------------------+
//! ```
//!
//! The version stands in front, so that a later form of the table is recognised instead of misread.

use std::collections::HashSet;

use rkyv::rancor;
use rkyv::util::AlignedVec;

use super::error::{
    MAX_EXPRESSION_NODES, MAX_NAME_BYTES, MAX_NESTING, MAX_SCHEMA_BYTES, MAX_TYPES, SCHEMA_VERSION,
    SchemaError,
};
use super::layout::{self, Layout};
use super::{Argument, Fields, Schema, TypeDef, TypeRef};

const MAGIC: [u8; 4] = *b"hmsc";
const HEAD_BYTES: usize = 8;

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Table {
    root: TypeRef,
    types: Vec<TypeDef>,
}

pub(super) fn to_bytes(schema: &Schema) -> Vec<u8> {
    let table = Table { root: schema.root, types: schema.types.clone() };
    // Serializing into memory that grows fails only when the offsets overflow 31 bits, which `MAX_TYPES` and
    // `MAX_NAME_BYTES` exclude.
    let archive = rkyv::to_bytes::<rancor::Panic>(&table).unwrap_or_else(|never| match never {});
    let mut bytes = Vec::with_capacity(HEAD_BYTES + archive.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&SCHEMA_VERSION.to_le_bytes());
    bytes.extend_from_slice(&archive);
    bytes
}

pub(super) fn from_bytes(bytes: &[u8]) -> Result<Schema, SchemaError> {
    let length = bytes.len();
    if length > MAX_SCHEMA_BYTES {
        return Err(SchemaError::TooLong { length, limit: MAX_SCHEMA_BYTES });
    }
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(SchemaError::NoSchema { length });
    };
    let Some((version, archive)) = rest.split_first_chunk::<4>() else {
        return Err(SchemaError::NoSchema { length });
    };
    if *magic != MAGIC {
        return Err(SchemaError::NoSchema { length });
    }
    let found = u32::from_le_bytes(*version);
    if found != SCHEMA_VERSION {
        return Err(SchemaError::Version { found, known: SCHEMA_VERSION });
    }
    // The bytes come at any address; archives want theirs aligned.
    let mut aligned: AlignedVec = AlignedVec::with_capacity(archive.len());
    aligned.extend_from_slice(archive);
    let table = rkyv::from_bytes::<Table, rancor::Failure>(&aligned).map_err(|_| SchemaError::Corrupt)?;
    Schema::check(table.root, table.types)
}

/// Checks every rule; gives the layouts, which are computed on the way.
pub(super) fn check(root: TypeRef, types: &[TypeDef]) -> Result<Vec<Layout>, SchemaError> {
    if types.len() > MAX_TYPES {
        return Err(SchemaError::TooManyTypes { count: types.len(), limit: MAX_TYPES });
    }
    check_reference(root, types)?;
    for (index, def) in types.iter().enumerate() {
        if *def == TypeDef::Bytes && index != root.index() {
            return Err(SchemaError::BytesInside);
        }
        check_def(def, types)?;
    }
    // Names before layouts: the errors about layouts name types.
    check_expressions(types)?;
    layout::of_table(types)
}

fn check_reference(reference: TypeRef, types: &[TypeDef]) -> Result<(), SchemaError> {
    match types.get(reference.index()) {
        Some(_) => Ok(()),
        None => Err(SchemaError::NoSuchType { index: reference.index(), count: types.len() }),
    }
}

fn check_def(def: &TypeDef, types: &[TypeDef]) -> Result<(), SchemaError> {
    for part in def.expression_parts().into_iter().chain(def.field_types()) {
        check_reference(part, types)?;
        if types[part.index()] == TypeDef::Bytes {
            return Err(SchemaError::BytesInside);
        }
    }
    match def {
        TypeDef::Struct(def) => {
            check_name(&def.name)?;
            check_arguments(&def.arguments)?;
            check_fields(&def.name, &def.fields)
        }
        TypeDef::Enum(def) => {
            check_name(&def.name)?;
            check_arguments(&def.arguments)?;
            if def.variants.is_empty() {
                return Err(SchemaError::NoVariants { name: def.name.clone() });
            }
            let mut names = HashSet::new();
            let mut tags = HashSet::new();
            for variant in &def.variants {
                check_name(&variant.name)?;
                if !names.insert(&variant.name) {
                    let what = format!("the variant {}", variant.name);
                    return Err(SchemaError::Twice { name: def.name.clone(), what });
                }
                if !tags.insert(variant.tag) {
                    let what = format!("the tag {}", variant.tag);
                    return Err(SchemaError::Twice { name: def.name.clone(), what });
                }
                check_fields(&def.name, &variant.fields)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_fields(owner: &str, fields: &Fields) -> Result<(), SchemaError> {
    let Fields::Named(fields) = fields else { return Ok(()) };
    let mut names = HashSet::new();
    for field in fields {
        check_name(&field.name)?;
        if !names.insert(&field.name) {
            return Err(SchemaError::Twice {
                name: owner.to_owned(),
                what: format!("the field {}", field.name),
            });
        }
    }
    Ok(())
}

fn check_arguments(arguments: &[Argument]) -> Result<(), SchemaError> {
    arguments.iter().try_for_each(|argument| match argument {
        Argument::Const(text) => check_name(text.strip_prefix('-').unwrap_or(text)),
        Argument::Type(_) => Ok(()),
    })
}

/// A name consists of what Rust allows in identifiers, roughly: no ASCII but letters, digits and `_`, no
/// white space, nothing that steers a terminal. So the text under the fingerprint is unambiguous, and names
/// can be printed as they are.
fn check_name(name: &str) -> Result<(), SchemaError> {
    let allowed = |c: char| match c {
        _ if c.is_ascii() => c.is_ascii_alphanumeric() || c == '_',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => false,
        _ => !c.is_control() && !c.is_whitespace(),
    };
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(allowed) {
        return Ok(());
    }
    Err(SchemaError::BadName { name: name.chars().take(MAX_NAME_BYTES).collect(), limit: MAX_NAME_BYTES })
}

/// Type expressions must end, must not be too deep, and must not be too long when written out (sharing in the
/// table could make them so).
fn check_expressions(types: &[TypeDef]) -> Result<(), SchemaError> {
    let mut weights = vec![Weight::Unknown; types.len()];
    let mut total: usize = 0;
    for (index, def) in types.iter().enumerate() {
        let mut written = weigh(index, types, &mut weights, 0)?;
        for field in def.field_types() {
            written = written.saturating_add(weigh(field.index(), types, &mut weights, 0)?);
        }
        total = total.saturating_add(written);
        if total > MAX_EXPRESSION_NODES {
            return Err(SchemaError::TooIntricate { limit: MAX_EXPRESSION_NODES });
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Weight {
    Unknown,
    Open,
    Known(usize),
}

fn weigh(
    index: usize,
    types: &[TypeDef],
    weights: &mut [Weight],
    depth: usize,
) -> Result<usize, SchemaError> {
    match weights[index] {
        Weight::Known(weight) => return Ok(weight),
        // An expression that contains itself never ends; Rust has no such types.
        Weight::Open => return Err(SchemaError::TooDeep { limit: MAX_NESTING }),
        Weight::Unknown => {}
    }
    if depth > MAX_NESTING {
        return Err(SchemaError::TooDeep { limit: MAX_NESTING });
    }
    weights[index] = Weight::Open;
    let mut weight: usize = 1;
    for part in types[index].expression_parts() {
        weight = weight.saturating_add(weigh(part.index(), types, weights, depth + 1)?);
    }
    weights[index] = Weight::Known(weight);
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{EnumDef, Field, Primitive, StructDef, Variant};

    const AT_0: TypeRef = TypeRef::new(0);
    const AT_1: TypeRef = TypeRef::new(1);
    const AT_9: TypeRef = TypeRef::new(9);
    const U8: TypeDef = TypeDef::Primitive(Primitive::U8);

    fn refused(types: Vec<TypeDef>) -> SchemaError {
        Schema::from_table(AT_0, types).unwrap_err()
    }

    fn structure(name: &str, fields: Fields) -> TypeDef {
        TypeDef::Struct(StructDef { name: name.to_owned(), arguments: Vec::new(), fields })
    }

    fn named(name: &str, of: TypeRef) -> Field {
        Field { name: name.to_owned(), of }
    }

    fn variant(name: &str, tag: u8) -> Variant {
        Variant { name: name.to_owned(), tag, fields: Fields::Unit }
    }

    fn enumeration(variants: Vec<Variant>) -> TypeDef {
        TypeDef::Enum(EnumDef { name: "E".to_owned(), arguments: Vec::new(), variants })
    }

    #[test]
    fn a_schema_survives_the_journey() {
        type Message = Vec<(Option<String>, [f32; 3])>;
        let schema = Schema::of::<Message>();
        assert_eq!(Schema::from_bytes(&schema.to_bytes()), Ok(schema));
    }

    #[test]
    fn a_schema_is_read_from_any_address() {
        let bytes = [&[0; 7], Schema::of::<Vec<u8>>().to_bytes().as_slice()].concat();
        assert_eq!(Schema::from_bytes(&bytes[7..]), Ok(Schema::of::<Vec<u8>>()));
    }

    #[test]
    fn what_does_not_begin_like_a_schema_is_none() {
        for bytes in [&b""[..], b"hms", b"hmsc\0\0\0", b"GET / HTTP/1.1"] {
            assert_eq!(Schema::from_bytes(bytes), Err(SchemaError::NoSchema { length: bytes.len() }));
        }
    }

    #[test]
    fn another_version_is_named_not_misread() {
        let mut bytes = Schema::of::<u8>().to_bytes();
        bytes[4] = 7;
        assert_eq!(Schema::from_bytes(&bytes), Err(SchemaError::Version { found: 7, known: 1 }));
    }

    #[test]
    fn a_truncated_schema_is_corrupt_wherever_it_ends() {
        let bytes = Schema::of::<(u8, String)>().to_bytes();
        for end in HEAD_BYTES..bytes.len() {
            assert!(Schema::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_long_schema_is_refused_before_it_is_read() {
        let bytes = vec![0; MAX_SCHEMA_BYTES + 1];
        let length = bytes.len();
        assert_eq!(Schema::from_bytes(&bytes), Err(SchemaError::TooLong { length, limit: MAX_SCHEMA_BYTES }));
    }

    #[test]
    fn a_schema_too_long_to_travel_is_refused_where_it_is_made() {
        let fields = (0..1500).map(|number| named(&format!("a_rather_long_name_{number}"), AT_1)).collect();
        assert!(matches!(
            refused(vec![structure("S", Fields::Named(fields)), U8]),
            SchemaError::TooLong { .. }
        ));
    }

    #[test]
    fn references_must_exist() {
        assert_eq!(Schema::from_table(AT_0, vec![]), Err(SchemaError::NoSuchType { index: 0, count: 0 }));
        for def in [
            TypeDef::Vec(AT_9),
            TypeDef::HashMap(AT_0, AT_9),
            TypeDef::Tuple(vec![AT_9]),
            structure("S", Fields::Unnamed(vec![AT_9])),
            structure("S", Fields::Named(vec![named("x", AT_9)])),
            enumeration(vec![Variant { fields: Fields::Unnamed(vec![AT_9]), ..variant("A", 0) }]),
        ] {
            assert_eq!(refused(vec![def]), SchemaError::NoSuchType { index: 9, count: 1 });
        }
    }

    #[test]
    fn names_are_identifiers() {
        for name in
            ["", "two words", "x: u8, y", "a\u{1b}[31m", "line\nbreak", "\u{202e}abc", &"x".repeat(201)]
        {
            let tables = [
                structure(name, Fields::Unit),
                structure("S", Fields::Named(vec![named(name, AT_1)])),
                enumeration(vec![variant(name, 0)]),
                TypeDef::Struct(StructDef {
                    name: "S".to_owned(),
                    arguments: vec![Argument::Const(name.to_owned())],
                    fields: Fields::Unit,
                }),
            ];
            for table in tables {
                assert!(matches!(refused(vec![table, U8]), SchemaError::BadName { .. }), "{name:?}");
            }
        }
        for name in ["Pose", "_x9", "größe", "速度", "हिन्दी"] {
            assert!(Schema::from_table(AT_0, vec![structure(name, Fields::Unit)]).is_ok(), "{name}");
        }
    }

    #[test]
    fn nothing_is_there_twice() {
        for types in [
            vec![structure("S", Fields::Named(vec![named("x", AT_1), named("x", AT_1)])), U8],
            vec![enumeration(vec![variant("A", 0), variant("A", 1)])],
            vec![enumeration(vec![variant("A", 3), variant("B", 3)])],
        ] {
            assert!(matches!(refused(types), SchemaError::Twice { .. }));
        }
    }

    #[test]
    fn an_enum_has_variants() {
        assert_eq!(refused(vec![enumeration(vec![])]), SchemaError::NoVariants { name: "E".to_owned() });
    }

    #[test]
    fn plain_bytes_are_only_a_whole_message() {
        assert_eq!(refused(vec![TypeDef::Vec(AT_1), TypeDef::Bytes]), SchemaError::BytesInside);
        assert_eq!(refused(vec![U8, TypeDef::Bytes]), SchemaError::BytesInside);
        assert!(Schema::of::<[u8]>().is_bytes());
    }

    #[test]
    fn a_type_that_contains_itself_by_value_is_refused() {
        for inner in [TypeDef::Option(AT_0), TypeDef::Tuple(vec![AT_0]), TypeDef::Array(AT_0, 2)] {
            let types = vec![structure("Endless", Fields::Unnamed(vec![AT_1])), inner];
            assert_eq!(refused(types), SchemaError::Infinite { name: "Endless".to_owned() });
        }
        for inner in
            [TypeDef::Box(AT_0), TypeDef::Vec(AT_0), TypeDef::BTreeSet(AT_0), TypeDef::BoxedSlice(AT_0)]
        {
            let types = vec![structure("Finite", Fields::Unnamed(vec![AT_1])), inner];
            assert!(Schema::from_table(AT_0, types).is_ok());
        }
    }

    #[test]
    fn a_type_expression_ends() {
        assert!(matches!(refused(vec![TypeDef::Vec(AT_0)]), SchemaError::TooDeep { .. }));
        let own_argument =
            StructDef { name: "S".to_owned(), arguments: vec![Argument::Type(AT_0)], fields: Fields::Unit };
        assert!(matches!(refused(vec![TypeDef::Struct(own_argument)]), SchemaError::TooDeep { .. }));
    }

    #[test]
    fn types_are_not_nested_without_end() {
        let chain = |link: fn(TypeRef) -> TypeDef, length: u32| -> Vec<TypeDef> {
            (1..=length).map(|next| link(TypeRef::new(next))).chain([U8]).collect()
        };
        assert!(Schema::from_table(AT_0, chain(TypeDef::Option, 100)).is_ok());
        assert!(matches!(refused(chain(TypeDef::Option, 200)), SchemaError::TooDeep { .. }));
        assert!(matches!(refused(chain(TypeDef::Vec, 200)), SchemaError::TooDeep { .. }));
        let structs = |next| structure("S", Fields::Unnamed(vec![next]));
        assert!(matches!(refused(chain(structs, 200)), SchemaError::TooDeep { .. }));
    }

    /// Each type holds the one before it twice, so written out they double: 2^40 parts from 41 entries of the
    /// table.
    #[test]
    fn types_that_explode_when_written_out_are_refused() {
        let double = |next| TypeDef::Tuple(vec![TypeRef::new(next); 2]);
        let types: Vec<TypeDef> = (1..=40).map(double).chain([TypeDef::Primitive(Primitive::Unit)]).collect();
        assert_eq!(refused(types), SchemaError::TooIntricate { limit: MAX_EXPRESSION_NODES });
    }

    /// [[[u64; 2^31]; 2^31]; ..] would overflow any integer.
    #[test]
    fn types_that_are_too_large_are_refused() {
        let types: Vec<TypeDef> = (1..=100)
            .map(|next| TypeDef::Array(TypeRef::new(next), u32::MAX))
            .chain([TypeDef::Primitive(Primitive::U64)])
            .collect();
        assert!(matches!(refused(types), SchemaError::TooLarge { .. }));
        let large = TypeDef::Array(AT_1, 1 << 30);
        assert!(Schema::from_table(AT_0, vec![large.clone(), U8]).is_ok());
        let twice = vec![TypeDef::Tuple(vec![TypeRef::new(2); 2]), U8, large];
        assert!(matches!(refused(twice), SchemaError::TooLarge { .. }));
    }

    #[test]
    fn too_many_types_are_refused() {
        let count = MAX_TYPES + 1;
        assert_eq!(refused(vec![U8; count]), SchemaError::TooManyTypes { count, limit: MAX_TYPES });
    }

    #[test]
    #[should_panic(expected = "cannot be a message: the schema contains `[u8]` within another type")]
    fn a_description_by_hand_that_breaks_the_rules_is_told_so() {
        struct Wrong;
        impl crate::schema::Describe for Wrong {
            fn describe(builder: &mut crate::schema::SchemaBuilder) -> TypeRef {
                let fields = |builder: &mut crate::schema::SchemaBuilder| {
                    Fields::Named(vec![builder.field::<[u8]>("bytes")])
                };
                builder.structure::<Self>("Wrong", |_| Vec::new(), fields)
            }
        }
        let _ = Schema::of::<Wrong>();
    }
}
