//! What flows: updates and deletes of a bounded set of keys, and what they must leave.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::Utc;
use serde_json::Value;
use tokio::time::interval;

use crate::{events::Events, kafka_client::Producer};

const USERS: u64 = 5_000;
/// Every so many-th record deletes what its key names.
const DELETES: u64 = 10;
/// How often records are handed to Kafka.
const TICK: Duration = Duration::from_millis(200);

/// A stream of records on its way into a topic.
pub(super) struct Traffic {
    events: Events,
    producer: Producer,
    produced: Vec<u64>,
    contents: BTreeMap<String, Value>,
}

impl Traffic {
    /// Nothing is produced yet.
    pub(super) fn new(producer: Producer, partitions: i32) -> Self {
        let produced = vec![0; partitions as usize];
        Self { events: Events::new(1, USERS, Utc::now()), producer, produced, contents: BTreeMap::new() }
    }

    /// Produces at this rate for so long, by the clock and not by the tick, so that a busy machine catches up.
    pub(super) async fn flow(mut self, rate: u32, length: Duration) -> Result<Flowed> {
        let begun = Instant::now();
        let mut tick = interval(TICK);
        let mut number = 0;
        while begun.elapsed() < length {
            tick.tick().await;
            let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            for next in number..due {
                self.send(next).await?;
            }
            number = due;
            self.producer.flush().await?;
        }
        self.producer.finish().await?;
        Ok(Flowed { produced: self.produced, contents: self.contents })
    }

    async fn send(&mut self, number: u64) -> Result<()> {
        let user = self.events.user(number);
        let mut record = self.events.record(number);
        if number.is_multiple_of(DELETES) {
            record.value = None;
            self.contents.remove(&Events::key(user));
        } else {
            self.contents.insert(Events::key(user), serde_json::from_str(&self.events.value(number))?);
        }
        let partition = user as usize % self.produced.len();
        self.produced[partition] += 1;
        self.producer.send(partition, record).await
    }
}

/// What was produced.
pub(super) struct Flowed {
    produced: Vec<u64>,
    contents: BTreeMap<String, Value>,
}

impl Flowed {
    /// Records in each partition.
    pub(super) fn produced(&self) -> &[u64] {
        &self.produced
    }

    /// What each store must hold: the last value of each key that was not deleted since.
    pub(super) fn contents(&self) -> &BTreeMap<String, Value> {
        &self.contents
    }
}
