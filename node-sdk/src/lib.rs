//! Join a hive, publish and subscribe: messages of separate processes through shared memory, without a copy.
//!
//! A *node* joins a hive under a name. It publishes on *services*, such as `sensors/pose`, and subscribes by
//! filter, such as `sensors/*`. A message is archived once, straight into the publisher's shared memory, and
//! every subscriber reads it there. A *root* introduces nodes to each other; the first node that finds none
//! hosts it, and when it dies another takes over.
//!
//! | to | begin with |
//! | --- | --- |
//! | join a hive | [`Node::join`], [`Node::builder`] |
//! | define a message | [`macro@message`] |
//! | publish | [`Node::publisher`], [`Publisher`] |
//! | subscribe | [`Node::subscriber`], [`Subscriber`] |
//! | fill large data in place | [`Publisher::loan`], [`Loan`] |
//! | run services and handlers on threads | [`Node::service`], [`Node::subscribe`], [`Node::run`] |
//! | create hundreds of ends | [`Node::batch`] |
//! | read types that come at run time | [`Node::subscriber_dynamic`] |
//! | see what there is | [`Node::observe`] |
//!
//! ```no_run
//! use hivemind::{Node, message};
//! use std::time::Duration;
//!
//! #[message]
//! #[derive(Debug, Clone, PartialEq)]
//! pub struct Pose {
//!     pub id: u64,
//!     pub x: f64,
//!     pub y: f64,
//!     pub frame: String,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // One process …
//! let node = Node::join("camera")?;
//! let mut publisher = node.publisher::<Pose>("sensors/pose")?;
//! publisher.wait_for_subscribers(1, Duration::from_secs(5))?;
//! publisher.send(&Pose { id: 1, x: 0.5, y: 2.0, frame: "map".to_owned() })?;
//!
//! // … and another.
//! let node = Node::join("listener")?;
//! let mut subscriber = node.subscriber::<Pose>("sensors/*")?;
//! while let Some(pose) = subscriber.recv()? {
//!     let (service, sequence) = (pose.service(), pose.sequence());
//!     println!("{} {} from {service} #{sequence} lost {}", pose.x, pose.frame, subscriber.lost());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Large plain data is filled in place:
//!
//! ```
//! # use hivemind::Node;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let node = Node::builder("camera").dir(folder.path()).join()?;
//! let mut frames = node.publisher::<[u8]>("camera/frame")?;
//! let mut loan = frames.loan(1920 * 1080 * 3)?; // derefs to `&mut [u8]` in shared memory
//! loan.fill(128);
//! loan.send();
//! # Ok(())
//! # }
//! ```
//!
//! Waiting: `send` never waits for subscribers ([`Publisher::send_timeout`] on a reliable service does, on
//! request); `recv` spins briefly and then sleeps until a publisher wakes it. In steady state neither
//! allocates memory nor makes a system call while nobody sleeps.
//!
//! Losing: a service is lossy by default: a subscriber that does not keep up loses the oldest messages and is
//! told how many. For every publisher that a subscriber was attached to, `received + lost = published` since
//! it attached. A reliable service ([`PublisherBuilder::reliable`]) loses nothing: `send` says
//! [`SendError::Full`] instead.
//!
//! Threads: a [`Node`] and a [`Batch`] may be used by several threads at once; a [`Publisher`] and a
//! [`Subscriber`] by one at a time, and may move to another. A [`Sample`] may be sent to other threads.
//!
//! Errors: enums for each operation; their texts end in what to do next. `None` of `recv` is no error: it
//! means that the node is leaving.

#![deny(missing_debug_implementations)]

/// The programs of the README and the guide must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../docs/guide.md")]
struct Readme;

#[cfg(feature = "links")]
#[doc(inline)]
pub use hivemind_links as links;

mod batch;
mod dynamic;
mod error;
mod message;
mod node;
mod publisher;
mod run;
mod sample;
mod service;
mod subscriber;

pub use batch::Batch;
pub use dynamic::{DynamicSample, DynamicSubscriber};
pub use error::{BatchError, NodeError, RunError};
pub use hivemind_core::contract::Pattern;
pub use hivemind_core::filter::{Filter, FilterError};
pub use hivemind_core::name::{HiveName, NameError, NameKind, NameRule, NodeName, ServiceName};
pub use hivemind_core::protocol::{EndId, Right};
pub use hivemind_core::schema;
/// ```
/// use hivemind::{Node, message};
///
/// #[message]
/// #[derive(Debug, Clone, PartialEq)]
/// pub struct Pose {
///     pub x: f64,
///     pub frame: String,
/// }
///
/// #[message]
/// #[derive(Debug, Clone, PartialEq)]
/// pub enum Order {
///     Stop,
///     MoveTo(Vec<Pose>),
/// }
///
/// # let folder = tempfile::tempdir()?;
/// # let node = Node::builder("robot").dir(folder.path()).join()?;
/// let mut orders = node.publisher::<Order>("orders")?;
/// orders.send(&Order::MoveTo(vec![Pose { x: 0.5, frame: "map".to_owned() }]))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Types that differ between machines or borrow are refused; write `u64` or `String`:
///
/// ```compile_fail
/// #[hivemind::message]
/// struct Wrong { length: usize, name: &'static str }
/// ```
pub use hivemind_derive::message;
pub use hivemind_ring::archive::Refused;
pub use hivemind_ring::fork::Forked;
pub use hivemind_ring::mapped::CreateError;
pub use hivemind_ring::segment::{HugePages, Prefaulted, PrefaultedBy, SegmentError};
pub use hivemind_runtime::ports::{
    ConnectionStatus, LoanError, Origin, PublisherError, RecvError, SendError, Skipped, SubscriberError,
    Trust, WaitError, WatchError,
};
pub use hivemind_runtime::runtime_dir::RuntimeDirError;
pub use hivemind_runtime::session::{
    AnnounceError, ConnectionInfo, FormerInfo, Handle, JoinError, KindInfo, Listing, Mismatch, NodeInfo,
    PublisherInfo, RemoteInfo, ServiceInfo, SessionError, SubscriberInfo, WaitedFor,
};
pub use message::Message;
pub use node::{Node, NodeBuilder};
pub use publisher::{Loan, Publisher, PublisherBuilder};
#[doc(hidden)] // For what `#[message]` expands to.
pub use rkyv;
pub use run::StopHandle;
pub use sample::Sample;
pub use service::{Leaving, Service, ServiceError};
pub use subscriber::{Drain, Subscriber, SubscriberBuilder};
