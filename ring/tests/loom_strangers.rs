//! Edge *sleep* between users: a subscriber of another user misses no message and no end, though it shares
//! one word with the publisher, and that word with the others of its user.
//!
//! As in `loom_sleep`, a lost wake-up shows as a loop that nobody ends: under loom the sleep of a stranger
//! has no bound. Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                                                                     |
//! | ----------------------------------------------------------------------------------------------------- |
//! | `STRANGERS` not set when a stranger is attached, or set before the list is changed                     |
//! | `STRANGERS` not put back when it was taken out with the sleepers of the own user                        |
//! | `STRANGERS` put back by what the publisher knew, without a look at the list under the lock              |
//! | doors looked at as they were known, without a look at the version of the list                           |
//! | a stranger that sets `SLEEPS` instead of `LISTENS`, or waits on `commits` of the doorbells              |
//! | a publisher that ends and wakes its own user alone                                                      |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::bell::Bell;
use hivemind_ring::sync::{Arc, Ordering};
use loom_support::{LOSSY, Subscriber, Subscription, explore, explore_deeper};

/// Two messages, so that the second sleep meets what the first left behind.
#[test]
fn a_stranger_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let door = Arc::new(Bell::silent());
        let mut stranger = Subscription::new().attach(&publisher.door_for_strangers(&door));
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        while stranger.received < 2 {
            if !stranger.look(&chunks) {
                stranger.sleep();
            }
        }
        drop(sending.join().unwrap());
    });
}

/// Those of one user share the word at the door; those of two users have a door each.
#[test]
fn two_strangers_both_wake_at_one_door_or_at_two() {
    for doors in [1, 2] {
        explore_deeper(-1, move || {
            let mut publisher = LOSSY.publisher();
            let chunks = publisher.chunks.clone();
            let doors: Vec<_> = (0..doors).map(|_| Arc::new(Bell::silent())).collect();
            let sleeping: Vec<_> = (0..2)
                .map(|index| {
                    let door = publisher.door_for_strangers(&doors[index % doors.len()]);
                    let mut stranger = Subscription::numbered(index as u32).attach(&door);
                    let chunks = chunks.clone();
                    loom::thread::spawn(move || {
                        while !stranger.look(&chunks) {
                            stranger.sleep();
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
}

/// A stranger beside a subscriber of the publisher's user, in either way.
#[test]
fn a_stranger_and_one_of_the_own_user_both_wake() {
    let ways: [fn(&Subscriber); 2] = [Subscriber::sleep, Subscriber::sleep_alone];
    for sleep in ways {
        explore_deeper(-1, move || {
            let mut publisher = LOSSY.publisher();
            let chunks = publisher.chunks.clone();
            let door = Arc::new(Bell::silent());
            let mut own = publisher.attach_as(1);
            let mut stranger = Subscription::numbered(2).attach(&publisher.door_for_strangers(&door));
            let other = {
                let chunks = chunks.clone();
                loom::thread::spawn(move || {
                    while !own.look(&chunks) {
                        sleep(&own);
                    }
                })
            };
            let sleeping = loom::thread::spawn(move || {
                while !stranger.look(&chunks) {
                    stranger.sleep();
                }
            });
            publisher.send();
            other.join().unwrap();
            sleeping.join().unwrap();
        });
    }
}

/// A stranger that attaches while the publisher sends, and sleeps at once, is known when it sends.
#[test]
fn a_new_stranger_may_sleep_at_once() {
    explore(|| {
        let mut publisher = LOSSY.with_history(1).publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door_for_strangers(&Arc::new(Bell::silent()));
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher
        });
        let mut stranger = Subscription::new().attach(&door);
        while !stranger.look(&chunks) {
            stranger.sleep();
        }
        drop(sending.join().unwrap());
    });
}

/// The same beside a stranger of another user that was there before: the new door is looked at, too.
#[test]
fn a_new_stranger_of_another_user_may_sleep_at_once() {
    explore(|| {
        let mut publisher = LOSSY.with_history(1).publisher();
        let chunks = publisher.chunks.clone();
        let known = publisher.door_for_strangers(&Arc::new(Bell::silent()));
        let earlier = Subscription::numbered(1).attach(&known);
        let door = publisher.door_for_strangers(&Arc::new(Bell::silent()));
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher
        });
        let mut stranger = Subscription::numbered(2).attach(&door);
        while !stranger.look(&chunks) {
            stranger.sleep();
        }
        drop(sending.join().unwrap());
        drop(earlier);
    });
}

/// A publisher that takes out the sleepers of its own user while a stranger attaches goes on to look at the
/// door.
#[test]
fn a_stranger_that_comes_while_others_are_woken_is_not_forgotten() {
    explore(|| {
        let mut publisher = LOSSY.with_history(1).publisher();
        let chunks = publisher.chunks.clone();
        let own = publisher.attach_as(1);
        // It says that it sleeps, finds the message, and stays awake: the next commit rings for it.
        publisher.send();
        own.sleep();
        let door = publisher.door_for_strangers(&Arc::new(Bell::silent()));
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        let mut stranger = Subscription::numbered(2).attach(&door);
        while stranger.reader.cursor() < 3 {
            if !stranger.look(&chunks) {
                stranger.sleep();
            }
        }
        drop(sending.join().unwrap());
        drop(own);
    });
}

/// The end of a publisher wakes strangers, too.
#[test]
fn no_stranger_sleeps_through_the_end_of_a_publisher() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let door = Arc::new(Bell::silent());
        let mut stranger = Subscription::new().attach(&publisher.door_for_strangers(&door));
        let ending = loom::thread::spawn(move || {
            publisher.send();
            drop(publisher);
        });
        while !stranger.reader.finished() {
            if !stranger.look(&chunks) {
                stranger.sleep();
            }
        }
        assert_eq!(stranger.received, 1);
        ending.join().unwrap();
    });
}

/// When the last stranger has gone, commits look at one word again.
#[test]
fn a_publisher_that_the_last_stranger_left_looks_at_no_door_any_more() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let bell = Arc::clone(&publisher.bell);
        let door = Arc::new(Bell::silent());
        let stranger = Subscription::new().attach(&publisher.door_for_strangers(&door));
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher
        });
        stranger.close();
        let mut publisher = sending.join().unwrap();
        // One that notices the end, and one that finds nobody behind the doors.
        publisher.send();
        publisher.send();
        publisher.send();
        // Relaxed: the thread that wrote it was joined.
        assert_eq!(bell.sleepers.load(Ordering::Relaxed), 0);
        assert_eq!(publisher.writer.readers(), 0);
        assert!(publisher.writer.desk().subscribers().is_empty());
    });
}
