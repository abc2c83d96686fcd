//! Where a message came from.

use hivemind_core::name::{NodeName, ServiceName};
use hivemind_core::protocol::EndId;

/// Where a message came from. `Copy`; its names live as long as the process. Example: `hivemind::Sample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The service.
    pub service: &'static ServiceName,
    /// The name of the publisher's node.
    pub node: &'static NodeName,
    /// The publisher: the life of its node, and which end of it.
    pub publisher: EndId,
}

impl Origin {
    /// The host of the publisher's node; `None`: this one. Takes a lock. No example: another one needs a
    /// second host.
    pub fn host(&self) -> Option<&'static str> {
        crate::ports::names::host_of(self.node)
    }
}
