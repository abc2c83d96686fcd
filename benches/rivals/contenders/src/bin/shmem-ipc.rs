//! shmem-ipc: a ring between one sender and one receiver, with eventfds for those who sleep.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rivals_course::case::Task;
use rivals_course::contender::{Contender, Keep, Launch, Link, Run, Waits};
use rivals_course::failure::{Failure, Result, rival};
use rivals_course::message::{Part, SMALL, Seen, fill, read};
use rivals_course::program::{Entry, main as program};
use rivals_course::waiting::spin_for;
use shmem_ipc::sharedring::{Receiver, Sender};

/// Slots of small messages.
const MANY: usize = 1024;
/// Large messages together fit the second cache of one core; two at least.
const LARGE_BYTES: usize = 512 << 10;
/// Small messages in one batch.
const BATCH: usize = 32;

struct ShmemIpc;

impl Contender for ShmemIpc {
    const NAME: &'static str = "shmem-ipc";
    type Link = AnySize;

    fn version() -> String {
        "0.3.0".to_owned()
    }

    fn setup() -> &'static str {
        "one ring each way, one message an element, filled and read in place through the raw pointers it lends; 1,024 \
         elements, or 512 KiB and two messages at least (it rounds up to whole pages); spinning without its signals, which \
         are used in the blocking case; batches of 32"
    }

    fn waits(task: Task) -> Waits {
        match task {
            Task::RoundTrip { asleep: true, .. } => Waits::Blocks,
            _ => Waits::Spins,
        }
    }

    fn refuses(task: Task) -> Option<&'static str> {
        match task {
            Task::FanOut { .. } => Some("one receiver a ring"),
            Task::Services { .. } => Some("no services: the user passes descriptors"),
            _ => None,
        }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<AnySize> {
        AnySize::parent(run, launch)
    }

    fn peer(run: &Run, offer: &str) -> Result<AnySize> {
        AnySize::peer(run, offer)
    }

    fn cold_start(_: &Run, _: &str, round: u64) -> Result<Keep> {
        let sender = Sender::<[u64; 8]>::new(MANY).map_err(rival)?;
        let duplicate = |file: &File| file.try_clone().map_err(Failure::from);
        let receiver = Receiver::<[u64; 8]>::open(
            MANY,
            duplicate(sender.memfd().as_file())?,
            duplicate(sender.empty_signal())?,
            duplicate(sender.full_signal())?,
        )
        .map_err(rival)?;
        let mut ends = Ends { sender, receiver, asleep: true };
        ends.send_numbered(SMALL, Part::Small, round, 0)?;
        let found = ends.receive_small()?.number;
        if found != round {
            return Err(Failure::Mixed { expected: round, found });
        }
        Ok(Box::new(ends))
    }
}

/// Lets the peer inherit the descriptor.
fn bequeath(file: &File) -> Result<RawFd> {
    fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(rival)?;
    Ok(file.as_raw_fd())
}

fn inherit(descriptor: RawFd) -> File {
    // SAFETY: the parent has left this descriptor open for this process, which takes it once and nowhere
    // else.
    unsafe { File::from_raw_fd(descriptor) }
}

/// Both rings of one process; an element is a message of that many words.
struct Ends<const WORDS: usize> {
    sender: Sender<[u64; WORDS]>,
    receiver: Receiver<[u64; WORDS]>,
    asleep: bool,
}

/// `count` elements, to be written.
///
/// # Safety
/// The ring has lent that many.
#[inline(always)]
unsafe fn lent_mut<'ring, const WORDS: usize>(start: *mut [u64; WORDS], count: usize) -> &'ring mut [u8] {
    // SAFETY: in bounds, aligned, alive and exclusive while the ring's closure runs: it lends them;
    // initialised, since the kernel gives zeroed memory and every pattern of bits is a byte.
    unsafe { std::slice::from_raw_parts_mut(start.cast(), count * WORDS * 8) }
}

/// `count` elements, to be read.
///
/// # Safety
/// The ring has lent that many.
#[inline(always)]
unsafe fn lent<'ring, const WORDS: usize>(start: *const [u64; WORDS], count: usize) -> &'ring [u8] {
    // SAFETY: as for `lent_mut`; the sender writes them again only after the closure has returned.
    unsafe { std::slice::from_raw_parts(start.cast(), count * WORDS * 8) }
}

impl<const WORDS: usize> Ends<WORDS> {
    fn capacity() -> usize {
        if WORDS == 8 { MANY } else { (LARGE_BYTES / (8 * WORDS)).clamp(2, MANY) }
    }

    fn parent(run: &Run, launch: &mut dyn Launch) -> Result<Self> {
        let sender = Sender::new(Self::capacity()).map_err(rival)?;
        let receiver = Receiver::new(Self::capacity()).map_err(rival)?;
        let offered = [
            bequeath(sender.memfd().as_file())?,
            bequeath(sender.empty_signal())?,
            bequeath(sender.full_signal())?,
            bequeath(receiver.memfd().as_file())?,
            bequeath(receiver.empty_signal())?,
            bequeath(receiver.full_signal())?,
        ];
        launch.launch(&offered.map(|descriptor| descriptor.to_string()).join(","))?;
        Ok(Ends { sender, receiver, asleep: asleep(run.task) })
    }

    fn peer(run: &Run, offer: &str) -> Result<Self> {
        let offered: Vec<RawFd> =
            offer.split(',').map(str::parse).collect::<std::result::Result<_, _>>().map_err(rival)?;
        let &[memory, empty, full, my_memory, my_empty, my_full] = &offered[..] else {
            return Err(rival("six descriptors were expected"));
        };
        let receiver = Receiver::open(Self::capacity(), inherit(memory), inherit(empty), inherit(full))
            .map_err(rival)?;
        let sender = Sender::open(Self::capacity(), inherit(my_memory), inherit(my_empty), inherit(my_full))
            .map_err(rival)?;
        Ok(Ends { sender, receiver, asleep: asleep(run.task) })
    }

