//! Which partitions are ours, and what is committed to Kafka for them.

use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::record::TopicPartition;
use crate::sink::Assigned;

/// Tells which partitions this process owns, and commits their offsets.
///
/// An implementation keeps itself alive: it retries what may pass, and a group member's heartbeats go on however slow
/// the store or the caller is.
pub trait Assignment: Send + 'static {
    /// Waits for the next change. The caller drops this future and calls again whenever it has something else to do,
    /// about once a second: no change may be lost by that, and work that takes longer must go on behind it.
    ///
    /// # Errors
    /// [`AssignmentError`] when a person must change something.
    fn next(&mut self) -> impl Future<Output = Result<Change, AssignmentError>> + Send;

    /// Commits offsets: everything below them is durable. Bounded in time. The future stands on its own, for the caller hears
    /// changes while Kafka takes its time: a partition lost meanwhile must be let go at once.
    ///
    /// # Errors
    /// [`CommitError`]; after `Transient` the caller commits again later, with newer offsets.
    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'static, Result<(), CommitError>>;

    /// The partitions of a [`Change::Revoked`] are drained and committed: another process may have them.
    fn released(&mut self, partitions: &[TopicPartition]) -> impl Future<Output = ()> + Send;

    /// Says goodbye after a drain, so that others take over at once. Bounded in time.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;
}

/// A change of what this process owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These came in addition; may be empty, which says that there is nothing for us now.
    Assigned(Vec<Assigned>),
    /// These go to another process once we call [`Assignment::released`], at the latest after `within`.
    Revoked {
        /// What must be drained.
        partitions: Vec<TopicPartition>,
        /// How long the others wait for us.
        within: Duration,
    },
    /// These are no longer ours, or no longer exist: stop at once and commit nothing.
    Lost(Vec<TopicPartition>),
    /// With `CONNECT_KAFKA_STOP=end`, told while nothing is ours: everything is committed that was there, whoever wrote it.
    NothingLeft,
}

/// The membership cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AssignmentError(pub String);

/// Why a commit did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// It may work later.
    #[error("{0}")]
    Transient(String),
    /// Another process owns the partitions now; a [`Change::Lost`] follows.
    #[error("{0}")]
    Fenced(String),
    /// A person must change something: the process stops with exit code 1.
    #[error("{0}")]
    Fatal(String),
}
