//! A consumer group in memory: several processes that share the partitions of a topic and one store of commits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connect_core::{Assigned, Assignment, AssignmentError, Change, CommitError, TopicPartition};
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::dice::{Dice, Trouble};
use crate::met::Met;

/// Number of a member; never used twice.
pub type MemberId = u64;

/// Called with each commit that the group takes.
type Audit = Box<dyn Fn(&TopicPartition, i64) + Send + Sync>;

/// Who owns a partition, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    member: MemberId,
    generation: u64,
}

/// What a member will hear, and the generation that it is told in.
struct News {
    change: Change,
    generation: u64,
}

#[derive(Default)]
struct State {
    owners: BTreeMap<TopicPartition, Owner>,
    /// Counts up whenever a partition is given away: no two owners have the same one.
    generation: u64,
    /// Where partitions go that their owners were asked to hand over.
    moving: BTreeMap<TopicPartition, MemberId>,
    commits: BTreeMap<TopicPartition, i64>,
    queues: BTreeMap<MemberId, VecDeque<News>>,
    /// Members that lost a partition and have not heard of it.
    unheard: BTreeSet<(MemberId, TopicPartition)>,
    /// Partitions that were taken away because handing them over took too long.
    too_late: usize,
    members: MemberId,
}

/// The coordinator. Its clones are one group.
#[derive(Clone)]
pub struct Group {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    audit: Arc<Audit>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("owners", &self.lock().owners).finish_non_exhaustive()
    }
}

impl Group {
    /// A group without members; `audit` sees every commit at the moment at which it becomes durable.
    pub fn new(audit: impl Fn(&TopicPartition, i64) + Send + Sync + 'static) -> Self {
        Self { state: Arc::default(), changed: Arc::default(), audit: Arc::new(Box::new(audit)) }
    }

    /// A new member without partitions.
    pub fn join(&self, dice: Dice, trouble: Arc<Trouble>) -> Member {
        let mut state = self.lock();
        state.members += 1;
        let id = state.members;
        state.queues.insert(id, VecDeque::new());
        state.tell(id, Change::Assigned(Vec::new()));
        Member { id, group: self.clone(), dice: Arc::new(dice), trouble, heard: BTreeMap::new() }
    }

