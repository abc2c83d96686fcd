//! Reads the counters of this machine from `/proc`, fast enough for hundreds of times a second.
//!
//! Each file stays open and is read again from its start with `pread` into one buffer that is reused; the
//! lines are parsed where they lie. Once the first round has sized the buffers, a round allocates nothing.
//!
//! Everything here is text from the kernel: a line that does not look as expected is skipped, never trusted.
//! A file that does not exist (some containers hide `diskstats`) leaves its counters empty.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The buffer starts with so many bytes; `/proc/stat` of two cores needs about one thousand.
const FIRST_BUFFER_BYTES: usize = 16 * 1024;
/// No file of `/proc` that is read here is longer on any machine we know of (`/proc/stat` of 1,024 cores: 300
/// KiB).
const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// `/proc/diskstats` counts sectors of this size, whatever the device uses.
const SECTOR_BYTES: u64 = 512;

/// Why `/proc` gave no sample.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcError {
    /// The file cannot be opened or read. The demo needs a mounted `/proc`; mount it, or run outside the
    /// sandbox.
    #[error("cannot read {path}: {source}; the demo needs a mounted /proc", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is longer than the bound that this program sets. Please report the length.
    #[error("{path} is longer than {MAX_FILE_BYTES} bytes; please report this machine", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

/// One file of `/proc`, held open.
#[derive(Debug)]
struct ProcFile {
    path: PathBuf,
    file: File,
}

impl ProcFile {
    fn open(root: &Path, name: &str) -> Result<ProcFile, ProcError> {
        let path = root.join(name);
        match File::open(&path) {
            Ok(file) => Ok(ProcFile { path, file }),
            Err(source) => Err(ProcError::Unreadable { path, source }),
        }
    }

    /// The whole file as it is now, in `buffer`.
    fn read<'a>(&self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], ProcError> {
        let mut length = 0;
        loop {
            if length == buffer.len() {
                if length >= MAX_FILE_BYTES {
                    return Err(ProcError::TooLong { path: self.path.clone() });
                }
                buffer.resize((length * 2).max(FIRST_BUFFER_BYTES), 0);
            }
            match self.file.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => return Ok(&buffer[..length]),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ProcError::Unreadable { path: self.path.clone(), source }),
            }
        }
    }
}

/// Time that one core, or all together, spent, in ticks since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    pub(crate) user: u64,
    pub(crate) system: u64,
    pub(crate) idle: u64,
    pub(crate) wait: u64,
    pub(crate) stolen: u64,
}

impl CpuTicks {
    /// All ticks, whatever they were spent on.
    pub(crate) fn sum(&self) -> u64 {
        let parts = [self.user, self.system, self.idle, self.wait, self.stolen];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// `/proc/meminfo`, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) cached_bytes: u64,
    pub(crate) shared_bytes: u64,
    pub(crate) swap_total_bytes: u64,
    pub(crate) swap_free_bytes: u64,
}

/// `/proc/loadavg`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    pub(crate) one_minute: f64,
    pub(crate) five_minutes: f64,
    pub(crate) fifteen_minutes: f64,
    pub(crate) runnable: u32,
    pub(crate) threads: u32,
}

/// One line of `/proc/diskstats`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) device: String,
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) in_flight: u64,
    pub(crate) busy_ms: u64,
}

/// One line of `/proc/net/dev`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// All counters of one round. Lists keep the order and the places of `/proc`; a line that vanished keeps its
/// last values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) total: CpuTicks,
    pub(crate) cores: Vec<CpuTicks>,
    pub(crate) context_switches: u64,
    pub(crate) processes_started: u64,
    pub(crate) memory: Memory,
    pub(crate) load: Load,
    pub(crate) disks: Vec<Disk>,
    pub(crate) interfaces: Vec<Interface>,
}

/// The open files and the buffer between them.
#[derive(Debug)]
pub(crate) struct ProcReader {
    stat: ProcFile,
    meminfo: ProcFile,
    loadavg: Option<ProcFile>,
    diskstats: Option<ProcFile>,
    net_dev: Option<ProcFile>,
    buffer: Vec<u8>,
}

impl ProcReader {
    /// Opens the files below `root`, which is `/proc` but in tests.
    pub(crate) fn open(root: &Path) -> Result<ProcReader, ProcError> {
        Ok(ProcReader {
            stat: ProcFile::open(root, "stat")?,
            meminfo: ProcFile::open(root, "meminfo")?,
            loadavg: ProcFile::open(root, "loadavg").ok(),
            diskstats: ProcFile::open(root, "diskstats").ok(),
            net_dev: ProcFile::open(root, "net/dev").ok(),
            buffer: Vec::new(),
        })
    }

