//! Roots and nodes die by SIGKILL, in processes of their own, and the hive goes on.
//!
//! The test binary starts itself again as a node (`child`, below) and kills it. The times it prints are
//! measured, not asserted; run it with `cargo test --release -p hivemind-ipc-core --test takeover --
//! --nocapture --test-threads 1`.
mod recorder;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hivemind_core::name::HiveName;
use hivemind_ring::os::{open_pidfd, receive};
use hivemind_runtime::root::{ServeOptions, StopHandle, serve_root};
use hivemind_runtime::runtime_dir::RuntimeDir;
use hivemind_runtime::session::{JoinError, RootRole, WaitedFor};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use recorder::raw::{FalseRoot, Raw};
use recorder::{Heard, Node, files, hive, wait_for};

const DIR: &str = "HIVEMIND_TEST_DIR";
const NAME: &str = "HIVEMIND_TEST_NAME";

/// What a process that a test started does, told so by its environment: it joins, announces itself, says so,
/// and lives until its input ends. Without that environment there is nothing to do.
#[test]
fn child() {
    let Some(base) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let dir = RuntimeDir::at(&base, &HiveName::default()).unwrap();
    let name = std::env::var(NAME).unwrap();
    if name == "dedicated" {
        println!("ready");
        serve_root(&dir, ServeOptions::default(), &StopHandle::new().unwrap()).unwrap();
        return;
    }
    if name == "listener" {
        // A root that has just died, as its forked child would leave it: the socket still listens.
        let root = FalseRoot::listen(dir.root_socket());
        Raw::connect(&base.join("pass")).send(b"listener", &[root.as_raw_fd()]).unwrap();
        println!("ready");
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let node = Node::join(&dir, &name);
    let mut hoard = Vec::new();
    if name == "hoarder" {
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        println!("ready");
        let _ = std::io::stdin().read(&mut [0]);
        hoard.clear();
        println!("ready");
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    node.offer(1, &format!("from/{name}"), 5).unwrap();
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(base: &tempfile::TempDir, name: &str) -> Process {
        let program = std::env::current_exe().unwrap();
        Process::start_as(base, name, Command::new(program))
    }

    fn start_as(base: &tempfile::TempDir, name: &str, mut command: Command) -> Process {
        let mut child = command
            .args(["--exact", "child", "--nocapture"])
            .env(DIR, base.path())
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut process = Process { child, output };
        process.wait_ready();
        process
    }

    fn wait_ready(&mut self) {
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "ended before it was ready");
        }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Kills it; it stays a zombie until it is dropped.
    fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

fn wait_dead(process: &Process) {
    let pidfd = open_pidfd(process.pid()).unwrap();
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: n {} p50 {:?} p90 {:?} max {:?}", times.len(), at(0.5), at(0.9), at(1.0));
}

#[test]
fn a_killed_root_is_succeeded_and_the_next_join_is_served() {
    for bystanders in [0, 3] {
        let (mut to_join, mut to_list) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let (base, dir) = hive();
            let root = Process::start(&base, "root");
            let others: Vec<Process> =
                (0..bystanders).map(|number| Process::start(&base, &format!("bystander{number}"))).collect();
            let begun = Instant::now();
            root.kill();
            let newcomer = Node::join(&dir, "newcomer");
            to_join.push(begun.elapsed());
            assert_ne!(newcomer.session.root_pid(), Some(root.pid()));
            assert_eq!(newcomer.session.root_epoch(), 2, "one take-over, not two");
            // Everybody who lives is announced again, the dead is not, and one process hosts the root.
            wait_for("all roll calls", || newcomer.session.list().unwrap().nodes.len() == others.len() + 1);
            to_list.push(begun.elapsed());
            let listing = newcomer.session.list().unwrap();
            assert_eq!(listing.nodes.iter().filter(|node| node.hosts_root).count(), 1);
            assert_eq!(listing.root_epoch, 2);
        }
        print_times(&format!("root killed to next join, {bystanders} bystanders"), to_join);
        print_times(&format!("root killed to all announced again, {bystanders} bystanders"), to_list);
    }
}

#[test]
fn nodes_outlive_many_roots() {
    let (base, dir) = hive();
    let first = Process::start(&base, "root0");
    let camera = Node::join(&dir, "camera");
    let viewer = Node::join(&dir, "viewer");
    camera.offer(1, "a", 5).unwrap();
    viewer.demand(1, "a", None).unwrap();
    viewer.wait_attached(1, camera.end(1));
    drop(first);
    wait_for("a successor", || camera.session.root_epoch() == 2 && viewer.session.root_epoch() == 2);
    // From now on dedicated roots come and are killed; the nodes fill in between.
    for _ in 0..5 {
        let before = camera.session.root_epoch();
        let root = Process::start(&base, "dedicated");
        wait_for("the dedicated root", || {
            camera.session.root_pid() == Some(root.pid()) && viewer.session.root_pid() == Some(root.pid())
        });
        assert!(!camera.session.hosts_root() && !viewer.session.hosts_root());
        drop(root);
        wait_for("a node taking over", || {
            let nodes = [&camera, &viewer];
            nodes.iter().all(|node| node.session.root_pid() == Some(std::process::id() as i32))
        });
        assert_eq!(camera.session.root_epoch(), before + 2);
    }
    let index = 2;
    camera.offer(index, "a", 5).unwrap();
    viewer.wait_attached(1, camera.end(index));
    assert_eq!(viewer.matches(1), 2, "one match for each pair over all roots");
    let gone = viewer.side.count(|heard| matches!(heard, Heard::PeerGone { .. }));
    assert_eq!(gone, 0, "a dead root is no dead peer");
}

#[test]
fn the_name_of_a_dead_node_is_free_at_once() {
    let (base, dir) = hive();
    let _host = Node::join(&dir, "host");
    for _ in 0..20 {
        let process = Process::start(&base, "worker");
        assert!(matches!(
            Node::try_join(&dir, "worker", |_| {}),
            Err(JoinError::NodeNameTaken { pid, .. }) if pid == process.pid()
        ));
        process.kill();
        // The kernel says when a process is dead; then the name is free, before any clean-up of anybody.
        wait_dead(&process);
        drop(Node::join(&dir, "worker"));
    }
}

#[test]
fn the_death_of_a_peer_is_told_by_the_kernel() {
    let (base, dir) = hive();
    let viewer = Node::join(&dir, "viewer");
    viewer.demand(1, "from/*", None).unwrap();
    let mut times = Vec::new();
    for round in 0..20 {
        let process = Process::start(&base, "camera");
        viewer.side.wait_until("attached", |state| {
            let attached = |heard: &&Heard| matches!(heard, Heard::Attached { .. });
            state.heard.iter().filter(attached).count() == round + 1
        });
        let begun = Instant::now();
        process.kill();
        viewer.side.wait_until("the death", |state| {
            let gone = |heard: &&Heard| matches!(heard, Heard::PeerGone { .. });
            state.heard.iter().filter(gone).count() == round + 1
        });
        times.push(begun.elapsed());
    }
    print_times("peer killed to peer_gone", times);
}

#[test]
fn a_forgotten_peer_is_not_watched() {
    let (base, dir) = hive();
    let viewer = Node::join(&dir, "viewer");
    viewer.demand(1, "from/*", None).unwrap();
    let attached = |heard: &Heard| match heard {
        Heard::Attached { publisher, .. } => Some(publisher.node),
        _ => None,
    };
    let (one, two) = (Process::start(&base, "one"), Process::start(&base, "two"));
    viewer.side.wait_until("both", |state| state.heard.iter().filter_map(attached).count() == 2);
    let nodes: Vec<u64> = viewer.side.heard().iter().filter_map(attached).collect();
    viewer.session.forget(nodes[0]);
    // The answer to a question comes after the command before it.
    viewer.session.list().unwrap();
    drop((one, two));
    viewer.side.wait_until("one death", |state| state.heard.contains(&Heard::PeerGone { node: nodes[1] }));
    assert!(!viewer.side.heard().contains(&Heard::PeerGone { node: nodes[0] }));
}

// A thread of the user sees the last connection with a peer end and says so; meanwhile the next one is
// attached. Once the peer was forgotten all the same, and its death was never noticed.
#[test]
fn a_peer_with_a_connection_is_watched_whoever_says_that_it_may_be_forgotten() {
    let (base, dir) = hive();
    let viewer = Node::join(&dir, "viewer");
    viewer.demand(1, "from/*", None).unwrap();
    let attached = |heard: &Heard| match heard {
        Heard::Attached { publisher, .. } => Some(publisher.node),
        _ => None,
    };
    let process = Process::start(&base, "camera");
    viewer.side.wait_until("attached", |state| state.heard.iter().any(|heard| attached(heard).is_some()));
    let node = viewer.side.heard().iter().find_map(attached).unwrap();
    *viewer.side.acquaintances.lock().unwrap() = Some([node].into());
    viewer.session.forget(node);
    // The answer to a question comes after the command before it.
    viewer.session.list().unwrap();
    drop(process);
    viewer.side.wait_until("the death", |state| state.heard.contains(&Heard::PeerGone { node }));
}

#[test]
fn after_the_death_of_all_only_socket_and_lock_are_left_and_the_next_start_works_at_once() {
    let (base, dir) = hive();
    for round in 1..4 {
        let all: Vec<Process> = (0..4).map(|number| Process::start(&base, &format!("n{number}"))).collect();
        for process in &all {
            process.kill();
        }
        drop(all);
        assert_eq!(files(&dir), ["root.lock", "root.sock"]);
        let node = Node::join(&dir, "next");
        assert!(node.session.hosts_root() && node.session.root_epoch() > round);
        assert_eq!(node.session.list().unwrap().nodes.len(), 1);
    }
}

#[test]
fn a_stopped_root_is_alive_and_named() {
    let (base, dir) = hive();
    let root = Process::start(&base, "root");
    root.signal(Signal::SIGSTOP);
    let status = waitpid(Pid::from_raw(root.pid()), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(status, WaitStatus::Stopped(_, Signal::SIGSTOP)));
    let error = Node::try_join(&dir, "node", |config| config.patience = Duration::from_millis(30));
    let error = error.err().unwrap();
    assert!(
        matches!(&error, JoinError::NoRoot { what: WaitedFor::Answer { pid }, .. } if *pid == root.pid()),
        "{error}"
    );
    root.signal(Signal::SIGCONT);
    assert_eq!(Node::join(&dir, "node").session.root_pid(), Some(root.pid()));
}

#[test]
fn a_hive_starts_from_nothing_with_any_number_of_nodes_at_once() {
    let mut times = Vec::new();
    for _ in 0..10 {
        let (_base, dir) = hive();
        let begun = Instant::now();
        let nodes: Vec<Node> = std::thread::scope(|scope| {
            let joining: Vec<_> = (0..8)
                .map(|number| {
                    let dir = &dir;
                    scope.spawn(move || Node::join(dir, &format!("n{number}")))
                })
                .collect();
            joining.into_iter().map(|joining| joining.join().unwrap()).collect()
        });
        times.push(begun.elapsed());
        assert_eq!(nodes.iter().filter(|node| node.session.hosts_root()).count(), 1);
        assert!(nodes.iter().all(|node| node.session.root_epoch() == 1));
        assert_eq!(nodes[0].session.list().unwrap().nodes.len(), 8);
    }
    print_times("8 nodes from nothing", times);
    let (_base, dir) = hive();
    let cold = (0..20).map(|_| {
        let begun = Instant::now();
        drop(Node::join(&dir, "cold"));
        begun.elapsed()
    });
    print_times("cold start, join and leave", cold.collect());
}

/// A process forked by the host of the root may outlive it and keep its listening socket. Connecting to that
/// works, and nobody would ever answer; but the kernel says that the process that listened is gone.
#[test]
fn the_socket_of_a_dead_root_in_another_process_is_no_root() {
    let (base, dir) = hive();
    let pass = FalseRoot::listen(&base.path().join("pass"));
    let process = Process::start(&base, "listener");
    let (mut buffer, mut kept) = ([0; 16], Vec::new());
    let raw = pass.accept();
    assert_eq!(receive(raw.as_fd(), &mut buffer, &mut kept).unwrap().length, 8);
    assert_eq!(kept.len(), 1);
    process.kill();
    wait_dead(&process);
    Raw::connect(dir.root_socket());
    let node = Node::join(&dir, "node");
    assert!(node.session.hosts_root());
}

#[test]
fn a_host_without_descriptors_refuses_in_words_and_recovers() {
    let (base, dir) = hive();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    let mut hoarder = Process::start_as(&base, "hoarder", command);
    let error = Node::try_join(&dir, "node", |config| config.patience = Duration::from_millis(500));
    let error = error.err().unwrap().to_string();
    let named = format!("process {}, which hosts the root, has no file descriptors left", hoarder.pid());
    assert!(error.contains(&named), "{error}");
    hoarder.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    hoarder.wait_ready();
    assert_eq!(Node::join(&dir, "node").session.root_pid(), Some(hoarder.pid()));
}

/// The root goes at any moment of an announcement, also while the thread that announces has taken over the
/// work of the control thread. One that lost the link there once left nobody to seek the next root.
#[test]
fn a_thread_that_announces_goes_on_under_each_next_root() {
    const ROOTS: u32 = 6;
    const ENDS_UNDER_EACH: u32 = 20;
    let (_base, dir) = hive();
    let hosts: Vec<Node> = (0..ROOTS).map(|number| Node::join(&dir, &format!("host-{number}"))).collect();
    let guest = Node::try_join(&dir, "guest", |config| config.root = RootRole::Guest).unwrap();
    let announced = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..ROOTS * ENDS_UNDER_EACH {
                guest.offer(index, &format!("s/{index}"), 5).unwrap();
                announced.store(index + 1, Ordering::SeqCst);
            }
        });
        for number in 1..ROOTS {
            wait_for("the next announcements", || {
                announced.load(Ordering::SeqCst) >= number * ENDS_UNDER_EACH
            });
            let host = hosts.iter().find(|host| host.session.hosts_root());
            // Between two roots there is none for a moment; then the next round ends one.
            if let Some(host) = host {
                host.session.leave();
            }
        }
    });
    // The last root may still be hearing the roll call.
    let all = (ROOTS * ENDS_UNDER_EACH) as usize;
    wait_for("all ends at the last root", || guest.session.list().unwrap().publishers.len() == all);
}
