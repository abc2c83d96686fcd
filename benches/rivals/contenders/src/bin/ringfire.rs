//! ringfire: a broadcast ring in a file of shared memory. Fixed-size elements go through its ring, other
//! messages through its ring with an arena, which cannot hold the writer back; so large messages one way go
//! through the ring, too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfire::{
    BlobConsumer, BlobProducer, BlobProducerBuilder, FlowControl, FutexWait, RingConsumer, RingProducer,
    RingProducerBuilder,
};
use rivals_course::case::Task;
use rivals_course::contender::{Contender, Drain, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Seen, Small};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::{nap_for, spin_for, spin_until};

type Words = [u64; 8];

/// Slots of small messages, one way.
const MANY_SLOTS: u64 = 1024;
/// Slots of large messages together fit the second cache of one core; two at least.
const LARGE_BYTES: u64 = 512 << 10;
/// Slots and arena of round trips, where one message is under way at a time.
const FEW_SLOTS: u64 = 8;
const FEW_BLOBS: usize = 4;
/// Small messages in one batch.
const BATCH: usize = 32;

struct Ringfire;

impl Contender for Ringfire {
    const NAME: &'static str = "ringfire";
    type Link = Ends;

    fn version() -> String {
        "0.5.2".to_owned()
    }

    fn setup() -> &'static str {
        "small messages as elements of 64 B, copied in and out; round trips of large messages through its arena, filled and \
         viewed in place; one way with lossless backpressure, 1,024 slots (large messages as elements, copied, 512 KiB in \
         all and two at least); try_recv in a loop, FutexWait without spinning in the blocking case; batches of 32"
    }

    fn waits(task: Task) -> Waits {
        match task {
            Task::RoundTrip { asleep: true, .. } => Waits::Blocks,
            _ => Waits::Spins,
        }
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::Services { .. } => Some("no services: a ring is a file that the user names and finds"),
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Ends> {
        let out = Out::create(&run.room.join("ping"), run.task)?;
        launch.launch("")?;
        let back = run.task.both_ways().then(|| Back::attach(run.room.join("pong"), run.task)).transpose()?;
        Ok(Ends { out: Some(out), back })
    }

    fn peer(run: &Run, _: &str) -> Result<Ends> {
        let out = run.task.both_ways().then(|| Out::create(&run.room.join("pong"), run.task)).transpose()?;
        Ok(Ends { out, back: Some(Back::attach(run.room.join("ping"), run.task)?) })
    }

    fn audience(run: &Run, _: &str, subscribers: usize) -> Result<Drain> {
        let mut audience = Vec::new();
        for _ in 0..subscribers {
            audience.push(RingConsumer::<Words>::attach(run.room.join("ping")).map_err(rival)?);
        }
        Ok(Box::new(move |take| {
            for (index, consumer) in audience.iter_mut().enumerate() {
                if let Some(words) = consumer.try_recv() {
                    take(index, Small(words).seen());
                }
            }
            Ok(())
        }))
    }

    fn cold_start(run: &Run, _: &str, round: u64) -> Result<Keep> {
        let path = run.room.join(format!("cold-{round}"));
        let mut producer = RingProducer::<Words>::create(&path, FEW_SLOTS).map_err(rival)?;
        let mut consumer = RingConsumer::<Words>::attach(&path).map_err(rival)?;
        producer.push(&Small::numbered(round, 0).0);
        let found = spin_for(|| Ok(consumer.try_recv()), "the first message")?[0];
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new((producer, consumer)))
    }
}

struct Ends {
    out: Option<Out>,
    back: Option<Back>,
}

/// A large element is copied from here, or to here.
type Push = Box<dyn FnMut(&[u8]) -> bool>;
type Pull = Box<dyn FnMut(&mut [u8]) -> bool>;

enum Out {
    Small(RingProducer<Words>),
    Blobs(BlobProducer<u64>),
    Elements(Push, Vec<u8>),
}

enum Back {
    Small(RingConsumer<Words>, Option<FutexWait>, Box<[Words; BATCH]>),
    Blobs(BlobConsumer<u64>),
    Elements(Pull, Vec<u8>),
}

