use proptest::prelude::*;

use super::*;

const OWNER: u32 = 1000;

fn accounts() -> Accounts {
    Accounts::parse(
        "root:x:0:0::/root:/bin/sh\nalice:x:1001:1001::/:/bin/sh\nbroken\nbob:x:1002:2000\nalice:x:9:9\n",
        "root:x:0:\nrobots:x:2000:alice,carol\nno:number\ncameras:x:2001:\n",
    )
}

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes(), OWNER, &accounts()).unwrap()
}

fn error(text: &str) -> String {
    Policy::parse(text.as_bytes(), OWNER, &accounts()).unwrap_err().to_string()
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

#[test]
fn lines_for_hosts_say_what_crosses_which_link() {
    let parse = |text: &str| Policy::parse(text.as_bytes(), 1000, &Accounts::default());
    let service = |name: &str| ServiceName::parse(name).unwrap();
    let open = parse("allow user:1 join").unwrap();
    assert!(open.lets_cross("robot", Right::Publish, &service("any")));
    let text =
        "allow host:robot publish arm/**\nallow host:* subscribe map\nallow host:station subscribe camera/*";
    let policy = parse(text).unwrap();
    let cases = [
        ("robot", Right::Publish, "arm/left/pose", true),
        ("station", Right::Publish, "arm/left/pose", false),
        ("robot", Right::Publish, "map", false),
        ("robot", Right::Subscribe, "map", true),
        ("robot", Right::Subscribe, "camera/front", false),
        ("station", Right::Subscribe, "camera/front", true),
        ("station", Right::Subscribe, "arm/left/pose", false),
    ];
    for (host, right, name, expected) in cases {
        assert_eq!(policy.lets_cross(host, right, &service(name)), expected, "{host} {right:?} {name}");
    }
    let shown: Vec<String> = policy.host_rules().iter().map(ToString::to_string).collect();
    assert_eq!(shown.join("\n"), text);
    // They let nobody of this machine in.
    assert!(!policy.admits_others());
    for wrong in
        ["allow host: publish a", "allow host:robot join", "allow host:robot", "allow host:robot publish a b"]
    {
        parse(wrong).unwrap_err();
    }
}

#[test]
fn without_a_line_the_owner_may_everything_and_others_nothing() {
    for policy in [Policy::owner_only(OWNER), policy("\n  # a comment\n\t\r\n")] {
        assert!(!policy.admits_others());
        let owner = policy.rights_of(&Credentials::of_user(OWNER));
        assert!(owner.are_everything() && owner.join() && owner.publish(&service("a")));
        assert!(owner.read(&service("a")) && owner.subscribe(&filter("**")));
        for user in [0, 1001, OVERFLOW_ID, u32::MAX] {
            let other = policy.rights_of(&Credentials { user, groups: vec![OWNER, 0] });
            assert!(!other.are_everything() && !other.join() && !other.publish(&service("a")));
            assert!(!other.read(&service("a")) && !other.subscribe(&filter("**")));
        }
    }
}

#[test]
fn lines_add_up_whatever_their_order() {
    let text = "allow user:alice publish sensors/*  # hers\nallow group:robots subscribe sensors/**\r\nallow user:1003 join";
    let policy = policy(text);
    assert!(policy.admits_others() && policy.owner() == OWNER);
    let lines: Vec<String> = policy.rules().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "allow user:1001 publish sensors/*",
            "allow group:2000 subscribe sensors/**",
            "allow user:1003 join"
        ]
    );
    let alice = policy.rights_of(&Credentials::of_user(1001));
    assert!(
        alice.join() && alice.publish(&service("sensors/pose")) && !alice.publish(&service("sensors/a/b"))
    );
    assert!(!alice.read(&service("sensors/pose")) && !alice.subscribe(&filter("sensors/*")));
    // Supplementary groups count.
    let robot = policy.rights_of(&Credentials { user: 1001, groups: vec![1001, 5, 2000] });
    assert!(robot.publish(&service("sensors/pose")) && robot.read(&service("sensors/a/b")));
    let looker = policy.rights_of(&Credentials::of_user(1003));
    assert!(looker.join() && !looker.publish(&service("sensors/pose")) && !looker.are_everything());
}

