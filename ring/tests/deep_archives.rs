//! Archives are validated by recursion, so how deep they are nested is a stranger's say in how much stack a
//! reader needs.
#![cfg(not(loom))]

use hivemind_ring::archive::{DEPTH_MAX, Message, View};
use hivemind_ring::bell::Bell;
use hivemind_ring::heap::Heap;
use hivemind_ring::loan::Loan;
use hivemind_ring::reader::{Reader, Seats};
use hivemind_ring::writer::{RingConfig, Writer};
use rkyv::{Archive, Deserialize, Serialize};
use std::sync::Arc;

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
enum List {
    End,
    Next(#[rkyv(omit_bounds)] Box<List>),
}

/// A list with so many links, written by hand: a tag, and the way back to the link before it.
fn list(links: usize) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    for _ in 0..links {
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend_from_slice(&(-12_i32).to_le_bytes());
    }
    bytes
}

fn receive(bytes: &[u8]) -> Message<Heap> {
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 4,
        message_max: 16 << 20,
        chunk_memory: 16 << 20,
        reliable: false,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let bell = Arc::new(Bell::silent());
    let mut writer = Writer::<Heap>::on_heap(&config, Arc::clone(&bell));
    let seats = Seats::on_heap(1, Arc::clone(&bell));
    let seat = seats.take((7, 1)).unwrap();
    let memory = Arc::clone(seats.memory());
    let first = writer.desk().attach(memory, seat.index(), Arc::clone(&bell), (9, 1)).unwrap();
    let mut reader = Reader::new(Arc::clone(writer.ring()), bell, seat, first).unwrap();
    writer.admit().unwrap();
    let mut loan = Loan::take(&mut writer, bytes.len()).unwrap();
    loan.copy_from_slice(bytes);
    loan.send();
    reader.poll().unwrap().unwrap().try_into().unwrap()
}

#[test]
fn an_archive_as_deep_as_possible_is_read() {
    let view = View::<ArchivedList, Heap>::check(receive(&list(DEPTH_MAX))).unwrap();
    let mut links = 0;
    let mut link = &*view;
    while let ArchivedList::Next(next) = link {
        links += 1;
        link = next;
    }
    assert_eq!(links, DEPTH_MAX);
    assert!(view.deserialize::<List>().is_ok());
}

// Once it took the reader's process with it.
#[test]
fn an_archive_that_is_nested_without_end_is_refused() {
    for links in [DEPTH_MAX + 1, 1_000_000] {
        let refused = View::<ArchivedList, Heap>::check(receive(&list(links))).err().unwrap();
        assert!(refused.to_string().contains(&DEPTH_MAX.to_string()), "{refused}");
    }
}
