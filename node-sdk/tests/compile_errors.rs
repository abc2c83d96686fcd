//! What the compiler says to somebody whose type cannot be a message: one sentence, at the right place, with
//! the remedy.
//!
//! After a change of the texts, look at the differences and run once with `TRYBUILD=overwrite`.

use std::process::Command;

#[test]
fn a_type_that_cannot_be_a_message_is_refused_with_the_reason() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    // The compiler words these itself, around our sentence, and each release words them a little differently.
    if compiler_version().starts_with("rustc 1.95.") {
        cases.compile_fail("tests/ui/compiler/*.rs");
    }
}

fn compiler_version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("cargo found a compiler, so it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
