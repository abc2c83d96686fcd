//! Who may do what, with real users: each process here runs under a user of its own, and the kernel says who
//! it is.
//!
//! | who                                | join | publish `sensors/*` | subscribe `sensors/**` | anything else |
//! | ---------------------------------- | ---- | ------------------- | ---------------------- | ------------- |
//! | the owner                          | yes  | yes                 | yes                    | yes           |
//! | alice (a line for her)             | yes  | yes                 | no                     | no            |
//! | robot (a line for a group)         | yes  | no                  | yes                    | no            |
//! | another user, the administrator too | no   | no                  | no                     | no            |
//!
//! Only the administrator can start processes of other users, so for everybody else these tests are skipped,
//! and say so.

use hivemind_runtime::policy_file::FILE_NAME;
use hivemind_tests::hive::{Actor, Hive, joining, lossy};
use hivemind_tests::order::{Answer, Failure, Join, Kind, Order};
use hivemind_tests::until;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use Verdict::{Kernel, Out, Root, Yes};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

const OWNER: u32 = 47_110;
const ALICE: u32 = 47_111;
const ROBOT: u32 = 47_112;
const OTHER: u32 = 47_113;
const ROBOTS: u32 = 47_199;

const POLICY: &str = "allow user:47111 publish sensors/*\nallow group:47199 subscribe sensors/**\n";

/// A hive of user [`OWNER`] in a folder that everybody may reach.
struct Shared {
    hive: Hive,
    /// The program, where everybody may run it.
    program: PathBuf,
    base: PathBuf,
}

impl Shared {
    /// `None`, said aloud, where there cannot be processes of other users.
    #[allow(clippy::explicit_write)] // The test harness hides what `eprintln` says when nothing fails.
    fn new(test: &str) -> Option<Shared> {
        let missing = if !nix::unistd::geteuid().is_root() {
            Some("only the administrator can start processes of other users")
        } else if Command::new("setpriv").arg("--version").output().is_err() {
            Some("there is no setpriv (package util-linux) to start processes of other users")
        } else {
            None
        };
        if let Some(missing) = missing {
            writeln!(std::io::stderr(), "SKIPPED {test}: {missing}").unwrap();
            return None;
        }
        let hive = Hive::new(ACTOR);
        std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o755)).unwrap();
        let (program, base) = (hive.folder().join("actor"), hive.folder().join("run"));
        std::fs::copy(ACTOR, &program).unwrap();
        std::fs::create_dir(&base).unwrap();
        // What the owner of a hive does once who wants to let others in.
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o711)).unwrap();
        chown(&base, Some(OWNER), Some(OWNER)).unwrap();
        Some(Shared { hive, program, base })
    }

    fn folder(&self) -> PathBuf {
        self.base.join("default")
    }

    /// A process of this user, whose group has the same number, with these supplementary groups.
    fn spawn(&self, name: &str, user: u32, groups: &[u32]) -> Actor {
        let mut command = as_user(user, groups);
        command.arg(&self.program).env_remove("XDG_RUNTIME_DIR");
        command.env("HIVEMIND_DIR", &self.base).env("HIVEMIND_OWNER", OWNER.to_string());
        self.hive.spawn_with(command, name)
    }

    /// A node of the owner, which hosts the root.
    fn host(&self) -> Actor {
        let host = self.spawn("host", OWNER, &[]);
        assert!(host.join(joining("host")));
        host
    }

    /// Puts a policy in place as an editor does, in one step.
    fn write(&self, text: &str) {
        let new = self.base.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
        chown(&new, Some(OWNER), Some(OWNER)).unwrap();
        if !self.folder().exists() {
            std::fs::create_dir(self.folder()).unwrap();
            std::fs::set_permissions(self.folder(), PermissionsExt::from_mode(0o700)).unwrap();
            chown(self.folder(), Some(OWNER), Some(OWNER)).unwrap();
        }
        std::fs::rename(new, self.folder().join(FILE_NAME)).unwrap();
    }
}

