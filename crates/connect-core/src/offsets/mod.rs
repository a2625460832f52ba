//! The `offsets` command: where a connector stands, and putting it elsewhere.

mod reset;
mod show;
mod table;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use reset::{Reset, reset};
pub(crate) use show::show;

use crate::config::{Configuration, Isolation};
use crate::connector::{Connector, Context};
use crate::kafka::coordinator::{Committed, Coordinator};
use crate::kafka::membership::group_name;
use crate::kafka::wire::Cluster;
use crate::kafka::{KafkaError, Subscription, list_offsets};
use crate::record::TopicPartition;
use crate::retry::bounded;
use crate::sink::{Assigned, Resume, Sink, SinkError};
use crate::source::{Position, SourceError};

/// How long a broker or a store that is busy for the moment is asked again.
const PATIENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(500);

/// What a command says to the person who called it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For the output.
    pub text: String,
    /// Whether all went well.
    pub good: bool,
}

/// `orders` or `orders:0,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    topic: String,
    /// All of them if there is none.
    partitions: Vec<i32>,
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (topic, numbers) = text.split_once(':').map_or((text, None), |(topic, rest)| (topic, Some(rest)));
        let number = |number: &str| number.trim().parse().ok().filter(|number| *number >= 0);
        let partitions: Option<Vec<i32>> = numbers.map_or(Some(Vec::new()), |all| all.split(',').map(number).collect());
        match partitions {
            Some(partitions) if !topic.is_empty() => Ok(Self { topic: topic.to_owned(), partitions }),
            _ => Err("expected the name of a topic, or a topic and its partitions as in `orders:0,3`".to_owned()),
        }
    }
}

impl Selection {
    fn takes(&self, partition: &TopicPartition) -> bool {
        let number = self.partitions.is_empty() || self.partitions.contains(&partition.partition);
        *self.topic == *partition.topic && number
    }
}

/// All that can be known of a partition's place.
#[derive(Debug)]
struct Place {
    /// The partition as a sink is told of it.
    assigned: Assigned,
    committed: Option<Committed>,
    /// What the store says, or why it can't.
    stored: Result<Resume, String>,
    earliest: i64,
    /// The end of what is decided.
    stable: i64,
    end: i64,
}

impl Place {
    fn partition(&self) -> &TopicPartition {
        &self.assigned.partition
    }

    /// Where the connector would go on, if that is known without looking at `CONNECT_KAFKA_START`.
    fn next(&self) -> Option<i64> {
        match self.stored {
            Ok(Resume::At(offset)) => Some(offset),
            Ok(Resume::Empty) => None,
            Ok(Resume::NotKept) | Err(_) => self.committed.as_ref().map(|committed| committed.offset),
        }
    }
}

/// A connector that does not run: what is needed to look at its offsets and to change them.
struct Desk<K> {
    coordinator: Coordinator,
    subscription: Subscription,
    sink: K,
    limit: Duration,
}

impl<K: Sink> Desk<K> {
    async fn open<C: Connector<Sink = K>>(configuration: Configuration<C::Config>) -> Result<Self, String> {
        let context = Context::new(&configuration);
        let Configuration { core, kafka, sink } = configuration;
        let group = group_name(&kafka, &core);
        let subscription =
            Subscription::new(&kafka.topics, core.dead_letters.topic()).map_err(|error| error.to_string())?;
        let limit = core.write_timeout;
        let coordinator = Coordinator::new(Cluster::new(kafka), &group).in_epoch(core.epoch.get());
        Ok(Self { coordinator, subscription, sink: C::sink(sink, context).await?, limit })
    }

    fn cluster(&self) -> &Arc<Cluster> {
        self.coordinator.cluster()
    }

