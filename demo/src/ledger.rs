//! What the parent remembers of its processes: what each said, when, and what follows from it.
//!
//! Times are those of the processes themselves ([`super::clock`]), so a report that arrives late is still
//! entered at its place. Of the gaps between messages only the last [`REMEMBERED_NS`] are kept: long enough
//! for what happens around a kill, and bounded however long the demo runs.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::processes::LifeId;
use super::report::{Account, End, Gap, Report, Said, Window};
use super::role::Role;
use super::tally::latency_histogram;

/// Gaps that ended longer ago are forgotten.
const REMEMBERED_NS: u64 = 60_000_000_000;
/// Rates and latencies of the live table are of this time.
const RECENT_NS: u64 = 1_000_000_000;
/// Lines of a process's standard error that are kept.
const MAX_LAST_WORDS: usize = 12;

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Joined,
    /// By the demo.
    Killed,
    /// It was told to.
    Leaving,
    Left,
}

/// One process, from start to end.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) role: Role,
    pub(crate) pid: u32,
    pub(crate) started_ns: u64,
    pub(crate) joined_ns: Option<u64>,
    pub(crate) state: State,
    pub(crate) hearings: Vec<Hearing>,
    /// A publisher's final counts.
    pub(crate) said: Option<Vec<Said>>,
    /// A subscriber's final counts.
    pub(crate) accounts: Option<Vec<Account>>,
    /// The last lines of its standard error.
    pub(crate) last_words: VecDeque<String>,
}

impl Life {
    /// Whether the process should be there.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Starting | State::Joined)
    }
}

/// What one process heard of one publisher.
#[derive(Debug)]
pub(crate) struct Hearing {
    pub(crate) publisher: End,
    pub(crate) service: String,
    pub(crate) messages: u64,
    bytes: u64,
    lost: u64,
    last_ns: u64,
    latencies: Histogram<u64>,
    recent: VecDeque<(u64, Window)>,
    gaps: VecDeque<Gap>,
}

/// One line of the live table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) service: String,
    pub(crate) subscriber: Role,
    pub(crate) messages_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) latency: Latency,
    pub(crate) lost: u64,
}

/// Latencies in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        if histogram.is_empty() {
            return Latency::default();
        }
        Latency {
            p50_ns: histogram.value_at_quantile(0.5),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }
}

/// The longest gap that any of some pairs saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LongestGap {
    pub(crate) gap_ns: u64,
    pub(crate) service: String,
    pub(crate) subscriber: Role,
}

/// All processes of the demo.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lives: BTreeMap<LifeId, Life>,
}

impl Ledger {
    /// A process was started.
    pub(crate) fn start(&mut self, id: LifeId, role: Role, pid: u32, started_ns: u64) {
        let life = Life {
            role,
            pid,
            started_ns,
            joined_ns: None,
            state: State::Starting,
            hearings: Vec::new(),
            said: None,
            accounts: None,
            last_words: VecDeque::new(),
        };
        self.lives.insert(id, life);
    }

