//! Publishers that stand for those of another host, and what all of one link may take here.
//!
//! | what the other host makes grow | bound for one link |
//! | --- | --- |
//! | slots, taken when a publisher is announced | [`SLOTS_MEMORY`], of which one gets at most a 32nd of what is left |
//! | memory for messages, taken as they arrive | [`LinkOptions::memory`](super::LinkOptions::memory), of which one gets at most a quarter of what is left |
//!
//! So a late publisher gets less, and never nothing; a lossy publisher that may take no more gives up its
//! oldest messages, as if its ring were smaller. A publisher that is gone gives back what it had. The other
//! bounds are those of `hivemind_core::link::peering`; see
//! `docs/decisions/0017-what-a-linked-host-may-take.md`.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hivemind_core::contract::{Contract, Kind};
use hivemind_core::link::candidate::Candidate;
use hivemind_core::protocol::Remote;
use hivemind_core::schema::Schema;
use hivemind_ring::layout::{CAPACITY_MIN, INLINE_BYTES, LINE_BYTES, SLOTS_OFFSET};
use hivemind_ring::writer::{AdmitError, AllocateError};
use hivemind_runtime::ports::{Member, StandIn};

use crate::local::{Import, ImportError, Imports};

/// The most slots that a publisher of another host gets here: 4 MiB.
const CAPACITY_MAX: u64 = 65_536;
/// The most memory for its messages, in bytes; it is taken as it is needed.
const MEMORY_MAX: u64 = 1 << 30;

/// Memory is taken by whole pages, in bytes.
const PAGE_BYTES: u64 = 4096;
/// The slots of all publishers of one link take no more than this, in bytes: 4096 rings of 256.
const SLOTS_MEMORY: u64 = 128 << 20;
/// One publisher takes at most this part of what is left for slots …
const SLOTS_SHARE: u64 = 32;
/// … and this part of what is left for messages.
const MEMORY_SHARE: u64 = 4;
/// Memory for messages that every publisher can have, in bytes; set aside when the publisher is announced.
const MEMORY_FLOOR: u64 = 64 << 10;

/// Subscribers that want it are attached within moments; one that is stopped, or has gone, holds nobody up
/// for longer.
const FIRST_SUBSCRIBER: Duration = Duration::from_secs(1);

/// What may come in, beside what the rules of links say.
pub(super) trait Admit: Send + Sync {
    /// Why it may not.
    fn check(&self, candidate: &Candidate) -> Result<(), String>;

    /// Another number when [`Admit::check`] may say something else.
    fn version(&self) -> u64;
}

/// Publishes into this hive for one link.
pub(super) struct HiveImports {
    pub(super) member: Arc<Member>,
    pub(super) admit: Arc<dyn Admit>,
    pub(super) purse: Arc<Purse>,
}

/// What the publishers of one link may still take.
#[derive(Debug)]
pub(super) struct Purse {
    slots: AtomicU64,
    memory: AtomicU64,
    all_memory: u64,
}

/// What one publisher has taken out; dropped, it is back.
#[derive(Debug)]
struct Share {
    purse: Arc<Purse>,
    slots: u64,
    memory: u64,
}

impl Purse {
    /// A purse with `memory` bytes for messages.
    pub(super) fn new(memory: u64) -> Arc<Purse> {
        Arc::new(Purse { slots: SLOTS_MEMORY.into(), memory: memory.into(), all_memory: memory })
    }

    /// For a publisher that asks for `slots`: how many it gets, a power of two.
    fn open(self: &Arc<Purse>, slots: u64) -> Result<(u64, Share), String> {
        // Relaxed, as everywhere here: figures, with which nothing else is shared.
        let affordable =
            (self.slots.load(Ordering::Relaxed) / SLOTS_SHARE).saturating_sub(SLOTS_OFFSET) / LINE_BYTES;
        // One thread takes for each link. Asked first: what is taken of too little nobody would give back.
        let is_floor_there = self.memory.load(Ordering::Relaxed) >= MEMORY_FLOOR;
        if affordable < CAPACITY_MIN || !is_floor_there || !take(&self.memory, MEMORY_FLOOR) {
            return Err(format!(
                "the publishers of this link have all {SLOTS_MEMORY} bytes for slots or {} bytes for messages that they may; use fewer, narrower \
                 filters, or more `LinkOptions::memory`",
                self.all_memory
            ));
        }
        let slots = slots.next_power_of_two().min(1 << affordable.ilog2());
        let share = Share {
            purse: Arc::clone(self),
            slots: (SLOTS_OFFSET + slots * LINE_BYTES).next_multiple_of(PAGE_BYTES),
            memory: MEMORY_FLOOR,
        };
        take(&self.slots, share.slots);
        Ok((slots, share))
    }
}

