//! The text of a policy, line by line.
use super::{
    Accounts, Grant, HostRule, MAX_LINE_BYTES, MAX_POLICY_BYTES, MAX_RULES, OVERFLOW_ID, PolicyError,
    PolicyProblem, Rule, Who,
};
use crate::filter::{Filter, FilterError};
use crate::name::is_host_name;

/// What is shown of a word that means nothing.
const SHOWN: usize = 40;

/// All lines that allow something.
pub(super) fn rules(text: &[u8], accounts: &Accounts) -> Result<(Vec<Rule>, Vec<HostRule>), PolicyError> {
    let (mut rules, mut hosts) = (Vec::new(), Vec::new());
    if text.len() > MAX_POLICY_BYTES {
        let line = 1 + text[..MAX_POLICY_BYTES].iter().filter(|byte| **byte == b'\n').count();
        return Err(PolicyError { line, column: 1, problem: PolicyProblem::FileTooLong });
    }
    for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let error = |column, problem| PolicyError { line: number, column, problem };
        if bytes.len() > MAX_LINE_BYTES {
            return Err(error(MAX_LINE_BYTES + 1, PolicyProblem::LineTooLong));
        }
        let line = str::from_utf8(bytes).map_err(|wrong| {
            let valid = String::from_utf8_lossy(&bytes[..wrong.valid_up_to()]);
            error(valid.chars().count() + 1, PolicyProblem::NotText)
        })?;
        let rule = rule(line, number, accounts)
            .map_err(|(place, problem)| error(line[..place].chars().count() + 1, problem))?;
        let Some(rule) = rule else { continue };
        if rules.len() + hosts.len() >= MAX_RULES {
            return Err(error(1, PolicyProblem::TooManyRules));
        }
        match rule {
            Line::OfUser(rule) => rules.push(rule),
            Line::OfHost(rule) => hosts.push(rule),
        }
    }
    Ok((rules, hosts))
}

/// A mistake and the byte of the line where it stands.
type Misplaced = (usize, PolicyProblem);

/// A line that allows something.
enum Line {
    OfUser(Rule),
    OfHost(HostRule),
}

/// What one line allows; nothing, if it is empty or a comment.
fn rule(line: &str, number: usize, accounts: &Accounts) -> Result<Option<Line>, Misplaced> {
    let mut words = Words { line, place: 0 };
    let Some((place, word)) = words.next() else { return Ok(None) };
    if word != "allow" {
        return Err((place, PolicyProblem::NotAllow { found: shown(word) }));
    }
    let (whose, word) = words.expect("'user:NAME', 'group:NAME', 'host:NAME' or 'anyone'")?;
    let host = word.strip_prefix("host:");
    if host.is_some_and(|host| !is_host_name(host)) {
        return Err((whose, PolicyProblem::NotWho { found: shown(word) }));
    }
    let (place, right) = words.expect("'join', 'publish FILTER' or 'subscribe FILTER'")?;
    let grant = match right {
        "join" if host.is_none() => Grant::Join,
        "publish" => Grant::Publish(words.filter()?),
        "subscribe" => Grant::Subscribe(words.filter()?),
        other => return Err((place, PolicyProblem::NotARight { found: shown(other) })),
    };
    match words.next() {
        None => Ok(Some(match host {
            Some(host) => Line::OfHost(HostRule { line: number, host: host.to_owned(), grant }),
            None => {
                let who = who(word, accounts).map_err(|problem| (whose, problem))?;
                Line::OfUser(Rule { line: number, who, grant })
            }
        })),
        Some((place, word)) => Err((place, PolicyProblem::Surplus { found: shown(word) })),
    }
}

fn who(word: &str, accounts: &Accounts) -> Result<Who, PolicyProblem> {
    if word == "anyone" {
        return Ok(Who::Anyone);
    }
    match word.split_once(':') {
        Some(("user", name)) if !name.is_empty() => match number(name)? {
            Some(user) => Ok(Who::User(user)),
            None => {
                accounts.user(name).map(Who::User).ok_or_else(|| unknown("user", name, "/etc/passwd", "-u"))
            }
        },
        Some(("group", name)) if !name.is_empty() => match number(name)? {
            Some(group) => Ok(Who::Group(group)),
            None => {
                accounts.group(name).map(Who::Group).ok_or_else(|| unknown("group", name, "/etc/group", "-g"))
            }
        },
        _ => Err(PolicyProblem::NotWho { found: shown(word) }),
    }
}

fn unknown(kind: &'static str, name: &str, book: &'static str, option: &'static str) -> PolicyProblem {
    PolicyProblem::Unknown { kind, name: shown(name), book, option }
}

/// The number that a word of digits is; `None` for a name.
fn number(word: &str) -> Result<Option<u32>, PolicyProblem> {
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match word.parse() {
        Ok(OVERFLOW_ID | u32::MAX) | Err(_) => Err(PolicyProblem::NotAnId { number: shown(word) }),
        Ok(number) => Ok(Some(number)),
    }
}

fn shown(word: &str) -> String {
    let mut characters = word.chars();
    let mut shown: String = characters.by_ref().take(SHOWN).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The words of a line up to its comment, each with the byte where it begins.
struct Words<'line> {
    line: &'line str,
    place: usize,
}

const BLANKS: [char; 3] = [' ', '\t', '\r'];

impl<'line> Words<'line> {
    fn next(&mut self) -> Option<(usize, &'line str)> {
        let rest = &self.line[self.place..];
        let start = self.place + (rest.len() - rest.trim_start_matches(BLANKS).len());
        let word =
            self.line[start..].split(BLANKS).next().filter(|word| !word.is_empty() && !word.starts_with('#'));
        self.place = start + word.map_or(0, str::len);
        word.map(|word| (start, word))
    }

    fn expect(&mut self, expected: &'static str) -> Result<(usize, &'line str), Misplaced> {
        self.next().ok_or((self.place, PolicyProblem::Missing { expected }))
    }

    fn filter(&mut self) -> Result<Filter, Misplaced> {
        let (start, word) = self.expect("a filter such as 'sensors/*'")?;
        Filter::parse(word).map_err(|error| (start + position(&error, word), PolicyProblem::Filter(error)))
    }
}

/// The byte of a filter that is wrong.
fn position(error: &FilterError, word: &str) -> usize {
    let mut position = match error {
        FilterError::Name(error) => error.position,
        FilterError::DoubleStar { position, .. }
        | FilterError::Bracket { position, .. }
        | FilterError::Set { position, .. } => *position,
    };
    position = position.min(word.len());
    while !word.is_char_boundary(position) {
        position -= 1;
    }
    position
}
