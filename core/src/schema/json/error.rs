//! Why a message has no JSON, and where in it.

/// A path in an error is cut at this length, in bytes.
pub(super) const MAX_PATH_BYTES: usize = 400;

/// Why a message has no JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are no archive of this type: damaged, or of another type. Check that publisher and schema
    /// belong together.
    #[error(
        "{path}: {corruption} at byte {at}; the message is damaged or of another type than its schema says"
    )]
    Corrupt {
        /// Where in the message: `Pose.frame`.
        path: String,
        /// The offset in the archive, in bytes.
        at: u64,
        /// What is wrong there.
        corruption: Corruption,
    },
    /// Values are nested deeper than the bound. Read this message with its Rust type.
    #[error("{path}: nested more than {limit} deep; read this message with its Rust type")]
    TooDeep {
        /// Where in the message.
        path: String,
        /// [`JsonBounds::depth`](super::JsonBounds::depth).
        limit: u32,
    },
    /// The text would be longer than the bound. Allow more with
    /// [`Schema::to_json_within`](crate::schema::Schema::to_json_within), or read this message with its
    /// Rust type.
    #[error("the message is longer than {limit} bytes as JSON; read it with its Rust type")]
    TooLong {
        /// [`JsonBounds::bytes`](super::JsonBounds::bytes).
        limit: usize,
    },
    /// Reading took more steps than the bound. Allow more with
    /// [`Schema::to_json_within`](crate::schema::Schema::to_json_within), or read this message with its
    /// Rust type.
    #[error("the message takes more than {limit} steps to read; read it with its Rust type")]
    TooManySteps {
        /// [`JsonBounds::steps`](super::JsonBounds::steps).
        limit: u64,
    },
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// Something begins before the first byte or ends behind the last one.
    #[error("{needed} bytes do not fit in a message of {length}")]
    OutOfBounds {
        /// How many bytes were to be read.
        needed: u64,
        /// How many the archive has.
        length: u64,
    },
    /// A pointer leads before the first byte or behind the last one.
    #[error("a pointer leads {offset} bytes away, out of the message")]
    Pointer {
        /// The offset it holds.
        offset: i32,
    },
    /// An enum, option or bool begins with a byte that stands for nothing.
    #[error("{found} is none of the variants")]
    Tag {
        /// The byte.
        found: u8,
    },
    /// A char holds a number that is none.
    #[error("{found:#x} is no char")]
    Char {
        /// The number.
        found: u32,
    },
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A string of at most 8 bytes is stored as a longer one.
    #[error("a string is stored in the wrong form")]
    StringForm,
    /// The length or capacity of a map disagrees with its contents.
    #[error("a map does not have the length it claims")]
    MapLength,
    /// A map is stored as a tree that is too high or has a node of no known kind.
    #[error("the tree of a map is damaged")]
    Tree,
}

pub(super) fn corrupt(at: u64, corruption: Corruption) -> Box<DecodeError> {
    Box::new(DecodeError::Corrupt { path: String::new(), at, corruption })
}

impl DecodeError {
    /// Puts one more step in front of the path, on the way out.
    pub(super) fn within(mut self: Box<Self>, step: &str) -> Box<Self> {
        if let DecodeError::Corrupt { path, .. } | DecodeError::TooDeep { path, .. } = &mut *self {
            if path.len() < MAX_PATH_BYTES {
                path.insert_str(0, step);
            } else if !path.starts_with('…') {
                path.insert(0, '…');
            }
        }
        self
    }
}