    /// Reads all files once into `counters`, whose lists and strings are reused.
    pub(crate) fn read(&mut self, counters: &mut Counters) -> Result<(), ProcError> {
        let buffer = &mut self.buffer;
        parse_stat(self.stat.read(buffer)?, counters);
        parse_meminfo(self.meminfo.read(buffer)?, &mut counters.memory);
        if let Some(file) = &self.loadavg {
            parse_loadavg(file.read(buffer)?, &mut counters.load);
        }
        if let Some(file) = &self.diskstats {
            parse_diskstats(file.read(buffer)?, &mut counters.disks);
        }
        if let Some(file) = &self.net_dev {
            parse_net_dev(file.read(buffer)?, &mut counters.interfaces);
        }
        Ok(())
    }
}

fn parse_stat(text: &[u8], counters: &mut Counters) {
    let mut core = 0;
    for line in lines(text) {
        let mut words = words(line);
        match words.next() {
            Some(b"cpu") => counters.total = ticks(words),
            Some([b'c', b'p', b'u', _digit, ..]) => {
                *place(&mut counters.cores, core) = ticks(words);
                core += 1;
            }
            Some(b"ctxt") => counters.context_switches = number(words.next()),
            Some(b"processes") => counters.processes_started = number(words.next()),
            _ => {}
        }
    }
    // A core that was taken offline has no line any more.
    counters.cores.truncate(core);
}

fn ticks<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> CpuTicks {
    let mut next = || number(words.next());
    let (user, nice, system, idle, wait) = (next(), next(), next(), next(), next());
    let (interrupts, soft_interrupts, stolen) = (next(), next(), next());
    CpuTicks {
        user: user.saturating_add(nice),
        system: system.saturating_add(interrupts).saturating_add(soft_interrupts),
        idle,
        wait,
        stolen,
    }
}

fn parse_meminfo(text: &[u8], memory: &mut Memory) {
    for line in lines(text) {
        let mut words = words(line);
        let Some(key) = words.next() else { continue };
        let field = match key {
            b"MemTotal:" => &mut memory.total_bytes,
            b"MemFree:" => &mut memory.free_bytes,
            b"MemAvailable:" => &mut memory.available_bytes,
            b"Cached:" => &mut memory.cached_bytes,
            b"Shmem:" => &mut memory.shared_bytes,
            b"SwapTotal:" => &mut memory.swap_total_bytes,
            b"SwapFree:" => &mut memory.swap_free_bytes,
            _ => continue,
        };
        *field = number(words.next()).saturating_mul(1024);
    }
}

fn parse_loadavg(text: &[u8], load: &mut Load) {
    let mut words = words(text);
    load.one_minute = decimal(words.next());
    load.five_minutes = decimal(words.next());
    load.fifteen_minutes = decimal(words.next());
    let mut tasks = words.next().unwrap_or_default().split(|&byte| byte == b'/');
    load.runnable = number(tasks.next()) as u32;
    load.threads = number(tasks.next()) as u32;
}

fn parse_diskstats(text: &[u8], disks: &mut Vec<Disk>) {
    let mut index = 0;
    for line in lines(text) {
        let mut words = words(line).skip(2);
        let Some(device) = words.next() else { continue };
        let disk = place(disks, index);
        index += 1;
        rename(&mut disk.device, device);
        let mut next = || number(words.next());
        let (reads, _merged, read_sectors, _read_ms) = (next(), next(), next(), next());
        let (writes, _merged, written_sectors, _write_ms) = (next(), next(), next(), next());
        (disk.reads, disk.writes) = (reads, writes);
        disk.read_bytes = read_sectors.saturating_mul(SECTOR_BYTES);
        disk.written_bytes = written_sectors.saturating_mul(SECTOR_BYTES);
        disk.in_flight = next();
        disk.busy_ms = next();
    }
}

fn parse_net_dev(text: &[u8], interfaces: &mut Vec<Interface>) {
    let mut index = 0;
    for line in lines(text) {
        // Two lines of headings have no colon. The name may touch its first number: "lo:3193".
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = line[..colon].trim_ascii();
        let mut words = words(&line[colon + 1..]);
        let interface = place(interfaces, index);
        index += 1;
        rename(&mut interface.name, name);
        let mut next = || number(words.next());
        let (bytes, packets, errors, dropped) = (next(), next(), next(), next());
        let (_fifo, _frame, _compressed, _multicast) = (next(), next(), next(), next());
        interface.received_bytes = bytes;
        interface.received_packets = packets;
        interface.sent_bytes = next();
        interface.sent_packets = next();
        interface.errors = errors.saturating_add(next());
        interface.dropped = dropped.saturating_add(next());
    }
}

/// The element at `index`, appended when the list ends right before it.
fn place<T: Default>(list: &mut Vec<T>, index: usize) -> &mut T {
    if index == list.len() {
        list.push(T::default());
    }
    &mut list[index]
}

