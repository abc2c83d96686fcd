//! What a wake-up costs by the way in which one waits, beside a receive that blocks.
//!
//! Two processes on two cores send one message to and fro, each asleep when it comes; both wait in the same
//! way. All ways take turns in one run, and each is compared with the blocking receive of the same lap: the
//! host moves its cores, and figures of two minutes cannot be compared.
//!
//! ```text
//! for every lap, for every way      parent                  peer
//!   for every round                 rest (the peer sleeps)  waits in this way
//!                                   ping, then waits        pong
//! ```
//!
//! If the parent dies, the peer's wait ends after [`PATIENCE`].

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use hivemind::{Node, Publisher, Trust};
use hivemind_benches::floor::{PATIENCE, rest};
use hivemind_benches::message::Reading;
use hivemind_benches::pinning;
use hivemind_ring::archive::Message as Arrived;
use hivemind_runtime::ports::{AsMember, Intake, Key, Receiving, RecvError, Waiter, receive};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

type Failed = Box<dyn std::error::Error>;

/// How one waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The receive that blocks: what all others are compared with.
    Blocking,
    /// The same once more: what is left of a difference is noise.
    BlockingToo,
    /// `poll` on the descriptor.
    Poll,
    /// `epoll` with edges, as tokio and mio use it.
    Edges,
    /// `poll`, where a thread of the node waits in the kernel's place.
    Told,
    /// A waiter for so many ends, of which one speaks.
    Waiter(usize),
    /// `poll` on the descriptor of such a waiter.
    PolledWaiter(usize),
}

const WAYS: [Way; 10] = [
    Way::Blocking,
    Way::BlockingToo,
    Way::Poll,
    Way::Edges,
    Way::Waiter(1),
    Way::Waiter(16),
    Way::Waiter(200),
    Way::PolledWaiter(200),
    // The kernel's help is refused from here on.
    Way::Told,
    Way::Waiter(1000),
];

#[derive(Debug, Parser)]
#[command(about = "What a wake-up costs by the way in which one waits")]
struct Options {
    /// Laps: each measures all ways.
    #[arg(long, default_value_t = 25)]
    laps: usize,
    /// Round trips of each way in a lap.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    #[arg(long, hide = true)]
    peer: Option<PathBuf>,
}

/// An intake that gives what came.
struct End(Intake);

impl Receiving for End {
    type Received = (usize, Arrived);

    fn intake(&mut self) -> &mut Intake {
        &mut self.0
    }

    fn try_receive(&mut self) -> Result<Option<Self::Received>, RecvError> {
        self.0.poll()
    }
}

/// One way, with an end of its own and, for a waiter, others that are silent.
struct Waits {
    way: Way,
    end: End,
    publisher: Publisher<Reading>,
    waiter: Option<Waiter>,
    epoll: Option<Epoll>,
    silent: HashMap<Key, (Intake, Publisher<Reading>)>,
}

fn intake(node: &Node, service: &str) -> Result<Intake, Failed> {
    Ok(Intake::create(node.as_member(), service, None, Duration::ZERO, Trust::SameUser, None, None)?)
}

fn publisher(node: &Node, service: &str) -> Result<Publisher<Reading>, Failed> {
    Ok(node.publisher_builder::<Reading>(service).capacity(8).create()?)
}

impl Waits {
    fn new(node: &Node, number: usize, way: Way, (here, there): (&str, &str)) -> Result<Waits, Failed> {
        if way == Way::Told {
            hivemind_ring::pollable::refuse_from_now_on();
        }
        let end = intake(node, &format!("wakes/{number}/{here}"))?;
        let publisher_there = publisher(node, &format!("wakes/{number}/{there}"))?;
        let (mut waiter, mut silent, mut epoll) = (None, HashMap::new(), None);
        match way {
            Way::Blocking | Way::BlockingToo => {}
            Way::Poll | Way::Told => drop(end.descriptor()?),
            Way::Edges => {
                let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
                set.add(end.descriptor()?, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
                epoll = Some(set);
            }
            Way::Waiter(ends) | Way::PolledWaiter(ends) => {
                let mut made = Waiter::new(node.as_member())?;
                made.spin(Duration::ZERO);
                made.add(&end)?;
                for other in 1..ends {
                    let service = format!("wakes/{number}/{here}/{other}");
                    let intake = intake(node, &service)?;
                    silent.insert(made.add(&intake)?, (intake, publisher(node, &service)?));
                }
                if matches!(way, Way::PolledWaiter(_)) {
                    made.descriptor()?;
                }
                waiter = Some(made);
            }
        }
        Ok(Waits { way, end: End(end), publisher: publisher_there, waiter, epoll, silent })
    }

    fn meet(&mut self) -> Result<(), Failed> {
        self.end.0.wait_for_publishers(1, PATIENCE)?;
        self.publisher.wait_for_subscribers(1, PATIENCE)?;
        for (intake, _) in self.silent.values_mut() {
            intake.wait_for_publishers(1, PATIENCE)?;
            look_in_vain(intake)?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Failed> {
        if matches!(self.way, Way::Blocking | Way::BlockingToo) {
            receive(&mut self.end, Some(PATIENCE))?.ok_or("no message came")?;
            return Ok(());
        }
        let start = Instant::now();
        let mut ready = Vec::new();
        while self.end.0.poll()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err("no message came".into());
            }
            match (&mut self.waiter, &self.epoll) {
                (Some(waiter), _) => {
                    if matches!(self.way, Way::PolledWaiter(_))
                        && waiter.wait(&mut ready, Some(Duration::ZERO))? == 0
                    {
                        readable(waiter.as_fd())?;
                    }
                    ready.clear();
                    waiter.wait(&mut ready, Some(PATIENCE))?;
                    for key in &ready {
                        // One that shares the mark of the end that speaks.
                        self.silent.get_mut(key).map_or(Ok(()), |(intake, _)| look_in_vain(intake))?;
                    }
                }
                (None, Some(epoll)) => {
                    epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::try_from(PATIENCE)?)?;
                }
                (None, None) => readable(self.end.0.as_fd())?,
            }
        }
        Ok(())
    }
}

