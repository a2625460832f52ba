//! What is read: a record and where it stands.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// One partition of one topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A header of a record. Kafka allows a key more than once and a value of null; both are kept, in order.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// The header's key; UTF-8 by Kafka's protocol, but not checked.
    pub key: Bytes,
    /// The header's value, `None` for null.
    pub value: Option<Bytes>,
}

/// One record of a partition.
///
/// Its buffers are slices of the response that brought it: keeping one of them keeps the whole response in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch, as the topic's timestamp type has it; −1 when the record has none.
    pub timestamp: i64,
    /// The key, `None` for null.
    pub key: Option<Bytes>,
    /// The value, `None` for null: a tombstone.
    pub value: Option<Bytes>,
    /// Headers in the order in which the producer gave them.
    pub headers: Vec<Header>,
}

impl Record {
    /// The value of the last header of this name, as Kafka's own `lastHeader` does; `None` when absent or null.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|header| header.key == name.as_bytes())?.value.as_ref()
    }

    /// Bytes of key, value and headers.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Shows where the record stands and how large it is, never what it contains.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{} ({} bytes)", self.topic, self.partition, self.offset, self.bytes())
    }
}
