//! The first frame of each side of a connection: who is here, and whether the two get on.
//!
//! ```text
//! +--------------+---------+----------------------------------+
//! | magic "HMlk" | version | archive of who is here           |
//! | 4 bytes      | 4 bytes | (aligned to 16 when it is read)  |
//! +--------------+---------+----------------------------------+
//! ```
//!
//! The magic and the version never change their place, so that peers of different versions can tell each
//! other so. Both send at once and wait for nothing. After it the host knows which link a connection belongs
//! to; before, it holds a frame of a peer that nobody knows and nothing else.
// The fields of the resolvers that rkyv derives. What is written here is documented by hand.
#![allow(missing_docs)]

use std::fmt;

use rkyv::rancor;
use rkyv::rancor::ResultExt as _;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::link::candidate::Candidate;
use crate::link::frame::{FrameKind, Header};
use crate::name::is_host_name;

/// The version of what links say. Hosts of different versions refuse each other in words.
pub const VERSION: u32 = 3;
/// The longest payload of a hello, in bytes: more is not read from a peer that is unknown.
pub const MAX_HELLO: u32 = 1024;

const MAGIC: [u8; 4] = *b"HMlk";
const HEAD: usize = 8;

/// What a host is to those that it is linked with.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A hive with hosts beside it.
    Peer,
    /// A node without shared memory; it counts as part of the host that it is linked with.
    Leaf,
}

/// The host at one end of a link.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub host: String,
    /// The life of the process that speaks: random, never 0.
    pub epoch: u64,
    /// What it can beyond this version; unknown bits mean nothing.
    pub capabilities: u64,
}

/// Why two hosts do not get on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GreetingError {
    /// The first frame is no hello of a link. Something else is connected; check the address.
    #[error("what is connected here speaks no protocol of links; check the address")]
    Foreign,
    /// Another version. Use programs of one version on both hosts.
    #[error(
        "the other host speaks version {theirs} of links, this one {VERSION}; use programs of one version"
    )]
    Version {
        /// What the other host speaks.
        theirs: u32,
    },
    /// The hello is damaged. The peer is damaged or hostile.
    #[error("a damaged hello; the peer is damaged or hostile")]
    Damaged,
    /// The other end is this very process. Take its own address out of what it connects to.
    #[error("this host is linked with itself; take its own address out of what it connects to")]
    Myself,
    /// The certificate says another name than the hello. Give the host the name that its key was made for.
    #[error("the host calls itself {claimed:?}, but its key was made for {proved:?}; give it that name")]
    Name {
        /// What the hello says.
        claimed: String,
        /// What the certificate says.
        proved: String,
    },
    /// Two leaves have nothing to say to each other. Link them with a host.
    #[error("both ends are nodes without shared memory; link them with a host")]
    TwoLeaves,
}

impl Hello {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(is_host_name(&self.host), "the name of a host is checked when it is configured");
        // Writing to memory that grows cannot fail: there are no shared pointers and no fixed bounds.
        let archive =
            rkyv::api::high::to_bytes_in::<_, rancor::Panic>(self, AlignedVec::<16>::new()).always_ok();
        let mut payload = Vec::with_capacity(HEAD + archive.len());
        payload.extend_from_slice(&MAGIC);
        payload.extend_from_slice(&VERSION.to_le_bytes());
        payload.extend_from_slice(&archive);
        let header = Header::control(FrameKind::Hello, 0, 0, payload.len() as u32);
        let mut frame = header.encode(&payload).to_vec();
        frame.extend_from_slice(&payload);
        frame
    }

    /// What a peer says, judged: may it be linked with `us`? `proved` is the name in its certificate.
    ///
    /// # Errors
    /// [`GreetingError`], to be said to the peer and logged.
    pub fn judge(payload: &[u8], us: &Hello, proved: Option<&str>) -> Result<Hello, GreetingError> {
        let Some((head, archive)) = payload.split_at_checked(HEAD) else {
            return Err(GreetingError::Foreign);
        };
        if head[..4] != MAGIC {
            return Err(GreetingError::Foreign);
        }
        let theirs = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if theirs != VERSION {
            return Err(GreetingError::Version { theirs });
        }
        let mut aligned = AlignedVec::<16>::with_capacity(archive.len());
        aligned.extend_from_slice(archive);
        let hello =
            rkyv::from_bytes::<Hello, rancor::Failure>(&aligned).map_err(|_| GreetingError::Damaged)?;
        if !is_host_name(&hello.host) || hello.epoch == 0 {
            return Err(GreetingError::Damaged);
        }
        if let Some(proved) = proved.filter(|proved| *proved != hello.host) {
            return Err(GreetingError::Name { claimed: hello.host, proved: proved.to_owned() });
        }
        if hello.epoch == us.epoch {
            return Err(GreetingError::Myself);
        }
        if (hello.role, us.role) == (Role::Leaf, Role::Leaf) {
            return Err(GreetingError::TwoLeaves);
        }
        Ok(hello)
    }
}

