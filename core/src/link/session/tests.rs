//! What a peer may say and when; what it may not closes the connection with a reason. Whole links: `core/tests/link_simulation.rs`.
use super::*;
use crate::contract::{self, Contract, Delivery};
use crate::link::frame::{HEADER, SEQUENCE_END};
use crate::protocol::MAX_SCHEMA;
use say::{Credit, Opened};

const NOW: Now = Duration::from_secs(100);

fn hello(host: &str, epoch: u64) -> Hello {
    Hello { role: Role::Peer, host: host.to_owned(), epoch, capabilities: 0 }
}

fn connected() -> Session {
    let mut session = Session::new(Settings::default());
    session.connected(hello("there", 2), NOW);
    session.want(vec![wanted("sensors/*")]);
    drop(drain(&mut session));
    session
}

fn wanted(filter: &str) -> Wanted {
    Wanted { filter: Filter::parse(filter).unwrap(), fingerprint: None }
}

fn candidate(index: u32, reliable: bool) -> Candidate {
    let delivery = Delivery::reliable_if(reliable);
    Candidate {
        publisher: EndId { node: 7, index },
        node: "camera".parse().unwrap(),
        service: "sensors/pose".parse().unwrap(),
        kind: contract::Kind { fingerprint: 5, schema: vec![1, 2, 3] },
        contract: Contract { delivery, capacity: 16, ..Contract::default() },
        via: None,
    }
}

/// All control frames that are due.
fn drain(session: &mut Session) -> Vec<(Header, Vec<u8>)> {
    let mut out = Vec::new();
    while session.has_control() {
        assert_eq!(session.next_out(&mut out), Out::Frame);
    }
    let mut frames = Vec::new();
    let mut rest = &out[..];
    while let Some(head) = rest.first_chunk::<HEADER>() {
        let (header, _) = Header::decode(head).unwrap();
        let end = HEADER + header.length as usize;
        frames.push((header, rest[HEADER..end].to_vec()));
        rest = &rest[end..];
    }
    frames
}

/// A frame as the peer would send it.
fn frame<S: say::Say>(kind: Kind, stream: u32, sequence: u64, content: &S) -> (Header, Vec<u8>) {
    let mut bytes = Vec::new();
    say::append(kind, stream, sequence, content, &mut bytes);
    let (header, _) = Header::decode(bytes.first_chunk().unwrap()).unwrap();
    (header, bytes[HEADER..].to_vec())
}

fn hear(session: &mut Session, (header, payload): (Header, Vec<u8>)) -> Result<(), Violation> {
    session.frame(&header, &payload, NOW)
}

fn bare(kind: Kind, stream: u32, sequence: u64) -> (Header, Vec<u8>) {
    (Header::control(kind, stream, sequence, 0), Vec::new())
}

fn credit(stream: u32, below: u64, messages: u64) -> (Header, Vec<u8>) {
    frame(Kind::Credit, stream, below, &Credit { messages, bytes: 1 << 20 })
}

/// A stream that the other host has accepted from message 0, without credit.
fn sending() -> Session {
    let mut session = connected();
    assert!(session.begun(1, candidate(1, true), 0));
    let opens = drain(&mut session);
    assert_eq!((opens.len(), opens[0].0.kind, opens[0].0.stream), (1, Kind::Open, 1));
    hear(&mut session, frame(Kind::Opened, 1, 0, &Opened::Yes)).unwrap();
    session
}

/// A stream of the other host, open here with room for `room` messages.
fn receiving(room: u64) -> (Session, ImportId) {
    let mut session = connected();
    let open = say::Open::of(&candidate(1, true), 10, None);
    hear(&mut session, frame(Kind::Open, 1, 0, &open)).unwrap();
    let Some(Action::Open { import, candidate, .. }) = session.next_action() else {
        panic!("it is to be opened")
    };
    assert_eq!(candidate.via.unwrap().host, "there");
    session.opened(import, Ok(room));
    let said = drain(&mut session);
    assert_eq!((said[0].0.kind, said[0].0.sequence), (Kind::Opened, 10));
    (session, import)
}

