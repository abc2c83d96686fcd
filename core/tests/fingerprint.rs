//! Fingerprints, written down.
//!
//! Programs of different builds compare fingerprints, so a change of one of these cuts every new program off
//! from every old one. If a test here fails and archives have not changed, the change is a mistake. If they
//! have, raise `SCHEMA_VERSION` and write the new ones down.

use std::collections::{BTreeMap, HashMap};

use hivemind_core::schema::{Describe, Primitive, Schema, TypeDef, TypeRef};
use hivemind_derive::message;

mod hivemind {
    pub(crate) use ::rkyv;
    pub(crate) use hivemind_core::schema;
}

#[message(crate = crate::hivemind)]
#[allow(dead_code)]
struct Pose {
    id: u64,
    x: f64,
    y: f64,
    frame: String,
}

#[message(crate = crate::hivemind)]
#[allow(dead_code)]
struct Stamped<T, const RATE: i8> {
    at: u128,
    value: Option<T>,
    previous: Vec<Stamped<T, RATE>>,
}

#[message(crate = crate::hivemind)]
#[allow(dead_code)]
enum Command {
    Stop,
    Turn(f32, bool),
    Drive { to: Pose, map: HashMap<u8, (char, Box<str>)> },
}

#[message(crate = crate::hivemind)]
#[allow(dead_code)]
struct Everything {
    unit: (),
    integers: (i8, i16, i32, i64, i128),
    more: (u8, u16, u32, u64, u128),
    floats: [[f32; 2]; 3],
    boxed: Box<[Option<Command>]>,
    tree: BTreeMap<String, Vec<Pose>>,
    sets: (std::collections::BTreeSet<u8>, std::collections::HashSet<(u8,)>),
    wait: std::time::Duration,
}

fn is<T: Describe + ?Sized>(text: &str, fingerprint: u128) {
    let schema = Schema::of::<T>();
    assert_eq!(schema.text(), text);
    assert_eq!(
        schema.fingerprint(),
        fingerprint,
        "{:#034x} is the fingerprint of\n{text}",
        schema.fingerprint()
    );
}

#[test]
fn plain_bytes_keep_their_fingerprint() {
    is::<[u8]>("hivemind schema 1\n[u8]\n", 0x8d3d_e9b3_c463_b2a1_8d01_39bf_ee8d_65f3);
}

#[test]
fn a_struct_keeps_its_fingerprint() {
    is::<Pose>(
        "hivemind schema 1\n\
         #0\n\
         #0 struct Pose {id: u64, x: f64, y: f64, frame: String}\n",
        0xbe43_e805_09d4_0398_1cfb_e4cc_62c9_d2fb,
    );
}

#[test]
fn a_generic_recursive_type_keeps_its_fingerprint() {
    is::<Stamped<Pose, -3>>(
        "hivemind schema 1\n\
         #0\n\
         #0 struct Stamped<#1, {-3}> {at: u128, value: Option<#1>, previous: Vec<#0>}\n\
         #1 struct Pose {id: u64, x: f64, y: f64, frame: String}\n",
        0x6920_9045_8881_d16c_3413_1514_89fb_7d4a,
    );
}

#[test]
fn a_type_with_everything_in_it_keeps_its_fingerprint() {
    is::<Everything>(
        "hivemind schema 1\n\
         #0\n\
         #0 struct Everything {unit: (), integers: (i8, i16, i32, i64, i128), more: (u8, u16, u32, u64, u128), \
         floats: [[f32; 2]; 3], boxed: Box<[Option<#1>]>, tree: BTreeMap<String, Vec<#2>>, \
         sets: (BTreeSet<u8>, HashSet<(u8,)>), wait: #3}\n\
         #1 enum Command {Stop = 0, Turn = 1 (f32, bool), Drive = 2 {to: #2, map: HashMap<u8, (char, Box<str>)>}}\n\
         #2 struct Pose {id: u64, x: f64, y: f64, frame: String}\n\
         #3 struct Duration {secs: u64, nanos: u32}\n",
        0xf300_59ed_d00c_813a_1822_273d_7597_619c,
    );
}

#[test]
fn a_fingerprint_survives_the_journey() {
    let schema = Schema::of::<Everything>();
    let received = Schema::from_bytes(&schema.to_bytes()).unwrap();
    assert_eq!(received.fingerprint(), schema.fingerprint());
}

#[test]
fn a_fingerprint_does_not_depend_on_the_order_of_the_table() {
    let byte = TypeDef::Primitive(Primitive::U8);
    let first =
        Schema::from_table(TypeRef::new(0), vec![TypeDef::Vec(TypeRef::new(1)), byte.clone()]).unwrap();
    let last = Schema::from_table(TypeRef::new(1), vec![byte, TypeDef::Vec(TypeRef::new(0))]).unwrap();
    assert_ne!(first, last);
    assert_eq!(first.fingerprint(), last.fingerprint());
    assert_eq!(first.fingerprint(), Schema::of::<Vec<u8>>().fingerprint());
    assert_eq!(first.difference(&last), None);
}
