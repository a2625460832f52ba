//! `cargo xtask bench autoscaling`: processes of one group, added and removed as KEDA would add and remove pods.
//!
//! Each process is held to a rate, so that one alone is too slow on a machine of any size. The load lasts for a while and
//! ends; the driver looks at the group's lag every second. Throughput has to follow, and nothing may be lost.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use rskafka::client::{
    Client,
    partition::{OffsetAt, PartitionClient, UnknownTopicHandling},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    connector::Connector,
    events::Events,
    kafka_client::{self, Producer},
    paths, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
    static_binary::Sources,
};

const TOPIC: &str = "scaled";
const PARTITIONS: i32 = 6;
const USERS: u64 = 5_000;
/// Records/s that one process may write.
const RATE: u64 = 2_000;
/// Records that come each second while the load lasts.
const LOAD: u64 = 4_500;
const LOAD_SECONDS: u64 = 40;
/// Records of lag that one more process is worth: KEDA's `lagThreshold`.
const THRESHOLD: u64 = 5_000;
const MOST: u64 = 3;
/// Seconds of less lag before a process goes: KEDA's `cooldownPeriod`.
const COOLDOWN: u32 = 5;
/// Seconds between two looks at whether more are needed: KEDA's `pollingInterval`. In the first of them one process works alone.
const POLLED_EVERY: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs it.
///
/// # Errors
/// The set-up failed, the processes were never three or never one again, throughput didn't follow, or a record is missing.
pub async fn run() -> Result<()> {
    let binary = Sources::copy()?.build("sink-redis")?;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let redis = Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    kafka_client::create_topic(&client, TOPIC, PARTITIONS).await?;
    let mut producer = Producer::new(&client, TOPIC, PARTITIONS).await?;
    let events = Events::new(1, USERS, Utc::now());
    let mut group = Group::new(&binary, &kafka, &redis, &client).await?;
    let (begun, mut produced, mut calm) = (Instant::now(), 0, 0);
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    println!("  s  produced  committed       lag  processes");
    for second in 0_u64.. {
        seconds.tick().await;
        if begun.elapsed() > PATIENCE {
            bail!("it doesn't come to an end: {} of {produced} records are committed", group.committed());
        }
        if produced < LOAD * LOAD_SECONDS {
            for number in produced..produced + LOAD {
                producer.send(events.user(number) as usize, events.record(number)).await?;
            }
            producer.flush().await?;
            produced += LOAD;
        }
        let lag = group.lag().await?;
        let (now, wanted) = (group.size(), wanted(lag));
        println!("{:3}  {produced:8}  {:9}  {lag:8}  {now}", begun.elapsed().as_secs(), group.committed());
        calm = if wanted < now { calm + 1 } else { 0 };
        if now == 0 {
            group.grow(1)?;
        } else if wanted > now && second.is_multiple_of(POLLED_EVERY) {
            group.grow(wanted)?;
        } else if calm > COOLDOWN {
            calm = 0;
            group.shrink().await?;
        }
        if produced == LOAD * LOAD_SECONDS && lag == 0 && group.committed() == produced && group.size() == 1 {
            break;
        }
    }
    producer.finish().await?;
    group.shrink().await?;
    nothing_is_lost(&redis, &events, produced).await?;
    group.throughput_followed()?;
    println!("{produced} records: the store holds the last one of each of {USERS} keys");
    Ok(())
}

/// How many processes KEDA would want.
fn wanted(lag: u64) -> u64 {
    lag.div_ceil(THRESHOLD).clamp(1, MOST)
}

/// The processes, and what they have committed.
struct Group<'a> {
    binary: &'a Path,
    environment: Vec<(&'static str, String)>,
    partitions: Vec<PartitionClient>,
    processes: Vec<(Connector, tempfile::NamedTempFile)>,
    committed: BTreeMap<i32, u64>,
    /// By number of processes: seconds, and records committed in them.
    measured: BTreeMap<u64, (f64, u64)>,
    since: Option<(u64, Instant, u64)>,
}

