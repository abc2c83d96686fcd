//! Where an end is rung that somebody waits for together with others.
//!
//! One thread, descriptor or task may wait for any number of ends of its node. It takes a line of the node's
//! doorbells, and each of the ends says in its `sleeping` which line that is and which mark there is its own.
//! Then there is one word to wait on, and what it says costs the same for one end and for a thousand:
//!
//! ```text
//! the end, when it was read to its end      publisher                       who waits, at the line
//! sleeping = place                          commit                          w = wake (Acquire)
//! sleepers |= SLEEPS at every publisher     barrier                         which marks? look at those ends
//! fence(SeqCst), heavy barrier              sleepers had SLEEPS ?           none ? wait(wake == w)
//! nothing new ? it stays so                   mark the line; wake += 1
//! ```
//!
//! An end that is silent stays as it is however often the others are rung: nothing of it is written or looked
//! at. An end that was rung is not rung again before it says that it was read to its end.
//!
//! What is true after a kill: of who waits, nothing is left but a line that is rung in vain until its node is
//! known to be gone. Of a publisher between the mark and the count: the mark is found with the next ring, and
//! its own death is news, which rings.
//!
//! What a peer can do, always one of the same user: ring in vain, clear marks (the ends are looked at with
//! the next ring), and name a line of its own node that is not its own, which makes others ring that in vain.
//! A stranger has no such line; see `bell`.

use crate::bell::{self, ELSEWHERE, MARKS};
use crate::memory::BellMemory;
use crate::sync::strong;

/// Where an end is rung that somebody waits for together with others: a line in the doorbells of the end's
/// node, and a mark there.
///
/// In `sleeping` it is one word: [`ELSEWHERE`] in bits 0 to 7, the mark in bits 8 to 31, the line in bits 32
/// to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The mark, below [`MARKS`].
    pub mark: u32,
}

impl Place {
    /// As it stands in `sleeping`.
    pub(crate) fn word(self) -> u64 {
        u64::from(self.line) << 32 | u64::from(self.mark % MARKS as u32) << 8 | u64::from(ELSEWHERE)
    }

    /// The place that `sleeping` names, if it names one. Of a peer it may be any.
    pub(crate) fn of(sleeping: u64) -> Option<Place> {
        let place = Place { line: (sleeping >> 32) as u32, mark: (sleeping as u32 >> 8) % MARKS as u32 };
        (sleeping as u32 & 0xFF == ELSEWHERE).then_some(place)
    }

    /// Sets the mark and rings there. `beside`: any line of the same doorbells.
    pub(crate) fn ring(self, beside: &impl BellMemory) {
        // A line that no node has is a lie of the sleeper, who sleeps on.
        let Some(there) = beside.beside(self.line) else { return };
        let (word, bit) = (self.mark as usize / 32, 1 << (self.mark % 32));
        // edge wake: whoever takes the mark finds what it was set for. Who looks at the count instead finds
        // the mark.
        there.marks[word].fetch_or(bit, strong!("wake: mark", Release));
        bell::ring(&there.wake);
    }
}
