//! Offsets as people and tools see them: `offsets show` and `reset`, Kafka's own tool, retention, bounded runs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use connect_testkit::scrape::Metrics;
use fred::interfaces::{ConfigInterface, KeysInterface, ListInterface};
use rskafka::client::partition::UnknownTopicHandling;
use system_tests::{Called, Scene, assert_account_adds_up, exit_code, metrics_until, record, until};
use xtask::connector::Connector;
use xtask::process::Signal;
use xtask::services::kafka;

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const GROUP_COMMAND: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

async fn grouped(test: &str, partitions: i32) -> Result<Scene> {
    Ok(Scene::new(BINARY, test, partitions).await?.set("CONNECT_KAFKA_ASSIGNMENT", "group"))
}

/// So many records for each partition, with keys of their own.
fn records(partitions: usize, each: usize) -> impl Iterator<Item = (usize, rskafka::record::Record)> {
    (0..partitions * each)
        .map(move |number| (number % partitions, record(Some(format!("{number}").as_bytes()), Some(b"v"))))
}

/// The cells of a table below its head, by partition.
fn rows(called: &Called) -> BTreeMap<String, Vec<String>> {
    let lines = called.output.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect());
    lines.map(|cells: Vec<String>| (cells[0].clone(), cells[1..].to_vec())).collect()
}

