//! What the root says, and what this node answers.
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use super::announced::Told;
use super::questions::Question;
use super::seeking::Lost;
use super::{Control, PACKETS_IN_A_ROW, SUCCESSION};
use crate::root::server::own_pid;
use crate::session::link::{carry, uncarry};
use crate::session::{
    AnnounceError, Announcement, AttachReply, AttachRequest, AttachedTo, Handle, JoinError, Keeping, Misfits,
    SessionError, WaitedFor,
};
use crate::socket::Packet;
use hivemind_core::contract::{Match, Pattern};
use hivemind_core::protocol::{
    Cursor, DecodeError, EndId, Entry, Joining, MAX_EPOCH, Misfit, Offer, Refusal, ToNode, ToRoot,
    bounded_reason, decode, decode_unaccompanied,
};

impl Control {
    pub(super) fn link_ready(&mut self, flags: EpollFlags) {
        let Some(link) = &mut self.link else { return };
        if (flags.contains(EpollFlags::EPOLLOUT) || link.is_short)
            && let Err(failure) = link.flush()
        {
            return self.lose(failure.into());
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read();
        }
    }

    fn read(&mut self) {
        for _ in 0..PACKETS_IN_A_ROW {
            let mut descriptors = Vec::new();
            let Some(link) = &mut self.link else { return };
            match link.socket.receive(&mut self.packets.buffer, &mut descriptors) {
                Ok(Packet::Nothing) => return,
                Ok(Packet::Message { length, descriptors_lost }) => {
                    if let Err(reason) = self.received(length, descriptors_lost, descriptors) {
                        return self.lose(reason);
                    }
                }
                Ok(Packet::TooLong) => return self.lose(Lost::Nonsense("its packet is too long")),
                Ok(Packet::Closed) | Err(_) => return self.lose(Lost::Closed),
            }
        }
    }

    fn received(&mut self, length: usize, lost: bool, descriptors: Vec<OwnedFd>) -> Result<(), Lost> {
        // Whatever it is, it is a sign of life.
        self.vigil.is_heard();
        self.questions.is_asking = false;
        let bytes = self.packets.buffer.bytes(length);
        let decoded = if lost { decode_unaccompanied(bytes) } else { decode(bytes, descriptors.len()) };
        let message: ToNode = decoded.map_err(|error| match error {
            DecodeError::Version { theirs } => Lost::Never(JoinError::version(theirs)),
            _ => Lost::Nonsense("its packet is damaged"),
        })?;
        let is_admitted = self.link.as_ref().is_some_and(|link| link.is_admitted);
        match message {
            ToNode::Welcome { epoch, pid: _, dedicated } if !is_admitted => self.welcome(epoch, dedicated),
            ToNode::Refused { request: None, refusal } => {
                self.refused(refusal);
                Ok(())
            }
            ToNode::Leaving { successor } => {
                // It closes the link itself, when the lock is free.
                if successor != 0 {
                    self.seeking.successor = Some((successor, Instant::now() + SUCCESSION));
                }
                Ok(())
            }
            message if is_admitted && lost => {
                drop(descriptors);
                self.without_descriptors(&message);
                Ok(())
            }
            message if is_admitted => self.admitted(message, descriptors),
            _ => Err(Lost::Nonsense("it talks before it welcomes")),
        }
    }

    fn welcome(&mut self, epoch: u64, dedicated: bool) -> Result<(), Lost> {
        if epoch == 0 || epoch > MAX_EPOCH {
            return Err(Lost::Nonsense("its epoch is impossible"));
        }
        // Two roots for a moment: the later one counts.
        if epoch < self.seeking.seen_epoch {
            let refusal = "the root has been succeeded and does not know it yet".to_owned();
            return Err(Lost::NotNow(WaitedFor::BetterAnswer { refusal }));
        }
        self.welcomed(epoch, dedicated);
        Ok(())
    }

