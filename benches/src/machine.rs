//! Where and on what a figure was measured: printed at the head of every report.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The facts without which a figure says nothing.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub processor: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Operating system, release and architecture.
    pub kernel: String,
    /// The commit of the source tree, with `+` if it had uncommitted changes.
    pub commit: String,
    /// Load averages of 1, 5 and 15 minutes when the harness started.
    pub load: String,
    /// `release` or `debug`: figures of a debug build are no claims.
    pub profile: &'static str,
}

impl Machine {
    /// Reads the facts; what cannot be read is `unknown`.
    pub fn here(cores: usize) -> Machine {
        Machine {
            processor: processor().unwrap_or_else(unknown),
            cores,
            kernel: kernel().unwrap_or_else(unknown),
            commit: commit().unwrap_or_else(unknown),
            load: load().unwrap_or_else(unknown),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("CPU part"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kernel() -> Option<String> {
    let names = nix::sys::utsname::uname().ok()?;
    let part = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    Some(format!("{} {} {}", part(names.sysname()), part(names.release()), part(names.machine())))
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}+") })
}

fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}
