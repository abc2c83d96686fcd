//! What every backend of segments must do, run over each of them; then what each promises on its own.
//!
//! Bytes are read and written through `as_ptr` with volatile accesses: another mapping of the same memory
//! changes them.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use hivemind_ring::segment::{Anonymous, Backend, Handle, LengthBounds, Segment, SegmentError, Sharing};
use nix::sys::mman::{ProtFlags, mprotect};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

const ANY_LENGTH: LengthBounds = LengthBounds { min: 1, max: 1 << 40 };
/// Set in a process that a test started from its own binary, so that limits and kills leave the test itself
/// unharmed.
const CHILD: &str = "HIVEMIND_SEGMENT_TEST_CHILD";

macro_rules! conformance {
    ($module:ident, $backend:expr) => {
        mod $module {
            use super::*;
            conformance!(@tests $backend;
                a_peer_sees_what_the_owner_writes,
                everybody_may_write_a_doorbell,
                a_peer_maps_a_single_writer_segment_only_to_read,
                a_handle_leads_to_one_memory_object_alone,
                a_new_segment_is_zeros_and_whole_pages_long,
                creating_takes_no_memory_and_reserving_does,
                a_segment_shorter_than_its_reader_needs_is_refused,
                a_segment_longer_than_its_reader_allows_is_refused,
                an_impossible_length_is_refused,
                a_peer_can_neither_hand_on_nor_reserve,
                a_range_beyond_the_end_is_not_reserved,
                more_memory_than_the_machine_has_is_an_error_and_not_a_signal,
                what_was_reserved_keeps_its_content,
                memory_lives_until_the_last_mapping_is_gone,
                a_forked_child_finds_zeros_in_place_of_the_mapping_and_its_drop_leaves_them
            );

            #[test]
            fn a_process_out_of_descriptors_gets_an_error_that_names_the_limit() {
                let test = concat!(stringify!($module), "::a_process_out_of_descriptors_gets_an_error_that_names_the_limit");
                if std::env::var_os(CHILD).is_some() {
                    run_out_of_descriptors(&$backend);
                } else {
                    let output = again(test, "").output().expect("this binary runs");
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
                }
            }
        }
    };
    (@tests $backend:expr; $($test:ident),*) => {
        $(#[test]
        fn $test() {
            super::$test(&$backend);
        })*
    };
}

conformance!(anonymous, Anonymous);
#[cfg(feature = "named-segments")]
conformance!(named, hivemind_ring::segment::Named::new("hivemind-conformance").unwrap());

/// This test binary, to run one test again in a process of its own.
fn again(test: &str, task: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its binary"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, task);
    command
}

fn page() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64
}

fn read(segment: &Segment, offset: u64) -> u8 {
    assert!(offset < segment.len());
    // SAFETY: in bounds by the assertion, and every segment is mapped at least to read as long as it lives.
    let place = unsafe { segment.as_ptr().add(offset as usize) };
    // SAFETY: `place` is mapped (above); a byte has no invalid values and is always aligned; volatile because
    // others write it.
    unsafe { place.read_volatile() }
}

fn write(segment: &Segment, offset: u64, value: u8) {
    assert!(offset < segment.len() && segment.writable());
    // SAFETY: in bounds by the assertion.
    let place = unsafe { segment.as_ptr().add(offset as usize) };
    // SAFETY: `place` is mapped writable (asserted); no reference to these bytes exists anywhere.
    unsafe { place.write_volatile(value) }
}

/// The bytes of memory behind a segment.
fn resident(segment: &Segment) -> u64 {
    let file = match segment.handle().unwrap() {
        Handle::Descriptor(descriptor) => File::from(descriptor),
        Handle::Name(name) => File::open(format!("/dev/shm{name}")).unwrap(),
    };
    file.metadata().unwrap().blocks() * 512
}

fn pair(backend: &dyn Backend, length: u64, sharing: Sharing) -> (Segment, Segment) {
    let owner = backend.create("conformance test", length, sharing).unwrap();
    let peer = backend.open(owner.handle().unwrap(), sharing, ANY_LENGTH).unwrap();
    (owner, peer)
}

fn a_peer_sees_what_the_owner_writes(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, 3 * page(), Sharing::SingleWriter);
    assert_eq!(peer.len(), owner.len());
    for offset in [0, page() - 1, 2 * page() + 7] {
        write(&owner, offset, 0xa5);
        assert_eq!(read(&peer, offset), 0xa5);
    }
}