fn piece(sequence: u64, offset: u32, length: u32, total: u32) -> Header {
    Header::piece(1, sequence, offset, length, total)
}

fn receive(session: &mut Session, sequence: u64) -> Arrived {
    session.piece(&piece(sequence, 0, 8, 8)).unwrap();
    session.arrived()
}

#[test]
fn nothing_is_sent_without_credit_and_as_much_as_there_is() {
    let mut session = sending();
    let mut out = Vec::new();
    assert_eq!(session.next_out(&mut out), Out::Nothing);
    hear(&mut session, credit(1, 0, 2)).unwrap();
    for sequence in 0..2 {
        assert_eq!(session.next_out(&mut out), Out::Poll { export: 1 });
        session.polled(1, sequence, 8);
        let Out::Piece { export: 1, header } = session.next_out(&mut out) else { panic!("a piece") };
        assert_eq!((header.sequence, header.length, header.is_last()), (sequence, 8, true));
    }
    assert_eq!(session.next_out(&mut out), Out::Nothing);
    assert!(!session.may_send(1));
    // What has arrived need not be held any more.
    hear(&mut session, credit(1, 2, 3)).unwrap();
    assert!(matches!(session.next_action(), Some(Action::Release { export: 1, below: 2 })));
    assert!(session.may_send(1));
}

/// A publisher that is attached again for its history, and detached at once, ends below what the receiver has; the receiver is told what it can
/// believe.
#[test]
fn an_export_that_ends_below_what_the_receiver_has_says_no_less() {
    let mut session = connected();
    assert!(session.begun(1, candidate(1, true), 18));
    assert_eq!(drain(&mut session)[0].0.kind, Kind::Open);
    hear(&mut session, frame(Kind::Opened, 1, 20, &Opened::Yes)).unwrap();
    session.ended(1, 18);
    let mut out = Vec::new();
    assert_eq!(session.next_out(&mut out), Out::Frame);
    let (header, _) = Header::decode(out.first_chunk().unwrap()).unwrap();
    assert_eq!((header.kind, header.sequence), (Kind::End, 20));
}

/// Whether what is held is released already or about to be: nothing is polled in circles.
#[test]
fn an_export_that_is_held_out_is_left_alone_until_it_is_looked_at_again() {
    for is_released in [false, true] {
        let mut session = sending();
        let mut out = Vec::new();
        hear(&mut session, credit(1, 0, 9)).unwrap();
        assert_eq!(session.next_out(&mut out), Out::Poll { export: 1 });
        session.polled(1, 0, 8);
        assert!(matches!(session.next_out(&mut out), Out::Piece { export: 1, .. }));
        assert_eq!(session.next_out(&mut out), Out::Poll { export: 1 });
        if is_released {
            // The engine has not done what this says.
            hear(&mut session, credit(1, 1, 9)).unwrap();
        }
        session.held_out(1);
        assert_eq!(session.next_out(&mut out), Out::Nothing);
        session.look_at(&[1]);
        let expected = if is_released { Out::Poll { export: 1 } } else { Out::Nothing };
        assert_eq!(session.next_out(&mut out), expected);
        if !is_released {
            hear(&mut session, credit(1, 1, 9)).unwrap();
            assert!(session.take_unblocked(), "the sender is told");
            session.look_at(&[1]);
            assert_eq!(session.next_out(&mut out), Out::Poll { export: 1 });
        }
    }
}

/// A stream that has no credit, or a long message, keeps no other from its turn.
#[test]
fn streams_take_turns() {
    let mut session = connected();
    for export in 1..=3 {
        assert!(session.begun(export, candidate(export, true), 0));
    }
    drop(drain(&mut session));
    for stream in 1..=3u32 {
        hear(&mut session, frame(Kind::Opened, stream, 0, &Opened::Yes)).unwrap();
        if stream > 1 {
            hear(&mut session, credit(stream, 0, 8)).unwrap();
        }
    }
    let mut out = Vec::new();
    let mut pieces = Vec::new();
    for _ in 0..12 {
        match session.next_out(&mut out) {
            Out::Poll { export } => session.polled(export, 0, 4 * PIECE as usize),
            Out::Piece { export, .. } => pieces.push(export),
            other => panic!("{other:?}"),
        }
        if pieces.len() == 6 {
            break;
        }
    }
    assert_eq!(pieces, [2, 3, 2, 3, 2, 3]);
}