    fn admitted(&mut self, message: ToNode, descriptors: Vec<OwnedFd>) -> Result<(), Lost> {
        let mut descriptors = descriptors.into_iter();
        match message {
            ToNode::Accepted { request, joining } => self.accepted(request, joining),
            ToNode::Joined { publisher, unanswered } => self.joined(publisher, unanswered),
            ToNode::Refused { request: Some(request), refusal } => self.request_refused(request, refusal),
            ToNode::Match { subscriber, matched } => self.matched(subscriber, matched),
            ToNode::Skipped { subscriber, carried } => self.side.skipped(subscriber, *carried),
            ToNode::Misfits { request, count, first } => self.misfits(request, count, first),
            ToNode::Attach { .. } => return self.attach(message, &mut descriptors),
            ToNode::Attached { .. } => return self.attached(message, &mut descriptors),
            ToNode::AttachRefused { subscriber, publisher, reason } => {
                self.side.attach_refused(subscriber, publisher, &reason);
            }
            ToNode::Alive => {}
            ToNode::Changed => self.side.changed(),
            ToNode::Page { request, entries, next } => return self.page(request, entries, next),
            ToNode::Inspect { inquiry, index } => self.inspect(inquiry, index),
            ToNode::Inspected { request, segment } => {
                let handle = uncarry(segment, &mut descriptors);
                match self.questions.remove(request) {
                    Some(Question::Inspect { reply, .. }) => {
                        drop(reply.send(handle.ok_or(SessionError::Descriptors)));
                    }
                    Some(Question::Keep { source, offer, pidfd }) => {
                        self.keep(source, &offer, handle, pidfd);
                    }
                    Some(Question::List { .. } | Question::Misfits { .. }) | None => {}
                }
            }
            ToNode::Keep { source, offer } => {
                let Some(pidfd) = descriptors.next() else {
                    return Err(Lost::Nonsense("descriptors are missing"));
                };
                let request = self.shared.new_request();
                self.questions.insert(request, Question::Keep { source, offer, pidfd });
                self.ask(request);
            }
            ToNode::Gone { publisher } => {
                let keeping = self.side.ended(publisher);
                if !matches!(keeping, Keeping::Kept) {
                    self.keeps(publisher, keeping);
                }
            }
            ToNode::Release { publisher } => {
                // The root has forgotten it already.
                if let Some(index) = self.side.released(publisher) {
                    self.announced.told.remove(&index);
                }
            }
            ToNode::Welcome { .. }
            | ToNode::Refused { request: None, .. }
            | ToNode::Leaving { .. }
            | ToNode::HandedOver => return Err(Lost::Nonsense("it says what was not asked")),
        }
        Ok(())
    }

    // ---- announcements

    fn accepted(&mut self, request: u64, joining: Joining) {
        let Ok(index) = u32::try_from(request) else { return };
        // Withdrawn meanwhile: then nobody waits either.
        let Some(told) = self.announced.told.get_mut(&index) else { return };
        *told = Told::Accepted;
        let pending = self.announced.pending.remove(&index);
        match joining {
            Joining::Done => {}
            Joining::UnderWay => return self.settle(index, pending),
            Joining::Unanswered => self.lend(index),
        }
        if let Some(pending) = pending {
            let _ = pending.reply.send(Ok(()));
        }
    }

    fn request_refused(&mut self, request: u64, refusal: Refusal) {
        let Ok(index) = u32::try_from(request) else {
            return self.question_refused(request, refusal);
        };
        let ours = match self.announced.told.get(&index) {
            Some(Told::Open(announcement)) => Some(&**announcement),
            // It stood, and the policy does not allow it any more.
            Some(Told::Accepted) => None,
            // It is withdrawn, or was refused before.
            Some(Told::Refused(_)) | None => return,
        };
        let kind = ours.and_then(Announcement::kind);
        let pattern = ours.map_or_else(Pattern::default, Announcement::pattern);
        let error = AnnounceError::from_refusal(refusal, kind, pattern);
        self.announced.told.insert(index, Told::Refused(Box::new(error.clone())));
        match self.announced.pending.remove(&index) {
            Some(pending) => drop(pending.reply.send(Err(error))),
            None => self.side.refused(index, &error),
        }
    }

    fn question_refused(&mut self, request: u64, refusal: Refusal) {
        match self.questions.remove(request) {
            Some(Question::List { reply, .. }) => drop(reply.send(Err(refusal.into()))),
            Some(Question::Inspect { reply, .. }) => drop(reply.send(Err(refusal.into()))),
            Some(Question::Misfits { reply, .. }) => drop(reply.send(Err(refusal.into()))),
            Some(Question::Keep { offer, .. }) => self.cannot_keep(&offer, &refusal.to_string()),
            None => {}
        }
    }

