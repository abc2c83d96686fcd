//! `hm root`: the root of a hive in a process of its own.
//!
//! It takes the root over from a node that hosts it, in order, and serves until Ctrl-C or SIGTERM; then a node takes it
//! back. If it is killed instead, a node takes over as soon as the kernel says that it is dead. If it is stopped while somebody waits for it,
//! it is superseded, and ends with that reason when it goes on.

use std::io::{self, Write};
use std::time::Duration;

use hivemind_core::root::{self, ServeOptions, StopHandle};
use hivemind_core::runtime_dir::RuntimeDirError;

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
}

/// Serves until Ctrl-C.
pub(crate) fn run(place: &Place, root_timeout: Duration) -> Result<(), RootError> {
    let dir = place.runtime_dir()?;
    let handle = StopHandle::new().map_err(RootError::Signals)?;
    let stopper = handle.clone();
    stop::on_signal(move || stopper.stop()).map_err(RootError::Signals)?;
    let (hive, socket, pid) = (dir.hive(), dir.root_socket().display(), std::process::id());
    let mut out = io::stdout();
    writeln!(out, "root of hive {hive}: process {pid}, socket {socket}; Ctrl-C hands it back")?;
    let mut options = ServeOptions::default();
    options.root_timeout = root_timeout;
    root::serve_root(&dir, options, &handle)?;
    writeln!(out, "root of hive {hive}: stopped in order")?;
    Ok(())
}