/// It is armed afterwards.
fn look_in_vain(intake: &mut Intake) -> Result<(), Failed> {
    if intake.poll()?.is_some() { Err("a silent end has spoken".into()) } else { Ok(()) }
}

fn readable(descriptor: BorrowedFd<'_>) -> Result<(), Failed> {
    poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], PollTimeout::try_from(PATIENCE)?)?;
    Ok(())
}

fn ways(node: &Node, ends: (&str, &str)) -> Result<Vec<Waits>, Failed> {
    let mut ways: Vec<Waits> = Vec::new();
    for (number, way) in WAYS.into_iter().enumerate() {
        ways.push(Waits::new(node, number, way, ends)?);
    }
    ways.iter_mut().try_for_each(Waits::meet)?;
    Ok(ways)
}

fn answer(folder: &Path, options: &Options) -> Result<(), Failed> {
    let (_, core) = pinning::choose(None)?;
    pinning::pin(core)?;
    let node = Node::builder("peer").dir(folder).join()?;
    let mut ways = ways(&node, ("ping", "pong"))?;
    for _ in 0..options.laps {
        for way in &mut ways {
            for round in 0..options.rounds {
                way.wait()?;
                way.publisher.send(&Reading::numbered(round as u64))?;
            }
        }
    }
    Ok(())
}

/// The middle, and what a quarter lies below and above.
fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[figures.len() * quarter / 4])
}

fn main() -> Result<(), Failed> {
    let options = Options::parse();
    if let Some(folder) = &options.peer {
        return answer(folder, &options);
    }
    let folder = tempfile::tempdir()?;
    let (core, _) = pinning::choose(None)?;
    let node = Node::builder("parent").dir(folder.path()).join()?;
    let mut peer = Command::new(std::env::current_exe()?)
        .args(["--laps", &options.laps.to_string(), "--rounds", &options.rounds.to_string(), "--peer"])
        .arg(folder.path())
        .spawn()?;
    pinning::pin(core)?;
    let mut ways = ways(&node, ("pong", "ping"))?;
    let mut laps: Vec<Vec<f64>> = vec![Vec::new(); WAYS.len()];
    for _ in 0..options.laps {
        for (number, way) in ways.iter_mut().enumerate() {
            let mut times = Vec::with_capacity(options.rounds);
            for round in 0..options.rounds {
                rest();
                let start = Instant::now();
                way.publisher.send(&Reading::numbered(round as u64))?;
                way.wait()?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            laps[number].push(quartiles(times)[1]);
        }
    }
    if !peer.wait()?.success() {
        return Err("the peer failed".into());
    }
    let mut output = std::io::stdout().lock();
    writeln!(
        output,
        "{} laps of {} round trips; ratios to the blocking receive of the same lap",
        options.laps, options.rounds
    )?;
    writeln!(output, "{:<22}{:>12}{:>10}{:>18}", "way", "median us", "ratio", "quartiles")?;
    for (number, way) in WAYS.iter().enumerate() {
        let ratios = laps[number].iter().zip(&laps[0]).map(|(time, blocking)| time / blocking).collect();
        let [low, middle, high] = quartiles(ratios);
        let time = quartiles(laps[number].clone())[1];
        let name = format!("{way:?}");
        writeln!(output, "{name:<22}{time:>12.1}{middle:>10.2}{:>18}", format!("{low:.2} to {high:.2}"))?;
    }
    Ok(())
}
