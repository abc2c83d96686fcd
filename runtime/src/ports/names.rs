//! Names that live as long as the process, so that a sample can carry where it came from without counting
//! references: a locked instruction costs as much as the rest of a receive.
//!
//! A name is kept once and never freed; a forked child keeps names of its own (of a remote node that its
//! parent met, it knows the name and not the host). A stranger could flood a process with names, so there is
//! a bound.

use hivemind_core::name::{NodeName, ServiceName};
use hivemind_ring::fork::PerLife;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Most names of services, and of nodes, that a process keeps: with at most 200 bytes each, some 20 MB.
const NAMES_MAX: usize = 65_536;

static SERVICES: PerLife<Mutex<HashSet<&'static ServiceName>>> = PerLife::new();
static NODES: PerLife<Mutex<HashSet<&'static NodeName>>> = PerLife::new();

/// Nodes of other hosts: the names are other ones than those of the nodes here, by their addresses.
static REMOTE_NODES: PerLife<Mutex<Remotes>> = PerLife::new();

#[derive(Default)]
struct Remotes {
    nodes: HashMap<(String, NodeName), &'static NodeName>,
    /// By the address of the name.
    hosts: HashMap<usize, &'static str>,
}

/// The process has met as many names as it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has met {NAMES_MAX} names, all that it keeps; use fewer names, or restart it")]
pub(crate) struct NamesOut;

pub(crate) fn keep_service(name: ServiceName) -> Result<&'static ServiceName, NamesOut> {
    keep(SERVICES.get(), name)
}

pub(crate) fn keep_node(name: NodeName) -> Result<&'static NodeName, NamesOut> {
    keep(NODES.get(), name)
}

/// The name of a node of another host.
pub(crate) fn keep_remote_node(host: String, name: NodeName) -> Result<&'static NodeName, NamesOut> {
    let mut remotes = REMOTE_NODES.get().lock().unwrap_or_else(PoisonError::into_inner);
    let whose = (host, name);
    if let Some(kept) = remotes.nodes.get(&whose) {
        return Ok(kept);
    }
    if remotes.nodes.len() >= NAMES_MAX {
        return Err(NamesOut);
    }
    let kept: &'static NodeName = Box::leak(Box::new(whose.1.clone()));
    let host: &'static str = Box::leak(whose.0.clone().into_boxed_str());
    remotes.hosts.insert(address(kept), host);
    remotes.nodes.insert(whose, kept);
    Ok(kept)
}

/// The host of a node whose name is kept; `None`: this one.
pub(crate) fn host_of(node: &'static NodeName) -> Option<&'static str> {
    REMOTE_NODES.get().lock().unwrap_or_else(PoisonError::into_inner).hosts.get(&address(node)).copied()
}

fn address(name: &'static NodeName) -> usize {
    std::ptr::from_ref(name).addr()
}

fn keep<T: Eq + Hash + 'static>(names: &Mutex<HashSet<&'static T>>, name: T) -> Result<&'static T, NamesOut> {
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = names.get(&name) {
        return Ok(kept);
    }
    if names.len() >= NAMES_MAX {
        return Err(NamesOut);
    }
    let kept: &'static T = Box::leak(Box::new(name));
    names.insert(kept);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        let name = || ServiceName::parse("sensors/pose").unwrap();
        assert!(std::ptr::eq(keep_service(name()).unwrap(), keep_service(name()).unwrap()));
    }

    #[test]
    fn nodes_of_one_name_on_several_hosts_are_several() {
        let name = || NodeName::parse("camera").unwrap();
        let there = keep_remote_node("there".to_owned(), name()).unwrap();
        assert!(std::ptr::eq(there, keep_remote_node("there".to_owned(), name()).unwrap()));
        let elsewhere = keep_remote_node("elsewhere".to_owned(), name()).unwrap();
        let here = keep_node(name()).unwrap();
        assert_eq!([here, there, elsewhere].map(host_of), [None, Some("there"), Some("elsewhere")]);
    }
}
