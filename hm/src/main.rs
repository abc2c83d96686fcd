//! The command-line tool of hivemind.
fn main() {}
