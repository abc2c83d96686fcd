//! What the two sides of a service agree on: the type that it carries, and how its messages are kept.
//!
//! Each is one value, made once where an end is created and embedded everywhere else, on the wire too. A new property of a
//! service is a new field here, and nothing on the way between a builder and the registry changes.
#![allow(missing_docs)] // The fields of the resolvers that rkyv derives. What is written here is documented by hand.

use rkyv::{Archive, Deserialize, Serialize};

use crate::schema::Schema;

/// The type that a service carries.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The fingerprint of the type; equal for equal types.
    pub fingerprint: u128,
    /// The description of the type: the bytes of a [`Schema`].
    pub schema: Vec<u8>,
}

impl Kind {
    /// The kind of a type that is described.
    #[must_use]
    pub fn of(schema: &Schema) -> Kind {
        Kind { fingerprint: schema.fingerprint(), schema: schema.to_bytes() }
    }
}

/// How a publisher keeps its messages.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contract {
    /// True: nothing is lost; a publisher waits, or is refused, when a subscriber is a whole ring behind.
    pub reliable: bool,
    /// Past messages that a subscriber gets which attaches later; less than the capacity.
    pub history: u32,
    /// Messages that the ring holds: a power of two.
    pub capacity: u32,
    /// Of its last messages, how many stay readable when the publisher is gone; less than the capacity.
    pub retained: u32,
}
