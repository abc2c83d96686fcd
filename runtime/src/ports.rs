//! Ports: the untyped ends of services. Typed ends, links, tools and bindings stand on them.
//!
//! | port | is |
//! | --- | --- |
//! | [`Member`] | the node: its connection with the roots, and all its ends |
//! | [`Outlet`] | a sending end; [`StandIn`] is one that publishes for another host |
//! | [`Batch`] | ends that are waited for once |
//! | [`Intake`] | a receiving end: the readers of all publishers that it is attached to |
//! | [`Waiter`] | what one waits on for many receiving ends at once |

mod attach;
mod batch;
mod error;
mod hub;
mod inbox;
mod intake;
mod member;
mod names;
mod origin;
mod outlet;
mod trust;
mod waiter;
mod wards;
mod watch;

pub use batch::Batch;
pub use error::{LoanError, PublisherError, RecvError, SendError, SubscriberError, WaitError};
pub use inbox::Gate;
pub use intake::{Connection, ConnectionStatus, Intake, Receiving, SPIN, Skipped, Waker, receive};
pub use member::{AsMember, Member, MemberError, MemberOptions};
pub use origin::Origin;
pub use outlet::{Outlet, OutletOptions, StandIn};
pub use trust::Trust;
pub use waiter::{Key, Waiter};
pub use watch::WatchError;
