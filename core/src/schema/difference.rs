//! The first difference between two types, for the text of an error.
//!
//! Both tables are walked side by side, nearest differences first. A pair of types is compared once, so this
//! ends after at most as many steps as there are pairs of types that face each other, and after [`MAX_PAIRS`]
//! at the latest, which only tables made for it reach.

use std::collections::{HashSet, VecDeque};

use super::canonical::type_name;
use super::{Argument, EnumDef, Fields, Schema, StructDef, TypeDef, TypeRef};

/// How many pairs of types are compared.
const MAX_PAIRS: usize = 8192;

pub(super) fn first(here: &Schema, there: &Schema) -> Option<String> {
    let mut comparison = Comparison { here, there, seen: HashSet::new(), waiting: VecDeque::new() };
    comparison.face(here.root, there.root, String::new());
    while let Some(pair) = comparison.waiting.pop_front() {
        if let Some(difference) = comparison.compare(&pair) {
            return Some(difference);
        }
    }
    // All pairs that were compared agree. What is left is sharing (one type there stands for two of that name
    // here), or what lies beyond the bound.
    (here.text() != there.text())
        .then(|| format!("{}: other types of the same names here and there", here.type_name()))
}

struct Pair {
    here: TypeRef,
    there: TypeRef,
    /// Where the pair stands: `Pose.x`. Empty for the message itself.
    place: String,
}

struct Comparison<'a> {
    here: &'a Schema,
    there: &'a Schema,
    seen: HashSet<(TypeRef, TypeRef)>,
    waiting: VecDeque<Pair>,
}

