//! How a publisher wakes its readers, and ends.

use super::Writer;
use crate::bell::{self, Bell, LISTENS, SLEEPS, STRANGERS};
use crate::memory::{BellMemory, Memory, RingMemory};
use crate::sync::{Ordering, fence, strong};

impl<M: Memory> Writer<M> {
    /// Wakes all readers that sleep: one system call for all that listen, and one for each that sleeps alone.
    #[cold]
    pub(super) fn ring_bell(&mut self) {
        // Relaxed: as in `announce`.
        let seen = self.bell.bell().sleepers.load(Ordering::Relaxed);
        let wakes_strangers = seen & STRANGERS != 0 && self.look_at_doors();
        if seen == STRANGERS && !wakes_strangers && !self.doors.is_empty() {
            return;
        }
        self.order.note_ring(self.ring.header(), self.next);
        if seen == STRANGERS && !self.doors.is_empty() {
            return;
        }
        let sleepers = take_sleepers(self.bell.bell());
        if sleepers & STRANGERS != 0 {
            self.keep_strangers();
        }
        if sleepers & LISTENS != 0 {
            bell::ring(&self.bell.bell().commits);
        }
        if sleepers & SLEEPS != 0 {
            self.look_at_readers();
        }
    }

    /// Wakes the readers that sleep alone, and notices those that have ended.
    fn look_at_readers(&mut self) {
        self.refresh();
        self.attached = 0;
        for reader in &self.readers {
            self.attached += usize::from(!reader.closed());
            reader.wake_if_alone();
        }
        // A reader that ends sets this bit too, so that its end is noticed here without a root.
        if self.attached < self.readers.len() {
            self.desk.prune();
        }
    }

    /// Wakes the readers of other users that sleep: at most one system call for all of them. Whether there
    /// are any.
    #[cold]
    fn look_at_doors(&mut self) -> bool {
        // The list is as new as the bit: a sleeper behind a door was on it before, and the commit's barrier
        // comes before this look.
        self.refresh();
        let mut sleepers = 0;
        for door in &self.doors {
            // edge sleep. Relaxed: as in `announce`.
            if door.bell().sleepers.load(Ordering::Relaxed) != 0 {
                sleepers |= take_sleepers(door.bell());
            }
        }
        if sleepers & LISTENS != 0 {
            bell::ring(&self.ring.header().commits);
        }
        // One that has ended.
        if sleepers & SLEEPS != 0 {
            self.look_at_readers();
        }
        sleepers & LISTENS != 0
    }

    /// Puts [`STRANGERS`] back, which was taken out with the sleepers of our user, unless the last stranger
    /// has gone.
    #[cold]
    fn keep_strangers(&mut self) {
        if self.doors.is_empty() {
            // Under the lock, whatever the version says: the thread that set the bit taken out had changed
            // the list before, under this lock.
            self.fetch_readers();
        }
        if !self.doors.is_empty() {
            // Relaxed: only this publisher reads the bit.
            self.bell.bell().sleepers.fetch_or(STRANGERS, Ordering::Relaxed);
        }
    }

    /// Says that this publisher has ended. It is only to be dropped then: readers rely on it that nothing is
    /// written from here on.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.is_closed, true) || self.desk.is_forked() {
            return;
        }
        // edge close: after the last message.
        self.ring.header().closed.store(1, strong!("close: writer ends", Release));
        // Pairs with the fence before a sleeper's last look.
        fence(strong!("close: writer fence", SeqCst));
        let (listens, is_strange) = self.desk.wake_sleepers();
        if listens {
            bell::ring(&self.bell.bell().commits);
        }
        if is_strange {
            bell::ring(&self.ring.header().commits);
        }
    }
}

/// Which subscribers say that they sleep.
fn take_sleepers(bell: &Bell) -> u32 {
    // edge sleep. Acquire: the subscriber that set this set its `sleeping` before. One that sets it
    // afterwards looks for messages behind its fence, and ours came before this.
    bell.sleepers.swap(0, strong!("sleep: writer swaps sleepers", Acquire))
}
