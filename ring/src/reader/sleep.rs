//! How a subscriber sleeps until one of its publishers has something for it, or lets others sleep for it.
//!
//! A sleep has four parts, and each way to wait is made of them:
//!
//! | who waits                 | says so           | looks | waits on                                              | afterwards      |
//! | ------------------------- | ----------------- | ----- | ----------------------------------------------------- | --------------- |
//! | a thread, for one end     | [`Seats::sleep`]  | once  | `wake`, and `commits` of few publishers, by futex     | nothing is left |
//! | a descriptor, for one end | [`Seats::arm`]    | once  | the same words, by the kernel ([`crate::pollable`])   | it stays armed  |
//! | anybody, for many ends    | [`Seats::arm_at`] | once  | `wake` of a line for all of them ([`crate::place`])   | it stays armed  |
//!
//! An end that stays armed is told of the next message and then no more, until it is armed again. The words
//! are noted before the look, so a wait that begins later, in another thread or in the kernel, ends at once
//! if something came meanwhile.

use super::{Reader, Seats};
use crate::barrier;
use crate::bell::{
    self, LISTENED_MAX, LISTENS, SLEEPS, STRANGERS_HEARD_MAX, STRANGERS_SLEEP_MAX, UNHEARD_SLEEP_MAX, Woken,
    Words, WordsUpTo,
};
use crate::memory::{BellMemory, Memory, RingMemory, SeatMemory};
use crate::place::Place;
use crate::sync::{Arc, AtomicU32, Ordering, fence, strong};
use std::time::Duration;

/// Longest sleep when the kernel refuses the barrier: without it a subscriber cannot be certain to be woken.
const UNORDERED_NAP: Duration = Duration::from_millis(1);

/// As many words as a subscriber waits on that has publishers of other users.
type ManyWords<'a> = WordsUpTo<'a, { STRANGERS_HEARD_MAX + 1 }>;

/// What to wait on for a subscriber that was armed.
#[derive(Debug)]
pub struct Armed<'a> {
    /// One of them changes when there is something new.
    pub words: ManyWords<'a>,
    /// To be looked at again after this time even if none has changed; `None`: not before.
    pub bound: Option<Duration>,
}

/// A publisher of another user, as one listens to it who waits for many ends.
pub struct Heard<M: Memory> {
    ring: Arc<M::Ring>,
    seen: u32,
}

impl<M: Memory> Clone for Heard<M> {
    fn clone(&self) -> Self {
        Heard { ring: Arc::clone(&self.ring), seen: self.seen }
    }
}

impl<M: Memory> Heard<M> {
    /// The word, and what it was before the look.
    pub fn word(&self) -> (&AtomicU32, u32) {
        (&self.ring.header().commits, self.seen)
    }

    /// Whether it has rung since.
    pub fn has_rung(&self) -> bool {
        let (word, seen) = self.word();
        // Relaxed: it says where to look.
        word.load(Ordering::Relaxed) != seen
    }
}

