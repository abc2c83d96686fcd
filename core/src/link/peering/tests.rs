//! What a peer may say and when; what it may not closes the connection with a reason. Whole links:
//! `core/tests/link_simulation.rs`.
use std::time::Duration;

use super::*;
use crate::contract::{Contract, Delivery, Kind};
use crate::filter::Filter;
use crate::link::frame::{HEADER, PIECE, SEQUENCE_END};
use crate::protocol::{EndId, MAX_SCHEMA};
use say::{Credit, Opened};

const NOW: Now = Duration::from_secs(100);

fn hello(host: &str, epoch: u64) -> Hello {
    Hello { role: Role::Peer, host: host.to_owned(), epoch, capabilities: 0 }
}

fn connected() -> Peering {
    let mut peering = Peering::new(Settings::default());
    peering.connected(hello("there", 2), NOW);
    peering.want(vec![wanted("sensors/*")]);
    drop(drain(&mut peering));
    peering
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
        kind: Kind { fingerprint: 5, schema: vec![1, 2, 3] },
        contract: Contract { delivery, capacity: 16, ..Contract::default() },
        via: None,
    }
}

/// All control frames that are due.
fn drain(peering: &mut Peering) -> Vec<(Header, Vec<u8>)> {
    let mut out = Vec::new();
    while peering.has_control() {
        assert_eq!(peering.next_out(&mut out), Out::Frame);
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
fn frame<S: say::Say>(kind: FrameKind, stream: u32, sequence: u64, content: &S) -> (Header, Vec<u8>) {
    let mut bytes = Vec::new();
    say::append(kind, stream, sequence, content, &mut bytes);
    let (header, _) = Header::decode(bytes.first_chunk().unwrap()).unwrap();
    (header, bytes[HEADER..].to_vec())
}

fn hear(peering: &mut Peering, (header, payload): (Header, Vec<u8>)) -> Result<(), Violation> {
    peering.frame(&header, &payload, NOW)
}

fn bare(kind: FrameKind, stream: u32, sequence: u64) -> (Header, Vec<u8>) {
    (Header::control(kind, stream, sequence, 0), Vec::new())
}

fn credit(stream: u32, below: u64, messages: u64) -> (Header, Vec<u8>) {
    frame(FrameKind::Credit, stream, below, &Credit { messages, bytes: 1 << 20 })
}

/// A stream that the other host has accepted from message 0, without credit.
fn sending() -> Peering {
    let mut peering = connected();
    assert!(peering.begun(1, candidate(1, true), 0));
    let opens = drain(&mut peering);
    assert_eq!((opens.len(), opens[0].0.kind, opens[0].0.stream), (1, FrameKind::Open, 1));
    hear(&mut peering, frame(FrameKind::Opened, 1, 0, &Opened::Yes)).unwrap();
    peering
}

/// A stream of the other host, open here with room for `room` messages.
fn receiving(room: u64) -> (Peering, ImportId) {
    let mut peering = connected();
    let open = say::Open::of(&candidate(1, true), 10, None);
    hear(&mut peering, frame(FrameKind::Open, 1, 0, &open)).unwrap();
    let Some(Action::Open { import, candidate, .. }) = peering.next_action() else {
        panic!("it is to be opened")
    };
    assert_eq!(candidate.via.unwrap().host, "there");
    peering.opened(import, room);
    let said = drain(&mut peering);
    assert_eq!((said[0].0.kind, said[0].0.sequence), (FrameKind::Opened, 10));
    (peering, import)
}

fn piece(sequence: u64, offset: u32, length: u32, total: u32) -> Header {
    Header::piece(1, sequence, offset, length, total)
}

fn receive(peering: &mut Peering, sequence: u64) -> Arrived {
    peering.piece(&piece(sequence, 0, 8, 8)).unwrap();
    peering.arrived()
}

#[test]
fn nothing_is_sent_without_credit_and_as_much_as_there_is() {
    let mut peering = sending();
    let mut out = Vec::new();
    assert_eq!(peering.next_out(&mut out), Out::Nothing);
    hear(&mut peering, credit(1, 0, 2)).unwrap();
    for sequence in 0..2 {
        assert_eq!(peering.next_out(&mut out), Out::Poll { export: 1 });
        peering.polled(1, sequence, 8);
        let Out::Piece { export: 1, header } = peering.next_out(&mut out) else { panic!("a piece") };
        assert_eq!((header.sequence, header.length, header.is_last()), (sequence, 8, true));
    }
    assert_eq!(peering.next_out(&mut out), Out::Nothing);
    assert!(!peering.may_send(1));
    // What has arrived need not be held any more.
    hear(&mut peering, credit(1, 2, 3)).unwrap();
    assert!(matches!(peering.next_action(), Some(Action::Release { export: 1, below: 2 })));
    assert!(peering.may_send(1));
}

/// A publisher that is attached again for its history, and detached at once, ends below what the receiver
/// has; the receiver is told what it can believe.
#[test]
fn an_export_that_ends_below_what_the_receiver_has_says_no_less() {
    let mut peering = connected();
    assert!(peering.begun(1, candidate(1, true), 18));
    assert_eq!(drain(&mut peering)[0].0.kind, FrameKind::Open);
    hear(&mut peering, frame(FrameKind::Opened, 1, 20, &Opened::Yes)).unwrap();
    peering.ended(1, 18);
    let mut out = Vec::new();
    assert_eq!(peering.next_out(&mut out), Out::Frame);
    let (header, _) = Header::decode(out.first_chunk().unwrap()).unwrap();
    assert_eq!((header.kind, header.sequence), (FrameKind::End, 20));
}

/// Whether what is held is released already or about to be: nothing is polled in circles.
#[test]
fn an_export_that_is_held_out_is_left_alone_until_it_is_looked_at_again() {
    for is_released in [false, true] {
        let mut peering = sending();
        let mut out = Vec::new();
        hear(&mut peering, credit(1, 0, 9)).unwrap();
        assert_eq!(peering.next_out(&mut out), Out::Poll { export: 1 });
        peering.polled(1, 0, 8);
        assert!(matches!(peering.next_out(&mut out), Out::Piece { export: 1, .. }));
        assert_eq!(peering.next_out(&mut out), Out::Poll { export: 1 });
        if is_released {
            // The engine has not done what this says.
            hear(&mut peering, credit(1, 1, 9)).unwrap();
        }
        peering.held_out(1);
        assert_eq!(peering.next_out(&mut out), Out::Nothing);
        peering.look_at(&[1]);
        let expected = if is_released { Out::Poll { export: 1 } } else { Out::Nothing };
        assert_eq!(peering.next_out(&mut out), expected);
        if !is_released {
            hear(&mut peering, credit(1, 1, 9)).unwrap();
            assert!(peering.take_unblocked(), "the sender is told");
            peering.look_at(&[1]);
            assert_eq!(peering.next_out(&mut out), Out::Poll { export: 1 });
        }
    }
}

/// A stream that has no credit, or a long message, keeps no other from its turn.
#[test]
fn streams_take_turns() {
    let mut peering = connected();
    for export in 1..=3 {
        assert!(peering.begun(export, candidate(export, true), 0));
    }
    drop(drain(&mut peering));
    for stream in 1..=3u32 {
        hear(&mut peering, frame(FrameKind::Opened, stream, 0, &Opened::Yes)).unwrap();
        if stream > 1 {
            hear(&mut peering, credit(stream, 0, 8)).unwrap();
        }
    }
    let mut out = Vec::new();
    let mut pieces = Vec::new();
    for _ in 0..12 {
        match peering.next_out(&mut out) {
            Out::Poll { export } => peering.polled(export, 0, 4 * PIECE as usize),
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
    let mut peering = sending();
    hear(&mut peering, credit(1, 0, 8)).unwrap();
    let mut out = Vec::new();
    for sequence in 0..4 {
        assert_eq!(peering.next_out(&mut out), Out::Poll { export: 1 });
        peering.polled(1, sequence, 8);
        assert!(matches!(peering.next_out(&mut out), Out::Piece { .. }));
    }
    peering.disconnected(NOW);
    peering.connected(hello("there", 2), NOW);
    let opens = drain(&mut peering);
    assert!(opens.iter().any(|(header, _)| (header.kind, header.stream) == (FrameKind::Open, 1)));
    // Two had arrived; the others are sent again.
    hear(&mut peering, bare(FrameKind::Resume, 1, 2)).unwrap();
    hear(&mut peering, credit(1, 2, 8)).unwrap();
    assert!(matches!(peering.next_action(), Some(Action::Release { export: 1, below: 2 })));
    for sequence in 2..4 {
        let Out::Piece { header, .. } = peering.next_out(&mut out) else { panic!("a piece") };
        assert_eq!(header.sequence, sequence);
    }
    assert_eq!(peering.totals().again, 4);
}

#[test]
fn a_gap_in_the_numbers_is_a_loss_and_a_number_that_goes_back_is_a_fault() {
    let (mut peering, import) = receiving(8);
    let place = peering.piece(&piece(13, 0, 8, 8)).unwrap();
    assert_eq!(place, Place::Message { import, begin: Some(Begin { sequence: 13, lost: 3, total: 8 }) });
    assert_eq!(peering.arrived(), Arrived::Whole { import });
    peering.skipped(import, 3);
    peering.committed(import, 8);
    for sequence in [13, 12, 0] {
        let (mut peering, _) = receiving(8);
        receive(&mut peering, 13);
        let fault = peering.piece(&piece(sequence, 0, 8, 8)).unwrap_err();
        assert_eq!(fault, Violation::Sequence { kind: FrameKind::Piece, stream: 1, sequence, expected: 14 });
    }
    assert_eq!((peering.totals().received, peering.totals().lost), (1, 3));
}

#[test]
fn parts_come_in_order_and_belong_together() {
    let cases = [
        (piece(10, 8, 8, 24), None),
        (piece(10, 16, 8, 24), Some(Violation::Offset { sequence: 10, offset: 16, expected: 8 })),
        (piece(10, 0, 8, 24), Some(Violation::Offset { sequence: 10, offset: 0, expected: 8 })),
        (
            piece(11, 8, 8, 24),
            Some(Violation::Sequence { kind: FrameKind::Piece, stream: 1, sequence: 11, expected: 10 }),
        ),
        (
            piece(10, 8, 8, 32),
            Some(Violation::Sequence { kind: FrameKind::Piece, stream: 1, sequence: 10, expected: 10 }),
        ),
    ];
    for (second, fault) in cases {
        let (mut peering, _) = receiving(8);
        peering.piece(&piece(10, 0, 8, 24)).unwrap();
        assert_eq!(peering.arrived(), Arrived::Part);
        assert_eq!(peering.piece(&second).err(), fault, "{second:?}");
    }
    let (mut peering, _) = receiving(8);
    let begins_inside = peering.piece(&piece(10, 8, 8, 24)).unwrap_err();
    assert_eq!(begins_inside, Violation::Offset { sequence: 10, offset: 8, expected: 0 });
}

#[test]
fn a_peer_that_sends_more_than_was_granted_is_cut_off() {
    let (mut peering, import) = receiving(2);
    for sequence in 10..12 {
        assert_eq!(receive(&mut peering, sequence), Arrived::Whole { import });
    }
    assert!(peering.wants_room(import));
    assert_eq!(peering.piece(&piece(12, 0, 8, 8)).unwrap_err(), Violation::Credit { stream: 1 });
    // With room there is credit again.
    let (mut peering, import) = receiving(2);
    for sequence in 10..12 {
        receive(&mut peering, sequence);
        peering.committed(import, 2);
    }
    peering.say_all();
    let said = drain(&mut peering);
    assert_eq!(said.last().map(|(header, _)| (header.kind, header.sequence)), Some((FrameKind::Credit, 12)));
    receive(&mut peering, 12);
}

#[test]
fn what_does_not_belong_there_closes_the_connection() {
    let unexpected = |kind| Violation::Unexpected { kind };
    let no_stream = |kind, stream| Violation::Stream { kind, stream };
    let open = say::Open::of(&candidate(2, false), 0, None);
    let cases = [
        (bare(FrameKind::Hello, 0, 0), unexpected(FrameKind::Hello)),
        (bare(FrameKind::Piece, 1, 0), unexpected(FrameKind::Piece)),
        (bare(FrameKind::Interest, 0, 0), Violation::Damaged { kind: FrameKind::Interest }),
        (bare(FrameKind::Open, 2, 0), Violation::Damaged { kind: FrameKind::Open }),
        (frame(FrameKind::Open, 1, 0, &open), no_stream(FrameKind::Open, 1)),
        (bare(FrameKind::End, 9, 0), no_stream(FrameKind::End, 9)),
        (credit(9, 0, 1), no_stream(FrameKind::Credit, 9)),
        (bare(FrameKind::Resume, 9, 0), no_stream(FrameKind::Resume, 9)),
        ((Header::control(FrameKind::Ping, 0, 0, 1), vec![0]), Violation::Damaged { kind: FrameKind::Ping }),
        (
            frame(FrameKind::Bye, 0, 0, &say::Bye { reason: "enough".to_owned() }),
            Violation::Bye { reason: "enough".to_owned() },
        ),
    ];
    for (said, expected) in cases {
        let (mut peering, _) = receiving(2);
        let kind = said.0.kind;
        assert_eq!(hear(&mut peering, said).unwrap_err(), expected, "{kind}");
        // And a new connection is as good as ever.
        peering.disconnected(NOW);
        peering.connected(hello("there", 2), NOW);
        hear(&mut peering, frame(FrameKind::Open, 1, 0, &say::Open::of(&candidate(1, true), 10, None)))
            .unwrap();
    }
}

#[test]
fn credit_never_goes_back_and_acknowledges_nothing_that_was_not_sent() {
    let mut peering = sending();
    hear(&mut peering, credit(1, 0, 5)).unwrap();
    assert_eq!(hear(&mut peering, credit(1, 0, 4)).unwrap_err(), Violation::Credit { stream: 1 });
    let mut peering = sending();
    let expected = Violation::Sequence { kind: FrameKind::Credit, stream: 1, sequence: 1, expected: 0 };
    assert_eq!(hear(&mut peering, credit(1, 1, 5)).unwrap_err(), expected);
    // With the first part of a message it is known that nothing before it comes.
    let mut peering = sending();
    hear(&mut peering, credit(1, 0, 5)).unwrap();
    let mut out = Vec::new();
    assert_eq!(peering.next_out(&mut out), Out::Poll { export: 1 });
    peering.polled(1, 7, 2 * PIECE as usize);
    assert!(matches!(peering.next_out(&mut out), Out::Piece { .. }));
    hear(&mut peering, credit(1, 7, 5)).unwrap();
    hear(&mut peering, credit(1, 8, 5)).unwrap_err();
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let mut peering = connected();
    let Settings { keep_alive, dead, .. } = Settings::default();
    assert_eq!(peering.deadline(), Some(NOW + keep_alive));
    peering.tick(NOW + keep_alive).unwrap();
    assert_eq!(drain(&mut peering)[0].0.kind, FrameKind::Ping);
    let silent = peering.tick(NOW + dead).unwrap_err();
    assert_eq!(silent, Violation::Silent { silent: dead });
    let mut peering = connected();
    peering.tick(NOW + keep_alive).unwrap();
    peering.heard(NOW + keep_alive);
    peering.tick(NOW + dead).unwrap();
}

#[test]
fn without_a_connection_streams_are_kept_for_a_while_and_then_let_go() {
    let (mut peering, import) = receiving(2);
    assert!(peering.begun(1, candidate(1, true), 0));
    peering.disconnected(NOW);
    let hold = Settings::default().hold;
    assert_eq!(peering.deadline(), Some(NOW + hold));
    peering.tick(NOW + hold - Duration::from_millis(1)).unwrap();
    assert!(peering.next_action().is_none());
    peering.tick(NOW + hold).unwrap();
    let actions: Vec<Action> = std::iter::from_fn(|| peering.next_action()).collect();
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
    let mut peering = connected();
    let wanted = vec![("a".to_owned(), None); 400];
    let part = |first| {
        frame(FrameKind::Interest, 0, 0, &say::Interest { first, last: false, wanted: wanted.clone() })
    };
    hear(&mut peering, part(true)).unwrap();
    let mut outcome = Ok(());
    for _ in 0..WANTED_MAX / 400 {
        outcome = hear(&mut peering, part(false));
    }
    assert_eq!(outcome, Err(Violation::Limit { what: "filters of subscribers", limit: WANTED_MAX }));

    let mut peering = connected();
    for stream in 1..=STREAMS_MAX as u32 {
        hear(
            &mut peering,
            frame(FrameKind::Open, stream, 0, &say::Open::of(&candidate(stream, false), 0, None)),
        )
        .unwrap();
    }
    let one_more = STREAMS_MAX as u32 + 1;
    let open = say::Open::of(&candidate(one_more, false), 0, None);
    let outcome = hear(&mut peering, frame(FrameKind::Open, one_more, 0, &open));
    assert_eq!(outcome, Err(Violation::Limit { what: "streams", limit: STREAMS_MAX }));
}

#[test]
fn numbers_have_an_end() {
    let mut peering = connected();
    let open = say::Open::of(&candidate(1, false), SEQUENCE_END, None);
    let outcome = hear(&mut peering, frame(FrameKind::Open, 1, 0, &open));
    assert_eq!(outcome, Err(Violation::Damaged { kind: FrameKind::Open }));
    let open = say::Open::of(&candidate(1, false), 5, Some(4));
    let outcome = hear(&mut peering, frame(FrameKind::Open, 1, 0, &open));
    assert_eq!(outcome, Err(Violation::Damaged { kind: FrameKind::Open }));
}

/// The sender let go of a stream while this side still kept it: it is not opened again, and must not stand
/// for ever.
#[test]
fn a_stream_that_does_not_come_back_on_a_new_connection_is_let_go_and_counted_if_it_comes_late() {
    let (mut peering, import) = receiving(4);
    peering.want(vec![Wanted { filter: Filter::parse("**").unwrap(), fingerprint: None }]);
    receive(&mut peering, 10);
    peering.committed(import, 4);
    peering.disconnected(NOW);
    peering.connected(hello("there", 2), NOW);
    let settings = Settings::default();
    let late = NOW + settings.dead;
    peering.heard(late - Duration::from_secs(1));
    assert_eq!(peering.deadline(), Some(late));
    peering.tick(late - Duration::from_millis(1)).unwrap();
    assert!(peering.next_action().is_none());
    peering.tick(late).unwrap();
    assert!(
        matches!(peering.next_action(), Some(Action::Close { import: closed, lost: 0 }) if closed == import)
    );
    assert_eq!(peering.deadline(), Some(late - Duration::from_secs(1) + settings.keep_alive));
    // It comes after all, and 5 messages later.
    let open = say::Open::of(&candidate(1, true), 16, None);
    hear(&mut peering, frame(FrameKind::Open, 1, 0, &open)).unwrap();
    assert!(matches!(peering.next_action(), Some(Action::Open { first: 16, .. })));
    assert_eq!(peering.totals().lost, 5);
}

/// Between two subscribers nothing is missed.
#[test]
fn what_nobody_wanted_is_not_lost() {
    let (mut peering, import) = receiving(4);
    let wanted = || vec![Wanted { filter: Filter::parse("sensors/*").unwrap(), fingerprint: Some(5) }];
    peering.want(wanted());
    receive(&mut peering, 10);
    peering.committed(import, 4);
    peering.let_go();
    peering.want(Vec::new());
    peering.want(wanted());
    peering.disconnected(NOW);
    peering.connected(hello("there", 2), NOW);
    let open = say::Open::of(&candidate(1, true), 16, None);
    hear(&mut peering, frame(FrameKind::Open, 1, 0, &open)).unwrap();
    assert_eq!(peering.totals().lost, 0);
}

/// A stream that was not asked for is refused and takes a number; it is opened once it is asked for.
#[test]
fn a_stream_that_nobody_here_asked_for_is_declined_and_can_be_asked_for_later() {
    let mut peering = connected();
    peering.want(vec![Wanted { fingerprint: Some(6), ..wanted("sensors/pose") }, wanted("other/*")]);
    drop(drain(&mut peering));
    let open = frame(FrameKind::Open, 1, 0, &say::Open::of(&candidate(1, true), 10, None));
    hear(&mut peering, open).unwrap();
    assert!(peering.next_action().is_none(), "nothing is announced for it");
    // The wish for it comes behind the refusal of what came before it, or it would never be sent.
    peering.want(vec![wanted("sensors/pose")]);
    let kinds: Vec<(FrameKind, u32)> =
        drain(&mut peering).iter().map(|(header, _)| (header.kind, header.stream)).collect();
    assert_eq!(kinds, [(FrameKind::Opened, 1), (FrameKind::Interest, 0)]);
    hear(&mut peering, bare(FrameKind::End, 1, 0)).unwrap();
    hear(&mut peering, frame(FrameKind::Open, 2, 0, &say::Open::of(&candidate(1, true), 10, None))).unwrap();
    assert!(matches!(peering.next_action(), Some(Action::Open { .. })));
}

#[test]
fn a_stream_that_was_declined_carries_nothing_and_its_number_is_bounded() {
    let declined = |count: u32| {
        let mut peering = connected();
        peering.want(Vec::new());
        drop(drain(&mut peering));
        for stream in 1..=count {
            let open = say::Open::of(&candidate(stream, false), 0, None);
            hear(&mut peering, frame(FrameKind::Open, stream, 0, &open)).unwrap();
        }
        peering
    };
    let no_stream = Violation::Stream { kind: FrameKind::Piece, stream: 1 };
    assert_eq!(declined(1).piece(&piece(0, 0, 8, 8)).unwrap_err(), no_stream);
    // Its end can come no sooner than the refusal went: else a peer that does not read makes the list of them
    // grow.
    let too_soon = hear(&mut declined(1), bare(FrameKind::End, 1, 0));
    assert_eq!(too_soon, Err(Violation::Unexpected { kind: FrameKind::End }));
    let mut peering = declined(STREAMS_MAX as u32);
    let one_more = STREAMS_MAX as u32 + 1;
    let open = say::Open::of(&candidate(one_more, false), 0, None);
    let outcome = hear(&mut peering, frame(FrameKind::Open, one_more, 0, &open));
    assert_eq!(outcome, Err(Violation::Limit { what: "streams", limit: STREAMS_MAX }));
}

/// A number costs nothing to write: it is believed as far as it is possible.
#[test]
fn a_gap_that_cannot_have_been_published_ends_the_link_with_a_reason() {
    let gap = |violation| matches!(violation, Violation::Gap { stream: 1, .. });
    let (mut peering, _) = receiving(8);
    assert!(gap(peering.piece(&piece(1 << 61, 0, 8, 8)).unwrap_err()));
    let (mut peering, _) = receiving(8);
    assert!(gap(hear(&mut peering, bare(FrameKind::End, 1, 1 << 61)).unwrap_err()));
    // What is possible is counted, and all gaps together are bounded by the time that passes.
    let (mut peering, import) = receiving(1 << 20);
    let mut at = 10;
    let mut claimed = 0;
    let fault = loop {
        match peering.piece(&piece(at, 0, 8, 8)) {
            Ok(Place::Message { begin: Some(begin), .. }) => {
                assert_eq!(peering.arrived(), Arrived::Whole { import });
                peering.skipped(import, begin.lost);
                peering.committed(import, 8);
                peering.say_all();
                drop(drain(&mut peering));
                claimed += begin.lost;
                at += 1 << 38;
            }
            Ok(place) => panic!("{place:?}"),
            Err(violation) => break violation,
        }
    };
    assert!(gap(fault));
    assert!((1 << 39..=1 << 40).contains(&claimed), "{claimed}");
    assert_eq!(peering.totals().lost, claimed);
    peering.heard(NOW + Duration::from_secs(3600));
    peering.piece(&piece(at, 0, 8, 8)).unwrap();
}

#[test]
fn a_publisher_that_comes_back_leaves_out_no_more_than_can_have_been_published() {
    let come_back_at = |first: u64| {
        let mut peering = connected();
        let open = |first| say::Open::of(&candidate(1, true), first, None);
        hear(&mut peering, frame(FrameKind::Open, 1, 0, &open(10))).unwrap();
        let Some(Action::Open { import, .. }) = peering.next_action() else { panic!("it is opened") };
        peering.opened(import, 8);
        drop(drain(&mut peering));
        hear(&mut peering, bare(FrameKind::End, 1, 10)).unwrap();
        drop(drain(&mut peering));
        let outcome = hear(&mut peering, frame(FrameKind::Open, 2, 0, &open(first)));
        (outcome, peering.totals().lost)
    };
    assert_eq!(come_back_at(15), (Ok(()), 5));
    let (outcome, lost) = come_back_at(SEQUENCE_END - 1);
    assert!(matches!(outcome, Err(Violation::Gap { stream: 2, .. })), "{outcome:?}");
    assert_eq!(lost, 0);
}

/// The same publisher, again and again, with numbers from anywhere: a sum that wraps, and a list of answers
/// without a bound, before.
#[test]
fn what_a_publisher_says_that_comes_back_is_bounded() {
    let mut peering = connected();
    let mut outcome = Ok(());
    for stream in (1..).take(2 * STREAMS_MAX) {
        let open = say::Open::of(&candidate(1, true), 10, Some(10));
        outcome = hear(&mut peering, frame(FrameKind::Open, stream, 0, &open));
        if outcome.is_err() {
            break;
        }
        if stream == 1 {
            let Some(Action::Open { import, .. }) = peering.next_action() else { panic!("it is opened") };
            peering.opened(import, 8);
            drop(drain(&mut peering));
            hear(&mut peering, bare(FrameKind::End, 1, 10)).unwrap();
        }
    }
    assert_eq!(outcome, Err(Violation::Limit { what: "streams", limit: STREAMS_MAX }));

    let mut peering = connected();
    for life in 0..20 {
        let open =
            say::Open::of(&candidate(1, true), SEQUENCE_END - 1 - (life % 2) * (SEQUENCE_END - 2), None);
        hear(&mut peering, frame(FrameKind::Open, 1, 0, &open)).unwrap();
        let Some(Action::Open { import, .. }) = peering.next_action() else { panic!("it is opened") };
        peering.opened(import, 8);
        peering.disconnected(NOW);
        peering.let_go();
        while peering.next_action().is_some() {}
        peering.connected(hello("there", 2), NOW);
        drop(drain(&mut peering));
    }
}

#[test]
fn descriptions_of_types_have_a_budget_and_give_it_back() {
    let kind = Kind { fingerprint: 5, schema: vec![7; MAX_SCHEMA] };
    let long = |index| Candidate { kind: kind.clone(), ..candidate(index, true) };
    let mut peering = connected();
    let streams = (receiving::SCHEMAS_MAX / MAX_SCHEMA) as u32 + 10;
    for stream in 1..=streams {
        hear(&mut peering, frame(FrameKind::Open, stream, 0, &say::Open::of(&long(stream), 0, None)))
            .unwrap();
    }
    let opened = std::iter::from_fn(|| peering.next_action())
        .filter(|action| matches!(action, Action::Open { .. }))
        .count();
    assert_eq!(opened, receiving::SCHEMAS_MAX / MAX_SCHEMA);
    peering.disconnected(NOW);
    peering.let_go();
    while peering.next_action().is_some() {}
    peering.connected(hello("there", 2), NOW);
    drop(drain(&mut peering));
    hear(&mut peering, frame(FrameKind::Open, 1, 0, &say::Open::of(&long(1), 0, None))).unwrap();
    assert!(matches!(peering.next_action(), Some(Action::Open { .. })));
}
