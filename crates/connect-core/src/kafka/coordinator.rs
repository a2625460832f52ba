//! The broker that keeps a group's offsets and knows its members.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    DescribeGroupsRequest, FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use tracing::debug;

use super::commit_note::CommitNote;
use super::error::KafkaError;
use super::wire::cluster::{REQUEST_TIMEOUT, topic_name};
use super::wire::{BrokerConnection, Cluster, Purpose};
use crate::assignment::CommitError;
use crate::record::TopicPartition;

const FIND_COORDINATOR: i16 = 3;
/// The last version that names topics; 9 is also what members of the new protocol commit with.
const OFFSET_COMMIT: i16 = 9;
/// The first version that tells members' own names is 4.
const DESCRIBE_GROUPS: i16 = 5;
/// The last version that asks for one group.
const OFFSET_FETCH: i16 = 7;

/// Who commits. Kafka refuses a commit in the name of a member that is no longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What the coordinator calls us; empty without membership.
    pub member: String,
    /// The generation or epoch that we are a member of; −1 without membership.
    pub generation: i32,
    /// `CONNECT_KAFKA_INSTANCE_ID`.
    pub instance: Option<String>,
}

impl Identity {
    /// Nobody's: taken only while the group has no members.
    pub fn none() -> Self {
        Self { member: String::new(), generation: -1, instance: None }
    }
}

/// What Kafka holds for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// What its author put beside it.
    pub metadata: String,
}

impl Committed {
    /// What we put beside it; `None` when another program made the commit.
    pub fn note(&self) -> Option<CommitNote> {
        CommitNote::parse(&self.metadata)
    }
}

/// Finds the coordinator, and finds it again when it moves.
pub struct Coordinator {
    cluster: Arc<Cluster>,
    group: String,
    epoch: u16,
    node: Mutex<Option<i32>>,
}

impl Coordinator {
    /// Of this group.
    pub fn new(cluster: Arc<Cluster>, group: &str) -> Self {
        Self { cluster, group: group.to_owned(), epoch: 0, node: Mutex::new(None) }
    }

    /// The same, for a connector in this epoch (`CONNECT_EPOCH`): it stands beside each offset.
    #[must_use]
    pub fn in_epoch(mut self, epoch: u16) -> Self {
        self.epoch = epoch;
        self
    }

    /// `CONNECT_EPOCH`.
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The group's name as the protocol has it.
    pub fn group_id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    /// A connection to it.
    ///
    /// # Errors
    /// Transient while there is none; Fatal when we may not use the group.
    pub async fn connection(&self, purpose: Purpose) -> Result<Arc<BrokerConnection>, KafkaError> {
        let known = *self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let node = match known {
            Some(node) => node,
            None => self.find().await?,
        };
        let connection = self.cluster.broker(node, purpose).await;
        if connection.is_err() {
            self.forget();
        }
        connection
    }

    async fn find(&self) -> Result<i32, KafkaError> {
        let request = FindCoordinatorRequest::default().with_key(text(&self.group)).with_key_type(0);
        let answer = self.cluster.any().await?.call(&request, FIND_COORDINATOR, REQUEST_TIMEOUT).await?;
        if let Some(error) = ResponseError::try_from_code(answer.error_code) {
            return Err(self.explain("find its coordinator", error));
        }
        let node = answer.node_id.0;
        self.cluster.learn(node, &answer.host, answer.port);
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        Ok(node)
    }

