//! Ends the sleeps of the threads that make links, once and for all.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hivemind_runtime::lock;
use hivemind_runtime::ports::Member;

use crate::transport::Alarm;
use crate::transport::plain::Listener;

/// See the head of the module.
pub(super) struct Stop {
    member: Arc<Member>,
    is_set: Mutex<bool>,
    changed: Condvar,
    alarm: Alarm,
}

impl Stop {
    pub(super) fn new(member: &Arc<Member>) -> io::Result<Stop> {
        let (is_set, changed) = (Mutex::new(false), Condvar::new());
        Ok(Stop { member: Arc::clone(member), is_set, changed, alarm: Alarm::new()? })
    }

    pub(super) fn set(&self) {
        *lock(&self.is_set) = true;
        self.changed.notify_all();
        self.alarm.ring();
        self.member.look_again();
    }

    /// Whether all links end, or the node leaves.
    pub(super) fn is_set(&self) -> bool {
        *lock(&self.is_set) || self.member.is_leaving()
    }

    /// Waits until it is set, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        // The caller looks itself what woke it.
        let _ = self.changed.wait_timeout_while(lock(&self.is_set), timeout, |is_set| !*is_set);
    }

    /// Waits until it is set, or somebody connects.
    pub(super) fn wait_beside(&self, listeners: &[Listener]) {
        self.alarm.wait_beside(listeners);
    }
}
