//! Frames: how what two hosts say to each other lies in the stream of bytes between them.
//!
//! ```text
//! 0        4    5     6    8       12         16         24       28      32
//! +--------+----+-----+----+-------+----------+----------+--------+-------+---------------------+
//! | length |kind|flags|zero|stream | checksum | sequence | offset | total | payload: length     |
//! +--------+----+-----+----+-------+----------+----------+--------+-------+---------------------+
//! ```
//!
//! All little endian. `checksum` is the CRC32C of header and payload, with itself as zero; it finds what is
//! damaged, not what is forged. With [`UNSUMMED`] it is that of the header alone. Every limit is checked on
//! the 32 bytes of the header ([`Header::decode`]), before anything is taken for the payload. The payload of
//! a piece is a part of a message, and goes straight from the socket to its place in shared memory while
//! [`Checksum`] counts along; the payload of any other kind is an archive of `link::peering`.
//!
//! If a peer dies inside of a frame the rest never comes, and the frame never existed.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a header.
pub const HEADER: usize = 32;
/// The longest payload of a frame that carries no part of a message, in bytes.
pub const CONTROL_MAX: u32 = 64 * 1024;
/// The longest part of a message in one frame, in bytes. Senders keep to less, see [`PIECE`].
pub const PIECE_MAX: u32 = 256 * 1024;
/// The longest part that is sent here: other streams wait no longer than this takes.
pub const PIECE: u32 = 64 * 1024;
/// No message has this number or a higher one, so sums of numbers do not wrap.
pub const SEQUENCE_END: u64 = 1 << 62;

/// The first part of a message.
pub const FIRST: u8 = 1;
/// The last part of a message.
pub const LAST: u8 = 2;
/// The checksum covers the header alone: a part of a message, on a connection that notices by itself what was
/// changed (TLS).
pub const UNSUMMED: u8 = 4;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The host that speaks; the first frame of each side.
    Hello = 1,
    /// What the subscribers here want.
    Interest = 2,
    /// A stream begins, or begins again on this connection.
    Open = 3,
    /// The answer to `Open`: begin; or no, and why; or (to `End`) that it is over.
    Opened = 4,
    /// A part of a message.
    Piece = 5,
    /// What has arrived, and how much more may come.
    Credit = 6,
    /// The stream ends at this number.
    End = 7,
    /// The answer to `Open` of a stream that is known here: go on from this number.
    Resume = 8,
    /// Are you there?
    Ping = 9,
    /// I am.
    Pong = 10,
    /// The link closes; why.
    Bye = 11,
}

impl FrameKind {
    fn of(byte: u8) -> Option<FrameKind> {
        const KINDS: [FrameKind; 11] = [
            FrameKind::Hello,
            FrameKind::Interest,
            FrameKind::Open,
            FrameKind::Opened,
            FrameKind::Piece,
            FrameKind::Credit,
            FrameKind::End,
            FrameKind::Resume,
            FrameKind::Ping,
            FrameKind::Pong,
            FrameKind::Bye,
        ];
        KINDS.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// True: it speaks of one stream. False: of the link, and its stream is 0.
    fn of_stream(self) -> bool {
        matches!(
            self,
            FrameKind::Open
                | FrameKind::Opened
                | FrameKind::Piece
                | FrameKind::Credit
                | FrameKind::End
                | FrameKind::Resume
        )
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FrameKind::Hello => "hello",
            FrameKind::Interest => "interest",
            FrameKind::Open => "open",
            FrameKind::Opened => "opened",
            FrameKind::Piece => "piece",
            FrameKind::Credit => "credit",
            FrameKind::End => "end",
            FrameKind::Resume => "resume",
            FrameKind::Ping => "ping",
            FrameKind::Pong => "pong",
            FrameKind::Bye => "bye",
        })
    }
}

/// The head of a frame, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub length: u32,
    /// What it is for.
    pub kind: FrameKind,
    /// [`FIRST`], [`LAST`], [`UNSUMMED`].
    pub flags: u8,
    /// Which stream; chosen by the sender of its messages. 0: the link itself.
    pub stream: u32,
    /// A number of a message.
    pub sequence: u64,
    /// Where the payload lies in the message.
    pub offset: u32,
    /// Bytes of the message.
    pub total: u32,
}

