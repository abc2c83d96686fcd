//! The untyped sending end: a ring, and what the hive knows of it.
//!
//! [`make`] is the only place where the ring of a publisher is created and listed; [`withdraw`] the only one
//! where it goes. An [`Outlet`] is announced and waits for the root's answer; a [`StandIn`] publishes for a
//! publisher of another host, and hears later if it was refused.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hivemind_core::contract::{Author, Contract, Delivery, Kind, Pattern, Remote};
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::{EndId, Misfit, Offer};
use hivemind_ring::archive;
use hivemind_ring::draft::Drafter;
use hivemind_ring::layout::{CAPACITY_MAX, CHUNK_MEMORY_MAX, INLINE_BYTES, MESSAGE_BYTES_MAX};
use hivemind_ring::line::Line;
use hivemind_ring::mapped::{CreateError, Mapped, MappedRing};
use hivemind_ring::segment::{HugePages, Prefaulted};
use hivemind_ring::writer::{AdmitError, AllocateError, RingConfig, Writer};

use super::batch::Batch;
use super::error::{PublisherError, SendError, WaitError};
use super::hub::PublisherEnd;
use super::member::Member;
use crate::clock::since_boot;
use crate::session::{Misfits, Mismatch, NodeSide as _};

/// Messages that a ring holds by default: 256 slots of 64 bytes stay in a core's first cache.
const CAPACITY: u64 = 256;
/// Largest message by default, in bytes.
const MAX_MESSAGE: u64 = 64 << 20;
/// Bound of the memory for messages that do not fit into a slot, by default, in bytes. It is taken as it is
/// needed.
const MAX_MEMORY: u64 = 256 << 20;
/// A blocked reliable publisher that waits for memory (not for a slot) looks again after this time.
const MEMORY_RECHECK: Duration = Duration::from_micros(200);
/// A blocked publisher looks this often whether its node is leaving.
const LEAVING_RECHECK: Duration = Duration::from_millis(20);
/// After waiting in vain for subscribers for this long, a publisher asks the root why, ...
const WORTH_ASKING: Duration = Duration::from_millis(100);
/// ... and waits for the answer at most this long.
const ASKING: Duration = Duration::from_millis(500);

const _: () = assert!(MAX_MESSAGE <= MESSAGE_BYTES_MAX && MAX_MEMORY <= CHUNK_MEMORY_MAX);

/// What a sending end is to be; see `hivemind::PublisherBuilder`, which says the same to users.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutletOptions {
    /// Messages that the ring holds; rounded up to a power of two.
    pub capacity: u64,
    /// Past messages that a subscriber gets which attaches later.
    pub history: u64,
    /// Last messages that stay readable when the publisher is gone.
    pub retained: u64,
    /// Lose nothing.
    pub reliable: bool,
    /// Largest message, in bytes.
    pub max_message: Option<u64>,
    /// Bound of the memory for messages, in bytes.
    pub max_memory: Option<u64>,
    /// Bytes of it that are mapped ahead.
    pub prefault: Option<u64>,
    /// In huge pages.
    pub huge_pages: bool,
}

impl Default for OutletOptions {
    fn default() -> Self {
        OutletOptions {
            capacity: CAPACITY,
            history: 0,
            retained: 0,
            reliable: false,
            max_message: None,
            max_memory: None,
            prefault: None,
            huge_pages: false,
        }
    }
}

/// Sends the messages of one publisher. `Send`, not `Sync`: it is one end of its own ring.
///
/// Dropping it tells the subscribers that it is gone; they still read what was committed.
pub struct Outlet {
    writer: Writer<Mapped>,
    service: ServiceName,
    index: u32,
    retained: u64,
    ahead: Ahead,
    member: Arc<Member>,
}

/// What was mapped ahead.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    prefaulted: Option<Prefaulted>,
    huge: Option<HugePages>,
}

