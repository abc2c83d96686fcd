//! TLS 1.3 over a socket, with keys of the hive on both sides ([`crate::keys`]).
//!
//! Each host has a certificate of the hive's own authority and accepts no other; the name in it is the name
//! of the host. Nothing else is believed: no authority of the system, no name of the network. The handshake
//! has a time limit, and holds what `rustls` holds.
//!
//! Bytes to be sent wait in `rustls`, up to half a MiB; then [`Transport::write`] takes no more until the
//! socket does.
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme,
};

use super::plain::Stream;
use super::{Peer, Transport};
use crate::keys::{HostKey, KeyError};

/// Encrypted bytes that may wait for the socket.
const QUEUE: usize = 512 * 1024;
/// Bytes that are given to `rustls` at once: more than one record, and few enough that they still lie in a
/// near cache when the socket takes them.
const CHUNK: usize = 128 * 1024;
/// Most pieces that are given to `rustls` at once.
const PIECES: usize = 16;

/// What a host needs to speak TLS with others of its hive.
#[derive(Clone, Debug)]
pub struct TlsKeys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl TlsKeys {
    /// From the key of a host.
    ///
    /// # Errors
    /// The key is damaged.
    pub fn new(key: &HostKey) -> Result<TlsKeys, KeyError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(key.roots(), Arc::clone(&provider))
                .build()
                .map_err(|error| KeyError::unfit(&error))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| KeyError::unfit(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(key.chain(), key.private())
            .map_err(|error| KeyError::unfit(&error))?;
        let verifier = OfTheHive { roots: key.roots(), provider: Arc::clone(&provider) };
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| KeyError::unfit(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(key.chain(), key.private())
            .map_err(|error| KeyError::unfit(&error))?;
        // A session that is resumed proves no certificate anew, and tells that the host was here before.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(TlsKeys { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Accepts a server whose certificate is of the hive's authority, whatever its name: hosts are reached at
/// addresses that no certificate knows. The name in the certificate is the name of the host; the greeting
/// compares it.
#[derive(Debug)]
struct OfTheHive {
    roots: Arc<rustls::RootCertStore>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for OfTheHive {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A stream of bytes to a host that has proved its name.
pub struct Tls {
    connection: Connection,
    stream: Stream,
    peer: Peer,
    ended: bool,
}

impl Tls {
    /// As the one that has connected.
    ///
    /// # Errors
    /// The other end is of another hive, speaks something else, or takes longer than `patience`.
    pub fn connect(stream: Stream, keys: &TlsKeys, patience: Duration) -> io::Result<Tls> {
        let name = ServerName::try_from("host.hive").map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(&keys.client), name).map_err(io::Error::other)?;
        Tls::shake_hands(stream, connection.into(), patience)
    }

    /// As the one that was connected to.
    ///
    /// # Errors
    /// As [`Tls::connect`].
    pub fn accept(stream: Stream, keys: &TlsKeys, patience: Duration) -> io::Result<Tls> {
        let connection = ServerConnection::new(Arc::clone(&keys.server)).map_err(io::Error::other)?;
        Tls::shake_hands(stream, connection.into(), patience)
    }

    fn shake_hands(mut stream: Stream, mut connection: Connection, patience: Duration) -> io::Result<Tls> {
        let begun = Instant::now();
        connection.set_buffer_limit(Some(QUEUE));
        // Bounded by the clock.
        while connection.is_handshaking() || connection.wants_write() {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let why = format!(
                    "no handshake within {patience:?}; is there a link of this hive at the other end?"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            match connection.complete_io(&mut stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let flags = if connection.wants_write() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
                    await_socket(&stream, flags, left.min(Duration::from_millis(100)));
                }
                Err(error) => return Err(error),
            }
        }
        let host = host_of(&connection)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the certificate names no host"))?;
        let peer = Peer { address: stream.peer(), host: Some(host) };
        Ok(Tls { connection, stream, peer, ended: false })
    }

    /// What is decrypted already.
    fn read_decrypted(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut got = 0;
        for place in into {
            if place.is_empty() {
                continue;
            }
            match self.connection.reader().read(place) {
                Ok(count) => {
                    got += count;
                    if count < place.len() {
                        return Ok(got);
                    }
                }
                Err(error) if got > 0 && error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(got);
                }
                // It comes again, with nothing before it.
                Err(_) if got > 0 => return Ok(got),
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }

    /// Gives the socket what it takes.
    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

/// What of some pieces was not taken yet.
struct Rest<'a, 'b> {
    pieces: &'a [IoSlice<'b>],
    /// How much of the first of them was.
    offset: usize,
}

impl<'a> Rest<'a, '_> {
    /// The next [`CHUNK`] bytes at most, and how many they are.
    fn chunk(&self) -> (Vec<IoSlice<'a>>, usize) {
        let (mut chunk, mut length, mut offset) = (Vec::with_capacity(PIECES), 0, self.offset);
        for piece in self.pieces {
            let bytes: &'a [u8] = &piece[offset..];
            let bytes = &bytes[..bytes.len().min(CHUNK - length)];
            offset = 0;
            if !bytes.is_empty() {
                length += bytes.len();
                chunk.push(IoSlice::new(bytes));
            }
            if length == CHUNK || chunk.len() == PIECES {
                break;
            }
        }
        (chunk, length)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.first() {
            let left = piece.len() - self.offset;
            if count < left {
                self.offset += count;
                return;
            }
            count -= left;
            (self.pieces, self.offset) = (&self.pieces[1..], 0);
        }
    }
}

/// The first name in the certificate of the peer.
fn host_of(connection: &Connection) -> Option<String> {
    let certificate = connection.peer_certificates()?.first()?;
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().next().map(str::to_owned)
}

impl Transport for Tls {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    fn read(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        // Each round reads a record or ends: bounded by what the socket has.
        loop {
            match self.read_decrypted(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            if self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.connection.read_tls(&mut self.stream) {
                // Without its farewell the other end may have been cut off: the next look at the reader says
                // so.
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) => return Err(error),
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The alert tells the other end; nothing more can be done for it.
                let _ = self.send();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        let mut rest = Rest { pieces, offset: 0 };
        // Bounded by the pieces: each round takes some of them, or is the last.
        loop {
            let (chunk, length) = rest.chunk();
            if length == 0 {
                return Ok(taken);
            }
            // Across pieces, so that records are full.
            let count = self.connection.writer().write_vectored(&chunk)?;
            taken += count;
            rest.advance(count);
            match self.send() {
                Ok(()) if count == length => {}
                Ok(()) => return Ok(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if count < length {
                        return if taken > 0 { Ok(taken) } else { Err(error) };
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }

    fn is_tamper_proof(&self) -> bool {
        true
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn finish(&mut self) {
        self.connection.send_close_notify();
        // As much as goes now: the other end sees the end in any case.
        let _ = self.send();
        self.stream.shut_down(Shutdown::Write);
    }

    fn close(&mut self) {
        self.finish();
        self.stream.shut_down(Shutdown::Both);
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Waits for a socket. False: the time is over.
fn await_socket(stream: &impl AsFd, flags: PollFlags, patience: Duration) -> bool {
    let milliseconds = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX).max(1);
    matches!(poll(&mut [PollFd::new(stream.as_fd(), flags)], PollTimeout::from(milliseconds)), Ok(ready) if ready > 0)
}
