//! The processes of the nodes that this one has connections with, by pidfd.
//!
//! An epoch belongs to one process ([`hivemind_core::identity`]). A pidfd of another process under a known
//! epoch is refused, and the node that is known stays as it is. Where nobody can tell processes apart every
//! pidfd of an epoch is kept, and the node is gone when all of them say so: pins count too long then, never
//! too short.
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hivemind_core::identity::Process;
use hivemind_ring::os::is_same_open_file;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::identity::{current_process, process_of};
use crate::remedy::with_remedy;
use crate::socket::is_gone;

/// With more than twice as many peers as were left the last time, and some, those that are no acquaintances
/// any more are forgotten.
const SPARE_PEERS: usize = 16;
/// Pidfds that are kept of one peer where nobody can tell whether they are of one process: one for each root
/// that introduced it. Where a sandbox refuses `kcmp` as well, one for each pair with it.
pub(super) const PIDFDS_OF_A_PEER: usize = 16;
/// Events of an epoll below this are not of peers.
pub(super) const FIRST_PEER: u64 = 16;

/// See the head of the module.
pub(super) struct Peers {
    node: u64,
    /// This process.
    process: Process,
    /// How processes are told apart.
    pub(super) identify: fn(&OwnedFd) -> io::Result<Process>,
    epoll: Arc<Epoll>,
    watched: HashMap<u64, WatchedPeer>,
    /// The node of each token.
    nodes: HashMap<u64, u64>,
    next_token: u64,
    /// With so many peers it is time to look which are none any more.
    crowd: usize,
}

struct WatchedPeer {
    process: Process,
    /// With their tokens. One; more only where the kernel does not tell whether they are of one process.
    pidfds: Vec<(OwnedFd, u64)>,
}

/// Why a process is not taken for a node: the pair does not come about, and the node that is known stays as
/// it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Impostor {
    /// The kernel says that the epoch is of another process.
    #[error(
        "the epoch {node:016x} belongs to another process than the one that says it; let that one join by itself, also \
         after a fork or a restore"
    )]
    EpochOfAnother { node: u64 },
    /// A process that lives is known by this epoch.
    #[error(
        "another living process is known by the epoch {node:016x}; end whichever of the two is not the node, \
         then subscribe again"
    )]
    AnotherProcess { node: u64 },
    /// Nobody can tell whether all these are one process, and there are too many.
    #[error(
        "cannot tell whether {limit} processes that said the epoch {node:016x} are one; mount /proc here, share a \
         process namespace, or use Linux 6.9 or newer"
    )]
    TooMany { node: u64, limit: usize },
    /// The system says something else.
    #[error("cannot watch its process: {}", with_remedy(.0))]
    System(io::Error),
}

impl Peers {
    pub(super) fn new(node: u64, epoll: Arc<Epoll>) -> Peers {
        Peers {
            node,
            process: current_process(),
            identify: process_of,
            epoll,
            watched: HashMap::new(),
            nodes: HashMap::new(),
            next_token: FIRST_PEER,
            crowd: SPARE_PEERS,
        }
    }

    pub(super) fn contains(&self, node: u64) -> bool {
        self.watched.contains_key(&node)
    }

    pub(super) fn are_many(&self) -> bool {
        self.watched.len() > self.crowd
    }

    /// The tokens of those pidfds of a node that say that their process is gone.
    pub(super) fn gone(&self, node: u64) -> Vec<u64> {
        let known = self.watched.get(&node).into_iter().flat_map(|peer| &peer.pidfds);
        known.filter(|(pidfd, _)| is_gone(pidfd)).map(|(_, token)| *token).collect()
    }

    /// Whether this can be the process of that node, as far as the kernel tells.
    pub(super) fn recognise(&self, node: u64, pidfd: &OwnedFd) -> Result<Process, Impostor> {
        let process = (self.identify)(pidfd).map_err(Impostor::System)?;
        if !process.may_have(node) {
            return Err(Impostor::EpochOfAnother { node });
        }
        if node == self.node && process.is(self.process) == Some(false) {
            return Err(Impostor::AnotherProcess { node });
        }
        match self.watched.get(&node) {
            Some(peer) if peer.process.is(process) == Some(false) => Err(Impostor::AnotherProcess { node }),
            _ => Ok(process),
        }
    }

    /// Watches the process of a peer until it is gone or forgotten.
    pub(super) fn watch(&mut self, node: u64, pidfd: OwnedFd) -> Result<(), Impostor> {
        let process = self.recognise(node, &pidfd)?;
        let known = self.watched.get(&node);
        if node == self.node || known.is_some_and(|peer| peer.process.is(process) == Some(true)) {
            return Ok(());
        }
        // A root gives copies of one pidfd for all pairs with a node.
        let is_copy =
            |(known, _): &(OwnedFd, u64)| is_same_open_file(known.as_fd(), pidfd.as_fd()) == Some(true);
        if known.is_some_and(|peer| peer.pidfds.iter().any(is_copy)) {
            return Ok(());
        }
        if known.is_some_and(|peer| peer.pidfds.len() >= PIDFDS_OF_A_PEER) {
            return Err(Impostor::TooMany { node, limit: PIDFDS_OF_A_PEER });
        }
        let token = self.next_token;
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(&pidfd, interest).map_err(|errno| Impostor::System(errno.into()))?;
        self.next_token += 1;
        self.nodes.insert(token, node);
        let peer = self.watched.entry(node).or_insert(WatchedPeer { process, pidfds: Vec::new() });
        peer.pidfds.push((pidfd, token));
        Ok(())
    }

    /// Forgets those with which nothing is left to do, but for one that has just come. `None`: it is not
    /// known who they are.
    pub(super) fn keep_only(&mut self, acquaintances: Option<&HashSet<u64>>, newcomer: u64) {
        if let Some(acquaintances) = acquaintances {
            let is_stranger = |node: &u64| *node != newcomer && !acquaintances.contains(node);
            let strangers: Vec<u64> = self.watched.keys().copied().filter(is_stranger).collect();
            for node in strangers {
                self.forget(node);
            }
        }
        self.crowd = self.watched.len() * 2 + SPARE_PEERS;
    }

    pub(super) fn forget(&mut self, node: u64) {
        for (pidfd, token) in self.watched.remove(&node).into_iter().flat_map(|peer| peer.pidfds) {
            self.nodes.remove(&token);
            let _ = self.epoll.delete(&pidfd);
        }
    }

    /// A pidfd says that its process is gone. The node that is gone with it.
    pub(super) fn end_of(&mut self, token: u64) -> Option<u64> {
        let node = *self.nodes.get(&token)?;
        if let Some(peer) = self.watched.get_mut(&node)
            && peer.pidfds.len() > 1
            && let Some(place) = peer.pidfds.iter().position(|(_, other)| *other == token)
        {
            // The others may be of a process that lives.
            let (pidfd, _) = peer.pidfds.swap_remove(place);
            self.nodes.remove(&token);
            let _ = self.epoll.delete(&pidfd);
            return None;
        }
        self.forget(node);
        Some(node)
    }

    /// How many pidfds there are of one node; and of all.
    #[cfg(test)]
    pub(super) fn counts(&self, node: u64) -> (usize, usize) {
        (self.watched.get(&node).map_or(0, |peer| peer.pidfds.len()), self.nodes.len())
    }
}