impl<M: Memory> std::fmt::Debug for Heard<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard").field("seen", &self.seen).finish_non_exhaustive()
    }
}

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
        self.sleep_in_this_way(listens(readers.clone()), readers, news, timeout)
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
        self.say(if listens { LISTENS } else { SLEEPS }.into());
        for reader in readers.clone() {
            if listens {
                words.add(reader.commits());
            }
            reader.tell_of_sleep(if listens { LISTENS } else { SLEEPS });
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
        let Armed { words, bound } = self.tell_all(listens, readers.clone());
        self.look_and_sleep(&words, readers, bound, news, timeout)
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
        // Under loom a sleep has no end but a wake-up, so that one which is lost shows.
        let nap = order_look(readers).or(bound).filter(|_| !cfg!(loom));
        let woken = if news() {
            Woken::LookAgain
        } else if let Some(nap) = nap.filter(|nap| timeout.is_none_or(|timeout| *nap < timeout)) {
            bell::wait_for_any(words, Some(nap));
            // The nap is over, not the time.
            Woken::LookAgain
        } else {
            bell::wait_for_any(words, timeout)
        };
        self.disarm();
        woken
    }

    /// The first half of a sleep for which somebody else waits: the publishers of `readers` know of it, and
    /// there is nothing new yet, as `news` says, which is asked afterwards. `None`: there is.
    ///
    /// It stays so until it is armed again, [`Seats::disarm`]ed, or sleeps itself.
    pub fn arm<'w, 'a: 'w>(
        &'w self,
        readers: impl Iterator<Item = &'a Reader<M>> + Clone,
        news: impl FnOnce() -> bool,
    ) -> Option<Armed<'w>> {
        let Armed { words, bound } = self.tell_all(listens(readers.clone()), readers.clone());
        let bound = order_look(readers).or(bound);
        (!news()).then_some(Armed { words, bound })
    }

    /// As [`Seats::arm`], for somebody who waits at `place`. Puts the publishers of other users that are to
    /// be listened to, beyond those that are there, into `heard`, of which [`STRANGERS_HEARD_MAX`] are
    /// heard. The look is to be repeated after the time in `Ok`, if any.
    ///
    /// # Errors
    /// There is something new.
    pub fn arm_at<'a>(
        &self,
        place: Place,
        readers: impl Iterator<Item = &'a Reader<M>> + Clone,
        heard: &mut Vec<Heard<M>>,
        news: impl FnOnce() -> bool,
    ) -> Result<Option<Duration>, SomethingNew> {
        self.say(place.word());
        let mut bound = None;
        for reader in readers.clone() {
            if !reader.is_stranger {
                reader.tell_of_sleep(SLEEPS);
            } else if heard.len() < STRANGERS_HEARD_MAX && bell::can_wait_for_any() {
                // Relaxed: the fence below, as in `WordsUpTo::of`.
                let seen = reader.commits().load(Ordering::Relaxed);
                heard.push(Heard { ring: Arc::clone(&reader.ring), seen });
                reader.tell_of_sleep(LISTENS);
                bound = bound.or(Some(STRANGERS_SLEEP_MAX));
            } else {
                bound = Some(UNHEARD_SLEEP_MAX);
            }
        }
        let bound = order_look(readers).or(bound);
        if news() { Err(SomethingNew) } else { Ok(bound) }
    }

    /// Nobody sleeps for this subscriber any more. A publisher that does not see this yet rings in vain.
    pub fn disarm(&self) {
        self.say(0);
    }

    /// Says in shared memory how this subscriber sleeps.
    fn say(&self, sleeping: u64) {
        // Relaxed: `sleepers` carries it to those of our user; to others it is a hint (see
        // `Desk::wake_sleepers`).
        self.memory().header().sleeping.store(sleeping, Ordering::Relaxed);
    }

    /// Notes the words, says how this subscriber sleeps, and tells its publishers: it listens to those of
    /// other users, to as many as it can, and to the others if it `listens`.
    fn tell_all<'w, 'a: 'w>(
        &'w self,
        listens: bool,
        readers: impl Iterator<Item = &'a Reader<M>>,
    ) -> Armed<'w> {
        let can_listen = bell::can_wait_for_any();
        let mut words: ManyWords<'_> = WordsUpTo::of(&self.bell.bell().wake);
        self.say(if listens { LISTENS } else { SLEEPS }.into());
        let mut bound = None;
        for reader in readers {
            if listens || (reader.is_stranger && can_listen && !words.is_full()) {
                words.add(reader.commits());
                reader.tell_of_sleep(LISTENS);
                if reader.is_stranger {
                    bound = bound.or(Some(STRANGERS_SLEEP_MAX));
                }
            } else if reader.is_stranger {
                bound = Some(UNHEARD_SLEEP_MAX);
            } else {
                reader.tell_of_sleep(SLEEPS);
            }
        }
        Armed { words, bound }
    }
}

/// There is something to be received already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SomethingNew;

/// Whether a subscriber listens to its publishers: there are few.
fn listens<'a, M: Memory>(readers: impl Iterator<Item = &'a Reader<M>>) -> bool {
    (1..=LISTENED_MAX).contains(&readers.take(LISTENED_MAX + 1).count()) && bell::can_wait_for_any()
}

/// Puts a fence between the word to the publishers and the look that follows, and one between the commits of
/// publishers that make none themselves and their looks at `sleepers`. Where the kernel refuses, says how
/// long a sleep may be: no longer than a wake-up may be late.
#[inline]
fn order_look<'a, M: Memory>(mut readers: impl Iterator<Item = &'a Reader<M>>) -> Option<Duration> {
    // edge sleep: see `Seats::sleep`.
    fence(strong!("sleep: reader fence", SeqCst));
    let unfenced = readers.any(|reader| barrier::is_unfenced(reader.ring.header()));
    (unfenced && !barrier::heavy()).then_some(UNORDERED_NAP)
}
