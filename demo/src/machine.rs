//! The `machine` node: samples this machine's `/proc` and publishes what it reads at a high rate.
//!
//! | service            | type           | kind     |
//! | ------------------ | -------------- | -------- |
//! | `machine/cpu`      | `CpuSample`    | reliable |
//! | `machine/memory`   | `MemorySample` | lossy    |
//! | `machine/load`     | `LoadSample`   | lossy    |
//! | `machine/disk/NAME`| `DiskSample`   | lossy    |
//! | `machine/net/NAME` | `NetSample`    | lossy    |
//!
//! `/proc` is read [`READS_PER_SECOND`] times a second. Between two reads the newest sample is sent again and
//! again, each time with a new stamp, so that the hive carries some [`MESSAGES_PER_SECOND`] messages whatever
//! the number of devices. That is many for a monitor and few for hivemind: the demo shares two cores with
//! everything else.

use std::path::Path;
use std::time::Duration;

use hivemind::{Message, Node, Publisher, SendError};

use super::child::{Child, ChildError};
use super::clock::monotonic_ns;
use super::proc::{Counters, CpuTicks, Disk, Interface, ProcError, ProcReader};
use super::report::{Report, Said};
use super::samples::{CpuSample, CpuShare, DiskSample, LoadSample, MemorySample, NetSample, Seal};

/// How often `/proc` is read.
pub(crate) const READS_PER_SECOND: u64 = 100;
/// Sent per second over all services, about.
pub(crate) const MESSAGES_PER_SECOND: u64 = 20_000;
/// The node wakes up so many times a second and sends a share of the messages each time.
const TICKS_PER_SECOND: u64 = 1_000;
const TICK_NS: u64 = 1_000_000_000 / TICKS_PER_SECOND;
const READ_NS: u64 = 1_000_000_000 / READS_PER_SECOND;
/// A node that was held up for longer skips the ticks that it missed.
const MAX_BEHIND_NS: u64 = 20 * TICK_NS;
/// Places in each ring: more than a second of messages, so that a subscriber may be held up for as long.
const CAPACITY: u64 = 8_192;
/// At most so many disks and as many network interfaces become services.
const MAX_DEVICES: usize = 4;
/// Shares and rates are taken over at least this time and at most twice of it.
const RATE_WINDOW_NS: u64 = 250_000_000;

/// The counters of one moment that rates are computed from.
#[derive(Debug, Clone, Default)]
struct Mark {
    taken_ns: u64,
    total: CpuTicks,
    cores: Vec<CpuTicks>,
    disks: Vec<[u64; 2]>,
    interfaces: Vec<[u64; 2]>,
}

impl Mark {
    fn set(&mut self, counters: &Counters, taken_ns: u64) {
        self.taken_ns = taken_ns;
        self.total = counters.total;
        self.cores.clone_from(&counters.cores);
        self.disks.clear();
        self.disks.extend(counters.disks.iter().map(|disk| [disk.read_bytes, disk.written_bytes]));
        self.interfaces.clear();
        self.interfaces.extend(counters.interfaces.iter().map(|net| [net.received_bytes, net.sent_bytes]));
    }
}

/// The newest samples of this machine.
#[derive(Debug)]
pub(crate) struct Machine {
    reader: ProcReader,
    counters: Counters,
    /// Rates are differences to `older`; once `newer` is a window old it takes its place.
    older: Mark,
    newer: Mark,
    taken_ns: u64,
    cpu: CpuSample,
    memory: MemorySample,
    load: LoadSample,
    /// With the place of each device in the counters.
    disks: Vec<(usize, DiskSample)>,
    nets: Vec<(usize, NetSample)>,
}