/// What is executed by a user, whose group has the same number, with these supplementary groups.
fn as_user(user: u32, groups: &[u32]) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
    let list: Vec<String> = groups.iter().map(ToString::to_string).collect();
    if list.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.arg(format!("--groups={}", list.join(",")));
    }
    command
}

fn attempt(actor: &Actor, name: &str) -> Result<Answer, Failure> {
    actor.attempt(&Order::Join(joining(name)))
}

fn publish(actor: &Actor, service: &str) -> Result<Answer, Failure> {
    actor.attempt(&Order::Publish(lossy(service, Kind::Typed)))
}

fn subscribe(actor: &Actor, filter: &str) -> Result<Answer, Failure> {
    actor.attempt(&Order::Subscribe { filter: filter.to_owned(), kind: Kind::Typed })
}

#[track_caller]
fn denied(outcome: Result<Answer, Failure>, parts: &[&str]) {
    let failure = outcome.unwrap_err();
    assert!(failure.variant.contains("NotAllowed"), "{failure:#?}");
    for part in parts {
        assert!(failure.text.contains(part), "it does not say {part:?}: {failure:#?}");
    }
}

#[test]
fn everybody_may_do_what_the_policy_says_and_nothing_else() {
    let Some(hive) = Shared::new("everybody_may_do_what_the_policy_says_and_nothing_else") else { return };
    hive.write(POLICY);
    let host = hive.host();
    for service in ["sensors/pose", "sensors/arm/pose", "secret"] {
        publish(&host, service).unwrap();
    }
    subscribe(&host, "**").unwrap();

    let alice = hive.spawn("alice", ALICE, &[]);
    assert!(!alice.join(joining("alice")));
    publish(&alice, "sensors/alice").unwrap();
    denied(
        publish(&alice, "actors/arm"),
        &["user 47111", "user 47110", "allow user:47111 publish actors/arm"],
    );
    denied(subscribe(&alice, "sensors/pose"), &["allow user:47111 subscribe sensors/pose"]);
    denied(subscribe(&alice, "**"), &["subscribe"]);
    host.subscribers(0).await_publishers(4);

    // By a supplementary group, and by its own group.
    for (name, user, groups) in [("robot", ROBOT, &[5, ROBOTS][..]), ("of-the-group", ROBOTS, &[])] {
        let robot = hive.spawn(name, user, groups);
        assert!(!robot.join(joining(name)));
        denied(publish(&robot, "sensors/alice"), &["publish"]);
        denied(subscribe(&robot, "secret"), &["may not subscribe \"secret\""]);
        subscribe(&robot, "sensors/pose").unwrap();
        robot.subscribers(0).await_publishers(1);
        // Everything, as far as it may see it: two of the owner and the one of alice.
        subscribe(&robot, "**").unwrap();
        robot.subscribers(1).await_publishers(3);
        robot.subscribers(1).collect();
        alice.publishers(0).send(10);
        host.publishers(2).send(10);
        let tally = robot.subscribers(1).await_tally(10, 0);
        let services: Vec<&str> =
            tally.connections.iter().map(|connection| &connection.service[..]).collect();
        assert!(services.len() == 3 && !services.contains(&"secret"), "{services:?}");
    }
    for (name, user, groups) in [("other", OTHER, &[5, ALICE][..]), ("admin", 0, &[])] {
        let other = hive.spawn(name, user, groups);
        denied(attempt(&other, name), &[&format!("user {user}"), &format!("allow user:{user} join")]);
    }
    assert_eq!(host.nodes(), ["alice", "host"]);
}

