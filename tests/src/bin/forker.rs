//! A process that joins, forks, and looks at what the child finds. See `tests/fork.rs`; it ends with 0 when
//! all is as it must be.

use hivemind::{DynamicSubscriber, Message, Node, NodeBuilder, Publisher, Sample, Subscriber};
use hivemind_ring::fork::run_in_child;
use hivemind_tests::{BOUND, until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, alarm, getpid, getppid, pipe, read, setsid};
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longer than a slot, so it travels in a chunk and is read in place.
const BYTES: usize = 4096;

fn main() {
    bound();
    let cases: [(&str, fn()); 12] = [
        ("calls", calls),
        ("drops", drops),
        ("samples", samples),
        ("joins", joins),
        ("daemon", daemon),
        ("prefork", prefork),
        ("outlives", outlives),
        ("busy", busy),
        ("signals", signals),
        ("own-run", own_run),
        ("handler", handler),
        ("nothing-inherited", nothing_inherited),
    ];
    let wanted = std::env::args().nth(1).expect("a case");
    let (_, case) = cases.iter().find(|(name, _)| *name == wanted).expect("a known case");
    case();
}

/// The kernel ends this process if it hangs.
fn bound() {
    alarm::set(u32::try_from(BOUND.as_secs()).expect("a minute"));
}

fn folder() -> PathBuf {
    std::env::var_os("HIVEMIND_DIR").expect("the test says where").into()
}

fn node(name: &str) -> NodeBuilder {
    Node::builder(name).dir(folder()).patience(BOUND)
}

/// Runs `work` in a child; its end must be in order.
fn in_child(work: impl FnOnce()) {
    await_child(start_child(work));
}

fn start_child(work: impl FnOnce()) -> Pid {
    let child = run_in_child(|| {
        bound();
        work();
        0
    });
    Pid::from_raw(child.expect("fork"))
}

