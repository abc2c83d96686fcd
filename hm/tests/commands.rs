//! The commands of `hm` as a user runs them: the real program, in a runtime directory of its own.
//!
//! The other side of each test is a node in this very process. What is waited for is a line of output, the
//! end of a program, or a peer; nothing sleeps.

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use hivemind::{Node, message};
use serde_json::Value;

/// Far more than anything here takes; only so that a broken test ends.
const LONG: Duration = Duration::from_secs(60);

#[message]
#[derive(Debug, Clone, PartialEq)]
struct Pose {
    id: u64,
    at: Point,
    frame: String,
    tags: Vec<Option<u8>>,
}

#[message]
#[derive(Debug, Clone, PartialEq)]
struct Point {
    x: f64,
    y: f64,
}

#[message]
#[derive(Debug, Clone, PartialEq)]
enum Mood {
    Calm,
    Alarmed { level: u8 },
}

fn pose(id: u64) -> Pose {
    Pose { id, at: Point { x: 0.5, y: -2.0 }, frame: "map".to_owned(), tags: vec![Some(1), None] }
}

fn hm(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hm"));
    command.env_remove("HIVEMIND_DIR").env_remove("RUST_LOG").arg("--dir").arg(dir).stdin(Stdio::null());
    command
}

fn join(dir: &Path, name: &str) -> Node {
    Node::builder(name).dir(dir).patience(LONG).join().expect("the node joins")
}

/// A program that runs beside the test; killed at its end.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the program ended too early").unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

fn sentence(output: &Output) -> &str {
    text(&output.stderr).trim()
}

fn interrupt(child: &Child) {
    signal(child, "INT");
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let status =
        Command::new("kill").arg(format!("-{signal}")).arg(&pid).status().expect("there is a kill command");
    assert!(status.success());
}

#[test]
fn echo_prints_messages_of_types_it_was_not_compiled_with() {
    let dir = tempfile::tempdir().unwrap();
    let node = join(dir.path(), "camera");
    let mut poses = node.publisher::<Pose>("sensors/pose").unwrap();
    let mut moods = node.publisher::<Mood>("sensors/mood").unwrap();
    let mut raw = node.publisher::<[u8]>("sensors/raw").unwrap();
    let mut other = node.publisher::<Pose>("elsewhere/pose").unwrap();
    let mut echo = Running::start(hm(dir.path()).args(["echo", "sensors/*", "--count", "4"]));
    poses.wait_for_subscribers(1, LONG).unwrap();
    moods.wait_for_subscribers(1, LONG).unwrap();
    raw.wait_for_subscribers(1, LONG).unwrap();

    let mut next = || serde_json::from_str::<Value>(&echo.line()).expect("a line is one JSON object");
    other.send(&pose(0)).unwrap();
    poses.send(&pose(7)).unwrap();
    let line = next();
    assert_eq!((line["service"].as_str(), line["node"].as_str()), (Some("sensors/pose"), Some("camera")));
    assert_eq!(line["sequence"], 0);
    assert_eq!(line["publisher"], poses.id().to_string());
    let expected =
        serde_json::json!({ "id": 7, "at": { "x": 0.5, "y": -2.0 }, "frame": "map", "tags": [1, null] });
    assert_eq!(line["message"], expected);
    moods.send(&Mood::Alarmed { level: 3 }).unwrap();
    assert!(next()["message"].to_string().contains("Alarmed"));
    moods.send(&Mood::Calm).unwrap();
    let line = next();
    assert!(line["message"].to_string().contains("Calm") && line["sequence"] == 1, "{line}");
    raw.send(&[1, 2, 3]).unwrap();
    assert_eq!(next()["service"], "sensors/raw");
    assert!(echo.child.wait().unwrap().success(), "after four messages it ends");
}

