//! The simple reader: rskafka, one partition a connection, for topics without transactions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rskafka::chrono::{TimeZone, Utc};
use rskafka::client::error::{Error, ProtocolError, RequestError};
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::RecordAndOffset;

use super::connection::{Connection, Failure, REQUEST_TIMEOUT};
use crate::budget::Budget;
use crate::record::{Header, Record, TopicPartition};
use crate::source::{Fetched, Position, Source, SourceError};

/// How long a broker holds back an empty answer.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// What a partition at its end asks for: enough to notice that it fell behind.
const IDLE_FETCH_BYTES: i32 = 64 << 10;
/// What a fetch holds at its worst, in multiples of the bytes asked for: the response, its batches taken out of it, the
/// decompressed records, and what the sink encodes from them.
const HELD_DURING_FETCH: usize = 4;
/// What a record costs beside its bytes: its own struct, rskafka's, and the allocator's share of its buffers.
const HELD_PER_RECORD: usize = 256;
/// A fetch that answers at once, without records, although there are some, this many times in a row: rskafka does not
/// say where a batch without records ends, so it would ask for the same batch for ever.
const EMPTY_ANSWERS: u32 = 10;

/// Reads with rskafka. Cannot pass control batches (transactions), null header values, zstd on brokers before 4.0 and a
/// compacted end of a partition: these are [`SourceError::Fatal`] and name the reader that can.
pub struct RskafkaSource {
    connection: Arc<Connection>,
    budget: Arc<Budget>,
    partitions: Mutex<HashMap<TopicPartition, Arc<Partition>>>,
}

struct Partition {
    client: PartitionClient,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    behind: bool,
    empty_answers: u32,
}

impl RskafkaSource {
    /// Reads through this connection; what is read is charged to the budget.
    pub fn new(connection: Arc<Connection>, budget: Arc<Budget>) -> Self {
        Self { connection, budget, partitions: Mutex::new(HashMap::new()) }
    }

    async fn partition(&self, partition: &TopicPartition) -> Result<Arc<Partition>, SourceError> {
        if let Some(known) = self.lock().get(partition) {
            return Ok(Arc::clone(known));
        }
        let client = self.connection.client().await?;
        let made = client.partition_client(&*partition.topic, partition.partition, UnknownTopicHandling::Error);
        let made = self.connection.bounded(REQUEST_TIMEOUT, made).await;
        let client = made.map_err(|failure| {
            if matches!(failure, Failure::Error(Error::InvalidResponse(_))) {
                // The list of topics that rskafka keeps is older than this partition.
                self.connection.reset();
            }
            self.explain(partition, "find its leader", &failure)
        })?;
        let made = Arc::new(Partition { client, state: Mutex::default() });
        self.lock().insert(partition.clone(), Arc::clone(&made));
        Ok(made)
    }

