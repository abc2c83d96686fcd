//! Messages as bytes, and back: one message is one packet. Every packet is a stranger's input, and is checked
//! here.
use rkyv::rancor::{self, ResultExt as _};
use rkyv::util::AlignedVec;

use super::entity::Carrier;
use super::message::{ToNode, ToRoot};
use super::{CONNECTED_PER_PACKET, MAX_PACKET, MAX_REASON, VERSION};

const MAGIC: [u8; 4] = *b"HMcp";
/// Bytes before the archive.
const HEAD: usize = 16;

/// Why a packet is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than its head, longer than any packet, or of another protocol. Something else uses this
    /// socket.
    #[error("a packet of {length} bytes is not of this protocol")]
    Foreign {
        /// Its bytes.
        length: usize,
    },
    /// Of another version. Use programs of one version in a hive.
    #[error("a packet of protocol version {theirs}, here is {VERSION}")]
    Version {
        /// What the peer speaks.
        theirs: u32,
    },
    /// The archive is damaged, or a text in it is longer than allowed. The peer is damaged or hostile.
    #[error("a damaged packet of {length} bytes")]
    Damaged {
        /// Its bytes.
        length: usize,
    },
    /// Surplus or missing descriptors. The peer is damaged or hostile, or this process has none left.
    #[error("a packet that says {expected} descriptors came with {found}")]
    Descriptors {
        /// What the packet says.
        expected: usize,
        /// What came.
        found: usize,
    },
}

/// A message longer than a packet; shorten its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a control message of {length} bytes; {MAX_PACKET} are possible, so describe a smaller type")]
pub struct TooLong {
    /// Its bytes.
    pub length: usize,
}

/// Writes `message` over `packet`, head and all.
///
/// # Errors
/// [`TooLong`]; `packet` then holds nothing of use.
pub fn encode<M: Message>(message: &M, packet: &mut AlignedVec) -> Result<(), TooLong> {
    packet.clear();
    packet.extend_from_slice(&MAGIC);
    packet.extend_from_slice(&VERSION.to_le_bytes());
    packet.extend_from_slice(&[0; 8]);
    message.append(packet);
    if packet.len() > MAX_PACKET {
        return Err(TooLong { length: packet.len() });
    }
    Ok(())
}

/// Reads a message out of a packet and checks everything that can be checked without knowing the state of a
/// hive. `packet` must be aligned to 16, as an [`AlignedVec`] is.
///
/// # Errors
/// [`DecodeError`].
pub fn decode<M: Message>(packet: &[u8], descriptors: usize) -> Result<M, DecodeError> {
    let message: M = decode_unaccompanied(packet)?;
    let expected = message.descriptors();
    if expected != descriptors {
        return Err(DecodeError::Descriptors { expected, found: descriptors });
    }
    Ok(message)
}

/// As [`decode`], for a packet whose descriptors this process could not take.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_unaccompanied<M: Message>(packet: &[u8]) -> Result<M, DecodeError> {
    let length = packet.len();
    if !(HEAD..=MAX_PACKET).contains(&length) || packet[..4] != MAGIC {
        return Err(DecodeError::Foreign { length });
    }
    let theirs = u32::from_le_bytes([packet[4], packet[5], packet[6], packet[7]]);
    if theirs != VERSION {
        return Err(DecodeError::Version { theirs });
    }
    let message = M::read(&packet[HEAD..]).ok_or(DecodeError::Damaged { length })?;
    if !message.is_bounded() {
        return Err(DecodeError::Damaged { length });
    }
    Ok(message)
}

/// [`ToRoot`] or [`ToNode`].
pub trait Message: sealed::Sealed + Sized {
    /// How many descriptors travel beside the packet.
    fn descriptors(&self) -> usize;
    #[doc(hidden)]
    fn append(&self, packet: &mut AlignedVec);
    #[doc(hidden)]
    fn read(archive: &[u8]) -> Option<Self>;
    #[doc(hidden)]
    fn is_bounded(&self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ToRoot {}
    impl Sealed for super::ToNode {}
}

macro_rules! archive_by_rkyv {
    () => {
        fn append(&self, packet: &mut AlignedVec) {
            let taken = std::mem::take(packet);
            // Writing to memory that grows cannot fail: there are no shared pointers and no fixed bounds.
            *packet = rkyv::api::high::to_bytes_in::<_, rancor::Panic>(self, taken).always_ok();
        }

        fn read(archive: &[u8]) -> Option<Self> {
            rkyv::from_bytes::<Self, rancor::Failure>(archive).ok()
        }
    };
}

impl Message for ToRoot {
    archive_by_rkyv!();