impl Header {
    /// Of a frame that carries no part of a message.
    #[must_use]
    pub fn control(kind: FrameKind, stream: u32, sequence: u64, length: u32) -> Header {
        Header { length, kind, flags: 0, stream, sequence, offset: 0, total: 0 }
    }

    /// Of the part of a message that begins at `offset` and has `length` bytes.
    #[must_use]
    pub fn piece(stream: u32, sequence: u64, offset: u32, length: u32, total: u32) -> Header {
        let first = if offset == 0 { FIRST } else { 0 };
        let last = if offset + length == total { LAST } else { 0 };
        Header { length, kind: FrameKind::Piece, flags: first | last, stream, sequence, offset, total }
    }

    /// The same, with [`UNSUMMED`].
    #[must_use]
    pub fn unsummed(self) -> Header {
        Header { flags: self.flags | UNSUMMED, ..self }
    }

    /// True: the message is complete with this piece.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }

    /// The bytes, with the checksum over them and `payload`.
    #[must_use]
    pub fn encode(&self, payload: &[u8]) -> [u8; HEADER] {
        let mut bytes = self.bare();
        let mut checksum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        checksum.update(&bytes);
        if self.flags & UNSUMMED == 0 {
            checksum.update(payload);
        }
        bytes[12..16].copy_from_slice(&crc32(&checksum).to_le_bytes());
        bytes
    }

