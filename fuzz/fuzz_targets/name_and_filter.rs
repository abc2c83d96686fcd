//! Names and filters: text from a command line, a program or a peer. The input is a filter and a name, each
//! on a line.
//!
//! A name that parses reads back as it was and means itself as a filter; a filter that names one service
//! means that one and no other.
#![no_main]

use hivemind_core::filter::Filter;
use hivemind_core::name::{HiveName, NodeName, ServiceName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (filter, name) = input.split_once('\n').unwrap_or((input, input));
    let filter = Filter::parse(filter);
    let service = ServiceName::parse(name);
    for refused in [HiveName::parse(name).err(), NodeName::parse(name).err(), service.clone().err()] {
        assert!(refused.is_none_or(|error| !error.to_string().is_empty()));
    }
    if let Ok(service) = &service {
        assert_eq!(service.as_str(), name);
        assert_eq!(service.levels().collect::<Vec<_>>().join("/"), name);
        let own = Filter::parse(name).expect("a name is a filter");
        assert_eq!(own.is_exact().as_ref(), Some(service));
        assert!(own.matches(name) && Filter::exactly(service.clone()) == own);
        assert!(Filter::parse("**").expect("everything").matches(name));
    }
    let Ok(filter) = filter else { return };
    let matches = filter.matches(name);
    if let Some(exact) = filter.is_exact() {
        assert_eq!(matches, exact.as_str() == name);
    }
    assert_eq!(Filter::parse(filter.as_str()).as_ref(), Ok(&filter));
});