    /// Waits for room and hands it to `write`, which says how many elements it has written.
    #[inline(always)]
    fn put(&mut self, mut write: impl FnMut(*mut [u64; WORDS], usize) -> usize) -> Result<()> {
        spin_for(
            || {
                let mut written = 0;
                let look = |start: *mut [u64; WORDS], room: usize| {
                    written = write(start, room);
                    written
                };
                if self.asleep {
                    self.sender.send_raw(look).map_err(rival)?;
                } else {
                    self.sender.sender_mut().send(look).map_err(rival)?;
                }
                Ok((written > 0).then_some(()))
            },
            "room in the ring",
        )
    }

    /// Waits for messages and hands them to `take`, which says how many it has read.
    #[inline(always)]
    fn get(&mut self, mut take: impl FnMut(*const [u64; WORDS], usize) -> usize) -> Result<()> {
        spin_for(
            || {
                let mut taken = 0;
                let look = |start: *const [u64; WORDS], there: usize| {
                    taken = take(start, there);
                    taken
                };
                if self.asleep {
                    self.receiver.block_until_readable().map_err(rival)?;
                    self.receiver.receive_raw(look).map_err(rival)?;
                } else {
                    self.receiver.receiver_mut().recv(look).map_err(rival)?;
                }
                Ok((taken > 0).then_some(()))
            },
            "a message",
        )
    }
}

fn asleep(task: Task) -> bool {
    matches!(task, Task::RoundTrip { asleep: true, .. })
}

impl<const WORDS: usize> Link for Ends<WORDS> {
    #[inline(always)]
    fn send(&mut self, _: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut fill = Some(fill);
        self.put(|start, _| {
            if let Some(fill) = fill.take() {
                // SAFETY: the closure is called only when there is room for one at least.
                fill(unsafe { lent_mut(start, 1) });
            }
            1
        })
    }

    #[inline(always)]
    fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let mut read = Some(read);
        let mut found = None;
        self.get(|start, _| {
            // SAFETY: the closure is called only when there is one message at least.
            found = read.take().map(|read| read(unsafe { lent(start, 1) }));
            1
        })?;
        found.ok_or_else(|| rival("the ring said that there is a message and lent none"))
    }

    fn batch(&self) -> Option<u64> {
        Some(BATCH as u64)
    }

    /// In two parts where the ring ends.
    #[inline(always)]
    fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
        let end = first + BATCH as u64;
        let mut next = first;
        while next < end {
            self.put(|start, room| {
                let count = room.min((end - next) as usize);
                // SAFETY: `room` elements are lent, and `count` are not more.
                for place in unsafe { lent_mut(start, count) }.chunks_exact_mut(SMALL) {
                    fill(place, Part::Small, next, if next + 1 == end { mark } else { 0 });
                    next += 1;
                }
                count
            })?;
        }
        Ok(())
    }

    #[inline(always)]
    fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let mut outcome = Ok(());
        self.get(|start, there| {
            // SAFETY: `there` elements are lent.
            let places = unsafe { lent(start, there) };
            outcome = places.chunks_exact(SMALL).try_for_each(|place| take(read(place, Part::Small)));
            there
        })?;
        outcome
    }
}

/// The sizes of the course, each with its type of element: a ring holds no whole number of smaller elements,
/// so a message of several would be torn apart at its end.
macro_rules! sizes {
    ($($variant:ident $bytes:literal)*) => {
        enum AnySize {
            $($variant(Ends<{ $bytes / 8 }>)),*
        }

        impl AnySize {
            fn parent(run: &Run, launch: &mut dyn Launch) -> Result<AnySize> {
                match run.task.bytes() {
                    $($bytes => Ok(AnySize::$variant(Ends::parent(run, launch)?)),)*
                    _ => Err(Failure::NotOffered("no element type of this length was compiled in")),
                }
            }

            fn peer(run: &Run, offer: &str) -> Result<AnySize> {
                match run.task.bytes() {
                    $($bytes => Ok(AnySize::$variant(Ends::peer(run, offer)?)),)*
                    _ => Err(Failure::NotOffered("no element type of this length was compiled in")),
                }
            }
        }

        impl Link for AnySize {
            #[inline(always)]
            fn send(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
                match self {
                    $(AnySize::$variant(ends) => ends.send(bytes, fill)),*
                }
            }

            #[inline(always)]
            fn receive<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
                match self {
                    $(AnySize::$variant(ends) => ends.receive(read)),*
                }
            }

            fn batch(&self) -> Option<u64> {
                Some(BATCH as u64)
            }

            #[inline(always)]
            fn send_batch(&mut self, first: u64, mark: u64) -> Result<()> {
                match self {
                    AnySize::Small(ends) => ends.send_batch(first, mark),
                    _ => Err(Failure::NotOffered("batches are of small messages")),
                }
            }

            #[inline(always)]
            fn receive_batch(&mut self, take: &mut impl FnMut(Seen) -> Result<()>) -> Result<()> {
                match self {
                    AnySize::Small(ends) => ends.receive_batch(take),
                    _ => Err(Failure::NotOffered("batches are of small messages")),
                }
            }
        }
    };
}

sizes! { Small 64 B256 256 K1 1_024 K4 4_096 K16 16_384 K64 65_536 K256 262_144 M1 1_048_576 }

fn main() -> std::process::ExitCode {
    program(&[Entry::of::<ShmemIpc>()])
}
