//! The choice of who says which partitions are ours.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::coordinator::Coordinator;
use super::error::KafkaError;
use super::group::GroupAssignment;
use super::static_assignment::StaticAssignment;
use super::subscription::Subscription;
use super::wire::Cluster;
use crate::assignment::{Assignment, AssignmentError, Change, CommitError};
use crate::config::{AssignmentChoice, CoreConfig, KafkaConfig};
use crate::record::TopicPartition;

/// What `CONNECT_KAFKA_ASSIGNMENT` names.
pub enum Membership {
    /// A member of the consumer group.
    Group(Box<GroupAssignment>),
    /// All partitions, or a shard of them.
    Static(StaticAssignment),
}

impl Membership {
    /// Makes what the settings name; a group is joined when it is first asked for changes.
    ///
    /// # Errors
    /// The pattern of the topics is none.
    pub fn new(cluster: Arc<Cluster>, core: &CoreConfig) -> Result<Self, KafkaError> {
        let config = cluster.config();
        let subscription = Subscription::new(&config.topics, core.dead_letters.topic())?;
        let group = group_name(config, core);
        let (assignment, coordinator) = (config.assignment, Coordinator::new(Arc::clone(&cluster), &group));
        let coordinator = coordinator.in_epoch(core.epoch.get());
        Ok(match assignment {
            AssignmentChoice::Group => Self::Group(Box::new(GroupAssignment::by(coordinator, subscription))),
            AssignmentChoice::Static => Self::Static(StaticAssignment::by(coordinator, subscription, core.shard)),
        })
    }
}

/// The group that offsets are kept under, with or without membership.
pub fn group_name(kafka: &KafkaConfig, core: &CoreConfig) -> String {
    kafka.group.clone().unwrap_or_else(|| core.name.as_str().to_owned())
}

impl Assignment for Membership {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        match self {
            Self::Group(group) => group.next().await,
            Self::Static(all) => all.next().await,
        }
    }

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'static, Result<(), CommitError>> {
        match self {
            Self::Group(group) => group.commit(offsets),
            Self::Static(all) => all.commit(offsets),
        }
    }

    async fn released(&mut self, partitions: &[TopicPartition]) {
        match self {
            Self::Group(group) => group.released(partitions).await,
            Self::Static(all) => all.released(partitions).await,
        }
    }

    async fn leave(&mut self) {
        match self {
            Self::Group(group) => group.leave().await,
            Self::Static(all) => all.leave().await,
        }
    }
}
