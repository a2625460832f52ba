//! What a document remembers of the last record that changed it, and what this process remembers of documents.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use connect_core::{Assigned, Rejection, SinkError, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::errors::Failure;

/// The extended attribute. Its underscore makes it one of the system: it outlives the document in its tombstone.
pub const ATTRIBUTE: &str = "_connect";

/// The record can't be written: another program keeps something under our name.
pub fn foreign() -> Rejection {
    Rejection::new(format!("the document has an extended attribute {ATTRIBUTE} that no connector wrote"))
}

/// A partition in one life of its topic, as documents name it.
///
/// Each partition has an entry of its own in the attribute: offsets of different partitions say nothing about each other.
#[derive(Debug)]
pub struct Source {
    path: String,
    topic_id: Option<String>,
    epoch: u16,
}

/// An entry of the attribute.
#[derive(Debug, Serialize, Deserialize)]
struct Mark<'a> {
    offset: i64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    topic_id: Option<&'a str>,
    /// `CONNECT_EPOCH`.
    #[serde(default, skip_serializing_if = "is_first")]
    epoch: u16,
}

fn is_first(epoch: &u16) -> bool {
    *epoch == 0
}

impl Source {
    fn new(partition: &TopicPartition, topic_id: Option<[u8; 16]>, epoch: u16) -> Self {
        // Names of topics hold dots, but never a backtick.
        let path = format!("{ATTRIBUTE}.`{partition}`");
        Self { path, topic_id: topic_id.map(|id| URL_SAFE_NO_PAD.encode(id)), epoch }
    }

    /// Where in the document its entry is.
    pub fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    /// The entry that says: everything up to this record is in the document.
    pub fn mark(&self, offset: i64) -> Vec<u8> {
        let mark = Mark { offset, topic_id: self.topic_id.as_deref(), epoch: self.epoch };
        serde_json::to_vec(&mark).unwrap_or_default()
    }

    /// The offset in an entry; `None` when it was written in an earlier epoch, or in another life of the topic, whose offsets
    /// mean nothing now.
    ///
    /// # Errors
    /// A rejection when it is no entry of ours; fatal when it is of a later epoch than ours.
    pub fn offset(&self, entry: &[u8]) -> Result<Option<i64>, Failure> {
        let mark: Mark<'_> = serde_json::from_slice(entry).map_err(|_| foreign())?;
        if mark.epoch > self.epoch {
            return Err(Failure::Error(SinkError::fatal(format!(
                "there are documents of epoch {}, and this process is in epoch {}: what it wrote would count as older. Set \
                 CONNECT_EPOCH={} for every process of this connector",
                mark.epoch, self.epoch, mark.epoch
            ))));
        }
        let same_life = match (mark.topic_id, &self.topic_id) {
            (Some(stored), Some(ours)) => stored == ours,
            _ => true,
        };
        Ok((same_life && mark.epoch == self.epoch).then_some(mark.offset))
    }
}

/// The partitions of this process.
#[derive(Debug)]
pub struct Sources {
    epoch: u16,
    partitions: Mutex<HashMap<TopicPartition, Arc<Source>>>,
}

impl Sources {
    /// In this epoch.
    pub fn new(epoch: u16) -> Self {
        Self { epoch, partitions: Mutex::default() }
    }

    /// The partition is taken up: now the life of its topic is known.
    pub fn take_up(&self, assigned: &Assigned) {
        let source = Source::new(&assigned.partition, assigned.topic_id, self.epoch);
        self.lock().insert(assigned.partition.clone(), Arc::new(source));
    }

    /// The partition as documents name it.
    pub fn of(&self, partition: &TopicPartition) -> Arc<Source> {
        let new = || Arc::new(Source::new(partition, None, self.epoch));
        Arc::clone(self.lock().entry(partition.clone()).or_insert_with(new))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TopicPartition, Arc<Source>>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// There never was one, as far as Couchbase remembers.
    Absent,
    /// It is deleted; the offset is what its tombstone remembers.
    Buried {
        /// Of the last record of this source that changed it.
        offset: Option<i64>,
    },
    /// It is there.
    Live {
        /// Changes with every write.
        cas: u64,
        /// Of the last record of this source that changed it.
        offset: Option<i64>,
        /// What the document is, where it is a number and was looked at.
        number: Option<i64>,
    },
}

impl Known {
    /// The last record of the source that changed the document.
    pub fn offset(&self) -> Option<i64> {
        match self {
            Self::Absent => None,
            Self::Buried { offset } | Self::Live { offset, .. } => *offset,
        }
    }
}

/// Documents written lately.
///
/// Two generations: when the young one is full it becomes the old one, and what nobody asked for meanwhile is gone.
#[derive(Debug)]
pub struct Memory {
    size: usize,
    generations: Mutex<Generations>,
}

type Generation = HashMap<Box<[u8]>, (Arc<Source>, Known), RandomState>;

#[derive(Debug, Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

impl Memory {
    /// Remembers about so many documents.
    pub fn new(size: usize) -> Self {
        Self { size, generations: Mutex::default() }
    }

