//! From a Rust type to a table: [`Describe`] and the builder it writes to.
//!
//! A named type (struct, enum) takes its place in the table before its fields are described, so a field that
//! leads back to it finds that place. It is recognised by its [`TypeId`]. A type without a name of its own
//! (`Vec<T>`, tuples) is described after its parts and recognised by its content. Rust allows recursion only
//! through a named type, so this ends.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::{Argument, EnumDef, Field, Fields, Primitive, StructDef, TypeDef, TypeRef, Variant};

/// A type that can be a message or a part of one. `#[message]` implements it; there is seldom a reason to do
/// so by hand.
///
/// An implementation must describe the archived form that rkyv gives the type, field by field: readers of
/// strange types rely on it. (A wrong description can make them print nonsense or report corruption, never
/// misbehave.)
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a message",
    label = "neither a message nor a type that messages can contain",
    note = "put `#[message]` on the definition of `{Self}` if it is yours",
    note = "messages contain: bool, u8 to u128, i8 to i128, f32, f64, char, (), String, Box<str>, Option, Box, Vec, Box<[T]>, arrays, \
            tuples up to 8, BTreeMap, BTreeSet, HashMap, HashSet, Duration, and other messages",
    note = "usize and isize have no fixed size: use u32 or u64. References do not survive the process: use String, Vec or Box"
)]
pub trait Describe: 'static {
    /// Enters the type in the table, unless it is there, and says where.
    fn describe(builder: &mut SchemaBuilder) -> TypeRef;
}

/// A table of types in the making. See [`Describe`].
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    /// `None` while the fields of a named type are being described.
    types: Vec<Option<TypeDef>>,
    named: HashMap<TypeId, TypeRef>,
    unnamed: HashMap<TypeDef, TypeRef>,
}

impl SchemaBuilder {
    pub(super) fn table_of<T: Describe + ?Sized>() -> (TypeRef, Vec<TypeDef>) {
        let mut builder = SchemaBuilder::default();
        let root = T::describe(&mut builder);
        // Every place taken in `named_type` is filled before that function returns, and all have returned.
        let types = builder.types.into_iter().map(|def| def.expect("every type is described")).collect();
        (root, types)
    }

    /// Enters a struct. The closures say what its generic parameters stand for and what its fields are; each
    /// is called at most once.
    pub fn structure<T: Describe + ?Sized>(
        &mut self,
        name: &str,
        arguments: impl FnOnce(&mut Self) -> Vec<Argument>,
        fields: impl FnOnce(&mut Self) -> Fields,
    ) -> TypeRef {
        self.named_type::<T>(|builder| {
            let arguments = arguments(builder);
            TypeDef::Struct(StructDef { name: name.to_owned(), arguments, fields: fields(builder) })
        })
    }

    /// Enters an enum. The closures say what its generic parameters stand for and what its variants are; each
    /// is called at most once.
    pub fn enumeration<T: Describe + ?Sized>(
        &mut self,
        name: &str,
        arguments: impl FnOnce(&mut Self) -> Vec<Argument>,
        variants: impl FnOnce(&mut Self) -> Vec<Variant>,
    ) -> TypeRef {
        self.named_type::<T>(|builder| {
            let arguments = arguments(builder);
            TypeDef::Enum(EnumDef { name: name.to_owned(), arguments, variants: variants(builder) })
        })
    }

    /// A field with a name, of type `T`.
    pub fn field<T: Describe + ?Sized>(&mut self, name: &str) -> Field {
        Field { name: name.to_owned(), of: T::describe(self) }
    }

    /// What a type parameter stands for.
    pub fn type_argument<T: Describe + ?Sized>(&mut self) -> Argument {
        Argument::Type(T::describe(self))
    }

    /// What a const parameter stands for.
    pub fn const_argument(&mut self, value: &impl ConstArgument) -> Argument {
        Argument::Const(value.text())
    }

    /// A variant of an enum.
    pub fn variant(&mut self, name: &str, tag: u8, fields: Fields) -> Variant {
        Variant { name: name.to_owned(), tag, fields }
    }

