//! The threads of services and handlers, and how a node that runs them ends in order.
//!
//! ```text
//! Ctrl-C, SIGTERM, leave() or an error
//!   └─▶ services end (their sleeps return, their bodies are not called again)
//!         └─▶ handlers read what is still there, then end
//!               └─▶ the node leaves
//! ```
//! A second Ctrl-C while this goes on, or one after it, ends the process as if nobody listened.

use crate::error::RunError;
use crate::message::Message;
use crate::sample::Sample;
use crate::service::{Service, ServiceError};
use crate::subscriber::Subscriber;
use hivemind_ring::fork::{Flag, Home};
use hivemind_runtime::lock;
use hivemind_runtime::ports::{Member, RecvError};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// A handler that keeps as many samples as can be held is asked again after this time whether it let one go.
const HELD_OUT_PAUSE: Duration = Duration::from_millis(5);

/// The threads of a node.
#[derive(Debug)]
pub(crate) struct Crew {
    state: Arc<Mutex<State>>,
    home: Home,
}

#[derive(Debug, Default)]
struct State {
    services: Vec<JoinHandle<()>>,
    handlers: Vec<JoinHandle<()>>,
    /// What wakes `run`; there while it runs.
    bell: Option<UnixStream>,
    /// Somebody asked to stop, perhaps before `run` was called.
    stopping: bool,
    failed: Option<(String, String)>,
}

impl State {
    fn stop(&mut self) {
        self.stopping = true;
        if let Some(bell) = &mut self.bell {
            // If the pipe is full, `run` has been woken often enough.
            let _ = bell.write(&[0]);
        }
    }
}

/// Makes [`crate::Node::run`] return, from any thread. `Send`, `Sync` and `Clone`; does not keep the node
/// alive.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let node = hivemind::Node::builder("camera").dir(folder.path()).join()?;
/// let stop = node.stop_handle();
/// std::thread::spawn(move || stop.stop());
/// node.run()?;
/// assert!(node.is_leaving());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopHandle {
    state: Weak<Mutex<State>>,
    home: Home,
}

impl StopHandle {
    /// Asks the node to shut down in order, now or when [`crate::Node::run`] is called. Returns at once.
    /// Example: [`StopHandle`].
    pub fn stop(&self) {
        if self.home.is_here()
            && let Some(state) = self.state.upgrade()
        {
            lock(&state).stop();
        }
    }
}

impl Crew {
    pub(crate) fn new() -> Self {
        Crew { state: Arc::default(), home: Home::here() }
    }

    pub(crate) fn stop_handle(&self) -> StopHandle {
        StopHandle { state: Arc::downgrade(&self.state), home: self.home }
    }

    /// Wakes `run`, now or when it is called.
    pub(crate) fn stop(&self) {
        if self.home.is_here() {
            lock(&self.state).stop();
        }
    }

