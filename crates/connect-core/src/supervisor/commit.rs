//! Offsets on their way to Kafka. A commit is waited for beside everything else: whoever waited for it alone would not hear that
//! a partition is lost.

use std::future::{pending, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Supervisor;
use crate::assignment::{Assignment, CommitError};
use crate::record::TopicPartition;
use crate::sink::Sink;
use crate::source::Source;

/// A commit under way.
pub(super) struct Committing {
    offsets: Vec<(TopicPartition, i64)>,
    /// What goes to another process once this is answered.
    given_up: Vec<TopicPartition>,
    answer: BoxFuture<'static, Result<(), CommitError>>,
}

impl Committing {
    pub fn forget(&mut self, partition: &TopicPartition) {
        self.offsets.retain(|(committed, _)| committed != partition);
        self.given_up.retain(|given_up| given_up != partition);
    }
}

/// Waits for the answer to the commit under way, for ever when there is none.
pub(super) async fn answer(committing: &mut Option<Committing>) -> Result<(), CommitError> {
    match committing {
        Some(committing) => committing.answer.as_mut().await,
        None => pending().await,
    }
}

impl<S: Source, K: Sink, A: Assignment> Supervisor<S, K, A> {
    /// Begins to commit what became durable since the last commit, unless one is under way.
    pub(super) fn commit(&mut self, given_up: Vec<TopicPartition>) {
        if self.committing.is_some() {
            return;
        }
        let offsets = self.uncommitted();
        if offsets.is_empty() && given_up.is_empty() {
            return;
        }
        let answer = if offsets.is_empty() { ready(Ok(())).boxed() } else { self.assignment.commit(offsets.clone()) };
        self.committing = Some(Committing { offsets, given_up, answer });
    }

    /// The commit under way is answered.
    ///
    /// # Errors
    /// As for [`take_note`](Self::take_note); then nothing is given up, and the end of the process says so.
    pub(super) async fn committed(&mut self, answer: Result<(), CommitError>) -> Result<(), String> {
        let Some(Committing { offsets, given_up, .. }) = self.committing.take() else { return Ok(()) };
        self.take_note(&offsets, answer)?;
        if !given_up.is_empty() {
            self.health.ticking(self.assignment.released(&given_up)).await;
        }
        for partition in &given_up {
            self.owned.remove(partition);
            self.pipeline.ledgers.of(partition).give_up();
        }
        Ok(())
    }

    /// What became durable since the last commit.
    fn uncommitted(&self) -> Vec<(TopicPartition, i64)> {
        let moved = self.owned.iter().filter_map(|partition| {
            let ledger = self.pipeline.ledgers.of(partition);
            let durable = ledger.durable()?;
            (ledger.committed() != Some(durable)).then(|| (partition.clone(), durable))
        });
        moved.collect()
    }

    /// Takes note of what Kafka said to a commit. `false` when it may work later.
    ///
    /// # Errors
    /// What a person must mend before anything can be committed.
    fn take_note(&self, offsets: &[(TopicPartition, i64)], answer: Result<(), CommitError>) -> Result<bool, String> {
        match answer {
            Ok(()) => {
                for (partition, offset) in offsets {
                    self.pipeline.ledgers.of(partition).set_committed(*offset);
                }
                Ok(true)
            }
            Err(CommitError::Transient(message)) => {
                warn!("offsets not committed to Kafka, trying again soon: {message}");
                Ok(false)
            }
            Err(CommitError::Fenced(message)) => {
                warn!("offsets not committed to Kafka: {message}");
                Ok(true)
            }
            Err(CommitError::Fatal(message)) => Err(message),
        }
    }

    /// Commits when nothing is in hand any more. `false` when that may work later.
    ///
    /// # Errors
    /// As for [`take_note`](Self::take_note).
    pub(super) async fn commit_last(&mut self, until: Instant) -> Result<bool, String> {
        let offsets = self.uncommitted();
        if offsets.is_empty() {
            return Ok(true);
        }
        // A broker that swallows requests must keep nobody from stopping.
        let answer = timeout_at(until, self.assignment.commit(offsets.clone())).await;
        let late = || CommitError::Transient("Kafka had not answered when it was time to stop".to_owned());
        self.take_note(&offsets, answer.unwrap_or_else(|_| Err(late())))
    }
}
