//! The bounds of a schema, and why one is refused.

/// The version of the bytes and of the text under the fingerprint.
pub const SCHEMA_VERSION: u32 = 1;
/// The longest schema that travels, in bytes. It must leave room beside it in a control message of 64 KiB.
pub const MAX_SCHEMA_BYTES: usize = 32 * 1024;
/// The most types that a schema may contain.
pub const MAX_TYPES: usize = 2048;
/// The longest name of a type, field or variant, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// How deep types may be nested in each other by value, and how deep a type expression such as
/// `Vec<Option<..>>` may be.
pub const MAX_NESTING: usize = 128;
/// The most types that all type expressions of a schema may be written with, together. Keeps the text under
/// the fingerprint short.
pub const MAX_EXPRESSION_NODES: usize = 64 * 1024;

/// Why a schema is refused. None of these can happen between programs built with the same version of
/// hivemind: the peer is of another version, or faulty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The schema has more bytes than may travel. Split the type into several services.
    #[error(
        "the schema has {length} bytes, at most {limit} are allowed; split the type into several services"
    )]
    TooLong {
        /// The length found, in bytes.
        length: usize,
        /// [`MAX_SCHEMA_BYTES`].
        limit: usize,
    },
    /// The bytes do not begin like a schema. Check that the peer speaks hivemind.
    #[error("these {length} bytes are no schema; check what the peer runs")]
    NoSchema {
        /// How many bytes there were.
        length: usize,
    },
    /// The schema has another version. Build both programs with the same release of hivemind.
    #[error(
        "the schema has version {found}, this program knows {known}; build both with the same release of hivemind"
    )]
    Version {
        /// The version found.
        found: u32,
        /// [`SCHEMA_VERSION`].
        known: u32,
    },
    /// The bytes are damaged. Check what the peer runs.
    #[error("the schema is corrupt behind its head; check what the peer runs")]
    Corrupt,
    /// More types than allowed. Split the type into several services.
    #[error(
        "the schema has {count} types, at most {limit} are allowed; split the type into several services"
    )]
    TooManyTypes {
        /// How many there are.
        count: usize,
        /// [`MAX_TYPES`].
        limit: usize,
    },
    /// A type refers to one that is not in the table. Check what the peer runs.
    #[error("the schema refers to type {index} of {count}; check what the peer runs")]
    NoSuchType {
        /// The index referred to.
        index: usize,
        /// How many types there are.
        count: usize,
    },
    /// A name that no Rust type, field or variant can have, or a longer one than [`MAX_NAME_BYTES`]. Check
    /// what the peer runs, or shorten the name.
    #[error(
        "the name {name:?} in the schema is no identifier of at most {limit} bytes; check what the peer runs, or shorten the name"
    )]
    BadName {
        /// The name, cut to the allowed length.
        name: String,
        /// [`MAX_NAME_BYTES`].
        limit: usize,
    },
    /// Two fields, two variants or two tags of variants are the same. Check what the peer runs.
    #[error("`{name}` in the schema has {what} twice; check what the peer runs")]
    Twice {
        /// The type.
        name: String,
        /// What is there twice.
        what: String,
    },
    /// An enum without variants: it has no values, so it cannot be sent. Give it a variant.
    #[error("the enum `{name}` in the schema has no variants; give it one")]
    NoVariants {
        /// The enum.
        name: String,
    },
    /// `[u8]` within another type. Use `Vec<u8>` there.
    #[error("the schema contains `[u8]` within another type; use `Vec<u8>` there")]
    BytesInside,
    /// A type contains itself by value. Put a `Box` or a `Vec` in between.
    #[error("`{name}` in the schema contains itself and would never end; put a Box in between")]
    Infinite {
        /// The type.
        name: String,
    },
    /// The archived form of a type is too large. Put its bulk behind a `Vec` or a `Box`.
    #[error(
        "`{name}` in the schema takes {size} bytes, at most {limit} are allowed; put its bulk behind a Vec"
    )]
    TooLarge {
        /// The type.
        name: String,
        /// The size, as far as it was counted.
        size: u64,
        /// [`MAX_ARCHIVED_SIZE`](super::MAX_ARCHIVED_SIZE).
        limit: u64,
    },
    /// Types are nested too deep. Flatten them.
    #[error("the types in the schema are nested more than {limit} deep; flatten them")]
    TooDeep {
        /// [`MAX_NESTING`].
        limit: usize,
    },
    /// The type expressions are too long when written out. Give names to parts of them, as structs.
    #[error(
        "the types of the schema, written out, have more than {limit} parts; name some of them as structs"
    )]
    TooIntricate {
        /// [`MAX_EXPRESSION_NODES`].
        limit: usize,
    },
}
