//! What a subscriber keeps account of, for each publisher: order, repetitions, gaps and checksums. It trusts
//! neither the messages nor the figures of the SDK, which must come out the same.

use crate::entry::Checked;
use serde::{Deserialize, Serialize};

/// The most faults that are told in words.
const TOLD: usize = 8;

/// The account of one publisher.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Sequence of the first message that could come.
    pub first: u64,
    /// Sequence that must come next, or a later one if some are lost.
    pub next: u64,
    /// Messages that arrived.
    pub received: u64,
    /// Messages that were left out, by their numbers.
    pub missed: u64,
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Messages that arrived a second time, or after a later one.
    pub disordered: u64,
    /// Messages whose number, length or checksum does not hold.
    pub torn: u64,
    /// The first few of both, in words.
    pub faults: Vec<String>,
}

impl Account {
    /// An account that begins with message `first`.
    pub fn new(first: u64) -> Self {
        Account { first, next: first, ..Account::default() }
    }

    /// Enters a message.
    pub fn enter<M: Checked + ?Sized>(&mut self, sequence: u64, message: &M) {
        self.received += 1;
        if sequence < self.next {
            self.disordered += 1;
            self.tell(format!("message {sequence} arrived when {} was due", self.next));
        } else {
            self.missed += sequence - self.next;
            self.next = sequence + 1;
        }
        match message.check(sequence) {
            Ok(bytes) => self.bytes += bytes as u64,
            Err(fault) => {
                self.torn += 1;
                self.tell(fault);
            }
        }
    }

    fn tell(&mut self, fault: String) {
        if self.faults.len() < TOLD {
            self.faults.push(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{HEAD, Source};

    #[test]
    fn gaps_repetitions_and_torn_messages_are_told_apart() {
        let source = Source::new(3);
        let message = |number| {
            let mut bytes = vec![0; HEAD + 50];
            source.write(number, &mut bytes);
            bytes
        };
        let mut account = Account::new(0);
        for number in [0, 1, 5, 5, 4, 6] {
            account.enter(number, &message(number)[..]);
        }
        account.enter(7, &message(8)[..]);
        assert_eq!((account.received, account.missed, account.disordered, account.torn), (7, 3, 2, 1));
        assert_eq!(account.faults.len(), 3);
    }
}
