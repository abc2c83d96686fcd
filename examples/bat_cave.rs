//! A handler: called for every message of every service that matches, on a thread of its own, until Ctrl-C.

use hivemind::{Node, Sample, message};
use std::error::Error;

/// The same type as in `bat_signal`.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Signal {
    place: String,
    brightness: f32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::join("bat-cave")?;
    node.subscribe("bat-signal-*", |signal: Sample<Signal>| {
        println!("{}: {} at {:.0} %", signal.service(), signal.place, signal.brightness.to_native() * 100.0);
    })?;
    node.run()?;
    Ok(())
}
