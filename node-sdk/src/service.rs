//! Services that run themselves.

use crate::message::Message;
use crate::publisher::Publisher;
use hivemind_runtime::ports::SendError;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// What the body of a service works with: its publisher, and a sleep that ends when the node leaves.
#[derive(Debug)]
pub struct Service<T: Message + ?Sized> {
    publisher: Publisher<T>,
}

/// The node is leaving; a service ends then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is leaving")]
pub struct Leaving;

/// Why a service ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The node is leaving: the orderly end.
    #[error(transparent)]
    Leaving(#[from] Leaving),
    /// A message was not sent; the source says what to do.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Something of the service's own; see its source.
    #[error(transparent)]
    Own(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl<T: Message + ?Sized> Service<T> {
    pub(crate) fn new(publisher: Publisher<T>) -> Self {
        Service { publisher }
    }

    /// Sleeps, but no longer than until the node leaves.
    ///
    /// # Errors
    /// [`Leaving`], which the body passes on with `?`.
    pub fn sleep_for(&self, duration: Duration) -> Result<(), ServiceError> {
        self.publisher.member().sleep(duration);
        if self.leaving() { Err(Leaving.into()) } else { Ok(()) }
    }

    pub(crate) fn leaving(&self) -> bool {
        self.publisher.member().services_end()
    }
}

impl<T: Message + ?Sized> Deref for Service<T> {
    type Target = Publisher<T>;
    fn deref(&self) -> &Publisher<T> {
        &self.publisher
    }
}

impl<T: Message + ?Sized> DerefMut for Service<T> {
    fn deref_mut(&mut self) -> &mut Publisher<T> {
        &mut self.publisher
    }
}
