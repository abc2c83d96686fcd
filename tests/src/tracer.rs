//! Traces other processes: counts their system calls between two marks, or walks them instruction by
//! instruction.
//!
//! ```text
//! traced process      getppid ── the work that is looked at ── getppid
//! this process         │ stop at each system call of each thread, before and after it
//! ```
//! The traced process makes the first mark when it is told to begin, which happens after it is being traced.
//! All its threads are traced; the marks are made by one of them.

use crate::BOUND;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// What the marks are.
#[cfg(target_arch = "x86_64")]
const GETPPID: u64 = 110;
#[cfg(target_arch = "aarch64")]
const GETPPID: u64 = 173;

/// Traces a process. The same thread must create it and wait with it.
#[derive(Debug)]
pub struct Tracer {
    threads: HashMap<Pid, Thread>,
    /// Marks seen, and the number of each system call between the first two.
    marks: usize,
    between: Vec<u64>,
}

#[derive(Debug, Default)]
struct Thread {
    /// It stopped before a system call and will stop after it.
    within: bool,
}

impl Tracer {
    /// Begins to trace all threads of a process that waits, with all of them.
    pub fn seize(pid: i32) -> Tracer {
        let mut tracer = Tracer { threads: HashMap::new(), marks: 0, between: Vec::new() };
        for entry in std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives") {
            let name = entry.expect("a thread").file_name();
            let thread = Pid::from_raw(name.to_string_lossy().parse().expect("threads are numbers"));
            ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).expect("our own child may be traced");
            ptrace::interrupt(thread).expect("it is seized");
            let status = waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
            assert!(matches!(status, WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)), "{status:?}");
            ptrace::syscall(thread, None).expect("it is stopped");
            tracer.threads.insert(thread, Thread::default());
        }
        // The interruption ends some system calls early, and the threads make them again. That is none of
        // their doing, so it must have happened before anybody counts.
        crate::until("the interrupted threads wait again", || {
            tracer.look();
            tracer.threads.values().all(|thread| thread.within).then_some(())
        });
        tracer
    }

    /// Lets processes run until each has made its second mark. Returns, for each, the numbers of the system
    /// calls in between.
    pub fn between_marks<const N: usize>(mut tracers: [Tracer; N]) -> [Vec<u64>; N] {
        let start = Instant::now();
        while tracers.iter().any(|tracer| tracer.marks < 2) {
            assert!(start.elapsed() < BOUND, "the marks did not come: {tracers:#?}");
            let mut idle = true;
            for tracer in &mut tracers {
                idle &= !tracer.look();
            }
            if idle {
                // Others need the core: what is traced spins.
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
        tracers.map(|mut tracer| {
            tracer.detach();
            std::mem::take(&mut tracer.between)
        })
    }

    /// Looks at each thread once. Whether one of them had stopped.
    fn look(&mut self) -> bool {
        let mut stopped = false;
        for (&pid, thread) in &mut self.threads {
            let status = match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) => continue,
                Ok(status) => status,
                // The thread has ended.
                Err(Errno::ECHILD) => continue,
                Err(error) => panic!("waiting for thread {pid}: {error}"),
            };
            stopped = true;
            let mut deliver = None::<Signal>;
            match status {
                WaitStatus::PtraceSyscall(_) => {
                    thread.within = !thread.within;
                    if thread.within {
                        let number = system_call(pid);
                        if number == GETPPID {
                            self.marks += 1;
                        } else if self.marks == 1 {
                            self.between.push(number);
                        }
                    }
                }
                WaitStatus::Stopped(_, signal) => deliver = Some(signal),
                WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    assert!(self.marks >= 2, "thread {pid} ended before its second mark: {status:?}");
                    continue;
                }
                other => panic!("thread {pid}: {other:?}"),
            }
            if self.marks < 2 {
                // It may have been killed since.
                let _ = ptrace::syscall(pid, deliver);
            } else {
                let _ = ptrace::cont(pid, deliver);
            }
        }
        stopped
    }

    /// Lets go of all threads. One that has ended must be waited for all the same: until then its process
    /// does not end.
    fn detach(&mut self) {
        for &pid in self.threads.keys() {
            // A thread that lives stops soon, or ends; one that has ended cannot be interrupted.
            let flags = match ptrace::interrupt(pid) {
                Ok(()) => WaitPidFlag::__WALL,
                Err(_) => WaitPidFlag::__WALL | WaitPidFlag::WNOHANG,
            };
            let status = waitpid(pid, Some(flags));
            if !matches!(status, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_)) {
                // It may have been killed since.
                let _ = ptrace::detach(pid, None);
            }
        }
        self.threads.clear();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Kills a process at one of its stops: each system call of any of its threads, also of those that it starts
/// meanwhile, is two stops. The same thread must create it and wait with it.
#[derive(Debug)]
pub struct Executioner {
    leader: Pid,
    threads: HashSet<Pid>,
    /// Running towards its first stop: the interruption of seizing it ends a system call early, which is
    /// none of its doing.
    fresh: HashSet<Pid>,
}

