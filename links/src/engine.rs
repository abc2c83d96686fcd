//! Runs one link: moves bytes between a connection, the rules ([`Peering`]) and the hive of this host.
//!
//! ```text
//!   hive ─▶ Exports ─▶ sending thread ──▶ │           │ ─▶ receiving thread ─▶ Imports ─▶ hive
//!                          │ ▲            │ Transport │            │ ▲
//!                          ▼ │            └───────────┘            ▼ │
//!                         Peering, behind one lock, for the rules alone
//! ```
//!
//! The sending thread owns the exports and every message that may have to be sent again; it sleeps at the
//! hive's doorbells. The receiving thread owns the imports; it sleeps at the socket. Neither holds the lock
//! of the rules while it waits for anything. A payload goes from the ring to the socket, and from the socket
//! into memory of the ring of its import, without a stop in between, unless it is short and came with others,
//! or its ring has no room.
//!
//! Connections come and go ([`Engine::connect`]); each has a number, and whatever one thread still has of an
//! older one is dropped when it sees another number. If the process dies here, the other host sees the end of
//! the connection and keeps what it has for a while; nothing that was committed is torn, because a message is
//! committed as a whole.

mod batch;
mod receive;
mod send;
mod shared;
mod slots;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hivemind_core::link::candidate::Candidate;
use hivemind_core::link::greeting::Hello;
use hivemind_core::link::peering::{Action, Settings, Totals, Wanted};

use self::receive::Receiver;
use self::send::Sender;
use self::shared::Shared;
use crate::local::{Exports, Imports};
use crate::transport::{Peer, Transport};

/// How often a thread that waits for the socket checks that the connection is still the present one.
const LOOK_MS: u16 = 100;
/// Longest delay of what can wait (an acknowledgement, messages that need not be held any more) for something
/// else to travel with.
const LAZY: Duration = Duration::from_millis(1);
/// How often it is checked whether everything has arrived.
const DRAIN_PAUSE: Duration = Duration::from_micros(500);

/// Whether a publisher may cross to that host.
pub(crate) type Permit = dyn Fn(&Candidate, &Hello) -> bool + Send + Sync;

/// What an engine asks of its owner, and tells it.
#[derive(Clone)]
pub(crate) struct Hooks {
    /// Asked about every publisher that the other host wants, beside what the rules say: may it cross? Must
    /// not block.
    pub(crate) permit: Arc<Permit>,
    /// The other host wants something else now, or the connection has changed. Must not block.
    pub(crate) changed: Arc<dyn Fn() + Send + Sync>,
    /// A connection ended because the other host broke the rules, or says that this one did. Must not block.
    pub(crate) at_fault: Arc<dyn Fn() + Send + Sync>,
}

/// Last word of a host that ends all its links.
pub(crate) const LEAVES: &str = "the host leaves";
/// Part of the last word to a host that is back too soon after many faults.
pub(crate) const TOO_SOON: &str = "links of these hosts ended for a fault again and again";
/// Last word on the one of two connections that goes.
pub(crate) const ANOTHER_STAYS: &str = "another connection of these hosts stays";

/// One link, with its two threads. Dropped, it ends: the other host is told so, and what stood for its
/// publishers is gone.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How a link is.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// The host that is connected; `None`: there is no connection.
    pub(crate) peer: Option<Peer>,
    /// What it has carried.
    pub(crate) totals: Totals,
    /// Why the last connection ended.
    pub(crate) ended: Option<String>,
    /// What the other host wants.
    pub(crate) wanted: Vec<Wanted>,
}

