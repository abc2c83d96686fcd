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

/// Receives messages of any type; each comes with the schema of its service. Reads in place from publishers of the same user, and
/// copies the messages of others first ([`Trust::SameUser`]).
pub struct DynamicSubscriber {
    intake: Intake,
    /// Decoded schemas, by their bytes.
    schemas: HashMap<Vec<u8>, Arc<Schema>>,
}

/// A received message of any type. As with [`crate::Sample`], its memory stays pinned until it is dropped, unless it was
/// copied.
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

    /// The next message, if there is one. Never blocks.
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

    /// The next message; waits for one. `None` once the node is leaving.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv(&mut self) -> Result<Option<DynamicSample>, RecvError> {
        receive(self, None)
    }

    /// As `recv`, but waits at most for `timeout`; `None` also when the time is over.
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

    /// Waits until this subscriber is attached to `count` publishers, at most for `timeout`.
    ///
    /// # Errors
    /// [`WaitError`] says how many there are when the time is over.
    pub fn wait_for_publishers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.intake.wait_for_publishers(count, timeout)
    }

    /// Messages received, over all publishers that ever were.
    pub fn received(&self) -> u64 {
        self.intake.received()
    }

    /// Messages missed for good, over all publishers that ever were.
    pub fn lost(&self) -> u64 {
        self.intake.lost()
    }

    /// Where this subscriber stands with each publisher.
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
    /// The archive, or the plain bytes.
    pub fn bytes(&self) -> &[u8] {
        self.arrived.bytes()
    }

    /// What the bytes are.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Service, publisher and node.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Number of the message at its publisher.
    pub fn sequence(&self) -> u64 {
        self.arrived.sequence()
    }

    /// The message as JSON, by its schema. Bounds are checked at every step; the publisher is not trusted.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn to_json(&self) -> Result<String, DecodeError> {
        let mut text = String::new();
        self.schema.to_json(self.bytes(), &mut text)?;
        Ok(text)
    }
}
