//! Which links a host has.

use std::path::PathBuf;
use std::time::Duration;

use hivemind_core::link::greeting::Role;
use hivemind_core::link::peering::Settings;

use crate::security::Security;
use crate::transport::Address;

/// Memory for the messages of one host, in bytes, by default …
const MEMORY: u64 = 2 << 30;
/// … and at least.
const MEMORY_MIN: u64 = 1 << 20;

/// Which links there are to be.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    pub(super) security: Security,
    pub(super) role: Role,
    pub(super) listen: Vec<Address>,
    pub(super) peers: Vec<Address>,
    pub(super) settings: Settings,
    /// The file of the policy, and the user that must own it.
    pub(super) policy: Option<(PathBuf, u32)>,
    pub(super) memory: u64,
}

impl LinkOptions {
    /// No link yet.
    #[must_use]
    pub fn new(security: Security) -> LinkOptions {
        LinkOptions {
            security,
            role: Role::Peer,
            listen: Vec::new(),
            peers: Vec::new(),
            settings: Settings::default(),
            policy: None,
            memory: MEMORY,
        }
    }

    /// Memory that the messages of each linked host may take here, in bytes; at least 1 MiB. It is taken as
    /// they arrive. One publisher gets at most a quarter of what is left; a lossy one that may take no more
    /// gives up its oldest messages. Default: 2 GiB.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> LinkOptions {
        self.memory = bytes.max(MEMORY_MIN);
        self
    }

    /// Accept connections here. May be called more than once.
    #[must_use]
    pub fn listen(mut self, address: Address) -> LinkOptions {
        self.listen.push(address);
        self
    }

    /// Connect to this host, again and again while it is not there. May be called more than once.
    #[must_use]
    pub fn peer(mut self, address: Address) -> LinkOptions {
        self.peers.push(address);
        self
    }

    /// This host is a single node that belongs to the host with which it is linked.
    #[must_use]
    pub fn leaf(mut self) -> LinkOptions {
        self.role = Role::Leaf;
        self
    }

    /// The policy in this file says what may cross which link (see `docs/guide.md`). It is read again when it
    /// changes. It counts if `owner` could have written it, and nobody else.
    #[must_use]
    pub fn policy(mut self, file: impl Into<PathBuf>, owner: u32) -> LinkOptions {
        self.policy = Some((file.into(), owner));
        self
    }

    /// Silence after which a connection is dead; the other host is asked for a sign of life after a third of
    /// it. Default: 6 s.
    #[must_use]
    pub fn dead_after(mut self, silent: Duration) -> LinkOptions {
        self.settings.dead = silent;
        self.settings.keep_alive = silent / 3;
        self
    }

    /// How long streams are kept without a connection. Default: 30 s.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> LinkOptions {
        self.settings.hold = hold;
        self
    }

    /// How long the receiving thread polls for the next bytes before it sleeps, while they come at shorter
    /// intervals than that; it yields its processor meanwhile. Default: 100 us, which halves a round trip on
    /// a machine whose processors go idle. Zero: it sleeps at once, which saves power.
    #[must_use]
    pub fn spin(mut self, limit: Duration) -> LinkOptions {
        self.settings.spin = limit;
        self
    }
}
