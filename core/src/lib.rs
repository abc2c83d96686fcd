//! The root of a hive.
pub mod filter;
pub mod name;
pub mod protocol;
pub mod registry;
pub mod root;
pub mod runtime_dir;
pub mod schema;
pub mod session;
mod socket;
