//! A node: a process, or a part of one, that has joined a hive.

use crate::batch::Batch;
use crate::dynamic::DynamicSubscriber;
use crate::error::{NodeError, RunError};
use crate::message::Message;
use crate::publisher::{Publisher, PublisherBuilder};
use crate::run::{Crew, StopHandle};
use crate::sample::Sample;
use crate::service::{Service, ServiceError};
use crate::subscriber::{Subscriber, SubscriberBuilder};
use hivemind_core::name::NodeName;
use hivemind_core::protocol::EndId;
use hivemind_runtime::ports::{AsMember, Member, MemberOptions, PublisherError, SubscriberError};
use hivemind_runtime::session::{Handle, Listing, RootRole, SessionError};
use std::path::Path;
#[cfg(feature = "links")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A node of a hive: a process, or a part of one, that publishes and subscribes. `Send` and `Sync`.
///
/// Clones are the same node. It leaves when the last clone and the last of its publishers and subscribers is
/// dropped, or at [`Node::leave`]. So keep it: a node that is dropped at once has left at once.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # use hivemind::{JoinError, Node, NodeError};
/// let node = Node::builder("camera").dir(folder.path()).join()?;
///
/// // A name belongs to one live node.
/// let refused = Node::builder("camera").dir(folder.path()).join().unwrap_err();
/// assert!(matches!(refused, NodeError::Join(JoinError::NodeNameTaken { .. })));
///
/// drop(node); // ... and is free again.
/// let node = Node::builder("camera").dir(folder.path()).join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Forks
///
/// A node belongs to the process that joined. In a forked child each call of the node, its publishers and its
/// subscribers says [`Forked`](crate::Forked), and dropping them does nothing: the parent goes on
/// undisturbed. The child may join by itself, under another name. Samples do not come along either: reading
/// one that lies in shared memory panics in a child, so copy what children need before the fork. (A reference
/// into a sample that is held across the fork reads zeros there. All this holds for `fork`, and what is made
/// of it; a child of a bare `clone` or `_Fork` must not touch a publisher, a subscriber or a sample of its
/// parent.)
#[derive(Clone, Debug)]
#[must_use = "a node that is dropped leaves the hive"]
pub struct Node {
    member: Arc<Member>,
    crew: Arc<Crew>,
}

/// Options of a node; all have defaults. [`NodeBuilder::join`] ends it.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # use hivemind::Node;
/// # use std::time::Duration;
/// let node = Node::builder("camera")
///     .dir(folder.path())
///     .hive("lab")
///     .patience(Duration::from_secs(30))
///     .root_timeout(Duration::from_secs(2))
///     .join()?;
/// assert_eq!(node.name().as_str(), "camera");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `join`"]
pub struct NodeBuilder {
    options: MemberOptions,
    #[cfg(feature = "links")]
    remote: Option<RemoteHost>,
}

/// Where the hive is, for a node that cannot reach its folder.
#[cfg(feature = "links")]
#[derive(Debug, Clone)]
struct RemoteHost {
    address: String,
    key: Option<PathBuf>,
}

#[cfg(feature = "links")]
impl RemoteHost {
    /// What the environment says; see [`NodeBuilder::remote`].
    fn configured() -> Option<RemoteHost> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let address = set("HIVEMIND_REMOTE")?.to_string_lossy().into_owned();
        Some(RemoteHost { address, key: set("HIVEMIND_KEY").map(PathBuf::from) })
    }
}

impl NodeBuilder {
    /// The name of the hive to join: one level, up to 64 bytes. Default: `default`. Nodes of two hives do not
    /// see each other. Example: [`NodeBuilder`].
    pub fn hive(mut self, name: &str) -> Self {
        name.clone_into(&mut self.options.hive);
        self
    }

