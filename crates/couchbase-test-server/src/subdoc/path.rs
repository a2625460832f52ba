//! Paths of sub-document operations: `a.b[0].c`, names in backticks where they hold other characters.

use std::str::FromStr;

use crate::status;

/// The most bytes of a path.
pub const LONGEST: usize = 1024;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Name(String),
    /// −1 is the last element.
    Index(i64),
}

/// A path; empty for the whole document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(pub Vec<Segment>);

impl Path {
    /// Whether the root that this path needs is an array.
    pub fn starts_in_array(&self) -> bool {
        !matches!(self.0.first(), Some(Segment::Name(_)))
    }
}

impl FromStr for Path {
    type Err = u16;

    fn from_str(text: &str) -> Result<Self, u16> {
        let mut segments = Vec::new();
        let mut name: Option<String> = None;
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '.' => match name.take() {
                    Some(name) => segments.push(Segment::Name(name)),
                    None if matches!(segments.last(), Some(Segment::Index(_))) => {}
                    None => return Err(status::PATH_INVALID),
                },
                '`' => {
                    let name = name.get_or_insert_default();
                    loop {
                        match characters.next().ok_or(status::PATH_INVALID)? {
                            '`' if characters.next_if_eq(&'`').is_some() => name.push('`'),
                            '`' => break,
                            other => name.push(other),
                        }
                    }
                }
                '[' => {
                    segments.extend(name.take().map(Segment::Name));
                    let mut digits = String::new();
                    loop {
                        match characters.next().ok_or(status::PATH_INVALID)? {
                            ']' => break,
                            other => digits.push(other),
                        }
                    }
                    segments.push(Segment::Index(digits.parse().map_err(|_| status::PATH_INVALID)?));
                }
                other => name.get_or_insert_default().push(other),
            }
        }
        if text.ends_with('.') {
            return Err(status::PATH_INVALID);
        }
        segments.extend(name.map(Segment::Name));
        Ok(Self(segments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_indexes_and_quotes() {
        let name = |text: &str| Segment::Name(text.to_owned());
        let parsed: Path = "a.`b.c`[0].d[-1]".parse().unwrap();
        assert_eq!(parsed.0, [name("a"), name("b.c"), Segment::Index(0), name("d"), Segment::Index(-1)]);
        assert_eq!("`x``y`".parse::<Path>().unwrap().0, [name("x`y")]);
        assert_eq!("".parse::<Path>().unwrap().0, []);
        for wrong in ["a..b", ".a", "a.", "a[x]", "a[0", "`a"] {
            assert_eq!(wrong.parse::<Path>(), Err(status::PATH_INVALID), "{wrong}");
        }
    }
}