async fn run_until_written(scene: &Scene, count: u64) -> Result<()> {
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "all is written", |m| m.written() == count).await?;
    assert_account_adds_up(&metrics);
    connector.drain().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_reset_moves_what_is_committed_and_what_is_stored() -> Result<()> {
    let scene = grouped("reset", 2).await?;
    scene.produce(records(2, 10)).await?;
    let before = scene.call(&["offsets", "show"])?;
    assert_eq!(before.code, 0, "{before:?}");
    assert_eq!(rows(&before)[&format!("{}-0", scene.topic)][..6], ["-", "none", "0", "10", "10", "-"]);

    let mut connector = scene.connector()?;
    metrics_until(&mut connector, "all is written", |m| m.written() == 20).await?;
    let refused = scene.call(&["offsets", "reset", "--to", "earliest"])?;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.errors.contains("has members: connect at 127.0.0.1"), "{refused:?}");
    connector.drain().await?;

    let shown = scene.call(&["offsets", "show"])?;
    for number in 0..2 {
        let row = &rows(&shown)[&format!("{}-{number}", scene.topic)];
        assert_eq!(row[..6], ["10", "10", "0", "10", "10", "0"], "{shown:?}");
        assert_eq!(row[6], "connect", "{shown:?}");
    }
    let dry = scene.call(&["offsets", "reset", "--to", "offset:4", "--dry-run"])?;
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.output.contains("6 offsets are read again") && dry.output.contains("nothing was changed"), "{dry:?}");
    assert_eq!(scene.call(&["offsets", "show"])?.output, shown.output);

    // One partition alone, and only its records come again.
    let one = format!("{}:1", scene.topic);
    let reset = scene.call(&["offsets", "reset", "--to", "offset:4", "--topic", &one])?;
    assert_eq!(reset.code, 0, "{reset:?}");
    let shown = rows(&scene.call(&["offsets", "show"])?);
    assert_eq!(shown[&format!("{}-0", scene.topic)][..2], ["10", "10"]);
    assert_eq!(shown[&format!("{}-1", scene.topic)][..2], ["4", "4"]);
    run_until_written(&scene, 6).await?;

    let reset = scene.call(&["offsets", "reset", "--to", "earliest"])?;
    assert_eq!(reset.code, 0, "{reset:?}");
    run_until_written(&scene, 20).await?;
    let reset = scene.call(&["offsets", "reset", "--to", "latest"])?;
    assert_eq!(reset.code, 0, "{reset:?}");
    scene.produce(records(2, 1)).await?;
    run_until_written(&scene, 2).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_classic_group_is_reset_to_a_time_once_its_members_are_gone() -> Result<()> {
    let scene = grouped("reset-time", 2).await?.set("CONNECT_KAFKA_GROUP_PROTOCOL", "classic");
    // Ten records a partition, a minute apart.
    let begin = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    let minute = |number: i32| begin + chrono::TimeDelta::minutes(1) * number;
    let timed = records(2, 10).enumerate().map(|(number, (partition, record))| {
        (partition, rskafka::record::Record { timestamp: minute(number as i32 / 2), ..record })
    });
    scene.produce(timed.collect::<Vec<_>>()).await?;
    let half_past_four = minute(4) + chrono::TimeDelta::seconds(30);
    let to = |time: chrono::DateTime<chrono::Utc>| format!("timestamp:{}", time.to_rfc3339());
    let to_half_past_four = to(half_past_four);
    let reset = ["offsets", "reset", "--to", &to_half_past_four];

    let mut connector = scene.connector()?;
    let all = |m: &Metrics| m.written() == 20 && m.sum("connect_committed_offset", &[]) == 20.0;
    metrics_until(&mut connector, "all is written", all).await?;
    let refused = scene.call(&reset)?;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.errors.contains("has members: connect at 127.0.0.1"), "{refused:?}");
    let dry = scene.call(&[&reset[..], &["--dry-run"]].concat())?;
    assert!(dry.code == 0 && dry.output.contains("has members"), "{dry:?}");
    connector.drain().await?;
    let places = || -> Result<Vec<[String; 2]>> {
        let shown = rows(&scene.call(&["offsets", "show"])?);
        Ok(shown.values().map(|row| [row[0].clone(), row[1].clone()]).collect())
    };
    assert_eq!(places()?, [["10", "10"], ["10", "10"]], "nothing was changed");

    let done = scene.call(&reset)?;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(places()?, [["5", "5"], ["5", "5"]], "the first record of that time or later");
    run_until_written(&scene, 10).await?;
    // The very time of a record, as milliseconds; and one that no record has reached.
    let exact = scene.call(&["offsets", "reset", "--to", &format!("timestamp:{}", minute(8).timestamp_millis())])?;
    assert_eq!(exact.code, 0, "{exact:?}");
    assert_eq!(places()?, [["8", "8"], ["8", "8"]]);
    let late = scene.call(&["offsets", "reset", "--to", &to(minute(59))])?;
    assert_eq!(late.code, 0, "{late:?}");
    assert_eq!(places()?, [["10", "10"], ["10", "10"]], "the end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_reset_to_a_new_epoch_is_for_those_who_know_of_it() -> Result<()> {
    let scene = Scene::new(BINARY, "epoch", 1).await?;
    scene.produce(records(1, 5)).await?;
    run_until_written(&scene, 5).await?;
    let reset = scene.call(&["offsets", "reset", "--to", "earliest", "--new-epoch"])?;
    assert_eq!(reset.code, 0, "{reset:?}");
    assert!(reset.output.contains("set CONNECT_EPOCH=1"), "{reset:?}");
    let mut stale = scene.connector()?;
    assert_eq!(exit_code(&mut stale).await?, 1);
    assert!(scene.logged().contains("Set CONNECT_EPOCH=1"), "{}", scene.logged());
    let scene = scene.set("CONNECT_EPOCH", "1");
    run_until_written(&scene, 5).await?;
    let shown = scene.call(&["offsets", "show"])?;
    assert!(shown.output.contains("epoch=1"), "{shown:?}");
    // Back to what was before, as by the rollback of a release: refused by the commits.
    let scene = scene.set("CONNECT_EPOCH", "0");
    assert_eq!(exit_code(&mut scene.connector()?).await?, 1);
    Ok(())
}

