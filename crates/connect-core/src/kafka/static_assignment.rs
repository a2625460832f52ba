//! Owning every partition of the topics, or a fixed part of them, without a group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::coordinator::{Coordinator, Identity};
use super::error::KafkaError;
use super::positions;
use super::subscription::Subscription;
use super::wire::{Cluster, TopicMetadata};
use crate::assignment::{Assignment, AssignmentError, Change, CommitError};
use crate::config::Shard;
use crate::record::TopicPartition;
use crate::settings::Stop;
use crate::sink::Assigned;

/// How often while something is missing or unreachable.
const POLL_SOON: Duration = Duration::from_secs(3);
/// A topic is taken for deleted when this many answers in a row did not know it: a broker that has just started may
/// not know all topics yet.
const ABSENCES: u32 = 2;
/// Kafka forgets offsets of a group without members after a while (offsets.retention.minutes, a week by default), even
/// when records are older than that; so they are committed again although they did not move.
const COMMIT_AGAIN: Duration = Duration::from_secs(3600);

/// What is known after a look, and what changed by it.
type Looking = AbortOnDropHandle<Result<(View, Vec<Change>), KafkaError>>;

/// The partitions are ours for as long as they exist. Offsets are committed under the group's name, without membership.
pub struct StaticAssignment {
    cluster: Arc<Cluster>,
    coordinator: Arc<Coordinator>,
    subscription: Subscription,
    view: View,
    pending: VecDeque<Change>,
    due: Instant,
    /// A look-up under way. The caller drops `next` whenever it has something else to do, about once a second; what
    /// takes longer must not start anew each time. A task of its own, for a drain does not ask for changes: a connection that
    /// it is making then would be made by nobody, and the last commit would wait for it.
    looking: Option<Looking>,
    /// Commits note here what they did, also when they are answered while we look.
    again: Arc<Mutex<CommitAgain>>,
    told: bool,
}

impl StaticAssignment {
    /// Takes every partition of the subscription, or the shard's part of them.
    pub fn new(cluster: Arc<Cluster>, group: &str, subscription: Subscription, shard: Option<Shard>) -> Self {
        Self::by(Coordinator::new(cluster, group), subscription, shard)
    }

    /// The same, with offsets kept by this coordinator.
    pub fn by(coordinator: Coordinator, subscription: Subscription, shard: Option<Shard>) -> Self {
        Self {
            cluster: Arc::clone(coordinator.cluster()),
            coordinator: Arc::new(coordinator),
            view: View { shard, ..View::default() },
            subscription,
            pending: VecDeque::new(),
            due: Instant::now(),
            looking: None,
            again: Arc::new(Mutex::new(CommitAgain::every(COMMIT_AGAIN))),
            told: false,
        }
    }

    /// Commits unchanged offsets again this often, instead of once an hour.
    #[must_use]
    pub fn committing_again_every(mut self, interval: Duration) -> Self {
        self.again = Arc::new(Mutex::new(CommitAgain::every(interval)));
        self
    }

    fn again(&self) -> MutexGuard<'_, CommitAgain> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Looking {
        let (cluster, coordinator) = (Arc::clone(&self.cluster), Arc::clone(&self.coordinator));
        let (subscription, mut view) = (self.subscription.clone(), self.view.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let found = subscription.look_up(&cluster).await?;
            let first = !view.answered;
            let mut changes = view.update(&found, subscription.names());
            for change in &mut changes {
                let Change::Assigned(assigned) = change else { continue };
                if !assigned.is_empty() {
                    let identity = Identity::none();
                    positions::find(&coordinator, &identity, &subscription, |_| !first, assigned).await?;
                }
            }
            Ok((view, changes))
        }))
    }

    /// A look found this.
    fn take_note(&mut self, view: View, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::Assigned(assigned) => {
                    let known = assigned.iter().filter_map(|one| Some((one.partition.clone(), one.committed?)));
                    self.again().know(known);
                }
                Change::Lost(partitions) => self.again().forget(partitions),
                Change::Revoked { .. } | Change::NothingLeft => {}
            }
        }
        self.pending.extend(changes);
        // A shard that has none of the partitions has nothing to read to the end.
        let ends = self.cluster.config().stop == Stop::End;
        if ends && !self.told && view.is_nothing_ours() {
            self.told = true;
            self.pending.push_back(Change::NothingLeft);
        }
        self.view = view;
    }

    fn commit_again(&self, offsets: Vec<(TopicPartition, i64)>) {
        let coordinator = Arc::clone(&self.coordinator);
        tokio::spawn(async move {
            if let Err(error) = coordinator.commit(&Identity::none(), &offsets).await {
                warn!("offsets not committed again: {error}");
            }
        });
    }
}

