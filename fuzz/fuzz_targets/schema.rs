//! `Schema::from_bytes`: bytes from a peer that says they describe a type.
//!
//! What is accepted is sound: it survives the way back, has a text, a fingerprint and a name of bounded
//! length, and can be compared.
#![no_main]

use hivemind_core::schema::Schema;
use hivemind_fuzz::messages::Everything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(schema) = Schema::from_bytes(input) else { return };
    let again = Schema::from_bytes(&schema.to_bytes()).expect("what was accepted is accepted again");
    assert_eq!(again, schema);
    assert_eq!(again.fingerprint(), schema.fingerprint());
    assert_eq!(schema.difference(&again), None);
    assert!(schema.type_name().len() < 1000);
    let ours = Schema::of::<Everything>();
    assert_eq!(schema.difference(&ours).is_none(), schema.fingerprint() == ours.fingerprint());
});
