//! The control protocol: a packet from whoever connected to the socket.
//!
//! What is accepted survives the way back, and stays within the bounds of the protocol.
#![no_main]

use std::fmt::Debug;

use hivemind_core::protocol::{self, DecodeError, MAX_PACKET, Message, ToNode, ToRoot};
use libfuzzer_sys::fuzz_target;
use rkyv::util::AlignedVec;

fuzz_target!(|input: &[u8]| {
    let Some((descriptors, packet)) = input.split_first() else { return };
    let packet = hivemind_fuzz::aligned(packet);
    receive::<ToRoot>(&packet, usize::from(*descriptors));
    receive::<ToNode>(&packet, usize::from(*descriptors));
});

fn receive<M: Message + Debug + PartialEq>(packet: &[u8], descriptors: usize) {
    match protocol::decode::<M>(packet, descriptors) {
        Ok(message) => {
            assert_eq!(message.descriptors(), descriptors);
            assert!(packet.len() <= MAX_PACKET);
            let mut again = AlignedVec::new();
            // rkyv may write more bytes than a packet that shares parts; a packet that says it is too long is
            // right.
            if protocol::encode(&message, &mut again).is_ok() {
                assert_eq!(protocol::decode::<M>(&again, descriptors), Ok(message));
            }
        }
        Err(DecodeError::Descriptors { expected, found }) => {
            assert!(expected != found && found == descriptors)
        }
        Err(_) => {}
    }
    let _ = protocol::decode_unaccompanied::<M>(packet);
}