#[test]
fn a_pattern_is_accepted_when_it_could_mean_what_is_allowed() {
    let policy = policy("allow anyone subscribe sensors/*");
    let rights = policy.rights_of(&Credentials::of_user(7));
    for wanted in ["**", "*/pose", "sensors/pose", "sensors/*"] {
        assert!(rights.subscribe(&filter(wanted)), "{wanted}");
    }
    for wanted in ["*", "actors/**", "sensors/*/*", "pose"] {
        assert!(!rights.subscribe(&filter(wanted)), "{wanted}");
    }
    assert!(rights.read(&service("sensors/pose")) && !rights.read(&service("pose")));
}

#[test]
fn a_decision_names_its_lines() {
    let policy =
        policy("allow user:alice publish a\n\nallow anyone subscribe b/*\nallow user:alice publish a*");
    let lines = |user, right, what: &str| -> Vec<usize> {
        let reasons = policy.reasons(&Credentials::of_user(user), right, &filter(what));
        reasons.iter().map(|rule| rule.line).collect()
    };
    assert_eq!(lines(1001, Right::Publish, "a"), [1, 4]);
    assert_eq!(lines(1002, Right::Publish, "a"), [0usize; 0]);
    assert_eq!(lines(1002, Right::Subscribe, "**"), [3]);
    assert_eq!(lines(1002, Right::Join, "**"), [3]);
}

#[test]
fn a_mistake_says_where_and_what_to_do() {
    for (text, where_, what) in [
        ("permit user:1 join", "line 1, column 1:", "write one such as 'allow user:alice publish sensors/*'"),
        ("deny user:1 join", "line 1, column 1:", "\"deny\" begins no line"),
        ("\n\n allow", "line 3, column 7:", "'user:NAME', 'group:NAME', 'host:NAME' or 'anyone' is expected"),
        ("allow alice join", "line 1, column 7:", "\"alice\" means nobody"),
        ("allow user: join", "line 1, column 7:", "means nobody"),
        ("allow user:mallory join", "line 1, column 7:", "(id -u NAME)"),
        ("allow group:alice join", "line 1, column 7:", "\"alice\" does not stand in /etc/group"),
        ("allow user:65534 join", "line 1, column 7:", "'anyone' if you mean everybody"),
        ("allow group:4294967295 join", "line 1, column 7:", "no certain user or group"),
        ("allow user:99999999999 join", "line 1, column 7:", "no certain user or group"),
        ("allow user:1 fly", "line 1, column 14:", "'join', 'publish FILTER' or 'subscribe FILTER'"),
        ("allow user:1 publish", "line 1, column 21:", "a filter such as 'sensors/*'"),
        ("allow user:1 publish # a", "line 1, column 22:", "a filter such as 'sensors/*'"),
        ("allow user:1 publish a/[b", "line 1, column 24:", "this bracket has no partner"),
        ("allow user:1 publish a, b", "line 1, column 23:", "',' is not allowed"),
        ("allow user:1 join a", "line 1, column 19:", "\"a\" is too much"),
        ("# ä\nallow ä:1 join", "line 2, column 7:", "means nobody"),
    ] {
        let error = error(text);
        assert!(error.starts_with(where_) && error.contains(what), "{text:?}: {error}");
    }
    let bytes = Policy::parse(b"# \xc3\xa4 \xff", OWNER, &accounts()).unwrap_err();
    assert_eq!((bytes.line, bytes.column, bytes.problem), (1, 5, PolicyProblem::NotText));
}

#[test]
fn every_bound_is_kept_and_named() {
    assert!(error(&format!("\n{}", "#".repeat(MAX_LINE_BYTES + 1))).contains("longer than 512 bytes"));
    policy(&"#".repeat(MAX_LINE_BYTES));
    let line = "allow user:1 join\n";
    assert_eq!(policy(&line.repeat(MAX_RULES)).rules().len(), MAX_RULES);
    let many = error(&line.repeat(MAX_RULES + 1));
    assert!(many.starts_with("line 1025, column 1:") && many.contains("more than 1024 lines"), "{many}");
    assert_eq!(policy(&"\n".repeat(MAX_POLICY_BYTES)).rules().len(), 0);
    assert!(error(&"\n".repeat(MAX_POLICY_BYTES + 1)).contains("longer than 65536 bytes"));
}

