//! A publisher without the SDK whose ring is nearly all hole: it announces as much memory as any ring may
//! have, has next to none, and commits messages that it never wrote. Whoever touches them through a mapping
//! gives them memory, at its own cost.

use crate::wire::{Stranger, packet};
use hivemind::schema::Schema;
use hivemind_core::contract::{Contract, Kind};
use hivemind_core::protocol::{Carrier, Offer, ToNode, ToRoot};
use hivemind_ring::layout::{
    CHUNK_MEMORY_MAX, KIND_CHUNK, LAYOUT_VERSION, MESSAGE_BYTES_MAX, RING_MAGIC, SLOTS_OFFSET,
};
use hivemind_ring::mapped::Bells;
use hivemind_ring::segment::{Anonymous, Backend as _, Handle, Segment, Sharing};
use hivemind_runtime::identity::new_node_epoch;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Slots of the ring.
const SLOTS: u64 = 64;
/// Where its chunks begin.
const CHUNKS: u64 = (SLOTS_OFFSET + SLOTS * 64).next_multiple_of(4096);
/// A word of the header, by its place: the largest message.
const MESSAGE_MAX: u64 = 10;

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HollowOrder {
    /// Join, and offer plain bytes.
    Offer {
        /// The service.
        service: String,
        /// Write to header and slots, as honest publishers do; otherwise they are holes as well.
        has_slots: bool,
        /// Take so much memory at the far end of the ring.
        far: u64,
        /// What the header says of the largest message.
        message_max: u64,
    },
    /// Let in so many subscribers that ask.
    LetIn {
        /// How many.
        count: usize,
    },
    /// Say something else of the largest message.
    Rewrite {
        /// How many bytes it has.
        message_max: u64,
    },
    /// Commit messages that lie one behind the other in the chunk memory.
    Commit {
        /// How many.
        count: u64,
        /// The first begins here.
        offset: u64,
        /// Each is so long.
        length: u64,
    },
    /// Nothing: only say how much memory the ring has.
    Memory,
}

/// The publisher.
#[derive(Debug)]
pub struct Hollow {
    stranger: Stranger,
    /// Its own, given to subscribers of another user as those made for them.
    bells: OwnedFd,
    ring: File,
    segment: Segment,
    /// The way to write to it: through this process's own memory.
    memory: File,
    committed: u64,
}

impl Hollow {
    /// Obeys; the first order is to offer. Returns the bytes of memory that the ring has.
    ///
    /// # Panics
    /// If the order makes no sense, or the root does not let it in.
    pub fn obey(hollow: &mut Option<Hollow>, folder: &Path, order: HollowOrder) -> u64 {
        if let HollowOrder::Offer { service, has_slots, far, message_max } = order {
            *hollow = Some(Hollow::offer(folder, &service, has_slots, far, message_max));
        } else {
            hollow.as_mut().expect("it offers something").go_on(&order);
        }
        hollow.as_ref().expect("it is there").ring.metadata().expect("a memory object").blocks() * 512
    }

    fn offer(folder: &Path, service: &str, has_slots: bool, far: u64, message_max: u64) -> Hollow {
        let node = new_node_epoch();
        let bells = Bells::create(&Anonymous).expect("doorbells");
        let Handle::Descriptor(bells) = bells.handle().expect("a descriptor") else { panic!("a name") };
        let stranger = Stranger::join(folder, &format!("hollow-{node:x}"), node, bells.as_fd());
        let schema = Schema::of::<[u8]>();

        let length = CHUNKS + CHUNK_MEMORY_MAX;
        let segment = Anonymous.create("hollow", length, Sharing::SingleWriter).expect("a memory object");
        let Handle::Descriptor(ring) = segment.handle().expect("a descriptor") else { panic!("a name") };
        let memory = File::options().read(true).write(true).open("/proc/self/mem").expect("it is ours");
        let hollow = Hollow { stranger, bells, ring: ring.into(), segment, memory, committed: 0 };
        let fingerprint = schema.fingerprint();
        let words = [
            RING_MAGIC,
            LAYOUT_VERSION,
            node,
            0,
            fingerprint as u64,
            (fingerprint >> 64) as u64,
            SLOTS,
            SLOTS_OFFSET,
            CHUNKS,
            CHUNK_MEMORY_MAX,
            message_max,
        ];
        for (place, word) in (0..).zip(words) {
            hollow.write(place * 8, word);
        }
        if has_slots {
            (4096..CHUNKS).step_by(4096).for_each(|page| hollow.write(page, 0));
        }
        hollow.segment.reserve(length - far..length).expect("memory");
        let contract = Contract { capacity: SLOTS as u32, ..Contract::default() };
        let offer = Offer::new(0, service, Kind::of(&schema), contract);
        hollow.stranger.send(&packet(&ToRoot::Offer { request: 1, offer }), &[]).expect("the root listens");
        hollow.stranger.hear_until(|said| match said {
            ToNode::Accepted { request: 1, .. } => Some(()),
            ToNode::Refused { refusal, .. } => panic!("it is refused: {refusal}"),
            _ => None,
        });
        hollow
    }

    fn go_on(&mut self, order: &HollowOrder) {
        match *order {
            HollowOrder::LetIn { count } => {
                for _ in 0..count {
                    let (subscriber, is_stranger) = self.stranger.hear_until(|said| match said {
                        ToNode::Attach { subscriber, bells, .. } => Some((*subscriber, bells.is_none())),
                        _ => None,
                    });
                    let (publisher, start, ring) = (0, 0, Carrier::Descriptor);
                    let bells = is_stranger.then_some(Carrier::Descriptor);
                    let attached = ToRoot::Attached { publisher, subscriber, start, ring, bells };
                    let descriptors = [self.ring.as_fd(), self.bells.as_fd()];
                    let given = if is_stranger { &descriptors[..] } else { &descriptors[..1] };
                    let sent = self.stranger.send(&packet(&attached), given);
                    sent.expect("the root listens");
                }
            }
            HollowOrder::Rewrite { message_max } => {
                assert!(message_max > MESSAGE_BYTES_MAX);
                self.write(MESSAGE_MAX * 8, message_max);
            }
            HollowOrder::Commit { count, offset, length } => {
                for message in 0..count {
                    let slot = SLOTS_OFFSET + self.committed % SLOTS * 64;
                    self.write(slot, offset + message * length.next_multiple_of(64));
                    self.write(slot + 8, length);
                    self.write(slot + 56, (self.committed + 1) << 8 | KIND_CHUNK);
                    self.committed += 1;
                }
            }
            HollowOrder::Memory => {}
            HollowOrder::Offer { .. } => panic!("it offers one service"),
        }
    }

    fn write(&self, at: u64, word: u64) {
        let address = self.segment.as_ptr().addr() as u64 + at;
        self.memory.write_all_at(&word.to_le_bytes(), address).expect("it is mapped to write");
    }
}
