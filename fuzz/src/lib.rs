//! What the fuzz targets and their seeds share: types to fuzz with, and the forms of inputs that have parts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hivemind_derive::message;
use rkyv::util::AlignedVec;

/// The crate `hivemind` as `#[message]` sees it.
pub mod hivemind {
    pub use ::rkyv;
    pub use hivemind_core::schema;
}

/// A message with one of everything.
#[allow(missing_docs)]
pub mod messages {
    use super::{BTreeMap, BTreeSet, HashMap, message};

    #[message(crate = crate::hivemind)]
    #[derive(Debug, Clone)]
    pub struct Everything {
        pub id: u64,
        pub name: String,
        pub title: Box<str>,
        pub flags: (bool, char, i8),
        pub wide: Option<u128>,
        pub shapes: Vec<Shape>,
        pub samples: Box<[f32]>,
        pub by_name: BTreeMap<String, i32>,
        pub by_number: HashMap<u16, Vec<String>>,
        pub set: BTreeSet<i16>,
        pub next: Option<Box<Everything>>,
    }

    #[message(crate = crate::hivemind)]
    #[derive(Debug, Clone)]
    pub enum Shape {
        Point,
        Circle { radius: f64, fill: Option<char> },
        Pair([i64; 2], String),
    }
}

/// An input of two parts: the length of the first in two bytes, little endian, then both.
pub fn split(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_le_bytes(*length).into())
}

/// The opposite of [`split`]. The first part is shorter than 64 KiB.
pub fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    let length = u16::try_from(first.len()).expect("the first part is shorter than 64 KiB");
    [&length.to_le_bytes(), first, second].concat()
}

/// A copy at an address where archives may lie.
pub fn aligned(bytes: &[u8]) -> AlignedVec<16> {
    let mut aligned = AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    aligned
}
