//! What the brokers of one cluster know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use connect_core::TopicPartition;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, TopicName};
use uuid::Uuid;

use super::answers::{Say, name};
use super::fetch::Sessions;

/// Where the offset of a batch's last record lies, counted from its first.
const LAST_OFFSET_DELTA: usize = 23;

pub(super) struct State {
    pub addresses: Vec<SocketAddr>,
    pub topics: BTreeMap<String, Topic>,
    pub preferred: Option<i32>,
    pub coordinator: i32,
    pub committed: BTreeMap<TopicPartition, (i64, String)>,
    pub sessions: Sessions,
    pub hidden: Vec<ApiKey>,
    /// Counts generations, epochs and members' names.
    pub group: i32,
}

pub(super) struct Topic {
    pub id: Uuid,
    pub logs: Vec<Log>,
}

/// One partition.
pub(super) struct Log {
    pub leader: i32,
    pub epoch: i32,
    pub start: i64,
    pub end: i64,
    /// Each batch, and the offset behind it.
    batches: Vec<(i64, Bytes)>,
}

impl Log {
    pub fn append(&mut self, batch: &Bytes) -> i64 {
        let base = self.end;
        let mut stored = BytesMut::from(&batch[..]);
        stored[..8].copy_from_slice(&base.to_be_bytes());
        let delta = stored[LAST_OFFSET_DELTA..][..4].try_into().map_or(0, i32::from_be_bytes);
        self.end += i64::from(delta) + 1;
        self.batches.push((self.end, stored.freeze()));
        base
    }

    pub fn lead_by(&mut self, node: i32) {
        self.leader = node;
        self.epoch += 1;
    }

    /// Whole batches from the one that holds this offset, at least one and no more than fit.
    pub fn read(&self, offset: i64, most: usize) -> Bytes {
        let mut records = BytesMut::new();
        for (_, batch) in self.batches.iter().filter(|(next, _)| *next > offset) {
            if !records.is_empty() && records.len() + batch.len() > most {
                break;
            }
            records.extend_from_slice(batch);
        }
        records.freeze()
    }
}

impl State {
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            topics: BTreeMap::new(),
            preferred: None,
            coordinator: 0,
            committed: BTreeMap::new(),
            sessions: Sessions::default(),
            hidden: Vec::new(),
            group: 0,
        }
    }

    pub fn create_topic(&mut self, topic: &str, partitions: i32) {
        let log = |_| Log { leader: 0, epoch: 0, start: 0, end: 0, batches: Vec::new() };
        let topic_made = Topic { id: Uuid::new_v4(), logs: (0..partitions).map(log).collect() };
        self.topics.insert(topic.to_owned(), topic_made);
    }

    pub fn log(&mut self, partition: &TopicPartition) -> Option<&mut Log> {
        let topic = self.topics.get_mut(&*partition.topic)?;
        topic.logs.get_mut(usize::try_from(partition.partition).ok()?)
    }

    /// What a leader checks before it answers. An epoch of −1 is of a client that knows none.
    pub fn led_log(
        &mut self,
        node: i32,
        partition: &TopicPartition,
        epoch: i32,
        say: Say,
    ) -> Result<&mut Log, ResponseError> {
        let follows = self.preferred == Some(node);
        let log = self.log(partition).ok_or(ResponseError::UnknownTopicOrPartition);
        match (say.any(), log) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(log)) if epoch >= 0 && epoch < log.epoch => Err(ResponseError::FencedLeaderEpoch),
            (None, Ok(log)) if epoch > log.epoch => Err(ResponseError::UnknownLeaderEpoch),
            (None, Ok(log)) if log.leader != node && !follows => Err(ResponseError::NotLeaderOrFollower),
            (None, Ok(log)) => Ok(log),
        }
    }
}

/// Puts together what belongs to one topic, as every answer has it.
pub(super) fn by_topic<T, R>(
    items: impl IntoIterator<Item = (TopicPartition, T)>,
    make: impl Fn(TopicName, Vec<T>) -> R,
) -> Vec<R> {
    let mut topics: BTreeMap<Arc<str>, Vec<T>> = BTreeMap::new();
    for (partition, item) in items {
        topics.entry(partition.topic).or_default().push(item);
    }
    topics.into_iter().map(|(topic, items)| make(name(&topic), items)).collect()
}
