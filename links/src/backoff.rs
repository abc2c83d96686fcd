//! Pauses between attempts to reach a host, and after faults. They double up to a bound. Half of each pause
//! between attempts is left to chance, so that the many hosts that lost one do not come back in step.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hivemind_runtime::lock;

/// First pause.
const FIRST: Duration = Duration::from_millis(20);
/// Longest pause: a host that is back is found within this time.
const LONGEST: Duration = Duration::from_millis(300);

/// Longest time for one attempt. The system sends a packet that is lost at its beginning again after 1, 3 and
/// 7 seconds …
const ATTEMPT_LONGEST: Duration = Duration::from_secs(5);
/// … so an attempt that takes too long is given up for another one, which begins at once.
const ATTEMPT_FIRST: Duration = Duration::from_millis(500);

/// How long an attempt may take: as if the host were near, then twice as long each time, unless it is known
/// to be near.
#[derive(Debug)]
pub(super) struct ConnectTimeout {
    next: Duration,
    longest: Duration,
}

impl ConnectTimeout {
    pub(super) fn new() -> ConnectTimeout {
        ConnectTimeout { next: ATTEMPT_FIRST, longest: ATTEMPT_LONGEST }
    }

    /// How long the next attempt may take.
    pub(super) fn next(&mut self) -> Duration {
        let next = self.next;
        self.next = (self.next * 2).min(self.longest);
        next
    }

    /// The host was reached within that time.
    pub(super) fn reached(&mut self, within: Duration) {
        self.longest = (within * 8).clamp(ATTEMPT_FIRST, ATTEMPT_LONGEST);
        self.next = self.longest;
    }
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    state: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Backoff {
        // Spread: the numbers of processes that started together are near each other.
        Backoff { pause: FIRST, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The other host was reached.
    pub(super) fn reset(&mut self) {
        self.pause = FIRST;
    }

    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        // Xorshift: any spread will do.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let half = self.pause / 2;
        let chance = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        self.pause = (self.pause * 2).min(LONGEST);
        half + half.mul_f64(chance)
    }
}

/// Faults in a row that cost no pause: a network that damages a frame is no liar.
const FORGIVEN: u32 = 3;
/// A host that was not at fault for this long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Longest pause of a host that is at fault again and again.
const PENANCE_LONGEST: Duration = Duration::from_secs(30);

/// How often in a row the links with one host ended because one of the two broke the rules. Time is given
/// from outside.
#[derive(Debug, Default)]
struct Conduct {
    faults: u32,
    last: Duration,
}

impl Conduct {
    fn fault(&mut self, now: Duration) {
        self.faults = if self.is_forgotten(now) { 1 } else { self.faults.saturating_add(1) };
        self.last = now;
    }

    /// How long it is not linked yet.
    fn pause(&self, now: Duration) -> Duration {
        let Some(doublings) = self.faults.checked_sub(FORGIVEN + 1) else { return Duration::ZERO };
        let penance = (FIRST * (1 << doublings.min(16))).min(PENANCE_LONGEST);
        (self.last + penance).saturating_sub(now)
    }

    fn is_forgotten(&self, now: Duration) -> bool {
        self.faults == 0 || now.saturating_sub(self.last) >= FORGOTTEN
    }
}

/// The conduct of all hosts, by name, whatever their life; of at most as many as it is made for.
#[derive(Debug)]
pub(super) struct Conducts {
    begun: Instant,
    most: usize,
    hosts: Mutex<BTreeMap<String, Conduct>>,
}

impl Conducts {
    pub(super) fn new(most: usize) -> Conducts {
        Conducts { begun: Instant::now(), most, hosts: Mutex::default() }
    }

    pub(super) fn fault(&self, host: &str) {
        let now = self.begun.elapsed();
        let mut hosts = lock(&self.hosts);
        if hosts.len() >= self.most {
            hosts.retain(|_, conduct| !conduct.is_forgotten(now));
        }
        if hosts.len() < self.most || hosts.contains_key(host) {
            hosts.entry(host.to_owned()).or_default().fault(now);
        }
    }

    /// How long it is not dialled yet.
    pub(super) fn pause(&self, host: &str) -> Duration {
        let now = self.begun.elapsed();
        lock(&self.hosts).get(host).map_or(Duration::ZERO, |conduct| conduct.pause(now))
    }

    /// How long it is not let in yet, if it dials: half of the pause, since it may have begun to wait
    /// earlier.
    pub(super) fn refusal(&self, host: &str) -> Duration {
        let now = self.begun.elapsed();
        lock(&self.hosts).get(host).map_or(Duration::ZERO, |conduct| {
            let whole = conduct.pause(conduct.last);
            conduct.pause(now).saturating_sub(whole / 2)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_take_longer_each_time_unless_the_host_is_near() {
        let mut timeout = ConnectTimeout::new();
        let first: Vec<u128> = (0..6).map(|_| timeout.next().as_millis()).collect();
        assert_eq!(first, [500, 1000, 2000, 4000, 5000, 5000]);
        timeout.reached(Duration::from_millis(3));
        assert!((0..6).all(|_| timeout.next() == ATTEMPT_FIRST));
        // One that is far is given the time that it takes.
        timeout.reached(Duration::from_millis(400));
        assert_eq!(timeout.next(), Duration::from_millis(3200));
    }

    #[test]
    fn a_host_at_fault_again_and_again_waits_longer_each_time_and_begins_anew_after_a_while() {
        let (mut conduct, mut now) = (Conduct::default(), Duration::from_secs(5));
        let mut pauses = Vec::new();
        for _ in 0..20 {
            conduct.fault(now);
            pauses.push(conduct.pause(now));
            now += conduct.pause(now);
            assert!(conduct.pause(now).is_zero());
        }
        assert_eq!(pauses[..6].iter().map(Duration::as_millis).collect::<Vec<_>>(), [0, 0, 0, 20, 40, 80]);
        assert_eq!(pauses[19], PENANCE_LONGEST);
        now += FORGOTTEN;
        conduct.fault(now);
        assert!(conduct.pause(now).is_zero());
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_half_of_each_is_chance() {
        let mut backoff = Backoff::new(7);
        let mut expected = FIRST;
        for _ in 0..20 {
            let pause = backoff.next();
            assert!((expected / 2..=expected).contains(&pause), "{pause:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
        let mut other = Backoff::new(8);
        assert_ne!(Backoff::new(7).next(), other.next());
    }
}
