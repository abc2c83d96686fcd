//! The hosts that are linked, or were: a life of a host has one engine, over all its connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hivemind_core::link::greeting::{Hello, Role, takes_over};
use hivemind_core::link::peering::Settings;
use hivemind_runtime::lock;
use hivemind_runtime::ports::Member;
use hivemind_runtime::random::random_number;

use crate::backoff::Conducts;
use crate::engine::{ANOTHER_STAYS, Engine, Hooks, LEAVES, Status, TOO_SOON};
use crate::error::LinksError;
use crate::exports::HiveExports;
use crate::imports::HiveImports;
use crate::options::LinkOptions;
use crate::permits::{OfHost, Permits};
use crate::purse::Purse;
use crate::stop::Stop;
use crate::transport::{Transport, farewell};

/// A host that is linked gives a sign of life within this time, or it is gone, and another one of its name is
/// its next life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// Hosts that are remembered while they are not connected.
const HOSTS_MAX: usize = 1024;

/// How one link is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinkStatus {
    /// The name of the other host.
    pub host: String,
    /// Its address, while it is connected.
    pub address: Option<String>,
    /// Why the last connection ended.
    pub ended: Option<String>,
    /// Connections so far.
    pub connections: u64,
    /// Messages that were committed at the other host.
    pub delivered: u64,
    /// Messages of the other host that were published here.
    pub received: u64,
    /// Messages of the other host that were lost on the way, or before it.
    pub lost: u64,
}

/// Why a host is not linked, though its greeting is sound. It is told so.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    #[error(
        "another host with the name or the key of {host:?} is linked already, at {address}; give each host its own (hm key issue, --plain-text)"
    )]
    Twin { host: String, address: String },
    #[error("{TOO_SOON}; the next one is accepted in {} ms", .wait.as_millis().max(1))]
    TooSoon { wait: Duration },
    #[error("{LEAVES}")]
    Leaves,
    #[error(transparent)]
    Start(#[from] LinksError),
}

struct Host {
    engine: Arc<Engine>,
    epoch: u64,
    role: Role,
    dialled_here: bool,
}

/// A host as it is now.
pub(super) struct Linked {
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) role: Role,
    pub(super) engine: Arc<Engine>,
}

/// See the head of the module.
pub(super) struct Hosts {
    member: Arc<Member>,
    own: Hello,
    settings: Settings,
    memory: u64,
    permits: Arc<Permits>,
    conducts: Arc<Conducts>,
    stop: Arc<Stop>,
    table: Mutex<BTreeMap<String, Host>>,
    /// Notified when a host was linked.
    linked: Condvar,
}

impl Hosts {
    pub(super) fn new(
        member: &Arc<Member>,
        options: &LinkOptions,
        permits: &Arc<Permits>,
        stop: &Arc<Stop>,
    ) -> Hosts {
        let host = options.security.host().to_owned();
        Hosts {
            member: Arc::clone(member),
            own: Hello { role: options.role, host, epoch: random_number(), capabilities: 0 },
            settings: options.settings.clone(),
            memory: options.memory,
            permits: Arc::clone(permits),
            conducts: Arc::new(Conducts::new(HOSTS_MAX)),
            stop: Arc::clone(stop),
            table: Mutex::default(),
            linked: Condvar::new(),
        }
    }

    /// The greeting of this host.
    pub(super) fn own(&self) -> &Hello {
        &self.own
    }

    pub(super) fn all(&self) -> Vec<Linked> {
        let linked = |(name, host): (&String, &Host)| Linked {
            name: name.clone(),
            epoch: host.epoch,
            role: host.role,
            engine: Arc::clone(&host.engine),
        };
        lock(&self.table).iter().map(linked).collect()
    }

    pub(super) fn status(&self) -> Vec<LinkStatus> {
        let status = |Linked { name: host, engine, .. }| {
            let Status { peer, totals, ended, .. } = engine.status();
            LinkStatus {
                host,
                address: peer.map(|peer| peer.address),
                ended,
                connections: totals.connections,
                delivered: totals.delivered,
                received: totals.received,
                lost: totals.lost,
            }
        };
        self.all().into_iter().map(status).collect()
    }

    pub(super) fn is_connected(&self, name: &str) -> bool {
        let engine = lock(&self.table).get(name).map(|host| Arc::clone(&host.engine));
        engine.is_some_and(|engine| engine.is_connected())
    }

