//! The subscribing end of a filter.

use crate::message::Message;
use crate::sample::Sample;
use hivemind_core::contract::Kind;
use hivemind_core::filter::Filter;
use hivemind_core::schema::Schema;
use hivemind_ring::archive::{InvalidArchive, Message as Arrived};
use hivemind_runtime::ports::{
    Batch, ConnectionStatus, Intake, Member, Receiving, RecvError, SPIN, Skipped, SubscriberError, Trust,
    WaitError, WatchError, receive,
};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Receives the messages of type `T` of all services that match its filter. `Send`, not `Sync`.
///
/// What was sent before a publisher was attached is not received, except for its
/// [`history`](crate::PublisherBuilder::history). Messages of one publisher come in order; between publishers
/// there is no order.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
/// let mut subscriber = node.subscriber::<String>("log/*")?;
/// let mut publisher = node.publisher::<String>("log/boot")?;
/// publisher.send(&"ready".to_owned())?;
///
/// let line = subscriber.recv()?.ok_or("the node is leaving")?;
/// assert_eq!(*line, *"ready"); // Read in place, as the archived type.
/// let owned: String = line.to_owned()?;
/// # assert_eq!(owned, "ready");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscriber ends when it is dropped"]
pub struct Subscriber<T: Message + ?Sized> {
    intake: Intake,
    message: PhantomData<fn() -> Box<T>>,
}

/// Options of a subscriber; all have defaults. [`SubscriberBuilder::create`] ends it.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
/// use hivemind::Trust;
/// use std::time::Duration;
///
/// let subscriber = node
///     .subscriber_builder::<[u8]>("camera/*")
///     .spin(Duration::ZERO) // Save power instead of time.
///     .trust(Trust::Nobody) // Copy each message before it is looked at.
///     .create()?;
/// # drop(subscriber);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "options do nothing until `create`"]
pub struct SubscriberBuilder<T: ?Sized> {
    member: Arc<Member>,
    batch: Option<Arc<Batch>>,
    filter: String,
    spin: Duration,
    trust: Trust,
    message: PhantomData<fn() -> Box<T>>,
}

impl<T: Message + ?Sized> SubscriberBuilder<T> {
    pub(crate) fn new(member: Arc<Member>, batch: Option<Arc<Batch>>, filter: &str) -> Self {
        SubscriberBuilder {
            member,
            batch,
            filter: filter.to_owned(),
            spin: SPIN,
            trust: Trust::default(),
            message: PhantomData,
        }
    }

    /// How long a blocking receive spins before it sleeps. Default: 20 us. Zero sleeps after a few dozen
    /// looks. Example: [`SubscriberBuilder`].
    pub fn spin(mut self, duration: Duration) -> Self {
        self.spin = duration;
        self
    }

    /// The publishers whose messages are read in place; those of all others are copied first. Default:
    /// publishers of the same user ([`Trust::SameUser`]). Example: [`SubscriberBuilder`].
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Subscribes. Blocks until the root has answered, at most for the patience of the node; not for
    /// publishers. That a service carries another type is no error: see [`Subscriber::skipped`]. Example:
    /// [`SubscriberBuilder`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// let error = node.subscriber_builder::<u64>("sensors**").create().unwrap_err();
    /// assert!(error.to_string().contains("'**' must be a whole level"), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn create(self) -> Result<Subscriber<T>, SubscriberError> {
        let schema = Schema::try_of::<T>()
            .map_err(|source| SubscriberError::Type { type_name: std::any::type_name::<T>(), source })?;
        let kind = Some(Kind::of(&schema));
        let intake = Intake::create(
            &self.member,
            &self.filter,
            kind,
            self.spin,
            self.trust,
            None,
            self.batch.as_deref(),
        )?;
        Ok(Subscriber { intake, message: PhantomData })
    }
}

impl<T: Message + ?Sized> Subscriber<T> {
    /// The next message; blocks until there is one. Spins briefly, then sleeps. `None` when the node is
    /// leaving and everything was read that was there when that began. Without a publisher it may block for
    /// ever; [`Node::leave`](crate::Node::leave) in another thread ends it.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// publisher.send_many(&[1, 2, 3])?;
    /// node.leave(); // The loop ends for this; the end of a publisher does not end it.
    /// let mut sum = 0;
    /// while let Some(count) = subscriber.recv()? {
    ///     sum += count.to_native();
    /// }
    /// assert_eq!((sum, subscriber.received(), subscriber.lost()), (6, 3, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`RecvError`]; the subscriber stays usable.
    pub fn recv(&mut self) -> Result<Option<Sample<T>>, RecvError> {
        receive(self, None)
    }

