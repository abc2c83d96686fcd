//! Ctrl-C and SIGTERM for commands that run until they are told to stop.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Calls `stop` on a thread of its own when the first of these signals arrives. The signals do nothing else
/// any more.
pub(crate) fn on_signal(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (mut ear, bell) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        pipe::register(signal, bell.try_clone()?)?;
    }
    std::thread::Builder::new().name("hm:signals".to_owned()).spawn(move || {
        let mut byte = [0];
        // The other end lives in the signal handlers, for ever; an error would be a reason to stop as well.
        let _byte_or_error = ear.read(&mut byte);
        stop();
    })?;
    Ok(())
}