impl Out {
    fn create(path: &Path, task: Task) -> Result<Out> {
        let bytes = task.bytes();
        Ok(match task {
            Task::OneWay { .. } if bytes > 64 => {
                Out::Elements(producer_of(path, bytes)?, vec![0; bytes + 64])
            }
            Task::RoundTrip { .. } if bytes > 64 => {
                let arena = (FEW_BLOBS * bytes.next_multiple_of(4096)).next_power_of_two();
                Out::Blobs(BlobProducerBuilder::new(FEW_SLOTS, arena).build::<u64, _>(path).map_err(rival)?)
            }
            Task::OneWay { .. } => Out::Small(lossless(path, MANY_SLOTS)?),
            Task::FanOut { subscribers, .. } => {
                let builder = RingProducerBuilder::new(MANY_SLOTS).max_readers(subscribers);
                Out::Small(builder.build::<Words, _>(path).map_err(rival)?)
            }
            _ => Out::Small(RingProducerBuilder::new(FEW_SLOTS).build::<Words, _>(path).map_err(rival)?),
        })
    }
}

fn lossless<T: Copy + 'static>(path: &Path, slots: u64) -> Result<RingProducer<T>> {
    let builder =
        RingProducerBuilder::new(slots).max_readers(1).flow_control(FlowControl::LosslessBackpressure);
    builder.build::<T, _>(path).map_err(rival)
}

impl Back {
    /// The other side may not have made its file yet.
    fn attach(path: PathBuf, task: Task) -> Result<Back> {
        nap_for(|| Ok(path.exists().then_some(())), "the other side's file")?;
        let bytes = task.bytes();
        nap_for(
            || {
                Ok(match task {
                    Task::OneWay { .. } if bytes > 64 => {
                        consumer_of(&path, bytes).map(|pull| Back::Elements(pull, vec![0; bytes + 64])).ok()
                    }
                    _ if bytes > 64 => BlobConsumer::<u64>::attach(&path).map(Back::Blobs).ok(),
                    _ => {
                        let sleeper = matches!(task, Task::RoundTrip { asleep: true, .. })
                            .then(|| FutexWait::new(0, Some(Duration::from_secs(5))));
                        let attached = RingConsumer::<Words>::attach(&path).ok();
                        attached.map(|consumer| Back::Small(consumer, sleeper, Box::new([[0; 8]; BATCH])))
                    }
                })
            },
            "the other side's ring",
        )
    }
}

/// The sizes of the course as element types.
fn producer_of(path: &Path, bytes: usize) -> Result<Push> {
    match bytes {
        256 => producer::<32>(path),
        1_024 => producer::<128>(path),
        4_096 => producer::<512>(path),
        16_384 => producer::<2_048>(path),
        65_536 => producer::<8_192>(path),
        262_144 => producer::<32_768>(path),
        1_048_576 => producer::<131_072>(path),
        _ => Err(Failure::NotOffered("no element type of this length was compiled in")),
    }
}