impl Machine {
    /// Opens `/proc` and takes the first samples. Devices that come later are not seen.
    pub(crate) fn open(proc: &Path, now_ns: u64) -> Result<Machine, ProcError> {
        let mut reader = ProcReader::open(proc)?;
        let mut counters = Counters::default();
        reader.read(&mut counters)?;
        let mut mark = Mark::default();
        mark.set(&counters, now_ns);
        let disks = worthy(&counters.disks, Disk::is_worthy)
            .map(|(place, disk)| (place, DiskSample { device: disk.device.clone(), ..DiskSample::default() }))
            .collect();
        let nets = worthy(&counters.interfaces, Interface::is_worthy)
            .map(|(place, net)| (place, NetSample { interface: net.name.clone(), ..NetSample::default() }))
            .collect();
        let mut machine = Machine {
            reader,
            counters,
            older: mark.clone(),
            newer: mark,
            taken_ns: now_ns,
            cpu: CpuSample::default(),
            memory: MemorySample::default(),
            load: LoadSample::default(),
            disks,
            nets,
        };
        machine.fill();
        Ok(machine)
    }

    /// Reads `/proc` again. Allocates nothing unless a core or device came.
    pub(crate) fn refresh(&mut self, now_ns: u64) -> Result<(), ProcError> {
        self.reader.read(&mut self.counters)?;
        self.taken_ns = now_ns;
        if now_ns.saturating_sub(self.newer.taken_ns) >= RATE_WINDOW_NS {
            std::mem::swap(&mut self.older, &mut self.newer);
            self.newer.set(&self.counters, now_ns);
        }
        self.fill();
        Ok(())
    }

    fn fill(&mut self) {
        let Machine { counters, older, cpu, memory, load, .. } = self;
        if let Some(total) = share(counters.total, older.total) {
            cpu.total = total;
        }
        cpu.cores.resize(counters.cores.len(), CpuShare::default());
        for (index, (core, &ticks)) in cpu.cores.iter_mut().zip(&counters.cores).enumerate() {
            if let Some(share) = share(ticks, older.cores.get(index).copied().unwrap_or(ticks)) {
                *core = share;
            }
        }
        cpu.context_switches = counters.context_switches;
        cpu.processes_started = counters.processes_started;

        let now = &counters.memory;
        memory.total_bytes = now.total_bytes;
        memory.free_bytes = now.free_bytes;
        memory.available_bytes = now.available_bytes;
        memory.cached_bytes = now.cached_bytes;
        memory.shared_bytes = now.shared_bytes;
        memory.swap_total_bytes = now.swap_total_bytes;
        memory.swap_free_bytes = now.swap_free_bytes;

        load.one_minute = counters.load.one_minute;
        load.five_minutes = counters.load.five_minutes;
        load.fifteen_minutes = counters.load.fifteen_minutes;
        load.runnable = counters.load.runnable;
        load.threads = counters.load.threads;

        let seconds = self.taken_ns.saturating_sub(older.taken_ns) as f64 / 1e9;
        let rates = |now: [u64; 2], then: Option<&[u64; 2]>| match then {
            Some(then) if seconds > 0.0 => {
                [0, 1].map(|index| now[index].saturating_sub(then[index]) as f64 / seconds)
            }
            _ => [0.0; 2],
        };
        for (place, sample) in &mut self.disks {
            let disk = &counters.disks[*place];
            sample.reads = disk.reads;
            sample.read_bytes = disk.read_bytes;
            sample.writes = disk.writes;
            sample.written_bytes = disk.written_bytes;
            sample.in_flight = disk.in_flight;
            sample.busy_ms = disk.busy_ms;
            [sample.read_bytes_per_second, sample.written_bytes_per_second] =
                rates([disk.read_bytes, disk.written_bytes], older.disks.get(*place));
        }
        for (place, sample) in &mut self.nets {
            let net = &counters.interfaces[*place];
            sample.received_bytes = net.received_bytes;
            sample.received_packets = net.received_packets;
            sample.sent_bytes = net.sent_bytes;
            sample.sent_packets = net.sent_packets;
            sample.errors = net.errors;
            sample.dropped = net.dropped;
            [sample.received_bytes_per_second, sample.sent_bytes_per_second] =
                rates([net.received_bytes, net.sent_bytes], older.interfaces.get(*place));
        }
    }
}