/// Takes so much, or what there is. True: it was all there.
fn take(left: &AtomicU64, bytes: u64) -> bool {
    // Relaxed: see `Purse::open`.
    let before =
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
    before.is_ok_and(|before| before >= bytes)
}

/// Puts it back.
fn put_back(left: &AtomicU64, bytes: u64, all: u64) {
    // Relaxed: see `Purse::open`. The closure never says no.
    let _ = left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_add(bytes).min(all)));
}

impl Share {
    /// The most that its messages may take now.
    fn limit(&self) -> u64 {
        // Relaxed: see `Purse::open`.
        self.memory + self.purse.memory.load(Ordering::Relaxed) / MEMORY_SHARE
    }

    /// Memory that it has taken for messages by now.
    fn takes(&mut self, memory: u64) -> bool {
        let more = memory.saturating_sub(self.memory);
        if more == 0 {
            return true;
        }
        // What is taken is counted, even if somebody else was faster.
        self.memory += more;
        take(&self.purse.memory, more)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        put_back(&self.purse.slots, self.slots, SLOTS_MEMORY);
        put_back(&self.purse.memory, self.memory, self.purse.all_memory);
    }
}

/// See the head of the module.
pub(super) struct HiveImport {
    port: StandIn,
    /// `None`: any bytes are a message.
    schema: Option<Schema>,
    reliable: bool,
    share: Share,
    /// Lost before the next message, and not counted in the ring yet.
    owed: u64,
    admit: Arc<dyn Admit>,
    /// What was admitted, and by which version.
    candidate: Candidate,
    admitted: u64,
    /// When it was announced; `None`: somebody reads it, or nobody is waited for any more.
    announced: Option<Instant>,
}

impl Imports for HiveImports {
    type Import = HiveImport;

    fn open(&self, candidate: &Candidate, first: u64) -> Result<HiveImport, ImportError> {
        let refused = |reason: String| ImportError::Refused { reason };
        let via = candidate.via.as_ref().ok_or_else(|| refused("it names no host".to_owned()))?;
        let admitted = self.admit.version();
        self.admit.check(candidate).map_err(refused)?;
        let schema = Schema::from_bytes(&candidate.schema).map_err(|error| refused(error.to_string()))?;
        if schema.fingerprint() != candidate.fingerprint {
            return Err(refused("its type is not the one that it is described as".to_owned()));
        }
        let asked = u64::from(candidate.capacity).clamp(CAPACITY_MIN, CAPACITY_MAX);
        let (capacity, share) = self.purse.open(asked).map_err(refused)?;
        let kind = Kind { fingerprint: candidate.fingerprint, schema: candidate.schema.clone() };
        let contract = Contract {
            reliable: candidate.reliable,
            history: candidate.history,
            // At most `CAPACITY_MAX`.
            capacity: capacity as u32,
            retained: 0,
        };
        let remote = Remote {
            host: via.host.clone(),
            leaf: via.leaf,
            publisher: via.publisher,
            node_name: via.node.as_str().to_owned(),
            first,
        };
        let memory = MEMORY_MAX.min(self.purse.all_memory);
        let port = StandIn::create(&self.member, &candidate.service, kind, contract, memory, remote)
            .map_err(|error| refused(error.to_string()))?;
        Ok(HiveImport {
            port,
            schema: (!schema.is_bytes()).then_some(schema),
            reliable: candidate.reliable,
            share,
            owed: 0,
            admit: Arc::clone(&self.admit),
            candidate: candidate.clone(),
            admitted,
            announced: Some(Instant::now()),
        })
    }
}

impl HiveImport {
    /// Counts in the ring what was lost, then makes sure that a message can follow.
    fn settle(&mut self) -> Result<(), ImportError> {
        self.port.drafter().skip_many(&mut self.owed).and_then(|()| self.port.drafter().admit()).map_err(
            |error| match error {
                AdmitError::Full { .. } => ImportError::Full,
                error => ImportError::Refused { reason: error.to_string() },
            },
        )
    }
}

