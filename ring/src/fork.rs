//! What a forked child finds of all this: addresses that are safe to touch and reach nobody, and calls that
//! say so.
//!
//! A child must not write its parent's segments (each has one writer), so no mapping comes along
//! (`MADV_DONTFORK`). Nor do the threads, and a lock that one of them held stays locked for ever. Before
//! `fork` returns in the child, a handler (`pthread_atfork`) therefore does four things with what is
//! registered here:
//!
//! ```text
//! parent                                child
//! Segment   base, length, descriptor ─▶ a *grave*: pages of zeros in the same place, private; the descriptor is closed
//! Descriptor (of a ring that is not mapped) ─▶ closed: a child shall not keep the memory of others alive
//! Counter   version, news            ─▶ FORKED: the next call finds that it moved, as if somebody came or went,
//!                                       and on that rare way it looks, and says [`Forked`]
//! Flag      (of a signal handler)    ─▶ true
//! ```
//!
//! So the path of a message pays nothing: it looks at these counters anyway. Graves are never unmapped: a
//! sample or a loan of the parent may be dropped in the child at any time. Rare calls ask their [`Home`]
//! first, take no lock if it is another process, and every drop does nothing then.
//!
//! A number in a page that the kernel wipes in a child (`MADV_WIPEONFORK`) tells which process this is,
//! however it was forked; a process id would come again in a namespace. What a process keeps beside its
//! objects ([`PerLife`]) begins anew with that number.
//!
//! The handler takes no lock and no memory: the list of what is registered is locked before the fork, by the
//! thread that forks, and unlocked in the parent. In the child it stays locked; the child begins another.
//!
//! A child that was made without handlers (a bare `clone`, `_Fork`) has the new number and no graves: every
//! call but those of the path of a message says [`Forked`], drops do nothing but those of samples, and the
//! rest ends in SIGSEGV. `vfork` and `posix_spawn` run no handlers and need none.

#[cfg(not(loom))]
pub(crate) use self::process::{Descriptor, Mapping, Registered, clear_in_children, life};
#[cfg(not(loom))]
pub use self::process::{Flag, Forked, Home, run_in_child};

use crate::sync::{Arc, AtomicPtr, AtomicU64, Ordering, strong};

/// What a [`Counter`] says in a forked child. None counts so far.
const FORKED: u64 = u64::MAX;

/// A number that only grows, and has another value in a forked child than ever before.
#[derive(Debug, Clone)]
pub struct Counter {
    #[cfg(not(loom))]
    entry: Arc<process::Entry>,
    #[cfg(not(loom))]
    _registered: Arc<Registered>,
    #[cfg(loom)]
    word: Arc<AtomicU64>,
}

impl Default for Counter {
    #[cfg(not(loom))]
    fn default() -> Self {
        let registered = Registered::counter();
        Counter { entry: registered.entry(), _registered: Arc::new(registered) }
    }
    #[cfg(loom)]
    fn default() -> Self {
        Counter { word: Arc::new(AtomicU64::new(0)) }
    }
}

impl Counter {
    #[inline(always)]
    fn word(&self) -> &AtomicU64 {
        #[cfg(not(loom))]
        return &self.entry.word;
        #[cfg(loom)]
        &self.word
    }

    /// The number. What it counts is read under a lock of its own.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // Relaxed: it orders nothing.
        self.word().load(Ordering::Relaxed)
    }

    /// Counts up by one.
    pub fn step(&self) {
        // Relaxed: as above.
        self.word().fetch_add(1, Ordering::Relaxed);
    }

    /// Whether `found`, the number of such a counter, says that this process was forked since the counter was
    /// made.
    #[inline]
    pub fn is_forked(found: u64) -> bool {
        found == FORKED
    }
}

/// Something that a process has once, and a forked child anew: what the parent had stays behind, unused, with
/// the locks that its threads held.
#[derive(Debug)]
pub struct PerLife<T> {
    now: AtomicPtr<Lived<T>>,
}

#[derive(Debug)]
struct Lived<T> {
    life: u64,
    value: T,
}

