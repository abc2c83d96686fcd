//! Whether the other host is alive, and how long streams are kept while it is not connected.

use super::say;
use super::settings::{Now, Settings};
use super::violation::Violation;
use crate::link::frame::FrameKind;

/// Signs of life, and when streams are let go.
#[derive(Debug, Default)]
pub(super) struct Life {
    heard: Now,
    /// A ping was sent and nothing has come since.
    asked: bool,
    ping_due: bool,
    /// The number of a ping that is to be answered.
    pong_due: Option<u64>,
    /// Without a connection: when streams are let go. With one: when those are that have not come back on
    /// it. `None`: nothing is kept.
    release_at: Option<Now>,
}

impl Life {
    pub(super) fn connect(&mut self, now: Now, release_at: Option<Now>) {
        *self = Life { heard: now, asked: false, ping_due: false, pong_due: None, release_at };
    }

    pub(super) fn disconnect(&mut self, release_at: Now) {
        self.release_at = Some(release_at);
    }

    pub(super) fn hear(&mut self, now: Now) {
        self.heard = now;
        self.asked = false;
    }

    pub(super) fn heard(&self) -> Now {
        self.heard
    }

    /// The other host asks for a sign of life.
    pub(super) fn answer(&mut self, number: u64) {
        self.pong_due = Some(number);
    }

    pub(super) fn ask(&mut self) {
        self.ping_due = true;
    }

    /// When time has to be told at the latest.
    pub(super) fn deadline(&self, is_connected: bool, settings: &Settings) -> Option<Now> {
        let silence = if self.asked { settings.dead } else { settings.keep_alive };
        is_connected.then(|| self.heard + silence).into_iter().chain(self.release_at).min()
    }

    /// True, once: streams have been kept for long enough.
    pub(super) fn take_release(&mut self, now: Now) -> bool {
        let is_due = self.release_at.is_some_and(|at| at <= now);
        if is_due {
            self.release_at = None;
        }
        is_due
    }

    pub(super) fn keep_nothing(&mut self) {
        self.release_at = None;
    }

    pub(super) fn keeps_something(&self) -> bool {
        self.release_at.is_some()
    }

    /// On a connection: asks for a sign of life when it is time.
    pub(super) fn check(&mut self, now: Now, settings: &Settings) -> Result<(), Violation> {
        let silent = now.saturating_sub(self.heard);
        if silent >= settings.dead.max(settings.keep_alive) {
            return Err(Violation::Silent { silent });
        }
        if silent >= settings.keep_alive && !self.asked {
            self.asked = true;
            self.ping_due = true;
        }
        Ok(())
    }

    pub(super) fn has_something_to_say(&self) -> bool {
        self.ping_due || self.pong_due.is_some()
    }

    /// Appends a ping or a pong. False: none is due.
    pub(super) fn say(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(number) = self.pong_due.take() {
            say::append_bare(FrameKind::Pong, 0, number, out);
        } else if std::mem::take(&mut self.ping_due) {
            say::append_bare(FrameKind::Ping, 0, 0, out);
        } else {
            return false;
        }
        true
    }
}