/// How much is to be mapped ahead.
#[derive(Clone, Copy)]
struct AheadOptions {
    prefault: Option<u64>,
    huge_pages: bool,
}

/// Makes a ring and lists its publisher.
fn make(
    member: &Member,
    config: RingConfig,
    options: AheadOptions,
    offer: Offer,
    refused: Option<Arc<OnceLock<String>>>,
) -> Result<(Writer<Mapped>, Ahead), CreateError> {
    let hub = member.hub();
    let bell = hub.bells().take()?;
    let create = if options.huge_pages { MappedRing::create_aligned } else { MappedRing::create };
    let writer = create(hub.backend(), config, bell)?;
    let ahead = CreateError::Segment;
    let bytes = options.prefault.unwrap_or(0);
    let huge = options.huge_pages.then(|| writer.ring().huge_pages(bytes)).transpose().map_err(ahead)?;
    // Huge pages are mapped ahead as they are made; asking for the memory twice could find only half of it.
    let prefaulted = match (options.prefault, huge.and_then(|huge| huge.prefaulted)) {
        (Some(bytes), None) => Some(writer.ring().prefault(bytes).map_err(ahead)?),
        (None, _) => None,
        (Some(_), prefaulted) => prefaulted,
    };
    if prefaulted.is_some() || huge.is_some() {
        tracing::debug!(service = offer.service, ?prefaulted, ?huge, "memory was mapped ahead");
    }
    let (desk, ring) = (Arc::clone(writer.desk()), Arc::clone(writer.ring()));
    hub.add_publisher(offer.index, PublisherEnd { offer, desk, ring, refused });
    Ok((writer, Ahead { prefaulted, huge }))
}

/// Takes a publisher out of the hive. Its ring is lent to subscribers that are on their way to it: those of a
/// new root as well, of which nobody here knows.
fn withdraw(member: &Member, index: u32) {
    let ring = member.hub().inspect(index);
    member.hub().remove_publisher(index);
    member.session().withdraw_lending(index, ring);
}

/// What the root is told of a publisher that begins.
fn offer_of(index: u32, service: &ServiceName, kind: Kind, contract: Contract, author: Author) -> Offer {
    let offer = Offer::new(index, service.as_str(), kind, contract);
    Offer { born: since_boot(), author, begins: true, ..offer }
}

/// What is promised, with the sizes that a ring of this configuration has. Whatever else was asked for stays.
fn contract_of(asked: Contract, config: &RingConfig) -> Contract {
    // Beyond these bounds the ring is refused; see `check`, and `MappedRing::create`.
    let slots = config.slots().min(CAPACITY_MAX);
    Contract {
        history: config.history.min(slots - 1) as u32,
        capacity: slots as u32,
        retained: config.retained.min(slots - 1) as u32,
        ..asked
    }
}

/// Whether a ring can have these options. Nothing is cut to what is possible in silence.
fn check(options: &OutletOptions, config: &RingConfig) -> Result<(), PublisherError> {
    if options.capacity == 0 {
        return Err(PublisherError::NoCapacity);
    }
    let capacity = config.slots();
    for (option, asked) in [("history", options.history), ("retain", options.retained)] {
        // Beyond the largest ring the memory is refused.
        if asked >= capacity && options.capacity <= CAPACITY_MAX {
            return Err(PublisherError::Past { option, asked, capacity });
        }
    }
    Ok(())
}

