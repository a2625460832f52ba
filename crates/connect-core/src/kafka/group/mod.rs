//! Being a member of a consumer group: Kafka says which partitions are ours, and sees to it that nobody else has them.
//!
//! A task of its own sends heartbeats, joins, and answers the coordinator, however busy the rest is and however long a
//! look-up takes. It tells of changes
//! through a short queue, and hears through another what was released.

mod alongside;
mod classic;
mod consumer;
mod idle;
mod member;
mod protocol;
mod sticky;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::coordinator::Coordinator;
use super::subscription::Subscription;
use super::wire::Cluster;
use crate::assignment::{Assignment, AssignmentError, Change, CommitError};
use crate::record::TopicPartition;
use crate::settings::Stop;
use idle::Idle;
use member::{Member, Order, Shared};

/// Changes that wait to be heard. A rebalance brings two at most, so this many are never missed by a living process.
const CHANGES: usize = 256;
const ORDERS: usize = 256;
/// How long a goodbye may take: without one the others wait for the session time-out.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Membership of a group.
pub struct GroupAssignment {
    changes: mpsc::Receiver<Result<Change, AssignmentError>>,
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
    /// With `CONNECT_KAFKA_STOP=end`, once the group has told us what is ours.
    idle: Option<Idle>,
    told: bool,
    /// The member, as long as nobody has asked for changes.
    waiting: Option<(Member, mpsc::Receiver<Order>)>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl GroupAssignment {
    /// Joins when it is first asked for changes: a process that can't use its store yet must not take partitions from those
    /// that can.
    pub fn new(cluster: Arc<Cluster>, group: &str, subscription: Subscription) -> Self {
        Self::by(Coordinator::new(cluster, group), subscription)
    }

    /// The same in the coordinator's group.
    pub fn by(coordinator: Coordinator, subscription: Subscription) -> Self {
        let (changes, heard) = mpsc::channel(CHANGES);
        let (orders, given) = mpsc::channel(ORDERS);
        let cluster = Arc::clone(coordinator.cluster());
        let shared = Arc::new(Shared::new(coordinator, cluster.config().instance_id.clone()));
        let idle = cluster.config().stop == Stop::End;
        let idle = idle.then(|| Idle::new(Arc::clone(&shared), subscription.clone()));
        let member = Member::new(cluster, Arc::clone(&shared), subscription, changes);
        Self { changes: heard, orders, shared, idle, told: false, waiting: Some((member, given)), task: None }
    }
}

impl Assignment for GroupAssignment {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        if let Some((member, orders)) = self.waiting.take() {
            self.task = Some(tokio::spawn(member.run(orders)));
        }
        let waits = self.told && self.shared.owns_nothing();
        let nothing_left = async {
            match self.idle.as_mut().filter(|_| waits) {
                Some(idle) => idle.nothing_left().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            change = self.changes.recv() => {
                self.told = true;
                change.unwrap_or_else(|| Err(AssignmentError("the group's membership ended".to_owned())))
            }
            () = nothing_left => Ok(Change::NothingLeft),
        }
    }

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'static, Result<(), CommitError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.commit(&offsets).await })
    }

    async fn released(&mut self, partitions: &[TopicPartition]) {
        if self.orders.send(Order::Released(partitions.to_vec())).await.is_err() {
            debug!("released after the membership ended");
        }
    }

    async fn leave(&mut self) {
        if self.waiting.is_some() {
            return;
        }
        let (done, gone) = oneshot::channel();
        let left = async {
            if self.orders.send(Order::Leave(done)).await.is_ok() {
                let _ = gone.await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, left).await;
    }
}

impl Drop for GroupAssignment {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