    /// Sets how far a process has come.
    pub(crate) fn set_state(&mut self, id: LifeId, state: State) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.state = state;
        }
    }

    /// The process `id`.
    pub(crate) fn life(&self, id: LifeId) -> Option<&Life> {
        self.lives.get(&id)
    }

    /// All processes, the dead included.
    pub(crate) fn lives(&self) -> impl Iterator<Item = (LifeId, &Life)> {
        self.lives.iter().map(|(&id, life)| (id, life))
    }

    /// The process that plays this role now.
    pub(crate) fn running(&self, role: Role) -> Option<(LifeId, &Life)> {
        self.lives().find(|(_, life)| life.role == role && life.is_running())
    }

    /// The process with this process id.
    pub(crate) fn with_pid(&self, pid: u32) -> Option<(LifeId, &Life)> {
        self.lives().find(|(_, life)| life.pid == pid)
    }

    /// A process is part of the hive, as of now unless it was before.
    pub(crate) fn join(&mut self, id: LifeId, now_ns: u64) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        if life.state == State::Starting {
            life.state = State::Joined;
            life.joined_ns = Some(now_ns);
        }
    }

    /// Enters what a process reported.
    pub(crate) fn report(&mut self, id: LifeId, report: Report, now_ns: u64) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        match report {
            Report::Joined => self.join(id, now_ns),
            Report::Heard { windows } => {
                for window in windows {
                    life.hear(window, now_ns);
                }
            }
            Report::Stopped { services } => life.said = Some(services),
            Report::Drained { accounts } => life.accounts = Some(accounts),
        }
    }

    /// Enters a line of a process's standard error.
    pub(crate) fn complaint(&mut self, id: LifeId, line: String) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        if life.last_words.len() == MAX_LAST_WORDS {
            life.last_words.pop_front();
        }
        life.last_words.push_back(line);
    }

    /// Whether a process heard this publisher at all.
    pub(crate) fn has_heard(&self, id: LifeId, publisher: End) -> bool {
        let heard = |life: &Life| {
            life.hearings.iter().any(|hearing| hearing.publisher == publisher && hearing.messages > 0)
        };
        self.lives.get(&id).is_some_and(heard)
    }

    /// The live table: one row for each service and each process that listens to it, whatever lives they are
    /// in.
    pub(crate) fn rows(&self, now_ns: u64) -> Vec<Row> {
        let mut groups: BTreeMap<(&str, Role), Recent> = BTreeMap::new();
        for (life, hearing) in self.close_hearings() {
            groups
                .entry((hearing.service.as_str(), life.role))
                .or_insert_with(Recent::new)
                .add(hearing, now_ns);
        }
        groups.into_iter().map(|((service, subscriber), recent)| recent.row(service, subscriber)).collect()
    }

    /// Latencies of all services whose name starts with `prefix`, recent ones or of the whole run.
    pub(crate) fn latency(&self, prefix: &str, recent_at_ns: Option<u64>) -> Latency {
        let mut all = latency_histogram();
        for (_, hearing) in self.close_hearings().filter(|(_, hearing)| hearing.service.starts_with(prefix)) {
            match recent_at_ns {
                // Histograms of the same bounds can always be added.
                None => all.add(&hearing.latencies).expect("all latency histograms have the same bounds"),
                Some(now_ns) => {
                    for window in hearing.recent(now_ns) {
                        for &(value, count) in &window.latencies {
                            all.saturating_record_n(value, count);
                        }
                    }
                }
            }
        }
        Latency::of(&all)
    }

    /// Messages and bytes that arrived so far, over all pairs that are listened to closely, the dead
    /// included.
    pub(crate) fn arrived(&self) -> (u64, u64) {
        self.close_hearings().fold((0, 0), |(messages, bytes), (_, hearing)| {
            (messages + hearing.messages, bytes + hearing.bytes)
        })
    }

    /// The longest gap that ran at some instant between `from_ns` and `to_ns`, over the pairs whose
    /// subscriber lived from before `from_ns` and lives now and for which `publisher_survives` and
    /// `wanted` hold. A pair that has been silent since is in a gap that has not ended. Also says how
    /// many pairs those were.
    pub(crate) fn longest_gap(
        &self,
        (from_ns, to_ns): (u64, u64),
        publisher_survives: impl Fn(End) -> bool,
        wanted: impl Fn(&str) -> bool,
    ) -> (Option<LongestGap>, usize) {
        let mut longest: Option<LongestGap> = None;
        let mut pairs = 0;
        for (life, hearing) in self.close_hearings() {
            let survives = life.is_running() && life.joined_ns.is_some_and(|joined| joined < from_ns);
            if !survives
                || !publisher_survives(hearing.publisher)
                || !wanted(&hearing.service)
                || hearing.last_ns == 0
            {
                continue;
            }
            pairs += 1;
            let touching = hearing.gaps.iter().filter(|gap| gap.touches(from_ns, to_ns));
            let ended = touching.map(|gap| gap.length_ns).max().unwrap_or(0);
            let open = to_ns.saturating_sub(hearing.last_ns);
            let gap_ns = ended.max(open);
            if longest.as_ref().is_none_or(|longest| gap_ns > longest.gap_ns) {
                longest =
                    Some(LongestGap { gap_ns, service: hearing.service.clone(), subscriber: life.role });
            }
        }
        (longest, pairs)
    }

    fn close_hearings(&self) -> impl Iterator<Item = (&Life, &Hearing)> {
        let close = self.lives.values().filter(|life| life.role.listens_closely());
        close.flat_map(|life| life.hearings.iter().map(move |hearing| (life, hearing)))
    }
}

/// What of late belongs into one row.
struct Recent {
    latencies: Histogram<u64>,
    messages: u64,
    bytes: u64,
    lost: u64,
}

impl Recent {
    fn new() -> Recent {
        Recent { latencies: latency_histogram(), messages: 0, bytes: 0, lost: 0 }
    }

    fn add(&mut self, hearing: &Hearing, now_ns: u64) {
        self.lost += hearing.lost;
        for window in hearing.recent(now_ns) {
            self.messages += window.messages;
            self.bytes += window.bytes;
            for &(value, count) in &window.latencies {
                self.latencies.saturating_record_n(value, count);
            }
        }
    }

    fn row(&self, service: &str, subscriber: Role) -> Row {
        let per_second = |count: u64| count as f64 * 1e9 / RECENT_NS as f64;
        Row {
            service: service.to_owned(),
            subscriber,
            messages_per_second: per_second(self.messages),
            bytes_per_second: per_second(self.bytes),
            latency: Latency::of(&self.latencies),
            lost: self.lost,
        }
    }
}

