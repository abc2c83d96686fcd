//! Links to other hosts (feature `links`): their services here, and the services of this host there, under the same names.
//!
//! ```no_run
//! use hivemind_links::{LinkOptions, Links, Security};
//! use hivemind_runtime::ports::{Member, MemberOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Member::join(&MemberOptions::new("link"))?; // or a `hivemind::Node`
//! let options = LinkOptions::new(Security::key("keys/robot.pem")?)
//!     .listen("0.0.0.0:7700".parse()?)
//!     .peer("station:7700".parse()?);
//! let links = Links::start(&node, options)?;
//! # Ok(())
//! # }
//! ```
//!
//! What subscribers of one host want is read on the other one like by any subscriber, sent once, and published here by a publisher that stands
//! for the remote one; a sample says so ([`hivemind_runtime::ports::Origin::host`]). What nobody wants is not sent. Sequence numbers, and so the
//! count of what was lost, hold from end to end. See `docs/decisions/0012-links-between-hosts.md`.
//!
//! Threads: one accepts connections, one for each peer dials, one follows what subscribers want, and each link has two. If the process
//! dies the other hosts keep what stands for its publishers for [`LinkOptions::hold`], and take it up when it comes back.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{ANOTHER_STAYS, Engine, Hooks, LEAVES, Status, TOO_SOON};
use crate::keys::HostKey;
use crate::transport::plain::{Listener, Plain, Stream};
use crate::transport::tls::{Tls, TlsKeys};
use crate::transport::{Transport, close_after, wait_for, write_all};
use hivemind_core::link::frame::{HEADER, Header, Kind};
use hivemind_core::link::greeting::{GreetingError, Hello, MAX_HELLO, takes_over};
use hivemind_core::link::session::{Session, Settings, Wanted};
use hivemind_core::name::is_host_name;
use hivemind_runtime::random::random_number;

use hivemind_core::filter::Filter;
use hivemind_runtime::lock;
use hivemind_runtime::ports::{AsMember, Member, SubscriberError};

mod admission;
mod backoff;
pub mod engine;
mod exports;
mod imports;
pub mod keys;
pub mod local;
mod permits;
pub mod remote;
mod stop;
pub mod transport;

pub use crate::keys::KeyError;
pub use crate::transport::{Address, AddressError};
pub use hivemind_core::link::greeting::Role;

use admission::{Admission, Pass};
use backoff::{Backoff, Conducts, Patience};
use exports::HiveExports;
use imports::{HiveImports, Purse};
use permits::{OfHost, Permits};
use stop::Stop;

/// How long the handshake and the greeting may take, each.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A host that is linked already gives a sign of life within this time, or it is gone, and another one of its name is its next life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long the end of all links may take for what is still to be sent.
const FAREWELL: Duration = Duration::from_secs(2);
/// Hosts that are remembered while nobody is connected.
const HOSTS_MAX: usize = 1024;
/// What the publishers of one host take for their messages here at the most, in bytes, unless it is said otherwise.
const MEMORY: u64 = 2 << 30;
/// What that is at the least.
const MEMORY_MIN: u64 = 1 << 20;
/// The listing is asked for again at the latest after this time, if a root was not there to say that something has changed.
const LOOK_ANEW: Duration = Duration::from_secs(2);
/// Changes that come close together are looked at together.
const SETTLE: Duration = Duration::from_millis(1);

/// How a host proves who it is, and whether others can read along.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Security {
    /// Encrypted, and both ends prove that they are hosts of this hive.
    Tls {
        /// The name that the key was made for.
        host: String,
        /// Keys, ready for use.
        keys: Arc<TlsKeys>,
    },
    /// Neither: whoever reaches the address is believed, may publish and subscribe to whatever may cross, and everybody on the way can read and
    /// change everything. For networks that nobody else is on.
    PlainText {
        /// The name of this host.
        host: String,
    },
}

impl Security {
    /// With the key of a host (`hm key issue`).
    ///
    /// # Errors
    /// [`KeyError`]: the file is no such key, or others can read it.
    pub fn key(file: impl AsRef<Path>) -> Result<Security, KeyError> {
        let key = HostKey::read(file.as_ref())?;
        Ok(Security::Tls { host: key.host().to_owned(), keys: Arc::new(TlsKeys::new(&key)?) })
    }

