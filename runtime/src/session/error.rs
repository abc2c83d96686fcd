//! Why a node cannot join, announce or ask; and what it waited for.
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hivemind_ring::fork::Forked;

use super::Unanswered;
use crate::remedy::remedy;
use crate::rounded::rounded;
use crate::runtime_dir::RuntimeDirError;
use hivemind_core::contract::{Carried, Kind, Pattern};
use hivemind_core::filter::FilterError;
use hivemind_core::name::{NameError, NodeName, ServiceName};
use hivemind_core::protocol::{EndId, Refusal, Right, VERSION, bounded_reason, not_allowed};
use hivemind_core::schema::Schema;

/// What was missing when patience ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitedFor {
    /// Nobody listens at this path, and this node does not host a root itself.
    Root {
        /// Where the root would listen.
        path: PathBuf,
    },
    /// Nobody of the user who owns the hive listens at this path, and nobody else can host its root.
    RootOf {
        /// Where the root would listen.
        path: PathBuf,
        /// Whose hive it is.
        owner: u32,
    },
    /// The folder of another user's hive is closed.
    OpenDoor {
        /// The folder.
        path: PathBuf,
        /// Whose hive it is.
        owner: u32,
    },
    /// Somebody holds the lock, but nobody listens.
    LockHolder {
        /// The lock file.
        path: PathBuf,
        /// Who took the lock last, as far as the file says; 0 when it says nothing.
        pid: i32,
    },
    /// A dedicated root was said to take over.
    Successor {
        /// Its process.
        pid: i32,
    },
    /// The root is there and does not answer.
    Answer {
        /// Its process.
        pid: i32,
    },
    /// The root is embedded, and a dedicated one is wanted.
    DedicatedRoot {
        /// The process that hosts the embedded one.
        pid: i32,
    },
    /// The root refused for a reason that may pass.
    BetterAnswer {
        /// The reason.
        refusal: String,
    },
    /// This process cannot do what it must; the reason may pass.
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said, and what to do about it.
        error: String,
    },
}

impl fmt::Display for WaitedFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitedFor::Root { path } => write!(
                formatter,
                "there is no root at {}; start one with `hm root`, or let this node host it",
                path.display()
            ),
            WaitedFor::RootOf { path, owner } => write!(
                formatter,
                "there is no root at {}, and only user {owner} can host it; start a node or `hm root` as that user",
                path.display()
            ),
            WaitedFor::OpenDoor { path, owner } => write!(
                formatter,
                "{} is closed to this user; user {owner} opens it with a line in its policy and `hm policy check`, which \
                 says what else is closed",
                path.display()
            ),
            WaitedFor::LockHolder { path, pid } => write!(
                formatter,
                "process {pid} holds {} but does not listen; see whether it is stopped, or end it",
                path.display()
            ),
            WaitedFor::Successor { pid } => {
                write!(formatter, "process {pid} was to take over as root and does not listen yet")
            }
            WaitedFor::Answer { pid } => write!(
                formatter,
                "the root in process {pid} does not answer; see whether it is stopped, or end it"
            ),
            WaitedFor::DedicatedRoot { pid } => write!(
                formatter,
                "the root is embedded in process {pid} and a dedicated one is wanted; start one with `hm root`"
            ),
            WaitedFor::BetterAnswer { refusal } => formatter.write_str(refusal),
            WaitedFor::System { doing, error } => write!(formatter, "cannot {doing}: {error}"),
        }
    }
}