fn consumer_of(path: &Path, bytes: usize) -> Result<Pull> {
    match bytes {
        256 => consumer::<32>(path),
        1_024 => consumer::<128>(path),
        4_096 => consumer::<512>(path),
        16_384 => consumer::<2_048>(path),
        65_536 => consumer::<8_192>(path),
        262_144 => consumer::<32_768>(path),
        1_048_576 => consumer::<131_072>(path),
        _ => Err(Failure::NotOffered("no element type of this length was compiled in")),
    }
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Element<const WORDS: usize>([u64; WORDS]);

fn producer<const WORDS: usize>(path: &Path) -> Result<Push> {
    let slots = (LARGE_BYTES / (8 * WORDS as u64)).clamp(2, MANY_SLOTS);
    let mut producer = lossless::<Element<WORDS>>(path, slots)?;
    Ok(Box::new(move |bytes| {
        // SAFETY: in bounds: the buffer has the element's length; initialised; every pattern of bits is an
        // element. It need not be aligned: see the check.
        let (before, elements, _) = unsafe { bytes.align_to::<Element<WORDS>>() };
        assert!(before.is_empty() && elements.len() == 1, "the buffer is aligned like its elements");
        producer.try_push(&elements[0]).is_ok()
    }))
}

fn consumer<const WORDS: usize>(path: &Path) -> Result<Pull> {
    let mut consumer = RingConsumer::<Element<WORDS>>::attach(path).map_err(rival)?;
    Ok(Box::new(move |bytes| {
        // SAFETY: as above, and every element is a pattern of bytes.
        let (before, elements, _) = unsafe { bytes.align_to_mut::<Element<WORDS>>() };
        assert!(before.is_empty() && elements.len() == 1, "the buffer is aligned like its elements");
        consumer.recv_batch(elements) == 1
    }))
}

impl Link for Ends {
    #[inline(always)]
    fn send_small(&mut self, message: Small) -> Result<()> {
        let Some(Out::Small(producer)) = &mut self.out else {
            return Err(Failure::NotOffered("this end does not publish small messages"));
        };
        producer.push(&message.0);
        Ok(())
    }

    #[inline(always)]
    fn receive_small(&mut self) -> Result<Seen> {
        let Some(Back::Small(consumer, sleeper, _)) = &mut self.back else {
            return Err(Failure::NotOffered("this end does not receive small messages"));
        };
        let words = match sleeper {
            Some(sleeper) => consumer.recv_blocking(sleeper),
            None => spin_for(|| Ok(consumer.try_recv()), "a message")?,
        };
        Ok(Small(words).seen())
    }

    #[inline(always)]
    fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        match &mut self.out {
            Some(Out::Blobs(producer)) => {
                producer.push_with(&0, bytes, fill).map_err(rival)?;
                Ok(())
            }
            Some(Out::Elements(push, buffer)) => {
                let place = aligned(buffer, bytes);
                fill(place);
                spin_until(|| push(place), "room in the ring")
            }
            _ => Err(Failure::NotOffered("this end does not publish bytes")),
        }
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        match &mut self.back {
            Some(Back::Blobs(consumer)) => {
                let mut read = Some(read);
                spin_for(
                    || {
                        let found =
                            consumer.view(|_, bytes| read.take().map(|read| read(bytes))).map_err(rival)?;
                        match found {
                            Some(Some(found)) => Ok(Some(found)),
                            Some(None) => Err(Failure::Mixed { expected: 0, found: u64::MAX }),
                            None => Ok(None),
                        }
                    },
                    "a message",
                )
            }
            Some(Back::Elements(pull, buffer)) => {
                let length = buffer.len() - 64;
                let place = aligned(buffer, length);
                spin_until(|| pull(place), "a message")?;
                Ok(read(place))
            }
            _ => Err(Failure::NotOffered("this end does not receive bytes")),
        }
    }

    fn batch(&self) -> Option<u64> {
        Some(BATCH as u64)
    }

    #[inline(always)]
    fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
        let Some(Out::Small(producer)) = &mut self.out else {
            return Err(Failure::NotOffered("this end does not publish small messages"));
        };
        let mut batch = [[0; 8]; BATCH];
        for (number, words) in (first..).zip(&mut batch) {
            *words = Small::numbered(number, if number + 1 == first + BATCH as u64 { mark } else { 0 }).0;
        }
        producer.push_batch(&batch);
        Ok(())
    }

    #[inline(always)]
    fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let Some(Back::Small(consumer, _, batch)) = &mut self.back else {
            return Err(Failure::NotOffered("this end does not receive small messages"));
        };
        let count = spin_for(
            || {
                let count = consumer.recv_batch(&mut batch[..]);
                Ok((count > 0).then_some(count))
            },
            "a message",
        )?;
        batch[..count].iter().try_for_each(|words| take(Small(*words).seen()))
    }
}

/// The first `bytes` bytes of the buffer that begin at a cache line.
#[inline(always)]
fn aligned(buffer: &mut [u8], bytes: usize) -> &mut [u8] {
    let skip = buffer.as_ptr().align_offset(64);
    &mut buffer[skip..skip + bytes]
}

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<Ringfire>()])
}
