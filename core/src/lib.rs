//! The root of a hive.
