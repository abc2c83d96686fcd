//! Filters: which services a subscription means.
//!
//! | part    | matches                                                             |
//! | ------- | ------------------------------------------------------------------- |
//! | `*`     | any run of characters within one level, also none                    |
//! | `?`     | one character within a level                                         |
//! | `[a-f]` | one of these characters; `[!a-f]` one of the others, never `/`       |
//! | `**`    | as a whole level: any number of levels, also none (at the end: one or more) |
//!
//! A filter without any of these is an exact service name, and is compared as such. Everything else is a
//! `pattern`; the checks here come first, so that a refusal says where, and so that no filter (which may
//! come from a stranger) costs more than its 200 bytes can.
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::name::{MAX_SERVICE_NAME, NameError, NameKind, NameRule, ServiceName, is_name_character};
use crate::text::archive_as_text;

mod pattern;

use pattern::Pattern;

/// A pattern over service names.
///
/// ```
/// use hivemind_core::filter::Filter;
///
/// let filter = Filter::parse("sensors/*")?;
/// assert!(filter.matches("sensors/pose"));
/// assert!(!filter.matches("sensors/arm/pose"));
/// assert!(Filter::parse("sensors/**")?.matches("sensors/arm/pose"));
/// # Ok::<(), hivemind_core::filter::FilterError>(())
/// ```
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

enum Compiled {
    Exact(ServiceName),
    Pattern { text: Box<str>, pattern: Pattern },
}

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A rule that filters share with names. See there.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `**` beside other characters. Put it between slashes, or use `*` within a level.
    #[error(
        "{text:?} is no filter: at byte {position}: '**' must be a whole level; write '*' within a level"
    )]
    DoubleStar {
        /// The filter.
        text: String,
        /// Where `**` starts, from 0.
        position: usize,
    },
    /// A `[` without its `]`, or a `]` alone. Close it.
    #[error("{text:?} is no filter: at byte {position}: this bracket has no partner in its level; add it")]
    Bracket {
        /// The filter.
        text: String,
        /// Where the bracket stands, from 0.
        position: usize,
    },
    /// Brackets around nothing or around what is no set of characters. Write `[abc]`, `[a-f]` or `[!0-9]`.
    #[error(
        "{text:?} is no filter: at byte {position}: {why}; write a set such as '[abc]', '[a-f]' or '[!0-9]'"
    )]
    Set {
        /// The filter.
        text: String,
        /// Where the mistake is, from 0.
        position: usize,
        /// What is wrong with the set.
        why: &'static str,
    },
}

archive_as_text!(Filter);

impl Filter {
    /// Checks a text and makes it a filter.
    ///
    /// # Errors
    /// [`FilterError`] with the byte and the rule.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        check(text)?;
        if !text.contains(['*', '?', '[']) {
            return Ok(Filter(Arc::new(Compiled::Exact(ServiceName::parse(text)?))));
        }
        Ok(Filter(Arc::new(Compiled::Pattern { text: text.into(), pattern: Pattern::parse(text) })))
    }

    /// The filter that matches one service.
    #[must_use]
    pub fn exactly(service: ServiceName) -> Filter {
        Filter(Arc::new(Compiled::Exact(service)))
    }

    /// True when a service of this name is meant.
    #[must_use]
    pub fn matches(&self, service: &str) -> bool {
        match &*self.0 {
            Compiled::Exact(name) => name.as_str() == service,
            Compiled::Pattern { pattern, .. } => pattern.matches(service),
        }
    }

    /// The only service that can match, when the filter has no pattern in it.
    #[must_use]
    pub fn is_exact(&self) -> Option<ServiceName> {
        match &*self.0 {
            Compiled::Exact(name) => Some(name.clone()),
            Compiled::Pattern { .. } => None,
        }
    }

    /// True when some service name matches both filters. A name that both match is never overlooked.
    #[must_use]
    pub fn overlaps(&self, other: &Filter) -> bool {
        match (&*self.0, &*other.0) {
            (Compiled::Exact(name), _) => other.matches(name.as_str()),
            (_, Compiled::Exact(name)) => self.matches(name.as_str()),
            (Compiled::Pattern { pattern: ours, .. }, Compiled::Pattern { pattern: theirs, .. }) => {
                ours.overlaps(theirs)
            }
        }
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &*self.0 {
            Compiled::Exact(name) => name.as_str(),
            Compiled::Pattern { text, .. } => text,
        }
    }
}

