//! Patterns: what a filter with wildcards is made of, whether it matches a name, and whether two have a name
//! in common.
//!
//! A filter may come from a stranger, so no question about it costs more than the product of the two lengths,
//! 200 bytes each: matching remembers the levels of the pattern that can come next, instead of going back,
//! and the walk over two patterns looks up what it has walked before. (Of the matchers that were tried,
//! `globset` compiles to automata and brings six packages, and `fast-glob` 1.1 needs 5 ms for some names and
//! filters of 200 bytes, where this needs at most 40 us.)

/// A filter with wildcards, level by level.
pub(super) struct Pattern(Vec<Level>);

/// A level: characters, or `**`.
enum Level {
    /// `**` that is followed by something: any number of levels.
    Any,
    /// What one level consists of.
    One(Vec<Part>),
}

#[derive(Clone, Copy)]
enum Part {
    /// `*`: any run of characters.
    Run,
    /// One of these characters, by their ASCII codes.
    Set(u128),
}

impl Pattern {
    /// The text has passed the checks of a filter.
    pub(super) fn parse(text: &str) -> Pattern {
        Pattern(levels(text))
    }

    /// True when a service of this name is meant.
    pub(super) fn matches(&self, name: &str) -> bool {
        let end = self.0.len();
        // Which levels of the pattern the next level of the name may be matched with; the last stands for the
        // end.
        let mut next = vec![false; end + 1];
        next[0] = true;
        for level in name.split('/') {
            let mut after = vec![false; end + 1];
            for place in 0..end {
                if !next[place] {
                    continue;
                }
                match &self.0[place] {
                    // None of the levels that are left, or this one and perhaps more.
                    Level::Any => (next[place + 1], after[place]) = (true, true),
                    Level::One(parts) => after[place + 1] |= is_level(parts, level.as_bytes()),
                }
            }
            next = after;
        }
        // `**` is never the last level; see `levels`.
        next[end]
    }

    /// True when a name could match both.
    pub(super) fn overlaps(&self, other: &Pattern) -> bool {
        let (first, second) = (&self.0, &other.0);
        let (rows, columns) = (first.len(), second.len());
        // From the end: `common[row][column]` says whether what is left of both from there has a name in
        // common.
        let mut common = vec![vec![false; columns + 1]; rows + 1];
        for row in (0..=rows).rev() {
            for column in (0..=columns).rev() {
                common[row][column] = match (first.get(row), second.get(column)) {
                    (None, None) => true,
                    (Some(Level::Any), None) => common[row + 1][column],
                    (None, Some(Level::Any)) => common[row][column + 1],
                    (Some(Level::Any), Some(_)) | (Some(_), Some(Level::Any)) => {
                        common[row + 1][column] || common[row][column + 1]
                    }
                    (Some(Level::One(ours)), Some(Level::One(theirs))) => {
                        common[row + 1][column + 1] && within_level(ours, theirs)
                    }
                    (Some(Level::One(_)), None) | (None, Some(Level::One(_))) => false,
                };
            }
        }
        common[0][0]
    }
}

/// Whether a level of a name is what these parts describe. A run takes as little as it can; when the rest
/// does not fit, the last run takes one character more.
fn is_level(parts: &[Part], level: &[u8]) -> bool {
    let (mut part, mut place) = (0, 0);
    // The last run, and where what follows it was tried.
    let mut last_run = None;
    while place < level.len() {
        match parts.get(part) {
            Some(Part::Run) => {
                last_run = Some((part, place));
                part += 1;
            }
            Some(Part::Set(set)) if set & bit(level[place]) != 0 => {
                part += 1;
                place += 1;
            }
            _ => {
                let Some((run, tried)) = last_run else { return false };
                last_run = Some((run, tried + 1));
                (part, place) = (run + 1, tried + 1);
            }
        }
    }
    parts[part..].iter().all(|part| matches!(part, Part::Run))
}

fn within_level(first: &[Part], second: &[Part]) -> bool {
    let (rows, columns) = (first.len(), second.len());
    let mut common = vec![vec![false; columns + 1]; rows + 1];
    for row in (0..=rows).rev() {
        for column in (0..=columns).rev() {
            common[row][column] = match (first.get(row), second.get(column)) {
                (None, None) => true,
                (Some(Part::Run), None) => common[row + 1][column],
                (None, Some(Part::Run)) => common[row][column + 1],
                (Some(Part::Run), Some(_)) | (Some(_), Some(Part::Run)) => {
                    common[row + 1][column] || common[row][column + 1]
                }
                (Some(Part::Set(ours)), Some(Part::Set(theirs))) => {
                    ours & theirs != 0 && common[row + 1][column + 1]
                }
                (Some(Part::Set(_)), None) | (None, Some(Part::Set(_))) => false,
            };
        }
    }
    common[0][0]
}

fn levels(text: &str) -> Vec<Level> {
    let mut levels: Vec<Level> = text
        .split('/')
        .map(|level| if level == "**" { Level::Any } else { Level::One(parts(level)) })
        .collect();
    // At the end it is one level or more.
    if matches!(levels.last(), Some(Level::Any)) {
        levels.push(Level::One(vec![Part::Run]));
    }
    levels
}

/// All that a name may consist of.
fn every_character() -> u128 {
    (0..128u8)
        .filter(|byte| crate::name::is_name_character(char::from(*byte)))
        .fold(0, |set, byte| set | bit(byte))
}

fn bit(byte: u8) -> u128 {
    // Names and filters are ASCII; the mask only keeps the shift in range.
    1 << (byte & 127)
}

fn parts(level: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = level;
    while let Some(byte) = rest.bytes().next() {
        let mut length = 1;
        parts.push(match byte {
            b'*' => Part::Run,
            b'?' => Part::Set(every_character()),
            b'[' => {
                let end = rest.find(']').unwrap_or(rest.len() - 1);
                length = end + 1;
                Part::Set(set(&rest[1..end]))
            }
            other => Part::Set(bit(other)),
        });
        rest = &rest[length..];
    }
    parts
}

fn set(text: &str) -> u128 {
    let (negated, members) = match text.strip_prefix(['!', '^']) {
        Some(members) => (true, members.as_bytes()),
        None => (false, text.as_bytes()),
    };
    let mut found = 0;
    for (place, byte) in members.iter().enumerate() {
        let is_range = *byte == b'-' && place > 0 && place + 1 < members.len();
        if is_range {
            found |= (members[place - 1]..=members[place + 1]).fold(0, |set, byte| set | bit(byte));
        } else {
            found |= bit(*byte);
        }
    }
    if negated { every_character() & !found } else { found }
}
