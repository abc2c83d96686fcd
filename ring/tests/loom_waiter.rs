//! Edges *sleep*, *wake* and *close* where somebody waits for several ends at one place, or waits for an end
//! that stays armed: nothing is missed, and an end that is silent is neither looked at nor armed again.
//!
//! A lost wake-up shows as in `loom_sleep`: a loop that nobody ends. Who waits here looks at an end only if
//! its mark says so, so a lost mark shows in the same way. Each of these was broken once, and seen to fail:
//!
//! | broken on purpose                                                                    |
//! | ------------------------------------------------------------------------------------ |
//! | wake: the mark set after the count of `wake`, or not at all                          |
//! | wake: marks cleared by a store of 0 instead of a swap                                |
//! | wake: the count of `wake` noted after the marks were taken                           |
//! | sleep: an end at a place says at its publishers that it listens                      |
//! | sleep: `news` not asked after an end was armed                                       |
//! | sleep: a publisher, also one that ends, rings only those that sleep by themselves    |
//! | sleep: the count of a stranger's `commits` noted after the look                      |
#![cfg(loom)]

mod loom_support;

use hivemind_ring::bell::{self, Bell, WordsUpTo};
use hivemind_ring::heap::Heap;
use hivemind_ring::place::Place;
use hivemind_ring::reader::Heard;
use hivemind_ring::sync::{Arc, AtomicU32, Ordering};
use loom_support::{Chunks, LOSSY, Subscriber, Subscription, explore, explore_deeper};

/// An end that is waited for with others.
struct End {
    subscriber: Subscriber,
    mark: u32,
    /// It may have something, and is not armed.
    is_ready: bool,
    heard: Vec<Heard<Heap>>,
}

impl End {
    fn new(subscriber: Subscriber, mark: u32) -> End {
        End { subscriber, mark, is_ready: true, heard: Vec::new() }
    }

    /// Reads it to its end, and arms it.
    fn read_and_arm(&mut self, chunks: &Chunks) {
        while self.subscriber.look(chunks) {}
        self.heard.clear();
        let reader = &self.subscriber.reader;
        let news = || reader.ready() || reader.finished();
        let place = Place { line: 0, mark: self.mark };
        let armed = self.subscriber.seats.arm_at(place, std::iter::once(reader), &mut self.heard, news);
        self.is_ready = armed.is_err();
    }
}

/// Waits at the line of `bell` until one of the ends may have something.
fn wait(bell: &Bell, ends: &mut [End]) {
    let mut words: WordsUpTo<'_, 3> = WordsUpTo::at(bell);
    let marks: Vec<u32> = bell.take_marks().collect();
    for end in ends.iter_mut() {
        end.is_ready |= marks.contains(&end.mark) || end.heard.iter().any(Heard::has_rung);
    }
    if ends.iter().any(|end| end.is_ready) {
        return;
    }
    for (word, seen) in ends.iter().flat_map(|end| &end.heard).map(Heard::word) {
        words.add_seen(word, seen);
    }
    bell::wait_for_any(&words, None);
}

/// Receives until all have as many messages as they are to get.
fn receive(bell: &Bell, ends: &mut [End], chunks: &Chunks, total: u64) {
    loop {
        for end in ends.iter_mut().filter(|end| end.is_ready) {
            end.read_and_arm(chunks);
        }
        if ends.iter().map(|end| end.subscriber.received).sum::<u64>() == total {
            return;
        }
        if !ends.iter().any(|end| end.is_ready) {
            wait(bell, ends);
        }
    }
}

/// The second message finds an end that was armed a second time.
#[test]
fn an_end_at_a_place_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let line = Arc::new(Bell::silent());
        let mut ends = [End::new(Subscription::at(&line, 0).attach(&publisher.door()), 5)];
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        receive(&line, &mut ends, &chunks, 2);
        drop(sending.join().unwrap());
    });
}

/// One after the other, and each is silent while the other is not.
#[test]
fn of_two_ends_at_a_place_the_silent_one_stays_armed() {
    explore(|| {
        let mut publishers = [LOSSY.publisher(), LOSSY.publisher()];
        let chunks = publishers[0].chunks.clone();
        let line = Arc::new(Bell::silent());
        let mut ends = [0, 1].map(|which| {
            let subscriber = Subscription::at(&line, which).attach(&publishers[which as usize].door());
            End::new(subscriber, which)
        });
        let sending = loom::thread::spawn(move || {
            publishers[0].send();
            publishers[1].send();
            publishers
        });
        receive(&line, &mut ends, &chunks, 2);
        drop(sending.join().unwrap());
    });
}

