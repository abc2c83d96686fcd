//! Archives that are damaged, and values that JSON cannot say.
use super::error::MAX_PATH_BYTES;
use super::*;
fn of<T: crate::schema::Describe>() -> Schema {
    Schema::of::<T>()
}

/// What is no archive has no JSON either, and the other way round.
fn json(schema: &Schema, archive: &[u8]) -> Result<String, DecodeError> {
    let mut out = String::new();
    let written = schema.to_json(archive, &mut out).map(|()| out);
    let checked = schema.check_archive(archive);
    match &written {
        Ok(_) => assert_eq!(checked, Ok(())),
        Err(error @ DecodeError::Corrupt { .. }) => assert_eq!(checked.as_ref(), Err(error)),
        Err(_) => {}
    }
    written
}

fn corruption(schema: &Schema, archive: &[u8]) -> Corruption {
    match json(schema, archive) {
        Err(DecodeError::Corrupt { corruption, .. }) => corruption,
        other => panic!("{other:?}"),
    }
}

/// Little-endian words, as archives are made of them.
fn words(words: &[i32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn an_archive_shorter_than_its_root_is_corrupt() {
    let too_short = Corruption::OutOfBounds { needed: 8, length: 7 };
    assert_eq!(corruption(&of::<u64>(), &[0; 7]), too_short);
    assert_eq!(corruption(&of::<u64>(), &[]), Corruption::OutOfBounds { needed: 8, length: 0 });
}

#[test]
fn a_pointer_out_of_the_archive_is_corrupt() {
    for offset in [-1, 13, i32::MIN, i32::MAX] {
        let archive = words(&[0, offset, 1]);
        let expected = match offset {
            13 | i32::MIN | i32::MAX => Corruption::Pointer { offset },
            // Back into the archive, to a byte that is there.
            _ => {
                assert!(json(&of::<Vec<bool>>(), &archive).is_ok());
                continue;
            }
        };
        assert_eq!(corruption(&of::<Vec<bool>>(), &archive), expected);
    }
}

#[test]
fn what_begins_inside_and_ends_outside_is_corrupt() {
    let out_of_bounds = Corruption::OutOfBounds { needed: 16, length: 12 };
    assert_eq!(corruption(&of::<Vec<u64>>(), &words(&[0, -4, 2])), out_of_bounds);
    let huge = Corruption::OutOfBounds { needed: u64::from(u32::MAX) * 16, length: 8 };
    assert_eq!(corruption(&of::<Vec<u128>>(), &words(&[0, -1])), huge);
}

#[test]
fn the_pointer_of_an_empty_sequence_is_not_followed() {
    assert_eq!(json(&of::<Vec<u64>>(), &words(&[i32::MAX, 0])).unwrap(), "[]");
    assert_eq!(json(&of::<Box<str>>(), &words(&[i32::MAX, 0])).unwrap(), "\"\"");
}

#[test]
fn bytes_that_stand_for_nothing_are_corrupt() {
    assert_eq!(corruption(&of::<bool>(), &[2]), Corruption::Tag { found: 2 });
    assert_eq!(corruption(&of::<Option<u8>>(), &[9, 0]), Corruption::Tag { found: 9 });
    assert_eq!(corruption(&of::<char>(), &words(&[0xd800])), Corruption::Char { found: 0xd800 });
    assert_eq!(corruption(&of::<String>(), &[b'a', 0xc3, 0xff, 0, 0, 0, 0, 0]), Corruption::Utf8);
    // 8 bytes elsewhere, which rkyv would have stored in place.
    assert_eq!(corruption(&of::<String>(), &words(&[0x88, -8])), Corruption::StringForm);
}

#[test]
fn an_error_says_where_in_the_message() {
    #[hivemind_derive::message(crate = crate::schema::tests)]
    #[derive(Debug)]
    struct Robot {
        arms: Vec<Arm>,
    }
    #[hivemind_derive::message(crate = crate::schema::tests)]
    #[derive(Debug)]
    enum Arm {
        Missing,
        Present { joints: [Option<bool>; 2] },
    }
    let joints = [Some(true), Some(false)];
    let robot = Robot { arms: vec![Arm::Missing, Arm::Present { joints }] };
    let mut archive = rkyv::to_bytes::<rkyv::rancor::Error>(&robot).unwrap().to_vec();
    assert_eq!(json(&of::<Robot>(), &archive).unwrap().matches("joints").count(), 1);
    // The second arm: tag, then twice a tag and a bool.
    archive[5 + 4] = 7;
    let error = json(&of::<Robot>(), &archive).unwrap_err();
    assert!(error.to_string().starts_with("Robot.arms[1]::Present.joints[1]: 7 is none of"), "{error}");
}

#[test]
fn an_error_leaves_the_output_as_it_was() {
    let mut out = "before".to_owned();
    let corrupt = [1, 0, 2];
    assert!(of::<[bool; 3]>().to_json(&corrupt, &mut out).is_err());
    assert_eq!(out, "before");
}

/// A box that points at itself: Rust's types cannot build it, a stranger can.
#[test]
fn a_value_that_contains_itself_is_too_deep() {
    #[hivemind_derive::message(crate = crate::schema::tests)]
    struct Chain(Box<Chain>);
    #[hivemind_derive::message(crate = crate::schema::tests)]
    struct Bush(Vec<Bush>);

    for (schema, archive) in [(of::<Chain>(), words(&[0])), (of::<Bush>(), words(&[0, 1]))] {
        let error = json(&schema, &archive).unwrap_err();
        assert!(matches!(error, DecodeError::TooDeep { limit: MAX_DEPTH, .. }), "{error}");
        assert!(error.to_string().len() < 2 * MAX_PATH_BYTES, "{error}");
    }
}

/// Four billion units take no bytes in the archive, and would take five times as many as text.
#[test]
fn elements_without_size_are_bounded_by_their_text() {
    let error = json(&of::<Vec<()>>(), &words(&[0, -1])).unwrap_err();
    assert_eq!(error, DecodeError::TooLong { limit: MAX_JSON_BYTES });
}

/// Many maps share one long run of control bytes that say "empty" until the last: little text, much to scan.
#[test]
fn what_takes_long_and_writes_little_is_bounded_by_its_steps() {
    let maps = 200;
    let controls = 100_000;
    let mut archive = vec![0; 4 + controls];
    archive.extend(vec![0xff; controls - 1]);
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    let controls_at = 4 + controls;
    let first = archive.len();
    for map in 0..maps {
        let at = first + map * 12;
        let offset = controls_at as i32 - at as i32;
        archive.extend(words(&[offset, 1, controls as i32]));
    }
    archive.extend(words(&[-12 * maps as i32, maps as i32]));
    let sets = of::<Vec<std::collections::HashSet<u8>>>();
    assert!(json(&sets, &archive).is_ok());
    let bounds = JsonBounds { steps: 1_000_000, ..JsonBounds::default() };
    let error = sets.to_json_within(&archive, &bounds, &mut String::new()).unwrap_err();
    assert_eq!(error, DecodeError::TooManySteps { limit: 1_000_000 });
}

#[test]
fn a_map_has_the_length_it_claims() {
    // Three entries, last first, three control bytes (0 is full, 0xff empty), then the map.
    let table = |controls: [u8; 3], length, capacity| {
        let mut table = vec![7, 6, 5];
        table.extend(controls);
        table.extend([0xff; 2]);
        table.extend(words(&[-5, length, capacity]));
        table
    };
    let set = of::<std::collections::HashSet<u8>>();
    assert_eq!(json(&set, &table([0, 0xff, 0], 2, 3)).unwrap(), "[5,7]");
    for (controls, length, capacity) in [([0, 0xff, 0xff], 2, 3), ([0, 0, 0xff], 1, 3), ([0, 0, 0], 3, 3)] {
        assert_eq!(corruption(&set, &table(controls, length, capacity)), Corruption::MapLength);
    }
    // A leaf of two entries, the map says one or three.
    for length in [1, 3] {
        let mut tree = vec![0, 1, 2, 0, 0, 0, 0, 0];
        tree.extend(words(&[2, -12, length]));
        assert_eq!(corruption(&of::<std::collections::BTreeSet<u8>>(), &tree), Corruption::MapLength);
    }
}

/// Its entries lie before its control bytes; these would begin before the first byte of the message.
#[test]
fn a_table_has_room_for_its_entries() {
    let set = of::<std::collections::HashSet<u64>>();
    let mut table = vec![0; 8];
    table.extend([0xff, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    table.extend(words(&[-8, 1, 2]));
    assert_eq!(corruption(&set, &table), Corruption::MapLength);
}

#[test]
fn a_leaf_has_no_more_entries_than_fit() {
    let mut tree = vec![0; 8];
    tree.extend(words(&[6, -12, 6]));
    assert_eq!(corruption(&of::<std::collections::BTreeSet<u8>>(), &tree), Corruption::Tree);
}

#[test]
fn a_tree_is_not_climbed_for_ever() {
    // An inner node whose first child is itself.
    let mut tree = vec![1, 0, 0, 0, 0, 0, 0, 0];
    tree.extend(words(&[-8, 1, 1, 1, 1, 1]));
    tree.extend(words(&[-32, 1000]));
    assert_eq!(corruption(&of::<std::collections::BTreeSet<u8>>(), &tree), Corruption::Tree);
    tree[0] = 2;
    assert_eq!(corruption(&of::<std::collections::BTreeSet<u8>>(), &tree), Corruption::Tree);
}

#[test]
fn numbers_keep_all_their_digits() {
    assert_eq!(json(&of::<u64>(), &[0xff; 8]).unwrap(), "18446744073709551615");
    assert_eq!(json(&of::<i64>(), &i64::MIN.to_le_bytes()).unwrap(), "-9223372036854775808");
    let widest = "\"340282366920938463463374607431768211455\"";
    assert_eq!(json(&of::<u128>(), &[0xff; 16]).unwrap(), widest);
    assert_eq!(json(&of::<i128>(), &[0xff; 16]).unwrap(), "\"-1\"");
    assert_eq!(json(&of::<f32>(), &0.1f32.to_le_bytes()).unwrap(), "0.1");
    assert_eq!(json(&of::<f64>(), &f64::MAX.to_le_bytes()).unwrap(), "1.7976931348623157e308");
    assert_eq!(json(&of::<f64>(), &(-0.0f64).to_le_bytes()).unwrap(), "-0.0");
}

#[test]
fn numbers_that_json_lacks_are_strings() {
    for (value, expected) in
        [(f64::NAN, "\"NaN\""), (f64::INFINITY, "\"inf\""), (f64::NEG_INFINITY, "\"-inf\"")]
    {
        assert_eq!(json(&of::<f64>(), &value.to_le_bytes()).unwrap(), expected);
        assert_eq!(json(&of::<f32>(), &(value as f32).to_le_bytes()).unwrap(), expected);
    }
}

#[test]
fn text_cannot_steer_a_terminal() {
    let text: Box<str> = "a\"b\\c\n\r\t\u{0}\u{1b}[2J\u{7f}\u{9b}ä".into();
    let archive = rkyv::to_bytes::<rkyv::rancor::Error>(&text).unwrap();
    let json = json(&of::<Box<str>>(), &archive).unwrap();
    assert_eq!(json, r#""a\"b\\c\n\r\t\u0000\u001b[2J\u007f\u009bä""#);
    assert_eq!(serde_json::from_str::<String>(&json).unwrap(), *text);
}

#[test]
fn bytes_show_how_many_they_are_and_how_they_begin() {
    assert_eq!(json(&Schema::of::<[u8]>(), b"\x00\xff").unwrap(), r#"{"bytes":2,"first":"00ff"}"#);
    assert_eq!(json(&Schema::of::<[u8]>(), b"").unwrap(), r#"{"bytes":0,"first":""}"#);
    let frame = vec![0xab; 1 << 20];
    let shown = format!(r#"{{"bytes":1048576,"first":"{}"}}"#, "ab".repeat(32));
    assert_eq!(json(&Schema::of::<[u8]>(), &frame).unwrap(), shown);
    let archive = rkyv::to_bytes::<rkyv::rancor::Error>(&frame).unwrap();
    assert_eq!(json(&of::<Vec<u8>>(), &archive).unwrap(), shown);
    assert_eq!(json(&of::<[u8; 3]>(), &[1, 2, 3]).unwrap(), r#"{"bytes":3,"first":"010203"}"#);
}