    fn descriptors(&self) -> usize {
        match self {
            ToRoot::Hello { bells: carrier, .. }
            | ToRoot::Attach { reader: carrier, .. }
            | ToRoot::Lend { ring: carrier, .. }
            | ToRoot::Inspected { segment: Some(carrier), .. } => carrier.descriptors(),
            ToRoot::Attached { ring, bells, .. } => {
                ring.descriptors() + bells.as_ref().map_or(0, Carrier::descriptors)
            }
            _ => 0,
        }
    }

    fn is_bounded(&self) -> bool {
        match self {
            ToRoot::Hello { bells: carrier, .. }
            | ToRoot::Attach { reader: carrier, .. }
            | ToRoot::Lend { ring: carrier, .. }
            | ToRoot::Inspected { segment: Some(carrier), .. } => carrier.is_bounded(),
            ToRoot::Attached { ring, bells, .. } => {
                ring.is_bounded() && bells.as_ref().is_none_or(Carrier::is_bounded)
            }
            ToRoot::Connected { connections, .. } => connections.len() <= CONNECTED_PER_PACKET,
            ToRoot::AttachRefused { reason, .. } => reason.len() <= MAX_REASON,
            // Names, filters and schemas are checked by the registry, which answers with the reason.
            _ => true,
        }
    }
}

impl Message for ToNode {
    archive_by_rkyv!();

    fn descriptors(&self) -> usize {
        match self {
            ToNode::Attach { reader, bells, .. } => {
                reader.descriptors() + bells.as_ref().map_or(0, Carrier::descriptors) + 1
            }
            ToNode::Attached { ring, bells, .. } => ring.descriptors() + bells.descriptors() + 1,
            ToNode::Inspected { segment, .. } => segment.descriptors(),
            ToNode::Keep { .. } => 1,
            _ => 0,
        }
    }

