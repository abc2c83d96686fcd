//! The policy of a hive: which users and groups may join it, publish what, and subscribe to what.
//!
//! ```text
//! # a comment                                  WHO              RIGHT
//! allow user:alice publish sensors/*           user:NAME|ID     join
//! allow group:robots subscribe sensors/**      group:NAME|ID    publish FILTER
//! allow anyone subscribe public/**             anyone           subscribe FILTER
//! allow user:1001 join
//! allow host:station subscribe camera/**       host:NAME|*      (another host, over a link)
//! ```
//!
//! - The owner of the hive may do everything, and nobody else anything that no line allows. There are no
//!   lines that deny, so the order of the lines does not matter, and no line can take away what another one
//!   gives.
//! - Whoever may publish or subscribe something may join; `join` alone is for those who only look (`hm ls`).
//! - A publisher needs a line whose filter matches the name of its service; so does a subscription by name. A
//!   subscription by pattern is accepted when some service that it means could be allowed; it is introduced
//!   only to services whose names the lines allow, and hears nothing of the others.
//! - Lines for hosts say what may cross which link: what a host may publish here, and what it may get.
//!   Without any such line everything may cross to and from hosts with a key of the hive; with one, only what
//!   a line allows.
//! - A group is that of a process or one of its supplementary groups, as the kernel knew them when it
//!   connected.
//!
//! Here nothing is read and nothing is done: [`Policy::parse`] and [`Policy::rights_of`] are pure. The
//! runtime reads the file, the root applies it. If a process dies, nothing is left of this; the next root
//! reads the file itself.
use std::fmt;
use std::sync::Arc;

use crate::filter::Filter;
use crate::name::ServiceName;

mod accounts;
mod error;
mod parse;

pub use self::accounts::Accounts;
pub use self::error::{PolicyError, PolicyProblem};
pub use crate::protocol::Right;

/// The longest file of a policy, in bytes.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;
/// The longest line of a policy, in bytes.
pub const MAX_LINE_BYTES: usize = 512;
/// The most lines of a policy that allow something.
pub const MAX_RULES: usize = 1024;
/// What the kernel calls every user or group that it cannot name in this namespace. A line for it would mean
/// all of them.
pub const OVERFLOW_ID: u32 = 65_534;

/// Who a process is, as the kernel said when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: u32,
    /// The group and the supplementary groups, in any order.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// A user without groups.
    #[must_use]
    pub fn of_user(user: u32) -> Credentials {
        Credentials { user, groups: Vec::new() }
    }
}

/// Whom a line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This user.
    User(u32),
    /// Whoever is in this group.
    Group(u32),
    /// Everybody on this machine.
    Anyone,
}

impl Who {
    fn means(self, credentials: &Credentials) -> bool {
        match self {
            Who::User(user) => credentials.user == user,
            Who::Group(group) => credentials.groups.contains(&group),
            Who::Anyone => true,
        }
    }
}

/// What a line allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// To be in the hive and look.
    Join,
    /// To publish services that match.
    Publish(Filter),
    /// To subscribe to services that match.
    Subscribe(Filter),
}

/// A line that allows something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands, from 1.
    pub line: usize,
    /// Whom it means.
    pub who: Who,
    /// What it allows.
    pub grant: Grant,
}

/// See the head of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    owner: u32,
    rules: Vec<Rule>,
    hosts: Vec<HostRule>,
}

/// A line that lets something cross a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// Where it stands, from 1.
    pub line: usize,
    /// The name of the other host; `*`: of every one.
    pub host: String,
    /// What it allows; never [`Grant::Join`].
    pub grant: Grant,
}

impl Policy {
    /// What holds without a file: the owner may do everything, nobody else anything.
    #[must_use]
    pub fn owner_only(owner: u32) -> Policy {
        Policy { owner, rules: Vec::new(), hosts: Vec::new() }
    }

    /// Reads the text of a policy. `accounts` knows the names of users and groups.
    ///
    /// # Errors
    /// The first mistake, with its line and column.
    pub fn parse(text: &[u8], owner: u32, accounts: &Accounts) -> Result<Policy, PolicyError> {
        let (rules, hosts) = parse::rules(text, accounts)?;
        Ok(Policy { owner, rules, hosts })
    }

    /// Whose hive it is.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// The lines that allow something, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The lines for links, in order.
    #[must_use]
    pub fn host_rules(&self) -> &[HostRule] {
        &self.hosts
    }

