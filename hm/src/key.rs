//! `hm key`: who has a key is a host of the hive.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use hivemind_links::keys::{self, HostKey, KeyError};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make the authority of a hive, hive.pem, in a folder of its own.
    ///
    /// Anybody with this file can make hosts of the hive. It is needed for `hm key issue` alone: keep it
    /// where no host is.
    New {
        /// The folder; made if it is missing.
        folder: PathBuf,
    },
    /// Make the key of one host, HOST.pem, with the authority in a folder. Bring it to that host, and give it
    /// to `hm root --key`.
    Issue {
        /// The folder with hive.pem.
        folder: PathBuf,
        /// The name of the host: letters, digits, dots and hyphens.
        host: String,
    },
    /// Say whose key a file is.
    Show {
        /// The file.
        file: PathBuf,
    },
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeyCommandError {
    /// See the source.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// Does it.
pub(crate) fn run(command: &KeyCommand) -> Result<(), KeyCommandError> {
    let mut out = io::stdout();
    match command {
        KeyCommand::New { folder } => {
            let path = keys::new_authority(folder)?;
            writeln!(out, "{}: makes keys of this hive (hm key issue); keep it to yourself", path.display())?;
        }
        KeyCommand::Issue { folder, host } => {
            let path = keys::issue(folder, host)?;
            writeln!(out, "{}: the key of host {host}, for hm root --key", path.display())?;
        }
        KeyCommand::Show { file } => {
            let key = HostKey::read(file)?;
            writeln!(out, "{}: the key of host {}", file.display(), key.host())?;
        }
    }
    Ok(())
}
