//! Nodes, publishers and subscribers come and go at random, the hosts of roots among them. Whenever they
//! pause, every publisher is attached to every subscriber, once; and nothing of a reliable service is ever
//! lost, doubled or out of order.
//!
//! `HIVEMIND_SEED` replays a failure, `HIVEMIND_STEPS` goes on for longer.

use hivemind::{EndId, Node, Publisher, SendError, Subscriber};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for, so reaching it means that it never comes.
const PATIENCE: Duration = Duration::from_secs(60);
const NODES: usize = 5;
const ENDS_MAX: usize = 4;

/// Xorshift: any spread will do.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

struct Speaker {
    publisher: Publisher<u64>,
}

struct Listener {
    subscriber: Subscriber<u64>,
    /// The sequence expected next of each publisher.
    next: HashMap<EndId, u64>,
}

impl Listener {
    fn drain(&mut self) {
        while let Some(sample) = self.subscriber.try_recv().unwrap() {
            assert_eq!(*sample, sample.sequence());
            if let Some(expected) = self.next.insert(sample.publisher(), sample.sequence() + 1) {
                assert_eq!(sample.sequence(), expected, "of {}", sample.publisher());
            }
        }
        assert_eq!(self.subscriber.lost(), 0, "a reliable service loses nothing");
    }
}

#[derive(Default)]
struct Place {
    node: Option<Node>,
    speakers: Vec<Speaker>,
    listeners: Vec<Listener>,
}

struct World {
    folder: tempfile::TempDir,
    random: Random,
    places: Vec<Place>,
    names: usize,
}

impl World {
    fn step(&mut self) {
        let place = self.random.below(NODES);
        let what = self.random.below(12);
        let place = &mut self.places[place];
        let Some(node) = place.node.clone() else {
            self.names += 1;
            let builder = Node::builder(&format!("node-{}", self.names)).dir(self.folder.path());
            place.node = Some(builder.patience(PATIENCE).join().unwrap());
            return;
        };
        match what {
            // Its ends first, or the node first: both happen.
            0 => {
                place.listeners.clear();
                place.speakers.clear();
                place.node = None;
            }
            1..=3 if place.speakers.len() < ENDS_MAX => {
                let service = format!("life/{}", self.random.below(3));
                let builder = node.publisher_builder::<u64>(&service).capacity(64).history(3).reliable();
                place.speakers.push(Speaker { publisher: builder.create().unwrap() });
            }
            4..=6 if place.listeners.len() < ENDS_MAX => {
                let subscriber = node.subscriber::<u64>("life/*").unwrap();
                place.listeners.push(Listener { subscriber, next: HashMap::new() });
            }
            7 => drop(place.speakers.pop()),
            8 => drop(place.listeners.pop()),
            _ => {}
        }
    }

    fn talk(&mut self) {
        for speaker in self.places.iter_mut().flat_map(|place| &mut place.speakers) {
            let number = speaker.publisher.published();
            match speaker.publisher.send(&number) {
                Ok(_) | Err(SendError::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for listener in self.places.iter_mut().flat_map(|place| &mut place.listeners) {
            listener.drain();
        }
    }

    /// Waits until everybody is attached to everybody, and looks whether all that was sent has come.
    fn settle(&mut self) {
        let begun = Instant::now();
        loop {
            self.talk();
            let speakers: Vec<_> = self.places.iter().flat_map(|place| &place.speakers).collect();
            let listeners: Vec<_> = self.places.iter().flat_map(|place| &place.listeners).collect();
            let wanted: BTreeSet<EndId> = speakers.iter().map(|speaker| speaker.publisher.id()).collect();
            let found = |listener: &Listener| -> BTreeSet<EndId> {
                let connections = listener.subscriber.connections().into_iter();
                connections.filter(|status| !status.ended).map(|status| status.origin.publisher).collect()
            };
            let attached = speakers.iter().all(|speaker| speaker.publisher.subscribers() == listeners.len())
                && listeners.iter().all(|listener| found(listener) == wanted);
            if attached {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "never attached: {} listeners, publishers have {:?}; {wanted:?} are attached to {:?}",
                listeners.len(),
                speakers.iter().map(|speaker| speaker.publisher.subscribers()).collect::<Vec<_>>(),
                listeners.iter().map(|listener| found(listener)).collect::<Vec<_>>()
            );
            std::thread::yield_now();
        }
        self.talk();
        for listener in self.places.iter_mut().flat_map(|place| &mut place.listeners) {
            listener.drain();
        }
        let published: HashMap<EndId, u64> = self
            .places
            .iter()
            .flat_map(|place| &place.speakers)
            .map(|speaker| (speaker.publisher.id(), speaker.publisher.published()))
            .collect();
        for listener in self.places.iter().flat_map(|place| &place.listeners) {
            for status in listener.subscriber.connections().into_iter().filter(|status| !status.ended) {
                let all = published[&status.origin.publisher];
                assert_eq!(status.first + status.received + status.lost, all, "{status:?}");
            }
        }
    }
}

#[test]
fn everybody_meets_everybody_once_whatever_comes_and_goes() {
    let from_environment = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let seed = from_environment("HIVEMIND_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 | 1
    });
    println!("HIVEMIND_SEED={seed}");
    let places = (0..NODES).map(|_| Place::default()).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World { folder, random: Random(seed), places, names: 0 };
    for step in 0..from_environment("HIVEMIND_STEPS").unwrap_or(300) {
        world.step();
        if world.random.below(3) == 0 {
            world.talk();
        }
        if step % 15 == 14 {
            world.settle();
        }
    }
    world.settle();
}
