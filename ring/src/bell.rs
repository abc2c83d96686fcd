//! Doorbells: the only memory that two processes write. What is written here decides when somebody wakes,
//! never what somebody reads; a peer that scribbles over it can delay a wake-up or cause a needless one.
//!
//! A node has one doorbell segment for the peers of its own user; each of its ends has a line in it with
//! these words. Peers of other users never get it: see *Strangers* below.
//!
//! | word       | of a         | who writes                                  | meaning                                               |
//! | ---------- | ------------ | ------------------------------------------- | ----------------------------------------------------- |
//! | `sleepers` | publisher    | its subscribers set bits, it clears them    | somebody may sleep: [`SLEEPS`], [`LISTENS`], or both  |
//! | `commits`  | publisher    | it counts up                                | futex of all subscribers that listen to it            |
//! | `space`    | publisher    | its subscribers count it up                 | futex of a publisher that waits for space             |
//! | `wake`     | subscriber   | its publishers and its own node count it up | futex of this one subscriber                          |
//! | `marks`    | who waits for many | as `wake`; who waits clears them      | which of its ends were rung                           |
//!
//! A subscriber sleeps in one of two ways, and says which in its own segment (`sleeping`) and to each of its
//! publishers:
//!
//! - It *listens*: it waits on its `wake` and on the `commits` of each of its publishers at once
//!   (`futex_waitv`, Linux 5.16). A publisher wakes all that listen to it with one call, whatever their
//!   number. Setting this up takes time for each word, so it is for subscribers of at most [`LISTENED_MAX`]
//!   publishers.
//! - It sleeps *alone*, on `wake`, and each publisher goes through its readers and rings those that do: one
//!   call each. For subscribers of many publishers, and where the kernel or a sandbox refuses `futex_waitv`:
//!   the first refusal ends that sleep, and no subscriber of this process listens again.
//!
//! A thread that waits for many ends names one line for all of them, and for each a *mark* there
//! ([`crate::place`]): whoever would ring `wake` of such an end sets its mark and rings `wake` of that line.
//! A mark says which end to look at. One that a peer sets in vain costs a look; one that it clears lets the
//! end be looked at late, with the next ring there.
//!
//! News that are no message of a publisher (its node noticed an arrival or a death) ring `wake`, on which all
//! wait.
//!
//! A futex word is always changed before the wake-up, so a waiter that read the old value and has not slept
//! yet does not sleep at all. If the waker dies between the two, the waiter sleeps on until the next ring, or
//! until its node learns of the death and rings. No word is ever set back, also not when a line goes to
//! another end: a waiter never finds a value again.
//!
//! A subscriber that changes `commits` without end keeps those awake that listen to the same publisher; one
//! that clears `sleepers` lets them sleep until somebody else sets it. Both cost time, and nothing else; and
//! only processes of one user can do so to each other, which could stop each other as well.
//!
//! # Strangers
//!
//! A subscriber and a publisher of different users share one writable word, and no sleep of anybody else
//! depends on it. The publisher's node makes a doorbell segment for each other user that reads it: the
//! *door*. Every end has the same line there as in the node's own segment, and only `sleepers` is used.
//! Everything else lies in memory that its reader cannot write:
//!
//! | word              | lies in              | who writes                                        | meaning                             |
//! | ----------------- | -------------------- | ------------------------------------------------- | ----------------------------------- |
//! | `sleepers`        | the door of one user | subscribers of that user set it, the publisher clears it | a stranger may sleep: [`LISTENS`] |
//! | [`STRANGERS`]     | the own `sleepers`   | the publisher's node alone                        | look at the doors, too              |
//! | `commits`         | the ring's header    | the publisher                                     | futex of the strangers              |
//! | `space`           | the ring's header    | nobody: it is only woken                          | futex of a publisher that waits     |
//!
//! The kernel lets a process wait on a word that it may only read, and wake those who wait there ([`call`]).
//! A stranger always listens, whatever the number of its publishers, for a publisher writes nothing of a
//! stranger's and so cannot ring its `wake`.
//!
//! While no stranger is attached a commit looks at one word, as before. With the first, the control thread
//! sets [`STRANGERS`] in it (`Desk::attach_stranger`), so that each commit goes on to look at the door of
//! each user: one load for each. The publisher takes the bit away when the last stranger has gone. A process
//! of the same user may clear it; then strangers wake late.
//!
//! What a stranger can do: clear the `sleepers` of other processes of its own user, which then sleep until
//! their bound ([`STRANGERS_SLEEP_MAX`]); set it without end, so that each commit of a publisher that it
//! reads makes a call for nobody; and wake a publisher that waits for room, which looks once more than it
//! needed to. If the publisher lies, its strangers look by themselves, as often as the bound says.

