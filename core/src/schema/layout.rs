//! Where rkyv puts things: the archived size and alignment of every type, and the offsets of fields.
//!
//! rkyv 0.8 with the features `little_endian`, `pointer_width_32`, aligned. Checked against its sources, and
//! by tests against `size_of` and real archives:
//!
//! | type                          | archived as                                                                               |
//! | ----------------------------- | ----------------------------------------------------------------------------------------- |
//! | integers, floats, char, bool  | little endian, aligned to their size (`u128` to 16; char is a u32)                        |
//! | `()`                          | nothing                                                                                   |
//! | struct, tuple                 | `repr(C)` in order of declaration                                                         |
//! | enum, `Option`                | `repr(u8)`: a union of `repr(C)` structs that begin with the tag; None 0, Some 1          |
//! | `Box<T>`                      | offset i32, relative to itself                                                            |
//! | `Vec`, `Box<[T]>`, `Box<str>` | offset i32, length u32                                                                    |
//! | `String`                      | 8 bytes: the text itself and 0xff; or, if longer, the length with tag bits and an offset  |
//! | `BTreeMap`, `BTreeSet`        | offset i32 of the root node, length u32; nodes of 5 entries                               |
//! | `HashMap`, `HashSet`          | offset i32 of the control bytes, length u32, capacity u32; entries lie before those bytes |

use super::error::{MAX_NESTING, SchemaError};
use super::{Fields, Primitive, TypeDef, TypeRef, canonical};

/// The largest archived size of a type, in bytes, without what it points to: offsets in archives are 32 bits
/// with a sign.
pub const MAX_ARCHIVED_SIZE: u64 = i32::MAX as u64;

/// Entries in a node of an archived B-tree.
pub(super) const TREE_ENTRIES: u64 = 5;

/// Size and alignment in bytes. The alignment is a power of two up to 16, the size at most
/// [`MAX_ARCHIVED_SIZE`], so that sums and products of a few of them do not overflow 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: u64,
    pub(super) align: u64,
}

impl Layout {
    pub(super) const EMPTY: Layout = Layout { size: 0, align: 1 };
    const TAG: Layout = Layout { size: 1, align: 1 };

    const fn new(size: u64, align: u64) -> Layout {
        Layout { size, align }
    }

    /// Puts `next` behind what is there, as `repr(C)` does, and gives its offset. The size is not yet rounded
    /// up to the alignment.
    pub(super) fn append(&mut self, next: Layout) -> u64 {
        let offset = self.size.next_multiple_of(next.align);
        self.size = offset + next.size;
        self.align = self.align.max(next.align);
        offset
    }

    pub(super) fn padded(self) -> Layout {
        Layout { size: self.size.next_multiple_of(self.align), align: self.align }
    }
}

/// Where the parts of a B-tree node lie.
pub(super) struct TreeNode {
    pub(super) keys: u64,
    pub(super) values: u64,
    /// The number of entries of a leaf, or the offsets of the children of an inner node.
    pub(super) tail: u64,
}

impl TreeNode {
    pub(super) fn of(key: Layout, value: Layout) -> TreeNode {
        let mut node = Layout::TAG;
        let keys = node.append(Layout::new(key.size * TREE_ENTRIES, key.align));
        let values = node.append(Layout::new(value.size * TREE_ENTRIES, value.align));
        let tail = node.padded().append(Layout::new(4, 4));
        TreeNode { keys, values, tail }
    }
}

/// The layouts of all types of the table. Every reference must exist.
///
/// An error when a type contains itself without a pointer in between, or is too large or nested too deep.
pub(super) fn of_table(types: &[TypeDef]) -> Result<Vec<Layout>, SchemaError> {
    let mut table = Table { types, known: vec![State::Unknown; types.len()] };
    (0..types.len())
        .map(|index| table.layout(TypeRef::new(u32::try_from(index).unwrap_or(u32::MAX)), 0))
        .collect()
}

/// Where the fields of a struct lie, or, behind the tag, those of a variant.
pub(super) fn field_offsets<'a>(
    fields: &'a Fields,
    layouts: &'a [Layout],
    with_tag: bool,
) -> impl Iterator<Item = (TypeRef, u64)> + 'a {
    let mut whole = if with_tag { Layout::TAG } else { Layout::EMPTY };
    fields.types().map(move |of| (of, whole.append(layouts[of.index()])))
}

/// Where the value of an `Option` lies behind the tag.
pub(super) fn some_offset(value: Layout) -> u64 {
    let mut whole = Layout::TAG;
    whole.append(value)
}

struct Table<'a> {
    types: &'a [TypeDef],
    known: Vec<State>,
}

#[derive(Clone, Copy)]
enum State {
    Unknown,
    /// Its parts are being measured: meeting it again means that it contains itself.
    Open,
    Known(Layout),
}

