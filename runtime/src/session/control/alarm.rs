//! The timer of the control thread.
use std::io;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// See the head of the module.
pub(super) struct Alarm {
    pub(super) timer: TimerFd,
    /// What it is set to.
    set: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Alarm> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Alarm { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?, set: None })
    }

    /// It has rung.
    pub(super) fn has_rung(&mut self) {
        // Read without waiting: a timer that was set again meanwhile has nothing to say.
        let _ = self.timer.wait();
        self.set = None;
    }

    /// Sets it, if it would not ring in time anyway.
    pub(super) fn set(&mut self, wanted: Option<Instant>, now: Instant) {
        let is_set = match (wanted, self.set) {
            (None, None) => true,
            // It may ring early, and is then set again: what the root owes moves later with each of its
            // answers.
            (Some(wanted), Some(alarm)) => alarm > now && alarm <= wanted,
            _ => false,
        };
        if is_set {
            return;
        }
        let set = match wanted {
            None => self.timer.unset(),
            Some(alarm) => {
                // Zero would switch the timer off.
                let left = alarm.saturating_duration_since(now).max(Duration::from_nanos(1));
                let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
                self.timer.set(expiration, TimerSetTimeFlags::empty())
            }
        };
        if let Err(error) = set {
            tracing::error!(%error, "cannot set a timer");
        }
        self.set = wanted;
    }
}
