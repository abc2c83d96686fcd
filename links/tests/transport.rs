//! What every transport of links must do, for each that exists. A new one needs a line in `all`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use hivemind_links::keys::{HostKey, KeyError, issue, new_authority};
use hivemind_links::transport::plain::{Listener, Plain, Stream};
use hivemind_links::transport::tls::{Tls, TlsKeys};
use hivemind_links::transport::{Address, Transport, wait_for};

/// The bound of every wait.
const LONG: Duration = Duration::from_secs(30);

type End = Box<dyn Transport>;

struct Keys {
    _folder: tempfile::TempDir,
    near: TlsKeys,
    far: TlsKeys,
}

fn keys() -> Keys {
    let folder = tempfile::tempdir().unwrap();
    new_authority(folder.path()).unwrap();
    let of =
        |host: &str| TlsKeys::new(&HostKey::read(&issue(folder.path(), host).unwrap()).unwrap()).unwrap();
    Keys { near: of("near"), far: of("far"), _folder: folder }
}

/// Two connected streams at an address.
fn streams(address: &Address) -> (Stream, Stream) {
    let listener = Listener::bind(address).unwrap().remove(0);
    let near = Stream::connect(&listener.address().parse().unwrap(), LONG).unwrap();
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok(far) => return (near, far),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < LONG => {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A pair of each kind.
fn all(mut check: impl FnMut(&str, End, End)) {
    let keys = keys();
    let folder = tempfile::tempdir().unwrap();
    let unix = |name: &str| Address::Unix(folder.path().join(name));
    let has_v6 = TcpListener::bind("[::1]:0").is_ok();
    if !has_v6 {
        eprintln!("SKIPPED: TCP over IPv6, which this machine does not have");
    }
    let mut addresses = vec![("TCP", "127.0.0.1:0".parse().unwrap()), ("Unix", unix("socket"))];
    if has_v6 {
        addresses.push(("TCP over IPv6", "[::1]:0".parse().unwrap()));
    }
    for (name, address) in addresses {
        let (near, far) = streams(&address);
        check(name, Box::new(Plain::new(near)), Box::new(Plain::new(far)));
        if let Address::Unix(path) = &address {
            std::fs::remove_file(path).unwrap();
        }
        let (near, far) = streams(&address);
        let (near, far) = shake_hands(near, &keys.near, far, &keys.far);
        check(&format!("TLS over {name}"), Box::new(near.unwrap()), Box::new(far.unwrap()));
    }
}

fn shake_hands(
    near: Stream,
    near_keys: &TlsKeys,
    far: Stream,
    far_keys: &TlsKeys,
) -> (io::Result<Tls>, io::Result<Tls>) {
    std::thread::scope(|scope| {
        let far = scope.spawn(|| Tls::accept(far, far_keys, LONG));
        let near = Tls::connect(near, near_keys, LONG);
        (near, far.join().unwrap())
    })
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as u8 ^ (at >> 8) as u8).collect()
}

/// Writes in pieces of changing lengths, as fast as it goes.
fn write_all(end: &mut dyn Transport, mut left: &[u8]) {
    let deadline = Instant::now() + LONG;
    let mut round = 0usize;
    while !left.is_empty() || end.wants_write() {
        round += 1;
        let first = left.len().min(round * 977 % 70_000);
        let second = (left.len() - first).min(round * 31 % 5_000);
        let pieces =
            [IoSlice::new(&left[..first]), IoSlice::new(&[]), IoSlice::new(&left[first..first + second])];
        let outcome = if left.is_empty() { end.flush().map(|()| 0) } else { end.write(&pieces) };
        match outcome {
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(end, true, deadline).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn read_exact(end: &mut dyn Transport, count: usize) -> Vec<u8> {
    let deadline = Instant::now() + LONG;
    let mut found = Vec::new();
    let mut round = 0usize;
    while found.len() < count {
        round += 1;
        let mut part = vec![0; (1 + round * 613 % 90_000).min(count - found.len())];
        let middle = round * 67 % (part.len() + 1);
        let (first, second) = part.split_at_mut(middle);
        match end.read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)]) {
            Ok(0) => panic!("it ended after {} bytes", found.len()),
            Ok(got) => found.extend_from_slice(&part[..got]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(end, false, deadline).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    found
}

fn await_end(end: &mut dyn Transport) -> io::Result<usize> {
    let deadline = Instant::now() + LONG;
    let mut part = [0; 4096];
    loop {
        match end.read(&mut [IoSliceMut::new(&mut part)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(end, false, deadline).unwrap();
            }
            outcome => return outcome,
        }
    }
}

#[test]
fn bytes_arrive_in_order_in_both_directions_whatever_the_lengths() {
    all(|name, mut near, mut far| {
        let message = bytes(3_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                write_all(&mut *near, &message);
                assert!(read_exact(&mut *near, message.len()) == message, "{name}");
            });
            assert!(read_exact(&mut *far, message.len()) == message, "{name}");
            write_all(&mut *far, &message);
        });
    });
}

/// A peer that does not read: no byte is taken that is not sent, and nothing grows without bound.
#[test]
fn a_peer_that_does_not_read_is_waited_for_and_gets_everything() {
    all(|name, mut near, mut far| {
        let message = bytes(64 << 20);
        let mut taken = 0;
        let mut refusals = 0;
        while refusals < 20 {
            match near.write(&[IoSlice::new(&message[taken..])]) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => refusals += 1,
                Err(error) => panic!("{name}: {error}"),
            }
            assert!(taken < message.len(), "{name}: the system takes more than it can have room for");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| write_all(&mut *near, &message[taken..]));
            assert!(read_exact(&mut *far, message.len()) == message, "{name}");
        });
    });
}