impl Assignment for StaticAssignment {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            if self.looking.is_none() {
                tokio::time::sleep_until(self.due).await;
                self.looking = Some(self.look());
            }
            let Some(looking) = &mut self.looking else { continue };
            let panicked = || KafkaError::fatal("the look at the topics panicked; this is a bug, please report it");
            let found = looking.await.unwrap_or_else(|_| Err(panicked()));
            self.looking = None;
            match found {
                Ok((view, changes)) => {
                    self.take_note(view, changes);
                    self.due = Instant::now()
                        + if self.view.is_complete() { self.cluster.config().topics_refresh } else { POLL_SOON };
                }
                Err(KafkaError::Transient { message, .. }) => {
                    warn!("{message}; trying again in {POLL_SOON:?}");
                    self.due = Instant::now() + POLL_SOON;
                }
                Err(error) => return Err(error.into()),
            }
            let again = self.again().due();
            if let Some(offsets) = again {
                self.commit_again(offsets);
            }
        }
    }

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'static, Result<(), CommitError>> {
        let (coordinator, again) = (Arc::clone(&self.coordinator), Arc::clone(&self.again));
        Box::pin(async move {
            coordinator.commit(&Identity::none(), &offsets).await?;
            again.lock().unwrap_or_else(PoisonError::into_inner).know(offsets);
            Ok(())
        })
    }

    async fn released(&mut self, _partitions: &[TopicPartition]) {}

    async fn leave(&mut self) {}
}

/// The offsets that Kafka holds, and when they are to be committed again.
struct CommitAgain {
    interval: Duration,
    due: Instant,
    offsets: BTreeMap<TopicPartition, i64>,
}

impl CommitAgain {
    fn every(interval: Duration) -> Self {
        Self { interval, due: Instant::now() + interval, offsets: BTreeMap::new() }
    }

    /// Kafka holds these.
    fn know(&mut self, offsets: impl IntoIterator<Item = (TopicPartition, i64)>) {
        self.offsets.extend(offsets);
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.offsets.retain(|partition, _| !partitions.contains(partition));
    }

    /// All of them, once an interval.
    fn due(&mut self) -> Option<Vec<(TopicPartition, i64)>> {
        if Instant::now() < self.due {
            return None;
        }
        self.due = Instant::now() + self.interval;
        Some(self.offsets.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect())
    }
}

/// What is known of the topics.
#[derive(Clone, Default)]
struct View {
    shard: Option<Shard>,
    topics: BTreeMap<Arc<str>, Topic>,
    answered: bool,
}

#[derive(Clone, Default)]
struct Topic {
    id: Option<[u8; 16]>,
    partitions: BTreeSet<i32>,
    absences: u32,
}

impl View {
    /// Compares with what the cluster says now. The first answer always yields an assignment, even an empty one.
    fn update(&mut self, found: &BTreeMap<Arc<str>, TopicMetadata>, listed: &[Arc<str>]) -> Vec<Change> {
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for name in listed.iter().chain(found.keys()) {
            self.topics.entry(Arc::clone(name)).or_default();
        }
        let shard = self.shard;
        for (name, topic) in &mut self.topics {
            let Some(now) = found.get(name).filter(|topic| !topic.partitions.is_empty()) else {
                topic.absences += 1;
                if topic.absences == ABSENCES && !topic.partitions.is_empty() {
                    warn!(topic = %name, "topic was deleted; its partitions are given up");
                    lost.extend(topic.give_up(name));
                } else if topic.absences == 1 || topic.absences.is_multiple_of(20) {
                    warn!(topic = %name, "topic does not exist; create it or change CONNECT_KAFKA_TOPICS; looking again every {POLL_SOON:?}");
                }
                continue;
            };
            topic.absences = 0;
            if topic.id.is_some() && now.id.is_some() && topic.id != now.id {
                warn!(topic = %name, "topic was deleted and made anew");
                lost.extend(topic.give_up(name));
            }
            topic.id = now.id;
            for number in &now.partitions {
                let partition = TopicPartition::new(Arc::clone(name), *number);
                if is_ours(shard, &partition) && topic.partitions.insert(*number) {
                    gained.push(Assigned { topic_id: now.id, ..Assigned::new(partition) });
                }
            }
        }
        let mut changes = Vec::new();
        if !lost.is_empty() {
            changes.push(Change::Lost(lost));
        }
        if !gained.is_empty() || !self.answered {
            info!(partitions = gained.len(), "partitions assigned");
            changes.push(Change::Assigned(gained));
        }
        self.answered = true;
        changes
    }

    fn is_nothing_ours(&self) -> bool {
        let nothing = |topic: &Topic| topic.absences == 0 && topic.partitions.is_empty();
        !self.topics.is_empty() && self.topics.values().all(nothing)
    }