impl Executioner {
    /// Begins with a process that waits, with all its threads.
    pub fn seize(pid: i32) -> Executioner {
        let leader = Pid::from_raw(pid);
        let mut threads = HashSet::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives") {
            let name = entry.expect("a thread").file_name();
            let thread = Pid::from_raw(name.to_string_lossy().parse().expect("threads are numbers"));
            let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
            ptrace::seize(thread, options).expect("our own child may be traced");
            ptrace::interrupt(thread).expect("it is seized");
            waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
            ptrace::syscall(thread, None).expect("it is stopped");
            threads.insert(thread);
        }
        let fresh = threads.clone();
        Executioner { leader, threads, fresh }
    }

    /// Lets it run until stop number `at`, from 0, and kills it there; false: `over` said yes before, and it
    /// runs on untraced. Whoever created the process must still wait for it.
    pub fn kill_at(mut self, at: u64, mut over: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        let mut stops = 0;
        loop {
            assert!(!self.threads.is_empty(), "the process ended on its own before stop {at}");
            assert!(start.elapsed() < BOUND, "stop {at} did not come, and the way did not end: {self:?}");
            let mut idle = true;
            for thread in self.threads.clone() {
                let status = match waitpid(thread, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                    Ok(WaitStatus::StillAlive) => continue,
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => {
                        self.threads.remove(&thread);
                        continue;
                    }
                    Ok(status) => status,
                };
                idle = false;
                let mut deliver = None::<Signal>;
                match status {
                    // It has gone back to where it was interrupted.
                    WaitStatus::PtraceSyscall(_) if self.fresh.remove(&thread) => {}
                    WaitStatus::PtraceSyscall(_) => {
                        if stops == at {
                            self.end();
                            return true;
                        }
                        stops += 1;
                    }
                    WaitStatus::PtraceEvent(_, _, event)
                        if event == ptrace::Event::PTRACE_EVENT_CLONE as i32 =>
                    {
                        // The new one is traced already, and stops by itself.
                        let new = ptrace::getevent(thread).expect("it is stopped");
                        self.threads.insert(Pid::from_raw(i32::try_from(new).expect("a thread")));
                    }
                    WaitStatus::Stopped(_, signal) => deliver = Some(signal),
                    _ => {}
                }
                // It may have been killed since.
                let _ = ptrace::syscall(thread, deliver);
            }
            if idle {
                if over() {
                    self.let_go();
                    return false;
                }
                std::thread::yield_now();
            }
        }
    }

    fn end(&mut self) {
        // Those that have just been started, and not been heard of yet.
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.leader)).into_iter().flatten().flatten()
        {
            self.threads.extend(entry.file_name().to_string_lossy().parse().map(Pid::from_raw));
        }
        kill(self.leader, Signal::SIGKILL).expect("it stands still");
        // Its leader is waited for by who created it, and only ends when the others have been waited for.
        self.threads.remove(&self.leader);
        for thread in self.threads.drain() {
            let _ = waitpid(thread, Some(WaitPidFlag::__WALL));
        }
    }

    fn let_go(&mut self) {
        for thread in self.threads.drain() {
            if ptrace::interrupt(thread).is_ok() && waitpid(thread, Some(WaitPidFlag::__WALL)).is_ok() {
                let _ = ptrace::detach(thread, None);
            }
        }
    }
}

/// Walks the main thread of a process step by step: after each instruction it stands still. The same thread
/// must create it and walk; from then on it stays on one core.
#[derive(Debug)]
pub struct Walker {
    thread: Pid,
}

impl Walker {
    /// Begins with a process whose main thread waits; the other threads run free.
    pub fn seize(pid: i32) -> Walker {
        let thread = Pid::from_raw(pid);
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).expect("our own child may be traced");
        ptrace::interrupt(thread).expect("it is seized");
        let walker = Walker { thread };
        walker.stop();
        // Two switches for each step: on one core they cost a tenth of what they cost across two. Where
        // pinning is not allowed it only takes longer.
        if let Some(core) = usable_core(thread) {
            let _ = sched_setaffinity(thread, &core);
            let _ = sched_setaffinity(Pid::from_raw(0), &core);
        }
        ptrace::syscall(thread, None).expect("it is stopped");
        walker
    }

    /// Lets it run to its mark. Returns right before the mark is made.
    pub fn run_to_mark(&self) {
        // Bounded: by the stop, and by the few system calls that lie before.
        loop {
            if self.stop() == Stop::SystemCall && system_call(self.thread) == GETPPID {
                return;
            }
            ptrace::syscall(self.thread, None).expect("it is stopped");
        }
    }

    /// Lets it do one instruction. False: it has ended instead.
    pub fn step(&self) -> bool {
        ptrace::step(self.thread, None).is_ok() && self.stop() != Stop::Ended
    }

    /// Waits until it stands still.
    fn stop(&self) -> Stop {
        match waitpid(self.thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(_)) => Stop::SystemCall,
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => Stop::Ended,
            Ok(_) => Stop::Other,
            Err(error) => panic!("waiting for {}: {error}", self.thread),
        }
    }
}

/// One core that the thread may use; others walk elsewhere at the same time.
fn usable_core(thread: Pid) -> Option<CpuSet> {
    let usable = sched_getaffinity(thread).ok()?;
    let cores: Vec<_> = (0..CpuSet::count()).filter(|core| usable.is_set(*core).unwrap_or(false)).collect();
    let mut core = CpuSet::new();
    core.set(*cores.get(thread.as_raw() as usize % cores.len().max(1))?).ok()?;
    Some(core)
}

#[derive(Debug, PartialEq, Eq)]
enum Stop {
    SystemCall,
    Ended,
    Other,
}

/// The number of the system call that a stopped thread is about to make.
fn system_call(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).expect("it is stopped");
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no system call: {text}"))
}