impl<'a> Group<'a> {
    async fn new(binary: &'a Path, kafka: &Kafka, redis: &Redis, client: &Client) -> Result<Self> {
        let mut partitions = Vec::new();
        for partition in 0..PARTITIONS {
            partitions.push(client.partition_client(TOPIC, partition, UnknownTopicHandling::Retry).await?);
        }
        let environment = vec![
            ("CONNECT_NAME", "scaled".to_owned()),
            ("CONNECT_KAFKA_BROKERS", kafka.bootstrap()),
            ("CONNECT_KAFKA_TOPICS", TOPIC.to_owned()),
            ("CONNECT_REDIS_URL", redis.url()),
            ("CONNECT_RATE", RATE.to_string()),
        ];
        let (processes, committed, measured) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { binary, environment, partitions, processes, committed, measured, since: None })
    }

    fn size(&self) -> u64 {
        self.processes.len() as u64
    }

    fn committed(&self) -> u64 {
        self.committed.values().sum()
    }

    fn grow(&mut self, size: u64) -> Result<()> {
        while self.size() < size {
            let log = tempfile::Builder::new().prefix("autoscaling-").suffix(".log").tempfile_in(paths::services())?;
            let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            self.processes.push((Connector::start(self.binary, &environment, log.path())?, log));
        }
        Ok(())
    }

    /// The newest goes, as a StatefulSet's would; a drain must end with 0.
    async fn shrink(&mut self) -> Result<()> {
        let (mut connector, _log) = self.processes.pop().context("nobody left")?;
        connector.drain().await?;
        Ok(())
    }

    /// Records behind the committed offsets. A partition on the move has no owner to say; then the last word counts.
    async fn lag(&mut self) -> Result<u64> {
        for (connector, _) in &mut self.processes {
            let Some(metrics) = connector.metrics().await? else { continue };
            for partition in 0..PARTITIONS {
                let number = partition.to_string();
                let offset = metrics.sum("connect_committed_offset", &[("partition", &number)]);
                let known = self.committed.entry(partition).or_default();
                // A partition that isn't this process' own is not shown, and its sum is 0.
                *known = (*known).max(offset as u64);
            }
        }
        self.measure();
        let mut end = 0;
        for partition in &self.partitions {
            end += partition.get_offset(OffsetAt::Latest).await? as u64;
        }
        Ok(end.saturating_sub(self.committed()))
    }

    /// Adds to what this number of processes has done. The second of a change counts for nobody.
    fn measure(&mut self) {
        let (size, committed, now) = (self.size(), self.committed(), Instant::now());
        if let Some((before, at, then)) = self.since
            && before == size
            && committed > then
        {
            let (seconds, records) = self.measured.entry(size).or_default();
            *seconds += (now - at).as_secs_f64();
            *records += committed - then;
        }
        self.since = Some((size, now, committed));
    }

    fn throughput_followed(&self) -> Result<()> {
        let rate = |size: u64| {
            let (seconds, records) = self.measured.get(&size).with_context(|| format!("never {size} processes"))?;
            anyhow::Ok(*records as f64 / seconds)
        };
        let (one, three) = (rate(1)?, rate(MOST)?);
        println!("committed by 1 process: {one:.0}/s, by {MOST}: {three:.0}/s");
        if three < 1.5 * one {
            bail!("throughput did not follow the number of processes");
        }
        Ok(())
    }
}

/// The last event of each user is in the store.
async fn nothing_is_lost(redis: &Redis, events: &Events, count: u64) -> Result<()> {
    let client = redis_client::connect(&redis.url()).await?;
    let keys: Vec<String> = (0..USERS).map(Events::key).collect();
    let values = redis_client::values(&client, &keys).await?;
    let last = events.last_of_each_user(count);
    for ((key, value), number) in keys.iter().zip(values).zip(last) {
        let expected = number.map(|number| events.value(number));
        if value.as_deref() != expected.as_deref().map(str::as_bytes) {
            bail!("{key} holds another event than its last one, number {number:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_wanted_by_lag() {
        for (lag, processes) in [(0, 1), (THRESHOLD, 1), (THRESHOLD + 1, 2), (3 * THRESHOLD, 3), (u64::MAX, MOST)] {
            assert_eq!(wanted(lag), processes, "{lag}");
        }
    }
}