    /// Reads a header and checks every limit; then the payload may be read.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(bytes: &[u8; HEADER]) -> Result<(Header, Checksum), FrameError> {
        let header = Header {
            length: u32_at(bytes, 0),
            kind: FrameKind::of(bytes[4]).ok_or(FrameError::FrameKind { kind: bytes[4] })?,
            flags: bytes[5],
            stream: u32_at(bytes, 8),
            sequence: u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")),
            offset: u32_at(bytes, 24),
            total: u32_at(bytes, 28),
        };
        if bytes[6] != 0 || bytes[7] != 0 {
            return Err(FrameError::Reserved);
        }
        header.check()?;
        let mut counted = Digest::new(CrcAlgorithm::Crc32Iscsi);
        counted.update(&header.bare());
        let is_summed = header.flags & UNSUMMED == 0;
        Ok((header, Checksum { expected: u32_at(bytes, 12), counted, is_summed }))
    }

    fn check(&self) -> Result<(), FrameError> {
        let Header { length, kind, .. } = *self;
        let limit = if kind == FrameKind::Piece { PIECE_MAX } else { CONTROL_MAX };
        if length > limit {
            return Err(FrameError::TooLong { kind, length, limit });
        }
        if kind.of_stream() != (self.stream != 0) {
            return Err(FrameError::Stream { kind, stream: self.stream });
        }
        if self.sequence >= SEQUENCE_END {
            return Err(FrameError::Sequence { sequence: self.sequence });
        }
        let sound = if kind == FrameKind::Piece {
            let end = u64::from(self.offset) + u64::from(length);
            let total = u64::from(self.total);
            let flags = (u8::from(self.offset == 0) * FIRST) | (u8::from(end == total) * LAST);
            end <= total && self.flags & !UNSUMMED == flags && (length > 0 || total == 0)
        } else {
            self.flags == 0 && self.offset == 0 && self.total == 0
        };
        if !sound {
            return Err(FrameError::Place {
                kind,
                flags: self.flags,
                offset: self.offset,
                length,
                total: self.total,
            });
        }
        Ok(())
    }

    /// The bytes, with a checksum of zero.
    fn bare(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[8..12].copy_from_slice(&self.stream.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.offset.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The result, of which the upper half is always zero.
fn crc32(digest: &Digest) -> u32 {
    digest.finalize() as u32
}

/// Counts over a frame as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Checksum {
    expected: u32,
    counted: Digest,
    /// The payload counts.
    is_summed: bool,
}

impl Checksum {
    /// More of the payload.
    pub fn add(&mut self, payload: &[u8]) {
        if self.is_summed {
            self.counted.update(payload);
        }
    }

    /// After the last byte: is the frame as it was sent?
    ///
    /// # Errors
    /// [`FrameError::Checksum`].
    pub fn check(&self) -> Result<(), FrameError> {
        let (expected, counted) = (self.expected, crc32(&self.counted));
        if counted == expected { Ok(()) } else { Err(FrameError::Checksum { expected, counted }) }
    }
}

/// Why bytes are no frame. The connection that they came on closes: where the next frame begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// There is no such kind. Something else is connected, or the peer is damaged.
    #[error("a frame of kind {kind}, which there is not; look for what else connects here")]
    FrameKind {
        /// The number.
        kind: u8,
    },
    /// Bytes that are zero in this version are not. The peer is damaged or hostile.
    #[error("a frame whose reserved bytes are not zero; the peer is damaged or hostile")]
    Reserved,
    /// Longer than a frame may be. The peer is damaged or hostile.
    #[error("a {kind} frame of {length} bytes, {limit} are possible; the peer is damaged or hostile")]
    TooLong {
        /// What it is for.
        kind: FrameKind,
        /// Bytes of its payload.
        length: u32,
        /// How many there may be.
        limit: u32,
    },
    /// A frame of a stream names none, or one of the link names a stream. The peer is damaged or hostile.
    #[error("a {kind} frame with the stream {stream}; the peer is damaged or hostile")]
    Stream {
        /// What it is for.
        kind: FrameKind,
        /// The stream.
        stream: u32,
    },
    /// No message has such a number. The peer is damaged or hostile.
    #[error(
        "a frame with the sequence number {sequence}, which no message has; the peer is damaged or hostile"
    )]
    Sequence {
        /// The number.
        sequence: u64,
    },
    /// The part does not lie in its message, is empty, or is marked as what it is not. The peer is damaged or
    /// hostile.
    #[error(
        "a {kind} frame with flags {flags} and bytes {offset}+{length} of {total}; the peer is damaged or hostile"
    )]
    Place {
        /// What it is for.
        kind: FrameKind,
        /// Its flags.
        flags: u8,
        /// Where it begins.
        offset: u32,
        /// Bytes of its payload.
        length: u32,
        /// Bytes of the message.
        total: u32,
    },
    /// A part of a message without a checksum, on a connection that does not notice by itself what was
    /// changed. The peer is damaged or hostile.
    #[error("a part of a message without a checksum; the peer is damaged or hostile")]
    Unsummed,
    /// What came is not what was sent. Look at the network in between.
    #[error(
        "a frame with the checksum {expected:08x} that counts {counted:08x}; look at the network in between"
    )]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the bytes are.
        counted: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn received(bytes: [u8; HEADER], payload: &[u8]) -> Result<Header, FrameError> {
        let (header, mut checksum) = Header::decode(&bytes)?;
        let (begin, end) = payload.split_at(payload.len() / 2);
        checksum.add(begin);
        checksum.add(end);
        checksum.check()?;
        Ok(header)
    }

    fn headers() -> impl Strategy<Value = Header> {
        let pieces = (1..u32::MAX, 0..SEQUENCE_END, 0..1000u32, 1..1000u32, 0..1000u32).prop_map(
            |(stream, sequence, offset, length, more)| {
                Header::piece(stream, sequence, offset, length, offset + length + more)
            },
        );
        let unsummed = (1..u32::MAX, 0..SEQUENCE_END)
            .prop_map(|(stream, sequence)| Header::piece(stream, sequence, 0, 0, 0).unsummed());
        let controls = (0..SEQUENCE_END, 0..1000u32)
            .prop_map(|(sequence, length)| Header::control(FrameKind::Interest, 0, sequence, length));
        prop_oneof![pieces, unsummed, controls]
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_as_it_was_and_any_flipped_bit_is_noticed(
            header in headers(), seed: u8, bit in 0usize..8 * (HEADER + 1000)
        ) {
            let mut payload: Vec<u8> = (0..header.length).map(|at| (at as u8).wrapping_mul(seed)).collect();
            let mut bytes = header.encode(&payload);
            prop_assert_eq!(received(bytes, &payload), Ok(header));
            match bit / 8 {
                at if at < HEADER => bytes[at] ^= 1 << (bit % 8),
                at => {
                    let Some(byte) = payload.get_mut(at - HEADER) else { return Ok(()) };
                    *byte ^= 1 << (bit % 8);
                }
            }
            prop_assert!(received(bytes, &payload).is_err());
        }
    }

    #[test]
    fn the_bytes_stand_where_the_decision_says() {
        let header = Header::piece(0x0b0a_0908, 0x1716_1514_1312_1110, 0, 3, 0x1f1e_1d1c);
        let bytes = header.encode(b"abc");
        assert_eq!(bytes[0..4], [3, 0, 0, 0]);
        assert_eq!(bytes[4..8], [5, FIRST, 0, 0]);
        assert_eq!(bytes[8..12], [8, 9, 10, 11]);
        assert_eq!(bytes[16..24], [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]);
        assert_eq!(bytes[24..28], [0; 4]);
        assert_eq!(bytes[28..32], [0x1c, 0x1d, 0x1e, 0x1f]);
        let mut all = bytes.to_vec();
        all[12..16].fill(0);
        all.extend_from_slice(b"abc");
        assert_eq!(bytes[12..16], crc_fast::crc32_iscsi(&all).to_le_bytes());
        // The check value of the Castagnoli polynomial.
        assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_unsummed_payload_does_not_count_and_its_header_does() {
        let header = Header::piece(1, 5, 0, 4, 4).unsummed();
        let mut bytes = header.encode(b"data");
        assert_eq!(received(bytes, b"date"), Ok(header));
        bytes[16] ^= 1;
        assert!(matches!(received(bytes, b"data"), Err(FrameError::Checksum { .. })));
        // Only parts of messages are so long that it matters.
        let control = Header::control(FrameKind::Ping, 0, 0, 0).unsummed();
        assert!(matches!(received(control.encode(&[]), &[]), Err(FrameError::Place { .. })));
    }

    #[test]
    fn every_limit_is_checked_on_the_header() {
        let refused = |change: &dyn Fn(&mut Header)| {
            let mut header = Header::piece(1, 1, 10, 10, 30);
            change(&mut header);
            Header::decode(&header.encode(&[])).expect_err("refused")
        };
        assert!(matches!(refused(&|header| header.length = PIECE_MAX + 1), FrameError::TooLong { .. }));
        assert!(matches!(refused(&|header| header.stream = 0), FrameError::Stream { .. }));
        assert!(matches!(refused(&|header| header.sequence = SEQUENCE_END), FrameError::Sequence { .. }));
        assert!(matches!(refused(&|header| header.total = 19), FrameError::Place { .. }));
        assert!(matches!(refused(&|header| header.offset = u32::MAX), FrameError::Place { .. }));
        assert!(matches!(refused(&|header| header.flags = FIRST), FrameError::Place { .. }));
        assert!(matches!(refused(&|header| header.flags = LAST), FrameError::Place { .. }));
        assert!(matches!(refused(&|header| header.length = 0), FrameError::Place { .. }));
        let control = |change: &dyn Fn(&mut Header)| {
            let mut header = Header::control(FrameKind::Ping, 0, 1, 0);
            change(&mut header);
            Header::decode(&header.encode(&[])).expect_err("refused")
        };
        assert!(matches!(control(&|header| header.length = CONTROL_MAX + 1), FrameError::TooLong { .. }));
        assert!(matches!(control(&|header| header.stream = 1), FrameError::Stream { .. }));
        assert!(matches!(control(&|header| header.total = 1), FrameError::Place { .. }));
        assert!(matches!(control(&|header| header.flags = 4), FrameError::Place { .. }));
        for (at, byte) in [(4, 0), (4, 12), (4, 255), (6, 1), (7, 1)] {
            let mut bytes = Header::control(FrameKind::Ping, 0, 1, 0).encode(&[]);
            bytes[at] = byte;
            assert!(Header::decode(&bytes).is_err());
        }
    }
}
