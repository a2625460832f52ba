//! `demo --compose`: the main job in containers, for a machine with Docker where the servers can't be installed.
//!
//! It needs nothing but Docker: the connector is built in its image, and events go to the broker through the tool that comes
//! with it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use connect_testkit::scrape::Metrics;
use tokio::{io::AsyncWriteExt, process::Command, time::sleep};

use crate::{events::Events, interrupt::interrupted, paths};

const EVENTS: u64 = 100_000;
const USERS: u64 = 10_000;
/// Without progress for this long the connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// Which connector of `deploy/compose.yaml` is shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// The service of the connector; what it needs is started with it.
    pub connector: &'static str,
    /// The port of its metrics on this machine.
    pub port: u16,
    /// The service of the store, and the command there that shows what it holds of a user.
    pub look: &'static [&'static str],
}

/// Redis.
pub const REDIS: Shown =
    Shown { connector: "sink-redis", port: 9464, look: &["redis", "redis-cli", "GET", "user-000001"] };
/// Elasticsearch.
pub const ELASTICSEARCH: Shown = Shown {
    connector: "sink-elasticsearch",
    port: 9465,
    look: &["elasticsearch", "curl", "--silent", "localhost:9200/events/_doc/user-000001/_source"],
};
/// Couchbase.
pub const COUCHBASE: Shown = Shown {
    connector: "sink-couchbase",
    port: 9466,
    look: &[
        "couchbase",
        "cbc-cat",
        "--spec=couchbase://localhost/events",
        "--username=Administrator",
        "--password=password",
        "user-000001",
    ],
};

/// Starts what the connector needs, produces 100,000 events and waits until they are written. Everything is removed at the end,
/// which comes by itself if `once`, and else with Ctrl-C.
///
/// # Errors
/// Docker isn't there or fails, or not every event is written.
pub async fn run(shown: Shown, once: bool) -> Result<()> {
    run_with(Path::new("docker"), shown, EVENTS, once).await
}

async fn run_with(docker: &Path, shown: Shown, events: u64, once: bool) -> Result<()> {
    let version = Command::new(docker).args(["compose", "version"]).output().await;
    if !version.is_ok_and(|output| output.status.success()) {
        bail!("`docker compose version` fails: Docker with its compose plugin is needed, and nothing else");
    }
    let result = tokio::select! {
        biased;
        interrupted = interrupted() => interrupted,
        result = show(docker, shown, events, once) => result,
    };
    println!("removing the containers");
    let removed = docker_compose(docker, &["down", "--volumes"]).await;
    result.and(removed)
}

async fn show(docker: &Path, shown: Shown, events: u64, once: bool) -> Result<()> {
    println!("building {} and starting what it needs; that takes minutes, once", shown.connector);
    docker_compose(docker, &["up", "--build", "--detach", shown.connector]).await?;
    produce(docker, events).await?;
    println!("produced {events} events, waiting until they are written");
    let metrics = wait_until_written(shown, events).await?;
    println!("records read {}, written {}", metrics.read(), metrics.written());
    let look = [&["exec", "-T"], shown.look].concat();
    println!("\n$ docker compose --file deploy/compose.yaml {}", look.join(" "));
    docker_compose(docker, &look).await?;
    if !once {
        println!("\nCtrl-C stops everything");
        interrupted().await?;
    }
    Ok(())
}

/// A line for each event: its key, a tabulator, its value.
async fn produce(docker: &Path, events: u64) -> Result<()> {
    let arguments = [
        "exec",
        "-T",
        "kafka",
        "/opt/kafka/bin/kafka-console-producer.sh",
        "--bootstrap-server=kafka:9092",
        "--topic=events",
        "--property=parse.key=true",
    ];
    let mut producer = command(docker, &arguments).stdin(Stdio::piped()).spawn().context("can't run docker")?;
    let mut input = producer.stdin.take().context("no input")?;
    let stream = Events::new(1, USERS, Utc::now());
    for number in 0..events {
        let line = format!("{}\t{}\n", Events::key(stream.user(number)), stream.value(number));
        input.write_all(line.as_bytes()).await.context("the producer in the container ended")?;
    }
    drop(input);
    let status = producer.wait().await?;
    if !status.success() {
        bail!("the producer in the container ended with {status}, see above");
    }
    Ok(())
}

