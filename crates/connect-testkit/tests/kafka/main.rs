//! What our own connections to Kafka do about whatever a broker may answer, shown by what happens then: on brokers that
//! answer as they are told to. What a real broker can be brought to is tested on one, in connect-core and in `tests/`.

mod commits;
mod drive;
mod faults;
mod membership;
mod moves;
mod table;

use std::sync::Arc;
use std::time::Duration;

use connect_core::TopicPartition;
use connect_core::config::{KafkaConfig, Section};
use connect_core::kafka::batch::Draft;
use connect_core::kafka::wire::Cluster;
use connect_testkit::broker::Brokers;

const TOPIC: &str = "orders";

fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// Two brokers that hold one topic of one partition with one record.
async fn brokers() -> Brokers {
    let brokers = Brokers::start(2).await.expect("ports");
    brokers.create_topic(TOPIC, 1);
    brokers.append(&partition(), &[draft("v")]);
    brokers
}

fn draft(value: &str) -> Draft {
    Draft { timestamp: 0, key: Some("k".into()), value: Some(value.to_owned().into()), headers: vec![] }
}

/// Settings as from the environment, `CONNECT_KAFKA_` left out of their names.
fn config(brokers: &Brokers, pairs: &[(&str, &str)]) -> KafkaConfig {
    let mut all = vec![("BROKERS".to_owned(), brokers.bootstrap()), ("TOPICS".to_owned(), TOPIC.to_owned())];
    all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let all: Vec<_> = all.into_iter().map(|(name, value)| (format!("CONNECT_KAFKA_{name}"), value)).collect();
    let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    KafkaConfig::from_pairs(&all).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Puts the clock forward. Nothing but time passes meanwhile.
async fn put_forward(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn cluster(brokers: &Brokers, pairs: &[(&str, &str)]) -> Arc<Cluster> {
    Cluster::new(config(brokers, pairs))
}
