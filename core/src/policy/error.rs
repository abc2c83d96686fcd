//! Why a text is no policy.
use super::{MAX_LINE_BYTES, MAX_POLICY_BYTES, MAX_RULES};
use crate::filter::FilterError;

/// A text that is no policy: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct PolicyError {
    /// The line, from 1.
    pub line: usize,
    /// The character of the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: PolicyProblem,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyProblem {
    /// More than [`MAX_POLICY_BYTES`]. Use groups and patterns to say it in fewer lines.
    #[error("the file is longer than {MAX_POLICY_BYTES} bytes; say it with groups and patterns")]
    FileTooLong,
    /// More than [`MAX_LINE_BYTES`]. Split it.
    #[error("the line is longer than {MAX_LINE_BYTES} bytes; shorten it")]
    LineTooLong,
    /// More than [`MAX_RULES`] lines. Use groups and patterns to say it in fewer.
    #[error("more than {MAX_RULES} lines allow something; say it with groups and patterns")]
    TooManyRules,
    /// Not UTF-8. Save the file as UTF-8.
    #[error("this is no UTF-8; save the file as UTF-8")]
    NotText,
    /// A line that begins with another word. Write a line such as `allow user:alice publish sensors/*`.
    #[error("{found:?} begins no line; write one such as 'allow user:alice publish sensors/*'")]
    NotAllow {
        /// What stands there.
        found: String,
    },
    /// The line ends where more is expected. Add it.
    #[error("the line ends where {expected} is expected; add it")]
    Missing {
        /// What.
        expected: &'static str,
    },
    /// Nobody is meant by this. Write `user:NAME`, `group:NAME`, `host:NAME` or `anyone`.
    #[error("{found:?} means nobody; write 'user:NAME', 'group:NAME', 'host:NAME' or 'anyone'")]
    NotWho {
        /// What stands there.
        found: String,
    },
    /// There is no such user here. Correct the name, or write the number that `id -u` shows.
    #[error(
        "{kind} {name:?} does not stand in {book}; correct the name, or write its number (id {option} NAME)"
    )]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        book: &'static str,
        /// The option of `id` that shows the number.
        option: &'static str,
    },
    /// A number that no user or group can have, or that stands for all whom the kernel cannot name. Write
    /// another one.
    #[error(
        "{number} is the number of no certain user or group; write another one, or 'anyone' if you mean everybody"
    )]
    NotAnId {
        /// The number.
        number: String,
    },
    /// Not a right. Write `join`, `publish FILTER` or `subscribe FILTER`.
    #[error("{found:?} is no right; write 'join', 'publish FILTER' or 'subscribe FILTER'")]
    NotARight {
        /// What stands there.
        found: String,
    },
    /// The filter does not parse; it says why.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The line goes on where it should end. Begin a new line, or a comment with `#`.
    #[error("{found:?} is too much; begin a new line, or a comment with '#'")]
    Surplus {
        /// What stands there.
        found: String,
    },
}