fn await_child(child: Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

/// The call must say whose its object is.
#[track_caller]
fn says_so<T, E: Display>(outcome: Result<T, E>) {
    let Err(error) = outcome else { panic!("it did not fail") };
    let text = error.to_string();
    let expected = format!(
        "this belongs to process {}, and this is process {}, forked from it; join after the fork",
        getppid(),
        getpid()
    );
    assert!(text.contains(&expected), "{text}");
}

fn message(value: u8) -> Vec<u8> {
    vec![value; BYTES]
}

fn pair(node: &Node, service: &str) -> (Publisher<[u8]>, Subscriber<[u8]>) {
    let publisher = node.publisher::<[u8]>(service).unwrap();
    (publisher, subscriber(node, service))
}

fn subscriber(node: &Node, service: &str) -> Subscriber<[u8]> {
    let subscriber = node.subscriber::<[u8]>(service).unwrap();
    subscriber.wait_for_publishers(1, BOUND).unwrap();
    subscriber
}

fn received<T: Message + ?Sized>(subscriber: &mut Subscriber<T>) -> Sample<T> {
    subscriber.recv_timeout(BOUND).unwrap().expect("a message in time")
}

fn exchange(publisher: &mut Publisher<[u8]>, subscriber: &mut Subscriber<[u8]>) {
    for value in 0..100 {
        publisher.send(&message(value)[..]).unwrap();
        assert!(received(subscriber).iter().all(|byte| *byte == value));
    }
}

/// What a parent has, with something of everything.
struct Belongings {
    lossy: Option<Publisher<[u8]>>,
    reliable: Option<Publisher<u64>>,
    retaining: Option<Publisher<[u8]>>,
    bytes: Option<Subscriber<[u8]>>,
    numbers: Option<Subscriber<u64>>,
    any: Option<DynamicSubscriber>,
    held: Vec<Sample<[u8]>>,
    node: Option<Node>,
}

impl Belongings {
    fn new() -> Self {
        let node = node("parent").join().unwrap();
        let mut lossy = node.publisher::<[u8]>("bytes").unwrap();
        let mut reliable = node.publisher_builder::<u64>("numbers").reliable().capacity(4).create().unwrap();
        let retaining = node.publisher_builder::<[u8]>("kept").retain(1).create().unwrap();
        let mut bytes = subscriber(&node, "bytes");
        let mut leaver = subscriber(&node, "bytes");
        let numbers = node.subscriber::<u64>("numbers").unwrap();
        numbers.wait_for_publishers(1, BOUND).unwrap();
        let any = node.subscriber_dynamic("**").unwrap();
        any.wait_for_publishers(3, BOUND).unwrap();
        lossy.send(&message(1)[..]).unwrap();
        reliable.send(&1).unwrap();
        let held = vec![received(&mut bytes), received(&mut leaver)];
        // Its sample outlives it: the list of such is not empty.
        drop(leaver);
        Belongings {
            lossy: Some(lossy),
            reliable: Some(reliable),
            retaining: Some(retaining),
            bytes: Some(bytes),
            numbers: Some(numbers),
            any: Some(any),
            held,
            node: Some(node),
        }
    }

    fn drop_all(&mut self) {
        self.held.clear();
        (self.lossy, self.reliable, self.retaining) = (None, None, None);
        (self.bytes, self.numbers, self.any) = (None, None, None);
        self.node = None;
    }

    /// Everything of the parent's is as it was, and goes on.
    fn go_on(mut self) {
        let node = self.node.as_ref().unwrap();
        assert!(node.hosts_root() && !node.is_leaving());
        let listing = node.observe().unwrap();
        assert_eq!((listing.publishers.len(), listing.subscribers.len()), (3, 3));
        let (lossy, bytes) = (self.lossy.as_mut().unwrap(), self.bytes.as_mut().unwrap());
        assert_eq!((lossy.published(), lossy.subscribers()), (1, 2));
        // More than the ring has: what is pinned must not be used again.
        for value in 0..1000u32 {
            lossy.send(&message(2 + (value % 200) as u8)[..]).unwrap();
        }
        assert!(self.held.iter().all(|sample| sample.iter().all(|byte| *byte == 1)));
        while bytes.try_recv().unwrap().is_some() {}
        assert_eq!(bytes.received() + bytes.lost(), 1001);
        exchange(lossy, bytes);
        let (reliable, numbers) = (self.reliable.as_mut().unwrap(), self.numbers.as_mut().unwrap());
        let any = self.any.as_mut().unwrap();
        for value in 1..100 {
            assert_eq!(*received(numbers), value);
            while any.try_recv().unwrap().is_some() {}
            reliable.send(&(value + 1)).unwrap();
        }
        // Somebody who comes anew is let in.
        let mut late = subscriber(node, "bytes");
        exchange(lossy, &mut late);
    }
}

fn calls() {
    let mut has = Belongings::new();
    let stop = has.node.as_ref().unwrap().stop_handle();
    let (mut loaning, listener) = pair(has.node.as_ref().unwrap(), "loans");
    let mut loan = loaning.loan(BYTES).unwrap();
    in_child(|| {
        let node = has.node.as_ref().unwrap();
        let publisher = has.lossy.as_mut().unwrap();
        says_so(publisher.send(&message(7)[..]));
        says_so(publisher.send(&[7][..]));
        says_so(publisher.send_timeout(&message(7)[..], BOUND));
        says_so(publisher.loan(BYTES).map(|_| ()));
        says_so(publisher.loan_timeout(BYTES, BOUND).map(|_| ()));
        says_so(publisher.wait_for_subscribers(9, BOUND));
        assert_eq!((publisher.subscribers(), publisher.published()), (0, 1));
        let reliable = has.reliable.as_mut().unwrap();
        says_so(reliable.send(&7));
        says_so(reliable.send_many(&[7, 8]));
        says_so(reliable.send_timeout(&7, BOUND));
        loan.fill(7);
        assert_eq!(loan.len(), BYTES);
        assert_eq!(loan.send(), 0);

        let bytes = has.bytes.as_mut().unwrap();
        says_so(bytes.try_recv());
        says_so(bytes.recv());
        says_so(bytes.recv_timeout(BOUND));
        says_so(bytes.drain().next().unwrap());
        says_so(bytes.wait_for_publishers(9, BOUND));
        assert_eq!((bytes.publishers(), bytes.received(), bytes.lost()), (0, 1, 0));
        assert_eq!((bytes.connections().len(), bytes.skipped().len()), (1, 0));
        let numbers = has.numbers.as_mut().unwrap();
        says_so(numbers.try_recv());
        says_so(numbers.recv());
        let any = has.any.as_mut().unwrap();
        says_so(any.try_recv());
        says_so(any.recv());
        says_so(any.recv_timeout(BOUND));
        says_so(any.wait_for_publishers(9, BOUND));

        says_so(node.publisher::<[u8]>("new"));
        says_so(node.subscriber::<[u8]>("new"));
        says_so(node.subscriber_dynamic("new"));
        says_so(node.service::<[u8], _>("new", |_| Ok(())));
        says_so(node.subscribe::<[u8], _>("new", |_| {}));
        says_so(node.batch().publisher::<[u8]>("new"));
        says_so(node.observe());
        says_so(node.inspect(publisher.id()));
        says_so(node.run());
        assert!(node.is_leaving() && !node.hosts_root());
        assert_eq!((node.root_pid(), node.name().as_str()), (None, "parent"));
        let _printed = format!("{node:?} {publisher:?} {bytes:?} {any:?} {stop:?}");
        stop.stop();
        node.leave();
    });
    assert_eq!(loaning.published(), 0, "what the child sent is in the child");
    drop((loaning, listener));
    has.go_on();
}

fn drops() {
    let mut has = Belongings::new();
    in_child(|| has.drop_all());
    // In another order.
    in_child(|| {
        has.node = None;
        has.bytes = None;
        has.lossy = None;
        has.drop_all();
    });
    has.go_on();
}

/// What reads a sample.
type Read = fn(&Sample<[u8]>) -> usize;

fn samples() {
    let mut has = Belongings::new();
    has.reliable.as_mut().unwrap().send(&2).unwrap();
    let inline = received(has.numbers.as_mut().unwrap());
    in_child(|| {
        // A copy of its slot is the child's own.
        assert_eq!(*inline, 1);
        std::panic::set_hook(Box::new(|_| {}));
        for sample in &has.held {
            assert_eq!((sample.sequence(), sample.service().as_str()), (0, "bytes"));
            let own: Read = |sample| sample.to_owned().map_or(0, |own| own.len());
            let reads: [Read; 2] = [|sample| sample.len(), own];
            for read in reads {
                let panic =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(sample))).unwrap_err();
                let text = panic.downcast_ref::<String>().expect("a text");
                assert!(text.contains("copy what children need (`to_owned`) before the fork"), "{text}");
            }
        }
        // The reader first, the sample first: either way.
        has.held.pop();
        has.bytes = None;
        has.held.clear();
    });
    let mut again = received(has.numbers.as_mut().unwrap());
    assert_eq!(*again, 2);
    // As `go_on` expects it.
    has.reliable.as_mut().unwrap().send(&1).unwrap();
    again = received(has.any_number());
    assert_eq!(*again, 1);
    has.reliable.as_mut().unwrap().send(&1).unwrap();
    has.go_on();
}

