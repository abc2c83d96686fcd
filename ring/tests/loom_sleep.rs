//! Edges *sleep* and *close*: nobody sleeps through a message or through the end of the other side.
//!
//! Under loom a sleep is a loop until the bell's word changes, so a lost wake-up shows as a loop that nobody
//! ends: the model exceeds its number of branches. Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                                                     |
//! | ------------------------------------------------------------------------------------- |
//! | sleep: a fence left out (after a commit, in `sleep`, at a publisher's end), or AcqRel |
//! | sleep: `sleeping` not set, `news` not asked, the bell's words read after `news`       |
//! | sleep: `sleepers` set by a plain store or Relaxed; the publisher's swap not Acquire   |
//! | sleep: `sleepers` cleared after the look at the readers instead of before             |
//! | sleep: who listens sets the bit of who sleeps alone                                   |
//! | sleep: of two bits that are set the publisher answers one only, either of them        |
//! | attach: `ring_bell` does not look for new readers                                     |
//! | close: a publisher that ends wakes nobody, or only who sleeps alone                   |
//! | `bell::ring` counts Relaxed (news of the own node)                                    |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::sync::{Arc, AtomicU32, Ordering};
use loom_support::{LOSSY, Subscriber, Subscription, explore, explore_deeper};

/// Two messages, so that the second sleep meets what the first left behind.
#[test]
fn a_sleeper_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        while subscriber.received < 2 {
            if !subscriber.look(&chunks) {
                subscriber.sleep();
            }
        }
        drop(sending.join().unwrap());
    });
}

/// One ring of the bell serves all who sleep.
#[test]
fn two_sleepers_of_one_publisher_both_wake() {
    explore_deeper(-1, || {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let sleeping: Vec<_> = (0..2)
            .map(|index| {
                let mut subscriber = publisher.attach_as(index);
                let chunks = chunks.clone();
                loom::thread::spawn(move || {
                    while !subscriber.look(&chunks) {
                        subscriber.sleep();
                    }
                })
            })
            .collect();
        publisher.send();
        for sleeper in sleeping {
            sleeper.join().unwrap();
        }
    });
}

/// A lone sleeper is rung beside those that listen, and the other way round.
#[test]
fn one_that_listens_and_one_that_sleeps_alone_both_wake() {
    explore_deeper(-1, || {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let sleeping: Vec<_> = [Subscriber::sleep, Subscriber::sleep_alone]
            .into_iter()
            .enumerate()
            .map(|(index, sleep)| {
                let mut subscriber = publisher.attach_as(index as u32);
                let chunks = chunks.clone();
                loom::thread::spawn(move || {
                    while !subscriber.look(&chunks) {
                        sleep(&subscriber);
                    }
                })
            })
            .collect();
        publisher.send();
        for sleeper in sleeping {
            sleeper.join().unwrap();
        }
    });
}

/// A bit that another subscriber left behind hides nobody who sleeps in the other way.
#[test]
fn a_bit_left_behind_hides_no_sleeper_of_the_other_kind() {
    let ways: [fn(&Subscriber); 2] = [Subscriber::sleep, Subscriber::sleep_alone];
    for (index, sleep) in ways.into_iter().enumerate() {
        let left: fn(&Subscriber) = ways[1 - index];
        explore(move || {
            let mut publisher = LOSSY.publisher();
            let chunks = publisher.chunks.clone();
            let mut other = publisher.attach_as(7);
            publisher.send();
            // It says that it sleeps, finds the message, and stays awake.
            left(&other);
            let mut subscriber = publisher.attach();
            let sending = loom::thread::spawn(move || {
                publisher.send();
                publisher
            });
            while !subscriber.look(&chunks) {
                sleep(&subscriber);
            }
            other.look(&chunks);
            drop(sending.join().unwrap());
        });
    }
}

/// A sleeper that changes from one way to the other leaves a bit of the former behind, which must not hide
/// the new one.
#[test]
fn a_sleeper_that_changes_its_way_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        let mut alone = true;
        while subscriber.received < 2 {
            if !subscriber.look(&chunks) {
                if alone {
                    subscriber.sleep_alone();
                } else {
                    subscriber.sleep();
                }
                alone = !alone;
            }
        }
        drop(sending.join().unwrap());
    });
}