    /// What is known of a document, which is forgotten at once: whoever writes puts it back when the answer is there, and a
    /// write whose end is unknown leaves nothing behind.
    pub fn take(&self, target: &[u8], source: &Arc<Source>) -> Option<Known> {
        let mut generations = self.lock();
        let young = generations.young.remove(target);
        let (written_by, known) = generations.old.remove(target).filter(|_| young.is_none()).or(young)?;
        // What another partition left says nothing about our own last record.
        Arc::ptr_eq(&written_by, source).then_some(known)
    }

    /// This is known of a document now.
    pub fn put(&self, target: &[u8], source: &Arc<Source>, known: Known) {
        let mut generations = self.lock();
        if generations.young.len() >= self.size.div_ceil(2) {
            generations.old = mem::take(&mut generations.young);
        }
        // A copy: the target is a part of the fetched response, and would keep the whole of it.
        generations.young.insert(target.into(), (Arc::clone(source), known));
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(topic_id: Option<u8>) -> Source {
        in_epoch(topic_id, 0)
    }

    fn in_epoch(topic_id: Option<u8>, epoch: u16) -> Source {
        Source::new(&TopicPartition::new("a.b", 3), topic_id.map(|byte| [byte; 16]), epoch)
    }

    #[test]
    fn an_entry_of_an_earlier_epoch_is_older_and_one_of_a_later_stops_us() {
        assert_eq!(in_epoch(None, 2).mark(7), br#"{"offset":7,"epoch":2}"#);
        let read = |epoch, entry: Vec<u8>| in_epoch(Some(1), epoch).offset(&entry);
        for (written, read_in, offset) in [(0, 1, None), (1, 1, Some(7)), (1, 2, None)] {
            let found = read(read_in, in_epoch(Some(1), written).mark(7));
            assert_eq!(found.expect("readable"), offset, "{written} {read_in}");
        }
        let stale = read(1, in_epoch(Some(1), 2).mark(7)).expect_err("stale");
        assert!(
            matches!(&stale, Failure::Error(SinkError::Fatal(why)) if why.contains("CONNECT_EPOCH=2")),
            "{stale:?}"
        );
    }

    #[test]
    fn an_entry_counts_in_its_own_life_of_the_topic() {
        assert_eq!(source(None).path(), b"_connect.`a.b-3`");
        assert_eq!(source(None).mark(7), br#"{"offset":7}"#);
        assert_eq!(source(Some(0)).mark(7), br#"{"offset":7,"topic_id":"AAAAAAAAAAAAAAAAAAAAAA"}"#);
        for (written, read, offset) in
            [(None, None, Some(7)), (Some(1), Some(1), Some(7)), (Some(1), Some(2), None), (Some(1), None, Some(7))]
        {
            let found = source(read).offset(&source(written).mark(7));
            assert_eq!(found.expect("readable"), offset, "{written:?} {read:?}");
        }
        assert!(source(None).offset(b"{}").is_err());
    }

    #[test]
    fn memory_is_bounded_and_forgets_what_is_taken() {
        let memory = Memory::new(10);
        let (ours, other) = (Arc::new(source(None)), Arc::new(source(None)));
        let known = |cas| Known::Live { cas, offset: Some(1), number: None };
        for number in 0..100_u64 {
            memory.put(&number.to_be_bytes(), &ours, known(number));
        }
        let generations = memory.lock();
        assert!(generations.young.len() + generations.old.len() <= 10);
        drop(generations);
        let last = 99_u64.to_be_bytes();
        assert_eq!(memory.take(&last, &ours), Some(known(99)));
        assert_eq!(memory.take(&last, &ours), None, "taken is forgotten");
        memory.put(&last, &ours, known(1));
        assert_eq!(memory.take(&last, &other), None, "another partition's");
        memory.put(b"x", &ours, known(1));
        (0..8_u64).for_each(|number| memory.put(&number.to_be_bytes(), &ours, known(0)));
        memory.put(b"x", &ours, known(2));
        assert_eq!(memory.take(b"x", &ours), Some(known(2)), "the younger of two");
        assert_eq!(memory.take(b"x", &ours), None, "and the older is gone with it");
    }
}