impl Belongings {
    fn any_number(&mut self) -> &mut Subscriber<u64> {
        while self.any.as_mut().unwrap().try_recv().unwrap().is_some() {}
        self.numbers.as_mut().unwrap()
    }
}

/// The child uses two hives fully: that of its parent, and one of its own.
fn joins() {
    let mut has = Belongings::new();
    let mut from_child = has.node.as_ref().unwrap().subscriber::<[u8]>("child/*").unwrap();
    let child = start_child(|| {
        let here = node("child").join().unwrap();
        let mut listener = subscriber(&here, "bytes");
        let (mut speaker, mut own) = pair(&here, "child/bytes");
        // Its own, and two of the parent.
        speaker.wait_for_subscribers(3, BOUND).unwrap();
        exchange(&mut speaker, &mut own);
        assert!(received(&mut listener).iter().all(|byte| *byte == 9));
        let alone = node("alone").dir(folder().join("alone")).join().unwrap();
        assert!(alone.hosts_root());
        let (mut publisher, mut subscriber) = pair(&alone, "bytes");
        exchange(&mut publisher, &mut subscriber);
        // What is the parent's goes while what is the child's is at work; then that goes, and its threads are
        // joined.
        has.drop_all();
        exchange(&mut publisher, &mut subscriber);
        let left = received(&mut {
            publisher.send(&message(5)[..]).unwrap();
            subscriber
        });
        assert!(left.iter().all(|byte| *byte == 5));
        drop(left);
        alone.leave();
        here.leave();
        // A grandchild finds all of that anew.
        in_child(|| {
            says_so(speaker.send(&message(1)[..]));
            says_so(own.recv());
            let grandchild = node("grandchild").join().unwrap();
            let (mut publisher, mut subscriber) = pair(&grandchild, "grandchild");
            exchange(&mut publisher, &mut subscriber);
        });
    });
    until("the child listens", || (has.lossy.as_ref().unwrap().subscribers() == 3).then_some(()));
    has.lossy.as_mut().unwrap().send(&message(9)[..]).unwrap();
    for value in 0..100 {
        let sample = received(&mut from_child);
        assert!(
            sample.iter().all(|byte| *byte == value),
            "{value}: {:?} has {}, {:?}",
            sample.origin(),
            sample[0],
            from_child.connections()
        );
    }
    await_child(child);
    assert!(has.held.iter().all(|sample| sample.iter().all(|byte| *byte == 1)));
    let lossy = has.lossy.as_mut().unwrap();
    until("the kernel has said that the child is gone", || (lossy.subscribers() == 2).then_some(()));
}

