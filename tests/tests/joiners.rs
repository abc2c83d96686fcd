//! No slow joiners: a subscriber that was there before a publisher gets everything, from its first message
//! on, whatever becomes of the publisher meanwhile.

use hivemind_tests::hive::{Actor, Hive, PublisherOf, SubscriberOf, joining, lossy, reliable};
use hivemind_tests::order::{Kind, Order, Publish, Tally};
use hivemind_tests::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
/// Lives of a publisher; a subscriber that joins slowly misses most of them.
const LIVES: usize = 200;
/// Far more than the bound of a wait for who does not answer, and far less than that wait for each of
/// [`LIVES`].
const MANY_CREATES: Duration = Duration::from_millis(100 * LIVES as u64 / 2);

/// How a process ends that has sent its message.
#[derive(Clone, Copy, Debug)]
enum End {
    Drop,
    Kill,
}

const ENDS: [End; 2] = [End::Drop, End::Kill];

/// A message that travels in its slot, and one that lies in a chunk.
const LENGTHS: [usize; 2] = [16, 4096];

fn dedicated_root(hive: &Hive) -> Actor {
    let root = hive.spawn("root");
    root.tell(&Order::ServeRoot);
    root
}

/// Several subscribers of one node, so that introducing all of them takes longer than a short life.
fn listening(listener: &Actor) -> Vec<SubscriberOf<'_>> {
    let filters = ["entries", "entries", "*", "**", "ent*", "e*s", "entries", "**"];
    let subscribers = filters.map(|filter| listener.subscribe(filter, Kind::Bytes));
    subscribers.iter().for_each(SubscriberOf::collect);
    subscribers.into()
}

fn kinds() -> [Publish; 3] {
    let plain = lossy("entries", Kind::Bytes);
    [plain.clone(), reliable("entries", Kind::Bytes), Publish { history: 1, ..plain }]
}

#[track_caller]
fn say(publisher: &PublisherOf<'_>, count: u64, length: usize) {
    publisher.attempt(count, length, 0).unwrap();
}

/// Creates a publisher, sends, and ends, with nothing in between.
fn shout(speaker: &Actor, publish: Publish, count: u64, length: usize, end: End) {
    let killed = matches!(end, End::Kill);
    speaker.begin(&Order::Shout { publish, count, length, killed, made_first: true });
}

/// A process is stopped as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(actor: &Actor) -> Stopped {
        let pid = Pid::from_raw(actor.pid());
        kill(pid, Signal::SIGSTOP).unwrap();
        until("it is stopped", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains("T (stopped)").then_some(())
        });
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[track_caller]
fn assert_all(tally: &Tally, lives: usize, each: u64) {
    tally.assert_sound();
    assert_eq!(tally.connections.len(), lives, "each life is met once");
    for connection in &tally.connections {
        assert_eq!((connection.first, connection.received, connection.lost), (0, each, 0), "{connection:#?}");
    }
}

/// A shell's `hm pub`, a short job: of 200 such messages, 164 to 196 were lost, and `lost()` said 0.
#[test]
fn who_creates_sends_and_ends_is_heard_by_all_who_were_there() {
    let hive = Hive::new(ACTOR);
    let _root = dedicated_root(&hive);
    let listeners = [hive.actor("listener"), hive.actor("other")];
    let subscribers: Vec<SubscriberOf<'_>> = listeners.iter().flat_map(listening).collect();
    for life in 0..LIVES {
        let speaker = hive.actor("speaker");
        shout(&speaker, kinds()[life % 3].clone(), 1, LENGTHS[life / 3 % 2], ENDS[life / 6 % 2]);
        speaker.await_end();
    }
    for subscriber in subscribers {
        assert_all(&subscriber.await_tally(LIVES as u64, LIVES), LIVES, 1);
    }
}

/// The root lives in the process that publishes and is killed: what it has passed on is with the subscriber.
#[test]
fn who_hosts_the_root_publishes_and_is_killed_is_heard() {
    for length in LENGTHS {
        for _ in 0..10 {
            let hive = Hive::new(ACTOR);
            let speaker = hive.actor("speaker");
            let listener = hive.actor("listener");
            let subscribers = listening(&listener);
            shout(&speaker, lossy("entries", Kind::Bytes), 1, length, End::Kill);
            speaker.await_end();
            for subscriber in subscribers {
                assert_all(&subscriber.await_tally(1, 1), 1, 1);
            }
        }
    }
}

/// It is stopped from before the publisher's birth until after its death.
#[test]
fn a_subscriber_that_is_stopped_all_the_while_gets_it_when_it_goes_on() {
    for publish in kinds() {
        for (length, end) in LENGTHS.into_iter().zip(ENDS).chain(LENGTHS.into_iter().rev().zip(ENDS)) {
            let hive = Hive::new(ACTOR);
            let _root = dedicated_root(&hive);
            let listener = hive.actor("listener");
            let subscriber = listener.subscribe("entries", Kind::Bytes);
            subscriber.collect();
            let stopped = Stopped::new(&listener);
            for _ in 0..5 {
                let speaker = hive.actor("speaker");
                shout(&speaker, publish.clone(), 20, length, end);
                speaker.await_end();
            }
            drop(stopped);
            assert_all(&subscriber.await_tally(100, 5), 5, 20);
        }
    }
}

