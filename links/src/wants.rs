//! Tells each host what the subscribers here want, whenever that changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hivemind_core::filter::Filter;
use hivemind_core::link::greeting::Role;
use hivemind_core::link::peering::Wanted;
use hivemind_runtime::ports::Member;

use crate::hosts::{Hosts, Linked};
use crate::permits::Permits;
use crate::stop::Stop;

/// Longest pause between two listings, if no root was there to say that something has changed.
const LOOK_ANEW: Duration = Duration::from_secs(2);
/// Changes that come within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(1);

/// Filters and the types they insist on.
type Wishes = BTreeSet<(String, Option<u128>)>;

/// Follows what is wanted here.
pub(super) struct Follower {
    member: Arc<Member>,
    hosts: Arc<Hosts>,
    permits: Arc<Permits>,
    stop: Arc<Stop>,
    /// What each life of a host was told last.
    said: HashMap<(String, u64), Wishes>,
}

impl Follower {
    pub(super) fn new(
        member: &Arc<Member>,
        hosts: &Arc<Hosts>,
        permits: &Arc<Permits>,
        stop: &Arc<Stop>,
    ) -> Follower {
        Follower {
            member: Arc::clone(member),
            hosts: Arc::clone(hosts),
            permits: Arc::clone(permits),
            stop: Arc::clone(stop),
            said: HashMap::new(),
        }
    }

    /// Runs until all links end.
    pub(super) fn run(mut self) {
        let mut seen = 0;
        while !self.stop.is_set() {
            if self.permits.look() {
                self.hosts.all().iter().for_each(|host| host.engine.reconsider());
            }
            self.member.session().watch();
            match self.member.session().list() {
                Ok(listing) => {
                    let own = listing.subscribers.iter().filter(|subscriber| !subscriber.link);
                    let own = own.map(|subscriber| {
                        let fingerprint = subscriber.kind.as_ref().map(|kind| kind.fingerprint);
                        (subscriber.filter.clone(), fingerprint)
                    });
                    self.tell(&own.collect());
                }
                Err(error) => tracing::debug!(%error, "cannot see what subscribers want"),
            }
            seen = self.member.wait_for_changes(seen, LOOK_ANEW);
            if !self.stop.is_set() {
                self.stop.wait(SETTLE);
            }
        }
    }

    fn tell(&mut self, own: &Wishes) {
        let hosts = self.hosts.all();
        let theirs: Vec<Wishes> = hosts.iter().map(wishes_of).collect();
        self.said
            .retain(|(name, epoch), _| hosts.iter().any(|host| host.name == *name && host.epoch == *epoch));
        for (at, host) in hosts.iter().enumerate() {
            let mut all = own.clone();
            for (other, wishes) in hosts.iter().zip(&theirs).enumerate() {
                // A host wants for its leaves, and a leaf is asked for what anybody wants.
                let (there, wishes) = wishes;
                if other != at && (there.role == Role::Leaf || host.role == Role::Leaf) {
                    all.extend(wishes.iter().cloned());
                }
            }
            let key = (host.name.clone(), host.epoch);
            if self.said.get(&key) == Some(&all) {
                continue;
            }
            let wanted = all.iter().filter_map(|(filter, fingerprint)| {
                Some(Wanted { filter: Filter::parse(filter).ok()?, fingerprint: *fingerprint })
            });
            host.engine.want(wanted.collect());
            self.said.insert(key, all);
        }
    }
}

/// What the subscribers of a host want.
fn wishes_of(host: &Linked) -> Wishes {
    let wanted = host.engine.status().wanted;
    wanted.into_iter().map(|wanted| (wanted.filter.as_str().to_owned(), wanted.fingerprint)).collect()
}
