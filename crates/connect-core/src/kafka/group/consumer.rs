//! The group protocol of Kafka 4 (KIP-848): the coordinator assigns, and everything is said in heartbeats.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::alongside::{Heartbeats, alongside};
use super::member::{End, Member, Order, RETRY, Shared, TOPICS_SOON};
use crate::config::{KafkaConfig, Section, Setting};
use crate::kafka::coordinator::text;
use crate::kafka::error::KafkaError;
use crate::kafka::wire::Purpose;
use crate::kafka::wire::cluster::{REQUEST_TIMEOUT, topic_name};
use crate::record::TopicPartition;

const HEARTBEAT: i16 = 1;
/// Epochs with a meaning of their own.
const JOINING: i32 = 0;
const LEAVING: i32 = -1;
const LEAVING_FOR_A_WHILE: i32 = -2;

struct Consumer<'a> {
    member: &'a mut Member,
    place: Place,
    /// What the coordinator knows of us; what differs is said with the next heartbeat.
    said_names: Option<BTreeSet<Arc<str>>>,
    said_owned: Option<BTreeSet<TopicPartition>>,
    names: BTreeSet<Arc<str>>,
    ids: HashMap<Uuid, Arc<str>>,
    topics_due: Instant,
    /// `CONNECT_KAFKA_SESSION_TIMEOUT`, until it was said that this protocol has another one.
    session: Option<Duration>,
}

/// What the coordinator says that we are.
struct Place {
    shared: Arc<Shared>,
    id: String,
    epoch: i32,
    interval: Duration,
    /// What it wants us to have, by topic id, and we have not looked at yet.
    target: Option<Vec<(Uuid, Vec<i32>)>>,
}

/// The session that was asked for, where it is not the one that brokers have by themselves.
fn chosen_session(config: &KafkaConfig) -> Option<Duration> {
    let default = KafkaConfig::variable("session_timeout").and_then(|variable| variable.default);
    let default = default.and_then(|text| Duration::parse(text).ok());
    Some(config.session_timeout).filter(|session| default != Some(*session))
}

pub(super) async fn run(member: &mut Member, orders: &mut mpsc::Receiver<Order>) -> Result<End, KafkaError> {
    let mut consumer = Consumer {
        place: Place {
            shared: Arc::clone(&member.shared),
            id: Uuid::new_v4().to_string(),
            epoch: JOINING,
            interval: Duration::from_secs(1),
            target: None,
        },
        session: chosen_session(member.cluster.config()),
        member,
        said_names: None,
        said_owned: None,
        names: BTreeSet::new(),
        ids: HashMap::new(),
        topics_due: Instant::now(),
    };
    let mut due = Instant::now();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let done = match order {
                    Some(Order::Released(partitions)) => {
                        consumer.member.released(&partitions);
                        // The coordinator gives them on as soon as it hears of it.
                        due = Instant::now();
                        continue;
                    }
                    Some(Order::Leave(done)) => Some(done),
                    None => None,
                };
                consumer.leave().await;
                if let Some(done) = done {
                    let _ = done.send(());
                }
                return Ok(End::Left);
            }
            () = sleep_until(due) => match consumer.step().await {
                Ok(Step::Next(next)) => due = Instant::now() + next,
                Ok(Step::OnlyClassic) => return Ok(End::OnlyClassic),
                Err(KafkaError::Transient { message, .. }) => {
                    warn!("{message}; trying again in {RETRY:?}");
                    if consumer.member.is_forgotten() {
                        consumer.lose("the coordinator did not hear us for too long")?;
                    }
                    due = Instant::now() + RETRY;
                }
                Err(fatal) => return Err(fatal),
            }
        }
    }
}

enum Step {
    /// A heartbeat is due after this long.
    Next(Duration),
    OnlyClassic,
}

