//! Receiving ends as descriptors: level-triggered, for `poll` and `epoll`, with publishers in other processes
//! and of other users, whether the kernel waits or a thread does; and waiters, which wait for many ends at
//! once.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use hivemind::{DynamicSubscriber, Node, RecvError, Subscriber, Trust};
use hivemind_ring::fork::run_in_child;
use hivemind_runtime::policy_file::FILE_NAME;
use hivemind_runtime::ports::{AsMember, Intake, Key, Waiter};
use hivemind_tests::hive::{Actor, Hive, PublisherOf, joining, lossy, reliable};
use hivemind_tests::order::{Answer, Kind, Order, Over};
use hivemind_tests::{BOUND, until};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const GUEST: u32 = 47_312;
/// Messages of the tests that look for lost wake-ups: so many times somebody may sleep through one.
const MANY: u64 = 20_000;
/// Times that somebody sleeps and is woken.
const ROUNDS: u64 = 200;
const FOR_EVER_MS: u64 = 3_600_000;

/// What is there to be polled and received.
trait Polled {
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Whether there was a message.
    fn take(&mut self) -> bool;
}

impl Polled for Subscriber<[u8]> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
    fn take(&mut self) -> bool {
        self.try_recv().unwrap().is_some()
    }
}

impl Polled for DynamicSubscriber {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
    fn take(&mut self) -> bool {
        self.try_recv().unwrap().is_some()
    }
}

impl Polled for Intake {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
    fn take(&mut self) -> bool {
        self.poll().unwrap().is_some()
    }
}

fn is_readable_within(descriptor: BorrowedFd<'_>, time: PollTimeout) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut polled, time).unwrap() == 1
}

fn is_readable(polled: &impl Polled) -> bool {
    is_readable_within(polled.descriptor(), PollTimeout::ZERO)
}

fn await_readable(polled: &impl Polled, what: &str) {
    let time = PollTimeout::try_from(BOUND).unwrap();
    assert!(is_readable_within(polled.descriptor(), time), "waited {BOUND:?} in vain: {what}");
}

/// Looks until it is not readable: what came meanwhile, such as an arrival, is over. The number of messages.
fn come_to_rest(polled: &mut impl Polled) -> u64 {
    let mut messages = 0;
    until("it is not readable any more", || {
        while polled.take() {
            messages += 1;
        }
        (!is_readable(polled)).then_some(messages)
    })
}

fn attached(hive: &Hive, node: &str) -> (Node, Subscriber<[u8]>) {
    let node = hive.node(node).join().unwrap();
    let subscriber = node.subscriber::<[u8]>("service").unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    (node, subscriber)
}

/// Readable for each thing that can come, and for nothing else.
fn is_a_level(hive: &Hive, publisher: &PublisherOf<'_>, polled: &mut impl Polled) {
    assert!(is_readable(polled), "nobody has looked yet");
    come_to_rest(polled);
    for count in [1, 3] {
        publisher.attempt(count, 20, 0).unwrap();
        await_readable(polled, "a message");
        for left in (0..count).rev() {
            assert!(polled.take(), "{left} of {count} are left");
            assert!(is_readable(polled), "nobody has found nothing");
        }
        assert!(!polled.take());
        assert!(!is_readable(polled), "a look found nothing");
        assert!(!polled.take());
        assert!(!is_readable(polled), "and another one");
    }
    let other = hive.actor("other");
    let second = other.publish(lossy("service", Kind::Bytes));
    await_readable(polled, "an arrival");
    second.await_subscribers(1);
    come_to_rest(polled);
    second.attempt(1, 20, 0).unwrap();
    await_readable(polled, "a message of the second");
    assert_eq!(come_to_rest(polled), 1);
    second.retire();
    await_readable(polled, "the end of a publisher");
    come_to_rest(polled);
    other.publish(lossy("service", Kind::Bytes)).await_subscribers(1);
    come_to_rest(polled);
    other.kill();
    await_readable(polled, "the death of a publisher");
    come_to_rest(polled);
}