impl Outlet {
    /// Makes the ring and announces it. Waits for the root's answer, at most for the patience of the node,
    /// and until the subscribers that are there are attached; in a batch, that waits.
    ///
    /// # Errors
    /// A name that does not parse; another type on this service; no root; bounds, memory or descriptors
    /// exceeded.
    pub fn create(
        member: &Arc<Member>,
        service: &str,
        kind: Kind,
        options: &OutletOptions,
        batch: Option<&Batch>,
    ) -> Result<Outlet, PublisherError> {
        member.home().check()?;
        let service = ServiceName::parse(service)?;
        let max_message =
            options.max_message.unwrap_or(MAX_MESSAGE.min(options.max_memory.unwrap_or(u64::MAX)));
        let max_memory = options.max_memory.unwrap_or_else(|| MAX_MEMORY.max(max_message.saturating_mul(4)));
        let hub = member.hub();
        let index = hub.new_index();
        let config = RingConfig {
            node: hub.node(),
            index,
            fingerprint: kind.fingerprint,
            capacity: options.capacity,
            message_max: max_message,
            chunk_memory: max_memory,
            reliable: options.reliable,
            history: options.history,
            retained: options.retained,
            bell: 0,
        };
        check(options, &config)?;
        let delivery = Delivery::reliable_if(options.reliable);
        let asked = Contract { pattern: Pattern::Messages, delivery, ..Contract::default() };
        let offer = offer_of(index, &service, kind, contract_of(asked, &config), Author::Own);
        let ahead = AheadOptions { prefault: options.prefault, huge_pages: options.huge_pages };
        let (session, gathering) = (member.session(), batch.map(Batch::gathering));
        // Taking much memory ahead takes long, so the root hears of it only when that is done.
        let announced = if options.prefault.is_some() || options.huge_pages {
            make(member, config, ahead, offer.clone(), None)
                .map_err(PublisherError::from)
                .and_then(|made| session.offer_while(offer, gathering, || Ok(made)))
        } else {
            session.offer_while(offer.clone(), gathering, || Ok(make(member, config, ahead, offer, None)?))
        };
        let (writer, ahead) = announced.inspect_err(|_: &PublisherError| {
            hub.remove_publisher(index);
            // A root that came in between may have heard of it in the roll call.
            session.withdraw(index);
        })?;
        let retained = options.retained;
        Ok(Outlet { writer, service, index, retained, ahead, member: Arc::clone(member) })
    }

    /// The ring's writer, for codecs that write messages in place.
    #[inline(always)]
    pub fn writer(&mut self) -> &mut Writer<Mapped> {
        &mut self.writer
    }

