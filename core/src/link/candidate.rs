//! A publisher, as the rules of links see it.

use crate::contract::{Contract, Kind};
use crate::name::{NodeName, ServiceName};
use crate::protocol::EndId;

/// Where a publisher that stands for a remote one really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The name of the other host, as its link authenticated it.
    pub host: String,
    /// True: it is a leaf, a node without shared memory, and belongs to this host as if it were local.
    pub leaf: bool,
    /// The remote publisher's node.
    pub node: NodeName,
    /// The remote publisher.
    pub publisher: EndId,
}

/// A publisher of this host, as the link's predicate and the other host see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The publisher.
    pub publisher: EndId,
    /// Its node.
    pub node: NodeName,
    /// Its service.
    pub service: ServiceName,
    /// Its type.
    pub kind: Kind,
    /// What it promises.
    pub contract: Contract,
    /// It stands for a remote publisher; `None`: it is of this host.
    pub via: Option<Via>,
}

/// One attachment to a local publisher; never reused within the life of the link.
pub type ExportId = u32;