    // ---- rings that are kept for others

    /// The ring that this node was asked to keep has come.
    fn keep(&mut self, source: EndId, offer: &Offer, ring: Option<Handle>, pidfd: OwnedFd) {
        let Some(publisher) = writer_of(offer) else { return };
        let Some(ring) = ring else { return self.cannot_keep(offer, "its descriptor is missing") };
        let is_gone = source != publisher;
        // First: a ring that is kept already stays, whoever says that it is his.
        if let Err(impostor) = self.recognise(source.node, &pidfd) {
            return self.cannot_keep(offer, &impostor.to_string());
        }
        match self.side.keep(offer.clone(), ring, is_gone) {
            Err(reason) => return self.cannot_keep(offer, &reason),
            Ok(keeping) => self.keeps(publisher, keeping),
        }
        if !is_gone && let Err(impostor) = self.watch_peer(publisher.node, pidfd) {
            self.side.released(publisher);
            self.cannot_keep(offer, &impostor.to_string());
        }
    }

    fn cannot_keep(&mut self, offer: &Offer, reason: &str) {
        let Some(publisher) = writer_of(offer) else { return };
        tracing::debug!(service = %offer.service, %publisher, reason, "not kept");
        self.say(&ToRoot::NotKept { publisher }, Vec::new());
    }

    /// Tells the root where a ring stands that this node keeps.
    pub(super) fn keeps(&mut self, publisher: EndId, keeping: Keeping) {
        match keeping {
            Keeping::Kept => self.say(&ToRoot::Kept { publisher }, Vec::new()),
            Keeping::Offered(offer) => self.announced.tell(Announcement::Offer(*offer)),
            Keeping::Nothing => self.say(&ToRoot::NotKept { publisher }, Vec::new()),
        }
    }

    // ---- pairs

    fn matched(&mut self, subscriber: u32, matched: Box<Match>) {
        let publisher = matched.route.end;
        // A match for an end that was withdrawn crosses the withdrawal.
        let is_there = self.announced.contains(subscriber);
        let seating = if is_there { self.side.matched(subscriber, matched) } else { None };
        match seating {
            Some(seating) => {
                let (reader, descriptors) = carry(seating.reader);
                let seat = seating.seat;
                self.say(&ToRoot::Attach { subscriber, publisher, seat, reader }, descriptors);
            }
            None => self.say(&ToRoot::Declined { subscriber, publisher }, Vec::new()),
        }
    }

