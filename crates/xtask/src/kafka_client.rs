//! A small Kafka client for tests, demo and benchmark: topics, and records in big batches.

use std::time::Duration;

use anyhow::{Context, Result};
use rskafka::{
    BackoffConfig,
    client::{
        Client, ClientBuilder,
        partition::{Compression, OffsetAt, UnknownTopicHandling},
    },
    record::Record,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Records sent in one request at most.
const BATCH: usize = 2_000;
/// Bytes after which a request is sent although it has fewer records.
const BATCH_BYTES: usize = 512 * 1024;
/// Bytes asked for in one fetch.
const FETCH_BYTES: i32 = 1024 * 1024;
/// A broker on this machine answers within this time or is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Connects to a broker, or to the first of several (with commas between them) that answers.
///
/// # Errors
/// It doesn't answer within 30 s.
pub async fn connect(bootstrap: &str) -> Result<Client> {
    let retry = BackoffConfig {
        max_backoff: Duration::from_secs(1),
        deadline: Some(ANSWER_WITHIN),
        ..BackoffConfig::default()
    };
    let brokers = bootstrap.split(',').map(str::to_owned).collect();
    let client = ClientBuilder::new(brokers).client_id("xtask").backoff_config(retry);
    timeout(ANSWER_WITHIN, client.build())
        .await
        .context("no answer")?
        .with_context(|| format!("can't connect to Kafka at {bootstrap}"))
}

/// Creates a topic with as many replicas as the cluster gives by default.
///
/// # Errors
/// It exists, or the broker refuses it.
pub async fn create_topic(client: &Client, topic: &str, partitions: i32) -> Result<()> {
    let limit = i32::try_from(ANSWER_WITHIN.as_millis())?;
    client
        .controller_client()?
        .create_topic(topic, partitions, -1, limit)
        .await
        .with_context(|| format!("can't create the topic {topic}"))
}

/// Sends records to the partitions of a topic, each partition in order and all side by side.
#[derive(Debug)]
pub struct Producer {
    partitions: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    pending: Vec<Record>,
    bytes: usize,
    /// Bounded: the one who makes records waits for the broker.
    batches: mpsc::Sender<Vec<Record>>,
    task: JoinHandle<Result<()>>,
}

impl Producer {
    /// A producer for the first `partitions` partitions of a topic.
    ///
    /// # Errors
    /// The topic doesn't exist or the broker doesn't answer.
    pub async fn new(client: &Client, topic: &str, partitions: i32) -> Result<Self> {
        let mut lanes = Vec::new();
        for partition in 0..partitions {
            let connection = client
                .partition_client(topic, partition, UnknownTopicHandling::Retry)
                .await
                .with_context(|| format!("can't write to partition {partition} of {topic}"))?;
            let (batches, mut received) = mpsc::channel::<Vec<Record>>(2);
            let task = tokio::spawn(async move {
                while let Some(records) = received.recv().await {
                    let sent = connection.produce(records, Compression::NoCompression);
                    timeout(ANSWER_WITHIN, sent).await.context("Kafka doesn't answer")??;
                }
                Ok(())
            });
            lanes.push(Lane { pending: Vec::with_capacity(BATCH), bytes: 0, batches, task });
        }
        Ok(Self { partitions: lanes })
    }

    /// Adds a record to the batch of a partition (taken modulo the number of partitions), sent when it is full.
    ///
    /// # Errors
    /// An earlier batch was refused; [`Producer::finish`] says why.
    pub async fn send(&mut self, partition: usize, record: Record) -> Result<()> {
        let count = self.partitions.len();
        let lane = &mut self.partitions[partition % count];
        lane.bytes += record.approximate_size();
        lane.pending.push(record);
        if lane.pending.len() >= BATCH || lane.bytes >= BATCH_BYTES {
            lane.flush().await?;
        }
        Ok(())
    }

    /// Hands all batches to be sent, full or not.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn flush(&mut self) -> Result<()> {
        for lane in &mut self.partitions {
            lane.flush().await?;
        }
        Ok(())
    }

    /// Sends what is left and waits until the broker has it all.
    ///
    /// # Errors
    /// A batch was refused.
    pub async fn finish(mut self) -> Result<()> {
        // An error here only says that a task has ended; the task itself knows why.
        let _ = self.flush().await;
        for lane in self.partitions {
            drop(lane.batches);
            lane.task.await??;
        }
        Ok(())
    }
}

impl Lane {
    async fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let batch = std::mem::replace(&mut self.pending, Vec::with_capacity(BATCH));
        self.batches.send(batch).await.context("Kafka refused a batch")
    }
}

/// Reads a topic from begin to end as fast as this client can, all partitions side by side, and returns the number of
/// records.
///
/// # Errors
/// The topic doesn't exist or the broker doesn't answer.
pub async fn read_all(client: &Client, topic: &str, partitions: i32) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for partition in 0..partitions {
        let connection = client.partition_client(topic, partition, UnknownTopicHandling::Error).await?;
        tasks.spawn(async move {
            let end = connection.get_offset(OffsetAt::Latest).await?;
            let (mut offset, mut count) = (0, 0);
            while offset < end {
                let fetched = connection.fetch_records(offset, 1..FETCH_BYTES, 500);
                let (records, _) = timeout(ANSWER_WITHIN, fetched).await??;
                count += records.len() as u64;
                if let Some(last) = records.last() {
                    offset = last.offset + 1;
                }
            }
            anyhow::Ok(count)
        });
    }
    let mut total = 0;
    while let Some(count) = tasks.join_next().await {
        total += count??;
    }
    Ok(total)
}
