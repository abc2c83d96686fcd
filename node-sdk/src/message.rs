//! What can be a message: every type with `#[message]`, and `[u8]`.

use crate::error::SendError;
use crate::publisher::{Outlet, refuse};
use hivemind_core::schema::Describe;
use hivemind_ring::archive::{
    self, Archiver, CheckedLine, Checker, InvalidArchive, Measurer, Message as Arrived, Refused, Unarchiver,
    View, archive_into,
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
    /// What the check of a line leaves, before it becomes `Held`.
    #[doc(hidden)]
    type Checked;
    #[doc(hidden)]
    fn check_line(line: Line) -> Option<Self::Checked>;
    #[doc(hidden)]
    fn hold(checked: Self::Checked) -> Self::Held;
    #[doc(hidden)]
    fn read(held: &Self::Held) -> &Self::Read;
    #[doc(hidden)]
    fn own(held: &Self::Held) -> Result<Self::Owned, Refused>;
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
    T: Describe
        + Archive
        + for<'b, 's> Serialize<Archiver<'b, 's>>
        + for<'s> Serialize<Measurer<'s>>
        + 'static,
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
            if let Some(length) = archive_into(self, buffer.bytes_mut(), &mut outlet.scratch) {
                return Ok(outlet.writer.send_inline(buffer.words(), length));
            }
        }
        send_in_chunk(self, size_of::<T::Archived>(), outlet)
    }

    #[inline]
    fn check(arrived: Arrived) -> Result<Self::Held, InvalidArchive> {
        View::check(arrived)
    }

    type Checked = CheckedLine<T::Archived>;

    #[inline(always)]
    fn check_line(line: Line) -> Option<Self::Checked> {
        CheckedLine::new(line)
    }

    #[inline(always)]
    fn hold(checked: Self::Checked) -> Self::Held {
        checked.into()
    }

    #[inline]
    fn read(held: &Self::Held) -> &Self::Read {
        held
    }

    fn own(held: &Self::Held) -> Result<T, Refused> {
        held.deserialize()
    }

    #[inline]
    fn sequence(held: &Self::Held) -> u64 {
        held.message().sequence()
    }
}

/// Archives straight into a chunk of the size that messages of this publisher had of late, and gives the rest back.
fn send_in_chunk<T>(value: &T, least: usize, outlet: &mut Outlet) -> Result<usize, SendError>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>> + for<'s> Serialize<Measurer<'s>>,
{
    let limit = usize::try_from(outlet.writer.message_max()).unwrap_or(usize::MAX);
    let room = outlet.expected.max(least).max(INLINE_BYTES + 1).min(limit);
    if let Ok(mut loan) = archive::Loan::take(&mut outlet.writer, room)
        && let Some(length) = archive_into(value, &mut loan, &mut outlet.scratch)
    {
        // Expect a little more than the last, and forget an exceptional one slowly.
        let likely = length + length / 8;
        outlet.expected = if likely >= outlet.expected { likely } else { (outlet.expected * 7 + likely) / 8 };
        return Ok(loan.send_prefix(length));
    }
    send_measured(value, limit, outlet)
}

/// The way of a message that is longer than those before it, or shorter when there was no memory for one like those: it is
/// archived twice, first to learn its length.
#[cold]
fn send_measured<T>(value: &T, limit: usize, outlet: &mut Outlet) -> Result<usize, SendError>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>> + for<'s> Serialize<Measurer<'s>>,
{
    let service = &outlet.service;
    let refused = |Refused| SendError::Refused { service: service.clone() };
    let needed = archive::measure(value, &mut outlet.scratch).map_err(refused)?;
    if needed > limit {
        let service = service.clone();
        return Err(SendError::TooLarge { service, bytes: needed as u64, limit: limit as u64 });
    }
    let mut loan = archive::Loan::take(&mut outlet.writer, needed).map_err(|error| refuse(service, error))?;
    let Some(length) = archive_into(value, &mut loan, &mut outlet.scratch) else {
        // It was archived once, and not again.
        drop(loan);
        return Err(refused(Refused));
    };
    outlet.expected = length + length / 8;
    Ok(loan.send_prefix(length))
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

    type Checked = Line;

    #[inline(always)]
    fn check_line(line: Line) -> Option<Line> {
        Some(line)
    }

    #[inline(always)]
    fn hold(line: Line) -> Self::Held {
        line.into()
    }

    #[inline]
    fn read(held: &Self::Held) -> &[u8] {
        held.bytes()
    }

    fn own(held: &Self::Held) -> Result<Vec<u8>, Refused> {
        Ok(held.bytes().to_vec())
    }

    #[inline]
    fn sequence(held: &Self::Held) -> u64 {
        held.sequence()
    }
}
