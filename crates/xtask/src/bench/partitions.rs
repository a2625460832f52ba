//! `cargo xtask bench partitions`: what a thousand partitions cost one process, idle and trickling, by both readers.

use std::{
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use chrono::Utc;
use connect_core::kafka::{
    batch::{Draft, encode},
    wire::{Cluster, Purpose},
};
use kafka_protocol::{
    messages::{
        ProduceRequest, TopicName,
        produce_request::{PartitionProduceData, TopicProduceData},
        produce_response::PartitionProduceResponse,
    },
    protocol::StrBytes,
};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{MEBIBYTE, cluster, rounded, start};
use crate::{
    connector::{self, Connector},
    kafka_client, proc, redis_client,
    services::{Kafka, KafkaOptions, Redis, RedisOptions},
};

const MANY: i32 = 1_000;
const FEW: i32 = 4;
/// Of each of the many partitions; the few get as many altogether.
const RECORDS_PER_SECOND: i32 = 10;
/// How long each figure is measured.
const WINDOW: Duration = Duration::from_secs(20);
/// A group with this many partitions has begun to read all of them within this time.
const PATIENCE: Duration = Duration::from_secs(120);
/// The newest version of Produce that names topics.
const PRODUCE: i16 = 9;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The last line of the output, for programs. Shares are parts of one core.
#[derive(Debug, Serialize)]
struct Report {
    idle: Figures,
    trickling: Figures,
    few: Figures,
    trickling_to_few: f64,
    rskafka_idle: Figures,
    rskafka_trickling: Figures,
}

/// What a process took in the window.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    core: f64,
    rss_mib: f64,
    records_per_s: f64,
}

impl Figures {
    /// Seconds of a core. What piled up while the connector started is written in the window, too.
    fn a_record(&self) -> f64 {
        self.core / self.records_per_s
    }
}

