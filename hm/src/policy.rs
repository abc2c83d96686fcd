//! `hm policy`: is the file right, who gets in by it, and what may this user do?
//!
//! What is read is the file, the same way as the root reads it: what is refused here is refused there, and
//! then the policy before it stays in force.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use hivemind::{Filter, FilterError};
use hivemind_core::policy::{Credentials, Right};
use hivemind_runtime::accounts::accounts_of_this_machine;
use hivemind_runtime::policy_file as file;
use hivemind_runtime::runtime_dir::{RuntimeDir, RuntimeDirError};

use crate::Place;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether the policy is right, what it allows, and which folders keep those out whom it lets in.
    ///
    /// Exits with 1 when the root would refuse it.
    Check {
        /// A file that is not in force (yet), instead of that of the hive.
        file: Option<PathBuf>,
    },
    /// Say whether a user may do something, and which lines allow it.
    ///
    /// Exits with 1 when it is denied.
    Explain {
        /// The user, by name or number.
        #[arg(long, value_name = "USER")]
        user: String,
        /// Groups to be in, by name or number, instead of those in which the user is after logging in.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// A file that is not in force (yet), instead of that of the hive.
        #[arg(long)]
        file: Option<PathBuf>,
        /// What to do.
        #[arg(value_enum)]
        act: Act,
        /// A service to publish, or a service or filter to subscribe to.
        #[arg(value_parser = Filter::parse, required_if_eq_any = [("act", "publish"), ("act", "subscribe")])]
        what: Option<Filter>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Act {
    Join,
    Publish,
    Subscribe,
}

/// Why there is no answer, or the answer is no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PolicyError {
    /// The runtime directory is not fit; the source says what to do.
    #[error(transparent)]
    Dir(#[from] RuntimeDirError),
    /// The root refuses this file; the source says why.
    #[error("{0}; the root refuses it, and what was in force before stays so")]
    File(#[from] file::PolicyFileError),
    /// Nobody of this name. Name a user of this machine, or give the number.
    #[error("there is no {kind} {name:?} here; name one of this machine, or give the number")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A pattern names no service that could be published. Name one.
    #[error("{filter} is a pattern; name one service to publish")]
    Pattern {
        /// What was asked for.
        filter: Filter,
    },
    /// What was asked for is denied. The owner of the hive can add the line.
    #[error("denied: no line allows it; the owner of the hive can add: allow user:{user} {act}")]
    Denied {
        /// The number of the user.
        user: u32,
        /// What it wanted.
        act: String,
    },
    /// No such text. It says where.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// Does what was asked for.
pub(crate) fn run(place: &Place, command: &PolicyCommand) -> Result<(), PolicyError> {
    let dir = place.runtime_dir()?;
    match command {
        PolicyCommand::Check { file } => check(&dir, file.as_deref()),
        PolicyCommand::Explain { user, groups, file, act, what } => {
            explain(&dir, file.as_deref(), &person(user, groups)?, *act, what.as_ref())
        }
    }
}

fn check(dir: &RuntimeDir, file: Option<&Path>) -> Result<(), PolicyError> {
    let path = file.unwrap_or(dir.policy_file());
    let policy = file::read(path, dir.owner())?;
    let mut out = io::stdout();
    let is_there = path.try_exists().unwrap_or(false);
    if !is_there {
        writeln!(out, "{}: there is no such file", path.display())?;
    }
    writeln!(out, "user {}, the owner of hive {}, may do everything", dir.owner(), dir.hive())?;
    for rule in policy.rules() {
        writeln!(out, "line {}: {rule}", rule.line)?;
    }
    writeln!(
        out,
        "{}",
        if policy.admits_others() { "nobody may do more" } else { "nobody else may do anything" }
    )?;
    if policy.admits_others() {
        closed_folders(dir, &mut out)?;
    }
    Ok(())
}

/// The folders above that of the hive, which the root leaves alone.
fn closed_folders(dir: &RuntimeDir, out: &mut impl Write) -> io::Result<()> {
    for folder in dir.path().ancestors().skip(1) {
        match folder.metadata() {
            Ok(found) if found.mode() & 0o001 == 0 => {
                let folder = folder.display();
                writeln!(out, "others cannot pass through {folder}; run: chmod o+x {folder}")?;
            }
            Ok(_) => {}
            Err(error) => writeln!(out, "cannot look at {}: {error}", folder.display())?,
        }
    }
    Ok(())
}

fn person(user: &str, groups: &[String]) -> Result<Credentials, PolicyError> {
    let accounts = accounts_of_this_machine();
    let unknown = |kind, name: &str| PolicyError::Unknown { kind, name: name.to_owned() };
    let number = user.parse().ok().or_else(|| accounts.user(user)).ok_or_else(|| unknown("user", user))?;
    if groups.is_empty() {
        return Ok(Credentials { user: number, groups: accounts.groups_of(number) });
    }
    let group = |name: &String| {
        let number = name.parse().ok().or_else(|| accounts.group(name));
        number.ok_or_else(|| unknown("group", name))
    };
    Ok(Credentials { user: number, groups: groups.iter().map(group).collect::<Result<_, _>>()? })
}

fn explain(
    dir: &RuntimeDir,
    file: Option<&Path>,
    person: &Credentials,
    act: Act,
    what: Option<&Filter>,
) -> Result<(), PolicyError> {
    let policy = file::read(file.unwrap_or(dir.policy_file()), dir.owner())?;
    let everything = Filter::parse("**")?;
    let what = what.filter(|_| act != Act::Join);
    let (right, asked) = match (act, what) {
        (Act::Publish, Some(filter)) if filter.is_exact().is_none() => {
            return Err(PolicyError::Pattern { filter: filter.clone() });
        }
        (Act::Publish, Some(filter)) => (Right::Publish, format!("publish {filter}")),
        (Act::Subscribe, Some(filter)) => (Right::Subscribe, format!("subscribe {filter}")),
        _ => (Right::Join, "join".to_owned()),
    };
    let filter = what.unwrap_or(&everything);
    let mut out = io::stdout();
    if person.user == policy.owner() {
        writeln!(out, "allowed: user {} owns the hive", person.user)?;
        return Ok(());
    }
    let reasons = policy.reasons(person, right, filter);
    if reasons.is_empty() {
        return Err(PolicyError::Denied { user: person.user, act: asked });
    }
    let is_part = right == Right::Subscribe && filter.is_exact().is_none();
    writeln!(out, "allowed{}", if is_part { ", as far as these lines go" } else { "" })?;
    for rule in reasons {
        writeln!(out, "line {}: {rule}", rule.line)?;
    }
    Ok(())
}

/// Why the root refuses the policy of this hive at present, for those who look at the hive.
pub(crate) fn trouble(dir: &RuntimeDir) -> Option<String> {
    // That of another user cannot be read, and need not.
    let refused = || file::read(dir.policy_file(), dir.owner()).err();
    dir.is_ours().then(refused).flatten().map(|error| error.to_string())
}
