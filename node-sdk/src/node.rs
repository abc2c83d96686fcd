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

/// A node of a hive. Clones are the same node; it leaves when the last clone and the last of its publishers and
/// subscribers is dropped, or at [`Node::leave`].
///
/// A node belongs to the process that joined. In a forked child each call of it, its publishers and its subscribers says
/// [`Forked`](crate::Forked), and dropping them does nothing: the parent goes on undisturbed. The child may join by itself, under another name.
/// Samples do not come along either: read in a child, one that lies in shared memory panics, so copy what children need before the fork. (A
/// reference into a sample that is held across the fork reads zeros there. All this holds for `fork`, and what is made of it; a child of a
/// bare `clone` or `_Fork` must not touch a publisher, a subscriber or a sample of its parent.)
#[derive(Clone, Debug)]
pub struct Node {
    member: Arc<Member>,
    crew: Arc<Crew>,
}

/// Options of a node; all have defaults.
#[derive(Debug, Clone)]
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
    /// Which hive to join. Default: `default`.
    #[must_use]
    pub fn hive(mut self, name: &str) -> Self {
        name.clone_into(&mut self.options.hive);
        self
    }

    /// The runtime directory, instead of `$HIVEMIND_DIR`, `$XDG_RUNTIME_DIR/hivemind` or a folder of the user under the
    /// temporary directory. It is made if it is missing, and must belong to this user alone.
    #[must_use]
    pub fn dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.options.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Join the hive of this user (a name or a number) instead of one's own; also `$HIVEMIND_OWNER`. Its policy decides what this
    /// node may do, it never hosts the root, and only a root of that user is accepted. Name the folder as well, with
    /// [`NodeBuilder::dir`] or `$HIVEMIND_DIR`.
    #[must_use]
    pub fn owner(mut self, user: &str) -> Self {
        self.options.owner = Some(user.to_owned());
        self
    }

    /// How long joining, offering and subscribing wait for a root. Default: 5 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// How long a root may keep this node waiting without a sign of life before another process takes its place (this node, if it may
    /// host the root). A root that is stopped, or at a debugger's breakpoint, is noticed only so; one that dies is succeeded at
    /// once. Default: 1 s; at least 50 ms.
    #[must_use]
    pub fn root_timeout(mut self, timeout: Duration) -> Self {
        self.options.root_timeout = timeout;
        self
    }

    /// Accept only a dedicated root (`hm root`), and wait for one; never host it.
    #[must_use]
    pub fn external_root(mut self) -> Self {
        self.options.root = RootRole::External;
        self
    }

    /// Join any root that there is, but never host it: for tools that look and go.
    #[must_use]
    pub fn guest(mut self) -> Self {
        self.options.root = RootRole::Guest;
        self
    }

    /// Join over a socket when no root of the hive is found in its folder: for nodes on other hosts, and in containers that do not have the
    /// folder. `address` is where a host of the hive listens (`hm root --listen`), `key` the file that `hm key issue` has made; `None`: nothing is
    /// encrypted and nobody proves who he is, which the host must allow. All calls are the same; a message costs the way over the network. The
    /// name of the host is that of the key, else that of the node. Instead of `$HIVEMIND_REMOTE` and `$HIVEMIND_KEY`, which do the same for
    /// programs that say nothing.
    #[cfg(feature = "links")]
    #[must_use]
    pub fn remote(mut self, address: &str, key: Option<&Path>) -> Self {
        self.remote = Some(RemoteHost { address: address.to_owned(), key: key.map(Into::into) });
        self
    }

    /// Whether somebody listens in the folder of the hive.
    #[cfg(feature = "links")]
    fn finds_root(&self) -> bool {
        self.options.dir().is_ok_and(|dir| hivemind_runtime::runtime_dir::is_listened_on(&dir))
    }

    #[cfg(feature = "links")]
    fn join_remotely(self, remote: &RemoteHost) -> Result<Node, NodeError> {
        use hivemind_links::remote::{Folder, link};
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

    /// Join as a guest that only looks, as `hm ls` does: the node claims no name and may not publish or subscribe.
    #[must_use]
    pub fn observer(mut self) -> Self {
        self.options.observer = true;
        self.guest()
    }

    /// Use named segments instead of anonymous ones: for sandboxes in which descriptors cannot be passed. All nodes of the hive
    /// must. Weaker: see `hivemind_ring::segment::named`.
    #[cfg(feature = "named-segments")]
    #[must_use]
    pub fn named_segments(mut self) -> Self {
        self.options.named = true;
        self
    }

    /// Joins. Waits for a root (or becomes it), at most for the patience.
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

    /// Joins the default hive under `name`. Waits for a root, or becomes it, for at most 5 s.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn join(name: &str) -> Result<Node, NodeError> {
        Node::builder(name).join()
    }

    /// Options for joining.
    pub fn builder(name: &str) -> NodeBuilder {
        NodeBuilder {
            options: MemberOptions::new(name),
            #[cfg(feature = "links")]
            remote: None,
        }
    }

    /// A publisher of `service` with default options.
    ///
    /// # Errors
    /// See [`PublisherError`].
    pub fn publisher<T: Message + ?Sized>(&self, service: &str) -> Result<Publisher<T>, PublisherError> {
        self.publisher_builder(service).create()
    }

    /// Options for a publisher of `service`.
    pub fn publisher_builder<T: Message + ?Sized>(&self, service: &str) -> PublisherBuilder<T> {
        PublisherBuilder::new(Arc::clone(&self.member), None, service)
    }

    /// A subscriber of all services that match `filter` and carry `T`: `*` stands for any text within a level, `**` across
    /// levels, `?` for one character, `[..]` for one of several.
    ///
    /// Publishers that exist and that come later are attached on their own; see [`Subscriber::wait_for_publishers`].
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscriber<T: Message + ?Sized>(&self, filter: &str) -> Result<Subscriber<T>, SubscriberError> {
        self.subscriber_builder(filter).create()
    }

    /// Options for a subscriber.
    pub fn subscriber_builder<T: Message + ?Sized>(&self, filter: &str) -> SubscriberBuilder<T> {
        SubscriberBuilder::new(Arc::clone(&self.member), None, filter)
    }

    /// A subscriber of services of any type, for tools that were not compiled with it: the schema comes with the service.
    ///
    /// # Errors
    /// See [`SubscriberError`].
    pub fn subscriber_dynamic(&self, filter: &str) -> Result<DynamicSubscriber, SubscriberError> {
        DynamicSubscriber::create(&self.member, filter)
    }

    /// Creates many publishers and subscribers with one wait for the root; see [`Batch`].
    pub fn batch(&self) -> Batch {
        Batch::new(&self.member)
    }

    /// A service that runs itself: `body` is called again and again on a thread of its own, until the node leaves or it returns
    /// an error.
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

    /// Runs until Ctrl-C (SIGINT), SIGTERM, [`Node::leave`], or an error of a service or handler; then shuts down in order: services
    /// first, then handlers (which still see what was sent), then the node leaves.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(&self) -> Result<(), RunError> {
        self.member.home().check()?;
        self.crew.run(&self.member)
    }

    /// What makes [`Node::run`] return, from any thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.crew.stop_handle()
    }

    /// Leaves the hive: waits end, nobody attaches any more, and `recv` returns `None` once it gave what was there. Idempotent.
    ///
    /// Peers that are attached stay so until the publisher or subscriber is dropped, but nobody looks after their deaths any more:
    /// drop what is left soon. Does nothing in a forked child, whose parent goes on.
    pub fn leave(&self) {
        self.crew.stop();
        self.member.leave();
    }

    /// Whether the node is leaving or has left, or belongs to another process, from which this one was forked.
    pub fn is_leaving(&self) -> bool {
        self.member.is_leaving()
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        self.member.session().name()
    }

    /// The life of this node: a number that is never reused.
    pub fn epoch(&self) -> u64 {
        self.member.node()
    }

    /// The process that hosts the root; `None` while there is none.
    pub fn root_pid(&self) -> Option<i32> {
        self.member.session().root_pid()
    }

    /// Whether this node hosts the root.
    pub fn hosts_root(&self) -> bool {
        self.member.session().hosts_root()
    }

    /// The number of the root that this node obeys; each take-over adds one.
    pub fn root_epoch(&self) -> u64 {
        self.member.session().root_epoch()
    }

    /// Who is there: nodes, services, publishers, subscribers and connections. Waits for the root's answer, at most for the
    /// patience of the node.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn observe(&self) -> Result<Listing, SessionError> {
        self.member.session().list()
    }

    /// The segment of any end, to be looked at read-only with [`hivemind_ring::view`].
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
