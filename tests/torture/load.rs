//! Records that come all the time: the values of each key count up from 0. Appended to lists in Redis, whatever goes wrong with
//! them stays to be seen there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use rskafka::record::RecordAndOffset;
use system_tests::{Scene, record};
use tokio::task::JoinHandle;
use tokio::time::interval;
use xtask::kafka_client::{Producer, connect};

/// Keys, each in one partition.
const KEYS: u64 = 1_200;
/// Any number that has no divisor in common with [`KEYS`]: neighbours in time are far apart.
const STRIDE: u64 = 7_919;
/// Records a second while members are struck.
const PER_SECOND: u64 = 2_000;
const TICK: Duration = Duration::from_millis(50);
const FETCH_BYTES: i32 = 1 << 20;

/// A task that adds records.
pub struct Load {
    enough: Arc<AtomicBool>,
    task: JoinHandle<Result<u64>>,
}

impl Load {
    /// Adds records to the scene's topic: slowly until [`Load::finish`], and then as fast as it goes up to `at_least`.
    pub fn start(scene: &Scene, partitions: usize, at_least: u64) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (kafka, topic, stop) = (scene.kafka.clone(), scene.topic.clone(), Arc::clone(&enough));
        let task = tokio::spawn(async move {
            let mut producer = Producer::new(&connect(&kafka).await?, &topic, partitions as i32).await?;
            let (mut ticks, mut number) = (interval(TICK), 0);
            while number < at_least || !stop.load(Relaxed) {
                if !stop.load(Relaxed) {
                    ticks.tick().await;
                }
                for _ in 0..PER_SECOND * TICK.as_millis() as u64 / 1000 {
                    let (key, value) = (number * STRIDE % KEYS, number / KEYS);
                    let record = record(Some(format!("key-{key}").as_bytes()), Some(value.to_string().as_bytes()));
                    producer.send(key as usize % partitions, record).await?;
                    number += 1;
                }
                producer.flush().await?;
            }
            producer.finish().await?;
            Ok(number)
        });
        Self { enough, task }
    }

    /// Adds what is left.
    pub async fn finish(self) -> Result<()> {
        self.enough.store(true, Relaxed);
        let sent = self.task.await??;
        println!("{sent} records were sent");
        Ok(())
    }
}

/// What the topic says: the values of each key in their order. A producer that tries again may have sent some of them twice.
pub struct Contents {
    lists: BTreeMap<String, Vec<u64>>,
    /// Records in all.
    pub records: u64,
}

impl Contents {
    /// Reads the topic from begin to end.
    pub async fn read(scene: &Scene, partitions: usize) -> Result<Self> {
        let client = connect(&scene.kafka).await?;
        let mut lists: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut records = 0;
        for partition in 0..partitions {
            let source = client.partition_client(&scene.topic, partition as i32, UnknownTopicHandling::Error).await?;
            let end = source.get_offset(OffsetAt::Latest).await?;
            records += end as u64;
            let mut next = 0;
            while next < end {
                let (fetched, _) = source.fetch_records(next, 1..FETCH_BYTES, 1_000).await?;
                for RecordAndOffset { record, offset } in fetched {
                    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default());
                    lists.entry(text(record.key)?).or_default().push(text(record.value)?.parse()?);
                    next = offset + 1;
                }
            }
        }
        Ok(Self { lists, records })
    }

    /// Checks that Redis holds exactly this, and that the topic lacks no value.
    pub async fn check(&self, store: &Client) -> Result<()> {
        ensure!(self.lists.len() as u64 == KEYS, "{} keys were sent", self.lists.len());
        for (key, expected) in &self.lists {
            let sent: BTreeSet<u64> = expected.iter().copied().collect();
            ensure!(sent.iter().copied().eq(0..sent.len() as u64), "the topic itself has holes at {key}: {expected:?}");
            let list: Vec<u64> = store.custom(fred::cmd!("LRANGE"), vec![key.as_str(), "0", "-1"]).await?;
            let wrong = list.iter().zip(expected).position(|(found, expected)| found != expected);
            ensure!(
                list == *expected,
                "{key} holds {} values instead of {}, the first that differs is number {wrong:?}: {list:?}",
                list.len(),
                expected.len(),
            );
        }
        Ok(())
    }
}
