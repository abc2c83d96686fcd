//! How a subscriber sleeps until one of its publishers has something for it.

use super::{Reader, Seats};
use crate::barrier;
use crate::bell::{
    self, LISTENED_MAX, LISTENS, SLEEPS, STRANGERS_HEARD_MAX, STRANGERS_SLEEP_MAX, UNHEARD_SLEEP_MAX, Woken,
    Words, WordsUpTo,
};
use crate::memory::{BellMemory, Memory, RingMemory, SeatMemory};
use crate::sync::{Ordering, fence, strong};
use std::time::Duration;

/// Longest sleep when the kernel refuses the barrier: without it a subscriber cannot be certain to be woken.
const UNORDERED_NAP: Duration = Duration::from_millis(1);

impl<M: Memory> Seats<M> {
    /// Sleeps until a publisher of `readers` commits, somebody calls [`Seats::wake`], or `timeout` is over.
    /// Returns at once when `news` says so; it is asked after the publishers know that this subscriber
    /// sleeps, so nothing is missed. May return for no reason.
    ///
    /// With few publishers it listens to each of them, else it sleeps alone; see the head of `bell`:
    ///
    /// ```text
    /// subscriber that listens                     publisher
    /// w = wake, c = commits of every publisher    commit
    /// sleeping = LISTENS                          light barrier
    /// sleepers |= LISTENS at every publisher      sleepers != 0 ? s = sleepers, sleepers = 0
    /// fence(SeqCst), heavy barrier                s & LISTENS ? commits += 1, wake-up: the only one for all that listen
    /// nothing new ? wait(wake == w, commits == c) s & SLEEPS ? for each reader
    /// sleeping = 0                                  sleeping == SLEEPS ? wake += 1, wake-up
    ///
    /// subscriber that sleeps alone
    /// the same with SLEEPS and without c
    /// ```
    /// One of the two barriers comes first: either the publisher sees the sleeper, or the sleeper sees the
    /// message. See `barrier` for the two kinds. A subscriber that listens to several publishers and is woken
    /// by one leaves its bit with the others, and the next commit of each rings for nobody.
    ///
    /// To a publisher of another user it always listens, through the ring's `commits` and the word `sleepers`
    /// at the door. Others can spoil that word, so with such a publisher no sleep is longer than
    /// [`STRANGERS_SLEEP_MAX`]; where it cannot listen to all of them, than [`UNHEARD_SLEEP_MAX`].
    pub fn sleep<'a>(
        &self,
        readers: impl Iterator<Item = &'a Reader<M>> + Clone,
        news: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Woken {
        let publishers = readers.clone().take(LISTENED_MAX + 1).count();
        let listens = (1..=LISTENED_MAX).contains(&publishers) && bell::can_wait_for_any();
        self.sleep_in_this_way(listens, readers, news, timeout)
    }

    /// As [`Seats::sleep`], but alone, as if there were many publishers.
    #[cfg(loom)]
    pub fn sleep_alone<'a>(
        &self,
        readers: impl Iterator<Item = &'a Reader<M>> + Clone,
        news: impl FnMut() -> bool,
    ) -> Woken {
        self.sleep_in_this_way(false, readers, news, None)
    }

    fn sleep_in_this_way<'a>(
        &self,
        listens: bool,
        readers: impl Iterator<Item = &'a Reader<M>> + Clone,
        news: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Woken {
        if readers.clone().any(|reader| reader.is_stranger) {
            return self.sleep_among_strangers(listens, readers, news, timeout);
        }
        let mut words = Words::of(&self.bell.bell().wake);
        if listens {
            readers.clone().for_each(|reader| words.add(reader.commits()));
        }
        let way = if listens { LISTENS } else { SLEEPS };
        // Relaxed: `sleepers` carries it.
        self.memory().header().sleeping.store(u64::from(way), Ordering::Relaxed);
        for reader in readers.clone() {
            reader.tell_of_sleep(way);
        }
        self.look_and_sleep(&words, readers, None, news, timeout)
    }

    /// Listens to the publishers of other users, to as many as it can, and to the others if it may.
    #[cold]
    fn sleep_among_strangers<'a>(
        &self,
        listens: bool,
        readers: impl Iterator<Item = &'a Reader<M>> + Clone,
        news: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Woken {
        let can_listen = bell::can_wait_for_any();
        let mut words: WordsUpTo<'_, { STRANGERS_HEARD_MAX + 1 }> = WordsUpTo::of(&self.bell.bell().wake);
        let way = if listens { LISTENS } else { SLEEPS };
        // Relaxed: `sleepers` carries it to those of our user; to others it is a hint (see
        // `Desk::wake_sleepers`).
        self.memory().header().sleeping.store(u64::from(way), Ordering::Relaxed);
        let mut hears_all = true;
        for reader in readers.clone() {
            let hears =
                listens || (reader.is_stranger && can_listen && words.all().len() <= STRANGERS_HEARD_MAX);
            if hears {
                words.add(reader.commits());
                reader.tell_of_sleep(LISTENS);
            } else if reader.is_stranger {
                hears_all = false;
            } else {
                reader.tell_of_sleep(SLEEPS);
            }
        }
        let bound = if hears_all { STRANGERS_SLEEP_MAX } else { UNHEARD_SLEEP_MAX };
        self.look_and_sleep(&words, readers, Some(bound), news, timeout)
    }

    /// The second half of a sleep: the publishers know of it, and the words are noted. `bound`: the longest
    /// sleep.
    #[inline]
    fn look_and_sleep<'a, const MAX: usize>(
        &self,
        words: &WordsUpTo<'_, MAX>,
        readers: impl Iterator<Item = &'a Reader<M>>,
        bound: Option<Duration>,
        mut news: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Woken {
        // edge sleep: see `sleep`.
        fence(strong!("sleep: reader fence", SeqCst));
        // Under loom a sleep has no end but a wake-up, so that one which is lost shows.
        let nap = nap_if_unordered(readers).or(bound).filter(|_| !cfg!(loom));
        let woken = if news() {
            Woken::LookAgain
        } else if let Some(nap) = nap.filter(|nap| timeout.is_none_or(|timeout| *nap < timeout)) {
            bell::wait_for_any(words, Some(nap));
            // The nap is over, not the time.
            Woken::LookAgain
        } else {
            bell::wait_for_any(words, timeout)
        };
        // Relaxed: a publisher that still sees it rings in vain.
        self.memory().header().sleeping.store(0, Ordering::Relaxed);
        woken
    }
}

/// Puts a fence between the commits of publishers that make none themselves and their looks at `sleepers`.
/// Where the kernel refuses, says how long a sleep may be: no longer than a wake-up may be late.
fn nap_if_unordered<'a, M: Memory>(mut readers: impl Iterator<Item = &'a Reader<M>>) -> Option<Duration> {
    let unfenced = readers.any(|reader| barrier::is_unfenced(reader.ring.header()));
    (unfenced && !barrier::heavy()).then_some(UNORDERED_NAP)
}
