//! Who waits for a receiving end, beside the thread that receives: a descriptor of its own, or a waiter that
//! waits for many.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use hivemind_ring::fork::Forked;
use hivemind_ring::mapped::{CreateError, Mapped};
use hivemind_ring::pollable::{Event, Pollable};
use hivemind_ring::reader::{Armed, Reader, Seats};

use super::wards::{Ear, WardHandle, Wards};

/// Why an end or a waiter has no descriptor to poll, or why nobody waits for an end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// It is of another process.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// Somebody waits for it already: a waiter, or its own descriptor. Take it back with `unwatch`, or wait
    /// on the descriptor.
    #[error(
        "this end is waited for by a descriptor or a waiter already; call `unwatch`, or wait on that descriptor"
    )]
    Watched,
    /// There is no doorbell left in this node.
    #[error(transparent)]
    Memory(#[from] CreateError),
    /// The system has no descriptor, thread or memory for it.
    #[error(
        "the system refused what waiting takes ({0}); close descriptors, or raise the limits (ulimit -n, -u)"
    )]
    System(#[from] std::io::Error),
}

/// A descriptor, and who makes it readable.
pub(crate) enum Descriptor {
    /// The kernel.
    Kernel(Box<Pollable>),
    /// The node's herald.
    Told {
        /// The descriptor.
        event: Arc<Event>,
        /// What the herald knows of it.
        ward: WardHandle,
    },
}

impl Descriptor {
    pub(crate) fn told(herald: &Arc<Wards>, seats: Option<&Seats<Mapped>>) -> std::io::Result<Descriptor> {
        let event = Arc::new(Event::new()?);
        event.raise();
        let ward = herald.add(seats.map(|seats| Arc::clone(seats.memory())), Some(Arc::clone(&event)));
        Ok(Descriptor::Told { event, ward })
    }

    /// Whether it is not readable, and will be.
    pub(crate) fn is_armed(&self) -> bool {
        match self {
            Descriptor::Kernel(pollable) => pollable.is_armed(),
            Descriptor::Told { ward, .. } => ward.is_armed(),
        }
    }

    /// Makes it unreadable; [`Descriptor::trip`] or a wait comes next.
    pub(crate) fn clear(&mut self) {
        match self {
            Descriptor::Kernel(pollable) => pollable.clear(),
            Descriptor::Told { ward, .. } => ward.clear(),
        }
    }

    /// Makes it readable.
    pub(crate) fn trip(&mut self) {
        match self {
            Descriptor::Kernel(pollable) => pollable.trip(),
            Descriptor::Told { event, ward } => {
                ward.trip();
                event.raise();
            }
        }
    }

    /// Waits at a place that is not the herald's.
    pub(crate) fn wait_at(&mut self, armed: &Armed<'_>, ears: impl FnOnce() -> Vec<Ear>) {
        match self {
            Descriptor::Kernel(pollable) => pollable.wait(armed),
            Descriptor::Told { ward, .. } => ward.settle(ears(), armed.bound),
        }
    }

    /// Clears and arms it for an end. False: there is something new, and it is readable.
    fn arm<'a>(
        &mut self,
        seats: &'a Seats<Mapped>,
        readers: impl Iterator<Item = &'a Reader<Mapped>> + Clone,
        news: impl FnOnce() -> bool,
    ) -> bool {
        self.clear();
        let is_armed = match self {
            Descriptor::Kernel(pollable) => {
                seats.arm(readers, news).map(|armed| pollable.wait(&armed)).is_some()
            }
            Descriptor::Told { ward, .. } => arm_ward(ward, seats, readers, news),
        };
        if !is_armed {
            self.trip();
        }
        is_armed
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Kernel(pollable) => pollable.as_fd(),
            Descriptor::Told { event, .. } => event.as_fd(),
        }
    }
}

/// False: there is something new.
fn arm_ward<'a>(
    ward: &WardHandle,
    seats: &Seats<Mapped>,
    readers: impl Iterator<Item = &'a Reader<Mapped>> + Clone,
    news: impl FnOnce() -> bool,
) -> bool {
    let mut heard = Vec::new();
    let armed: Result<Option<Duration>, _> = seats.arm_at(ward.place, readers, &mut heard, news);
    armed.map(|bound| ward.settle(heard.into_iter().map(Ear::Stranger).collect(), bound)).is_ok()
}

/// Who waits for an end.
pub(crate) enum Watch {
    /// A poller of its descriptor.
    Descriptor(Descriptor),
    /// A waiter, at a place for many.
    Ward(WardHandle),
}

impl Watch {
    /// Whether it is told of what comes next, and of nothing before.
    pub(crate) fn is_armed(&self) -> bool {
        match self {
            Watch::Descriptor(descriptor) => descriptor.is_armed(),
            Watch::Ward(ward) => ward.is_armed(),
        }
    }

    /// The end was read to its end: from now on the next thing is told. False: there is something new, and
    /// that is told already.
    pub(crate) fn arm<'a>(
        &mut self,
        seats: &'a Seats<Mapped>,
        readers: impl Iterator<Item = &'a Reader<Mapped>> + Clone,
        news: impl FnOnce() -> bool,
    ) -> bool {
        match self {
            Watch::Descriptor(descriptor) => descriptor.arm(seats, readers, news),
            Watch::Ward(ward) => {
                ward.clear();
                let is_armed = arm_ward(ward, seats, readers, news);
                if !is_armed {
                    ward.trip();
                }
                is_armed
            }
        }
    }

    /// The end may have something, or is about to be waited for in another way: it is to be looked at.
    pub(crate) fn trip(&mut self) {
        match self {
            Watch::Descriptor(descriptor) => descriptor.trip(),
            Watch::Ward(ward) => ward.trip(),
        }
    }
}
