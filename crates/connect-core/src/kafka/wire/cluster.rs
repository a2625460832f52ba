//! The brokers of a cluster: who they are, who leads what, and connections to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tracing::debug;

use super::connection::BrokerConnection;
use crate::config::KafkaConfig;
use crate::kafka::error::KafkaError;
use crate::kafka::token::Tokens;
use crate::record::TopicPartition;

/// How long a request that the broker answers at once may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long leaders are read after a replica nearby has failed. A leader goes on naming it until the controller misses it,
/// which takes 9 s unless the brokers are set otherwise.
const REPLICAS_AVOIDED: Duration = Duration::from_secs(30);
/// The newest version of Metadata that we speak; topic ids come with 10.
const METADATA: i16 = 12;

/// A broker handles the requests of a connection one after the other, so what may wait there gets a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Short questions: metadata, offsets by time.
    Ask,
    /// Fetches that wait for new records.
    Wait,
    /// Fetches of records that are there.
    Read,
    /// Joining a group, which waits for the others.
    Join,
    /// Heartbeats and commits.
    Coordinate,
}

/// The leader of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its node id.
    pub node: i32,
    /// The term it leads in.
    pub epoch: i32,
}

/// What the cluster says about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: Arc<str>,
    /// Identity of this life of the topic; `None` from brokers before 2.8.
    pub id: Option<[u8; 16]>,
    /// Kafka's own, as `__consumer_offsets`.
    pub internal: bool,
    /// Its partitions' numbers, in order.
    pub partitions: Vec<i32>,
}

impl TopicMetadata {
    /// Its partitions, in order.
    pub fn all(&self) -> Vec<TopicPartition> {
        self.partitions.iter().map(|number| TopicPartition::new(Arc::clone(&self.name), *number)).collect()
    }
}

type Slot = Arc<AsyncMutex<Option<Arc<BrokerConnection>>>>;

/// Connections are made when first needed, shared, and made again after they broke.
pub struct Cluster {
    config: KafkaConfig,
    tokens: Tokens,
    brokers: Mutex<HashMap<i32, String>>,
    leaders: Mutex<HashMap<TopicPartition, Leader>>,
    connections: Mutex<HashMap<(i32, Purpose), Slot>>,
    entrance: Slot,
    /// Until then leaders are read, wherever they are.
    replicas_avoided: Mutex<Option<Instant>>,
    refreshing: AsyncMutex<()>,
}