/// A guest who may only subscribe asked for `sensors/pose` with a type of its own, before anybody published
/// it; the owner's publisher was refused then, for as long as the guest liked.
#[test]
fn a_guest_who_may_only_subscribe_keeps_no_publisher_out() {
    let Some(hive) = Shared::new("a_guest_who_may_only_subscribe_keeps_no_publisher_out") else { return };
    hive.write(POLICY);
    let host = hive.host();
    let squatter = hive.spawn("squatter", ROBOT, &[ROBOTS]);
    assert!(!squatter.join(joining("squatter")));
    for filter in ["sensors/pose", "sensors/*"] {
        let order = Order::Subscribe { filter: filter.to_owned(), kind: Kind::Other };
        squatter.attempt(&order).expect("who may subscribe may wait for a type that nobody has");
    }
    denied(squatter.attempt(&Order::Publish(lossy("sensors/pose", Kind::Other))), &["publish"]);
    publish(&host, "sensors/pose").expect("the owner's publisher fixes the type");
    let robot = hive.spawn("robot", ROBOT, &[ROBOTS]);
    assert!(!robot.join(joining("robot")));
    subscribe(&robot, "sensors/pose").expect("its type is the publisher's");
    robot.subscribers(0).await_publishers(1);
    host.publishers(0).await_subscribers(1);
    robot.subscribers(0).collect();
    host.publishers(0).send(10);
    robot.subscribers(0).await_tally(10, 0);
    // Whoever may publish hears who was first, and never of the squatter.
    let alice = hive.spawn("alice", ALICE, &[]);
    assert!(!alice.join(joining("alice")));
    let failure = alice.attempt(&Order::Publish(lossy("sensors/pose", Kind::Other))).unwrap_err();
    assert!(
        failure.variant.contains("TypeMismatch") && failure.text.contains("in node host"),
        "{failure:#?}"
    );
}

/// What comes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It works.
    Yes,
    /// The root refuses, by what the kernel says of who asks.
    Root,
    /// The kernel refuses.
    Kernel,
    /// It cannot be tried: the root does not let the role in.
    Out,
}

/// A role: its user, and its supplementary groups.
const ROLES: [(&str, u32, &[u32]); 7] = [
    ("owner", OWNER, &[]),
    ("alice", ALICE, &[]),
    ("robot", ROBOT, &[5, ROBOTS]),
    ("both", ALICE, &[ROBOTS]),
    ("of-the-group", ROBOTS, &[]),
    ("other", OTHER, &[5, ALICE]),
    ("admin", 0, &[]),
];

/// What each role may do, in the order of [`ROLES`]. The administrator owns every file of the machine, and no
/// hive.
const MATRIX: [(&str, [Verdict; ROLES.len()]); 14] = [
    ("join", [Yes, Yes, Yes, Yes, Yes, Root, Root]),
    ("publish sensors/x", [Yes, Yes, Root, Yes, Root, Out, Out]),
    ("publish sensors/arm/x", [Yes, Root, Root, Root, Root, Out, Out]),
    ("publish secret/x", [Yes, Root, Root, Root, Root, Out, Out]),
    ("subscribe sensors/pose", [Yes, Root, Yes, Yes, Yes, Out, Out]),
    ("subscribe sensors/arm/pose", [Yes, Root, Yes, Yes, Yes, Out, Out]),
    ("subscribe secret", [Yes, Root, Root, Root, Root, Out, Out]),
    ("subscribe **", [Yes, Root, Yes, Yes, Yes, Out, Out]),
    ("write into sensors/pose", [Kernel, Root, Kernel, Kernel, Kernel, Out, Out]),
    ("write into secret", [Kernel, Root, Root, Root, Root, Out, Out]),
    ("write the policy", [Yes, Kernel, Kernel, Kernel, Kernel, Kernel, Yes]),
    ("replace the policy", [Yes, Kernel, Kernel, Kernel, Kernel, Kernel, Yes]),
    ("write the lock file", [Yes, Kernel, Kernel, Kernel, Kernel, Kernel, Yes]),
    ("connect without a policy", [Yes, Kernel, Kernel, Kernel, Kernel, Kernel, Root]),
];

