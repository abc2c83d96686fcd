//! Why an end was not made, a message not sent, or not received; each error says what to do next.

use hivemind_core::filter::FilterError;
use hivemind_core::name::{NameError, ServiceName};
use hivemind_core::protocol::EndId;
use hivemind_ring::fork::Forked;
use hivemind_ring::mapped::CreateError;
use std::time::Duration;

use crate::rounded::rounded;
use crate::session::AnnounceError;

/// Why a publisher was not created. Example: `hivemind::PublisherBuilder::create`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublisherError {
    /// The name of the service does not parse; the source says where.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The type is too large or too nested to be described to others. Split it, or put its bulk behind a
    /// `Vec`.
    #[error("{type_name} cannot be a message: {source}; split it, or put its bulk behind a `Vec`")]
    Type {
        /// The Rust type.
        type_name: &'static str,
        /// Which bound it breaks.
        source: hivemind_core::schema::SchemaError,
    },
    /// Another node publishes the service with another type, no root answered in time, or a bound was
    /// reached; see the source.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// There is no memory or no descriptor for the ring, or it was asked to be too large; see the source.
    #[error(transparent)]
    Memory(#[from] CreateError),
    /// It belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// A ring holds at least one message. Ask for a `capacity` of 1 to 1,048,576.
    #[error("capacity(0) holds no message; ask for 1 to 1,048,576")]
    NoCapacity,
    /// Past messages are kept in the ring, beside the one that is written. Ask for fewer, or for a larger
    /// `capacity`.
    #[error(
        "{option}({asked}) is too many for a ring of {capacity} messages; ask for less than that, or raise `capacity`"
    )]
    Past {
        /// `history` or `retain`.
        option: &'static str,
        /// Messages that were asked for.
        asked: u64,
        /// Messages that the ring holds.
        capacity: u64,
    },
    /// The thread of a service could not be started. Raise the limit of threads.
    #[error("no thread for the service: {0}; raise the limit of threads")]
    Thread(std::io::Error),
}

/// Why a subscriber was not created. Example: `hivemind::SubscriberBuilder::create`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberError {
    /// The filter does not parse; the source says where.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The type is too large or too nested to be described to others. Split it, or put its bulk behind a
    /// `Vec`.
    #[error("{type_name} cannot be a message: {source}; split it, or put its bulk behind a `Vec`")]
    Type {
        /// The Rust type.
        type_name: &'static str,
        /// Which bound it breaks.
        source: hivemind_core::schema::SchemaError,
    },
    /// No root answered in time, the policy does not allow it, or a bound was reached; see the source.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// There is no memory or no descriptor for the reader segment; see the source.
    #[error(transparent)]
    Memory(#[from] CreateError),
    /// It belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The thread of a handler could not be started. Raise the limit of threads.
    #[error("no thread for the handler: {0}; raise the limit of threads")]
    Thread(std::io::Error),
}

/// Why a message was not sent, or no memory was lent for one. Example: `hivemind::Publisher::send`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A subscriber of this reliable service is `capacity` messages behind. Nothing was sent: try again
    /// later, or use `send_timeout`, or create the publisher with more `capacity`.
    #[error(
        "a subscriber of {service} is {capacity} messages behind; wait with `send_timeout`, or raise `capacity`"
    )]
    Full {
        /// The service.
        service: ServiceName,
        /// Messages that the ring holds.
        capacity: u64,
    },
    /// The message is larger than this publisher allows. Create it with a larger `max_message`.
    #[error(
        "a message of {bytes} bytes or more is larger than the {limit} that {service} allows; raise `max_message`"
    )]
    TooLarge {
        /// The service.
        service: ServiceName,
        /// Bytes that the message needs at least.
        bytes: u64,
        /// Bytes that it may have.
        limit: u64,
    },
    /// All memory of this publisher is in messages that subscribers hold, or have yet to read. Wait until
    /// they let go, or create the publisher with more `max_memory`.
    #[error(
        "no room for {bytes} bytes in the {limit} of {service}: subscribers hold the rest, or have yet to read it; \
         wait until they let go, or raise `max_memory`"
    )]
    MemoryOut {
        /// The service.
        service: ServiceName,
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes that this publisher may use.
        limit: u64,
    },
    /// The operating system refused more memory. Free some, or raise the limit of this container.
    #[error(
        "the system has no {bytes} bytes for {service}: {reason}; free memory, or raise this container's limit"
    )]
    SystemMemoryOut {
        /// The service.
        service: ServiceName,
        /// Bytes that were asked for.
        bytes: u64,
        /// What the system said.
        reason: String,
    },
    /// The publisher has sent 2^55 messages, all that it can number. Create it anew.
    #[error("the publisher of {service} has sent 2^55 messages, all that it can number; create it anew")]
    SequencesOut {
        /// The service.
        service: ServiceName,
    },
    /// It belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The type refused to be archived. Look at its own implementation of `rkyv::Serialize`.
    #[error("the message for {service} refused to be archived; look at its `rkyv::Serialize`")]
    Refused {
        /// The service.
        service: ServiceName,
    },
}