    /// How long this host is not dialled, for its faults.
    pub(super) fn pause(&self, name: &str) -> Duration {
        self.conducts.pause(name)
    }

    /// Waits until `count` hosts are linked. False: the time is over.
    pub(super) fn wait_for(&self, count: usize, timeout: Duration) -> bool {
        let begun = Instant::now();
        let mut table = lock(&self.table);
        loop {
            if table.values().filter(|host| host.engine.is_connected()).count() >= count {
                return true;
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            table = self.linked.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends all links. What was published is sent, as what is in a ring is read, if the other hosts take it
    /// within `patience`.
    pub(super) fn end(&self, patience: Duration) {
        let hosts = std::mem::take(&mut *lock(&self.table));
        let deadline = Instant::now() + patience;
        for host in hosts.values() {
            host.engine.drain(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Refuses a host if another one of its name, or with its key, is linked and alive. One that has just
    /// died or was started anew is not: its connection ends, or says nothing when it is asked.
    pub(super) fn check_twin(&self, hello: &Hello) -> Result<(), AdoptError> {
        let engine = match lock(&self.table).get(&hello.host) {
            Some(host) if host.epoch != hello.epoch => Arc::clone(&host.engine),
            _ => return Ok(()),
        };
        match engine.status().peer {
            Some(twin) if engine.is_alive(SIGN_OF_LIFE) => {
                Err(AdoptError::Twin { host: hello.host.clone(), address: twin.address })
            }
            _ => Ok(()),
        }
    }

    /// A connection to a host that has greeted.
    pub(super) fn adopt(
        &self,
        mut transport: Box<dyn Transport>,
        hello: Hello,
        dialled: bool,
    ) -> Result<(), AdoptError> {
        let refuse = |transport: &mut dyn Transport, error: AdoptError| {
            farewell(transport, &error.to_string());
            Err(error)
        };
        if self.stop.is_set() {
            return refuse(&mut *transport, AdoptError::Leaves);
        }
        let wait = self.conducts.refusal(&hello.host);
        if !wait.is_zero() {
            return refuse(&mut *transport, AdoptError::TooSoon { wait });
        }
        let name = hello.host.clone();
        let mut table = lock(&self.table);
        let known = table.get(&name).filter(|host| host.epoch == hello.epoch);
        if let Some(host) = known
            && host.engine.is_connected()
            && !takes_over(self.own.epoch, hello.epoch, host.dialled_here, dialled)
        {
            drop(table);
            farewell(&mut *transport, ANOTHER_STAYS);
            return Ok(());
        }
        let engine = match known {
            Some(host) => Arc::clone(&host.engine),
            None => {
                // Another life of that host: what stood for the former one ends.
                let former = table.remove(&name);
                if table.len() >= HOSTS_MAX {
                    table.retain(|_, host| host.engine.is_connected());
                }
                drop(table);
                drop(former);
                let engine = Arc::new(self.engine(&hello)?);
                table = lock(&self.table);
                engine
            }
        };
        let (epoch, role) = (hello.epoch, hello.role);
        engine.connect(transport, hello).map_err(LinksError::from)?;
        table.insert(name, Host { engine, epoch, role, dialled_here: dialled });
        self.linked.notify_all();
        drop(table);
        self.member.look_again();
        Ok(())
    }

    fn engine(&self, hello: &Hello) -> Result<Engine, LinksError> {
        let exports = HiveExports::new(&self.member)?;
        let admit = OfHost { host: hello.host.clone(), permits: Arc::clone(&self.permits) };
        let purse = Purse::new(self.memory);
        let imports = HiveImports { member: Arc::clone(&self.member), admit: Arc::new(admit), purse };
        let (conducts, host) = (Arc::clone(&self.conducts), hello.host.clone());
        let permits = Arc::clone(&self.permits);
        let member = Arc::downgrade(&self.member);
        let hooks = Hooks {
            permit: Arc::new(move |candidate, hello| permits.may_get(&hello.host, &candidate.service)),
            changed: Arc::new(move || {
                if let Some(member) = member.upgrade() {
                    member.look_again();
                }
            }),
            at_fault: Arc::new(move || conducts.fault(&host)),
        };
        Ok(Engine::start(&hello.host, self.settings.clone(), exports, imports, hooks)?)
    }
}
