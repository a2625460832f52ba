//! The sink: which way of writing the settings ask for, and where a partition goes on.

use connect_core::{Assigned, Batch, Outcome, Record, Rejection, Replay, Resume, Sink, SinkError};
use fred::types::Value;
use fred::types::scripts::Script;

use crate::check::Check;
use crate::config::{Command, Offsets, RedisConfig};
use crate::mapping::Mapping;
use crate::op::Op;
use crate::position::{Position, TopicId};
use crate::script::Chunk;
use crate::store::{Applied, Call, Guard, Store};
use crate::{cluster, errors, exact, plain, script};

/// Records into Redis.
pub struct RedisSink {
    mapping: Mapping,
    store: Store,
    check: Check,
    command: Command,
    way: Way,
    in_cluster: bool,
    resume: Script,
}

/// How batches are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Exact,
    PerSlot,
    Plain,
}

impl RedisSink {
    /// A sink for the connector `name` that reads `topics`.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(config: RedisConfig, name: &str, topics: &[String]) -> Result<Self, String> {
        let in_cluster = config.url.is_cluster();
        let way = match config.offsets {
            Offsets::Kafka => Way::Plain,
            Offsets::Redis if in_cluster => Way::PerSlot,
            Offsets::Redis => Way::Exact,
        };
        let mapping = Mapping::new(&config)?;
        Ok(Self {
            store: Store::new(&config, name, topics)?,
            check: Check::new(&config, mapping.sample_key()),
            mapping,
            command: config.command,
            way,
            in_cluster,
            resume: Script::from_lua(script::RESUME),
        })
    }

    /// Why an accumulating command can't simply go on at the commit.
    fn offsets_lost(&self, assigned: &Assigned, committed: i64) -> SinkError {
        SinkError::fatal(format!(
            "the offset of {} is gone from {} in Redis, though Kafka holds a commit at {committed} and the database is not \
             empty: was it evicted? {} must not repeat a record and must not leave one out, and nothing tells which were \
             written since that commit. To go on there: `sink-redis offsets reset --to offset:{committed} --topic {}:{}`. To build \
             everything anew: delete the keys and `offsets reset --to earliest`, or choose another CONNECT_NAME",
            assigned.partition,
            self.store.offsets_key,
            self.command.name(),
            assigned.partition.topic,
            assigned.partition.partition,
        ))
    }
}

impl Sink for RedisSink {
    type Op = Op;

    fn atomic(&self) -> bool {
        self.way == Way::Exact
    }

    fn prepare(&self, record: &Record) -> Result<Option<Op>, Rejection> {
        let op = self.mapping.prepare(record)?;
        if !self.command.publishes() && op.as_ref().is_some_and(|op| self.store.keeps_offsets_in(&op.key)) {
            return Err(Rejection::new("its key is one that keeps the offsets of a connector: see CONNECT_REDIS_KEY"));
        }
        Ok(op)
    }

    fn target<'a>(&self, op: &'a Op) -> Option<&'a [u8]> {
        Some(&op.key)
    }

    async fn write(&self, batch: &Batch<Op>) -> Result<Outcome, SinkError> {
        match self.way {
            Way::Exact => exact::write(&self.store, batch).await,
            Way::PerSlot => cluster::write(&self.store, batch).await,
            Way::Plain => plain::write(&self.store, batch, self.in_cluster).await,
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.check.run(&self.store).await
    }

    async fn resume(&self, assigned: &Assigned) -> Result<Resume, SinkError> {
        if self.way == Way::Plain {
            return Ok(Resume::NotKept);
        }
        let partition = &assigned.partition;
        let ours = assigned.topic_id.map(TopicId);
        let store = &self.store;
        let arguments = vec![Value::from(partition.to_string()), Value::from(self.store.fingerprint.text())];
        let answer = store.connection.run(&self.resume, vec![store.offsets_key.as_str().into()], arguments).await?;
        let answer: [Option<String>; 3] = answer.convert().map_err(|error| errors::of_call(&error))?;
        let [position, fingerprint, origin] = answer;
        self.store.fingerprint.compare(fingerprint.as_deref(), &store.offsets_key)?;
        let stored = position.map(|text| store.position(partition, &text, ours)).transpose()?;
        store.set_life(partition, ours.or(stored.and_then(|position| position.topic_id)));
        if self.way == Way::PerSlot {
            return Ok(Resume::NotKept);
        }
        match (stored, assigned.committed) {
            (Some(position), _) => Ok(Resume::At(position.offset)),
            (None, _) if origin.as_deref() == Some("empty") => Ok(Resume::Empty),
            (None, Some(committed)) if self.command.accumulates() => Err(self.offsets_lost(assigned, committed)),
            (None, _) => Ok(Resume::NotKept),
        }
    }

    async fn stored(&self, assigned: &Assigned) -> Result<Resume, SinkError> {
        if self.way != Way::Exact {
            return Ok(Resume::NotKept);
        }
        let store = &self.store;
        let words = vec![Value::from(store.offsets_key.as_str()), Value::from(assigned.partition.to_string())];
        match store.connection.command("HGET", words).await?.as_string() {
            None => Ok(Resume::Empty),
            Some(text) => {
                let position = store.position(&assigned.partition, &text, assigned.topic_id.map(TopicId))?;
                Ok(Resume::At(position.offset))
            }
        }
    }

    async fn set_stored(&self, assigned: &Assigned, offset: i64) -> Result<(), SinkError> {
        let field = assigned.partition.to_string();
        let store = &self.store;
        match self.way {
            Way::Plain => Ok(()),
            Way::PerSlot => cluster::forget(store, &field).await,
            Way::Exact => {
                // Also makes the hash ours when it is missing, and refuses one of another connector.
                let arguments = vec![Value::from(field.as_str()), Value::from(self.store.fingerprint.text())];
                let answer =
                    store.connection.run(&self.resume, vec![store.offsets_key.as_str().into()], arguments).await?;
                let answer: [Option<String>; 3] = answer.convert().map_err(|error| errors::of_call(&error))?;
                self.store.fingerprint.compare(answer[1].as_deref(), &store.offsets_key)?;
                let next = Position { offset, topic_id: assigned.topic_id.map(TopicId) };
                let (partition, chunk) = (&assigned.partition, Chunk { items: &[], collapsed: Vec::new() });
                let expected = answer[0].as_deref().unwrap_or_default();
                // By the script that moves it otherwise, so that a process that was forgotten somewhere notices.
                match store
                    .apply(Guard::Exact, Call { key: &store.offsets_key, partition, expected, next, chunk: &chunk })
                    .await?
                {
                    Applied::All => Ok(()),
                    _ => {
                        Err(SinkError::transient("contention", format!("another process writes {partition} meanwhile")))
                    }
                }
            }
        }
    }

    fn replay(&self) -> Replay {
        if self.command.accumulates() { Replay::Repeated } else { Replay::Written }
    }
}
