//! Makes logs on a real broker and reads their bytes.

use bytes::Bytes;
use connect_core::kafka::batch::Aborted;
use connect_core::kafka::batch::encode::Draft;
use connect_core::kafka::wire::{Cluster, Purpose};
use connect_core::{Header, TopicPartition};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::Golden;
use crate::support::draft as draft_of_now;
use crate::support::{LIMIT, Producer, cluster, create_topic, eventually, produce, unique};

/// The records' times: they do not change from one recording to the next.
const TIME: i64 = 1_700_000_000_000;

fn draft(number: i64, key: Option<&str>, value: Option<&str>) -> Draft {
    Draft { timestamp: TIME + number, ..draft_of_now(key, value) }
}

/// Nulls, empty ones, and headers that are repeated, empty and null; enough of the same to be worth compressing.
fn drafts() -> [Draft; 3] {
    let header =
        |key: &'static str, value: Option<&'static str>| Header { key: key.into(), value: value.map(Into::into) };
    let mut nulls = draft(1, None, None);
    nulls.headers = vec![
        header("z", Some("0")),
        header("dup", Some("1")),
        header("null", None),
        header("dup", Some("")),
        header("", None),
    ];
    [draft(2, Some("key"), Some("value")), nulls, draft(0, Some(""), Some(&"the same ".repeat(12)))]
}

/// Makes the log of a case and reads it.
pub async fn record(name: &'static str) -> Golden {
    let cluster = cluster(&[]);
    let settings: &[(&str, &str)] = match name {
        "plain" | "transactions" => &[("compression.type", "uncompressed")],
        "log-append-time" => &[("message.timestamp.type", "LogAppendTime")],
        "compacted" => &[
            ("cleanup.policy", "compact"),
            ("segment.ms", "100"),
            ("min.cleanable.dirty.ratio", "0.001"),
            ("max.compaction.lag.ms", "100"),
        ],
        codec => &[("compression.type", codec)],
    };
    let topic = unique("golden");
    // The records are old.
    create_topic(&cluster, &topic, 1, &[settings, &[("retention.ms", "-1")]].concat()).await;
    let partition = TopicPartition::new(topic.as_str(), 0);
    let (bytes, aborted) = match name {
        "transactions" => transactions(&cluster, &partition).await,
        "compacted" => compacted(&cluster, &partition).await,
        _ => {
            produce(&cluster, &partition, &drafts()).await;
            produce(&cluster, &partition, &drafts()[..1]).await;
            fetch(&cluster, &partition, 4).await
        }
    };
    Golden { name, bytes, aborted }
}

/// Committed and aborted transactions of two producers, one within the other, and a record of none.
async fn transactions(cluster: &Cluster, partition: &TopicPartition) -> (Bytes, Vec<Aborted>) {
    let (mut one, mut other) = (Producer::new(cluster).await, Producer::new(cluster).await);
    let drafts = |value| [draft(0, Some("a"), Some(value)), draft(1, Some("b"), Some(value))];
    // Coordinators write markers after they have answered: what follows waits for them, so that each log is the same.
    one.produce(partition, &drafts("committed")).await;
    one.end(true).await;
    until_end(cluster, partition, 3).await;
    other.produce(partition, &drafts("aborted")).await;
    one.produce(partition, &drafts("committed beside it")).await;
    other.produce(partition, &drafts("aborted, too")[..1]).await;
    produce(cluster, partition, &drafts("of no transaction")[..1]).await;
    other.end(false).await;
    until_end(cluster, partition, 10).await;
    // The next one of the same producer counts.
    other.produce(partition, &drafts("committed after all")[..1]).await;
    one.end(true).await;
    until_end(cluster, partition, 12).await;
    other.end(true).await;
    fetch(cluster, partition, 13).await
}

