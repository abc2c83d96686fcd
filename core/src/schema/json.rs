//! A message as JSON, by its schema alone.
//!
//! The archive comes from a stranger, and may say anything. Every read is checked against its end; a pointer
//! may lead anywhere within it, also back, so three bounds end what could go on for ever: the depth, the
//! length of the output, and the number of steps. A step is one value visited or one group of control bytes
//! of a hash map scanned, so each takes a bounded time. Nothing is allocated but the output.
//!
//! The root lies at the end of the archive. See [`layout`](super::layout) for where its parts are.

use std::fmt::{self, Write as _};

use super::layout::{self, Layout, TREE_ENTRIES, TreeNode};
use super::{Fields, Primitive, Schema, TypeDef, TypeRef};

pub use self::bounds::{JsonBounds, MAX_DEPTH, MAX_JSON_BYTES, MAX_STEPS};
use self::error::corrupt;
pub use self::error::{Corruption, DecodeError};

mod bounds;
mod error;
#[cfg(test)]
mod tests;

/// How many bytes of a byte sequence are shown.
const FIRST_BYTES: u64 = 32;
/// The height of a B-tree of 2^32 entries is 13.
const MAX_TREE_HEIGHT: u32 = 16;
/// Control bytes of a hash map that are scanned in one step.
const CONTROL_GROUP: u64 = 16;
/// Strings up to this length lie in place of the pointer, in bytes.
const INLINE_STRING: u64 = 8;

type Outcome<T> = Result<T, Box<DecodeError>>;

/// Appends the message to `out`; leaves `out` alone on errors.
pub(super) fn write(
    schema: &Schema,
    archive: &[u8],
    bounds: &JsonBounds,
    out: &mut String,
) -> Result<(), DecodeError> {
    let start = out.len();
    let is_silent = false;
    let mut walk = Walk {
        types: schema.types(),
        layouts: &schema.layouts,
        archive,
        bounds,
        steps: 0,
        start,
        out,
        is_silent,
    };
    walk.message(schema.root()).map_err(|error| {
        let error = error.within(schema.type_name());
        out.truncate(start);
        *error
    })
}

/// Walks through an archive as [`write`] does, and writes nothing.
pub(super) fn check(schema: &Schema, archive: &[u8], bounds: &JsonBounds) -> Result<(), DecodeError> {
    let (out, is_silent) = (&mut String::new(), true);
    let mut walk = Walk {
        types: schema.types(),
        layouts: &schema.layouts,
        archive,
        bounds,
        steps: 0,
        start: 0,
        out,
        is_silent,
    };
    walk.message(schema.root()).map_err(|error| *error.within(schema.type_name()))
}

struct Walk<'a> {
    types: &'a [TypeDef],
    layouts: &'a [Layout],
    archive: &'a [u8],
    bounds: &'a JsonBounds,
    steps: u64,
    /// The length of `out` at the beginning.
    start: usize,
    out: &'a mut String,
    /// Nothing is written: only whether it could be is of interest.
    is_silent: bool,
}

/// How a map is written.
#[derive(Clone, Copy)]
enum MapStyle {
    Object,
    Pairs,
    Set,
}

impl MapStyle {
    fn brackets(self) -> (&'static str, &'static str) {
        match self {
            MapStyle::Object => ("{", "}"),
            MapStyle::Pairs | MapStyle::Set => ("[", "]"),
        }
    }
}

/// What a map consists of.
#[derive(Clone, Copy)]
struct Entries {
    key: TypeRef,
    /// `None` for sets, which are maps of units.
    value: Option<TypeRef>,
    key_layout: Layout,
    value_layout: Layout,
    style: MapStyle,
}

impl<'a> Walk<'a> {
    fn message(&mut self, root: TypeRef) -> Outcome<()> {
        if self.types[root.index()] == TypeDef::Bytes {
            return self.byte_sequence(0, self.length());
        }
        let size = self.layouts[root.index()].size;
        let at = self.length().checked_sub(size);
        let at =
            at.ok_or_else(|| corrupt(0, Corruption::OutOfBounds { needed: size, length: self.length() }))?;
        self.value(root, at, 0)
    }

