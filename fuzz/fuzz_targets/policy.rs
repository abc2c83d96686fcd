//! The policy of a hive: text that an owner wrote, or what a broken editor left of it.
//!
//! Any bytes are a policy or a refusal whose place lies in the text. A policy reads back as it prints itself;
//! what it allows is allowed by one of its lines; a name may be read exactly when it may be subscribed to;
//! and nobody but the owner gets everything.
#![no_main]

use hivemind_core::filter::Filter;
use hivemind_core::name::ServiceName;
use hivemind_core::policy::{Accounts, Credentials, Grant, Policy, Right, Who};
use libfuzzer_sys::fuzz_target;

const OWNER: u32 = 1000;
const SERVICES: [&str; 4] = ["a", "sensors/pose", "sensors/arm/pose", "cam-1"];
const PATTERNS: [&str; 4] = ["**", "sensors/*", "*/pose", "cam-[0-9]"];

fuzz_target!(|input: &[u8]| {
    let accounts = Accounts::parse("alice:x:1001:2000::/:/bin/sh\n", "robots:x:2000:alice\n");
    let policy = match Policy::parse(input, OWNER, &accounts) {
        Ok(policy) => policy,
        Err(error) => {
            let line = input.split(|byte| *byte == b'\n').nth(error.line - 1).expect("the line is there");
            assert!(error.column >= 1 && error.column <= line.len() + 1, "{error}");
            return;
        }
    };
    let printed: String = policy.rules().iter().map(|rule| format!("{rule}\n")).collect();
    let again = Policy::parse(printed.as_bytes(), OWNER, &accounts).expect("what is printed is a policy");
    assert!(
        again
            .rules()
            .iter()
            .map(|rule| (rule.who, &rule.grant))
            .eq(policy.rules().iter().map(|rule| (rule.who, &rule.grant)))
    );

    assert!(policy.rights_of(&Credentials::of_user(OWNER)).are_everything());
    let people = [(1001, vec![2000]), (1002, vec![]), (1002, vec![5, 2000]), (0, vec![0])];
    for (user, groups) in people {
        let person = Credentials { user, groups };
        let rights = policy.rights_of(&person);
        assert!(!rights.are_everything());
        let means = |who: Who| match who {
            Who::User(number) => number == person.user,
            Who::Group(number) => person.groups.contains(&number),
            Who::Anyone => true,
        };
        let lines = || policy.rules().iter().filter(|rule| means(rule.who)).map(|rule| &rule.grant);
        assert_eq!(rights.join(), lines().next().is_some());
        for name in SERVICES {
            let service = ServiceName::parse(name).expect("a name");
            let by_name = Filter::exactly(service.clone());
            let publish =
                lines().any(|grant| matches!(grant, Grant::Publish(filter) if filter.matches(name)));
            let read = lines().any(|grant| matches!(grant, Grant::Subscribe(filter) if filter.matches(name)));
            assert_eq!((rights.publish(&service), rights.read(&service)), (publish, read));
            assert_eq!(rights.subscribe(&by_name), read);
            assert_eq!(!policy.reasons(&person, Right::Publish, &by_name).is_empty(), publish);
            for pattern in PATTERNS {
                let pattern = Filter::parse(pattern).expect("a filter");
                // A user who may read something that the pattern means may subscribe to the pattern.
                assert!(!read || !pattern.matches(name) || rights.subscribe(&pattern));
            }
        }
    }
});
