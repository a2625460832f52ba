//! A cluster of three masters and three replicas.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use connect_core::{Outcome, Record, Resume, Sink, Verdict};
use tokio::time::{Instant, sleep};
use xtask::ports;
use xtask::services::{Redis, RedisOptions};

use crate::core::deliver;
use crate::support::{assigned, batch, record, rejection, sink, superseded, tombstone, write};

struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    async fn start(replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 * (1 + replicas) {
            let bus = ports::free().unwrap().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            let replication = ["--repl-diskless-sync-delay", "0"];
            let arguments = cluster.iter().chain(&replication).map(ToString::to_string).collect();
            nodes.push(Redis::start(RedisOptions { arguments, ..RedisOptions::default() }).await.unwrap());
        }
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            cluster.until(node.port(), &["CLUSTER", "INFO"], "cluster_state:ok").await;
        }
        for replica in &cluster.nodes[3..] {
            // One that never had its master's data is not promoted.
            cluster.until(replica.port(), &["INFO", "replication"], "master_link_status:up").await;
        }
        cluster
    }

    fn url(&self) -> String {
        let others: Vec<String> =
            self.nodes[1..].iter().map(|node| format!("node=127.0.0.1:{}", node.port())).collect();
        format!("redis-cluster://127.0.0.1:{}?{}", self.nodes[0].port(), others.join("&"))
    }

    fn ask_node(port: u16, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-c", "-p", &port.to_string()]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn ask(&self, words: &[&str]) -> String {
        Self::ask_node(self.nodes[2].port(), words)
    }

    async fn until(&self, port: u16, words: &[&str], text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !Self::ask_node(port, words).contains(text) {
            assert!(Instant::now() < deadline, "{}", Self::ask_node(port, words));
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn each_slot_has_a_guard_of_its_own() {
    let cluster = Cluster::start(0).await;
    let sink = sink(&cluster.url(), &[("CONNECT_REDIS_COMMAND", "rpush")]);
    assert_eq!(sink.check().await, Ok(()));
    assert!(!sink.atomic());
    assert_eq!(sink.resume(&assigned(Some(7))).await, Ok(Resume::NotKept));
    let records: Vec<Record> = (0..1_000).map(|i| record(i, &format!("k{}", i % 100), i.to_string())).collect();
    assert_eq!(write(&sink, 0, &records).await, Outcome::written());
    // Again, from an earlier offset, and overlapping: nothing twice.
    assert_eq!(superseded(&write(&sink, 0, &records).await), 1_000);
    let more: Vec<Record> = (500..1_100).map(|i| record(i, &format!("k{}", i % 100), i.to_string())).collect();
    assert_eq!(superseded(&write(&sink, 500, &more).await), 500);
    for key in 0..100 {
        let expected: Vec<String> = (0..11).map(|round| (round * 100 + key).to_string()).collect();
        assert_eq!(cluster.ask(&["LRANGE", &format!("k{key}"), "0", "-1"]), expected.join("\n"));
    }
    write(&sink, 1_100, &[tombstone(1_100, "k5")]).await;
    assert_eq!(cluster.ask(&["EXISTS", "k5"]), "0");
    // A key of another type stops its slot, exactly before it; the other slots go on.
    cluster.ask(&["SET", "k6", "theirs"]);
    let records = [record(1_101, "k6", "x"), record(1_102, "{k6}b", "y"), record(1_103, "k7", "z")];
    let outcome = write(&sink, 1_101, &records).await;
    assert!(matches!(outcome.exceptions(), [(0, Verdict::Rejected(_)), (1, Verdict::Retry)]), "{outcome:?}");
    assert_eq!(cluster.ask(&["LRANGE", "k7", "-1", "-1"]), "z");
    assert_eq!(rejection(&write(&sink, 1_101, &records[..1]).await).0, 0, "it is not forgotten");
    assert_eq!(write(&sink, 1_102, &records[1..2]).await, Outcome::written(), "behind the dead letter");
    assert_eq!(cluster.ask(&["LRANGE", "{k6}b", "0", "-1"]), "y");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_hash_tag_keeps_a_batch_together() {
    let cluster = Cluster::start(0).await;
    for offsets in ["redis", "kafka"] {
        let settings = [("CONNECT_REDIS_KEY", "{{{topic}}}:{key}"), ("CONNECT_REDIS_OFFSETS", offsets)];
        let sink = sink(&cluster.url(), &settings);
        let records: Vec<Record> = (0..1_000).map(|i| record(i, &format!("{offsets}{i}"), "v")).collect();
        let calls = || -> u64 {
            let stats = cluster.nodes.iter().map(|node| Cluster::ask_node(node.port(), &["INFO", "commandstats"]));
            let count = |stats: String| {
                let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_mset:calls=").map(str::to_owned));
                line.and_then(|line| line.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            stats.map(count).sum()
        };
        let before = calls();
        assert_eq!(sink.write(&batch(&sink, None, 0, &records)).await, Ok(Outcome::written()));
        assert_eq!(calls() - before, 1, "one command for all of them");
        assert_eq!(cluster.ask(&["GET", &format!("{{events}}:{offsets}999")]), "v");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn slots_move_during_load() {
    let cluster = Cluster::start(0).await;
    let settings = [("CONNECT_REDIS_COMMAND", "incrby"), ("CONNECT_REDIS_TIMEOUT", "5s")];
    let sink = sink(&cluster.url(), &settings);
    let records: Vec<Record> = (0..30_000).map(|i| record(i, &format!("k{}", i % 300), "x")).collect();
    let id = |port: u16| Cluster::ask_node(port, &["CLUSTER", "MYID"]);
    let (from, to) = (id(cluster.nodes[0].port()), id(cluster.nodes[1].port()));
    let address = format!("127.0.0.1:{}", cluster.nodes[0].port());
    let (_, moved) = tokio::join!(
        deliver(&sink, &records, 500),
        tokio::process::Command::new("redis-cli")
            .args(["--cluster", "reshard", &address, "--cluster-from", &from, "--cluster-to", &to])
            .args(["--cluster-slots", "1000", "--cluster-yes"])
            .output()
    );
    let moved = moved.unwrap();
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
    for key in 0..300 {
        assert_eq!(cluster.ask(&["GET", &format!("k{key}")]), "100", "k{key}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_master_fails_over_during_load() {
    let mut cluster = Cluster::start(1).await;
    let settings = [("CONNECT_REDIS_TIMEOUT", "2s")];
    let sink = sink(&cluster.url(), &settings);
    let records: Vec<Record> = (0..30_000).map(|i| record(i, &format!("k{}", i % 300), i.to_string())).collect();
    let survivors: BTreeSet<u16> = cluster.nodes[1..].iter().map(Redis::port).collect();
    let (first, rest) = records.split_at(10_000);
    deliver(&sink, first, 500).await;
    let (_, ()) = tokio::join!(
        async {
            // What is offset by offset behind the first part, as the core would go on.
            for chunk in rest.chunks(500) {
                crate::core::write_chunk(&sink, chunk).await;
            }
        },
        async {
            cluster.nodes[0].stop();
            sleep(Duration::from_millis(1)).await;
        }
    );
    let port = *survivors.first().unwrap();
    cluster.until(port, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    for key in 0..300 {
        assert_eq!(Cluster::ask_node(port, &["GET", &format!("k{key}")]), (29_700 + key).to_string(), "k{key}");
    }
}
