//! What the sink alone costs: `cargo run --release -p sink-redis --example speed -- redis://127.0.0.1:6379 [NAME=VALUE …]`
//! writes 1,000,000 records of 200 B to 100,000 keys, in batches of 4,000 of four partitions, and prints records a second
//! and CPU seconds of this process. It empties nothing: give it a Redis of its own.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use connect_core::config::Section;
use connect_core::{Assigned, Batch, Item, Record, Sink, TopicPartition};
use sink_redis::{RedisConfig, RedisSink};

const RECORDS: i64 = 1_000_000;
const BATCH: i64 = 4_000;
const PARTITIONS: i32 = 4;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut pairs = vec![("CONNECT_REDIS_URL", arguments[0].as_str())];
    pairs.extend(arguments[1..].iter().filter_map(|argument| argument.split_once('=')));
    let config = RedisConfig::from_pairs(&pairs).unwrap();
    let sink =
        Arc::new(RedisSink::new(config, &format!("speed{}", std::process::id()), &["speed".to_owned()]).unwrap());
    sink.check().await.unwrap();
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let partitions: Vec<_> =
        (0..PARTITIONS).map(|partition| tokio::spawn(write(Arc::clone(&sink), partition))).collect();
    for partition in partitions {
        partition.await.unwrap();
    }
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{:.0} records/s, {cpu:.2} CPU s per million", RECORDS as f64 / seconds);
}

async fn write(sink: Arc<RedisSink>, partition: i32) {
    let topic: Arc<str> = "speed".into();
    let source = TopicPartition { topic: Arc::clone(&topic), partition };
    sink.resume(&Assigned::new(source.clone())).await.unwrap();
    let value = Bytes::from(br#"{"n":7,"p":""#.iter().copied().chain([b'x'; 186]).chain(*b"\"}").collect::<Vec<u8>>());
    let mut expected = None;
    for first in (0..RECORDS / i64::from(PARTITIONS)).step_by(BATCH as usize) {
        let mut items = Vec::with_capacity(BATCH as usize);
        for offset in first..first + BATCH {
            let user = (offset * 7_919 + i64::from(partition)) % 100_000;
            let record = Record {
                topic: Arc::clone(&topic),
                partition,
                offset,
                timestamp: 4_000_000_000_000,
                key: Some(format!("user:{user}").into()),
                value: Some(value.clone()),
                headers: Vec::new(),
            };
            items.push(Item { offset, op: sink.prepare(&record).unwrap().unwrap() });
        }
        let batch = Batch { source: source.clone(), expected, first, next: first + BATCH, items };
        assert!(sink.write(&batch).await.unwrap().exceptions().is_empty());
        expected = Some(batch.next);
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
