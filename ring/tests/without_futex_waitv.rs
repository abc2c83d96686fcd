//! Where the kernel or a sandbox refuses to wait for several words (`futex_waitv`), subscribers find out once
//! and then sleep alone: nobody misses a message, and nobody spins.
//!
//! The refusal counts for a whole process, so each kind of it is played by a process of its own: this test
//! starts itself again and forbids itself the call with a seccomp filter.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hivemind_ring::bell::{self, Bell, SLEEPS};
use hivemind_ring::heap::Heap;
use hivemind_ring::layout::{INLINE_BYTES, INLINE_WORDS};
use hivemind_ring::memory::SeatMemory;
use hivemind_ring::reader::{Reader, Seats};
use hivemind_ring::writer::{RingConfig, Writer};
use nix::errno::Errno;
use nix::libc;

const REFUSAL: &str = "HIVEMIND_TEST_REFUSAL";
const SELF: &str = "who_is_refused_futex_waitv_sleeps_alone_and_misses_nothing";
const MESSAGES: u64 = 3;

#[test]
fn who_is_refused_futex_waitv_sleeps_alone_and_misses_nothing() {
    if let Ok(refusal) = std::env::var(REFUSAL) {
        return sleep_where_it_is_refused(Errno::from_raw(refusal.parse().unwrap()));
    }
    // An old kernel, a sandbox, and what nobody expects.
    for refusal in [Errno::ENOSYS, Errno::EPERM, Errno::EINVAL] {
        let played = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", SELF, "--nocapture"])
            .env(REFUSAL, (refusal as i32).to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&played.stdout);
        print!("{}", said.lines().filter(|line| line.starts_with("skipped")).collect::<String>());
        assert!(played.status.success(), "{refusal}: {said}{}", String::from_utf8_lossy(&played.stderr));
    }
}

fn sleep_where_it_is_refused(refusal: Errno) {
    if let Err(error) = forbid_futex_waitv(refusal) {
        println!("skipped: this machine has no seccomp filters ({error})");
        return;
    }
    let bell = Arc::new(Bell::silent());
    let config = RingConfig {
        node: 7,
        index: 1,
        fingerprint: 0,
        capacity: 4,
        message_max: 64,
        chunk_memory: 4096,
        reliable: false,
        history: 0,
        retained: 0,
        bell: 0,
    };
    let mut writer = Writer::on_heap(&config, Arc::clone(&bell));
    let own = Arc::new(Bell::silent());
    let seats: Seats<Heap> = Seats::on_heap(1, Arc::clone(&own));
    let memory = Arc::clone(seats.memory());
    let seat = seats.take((7, 1)).unwrap();
    let first = writer.desk().attach(Arc::clone(&memory), seat.index(), own, (9, 1)).unwrap();
    let mut reader = Reader::new(Arc::clone(writer.ring()), bell, seat, first).unwrap();

    assert!(bell::can_wait_for_any(), "nobody has tried");
    let sleeper = std::thread::spawn(move || {
        let (mut received, mut sleeps) = (0, 0);
        while received < MESSAGES {
            if reader.poll().unwrap().is_some() {
                received += 1;
            } else {
                sleeps += 1;
                seats.sleep(std::iter::once(&reader), || reader.ready(), None);
            }
        }
        sleeps
    });
    for message in 0..MESSAGES {
        // It has read the message before, and sleeps again: alone.
        let (cursor, sleeping) = (&memory.seats()[0].cursor, &memory.header().sleeping);
        while cursor.load(Ordering::Acquire) != message
            || sleeping.load(Ordering::Relaxed) != u64::from(SLEEPS)
        {
            std::thread::yield_now();
        }
        writer.send_inline(&[7; INLINE_WORDS], INLINE_BYTES);
    }
    let sleeps = sleeper.join().unwrap();
    // The first was refused; each of the others ended with a message.
    assert_eq!(sleeps, 1 + MESSAGES, "it does not try again, and does not spin");
    assert!(!bell::can_wait_for_any());
}

/// From now on the kernel answers this thread, and those that it starts, with `refusal` when they wait for
/// several words.
fn forbid_futex_waitv(refusal: Errno) -> Result<(), Errno> {
    const fn step(code: u32, jump_if_not: u8, operand: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_not, k: operand }
    }
    let answer = libc::SECCOMP_RET_ERRNO | (refusal as u32 & libc::SECCOMP_RET_DATA);
    // The number of the call is the first word of what a filter sees.
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_futex_waitv as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, answer),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes four numbers and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: reads `program` and the `len` steps that it points to, both locals that outlive the call.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) })?;
    Ok(())
}
