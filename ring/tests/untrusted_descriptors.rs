//! A ring of a publisher that is not trusted takes a descriptor of who reads it: strangers may have a part of
//! those, and no more. A process of its own, as the count and the limit are the process's.
#![cfg(not(loom))]

use hivemind_ring::mapped::{Bells, MappedRing, OpenError};
use hivemind_ring::segment::Anonymous;
use hivemind_ring::writer::RingConfig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn publishers_that_are_not_trusted_take_a_quarter_of_the_descriptors_and_no_more() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 2,
        message_max: 4096,
        chunk_memory: 4096,
        reliable: false,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let bell = Bells::create(&Anonymous).unwrap().take().unwrap();
    let writer = MappedRing::create(&Anonymous, config, bell).unwrap();
    let open = |trusted| {
        MappedRing::open_if(&Anonymous, writer.ring().segment().handle().unwrap(), None, |_| trusted)
    };
    let mut rings: Vec<_> = (0..25).map(|_| open(false).unwrap()).collect();
    for _ in 0..3 {
        let error = open(false).unwrap_err();
        assert!(matches!(error, OpenError::UntrustedOut { limit: 25 }), "{error}");
    }
    rings.pop();
    rings.push(open(false).unwrap());
    open(false).unwrap_err();
    // Those of trusted publishers take none, and go on.
    let trusted: Vec<_> = (0..200).map(|_| open(true).unwrap()).collect();
    drop((trusted, rings));
    open(false).unwrap();
}
