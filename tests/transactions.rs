//! Transactions of Kafka's own Java producer: exactly what is committed arrives, in order, and what is open holds back what follows.

use anyhow::Result;
use connect_testkit::scrape::Metrics;
use fred::interfaces::ListInterface;
use system_tests::{Scene, assert_account_adds_up, metrics_until, record};
use xtask::services::kafka::Transactions;

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
/// More than one batch of Java's producer: 16 KiB.
const MANY: usize = 2_000;

/// Two producers with transactions beside one without, all into one partition.
struct Producers<'a> {
    scene: &'a Scene,
    java: Transactions,
}

impl Producers<'_> {
    /// As in `first: begin, send x, send y, commit`; each is done before the next begins.
    async fn tell(&mut self, name: &str, orders: &str) -> Result<()> {
        for order in orders.split(", ") {
            let Some(value) = order.strip_prefix("send ") else {
                self.java.tell(name, order).await?;
                continue;
            };
            self.java.tell(name, &format!("send {} 0 list {value}", self.scene.topic)).await?;
            self.java.tell(name, "flush").await?;
        }
        Ok(())
    }

    async fn send_without(&self, value: &str) -> Result<()> {
        self.scene.produce([(0, record(Some(b"list"), Some(value.as_bytes())))]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn exactly_what_java_s_producer_commits_arrives_and_what_is_open_holds_back_what_follows() -> Result<()> {
    let scene = Scene::new(BINARY, "transactions", 1).await?.set("CONNECT_REDIS_COMMAND", "rpush");
    let store = scene.store().await?;
    let list = async || store.lrange::<Vec<String>, _>("list", 0, -1).await;
    let mut producers = Producers { scene: &scene, java: Transactions::start(&scene.kafka)? };
    // Two transactions that overlap, of which one is aborted; and one of several batches.
    producers.tell("first", "begin, send a1").await?;
    producers.tell("second", "begin, send aborted").await?;
    // The marker of a commit is written behind its answer, but before the next transaction: here, between two records of the other's.
    producers.tell("first", "send a2, commit, begin, send a3").await?;
    producers.tell("second", "send aborted-too, abort").await?;
    let many: Vec<String> = (0..MANY).map(|number| format!("many-{number}")).collect();
    for value in &many {
        producers.java.tell("first", &format!("send {} 0 list {value}", scene.topic)).await?;
    }
    producers.tell("first", "commit").await?;
    producers.send_without("plain").await?;

    let mut connector = scene.connector()?;
    let nothing_left = |metrics: &Metrics| metrics.read() > 0 && metrics.lag() == 0;
    metrics_until(&mut connector, "all is passed, markers and aborted ones too", nothing_left).await?;
    let mut expected: Vec<String> = ["a1", "a2", "a3"].map(str::to_owned).into_iter().chain(many).collect();
    expected.push("plain".to_owned());
    assert_eq!(list().await?, expected);

    // One that is open, and behind it a record of no transaction and one that is committed: with its marker, four offsets.
    producers.tell("first", "begin, send open").await?;
    producers.send_without("behind").await?;
    producers.tell("second", "begin, send behind-too, commit").await?;
    let metrics = metrics_until(&mut connector, "all of it was seen", |metrics| metrics.lag() == 4).await?;
    assert_eq!(metrics.read() as usize, expected.len(), "nothing of it was taken: {metrics:?}");
    assert_eq!(metrics.sum("connect_stalled_seconds", &[]), 0.0, "there is nothing to be late with: {metrics:?}");
    producers.tell("first", "commit").await?;
    metrics_until(&mut connector, "it goes on", nothing_left).await?;
    expected.extend(["open", "behind", "behind-too"].map(str::to_owned));
    assert_eq!(list().await?, expected);

    // The same, aborted.
    producers.tell("first", "begin, send open-and-aborted").await?;
    producers.send_without("last").await?;
    metrics_until(&mut connector, "both were seen", |metrics| metrics.lag() == 2).await?;
    producers.tell("first", "abort").await?;
    let metrics = metrics_until(&mut connector, "it goes on", nothing_left).await?;
    expected.push("last".to_owned());
    assert_eq!(list().await?, expected);
    assert_eq!(metrics.read() as usize, expected.len(), "aborted ones are never counted as read");
    assert_account_adds_up(&metrics);
    connector.drain().await?;
    Ok(())
}
