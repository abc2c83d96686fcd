//! Names: of hives, nodes and services.
//!
//! A name is checked once, when it enters the program, and is then cheap to clone. What a refusal says is
//! meant for the person who typed it: which byte, which rule.
//!
//! | name    | levels, split by `/` | bytes    | each level                  |
//! | ------- | -------------------- | -------- | --------------------------- |
//! | service | any number           | 1 to 200 | 1 or more of `A-Za-z0-9._-` |
//! | node    | one                  | 1 to 64  | the same                    |
//! | group   | one                  | 1 to 64  | the same                    |
//! | hive    | one                  | 1 to 64  | the same, not `.` or `..`   |
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::text::archive_as_text;

/// The longest service name or filter, in bytes.
pub const MAX_SERVICE_NAME: usize = 200;
/// The longest name of a node or a hive, in bytes.
pub const MAX_NODE_NAME: usize = 64;

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameKind {
    /// A hive, which is also a folder of the runtime directory.
    Hive,
    /// A node.
    Node,
    /// A service.
    Service,
    /// A group of subscribers.
    Group,
    /// A filter over services.
    Filter,
}

impl fmt::Display for NameKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NameKind::Hive => "hive name",
            NameKind::Node => "node name",
            NameKind::Service => "service name",
            NameKind::Group => "group name",
            NameKind::Filter => "filter",
        })
    }
}

/// The rule that a text broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameRule {
    /// There is nothing. Give at least one character.
    Empty,
    /// More than `limit` bytes. Shorten it.
    TooLong {
        /// The most bytes allowed.
        limit: usize,
    },
    /// A character that names cannot have. Use `A-Za-z0-9._-`.
    Character(char),
    /// A `/` at the start, at the end or after another one. Remove it.
    EmptyLevel,
    /// A `/` where only one level is allowed. Remove it.
    OneLevel,
    /// `.` and `..` would leave the folder of the hive. Choose another name.
    Dots,
}

impl fmt::Display for NameRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameRule::Empty => formatter.write_str("it is empty; give at least one character"),
            NameRule::TooLong { limit } => {
                write!(formatter, "it is too long; {limit} bytes are allowed, shorten it")
            }
            NameRule::Character(character) => {
                write!(formatter, "{character:?} is not allowed; use letters, digits, '.', '_' and '-'")
            }
            NameRule::EmptyLevel => formatter.write_str("there is an empty level; remove the surplus '/'"),
            NameRule::OneLevel => formatter.write_str("'/' is not allowed here; only services have levels"),
            NameRule::Dots => formatter.write_str("'.' and '..' mean other folders; choose another name"),
        }
    }
}

/// A text that is no name. The remedy stands in the rule; `position` says where to look.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}: at byte {position}: {rule}")]
pub struct NameError {
    /// What the text was meant to name.
    pub kind: NameKind,
    /// The refused text, shortened to what a name could hold.
    pub text: String,
    /// The byte where the rule was broken, from 0.
    pub position: usize,
    /// The rule.
    pub rule: NameRule,
}

impl NameError {
    pub(crate) fn new(kind: NameKind, text: &str, position: usize, rule: NameRule) -> NameError {
        let mut end = text.len().min(MAX_SERVICE_NAME);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        NameError { kind, text: text[..end].to_owned(), position, rule }
    }
}

/// True for what a level of a name consists of.
pub(crate) fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