impl<T: Default + Send + Sync + 'static> PerLife<T> {
    /// Nothing yet; the first call of `get` makes it.
    #[cfg(not(loom))]
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        PerLife { now: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// As above; loom's atomics are no constants.
    #[cfg(loom)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        PerLife { now: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// That of this process.
    #[cfg(not(loom))]
    pub fn get(&self) -> &'static T {
        self.of(life())
    }

    /// That of the process whose number this is: the present one.
    pub fn of(&self, life: u64) -> &'static T {
        // edge life. Acquire: what another thread made is complete.
        let found = self.now.load(strong!("life: look", Acquire));
        // SAFETY: null or alive and initialised: made below by `Box`, and never freed once it was published.
        if let Some(lived) = unsafe { found.as_ref() }
            && lived.life == life
        {
            return &lived.value;
        }
        let made = Box::into_raw(Box::new(Lived { life, value: T::default() }));
        // edge life. Release: it is complete before another thread can find it.
        let published = self.now.compare_exchange(
            found,
            made,
            strong!("life: publish", Release),
            strong!("life: another was first", Acquire),
        );
        let lived = match published {
            Ok(_) => made,
            Err(other) => {
                // SAFETY: exclusive: nobody has found it, so this is its one owner.
                drop(unsafe { Box::from_raw(made) });
                other
            }
        };
        // SAFETY: alive and initialised: as above, and not null: somebody has published it in this life.
        &unsafe { &*lived }.value
    }
}

#[cfg(not(loom))]
mod process {
    use super::{Arc, AtomicPtr, AtomicU64, FORKED, Ordering, PerLife};
    use crate::sync::{AtomicBool, Mutex, MutexGuard, lock};
    use nix::libc;
    use std::cell::UnsafeCell;
    use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
    use std::sync::atomic::AtomicI32;

