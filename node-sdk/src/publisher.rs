//! The publishing end of a service.

use crate::error::{LoanError, PublisherError, SendError, WaitError};
use crate::hub::PublisherEnd;
use crate::message::Message;
use crate::node::Inner;
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::{EndId, Offer, since_boot};
use hivemind_core::schema::Schema;
use hivemind_core::session::{Misfits, Mismatch, NodeSide as _};
use hivemind_ring::archive;
use hivemind_ring::layout::{CAPACITY_MAX, CHUNK_MEMORY_MAX, MESSAGE_BYTES_MAX};
use hivemind_ring::mapped::{CreateError, Mapped, MappedRing};
use hivemind_ring::segment::{HugePages, Prefaulted};
use hivemind_ring::writer::{AdmitError, AllocateError, RingConfig, Writer};
use rkyv::ser::allocator::Arena;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages that a ring holds by default: 256 slots of 64 bytes stay in a core's first cache.
const CAPACITY: u64 = 256;
/// Largest message by default, in bytes.
const MAX_MESSAGE: u64 = 64 << 20;
/// Bound of the memory for messages that do not fit into a slot, by default, in bytes. It is taken as it is needed.
const MAX_MEMORY: u64 = 256 << 20;
/// A blocked reliable publisher that waits for memory (not for a slot) looks again after this time.
const MEMORY_RECHECK: Duration = Duration::from_micros(200);
/// A blocked publisher looks this often whether its node is leaving.
const LEAVING_RECHECK: Duration = Duration::from_millis(20);
/// After waiting in vain for subscribers for this long, a publisher asks the root why, ...
const WORTH_ASKING: Duration = Duration::from_millis(100);
/// ... and waits for the answer at most this long.
const ASKING: Duration = Duration::from_millis(500);

/// Publishes messages of type `T` on one service. `Send`, not `Sync`: it is one end of its own ring.
///
/// Dropping it tells the subscribers that it is gone; they still read what was committed.
pub struct Publisher<T: Message + ?Sized> {
    outlet: Outlet,
    index: u32,
    retained: u64,
    prefaulted: Option<Prefaulted>,
    huge: Option<HugePages>,
    inner: Arc<Inner>,
    message: PhantomData<fn(&T)>,
}

/// What a message needs in order to be sent.
#[doc(hidden)]
pub struct Outlet {
    pub(crate) writer: Writer<Mapped>,
    /// Grows with the first message that needs it: few types do, and 2 KiB are a tenth of an idle publisher.
    pub(crate) scratch: Arena,
    pub(crate) service: ServiceName,
    /// Bytes that the next message will probably need.
    pub(crate) expected: usize,
}

/// A ring, and what was taken ahead for it.
type Made = (Writer<Mapped>, Option<Prefaulted>, Option<HugePages>);

/// Options of a publisher; all have defaults.
#[derive(Debug)]
pub struct PublisherBuilder<T: ?Sized> {
    inner: Arc<Inner>,
    service: String,
    capacity: u64,
    history: u64,
    retained: u64,
    reliable: bool,
    max_message: Option<u64>,
    max_memory: Option<u64>,
    prefault: Option<u64>,
    huge_pages: bool,
    message: PhantomData<fn(&T)>,
}

impl<T: Message + ?Sized> PublisherBuilder<T> {
    pub(crate) fn new(inner: Arc<Inner>, service: &str) -> Self {
        PublisherBuilder {
            inner,
            service: service.to_owned(),
            capacity: CAPACITY,
            history: 0,
            retained: 0,
            reliable: false,
            max_message: None,
            max_memory: None,
            prefault: None,
            huge_pages: false,
            message: PhantomData,
        }
    }

    /// How many messages the ring holds: rounded up to a power of two, from 2 to 1,048,576. Default 256.
    #[must_use]
    pub fn capacity(mut self, messages: u64) -> Self {
        self.capacity = messages;
        self
    }

    /// How many past messages a subscriber gets that attaches later; less than the capacity. Default 0.
    #[must_use]
    pub fn history(mut self, messages: u64) -> Self {
        self.history = messages;
        self
    }

    /// How many of its last messages stay readable when the publisher is gone, for subscribers that come later; less than the
    /// capacity. Default 0.
    ///
    /// Up to two other nodes of the same user keep the ring (and this one, if its process goes on), so they survive the death of this process
    /// as long as one of those lives; `hm ls` tells how many there are. A later life of the node (of the same name) replaces what this one
    /// has left as soon as it has ended itself with a message. Memory for what is retained is never given up for newer messages: a
    /// publisher whose [`max_memory`](Self::max_memory) is too small for them says [`SendError::MemoryOut`]. A segment with a name
    /// (feature `named-segments`) ends with its process, so nothing of it stays.
    #[must_use]
    pub fn retain(mut self, messages: u64) -> Self {
        self.retained = messages;
        self
    }