/// Measures sink-redis.
///
/// # Errors
/// The set-up failed, or the connector fell behind what was produced.
pub async fn run() -> Result<()> {
    let binary = connector::build("sink-redis", "release")?;
    println!("starting Kafka and Redis");
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    let redis = Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
    let client = kafka_client::connect(&kafka.bootstrap()).await?;
    for (topic, partitions) in [("many", MANY), ("few", FEW)] {
        kafka_client::create_topic(&client, topic, partitions).await?;
        // The first record of a partition makes the broker write a file through to the disk.
        warm_up(&kafka, topic, partitions).await?;
    }
    let bench = Bench { binary, kafka, redis };
    println!("                              of a core   RSS MiB   records/s");
    let idle = bench.measure("idle", "many", MANY, None, false).await?;
    let trickling = bench.measure("trickling", "many", MANY, None, true).await?;
    let few = bench.measure("few", "few", FEW, None, true).await?;
    let report = Report {
        idle,
        trickling,
        few,
        trickling_to_few: rounded(trickling.a_record() / few.a_record()),
        rskafka_idle: bench.measure("rskafka-idle", "many", MANY, Some("rskafka"), false).await?,
        rskafka_trickling: bench.measure("rskafka-trickling", "many", MANY, Some("rskafka"), true).await?,
    };
    println!("a thousand that trickle cost {} times the CPU of the same records in {FEW}", report.trickling_to_few);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Bench {
    binary: PathBuf,
    kafka: Kafka,
    redis: Redis,
}

impl Bench {
    async fn measure(
        &self,
        name: &str,
        topic: &'static str,
        partitions: i32,
        reader: Option<&str>,
        records: bool,
    ) -> Result<Figures> {
        let url = self.redis.url();
        redis_client::flush(&redis_client::connect(&url).await?).await?;
        let mut settings = vec![("CONNECT_REDIS_URL", &*url), ("CONNECT_KAFKA_START", "latest")];
        settings.extend(reader.map(|reader| ("CONNECT_KAFKA_READER", reader)));
        let (mut connector, _log) = start(&self.binary, name, &self.kafka, topic, &settings)?;
        assigned(&mut connector, partitions).await?;
        let trickle = if records { Some(Trickle::start(&self.kafka, topic, partitions).await?) } else { None };
        // What the start took is over, and the records flow.
        sleep(WINDOW / 4).await;
        let pid = connector.process().pid();
        let written = |metrics: Option<connect_testkit::scrape::Metrics>| metrics.unwrap_or_default().written();
        let (cpu, before, begun) = (proc::cpu_seconds(pid)?, written(connector.metrics().await?), Instant::now());
        sleep(WINDOW).await;
        let (cpu, seconds) = (proc::cpu_seconds(pid)? - cpu, begun.elapsed().as_secs_f64());
        let records_per_s = (written(connector.metrics().await?) - before) as f64 / seconds;
        let rss = proc::memory(pid)? as f64 / MEBIBYTE;
        if let Some(trickle) = trickle {
            let produced = trickle.stop().await?;
            let metrics = connector.wait_until_written(produced).await?;
            ensure!(metrics.written() == produced, "{} were written of {produced}", metrics.written());
        }
        connector.drain().await?;
        let figures =
            Figures { core: rounded(cpu / seconds), rss_mib: rounded(rss), records_per_s: records_per_s.round() };
        println!(
            "{name:<18} {partitions:>5} {:>11.1} % {:>9.1} {:>11.0}",
            figures.core * 100.0,
            figures.rss_mib,
            figures.records_per_s
        );
        Ok(figures)
    }
}

async fn assigned(connector: &mut Connector, partitions: i32) -> Result<()> {
    let begun = Instant::now();
    loop {
        let metrics = connector.metrics().await?.unwrap_or_default();
        if metrics.sum("connect_partitions", &[]) as i32 == partitions {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("not all of {partitions} partitions are read; {}", connector.process().log_tail());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn looked_up(kafka: &Kafka, topic: &'static str) -> Result<Arc<Cluster>> {
    let cluster = cluster(kafka, topic)?;
    cluster.topics(Some(&[Arc::from(topic)])).await?;
    Ok(cluster)
}

async fn warm_up(kafka: &Kafka, topic: &'static str, partitions: i32) -> Result<()> {
    let cluster = looked_up(kafka, topic).await?;
    let begun = Instant::now();
    for first in (0..partitions).step_by(20) {
        // A partition that was just made has no leader yet.
        while let Err(error) = produce(&cluster, topic, first..partitions.min(first + 20), 1).await {
            ensure!(begun.elapsed() < PATIENCE, error);
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Produces to all partitions of a topic, one request for all of them each time, until it is stopped.
struct Trickle {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<u64>>,
}

impl Trickle {
    async fn start(kafka: &Kafka, topic: &'static str, partitions: i32) -> Result<Self> {
        let cluster = looked_up(kafka, topic).await?;
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut sent = 0;
            // Ten parts of the partitions take turns, so that the records come evenly.
            let mut ticks = interval(Duration::from_millis(10));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for turn in 0.. {
                tokio::select! {
                    _ = &mut stopped => break,
                    _ = ticks.tick() => {}
                }
                let (chosen, each) = share(partitions, turn);
                sent += produce(&cluster, topic, chosen, each).await?;
            }
            Ok(sent)
        });
        Ok(Self { stop, task })
    }

    /// How many records were produced altogether.
    async fn stop(self) -> Result<u64> {
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// Which partitions get records in a hundredth of a second, and how many each.
fn share(partitions: i32, turn: i32) -> (Range<i32>, i32) {
    let all = MANY * RECORDS_PER_SECOND / 100;
    if partitions <= all { (0..partitions, all / partitions) } else { (all * (turn % 10)..all * (turn % 10 + 1), 1) }
}

async fn produce(cluster: &Cluster, topic: &str, partitions: Range<i32>, each: i32) -> Result<u64> {
    let draft = |partition: i32, number: i32| Draft {
        timestamp: Utc::now().timestamp_millis(),
        key: Some(format!("key-{partition}-{number}").into()),
        value: Some(Bytes::from_static(&[b'v'; 200])),
        headers: Vec::new(),
    };
    let data = partitions.clone().map(|partition| {
        let drafts: Vec<Draft> = (0..each).map(|number| draft(partition, number)).collect();
        PartitionProduceData::default().with_index(partition).with_records(Some(encode(&drafts)))
    });
    let data = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_data(data.collect());
    let request = ProduceRequest::default().with_acks(1).with_timeout_ms(30_000).with_topic_data(vec![data]);
    let leader = cluster.leader(&connect_core::TopicPartition::new(topic, partitions.start)).await?;
    let connection = cluster.broker(leader.node, Purpose::Ask).await?;
    let answer = connection.call(&request, PRODUCE, ANSWER_WITHIN).await?;
    let answers = &answer.responses.first().context("an answer without topics")?.partition_responses;
    let refused = answers.iter().find(|answer| answer.error_code != 0);
    if let Some(PartitionProduceResponse { index, error_code, .. }) = refused {
        bail!("the broker refused records for partition {index}: error {error_code}");
    }
    Ok((partitions.len() as i32 * each) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_gets_its_records_in_each_second() {
        for partitions in [FEW, MANY] {
            let mut records = vec![0; partitions as usize];
            for turn in 0..100 {
                let (chosen, each) = share(partitions, turn);
                chosen.for_each(|partition| records[partition as usize] += each);
            }
            assert_eq!(records, vec![MANY * RECORDS_PER_SECOND / partitions; partitions as usize]);
        }
    }
}
