//! `cargo xtask`: the project's tasks, each of which does its own set-up.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand, ValueEnum};
use xtask::{bench, cargo::cargo, demo, deploy, fuzz, interrupt::interrupted, services, soak, test};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks; each does its own set-up")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Watch the main job: events flow from Kafka into a store
    Demo {
        #[arg(value_enum, default_value = "redis")]
        store: Store,
        /// Produce 100,000 events, check every key in the store, and end
        #[arg(long)]
        once: bool,
        /// Events a second
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "once")]
        rate: u32,
        /// In containers, by deploy/compose.yaml: where there is Docker, and neither Java nor apt
        #[arg(long, conflicts_with = "rate")]
        compose: bool,
    },
    /// Run every check: format, lints, docs, the files for Kubernetes, unit tests, system tests against real servers
    Test {
        /// Also what takes long: every version of the servers, the dependency check, fuzzing
        #[arg(long)]
        nightly: bool,
        /// Only tests with one of these in their name
        filters: Vec<String>,
    },
    /// Run all connectors together at a steady rate, and see that they keep count and do not grow
    Soak {
        /// How long, as in 2m or 1h
        #[arg(long = "for", default_value = "2m", value_parser = humantime::parse_duration)]
        length: Duration,
        /// Records a second
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
        /// Directory with the connectors' binaries, such as target/release; those that the tests run if not given
        #[arg(long)]
        binaries: Option<PathBuf>,
    },
    /// Feed hostile bytes to the decoders
    Fuzz {
        /// How long each target is run, as in 60s or 1h
        #[arg(long = "for", default_value = "60s", value_parser = humantime::parse_duration)]
        length: Duration,
    },
    /// The test servers, for a person who develops
    #[command(subcommand)]
    Services(Services),
    /// Check the files for containers and Kubernetes: chart, alerts, dashboard, image
    Deploy {
        /// Only make the generated part of the chart's schema anew, from docs/configuration.md
        #[arg(long)]
        write: bool,
        /// Only build what the images hold, and let it write real topics as a pod would; needs root
        #[arg(long, conflicts_with = "write")]
        contents: bool,
    },
    /// Measure a connector against the limits of this machine
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Clone, ValueEnum)]
enum Store {
    Redis,
    /// examples/clickstream-cache: sessions in Redis, answered over HTTP, beside the same from the topic
    Clickstream,
    Elasticsearch,
    /// The in-memory test server of this project: there is no package of the real one
    Couchbase,
}

impl Store {
    fn in_containers(&self) -> Result<demo::compose::Shown> {
        match self {
            Self::Redis => Ok(demo::compose::REDIS),
            Self::Elasticsearch => Ok(demo::compose::ELASTICSEARCH),
            Self::Couchbase => Ok(demo::compose::COUCHBASE),
            Self::Clickstream => {
                Err(anyhow!("no image of examples/clickstream-cache is made: run it without --compose"))
            }
        }
    }
}

#[derive(Subcommand)]
enum Services {
    /// Start Kafka, Redis and a Couchbase test server on loopback, apart from this terminal
    Up {
        /// And Elasticsearch, which takes a minute
        #[arg(long)]
        elasticsearch: bool,
    },
    /// Stop them and remove their data
    Down,
    /// List them
    Status,
}

#[derive(Subcommand)]
enum Bench {
    /// sink-redis: a million records of 200 B, 4 partitions, 100,000 keys
    Redis,
    /// sink-elasticsearch: 300,000 such records, beside a loop that posts prebuilt bulk bodies
    Elasticsearch,
    /// sink-couchbase: 200,000 records of 200 B, beside a bare loop over the official crate
    Couchbase,
    /// Each connector: size, memory, how fast it comes and goes
    Footprint,
    /// sink-redis: processes of one group come and go with the lag, as KEDA's pods do
    Autoscaling,
    /// sink-redis: a thousand partitions, idle and with ten records a second each
    Partitions,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        // Its containers are to be removed after an interrupt, too.
        Task::Demo { store, once, compose: true, .. } => {
            async { demo::compose::run(store.in_containers()?, once).await }.await
        }
        // The live demo waits for the interrupt itself, to let the connector drain.
        Task::Demo { store: Store::Redis, once: false, rate, .. } => demo::live::<demo::Redis>(rate).await,
        Task::Demo { store: Store::Couchbase, once: false, rate, .. } => demo::live::<demo::Couchbase>(rate).await,
        // Dropping a task stops what it has started.
        task => tokio::select! {
            biased;
            _ = interrupted() => Err(anyhow!("interrupted")),
            result = run(task) => result,
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo { store: Store::Clickstream, .. } => demo::clickstream().await,
        Task::Demo { store: Store::Elasticsearch, .. } => demo::elasticsearch().await,
        Task::Demo { store: Store::Redis, once: true, .. } => demo::once::<demo::Redis>().await,
        Task::Demo { store: Store::Redis, rate, .. } => demo::live::<demo::Redis>(rate).await,
        Task::Demo { store: Store::Couchbase, once: true, .. } => demo::once::<demo::Couchbase>().await,
        Task::Demo { store: Store::Couchbase, rate, .. } => demo::live::<demo::Couchbase>(rate).await,
        Task::Test { nightly, filters } => test::run(&test::Options { nightly, filters }).await,
        Task::Soak { length, rate, binaries } => soak::run(&soak::Options { length, rate, binaries }).await,
        Task::Fuzz { length } => fuzz::run(length).await,
        Task::Services(Services::Up { elasticsearch }) => services::command::up(elasticsearch).await,
        Task::Services(Services::Down) => services::command::down().await,
        Task::Services(Services::Status) => services::command::status(),
        Task::Bench(bench) => measure(bench).await,
        Task::Deploy { contents: true, .. } => deploy::contents::check().await,
        Task::Deploy { write, .. } => deploy::run(write).await,
    }
}

/// The plain read is done by this program, and a slow limit would flatter the connector: so it is a release build too.
async fn measure(bench: Bench) -> Result<()> {
    let store = match bench {
        Bench::Redis if !cfg!(debug_assertions) => return bench::redis::run().await,
        Bench::Elasticsearch if !cfg!(debug_assertions) => return bench::elasticsearch::run().await,
        Bench::Couchbase if !cfg!(debug_assertions) => return bench::couchbase::run().await,
        // These measure other programs, so it matters little how this one is built.
        Bench::Autoscaling => return bench::autoscaling::run().await,
        Bench::Footprint => return bench::footprint::run().await,
        Bench::Partitions => return bench::partitions::run().await,
        Bench::Redis => "redis",
        Bench::Elasticsearch => "elasticsearch",
        Bench::Couchbase => "couchbase",
    };
    let status = cargo()
        .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
        .args(["bench", store])
        .status()
        .context("can't run cargo")?;
    std::process::exit(status.code().unwrap_or(1));
}
