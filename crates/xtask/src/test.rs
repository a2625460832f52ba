//! `cargo xtask test`: every check of the project, the fast ones first.

use std::{ffi::OsStr, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{
    cargo::cargo,
    deploy,
    packages::find_program,
    paths,
    services::{Kafka, KafkaOptions, Redis, RedisOptions, kafka, shared},
};

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Also what takes long: the system tests against every version of the servers, and the tool for the dependency
    /// check is installed if it isn't there.
    pub nightly: bool,
    /// Only tests whose name contains one of these, and no other checks.
    pub filters: Vec<String>,
}

/// Runs the checks until one fails.
///
/// # Errors
/// A check failed; the message has its name.
pub async fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    if options.filters.is_empty() {
        static_checks(options).await?;
    }
    let mut unit = cargo_command(["test", "--workspace", "--"]);
    step("unit tests", unit.args(&options.filters)).await?;
    if options.filters.is_empty() {
        simulation(options.nightly).await?;
    }
    let versions: &[&str] =
        if options.nightly { &kafka::VERSIONS } else { &kafka::VERSIONS[kafka::VERSIONS.len() - 1..] };
    for version in versions {
        system_tests(version, options).await?;
    }
    println!("all passed in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Seeded schedules of faults over the real pipeline, and the bugs that they must catch; the seeds are printed.
async fn simulation(nightly: bool) -> Result<()> {
    let seeds = if nightly { "1000000" } else { "20000" };
    let tests = ["test", "--workspace", "--test", "simulation", "--test", "teeth", "--", "--nocapture"];
    step(&format!("{seeds} simulated schedules"), cargo_command(tests).env("CONNECT_SEEDS", seeds)).await
}

async fn static_checks(options: &Options) -> Result<()> {
    components().await?;
    step("format", &mut cargo_command(["fmt", "--all", "--check"])).await?;
    let mut lint = cargo_command(["clippy", "--workspace", "--all-targets"]);
    step("clippy", lint.args(["--", "--deny", "warnings"])).await?;
    let mut docs = cargo_command(["doc", "--workspace", "--no-deps"]);
    step("docs", docs.env("RUSTDOCFLAGS", "--deny warnings")).await?;
    let begun = Instant::now();
    println!("── deploy");
    deploy::run(false).await.context("failed: deploy")?;
    done("deploy", begun);
    dependencies(options.nightly).await
}

/// rustfmt and clippy, which a minimal toolchain doesn't have.
async fn components() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = cargo_command([tool, "--version"]).output().await?;
        if !there.status.success() {
            let mut add = command("rustup");
            step(component, add.args(["component", "add", component]))
                .await
                .with_context(|| format!("install it with: rustup component add {component}"))?;
        }
    }
    Ok(())
}

/// Licences, sources and banned crates. The advisories aren't checked: their database is a git repository that a
/// build machine without access to it can't have; `cargo deny check advisories` does it where there is access.
async fn dependencies(install: bool) -> Result<()> {
    let tools = paths::target().join("tools");
    let own = tools.join("bin/cargo-deny");
    let program = find_program(&own).or_else(|| find_program(&PathBuf::from("cargo-deny")));
    let program = match program {
        Some(program) => program,
        None if install => {
            let mut add = cargo_command(["install", "cargo-deny", "--locked", "--root"]);
            step("installing cargo-deny", add.arg(&tools)).await?;
            own
        }
        None => {
            println!("dependencies: skipped, no cargo-deny; install it with: cargo xtask test --nightly");
            return Ok(());
        }
    };
    let mut check = command(program);
    check.args(["--all-features", "check", "licenses", "bans", "sources"]);
    step("dependencies", &mut check).await
}

/// The system tests of every run: Kafka, Redis and the connector between them. Those of Elasticsearch and Couchbase start
/// servers that need minutes and gigabytes: they run with `--nightly`, and whenever a filter names one of them.
const EVERY_RUN: [&str; 16] = [
    "kafka_rskafka",
    "kafka_source",
    "kafka_group",
    "services",
    "redis",
    "conformance",
    "effectively_once",
    "python_sdk",
    "system_configuration",
    "system_main_job",
    "system_records",
    "system_redis_faults",
    "system_kafka_faults",
    "system_drain",
    "system_health",
    "system_kill",
];

async fn system_tests(version: &str, options: &Options) -> Result<()> {
    let begun = Instant::now();
    let kafka = Kafka::start(KafkaOptions { version: Some(version.to_owned()), ..KafkaOptions::default() })
        .await
        .context("the servers for the system tests can't be started")?;
    let redis =
        Redis::start(RedisOptions::default()).await.context("the servers for the system tests can't be started")?;
    done("servers", begun);
    // `--tests` leaves out the examples in the documentation that are marked `ignore`. One test at a time: they
    // start and kill servers of their own, and a machine that is busy with several is what makes tests flaky.
    let mut tests = cargo_command(["test", "--workspace"]);
    if options.nightly || !options.filters.is_empty() {
        tests.arg("--tests");
    } else {
        tests.args(EVERY_RUN.iter().flat_map(|name| ["--test", name]));
    }
    tests
        .args(["--", "--ignored", "--test-threads=1"])
        .args(&options.filters)
        .env(shared::KAFKA_VARIABLE, kafka.bootstrap())
        .env(shared::REDIS_VARIABLE, redis.url())
        .env(kafka::VERSION_VARIABLE, version);
    step(&format!("system tests with Kafka {version}"), &mut tests).await
}

fn cargo_command<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::from(cargo());
    command.args(arguments).kill_on_drop(true);
    command
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(paths::workspace()).kill_on_drop(true);
    command
}

async fn step(name: &str, command: &mut Command) -> Result<()> {
    println!("── {name}");
    let begun = Instant::now();
    let status =
        command.status().await.with_context(|| format!("{name}: can't run {:?}", command.as_std().get_program()))?;
    if !status.success() {
        bail!("failed: {name} ({status})");
    }
    done(name, begun);
    Ok(())
}

fn done(name: &str, begun: Instant) {
    println!("── {name}: {:.1} s", begun.elapsed().as_secs_f64());
}