#[test]
fn nothing_to_read_is_no_end_and_an_end_in_order_comes_after_all_bytes() {
    all(|name, mut near, mut far| {
        let nothing = far.read(&mut [IoSliceMut::new(&mut [0; 10])]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "{name}");
        write_all(&mut *near, &bytes(1000));
        near.close();
        assert_eq!(read_exact(&mut *far, 1000), bytes(1000), "{name}");
        assert_eq!(await_end(&mut *far).unwrap(), 0, "{name}");
    });
}

#[test]
fn the_descriptor_says_when_there_is_something_to_read() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    all(|name, mut near, mut far| {
        assert_eq!(await_nothing(&mut *far), io::ErrorKind::WouldBlock, "{name}");
        write_all(&mut *near, &[7]);
        let ready =
            poll(&mut [PollFd::new(far.descriptor(), PollFlags::POLLIN)], PollTimeout::from(30_000u16))
                .unwrap();
        assert_eq!((ready, read_exact(&mut *far, 1)), (1, vec![7]), "{name}");
    });
}

/// What a handshake has left is read away first.
fn await_nothing(end: &mut dyn Transport) -> io::ErrorKind {
    end.read(&mut [IoSliceMut::new(&mut [0; 100])]).unwrap_err().kind()
}

#[test]
fn each_end_of_tls_knows_the_name_that_the_other_has_proved() {
    let keys = keys();
    let (near, far) = streams(&"127.0.0.1:0".parse().unwrap());
    let (near, far) = shake_hands(near, &keys.near, far, &keys.far);
    assert_eq!(near.unwrap().peer().host.as_deref(), Some("far"));
    assert_eq!(far.unwrap().peer().host.as_deref(), Some("near"));
}

/// A stream that is cut is no stream that has ended: somebody on the way could do that.
#[test]
fn an_end_without_a_farewell_is_an_error_where_there_is_encryption() {
    let keys = keys();
    let (near, far) = streams(&"127.0.0.1:0".parse().unwrap());
    let behind = match &near {
        Stream::Tcp(stream) => stream.try_clone().unwrap(),
        Stream::Unix(_) => unreachable!("it is TCP"),
    };
    let (near, far) = shake_hands(near, &keys.near, far, &keys.far);
    let mut far = far.unwrap();
    behind.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(await_end(&mut far).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    drop(near);
}

#[test]
fn a_host_of_another_hive_is_refused_on_both_sides_and_learns_nothing() {
    let (keys, others) = (keys(), keys());
    for (near_keys, far_keys) in [(&keys.near, &others.far), (&others.near, &keys.far)] {
        let (near, far) = streams(&"127.0.0.1:0".parse().unwrap());
        let (near, far) = shake_hands(near, near_keys, far, far_keys);
        // With TLS 1.3 the one that connects may find out with its first read only.
        let near = near.and_then(|mut near| await_end(&mut near));
        let text = near.unwrap_err().to_string();
        assert!(!text.contains("near") && !text.contains("far"), "{text}");
        far.unwrap_err();
    }
}

#[test]
fn a_peer_that_speaks_no_tls_or_nothing_at_all_is_let_go_in_time() {
    let keys = keys();
    let address: Address = "127.0.0.1:0".parse().unwrap();
    let (near, far) = streams(&address);
    write_all(&mut Plain::new(near), b"GET / HTTP/1.1\r\n\r\n");
    let error = Tls::accept(far, &keys.far, LONG).unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{error}");

    let (near, far) = streams(&address);
    let patience = Duration::from_millis(200);
    let begun = Instant::now();
    let error = Tls::accept(far, &keys.far, patience).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(begun.elapsed() >= patience && error.to_string().contains("no handshake"), "{error}");
    drop(near);
}

// ---- keys

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn keys_are_for_their_owner_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let missing = issue(folder.path(), "robot").unwrap_err().to_string();
    assert!(missing.contains("hive.pem"), "{missing}");
    let authority = new_authority(folder.path()).unwrap();
    assert!(matches!(new_authority(folder.path()), Err(KeyError::Exists { .. })));
    let key = issue(folder.path(), "robot-1.lab").unwrap();
    assert!(matches!(issue(folder.path(), "robot-1.lab"), Err(KeyError::Exists { .. })));
    assert_eq!((mode(&authority), mode(&key)), (0o600, 0o600));
    assert_eq!(HostKey::read(&key).unwrap().host(), "robot-1.lab");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let text = HostKey::read(&key).unwrap_err().to_string();
    assert!(text.contains("chmod 600") && text.contains("640"), "{text}");
    // The authority's own file is no key of a host.
    let text = HostKey::read(&authority).unwrap_err().to_string();
    assert!(text.contains("hm key issue"), "{text}");
    for name in ["", "-a", "a b", "a..b", "hive", &"n".repeat(64)] {
        assert!(matches!(issue(folder.path(), name), Err(KeyError::Name { .. })), "{name:?}");
    }
    std::fs::write(&key, "nonsense").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(HostKey::read(&key), Err(KeyError::NoKey { .. })));
}
