//! Publishers that stand for those of another host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hivemind_core::contract::{Contract, Pattern, Remote};
use hivemind_core::link::candidate::Candidate;
use hivemind_core::schema::{Schema, SchemaError};
use hivemind_ring::layout::{CAPACITY_MIN, INLINE_BYTES};
use hivemind_ring::mapped::CreateError;
use hivemind_ring::writer::{AdmitError, AllocateError};
use hivemind_runtime::ports::{Member, StandIn};

use crate::local::{Import, ImportError, Imports};
use crate::permits::{Admit, NotPermitted};
use crate::purse::{CAPACITY_MAX, MEMORY_MAX, Purse, PurseError, Share};

/// Longest wait for a first subscriber. Those that want the publisher are attached within moments, unless
/// they are stopped or gone.
const FIRST_SUBSCRIBER: Duration = Duration::from_secs(1);

/// Why nothing can stand for a publisher. Its host is told so.
#[derive(Debug, thiserror::Error)]
enum StandInError {
    #[error("it names no host; the peer is damaged or hostile")]
    NoHost,
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    #[error("links carry messages, not {pattern}; subscribe at its host")]
    Pattern { pattern: Pattern },
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("its type is not the one that it is described as; the peer is damaged or hostile")]
    OtherType,
    #[error(transparent)]
    Purse(#[from] PurseError),
    #[error(transparent)]
    Memory(#[from] CreateError),
}

/// Publishes into this hive for one link.
pub(super) struct HiveImports {
    pub(super) member: Arc<Member>,
    pub(super) admit: Arc<dyn Admit>,
    pub(super) purse: Arc<Purse>,
}

/// See the head of the module.
pub(super) struct HiveImport {
    port: StandIn,
    /// `None`: any bytes are a message.
    schema: Option<Schema>,
    share: Share,
    /// Lost before the next message, and not counted in the ring yet.
    owed: u64,
    admit: Arc<dyn Admit>,
    /// What was admitted, and by which version.
    candidate: Candidate,
    admitted: u64,
    /// When it was announced; `None`: it has a subscriber, or none is waited for any more.
    announced: Option<Instant>,
}

impl Imports for HiveImports {
    type Import = HiveImport;

    fn open(&self, candidate: &Candidate, first: u64) -> Result<HiveImport, ImportError> {
        self.stand_in(candidate, first).map_err(|error| ImportError::Refused { reason: error.to_string() })
    }
}

impl HiveImports {
    fn stand_in(&self, candidate: &Candidate, first: u64) -> Result<HiveImport, StandInError> {
        let via = candidate.via.as_ref().ok_or(StandInError::NoHost)?;
        let admitted = self.admit.version();
        self.admit.check(candidate)?;
        let Contract { pattern, capacity, .. } = candidate.contract;
        if pattern != Pattern::Messages {
            return Err(StandInError::Pattern { pattern });
        }
        let schema = Schema::from_bytes(&candidate.kind.schema)?;
        if schema.fingerprint() != candidate.kind.fingerprint {
            return Err(StandInError::OtherType);
        }
        let asked = u64::from(capacity).clamp(CAPACITY_MIN, CAPACITY_MAX);
        let (capacity, share) = self.purse.open(asked)?;
        // At most `CAPACITY_MAX`. What it retains stays on its host.
        let contract = Contract { capacity: capacity as u32, retained: 0, ..candidate.contract };
        let remote = Remote {
            host: via.host.clone(),
            leaf: via.leaf,
            publisher: via.publisher,
            node_name: via.node.clone(),
            first,
        };
        let memory = MEMORY_MAX.min(self.purse.all_memory());
        let (service, kind) = (&candidate.service, candidate.kind.clone());
        let port = StandIn::create(&self.member, service, kind, contract, memory, remote)?;
        Ok(HiveImport {
            port,
            schema: (!schema.is_bytes()).then_some(schema),
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
            let is_reliable = self.candidate.contract.is_reliable();
            self.port.drafter().begin(length).map_err(|error| match error {
                // What its subscribers have yet to read, or hold, takes all of it.
                AllocateError::MemoryOut { .. } if is_reliable && bytes <= limit / 2 => ImportError::Full,
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
        // What is not counted yet is tried again with the next message, and when it is asked how much room
        // there is.
        let _ = self.settle();
    }

    fn refusal(&self) -> Option<String> {
        let is_old = self.admit.version() != self.admitted;
        let refused = is_old.then(|| self.admit.check(&self.candidate).err()).flatten();
        refused.map(|refused| refused.to_string()).or_else(|| self.port.refusal().map(str::to_owned))
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
