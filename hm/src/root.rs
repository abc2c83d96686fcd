//! `hm root`: the root of a hive in a process of its own.
//!
//! It takes the root over from a node that hosts it, in order, and serves until Ctrl-C or SIGTERM; then a
//! node takes it back. If it is killed instead, a node takes over as soon as the kernel says that it is dead.
//! If it is stopped while somebody waits for it, it is superseded, and ends with that reason when it goes on.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use hivemind::links::{Address, KeyError, LinkOptions, Links, LinksError, Security};
use hivemind::{Node, NodeError};
use hivemind_runtime::root::{self, ServeOptions, StopHandle};
use hivemind_runtime::runtime_dir::{RuntimeDir, RuntimeDirError};

use crate::{Place, stop};

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RootError {
    /// The runtime directory is not fit; the source says what to do.
    #[error(transparent)]
    Dir(#[from] RuntimeDirError),
    /// Another root does not yield, or the system refused; the source says what to do.
    #[error(transparent)]
    Serve(#[from] root::RootError),
    /// The signal handlers could not be installed. Raise the limit of descriptors.
    #[error("cannot listen for Ctrl-C: {0}; raise the limit of descriptors")]
    Signals(io::Error),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
    /// Links without encryption are made on purpose only. Give the key of this host, or say that there is to
    /// be none.
    #[error(
        "a link needs the key of this host: --key FILE (hm key new, hm key issue); or, for networks that nobody else is on, --plain-text HOST"
    )]
    NoSecurity,
    /// The key is not fit; the source says why.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The links could not be made; the source says why.
    #[error(transparent)]
    Links(Box<LinksError>),
    /// The node of the links found no root; the source says why.
    #[error(transparent)]
    Join(Box<NodeError>),
}

/// Links to other hosts.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LinkArguments {
    /// Accept links of other hosts here: host:port (an IPv6 address in brackets) or unix:/path. May be given
    /// more than once.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// Link with the host that listens there, again and again while it does not. May be given more than
    /// once.
    #[arg(long, value_name = "ADDRESS")]
    peer: Vec<Address>,
    /// The key of this host (hm key issue): links are encrypted, and both ends prove who they are.
    #[arg(long, value_name = "FILE", conflicts_with = "plain_text")]
    key: Option<PathBuf>,
    /// Link without encryption and without proof, under this name of a host. Whoever reaches the address can
    /// then read, change and publish everything that crosses: for networks that nobody else is on.
    #[arg(long, value_name = "HOST")]
    plain_text: Option<String>,
    /// How long a link looks for the next bytes before it sleeps, in microseconds, while they come at
    /// shorter intervals than that; 0 saves power.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 100)]
    link_spin: u32,
    /// How long a link without a connection keeps its streams, in seconds: what was sent and not
    /// acknowledged, and what stands for the publishers of the other host.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    link_hold: u32,
    /// Seconds of silence after which the connection of a link is dead; it is asked for a sign of life after
    /// a third of that.
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    link_dead: u32,
}

impl LinkArguments {
    /// `None`: there are to be none.
    fn options(&self, dir: &RuntimeDir) -> Result<Option<LinkOptions>, RootError> {
        if self.listen.is_empty() && self.peer.is_empty() {
            return Ok(None);
        }
        let security = match (&self.key, &self.plain_text) {
            (Some(key), _) => Security::key(key)?,
            (None, Some(host)) => Security::plain_text(host),
            (None, None) => return Err(RootError::NoSecurity),
        };
        let mut options = LinkOptions::new(security)
            .policy(dir.policy_file(), dir.owner())
            .spin(Duration::from_micros(self.link_spin.into()))
            .hold(Duration::from_secs(self.link_hold.into()))
            .dead_after(Duration::from_secs(self.link_dead.into()));
        for address in &self.listen {
            options = options.listen(address.clone());
        }
        for address in &self.peer {
            options = options.peer(address.clone());
        }
        Ok(Some(options))
    }
}

/// Serves until Ctrl-C.
pub(crate) fn run(place: &Place, root_timeout: Duration, links: &LinkArguments) -> Result<(), RootError> {
    let dir = place.runtime_dir()?;
    let links = links.options(&dir)?;
    let handle = StopHandle::new().map_err(RootError::Signals)?;
    let stopper = handle.clone();
    stop::on_signal(move || stopper.stop()).map_err(RootError::Signals)?;
    let (hive, socket, pid) = (dir.hive(), dir.root_socket().display(), std::process::id());
    let mut out = io::stdout();
    writeln!(out, "root of hive {hive}: process {pid}, socket {socket}; Ctrl-C hands it back")?;
    let mut options = ServeOptions::default();
    options.root_timeout = root_timeout;
    match links {
        None => root::serve_root(&dir, options, &handle)?,
        Some(links) => serve_linked(place, &dir, options, &handle, links)?,
    }
    writeln!(out, "root of hive {hive}: stopped in order")?;
    Ok(())
}

/// The root in a thread, and the links in a node of this process that joins it.
fn serve_linked(
    place: &Place,
    dir: &RuntimeDir,
    options: ServeOptions,
    handle: &StopHandle,
    links: LinkOptions,
) -> Result<(), RootError> {
    std::thread::scope(|scope| {
        let root = scope.spawn(|| root::serve_root(dir, options, handle));
        let linked = link(place, options.patience, links);
        if let Err(error) = linked {
            handle.stop();
            // Why the root ended says more than that the node has not found it.
            root.join().expect("the root does not panic")?;
            return Err(error);
        }
        root.join().expect("the root does not panic")?;
        Ok(())
    })
}

fn link(place: &Place, patience: Duration, options: LinkOptions) -> Result<Linked, RootError> {
    let node =
        place.node("hm-links").patience(patience).join().map_err(|error| RootError::Join(Box::new(error)))?;
    let links = Links::start(&node, options).map_err(|error| RootError::Links(Box::new(error)))?;
    for address in links.addresses() {
        writeln!(io::stdout(), "links: listening on {address}")?;
    }
    Ok(Linked { _links: links, _node: node })
}

/// In this order: links need their node.
struct Linked {
    _links: Links,
    _node: Node,
}