    /// Whether this service may cross the link with a host: be published here for it (`Right::Publish`), or
    /// be sent there.
    #[must_use]
    pub fn lets_cross(&self, host: &str, right: Right, service: &ServiceName) -> bool {
        let allows = |rule: &HostRule| {
            let (Grant::Publish(filter) | Grant::Subscribe(filter)) = &rule.grant else { return false };
            let is_of_right = match rule.grant {
                Grant::Publish(_) => right == Right::Publish,
                _ => right == Right::Subscribe,
            };
            is_of_right && (rule.host == "*" || rule.host == host) && filter.matches(service.as_str())
        };
        self.hosts.is_empty() || self.hosts.iter().any(allows)
    }

    /// True when somebody besides the owner may join.
    #[must_use]
    pub fn admits_others(&self) -> bool {
        !self.rules.is_empty()
    }

    /// All that a process may do.
    #[must_use]
    pub fn rights_of(&self, credentials: &Credentials) -> Rights {
        if credentials.user == self.owner {
            return Rights::everything();
        }
        let (mut publish, mut subscribe, mut join) = (Vec::new(), Vec::new(), false);
        for rule in self.rules.iter().filter(|rule| rule.who.means(credentials)) {
            join = true;
            match &rule.grant {
                Grant::Join => {}
                Grant::Publish(filter) => publish.push(filter.clone()),
                Grant::Subscribe(filter) => subscribe.push(filter.clone()),
            }
        }
        Rights(Arc::new(Extent::Some { join, publish, subscribe }))
    }

    /// The lines because of which a process may do this; none, and it may not. (The owner needs none.) `what`
    /// is the name of a service, or for a subscription also a pattern; nothing else is looked at for
    /// [`Right::Join`].
    #[must_use]
    pub fn reasons(&self, credentials: &Credentials, right: Right, what: &Filter) -> Vec<&Rule> {
        let allows = |rule: &&Rule| match (&rule.grant, right) {
            (_, Right::Join) => true,
            (Grant::Publish(filter), Right::Publish) | (Grant::Subscribe(filter), Right::Subscribe) => {
                filter.overlaps(what)
            }
            _ => false,
        };
        self.rules.iter().filter(|rule| rule.who.means(credentials)).filter(allows).collect()
    }
}

/// All that one process may do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rights(Arc<Extent>);

#[derive(Debug)]
enum Extent {
    Everything,
    Some { join: bool, publish: Vec<Filter>, subscribe: Vec<Filter> },
}

impl Rights {
    fn everything() -> Rights {
        Rights(Arc::new(Extent::Everything))
    }

    /// True for the owner of the hive, who alone may also take the root over.
    #[must_use]
    pub fn are_everything(&self) -> bool {
        matches!(*self.0, Extent::Everything)
    }

    /// Whether it may be in the hive.
    #[must_use]
    pub fn join(&self) -> bool {
        match &*self.0 {
            Extent::Everything => true,
            Extent::Some { join, .. } => *join,
        }
    }

    /// Whether it may publish this service.
    #[must_use]
    pub fn publish(&self, service: &ServiceName) -> bool {
        match &*self.0 {
            Extent::Everything => true,
            Extent::Some { publish, .. } => publish.iter().any(|filter| filter.matches(service.as_str())),
        }
    }

    /// Whether it may read this service.
    #[must_use]
    pub fn read(&self, service: &ServiceName) -> bool {
        match &*self.0 {
            Extent::Everything => true,
            Extent::Some { subscribe, .. } => subscribe.iter().any(|filter| filter.matches(service.as_str())),
        }
    }

    /// Whether a subscription of this filter may stand: it could mean a service that may be read.
    #[must_use]
    pub fn subscribe(&self, wanted: &Filter) -> bool {
        match &*self.0 {
            Extent::Everything => true,
            Extent::Some { subscribe, .. } => subscribe.iter().any(|filter| filter.overlaps(wanted)),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::User(user) => write!(formatter, "user:{user}"),
            Who::Group(group) => write!(formatter, "group:{group}"),
            Who::Anyone => formatter.write_str("anyone"),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Join => formatter.write_str("join"),
            Grant::Publish(filter) => write!(formatter, "publish {filter}"),
            Grant::Subscribe(filter) => write!(formatter, "subscribe {filter}"),
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "allow host:{} {}", self.host, self.grant)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "allow {} {}", self.who, self.grant)
    }
}

#[cfg(test)]
mod tests;