impl Comparison<'_> {
    fn face(&mut self, here: TypeRef, there: TypeRef, place: String) {
        if self.seen.len() < MAX_PAIRS && self.seen.insert((here, there)) {
            self.waiting.push_back(Pair { here, there, place });
        }
    }

    fn compare(&mut self, pair: &Pair) -> Option<String> {
        let (here, there) = (self.here.def(pair.here), self.there.def(pair.there));
        match (here, there) {
            (TypeDef::Struct(ours), TypeDef::Struct(theirs)) => self.structs(pair, ours, theirs),
            (TypeDef::Enum(ours), TypeDef::Enum(theirs)) => self.enums(pair, ours, theirs),
            _ => self.unnamed(pair, here, there),
        }
    }

    fn structs(&mut self, pair: &Pair, ours: &StructDef, theirs: &StructDef) -> Option<String> {
        self.names(pair, (&ours.name, &ours.arguments), (&theirs.name, &theirs.arguments))
            .or_else(|| self.fields(&ours.name, &ours.fields, &theirs.fields))
    }

    fn enums(&mut self, pair: &Pair, ours: &EnumDef, theirs: &EnumDef) -> Option<String> {
        if let Some(difference) =
            self.names(pair, (&ours.name, &ours.arguments), (&theirs.name, &theirs.arguments))
        {
            return Some(difference);
        }
        let name = &ours.name;
        for (position, (our, their)) in ours.variants.iter().zip(&theirs.variants).enumerate() {
            if our.name != their.name {
                let has = |variants: &[super::Variant], wanted: &str| {
                    variants.iter().any(|variant| variant.name == wanted)
                };
                return Some(if !has(&theirs.variants, &our.name) {
                    format!("{name}::{} is missing there", our.name)
                } else if !has(&ours.variants, &their.name) {
                    format!("{name}::{} is missing here", their.name)
                } else {
                    format!("{name}: variant {} is {} here, {} there", position + 1, our.name, their.name)
                });
            }
            if our.tag != their.tag {
                return Some(format!("{name}::{}: tag {} here, {} there", our.name, our.tag, their.tag));
            }
            if let Some(difference) =
                self.fields(&format!("{name}::{}", our.name), &our.fields, &their.fields)
            {
                return Some(difference);
            }
        }
        surplus(&ours.variants, &theirs.variants, |variant| format!("{name}::{}", variant.name))
    }

    fn names(
        &mut self,
        pair: &Pair,
        ours: (&str, &[Argument]),
        theirs: (&str, &[Argument]),
    ) -> Option<String> {
        let kinds = |argument: &Argument| match argument {
            Argument::Type(_) => None,
            Argument::Const(value) => Some(value.clone()),
        };
        let same = ours.0 == theirs.0 && ours.1.iter().map(kinds).eq(theirs.1.iter().map(kinds));
        if !same {
            return Some(self.plainly(pair));
        }
        for (our, their) in ours.1.iter().zip(theirs.1) {
            if let (Argument::Type(our), Argument::Type(their)) = (our, their) {
                self.face(*our, *their, pair.place.clone());
            }
        }
        None
    }

    fn fields(&mut self, owner: &str, ours: &Fields, theirs: &Fields) -> Option<String> {
        match (ours, theirs) {
            (Fields::Unit, Fields::Unit) => None,
            (Fields::Unnamed(our), Fields::Unnamed(their)) => {
                for (position, (our, their)) in our.iter().zip(their).enumerate() {
                    self.face(*our, *their, format!("{owner}.{position}"));
                }
                (our.len() != their.len())
                    .then(|| format!("{owner} has {} fields here, {} there", our.len(), their.len()))
            }
            (Fields::Named(our), Fields::Named(their)) => {
                for (position, (ours, theirs)) in our.iter().zip(their).enumerate() {
                    if ours.name != theirs.name {
                        let has = |fields: &[super::Field], wanted: &str| {
                            fields.iter().any(|field| field.name == wanted)
                        };
                        return Some(if !has(their, &ours.name) {
                            format!("{owner}.{} is missing there", ours.name)
                        } else if !has(our, &theirs.name) {
                            format!("{owner}.{} is missing here", theirs.name)
                        } else {
                            format!(
                                "{owner}: field {} is {} here, {} there",
                                position + 1,
                                ours.name,
                                theirs.name
                            )
                        });
                    }
                    self.face(ours.of, theirs.of, format!("{owner}.{}", ours.name));
                }
                surplus(our, their, |field| format!("{owner}.{}", field.name))
            }
            _ => Some(format!("{owner} has {} here, {} there", kind(ours), kind(theirs))),
        }
    }

    fn unnamed(&mut self, pair: &Pair, here: &TypeDef, there: &TypeDef) -> Option<String> {
        let (ours, theirs) = (here.expression_parts(), there.expression_parts());
        let lengths = |def: &TypeDef| if let TypeDef::Array(_, length) = def { *length } else { 0 };
        let same = match (here, there) {
            (TypeDef::Primitive(our), TypeDef::Primitive(their)) => our == their,
            _ => {
                std::mem::discriminant(here) == std::mem::discriminant(there)
                    && lengths(here) == lengths(there)
                    && ours.len() == theirs.len()
            }
        };
        if !same {
            return Some(self.plainly(pair));
        }
        // Two expressions whose names differ are shown whole, `Vec<f64> here, Vec<f32> there`. Equal names
        // may still hide different fields.
        if self.name_here(pair) != self.name_there(pair) {
            return Some(self.plainly(pair));
        }
        for (our, their) in ours.into_iter().zip(theirs) {
            self.face(our, their, pair.place.clone());
        }
        None
    }

    fn plainly(&self, pair: &Pair) -> String {
        let colon = if pair.place.is_empty() { "" } else { ": " };
        let (mut here, mut there) = (self.name_here(pair), self.name_there(pair));
        if here == there {
            here.insert_str(0, article(self.here.def(pair.here)));
            there.insert_str(0, article(self.there.def(pair.there)));
        }
        format!("{}{colon}{here} here, {there} there", pair.place)
    }

    fn name_here(&self, pair: &Pair) -> String {
        type_name(&self.here.types, pair.here)
    }

    fn name_there(&self, pair: &Pair) -> String {
        type_name(&self.there.types, pair.there)
    }
}

/// What one side has behind the end of the other.
fn surplus<T>(ours: &[T], theirs: &[T], name: impl Fn(&T) -> String) -> Option<String> {
    if let Some(more) = ours.get(theirs.len()) {
        return Some(format!("{} is missing there", name(more)));
    }
    theirs.get(ours.len()).map(|more| format!("{} is missing here", name(more)))
}

/// Tells two types of the same name apart.
fn article(def: &TypeDef) -> &'static str {
    match def {
        TypeDef::Struct(_) => "a struct ",
        TypeDef::Enum(_) => "an enum ",
        _ => "the built-in ",
    }
}

