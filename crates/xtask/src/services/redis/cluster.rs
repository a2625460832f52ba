//! A cluster: three masters, with replicas if asked for.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::{Redis, RedisOptions};
use crate::{packages::REDIS_TOOLS, ports};

const MASTERS: usize = 3;
/// Nodes have to hear of each other, replicas copy their masters.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Servers that share the keys among them. The first three were masters when it started.
#[derive(Debug)]
pub struct RedisCluster {
    /// Its servers.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts three masters with so many replicas each, and waits until all slots are served.
    ///
    /// # Errors
    /// A server doesn't start, or they find no agreement.
    pub async fn start(replicas: usize, options: &RedisOptions) -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..MASTERS * (1 + replicas) {
            let bus = ports::free()?.to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            let mut options = options.clone();
            options.arguments.extend(cluster.map(str::to_owned));
            options.arguments.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
            nodes.push(Redis::start(options).await?);
        }
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port()));
        let output = Command::new(REDIS_TOOLS.program)
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .context("can't run redis-cli")?;
        if !output.status.success() {
            bail!("redis-cli makes no cluster: {}", String::from_utf8_lossy(&output.stdout));
        }
        for node in &nodes {
            until(node.port(), &["CLUSTER", "INFO"], "cluster_state:ok").await?;
        }
        for replica in &nodes[MASTERS..] {
            // One that never had its master's data is not promoted.
            until(replica.port(), &["INFO", "replication"], "master_link_status:up").await?;
        }
        Ok(Self { nodes })
    }

    /// Its URL, with all nodes.
    pub fn url(&self) -> String {
        let mut ports = self.nodes.iter().map(Redis::port);
        let first = ports.next().unwrap_or_default();
        let others: Vec<String> = ports.map(|port| format!("node=127.0.0.1:{port}")).collect();
        format!("redis-cluster://127.0.0.1:{first}?{}", others.join("&"))
    }
}

/// Waits until a node's answer holds this text.
///
/// # Errors
/// It never does.
pub async fn until(port: u16, words: &[&str], text: &str) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let output = Command::new(REDIS_TOOLS.program).args(["-p", &port.to_string()]).args(words).output()?;
        let answer = String::from_utf8_lossy(&output.stdout);
        if answer.contains(text) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{words:?} never had {text:?}: {answer}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}
