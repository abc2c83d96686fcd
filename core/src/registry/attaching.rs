//! A pair from its match to its attachment, step by step; the picture stands at the head of [`super`].
use super::Registry;
use super::event::{Action, Actions, Attachment, ClientId, send};
use super::pairs::{Lane, Pair, PairState};
use crate::contract::Match;
use crate::end::EndId;
use crate::protocol::{Carrier, PUBLISHER_GONE, ToNode};

const NO_BELLS: &str = "the publisher made no doorbells for this user; restart its node";

/// What a publisher's node answers with: where the subscriber begins, the ring, and doorbells if it is of
/// another user.
pub(super) struct Given {
    pub(super) start: u64,
    pub(super) ring: Carrier,
    pub(super) bells: Option<Carrier>,
}

impl Registry {
    /// A pair that matches and was not there before.
    pub(super) fn pair_up(&mut self, pair: Pair, actions: &mut Actions) {
        let ends = (self.ends.publisher(pair.publisher), self.ends.subscriber(pair.subscriber));
        let (Some(publisher), Some(subscriber)) = ends else { return };
        let lane = Lane { subscriber: subscriber.client, publisher: publisher.client };
        match self.ends.take_brought(pair) {
            Some(seat) => self.pairs.add_connected(pair, lane, seat),
            None => {
                self.pairs.add_waiting(pair, lane);
                self.release(lane, actions);
            }
        }
    }

    /// Sends the `Match` of waiting pairs while their lane has room; at most
    /// [`Limits::lane`](super::Limits::lane) in a row.
    pub(super) fn release(&mut self, lane: Lane, actions: &mut Actions) {
        while let Some(pair) = self.pairs.next_due(lane) {
            actions.extend(self.match_of(pair));
        }
    }

    /// Tells the subscriber of a pair who its publisher is.
    pub(super) fn match_of(&self, pair: Pair) -> Option<Action> {
        let publisher = self.ends.publisher(pair.publisher)?;
        let to = self.ends.subscriber(pair.subscriber)?.client;
        let matched = Match {
            service: publisher.service.clone(),
            route: self.route_to(pair.publisher, publisher),
            kind: self.ends.stream_of(publisher).kind.clone(),
            contract: publisher.contract,
        };
        let subscriber = pair.subscriber.index;
        Some(send(to, ToNode::Match { subscriber, matched: Box::new(matched) }))
    }

    pub(super) fn attach(
        &mut self,
        client: ClientId,
        pair: Pair,
        seat: u32,
        reader: Carrier,
        actions: &mut Actions,
    ) {
        self.has_answered(client);
        match self.pairs.state(pair) {
            Some(PairState::Matched) => {}
            // The second answer to a `Match` that was sent twice: it stands, or is on its way.
            Some(PairState::Attaching { .. } | PairState::Connected { .. }) => return,
            _ => {
                if !self.asks_for_orphan(pair, actions) {
                    actions.push(pair.refused(client, PUBLISHER_GONE.into()));
                }
                return;
            }
        }
        let ends = (self.ends.publisher(pair.publisher), self.ends.subscriber(pair.subscriber));
        let (Some(publisher), Some(subscriber)) = ends else { return };
        let (to, node) = (publisher.client, self.clients.node(client));
        // A process that has them can write them, so other users never get them.
        let bells = (!self.clients.are_strangers(client, to)).then(|| node.bells.clone());
        let mut attachments = Vec::with_capacity(3);
        attachments.extend((reader == Carrier::Descriptor).then_some(Attachment::FromMessage(0)));
        attachments.extend((bells == Some(Carrier::Descriptor)).then_some(Attachment::BellsOf(client)));
        attachments.push(Attachment::PidfdOf(client));
        let message = ToNode::Attach {
            publisher: pair.publisher.index,
            subscriber: pair.subscriber,
            node_name: node.name.clone(),
            role: subscriber.asks.role.clone(),
            seat,
            user: self.clients.user(client),
            reader,
            bells,
            from_first: self.is_expected(pair),
        };
        actions.push(Action::Send { to, message, attachments });
        self.advance(pair, PairState::Attaching { seat }, actions);
    }

    pub(super) fn attached(&mut self, client: ClientId, pair: Pair, given: Given, actions: &mut Actions) {
        // Not attaching: the subscriber has gone meanwhile. Its reader segment says so to the publisher.
        let Some(PairState::Attaching { seat }) = self.pairs.state(pair) else { return };
        let Some(to) = self.pairs.lane(pair).map(|lane| lane.subscriber) else { return };
        let is_stranger = self.clients.are_strangers(client, to);
        let Given { start, ring, bells: made } = given;
        let mut attachments = Vec::with_capacity(3);
        attachments.extend((ring == Carrier::Descriptor).then_some(Attachment::FromMessage(0)));
        let bells = if is_stranger {
            // What it made for this user, and nothing that a third may write.
            let Some(bells) = made else { return self.attach_failed(pair, NO_BELLS.into(), actions) };
            let place = attachments.len();
            attachments.extend((bells == Carrier::Descriptor).then_some(Attachment::FromMessage(place)));
            bells
        } else {
            let bells = self.clients.node(client).bells.clone();
            attachments.extend((bells == Carrier::Descriptor).then_some(Attachment::BellsOf(client)));
            bells
        };
        attachments.push(Attachment::PidfdOf(client));
        let message = ToNode::Attached {
            subscriber: pair.subscriber.index,
            publisher: pair.publisher,
            user: self.clients.user(client),
            is_stranger,
            start,
            ring,
            bells,
            gone: false,
        };
        actions.push(Action::Send { to, message, attachments });
        self.advance(pair, PairState::Connected { seat }, actions);
    }

    /// The publisher's node says no, or cannot be understood.
    pub(super) fn attach_failed(&mut self, pair: Pair, reason: String, actions: &mut Actions) {
        if let (Some(PairState::Attaching { .. }), Some(lane)) =
            (self.pairs.state(pair), self.pairs.lane(pair))
        {
            actions.push(pair.refused(lane.subscriber, reason));
            self.advance(pair, PairState::Failed, actions);
        }
    }

    /// The subscriber's node does not want to.
    pub(super) fn declined(&mut self, pair: Pair, actions: &mut Actions) {
        if self.pairs.state(pair) == Some(PairState::Matched) {
            self.advance(pair, PairState::Failed, actions);
        }
    }

    /// A subscription is not attached to this publisher any more.
    pub(super) fn detached(&mut self, pair: Pair, actions: &mut Actions) {
        // Brought along, and its publisher has yet to announce itself: then it is matched as any other.
        self.ends.take_brought(pair);
        if let Some(PairState::Connected { .. }) = self.pairs.state(pair) {
            self.advance(pair, PairState::Failed, actions);
        }
    }

    /// Matches anew what a subscription has declined, or let go of.
    pub(super) fn rematch(&mut self, subscriber: EndId, actions: &mut Actions) {
        for pair in self.pairs.of_subscriber(subscriber) {
            if let (Some(PairState::Failed), Some(lane)) = (self.pairs.state(pair), self.pairs.lane(pair)) {
                self.pairs.add_waiting(pair, lane);
                self.release(lane, actions);
            }
        }
    }

    /// Moves a pair that exists; makes room in its lane when it has arrived.
    fn advance(&mut self, pair: Pair, state: PairState, actions: &mut Actions) {
        let Some(lane) = self.pairs.advance(pair, state) else { return };
        if state.has_arrived() {
            self.has_joined(pair, actions);
        }
        self.release(lane, actions);
    }
}