    /// Without encryption and without proof, under this name; see [`Security::PlainText`].
    #[must_use]
    pub fn plain_text(host: &str) -> Security {
        Security::PlainText { host: host.to_owned() }
    }

    fn host(&self) -> &str {
        match self {
            Security::Tls { host, .. } | Security::PlainText { host } => host,
        }
    }

    fn connect(&self, address: &Address, patience: &mut Patience) -> io::Result<Box<dyn Transport>> {
        let begun = Instant::now();
        let stream = Stream::connect(address, patience.next())?;
        patience.reached(begun.elapsed());
        Ok(match self {
            Security::Tls { keys, .. } => Box::new(Tls::connect(stream, keys, HANDSHAKE)?),
            Security::PlainText { .. } => Box::new(Plain::new(stream)),
        })
    }

    fn accept(&self, stream: Stream) -> io::Result<Box<dyn Transport>> {
        Ok(match self {
            Security::Tls { keys, .. } => Box::new(Tls::accept(stream, keys, HANDSHAKE)?),
            Security::PlainText { .. } => Box::new(Plain::new(stream)),
        })
    }
}

/// Which links there are to be.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    security: Security,
    role: Role,
    listen: Vec<Address>,
    peers: Vec<Address>,
    settings: Settings,
    policy: Option<(PathBuf, u32)>,
    memory: u64,
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

    /// What the messages of each linked host may take of this one's memory, in bytes; at least 1 MiB. It is taken as they arrive. One publisher gets at most
    /// a quarter of what is left, and a lossy one that may take no more gives up its oldest messages. Default 2 GiB.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> LinkOptions {
        self.memory = bytes.max(MEMORY_MIN);
        self
    }

    /// Accept connections here. May be said more than once.
    #[must_use]
    pub fn listen(mut self, address: Address) -> LinkOptions {
        self.listen.push(address);
        self
    }

    /// Connect to this host, again and again while it is not there. May be said more than once.
    #[must_use]
    pub fn peer(mut self, address: Address) -> LinkOptions {
        self.peers.push(address);
        self
    }

    /// This host is a single node that belongs to the host that it is linked with.
    #[must_use]
    pub fn leaf(mut self) -> LinkOptions {
        self.role = Role::Leaf;
        self
    }

    /// What may cross which link is said by the policy in this file (see `docs/guide.md`), read again when it changes. It counts if `owner`
    /// could have written it, and nobody else.
    #[must_use]
    pub fn policy(mut self, file: impl Into<PathBuf>, owner: u32) -> LinkOptions {
        self.policy = Some((file.into(), owner));
        self
    }

    /// How long a silent connection counts as one: it is asked after a third of this. Default 6 s.
    #[must_use]
    pub fn dead_after(mut self, silent: Duration) -> LinkOptions {
        self.settings.dead = silent;
        self.settings.keep_alive = silent / 3;
        self
    }

    /// How long streams are kept without a connection. Default 30 s.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> LinkOptions {
        self.settings.hold = hold;
        self
    }

    /// How long the thread that receives looks for the next bytes before it sleeps, while they come at shorter intervals than that; it yields its
    /// processor meanwhile. Default 100 us, which halves a round trip on a machine whose processors go idle. Zero: it sleeps at once,
    /// which saves power.
    #[must_use]
    pub fn spin(mut self, limit: Duration) -> LinkOptions {
        self.settings.spin = limit;
        self
    }
}

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// The name of a host has 1 to 255 visible ASCII characters. Choose another.
    #[error("{name:?} cannot be the name of a host; use 1 to 255 visible ASCII characters")]
    Name {
        /// The name.
        name: String,
    },
    /// It cannot listen there. Look at who else does, and whether the address is one of this machine.
    #[error(
        "cannot listen on {address}: {error}; see who else does, and whether it is an address of this machine"
    )]
    Listen {
        /// Where.
        address: Address,
        /// What the system said.
        error: io::Error,
    },
    /// The system gives no descriptor or no thread. Raise the limits.
    #[error("cannot start a link: {0}; raise the limits of descriptors and threads")]
    System(#[from] io::Error),
    /// The hive does not let the link subscribe.
    #[error(transparent)]
    Subscriber(#[from] SubscriberError),
    /// The node belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] hivemind_ring::fork::Forked),
}

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

/// The links of a host. Dropped, they end.
pub struct Links {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<String>,
}

struct Shared {
    member: Arc<Member>,
    options: LinkOptions,
    hello: Hello,
    hosts: Mutex<BTreeMap<String, Host>>,
    /// Notified when a host was linked, or all end.
    linked: Condvar,
    is_over: AtomicBool,
    admission: Admission,
    stop: Stop,
    refused: Mutex<Option<String>>,
    permits: Arc<Permits>,
    conducts: Arc<Conducts>,
}

struct Host {
    engine: Arc<Engine>,
    epoch: u64,
    role: Role,
    dialled_here: bool,
}

impl Links {
    /// Begins to listen and to dial.
    ///
    /// # Errors
    /// [`LinksError`]; nothing is left running then.
    pub fn start(node: &impl AsMember, options: LinkOptions) -> Result<Links, LinksError> {
        let member = Arc::clone(node.as_member());
        member.home().check()?;
        let name = options.security.host();
        if !is_host_name(name) {
            return Err(LinksError::Name { name: name.to_owned() });
        }
        let mut listeners = Vec::new();
        for address in &options.listen {
            let found = Listener::bind(address)
                .map_err(|error| LinksError::Listen { address: address.clone(), error })?;
            listeners.extend(found);
        }
        let addresses = listeners.iter().map(Listener::address).collect();
        let hello =
            Hello { role: options.role, host: name.to_owned(), epoch: random_number(), capabilities: 0 };
        let shared = Arc::new(Shared {
            member,
            hello,
            hosts: Mutex::default(),
            linked: Condvar::new(),
            is_over: AtomicBool::new(false),
            admission: Admission::default(),
            stop: Stop::new()?,
            refused: Mutex::default(),
            permits: Arc::new(Permits::new(options.policy.clone())),
            conducts: Arc::new(Conducts::new(HOSTS_MAX)),
            options,
        });
        let mut links = Links { shared: Arc::clone(&shared), threads: Vec::new(), addresses };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work)
        };
        if !listeners.is_empty() {
            let shared = Arc::clone(&shared);
            links.threads.push(spawn("hm-link-accept", Box::new(move || shared.accept(&listeners)))?);
        }
        for address in shared.options.peers.clone() {
            let shared = Arc::clone(&shared);
            links.threads.push(spawn("hm-link-dial", Box::new(move || shared.dial(&address)))?);
        }
        links.threads.push(spawn("hm-link-want", Box::new(move || shared.follow()))?);
        Ok(links)
    }

    /// Where it listens, with the ports that the system has chosen.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whether this is a child of their process, where no lock of theirs may be taken.
    fn is_forked(&self) -> bool {
        !self.shared.member.home().is_here()
    }

    /// How each link is. In a forked child there is none.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        if self.is_forked() {
            return Vec::new();
        }
        let hosts = lock(&self.shared.hosts);
        hosts
            .iter()
            .map(|(host, entry)| {
                let Status { peer, totals, ended, .. } = entry.engine.status();
                LinkStatus {
                    host: host.clone(),
                    address: peer.map(|peer| peer.address),
                    ended,
                    connections: totals.connections,
                    delivered: totals.delivered,
                    received: totals.received,
                    lost: totals.lost,
                }
            })
            .collect()
    }

    /// Waits until `count` hosts are linked, at most for `timeout`. False: they are not; [`Links::refusal`] may say why.
    #[must_use]
    pub fn wait_for_hosts(&self, count: usize, timeout: Duration) -> bool {
        if self.is_forked() {
            return false;
        }
        let begun = Instant::now();
        let mut hosts = lock(&self.shared.hosts);
        loop {
            if hosts.values().filter(|host| host.engine.is_connected()).count() >= count {
                return true;
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            hosts = self
                .shared
                .linked
                .wait_timeout(hosts, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Why the last attempt to be linked failed.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if let Err(forked) = self.shared.member.home().check() {
            return Some(forked.to_string());
        }
        lock(&self.shared.refused).clone()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if self.is_forked() {
            // The threads are the parent's: the system would let go of whichever of this process have their places by now. What they
            // work on is theirs, too.
            std::mem::forget(std::mem::take(&mut self.threads));
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        // Release: the threads see it when they wake.
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.stop.set();
        self.shared.member.look_again();
        for thread in self.threads.drain(..) {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
        let hosts = std::mem::take(&mut *lock(&self.shared.hosts));
        // What was published is sent, as what is in a ring is read, if the other host takes it in time.
        let deadline = Instant::now() + FAREWELL;
        for host in hosts.values() {
            host.engine.drain(deadline.saturating_duration_since(Instant::now()));
        }
        drop(hosts);
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        // Acquire: pairs with the store in `drop`.
        self.is_over.load(Ordering::Acquire) || self.member.is_leaving()
    }

    // ---- connections

    fn accept(self: &Arc<Self>, listeners: &[Listener]) {
        while !self.is_over() {
            self.stop.wait_beside(listeners);
            for listener in listeners {
                // Bounded: what comes later wakes this thread again.
                for _ in 0..64 {
                    let stream = match listener.accept() {
                        Ok(stream) => stream,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a link");
                            self.stop.wait(Duration::from_millis(10));
                            break;
                        }
                    };
                    let origin = stream.origin();
                    let Some(pass) = self.admission.admit(&origin) else {
                        tracing::warn!(from = origin, "too many connections that nobody knows yet; closed");
                        continue;
                    };
                    let shared = Arc::clone(self);
                    let begun = std::thread::Builder::new()
                        .name("hm-link-greet".to_owned())
                        .spawn(move || shared.greet_accepted(stream, pass));
                    if let Err(error) = begun {
                        tracing::warn!(%error, "cannot start a thread for a link");
                    }
                }
            }
        }
    }

    fn greet_accepted(self: &Arc<Self>, stream: Stream, pass: Pass) {
        let from = stream.peer();
        let outcome = self
            .options
            .security
            .accept(stream)
            .map_err(|error| error.to_string())
            .and_then(|transport| self.greet(transport, false));
        drop(pass);
        if let Err(reason) = outcome {
            self.is_refused(&from, &reason);
        }
    }

    fn is_refused(&self, from: &str, reason: &str) {
        tracing::warn!(from, reason, "not linked");
        *lock(&self.refused) = Some(format!("{from}: {reason}"));
    }

    fn dial(self: &Arc<Self>, address: &Address) {
        let (mut backoff, mut patience) = (Backoff::new(self.hello.epoch), Patience::new());
        let mut penance = Duration::ZERO;
        while !self.is_over() {
            let outcome = self
                .options
                .security
                .connect(address, &mut patience)
                .map_err(|error| error.to_string())
                .and_then(|transport| self.greet(transport, true));
            match outcome {
                Ok(host) => {
                    backoff.reset();
                    self.await_end(&host);
                    penance = self.conducts.pause(&host);
                }
                Err(reason) => self.is_refused(&address.to_string(), &reason),
            }
            if self.is_over() {
                return;
            }
            self.stop.wait(backoff.next().max(std::mem::take(&mut penance)));
        }
    }

    /// Waits while a host is linked.
    fn await_end(&self, host: &str) {
        while !self.is_over() {
            let engine = lock(&self.hosts).get(host).map(|host| Arc::clone(&host.engine));
            if !engine.is_some_and(|engine| engine.is_connected()) {
                return;
            }
            self.stop.wait(Duration::from_millis(50));
        }
    }

    /// Both sides say who they are. The accepting side listens first, so that it can refuse a twin before the
    /// twin believes it is linked. The name of the other host.
    fn greet(self: &Arc<Self>, mut transport: Box<dyn Transport>, dialled: bool) -> Result<String, String> {
        let deadline = Instant::now() + HANDSHAKE;
        if dialled {
            write_all(&mut *transport, &self.hello.encode(), deadline)?;
        }
        let heard = receive_hello(&mut *transport, deadline);
        let judged = match &heard {
            Ok((header, payload)) if header.kind == Kind::Hello => {
                let proved = transport.peer().host.clone();
                Some(Hello::judge(payload, &self.hello, proved.as_deref()))
            }
            _ => None,
        };
        if let Some(Ok(hello)) = &judged
            && let Some(reason) = self.twin_of(hello)
        {
            farewell(&mut *transport, &reason);
            return Err(reason);
        }
        if !dialled {
            write_all(&mut *transport, &self.hello.encode(), deadline)?;
        }
        match (heard, judged) {
            (_, Some(Ok(hello))) => self.adopt(transport, hello, dialled),
            (_, Some(Err(error))) => {
                farewell(&mut *transport, &error.to_string());
                if error == GreetingError::Myself {
                    // It stays so: not worth a word each time.
                    self.stop.wait(Duration::from_secs(60));
                }
                Err(error.to_string())
            }
            (Ok((_, bye)), None) => {
                Err(Session::farewell_reason(&bye).unwrap_or_else(|| "it refuses".to_owned()))
            }
            (Err(reason), None) => {
                farewell(&mut *transport, &reason);
                Err(reason)
            }
        }
    }

    /// Why this host is refused: another one of its name, or with its key, is linked and alive. One that has just died or was started anew is
    /// not: its connection ends, or says nothing when it is asked.
    fn twin_of(&self, hello: &Hello) -> Option<String> {
        let engine = {
            let hosts = lock(&self.hosts);
            let host = hosts.get(&hello.host).filter(|host| host.epoch != hello.epoch)?;
            Arc::clone(&host.engine)
        };
        let twin = engine.status().peer?;
        engine.is_alive(SIGN_OF_LIFE).then(|| {
            format!(
                "another host with the name or the key of {:?} is linked already, at {}; give each host its own (hm key issue, --plain-text)",
                hello.host, twin.address
            )
        })
    }

    /// A connection to a host that is known by now.
    fn adopt(
        self: &Arc<Self>,
        mut transport: Box<dyn Transport>,
        hello: Hello,
        dialled: bool,
    ) -> Result<String, String> {
        let name = hello.host.clone();
        if self.is_over() {
            farewell(&mut *transport, LEAVES);
            return Err(LEAVES.to_owned());
        }
        let penance = self.conducts.refusal(&name);
        if !penance.is_zero() {
            let reason = format!("{TOO_SOON}; the next one is accepted in {} ms", penance.as_millis().max(1));
            farewell(&mut *transport, &reason);
            return Err(reason);
        }
        let mut hosts = lock(&self.hosts);
        let known = hosts.get(&name).filter(|host| host.epoch == hello.epoch);
        if let Some(host) = known
            && host.engine.is_connected()
            && !takes_over(self.hello.epoch, hello.epoch, host.dialled_here, dialled)
        {
            drop(hosts);
            farewell(&mut *transport, ANOTHER_STAYS);
            return Ok(name);
        }
        let engine = match known {
            Some(host) => Arc::clone(&host.engine),
            None => {
                // Another life of that host: what stood for the former one ends.
                let former = hosts.remove(&name);
                if hosts.len() >= HOSTS_MAX {
                    hosts.retain(|_, host| host.engine.is_connected());
                }
                drop(hosts);
                drop(former);
                let engine = Arc::new(self.engine(&hello).map_err(|error| error.to_string())?);
                hosts = lock(&self.hosts);
                engine
            }
        };
        let (epoch, role) = (hello.epoch, hello.role);
        engine.connect(transport, hello).map_err(|error| error.to_string())?;
        hosts.insert(name.clone(), Host { engine, epoch, role, dialled_here: dialled });
        self.linked.notify_all();
        drop(hosts);
        self.member.look_again();
        Ok(name)
    }

    fn engine(self: &Arc<Self>, hello: &Hello) -> Result<Engine, LinksError> {
        let exports = HiveExports::new(&self.member)?;
        let admit = OfHost { host: hello.host.clone(), permits: Arc::clone(&self.permits) };
        let purse = Purse::new(self.options.memory);
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
        Ok(Engine::start(&hello.host, self.options.settings.clone(), exports, imports, hooks)?)
    }

    // ---- what is wanted

    /// Tells each host what the subscribers here want, whenever that changes.
    fn follow(&self) {
        let mut seen = 0;
        let mut said: HashMap<String, BTreeSet<(String, Option<u128>)>> = HashMap::new();
        while !self.is_over() {
            if self.permits.look() {
                let engines: Vec<_> =
                    lock(&self.hosts).values().map(|host| Arc::clone(&host.engine)).collect();
                engines.iter().for_each(|engine| engine.reconsider());
            }
            self.member.session().watch();
            let listing = self.member.session().list();
            match listing {
                Ok(listing) => {
                    let own = listing.subscribers.iter().filter(|subscriber| !subscriber.link);
                    let own: Vec<Wanted> = own
                        .filter_map(|subscriber| {
                            let filter = Filter::parse(&subscriber.filter).ok()?;
                            Some(Wanted { filter, fingerprint: subscriber.fingerprint })
                        })
                        .collect();
                    self.tell(&own, &mut said);
                }
                Err(error) => tracing::debug!(%error, "cannot see what subscribers want"),
            }
            seen = self.member.wait_for_changes(seen, LOOK_ANEW);
            if !self.is_over() {
                self.stop.wait(SETTLE);
            }
        }
    }

    fn tell(&self, own: &[Wanted], said: &mut HashMap<String, BTreeSet<(String, Option<u128>)>>) {
        let hosts: Vec<(String, u64, Role, Arc<Engine>)> = lock(&self.hosts)
            .iter()
            .map(|(name, host)| (name.clone(), host.epoch, host.role, Arc::clone(&host.engine)))
            .collect();
        let theirs: Vec<(Role, Vec<Wanted>)> =
            hosts.iter().map(|(_, _, role, engine)| (*role, engine.status().wanted)).collect();
        said.retain(|key, _| hosts.iter().any(|(name, epoch, ..)| *key == key_of(name, *epoch)));
        for (at, (name, epoch, role, engine)) in hosts.iter().enumerate() {
            let others = theirs.iter().enumerate().filter(|(other, (their_role, _))| {
                // A host wants for its leaves, and a leaf is asked for what anybody wants.
                *other != at && (*their_role == Role::Leaf || *role == Role::Leaf)
            });
            let others = others.flat_map(|(_, (_, wanted))| wanted);
            let all: BTreeSet<(String, Option<u128>)> = own
                .iter()
                .chain(others)
                .map(|wanted| (wanted.filter.as_str().to_owned(), wanted.fingerprint))
                .collect();
            let key = key_of(name, *epoch);
            if said.get(&key) == Some(&all) {
                continue;
            }
            let wanted = all.iter().filter_map(|(filter, fingerprint)| {
                Some(Wanted { filter: Filter::parse(filter).ok()?, fingerprint: *fingerprint })
            });
            engine.want(wanted.collect());
            said.insert(key, all);
        }
    }
}

fn key_of(name: &str, epoch: u64) -> String {
    format!("{name} {epoch:016x}")
}

/// The first frame, and no byte more.
fn receive_hello(transport: &mut dyn Transport, deadline: Instant) -> Result<(Header, Vec<u8>), String> {
    let mut head = [0; HEADER];
    receive(transport, &mut head, deadline)?;
    let (header, mut checksum) = Header::decode(&head).map_err(|_| GreetingError::Foreign.to_string())?;
    if !matches!(header.kind, Kind::Hello | Kind::Bye) || header.length > MAX_HELLO {
        return Err(GreetingError::Foreign.to_string());
    }
    let mut payload = vec![0; header.length as usize];
    receive(transport, &mut payload, deadline)?;
    checksum.add(&payload);
    checksum.check().map_err(|error| error.to_string())?;
    Ok((header, payload))
}

fn receive(transport: &mut dyn Transport, mut into: &mut [u8], deadline: Instant) -> Result<(), String> {
    while !into.is_empty() {
        match transport.read(&mut [IoSliceMut::new(into)]) {
            Ok(0) => return Err("the other end closed the connection without a word".to_owned()),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(transport, false, deadline)?,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Says why, if that goes at once.
fn farewell(transport: &mut dyn Transport, reason: &str) {
    close_after(transport, &Session::farewell(reason));
}
