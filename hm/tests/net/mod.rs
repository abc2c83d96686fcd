//! Networks that tests make for themselves: namespaces, wires between them, and weather on the wires.
//!
//! A wire is a pair of veth devices, which the kernel can make lossy (a filter of three instructions drops
//! packets by chance), narrow (`tbf`), or cut. A tunnel is a pair of TUN devices with a thread between them,
//! which delays, reorders, doubles and drops packets, from a seed.

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

static NETS: AtomicU32 = AtomicU32::new(0);

nix::ioctl_write_ptr_bad!(
    /// See Documentation/networking/tuntap.rst.
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

fn run(program: &str, arguments: &[&str]) -> bool {
    let done = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// Namespaces, each a host. Gone when dropped.
pub(crate) struct Net {
    hosts: Vec<String>,
    wires: u32,
}

impl Net {
    /// `None`: this machine does not let us, which is said.
    pub(crate) fn new(hosts: usize) -> Option<Net> {
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let name = |host| format!("hm-{}-{number}-{host}", std::process::id());
        let mut net = Net { hosts: Vec::new(), wires: 0 };
        for host in 0..hosts {
            if !run("ip", &["netns", "add", &name(host)]) {
                eprintln!("SKIPPED: no network namespaces here (needs `ip` and the right to make them)");
                return None;
            }
            net.hosts.push(name(host));
            assert!(run("ip", &["-n", &name(host), "link", "set", "lo", "up"]));
        }
        Some(net)
    }

    pub(crate) fn host(&self, host: usize) -> &str {
        &self.hosts[host]
    }

    /// A wire between two hosts: its device is called so at both ends, and has the addresses 10.77.N.1 and
    /// 10.77.N.2. `None`: this kernel cannot, which is said.
    pub(crate) fn wire(&mut self, one: usize, other: usize) -> Option<Device> {
        let device = self.device();
        let (one, other) = (self.host(one), self.host(other));
        let name = &*device.name;
        let ends = ["netns", one, "type", "veth", "peer", "name", name, "netns", other];
        if !run("ip", &[&["link", "add", name][..], &ends].concat()) {
            eprintln!("SKIPPED: no wires between namespaces here (needs a kernel with veth)");
            return None;
        }
        self.raise(one, &device, 1);
        self.raise(other, &device, 2);
        Some(device)
    }

    /// As [`Net::wire`], through a thread that makes the weather. `None`: this machine does not let us, which
    /// is said.
    pub(crate) fn tunnel(&mut self, one: usize, other: usize, weather: Weather) -> Option<(Device, Tunnel)> {
        let device = self.device();
        let mut ends = Vec::new();
        for (host, last) in [(one, 1), (other, 2)] {
            let Some(end) = tun(self.host(host), &device.name) else {
                eprintln!("SKIPPED: no TUN devices here (needs /dev/net/tun and the right to use it)");
                return None;
            };
            self.raise(self.host(host), &device, last);
            ends.push(end);
        }
        let [near, far] = <[File; 2]>::try_from(ends).expect("two ends");
        Some((device, Tunnel::start([near, far], weather)))
    }

    fn device(&mut self) -> Device {
        let number = self.wires;
        self.wires += 1;
        Device { name: format!("wire{number}"), net: format!("10.77.{number}") }
    }

    fn raise(&self, host: &str, device: &Device, last: u32) {
        let address = format!("{}.{last}/24", device.net);
        assert!(run("ip", &["-n", host, "address", "add", &address, "dev", &device.name]));
        assert!(run("ip", &["-n", host, "link", "set", &device.name, "up"]));
    }

    /// Takes the end at that host "down" or "up".
    pub(crate) fn set(&self, host: usize, device: &Device, state: &str) {
        assert!(run("ip", &["-n", self.host(host), "link", "set", &device.name, state]));
    }

    /// From now on that host loses one in 32 of the packets that it sends. `false`: this kernel cannot, which
    /// is said.
    pub(crate) fn lose(&self, host: usize, device: &Device) -> bool {
        // A random number, its last five bits; if they are 0 the packet is dropped (2), else it goes on (0).
        const PROGRAM: &str = "5,32 0 0 4294963256,84 0 0 31,21 0 1 0,6 0 0 2,6 0 0 0,";
        let (host, name) = (self.host(host), &*device.name);
        let can = run("tc", &["-n", host, "qdisc", "add", "dev", name, "clsact"])
            && run(
                "tc",
                &["-n", host, "filter", "add", "dev", name, "egress", "bpf", "da", "bytecode", PROGRAM],
            );
        if !can {
            eprintln!("SKIPPED: no packet filter here (needs `tc` and a kernel with cls_bpf)");
        }
        can
    }

    /// From now on that host sends so much at most ("20mbit"), and has a short queue. `false`: this kernel
    /// cannot, which is said.
    pub(crate) fn narrow(&self, host: usize, device: &Device, rate: &str) -> bool {
        let (host, name) = (self.host(host), &*device.name);
        let shape = ["rate", rate, "burst", "16kb", "limit", "30kb"];
        let arguments = [&["-n", host, "qdisc", "add", "dev", name, "root", "tbf"][..], &shape].concat();
        let can = run("tc", &arguments);
        if !can {
            eprintln!("SKIPPED: no narrow wires here (needs `tc` and a kernel with sch_tbf)");
        }
        can
    }

    /// Packets that were dropped where that host sends.
    pub(crate) fn dropped(&self, host: usize, device: &Device) -> u64 {
        let shown = Command::new("tc")
            .args(["-n", self.host(host), "-s", "qdisc", "show", "dev", &device.name])
            .output()
            .expect("tc runs");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let counts =
            shown.split("dropped ").skip(1).filter_map(|rest| rest.split(',').next()?.parse::<u64>().ok());
        counts.sum()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            run("ip", &["netns", "delete", host]);
        }
    }
}

/// What is called so at both ends of a wire.
pub(crate) struct Device {
    name: String,
    net: String,
}

impl Device {
    /// The address of the first or the second end.
    pub(crate) fn address(&self, end: u32) -> String {
        format!("{}.{end}", self.net)
    }
}

/// A TUN device in a namespace.
fn tun(host: &str, name: &str) -> Option<File> {
    let (host, name) = (Path::new("/run/netns").join(host), name.to_owned());
    // A thread of its own: it does not come back from there.
    let made = std::thread::spawn(move || {
        let host = File::open(host).expect("a namespace");
        setns(host, CloneFlags::CLONE_NEWNET).expect("a namespace that we made");
        let mut options = OpenOptions::new();
        let device = options
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/net/tun")
            .ok()?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
        };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        #[expect(unsafe_code, reason = "no crate at hand makes a TUN device")]
        // SAFETY: the descriptor is open, and the kernel reads one `ifreq`, whose name ends in a zero, since
        // names are shorter than it.
        let made = unsafe { tun_set_iff(device.as_raw_fd(), &raw const request) };
        made.ok().map(|_| device)
    });
    made.join().expect("it does not panic")
}

