//! Many ends, one wait.

use crate::error::BatchError;
use crate::message::Message;
use crate::publisher::{Publisher, PublisherBuilder};
use crate::subscriber::{Subscriber, SubscriberBuilder};
use hivemind_runtime::ports::{self, Member, PublisherError, SubscriberError};
use std::sync::Arc;

/// Creates many publishers and subscribers and waits for the root once, instead of once for each: a thousand of them are there in
/// a fraction of the time. May be used from several threads.
///
/// Until [`Batch::finish`] says `Ok` an end may still be refused: for its type, or by the policy. One that is refused is in no
/// hive, and nobody attaches to it. Dropped without `finish`, a batch waits as well, and says in the log what was refused.
///
/// ```
/// # use hivemind::Node;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let node = Node::builder("camera").dir(folder.path()).join()?;
/// let batch = node.batch();
/// let mut joints = Vec::new();
/// for joint in 0..100 {
///     joints.push(batch.publisher::<[u8]>(&format!("arm/{joint}"))?);
/// }
/// let poses = batch.subscriber::<[u8]>("arm/*")?;
/// batch.finish()?;
/// # assert_eq!(joints.len(), 100);
/// # drop(poses);
/// # Ok(())
/// # }
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

    /// As [`Node::publisher`](crate::Node::publisher), without waiting.
    ///
    /// # Errors
    /// See [`PublisherError`].
    pub fn publisher<T: Message + ?Sized>(&self, service: &str) -> Result<Publisher<T>, PublisherError> {
        self.publisher_builder(service).create()
    }

    /// As [`Node::publisher_builder`](crate::Node::publisher_builder), without waiting.
    pub fn publisher_builder<T: Message + ?Sized>(&self, service: &str) -> PublisherBuilder<T> {
        PublisherBuilder::new(Arc::clone(self.port.member()), Some(Arc::clone(&self.port)), service)
    }

    /// As [`Node::subscriber`](crate::Node::subscriber), without waiting.
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscriber<T: Message + ?Sized>(&self, filter: &str) -> Result<Subscriber<T>, SubscriberError> {
        self.subscriber_builder(filter).create()
    }

    /// As [`Node::subscriber_builder`](crate::Node::subscriber_builder), without waiting.
    pub fn subscriber_builder<T: Message + ?Sized>(&self, filter: &str) -> SubscriberBuilder<T> {
        SubscriberBuilder::new(Arc::clone(self.port.member()), Some(Arc::clone(&self.port)), filter)
    }

    /// Waits for the answers to all ends that were created so far, at most for the patience of the node.
    ///
    /// # Errors
    /// [`BatchError`] names all that were refused; drop those ends.
    pub fn finish(self) -> Result<(), BatchError> {
        let refused = self.port.finish();
        if refused.is_empty() { Ok(()) } else { Err(BatchError::new(refused)) }
    }
}