#[test]
fn echo_ends_quietly_when_nobody_reads_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let node = join(dir.path(), "camera");
    let mut poses = node.publisher::<Pose>("sensors/pose").unwrap();
    let mut command = hm(dir.path());
    let mut child = command
        .args(["echo", "**"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    poses.wait_for_subscribers(1, LONG).unwrap();
    poses.send(&pose(1)).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    drop(lines);
    // Each message is written at once, since no other waits; the first write after the reader left ends the
    // program.
    while child.try_wait().unwrap().is_none() {
        poses.send(&pose(2)).unwrap();
        std::thread::yield_now();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = sentence(&output);
    assert!(told.lines().all(|line| line.contains("lost")), "nothing but what was lost may be told: {told}");
}

#[test]
fn echo_leaves_the_hive_on_interrupt() {
    let dir = tempfile::tempdir().unwrap();
    let node = join(dir.path(), "camera");
    let mut poses = node.publisher::<Pose>("sensors/pose").unwrap();
    let mut echo = Running::start(hm(dir.path()).args(["echo", "**"]));
    poses.wait_for_subscribers(1, LONG).unwrap();
    poses.send(&pose(1)).unwrap();
    echo.line();
    interrupt(&echo.child);
    assert!(echo.child.wait().unwrap().success());
}

#[test]
fn ls_shows_who_is_there_and_how_far_everybody_is() {
    let dir = tempfile::tempdir().unwrap();
    let camera = join(dir.path(), "camera");
    let listener = join(dir.path(), "listener");
    let mut poses =
        camera.publisher_builder::<Pose>("sensors/pose").reliable().capacity(64).create().unwrap();
    let mut subscriber = listener.subscriber::<Pose>("sensors/*").unwrap();
    let _lonely = listener.subscriber::<Pose>("nobody/publishes/this").unwrap();
    poses.wait_for_subscribers(1, LONG).unwrap();
    subscriber.wait_for_publishers(1, LONG).unwrap();
    for id in 0..10 {
        poses.send(&pose(id)).unwrap();
    }
    for _ in 0..4 {
        drop(subscriber.recv().unwrap().unwrap());
    }

    let output = hm(dir.path()).args(["ls", "--json", "--interval", "0"]).output().unwrap();
    assert!(output.status.success(), "{}", sentence(&output));
    let shown: Value = serde_json::from_str(text(&output.stdout)).unwrap();
    assert_eq!(shown["hive"], "default");
    assert_eq!(shown["root"]["pid"], std::process::id());
    let names: Vec<&Value> = shown["nodes"].as_array().unwrap().iter().map(|node| &node["node"]).collect();
    assert_eq!(names, ["camera", "listener"], "whoever only looks is not shown");
    let service = &shown["services"][0];
    assert_eq!(
        (service["service"].as_str(), service["node"].as_str()),
        (Some("sensors/pose"), Some("camera"))
    );
    assert!(service["type"].as_str().unwrap().ends_with("Pose"));
    assert_eq!((&service["published"], &service["reliable"]), (&10.into(), &true.into()));
    assert_eq!((&service["capacity"], &service["subscribers"]), (&64.into(), &1.into()));
    assert_eq!(service["per_second"], Value::Null, "one look gives no rates");
    let of = |filter: &str| {
        let all = shown["subscriptions"].as_array().unwrap();
        all.iter()
            .find(|row| row["filter"] == filter)
            .unwrap_or_else(|| panic!("{filter} is missing: {shown}"))
    };
    let subscription = of("sensors/*");
    assert_eq!(
        (&subscription["node"], &subscription["service"]),
        (&"listener".into(), &"sensors/pose".into())
    );
    assert_eq!((&subscription["received"], &subscription["lag"]), (&4.into(), &6.into()));
    assert_eq!(subscription["lost"], 0);
    assert_eq!(of("nobody/publishes/this")["service"], Value::Null);

    // Looking disturbed nobody: the rest is still there.
    for id in 4..10 {
        assert_eq!(subscriber.recv().unwrap().unwrap().id, id);
    }
}

/// Two builds of one program, one with a field more. `hm ls` said that nobody publishes.
mod older {
    #[hivemind::message]
    #[derive(Debug)]
    pub(crate) struct Pose {
        id: u64,
        at: super::Point,
        frame: String,
    }
}

#[test]
fn ls_says_which_subscription_does_not_fit_and_which_field_differs() {
    let dir = tempfile::tempdir().unwrap();
    let camera = join(dir.path(), "camera");
    let viewer = join(dir.path(), "viewer");
    let stale = [viewer.subscriber::<older::Pose>("sensors/pose"), viewer.subscriber("sensors/*")];
    let _mood = viewer.subscriber::<Mood>("**").unwrap();
    let _poses = camera.publisher::<Pose>("sensors/pose").unwrap();
    let moods_published = camera.publisher::<Mood>("mood").unwrap();
    moods_published.wait_for_subscribers(1, LONG).unwrap();

    let output = hm(dir.path()).args(["ls", "--json", "--interval", "0"]).output().unwrap();
    assert!(output.status.success(), "{}", sentence(&output));
    let shown: Value = serde_json::from_str(text(&output.stdout)).unwrap();
    let rows = shown["subscriptions"].as_array().unwrap();
    for filter in ["sensors/pose", "sensors/*"] {
        let found: Vec<_> = rows.iter().filter(|row| row["filter"] == filter).collect();
        let [row] = found[..] else { panic!("{shown}") };
        let other = &row["does_not_fit"];
        assert_eq!((&other["service"], &other["publisher_node"]), (&"sensors/pose".into(), &"camera".into()));
        assert_eq!(other["difference"], "Pose.tags is missing here");
        assert_eq!((&other["type"], &other["expected"]), (&"Pose".into(), &"Pose".into()));
    }
    let moods: Vec<_> = rows.iter().filter(|row| row["filter"] == "**").collect();
    assert!(
        moods.len() == 1 && moods[0]["service"] == "mood",
        "who is served expects no other type: {shown}"
    );

    let output = hm(dir.path()).args(["ls", "--interval", "0"]).output().unwrap();
    let shown = text(&output.stdout);
    let line = shown.lines().find(|line| line.starts_with("sensors/*")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("does not fit: Pose, not Pose (Pose.tags is missing here)"), "{shown}");
    assert!(!shown.contains("nobody publishes"), "{shown}");
    drop(stale);
}

#[test]
fn ls_for_people_has_rates_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let camera = join(dir.path(), "camera");
    let mut poses = camera.publisher::<Pose>("sensors/pose").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                poses.send(&pose(1)).unwrap();
                std::thread::yield_now();
            }
        });
        let output = hm(dir.path()).args(["ls", "--interval", "0.2"]).output().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{}", sentence(&output));
        let line =
            shown.lines().find(|line| line.starts_with("sensors/pose")).unwrap_or_else(|| panic!("{shown}"));
        assert!(line.contains("Pose") && line.contains("camera") && line.contains("lossy"), "{shown}");
        assert!(shown.contains("hosts the root"), "{shown}");
    });
}