    fn value(&mut self, of: TypeRef, at: u64, depth: u32) -> Outcome<()> {
        self.step()?;
        if depth > self.bounds.depth {
            return Err(Box::new(DecodeError::TooDeep { path: String::new(), limit: self.bounds.depth }));
        }
        let depth = depth + 1;
        let types = self.types;
        match &types[of.index()] {
            // Excluded by `Schema::check`: only the root can be bytes.
            TypeDef::Bytes => self.byte_sequence(at, 0),
            TypeDef::Primitive(primitive) => self.primitive(*primitive, at),
            TypeDef::Option(inner) => match self.byte(at)? {
                0 => self.push("null"),
                1 => self.value(*inner, at + layout::some_offset(self.layouts[inner.index()]), depth),
                found => Err(corrupt(at, Corruption::Tag { found })),
            },
            TypeDef::Box(inner) => {
                let target = self.target(at, at)?;
                self.value(*inner, target, depth)
            }
            TypeDef::Vec(element) | TypeDef::BoxedSlice(element) => {
                let length = u64::from(self.u32(at + 4)?);
                // The pointer of an empty sequence points nowhere.
                let first = if length == 0 { 0 } else { self.target(at, at)? };
                self.sequence(*element, first, length, depth)
            }
            TypeDef::Array(element, length) => self.sequence(*element, at, u64::from(*length), depth),
            TypeDef::Tuple(parts) => {
                let mut whole = Layout::EMPTY;
                self.push("[")?;
                for (position, part) in parts.iter().enumerate() {
                    self.separator(position == 0)?;
                    let offset = whole.append(self.layouts[part.index()]);
                    self.value(*part, at + offset, depth)
                        .map_err(|error| error.within(&format!(".{position}")))?;
                }
                self.push("]")
            }
            TypeDef::BTreeMap(key, value) => self.tree(self.entries(*key, Some(*value)), at, depth),
            TypeDef::BTreeSet(key) => self.tree(self.entries(*key, None), at, depth),
            TypeDef::HashMap(key, value) => self.table(self.entries(*key, Some(*value)), at, depth),
            TypeDef::HashSet(key) => self.table(self.entries(*key, None), at, depth),
            TypeDef::Struct(def) => self.fields(&def.fields, at, false, depth),
            TypeDef::Enum(def) => {
                let found = self.byte(at)?;
                let Some(variant) = def.variants.iter().find(|variant| variant.tag == found) else {
                    return Err(corrupt(at, Corruption::Tag { found }));
                };
                if let Fields::Unit = variant.fields {
                    return self.text(&variant.name);
                }
                self.push("{")?;
                self.text(&variant.name)?;
                self.push(":")?;
                let fields = self.fields(&variant.fields, at, true, depth);
                fields.map_err(|error| error.within(&format!("::{}", variant.name)))?;
                self.push("}")
            }
        }
    }

    fn fields(&mut self, fields: &Fields, at: u64, with_tag: bool, depth: u32) -> Outcome<()> {
        let (open, close) = match fields {
            Fields::Unit => return self.push("null"),
            Fields::Unnamed(types) if types.len() == 1 => ("", ""),
            Fields::Unnamed(_) => ("[", "]"),
            Fields::Named(_) => ("{", "}"),
        };
        self.push(open)?;
        let layouts = self.layouts;
        for (position, (of, offset)) in layout::field_offsets(fields, layouts, with_tag).enumerate() {
            self.separator(position == 0)?;
            let name = match fields {
                Fields::Named(fields) => Some(&fields[position].name),
                _ => None,
            };
            if let Some(name) = name {
                self.text(name)?;
                self.push(":")?;
            }
            self.value(of, at + offset, depth).map_err(|error| match name {
                Some(name) => error.within(&format!(".{name}")),
                None => error.within(&format!(".{position}")),
            })?;
        }
        self.push(close)
    }

    fn sequence(&mut self, element: TypeRef, first: u64, length: u64, depth: u32) -> Outcome<()> {
        if self.types[element.index()] == TypeDef::Primitive(Primitive::U8) {
            return self.byte_sequence(first, length);
        }
        let size = self.layouts[element.index()].size;
        // Both factors have at most 32 bits.
        self.bytes(first, size * length)?;
        if self.is_silent && self.is_any_bits(element) {
            return Ok(());
        }
        self.push("[")?;
        for position in 0..length {
            self.separator(position == 0)?;
            let value = self.value(element, first + position * size, depth);
            value.map_err(|error| error.within(&format!("[{position}]")))?;
        }
        self.push("]")
    }

