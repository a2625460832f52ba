//! The answers to every kind of request but Fetch.

use bytes::BytesMut;
use connect_core::TopicPartition;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, CreateTopicsRequest, CreateTopicsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, ProduceRequest,
    ProduceResponse, ResponseHeader, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request, StrBytes};

use super::state::{State, by_topic};
use super::{Asked, Fault};

/// The requests that are known, and the newest version of each that is answered here: from the next on topics go by id,
/// or one request is about several groups.
const KNOWN: [(ApiKey, i16); 14] = [
    (ApiKey::ApiVersions, 3),
    (ApiKey::Metadata, 12),
    (ApiKey::Fetch, 12),
    (ApiKey::ListOffsets, 7),
    (ApiKey::Produce, 9),
    (ApiKey::CreateTopics, 5),
    (ApiKey::FindCoordinator, 3),
    (ApiKey::OffsetFetch, 7),
    (ApiKey::OffsetCommit, 9),
    (ApiKey::JoinGroup, 9),
    (ApiKey::SyncGroup, 5),
    (ApiKey::Heartbeat, 4),
    (ApiKey::LeaveGroup, 5),
    (ApiKey::ConsumerGroupHeartbeat, 1),
];
/// Positions that ListOffsets takes in place of a time.
const LATEST: i64 = -1;
/// How often members of the new protocol are asked to be heard: often, so that tests are short.
const HEARTBEAT_MS: i32 = 100;

/// What an answer must say beside or instead of the truth.
#[derive(Clone, Copy, Default)]
pub(super) struct Say {
    pub whole: Option<ResponseError>,
    pub each: Option<ResponseError>,
    pub throttle: i32,
}

impl Say {
    /// For what has only one place for it.
    pub fn any(self) -> Option<ResponseError> {
        self.whole.or(self.each)
    }
}

impl From<Option<Fault>> for Say {
    fn from(fault: Option<Fault>) -> Self {
        match fault {
            Some(Fault::Whole(error)) => Self { whole: Some(error), ..Self::default() },
            Some(Fault::EachPartition(error)) => Self { each: Some(error), ..Self::default() },
            Some(Fault::Throttle(time)) => Self { throttle: time.as_millis() as i32, ..Self::default() },
            _ => Self::default(),
        }
    }
}

pub(super) fn encode<R: Request>(response: &R::Response, version: i16) -> Option<BytesMut> {
    let mut bytes = BytesMut::new();
    ResponseHeader::default().encode(&mut bytes, R::Response::header_version(version)).ok()?;
    response.encode(&mut bytes, version).ok()?;
    // The correlation id is written by whoever sends this.
    Some(bytes.split_off(4))
}

impl State {
    /// The answer's bytes behind the correlation id; `None` to what is not known here.
    pub fn answer(&mut self, asked: &Asked, mut say: Say) -> Option<BytesMut> {
        let version = asked.version;
        let of_the_group = matches!(
            asked.api,
            ApiKey::OffsetFetch | ApiKey::OffsetCommit | ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat
        ) || matches!(asked.api, ApiKey::LeaveGroup | ApiKey::ConsumerGroupHeartbeat);
        if of_the_group && asked.node != self.coordinator {
            say.whole = say.whole.or(Some(ResponseError::NotCoordinator));
        }
        let error = code(say.any());
        let throttle = say.throttle;
        match asked.api {
            ApiKey::ApiVersions if error != 0 => {
                // As a broker does that does not know the version it was asked in.
                let refusal = ApiVersionsResponse::default().with_error_code(error);
                encode::<ApiVersionsRequest>(&refusal, 0)
            }
            ApiKey::ApiVersions => encode::<ApiVersionsRequest>(&self.api_versions(throttle), version),
            ApiKey::Metadata => encode::<MetadataRequest>(&self.metadata(&asked.request(), say), version),
            ApiKey::ListOffsets => {
                encode::<ListOffsetsRequest>(&self.list_offsets(asked.node, &asked.request(), say), version)
            }
            ApiKey::Produce => encode::<ProduceRequest>(&self.produce(asked.node, &asked.request(), say), version),
            ApiKey::CreateTopics => encode::<CreateTopicsRequest>(&self.create_topics(&asked.request(), say), version),
            ApiKey::FindCoordinator => {
                let address = self.addresses[self.coordinator as usize];
                let response = FindCoordinatorResponse::default()
                    .with_throttle_time_ms(throttle)
                    .with_error_code(error)
                    .with_node_id(BrokerId(self.coordinator))
                    .with_host(text(&address.ip().to_string()))
                    .with_port(address.port().into());
                encode::<FindCoordinatorRequest>(&response, version)
            }
            ApiKey::OffsetFetch => encode::<OffsetFetchRequest>(&self.offset_fetch(&asked.request(), say), version),
            ApiKey::OffsetCommit => encode::<OffsetCommitRequest>(&self.offset_commit(&asked.request(), say), version),
            ApiKey::JoinGroup => encode::<JoinGroupRequest>(&self.join(asked.request(), say), version),
            ApiKey::SyncGroup => encode::<SyncGroupRequest>(&sync(asked.request(), say), version),
            ApiKey::Heartbeat => {
                let response = HeartbeatResponse::default().with_throttle_time_ms(throttle).with_error_code(error);
                encode::<HeartbeatRequest>(&response, version)
            }
            ApiKey::LeaveGroup => {
                let response = LeaveGroupResponse::default().with_throttle_time_ms(throttle).with_error_code(error);
                encode::<LeaveGroupRequest>(&response, version)
            }
            ApiKey::ConsumerGroupHeartbeat => {
                encode::<ConsumerGroupHeartbeatRequest>(&self.consumer_heartbeat(&asked.request(), say), version)
            }
            _ => None,
        }
    }