/// Why a node is not in the hive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A live node has this name. Choose another name or stop it.
    #[error("{name} is the name of a live node, process {pid}; choose another name or stop it")]
    NodeNameTaken {
        /// The name.
        name: NodeName,
        /// Its process, as the root sees it.
        pid: i32,
    },
    /// The runtime directory cannot be used. Follow its message.
    #[error(transparent)]
    Directory(#[from] RuntimeDirError),
    /// No root within the patience. Follow what is missing, or wait longer.
    #[error("no root after {}: {what}", rounded(*waited))]
    NoRoot {
        /// How long this was tried.
        waited: Duration,
        /// What was missing.
        what: WaitedFor,
    },
    /// The root speaks another version. Use programs of one version in a hive.
    #[error("the root speaks protocol version {theirs}, this program {ours}; use programs of one version")]
    Version {
        /// What this program speaks.
        ours: u32,
        /// What the root speaks.
        theirs: u32,
    },
    /// The process that listens in the folder of the hive is not its owner's. Set HIVEMIND_DIR to a folder
    /// that only its owner may write to, and HIVEMIND_OWNER to that user if it is another.
    #[error(
        "the process that listens belongs to user {user}, but the hive to user {owner}; set HIVEMIND_DIR to a folder that \
         only its owner may write to, and HIVEMIND_OWNER to that user if it is another"
    )]
    Stranger {
        /// Whose hive it is.
        owner: u32,
        /// Whose process listens.
        user: u32,
    },
    /// The policy of the hive does not let this user in. Its owner can add a line.
    #[error("{}", not_allowed(*owner, *user, Right::Join, ""))]
    NotAllowed {
        /// Whose hive it is.
        owner: u32,
        /// Who we are, as the root sees it.
        user: u32,
    },
    /// This process has no file descriptors left. Raise `ulimit -n`.
    #[error("cannot {doing}: no file descriptors left ({error}); raise `ulimit -n`")]
    Descriptors {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The system refused: for want of memory, threads or space, mostly. The message says what gives it more.
    #[error("cannot {doing}: {error}; {}", remedy(error))]
    Resources {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The root refused. Follow its reason.
    #[error("the root refused: {refusal}")]
    Refused {
        /// Its reason.
        refusal: String,
    },
    /// The control thread panicked; its message says where. Please report it.
    #[error("the control thread panicked; its message stands above, please report it")]
    Crashed,
}

impl JoinError {
    pub(super) fn system(doing: &'static str, error: io::Error) -> JoinError {
        if crate::root::server::is_out_of_descriptors(&error) {
            JoinError::Descriptors { doing, error }
        } else {
            JoinError::Resources { doing, error }
        }
    }

    pub(super) fn version(theirs: u32) -> JoinError {
        JoinError::Version { ours: VERSION, theirs }
    }
}

/// Why a publisher or a subscription does not stand.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// The service has another type. Use that type, or another name.
    #[error(
        "{service} carries {theirs} in node {holder}, not {ours} ({difference}); use that type or another name"
    )]
    TypeMismatch {
        /// The service.
        service: ServiceName,
        /// The name of the type here.
        ours: String,
        /// The name of the type there.
        theirs: String,
        /// The first difference.
        difference: String,
        /// The node whose publisher fixes the type.
        holder: NodeName,
    },
    /// The service is for something else. Use another name.
    #[error("{service} is used for {theirs} in node {holder}, not for {ours}; use another name")]
    PatternMismatch {
        /// The service.
        service: ServiceName,
        /// What it is to be for here.
        ours: Pattern,
        /// What it is for there.
        theirs: Pattern,
        /// The node whose publisher fixes it.
        holder: NodeName,
    },
    /// A service name that does not parse. It says where.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A filter that does not parse. It says where.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The description of the type is too large. Use a simpler type.
    #[error("the description of the type has {length} bytes, {limit} are possible; use a simpler type")]
    TooLarge {
        /// Its bytes.
        length: usize,
        /// The most bytes possible.
        limit: usize,
    },
    /// A table of the root is full. Use fewer.
    #[error("too many {what}: {limit} are possible; use fewer")]
    Limit {
        /// Of what there are too many.
        what: String,
        /// How many there may be.
        limit: u64,
    },
    /// No root within the patience. Follow what is missing, or wait longer.
    #[error("no answer after {}: {what}", rounded(*waited))]
    NoRoot {
        /// How long this was tried.
        waited: Duration,
        /// What was missing.
        what: WaitedFor,
    },
    /// This node only looks. Join without `NodeBuilder::observer`.
    #[error("an observer may not publish or subscribe; join without `observer`")]
    Observer,
    /// The policy of the hive does not let this user do that. Its owner can add a line.
    #[error("{}", not_allowed(*owner, *user, *right, what))]
    NotAllowed {
        /// Whose hive it is.
        owner: u32,
        /// Who we are, as the root sees it.
        user: u32,
        /// What we wanted to do,
        right: Right,
        /// and to which service or filter.
        what: String,
    },
    /// The node is leaving. Join again.
    #[error("the node has left the hive; join again with `Node::join`")]
    Left,
    /// The node belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The root refused. Follow its reason.
    #[error("the root refused: {refusal}")]
    Refused {
        /// Its reason.
        refusal: String,
    },
}

impl From<Unanswered> for AnnounceError {
    fn from(unanswered: Unanswered) -> AnnounceError {
        match unanswered {
            Unanswered::Forked(forked) => AnnounceError::Forked(forked),
            Unanswered::Left => AnnounceError::Left,
            Unanswered::NoRoot { waited, what } => AnnounceError::NoRoot { waited, what },
            Unanswered::TooMany => {
                AnnounceError::Limit { what: REQUESTS.to_owned(), limit: super::MAX_REQUESTS as u64 }
            }
        }
    }
}