#[test]
fn after_a_reconnect_it_goes_on_where_the_receiver_is() {
    let mut session = sending();
    hear(&mut session, credit(1, 0, 8)).unwrap();
    let mut out = Vec::new();
    for sequence in 0..4 {
        assert_eq!(session.next_out(&mut out), Out::Poll { export: 1 });
        session.polled(1, sequence, 8);
        assert!(matches!(session.next_out(&mut out), Out::Piece { .. }));
    }
    session.disconnected(NOW);
    session.connected(hello("there", 2), NOW);
    let opens = drain(&mut session);
    assert!(opens.iter().any(|(header, _)| (header.kind, header.stream) == (Kind::Open, 1)));
    // Two had arrived; the others are sent again.
    hear(&mut session, bare(Kind::Resume, 1, 2)).unwrap();
    hear(&mut session, credit(1, 2, 8)).unwrap();
    assert!(matches!(session.next_action(), Some(Action::Release { export: 1, below: 2 })));
    for sequence in 2..4 {
        let Out::Piece { header, .. } = session.next_out(&mut out) else { panic!("a piece") };
        assert_eq!(header.sequence, sequence);
    }
    assert_eq!(session.totals().again, 4);
}

#[test]
fn a_gap_in_the_numbers_is_a_loss_and_a_number_that_goes_back_is_a_fault() {
    let (mut session, import) = receiving(8);
    let place = session.piece(&piece(13, 0, 8, 8)).unwrap();
    assert_eq!(place, Place::Message { import, begin: Some(Begin { sequence: 13, lost: 3, total: 8 }) });
    assert_eq!(session.arrived(), Arrived::Whole { import });
    session.skipped(import, 3);
    session.committed(import, 8);
    for sequence in [13, 12, 0] {
        let (mut session, _) = receiving(8);
        receive(&mut session, 13);
        let fault = session.piece(&piece(sequence, 0, 8, 8)).unwrap_err();
        assert_eq!(fault, Violation::Sequence { kind: Kind::Piece, stream: 1, sequence, expected: 14 });
    }
    assert_eq!((session.totals().received, session.totals().lost), (1, 3));
}

#[test]
fn parts_come_in_order_and_belong_together() {
    let cases = [
        (piece(10, 8, 8, 24), None),
        (piece(10, 16, 8, 24), Some(Violation::Offset { sequence: 10, offset: 16, expected: 8 })),
        (piece(10, 0, 8, 24), Some(Violation::Offset { sequence: 10, offset: 0, expected: 8 })),
        (
            piece(11, 8, 8, 24),
            Some(Violation::Sequence { kind: Kind::Piece, stream: 1, sequence: 11, expected: 10 }),
        ),
        (
            piece(10, 8, 8, 32),
            Some(Violation::Sequence { kind: Kind::Piece, stream: 1, sequence: 10, expected: 10 }),
        ),
    ];
    for (second, fault) in cases {
        let (mut session, _) = receiving(8);
        session.piece(&piece(10, 0, 8, 24)).unwrap();
        assert_eq!(session.arrived(), Arrived::Part);
        assert_eq!(session.piece(&second).err(), fault, "{second:?}");
    }
    let (mut session, _) = receiving(8);
    let begins_inside = session.piece(&piece(10, 8, 8, 24)).unwrap_err();
    assert_eq!(begins_inside, Violation::Offset { sequence: 10, offset: 8, expected: 0 });
}

#[test]
fn who_sends_more_than_was_granted_is_cut_off() {
    let (mut session, import) = receiving(2);
    for sequence in 10..12 {
        assert_eq!(receive(&mut session, sequence), Arrived::Whole { import });
    }
    assert!(session.wants_room(import));
    assert_eq!(session.piece(&piece(12, 0, 8, 8)).unwrap_err(), Violation::Credit { stream: 1 });
    // With room there is credit again.
    let (mut session, import) = receiving(2);
    for sequence in 10..12 {
        receive(&mut session, sequence);
        session.committed(import, 2);
    }
    session.say_all();
    let said = drain(&mut session);
    assert_eq!(said.last().map(|(header, _)| (header.kind, header.sequence)), Some((Kind::Credit, 12)));
    receive(&mut session, 12);
}

