//! Bounded waiting: spinning without a pause instruction, and a rest that lets the other side fall asleep.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// How long one side waits for the other before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two readings of a case in which both sides sleep: long enough for the other side to fall asleep
/// again.
pub const REST: Duration = Duration::from_micros(50);

/// Failed looks between two looks at the clock.
const LOOKS: u32 = 1 << 16;

/// Spins until `look` finds something or fails, at most [`PATIENCE`].
#[inline(always)]
pub fn spin_for<T>(mut look: impl FnMut() -> Result<Option<T>>, what: &'static str) -> Result<T> {
    let mut deadline = None;
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look()? {
                return Ok(found);
            }
        }
        check(&mut deadline, what)?;
    }
}

/// Spins until `ready`, at most [`PATIENCE`].
#[inline(always)]
pub fn spin_until(mut ready: impl FnMut() -> bool, what: &'static str) -> Result<()> {
    spin_for(|| Ok(ready().then_some(())), what)
}

/// Looks every millisecond: for starting up, where a spinning side would take the core from the rival's own
/// threads.
pub fn nap_for<T>(mut look: impl FnMut() -> Result<Option<T>>, what: &'static str) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(Failure::Silent { what, waited_s: PATIENCE.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks every millisecond until `ready`, at most [`PATIENCE`].
pub fn nap_until(mut ready: impl FnMut() -> bool, what: &'static str) -> Result<()> {
    nap_for(|| Ok(ready().then_some(())), what)
}

/// Spins for [`REST`]: this core stays awake while the other falls asleep.
pub fn rest() {
    let start = Instant::now();
    while start.elapsed() < REST {
        std::hint::spin_loop();
    }
}

#[cold]
fn check(deadline: &mut Option<Instant>, what: &'static str) -> Result<()> {
    if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
        return Err(Failure::Silent { what, waited_s: PATIENCE.as_secs() });
    }
    Ok(())
}
