//! Bounds the connections that have not greeted yet: each costs a thread and a handshake.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use hivemind_runtime::lock;

/// In all.
const UNKNOWN_MAX: usize = 64;
/// From one address.
const UNKNOWN_OF_ONE: usize = 8;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Admission(Arc<Mutex<HashMap<String, usize>>>);

/// A place; dropped, it is free.
#[derive(Debug)]
pub(super) struct Pass {
    origin: String,
    counts: Arc<Mutex<HashMap<String, usize>>>,
}

impl Admission {
    /// A place for a connection from there; `None`: there are too many.
    pub(super) fn admit(&self, origin: &str) -> Option<Pass> {
        let mut counts = lock(&self.0);
        let all: usize = counts.values().sum();
        let of_one = counts.get(origin).copied().unwrap_or(0);
        if all >= UNKNOWN_MAX || of_one >= UNKNOWN_OF_ONE {
            return None;
        }
        counts.insert(origin.to_owned(), of_one + 1);
        Some(Pass { origin: origin.to_owned(), counts: Arc::clone(&self.0) })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places_and_each_is_given_back() {
        let admission = Admission::default();
        let mut passes: Vec<Pass> = (0..UNKNOWN_OF_ONE).map(|_| admission.admit("a").unwrap()).collect();
        assert!(admission.admit("a").is_none());
        for other in 0.. {
            match admission.admit(&other.to_string()) {
                Some(pass) => passes.push(pass),
                None => break,
            }
        }
        assert_eq!(passes.len(), UNKNOWN_MAX);
        drop(passes);
        assert!(admission.admit("a").is_some());
        assert!(lock(&admission.0).is_empty());
    }
}