async fn wait_until_written(shown: Shown, events: u64) -> Result<Metrics> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, shown.port));
    let (mut written, mut progress) = (0, Instant::now());
    loop {
        // While the container starts nobody answers, or its proxy without a word.
        let metrics = Metrics::scrape(address).await.unwrap_or_default();
        if metrics.written() >= events {
            return Ok(metrics);
        }
        if metrics.written() > written {
            (written, progress) = (metrics.written(), Instant::now());
        }
        if progress.elapsed() > STUCK_AFTER {
            let logs = format!("docker compose --file deploy/compose.yaml logs {}", shown.connector);
            bail!("only {written} of {events} events were written; look at `{logs}`");
        }
        sleep(POLL).await;
    }
}

async fn docker_compose(docker: &Path, arguments: &[&str]) -> Result<()> {
    let status = command(docker, arguments).status().await.context("can't run docker")?;
    if !status.success() {
        bail!("docker compose {} ended with {status}, see above", arguments.join(" "));
    }
    Ok(())
}

fn command(docker: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(docker);
    command.current_dir(paths::workspace()).args(["compose", "--file", "deploy/compose.yaml"]).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// In place of Docker: writes down how it is called, and counts the lines that it is given.
    const DOCKER: &str = r#"#!/bin/sh
echo "$@" >> "$0.calls"
case "$*" in *producer*) wc -l > "$0.lines";; *no-such-service*) exit 1;; esac
"#;

    fn docker(directory: &Path) -> std::path::PathBuf {
        let (text, program) = (directory.join("docker.sh"), directory.join("docker"));
        fs::write(&text, DOCKER).unwrap();
        // Written by another process: a child that another test starts while we have the program open for writing has it open,
        // too, and then it can't be run ("text file busy").
        let mut install = std::process::Command::new("install");
        assert!(install.args(["-m", "755"]).args([&text, &program]).status().unwrap().success());
        program
    }

    #[tokio::test]
    async fn everything_that_is_started_is_removed_again() {
        let directory = tempfile::tempdir().unwrap();
        let docker = docker(directory.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await.unwrap();
            let body = "connect_records_total{outcome=\"written\"} 250\n";
            stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).await.unwrap();
        });
        run_with(&docker, Shown { port, ..REDIS }, 250, true).await.unwrap();
        let calls = fs::read_to_string(directory.path().join("docker.calls")).unwrap();
        let verbs: Vec<_> = calls.lines().map(|line| line.split(' ').nth(3).unwrap_or_default()).collect();
        assert_eq!(verbs, ["", "up", "exec", "exec", "down"], "{calls}");
        assert_eq!(fs::read_to_string(directory.path().join("docker.lines")).unwrap().trim(), "250");
    }

    #[tokio::test]
    async fn what_failed_to_start_is_removed_too() {
        let directory = tempfile::tempdir().unwrap();
        let docker = docker(directory.path());
        let error = run_with(&docker, Shown { connector: "no-such-service", ..REDIS }, 1, true).await.unwrap_err();
        assert!(error.to_string().contains("no-such-service"), "{error}");
        let calls = fs::read_to_string(directory.path().join("docker.calls")).unwrap();
        assert!(calls.trim_end().ends_with("down --volumes"), "{calls}");
    }

    #[tokio::test]
    async fn without_docker_that_is_said() {
        let error = run_with(Path::new("/no/such/docker"), REDIS, 1, true).await.unwrap_err();
        assert!(error.to_string().contains("Docker with its compose plugin"), "{error}");
    }

    #[test]
    fn the_services_and_ports_are_those_of_the_file() {
        let file = fs::read_to_string(paths::workspace().join("deploy/compose.yaml")).unwrap();
        for shown in [REDIS, ELASTICSEARCH, COUCHBASE] {
            for service in [shown.connector, shown.look[0]] {
                assert!(file.contains(&format!("\n  {service}:\n")), "{service}");
            }
            let connector = file.split(&format!("\n  {}:\n", shown.connector)).nth(1).unwrap();
            let ports = connector.lines().find(|line| line.contains("ports:")).unwrap();
            assert!(ports.contains(&format!("127.0.0.1:{}:9464", shown.port)), "{ports}");
        }
    }
}
