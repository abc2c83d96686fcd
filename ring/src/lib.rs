//! Shared memory and lock-free rings.
