//! One idea each: `cargo run --example NAME`, where NAME is a file beside this one.
