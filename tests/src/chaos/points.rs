//! A process dies before and after each system call of joining, creating, growing, attaching and taking over,
//! while others race.
//!
//! ```text
//! victim (all its threads are traced)   order ─ stop ─ stop ─ … ─ stop n ✗ SIGKILL        n = 0, 1, 2, … as far as the way goes
//! racer                                 does the same at the same time, under another name
//! then                                  somebody joins under the victim's name, subscribes, and hears the speaker
//! ```
//! Each system call of the victim is two stops, one before it and one after; a death at the first means that
//! it was not made. The ways are of different lengths from time to time, since threads race; a way ends when
//! the victim has answered, and the next round begins with the first stop again. Nobody repairs anything by
//! hand: the same hive serves for all deaths.

use super::report::Row;
use super::{Rounds, actors};
use crate::hive::{Actor, Hive, PublisherOf, joining, reliable};
use crate::order::{Join, Kind, Order};
use crate::tracer::Executioner;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the victim is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Join,
    Create,
    Grow,
    Attach,
    TakeOver,
}

const PHASES: [Phase; 5] = [Phase::Join, Phase::Create, Phase::Grow, Phase::Attach, Phase::TakeOver];
/// Messages that whoever comes after the dead must hear.
const HEARD: u64 = 20;
/// Longer than anybody waits here.
const PATIENCE_MS: u64 = 50_000;
/// More memory than a publisher takes at first.
const LARGE: usize = 1 << 20;
/// No way has more stops; it only keeps a mistake from counting for ever.
const STOPS_MAX: u64 = 20_000;
/// In CI a way is sampled: every that many stops, from a random one.
const CI_STRIDE: u64 = 5;

/// Runs the case. A round is one death; `wanted` counts ways, each of which is walked to its end.
pub(super) fn run(rounds: &mut Rounds<'_>) -> Row {
    let mut row = Row::new("points");
    let hive = actors(rounds);
    let speaker = hive.spawn("speaker");
    let root = hive.actor("root-first");
    speaker.join(Join { guest: true, ..joining("speaker") });
    let publisher = speaker.publish(reliable("entries", Kind::Typed));
    let mut root = Some(root);
    let stride = if rounds.campaign.ci { CI_STRIDE } else { 1 };
    let mut deaths = [0u64; PHASES.len()];
    let mut longest = [0u64; PHASES.len()];
    'ways: for way in 0..rounds.wanted {
        for (place, phase) in PHASES.into_iter().enumerate() {
            let first = rounds.choice(way, place as u64) % stride;
            for at in (first..STOPS_MAX).step_by(stride as usize) {
                if !rounds.goes_on(way) {
                    break 'ways;
                }
                let name = format!("victim-{way}-{at}");
                let died = die(&hive, &speaker, phase, at, &mut root, &name);
                deaths[place] += u64::from(died);
                longest[place] = longest[place].max(at);
                comes_after(&hive, publisher, &name, (phase, at), &mut row);
                if !died {
                    break;
                }
            }
            row.reached += 1;
        }
    }
    for (place, phase) in PHASES.into_iter().enumerate() {
        row.notes.push(format!("{phase:?}: {} deaths, stops 0 to {}", deaths[place], longest[place]));
        if deaths[place] == 0 && row.reached >= PHASES.len() as u64 {
            row.faults.fail(format!("{phase:?}: nobody died, so nothing was shown"));
        }
    }
    row.notes.push(format!(
        "{} deaths in all; reached counts phases that were walked to their end",
        deaths.iter().sum::<u64>()
    ));
    row
}

/// One death. False: the way was over before.
fn die(hive: &Hive, speaker: &Actor, phase: Phase, at: u64, root: &mut Option<Actor>, name: &str) -> bool {
    let victim = hive.spawn(name);
    let racer = hive.spawn("racer");
    if phase != Phase::Join {
        victim.join(joining(name));
    }
    let order = match phase {
        Phase::Join => Order::Join(joining(name)),
        Phase::Create => Order::Publish(reliable("of/victim", Kind::Bytes)),
        Phase::Grow => {
            let publisher = victim.publish(reliable("of/victim", Kind::Bytes));
            publisher.sending(3, LARGE, 0)
        }
        Phase::Attach => Order::Subscribe { filter: "entries".to_owned(), kind: Kind::Typed },
        // Whoever asks who is root while there is none is told so at once; the control thread is what is
        // looked at.
        Phase::TakeOver => Order::WhoIsRoot,
    };
    let executioner = Executioner::seize(victim.pid());
    // Nobody else takes over while the victim does: untraced, another would always be first.
    racer.begin(&Order::Join(Join { guest: phase == Phase::TakeOver, ..joining("racer") }));
    racer.begin(&Order::Subscribe { filter: "*".to_owned(), kind: Kind::Typed });
    let died = if phase == Phase::TakeOver {
        let old = root.take().expect("there is a root");
        kill(Pid::from_raw(old.pid()), Signal::SIGKILL).expect("it is ours");
        let died = executioner.kill_at(at, || {
            let (pid, _) = speaker.root();
            pid.is_some_and(|pid| pid != old.pid())
        });
        old.kill();
        died
    } else {
        victim.begin(&order);
        executioner.kill_at(at, || victim.has_answered())
    };
    victim.kill();
    if phase == Phase::TakeOver {
        *root = Some(hive.actor(&format!("root-{name}")));
    }
    for _ in 0..2 {
        if let Err(failure) = racer.answer() {
            panic!("{phase:?}, stop {at}: who came at the same time: {}", failure.text);
        }
    }
    died
}

/// Somebody comes under the name of the dead, and hears the speaker.
fn comes_after(hive: &Hive, publisher: PublisherOf<'_>, name: &str, whence: (Phase, u64), row: &mut Row) {
    let heir = hive.spawn(name);
    let joined = heir.attempt(&Order::Join(Join { guest: true, ..joining(name) }));
    if let Err(failure) = joined {
        row.faults.fail(format!("{whence:?}: the next of this name: {}", failure.text));
        return;
    }
    let subscriber = heir.subscribe("entries", Kind::Typed);
    subscriber.await_publishers(1);
    publisher.await_subscribers(1);
    subscriber.collect();
    // The dead hold nobody up.
    publisher.attempt(HEARD, 100, PATIENCE_MS).expect("a send never fails");
    let tally = subscriber.await_tally(HEARD, 0);
    tally.assert_sound();
    if tally.lost() > 0 || tally.connections.len() != 1 {
        row.faults.fail(format!("{whence:?}: what the next of this name heard: {tally:?}"));
    }
    row.messages += tally.messages();
}
