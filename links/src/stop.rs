//! Ends the sleeps of threads, once for all.
use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::transport::Alarm;
use crate::transport::plain::Listener;

use hivemind_runtime::lock;

/// Set once.
pub(super) struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
    alarm: Alarm,
}

impl Stop {
    pub(super) fn new() -> io::Result<Stop> {
        Ok(Stop { is_set: Mutex::new(false), changed: Condvar::new(), alarm: Alarm::new()? })
    }

    pub(super) fn set(&self) {
        *lock(&self.is_set) = true;
        self.changed.notify_all();
        self.alarm.ring();
    }

    /// Waits until it is set, at most so long.
    pub(super) fn wait(&self, timeout: Duration) {
        // The caller looks itself what woke it.
        let _ = self.changed.wait_timeout_while(lock(&self.is_set), timeout, |is_set| !*is_set);
    }

    /// Waits until it is set, or somebody connects.
    pub(super) fn wait_beside(&self, listeners: &[Listener]) {
        self.alarm.wait_beside(listeners);
    }
}
