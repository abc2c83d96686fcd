//! Questions without an answer yet: inquiries about segments, which nodes answer, and watchers, which the
//! next change answers.
//!
//! What holds after every call: both sides of an inquiry, asker and asked, are connected, and there are at
//! most [`Limits::inquiries`](super::Limits::inquiries).
use std::collections::{BTreeMap, BTreeSet};

use super::Registry;
use super::event::{Action, Actions, Attachment, ClientId, check_limit, malformed, refuse, send};
use crate::end::EndId;
use crate::protocol::{Carrier, Refusal, Table, ToNode};

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Questions {
    inquiries: BTreeMap<u64, Inquiry>,
    /// How many inquiries there were so far.
    asked: u64,
    /// Clients that want to hear of the next change.
    watchers: BTreeSet<ClientId>,
}

#[derive(Debug)]
struct Inquiry {
    asker: ClientId,
    request: u64,
    asked: ClientId,
    end: EndId,
}

#[cfg(test)]
impl Questions {
    pub(super) fn inquiries(&self) -> usize {
        self.inquiries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inquiries.is_empty() && self.watchers.is_empty()
    }
}

impl Registry {
    pub(super) fn watch(&mut self, client: ClientId) {
        self.questions.watchers.insert(client);
    }

    pub(super) fn watch_no_more(&mut self, client: ClientId) {
        self.questions.watchers.remove(&client);
    }

    /// Tells those who watch that there are other ends now.
    pub(super) fn has_changed(&mut self, actions: &mut Actions) {
        for client in std::mem::take(&mut self.questions.watchers) {
            actions.push(send(client, ToNode::Changed));
        }
    }

    pub(super) fn inspect(&mut self, client: ClientId, request: u64, end: EndId, actions: &mut Actions) {
        match self.ask(client, request, end) {
            Ok(action) => actions.push(action),
            Err(refusal) => actions.push(refuse(client, Some(request), refusal)),
        }
    }

    fn ask(&mut self, client: ClientId, request: u64, end: EndId) -> Result<Action, Refusal> {
        let asked = self.ends.client_of(end).ok_or(Refusal::UnknownEnd { end })?;
        self.check_look(client, asked, end)?;
        let questions = &mut self.questions;
        check_limit(Table::Inquiries, questions.inquiries.len(), self.limits.inquiries)?;
        questions.asked += 1;
        let inquiry = questions.asked;
        questions.inquiries.insert(inquiry, Inquiry { asker: client, request, asked, end });
        Ok(send(asked, ToNode::Inspect { inquiry, index: end.index }))
    }

    pub(super) fn inspected(
        &mut self,
        client: ClientId,
        number: u64,
        segment: Option<Carrier>,
        actions: &mut Actions,
    ) {
        let questions = &mut self.questions;
        match questions.inquiries.get(&number) {
            // The asker has gone meanwhile: late, not wrong.
            None if number <= questions.asked => return,
            Some(inquiry) if inquiry.asked == client => {}
            _ => return self.expel(client, malformed("an answer to no question"), actions),
        }
        let Some(Inquiry { asker, request, end, .. }) = questions.inquiries.remove(&number) else { return };
        match segment {
            Some(segment) => {
                let carried = segment == Carrier::Descriptor;
                let attachments = carried.then_some(Attachment::FromMessage(0)).into_iter().collect();
                let message = ToNode::Inspected { request, segment };
                actions.push(Action::Send { to: asker, message, attachments });
            }
            None => actions.push(refuse(asker, Some(request), Refusal::UnknownEnd { end })),
        }
    }

    /// A client is gone: nobody waits for its answers, and it waits for none.
    pub(super) fn forget_questions(&mut self, client: ClientId, actions: &mut Actions) {
        self.questions.inquiries.retain(|_, inquiry| {
            if inquiry.asked == client && inquiry.asker != client {
                let refusal = Refusal::UnknownEnd { end: inquiry.end };
                actions.push(refuse(inquiry.asker, Some(inquiry.request), refusal));
            }
            inquiry.asked != client && inquiry.asker != client
        });
    }
}
