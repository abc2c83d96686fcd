//! Hosts as real processes: `hm root` with links, keys that `hm key` has made, and what happens when one is
//! killed.

use hivemind::{Node, message};
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(60);

/// A message that says which one it is, and whose words follow from that.
#[message]
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Which one.
    pub number: u64,
    /// Its words.
    pub bytes: Vec<u64>,
}

fn block(number: u64, words: u64) -> Block {
    Block { number, bytes: (0..words).map(|at| number.wrapping_mul(0x9e37_79b9) ^ at).collect() }
}

fn hm(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hm"));
    command.arg("--dir").arg(folder);
    for variable in ["HIVEMIND_DIR", "HIVEMIND_OWNER", "HIVEMIND_REMOTE", "HIVEMIND_KEY"] {
        command.env_remove(variable);
    }
    command
}

fn key(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hm")).arg("key").args(arguments).output().unwrap()
}

/// A host: a hive in a folder of its own, and its root, which can be killed and started again.
struct Host {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    root: Option<Child>,
    address: Option<String>,
    node: Option<Node>,
}

impl Host {
    fn start(name: &str, arguments: &[&str]) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut host = Host { folder, arguments, root: None, address: None, node: None };
        host.start_root();
        let node = Node::builder(name).dir(host.folder.path()).external_root().patience(LONG).join().unwrap();
        host.node = Some(node);
        host
    }

    fn start_root(&mut self) {
        let mut command = hm(self.folder.path());
        command.arg("root").args(&self.arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines: Lines<BufReader<ChildStdout>> = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("it says where it is").unwrap();
        assert!(first.contains("root of hive"), "{first}");
        if self.arguments.iter().any(|argument| argument == "--listen") {
            let line = lines.next().expect("it says where it listens").unwrap();
            self.address = Some(line.strip_prefix("links: listening on ").expect("an address").to_owned());
        }
        // Nobody reads on; what it says at its end fits into the pipe.
        std::mem::forget(lines);
        self.root = Some(child);
    }

    fn kill_root(&mut self) {
        let mut root = self.root.take().unwrap();
        root.kill().unwrap();
        root.wait().unwrap();
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.node.take());
        if let Some(root) = &mut self.root {
            let _ = root.kill();
            let _ = root.wait();
        }
    }
}

struct Keys(tempfile::TempDir);

impl Keys {
    fn new(hosts: &[&str]) -> Keys {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert!(key(&["new", path]).status.success());
        for host in hosts {
            assert!(key(&["issue", path, host]).status.success());
        }
        Keys(folder)
    }

    fn of(&self, host: &str) -> String {
        self.0.path().join(format!("{host}.pem")).to_str().unwrap().to_owned()
    }
}

#[test]
fn keys_are_made_shown_and_refused_in_words() {
    let keys = Keys::new(&["robot"]);
    let output = key(&["show", &keys.of("robot")]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("the key of host robot"), "{output:?}");
    let output = key(&["issue", keys.0.path().to_str().unwrap(), "robot"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"), "{output:?}");

    let folder = tempfile::tempdir().unwrap();
    let output = hm(folder.path()).args(["root", "--listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--key") && said.contains("--plain-text"), "{said}");
    let output = hm(folder.path()).args(["root", "--listen", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the port is missing"), "{output:?}");
    // An address that is not of this machine.
    let arguments = ["root", "--listen", "192.0.2.1:1", "--key", &keys.of("robot")];
    let output = hm(folder.path()).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot listen on 192.0.2.1:1"), "{output:?}");
}

/// Streams large messages from one host to the other, while `hit` is done to one of the roots again and again
/// in the middle of them. What arrives is whole and in order, and it goes on arriving.
fn stream_through(keys: &Keys, mut hit: impl FnMut(&mut Host, &mut Host)) {
    let mut a = Host::start("camera", &["--listen", "127.0.0.1:0", "--key", &keys.of("a")]);
    let address = a.address.clone().unwrap();
    // From now on it listens where it did first.
    a.arguments[1] = address.clone();
    let mut b = Host::start("viewer", &["--peer", &address, "--key", &keys.of("b")]);
    let mut subscriber = b.node().subscriber::<Block>("blocks").unwrap();
    let mut publisher = a.node().publisher_builder::<Block>("blocks").capacity(4).create().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut number = 0;
            // Relaxed: a wish to stop.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                publisher.send(&block(number, 100_000)).unwrap();
                number += 1;
            }
        });
        let mut last = None;
        let mut hear = |count: usize| {
            let begun = Instant::now();
            for _ in 0..count {
                let sample = loop {
                    if let Some(sample) = subscriber.recv_timeout(Duration::from_millis(200)).unwrap() {
                        break sample.to_owned().unwrap();
                    }
                    assert!(begun.elapsed() < LONG, "nothing arrives any more");
                };
                assert_eq!(sample, block(sample.number, 100_000), "it is torn");
                assert!(last.is_none_or(|last| last < sample.number), "{} after {last:?}", sample.number);
                last = Some(sample.number);
            }
        };
        hear(5);
        for _ in 0..4 {
            hit(&mut a, &mut b);
            hear(5);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        publishing.join().unwrap();
    });
}

