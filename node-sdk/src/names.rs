//! Names that live as long as the process, so that a sample can carry where it came from without counting references: a locked
//! instruction costs as much as the rest of a receive.
//!
//! A name is kept once and never freed. A stranger could flood a process with names, so there is a bound.

use hivemind_core::name::{NodeName, ServiceName};
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Most names of services, and of nodes, that a process keeps: with at most 200 bytes each, some 20 MB.
const NAMES_MAX: usize = 65_536;

static SERVICES: LazyLock<Mutex<HashSet<&'static ServiceName>>> = LazyLock::new(Mutex::default);
static NODES: LazyLock<Mutex<HashSet<&'static NodeName>>> = LazyLock::new(Mutex::default);

/// The process has met as many names as it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has met {NAMES_MAX} names, all that it keeps; use fewer names, or restart it")]
pub(crate) struct NamesOut;

pub(crate) fn keep_service(name: ServiceName) -> Result<&'static ServiceName, NamesOut> {
    keep(&SERVICES, name)
}

pub(crate) fn keep_node(name: NodeName) -> Result<&'static NodeName, NamesOut> {
    keep(&NODES, name)
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
}