    fn byte_sequence(&mut self, first: u64, length: u64) -> Outcome<()> {
        let bytes = self.bytes(first, length)?;
        if self.is_silent {
            return Ok(());
        }
        let shown = &bytes[..length.min(FIRST_BYTES) as usize];
        self.format(format_args!("{{\"bytes\":{length},\"first\":\""))?;
        for byte in shown {
            self.format(format_args!("{byte:02x}"))?;
        }
        self.push("\"}")
    }

    /// Whether any bytes are a value of this type.
    fn is_any_bits(&self, of: TypeRef) -> bool {
        match &self.types[of.index()] {
            TypeDef::Primitive(primitive) => !matches!(
                primitive,
                Primitive::Bool | Primitive::Char | Primitive::String | Primitive::BoxedStr
            ),
            _ => false,
        }
    }

    fn primitive(&mut self, primitive: Primitive, at: u64) -> Outcome<()> {
        match primitive {
            Primitive::Unit => self.push("null"),
            Primitive::Bool => match self.byte(at)? {
                0 => self.push("false"),
                1 => self.push("true"),
                found => Err(corrupt(at, Corruption::Tag { found })),
            },
            Primitive::U8 => self.number(u8::from_le_bytes(self.array(at)?)),
            Primitive::U16 => self.number(u16::from_le_bytes(self.array(at)?)),
            Primitive::U32 => self.number(u32::from_le_bytes(self.array(at)?)),
            Primitive::U64 => self.number(u64::from_le_bytes(self.array(at)?)),
            Primitive::I8 => self.number(i8::from_le_bytes(self.array(at)?)),
            Primitive::I16 => self.number(i16::from_le_bytes(self.array(at)?)),
            Primitive::I32 => self.number(i32::from_le_bytes(self.array(at)?)),
            Primitive::I64 => self.number(i64::from_le_bytes(self.array(at)?)),
            // Most readers of JSON keep 64 bits at best.
            Primitive::U128 => self.quoted(u128::from_le_bytes(self.array(at)?)),
            Primitive::I128 => self.quoted(i128::from_le_bytes(self.array(at)?)),
            Primitive::F32 => {
                let value = f32::from_le_bytes(self.array(at)?);
                // Debug, not Display: the shortest text that reads back as the same number, with an exponent
                // where that is shorter.
                if value.is_finite() { self.format(format_args!("{value:?}")) } else { self.quoted(value) }
            }
            Primitive::F64 => {
                let value = f64::from_le_bytes(self.array(at)?);
                if value.is_finite() { self.format(format_args!("{value:?}")) } else { self.quoted(value) }
            }
            Primitive::Char => {
                let found = u32::from_le_bytes(self.array(at)?);
                let value = char::from_u32(found).ok_or_else(|| corrupt(at, Corruption::Char { found }))?;
                self.text(value.encode_utf8(&mut [0; 4]))
            }
            Primitive::String => {
                let value = self.string(at)?;
                self.text(value)
            }
            Primitive::BoxedStr => {
                let length = u64::from(self.u32(at + 4)?);
                let first = if length == 0 { 0 } else { self.target(at, at)? };
                let value = self.utf8(first, length)?;
                self.text(value)
            }
        }
    }