impl Life {
    fn hear(&mut self, window: Window, now_ns: u64) {
        let known = self.hearings.iter().position(|hearing| hearing.publisher == window.publisher);
        let index = known.unwrap_or_else(|| {
            self.hearings.push(Hearing::new(window.publisher, window.service.clone()));
            self.hearings.len() - 1
        });
        self.hearings[index].enter(window, now_ns);
    }
}

impl Hearing {
    fn new(publisher: End, service: String) -> Hearing {
        Hearing {
            publisher,
            service,
            messages: 0,
            bytes: 0,
            lost: 0,
            last_ns: 0,
            latencies: latency_histogram(),
            recent: VecDeque::new(),
            gaps: VecDeque::new(),
        }
    }

    /// What was reported within the last second.
    fn recent(&self, now_ns: u64) -> impl Iterator<Item = &Window> {
        self.recent.iter().filter(move |(at_ns, _)| at_ns + RECENT_NS >= now_ns).map(|(_, window)| window)
    }

    fn enter(&mut self, window: Window, now_ns: u64) {
        self.messages += window.messages;
        self.bytes += window.bytes;
        self.lost = window.lost;
        self.last_ns = window.last_ns;
        for &(value, count) in &window.latencies {
            self.latencies.saturating_record_n(value, count);
        }
        self.gaps.extend(&window.gaps);
        while self.gaps.front().is_some_and(|gap| gap.ended_ns + REMEMBERED_NS < now_ns) {
            self.gaps.pop_front();
        }
        self.recent.push_back((now_ns, window));
        while self.recent.front().is_some_and(|&(at_ns, _)| at_ns + RECENT_NS < now_ns) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const END: End = End { node: 1, index: 0 };

    fn window(messages: u64, last_ns: u64, gaps: &[(u64, u64)]) -> Window {
        Window {
            publisher: END,
            service: "machine/cpu".into(),
            messages,
            bytes: messages * 10,
            lost: 2,
            last_ns,
            latencies: vec![(1000, messages)],
            gaps: gaps.iter().map(|&(ended_ns, length_ns)| Gap { ended_ns, length_ns }).collect(),
        }
    }

    fn ledger(role: Role) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.start(LifeId(0), role, 10, 0);
        ledger.report(LifeId(0), Report::Joined, 1);
        ledger
    }

    fn hear(ledger: &mut Ledger, window: Window, now_ns: u64) {
        ledger.report(LifeId(0), Report::Heard { windows: vec![window] }, now_ns);
    }

    #[test]
    fn a_row_shows_what_came_within_the_last_second() {
        let mut ledger = ledger(Role::Exact);
        hear(&mut ledger, window(500, 0, &[]), 100 * MS);
        hear(&mut ledger, window(100, 0, &[]), 1200 * MS);
        let rows = ledger.rows(1250 * MS);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].messages_per_second, rows[0].bytes_per_second, rows[0].lost), (100.0, 1000.0, 2));
        assert_eq!(ledger.arrived(), (600, 6000));
    }

    #[test]
    fn a_gap_counts_if_it_touches_the_kill() {
        let mut ledger = ledger(Role::Exact);
        // One gap from 90 to 100, one from 100 to 130, one from 180 to 240.
        let gaps = [(100 * MS, 10 * MS), (130 * MS, 30 * MS), (240 * MS, 60 * MS)];
        hear(&mut ledger, window(3, 240 * MS, &gaps), 250 * MS);
        let longest = |from: u64, to: u64| {
            ledger.longest_gap((from * MS, to * MS), |_| true, |_| true).0.unwrap().gap_ns / MS
        };
        assert_eq!(longest(95, 105), 30, "it ran while the time began");
        assert_eq!(longest(140, 170), 0, "nothing ran in between");
        assert_eq!(longest(110, 190), 60, "it began before the time was over");
        assert_eq!(longest(250, 340), 100, "a silent pair is in a gap that has not ended");
    }

    #[test]
    fn a_subscriber_that_came_later_or_is_dead_did_not_survive() {
        let mut ledger = ledger(Role::Exact);
        hear(&mut ledger, window(1, 5, &[(5, 1)]), 10);
        let pairs = |ledger: &Ledger, from| ledger.longest_gap((from, 20), |_| true, |_| true).1;
        assert_eq!(pairs(&ledger, 1), 0, "it had not joined before");
        assert_eq!(pairs(&ledger, 2), 1);
        ledger.set_state(LifeId(0), State::Killed);
        assert_eq!(pairs(&ledger, 2), 0, "it is dead");
    }

    #[test]
    fn a_process_that_reads_when_it_likes_tells_nothing_about_gaps() {
        let mut ledger = ledger(Role::Frames);
        hear(&mut ledger, window(1, 5, &[(5, 1)]), 10);
        assert!(ledger.has_heard(LifeId(0), END));
        assert!(ledger.rows(10).is_empty());
        assert_eq!(ledger.longest_gap((2, 20), |_| true, |_| true).1, 0);
    }
}