#[test]
fn two_hives_in_one_folder_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Node::builder("camera").dir(dir.path()).hive("lab").join().unwrap();
    let _here = join(dir.path(), "here");
    let _publisher = lab.publisher::<Pose>("sensors/pose").unwrap();
    let shown = |hive: &str| {
        let output =
            hm(dir.path()).args(["--hive", hive, "ls", "--json", "--interval", "0"]).output().unwrap();
        assert!(output.status.success(), "{}", sentence(&output));
        serde_json::from_str::<Value>(text(&output.stdout)).unwrap()
    };
    assert_eq!(shown("lab")["services"].as_array().unwrap().len(), 1);
    assert_eq!(shown("default")["services"].as_array().unwrap().len(), 0);
}

#[test]
fn the_environment_says_where_the_hive_is() {
    let dir = tempfile::tempdir().unwrap();
    let _node = join(dir.path(), "camera");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hm"));
    let output = command.env("HIVEMIND_DIR", dir.path()).args(["ls", "--interval", "0"]).output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("camera"), "{output:?}");
}

#[test]
fn ls_shows_what_is_retained_who_keeps_it_and_of_whom() {
    let dir = tempfile::tempdir().unwrap();
    let (camera, _keeper) = (join(dir.path(), "camera"), join(dir.path(), "keeper"));
    let mut poses = camera.publisher_builder::<Pose>("sensors/pose").retain(3).create().unwrap();
    poses.send(&pose(1)).unwrap();
    // Two nodes of one process do not keep for each other: they die together.
    let output = hm(dir.path()).args(["ls", "--interval", "0"]).output().unwrap();
    assert!(text(&output.stdout).contains("lossy, retains 3 (0 keepers)"), "{}", text(&output.stdout));
    drop(poses);
    let shown = loop {
        let output = hm(dir.path()).args(["ls", "--interval", "0", "--json"]).output().unwrap();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        if shown["services"][0]["former_node"].is_string() {
            break shown;
        }
    };
    assert_eq!(
        (&shown["services"][0]["former_node"], &shown["services"][0]["published"]),
        (&"camera".into(), &1.into())
    );
    let output = hm(dir.path()).args(["ls", "--interval", "0"]).output().unwrap();
    assert!(text(&output.stdout).contains("kept of camera, which is gone"), "{}", text(&output.stdout));
    let output = hm(dir.path()).args(["echo", "**", "-n", "1"]).output().unwrap();
    assert!(text(&output.stdout).contains("camera"), "{}", text(&output.stdout));
}