    /// As [`Subscriber::recv`], but blocks at most for `timeout`; `None` also when the time is over.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// if subscriber.recv_timeout(Duration::from_millis(1))?.is_none() && !node.is_leaving() {
    ///     println!("nothing came in time");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Sample<T>>, RecvError> {
        receive(self, Some(timeout))
    }

    /// The next message, if there is one. Never blocks, makes no system call, allocates nothing (except now
    /// and then, to let go of a publisher that has ended).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// use hivemind::RecvError;
    ///
    /// let mut subscriber = node.subscriber::<[u8]>("frames")?;
    /// assert!(subscriber.try_recv()?.is_none());
    ///
    /// // A sample of more than 56 bytes holds memory of its publisher. To keep many, make `to_owned` copies.
    /// let mut frames = node.publisher::<[u8]>("frames")?;
    /// let mut kept = Vec::new();
    /// let error = loop {
    ///     frames.send(&[0; 1000])?;
    ///     match subscriber.try_recv() {
    ///         Ok(sample) => kept.extend(sample),
    ///         Err(error) => break error,
    ///     }
    /// };
    /// assert!(matches!(error, RecvError::HeldOut { limit: 56, .. }));
    /// kept.clear();
    /// assert!(subscriber.try_recv()?.is_some()); // Nothing was lost by it.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<Option<Sample<T>>, RecvError> {
        if let Some((turn, line)) = self.intake.poll_line() {
            return match T::check_line(line) {
                Some(checked) => {
                    let origin = self.intake.origin(turn);
                    Ok(Some(Sample { origin, held: T::hold(checked) }))
                }
                None => Err(self.intake.cut_off_for(turn, &InvalidArchive::of(&line))),
            };
        }
        if let Some((turn, held)) = self.intake.poll_held() {
            if self.intake.copies(turn) {
                return self.in_place_after_all(turn, held.into());
            }
            return self.sample(turn, T::check(held.into()));
        }
        if self.intake.is_idle() { Ok(None) } else { self.try_recv_any() }
    }

    #[inline(always)]
    fn sample(
        &mut self,
        turn: usize,
        checked: Result<T::Held, InvalidArchive>,
    ) -> Result<Option<Sample<T>>, RecvError> {
        match checked {
            Ok(held) => Ok(Some(Sample { origin: self.intake.origin(turn), held })),
            Err(error) => Err(self.intake.cut_off_for(turn, &error)),
        }
    }

    /// A message in place of a publisher that is not trusted. There is none, as its chunks are not mapped: a
    /// second proof, at two instructions, that nothing is ever looked at that such a publisher may still
    /// write.
    #[cold]
    #[inline(never)]
    fn in_place_after_all(&mut self, turn: usize, arrived: Arrived) -> Result<Option<Sample<T>>, RecvError> {
        drop(arrived);
        Err(self.intake.cut_off(turn, "its messages were to be copied, and one is in place".to_owned()))
    }

    /// The long way through [`Subscriber::try_recv`].
    #[inline(never)]
    fn try_recv_any(&mut self) -> Result<Option<Sample<T>>, RecvError> {
        let Some((turn, arrived)) = self.intake.poll()? else { return Ok(None) };
        self.sample(turn, T::check(arrived))
    }

    /// An iterator over the messages that are there, until a look finds none. Never blocks, just as
    /// [`Subscriber::try_recv`]. Publishers that do not pause may keep it going: bound it with
    /// [`Iterator::take`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// subscriber.wait_for_publishers(1, Duration::from_secs(5))?;
    /// publisher.send_many(&[1, 2, 3])?;
    /// let mut sum = 0;
    /// for sample in subscriber.drain().take(64) {
    ///     sum += sample?.to_native();
    /// }
    /// assert_eq!(sum, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(&mut self) -> Drain<'_, T> {
        Drain { subscriber: self }
    }

    /// Blocks until this subscriber is attached to `count` publishers, at most for `timeout`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let subscriber = node.subscriber::<u64>("sensors/*")?;
    /// let error = subscriber.wait_for_publishers(2, Duration::from_millis(5)).unwrap_err();
    /// assert_eq!((error.found, error.wanted), (0, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over, and what does not fit.
    pub fn wait_for_publishers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.intake.wait_for_publishers(count, timeout)
    }

    /// A descriptor for `poll`, `epoll` and what rests on them (mio, tokio's `AsyncFd`, libuv): readable when
    /// something can be received, or happened that a receive looks after: somebody arrived or ended, or
    /// the node leaves. Readiness is a level. It stays until a [`Subscriber::try_recv`] gave `None`; then
    /// there is none until something comes. It may be there for nothing.
    ///
    /// The first call makes it; a subscriber that is never asked pays nothing for it. It lives as long as the
    /// subscriber. Ask for readability only, and never read from it: receive instead. Whoever wants edges
    /// receives until there is nothing, as with a socket.
    ///
    /// No thread waits for it where the kernel can (Linux 6.7, and io_uring allowed); elsewhere one thread of
    /// the node does, for all of them. As [`AsFd::as_fd`], which panics where this is an error.
    ///
    /// # Errors
    /// [`WatchError`]: the system has no descriptor left, or this is a forked child.
    ///
    /// ```
    /// # use hivemind::Node;
    /// # use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let node = Node::builder("poller").dir(folder.path()).join()?;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// publisher.send(&7)?;
    /// loop {
    ///     if let Some(count) = subscriber.try_recv()? {
    ///         assert_eq!(*count, 7);
    ///         break;
    ///     }
    ///     poll(&mut [PollFd::new(subscriber.descriptor()?, PollFlags::POLLIN)], PollTimeout::NONE)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>, WatchError> {
        self.intake.descriptor()
    }

    /// Publishers that this subscriber is attached to; in a forked child none. Example:
    /// [`Subscriber::connections`].
    pub fn publishers(&self) -> usize {
        self.intake.publishers()
    }

    /// Messages received, over all publishers that ever were. Example: [`Subscriber::lost`].
    pub fn received(&self) -> u64 {
        self.intake.received()
    }

    /// Messages missed for good, over all publishers that ever were. For every publisher that was attached,
    /// `received + lost` is what it has sent since. Messages of a publisher of another host that were missed
    /// while no link led there count here, and in none of [`Subscriber::connections`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// let mut publisher = node.publisher_builder::<u64>("counts").capacity(4).create()?;
    /// subscriber.wait_for_publishers(1, Duration::from_secs(5))?;
    /// publisher.send_many(&[0; 100])?; // A lossy service keeps the newest.
    /// assert_eq!(subscriber.drain().count(), 4);
    /// assert_eq!((subscriber.received(), subscriber.lost()), (4, 96));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lost(&self) -> u64 {
        self.intake.lost()
    }

    /// Where this subscriber stands with each publisher; those that ended last are listed too (up to 256).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// publisher.send(&7)?;
    /// assert!(subscriber.recv()?.is_some());
    /// assert_eq!(subscriber.publishers(), 1);
    /// let connection = &subscriber.connections()[0];
    /// assert_eq!(connection.origin.publisher, publisher.id());
    /// assert_eq!((connection.received, connection.lost, connection.copies), (1, 0, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.intake.statuses()
    }

    /// Services that match the filter but carry another type (up to 256), with what differs. The log has a
    /// warning, too.
    ///
    /// Publishers fix the type of a service, subscribers never do: one that does not fit waits, keeps nobody
    /// out, and is attached without further calls when a publisher of its type has taken the service over. It
    /// is not listed here any more then.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("robot").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let viewer = node.subscriber::<u32>("battery")?;
    /// let robot = node.publisher::<f32>("battery")?;
    /// while viewer.skipped().is_empty() {
    ///     std::thread::yield_now();
    /// }
    /// let error = viewer.wait_for_publishers(1, Duration::from_millis(10)).unwrap_err();
    /// assert!(error.to_string().contains("battery carries f32 in node robot, not u32"));
    /// drop(robot);
    /// let _robot = node.publisher::<u32>("battery")?;
    /// viewer.wait_for_publishers(1, Duration::from_secs(5))?;
    /// assert!(viewer.skipped().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn skipped(&self) -> Vec<Skipped> {
        self.intake.skipped()
    }

    /// The filter.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// let subscriber = node.subscriber::<u64>("sensors/*")?;
    /// assert!(subscriber.filter().matches("sensors/pose"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn filter(&self) -> &Filter {
        self.intake.filter()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.intake.member().is_leaving()
    }
}