    fn named_type<T: ?Sized + 'static>(&mut self, def: impl FnOnce(&mut Self) -> TypeDef) -> TypeRef {
        let identity = TypeId::of::<T>();
        if let Some(known) = self.named.get(&identity) {
            return *known;
        }
        let place = self.next_place();
        self.types.push(None);
        self.named.insert(identity, place);
        self.types[place.index()] = Some(def(self));
        place
    }

    fn unnamed_type(&mut self, def: TypeDef) -> TypeRef {
        if let Some(known) = self.unnamed.get(&def) {
            return *known;
        }
        let place = self.next_place();
        self.types.push(Some(def.clone()));
        self.unnamed.insert(def, place);
        place
    }

    fn next_place(&self) -> TypeRef {
        // A program with 2^32 types does not exist; the bound that matters, `MAX_TYPES`, is checked on the
        // whole table.
        TypeRef::new(u32::try_from(self.types.len()).expect("fewer than 2^32 types"))
    }
}

/// A value that a const parameter can have.
pub trait ConstArgument {
    /// The value as letters, digits and `-`.
    fn text(&self) -> String;
}

macro_rules! const_arguments {
    ($($type:ty),*) => { $(
        impl ConstArgument for $type {
            fn text(&self) -> String {
                self.to_string()
            }
        }
    )* };
}

const_arguments!(bool, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

impl ConstArgument for char {
    fn text(&self) -> String {
        format!("U{:04X}", u32::from(*self))
    }
}

macro_rules! primitives {
    ($($type:ty => $primitive:ident),* $(,)?) => { $(
        impl Describe for $type {
            fn describe(builder: &mut SchemaBuilder) -> TypeRef {
                builder.unnamed_type(TypeDef::Primitive(Primitive::$primitive))
            }
        }
    )* };
}

primitives! {
    () => Unit, bool => Bool, char => Char, String => String, Box<str> => BoxedStr,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, u128 => U128,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64, i128 => I128,
    f32 => F32, f64 => F64,
}

impl Describe for [u8] {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        builder.unnamed_type(TypeDef::Bytes)
    }
}

macro_rules! containers {
    ($($type:ty => $kind:ident),* $(,)?) => { $(
        impl<T: Describe> Describe for $type {
            fn describe(builder: &mut SchemaBuilder) -> TypeRef {
                let element = T::describe(builder);
                builder.unnamed_type(TypeDef::$kind(element))
            }
        }
    )* };
}

containers! {
    Option<T> => Option, Box<T> => Box, Vec<T> => Vec, Box<[T]> => BoxedSlice, BTreeSet<T> => BTreeSet,
}

impl<T: Describe, H: 'static> Describe for HashSet<T, H> {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        let element = T::describe(builder);
        builder.unnamed_type(TypeDef::HashSet(element))
    }
}

impl<T: Describe, const N: usize> Describe for [T; N] {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        let element = T::describe(builder);
        // Saturates: a longer array is refused with the whole table, by its size, except one of empty
        // elements, whose length says nothing.
        builder.unnamed_type(TypeDef::Array(element, u32::try_from(N).unwrap_or(u32::MAX)))
    }
}

impl<K: Describe, V: Describe> Describe for BTreeMap<K, V> {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        let (key, value) = (K::describe(builder), V::describe(builder));
        builder.unnamed_type(TypeDef::BTreeMap(key, value))
    }
}

impl<K: Describe, V: Describe, H: 'static> Describe for HashMap<K, V, H> {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        let (key, value) = (K::describe(builder), V::describe(builder));
        builder.unnamed_type(TypeDef::HashMap(key, value))
    }
}

impl Describe for Duration {
    fn describe(builder: &mut SchemaBuilder) -> TypeRef {
        // As rkyv archives it: `ArchivedDuration { secs: u64, nanos: u32 }`.
        builder.structure::<Self>(
            "Duration",
            |_| Vec::new(),
            |builder| Fields::Named(vec![builder.field::<u64>("secs"), builder.field::<u32>("nanos")]),
        )
    }
}

macro_rules! tuples {
    ($(($($part:ident),*))*) => { $(
        impl<$($part: Describe),*> Describe for ($($part,)*) {
            fn describe(builder: &mut SchemaBuilder) -> TypeRef {
                let parts = vec![$($part::describe(builder)),*];
                builder.unnamed_type(TypeDef::Tuple(parts))
            }
        }
    )* };
}

tuples! {
    (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) (A, B, C, D, E, F, G) (A, B, C, D, E, F, G, H)
}

#[cfg(test)]
mod tests {
    use crate::schema::Schema;

    #[test]
    fn each_type_is_in_the_table_once() {
        assert_eq!(Schema::of::<(u8, Vec<u8>, [Vec<u8>; 2], Option<Vec<u8>>)>().types().len(), 5);
    }
}
