//! Threads that accept connections and dial.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hivemind_runtime::lock;

use crate::admission::{Admission, Pass};
use crate::backoff::{Backoff, ConnectTimeout};
use crate::greet::{GreetError, greet};
use crate::hosts::Hosts;
use crate::security::Security;
use crate::stop::Stop;
use crate::transport::Address;
use crate::transport::plain::{Listener, Stream};

/// Connections accepted in a row at one listener; what comes later wakes the thread again.
const ACCEPTED_IN_A_ROW: usize = 64;
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How often it is checked that a host that was dialled is still linked.
const LOOK_EACH: Duration = Duration::from_millis(50);

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    /// No connection, or no handshake; the text says what to do.
    #[error("{0}")]
    Transport(#[from] io::Error),
    #[error(transparent)]
    Greet(#[from] GreetError),
}

/// What the threads share.
pub(super) struct Connector {
    security: Security,
    hosts: Arc<Hosts>,
    stop: Arc<Stop>,
    admission: Admission,
    /// Why the last attempt failed.
    refused: Mutex<Option<String>>,
}

impl Connector {
    pub(super) fn new(security: &Security, hosts: &Arc<Hosts>, stop: &Arc<Stop>) -> Connector {
        Connector {
            security: security.clone(),
            hosts: Arc::clone(hosts),
            stop: Arc::clone(stop),
            admission: Admission::default(),
            refused: Mutex::default(),
        }
    }

    /// Why the last attempt to be linked failed.
    pub(super) fn refusal(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    fn note_refusal(&self, from: &str, error: &ConnectError) {
        tracing::warn!(from, %error, "not linked");
        *lock(&self.refused) = Some(format!("{from}: {error}"));
    }

    /// Accepts connections until all links end.
    pub(super) fn accept(self: &Arc<Self>, listeners: &[Listener]) {
        while !self.stop.is_set() {
            self.stop.wait_beside(listeners);
            listeners.iter().for_each(|listener| self.accept_at(listener));
        }
    }

    fn accept_at(self: &Arc<Self>, listener: &Listener) {
        for _ in 0..ACCEPTED_IN_A_ROW {
            let stream = match listener.accept() {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a link");
                    return self.stop.wait(ACCEPT_PAUSE);
                }
            };
            let origin = stream.origin();
            let Some(pass) = self.admission.admit(&origin) else {
                tracing::warn!(from = origin, "too many connections that have not greeted yet; closed");
                continue;
            };
            let connector = Arc::clone(self);
            let begun = std::thread::Builder::new()
                .name("hm-link-greet".to_owned())
                .spawn(move || connector.greet_accepted(stream, pass));
            if let Err(error) = begun {
                tracing::warn!(%error, "cannot start a thread for a link");
            }
        }
    }

    fn greet_accepted(&self, stream: Stream, pass: Pass) {
        let from = stream.peer();
        let transport = self.security.accept(stream).map_err(ConnectError::from);
        let outcome = transport.and_then(|transport| Ok(greet(&self.hosts, &self.stop, transport, false)?));
        drop(pass);
        if let Err(error) = outcome {
            self.note_refusal(&from, &error);
        }
    }

    /// Keeps the host at this address linked until all links end.
    pub(super) fn dial(&self, address: &Address) {
        let (mut backoff, mut timeout) = (Backoff::new(self.hosts.own().epoch), ConnectTimeout::new());
        let mut penance = Duration::ZERO;
        while !self.stop.is_set() {
            match self.dial_once(address, &mut timeout) {
                Ok(host) => {
                    backoff.reset();
                    self.await_end(&host);
                    penance = self.hosts.pause(&host);
                }
                Err(error) => self.note_refusal(&address.to_string(), &error),
            }
            if self.stop.is_set() {
                return;
            }
            self.stop.wait(backoff.next().max(std::mem::take(&mut penance)));
        }
    }

    fn dial_once(&self, address: &Address, timeout: &mut ConnectTimeout) -> Result<String, ConnectError> {
        let transport = self.security.connect(address, timeout)?;
        Ok(greet(&self.hosts, &self.stop, transport, true)?)
    }

    /// Waits while a host is linked.
    fn await_end(&self, host: &str) {
        while !self.stop.is_set() && self.hosts.is_connected(host) {
            self.stop.wait(LOOK_EACH);
        }
    }
}