    async fn look_up(&self, partition: &TopicPartition, at: OffsetAt) -> Result<i64, SourceError> {
        let reader = self.partition(partition).await?;
        self.connection.bounded(REQUEST_TIMEOUT, reader.client.get_offset(at)).await.map_err(|failure| {
            self.lock().remove(partition);
            self.explain(partition, "look up an offset", &failure)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TopicPartition, Arc<Partition>>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, partition: &TopicPartition, what: &str, failure: &Failure) -> SourceError {
        if failure.protocol_error() == Some(ProtocolError::UnknownTopicOrPartition) {
            return SourceError::transient(
                "unknown_partition",
                format!(
                    "{partition}: the broker does not know it (yet, or any more); check CONNECT_KAFKA_TOPICS if it stays so"
                ),
            );
        }
        self.connection.explain(&format!("{partition}: {what}"), failure).into()
    }

    async fn explain_fetch(&self, partition: &TopicPartition, offset: i64, failure: Failure) -> SourceError {
        if failure.protocol_error() == Some(ProtocolError::OffsetOutOfRange) {
            return match tokio::try_join!(
                self.look_up(partition, OffsetAt::Earliest),
                self.look_up(partition, OffsetAt::Latest)
            ) {
                Ok((earliest, latest)) => SourceError::OutOfRange { earliest, latest },
                Err(error) => error,
            };
        }
        if let Some(cause) = undecodable(&failure) {
            return SourceError::Fatal(format!(
                "{partition}@{offset}: rskafka cannot read on ({cause}); set CONNECT_KAFKA_READER=kafka"
            ));
        }
        self.lock().remove(partition);
        self.explain(partition, &format!("fetch from {offset}"), &failure)
    }
}

/// Why the answer to a fetch will be as unreadable the next time.
fn undecodable(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Error(Error::Request(error @ (RequestError::ReadError(_) | RequestError::ReadVersionedError(_)))) => {
            let text = error.to_string();
            if text.contains("control batch") {
                return Some(format!("the topic holds transactions: {text}"));
            }
            Some(text)
        }
        Failure::Error(Error::InvalidResponse(text)) => Some(text.clone()),
        Failure::Error(Error::ServerError { protocol_error, .. })
            if *protocol_error == ProtocolError::UnsupportedCompressionType =>
        {
            Some("the topic is compressed with zstd, which this broker gives to newer readers only".to_owned())
        }
        _ => None,
    }
}

impl Source for RskafkaSource {
    async fn fetch(&self, partition: &TopicPartition, offset: i64) -> Result<Fetched, SourceError> {
        let reader = self.partition(partition).await?;
        let behind = reader.state.lock().unwrap_or_else(PoisonError::into_inner).behind;
        let full = i32::try_from(self.connection.config().fetch_bytes.as_u64()).unwrap_or(i32::MAX / 2);
        let bytes = if behind { full } else { IDLE_FETCH_BYTES.min(full) };
        // While behind, the answer comes at once: its room is taken first. A partition at its end may wait long for
        // nothing and takes none; what it then gets is small.
        let reserved = if behind { Some(self.budget.reserve(bytes as usize * HELD_DURING_FETCH).await) } else { None };

        let asked = Instant::now();
        let fetch = reader.client.fetch_records(offset, 1..bytes + 1, MAX_WAIT.as_millis() as i32);
        let (records, high_watermark) = match self.connection.bounded(MAX_WAIT + REQUEST_TIMEOUT, fetch).await {
            Ok(answer) => answer,
            Err(failure) => return Err(self.explain_fetch(partition, offset, failure).await),
        };

        let next = records.last().map_or(offset, |last| last.offset + 1);
        {
            let mut state = reader.state.lock().unwrap_or_else(PoisonError::into_inner);
            // An open transaction holds records back too, but then the broker lets us wait.
            let spinning = records.is_empty() && high_watermark > offset && asked.elapsed() < MAX_WAIT / 2;
            state.empty_answers = if spinning { state.empty_answers + 1 } else { 0 };
            state.behind = !records.is_empty() && next < high_watermark;
            if state.empty_answers >= EMPTY_ANSWERS {
                return Err(SourceError::Fatal(format!(
                    "{partition}@{offset}: rskafka cannot read on (a compacted batch without records); set CONNECT_KAFKA_READER=kafka"
                )));
            }
        }
        let records: Vec<Record> = records.into_iter().map(|record| convert(partition, record)).collect();
        let held = records.iter().map(|record| HELD_PER_RECORD + 2 * record.bytes()).sum();
        let charge = match reserved {
            Some(mut charge) if held <= charge.bytes() => {
                charge.shrink_to(held);
                charge
            }
            // More than was reserved: give that back first, so that nobody waits for us while we wait for others.
            reserved => {
                drop(reserved);
                self.budget.reserve(held).await
            }
        };
        Ok(Fetched { records, next, last_stable_offset: high_watermark, high_watermark, charge })
    }

    async fn offset(&self, partition: &TopicPartition, position: Position) -> Result<i64, SourceError> {
        let at = match position {
            Position::Earliest => OffsetAt::Earliest,
            Position::Latest => OffsetAt::Latest,
            Position::Timestamp(millis) => {
                OffsetAt::Timestamp(Utc.timestamp_millis_opt(millis).single().ok_or_else(|| {
                    SourceError::Fatal(format!("{millis} ms since the epoch is no time that Kafka knows"))
                })?)
            }
        };
        let found = self.look_up(partition, at).await?;
        // No record of this time or later: the end.
        if found < 0 { self.look_up(partition, OffsetAt::Latest).await } else { Ok(found) }
    }
}

fn convert(partition: &TopicPartition, read: RecordAndOffset) -> Record {
    let RecordAndOffset { record, offset } = read;
    Record {
        topic: Arc::clone(&partition.topic),
        partition: partition.partition,
        offset,
        timestamp: record.timestamp.timestamp_millis(),
        key: record.key.map(Bytes::from),
        value: record.value.map(Bytes::from),
        headers: record
            .headers
            .into_iter()
            .map(|(key, value)| Header { key: key.into(), value: Some(value.into()) })
            .collect(),
    }
}
