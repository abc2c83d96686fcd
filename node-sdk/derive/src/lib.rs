//! The attribute `#[message]`.