    /// It belongs to another process, from which this one was forked. Join again, after the fork.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    #[error(
        "this belongs to process {owner}, and this is process {here}, forked from it; join after the fork"
    )]
    pub struct Forked {
        /// The process that it belongs to.
        pub owner: u32,
        /// This process.
        pub here: u32,
    }

    /// The process that something belongs to.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Home {
        life: u64,
        process: u32,
    }

    impl Home {
        /// This process.
        #[must_use]
        pub fn here() -> Home {
            Home { life: life(), process: std::process::id() }
        }

        /// Whether this is the process. Takes a few nanoseconds.
        #[must_use]
        pub fn is_here(&self) -> bool {
            self.life == life()
        }

        /// As [`is_here`](Self::is_here), as a result.
        ///
        /// # Errors
        /// [`Forked`] if it is not.
        pub fn check(&self) -> Result<(), Forked> {
            if self.is_here() { Ok(()) } else { Err(self.forked()) }
        }

        /// The error, with the number of this process.
        #[must_use]
        pub fn forked(&self) -> Forked {
            Forked { owner: self.process, here: std::process::id() }
        }
    }

    /// Numbers that were given to this process and those that it was forked from.
    static LIVES: AtomicU64 = AtomicU64::new(0);
    /// The page that a child finds wiped, or [`UNWIPED`].
    static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    /// In its place where the kernel gives no such page: only the handler wipes it.
    static UNWIPED: AtomicU64 = AtomicU64::new(0);

    /// The number of this process; another one than those of all processes that it was forked from.
    pub(crate) fn life() -> u64 {
        let word = life_word();
        // Relaxed, all: a number on its own.
        let life = word.load(Ordering::Relaxed);
        if life != 0 {
            return life;
        }
        let new = LIVES.fetch_add(1, Ordering::Relaxed) + 1;
        word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|won| won, |_| new)
    }

    fn life_word() -> &'static AtomicU64 {
        // Relaxed: the page comes from the kernel, complete, and holds nothing but the atomic.
        let found = PAGE.load(Ordering::Relaxed);
        // SAFETY: null, or alive (never unmapped once it was published), initialised (zeros from the kernel),
        // aligned (a page).
        if let Some(word) = unsafe { found.as_ref() } {
            return word;
        }
        let made = wiped_page().unwrap_or(std::ptr::from_ref(&UNWIPED).cast_mut());
        // Relaxed: as above. One page is lost if another thread was first.
        let published =
            PAGE.compare_exchange(std::ptr::null_mut(), made, Ordering::Relaxed, Ordering::Relaxed);
        let word = published.map_or_else(|other| other, |_| made);
        // SAFETY: as above, and not null.
        unsafe { &*word }
    }

    /// A page of zeros, which is one again in every forked child.
    fn wiped_page() -> Option<*mut AtomicU64> {
        const BYTES: usize = size_of::<AtomicU64>();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED a mapping takes the place of nothing.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, rights, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the page was just mapped and belongs to this line alone; the advice changes what a child
        // finds.
        let advised = unsafe { libc::madvise(page, BYTES, libc::MADV_WIPEONFORK) };
        (advised == 0).then_some(page.cast())
    }

    /// Shared memory of this process, which a child finds replaced.
    #[derive(Debug)]
    pub(crate) struct Mapping {
        pub(crate) base: usize,
        pub(crate) length: usize,
        /// Closed in the child; -1: none.
        pub(crate) descriptor: AtomicI32,
    }

    /// What the handler changes in a child.
    #[derive(Debug)]
    #[repr(align(64))]
    pub(super) struct Entry {
        pub(super) word: AtomicU64,
        what: What,
    }

    #[derive(Debug)]
    enum What {
        Counter,
        Mapping(Mapping),
        /// Closed in the child.
        Descriptor(AtomicI32),
        /// Always readable in the child.
        Event(AtomicI32),
        Flag(Arc<AtomicBool>),
    }

    /// An entry of the list, for as long as this lives.
    #[derive(Debug)]
    pub(crate) struct Registered {
        entry: Arc<Entry>,
        place: Option<usize>,
        home: Home,
    }

    #[derive(Debug, Default)]
    struct List {
        entries: Vec<Option<Arc<Entry>>>,
        free: Vec<usize>,
        /// Words of this process's own that are 0 in a child.
        cleared: Vec<&'static AtomicU64>,
    }

    /// Sets `word` to 0 in children of this process that are forked from now on.
    pub(crate) fn clear_in_children(word: &'static AtomicU64) {
        watch_forks();
        let mut list = lock(LIST.get());
        if !list.cleared.iter().any(|known| std::ptr::eq(*known, word)) {
            list.cleared.push(word);
        }
    }

    static LIST: PerLife<Mutex<List>> = PerLife::new();

    impl Registered {
        fn new(what: What) -> Self {
            watch_forks();
            let entry = Arc::new(Entry { word: AtomicU64::new(0), what });
            let mut list = lock(LIST.get());
            let place = list.free.pop().unwrap_or(list.entries.len());
            if place == list.entries.len() {
                list.entries.push(None);
            }
            list.entries[place] = Some(Arc::clone(&entry));
            Registered { entry, place: Some(place), home: Home::here() }
        }

        pub(crate) fn counter() -> Self {
            Registered::new(What::Counter)
        }

        pub(crate) fn mapping(mapping: Mapping) -> Self {
            Registered::new(What::Mapping(mapping))
        }

        pub(super) fn entry(&self) -> Arc<Entry> {
            Arc::clone(&self.entry)
        }

        pub(crate) fn home(&self) -> &Home {
            &self.home
        }

        /// The descriptor is about to be closed here.
        pub(crate) fn forget_descriptor(&self) {
            if let What::Mapping(mapping) = &self.entry.what {
                // Relaxed: a number on its own; a child that is forked right now keeps its descriptor.
                mapping.descriptor.store(-1, Ordering::Relaxed);
            }
        }
    }

    impl Registered {
        /// Takes it off the list: children forked from now on find nothing of it changed.
        pub(crate) fn forget(&mut self) {
            let Some(place) = self.place.take() else { return };
            // In a child the list is another, in which it never was.
            if self.home.is_here() {
                let mut list = lock(LIST.get());
                list.entries[place] = None;
                list.free.push(place);
            }
        }
    }

    impl Drop for Registered {
        fn drop(&mut self) {
            self.forget();
        }
    }

    /// A descriptor of memory of others that is not mapped here. In a child it is closed, its number may be
    /// of another, and this says so.
    #[derive(Debug)]
    pub(crate) struct Descriptor {
        /// `Some` until it is dropped.
        owner: Option<OwnedFd>,
        registered: Registered,
    }

    impl Descriptor {
        pub(crate) fn new(owner: OwnedFd) -> Self {
            let number = AtomicI32::new(owner.as_raw_fd());
            Descriptor { owner: Some(owner), registered: Registered::new(What::Descriptor(number)) }
        }

        /// As [`Descriptor::new`], but in a child its number leads to a descriptor of the child's that is
        /// always readable: whoever polls it there goes on to call what says [`Forked`].
        pub(crate) fn always_ready_in_children(owner: OwnedFd) -> Self {
            let number = AtomicI32::new(owner.as_raw_fd());
            Descriptor { owner: Some(owner), registered: Registered::new(What::Event(number)) }
        }

        /// In a child, of one that is always ready there, what its number leads to.
        pub(crate) fn in_any_process(&self) -> &OwnedFd {
            self.owner.as_ref().expect("it is there until it is dropped")
        }

        pub(crate) fn get(&self) -> Result<&OwnedFd, Forked> {
            let owner = self.owner.as_ref().filter(|_| self.registered.home().is_here());
            owner.ok_or_else(|| self.registered.home().forked())
        }
    }

    impl Drop for Descriptor {
        fn drop(&mut self) {
            if self.registered.home().is_here() {
                // Before it is closed: the number may be of another a moment later.
                self.registered.forget();
            } else {
                std::mem::forget(self.owner.take());
            }
        }
    }

    /// A flag that is set in every child forked from now on, until this is dropped.
    #[derive(Debug)]
    pub struct Flag {
        _registered: Registered,
    }

    impl Flag {
        /// Sets `flag` in children.
        #[must_use]
        pub fn set_in_children(flag: Arc<AtomicBool>) -> Flag {
            Flag { _registered: Registered::new(What::Flag(flag)) }
        }
    }

    /// The list, locked from before a fork until after it, and the signals that the thread had blocked. All
    /// are in between: one that came to the child before its flags are set would do what it does in the
    /// parent.
    struct Held(UnsafeCell<Option<(MutexGuard<'static, List>, libc::sigset_t)>>);

    // SAFETY: only a thread that holds the lock of the list looks inside: between `before_fork` and
    // `in_parent` or `in_child`, which `fork` calls on one thread.
    unsafe impl Sync for Held {}

    static HELD: Held = Held(UnsafeCell::new(None));

    fn watch_forks() {
        static WATCHES: AtomicBool = AtomicBool::new(false);
        // Relaxed: a caller that finds it set while the first is still at work is no worse off than one that
        // came before it.
        if !WATCHES.swap(true, Ordering::Relaxed) {
            // SAFETY: functions of the required type that live as long as the program. A failure (out of
            // memory) means that children are as if they were forked without handlers.
            unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
        }
    }

    extern "C" fn before_fork() {
        // SAFETY: plain C data for which zeros are a valid value.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: writes the set, a local.
        unsafe { libc::sigfillset(&raw mut all) };
        let mut former = all;
        // SAFETY: reads one set and writes the other, both locals.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut former) };
        let guard = lock(LIST.get());
        // SAFETY: exclusive: this thread has just got the lock.
        unsafe { *HELD.0.get() = Some((guard, former)) };
    }

    fn take_held() -> Option<(MutexGuard<'static, List>, libc::sigset_t)> {
        // SAFETY: exclusive: this thread holds the lock, since `before_fork`.
        unsafe { (*HELD.0.get()).take() }
    }

    fn let_signals_in(former: &libc::sigset_t) {
        // SAFETY: reads the set that `former` borrows.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::from_ref(former), std::ptr::null_mut()) };
    }

    extern "C" fn in_parent() {
        if let Some((list, former)) = take_held() {
            drop(list);
            let_signals_in(&former);
        }
    }

    /// Runs in the child before `fork` returns there. The child has one thread, and its memory is a copy made
    /// at the fork: all that is Relaxed here needs no order.
    extern "C" fn in_child() {
        let Some((list, former)) = take_held() else { return };
        // Wiped already, where the kernel does that.
        life_word().store(0, Ordering::Relaxed);
        list.cleared.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        for entry in list.entries.iter().flatten() {
            match &entry.what {
                What::Counter => entry.word.store(FORKED, Ordering::Relaxed),
                What::Flag(flag) => flag.store(true, Ordering::Relaxed),
                What::Mapping(mapping) => bury(mapping),
                What::Descriptor(descriptor) => close(descriptor),
                What::Event(descriptor) => make_ready(descriptor),
            }
        }
        // It stays locked, and is not used again.
        std::mem::forget(list);
        let_signals_in(&former);
    }

    /// Puts pages of zeros where the mapping was, so that nothing of the parent's that is touched here ends
    /// in a signal. They take memory when they are written.
    fn bury(mapping: &Mapping) {
        let place = mapping.base as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // Where memory is promised only as far as there is some, pages that can only be read are free.
        for rights in [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ] {
            // SAFETY: takes the place of nothing: MAP_FIXED_NOREPLACE fails where something is mapped. Nobody
            // believes the place to be free: it belongs to a `Segment`, which never unmaps it in a child.
            let grave = unsafe { libc::mmap(place, mapping.length, rights, flags, -1, 0) };
            if grave != libc::MAP_FAILED {
                break;
            }
        }
        close(&mapping.descriptor);
    }

    /// Puts an eventfd that is readable in the place of a descriptor. Only calls that a handler may make.
    fn make_ready(descriptor: &AtomicI32) {
        let number: RawFd = descriptor.swap(-1, Ordering::Relaxed);
        // SAFETY: takes two integers and touches no memory of ours.
        let fresh = || unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        let made = fresh();
        if made >= 0 {
            // SAFETY: takes integers. The number was open in the parent at the fork, and leads to something
            // else in the child from here on.
            unsafe { libc::dup3(made, number, libc::O_CLOEXEC) };
            // SAFETY: made above, and nobody else knows the number.
            unsafe { libc::close(made) };
        } else {
            // SAFETY: as in `close`.
            unsafe { libc::close(number) };
            // All lower numbers are taken, so it gets this one; where it gets none, polling says that it is
            // closed.
            fresh();
        }
    }

    fn close(descriptor: &AtomicI32) {
        let descriptor: RawFd = descriptor.swap(-1, Ordering::Relaxed);
        if descriptor >= 0 {
            // SAFETY: the number was open in the parent at the fork, as its owner forgets it here before it
            // closes it; its owner in this process never uses or closes it (see `Segment`, `Descriptor`).
            unsafe { libc::close(descriptor) };
        }
    }

    /// Forks, runs `work` in the child, which then ends with its result, and returns the child's process id:
    /// for tests of what a child finds, in crates without unsafe code. A panic ends the child with 101.
    ///
    /// As with every fork of a process with threads, a lock of somebody else (of standard output, say) may be
    /// locked for ever in the child.
    ///
    /// # Errors
    /// Those of `fork`.
    #[doc(hidden)]
    pub fn run_in_child(work: impl FnOnce() -> i32) -> std::io::Result<i32> {
        // SAFETY: the child gets a copy of all memory, whole as far as this thread can tell; glibc looks
        // after its allocator. What other threads left half-done lies behind their locks.
        match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error()),
            0 => {
                let work = std::panic::AssertUnwindSafe(work);
                let code = std::panic::catch_unwind(work).unwrap_or(101);
                // SAFETY: ends this process without running what belongs to the parent.
                unsafe { libc::_exit(code) }
            }
            child => Ok(child),
        }
    }
}