/// Why no memory was lent for a message: the same reasons for which a message is not sent. Example:
/// `hivemind::Publisher::loan`.
pub type LoanError = SendError;

/// Why no message was received. The subscriber stays usable. Example: `hivemind::Subscriber::try_recv`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// As many samples of one publisher are held as can be. Nothing was lost: drop some (or turn them into
    /// owned values), then receive on.
    #[error(
        "{limit} samples of {service} are held, all that can be; drop some, or keep copies made with `to_owned`"
    )]
    HeldOut {
        /// The service.
        service: ServiceName,
        /// Samples of one publisher that can be held at a time.
        limit: usize,
    },
    /// This subscriber gets no messages of a publisher that it matches: one of the two is out of descriptors
    /// or memory, or one sent the other what is no such memory. It goes on with the others. Put right what is
    /// named, then subscribe anew.
    #[error(
        "not attached to publisher {publisher} of {service}: {reason}; put that right, then subscribe anew"
    )]
    NotAttached {
        /// The service.
        service: ServiceName,
        /// The publisher.
        publisher: EndId,
        /// What is wrong.
        reason: String,
    },
    /// It belongs to another process, from which this one was forked. Join after the fork.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// There was no memory for the copy of a message of a publisher that is not trusted. The message counts
    /// as lost. Free memory, raise the limit of this process, or (if the publisher is to be trusted)
    /// subscribe with [`Trust::Everybody`](super::Trust::Everybody).
    #[error(
        "message {sequence} of {service} is lost: there is no memory for a copy of its {bytes} bytes; \
         free some, or raise the limit"
    )]
    NotCopied {
        /// The service.
        service: ServiceName,
        /// Number of the message.
        sequence: u64,
        /// Its length.
        bytes: usize,
    },
    /// A publisher's memory or message is not what it must be. This subscriber has detached from it and goes
    /// on with the others; look at that publisher.
    #[error("detached from publisher {publisher} of {service}: {reason}; look at that publisher")]
    Detached {
        /// The service.
        service: ServiceName,
        /// The publisher.
        publisher: EndId,
        /// What is wrong.
        reason: String,
    },
}

/// Time ran out before enough peers were attached, or this process was forked and cannot wait for any.
/// Examples: `hivemind::Publisher::wait_for_subscribers`, `hivemind::Subscriber::skipped`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{}", self.text())]
pub struct WaitError {
    /// `publishers` or `subscribers`.
    pub what: &'static str,
    /// Service or filter.
    pub of: String,
    /// How many are attached.
    pub found: usize,
    /// How many were waited for.
    pub wanted: usize,
    /// For how long.
    pub waited: Duration,
    /// An end that is there and does not fit, with types, node and field: `sensors/pose carries Pose in node
    /// camera, not Pose (Pose.frame is missing here)`. `None`: none is known.
    pub mismatch: Option<String>,
    /// The end belongs to another process, from which this one was forked: nobody attaches here. Join after
    /// the fork.
    pub forked: Option<Forked>,
}

impl WaitError {
    fn text(&self) -> String {
        let WaitError { what, of, found, wanted, waited, mismatch, forked } = self;
        if let Some(forked) = forked {
            return forked.to_string();
        }
        let remedy = match mismatch {
            Some(mismatch) => format!(": {mismatch}; build both with the same type, or use another name"),
            None => "; start them, or look at `hm ls` for who is there".to_owned(),
        };
        format!("{found} of {wanted} {what} of `{of}` attached within {}{remedy}", rounded(*waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Measured times were printed with nine digits once.
    #[test]
    fn a_wait_in_vain_says_how_long_it_took_as_a_person_would() {
        let error = WaitError {
            what: "publishers",
            of: "sensors/*".to_owned(),
            found: 0,
            wanted: 1,
            waited: Duration::from_nanos(5_000_098_979),
            mismatch: None,
            forked: None,
        };
        let text = error.to_string();
        assert!(text.starts_with("0 of 1 publishers of `sensors/*` attached within 5 s; "), "{text}");
    }
}
