//! A subscriber that says which node it is: without the SDK, so that it can say what is not true.

use crate::wire::{Stranger, hello, packet};
use hivemind_core::contract::Asks;
use hivemind_core::protocol::{Carrier, Demand, EndId, ToNode, ToRoot};
use hivemind_ring::mapped::{Bells, Mapped, MappedSeats};
use hivemind_ring::reader::Seats;
use hivemind_ring::segment::{Anonymous, Handle};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Seats of its reader segment.
const SEATS: u64 = 64;

/// What it has, as long as it lives.
#[derive(Debug)]
pub struct Impostor {
    /// The root lets its node go when this closes.
    stranger: Option<Stranger>,
    _seats: Seats<Mapped>,
}

/// The descriptor behind a handle.
pub fn descriptor(handle: Handle) -> OwnedFd {
    match handle {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(name) => panic!("a name instead of a descriptor: {name}"),
    }
}

impl Impostor {
    /// Greets as this end of this life of a node, subscribes to a service and takes a seat at its publisher.
    /// Says what came of it: "attached", or why not.
    pub fn subscribe(folder: &Path, end: EndId, service: &str) -> (Impostor, String) {
        let bells = Bells::create(&Anonymous).expect("doorbells");
        let handle = descriptor(bells.handle().expect("a descriptor"));
        let bell = bells.take().expect("a bell");
        let seats =
            MappedSeats::create(&Anonymous, end.node, end.index, SEATS, bell).expect("a reader segment");
        let reader = descriptor(seats.memory().segment().handle().expect("a descriptor"));
        let stranger = Stranger::connect(folder);
        let name = format!("impostor-{}", std::process::id());
        // Cut off already: then what the root said before is still to be heard.
        let _ = stranger.send(&packet(&hello(&name, end.node)), &[handle.as_fd()]);
        let demand = Demand::new(end.index, service, Asks::default());
        let _ = stranger.send(&packet(&ToRoot::Demand { request: end.index.into(), demand }), &[]);
        let said = loop {
            match stranger.hear().expect("the root does not close before it says why") {
                ToNode::Refused { refusal, .. } => break format!("refused: {refusal}"),
                ToNode::Match { matched, .. } => {
                    let publisher = matched.route.end;
                    let taken = seats.take((publisher.node, publisher.index)).expect("a seat");
                    let seat = taken.index();
                    // It keeps the seat to its end.
                    std::mem::forget(taken);
                    let subscriber = end.index;
                    let attach = ToRoot::Attach { subscriber, publisher, seat, reader: Carrier::Descriptor };
                    stranger.send(&packet(&attach), &[reader.as_fd()]).expect("the root listens");
                }
                ToNode::Attached { .. } => break "attached".to_owned(),
                ToNode::AttachRefused { reason, .. } => break format!("not attached: {reason}"),
                _ => {}
            }
        };
        (Impostor { stranger: Some(stranger), _seats: seats }, said)
    }

    /// Closes its connection to the root; its memory stays.
    pub fn leave_root(&mut self) {
        self.stranger = None;
    }
}