/// Every role tries every operation; who sees what under `**` is told by the test before this one.
#[test]
fn the_matrix_of_roles_and_operations_holds() {
    let Some(hive) = Shared::new("the_matrix_of_roles_and_operations_holds") else { return };
    hive.write(POLICY);
    let host = hive.host();
    for service in ["sensors/pose", "sensors/arm/pose", "secret"] {
        publish(&host, service).unwrap();
    }
    let mut wrong = Vec::new();
    for (column, (role, user, groups)) in ROLES.into_iter().enumerate() {
        let actor = hive.spawn(role, user, groups);
        let mut inside = false;
        for (operation, expected) in &MATRIX[..MATRIX.len() - 1] {
            let by_file = ["write the", "replace the"].iter().any(|begin| operation.starts_with(begin));
            let found = if by_file {
                hive.file_operation(operation, user, groups)
            } else if inside || *operation == "join" {
                node_operation(&actor, role, operation)
            } else {
                Out
            };
            inside |= *operation == "join" && found == Yes;
            println!("{role:14} {operation:28} {found:?}");
            if found != expected[column] {
                wrong.push(format!("{role}: {operation}: {found:?}, not {:?}", expected[column]));
            }
        }
    }
    // Without a policy the folder is closed before anybody could ask the root.
    std::fs::remove_file(hive.folder().join(FILE_NAME)).unwrap();
    until("the folder is closed", || {
        (hive.folder().metadata().unwrap().mode() & 0o777 == 0o700).then_some(())
    });
    let (operation, expected) = MATRIX[MATRIX.len() - 1];
    for (column, (role, user, groups)) in ROLES.into_iter().enumerate() {
        let actor = hive.spawn("late", user, groups);
        let found = node_operation(&actor, "late", "join");
        println!("{role:14} {operation:28} {found:?}");
        if found != expected[column] {
            wrong.push(format!("{role}: {operation}: {found:?}, not {:?}", expected[column]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What comes of it when a node does it.
fn node_operation(actor: &Actor, role: &str, operation: &str) -> Verdict {
    let (verb, object) = operation.split_once(' ').unwrap_or((operation, ""));
    let outcome = match verb {
        "join" => actor.attempt(&Order::Join(Join { patience_ms: 200, ..joining(role) })),
        "publish" => publish(actor, &format!("{object}-{role}")),
        "subscribe" => subscribe(actor, object),
        "write" => {
            let service = object.trim_start_matches("into ").to_owned();
            let Answer::Attempts(said) = actor.tell(&Order::Tamper { service }) else {
                panic!("it answers with its attempts");
            };
            if let [only] = &said[..] {
                assert!(only.contains("refused: user"), "{said:#?}");
                return Root;
            }
            assert!(said.len() >= 6, "{said:#?}");
            return if said.iter().any(|attempt| attempt.contains("DONE")) { Yes } else { Kernel };
        }
        _ => panic!("there is no {operation}"),
    };
    match outcome {
        Ok(_) => Yes,
        Err(failure) if failure.variant.contains("NotAllowed") => Root,
        Err(failure) => {
            assert!(failure.text.contains("is closed to this user"), "{operation}: {failure:#?}");
            Kernel
        }
    }
}

impl Shared {
    /// What comes of it when a shell does it.
    fn file_operation(&self, operation: &str, user: u32, groups: &[u32]) -> Verdict {
        let script = match operation {
            "write the policy" => "exec >>\"$1/policy\"",
            // Puts the same content in its place.
            "replace the policy" => {
                "cp \"$1/policy\" \"$1/policy.$2\" && mv -f \"$1/policy.$2\" \"$1/policy\""
            }
            "write the lock file" => "exec >>\"$1/$3\"",
            _ => panic!("there is no {operation}"),
        };
        let lock = std::fs::read_dir(self.folder()).unwrap().find_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.contains("lock").then_some(name)
        });
        let mut command = as_user(user, groups);
        command.args(["sh", "-c", script, "sh"]).arg(self.folder());
        command.arg(user.to_string()).arg(lock.expect("a root has its lock file"));
        let output = command.output().unwrap();
        if output.status.success() {
            return Yes;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("ermission denied"), "{operation} as {user}: {said}");
        Kernel
    }
}

#[test]
fn the_kernel_keeps_a_subscriber_from_writing() {
    let Some(hive) = Shared::new("the_kernel_keeps_a_subscriber_from_writing") else { return };
    hive.write(POLICY);
    let host = hive.host();
    let publisher = host.publish(lossy("sensors/pose", Kind::Typed));
    for (name, user) in [("owner", OWNER), ("robot", ROBOT)] {
        let tamperer = hive.spawn(name, user, &[ROBOTS]);
        let Answer::Attempts(said) = tamperer.tell(&Order::Tamper { service: "sensors/pose".to_owned() })
        else {
            panic!("it answers with its attempts");
        };
        println!("{name}: {said:#?}");
        assert!(said.len() >= 6 && !said.iter().any(|attempt| attempt.contains("DONE")), "{said:#?}");
        assert!(said[0].contains("not permitted"), "{said:#?}");
    }
    let alice = hive.spawn("alice", ALICE, &[]);
    let answer = alice.tell(&Order::Tamper { service: "sensors/pose".to_owned() });
    let Answer::Attempts(said) = answer else { panic!("{answer:?}") };
    assert!(said.len() == 1 && said[0].contains("refused: user 47111 may not subscribe"), "{said:?}");
    assert_eq!(publisher.send(10), 10);
}

#[test]
fn nobody_but_the_owner_hosts_the_root() {
    let Some(hive) = Shared::new("nobody_but_the_owner_hosts_the_root") else { return };
    hive.write(POLICY);
    let impatient = |name: &str| Order::Join(Join { patience_ms: 300, ..joining(name) });
    // Nobody of the owner is there; and nobody has opened the folder yet.
    let alice = hive.spawn("alice", ALICE, &[]);
    let failure = alice.attempt(&impatient("alice")).unwrap_err();
    assert!(failure.variant.contains("NoRoot") && failure.text.contains("user 47110"), "{failure:#?}");
    // A join that waits succeeds as soon as the owner comes.
    alice.begin(&Order::Join(joining("alice")));
    let host = hive.host();
    assert!(matches!(alice.answer(), Ok(Answer::Joined { hosts_root: false, .. })));
    assert_eq!(hive.folder().metadata().unwrap().mode() & 0o777, 0o711);
    // It dies, and alice stays a node without a root until the owner comes back.
    host.kill();
    until("alice sees that the root is gone", || alice.root().0.is_none().then_some(()));
    let robot = hive.spawn("robot", ROBOT, &[ROBOTS]);
    let failure = robot.attempt(&impatient("robot")).unwrap_err();
    assert!(failure.variant.contains("RootOf"), "{failure:#?}");
    assert!(failure.text.contains("only user 47110 can host it"), "{failure:#?}");
    let host = hive.host();
    until("alice is back", || (host.nodes() == ["alice", "host"]).then_some(()));
    assert_eq!(alice.root().0, Some(host.pid()));
    publish(&alice, "sensors/alice").unwrap();
}

#[test]
fn a_stranger_in_the_place_of_the_root_is_recognised() {
    let Some(hive) = Shared::new("a_stranger_in_the_place_of_the_root_is_recognised") else { return };
    // The folder belongs to another user, whose root listens there: not the one who was named.
    let host = hive.host();
    let mut command = Command::new(&hive.program);
    command.env("HIVEMIND_DIR", &hive.base).env("HIVEMIND_OWNER", ALICE.to_string());
    let deceived = hive.hive.spawn_with(command, "deceived");
    let failure = attempt(&deceived, "deceived").unwrap_err();
    assert!(failure.variant.contains("Stranger"), "{failure:#?}");
    assert!(failure.text.contains("user 47110") && failure.text.contains("user 47111"), "{failure:#?}");
    assert_eq!(host.nodes(), ["host"]);
}

#[test]
fn another_policy_counts_at_once_and_an_invalid_one_does_not() {
    let Some(hive) = Shared::new("another_policy_counts_at_once_and_an_invalid_one_does_not") else { return };
    let host = hive.host();
    let pose = host.publish(lossy("sensors/pose", Kind::Typed));
    let secret = host.publish(lossy("secret", Kind::Typed));
    // Without a policy the folder is closed: the kernel says no.
    assert_eq!(hive.folder().metadata().unwrap().mode() & 0o777, 0o700);
    let robot = hive.spawn("robot", ROBOT, &[ROBOTS]);
    let failure = robot.attempt(&Order::Join(Join { patience_ms: 100, ..joining("robot") })).unwrap_err();
    assert!(failure.text.contains("is closed to this user"), "{failure:#?}");

    // It comes while the root runs, and lets those in who wait.
    robot.begin(&Order::Join(joining("robot")));
    hive.write("allow user:47112 subscribe **\n");
    assert!(matches!(robot.answer(), Ok(Answer::Joined { hosts_root: false, .. })));
    subscribe(&robot, "**").unwrap();
    robot.subscribers(0).await_publishers(2);
    robot.subscribers(0).collect();
    pose.await_subscribers(1);
    secret.await_subscribers(1);

    // A mistake changes nothing: who came by the one before stays, and others come.
    hive.write("allow user:47112 subscribe [\n");
    let second = hive.spawn("second", ROBOT, &[]);
    second.join(joining("second"));
    subscribe(&second, "secret").unwrap();
    second.subscribers(0).await_publishers(1);

    // Less: the subscriptions let go of what they may not read any more, and keep the rest.
    hive.write("allow user:47112 subscribe sensors/*\n");
    let tally = robot.subscribers(0).await_tally(0, 1);
    assert!(tally.errors.iter().any(|error| error.contains("may not subscribe \"secret\"")), "{tally:#?}");
    denied(subscribe(&second, "secret"), &["subscribe"]);
    assert_eq!(pose.send(5), 5);
    robot.subscribers(0).await_tally(5, 1);

    // More again: at once, without a word from the subscriber.
    hive.write("allow user:47112 subscribe **\n");
    // The other one is the second node, which does not receive, and so has not let go.
    secret.await_subscribers(2);
    assert_eq!(secret.send(5), 5);
    robot.subscribers(0).await_tally(10, 1);

    // Nothing: the file is gone, the folder is closed, and the node is out.
    std::fs::remove_file(hive.folder().join(FILE_NAME)).unwrap();
    until("they are out", || (host.nodes() == ["host"]).then_some(()));
    let tally = robot.subscribers(0).await_tally(10, 3);
    assert!(tally.connections.iter().all(|connection| connection.ended), "{tally:#?}");
    assert_eq!(hive.folder().metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_policy_outlives_the_root_and_an_invalid_one_lets_nobody_in_at_the_start() {
    let Some(hive) = Shared::new("a_policy_outlives_the_root_and_an_invalid_one_lets_nobody_in_at_the_start")
    else {
        return;
    };
    hive.write(POLICY);
    let host = hive.host();
    let heir = hive.spawn("heir", OWNER, &[]);
    assert!(!heir.join(joining("heir")));
    let alice = hive.spawn("alice", ALICE, &[]);
    alice.join(joining("alice"));
    publish(&alice, "sensors/alice").unwrap();
    host.kill();
    until("the heir hosts the root", || (heir.root().0 == Some(heir.pid())).then_some(()));
    until("alice is there", || (heir.nodes() == ["alice", "heir"]).then_some(()));
    denied(publish(&alice, "secret"), &["publish"]);
    publish(&alice, "sensors/other").unwrap();

    // The next root finds an invalid one, and has none before it.
    hive.write("allow everybody join\n");
    let second = hive.spawn("second", OWNER, &[]);
    second.join(joining("second"));
    heir.kill();
    until("the second hosts the root", || (second.root().0 == Some(second.pid())).then_some(()));
    let robot = hive.spawn("robot", ROBOT, &[ROBOTS]);
    let failure = robot.attempt(&Order::Join(Join { patience_ms: 100, ..joining("robot") })).unwrap_err();
    assert!(failure.text.contains("is closed to this user"), "{failure:#?}");
    assert_eq!(second.nodes(), ["second"]);
}
