//! The root dies, or stands still, while others talk; whoever joins meanwhile gets in.
//!
//! ```text
//! host a  (root) ✗         speaker ──reliable, all the time──▶ listener      never host the root
//! host b  (next root)      newcomer joins at the instant of the kill, subscribes, and hears the speaker
//! ```
//! Every other round the root is a dedicated one, which takes over from an embedded one in order before it
//! dies. The host that is left takes over, and a new one comes as its standby. The stream of the speaker ends
//! at its first failing send, so a round in which it does not move on is a fault.

use super::ledger::{Committed, Said};
use super::report::{Row, brief};
use super::{Rounds, actors};
use crate::hive::{Actor, Hive, SubscriberOf, joining, reliable};
use crate::order::{Answer, Join, Kind, Order, Tally};
use crate::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Messages that a newcomer must hear, and that must go on meanwhile.
const HEARD: u64 = 50;
/// The kill comes after at most this.
const LATEST_DEATH_US: u64 = 2_000;

/// Kills the root.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    Stage::new(rounds, "root").play(|stage, round| {
        let dedicated = round % 2 == 1;
        let root = dedicated.then(|| stage.dedicated(round));
        let victim = root.as_ref().or(stage.hosts.first()).expect("somebody hosts the root").pid();
        stage.newcomer_joins(round, |_| signal(victim, Signal::SIGKILL));
        if dedicated {
            root.expect("it was started").kill();
        } else {
            stage.hosts.remove(0).kill();
            stage.add_host(round);
        }
    })
}

/// Stops the root, and continues it when it has been superseded.
pub(super) fn run_stopped(rounds: &mut Rounds<'_>) -> Row {
    Stage::new(rounds, "root-stopped").play(|stage, round| {
        let old = stage.hosts.remove(0);
        let (_, epoch) = stage.listener.root();
        stage.newcomer_joins(round, |_| signal(old.pid(), Signal::SIGSTOP));
        signal(old.pid(), Signal::SIGCONT);
        let (pid, now) = until("the old root obeys its successor", || {
            let (pid, now) = old.root();
            (now > epoch && pid.is_some_and(|pid| pid != old.pid())).then_some((pid, now))
        });
        let seen = until("all obey one root", || {
            let roots = [&stage.listener, &stage.speaker].map(Actor::root);
            (roots == [(pid, now); 2]).then_some(now)
        });
        if seen <= epoch {
            stage.row.faults.misjudge(format!("round {round}: epoch {seen} after {epoch}"));
        }
        drop(old);
        stage.add_host(round);
    })
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it is ours");
}

struct Stage<'a> {
    rounds: &'a Rounds<'a>,
    hive: Hive,
    hosts: Vec<Actor>,
    speaker: Actor,
    listener: Actor,
    row: Row,
}

impl<'a> Stage<'a> {
    fn new(rounds: &'a Rounds<'a>, case: &'static str) -> Self {
        let hive = actors(rounds);
        let host = hive.actor("host-first");
        let guest = |name: &str| {
            let actor = hive.spawn(name);
            actor.join(Join { guest: true, ..joining(name) });
            actor
        };
        let (speaker, listener) = (guest("speaker"), guest("listener"));
        let standby = hive.actor("host-second");
        let mut row = Row::new(case);
        row.timed = "from the signal until a join that began with it has succeeded";
        Stage { rounds, hosts: vec![host, standby], speaker, listener, hive, row }
    }

    fn play(mut self, mut act: impl FnMut(&mut Self, u64)) -> Row {
        self.speaker.publish(reliable("entries", Kind::Typed));
        self.listener.subscribe("entries", Kind::Typed);
        self.listener.subscribers(0).await_publishers(1);
        self.listener.subscribers(0).collect();
        self.speaker.publishers(0).stream(Some(100), 0);
        for round in 0.. {
            if !self.rounds.goes_on(round) {
                break;
            }
            let before = self.listener.subscribers(0).tally().messages();
            act(&mut self, round);
            // No send failed, or the stream would have ended; and the listener hears what is sent.
            self.listener.subscribers(0).await_tally(before + HEARD, 0);
            self.row.reached += 1;
        }
        let sent = self.speaker.publishers(0).stop();
        let tally = all_up_to(&self.listener.subscribers(0), sent);
        self.judge(&tally, sent);
        let gap = Duration::from_micros(tally.longest_gap_us);
        self.row.notes.push(format!("longest gap between two messages of the listener: {}", brief(gap)));
        self.row
    }

    fn judge(&mut self, tally: &Tally, sent: u64) {
        let committed = Committed { done: sent, begun: sent };
        for error in &tally.errors {
            self.row.faults.fail(error.clone());
        }
        if tally.connections.len() != 1 {
            self.row.faults.misjudge(format!("{} connections with one publisher", tally.connections.len()));
        }
        for connection in &tally.connections {
            let said = Said { first: connection.first, received: connection.received, lost: connection.lost };
            self.row.faults.judge("listener", committed, &connection.account, said, true);
            self.row.messages += connection.received;
        }
    }

    /// A process of its own takes over from the host.
    fn dedicated(&self, round: u64) -> Actor {
        let root = self.hive.spawn(&format!("root-{round}"));
        root.tell(&Order::ServeRoot);
        until("the dedicated root takes over", || (self.listener.root().0 == Some(root.pid())).then_some(()));
        root
    }

    fn add_host(&mut self, round: u64) {
        self.hosts.push(self.hive.actor(&format!("host-{round}")));
        // Whoever is root now is the next victim.
        let root = until("somebody is root", || self.listener.root().0);
        self.hosts.sort_by_key(|host| host.pid() != root);
    }

    /// Somebody joins while the root gets a signal, and hears the speaker.
    fn newcomer_joins(&mut self, round: u64, hit: impl FnOnce(&Self)) {
        let newcomer = self.hive.spawn(&format!("newcomer-{round}"));
        let delay = self.rounds.choice(round, 0) % LATEST_DEATH_US;
        std::thread::sleep(Duration::from_micros(delay));
        hit(self);
        let begun = Instant::now();
        match newcomer.attempt(&Order::Join(Join { guest: true, ..joining(newcomer.name()) })) {
            Ok(Answer::Joined { .. }) => self.row.times.push(begun.elapsed()),
            other => {
                self.row.faults.fail(format!("round {round}: the newcomer did not get in: {other:?}"));
                return;
            }
        }
        let subscriber = newcomer.subscribe("entries", Kind::Typed);
        subscriber.await_publishers(1);
        subscriber.collect();
        let tally = subscriber.await_tally(HEARD, 0);
        let sound = tally.lost() == 0 && tally.connections.len() == 1;
        let account = &tally.connections[0].account;
        if !sound || account.torn + account.disordered + account.missed > 0 {
            self.row.faults.fail(format!("round {round}: what the newcomer heard: {tally:?}"));
        }
        self.row.messages += tally.messages();
    }
}

/// Waits until a subscriber has received all of one publisher.
pub(super) fn all_up_to(subscriber: &SubscriberOf<'_>, sent: u64) -> Tally {
    until("the last messages", || {
        let tally = subscriber.tally();
        tally.connections.iter().any(|connection| connection.position() >= sent).then_some(tally)
    })
}