    fn attach(
        &mut self,
        message: ToNode,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Lost> {
        let ToNode::Attach { publisher, subscriber, node_name, role, seat, user, reader, bells, from_first } =
            message
        else {
            return Ok(());
        };
        let (reader, is_stranger) = (uncarry(reader, descriptors), bells.is_none());
        let bells = bells.and_then(|bells| uncarry(bells, descriptors));
        let pidfd = descriptors.next();
        let (Some(reader), true, Some(pidfd)) = (reader, is_stranger || bells.is_some(), pidfd) else {
            return Err(Lost::Nonsense("descriptors are missing"));
        };
        if let Err(impostor) = self.watch_peer(subscriber.node, pidfd) {
            tracing::warn!(%node_name, %subscriber, %impostor, "not attached");
            let reason = format!("{node_name} is not attached: {impostor}");
            self.refuse_attach(publisher, subscriber, reason);
            return Ok(());
        }
        let request =
            AttachRequest { publisher, subscriber, node_name, role, seat, user, reader, bells, from_first };
        self.announced.settling.progress = Instant::now();
        match self.side.attach(request) {
            Ok(AttachReply { start, ring, bells }) => {
                let (ring, mut descriptors) = carry(ring);
                let bells = bells.map(carry).map(|(bells, more)| {
                    descriptors.extend(more);
                    bells
                });
                self.say(&ToRoot::Attached { publisher, subscriber, start, ring, bells }, descriptors);
            }
            Err(reason) => self.refuse_attach(publisher, subscriber, reason),
        }
        self.side.attach_answered();
        Ok(())
    }

    fn refuse_attach(&mut self, publisher: u32, subscriber: EndId, reason: String) {
        let reason = bounded_reason(reason);
        self.say(&ToRoot::AttachRefused { publisher, subscriber, reason }, Vec::new());
    }

    fn attached(
        &mut self,
        message: ToNode,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Lost> {
        let ToNode::Attached { subscriber, publisher, user, is_stranger, start, ring, bells, gone } = message
        else {
            return Ok(());
        };
        let (ring, bells) = (uncarry(ring, descriptors), uncarry(bells, descriptors));
        let (Some(ring), Some(bells), Some(pidfd)) = (ring, bells, descriptors.next()) else {
            return Err(Lost::Nonsense("descriptors are missing"));
        };
        // Of one that is gone there is nothing to be watched for.
        if !gone && let Err(impostor) = self.watch_peer(publisher.node, pidfd) {
            let reason = format!("its publisher is not read: {impostor}");
            self.side.attach_refused(subscriber, publisher, &reason);
            self.say_detached(subscriber, publisher);
            return Ok(());
        }
        self.side.attached(AttachedTo { subscriber, publisher, user, is_stranger, start, ring, bells, gone });
        // It may have failed at this last step, or nobody waits for it any more.
        self.say_detached(subscriber, publisher);
        Ok(())
    }

    /// The kernel could not give this process the descriptors of a message: there are none left.
    fn without_descriptors(&mut self, message: &ToNode) {
        let reason = format!(
            "process {} (node {}) has no file descriptors left; raise its `ulimit -n`",
            own_pid(),
            self.who.name
        );
        match *message {
            ToNode::Attach { publisher, subscriber, .. } => self.refuse_attach(publisher, subscriber, reason),
            ToNode::Attached { subscriber, publisher, .. } => {
                self.side.attach_refused(subscriber, publisher, &reason);
                self.say_detached(subscriber, publisher);
            }
            ToNode::Inspected { request, .. } => match self.questions.remove(request) {
                Some(Question::Inspect { reply, .. }) => {
                    drop(reply.send(Err(SessionError::Descriptors)));
                }
                Some(Question::Keep { offer, .. }) => self.cannot_keep(&offer, &reason),
                Some(Question::List { .. } | Question::Misfits { .. }) | None => {}
            },
            ToNode::Keep { ref offer, .. } => self.cannot_keep(offer, &reason),
            // No other message brings any.
            _ => {}
        }
    }

    // ---- questions

    fn page(&mut self, request: u64, entries: Vec<Entry>, next: Option<Cursor>) -> Result<(), Lost> {
        let Some(Question::List { collector, after, .. }) = self.questions.get_mut(request) else {
            // Nobody waits for it any more.
            return Ok(());
        };
        let is_moving = !entries.is_empty() || next.is_none();
        if !collector.add(entries) || !is_moving {
            return Err(Lost::Nonsense("its listing has no end"));
        }
        if let Some(next) = next {
            *after = next;
            self.ask(request);
            return Ok(());
        }
        let (epoch, link) = (self.seeking.seen_epoch, self.link.as_ref());
        let (pid, is_dedicated) = link.map_or((0, false), |link| (link.pid, link.is_dedicated));
        if let Some(Question::List { collector, reply, .. }) = self.questions.remove(request) {
            let _ = reply.send(Ok(collector.finish(epoch, pid, is_dedicated)));
        }
        Ok(())
    }

    fn misfits(&mut self, request: u64, count: u32, first: Option<Box<Misfit>>) {
        let misfits = first.map(|first| Misfits { count, first: *first });
        // Nobody may wait for it any more.
        if let Some(Question::Misfits { reply, .. }) = self.questions.remove(request) {
            drop(reply.send(Ok(misfits)));
        }
    }

    fn inspect(&mut self, inquiry: u64, index: u32) {
        let (segment, descriptors) = match self.side.inspect(index).map(carry) {
            Some((carrier, descriptors)) => (Some(carrier), descriptors),
            None => (None, Vec::new()),
        };
        self.say(&ToRoot::Inspected { inquiry, segment }, descriptors);
    }
}

/// Whose ring is to be kept.
fn writer_of(offer: &Offer) -> Option<EndId> {
    offer.author.former().map(|former| former.publisher)
}
