//! The names of users and groups of a machine, from the texts of `/etc/passwd` and `/etc/group`.
use std::collections::BTreeMap;

/// Names and numbers.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: BTreeMap<String, (u32, u32)>,
    groups: BTreeMap<String, (u32, Vec<String>)>,
}

impl Accounts {
    /// From the texts of `/etc/passwd` and `/etc/group`; lines that are none are passed over, and the first
    /// of a name counts.
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