impl Place {
    /// A heartbeat that says nothing new.
    fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let coordinator = &self.shared.coordinator;
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(coordinator.group_id())
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(coordinator.cluster().config().instance_id.as_deref().map(text))
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(None)
    }

    async fn send(
        &self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse, KafkaError> {
        let coordinator = &self.shared.coordinator;
        let limit = (coordinator.cluster().config().session_timeout / 3).min(REQUEST_TIMEOUT);
        coordinator.call(Purpose::Join, request, HEARTBEAT, limit).await
    }

    fn hear(&mut self, answer: ConsumerGroupHeartbeatResponse) {
        self.shared.hear();
        self.epoch = answer.member_epoch;
        self.shared.set_identity(self.id.clone(), self.epoch);
        self.interval = Duration::from_millis(answer.heartbeat_interval_ms.clamp(100, 30_000) as u64);
        if let Some(assignment) = answer.assignment {
            let partitions = assignment.topic_partitions.into_iter().map(|topic| (topic.topic_id, topic.partitions));
            self.target = Some(partitions.collect());
        }
    }
}

impl Heartbeats for Place {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn beat(&mut self) {
        if self.epoch <= JOINING {
            return;
        }
        if let Ok(answer) = self.send(&self.request()).await
            && answer.error_code == 0
        {
            self.hear(answer);
        }
    }
}

