//! `Schema::to_json`: an archive from a peer, read by a schema from the same peer.
//!
//! The input is a schema and an archive; without a schema the archive is read as a known type, and then what
//! rkyv's own validation accepts must be readable here too.
#![no_main]

use hivemind_core::schema::{JsonBounds, Schema};
use hivemind_fuzz::messages::{ArchivedEverything, Everything};
use libfuzzer_sys::fuzz_target;
use rkyv::rancor::Failure;

/// Small, so that an input that reaches a bound takes no longer than others.
const BOUNDS: JsonBounds = JsonBounds { depth: 60, bytes: 64 * 1024, steps: 64 * 1024 };

fuzz_target!(|input: &[u8]| {
    let Some((schema, archive)) = hivemind_fuzz::split(input) else { return };
    let mut json = "kept".to_owned();
    if schema.is_empty() {
        let valid = rkyv::access::<ArchivedEverything, Failure>(&hivemind_fuzz::aligned(archive)).is_ok();
        let read = Schema::of::<Everything>().to_json(archive, &mut json);
        assert!(read.is_ok() || !valid, "{read:?}");
        return;
    }
    let Ok(schema) = Schema::from_bytes(schema) else { return };
    match schema.to_json_within(archive, &BOUNDS, &mut json) {
        Ok(()) => assert!(json.len() <= BOUNDS.bytes + 4),
        Err(error) => {
            assert_eq!(json, "kept");
            assert!(error.to_string().len() < 2000);
        }
    }
});
