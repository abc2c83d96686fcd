//! A root that lives and does not answer: who waits for it in vain takes its place. The clock of that is the
//! [vigil](crate::session::vigil).
use hivemind_core::protocol::ToRoot;
use nix::sys::epoll::EpollFlags;

use super::Control;
use super::seeking::Lost;
use crate::root::lock::{FileId, RootLock, raise_doubt};
use crate::session::vigil::Due;
use crate::session::{RootRole, WaitedFor};

impl Control {
    /// Whether this node waits for a word of the root.
    pub(super) fn is_waiting(&self) -> bool {
        match &self.link {
            // A thread that drives waits by itself, and only for a moment.
            Some(link) if link.is_driven => false,
            Some(link) => {
                !link.is_admitted
                    || self.questions.is_asking
                    || !self.announced.pending.is_empty()
                    || !self.questions.is_empty()
            }
            None => true,
        }
    }

    /// Does what is due because the root has said nothing for long.
    pub(super) fn keep_vigil(&mut self) {
        match self.vigil.due(&self.who.dir) {
            Due::Nothing => {}
            Due::Doubt => raise_doubt(&self.who.dir),
            Due::Replaced => {
                self.is_succeeded();
            }
            Due::Silent(lock) => {
                // It may be this process that stood still: what the root has said is read first, and counts.
                self.link_ready(EpollFlags::EPOLLIN);
                if self.vigil.alarm().is_some() && !self.is_succeeded() {
                    self.succeed(lock);
                }
            }
        }
    }

    /// True: another socket has taken the place of the one that this node is connected to, and it seeks anew.
    fn is_succeeded(&mut self) -> bool {
        let Some(link) = &self.link else { return false };
        let is_there = FileId::at(self.who.dir.root_socket()).map_or(true, |now| now == link.found);
        if !is_there {
            tracing::debug!(node = %self.who.name, pid = link.pid, "the root has a successor");
            self.seek_anew();
        }
        !is_there
    }

    fn seek_anew(&mut self) {
        let path = self.who.dir.root_socket().to_owned();
        self.lose(Lost::NotNow(WaitedFor::Root { path }));
        self.seeking.restart();
    }

    /// Takes the place of a root that does not answer, if this node may.
    fn succeed(&mut self, lock: FileId) {
        if self.who.role != RootRole::Embedded || !self.who.dir.is_ours() {
            // Those who may were told.
            return;
        }
        let taken = match RootLock::try_take(&self.who.dir) {
            // Its process is gone, and another one, which serves nobody, was connected to.
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => RootLock::supersede(&self.who.dir, lock),
            Err(error) => Err(error),
        };
        match taken {
            Ok(None) => self.seek_anew(),
            Err(error) => tracing::error!(%error, "cannot supersede the root that does not answer"),
            Ok(Some(lock)) => {
                let pid = self.link.as_ref().map_or(0, |link| link.pid);
                tracing::warn!(node = %self.who.name, pid, "the root does not answer; this node takes its place");
                if let Some(own) = self.seeking.root.take() {
                    own.abandon();
                }
                self.seek_anew();
                if let Err(reason) = self.serve(lock)
                    && let Some(reason) = self.seeking.fails_with(reason)
                {
                    self.back_off(reason);
                }
            }
        }
    }

    pub(super) fn folder_changed(&mut self) {
        let signs = self.vigil.signs(&self.who.dir);
        if signs.is_replaced && self.is_succeeded() {
            return;
        }
        let can_ask = self.link.as_ref().is_some_and(|link| link.is_admitted);
        let lock = self.link.as_ref().and_then(|link| link.lock);
        if signs.is_doubted && can_ask && self.vigil.join_doubt(lock) {
            self.questions.is_asking = true;
            self.say(&ToRoot::AreYouThere, Vec::new());
        }
    }
}
