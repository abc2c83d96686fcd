//! Decides whether the hive kept its promises: a pure function of what was counted.
//!
//! Three parties count independently of each other: the publisher (what it sent), the ring itself (what was
//! committed, read by the parent from the segment, which outlives its publisher), and the subscriber (by the
//! SDK and, from the messages alone, by the demo). A pair *survives* if its subscriber lived to the end; a
//! publisher that was killed is held to what its ring says was committed.
//!
//! A publisher that dies between the store that commits a message and the one that moves the head leaves one
//! message more than its head says. Which of the two it was is for its subscribers to say, but they must all
//! say the same.

use serde::Serialize;

use super::report::{Account, End};
use super::role::Role;

/// One publisher's ring at the end.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pub(crate) end: End,
    pub(crate) service: String,
    pub(crate) role: Role,
    pub(crate) pid: u32,
    pub(crate) reliable: bool,
    /// Read from the ring's head.
    pub(crate) committed: u64,
    /// Reported by the publisher; `None` if it was killed.
    pub(crate) reported: Option<u64>,
}

/// A subscriber process that lived to the end, and its accounts.
#[derive(Debug, Clone)]
pub(crate) struct Survivor {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    pub(crate) accounts: Vec<Account>,
}

/// A pair of the summary.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pair {
    pub(crate) service: String,
    pub(crate) publisher: Role,
    pub(crate) publisher_pid: u32,
    pub(crate) publisher_killed: bool,
    pub(crate) subscriber: Role,
    pub(crate) subscriber_pid: u32,
    pub(crate) reliable: bool,
    /// Committed by the publisher in its life.
    pub(crate) published: u64,
    /// The sequence number that the pair began with.
    pub(crate) first: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) torn: u64,
    pub(crate) disordered: u64,
}

impl Pair {
    /// How pairs are sorted.
    fn key(&self) -> (&str, Role, u32) {
        (&self.service, self.subscriber, self.publisher_pid)
    }
}

/// The judgement.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) pairs: Vec<Pair>,
    /// One sentence each; empty if all promises were kept.
    pub(crate) complaints: Vec<String>,
}

/// Holds every count against every other.
pub(crate) fn judge(rings: &[Ring], survivors: &[Survivor]) -> Verdict {
    let mut verdict = Verdict { pairs: Vec::new(), complaints: Vec::new() };
    for ring in rings {
        verdict.judge_ring(ring);
        let ring = &Ring { committed: settle(ring, survivors), ..ring.clone() };
        for survivor in survivors.iter().filter(|survivor| survivor.role.hears(&ring.service)) {
            verdict.judge_pair(ring, survivor);
        }
    }
    verdict.pairs.sort_by(|left, right| left.key().cmp(&right.key()));
    for survivor in survivors {
        for account in &survivor.accounts {
            if !rings.iter().any(|ring| ring.end == account.publisher) {
                let Account { service, publisher, .. } = account;
                verdict.complain(format!(
                    "{service} to {}: nobody knows its publisher {publisher}",
                    survivor.role
                ));
            }
        }
    }
    if verdict.pairs.is_empty() {
        verdict.complain("no pair survived, so nothing was proven".to_owned());
    }
    verdict
}

/// What was published on a ring: what its head says, or one message more if the publisher was killed and a
/// subscriber accounts for it.
fn settle(ring: &Ring, survivors: &[Survivor]) -> u64 {
    let killed = ring.reported.is_none();
    let one_more = ring.committed.saturating_add(1);
    let accounts = survivors.iter().flat_map(|survivor| &survivor.accounts);
    let mut of_ring = accounts.filter(|account| account.publisher == ring.end);
    if killed && of_ring.any(|account| account.end() == one_more) { one_more } else { ring.committed }
}

impl Verdict {
    fn complain(&mut self, sentence: String) {
        self.complaints.push(sentence);
    }

    fn judge_ring(&mut self, ring: &Ring) {
        let Ring { service, role, pid, committed, .. } = ring;
        if let Some(reported) = ring.reported.filter(|reported| reported != committed) {
            self.complain(format!(
                "{service}: {role} (pid {pid}) says that it published {reported}, its ring says {committed}"
            ));
        }
        if *committed == 0 {
            self.complain(format!("{service}: {role} (pid {pid}) published nothing"));
        }
    }