    /// Lose nothing: when a subscriber is `capacity` messages behind, `send` says [`SendError::Full`].
    #[must_use]
    pub fn reliable(mut self) -> Self {
        self.reliable = true;
        self
    }

    /// Largest message in bytes, up to 256 MiB. Default 64 MiB.
    #[must_use]
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.max_message = Some(bytes);
        self
    }

    /// Bound of the shared memory for messages that do not fit into a slot (56 bytes). It is taken from the system as it is
    /// needed, and kept until the publisher is dropped. When it is used up, a lossy service gives up its oldest
    /// messages. Default 256 MiB, or four times the largest message.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// Take the first `bytes` of that memory from the system now and map them, so that the first messages do not: touching a
    /// page for the first time costs 1 to 3 us, which is some 0.5 ms for a message of 1 MiB. [`Publisher::prefaulted`] says what
    /// was done. Default: nothing but the slots is taken ahead.
    #[must_use]
    pub fn prefault(mut self, bytes: u64) -> Self {
        self.prefault = Some(bytes);
        self
    }

    /// Put what is [prefaulted](Self::prefault) into huge pages (2 MiB each, rounded up), as far as the kernel can: for
    /// services that move much data. Getting none is no error; [`Publisher::huge_pages`] says how much it was.
    #[must_use]
    pub fn huge_pages(mut self) -> Self {
        self.huge_pages = true;
        self
    }

    /// Makes the ring and announces it. Waits for the root's answer, at most for the patience of the node, and until the subscribers that
    /// are there are attached: they get everything, from the first message on, whatever becomes of this process. For one
    /// that does not answer (it is stopped) it waits at most 100 ms, and not again until it does; such a one gets, when it goes
    /// on, what the ring still holds, and counts the rest as lost.
    ///
    /// # Errors
    /// A name that does not parse; another type on this service; no root; bounds, memory or descriptors exceeded.
    pub fn create(self) -> Result<Publisher<T>, PublisherError> {
        self.inner.hub.home().check()?;
        let service: ServiceName = ServiceName::parse(&self.service)?;
        let max_message = self.max_message.unwrap_or(MAX_MESSAGE.min(self.max_memory.unwrap_or(u64::MAX)));
        let max_memory = self.max_memory.unwrap_or_else(|| MAX_MEMORY.max(max_message.saturating_mul(4)));
        let hub = &self.inner.hub;
        let schema = Schema::try_of::<T>()
            .map_err(|source| PublisherError::Type { type_name: std::any::type_name::<T>(), source })?;
        let index = hub.new_index();
        let config = RingConfig {
            node: hub.node(),
            index,
            fingerprint: schema.fingerprint(),
            capacity: self.capacity,
            message_max: max_message,
            chunk_memory: max_memory,
            reliable: self.reliable,
            history: self.history,
            retained: self.retained,
            bell: 0,
        };
        let slots = config.slots().min(CAPACITY_MAX);
        let offer = Offer {
            index,
            service: service.as_str().to_owned(),
            fingerprint: schema.fingerprint(),
            schema: schema.to_bytes(),
            reliable: self.reliable,
            history: self.history.min(slots - 1) as u32,
            capacity: slots as u32,
            retained: self.retained.min(slots - 1) as u32,
            born: since_boot(),
            stands_for: None,
            via: None,
            begins: true,
        };
        let session = self.inner.session();
        // Taking much memory ahead takes long, so the root hears of it only when that is done.
        let announced = if self.prefault.is_some() || self.huge_pages {
            self.make(&service, config, offer.clone()).and_then(|made| {
                session.offer(offer)?;
                Ok(made)
            })
        } else {
            session.offer_while(offer.clone(), || self.make(&service, config, offer))
        };
        let (writer, prefaulted, huge) = announced.inspect_err(|_| {
            hub.remove_publisher(index);
            // A root that came in between may have heard of it in the roll call.
            session.withdraw(index);
        })?;
        let outlet = Outlet { writer, scratch: Arena::with_capacity(0), service, expected: 0 };
        let retained = self.retained;
        Ok(Publisher { outlet, index, retained, prefaulted, huge, inner: self.inner, message: PhantomData })
    }

    /// Makes the ring and lists the publisher.
    fn make(&self, service: &ServiceName, config: RingConfig, offer: Offer) -> Result<Made, PublisherError> {
        let hub = &self.inner.hub;
        let bell = hub.bells().take()?;
        let writer = if self.huge_pages {
            MappedRing::create_aligned(hub.backend(), config, bell)?
        } else {
            MappedRing::create(hub.backend(), config, bell)?
        };
        let ahead = |error| PublisherError::Memory(CreateError::Segment(error));
        let bytes = self.prefault.unwrap_or(0);
        let huge = self.huge_pages.then(|| writer.ring().huge_pages(bytes)).transpose().map_err(ahead)?;
        // Huge pages are mapped ahead as they are made; asking for the memory twice could find only half of it.
        let prefaulted = match (self.prefault, huge.and_then(|huge| huge.prefaulted)) {
            (Some(bytes), None) => Some(writer.ring().prefault(bytes).map_err(ahead)?),
            (None, _) => None,
            (Some(_), prefaulted) => prefaulted,
        };
        if prefaulted.is_some() || huge.is_some() {
            tracing::debug!(%service, ?prefaulted, ?huge, "memory was mapped ahead");
        }
        let (desk, ring) = (Arc::clone(writer.desk()), Arc::clone(writer.ring()));
        hub.add_publisher(offer.index, PublisherEnd { offer, desk, ring, refused: None });
        Ok((writer, prefaulted, huge))
    }
}

