//! What both group protocols have in common: what is ours, what is being given up, and whom to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{classic, consumer};
use crate::assignment::{AssignmentError, Change, CommitError};
use crate::config::GroupProtocol;
use crate::kafka::coordinator::{Coordinator, Identity};
use crate::kafka::error::KafkaError;
use crate::kafka::positions;
use crate::kafka::subscription::Subscription;
use crate::kafka::wire::{Cluster, TopicMetadata};
use crate::record::TopicPartition;
use crate::sink::Assigned;

/// How soon what failed is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// How often topics are looked for that are missing.
pub(super) const TOPICS_SOON: Duration = Duration::from_secs(3);

/// What the membership's owner tells it.
pub(super) enum Order {
    /// These are drained and committed.
    Released(Vec<TopicPartition>),
    /// Say goodbye.
    Leave(oneshot::Sender<()>),
}

/// What commits need to know of the membership.
pub(super) struct Shared {
    pub coordinator: Coordinator,
    state: Mutex<SharedState>,
}

struct SharedState {
    identity: Identity,
    owned: BTreeSet<TopicPartition>,
    /// When the coordinator last counted us as alive.
    alive: Instant,
}

impl Shared {
    pub fn new(coordinator: Coordinator, instance: Option<String>) -> Self {
        let identity = Identity { instance, ..Identity::none() };
        Self { coordinator, state: Mutex::new(SharedState { identity, owned: BTreeSet::new(), alive: Instant::now() }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is ours, not even what is being given up.
    pub fn owns_nothing(&self) -> bool {
        self.state().owned.is_empty()
    }

    pub fn identity(&self) -> Identity {
        self.state().identity.clone()
    }

    pub fn set_identity(&self, member: String, generation: i32) {
        let identity = &mut self.state().identity;
        (identity.member, identity.generation) = (member, generation);
    }

    /// The coordinator counts us as alive, or we have begun anew.
    pub fn hear(&self) {
        self.state().alive = Instant::now();
    }

    /// Commits what is ours, in the name that we have now; what is not makes it an error, and the rest is committed all the same.
    pub async fn commit(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), CommitError> {
        let (identity, ours): (Identity, Vec<_>) = {
            let state = self.state();
            let ours = offsets.iter().filter(|(partition, _)| state.owned.contains(partition)).cloned().collect();
            (state.identity.clone(), ours)
        };
        let foreign = ours.len() < offsets.len();
        if !ours.is_empty() {
            match self.coordinator.commit(&identity, &ours).await {
                // The commit and the next generation crossed on their way.
                Err(CommitError::Fenced(message)) if self.identity() != identity => {
                    return Err(CommitError::Transient(message));
                }
                committed => committed?,
            }
        }
        if foreign {
            let group = self.coordinator.group();
            return Err(CommitError::Fenced(format!("group {group}: some of the partitions are no longer ours")));
        }
        Ok(())
    }
}

/// A member, whatever its protocol.
pub(super) struct Member {
    pub cluster: Arc<Cluster>,
    pub shared: Arc<Shared>,
    pub subscription: Subscription,
    changes: mpsc::Sender<Result<Change, AssignmentError>>,
    /// Ours, including what is being given up.
    pub owned: BTreeSet<TopicPartition>,
    /// Being drained by our process.
    pub releasing: BTreeSet<TopicPartition>,
    /// Ours to be, once their committed offsets are known.
    arriving: BTreeSet<TopicPartition>,
    announced: bool,
    /// The lives of the topics of which we have partitions.
    ids: BTreeMap<Arc<str>, [u8; 16]>,
    /// Listed topics that do not exist, as last told.
    missing: Vec<Arc<str>>,
    /// The partitions that were there at our first look: the others have appeared since.
    first: Option<BTreeSet<TopicPartition>>,
}

/// Why a membership ended.
pub(super) enum End {
    /// It was asked to.
    Left,
    /// The broker speaks only the classic protocol.
    OnlyClassic,
}

impl Member {
    pub fn new(
        cluster: Arc<Cluster>,
        shared: Arc<Shared>,
        subscription: Subscription,
        changes: mpsc::Sender<Result<Change, AssignmentError>>,
    ) -> Self {
        Self {
            cluster,
            shared,
            subscription,
            changes,
            owned: BTreeSet::new(),
            releasing: BTreeSet::new(),
            arriving: BTreeSet::new(),
            announced: false,
            ids: BTreeMap::new(),
            missing: Vec::new(),
            first: None,
        }
    }

    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let ended = match self.cluster.config().group_protocol {
            GroupProtocol::Classic => classic::run(&mut self, &mut orders).await,
            GroupProtocol::Consumer => consumer::run(&mut self, &mut orders).await,
            GroupProtocol::Auto => match consumer::run(&mut self, &mut orders).await {
                Ok(End::OnlyClassic) => classic::run(&mut self, &mut orders).await,
                ended => ended,
            },
        };
        let message = match ended {
            Ok(End::Left) => return,
            Ok(End::OnlyClassic) => {
                "CONNECT_KAFKA_GROUP_PROTOCOL=consumer needs brokers of Kafka 4: use auto or classic".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let _ = self.changes.send(Err(AssignmentError(message))).await;
    }

    /// How long our process may take to give something up: the rest of the time is for joining again.
    pub fn drain_time(&self) -> Duration {
        self.cluster.config().rebalance_timeout.mul_f32(0.8)
    }

    /// Never waits: heartbeats must go on even when nobody listens, as during a drain.
    fn tell(&self, change: Change) -> Result<(), KafkaError> {
        let full = |_| KafkaError::fatal("nobody listens to the group's changes; this is a bug, please report it");
        self.changes.try_send(Ok(change)).map_err(full)
    }

    /// What is to be ours: begins to give up the rest, and remembers what comes in addition.
    pub fn aim(&mut self, target: &BTreeSet<TopicPartition>) -> Result<(), KafkaError> {
        let lost: BTreeSet<_> =
            self.owned.difference(target).filter(|p| !self.releasing.contains(*p)).cloned().collect();
        self.arriving = target.difference(&self.owned).cloned().collect();
        if !lost.is_empty() {
            self.releasing.extend(lost.iter().cloned());
            let within = self.drain_time();
            self.tell(Change::Revoked { partitions: lost.into_iter().collect(), within })?;
        }
        if self.arriving.is_empty() && !self.announced {
            self.announced = true;
            self.tell(Change::Assigned(Vec::new()))?;
        }
        Ok(())
    }

    pub fn is_arriving(&self) -> bool {
        !self.arriving.is_empty()
    }

    /// Looks up what is committed for what comes, and hands it out. Nothing is handed out without knowing.
    pub async fn take_up(&mut self) -> Result<(), KafkaError> {
        if self.arriving.is_empty() {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> = self.arriving.iter().cloned().collect();
        let topics = self.topics_of(&partitions).await?;
        self.ids.extend(topics.iter().filter_map(|topic| Some((Arc::clone(&topic.name), topic.id?))));
        let assigned = partitions.iter().map(|partition| Assigned {
            topic_id: topics.iter().find(|topic| topic.name == partition.topic).and_then(|topic| topic.id),
            ..Assigned::new(partition.clone())
        });
        let mut assigned: Vec<_> = assigned.collect();
        let appeared = |partition: &TopicPartition| self.first.as_ref().is_some_and(|first| !first.contains(partition));
        let (identity, coordinator) = (self.shared.identity(), &self.shared.coordinator);
        positions::find(coordinator, &identity, &self.subscription, appeared, &mut assigned).await?;
        self.arriving.clear();
        self.owned.extend(partitions);
        self.shared.state().owned.clone_from(&self.owned);
        self.announced = true;
        info!(group = self.shared.coordinator.group(), partitions = assigned.len(), "partitions assigned by the group");
        self.tell(Change::Assigned(assigned))
    }

    async fn topics_of(&self, partitions: &[TopicPartition]) -> Result<Vec<TopicMetadata>, KafkaError> {
        let names: BTreeSet<Arc<str>> = partitions.iter().map(|partition| Arc::clone(&partition.topic)).collect();
        self.cluster.topics(Some(&names.into_iter().collect::<Vec<_>>())).await
    }

    /// Tells which listed topics do not exist, once for as long as it stays so; says whether there are any.
    pub fn tell_missing(&mut self, found: &BTreeMap<Arc<str>, TopicMetadata>) -> bool {
        self.first.get_or_insert_with(|| found.values().flat_map(TopicMetadata::all).collect());
        let listed = self.subscription.names().iter();
        let missing: Vec<Arc<str>> = listed.filter(|name| !found.contains_key(*name)).cloned().collect();
        if missing != self.missing && !missing.is_empty() {
            let topics = missing.join(",");
            warn!(
                topics,
                "topics do not exist; create them or change CONNECT_KAFKA_TOPICS; looking for them every {TOPICS_SOON:?}"
            );
        }
        self.missing = missing;
        !self.missing.is_empty()
    }

    /// A topic that was deleted and made anew is another one: what we know of its partitions no longer holds, and their offsets
    /// begin anew. Says whether there was any.
    pub fn lose_made_anew(&mut self, found: &BTreeMap<Arc<str>, TopicMetadata>) -> Result<bool, KafkaError> {
        let is_anew = |partition: &&TopicPartition| {
            let id = found.get(&partition.topic).and_then(|topic| topic.id);
            id.is_some_and(|id| self.ids.get(&partition.topic).is_some_and(|known| *known != id))
        };
        let anew: Vec<_> = self.owned.iter().filter(is_anew).cloned().collect();
        if anew.is_empty() {
            return Ok(false);
        }
        let gone = |partition: &TopicPartition| !anew.contains(partition);
        self.owned.retain(gone);
        self.releasing.retain(gone);
        self.shared.state().owned.clone_from(&self.owned);
        for partition in &anew {
            self.ids.remove(&partition.topic);
        }
        warn!(group = self.shared.coordinator.group(), partitions = ?anew, "topics were deleted and made anew");
        self.tell(Change::Lost(anew))?;
        Ok(true)
    }

    /// Our process has given these up.
    pub fn released(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            // What was lost and came back meanwhile is not given up by an old promise.
            if self.releasing.remove(partition) {
                self.owned.remove(partition);
            }
        }
        self.shared.state().owned.clone_from(&self.owned);
    }

    /// The coordinator has given everything of ours to others.
    pub fn lose_all(&mut self, why: &str) -> Result<(), KafkaError> {
        self.arriving.clear();
        self.releasing.clear();
        let lost = std::mem::take(&mut self.owned);
        self.shared.state().owned.clear();
        if lost.is_empty() {
            return Ok(());
        }
        warn!(group = self.shared.coordinator.group(), partitions = lost.len(), "lost the membership: {why}");
        self.tell(Change::Lost(lost.into_iter().collect()))
    }

    /// Whether the coordinator must have given us up by now, as it has not heard us for the session's time.
    pub fn is_forgotten(&self) -> bool {
        self.shared.state().alive.elapsed() >= self.cluster.config().session_timeout
    }
}