/// Two that ring the same line at the same time.
#[test]
fn two_publishers_that_ring_one_place_are_both_heard() {
    explore_deeper(-1, || {
        let publishers = [LOSSY.publisher(), LOSSY.publisher()];
        let chunks = publishers[0].chunks.clone();
        let line = Arc::new(Bell::silent());
        let mut ends = [0, 1].map(|which| {
            let subscriber = Subscription::at(&line, which).attach(&publishers[which as usize].door());
            End::new(subscriber, which)
        });
        let sending = publishers.map(|mut publisher| {
            loom::thread::spawn(move || {
                publisher.send();
                publisher
            })
        });
        receive(&line, &mut ends, &chunks, 2);
        drop(sending.map(|thread| thread.join().unwrap()));
    });
}

/// From a thread that sleeps for the one end, to one that waits for many, and back.
#[test]
fn an_end_that_changes_who_waits_for_it_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let line = Arc::new(Bell::silent());
        let mut ends = [End::new(Subscription::at(&line, 0).attach(&publisher.door()), 0)];
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        let mut turn = 0;
        while ends[0].subscriber.received < 2 {
            match turn % 3 {
                0 => ends[0].subscriber.sleep_alone(),
                1 => {
                    ends[0].read_and_arm(&chunks);
                    if !ends[0].is_ready && ends[0].subscriber.received < 2 {
                        wait(&line, &mut ends);
                    }
                }
                _ => {
                    ends[0].subscriber.seats.disarm();
                    ends[0].subscriber.sleep();
                }
            }
            while ends[0].subscriber.look(&chunks) {}
            turn += 1;
        }
        drop(sending.join().unwrap());
    });
}

/// Also where a commit makes no fence.
#[test]
fn who_finds_a_mark_finds_what_it_was_set_for() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let line = Arc::new(Bell::silent());
        let mut ends = [End::new(Subscription::at(&line, 0).attach(&publisher.door()), 0)];
        ends[0].read_and_arm(&chunks);
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher
        });
        if line.take_marks().next().is_some() {
            assert!(ends[0].subscriber.look(&chunks));
        }
        drop(sending.join().unwrap());
    });
}

/// An arrival, say: whoever waits at a place is told by the end's mark.
#[test]
fn news_of_the_own_node_reach_who_waits_for_many() {
    explore(|| {
        let line = Arc::new(Bell::silent());
        let seats = Arc::new(Subscription::at(&line, 0).seats);
        let arrived = Arc::new(AtomicU32::new(0));
        let telling = {
            let (seats, arrived) = (Arc::clone(&seats), Arc::clone(&arrived));
            loom::thread::spawn(move || {
                arrived.store(1, Ordering::Relaxed);
                seats.wake();
            })
        };
        let has_arrived = || arrived.load(Ordering::Relaxed) != 0;
        let place = Place { line: 0, mark: 3 };
        let mut is_ready =
            seats.arm_at(place, std::iter::empty(), &mut Vec::<Heard<Heap>>::new(), has_arrived).is_err();
        while !is_ready {
            let words: WordsUpTo<'_, 1> = WordsUpTo::at(&line);
            is_ready = line.take_marks().any(|mark| mark == 3);
            if !is_ready {
                bell::wait_for_any(&words, None);
            }
        }
        assert!(has_arrived(), "who is told finds it");
        telling.join().unwrap();
    });
}

/// The end of a publisher is news for whoever waits at a place.
#[test]
fn nobody_who_waits_for_many_sleeps_through_the_end_of_a_publisher() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let line = Arc::new(Bell::silent());
        let mut ends = [End::new(Subscription::at(&line, 0).attach(&publisher.door()), 0)];
        let ending = loom::thread::spawn(move || {
            publisher.send();
            drop(publisher);
        });
        while !ends[0].subscriber.reader.finished() {
            if ends[0].is_ready {
                ends[0].read_and_arm(&chunks);
            } else {
                wait(&line, &mut ends);
            }
        }
        assert_eq!(ends[0].subscriber.received, 1);
        ending.join().unwrap();
    });
}

/// One that the kernel waits for, on words that were noted when it was armed.
#[test]
fn an_end_that_stays_armed_misses_no_message() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let mut subscriber = publisher.attach();
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        loop {
            while subscriber.look(&chunks) {}
            if subscriber.received == 2 {
                break;
            }
            let reader = &subscriber.reader;
            if let Some(armed) = subscriber.seats.arm(std::iter::once(reader), || reader.ready()) {
                bell::wait_for_any(&armed.words, None);
            }
        }
        drop(sending.join().unwrap());
    });
}

/// A stranger rings nothing of ours: it is listened to beside the line.
#[test]
fn a_stranger_is_heard_by_who_waits_for_many() {
    explore(|| {
        let mut publisher = LOSSY.publisher();
        let chunks = publisher.chunks.clone();
        let door = publisher.door_for_strangers(&Arc::new(Bell::silent()));
        let line = Arc::new(Bell::silent());
        let mut ends = [End::new(Subscription::at(&line, 0).attach(&door), 0)];
        let sending = loom::thread::spawn(move || {
            publisher.send();
            publisher.send();
            publisher
        });
        receive(&line, &mut ends, &chunks, 2);
        drop(sending.join().unwrap());
    });
}
