//! What a message type looks like: its names, its types, and where each field lies in an archive.
//!
//! A publisher and a subscriber of one service must mean the same type, yet they are two programs compiled at
//! different times, and a tool such as `hm echo` knows none of the types. So every service carries a
//! [`Schema`]: a table of the types that a message is made of. From it follow
//!
//! | what                   | by                      | used for                                             |
//! | ---------------------- | ----------------------- | ---------------------------------------------------- |
//! | the fingerprint        | [`Schema::fingerprint`] | is it the same type? 16 bytes decide                 |
//! | the first difference   | [`Schema::difference`]  | the text of the error when it is not                 |
//! | the layout and values  | [`Schema::to_json`]     | reading a message of a type nobody compiled in       |
//!
//! # The table
//!
//! Types refer to each other by their index in the table, so a recursive type is a cycle and not an endless
//! tree:
//!
//! ```text
//! struct Node { value: f64, next: Option<Box<Node>> }
//!
//! 0  Struct "Node" { value: 1, next: 3 }  <--+
//! 1  f64                                     |
//! 2  Box(0)  --------------------------------+
//! 3  Option(2)
//! ```
//!
//! # What the fingerprint covers
//!
//! It is `xxh3_128` of the text that [`Schema::text`] gives: the name of the type, the names, order and types
//! of its fields, the names, order and tags of its variants, the type arguments and array lengths, and the
//! same for every type it contains, recursively. It does not cover module paths, crate names, visibility,
//! attributes, documentation and derives, so two programs may each define their own `Pose`, and moving a type
//! to another module changes nothing. The text begins with a version; it only changes when archives of the
//! same type would change.
//!
//! # Strangers
//!
//! Schemas and archives come from other processes. [`Schema::from_bytes`] accepts only a table whose
//! references exist, whose names are identifiers, whose types have a finite size, and whose text has a
//! bounded length. A `Schema` is therefore always sound, and [`Schema::to_json`] has only the archive to
//! distrust: it checks every offset, and bounds its depth, its output and its work.

mod canonical;
mod describe;
mod difference;
mod error;
mod json;
mod layout;
mod wire;

pub use self::describe::{ConstArgument, Describe, SchemaBuilder};
pub use self::error::{
    MAX_EXPRESSION_NODES, MAX_NAME_BYTES, MAX_NESTING, MAX_SCHEMA_BYTES, MAX_TYPES, SCHEMA_VERSION,
    SchemaError,
};
pub use self::json::{Corruption, DecodeError, JsonBounds, MAX_DEPTH, MAX_JSON_BYTES, MAX_STEPS};
pub use self::layout::MAX_ARCHIVED_SIZE;

use self::layout::Layout;

/// The description of a message type: a table of types, and which of them is the message.
///
/// Sound by construction: it comes from a Rust type ([`Schema::of`]) or from checked bytes
/// ([`Schema::from_bytes`]). Two schemas are equal when their tables are; to ask whether two types are the
/// same, compare [`Schema::fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    root: TypeRef,
    types: Vec<TypeDef>,
    /// The archived size and alignment of each type of the table.
    layouts: Vec<Layout>,
    name: String,
}

impl Schema {
    /// The schema of `T`.
    ///
    /// ```
    /// use hivemind_core::schema::Schema;
    /// assert_eq!(Schema::of::<Vec<Option<f64>>>().type_name(), "Vec<Option<f64>>");
    /// ```
    ///
    /// # Panics
    ///
    /// Where [`Schema::try_of`] says no.
    pub fn of<T: Describe + ?Sized>() -> Schema {
        match Schema::try_of::<T>() {
            Ok(schema) => schema,
            Err(error) => panic!("`{}` cannot be a message: {error}", std::any::type_name::<T>()),
        }
    }

    /// The schema of a Rust type that may be too large for one.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] when the type breaks a bound that peers enforce ([`MAX_SCHEMA_BYTES`], [`MAX_TYPES`],
    /// [`MAX_ARCHIVED_SIZE`], ...). Split such a type, or put its bulk behind a `Vec` or a `Box`.
    pub fn try_of<T: Describe + ?Sized>() -> Result<Schema, SchemaError> {
        let (root, types) = SchemaBuilder::table_of::<T>();
        Schema::from_table(root, types)
    }

