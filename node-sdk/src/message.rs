//! What can be a message: every type with `#[message]`, and `[u8]`.

use hivemind_core::schema::Describe;
use hivemind_ring::archive::{
    self, Archiver, CheckedLine, Checker, InvalidArchive, Measurer, Message as Arrived, Refused, Unarchiver,
    View, archive_into,
};
use hivemind_ring::layout::INLINE_BYTES;
use hivemind_ring::line::Line;
use hivemind_runtime::ports::{Outlet, SendError};
use rkyv::bytecheck::CheckBytes;
use rkyv::ser::allocator::Arena;
use rkyv::{Archive, Deserialize, Portable, Serialize};

/// What can be published and subscribed to. Put [`crate::message`] on a type; this trait cannot be
/// implemented by hand.
///
/// It is implemented for every type that has a schema and an rkyv archive (so for `u64`, `String` or
/// `Vec<f32>` too), and for `[u8]`, whose bytes travel as they are. A type of machine size (`usize`) or with
/// borrowed parts (`&str`) is no message: write `u64` or `String`.
///
/// ```
/// use hivemind::{Message, message};
///
/// #[message]
/// struct Pose { x: f64, frame: String }
///
/// fn is_message<T: Message + ?Sized>() {}
/// is_message::<Pose>();
/// is_message::<Vec<Pose>>();
/// is_message::<[u8]>();
/// ```
pub trait Message: Describe + sealed::Sealed + 'static {
    /// What a sample dereferences to: the archived type, or `[u8]`.
    type Read: ?Sized;
    /// What `to_owned` makes of a sample.
    type Owned;
    #[doc(hidden)]
    type Held: Send + std::fmt::Debug;
    #[doc(hidden)]
    fn send(&self, sender: &mut Sender) -> Result<usize, SendError>;
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

/// What a message needs in order to be sent: a port, and what its codec keeps from one message to the next.
#[doc(hidden)]
pub struct Sender {
    pub(crate) outlet: Outlet,
    /// Grows with the first message that needs it: few types do, and 2 KiB are a tenth of an idle publisher.
    scratch: Arena,
    /// Bytes that the next message will probably need.
    expected: usize,
}

impl Sender {
    pub(crate) fn new(outlet: Outlet) -> Sender {
        Sender { outlet, scratch: Arena::with_capacity(0), expected: 0 }
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("outlet", &self.outlet).finish_non_exhaustive()
    }
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
    fn send(&self, sender: &mut Sender) -> Result<usize, SendError> {
        // A type whose archive has a part of its own outside may still be short: it goes into the slot when
        // its last message did, or would have.
        if size_of::<T::Archived>() <= INLINE_BYTES && sender.expected <= INLINE_BYTES {
            let mut buffer = Line::default();
            if let Some(length) = archive_into(self, buffer.bytes_mut(), &mut sender.scratch) {
                return Ok(sender.outlet.writer().send_inline(buffer.words(), length));
            }
        }
        send_in_chunk(self, size_of::<T::Archived>(), sender)
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

/// Archives straight into a chunk of the size that messages of this publisher had of late, and gives the rest
/// back.
fn send_in_chunk<T>(value: &T, least: usize, sender: &mut Sender) -> Result<usize, SendError>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>> + for<'s> Serialize<Measurer<'s>>,
{
    let limit = usize::try_from(sender.outlet.writer().message_max()).unwrap_or(usize::MAX);
    let room = sender.expected.max(least).max(INLINE_BYTES + 1).min(limit);
    if let Ok(mut loan) = archive::Loan::take(sender.outlet.writer(), room)
        && let Some(length) = archive_into(value, &mut loan, &mut sender.scratch)
    {
        // Expect a little more than the last, and forget an exceptional one slowly.
        let likely = length + length / 8;
        sender.expected = if likely >= sender.expected { likely } else { (sender.expected * 7 + likely) / 8 };
        return Ok(loan.send_prefix(length));
    }
    send_measured(value, limit, sender)
}

/// The path of a message that is longer than those before it, or shorter when there was no memory for one
/// like those: it is archived twice, first to learn its length.
#[cold]
fn send_measured<T>(value: &T, limit: usize, sender: &mut Sender) -> Result<usize, SendError>
where
    T: for<'b, 's> Serialize<Archiver<'b, 's>> + for<'s> Serialize<Measurer<'s>>,
{
    let Sender { outlet, scratch, expected } = sender;
    let service = outlet.service().clone();
    let Ok(needed) = archive::measure(value, scratch) else { return Err(SendError::Refused { service }) };
    if needed > limit {
        return Err(SendError::TooLarge { service, bytes: needed as u64, limit: limit as u64 });
    }
    let mut loan = outlet.loan(needed)?;
    let Some(length) = archive_into(value, &mut loan, scratch) else {
        // It was archived once, and not again.
        drop(loan);
        return Err(SendError::Refused { service });
    };
    *expected = length + length / 8;
    Ok(loan.send_prefix(length))
}

impl Message for [u8] {
    type Read = [u8];
    type Owned = Vec<u8>;
    type Held = Arrived;

    fn send(&self, sender: &mut Sender) -> Result<usize, SendError> {
        sender.outlet.send_admitted(self)
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