#[test]
fn a_root_that_receives_is_killed_in_the_middle_of_large_messages() {
    let keys = Keys::new(&["a", "b"]);
    stream_through(&keys, |_, b| {
        b.kill_root();
        b.start_root();
    });
}

#[test]
fn a_root_that_sends_is_killed_in_the_middle_of_large_messages() {
    let keys = Keys::new(&["a", "b"]);
    stream_through(&keys, |a, _| {
        a.kill_root();
        a.start_root();
    });
}

/// What was on the way, or kept to be sent again, is gone with the process that had it; the publisher's
/// numbers tell how much that is.
#[test]
fn what_a_killed_root_had_is_counted_as_lost_though_the_service_is_reliable() {
    let keys = Keys::new(&["a", "b"]);
    let mut a = Host::start("speaker", &["--listen", "127.0.0.1:0", "--key", &keys.of("a")]);
    let address = a.address.clone().unwrap();
    a.arguments[1] = address.clone();
    let mut b = Host::start("listener", &["--peer", &address, "--key", &keys.of("b")]);
    let mut publisher = a.node().publisher_builder::<Block>("blocks").reliable().create().unwrap();
    let mut subscriber = b.node().subscriber::<Block>("blocks").unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    let mut next = 0;
    for round in 0..4 {
        for _ in 0..500 {
            let _ = publisher.send(&block(publisher.published(), 200));
        }
        let victim = if round % 2 == 0 { &mut b } else { &mut a };
        victim.kill_root();
        victim.start_root();
        let before = publisher.published();
        let begun = Instant::now();
        // Somebody who comes later hears nothing of what was before, so it goes on until that is so.
        loop {
            if next <= before {
                let _ = publisher.send(&block(publisher.published(), 200));
            }
            while let Some(sample) = subscriber.try_recv().unwrap() {
                let number = sample.to_owned().unwrap().number;
                assert!(number >= next, "{number} after {next}");
                next = number + 1;
            }
            let connections = subscriber.connections();
            let live = connections.iter().filter(|connection| !connection.ended).count();
            if next > before && next == publisher.published() && live == 1 {
                break;
            }
            assert!(begun.elapsed() < LONG, "heard {next} of {before}: {connections:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let (received, lost) = (subscriber.received(), subscriber.lost());
        println!("round {round}: received {received}, lost {lost}");
        assert_eq!(received + lost, publisher.published(), "{:?}", subscriber.connections());
    }
}

/// What crosses which link is said by the policy of the hive, and a change counts at once.
#[test]
fn the_policy_says_what_crosses() {
    let keys = Keys::new(&["a", "b"]);
    let a = Host::start("camera", &["--listen", "127.0.0.1:0", "--key", &keys.of("a")]);
    let policy = a.folder.path().join("default/policy");
    let write = |text: &str| {
        let new = policy.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &policy).unwrap();
    };
    write("allow host:b subscribe open/*");
    let b = Host::start("viewer", &["--peer", a.address.as_ref().unwrap(), "--key", &keys.of("b")]);
    let open = a.node().publisher::<Block>("open/blocks").unwrap();
    let closed = a.node().publisher::<Block>("closed/blocks").unwrap();
    let wanted = b.node().subscriber::<Block>("**").unwrap();
    wanted.wait_for_publishers(1, LONG).unwrap();
    wanted.wait_for_publishers(2, Duration::from_millis(300)).unwrap_err();
    assert_eq!((open.subscribers(), closed.subscribers()), (1, 0));
    // Nothing that b publishes may come in.
    let _back = b.node().publisher::<Block>("open/back").unwrap();
    let back = a.node().subscriber::<Block>("open/back").unwrap();
    back.wait_for_publishers(1, Duration::from_millis(300)).unwrap_err();

    write("allow host:b subscribe **");
    wanted.wait_for_publishers(3, LONG).unwrap();
    write("allow host:b subscribe closed/*");
    let begun = Instant::now();
    while open.subscribers() > 0 {
        assert!(begun.elapsed() < LONG, "the link lets go of what is not allowed any more");
        std::thread::yield_now();
    }
}

/// With a key of another hive nothing is said but no, and local traffic does not notice.
#[test]
fn a_host_of_another_hive_gets_nothing() {
    let (keys, others) = (Keys::new(&["a"]), Keys::new(&["b"]));
    let a = Host::start("camera", &["--listen", "127.0.0.1:0", "--key", &keys.of("a")]);
    let address = a.address.clone().unwrap();
    let b = Host::start("viewer", &["--peer", &address, "--key", &others.of("b")]);
    let mut publisher = a.node().publisher::<Block>("blocks").unwrap();
    let subscriber = b.node().subscriber::<Block>("blocks").unwrap();
    let mut here = a.node().subscriber::<Block>("blocks").unwrap();
    here.wait_for_publishers(1, LONG).unwrap();
    subscriber.wait_for_publishers(1, Duration::from_millis(500)).unwrap_err();
    publisher.send(&block(1, 10)).unwrap();
    assert_eq!(here.recv_timeout(LONG).unwrap().unwrap().number, 1);
    // A remote node hears why.
    let nowhere = tempfile::tempdir().unwrap();
    let leaf = Node::builder("leaf").dir(nowhere.path()).patience(Duration::from_millis(500));
    let error = leaf.remote(&address, Some(Path::new(&others.of("b")))).join().unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("key of the same hive"), "{error}");
}

