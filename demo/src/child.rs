//! What every process of the demo has in common: its orders come on standard input, its reports go to
//! standard output.
//!
//! One thread reads the orders. When the input ends, the parent is gone or wants no answer, and the process
//! exits on the spot: nothing of the demo outlives the terminal it was started from, whatever killed the
//! parent.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use hivemind::Node;
use hivemind_runtime::root::RootError;
use hivemind_runtime::runtime_dir::RuntimeDirError;

use super::proc::ProcError;
use super::report::{Order, Report};

/// How often a subscriber reports, and how long it waits for a message before it looks at its orders.
pub(crate) const REPORT_EVERY_MS: u64 = 100;

/// The exit code of a child whose parent is gone.
const ORPHANED: i32 = 3;

/// Why a process of the demo gave up. It prints this as its last line on standard error, where the parent
/// finds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// `/proc` gave no sample.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// It could not join the hive.
    #[error(transparent)]
    Node(#[from] hivemind::NodeError),
    /// It could not create a publisher.
    #[error(transparent)]
    Publisher(#[from] hivemind::PublisherError),
    /// It could not create a subscriber.
    #[error(transparent)]
    Subscriber(#[from] hivemind::SubscriberError),
    /// It could not send.
    #[error(transparent)]
    Send(#[from] hivemind::SendError),
    /// It could not receive.
    #[error(transparent)]
    Receive(#[from] hivemind::RecvError),
    /// It could not find the folder of the hive.
    #[error(transparent)]
    Dir(#[from] RuntimeDirError),
    /// The root that it hosts failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It could not talk to the process that started it.
    #[error("cannot talk to the parent: {0}; is the machine out of descriptors?")]
    Parent(#[from] io::Error),
}

/// This process, seen from inside.
#[derive(Debug)]
pub(crate) struct Child {
    dir: PathBuf,
    orders: Arc<Orders>,
}

#[derive(Debug, Default)]
struct Orders {
    latest: Mutex<Option<Order>>,
    changed: Condvar,
}

impl Orders {
    fn give(&self, order: Order) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (*latest).max(Some(order));
        self.changed.notify_all();
    }

    fn latest(&self) -> Option<Order> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, order: Order) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let until = self.changed.wait_while(latest, |latest| *latest < Some(order));
        drop(until.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Child {
    /// Starts to listen to orders. `dir` is the demo's own runtime directory.
    pub(crate) fn start(dir: PathBuf) -> Child {
        let orders = Arc::new(Orders::default());
        let listener = Arc::clone(&orders);
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if let Some(order) = Order::parse(&line) {
                    listener.give(order);
                }
            }
            if listener.latest() != Some(Order::Leave) {
                // The parent is gone. Its hive goes with it, at once and without ceremony.
                std::process::exit(ORPHANED);
            }
        });
        Child { dir, orders }
    }

    /// Joins the demo's hive.
    pub(crate) fn join(&self, name: &str) -> Result<Node, ChildError> {
        Ok(Node::builder(name).dir(&self.dir).join()?)
    }

    /// The demo's own runtime directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells the parent. Lines of several threads do not mix.
    pub(crate) fn report(&self, report: &Report) -> Result<(), ChildError> {
        let mut line = serde_json::to_vec(report).map_err(io::Error::from)?;
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()?;
        Ok(())
    }

    /// Whether the parent wants this process to fall silent.
    pub(crate) fn is_stopped(&self) -> bool {
        self.orders.latest().is_some()
    }

    /// Makes all threads of this process fall silent, as if the parent had asked for it.
    pub(crate) fn stop(&self) {
        self.orders.give(Order::Stop);
    }

    /// Ends [`Child::wait_for_leave`], as if the parent had asked for it.
    pub(crate) fn leave(&self) {
        self.orders.give(Order::Leave);
    }

    /// Blocks until the parent lets this process go; bounded by the parent's life.
    pub(crate) fn wait_for_leave(&self) {
        self.orders.wait_for(Order::Leave);
    }
}
