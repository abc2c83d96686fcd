//! Whether two patterns have a name in common.
//!
//! Both are walked at once, level against level and character against character; what was walked before is looked up, so the
//! cost is bounded by the product of their lengths, 200 bytes each.

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

/// True when a name could match both. The texts have passed the checks of a filter.
pub(super) fn of_patterns(first: &str, second: &str) -> bool {
    let (first, second) = (levels(first), levels(second));
    let (rows, columns) = (first.len(), second.len());
    // From the end: `common[row][column]` says whether what is left of both from there has a name in common.
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
