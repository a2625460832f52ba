//! A member that has no partitions, with `CONNECT_KAFKA_STOP=end`: is anything left that it may be given?
//!
//! It stands by until the others have committed everything that was there when it began to look: one of them may fail. So
//! each member that ends with exit code 0 says that all is done, however many more of them there are than partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::member::{Shared, TOPICS_SOON};
use crate::kafka::list_offsets;
use crate::kafka::subscription::Subscription;
use crate::kafka::wire::TopicMetadata;
use crate::record::TopicPartition;
use crate::source::{Position, SourceError};

/// How often the commits of the others are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Ends = BTreeMap<TopicPartition, i64>;

/// The ends, and whether everything below them is committed. No ends while a listed topic does not exist.
type Found = Result<(Option<Ends>, bool), SourceError>;

/// What is left to be done by the whole group.
pub(super) struct Idle {
    shared: Arc<Shared>,
    subscription: Subscription,
    /// Where the partitions ended when they were first looked at.
    ends: Option<Ends>,
    /// The caller drops its wait about once a second; a look that takes longer must not start anew each time. It is a task of its
    /// own, for nobody waits for it any more once something is ours: a connection that it is making then would be made by nobody,
    /// and all others would wait for it.
    looking: Option<AbortOnDropHandle<Found>>,
    due: Instant,
}

impl Idle {
    pub fn new(shared: Arc<Shared>, subscription: Subscription) -> Self {
        Self { shared, subscription, ends: None, looking: None, due: Instant::now() }
    }

    /// Returns when everything is committed up to the ends. May be dropped at any time and called again.
    pub async fn nothing_left(&mut self) {
        loop {
            if self.looking.is_none() {
                sleep_until(self.due).await;
                let (shared, subscription) = (Arc::clone(&self.shared), self.subscription.clone());
                let look = look(shared, subscription, self.ends.clone());
                self.looking = Some(AbortOnDropHandle::new(tokio::spawn(look)));
            }
            let Some(looking) = &mut self.looking else { continue };
            let found =
                looking.await.unwrap_or_else(|_| Err(SourceError::transient("bug", "a look at the ends panicked")));
            self.looking = None;
            self.due = Instant::now() + LOOK_AGAIN;
            match found {
                Ok((ends, false)) => {
                    if self.ends.is_none() && ends.is_some() {
                        info!(
                            "no partition is left for this process; standing by until the others have reached the end"
                        );
                    }
                    self.ends = ends;
                }
                Ok((_, true)) => return,
                Err(error) => {
                    warn!("{error}; looking again in {TOPICS_SOON:?}");
                    self.due = Instant::now() + TOPICS_SOON;
                }
            }
        }
    }
}

async fn look(shared: Arc<Shared>, subscription: Subscription, ends: Option<Ends>) -> Found {
    let coordinator = &shared.coordinator;
    let cluster = coordinator.cluster();
    let topics = subscription.look_up(cluster).await?;
    let mut ends = match ends {
        Some(ends) => ends,
        None if topics.is_empty() || subscription.names().iter().any(|name| !topics.contains_key(name)) => {
            return Ok((None, false));
        }
        None => {
            let all: Vec<_> = topics.values().flat_map(TopicMetadata::all).map(|p| (p, Position::Latest)).collect();
            list_offsets::look_up_all(cluster, all, cluster.config().isolation).await?
        }
    };
    // What was deleted meanwhile is nobody's work any more.
    ends.retain(|partition, _| topics.contains_key(&partition.topic));
    let partitions: Vec<_> = ends.keys().cloned().collect();
    let committed = coordinator.committed(&partitions).await?;
    let done = ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|found| found.offset >= *end));
    Ok((Some(ends), done))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::config::{KafkaConfig, Section};
    use crate::kafka::coordinator::Coordinator;
    use crate::kafka::wire::Cluster;

    /// Once something is ours nobody waits here any more, and all others need the connection.
    #[tokio::test]
    async fn a_connection_that_a_look_has_begun_is_not_left_half_made() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let settings = [("CONNECT_KAFKA_BROKERS", address.as_str()), ("CONNECT_KAFKA_TOPICS", "t")];
        let cluster = Cluster::new(KafkaConfig::from_pairs(&settings).expect("valid"));
        let subscription = Subscription::new(&cluster.config().topics, None).expect("names");
        let coordinator = Coordinator::new(Arc::clone(&cluster), "g");
        let mut idle = Idle::new(Arc::new(Shared::new(coordinator, None)), subscription);
        let begun = tokio::select! {
            () = idle.nothing_left() => panic!("nobody has said so"),
            accepted = listener.accept() => accepted.expect("a connection"),
        };
        drop((begun, listener));
        let refused = timeout(Duration::from_secs(60), cluster.any()).await.expect("nobody holds it up");
        assert!(refused.is_err(), "the broker is gone");
    }
}
