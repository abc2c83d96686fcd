//! Receiving messages of types that this program was not compiled with.

use hivemind_core::schema::{DecodeError, Schema};
use hivemind_ring::archive::Message as Arrived;
use hivemind_runtime::ports::{
    ConnectionStatus, Intake, Member, Origin, Receiving, RecvError, SubscriberError, Trust, WaitError,
    WatchError, receive,
};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Most schemas that are kept decoded.
const SCHEMAS_MAX: usize = 1024;

/// Receives messages of any type; each comes with the schema of its service. `Send`, not `Sync`.
///
/// Reads in place from publishers of the same user, and copies the messages of others first
/// ([`Trust::SameUser`]).
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("tool").dir(folder.path()).join()?;
/// # use hivemind::message;
/// # use std::time::Duration;
/// #[message]
/// struct Battery { volts: f32, cells: Vec<u16> }
///
/// let mut anything = node.subscriber_dynamic("**")?;
/// let mut publisher = node.publisher::<Battery>("battery")?;
/// publisher.send(&Battery { volts: 11.5, cells: vec![383, 384] })?;
///
/// let sample = anything.recv_timeout(Duration::from_secs(5))?.ok_or("nothing came")?;
/// assert_eq!(sample.to_json()?, r#"{"volts":11.5,"cells":[383,384]}"#);
/// assert_eq!((sample.schema().type_name(), sample.origin().service.as_str()), ("Battery", "battery"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscriber ends when it is dropped"]
pub struct DynamicSubscriber {
    intake: Intake,
    /// Decoded schemas, by their bytes.
    schemas: HashMap<Vec<u8>, Arc<Schema>>,
}

/// A received message of any type. As with [`crate::Sample`], its memory stays pinned until it is dropped,
/// unless it was copied. Example: [`DynamicSubscriber`].
#[derive(Debug)]
pub struct DynamicSample {
    arrived: Arrived,
    origin: Origin,
    schema: Arc<Schema>,
}

impl DynamicSubscriber {
    pub(crate) fn create(member: &Arc<Member>, filter: &str) -> Result<Self, SubscriberError> {
        let intake = Intake::create(member, filter, None, Duration::ZERO, Trust::SameUser, None, None)?;
        Ok(DynamicSubscriber { intake, schemas: HashMap::new() })
    }

    /// The next message, if there is one. Never blocks. Used as
    /// [`Subscriber::try_recv`](crate::Subscriber::try_recv), which has an example.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn try_recv(&mut self) -> Result<Option<DynamicSample>, RecvError> {
        let Some((turn, arrived)) = self.intake.poll()? else { return Ok(None) };
        let (origin, described) = (self.intake.origin(turn), self.intake.schema(turn));
        if let Some(schema) = self.schemas.get(described) {
            return Ok(Some(DynamicSample { arrived, origin, schema: Arc::clone(schema) }));
        }
        match Schema::from_bytes(described) {
            Ok(schema) => {
                let schema = Arc::new(schema);
                if self.schemas.len() < SCHEMAS_MAX {
                    self.schemas.insert(described.to_owned(), Arc::clone(&schema));
                }
                Ok(Some(DynamicSample { arrived, origin, schema }))
            }
            Err(error) => Err(self.intake.cut_off_for(turn, &error)),
        }
    }

    /// The next message; blocks until there is one. `None` when the node is leaving. Used as
    /// [`Subscriber::recv`](crate::Subscriber::recv), which has an example.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv(&mut self) -> Result<Option<DynamicSample>, RecvError> {
        receive(self, None)
    }

    /// As [`DynamicSubscriber::recv`], but blocks at most for `timeout`; `None` also when the time is over.
    /// Example: [`DynamicSubscriber`].
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<DynamicSample>, RecvError> {
        receive(self, Some(timeout))
    }

    /// As [`crate::Subscriber::descriptor`].
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>, WatchError> {
        self.intake.descriptor()
    }

    /// Blocks until this subscriber is attached to `count` publishers, at most for `timeout`. Example:
    /// [`DynamicSubscriber::connections`].
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over.
    pub fn wait_for_publishers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.intake.wait_for_publishers(count, timeout)
    }

    /// Messages received, over all publishers that ever were. Example: [`DynamicSubscriber::connections`].
    pub fn received(&self) -> u64 {
        self.intake.received()
    }

    /// Messages missed for good, over all publishers that ever were. Example:
    /// [`DynamicSubscriber::connections`].
    pub fn lost(&self) -> u64 {
        self.intake.lost()
    }

    /// Where this subscriber stands with each publisher; those that ended last are listed too (up to 256).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("tool").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let anything = node.subscriber_dynamic("**")?;
    /// let battery = node.publisher::<f32>("battery")?;
    /// anything.wait_for_publishers(1, Duration::from_secs(5))?;
    /// assert_eq!((anything.received(), anything.lost()), (0, 0));
    /// for connection in anything.connections() {
    ///     println!("{}: {} lost", connection.origin.service, connection.lost);
    /// }
    /// # drop(battery);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.intake.statuses()
    }
}

impl AsFd for DynamicSubscriber {
    /// As [`DynamicSubscriber::descriptor`].
    ///
    /// # Panics
    /// Where that is an error: the system has no descriptor left. Ask it first, once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.intake.as_fd()
    }
}

#[doc(hidden)] // How a receive waits is written once, in the runtime.
impl Receiving for DynamicSubscriber {
    type Received = DynamicSample;

    fn intake(&mut self) -> &mut Intake {
        &mut self.intake
    }

    fn try_receive(&mut self) -> Result<Option<DynamicSample>, RecvError> {
        self.try_recv()
    }
}

impl std::fmt::Debug for DynamicSubscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamicSubscriber")
            .field("filter", &self.intake.filter().as_str())
            .finish_non_exhaustive()
    }
}

impl DynamicSample {
    /// The archive, or the plain bytes of a service of `[u8]`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("tool").dir(folder.path()).join()?;
    /// let mut anything = node.subscriber_dynamic("**")?;
    /// node.publisher::<[u8]>("raw")?.send(b"abc")?;
    /// let sample = anything.recv()?.ok_or("the node is leaving")?;
    /// assert!(sample.schema().is_bytes());
    /// assert_eq!((sample.bytes(), sample.sequence()), (&b"abc"[..], 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bytes(&self) -> &[u8] {
        self.arrived.bytes()
    }

    /// What the bytes are. Example: [`DynamicSubscriber`].
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Service, publisher and node. Example: [`DynamicSubscriber`].
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Number of the message at its publisher, from 0, without gaps. Example: [`DynamicSample::bytes`].
    pub fn sequence(&self) -> u64 {
        self.arrived.sequence()
    }

    /// The message as JSON, by its schema. Bounds are checked at every step; the publisher is not trusted.
    /// Example: [`DynamicSubscriber`].
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn to_json(&self) -> Result<String, DecodeError> {
        let mut text = String::new();
        self.schema.to_json(self.bytes(), &mut text)?;
        Ok(text)
    }
}
