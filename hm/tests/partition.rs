//! Two hosts in network namespaces of their own: the wire between them is cut for ten seconds and mended, in full stream.

use hivemind::Node;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The bound of every wait: far beyond anything that is waited for.
const LONG: Duration = Duration::from_secs(60);
const CUT: Duration = Duration::from_secs(10);

fn run(arguments: &[&str]) -> bool {
    let done = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// Two namespaces with a wire between them; gone when dropped.
struct Wire {
    near: String,
    far: String,
}

impl Wire {
    /// `None`: this machine does not let us.
    fn new() -> Option<Wire> {
        let pid = std::process::id();
        let wire = Wire { near: format!("hm-{pid}-near"), far: format!("hm-{pid}-far") };
        let (near, far) = (&*wire.near, &*wire.far);
        let (one, other) = (format!("hm{pid}n"), format!("hm{pid}f"));
        let made = run(&["netns", "add", near])
            && run(&["netns", "add", far])
            && run(&[
                "link", "add", &one, "netns", near, "type", "veth", "peer", "name", &other, "netns", far,
            ])
            && run(&["-n", near, "address", "add", "10.77.0.1/24", "dev", &one])
            && run(&["-n", far, "address", "add", "10.77.0.2/24", "dev", &other])
            && run(&["-n", near, "link", "set", &one, "up"])
            && run(&["-n", far, "link", "set", &other, "up"]);
        made.then_some(wire)
    }

    fn set(&self, state: &str) {
        let device = format!("hm{}n", std::process::id());
        assert!(run(&["-n", &self.near, "link", "set", &device, state]));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        run(&["netns", "delete", &self.near]);
        run(&["netns", "delete", &self.far]);
    }
}

/// With what it says, or it could not say it.
struct Root(Child, #[expect(dead_code, reason = "held open")] BufReader<ChildStdout>);

impl Root {
    fn start(namespace: &str, folder: &Path, arguments: &[&str]) -> Root {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_hm")]).arg("--dir").arg(folder);
        let mut child = command.arg("root").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut first).unwrap();
        assert!(first.contains("root of hive"), "{first}");
        Root(child, said)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_wire_that_is_cut_and_mended_costs_a_reliable_service_nothing() {
    let Some(wire) = Wire::new() else {
        eprintln!(
            "SKIPPED: this machine does not let us make network namespaces (needs `ip` and the right to use it)"
        );
        return;
    };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [near, far] = [folders[0].path(), folders[1].path()];
    let _near = Root::start(&wire.near, near, &["--listen", "10.77.0.1:7700", "--plain-text", "near"]);
    let _far = Root::start(&wire.far, far, &["--peer", "10.77.0.1:7700", "--plain-text", "far"]);
    let join = |name: &str, folder: &Path| {
        Node::builder(name).dir(folder).external_root().patience(LONG).join().unwrap()
    };
    let (speaker, listener) = (join("speaker", near), join("listener", far));
    let mut reliable =
        speaker.publisher_builder::<u64>("reliable").reliable().capacity(65_536).create().unwrap();
    let mut lossy = speaker.publisher_builder::<u64>("lossy").create().unwrap();
    let mut hear_all = listener.subscriber::<u64>("reliable").unwrap();
    let mut hear_some = listener.subscriber::<u64>("lossy").unwrap();
    hear_all.wait_for_publishers(1, LONG).unwrap();
    hear_some.wait_for_publishers(1, LONG).unwrap();
    reliable.wait_for_subscribers(1, LONG).unwrap();
    lossy.wait_for_subscribers(1, LONG).unwrap();

    let mut sent = 0u64;
    let mut send = |count: u64| {
        for _ in 0..count {
            reliable.send_timeout(&sent, LONG).unwrap();
            lossy.send(&sent).unwrap();
            sent += 1;
        }
        sent
    };
    let mut expected = 0u64;
    let mut hear = |up_to: u64| {
        while expected < up_to {
            let sample = hear_all.recv_timeout(LONG).unwrap().expect("it comes");
            assert_eq!(*sample, expected);
            expected += 1;
        }
    };
    let before = send(1000);
    hear(before);
    wire.set("down");
    let cut = Instant::now();
    while cut.elapsed() < CUT {
        send(10);
        std::thread::sleep(Duration::from_millis(10));
    }
    let published = send(1);
    wire.set("up");
    let mended = Instant::now();
    hear(before + 1);
    println!("flow again {:?} after it was mended, {published} published", mended.elapsed());
    hear(published);
    assert_eq!(hear_all.lost(), 0);

    // The lossy one has lost what its ring no longer had, and each of them is counted.
    let last = send(1000);
    drop(lossy);
    let begun = Instant::now();
    let ended = loop {
        while hear_some.try_recv().unwrap().is_some() {}
        if let Some(ended) = hear_some.connections().into_iter().find(|connection| connection.ended) {
            break ended;
        }
        assert!(begun.elapsed() < LONG, "its end arrives: {:?}", hear_some.connections());
        std::thread::yield_now();
    };
    assert_eq!(ended.received + ended.lost, last, "{ended:?}");
    assert!(ended.lost > 0, "ten seconds were no loss: {ended:?}");
}