/// It comes late, to a publisher that lives: what the ring holds no more is counted.
#[test]
fn a_subscriber_that_was_stopped_gets_what_the_ring_holds_and_counts_the_rest() {
    for (sent, lost) in [(100, 0..=0), (1000, 1000 - 256..=1000 - 255)] {
        let hive = Hive::new(ACTOR);
        let _root = dedicated_root(&hive);
        let listener = hive.actor("listener");
        let subscriber = listener.subscribe("entries", Kind::Bytes);
        subscriber.collect();
        let stopped = Stopped::new(&listener);
        let speaker = hive.actor("speaker");
        let publisher = speaker.publish(lossy("entries", Kind::Bytes));
        say(&publisher, sent, 64);
        drop(stopped);
        let tally = subscriber.await_tally(sent, 0);
        let connection = tally.from("speaker");
        assert_eq!((connection.first, connection.received + connection.lost), (0, sent), "{connection:#?}");
        assert!(lost.contains(&connection.lost), "{connection:#?}");
        assert_eq!((connection.account.torn, connection.account.disordered), (0, 0));
    }
}

/// One that does not answer is waited for once. (A wait for each would take twice as long as this allows.)
#[test]
fn a_stopped_subscriber_delays_the_first_publisher_and_no_other() {
    let hive = Hive::new(ACTOR);
    let _root = dedicated_root(&hive);
    let (stopped, listener) = (hive.actor("stopped"), hive.actor("listener"));
    let (late, prompt) =
        (stopped.subscribe("entries", Kind::Bytes), listener.subscribe("entries", Kind::Bytes));
    late.collect();
    prompt.collect();
    let speaker = hive.actor("speaker");
    let stop = Stopped::new(&stopped);
    let begun = Instant::now();
    for _ in 0..LIVES {
        let publisher = speaker.publish(lossy("entries", Kind::Bytes));
        say(&publisher, 1, 16);
    }
    let took = begun.elapsed();
    println!("{LIVES} publishers beside a stopped subscriber: {took:?}");
    assert_all(&prompt.await_tally(LIVES as u64, 0), LIVES, 1);
    drop(stop);
    assert_all(&late.await_tally(LIVES as u64, 0), LIVES, 1);
    assert!(took < MANY_CREATES, "{took:?}");
}

/// What it retains is not given twice to one who was there: not by the publisher, its keepers and the root.
#[test]
fn what_a_publisher_retains_comes_once_also_to_who_was_stopped() {
    let hive = Hive::new(ACTOR);
    let _root = dedicated_root(&hive);
    let _keepers = [hive.actor("keeper"), hive.actor("other")];
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("entries", Kind::Bytes);
    subscriber.collect();
    for life in 0..6 {
        let stopped = (life % 2 == 0).then(|| Stopped::new(&listener));
        let speaker = hive.actor(&format!("speaker-{life}"));
        let publish = Publish { retained: 10, ..lossy("entries", Kind::Bytes) };
        shout(&speaker, publish, 10, 64, ENDS[life / 2 % 2]);
        speaker.await_end();
        drop(stopped);
        let messages = 10 * (life as u64 + 1);
        assert_all(&subscriber.await_tally(messages, life + 1), life + 1, 10);
    }
    // Another node hears of all six lives from the keepers; what is told to that one is told to this one as
    // well.
    let late = hive.actor("late");
    let other = late.subscribe("entries", Kind::Bytes);
    other.collect();
    drop(other.await_tally(60, 6));
    assert_all(&subscriber.tally(), 6, 10);
}

/// Several processes at a time, each of which sends one message and ends.
#[test]
fn of_hundreds_of_processes_that_say_one_thing_each_is_heard() {
    const AT_ONCE: usize = 8;
    let hive = Hive::new(ACTOR);
    let _root = dedicated_root(&hive);
    let listener = hive.actor("listener");
    let subscribers: Vec<SubscriberOf<'_>> = ["**", "entries/*", "e*/*", "**"]
        .into_iter()
        .map(|filter| listener.subscribe(filter, Kind::Bytes))
        .inspect(SubscriberOf::collect)
        .collect();
    // A subscriber remembers 256 publishers that have ended.
    let rounds = 240 / AT_ONCE;
    for round in 0..rounds {
        let speakers: Vec<Actor> = (0..AT_ONCE).map(|number| hive.spawn(&format!("s{number}"))).collect();
        for (number, speaker) in speakers.iter().enumerate() {
            speaker.begin(&Order::Join(joining(&format!("speaker-{round}-{number}"))));
        }
        for (number, speaker) in speakers.iter().enumerate() {
            speaker.answer().unwrap();
            let publish = lossy(&format!("entries/{number}"), Kind::Bytes);
            shout(speaker, publish, 1, 16, ENDS[number % 2]);
        }
        speakers.iter().for_each(Actor::await_end);
    }
    let all = rounds * AT_ONCE;
    for subscriber in subscribers {
        assert_all(&subscriber.await_tally(all as u64, all), all, 1);
    }
}
