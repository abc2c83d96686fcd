//! Types in words: the text under the fingerprint, and type names for people.
//!
//! The text gives each named type a number in the order in which they are first met, and refers to it by that
//! number. So it does not depend on the order of the table, two types of the same name in different modules
//! stay apart, and recursion ends. Names contain no punctuation (see `wire::check`), so two different tables
//! cannot give the same text.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::error::SCHEMA_VERSION;
use super::{Argument, Fields, Schema, TypeDef, TypeRef};

/// Type names for people are cut at this length, in bytes.
const MAX_TYPE_NAME_BYTES: usize = 400;

/// The text under the fingerprint. Bounded, since `wire::check` bounds the number of types in all
/// expressions.
pub(super) fn text(schema: &Schema) -> String {
    let mut text = Text {
        types: &schema.types,
        out: format!("hivemind schema {SCHEMA_VERSION}\n"),
        numbers: HashMap::new(),
        met: Vec::new(),
    };
    text.expression(schema.root);
    text.out.push('\n');
    let mut next = 0;
    // Each named type is met once, so this ends after at most as many rounds as there are types.
    while let Some(met) = text.met.get(next).copied() {
        text.definition(next, met);
        next += 1;
    }
    text.out
}

struct Text<'a> {
    types: &'a [TypeDef],
    out: String,
    numbers: HashMap<TypeRef, usize>,
    /// The named types in the order of their numbers.
    met: Vec<TypeRef>,
}

impl Text<'_> {
    /// Writes a type as a part of another: in full if it has no name, else as its number.
    fn expression(&mut self, of: TypeRef) {
        let types = self.types;
        let def = &types[of.index()];
        if let TypeDef::Struct(_) | TypeDef::Enum(_) = def {
            let number = *self.numbers.entry(of).or_insert_with(|| {
                self.met.push(of);
                self.met.len() - 1
            });
            self.write(format_args!("#{number}"));
        } else {
            let (before, after) = brackets(def);
            self.out.push_str(before);
            self.list(def.expression_parts());
            self.out.push_str(&after);
        }
    }

    fn definition(&mut self, number: usize, of: TypeRef) {
        let types = self.types;
        match &types[of.index()] {
            TypeDef::Struct(def) => {
                self.write(format_args!("#{number} struct {}", def.name));
                self.arguments(&def.arguments);
                self.fields(&def.fields);
            }
            TypeDef::Enum(def) => {
                self.write(format_args!("#{number} enum {}", def.name));
                self.arguments(&def.arguments);
                self.out.push_str(" {");
                for (position, variant) in def.variants.iter().enumerate() {
                    let separator = if position == 0 { "" } else { ", " };
                    self.write(format_args!("{separator}{} = {}", variant.name, variant.tag));
                    self.fields(&variant.fields);
                }
                self.out.push('}');
            }
            _ => {}
        }
        self.out.push('\n');
    }

    fn arguments(&mut self, arguments: &[Argument]) {
        if arguments.is_empty() {
            return;
        }
        self.out.push('<');
        for (position, argument) in arguments.iter().enumerate() {
            if position > 0 {
                self.out.push_str(", ");
            }
            match argument {
                Argument::Type(of) => self.expression(*of),
                // The braces keep a constant `u8` apart from the type.
                Argument::Const(value) => self.write(format_args!("{{{value}}}")),
            }
        }
        self.out.push('>');
    }

    fn fields(&mut self, fields: &Fields) {
        match fields {
            Fields::Unit => {}
            Fields::Unnamed(types) => {
                self.out.push_str(" (");
                self.list(types.clone());
                self.out.push(')');
            }
            Fields::Named(fields) => {
                self.out.push_str(" {");
                for (position, field) in fields.iter().enumerate() {
                    let separator = if position == 0 { "" } else { ", " };
                    self.write(format_args!("{separator}{}: ", field.name));
                    self.expression(field.of);
                }
                self.out.push('}');
            }
        }
    }

    fn list(&mut self, parts: Vec<TypeRef>) {
        for (position, part) in parts.into_iter().enumerate() {
            if position > 0 {
                self.out.push_str(", ");
            }
            self.expression(part);
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = self.out.write_fmt(text);
    }
}

/// What stands around the parts of a type without a name.
fn brackets(def: &TypeDef) -> (&'static str, String) {
    let (before, after) = match def {
        TypeDef::Bytes => ("[u8]", ""),
        TypeDef::Primitive(primitive) => (primitive.name(), ""),
        TypeDef::Option(_) => ("Option<", ">"),
        TypeDef::Box(_) => ("Box<", ">"),
        TypeDef::Vec(_) => ("Vec<", ">"),
        TypeDef::BoxedSlice(_) => ("Box<[", "]>"),
        TypeDef::Array(_, length) => return ("[", format!("; {length}]")),
        TypeDef::Tuple(parts) => ("(", if parts.len() == 1 { ",)" } else { ")" }),
        TypeDef::BTreeMap(..) => ("BTreeMap<", ">"),
        TypeDef::HashMap(..) => ("HashMap<", ">"),
        TypeDef::BTreeSet(_) => ("BTreeSet<", ">"),
        TypeDef::HashSet(_) => ("HashSet<", ">"),
        TypeDef::Struct(_) | TypeDef::Enum(_) => ("", ""),
    };
    (before, after.to_owned())
}

/// The name of a type for people, such as `Vec<Stamped<Pose>>`. Every reference must exist and expressions
/// must end.
pub(super) fn type_name(types: &[TypeDef], of: TypeRef) -> String {
    let mut name = String::new();
    push_name(types, of, &mut name);
    if let Some((end, _)) = name.char_indices().find(|(end, _)| *end >= MAX_TYPE_NAME_BYTES) {
        name.truncate(end);
        name.push('…');
    }
    name
}

fn push_name(types: &[TypeDef], of: TypeRef, name: &mut String) {
    if name.len() > MAX_TYPE_NAME_BYTES {
        return;
    }
    let def = &types[of.index()];
    let (named, arguments) = match def {
        TypeDef::Struct(def) => (&def.name, &def.arguments),
        TypeDef::Enum(def) => (&def.name, &def.arguments),
        _ => {
            let (before, after) = brackets(def);
            name.push_str(before);
            for (position, part) in def.expression_parts().into_iter().enumerate() {
                if position > 0 {
                    name.push_str(", ");
                }
                push_name(types, part, name);
            }
            name.push_str(&after);
            return;
        }
    };
    name.push_str(named);
    for (position, argument) in arguments.iter().enumerate() {
        name.push_str(if position == 0 { "<" } else { ", " });
        match argument {
            Argument::Type(part) => push_name(types, *part, name),
            Argument::Const(value) => name.push_str(value),
        }
    }
    if !arguments.is_empty() {
        name.push('>');
    }
}
