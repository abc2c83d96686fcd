//! Links: services of other hosts, over a socket, as if their publishers were here.
//!
//! ```text
//!  host A                                                            host B
//!  publisher ─▶ ring ─▶ Exports ─┐                          ┌─▶ Imports ─▶ ring ─▶ subscribers
//!                                ├─ engine ═ Transport ═ engine
//!  subscribers ◀─ ring ◀ Imports ┘   (peering: pure)        └─◀ Exports ◀─ ring ◀─ publisher
//! ```
//!
//! A link joins two hosts. Each tells the other what its subscribers want (`frame`); what matches is read
//! from the local ring, sent once however many subscribe over there, and published there into shared memory
//! by a publisher that stands for the remote one. The rules of a link are a pure state machine (`peering`)
//! and are all that is here; `hivemind_links` moves the bytes between shared memory and the socket, which do
//! not pass through it.
//!
//! Who may be forwarded to whom (no loops, no doubles): what was published on this host, or by a node that
//! has no shared memory of its own (a *leaf*), goes to every link but the one it came from; what came from
//! another host's root goes to leaves only. So hosts form a full mesh, each leaf hangs on one host, and
//! nothing travels further than two links.
//!
//! If the process dies, its links close; the hosts at the other ends keep what stands for it for a while, and
//! then end it.

pub mod candidate;
pub mod frame;
pub mod greeting;
pub mod peering;
