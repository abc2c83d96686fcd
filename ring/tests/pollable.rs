//! Descriptors for which the kernel waits on futex words. Where it does not (before 6.7, or in a sandbox),
//! these tests are skipped, and say so.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hivemind_ring::bell::{self, Bell, WordsUpTo};
use hivemind_ring::heap::Heap;
use hivemind_ring::pollable::{Event, Pollable, PollableError};
use hivemind_ring::reader::{Armed, Reader, Seats};
use nix::errno::Errno;
use nix::libc;

const BOUND_MS: i32 = 60_000;

fn pollable() -> Option<Pollable> {
    match Pollable::new() {
        Ok(pollable) => Some(pollable),
        Err(PollableError::Refused(reason)) => {
            println!("skipped: this kernel or sandbox does not wait for futex words by io_uring ({reason})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What `poll` says: how many are readable, or an error.
fn poll(descriptor: BorrowedFd<'_>, time_ms: i32) -> i32 {
    use std::os::fd::AsRawFd as _;
    let mut polled = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: reads and writes one entry, a local.
    unsafe { libc::poll(&raw mut polled, 1, time_ms) }
}

fn is_readable(pollable: &Pollable) -> bool {
    poll(pollable.as_fd(), 0) == 1
}

/// As an end arms it that has no publisher.
fn arm<'a>(seats: &'a Seats<Heap>, pollable: &mut Pollable) -> Armed<'a> {
    pollable.clear();
    seats.arm(std::iter::empty::<&Reader<Heap>>(), || false).expect("there is nothing new")
}

fn end() -> (Arc<Bell>, Seats<Heap>) {
    let bell = Arc::new(Bell::silent());
    (Arc::clone(&bell), Seats::on_heap(1, bell))
}

#[test]
fn it_is_readable_when_the_word_is_rung_and_not_before() {
    let Some(mut pollable) = pollable() else { return };
    assert!(is_readable(&pollable), "nobody has looked yet");
    let (bell, seats) = end();
    for _ in 0..100 {
        let armed = arm(&seats, &mut pollable);
        pollable.wait(&armed);
        assert!(pollable.is_armed() && !is_readable(&pollable));
        let told = Arc::clone(&bell);
        let ringing = std::thread::spawn(move || bell::ring(&told.wake));
        assert_eq!(poll(pollable.as_fd(), BOUND_MS), 1);
        ringing.join().unwrap();
        assert!(!pollable.is_armed() && is_readable(&pollable), "it stays so until it is cleared");
    }
}

#[test]
fn a_ring_between_the_look_and_the_wait_is_not_lost() {
    let Some(mut pollable) = pollable() else { return };
    let (bell, seats) = end();
    for _ in 0..100 {
        let armed = arm(&seats, &mut pollable);
        bell::ring(&bell.wake);
        pollable.wait(&armed);
        assert!(is_readable(&pollable) && !pollable.is_armed());
    }
}

#[test]
fn a_bound_makes_it_readable_and_so_does_a_ring_before_it() {
    let Some(mut pollable) = pollable() else { return };
    let (bell, seats) = end();
    for round in 0..40 {
        let is_rung = round % 2 == 0;
        let bound = if is_rung { Duration::from_secs(3600) } else { Duration::from_micros(100) };
        let armed = Armed { bound: Some(bound), ..arm(&seats, &mut pollable) };
        pollable.wait(&armed);
        if is_rung {
            bell::ring(&bell.wake);
        }
        assert_eq!(poll(pollable.as_fd(), BOUND_MS), 1, "round {round}");
    }
}

#[test]
fn a_wait_that_was_cleared_tells_nothing_any_more() {
    let Some(mut pollable) = pollable() else { return };
    let (bell, seats) = end();
    for round in 0..100 {
        let bound = (round % 2 == 0).then_some(Duration::from_secs(3600));
        let armed = Armed { bound, ..arm(&seats, &mut pollable) };
        pollable.wait(&armed);
        pollable.trip();
        assert!(is_readable(&pollable) && !pollable.is_armed());
        pollable.clear();
        bell::ring(&bell.wake);
        assert!(!is_readable(&pollable));
    }
}

#[test]
fn it_waits_for_all_words() {
    let Some(mut pollable) = pollable() else { return };
    let bells: Vec<Bell> = (0..64).map(|_| Bell::silent()).collect();
    for rung in &bells {
        let mut words = WordsUpTo::of(&bells[0].wake);
        bells[1..].iter().for_each(|bell| words.add(&bell.wake));
        pollable.clear();
        pollable.wait(&Armed { words, bound: None });
        assert!(!is_readable(&pollable));
        bell::ring(&rung.wake);
        assert_eq!(poll(pollable.as_fd(), BOUND_MS), 1);
    }
}

/// `epoll_wait` is not begun again by the kernel, whatever interrupted it.
#[test]
fn the_thread_that_arms_it_is_not_interrupted() {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let Some(mut pollable) = pollable() else { return };
    // SAFETY: takes an integer.
    let made = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    assert!(made >= 0);
    // SAFETY: just made, exclusively ours.
    let epoll = unsafe { OwnedFd::from_raw_fd(made) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let (number, polled) = (epoll.as_raw_fd(), pollable.as_fd().as_raw_fd());
    // SAFETY: reads the event, a local.
    assert_eq!(unsafe { libc::epoll_ctl(number, libc::EPOLL_CTL_ADD, polled, &raw mut event) }, 0);
    let (bell, seats) = end();
    for _ in 0..100 {
        let armed = arm(&seats, &mut pollable);
        pollable.wait(&armed);
        let (told, waiter) = (Arc::clone(&bell), nix::unistd::gettid());
        let ringing = std::thread::spawn(move || {
            // Once it sleeps.
            let state =
                || std::fs::read_to_string(format!("/proc/self/task/{waiter}/wchan")).unwrap_or_default();
            while !state().contains("poll") {
                std::thread::yield_now();
            }
            bell::ring(&told.wake);
        });
        // SAFETY: writes one event, a local.
        let found = unsafe { libc::epoll_wait(number, &raw mut event, 1, BOUND_MS) };
        assert_eq!(found, 1, "{}", std::io::Error::last_os_error());
        ringing.join().unwrap();
    }
}

#[test]
fn an_event_is_readable_from_raise_to_clear() {
    let event = Event::new().unwrap();
    assert_eq!(poll(event.as_fd(), 0), 0);
    event.raise();
    event.raise();
    assert_eq!(poll(event.as_fd(), 0), 1);
    event.clear();
    assert_eq!(poll(event.as_fd(), 0), 0);
}

const REFUSAL: &str = "HIVEMIND_TEST_REFUSAL";
const SELF: &str = "a_kernel_or_a_sandbox_that_refuses_is_told_from_one_that_is_short_of_something";

/// Each in a process of its own, which forbids itself the call.
#[test]
fn a_kernel_or_a_sandbox_that_refuses_is_told_from_one_that_is_short_of_something() {
    if let Ok(refusal) = std::env::var(REFUSAL) {
        let refusal = Errno::from_raw(refusal.parse().unwrap());
        if let Err(error) = forbid_io_uring(refusal) {
            println!("skipped: this machine has no seccomp filters ({error})");
            return;
        }
        let is_short = matches!(refusal, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM);
        match Pollable::new().expect_err("it is forbidden") {
            PollableError::Refused(error) => {
                assert!(!is_short && error.raw_os_error() == Some(refusal as i32), "{error}");
            }
            PollableError::System(error) => assert!(is_short, "{error}"),
            other => panic!("{other}"),
        }
        return;
    }
    for refusal in [Errno::ENOSYS, Errno::EPERM, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
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

/// From now on the kernel answers this thread with `refusal` when it makes an io_uring.
fn forbid_io_uring(refusal: Errno) -> Result<(), Errno> {
    const fn step(code: u32, jump_if_not: u8, operand: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_not, k: operand }
    }
    let answer = libc::SECCOMP_RET_ERRNO | (refusal as u32 & libc::SECCOMP_RET_DATA);
    // The number of the call is the first word of what a filter sees.
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_io_uring_setup as u32),
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

/// A place is a line and a mark; every pair of them comes back as it went.
#[test]
fn marks_are_taken_once_and_in_order() {
    let bell = Bell::silent();
    for mark in [0, 31, 32, 383] {
        bell.marks[mark / 32].fetch_or(1 << (mark % 32), Ordering::Relaxed);
    }
    assert_eq!(bell.take_marks().collect::<Vec<_>>(), [0, 31, 32, 383]);
    assert_eq!(bell.take_marks().count(), 0);
}

/// As an end that looks until nothing is there: it may take a look more to get an io_uring that serves this
/// thread.
fn come_to_rest(seats: &Seats<Heap>, pollable: &mut Pollable) {
    for _ in 0..3 {
        let armed = arm(seats, pollable);
        pollable.wait(&armed);
        if pollable.is_armed() {
            return;
        }
    }
    panic!("it is readable for ever");
}

// Once its owner looked again and again, at 100 % of a core: the io_uring of the thread that had made it was
// kept, and refused each wait of the other.
#[test]
fn one_that_is_made_by_one_thread_and_armed_first_by_another_comes_to_rest() {
    let Some(mut pollable) = pollable() else { return };
    let (bell, seats) = end();
    let armed_elsewhere = std::thread::spawn(move || {
        for _ in 0..10 {
            come_to_rest(&seats, &mut pollable);
            bell::ring(&bell.wake);
            assert_eq!(poll(pollable.as_fd(), BOUND_MS), 1);
        }
    });
    armed_elsewhere.join().unwrap();
}

// Once a raise for a wait that had been given up came after the next one had begun, and stayed: a poller by
// level went round and round.
#[test]
fn a_raise_that_comes_late_is_gone_after_a_look() {
    let (_bell, seats) = end();
    for _ in 0..200 {
        // A new one each time: its io_uring serves this thread, so the other one gives it up with its wait.
        let Some(mut pollable) = pollable() else { return };
        come_to_rest(&seats, &mut pollable);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                come_to_rest(&seats, &mut pollable);
                let is_at_rest = || pollable.is_armed() && !is_readable(&pollable);
                // The kernel cancels in a thread of its own; the raise may come between any two of these
                // looks.
                for _ in 0..1000 {
                    is_at_rest();
                }
                assert!((0..1000).any(|_| is_at_rest()));
            });
        });
    }
}
