//! Links beside raw sockets: `cargo run --release -p hivemind-benches --bin links`.
//!
//! Two pinned processes over loopback, each a host with a hive of its own. In each run every figure of a link
//! stands beside the same work done with the bare socket (or the bare TLS stream), in the order raw, link,
//! raw; a run whose two raw figures are further apart than [`DRIFT`] says so. What is reported is the median
//! of the runs and the ratio within each.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use hivemind::links::{Address, LinkOptions, Links, Security};
use hivemind::{Node, Publisher, Subscriber};
use hivemind_benches::machine::Machine;
use hivemind_benches::pinning;
use hivemind_links::keys::{HostKey, issue, new_authority};
use hivemind_links::transport::plain::{Listener, Plain, Stream};
use hivemind_links::transport::tls::{Tls, TlsKeys};
use hivemind_links::transport::{Transport, wait_for};

/// The bound of every wait.
const LONG: Duration = Duration::from_secs(60);
/// Two raw figures of one run that differ by more than this factor.
const DRIFT: f64 = 1.3;

/// Bytes of a message of the busy service among many.
const BLOCK: usize = 64 << 10;

/// Up to this length messages are written anew each time.
const SMALL: usize = 64;

/// Messages that a ring holds, and buffers that the raw side goes through in turn: both move the same memory.
const BUFFERS: usize = 64;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Measure links beside raw sockets, between two pinned processes over loopback.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Runs of each case; medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Much less of everything: shows that it works, and claims nothing.
    #[arg(long)]
    smoke: bool,
    /// Only the cases whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// The second process: its core, and the folder with the keys.
    #[arg(long, hide = true, num_args = 2)]
    peer: Option<Vec<String>>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Throughput { length: usize, tls: bool },
    RoundTrip,
    Small,
    Beside,
}