    fn forget(&self) {
        self.node.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks it. The coordinator is looked up anew after a failure.
    ///
    /// # Errors
    /// As for [`BrokerConnection::call`].
    pub async fn call<R: Request>(
        &self,
        purpose: Purpose,
        request: &R,
        newest: i16,
        limit: Duration,
    ) -> Result<R::Response, KafkaError> {
        let answer = self.connection(purpose).await?.call(request, newest, limit).await;
        if answer.is_err() {
            self.forget();
        }
        answer
    }

    /// Says what an error of the group's means; what may pass is Transient. Notices when the coordinator moved.
    pub fn explain(&self, what: &str, error: ResponseError) -> KafkaError {
        use ResponseError as E;
        let group = &self.group;
        match error {
            E::CoordinatorLoadInProgress => KafkaError::transient(
                "coordinator",
                format!("group {group}: {what}: its coordinator is taking over ({error:?})"),
            ),
            E::NotCoordinator | E::CoordinatorNotAvailable => {
                self.forget();
                KafkaError::transient(
                    "coordinator",
                    format!("group {group}: {what}: its coordinator is moving ({error:?})"),
                )
            }
            // The group goes on as it is: only the moment was wrong.
            E::RebalanceInProgress | E::StaleMemberEpoch | E::UnstableOffsetCommit => {
                KafkaError::transient("group", format!("group {group}: {what}: not just now ({error:?})"))
            }
            E::GroupAuthorizationFailed | E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => {
                KafkaError::fatal(format!(
                    "group {group}: {what}: not authorized: grant Read on the group and its topics to this client (CONNECT_KAFKA_GROUP)"
                ))
            }
            E::InvalidGroupId => {
                KafkaError::fatal(format!("group {group}: not a valid name: change CONNECT_KAFKA_GROUP"))
            }
            E::FencedInstanceId => KafkaError::fatal(format!(
                "group {group}: {what}: another process has taken over our CONNECT_KAFKA_INSTANCE_ID={}: each process needs its own, such as its pod's name",
                self.cluster.config().instance_id.as_deref().unwrap_or_default()
            )),
            E::InvalidSessionTimeout => KafkaError::fatal(format!(
                "group {group}: the broker does not allow this CONNECT_KAFKA_SESSION_TIMEOUT: see its group.min.session.timeout.ms and group.max.session.timeout.ms"
            )),
            E::GroupMaxSizeReached => KafkaError::fatal(format!(
                "group {group}: it has as many members as the broker allows (group.max.size)"
            )),
            E::InconsistentGroupProtocol => KafkaError::fatal(format!(
                "group {group}: its other members speak another protocol or assignor (ours are cooperative-sticky and, on Kafka 4, the consumer protocol): choose another CONNECT_KAFKA_GROUP or CONNECT_KAFKA_GROUP_PROTOCOL"
            )),
            E::UnsupportedAssignor => KafkaError::fatal(format!(
                "group {group}: the broker does not have the group's assignor (group.consumer.assignors): set CONNECT_KAFKA_GROUP_PROTOCOL=classic"
            )),
            E::OffsetMetadataTooLarge | E::InvalidCommitOffsetSize => KafkaError::fatal(format!(
                "group {group}: {what}: the broker does not take the few words that stand beside each offset ({error:?}): raise its offset.metadata.max.bytes"
            )),
            E::UnsupportedVersion => KafkaError::fatal(format!(
                "group {group}: {what}: the broker is too old or too new for this ({error:?})"
            )),
            _ => {
                // Whatever it was, the coordinator may be another now.
                self.forget();
                KafkaError::transient("group", format!("group {group}: {what}: {error:?}"))
            }
        }
    }

    /// What [`explain`](Self::explain) says, and who has taken our name if somebody has.
    pub async fn refused(&self, what: &str, error: ResponseError) -> KafkaError {
        let explained = self.explain(what, error);
        if error != ResponseError::FencedInstanceId {
            return explained;
        }
        match self.host_of_twin().await {
            Ok(Some(host)) => KafkaError::fatal(format!("{explained}; the other one is at {host}")),
            _ => explained,
        }
    }

    /// Where the member is that has our `CONNECT_KAFKA_INSTANCE_ID`.
    async fn host_of_twin(&self) -> Result<Option<String>, KafkaError> {
        let Some(instance) = self.cluster.config().instance_id.as_deref() else { return Ok(None) };
        let request = DescribeGroupsRequest::default().with_groups(vec![self.group_id()]);
        let answer = self.call(Purpose::Coordinate, &request, DESCRIBE_GROUPS, REQUEST_TIMEOUT).await?;
        let mut members = answer.groups.iter().flat_map(|group| &group.members);
        let twin = members.find(|member| member.group_instance_id.as_deref() == Some(instance));
        Ok(twin.map(|member| member.client_host.to_string()))
    }

    /// The committed offsets of these partitions; those that have none are left out.
    ///
    /// # Errors
    /// Transient when it cannot be said now; Fatal when we may not ask.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Committed>, KafkaError> {
        let topics = by_topic(partitions.iter().map(|partition| (partition, partition.partition)))
            .into_iter()
            .map(|(name, numbers)| {
                OffsetFetchRequestTopic::default().with_name(topic_name(name)).with_partition_indexes(numbers)
            })
            .collect();
        self.fetch_offsets(Some(topics)).await
    }

