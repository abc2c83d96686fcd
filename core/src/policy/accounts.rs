//! The names of users and groups of this machine.
//!
//! Read from `/etc/passwd` and `/etc/group`, and not through the C library's name services: those may wait for the network,
//! load code into the process that hosts the root, and cannot be bounded. Who is known to a directory service alone is named in a
//! policy by number.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What is read of one of the files.
const MAX_BOOK_BYTES: u64 = 4 << 20;

/// Names and numbers.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: BTreeMap<String, (u32, u32)>,
    groups: BTreeMap<String, (u32, Vec<String>)>,
}

impl Accounts {
    /// Those of this machine. A file that cannot be read knows nobody.
    #[must_use]
    pub fn of_this_machine() -> Accounts {
        Accounts::parse(&book(Path::new("/etc/passwd")), &book(Path::new("/etc/group")))
    }

    /// From the texts of `/etc/passwd` and `/etc/group`; lines that are none are passed over, and the first of a name counts.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Accounts {
        let mut accounts = Accounts::default();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(_), Some(user), Some(group)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if let (Ok(user), Ok(group)) = (user.parse(), group.parse()) {
                accounts.users.entry(name.to_owned()).or_insert((user, group));
            }
        }
        for line in group.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if let Ok(number) = number.parse() {
                let members = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
                let members = members.map(str::to_owned).collect();
                accounts.groups.entry(name.to_owned()).or_insert((number, members));
            }
        }
        accounts
    }

    /// The number of a user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<u32> {
        self.users.get(name).map(|(user, _)| *user)
    }

    /// The number of a group.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name).map(|(group, _)| *group)
    }

    /// The groups that this user has after logging in.
    #[must_use]
    pub fn groups_of(&self, user: u32) -> Vec<u32> {
        let mut groups = Vec::new();
        for (name, (number, primary)) in &self.users {
            if *number == user {
                groups.push(*primary);
                let member_of = self.groups.values().filter(|(_, members)| members.contains(name));
                groups.extend(member_of.map(|(group, _)| *group));
            }
        }
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

fn book(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BOOK_BYTES).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!(%error, path = %path.display(), "cannot read the names of users or groups");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