#[test]
fn what_does_not_belong_there_closes_the_connection() {
    let unexpected = |kind| Violation::Unexpected { kind };
    let no_stream = |kind, stream| Violation::Stream { kind, stream };
    let open = say::Open::of(&candidate(2, false), 0, None);
    let cases = [
        (bare(Kind::Hello, 0, 0), unexpected(Kind::Hello)),
        (bare(Kind::Piece, 1, 0), unexpected(Kind::Piece)),
        (bare(Kind::Interest, 0, 0), Violation::Damaged { kind: Kind::Interest }),
        (bare(Kind::Open, 2, 0), Violation::Damaged { kind: Kind::Open }),
        (frame(Kind::Open, 1, 0, &open), no_stream(Kind::Open, 1)),
        (bare(Kind::End, 9, 0), no_stream(Kind::End, 9)),
        (credit(9, 0, 1), no_stream(Kind::Credit, 9)),
        (bare(Kind::Resume, 9, 0), no_stream(Kind::Resume, 9)),
        ((Header::control(Kind::Ping, 0, 0, 1), vec![0]), Violation::Damaged { kind: Kind::Ping }),
        (
            frame(Kind::Bye, 0, 0, &say::Bye { reason: "enough".to_owned() }),
            Violation::Bye { reason: "enough".to_owned() },
        ),
    ];
    for (said, expected) in cases {
        let (mut session, _) = receiving(2);
        let kind = said.0.kind;
        assert_eq!(hear(&mut session, said).unwrap_err(), expected, "{kind}");
        // And a new connection is as good as ever.
        session.disconnected(NOW);
        session.connected(hello("there", 2), NOW);
        hear(&mut session, frame(Kind::Open, 1, 0, &say::Open::of(&candidate(1, true), 10, None))).unwrap();
    }
}

#[test]
fn credit_never_goes_back_and_acknowledges_nothing_that_was_not_sent() {
    let mut session = sending();
    hear(&mut session, credit(1, 0, 5)).unwrap();
    assert_eq!(hear(&mut session, credit(1, 0, 4)).unwrap_err(), Violation::Credit { stream: 1 });
    let mut session = sending();
    let expected = Violation::Sequence { kind: Kind::Credit, stream: 1, sequence: 1, expected: 0 };
    assert_eq!(hear(&mut session, credit(1, 1, 5)).unwrap_err(), expected);
    // With the first part of a message it is known that nothing before it comes.
    let mut session = sending();
    hear(&mut session, credit(1, 0, 5)).unwrap();
    let mut out = Vec::new();
    assert_eq!(session.next_out(&mut out), Out::Poll { export: 1 });
    session.polled(1, 7, 2 * PIECE as usize);
    assert!(matches!(session.next_out(&mut out), Out::Piece { .. }));
    hear(&mut session, credit(1, 7, 5)).unwrap();
    hear(&mut session, credit(1, 8, 5)).unwrap_err();
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let mut session = connected();
    let Settings { keep_alive, dead, .. } = Settings::default();
    assert_eq!(session.deadline(), Some(NOW + keep_alive));
    session.tick(NOW + keep_alive).unwrap();
    assert_eq!(drain(&mut session)[0].0.kind, Kind::Ping);
    let silent = session.tick(NOW + dead).unwrap_err();
    assert_eq!(silent, Violation::Silent { silent: dead });
    let mut session = connected();
    session.tick(NOW + keep_alive).unwrap();
    session.heard(NOW + keep_alive);
    session.tick(NOW + dead).unwrap();
}