#[test]
fn a_descriptor_is_readable_while_there_is_something_and_not_after_a_look_that_found_nothing() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(lossy("service", Kind::Bytes));
    let (node, mut subscriber) = attached(&hive, "poller");
    is_a_level(&hive, &publisher, &mut subscriber);
    let mut dynamic = node.subscriber_dynamic("service").unwrap();
    dynamic.wait_for_publishers(1, BOUND).unwrap();
    is_a_level(&hive, &publisher, &mut dynamic);
    drop(dynamic);
    come_to_rest(&mut subscriber);
    node.leave();
    await_readable(&subscriber, "that the node leaves");
    assert!(!subscriber.take());
    assert!(!is_readable(&subscriber));
}

/// Takes messages until there are so many, and waits by `wait` whenever a look found nothing. How often it
/// waited.
fn receive_all(polled: &mut impl Polled, count: u64, mut wait: impl FnMut(BorrowedFd<'_>)) -> u64 {
    let (mut messages, mut waits) = (0, 0);
    while messages < count {
        if polled.take() {
            messages += 1;
        } else {
            waits += 1;
            wait(polled.descriptor());
        }
    }
    waits
}

fn by_poll(descriptor: BorrowedFd<'_>) {
    let time = PollTimeout::try_from(BOUND).unwrap();
    assert!(is_readable_within(descriptor, time), "a wake-up was lost");
}

fn by_epoll(descriptor: BorrowedFd<'_>, flags: EpollFlags) -> impl FnMut(BorrowedFd<'_>) + use<> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN | flags, 0)).unwrap();
    move |_| {
        let time = EpollTimeout::try_from(BOUND).unwrap();
        // One thread looks and waits: nothing interrupts it.
        assert_eq!(epoll.wait(&mut [EpollEvent::empty()], time), Ok(1), "a wake-up was lost");
    }
}

fn loses_no_wake_up(host: &Actor, publisher: &PublisherOf<'_>, polled: &mut impl Polled) {
    for flags in [None, Some(EpollFlags::empty()), Some(EpollFlags::EPOLLET)] {
        come_to_rest(polled);
        let wait: Box<dyn FnMut(BorrowedFd<'_>)> = match flags {
            None => Box::new(by_poll),
            Some(flags) => Box::new(by_epoll(polled.descriptor(), flags)),
        };
        host.begin(&publisher.sending(MANY, 20, FOR_EVER_MS));
        receive_all(polled, MANY, wait);
        host.answer().unwrap();
        assert!(!polled.take());
    }
}

#[test]
fn no_wake_up_is_lost_by_poll_or_by_epoll_with_levels_or_edges() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(reliable("service", Kind::Bytes));
    let (_node, mut subscriber) = attached(&hive, "poller");
    loses_no_wake_up(&host, &publisher, &mut subscriber);
}

/// More publishers than a subscriber listens to, so that it is rung by itself.
#[test]
fn no_wake_up_is_lost_among_many_publishers() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publishers: Vec<_> = (0..7).map(|_| host.publish(reliable("service", Kind::Bytes))).collect();
    let (_node, mut subscriber) = attached(&hive, "poller");
    subscriber.wait_for_publishers(publishers.len(), BOUND).unwrap();
    for publisher in publishers.iter().chain(&publishers) {
        come_to_rest(&mut subscriber);
        host.begin(&publisher.sending(MANY / 10, 20, FOR_EVER_MS));
        receive_all(&mut subscriber, MANY / 10, by_poll);
        host.answer().unwrap();
    }
}

