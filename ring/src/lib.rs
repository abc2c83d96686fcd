//! Shared memory and lock-free rings: one publisher, many subscribers, no copies.
//!
//! This crate holds what must be proven: the layout of shared memory, the algorithms over it, and all
//! `unsafe` code of hivemind. It offers no discovery, no types and no policy; those are the layers above.
//!
//! ```text
//!   publisher process                                  subscriber process
//!   ┌───────────────┐   ring segment (sealed)          ┌───────────────┐
//!   │ Writer ───────┼──▶ header│head│slots│chunks ─────┼▶ Reader       │   read-only here
//!   │               │                                  │               │
//!   │ Desk ◀────────┼─── header│seats: cursor, pins ◀──┼─ seat         │   reader segment (sealed), read-only there
//!   │               │                                  │               │
//!   │ bell ◀──────▶─┼─── doorbell pages of both ◀─────▶┼─ bell         │   the only words with two writers, both of one user
//!   │ door ◀──────▶─┼─── or, of another user, a door ◀─┼─ door         │   one word with two writers
//!   └───────────────┘                                  └───────────────┘
//! ```
//!
//! Not offered: several publishers in one ring, order between rings, memory that shrinks while a ring lives.
//!
//! The edges, by which every ordering in this crate is named:
//!
//! | edge    | release                   | acquire                  | carries                                          |
//! | ------- | ------------------------- | ------------------------ | ------------------------------------------------ |
//! | commit  | `Writer::commit`          | `Reader::{poll_line, poll_held}` | the bytes of the message                         |
//! | rewrite | `Writer::commit` (fence)  | `Reader::poll_line` (fence) | "this slot is being rewritten": the seqlock      |
//! | pin     | `Reader::hold` (SeqCst)   | `Writer::reclaim`        | "I still read this chunk"                        |
//! | unpin   | `Pin::drop`               | `Writer::reclaim`        | "my last read of this chunk is done"             |
//! | consume | `Reader::advance`         | `Writer::rescan`         | "my last read of this slot is done" (reliable)   |
//! | attach  | `Desk::attach` (SeqCst)   | `Writer::refresh`        | a reader whose pins and cursor count from now on |
//! | sleep   | `Seats::{sleep, arm, arm_at, wake}` (SeqCst) | `Writer::ring_bell` | "I sleep until my bell rings"      |
//! | wake    | `bell::ring`, `Place::ring` | `WordsUpTo::at`, `Bell::take_marks` | what somebody was rung for            |
//! | close   | `Writer::drop`, `Reader::drop`, `Seats::close` | `Reader::finished`, `retained::closed`, `Writer::rescan` | the end of one side, in order |
//! | life    | `PerLife::of`             | `PerLife::of`            | what this process made anew after a fork         |
//!
//! The algorithms are generic over [`memory::Memory`], so that the code that runs over mapped segments also
//! runs on the heap, under loom and in property tests.
#![allow(unsafe_code)]
#![deny(missing_debug_implementations)]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!(
    "hivemind supports Linux 5.10 or newer on x86-64 and aarch64: it rests on sealed memfds, futexes and pidfds, \
     and on 64-bit atomics of a little-endian machine"
);
#[cfg(target_endian = "big")]
compile_error!("hivemind supports little-endian machines only: archives are little-endian and read in place");

mod allocator;
#[cfg(not(loom))]
pub mod archive;
pub mod barrier;
pub mod bell;
pub mod desk;
#[cfg(not(loom))]
pub mod draft;
pub mod fork;
#[doc(hidden)]
pub mod heap;
#[cfg(not(loom))]
pub mod kept;
pub mod layout;
pub mod line;
pub mod loan;
#[cfg(not(loom))]
pub mod mapped;
pub mod memory;
mod orphans;
#[cfg(not(loom))]
pub mod os;
pub mod place;
#[cfg(not(loom))]
pub mod pollable;
pub mod reader;
#[cfg(not(loom))]
mod refusal;
pub mod retained;
#[cfg(not(loom))]
pub mod segment;
#[doc(hidden)]
pub mod sync;
#[cfg(not(loom))]
pub mod unmapped;
#[cfg(not(loom))]
pub mod view;
pub mod writer;
