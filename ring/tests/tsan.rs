//! Publishers and subscribers of one process, over rings on the heap, for ThreadSanitizer: `ring/sanitize`.
//!
//! The bytes of messages in chunks are plain memory, so the sanitizer sees each write of a publisher and each
//! read of a subscriber, and reports two that nothing puts in order. They are put in order by edges *commit*
//! and *unpin*, which are stores and loads. It ignores fences, so it cannot see what rests on those alone:
//! that a pin which the publisher did not see makes the reader turn back (edge *pin*), and that slots are not
//! torn (edge *rewrite*; their words are atomics anyway). The loom models show these.
//!
//! What is sampled here is what happened in this run, in real time and with real processors; the models are
//! small and exhaustive. Without the sanitizer it is a stress test of the contents.
//!
//! It has no test harness, whose threads alarm the sanitizer. What ends last is dropped after all threads
//! were joined: the last drop of an `Arc` rests on a fence, too.
#![allow(unsafe_code)]

/// The models are elsewhere, and these threads are not loom's.
#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() {
    let seed = std::env::var("HIVEMIND_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed} (HIVEMIND_SEED)");
    for light in [false, true] {
        if light {
            // From the next commits on, rings of this process leave the fence out, where the kernel allows
            // it.
            hivemind_ring::barrier::enable();
        }
        for reliable in [false, true] {
            threads::run(reliable, seed);
            println!("reliable: {reliable}, barrier asked for: {light}: ok");
        }
    }
}

#[cfg(not(loom))]
mod threads {
    use hivemind_ring::bell::Bell;
    use hivemind_ring::desk::Desk;
    use hivemind_ring::heap::{Heap, HeapRing};
    use hivemind_ring::loan::Loan;
    use hivemind_ring::reader::{Held, Reader, Seats, Taken};
    use hivemind_ring::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
    use hivemind_ring::writer::{RingConfig, Writer};
    use std::time::Duration;

    const MESSAGES: u64 = 20_000;
    const SLOTS: u64 = 8;
    const MESSAGE_MAX: u64 = 1024;
    /// Few enough that messages are withdrawn for their memory, enough for all that subscribers hold.
    const CHUNK_MEMORY: u64 = 64 << 10;
    const SUBSCRIBERS: u32 = 2;
    /// Samples that wait to be dropped by another thread.
    const PASSED_ON_MAX: usize = 8;
    /// A bound on waits for the other side: far beyond what they take.
    const WAIT: Duration = Duration::from_secs(60);
    /// A sleeper looks by itself this often, so a wake-up that is lost shows as slowness and not as a hang.
    const NAP: Duration = Duration::from_secs(1);

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    struct Shared {
        ring: Arc<HeapRing>,
        bell: Arc<Bell>,
        desk: Arc<Desk<Heap>>,
        passed_on: Mutex<Vec<Held<Heap>>>,
        sent: AtomicBool,
    }

    pub(crate) fn run(reliable: bool, seed: u64) {
        let config = RingConfig {
            node: 1,
            index: 1,
            fingerprint: 0,
            capacity: SLOTS,
            message_max: MESSAGE_MAX,
            chunk_memory: CHUNK_MEMORY,
            reliable,
            history: 1,
            retained: 0,
            bell: 0,
        };
        let bell = Arc::new(Bell::silent());
        let writer = Writer::on_heap(&config, Arc::clone(&bell));
        let (ring, desk) = (Arc::clone(writer.ring()), Arc::clone(writer.desk()));
        let shared =
            Shared { ring, bell, desk, passed_on: Mutex::new(Vec::new()), sent: AtomicBool::new(false) };
        let shared = &shared;
        // All of it lives until every thread was joined; see the head.
        let _ends = std::thread::scope(|scope| {
            let staying: Vec<_> = (0..SUBSCRIBERS).map(|index| attach(shared, index)).collect();
            let staying: Vec<_> = staying
                .into_iter()
                .zip(seed..)
                .map(|(end, seed)| scope.spawn(move || subscribe(shared, end, Dice(seed * 2 + 1))))
                .collect();
            let coming_and_going = scope.spawn(move || come_and_go(shared, Dice(seed * 2 + 1)));
            let writer = publish(writer, Dice(seed * 2 + 1));
            // Release: for the Acquire of `come_and_go`.
            shared.sent.store(true, Ordering::Release);
            drop(writer);
            let mut ends = coming_and_going.join().unwrap();
            for end in staying {
                ends.push(end.join().unwrap().seats);
            }
            ends
        });
        lock(&shared.passed_on).clear();
    }