/// Checks the text level by level.
fn check(text: &str) -> Result<(), FilterError> {
    let refuse =
        |position, rule| Err(FilterError::Name(NameError::new(NameKind::Filter, text, position, rule)));
    if text.is_empty() {
        return refuse(0, NameRule::Empty);
    }
    if text.len() > MAX_SERVICE_NAME {
        return refuse(MAX_SERVICE_NAME, NameRule::TooLong { limit: MAX_SERVICE_NAME });
    }
    let mut start = 0;
    for level in text.split('/') {
        if level.is_empty() {
            return refuse(start.min(text.len() - 1), NameRule::EmptyLevel);
        }
        if level != "**" {
            check_level(text, start, level)?;
        }
        start += level.len() + 1;
    }
    Ok(())
}

fn check_level(text: &str, start: usize, level: &str) -> Result<(), FilterError> {
    let owned = || text.to_owned();
    if let Some(place) = level.find("**") {
        return Err(FilterError::DoubleStar { text: owned(), position: start + place });
    }
    let mut rest = level;
    while let Some(character) = rest.chars().next() {
        let position = start + level.len() - rest.len();
        if character == '[' {
            let Some(end) = rest.find(']') else {
                return Err(FilterError::Bracket { text: owned(), position });
            };
            check_set(&rest[1..end]).map_err(|why| FilterError::Set {
                text: owned(),
                position: position + 1,
                why,
            })?;
            rest = &rest[end + 1..];
            continue;
        }
        match character {
            ']' => return Err(FilterError::Bracket { text: owned(), position }),
            '*' | '?' => {}
            other if is_name_character(other) => {}
            other => {
                let rule = NameRule::Character(other);
                return Err(NameError::new(NameKind::Filter, text, position, rule).into());
            }
        }
        rest = &rest[character.len_utf8()..];
    }
    Ok(())
}

/// A set without its brackets. Ranges stay within digits or one case of letters, so that none contains `/`.
fn check_set(set: &str) -> Result<(), &'static str> {
    let members = set.strip_prefix(['!', '^']).unwrap_or(set);
    if members.is_empty() {
        return Err("the set is empty");
    }
    if !members.chars().all(is_name_character) {
        return Err("names consist of letters, digits, '.', '_' and '-', and so do sets");
    }
    let bytes = members.as_bytes();
    // A '-' first or last stands for itself; anywhere else it makes a range of its neighbours.
    for place in 1..bytes.len().saturating_sub(1) {
        if bytes[place] == b'-' {
            let (low, high) = (bytes[place - 1], bytes[place + 1]);
            let kind =
                |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_lowercase(), byte.is_ascii_uppercase());
            if !low.is_ascii_alphanumeric() || kind(low) != kind(high) {
                return Err("a range goes from digit to digit or within one case of letters");
            }
            if low > high {
                return Err("the range is backwards");
            }
            if place >= 2 && bytes[place - 2] == b'-' && place > 2 {
                return Err("two ranges share a character");
            }
        }
    }
    Ok(())
}

