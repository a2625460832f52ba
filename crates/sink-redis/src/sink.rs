//! Writes batches: data and offset in one atomic step.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use connect_core::{
    Assigned, Batch, Item, Outcome, Record, Rejection, Resume, Sink, SinkError, TopicPartition, Verdict,
};
use fred::types::Value;
use fred::types::scripts::Script;

use crate::check;
use crate::config::RedisConfig;
use crate::connection::Connection;
use crate::errors;
use crate::op::{self, Op};
use crate::position::{Position, Step, TopicId, reconcile};
use crate::script::{self, Limits};

/// How often one write may find yet another position before it gives up: another process writes at the same time.
const MOST_SURPRISES: usize = 4;

/// Records into Redis.
pub struct RedisSink {
    config: RedisConfig,
    connection: Connection,
    offsets_key: String,
    fingerprint: Fingerprint,
    limits: Limits,
    apply: Script,
    resume: Script,
    /// The life of the topic that each partition was taken up in.
    lives: Mutex<HashMap<TopicPartition, Option<TopicId>>>,
}

/// What tells this connector from another one of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint {
    topics: Vec<String>,
    mapping: String,
}

impl Fingerprint {
    fn new(config: &RedisConfig, topics: &[String]) -> Self {
        Self { topics: topics.to_owned(), mapping: format!("set {}", config.key) }
    }

    /// As it is stored.
    fn text(&self) -> String {
        format!("{}\n{}", self.topics.join(","), self.mapping)
    }

    /// Whether what is stored is this connector's. Topics may come and go, but not all at once.
    fn accepts(&self, stored: &str) -> bool {
        let Some((topics, mapping)) = stored.split_once('\n') else { return false };
        let shared = topics.split(',').any(|topic| self.topics.iter().any(|own| own == topic));
        shared && mapping == self.mapping
    }
}

/// The answer of the script that writes.
enum Applied {
    All,
    Found(String),
    Stopped { offset: i64, error: String },
}

impl RedisSink {
    /// A sink for the connector `name` that reads `topics`.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(config: RedisConfig, name: &str, topics: &[String]) -> Result<Self, String> {
        Ok(Self {
            connection: Connection::new(&config)?,
            offsets_key: config.offsets_key.clone().unwrap_or_else(|| format!("connect:offsets:{name}")),
            fingerprint: Fingerprint::new(&config, topics),
            limits: Limits { items: config.script_records.get(), bytes: config.script_bytes.as_u64() as usize },
            apply: Script::from_lua(script::APPLY),
            resume: Script::from_lua(script::RESUME),
            lives: Mutex::default(),
            config,
        })
    }

    fn life(&self, partition: &TopicPartition) -> Option<TopicId> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).get(partition).copied().flatten()
    }

    /// Reads a stored position and compares its life of the topic with ours.
    fn stored(&self, partition: &TopicPartition, text: &str, ours: Option<TopicId>) -> Result<Position, SinkError> {
        let key = &self.offsets_key;
        let position: Position = text.parse().map_err(|_| {
            SinkError::fatal(format!(
                "the field {partition} of the hash {key} in Redis is no offset: another program writes there. Choose another \
                 CONNECT_NAME or CONNECT_REDIS_OFFSETS_KEY"
            ))
        })?;
        match (position.topic_id, ours) {
            (Some(stored), Some(ours)) if stored != ours => Err(SinkError::fatal(format!(
                "the topic {} was deleted and made again (id {stored} when offset {} was stored, {ours} now), so the offset \
                 means nothing. To read the new topic from CONNECT_KAFKA_START run `offsets reset`, or choose another \
                 CONNECT_NAME",
                partition.topic, position.offset
            ))),
            _ => Ok(position),
        }
    }

    async fn apply(
        &self,
        partition: &TopicPartition,
        expected: &str,
        next: Position,
        steps: script::Steps,
    ) -> Result<Applied, SinkError> {
        let suffix = next.topic_id.map_or_else(String::new, |id| format!("@{id}"));
        let arguments = [
            Value::from(partition.to_string()),
            Value::from(expected),
            Value::from(next.to_string()),
            Value::from(suffix),
            Value::from(steps.encoded),
        ];
        let answer = self.connection.run(&self.apply, &self.offsets_key, arguments).await?;
        read_answer(&answer)
            .ok_or_else(|| SinkError::transient("redis", "Redis gave an answer that no script of ours gives"))
    }
}

fn read_answer(answer: &Value) -> Option<Applied> {
    let Value::Array(parts) = answer else {
        return (answer.as_str()? == "applied").then_some(Applied::All);
    };
    match parts.as_slice() {
        [kind, position] if kind.as_str()? == "found" => Some(Applied::Found(position.as_string()?)),
        [kind, offset, error] if kind.as_str()? == "stopped" => {
            Some(Applied::Stopped { offset: offset.as_str()?.parse().ok()?, error: error.as_string()? })
        }
        _ => None,
    }
}