/// What `kafka-consumer-groups --describe` says of each partition: current offset, end, lag.
fn describe(scene: &Scene) -> Result<BTreeMap<String, [i64; 3]>> {
    let mut tool = kafka::tool(GROUP_COMMAND)?;
    tool.args(["--bootstrap-server", &scene.kafka, "--timeout", "60000", "--group", &scene.topic]);
    let output = tool.args(["--describe", "--offsets"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.find(|cells| cells.contains(&"CURRENT-OFFSET")).with_context(|| text.clone())?;
    let column = |title: &str| head.iter().position(|cell| *cell == title).with_context(|| text.clone());
    let (topic, partition) = (column("TOPIC")?, column("PARTITION")?);
    let numbers = [column("CURRENT-OFFSET")?, column("LOG-END-OFFSET")?, column("LAG")?];
    let mut found = BTreeMap::new();
    for cells in lines.filter(|cells| cells.get(topic) == Some(&scene.topic.as_str())) {
        let mut values = [0; 3];
        for (value, index) in values.iter_mut().zip(numbers) {
            *value = cells[index].parse().with_context(|| text.clone())?;
        }
        found.insert(cells[partition].to_owned(), values);
    }
    Ok(found)
}

fn ours(metrics: &Metrics, partition: &str) -> [i64; 2] {
    ["connect_committed_offset", "connect_lag"].map(|name| metrics.sum(name, &[("partition", partition)]) as i64)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn kafka_s_own_tool_says_what_the_metrics_say() -> Result<()> {
    let mut scene = grouped("describe", 2).await?;
    scene.produce(records(2, 15)).await?;
    let mut connector = scene.connector()?;
    let committed = |m: &Metrics| (ours(m, "0"), ours(m, "1")) == ([15, 0], [15, 0]);
    metrics_until(&mut connector, "both are committed", committed).await?;
    // The store comes first, Kafka is told within a second; until then the tool says `-`.
    until("the tool says the same", async || {
        describe(&scene).is_ok_and(|said| said.len() == 2 && said.values().all(|said| *said == [15, 15, 0]))
    })
    .await?;
    // The store stands still, so that there is a lag to be told.
    scene.redis.pause()?;
    scene.produce((0..7).map(|_| (1, record(Some(b"late"), Some(b"v"))))).await?;
    let metrics = metrics_until(&mut connector, "the lag is seen", |m| m.lag() == 7).await?;
    let said = describe(&scene)?;
    assert_eq!(said.len(), 2, "{said:?}");
    for (partition, [current, end, lag]) in said {
        assert_eq!([current, lag], ours(&metrics, &partition), "partition {partition}, which ends at {end}");
        assert_eq!(end - current, lag);
    }
    scene.redis.resume()?;
    metrics_until(&mut connector, "nothing is left", |m| m.lag() == 0 && ours(m, "1") == [22, 0]).await?;
    connector.drain().await?;
    assert_eq!(describe(&scene)?["1"], [22, 22, 0], "committed at the drain");

    // A reset by that tool alone has no effect here, and is told.
    let mut tool = kafka::tool(GROUP_COMMAND)?;
    tool.args(["--bootstrap-server", &scene.kafka, "--timeout", "60000", "--group", &scene.topic]);
    let done = tool.args(["--topic", &scene.topic, "--reset-offsets", "--to-offset", "3", "--execute"]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let shown = scene.call(&["offsets", "show"])?;
    assert!(shown.output.contains("committed by another program"), "{shown:?}");
    assert!(shown.output.contains("offsets reset --to offset:3"), "{shown:?}");
    let mut connector = scene.connector()?;
    let back = |m: &Metrics| (ours(m, "0"), ours(m, "1")) == ([15, 0], [22, 0]);
    let metrics = metrics_until(&mut connector, "Kafka is told the truth again", back).await?;
    assert_eq!(metrics.read(), 0, "nothing is read again");
    until("it is committed", async || describe(&scene).is_ok_and(|said| said["0"] == [15, 15, 0])).await?;
    connector.drain().await?;
    let log = scene.logged();
    assert!(log.contains("another program has set the group's offset") && log.contains("--to offset:3"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn records_that_retention_took_are_fatal_or_skipped_and_counted() -> Result<()> {
    let scene = Scene::new(BINARY, "retention", 1).await?;
    scene.produce(records(1, 10)).await?;
    run_until_written(&scene, 10).await?;
    scene.produce(records(1, 5)).await?;
    let client = xtask::kafka_client::connect(&scene.kafka).await?;
    let partition = client.partition_client(&scene.topic, 0, UnknownTopicHandling::Error).await?;
    partition.delete_records(13, 10_000).await?;

    assert_eq!(exit_code(&mut scene.connector()?).await?, 1);
    let log = scene.logged();
    assert!(log.contains("offset 10 is next, but the oldest record kept is 13"), "{log}");
    assert!(log.contains("CONNECT_KAFKA_OUT_OF_RANGE=earliest"), "{log}");

    let scene = scene.set("CONNECT_KAFKA_OUT_OF_RANGE", "earliest");
    let mut connector = scene.connector()?;
    let metrics = metrics_until(&mut connector, "the rest is written", |m| m.written() == 2).await?;
    assert_eq!(metrics.sum("connect_records_skipped_total", &[]), 3.0);
    connector.drain().await?;
    assert!(scene.logged().contains("records were deleted before they were read"), "{}", scene.logged());
    assert_eq!(rows(&scene.call(&["offsets", "show"])?)[&format!("{}-0", scene.topic)][..2], ["15", "15"]);

    // With `latest` everything that is still there is left out as well.
    scene.produce(records(1, 5)).await?;
    partition.delete_records(17, 10_000).await?;
    let scene = scene.set("CONNECT_KAFKA_OUT_OF_RANGE", "latest");
    let mut connector = scene.connector()?;
    let skipped = |m: &Metrics| m.sum("connect_records_skipped_total", &[]) == 5.0;
    metrics_until(&mut connector, "all is skipped", skipped).await?;
    connector.drain().await?;
    Ok(())
}

/// How many processes have said that they stand by.
fn standing_by(scene: &Scene) -> usize {
    scene.logged().matches("standing by until").count()
}

/// Nothing can be written, though everything answers: so nobody has reached the end.
async fn fill(scene: &Scene) -> Result<fred::clients::Client> {
    let store = scene.store().await?;
    store.config_set("maxmemory-policy", "noeviction").await?;
    store.config_set("maxmemory", "1").await?;
    Ok(store)
}

async fn more_processes_than_partitions(scene: Scene) -> Result<()> {
    let scene = scene.set("CONNECT_KAFKA_STOP", "end");
    scene.produce(records(1, 10)).await?;
    let store = fill(&scene).await?;
    let mut processes: Vec<Connector> = (0..3).map(|_| scene.connector()).collect::<Result<_>>()?;
    until("two of three stand by", async || standing_by(&scene) == 2).await?;
    for process in &mut processes {
        ensure!(process.process().exited()?.is_none(), "{}", scene.logged());
    }
    store.config_set("maxmemory", "0").await?;
    for process in &mut processes {
        assert_eq!(exit_code(process).await?, 0, "{}", scene.logged());
    }
    let shown = scene.call(&["offsets", "show"])?;
    assert_eq!(rows(&shown)[&format!("{}-0", scene.topic)][..2], ["10", "10"], "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_bounded_run_ends_in_every_process_by_the_broker_s_protocol() -> Result<()> {
    more_processes_than_partitions(grouped("bounded", 1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_bounded_run_ends_in_every_process_of_a_classic_group() -> Result<()> {
    let classic = grouped("bounded-classic", 1).await?.set("CONNECT_KAFKA_GROUP_PROTOCOL", "classic");
    more_processes_than_partitions(classic).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn who_stands_by_takes_over_from_one_that_was_killed() -> Result<()> {
    let scene = grouped("standby", 1).await?.set("CONNECT_KAFKA_STOP", "end");
    let scene = scene.set("CONNECT_KAFKA_GROUP_PROTOCOL", "classic").set("CONNECT_KAFKA_SESSION_TIMEOUT", "6s");
    scene.produce(records(1, 10)).await?;
    let store = fill(&scene).await?;
    let mut worker = scene.connector()?;
    metrics_until(&mut worker, "the partition is taken", |m| m.sum("connect_partitions", &[]) == 1.0).await?;
    let mut standby = scene.connector()?;
    until("it stands by", async || standing_by(&scene) == 1).await?;
    worker.process().signal(Signal::KILL)?;
    store.config_set("maxmemory", "0").await?;
    assert_eq!(exit_code(&mut standby).await?, 0, "{}", scene.logged());
    let shown = scene.call(&["offsets", "show"])?;
    assert_eq!(rows(&shown)[&format!("{}-0", scene.topic)][..2], ["10", "10"], "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn latest_is_the_end_at_the_first_start_whatever_happens_then() -> Result<()> {
    // Other data beside it, and a command that must not repeat: nothing stored must not look like something lost.
    let scene = Scene::new(BINARY, "latest", 1).await?;
    let scene = scene.set("CONNECT_KAFKA_START", "latest").set("CONNECT_REDIS_COMMAND", "rpush");
    scene.store().await?.set::<(), _, _>("other", "data", None, None, false).await?;
    scene.produce(records(1, 5)).await?;
    let store = fill(&scene).await?;
    let mut connector = scene.connector()?;
    until("the end is committed", async || {
        scene.call(&["offsets", "show"]).is_ok_and(|shown| shown.output.contains(" start"))
    })
    .await?;
    connector.process().signal(Signal::KILL)?;
    store.config_set("maxmemory", "0").await?;
    // What was written while nobody ran is not left out.
    scene.produce([(0, record(Some(b"list"), Some(b"after")))]).await?;
    run_until_written(&scene, 1).await?;
    assert_eq!(store.lrange::<Vec<String>, _>("list", 0, -1).await?, ["after"]);
    Ok(())
}