    /// Gives a partition that nobody owns to a member.
    pub fn assign(&self, partition: &TopicPartition, to: MemberId) {
        let mut state = self.lock();
        if state.owners.contains_key(partition) || !state.queues.contains_key(&to) {
            return;
        }
        state.give(partition, to);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Asks the owner to hand a partition over. An owner that takes longer than `within` loses it.
    pub fn hand_over(&self, partition: &TopicPartition, to: MemberId, within: Duration) {
        let mut state = self.lock();
        let Some(owner) = state.owners.get(partition).copied() else { return };
        if owner.member == to || state.moving.contains_key(partition) {
            return;
        }
        state.moving.insert(partition.clone(), to);
        state.tell(owner.member, Change::Revoked { partitions: vec![partition.clone()], within });
        drop(state);
        self.changed.notify_waiters();
        let (group, partition) = (self.clone(), partition.clone());
        tokio::spawn(async move {
            // The coordinator waits a little longer than it says, and not always long enough.
            sleep(within + Duration::from_secs(1)).await;
            let mut state = group.lock();
            if state.owners.get(&partition) == Some(&owner) && state.moving.get(&partition) == Some(&to) {
                state.owners.remove(&partition);
                state.too_late += 1;
                state.tell(owner.member, Change::Lost(vec![partition.clone()]));
                state.give(&partition, to);
                drop(state);
                group.changed.notify_waiters();
            }
        });
    }

    /// Takes a partition away at once; its owner hears of it only after `silence`, and works on until then.
    pub fn lose(&self, partition: &TopicPartition, to: MemberId, silence: Duration) {
        let mut state = self.lock();
        let owner = state.owners.get(partition).map(|owner| owner.member).filter(|owner| *owner != to);
        let Some(owner) = owner else { return };
        state.owners.remove(partition);
        state.moving.remove(partition);
        state.unheard.insert((owner, partition.clone()));
        if silence.is_zero() {
            state.hear(owner, partition);
        }
        state.give(partition, to);
        drop(state);
        self.changed.notify_waiters();
        let (group, partition) = (self.clone(), partition.clone());
        tokio::spawn(async move {
            sleep(silence).await;
            group.lock().hear(owner, &partition);
            group.changed.notify_waiters();
        });
    }

    /// Takes note that a member is gone without a word.
    pub fn gone(&self, member: MemberId) {
        let mut state = self.lock();
        state.queues.remove(&member);
        state.owners.retain(|_, owner| owner.member != member);
        let State { moving, owners, .. } = &mut *state;
        moving.retain(|partition, to| *to != member && owners.contains_key(partition));
    }

    /// Who owns a partition.
    pub fn owner(&self, partition: &TopicPartition) -> Option<MemberId> {
        self.lock().owners.get(partition).map(|owner| owner.member)
    }

    /// How many partitions were taken away because handing them over took too long.
    pub fn too_late(&self) -> usize {
        self.lock().too_late
    }

    /// The offset committed for a partition.
    pub fn committed(&self, partition: &TopicPartition) -> Option<i64> {
        self.lock().commits.get(partition).copied()
    }

    /// Takes a commit in the name of who was given the partitions in these generations. Who lost one and got it again without
    /// knowing speaks of an earlier generation, and is refused as by Kafka's coordinator.
    fn take(&self, heard: &BTreeMap<TopicPartition, u64>, offsets: &[(TopicPartition, i64)]) -> bool {
        let mut state = self.lock();
        let ours = |partition: &TopicPartition| {
            state.owners.get(partition).is_some_and(|owner| heard.get(partition) == Some(&owner.generation))
        };
        if !offsets.iter().all(|(partition, _)| ours(partition)) {
            return false;
        }
        for (partition, offset) in offsets {
            (self.audit)(partition, *offset);
            state.commits.insert(partition.clone(), *offset);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give(&mut self, partition: &TopicPartition, to: MemberId) {
        self.moving.remove(partition);
        if !self.queues.contains_key(&to) {
            return;
        }
        // Nobody gets a partition again before hearing that it was lost.
        self.hear(to, partition);
        self.generation += 1;
        self.owners.insert(partition.clone(), Owner { member: to, generation: self.generation });
        let committed = self.commits.get(partition).copied();
        self.tell(to, Change::Assigned(vec![Assigned { committed, ..Assigned::new(partition.clone()) }]));
    }

    fn hear(&mut self, member: MemberId, partition: &TopicPartition) {
        if self.unheard.remove(&(member, partition.clone())) {
            self.tell(member, Change::Lost(vec![partition.clone()]));
        }
    }

    fn tell(&mut self, member: MemberId, change: Change) {
        let generation = self.generation;
        if let Some(queue) = self.queues.get_mut(&member) {
            queue.push_back(News { change, generation });
        }
    }
}

/// A process's membership.
#[derive(Debug)]
pub struct Member {
    id: MemberId,
    group: Group,
    dice: Arc<Dice>,
    trouble: Arc<Trouble>,
    /// The generation in which it was given each partition, as far as it knows.
    heard: BTreeMap<TopicPartition, u64>,
}

impl Member {
    /// Its number.
    pub fn id(&self) -> MemberId {
        self.id
    }
}

impl Assignment for Member {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        loop {
            let changed = self.group.changed.notified();
            let news = self.group.lock().queues.get_mut(&self.id).and_then(VecDeque::pop_front);
            if let Some(News { change, generation }) = news {
                if let Change::Assigned(partitions) = &change {
                    self.heard.extend(partitions.iter().map(|assigned| (assigned.partition.clone(), generation)));
                }
                return Ok(change);
            }
            changed.await;
        }
    }

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'static, Result<(), CommitError>> {
        let (group, heard) = (self.group.clone(), self.heard.clone());
        let (dice, trouble) = (Arc::clone(&self.dice), Arc::clone(&self.trouble));
        Box::pin(async move {
            let failing = trouble.strikes(&dice);
            trouble.step().await;
            sleep(dice.time(Duration::from_millis(if failing { 3_000 } else { 10 }))).await;
            if failing && dice.percent(50) {
                trouble.met(Met::CommitFailed);
                return Err(CommitError::Transient("the coordinator is gone".to_owned()));
            }
            if !group.take(&heard, &offsets) {
                trouble.met(Met::CommitFenced);
                return Err(CommitError::Fenced("another member owns a partition".to_owned()));
            }
            trouble.step().await;
            if failing {
                trouble.met(Met::CommitAnswerLost);
                return Err(CommitError::Transient("the coordinator took it and is gone".to_owned()));
            }
            Ok(())
        })
    }

    async fn released(&mut self, partitions: &[TopicPartition]) {
        self.trouble.step().await;
        self.release(partitions);
        self.trouble.step().await;
    }

    async fn leave(&mut self) {
        self.group.gone(self.id);
    }
}

impl Member {
    fn release(&self, partitions: &[TopicPartition]) {
        let mut state = self.group.lock();
        for partition in partitions {
            if state.owners.get(partition).is_none_or(|owner| owner.member != self.id) {
                continue;
            }
            state.owners.remove(partition);
            // Whoever was to have it may be gone by now: then nobody owns it.
            if let Some(to) = state.moving.remove(partition) {
                self.trouble.met(Met::HandedOver);
                state.give(partition, to);
            }
        }
        drop(state);
        self.group.changed.notify_waiters();
    }
}
