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
/// A message goes to the subscribers that are attached when it is sent, and to later ones only within
/// [`history`](PublisherBuilder::history) or [`retain`](PublisherBuilder::retain). Dropping the publisher
/// tells the subscribers that it is gone; they still read what was sent.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
/// # use std::time::Duration;
/// let mut publisher = node.publisher::<u64>("counts")?;
/// assert_eq!(publisher.send(&1)?, 0); // Nobody is attached, so nobody gets it.
///
/// let mut subscriber = node.subscriber::<u64>("counts")?;
/// publisher.wait_for_subscribers(1, Duration::from_secs(5))?;
/// assert_eq!(publisher.send(&2)?, 1);
/// drop(publisher);
/// assert_eq!(subscriber.recv()?.ok_or("the node is leaving")?.to_native(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a publisher ends when it is dropped"]
pub struct Publisher<T: Message + ?Sized> {
    sender: Sender,
    message: PhantomData<fn(&T)>,
}

/// Options of a publisher; all have defaults. [`PublisherBuilder::create`] ends it.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
/// // Nothing is lost, and a subscriber that comes late gets the last 8 messages.
/// let orders = node.publisher_builder::<u64>("orders").reliable().capacity(64).history(8).create()?;
///
/// // The last message can still be read when this process is gone.
/// let settings = node.publisher_builder::<String>("settings").capacity(2).retain(1).create()?;
///
/// // Frames of up to 8 MiB; the first of them finds its memory mapped.
/// let frames = node
///     .publisher_builder::<[u8]>("camera/frame")
///     .capacity(4)
///     .max_message(8 << 20)
///     .max_memory(64 << 20)
///     .prefault(8 << 20)
///     .huge_pages()
///     .create()?;
/// # drop((orders, settings, frames));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "options do nothing until `create`"]
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

    /// Messages that the ring holds: rounded up to a power of two, from 2 to 1,048,576. Default: 256.
    /// Example: [`PublisherBuilder`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let error = node.publisher_builder::<u64>("counts").capacity(2_000_000).create().unwrap_err();
    /// assert_eq!(error.to_string(), "capacity is 2000000, but at most 1048576 is possible; ask for less");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(mut self, messages: u64) -> Self {
        self.options.capacity = messages;
        self
    }

    /// Past messages that a late subscriber gets; less than the capacity, more is an error of
    /// [`create`](Self::create). Default: 0.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let mut publisher = node.publisher_builder::<u64>("counts").history(2).create()?;
    /// assert_eq!(publisher.send_many(&[1, 2, 3])?, 3);
    /// let mut late = node.subscriber::<u64>("counts")?;
    /// assert_eq!(late.recv()?.ok_or("the node is leaving")?.to_native(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn history(mut self, messages: u64) -> Self {
        self.options.history = messages;
        self
    }

    /// Last messages that stay readable when the publisher is gone, for subscribers that come later; less
    /// than the capacity, more is an error of [`create`](Self::create). Default: 0.
    ///
    /// Up to two other nodes of the same user keep the ring (and this one, if its process goes on), so the
    /// messages survive the death of this process as long as one of those lives; `hm ls` tells how many there
    /// are. A later life of the node (of the same name) replaces what this one has left as soon as it has
    /// ended itself with a message. Memory for what is retained is never given up for newer messages: a
    /// publisher whose [`max_memory`](Self::max_memory) is too small for them says [`SendError::MemoryOut`].
    /// A segment with a name (feature `named-segments`) ends with its process, so nothing of it stays.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let mut settings = node.publisher_builder::<u64>("settings").retain(1).create()?;
    /// settings.send(&42)?;
    /// drop(settings);
    /// let mut late = node.subscriber::<u64>("settings")?;
    /// assert_eq!(late.recv()?.ok_or("the node is leaving")?.to_native(), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain(mut self, messages: u64) -> Self {
        self.options.retained = messages;
        self
    }

    /// Loses nothing: when a subscriber is `capacity` messages behind, `send` says [`SendError::Full`] and
    /// sends nothing. Default: lossy, where a subscriber that does not keep up loses the oldest messages.
    /// Example: [`Publisher::send`].
    pub fn reliable(mut self) -> Self {
        self.options.reliable = true;
        self
    }

    /// Largest message in bytes, up to 256 MiB. Default: 64 MiB, or `max_memory` if that is less. Example:
    /// [`Publisher::loan`].
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.options.max_message = Some(bytes);
        self
    }

    /// Bound in bytes of the shared memory for messages that do not fit into a slot (56 bytes), up to 64 GiB.
    /// It is taken from the system as it is needed, and kept until the publisher is dropped. When it is used
    /// up, a lossy service gives up its oldest messages; a reliable one says [`SendError::MemoryOut`].
    /// Default: 256 MiB, or four times the largest message if that is more.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// # use hivemind::SendError;
    /// # use std::time::Duration;
    /// let mut frames = node.publisher_builder::<[u8]>("frames").reliable().max_memory(4096).create()?;
    /// let unread = node.subscriber::<[u8]>("frames")?;
    /// frames.wait_for_subscribers(1, Duration::from_secs(5))?;
    /// frames.send(&[0; 3000])?;
    /// assert!(matches!(frames.send(&[0; 3000]), Err(SendError::MemoryOut { limit: 4096, .. })));
    /// # drop(unread);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.options.max_memory = Some(bytes);
        self
    }

    /// Takes the first `bytes` of that memory (at most [`max_memory`](Self::max_memory)) from the system now
    /// and maps them, so that the first messages do not: touching a page for the first time costs 1 to 3 us,
    /// which is some 0.5 ms for a message of 1 MiB. [`Publisher::prefaulted`] says what was done. Default:
    /// nothing but the slots is taken ahead. Example: [`Publisher::prefaulted`].
    pub fn prefault(mut self, bytes: u64) -> Self {
        self.options.prefault = Some(bytes);
        self
    }

    /// Puts what is [prefaulted](Self::prefault) into huge pages (2 MiB each, rounded up), as far as the
    /// kernel can: for services that move much data. Getting none is no error; [`Publisher::huge_pages`] says
    /// how much it was. Example: [`Publisher::huge_pages`].
    pub fn huge_pages(mut self) -> Self {
        self.options.huge_pages = true;
        self
    }

    /// Makes the ring and announces it. Blocks until the root has answered, at most for the patience of the
    /// node, and until the subscribers that are there are attached: they get everything, from the first
    /// message on, whatever becomes of this process. For a subscriber that does not answer (its process is
    /// stopped) it waits until 100 ms have passed without another one that attached, at most 1 s in
    /// all, and not again until that one answers; when it goes on, it gets what
    /// the ring still holds, and counts the rest as lost.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let battery = node.publisher_builder::<f32>("battery").create()?;
    /// let error = node.publisher_builder::<u32>("battery").create().unwrap_err();
    /// assert!(error.to_string().contains("battery carries f32 in node camera, not u32"));
    /// # drop(battery);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A name that does not parse; another type on this service; no root; bounds, memory or descriptors
    /// exceeded: see [`PublisherError`].
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
    /// Sends one message: archived once, straight into shared memory. Returns how many subscribers are
    /// attached. Never blocks, no heap allocation in steady state, and no system call unless a subscriber
    /// sleeps: one for all that have few publishers, one for each of the others.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// # use hivemind::SendError;
    /// # use std::time::Duration;
    /// let mut orders = node.publisher_builder::<u64>("orders").reliable().capacity(2).create()?;
    /// let mut reader = node.subscriber::<u64>("orders")?;
    /// orders.wait_for_subscribers(1, Duration::from_secs(5))?;
    /// orders.send(&1)?;
    /// orders.send(&2)?;
    ///
    /// // A message that was refused is lost unless it is sent again: do not ignore `Full`.
    /// assert!(matches!(orders.send(&3), Err(SendError::Full { capacity: 2, .. })));
    /// let read = std::thread::spawn(move || reader.recv().map(|order| order.is_some()));
    /// orders.send_timeout(&3, Duration::from_secs(5))?;
    /// # assert!(read.join().map_err(|_| "it panicked")??);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline(always)]
    pub fn send(&mut self, message: &T) -> Result<usize, SendError> {
        self.sender.outlet.admit()?;
        message.send(&mut self.sender)
    }

    /// Sends messages one after the other, as [`Publisher::send`] does each, and returns how many were sent:
    /// all of them, unless one could not be. The messages from there on are the caller's to send later. Each
    /// of them can be received as soon as it is sent, not only when all are. Never blocks.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let mut orders = node.publisher_builder::<u64>("orders").reliable().capacity(4).create()?;
    /// let reader = node.subscriber::<u64>("orders")?;
    /// orders.wait_for_subscribers(1, Duration::from_secs(5))?;
    /// let messages = [1, 2, 3, 4, 5, 6];
    /// let sent = orders.send_many(&messages)?;
    /// assert_eq!(messages[sent..], [5, 6]); // There was room for four.
    /// # drop(reader);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SendError`]: why the first message was not sent. When a later one was refused, sending the rest
    /// says why.
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

    /// As [`Publisher::send`], but blocks while the service is reliable and a subscriber is behind: at most
    /// for `timeout`, and not beyond the moment when the node begins to leave. Example: [`Publisher::send`].
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::MemoryOut`] when the time is over or the node is leaving;
    /// otherwise as `send`.
    pub fn send_timeout(&mut self, message: &T, timeout: Duration) -> Result<usize, SendError> {
        let start = Instant::now();
        loop {
            let left = self.sender.outlet.await_slot(start, timeout)?;
            match message.send(&mut self.sender) {
                // There is a slot, but messages that subscribers hold or have yet to read take all the
                // memory.
                Err(SendError::MemoryOut { .. }) if !left.is_zero() => {
                    self.sender.outlet.await_memory(left);
                }
                outcome => return outcome,
            }
        }
    }

    /// Blocks until `count` subscribers are attached, at most for `timeout`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let publisher = node.publisher::<u64>("counts")?;
    /// let error = publisher.wait_for_subscribers(1, Duration::from_millis(5)).unwrap_err();
    /// let text = error.to_string();
    /// assert!(text.starts_with("0 of 1 subscribers of `counts` attached within 5 ms; "), "{text}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over; and, if the time was 0.1 s or more and
    /// the root answers within another 0.5 s, which subscriber waits for this service with another type.
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.sender.outlet.wait_for_subscribers(count, timeout)
    }

    /// Subscribers that are attached now; in a forked child none. Example: [`Publisher::published`].
    pub fn subscribers(&self) -> usize {
        self.sender.outlet.subscribers()
    }

    /// Messages sent so far; also the sequence of the next one.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// publisher.send(&7)?;
    /// assert_eq!((publisher.published(), publisher.subscribers()), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn published(&self) -> u64 {
        self.sender.outlet.published()
    }

    /// What was mapped ahead and how; `None` if [`PublisherBuilder::prefault`] was not asked for.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let frames = node.publisher_builder::<[u8]>("frames").prefault(1 << 20).create()?;
    /// let ahead = frames.prefaulted().ok_or("it was asked for")?;
    /// assert!(ahead.bytes > 1 << 20); // The slots come on top.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefaulted(&self) -> Option<Prefaulted> {
        self.sender.outlet.prefaulted()
    }

    /// Bytes of the memory that were asked for in huge pages, and that were obtained; `None` if
    /// [`PublisherBuilder::huge_pages`] was not asked for.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let frames = node.publisher_builder::<[u8]>("frames").prefault(1 << 20).huge_pages().create()?;
    /// let huge = frames.huge_pages().ok_or("it was asked for")?;
    /// println!("{} of {} bytes are in huge pages", huge.obtained, huge.asked);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn huge_pages(&self) -> Option<HugePages> {
        self.sender.outlet.huge_pages()
    }

    /// The service. Example: [`Publisher::id`].
    pub fn service(&self) -> &ServiceName {
        self.sender.outlet.service()
    }

    /// This publisher, as its subscribers see it.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let mut subscriber = node.subscriber::<u64>("*")?;
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// publisher.send(&7)?;
    /// let sample = subscriber.recv()?.ok_or("the node is leaving")?;
    /// assert_eq!((sample.publisher(), sample.service()), (publisher.id(), publisher.service()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> EndId {
        self.sender.outlet.id()
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        self.sender.outlet.member()
    }
}

impl Publisher<[u8]> {
    /// Lends memory for a message of `length` bytes, to be filled in place. It holds what an earlier message
    /// left there, or zeros. Never blocks. Example: [`Loan`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// # use hivemind::LoanError;
    /// let mut frames = node.publisher_builder::<[u8]>("frames").max_message(1000).create()?;
    /// assert!(matches!(frames.loan(1001), Err(LoanError::TooLarge { limit: 1000, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`LoanError`].
    pub fn loan(&mut self, length: usize) -> Result<Loan<'_>, LoanError> {
        self.sender.outlet.loan(length).map(Loan)
    }

    /// As [`Publisher::loan`], but blocks while the service is reliable and a subscriber is behind, or holds
    /// the memory: at most for `timeout`, and not beyond the moment when the node begins to leave.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let mut frames = node.publisher_builder::<[u8]>("frames").reliable().create()?;
    /// let mut loan = frames.loan_timeout(1000, Duration::from_secs(1))?;
    /// loan.fill(128);
    /// loan.send();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::MemoryOut`] when the time is over or the node is leaving;
    /// otherwise as `loan`.
    pub fn loan_timeout(&mut self, length: usize, timeout: Duration) -> Result<Loan<'_>, LoanError> {
        self.sender.outlet.loan_timeout(length, timeout).map(Loan)
    }
}

/// The right to fill the memory of one message. It dereferences to `&mut [u8]` in shared memory, and ends in
/// [`Loan::send`] or [`Loan::send_prefix`]. Dropped, it sends nothing.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
/// let mut frames = node.publisher::<[u8]>("frames")?;
/// let mut loan = frames.loan(1000)?;
/// loan.fill(128);
/// loan.send();
///
/// let mut loan = frames.loan(1000)?;
/// loan[..3].copy_from_slice(b"end");
/// loan.send_prefix(3); // A message of three bytes.
///
/// drop(frames.loan(1000)?);
/// assert_eq!(frames.published(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a loan that is dropped sends nothing; call `send`"]
pub struct Loan<'publisher>(archive::Loan<'publisher>);

impl Loan<'_> {
    /// Commits the message. Returns how many subscribers are attached; none in a child that was forked with
    /// the loan, which sends nothing. Never blocks. Example: [`Loan`].
    pub fn send(self) -> usize {
        self.0.send()
    }

    /// Commits the first `length` bytes (all of them, if `length` is larger) and gives the rest back. Returns
    /// what [`Loan::send`] returns, and never blocks. Example: [`Loan`].
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
