//! The `frames` node: subscribes to `machine/**`, draws what it hears, and publishes the picture as
//! `frames/screen`.
//!
//! A frame is 1920 x 1080 pixels of RGB, 6,220,800 bytes, drawn straight into the shared memory of a loan: no
//! copy of it exists anywhere. Three things in it let a receiver prove that it holds exactly one whole frame:
//!
//! ```text
//! +--------+-----------------------------------------------------+---+
//! | header | ...                                                 | m |   row 0; the header covers 16 pixels
//! +--------+-----------------------------------------------------+---+
//! | row 1                                                        | m |   m: one pixel that carries the low 24 bits of
//! |  ...                                                         | m |      the sequence number, in every row
//! +--------------------------------------------------------------+---+
//!
//! header: magic | width, height | sequence | sent_ns | checksum        48 bytes, little-endian
//! ```
//!
//! The checksum covers the header's other fields and every [`LINES_PER_SUM`]th row; the marks cover every
//! row, so a frame that is half of one and half of another is found wherever the seam lies.
//!
//! If the process is killed while it draws, the frame was never committed and nobody sees it.

use std::time::Duration;

use hivemind::{Message, Node, Subscriber};
use xxhash_rust::xxh3::xxh3_64;

use super::accounts::{accounts, end_of, lost_of};
use super::canvas::PIXEL_BYTES;
use super::child::{Child, ChildError, REPORT_EVERY_MS};
use super::clock::monotonic_ns;
use super::picture::{FRAME_BYTES, HEIGHT, Moment, Picture, WIDTH};
use super::report::{Account, End, Report, Said};
use super::samples::{
    ArchivedCpuShare, CpuSample, Digest, DiskSample, LoadSample, MemorySample, NetSample, Verified, Verify,
};
use super::tally::{Heard, Tally};

/// The service that carries the frames.
pub(crate) const SERVICE: &str = "frames/screen";
/// Frames per second.
pub(crate) const FRAMES_PER_SECOND: u64 = 30;

const FRAME_NS: u64 = 1_000_000_000 / FRAMES_PER_SECOND;
/// A node that was held up for longer skips the frames that it missed.
const MAX_BEHIND_NS: u64 = 3 * FRAME_NS;
/// Places in the ring. Each holds a frame of 6 MB, so there are few.
const CAPACITY: u64 = 8;
/// Frames in the ring, one that is drawn, those that subscribers hold, and room to move: about 20 frames.
const MAX_MEMORY_BYTES: u64 = 128 << 20;
/// At most so many messages of one subscription are read for one frame; the rest is read for the next.
const MAX_MESSAGES_PER_FRAME: usize = 20_000;

const MAGIC: u64 = u64::from_le_bytes(*b"HIVEFRAM");
const HEADER_BYTES: usize = 48;
const ROW_BYTES: usize = WIDTH * PIXEL_BYTES;
/// One row of so many is part of the checksum.
const LINES_PER_SUM: usize = 36;

/// Marks a frame as complete. Nothing may be drawn after this.
pub(crate) fn seal(pixels: &mut [u8], sequence: u64, sent_ns: u64) {
    let mark = sequence.to_le_bytes();
    for row in pixels.chunks_exact_mut(ROW_BYTES) {
        row[ROW_BYTES - PIXEL_BYTES..].copy_from_slice(&mark[..PIXEL_BYTES]);
    }
    let checksum = sum(pixels, sequence, sent_ns);
    let size = (WIDTH as u64) << 32 | HEIGHT as u64;
    for (place, word) in [MAGIC, size, sequence, sent_ns, checksum, 0].into_iter().enumerate() {
        pixels[place * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
}

/// Checks a received frame where it lies; `None` if it is no frame at all.
pub(crate) fn verify(pixels: &[u8]) -> Option<Verified> {
    if pixels.len() != FRAME_BYTES {
        return None;
    }
    let word = |place: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&pixels[place * 8..][..8]);
        u64::from_le_bytes(bytes)
    };
    let (sequence, sent_ns, checksum) = (word(2), word(3), word(4));
    if word(0) != MAGIC || word(1) != (WIDTH as u64) << 32 | HEIGHT as u64 {
        return None;
    }
    let mark = sequence.to_le_bytes();
    let marked =
        pixels.chunks_exact(ROW_BYTES).all(|row| row[ROW_BYTES - PIXEL_BYTES..] == mark[..PIXEL_BYTES]);
    Some(Verified { sequence, sent_ns, whole: marked && checksum == sum(pixels, sequence, sent_ns) })
}

