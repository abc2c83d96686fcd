//! How a receiving end waits: it spins, then sleeps. Written once, for all ends.

use hivemind_ring::bell::Woken;
use std::time::{Duration, Instant};

use super::Intake;
use crate::ports::error::RecvError;

/// Looks at the readers between two looks at the clock while spinning.
const SPINS_PER_CLOCK: u32 = 64;
/// Rounds of a blocking receive, each of which found something new but no message, between two looks at the
/// clock.
const ROUNDS_PER_CLOCK: u32 = 16;
/// How much longer a receive waits.
struct Patience {
    start: Option<Instant>,
    timeout: Option<Duration>,
    rounds: u32,
}

impl Patience {
    fn new(timeout: Option<Duration>) -> Self {
        Patience { start: None, timeout, rounds: 0 }
    }

    fn is_over(&mut self) -> bool {
        let elapsed = self.elapsed();
        self.timeout.is_some_and(|timeout| elapsed >= timeout)
    }

    /// Time since the first look at the clock, which is made as late as possible.
    fn elapsed(&mut self) -> Duration {
        self.start.get_or_insert_with(Instant::now).elapsed()
    }

    /// What is left of the time; `None` for ever.
    fn left(&mut self) -> Option<Duration> {
        let elapsed = self.elapsed();
        self.timeout.map(|timeout| timeout.saturating_sub(elapsed))
    }
}

/// A receiving end above an intake. What it receives is its own matter; how it waits is the same for all: see
/// [`receive`].
pub trait Receiving {
    /// What it receives.
    type Received;

    /// What it receives from.
    fn intake(&mut self) -> &mut Intake;

    /// The next message, if there is one. Never blocks.
    ///
    /// # Errors
    /// [`RecvError`]; the end stays usable.
    fn try_receive(&mut self) -> Result<Option<Self::Received>, RecvError>;
}

/// The next message; waits for one, at most for `timeout`. `None` when the time is over, and once the node is
/// leaving and everything was read that was there when that began.
///
/// # Errors
/// [`RecvError`]; the end stays usable.
pub fn receive<R: Receiving>(
    end: &mut R,
    timeout: Option<Duration>,
) -> Result<Option<R::Received>, RecvError> {
    let mut patience = Patience::new(timeout);
    loop {
        if end.intake().is_over() {
            return Ok(None);
        }
        if let Some(received) = end.try_receive()? {
            end.intake().count_down();
            return Ok(Some(received));
        }
        if !end.intake().wait(&mut patience) {
            // Whatever came between the last look and the end of the wait.
            return end.try_receive();
        }
    }
}

impl<S> Intake<S> {
    /// Whether a blocking receive gives nothing more: the node is leaving, and what was there when that began
    /// was read. Whatever comes still is not waited out, or a busy publisher would keep the node for
    /// ever.
    #[inline]
    fn is_over(&self) -> bool {
        self.last_call == Some(0)
    }

    /// A blocking receive gives a message.
    #[inline]
    fn count_down(&mut self) {
        if let Some(left) = &mut self.last_call {
            *left = left.saturating_sub(1);
        }
    }

    /// Waits until there may be something to read. False: the time is over, or the node is leaving.
    fn wait(&mut self, patience: &mut Patience) -> bool {
        patience.rounds = patience.rounds.wrapping_add(1);
        // A publisher that overtakes this reader again and again has always something new, and never a
        // message.
        if patience.rounds.is_multiple_of(ROUNDS_PER_CLOCK)
            && (patience.is_over() || self.member.hub().leaving())
        {
            return false;
        }
        let spin_end = patience.elapsed().saturating_add(self.spin);
        loop {
            let looks = if self.spin.is_zero() { 1 } else { SPINS_PER_CLOCK };
            for _ in 0..looks {
                if self.anything_new() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if self.member.hub().leaving() {
                return false;
            }
            self.sweep();
            let elapsed = patience.elapsed();
            if patience.timeout.is_some_and(|timeout| elapsed >= timeout) {
                return false;
            }
            if elapsed >= spin_end {
                break;
            }
        }
        let left = patience.left();
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        if let Some(watch) = self.watch.get_mut() {
            // This sleep takes what rings. Whoever waits otherwise is told to look afterwards.
            watch.trip();
        }
        let readers = self.connections.iter().map(|connection| &connection.reader);
        let news = || self.anything_new() || self.member.hub().leaving() || self.anything_ended();
        let woken = self.end.seats.sleep(readers, news, left);
        woken == Woken::LookAgain || self.anything_new()
    }
}
