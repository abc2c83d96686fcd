//! A node as its ports see it: its connection with the roots, and its ends.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hivemind_core::name::{HiveName, NameError, NodeName};
use hivemind_ring::fork::Home;
use hivemind_ring::mapped::{Bells, CreateError};
use hivemind_ring::segment::{Anonymous, Backend, SegmentError};

use super::hub::Hub;
use crate::identity::new_node_epoch;
use crate::root::DEFAULT_ROOT_TIMEOUT;
use crate::runtime_dir::RuntimeDir;
use crate::session::{JoinError, RootRole, Session, SessionConfig};

/// How long joining, offering and subscribing wait for a root, by default.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that has joined. It leaves at [`Member::leave`], or when it and the last of its ends are dropped.
pub struct Member {
    /// Before everything else: it needs the rest.
    companion: OnceLock<Box<dyn Any + Send + Sync>>,
    hub: Arc<Hub>,
    session: Session,
}

/// A node, whatever face it has.
pub trait AsMember {
    /// The node as its ports see it.
    fn as_member(&self) -> &Arc<Member>;
}

impl AsMember for Arc<Member> {
    fn as_member(&self) -> &Arc<Member> {
        self
    }
}

/// How to join; see `hivemind::NodeBuilder`, which says the same to users.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MemberOptions {
    /// The name of the node.
    pub name: String,
    /// The name of the hive.
    pub hive: String,
    /// The runtime directory; `None`: what the environment says.
    pub folder: Option<PathBuf>,
    /// The user whose hive it is, by name or number; `None`: this one, or what the environment says.
    pub owner: Option<String>,
    /// How long joining, announcing and asking wait for a root.
    pub patience: Duration,
    /// Who may be the root.
    pub root: RootRole,
    /// How long a root may keep this node waiting without a sign of life.
    pub root_timeout: Duration,
    /// True: this node only looks.
    pub observer: bool,
    /// Named segments instead of anonymous ones.
    #[cfg(feature = "named-segments")]
    pub named: bool,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The name of the node or of the hive does not parse; the source says where.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No root was found, or it refused; the source says what was waited for and what to do.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The doorbells could not be made, for want of memory or descriptors.
    #[error(transparent)]
    Memory(#[from] CreateError),
    /// The doorbells could not be handed over, for want of descriptors.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

impl MemberOptions {
    /// The default hive, under this name.
    #[must_use]
    pub fn new(name: &str) -> MemberOptions {
        MemberOptions {
            name: name.to_owned(),
            hive: HiveName::default().as_str().to_owned(),
            folder: None,
            owner: None,
            patience: PATIENCE,
            root: RootRole::Embedded,
            root_timeout: DEFAULT_ROOT_TIMEOUT,
            observer: false,
            #[cfg(feature = "named-segments")]
            named: false,
        }
    }

    /// The folder of the hive.
    ///
    /// # Errors
    /// The hive's name, or a folder that cannot be used.
    pub fn dir(&self) -> Result<RuntimeDir, MemberError> {
        let hive = HiveName::parse(&self.hive)?;
        RuntimeDir::find(self.folder.as_deref(), &hive, self.owner.as_deref())
            .map_err(|error| MemberError::Join(error.into()))
    }

    #[cfg(feature = "named-segments")]
    fn backend(&self, dir: &RuntimeDir) -> Result<Box<dyn Backend>, MemberError> {
        if self.named {
            return Ok(Box::new(hivemind_ring::segment::Named::new(&dir.segment_prefix())?));
        }
        Ok(Box::new(Anonymous))
    }

    #[cfg(not(feature = "named-segments"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn backend(&self, _dir: &RuntimeDir) -> Result<Box<dyn Backend>, MemberError> {
        Ok(Box::new(Anonymous))
    }
}

impl Member {
    /// Joins. Waits for a root (or becomes it), at most for the patience.
    ///
    /// # Errors
    /// [`MemberError`]; nothing is left running then.
    pub fn join(options: &MemberOptions) -> Result<Arc<Member>, MemberError> {
        // Before there are threads of ours: then it takes no time.
        hivemind_ring::barrier::enable();
        let name = NodeName::parse(&options.name)?;
        let dir = options.dir()?;
        let backend = options.backend(&dir)?;
        let bells = Bells::create(&*backend)?;
        let node = new_node_epoch();
        let config = SessionConfig {
            dir,
            name,
            node,
            patience: options.patience,
            root: options.root,
            root_timeout: options.root_timeout,
            observer: options.observer,
            bells: bells.handle()?,
        };
        let hub = Arc::new(Hub::new(node, backend, bells));
        let session = Session::join(config, Arc::clone(&hub) as _)?;
        Ok(Arc::new(Member { companion: OnceLock::new(), hub, session }))
    }

    /// Keeps something as long as this node lives, such as the links of a node on another host. Only the
    /// first is kept; it is dropped before the node leaves.
    pub fn accompany(&self, companion: Box<dyn Any + Send + Sync>) {
        // A second one is dropped here.
        let _ = self.companion.set(companion);
    }

    /// What is common to the ends of this node.
    #[inline]
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The connection with the roots.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The process that joined. In a child of it no lock of this node may be taken: its holder may not be
    /// there.
    #[must_use]
    pub fn home(&self) -> &Home {
        self.hub.home()
    }

    /// The life of this node: a number that is never reused.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.hub.node()
    }

    /// Whether the node is leaving or has left, or belongs to another process, from which this one was
    /// forked.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.hub.leaving() || !self.home().is_here()
    }

    /// Whether services that run themselves are to end: the node is leaving, or will leave once they have
    /// ended.
    #[must_use]
    pub fn services_end(&self) -> bool {
        self.hub.services_ending() || !self.home().is_here()
    }

    /// Makes services that run themselves end; the rest of the node goes on for the moment.
    pub fn end_services(&self) {
        self.hub.end_services();
    }

    /// Makes every wait of this node's ends return, and lets its receiving ends give what is there and no
    /// more. The node is still in its hive: [`Member::leave`] comes next.
    pub fn end_waits(&self) {
        self.hub.leave();
    }

    /// Sleeps, but no longer than until services are to end.
    pub fn sleep(&self, duration: Duration) {
        if self.home().is_here() {
            // Never satisfied: it ends with the time or with the node.
            let _ = self.hub.wait_until(duration, |_| Err::<(), ()>(()));
        }
    }

    /// Waits until the root says that there are other ends than when it counted `seen`,
    /// [`Member::look_again`] was called, or the node leaves; returns the present count. Ask with
    /// [`Session::watch`] before.
    #[must_use]
    pub fn wait_for_changes(&self, seen: u64, timeout: Duration) -> u64 {
        self.hub.wait_for_changes(seen, timeout)
    }

    /// Ends [`Member::wait_for_changes`].
    pub fn look_again(&self) {
        self.hub.look_again();
    }

    /// Leaves the hive: waits end, and nobody attaches any more. Idempotent; does nothing in a forked child.
    pub fn leave(&self) {
        if !self.home().is_here() {
            return;
        }
        self.hub.leave();
        self.session.leave();
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("session", &self.session).finish_non_exhaustive()
    }
}