/// A log that the cleaner went over: an empty batch, which it keeps for its producer's sake, batches that lost their
/// middle and their end, a tombstone with a time to go, and a gap.
async fn compacted(cluster: &Cluster, partition: &TopicPartition) -> (Bytes, Vec<Aborted>) {
    let mut producer = Producer::new(cluster).await;
    producer.produce(partition, &[draft(0, Some("overwritten"), Some("0"))]).await;
    producer.end(true).await;
    until_end(cluster, partition, 2).await;
    let batch = |keys: &[&str], value: Option<&str>| -> Vec<Draft> {
        keys.iter().zip(0..).map(|(key, number)| draft(number, Some(key), value)).collect()
    };
    for (keys, value) in [
        (&["a", "x", "b", "y"][..], Some("kept where the key is")),
        (&["x", "y"], Some("nothing of this batch stays")),
        (&["gone"], Some("there")),
        (&["gone"], None),
        (&["overwritten", "x", "y"], Some("newer")),
    ] {
        produce(cluster, partition, &batch(keys, value)).await;
    }
    let (ours, mut rolled) = (13, 13);
    eventually("the cleaner went over it", async || {
        // A record of now makes the broker roll the segment, which the cleaner then takes.
        rolled = produce(cluster, partition, &[draft_of_now(Some("tick"), Some("t"))]).await + 1;
        let (bytes, aborted) = fetch(cluster, partition, rolled).await;
        let golden = Golden { name: "compacted", bytes, aborted };
        let bounds = golden.bounds();
        let bases = bounds
            .windows(2)
            .map(|batch| golden.bytes[batch[0]..batch[0] + 8].try_into().map(i64::from_be_bytes).expect("eight bytes"));
        let bases: Vec<i64> = bases.collect();
        let whole = golden.whole();
        let lost = |offset: i64| whole.records.iter().all(|record| record.offset != offset);
        let cleaned = [0, 3, 5, 6, 7, 8].into_iter().all(lost);
        if !cleaned {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            return None;
        }
        let mine = bases.iter().take_while(|base| **base < ours).count();
        Some((golden.bytes.slice(..bounds[mine]), golden.aborted))
    })
    .await
}

/// All bytes up to an end, once everything before it is decided. An answer holds no more than a segment.
async fn fetch(cluster: &Cluster, partition: &TopicPartition, end: i64) -> (Bytes, Vec<Aborted>) {
    let mut read = Golden { name: "read", bytes: Bytes::new(), aborted: Vec::new() };
    eventually("all is stable", async || {
        let (_, bytes, aborted) = ask(cluster, partition, read.whole().next).await?;
        read.bytes = [&read.bytes[..], &bytes].concat().into();
        read.aborted
            .extend(aborted.into_iter().filter(|transaction| !read.aborted.contains(transaction)).collect::<Vec<_>>());
        (read.whole().next == end).then_some(())
    })
    .await;
    (read.bytes, read.aborted)
}

/// Waits until the log has this end.
async fn until_end(cluster: &Cluster, partition: &TopicPartition, end: i64) {
    eventually("the log has grown", async || ask(cluster, partition, 0).await.filter(|answer| answer.0 == end)).await;
}

/// The end, the bytes up to where all is decided, and what was aborted.
async fn ask(cluster: &Cluster, partition: &TopicPartition, from: i64) -> Option<(i64, Bytes, Vec<Aborted>)> {
    let leader = cluster.leader(partition).await.ok()?;
    let asked = FetchPartition::default()
        .with_partition(partition.partition)
        .with_fetch_offset(from)
        .with_current_leader_epoch(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(partition.topic.to_string())))
        .with_partitions(vec![asked]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_bytes(1 << 20)
        .with_isolation_level(1)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let connection = cluster.broker(leader.node, Purpose::Read).await.ok()?;
    let mut answer = connection.call(&request, 12, LIMIT).await.expect("an answer");
    let found = answer.responses.pop()?.partitions.pop()?;
    if found.error_code != 0 {
        cluster.forget_leader(partition);
        return None;
    }
    let aborted = found.aborted_transactions.unwrap_or_default();
    let aborted = aborted.iter().map(|a| Aborted { producer_id: a.producer_id.0, first_offset: a.first_offset });
    Some((found.high_watermark, found.records.unwrap_or_default(), aborted.collect()))
}
