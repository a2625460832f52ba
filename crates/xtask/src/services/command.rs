//! `cargo xtask services up | down | status`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    couchbase::{Couchbase, CouchbaseOptions},
    elasticsearch::{Elasticsearch, ElasticsearchOptions},
    kafka::{Kafka, KafkaOptions},
    redis::{Redis, RedisOptions},
    server::STOP_WITHIN,
    state::{Entry, State},
};
use crate::{
    lock::Lock,
    paths,
    process::{Lifetime, stop_stranger},
};

fn state_file() -> PathBuf {
    paths::services().join("state.json")
}

fn lock() -> Result<Lock> {
    Lock::acquire(&paths::services().join("state.lock"), "cargo xtask services")
}

/// Starts what doesn't run yet, apart from the terminal, and prints how to reach it. Elasticsearch takes a minute and a
/// gigabyte, so it is started only when asked for.
///
/// # Errors
/// A server can't be obtained or started. What started before stays and is in the list.
pub async fn up(elasticsearch: bool) -> Result<()> {
    let _lock = lock()?;
    let path = state_file();
    let mut state = State::read(&path)?;
    if state.alive("kafka").is_none() {
        println!("starting Kafka");
        let options = KafkaOptions { directory: Some(empty_directory("kafka")?), ..KafkaOptions::default() };
        let kafka = Kafka::start_for(options, Lifetime::Detached).await?;
        let variable = ("CONNECT_KAFKA_BROKERS".to_owned(), kafka.bootstrap());
        add(&mut state, &path, "kafka", variable, kafka.release()?)?;
    }
    if state.alive("redis").is_none() {
        println!("starting Redis");
        let options = RedisOptions { directory: Some(empty_directory("redis")?), ..RedisOptions::default() };
        let redis = Redis::start_for(options, Lifetime::Detached).await?;
        let variable = ("CONNECT_REDIS_URL".to_owned(), redis.url());
        add(&mut state, &path, "redis", variable, redis.release()?)?;
    }
    if elasticsearch && state.alive("elasticsearch").is_none() {
        println!("starting Elasticsearch");
        let directory = Some(empty_directory("elasticsearch")?);
        let options = ElasticsearchOptions { directory, ..ElasticsearchOptions::default() };
        let server = Elasticsearch::start_for(options, Lifetime::Detached).await?;
        let variable = ("CONNECT_ELASTICSEARCH_URLS".to_owned(), server.url());
        add(&mut state, &path, "elasticsearch", variable, server.release()?)?;
    }
    if state.alive("couchbase").is_none() {
        println!("starting Couchbase (the in-memory test server of this project)");
        let options =
            CouchbaseOptions { directory: Some(empty_directory("couchbase")?), ..CouchbaseOptions::default() };
        let couchbase = Couchbase::start_for(options, Lifetime::Detached).await?;
        let variable = ("CONNECT_COUCHBASE_URL".to_owned(), couchbase.url());
        add(&mut state, &path, "couchbase", variable, couchbase.release()?)?;
    }
    print(&state);
    println!("\nto point a connector at them:");
    for entry in &state.servers {
        println!("export {}={}", entry.variable.0, entry.variable.1);
    }
    println!("\nto stop them and remove their data: cargo xtask services down");
    Ok(())
}

/// Stops the servers that `up` started, no others, and removes their data.
///
/// # Errors
/// A server can't be stopped; it stays in the list.
pub async fn down() -> Result<()> {
    let _lock = lock()?;
    let path = state_file();
    let mut state = State::read(&path)?;
    if state.servers.is_empty() {
        println!("no servers");
    }
    while let Some(entry) = state.servers.last() {
        let running = &entry.running;
        stop_stranger(running.pid, running.started, STOP_WITHIN)
            .await
            .with_context(|| format!("can't stop {}", entry.name))?;
        remove(&running.directory)?;
        println!("stopped {}", entry.name);
        state.servers.pop();
        state.write(&path)?;
    }
    Ok(())
}

/// Lists the servers that `up` started.
///
/// # Errors
/// The list can't be read.
pub fn status() -> Result<()> {
    let state = State::read(&state_file())?;
    if state.servers.is_empty() {
        println!("no servers; start them with: cargo xtask services up");
    }
    print(&state);
    Ok(())
}

fn print(state: &State) {
    for entry in &state.servers {
        let running = &entry.running;
        let condition = if running.is_alive() { "running" } else { "ended" };
        println!(
            "{:<13} {condition:<8} process {:<8} {:<26} {}",
            entry.name,
            running.pid,
            entry.variable.1,
            running.directory.display()
        );
    }
}

fn add(
    state: &mut State,
    path: &Path,
    name: &str,
    variable: (String, String),
    running: super::state::Running,
) -> Result<()> {
    // One of that name that has ended is replaced.
    state.servers.retain(|entry| entry.name != name);
    state.servers.push(Entry { name: name.to_owned(), variable, running });
    state.write(path)
}

fn empty_directory(name: &str) -> Result<PathBuf> {
    let directory = paths::services().join("up").join(name);
    remove(&directory)?;
    Ok(directory)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("can't remove {}", directory.display()))?;
    }
    Ok(())
}