    /// Looks at every partition that is selected; at all of them without a selection.
    async fn places(&self, selected: &[Selection]) -> Result<Vec<Place>, String> {
        let topics = patiently(async || self.subscription.look_up(self.cluster()).await).await?;
        let missing = self.subscription.names().iter().filter(|name| !topics.contains_key(*name));
        let missing: Vec<_> = missing.map(ToString::to_string).collect();
        if !missing.is_empty() {
            return Err(format!("not there: {}; create them or change CONNECT_KAFKA_TOPICS", missing.join(", ")));
        }
        let mut places = Vec::new();
        for topic in topics.values() {
            for partition in topic.all() {
                if selected.is_empty() || selected.iter().any(|selection| selection.takes(&partition)) {
                    places.push(Assigned { topic_id: topic.id, ..Assigned::new(partition) });
                }
            }
        }
        if let Some(selection) = selected.iter().find(|one| !places.iter().any(|place| one.takes(&place.partition))) {
            return Err(format!("CONNECT_KAFKA_TOPICS has nothing of {}", selection.topic));
        }
        let partitions: Vec<_> = places.iter().map(|assigned| assigned.partition.clone()).collect();
        let mut committed = patiently(async || self.coordinator.committed(&partitions).await).await?;
        let earliest = self.look_up(&partitions, Position::Earliest, Isolation::ReadUncommitted).await?;
        let stable = self.look_up(&partitions, Position::Latest, Isolation::ReadCommitted).await?;
        let end = self.look_up(&partitions, Position::Latest, Isolation::ReadUncommitted).await?;
        let mut all = Vec::with_capacity(places.len());
        for mut assigned in places {
            let partition = assigned.partition.clone();
            let committed = committed.remove(&partition);
            let note = committed.as_ref().and_then(Committed::note);
            match committed.as_ref().map(|committed| committed.offset) {
                start if note.is_some_and(|note| note.start) => assigned.start = start,
                offset => assigned.committed = offset,
            }
            assigned.committed_by_other = committed.is_some() && note.is_none();
            let stored = self.asked(async || self.sink.stored(&assigned).await).await;
            let at = |offsets: &BTreeMap<_, i64>| offsets.get(&partition).copied().unwrap_or_default();
            let (earliest, stable, end) = (at(&earliest), at(&stable), at(&end));
            all.push(Place { assigned, committed, stored, earliest, stable, end });
        }
        Ok(all)
    }

    async fn look_up(
        &self,
        partitions: &[TopicPartition],
        position: Position,
        isolation: Isolation,
    ) -> Result<BTreeMap<TopicPartition, i64>, String> {
        patiently(async || {
            let positions = partitions.iter().map(|partition| (partition.clone(), position));
            list_offsets::look_up_all(self.cluster(), positions, isolation).await
        })
        .await
    }

    /// Asks the store.
    async fn asked<T>(&self, ask: impl AsyncFn() -> Result<T, SinkError>) -> Result<T, String> {
        patiently(async || bounded(self.limit, ask()).await).await
    }
}

/// Errors that may pass.
trait MayPass: ToString {
    fn may_pass(&self) -> bool;
}

impl MayPass for KafkaError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

impl MayPass for SourceError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

impl MayPass for SinkError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

/// A person is waiting: what may pass is tried again for a while, not for ever.
async fn patiently<T, E: MayPass>(ask: impl AsyncFn() -> Result<T, E>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(found) => return Ok(found),
            Err(error) if error.may_pass() && Instant::now() < deadline => sleep(AGAIN).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_a_topic_or_some_of_its_partitions() {
        let partition = |number| TopicPartition::new("orders", number);
        let all: Selection = "orders".parse().expect("a topic");
        assert!(all.takes(&partition(0)) && all.takes(&partition(7)));
        assert!(!all.takes(&TopicPartition::new("clicks", 0)));
        let some: Selection = "orders:0, 3".parse().expect("partitions");
        assert!(some.takes(&partition(3)) && !some.takes(&partition(1)));
        for text in ["", ":1", "orders:", "orders:x", "orders:-1", "orders:1,"] {
            assert!(text.parse::<Selection>().is_err(), "{text:?}");
        }
    }
}