impl<T: Message + ?Sized> AsFd for Subscriber<T> {
    /// As [`Subscriber::descriptor`].
    ///
    /// # Panics
    /// Where that is an error: the system has no descriptor left. Ask it first, once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.intake.as_fd()
    }
}

#[doc(hidden)] // How a receive waits is written once, in the runtime.
impl<T: Message + ?Sized> Receiving for Subscriber<T> {
    type Received = Sample<T>;

    #[inline(always)]
    fn intake(&mut self) -> &mut Intake {
        &mut self.intake
    }

    #[inline(always)]
    fn try_receive(&mut self) -> Result<Option<Sample<T>>, RecvError> {
        self.try_recv()
    }
}

impl<T: Message + ?Sized> std::fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber")
            .field("filter", &self.intake.filter().as_str())
            .field("connections", &self.intake.statuses())
            .finish_non_exhaustive()
    }
}

/// The iterator that [`Subscriber::drain`] gives; the example stands there.
#[derive(Debug)]
#[must_use = "an iterator receives nothing until it is iterated"]
pub struct Drain<'subscriber, T: Message + ?Sized> {
    subscriber: &'subscriber mut Subscriber<T>,
}

impl<T: Message + ?Sized> Iterator for Drain<'_, T> {
    type Item = Result<Sample<T>, RecvError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        self.subscriber.try_recv().transpose()
    }
}
