//! A received message.

use crate::message::Message;
use hivemind_core::name::ServiceName;
use hivemind_core::protocol::EndId;
use hivemind_ring::archive::Refused;
use hivemind_runtime::ports::Origin;
use std::ops::Deref;

/// A received message, readable in place until dropped. It dereferences to the archived type (or to `[u8]`).
///
/// A message that lies in a chunk of its publisher stays pinned there as long as the sample lives, also when the publisher
/// is gone; at most [`hivemind_ring::layout::PINS`] samples of one publisher can be held so. A message of a publisher that is not
/// trusted (see [`crate::Trust`]) was copied instead, and is memory of this process alone. May be sent to other threads.
// In this order: what moves in pieces of 16 bytes comes before the tag of an `Option` around it.
#[repr(C)]
pub struct Sample<T: Message + ?Sized> {
    pub(crate) origin: Origin,
    pub(crate) held: T::Held,
}

impl<T: Message + ?Sized> Sample<T> {
    /// The service that the message was published on.
    pub fn service(&self) -> &'static ServiceName {
        self.origin.service
    }

    /// Number of the message at its publisher, from 0, without gaps.
    #[inline]
    pub fn sequence(&self) -> u64 {
        T::sequence(&self.held)
    }

    /// The publisher; another number for each life of its node.
    pub fn publisher(&self) -> EndId {
        self.origin.publisher
    }

    /// Service, publisher and node together.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Deserializes a copy of its own (for `[u8]`, a `Vec<u8>`).
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