impl Disk {
    /// A disk that was ever used, and no image that is mounted as one.
    fn is_worthy(&self) -> bool {
        let image = ["loop", "ram"].iter().any(|prefix| self.device.starts_with(prefix));
        !image && self.reads + self.writes > 0
    }
}

impl Interface {
    fn is_worthy(&self) -> bool {
        self.received_packets + self.sent_packets > 0
    }
}

/// The first devices that are worth a service, with their places.
fn worthy<T>(devices: &[T], is_worthy: fn(&T) -> bool) -> impl Iterator<Item = (usize, &T)> {
    devices.iter().enumerate().filter(move |(_place, device)| is_worthy(device)).take(MAX_DEVICES)
}

/// What the ticks between two moments were spent on; `None` if there were none.
fn share(now: CpuTicks, then: CpuTicks) -> Option<CpuShare> {
    let all = now.sum().saturating_sub(then.sum());
    let part = |now: u64, then: u64| now.saturating_sub(then) as f32 / all as f32;
    (all > 0).then(|| CpuShare {
        user: part(now.user, then.user),
        system: part(now.system, then.system),
        wait: part(now.wait, then.wait),
        stolen: part(now.stolen, then.stolen),
    })
}

/// One level of a service name, made of a device's name: whatever a level may not hold becomes `_`.
fn level(device: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    device.chars().map(|character| if allowed(character) { character } else { '_' }).collect()
}

/// A publisher with its own count.
struct Stream<T: Message> {
    publisher: Publisher<T>,
    said: Said,
}

impl<T: Seal + Message> Stream<T> {
    fn open(node: &Node, service: &str, reliable: bool) -> Result<Stream<T>, ChildError> {
        let builder = node.publisher_builder::<T>(service).capacity(CAPACITY);
        let builder = if reliable { builder.reliable() } else { builder };
        let said = Said { service: service.to_owned(), published: 0, refused: 0 };
        Ok(Stream { publisher: builder.create()?, said })
    }

