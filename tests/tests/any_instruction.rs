//! A process may die at any instruction: nothing torn, nothing leaked, nobody else stopped.
//!
//! The victim is walked instruction by instruction through what it does, and killed with SIGKILL after a
//! random number of steps. First it is walked to the end once, so that the numbers cover the whole way. With
//! `DEATHS=all` it dies after every number of steps, so at each instruction of the way: `tests/campaign
//! instructions`.

use hivemind::{Message, Node, Subscriber};
use hivemind_runtime::identity::new_node_epoch;
use hivemind_tests::account::Account;
use hivemind_tests::entry::{Checked, Entry, scatter};
use hivemind_tests::hive::{Actor, Hive, lossy, reliable};
use hivemind_tests::order::{Kind, Order, Publish};
use hivemind_tests::tracer::Walker;
use hivemind_tests::{BOUND, until};
use std::time::Duration;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
/// Deaths in each case, unless the environment variable `DEATHS` says another number, or `all`.
const DEATHS: u64 = 12;
/// No way is longer; it only keeps a mistake here from walking for ever.
const STEPS_MAX: u64 = 10_000_000;
/// How long a reliable publisher waits for room.
const BOUND_MS: u64 = BOUND.as_millis() as u64;

/// Walks an actor through an order until it has answered or `steps` are done. Returns how many it were.
fn walk(actor: &Actor, order: Order, steps: u64) -> u64 {
    let walker = Walker::seize(actor.pid());
    actor.begin(&Order::Marked(Box::new(order)));
    walker.run_to_mark();
    for step in 0..steps {
        // The answer is looked for now and then: it is far cheaper to walk on.
        if step % 64 == 0 && actor.has_answered() {
            return step;
        }
        assert!(walker.step(), "the actor ended on its own");
    }
    steps
}

/// Where to die: spread over a way, each at a random place of its part; with `all` after each number of
/// steps.
fn places(seed: u64, way: u64) -> impl Iterator<Item = u64> {
    let wanted = std::env::var("DEATHS").unwrap_or_default();
    let deaths = if wanted == "all" { way } else { wanted.parse().unwrap_or(DEATHS) };
    println!("seed {seed}, {deaths} deaths on a way of {way} instructions");
    (0..deaths).map(move |death| (death * way + scatter(seed ^ death) % way) / deaths)
}

#[test]
fn a_publisher_killed_at_any_instruction_of_send_leaves_whole_messages_or_none() {
    let seed = new_node_epoch();
    // Inside the slot, and in chunks; of a ring so small that memory is taken back and used again on the way.
    for make in [lossy, reliable] {
        for (kind, length) in [(Kind::Bytes, 8), (Kind::Bytes, 100), (Kind::Typed, 8), (Kind::Typed, 100)] {
            let hive = Hive::new(ACTOR);
            let node = hive.node("listener").join().unwrap();
            let publish = Publish { capacity: 4, ..make("entries", kind) };
            match kind {
                Kind::Bytes => publisher_dies::<[u8]>(&hive, &node, &publish, length, seed),
                _ => publisher_dies::<Entry>(&hive, &node, &publish, length, seed),
            }
        }
    }
}