#[test]
fn without_a_connection_streams_are_kept_for_a_while_and_then_let_go() {
    let (mut session, import) = receiving(2);
    assert!(session.begun(1, candidate(1, true), 0));
    session.disconnected(NOW);
    let hold = Settings::default().hold;
    assert_eq!(session.deadline(), Some(NOW + hold));
    session.tick(NOW + hold - Duration::from_millis(1)).unwrap();
    assert!(session.next_action().is_none());
    session.tick(NOW + hold).unwrap();
    let actions: Vec<Action> = std::iter::from_fn(|| session.next_action()).collect();
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Close { import: closed, .. } if *closed == import)),
        "{actions:?}"
    );
    assert!(actions.iter().any(|action| matches!(action, Action::Release { export: 1, below: u64::MAX })));
}

#[test]
fn tables_of_a_peer_have_bounds() {
    let mut session = connected();
    let wanted = vec![("a".to_owned(), None); 400];
    let part =
        |first| frame(Kind::Interest, 0, 0, &say::Interest { first, last: false, wanted: wanted.clone() });
    hear(&mut session, part(true)).unwrap();
    let mut outcome = Ok(());
    for _ in 0..WANTED_MAX / 400 {
        outcome = hear(&mut session, part(false));
    }
    assert_eq!(outcome, Err(Violation::Limit { what: "filters of subscribers", limit: WANTED_MAX }));

    let mut session = connected();
    for stream in 1..=STREAMS_MAX as u32 {
        hear(&mut session, frame(Kind::Open, stream, 0, &say::Open::of(&candidate(stream, false), 0, None)))
            .unwrap();
    }
    let one_more = STREAMS_MAX as u32 + 1;
    let open = say::Open::of(&candidate(one_more, false), 0, None);
    let outcome = hear(&mut session, frame(Kind::Open, one_more, 0, &open));
    assert_eq!(outcome, Err(Violation::Limit { what: "streams", limit: STREAMS_MAX }));
}

#[test]
fn numbers_have_an_end() {
    let mut session = connected();
    let open = say::Open::of(&candidate(1, false), SEQUENCE_END, None);
    let outcome = hear(&mut session, frame(Kind::Open, 1, 0, &open));
    assert_eq!(outcome, Err(Violation::Damaged { kind: Kind::Open }));
    let open = say::Open::of(&candidate(1, false), 5, Some(4));
    let outcome = hear(&mut session, frame(Kind::Open, 1, 0, &open));
    assert_eq!(outcome, Err(Violation::Damaged { kind: Kind::Open }));
}

/// The sender let go of a stream while this side still kept it: it is not opened again, and must not stand for ever.
#[test]
fn a_stream_that_does_not_come_back_on_a_new_connection_is_let_go_and_counted_if_it_comes_late() {
    let (mut session, import) = receiving(4);
    session.want(vec![Wanted { filter: Filter::parse("**").unwrap(), fingerprint: None }]);
    receive(&mut session, 10);
    session.committed(import, 4);
    session.disconnected(NOW);
    session.connected(hello("there", 2), NOW);
    let settings = Settings::default();
    let late = NOW + settings.dead;
    session.heard(late - Duration::from_secs(1));
    assert_eq!(session.deadline(), Some(late));
    session.tick(late - Duration::from_millis(1)).unwrap();
    assert!(session.next_action().is_none());
    session.tick(late).unwrap();
    assert!(
        matches!(session.next_action(), Some(Action::Close { import: closed, lost: 0 }) if closed == import)
    );
    assert_eq!(session.deadline(), Some(late - Duration::from_secs(1) + settings.keep_alive));
    // It comes after all, and 5 messages later.
    let open = say::Open::of(&candidate(1, true), 16, None);
    hear(&mut session, frame(Kind::Open, 1, 0, &open)).unwrap();
    assert!(matches!(session.next_action(), Some(Action::Open { first: 16, .. })));
    assert_eq!(session.totals().lost, 5);
}

/// Between two subscribers nobody missed anything.
#[test]
fn what_nobody_wanted_is_not_lost() {
    let (mut session, import) = receiving(4);
    let wanted = || vec![Wanted { filter: Filter::parse("sensors/*").unwrap(), fingerprint: Some(5) }];
    session.want(wanted());
    receive(&mut session, 10);
    session.committed(import, 4);
    session.let_go();
    session.want(Vec::new());
    session.want(wanted());
    session.disconnected(NOW);
    session.connected(hello("there", 2), NOW);
    let open = say::Open::of(&candidate(1, true), 16, None);
    hear(&mut session, frame(Kind::Open, 1, 0, &open)).unwrap();
    assert_eq!(session.totals().lost, 0);
}