/// The io_uring of one thread serves no other: the next one serves all.
#[test]
fn an_end_that_moves_between_threads_loses_no_wake_up() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(reliable("service", Kind::Bytes));
    let (_node, mut subscriber) = attached(&hive, "poller");
    come_to_rest(&mut subscriber);
    host.begin(&publisher.sending(MANY, 20, FOR_EVER_MS));
    for _ in 0..20 {
        // A thread of its own, which ends with a wait under way.
        subscriber = std::thread::spawn(move || {
            receive_all(&mut subscriber, MANY / 20, by_poll);
            // It may find nothing, and arm the descriptor.
            subscriber.descriptor().unwrap();
            subscriber
        })
        .join()
        .unwrap();
    }
    host.answer().unwrap();
    come_to_rest(&mut subscriber);
    let armed = std::thread::spawn(move || {
        come_to_rest(&mut subscriber);
        subscriber
    });
    let mut subscriber = armed.join().unwrap();
    publisher.attempt(1, 20, 0).unwrap();
    await_readable(&subscriber, "a message, though the thread that waited has ended");
    assert_eq!(come_to_rest(&mut subscriber), 1);
}

/// A receive that blocks takes the ring that the descriptor waits for; the descriptor is readable then.
#[test]
fn blocking_and_polling_in_turn_loses_no_wake_up() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(reliable("service", Kind::Bytes));
    let (_node, mut subscriber) = attached(&hive, "poller");
    come_to_rest(&mut subscriber);
    host.begin(&publisher.sending(MANY, 20, FOR_EVER_MS));
    let mut messages = 0;
    while messages < MANY {
        if messages % 3 == 0 {
            assert!(subscriber.recv_timeout(BOUND).unwrap().is_some(), "a wake-up was lost");
            messages += 1;
        } else if subscriber.take() {
            messages += 1;
        } else {
            by_poll(subscriber.as_fd());
        }
    }
    host.answer().unwrap();
}

/// What a test tells an actor that polls.
fn polls(actor: &Actor) {
    actor.begin(&Order::ReceivePolling { subscriber: 0, patience_ms: FOR_EVER_MS });
    until("it polls", || {
        let channel = std::fs::read_to_string(format!("/proc/{}/wchan", actor.pid())).unwrap_or_default();
        channel.contains("poll").then_some(())
    });
}

fn is_woken(actor: &Actor, round: u64) {
    until(&format!("{} wakes in round {round}", actor.name()), || actor.has_answered().then_some(()));
    assert_eq!(actor.answer().unwrap(), Answer::Number(1), "{} {round}", actor.name());
}

#[test]
fn where_the_kernel_does_not_wait_a_thread_of_the_node_does_and_only_then() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(reliable("service", Kind::Bytes));
    let threads = |actor: &Actor| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", actor.pid())).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        names.filter(|name| name.trim() == "hivemind-herald").count()
    };
    for refused in [false, true] {
        let poller = hive.actor(if refused { "refused" } else { "poller" });
        if refused {
            poller.tell(&Order::RefuseKernelWaits);
        }
        for number in 0..3 {
            poller.subscribe("service", Kind::Bytes).await_publishers(1);
            if number == 0 {
                assert_eq!(threads(&poller), 0, "nobody has asked for a descriptor");
            }
            poller.tell(&Order::ReceivePolling { subscriber: number, patience_ms: 1 });
        }
        // A thread gets its name a moment after it has begun.
        until("one for all", || (threads(&poller) == usize::from(refused)).then_some(()));
        for round in 0..ROUNDS {
            polls(&poller);
            publisher.attempt(1, 20, FOR_EVER_MS).unwrap();
            is_woken(&poller, round);
            for subscriber in 1..3 {
                let order = Order::ReceivePolling { subscriber, patience_ms: FOR_EVER_MS };
                assert_eq!(poller.tell(&order), Answer::Number(1));
            }
        }
        poller.kill();
    }
}

/// All the rounds of this file once more, without the kernel's help. The refusal counts for a whole process.
#[test]
fn what_holds_where_the_kernel_waits_holds_where_a_thread_does() {
    const REFUSED: &str = "HIVEMIND_TEST_REFUSED";
    if std::env::var_os(REFUSED).is_some() {
        hivemind_ring::pollable::refuse_from_now_on();
        a_descriptor_is_readable_while_there_is_something_and_not_after_a_look_that_found_nothing();
        no_wake_up_is_lost_by_poll_or_by_epoll_with_levels_or_edges();
        no_wake_up_is_lost_among_many_publishers();
        an_end_that_moves_between_threads_loses_no_wake_up();
        blocking_and_polling_in_turn_loses_no_wake_up();
        a_waiter_names_each_of_two_hundred_ends_that_was_rung_and_no_other();
        a_waiter_is_a_descriptor_too();
        a_forked_child_finds_a_descriptor_that_is_readable_and_leaves_that_of_its_parent_alone();
        return;
    }
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_holds_where_the_kernel_waits_holds_where_a_thread_does", "--nocapture"])
        .env(REFUSED, "1")
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}");
}