/// Sets `name` without allocating where it stays the same, which is always but when a device comes or goes.
fn rename(name: &mut String, bytes: &[u8]) {
    if name.as_bytes() != bytes {
        name.clear();
        name.push_str(&String::from_utf8_lossy(bytes));
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A whole number; what is missing or no number counts as 0, what is too large as the largest.
fn number(word: Option<&[u8]>) -> u64 {
    let digits = word.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |value: u64, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

/// A number such as `0.75`.
fn decimal(word: Option<&[u8]>) -> f64 {
    word.and_then(|word| std::str::from_utf8(word).ok())
        .and_then(|word| word.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 5 50 1000 20 1 2 3 0 0\ncpu0 60 5 30 500 10 1 1 2 0 0\ncpu1 40 0 20 500 10 0 1 1 0 0\n\
        intr 111581 0 0\nctxt 231780\nbtime 1795471081\nprocesses 5910\nprocs_running 2\n";

    #[test]
    fn every_core_of_stat_becomes_one_entry() {
        let mut counters = Counters::default();
        parse_stat(STAT.as_bytes(), &mut counters);
        assert_eq!(counters.total, CpuTicks { user: 105, system: 53, idle: 1000, wait: 20, stolen: 3 });
        assert_eq!(counters.cores.len(), 2);
        assert_eq!(counters.cores[1], CpuTicks { user: 40, system: 21, idle: 500, wait: 10, stolen: 1 });
        assert_eq!((counters.context_switches, counters.processes_started), (231_780, 5910));
    }

    #[test]
    fn a_core_that_goes_offline_leaves_the_list() {
        let mut counters = Counters::default();
        parse_stat(STAT.as_bytes(), &mut counters);
        parse_stat(b"cpu  1 1 1 1\ncpu0 1 1 1 1\n", &mut counters);
        assert_eq!(counters.cores.len(), 1);
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let mut memory = Memory::default();
        parse_meminfo(
            b"MemTotal:       24684084 kB\nMemAvailable:   24438576 kB\nHugePages_Total: 0\n",
            &mut memory,
        );
        assert_eq!(memory.total_bytes, 24_684_084 * 1024);
        assert_eq!(memory.available_bytes, 24_438_576 * 1024);
    }

    #[test]
    fn diskstats_counts_sectors_of_512_bytes() {
        let mut disks = Vec::new();
        let line = b" 254       0 vda 8892 4335 2817938 8311 2061 17037 1667160 3233 7 3088 11781 3378 56 45440 234\n";
        parse_diskstats(line, &mut disks);
        assert_eq!(disks.len(), 1);
        assert_eq!(disks[0].device, "vda");
        assert_eq!((disks[0].reads, disks[0].writes), (8892, 2061));
        assert_eq!(disks[0].read_bytes, 2_817_938 * 512);
        assert_eq!(disks[0].written_bytes, 1_667_160 * 512);
        assert_eq!((disks[0].in_flight, disks[0].busy_ms), (7, 3088));
    }

    #[test]
    fn an_interface_whose_name_touches_its_first_number_is_read() {
        let mut interfaces = Vec::new();
        let text = b"Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n\
            eth0:55878137    2484    1    2    0     0          0         0   155939    1346    3    4    0     0       0          0\n";
        parse_net_dev(text, &mut interfaces);
        assert_eq!(interfaces.len(), 1);
        let eth0 = &interfaces[0];
        assert_eq!((eth0.name.as_str(), eth0.received_bytes, eth0.sent_bytes), ("eth0", 55_878_137, 155_939));
        assert_eq!((eth0.errors, eth0.dropped), (4, 6));
    }

    #[test]
    fn text_that_is_no_number_counts_as_nothing_and_never_panics() {
        let mut counters = Counters::default();
        for text in
            [&b"cpu"[..], b"cpu x y z", b"cpu 99999999999999999999999999 1", b"\xff\xfe", b"cpu0\ncpu1", b":"]
        {
            parse_stat(text, &mut counters);
            parse_meminfo(text, &mut counters.memory);
            parse_loadavg(text, &mut counters.load);
            parse_diskstats(text, &mut counters.disks);
            parse_net_dev(text, &mut counters.interfaces);
        }
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let mut reader = ProcReader::open(Path::new("/proc")).unwrap();
        let mut counters = Counters::default();
        reader.read(&mut counters).unwrap();
        let first = counters.clone();
        reader.read(&mut counters).unwrap();
        assert!(!counters.cores.is_empty());
        assert!(counters.memory.total_bytes > 0);
        assert!(counters.total.sum() >= first.total.sum());
        assert_eq!(counters.cores.len(), first.cores.len());
    }

    #[test]
    fn a_missing_proc_says_what_the_demo_needs() {
        let error = ProcReader::open(Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("mounted /proc"), "{error}");
    }
}