impl Engine {
    /// A link without a connection. `name` is for people.
    ///
    /// # Errors
    /// The system gives no descriptor or no thread.
    pub(crate) fn start<E, I>(
        name: &str,
        settings: Settings,
        exports: E,
        imports: I,
        hooks: Hooks,
    ) -> io::Result<Engine>
    where
        E: Exports + 'static,
        I: Imports + 'static,
        I::Import: 'static,
    {
        let spin = settings.spin;
        let shared = Shared::new(name, settings, exports.wake_up(), Arc::clone(&hooks.at_fault))?;
        let shared = Arc::new(shared);
        let mut engine = Engine { shared: Arc::clone(&shared), threads: Vec::new() };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let sending = Arc::clone(&shared);
        engine
            .threads
            .push(thread("hm-link-send").spawn(move || Sender::new(sending, exports, hooks).run())?);
        engine
            .threads
            .push(thread("hm-link-recv").spawn(move || Receiver::new(shared, imports, spin).run())?);
        Ok(engine)
    }

    /// A connection stands, and both ends have said who they are. It takes the place of an older one.
    ///
    /// # Errors
    /// There are no descriptors left; the older connection goes on.
    pub(crate) fn connect(&self, transport: Box<dyn Transport>, hello: Hello) -> io::Result<()> {
        tracing::info!(link = self.shared.name(), peer = %transport.peer(), %hello, "linked");
        self.shared.lock().connect(transport, hello, self.shared.now())?;
        self.shared.wake_both();
        Ok(())
    }

    /// Whether there is a connection.
    #[must_use]
    pub(crate) fn is_connected(&self) -> bool {
        self.shared.lock().connection.is_some()
    }

    /// Whether the host that is connected gives a sign of life within `patience`. The end of its connection
    /// is none.
    #[must_use]
    pub(crate) fn is_alive(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        let (number, heard) = {
            let mut state = self.shared.lock();
            let Some(heard) = state.peering.ask() else { return false };
            (state.number(), heard)
        };
        self.shared.wake_sender();
        while begun.elapsed() < patience {
            std::thread::sleep(DRAIN_PAUSE);
            let state = self.shared.lock();
            if !state.is_current(number) {
                return state.connection.is_some();
            }
            if state.peering.last_heard() > heard {
                return true;
            }
        }
        false
    }

    /// What the subscribers of this host want, the whole set. Surplus is left out, and logged.
    pub(crate) fn want(&self, wanted: Vec<Wanted>) {
        let surplus = self.shared.lock().peering.want(wanted);
        if surplus > 0 {
            tracing::warn!(
                link = self.shared.name(),
                surplus,
                "too many filters for one link; these are left out"
            );
        }
        self.shared.wake_sender();
    }

    /// [`Hooks::permit`] may say otherwise from now on: what is sent is looked at anew.
    pub(crate) fn reconsider(&self) {
        let mut state = self.shared.lock();
        let interest = Arc::clone(state.peering.interest_of_peer());
        state.to_sender.push_back(Action::Want(interest));
        drop(state);
        self.shared.wake_sender();
    }

    /// How it is.
    #[must_use]
    pub(crate) fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            peer: state.connection.as_ref().map(|connection| connection.peer.clone()),
            totals: state.peering.totals(),
            ended: state.ended().map(str::to_owned),
            wanted: state.peering.interest_of_peer().wanted().to_vec(),
        }
    }

    /// Waits until the other host has acknowledged everything that was published here, at most for
    /// `patience`, and only while there is a connection.
    pub(crate) fn drain(&self, patience: Duration) {
        let begun = Instant::now();
        // The first of its rounds to end may have begun before this; the second has not.
        let enough = self.shared.idle_rounds() + 2;
        self.shared.wake_sender();
        while begun.elapsed() < patience {
            let has_looked = self.shared.idle_rounds() >= enough;
            let state = self.shared.lock();
            if state.connection.is_none() || (has_looked && !state.peering.has_unacknowledged()) {
                return;
            }
            drop(state);
            // Its second round must not wait for anything else, either.
            self.shared.wake_sender();
            std::thread::sleep(DRAIN_PAUSE);
        }
    }

    /// Says farewell, and ends the connection.
    pub(crate) fn hang_up(&self, reason: &str) {
        let number = self.shared.lock().number();
        self.shared.end(number, reason, Some(reason));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.hang_up(LEAVES);
        self.shared.set_over();
        for thread in self.threads.drain(..) {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("name", &self.shared.name()).finish_non_exhaustive()
    }
}