fn a_handle_leads_to_one_memory_object_alone(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, page(), Sharing::Doorbell);
    let (other, _others) = pair(backend, page(), Sharing::Doorbell);
    for segment in [&owner, &peer] {
        assert!(segment.is_of(&owner.handle().unwrap()).unwrap());
        assert!(!segment.is_of(&other.handle().unwrap()).unwrap());
    }
    // A descriptor of something else.
    let file = Handle::Descriptor(File::open("/dev/null").unwrap().into());
    assert!(!peer.is_of(&file).unwrap_or(false));
}

fn everybody_may_write_a_doorbell(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, 1, Sharing::Doorbell);
    assert!(owner.writable() && peer.writable());
    write(&peer, 9, 1);
    assert_eq!(read(&owner, 9), 1);
    write(&owner, 9, 2);
    assert_eq!(read(&peer, 9), 2);
}

fn a_peer_maps_a_single_writer_segment_only_to_read(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, page(), Sharing::SingleWriter);
    assert!(owner.writable() && !peer.writable());
    let start = std::ptr::NonNull::new(peer.as_ptr().cast()).unwrap();
    // SAFETY: start and length are those of the mapping of `peer`, which is alive; should the call succeed
    // against all expectation, more rights on it harm nobody.
    let result =
        unsafe { mprotect(start, peer.len() as usize, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) };
    assert_eq!(result, Err(nix::errno::Errno::EACCES), "the mapping can never become writable");
}

fn a_new_segment_is_zeros_and_whole_pages_long(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, page() + 1, Sharing::SingleWriter);
    assert_eq!(owner.len(), 2 * page());
    assert_eq!(owner.as_ptr().addr() % page() as usize, 0);
    for offset in 0..owner.len() {
        assert_eq!((read(&owner, offset), read(&peer, offset)), (0, 0));
    }
}

fn creating_takes_no_memory_and_reserving_does(backend: &dyn Backend) {
    let owner = backend.create("sparse", 16 << 30, Sharing::SingleWriter).unwrap();
    assert_eq!(resident(&owner), 0);
    owner.reserve(page() + 1..page() + 2).unwrap();
    assert_eq!(resident(&owner), page(), "the whole page that byte is in");
    owner.reserve(1 << 30..(1 << 30) + (3 << 20)).unwrap();
    assert_eq!(resident(&owner), page() + (3 << 20));
    owner.reserve(7..7).unwrap();
    assert_eq!(resident(&owner), page() + (3 << 20));
}

fn a_segment_shorter_than_its_reader_needs_is_refused(backend: &dyn Backend) {
    let owner = backend.create("short", page(), Sharing::SingleWriter).unwrap();
    let bounds = LengthBounds { min: page() + 1, max: 1 << 30 };
    let error = backend.open(owner.handle().unwrap(), Sharing::SingleWriter, bounds).unwrap_err();
    assert!(
        matches!(error, SegmentError::WrongLength { length, min, .. } if length == page() && min == page() + 1)
    );
}

fn a_segment_longer_than_its_reader_allows_is_refused(backend: &dyn Backend) {
    let owner = backend.create("long", 2 * page() + 1, Sharing::SingleWriter).unwrap();
    let refused = LengthBounds { min: 1, max: 2 * page() };
    let error = backend.open(owner.handle().unwrap(), Sharing::SingleWriter, refused).unwrap_err();
    assert!(matches!(error, SegmentError::WrongLength { length, .. } if length == 3 * page()));
    let as_the_owner_asked = LengthBounds { min: 1, max: 2 * page() + 1 };
    assert!(backend.open(owner.handle().unwrap(), Sharing::SingleWriter, as_the_owner_asked).is_ok());
}

fn an_impossible_length_is_refused(backend: &dyn Backend) {
    for length in [0, hivemind_ring::segment::LONGEST + 1, u64::MAX] {
        let error = backend.create("impossible", length, Sharing::SingleWriter).unwrap_err();
        assert!(matches!(error, SegmentError::BadLength { length: found } if found == length));
    }
}

fn a_peer_can_neither_hand_on_nor_reserve(backend: &dyn Backend) {
    for sharing in [Sharing::SingleWriter, Sharing::Doorbell] {
        let (_owner, peer) = pair(backend, page(), sharing);
        assert!(matches!(peer.handle(), Err(SegmentError::NotOwner { .. })));
        assert!(matches!(peer.reserve(0..1), Err(SegmentError::NotOwner { .. })));
    }
}