fn sum(pixels: &[u8], sequence: u64, sent_ns: u64) -> u64 {
    let mut digest = Digest::new();
    digest.add(sequence);
    digest.add(sent_ns);
    digest.add(xxh3_64(&pixels[HEADER_BYTES..ROW_BYTES]));
    for row in pixels.chunks_exact(ROW_BYTES).skip(LINES_PER_SUM).step_by(LINES_PER_SUM) {
        digest.add(xxh3_64(row));
    }
    digest.sum()
}

/// What the node hears, and the newest of each.
struct Ears {
    cpu: Subscriber<CpuSample>,
    memory: Subscriber<MemorySample>,
    load: Subscriber<LoadSample>,
    disks: Subscriber<DiskSample>,
    nets: Subscriber<NetSample>,
    tally: Tally,
    now: Moment,
    /// Rates per device; their sums are drawn.
    disk_rates: Vec<(End, [f64; 2])>,
    net_rates: Vec<(End, [f64; 2])>,
}

impl Ears {
    fn open(node: &Node) -> Result<Ears, ChildError> {
        Ok(Ears {
            cpu: node.subscriber("machine/cpu")?,
            memory: node.subscriber("machine/memory")?,
            load: node.subscriber("machine/load")?,
            disks: node.subscriber("machine/disk/*")?,
            nets: node.subscriber("machine/net/*")?,
            tally: Tally::default(),
            now: Moment::default(),
            disk_rates: Vec::new(),
            net_rates: Vec::new(),
        })
    }

    /// Reads all that has come, without waiting.
    fn listen(&mut self) -> Result<(), ChildError> {
        let Ears { cpu, memory, load, disks, nets, tally, now, disk_rates, net_rates } = self;
        let mut messages = 0;
        messages += each(cpu, tally, |_end, sample| {
            let busy = |share: &ArchivedCpuShare| (share.user.to_native(), share.system.to_native());
            (now.cpu_user, now.cpu_system) = busy(&sample.total);
            now.cores.clear();
            now.cores.extend(sample.cores.iter().map(|share| {
                let (user, system) = busy(share);
                user + system
            }));
        })?;
        messages += each(memory, tally, |_end, sample| {
            let (total, available) = (sample.total_bytes.to_native(), sample.available_bytes.to_native());
            now.memory_total_bytes = total;
            now.memory_used_bytes = total.saturating_sub(available);
            now.memory_cached_bytes = sample.cached_bytes.to_native().min(available);
        })?;
        messages += each(load, tally, |_end, sample| {
            now.load = [&sample.one_minute, &sample.five_minutes, &sample.fifteen_minutes]
                .map(|load| load.to_native());
            now.threads = sample.threads.to_native();
        })?;
        messages += each(disks, tally, |end, sample| {
            let rates = [&sample.read_bytes_per_second, &sample.written_bytes_per_second];
            remember(disk_rates, end, rates.map(|rate| rate.to_native()));
        })?;
        messages += each(nets, tally, |end, sample| {
            let rates = [&sample.received_bytes_per_second, &sample.sent_bytes_per_second];
            remember(net_rates, end, rates.map(|rate| rate.to_native()));
        })?;
        now.messages += messages;
        let total = |rates: &[(End, [f64; 2])], place: usize| rates.iter().map(|(_, rate)| rate[place]).sum();
        now.read_bytes_per_second = total(disk_rates, 0);
        now.written_bytes_per_second = total(disk_rates, 1);
        now.received_bytes_per_second = total(net_rates, 0);
        now.sent_bytes_per_second = total(net_rates, 1);
        Ok(())
    }

    fn report(&mut self) -> Report {
        let Ears { cpu, memory, load, disks, nets, tally, .. } = self;
        let windows = tally.take_windows(|end| {
            lost_of(cpu, end)
                + lost_of(memory, end)
                + lost_of(load, end)
                + lost_of(disks, end)
                + lost_of(nets, end)
        });
        Report::Heard { windows }
    }

    fn accounts(&self) -> Vec<Account> {
        let mut all = accounts(&self.cpu.connections(), &self.tally);
        all.extend(accounts(&self.memory.connections(), &self.tally));
        all.extend(accounts(&self.load.connections(), &self.tally));
        all.extend(accounts(&self.disks.connections(), &self.tally));
        all.extend(accounts(&self.nets.connections(), &self.tally));
        all
    }
}