    fn api_versions(&self, throttle: i32) -> ApiVersionsResponse {
        let known = KNOWN.iter().filter(|(api, _)| !self.hidden.contains(api)).map(|(api, newest)| {
            ApiVersion::default()
                .with_api_key(*api as i16)
                .with_min_version(api.valid_versions().min)
                .with_max_version(*newest)
        });
        ApiVersionsResponse::default().with_throttle_time_ms(throttle).with_api_keys(known.collect())
    }

    fn metadata(&self, request: &MetadataRequest, say: Say) -> MetadataResponse {
        let brokers = (0..).zip(&self.addresses).map(|(node, address)| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(node))
                .with_host(text(&address.ip().to_string()))
                .with_port(address.port().into())
        });
        let names: Vec<String> = match &request.topics {
            Some(topics) => topics.iter().filter_map(|topic| Some(topic.name.as_ref()?.to_string())).collect(),
            None => self.topics.keys().cloned().collect(),
        };
        let topics = names.iter().map(|topic| {
            let answer = MetadataResponseTopic::default().with_name(Some(name(topic)));
            match (say.whole, self.topics.get(topic)) {
                (Some(error), _) => answer.with_error_code(error.code()),
                (None, None) => answer.with_error_code(ResponseError::UnknownTopicOrPartition.code()),
                (None, Some(topic)) => {
                    let partitions = (0..).zip(&topic.logs).map(|(number, log)| {
                        let led = say.each != Some(ResponseError::LeaderNotAvailable);
                        MetadataResponsePartition::default()
                            .with_error_code(code(say.each))
                            .with_partition_index(number)
                            .with_leader_id(BrokerId(if led { log.leader } else { -1 }))
                            .with_leader_epoch(log.epoch)
                    });
                    answer.with_topic_id(topic.id).with_partitions(partitions.collect())
                }
            }
        });
        MetadataResponse::default()
            .with_throttle_time_ms(say.throttle)
            .with_brokers(brokers.collect())
            .with_controller_id(BrokerId(0))
            .with_topics(topics.collect())
    }

    /// A time is that of the first record: no test needs more.
    fn list_offsets(&mut self, node: i32, request: &ListOffsetsRequest, say: Say) -> ListOffsetsResponse {
        let mut answers = Vec::new();
        for (partition, asked) in request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|asked| (partition(&topic.name, asked.partition_index), asked))
        }) {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(partition.partition);
            let answer = match self.led_log(node, &partition, asked.current_leader_epoch, say) {
                Ok(log) => answer.with_offset(if asked.timestamp == LATEST { log.end } else { log.start }),
                Err(error) => answer.with_error_code(error.code()).with_offset(-1),
            };
            answers.push((partition, answer));
        }
        let topics =
            by_topic(answers, |topic, all| ListOffsetsTopicResponse::default().with_name(topic).with_partitions(all));
        ListOffsetsResponse::default().with_throttle_time_ms(say.throttle).with_topics(topics)
    }

    fn produce(&mut self, node: i32, request: &ProduceRequest, say: Say) -> ProduceResponse {
        let mut answers = Vec::new();
        for (partition, data) in request
            .topic_data
            .iter()
            .flat_map(|topic| topic.partition_data.iter().map(|data| (partition(&topic.name, data.index), data)))
        {
            let answer = PartitionProduceResponse::default().with_index(partition.partition);
            let answer = match self.led_log(node, &partition, -1, say) {
                Ok(log) => answer.with_base_offset(data.records.as_ref().map_or(log.end, |batch| log.append(batch))),
                Err(error) => answer.with_error_code(error.code()).with_base_offset(-1),
            };
            answers.push((partition, answer));
        }
        let topics = by_topic(answers, |topic, all| {
            TopicProduceResponse::default().with_name(topic).with_partition_responses(all)
        });
        ProduceResponse::default().with_throttle_time_ms(say.throttle).with_responses(topics)
    }

    fn create_topics(&mut self, request: &CreateTopicsRequest, say: Say) -> CreateTopicsResponse {
        let error = say.any();
        let results = request.topics.iter().map(|topic| {
            if error.is_none() {
                self.create_topic(&topic.name, topic.num_partitions.max(1));
            }
            CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(code(error))
        });
        CreateTopicsResponse::default().with_throttle_time_ms(say.throttle).with_topics(results.collect())
    }

    fn offset_fetch(&self, request: &OffsetFetchRequest, say: Say) -> OffsetFetchResponse {
        let asked: Vec<TopicPartition> = match &request.topics {
            None => self.committed.keys().cloned().collect(),
            Some(topics) => topics
                .iter()
                .flat_map(|topic| topic.partition_indexes.iter().map(|number| partition(&topic.name, *number)))
                .collect(),
        };
        let answers = asked.into_iter().map(|partition| {
            let (offset, metadata) = self.committed.get(&partition).cloned().unwrap_or((-1, String::new()));
            let answer = OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition)
                .with_error_code(code(say.each))
                .with_committed_offset(if say.each.is_some() { -1 } else { offset })
                .with_metadata(Some(text(&metadata)));
            (partition, answer)
        });
        let topics =
            by_topic(answers, |topic, all| OffsetFetchResponseTopic::default().with_name(topic).with_partitions(all));
        let response =
            OffsetFetchResponse::default().with_throttle_time_ms(say.throttle).with_error_code(code(say.whole));
        if say.whole.is_some() { response } else { response.with_topics(topics) }
    }

    fn offset_commit(&mut self, request: &OffsetCommitRequest, say: Say) -> OffsetCommitResponse {
        let error = say.any();
        let mut answers = Vec::new();
        for topic in &request.topics {
            for asked in &topic.partitions {
                let partition = partition(&topic.name, asked.partition_index);
                if error.is_none() {
                    let metadata = asked.committed_metadata.as_ref().map(ToString::to_string).unwrap_or_default();
                    self.committed.insert(partition.clone(), (asked.committed_offset, metadata));
                }
                let answer = OffsetCommitResponsePartition::default().with_partition_index(asked.partition_index);
                answers.push((partition, answer.with_error_code(code(error))));
            }
        }
        let topics =
            by_topic(answers, |topic, all| OffsetCommitResponseTopic::default().with_name(topic).with_partitions(all));
        OffsetCommitResponse::default().with_throttle_time_ms(say.throttle).with_topics(topics)
    }

    /// Whoever joins is the only member, and leads.
    fn join(&mut self, request: JoinGroupRequest, say: Say) -> JoinGroupResponse {
        self.group += 1;
        let stranger = request.member_id.is_empty();
        let id = if stranger { text(&format!("member-{}", self.group)) } else { request.member_id };
        let nameless = stranger && request.group_instance_id.is_none();
        let error = say.any().or(nameless.then_some(ResponseError::MemberIdRequired));
        let response = JoinGroupResponse::default()
            .with_throttle_time_ms(say.throttle)
            .with_error_code(code(error))
            .with_member_id(id.clone());
        let Some(protocol) = request.protocols.into_iter().next().filter(|_| error.is_none()) else {
            return response.with_generation_id(-1).with_protocol_name(Some(StrBytes::default()));
        };
        let member = JoinGroupResponseMember::default()
            .with_member_id(id.clone())
            .with_group_instance_id(request.group_instance_id)
            .with_metadata(protocol.metadata);
        response
            .with_generation_id(self.group)
            .with_protocol_type(Some(request.protocol_type))
            .with_protocol_name(Some(protocol.name))
            .with_leader(id)
            .with_members(vec![member])
    }

    /// Whoever joins gets every partition of its topics.
    fn consumer_heartbeat(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        say: Say,
    ) -> ConsumerGroupHeartbeatResponse {
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_throttle_time_ms(say.throttle)
            .with_error_code(code(say.any()))
            .with_member_id(Some(request.member_id.clone()))
            .with_member_epoch(request.member_epoch)
            .with_heartbeat_interval_ms(HEARTBEAT_MS);
        if request.member_epoch != 0 || say.any().is_some() {
            return response;
        }
        self.group += 1;
        let names = request.subscribed_topic_names.iter().flatten();
        let topics = names.filter_map(|name| self.topics.get(name.as_str())).map(|topic| {
            TopicPartitions::default().with_topic_id(topic.id).with_partitions((0..topic.logs.len() as i32).collect())
        });
        let assignment = Assignment::default().with_topic_partitions(topics.collect());
        response.with_member_epoch(self.group).with_assignment(Some(assignment))
    }
}

/// The leader, which is the only member, says what it gets.
fn sync(request: SyncGroupRequest, say: Say) -> SyncGroupResponse {
    let own = request.assignments.into_iter().find(|share| share.member_id == request.member_id);
    SyncGroupResponse::default()
        .with_throttle_time_ms(say.throttle)
        .with_error_code(code(say.any()))
        .with_protocol_type(request.protocol_type)
        .with_protocol_name(request.protocol_name)
        .with_assignment(own.map(|share| share.assignment).unwrap_or_default())
}

pub(super) fn code(error: Option<ResponseError>) -> i16 {
    error.map_or(0, |error| error.code())
}

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn partition(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, number)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