/// The nodes of a hive of the test's user that a guest may reach; `None`, said aloud, where there cannot be
/// processes of other users.
#[allow(clippy::explicit_write)] // The test harness hides what `eprintln` says when nothing fails.
fn shared(test: &str, policy: &str) -> Option<Hive> {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("only the administrator can start processes of other users")
    } else if Command::new("setpriv").arg("--version").output().is_err() {
        Some("there is no setpriv (package util-linux) to start processes of other users")
    } else {
        None
    };
    if let Some(missing) = missing {
        writeln!(std::io::stderr(), "SKIPPED {test}: {missing}").unwrap();
        return None;
    }
    let hive = Hive::new(ACTOR);
    std::fs::set_permissions(hive.folder(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy(ACTOR, hive.folder().join("actor")).unwrap();
    let folder = hive.folder().join("default");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(folder.join(FILE_NAME), policy).unwrap();
    Some(hive)
}

fn guest(hive: &Hive) -> Actor {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={GUEST}")).arg(format!("--regid={GUEST}")).arg("--clear-groups");
    command.arg(hive.folder().join("actor")).env_remove("XDG_RUNTIME_DIR");
    command.env("HIVEMIND_DIR", hive.folder()).env("HIVEMIND_OWNER", "0");
    let guest = hive.spawn_with(command, "guest");
    guest.join(joining("guest"));
    guest
}

#[test]
fn a_guest_that_polls_is_woken_and_wakes_whether_the_kernel_waits_or_a_thread() {
    let name = "a_guest_that_polls_is_woken_and_wakes_whether_the_kernel_waits_or_a_thread";
    let policy = format!("allow user:{GUEST} publish to/*\nallow user:{GUEST} subscribe from/*\n");
    let Some(hive) = shared(name, &policy) else { return };
    for refused in [false, true] {
        let host = hive.actor("host");
        let publisher = host.publish(reliable("from/host", Kind::Typed));
        host.subscribe("to/guest", Kind::Typed);
        let guest = guest(&hive);
        if refused {
            host.tell(&Order::RefuseKernelWaits);
            guest.tell(&Order::RefuseKernelWaits);
        }
        guest.subscribe("from/*", Kind::Typed).await_publishers(1);
        let back = guest.publish(reliable("to/guest", Kind::Typed));
        host.subscribers(0).await_publishers(1);
        for round in 0..ROUNDS / 5 {
            polls(&guest);
            publisher.send(1);
            is_woken(&guest, round);
            polls(&host);
            back.send(1);
            is_woken(&host, round);
        }
        guest.kill();
        host.kill();
    }
}

/// It clears the word by which its own publisher would know that somebody sleeps. The bound of the sleep
/// holds for descriptors, too.
#[test]
fn a_guest_that_writes_over_all_doorbells_lets_nobody_poll_on() {
    let name = "a_guest_that_writes_over_all_doorbells_lets_nobody_poll_on";
    let Some(hive) = shared(name, &format!("allow user:{GUEST} publish to/*\n")) else { return };
    for refused in [false, true] {
        let host = hive.actor("host");
        if refused {
            host.tell(&Order::RefuseKernelWaits);
        }
        host.subscribe("to/*", Kind::Typed);
        let guest = guest(&hive);
        let back = guest.publish(reliable("to/guest", Kind::Typed));
        host.subscribers(0).await_publishers(1);
        assert!(guest.scribble(Over::Bells, 7) >= 1);
        for round in 0..ROUNDS / 20 {
            polls(&host);
            back.send(1);
            is_woken(&host, round);
        }
        guest.kill();
        host.kill();
    }
}

/// A waiter in this process, and ends of it.
struct Many {
    intakes: HashMap<Key, (usize, Intake)>,
    waiter: Waiter,
    _node: Node,
}

impl Many {
    fn new(hive: &Hive, services: usize) -> Many {
        let node = hive.node("waiter").join().unwrap();
        let waiter = Waiter::new(node.as_member()).unwrap();
        let intakes = (0..services).map(|number| {
            let filter = format!("many/{number}");
            let spin = Duration::ZERO;
            let intake =
                Intake::create(node.as_member(), &filter, None, spin, Trust::SameUser, None, None).unwrap();
            intake.wait_for_publishers(1, BOUND).unwrap();
            (waiter.add(&intake).unwrap(), (number, intake))
        });
        let intakes = intakes.collect();
        Many { intakes, waiter, _node: node }
    }

    /// Waits once, and reads what was named. The numbers of the ends that had a message, as often as they
    /// had.
    fn receive(&mut self, time: Duration) -> Vec<usize> {
        let mut ready = Vec::new();
        self.waiter.wait(&mut ready, Some(time)).unwrap();
        let mut messages = Vec::new();
        for key in ready {
            let (number, intake) = self.intakes.get_mut(&key).unwrap();
            while intake.poll().unwrap().is_some() {
                messages.push(*number);
            }
        }
        messages
    }

    fn come_to_rest(&mut self) {
        let mut ready = Vec::new();
        until("nothing is ready", || {
            self.receive(Duration::ZERO);
            ready.clear();
            (self.waiter.wait(&mut ready, Some(Duration::ZERO)).unwrap() == 0).then_some(())
        });
    }
}

#[test]
fn a_waiter_names_each_of_two_hundred_ends_that_was_rung_and_no_other() {
    const SERVICES: usize = 200;
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publishers: Vec<_> =
        (0..SERVICES).map(|number| host.publish(reliable(&format!("many/{number}"), Kind::Bytes))).collect();
    let mut many = Many::new(&hive, SERVICES);
    many.waiter.spin(Duration::ZERO);
    many.come_to_rest();
    for (number, publisher) in publishers.iter().enumerate() {
        host.begin(&publisher.sending(1, 20, 0));
        let mut ready = Vec::new();
        assert_eq!(many.waiter.wait(&mut ready, Some(BOUND)).unwrap(), 1, "end {number}");
        let (rung, intake) = many.intakes.get_mut(&ready[0]).unwrap();
        assert_eq!(*rung, number);
        let mut again = Vec::new();
        assert_eq!(many.waiter.wait(&mut again, Some(BOUND)).unwrap(), 1, "it was not read");
        assert_eq!(again, ready);
        assert!(intake.poll().unwrap().is_some());
        assert!(intake.poll().unwrap().is_none());
        assert_eq!(many.waiter.wait(&mut ready, Some(Duration::ZERO)).unwrap(), 0, "it was read to its end");
        host.answer().unwrap();
    }
    // All at once, from several processes.
    let others: Vec<_> = (0..3).map(|number| hive.actor(&format!("other-{number}"))).collect();
    let streams: Vec<_> = others
        .iter()
        .enumerate()
        .map(|(number, other)| {
            let publisher = other.publish(reliable(&format!("many/{}", number * 60), Kind::Bytes));
            publisher.await_subscribers(1);
            other.begin(&publisher.sending(MANY, 20, FOR_EVER_MS));
            number * 60
        })
        .collect();
    let mut messages: HashMap<usize, u64> = HashMap::new();
    while messages.values().sum::<u64>() < MANY * 3 {
        let came = many.receive(BOUND);
        came.iter().for_each(|number| *messages.entry(*number).or_default() += 1);
    }
    streams.iter().for_each(|number| assert_eq!(messages[number], MANY));
    others.iter().for_each(|other| drop(other.answer().unwrap()));
    // Deaths reach it, too.
    others.iter().for_each(Actor::kill);
    until("it hears of the deaths", || {
        many.receive(BOUND);
        many.intakes.values().all(|(_, intake)| intake.publishers() == 1).then_some(())
    });
}

#[test]
fn a_waiter_is_a_descriptor_too() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publishers: Vec<_> =
        (0..3).map(|number| host.publish(reliable(&format!("many/{number}"), Kind::Bytes))).collect();
    let mut many = Many::new(&hive, publishers.len());
    assert!(is_readable_within(many.waiter.as_fd(), PollTimeout::ZERO), "nobody has looked yet");
    many.come_to_rest();
    assert!(!is_readable_within(many.waiter.as_fd(), PollTimeout::ZERO), "a look found nothing");
    for round in 0..ROUNDS as usize {
        let publisher = &publishers[round % publishers.len()];
        host.begin(&publisher.sending(20, 20, FOR_EVER_MS));
        let mut messages = 0;
        while messages < 20 {
            by_poll(many.waiter.as_fd());
            messages += many.receive(Duration::ZERO).len();
        }
        host.answer().unwrap();
        many.come_to_rest();
        assert!(!is_readable_within(many.waiter.as_fd(), PollTimeout::ZERO));
    }
}