fn a_range_beyond_the_end_is_not_reserved(backend: &dyn Backend) {
    let owner = backend.create("bounded", page(), Sharing::SingleWriter).unwrap();
    for (start, end) in [(0, page() + 1), (page(), page() + 1), (5, 4), (u64::MAX, u64::MAX), (0, u64::MAX)] {
        let error = owner.reserve(start..end).unwrap_err();
        assert!(matches!(error, SegmentError::OutOfBounds { .. }), "{start}..{end}: {error}");
    }
    assert_eq!(resident(&owner), 0);
}

fn more_memory_than_the_machine_has_is_an_error_and_not_a_signal(backend: &dyn Backend) {
    let owner = backend.create("too much", 8 << 40, Sharing::SingleWriter).unwrap();
    let error = owner.reserve(0..8 << 40).unwrap_err();
    assert!(
        matches!(error, SegmentError::OutOfMemory { needed, .. } | SegmentError::StoreFull { needed } if needed == 8 << 40),
        "{error}"
    );
    assert_eq!(resident(&owner), 0, "nothing is kept of what failed");
    owner.reserve(0..page()).expect("a failure spoils nothing");
}

fn what_was_reserved_keeps_its_content(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, 4 * page(), Sharing::SingleWriter);
    owner.reserve(0..2 * page()).unwrap();
    write(&owner, page(), 77);
    owner.reserve(0..4 * page()).unwrap();
    assert_eq!(read(&peer, page()), 77);
}

fn memory_lives_until_the_last_mapping_is_gone(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, page(), Sharing::SingleWriter);
    write(&owner, 5, 55);
    drop(owner);
    assert_eq!(read(&peer, 5), 55);

    let (mut owner, peer) = pair(backend, page(), Sharing::SingleWriter);
    owner.close_descriptor();
    drop(peer);
    write(&owner, 5, 56);
    assert_eq!(read(&owner, 5), 56);
}

// The child finds zeros where the segment would be, may write there, and does so also after the drop of the
// inherited `Segment`s, which leaves the place alone: samples may point to it. Neither is seen by the parent.
fn a_forked_child_finds_zeros_in_place_of_the_mapping_and_its_drop_leaves_them(backend: &dyn Backend) {
    let (owner, peer) = pair(backend, page(), Sharing::SingleWriter);
    write(&owner, 1, 11);
    // SAFETY: until it exits the child makes plain system calls, touches memory of segments and drops some,
    // which takes no lock and frees at most a little memory (glibc's allocator may be used after fork); it
    // returns to none of the test's code.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let places = [owner.as_ptr(), peer.as_ptr()].map(|base| base.wrapping_add(1));
            let says_so = owner.is_forked()
                && peer.is_forked()
                && matches!(owner.handle(), Err(SegmentError::Forked(_)))
                && matches!(owner.reserve(0..1), Err(SegmentError::Forked(_)))
                && matches!(peer.prefault(0..1), Err(SegmentError::Forked(_)));
            drop(owner);
            drop(peer);
            let mut status = i32::from(!says_so);
            for place in places {
                // SAFETY: pages are here in place of the segment, or this is the SIGSEGV that fails the test.
                status |= i32::from(unsafe { place.read_volatile() } != 0) << 1;
                // SAFETY: as above.
                unsafe { place.write_volatile(42) };
            }
            // SAFETY: leaves at once, without running anything that belongs to the parent's other threads.
            unsafe { nix::libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            assert_eq!(read(&peer, 1), 11);
            write(&owner, 1, 12);
            assert_eq!(read(&peer, 1), 12);
            let handle = owner.handle().unwrap();
            assert!(
                backend.open(handle, Sharing::SingleWriter, ANY_LENGTH).is_ok(),
                "the child removed the name, or closed the descriptor of its parent"
            );
        }
    }
}

/// In a process of its own: peers take no descriptors, owners one each, and the end of them is a typed error.
fn run_out_of_descriptors(backend: &dyn Backend) {
    const LIMIT: u64 = 32;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, hard).unwrap();

    let owner = backend.create("one", 1, Sharing::SingleWriter).unwrap();
    let open = || backend.open(owner.handle().unwrap(), Sharing::SingleWriter, ANY_LENGTH).unwrap();
    let peers: Vec<_> = (0..10 * LIMIT).map(|_| open()).collect();

    let mut owners = Vec::new();
    let error = loop {
        match backend.create("many", 1, Sharing::SingleWriter) {
            Ok(owner) => owners.push(owner),
            Err(error) => break error,
        }
        assert!((owners.len() as u64) < LIMIT, "owners take no descriptors?");
    };
    assert!(matches!(error, SegmentError::OutOfDescriptors { limit: LIMIT }), "{error:?}");
    assert!(error.to_string().contains("all 32 file descriptors") && error.to_string().contains("ulimit -n"));
    assert!(owners.len() as u64 >= LIMIT / 2, "only {} owners had place", owners.len());

    // The last descriptors that are left may be enough to make a segment but not to hand it on.
    let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).take(LIMIT as usize).collect();
    if let Err(error) = owner.handle() {
        assert!(matches!(error, SegmentError::OutOfDescriptors { limit: LIMIT }), "{error:?}");
    }
    drop(files);
    owners.truncate(owners.len() - 2);
    assert!(backend.create("again", 1, Sharing::SingleWriter).is_ok());
    drop(peers);
}

