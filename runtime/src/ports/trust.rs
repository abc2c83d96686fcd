//! Whose messages are read in place.
//!
//! A message lies in memory that its publisher may still write. Honest publishers do not; no check can find
//! what a dishonest one writes during a read in place. So a subscriber reads in place only from publishers
//! that it trusts. From others it copies each message first, reads every byte once, checks the copy, and lets
//! the publisher's memory go at once. It does not map the chunks of those either: see
//! `hivemind_ring::unmapped`.
//!
//! The kernel says twice which user a publisher belongs to: the root passes on the user that the kernel named
//! when the publisher's node connected, and the memory object itself belongs to the user whose process made
//! it. Both must be ours: the root's numbers may be those of another user namespace, and a process may have
//! been handed memory that another one made.

use hivemind_ring::os::own_user;

/// The publishers whose messages a subscriber reads in place; it copies those of all others first, and reads
/// the copy. Example: `hivemind::SubscriberBuilder`.
///
/// A copy costs an allocation and the copying, and is let go when its sample is dropped; it holds no memory
/// of the publisher. It is made with a system call, through a descriptor that each such publisher takes: all
/// of them together may have a quarter of those of the process (`ulimit -n`). Messages of up to 56 bytes are
/// always copies and cost the same in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Trust {
    /// Publishers of the same user as this process: what such a process does, it could do in this one as
    /// well. The default.
    #[default]
    SameUser,
    /// No publisher: each message is copied.
    Nobody,
    /// All publishers. One that rewrites its messages on purpose while they are read can then make this
    /// process do anything.
    Everybody,
}

impl Trust {
    /// Whether a publisher is trusted: of this user, says the root, with memory that this user made, says the
    /// kernel.
    pub(crate) fn covers(self, user: u32, maker: Option<u32>) -> bool {
        match self {
            Trust::SameUser => user == own_user() && maker == Some(own_user()),
            Trust::Nobody => false,
            Trust::Everybody => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_of_the_same_user_by_both_accounts_is_trusted_by_default() {
        let (ours, other) = (own_user(), own_user() + 1);
        for (user, maker, trusted) in [
            (ours, Some(ours), true),
            (other, Some(ours), false),
            (ours, Some(other), false),
            (other, Some(other), false),
            (ours, None, false),
        ] {
            assert_eq!(Trust::default().covers(user, maker), trusted, "{user} {maker:?}");
            assert!(!Trust::Nobody.covers(user, maker));
            assert!(Trust::Everybody.covers(user, maker));
        }
    }
}