const _: () = assert!(MAX_MESSAGE <= MESSAGE_BYTES_MAX && MAX_MEMORY <= CHUNK_MEMORY_MAX);

impl<T: Message + ?Sized> Publisher<T> {
    /// Sends one message: archived once, straight into shared memory. Returns how many subscribers are attached. Never blocks; no
    /// system call unless a subscriber sleeps (one for each that does), no heap allocation in steady state.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline(always)]
    pub fn send(&mut self, message: &T) -> Result<usize, SendError> {
        if let Err(error) = self.outlet.writer.admit() {
            return Err(self.not_admitted(error));
        }
        message.send(&mut self.outlet)
    }

    /// Sends messages one after the other, as [`Publisher::send`] does each, and returns how many were sent: all of them, unless one
    /// could not be. The messages from there on are the caller's to send later. Each of them can be received as soon as it is
    /// sent, not only when all are.
    ///
    /// # Errors
    /// See [`SendError`]: why the first message was not sent. When a later one was refused, that is found by sending the rest.
    pub fn send_many(&mut self, messages: &[T]) -> Result<usize, SendError>
    where
        T: Sized,
    {
        for (sent, message) in messages.iter().enumerate() {
            match self.send(message) {
                Ok(_reached) => {}
                Err(error) if sent == 0 => return Err(error),
                Err(_later) => return Ok(sent),
            }
        }
        Ok(messages.len())
    }