fn kind(fields: &Fields) -> &'static str {
    match fields {
        Fields::Unit => "no fields",
        Fields::Unnamed(_) => "fields without names",
        Fields::Named(_) => "fields with names",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use crate::schema::{Describe, Schema};

    fn difference<A: Describe, B: Describe>() -> Option<String> {
        Schema::of::<A>().difference(&Schema::of::<B>())
    }

    #[test]
    fn equal_types_have_no_difference() {
        assert_eq!(difference::<u8, u8>(), None);
        assert_eq!(difference::<(Vec<String>, [f32; 3]), (Vec<String>, [f32; 3])>(), None);
    }

    #[test]
    fn types_without_names_are_shown_whole() {
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(difference::<u8, i8>(), said("u8 here, i8 there"));
        assert_eq!(difference::<[f64; 3], [f64; 4]>(), said("[f64; 3] here, [f64; 4] there"));
        assert_eq!(difference::<Vec<u16>, Box<[u16]>>(), said("Vec<u16> here, Box<[u16]> there"));
        assert_eq!(difference::<(u8,), (u8, u8)>(), said("(u8,) here, (u8, u8) there"));
        assert_eq!(
            difference::<HashMap<u8, bool>, BTreeMap<u8, bool>>(),
            said("HashMap<u8, bool> here, BTreeMap<u8, bool> there")
        );
    }

    #[allow(dead_code)]
    mod ours {
        use hivemind_derive::message;

        #[message(crate = crate::schema::tests)]
        pub(super) struct Robot {
            name: String,
            path: Vec<Option<Pose>>,
        }
        #[message(crate = crate::schema::tests)]
        pub(super) struct Pose {
            x: f64,
            shape: Shape,
        }
        #[message(crate = crate::schema::tests)]
        pub(super) enum Shape {
            Point,
            Circle { radius: f64 },
            Box(f32, f32),
        }
    }

    #[allow(dead_code)]
    mod theirs {
        macro_rules! robots {
            ($($module:ident { $($shape:tt)* })*) => { $(
                pub(crate) mod $module {
                    use hivemind_derive::message;

                    #[message(crate = crate::schema::tests)]
                    pub(crate) struct Robot { name: String, path: Vec<Option<Pose>> }
                    #[message(crate = crate::schema::tests)]
                    pub(crate) struct Pose { x: f64, shape: Shape }
                    #[message(crate = crate::schema::tests)]
                    #[repr(u8)]
                    pub(crate) enum Shape { $($shape)* }
                }
            )* };
        }
        robots! {
            same { Point, Circle { radius: f64 }, Box(f32, f32) }
            field { Point, Circle { radius: f32 }, Box(f32, f32) }
            missing { Point, Box(f32, f32) }
            more { Point, Circle { radius: f64 }, Box(f32, f32), Line }
            order { Circle { radius: f64 }, Point, Box(f32, f32) }
            tag { Point = 1, Circle { radius: f64 }, Box(f32, f32) }
            count { Point, Circle { radius: f64 }, Box(f32) }
            kind { Point, Circle(f64), Box(f32, f32) }
        }
    }

    #[test]
    fn a_difference_deep_inside_is_named_by_the_type_it_is_in() {
        fn said<T: Describe>() -> String {
            difference::<ours::Robot, T>().unwrap_or_default()
        }
        assert_eq!(said::<theirs::same::Robot>(), "");
        assert_eq!(said::<theirs::field::Robot>(), "Shape::Circle.radius: f64 here, f32 there");
        assert_eq!(said::<theirs::missing::Robot>(), "Shape::Circle is missing there");
        assert_eq!(said::<theirs::more::Robot>(), "Shape::Line is missing here");
        assert_eq!(said::<theirs::order::Robot>(), "Shape: variant 1 is Point here, Circle there");
        assert_eq!(said::<theirs::tag::Robot>(), "Shape::Point: tag 0 here, 1 there");
        assert_eq!(said::<theirs::count::Robot>(), "Shape::Box has 2 fields here, 1 there");
        assert_eq!(
            said::<theirs::kind::Robot>(),
            "Shape::Circle has fields with names here, fields without names there"
        );
    }
}
