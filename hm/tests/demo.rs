//! The demo, from its first process to its last: the real program on live data, with its three kills.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hm"));
    command.env("HIVEMIND_DIR", folder).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

// The figures themselves are the machine's; what must hold on every machine is that they add up.
#[test]
fn three_kills_lose_nothing_that_is_not_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).args(["demo", "--seconds", "6", "--json"]).output().unwrap();
    let (printed, complaints) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{printed}\n{complaints}");
    let last: Value =
        serde_json::from_str(printed.lines().last().unwrap()).expect("the last line is one JSON object");
    assert_eq!(last["ok"], true);
    assert_eq!(last["complaints"], serde_json::json!([]));
    assert_eq!((&last["torn"], &last["disordered"]), (&0.into(), &0.into()));

    let kills = last["kills"].as_array().unwrap();
    let victims: Vec<&Value> = kills.iter().map(|kill| &kill["victim"]).collect();
    assert_eq!(victims, ["the host of the root", "a subscriber", "a publisher"]);
    assert!(kills.iter().all(|kill| kill["gaps"]["longest"]["gap_ns"].as_u64().is_some_and(|gap| gap > 0)));
    assert!(kills[0]["hosted_root"] == true && kills[0]["successor"]["pid"].is_u64());

    let pairs = last["pairs"].as_array().unwrap();
    let count = |pair: &Value, field: &str| pair[field].as_u64().unwrap();
    for pair in pairs {
        let accounted = count(pair, "first") + count(pair, "received") + count(pair, "lost");
        assert_eq!(accounted, count(pair, "published"), "{pair}");
        assert!(pair["reliable"] == false || count(pair, "lost") == 0, "{pair}");
    }
    let has = |service: &str, killed: bool| {
        pairs.iter().any(|pair| pair["service"] == service && pair["publisher_killed"] == killed)
    };
    assert!(has("machine/cpu", false) && has("frames/screen", false));
    assert!(has("frames/screen", true), "the killed publisher is accounted for, too");
    let left: Vec<_> = folder.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "the demo removes its folder: {left:?}");
}