#[test]
fn the_groups_of_a_user_are_the_own_one_and_those_that_list_it() {
    assert_eq!(accounts().groups_of(1001), [1001, 2000]);
    assert_eq!(accounts().groups_of(1002), [2000]);
    assert_eq!(accounts().user("alice"), Some(1001));
    assert_eq!((accounts().user("carol"), accounts().group("cameras")), (None, Some(2001)));
}

/// A line as a model sees it: whom, what, for which of a few services.
#[derive(Clone, Debug)]
struct Line {
    group: bool,
    number: u32,
    right: u8,
    filter: &'static str,
}

fn line() -> impl Strategy<Value = Line> {
    let filters = prop::sample::select(vec!["a", "a/*", "**", "b/?", "*/x", "a/**"]);
    (any::<bool>(), 1..4u32, 0..3u8, filters).prop_map(|(group, number, right, filter)| Line {
        group,
        number,
        right,
        filter,
    })
}

proptest! {
    /// The whole policy against its lines one by one: whatever is allowed is allowed by one of them, and
    /// adding lines takes nothing away.
    #[test]
    fn a_policy_is_the_sum_of_its_lines(lines in prop::collection::vec(line(), 0..6), user in 1..4u32, group in 1..4u32) {
        let text = |line: &Line| {
            let who = if line.group { "group" } else { "user" };
            let right = ["join", "publish ", "subscribe "][usize::from(line.right)];
            let filter = if line.right == 0 { "" } else { line.filter };
            format!("allow {who}:{} {right}{filter}\n", line.number)
        };
        let whole: String = lines.iter().map(text).collect();
        let person = Credentials { user, groups: vec![group] };
        let rights = policy(&whole).rights_of(&person);
        let single: Vec<Rights> = lines.iter().map(|line| policy(&text(line)).rights_of(&person)).collect();
        prop_assert_eq!(rights.join(), single.iter().any(Rights::join));
        prop_assert!(!rights.are_everything());
        for name in ["a", "a/x", "b/x", "b/xx", "c"] {
            let name = service(name);
            prop_assert_eq!(rights.publish(&name), single.iter().any(|one| one.publish(&name)));
            prop_assert_eq!(rights.read(&name), single.iter().any(|one| one.read(&name)));
            // What may be read may be subscribed to by name, and nothing else may.
            let by_name = Filter::exactly(name.clone());
            prop_assert_eq!(rights.read(&name), rights.subscribe(&by_name));
            let reasons = policy(&whole);
            prop_assert_eq!(rights.read(&name), !reasons.reasons(&person, Right::Subscribe, &by_name).is_empty());
            prop_assert_eq!(rights.publish(&name), !reasons.reasons(&person, Right::Publish, &by_name).is_empty());
        }
    }

    /// What is printed reads back as the same.
    #[test]
    fn any_text_is_a_policy_or_a_refusal(text in "(allow|deny| |\t|#|\n|user:[0-9]{1,3}|group:x|anyone|join|publish|subscribe|[a-c/*?\\[\\]]{1,4}|ä){0,24}") {
        match Policy::parse(text.as_bytes(), OWNER, &accounts()) {
            Ok(found) => {
                let printed: String = found.rules().iter().map(|rule| format!("{rule}\n")).collect();
                let again = policy(&printed);
                let grants = |policy: &Policy| policy.rules().iter().map(ToString::to_string).collect::<Vec<_>>();
                prop_assert_eq!(grants(&again), grants(&found));
            }
            Err(error) => {
                let line = text.split('\n').nth(error.line - 1).unwrap();
                prop_assert!(error.column <= line.chars().count() + 1, "{}", error);
            }
        }
    }
}