#[test]
fn who_is_waited_for_in_one_way_is_not_in_another() {
    let hive = Hive::new(ACTOR);
    let node = hive.node("waiter").join().unwrap();
    let create = || {
        let spin = Duration::ZERO;
        Intake::create(node.as_member(), "many/*", None, spin, Trust::SameUser, None, None).unwrap()
    };
    let (mut first, second) = (create(), create());
    let waiter = Waiter::new(node.as_member()).unwrap();
    waiter.add(&first).unwrap();
    assert!(waiter.add(&first).is_err());
    assert!(first.descriptor().is_err());
    first.unwatch();
    first.descriptor().unwrap();
    second.descriptor().unwrap();
    assert!(waiter.add(&second).is_err());
}

#[test]
fn a_forked_child_finds_a_descriptor_that_is_readable_and_leaves_that_of_its_parent_alone() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(reliable("service", Kind::Bytes));
    let (_node, subscriber) = attached(&hive, "poller");
    let mut subscriber = Some(subscriber);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(subscriber.as_ref().unwrap(), EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    let is_told = || epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).unwrap() == 1;
    for _ in 0..3 {
        come_to_rest(subscriber.as_mut().unwrap());
        assert!(!is_told());
        let child = run_in_child(|| {
            let mut subscriber = subscriber.take().unwrap();
            let is_ready = is_readable(&subscriber);
            let is_forked = matches!(subscriber.try_recv(), Err(RecvError::Forked(_)));
            let is_ready_still = is_readable(&subscriber);
            drop(subscriber);
            i32::from(!(is_ready && is_forked && is_ready_still))
        })
        .unwrap();
        let child = Pid::from_raw(child);
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        assert!(!is_told(), "what the child did is not seen here");
        publisher.attempt(1, 20, 0).unwrap();
        await_readable(subscriber.as_ref().unwrap(), "a message, after a fork");
        assert!(is_told());
    }
}

/// For `EINTR` in words: a thread that looks and another that waits.
#[test]
fn a_wait_in_one_thread_for_an_end_that_another_looks_at_ends_with_the_message() {
    let hive = Hive::new(ACTOR);
    let host = hive.actor("host");
    let publisher = host.publish(reliable("service", Kind::Bytes));
    let (_node, mut subscriber) = attached(&hive, "poller");
    for round in 0..ROUNDS {
        come_to_rest(&mut subscriber);
        let descriptor = subscriber.as_fd().try_clone_to_owned().unwrap();
        let waiting = std::thread::spawn(move || {
            let start = Instant::now();
            let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
            while start.elapsed() < BOUND {
                match poll(&mut polled, PollTimeout::try_from(BOUND).unwrap()) {
                    Ok(1) => return,
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            panic!("a wake-up was lost in round {round}");
        });
        publisher.attempt(1, 20, 0).unwrap();
        waiting.join().unwrap();
        assert!(subscriber.take());
    }
}