impl Cluster {
    /// Takes the settings; connects on first use.
    pub fn new(config: KafkaConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            tokens: Tokens::default(),
            brokers: Mutex::default(),
            leaders: Mutex::default(),
            connections: Mutex::default(),
            entrance: Slot::default(),
            replicas_avoided: Mutex::default(),
            refreshing: AsyncMutex::default(),
        })
    }

    /// The settings.
    pub fn config(&self) -> &KafkaConfig {
        &self.config
    }

    /// Where we say that we are, so that a leader names a replica nearby; empty where none is wanted.
    pub(crate) fn rack(&self) -> &str {
        let avoided = lock(&self.replicas_avoided).is_some_and(|until| Instant::now() < until);
        self.config.rack.as_deref().filter(|_| !avoided).unwrap_or_default()
    }

    /// A replica nearby failed: leaders are read for a while.
    pub(crate) fn avoid_replicas(&self) {
        *lock(&self.replicas_avoided) = Some(Instant::now() + REPLICAS_AVOIDED);
    }

    /// A connection to some broker, for questions that each of them can answer.
    ///
    /// # Errors
    /// The last broker's error when none can be reached.
    pub async fn any(&self) -> Result<Arc<BrokerConnection>, KafkaError> {
        let mut slot = self.entrance.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_alive()) {
            return Ok(Arc::clone(connection));
        }
        let mut last = KafkaError::fatal("CONNECT_KAFKA_BROKERS names no broker");
        let mut known: Vec<String> = lock(&self.brokers).values().cloned().collect();
        known.extend(self.config.brokers.iter().map(ToString::to_string));
        // What was found first, then what was configured: all that were known may have moved.
        for address in &known {
            match BrokerConnection::open(&self.config, &self.tokens, address).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    *slot = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The connection to a broker for a purpose.
    ///
    /// # Errors
    /// Transient when the broker is not known or cannot be reached, Fatal when it refuses us.
    pub async fn broker(&self, node: i32, purpose: Purpose) -> Result<Arc<BrokerConnection>, KafkaError> {
        let slot = Arc::clone(lock(&self.connections).entry((node, purpose)).or_default());
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_alive()) {
            return Ok(Arc::clone(connection));
        }
        let address = lock(&self.brokers).get(&node).cloned();
        let address = address.ok_or_else(|| {
            KafkaError::transient("metadata", format!("Kafka: broker {node} is not known (yet, or any more)"))
        })?;
        debug!(node, %address, ?purpose, "connecting");
        let connection = Arc::new(BrokerConnection::open(&self.config, &self.tokens, &address).await?);
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Remembers where a broker is, as told by something other than metadata.
    pub fn learn(&self, node: i32, host: &str, port: i32) {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        lock(&self.brokers).insert(node, address);
    }

    /// Asks for these topics, or for all. A topic that does not exist is left out.
    ///
    /// # Errors
    /// Transient when nobody answers; Fatal when we may not know.
    pub async fn topics(&self, names: Option<&[Arc<str>]>) -> Result<Vec<TopicMetadata>, KafkaError> {
        let topics = names.map(|names| {
            let topic = |name: &Arc<str>| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let answer = self.any().await?.call(&request, METADATA, REQUEST_TIMEOUT).await?;
        for broker in &answer.brokers {
            self.learn(broker.node_id.0, &broker.host, broker.port);
        }
        let mut found = Vec::with_capacity(answer.topics.len());
        for topic in answer.topics {
            if let Some(topic) = self.learn_topic(topic)? {
                found.push(topic);
            }
        }
        Ok(found)
    }

    fn learn_topic(&self, topic: MetadataResponseTopic) -> Result<Option<TopicMetadata>, KafkaError> {
        let Some(name) = topic.name.as_ref().map(|name| Arc::<str>::from(&*name.0)) else { return Ok(None) };
        match ResponseError::try_from_code(topic.error_code) {
            None => {}
            Some(ResponseError::TopicAuthorizationFailed) => {
                return Err(KafkaError::fatal(format!(
                    "Kafka: topic {name}: not authorized: grant Describe and Read on it to {}",
                    self.config.sasl_username.as_deref().unwrap_or("this client")
                )));
            }
            Some(ResponseError::InvalidTopicException) => {
                return Err(KafkaError::fatal(format!("CONNECT_KAFKA_TOPICS: {name} is not a valid name of a topic")));
            }
            Some(ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId) => {
                debug!(topic = %name, "topic left out: it does not exist");
                return Ok(None);
            }
            // Anything else says nothing about whether it exists: whoever took it for deleted would give it up.
            Some(error) if topic.partitions.is_empty() => {
                return Err(KafkaError::transient("metadata", format!("Kafka: topic {name}: {error:?}")));
            }
            Some(_) => {}
        }
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        let mut leaders = lock(&self.leaders);
        for partition in &topic.partitions {
            partitions.push(partition.partition_index);
            let key = TopicPartition::new(Arc::clone(&name), partition.partition_index);
            // −1: an election is on.
            if partition.leader_id.0 >= 0 {
                leaders.insert(key, Leader { node: partition.leader_id.0, epoch: partition.leader_epoch });
            } else {
                leaders.remove(&key);
            }
        }
        partitions.sort_unstable();
        let id = Some(topic.topic_id.into_bytes()).filter(|id| *id != [0; 16]);
        Ok(Some(TopicMetadata { name, id, internal: topic.is_internal, partitions }))
    }

    /// Who leads a partition.
    ///
    /// # Errors
    /// Transient while nobody does.
    pub async fn leader(&self, partition: &TopicPartition) -> Result<Leader, KafkaError> {
        let known = || lock(&self.leaders).get(partition).copied();
        if let Some(leader) = known() {
            return Ok(leader);
        }
        // Many partitions may ask at once; one answer serves all of a topic.
        let _one = self.refreshing.lock().await;
        if let Some(leader) = known() {
            return Ok(leader);
        }
        let topics = self.topics(Some(&[Arc::clone(&partition.topic)])).await?;
        known().ok_or_else(|| {
            if topics.iter().any(|topic| topic.partitions.contains(&partition.partition)) {
                return KafkaError::transient("leader", format!("{partition}: no broker leads it now"));
            }
            KafkaError::transient(
                "unknown_partition",
                format!("{partition}: the broker does not know it (yet, or any more); check CONNECT_KAFKA_TOPICS if it stays so"),
            )
        })
    }

    /// The leader is not (or no longer) who we thought: ask again next time.
    pub fn forget_leader(&self, partition: &TopicPartition) {
        lock(&self.leaders).remove(partition);
    }
}

/// A topic's name as the protocol has it.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
