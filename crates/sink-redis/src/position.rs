//! What is stored for a partition, and what a batch does when it finds something else than it expected.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The identity of one life of a topic, as `kafka-topics --describe` shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A stored offset and the life of the topic that it belongs to: `1234` or `1234@0q3X…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Everything below is in the store.
    pub offset: i64,
    /// Where the broker told it.
    pub topic_id: Option<TopicId>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.topic_id {
            None => write!(f, "{}", self.offset),
            Some(id) => write!(f, "{}@{id}", self.offset),
        }
    }
}

/// The text is no stored offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (offset, id) = text.split_once('@').map_or((text, None), |(offset, id)| (offset, Some(id)));
        let topic_id = match id {
            None => None,
            Some(id) => {
                let bytes = URL_SAFE_NO_PAD.decode(id).map_err(|_| NoPosition)?;
                Some(TopicId(bytes.try_into().map_err(|_| NoPosition)?))
            }
        };
        let offset = offset.parse().ok().filter(|offset| *offset >= 0).ok_or(NoPosition)?;
        Ok(Self { offset, topic_id })
    }
}

/// What to do when the stored offset is not the one that a batch expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is the expected one, only written otherwise: apply.
    Apply,
    /// All of the batch is in the store already.
    Done,
    /// What lies below this offset is in the store: apply the rest.
    From(i64),
    /// The store lost writes, or another writer was here: take up again where it says.
    OutOfStep,
}

/// Decides by offsets alone; whether both belong to one life of the topic was decided before.
pub fn reconcile(stored: Option<i64>, expected: Option<i64>, first: i64, next: i64) -> Next {
    match stored {
        _ if stored == expected => Next::Apply,
        Some(stored) if stored >= next => Next::Done,
        Some(stored) if stored >= first => Next::From(stored),
        _ => Next::OutOfStep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_read_back() {
        for topic_id in [None, Some(TopicId([7; 16])), Some(TopicId([255; 16]))] {
            for offset in [0, 42, i64::MAX] {
                let position = Position { offset, topic_id };
                assert_eq!(position.to_string().parse(), Ok(position));
            }
        }
        assert_eq!("5@AAAAAAAAAAAAAAAAAAAAAA".parse(), Ok(Position { offset: 5, topic_id: Some(TopicId([0; 16])) }));
        for text in ["", "x", "-1", "5@", "5@short", "1.5", "5 ", "@AAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(text.parse::<Position>(), Err(NoPosition), "{text:?}");
        }
    }

    #[test]
    fn each_sentence_of_the_expectation() {
        let cases = [
            // stored, expected, first, next
            (Some(10), Some(10), 10, 20, Next::Apply),
            (Some(20), Some(10), 10, 20, Next::Done),
            (Some(99), Some(10), 10, 20, Next::Done),
            (Some(14), Some(10), 10, 20, Next::From(14)),
            (Some(9), Some(10), 10, 20, Next::OutOfStep),
            (None, Some(10), 10, 20, Next::OutOfStep),
            // The first batch: nothing may be stored, and what is stored is never written over.
            (None, None, 10, 20, Next::Apply),
            (Some(10), None, 10, 20, Next::From(10)),
            (Some(15), None, 10, 20, Next::From(15)),
            (Some(20), None, 10, 20, Next::Done),
            (Some(3), None, 10, 20, Next::OutOfStep),
            // Retention deleted 10 to 14: the expectation lies before the first record.
            (Some(10), Some(10), 15, 20, Next::Apply),
            (Some(12), Some(10), 15, 20, Next::OutOfStep),
            // Nothing but a hole to step over.
            (Some(20), Some(10), 20, 20, Next::Done),
        ];
        for (stored, expected, first, next, step) in cases {
            assert_eq!(reconcile(stored, expected, first, next), step, "{stored:?} {expected:?} {first} {next}");
        }
    }
}
