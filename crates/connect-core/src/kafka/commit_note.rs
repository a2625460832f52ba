//! What stands beside a committed offset: for whoever looks at the group, and for ourselves when we come back.

use std::fmt;

/// The metadata of a commit: `connect 0.1.0`, `connect 0.1.0 epoch=2`, `connect 0.1.0 start`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitNote {
    /// The offset is where to begin: nothing was written from there yet.
    pub start: bool,
    /// `CONNECT_EPOCH` of who committed.
    pub epoch: u16,
}

/// The word that all our notes begin with.
const OURS: &str = "connect";
const START: &str = "start";
const EPOCH: &str = "epoch=";

impl fmt::Display for CommitNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OURS} {}", env!("CARGO_PKG_VERSION"))?;
        if self.epoch > 0 {
            write!(f, " {EPOCH}{}", self.epoch)?;
        }
        if self.start {
            write!(f, " {START}")?;
        }
        Ok(())
    }
}

impl CommitNote {
    /// Reads a commit's metadata; `None` when another program made the commit. Words of a newer version are passed over.
    pub fn parse(metadata: &str) -> Option<Self> {
        let mut words = metadata.split(' ');
        if words.next() != Some(OURS) {
            return None;
        }
        let mut note = Self::default();
        for word in words {
            match word.strip_prefix(EPOCH) {
                Some(epoch) => note.epoch = epoch.parse().ok()?,
                None => note.start |= word == START,
            }
        }
        Some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back() {
        for note in [
            CommitNote::default(),
            CommitNote { start: true, epoch: 0 },
            CommitNote { start: false, epoch: 3 },
            CommitNote { start: true, epoch: u16::MAX },
        ] {
            assert_eq!(CommitNote::parse(&note.to_string()), Some(note), "{note}");
        }
        assert_eq!(CommitNote::parse("connect 9.9.9 later epoch=1"), Some(CommitNote { start: false, epoch: 1 }));
    }

    #[test]
    fn another_program_s_commit_is_known() {
        for metadata in ["", "NO_METADATA", "connector 1", "connect-0.1.0", "connect 1 epoch=lots"] {
            assert_eq!(CommitNote::parse(metadata), None, "{metadata:?}");
        }
    }
}
