//! A subscriber that keeps to no rules: it gets the descriptor of a ring as every subscriber does, and tries to write.

use crate::wire::{Stranger, hello, packet};
use hivemind_core::contract::Asks;
use hivemind_core::protocol::{Carrier, Demand, ToNode, ToRoot};
use hivemind_ring::mapped::{Bells, MappedSeats};
use hivemind_ring::segment::{Anonymous, Backend as _, Handle, LengthBounds, Sharing};
use hivemind_runtime::identity::new_node_epoch;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn descriptor(handle: Handle) -> OwnedFd {
    match handle {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(name) => panic!("a name instead of a descriptor: {name}"),
    }
}

/// Subscribes to `service` and says what came of each attempt to change the memory of its publisher, the descriptor as it came
/// and opened anew; or, with one entry, that it was refused.
pub fn tamper(folder: &Path, service: &str) -> Vec<String> {
    let node = new_node_epoch();
    let bells = Bells::create(&Anonymous).expect("doorbells");
    let bell = bells.take().expect("a bell");
    let seats = MappedSeats::create(&Anonymous, node, 0, 4, bell).expect("a reader segment");
    let reader = descriptor(seats.memory().segment().handle().expect("a descriptor"));
    let bells = descriptor(bells.handle().expect("a descriptor"));
    let stranger = Stranger::connect(folder);
    stranger
        .send(&packet(&hello(&format!("tamper-{node:x}"), node)), &[bells.as_fd()])
        .expect("the root listens");
    let demand = Demand::new(0, service, Asks::default());
    // Cut off already: then what it said before is still to be heard.
    let _ = stranger.send(&packet(&ToRoot::Demand { request: 0, demand }), &[]);
    let ring = loop {
        let (said, mut descriptors) =
            stranger.hear_with_descriptors().expect("the root does not close before it says why");
        match said {
            ToNode::Refused { refusal, .. } => return vec![format!("refused: {refusal}")],
            ToNode::Match { matched, .. } => {
                let publisher = matched.route.end;
                let taken = seats.take((publisher.node, publisher.index)).expect("a seat");
                let seat = taken.index();
                // It keeps the seat to its end.
                std::mem::forget(taken);
                let attach = ToRoot::Attach { subscriber: 0, publisher, seat, reader: Carrier::Descriptor };
                stranger.send(&packet(&attach), &[reader.as_fd()]).expect("the root listens");
            }
            ToNode::Attached { .. } => break descriptors.swap_remove(0),
            _ => {}
        }
    };
    let mut said = Vec::new();
    let mut note = |attempt: &str, outcome: io::Result<()>| {
        said.push(match outcome {
            Ok(()) => format!("{attempt}: DONE"),
            Err(error) => format!("{attempt}: {error}"),
        });
    };
    let path = format!("/proc/self/fd/{}", ring.as_raw_fd());
    attempts("as it came", &File::from(ring.try_clone().expect("a descriptor")), &mut note);
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(anew) => attempts("opened anew", &anew, &mut note),
        Err(error) => note("opened anew", Err(error)),
    }
    let bounds = LengthBounds { min: 1, max: u64::MAX };
    let mapped = Anonymous.open(Handle::Descriptor(ring), Sharing::Doorbell, bounds);
    note("mapped to write", mapped.map(drop).map_err(io::Error::other));
    said
}

fn attempts(how: &str, ring: &File, note: &mut impl FnMut(&str, io::Result<()>)) {
    let length = ring.metadata().map_or(0, |found| found.len());
    note(&format!("{how}, written"), ring.write_all_at(&[0xFF; 8], 0));
    note(&format!("{how}, cut off"), ring.set_len(0));
    note(&format!("{how}, lengthened"), ring.set_len(length + 4096));
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    note(&format!("{how}, holed"), fallocate(ring, hole, 0, 4096).map_err(io::Error::from));
}