use crate::sync::{AtomicU32, Ordering, strong};
use std::time::Duration;

/// In `sleepers`: somebody sleeps alone, or has ended; go through the readers. In `sleeping`: ring its
/// `wake`.
pub const SLEEPS: u32 = 1;
/// In `sleepers`: somebody listens; ring `commits`. In `sleeping`: it does, with all its publishers.
pub const LISTENS: u32 = 2;
/// A subscriber of more publishers than this sleeps alone: each word costs it about 0.3 us to wait on
/// (measured).
pub const LISTENED_MAX: usize = if cfg!(loom) { 1 } else { 4 };

/// In `sleepers` of the node's own doorbells: subscribers of other users are attached; look at their doors.
/// Never in a door.
pub const STRANGERS: u32 = 4;
/// In `sleeping`: set a mark of the line that is named there, and ring `wake` of that line; see
/// [`crate::place::Place`].
pub const ELSEWHERE: u32 = 8;
/// Marks of a line. Ends of one line beyond that number share them.
pub const MARKS: usize = 32 * MARK_WORDS;
const MARK_WORDS: usize = if cfg!(loom) { 1 } else { 12 };

/// Publishers of other users that a sleeping subscriber listens to, at most: each word costs it about 0.3 us
/// to wait on.
pub const STRANGERS_HEARD_MAX: usize = if cfg!(loom) { 2 } else { 63 };
/// Longest sleep of a subscriber that is attached to a publisher of another user, before it looks by itself:
/// others can spoil the word that would have woken it. Long enough that ten looks a second cost nothing that
/// can be measured.
pub const STRANGERS_SLEEP_MAX: Duration = Duration::from_millis(100);
/// The same where it cannot listen to all of them: there are more than [`STRANGERS_HEARD_MAX`], or the kernel
/// does not let it wait for several words (before 5.16, or a sandbox). So late a message of one that it does
/// not hear may be.
pub const UNHEARD_SLEEP_MAX: Duration = Duration::from_millis(4);
const _: () = assert!(STRANGERS_HEARD_MAX >= LISTENED_MAX, "who listens hears strangers as well");

/// The words of one end; see the head of this module.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Bell {
    /// Not 0: a subscriber of this publisher may be asleep.
    pub sleepers: AtomicU32,
    /// Counted up by subscribers when they made space for a blocked publisher.
    pub space: AtomicU32,
    /// Counted up for news of this subscriber, by its publishers and its own node.
    pub wake: AtomicU32,
    /// Counted up by this publisher when it has news for those that listen.
    pub commits: AtomicU32,
    /// Set by whoever rings `wake` for one of the ends that are waited for here.
    pub marks: [AtomicU32; MARK_WORDS],
}

impl Bell {
    /// A silent bell on the heap.
    pub fn silent() -> Self {
        let word = || AtomicU32::new(0);
        Bell {
            sleepers: word(),
            space: word(),
            wake: word(),
            commits: word(),
            marks: std::array::from_fn(|_| word()),
        }
    }

    /// The marks that were set since they were taken last, in ascending order.
    pub fn take_marks(&self) -> impl Iterator<Item = u32> + use<> {
        // Relaxed: a word without marks is passed over. One that is missed comes with another count, see
        // `WordsUpTo::at`.
        let words = self.marks.each_ref().map(|word| match word.load(Ordering::Relaxed) {
            0 => 0,
            // edge wake. Acquire: what a mark was set for is found.
            _ => word.swap(0, strong!("wake: marks taken", Acquire)),
        });
        words.into_iter().enumerate().flat_map(|(index, word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                // Clears the lowest bit that is set.
                left &= left.wrapping_sub(1);
                (bit < 32).then_some(index as u32 * 32 + bit)
            })
        })
    }
}

