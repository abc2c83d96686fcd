//! How hosts prove who they are.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::ConnectTimeout;
use crate::keys::{HostKey, KeyError};
use crate::transport::plain::{Plain, Stream};
use crate::transport::tls::{Tls, TlsKeys};
use crate::transport::{Address, Transport};

/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How a host proves who it is, and whether others can read along.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Security {
    /// Encrypted; both ends prove that they are hosts of this hive.
    Tls {
        /// The name that the key was made for.
        host: String,
        /// Keys, ready for use.
        keys: Arc<TlsKeys>,
    },
    /// The link is unencrypted and unauthenticated. Any process that reaches the address is believed, and may
    /// publish and subscribe to whatever may cross; everybody on the way can read and change everything. Only
    /// for networks that nobody else is on.
    PlainText {
        /// The name of this host.
        host: String,
    },
}

impl Security {
    /// With the key of a host (`hm key issue`).
    ///
    /// # Errors
    /// [`KeyError`]: the file is no such key, or others can read it.
    pub fn key(file: impl AsRef<Path>) -> Result<Security, KeyError> {
        let key = HostKey::read(file.as_ref())?;
        Ok(Security::Tls { host: key.host().to_owned(), keys: Arc::new(TlsKeys::new(&key)?) })
    }

    /// Without encryption and without proof, under this name; see [`Security::PlainText`].
    #[must_use]
    pub fn plain_text(host: &str) -> Security {
        Security::PlainText { host: host.to_owned() }
    }

    pub(super) fn host(&self) -> &str {
        match self {
            Security::Tls { host, .. } | Security::PlainText { host } => host,
        }
    }

    pub(super) fn connect(
        &self,
        address: &Address,
        timeout: &mut ConnectTimeout,
    ) -> io::Result<Box<dyn Transport>> {
        let begun = Instant::now();
        let stream = Stream::connect(address, timeout.next())?;
        timeout.reached(begun.elapsed());
        Ok(match self {
            Security::Tls { keys, .. } => Box::new(Tls::connect(stream, keys, HANDSHAKE)?),
            Security::PlainText { .. } => Box::new(Plain::new(stream)),
        })
    }

    pub(super) fn accept(&self, stream: Stream) -> io::Result<Box<dyn Transport>> {
        Ok(match self {
            Security::Tls { keys, .. } => Box::new(Tls::accept(stream, keys, HANDSHAKE)?),
            Security::PlainText { .. } => Box::new(Plain::new(stream)),
        })
    }
}