    /// Whether a message may be committed now.
    ///
    /// # Errors
    /// [`SendError::Full`] and the like.
    #[inline(always)]
    pub fn admit(&mut self) -> Result<(), SendError> {
        match self.writer.admit() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.not_admitted(error)),
        }
    }

    /// Why there was no memory for a message.
    #[cold]
    #[must_use]
    pub fn refusal(&self, error: AllocateError) -> SendError {
        refuse(&self.service, error)
    }

    /// Sends bytes as they are, which must be an archive of the kind of the service: subscribers check it.
    /// Returns how many subscribers are attached.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        self.admit()?;
        self.send_admitted(bytes)
    }

    /// As [`Outlet::send_bytes`], after [`Outlet::admit`].
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline]
    pub fn send_admitted(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        if bytes.len() <= INLINE_BYTES {
            let mut line = Line::default();
            line.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            return Ok(self.writer.send_inline(line.words(), bytes.len()));
        }
        match archive::Loan::take(&mut self.writer, bytes.len()) {
            Ok(mut loan) => {
                loan.copy_from_slice(bytes);
                Ok(loan.send())
            }
            Err(error) => Err(refuse(&self.service, error)),
        }
    }

    /// Lends memory for a message of `length` bytes. Never blocks.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline(always)]
    pub fn loan(&mut self, length: usize) -> Result<archive::Loan<'_>, SendError> {
        self.admit()?;
        archive::Loan::take(&mut self.writer, length).map_err(|error| refuse(&self.service, error))
    }

    /// As [`Outlet::loan`], but waits when a subscriber is behind, or holds the memory, at most for `timeout`
    /// and not beyond the moment when the node begins to leave.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::MemoryOut`] when the time is over or the node is leaving;
    /// otherwise as `loan`.
    pub fn loan_timeout(&mut self, length: usize, timeout: Duration) -> Result<archive::Loan<'_>, SendError> {
        let start = Instant::now();
        loop {
            let left = self.await_slot(start, timeout)?;
            // Whether there is memory; the loan itself is taken below, where it can be given away.
            let probe = archive::Loan::take(&mut self.writer, length).map(drop);
            let may_come = matches!(probe, Err(AllocateError::MemoryOut { .. })) && !left.is_zero();
            if !may_come {
                return self.loan(length);
            }
            std::thread::sleep(MEMORY_RECHECK.min(left));
        }
    }

    /// Waits until a message may be committed, at most until `timeout` after `start`. The time that is left.
    ///
    /// # Errors
    /// [`SendError::Full`] when the time is over or the node is leaving.
    pub fn await_slot(&mut self, start: Instant, timeout: Duration) -> Result<Duration, SendError> {
        loop {
            let mut left = timeout.saturating_sub(start.elapsed());
            if self.member.hub().services_ending() {
                left = Duration::ZERO;
            }
            match self.writer.admit_within(left.min(LEAVING_RECHECK)) {
                Ok(()) => return Ok(left),
                Err(AdmitError::Full { .. }) if left > LEAVING_RECHECK => {}
                Err(error) => return Err(self.not_admitted(error)),
            }
        }
    }

    /// Waits a moment for memory that subscribers hold, at most `left`.
    pub fn await_memory(&self, left: Duration) {
        std::thread::sleep(MEMORY_RECHECK.min(left));
    }

    /// Waits until `count` subscribers are attached, at most for `timeout`.
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over; and, if the time was 0.1 s or more and
    /// the root answers within another 0.5 s, which subscriber waits for this service with another type.
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        let hub = self.member.hub();
        let error = |found, forked| WaitError {
            what: "subscribers",
            of: self.service.as_str().to_owned(),
            found,
            wanted: count,
            waited: timeout,
            mismatch: None,
            forked,
        };
        hub.home().check().map_err(|forked| error(0, Some(forked)))?;
        let found = hub.wait_until(timeout, |_| {
            let found = self.subscribers();
            if found >= count { Ok(()) } else { Err(found) }
        });
        found.map_err(|found| WaitError { mismatch: self.misfit(timeout), ..error(found, None) })
    }

    /// A subscriber that waits for this service in vain because it expects another type, if the root says so
    /// in time.
    fn misfit(&self, waited: Duration) -> Option<String> {
        // A program with a shorter wait polls, and the root has better things to do.
        if waited < WORTH_ASKING || self.member.hub().leaving() {
            return None;
        }
        let misfits = self.member.session().misfits(self.index, ASKING).ok()??;
        let Misfits { count, first: Misfit { node_name, filter, asks } } = misfits;
        let own = self.member.hub().kind_of(self.index)?;
        let Some(asked) = asks.kind.filter(|_| asks.pattern == Pattern::Messages) else {
            let pattern = asks.pattern;
            return Some(format!(
                "`{filter}` in node {node_name} is for {pattern}, not for {}",
                Pattern::Messages
            ));
        };
        let Mismatch { ours, theirs, difference } = Mismatch::between(Some(&own), &asked);
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        Some(format!("`{filter}` in node {node_name}{more} expects {theirs}, not {ours} ({difference})"))
    }

    /// How many subscribers are attached now; in a forked child none.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        // In this order: who is counted and does not know it yet is seen to be so.
        let counted = self.writer.desk().count();
        counted - usize::from(counted > 0 && self.member.hub().is_introducing(self.index))
    }

    /// Messages sent so far; also the sequence of the next one.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.writer.published()
    }

    /// What was mapped ahead and how; `None` if that was not asked for.
    #[must_use]
    pub fn prefaulted(&self) -> Option<Prefaulted> {
        self.ahead.prefaulted
    }

    /// How many bytes were asked for in huge pages and how many were obtained; `None` if that was not asked
    /// for.
    #[must_use]
    pub fn huge_pages(&self) -> Option<HugePages> {
        self.ahead.huge
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Its node.
    #[must_use]
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// This publisher, as its subscribers see it.
    #[must_use]
    pub fn id(&self) -> EndId {
        EndId { node: self.member.hub().node(), index: self.index }
    }

    #[cold]
    fn not_admitted(&self, error: AdmitError) -> SendError {
        let service = self.service.clone();
        match error {
            AdmitError::Full { capacity } => SendError::Full { service, capacity },
            AdmitError::Forked(forked) => SendError::Forked(forked),
            _ => SendError::SequencesOut { service },
        }
    }
}