mod anonymous_only {
    use super::*;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn memfd(flags: MFdFlags, seals: SealFlag) -> OwnedFd {
        let descriptor = memfd_create("stranger", flags).unwrap();
        nix::unistd::ftruncate(&descriptor, 1 << 21).unwrap();
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        descriptor
    }

    fn open(descriptor: impl Into<OwnedFd>, sharing: Sharing) -> Result<Segment, SegmentError> {
        Anonymous.open(Handle::Descriptor(descriptor.into()), sharing, ANY_LENGTH)
    }

    #[test]
    fn memory_without_the_seals_that_protect_its_reader_is_refused() {
        let (shrink, future) = (SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_FUTURE_WRITE);
        let sealed = |seals| memfd(MFdFlags::MFD_ALLOW_SEALING, seals);
        for (seals, lacks) in [(SealFlag::empty(), "SHRINK"), (future, "SHRINK"), (shrink, "FUTURE_WRITE")] {
            let error = open(sealed(seals), Sharing::SingleWriter).unwrap_err();
            assert!(matches!(error, SegmentError::WrongSeals { missing, .. } if missing == lacks), "{error}");
        }
        let error = open(sealed(SealFlag::F_SEAL_GROW), Sharing::Doorbell).unwrap_err();
        assert!(matches!(error, SegmentError::WrongSeals { missing: "SHRINK", .. }));

        assert!(open(sealed(shrink | future), Sharing::SingleWriter).is_ok());
        assert!(open(sealed(shrink | SealFlag::F_SEAL_WRITE), Sharing::SingleWriter).is_ok());
        assert!(open(sealed(shrink), Sharing::Doorbell).is_ok());
    }

