//! Services that run themselves.

use crate::message::Message;
use crate::publisher::Publisher;
use hivemind_runtime::ports::SendError;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// What the body of a service works with: its publisher, to which it dereferences, and a sleep that ends when
/// the node leaves.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("gotham").dir(folder.path()).join()?;
/// # use std::time::Duration;
/// # let stop = node.stop_handle();
/// let mut brightness = 0;
/// node.service::<u64, _>("bat-signal", move |service| {
///     service.send(&brightness)?;
///     brightness += 1;
/// # if brightness == 3 { stop.stop(); }
///     service.sleep_for(Duration::from_millis(1)) // Not `thread::sleep`: shutting down would wait for it.
/// })?;
/// node.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Service<T: Message + ?Sized> {
    publisher: Publisher<T>,
}

/// The node is leaving; a service ends then. Example of passing it on: [`Service`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is leaving")]
pub struct Leaving;

/// Why a service ended. [`ServiceError::own`] makes one of any error or text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The node is leaving: the orderly end.
    #[error(transparent)]
    Leaving(#[from] Leaving),
    /// A message was not sent; the source says what to do.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Something of the service's own; see its source. Made by [`ServiceError::own`].
    #[error(transparent)]
    Own(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl ServiceError {
    /// An error of the service's own, made of any error or text. [`Node::run`](crate::Node::run) reports it.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("gotham").dir(folder.path()).join()?;
    /// use hivemind::ServiceError;
    ///
    /// node.service::<Vec<u8>, _>("lamp", |service| {
    ///     let state = std::fs::read("/no/such/lamp").map_err(ServiceError::own)?;
    ///     service.send(&state)?;
    ///     if state.is_empty() { Err(ServiceError::own("the lamp broke")) } else { Ok(()) }
    /// })?;
    /// let error = node.run().unwrap_err();
    /// assert!(error.to_string().starts_with("lamp ended: No such file"), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn own(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ServiceError {
        ServiceError::Own(error.into())
    }
}

impl<T: Message + ?Sized> Service<T> {
    pub(crate) fn new(publisher: Publisher<T>) -> Self {
        Service { publisher }
    }

    /// Blocks for `duration`, but no longer than until the node leaves. Example: [`Service`].
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