impl fmt::Display for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    #[test]
    fn a_star_stays_within_its_level() {
        assert!(filter("sensors/*").matches("sensors/pose"));
        assert!(!filter("sensors/*").matches("sensors/arm/pose"));
        assert!(!filter("sensors/*").matches("sensors"));
        assert!(filter("*").matches("pose") && !filter("*").matches("sensors/pose"));
        assert!(filter("bat-signal-*").matches("bat-signal-main"));
        assert!(filter("bat-signal-?").matches("bat-signal-1"));
        assert!(!filter("bat-signal-?").matches("bat-signal-12") && !filter("a?b").matches("a/b"));
    }

    #[test]
    fn two_stars_cross_levels() {
        assert!(filter("**").matches("a") && filter("**").matches("a/b/c"));
        assert!(filter("a/**").matches("a/b/c") && !filter("a/**").matches("a"));
        assert!(filter("**/pose").matches("pose") && filter("**/pose").matches("a/b/pose"));
        assert!(filter("a/**/z").matches("a/z") && filter("a/**/z").matches("a/b/c/z"));
    }

    #[test]
    fn sets_match_one_character_and_never_a_slash() {
        assert!(filter("cpu[0-3]").matches("cpu2") && !filter("cpu[0-3]").matches("cpu4"));
        assert!(filter("a[!b]c").matches("axc") && !filter("a[!b]c").matches("abc"));
        assert!(!filter("a[!b]c").matches("a/c"));
        assert!(filter("a[-.]c").matches("a-c") && !filter("a[-.]c").matches("a/c"));
    }

    #[test]
    fn a_filter_without_a_pattern_is_exact() {
        assert_eq!(filter("a/b").is_exact(), Some(ServiceName::parse("a/b").unwrap()));
        assert_eq!(filter("a/?").is_exact(), None);
    }

    #[test]
    fn a_refusal_says_where() {
        let text = |filter: &str| Filter::parse(filter).unwrap_err().to_string();
        assert!(text("a/b**").contains("at byte 3: '**' must be a whole level"), "{}", text("a/b**"));
        assert!(text("a/[b").contains("at byte 2: this bracket"));
        assert!(text("a]").contains("at byte 1: this bracket"));
        assert!(text("a[]").contains("at byte 2: the set is empty"));
        assert!(text("a[z-a]").contains("backwards"));
        assert!(text("a[.-9]").contains("a range goes"));
        assert!(text("a{b,c}").contains("at byte 1: '{' is not allowed"));
        assert!(text("a//b").contains("at byte 2"));
        assert!(text("a/").contains("at byte 1"));
        assert!(text("a\\*").contains("at byte 1"));
        assert!(text("").contains("it is empty"));
        assert!(text(&"*".repeat(201)).contains("at byte 200: it is too long"));
    }

    #[test]
    fn filters_overlap_when_a_name_matches_both() {
        let overlap = |first: &str, second: &str| filter(first).overlaps(&filter(second));
        assert!(overlap("sensors/*", "*/pose") && overlap("a/**", "**/z") && overlap("**", "?"));
        assert!(overlap("cam-[0-4]", "cam-[!0-3]") && overlap("a*b", "*ab*b") && overlap("a/b", "a/?"));
        assert!(!overlap("sensors/*", "sensors/*/*") && !overlap("a*", "b*") && !overlap("a/**", "a"));
        assert!(!overlap("cam-[0-3]", "cam-[4-9]") && !overlap("?", "??") && !overlap("a/b", "a/c"));
        assert!(!overlap("[!a]x", "ax") && !overlap("x/**/z", "y/**"));
    }

    /// An independent matcher, straight from the table at the head: levels against levels, characters against
    /// characters, by recursion.
    fn by_the_table(filter: &[&str], name: &[&str]) -> bool {
        match filter.split_first() {
            None => name.is_empty(),
            Some((&"**", rest)) => {
                let least = usize::from(rest.is_empty());
                (least..=name.len()).any(|skipped| by_the_table(rest, &name[skipped..]))
            }
            Some((level, rest)) => name.split_first().is_some_and(|(first, others)| {
                level_by_the_table(level.as_bytes(), first.as_bytes()) && by_the_table(rest, others)
            }),
        }
    }

    fn level_by_the_table(filter: &[u8], name: &[u8]) -> bool {
        match filter.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|skipped| level_by_the_table(rest, &name[skipped..])),
            Some((b'?', rest)) => !name.is_empty() && level_by_the_table(rest, &name[1..]),
            Some((byte, rest)) => name.first() == Some(byte) && level_by_the_table(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_a_refusal(text in "[a-c/*?!\\[\\]{}.-]{0,24}") {
            let _ = Filter::parse(&text);
        }

        /// Random filters over few letters and short names, so that many match.
        #[test]
        fn two_filters_that_match_one_name_overlap(
            first in "(\\*\\*|[ab?]{1,2}|\\*|[ab]\\*|\\[!a\\]|\\[ab\\])(/(\\*\\*|[ab?]{1,2}|\\*[ab]|\\[!b\\])){0,3}",
            second in "(\\*\\*|[ab?]{1,2}|\\*|[ab]\\*|\\[!a\\]|\\[ab\\])(/(\\*\\*|[ab?]{1,2}|\\*[ab]|\\[!b\\])){0,3}",
        ) {
            let (first, second) = (filter(&first), filter(&second));
            // Every name of up to three levels of up to two letters.
            let levels = ["a", "b", "c", "aa", "ab", "ba", "bb", "ac"];
            let mut names: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
            let mut longer = names.clone();
            for _ in 0..2 {
                longer = longer.iter().flat_map(|name| levels.map(|level| format!("{name}/{level}"))).collect();
                names.extend(longer.iter().cloned());
            }
            let common = names.iter().find(|name| first.matches(name) && second.matches(name));
            if common.is_some() {
                prop_assert!(first.overlaps(&second) && second.overlaps(&first), "{} {} {:?}", first, second, common);
            }
            prop_assert_eq!(first.overlaps(&second), second.overlaps(&first));
        }

        #[test]
        fn the_matcher_and_the_table_agree(
            levels in prop::collection::vec("(\\*\\*|[ab?]{1,3}|\\*[ab]?|[ab]\\*)", 1..5),
            name in "[ab]{1,3}(/[ab]{1,3}){0,4}",
        ) {
            let text = levels.join("/");
            let levels: Vec<&str> = text.split('/').collect();
            let names: Vec<&str> = name.split('/').collect();
            prop_assert_eq!(filter(&text).matches(&name), by_the_table(&levels, &names), "{} {}", text, name);
        }
    }
}