/// Who opens what nobody asked for gets a no for it, and takes a number; who asks for it later gets it.
#[test]
fn a_stream_that_nobody_here_asked_for_is_declined_and_can_be_asked_for_later() {
    let mut session = connected();
    session.want(vec![Wanted { fingerprint: Some(6), ..wanted("sensors/pose") }, wanted("other/*")]);
    drop(drain(&mut session));
    let open = frame(Kind::Open, 1, 0, &say::Open::of(&candidate(1, true), 10, None));
    hear(&mut session, open).unwrap();
    assert!(session.next_action().is_none(), "nothing is announced for it");
    // The wish for it comes behind the refusal of what came before it, or it would never be sent.
    session.want(vec![wanted("sensors/pose")]);
    let kinds: Vec<(Kind, u32)> =
        drain(&mut session).iter().map(|(header, _)| (header.kind, header.stream)).collect();
    assert_eq!(kinds, [(Kind::Opened, 1), (Kind::Interest, 0)]);
    hear(&mut session, bare(Kind::End, 1, 0)).unwrap();
    hear(&mut session, frame(Kind::Open, 2, 0, &say::Open::of(&candidate(1, true), 10, None))).unwrap();
    assert!(matches!(session.next_action(), Some(Action::Open { .. })));
}

#[test]
fn a_stream_that_was_declined_carries_nothing_and_its_number_is_bounded() {
    let declined = |count: u32| {
        let mut session = connected();
        session.want(Vec::new());
        drop(drain(&mut session));
        for stream in 1..=count {
            let open = say::Open::of(&candidate(stream, false), 0, None);
            hear(&mut session, frame(Kind::Open, stream, 0, &open)).unwrap();
        }
        session
    };
    let no_stream = Violation::Stream { kind: Kind::Piece, stream: 1 };
    assert_eq!(declined(1).piece(&piece(0, 0, 8, 8)).unwrap_err(), no_stream);
    // Its end can come no sooner than the refusal went: else a peer that does not read makes the list of them grow.
    let too_soon = hear(&mut declined(1), bare(Kind::End, 1, 0));
    assert_eq!(too_soon, Err(Violation::Unexpected { kind: Kind::End }));
    let mut session = declined(STREAMS_MAX as u32);
    let one_more = STREAMS_MAX as u32 + 1;
    let open = say::Open::of(&candidate(one_more, false), 0, None);
    let outcome = hear(&mut session, frame(Kind::Open, one_more, 0, &open));
    assert_eq!(outcome, Err(Violation::Limit { what: "streams", limit: STREAMS_MAX }));
}

/// A number costs nothing to write: it is believed as far as it is possible.
#[test]
fn a_gap_that_cannot_have_been_published_ends_the_link_with_a_reason() {
    let gap = |violation| matches!(violation, Violation::Gap { stream: 1, .. });
    let (mut session, _) = receiving(8);
    assert!(gap(session.piece(&piece(1 << 61, 0, 8, 8)).unwrap_err()));
    let (mut session, _) = receiving(8);
    assert!(gap(hear(&mut session, bare(Kind::End, 1, 1 << 61)).unwrap_err()));
    // What is possible is counted, and all gaps together are bounded by the time that passes.
    let (mut session, import) = receiving(1 << 20);
    let mut at = 10;
    let mut claimed = 0;
    let fault = loop {
        match session.piece(&piece(at, 0, 8, 8)) {
            Ok(Place::Message { begin: Some(begin), .. }) => {
                assert_eq!(session.arrived(), Arrived::Whole { import });
                session.skipped(import, begin.lost);
                session.committed(import, 8);
                session.say_all();
                drop(drain(&mut session));
                claimed += begin.lost;
                at += 1 << 38;
            }
            Ok(place) => panic!("{place:?}"),
            Err(violation) => break violation,
        }
    };
    assert!(gap(fault));
    assert!((1 << 39..=1 << 40).contains(&claimed), "{claimed}");
    assert_eq!(session.totals().lost, claimed);
    session.heard(NOW + Duration::from_secs(3600));
    session.piece(&piece(at, 0, 8, 8)).unwrap();
}

