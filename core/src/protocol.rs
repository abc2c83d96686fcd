//! The control protocol: what nodes and the root say to each other.
//!
//! One message is one packet of a SEQPACKET socket, at most [`MAX_PACKET`] bytes:
//!
//! ```text
//! +--------------+-----------+------+---------------------------------------------+
//! | magic "HMcp" | version   | zero | rkyv archive of `ToRoot` or `ToNode`        |
//! | 4 bytes      | 4 bytes   | 8    | (its root is at the end; aligned to 16)     |
//! +--------------+-----------+------+---------------------------------------------+
//! ```
//!
//! The head never changes its form, so peers of different versions can tell each other so. Descriptors travel
//! beside the packet, in the order in which its [`Carrier`]s stand; to a node, `Attach`, `Attached` and
//! `Keep` end with one more: the pidfd of the peer. Every packet is a stranger's input: it is validated
//! before it is read, a packet whose number of descriptors is not what it says is malformed, and texts and
//! tables are bounded by the constants below.
//!
//! | step       | subscriber's node        | root                             | publisher's node              |
//! | ---------- | ------------------------ | -------------------------------- | ----------------------------- |
//! | admit      | `Hello` (+ bells)        | `Welcome`                        | `Hello` (+ bells)             |
//! | announce   | `Demand`                 | `Accepted` or `Refused`, `Match` | `Offer`                       |
//! | seat       | `Attach` (+ reader)      | `Attach` (+ bells, pidfd)        | maps reader, registers pins   |
//! | attach     | maps ring, reads         | `Attached` (+ bells, pidfd)      | `Attached` (+ ring)           |
//! | let go     | `Detached`               | forgets that it is connected     | sees it in the reader segment |
//! | once more  | `Rematch`                | `Match`, and so on               |                               |
//!
//! A publisher that retains messages is accepted when a *keeper* has its ring
//! (`docs/decisions/0010-retained-services.md`). What it retained is offered by its keepers when it is gone,
//! like publishers of their own:
//!
//! | step       | publisher's node         | root                             | keeper's node                           |
//! | ---------- | ------------------------ | -------------------------------- | --------------------------------------- |
//! | keep       | `Offer`, retained        | `Keep` (+ pidfd)                 | `Inspect`                               |
//! | kept       | `Inspected` (+ ring)     | `Inspected` (+ ring), `Accepted` | `Kept`, or `NotKept`                    |
//! | stand in   | is gone                  | `Gone`, if the root sees it first | `Offer`, stands for it                 |
//! | let go     |                          | `Release`                        | closes it                               |
//!
//! A subscriber of another type than its service carries is accepted, told (`Skipped`), and matched when the
//! type fits; a publisher may ask who waits so (`Misfits`).
//!
//! Doorbells are writable, so those of a node go to peers of its own user alone. If the kernel says that the
//! two nodes are of different users, the root passes none on: the publisher's node makes doorbells for that
//! user and answers with them, and the subscriber's gives none
//! (`docs/decisions/0015-doorbells-for-other-users.md`).
//!
//! | step       | subscriber's node        | root                             | publisher's node of another user |
//! | ---------- | ------------------------ | -------------------------------- | -------------------------------- |
//! | seat       | `Attach` (+ reader)      | `Attach` (+ pidfd)               | maps reader, registers pins      |
//! | attach     | maps ring, reads         | `Attached` (+ bells, pidfd)      | `Attached` (+ ring, bells)       |
//!
//! A publisher that begins is told when the subscribers that were there before it are attached; until then
//! what becomes of its ring is the root's business as well (`core/src/registry/joiners.rs`):
//!
//! | step       | subscriber's node        | root                             | publisher's node                        |
//! | ---------- | ------------------------ | -------------------------------- | --------------------------------------- |
//! | begin      |                          | `Accepted`, under way            | `Offer`, begins                         |
//! | introduce  |                          | (as above, from the first message on) |                                    |
//! | all here   |                          | `Joined`                         | `create` returns                        |
//! | or: lend   |                          | keeps the ring                   | `Lend` (+ ring), `create` returns       |
//! | is gone    | maps the ring, reads     | `Attached` (+ ring, bells, pidfd) |                                        |
//!
//! If a node dies between two steps the root forgets the pair; if the root dies, nodes tell its successor
//! what they have (`Connected`, `Offer`, `Demand`), and pairs that were not attached yet are matched anew.
//!
//! | room          | what is in it                                                   |
//! | ------------- | --------------------------------------------------------------- |
//! | `entity`      | what is announced: publishers, subscriptions, connections       |
//! | `listing`     | the lines of a listing                                          |
//! | `message`     | what nodes and the root say                                     |
//! | `refusal`     | why the root says no, in words                                  |
//! | `packet`      | messages as bytes, and back; what every packet is checked for   |
//!
//! What ends agree on (type, promise, wish, route) stands in [`crate::contract`].

mod entity;
mod listing;
mod message;
mod packet;
mod refusal;

pub use self::entity::{Carrier, Connected, Demand, Joining, Misfit, Offer};
pub(crate) use self::listing::ArchivedEntry;
pub use self::listing::{Cursor, Entry};
pub use self::message::{ToNode, ToRoot};
pub use self::packet::{DecodeError, Message, TooLong, decode, decode_unaccompanied, encode};
pub use self::refusal::{Refusal, Right, Table, not_allowed};
pub use crate::contract::MAX_SCHEMA;
pub use crate::end::EndId;

/// The version of this protocol. Nodes and roots of different versions refuse each other in words.
pub const VERSION: u32 = 6;
/// The longest packet, in bytes.
pub const MAX_PACKET: usize = 64 * 1024;
/// The longest explanation, in bytes; longer ones are cut.
pub const MAX_REASON: usize = 1024;
/// The reason of an `AttachRefused` that is nobody's fault: the publisher ended while it was introduced.
pub const PUBLISHER_GONE: &str = "the publisher has just gone";
/// The longest name of a shared-memory segment, in bytes.
pub const MAX_SEGMENT_NAME: usize = 255;
/// The most established connections that one packet lists.
pub const CONNECTED_PER_PACKET: usize = 1024;
/// A page of a listing ends before it grows beyond this many bytes.
pub const PAGE_BYTES: usize = 48 * 1024;
/// The highest epoch a root may have. Above it is no epoch but a mistake.
pub const MAX_EPOCH: u64 = 1 << 48;

/// An explanation as it may be shown, even if a stranger wrote it: cut to [`MAX_REASON`] bytes, and what
/// would steer a terminal, forge a line of a log or turn the text around is escaped (`\u{1b}`).
#[must_use]
pub fn bounded_reason(mut reason: String) -> String {
    if reason.chars().any(steers) {
        // Cut first: an escape is up to eight times as long.
        let shown = reason.chars().take(MAX_REASON);
        reason = shown.flat_map(|c| if steers(c) { c.escape_default().collect() } else { vec![c] }).collect();
    }
    if reason.len() > MAX_REASON {
        let mut end = MAX_REASON;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    reason
}

/// Whether a character does something to what shows it, instead of being shown.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}
