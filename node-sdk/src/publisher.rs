//! The publishing end of a service.

use crate::message::{Message, Sender};
use hivemind_core::contract::Kind;
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::EndId;
use hivemind_core::schema::Schema;
use hivemind_ring::archive;
use hivemind_ring::segment::{HugePages, Prefaulted};
use hivemind_runtime::ports::{
    Batch, LoanError, Member, Outlet, OutletOptions, PublisherError, SendError, WaitError,
};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Publishes messages of type `T` on one service. `Send`, not `Sync`: it is one end of its own ring.
///
/// Dropping it tells the subscribers that it is gone; they still read what was committed.
pub struct Publisher<T: Message + ?Sized> {
    sender: Sender,
    message: PhantomData<fn(&T)>,
}

/// Options of a publisher; all have defaults.
#[derive(Debug)]
pub struct PublisherBuilder<T: ?Sized> {
    member: Arc<Member>,
    batch: Option<Arc<Batch>>,
    service: String,
    options: OutletOptions,
    message: PhantomData<fn(&T)>,
}

impl<T: Message + ?Sized> PublisherBuilder<T> {
    pub(crate) fn new(member: Arc<Member>, batch: Option<Arc<Batch>>, service: &str) -> Self {
        PublisherBuilder {
            member,
            batch,
            service: service.to_owned(),
            options: OutletOptions::default(),
            message: PhantomData,
        }
    }

    /// How many messages the ring holds: rounded up to a power of two, from 2 to 1,048,576. Default 256.
    #[must_use]
    pub fn capacity(mut self, messages: u64) -> Self {
        self.options.capacity = messages;
        self
    }

    /// How many past messages a subscriber gets that attaches later; less than the capacity. Default 0.
    #[must_use]
    pub fn history(mut self, messages: u64) -> Self {
        self.options.history = messages;
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
        self.options.retained = messages;
        self
    }

    /// Lose nothing: when a subscriber is `capacity` messages behind, `send` says [`SendError::Full`].
    #[must_use]
    pub fn reliable(mut self) -> Self {
        self.options.reliable = true;
        self
    }

    /// Largest message in bytes, up to 256 MiB. Default 64 MiB.
    #[must_use]
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.options.max_message = Some(bytes);
        self
    }

    /// Bound of the shared memory for messages that do not fit into a slot (56 bytes). It is taken from the system as it is
    /// needed, and kept until the publisher is dropped. When it is used up, a lossy service gives up its oldest
    /// messages. Default 256 MiB, or four times the largest message.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.options.max_memory = Some(bytes);
        self
    }

    /// Take the first `bytes` of that memory from the system now and map them, so that the first messages do not: touching a
    /// page for the first time costs 1 to 3 us, which is some 0.5 ms for a message of 1 MiB. [`Publisher::prefaulted`] says what
    /// was done. Default: nothing but the slots is taken ahead.
    #[must_use]
    pub fn prefault(mut self, bytes: u64) -> Self {
        self.options.prefault = Some(bytes);
        self
    }

    /// Put what is [prefaulted](Self::prefault) into huge pages (2 MiB each, rounded up), as far as the kernel can: for
    /// services that move much data. Getting none is no error; [`Publisher::huge_pages`] says how much it was.
    #[must_use]
    pub fn huge_pages(mut self) -> Self {
        self.options.huge_pages = true;
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
        let schema = Schema::try_of::<T>()
            .map_err(|source| PublisherError::Type { type_name: std::any::type_name::<T>(), source })?;
        let outlet = Outlet::create(
            &self.member,
            &self.service,
            Kind::of(&schema),
            &self.options,
            self.batch.as_deref(),
        )?;
        Ok(Publisher { sender: Sender::new(outlet), message: PhantomData })
    }
}

impl<T: Message + ?Sized> Publisher<T> {
    /// Sends one message: archived once, straight into shared memory. Returns how many subscribers are attached. Never blocks; no
    /// system call unless a subscriber sleeps (one for each that does), no heap allocation in steady state.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline(always)]
    pub fn send(&mut self, message: &T) -> Result<usize, SendError> {
        self.sender.outlet.admit()?;
        message.send(&mut self.sender)
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
            let left = self.sender.outlet.await_slot(start, timeout)?;
            match message.send(&mut self.sender) {
                // There is a slot, but messages that subscribers hold or have yet to read take all the memory.
                Err(SendError::MemoryOut { .. }) if !left.is_zero() => {
                    self.sender.outlet.await_memory(left);
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until `count` subscribers are attached, at most for `timeout`.
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over; and, if the time was 0.1 s or more and the root answers within
    /// another 0.5 s, which subscriber waits for this service with another type.
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.sender.outlet.wait_for_subscribers(count, timeout)
    }

    /// How many subscribers are attached now; in a forked child none.
    pub fn subscribers(&self) -> usize {
        self.sender.outlet.subscribers()
    }

    /// Messages sent so far; also the sequence of the next one.
    pub fn published(&self) -> u64 {
        self.sender.outlet.published()
    }

    /// What was mapped ahead and how; `None` if [`PublisherBuilder::prefault`] was not asked for.
    pub fn prefaulted(&self) -> Option<Prefaulted> {
        self.sender.outlet.prefaulted()
    }

    /// How many bytes of the memory were asked for in huge pages and how many were obtained; `None` if
    /// [`PublisherBuilder::huge_pages`] was not asked for.
    pub fn huge_pages(&self) -> Option<HugePages> {
        self.sender.outlet.huge_pages()
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        self.sender.outlet.service()
    }

    /// This publisher, as its subscribers see it.
    pub fn id(&self) -> EndId {
        self.sender.outlet.id()
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        self.sender.outlet.member()
    }
}

impl Publisher<[u8]> {
    /// Lends memory for a message of `length` bytes, to be filled in place. It holds what an earlier message left there, or
    /// zeros. Never blocks.
    ///
    /// # Errors
    /// See [`LoanError`].
    pub fn loan(&mut self, length: usize) -> Result<Loan<'_>, LoanError> {
        self.sender.outlet.loan(length).map(Loan)
    }

    /// As [`Publisher::loan`], but waits when the service is reliable and a subscriber is behind, or holds the memory, at most for
    /// `timeout` and not beyond the moment when the node begins to leave.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::MemoryOut`] when the time is over or the node is leaving; otherwise as `loan`.
    pub fn loan_timeout(&mut self, length: usize, timeout: Duration) -> Result<Loan<'_>, LoanError> {
        self.sender.outlet.loan_timeout(length, timeout).map(Loan)
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

impl<T: Message + ?Sized> std::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("service", self.service())
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}