const CASES: [(&str, Case); 7] = [
    ("64 KiB one way, plain", Case::Throughput { length: 64 << 10, tls: false }),
    ("1 MiB one way, plain", Case::Throughput { length: 1 << 20, tls: false }),
    ("64 KiB one way, TLS", Case::Throughput { length: 64 << 10, tls: true }),
    ("1 MiB one way, TLS", Case::Throughput { length: 1 << 20, tls: true }),
    ("64 B round trip, plain", Case::RoundTrip),
    ("64 B one way, plain", Case::Small),
    ("one of 999 services beside a busy one (raw: a silent one)", Case::Beside),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.peer {
        Some(peer) => serve(&peer[0], Path::new(&peer[1])),
        None => measure(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("links: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- both sides

/// A host of its own, in a hive of its own.
struct Host {
    links: Links,
    node: Node,
    _link: Node,
    _folder: tempfile::TempDir,
}

impl Host {
    fn new(name: &str, keys: &Path, tls: bool, peer: Option<&str>) -> Outcome<Host> {
        let folder = tempfile::tempdir()?;
        let node = Node::builder(name).dir(folder.path()).join()?;
        let link = Node::builder("link").dir(folder.path()).guest().join()?;
        let security =
            if tls { Security::key(keys.join(format!("{name}.pem")))? } else { Security::plain_text(name) };
        let options = LinkOptions::new(security);
        let options = match peer {
            Some(peer) => options.peer(peer.parse()?),
            None => options.listen("127.0.0.1:0".parse()?),
        };
        let links = Links::start(&link, options)?;
        Ok(Host { links, node, _link: link, _folder: folder })
    }
}

fn raw(stream: Stream, keys: Option<&TlsKeys>, near: bool) -> Outcome<Box<dyn Transport>> {
    Ok(match keys {
        None => Box::new(Plain::new(stream)),
        Some(keys) if near => Box::new(Tls::accept(stream, keys, LONG)?),
        Some(keys) => Box::new(Tls::connect(stream, keys, LONG)?),
    })
}

fn tls_keys(folder: &Path, name: &str) -> Outcome<TlsKeys> {
    Ok(TlsKeys::new(&HostKey::read(&folder.join(format!("{name}.pem")))?)?)
}

fn write_all(transport: &mut dyn Transport, mut bytes: &[u8]) -> Outcome<()> {
    while !bytes.is_empty() || transport.wants_write() {
        let outcome = if bytes.is_empty() {
            transport.flush().map(|()| 0)
        } else {
            transport.write(&[IoSlice::new(bytes)])
        };
        match outcome {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(transport, true, Instant::now() + LONG)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_exact(transport: &mut dyn Transport, mut into: &mut [u8]) -> Outcome<()> {
    while !into.is_empty() {
        match transport.read(&mut [IoSliceMut::new(into)]) {
            Ok(0) => return Err("the other process has ended".into()),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(transport, false, Instant::now() + LONG)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A subscriber that leaves the core to the threads of the link while there is nothing: they share it.
fn idle(node: &Node, filter: &str) -> Outcome<Subscriber<[u8]>> {
    Ok(node.subscriber_builder(filter).spin(Duration::ZERO).create()?)
}

// ---- the second process: it reads, and answers

fn serve(core: &str, keys: &Path) -> Outcome<()> {
    pinning::pin(core.parse()?)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["raw", address, tls, length, count] => {
                let keys = (tls == "tls").then(|| tls_keys(keys, "far")).transpose()?;
                raw_reader(&address.parse()?, keys.as_ref(), length.parse()?, count.parse()?)?
            }
            ["raw-echo", address, count] => raw_echo(&address.parse()?, count.parse()?)?,
            ["link", address, tls, length, count] => link_reader(
                &Host::new("far", keys, tls == "tls", Some(address))?,
                length.parse()?,
                count.parse()?,
            )?,
            ["link-echo", address, count] => {
                link_echo(&Host::new("far", keys, false, Some(address))?, count.parse()?)?
            }
            ["beside", address, services, flood, count] => beside(
                &Host::new("far", keys, false, Some(address))?,
                services.parse()?,
                flood.parse()?,
                count.parse()?,
            )?,
            _ => return Err(format!("no such order: {line}").into()),
        };
        println!("{answer}");
    }
    Ok(())
}

/// Nanoseconds for all but the first.
fn raw_reader(address: &Address, keys: Option<&TlsKeys>, length: usize, count: u64) -> Outcome<u128> {
    let mut transport = raw(Stream::connect(address, LONG)?, keys, false)?;
    let mut buffers = vec![0; length * BUFFERS];
    read_exact(&mut *transport, &mut buffers[..length])?;
    let begun = Instant::now();
    for at in 1..count as usize {
        read_exact(&mut *transport, &mut buffers[at % BUFFERS * length..][..length])?;
    }
    Ok(begun.elapsed().as_nanos())
}

fn raw_echo(address: &Address, count: u64) -> Outcome<u128> {
    let mut transport = raw(Stream::connect(address, LONG)?, None, false)?;
    let mut buffer = [0; 64];
    for _ in 0..count {
        read_exact(&mut *transport, &mut buffer)?;
        write_all(&mut *transport, &buffer)?;
    }
    Ok(0)
}

fn link_reader(host: &Host, length: usize, count: u64) -> Outcome<u128> {
    let mut subscriber = idle(&host.node, "data")?;
    subscriber.wait_for_publishers(1, LONG)?;
    let mut next = || -> Outcome<u64> {
        let sample = subscriber.recv_timeout(LONG)?.ok_or("nothing came")?;
        if sample.len() != length {
            return Err("a message has another length than was sent".into());
        }
        Ok(sample.sequence())
    };
    next()?;
    let begun = Instant::now();
    // Bounded by what is sent.
    while next()? + 1 < count {}
    let took = begun.elapsed().as_nanos();
    if subscriber.lost() > 0 {
        return Err("a reliable service has lost messages".into());
    }
    Ok(took)
}

fn link_echo(host: &Host, count: u64) -> Outcome<u128> {
    let mut pong = host.node.publisher_builder::<[u8]>("pong").reliable().create()?;
    let mut ping = idle(&host.node, "ping")?;
    ping.wait_for_publishers(1, LONG)?;
    for _ in 0..count {
        let sample = ping.recv_timeout(LONG)?.ok_or("nothing came")?;
        pong.send_timeout(&sample, LONG)?;
    }
    // The last answer has arrived when the other process says no more.
    await_reading(&pong);
    Ok(0)
}

fn await_reading(pong: &Publisher<[u8]>) {
    let begun = Instant::now();
    while pong.subscribers() > 0 && begun.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes `flood` messages of the busy service as fast as they come and answers how long they took; then the
/// ways of `count` messages of the quiet services: the longest but one in a thousand, in nanoseconds. Each
/// carries when it was sent, by the clock of the machine.
fn beside(host: &Host, services: u64, flood: u64, count: u64) -> Outcome<u128> {
    let mut busy = idle(&host.node, "busy")?;
    let mut quiet = host.node.subscriber_builder::<u64>("quiet/*").spin(Duration::ZERO).create()?;
    busy.wait_for_publishers(1, LONG)?;
    quiet.wait_for_publishers(services as usize, LONG)?;
    let mut begun = Instant::now();
    for at in 0..flood {
        busy.recv_timeout(LONG)?.ok_or("nothing came")?;
        if at == 0 {
            begun = Instant::now();
        }
    }
    println!("{}", begun.elapsed().as_nanos());
    let mut ways = Vec::new();
    while (ways.len() as u64) < count {
        while busy.try_recv()?.is_some() {}
        if let Some(sample) = quiet.recv_timeout(Duration::from_millis(1))? {
            ways.push(now().saturating_sub(u64::from(*sample)));
        }
    }
    // The first of each service finds everything cold.
    ways.drain(..services as usize);
    ways.sort_unstable();
    // One in a thousand is the scheduler of the machine.
    Ok(ways[ways.len() - 1 - ways.len() / 1000].into())
}

/// Nanoseconds of the clock that all processes share.
fn now() -> u64 {
    hivemind_runtime::clock::since_boot()
}

// ---- the first process: it sends, and asks

struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(core: usize, keys: &Path) -> Outcome<Peer> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--peer").arg(core.to_string()).arg(keys).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Peer { child, orders, answers })
    }

    fn order(&mut self, order: &str) -> Outcome<()> {
        writeln!(self.orders, "{order}")?;
        Ok(self.orders.flush()?)
    }

    fn answer(&mut self) -> Outcome<f64> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the second process has ended".into());
        }
        Ok(line.trim().parse()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Bench {
    peer: Peer,
    keys: PathBuf,
    shrink: u64,
}

/// A figure of each kind, in the unit of the case.
struct Figures {
    raw: [f64; 2],
    link: f64,
}

impl Bench {
    fn count(&self, wanted: u64) -> u64 {
        (wanted / self.shrink).max(50)
    }

    fn run(&mut self, case: Case) -> Outcome<Figures> {
        match case {
            Case::Throughput { length, tls } => {
                let count = self.count((3 << 30) / length as u64);
                let before = self.raw(length, tls, count)?;
                let link = self.link(length, tls, count, Some(BUFFERS as u64))?;
                Ok(Figures { raw: [before, self.raw(length, tls, count)?], link })
            }
            Case::Small => {
                let count = self.count(3_000_000);
                let before = self.raw(64, false, count / 10)?;
                let link = self.link(64, false, count, None)?;
                Ok(Figures { raw: [before, self.raw(64, false, count / 10)?], link })
            }
            Case::RoundTrip => {
                let count = self.count(20_000);
                let before = self.raw_round_trip(count)?;
                let link = self.link_round_trip(count)?;
                Ok(Figures { raw: [before, self.raw_round_trip(count)?], link })
            }
            Case::Beside => {
                let count = self.count(20_000);
                let before = self.beside(count, false)?;
                let link = self.beside(count, true)?;
                Ok(Figures { raw: [before, self.beside(count, false)?], link })
            }
        }
    }

    fn listen() -> Outcome<Listener> {
        Ok(Listener::bind(&"127.0.0.1:0".parse()?)?.remove(0))
    }

    fn accept(listener: &Listener) -> Outcome<Stream> {
        let begun = Instant::now();
        loop {
            match listener.accept() {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < LONG => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Messages a second, one write each.
    fn raw(&mut self, length: usize, tls: bool, count: u64) -> Outcome<f64> {
        let listener = Bench::listen()?;
        let kind = if tls { "tls" } else { "plain" };
        self.peer.order(&format!("raw {} {kind} {length} {count}", listener.address()))?;
        let keys = tls.then(|| tls_keys(&self.keys, "near")).transpose()?;
        let mut transport = raw(Bench::accept(&listener)?, keys.as_ref(), true)?;
        let buffers = vec![7; length * BUFFERS];
        for at in 0..count as usize {
            write_all(&mut *transport, &buffers[at % BUFFERS * length..][..length])?;
        }
        Ok((count - 1) as f64 / self.peer.answer()? * 1e9)
    }

    fn link(&mut self, length: usize, tls: bool, count: u64, capacity: Option<u64>) -> Outcome<f64> {
        let host = Host::new("near", &self.keys, tls, None)?;
        let kind = if tls { "tls" } else { "plain" };
        self.peer.order(&format!("link {} {kind} {length} {count}", host.links.addresses()[0]))?;
        let capacity = capacity.unwrap_or(4096);
        let mut publisher =
            host.node.publisher_builder::<[u8]>("data").reliable().capacity(capacity).create()?;
        publisher.wait_for_subscribers(1, LONG)?;
        if length > SMALL {
            // As on the raw side: what is sent lies there already.
            for _ in 0..count {
                publisher.loan_timeout(length, LONG)?.send();
            }
        } else {
            let buffer = vec![7; length];
            for _ in 0..count {
                publisher.send_timeout(&buffer, LONG)?;
            }
        }
        Ok((count - 1) as f64 / self.peer.answer()? * 1e9)
    }

    /// The median, in microseconds.
    fn raw_round_trip(&mut self, count: u64) -> Outcome<f64> {
        let listener = Bench::listen()?;
        self.peer.order(&format!("raw-echo {} {count}", listener.address()))?;
        let mut transport = raw(Bench::accept(&listener)?, None, true)?;
        let mut buffer = [7; 64];
        let mut trips = Vec::new();
        for _ in 0..count {
            let begun = Instant::now();
            write_all(&mut *transport, &buffer)?;
            read_exact(&mut *transport, &mut buffer)?;
            trips.push(begun.elapsed());
        }
        self.peer.answer()?;
        Ok(median_of(trips))
    }

    fn link_round_trip(&mut self, count: u64) -> Outcome<f64> {
        let host = Host::new("near", &self.keys, false, None)?;
        self.peer.order(&format!("link-echo {} {count}", host.links.addresses()[0]))?;
        let mut ping = host.node.publisher_builder::<[u8]>("ping").reliable().create()?;
        let mut pong = idle(&host.node, "pong")?;
        pong.wait_for_publishers(1, LONG)?;
        ping.wait_for_subscribers(1, LONG)?;
        let mut trips = Vec::new();
        for _ in 0..count {
            let begun = Instant::now();
            ping.send_timeout(&[7; 64], LONG)?;
            pong.recv_timeout(LONG)?.ok_or("nothing came back")?;
            trips.push(begun.elapsed());
        }
        drop(pong);
        self.peer.answer()?;
        Ok(median_of(trips))
    }

    /// In microseconds: the worst but one in a thousand, of messages on 999 services, while another one sends
    /// nothing, or half as much as it could.
    fn beside(&mut self, count: u64, is_busy: bool) -> Outcome<f64> {
        const SERVICES: u64 = 999;
        let flood = (count / 2).max(20);
        let count = count + SERVICES;
        let host = Host::new("near", &self.keys, false, None)?;
        self.peer.order(&format!("beside {} {SERVICES} {flood} {count}", host.links.addresses()[0]))?;
        let mut busy = host.node.publisher_builder::<[u8]>("busy").reliable().capacity(64).create()?;
        let mut quiet = Vec::new();
        for number in 0..SERVICES {
            quiet.push(host.node.publisher_builder::<u64>(&format!("quiet/{number}")).reliable().create()?);
        }
        busy.wait_for_subscribers(1, LONG)?;
        for publisher in &quiet {
            publisher.wait_for_subscribers(1, LONG)?;
        }
        for _ in 0..flood {
            busy.loan_timeout(BLOCK, LONG)?.send();
        }
        let each = self.peer.answer()? / (flood - 1) as f64;
        let period = Duration::from_nanos((2.0 * each) as u64);
        let (mut sent, mut due) = (0, Instant::now());
        // A few more than are waited for, so that those are on their way while others come.
        while sent < count + 50 {
            if is_busy {
                busy.loan_timeout(BLOCK, LONG)?.send();
            }
            quiet[(sent % SERVICES) as usize].send_timeout(&now(), LONG)?;
            sent += 1;
            due += period;
            // Asleep: the threads of the link share this core.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(self.peer.answer()? / 1e3)
    }
}

fn median_of(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_nanos() as f64 / 1e3
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn measure(arguments: &Arguments) -> Outcome<()> {
    let (near, far) = pinning::choose(None)?;
    // The link of each side has its threads on the core of its side.
    pinning::pin(near)?;
    let folder = tempfile::tempdir()?;
    new_authority(folder.path())?;
    for host in ["near", "far"] {
        issue(folder.path(), host)?;
    }
    let mut bench = Bench {
        peer: Peer::start(far, folder.path())?,
        keys: folder.path().to_owned(),
        shrink: if arguments.smoke { 200 } else { 1 },
    };
    let Machine { processor, kernel, commit, .. } = Machine::here(2);
    println!("{processor}, cores {near} and {far}, {kernel}, commit {commit}");
    println!("\n| case | raw | link | ratio (min to max) |\n| --- | --- | --- | --- |");
    for (name, case) in CASES.into_iter().filter(|(name, _)| name.contains(&*arguments.only)) {
        let (mut raws, mut links, mut ratios, mut drifted) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..arguments.runs {
            let Figures { raw, link } = bench.run(case)?;
            let middle = f64::midpoint(raw[0], raw[1]);
            if raw[0].max(raw[1]) > DRIFT * raw[0].min(raw[1]) {
                drifted += 1;
            }
            raws.push(middle);
            links.push(link);
            ratios.push(link / middle);
        }
        let show = |figure: f64| match case {
            Case::Throughput { length, .. } => format!("{:.2} GB/s", figure * length as f64 / 1e9),
            Case::Small => format!("{:.2} million/s", figure / 1e6),
            Case::RoundTrip | Case::Beside => format!("{figure:.1} us"),
        };
        let (least, most) =
            (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
        let (raw, link) = (median(raws), median(links));
        let beside = match case {
            Case::Beside | Case::RoundTrip => format!("+ {:.1} us", link - raw),
            _ => format!("{:.2} ({least:.2} to {most:.2})", median(ratios)),
        };
        let drift = if drifted > 0 {
            format!(", {drifted} of {} runs drifted", arguments.runs)
        } else {
            String::new()
        };
        println!("| {name} | {} | {} | {beside}{drift} |", show(raw), show(link));
    }
    Ok(())
}
