//! Plain sets and deletes as a transaction. A script makes a Lua string of each key and each value before it can hand them
//! to a command, which costs Redis several times what the command itself does (ADR 2).
//!
//! The guard is a `WATCH` on the partition's marker, a key that is there while transactions are made and that everything
//! changes that moves the offset of the partition: whoever moved it since we looked makes `EXEC` do nothing. We look behind
//! each transaction at once, for the next one, so that a batch is one round trip. Whatever is not plainly done is left to
//! the script, which tells what is wrong, and the connection is closed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use connect_core::{Item, SinkError, TopicPartition};
use fred::error::Error;
use fred::types::Value;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tracing::warn;

use crate::connection::{Connection, Live, Request};
use crate::fingerprint::FIELD as FINGERPRINT;
use crate::op::Action;
use crate::script::{self, Chunk};
use crate::store::Call;

/// Partitions that write at once have a connection each, up to so many; more take turns.
const CONNECTIONS: usize = 8;
/// Fewer items are cheaper as a script.
const FEWEST: usize = 64;
/// Of what was seen longer ago, the hash of offsets may have changed in ways that leave the marker alone: another program
/// deleted it, or the server needed the room.
const FRESH: Duration = Duration::from_secs(1);

/// What only transactions need; scripts do without.
pub const NEEDED: [&str; 4] = ["WATCH", "MULTI", "EXEC", "DISCARD"];

/// A marker goes by itself when nothing is written for so long, in milliseconds. Redis (since 6.0.9) takes one that went for
/// a change, so it need not outlive a transaction that is on its way.
const MARKER_LIFE: &str = "3000";

/// The items as commands that can't fail because of what is stored; `None` where there are others among them. Sets and
/// deletes of different keys change places, so that there are few commands: between them nobody looks.
pub fn commands(chunk: &Chunk<'_>) -> Option<Vec<Request>> {
    let mut commands: Vec<Request> = Vec::new();
    let (mut sets, mut deletes, mut deleted) = (Vec::new(), Vec::new(), HashSet::new());
    let mut flush = |sets: &mut Vec<Value>, deletes: &mut Vec<Value>| {
        for (name, words) in [("MSET", sets), ("DEL", deletes)] {
            if !words.is_empty() {
                commands.push((name, std::mem::take(words)));
            }
        }
    };
    for Item { op, .. } in chunk.sent() {
        match &op.action {
            Action::Set(value) => {
                if deleted.contains(&op.key) {
                    flush(&mut sets, &mut deletes);
                    deleted.clear();
                }
                sets.extend([Value::Bytes(op.key.clone()), Value::Bytes(value.clone())]);
            }
            Action::Delete => {
                deleted.insert(&op.key);
                deletes.push(Value::Bytes(op.key.clone()));
            }
            Action::Commands(_) => return None,
        }
    }
    flush(&mut sets, &mut deletes);
    Some(commands)
}

/// The key that changes whenever the offset of a partition does.
pub fn marker(offsets_key: &str, partition: &TopicPartition) -> String {
    format!("{offsets_key}:{{{partition}}}")
}

/// The connections on which transactions are made.
pub struct Transactions {
    lanes: [AsyncMutex<Option<Ready>>; CONNECTIONS],
    lane_of: Mutex<HashMap<TopicPartition, usize>>,
    fingerprint: String,
    /// The server lets this user make them, as far as is known.
    allowed: AtomicBool,
}

/// A connection that is within a transaction already: a server that refused `MULTI` would take what follows as it comes.
/// Dropped, it is closed, and nothing of the transaction happens.
struct Ready {
    live: Live,
    partition: TopicPartition,
    /// The position that was stored when we began to watch.
    position: String,
    since: Instant,
}

impl Transactions {
    /// For the connector with this fingerprint. Connects when it is first needed.
    pub fn new(fingerprint: String) -> Self {
        Self { lanes: Default::default(), lane_of: Mutex::default(), fingerprint, allowed: AtomicBool::new(true) }
    }

    /// Applies items and moves the offset in one atomic step. `false`: nothing was done, or it is not known; the script is
    /// to be asked.
    ///
    /// # Errors
    /// The connection failed, and the transaction may have been made or yet be made.
    pub async fn apply(&self, connection: &Connection, call: &Call<'_>) -> Result<bool, SinkError> {
        if call.chunk.items.len() < FEWEST || !self.allowed.load(Relaxed) {
            return Ok(false);
        }
        let Some(commands) = commands(call.chunk) else { return Ok(false) };
        let mut lane = self.lanes[self.lane(call.partition)].lock().await;
        // Taken out: if this future is dropped, nobody goes on with a connection of which nothing is known.
        let Some(ready) = self.ready(lane.take(), connection, call).await? else { return Ok(false) };
        if ready.position != call.expected {
            return Ok(false);
        }
        let (done, next) = self.execute(ready.live, commands, call).await?;
        *lane = next;
        Ok(done)
    }

