//! A cluster of three masters and three replicas.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use connect_core::{Outcome, Record, Resume, Sink, Verdict};
use fred::interfaces::PubsubInterface;
use tokio::time::{Instant, timeout};
use xtask::services::redis::cluster::until;
use xtask::services::{Redis, RedisCluster, RedisOptions};

use crate::core::deliver;
use crate::support::{assigned, batch, record, rejection, sink, start_client, superseded, tombstone, transient, write};

/// A cluster, and how to look into it.
struct Cluster(RedisCluster);

impl std::ops::Deref for Cluster {
    type Target = RedisCluster;

    fn deref(&self) -> &RedisCluster {
        &self.0
    }
}

impl Cluster {
    async fn start(replicas: usize) -> Self {
        Self(RedisCluster::start(replicas, &RedisOptions::default()).await.unwrap())
    }

    /// The node that serves this key, and another master.
    fn owner_and_other(&self, key: &str) -> (&Redis, &Redis) {
        let slot = self.ask(&["CLUSTER", "KEYSLOT", key]);
        let at_home = |node: &&Redis| Self::ask_here(node.port(), &["CLUSTER", "COUNTKEYSINSLOT", &slot]) != "0";
        let owner = self.nodes.iter().find(at_home).unwrap();
        (owner, self.nodes.iter().find(|node| node.port() != owner.port()).unwrap())
    }