#[test]
fn a_publisher_that_comes_back_leaves_out_no_more_than_can_have_been_published() {
    let come_back_at = |first: u64| {
        let mut session = connected();
        let open = |first| say::Open::of(&candidate(1, true), first, None);
        hear(&mut session, frame(Kind::Open, 1, 0, &open(10))).unwrap();
        let Some(Action::Open { import, .. }) = session.next_action() else { panic!("it is opened") };
        session.opened(import, Ok(8));
        drop(drain(&mut session));
        hear(&mut session, bare(Kind::End, 1, 10)).unwrap();
        drop(drain(&mut session));
        let outcome = hear(&mut session, frame(Kind::Open, 2, 0, &open(first)));
        (outcome, session.totals().lost)
    };
    assert_eq!(come_back_at(15), (Ok(()), 5));
    let (outcome, lost) = come_back_at(SEQUENCE_END - 1);
    assert!(matches!(outcome, Err(Violation::Gap { stream: 2, .. })), "{outcome:?}");
    assert_eq!(lost, 0);
}

/// The same publisher, again and again, with numbers from anywhere: a sum that wraps, and a list of answers without a bound, before.
#[test]
fn what_a_publisher_says_that_comes_back_is_bounded() {
    let mut session = connected();
    let mut outcome = Ok(());
    for stream in (1..).take(2 * STREAMS_MAX) {
        let open = say::Open::of(&candidate(1, true), 10, Some(10));
        outcome = hear(&mut session, frame(Kind::Open, stream, 0, &open));
        if outcome.is_err() {
            break;
        }
        if stream == 1 {
            let Some(Action::Open { import, .. }) = session.next_action() else { panic!("it is opened") };
            session.opened(import, Ok(8));
            drop(drain(&mut session));
            hear(&mut session, bare(Kind::End, 1, 10)).unwrap();
        }
    }
    assert_eq!(outcome, Err(Violation::Limit { what: "streams", limit: STREAMS_MAX }));

    let mut session = connected();
    for life in 0..20 {
        let open =
            say::Open::of(&candidate(1, true), SEQUENCE_END - 1 - (life % 2) * (SEQUENCE_END - 2), None);
        hear(&mut session, frame(Kind::Open, 1, 0, &open)).unwrap();
        let Some(Action::Open { import, .. }) = session.next_action() else { panic!("it is opened") };
        session.opened(import, Ok(8));
        session.disconnected(NOW);
        session.let_go();
        while session.next_action().is_some() {}
        session.connected(hello("there", 2), NOW);
        drop(drain(&mut session));
    }
}

#[test]
fn descriptions_of_types_have_a_budget_and_give_it_back() {
    let kind = contract::Kind { fingerprint: 5, schema: vec![7; MAX_SCHEMA] };
    let long = |index| Candidate { kind: kind.clone(), ..candidate(index, true) };
    let mut session = connected();
    let streams = (incoming::SCHEMAS_MAX / MAX_SCHEMA) as u32 + 10;
    for stream in 1..=streams {
        hear(&mut session, frame(Kind::Open, stream, 0, &say::Open::of(&long(stream), 0, None))).unwrap();
    }
    let opened = std::iter::from_fn(|| session.next_action())
        .filter(|action| matches!(action, Action::Open { .. }))
        .count();
    assert_eq!(opened, incoming::SCHEMAS_MAX / MAX_SCHEMA);
    session.disconnected(NOW);
    session.let_go();
    while session.next_action().is_some() {}
    session.connected(hello("there", 2), NOW);
    drop(drain(&mut session));
    hear(&mut session, frame(Kind::Open, 1, 0, &say::Open::of(&long(1), 0, None))).unwrap();
    assert!(matches!(session.next_action(), Some(Action::Open { .. })));
}