    /// Stamps the sample and sends it. A reliable service that is full refuses it; the next one tries again.
    fn send(&mut self, sample: &mut T, taken_ns: u64) -> Result<(), ChildError> {
        sample.seal(self.said.published, monotonic_ns(), taken_ns);
        match self.publisher.send(sample) {
            Ok(_reached) => self.said.published += 1,
            Err(SendError::Full { .. }) => self.said.refused += 1,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// All services of the node.
struct Streams {
    cpu: Stream<CpuSample>,
    memory: Stream<MemorySample>,
    load: Stream<LoadSample>,
    disks: Vec<Stream<DiskSample>>,
    nets: Vec<Stream<NetSample>>,
}

impl Streams {
    fn open(node: &Node, machine: &Machine) -> Result<Streams, ChildError> {
        let disk = |(_, sample): &(usize, DiskSample)| {
            Stream::open(node, &format!("machine/disk/{}", level(&sample.device)), false)
        };
        let net = |(_, sample): &(usize, NetSample)| {
            Stream::open(node, &format!("machine/net/{}", level(&sample.interface)), false)
        };
        Ok(Streams {
            cpu: Stream::open(node, "machine/cpu", true)?,
            memory: Stream::open(node, "machine/memory", false)?,
            load: Stream::open(node, "machine/load", false)?,
            disks: machine.disks.iter().map(disk).collect::<Result<_, _>>()?,
            nets: machine.nets.iter().map(net).collect::<Result<_, _>>()?,
        })
    }

    fn count(&self) -> usize {
        3 + self.disks.len() + self.nets.len()
    }

    /// Sends every sample once.
    fn send_all(&mut self, machine: &mut Machine) -> Result<(), ChildError> {
        let taken_ns = machine.taken_ns;
        self.cpu.send(&mut machine.cpu, taken_ns)?;
        self.memory.send(&mut machine.memory, taken_ns)?;
        self.load.send(&mut machine.load, taken_ns)?;
        for (stream, (_, sample)) in self.disks.iter_mut().zip(&mut machine.disks) {
            stream.send(sample, taken_ns)?;
        }
        for (stream, (_, sample)) in self.nets.iter_mut().zip(&mut machine.nets) {
            stream.send(sample, taken_ns)?;
        }
        Ok(())
    }

    fn said(&self) -> Vec<Said> {
        let mut said = vec![self.cpu.said.clone(), self.memory.said.clone(), self.load.said.clone()];
        said.extend(self.disks.iter().map(|stream| stream.said.clone()));
        said.extend(self.nets.iter().map(|stream| stream.said.clone()));
        said
    }
}

/// Runs the node until the parent says stop, then leave.
pub(crate) fn run(child: &Child) -> Result<(), ChildError> {
    let mut machine = Machine::open(Path::new("/proc"), monotonic_ns())?;
    let node = child.join("machine")?;
    let mut streams = Streams::open(&node, &machine)?;
    child.report(&Report::Joined)?;

    let rounds = (MESSAGES_PER_SECOND / TICKS_PER_SECOND / streams.count() as u64).max(1);
    let mut next_tick_ns = monotonic_ns();
    let mut next_read_ns = next_tick_ns;
    while !child.is_stopped() {
        let now_ns = monotonic_ns();
        if now_ns >= next_read_ns {
            machine.refresh(now_ns)?;
            next_read_ns = now_ns + READ_NS;
        }
        for _ in 0..rounds {
            streams.send_all(&mut machine)?;
        }
        next_tick_ns += TICK_NS;
        let now_ns = monotonic_ns();
        if now_ns > next_tick_ns + MAX_BEHIND_NS {
            next_tick_ns = now_ns;
        }
        std::thread::sleep(Duration::from_nanos(next_tick_ns.saturating_sub(now_ns)));
    }

    child.report(&Report::Stopped { services: streams.said() })?;
    child.wait_for_leave();
    node.leave();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(user: u64, idle: u64) -> CpuTicks {
        CpuTicks { user, idle, ..CpuTicks::default() }
    }

    #[test]
    fn shares_are_of_the_time_between_two_moments() {
        let share = share(ticks(150, 350), ticks(100, 200)).unwrap();
        assert_eq!((share.user, share.system), (0.25, 0.0));
        assert!(super::share(ticks(1, 1), ticks(1, 1)).is_none());
    }

    #[test]
    fn names_of_devices_become_levels_of_service_names() {
        assert_eq!(level("eth0"), "eth0");
        assert_eq!(level("eth0.100"), "eth0.100");
        assert_eq!(level("veth1@if2/ü"), "veth1_if2__");
    }

    #[test]
    fn rates_follow_the_counters_of_a_made_up_machine() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let set = |user: u64, sectors: u64, bytes: u64| {
            write("stat", format!("cpu {user} 0 0 100\ncpu0 {user} 0 0 100\n"));
            write("meminfo", "MemTotal: 1 kB\n".into());
            write(
                "diskstats",
                format!("8 0 sda 1 0 {sectors} 0 1 0 0 0 0 0 0\n7 0 loop0 1 0 1 0 1 0 0 0 0 0 0\n"),
            );
            write("net/dev", format!("lo: 0 0 0 0 0 0 0 0 {bytes} 1 0 0 0 0 0 0\n"));
        };
        set(0, 0, 0);
        let mut machine = Machine::open(folder.path(), 0).unwrap();
        assert_eq!((machine.disks.len(), machine.nets.len()), (1, 1), "loop0 is no disk");
        // One second later: all of the time was spent in user mode, 1 MiB read, 4,000 bytes sent.
        set(100, 2048, 4000);
        machine.refresh(1_000_000_000).unwrap();
        assert_eq!(machine.cpu.cores[0].user, 1.0);
        assert_eq!(machine.disks[0].1.read_bytes_per_second, 1_048_576.0);
        assert_eq!(machine.nets[0].1.sent_bytes_per_second, 4000.0);
    }
}
