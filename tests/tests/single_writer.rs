//! A publisher's memory has one writer, and a subscriber's has one: the kernel refuses everybody else.
//!
//! The descriptors are those that really come through a hive: of a publisher's and of a subscriber's process,
//! by way of the root, to a third process. Writable mappings are tried in
//! `ring/tests/kernel_enforces_single_writer.rs`, where `unsafe` is allowed, and here through the one safe
//! way there is.

use hivemind::{Handle, Node};
use hivemind_ring::segment::{Anonymous, Backend, LengthBounds, SegmentError, Sharing};
use hivemind_ring::view::{ReaderView, RingView};
use hivemind_tests::hive::{Hive, reliable};
use hivemind_tests::order::Kind;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::{ftruncate, write};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// Tries every safe way to change a memory object that somebody else owns.
fn attack(owned: &OwnedFd, what: &str) {
    let file = File::from(owned.try_clone().unwrap());
    let before = fstat(&file).unwrap();
    let length = before.st_size;
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, 0).unwrap();

    assert_eq!(write(&file, b"x"), Err(Errno::EPERM), "{what}: write");
    assert_eq!(errno(file.write_at(b"x", 0)), Errno::EPERM, "{what}: pwrite");
    for size in [0, 1, length - 1, length + 1] {
        assert_eq!(ftruncate(&file, size), Err(Errno::EPERM), "{what}: ftruncate to {size}");
    }
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&file, punch, 0, 4096), Err(Errno::EPERM), "{what}: punch a hole");
    assert_eq!(fallocate(&file, FallocateFlags::empty(), length, 4096), Err(Errno::EPERM), "{what}: grow");
    // Opened anew by its path: a description of its own, with all rights that the file's mode gives.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Ok(again) = OpenOptions::new().read(true).write(true).open(&path) {
        assert_eq!(errno(again.write_at(b"x", 0)), Errno::EPERM, "{what}: opened anew, pwrite");
        assert_eq!(ftruncate(&again, 0), Err(Errno::EPERM), "{what}: opened anew, ftruncate");
    }
    let truncated = OpenOptions::new().write(true).truncate(true).open(&path);
    assert_eq!(errno(truncated), Errno::EPERM, "{what}: opened anew and truncated");
    // Nobody can take the seals off, or put one on that would stop the owner.
    assert_eq!(
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)),
        Err(Errno::EPERM),
        "{what}: seal"
    );
    // A doorbell is what a peer maps writable; a segment of one writer does not pass for one.
    let bounds = LengthBounds { min: 1, max: u64::MAX };
    let mapped = Anonymous.open(Handle::Descriptor(owned.try_clone().unwrap()), Sharing::Doorbell, bounds);
    assert!(
        matches!(mapped, Err(SegmentError::WrongSeals { .. } | SegmentError::WrongAccess { .. })),
        "{what}: mapped writable: {mapped:?}"
    );

    let mut now = [0; 4096];
    file.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(fstat(&file).unwrap().st_size, length, "{what}");
    assert!(page == now, "{what}: its first page has changed");
}

fn errno<T>(outcome: std::io::Result<T>) -> Errno {
    Errno::from_raw(outcome.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
}

fn descriptor(node: &Node, end: hivemind::EndId) -> OwnedFd {
    match node.inspect(end).unwrap() {
        Handle::Descriptor(descriptor) => descriptor,
        Handle::Name(name) => panic!("a name: {name}"),
    }
}

#[test]
fn nobody_but_the_publisher_writes_its_ring_and_nobody_but_the_subscriber_its_seats() {
    let hive = Hive::new(ACTOR);
    let speaker = hive.actor("speaker");
    let publisher = speaker.publish(reliable("entries", Kind::Bytes));
    let listener = hive.actor("listener");
    let subscriber = listener.subscribe("entries", Kind::Bytes);
    subscriber.await_publishers(1);
    publisher.send(100);
    let stranger = hive.node("stranger").observer().join().unwrap();
    let listing = stranger.observe().unwrap();
    let (ring, seats) = (listing.publishers[0].end, listing.subscribers[0].end);
    attack(&descriptor(&stranger, ring), "ring");
    attack(&descriptor(&stranger, seats), "reader segment");

    // It was all in vain: everything arrives.
    subscriber.collect();
    publisher.send(100);
    let tally = subscriber.await_tally(200, 0);
    tally.assert_sound();
    let (ring, seats) = (stranger.inspect(ring).unwrap(), stranger.inspect(seats).unwrap());
    assert_eq!(RingView::open(&Anonymous, ring).unwrap().published(), 200);
    let seat = ReaderView::open(&Anonymous, seats).unwrap().seat(listing.connections[0].seat).unwrap();
    assert_eq!((seat.cursor, seat.lost), (200, 0));
}