    /// Without following to another node.
    fn ask_here(port: u16, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// While other work goes on.
    async fn ask_meanwhile(port: u16, words: &[&str]) -> String {
        let mut command = tokio::process::Command::new("redis-cli");
        let output = command.args(["-p", &port.to_string()]).args(words).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn ask_node(port: u16, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-c", "-p", &port.to_string()]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn ask(&self, words: &[&str]) -> String {
        Self::ask_node(self.nodes[2].port(), words)
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
    // After a reset no slot takes what is read again for late.
    sink.set_stored(&assigned(None), 0).await.unwrap();
    let again: Vec<Record> = (0..1_000).map(|i| record(i, &format!("again{i}"), "x")).collect();
    assert_eq!(write(&sink, 0, &again).await, Outcome::written());
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
    // A list tells of each record that is lost, doubled or out of order.
    let settings = [("CONNECT_REDIS_COMMAND", "rpush"), ("CONNECT_REDIS_TIMEOUT", "2s")];
    let sink = sink(&cluster.url(), &settings);
    let records: Vec<Record> = (0..30_000).map(|i| record(i, &format!("k{}", i % 300), i.to_string())).collect();
    let survivors: BTreeSet<u16> = cluster.nodes[1..].iter().map(Redis::port).collect();
    let (first, rest) = records.split_at(10_000);
    deliver(&sink, first, 500).await;
    let (_, ()) = tokio::join!(
        async {
            // What is offset by offset behind the first part, as the core would go on.
            for (number, chunk) in (0..).zip(rest.chunks(500)) {
                // First a request that nobody waits for, and that lands at some time or never.
                let dropped = batch(&sink, Some(chunk[0].offset), chunk[0].offset, chunk);
                let _ = timeout(Duration::from_micros(number * 200), sink.write(&dropped)).await;
                crate::core::write_chunk(&sink, chunk).await;
            }
        },
        async {
            // What was answered and not yet copied would be lost, which nobody would notice: so the master answers no more
            // writes, and dies when its replica has all that it did.
            let port = cluster.nodes[0].port();
            assert_eq!(Cluster::ask_meanwhile(port, &["CLIENT", "PAUSE", "60000", "WRITE"]).await, "OK");
            let deadline = Instant::now() + Duration::from_secs(30);
            while !in_step(&Cluster::ask_meanwhile(port, &["INFO", "replication"]).await) {
                assert!(Instant::now() < deadline, "the replica never has it all");
            }
            cluster.0.nodes[0].stop();
        }
    );
    let port = *survivors.first().unwrap();
    until(port, &["CLUSTER", "INFO"], "cluster_state:ok").await.unwrap();
    for key in 0..300 {
        let expected: Vec<String> = (0..100).map(|round| (round * 300 + key).to_string()).collect();
        let found = Cluster::ask_node(port, &["LRANGE", &format!("k{key}"), "0", "-1"]);
        assert_eq!(found, expected.join("\n"), "k{key}");
    }
}

/// Whether a master's only replica has acknowledged everything.
fn in_step(replication: &str) -> bool {
    let written = replication.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    let copied =
        replication.lines().find_map(|line| line.strip_prefix("slave0:")?.split("offset=").nth(1)?.split(',').next());
    written.is_some() && written.map(str::trim) == copied
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn half_of_a_slot_that_moves_is_waited_for_and_nothing_counts_anew() {
    let cluster = Cluster::start(0).await;
    for offsets in ["redis", "kafka"] {
        let key = format!("{{{offsets}}}:{{key}}").replace(&format!("{{{offsets}}}"), &format!("{{{{{offsets}}}}}"));
        let settings = [
            ("CONNECT_REDIS_COMMAND", "incrby"),
            ("CONNECT_REDIS_KEY", key.as_str()),
            ("CONNECT_REDIS_OFFSETS", offsets),
        ];
        let sink = sink(&cluster.url(), &settings);
        let records: Vec<Record> = (0..10).map(|i| record(i, &format!("k{}", i % 2), "x")).collect();
        write(&sink, 0, &records[..4]).await;
        let named = |n: usize| format!("{{{offsets}}}:k{n}");
        let slot = cluster.ask(&["CLUSTER", "KEYSLOT", &named(0)]);
        let (from, to) = cluster.owner_and_other(&named(0));
        let id = |node: &Redis| Cluster::ask_here(node.port(), &["CLUSTER", "MYID"]);
        let (from_id, to_id) = (id(from), id(to));
        let stable = |node: &Redis, words: &[&str]| {
            assert_eq!(Cluster::ask_here(node.port(), &[&["CLUSTER", "SETSLOT", slot.as_str()], words].concat()), "OK");
        };
        let keys = Cluster::ask_here(from.port(), &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
        let (others, offsets_keys): (Vec<&str>, Vec<&str>) = keys.lines().partition(|key| key.contains(":k"));
        let move_keys = |keys: &[&str]| {
            let port = to.port().to_string();
            let command = [&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"], keys].concat();
            assert_eq!(Cluster::ask_here(from.port(), &command), "OK");
        };
        stable(to, &["IMPORTING", &from_id]);
        stable(from, &["MIGRATING", &to_id]);
        // First the key by which a script finds its node, then one of two that it adds to.
        let first = if offsets_keys.is_empty() { &others[..1] } else { &offsets_keys[..] };
        move_keys(first);
        assert_eq!(transient(sink.write(&batch(&sink, Some(4), 4, &records[4..])).await), "slot_moving", "{offsets}");
        let rest: Vec<&str> = keys.lines().filter(|key| !first.contains(key)).collect();
        move_keys(&rest);
        for node in &cluster.nodes {
            stable(node, &["NODE", &to_id]);
        }
        crate::core::write_chunk(&sink, &records[4..]).await;
        assert_eq!([cluster.ask(&["GET", &named(0)]), cluster.ask(&["GET", &named(1)])], ["5", "5"], "{offsets}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_is_published_in_a_cluster_is_published_once() {
    // A channel that every node passes on, and one that stays on the nodes of its slot.
    for command in ["publish", "spublish"] {
        let cluster = Cluster::start(0).await;
        let sink = sink(&cluster.url(), &[("CONNECT_REDIS_COMMAND", command)]);
        assert_eq!(sink.check().await, Ok(()));
        let subscriber = start_client(&cluster.url()).await;
        let mut messages = fred::interfaces::EventInterface::message_rx(&subscriber);
        // Channels in slots of every node.
        let channels: Vec<String> = (0..20).map(|n| format!("news{n}")).collect();
        for channel in &channels {
            match command {
                "publish" => subscriber.subscribe(channel.as_str()).await.unwrap(),
                _ => subscriber.ssubscribe(channel.as_str()).await.unwrap(),
            }
        }
        let records: Vec<Record> = (0..60).map(|i| record(i, &channels[i as usize % 20], i.to_string())).collect();
        assert_eq!(write(&sink, 0, &records).await, Outcome::written());
        assert_eq!(superseded(&write(&sink, 0, &records).await), 60);
        let mut received = Vec::new();
        for _ in 0..60 {
            let message = tokio::time::timeout(Duration::from_secs(10), messages.recv()).await.unwrap().unwrap();
            received.push((message.channel.to_string(), message.value.as_string().unwrap().parse::<i64>().unwrap()));
        }
        for channel in &channels {
            let of = |number: &i64| channels[*number as usize % 20] == *channel;
            let heard = received.iter().filter(|(name, _)| name == channel).map(|(_, number)| *number);
            assert_eq!(heard.collect::<Vec<_>>(), (0..60).filter(of).collect::<Vec<_>>(), "{command}");
        }
        assert!(messages.is_empty(), "nothing twice by {command}");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_slot_that_no_node_serves_is_waited_for() {
    let cluster = Cluster::start(0).await;
    let sink = sink(&cluster.url(), &[]);
    let records = [record(0, "k", "before"), record(1, "k", "after")];
    write(&sink, 0, &records[..1]).await;
    let slot = cluster.ask(&["CLUSTER", "KEYSLOT", "k"]);
    let (owner, _) = cluster.owner_and_other("k");
    for node in &cluster.nodes {
        assert_eq!(Cluster::ask_here(node.port(), &["CLUSTER", "DELSLOTS", &slot]), "OK");
    }
    assert_eq!(transient(sink.write(&batch(&sink, Some(1), 1, &records[1..])).await), "cluster_down");
    assert_eq!(Cluster::ask_here(owner.port(), &["CLUSTER", "ADDSLOTS", &slot]), "OK");
    crate::core::write_chunk(&sink, &records[1..]).await;
    assert_eq!(cluster.ask(&["GET", "k"]), "after");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn client_and_server_agree_on_the_slot_of_every_key() {
    let cluster = Cluster::start(0).await;
    let sink = sink(&cluster.url(), &[("CONNECT_REDIS_COMMAND", "rpush")]);
    let keys =
        ["", "{}", "{}a", "a{}b", "{", "}{", "a{b", "{{a}}", "{a}{b}", "a{b}c}", "{a", "ünï{cö}de", "\0{\0}", " "];
    let records: Vec<Record> = (0..).zip(keys).map(|(offset, key)| record(offset, key, "v")).collect();
    assert_eq!(sink.write(&batch(&sink, None, 0, &records)).await, Ok(Outcome::written()));
    // Each request went to the right node at once: a client that is sent on asks for the slots of the cluster each time.
    for node in &cluster.nodes {
        let errors = Cluster::ask_here(node.port(), &["INFO", "errorstats"]);
        assert!(!errors.contains("MOVED"), "{errors}");
    }
    for key in keys.iter().filter(|key| !key.is_empty() && !key.contains('\0')) {
        assert_eq!(cluster.ask(&["LRANGE", key, "0", "-1"]), "v", "{key:?}");
    }
}