    /// A connection that watches this partition, the one at hand if it does.
    async fn ready(
        &self,
        at_hand: Option<Ready>,
        connection: &Connection,
        call: &Call<'_>,
    ) -> Result<Option<Ready>, SinkError> {
        let (live, mut pipeline) = match at_hand.filter(|ready| ready.live.is_connected()) {
            Some(ready) if ready.partition == *call.partition && ready.since.elapsed() < FRESH => {
                return Ok(Some(ready));
            }
            Some(ready) => (ready.live, vec![("DISCARD", Vec::new())]),
            None => (connection.open().await?, Vec::new()),
        };
        pipeline.push(mark(call));
        let first = pipeline.len();
        pipeline.extend(look(call));
        let answers = live.pipeline(pipeline).await?;
        self.notice(&answers);
        Ok(looked(live, answers.get(first..).unwrap_or_default(), call))
    }

    /// Ends a transaction, and begins the next one.
    async fn execute(
        &self,
        live: Live,
        commands: Vec<Request>,
        call: &Call<'_>,
    ) -> Result<(bool, Option<Ready>), SinkError> {
        let next = call.next.to_string();
        let mut pipeline = commands;
        pipeline.push(("HSET", [call.key, &call.partition.to_string(), &next].map(Value::from).to_vec()));
        // A hash that was deleted or evicted is made anew here, and must be known as this connector's.
        pipeline.push(("HSETNX", [call.key, FINGERPRINT, &self.fingerprint].map(Value::from).to_vec()));
        let marker = marker(call.key, call.partition);
        pipeline.push(("SET", [&marker, next.as_str(), "PX", MARKER_LIFE].map(Value::from).to_vec()));
        let queued = pipeline.len();
        pipeline.push(("EXEC", Vec::new()));
        pipeline.extend(look(call));
        let answers = live.pipeline(pipeline).await?;
        self.notice(&answers);
        let done = match answers.get(queued) {
            Some(Ok(Value::Array(effects))) => effects.len() == queued,
            _ => false,
        };
        if !done {
            return Ok((false, None));
        }
        Ok((true, looked(live, answers.get(queued + 1..).unwrap_or_default(), call)))
    }

    /// Only scripts are made from now on, since this is not allowed.
    pub fn forbid(&self, refused: &str) {
        if self.allowed.swap(false, Relaxed) {
            warn!(
                refused,
                "this user may not make transactions, so scripts are used, which cost Redis more: grant {}",
                NEEDED.join(", ")
            );
        }
    }

    fn notice(&self, answers: &[Result<Value, Error>]) {
        let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
        if let Some(error) = errors.map(Error::details).find(|text| text.starts_with("NOPERM")) {
            self.forbid(error);
        }
    }

    fn lane(&self, partition: &TopicPartition) -> usize {
        let mut lane_of = self.lane_of.lock().unwrap_or_else(PoisonError::into_inner);
        let count = lane_of.len();
        *lane_of.entry(partition.clone()).or_insert(count % CONNECTIONS)
    }
}

/// Changes the marker, or makes it, if there are offsets.
fn mark(call: &Call<'_>) -> Request {
    let marker = marker(call.key, call.partition);
    ("EVAL", [script::MARK, "2", call.key, &marker, MARKER_LIFE].map(Value::from).to_vec())
}

/// What begins a transaction.
fn look(call: &Call<'_>) -> [Request; 4] {
    let marker = marker(call.key, call.partition);
    [
        ("WATCH", vec![marker.as_str().into()]),
        ("EXISTS", vec![marker.into()]),
        ("HGET", vec![call.key.into(), call.partition.to_string().into()]),
        ("MULTI", Vec::new()),
    ]
}

fn looked(live: Live, answers: &[Result<Value, Error>], call: &Call<'_>) -> Option<Ready> {
    let position = position(answers)?;
    Some(Ready { live, partition: call.partition.clone(), position, since: Instant::now() })
}

/// The position that was seen, empty for none; `None` unless a transaction was begun that will notice when it moves.
fn position(answers: &[Result<Value, Error>]) -> Option<String> {
    let [Ok(watch), Ok(marker), Ok(position), Ok(multi)] = answers else { return None };
    // A script changes the marker where there is one: who watches one that is not there learns of nothing. It may have gone
    // since we made it, however short the time seems to us: a process, or the whole machine, may have stood still.
    let guarded = watch.is_ok() && marker.as_i64() == Some(1);
    (guarded && multi.is_ok()).then(|| position.as_string().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use fred::error::ErrorKind;

    use super::*;

    #[test]
    fn a_transaction_begins_only_under_a_guard() {
        let ok = || Ok(Value::from("OK"));
        let look = |marker: i64, stored: Value| vec![ok(), Ok(Value::from(marker)), Ok(stored), ok()];
        assert_eq!(position(&look(1, "7".into())), Some("7".to_owned()));
        assert_eq!(position(&look(1, Value::Null)), Some(String::new()));
        assert_eq!(position(&look(0, "7".into())), None, "there is no marker");
        for refused in 0..4 {
            let mut answers = look(1, "7".into());
            answers[refused] = Err(Error::new(ErrorKind::Unknown, "NOPERM"));
            assert_eq!(position(&answers), None);
        }
        assert_eq!(position(&look(1, "7".into())[..3]), None);
    }
}
