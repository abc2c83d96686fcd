//! Which processes are taken for a node, and when it is taken for gone: with processes of the kernel, told
//! apart as it does now and as it did before.
use std::os::fd::AsFd;
use std::process::{Child, Command as Program, Stdio};

use crossbeam_channel::bounded;
use hivemind_ring::os::{is_same_open_file, open_pidfd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::peers::{FIRST_PEER, PIDFDS_OF_A_PEER};
use super::*;
use crate::identity::{current_process, process_of};
use crate::root::server::own_pid;
use crate::session::{AttachReply, AttachRequest, AttachedTo, Inbox, Seating, Status};
use hivemind_core::contract::{Carried, Match};
use hivemind_core::identity::Process;
use hivemind_core::name::HiveName;

/// Says who is gone.
#[derive(Default)]
struct Deaths(Mutex<Vec<u64>>);

impl Deaths {
    fn told(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }
}

impl NodeSide for Deaths {
    fn roll_call(&self) -> Vec<Announcement> {
        Vec::new()
    }
    fn matched(&self, _: u32, _: Box<Match>) -> Option<Seating> {
        None
    }
    fn attach(&self, _: AttachRequest) -> Result<AttachReply, String> {
        Err("nobody attaches here".to_owned())
    }
    fn attached(&self, _: AttachedTo) {}
    fn attach_refused(&self, _: u32, _: EndId, _: &str) {}
    fn skipped(&self, _: u32, _: Carried) {}
    fn has_to_do_with(&self, _: u32, _: EndId) -> bool {
        false
    }
    fn inspect(&self, _: u32) -> Option<Handle> {
        None
    }
    fn peer_gone(&self, node: u64) {
        self.0.lock().unwrap().push(node);
    }
}

struct Other(Child);

impl Other {
    fn start() -> Other {
        Other(Program::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pidfd(&self) -> OwnedFd {
        open_pidfd(self.0.id().cast_signed()).unwrap()
    }

    /// Ends it, and reads what the kernel says of that.
    fn end(mut self, control: &mut Control) {
        let pidfd = self.pidfd();
        self.0.kill().unwrap();
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        look(control);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads what the pidfds have to say.
fn look(control: &mut Control) {
    let mut events = [EpollEvent::empty(); EVENTS];
    let count = control.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
    for event in events[..count].iter().filter(|event| event.data() >= FIRST_PEER) {
        control.happened(event);
    }
}

/// A node that has no root, and is not about to look for one.
fn control(node: u64) -> (Control, Arc<Deaths>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(folder.path(), &HiveName::default()).unwrap();
    let name = NodeName::parse("node").unwrap();
    let waited_for = WaitedFor::Root { path: dir.root_socket().to_owned() };
    let shared = Shared {
        name: name.clone(),
        node,
        patience: Duration::ZERO,
        is_observer: false,
        home: hivemind_ring::fork::Home::here(),
        wake: EventFd::new().unwrap(),
        inbox: Mutex::new(Inbox::default()),
        status: Mutex::new(Status { root_pid: None, root_epoch: 0, hosts_root: false, waited_for }),
        next_request: 0.into(),
    };
    let config = SessionConfig {
        dir,
        name,
        node,
        patience: Duration::ZERO,
        root: RootRole::Guest,
        root_timeout: crate::root::DEFAULT_ROOT_TIMEOUT,
        observer: false,
        bells: Handle::Name("bells".to_owned()),
    };
    let deaths = Arc::new(Deaths::default());
    let control = Control::new(config, deaths.clone(), Arc::new(shared), bounded(1).0).unwrap();
    (control, deaths, folder)
}

const NODE: u64 = 4711;
const PEER: u64 = 4712;

#[test]
fn another_process_is_not_taken_for_a_node_that_is_known_and_its_end_is_not_the_end_of_the_node() {
    for identify in
        [|pidfd: &OwnedFd| process_of(pidfd), |pidfd: &OwnedFd| crate::identity::process_by_number(pidfd)]
    {
        let (mut control, deaths, _folder) = control(NODE);
        control.peers.identify = identify;
        let (node, guest) = (Other::start(), Other::start());
        // Introduced by three roots.
        for _ in 0..3 {
            control.watch_peer(PEER, node.pidfd()).unwrap();
        }
        assert_eq!(control.peers.counts(PEER).0, 1);
        let refused = control.watch_peer(PEER, guest.pidfd()).unwrap_err();
        assert!(matches!(refused, Impostor::AnotherProcess { node: PEER }), "{refused}");
        guest.end(&mut control);
        assert!(deaths.told().is_empty() && control.peers.contains(PEER));
        node.end(&mut control);
        assert_eq!((deaths.told(), control.peers.counts(PEER)), (vec![PEER], (0, 0)));
    }
}

#[test]
fn who_is_gone_is_no_obstacle_though_nobody_has_read_so_yet() {
    let (mut control, deaths, _folder) = control(NODE);
    let (guest, node) = (Other::start(), Other::start());
    control.watch_peer(PEER, guest.pidfd()).unwrap();
    let pidfd = guest.pidfd();
    drop(guest);
    assert!(is_gone(&pidfd));
    control.watch_peer(PEER, node.pidfd()).unwrap();
    // What it left is let go first.
    assert_eq!(deaths.told(), [PEER]);
    look(&mut control);
    assert_eq!(deaths.told(), [PEER]);
    node.end(&mut control);
    assert_eq!(deaths.told(), [PEER, PEER]);
}

/// Neither a file system of pidfds nor a number: then nobody is dead before all are, and pins count too long,
/// never too short.
#[test]
fn where_nobody_can_tell_processes_apart_a_node_lives_as_long_as_one_of_them() {
    let (mut control, deaths, _folder) = control(NODE);
    control.peers.identify = |_| Ok(Process::Unknown);
    let (guest, node) = (Other::start(), Other::start());
    for other in [&guest, &node] {
        control.watch_peer(PEER, other.pidfd()).unwrap();
    }
    guest.end(&mut control);
    assert!(deaths.told().is_empty());
    for _ in 1..PIDFDS_OF_A_PEER {
        control.watch_peer(PEER, node.pidfd()).unwrap();
    }
    let refused = control.watch_peer(PEER, node.pidfd()).unwrap_err();
    assert!(matches!(refused, Impostor::TooMany { limit: PIDFDS_OF_A_PEER, .. }), "{refused}");
    node.end(&mut control);
    assert_eq!((deaths.told(), control.peers.counts(PEER)), (vec![PEER], (0, 0)));
}

/// A node has many pairs with one peer, and the root passes on the same pidfd for each.
#[test]
fn copies_of_one_pidfd_are_one_where_processes_cannot_be_told_apart() {
    let (mut control, deaths, _folder) = control(NODE);
    control.peers.identify = |_| Ok(Process::Unknown);
    let node = Other::start();
    let pidfd = node.pidfd();
    if is_same_open_file(pidfd.as_fd(), pidfd.as_fd()).is_none() {
        println!("SKIPPED: the kernel or a sandbox does not compare open files");
        return;
    }
    for _ in 0..10 * PIDFDS_OF_A_PEER {
        control.watch_peer(PEER, pidfd.try_clone().unwrap()).unwrap();
    }
    assert_eq!(control.peers.counts(PEER).0, 1);
    node.end(&mut control);
    assert_eq!((deaths.told(), control.peers.counts(PEER).1), (vec![PEER], 0));
}

#[test]
fn nobody_else_is_taken_for_this_node_or_for_the_process_that_an_epoch_names() {
    let (mut control, _deaths, _folder) = control(NODE);
    let other = Other::start();
    let own = || open_pidfd(own_pid()).unwrap();
    control.watch_peer(NODE, own()).unwrap();
    let refused = control.watch_peer(NODE, other.pidfd()).unwrap_err();
    assert!(matches!(refused, Impostor::AnotherProcess { node: NODE }), "{refused}");
    let epoch = crate::identity::new_node_epoch();
    if let Process::Inode { .. } = current_process() {
        // It is not known here, and need not be.
        let refused = control.watch_peer(epoch, other.pidfd()).unwrap_err();
        assert!(matches!(refused, Impostor::EpochOfAnother { node } if node == epoch), "{refused}");
    }
    control.watch_peer(epoch, own()).unwrap();
}