    fn judge_pair(&mut self, ring: &Ring, survivor: &Survivor) {
        let name = format!(
            "{} from {} (pid {}) to {} (pid {})",
            ring.service, ring.role, ring.pid, survivor.role, survivor.pid
        );
        let mut accounts = survivor.accounts.iter().filter(|account| account.publisher == ring.end);
        let Some(account) = accounts.next() else {
            self.complain(format!("{name}: the two never met"));
            return;
        };
        if accounts.next().is_some() {
            self.complain(format!("{name}: the subscriber counts this publisher twice"));
        }
        let Account { first, received, lost, seen, .. } = account;
        let published = ring.committed;
        if account.end() != published {
            self.complain(format!(
                "{name}: it began at {first}, received {received} and lost {lost}, but {published} were published"
            ));
        }
        if ring.reliable && *lost > 0 {
            self.complain(format!("{name}: {lost} lost on a reliable service"));
        }
        if seen.received != *received {
            self.complain(format!("{name}: the SDK counts {received} received, the demo {}", seen.received));
        }
        if seen.skipped > *lost {
            self.complain(format!(
                "{name}: {} sequence numbers are missing, {lost} were told lost",
                seen.skipped
            ));
        }
        if seen.torn > 0 {
            self.complain(format!("{name}: {} messages were torn", seen.torn));
        }
        if seen.disordered > 0 {
            self.complain(format!("{name}: {} messages came twice or out of order", seen.disordered));
        }
        self.pairs.push(Pair {
            service: ring.service.clone(),
            publisher: ring.role,
            publisher_pid: ring.pid,
            publisher_killed: ring.reported.is_none(),
            subscriber: survivor.role,
            subscriber_pid: survivor.pid,
            reliable: ring.reliable,
            published,
            first: *first,
            received: *received,
            lost: *lost,
            torn: seen.torn,
            disordered: seen.disordered,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Seen;
    use super::*;

    const END: End = End { node: 1, index: 0 };

    fn ring() -> Ring {
        let service = "machine/cpu".to_owned();
        Ring {
            end: END,
            service,
            role: Role::Machine,
            pid: 10,
            reliable: false,
            committed: 100,
            reported: Some(100),
        }
    }

    fn survivor(first: u64, received: u64, lost: u64) -> Survivor {
        let seen = Seen { received, skipped: lost, ..Seen::default() };
        let account = Account { publisher: END, service: "machine/cpu".into(), first, received, lost, seen };
        Survivor { role: Role::Exact, pid: 20, accounts: vec![account] }
    }

    fn complaint(rings: &[Ring], survivors: &[Survivor]) -> String {
        let verdict = judge(rings, survivors);
        assert_eq!(verdict.complaints.len(), 1, "{:?}", verdict.complaints);
        verdict.complaints[0].clone()
    }

    #[test]
    fn a_pair_whose_counts_agree_is_good() {
        assert!(judge(&[ring()], &[survivor(10, 85, 5)]).complaints.is_empty());
    }

    #[test]
    fn a_message_that_nobody_accounts_for_is_found() {
        assert!(complaint(&[ring()], &[survivor(10, 84, 5)]).contains("100 were published"));
    }

    #[test]
    fn a_reliable_service_may_lose_nothing() {
        let reliable = Ring { reliable: true, ..ring() };
        assert!(complaint(&[reliable], &[survivor(10, 85, 5)]).contains("reliable"));
    }

    #[test]
    fn a_publisher_that_was_killed_is_held_to_its_ring() {
        let killed = Ring { reported: None, ..ring() };
        let verdict = judge(std::slice::from_ref(&killed), &[survivor(0, 100, 0)]);
        assert!(verdict.complaints.is_empty() && verdict.pairs[0].publisher_killed);
        assert!(complaint(&[killed], &[survivor(0, 99, 0)]).contains("100 were published"));
    }

    #[test]
    fn a_publisher_killed_right_after_a_commit_left_one_message_more_than_its_head_says() {
        let killed = Ring { reported: None, ..ring() };
        let verdict = judge(std::slice::from_ref(&killed), &[survivor(0, 101, 0)]);
        assert!(verdict.complaints.is_empty() && verdict.pairs[0].published == 101);
        assert!(complaint(&[killed], &[survivor(0, 102, 0)]).contains("100 were published"));
        assert!(
            complaint(&[ring()], &[survivor(0, 101, 0)]).contains("100 were published"),
            "it was not killed"
        );
    }

    #[test]
    fn two_subscribers_may_not_tell_different_ends_of_a_killed_publisher() {
        let killed = Ring { reported: None, ..ring() };
        assert!(
            complaint(&[killed], &[survivor(0, 101, 0), survivor(0, 100, 0)]).contains("101 were published")
        );
    }

    #[test]
    fn a_publisher_that_disagrees_with_its_ring_is_found() {
        let boastful = Ring { reported: Some(101), ..ring() };
        assert!(complaint(&[boastful], &[survivor(0, 100, 0)]).contains("its ring says 100"));
    }

    #[test]
    fn a_pair_that_never_met_is_found() {
        let deaf = Survivor { accounts: Vec::new(), ..survivor(0, 0, 0) };
        let verdict = judge(&[ring()], &[deaf]);
        assert!(verdict.complaints.iter().any(|complaint| complaint.contains("never met")));
    }

    #[test]
    fn torn_and_disordered_messages_are_found() {
        let mut torn = survivor(0, 100, 0);
        torn.accounts[0].seen.torn = 1;
        assert!(complaint(&[ring()], &[torn]).contains("torn"));
        let mut disordered = survivor(0, 100, 0);
        disordered.accounts[0].seen.disordered = 1;
        assert!(complaint(&[ring()], &[disordered]).contains("out of order"));
    }

    #[test]
    fn an_sdk_that_counts_what_the_demo_did_not_see_is_found() {
        let mut wrong = survivor(0, 100, 0);
        wrong.accounts[0].seen.received = 99;
        assert!(complaint(&[ring()], &[wrong]).contains("the demo 99"));
    }

    #[test]
    fn a_hive_in_which_nothing_happened_proves_nothing() {
        assert!(complaint(&[], &[]).contains("nothing was proven"));
    }
}