fn check(kind: NameKind, text: &str, limit: usize) -> Result<(), NameError> {
    let refuse = |position, rule| Err(NameError::new(kind, text, position, rule));
    if text.is_empty() {
        return refuse(0, NameRule::Empty);
    }
    if text.len() > limit {
        return refuse(limit, NameRule::TooLong { limit });
    }
    let mut level_length = 0;
    for (position, character) in text.char_indices() {
        match character {
            '/' if kind != NameKind::Service => return refuse(position, NameRule::OneLevel),
            '/' if level_length == 0 => return refuse(position, NameRule::EmptyLevel),
            '/' => level_length = 0,
            other if is_name_character(other) => level_length += 1,
            other => return refuse(position, NameRule::Character(other)),
        }
    }
    if level_length == 0 {
        return refuse(text.len() - 1, NameRule::EmptyLevel);
    }
    if kind == NameKind::Hive && matches!(text, "." | "..") {
        return refuse(0, NameRule::Dots);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$attribute:meta])* $name:ident, $kind:expr, $limit:expr) => {
        $(#[$attribute])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text and makes it a name.
            ///
            /// # Errors
            /// [`NameError`] with the byte and the rule.
            pub fn parse(text: &str) -> Result<$name, NameError> {
                check($kind, text, $limit)?;
                Ok($name(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, formatter)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::parse(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<$name, NameError> {
                $name::parse(text)
            }
        }
    };
}

name! {
    /// The name of a hive: one level, up to 64 bytes.
    HiveName, NameKind::Hive, MAX_NODE_NAME
}
name! {
    /// The name of a node: one level, up to 64 bytes.
    NodeName, NameKind::Node, MAX_NODE_NAME
}
name! {
    /// The name of a group of subscribers: one level, up to 64 bytes.
    GroupName, NameKind::Group, MAX_NODE_NAME
}
name! {
    /// The name of a service: levels split by `/`, up to 200 bytes.
    ///
    /// ```
    /// use hivemind_core::name::ServiceName;
    ///
    /// let name = ServiceName::parse("sensors/pose")?;
    /// assert_eq!(name.levels().count(), 2);
    ///
    /// let error = ServiceName::parse("sensors//pose").unwrap_err();
    /// assert_eq!(error.position, 8);
    /// # Ok::<(), hivemind_core::name::NameError>(())
    /// ```
    ServiceName, NameKind::Service, MAX_SERVICE_NAME
}

archive_as_text!(GroupName);
archive_as_text!(NodeName);
archive_as_text!(ServiceName);

impl ServiceName {
    /// The levels, from the left.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl Default for HiveName {
    /// The hive that is meant when none is named: `default`.
    fn default() -> HiveName {
        HiveName("default".into())
    }
}

/// The longest name of a host, in bytes.
pub const MAX_HOST_NAME: usize = 255;

/// Whether this can be the name of a host: 1 to [`MAX_HOST_NAME`] visible ASCII characters.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_HOST_NAME && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_says_where_and_which_rule() {
        let position = |text| {
            let error = ServiceName::parse(text).unwrap_err();
            (error.position, error.rule)
        };
        assert_eq!(position(""), (0, NameRule::Empty));
        assert_eq!(position("/a"), (0, NameRule::EmptyLevel));
        assert_eq!(position("a/"), (1, NameRule::EmptyLevel));
        assert_eq!(position("a//b"), (2, NameRule::EmptyLevel));
        assert_eq!(position("a b"), (1, NameRule::Character(' ')));
        assert_eq!(position("ä"), (0, NameRule::Character('ä')));
        assert_eq!(position("a/*"), (2, NameRule::Character('*')));
        assert_eq!(position(&"x".repeat(201)), (200, NameRule::TooLong { limit: 200 }));
        let text = ServiceName::parse("a b").unwrap_err().to_string();
        assert_eq!(
            text,
            "\"a b\" is no service name: at byte 1: ' ' is not allowed; use letters, digits, '.', '_' and '-'"
        );
    }

    #[test]
    fn nodes_and_hives_have_one_level() {
        assert_eq!(NodeName::parse("a/b").unwrap_err().rule, NameRule::OneLevel);
        assert_eq!(NodeName::parse(&"n".repeat(65)).unwrap_err().position, 64);
        assert!(NodeName::parse(&"n".repeat(64)).is_ok());
        assert_eq!(HiveName::parse("..").unwrap_err().rule, NameRule::Dots);
        assert!(NodeName::parse("..").is_ok());
        assert_eq!(HiveName::parse(HiveName::default().as_str()), Ok(HiveName::default()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_a_refusal_inside_the_text(text in ".{0,220}") {
            match ServiceName::parse(&text) {
                Ok(name) => prop_assert_eq!(name.as_str(), text),
                Err(error) => prop_assert!(error.position <= text.len()),
            }
        }

        #[test]
        fn whatever_follows_the_rules_is_a_name(text in "[A-Za-z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,20}){0,8}") {
            prop_assert!(ServiceName::parse(&text).is_ok());
        }
    }
}
