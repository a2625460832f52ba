//! Where a partition begins and ends, and which offset a time has.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};

use super::kafka_source::explain;
use super::wire::cluster::{REQUEST_TIMEOUT, topic_name};
use super::wire::{Cluster, Purpose};
use crate::config::Isolation;
use crate::record::TopicPartition;
use crate::source::{Position, SourceError};

const LIST_OFFSETS: i16 = 7;
/// Positions that ListOffsets takes in place of a time.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// Questions about different partitions that are under way at once.
const AT_ONCE: usize = 16;

/// Resolves a position. `Latest` is the last stable offset with `read_committed`, else the high watermark; a time later than
/// that of every record is `Latest` too.
///
/// # Errors
/// As for [`Source::offset`](crate::Source::offset).
pub async fn look_up(
    cluster: &Cluster,
    partition: &TopicPartition,
    position: Position,
    isolation: Isolation,
) -> Result<i64, SourceError> {
    let time = match position {
        Position::Earliest => EARLIEST,
        Position::Latest => LATEST,
        // Negative times have other meanings; no record is older than 1970.
        Position::Timestamp(millis) => millis.max(0),
    };
    let found = ask(cluster, partition, time, isolation).await?;
    if found < 0 { ask(cluster, partition, LATEST, isolation).await } else { Ok(found) }
}

/// Resolves a position for each of many partitions.
///
/// # Errors
/// As for [`look_up`]; the first.
pub async fn look_up_all(
    cluster: &Cluster,
    positions: impl IntoIterator<Item = (TopicPartition, Position)>,
    isolation: Isolation,
) -> Result<BTreeMap<TopicPartition, i64>, SourceError> {
    let one = |(partition, position)| async move {
        let offset = look_up(cluster, &partition, position, isolation).await?;
        Ok::<_, SourceError>((partition, offset))
    };
    stream::iter(positions).map(one).buffer_unordered(AT_ONCE).try_collect().await
}

async fn ask(
    cluster: &Cluster,
    partition: &TopicPartition,
    time: i64,
    isolation: Isolation,
) -> Result<i64, SourceError> {
    let leader = cluster.leader(partition).await?;
    let asked = ListOffsetsPartition::default()
        .with_partition_index(partition.partition)
        .with_current_leader_epoch(leader.epoch)
        .with_timestamp(time);
    let topic = ListOffsetsTopic::default().with_name(topic_name(&partition.topic)).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation.level())
        .with_topics(vec![topic]);
    let answer = async {
        let connection = cluster.broker(leader.node, Purpose::Ask).await?;
        let response = connection.call(&request, LIST_OFFSETS, REQUEST_TIMEOUT).await?;
        let found = response.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let found = found
            .ok_or_else(|| SourceError::transient("protocol", format!("{partition}: the broker's answer lacks it")))?;
        match ResponseError::try_from_code(found.error_code) {
            None => Ok(found.offset),
            Some(error) => Err(explain(partition, "look up an offset", error)),
        }
    };
    let answer = answer.await;
    if answer.is_err() {
        // Whatever it was, the leader may be another now.
        cluster.forget_leader(partition);
    }
    answer
}
