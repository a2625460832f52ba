//! The end of a process: what is in hand is finished, committed, and given up.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::error;

use super::Supervisor;
use crate::assignment::{Assignment, Change};
use crate::mutants::mutant;
use crate::retry::FIRST;
use crate::sink::Sink;
use crate::source::Source;

/// What the last commit may take beyond `CONNECT_DRAIN_TIMEOUT`. With the farewell to the group, which takes up to five seconds, it
/// has to fit into the ten that a pod gets on top (`deploy/chart`).
const LAST_COMMIT: Duration = Duration::from_secs(3);

impl<S: Source, K: Sink, A: Assignment> Supervisor<S, K, A> {
    /// Finishes what is in hand. `Ok(false)` when the time was not enough.
    ///
    /// # Errors
    /// The first thing a person must mend that came up meanwhile; the others are logged.
    pub(super) async fn drain(&mut self) -> Result<bool, String> {
        self.health.set_draining();
        // Nobody waits for it any more, and its place in a queue must not be in the way of the last commit. That one speaks of what
        // was to be given up, too.
        self.committing = None;
        let deadline = Instant::now() + self.pipeline.settings.drain_timeout;
        for running in self.running.values() {
            running.drain.cancel();
            if mutant!(DrainForgetsInFlight) {
                running.abort.abort();
            }
        }
        let (mut in_time, mut listening) = (Ok(true), true);
        loop {
            let ended = tokio::select! {
                biased;
                // Who takes long over its farewell may be given up by the group: what it still holds must not land on what the
                // new owners write.
                change = self.assignment.next(), if listening && !self.tasks.is_empty() => {
                    match change {
                        Ok(Change::Lost(partitions)) => self.lose(partitions),
                        // Nothing is begun any more, and what others wait for they get when we leave.
                        Ok(_) => {}
                        Err(_) => listening = false,
                    }
                    continue;
                }
                ended = timeout_at(deadline, self.tasks.join_next_with_id()) => ended,
            };
            match ended {
                Ok(Some(end)) => {
                    self.health.tick();
                    if let Err(message) = self.task_ended(end) {
                        error!("{message}");
                        in_time = in_time.and(Err(message));
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    let left: Vec<_> = self.running.keys().collect();
                    error!(partitions = ?left, "not drained within CONNECT_DRAIN_TIMEOUT; what is in hand is not committed and will be read again");
                    in_time = in_time.and(Ok(false));
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        // What is durable is worth some patience: without this commit it would all be read again.
        let enough = deadline.max(Instant::now() + LAST_COMMIT);
        loop {
            match self.commit_last(enough).await {
                Ok(false) if Instant::now() < deadline => {
                    self.health.tick();
                    sleep(FIRST).await;
                }
                Ok(committed) => {
                    if !committed {
                        error!(
                            "Kafka did not take the last offsets in time; what lies behind those it has will be read again"
                        );
                    }
                    in_time = in_time.map(|in_time| in_time && committed);
                    break;
                }
                Err(message) => {
                    in_time = in_time.and(Err(message));
                    break;
                }
            }
        }
        self.assignment.leave().await;
        in_time
    }
}
