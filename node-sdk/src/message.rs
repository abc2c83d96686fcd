//! What can be a message: every type with `#[message]`, and `[u8]`.

use crate::error::SendError;
use crate::publisher::{Outlet, refuse};
use hivemind_core::schema::Describe;
use hivemind_ring::archive::{
    self, ArchiveError, Archiver, Checker, InvalidArchive, Message as Arrived, Unarchiver, View, archive_into,
};
use hivemind_ring::layout::INLINE_BYTES;
use hivemind_ring::line::Line;
use rkyv::bytecheck::CheckBytes;
use rkyv::{Archive, Deserialize, Portable, Serialize};

/// What can be published and subscribed to. Put [`crate::message`] on a type; do not implement this by hand.
///
/// It is implemented for every type that has a schema and an rkyv archive (so for `u64`, `String` or `Vec<f32>` too), and for `[u8]`,
/// whose bytes travel as they are.
pub trait Message: Describe + sealed::Sealed + 'static {
    /// What a sample dereferences to: the archived type, or `[u8]`.
    type Read: ?Sized;
    /// What `to_owned` makes of a sample.
    type Owned;
    #[doc(hidden)]
    type Held: Send + std::fmt::Debug;
    #[doc(hidden)]
    fn send(&self, outlet: &mut Outlet) -> Result<usize, SendError>;
    #[doc(hidden)]
    fn check(arrived: Arrived) -> Result<Self::Held, InvalidArchive>;
    #[doc(hidden)]
    fn check_line(line: Line) -> Result<Self::Held, InvalidArchive>;
    #[doc(hidden)]
    fn read(held: &Self::Held) -> &Self::Read;
    #[doc(hidden)]
    fn own(held: &Self::Held) -> Result<Self::Owned, ArchiveError>;
    #[doc(hidden)]
    fn sequence(held: &Self::Held) -> u64;
}

mod sealed {
    /// Keeps [`super::Message`] from being implemented elsewhere.
    pub trait Sealed {}
    impl<T: rkyv::Archive> Sealed for T {}
    impl Sealed for [u8] {}
}

impl<T> Message for T
where
    T: Describe + Archive + for<'b, 's> Serialize<Archiver<'b, 's>> + 'static,
    T::Archived: Portable + for<'b> CheckBytes<Checker<'b>> + Deserialize<T, Unarchiver>,
    T::Archived: std::fmt::Debug + Send + Sync + 'static,
{
    type Read = T::Archived;
    type Owned = T;
    type Held = View<T::Archived>;

    #[inline]
    fn send(&self, outlet: &mut Outlet) -> Result<usize, SendError> {
        // A type whose archive has a part of its own outside may still be short: it goes into the slot when its last
        // message did, or would have.
        if size_of::<T::Archived>() <= INLINE_BYTES && outlet.expected <= INLINE_BYTES {
            let mut buffer = Line::default();
            match archive_into(self, buffer.bytes_mut(), &mut outlet.scratch) {
                Ok(length) => return Ok(outlet.writer.send_inline(buffer.words(), length)),
                Err(ArchiveError::Full { .. }) => {}
                Err(_) => return Err(SendError::Refused { service: outlet.service.clone() }),
            }
        }
        send_in_chunk(self, size_of::<T::Archived>(), outlet)
    }

    #[inline]
    fn check(arrived: Arrived) -> Result<Self::Held, InvalidArchive> {
        View::check(arrived)
    }

    #[inline]
    fn check_line(line: Line) -> Result<Self::Held, InvalidArchive> {
        View::check_line(line)
    }

    #[inline]
    fn read(held: &Self::Held) -> &Self::Read {
        held
    }

    fn own(held: &Self::Held) -> Result<T, ArchiveError> {
        held.deserialize()
    }

    #[inline]
    fn sequence(held: &Self::Held) -> u64 {
        held.message().sequence()
    }
}

/// Archives straight into a chunk of the size that messages of this publisher had of late, and gives the rest back. If that is
/// too small it tries again with twice the size, up to the publisher's largest message; if there is no memory for so much, with
/// half of it, as this message may be much shorter than those before.
fn send_in_chunk<T>(value: &T, least: usize, outlet: &mut Outlet) -> Result<usize, SendError>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>>,
{
    let limit = usize::try_from(outlet.writer.message_max()).unwrap_or(usize::MAX);
    let least = least.max(INLINE_BYTES + 1).min(limit);
    let mut room = outlet.expected.max(least).min(limit);
    // The least room for which there was no memory, and what was said then.
    let mut refused = None;
    let mut is_too_small = false;
    // Bounded: the room is halved down to the least, then doubled up to the limit of at most 256 MiB: 22 rounds each.
    loop {
        let mut loan = match archive::Loan::take(&mut outlet.writer, room) {
            Ok(loan) => loan,
            Err(error) if room == least || is_too_small => return Err(refuse(&outlet.service, error)),
            Err(error) => {
                refused = Some((room, error));
                room = (room / 2).max(least);
                continue;
            }
        };
        match archive_into(value, &mut loan, &mut outlet.scratch) {
            Ok(length) => {
                // Expect a little more than the last, and forget an exceptional one slowly.
                let likely = length + length / 8;
                outlet.expected =
                    if likely >= outlet.expected { likely } else { (outlet.expected * 7 + likely) / 8 };
                return Ok(loan.send_prefix(length));
            }
            Err(ArchiveError::Full { needed }) if room < limit => {
                is_too_small = true;
                room = (room * 2).max(needed).min(limit);
                if let Some((_, error)) = refused.take_if(|(refused, _)| room >= *refused) {
                    drop(loan);
                    return Err(refuse(&outlet.service, error));
                }
            }
            Err(ArchiveError::Full { needed }) => {
                drop(loan);
                let service = outlet.service.clone();
                return Err(SendError::TooLarge { service, bytes: needed as u64, limit: limit as u64 });
            }
            Err(_) => {
                drop(loan);
                return Err(SendError::Refused { service: outlet.service.clone() });
            }
        }
    }
}

impl Message for [u8] {
    type Read = [u8];
    type Owned = Vec<u8>;
    type Held = Arrived;

    fn send(&self, outlet: &mut Outlet) -> Result<usize, SendError> {
        if self.len() <= INLINE_BYTES {
            let mut buffer = Line::default();
            buffer.bytes_mut()[..self.len()].copy_from_slice(self);
            return Ok(outlet.writer.send_inline(buffer.words(), self.len()));
        }
        match archive::Loan::take(&mut outlet.writer, self.len()) {
            Ok(mut loan) => {
                loan.copy_from_slice(self);
                Ok(loan.send())
            }
            Err(error) => Err(refuse(&outlet.service, error)),
        }
    }

    fn check(arrived: Arrived) -> Result<Self::Held, InvalidArchive> {
        Ok(arrived)
    }

    #[inline]
    fn check_line(line: Line) -> Result<Self::Held, InvalidArchive> {
        Ok(line.into())
    }

    #[inline]
    fn read(held: &Self::Held) -> &[u8] {
        held.bytes()
    }

    fn own(held: &Self::Held) -> Result<Vec<u8>, ArchiveError> {
        Ok(held.bytes().to_vec())
    }

    #[inline]
    fn sequence(held: &Self::Held) -> u64 {
        held.sequence()
    }
}
