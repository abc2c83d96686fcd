//! Where a host listens, or is reached.
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// `host:port`, `[address]:port`, or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or an IP address, and a port.
    Tcp {
        /// The name or the address, without brackets.
        host: String,
        /// The port; 0, to listen: any that is free.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why this is no address. Write it as in the examples.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: {why}; write host:port, [::1]:port or unix:/path")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = |why| AddressError { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(wrong("the path is missing"))
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = port.parse().map_err(|_| wrong("the port is no number up to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| wrong("the bracket is not closed"))?,
            None if host.contains(':') => return Err(wrong("an IPv6 address needs brackets")),
            None => host,
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        Ok(Address::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Address::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// What the system knows of this name. May ask a name server, and block for as long as that takes.
    ///
    /// # Errors
    /// There is no such name, or no answer.
    pub(super) fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["robot:7000", "10.0.0.1:1", "[::1]:65535", "unix:/run/hive", "[fe80::1%eth0]:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        let cases = [
            ("robot", "the port is missing"),
            ("robot:", "the port is no number"),
            ("robot:70000", "the port is no number"),
            (":7000", "the host is missing"),
            ("::1:7000", "needs brackets"),
            ("[::1:7000", "the bracket is not closed"),
            ("unix:", "the path is missing"),
        ];
        for (text, why) in cases {
            let said = text.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains(why) && said.contains("host:port"), "{text}: {said}");
        }
    }
}
