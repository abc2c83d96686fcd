//! A received message.

use crate::message::Message;
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::EndId;
use hivemind_ring::archive::Refused;
use hivemind_runtime::ports::Origin;
use std::ops::Deref;

/// A received message, readable in place until dropped. It dereferences to the archived type (or to `[u8]`).
/// May be sent to other threads.
///
/// A message that lies in a chunk of its publisher stays pinned there as long as the sample lives, also when
/// the publisher is gone. At most 56 samples of one publisher can be held so; then a receive says
/// [`RecvError::HeldOut`](crate::RecvError::HeldOut). A message of a publisher that is not trusted (see
/// [`crate::Trust`]) was copied instead, and is memory of this process alone.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
/// # use hivemind::message;
/// #[message]
/// #[derive(Debug, PartialEq)]
/// struct Pose { x: f64, frame: String }
///
/// let mut subscriber = node.subscriber::<Pose>("sensors/*")?;
/// let mut publisher = node.publisher::<Pose>("sensors/pose")?;
/// publisher.send(&Pose { x: 0.5, frame: "map".to_owned() })?;
/// let sample = subscriber.recv()?.ok_or("the node is leaving")?;
///
/// assert_eq!(sample.x.to_native(), 0.5); // A field of the archived type, where it lies.
/// assert_eq!((sample.service().as_str(), sample.sequence()), ("sensors/pose", 0));
/// assert_eq!((sample.publisher(), sample.origin().node.as_str()), (publisher.id(), "listener"));
/// let pose: Pose = sample.to_owned()?; // A value of one's own; the sample can go.
/// assert_eq!(pose, Pose { x: 0.5, frame: "map".to_owned() });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// In this order: what moves in pieces of 16 bytes comes before the tag of an `Option` around it.
#[repr(C)]
pub struct Sample<T: Message + ?Sized> {
    pub(crate) origin: Origin,
    pub(crate) held: T::Held,
}

impl<T: Message + ?Sized> Sample<T> {
    /// The service that the message was published on. Example: [`Sample`].
    pub fn service(&self) -> &'static ServiceName {
        self.origin.service
    }

    /// Number of the message at its publisher, from 0, without gaps. Example: [`Sample`].
    #[inline]
    pub fn sequence(&self) -> u64 {
        T::sequence(&self.held)
    }

    /// The publisher; another number for each life of its node. Example: [`Sample`].
    pub fn publisher(&self) -> EndId {
        self.origin.publisher
    }

    /// Service, publisher and node together. Example: [`Sample`].
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Deserializes a copy (for `[u8]`, a `Vec<u8>`), which holds no memory of the publisher. Example:
    /// [`Sample`].
    ///
    /// # Errors
    /// [`Refused`] if the type's own `Deserialize` says so.
    pub fn to_owned(&self) -> Result<T::Owned, Refused> {
        T::own(&self.held)
    }
}

impl<T: Message + ?Sized> Deref for Sample<T> {
    type Target = T::Read;
    #[inline]
    fn deref(&self) -> &T::Read {
        T::read(&self.held)
    }
}

impl<T: Message<Read: std::fmt::Debug> + ?Sized> std::fmt::Debug for Sample<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sample")
            .field("service", self.origin.service)
            .field("sequence", &self.sequence())
            .field("message", &&**self)
            .finish()
    }
}
