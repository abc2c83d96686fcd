//! Edges *sleep* and *attach* where commits make no fence, and while a publisher changes from one kind of
//! commit to the other (`ring/src/barrier.rs`).
//!
//! The kernel's barrier is told to loom by what it promises (`ring/src/barrier/promise.rs`); everything above
//! it is the code that runs. Under loom a publisher leaves the fence out after one commit that wakes nobody,
//! and fences again as soon as one wakes somebody.
//!
//! Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                                               |
//! | ------------------------------------------------------------------------------- |
//! | the change back stores Relaxed, or a sleeper looks at `unfenced` Relaxed        |
//! | the change forth makes no fence of its own, or AcqRel                           |
//! | a sleeper, or the control thread, makes no barrier though `unfenced` says so    |
//! | one half of either barrier is left out                                          |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::barrier;
use loom_support::{LOSSY, Publisher, RELIABLE, Ring, Subscriber, Subscription, explore, explore_deeper};

/// A publisher whose kernel has the barrier. It has committed nothing, and its first commit is followed by
/// the change.
fn publisher_about_to_change(ring: Ring) -> Publisher {
    barrier::enable();
    ring.publisher()
}

/// One that has left the fence out since its first message.
fn publisher_without_fences() -> Publisher {
    let mut publisher = publisher_about_to_change(LOSSY);
    publisher.send();
    publisher
}

/// Messages that are sent while a subscriber reads and sleeps.
fn send_to_a_sleeper(
    mut publisher: Publisher,
    mut subscriber: Subscriber,
    messages: u64,
    sleep: fn(&Subscriber),
) {
    let chunks = publisher.chunks.clone();
    let last = publisher.writer.published() + messages;
    let sending = loom::thread::spawn(move || {
        (0..messages).for_each(|_| publisher.send());
        publisher
    });
    while subscriber.reader.cursor() < last {
        if !subscriber.look(&chunks) {
            sleep(&subscriber);
        }
    }
    drop(sending.join().unwrap());
}

const WAYS: [fn(&Subscriber); 2] = [Subscriber::sleep, Subscriber::sleep_alone];

/// The commits that make no fence, from the very first on.
#[test]
fn a_sleeper_misses_no_commit_without_a_fence() {
    for sleep in WAYS {
        explore(move || {
            let publisher = publisher_without_fences();
            let subscriber = publisher.attach();
            send_to_a_sleeper(publisher, subscriber, 1, sleep);
        });
    }
}

/// The first commit changes over, the second makes no fence.
#[test]
fn a_sleeper_is_seen_by_commits_after_the_change_forth() {
    for sleep in WAYS {
        explore(move || {
            let publisher = publisher_about_to_change(LOSSY);
            let subscriber = publisher.attach();
            send_to_a_sleeper(publisher, subscriber, 2, sleep);
        });
    }
}

/// The first commit, without a fence, rings for a bit that was left behind, which is the change back: a
/// sleeper that comes after it makes no barrier.
#[test]
fn a_sleeper_sees_what_was_committed_without_a_fence_before_the_change_back() {
    for sleep in WAYS {
        explore(move || {
            let mut publisher = publisher_without_fences();
            let subscription = Subscription::new();
            let mut subscriber = subscription.attach(&publisher.door());
            publisher.send();
            // It says that it sleeps, finds the message, and stays awake.
            sleep(&subscriber);
            subscriber.poll();
            send_to_a_sleeper(publisher, subscriber, 1, sleep);
        });
    }
}

/// Back and forth within three commits.
#[test]
fn a_sleeper_is_seen_by_commits_after_a_change_back_and_forth() {
    for sleep in WAYS {
        explore_deeper(-1, move || {
            let mut publisher = publisher_without_fences();
            let mut subscriber = publisher.attach();
            publisher.send();
            sleep(&subscriber);
            subscriber.poll();
            send_to_a_sleeper(publisher, subscriber, 3, sleep);
        });
    }
}

/// A reader attaches while commits change over: it gets the history that it was promised and all that
/// follows.
#[test]
fn a_reader_that_attaches_during_the_change_loses_nothing() {
    const MESSAGES: u64 = 4;
    explore_deeper(1, || {
        let mut publisher = publisher_about_to_change(RELIABLE.with_history(1));
        let chunks = publisher.chunks.clone();
        let door = publisher.door();
        let sending = loom::thread::spawn(move || {
            let mut refused = 0;
            while publisher.writer.published() < MESSAGES && refused < 2 {
                if publisher.writer.admit().is_ok() {
                    publisher.send();
                } else {
                    refused += 1;
                }
            }
            publisher
        });
        let mut subscriber = Subscription::new().attach(&door);
        let first = subscriber.reader.first();
        subscriber.look(&chunks);
        let publisher = sending.join().unwrap();
        let published = publisher.writer.published();
        subscriber.finish(&chunks, published);
        assert_eq!(subscriber.reader.lost(), 0, "from {first} on, of {published}");
    });
}
