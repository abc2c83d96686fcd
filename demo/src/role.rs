//! The processes of the demo: what each is called and what it does in the hive.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::frames;

/// What a process of the demo does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Hosts the root and nothing else: what `hm root` does.
    Root,
    /// Publishes `machine/**`.
    Machine,
    /// Subscribes to `machine/**`, publishes `frames/screen`.
    Frames,
    /// Subscribes to `machine/cpu` and `frames/screen`.
    Exact,
    /// Subscribes to `**`.
    Wildcard,
}

impl Role {
    /// All of them, in the order in which they are started.
    pub(crate) const ALL: [Role; 5] = [Role::Root, Role::Machine, Role::Frames, Role::Exact, Role::Wildcard];

    /// The name of the process and of its node.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Machine => "machine",
            Role::Frames => "frames",
            Role::Exact => "exact",
            Role::Wildcard => "wildcard",
        }
    }

    /// Whether its subscriptions match the service. Nobody hears its own service: `frames` asks for
    /// `machine/**` alone.
    pub(crate) fn hears(self, service: &str) -> bool {
        match self {
            Role::Root | Role::Machine => false,
            Role::Frames => service.starts_with("machine/"),
            Role::Exact => service == "machine/cpu" || service == frames::SERVICE,
            Role::Wildcard => true,
        }
    }

    /// Whether it publishes.
    pub(crate) fn publishes(self) -> bool {
        matches!(self, Role::Machine | Role::Frames)
    }

    /// Whether it subscribes.
    pub(crate) fn subscribes(self) -> bool {
        matches!(self, Role::Frames | Role::Exact | Role::Wildcard)
    }

    /// Whether it blocks until a message comes and reads it at once, so that its gaps and latencies say
    /// something about the hive. `frames` reads when it draws.
    pub(crate) fn listens_closely(self) -> bool {
        matches!(self, Role::Exact | Role::Wildcard)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
