//! A cable that can be cut: a relay between a host that dials and one that listens.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const THROUGH: u8 = 0;
/// Connections are closed, and no new one is let through.
const CUT: u8 = 1;
/// Connections stay, and what comes is lost; each is closed afterwards, as it has a hole.
const SWALLOW: u8 = 2;
const OVER: u8 = 3;

/// Gone, with its connections, when dropped.
pub(crate) struct Relay {
    state: Arc<AtomicU8>,
    address: String,
    thread: Option<JoinHandle<()>>,
}

/// The cable is whole again when this is dropped.
pub(crate) struct Cut<'relay>(&'relay Relay);

impl Relay {
    pub(crate) fn to(address: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(AtomicU8::new(THROUGH));
        let (its_state, to) = (Arc::clone(&state), address.to_owned());
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || carry(&listener, &to, &its_state));
        Relay { state, address, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn cut(&self) -> Cut<'_> {
        self.state.store(CUT, Ordering::SeqCst);
        Cut(self)
    }

    pub(crate) fn swallow(&self) -> Cut<'_> {
        self.state.store(SWALLOW, Ordering::SeqCst);
        Cut(self)
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.state.store(THROUGH, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.store(OVER, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(listener: &TcpListener, to: &str, state: &Arc<AtomicU8>) {
    let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let mut threads = Vec::new();
    let mut was = THROUGH;
    loop {
        let now = state.load(Ordering::SeqCst);
        if now == CUT || now == OVER || (was == SWALLOW && now == THROUGH) {
            for stream in open.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        was = now;
        if now == OVER {
            break;
        }
        match listener.accept() {
            Ok((near, _)) if now == THROUGH => {
                let Ok(far) = TcpStream::connect(to) else { continue };
                near.set_nonblocking(false).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = Arc::clone(state);
                    threads.push(std::thread::spawn(move || {
                        let mut bytes = [0; 65536];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if state.load(Ordering::SeqCst) == THROUGH
                                && to.write_all(&bytes[..count]).is_err()
                            {
                                break;
                            }
                        }
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    }));
                }
                open.lock().unwrap().extend([near, far]);
            }
            Ok((near, _)) => drop(near),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}
