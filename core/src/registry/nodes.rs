//! Admitting nodes, and forgetting everything of clients that go.
use std::collections::BTreeSet;

use super::clients::{Admitted, Client, Holdings};
use super::event::{Action, Actions, ClientId, RootIdentity, malformed, refuse, send};
use super::{Registry, Right};
use crate::identity::Process;
use crate::name::NodeName;
use crate::policy::Credentials;
use crate::protocol::{Carrier, MAX_EPOCH, Refusal, ToNode, ToRoot};

impl Registry {
    pub(super) fn connected(
        &mut self,
        client: ClientId,
        pid: i32,
        credentials: Credentials,
        process: Process,
        actions: &mut Actions,
    ) {
        let rights = self.policy.rights_of(&credentials);
        if let Err(refusal) = self.check_entry(&credentials, &rights) {
            actions.push(refuse(client, None, refusal));
            actions.push(Action::CutOff { client });
            return;
        }
        self.clients.connect(client, Client { pid, credentials, process, rights, node: None });
    }

    pub(super) fn hello(&mut self, client: ClientId, hello: ToRoot, actions: &mut Actions) {
        let ToRoot::Hello { name, node, observer, external, rejoin, hosts_root, seen_epoch, bells } = hello
        else {
            return;
        };
        let name = match NodeName::parse(&name) {
            Ok(name) => name,
            Err(error) => return self.expel(client, Refusal::Name { why: error.to_string() }, actions),
        };
        if node == 0 {
            return self.expel(client, malformed("an epoch that no node can have"), actions);
        }
        if external && !self.root.dedicated {
            return self.expel(client, Refusal::NotDedicated { pid: self.root.pid }, actions);
        }
        if !self.clients[client].process.may_have(node) {
            return self.expel(client, self.epoch_of_another(client, node), actions);
        }
        if let Some(holder) = self.clients.of_epoch(node) {
            if !self.yields_epoch(holder, client) {
                return self.expel(client, Refusal::EpochTaken, actions);
            }
            self.expel(holder, self.epoch_of_another(holder, node), actions);
        }
        // A node that an earlier root admitted keeps its name, even if a newcomer was faster at this root.
        let holder = self.clients.named(name.as_str()).next().filter(|_| !rejoin && !observer);
        if let Some(holder) = holder {
            let refusal = Refusal::NameTaken { pid: self.clients[holder].pid };
            return self.expel(client, refusal, actions);
        }
        if bells == Carrier::Descriptor {
            actions.push(Action::KeepBells { client });
        }
        let holdings = Holdings::default();
        self.clients.admit(client, Admitted { name, epoch: node, observer, hosts_root, bells, holdings });
        if self.rights(client).are_everything() {
            self.rise_above(seen_epoch, actions);
        }
        let RootIdentity { epoch, pid, dedicated } = self.root;
        actions.push(send(client, ToNode::Welcome { epoch, pid, dedicated }));
        self.welcome_keeper(client, actions);
    }

    fn epoch_of_another(&self, client: ClientId, node: u64) -> Refusal {
        Refusal::EpochOfAnother { node, pid: self.clients[client].pid }
    }

    /// Whether the holder of an epoch that is not bound yields it to who says it now: another user to the
    /// owner of the hive.
    fn yields_epoch(&self, holder: ClientId, comer: ClientId) -> bool {
        let (holder, comer) = (&self.clients[holder], &self.clients[comer]);
        holder.process.is(comer.process) != Some(true)
            && comer.rights.are_everything()
            && !holder.rights.are_everything()
    }

    /// A node has seen a higher epoch, so the lock file has lost it. This root holds the lock, so it is the
    /// later one.
    fn rise_above(&mut self, seen_epoch: u64, actions: &mut Actions) {
        if seen_epoch.min(MAX_EPOCH) > self.root.epoch {
            // A node that lies gains nothing: equal epochs are obeyed too.
            self.root.epoch = seen_epoch.min(MAX_EPOCH - 1) + 1;
            actions.push(Action::RaiseEpoch { epoch: self.root.epoch });
        }
    }

    pub(super) fn hand_over(&mut self, client: ClientId, actions: &mut Actions) {
        if !self.rights(client).are_everything() {
            self.expel(client, self.not_allowed(client, Right::TakeOver, ""), actions);
        } else if self.root.dedicated {
            self.expel(client, Refusal::Dedicated { pid: self.root.pid }, actions);
        } else {
            actions.push(Action::HandOver { to: client });
        }
    }

    pub(super) fn expel(&mut self, client: ClientId, refusal: Refusal, actions: &mut Actions) {
        if self.clients.contains(client) {
            actions.push(refuse(client, None, refusal));
            self.remove(client, actions);
            actions.push(Action::CutOff { client });
        }
    }

    /// Forgets a client and everything of it.
    pub(super) fn remove(&mut self, client: ClientId, actions: &mut Actions) {
        self.watch_no_more(client);
        self.has_answered(client);
        let kept = self.stop_keeping(client);
        if !self.clients.contains(client) {
            return;
        }
        let ends = self.clients.holdings_if_any(client).map(Holdings::take_ends).unwrap_or_default();
        let mut relieved = BTreeSet::new();
        for index in ends {
            self.remove_end(self.clients.end(client, index), &mut relieved, actions);
        }
        self.replace_keeper(client, kept, actions);
        // Only now: what waited for an end of this client is gone, too.
        self.clients.remove(client);
        for lane in relieved {
            self.release(lane, actions);
        }
        self.forget_questions(client, actions);
    }
}