    /// Everything that is committed under the group's name.
    ///
    /// # Errors
    /// As for [`committed`](Self::committed).
    pub async fn all_committed(&self) -> Result<BTreeMap<TopicPartition, Committed>, KafkaError> {
        self.fetch_offsets(None).await
    }

    async fn fetch_offsets(
        &self,
        topics: Option<Vec<OffsetFetchRequestTopic>>,
    ) -> Result<BTreeMap<TopicPartition, Committed>, KafkaError> {
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group_id())
            .with_topics(topics)
            // Offsets that a transaction is about to commit are waited for.
            .with_require_stable(true);
        let answer = self.call(Purpose::Coordinate, &request, OFFSET_FETCH, REQUEST_TIMEOUT).await?;
        if let Some(error) = ResponseError::try_from_code(answer.error_code) {
            return Err(self.explain("look up offsets", error));
        }
        let mut committed = BTreeMap::new();
        for topic in answer.topics {
            let name: Arc<str> = (*topic.name.0).into();
            for partition in topic.partitions {
                match ResponseError::try_from_code(partition.error_code) {
                    None if partition.committed_offset >= 0 => {
                        let key = TopicPartition::new(Arc::clone(&name), partition.partition_index);
                        let metadata = partition.metadata.map(|text| text.to_string()).unwrap_or_default();
                        committed.insert(key, Committed { offset: partition.committed_offset, metadata });
                    }
                    None | Some(ResponseError::UnknownTopicOrPartition) => {}
                    Some(error) => return Err(self.explain("look up offsets", error)),
                }
            }
        }
        Ok(committed)
    }

    /// Commits offsets in somebody's name: everything below them is durable.
    ///
    /// # Errors
    /// `Fenced` when that is not (or no longer) a member.
    pub async fn commit(&self, identity: &Identity, offsets: &[(TopicPartition, i64)]) -> Result<(), CommitError> {
        let note = CommitNote { start: false, epoch: self.epoch };
        self.commit_with(identity, offsets, note).await
    }

    /// Commits offsets with a note of ours beside them.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit).
    pub async fn commit_with(
        &self,
        identity: &Identity,
        offsets: &[(TopicPartition, i64)],
        note: CommitNote,
    ) -> Result<(), CommitError> {
        let metadata = text(&note.to_string());
        let topics = by_topic(offsets.iter().map(|(partition, offset)| {
            let committed = OffsetCommitRequestPartition::default()
                .with_partition_index(partition.partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(metadata.clone()));
            (partition, committed)
        }));
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(identity.generation)
            .with_member_id(text(&identity.member))
            .with_group_instance_id(identity.instance.as_deref().map(text))
            .with_topics(topics.collect());
        let answer = self.call(Purpose::Coordinate, &request, OFFSET_COMMIT, REQUEST_TIMEOUT).await?;
        for topic in &answer.topics {
            for partition in &topic.partitions {
                match ResponseError::try_from_code(partition.error_code) {
                    None => {}
                    Some(ResponseError::UnknownTopicOrPartition) => {
                        debug!(topic = %*topic.name.0, partition = partition.partition_index, "not committed: it does not exist");
                    }
                    Some(error) => return Err(self.explain_commit(identity, error)),
                }
            }
        }
        Ok(())
    }

    fn explain_commit(&self, identity: &Identity, error: ResponseError) -> CommitError {
        use ResponseError as E;
        let group = &self.group;
        match error {
            E::UnknownMemberId | E::IllegalGeneration if identity.member.is_empty() => CommitError::Transient(format!(
                "group {group}: it has members, so offsets cannot be committed from outside: stop them or choose another CONNECT_KAFKA_GROUP"
            )),
            E::UnknownMemberId | E::IllegalGeneration | E::FencedInstanceId | E::FencedMemberEpoch => {
                CommitError::Fenced(format!("group {group}: we are no longer a member of it ({error:?})"))
            }
            _ => self.explain("commit offsets", error).into(),
        }
    }
}

fn by_topic<'a, T>(items: impl Iterator<Item = (&'a TopicPartition, T)>) -> BTreeMap<&'a str, Vec<T>> {
    let mut topics: BTreeMap<&str, Vec<T>> = BTreeMap::new();
    for (partition, item) in items {
        topics.entry(&partition.topic).or_default().push(item);
    }
    topics
}

/// Text as the protocol has it.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
