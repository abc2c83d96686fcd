//! Publishers that stand for those of another host.
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hivemind_core::link::local::{Candidate, Import, ImportError, Imports};
use hivemind_core::protocol::{Offer, Remote, since_boot};
use hivemind_core::schema::Schema;
use hivemind_ring::draft::Drafter;
use hivemind_ring::layout::{CHUNK_MEMORY_MAX, MESSAGE_BYTES_MAX};
use hivemind_ring::mapped::{Mapped, MappedRing};
use hivemind_ring::writer::{AllocateError, RingConfig};

use crate::hub::PublisherEnd;
use crate::node::Inner;

/// The most slots that a publisher of another host gets here: 4 MiB.
const CAPACITY_MAX: u64 = 65_536;
/// The most memory for its messages, in bytes; it is taken as it is needed.
const MEMORY_MAX: u64 = 1 << 30;

/// So many lost messages are counted before other streams have their turn: a peer may claim any number.
const SKIPS_AT_ONCE: u64 = 524_288;
/// Who wanted it is attached within moments; a subscriber that is stopped, or has gone, holds nobody up for longer.
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
    pub(super) inner: Arc<Inner>,
    pub(super) admit: Arc<dyn Admit>,
}

/// See the head of the module.
pub(super) struct HiveImport {
    inner: Arc<Inner>,
    drafter: Drafter<Mapped>,
    index: u32,
    /// `None`: any bytes are a message.
    schema: Option<Schema>,
    reliable: bool,
    /// Lost before the next message, and not counted in the ring yet.
    owed: u64,
    refused: Arc<OnceLock<String>>,
    admit: Arc<dyn Admit>,
    /// What was admitted, and by which version.
    candidate: Candidate,
    admitted: u64,
    /// When it was announced; `None`: somebody reads it, or nobody is waited for any more.
    announced: Option<Instant>,
}

impl Imports for HiveImports {
    type Import = HiveImport;

    fn open(&self, candidate: &Candidate) -> Result<HiveImport, ImportError> {
        let refused = |reason: String| ImportError::Refused { reason };
        let via = candidate.via.as_ref().ok_or_else(|| refused("it names no host".to_owned()))?;
        let admitted = self.admit.version();
        self.admit.check(candidate).map_err(refused)?;
        let schema = Schema::from_bytes(&candidate.schema).map_err(|error| refused(error.to_string()))?;
        if schema.fingerprint() != candidate.fingerprint {
            return Err(refused("its type is not the one that it is described as".to_owned()));
        }
        let hub = &self.inner.hub;
        let index = hub.new_index();
        let config = RingConfig {
            node: hub.node(),
            index,
            fingerprint: candidate.fingerprint,
            capacity: u64::from(candidate.capacity).clamp(2, CAPACITY_MAX),
            message_max: MESSAGE_BYTES_MAX,
            chunk_memory: CHUNK_MEMORY_MAX.min(MEMORY_MAX),
            reliable: candidate.reliable,
            history: u64::from(candidate.history),
            retained: 0,
            bell: 0,
        };
        let slots = config.slots();
        let out_of = |error: &dyn std::fmt::Display| refused(error.to_string());
        let bell = hub.bells().take().map_err(|error| out_of(&error))?;
        let writer = MappedRing::create(hub.backend(), config, bell).map_err(|error| out_of(&error))?;
        let offer = Offer {
            index,
            service: candidate.service.as_str().to_owned(),
            fingerprint: candidate.fingerprint,
            schema: candidate.schema.clone(),
            reliable: candidate.reliable,
            history: u64::from(candidate.history).min(slots - 1) as u32,
            capacity: slots as u32,
            retained: 0,
            born: since_boot(),
            stands_for: None,
            via: Some(Remote {
                host: via.host.clone(),
                leaf: via.leaf,
                publisher: via.publisher,
                node_name: via.node.as_str().to_owned(),
            }),
            begins: true,
        };
        let (desk, ring) = (Arc::clone(writer.desk()), Arc::clone(writer.ring()));
        let refused = Arc::new(OnceLock::new());
        hub.add_publisher(
            index,
            PublisherEnd { offer: offer.clone(), desk, ring, refused: Some(Arc::clone(&refused)) },
        );
        self.inner.session().stand_for(offer);
        Ok(HiveImport {
            inner: Arc::clone(&self.inner),
            drafter: Drafter::new(writer),
            index,
            schema: (!schema.is_bytes()).then_some(schema),
            reliable: candidate.reliable,
            owed: 0,
            refused,
            admit: Arc::clone(&self.admit),
            candidate: candidate.clone(),
            admitted,
            announced: Some(Instant::now()),
        })
    }
}

impl HiveImport {
    /// Counts in the ring what was lost. False: there is more than can be counted now.
    fn settle(&mut self) -> bool {
        for _ in 0..self.owed.min(SKIPS_AT_ONCE) {
            if self.drafter.admit().is_err() {
                return false;
            }
            self.drafter.skip();
            self.owed -= 1;
        }
        self.owed == 0
    }
}

impl Import for HiveImport {
    fn begin(&mut self, length: usize) -> Result<(), ImportError> {
        if let Some(reason) = self.refusal() {
            return Err(ImportError::Refused { reason });
        }
        let bytes = length as u64;
        if !self.settle() || self.drafter.admit().is_err() {
            return Err(ImportError::Full);
        }
        self.drafter.begin(length).map_err(|error| match error {
            // What its subscribers have yet to read, or hold, takes all of it.
            AllocateError::MemoryOut { .. } if self.reliable && bytes <= MEMORY_MAX / 2 => ImportError::Full,
            _ => ImportError::NoMemory { bytes },
        })
    }

    fn memory(&mut self) -> &mut [u8] {
        self.drafter.memory()
    }

    fn commit(&mut self) -> Result<(), ImportError> {
        if let Some(schema) = &self.schema
            && let Err(error) = schema.check_archive(self.drafter.memory())
        {
            self.drafter.abandon();
            return Err(ImportError::Invalid { why: error.to_string() });
        }
        if !self.settle() || self.drafter.admit().is_err() {
            return Err(ImportError::Full);
        }
        self.drafter.commit();
        Ok(())
    }

    fn announce(&mut self) {
        self.drafter.announce();
    }

    fn abandon(&mut self) {
        self.drafter.abandon();
    }

    fn skip(&mut self, messages: u64) {
        self.owed = self.owed.saturating_add(messages);
        self.settle();
    }

    fn refusal(&self) -> Option<String> {
        let is_old = self.admit.version() != self.admitted;
        let refused = is_old.then(|| self.admit.check(&self.candidate).err()).flatten();
        refused.or_else(|| self.refused.get().cloned())
    }

    fn room(&mut self) -> u64 {
        if let Some(announced) = self.announced {
            if self.drafter.writer().desk().count() == 0 && announced.elapsed() < FIRST_SUBSCRIBER {
                return 0;
            }
            self.announced = None;
        }
        self.settle();
        self.drafter.room()
    }
}

impl Drop for HiveImport {
    fn drop(&mut self) {
        // As a publisher: the ring says that it is closed, and the root hears of it.
        self.settle();
        self.inner.hub.remove_publisher(self.index);
        self.inner.session().withdraw(self.index);
    }
}