    /// The schema of a type that exists in no program, or in one of another language: `root` is an index in
    /// `types`.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] when the table breaks a rule, the same that [`Schema::from_bytes`] checks.
    pub fn from_table(root: TypeRef, types: Vec<TypeDef>) -> Result<Schema, SchemaError> {
        let schema = Schema::check(root, types)?;
        let length = schema.to_bytes().len();
        if length > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLong { length, limit: MAX_SCHEMA_BYTES });
        }
        Ok(schema)
    }

    /// The type of the message itself.
    pub fn root(&self) -> TypeRef {
        self.root
    }

    /// The table. A [`TypeRef`] of this schema is an index in it.
    pub fn types(&self) -> &[TypeDef] {
        &self.types
    }

    /// The name of the message type with its type arguments, such as `Pose` or `Stamped<Pose>`. Cut with an
    /// ellipsis when it is very long.
    pub fn type_name(&self) -> &str {
        &self.name
    }

    /// Whether messages are plain bytes, not archives: a service of `[u8]`.
    pub fn is_bytes(&self) -> bool {
        self.types[self.root.index()] == TypeDef::Bytes
    }

    /// How many bytes the root of an archive of this type takes. The root lies at the end of the archive. 0
    /// for `[u8]`.
    pub fn archived_size(&self) -> usize {
        self.layouts[self.root.index()].size as usize
    }

    /// The alignment that the root of an archive of this type asks for, in bytes.
    pub fn archived_alignment(&self) -> usize {
        self.layouts[self.root.index()].align as usize
    }

    /// Decides whether two types are the same: 16 bytes over all names and types, see the [module](self) for
    /// what is covered.
    pub fn fingerprint(&self) -> u128 {
        xxhash_rust::xxh3::xxh3_128(self.text().as_bytes())
    }

    /// The text under the [fingerprint](Schema::fingerprint): one line for the version, one for the root, one
    /// per named type.
    ///
    /// ```text
    /// hivemind schema 1
    /// #0
    /// #0 struct Pose {id: u64, x: f64, y: f64, frame: String}
    /// ```
    pub fn text(&self) -> String {
        canonical::text(self)
    }

    /// In words, the first thing in which the two types differ, such as `Pose.x: f64 here, f32 there`. "Here"
    /// is `self`. `None` when they are the same.
    pub fn difference(&self, other: &Schema) -> Option<String> {
        difference::first(self, other)
    }

    /// The bytes that travel with a service: at most [`MAX_SCHEMA_BYTES`], read by [`Schema::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::to_bytes(self)
    }

    /// Reads what [`Schema::to_bytes`] wrote, and distrusts it: see the [module](self).
    ///
    /// # Errors
    ///
    /// [`SchemaError`] when the bytes are no sound schema of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Schema, SchemaError> {
        wire::from_bytes(bytes)
    }

    /// Appends the message to `out` as one line of JSON.
    ///
    /// Structs are objects (tuple structs arrays, a struct of one unnamed field that field, unit structs
    /// null). Enums are `"Variant"`, or `{"Variant": ...}` when they carry data. `None` is null. Integers are
    /// written in full up to 64 bits, as strings above; `NaN`, `inf` and `-inf` are strings. A map with text
    /// keys is an object, any other map an array of pairs. Bytes (`[u8]`, `Vec<u8>`, `Box<[u8]>`, `[u8; N]`)
    /// are `{"bytes": how many, "first": "the first in hex"}`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the archive is corrupt or of another type, or goes beyond
    /// [`JsonBounds::default`]. `out` is then as it was before.
    pub fn to_json(&self, archive: &[u8], out: &mut String) -> Result<(), DecodeError> {
        self.to_json_within(archive, &JsonBounds::default(), out)
    }

    /// [`Schema::to_json`] with other bounds.
    ///
    /// # Errors
    ///
    /// As [`Schema::to_json`].
    pub fn to_json_within(
        &self,
        archive: &[u8],
        bounds: &JsonBounds,
        out: &mut String,
    ) -> Result<(), DecodeError> {
        json::write(self, archive, bounds, out)
    }

    /// Whether these bytes are an archive of this type, as far as [`Schema::to_json`] would find out. Takes
    /// nothing and writes nothing; arrays of numbers cost no more than a look at their bounds.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the archive is corrupt or of another type, or goes beyond
    /// [`JsonBounds::default`].
    pub fn check_archive(&self, archive: &[u8]) -> Result<(), DecodeError> {
        json::check(self, archive, &JsonBounds::default())
    }

    /// Accepts a table when it keeps all rules; every `Schema` comes from here.
    fn check(root: TypeRef, types: Vec<TypeDef>) -> Result<Schema, SchemaError> {
        let layouts = wire::check(root, &types)?;
        let name = canonical::type_name(&types, root);
        Ok(Schema { root, types, layouts, name })
    }

    fn def(&self, reference: TypeRef) -> &TypeDef {
        &self.types[reference.index()]
    }
}

/// A type, as an index in the table of its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TypeRef(u32);

impl TypeRef {
    /// The type at `index` of the table.
    pub const fn new(index: u32) -> TypeRef {
        TypeRef(index)
    }