    #[test]
    fn a_doorbell_that_cannot_be_written_is_refused() {
        let frozen = memfd(MFdFlags::MFD_ALLOW_SEALING, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE);
        assert!(matches!(open(frozen, Sharing::Doorbell), Err(SegmentError::WrongAccess { .. })));
        let owner = Anonymous.create("bell", 1, Sharing::Doorbell).unwrap();
        let Handle::Descriptor(descriptor) = owner.handle().unwrap() else { panic!("not anonymous") };
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor));
        let read_only = File::open(path).unwrap();
        assert!(matches!(open(read_only, Sharing::Doorbell), Err(SegmentError::WrongAccess { .. })));
    }

    #[test]
    fn a_descriptor_that_is_no_memory_object_is_refused() {
        let (pipe, _other_end) = std::io::pipe().unwrap();
        let path_only =
            nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_PATH, nix::sys::stat::Mode::empty());
        let strangers: [OwnedFd; 4] = [
            pipe.into(),
            File::open("/dev/null").unwrap().into(),
            File::open(std::env::current_exe().unwrap()).unwrap().into(),
            path_only.unwrap(),
        ];
        for stranger in strangers {
            let shown = format!("{stranger:?}");
            let error = open(stranger, Sharing::SingleWriter).unwrap_err();
            assert!(
                matches!(error, SegmentError::NotMemory | SegmentError::WrongSeals { .. }),
                "{shown}: {error}"
            );
        }
    }

    // Nothing is mapped here; with no huge pages configured, reading such an object would end in a SIGBUS.
    #[test]
    fn memory_of_huge_pages_is_refused() {
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_FUTURE_WRITE;
        let Ok(huge) = memfd_create("huge", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB) else {
            return; // This kernel has no huge pages at all.
        };
        nix::unistd::ftruncate(&huge, 1 << 21).unwrap();
        fcntl(&huge, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        assert!(matches!(open(huge, Sharing::SingleWriter), Err(SegmentError::NotMemory)));
    }

    #[test]
    fn a_name_is_no_handle_of_anonymous_memory() {
        let handle = Handle::Name("/hivemind".to_owned());
        let error = Anonymous.open(handle, Sharing::SingleWriter, ANY_LENGTH).unwrap_err();
        assert!(matches!(error, SegmentError::WrongHandle { expected: "descriptor", found: "name" }));
    }

    #[test]
    fn any_label_will_do() {
        for label in ["", "sensors/pose", "nul\0 and\nline", &"ä long one ".repeat(100)] {
            Anonymous.create(label, 1, Sharing::SingleWriter).unwrap();
        }
    }

    #[test]
    fn an_owner_that_closed_its_descriptor_has_no_more_handles() {
        let mut owner = Anonymous.create("closed", page(), Sharing::SingleWriter).unwrap();
        let before = owner.handle().unwrap();
        owner.close_descriptor();
        assert!(matches!(owner.handle(), Err(SegmentError::NotOwner { .. })));
        assert!(matches!(owner.reserve(0..1), Err(SegmentError::NotOwner { .. })));
        let copy = before.try_clone().unwrap();
        drop(before);
        assert!(Anonymous.open(copy, Sharing::SingleWriter, ANY_LENGTH).is_ok());
    }

    #[test]
    fn another_program_that_this_process_starts_gets_neither_segment_nor_handle() {
        let owner = Anonymous.create("closed-on-exec", 1, Sharing::SingleWriter).unwrap();
        let handle = owner.handle().unwrap();
        let copy = handle.try_clone().unwrap();
        let listing = |of: &str| {
            let output = Command::new("ls").args(["-l", &format!("/proc/{of}/fd")]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let (here, there) = (listing(&std::process::id().to_string()), listing("self"));
        assert_eq!(here.matches("closed-on-exec").count(), 3, "{here}");
        assert_eq!(there.matches("closed-on-exec").count(), 0, "{there}");
        drop(copy);
    }
}

#[cfg(feature = "named-segments")]
mod named_only {
    use super::*;
    use hivemind_ring::segment::Named;
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::Stdio;

    fn name_of(segment: &Segment) -> String {
        let Handle::Name(name) = segment.handle().unwrap() else { panic!("not named") };
        name
    }

    fn path_of(name: &str) -> PathBuf {
        PathBuf::from(format!("/dev/shm{name}"))
    }

    /// A prefix no other test uses, in this run or another that happens at the same time.
    fn own(test: &str) -> Named {
        Named::new(&format!("hivemind-test-{test}-{}", std::process::id())).unwrap()
    }

    #[test]
    fn a_name_is_private_and_goes_with_its_owner() {
        let segment = own("private").create("", page(), Sharing::SingleWriter).unwrap();
        let path = path_of(&name_of(&segment));
        let status = path.metadata().unwrap();
        assert_eq!(status.mode() & 0o7777, 0o600);
        assert_eq!(status.uid(), nix::unistd::geteuid().as_raw());
        drop(segment);
        assert!(!path.exists());
    }

    #[test]
    fn names_differ() {
        let named = own("differ");
        let segments: Vec<_> = (0..50).map(|_| named.create("", 1, Sharing::Doorbell).unwrap()).collect();
        let names: std::collections::HashSet<_> = segments.iter().map(name_of).collect();
        assert_eq!(names.len(), segments.len());
    }

    #[test]
    fn a_segment_whose_owner_is_gone_has_vanished() {
        let named = own("vanished");
        let owner = named.create("", 1, Sharing::SingleWriter).unwrap();
        let handle = owner.handle().unwrap();
        drop(owner);
        let error = named.open(handle, Sharing::SingleWriter, ANY_LENGTH).unwrap_err();
        assert!(matches!(error, SegmentError::Vanished { .. }), "{error}");
    }

    #[test]
    fn names_that_this_hive_does_not_give_are_refused() {
        let named = Named::new("lab").unwrap();
        let digits = "0123456789abcdef0123456789abcdef";
        let strange =
            ["", "/", "/lab-", "/../etc/passwd", "/lab-../../../../../../../../../../etc/passwd", "/lab-2-"];
        let strange = strange.iter().map(|name| (*name).to_owned()).chain([
            format!("lab-{digits}"),
            format!("/lab-{digits}0"),
            format!("/lab2-{digits}"),
            format!("/lab-2-{digits}"),
            format!("/lab-{}", digits.to_uppercase()),
            format!("/lab-{}\0", &digits[1..]),
        ]);
        for name in strange {
            let error =
                named.open(Handle::Name(name.clone()), Sharing::SingleWriter, ANY_LENGTH).unwrap_err();
            assert!(matches!(error, SegmentError::BadName { .. }), "{name:?}: {error}");
            assert!(matches!(named.remove(&name), Err(SegmentError::BadName { .. })));
        }
        let (pipe, _other_end) = std::io::pipe().unwrap();
        let descriptor = Handle::Descriptor(pipe.into());
        let error = named.open(descriptor, Sharing::SingleWriter, ANY_LENGTH).unwrap_err();
        assert!(matches!(error, SegmentError::WrongHandle { .. }));
    }

    #[test]
    fn a_prefix_that_makes_no_file_name_is_refused() {
        for prefix in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(matches!(Named::new(prefix), Err(SegmentError::BadName { .. })), "{prefix:?}");
        }
    }

    // A pipe instead of memory would block whoever opens it; a file others may write could be cut short by
    // them.
    #[test]
    fn what_is_not_a_private_memory_object_is_refused_and_not_swept() {
        use std::os::unix::fs::PermissionsExt;
        let named = own("imposter");
        let owner = named.create("", 1, Sharing::SingleWriter).unwrap();
        let (prefix, _) =
            name_of(&owner).rsplit_once('-').map(|(p, d)| (p.to_owned(), d.to_owned())).unwrap();
        let pipe = format!("{prefix}-{}", "a".repeat(32));
        let open_to_all = format!("{prefix}-{}", "b".repeat(32));
        nix::unistd::mkfifo(&path_of(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
        File::create(path_of(&open_to_all)).unwrap().set_len(4096).unwrap();
        std::fs::set_permissions(path_of(&open_to_all), std::fs::Permissions::from_mode(0o622)).unwrap();
        for name in [&pipe, &open_to_all] {
            let error =
                named.open(Handle::Name(name.clone()), Sharing::SingleWriter, ANY_LENGTH).unwrap_err();
            assert!(matches!(error, SegmentError::NotPrivate { .. }), "{error}");
        }
        let sweep = named.remove_stale();
        assert!(named.remove(&pipe).unwrap() && named.remove(&open_to_all).unwrap());
        assert!(sweep.is_ok_and(|sweep| sweep.removed.is_empty() && sweep.alive == 1));
        assert!(!named.remove(&pipe).unwrap());
    }

    // The child makes two segments, says so and waits for an end of input that never comes; then it is
    // killed.
    #[test]
    fn what_a_killed_owner_leaves_is_swept_and_what_the_living_have_is_not() {
        if let Some(prefix) = std::env::var_os(CHILD) {
            let named = Named::new(prefix.to_str().unwrap()).unwrap();
            let _segments = [1, 2].map(|length| named.create("", length, Sharing::SingleWriter).unwrap());
            println!("\nready");
            std::io::stdin().lines().for_each(drop);
            return;
        }
        let prefix = format!("hivemind-test-killed-{}", std::process::id());
        let named = Named::new(&prefix).unwrap();
        let mine = named.create("", 1, Sharing::SingleWriter).unwrap();
        let test = "named_only::what_a_killed_owner_leaves_is_swept_and_what_the_living_have_is_not";
        let mut child = again(test, &prefix)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.map_while(Result::ok).any(|line| line == "ready"), "the child failed");

        let sweep = named.remove_stale().unwrap();
        assert_eq!((sweep.removed.len(), sweep.alive), (0, 3), "all three owners are alive");
        child.kill().unwrap();
        child.wait().unwrap();
        let sweep = named.remove_stale().unwrap();
        assert_eq!((sweep.removed.len(), sweep.alive, sweep.unfinished), (2, 1, false));
        assert!(sweep.removed.iter().all(|name| !path_of(name).exists() && *name != name_of(&mine)));
        assert!(path_of(&name_of(&mine)).exists());
    }

    // Sweeps and creations at the same time: whatever create() returns must stay, however the two interleave.
    #[test]
    fn a_sweep_never_takes_the_name_of_a_living_owner() {
        let named = own("race");
        let create_and_look = || {
            for _ in 0..2000 {
                match named.create("", 1, Sharing::SingleWriter) {
                    Ok(segment) => assert!(path_of(&name_of(&segment)).exists()),
                    Err(error) => assert!(matches!(error, SegmentError::NoFreeName { .. }), "{error}"),
                }
            }
        };
        std::thread::scope(|scope| {
            let creator = scope.spawn(create_and_look);
            while !creator.is_finished() {
                named.remove_stale().unwrap();
            }
        });
    }
}