/// A program that knows of no other host prints what is published there, because its environment says where
/// that is.
#[test]
fn a_program_joins_over_the_socket_when_the_environment_says_so() {
    let keys = Keys::new(&["robot", "arm"]);
    let robot = Host::start("speaker", &["--listen", "127.0.0.1:0", "--key", &keys.of("robot")]);
    let mut publisher = robot.node().publisher_builder::<u64>("ticks").reliable().create().unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let mut echo = hm(nowhere.path())
        .env("HIVEMIND_REMOTE", robot.address.as_ref().unwrap())
        .env("HIVEMIND_KEY", keys.of("arm"))
        .args(["echo", "ticks", "--count", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    for number in 70..73u64 {
        publisher.send_timeout(&number, LONG).unwrap();
    }
    assert!(echo.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut echo.stdout.take().unwrap(), &mut said).unwrap();
    assert!(["70", "71", "72"].iter().all(|number| said.contains(number)), "{said}");
}

#[test]
fn a_remote_node_with_a_key_joins_over_the_socket() {
    let keys = Keys::new(&["a", "leaf"]);
    let a = Host::start("camera", &["--listen", "127.0.0.1:0", "--key", &keys.of("a")]);
    let nowhere = tempfile::tempdir().unwrap();
    let leaf = Node::builder("leaf").dir(nowhere.path()).patience(LONG);
    let leaf = leaf.remote(a.address.as_ref().unwrap(), Some(Path::new(&keys.of("leaf")))).join().unwrap();
    let mut publisher = a.node().publisher_builder::<Block>("blocks").reliable().create().unwrap();
    let mut subscriber = leaf.subscriber::<Block>("blocks").unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    publisher.wait_for_subscribers(1, LONG).unwrap();
    for number in 0..50 {
        publisher.send_timeout(&block(number, number * 100), LONG).unwrap();
        let sample = subscriber.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(sample.to_owned().unwrap(), block(number, number * 100));
        assert_eq!(sample.origin().host(), Some("a"));
    }
    // It is shown with its host.
    let _back = leaf.publisher::<Block>("back").unwrap();
    let nearby = a.node().subscriber::<Block>("back").unwrap();
    nearby.wait_for_publishers(1, LONG).unwrap();
    let output = hm(a.folder.path()).args(["ls", "--interval", "0"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("leaf@leaf"), "{shown}");
    // Where the hive can be reached, a socket is not needed.
    let here = Node::builder("here").dir(a.folder.path()).remote("127.0.0.1:1", None).join().unwrap();
    let nearby = here.subscriber::<Block>("blocks").unwrap();
    nearby.wait_for_publishers(1, LONG).unwrap();
}