/// Hands every message that waits to `take` and counts it. Returns how many there were.
fn each<T: Message<Read: Verify>>(
    subscriber: &mut Subscriber<T>,
    tally: &mut Tally,
    mut take: impl FnMut(End, &T::Read),
) -> Result<u64, ChildError> {
    for count in 0..MAX_MESSAGES_PER_FRAME {
        let Some(sample) = subscriber.try_recv()? else { return Ok(count as u64) };
        let (end, archived) = (end_of(sample.publisher()), &*sample);
        let heard = Heard {
            sequence: sample.sequence(),
            verified: Some(archived.verify()),
            bytes: size_of_val(archived),
            arrived_ns: monotonic_ns(),
        };
        tally.count(end, sample.service().as_str(), heard);
        take(end, archived);
    }
    Ok(MAX_MESSAGES_PER_FRAME as u64)
}

fn remember(rates: &mut Vec<(End, [f64; 2])>, end: End, rate: [f64; 2]) {
    match rates.iter_mut().find(|(known, _)| *known == end) {
        Some((_, known)) => *known = rate,
        None => rates.push((end, rate)),
    }
}

/// Runs the node until the parent says stop, then leave.
pub(crate) fn run(child: &Child) -> Result<(), ChildError> {
    let mut picture = Picture::new();
    let node = child.join("frames")?;
    let mut ears = Ears::open(&node)?;
    let mut frames = node
        .publisher_builder::<[u8]>(SERVICE)
        .capacity(CAPACITY)
        .max_message(FRAME_BYTES as u64)
        .max_memory(MAX_MEMORY_BYTES)
        .create()?;
    child.report(&Report::Joined)?;

    let mut sequence = 0;
    let mut next_frame_ns = monotonic_ns();
    let mut next_report_ns = next_frame_ns;
    while !child.is_stopped() {
        ears.listen()?;
        picture.push(&ears.now);
        let mut loan = frames.loan(FRAME_BYTES)?;
        picture.draw(&mut loan, sequence);
        seal(&mut loan, sequence, monotonic_ns());
        loan.send();
        sequence += 1;

        let now_ns = monotonic_ns();
        if now_ns >= next_report_ns {
            child.report(&ears.report())?;
            next_report_ns = now_ns + REPORT_EVERY_MS * 1_000_000;
        }
        next_frame_ns += FRAME_NS;
        if now_ns > next_frame_ns + MAX_BEHIND_NS {
            next_frame_ns = now_ns;
        }
        std::thread::sleep(Duration::from_nanos(next_frame_ns.saturating_sub(now_ns)));
    }

    // The `machine` node stopped before this one was told to: what is there now is all there is.
    let mut before = u64::MAX;
    while ears.now.messages != before {
        before = ears.now.messages;
        ears.listen()?;
    }
    let said = Said { service: SERVICE.to_owned(), published: sequence, refused: 0 };
    child.report(&Report::Stopped { services: vec![said] })?;
    child.report(&Report::Drained { accounts: ears.accounts() })?;
    child.wait_for_leave();
    node.leave();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u64) -> Vec<u8> {
        let mut pixels = vec![0; FRAME_BYTES];
        let mut picture = Picture::new();
        picture.push(&Moment { cores: vec![0.5; 2], cpu_user: 0.5, ..Moment::default() });
        picture.draw(&mut pixels, sequence);
        seal(&mut pixels, sequence, 77);
        pixels
    }

    #[test]
    fn a_sealed_frame_verifies() {
        assert_eq!(verify(&frame(5)), Some(Verified { sequence: 5, sent_ns: 77, whole: true }));
    }

    #[test]
    fn a_frame_that_is_half_another_is_not_whole_wherever_the_seam_lies() {
        let (old, new) = (frame(5), frame(6));
        for row in [1, 2, HEIGHT / 2, HEIGHT - 1] {
            let mut torn = new.clone();
            torn[row * ROW_BYTES..].copy_from_slice(&old[row * ROW_BYTES..]);
            assert!(!verify(&torn).unwrap().whole, "a seam at row {row}");
        }
    }

    #[test]
    fn a_header_of_another_frame_is_found() {
        let (old, mut torn) = (frame(5), frame(6));
        torn[..HEADER_BYTES].copy_from_slice(&old[..HEADER_BYTES]);
        assert!(!verify(&torn).unwrap().whole);
    }

    #[test]
    fn what_is_no_frame_is_not_taken_for_one() {
        assert_eq!(verify(&[]), None);
        assert_eq!(verify(&vec![0; FRAME_BYTES]), None);
    }
}