/// Joined too early, then made a daemon: forked, in a session of its own, forked again; and the first process
/// goes.
fn daemon() {
    let listener = node("listener").join().unwrap();
    let mut heard = listener.subscriber::<[u8]>("daemon").unwrap();
    let first = start_child(|| {
        let mut has = (node("early").join().unwrap(), None);
        has.1 = Some(pair(&has.0, "early"));
        let _daemon = start_child(|| {
            setsid().unwrap();
            let _daemon = start_child(|| {
                let (publisher, subscriber) = has.1.as_mut().unwrap();
                assert!(publisher.send(&[1][..]).is_err() && subscriber.try_recv().is_err());
                has.1 = None;
                let node = node("daemon").join().unwrap();
                let mut publisher = node.publisher::<[u8]>("daemon").unwrap();
                publisher.wait_for_subscribers(1, BOUND).unwrap();
                publisher.send(&message(3)[..]).unwrap();
            });
        });
    });
    await_child(first);
    assert!(received(&mut heard).iter().all(|byte| *byte == 3));
}

/// A master that has joined, and workers that join each.
fn prefork() {
    const WORKERS: u8 = 4;
    let master = node("master").join().unwrap();
    let mut jobs = master.publisher_builder::<[u8]>("jobs").reliable().create().unwrap();
    let mut results = master.subscriber::<[u8]>("results/*").unwrap();
    let workers: Vec<Pid> = (0..WORKERS)
        .map(|number| {
            start_child(|| {
                says_so(jobs.send(&[1][..]));
                let node = node(&format!("worker-{number}")).join().unwrap();
                let mut jobs = subscriber(&node, "jobs");
                let mut results = node.publisher::<[u8]>(&format!("results/{number}")).unwrap();
                results.wait_for_subscribers(1, BOUND).unwrap();
                let job = received(&mut jobs);
                assert!(job.iter().all(|byte| *byte == 6));
                results.send(&message(number)[..]).unwrap();
                // The word to end.
                assert!(received(&mut jobs).is_empty());
            })
        })
        .collect();
    jobs.wait_for_subscribers(WORKERS.into(), BOUND).unwrap();
    jobs.send(&message(6)[..]).unwrap();
    let mut came: Vec<u8> = (0..WORKERS).map(|_| received(&mut results)[0]).collect();
    came.sort_unstable();
    assert_eq!(came, Vec::from_iter(0..WORKERS));
    jobs.send(&[][..]).unwrap();
    workers.into_iter().for_each(await_child);
}

