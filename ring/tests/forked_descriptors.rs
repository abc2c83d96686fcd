//! A forked child does not keep the memory of others alive by the descriptors of rings that are not mapped. A
//! process of its own, as it counts those of the process.
#![cfg(not(loom))]

use hivemind_ring::fork::run_in_child;
use hivemind_ring::kept::KeptRing;
use hivemind_ring::mapped::{Bells, MappedRing};
use hivemind_ring::segment::{Anonymous, Handle};
use hivemind_ring::writer::RingConfig;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Descriptors of memory objects that this process has open.
fn memory_objects() -> i32 {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    i32::try_from(links.filter(|link| link.to_string_lossy().starts_with("/memfd:")).count()).unwrap()
}

#[test]
fn a_forked_child_has_no_descriptor_of_a_ring_that_is_read_by_one_or_kept() {
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
    let handle = || writer.ring().segment().handle().unwrap();
    let strange = MappedRing::open_if(&Anonymous, handle(), None, |_| false).unwrap();
    let Handle::Descriptor(descriptor) = handle() else { unreachable!("it has no name") };
    let kept = KeptRing::new(descriptor).unwrap();
    // Doorbells, the ring, and twice the ring of others.
    assert_eq!(memory_objects(), 4);
    let child = run_in_child(memory_objects).unwrap();
    assert_eq!(waitpid(Pid::from_raw(child), None), Ok(WaitStatus::Exited(Pid::from_raw(child), 0)));
    // What the child drops there is not closed: the number may be of another by then.
    let child = run_in_child(move || {
        let mine: Vec<_> = (0..8).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        drop((strange, kept));
        i32::from(mine.iter().any(|file| file.metadata().is_err()))
    });
    let child = child.unwrap();
    assert_eq!(waitpid(Pid::from_raw(child), None), Ok(WaitStatus::Exited(Pid::from_raw(child), 0)));
}
