//! Lets one system call of a process fail, or that one and all of its kind after it.
//!
//! ```text
//! victim, all threads      getppid ─ call 1 ─ call 2 ─ … ─ call N ─ … ─ write(1, answer)
//! this thread               mark, others may begin          │            end of the window
//!                                                           └ at the entry: number = -1, so the kernel makes no call;
//!                                                             at the exit: the result is the errno
//! ```
//! Only calls that can fail ([`super::calls`]) are counted, each name for itself, over all threads in the
//! order in which the kernel reports them: "the third `mmap`" is the same one in nearly every run, "the 30th
//! call" is not, as threads overtake each other. A thread counts from the moment it has its name: before, it
//! is the start of a thread in the language's own library.

use super::calls::{Call, Fault, Kind, judge};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};

/// What is to fail.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The name of the call, and
    pub name: &'static str,
    /// which of them, from 1.
    pub nth: usize,
    /// Which of its faults, from 0.
    pub choice: usize,
    /// The later calls of the same name fail, too.
    pub lasting: bool,
}

/// What was seen within the window.
#[derive(Debug, Default)]
pub struct Seen {
    /// Calls that could have failed, by name.
    pub calls: BTreeMap<&'static str, usize>,
    /// How many faults call N has; `None`: there were fewer calls.
    pub faults: Option<usize>,
    /// How it failed.
    pub fault: Option<Fault>,
    /// How many calls were made to fail.
    pub injected: usize,
    /// Calls that nobody has judged.
    pub unknown: Vec<i64>,
    /// Calls that were let through, by name, and why.
    pub through: HashMap<&'static str, &'static str>,
    /// The process ended within the window: how.
    pub ended: Option<String>,
}

#[derive(Debug)]
struct Thread {
    has_begun: bool,
    /// What the call must return that is being made.
    result: Option<Errno>,
}

/// Traces a process through one window. The thread that started the process must call it.
#[derive(Debug)]
pub struct Injector {
    victim: Pid,
    threads: HashMap<Pid, Thread>,
    is_armed: bool,
    plan: Option<Plan>,
    seen: Seen,
}

/// Whether this machine lets a process trace its child.
///
/// # Errors
/// Why not.
pub fn is_permitted(pid: i32) -> Result<(), String> {
    ptrace::seize(Pid::from_raw(pid), Options::empty())
        .map_err(|errno| format!("ptrace is not permitted here: {errno}"))
}