    pub(crate) fn start_service<T, F>(
        &self,
        name: &str,
        mut service: Service<T>,
        mut body: F,
    ) -> std::io::Result<()>
    where
        T: Message + ?Sized,
        F: FnMut(&mut Service<T>) -> Result<(), ServiceError> + Send + 'static,
    {
        let work = move || {
            while !service.leaving() {
                match body(&mut service) {
                    Ok(()) => {}
                    Err(ServiceError::Leaving(_)) => break,
                    // It may have waited for somebody who does not read; see `send_timeout`.
                    Err(ServiceError::Send(error)) if service.leaving() => {
                        tracing::debug!(%error, "not sent, as the node is leaving");
                        break;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        };
        let handle = self.start(name, work)?;
        lock(&self.state).services.push(handle);
        Ok(())
    }

    pub(crate) fn start_handler<T, F>(
        &self,
        name: &str,
        mut subscriber: Subscriber<T>,
        mut handler: F,
    ) -> std::io::Result<()>
    where
        T: Message + ?Sized,
        F: FnMut(Sample<T>) + Send + 'static,
    {
        let filter = name.to_owned();
        let work = move || {
            let mut is_held_out = false;
            loop {
                match subscriber.recv() {
                    Ok(Some(sample)) => {
                        is_held_out = false;
                        handler(sample);
                    }
                    Ok(None) => return Ok(()),
                    Err(RecvError::HeldOut { .. }) if subscriber.is_leaving() => return Ok(()),
                    // The handler has forked, and this is the child's copy of its thread.
                    Err(RecvError::Forked(_)) => return Ok(()),
                    Err(error @ RecvError::HeldOut { .. }) => {
                        if !is_held_out {
                            tracing::warn!(filter, %error, "the handler waits for its own samples");
                        }
                        is_held_out = true;
                        std::thread::sleep(HELD_OUT_PAUSE);
                    }
                    // The subscriber has detached from whoever was at fault and goes on with the others.
                    Err(error) => tracing::warn!(filter, %error, "a message was not received"),
                }
            }
        };
        let handle = self.start(name, work)?;
        lock(&self.state).handlers.push(handle);
        Ok(())
    }

    fn start(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let (state, home) = (Arc::clone(&self.state), self.home);
        let full_name = name.to_owned();
        std::thread::Builder::new().name(format!("hm:{name}")).spawn(move || {
            // A panic has been printed by the panic hook; the closure is not used again.
            let outcome =
                catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it panicked".to_owned()));
            // In a child that was forked on this thread the rest is the parent's.
            if let Err(reason) = outcome
                && home.is_here()
            {
                tracing::error!(name = full_name, reason, "ended");
                let mut state = lock(&state);
                state.failed.get_or_insert((full_name, reason));
                state.stop();
            }
        })
    }

    /// See [`crate::Node::run`].
    pub(crate) fn run(&self, member: &Member) -> Result<(), RunError> {
        let (mut ear, bell) = UnixStream::pair().map_err(RunError::Signals)?;
        let listening = Listening::begin(&bell).map_err(RunError::Signals)?;
        let stopped = {
            let mut state = lock(&self.state);
            state.bell = Some(bell);
            state.stopping
        };
        if !stopped {
            // Ends with a byte from a signal, from `stop`, or with an error, which ends the run as well; a
            // signal of somebody else does not.
            while ear.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::Interrupted) {}
        }
        drop(listening);
        self.shut_down(member);
        match lock(&self.state).failed.take() {
            Some((name, reason)) => Err(RunError::Ended { name, reason }),
            None => Ok(()),
        }
    }

    fn shut_down(&self, member: &Member) {
        member.end_services();
        let services = std::mem::take(&mut lock(&self.state).services);
        for service in services {
            // Its outcome is in `failed`.
            let _ = service.join();
        }
        member.end_waits();
        let handlers = std::mem::take(&mut lock(&self.state).handlers);
        for handler in handlers {
            let _ = handler.join();
        }
        lock(&self.state).bell = None;
        member.leave();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if !self.home.is_here() {
            // The threads are the parent's: the system would let go of whichever of this process have their
            // places by now.
            std::mem::forget(Arc::clone(&self.state));
        }
    }
}

/// A run that waits for Ctrl-C or SIGTERM. When none does, these end the process.
struct Listening {
    bells: Vec<SigId>,
}

/// How signals are dealt with. A handler that was installed is never taken away again, so it has to do by
/// itself what the system would do. A forked child has the handlers, too, and the bells of its parent's runs:
/// what comes to the child must ring none of those.
struct Signals {
    /// True: a signal ends the process.
    ends_process: Arc<AtomicBool>,
    /// Makes it true in children.
    in_children: Flag,
    /// Whose runs these are.
    home: Home,
    /// What rings the bells of the runs.
    bells: Vec<SigId>,
    is_installed: bool,
    /// Runs that wait for a signal.
    listening: usize,
}

static SIGNALS: LazyLock<Mutex<Signals>> = LazyLock::new(|| {
    let ends_process = Arc::new(AtomicBool::new(true));
    Mutex::new(Signals {
        in_children: Flag::set_in_children(Arc::clone(&ends_process)),
        ends_process,
        home: Home::here(),
        bells: Vec::new(),
        is_installed: false,
        listening: 0,
    })
});

impl Signals {
    /// In a child that has not had a run yet: forgets those of its parent.
    fn look_for_a_fork(&mut self) {
        if self.home.is_here() {
            return;
        }
        self.home = Home::here();
        self.in_children = Flag::set_in_children(Arc::clone(&self.ends_process));
        self.listening = 0;
        for bell in self.bells.drain(..) {
            signal_hook::low_level::unregister(bell);
        }
    }

    fn change(&mut self, listening: usize) {
        self.listening = listening;
        // Relaxed: the flag orders nothing.
        self.ends_process.store(listening == 0, Ordering::Relaxed);
    }
}

impl Listening {
    /// A signal writes to `bell` from now on.
    fn begin(bell: &UnixStream) -> std::io::Result<Listening> {
        let mut signals = lock(&SIGNALS);
        signals.look_for_a_fork();
        let listening = signals.listening + 1;
        signals.change(listening);
        // From here on drop takes it back; it waits for the lock.
        let mut begun = Listening { bells: Vec::new() };
        let outcome = begun.install(&mut signals, bell);
        drop(signals);
        outcome.map(|()| begun)
    }

    fn install(&mut self, signals: &mut Signals, bell: &UnixStream) -> std::io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            // Before the bell, because actions run in the order of their registration: a bell wakes a run,
            // whose end arms this, and the handler of the very signal that rang, on another thread, must be
            // past it by then.
            if !signals.is_installed {
                let ends_process = Arc::clone(&signals.ends_process);
                signal_hook::flag::register_conditional_default(signal, ends_process)?;
            }
            let bell = signal_hook::low_level::pipe::register(signal, bell.try_clone()?)?;
            self.bells.push(bell);
            signals.bells.push(bell);
        }
        signals.is_installed = true;
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut signals = lock(&SIGNALS);
        let listening = signals.listening - 1;
        signals.change(listening);
        for bell in self.bells.drain(..) {
            signals.bells.retain(|other| *other != bell);
            signal_hook::low_level::unregister(bell);
        }
    }
}
