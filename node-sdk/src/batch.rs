//! Many ends, one wait.

use crate::error::BatchError;
use crate::message::Message;
use crate::publisher::{Publisher, PublisherBuilder};
use crate::subscriber::{Subscriber, SubscriberBuilder};
use hivemind_runtime::ports::{self, Member, PublisherError, SubscriberError};
use std::sync::Arc;

/// Creates many publishers and subscribers and waits for the root once, instead of once for each: a thousand
/// of them are there in a fraction of the time. `Send` and `Sync`: several threads may fill one batch.
///
/// Until [`Batch::finish`] says `Ok` an end may still be refused: for its type, or by the policy. One that is
/// refused is in no hive, and nobody attaches to it. Dropped without `finish`, a batch waits as well, and
/// says in the log what was refused.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("arm").dir(folder.path()).join()?;
/// let batch = node.batch();
/// let mut joints = Vec::new();
/// for joint in 0..100 {
///     joints.push(batch.publisher::<[u8]>(&format!("arm/{joint}"))?);
/// }
/// let orders = batch.publisher_builder::<u64>("orders").reliable().create()?;
/// let poses = batch.subscriber::<[u8]>("arm/*")?;
/// let wary = batch.subscriber_builder::<[u8]>("arm/0").trust(hivemind::Trust::Nobody).create()?;
/// batch.finish()?;
/// # drop((joints, orders, poses, wary));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "call `finish` to learn whether the ends were accepted"]
pub struct Batch {
    port: Arc<ports::Batch>,
}

impl Batch {
    pub(crate) fn new(member: &Arc<Member>) -> Batch {
        Batch { port: Arc::new(ports::Batch::new(member)) }
    }

    /// As [`Node::publisher`](crate::Node::publisher), without waiting. Example: [`Batch`].
    ///
    /// # Errors
    /// See [`PublisherError`].
    pub fn publisher<T: Message + ?Sized>(&self, service: &str) -> Result<Publisher<T>, PublisherError> {
        self.publisher_builder(service).create()
    }

    /// As [`Node::publisher_builder`](crate::Node::publisher_builder), without waiting. Example: [`Batch`].
    pub fn publisher_builder<T: Message + ?Sized>(&self, service: &str) -> PublisherBuilder<T> {
        PublisherBuilder::new(Arc::clone(self.port.member()), Some(Arc::clone(&self.port)), service)
    }

    /// As [`Node::subscriber`](crate::Node::subscriber), without waiting. Example: [`Batch`].
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscriber<T: Message + ?Sized>(&self, filter: &str) -> Result<Subscriber<T>, SubscriberError> {
        self.subscriber_builder(filter).create()
    }

    /// As [`Node::subscriber_builder`](crate::Node::subscriber_builder), without waiting. Example: [`Batch`].
    pub fn subscriber_builder<T: Message + ?Sized>(&self, filter: &str) -> SubscriberBuilder<T> {
        SubscriberBuilder::new(Arc::clone(self.port.member()), Some(Arc::clone(&self.port)), filter)
    }

    /// Blocks until all ends that were created so far are answered for, at most for the patience of the node.
    /// Example of a refusal: [`BatchError`].
    ///
    /// # Errors
    /// [`BatchError`] names all that were refused; drop those ends.
    pub fn finish(self) -> Result<(), BatchError> {
        let refused = self.port.finish();
        if refused.is_empty() { Ok(()) } else { Err(BatchError::new(refused)) }
    }
}