    fn is_bounded(&self) -> bool {
        match self {
            ToNode::Attach { reader, bells, .. } => {
                reader.is_bounded() && bells.as_ref().is_none_or(Carrier::is_bounded)
            }
            ToNode::Attached { ring, bells, .. } => ring.is_bounded() && bells.is_bounded(),
            ToNode::Inspected { segment, .. } => segment.is_bounded(),
            ToNode::Match { matched, .. } => matched.kind.is_bounded(),
            ToNode::Skipped { carried, .. } => carried.kind.is_bounded(),
            ToNode::AttachRefused { reason, .. } => reason.len() <= MAX_REASON,
            ToNode::Misfits { first, .. } => first.as_ref().is_none_or(|misfit| misfit.asks.is_bounded()),
            ToNode::Keep { offer, .. } => offer.kind.is_bounded() && offer.author.former().is_some(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Asks, Carried, Kind, MAX_SCHEMA, Pattern, SubscriberRole};
    use crate::end::EndId;
    use crate::name::NodeName;
    use crate::protocol::{Connected, Demand, Refusal, bounded_reason};
    use proptest::prelude::*;
    use rkyv::{Archive, Deserialize, Serialize};

    fn demand() -> ToRoot {
        let kind = Some(Kind { fingerprint: u128::MAX - 5, schema: vec![1, 2, 3] });
        let role = SubscriberRole::Member { group: "workers".parse().unwrap(), at_least_once: true };
        let asks = Asks { kind, pattern: Pattern::Jobs, role };
        ToRoot::Demand {
            request: 7,
            demand: Demand {
                connected: vec![Connected { publisher: EndId { node: 9, index: 1 }, seat: 4 }],
                ..Demand::new(3, "sensors/*", asks)
            },
        }
    }

    /// With names as long as there are.
    fn carried(schema: usize) -> Carried {
        Carried {
            service: "x".repeat(200).parse().unwrap(),
            pattern: Pattern::Messages,
            kind: Kind { fingerprint: 1, schema: vec![0; schema] },
            holder: "y".repeat(64).parse().unwrap(),
        }
    }

    /// As a peer would write it that checks no names.
    #[derive(Archive, Serialize)]
    struct Unchecked {
        name: String,
    }

    #[derive(Archive, Deserialize, Debug, PartialEq)]
    struct Checked {
        name: NodeName,
    }

    #[test]
    fn a_name_on_the_wire_that_is_none_is_damage() {
        for (name, is_one) in [("camera", true), ("", false), ("a/b", false), ("a b", false)] {
            let bytes = rkyv::to_bytes::<rancor::Error>(&Unchecked { name: name.to_owned() }).unwrap();
            assert_eq!(rkyv::from_bytes::<Checked, rancor::Failure>(&bytes).is_ok(), is_one, "{name:?}");
        }
    }

    fn packet<M: Message>(message: &M) -> AlignedVec {
        let mut packet = AlignedVec::new();
        encode(message, &mut packet).unwrap();
        packet
    }

    #[test]
    fn a_message_survives_the_way() {
        let message = demand();
        assert_eq!(decode::<ToRoot>(&packet(&message), 0), Ok(message));
        let message = ToNode::Attached {
            subscriber: 1,
            publisher: EndId { node: 2, index: 3 },
            user: 1000,
            is_stranger: true,
            start: 4,
            ring: Carrier::Descriptor,
            bells: Carrier::Named("bells".into()),
            gone: true,
        };
        assert_eq!(decode::<ToNode>(&packet(&message), 2), Ok(message));
    }

    #[test]
    fn surplus_and_missing_descriptors_are_malformed() {
        let message = ToRoot::Attached {
            publisher: 0,
            subscriber: EndId { node: 1, index: 1 },
            start: 0,
            ring: Carrier::Descriptor,
            bells: Some(Carrier::Descriptor),
        };
        for found in [0, 1, 3] {
            assert_eq!(
                decode::<ToRoot>(&packet(&message), found),
                Err(DecodeError::Descriptors { expected: 2, found })
            );
        }
        assert!(decode::<ToRoot>(&packet(&ToRoot::Leave), 1).is_err());
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut packet = packet(&ToRoot::Leave);
        packet[4] = 9;
        assert_eq!(decode::<ToRoot>(&packet, 0), Err(DecodeError::Version { theirs: 9 }));
        packet[0] = 0;
        assert!(matches!(decode::<ToRoot>(&packet, 0), Err(DecodeError::Foreign { .. })));
        assert!(matches!(decode::<ToRoot>(&packet[..3], 0), Err(DecodeError::Foreign { length: 3 })));
    }

    #[test]
    fn the_longest_tables_fit_into_a_packet() {
        let connections =
            vec![Connected { publisher: EndId { node: 1, index: 1 }, seat: 1 }; CONNECTED_PER_PACKET];
        let length = packet(&ToRoot::Connected { subscriber: 1, connections }).len();
        assert!(length <= MAX_PACKET, "{length}");
        let carried = carried(MAX_SCHEMA);
        let refusal = Refusal::OtherType(Box::new(carried.clone()));
        packet(&ToNode::Refused { request: Some(1), refusal });
        packet(&ToNode::Skipped { subscriber: 1, carried: Box::new(carried) });
    }

    #[test]
    fn a_message_longer_than_a_packet_is_refused() {
        let mut packet = AlignedVec::new();
        let message = ToNode::Skipped { subscriber: 0, carried: Box::new(carried(MAX_PACKET)) };
        assert!(encode(&message, &mut packet).is_err());
    }

    // Once a guest's reason cleared the screen of `hm echo` and wrote an error of its own.
    #[test]
    fn a_reason_of_a_stranger_steers_no_terminal_and_forges_no_line() {
        let hostile = "no\u{1b}[2J\u{9b}31m\r\n2026-11-29 ERROR forged\u{202e}dlrow\u{7}".to_owned();
        let shown = bounded_reason(hostile);
        assert_eq!(shown, r"no\u{1b}[2J\u{9b}31m\r\n2026-11-29 ERROR forged\u{202e}dlrow\u{7}");
        assert!(bounded_reason("\u{1b}".repeat(100_000)).len() <= MAX_REASON);
        assert_eq!(bounded_reason("schön: 5 µs".to_owned()), "schön: 5 µs");
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(bounded_reason("ä".repeat(1000)).len(), MAX_REASON);
        assert_eq!(bounded_reason(format!("x{}", "ä".repeat(1000))).len(), MAX_REASON - 1);
    }

    proptest! {
        /// Damaged packets are refused or mean something else; they never panic, and what they mean is no
        /// larger than they are.
        #[test]
        fn a_damaged_packet_harms_nobody(place in 8usize..200, byte: u8, cut in 0usize..200, descriptors in 0usize..4) {
            let mut packet = packet(&demand());
            let place = place % packet.len();
            packet[place] = byte;
            let cut = packet.len() - cut.min(packet.len());
            let _ = decode::<ToRoot>(&packet[..cut], descriptors);
            let _ = decode::<ToNode>(&packet, descriptors);
        }

        #[test]
        fn noise_behind_a_good_head_harms_nobody(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut packet = packet(&ToRoot::Leave);
            packet.resize(HEAD, 0);
            packet.extend_from_slice(&noise);
            let _ = decode::<ToRoot>(&packet, 0);
            let _ = decode::<ToNode>(&packet, 0);
        }
    }
}