/// Why there was no memory for a message, in the words of the surface.
#[cold]
fn refuse(service: &ServiceName, error: AllocateError) -> SendError {
    let service = service.clone();
    match error {
        AllocateError::TooLarge { bytes, limit } => SendError::TooLarge { service, bytes, limit },
        AllocateError::System { bytes, source } => {
            SendError::SystemMemoryOut { service, bytes, reason: source.to_string() }
        }
        AllocateError::MemoryOut { bytes, limit } => SendError::MemoryOut { service, bytes, limit },
        other => SendError::SystemMemoryOut { service, bytes: 0, reason: other.to_string() },
    }
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet")
            .field("service", &self.service)
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.member.home().is_here() {
            return;
        }
        // The writer, dropped after this, says in shared memory that it is closed: no root is needed for
        // that.
        let retained = self.retained > 0;
        if retained {
            // A keeper reads on when it says so.
            self.writer.close();
        }
        let name = self.member.session().name();
        let kept = retained.then(|| self.member.hub().keep_own(self.index, name)).flatten();
        withdraw(&self.member, self.index);
        if let Some(offer) = kept {
            self.member.session().stand_for(offer);
        }
    }
}

/// Publishes what a publisher of another host sends; its messages are drafted as their bytes arrive.
pub struct StandIn {
    drafter: Drafter<Mapped>,
    index: u32,
    refused: Arc<OnceLock<String>>,
    member: Arc<Member>,
}

impl StandIn {
    /// Makes the ring and announces it. Does not wait: [`StandIn::refusal`] says later if the root refuses
    /// it.
    ///
    /// # Errors
    /// No memory or no descriptor.
    pub fn create(
        member: &Arc<Member>,
        service: &ServiceName,
        kind: Kind,
        contract: Contract,
        memory: u64,
        via: Remote,
    ) -> Result<StandIn, CreateError> {
        let hub = member.hub();
        let index = hub.new_index();
        let config = RingConfig {
            node: hub.node(),
            index,
            fingerprint: kind.fingerprint,
            capacity: u64::from(contract.capacity),
            message_max: MESSAGE_BYTES_MAX,
            chunk_memory: CHUNK_MEMORY_MAX.min(memory),
            reliable: contract.is_reliable(),
            history: u64::from(contract.history),
            retained: u64::from(contract.retained),
            bell: 0,
        };
        let offer = offer_of(index, service, kind, contract_of(contract, &config), Author::Remote(via));
        let refused = Arc::new(OnceLock::new());
        let nothing = AheadOptions { prefault: None, huge_pages: false };
        let (writer, _) = make(member, config, nothing, offer.clone(), Some(Arc::clone(&refused)))?;
        member.session().stand_for(offer);
        Ok(StandIn { drafter: Drafter::new(writer), index, refused, member: Arc::clone(member) })
    }

    /// What messages are drafted with.
    pub fn drafter(&mut self) -> &mut Drafter<Mapped> {
        &mut self.drafter
    }

    /// How many subscribers are attached.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.drafter.writer().desk().count()
    }

    /// Why the root refused it; `None`: it did not so far.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.refused.get().map(String::as_str)
    }
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandIn").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if self.member.home().is_here() {
            withdraw(&self.member, self.index);
        }
    }
}
