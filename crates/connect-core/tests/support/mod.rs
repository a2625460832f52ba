//! A real broker's topics, and producers that can do what rskafka's cannot.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use connect_core::TopicPartition;
use connect_core::config::{KafkaConfig, Section};
use connect_core::kafka::batch::encode::{Draft, encode_as};
use connect_core::kafka::wire::{BrokerConnection, Cluster, Purpose};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, EndTxnRequest,
    FindCoordinatorRequest, InitProducerIdRequest, ProduceRequest, ProducerId, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

pub const LIMIT: Duration = Duration::from_secs(30);

pub fn bootstrap() -> String {
    std::env::var("SYSTEM_TEST_KAFKA").expect("SYSTEM_TEST_KAFKA=host:port of a broker that may be written to")
}

/// Settings as from the environment, `CONNECT_KAFKA_` left out of their names.
pub fn config(pairs: &[(&str, &str)]) -> KafkaConfig {
    let brokers = bootstrap();
    let mut all = vec![("CONNECT_KAFKA_BROKERS".to_owned(), brokers.as_str())];
    if !pairs.iter().any(|(name, _)| *name == "TOPICS") {
        all.push(("CONNECT_KAFKA_TOPICS".to_owned(), "unused"));
    }
    all.extend(pairs.iter().map(|(name, value)| (format!("CONNECT_KAFKA_{name}"), *value)));
    let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    KafkaConfig::from_pairs(&all).unwrap_or_else(|problems| panic!("{problems}"))
}

pub fn cluster(pairs: &[(&str, &str)]) -> Arc<Cluster> {
    Cluster::new(config(pairs))
}

/// A name that no other test uses, nor an earlier run.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_millis();
    format!("{name}-{now}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_millis() as i64
}

pub fn draft(key: Option<&str>, value: Option<&str>) -> Draft {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Draft { timestamp: now(), key: key.map(bytes), value: value.map(bytes), headers: vec![] }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Polls until something is there.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within 90 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn create_topic(cluster: &Cluster, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let configs = settings
        .iter()
        .map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value))));
    let topics = CreatableTopic::default()
        .with_name(TopicName(text(topic)))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topics]).with_timeout_ms(10_000);
    let answer = cluster.any().await.expect("a broker").call(&request, 5, LIMIT).await.expect("an answer");
    assert_eq!(answer.topics[0].error_code, 0, "{topic}: {:?}", answer.topics[0].error_message);
    let name: Arc<str> = topic.into();
    eventually("the topic has leaders", async || {
        for partition in 0..partitions {
            cluster.leader(&TopicPartition::new(Arc::clone(&name), partition)).await.ok()?;
        }
        Some(())
    })
    .await;
}

pub async fn delete_topic(cluster: &Cluster, topic: &str) {
    let request = DeleteTopicsRequest::default().with_topic_names(vec![TopicName(text(topic))]).with_timeout_ms(10_000);
    let answer = cluster.any().await.expect("a broker").call(&request, 5, LIMIT).await.expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0);
}

pub async fn add_partitions(cluster: &Cluster, topic: &str, count: i32) {
    let topics =
        CreatePartitionsTopic::default().with_name(TopicName(text(topic))).with_count(count).with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![topics]).with_timeout_ms(10_000);
    let answer = cluster.any().await.expect("a broker").call(&request, 3, LIMIT).await.expect("an answer");
    assert_eq!(answer.results[0].error_code, 0);
}

/// Writes one batch of no transaction.
pub async fn produce(cluster: &Cluster, partition: &TopicPartition, drafts: &[Draft]) -> i64 {
    send(cluster, partition, encode_as(drafts, None), None).await
}

async fn send(cluster: &Cluster, partition: &TopicPartition, batch: Bytes, transaction: Option<&str>) -> i64 {
    let data = PartitionProduceData::default().with_index(partition.partition).with_records(Some(batch));
    let topic =
        TopicProduceData::default().with_name(TopicName(text(&partition.topic))).with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_transactional_id(transaction.map(|id| TransactionalId(text(id))))
        .with_topic_data(vec![topic]);
    eventually("the batch is taken", async || {
        let leader = cluster.leader(partition).await.ok()?;
        let connection = cluster.broker(leader.node, Purpose::Ask).await.ok()?;
        let answer = connection.call(&request, 9, LIMIT).await.ok()?;
        let answer = &answer.responses[0].partition_responses[0];
        if answer.error_code == 6 || answer.error_code == 3 {
            cluster.forget_leader(partition);
            return None;
        }
        // 51: the end of the transaction before is still being written.
        if answer.error_code == 51 {
            return None;
        }
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        Some(answer.base_offset)
    })
    .await
}

/// A transactional producer of one partition.
pub struct Producer<'a> {
    cluster: &'a Cluster,
    id: String,
    coordinator: Arc<BrokerConnection>,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
}

impl<'a> Producer<'a> {
    pub async fn new(cluster: &'a Cluster) -> Self {
        let id = unique("producer");
        let find = FindCoordinatorRequest::default().with_key(text(&id)).with_key_type(1);
        let node = eventually("a transaction coordinator", async || {
            let answer = cluster.any().await.expect("a broker").call(&find, 3, LIMIT).await.expect("an answer");
            (answer.error_code == 0).then(|| {
                cluster.learn(answer.node_id.0, &answer.host, answer.port);
                answer.node_id.0
            })
        })
        .await;
        let coordinator = cluster.broker(node, Purpose::Coordinate).await.expect("the coordinator");
        let init = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text(&id))))
            .with_transaction_timeout_ms(600_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let answer = eventually("a producer id", async || {
            let answer = coordinator.call(&init, 3, LIMIT).await.expect("an answer");
            (answer.error_code == 0).then_some(answer)
        })
        .await;
        Self { cluster, id, coordinator, producer_id: answer.producer_id.0, epoch: answer.producer_epoch, sequence: 0 }
    }

    /// Writes one batch of the transaction that is open; opens one if none is.
    pub async fn produce(&mut self, partition: &TopicPartition, drafts: &[Draft]) {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(TopicName(text(&partition.topic)))
            .with_partitions(vec![partition.partition]);
        let add = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(text(&self.id)))
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        eventually("the partition is part of the transaction", async || {
            let answer = self.coordinator.call(&add, 3, LIMIT).await.expect("an answer");
            let code = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            // 51: the transaction before is still being finished.
            assert!(code == 0 || code == 51, "{code}");
            (code == 0).then_some(())
        })
        .await;
        let batch = encode_as(drafts, Some((self.producer_id, self.epoch, self.sequence)));
        self.sequence += drafts.len() as i32;
        send(self.cluster, partition, batch, Some(&self.id)).await;
    }

    /// Commits or aborts what is open.
    pub async fn end(&mut self, committed: bool) {
        let end = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&self.id)))
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(committed);
        let answer = self.coordinator.call(&end, 3, LIMIT).await.expect("an answer");
        assert_eq!(answer.error_code, 0);
    }
}
