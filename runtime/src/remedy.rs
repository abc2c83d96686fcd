//! What to do about an error of the operating system, so that every error of ours ends in it.
//!
//! The system says what it lacks and not what gives it more of that. Whoever reads a log at night wants the
//! second.
use std::io;

use nix::errno::Errno;

/// What gives the system more of what it lacks.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => "raise `ulimit -n`",
        Some(Errno::ENFILE) => "close programs, or raise `sysctl fs.file-max`",
        Some(Errno::ENOMEM | Errno::ENOBUFS | Errno::ETOOMANYREFS) => {
            "free memory on this machine, or raise this container's limit"
        }
        Some(Errno::EAGAIN) => "raise the limit of threads (`ulimit -u`, a container's pids), or free memory",
        Some(Errno::ENOSPC | Errno::EDQUOT) => {
            "free space where the hive has its folder, or raise `sysctl fs.epoll.max_user_watches`"
        }
        Some(Errno::EROFS) => "set HIVEMIND_DIR to a folder that can be written to",
        Some(Errno::ENOLCK) => "set HIVEMIND_DIR to a folder on a local file system, which has locks",
        Some(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => "allow it to this user and in this sandbox",
        _ => "look at what the system says, and try again",
    }
}

/// An error of the system with its remedy, for texts that are kept.
pub(crate) fn with_remedy(error: &io::Error) -> String {
    format!("{error}; {}", remedy(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Cannot watch the root: Cannot allocate memory" was all that a user heard: the story of every error
    /// below.
    #[test]
    fn an_error_of_the_system_says_what_to_do() {
        for (errno, wanted) in [
            (Errno::EMFILE, "raise `ulimit -n`"),
            (Errno::ENOMEM, "free memory"),
            (Errno::EAGAIN, "limit of threads"),
            (Errno::ENOSPC, "free space"),
            (Errno::EPERM, "allow it"),
            (Errno::EIO, "try again"),
        ] {
            let error = io::Error::from(errno);
            let text = with_remedy(&error);
            assert!(text.starts_with(&error.to_string()) && text.contains(wanted), "{text}");
        }
    }
}