    /// An `ArchivedString`. The two highest bits of its first byte are 10, which no UTF-8 text begins with,
    /// when it is stored elsewhere; then those bits are spliced into the length, behind its lowest six. Else
    /// the text lies here, and 0xff follows when it is shorter than 8 bytes.
    fn string(&self, at: u64) -> Outcome<&'a str> {
        let here: [u8; INLINE_STRING as usize] = self.array(at)?;
        if here[0] & 0xc0 != 0x80 {
            let length = here.iter().position(|byte| *byte == 0xff).unwrap_or(here.len());
            return self.utf8(at, length as u64);
        }
        let spliced = self.u32(at)?;
        let length = u64::from((spliced & 0x3f) | ((spliced & !0xff) >> 2));
        if length <= INLINE_STRING {
            return Err(corrupt(at, Corruption::StringForm));
        }
        let first = self.target(at + 4, at)?;
        self.utf8(first, length)
    }

    fn utf8(&self, first: u64, length: u64) -> Outcome<&'a str> {
        std::str::from_utf8(self.bytes(first, length)?).map_err(|_| corrupt(first, Corruption::Utf8))
    }

    fn entries(&self, key: TypeRef, value: Option<TypeRef>) -> Entries {
        let style = match (&self.types[key.index()], value) {
            (_, None) => MapStyle::Set,
            (TypeDef::Primitive(Primitive::String | Primitive::BoxedStr), Some(_)) => MapStyle::Object,
            _ => MapStyle::Pairs,
        };
        let key_layout = self.layouts[key.index()];
        let value_layout = value.map_or(Layout::EMPTY, |value| self.layouts[value.index()]);
        Entries { key, value, key_layout, value_layout, style }
    }

    fn entry(
        &mut self,
        entries: Entries,
        first: bool,
        key_at: u64,
        value_at: u64,
        depth: u32,
    ) -> Outcome<()> {
        self.separator(first)?;
        if let MapStyle::Pairs = entries.style {
            self.push("[")?;
        }
        self.value(entries.key, key_at, depth).map_err(|error| error.within("{key}"))?;
        if let Some(value) = entries.value {
            self.push(if let MapStyle::Pairs = entries.style { "," } else { ":" })?;
            self.value(value, value_at, depth).map_err(|error| error.within("{value}"))?;
        }
        if let MapStyle::Pairs = entries.style {
            self.push("]")?;
        }
        Ok(())
    }

    /// An `ArchivedBTreeMap`: offset of the root node, number of entries.
    fn tree(&mut self, entries: Entries, at: u64, depth: u32) -> Outcome<()> {
        let length = u64::from(self.u32(at + 4)?);
        let (open, close) = entries.style.brackets();
        self.push(open)?;
        if length > 0 {
            let root = self.target(at, at)?;
            let mut written = 0;
            self.tree_node(entries, root, &mut written, length, depth, 0)?;
            if written != length {
                return Err(corrupt(at, Corruption::MapLength));
            }
        }
        self.push(close)
    }

    /// A leaf has its number of entries behind them. An inner node is full, and has six children behind its
    /// entries: one before each entry and one after the last; an offset of 1 means that there is none.
    fn tree_node(
        &mut self,
        entries: Entries,
        at: u64,
        written: &mut u64,
        length: u64,
        depth: u32,
        height: u32,
    ) -> Outcome<()> {
        self.step()?;
        if height > MAX_TREE_HEIGHT {
            return Err(corrupt(at, Corruption::Tree));
        }
        let node = TreeNode::of(entries.key_layout, entries.value_layout);
        let (count, inner) = match self.byte(at)? {
            0 => (u64::from(self.u32(at + node.tail)?), false),
            1 => (TREE_ENTRIES, true),
            _ => return Err(corrupt(at, Corruption::Tree)),
        };
        if count > TREE_ENTRIES {
            return Err(corrupt(at, Corruption::Tree));
        }
        for position in 0..count {
            if inner {
                self.tree_child(entries, at + node.tail + 4 * position, written, length, depth, height)?;
            }
            if *written == length {
                return Err(corrupt(at, Corruption::MapLength));
            }
            let key_at = at + node.keys + position * entries.key_layout.size;
            let value_at = at + node.values + position * entries.value_layout.size;
            self.entry(entries, *written == 0, key_at, value_at, depth)?;
            *written += 1;
        }
        if inner {
            self.tree_child(entries, at + node.tail + 4 * TREE_ENTRIES, written, length, depth, height)?;
        }
        Ok(())
    }

    fn tree_child(
        &mut self,
        entries: Entries,
        pointer_at: u64,
        written: &mut u64,
        length: u64,
        depth: u32,
        height: u32,
    ) -> Outcome<()> {
        if self.offset(pointer_at)? == 1 {
            return Ok(());
        }
        let child = self.target(pointer_at, pointer_at)?;
        self.tree_node(entries, child, written, length, depth, height + 1)
    }

    /// An `ArchivedHashMap`: offset of the control bytes, number of entries, capacity. Entry i lies i + 1
    /// entries before the control bytes, and exists when control byte i has its highest bit clear.
    fn table(&mut self, entries: Entries, at: u64, depth: u32) -> Outcome<()> {
        let (length, capacity) = (u64::from(self.u32(at + 4)?), u64::from(self.u32(at + 8)?));
        let (open, close) = entries.style.brackets();
        self.push(open)?;
        if length > 0 {
            self.table_entries(entries, at, length, capacity, depth)?;
        }
        self.push(close)
    }

    fn table_entries(
        &mut self,
        entries: Entries,
        at: u64,
        length: u64,
        capacity: u64,
        depth: u32,
    ) -> Outcome<()> {
        let mut entry = entries.key_layout;
        let value_offset = entry.append(entries.value_layout);
        let size = entry.padded().size;
        let controls_at = self.target(at, at)?;
        let controls = self.bytes(controls_at, capacity)?;
        if length >= capacity || size * capacity > controls_at {
            return Err(corrupt(at, Corruption::MapLength));
        }
        let mut written = 0;
        for (index, control) in (0..).zip(controls) {
            if index % CONTROL_GROUP == 0 {
                self.step()?;
            }
            if control & 0x80 != 0 {
                continue;
            }
            let key_at = controls_at - (index + 1) * size;
            self.entry(entries, written == 0, key_at, key_at + value_offset, depth)?;
            written += 1;
        }
        if written != length {
            return Err(corrupt(at, Corruption::MapLength));
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        self.archive.len() as u64
    }

    /// The only place where the archive is read. `at` and `length` stay far below 2^63: they are sums of a
    /// few 32-bit numbers and products of two.
    fn bytes(&self, at: u64, length: u64) -> Outcome<&'a [u8]> {
        let end = at.checked_add(length).filter(|end| *end <= self.length());
        let Some(end) = end else {
            return Err(corrupt(at, Corruption::OutOfBounds { needed: length, length: self.length() }));
        };
        Ok(&self.archive[at as usize..end as usize])
    }

    fn array<const N: usize>(&self, at: u64) -> Outcome<[u8; N]> {
        let bytes = self.bytes(at, N as u64)?;
        // `bytes` gave exactly N bytes.
        Ok(bytes.try_into().expect("N bytes"))
    }

    fn byte(&self, at: u64) -> Outcome<u8> {
        self.array(at).map(|[byte]| byte)
    }

    fn u32(&self, at: u64) -> Outcome<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn offset(&self, at: u64) -> Outcome<i32> {
        self.array(at).map(i32::from_le_bytes)
    }

    /// Where the pointer at `pointer_at` leads, counted from `base`. Up to the end of the archive, where
    /// nothing can be read any more.
    fn target(&self, pointer_at: u64, base: u64) -> Outcome<u64> {
        let offset = self.offset(pointer_at)?;
        let target = base.checked_add_signed(i64::from(offset)).filter(|target| *target <= self.length());
        target.ok_or_else(|| corrupt(pointer_at, Corruption::Pointer { offset }))
    }

    fn step(&mut self) -> Outcome<()> {
        self.steps += 1;
        if self.steps > self.bounds.steps {
            return Err(Box::new(DecodeError::TooManySteps { limit: self.bounds.steps }));
        }
        Ok(())
    }

    fn separator(&mut self, first: bool) -> Outcome<()> {
        if first { Ok(()) } else { self.push(",") }
    }

    fn push(&mut self, text: &str) -> Outcome<()> {
        if self.is_silent {
            return Ok(());
        }
        if self.out.len() - self.start + text.len() > self.bounds.bytes {
            return Err(Box::new(DecodeError::TooLong { limit: self.bounds.bytes }));
        }
        self.out.push_str(text);
        Ok(())
    }

    /// For short texts: numbers, at most some 50 bytes.
    fn format(&mut self, text: fmt::Arguments<'_>) -> Outcome<()> {
        if self.is_silent {
            return Ok(());
        }
        // Writing to a `String` cannot fail.
        let _ = self.out.write_fmt(text);
        self.push("")
    }

    fn number(&mut self, value: impl fmt::Display) -> Outcome<()> {
        self.format(format_args!("{value}"))
    }

    fn quoted(&mut self, value: impl fmt::Display) -> Outcome<()> {
        self.format(format_args!("\"{value}\""))
    }

    /// A JSON string. Escapes what JSON demands, and all other control characters too: the text may end up on
    /// a terminal.
    fn text(&mut self, text: &str) -> Outcome<()> {
        if self.is_silent {
            return Ok(());
        }
        self.push("\"")?;
        let mut rest = text;
        while let Some(position) = rest.find(|c: char| c == '"' || c == '\\' || c.is_control()) {
            let (plain, special) = rest.split_at(position);
            self.push(plain)?;
            let mut characters = special.chars();
            // `find` found a character here.
            let character = characters.next().unwrap_or_default();
            match character {
                '"' => self.push("\\\"")?,
                '\\' => self.push("\\\\")?,
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                // Control characters end at U+009F: four digits suffice.
                _ => self.format(format_args!("\\u{:04x}", u32::from(character)))?,
            }
            rest = characters.as_str();
        }
        self.push(rest)?;
        self.push("\"")
    }
}