    /// The runtime directory, in which each hive has a folder of its own. It is made if it is missing, and
    /// must belong to this user alone. Default: `$HIVEMIND_DIR`, else `$XDG_RUNTIME_DIR/hivemind`, else a
    /// folder of the user under the temporary directory. Example: [`NodeBuilder`].
    pub fn dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.options.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Joins the hive of this user (a name or a number) instead of one's own; also `$HIVEMIND_OWNER`. The
    /// policy of that hive decides what this node may do. The node never hosts the root, and accepts only a
    /// root of that user. Name the folder as well, with [`NodeBuilder::dir`] or `$HIVEMIND_DIR`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # use hivemind::Node;
    /// // A full example needs a second user; this is what a wrong name gives.
    /// let error = Node::builder("guest").dir(folder.path()).owner("no-such-user").join().unwrap_err();
    /// assert!(error.to_string().contains("is no user of this machine"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn owner(mut self, user: &str) -> Self {
        self.options.owner = Some(user.to_owned());
        self
    }

    /// Longest time that joining, creating ends and [`Node::observe`] wait for a root. Default: 5 s. Example:
    /// [`NodeBuilder::external_root`].
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// Longest time that a root may keep this node waiting without a sign of life, before another process
    /// takes its place (this node, if it may host the root). It matters only for a root that is stopped, or
    /// stands at a breakpoint; one that dies is succeeded at once. Default: 1 s; at least 50 ms. Example:
    /// [`NodeBuilder`].
    pub fn root_timeout(mut self, timeout: Duration) -> Self {
        self.options.root_timeout = timeout;
        self
    }

    /// Accepts only a dedicated root (`hm root`), waits for one, and never hosts it. Default: the first node
    /// that finds no root hosts it.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # use hivemind::Node;
    /// # use std::time::Duration;
    /// // Nobody has started `hm root` here.
    /// let builder = Node::builder("arm").dir(folder.path()).external_root();
    /// let error = builder.patience(Duration::from_millis(50)).join().unwrap_err();
    /// assert!(error.to_string().contains("start one with `hm root`"), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn external_root(mut self) -> Self {
        self.options.root = RootRole::External;
        self
    }

    /// Joins any root that there is, but never hosts it: for tools that look and go.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # use hivemind::Node;
    /// let host = Node::builder("host").dir(folder.path()).join()?;
    /// let tool = Node::builder("tool").dir(folder.path()).guest().join()?;
    /// assert!(host.hosts_root() && !tool.hosts_root());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guest(mut self) -> Self {
        self.options.root = RootRole::Guest;
        self
    }

    /// Joins over a socket when no root of the hive is found in its folder: for nodes on other hosts, and in
    /// containers that do not have the folder. `address` is where a host of the hive listens (`hm root
    /// --listen`), `key` the file that `hm key issue` made. `None` is for hosts that allow links without a
    /// key: nothing is encrypted, and the link is unauthenticated.
    ///
    /// All calls stay the same; a message costs the way over the network. The host's name is that of the key,
    /// else that of the node. `$HIVEMIND_REMOTE` and `$HIVEMIND_KEY` do the same for programs that do not
    /// call this.
    ///
    /// ```no_run
    /// # // Not run: it needs a second host.
    /// # use hivemind::Node;
    /// # use std::path::Path;
    /// let node = Node::builder("arm").remote("robot:7700", Some(Path::new("keys/arm.pem"))).join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "links")]
    pub fn remote(mut self, address: &str, key: Option<&Path>) -> Self {
        self.remote = Some(RemoteHost { address: address.to_owned(), key: key.map(Into::into) });
        self
    }

    /// Whether a root listens in the folder of the hive.
    #[cfg(feature = "links")]
    fn finds_root(&self) -> bool {
        self.options.dir().is_ok_and(|dir| hivemind_runtime::runtime_dir::is_listened_on(&dir))
    }

    #[cfg(feature = "links")]
    fn join_remotely(self, remote: &RemoteHost) -> Result<Node, NodeError> {
        use hivemind_links::leaf::{Folder, link};
        use hivemind_links::{Address, Security};
        let address: Address =
            remote.address.parse().map_err(|error| NodeError::Address(format!("{error}")))?;
        let security = match &remote.key {
            Some(key) => Security::key(key)?,
            None => Security::plain_text(&self.options.name),
        };
        let folder = Folder::create().map_err(|error| {
            NodeError::Address(format!("cannot make a folder for temporary files: {error}; set TMPDIR"))
        })?;
        let patience = self.options.patience;
        let mut options = self.options;
        (options.folder, options.owner, options.root) =
            (Some(folder.path().to_owned()), None, RootRole::Embedded);
        let node = Node::of(Member::join(&options)?);
        node.member.accompany(Box::new(link(folder, &address, security, patience)?));
        Ok(node)
    }

    /// Joins as a guest that only looks, as `hm ls` does: the node claims no name and may not publish or
    /// subscribe.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # use hivemind::Node;
    /// let camera = Node::builder("camera").dir(folder.path()).join()?;
    /// let looker = Node::builder("camera").dir(folder.path()).observer().join()?;
    /// assert_eq!(looker.observe()?.nodes[0].name, "camera");
    ///
    /// let error = looker.publisher::<u64>("counts").unwrap_err();
    /// assert!(error.to_string().contains("join without `observer`"), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn observer(mut self) -> Self {
        self.options.observer = true;
        self.guest()
    }

    /// Uses named segments instead of anonymous ones: for sandboxes in which descriptors cannot be passed.
    /// All nodes of the hive must. It is weaker: any process of the user can write to such a segment, and
    /// names outlive a `kill -9` until the next start removes them.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # use hivemind::Node;
    /// let node = Node::builder("camera").dir(folder.path()).named_segments().join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "named-segments")]
    pub fn named_segments(mut self) -> Self {
        self.options.named = true;
        self
    }

    /// Joins. Blocks until a root admits the node, or the node has become the root itself: milliseconds, and
    /// at most the [`patience`](NodeBuilder::patience). Example: [`NodeBuilder`].
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn join(self) -> Result<Node, NodeError> {
        #[cfg(feature = "links")]
        if !self.options.observer
            && let Some(remote) = self.remote.clone().or_else(RemoteHost::configured)
            && !self.finds_root()
        {
            return self.join_remotely(&remote);
        }
        Ok(Node::of(Member::join(&self.options)?))
    }
}