#[test]
fn a_root_of_its_own_takes_over_and_gives_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = join(dir.path(), "camera");
    assert!(node.hosts_root());
    let mut poses = node.publisher::<Pose>("sensors/pose").unwrap();
    let mut root = Running::start(hm(dir.path()).arg("root"));
    let line = root.line();
    assert!(line.contains("root.sock") && line.contains("default"), "{line}");
    while node.root_pid() != Some(root.child.id() as i32) {
        std::thread::yield_now();
    }
    assert!(!node.hosts_root());
    // It introduces later ones.
    let late = join(dir.path(), "listener");
    let mut subscriber = late.subscriber::<Pose>("sensors/pose").unwrap();
    poses.wait_for_subscribers(1, LONG).unwrap();
    poses.send(&pose(1)).unwrap();
    assert_eq!(subscriber.recv().unwrap().unwrap().id, 1);
    interrupt(&root.child);
    assert!(root.line().contains("stopped in order"));
    assert!(root.child.wait().unwrap().success());
    while node.root_pid() != Some(std::process::id() as i32) {
        std::thread::yield_now();
    }
    poses.send(&pose(2)).unwrap();
    assert_eq!(subscriber.recv().unwrap().unwrap().id, 2);
}

#[test]
fn two_roots_of_their_own_are_one_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Running::start(hm(dir.path()).arg("root"));
    first.line();
    let watch = Node::builder("watch").dir(dir.path()).patience(LONG).observer().join().unwrap();
    assert_eq!(watch.root_pid(), Some(first.child.id() as i32));
    let output = hm(dir.path()).arg("root").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).contains(&first.child.id().to_string()), "{}", sentence(&output));
}

