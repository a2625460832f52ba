//! Owning every partition of the listed topics, without a group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::Connection;
use super::error::KafkaError;
use crate::assignment::{Assignment, AssignmentError, Change, CommitError};
use crate::record::TopicPartition;
use crate::sink::Assigned;

/// How often topics are looked up for new partitions.
const POLL: Duration = Duration::from_secs(30);
/// How often while something is missing or unreachable.
const POLL_SOON: Duration = Duration::from_secs(3);
/// A topic is taken for deleted when this many answers in a row did not know it: a broker that has just started may
/// not know all topics yet.
const ABSENCES: u32 = 2;

/// Every partition of the listed topics is ours for as long as it exists.
pub struct StaticAssignment {
    connection: Arc<Connection>,
    view: View,
    pending: VecDeque<Change>,
    due: Instant,
    /// A look-up under way. The caller drops `next` whenever it has something else to do, about once a second; what
    /// takes longer must not start anew each time.
    looking: Option<BoxFuture<'static, Result<Topics, KafkaError>>>,
}

/// Topics of the cluster and the numbers of their partitions.
type Topics = BTreeMap<String, BTreeSet<i32>>;

impl StaticAssignment {
    /// Takes the topics from the connection's settings.
    pub fn new(connection: Arc<Connection>) -> Self {
        let view = View::new(connection.config().topics.names().iter().cloned());
        Self { connection, view, pending: VecDeque::new(), due: Instant::now(), looking: None }
    }
}

async fn look_up(connection: Arc<Connection>) -> Result<Topics, KafkaError> {
    connection.topics().await
}

impl Assignment for StaticAssignment {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            tokio::time::sleep_until(self.due).await;
            let looking = self.looking.get_or_insert_with(|| Box::pin(look_up(Arc::clone(&self.connection))));
            let found = looking.await;
            self.looking = None;
            match found {
                Ok(topics) => {
                    self.pending.extend(self.view.update(&topics));
                    self.due = Instant::now() + if self.view.is_complete() { POLL } else { POLL_SOON };
                }
                Err(KafkaError::Transient { message, .. }) => {
                    warn!("{message}; trying again in {POLL_SOON:?}");
                    self.due = Instant::now() + POLL_SOON;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn commit(&mut self, _offsets: &[(TopicPartition, i64)]) -> Result<(), CommitError> {
        Ok(())
    }

    async fn released(&mut self, _partitions: &[TopicPartition]) {}

    async fn leave(&mut self) {}
}

/// What is known of the topics.
struct View {
    topics: BTreeMap<Arc<str>, Topic>,
    answered: bool,
}

#[derive(Default)]
struct Topic {
    partitions: BTreeSet<i32>,
    absences: u32,
}

impl View {
    fn new(topics: impl Iterator<Item = String>) -> Self {
        Self { topics: topics.map(|topic| (topic.into(), Topic::default())).collect(), answered: false }
    }

    /// Compares with what the cluster says now. The first answer always yields an assignment, even an empty one.
    fn update(&mut self, found: &BTreeMap<String, BTreeSet<i32>>) -> Vec<Change> {
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for (name, topic) in &mut self.topics {
            let Some(partitions) = found.get(&**name).filter(|partitions| !partitions.is_empty()) else {
                topic.absences += 1;
                if topic.absences == ABSENCES && !topic.partitions.is_empty() {
                    warn!(topic = %name, "topic was deleted; its partitions are given up");
                    let partitions = std::mem::take(&mut topic.partitions);
                    lost.extend(partitions.into_iter().map(|number| TopicPartition::new(Arc::clone(name), number)));
                } else if topic.absences == 1 || topic.absences.is_multiple_of(20) {
                    warn!(topic = %name, "topic does not exist; create it or change CONNECT_KAFKA_TOPICS; looking again every {POLL_SOON:?}");
                }
                continue;
            };
            topic.absences = 0;
            for number in partitions.difference(&topic.partitions) {
                let partition = TopicPartition::new(Arc::clone(name), *number);
                gained.push(Assigned { partition, topic_id: None, committed: None });
            }
            topic.partitions.extend(partitions);
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

    fn is_complete(&self) -> bool {
        self.topics.values().all(|topic| topic.absences == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(topics: &[(&str, i32)]) -> BTreeMap<String, BTreeSet<i32>> {
        topics.iter().map(|(name, count)| ((*name).to_owned(), (0..*count).collect())).collect()
    }

    fn gained(change: &Change) -> Vec<String> {
        let Change::Assigned(assigned) = change else { panic!("not an assignment: {change:?}") };
        assigned.iter().map(|assigned| assigned.partition.to_string()).collect()
    }

    #[test]
    fn the_first_answer_is_an_assignment_even_when_empty() {
        let mut view = View::new(["a".to_owned()].into_iter());
        assert_eq!(view.update(&found(&[])), [Change::Assigned(vec![])]);
        assert!(!view.is_complete());
        assert_eq!(view.update(&found(&[])), []);
    }

    #[test]
    fn new_topics_and_partitions_are_picked_up_once() {
        let mut view = View::new(["a", "b"].map(str::to_owned).into_iter());
        assert_eq!(gained(&view.update(&found(&[("a", 1), ("other", 3)]))[0]), ["a-0"]);
        assert_eq!(gained(&view.update(&found(&[("a", 2), ("b", 1)]))[0]), ["a-1", "b-0"]);
        assert_eq!(view.update(&found(&[("a", 2), ("b", 1)])), []);
        assert!(view.is_complete());
    }

    #[test]
    fn a_topic_is_lost_only_when_two_answers_lack_it() {
        let mut view = View::new(["a", "b"].map(str::to_owned).into_iter());
        view.update(&found(&[("a", 1), ("b", 1)]));
        assert_eq!(view.update(&found(&[("b", 1)])), []);
        assert_eq!(view.update(&found(&[("b", 1)])), [Change::Lost(vec![TopicPartition::new("a", 0)])]);
        assert_eq!(gained(&view.update(&found(&[("a", 1), ("b", 1)]))[0]), ["a-0"], "made anew");
    }
}