/// A child that does nothing lives longer than its parent, which hosted the root and was attached to others.
fn outlives() {
    let (stay, leave) = pipe().unwrap();
    let mut leave: Option<OwnedFd> = Some(leave);
    let (reading, writing) = pipe().unwrap();
    let host = start_child(|| {
        let node = node("host").join().unwrap();
        assert!(node.hosts_root());
        let mut publisher = node.publisher_builder::<[u8]>("bytes").reliable().capacity(2).create().unwrap();
        let keeper = start_child(|| {
            leave = None;
            // Ends when the test lets go.
            let _ = read(&stay, &mut [0]);
        });
        nix::unistd::write(&writing, &keeper.as_raw().to_ne_bytes()).unwrap();
        publisher.wait_for_subscribers(1, BOUND).unwrap();
        publisher.send(&message(1)[..]).unwrap();
        std::thread::sleep(BOUND);
    });
    let mut bytes = [0; 4];
    assert_eq!(read(&reading, &mut bytes), Ok(4));
    let keeper = Pid::from_raw(i32::from_ne_bytes(bytes));
    let survivor = node("survivor").join().unwrap();
    assert_eq!(survivor.root_pid(), Some(host.as_raw()));
    let mut subscriber = subscriber(&survivor, "bytes");
    let sample = received(&mut subscriber);
    kill(host, Signal::SIGKILL).unwrap();
    waitpid(host, None).unwrap();
    until("another hosts the root", || survivor.hosts_root().then_some(()));
    until("the publisher is gone", || {
        assert!(subscriber.recv_timeout(Duration::from_millis(1)).unwrap().is_none());
        subscriber.connections()[0].ended.then_some(())
    });
    assert!(sample.iter().all(|byte| *byte == 1));
    // Its name is free, though its child lives.
    let again = node("host").join().unwrap();
    let (mut publisher, mut listener) = pair(&again, "more");
    exchange(&mut publisher, &mut listener);
    assert_eq!(kill(keeper, None), Ok(()), "the child lives still");
    drop(leave);
}

/// Forks while other threads make, use and drop: whatever lock they hold at that moment stays locked in the
/// child.
fn busy() {
    const FORKS: usize = 100;
    let is_over = AtomicBool::new(false);
    let mut has = Belongings::new();
    let shared = has.node.clone().unwrap();
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (node, is_over) = (&shared, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let (mut publisher, mut listener) = pair(node, &format!("busy/{number}"));
                    publisher.send(&message(1)[..]).unwrap();
                    let sample = received(&mut listener);
                    drop(listener);
                    node.observe().unwrap();
                    drop(sample);
                }
            });
        }
        for _ in 0..FORKS {
            in_child(|| {
                says_so(has.lossy.as_mut().unwrap().send(&[1][..]));
                says_so(has.bytes.as_mut().unwrap().recv());
                says_so(shared.observe());
                assert_eq!(has.lossy.as_ref().unwrap().subscribers(), 0);
                has.drop_all();
                let alone = node("alone").dir(folder().join(format!("alone-{}", getpid()))).join().unwrap();
                let (mut publisher, mut listener) = pair(&alone, "bytes");
                publisher.send(&message(2)[..]).unwrap();
                assert!(received(&mut listener).iter().all(|byte| *byte == 2));
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Waits until this process catches what a run listens to.
fn await_run() {
    until("the run listens", || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        let caught = u64::from_str_radix(&caught, 16).unwrap();
        [Signal::SIGINT, Signal::SIGTERM]
            .iter()
            .all(|signal| caught >> (*signal as u32 - 1) & 1 == 1)
            .then_some(())
    });
}

/// A signal to a child is none to its parent, which runs.
fn signals() {
    let node = node("parent").join().unwrap();
    let returned = Arc::new(AtomicBool::new(false));
    let run = std::thread::spawn({
        let (node, returned) = (node.clone(), Arc::clone(&returned));
        move || {
            let outcome = node.run();
            returned.store(true, Ordering::Relaxed);
            outcome
        }
    });
    await_run();
    let (stay, leave) = pipe().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let child = start_child(|| {
            // For ever, but for the signal.
            while read(&stay, &mut [0]) == Err(Errno::EINTR) {}
        });
        kill(child, signal).unwrap();
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Signaled(child, signal, false)));
    }
    assert!(!returned.load(Ordering::Relaxed));
    // Whatever had rung its bell would have made it leave before this is answered.
    node.observe().unwrap();
    assert!(!returned.load(Ordering::Relaxed) && !node.is_leaving());
    node.stop_handle().stop();
    run.join().unwrap().unwrap();
    drop(leave);
}

