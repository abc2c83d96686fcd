//! What a process holds: resident memory and descriptors, as the kernel counts them.

use std::fs;

use serde::{Deserialize, Serialize};

/// Memory and descriptors of one process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Resident memory in KiB (`VmRSS`), shared pages included.
    pub resident_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Resources {
    /// Of this process, now. What cannot be read is 0.
    pub fn now() -> Resources {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident_kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        Resources { resident_kib, descriptors }
    }
}