impl Node {
    fn of(member: Arc<Member>) -> Node {
        Node { member, crew: Arc::new(Crew::new()) }
    }

    /// Joins the default hive under `name`. Blocks as [`NodeBuilder::join`] does, for at most 5 s.
    ///
    /// ```no_run
    /// # // Not run: it would join the hive of this user.
    /// # use hivemind::Node;
    /// let node = Node::join("camera")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn join(name: &str) -> Result<Node, NodeError> {
        Node::builder(name).join()
    }

    /// Options for joining, beginning with the name: one level, up to 64 bytes. Example: [`NodeBuilder`].
    pub fn builder(name: &str) -> NodeBuilder {
        NodeBuilder {
            options: MemberOptions::new(name),
            #[cfg(feature = "links")]
            remote: None,
        }
    }

    /// A publisher of `service` with default options: lossy, 256 messages. Blocks as
    /// [`PublisherBuilder::create`] does. Example: [`Publisher`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// // A publisher has one service; only subscribers have patterns.
    /// let error = node.publisher::<u64>("sensors/*").unwrap_err();
    /// assert!(error.to_string().contains("'*' is not allowed"), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`PublisherError`].
    pub fn publisher<T: Message + ?Sized>(&self, service: &str) -> Result<Publisher<T>, PublisherError> {
        self.publisher_builder(service).create()
    }

    /// Options for a publisher of `service`. Example: [`PublisherBuilder`].
    pub fn publisher_builder<T: Message + ?Sized>(&self, service: &str) -> PublisherBuilder<T> {
        PublisherBuilder::new(Arc::clone(&self.member), None, service)
    }

    /// A subscriber of all services that match `filter` and carry `T`. In a filter `*` stands for any text
    /// within a level, `**` for any number of levels, `?` for one character, `[..]` for one of several.
    ///
    /// Publishers that are there, and those that come later, are attached without further calls; see
    /// [`Subscriber::wait_for_publishers`]. Blocks as [`SubscriberBuilder::create`] does.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("listener").dir(folder.path()).join()?;
    /// # use std::time::Duration;
    /// let mut counts = node.subscriber::<u64>("counts/*")?;
    /// let mut left = node.publisher::<u64>("counts/left")?;
    /// left.send(&7)?;
    /// let count = counts.recv()?.ok_or("the node is leaving")?;
    /// assert_eq!((count.to_native(), count.service().as_str()), (7, "counts/left"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscriber<T: Message + ?Sized>(&self, filter: &str) -> Result<Subscriber<T>, SubscriberError> {
        self.subscriber_builder(filter).create()
    }

    /// Options for a subscriber. Example: [`SubscriberBuilder`].
    pub fn subscriber_builder<T: Message + ?Sized>(&self, filter: &str) -> SubscriberBuilder<T> {
        SubscriberBuilder::new(Arc::clone(&self.member), None, filter)
    }

    /// A subscriber of services of any type, for tools that were not compiled with it: the schema comes with
    /// the service. Blocks as [`SubscriberBuilder::create`] does. Example: [`DynamicSubscriber`].
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscriber_dynamic(&self, filter: &str) -> Result<DynamicSubscriber, SubscriberError> {
        DynamicSubscriber::create(&self.member, filter)
    }

    /// Creates many publishers and subscribers with one wait for the root. Example: [`Batch`].
    pub fn batch(&self) -> Batch {
        Batch::new(&self.member)
    }

    /// A service that runs itself: `body` is called again and again on a thread of its own, until the node
    /// leaves or `body` returns an error, which [`Node::run`] reports. Blocks as [`PublisherBuilder::create`]
    /// does. Example: [`Service`].
    ///
    /// # Errors
    /// See [`PublisherError`].
    pub fn service<T, F>(&self, service: &str, body: F) -> Result<(), PublisherError>
    where
        T: Message + ?Sized,
        F: FnMut(&mut Service<T>) -> Result<(), ServiceError> + Send + 'static,
    {
        let publisher = self.publisher::<T>(service)?;
        self.crew.start_service(service, Service::new(publisher), body).map_err(PublisherError::Thread)
    }

    /// Calls `handler` for each message that matches `filter`, on a thread of its own, until the node leaves.
    /// Blocks as [`SubscriberBuilder::create`] does, not for messages. What a receive refuses is written to
    /// the log.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("cave").dir(folder.path()).join()?;
    /// # use hivemind::Sample;
    /// let stop = node.stop_handle();
    /// node.subscribe("bat-signal-*", move |signal: Sample<u64>| {
    ///     println!("{}: {}", signal.service(), signal.to_native());
    ///     stop.stop();
    /// })?;
    /// node.publisher::<u64>("bat-signal-main")?.send(&1)?;
    /// node.run()?; // Handlers run beside it; a `main` that returns here ends them.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscribe<T, F>(&self, filter: &str, handler: F) -> Result<(), SubscriberError>
    where
        T: Message + ?Sized,
        F: FnMut(Sample<T>) + Send + 'static,
    {
        let subscriber = self.subscriber::<T>(filter)?;
        self.crew.start_handler(filter, subscriber, handler).map_err(SubscriberError::Thread)
    }

    /// Blocks until Ctrl-C (SIGINT), SIGTERM, [`Node::leave`], [`StopHandle::stop`], or an error of a service
    /// or handler. Then it shuts down in order: services first, then handlers (which still see what was
    /// sent), then the node leaves. Each of them is waited for, as long as its present call takes. A second
    /// Ctrl-C meanwhile ends the process. Example: [`Service`].
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(&self) -> Result<(), RunError> {
        self.member.home().check()?;
        self.crew.run(&self.member)
    }

    /// What makes [`Node::run`] return, from any thread. Example: [`StopHandle`].
    pub fn stop_handle(&self) -> StopHandle {
        self.crew.stop_handle()
    }

    /// Leaves the hive: waits end, nobody attaches any more, and `recv` returns `None` after it gave what was
    /// there. Idempotent. Does nothing in a forked child, whose parent goes on.
    ///
    /// Peers that are attached stay so until the publisher or subscriber is dropped, but nobody looks after
    /// their deaths any more: drop what is left soon.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let mut subscriber = node.subscriber::<u64>("counts")?;
    /// node.leave();
    /// assert!(node.is_leaving());
    /// assert!(subscriber.recv()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leave(&self) {
        self.crew.stop();
        self.member.leave();
    }

    /// Whether the node is leaving or has left, or belongs to another process, from which this one was
    /// forked. Example: [`Node::leave`].
    pub fn is_leaving(&self) -> bool {
        self.member.is_leaving()
    }

    /// The node's name.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// assert_eq!(node.name().as_str(), "camera");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &NodeName {
        self.member.session().name()
    }

    /// The life of this node: a number that is never reused. [`EndId::node`] of its ends is the same number.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let publisher = node.publisher::<u64>("counts")?;
    /// assert_eq!(publisher.id().node, node.epoch());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn epoch(&self) -> u64 {
        self.member.node()
    }

    /// The process that hosts the root; `None` while there is none. Example: [`Node::hosts_root`].
    pub fn root_pid(&self) -> Option<i32> {
        self.member.session().root_pid()
    }

    /// Whether this node hosts the root.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// // The first node of a hive hosts it.
    /// assert!(node.hosts_root());
    /// assert_eq!(node.root_pid(), Some(std::process::id() as i32));
    /// assert_eq!(node.root_epoch(), node.observe()?.root_epoch);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hosts_root(&self) -> bool {
        self.member.session().hosts_root()
    }

    /// The number of the root that this node obeys; each take-over adds one. Example: [`Node::hosts_root`].
    pub fn root_epoch(&self) -> u64 {
        self.member.session().root_epoch()
    }

    /// What there is in the hive: nodes, services, publishers, subscribers and connections. Blocks until the
    /// root has answered, at most for the patience of the node.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// let publisher = node.publisher_builder::<u64>("counts").reliable().create()?;
    /// let listing = node.observe()?;
    /// let found = &listing.publishers[0];
    /// assert_eq!((&found.service[..], &found.type_name[..], found.reliable), ("counts", "u64", true));
    /// assert_eq!(found.end, publisher.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn observe(&self) -> Result<Listing, SessionError> {
        self.member.session().list()
    }

    /// The memory of any end, for tools: `RingView` and `ReaderView` of the crate `hivemind-ring` show it,
    /// read-only. Blocks until the node of that end has answered, at most for the patience of this node.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
    /// use hivemind_ring::{segment::Anonymous, view::RingView};
    ///
    /// let mut publisher = node.publisher::<u64>("counts")?;
    /// publisher.send(&7)?;
    /// let view = RingView::open(&Anonymous, node.inspect(publisher.id())?)?;
    /// assert_eq!((view.capacity(), view.published()), (256, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn inspect(&self, end: EndId) -> Result<Handle, SessionError> {
        self.member.session().inspect(end)
    }
}

/// The node as its untyped ends see it, for what is built beside this crate.
#[doc(hidden)]
impl AsMember for Node {
    fn as_member(&self) -> &Arc<Member> {
        &self.member
    }
}