impl Consumer<'_> {
    /// One heartbeat, and what its answer asks for.
    async fn step(&mut self) -> Result<Step, KafkaError> {
        if self.topics_due <= Instant::now() {
            self.look_up_names().await?;
        }
        let connection = self.member.shared.coordinator.connection(Purpose::Join).await?;
        if connection.version::<ConsumerGroupHeartbeatRequest>(HEARTBEAT).is_none() {
            return Ok(Step::OnlyClassic);
        }
        let request = self.request();
        let coordinator = &self.member.shared.coordinator;
        let answer = self.place.send(&request).await?;
        match ResponseError::try_from_code(answer.error_code) {
            None => {}
            Some(ResponseError::UnsupportedVersion) => return Ok(Step::OnlyClassic),
            // The whole group is gone when the coordinator lost what it knew.
            Some(
                error @ (ResponseError::FencedMemberEpoch
                | ResponseError::UnknownMemberId
                | ResponseError::GroupIdNotFound),
            ) => {
                // Who is refused as a newcomer does not come again at once.
                let again = if self.place.epoch == JOINING { RETRY } else { Duration::ZERO };
                self.lose(&format!("{error:?}"))?;
                return Ok(Step::Next(again));
            }
            Some(ResponseError::UnreleasedInstanceId) => {
                return Err(KafkaError::transient(
                    "group",
                    format!(
                        "group {}: another process has our CONNECT_KAFKA_INSTANCE_ID={}, or had it until lately; each process needs its own, such as its pod's name",
                        coordinator.group(),
                        self.member.cluster.config().instance_id.as_deref().unwrap_or_default()
                    ),
                ));
            }
            Some(error) => return Err(coordinator.explain("heartbeat", error)),
        }
        self.heard(request, answer)?;
        self.reconcile().await
    }

    /// What the coordinator must know, and does not know yet.
    fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let config = self.member.cluster.config();
        let mut request = self.place.request();
        if self.place.epoch == JOINING {
            request.rebalance_timeout_ms = config.rebalance_timeout.as_millis() as i32;
            request.rack_id = config.rack.as_deref().map(text);
        }
        if self.place.epoch == JOINING || self.said_names.as_ref() != Some(&self.names) {
            request.subscribed_topic_names = Some(self.names.iter().map(|name| topic_name(name)).collect());
        }
        if self.place.epoch == JOINING || self.said_owned.as_ref() != Some(&self.member.owned) {
            request.topic_partitions = Some(self.owned_by_id());
        }
        request
    }

    fn owned_by_id(&self) -> Vec<TopicPartitions> {
        let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for partition in &self.member.owned {
            if let Some((id, _)) = self.ids.iter().find(|(_, name)| **name == partition.topic) {
                topics.entry(*id).or_default().push(partition.partition);
            }
        }
        topics
            .into_iter()
            .map(|(id, numbers)| TopicPartitions::default().with_topic_id(id).with_partitions(numbers))
            .collect()
    }

    fn heard(
        &mut self,
        request: ConsumerGroupHeartbeatRequest,
        answer: ConsumerGroupHeartbeatResponse,
    ) -> Result<(), KafkaError> {
        if request.subscribed_topic_names.is_some() {
            self.said_names = Some(self.names.clone());
        }
        if request.topic_partitions.is_some() {
            self.said_owned = Some(self.member.owned.clone());
        }
        if self.place.epoch == JOINING {
            info!(
                group = self.member.shared.coordinator.group(),
                epoch = answer.member_epoch,
                "joined the group (consumer protocol)"
            );
            if let Some(session) = self.session.take() {
                warn!(
                    group = self.member.shared.coordinator.group(),
                    "CONNECT_KAFKA_SESSION_TIMEOUT={} is not heeded by the group: with the protocol of Kafka 4 the broker decides by \
                     group.consumer.session.timeout.ms, or for this group alone by consumer.session.timeout.ms; \
                     CONNECT_KAFKA_GROUP_PROTOCOL=classic heeds it",
                    humantime::format_duration(session)
                );
            }
        }
        self.place.hear(answer);
        Ok(())
    }

    /// Goes towards what the coordinator wants.
    async fn reconcile(&mut self) -> Result<Step, KafkaError> {
        if let Some(target) = self.place.target.take() {
            match self.named(&target).await {
                Ok(named) => self.member.aim(&named)?,
                Err(error) => {
                    // Unless a newer one has come meanwhile.
                    self.place.target.get_or_insert(target);
                    return Err(error);
                }
            }
        }
        alongside(self.member.take_up(), &mut self.place).await?;
        // What we took up is said at once: the coordinator then knows that this assignment is done.
        let news = self.said_owned.as_ref() != Some(&self.member.owned) || self.place.target.is_some();
        Ok(Step::Next(if news { Duration::ZERO } else { self.place.interval }))
    }

    async fn named(&mut self, target: &[(Uuid, Vec<i32>)]) -> Result<BTreeSet<TopicPartition>, KafkaError> {
        if target.iter().any(|(id, _)| !self.ids.contains_key(id)) {
            self.look_up_names().await?;
        }
        let mut named = BTreeSet::new();
        for (id, numbers) in target {
            // A topic that was deleted meanwhile: the coordinator will take it away again.
            let Some(name) = self.ids.get(id) else { continue };
            named.extend(numbers.iter().map(|number| TopicPartition::new(Arc::clone(name), *number)));
        }
        Ok(named)
    }

    async fn look_up_names(&mut self) -> Result<(), KafkaError> {
        let look = self.member.subscription.look_up(&self.member.cluster);
        let found = alongside(look, &mut self.place).await?;
        let missing = self.member.tell_missing(&found);
        self.topics_due =
            Instant::now() + if missing { TOPICS_SOON } else { self.member.cluster.config().topics_refresh };
        self.member.lose_made_anew(&found)?;
        self.names = self.member.subscription.names().iter().chain(found.keys()).cloned().collect();
        for topic in found.values() {
            if let Some(id) = topic.id {
                self.ids.retain(|_, name| *name != topic.name);
                self.ids.insert(Uuid::from_bytes(id), Arc::clone(&topic.name));
            }
        }
        Ok(())
    }

    /// All is lost; we begin anew.
    fn lose(&mut self, why: &str) -> Result<(), KafkaError> {
        self.place.epoch = JOINING;
        self.place.target = None;
        self.said_owned = None;
        self.member.shared.set_identity(self.place.id.clone(), -1);
        self.member.shared.hear();
        self.member.lose_all(why)
    }

    /// Says goodbye: for good, or for a while when we have a name of our own to come back with.
    async fn leave(&mut self) {
        let coordinator = &self.member.shared.coordinator;
        let named = self.member.cluster.config().instance_id.is_some();
        self.place.epoch = if named { LEAVING_FOR_A_WHILE } else { LEAVING };
        let request = self.place.request();
        if let Err(error) = coordinator.call(Purpose::Join, &request, HEARTBEAT, REQUEST_TIMEOUT).await {
            debug!("not left properly: {error}");
        }
    }
}
