//! Fetches, with sessions (KIP-227) and without.

use std::collections::{BTreeMap, HashMap};

use connect_core::TopicPartition;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};

use super::answers::Say;
use super::state::{State, by_topic};

/// The epoch that ends a session, or asks for none.
const NO_SESSION: i32 = -1;

/// What clients have asked for and need not repeat.
#[derive(Default)]
pub(super) struct Sessions {
    keep: bool,
    last: i32,
    open: HashMap<i32, Session>,
}

#[derive(Default)]
struct Session {
    /// The epoch that the next request must have.
    epoch: i32,
    partitions: BTreeMap<TopicPartition, FetchPartition>,
    /// The high watermarks that the client knows.
    told: HashMap<TopicPartition, i64>,
}

/// A request of which the session is settled.
pub(super) struct Fetch {
    node: i32,
    /// Id of the session, 0 without one.
    session: i32,
    /// Only news are told.
    incremental: bool,
    partitions: Result<BTreeMap<TopicPartition, FetchPartition>, ResponseError>,
}

impl Sessions {
    pub fn keep(&mut self, keep: bool) {
        self.keep = keep;
        self.open.clear();
    }

    fn settle(
        &mut self,
        request: &FetchRequest,
    ) -> Result<(i32, BTreeMap<TopicPartition, FetchPartition>), ResponseError> {
        let named = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|asked| (partition(&topic.topic, asked.partition), asked.clone()))
        });
        let named: BTreeMap<_, _> = named.collect();
        if request.session_epoch <= 0 {
            self.open.remove(&request.session_id);
            if request.session_epoch == NO_SESSION || !self.keep {
                return Ok((0, named));
            }
            self.last += 1;
            let session = Session { epoch: 1, partitions: named.clone(), told: HashMap::new() };
            self.open.insert(self.last, session);
            return Ok((self.last, named));
        }
        let session = self.open.get_mut(&request.session_id).ok_or(ResponseError::FetchSessionIdNotFound)?;
        if session.epoch != request.session_epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        for topic in &request.forgotten_topics_data {
            for number in &topic.partitions {
                session.partitions.remove(&partition(&topic.topic, *number));
            }
        }
        session.partitions.extend(named);
        Ok((request.session_id, session.partitions.clone()))
    }
}

impl State {
    /// Takes the request to its session. A refusal of the whole leaves the session as it was.
    pub fn open_fetch(&mut self, node: i32, request: &FetchRequest, say: Say) -> Fetch {
        let settled = match say.whole {
            Some(error) => Err(error),
            None => self.sessions.settle(request),
        };
        let session = settled.as_ref().map_or(0, |(session, _)| *session);
        let partitions = settled.map(|(_, partitions)| partitions);
        Fetch { node, session, incremental: session != 0 && request.session_epoch > 0, partitions }
    }

    /// What there is to say to it now.
    pub fn fetch(&mut self, fetch: &Fetch, say: Say) -> FetchResponse {
        let response = FetchResponse::default().with_throttle_time_ms(say.throttle).with_session_id(fetch.session);
        let partitions = match &fetch.partitions {
            Ok(partitions) => partitions,
            Err(error) => return response.with_error_code(error.code()),
        };
        let mut answers = Vec::new();
        for (partition, asked) in partitions {
            let answer = self.read(fetch.node, partition, asked, say);
            let told = self.sessions.open.get_mut(&fetch.session).map(|session| &mut session.told);
            let told = told.and_then(|told| told.insert(partition.clone(), answer.high_watermark));
            if !fetch.incremental || is_news(&answer) || told != Some(answer.high_watermark) {
                answers.push((partition.clone(), answer));
            }
        }
        response.with_responses(by_topic(answers, |topic, all| {
            FetchableTopicResponse::default().with_topic(topic).with_partitions(all)
        }))
    }

    fn read(&mut self, node: i32, partition: &TopicPartition, asked: &FetchPartition, say: Say) -> PartitionData {
        let preferred = self.preferred;
        let answer = PartitionData::default()
            .with_partition_index(partition.partition)
            .with_preferred_read_replica(BrokerId(-1))
            .with_aborted_transactions(None);
        let log = self.led_log(node, partition, asked.current_leader_epoch, say).and_then(|log| {
            let held = (log.start..=log.end).contains(&asked.fetch_offset);
            if held { Ok(log) } else { Err(ResponseError::OffsetOutOfRange) }
        });
        let log = match log {
            Ok(log) => log,
            Err(error) => return answer.with_error_code(error.code()).with_high_watermark(-1),
        };
        let answer =
            answer.with_high_watermark(log.end).with_last_stable_offset(log.end).with_log_start_offset(log.start);
        match preferred.filter(|_| log.leader == node) {
            Some(replica) => answer.with_preferred_read_replica(BrokerId(replica)),
            None => answer.with_records(Some(log.read(asked.fetch_offset, asked.partition_max_bytes.max(1) as usize))),
        }
    }
}

/// Whether an answer need not wait.
pub(super) fn has_news(response: &FetchResponse) -> bool {
    let mut answers = response.responses.iter().flat_map(|topic| &topic.partitions);
    response.error_code != 0 || answers.any(is_news)
}

fn is_news(answer: &PartitionData) -> bool {
    let records = answer.records.as_ref().is_some_and(|records| !records.is_empty());
    records || answer.error_code != 0 || answer.preferred_read_replica.0 >= 0
}

fn partition(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, number)
}
