//! What moves from one broker to another, and what must not move with it.

use std::sync::Arc;
use std::time::Duration;

use connect_core::kafka::coordinator::{Coordinator, Identity};
use connect_core::kafka::{GroupAssignment, KafkaSource, StaticAssignment, Subscription};
use connect_core::{Assignment, Budget, Change, Record, Source, SourceError, TopicPartition};
use connect_testkit::broker::{ApiKey, Asked, Brokers, FOREVER, Fault, ResponseError};
use kafka_protocol::messages::FetchRequest;
use tokio::time::timeout;

use crate::drive::GROUP;
use crate::{brokers, cluster, config, draft, partition, put_forward};

/// Reads one record, however often that must be tried.
async fn read_one(source: &KafkaSource, offset: i64) -> Record {
    let read = async {
        loop {
            match source.fetch(&partition(), offset).await {
                Ok(fetched) if fetched.records.is_empty() => {}
                Ok(fetched) => return fetched.records[0].clone(),
                Err(SourceError::Transient { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(Duration::from_secs(60), read).await.expect("a record")
}

fn source(brokers: &Brokers) -> KafkaSource {
    KafkaSource::new(cluster(brokers, &[]), Budget::new(8 << 20))
}

fn last(journal: &[Asked], api: ApiKey) -> &Asked {
    journal.iter().rfind(|asked| asked.api == api).expect("it was asked")
}

#[tokio::test]
async fn reading_goes_on_at_the_new_leader() {
    let brokers = brokers().await;
    let source = source(&brokers);
    read_one(&source, 0).await;
    assert_eq!(last(&brokers.journal(), ApiKey::Fetch).node, 0);
    brokers.move_leader(&partition(), 1);
    brokers.append(&partition(), &[draft("w")]);
    assert_eq!(read_one(&source, 1).await.value, Some("w".into()));
    assert_eq!(last(&brokers.journal(), ApiKey::Fetch).node, 1);
}

/// A broker is told about a partition once, and again when it has moved on.
#[tokio::test]
async fn who_waits_in_a_session_is_named_only_when_something_has_changed() {
    let brokers = brokers().await;
    brokers.keep_sessions(true);
    let source = source(&brokers);
    read_one(&source, 0).await;
    let nothing = source.fetch(&partition(), 1).await.expect("an answer");
    assert!(nothing.records.is_empty());
    let asked = brokers.asked(ApiKey::Fetch, 3).await;
    let said: Vec<_> = asked.iter().map(Asked::request::<FetchRequest>).collect();
    let offsets = |request: &FetchRequest| -> Vec<i64> {
        request.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.fetch_offset).collect()
    };
    let told: Vec<_> = said.iter().map(|request| (request.session_epoch, offsets(request))).take(3).collect();
    assert_eq!(told, [(0, vec![0]), (1, vec![1]), (2, vec![])]);
}

#[tokio::test]
async fn a_replica_nearby_that_has_nothing_is_left_for_the_leader() {
    let brokers = brokers().await;
    brokers.prefer(Some(1));
    let source = source(&brokers);
    read_one(&source, 0).await;
    assert_eq!(last(&brokers.journal(), ApiKey::Fetch).node, 1);
    brokers.prefer(None);
    brokers.script(ApiKey::Fetch, 1, Fault::EachPartition(ResponseError::ReplicaNotAvailable));
    brokers.append(&partition(), &[draft("w")]);
    read_one(&source, 1).await;
    assert_eq!(last(&brokers.journal(), ApiKey::Fetch).node, 0);
}

#[tokio::test]
async fn commits_go_to_the_new_coordinator() {
    let brokers = brokers().await;
    let coordinator = Coordinator::new(cluster(&brokers, &[]), GROUP);
    for (node, offset) in [(0, 1), (1, 2)] {
        brokers.move_coordinator(node);
        while coordinator.commit(&Identity::none(), &[(partition(), offset)]).await.is_err() {}
        assert_eq!(last(&brokers.journal(), ApiKey::OffsetCommit).node, node);
        assert_eq!(brokers.committed(&partition()).map(|(offset, _)| offset), Some(offset));
    }
}

/// A look at the topics goes on when its caller turns to something else, as in a drain. A connection that it is making then is
/// the one that a commit needs.
#[tokio::test]
async fn a_commit_does_not_wait_for_somebody_to_ask_for_changes() {
    let brokers = brokers().await;
    brokers.script(ApiKey::ApiVersions, 1, Fault::Delay(Duration::from_millis(200)));
    let subscription = Subscription::new(&config(&brokers, &[]).topics, None).expect("names");
    let mut all = StaticAssignment::new(cluster(&brokers, &[]), GROUP, subscription, None);
    tokio::select! {
        change = all.next() => panic!("there is no connection yet: {change:?}"),
        _ = brokers.asked(ApiKey::ApiVersions, 1) => {}
    }
    let committed = timeout(Duration::from_secs(60), all.commit(vec![(partition(), 1)])).await;
    committed.expect("it is answered").expect("it is taken");
    assert_eq!(brokers.committed(&partition()).map(|(offset, _)| offset), Some(1));
}

/// A coordinator that moves takes nobody's partitions away.
async fn stays_a_member(protocol: &str, heartbeat: ApiKey) {
    let brokers = brokers().await;
    let settings = [("GROUP_PROTOCOL", protocol), ("SESSION_TIMEOUT", "3s")];
    let subscription = Subscription::new(&config(&brokers, &settings).topics, None).expect("names");
    let mut member = GroupAssignment::new(cluster(&brokers, &settings), GROUP, subscription);
    let Ok(Change::Assigned(assigned)) = member.next().await else { panic!("not assigned") };
    assert_eq!(assigned.len(), 1);
    brokers.move_coordinator(1);
    let beats = |all: &[Asked]| all.iter().filter(|asked| asked.api == heartbeat && asked.node == 1).count() >= 2;
    tokio::select! {
        change = member.next() => panic!("{change:?}"),
        _ = brokers.until("heartbeats at the new coordinator", beats) => {}
    }
    member.leave().await;
}

#[tokio::test]
async fn a_member_by_the_classic_protocol_stays_one_when_the_coordinator_moves() {
    stays_a_member("classic", ApiKey::Heartbeat).await;
}

#[tokio::test]
async fn a_member_by_the_consumer_protocol_stays_one_when_the_coordinator_moves() {
    stays_a_member("consumer", ApiKey::ConsumerGroupHeartbeat).await;
}

#[tokio::test]
async fn a_broker_without_the_consumer_protocol_is_spoken_to_in_the_classic_one() {
    let brokers = brokers().await;
    brokers.hide(ApiKey::ConsumerGroupHeartbeat);
    for (protocol, joins) in [("auto", true), ("consumer", false)] {
        let settings = [("GROUP_PROTOCOL", protocol)];
        let subscription = Subscription::new(&config(&brokers, &settings).topics, None).expect("names");
        let mut member = GroupAssignment::new(cluster(&brokers, &settings), GROUP, subscription);
        match member.next().await {
            Ok(Change::Assigned(assigned)) => assert!(joins && assigned.len() == 1),
            Err(error) => assert!(!joins && error.0.contains("CONNECT_KAFKA_GROUP_PROTOCOL"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Only a topic that is not there is given up: a broker that cannot say has not said that.
#[tokio::test]
async fn a_topic_of_which_nothing_can_be_said_is_not_taken_for_deleted() {
    let brokers = brokers().await;
    let settings = [("TOPICS_REFRESH", "100ms")];
    let subscription = Subscription::new(&config(&brokers, &settings).topics, None).expect("names");
    let mut assignment = StaticAssignment::new(cluster(&brokers, &settings), GROUP, subscription, None);
    let Ok(Change::Assigned(assigned)) = assignment.next().await else { panic!("not assigned") };
    let ours: Vec<TopicPartition> = assigned.into_iter().map(|assigned| assigned.partition).collect();
    let journal = brokers.asked(ApiKey::Metadata, 1).await.len();
    brokers.script(ApiKey::Metadata, 2, Fault::Whole(ResponseError::LeaderNotAvailable));
    brokers.script(ApiKey::Metadata, FOREVER, Fault::Whole(ResponseError::UnknownTopicOrPartition));
    // It looks every three seconds; here they are shorter.
    let clock = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            put_forward(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        change = assignment.next() => assert_eq!(change, Ok(Change::Lost(ours))),
        () = clock => {}
    }
    let asked = brokers.asked(ApiKey::Metadata, journal).await.split_off(journal);
    let unknown = |asked: &&Asked| asked.fault == Some(Fault::Whole(ResponseError::UnknownTopicOrPartition));
    assert_eq!((asked.len(), asked.iter().filter(unknown).count()), (4, 2), "two that cannot say, two that say no");
}

/// What the scripted brokers themselves promise about sessions, without which nothing above them could be believed.
mod sessions {
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{FetchResponse, TopicName};
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::TOPIC;

    async fn fetch(
        connection: &Arc<connect_core::kafka::wire::BrokerConnection>,
        session: (i32, i32),
        offset: Option<i64>,
    ) -> FetchResponse {
        let asked = offset.map(|offset| {
            let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_topic(TopicName(StrBytes::from_static_str(TOPIC)));
            topic.with_partitions(vec![partition.with_current_leader_epoch(-1)])
        });
        let request = FetchRequest::default()
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_session_id(session.0)
            .with_session_epoch(session.1)
            .with_topics(asked.into_iter().collect());
        connection.call(&request, 12, Duration::from_secs(30)).await.expect("an answer")
    }

    #[tokio::test]
    async fn are_kept_where_they_are_asked_for() {
        let brokers = brokers().await;
        let connection = cluster(&brokers, &[]).any().await.expect("a connection");
        assert_eq!(fetch(&connection, (0, 0), Some(0)).await.session_id, 0, "none unless the test wants them");
        brokers.keep_sessions(true);
        assert_eq!(fetch(&connection, (0, -1), Some(0)).await.session_id, 0, "none is asked for");

        let opened = fetch(&connection, (0, 0), Some(0)).await;
        let id = opened.session_id;
        assert!(id != 0 && opened.responses.len() == 1);
        let moved_on = fetch(&connection, (id, 1), Some(1)).await;
        assert!((moved_on.session_id, moved_on.error_code) == (id, 0) && moved_on.responses.is_empty(), "no news");
        brokers.append(&partition(), &[draft("w")]);
        assert_eq!(fetch(&connection, (id, 2), None).await.responses.len(), 1, "what was asked for is known");

        assert_eq!(fetch(&connection, (id, 2), None).await.error_code, ResponseError::InvalidFetchSessionEpoch.code());
        assert_eq!(
            fetch(&connection, (id + 1, 1), None).await.error_code,
            ResponseError::FetchSessionIdNotFound.code()
        );
        assert_eq!(fetch(&connection, (id, -1), Some(0)).await.session_id, 0, "ended");
        assert_eq!(fetch(&connection, (id, 3), None).await.error_code, ResponseError::FetchSessionIdNotFound.code());
    }
}