/// A second one takes the place of a first that is stopped; that says so when it goes on, and ends.
#[test]
fn a_root_of_its_own_that_is_stopped_is_superseded() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Running::start(hm(dir.path()).arg("root").stderr(Stdio::piped()));
    first.line();
    let watch = Node::builder("watch").dir(dir.path()).patience(LONG).observer().join().unwrap();
    signal(&first.child, "STOP");
    let mut second = Running::start(hm(dir.path()).args(["root", "--root-timeout", "0.1"]));
    second.line();
    while watch.root_pid() != Some(second.child.id() as i32) {
        std::thread::yield_now();
    }
    signal(&first.child, "CONT");
    assert_eq!(first.child.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    first.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let expected = format!("superseded by process {}", second.child.id());
    assert!(said.contains(&expected) && said.contains("start it again"), "{said}");
    assert_eq!(watch.root_pid(), Some(second.child.id() as i32));

    let output = hm(dir.path()).args(["root", "--root-timeout", "0.01"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("less than 0.05 seconds"), "{output:?}");
}

#[test]
fn a_tool_that_finds_no_hive_says_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let output = hm(dir.path()).args(["ls"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let sentence = sentence(&output);
    assert!(sentence.starts_with("hm: ") && sentence.contains("hm root"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "one sentence: {sentence}");
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let output = hm(dir.path()).args(["ls"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).contains(&dir.path().display().to_string()), "{}", sentence(&output));
}

#[test]
fn wrong_usage_exits_with_2_and_says_where_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["echo", "sensors/["][..], "sensors/["),
        (&["echo"], "FILTER"),
        (&["ls", "--interval", "-1"], "--interval"),
        (&["demo", "--seconds", "1"], "6.."),
        (&["--hive", "a/b", "ls"], "a/b"),
        (&["dance"], "dance"),
    ] {
        let output = hm(dir.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(sentence(&output).contains(expected), "{arguments:?}: {}", sentence(&output));
    }
}

#[test]
fn policy_check_says_who_gets_in_and_where_a_mistake_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let check = || hm(dir.path()).args(["policy", "check"]).output().unwrap();
    let output = check();
    assert!(output.status.success());
    assert!(
        text(&output.stdout).contains("there is no such file")
            && text(&output.stdout).contains("nobody else may do anything")
    );
    let file = dir.path().join("default/policy");
    std::fs::write(&file, "# cameras\nallow user:4711 publish camera/*\n").unwrap();
    let output = check();
    assert!(output.status.success(), "{}", sentence(&output));
    let said = text(&output.stdout);
    assert!(said.contains("line 2: allow user:4711 publish camera/*"), "{said}");
    assert!(said.contains("nobody may do more"), "{said}");
    let closed = format!("run: chmod o+x {}", dir.path().display());
    assert!(said.contains(&closed), "{said}");
    std::fs::write(&file, "allow user:4711 publish camera/[\n").unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let said = sentence(&output);
    assert!(
        said.contains("policy: line 1, column 32:") && said.contains("what was in force before stays so"),
        "{said}"
    );
    // `hm ls` says it, too.
    let node = join(dir.path(), "camera");
    let output = hm(dir.path()).args(["ls", "--interval", "0"]).output().unwrap();
    assert!(
        output.status.success() && sentence(&output).contains("line 1, column 32"),
        "{}",
        sentence(&output)
    );
    assert!(text(&output.stdout).contains("camera"));
    drop(node);
}

#[test]
fn policy_explain_names_the_lines_or_the_one_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new");
    std::fs::write(&file, "allow user:4711 publish camera/*\nallow group:4799 subscribe **\n").unwrap();
    let explain = |arguments: &[&str]| {
        let mut command = hm(dir.path());
        command.args(["policy", "explain", "--file"]).arg(&file).args(arguments).output().unwrap()
    };
    let allowed = explain(&["--user", "4711", "publish", "camera/left"]);
    assert!(allowed.status.success(), "{}", sentence(&allowed));
    assert_eq!(text(&allowed.stdout), "allowed\nline 1: allow user:4711 publish camera/*\n");
    let allowed = explain(&["--user", "4712", "--group", "4799", "subscribe", "camera/*"]);
    assert_eq!(
        text(&allowed.stdout),
        "allowed, as far as these lines go\nline 2: allow group:4799 subscribe **\n"
    );
    for (arguments, part) in [
        (&["--user", "4711", "publish", "sensors/pose"][..], "can add: allow user:4711 publish sensors/pose"),
        (&["--user", "4712", "join"], "can add: allow user:4712 join"),
        (&["--user", "4711", "publish", "camera/*"], "is a pattern; name one service"),
        (&["--user", "nobody-of-this-name", "join"], "there is no user \"nobody-of-this-name\""),
    ] {
        let output = explain(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(sentence(&output).contains(part), "{}", sentence(&output));
    }
    assert_eq!(explain(&["--user", "4711", "publish"]).status.code(), Some(2));
    let ourselves = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap()).to_string();
    let owner = explain(&["--user", &ourselves, "publish", "anything"]);
    assert!(owner.status.success() && text(&owner.stdout).contains("owns the hive"));
}