/// As `a_sleeper_misses_no_message`, alone.
#[test]
fn a_lone_sleeper_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        while subscriber.received < 2 {
            if !subscriber.look(&chunks) {
                subscriber.sleep_alone();
            }
        }
        drop(sending.join().unwrap());
    });
}

/// The flag "I sleep" belongs to the subscriber, the flag "somebody sleeps" to each publisher: a wake-up by
/// one publisher does not swallow that of another.
#[test]
fn a_sleeper_of_two_publishers_gets_both_messages() {
    explore(|| {
        let publishers = [LOSSY.publisher(), LOSSY.publisher()];
        let chunks = publishers[0].chunks.clone();
        let subscription = Subscription::with_seats(2);
        let mut readers = publishers.each_ref().map(|publisher| subscription.read(&publisher.door()));
        let sending = publishers.map(|mut publisher| {
            loom::thread::spawn(move || {
                publisher.send();
                publisher
            })
        });
        let mut received = 0;
        while received < 2 {
            let mut found = false;
            for reader in &mut readers {
                while let Some(_message) = reader.poll().expect("an honest publisher") {
                    received += 1;
                    found = true;
                }
            }
            if !found && received < 2 {
                let news = || readers.iter().any(hivemind_ring::reader::Reader::ready);
                subscription.seats.sleep(readers.iter(), news, None);
            }
        }
        drop(sending.map(|thread| thread.join().unwrap()));
        drop(chunks);
    });
}

/// A reader that attaches and goes to sleep at once is known to the publisher when it rings.
#[test]
fn a_new_reader_may_sleep_at_once() {
    a_new_reader_sleeps(Subscriber::sleep_alone);
}

/// One that listens needs nobody who knows it.
#[test]
fn a_new_reader_may_listen_at_once() {
    a_new_reader_sleeps(Subscriber::sleep);
}

fn a_new_reader_sleeps(sleep: fn(&Subscriber)) {
    explore(move || {
        let mut publisher = LOSSY.with_history(1).publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher
        });
        let mut subscriber = Subscription::new().attach(&door);
        while !subscriber.look(&chunks) {
            sleep(&subscriber);
        }
        drop(sending.join().unwrap());
    });
}

/// The end of a publisher wakes its readers.
#[test]
fn nobody_sleeps_through_the_end_of_a_publisher() {
    a_publisher_ends(Subscriber::sleep_alone);
}

/// So it does where they listen.
#[test]
fn nobody_listens_through_the_end_of_a_publisher() {
    a_publisher_ends(Subscriber::sleep);
}

fn a_publisher_ends(sleep: fn(&Subscriber)) {
    explore(move || {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let ending = loom::thread::spawn(move || {
            publisher.send();
            drop(publisher);
        });
        while !subscriber.reader.finished() {
            if !subscriber.look(&chunks) {
                sleep(&subscriber);
            }
        }
        assert_eq!(subscriber.received, 1);
        ending.join().unwrap();
    });
}

/// News of the own node (an arrival, say) wake a sleeper: what was stored before `wake` is seen by `news`.
#[test]
fn nobody_sleeps_through_news_of_the_own_node() {
    explore(|| {
        let subscription = Subscription::new();
        let seats = Arc::new(subscription.seats);
        let arrived = Arc::new(AtomicU32::new(0));
        let telling = {
            let (seats, arrived) = (Arc::clone(&seats), Arc::clone(&arrived));
            loom::thread::spawn(move || {
                arrived.store(1, Ordering::Relaxed);
                seats.wake();
            })
        };
        // Once more awake, the flag is there: `wake` released it, the next `sleep` acquires it.
        while arrived.load(Ordering::Relaxed) == 0 {
            seats.sleep(std::iter::empty(), || arrived.load(Ordering::Relaxed) != 0, None);
        }
        telling.join().unwrap();
    });
}

/// A publisher that is told of the end of a subscriber while it sends does not take the word and miss the
/// end.
#[test]
fn a_publisher_that_was_told_of_an_end_knows_it() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let bell = Arc::clone(&publisher.bell);
        let subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher
        });
        subscriber.close();
        let publisher = sending.join().unwrap();
        // Relaxed: the thread that cleared it was joined.
        if bell.sleepers.load(Ordering::Relaxed) == 0 {
            assert_eq!(publisher.writer.readers(), 0, "it was told");
            assert!(publisher.writer.desk().subscribers().is_empty(), "and forgot the reader");
        }
    });
}