    fn publish(mut writer: Writer<Heap>, mut dice: Dice) -> Writer<Heap> {
        while writer.published() < MESSAGES {
            let length = 1 + dice.below(MESSAGE_MAX);
            writer.admit_within(WAIT).expect("subscribers read on");
            let sequence = writer.published();
            let mut loan =
                Loan::take(&mut writer, length as usize).expect("memory for more than subscribers can hold");
            // That nobody reads it meanwhile is what the sanitizer is to judge.
            loan.fill(content(sequence));
            loan.send();
        }
        writer
    }

    fn content(sequence: u64) -> u8 {
        (sequence % 251) as u8
    }

    fn check(held: &Held<Heap>) {
        // SAFETY: in bounds and initialised: a message of its publisher; alive: `held` is. That nobody writes
        // is what the sanitizer is to judge.
        let bytes = unsafe { held.memory().as_ref() };
        let expected = content(held.sequence());
        assert!(bytes.iter().all(|byte| *byte == expected), "message {} is not whole", held.sequence());
    }

    struct End {
        seats: Seats<Heap>,
        reader: Reader<Heap>,
        received: u64,
    }

    fn attach(shared: &Shared, index: u32) -> End {
        let bell = Arc::new(Bell::silent());
        let seats = Seats::on_heap(1, Arc::clone(&bell));
        let seat = seats.take((1, 1)).expect("there is a seat");
        let memory = Arc::clone(seats.memory());
        let first = shared.desk.attach(memory, seat.index(), bell, (2, index)).expect("there is room");
        let (ring, bell) = (Arc::clone(&shared.ring), Arc::clone(&shared.bell));
        let reader = Reader::new(ring, bell, seat, first).expect("the first message is possible");
        End { seats, reader, received: 0 }
    }

    /// Polls once. Looks into what comes, passes it on, and looks into and drops what others passed on.
    /// Whether there was anything.
    fn look(shared: &Shared, end: &mut End, dice: &mut Dice) -> bool {
        let Some(taken) = end.reader.poll().expect("an honest publisher") else { return false };
        end.received += 1;
        if let Taken::Held(held) = taken {
            check(&held);
            let dropped = {
                let mut passed_on = lock(&shared.passed_on);
                passed_on.push(held);
                let full = passed_on.len() > PASSED_ON_MAX;
                let any = dice.below(passed_on.len() as u64) as usize;
                (full || dice.below(2) == 0).then(|| passed_on.swap_remove(any))
            };
            if let Some(held) = dropped {
                check(&held);
            }
        }
        true
    }

    fn subscribe(shared: &Shared, mut end: End, mut dice: Dice) -> End {
        while !end.reader.finished() {
            if !look(shared, &mut end, &mut dice) {
                let news = || end.reader.ready() || end.reader.finished();
                end.seats.sleep(std::iter::once(&end.reader), news, Some(NAP));
            }
        }
        let due = MESSAGES - end.reader.first();
        assert_eq!(end.received + end.reader.lost(), due, "every message counts once");
        assert!(!end.reader.reliable() || end.reader.lost() == 0, "a reliable ring loses nothing");
        end
    }

    /// A subscriber that attaches, reads a few messages and ends, again and again, while the publisher sends.
    fn come_and_go(shared: &Shared, mut dice: Dice) -> Vec<Seats<Heap>> {
        let mut ends = Vec::new();
        // Acquire: nothing rests on it; it is what a flag should be.
        while !shared.sent.load(Ordering::Acquire) {
            // A number of its own each time: the same one with the same seat would be the same subscriber,
            // introduced anew.
            let mut end = attach(shared, SUBSCRIBERS + ends.len() as u32);
            for _ in 0..dice.below(20) {
                look(shared, &mut end, &mut dice);
            }
            let End { seats, reader, .. } = end;
            if dice.below(2) == 0 {
                drop(reader);
                shared.desk.prune();
            } else {
                seats.close([reader]);
            }
            ends.push(seats);
        }
        ends
    }
}
