//! Frames of links: any bytes, cut anywhere. Decoding never panics, takes nothing for a payload that is too
//! long, and what it accepts says the same again when it is encoded.
#![no_main]

use hivemind_core::link::frame::{CONTROL_MAX, FrameKind, HEADER, Header, PIECE_MAX};
use hivemind_core::link::greeting::{Hello, Role};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let us = Hello { role: Role::Peer, host: "here".to_owned(), epoch: 1, capabilities: 0 };
    if let Ok(hello) = Hello::judge(bytes, &us, None) {
        let frame = hello.encode();
        assert_eq!(Hello::judge(&frame[HEADER..], &us, Some(&hello.host)), Ok(hello));
    }
    let mut rest = bytes;
    while let Some(head) = rest.first_chunk::<HEADER>() {
        let Ok((header, mut checksum)) = Header::decode(head) else { return };
        let limit = if header.kind == FrameKind::Piece { PIECE_MAX } else { CONTROL_MAX };
        assert!(header.length <= limit);
        let Some(payload) = rest.get(HEADER..HEADER + header.length as usize) else { return };
        // In two parts or in one: the checksum is the same.
        let (first, second) = payload.split_at(payload.len() / 2);
        checksum.add(first);
        checksum.add(second);
        let encoded = header.encode(payload);
        assert_eq!(checksum.check().is_ok(), encoded == *head);
        let (again, _) = Header::decode(&encoded).expect("what was accepted is accepted again");
        assert_eq!(again, header);
        rest = &rest[HEADER + header.length as usize..];
    }
});