impl Injector {
    /// Seizes all threads of a process.
    ///
    /// # Errors
    /// What the system said.
    pub fn seize(pid: i32, plan: Option<Plan>) -> nix::Result<Injector> {
        let mut injector = Injector {
            victim: Pid::from_raw(pid),
            threads: HashMap::new(),
            is_armed: false,
            plan,
            seen: Seen::default(),
        };
        let options =
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
        for entry in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| Errno::ESRCH)?.flatten() {
            let name = entry.file_name();
            let thread = Pid::from_raw(name.to_string_lossy().parse().expect("threads are numbers"));
            match ptrace::seize(thread, options) {
                Ok(()) => {}
                // It has ended since it was listed, unless it is the process.
                Err(Errno::ESRCH) if thread != injector.victim => continue,
                Err(error) => return Err(error),
            }
            let _ = ptrace::interrupt(thread);
            injector.threads.insert(thread, Thread { has_begun: true, result: None });
        }
        Ok(injector)
    }

    /// Runs until the victim answers, or ends. `on_mark` is called when it makes its mark.
    pub fn run(mut self, on_mark: impl FnOnce()) -> Seen {
        let mut on_mark = Some(on_mark);
        // Bounded: a watchdog of the caller kills a victim that hangs, and its end is reported here.
        while let Some((pid, status)) = next_stop() {
            let mut deliver = None::<Signal>;
            match status {
                WaitStatus::PtraceSyscall(_) => match self.system_call(pid) {
                    Step::On => {}
                    Step::Mark => {
                        self.is_armed = true;
                        if let Some(on_mark) = on_mark.take() {
                            on_mark();
                        }
                    }
                    Step::Answer => {
                        self.let_go(pid);
                        return self.seen;
                    }
                },
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_CLONE) => self.new_thread(pid),
                WaitStatus::Stopped(_, signal) => deliver = Some(signal),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.threads.remove(&pid);
                    if pid == self.victim {
                        self.seen.ended = Some(format!("{status:?}"));
                        return self.seen;
                    }
                    continue;
                }
                _ => {}
            }
            self.threads.entry(pid).or_insert(Thread { has_begun: false, result: None });
            // It may have been killed since; then its end is reported.
            let _ = ptrace::syscall(pid, deliver);
        }
        self.seen.ended.get_or_insert_with(|| "nothing is left to be waited for".to_owned());
        self.seen
    }

    fn new_thread(&mut self, parent: Pid) {
        if let Ok(number) = ptrace::getevent(parent) {
            let pid = Pid::from_raw(i32::try_from(number).expect("a thread's number"));
            self.threads.entry(pid).or_insert(Thread { has_begun: false, result: None });
        }
    }

    /// A thread stands before or behind a system call.
    fn system_call(&mut self, pid: Pid) -> Step {
        let (Ok(info), Ok(mut registers)) = (ptrace::syscall_info(pid), ptrace::getregs(pid)) else {
            return Step::On;
        };
        let thread = self.threads.entry(pid).or_insert(Thread { has_begun: false, result: None });
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            if let Some(errno) = thread.result.take() {
                registers.rax = (-(i64::from(errno as i32))) as u64;
                let _ = ptrace::setregs(pid, registers);
            }
            return Step::On;
        }
        let number = registers.orig_rax as i64;
        let arguments =
            [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        if pid == self.victim {
            match number {
                libc::SYS_getppid => return Step::Mark,
                libc::SYS_write if self.is_armed && arguments[0] == 1 => return Step::Answer,
                _ => {}
            }
        }
        if !thread.has_begun {
            // The first such call only asks whether there is one.
            thread.has_begun = number == libc::SYS_sigaltstack && arguments[0] != 0;
            self.seen.through.insert("the start of a thread", START_OF_A_THREAD);
            return Step::On;
        }
        if !self.is_armed {
            return Step::On;
        }
        let needs_target = matches!(
            number,
            libc::SYS_read | libc::SYS_write | libc::SYS_pread64 | libc::SYS_pwrite64 | libc::SYS_writev
        );
        let target = needs_target
            .then(|| std::fs::read_link(format!("/proc/{}/fd/{}", self.victim, arguments[0] as i32)).ok())
            .flatten();
        let target = target.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        match self.decide(&Call { number, arguments, target: &target }) {
            None => {}
            Some(Fault::Errno(errno)) => {
                registers.orig_rax = u64::MAX;
                if ptrace::setregs(pid, registers).is_ok() {
                    self.threads.entry(pid).and_modify(|thread| thread.result = Some(errno));
                }
            }
            Some(Fault::DescriptorsLost) => {
                // Without room for control data the kernel has nowhere to say the numbers, and makes none.
                let length = (arguments[1] + CONTROL_LENGTH) as ptrace::AddressType;
                let _ = ptrace::write(pid, length, 0);
            }
        }
        Step::On
    }

    fn decide(&mut self, call: &Call<'_>) -> Option<Fault> {
        let (name, faults) = match judge(call) {
            Some(Kind::Fails(name, faults)) => (name, faults),
            Some(Kind::Through(name, why)) => {
                self.seen.through.insert(name, why);
                return None;
            }
            None => {
                self.seen.unknown.push(call.number);
                return None;
            }
        };
        let count = self.seen.calls.entry(name).or_default();
        *count += 1;
        let plan = self.plan.filter(|plan| plan.name == name)?;
        if *count == plan.nth {
            self.seen.faults = Some(faults.len());
            self.seen.fault = faults.get(plan.choice).copied();
        } else if *count < plan.nth || !plan.lasting {
            return None;
        }
        let fault = self.seen.fault?;
        self.seen.injected += 1;
        Some(fault)
    }

    /// Detaches from all threads. `stopped` is one of them, and stands still.
    fn let_go(&mut self, stopped: Pid) {
        self.threads.remove(&stopped);
        let _ = ptrace::detach(stopped, None);
        for &pid in self.threads.keys() {
            let _ = ptrace::interrupt(pid);
        }
        while !self.threads.is_empty() {
            let Some((pid, status)) = next_stop() else { return };
            let mut deliver = None;
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.threads.remove(&pid);
                    if pid == self.victim {
                        self.seen.ended = Some(format!("{status:?}"));
                        return;
                    }
                    continue;
                }
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_CLONE) => self.new_thread(pid),
                WaitStatus::Stopped(_, signal) => deliver = Some(signal),
                WaitStatus::PtraceSyscall(_) => self.finish(pid),
                _ => {}
            }
            let _ = ptrace::detach(pid, deliver);
            self.threads.remove(&pid);
        }
    }

    /// A call that was taken away must have its result before the thread goes on.
    fn finish(&mut self, pid: Pid) {
        let Some(errno) = self.threads.get_mut(&pid).and_then(|thread| thread.result.take()) else { return };
        if let Ok(mut registers) = ptrace::getregs(pid) {
            registers.rax = (-(i64::from(errno as i32))) as u64;
            let _ = ptrace::setregs(pid, registers);
        }
    }
}

const START_OF_A_THREAD: &str = "the language's own library ends the process when it gets no memory for its signal stack; nothing of ours \
    runs yet, and the two larger calls that made the thread are injected";
/// Where `msg_controllen` lies in a `msghdr`.
const CONTROL_LENGTH: u64 = 40;

enum Step {
    On,
    Mark,
    Answer,
}

/// The next thread that stopped or ended, of those that this thread traces or has started.
fn next_stop() -> Option<(Pid, WaitStatus)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(status) => return status.pid().map(|pid| (pid, status)),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}