impl Import for HiveImport {
    fn begin(&mut self, length: usize) -> Result<(), ImportError> {
        if let Some(reason) = self.refusal() {
            return Err(ImportError::Refused { reason });
        }
        let bytes = length as u64;
        self.settle()?;
        if bytes > INLINE_BYTES as u64 {
            let limit = self.share.limit().min(MEMORY_MAX);
            self.port.drafter().limit_growth(limit);
            self.port.drafter().begin(length).map_err(|error| match error {
                // What its subscribers have yet to read, or hold, takes all of it.
                AllocateError::MemoryOut { .. } if self.reliable && bytes <= limit / 2 => ImportError::Full,
                _ => ImportError::NoMemory { bytes },
            })?;
            self.share.takes(self.port.drafter().writer().taken());
            return Ok(());
        }
        self.port.drafter().begin(length).map_err(|_| ImportError::NoMemory { bytes })
    }

    fn reach(&mut self, length: usize) -> Result<(), ImportError> {
        if length <= self.port.drafter().memory().len() {
            return Ok(());
        }
        let no_memory = ImportError::NoMemory { bytes: length as u64 };
        self.port.drafter().reach(length).map_err(|_| no_memory.clone())?;
        if self.share.takes(self.port.drafter().writer().taken()) { Ok(()) } else { Err(no_memory) }
    }

    fn memory(&mut self) -> &mut [u8] {
        self.port.drafter().memory()
    }

    fn commit(&mut self) -> Result<(), ImportError> {
        if let Some(schema) = &self.schema
            && let Err(error) = schema.check_archive(self.port.drafter().memory())
        {
            self.port.drafter().abandon();
            return Err(ImportError::Invalid { why: error.to_string() });
        }
        self.settle()?;
        self.port.drafter().commit();
        Ok(())
    }

    fn announce(&mut self) {
        self.port.drafter().announce();
    }

    fn abandon(&mut self) {
        self.port.drafter().abandon();
    }

    fn skip(&mut self, messages: u64) {
        self.owed = self.owed.saturating_add(messages);
        // What is not counted yet is tried again with the next message, and when it is asked how much room there is.
        let _ = self.settle();
    }

    fn refusal(&self) -> Option<String> {
        let is_old = self.admit.version() != self.admitted;
        let refused = is_old.then(|| self.admit.check(&self.candidate).err()).flatten();
        refused.or_else(|| self.port.refusal().map(str::to_owned))
    }

    fn room(&mut self) -> u64 {
        if let Some(announced) = self.announced {
            if self.port.subscribers() == 0 && announced.elapsed() < FIRST_SUBSCRIBER {
                return 0;
            }
            self.announced = None;
        }
        if self.settle().is_err() {
            return 0;
        }
        self.port.drafter().room()
    }
}

impl Drop for HiveImport {
    fn drop(&mut self) {
        let _ = self.port.drafter().skip_many(&mut self.owed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_gets_less_and_what_is_given_back_is_there_again() {
        let purse = Purse::new(2 << 30);
        let mut shares = Vec::new();
        while let Ok((slots, share)) = purse.open(CAPACITY_MAX) {
            if shares.is_empty() {
                assert!(slots >= CAPACITY_MAX / 2);
            }
            shares.push(share);
        }
        assert!(shares.len() > 64);
        let taken: u64 = shares.iter().map(|share| share.slots).sum();
        assert!(taken <= SLOTS_MEMORY, "{taken}");
        drop(shares);
        // As many as a link can have streams, of the usual size.
        let mut shares: Vec<Share> = Vec::new();
        for _ in 0..hivemind_core::link::peering::STREAMS_MAX {
            let (slots, share) = purse.open(256).unwrap();
            assert_eq!(slots, 256);
            shares.push(share);
        }
        let limits: Vec<u64> = shares
            .iter_mut()
            .take(30)
            .map(|share| {
                let limit = share.limit();
                assert!(share.takes(limit));
                limit
            })
            .collect();
        assert!(limits[0] >= 400 << 20 && limits.is_sorted_by(|a, b| a >= b) && limits[29] >= MEMORY_FLOOR);
        assert!(!shares[0].takes(4 << 30));
        drop(shares);
        assert_eq!(purse.memory.load(Ordering::Relaxed), 2 << 30);
        assert_eq!(purse.slots.load(Ordering::Relaxed), SLOTS_MEMORY);
        // Who is refused takes nothing.
        let purse = Purse::new(MEMORY_FLOOR - 1);
        assert!(purse.open(256).is_err());
        assert_eq!(purse.memory.load(Ordering::Relaxed), MEMORY_FLOOR - 1);
    }
}
