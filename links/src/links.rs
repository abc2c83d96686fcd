//! The links of a host: what holds its threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hivemind_core::name::is_host_name;
use hivemind_runtime::ports::{AsMember, Member};

use crate::connect::Connector;
use crate::error::LinksError;
use crate::hosts::{Hosts, LinkStatus};
use crate::options::LinkOptions;
use crate::permits::Permits;
use crate::stop::Stop;
use crate::transport::plain::Listener;
use crate::wants::Follower;

/// Longest time for what is still to be sent when all links end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The links of a host. Dropped, they end.
pub struct Links {
    member: Arc<Member>,
    hosts: Arc<Hosts>,
    connector: Arc<Connector>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<String>,
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
        let stop = Arc::new(Stop::new(&member)?);
        let permits = Arc::new(Permits::new(options.policy.clone()));
        let hosts = Arc::new(Hosts::new(&member, &options, &permits, &stop));
        let connector = Arc::new(Connector::new(&options.security, &hosts, &stop));
        let follower = Follower::new(&member, &hosts, &permits, &stop);
        let addresses = listeners.iter().map(Listener::address).collect();
        let mut links = Links { member, hosts, connector, stop, threads: Vec::new(), addresses };
        if !listeners.is_empty() {
            let connector = Arc::clone(&links.connector);
            links.spawn("hm-link-accept", move || connector.accept(&listeners))?;
        }
        for address in options.peers {
            let connector = Arc::clone(&links.connector);
            links.spawn("hm-link-dial", move || connector.dial(&address))?;
        }
        links.spawn("hm-link-want", move || follower.run())?;
        Ok(links)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), LinksError> {
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        Ok(())
    }

    /// Where it listens, with the ports that the system has chosen.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whether this is a child of their process, where no lock of theirs may be taken.
    fn is_forked(&self) -> bool {
        !self.member.home().is_here()
    }

    /// How each link is. In a forked child there is none.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        if self.is_forked() { Vec::new() } else { self.hosts.status() }
    }

    /// Waits until `count` hosts are linked, at most for `timeout`. False: they are not; [`Links::refusal`]
    /// may say why.
    #[must_use]
    pub fn wait_for_hosts(&self, count: usize, timeout: Duration) -> bool {
        !self.is_forked() && self.hosts.wait_for(count, timeout)
    }

    /// Why the last attempt to be linked failed.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if let Err(forked) = self.member.home().check() {
            return Some(forked.to_string());
        }
        self.connector.refusal()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if self.is_forked() {
            // The threads are the parent's: the system would let go of whichever of this process have their
            // places by now. What they work on is theirs, too.
            std::mem::forget(std::mem::take(&mut self.threads));
            std::mem::forget((Arc::clone(&self.hosts), Arc::clone(&self.connector), Arc::clone(&self.stop)));
            return;
        }
        self.stop.set();
        for thread in self.threads.drain(..) {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
        self.hosts.end(FAREWELL);
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