    /// The index in [`Schema::types`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One type of the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
pub enum TypeDef {
    /// `[u8]`: the message is its own bytes, no archive. Only as the root.
    Bytes,
    /// A type without parts.
    Primitive(Primitive),
    /// `Option<T>`.
    Option(TypeRef),
    /// `Box<T>` of a sized type.
    Box(TypeRef),
    /// `Vec<T>`.
    Vec(TypeRef),
    /// `Box<[T]>`.
    BoxedSlice(TypeRef),
    /// `[T; length]`.
    Array(TypeRef, u32),
    /// `(A, B, ...)`.
    Tuple(Vec<TypeRef>),
    /// `BTreeMap<K, V>`.
    BTreeMap(TypeRef, TypeRef),
    /// `HashMap<K, V>`.
    HashMap(TypeRef, TypeRef),
    /// `BTreeSet<T>`.
    BTreeSet(TypeRef),
    /// `HashSet<T>`.
    HashSet(TypeRef),
    /// A struct.
    Struct(StructDef),
    /// An enum.
    Enum(EnumDef),
}

/// A type without parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the Rust type of the same name")]
pub enum Primitive {
    /// `()`.
    Unit,
    Bool,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
    Char,
    String,
    /// `Box<str>`.
    BoxedStr,
}

impl Primitive {
    /// The Rust name.
    pub fn name(self) -> &'static str {
        match self {
            Primitive::Unit => "()",
            Primitive::Bool => "bool",
            Primitive::U8 => "u8",
            Primitive::U16 => "u16",
            Primitive::U32 => "u32",
            Primitive::U64 => "u64",
            Primitive::U128 => "u128",
            Primitive::I8 => "i8",
            Primitive::I16 => "i16",
            Primitive::I32 => "i32",
            Primitive::I64 => "i64",
            Primitive::I128 => "i128",
            Primitive::F32 => "f32",
            Primitive::F64 => "f64",
            Primitive::Char => "char",
            Primitive::String => "String",
            Primitive::BoxedStr => "Box<str>",
        }
    }
}

/// A struct: its name, type arguments and fields in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StructDef {
    /// The name without path and arguments.
    pub name: String,
    /// What its generic parameters stand for.
    pub arguments: Vec<Argument>,
    /// In the order of declaration, which is the order in the archive.
    pub fields: Fields,
}

/// An enum: its name, type arguments and variants in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct EnumDef {
    /// The name without path and arguments.
    pub name: String,
    /// What its generic parameters stand for.
    pub arguments: Vec<Argument>,
    /// In the order of declaration. At least one.
    pub variants: Vec<Variant>,
}

/// One case of an enum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Variant {
    /// The name without that of the enum.
    pub name: String,
    /// The first byte of an archived value of this variant.
    pub tag: u8,
    /// In the order of declaration, which is the order in the archive.
    pub fields: Fields,
}

/// The fields of a struct or of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Fields {
    /// None, as in `struct Stop;`.
    Unit,
    /// Without names, as in `struct Meters(f64);`.
    Unnamed(Vec<TypeRef>),
    /// With names.
    Named(Vec<Field>),
}

impl Fields {
    /// The types of the fields, in order.
    pub fn types(&self) -> impl Iterator<Item = TypeRef> + '_ {
        let (unnamed, named): (&[TypeRef], &[Field]) = match self {
            Fields::Unit => (&[], &[]),
            Fields::Unnamed(types) => (types, &[]),
            Fields::Named(fields) => (&[], fields),
        };
        unnamed.iter().copied().chain(named.iter().map(|field| field.of))
    }
}

/// A field with a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Field {
    /// The name, without `r#`.
    pub name: String,
    /// Its type.
    pub of: TypeRef,
}

/// What a generic parameter stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Argument {
    /// A type.
    Type(TypeRef),
    /// The value of a const parameter, in text.
    Const(String),
}

impl TypeDef {
    /// The types that this one is written with in a type expression: `T` in `Vec<T>`, the arguments of a
    /// named type (not its fields).
    fn expression_parts(&self) -> Vec<TypeRef> {
        match self {
            TypeDef::Bytes | TypeDef::Primitive(_) => Vec::new(),
            TypeDef::Option(part)
            | TypeDef::Box(part)
            | TypeDef::Vec(part)
            | TypeDef::BoxedSlice(part)
            | TypeDef::BTreeSet(part)
            | TypeDef::HashSet(part)
            | TypeDef::Array(part, _) => vec![*part],
            TypeDef::Tuple(parts) => parts.clone(),
            TypeDef::BTreeMap(key, value) | TypeDef::HashMap(key, value) => vec![*key, *value],
            TypeDef::Struct(StructDef { arguments, .. }) | TypeDef::Enum(EnumDef { arguments, .. }) => {
                arguments
                    .iter()
                    .filter_map(|argument| match argument {
                        Argument::Type(reference) => Some(*reference),
                        Argument::Const(_) => None,
                    })
                    .collect()
            }
        }
    }

    /// The types of the fields of a named type.
    fn field_types(&self) -> Vec<TypeRef> {
        match self {
            TypeDef::Struct(def) => def.fields.types().collect(),
            TypeDef::Enum(def) => def.variants.iter().flat_map(|variant| variant.fields.types()).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    //! The crate `hivemind` as `#[message]` sees it, for the tests of this module.

    pub(crate) use crate::schema;
    pub(crate) use ::rkyv;
}
