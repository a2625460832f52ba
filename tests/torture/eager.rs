//! Consumers that give up everything at each rebalance: Java's console consumer with its range assignor.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use system_tests::until;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use xtask::services::Kafka;

use super::pauses::{Pauses, Report};

/// Longer than the session of a consumer that was killed, and the rebalance behind it.
const AFTERMATH: Duration = Duration::from_secs(8);
const SETTINGS: [&str; 4] = [
    "partition.assignment.strategy=org.apache.kafka.clients.consumer.RangeAssignor",
    "auto.offset.reset=earliest",
    "session.timeout.ms=3000",
    "heartbeat.interval.ms=1000",
];

/// Two members; a third joins and leaves, joins again and is killed.
pub async fn pauses(kafka: &Kafka, topic: &str, partitions: usize) -> Result<Report> {
    let (pauses, mut report) = (Arc::new(Pauses::told(partitions)), Report::default());
    let mut add =
        |cause: &str, since| pauses.longest_since(since).into_iter().for_each(|pause| report.add(cause, pause));
    let _members = (Consumer::start(kafka, topic, &pauses)?, Consumer::start(kafka, topic, &pauses)?);
    let all_move = async |since: Instant| until("all partitions move", async || pauses.all_moved_since(since)).await;
    all_move(Instant::now()).await?;
    sleep(AFTERMATH).await;
    let calm = Instant::now();
    sleep(AFTERMATH).await;
    add("nothing happens", calm);
    for (cause, signal) in [("leave, eager", Signal::TERM), ("kill, eager", Signal::KILL)] {
        let begun = Instant::now();
        let mut third = Consumer::start(kafka, topic, &pauses)?;
        until("the third has joined", async || third.records.load(Relaxed) > 0).await?;
        all_move(Instant::now()).await?;
        add("join, eager", begun);
        let begun = Instant::now();
        let id = third.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("it has ended")?;
        kill_process(id, signal)?;
        third.process.wait().await?;
        sleep(AFTERMATH).await;
        all_move(Instant::now()).await?;
        add(cause, begun);
    }
    Ok(report)
}

struct Consumer {
    process: Child,
    records: Arc<AtomicU64>,
}

impl Consumer {
    /// Starts one that says each record's partition.
    fn start(kafka: &Kafka, topic: &str, pauses: &Arc<Pauses>) -> Result<Self> {
        let mut tool = Command::from(kafka.tool("org.apache.kafka.tools.consumer.ConsoleConsumer"));
        tool.args(["--bootstrap-server", &kafka.bootstrap(), "--topic", topic, "--group", "eager"]);
        tool.args(["--property", "print.partition=true", "--property", "print.value=false"]);
        tool.args(SETTINGS.iter().flat_map(|setting| ["--consumer-property", setting]));
        let mut process = tool.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let records = Arc::new(AtomicU64::new(0));
        let (pauses, read) = (Arc::clone(pauses), Arc::clone(&records));
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(partition) = line.strip_prefix("Partition:").and_then(|rest| rest.trim().parse().ok()) {
                    pauses.moved(partition);
                    read.fetch_add(1, Relaxed);
                }
            }
        });
        Ok(Self { process, records })
    }
}