fn publisher_dies<T>(hive: &Hive, node: &Node, publish: &Publish, length: usize, seed: u64)
where
    T: Message + ?Sized,
    T::Read: Checked,
{
    let mut subscriber = node.subscriber::<T>("entries").unwrap();
    let mut committed = [0; 4];
    let mut life = |steps| {
        let speaker = hive.actor("speaker");
        let publisher = speaker.publish(publish.clone());
        publisher.await_subscribers(1);
        // A reliable one goes on as its messages are received.
        speaker.begin(&publisher.sending(10, length, BOUND_MS));
        let mut account = drain(&mut subscriber, None);
        speaker.answer().unwrap();
        assert_eq!((account.next, account.torn), (10, 0), "{account:?}");
        // A lossy one has not waited for the subscriber so far; from here on at most three come, which the
        // ring holds.
        let missed = account.missed;
        assert!(missed == 0 || !publish.reliable, "{account:?}");
        let walked = walk(&speaker, publisher.sending(3, length, 0), steps);
        speaker.kill();
        account = drain(&mut subscriber, Some(account));
        assert_eq!(
            (account.missed, account.torn, account.disordered),
            (missed, 0, 0),
            "after {walked} steps: {account:?}"
        );
        committed[(account.next - 10) as usize] += 1;
        let status = subscriber.connections().pop().unwrap();
        assert_eq!(
            status.first + status.received + status.lost,
            account.next,
            "after {walked} steps: {status:?}"
        );
        walked
    };
    let way = life(STEPS_MAX);
    let mut deaths = 0;
    for place in places(seed, way) {
        life(place);
        deaths += 1;
    }
    let Publish { kind, reliable, .. } = publish;
    let service = if *reliable { "reliable" } else { "lossy" };
    println!("{service}, {kind:?}, {length} bytes: {deaths} deaths at {way} instructions");
    println!("  so often 0, 1, 2 or 3 messages were committed: {committed:?}");
    assert!(committed[0] > 0 && committed[3] > 0, "the places of death do not cover the way: {committed:?}");
}

/// Receives: with an account, until the publisher's connection has ended; without, until there are ten
/// messages.
fn drain<T>(subscriber: &mut Subscriber<T>, account: Option<Account>) -> Account
where
    T: Message + ?Sized,
    T::Read: Checked,
{
    let to_the_end = account.is_some();
    let mut account = account;
    until("the messages, or the end of the connection", || {
        match subscriber.recv_timeout(Duration::from_millis(1)).unwrap() {
            // A lossy service of four slots: what the ten began with may be gone already.
            Some(sample) => {
                let account = account.get_or_insert_with(|| Account::new(sample.sequence()));
                account.enter(sample.sequence(), &*sample);
                (!to_the_end && account.next == 10).then(|| account.clone())
            }
            None => {
                let ended = subscriber.publishers() == 0;
                (to_the_end && ended).then(|| account.clone()).flatten()
            }
        }
    })
}

/// Subscribers die one after the other within receiving and holding. Each may hold two chunks then; there is
/// memory for 16 and the ring needs 8, so the publisher could not go on if they were not taken back.
#[test]
fn a_subscriber_killed_at_any_instruction_of_receiving_leaves_nothing_held() {
    let seed = new_node_epoch();
    let hive = Hive::new(ACTOR);
    let speaker = hive.actor("speaker");
    let mut publish = reliable("entries", Kind::Bytes);
    (publish.capacity, publish.max_memory) = (8, Some(16 * 128));
    let publisher = speaker.publish(publish);
    const LENGTH: usize = 100;
    let life = |steps| {
        let listener = hive.actor("listener");
        let subscriber = listener.subscribe("entries", Kind::Bytes);
        subscriber.await_publishers(1);
        publisher.attempt(3, LENGTH, 0).unwrap();
        let hold = Order::Hold { subscriber: subscriber.number(), count: 2 };
        let walked = walk(&listener, hold, steps);
        listener.kill();
        // More than the ring and the memory hold: all of both must come back for this.
        publisher.attempt(50, LENGTH, 50_000).unwrap();
        walked
    };
    let way = life(STEPS_MAX);
    for place in places(seed, way) {
        life(place);
    }
    // Nothing is held any more: all the memory can be in messages that one reader has not read yet.
    let last = hive.node("last").join().unwrap();
    let mut subscriber = last.subscriber::<[u8]>("entries").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    publisher.attempt(8, LENGTH, 0).unwrap();
    for _ in 0..8 {
        let sample = subscriber.recv_timeout(BOUND).unwrap().unwrap();
        sample.check(sample.sequence()).unwrap();
    }
}
