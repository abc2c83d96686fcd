//! What the policy of the hive lets cross which link.
//!
//! Edge `policy`: [`Permits::look`] counts versions up (release) after it has put another policy in force; an
//! import that sees another version than before (acquire) asks again.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hivemind_core::link::candidate::Candidate;
use hivemind_core::name::ServiceName;
use hivemind_core::policy::{Policy, Right};
use hivemind_runtime::policy_file as file;

use hivemind_runtime::lock;

/// The policy keeps a publisher from crossing.
#[derive(Debug, thiserror::Error)]
#[error("the policy has no line 'allow host:{host} publish {service}'")]
pub(super) struct NotPermitted {
    host: String,
    service: ServiceName,
}

/// What may come in, beside what the rules of links say.
pub(super) trait Admit: Send + Sync {
    /// Whether this publisher may.
    fn check(&self, candidate: &Candidate) -> Result<(), NotPermitted>;

    /// Another number when [`Admit::check`] may say something else.
    fn version(&self) -> u64;
}

/// The policy, as it was when the file was looked at last. An invalid one is refused, and what was in force
/// stays so.
pub(super) struct Permits {
    file: Option<(PathBuf, u32)>,
    state: Mutex<State>,
    version: AtomicU64,
}

struct State {
    policy: Policy,
    /// Which file it was read from, and when that was written.
    read: Option<Mark>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    changed: (i64, i64),
}

impl Permits {
    pub(super) fn new(file: Option<(PathBuf, u32)>) -> Permits {
        let owner = file.as_ref().map_or(0, |(_, owner)| *owner);
        let state = State { policy: Policy::owner_only(owner), read: None };
        let permits = Permits { file, state: Mutex::new(state), version: AtomicU64::new(0) };
        permits.look();
        permits
    }

    /// True: another policy is in force than before.
    pub(super) fn look(&self) -> bool {
        let Some((path, owner)) = &self.file else { return false };
        let mark = std::fs::symlink_metadata(path)
            .ok()
            .map(|found| Mark { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) });
        let mut state = lock(&self.state);
        if mark == state.read {
            return false;
        }
        state.read = mark;
        match file::read(path, *owner) {
            Ok(policy) if policy == state.policy => false,
            Ok(policy) => {
                state.policy = policy;
                // Release, edge policy: a thread that sees the number finds the policy.
                self.version.fetch_add(1, Ordering::Release);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the policy of links stays as it was");
                false
            }
        }
    }

    pub(super) fn may_get(&self, host: &str, service: &ServiceName) -> bool {
        lock(&self.state).policy.lets_cross(host, Right::Subscribe, service)
    }
}

/// What one host may publish here.
pub(super) struct OfHost {
    pub(super) host: String,
    pub(super) permits: Arc<Permits>,
}

impl Admit for OfHost {
    fn check(&self, candidate: &Candidate) -> Result<(), NotPermitted> {
        let state = lock(&self.permits.state);
        if state.policy.lets_cross(&self.host, Right::Publish, &candidate.service) {
            return Ok(());
        }
        Err(NotPermitted { host: self.host.clone(), service: candidate.service.clone() })
    }

    fn version(&self) -> u64 {
        // Acquire, edge policy.
        self.permits.version.load(Ordering::Acquire)
    }
}
