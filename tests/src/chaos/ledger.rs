//! Holds what a dead publisher committed against what a subscriber received. No input or output; it knows
//! numbers alone.
//!
//! ```text
//!             first            done   begun         sequence of messages at the publisher
//! ──────────────┼────────────────┼──────┼──────▶
//!   position = first + received + lost lies in [done, begun]
//! ```
//! | below `done` | committed and never arrived: *lost* |
//! | beyond `begun` | arrived and never committed: *made up* |
//! | number used twice, or after a later one | *doubled* |
//! | number, length or checksum do not hold | *torn* |
//! | left out without being counted, or counted without being left out | *misjudged* |

use crate::account::Account;

/// The most faults that are told in words.
const TOLD: usize = 12;

/// What a victim says it has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// At least.
    pub done: u64,
    /// At most.
    pub begun: u64,
}

/// What the SDK says of a connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Sequence of the first message that could come.
    pub first: u64,
    /// Messages received.
    pub received: u64,
    /// Messages missed for good.
    pub lost: u64,
}

/// What went wrong, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Committed and never arrived, nor counted as lost on a lossy service.
    pub lost: u64,
    /// Arrived and is not what was sent.
    pub torn: u64,
    /// Arrived again, or after a later one.
    pub doubled: u64,
    /// Arrived and was never committed, or not by this publisher.
    pub invented: u64,
    /// The living taken for dead or the dead for living, or a count that does not hold.
    pub misjudged: u64,
    /// Anything else that did not work.
    pub failed: u64,
    /// The first few, in words.
    pub told: Vec<String>,
}

impl Faults {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.lost + self.torn + self.doubled + self.invented + self.misjudged + self.failed
    }

    /// Something did not work.
    pub fn fail(&mut self, what: String) {
        self.failed += 1;
        self.tell(what);
    }

    /// Somebody was taken for what he is not.
    pub fn misjudge(&mut self, what: String) {
        self.misjudged += 1;
        self.tell(what);
    }

    /// Says it in words.
    pub fn tell(&mut self, what: String) {
        if self.told.len() < TOLD {
            self.told.push(what);
        }
    }

    /// Those of another lane.
    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.torn += other.torn;
        self.doubled += other.doubled;
        self.invented += other.invented;
        self.misjudged += other.misjudged;
        self.failed += other.failed;
        other.told.into_iter().for_each(|fault| self.tell(fault));
    }

    /// Judges a connection with a publisher that is dead. `account` is what arrived, `said` what the SDK
    /// counts.
    pub fn judge(&mut self, whom: &str, committed: Committed, account: &Account, said: Said, reliable: bool) {
        let before = self.total();
        let position = said.first + said.received + said.lost;
        self.lost += committed.done.saturating_sub(position);
        self.invented += position.saturating_sub(committed.begun);
        self.doubled += account.disordered;
        self.torn += account.torn;
        if reliable {
            self.lost += account.missed.max(said.lost);
        }
        // The numbers of the messages must say what the counters say. A loss after the last message is known
        // by the counter alone.
        let counted = account.received == said.received && account.first == said.first;
        if !counted || account.missed > said.lost || account.next > position.max(account.first) {
            self.misjudged += 1;
        }
        if self.total() > before {
            let reliable = if reliable { "reliable" } else { "lossy" };
            self.tell(format!("{whom}, {reliable}: {committed:?}, {said:?}, {account:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{HEAD, Source};

    /// The account of a subscriber to whom these messages came.
    fn account(first: u64, numbers: impl IntoIterator<Item = u64>) -> Account {
        let source = Source::new(1);
        let mut bytes = vec![0; HEAD + 16];
        let mut account = Account::new(first);
        for number in numbers {
            source.write(number, &mut bytes);
            account.enter(number, &bytes[..]);
        }
        account
    }

    fn judged(done: u64, begun: u64, account: &Account, lost: u64, reliable: bool) -> Faults {
        let mut faults = Faults::default();
        let said = Said { first: account.first, received: account.received, lost };
        faults.judge("victim", Committed { done, begun }, account, said, reliable);
        faults
    }

    #[test]
    fn all_that_was_committed_and_perhaps_the_one_that_was_begun_is_no_fault() {
        for last in [10, 11] {
            for reliable in [true, false] {
                assert_eq!(judged(10, 11, &account(0, 0..last), 0, reliable), Faults::default());
            }
        }
    }

    #[test]
    fn a_victim_whose_count_is_too_high_shows_as_loss() {
        let faults = judged(12, 13, &account(0, 0..10), 0, false);
        assert_eq!((faults.lost, faults.total()), (2, 2));
        assert_eq!(faults.told.len(), 1);
    }

    #[test]
    fn a_message_that_was_never_begun_is_made_up() {
        let faults = judged(8, 9, &account(0, 0..10), 0, true);
        assert_eq!((faults.invented, faults.total()), (1, 1));
    }

    #[test]
    fn a_message_that_comes_twice_is_doubled() {
        // It is also one more than was committed.
        let faults = judged(3, 3, &account(0, [0, 1, 1, 2]), 0, true);
        assert_eq!((faults.doubled, faults.invented, faults.total()), (1, 1, 2));
    }

    #[test]
    fn a_torn_message_is_torn() {
        let mut torn = account(0, 0..3);
        let mut bytes = vec![0; HEAD + 16];
        Source::new(1).write(3, &mut bytes);
        bytes[HEAD] ^= 1;
        torn.enter(3, &bytes[..]);
        let faults = judged(4, 4, &torn, 0, true);
        assert_eq!((faults.torn, faults.total()), (1, 1));
    }

    #[test]
    fn a_gap_is_a_loss_on_a_reliable_service_and_must_be_counted_on_a_lossy_one() {
        let gap = account(0, [0, 1, 4, 5]);
        assert_eq!(judged(6, 6, &gap, 2, true).lost, 2);
        assert_eq!(judged(6, 6, &gap, 2, false), Faults::default());
        // Not counted: the position falls short, and the numbers contradict the counter.
        let faults = judged(6, 6, &gap, 0, false);
        assert_eq!((faults.lost, faults.misjudged), (2, 1));
    }

    #[test]
    fn counters_that_contradict_the_messages_are_misjudged() {
        let mut faults = Faults::default();
        let said = Said { first: 0, received: 9, lost: 1 };
        faults.judge("victim", Committed { done: 10, begun: 10 }, &account(0, 0..10), said, false);
        assert_eq!((faults.misjudged, faults.total()), (1, 1));
    }
}
