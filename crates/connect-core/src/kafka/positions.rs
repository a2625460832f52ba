//! Where partitions go on that come to us: what is committed, and with `CONNECT_KAFKA_START=latest` a place that is
//! committed before anything is read.
//!
//! `latest` means the end as it was when the connector was first started. A crash right after the start must not move it, and
//! a partition that appears later must be read from its beginning: whatever was written to it came after that first start.
//! So whoever finds nothing committed for the whole subscription commits the ends of all its partitions at once, of those
//! that go to other members too. From then on a partition without a commit is one that was not there at the time.

use std::collections::BTreeMap;

use super::commit_note::CommitNote;
use super::coordinator::{Committed, Coordinator, Identity};
use super::error::KafkaError;
use super::list_offsets;
use super::subscription::Subscription;
use super::wire::TopicMetadata;
use crate::assignment::CommitError;
use crate::record::TopicPartition;
use crate::settings::Start;
use crate::sink::Assigned;
use crate::source::{Position, SourceError};

/// Completes what is known of partitions that came. `appeared` says which of them this process has seen appear.
///
/// # Errors
/// Transient when it cannot be said now; Fatal when a person must change something.
pub(super) async fn find(
    coordinator: &Coordinator,
    identity: &Identity,
    subscription: &Subscription,
    appeared: impl Fn(&TopicPartition) -> bool,
    partitions: &mut [Assigned],
) -> Result<(), KafkaError> {
    let names =
        |partitions: &[Assigned]| partitions.iter().map(|assigned| assigned.partition.clone()).collect::<Vec<_>>();
    let committed = coordinator.committed(&names(partitions)).await?;
    take_over(coordinator, &committed, partitions)?;
    let open = |assigned: &Assigned| assigned.committed.is_none() && assigned.start.is_none();
    if coordinator.cluster().config().start != Start::Latest || !partitions.iter().any(open) {
        return Ok(());
    }
    let open = partitions.iter().filter(|assigned| open(assigned)).map(|assigned| assigned.partition.clone()).collect();
    let starts = begin(coordinator, identity, subscription, appeared, open).await?;
    // Another member may have begun at the same moment: what Kafka holds in the end counts for both.
    let committed = coordinator.committed(&names(partitions)).await?;
    take_over(coordinator, &committed, partitions)?;
    for assigned in partitions.iter_mut().filter(|assigned| assigned.committed.is_none()) {
        assigned.start = assigned.start.or_else(|| starts.get(&assigned.partition).copied());
    }
    Ok(())
}

fn take_over(
    coordinator: &Coordinator,
    committed: &BTreeMap<TopicPartition, Committed>,
    partitions: &mut [Assigned],
) -> Result<(), KafkaError> {
    for assigned in partitions {
        let Some(found) = committed.get(&assigned.partition) else { continue };
        let note = found.note();
        let (group, epoch) = (coordinator.group(), coordinator.epoch());
        if let Some(note) = note.filter(|note| note.epoch > epoch) {
            return Err(KafkaError::fatal(format!(
                "group {group}: offsets were committed in epoch {}, and this process is in epoch {epoch}: what it wrote would \
                 count as older than what is there. Set CONNECT_EPOCH={} for every process of this connector",
                note.epoch, note.epoch
            )));
        }
        if note.is_some_and(|note| note.start) {
            assigned.start = Some(found.offset);
        } else {
            assigned.committed = Some(found.offset);
            assigned.committed_by_other = note.is_none();
        }
    }
    Ok(())
}

/// Commits where partitions begin that have no place yet.
async fn begin(
    coordinator: &Coordinator,
    identity: &Identity,
    subscription: &Subscription,
    appeared: impl Fn(&TopicPartition) -> bool,
    mut open: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, i64>, KafkaError> {
    let cluster = coordinator.cluster();
    let topics = subscription.look_up(cluster).await?;
    let begun = coordinator.all_committed().await?.keys().any(|partition| topics.contains_key(&partition.topic));
    if !begun {
        open = topics.values().flat_map(TopicMetadata::all).collect();
    }
    let position = |partition: &TopicPartition| {
        if begun || appeared(partition) { Position::Earliest } else { Position::Latest }
    };
    let positions: Vec<_> = open.into_iter().map(|partition| (partition.clone(), position(&partition))).collect();
    let starts = list_offsets::look_up_all(cluster, positions, cluster.config().isolation).await;
    let starts = starts.map_err(|error| match error {
        SourceError::Fatal(message) => KafkaError::fatal(message),
        other => KafkaError::transient("start", other.to_string()),
    })?;
    let offsets: Vec<_> = starts.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect();
    let note = CommitNote { start: true, epoch: coordinator.epoch() };
    let committed = coordinator.commit_with(identity, &offsets, note).await;
    committed.map_err(|error| match error {
        CommitError::Fatal(message) => KafkaError::fatal(message),
        other => KafkaError::transient("start", other.to_string()),
    })?;
    Ok(starts)
}