/// Two connections to one host: does the new one take the place of the old one? Both hosts come to the same
/// answer.
///
/// The one that was dialled by the host with the lower epoch stays. If one host dialled both it has given the
/// old one up.
#[must_use]
pub fn takes_over(our_epoch: u64, their_epoch: u64, old_is_ours: bool, new_is_ours: bool) -> bool {
    old_is_ours == new_is_ours || new_is_ours == (our_epoch < their_epoch)
}

/// True: this publisher may go to that peer. One hop between hosts, so there are no loops and no doubles.
#[must_use]
pub fn may_forward(candidate: &Candidate, peer: &Hello) -> bool {
    match &candidate.via {
        None => true,
        Some(via) => via.host != peer.host && (via.leaf || peer.role == Role::Leaf),
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Peer => "host",
            Role::Leaf => "leaf",
        };
        write!(formatter, "{role} {} (life {:016x})", self.host, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Contract, Kind};
    use crate::link::candidate::Via;
    use crate::link::frame::HEADER;
    use crate::name::MAX_HOST_NAME;
    use crate::protocol::EndId;

    fn host(name: &str, epoch: u64, role: Role) -> Hello {
        Hello { role, host: name.to_owned(), epoch, capabilities: 0 }
    }

    fn judged(theirs: &Hello, us: &Hello, proved: Option<&str>) -> Result<Hello, GreetingError> {
        Hello::judge(&theirs.encode()[HEADER..], us, proved)
    }

    #[test]
    fn two_hosts_get_on_and_others_are_told_why_not() {
        let (here, there) = (host("here", 1, Role::Peer), host("there", 2, Role::Peer));
        assert_eq!(judged(&there, &here, None), Ok(there.clone()));
        assert_eq!(judged(&there, &here, Some("there")), Ok(there.clone()));
        assert!(matches!(judged(&there, &here, Some("other")), Err(GreetingError::Name { .. })));
        assert_eq!(judged(&here, &here, None), Err(GreetingError::Myself));
        assert_eq!(judged(&host("there", 0, Role::Peer), &here, None), Err(GreetingError::Damaged));
        let leaf = host("leaf", 3, Role::Leaf);
        assert_eq!(judged(&leaf, &here, None), Ok(leaf.clone()));
        assert_eq!(judged(&host("another", 4, Role::Leaf), &leaf, None), Err(GreetingError::TwoLeaves));
        let mut frame = there.encode();
        frame[HEADER + 4] = 9;
        assert_eq!(Hello::judge(&frame[HEADER..], &here, None), Err(GreetingError::Version { theirs: 9 }));
        frame[HEADER] = 0;
        assert_eq!(Hello::judge(&frame[HEADER..], &here, None), Err(GreetingError::Foreign));
        let longest = host(&"n".repeat(MAX_HOST_NAME), u64::MAX, Role::Leaf);
        assert!(longest.encode().len() <= HEADER + MAX_HELLO as usize);
    }

    #[test]
    fn both_hosts_keep_the_same_of_two_connections() {
        for (low, high) in [(1, 2), (5, u64::MAX)] {
            for old_by_low in [true, false] {
                for new_by_low in [true, false] {
                    let low_says = takes_over(low, high, old_by_low, new_by_low);
                    let high_says = takes_over(high, low, !old_by_low, !new_by_low);
                    assert_eq!(low_says, high_says);
                    assert_eq!(low_says, old_by_low == new_by_low || new_by_low);
                }
            }
        }
    }

    #[test]
    fn nothing_travels_further_than_one_hop_between_hosts() {
        let candidate = |via: Option<(&str, bool)>| Candidate {
            publisher: EndId { node: 1, index: 1 },
            node: "node".parse().unwrap(),
            service: "service".parse().unwrap(),
            kind: Kind { fingerprint: 1, schema: Vec::new() },
            contract: Contract { capacity: 16, ..Contract::default() },
            via: via.map(|(host, leaf)| Via {
                host: host.to_owned(),
                leaf,
                node: "node".parse().unwrap(),
                publisher: EndId { node: 1, index: 1 },
            }),
        };
        let (peer, leaf) = (host("b", 2, Role::Peer), host("l", 3, Role::Leaf));
        assert!(may_forward(&candidate(None), &peer) && may_forward(&candidate(None), &leaf));
        assert!(!may_forward(&candidate(Some(("a", false))), &peer));
        assert!(may_forward(&candidate(Some(("a", false))), &leaf));
        assert!(may_forward(&candidate(Some(("k", true))), &peer));
        assert!(may_forward(&candidate(Some(("k", true))), &leaf));
        assert!(!may_forward(&candidate(Some(("l", true))), &leaf), "not back to where it came from");
        assert!(!may_forward(&candidate(Some(("b", false))), &peer));
    }
}