    fn is_complete(&self) -> bool {
        self.topics.values().all(|topic| topic.absences == 0 || topic.absences > ABSENCES)
    }
}

impl Topic {
    fn give_up(&mut self, name: &Arc<str>) -> Vec<TopicPartition> {
        let partitions = std::mem::take(&mut self.partitions);
        partitions.into_iter().map(|number| TopicPartition::new(Arc::clone(name), number)).collect()
    }
}

/// Each partition is in exactly one shard, the same in every process and version: the name's checksum spreads the topics.
fn is_ours(shard: Option<Shard>, partition: &TopicPartition) -> bool {
    let Some(shard) = shard else { return true };
    let number = crc32c::crc32c(partition.topic.as_bytes()).wrapping_add(partition.partition.unsigned_abs());
    number % shard.count == shard.index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(topics: &[(&str, i32)]) -> BTreeMap<Arc<str>, TopicMetadata> {
        let topic = |name: &str, count| TopicMetadata {
            name: name.into(),
            id: Some([count as u8; 16]).filter(|_| count > 90),
            internal: false,
            partitions: (0..count % 90).collect(),
        };
        topics.iter().map(|(name, count)| ((*name).into(), topic(name, *count))).collect()
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    fn gained(change: &Change) -> Vec<String> {
        let Change::Assigned(assigned) = change else { panic!("not an assignment: {change:?}") };
        assigned.iter().map(|assigned| assigned.partition.to_string()).collect()
    }

    #[test]
    fn the_first_answer_is_an_assignment_even_when_empty() {
        let (mut view, names) = (View::default(), names(&["a"]));
        assert_eq!(view.update(&found(&[]), &names), [Change::Assigned(vec![])]);
        assert!(!view.is_complete());
        assert_eq!(view.update(&found(&[]), &names), []);
    }

    #[test]
    fn new_topics_and_partitions_are_picked_up_once() {
        let (mut view, names) = (View::default(), names(&["a", "b"]));
        assert_eq!(gained(&view.update(&found(&[("a", 1)]), &names)[0]), ["a-0"]);
        assert_eq!(gained(&view.update(&found(&[("a", 2), ("b", 1)]), &names)[0]), ["a-1", "b-0"]);
        assert_eq!(view.update(&found(&[("a", 2), ("b", 1)]), &names), []);
        assert!(view.is_complete());
    }

    #[test]
    fn a_topic_is_lost_only_when_two_answers_lack_it() {
        let (mut view, names) = (View::default(), names(&["a", "b"]));
        view.update(&found(&[("a", 1), ("b", 1)]), &names);
        assert_eq!(view.update(&found(&[("b", 1)]), &names), []);
        assert_eq!(view.update(&found(&[("b", 1)]), &names), [Change::Lost(vec![TopicPartition::new("a", 0)])]);
        assert_eq!(gained(&view.update(&found(&[("a", 1), ("b", 1)]), &names)[0]), ["a-0"], "made anew");
    }

    #[test]
    fn a_topic_made_anew_between_two_answers_is_lost_and_gained() {
        let (mut view, names) = (View::default(), names(&["a"]));
        view.update(&found(&[("a", 91)]), &names);
        let changes = view.update(&found(&[("a", 92)]), &names);
        assert_eq!(changes[0], Change::Lost(vec![TopicPartition::new("a", 0)]));
        assert_eq!(gained(&changes[1]), ["a-0", "a-1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn unchanged_offsets_are_due_again_each_hour() {
        let (orders, clicks) = (TopicPartition::new("orders", 0), TopicPartition::new("clicks", 0));
        let mut again = CommitAgain::every(COMMIT_AGAIN);
        again.know([(orders.clone(), 5), (clicks.clone(), 9)]);
        again.know([(orders.clone(), 7)]);
        again.forget(&[clicks]);
        let minutes = |minutes: u64| tokio::time::advance(Duration::from_secs(60 * minutes));
        minutes(59).await;
        assert_eq!(again.due(), None);
        minutes(1).await;
        assert_eq!(again.due(), Some(vec![(orders.clone(), 7)]));
        assert_eq!(again.due(), None);
        minutes(60).await;
        assert_eq!(again.due(), Some(vec![(orders, 7)]), "and again");
    }

    #[test]
    fn shards_share_all_partitions_and_none_twice() {
        for partition in (0..50).map(|number| TopicPartition::new("orders", number)) {
            let owners = (0..3).filter(|index| is_ours(Some(Shard { index: *index, count: 3 }), &partition)).count();
            assert_eq!(owners, 1, "{partition}");
        }
    }
}
