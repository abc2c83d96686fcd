//! The life of the second process: it carries out the orders of [`Peer`](crate::peer::Peer), one after the
//! other.
//!
//! While it waits for an order it sleeps in a read, so it takes nothing from its core. It asks the kernel to
//! be killed when its parent dies, so a killed harness leaves no spinning process.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::Path;

use hivemind_ring::segment::Handle;

use crate::cases;
use crate::error::HarnessError;
use crate::floor::Floor;
use crate::peer::{Answer, Order, Shape};
use crate::pinning;
use crate::readings::Readings;

/// The whole life of the peer: pin, map, then one answer for every order until stdin closes.
pub fn serve(core: usize, segment: &str) -> Result<(), HarnessError> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)?;
    pinning::pin(core).map_err(|error| HarnessError::Peer(error.to_string()))?;
    let floor = Floor::open(open_segment(segment)?)?;
    say(&Answer::Ready)?;
    for line in std::io::stdin().lock().lines() {
        let order = serde_json::from_str(&line?)?;
        say(&match carry_out(order, &floor) {
            Ok(readings) => Answer::Done(readings),
            Err(error) => Answer::Failed(error.to_string()),
        })?;
    }
    Ok(())
}

fn open_segment(segment: &str) -> Result<Handle, HarnessError> {
    if !segment.starts_with("/proc/") {
        return Ok(Handle::Name(segment.to_owned()));
    }
    let file = OpenOptions::new().read(true).write(true).open(Path::new(segment))?;
    Ok(Handle::Descriptor(file.into()))
}

fn say(answer: &Answer) -> Result<(), HarnessError> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    Ok(stdout.flush()?)
}

fn carry_out(order: Order, floor: &Floor) -> Result<Option<Readings>, HarnessError> {
    match order {
        Order::Floor { batches } => floor.answer(batches).map(|()| None),
        Order::FloorAsleep { rounds } => floor.answer_asleep(rounds).map(|()| None),
        Order::Echo { dir, shape: Shape::Typed, waiting, rounds } => {
            cases::echo_typed(&dir, waiting, rounds).map(|()| None)
        }
        Order::Echo { dir, shape: Shape::Bytes(length), waiting, rounds } => {
            cases::echo_bytes(&dir, length, waiting, rounds).map(|()| None)
        }
        Order::Drain { dir, messages, sending } => cases::drain(&dir, messages, sending).map(Some),
        Order::Audience { dir, shape, subscribers, draining } => {
            cases::attend(&dir, shape, subscribers, draining, floor).map(|()| None)
        }
        Order::Doze { dir, subscribers, messages } => {
            cases::doze(&dir, subscribers, messages, floor).map(|()| None)
        }
        Order::Join { dir, joins } => cases::join(&dir, joins).map(Some),
    }
}
