//! What all ways of writing share: the connection, the scripts, and how an answer is read.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use connect_core::{Batch, Item, Outcome, Rejection, SinkError, TopicPartition, Verdict};
use fred::types::Value;
use fred::types::scripts::Script;

use crate::config::{Atomic, Command, RedisConfig};
use crate::connection::Connection;
use crate::errors;
use crate::fingerprint::Fingerprint;
use crate::op::Op;
use crate::position::{Position, TopicId};
use crate::script::{self, Chunk, Limits};
use crate::transaction::{self, Transactions};

/// How often one write may find yet another position before it gives up: another process writes at the same time.
pub const MOST_SURPRISES: usize = 4;

/// What the keys of offsets begin with, unless the settings say otherwise.
const OFFSETS: &str = "connect:offsets:";

/// A Redis, and how this connector uses it.
pub struct Store {
    /// The connection.
    pub connection: Connection,
    /// The hash of offsets.
    pub offsets_key: String,
    /// What tells whose it is.
    pub fingerprint: Fingerprint,
    /// What goes into one script.
    pub limits: Limits,
    /// Whether readers see a batch at once.
    whole: bool,
    /// Whether only the last write to a key is sent.
    pub collapse: bool,
    /// Whether a script names the keys that it writes. A cluster has to know them: while a slot moves, some of its keys are
    /// on one node and some on another, and a script that found a key missing would begin it anew.
    names_keys: bool,
    /// For plain sets outside a cluster, and `None` for all else.
    transactions: Option<Transactions>,
    exact: Script,
    monotone: Script,
    plain: Script,
    /// The life of the topic that each partition was taken up in.
    lives: Mutex<HashMap<TopicPartition, Option<TopicId>>>,
}

/// Which guard a write is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The stored position is the expected one.
    Exact,
    /// The stored position does not lie behind the first operation.
    Monotone,
}

/// The answer of a script that writes.
#[derive(Debug)]
pub enum Applied {
    /// Everything.
    All,
    /// Nothing, since this position is stored.
    Found(String),
    /// What lies before the record of this offset.
    Stopped {
        /// Offset of the record.
        offset: i64,
        /// What Redis said.
        error: String,
    },
}

/// One call of a script that writes, or a transaction instead of it.
pub struct Call<'a> {
    /// The hash of offsets.
    pub key: &'a str,
    /// The partition.
    pub partition: &'a TopicPartition,
    /// What the guard compares with.
    pub expected: &'a str,
    /// The position to store at the end.
    pub next: Position,
    /// The operations.
    pub chunk: &'a Chunk<'a>,
}