impl Table<'_> {
    fn layout(&mut self, of: TypeRef, depth: usize) -> Result<Layout, SchemaError> {
        match self.known[of.index()] {
            State::Known(layout) => return Ok(layout),
            State::Open => return Err(SchemaError::Infinite { name: canonical::type_name(self.types, of) }),
            State::Unknown => {}
        }
        if depth > MAX_NESTING {
            return Err(SchemaError::TooDeep { limit: MAX_NESTING });
        }
        self.known[of.index()] = State::Open;
        let layout = self.measure(of, depth + 1)?;
        self.known[of.index()] = State::Known(layout);
        Ok(layout)
    }

    fn measure(&mut self, of: TypeRef, depth: usize) -> Result<Layout, SchemaError> {
        let types = self.types;
        let layout = match &types[of.index()] {
            TypeDef::Bytes => Layout::EMPTY,
            TypeDef::Primitive(primitive) => primitive_layout(*primitive),
            TypeDef::Box(_) => Layout::new(4, 4),
            TypeDef::Vec(_) | TypeDef::BoxedSlice(_) | TypeDef::BTreeMap(..) | TypeDef::BTreeSet(_) => {
                Layout::new(8, 4)
            }
            TypeDef::HashMap(..) | TypeDef::HashSet(_) => Layout::new(12, 4),
            TypeDef::Array(element, length) => {
                let element = self.layout(*element, depth)?;
                Layout::new(element.size * u64::from(*length), element.align)
            }
            TypeDef::Option(value) => self.sequence(Layout::TAG, std::iter::once(*value), of, depth)?,
            TypeDef::Tuple(parts) => self.sequence(Layout::EMPTY, parts.iter().copied(), of, depth)?,
            TypeDef::Struct(def) => self.sequence(Layout::EMPTY, def.fields.types(), of, depth)?,
            TypeDef::Enum(def) => {
                let mut union = Layout::TAG;
                for variant in &def.variants {
                    let variant = self.sequence(Layout::TAG, variant.fields.types(), of, depth)?;
                    union = Layout::new(union.size.max(variant.size), union.align.max(variant.align));
                }
                union.padded()
            }
        };
        self.bounded(layout, of)
    }

    fn sequence(
        &mut self,
        mut whole: Layout,
        parts: impl Iterator<Item = TypeRef>,
        of: TypeRef,
        depth: usize,
    ) -> Result<Layout, SchemaError> {
        for part in parts {
            whole.append(self.layout(part, depth)?);
            self.bounded(whole, of)?;
        }
        Ok(whole.padded())
    }

    fn bounded(&self, layout: Layout, of: TypeRef) -> Result<Layout, SchemaError> {
        if layout.size > MAX_ARCHIVED_SIZE {
            let name = canonical::type_name(self.types, of);
            return Err(SchemaError::TooLarge { name, size: layout.size, limit: MAX_ARCHIVED_SIZE });
        }
        Ok(layout)
    }
}

fn primitive_layout(primitive: Primitive) -> Layout {
    match primitive {
        Primitive::Unit => Layout::EMPTY,
        Primitive::Bool | Primitive::U8 | Primitive::I8 => Layout::new(1, 1),
        Primitive::U16 | Primitive::I16 => Layout::new(2, 2),
        Primitive::U32 | Primitive::I32 | Primitive::F32 | Primitive::Char => Layout::new(4, 4),
        Primitive::U64 | Primitive::I64 | Primitive::F64 => Layout::new(8, 8),
        Primitive::U128 | Primitive::I128 => Layout::new(16, 16),
        Primitive::String | Primitive::BoxedStr => Layout::new(8, 4),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
    use std::time::Duration;

    use rkyv::Archive;

    use crate::schema::{Describe, Schema};

    /// Its longest variant is not the one of the largest alignment.
    #[hivemind_derive::message(crate = crate::schema::tests)]
    enum Padded {
        Aligned(u64),
        Long([u8; 20]),
    }

    fn agrees<T: Describe + Archive>() {
        let schema = Schema::of::<T>();
        assert_eq!(schema.archived_size(), size_of::<T::Archived>(), "size of {}", schema.type_name());
        assert_eq!(
            schema.archived_alignment(),
            align_of::<T::Archived>(),
            "alignment of {}",
            schema.type_name()
        );
    }

    #[test]
    fn layouts_agree_with_the_compiler() {
        agrees::<()>();
        agrees::<bool>();
        agrees::<char>();
        agrees::<(u8, u16, u32, u64, u128, f32, f64)>();
        agrees::<(i8, i16, i32, i64, i128)>();
        agrees::<(u128, u8)>();
        agrees::<(u8, u128)>();
        agrees::<(String, u8, Box<str>, Box<u8>)>();
        agrees::<Option<()>>();
        agrees::<Option<u8>>();
        agrees::<Option<Option<u64>>>();
        agrees::<Option<Box<u128>>>();
        agrees::<Option<(u8, u128)>>();
        agrees::<Vec<u128>>();
        agrees::<Box<[u64]>>();
        agrees::<[(u8, u32); 7]>();
        agrees::<[u64; 0]>();
        agrees::<BTreeMap<String, u64>>();
        agrees::<BTreeSet<u128>>();
        agrees::<HashMap<u64, String>>();
        agrees::<HashSet<u8>>();
        agrees::<Duration>();
        agrees::<Padded>();
        agrees::<[Option<Padded>; 2]>();
        agrees::<((u8, (u16, [u8; 3])), Option<Duration>)>();
    }
}