    /// As [`Publisher::send`], but waits when the service is reliable and a subscriber is behind, at most for `timeout` and not
    /// beyond the moment when the node begins to leave.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::MemoryOut`] when the time is over or the node is leaving; otherwise as `send`.
    pub fn send_timeout(&mut self, message: &T, timeout: Duration) -> Result<usize, SendError> {
        let start = Instant::now();
        loop {
            let left = self.await_slot(start, timeout)?;
            match message.send(&mut self.outlet) {
                // There is a slot, but messages that subscribers hold or have yet to read take all the memory.
                Err(SendError::MemoryOut { .. }) if !left.is_zero() => {
                    std::thread::sleep(MEMORY_RECHECK.min(left));
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until a message may be committed. The time that is left.
    fn await_slot(&mut self, start: Instant, timeout: Duration) -> Result<Duration, SendError> {
        loop {
            let mut left = timeout.saturating_sub(start.elapsed());
            if self.inner.hub.services_ending() {
                left = Duration::ZERO;
            }
            match self.outlet.writer.admit_within(left.min(LEAVING_RECHECK)) {
                Ok(()) => return Ok(left),
                Err(AdmitError::Full { .. }) if left > LEAVING_RECHECK => {}
                Err(error) => return Err(self.not_admitted(error)),
            }
        }
    }

    /// Waits until `count` subscribers are attached, at most for `timeout`.
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over; and, if the time was 0.1 s or more and the root answers within
    /// another 0.5 s, who waits for this service with another type.
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        let hub = &self.inner.hub;
        let error = |found, forked| WaitError {
            what: "subscribers",
            of: self.outlet.service.as_str().to_owned(),
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
        if waited < WORTH_ASKING || self.inner.hub.leaving() {
            return None;
        }
        let misfits = self.inner.session().misfits(self.index, ASKING).ok()??;
        let Misfits { count, node_name, filter, fingerprint, schema } = misfits;
        let own = Schema::try_of::<T>().ok()?.to_bytes();
        let Mismatch { ours, theirs, difference } = Mismatch::between(Some(&own), &schema, fingerprint);
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        Some(format!("`{filter}` in node {node_name}{more} expects {theirs}, not {ours} ({difference})"))
    }

    /// How many subscribers are attached now; in a forked child none.
    pub fn subscribers(&self) -> usize {
        // In this order: who is counted and does not know it yet is seen to be so.
        let counted = self.outlet.writer.desk().count();
        counted - usize::from(counted > 0 && self.inner.hub.is_introducing(self.index))
    }

    /// Messages sent so far; also the sequence of the next one.
    pub fn published(&self) -> u64 {
        self.outlet.writer.published()
    }

    /// What was mapped ahead and how; `None` if [`PublisherBuilder::prefault`] was not asked for.
    pub fn prefaulted(&self) -> Option<Prefaulted> {
        self.prefaulted
    }

    /// How many bytes of the memory were asked for in huge pages and how many were obtained; `None` if
    /// [`PublisherBuilder::huge_pages`] was not asked for.
    pub fn huge_pages(&self) -> Option<HugePages> {
        self.huge
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.outlet.service
    }

    /// This publisher, as its subscribers see it.
    pub fn id(&self) -> EndId {
        EndId { node: self.inner.hub.node(), index: self.index }
    }

    #[cold]
    fn not_admitted(&self, error: AdmitError) -> SendError {
        let service = self.outlet.service.clone();
        match error {
            AdmitError::Full { capacity } => SendError::Full { service, capacity },
            AdmitError::Forked(forked) => SendError::Forked(forked),
            _ => SendError::SequencesOut { service },
        }
    }
}

impl Publisher<[u8]> {
    /// Lends memory for a message of `length` bytes, to be filled in place. It holds what an earlier message left there, or
    /// zeros. Never blocks.
    ///
    /// # Errors
    /// See [`LoanError`].
    pub fn loan(&mut self, length: usize) -> Result<Loan<'_>, LoanError> {
        if let Err(error) = self.outlet.writer.admit() {
            return Err(self.not_admitted(error));
        }
        match archive::Loan::take(&mut self.outlet.writer, length) {
            Ok(loan) => Ok(Loan(loan)),
            Err(error) => Err(refuse(&self.outlet.service, error)),
        }
    }

    /// As [`Publisher::loan`], but waits when the service is reliable and a subscriber is behind, or holds the memory, at most for
    /// `timeout` and not beyond the moment when the node begins to leave.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::MemoryOut`] when the time is over or the node is leaving; otherwise as `loan`.
    pub fn loan_timeout(&mut self, length: usize, timeout: Duration) -> Result<Loan<'_>, LoanError> {
        let start = Instant::now();
        loop {
            let left = self.await_slot(start, timeout)?;
            // Whether there is memory; the loan itself is taken below, where it can be given away.
            let probe = archive::Loan::take(&mut self.outlet.writer, length).map(drop);
            let may_come = matches!(probe, Err(AllocateError::MemoryOut { .. })) && !left.is_zero();
            if !may_come {
                return self.loan(length);
            }
            std::thread::sleep(MEMORY_RECHECK.min(left));
        }
    }
}

/// The right to fill the memory of one message; ends in [`Loan::send`], or in drop, which sends nothing.
#[derive(Debug)]
pub struct Loan<'publisher>(archive::Loan<'publisher>);

impl Loan<'_> {
    /// Commits the message. Returns how many subscribers are attached; none in a child that was forked with the loan, which sends
    /// nothing.
    pub fn send(self) -> usize {
        self.0.send()
    }

    /// Commits the first `length` bytes and gives the rest back.
    pub fn send_prefix(self, length: usize) -> usize {
        self.0.send_prefix(length)
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Why there was no chunk, in the words of this surface.
#[cold]
pub(crate) fn refuse(service: &ServiceName, error: AllocateError) -> SendError {
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

impl<T: Message + ?Sized> std::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("service", &self.outlet.service)
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}

impl<T: Message + ?Sized> Drop for Publisher<T> {
    fn drop(&mut self) {
        if !self.inner.hub.home().is_here() {
            return;
        }
        // The writer, dropped after this, says in shared memory that it is closed: no root is needed for that.
        let retained = self.retained > 0;
        if retained {
            // Who stands for it reads on when it says so.
            self.outlet.writer.close();
        }
        let kept = retained
            .then(|| self.inner.hub.keep_own(self.index, self.inner.session().name().as_str()))
            .flatten();
        let (hub, index) = (&self.inner.hub, self.index);
        // Subscribers may be on their way to it: those of a new root as well, of which nobody here knows.
        let ring = hub.inspect(index);
        hub.remove_publisher(index);
        self.inner.session().withdraw_lending(index, ring);
        if let Some(offer) = kept {
            self.inner.session().stand_for(offer);
        }
    }
}
