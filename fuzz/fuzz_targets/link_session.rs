//! The rules of a link: a peer says anything at any time, while the own side does what it does. It never
//! panics, asks for no more than its bounds, and after a fault a new connection is as good as ever.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::Arbitrary;
use hivemind_core::contract::{self, Contract, Delivery};
use hivemind_core::filter::Filter;
use hivemind_core::link::candidate::Candidate;
use hivemind_core::link::frame::{FrameKind, HEADER, Header};
use hivemind_core::link::greeting::{Hello, Role};
use hivemind_core::link::peering::{
    Action, Arrived, ImportId, Out, Peering, Place, STREAMS_MAX, Settings, Wanted,
};
use hivemind_core::protocol::EndId;
use libfuzzer_sys::fuzz_target;

/// What happens next. Small numbers, so that they meet.
#[derive(Debug, Arbitrary)]
enum Step {
    /// A frame, as it is.
    Frame {
        kind: u8,
        stream: u8,
        sequence: u8,
        payload: Vec<u8>,
    },
    /// What another peering says, which obeys the rules.
    Honest {
        frames: u8,
    },
    Piece {
        stream: u8,
        sequence: u8,
        offset: u8,
        length: u8,
        total: u8,
    },
    Begun {
        export: u8,
        reliable: bool,
    },
    Ended {
        export: u8,
        next: u8,
    },
    Poll {
        found: bool,
    },
    Want {
        filters: u8,
    },
    Room {
        import: u8,
        room: u8,
    },
    Connect,
    Disconnect,
    Pass {
        milliseconds: u16,
    },
}

fuzz_target!(|steps: Vec<Step>| {
    let settings = Settings { window: 64, piece: 16, ..Settings::default() };
    let (mut peering, mut honest) = (Peering::new(settings.clone()), Peering::new(settings));
    let mut now = Duration::ZERO;
    let mut open: Vec<ImportId> = Vec::new();
    let mut lost: BTreeMap<ImportId, u64> = BTreeMap::new();
    let hello = |host: &str, epoch| Hello { role: Role::Peer, host: host.to_owned(), epoch, capabilities: 0 };
    peering.connected(hello("there", 2), now);
    honest.connected(hello("here", 1), now);
    for step in steps {
        let outcome = match step {
            Step::Frame { kind, stream, sequence, payload } => {
                let kind = KINDS[usize::from(kind) % KINDS.len()];
                let header = Header::control(kind, stream.into(), sequence.into(), payload.len() as u32);
                let Ok((header, _)) = Header::decode(&header.encode(&payload)) else { continue };
                peering.frame(&header, &payload, now)
            }
            Step::Honest { frames } => {
                let mut said = Vec::new();
                for _ in 0..frames % 8 {
                    if !honest.has_control() {
                        break;
                    }
                    honest.next_out(&mut said);
                }
                let mut outcome = Ok(());
                let mut rest = &said[..];
                while let Some(head) = rest.first_chunk::<HEADER>() {
                    let (header, _) = Header::decode(head).expect("it says frames");
                    let end = HEADER + header.length as usize;
                    outcome = outcome.and_then(|()| peering.frame(&header, &rest[HEADER..end], now));
                    rest = &rest[end..];
                }
                outcome
            }
            Step::Piece { stream, sequence, offset, length, total } => {
                let (offset, total) = (u32::from(offset).min(total.into()), u32::from(total));
                let length = u32::from(length).min(total - offset);
                let header = Header::piece(stream.into(), sequence.into(), offset, length, total);
                let Ok((header, _)) = Header::decode(&header.encode(&vec![0; length as usize])) else {
                    continue;
                };
                peering.piece(&header).map(|place| {
                    if let Place::Message { import, begin: Some(begin) } = place {
                        lost.insert(import, begin.lost);
                    }
                    match peering.arrived() {
                        Arrived::Part => {}
                        Arrived::Whole { import } => {
                            peering.skipped(import, lost.remove(&import).unwrap_or(0));
                            peering.committed(import, 4);
                        }
                        Arrived::Missed { import } => {
                            peering.skipped(import, lost.remove(&import).unwrap_or(0));
                            peering.missed(import, 4);
                        }
                    }
                })
            }
            Step::Begun { export, reliable } => {
                peering.begun(export.into(), candidate(export, reliable), 0);
                honest.begun(u32::from(export) + 1000, candidate(export, reliable), 0);
                Ok(())
            }
            Step::Ended { export, next } => {
                peering.ended(export.into(), next.into());
                honest.ended(u32::from(export) + 1000, next.into());
                Ok(())
            }
            Step::Poll { found } => {
                peering.look_at(&(0..=u32::from(u8::MAX)).collect::<Vec<_>>());
                let mut said = Vec::new();
                for sequence in 0..8 {
                    match peering.next_out(&mut said) {
                        Out::Poll { export } if found => peering.polled(export, sequence, 20),
                        Out::Poll { export } => peering.nothing(export),
                        Out::Nothing => break,
                        Out::Frame | Out::Piece { .. } => {}
                    }
                }
                Ok(())
            }
            Step::Want { filters } => {
                let filter = Filter::parse("a/*").expect("a filter");
                let wanted = vec![Wanted { filter, fingerprint: None }; filters.into()];
                honest.want(wanted.clone());
                peering.want(wanted);
                Ok(())
            }
            Step::Room { import, room } => {
                if !open.is_empty() {
                    peering.room(open[usize::from(import) % open.len()], room.into());
                }
                peering.say_all();
                Ok(())
            }
            Step::Connect => {
                peering.connected(hello("there", 2), now);
                honest.connected(hello("here", 1), now);
                Ok(())
            }
            Step::Disconnect => {
                peering.disconnected(now);
                Ok(())
            }
            Step::Pass { milliseconds } => {
                now += Duration::from_millis(milliseconds.into());
                peering.tick(now)
            }
        };
        if outcome.is_err() {
            peering.disconnected(now);
            peering.connected(hello("there", 2), now);
            honest.connected(hello("here", 1), now);
        }
        while let Some(action) = peering.next_action() {
            match action {
                Action::Open { import, .. } => {
                    open.push(import);
                    peering.opened(import, 4);
                }
                Action::Reopen { import } => peering.opened(import, 4),
                Action::Close { import, .. } => open.retain(|other| *other != import),
                Action::Want(_) | Action::Release { .. } => {}
            }
        }
        assert!(open.len() <= 2 * STREAMS_MAX);
    }
});

const KINDS: [FrameKind; 11] = [
    FrameKind::Hello,
    FrameKind::Interest,
    FrameKind::Open,
    FrameKind::Opened,
    FrameKind::Piece,
    FrameKind::Credit,
    FrameKind::End,
    FrameKind::Resume,
    FrameKind::Ping,
    FrameKind::Pong,
    FrameKind::Bye,
];

fn candidate(index: u8, reliable: bool) -> Candidate {
    Candidate {
        publisher: EndId { node: 7, index: index.into() },
        node: "camera".parse().expect("a name"),
        service: "a/b".parse().expect("a name"),
        kind: contract::Kind { fingerprint: 5, schema: vec![1, 2, 3] },
        contract: Contract { delivery: Delivery::reliable_if(reliable), capacity: 16, ..Contract::default() },
        via: None,
    }
}