const REQUESTS: &str = "requests at once in one node";

impl AnnounceError {
    /// The answer of the root in the words of the caller. `kind` and `pattern` are those of what
    /// was announced.
    pub(super) fn from_refusal(refusal: Refusal, kind: Option<&Kind>, pattern: Pattern) -> AnnounceError {
        match refusal {
            Refusal::OtherType(carried) => {
                let Mismatch { ours, theirs, difference } = Mismatch::between(kind, &carried.kind);
                let Carried { service, holder, .. } = *carried;
                AnnounceError::TypeMismatch { service, ours, theirs, difference, holder }
            }
            Refusal::OtherPattern(carried) => {
                let Carried { service, pattern: theirs, holder, .. } = *carried;
                AnnounceError::PatternMismatch { service, ours: pattern, theirs, holder }
            }
            Refusal::Limit { what, limit } => AnnounceError::Limit { what: what.to_string(), limit },
            Refusal::NotAllowed { owner, user, right, what } => {
                AnnounceError::NotAllowed { owner, user, right, what }
            }
            other => AnnounceError::Refused { refusal: other.to_string() },
        }
    }
}

/// Two types that are not the same, in words. "Here" is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The name of the type here.
    pub ours: String,
    /// The name of the type there.
    pub theirs: String,
    /// The first difference, such as `Pose.frame is missing here`.
    pub difference: String,
}

impl Mismatch {
    /// Compares two types by their descriptions; the fingerprint of theirs stands for it if nothing better is
    /// there.
    #[must_use]
    pub fn between(ours: Option<&Kind>, theirs: &Kind) -> Mismatch {
        let Kind { fingerprint, .. } = theirs;
        let parse = |kind: &Kind| Schema::from_bytes(&kind.schema).ok();
        let (ours, theirs) = (ours.and_then(parse), parse(theirs));
        let difference = match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => ours.difference(theirs),
            _ => None,
        };
        let name = |schema: Option<Schema>, other: String| {
            schema.map_or(other, |schema| schema.type_name().to_owned())
        };
        Mismatch {
            ours: name(ours, "another type".to_owned()),
            theirs: name(theirs, format!("a type of fingerprint {fingerprint:032x}")),
            // The names of fields are a stranger's, and may be long.
            difference: bounded_reason(difference.unwrap_or_else(|| "their fingerprints differ".to_owned())),
        }
    }
}

/// Why a question was not answered.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No root within the patience. Follow what is missing, or wait longer.
    #[error("no answer after {}: {what}", rounded(*waited))]
    NoRoot {
        /// How long this was tried.
        waited: Duration,
        /// What was missing.
        what: WaitedFor,
    },
    /// The node is leaving. Join again.
    #[error("the node has left the hive; join again with `Node::join`")]
    Left,
    /// The node belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// There is no such end (any more). List again.
    #[error("there is no end {end}; list again, it may have just gone")]
    Gone {
        /// Which.
        end: EndId,
    },
    /// This process has no file descriptors left. Raise `ulimit -n`.
    #[error("this process has no file descriptors left; raise `ulimit -n`")]
    Descriptors,
    /// Too many questions at once. Ask fewer.
    #[error("too many questions at once: {limit} are possible; ask fewer")]
    Limit {
        /// How many there may be.
        limit: u64,
    },
    /// The root refused. Follow its reason.
    #[error("the root refused: {refusal}")]
    Refused {
        /// Its reason.
        refusal: String,
    },
}

impl From<Unanswered> for SessionError {
    fn from(unanswered: Unanswered) -> SessionError {
        match unanswered {
            Unanswered::Forked(forked) => SessionError::Forked(forked),
            Unanswered::Left => SessionError::Left,
            Unanswered::NoRoot { waited, what } => SessionError::NoRoot { waited, what },
            Unanswered::TooMany => SessionError::Limit { limit: super::MAX_REQUESTS as u64 },
        }
    }
}

impl From<Refusal> for SessionError {
    fn from(refusal: Refusal) -> SessionError {
        match refusal {
            Refusal::UnknownEnd { end } => SessionError::Gone { end },
            Refusal::Limit { limit, .. } => SessionError::Limit { limit },
            other => SessionError::Refused { refusal: other.to_string() },
        }
    }
}
