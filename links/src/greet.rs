//! The greeting: both sides of a new connection say who they are, and judge each other.
//!
//! The accepting side listens first, so that it can refuse a twin before the twin believes that it is linked.

use std::io::{self, IoSliceMut};
use std::time::{Duration, Instant};

use hivemind_core::link::frame::{FrameError, FrameKind, HEADER, Header};
use hivemind_core::link::greeting::{GreetingError, Hello, MAX_HELLO};
use hivemind_core::link::peering::Peering;

use crate::hosts::{AdoptError, Hosts};
use crate::stop::Stop;
use crate::transport::{StreamError, Transport, farewell, wait_for, write_all};

/// Longest time for a greeting.
const GREETING: Duration = Duration::from_secs(5);
/// Pause of a host that has dialled itself. It will do so again: not worth a word each time.
const MYSELF_PAUSE: Duration = Duration::from_secs(60);

/// Why two hosts are not linked.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("a damaged greeting: {0}")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The other host's words.
    #[error("{reason}")]
    Refused { reason: String },
}

/// Greets, and links the other host. Returns its name.
pub(super) fn greet(
    hosts: &Hosts,
    stop: &Stop,
    mut transport: Box<dyn Transport>,
    dialled: bool,
) -> Result<String, GreetError> {
    let deadline = Instant::now() + GREETING;
    let own = hosts.own();
    if dialled {
        write_all(&mut *transport, &own.encode(), deadline)?;
    }
    let heard = receive_hello(&mut *transport, deadline);
    let judged = match &heard {
        Ok((header, payload)) if header.kind == FrameKind::Hello => {
            let proved = transport.peer().host.clone();
            Some(Hello::judge(payload, own, proved.as_deref()))
        }
        _ => None,
    };
    if let Some(Ok(hello)) = &judged
        && let Err(error) = hosts.check_twin(hello)
    {
        farewell(&mut *transport, &error.to_string());
        return Err(error.into());
    }
    if !dialled {
        write_all(&mut *transport, &own.encode(), deadline)?;
    }
    match (heard, judged) {
        (_, Some(Ok(hello))) => {
            let name = hello.host.clone();
            hosts.adopt(transport, hello, dialled)?;
            Ok(name)
        }
        (_, Some(Err(error))) => {
            farewell(&mut *transport, &error.to_string());
            if error == GreetingError::Myself {
                stop.wait(MYSELF_PAUSE);
            }
            Err(error.into())
        }
        (Ok((_, bye)), None) => {
            let reason = Peering::farewell_reason(&bye).unwrap_or_else(|| "it refuses".to_owned());
            Err(GreetError::Refused { reason })
        }
        (Err(error), None) => {
            farewell(&mut *transport, &error.to_string());
            Err(error)
        }
    }
}

/// The first frame, and no byte more.
fn receive_hello(transport: &mut dyn Transport, deadline: Instant) -> Result<(Header, Vec<u8>), GreetError> {
    let mut head = [0; HEADER];
    receive(transport, &mut head, deadline)?;
    let (header, mut checksum) = Header::decode(&head).map_err(|_| GreetingError::Foreign)?;
    if !matches!(header.kind, FrameKind::Hello | FrameKind::Bye) || header.length > MAX_HELLO {
        return Err(GreetingError::Foreign.into());
    }
    let mut payload = vec![0; header.length as usize];
    receive(transport, &mut payload, deadline)?;
    checksum.add(&payload);
    checksum.check()?;
    Ok((header, payload))
}

fn receive(transport: &mut dyn Transport, mut into: &mut [u8], deadline: Instant) -> Result<(), StreamError> {
    while !into.is_empty() {
        match transport.read(&mut [IoSliceMut::new(into)]) {
            Ok(0) => return Err(StreamError::Closed),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(transport, false, deadline)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