impl Sink for RedisSink {
    type Op = Op;

    fn atomic(&self) -> bool {
        true
    }

    fn prepare(&self, record: &Record) -> Result<Option<Op>, Rejection> {
        op::prepare(&self.config, record)
    }

    fn target<'a>(&self, op: &'a Op) -> Option<&'a [u8]> {
        Some(&op.key)
    }

    async fn write(&self, batch: &Batch<Op>) -> Result<Outcome, SinkError> {
        let topic_id = self.life(&batch.source);
        let at = |offset: i64| Position { offset, topic_id };
        let mut outcome = Outcome::written();
        let mut expected = batch.expected.map(at);
        let mut expected_text = expected.map_or_else(String::new, |position| position.to_string());
        let mut first = batch.first;
        let mut done = 0;
        let mut surprises = 0;
        loop {
            let steps = script::encode(&batch.items[done..], self.limits);
            let end = done + steps.items;
            let next = at(batch.items.get(end).map_or(batch.next, |item| item.offset));
            match self.apply(&batch.source, &expected_text, next, steps).await? {
                Applied::All => {
                    mark_expired(&mut outcome, &batch.items, done..end);
                    if end == batch.items.len() {
                        return Ok(outcome);
                    }
                    (done, first, expected, expected_text) = (end, next.offset, Some(next), next.to_string());
                }
                Applied::Stopped { offset, error } => {
                    let index = batch.items.partition_point(|item| item.offset < offset);
                    let alone = batch.items.get(index).is_some_and(|item| item.op.alone());
                    let rejection = errors::of_item(&error, alone)?;
                    mark_expired(&mut outcome, &batch.items, done..index);
                    outcome.set(index, Verdict::Rejected(rejection));
                    return Ok(outcome);
                }
                Applied::Found(text) => {
                    surprises += 1;
                    if surprises > MOST_SURPRISES {
                        let message = format!("another process writes {} of the same connector", batch.source);
                        return Err(SinkError::transient("contention", message));
                    }
                    let stored = match text.as_str() {
                        "" => None,
                        text => Some(self.stored(&batch.source, text, topic_id)?),
                    };
                    let stored_offset = stored.map(|position| position.offset);
                    let skip = match reconcile(stored_offset, expected.map(|e| e.offset), first, batch.next) {
                        Step::Apply => done,
                        Step::Done => batch.items.len(),
                        Step::From(offset) => batch.items.partition_point(|item| item.offset < offset).max(done),
                        Step::OutOfStep => return Err(SinkError::OutOfStep { stored: stored_offset }),
                    };
                    for index in done..skip {
                        outcome.set(index, Verdict::Superseded);
                    }
                    if stored_offset.is_some_and(|stored| stored >= batch.next) {
                        return Ok(outcome);
                    }
                    (done, first) = (skip, stored_offset.unwrap_or(first).max(first));
                    (expected, expected_text) = (stored, text);
                }
            }
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        check::check(&self.connection, &self.offsets_key).await
    }

    async fn resume(&self, assigned: &Assigned) -> Result<Resume, SinkError> {
        let partition = &assigned.partition;
        let ours = assigned.topic_id.map(TopicId);
        let arguments = [Value::from(partition.to_string()), Value::from(self.fingerprint.text())];
        let answer = self.connection.run(&self.resume, &self.offsets_key, arguments).await?;
        let answer: [Option<String>; 3] = answer.convert().map_err(|error| errors::of_call(&error))?;
        let [position, fingerprint, origin] = answer;
        if !fingerprint.as_deref().is_some_and(|stored| self.fingerprint.accepts(stored)) {
            return Err(SinkError::fatal(format!(
                "the hash {} in Redis belongs to another connector of the same name ({:?}, ours is {:?}): choose another \
                 CONNECT_NAME, or run `offsets reset` if what it wrote may be written again",
                self.offsets_key,
                fingerprint.unwrap_or_default(),
                self.fingerprint.text()
            )));
        }
        let stored = position.map(|text| self.stored(partition, &text, ours)).transpose()?;
        let life = ours.or(stored.and_then(|position| position.topic_id));
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), life);
        Ok(match stored {
            Some(position) => Resume::At(position.offset),
            None if origin.as_deref() == Some("empty") => Resume::Empty,
            None => Resume::NotKept,
        })
    }
}

/// Names the items whose expiry lies in the past: they were written, and are gone.
fn mark_expired(outcome: &mut Outcome, items: &[Item<Op>], range: std::ops::Range<usize>) {
    if items[range.clone()].iter().all(|item| item.op.expire_at.is_none()) {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    for index in range {
        if items[index].op.expire_at.is_some_and(|expire_at| expire_at <= now) {
            outcome.set(index, Verdict::Expired);
        }
    }
}