/// Words that somebody waits on at once, each with the value that it had when it was added; at most `MAX`.
#[derive(Debug, Clone)]
pub struct WordsUpTo<'bell, const MAX: usize> {
    words: [(&'bell AtomicU32, u32); MAX],
    count: usize,
}

/// As many as a subscriber waits on that has no publisher of another user.
pub type Words<'bell> = WordsUpTo<'bell, { LISTENED_MAX + 1 }>;

impl<'bell, const MAX: usize> WordsUpTo<'bell, MAX> {
    /// One word.
    pub fn of(word: &'bell AtomicU32) -> Self {
        // Relaxed: the fence of `Seats::sleep`, which comes before the last look for news, makes it an
        // Acquire: what was rung for up to here is seen then.
        WordsUpTo { words: [(word, word.load(Ordering::Relaxed)); MAX], count: 1 }
    }

    /// The `wake` of a line where somebody waits for several ends. To be noted before the marks are taken: a
    /// mark that is set later comes with another count.
    pub fn at(bell: &'bell Bell) -> Self {
        // edge wake. Acquire: whoever sees the count also sees the mark that was set before it.
        let seen = bell.wake.load(strong!("wake: waiter looks", Acquire));
        WordsUpTo { words: [(&bell.wake, seen); MAX], count: 1 }
    }

    /// One word more.
    ///
    /// # Panics
    /// If there are `MAX` already.
    pub fn add(&mut self, word: &'bell AtomicU32) {
        // Relaxed: as above.
        self.add_seen(word, word.load(Ordering::Relaxed));
    }

    /// One word more, as it was seen before.
    ///
    /// # Panics
    /// If there are `MAX` already.
    pub fn add_seen(&mut self, word: &'bell AtomicU32, seen: u32) {
        self.words[self.count] = (word, seen);
        self.count += 1;
    }

    /// Whether there are `MAX` words.
    pub fn is_full(&self) -> bool {
        self.count == MAX
    }

    /// The words and their values.
    pub fn all(&self) -> &[(&'bell AtomicU32, u32)] {
        &self.words[..self.count]
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The word changed, a wake-up came, or a signal: look again.
    LookAgain,
    /// The time is over.
    TimedOut,
}

/// Sleeps while `word` is `expected`, until a wake-up, a signal, or `timeout`. The word may be in shared
/// memory, also in a mapping that this process may only read.
#[cfg(not(loom))]
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
    use nix::libc;
    let limit = timeout.map(|duration| libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        // Below one billion, so it fits.
        tv_nsec: duration.subsec_nanos() as libc::c_long,
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: FUTEX_WAIT reads the aligned word that `word` borrows (alive and in bounds for the whole call)
    // and the time that `limit` points to, a local that outlives the call, or null, which means for ever. It
    // writes nothing.
    let outcome = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, limit) };
    if outcome == -1 && nix::errno::Errno::last_raw() == libc::ETIMEDOUT {
        Woken::TimedOut
    } else {
        Woken::LookAgain
    }
}

/// Whether [`wait_for_any`] can wait for more than one word. It is found out by trying.
pub fn can_wait_for_any() -> bool {
    #[cfg(not(loom))]
    // Relaxed: nothing else is read by it.
    return !REFUSED.load(Ordering::Relaxed);
    #[cfg(loom)]
    true
}

/// The kernel, or a sandbox around this process, does not let it wait for several words.
#[cfg(not(loom))]
static REFUSED: crate::sync::AtomicBool = crate::sync::AtomicBool::new(false);

/// Sleeps while all words are as they were, until a wake-up on one of them, a signal, or `timeout`. Returns
/// at once, and says [`Woken::LookAgain`], where this cannot be: then [`can_wait_for_any`] says so from now
/// on.
#[cfg(not(loom))]
pub fn wait_for_any<const MAX: usize>(words: &WordsUpTo<'_, MAX>, timeout: Option<Duration>) -> Woken {
    use nix::errno::Errno;
    use nix::libc;
    if let [(word, expected)] = words.all() {
        return wait(word, *expected, timeout);
    }
    let waits = words.words.map(Wait::on);
    let deadline = timeout.map(deadline_after);
    let deadline = deadline.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: futex_waitv reads `count` entries of `waits` (in bounds: `Words::add` counts what it put into
    // an array of the same length), the aligned words that they name (borrowed by `words`, so alive for the
    // whole call) and the time that `deadline` points to, a local that outlives the call, or null, which
    // means for ever. It writes nothing.
    let outcome = unsafe {
        let clock = libc::CLOCK_MONOTONIC;
        libc::syscall(libc::SYS_futex_waitv, waits.as_ptr(), words.count, 0, deadline, clock)
    };
    if outcome != -1 {
        return Woken::LookAgain;
    }
    match Errno::last() {
        Errno::ETIMEDOUT => Woken::TimedOut,
        Errno::EAGAIN | Errno::EINTR => Woken::LookAgain,
        // No such call (ENOSYS), forbidden (EPERM), or anything that would make the next sleep return at once
        // as well.
        _ => {
            // Relaxed: nothing else is read by it.
            REFUSED.store(true, Ordering::Relaxed);
            Woken::LookAgain
        }
    }
}

/// `struct futex_waitv` of linux/futex.h.
#[cfg(not(loom))]
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Wait {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

#[cfg(not(loom))]
impl Wait {
    /// While `word` is `expected`.
    pub(crate) fn on((word, expected): (&AtomicU32, u32)) -> Wait {
        // Not private: other processes ring.
        let flags = nix::libc::FUTEX2_SIZE_U32 as u32;
        Wait { expected: u64::from(expected), address: word.as_ptr() as u64, flags, reserved: 0 }
    }
}

/// The point in time that is `timeout` from now, as the kernel counts.
#[cfg(not(loom))]
fn deadline_after(timeout: Duration) -> nix::libc::timespec {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let now =
        Duration::from(now.expect("every Linux has this clock, which the standard library reads as well"));
    // What is later than the clock will ever count is never.
    let end = now.saturating_add(timeout);
    nix::libc::timespec {
        tv_sec: nix::libc::time_t::try_from(end.as_secs()).unwrap_or(nix::libc::time_t::MAX),
        // Below one billion, so it fits.
        tv_nsec: nix::libc::c_long::from(end.subsec_nanos()),
    }
}

/// Counts `word` up and wakes everyone who waits on it. One system call; never blocks.
pub fn ring(word: &AtomicU32) {
    // Release: a waiter that sees the new count also sees what was written before it; the futex itself orders
    // nothing.
    word.fetch_add(1, strong!("wake: bell", Release));
    wake_all(word);
}

/// Wakes everyone who waits on `word`, which stays as it is; this process may have mapped it to read only. A
/// process that has looked at the word and does not sleep yet misses this, so it needs a bound. One system
/// call; never blocks.
pub fn call(word: &AtomicU32) {
    wake_all(word);
}

#[cfg(not(loom))]
fn wake_all(word: &AtomicU32) {
    use nix::libc;
    #[cfg(test)]
    tests::WAKE_CALLS.set(tests::WAKE_CALLS.get() + 1);
    // SAFETY: FUTEX_WAKE only uses the address as a key; `word` borrows an aligned word that is alive for the
    // call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(loom)]
fn wake_all(_word: &AtomicU32) {}

/// Under loom a wait is a loop until the word changes: a lost wake-up shows as a model that never ends.
#[cfg(loom)]
pub fn wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Woken {
    // Relaxed: the caller looks at the ring again with its own orderings.
    while word.load(Ordering::Relaxed) == expected {
        crate::sync::spin_loop();
    }
    Woken::LookAgain
}

/// The same for several words.
#[cfg(loom)]
pub fn wait_for_any<const MAX: usize>(words: &WordsUpTo<'_, MAX>, _timeout: Option<Duration>) -> Woken {
    // Relaxed: as above.
    while words.all().iter().all(|(word, expected)| word.load(Ordering::Relaxed) == *expected) {
        crate::sync::spin_loop();
    }
    Woken::LookAgain
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::heap::Heap;
    use crate::memory::SeatMemory;
    use crate::reader::{Reader, Seats};
    use crate::sync::Arc;
    use crate::writer::{RingConfig, Writer};
    use std::cell::Cell;

    thread_local! {
        /// FUTEX_WAKE calls that this thread made.
        pub(super) static WAKE_CALLS: Cell<u32> = const { Cell::new(0) };
    }

    const MESSAGE: [u64; crate::layout::INLINE_WORDS] = [7; crate::layout::INLINE_WORDS];

    fn publisher() -> (Writer<Heap>, Arc<Bell>) {
        let bell = Arc::new(Bell::silent());
        let config = RingConfig {
            node: 7,
            index: 1,
            fingerprint: 0,
            capacity: 4,
            message_max: 64,
            chunk_memory: 4096,
            reliable: false,
            history: 0,
            retained: 0,
            bell: 0,
        };
        (Writer::on_heap(&config, Arc::clone(&bell)), bell)
    }

    struct Subscriber {
        seats: Arc<Seats<Heap>>,
        readers: Vec<Reader<Heap>>,
    }

    fn subscriber(index: u32, publishers: &[(Writer<Heap>, Arc<Bell>)]) -> Subscriber {
        let own = Arc::new(Bell::silent());
        let seats = Seats::on_heap(publishers.len(), Arc::clone(&own));
        let attach = |(writer, bell): &(Writer<Heap>, Arc<Bell>)| {
            let seat = seats.take((7, 1)).unwrap();
            let memory = Arc::clone(seats.memory());
            let first = writer.desk().attach(memory, seat.index(), Arc::clone(&own), (9, index)).unwrap();
            Reader::new(Arc::clone(writer.ring()), Arc::clone(bell), seat, first).unwrap()
        };
        let readers = publishers.iter().map(attach).collect();
        Subscriber { seats: Arc::new(seats), readers }
    }

    impl Subscriber {
        /// Sleeps, as often as it takes, until one of its publishers has sent or ended.
        fn await_news(self) {
            let news = || self.readers.iter().any(|reader| reader.ready() || reader.finished());
            while !news() {
                self.seats.sleep(self.readers.iter(), news, None);
            }
        }
    }

    fn await_sleep(seats: &Seats<Heap>, way: u32) {
        while seats.memory().header().sleeping.load(Ordering::Relaxed) != u64::from(way) {
            std::thread::yield_now();
        }
    }

    /// Waits until all sleep in this way, and the wake calls that `act` makes then. Returns when all are
    /// awake.
    fn wake_calls(subscribers: Vec<Subscriber>, way: u32, act: impl FnOnce()) -> u32 {
        let seats: Vec<_> = subscribers.iter().map(|subscriber| Arc::clone(&subscriber.seats)).collect();
        std::thread::scope(|scope| {
            for subscriber in subscribers {
                scope.spawn(|| subscriber.await_news());
            }
            seats.iter().for_each(|seats| await_sleep(seats, way));
            let before = WAKE_CALLS.get();
            act();
            WAKE_CALLS.get() - before
        })
    }

    /// Whether this machine can wait for several words; says so where not.
    fn listening() -> bool {
        let word = AtomicU32::new(0);
        let mut words = Words::of(&word);
        words.add(&word);
        wait_for_any(&words, Some(Duration::ZERO));
        if !can_wait_for_any() {
            println!(
                "skipped: this kernel or sandbox has no futex_waitv; every subscriber sleeps alone then"
            );
        }
        can_wait_for_any()
    }

    #[test]
    fn one_call_wakes_all_that_listen() {
        if !listening() {
            return;
        }
        for sleepers in [1, 8, 64] {
            let mut publishers = [publisher()];
            let subscribers = (0..sleepers).map(|index| subscriber(index, &publishers)).collect();
            let [(writer, bell)] = &mut publishers;
            let calls = wake_calls(subscribers, LISTENS, || {
                // The first that sleeps told the publisher, or does so at once. One that is on the way finds
                // the message.
                while bell.sleepers.load(Ordering::Relaxed) != LISTENS {
                    std::thread::yield_now();
                }
                writer.send_inline(&MESSAGE, 56);
            });
            assert_eq!(calls, 1, "{sleepers} sleepers");
        }
    }

    /// A subscriber of another user, for whom the publishers made doorbells: one door each.
    fn stranger(index: u32, publishers: &[(Writer<Heap>, Arc<Bell>)], doors: &[Arc<Bell>]) -> Subscriber {
        let seats = Seats::on_heap(publishers.len(), Arc::new(Bell::silent()));
        let attach = |((writer, _), door): (&(Writer<Heap>, Arc<Bell>), &Arc<Bell>)| {
            let seat = seats.take((7, 1)).unwrap();
            let memory = Arc::clone(seats.memory());
            let first =
                writer.desk().attach_stranger(memory, seat.index(), Arc::clone(door), (9, index)).unwrap();
            Reader::of_stranger(Arc::clone(writer.ring()), Arc::clone(door), seat, first).unwrap()
        };
        let readers = publishers.iter().zip(doors).map(attach).collect();
        Subscriber { seats: Arc::new(seats), readers }
    }

    #[test]
    fn one_call_wakes_all_strangers_and_none_is_made_while_they_are_awake() {
        if !listening() {
            return;
        }
        let mut publishers = [publisher()];
        let doors = [Arc::new(Bell::silent())];
        let strangers = (0..8).map(|index| stranger(index, &publishers, &doors)).collect();
        let awake = stranger(9, &publishers, &doors);
        let [(writer, bell)] = &mut publishers;
        let calls = wake_calls(strangers, LISTENS, || {
            // One may have looked by itself meanwhile, and be about to say so again.
            while doors[0].sleepers.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            writer.send_inline(&MESSAGE, 56);
        });
        assert_eq!(calls, 1);
        assert_eq!(bell.sleepers.load(Ordering::Relaxed), STRANGERS, "they write nothing here");
        // Those that slept may have said so once more. One that is gone is noticed with the next commit.
        doors[0].sleepers.store(0, Ordering::Relaxed);
        let before = WAKE_CALLS.get();
        for _ in 0..3 {
            writer.send_inline(&MESSAGE, 56);
        }
        assert_eq!(WAKE_CALLS.get(), before);
        // The last has gone: commits look at one word again.
        writer.desk().detach_node(9);
        for _ in 0..2 {
            writer.send_inline(&MESSAGE, 56);
        }
        assert_eq!(bell.sleepers.load(Ordering::Relaxed), 0);
        drop(awake);
    }

    /// A process that may write the word at the door clears it without end: the bound wakes the sleeper,
    /// which finds the message.
    #[test]
    fn a_stranger_whose_word_is_cleared_looks_by_itself() {
        let mut publishers = [publisher()];
        let doors = [Arc::new(Bell::silent())];
        let Subscriber { seats, readers } = stranger(1, &publishers, &doors);
        let sleeper = Arc::clone(&seats);
        std::thread::scope(|scope| {
            let asleep = scope.spawn(move || {
                while !readers[0].ready() {
                    assert_eq!(sleeper.sleep(readers.iter(), || readers[0].ready(), None), Woken::LookAgain);
                }
            });
            await_sleep(&seats, if can_wait_for_any() { LISTENS } else { SLEEPS });
            while !asleep.is_finished() {
                doors[0].sleepers.store(0, Ordering::Relaxed);
                if publishers[0].0.published() == 0 {
                    publishers[0].0.send_inline(&MESSAGE, 56);
                }
            }
        });
    }

    /// It listens to as many publishers of another user as it can, and sleeps alone for those of its own.
    #[test]
    fn a_subscriber_of_many_publishers_of_two_users_hears_each_of_them() {
        let mut strange: Vec<_> = (0..=STRANGERS_HEARD_MAX).map(|_| publisher()).collect();
        let doors: Vec<_> = strange.iter().map(|_| Arc::new(Bell::silent())).collect();
        let mut own = [publisher()];
        let last = strange.len() - 1;
        for (index, which) in (0..).zip([Some(0), Some(last - 1), Some(last), None]) {
            let bell = Arc::new(Bell::silent());
            let seats = Seats::on_heap(strange.len() + 1, Arc::clone(&bell));
            let seat = || (seats.take((7, 1)).unwrap(), Arc::clone(seats.memory()), (9, index));
            let mut readers = Vec::new();
            for ((writer, _), door) in strange.iter().zip(&doors) {
                let ((seat, memory, whose), ring) = (seat(), Arc::clone(writer.ring()));
                let first =
                    writer.desk().attach_stranger(memory, seat.index(), Arc::clone(door), whose).unwrap();
                readers.push(Reader::of_stranger(ring, Arc::clone(door), seat, first).unwrap());
            }
            let (writer, publishers_bell) = &own[0];
            let ((seat, memory, whose), ring) = (seat(), Arc::clone(writer.ring()));
            let first = writer.desk().attach(memory, seat.index(), bell, whose).unwrap();
            readers.push(Reader::new(ring, Arc::clone(publishers_bell), seat, first).unwrap());
            let subscriber = Subscriber { seats: Arc::new(seats), readers };
            wake_calls(vec![subscriber], SLEEPS, || {
                let sender = which.map_or(&mut own[0], |which| &mut strange[which]);
                sender.0.send_inline(&MESSAGE, 56);
            });
        }
    }

    #[test]
    fn one_call_tells_all_that_listen_of_the_end_of_a_publisher() {
        if !listening() {
            return;
        }
        let publishers = [publisher()];
        let subscribers = (0..8).map(|index| subscriber(index, &publishers)).collect();
        assert_eq!(wake_calls(subscribers, LISTENS, || drop(publishers)), 1);
    }

    #[test]
    fn a_subscriber_of_many_publishers_sleeps_alone_and_takes_a_call_of_its_own() {
        let mut publishers: Vec<_> = (0..=LISTENED_MAX).map(|_| publisher()).collect();
        let subscribers = vec![subscriber(1, &publishers), subscriber(2, &publishers)];
        let calls = wake_calls(subscribers, SLEEPS, || {
            let (writer, bell) = publishers.last_mut().unwrap();
            while bell.sleepers.load(Ordering::Relaxed) != SLEEPS {
                std::thread::yield_now();
            }
            writer.send_inline(&MESSAGE, 56);
        });
        assert_eq!(calls, 2);
    }

    #[test]
    fn a_subscriber_of_several_publishers_hears_each_of_them_and_its_own_node() {
        let way = if listening() { LISTENS } else { SLEEPS };
        let mut publishers: Vec<_> = (0..LISTENED_MAX).map(|_| publisher()).collect();
        for which in 0..LISTENED_MAX {
            let subscribers = vec![subscriber(which as u32, &publishers)];
            wake_calls(subscribers, way, || {
                publishers[which].0.send_inline(&MESSAGE, 56);
            });
        }
        let Subscriber { seats, readers } = subscriber(99, &publishers);
        std::thread::scope(|scope| {
            let sleeper = Arc::clone(&seats);
            let asleep = scope.spawn(move || sleeper.sleep(readers.iter(), || false, None));
            await_sleep(&seats, way);
            seats.wake();
            assert_eq!(asleep.join().unwrap(), Woken::LookAgain);
        });
    }

    #[test]
    fn the_time_of_who_waits_for_several_words_ends_also_when_it_is_longer_than_any_clock() {
        if !listening() {
            return;
        }
        let (left, right) = (AtomicU32::new(3), AtomicU32::new(4));
        let words = || {
            let mut words = Words::of(&left);
            words.add(&right);
            words
        };
        assert_eq!(wait_for_any(&words(), Some(Duration::from_micros(100))), Woken::TimedOut);
        let seen = words();
        ring(&right);
        assert_eq!(wait_for_any(&seen, Some(Duration::MAX)), Woken::LookAgain);
        assert!(can_wait_for_any(), "such a time is no refusal");
    }
}
