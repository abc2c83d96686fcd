//! What control frames say: archives, validated and bounded before anything else sees them.
// The fields of the resolvers that rkyv derives. What is written here is documented by hand.
#![allow(missing_docs)]

use rkyv::rancor;
use rkyv::rancor::ResultExt as _;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::contract::{Contract, Kind};
use crate::link::candidate::{Candidate, Via};
use crate::link::frame::{CONTROL_MAX, FrameKind, HEADER, Header};
use crate::link::greeting::{Hello, Role};
use crate::name::{NodeName, is_host_name};
use crate::protocol::{EndId, MAX_REASON, MAX_SCHEMA};

/// Bytes of filters in one frame; more go into further frames.
pub(super) const WANTED_BYTES: usize = 16 * 1024;
/// Bytes that one filter counts for, beside its text.
pub(super) const WANTED_EACH: usize = 64;

/// What subscribers want.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Interest {
    /// True: what was said before counts no more once this set is complete.
    pub(super) first: bool,
    /// True: the set is complete.
    pub(super) last: bool,
    /// Filter, and the fingerprint of the type it insists on.
    pub(super) wanted: Vec<(String, Option<u128>)>,
}

/// A stream.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) publisher: EndId,
    /// Where its node is, if neither at the host that speaks nor at one of its leaves; said to leaves.
    pub(super) host: Option<String>,
    pub(super) node: String,
    pub(super) service: String,
    pub(super) kind: Kind,
    pub(super) contract: Contract,
    /// The number of the first message that can be sent.
    pub(super) first: u64,
    /// The number after the last one, when that is known already.
    pub(super) end: Option<u64>,
}

impl Open {
    pub(super) fn of(candidate: &Candidate, first: u64, end: Option<u64>) -> Open {
        let via = candidate.via.as_ref();
        Open {
            publisher: candidate.publisher,
            host: via.filter(|via| !via.leaf).map(|via| via.host.clone()),
            node: via.map_or(&candidate.node, |via| &via.node).as_str().to_owned(),
            service: candidate.service.as_str().to_owned(),
            kind: candidate.kind.clone(),
            contract: candidate.contract,
            first,
            end,
        }
    }

    /// The publisher that `peer` opens so. `None`: it is none.
    pub(super) fn candidate(self, peer: &Hello) -> Option<Box<Candidate>> {
        let is_leaf = peer.role == Role::Leaf;
        let node: NodeName = self.node.parse().ok()?;
        // A leaf has nobody behind it.
        let host = match self.host {
            None => peer.host.clone(),
            Some(host) if !is_leaf && is_host_name(&host) => host,
            Some(_) => return None,
        };
        let via = Via { host, leaf: is_leaf, node: node.clone(), publisher: self.publisher };
        Some(Box::new(Candidate {
            publisher: self.publisher,
            node,
            service: self.service.parse().ok()?,
            kind: self.kind,
            contract: self.contract,
            via: Some(via),
        }))
    }
}

/// The answer to `Open`; with `Refused` also a later change of mind.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Send from the number on that the header says.
    Yes,
    /// Nothing more, please.
    Refused { reason: String },
    /// Everything up to the end has arrived.
    Over,
}

/// How much may be sent, counted from the `Open` on this connection. The sequence of the header says what has
/// arrived.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Credit {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// Why the link closes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Bye {
    pub(super) reason: String,
}

/// The payload of a control frame.
pub(super) trait Say: Sized {
    fn append(&self, payload: AlignedVec) -> AlignedVec;
    fn parse(archive: &[u8]) -> Option<Self>;
    fn is_bounded(&self) -> bool;
}

macro_rules! say {
    ($name:ident, $this:ident => $bounded:expr) => {
        impl Say for $name {
            fn append(&self, payload: AlignedVec) -> AlignedVec {
                // Writing to memory that grows cannot fail: there are no shared pointers and no fixed bounds.
                rkyv::api::high::to_bytes_in::<_, rancor::Panic>(self, payload).always_ok()
            }

            fn parse(archive: &[u8]) -> Option<$name> {
                rkyv::from_bytes::<$name, rancor::Failure>(archive).ok()
            }

            fn is_bounded(&self) -> bool {
                let $this = self;
                $bounded
            }
        }
    };
}

say!(Interest, this => this.wanted.len() <= CONTROL_MAX as usize / 16);
say!(Open, this => this.kind.schema.len() <= MAX_SCHEMA);
say!(Opened, this => !matches!(this, Opened::Refused { reason } if reason.len() > MAX_REASON));
say!(Credit, _this => true);
say!(Bye, this => this.reason.len() <= MAX_REASON);

/// Appends a whole frame to `out`.
pub(super) fn append<S: Say>(kind: FrameKind, stream: u32, sequence: u64, say: &S, out: &mut Vec<u8>) {
    let payload = say.append(AlignedVec::new());
    // What we say is bounded by what it is made of: names, a schema, a cut reason, a counted set of filters.
    assert!(payload.len() <= CONTROL_MAX as usize, "a {kind} frame of {} bytes", payload.len());
    let header = Header::control(kind, stream, sequence, payload.len() as u32);
    out.extend_from_slice(&header.encode(&payload));
    out.extend_from_slice(&payload);
}

/// Appends a frame without payload to `out`.
pub(super) fn append_bare(kind: FrameKind, stream: u32, sequence: u64, out: &mut Vec<u8>) {
    let bytes: [u8; HEADER] = Header::control(kind, stream, sequence, 0).encode(&[]);
    out.extend_from_slice(&bytes);
}

/// Reads the payload of a control frame, wherever it lies.
pub(super) fn read<S: Say>(payload: &[u8]) -> Option<S> {
    let mut aligned = AlignedVec::<16>::with_capacity(payload.len());
    aligned.extend_from_slice(payload);
    let say = S::parse(&aligned)?;
    say.is_bounded().then_some(say)
}