impl Store {
    /// By these settings, for the connector `name` that reads `topics`.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(config: &RedisConfig, name: &str, topics: &[String]) -> Result<Self, String> {
        let limits = match config.atomic {
            Atomic::Record => Limits {
                items: config.script_records.get(),
                bytes: usize::try_from(config.script_bytes.as_u64()).unwrap_or(usize::MAX),
            },
            Atomic::Batch => Limits { items: usize::MAX, bytes: usize::MAX },
        };
        let offsets_key = config.offsets_key.clone().unwrap_or_else(|| format!("{OFFSETS}{name}"));
        if config.url.is_cluster() && offsets_key.contains('{') {
            return Err(format!(
                "the key of the offsets is {offsets_key}, and in a cluster it must hold no brace: it gets a hash tag for each \
                 slot. Set CONNECT_REDIS_OFFSETS_KEY"
            ));
        }
        let fingerprint = Fingerprint::new(config.command, &config.key, topics);
        let transactional = config.command == Command::Set && !config.url.is_cluster();
        Ok(Self {
            connection: Connection::new(config)?,
            offsets_key,
            names_keys: config.url.is_cluster() && !config.command.publishes(),
            transactions: transactional.then(|| Transactions::new(fingerprint.text())),
            fingerprint,
            limits,
            whole: config.atomic == Atomic::Batch,
            collapse: config.collapse,
            exact: Script::from_lua(script::EXACT),
            monotone: Script::from_lua(script::MONOTONE),
            plain: Script::from_lua(script::PLAIN),
            lives: Mutex::default(),
        })
    }

    /// Whether this key keeps offsets, ours or those of another connector: no record may write there.
    pub fn keeps_offsets_in(&self, key: &[u8]) -> bool {
        let ours = key.strip_prefix(self.offsets_key.as_bytes());
        key.starts_with(OFFSETS.as_bytes()) || ours.is_some_and(|rest| rest.is_empty() || rest.starts_with(b":{"))
    }

    /// The life of the topic that the partition was taken up in.
    pub fn life(&self, partition: &TopicPartition) -> Option<TopicId> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).get(partition).copied().flatten()
    }

    /// Remembers the life of the topic.
    pub fn set_life(&self, partition: &TopicPartition, life: Option<TopicId>) {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), life);
    }

    /// Reads a stored position and compares its life of the topic with ours.
    ///
    /// # Errors
    /// It is none, or one of another life: Fatal.
    pub fn position(
        &self,
        partition: &TopicPartition,
        text: &str,
        ours: Option<TopicId>,
    ) -> Result<Position, SinkError> {
        let key = &self.offsets_key;
        let position: Position = text.parse().map_err(|_| {
            SinkError::fatal(format!(
                "the field {partition} of the hash {key} in Redis is no offset: another program writes there. Choose another \
                 CONNECT_NAME or CONNECT_REDIS_OFFSETS_KEY"
            ))
        })?;
        match (position.topic_id, ours) {
            (Some(stored), Some(ours)) if stored != ours => Err(SinkError::fatal(format!(
                "the topic {} was deleted and made again (id {stored} when offset {} was stored in {key}, {ours} now), so the \
                 offset means nothing. To read the new topic choose another CONNECT_NAME, or stop all processes of this \
                 connector and run `sink-redis offsets reset --to earliest --topic {}`",
                partition.topic, position.offset, partition.topic
            ))),
            _ => Ok(position),
        }
    }

    /// The transactions that are made where offsets are kept.
    pub fn transactions(&self) -> Option<&Transactions> {
        self.transactions.as_ref()
    }

    /// Applies operations if the stored position is the expected one: in a transaction if it can be, else by a script.
    ///
    /// # Errors
    /// What Redis or the client says of the whole call.
    pub async fn apply_exact(&self, call: Call<'_>) -> Result<Applied, SinkError> {
        if let Some(transactions) = &self.transactions
            && transactions.apply(&self.connection, &call).await?
        {
            return Ok(Applied::All);
        }
        self.apply(Guard::Exact, call).await
    }

    /// Applies operations by a script under a guard.
    ///
    /// # Errors
    /// What Redis or the client says of the whole call.
    pub async fn apply(&self, guard: Guard, call: Call<'_>) -> Result<Applied, SinkError> {
        let script = match guard {
            Guard::Exact => &self.exact,
            Guard::Monotone => &self.monotone,
        };
        let suffix = call.next.topic_id.map_or_else(String::new, |id| format!("@{id}"));
        let mut arguments = vec![
            Value::from(call.partition.to_string()),
            Value::from(call.expected),
            Value::from(call.next.to_string()),
            Value::from(suffix),
            Value::from(call.chunk.encode()),
        ];
        let mut keys = vec![Value::from(call.key)];
        if guard == Guard::Exact {
            arguments.push(Value::from(self.fingerprint.text()));
            if self.transactions.is_some() {
                keys.push(transaction::marker(call.key, call.partition).into());
            }
        }
        keys.extend(self.named(call.chunk));
        let answer = self.connection.run(script, keys, arguments).await?;
        let (kind, offset, error) = match &answer {
            Value::Array(parts) => match parts.as_slice() {
                [kind, position] => (kind.as_str(), None, position.as_string()),
                [kind, offset, error] => (kind.as_str(), offset.as_str(), error.as_string()),
                _ => (None, None, None),
            },
            other => (other.as_str(), None, None),
        };
        let offset = offset.and_then(|offset| offset.parse().ok());
        match (kind.as_deref(), offset, error) {
            (Some("applied"), ..) => Ok(Applied::All),
            (Some("found"), _, Some(position)) => Ok(Applied::Found(position)),
            (Some("stopped"), Some(offset), Some(error)) => Ok(Applied::Stopped { offset, error }),
            (Some("torn"), Some(offset), Some(error)) => Err(SinkError::fatal(format!(
                "{} offset {offset} is written, but a command that belongs to it is not (the first one of its record did \
                 work, so a permission is missing for one of the others): {}",
                call.partition,
                errors::code(&error)
            ))),
            _ => Err(unknown_answer()),
        }
    }

    /// Applies operations without a guard: what could not be applied.
    ///
    /// # Errors
    /// What Redis or the client says of the whole call.
    pub async fn apply_plain(&self, key: &Bytes, chunk: &Chunk<'_>) -> Result<Vec<(i64, String)>, SinkError> {
        if self.transactions.is_some()
            && let Some(mut commands) = transaction::commands(chunk)
        {
            if self.whole && commands.len() > 1 {
                commands.insert(0, ("MULTI", Vec::new()));
                commands.push(("EXEC", Vec::new()));
            }
            self.connection.commands(commands).await?;
            return Ok(Vec::new());
        }
        let mut keys = vec![Value::Bytes(key.clone())];
        keys.extend(self.named(chunk));
        let answer = self.connection.run(&self.plain, keys, vec![Value::from(chunk.encode())]).await?;
        let Value::Array(parts) = &answer else { return Err(unknown_answer()) };
        let failed = |pair: &[Value]| match pair {
            [offset, error] => Some((offset.as_str()?.parse().ok()?, error.as_string()?)),
            _ => None,
        };
        parts.chunks(2).map(failed).collect::<Option<Vec<_>>>().ok_or_else(unknown_answer)
    }

    /// The keys that a script names beside its first one.
    fn named(&self, chunk: &Chunk<'_>) -> Vec<Value> {
        let items = if self.names_keys { chunk.items } else { &[] };
        let keys: HashSet<&Bytes> = items.iter().map(|item| &item.op.key).collect();
        keys.into_iter().map(|key| Value::Bytes(key.clone())).collect()
    }
}

fn unknown_answer() -> SinkError {
    SinkError::transient("redis", "Redis gave an answer that no script of ours gives")
}

/// What an error of the record at `index` means.
///
/// # Errors
/// It concerns more than the record.
pub fn rejection(batch: &Batch<Op>, index: usize, error: &str) -> Result<Rejection, SinkError> {
    errors::of_item(error, batch.items.get(index).is_some_and(|item| item.op.alone()))
}

/// Names what of these items is not simply written: superseded by a later one of the same call, or gone at once since
/// its expiry lies in the past.
pub fn mark(outcome: &mut Outcome, items: &[Item<Op>], range: Range<usize>, chunk: &Chunk<'_>, first: usize) {
    let collapsed = chunk.collapsed.iter().map(|index| index + first).filter(|index| range.contains(index));
    for index in collapsed {
        outcome.set(index, Verdict::Superseded);
    }
    if items[range.clone()].iter().all(|item| item.op.expire_at.is_none()) {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    for index in range {
        let expired = items[index].op.expire_at.is_some_and(|expire_at| expire_at <= now);
        if expired && chunk.collapsed.binary_search(&(index - first)).is_err() {
            outcome.set(index, Verdict::Expired);
        }
    }
}