/// What happens to packets on the way.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) seed: u64,
    /// One in so many is dropped.
    pub(crate) drops: u64,
    /// One in so many arrives twice.
    pub(crate) doubles: u64,
    /// Each takes so long, and up to as long again: who takes long is overtaken.
    pub(crate) delay: Duration,
}

/// What happened to packets.
#[derive(Default)]
pub(crate) struct Happened {
    pub(crate) forwarded: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) overtaken: AtomicU64,
}

/// Carries packets between two TUN devices until dropped.
pub(crate) struct Tunnel {
    is_over: Arc<AtomicBool>,
    pub(crate) happened: Arc<Happened>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    fn start(ends: [File; 2], weather: Weather) -> Tunnel {
        let (is_over, happened) = (Arc::new(AtomicBool::new(false)), Arc::new(Happened::default()));
        let (end, counts) = (Arc::clone(&is_over), Arc::clone(&happened));
        let thread = std::thread::spawn(move || carry(ends, weather, &end, &counts));
        Tunnel { is_over, happened, thread: Some(thread) }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet on its way: when it arrives, which one it is, to which end.
type OnItsWay = Reverse<(Instant, u64, usize, Vec<u8>)>;

fn carry(mut ends: [File; 2], weather: Weather, is_over: &AtomicBool, happened: &Happened) {
    let mut chance = weather.seed;
    let mut one_in = |chances: u64| {
        // xorshift64.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance % chances
    };
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let (mut on_the_way, mut number, mut latest) = (BinaryHeap::<OnItsWay>::new(), 0, [0; 2]);
    let mut packet = vec![0; 65536];
    while !is_over.load(Ordering::Relaxed) {
        for (from, end) in ends.iter_mut().enumerate() {
            // Bounded: what came in between is for the next round.
            for _ in 0..256 {
                let Ok(length) = end.read(&mut packet) else { break };
                if one_in(weather.drops) == 0 {
                    count(&happened.dropped);
                    continue;
                }
                let copies = if one_in(weather.doubles) == 0 { 2 } else { 1 };
                happened.doubled.fetch_add(copies - 1, Ordering::Relaxed);
                for _ in 0..copies {
                    let extra = weather.delay.mul_f64(one_in(1000) as f64 / 1000.0);
                    let due = Instant::now() + weather.delay + extra;
                    number += 1;
                    on_the_way.push(Reverse((due, number, 1 - from, packet[..length].to_vec())));
                }
            }
        }
        while on_the_way.peek().is_some_and(|Reverse((due, ..))| *due <= Instant::now()) {
            let Some(Reverse((_, number, to, packet))) = on_the_way.pop() else { break };
            if number < latest[to] {
                count(&happened.overtaken);
            }
            latest[to] = latest[to].max(number);
            // A device that is down, or whose queue is full, loses it, as a network would.
            if ends[to].write(&packet).is_ok() {
                count(&happened.forwarded);
            }
        }
        let mut wanted = [
            PollFd::new(ends[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(ends[1].as_fd(), PollFlags::POLLIN),
        ];
        let wait = if on_the_way.is_empty() { 50u8 } else { 1 };
        let _ = poll(&mut wanted, PollTimeout::from(wait));
    }
}