/// A child that joins and runs by itself ends in order at its own signal, while its parent runs.
fn own_run() {
    let parent = node("parent").join().unwrap();
    let run = std::thread::spawn({
        let parent = parent.clone();
        move || parent.run()
    });
    await_run();
    let mut heard = parent.subscriber::<u64>("beats").unwrap();
    let child = start_child(|| {
        let node = node("child").join().unwrap();
        let mut beats = 0;
        node.service::<u64, _>("beats", move |service| {
            beats += 1;
            service.send(&beats)?;
            service.sleep_for(Duration::from_millis(1))
        })
        .unwrap();
        node.run().unwrap();
    });
    received(&mut heard);
    // Its first thread reads its bell, the one pair of sockets that it waits at, only after it listens to
    // signals.
    until("the child's run listens", || {
        let waits_in = std::fs::read_to_string(format!("/proc/{child}/wchan")).unwrap();
        waits_in.starts_with("unix_stream").then_some(())
    });
    kill(child, Signal::SIGTERM).unwrap();
    await_child(child);
    assert!(!parent.is_leaving());
    parent.stop_handle().stop();
    run.join().unwrap().unwrap();
}

/// A handler forks: the child's copy of its thread ends, and the parent's goes on.
fn handler() {
    let node = node("parent").join().unwrap();
    let mut publisher = node.publisher::<u64>("numbers").unwrap();
    let (done, ends) = std::sync::mpsc::channel();
    node.subscribe::<u64, _>("numbers", move |sample| {
        let child = run_in_child(|| {
            // Short, so it is a copy.
            i32::from(*sample > 2)
        });
        let child = Pid::from_raw(child.unwrap());
        done.send(waitpid(child, None).unwrap()).unwrap();
    })
    .unwrap();
    publisher.wait_for_subscribers(1, BOUND).unwrap();
    for number in 0..3 {
        publisher.send(&number).unwrap();
        assert!(matches!(ends.recv_timeout(BOUND).unwrap(), WaitStatus::Exited(_, 0)));
    }
}

/// Neither memory nor descriptors of segments come along: they would keep the memory of a dead parent.
fn nothing_inherited() {
    let has = Belongings::new();
    let segments = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let maps = maps.lines().filter(|line| line.contains("/memfd:")).count();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let rings = ["/memfd:ring", "/memfd:reader"];
        let links = links.filter(|link| rings.iter().any(|name| link.to_string_lossy().starts_with(name)));
        (maps, links.count())
    };
    let (maps, descriptors) = segments();
    assert!(maps > 0 && descriptors > 0, "there is something to be inherited");
    // One that is on its way to a peer at the very moment comes along.
    until("nothing is on its way", || {
        let child = run_in_child(|| i32::from(segments() != (0, 0))).unwrap();
        (waitpid(Pid::from_raw(child), None) == Ok(WaitStatus::Exited(Pid::from_raw(child), 0))).then_some(())
    });
    has.go_on();
}
