//! Rings that this node keeps for others, so that what their publishers retain outlives them.
//!
//! ```text
//!          keep                   the kernel, or the ring, says that the publisher is gone
//!  (none) ──────▶ kept, unnoticed ───────────────────────────────────────────────────────▶ offered as an end of this node
//!                    │                                                                          │
//!                    └───────────── nothing is in it; released; this node leaves ◀──────────────┘
//! ```
//!
//! A kept ring is a descriptor. It is not mapped, and nothing of it is looked at but a few words when the
//! publisher is gone. Whoever wants the messages attaches to the end of this node as to any publisher, gets
//! the descriptor and reads; its seat counts nowhere, as nobody writes any more.
use std::collections::HashMap;

use crate::session::{AttachReply, Handle, Keeping};
use hivemind_core::contract::{Author, Former};
use hivemind_core::name::NodeName;
use hivemind_core::protocol::{EndId, Offer};
use hivemind_ring::kept::KeptRing;

use super::Hub;
use crate::lock;

/// Rings that a node keeps; the root asks for as many.
const KEPT_MAX: usize = 128;

/// All of a node.
#[derive(Default)]
pub(super) struct Kept(HashMap<EndId, KeptEnd>);

struct KeptEnd {
    ring: KeptRing,
    /// As it is, or will be, offered.
    offer: Offer,
    is_offered: bool,
}

impl Kept {
    /// Offers what a publisher retained that is gone, if there is anything.
    fn stand_for(&mut self, publisher: EndId, index: impl FnOnce() -> u32) -> Keeping {
        let Some(end) = self.0.get_mut(&publisher) else { return Keeping::Nothing };
        if end.is_offered {
            return Keeping::Kept;
        }
        if end.ring.messages().is_empty() {
            self.0.remove(&publisher);
            return Keeping::Nothing;
        }
        end.offer.index = index();
        end.is_offered = true;
        Keeping::Offered(Box::new(end.offer.clone()))
    }

    /// Offers what has ended while there was no root to tell.
    pub(super) fn look_for_ended(&mut self, mut index: impl FnMut() -> u32) {
        let ended = self.0.iter().filter(|(_, end)| !end.is_offered && end.ring.is_closed());
        let ended: Vec<EndId> = ended.map(|(publisher, _)| *publisher).collect();
        for publisher in ended {
            // Told in the roll call.
            let _offered = self.stand_for(publisher, &mut index);
        }
    }

    fn offered(&self, index: u32) -> Option<&KeptEnd> {
        self.0.values().find(|end| end.is_offered && end.offer.index == index)
    }

    /// Whether the publisher with this number stands for one that is gone.
    pub(super) fn has_offered(&self, index: u32) -> bool {
        self.offered(index).is_some()
    }

    pub(super) fn attach(&self, index: u32) -> Option<Result<AttachReply, String>> {
        let end = self.offered(index)?;
        let reply = end.ring.descriptor().map(|descriptor| AttachReply {
            start: end.ring.messages().start,
            ring: Handle::Descriptor(descriptor),
            bells: None,
        });
        Some(reply.map_err(|error| error.to_string()))
    }

    pub(super) fn inspect(&self, index: u32) -> Option<Handle> {
        self.offered(index)?.ring.descriptor().ok().map(Handle::Descriptor)
    }

    /// The lives of nodes whose rings are kept and that are not known to be gone.
    pub(super) fn writers(&self) -> impl Iterator<Item = EndId> {
        self.0.iter().filter(|(_, end)| !end.is_offered).map(|(writer, _)| *writer)
    }

    pub(super) fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.0.values().filter(|end| end.is_offered).map(|end| &end.offer)
    }

    /// A root refused what was offered.
    pub(super) fn refused(&mut self, index: u32) -> Option<String> {
        let publisher = self.0.iter().find(|(_, end)| end.is_offered && end.offer.index == index)?.0;
        let publisher = *publisher;
        self.0.remove(&publisher).map(|end| end.offer.service)
    }
}

impl Hub {
    pub(super) fn keep_ring(&self, offer: Offer, ring: Handle, is_gone: bool) -> Result<Keeping, String> {
        let former = offer.author.former().ok_or("it does not say whose ring it is")?;
        let publisher = former.publisher;
        let Handle::Descriptor(descriptor) = ring else {
            return Err("a ring with a name ends with its publisher".to_owned());
        };
        let ring = KeptRing::new(descriptor).map_err(|error| error.to_string())?;
        let mut ends = lock(&self.ends);
        let kept = &mut ends.kept;
        if kept.0.len() >= KEPT_MAX && !kept.0.contains_key(&publisher) {
            return Err(format!("this node keeps {KEPT_MAX} rings already"));
        }
        // A ring that is kept already stays as it is: a new root does not know of it yet.
        kept.0.entry(publisher).or_insert(KeptEnd { ring, offer, is_offered: false });
        Ok(if is_gone { kept.stand_for(publisher, || self.new_index()) } else { Keeping::Kept })
    }

    /// A publisher of this node has ended: its own node keeps what it retained, too.
    pub(crate) fn keep_own(&self, index: u32, node_name: &NodeName) -> Option<Offer> {
        let (mut offer, ring) = {
            let ends = lock(&self.ends);
            let end = ends.publishers.get(&index).filter(|end| end.offer.contract.retained > 0)?;
            (end.offer.clone(), end.ring.segment().handle().ok()?)
        };
        offer.contract = offer.contract.of_former();
        let publisher = EndId { node: self.node, index };
        offer.author = Author::Former(Former { publisher, node_name: node_name.clone() });
        match self.keep_ring(offer, ring, true) {
            Ok(Keeping::Offered(offer)) => Some(*offer),
            Ok(Keeping::Kept | Keeping::Nothing) => None,
            Err(reason) => {
                tracing::warn!(%publisher, reason, "what it retained is not kept by its own node");
                None
            }
        }
    }

    /// The process of these publishers is gone.
    pub(super) fn succeed_to(&self, node: u64) -> Vec<(EndId, Keeping)> {
        let mut ends = lock(&self.ends);
        let of_node: Vec<EndId> = ends.kept.writers().filter(|writer| writer.node == node).collect();
        of_node
            .into_iter()
            .map(|publisher| (publisher, ends.kept.stand_for(publisher, || self.new_index())))
            .collect()
    }

    /// Whether a publisher has ended in order, whose process may go on.
    pub(super) fn has_ended(&self, publisher: EndId) -> Keeping {
        let mut ends = lock(&self.ends);
        match ends.kept.0.get(&publisher) {
            // It was released meanwhile, and the root knows.
            None => Keeping::Kept,
            Some(end) if end.is_offered || !end.ring.is_closed() => Keeping::Kept,
            Some(_) => ends.kept.stand_for(publisher, || self.new_index()),
        }
    }

    pub(super) fn let_go(&self, publisher: EndId) -> Option<u32> {
        let end = lock(&self.ends).kept.0.remove(&publisher)?;
        end.is_offered.then_some(end.offer.index)
    }
}
